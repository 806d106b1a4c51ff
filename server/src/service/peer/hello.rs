//! Whether a node may take part, before it does.
//!
//! A node with a new data directory asks *every* other member, and waits until all have answered:
//! only then can it be sure that no cluster exists in which it has voted before.
//!
//! A node that has a log asks whether its memory is the one that the others know. It promises
//! nothing to a member that has not vouched for it, and nothing to anybody until as many have as
//! make a majority together with it; with fewer it could do nothing anyway. It gives the others a
//! moment to object, and goes on to ask those that do not answer: whoever knows better takes it out
//! however late the answer comes.
//!
//! ```text
//!   opened ─▶ asks all ──┬─ enough vouch ─▶ takes part, and says so ──┬─ all vouch ─▶ done
//!                        └──────────────── a contradiction ───────────┴─▶ stays out
//! ```
//!
//! Because a member hears of a session before anything is promised to it in that session, it can
//! tell what was promised before, which the node must still know, from what came after. A member whose
//! own directory was replaced meanwhile has not heard of the session though it vouched for it. So once
//! the node takes part, what it knows by then counts: it includes all that was promised in the session.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use holdfast_proto::peer;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::GrpcTransport;
use crate::{
    group::MemberVersions,
    identity::{Contradiction, DataDir, IdentityError, Memory, Recorded, Session},
    limits, planted,
    raft::{NodeId, Reach, TransportError},
    storage::log::DroppedGroups,
};

/// Time between two attempts to reach a member.
const ATTEMPT_EVERY: Duration = Duration::from_millis(100);
/// Time between two questions to a member that stays out itself.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// Time between two lines in the log about members that do not answer.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// Whether this node may promise anything, and to whom. Closed until it is sure of its memory.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    /// Members that know the memory of this session.
    vouching: RwLock<BTreeSet<NodeId>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            open: watch::Sender::new(false),
            vouching: RwLock::default(),
        }
    }
}

impl Gate {
    /// A gate that is open to these.
    #[cfg(test)]
    pub(super) fn open_to(peers: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            open: watch::Sender::new(true),
            vouching: RwLock::new(peers.into_iter().collect()),
        }
    }

    /// The node takes part no longer.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Whether the node takes part.
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Whether this node may promise something to `peer`.
    pub fn lets(&self, peer: NodeId) -> bool {
        self.is_open() && self.vouching.read().contains(&peer)
    }
}

/// A member knows this node with another memory: it must stay out.
#[derive(Debug, PartialEq, Eq)]
pub struct LostMemory {
    /// The member that said so.
    pub by: NodeId,
    /// What speaks against this node.
    pub why: Contradiction,
}

/// What a node introduces itself with.
pub struct Introduction<'a> {
    /// The way to the members.
    pub transport: &'a GrpcTransport,
    /// Its directory.
    pub data: &'a DataDir,
    /// Its zone.
    pub zone: &'a str,
    /// All members, this node among them.
    pub members: &'a [NodeId],
    /// What it knew when it began.
    pub memory: &'a Memory,
    /// What it knows now.
    pub memory_now: &'a (dyn Fn() -> Memory + Sync),
    /// Where the versions of the members are kept.
    pub versions: &'a MemberVersions,
}

