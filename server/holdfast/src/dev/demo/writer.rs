//! The clients of the demonstration: one per zone, each writing at a steady rate.
//!
//! ```text
//! tick ─▶ zone up? room? ─▶ put to the own zone ── ok ───────────────▶ ledger
//!                                 ▲                └─ unknown, refused for now ─┐
//!                                 └──── the same retry id, next zone that is up ◀┘
//! ```
//!
//! A client goes down with its zone: it sends nothing new until its node serves again. What it had
//! under way is sent again through the other zones, because somebody waits for the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_proto::etcdserverpb::PutRequest;
use holdfast_proto::etcdserverpb::kv_client::KvClient;
use holdfast_proto::metadata::{CLIENT_ID, REQUEST_SEQ, RETRY};
use holdfast_proto::v1::{RegisterRequest, sessions_client::SessionsClient};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::ledger::{Ledger, WriteId};
use crate::dev::layout::NodePlan;
use crate::dev::supervisor::Status;

/// The server remembers 128 answers per client id. A write is sent again only while its answer is
/// sure to be among them: no newer write of this client may be as many numbers ahead.
const WINDOW: u64 = 120;
/// Most writes of a client under way; the rest of the window is for stragglers.
const IN_FLIGHT_MAX: usize = 100;
/// A write that is not answered in this time is sent again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Likewise a registration.
const REGISTER_TIMEOUT: Duration = Duration::from_millis(500);
/// Time between two attempts of a write.
const BACKOFF: Duration = Duration::from_millis(10);

/// The running clients.
pub struct Writers {
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Writers {
    /// Makes a client in each zone known to the cluster, then starts them all.
    pub async fn start(
        rate: u32,
        nodes: &[NodePlan],
        channels: &[Channel],
        ledger: Arc<Ledger>,
        status: watch::Receiver<Status>,
    ) -> Writers {
        let (stop, stopped) = watch::channel(false);
        let mut zone_clients = Vec::new();
        for zone in 0..nodes.len() {
            let client = ZoneClient {
                zone,
                node_ids: nodes.iter().map(|node| node.id).collect(),
                clients: channels.iter().cloned().map(KvClient::new).collect(),
                sessions: channels.iter().cloned().map(SessionsClient::new).collect(),
                ledger: ledger.clone(),
                status: status.clone(),
            };
            zone_clients.push(Arc::new(client));
        }
        let registering = zone_clients.iter().map(|client| client.register());
        let ids = futures_util::future::join_all(registering).await;
        let mut tasks = JoinSet::new();
        for (client, id) in zone_clients.into_iter().zip(ids) {
            tasks.spawn(client.run(id, rate, stopped.clone()));
        }
        Writers {
            stop,
            clients: tasks,
        }
    }

    /// Lets the clients send nothing new and waits for the answers under way. Those that are not
    /// there after `timeout` stay unresolved.
    pub async fn finish(mut self, timeout: Duration) {
        self.stop.send_replace(true);
        let all_done = async { while self.clients.join_next().await.is_some() {} };
        // Dropping the set afterwards aborts what is left.
        let _ = tokio::time::timeout(timeout, all_done).await;
    }
}

struct ZoneClient {
    zone: usize,
    node_ids: Vec<u64>,
    clients: Vec<KvClient<Channel>>,
    sessions: Vec<SessionsClient<Channel>>,
    ledger: Arc<Ledger>,
    status: watch::Receiver<Status>,
}

impl ZoneClient {
    /// The id that the cluster gives this client. A registration that is not used does no harm, so
    /// it is asked for until it comes.
    async fn register(&self) -> MetadataValue<Ascii> {
        let mut attempt = 0;
        loop {
            let mut request = tonic::Request::new(RegisterRequest {});
            request.set_timeout(REGISTER_TIMEOUT);
            let mut sessions = self.sessions[self.target(attempt)].clone();
            if let Ok(registered) = sessions.register(request).await
                && let Ok(id) = registered.into_inner().client_id.parse()
            {
                return id;
            }
            attempt += 1;
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn run(
        self: Arc<Self>,
        id: MetadataValue<Ascii>,
        rate: u32,
        mut stopped: watch::Receiver<bool>,
    ) {
        // Missed ticks are made up for at once, so the rate holds although timers are coarse.
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut writes = JoinSet::new();
        let mut seq = 1;
        loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                _ = ticks.tick() => {}
                Some(_) = writes.join_next() => continue,
            }
            let write = WriteId {
                zone: self.zone,
                seq,
            };
            if self.serves(self.zone) && self.ledger.has_room(write, IN_FLIGHT_MAX, WINDOW) {
                seq += 1;
                self.ledger.sending(write);
                writes.spawn(self.clone().write(id.clone(), write));
            }
        }
        while writes.join_next().await.is_some() {}
    }

    fn serves(&self, zone: usize) -> bool {
        self.status
            .borrow()
            .nodes
            .get(&self.node_ids[zone])
            .is_some_and(|node| node.serves)
    }

    /// Sends a write until its fate is known.
    async fn write(self: Arc<Self>, id: MetadataValue<Ascii>, write: WriteId) {
        let mut attempt = 0;
        loop {
            let mut client = self.clients[self.target(attempt)].clone();
            match client.put(self.request(&id, write, attempt > 0)).await {
                Ok(response) => {
                    let revision = response
                        .into_inner()
                        .header
                        .map_or(0, |header| header.revision);
                    self.ledger.acknowledged(write, revision, Instant::now());
                    return;
                }
                Err(status) if is_final(status.code()) => {
                    self.ledger
                        .refused(format!("{:?}: {}", status.code(), status.message()));
                    return;
                }
                Err(_) => {}
            }
            attempt += 1;
            self.ledger.resending();
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// The own zone first, then one after the other of those that are up.
    fn target(&self, attempt: usize) -> usize {
        let zones = self.clients.len();
        let in_order = (0..zones).map(|step| (self.zone + attempt + step) % zones);
        in_order
            .clone()
            .find(|zone| self.serves(*zone))
            .unwrap_or((self.zone + attempt) % zones)
    }

    fn request(
        &self,
        id: &MetadataValue<Ascii>,
        write: WriteId,
        again: bool,
    ) -> tonic::Request<PutRequest> {
        let mut request = tonic::Request::new(PutRequest {
            key: self.ledger.key(write).into(),
            value: self.ledger.value(write).into(),
            ..PutRequest::default()
        });
        request.set_timeout(ATTEMPT_TIMEOUT);
        let metadata = request.metadata_mut();
        metadata.insert(CLIENT_ID, id.clone());
        metadata.insert(REQUEST_SEQ, MetadataValue::from(write.seq));
        if again {
            metadata.insert(RETRY, MetadataValue::from_static("1"));
        }
        request
    }
}

/// Sending the same again would be answered the same.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_within_what_the_server_remembers() {
        const { assert!(WINDOW < 128 && IN_FLIGHT_MAX as u64 <= WINDOW) };
    }
}
