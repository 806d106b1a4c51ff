//! An in-process cluster to test the client against: nodes that share one state, and that can be
//! killed, stalled, drained and brought back.
//!
//! Each node is a thread with a runtime of its own, so that
//!
//! - `kill` drops the runtime: all its connections close at once, as with SIGKILL;
//! - `stall` blocks the thread: connections stay open and nothing answers, as with SIGSTOP;
//! - `drain` shuts the server down gracefully, as with SIGTERM.
#![allow(dead_code, reason = "each test file uses its own part of the mock")]

mod admin;

use std::{
    collections::{HashMap, HashSet},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use holdfast_client::{
    CLIENT_ID, KEYSPACE, REQUEST_SEQ, RETRY,
    proto::{
        etcdserverpb::{
            self as pb,
            cluster_server::{Cluster, ClusterServer},
            kv_server::{Kv, KvServer},
        },
        metadata::{OUTCOME, outcome},
        mvccpb::KeyValue,
        v1::{
            self,
            admin_server::{Admin, AdminServer},
            sessions_server::{Sessions, SessionsServer},
        },
    },
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status,
    metadata::{MetadataMap, MetadataValue},
    transport::Server,
};

/// A write as a node received it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub node: u64,
    pub client_id: String,
    pub seq: u64,
    pub retry: bool,
    pub keyspace: Option<String>,
    pub timeout: Option<String>,
}

/// What a write meets.
type Script = Box<dyn Fn(&Seen) -> Fate + Send + Sync>;

pub enum Fate {
    Served,
    /// Refused before anything is done.
    Refused(Status),
    /// Refused by the state machine of a Holdfast, which says so.
    RefusedForGood(Status),
    /// Carried out, but the answer is this.
    AnswerLost(Status),
    /// Carried out, and never answered.
    Silence,
    /// Carried out after the gate opens.
    Held,
}

#[derive(Default)]
pub struct State {
    pub data: HashMap<Vec<u8>, (Vec<u8>, i64)>,
    pub revision: i64,
    /// Answers by client id and number, as the retry table keeps them.
    answers: HashMap<(String, u64), pb::PutResponse>,
    /// Number of times each write took effect.
    pub applied: HashMap<(String, u64), u32>,
    pub seen: Vec<Seen>,
    /// Reads served, by node.
    pub reads: HashMap<u64, u32>,
    /// Clients that registered, in order.
    pub registered: Vec<String>,
    /// Those of them that are forgotten.
    pub forgotten: HashSet<String>,
}

pub struct World {
    pub state: Mutex<State>,
    nodes: Mutex<Vec<v1::Node>>,
    script: Mutex<Option<Script>>,
    pub gate: watch::Sender<bool>,
    /// A client is forgotten as soon as a write of it has been carried out.
    pub forget_after_apply: AtomicBool,
    cluster_id: u64,
    /// Serves `holdfast.v1.Admin`.
    holdfast: bool,
}

impl World {
    pub fn script(&self, script: impl Fn(&Seen) -> Fate + Send + Sync + 'static) {
        *self.script.lock() = Some(Box::new(script));
    }

    pub fn never_twice(&self) {
        for (write, times) in &self.state.lock().applied {
            assert_eq!(*times, 1, "{write:?} took effect {times} times");
        }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }
}

pub struct Mock {
    pub world: Arc<World>,
    pub nodes: Vec<Node>,
}

impl Mock {
    /// A Holdfast of one node in each of the zones.
    pub fn holdfast(zones: &[&str]) -> Self {
        Self::start(zones, true, 7)
    }

    /// A plain etcd of so many nodes.
    pub fn etcd(nodes: usize) -> Self {
        Self::start(&vec![""; nodes], false, 7)
    }

    pub fn start(zones: &[&str], holdfast: bool, cluster_id: u64) -> Self {
        let listeners: Vec<_> = zones
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let described = zones
            .iter()
            .zip(&listeners)
            .zip(1..)
            .map(|((zone, listener), id)| {
                let address = listener.local_addr().expect("address");
                v1::Node {
                    id,
                    zone: (*zone).to_owned(),
                    client_url: format!("http://{address}"),
                    ..Default::default()
                }
            });
        let world = Arc::new(World {
            state: Mutex::default(),
            nodes: Mutex::new(described.collect()),
            script: Mutex::new(None),
            gate: watch::Sender::new(false),
            forget_after_apply: AtomicBool::new(false),
            cluster_id,
            holdfast,
        });
        let nodes = listeners
            .into_iter()
            .zip(1..)
            .map(|(l, id)| Node::start(id, l, &world));
        Self {
            nodes: nodes.collect(),
            world,
        }
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| format!("http://{}", node.address))
            .collect()
    }
}

