//! etcd's Maintenance service: state, hash, leadership.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use holdfast_mvcc as mvcc;
use holdfast_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, HashKvRequest, HashKvResponse,
    MoveLeaderRequest, MoveLeaderResponse, StatusRequest, StatusResponse,
    alarm_request::AlarmAction, maintenance_server::Maintenance,
};
use tonic::{Request, Response, Status};

use super::{
    context::{self, ServiceContext},
    reads::{self, LargeReads},
    status,
};
use crate::{
    group::{Group, HandOverError},
    limits,
    raft::{Broken, NodeId},
};

/// Serves etcd's Maintenance API.
pub(super) struct MaintenanceService {
    context: Arc<ServiceContext>,
    reads: Arc<LargeReads>,
}

impl MaintenanceService {
    pub(super) fn new(context: Arc<ServiceContext>, reads: Arc<LargeReads>) -> Self {
        Self { context, reads }
    }

    /// What is wrong with nodes of the group, as far as this one knows.
    fn alarms(&self, group: &Group) -> Vec<AlarmMember> {
        let this = self.context.config.node.id;
        let room = group.raft().room();
        let mut short = room.short_peers();
        if group.leadership().borrow().leader != Some(this) {
            short.clear();
        }
        if room.is_short() {
            short.insert(this);
        }
        alarms(short, &group.raft().broken_promises())
    }
}

/// - NOSPACE: the disk of the node is nearly full. A node knows it of itself, and where it leads of its
///   followers.
/// - CORRUPT: the log of the node lacks what it had confirmed to this one as its leader.
fn alarms(short: BTreeSet<NodeId>, broken: &[Broken]) -> Vec<AlarmMember> {
    let of = |alarm: AlarmType| {
        move |member_id| AlarmMember {
            member_id,
            alarm: alarm.into(),
        }
    };
    let short = short.into_iter().map(of(AlarmType::Nospace));
    let broken = broken.iter().map(|broken| broken.node);
    short.chain(broken.map(of(AlarmType::Corrupt))).collect()
}

/// Hands a leadership over on behalf of a client, and tells the new leader.
pub(super) async fn hand_over(
    group: &Group,
    to: Option<u64>,
    deadline: Instant,
) -> Result<u64, Status> {
    let deadline = deadline.min(Instant::now() + limits::HAND_OVER_REQUEST_MAX);
    group.hand_over(to, deadline).await.map_err(|e| match e {
        HandOverError::NotLeader(_) => status::not_leader(),
        HandOverError::NotAVoter(_) => status::bad_transferee(),
        HandOverError::NobodyReady(_) | HandOverError::TimedOut => {
            Status::unavailable(format!("holdfast: {e}"))
        }
    })
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let group = self.context.group(&request).await?;
        if request.get_ref().action() == AlarmAction::Activate {
            return Err(status::unsupported("raising an alarm by hand"));
        }
        // An alarm goes when its cause goes, so there is none to clear.
        let asked = request.get_ref();
        let mut alarms = match asked.action() {
            AlarmAction::Get => self.alarms(&group),
            _ => Vec::new(),
        };
        if asked.alarm() != AlarmType::None {
            alarms.retain(|alarm| alarm.alarm == asked.alarm);
        }
        let term = group.leadership().borrow().term;
        Ok(Response::new(AlarmResponse {
            header: Some(self.context.header(group.read().0.revisions.current, term)),
            alarms,
        }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        if let Some(why) = self.context.stays_out.read().clone() {
            return Ok(Response::new(StatusResponse {
                header: Some(self.context.header(0, 0)),
                version: env!("CARGO_PKG_VERSION").to_string(),
                errors: vec![format!("holdfast: this node stays out: {why}")],
                ..StatusResponse::default()
            }));
        }
        let group = self.context.group(&request).await?;
        let leader = self.context.leader(&group).await;
        let state = group.status();
        let published = group.read().0;
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let sized = group.clone();
        // It looks into tables, which may be on the disk.
        let size = tokio::task::spawn_blocking(move || sized.raft().shared().store().size_bytes());
        let size = size.await.map_err(|e| Status::internal(e.to_string()))?;
        let size = size.map_err(|e| Status::internal(format!("holdfast: {e}")))?;
        let mut errors = Vec::new();
        if let Some(why) = &state.leadership.stopped {
            errors.push(format!("holdfast: the group has stopped: {why}"));
        } else if leader.is_none() {
            errors.push("etcdserver: no leader".to_string());
        }
        let alarms = self.alarms(&group).into_iter();
        // As etcd writes an alarm out.
        errors.extend(alarms.map(|alarm| {
            let (id, alarm) = (alarm.member_id, alarm.alarm().as_str_name());
            format!("memberID:{id} alarm:{alarm} ")
        }));
        let broken = group.raft().broken_promises();
        errors.extend(broken.iter().map(|broken| format!("holdfast: {broken}")));
        let term = state.leadership.term;
        Ok(Response::new(StatusResponse {
            header: Some(self.context.header(published.revisions.current, term)),
            version: env!("CARGO_PKG_VERSION").to_string(),
            db_size: bytes(size),
            // Nothing tells which of it a compaction would give back.
            db_size_in_use: bytes(size),
            leader: leader.unwrap_or(0),
            raft_index: state.committed_index,
            raft_term: term,
            raft_applied_index: published.index.unwrap_or(0),
            errors,
            is_learner: !state.voters.contains(&self.context.config.node.id),
            storage_version: String::new(),
            db_size_quota: 0,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let group = self.context.group(&request).await?;
        let at = request.get_ref().revision;
        let hashed = {
            let group = group.clone();
            // Everything is read: not on a thread that serves requests.
            self.reads.run(move |reading| {
                let (published, view, _pin) = group.read_pinned();
                let hashed = mvcc::hash(&reading.of(&view), published.revisions, at);
                hashed.map(|(hash, at)| (hash, at, published.revisions))
            })
        };
        let (hash, hash_revision, revisions) = hashed.await?.0.map_err(|e| reads::refused(&e))?;
        let term = group.leadership().borrow().term;
        Ok(Response::new(HashKvResponse {
            header: Some(self.context.header(revisions.current, term)),
            hash,
            compact_revision: revisions.compact,
            hash_revision,
        }))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let group = self.context.group(&request).await?;
        let deadline = context::deadline(request.metadata());
        let to = request.get_ref().target_id;
        hand_over(&group, Some(to), deadline).await?;
        let term = group.leadership().borrow().term;
        Ok(Response::new(MoveLeaderResponse {
            header: Some(self.context.header(group.read().0.revisions.current, term)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Reach;

    #[test]
    fn a_node_without_room_and_one_that_lost_entries_are_told_apart() {
        let lost = Broken {
            node: 3,
            group: 1,
            promised: Reach { term: 2, index: 9 },
            conflict: 5,
        };
        let alarm = |member_id, alarm: AlarmType| AlarmMember {
            member_id,
            alarm: alarm.into(),
        };
        let nospace = |node| alarm(node, AlarmType::Nospace);
        let corrupt = |node| alarm(node, AlarmType::Corrupt);
        assert_eq!(alarms([].into(), &[]), []);
        assert_eq!(
            alarms([1, 3].into(), &[lost]),
            [nospace(1), nospace(3), corrupt(3)]
        );
    }
}
