//! Settings of a client, with defaults that need no tuning.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::{
    Client,
    call::{Core, Policy},
    cluster::{Cluster, Settings},
    endpoint::{ServerKind, Transport, normalize},
    error::{Effect, Error, Result},
};

/// Endpoint that is used when none is given.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";
/// Time that a request has, retries included, unless set otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a [`Client`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until connect() is awaited"]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    prefer_zone: Option<String>,
    keyspace: Option<String>,
    timeout: Duration,
    connect_timeout: Duration,
    discover: bool,
    refresh_interval: Duration,
    hang_after: Duration,
    transport: Transport,
    policy: Policy,
}

impl Transport {
    /// One connection, with the default keepalive.
    pub(crate) fn single() -> Self {
        Self {
            connections_per_endpoint: 1,
            keepalive_interval: Duration::from_millis(500),
            keepalive_timeout: Duration::from_secs(1),
        }
    }
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefer_zone: None,
            keyspace: None,
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: Duration::from_secs(2),
            discover: true,
            refresh_interval: Duration::from_secs(10),
            hang_after: Duration::from_millis(200),
            transport: Transport::single(),
            policy: Policy {
                hedge_after: Duration::from_secs(1),
                attempts_max: u32::MAX,
                repeat_unprotected: false,
                retry_ids: true,
            },
        }
    }
}

impl ClientBuilder {
    /// Adds endpoints: `host:port` or `http://host:port`. Without any, `127.0.0.1:2379`.
    pub fn endpoints<E: AsRef<str>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints
            .extend(endpoints.into_iter().map(|e| e.as_ref().to_owned()));
        self
    }

    /// Sends requests to nodes of this zone while one of them is healthy.
    pub fn prefer_zone(mut self, zone: impl Into<String>) -> Self {
        self.prefer_zone = Some(zone.into());
        self
    }

    /// The keyspace of the client that is made; see [`Client::keyspace`].
    pub fn keyspace(mut self, name: impl Into<String>) -> Self {
        self.keyspace = Some(name.into());
        self
    }

    /// Time that a request has, retries included. Default: 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long [`connect`](Self::connect) waits for the first answer. Default: 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether to use nodes of the cluster that are not among the endpoints given. Default: yes.
    pub fn discover(mut self, yes: bool) -> Self {
        self.discover = yes;
        self
    }

    /// How often the list of nodes is read again. Default: 10 s.
    pub fn refresh_interval(mut self, interval: Duration) -> Self {
        self.refresh_interval = interval;
        self
    }

    /// Connections to each endpoint, used in turn. Default: 1.
    pub fn connections_per_endpoint(mut self, connections: usize) -> Self {
        self.transport.connections_per_endpoint = connections;
        self
    }

    /// A connection that has been silent for `interval` is pinged, and is given up if the answer
    /// takes longer than `timeout`. Default: 500 ms and 1 s. Slower against etcd, which hangs up on
    /// clients that ping often.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.transport.keepalive_interval = interval;
        self.transport.keepalive_timeout = timeout;
        self
    }

    /// An attempt that takes longer than this is tried on another endpoint as well, where that is
    /// safe. Default: 1 s.
    pub fn hedge_after(mut self, time: Duration) -> Self {
        self.policy.hedge_after = time;
        self
    }

    /// An endpoint that has answered nothing for this long, although a request waits for it, is asked whether
    /// it lives; if it answers nothing in as long again it is left, and requests that wait for it are tried on
    /// another endpoint, where that is safe. Default: 200 ms.
    pub fn hang_after(mut self, time: Duration) -> Self {
        self.hang_after = time;
        self
    }

    /// How often a request is sent at most; 1 for no retries. Default: as often as its time allows.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.policy.attempts_max = attempts.max(1);
        self
    }

    /// Also repeats writes of unknown effect on a server that does not know retry ids. They may
    /// then take effect more than once. Default: no.
    pub fn retry_unprotected_writes(mut self, yes: bool) -> Self {
        self.policy.repeat_unprotected = yes;
        self
    }

    /// Whether writes carry retry ids. Default: yes. Without them this is a stock etcd client: a
    /// write of unknown effect is not repeated, whatever the server.
    pub fn retry_ids(mut self, yes: bool) -> Self {
        self.policy.retry_ids = yes;
        self
    }

    /// Makes the client without waiting for the cluster. Must be called within a tokio runtime.
    /// Until an endpoint has answered, writes of unknown effect are not repeated.
    pub fn connect_lazy(self) -> Result<Client> {
        let mut seeds = Vec::<Arc<str>>::new();
        for endpoint in &self.endpoints {
            seeds.push(normalize(endpoint)?);
        }
        if seeds.is_empty() {
            seeds.push(normalize(DEFAULT_ENDPOINT)?);
        }
        let settings = Settings {
            transport: self.transport,
            prefer_zone: self.prefer_zone,
            discover: self.discover,
            refresh_interval: self.refresh_interval,
            hang_after: self.hang_after,
        };
        let cluster = Cluster::start(settings, &seeds)?;
        let core = Core {
            cluster,
            policy: self.policy,
            scopes: Mutex::default(),
            repeats: Default::default(),
        };
        let client = Client::new(core, self.timeout);
        match self.keyspace {
            Some(name) => client.keyspace(&name),
            None => Ok(client),
        }
    }

    /// Makes the client and waits until an endpoint has answered.
    pub async fn connect(self) -> Result<Client> {
        let patience = self.connect_timeout;
        let deadline = Instant::now() + patience;
        let client = self.connect_lazy()?;
        let mut kind = client.cluster().watch_kind();
        let known = kind.wait_for(|kind| *kind != ServerKind::Unknown);
        if let Ok(Ok(_)) = timeout_at(deadline, known).await {
            return Ok(client);
        }
        let last = client.cluster().last_failure();
        Err(Error::deadline(patience, last, Effect::None, 0))
    }
}
