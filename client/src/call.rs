//! The engine that carries every request: attempts, failover, hedging, backoff, deadline.
//!
//! ```text
//!  run ─▶ retry id (writes) ─▶ round ─────────────────────────────▶ answer
//!                               ▲  attempt at one endpoint;          or an error that repeating
//!                               │  slow, or the endpoint hangs?      cannot change
//!                               │  a second one elsewhere
//!                               │
//!                               └── failed, may be repeated: at once if an untried healthy endpoint
//!                                   is left, else after a random pause that grows ── deadline?
//! ```
//!
//! A retry id comes from the cluster; the first write registers for it, like any other request. A
//! cluster that has forgotten the id refuses the write, which is then sent under a new one, if no
//! sending of it is in doubt.
//!
//! What it promises:
//!
//! - nothing is awaited past the deadline, and every attempt tells the server what is left of it;
//! - a request that may have taken effect is sent again only if it is a read, or a write whose
//!   retry id the server understands, or the user has opted in;
//! - an attempt says so (`holdfast-retry: 1`) if an earlier one may have taken effect. One that was
//!   refused before anything was done leaves no trace, and the next is as good as the first.

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_proto::{
    metadata::{CLIENT_ID, KEYSPACE, REQUEST_SEQ, RETRY},
    v1::{RegisterRequest, RegisterResponse},
};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};

use crate::{
    cluster::Cluster,
    endpoint::{Endpoint, ServerKind},
    error::{Effect, Error, ErrorKind, Result},
    rpc::{Class, Rpc},
    sessions::{Claim, Sessions, Ticket},
    verdict::{Fault, Verdict, judge},
};

/// Bounds of the pause before another attempt: the n-th is random between 0 and
/// `min(BACKOFF_MAX_MS, BACKOFF_MS * 2^n)`.
const BACKOFF_MS: u64 = 8;
const BACKOFF_MAX_MS: u64 = 200;

/// How requests are repeated.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// An attempt that takes longer is tried on a second endpoint beside it.
    pub(crate) hedge_after: Duration,
    /// 1 means that nothing is repeated.
    pub(crate) attempts_max: u32,
    /// Repeat writes of unknown effect although the server does not know retry ids.
    pub(crate) repeat_unprotected: bool,
    /// Writes carry retry ids.
    pub(crate) retry_ids: bool,
}

/// Everything the calls of one client share.
pub(crate) struct Core {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) policy: Policy,
    /// By name, so that all handles on a keyspace share them.
    pub(crate) scopes: Mutex<HashMap<String, Arc<Scope>>>,
    /// How often a request was sent after its first time.
    pub(crate) repeats: AtomicU64,
}

/// A keyspace, and the retry ids for it.
pub(crate) struct Scope {
    /// None for the default one.
    pub(crate) keyspace: Option<MetadataValue<Ascii>>,
    pub(crate) sessions: Sessions,
}

impl Scope {
    pub(crate) fn new(keyspace: Option<MetadataValue<Ascii>>) -> Self {
        Self {
            keyspace,
            sessions: Sessions::new(),
        }
    }
}

/// Where one call stands.
struct Call<'a, R> {
    core: &'a Core,
    request: R,
    scope: &'a Scope,
    ticket: Option<Ticket<'a>>,
    deadline: Instant,
    attempts: u32,
    tried: Vec<Arc<Endpoint>>,
    /// An earlier attempt of a write may have taken effect.
    in_doubt: bool,
    /// So may one that is still under way.
    hedged: bool,
    last: Option<Error>,
}

/// How one round ended.
enum Round<T> {
    Answer(T),
    Failed(Status, Arc<Endpoint>),
    /// No attempt ended in time; they are given up.
    TooSlow,
}

impl Core {
    pub(crate) async fn run<R: Rpc>(
        &self,
        request: R,
        scope: &Scope,
        timeout: Duration,
    ) -> Result<R::Response> {
        let limit = (Instant::now() + timeout, timeout);
        let class = request.class();
        let mut attempts = 0;
        loop {
            let ticket = match class {
                Class::Write => self.ticket(scope, limit).await?,
                Class::Read | Class::Once => None,
            };
            let session = ticket.as_ref().map(|ticket| ticket.session().clone());
            let request = request.clone();
            let call = Call::new(self, request, scope, ticket, limit.0, attempts);
            let error = match call.run(class, timeout).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let ErrorKind::ClientForgotten(_) = error.kind()
                && let Some(session) = session
            {
                scope.sessions.forget(&session);
                attempts = error.attempts();
                let may_repeat = attempts < self.policy.attempts_max;
                if error.effect() == Effect::None && may_repeat && Instant::now() < limit.0 {
                    continue;
                }
            }
            return Err(error);
        }
    }

