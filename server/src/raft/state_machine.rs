//! The state machine of one group: applies committed entries to the keyspace.
//!
//! ```text
//!  committed entries ─▶ decode ─▶ mvcc::StateMachine::apply ─▶ writes ─▶ StateStore (memory table)
//!                                        │                                   │ mark_applied
//!                                        ▼                                   ▼
//!                                     answers ◀── sent after ── Published{index, revisions}
//! ```
//!
//! Entries are taken in chunks. A chunk's writes go to the memory table, then its applied mark,
//! then the new revision is published to readers, then the proposers get their answers: who has
//! an answer can read what it wrote. Nothing here waits for the checkpoint engine, except when
//! the memory tables are full.

mod checkpoint;
mod newest;
mod shared;

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use holdfast_mvcc as mvcc;
use holdfast_proto::{command, snapshot as wire};
use openraft::{
    EntryPayload, OptionalSend,
    storage::{EntryResponder, RaftStateMachine},
};
use prost::Message;
use tokio::sync::watch;

use super::{
    codec::{DecodeError, log_id, membership_from_bytes, membership_to_bytes},
    log_store::check_next,
    snapshot::{LiveSnapshot, SnapshotData},
    type_config::{GroupId, LogId, Outcome, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    detector::Vitals,
    limits,
    storage::{
        cause::Cause,
        state::{StateError, StateStore, View},
    },
};

use self::newest::{GroupNewest, Remembering};
pub use self::{
    checkpoint::Checkpoint,
    newest::NewestVersions,
    shared::{Pin, Published, SharedState},
};

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Applies the log of one group.
///
/// - `machine` is exactly what [`mvcc::StateMachine::load`] would give from the store.
/// - The published index never runs ahead of what readers can read.
/// - Entries are applied without a gap: the next one is at the index after `applied`, across chunks,
///   restarts and snapshots. Another one stops the group.
pub struct GroupStateMachine {
    group_id: GroupId,
    shared: Arc<SharedState>,
    machine: mvcc::StateMachine,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// The membership encoded, because every applied mark carries it.
    membership_bytes: Bytes,
    /// A scrub under way, and the compact revision it works towards. A pin that comes later pins a
    /// revision that is not lower.
    scrub: Option<(mvcc::ScrubCursor, i64)>,
    scrubbed_to: i64,
    newest: GroupNewest,
    /// The counters as the last entry left them, until the next applied mark: all changes write them, and
    /// only the last of a chunk counts.
    revisions: Option<mvcc::Write>,
    /// Bytes written since the last applied mark.
    unmarked_bytes: u64,
    /// Where it says that it applies.
    vitals: Arc<Vitals>,
    /// Dropped with it.
    life: watch::Sender<()>,
}

fn written_bytes(write: &mvcc::Write) -> u64 {
    (write.key.len() + write.value.as_ref().map_or(0, Bytes::len)) as u64
}

fn is_revisions(write: &mvcc::Write) -> bool {
    write.key[..] == mvcc::REVISIONS
}

impl GroupStateMachine {
    /// Loads the counters of a group from its store.
    pub fn open(
        group_id: GroupId,
        store: Arc<StateStore>,
        versions: Arc<NewestVersions>,
    ) -> io::Result<Self> {
        let loaded = Loaded::read(&store.view(), store.applied_record())?;
        let shared = Arc::new(SharedState::new(store, loaded.published()));
        Ok(Self {
            group_id,
            shared,
            membership_bytes: membership_to_bytes(loaded.record.membership.membership()),
            machine: loaded.machine,
            applied: loaded.record.applied,
            membership: loaded.record.membership,
            scrub: None,
            scrubbed_to: -1,
            newest: GroupNewest::within(versions),
            revisions: None,
            unmarked_bytes: 0,
            vitals: Arc::default(),
            life: watch::Sender::new(()),
        })
    }

    /// Says to `vitals` what it is doing.
    #[must_use]
    pub fn watched_by(mut self, vitals: Arc<Vitals>) -> Self {
        self.vitals = vitals;
        self
    }

    /// Whoever looks at this when the machine is dropped sees its sender gone.
    pub(super) fn life(&self) -> watch::Receiver<()> {
        self.life.subscribe()
    }

    /// What readers share.
    pub fn shared(&self) -> Arc<SharedState> {
        self.shared.clone()
    }

    /// Goes on from a state that has taken the place of the one before.
    fn take_over(&mut self, loaded: Loaded) {
        self.membership_bytes = membership_to_bytes(loaded.record.membership.membership());
        self.machine = loaded.machine;
        self.applied = loaded.record.applied;
        self.membership = loaded.record.membership;
        self.scrub = None;
        self.scrubbed_to = -1;
        self.newest.clear();
    }

    /// The last entry applied.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// Moves the applied position without applying.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn stand_at(&mut self, applied: LogId) {
        self.applied = Some(applied);
        self.publish();
    }

    /// Takes everything before `index` for applied.
    #[cfg(test)]
    pub(super) fn stand_before(&mut self, index: u64) {
        if self.applied.map_or(0, |applied| applied.index + 1) != index {
            self.applied = index.checked_sub(1).map(|before| log_id(0, before));
        }
    }

    fn publish(&self) {
        let published = Published::at(self.applied, &self.machine);
        self.shared.published.send_replace(published);
    }

    fn applied_record(&self) -> Bytes {
        let membership_id = *self.membership.log_id();
        wire::AppliedRecord {
            term: self.applied.map_or(0, |id| id.leader_id.term),
            index: self.applied.map_or(0, |id| id.index),
            has_applied: self.applied.is_some(),
            membership_term: membership_id.map_or(0, |id| id.leader_id.term),
            membership_index: membership_id.map_or(0, |id| id.index),
            membership: self.membership_bytes.clone(),
            has_membership: membership_id.is_some(),
        }
        .encode_to_vec()
        .into()
    }

    fn apply_entry(
        &mut self,
        id: LogId,
        payload: EntryPayload<super::type_config::Proposal, u64, super::type_config::Voter>,
    ) -> io::Result<Vec<command::Answer>> {
        let due = self.applied.map_or(0, |applied| applied.index + 1);
        check_next(due, Some(id.index)).map_err(|e| self.stops(id, e))?;
        let answers = match payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Membership(membership) => {
                self.membership_bytes = membership_to_bytes(&membership);
                self.membership = StoredMembership::new(Some(id), membership);
                Vec::new()
            }
            EntryPayload::Normal(proposal) => {
                // Replicas of another version may know it: to go on would be to differ from them.
                let commands = mvcc::decode_entry(proposal.0).map_err(|e| self.stops(id, e))?;
                let mut answers = Vec::with_capacity(commands.len());
                for command in commands {
                    answers.push(self.apply_command(id, command)?);
                }
                answers
            }
        };
        self.applied = Some(id);
        Ok(answers)
    }

    fn apply_command(
        &mut self,
        id: LogId,
        command: command::Command,
    ) -> io::Result<command::Answer> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::state::is_skipped(&command) {
            return Ok(Default::default());
        }
        let reader = Remembering::of(&self.newest, &self.shared.store);
        let mut applied = self
            .machine
            .apply(&reader, id.index, command)
            .map_err(|e| self.stops(id, e))?;
        self.newest.remember(&applied.writes);
        let writes = applied.writes.iter();
        self.unmarked_bytes += writes.map(written_bytes).sum::<u64>();
        if let Some(at) = applied.writes.iter().position(is_revisions) {
            self.revisions = Some(applied.writes.remove(at));
        }
        self.shared
            .store
            .write(applied.writes)
            .map_err(|e| self.stops(id, e))?;
        Ok(applied.answer)
    }

    /// An error of the machine, not of the request: the group stops here before it can diverge.
    fn stops(&self, id: LogId, e: impl std::fmt::Display) -> io::Error {
        tracing::error!(
            group = self.group_id,
            index = id.index,
            error = %e,
            "applying failed; the group stops on this node"
        );
        io::Error::other(format!(
            "group {}: applying entry {}: {e}",
            self.group_id, id.index
        ))
    }

    /// Removes superseded versions, looking at `records_max` records at most in this step. Returns
    /// whether there is more to remove now. The caller awaits room in the store between two steps.
    pub fn scrub_step(&mut self, records_max: usize) -> io::Result<bool> {
        let Some(applied) = self.applied else {
            return Ok(false);
        };
        let compact = self.machine.revisions().compact;
        // A snapshot needs everything that is visible from its own compact revision on.
        let target = self
            .shared
            .lowest_pin()
            .map_or(compact, |pin| pin.min(compact));
        if target <= self.scrubbed_to {
            return Ok(false);
        }
        let (cursor, goal) = self
            .scrub
            .take()
            .unwrap_or((mvcc::ScrubCursor::default(), target));
        let view = self.shared.store.view();
        let (writes, next) =
            mvcc::scrub(&view, cursor, goal, records_max).map_err(io::Error::other)?;
        if !writes.is_empty() {
            let store = &self.shared.store;
            store.write(writes).map_err(io::Error::other)?;
            // A table is cut only at a mark. Without one nothing would go down to the disk until the
            // next entry, which may never come.
            store
                .mark_applied(applied.index, self.applied_record())
                .map_err(io::Error::other)?;
        }
        match next {
            Some(next) => self.scrub = Some((next, goal)),
            None => self.scrubbed_to = goal,
        }
        Ok(self.scrub.is_some() || self.scrubbed_to < target)
    }

    /// Compact revision up to which superseded versions have been removed since the start.
    pub fn scrubbed_to(&self) -> i64 {
        self.scrubbed_to
    }

    /// A consistent picture of the group at the applied entry. Called between entries: the records
    /// without versions are copied now, the versions are read later at this revision.
    pub(super) fn live_snapshot(&self) -> io::Result<LiveSnapshot> {
        let (published, view) = self.shared.read();
        Ok(LiveSnapshot {
            _pin: self.shared.pin(published.revisions.compact),
            revisions: published.revisions,
            unversioned: mvcc::unversioned(&view).map_err(io::Error::other)?,
            applied_record: self.applied_record(),
            view,
        })
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }

    fn snapshot(&self) -> io::Result<Snapshot> {
        Ok(Snapshot {
            meta: self.meta(),
            snapshot: SnapshotData::Live(Box::new(self.live_snapshot()?)),
        })
    }
}