impl Introduction<'_> {
    /// Asks every other member whether it knows this node, until all have answered. A node with a
    /// new directory must not go on before.
    pub async fn before_anything(&self) -> Result<Option<LostMemory>, IdentityError> {
        self.run(&Gate::default(), usize::MAX).await
    }

    /// Introduces the node with the memory that it opened, until all members have answered or one
    /// knows better. Opens `gate` on the way.
    pub async fn with_memory(&self, gate: &Gate) -> Result<Option<LostMemory>, IdentityError> {
        // This node is one of the majority.
        self.run(gate, self.members.len() / 2).await
    }

    async fn run(&self, gate: &Gate, needed: usize) -> Result<Option<LostMemory>, IdentityError> {
        let identity = self.data.identity();
        let asking = Asking {
            introduction: self,
            gate,
            request: peer::HelloRequest {
                cluster_id: identity.cluster_id,
                node_id: identity.node_id,
                incarnation: self.memory.incarnation,
                zone: self.zone.to_string(),
                fresh: !identity.took_part,
                session: self.memory.sessions.number(),
                session_nonces: self.memory.sessions.nonces().to_vec(),
                reaches: reaches_to_wire(&self.memory.reaches),
                takes_part: false,
                dropped: dropped_to_wire(&self.memory.dropped),
                version: holdfast_mvcc::VERSION,
            },
            needed,
            progress: watch::Sender::default(),
            refusals: Mutex::default(),
        };
        let others: BTreeSet<NodeId> = self.members.iter().copied().collect();
        let others = others.into_iter().filter(|id| *id != identity.node_id);
        let mut missing: BTreeSet<NodeId> = others.collect();
        let mut answers: FuturesUnordered<_> = missing.iter().map(|id| asking.ask(*id)).collect();
        let mut opening = pin!(asking.open(missing.len()));
        let mut opened = false;
        let mut remind = pin!(tokio::time::sleep(REMIND_EVERY));
        loop {
            if missing.is_empty() && (opened || needed == usize::MAX) {
                return Ok(None);
            }
            tokio::select! {
                () = &mut opening, if !opened => opened = true,
                answered = answers.next(), if !missing.is_empty() => match answered {
                    Some(Ok(Ok(member))) => {
                        missing.remove(&member);
                    }
                    Some(Ok(Err(lost))) => return Ok(Some(lost)),
                    Some(Err(e)) => return Err(e),
                    None => unreachable!("each member that is missing is being asked"),
                },
                () = &mut remind => {
                    asking.remind(&missing);
                    remind.as_mut().reset(tokio::time::Instant::now() + REMIND_EVERY);
                }
            }
        }
    }
}

/// Members that have been heard, or not, in this introduction.
#[derive(Debug, Default)]
struct Progress {
    vouching: usize,
    tried: BTreeSet<NodeId>,
}

struct Asking<'a> {
    introduction: &'a Introduction<'a>,
    gate: &'a Gate,
    request: peer::HelloRequest,
    /// Members that must vouch before the gate opens.
    needed: usize,
    progress: watch::Sender<Progress>,
    /// What each member refused last, so that it is told once.
    refusals: Mutex<BTreeMap<NodeId, String>>,
}

