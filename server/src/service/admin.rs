//! The administrative API: nodes, zones, groups.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use holdfast_proto::v1::{
    self, DebugCreateGroupsRequest, DebugCreateGroupsResponse, DebugDropGroupsRequest,
    DebugDropGroupsResponse, DebugStartGroupsRequest, DebugStartGroupsResponse,
    DebugStopGroupsRequest, DebugStopGroupsResponse, GroupsRequest, GroupsResponse, NodesRequest,
    NodesResponse, PeerState, PeersRequest, PeersResponse, TransferLeaderRequest,
    TransferLeaderResponse, WatchGroupsRequest, admin_server::Admin,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    context::{self, ServiceContext},
    maintenance, status,
};
use crate::{
    detector::{Evidence, Part, Report, State},
    group::Group,
    keyspace::{self, Assignment, Lifecycle, LifecycleError},
    raft::{GroupId, NodeId},
};

/// Time between two looks at groups that may have been added, and at the leadership of all.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// File in the data directory that lets groups be created and dropped from outside.
const ALLOWS_DEBUG_GROUPS: &str = "debug-groups";

/// Serves the administrative API.
pub(super) struct AdminService {
    context: Arc<ServiceContext>,
}

impl AdminService {
    pub(super) fn new(context: Arc<ServiceContext>) -> Self {
        Self { context }
    }

    /// Whoever starts and drops groups, if that is allowed from outside: a file says so, which only
    /// somebody makes who may write to the data directory.
    fn lifecycle(&self) -> Result<&Arc<dyn Lifecycle>, Status> {
        let allowed = self.context.data.path().join(ALLOWS_DEBUG_GROUPS);
        if !allowed.exists() {
            return Err(Status::failed_precondition(format!(
                "holdfast: groups are created and dropped from outside in tests and measurements only; \
                 there is no file {} that allows it",
                allowed.display()
            )));
        }
        let owner = self.context.lifecycle.get();
        owner.ok_or_else(|| Status::unavailable("holdfast: the node is starting"))
    }
}

fn lifecycle_failed(e: LifecycleError) -> Status {
    let why = format!("holdfast: {e}");
    match e {
        LifecycleError::NotRunning(_) => Status::unavailable(why),
        LifecycleError::Refused { .. } => Status::failed_precondition(why),
        LifecycleError::Stopping { .. } => Status::unavailable(why),
        LifecycleError::Unknown(_) => Status::not_found(why),
        LifecycleError::Failed(_) => Status::internal(why),
    }
}

fn groups(context: &ServiceContext) -> GroupsResponse {
    let groups = context.keyspaces.all();
    GroupsResponse {
        node_id: context.config.node.id,
        log_syncs: groups.first().map_or(0, |group| group.log_syncs()),
        groups: groups.iter().map(|g| describe(g)).collect(),
        stays_out_because: context.stays_out.read().clone().unwrap_or_default(),
        next_group_id: context.lifecycle.get().map_or(0, |owner| owner.next_id()),
    }
}

/// Leader, term and readiness of a group: what those who watch are told the changes of.
type Shape = (GroupId, Option<NodeId>, u64, Option<String>);

/// What a change of is told: taken often, so nothing else is looked at.
fn shape(context: &ServiceContext) -> (Vec<Shape>, Option<String>) {
    let groups = context.keyspaces.all().into_iter().map(|group| {
        let leader = group.proven_leader();
        let leadership = group.leadership();
        let leadership = leadership.borrow();
        (
            group.id(),
            leader,
            leadership.term,
            leadership.stopped.clone(),
        )
    });
    (groups.collect(), context.stays_out.read().clone())
}

fn describe(group: &Group) -> v1::Group {
    let state = group.status();
    let published = group.read().0;
    let (first_log_index, durable_applied_index) = group.log_bounds();
    v1::Group {
        id: group.id(),
        keyspace: group.keyspace().to_string(),
        leader: group.proven_leader().unwrap_or(0),
        term: state.leadership.term,
        voters: state.voters,
        last_log_index: state.last_log_index,
        committed_index: state.committed_index,
        applied_index: published.index.unwrap_or(0),
        durable_applied_index,
        first_log_index,
        revision: published.revisions.current,
        compact_revision: published.revisions.compact,
        stopped_because: state.leadership.stopped.unwrap_or_default(),
        snapshots_installed: group.raft().shared().snapshots_installed(),
        version: published.version,
    }
}

