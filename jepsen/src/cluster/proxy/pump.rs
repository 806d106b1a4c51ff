//! One direction of one connection: bytes come in, wait as long as the link's fault says, and go
//! out in the same order.
//!
//! ```text
//!   source ──read──▶ queue: bytes, each with its arrival and when it is due ──write──▶ sink
//!                      ▲                                        │
//!                      └── stamped anew when the fault changes  └── held while cut, paced by the rate
//! ```
//!
//! What holds here:
//!
//! - No byte is lost, doubled or overtaken. The end of the stream, and a reset, wait in the queue
//!   like bytes: behind a cut they are not seen either.
//! - What is under way is bounded; beyond that the source is not read, and so is slowed down by TCP.
//! - Latency is pipelined: bytes that come in one after another wait at the same time.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use rand::{RngExt, rngs::StdRng};
use tokio::{
    io::AsyncWriteExt,
    net::tcp::{ReadHalf, WriteHalf},
    sync::watch,
    time::{Instant, sleep_until},
};

use super::links::{LinkState, is_cut};
use crate::cluster::LinkFault;

/// Most that is under way in one direction of a connection: what Linux lets a socket send ahead by
/// default, so a link with latency is as fast as a real one.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// What an entry of the queue costs besides its bytes.
const ENTRY_BYTES: usize = 128;
/// Most bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// A packet's worth of bytes: what is lost together.
const SEGMENT_BYTES: usize = 1448;
/// Retransmission timeout of Linux on a fast link; it doubles with every repeated loss.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);
/// Longest retransmission timeout.
const RETRANSMIT_AFTER_MAX: Duration = Duration::from_secs(10);
/// Where the rate is bounded, this share of a second's bytes passes at once.
const SLICES_PER_SECOND: u64 = 50;

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The source said that it sends no more, and the sink was told.
    Closed,
    /// The sink takes no more. Its own direction tells the source.
    Broken,
}

/// The connection is to be reset, at both ends.
#[derive(Debug)]
pub struct Reset;

enum Content {
    Bytes(Bytes),
    Closed,
    Reset,
}

struct Entry {
    arrived: Instant,
    due: Instant,
    content: Content,
}

/// What a direction waits for.
enum Wait {
    /// More bytes, or another fault.
    Events,
    /// A moment.
    Until(Instant),
    /// Room at the sink.
    Room,
}

/// One direction of one connection.
///
/// - The entries of `queue` are in the order of arrival, and so are their due times.
/// - `cost` is the sum of their bytes and of `ENTRY_BYTES` for each.
pub struct Pump<'a> {
    source: ReadHalf<'a>,
    sink: WriteHalf<'a>,
    link: &'a LinkState,
    faults: watch::Receiver<LinkFault>,
    fault: LinkFault,
    rng: StdRng,
    /// The other direction could not write to our source: it is reset, even if reading says closed.
    source_broken: &'a AtomicBool,
    /// We could not write to the sink.
    sink_broken: &'a AtomicBool,
    queue: VecDeque<Entry>,
    cost: usize,
    buffer: BytesMut,
    source_ended: bool,
    /// Due time of the last entry that was stamped.
    last_due: Instant,
    /// Bytes of the first entry that are booked at the link, and when they have passed.
    booked: Option<(Instant, usize)>,
}

impl<'a> Pump<'a> {
    /// From `source` to `sink` over `link`, first the bytes of `begun`.
    pub fn new(
        (source, source_broken): (ReadHalf<'a>, &'a AtomicBool),
        (sink, sink_broken): (WriteHalf<'a>, &'a AtomicBool),
        link: &'a LinkState,
        rng: StdRng,
        begun: Bytes,
    ) -> Self {
        let mut faults = link.watch();
        let fault = *faults.borrow_and_update();
        let now = Instant::now();
        let mut pump = Self {
            source,
            sink,
            link,
            faults,
            fault,
            rng,
            source_broken,
            sink_broken,
            queue: VecDeque::new(),
            cost: 0,
            buffer: BytesMut::new(),
            source_ended: false,
            last_due: now,
            booked: None,
        };
        if !begun.is_empty() {
            pump.push(now, Content::Bytes(begun));
        }
        pump
    }

    /// Runs until the direction has ended, or the whole connection has to.
    pub async fn run(mut self) -> Result<Ended, Reset> {
        loop {
            let wait = match self.deliver().await? {
                Ok(wait) => wait,
                Err(ended) => return Ok(ended),
            };
            let until = match wait {
                Wait::Until(due) => Some(due),
                _ => None,
            };
            let may_read = !self.source_ended && self.cost < QUEUE_BYTES_MAX;
            tokio::select! {
                biased;
                changed = self.faults.changed() => {
                    // There are no more links once the cluster is shut down.
                    changed.map_err(|_| Reset)?;
                    self.stamp_anew();
                }
                _ = self.sink.writable(), if matches!(wait, Wait::Room) => {}
                _ = self.source.readable(), if may_read => self.read(),
                () = sleep_until(until.unwrap_or(self.last_due)), if until.is_some() => {}
            }
        }
    }

