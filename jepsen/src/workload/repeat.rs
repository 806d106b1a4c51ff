//! A client that repeats what was answered already.
//!
//! A network may deliver a request twice, and an application may send again what it has forgotten
//! to have sent. Under a retry id that must change nothing, however much later it comes, within the
//! requests that the store promises to remember. `holdfast-client` repeats only what it got no
//! answer to, so this client is made of the messages on the wire.
//!
//! - One request at a time, numbered from 1 under a client id of its own.
//! - A request of unknown outcome is sent again, marked as a retry, until its time is over.
//! - Every few requests, one that was answered a while ago is sent again. Its answer is not looked
//!   at: what it must not do shows in the versions of the key.

use std::{collections::VecDeque, time::Duration};

use holdfast_client::{
    CLIENT_ID, REQUEST_SEQ, RETRY,
    proto::etcdserverpb::{PutRequest, PutResponse, kv_client::KvClient},
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
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
    seq: u64,
    request: PutRequest,
}

/// The client.
pub struct Repeater {
    nodes: Vec<KvClient<Channel>>,
    client_id: MetadataValue<Ascii>,
    /// Of the last request.
    seq: u64,
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
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = endpoints.iter().map(|endpoint| {
            let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?
                .connect_timeout(ATTEMPT_WITHIN)
                .http2_keep_alive_interval(ATTEMPT_WITHIN)
                .keep_alive_timeout(ATTEMPT_WITHIN);
            Ok(KvClient::new(endpoint.connect_lazy()))
        });
        let nodes = nodes.collect::<Result<_, _>>()?;
        let id = format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64());
        Ok(Self {
            nodes,
            client_id: id.parse().expect("hexadecimal digits are ASCII"),
            seq: 0,
            answered: VecDeque::new(),
            rng,
            timeout,
        })
    }

    /// Makes a put under a number of its own, then perhaps repeats an earlier one.
    ///
    /// # Errors
    ///
    /// Whether it took effect is not known.
    pub async fn put(&mut self, request: PutRequest) -> Result<PutResponse, Status> {
        self.seq += 1;
        let seq = self.seq;
        let deadline = Instant::now() + self.timeout;
        let mut retry = false;
        let answer = loop {
            match self.attempt(&request, seq, retry).await {
                Ok(answer) => break answer,
                Err(status) if Instant::now() + PAUSE >= deadline => return Err(status),
                Err(_) => retry = true,
            }
            sleep(PAUSE).await;
        };
        self.answered.push_back(Answered {
            at: Instant::now(),
            seq,
            request,
        });
        while self
            .answered
            .front()
            .is_some_and(|a| a.seq + REMEMBERED as u64 <= seq)
        {
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
        let (request, seq) = (chosen.request.clone(), chosen.seq);
        // It was answered before, so this answer tells nothing new, and none is no harm.
        let _ = self.attempt(&request, seq, true).await;
    }

    async fn attempt(
        &mut self,
        request: &PutRequest,
        seq: u64,
        retry: bool,
    ) -> Result<PutResponse, Status> {
        let mut message = Request::new(request.clone());
        message.set_timeout(ATTEMPT_WITHIN);
        let metadata = message.metadata_mut();
        metadata.insert(CLIENT_ID, self.client_id.clone());
        metadata.insert(REQUEST_SEQ, seq.into());
        if retry {
            metadata.insert(RETRY, MetadataValue::from_static("1"));
        }
        let node = self.rng.random_range(0..self.nodes.len());
        let node = &mut self.nodes[node];
        match timeout_at(Instant::now() + ATTEMPT_WITHIN, node.put(message)).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }
}
