//! The retry table: a write that is sent again takes effect once.
//!
//! A client numbers its requests from 1. The answer to each is kept in the slot `seq % 128` of the
//! client until a later request needs the slot, so a repeat finds its first answer.
//!
//! ```text
//!   client known? ──no──▶ unknown: refused, however early or late it comes
//!       yes
//!        ▼
//!   slot holds   the same seq ──▶ the answer again, nothing written
//!                a higher seq ──▶ forgotten
//!                else         ──▶ apply, unless an earlier life may have done so ──▶ forgotten
//! ```
//!
//! *Forgotten* and *unknown* are answers too: nothing happens, and the client learns that the table
//! cannot tell whether an earlier sending of the request took effect.
//!
//! A client is known because it registered (Ongaro's thesis, section 6.3). Registering is a command,
//! and the id is made of its place in the log: an id that gave way never comes back, so nothing that
//! was sent under it and is still on its way can be taken for something new.
//!
//! What a client owes in return:
//!
//! - it sends request `seq` only when `seq - 128` and all before it are answered, or given up for
//!   good: [`SLOTS_PER_CLIENT`] numbers may be in the air;
//! - a request is marked `retried` from its second sending on;
//! - once it is told that it is not known, it registers again. It sends a request again under the new
//!   id only if no sending under the old one may have taken effect.
//!
//! The table holds a bounded number of clients and of bytes; the client whose last request was applied
//! first gives way, whole. Only one whose answer is being kept never does, so the bytes are bounded
//! by the limit or by what one client can fill, whichever is more.
//!
//! # Version 1 of the state
//!
//! Clients do not register there: one that is not known is trusted, unless it says that it has sent the
//! request before and clients were evicted. An evicted client that comes back begins a new life whose
//! first 128 requests may have been applied in the life before: `uncertain_through` remembers that.
//! A first sending that was held up until its client was evicted takes effect a second time. Clients
//! that are in the table when the state is raised to version 2 stay known until they give way.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::command::{Answer, Command, Settings};
use prost::{
    Message,
    encoding::{decode_varint, encode_varint},
};

use crate::{
    Limits, Reader, Write,
    error::{Corrupt, Refusal, StateError},
    key, meta,
    planted::{self, Bug},
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
/// - `bytes` is the sum of the lengths of all records, keys included.
/// - After [`RetryTable::remember`] it is within both bounds, or holds one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetryTable {
    clients: BTreeMap<Bytes, Client>,
    /// Clients by the index of their last applied request.
    oldest: BTreeSet<(u64, Bytes)>,
    bytes: u64,
    evictions: u64,
    clients_max: usize,
    bytes_max: u64,
}

/// - `seq_highest` always stands in its slot: only a higher seq may take the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    last_index: u64,
    seq_highest: u64,
    /// Requests up to this one may have been applied in a life that is forgotten.
    uncertain_through: u64,
    /// Length of the record of the registration, with its key; 0 for a client of version 1.
    registration_bytes: u32,
    /// Length of the record in each slot, with its key; 0 where there is none.
    record_bytes: Box<[u32; SLOTS_PER_CLIENT as usize]>,
}

impl Client {
    fn new(uncertain_through: u64) -> Self {
        Client {
            last_index: 0,
            seq_highest: 0,
            uncertain_through,
            registration_bytes: 0,
            record_bytes: Box::new([0; SLOTS_PER_CLIENT as usize]),
        }
    }

