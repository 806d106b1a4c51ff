//! The retry table: a write that is sent again takes effect once.
//!
//! A client numbers its requests from 1. The answer to each is kept in the slot `seq % 128` of the
//! client until a later request needs the slot, so a repeat finds its first answer.
//!
//! ```text
//!   client known? ──no──▶ sent before, and clients were evicted ──▶ forgotten
//!        │                otherwise                             ──▶ apply
//!       yes
//!        ▼
//!   slot holds   the same seq ──▶ the answer again, nothing written
//!                a higher seq ──▶ forgotten
//!                else         ──▶ apply, unless an earlier life may have done so ──▶ forgotten
//! ```
//!
//! *Forgotten* is an answer too: nothing happens, and the client learns that the table cannot
//! tell whether the request took effect.
//!
//! What a client owes in return:
//!
//! - it sends request `seq` only when `seq - 128` and all before it are answered, or given up for
//!   good: [`SLOTS_PER_CLIENT`] numbers may be in the air;
//! - a request is marked `retried` from its second sending on;
//! - a new client has the answer to its request 1 before it sends request 2. One that does not is
//!   still safe, but its first 128 requests may be answered *forgotten* when they are repeated.
//!
//! The table holds a bounded number of clients; the one whose last request was applied first gives
//! way. An evicted client that comes back begins a new life whose first 128 requests may have been
//! applied in the life before: `uncertain_through` remembers that.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::command::{Answer, Command};
use prost::{
    Message,
    encoding::{decode_varint, encode_varint},
};

use crate::{
    Limits, Reader, Write,
    error::{Corrupt, Refusal, StateError},
    key, meta,
};

/// Answers kept for one client: the slot of a request is `seq % SLOTS_PER_CLIENT`.
pub const SLOTS_PER_CLIENT: u64 = 128;
/// Longest encoded answer that is kept, in bytes. A request whose answer is longer is remembered
/// without it.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest client id, in bytes; a command with a longer one is answered as malformed.
pub const CLIENT_ID_BYTES_MAX: usize = 64;

const KEPT: u8 = 0;
const NOT_KEPT: u8 = 1;

/// Index of the records of the retry table.
///
/// - It follows from the records alone, so a replica that loads a snapshot has the same one.
/// - `oldest` holds one entry for every client in `clients`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetryTable {
    clients: BTreeMap<Bytes, Client>,
    /// Clients by the index of their last applied request.
    oldest: BTreeSet<(u64, Bytes)>,
    evictions: u64,
    clients_max: usize,
}

/// - `seq_highest` always stands in its slot: only a higher seq may take the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Client {
    last_index: u64,
    seq_highest: u64,
    /// Requests up to this one may have been applied in a life that is forgotten.
    uncertain_through: u64,
}

/// What the table says of a command.
pub(crate) enum Admission {
    /// It carries no id: apply and do not remember.
    Untracked,
    /// Apply, then remember the answer.
    Fresh,
    /// Answer without applying.
    Known(Answer),
    /// Refuse without applying and without remembering.
    Refused(Refusal),
}

struct Slot {
    seq: u64,
    index: u64,
    uncertain_through: u64,
    outcome: Outcome,
}

enum Outcome {
    Answered(Bytes),
    /// The answer was too long; the revision it was given at.
    TookEffectAt(i64),
}

impl RetryTable {
    pub fn load<R: Reader>(reader: &R, limits: Limits) -> Result<Self, StateError<R::Error>> {
        let mut clients = BTreeMap::<Bytes, Client>::new();
        let (start, end) = key::family(key::RETRIES);
        for item in reader.scan(start, end) {
            let (key, value) = item.map_err(StateError::Read)?;
            let (client_id, _) = key::split_slot(&key)?;
            let slot = Slot::decode(&key, &value)?;
            let client = clients.entry(client_id).or_default();
            client.last_index = client.last_index.max(slot.index);
            client.seq_highest = client.seq_highest.max(slot.seq);
            client.uncertain_through = slot.uncertain_through;
        }
        let oldest = clients
            .iter()
            .map(|(id, client)| (client.last_index, id.clone()))
            .collect();
        let evictions = meta::load_evictions(reader)?;
        Ok(RetryTable {
            clients,
            oldest,
            evictions,
            clients_max: limits.clients_max.max(1),
        })
    }

    pub fn admit<R: Reader>(
        &self,
        reader: &R,
        command: &Command,
    ) -> Result<Admission, StateError<R::Error>> {
        let Command {
            client_id,
            request_seq: seq,
            retried,
            ..
        } = command;
        let (seq, retried) = (*seq, *retried);
        if client_id.is_empty() {
            return Ok(Admission::Untracked);
        }
        if client_id.len() > CLIENT_ID_BYTES_MAX {
            return Ok(Admission::Refused(Refusal::Malformed(
                "the client id is too long",
            )));
        }
        if seq == 0 {
            return Ok(Admission::Refused(Refusal::Malformed(
                "the request seq starts at 1",
            )));
        }
        let Some(client) = self.clients.get(client_id) else {
            if retried && self.evictions > 0 {
                return Ok(forgotten(
                    "the client is not in the retry table any more".to_owned(),
                ));
            }
            return Ok(Admission::Fresh);
        };
        if seq <= client.seq_highest {
            let key = key::slot(client_id, slot_of(seq));
            if let Some(value) = reader.get(&key).map_err(StateError::Read)? {
                let slot = Slot::decode(&key, &value)?;
                if slot.seq == seq {
                    return Ok(match slot.outcome {
                        Outcome::Answered(answer) => Admission::Known(
                            Answer::decode(answer)
                                .map_err(|_| Corrupt::new(&key, "bad answer in a retry slot"))?,
                        ),
                        Outcome::TookEffectAt(revision) => forgotten(format!(
                            "request {seq} took effect at revision {revision}; \
                             its answer was too long to be kept"
                        )),
                    });
                }
                if slot.seq > seq {
                    return Ok(forgotten(format!(
                        "request {seq} has given way to request {} of the same client",
                        slot.seq
                    )));
                }
            }
        }
        if retried && seq <= client.uncertain_through {
            return Ok(forgotten(format!(
                "request {seq} may belong to a forgotten life"
            )));
        }
        Ok(Admission::Fresh)
    }