    /// A retry id for a write. None where the server does not know what that is.
    async fn ticket<'a>(
        &self,
        scope: &'a Scope,
        limit @ (deadline, timeout): (Instant, Duration),
    ) -> Result<Option<Ticket<'a>>> {
        if !self.policy.retry_ids {
            return Ok(None);
        }
        while self.cluster.kind() != ServerKind::Etcd {
            let opening = match timeout_at(deadline, scope.sessions.claim()).await {
                Ok(Claim::Ticket(ticket)) => return Ok(Some(ticket)),
                Ok(Claim::Open(opening)) => opening,
                Err(_) => return Err(Error::deadline(timeout, None, Effect::None, 0)),
            };
            let registered = match self.register(scope, limit).await {
                Ok(registered) => registered,
                // A plain etcd, or a cluster in which not every node knows it yet.
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported(_)) => break,
                Err(error) => return Err(error),
            };
            match registered.client_id.parse() {
                Ok(id) => opening.open(id, registered.requests_in_flight_max),
                Err(_) => break,
            }
        }
        Ok(None)
    }

    async fn register(
        &self,
        scope: &Scope,
        (deadline, timeout): (Instant, Duration),
    ) -> Result<RegisterResponse> {
        let call = Call::new(self, RegisterRequest {}, scope, None, deadline, 0);
        call.run(Class::Read, timeout).await
    }
}

impl<'a, R: Rpc> Call<'a, R> {
    fn new(
        core: &'a Core,
        request: R,
        scope: &'a Scope,
        ticket: Option<Ticket<'a>>,
        deadline: Instant,
        attempts: u32,
    ) -> Self {
        Call {
            core,
            request,
            scope,
            ticket,
            deadline,
            attempts,
            tried: Vec::new(),
            in_doubt: false,
            hedged: false,
            last: None,
        }
    }

    async fn run(mut self, class: Class, timeout: Duration) -> Result<R::Response> {
        let mut failures = 0;
        loop {
            self.hedged = false;
            match self.round(class).await {
                Round::Answer(answer) => return Ok(answer),
                Round::TooSlow => self.in_doubt |= class != Class::Read,
                Round::Failed(status, endpoint) => {
                    let verdict = judge(&status);
                    self.blame(&endpoint, verdict.fault);
                    let again = self.may_repeat(class, &verdict);
                    self.settle_doubt(class, &verdict);
                    let error =
                        verdict.into_error(self.effect(), endpoint.url.clone(), self.attempts);
                    if !again {
                        return Err(error);
                    }
                    self.tried.push(endpoint);
                    self.last = Some(error);
                }
            }
            failures += 1;
            if Instant::now() >= self.deadline {
                return Err(self.out_of_time(timeout));
            }
            if !self.core.cluster.has_fresh(&self.tried) {
                self.tried.clear();
                let wake = Instant::now() + backoff(failures);
                sleep_until(wake.min(self.deadline)).await;
                if wake >= self.deadline {
                    return Err(self.out_of_time(timeout));
                }
            }
        }
    }

    /// May be sent again although an earlier attempt may have taken effect.
    fn repeatable(&self, class: Class) -> bool {
        match class {
            Class::Read => true,
            Class::Write => self.core.policy.repeat_unprotected || self.protected(),
            Class::Once => false,
        }
    }

    /// The server makes sure that a write takes effect once, however often it is sent: it gave the
    /// write its id.
    fn protected(&self) -> bool {
        self.ticket.is_some()
    }

    fn may_repeat(&self, class: Class, verdict: &Verdict) -> bool {
        let safe = verdict.effect == Effect::None || self.repeatable(class);
        verdict.again && safe && self.attempts < self.core.policy.attempts_max
    }

    fn settle_doubt(&mut self, class: Class, verdict: &Verdict) {
        if class == Class::Read {
            return;
        }
        // With a retry id the state machine's own answer is the fate of every attempt: had an
        // earlier one taken effect, this one would have got its answer. Any other refusal, of a
        // proxy or of a node that looked at the request alone, knows nothing of earlier attempts.
        let vouched = verdict.settled && self.protected();
        self.in_doubt = !vouched && (self.in_doubt || verdict.effect == Effect::Unknown);
    }

