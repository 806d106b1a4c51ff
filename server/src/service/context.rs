//! What every service of a node needs, and what every request is asked first.

#[cfg(test)]
mod fuzz;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use holdfast_proto::{
    command::{Command, command::Op},
    etcdserverpb::ResponseHeader,
    metadata::{CLIENT_ID, HAS_LEADER, KEYSPACE, REQUEST_SEQ, RETRY},
};
use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::{Request, Status, metadata::MetadataMap};

use super::{deadline, status};
use crate::{
    config::Config,
    detector::Reporter,
    group::{Group, GroupError},
    identity::DataDir,
    keyspace::{self, Keyspaces, Lifecycle},
    limits::{self, REQUEST_TIMEOUT_DEFAULT},
};

/// The authority that a request was sent to, put beside it by the server.
#[derive(Clone, Debug)]
pub(super) struct Authority(http::uri::Authority);

impl Authority {
    /// That of a request for `uri`, if it may name a keyspace: the name of a host, of more than one label.
    pub(super) fn of(uri: &http::Uri) -> Option<Self> {
        let authority = uri.authority()?;
        let host = authority.host();
        let names = host.contains('.') && host.parse::<std::net::Ipv4Addr>().is_err();
        names.then(|| Authority(authority.clone()))
    }

    /// The first label of the host.
    fn label(&self) -> Option<&str> {
        let (label, _) = self.0.host().split_once('.')?;
        Some(label)
    }
}

/// What every service of a node needs.
pub struct ServiceContext {
    /// Configuration of the node.
    pub config: Config,
    /// Its data directory, which tells who it is.
    pub data: Arc<DataDir>,
    /// The keyspaces that run on it.
    pub keyspaces: Arc<Keyspaces>,
    /// Why the node stays out of its cluster, once it does.
    pub stays_out: Arc<RwLock<Option<String>>>,
    /// What the failure detector sees of the other nodes.
    pub reporter: Reporter,
    /// True once the node takes no more requests: streams without an end of their own end then.
    pub stopping: watch::Sender<bool>,
    /// Starts and drops groups; set before the node takes part.
    pub lifecycle: OnceLock<Arc<dyn Lifecycle>>,
}

/// Who sends a write, for the retry table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RetryId {
    client_id: Bytes,
    seq: u64,
    retried: bool,
}

impl RetryId {
    /// The command that this request asks for.
    pub(super) fn command(self, op: Op) -> Command {
        Command {
            client_id: self.client_id,
            request_seq: self.seq,
            retried: self.retried,
            op: Some(op),
            ..Default::default()
        }
    }
}

impl ServiceContext {
    /// Gives the services a hand on the groups of the node. Once.
    pub fn set_lifecycle(&self, lifecycle: Arc<dyn Lifecycle>) {
        let first = self.lifecycle.set(lifecycle).is_ok();
        assert!(first, "a node has one owner of its groups");
    }

    /// The group that a request is for.
    pub(super) async fn group<T: Sync>(&self, request: &Request<T>) -> Result<Arc<Group>, Status> {
        let authority = request.extensions().get::<Authority>();
        let group = match request.metadata().get(KEYSPACE) {
            Some(name) => {
                let name = name
                    .to_str()
                    .map_err(|_| status::bad_metadata(KEYSPACE, "it is not ASCII"))?;
                if name == keyspace::SYSTEM {
                    return Err(status::reserved_keyspace(name));
                }
                self.keyspaces
                    .by_name(name)
                    .ok_or_else(|| self.unknown_keyspace(name))?
            }
            None => {
                let label = authority.and_then(Authority::label);
                match label.filter(|label| *label != keyspace::SYSTEM) {
                    Some(name) => match self.keyspaces.by_name(name) {
                        Some(group) => group,
                        // It exists, so no other may be taken for it.
                        None if self.does_not_run(name) => return Err(self.unknown_keyspace(name)),
                        None => self.default_group()?,
                    },
                    None => self.default_group()?,
                }
            }
        };
        // A node of etcd forgets its leader after an election timeout, so a proof of that age will do:
        // clients that send this with every request do not cost a round of the leader each.
        if wants_leader(request.metadata())
            && !group.led_within(limits::LEADER_PROOF_AGE_MAX)
            && self.leader(&group).await.is_none()
        {
            return Err(status::no_leader());
        }
        Ok(group)
    }

    /// The leader of a group as clients are told of it: one that a quorum follows.
    ///
    /// Where etcd's nodes forget a leader after an election timeout, those here go on naming the
    /// one of the last term until another is elected, and a leader without its quorum goes on in
    /// its term. So it has to prove itself, for as long as nothing shows that it is lost.
    pub(super) async fn leader(&self, group: &Group) -> Option<u64> {
        let deadline = Instant::now() + limits::LEADER_SILENCE_MAX;
        let proof = tokio::select! {
            proof = group.linearizable(deadline) => proof,
            () = group.leader_lost() => return None,
        };
        match proof {
            // Too much to do is no sign of a lost quorum.
            Ok(()) | Err(GroupError::Overloaded) => group.proven_leader(),
            Err(_) => None,
        }
    }