impl Asking<'_> {
    /// Opens the gate once enough have vouched, and everybody else had a moment to object.
    async fn open(&self, others: usize) {
        let begun = tokio::time::Instant::now();
        let mut progress = self.progress.subscribe();
        // The sender lives in `self`.
        let _ = progress.wait_for(|p| p.vouching >= self.needed).await;
        tokio::select! {
            _ = progress.wait_for(|p| p.tried.len() >= others) => {}
            () = tokio::time::sleep_until(begun + limits::HELLO_GRACE) => {}
        }
        self.gate.open.send_replace(true);
    }

    /// Asks one member until it vouches for this node, or knows better; then, once the node takes
    /// part, tells it so.
    async fn ask(&self, member: NodeId) -> Result<Result<NodeId, LostMemory>, IdentityError> {
        if let Err(lost) = self.until_vouched(member, false).await? {
            return Ok(Err(lost));
        }
        if self.needed == usize::MAX {
            return Ok(Ok(member));
        }
        self.gate.vouching.write().insert(member);
        self.progress.send_modify(|progress| progress.vouching += 1);
        let mut open = self.gate.open.subscribe();
        // The sender lives in the gate.
        let _ = open.wait_for(|open| *open).await;
        self.until_vouched(member, true).await
    }

    async fn until_vouched(
        &self,
        member: NodeId,
        takes_part: bool,
    ) -> Result<Result<NodeId, LostMemory>, IdentityError> {
        let Introduction {
            transport,
            data,
            memory,
            memory_now,
            versions,
            ..
        } = self.introduction;
        // What was dropped meanwhile was not lost.
        let known = || match takes_part {
            true => memory_now(),
            false => Memory {
                dropped: memory_now().dropped,
                ..(*memory).clone()
            },
        };
        loop {
            let told = known();
            let hello = transport.hello(
                member,
                peer::HelloRequest {
                    takes_part,
                    reaches: reaches_to_wire(&told.reaches),
                    dropped: dropped_to_wire(&told.dropped),
                    ..self.request.clone()
                },
            );
            let answer = tokio::time::timeout(limits::HELLO_WAIT_MAX, hello).await;
            self.progress.send_modify(|progress| {
                progress.tried.insert(member);
            });
            let pause = match answer {
                Ok(Ok(answer)) => {
                    // Looked at after the answer, so nothing was promised since.
                    match known().contradicts(&recorded(&answer)) {
                        Some(why) if !planted::trusts_any_memory() => {
                            return Ok(Err(LostMemory { by: member, why }));
                        }
                        _ => {}
                    }
                    data.record_peer(answer.node_id, answer.incarnation)?;
                    versions.heard(answer.node_id, answer.version);
                    if !answer.stays_out {
                        return Ok(Ok(member));
                    }
                    ASK_AGAIN_EVERY
                }
                Ok(Err(TransportError::Refused { why, .. })) => {
                    let before = self.refusals.lock().insert(member, why.clone());
                    if before.as_ref() != Some(&why) {
                        tracing::error!(member, why, "a member of the cluster refuses this node");
                    }
                    ATTEMPT_EVERY
                }
                Ok(Err(e)) => {
                    tracing::debug!(member, error = %e, "introduction not answered");
                    ATTEMPT_EVERY
                }
                Err(_) => {
                    tracing::debug!(member, "introduction not answered in time");
                    ATTEMPT_EVERY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn remind(&self, missing: &BTreeSet<NodeId>) {
        if self.gate.is_open() {
            tracing::info!(?missing, "members that have not answered since the start");
            return;
        }
        tracing::warn!(
            ?missing,
            "waiting for members to say that they know this node; it takes no part before. Start \
             them, or look whether their peer addresses can be reached"
        );
    }
}

fn recorded(answer: &peer::HelloResponse) -> Recorded {
    Recorded {
        incarnation: answer.recorded_incarnation,
        session: (answer.recorded_session > 0).then_some(Session {
            number: answer.recorded_session,
            nonce: answer.recorded_session_nonce,
        }),
        promised: reaches_from_wire(&answer.promised),
    }
}

pub(super) fn reaches_to_wire(reaches: &[(u64, Reach)]) -> Vec<peer::Reach> {
    let wire = reaches.iter().map(|(group_id, reach)| peer::Reach {
        group_id: *group_id,
        term: reach.term,
        index: reach.index,
    });
    wire.collect()
}

fn dropped_to_wire(dropped: &DroppedGroups) -> Vec<peer::GroupRange> {
    let ranges = dropped.ranges();
    ranges
        .map(|(first, last)| peer::GroupRange { first, last })
        .collect()
}

/// Ranges that make no sense are none.
pub(super) fn dropped_from_wire(wire: &[peer::GroupRange]) -> DroppedGroups {
    let ranges = wire.iter().map(|range| (range.first, range.last));
    ranges.filter(|(first, last)| first <= last).collect()
}

pub(super) fn reaches_from_wire(wire: &[peer::Reach]) -> Vec<(u64, Reach)> {
    let reaches = wire.iter().map(|wire| {
        let reach = Reach {
            term: wire.term,
            index: wire.index,
        };
        (wire.group_id, reach)
    });
    reaches.collect()
}