    fn effect(&self) -> Effect {
        if self.in_doubt {
            Effect::Unknown
        } else {
            Effect::None
        }
    }

    fn out_of_time(&mut self, timeout: Duration) -> Error {
        Error::deadline(timeout, self.last.take(), self.effect(), self.attempts)
    }

    fn blame(&self, endpoint: &Arc<Endpoint>, fault: Fault) {
        // What fails as the deadline passes has mostly failed because of it.
        if Instant::now() + Duration::from_millis(2) >= self.deadline {
            return;
        }
        match fault {
            Fault::None => {}
            Fault::Avoid => endpoint.avoid(),
            Fault::Down => self.core.cluster.set_down(endpoint),
        }
    }

    /// One attempt, or two side by side if the first is slow.
    async fn round(&mut self, class: Class) -> Round<R::Response> {
        let first_at = self.core.cluster.pick(&self.tried);
        let mut first = pin!(self.attempt(&first_at));
        let hedge_at = Instant::now() + self.core.policy.hedge_after;
        let hedge = self.repeatable(class) && self.attempts < self.core.policy.attempts_max;
        let wake = if hedge {
            hedge_at.min(self.deadline)
        } else {
            self.deadline
        };
        tokio::select! {
            biased;
            result = &mut first => return Round::of(result, first_at),
            () = sleep_until(wake) => if wake >= self.deadline {
                return Round::TooSlow;
            },
            () = self.core.cluster.hangs(&first_at), if hedge => {}
        }
        // Whether the slow endpoint still lives is for the probe to find out.
        self.core.cluster.set_down(&first_at);
        self.tried.push(first_at.clone());
        self.hedged = true;
        let second_at = self.core.cluster.pick(&self.tried);
        // Boxed, so that the many requests that need no second attempt stay small.
        let mut second = Box::pin(self.attempt(&second_at));
        let wake = (Instant::now() + self.core.policy.hedge_after).min(self.deadline);
        let (result, first_ended) = tokio::select! {
            biased;
            result = &mut first => (result, true),
            result = &mut second => (result, false),
            () = sleep_until(wake) => {
                self.tried.push(second_at);
                return Round::TooSlow;
            }
        };
        let at = if first_ended { &first_at } else { &second_at };
        let status = match result {
            Ok(answer) => {
                at.heard();
                return Round::Answer(answer.into_inner());
            }
            Err(status) => status,
        };
        let verdict = judge(&status);
        if !verdict.again {
            // The other attempt is given up, its fate not known.
            self.in_doubt |= class != Class::Read;
            return Round::Failed(status, at.clone());
        }
        self.blame(at, verdict.fault);
        self.settle_doubt(class, &verdict);
        self.tried.push(second_at.clone());
        if first_ended {
            tokio::select! {
                result = &mut second => Round::of(result, second_at),
                () = sleep_until(wake) => Round::TooSlow,
            }
        } else {
            tokio::select! {
                result = &mut first => Round::of(result, first_at),
                () = sleep_until(wake) => Round::TooSlow,
            }
        }
    }

    /// Sends the request once. The future owns all it needs.
    fn attempt(
        &mut self,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<Response<R::Response>, Status>> + Send + use<R> {
        if self.attempts > 0 {
            self.core.repeats.fetch_add(1, Ordering::Relaxed);
        }
        self.attempts += 1;
        let mut request = Request::new(self.request.clone());
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        let metadata = request.metadata_mut();
        if let Some(keyspace) = &self.scope.keyspace {
            metadata.insert(KEYSPACE, keyspace.clone());
        }
        if let Some(ticket) = &self.ticket {
            metadata.insert(CLIENT_ID, ticket.client_id());
            metadata.insert(REQUEST_SEQ, ticket.seq().into());
            if self.in_doubt || self.hedged {
                metadata.insert(RETRY, MetadataValue::from_static("1"));
            }
        }
        R::send(endpoint.channel(), request)
    }
}

impl<T> Round<T> {
    fn of(result: Result<Response<T>, Status>, at: Arc<Endpoint>) -> Self {
        match result {
            Ok(answer) => {
                at.heard();
                Round::Answer(answer.into_inner())
            }
            Err(status) => Round::Failed(status, at),
        }
    }
}

/// "Full jitter": anything up to the bound, so that clients that failed together do not return
/// together.
fn backoff(failures: u32) -> Duration {
    let bound = (BACKOFF_MS << failures.min(16)).min(BACKOFF_MAX_MS);
    Duration::from_micros(rand::rng().random_range(0..=bound * 1000))
}