    fn bytes(&self) -> u64 {
        let slots = self.record_bytes.iter().map(|&bytes| u64::from(bytes));
        slots.sum::<u64>() + u64::from(self.registration_bytes)
    }
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
            let (client_id, number) = key::split_slot(&key)?;
            let client = clients.entry(client_id).or_insert_with(|| Client::new(0));
            if number == key::REGISTERED {
                client.registration_bytes = record_bytes(&key, &value);
                let registered_at = decode_registration(&key, &value)?;
                client.last_index = client.last_index.max(registered_at);
                continue;
            }
            let slot = Slot::decode(&key, &value)?;
            *client
                .record_bytes
                .get_mut(usize::from(number))
                .ok_or_else(|| Corrupt::new(&key, "no client has this retry slot"))? =
                record_bytes(&key, &value);
            client.last_index = client.last_index.max(slot.index);
            client.seq_highest = client.seq_highest.max(slot.seq);
            client.uncertain_through = slot.uncertain_through;
        }
        let oldest = clients
            .iter()
            .map(|(id, client)| (client.last_index, id.clone()))
            .collect();
        let bytes = clients.values().map(Client::bytes).sum();
        let evictions = meta::load_evictions(reader)?;
        Ok(RetryTable {
            clients,
            oldest,
            bytes,
            evictions,
            clients_max: limits.clients_max.max(1),
            bytes_max: limits.retry_bytes_max,
        })
    }

    pub fn admit<R: Reader>(
        &self,
        reader: &R,
        command: &Command,
        registered_only: bool,
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
            if registered_only && !planted::is(Bug::UnknownClientTrusted) {
                return Ok(Admission::Refused(Refusal::ClientUnknown));
            }
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

    /// Makes a client known, and gives its id: one that no client has had and none will have.
    pub fn register(&mut self, index: u64, nonce: u64, writes: &mut Vec<Write>) -> Bytes {
        let evictions_before = self.evictions;
        let id = Bytes::from(format!("{index:016x}{nonce:016x}"));
        // A client of version 1 may have called itself so.
        if let Some(client) = self.clients.get(&id) {
            self.oldest.remove(&(client.last_index, id.clone()));
            self.evict(&id, writes);
        }
        while self.clients.len() >= self.clients_max {
            self.evict_oldest(writes);
        }
        let mut value = BytesMut::new();
        encode_varint(index, &mut value);
        let record = (key::slot(&id, key::REGISTERED), value.freeze());
        let mut client = Client::new(0);
        client.last_index = index;
        client.registration_bytes = record_bytes(&record.0, &record.1);
        self.bytes += u64::from(client.registration_bytes);
        while self.bytes > self.bytes_max && !self.oldest.is_empty() {
            self.evict_oldest(writes);
        }
        if self.evictions > evictions_before {
            writes.push(meta::write_evictions(self.evictions));
        }
        writes.push(Write::put(record.0, record.1));
        self.oldest.insert((index, id.clone()));
        self.clients.insert(id.clone(), client);
        id
    }

    /// The bounds of the table.
    pub fn limits(&self) -> Limits {
        Limits {
            clients_max: self.clients_max,
            retry_bytes_max: self.bytes_max,
        }
    }

    /// Takes over the bounds that are given; 0 leaves one as it is.
    pub fn set_limits(&mut self, asked: Settings, writes: &mut Vec<Write>) {
        let evictions_before = self.evictions;
        if asked.retry_clients_max > 0 {
            self.clients_max = usize::try_from(asked.retry_clients_max).unwrap_or(usize::MAX);
        }
        if asked.retry_bytes_max > 0 {
            self.bytes_max = asked.retry_bytes_max;
        }
        while self.clients.len() > self.clients_max {
            self.evict_oldest(writes);
        }
        while self.bytes > self.bytes_max && self.clients.len() > 1 {
            self.evict_oldest(writes);
        }
        if self.evictions > evictions_before {
            writes.push(meta::write_evictions(self.evictions));
        }
    }

    /// Keeps the answer to a fresh command. `revision` is the one after the command.
    pub fn remember(
        &mut self,
        index: u64,
        (client_id, seq): (&Bytes, u64),
        answer: &Answer,
        revision: i64,
        writes: &mut Vec<Write>,
    ) {
        let evictions_before = self.evictions;
        let mut client = match self.clients.remove(client_id) {
            Some(client) => {
                let place = (client.last_index, client_id.clone());
                let removed = self.oldest.remove(&place);
                assert!(removed, "one place in the order for each client");
                client
            }
            None => {
                while self.clients.len() >= self.clients_max {
                    self.evict_oldest(writes);
                }
                // A life that begins with request 1 has no life before it; see the module's contract.
                Client::new(match self.evictions {
                    0 => 0,
                    _ if seq == 1 => 0,
                    _ => seq.saturating_add(SLOTS_PER_CLIENT - 1),
                })
            }
        };
        client.last_index = index;
        client.seq_highest = client.seq_highest.max(seq);
        let outcome = if answer.encoded_len() <= ANSWER_BYTES_MAX {
            Outcome::Answered(answer.encode_to_vec().into())
        } else {
            Outcome::TookEffectAt(revision)
        };
        let slot = Slot {
            seq,
            index,
            uncertain_through: client.uncertain_through,
            outcome,
        };
        let record = (key::slot(client_id, slot_of(seq)), slot.encode());
        let held = &mut client.record_bytes[usize::from(slot_of(seq))];
        self.bytes -= u64::from(*held);
        *held = record_bytes(&record.0, &record.1);
        self.bytes += u64::from(*held);
        // The client itself is not in the order now, so it stays.
        while self.bytes > self.bytes_max && !self.oldest.is_empty() {
            self.evict_oldest(writes);
        }
        if self.evictions > evictions_before {
            writes.push(meta::write_evictions(self.evictions));
        }
        writes.push(Write::put(record.0, record.1));
        // The id is copied so that the index does not hold on to the buffer of the command.
        let id = Bytes::copy_from_slice(client_id);
        self.oldest.insert((index, id.clone()));
        self.clients.insert(id, client);
        assert_eq!(
            self.clients.len(),
            self.oldest.len(),
            "one place in the order for each client"
        );
    }

    /// Forgets the client that has been idle for longest.
    fn evict_oldest(&mut self, writes: &mut Vec<Write>) {
        let (_, id) = self.oldest.pop_first().expect("a client to evict");
        self.evict(&id, writes);
    }

    /// Forgets a client that is not in the order any more.
    fn evict(&mut self, id: &Bytes, writes: &mut Vec<Write>) {
        let client = self.clients.remove(id).expect("it was in the order");
        for (slot, &bytes) in (0..).zip(client.record_bytes.iter()) {
            if bytes > 0 {
                writes.push(Write::delete(key::slot(id, slot)));
            }
        }
        if client.registration_bytes > 0 {
            writes.push(Write::delete(key::slot(id, key::REGISTERED)));
        }
        self.bytes -= client.bytes();
        self.evictions += 1;
    }
}

/// What a record counts against the bound. An answer that is kept is not longer than
/// [`ANSWER_BYTES_MAX`].
fn record_bytes(key: &[u8], value: &[u8]) -> u32 {
    u32::try_from(key.len() + value.len()).expect("records of the retry table are short")
}

fn decode_registration(key: &[u8], value: &Bytes) -> Result<u64, Corrupt> {
    let mut rest = value.clone();
    match decode_varint(&mut rest) {
        Ok(index) if rest.is_empty() => Ok(index),
        _ => Err(Corrupt::new(key, "bad record of a registration")),
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
