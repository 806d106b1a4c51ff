//! A client that repeats what was answered already.
//!
//! A network may deliver a request twice, and an application may send again what it has forgotten
//! to have sent. Under a retry id that must change nothing, however much later it comes, within the
//! requests that the store promises to remember. `holdfast-client` repeats only what it got no
//! answer to, so this client is made of the messages on the wire.
//!
//! - One request at a time, numbered from 1 under a client id that the store gave it.
//! - A request of unknown outcome is sent again, marked as a retry, until its time is over.
//! - When the store has forgotten the client, it registers again, and goes on under another id. A
//!   request in doubt stays so.
//! - Every few requests, one that was answered a while ago is sent again, under the id it had: marked
//!   as a retry, as by an application, or just as it was sent first, as by a network that held it up.
//!   Its answer is not looked at: what it must not do shows in the versions of the key.

use std::{collections::VecDeque, time::Duration};

use holdfast_client::{
    CLIENT_ID, REQUEST_SEQ, RETRY,
    proto::{
        etcdserverpb::{PutRequest, PutResponse, kv_client::KvClient},
        metadata::{OUTCOME, outcome},
        v1::{RegisterRequest, sessions_client::SessionsClient},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

/// Requests of one client that the store remembers at least, with room to spare.
const REMEMBERED: usize = 100;
/// One in this many requests is followed by a repetition.
const REPEAT_ONE_IN: u32 = 3;
/// How long ago a repeated request was answered, at least.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// Time for one attempt.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(1);
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_millis(50);

struct Answered {
    at: Instant,
    id: Id,
    request: PutRequest,
}

/// Under what a request is sent.
#[derive(Clone)]
struct Id {
    client: MetadataValue<Ascii>,
    seq: u64,
}

/// The client.
pub struct Repeater {
    nodes: Vec<Channel>,
    /// Id of the last request; none before the client is registered.
    last: Option<Id>,
    answered: VecDeque<Answered>,
    rng: StdRng,
    timeout: Duration,
}

impl Repeater {
    /// A client of these endpoints, `host:port`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// An endpoint that is no address.
    pub fn new(
        endpoints: &[String],
        seed: u64,
        timeout: Duration,
    ) -> Result<Self, tonic::transport::Error> {
        let nodes = endpoints.iter().map(|endpoint| {
            let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?
                .connect_timeout(ATTEMPT_WITHIN)
                .http2_keep_alive_interval(ATTEMPT_WITHIN)
                .keep_alive_timeout(ATTEMPT_WITHIN);
            Ok(endpoint.connect_lazy())
        });
        let nodes = nodes.collect::<Result<_, _>>()?;
        Ok(Self {
            nodes,
            last: None,
            answered: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
            timeout,
        })
    }

    /// Makes a put under a number of its own, then perhaps repeats an earlier one.
    ///
    /// # Errors
    ///
    /// Whether it took effect is not known.
    pub async fn put(&mut self, request: PutRequest) -> Result<PutResponse, Status> {
        let deadline = Instant::now() + self.timeout;
        let mut id = None;
        let mut retry = false;
        let (answer, id) = loop {
            let now = match &id {
                Some(id) => Id::clone(id),
                None => match self.next_id().await {
                    Ok(next) => id.insert(next).clone(),
                    Err(status) if Instant::now() + PAUSE >= deadline => return Err(status),
                    Err(_) => {
                        sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            match self.attempt(&request, &now, retry).await {
                Ok(answer) => break (answer, now),
                Err(status) if is_forgotten(&status) => {
                    self.last = None;
                    if retry || Instant::now() >= deadline {
                        return Err(status);
                    }
                    // Sent once, and refused: it may be sent under another id.
                    id = None;
                    continue;
                }
                Err(status) if Instant::now() + PAUSE >= deadline => return Err(status),
                Err(_) => retry = true,
            }
            sleep(PAUSE).await;
        };
        self.answered.push_back(Answered {
            at: Instant::now(),
            id,
            request,
        });
        while self.answered.len() > REMEMBERED {
            self.answered.pop_front();
        }
        if self.rng.random_ratio(1, REPEAT_ONE_IN) {
            self.repeat().await;
        }
        Ok(answer)
    }

    async fn repeat(&mut self) {
        let old = self
            .answered
            .iter()
            .take_while(|a| a.at.elapsed() >= REPEAT_AFTER);
        let old = old.count();
        if old == 0 {
            return;
        }
        let chosen = &self.answered[self.rng.random_range(0..old)];
        let (request, id) = (chosen.request.clone(), chosen.id.clone());
        let retry = self.rng.random();
        // It was answered before, so this answer tells nothing new, and none is no harm.
        let _ = self.attempt(&request, &id, retry).await;
    }

    /// The id of the next request; registers if it must.
    async fn next_id(&mut self) -> Result<Id, Status> {
        let next = match &self.last {
            Some(last) => Id {
                seq: last.seq + 1,
                ..last.clone()
            },
            None => {
                let mut message = Request::new(RegisterRequest {});
                message.set_timeout(ATTEMPT_WITHIN);
                let mut sessions = SessionsClient::new(self.any_node());
                let registered = sessions.register(message);
                let registered = timeout_at(Instant::now() + ATTEMPT_WITHIN, registered).await;
                let registered = registered
                    .map_err(|_| Status::deadline_exceeded("no answer in time"))??
                    .into_inner();
                let client = registered.client_id.parse();
                let client = client.map_err(|_| Status::internal("the id is not ASCII"))?;
                Id { client, seq: 1 }
            }
        };
        self.last = Some(next.clone());
        Ok(next)
    }

    fn any_node(&mut self) -> Channel {
        let node = self.rng.random_range(0..self.nodes.len());
        self.nodes[node].clone()
    }

    async fn attempt(
        &mut self,
        request: &PutRequest,
        id: &Id,
        retry: bool,
    ) -> Result<PutResponse, Status> {
        let mut message = Request::new(request.clone());
        message.set_timeout(ATTEMPT_WITHIN);
        let metadata = message.metadata_mut();
        metadata.insert(CLIENT_ID, id.client.clone());
        metadata.insert(REQUEST_SEQ, id.seq.into());
        if retry {
            metadata.insert(RETRY, MetadataValue::from_static("1"));
        }
        let mut node = KvClient::new(self.any_node());
        match timeout_at(Instant::now() + ATTEMPT_WITHIN, node.put(message)).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }
}

/// The store says that it does not know the client, or not any more.
fn is_forgotten(status: &Status) -> bool {
    let said = status.metadata().get(OUTCOME);
    said.is_some_and(|said| said.as_bytes() == outcome::CLIENT_UNKNOWN.as_bytes())
}