    /// Writes all that may be written now. The inner error is the end of the direction.
    async fn deliver(&mut self) -> Result<Result<Wait, Ended>, Reset> {
        while let Some(entry) = self.queue.front_mut() {
            if is_cut(&self.fault) {
                return Ok(Ok(Wait::Events));
            }
            // Asked for only when needed: it costs more than the rest where nothing is wrong.
            if entry.due > entry.arrived && entry.due > Instant::now() {
                return Ok(Ok(Wait::Until(entry.due)));
            }
            let bytes = match &mut entry.content {
                Content::Bytes(bytes) => bytes,
                Content::Closed => {
                    // Fails only if the sink is gone, which needs no telling.
                    let _ = self.sink.shutdown().await;
                    return Ok(Err(Ended::Closed));
                }
                Content::Reset => return Err(Reset),
            };
            let allowed = match self.fault.bytes_per_second {
                0 => bytes.len(),
                rate => {
                    let (passed, allowed) = *self.booked.get_or_insert_with(|| {
                        let slice = (rate / SLICES_PER_SECOND).clamp(1, READ_BYTES as u64);
                        let slice = bytes.len().min(slice as usize);
                        (self.link.book(slice, rate), slice)
                    });
                    if passed > Instant::now() {
                        return Ok(Ok(Wait::Until(passed)));
                    }
                    allowed
                }
            };
            match self.sink.try_write(&bytes[..allowed]) {
                Ok(written) => {
                    bytes.advance(written);
                    self.cost -= written;
                    if let Some((passed, allowed)) = self.booked.take() {
                        let left = allowed - written;
                        self.booked = (left > 0).then_some((passed, left));
                    }
                    if bytes.is_empty() {
                        self.cost -= ENTRY_BYTES;
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Ok(Wait::Room));
                }
                Err(_) => {
                    self.sink_broken.store(true, Ordering::Relaxed);
                    return Ok(Err(Ended::Broken));
                }
            }
        }
        Ok(Ok(Wait::Events))
    }

    fn read(&mut self) {
        if self.buffer.capacity() < READ_BYTES / 4 {
            self.buffer.reserve(READ_BYTES);
        }
        let content = match self.source.try_read_buf(&mut self.buffer) {
            Ok(0) if self.source_broken.load(Ordering::Relaxed) => Content::Reset,
            Ok(0) => Content::Closed,
            Ok(_) => Content::Bytes(self.buffer.split().freeze()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => Content::Reset,
        };
        self.source_ended = !matches!(content, Content::Bytes(_));
        self.push(Instant::now(), content);
    }

    /// Queues what has arrived, cut where a packet is lost: what comes behind waits for it.
    fn push(&mut self, arrived: Instant, content: Content) {
        match content {
            Content::Bytes(mut bytes) if self.fault.loss > 0.0 => {
                let mut segments = bytes.len().div_ceil(SEGMENT_BYTES);
                let mut stall = self.stall();
                while segments > 0 {
                    // As many as go on without a further loss.
                    let mut together = 1;
                    let mut next = Duration::ZERO;
                    while together < segments {
                        next = self.stall();
                        if !next.is_zero() {
                            break;
                        }
                        together += 1;
                    }
                    segments -= together;
                    let length = bytes.len().min(together * SEGMENT_BYTES);
                    let part = bytes.split_to(length);
                    self.enqueue(arrived, stall, Content::Bytes(part));
                    stall = next;
                }
            }
            content => self.enqueue(arrived, Duration::ZERO, content),
        }
    }

    fn enqueue(&mut self, arrived: Instant, stall: Duration, content: Content) {
        let mut due = arrived + self.fault.delay;
        if !self.fault.jitter.is_zero() {
            due += self.fault.jitter.mul_f64(self.rng.random());
        }
        let due = due.max(self.last_due) + stall;
        self.last_due = due;
        self.cost += ENTRY_BYTES;
        if let Content::Bytes(bytes) = &content {
            self.cost += bytes.len();
        }
        self.queue.push_back(Entry {
            arrived,
            due,
            content,
        });
    }

    /// How long a segment stalls the direction because it, and what repeats it, is lost.
    fn stall(&mut self) -> Duration {
        let mut stall = Duration::ZERO;
        let mut timeout = RETRANSMIT_AFTER;
        while self.fault.loss < 1.0 && self.rng.random::<f64>() < self.fault.loss {
            stall += timeout;
            timeout = (timeout * 2).min(RETRANSMIT_AFTER_MAX);
        }
        stall
    }

    /// The fault is another: what is under way is treated as if it had been so when it arrived.
    fn stamp_anew(&mut self) {
        self.fault = *self.faults.borrow_and_update();
        self.booked = None;
        self.cost = 0;
        let queue = std::mem::take(&mut self.queue);
        if let Some(first) = queue.front() {
            self.last_due = first.arrived;
        } else {
            self.last_due = Instant::now();
        }
        for entry in queue {
            self.push(entry.arrived, entry.content);
        }
    }
}