impl RaftStateMachine<TypeConfig> for GroupStateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Checkpoint;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        self.newest.learn(&self.shared.store);
        let mut chunks = entries.ready_chunks(limits::APPLY_CHUNK_ENTRIES_MAX);
        while let Some(chunk) = chunks.next().await {
            let mut chunk = chunk.into_iter();
            while chunk.len() > 0 {
                let room = self.shared.store.wait_for_room().await;
                room.map_err(io::Error::other)?;
                let vitals = self.vitals.clone();
                let _applying = vitals.applies();
                let mut answers = Vec::with_capacity(chunk.len());
                self.unmarked_bytes = 0;
                // Room was awaited for so much, however many entries it takes.
                while self.unmarked_bytes < limits::APPLY_CHUNK_BYTES_MAX
                    && let Some(item) = chunk.next()
                {
                    let (entry, responder) = item?;
                    let of_entry = self.apply_entry(entry.log_id, entry.payload)?;
                    if let Some(responder) = responder {
                        answers.push((responder, of_entry));
                    }
                }
                let Some(applied) = self.applied else {
                    continue;
                };
                let store = &self.shared.store;
                let counters = self.revisions.take().into_iter().collect();
                store.write(counters).map_err(|e| self.stops(applied, e))?;
                store
                    .mark_applied(applied.index, self.applied_record())
                    .map_err(|e| self.stops(applied, e))?;
                self.publish();
                for (responder, of_entry) in answers {
                    responder.send(Outcome(of_entry));
                }
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Checkpoint {
        Checkpoint::at(self.meta(), self.shared.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let index = meta.last_log_id.map_or(0, |id| id.index);
        tracing::info!(group = self.group_id, index, "installing a snapshot");
        let shared = self.shared.clone();
        let expected = meta.last_log_id;
        // Loading is disk work of seconds; it must not hold a thread that serves requests.
        let loaded = tokio::task::spawn_blocking(move || shared.install(snapshot, expected))
            .await
            .map_err(io::Error::other)?;
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // A group that could not install stops. When the disk is the reason, so does the node:
                // a process that neither serves nor ends helps nobody.
                let cause = Cause::of(&error);
                if cause != Cause::Other {
                    let reason = format!("installing a snapshot at index {index}: {error}");
                    self.shared.store.give_up(&StateError::Poisoned {
                        reason: reason.into(),
                        cause,
                    });
                }
                return Err(error);
            }
        };
        self.take_over(loaded);
        tracing::info!(group = self.group_id, index, "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        match self.applied {
            Some(_) => self.snapshot().map(Some),
            None => Ok(None),
        }
    }
}

