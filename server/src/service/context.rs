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
    keyspace::{self, Keyspaces, Lifecycle, Registry},
    limits::{self, REQUEST_TIMEOUT_DEFAULT},
};

/// The authority that a request was sent to, put beside it by the server.
#[derive(Clone, Debug)]
pub(super) struct Authority(http::uri::Authority);

impl Authority {
    /// That of a request for `uri`, if it may name a keyspace: the name of a host, of more than one label, and
    /// never an address.
    pub(super) fn of(uri: &http::Uri) -> Option<Self> {
        let authority = uri.authority()?;
        let host = authority.host();
        let names = host.contains('.') && host.parse::<std::net::Ipv4Addr>().is_err();
        names.then(|| Authority(authority.clone()))
    }

    /// The first label of a host right below one of these domains.
    fn keyspace(&self, domains: &[String]) -> Option<&str> {
        let host = self.0.host();
        // A name may be written with its root (RFC 1034, 3.1).
        let (label, domain) = host.strip_suffix('.').unwrap_or(host).split_once('.')?;
        let below = domains
            .iter()
            .any(|known| known.eq_ignore_ascii_case(domain));
        below.then_some(label)
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
    /// Which keyspaces there are in the cluster.
    pub registry: Arc<Registry>,
    /// When the node was started.
    pub started: Instant,
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
        let group = match self.named(request)? {
            None => self.default_group()?,
            Some(name) => match self.keyspaces.by_name(name) {
                Some(group) => group,
                None => {
                    self.missing_group(name, deadline(request.metadata()))
                        .await?
                }
            },
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

    /// The keyspace that a request names, if it does: by its metadata, or else by the name of the host that it
    /// was sent to.
    fn named<'a, T>(&self, request: &'a Request<T>) -> Result<Option<&'a str>, Status> {
        let name = match request.metadata().get(KEYSPACE) {
            Some(name) => {
                let name = name.to_str();
                Some(name.map_err(|_| status::bad_metadata(KEYSPACE, "it is not ASCII"))?)
            }
            None => {
                let authority = request.extensions().get::<Authority>();
                let domains = &self.config.node.keyspace_domains;
                authority.and_then(|authority| authority.keyspace(domains))
            }
        };
        match name {
            Some(keyspace::SYSTEM) => Err(status::reserved_keyspace(keyspace::SYSTEM)),
            name => Ok(name),
        }
    }

    /// The group of a keyspace that does not run here at the moment: it may have been created just now.
    async fn missing_group(&self, name: &str, deadline: Instant) -> Result<Arc<Group>, Status> {
        if self.does_not_run(name) || self.keyspaces.is_empty() {
            return Err(self.unknown_keyspace(name));
        }
        let deadline = deadline.min(Instant::now() + limits::KEYSPACE_START_WAIT_MAX);
        let contents = match self.registry.read(deadline).await {
            Ok(contents) => contents,
            Err(e) => {
                return Err(Status::unavailable(format!(
                    "holdfast: keyspace {name:?} does not run on this node, and whether it exists is not known: {e}"
                )));
            }
        };
        let Some(keyspace) = contents.keyspaces.get(name) else {
            return Err(status::unknown_keyspace(name));
        };
        if !keyspace.voters.contains(&self.config.node.id) {
            return Err(Status::unavailable(format!(
                "holdfast: keyspace {name:?} is on nodes {:?}, and this is node {}; ask one of them",
                keyspace.voters, self.config.node.id
            )));
        }
        let started = self.started_group(name, deadline).await;
        started.ok_or_else(|| {
            Status::unavailable(format!(
                "holdfast: keyspace {name:?} exists and does not run on this node yet"
            ))
        })
    }

    /// The group of a keyspace, as soon as it runs here: `None` if it does not by the deadline.
    pub(super) async fn started_group(&self, name: &str, deadline: Instant) -> Option<Arc<Group>> {
        let mut changes = self.keyspaces.changes();
        let started = async {
            loop {
                if let Some(group) = self.keyspaces.by_name(name) {
                    return group;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout_at(deadline.into(), started).await.ok()
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