fn millis(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn micros(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

fn peer(report: &Report) -> v1::Peer {
    let (state, part) = match report.state {
        State::NotMet => (PeerState::NotMet, ""),
        State::Alive => (PeerState::Alive, ""),
        State::Sick(Part::LogSync) => (PeerState::Sick, "log-sync"),
        State::Sick(Part::Apply) => (PeerState::Sick, "apply"),
        State::Sick(Part::EventLoop) => (PeerState::Sick, "event-loop"),
        State::Suspected(Evidence::Silent) => (PeerState::Silent, ""),
        State::Suspected(Evidence::Gone) => (PeerState::Gone, ""),
    };
    v1::Peer {
        node_id: report.node,
        state: state.into(),
        since_ms: millis(report.since),
        stalled_part: part.to_owned(),
        round_trip_us: micros(report.round_trip),
        patience_ms: millis(report.patience),
        heard_ms: millis(report.heard),
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn nodes(&self, _: Request<NodesRequest>) -> Result<Response<NodesResponse>, Status> {
        let identity = self.context.data.identity();
        let members = self.context.config.cluster.members.iter();
        Ok(Response::new(NodesResponse {
            cluster_id: identity.cluster_id,
            nodes: members
                .map(|member| v1::Node {
                    id: member.id,
                    zone: member.zone.clone(),
                    client_url: member.client_url.clone(),
                    peer_url: member.peer_url.clone(),
                    answering: member.id == identity.node_id,
                })
                .collect(),
        }))
    }

    async fn groups(&self, _: Request<GroupsRequest>) -> Result<Response<GroupsResponse>, Status> {
        Ok(Response::new(groups(&self.context)))
    }

    async fn peers(&self, _: Request<PeersRequest>) -> Result<Response<PeersResponse>, Status> {
        let reports = self.context.reporter.report();
        Ok(Response::new(PeersResponse {
            node_id: self.context.config.node.id,
            peers: reports.iter().map(peer).collect(),
        }))
    }

    type WatchGroupsStream = Pin<Box<dyn Stream<Item = Result<GroupsResponse, Status>> + Send>>;

    async fn watch_groups(
        &self,
        _: Request<WatchGroupsRequest>,
    ) -> Result<Response<Self::WatchGroupsStream>, Status> {
        let context = self.context.clone();
        let (tx, rx) = mpsc::channel(4);
        let mut stopping = self.context.stopping.subscribe();
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let now = shape(&context);
                if told.as_ref() != Some(&now) {
                    told = Some(now);
                    if tx.send(Ok(groups(&context))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                    () = tx.closed() => return,
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn debug_create_groups(
        &self,
        request: Request<DebugCreateGroupsRequest>,
    ) -> Result<Response<DebugCreateGroupsResponse>, Status> {
        let members = &self.context.config.cluster.members;
        let groups = request.into_inner().groups.into_iter();
        let groups = groups.map(|group| Assignment {
            id: group.id,
            keyspace: group.keyspace,
            voters: match group.voters.is_empty() {
                true => members.iter().map(|member| member.id).collect(),
                false => group.voters,
            },
        });
        let created = self.lifecycle()?.create(groups.collect());
        created.await.map_err(lifecycle_failed)?;
        Ok(Response::new(DebugCreateGroupsResponse {}))
    }

    async fn debug_drop_groups(
        &self,
        request: Request<DebugDropGroupsRequest>,
    ) -> Result<Response<DebugDropGroupsResponse>, Status> {
        let dropped = self.lifecycle()?.drop_groups(request.into_inner().ids);
        dropped.await.map_err(lifecycle_failed)?;
        Ok(Response::new(DebugDropGroupsResponse {}))
    }

    async fn debug_stop_groups(
        &self,
        request: Request<DebugStopGroupsRequest>,
    ) -> Result<Response<DebugStopGroupsResponse>, Status> {
        let stopped = self.lifecycle()?.stop(request.into_inner().ids);
        stopped.await.map_err(lifecycle_failed)?;
        Ok(Response::new(DebugStopGroupsResponse {}))
    }

    async fn debug_start_groups(
        &self,
        request: Request<DebugStartGroupsRequest>,
    ) -> Result<Response<DebugStartGroupsResponse>, Status> {
        let started = self.lifecycle()?.start(request.into_inner().ids);
        started.await.map_err(lifecycle_failed)?;
        Ok(Response::new(DebugStartGroupsResponse {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let request = request.into_inner();
        let name = match request.keyspace.as_str() {
            "" => keyspace::DEFAULT,
            name => name,
        };
        let group = self
            .context
            .keyspaces
            .by_name(name)
            .ok_or_else(|| status::unknown_keyspace(name))?;
        let to = Some(request.to_node).filter(|node| *node != 0);
        let leader = maintenance::hand_over(&group, to, deadline).await?;
        Ok(Response::new(TransferLeaderResponse { leader }))
    }
}
