//! What the client knows of the cluster, and how it keeps knowing it.
//!
//! The endpoints the user gave are the seeds. Whoever answers tells who else there is
//! (`holdfast.v1.Admin/Nodes`, or `Cluster/MemberList` where that is not served), and so the list
//! grows and shrinks with the cluster. Requests only look at the list; everything slow happens in
//! background tasks, which end when the last handle of the client is dropped.
//!
//! ```text
//!   request fails ─▶ endpoint Down ─▶ prober: ask, every 20 ms … 500 ms ─▶ answered ─▶ Up
//!                                       │                                      │
//!   refresh: at every interval ─────────┴──▶ Sighting ─▶ learn(): kind, cluster id, zones,
//!                                                        new endpoints, endpoints that are gone
//! ```

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_proto::{
    etcdserverpb::{MemberListRequest, cluster_client::ClusterClient},
    v1::{NodesRequest, admin_client::AdminClient},
};
use parking_lot::{Mutex, RwLock};
use rand::RngExt;
use tokio::{sync::watch, task::AbortHandle, time};
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    endpoint::{Endpoint, ServerKind, Transport, is_reachable_address, normalize},
    error::{Effect, Error},
    verdict::judge,
};

/// First and longest pause between two probes of an endpoint that is down.
const PROBE_PAUSE_MS: (u64, u64) = (20, 500);
/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Settings {
    pub(crate) transport: Transport,
    pub(crate) prefer_zone: Option<String>,
    pub(crate) discover: bool,
    pub(crate) refresh_interval: Duration,
    pub(crate) hang_after: Duration,
}

/// - every url occurs once in `endpoints`; every known node id at most once among those that are
///   not seeds
/// - a Down endpoint in the list has exactly one prober
pub(crate) struct Cluster {
    settings: Settings,
    endpoints: RwLock<Arc<[Arc<Endpoint>]>>,
    /// Where the next request starts looking.
    turn: AtomicUsize,
    kind: watch::Sender<ServerKind>,
    /// 0 while unknown.
    cluster_id: AtomicU64,
    /// Serialises [`Cluster::learn`].
    learning: Mutex<()>,
    /// How the latest failed probe failed, for the error of a connect that nobody answered.
    last_failure: Mutex<Option<Error>>,
    refresher: Mutex<Option<AbortHandle>>,
}

/// What one node said about the cluster.
pub(crate) struct Sighting {
    kind: ServerKind,
    cluster_id: u64,
    answering: u64,
    nodes: Vec<SeenNode>,
}

struct SeenNode {
    id: u64,
    zone: Option<String>,
    url: Option<Arc<str>>,
}

impl Cluster {
    /// Starts the background work; must be called within a tokio runtime.
    pub(crate) fn start(settings: Settings, seeds: &[Arc<str>]) -> Result<Arc<Self>, Error> {
        let mut endpoints = Vec::<Arc<Endpoint>>::new();
        for url in seeds {
            if endpoints.iter().all(|e| e.url != *url) {
                let unknown = ServerKind::Unknown;
                let seed = Endpoint::new(url.clone(), true, 0, unknown, &settings.transport)?;
                endpoints.push(Arc::new(seed));
            }
        }
        let cluster = Arc::new(Self {
            settings,
            endpoints: RwLock::new(endpoints.into()),
            turn: AtomicUsize::new(rand::rng().random_range(0..1024)),
            kind: watch::Sender::new(ServerKind::Unknown),
            cluster_id: AtomicU64::new(0),
            learning: Mutex::new(()),
            last_failure: Mutex::new(None),
            refresher: Mutex::new(None),
        });
        let refresher = tokio::spawn(refresh(
            Arc::downgrade(&cluster),
            cluster.settings.refresh_interval,
        ));
        *cluster.refresher.lock() = Some(refresher.abort_handle());
        Ok(cluster)
    }

    pub(crate) fn kind(&self) -> ServerKind {
        *self.kind.borrow()
    }

    /// How long an endpoint may answer nothing before it is looked at, and then before it is left.
    pub(crate) fn hang_after(&self) -> Duration {
        self.settings.hang_after
    }

    pub(crate) fn watch_kind(&self) -> watch::Receiver<ServerKind> {
        self.kind.subscribe()
    }

    pub(crate) fn last_failure(&self) -> Option<Error> {
        self.last_failure.lock().clone()
    }