/// What the records of a state say of it.
struct Loaded {
    machine: mvcc::StateMachine,
    record: AppliedRecord,
}

impl Loaded {
    fn read(view: &View, applied_record: Option<Bytes>) -> io::Result<Self> {
        Ok(Self {
            machine: mvcc::StateMachine::load(view, mvcc::Limits::default())
                .map_err(io::Error::other)?,
            record: match applied_record {
                Some(bytes) => decode_applied(&bytes)?,
                None => AppliedRecord::default(),
            },
        })
    }

    fn published(&self) -> Published {
        Published::at(self.record.applied, &self.machine)
    }
}

/// The applied mark, decoded.
#[derive(Default)]
pub(super) struct AppliedRecord {
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

pub(super) fn decode_applied(bytes: &[u8]) -> Result<AppliedRecord, DecodeError> {
    let record =
        wire::AppliedRecord::decode(bytes).map_err(|e| DecodeError::new("applied record", e))?;
    let membership = if record.has_membership {
        StoredMembership::new(
            Some(log_id(record.membership_term, record.membership_index)),
            membership_from_bytes(&record.membership)?,
        )
    } else {
        StoredMembership::default()
    };
    Ok(AppliedRecord {
        applied: record
            .has_applied
            .then(|| log_id(record.term, record.index)),
        membership,
    })
}

#[cfg(test)]
mod tests;