    fn default_group(&self) -> Result<Arc<Group>, Status> {
        let group = self.keyspaces.by_name(keyspace::DEFAULT);
        group.ok_or_else(|| self.unknown_keyspace(keyspace::DEFAULT))
    }

    /// Whether a keyspace exists whose group does not run on this node now.
    fn does_not_run(&self, name: &str) -> bool {
        self.keyspaces.is_awaited(name) || self.keyspaces.is_stopped(name)
    }

    fn unknown_keyspace(&self, name: &str) -> Status {
        if let Some(why) = self.stays_out.read().as_deref() {
            return Status::unavailable(format!("holdfast: this node stays out: {why}"));
        }
        let none = self.keyspaces.is_empty();
        if !none && self.keyspaces.is_awaited(name) {
            return Status::unavailable(format!(
                "holdfast: keyspace {name:?} waits for its state from another node"
            ));
        }
        if self.keyspaces.is_stopped(name) {
            return Status::unavailable(format!(
                "holdfast: keyspace {name:?} is stopped on this node"
            ));
        }
        if none {
            return Status::unavailable(
                "holdfast: this node does not take part in its cluster yet",
            );
        }
        status::unknown_keyspace(name)
    }

    /// The header of a response.
    pub(super) fn header(&self, revision: i64, raft_term: u64) -> ResponseHeader {
        let (cluster_id, member_id) = self.data.ids();
        ResponseHeader {
            cluster_id,
            member_id,
            revision,
            raft_term,
        }
    }

    /// Completes the header that a response brought from the state machine.
    pub(super) fn complete(&self, header: &mut Option<ResponseHeader>, raft_term: u64) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(revision, raft_term));
    }

    /// Largest request, in encoded bytes.
    pub(super) fn request_bytes_max(&self) -> usize {
        self.config.limits.request_bytes_max
    }
}

/// Whether the request is to be refused when the node sees no leader. As in etcd, nothing but `true`
/// asks for that.
pub(super) fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata
        .get(HAS_LEADER)
        .is_some_and(|value| value == "true")
}

/// When the client stops waiting, or this node loses patience.
pub(super) fn deadline(metadata: &MetadataMap) -> Instant {
    let asked = deadline::timeout(metadata.as_ref());
    Instant::now()
        + asked.map_or(REQUEST_TIMEOUT_DEFAULT, |asked| {
            asked.min(REQUEST_TIMEOUT_DEFAULT)
        })
}

/// The retry id of a write, if it carries one.
pub(super) fn retry_id(metadata: &MetadataMap) -> Result<RetryId, Status> {
    let text = |name: &'static str| -> Result<Option<&str>, Status> {
        metadata
            .get(name)
            .map(|value| value.to_str())
            .transpose()
            .map_err(|_| status::bad_metadata(name, "it is not ASCII"))
    };
    let Some(client_id) = text(CLIENT_ID)? else {
        return match text(REQUEST_SEQ)? {
            None => Ok(RetryId::default()),
            Some(_) => Err(status::bad_metadata(
                REQUEST_SEQ,
                "it needs holdfast-client-id beside it",
            )),
        };
    };
    if client_id.is_empty() {
        return Err(status::bad_metadata(CLIENT_ID, "it is empty"));
    }
    let seq = text(REQUEST_SEQ)?
        .ok_or_else(|| status::bad_metadata(REQUEST_SEQ, "it is missing"))?
        .parse()
        .map_err(|_| status::bad_metadata(REQUEST_SEQ, "it is not a decimal number"))?;
    holdfast_mvcc::validate::retry_id(client_id.as_bytes(), seq).map_err(status::invalid)?;
    Ok(RetryId {
        client_id: Bytes::copy_from_slice(client_id.as_bytes()),
        seq,
        retried: text(RETRY)?.is_some_and(|value| value == "1"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_id_is_complete_or_refused() {
        let mut metadata = MetadataMap::new();
        assert_eq!(retry_id(&metadata).unwrap(), RetryId::default());
        metadata.insert(CLIENT_ID, "abc".parse().unwrap());
        assert!(retry_id(&metadata).is_err(), "no number");
        metadata.insert(REQUEST_SEQ, "0".parse().unwrap());
        assert!(retry_id(&metadata).is_err(), "clients count from 1");
        metadata.insert(REQUEST_SEQ, "seven".parse().unwrap());
        assert!(retry_id(&metadata).is_err());
        metadata.insert(REQUEST_SEQ, "7".parse().unwrap());
        let id = retry_id(&metadata).unwrap();
        assert_eq!((id.seq, id.retried), (7, false));
        metadata.insert(RETRY, "1".parse().unwrap());
        assert!(retry_id(&metadata).unwrap().retried);
        metadata.remove(CLIENT_ID);
        assert!(retry_id(&metadata).is_err(), "a number without a client");
    }
}