    pub(crate) fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        self.endpoints.read().clone()
    }

    /// The endpoint for the next attempt: healthy before not, untried before tried, in the
    /// preferred zone before outside, and in turn among equals.
    pub(crate) fn pick(&self, tried: &[Arc<Endpoint>]) -> Arc<Endpoint> {
        let endpoints = self.endpoints.read();
        let n = endpoints.len();
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % n;
        let mut best = (u8::MAX, start);
        for offset in 0..n {
            let at = (start + offset) % n;
            let endpoint = &endpoints[at];
            let score = u8::from(endpoint.is_foreign()) << 3
                | u8::from(!endpoint.is_healthy()) << 2
                | u8::from(tried.iter().any(|t| Arc::ptr_eq(t, endpoint))) << 1
                | u8::from(!endpoint.preferred.load(Ordering::Relaxed));
            if score < best.0 {
                best = (score, at);
                if score == 0 {
                    break;
                }
            }
        }
        endpoints[best.1].clone()
    }

    /// There is a healthy endpoint that is not among those tried.
    pub(crate) fn has_fresh(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.endpoints
            .read()
            .iter()
            .any(|e| e.is_healthy() && !e.is_foreign() && !tried.iter().any(|t| Arc::ptr_eq(t, e)))
    }

    /// Takes an endpoint out of use until a probe is answered.
    pub(crate) fn set_down(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        if endpoint.set_down() {
            tracing::debug!(url = %endpoint.url, "endpoint down");
            self.probe(endpoint);
        }
    }

    fn probe(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        tokio::spawn(probe_until_up(Arc::downgrade(self), endpoint.clone()));
    }

    /// Asks one endpoint about the cluster and takes in what it says.
    async fn ask(self: &Arc<Self>, endpoint: &Arc<Endpoint>) -> Result<(), Status> {
        let answer = time::timeout(PROBE_TIMEOUT, discover(endpoint.channel(), self.kind())).await;
        let result = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("probe timed out")));
        match result {
            Ok(sighting) => {
                self.learn(endpoint, sighting);
                Ok(())
            }
            Err(status) => {
                let error = judge(&status).into_error(Effect::None, endpoint.url.clone(), 1);
                *self.last_failure.lock() = Some(error);
                Err(status)
            }
        }
    }

    fn learn(self: &Arc<Self>, from: &Arc<Endpoint>, sighting: Sighting) {
        let _one_at_a_time = self.learning.lock();
        let known = self.cluster_id.load(Ordering::Relaxed);
        if known == 0 {
            self.cluster_id
                .store(sighting.cluster_id, Ordering::Relaxed);
        } else if known != sighting.cluster_id {
            if !from.is_foreign() {
                let (theirs, ours) = (sighting.cluster_id, known);
                tracing::warn!(url = %from.url, theirs, ours, "endpoint of another cluster ignored");
            }
            from.set_foreign();
            return;
        }
        from.node_id.store(sighting.answering, Ordering::Relaxed);
        let mut endpoints = self.endpoints().to_vec();
        if self.kind() == ServerKind::Unknown {
            for endpoint in &endpoints {
                endpoint.reconnect(sighting.kind, &self.settings.transport);
            }
        }
        let mut added = Vec::new();
        if self.settings.discover {
            added = self.merge(&mut endpoints, &sighting);
        }
        for endpoint in &endpoints {
            // The address alone tells whose it is, until the node itself has answered.
            if endpoint.node_id.load(Ordering::Relaxed) == 0
                && let Some(node) = sighting
                    .nodes
                    .iter()
                    .find(|n| n.url.as_ref() == Some(&endpoint.url))
            {
                endpoint.node_id.store(node.id, Ordering::Relaxed);
            }
            let id = endpoint.node_id.load(Ordering::Relaxed);
            let zone = sighting
                .nodes
                .iter()
                .find(|n| n.id == id)
                .and_then(|n| n.zone.as_ref());
            let preferred = zone.is_some() && zone == self.settings.prefer_zone.as_ref();
            endpoint.preferred.store(preferred, Ordering::Relaxed);
        }
        *self.endpoints.write() = endpoints.into();
        for endpoint in &added {
            self.probe(endpoint);
        }
        self.kind.send_if_modified(|kind| {
            let first = *kind == ServerKind::Unknown;
            if first {
                *kind = sighting.kind;
            }
            first
        });
    }

    /// Drops endpoints whose nodes are gone or that double a seed; returns those that are new.
    fn merge(&self, endpoints: &mut Vec<Arc<Endpoint>>, sighting: &Sighting) -> Vec<Arc<Endpoint>> {
        let id_of = |e: &Endpoint| e.node_id.load(Ordering::Relaxed);
        let seed_ids: Vec<u64> = endpoints
            .iter()
            .filter(|e| e.seed)
            .map(|e| id_of(e))
            .collect();
        endpoints.retain(|e| {
            let id = id_of(e);
            e.seed
                || (!seed_ids.contains(&id)
                    && sighting
                        .nodes
                        .iter()
                        .any(|n| n.id == id && n.url.as_ref() == Some(&e.url)))
        });
        let mut added = Vec::new();
        for node in &sighting.nodes {
            let Some(url) = &node.url else { continue };
            if endpoints
                .iter()
                .any(|e| id_of(e) == node.id || e.url == *url)
            {
                continue;
            }
            let transport = &self.settings.transport;
            match Endpoint::new(url.clone(), false, node.id, sighting.kind, transport) {
                Ok(endpoint) => {
                    tracing::debug!(%url, node = node.id, "endpoint discovered");
                    let endpoint = Arc::new(endpoint);
                    endpoints.push(endpoint.clone());
                    added.push(endpoint);
                }
                Err(error) => tracing::warn!(%url, %error, "cannot use the address of a node"),
            }
        }
        added
    }

    fn contains(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.endpoints
            .read()
            .iter()
            .any(|e| Arc::ptr_eq(e, endpoint))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(refresher) = self.refresher.get_mut() {
            refresher.abort();
        }
    }
}

