//! The handle programs hold: a keyspace, a deadline, and the shared core behind them.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use holdfast_proto::{
    etcdserverpb::{
        CompactionRequest, HashKvRequest, HashKvResponse, Member, MemberListRequest,
        MoveLeaderRequest, StatusRequest, StatusResponse, TxnRequest,
    },
    metadata::KEYSPACE,
    v1::{
        DebugCreateGroupsRequest, DebugDropGroupsRequest, GroupsRequest, GroupsResponse, NewGroup,
        Node, NodesRequest, PeersRequest, PeersResponse, TransferLeaderRequest,
    },
};
use tokio::time::timeout;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

use crate::{
    builder::ClientBuilder,
    call::{Core, Scope},
    cluster::Cluster,
    endpoint::{Endpoint, ServerKind, Transport, normalize},
    error::{Effect, Error, ErrorKind, Result},
    kv::{Compact, Delete, Get, Put},
    rpc::{Class, Rpc},
    txn::Txn,
    verdict::judge,
};

/// The future of a request.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Name of the keyspace that requests reach when no other is chosen.
pub const DEFAULT_KEYSPACE: &str = "default";

/// A client of a cluster. Cloning is cheap; all clones share connections and retry ids.
///
/// - A request goes to a healthy endpoint, in the preferred zone if there is one, and moves on to
///   another when that fails.
/// - A write of unknown outcome is sent again, and takes effect at most once, if the server is
///   Holdfast. Against another server it fails with [`Effect::Unknown`] instead.
/// - At most 2,048 writes are in flight at a time in one keyspace; further ones wait their turn.
/// - Dropping the future of a request gives the request up; a write may still take effect.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    scope: Arc<Scope>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.endpoints())
            .field("keyspace", &self.scope.keyspace)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Client {
    /// Starts with the settings of a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Connects with default settings.
    pub async fn connect<E: AsRef<str>>(endpoints: impl IntoIterator<Item = E>) -> Result<Self> {
        Self::builder().endpoints(endpoints).connect().await
    }

    pub(crate) fn new(core: Core, timeout: Duration) -> Self {
        Self {
            core: Arc::new(core),
            scope: Arc::new(Scope::new(None)),
            timeout,
        }
    }

    /// A handle on another keyspace. The name must be visible ASCII; whether the keyspace exists
    /// shows with the first request.
    pub fn keyspace(&self, name: &str) -> Result<Self> {
        let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        let value = if valid { name.parse().ok() } else { None };
        let keyspace: MetadataValue<Ascii> = value
            .ok_or_else(|| Error::new(ErrorKind::InvalidKeyspace(name.to_owned()), Effect::None))?;
        let mut scopes = self.core.scopes.lock();
        let scope = scopes
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Scope::new(Some(keyspace))))
            .clone();
        drop(scopes);
        Ok(Self {
            scope,
            ..self.clone()
        })
    }

    /// A handle whose requests have this much time, retries included.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// What kind of server answers.
    pub fn server_kind(&self) -> ServerKind {
        self.core.cluster.kind()
    }

    /// URLs of the endpoints in use, and whether each is up as far as this client knows.
    pub fn endpoints(&self) -> Vec<(String, bool)> {
        let endpoints = self.core.cluster.endpoints();
        let usable = endpoints.iter().filter(|e| !e.is_foreign());
        usable.map(|e| (e.url.to_string(), !e.is_down())).collect()
    }

    /// How often a request of this client or of its clones was sent again: after a failure, or beside an
    /// attempt that was slow.
    pub fn repeats(&self) -> u64 {
        self.core.repeats.load(Ordering::Relaxed)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.core.cluster
    }

    pub(crate) async fn run<R: Rpc>(&self, request: R) -> Result<R::Response> {
        self.core.run(request, &self.scope, self.timeout).await
    }

    /// Reads a key, or with the options of [`Get`] a range of keys.
    pub fn get(&self, key: impl Into<Bytes>) -> Get<Client> {
        Get::bound(self.clone(), key.into())
    }

    /// Reads the keys from `start` up to, not including, `end`.
    pub fn range(&self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Get<Client> {
        self.get(start).range_end(end)
    }

    /// Writes a key.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put<Client> {
        Put::bound(self.clone(), key.into(), value.into())
    }

    /// Deletes a key, or with the options of [`Delete`] a range of keys.
    pub fn delete(&self, key: impl Into<Bytes>) -> Delete<Client> {
        Delete::bound(self.clone(), key.into())
    }

    /// A transaction.
    pub fn txn(&self) -> Txn<Client> {
        Txn::bound(self.clone(), TxnRequest::default())
    }

    /// Forgets all versions that were superseded at or before `revision`.
    pub fn compact(&self, revision: i64) -> Compact {
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        Compact {
            client: self.clone(),
            request,
        }
    }

    /// The members of the cluster in etcd's terms.
    pub async fn members(&self) -> Result<Vec<Member>> {
        Ok(self
            .run(MemberListRequest { linearizable: true })
            .await?
            .members)
    }

    /// The nodes with their zones. Only Holdfast knows this.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        Ok(self.run(NodesRequest {}).await?.nodes)
    }

    /// The state of the node at `endpoint`. Asked of that node alone, once.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse> {
        self.ask(endpoint, StatusRequest {}).await
    }

    /// Hash of the contents at `revision`, 0 for the present one, on the node at `endpoint`. Asked
    /// of that node alone, once.
    pub async fn hash_kv(&self, endpoint: &str, revision: i64) -> Result<HashKvResponse> {
        self.ask(endpoint, HashKvRequest { revision }).await
    }

    /// The groups as the node at `endpoint` sees them. Only Holdfast knows this. Asked of that node
    /// alone, once.
    pub async fn groups(&self, endpoint: &str) -> Result<GroupsResponse> {
        self.ask(endpoint, GroupsRequest {}).await
    }

    /// What the node at `endpoint` sees of all nodes. Only Holdfast knows this. Asked of that node alone,
    /// once.
    pub async fn peers(&self, endpoint: &str) -> Result<PeersResponse> {
        self.ask(endpoint, PeersRequest {}).await
    }

    /// Starts groups on the node at `endpoint`, and on no other: for tests and measurements, where the
    /// node allows it.
    #[doc(hidden)]
    pub async fn debug_create_groups(&self, endpoint: &str, groups: Vec<NewGroup>) -> Result<()> {
        let created = self.ask(endpoint, DebugCreateGroupsRequest { groups });
        created.await.map(drop)
    }

    /// Drops groups on the node at `endpoint`, and on no other: for tests and measurements, where the
    /// node allows it.
    #[doc(hidden)]
    pub async fn debug_drop_groups(&self, endpoint: &str, ids: Vec<u64>) -> Result<()> {
        let dropped = self.ask(endpoint, DebugDropGroupsRequest { ids });
        dropped.await.map(drop)
    }

    /// Hands the leadership of this handle's keyspace to another node and returns the id of the new
    /// leader. `to_node` 0 leaves the choice to Holdfast; etcd needs a node.
    pub async fn transfer_leader(&self, to_node: u64) -> Result<u64> {
        if self.server_kind() != ServerKind::Etcd {
            let name = self.scope.keyspace.as_ref().and_then(|k| k.to_str().ok());
            let keyspace = name.unwrap_or(DEFAULT_KEYSPACE).to_owned();
            return Ok(self
                .run(TransferLeaderRequest { keyspace, to_node })
                .await?
                .leader);
        }
        // etcd moves its leader only when the leader itself is asked.
        for endpoint in self.core.cluster.endpoints().iter() {
            let Ok(status) = self.status(&endpoint.url).await else {
                continue;
            };
            if status.header.is_some_and(|h| h.member_id == status.leader) {
                self.ask(&endpoint.url, MoveLeaderRequest { target_id: to_node })
                    .await?;
                return Ok(to_node);
            }
        }
        Err(Error::new(ErrorKind::NoLeader, Effect::None))
    }

    /// Sends a request to one endpoint, once.
    async fn ask<R: Rpc>(&self, endpoint: &str, message: R) -> Result<R::Response> {
        let url = normalize(endpoint)?;
        let known = self.core.cluster.endpoints();
        let channel = match known.iter().find(|e| e.url == url) {
            Some(endpoint) => endpoint.channel(),
            None => {
                let once = Transport::single();
                Endpoint::new(url.clone(), true, 0, ServerKind::Unknown, &once)?.channel()
            }
        };
        let class = message.class();
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if let Some(keyspace) = &self.scope.keyspace {
            request.metadata_mut().insert(KEYSPACE, keyspace.clone());
        }
        let in_doubt = if class == Class::Read {
            Effect::None
        } else {
            Effect::Unknown
        };
        match timeout(self.timeout, R::send(channel, request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                let verdict = judge(&status);
                let effect = if class == Class::Read {
                    Effect::None
                } else {
                    verdict.effect
                };
                Err(verdict.into_error(effect, url, 1))
            }
            Err(_) => Err(Error::deadline(self.timeout, None, in_doubt, 1)),
        }
    }
}