pub struct Node {
    pub id: u64,
    pub address: SocketAddr,
    world: Arc<World>,
    thread: Option<JoinHandle<()>>,
    kill: Option<oneshot::Sender<()>>,
    drain: Option<oneshot::Sender<()>>,
    stalled: Arc<(Mutex<bool>, Condvar)>,
    stall_wanted: Arc<AtomicBool>,
}

impl Node {
    fn start(id: u64, listener: TcpListener, world: &Arc<World>) -> Self {
        let address = listener.local_addr().expect("address");
        let mut node = Self {
            id,
            address,
            world: world.clone(),
            thread: None,
            kill: None,
            drain: None,
            stalled: Arc::default(),
            stall_wanted: Arc::default(),
        };
        node.serve(listener);
        node
    }

    fn serve(&mut self, listener: TcpListener) {
        let (kill, killed) = oneshot::channel::<()>();
        let (drain, drained) = oneshot::channel::<()>();
        let service = Service {
            id: self.id,
            world: self.world.clone(),
        };
        let (stalled, wanted) = (self.stalled.clone(), self.stall_wanted.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        if wanted.load(Ordering::Acquire) {
                            let (flag, changed) = &*stalled;
                            let mut flag = flag.lock();
                            while *flag {
                                changed.wait(&mut flag);
                            }
                            wanted.store(false, Ordering::Release);
                        }
                    }
                });
                listener.set_nonblocking(true).expect("nonblocking");
                let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
                let router = Server::builder()
                    .add_service(KvServer::new(service.clone()))
                    .add_service(ClusterServer::new(service.clone()))
                    .add_optional_service(
                        (service.world.holdfast).then(|| SessionsServer::new(service.clone())),
                    )
                    .add_optional_service(
                        service.world.holdfast.then(|| AdminServer::new(service)),
                    );
                let serve = router
                    .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                        drained.await.unwrap_or(())
                    });
                tokio::select! {
                    result = serve => result.expect("serve"),
                    _ = killed => {}
                }
            });
        });
        (self.thread, self.kill, self.drain) = (Some(thread), Some(kill), Some(drain));
    }

    /// As SIGKILL. Returns when all its sockets are closed.
    pub fn kill(&mut self) {
        let _ = self.kill.take().expect("running").send(());
        self.thread.take().expect("running").join().expect("node");
    }

    /// As SIGTERM. Returns when the last request has been answered and the sockets are closed.
    pub fn drain(&mut self) {
        let _ = self.drain.take().expect("running").send(());
        self.thread.take().expect("running").join().expect("node");
        self.kill = None;
    }

    /// As SIGSTOP.
    pub fn stall(&self) {
        *self.stalled.0.lock() = true;
        self.stall_wanted.store(true, Ordering::Release);
    }

    /// As SIGCONT.
    pub fn resume(&self) {
        *self.stalled.0.lock() = false;
        self.stalled.1.notify_all();
    }

    /// Comes back on the same port.
    pub fn restart(&mut self) {
        self.serve(TcpListener::bind(self.address).expect("its port is still free"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.resume();
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Service {
    id: u64,
    world: Arc<World>,
}

fn text(metadata: &MetadataMap, key: &str) -> Option<String> {
    metadata
        .get(key)
        .map(|value| value.to_str().expect("ASCII").to_owned())
}

impl Service {
    fn header(&self) -> Option<pb::ResponseHeader> {
        let revision = self.world.state.lock().revision;
        let (cluster_id, member_id) = (self.world.cluster_id, self.id);
        Some(pb::ResponseHeader {
            cluster_id,
            member_id,
            revision,
            raft_term: 1,
        })
    }

    /// A client that the cluster does not know is refused, as by Holdfast.
    fn check_client(&self, write: &Seen) -> Result<(), Status> {
        let state = self.world.state.lock();
        let id = &write.client_id;
        let known = state.registered.contains(id) && !state.forgotten.contains(id);
        if id.is_empty() || known {
            return Ok(());
        }
        let mut status = Status::failed_precondition("holdfast: the client id is not known");
        let value = MetadataValue::from_static(outcome::CLIENT_UNKNOWN);
        status.metadata_mut().insert(OUTCOME, value);
        Err(status)
    }

    fn apply(&self, write: &Seen, put: pb::PutRequest) -> pb::PutResponse {
        let mut state = self.world.state.lock();
        let id = (write.client_id.clone(), write.seq);
        if self.world.holdfast
            && let Some(answer) = state.answers.get(&id)
        {
            return answer.clone();
        }
        state.revision += 1;
        let revision = state.revision;
        state
            .data
            .insert(put.key.to_vec(), (put.value.to_vec(), revision));
        *state.applied.entry(id.clone()).or_default() += 1;
        let header = pb::ResponseHeader {
            revision,
            ..Default::default()
        };
        let answer = pb::PutResponse {
            header: Some(header),
            prev_kv: None,
        };
        if self.world.forget_after_apply.load(Ordering::Relaxed) {
            state.forgotten.insert(write.client_id.clone());
        }
        state.answers.insert(id, answer.clone());
        answer
    }
}

#[tonic::async_trait]
impl Kv for Service {
    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let metadata = request.metadata();
        let write = Seen {
            node: self.id,
            client_id: text(metadata, CLIENT_ID).unwrap_or_default(),
            seq: text(metadata, REQUEST_SEQ).map_or(0, |seq| seq.parse().expect("decimal")),
            retry: text(metadata, RETRY).is_some_and(|retry| retry == "1"),
            keyspace: text(metadata, KEYSPACE),
            timeout: text(metadata, "grpc-timeout"),
        };
        self.world.state.lock().seen.push(write.clone());
        let fate = match &*self.world.script.lock() {
            Some(script) => script(&write),
            None => Fate::Served,
        };
        let put = request.into_inner();
        if let Fate::Served | Fate::AnswerLost(_) | Fate::Silence = fate {
            self.check_client(&write)?;
        }
        match fate {
            Fate::Served => Ok(Response::new(self.apply(&write, put))),
            Fate::Refused(status) => Err(status),
            Fate::RefusedForGood(mut status) => {
                let value = MetadataValue::from_static(outcome::REFUSED);
                status.metadata_mut().insert(OUTCOME, value);
                Err(status)
            }
            Fate::AnswerLost(status) => {
                self.apply(&write, put);
                Err(status)
            }
            Fate::Silence => {
                self.apply(&write, put);
                std::future::pending().await
            }
            Fate::Held => {
                let mut gate = self.world.gate.subscribe();
                gate.wait_for(|open| *open)
                    .await
                    .expect("the world outlives its nodes");
                Ok(Response::new(self.apply(&write, put)))
            }
        }
    }

    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let key = request.into_inner().key;
        let header = self.header();
        let mut state = self.world.state.lock();
        *state.reads.entry(self.id).or_default() += 1;
        let kvs: Vec<KeyValue> = state
            .data
            .get(&key[..])
            .map(|(value, mod_revision)| KeyValue {
                key: key.clone(),
                value: value.clone().into(),
                mod_revision: *mod_revision,
                ..Default::default()
            })
            .into_iter()
            .collect();
        Ok(Response::new(pb::RangeResponse {
            header,
            count: kvs.len() as i64,
            kvs,
            more: false,
        }))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }
}

#[tonic::async_trait]
impl Sessions for Service {
    async fn register(
        &self,
        _: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let mut state = self.world.state.lock();
        let client_id = format!("{:032x}", state.registered.len() + 1);
        state.registered.push(client_id.clone());
        Ok(Response::new(v1::RegisterResponse {
            client_id,
            requests_in_flight_max: 128,
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(
        &self,
        _: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let nodes = self.world.nodes.lock().clone();
        let members = nodes.into_iter().map(|node| pb::Member {
            id: node.id,
            name: format!("n{}", node.id),
            client_ur_ls: vec![node.client_url],
            ..Default::default()
        });
        let members = members.collect();
        Ok(Response::new(pb::MemberListResponse {
            header: self.header(),
            members,
        }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }
}