/// Asks every seed at once, then somebody at every interval.
async fn refresh(cluster: Weak<Cluster>, interval: Duration) {
    if let Some(cluster) = cluster.upgrade() {
        for endpoint in cluster.endpoints().iter() {
            let (cluster, endpoint) = (Arc::downgrade(&cluster), endpoint.clone());
            tokio::spawn(async move {
                if let Some(cluster) = cluster.upgrade()
                    && cluster.ask(&endpoint).await.is_err()
                {
                    cluster.set_down(&endpoint);
                }
            });
        }
    }
    loop {
        let jitter = rand::rng().random_range(0.75..1.25);
        time::sleep(interval.mul_f64(jitter)).await;
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        // A seed that was restarted under another address or id shows up here too.
        let endpoint = cluster.pick(&[]);
        if cluster.ask(&endpoint).await.is_err() {
            cluster.set_down(&endpoint);
        }
    }
}

async fn probe_until_up(cluster: Weak<Cluster>, endpoint: Arc<Endpoint>) {
    let (mut pause_ms, longest_ms) = PROBE_PAUSE_MS;
    loop {
        let jittered = rand::rng().random_range(pause_ms / 2..=pause_ms);
        time::sleep(Duration::from_millis(jittered)).await;
        pause_ms = (pause_ms * 2).min(longest_ms);
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        if !cluster.contains(&endpoint) {
            return;
        }
        if cluster.ask(&endpoint).await.is_ok() {
            tracing::debug!(url = %endpoint.url, "endpoint up");
            endpoint.set_up();
            return;
        }
    }
}

/// Asks a node who the members of its cluster are.
pub(crate) async fn discover(channel: Channel, kind: ServerKind) -> Result<Sighting, Status> {
    if kind != ServerKind::Etcd {
        match AdminClient::new(channel.clone())
            .nodes(with_timeout(NodesRequest {}))
            .await
        {
            Ok(response) => {
                let response = response.into_inner();
                let answering = response
                    .nodes
                    .iter()
                    .find(|n| n.answering)
                    .map_or(0, |n| n.id);
                let nodes = response.nodes.into_iter().map(|n| SeenNode {
                    id: n.id,
                    zone: Some(n.zone).filter(|zone| !zone.is_empty()),
                    url: usable(&n.client_url),
                });
                return Ok(Sighting {
                    kind: ServerKind::Holdfast,
                    cluster_id: response.cluster_id,
                    answering,
                    nodes: nodes.collect(),
                });
            }
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return Err(status),
        }
    }
    let request = with_timeout(MemberListRequest {
        linearizable: false,
    });
    let response = ClusterClient::new(channel)
        .member_list(request)
        .await?
        .into_inner();
    let header = response.header.unwrap_or_default();
    let nodes = response.members.into_iter().map(|m| SeenNode {
        id: m.id,
        zone: None,
        url: m.client_ur_ls.iter().find_map(|url| usable(url)),
    });
    Ok(Sighting {
        kind: ServerKind::Etcd,
        cluster_id: header.cluster_id,
        answering: header.member_id,
        nodes: nodes.collect(),
    })
}

fn with_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PROBE_TIMEOUT);
    request
}

fn usable(url: &str) -> Option<Arc<str>> {
    normalize(url).ok().filter(|url| is_reachable_address(url))
}