    /// Keeps the answer to a fresh command. `revision` is the one after the command.
    pub fn remember<R: Reader>(
        &mut self,
        reader: &R,
        index: u64,
        (client_id, seq): (&Bytes, u64),
        answer: &Answer,
        revision: i64,
        writes: &mut Vec<Write>,
    ) -> Result<(), StateError<R::Error>> {
        let known = self.clients.get(client_id).copied();
        if known.is_none() {
            self.make_room(reader, writes)?;
        }
        // A life that begins with request 1 has no life before it; see the module's contract.
        let beginning = || Client {
            uncertain_through: match self.evictions {
                0 => 0,
                _ if seq == 1 => 0,
                _ => seq.saturating_add(SLOTS_PER_CLIENT - 1),
            },
            ..Client::default()
        };
        let client = known.unwrap_or_else(beginning);
        let next = Client {
            last_index: index,
            seq_highest: client.seq_highest.max(seq),
            uncertain_through: client.uncertain_through,
        };
        let outcome = if answer.encoded_len() <= ANSWER_BYTES_MAX {
            Outcome::Answered(answer.encode_to_vec().into())
        } else {
            Outcome::TookEffectAt(revision)
        };
        let slot = Slot {
            seq,
            index,
            uncertain_through: next.uncertain_through,
            outcome,
        };
        writes.push(Write::put(
            key::slot(client_id, slot_of(seq)),
            slot.encode(),
        ));
        // The id is copied so that the index does not hold on to the buffer of the command.
        let id = Bytes::copy_from_slice(client_id);
        if known.is_some() {
            self.oldest.remove(&(client.last_index, id.clone()));
        }
        self.oldest.insert((index, id.clone()));
        self.clients.insert(id, next);
        assert_eq!(
            self.clients.len(),
            self.oldest.len(),
            "one place in the order for each client"
        );
        Ok(())
    }

    /// Evicts until one more client fits. Changes itself only after the last read.
    fn make_room<R: Reader>(
        &mut self,
        reader: &R,
        writes: &mut Vec<Write>,
    ) -> Result<(), StateError<R::Error>> {
        let excess = (self.clients.len() + 1).saturating_sub(self.clients_max);
        if excess == 0 {
            return Ok(());
        }
        let evicted: Vec<_> = self.oldest.iter().take(excess).cloned().collect();
        let mut deletions = Vec::new();
        for (_, client_id) in &evicted {
            let start = key::client(client_id);
            for item in reader.scan(&start, &key::prefix_end(&start)) {
                let (key, _) = item.map_err(StateError::Read)?;
                deletions.push(Write::delete(key));
            }
        }
        writes.append(&mut deletions);
        for place in evicted {
            self.clients.remove(&place.1);
            self.oldest.remove(&place);
            self.evictions += 1;
        }
        writes.push(meta::write_evictions(self.evictions));
        Ok(())
    }
}

fn forgotten(message: String) -> Admission {
    Admission::Refused(Refusal::RetryForgotten(message))
}

fn slot_of(seq: u64) -> u8 {
    (seq % SLOTS_PER_CLIENT) as u8
}

impl Slot {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        encode_varint(self.seq, &mut out);
        encode_varint(self.index, &mut out);
        encode_varint(self.uncertain_through, &mut out);
        match &self.outcome {
            Outcome::Answered(answer) => {
                out.put_u8(KEPT);
                out.put_slice(answer);
            }
            Outcome::TookEffectAt(revision) => {
                out.put_u8(NOT_KEPT);
                encode_varint(*revision as u64, &mut out);
            }
        }
        out.freeze()
    }

    fn decode(key: &[u8], value: &Bytes) -> Result<Self, Corrupt> {
        let corrupt = || Corrupt::new(key, "bad record of a retry slot");
        let mut rest = value.clone();
        let mut number = || decode_varint(&mut rest).map_err(|_| corrupt());
        let (seq, index, uncertain_through) = (number()?, number()?, number()?);
        let kind = *rest.first().ok_or_else(corrupt)?;
        let mut rest = rest.slice(1..);
        let outcome = match kind {
            KEPT => Outcome::Answered(rest),
            NOT_KEPT => {
                Outcome::TookEffectAt(decode_varint(&mut rest).map_err(|_| corrupt())? as i64)
            }
            _ => return Err(corrupt()),
        };
        Ok(Slot {
            seq,
            index,
            uncertain_through,
            outcome,
        })
    }
}
