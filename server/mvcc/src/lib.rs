//! The pure state machine of a keyspace.
//!
//! Every replica of a keyspace applies the same commands in the same order to this machine, so
//! everything it computes follows from the state and the command alone: there is no clock, no
//! randomness and no I/O in this crate, and it knows neither consensus nor storage. It reads
//! ordered bytes through [`Reader`] and returns what to write.
//!
//! ```text
//!   Command ──▶ StateMachine::apply ──▶ Applied { answer, writes (events) }
//!                      │ reads                               │ made readable by the caller
//!                      ▼                                     ▼     before the next apply
//!                   Reader ◀───────────────────────────── store
//!                      ▲ reads beside apply, at the published Revisions
//!   range · read_txn · hash · snapshot_versions · scrub
//! ```
//!
//! The semantics are those of etcd v3: one revision for each transaction that changes something,
//! numbered within it from sub-revision 0; deterministic errors are answers. Where etcd's
//! documentation is silent, its source decided, and a comment says so.
//!
//! # Byte layout
//!
//! The first byte of a record's key names its family. Numbers are big-endian, varints are LEB128.
//!
//! | key | value |
//! | --- | --- |
//! | `10 00` | `01` (format), current revision (8), compact revision (8) |
//! | `10 01` | number of clients evicted from the retry table (8) |
//! | `10 02` | encoded `Settings`; none in a state of version 1 |
//! | `20` escape(user key) !main (8) !sub (8) | flags (1: bit 0 tombstone); unless a tombstone: create revision, version, lease (varints), value |
//! | `30` main (8) sub (8) | kind (1: 0 put, 1 delete), user key |
//! | `40` escape(client id) `FF` | index at which the client registered (varint) |
//! | `40` escape(client id) slot (1) | seq, applied index, uncertain through (varints), kind (1: 0 answer, 1 not kept), encoded answer or revision (varint) |
//!
//! `escape` maps `00` to `00 FF` and appends `00 01`, which keeps the order of keys and makes no
//! key the prefix of another. Revisions are stored inverted in family `20`: the newest version of
//! a key is the first record at or after its prefix. Family `00` belongs to the caller.

mod compare;
mod error;
mod execution;
mod hash;
mod key;
mod live;
mod machine;
pub mod memory;
mod meta;
#[doc(hidden)]
pub mod planted;
mod range;
mod reader;
mod record;
mod retained;
mod retry;
mod scrub;
pub mod validate;
mod version;

pub use error::{Corrupt, ReadError, StateError};
pub use execution::{TXN_LEVELS_MAX, is_read_only, read_txn};
pub use hash::hash;
pub use key::{Revision, version_prefix, versions_span};
pub use machine::{Applied, Limits, StateMachine};
pub use meta::{REVISIONS, Revisions};
pub use range::range;
pub use reader::{Reader, Write};
pub use record::{Counters, Newest, version_written};
pub use retained::{snapshot_versions, unversioned};
pub use retry::{ANSWER_BYTES_MAX, CLIENT_ID_BYTES_MAX, SLOTS_PER_CLIENT};
pub use scrub::{ScrubCursor, ScrubStep, scrub};
pub use version::{
    BATCHES, REGISTRATION, Unknown, VERSION, decode, decode_entry, encode_entry, may_share, needed,
};
