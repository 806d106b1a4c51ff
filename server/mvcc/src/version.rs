//! Versions of the state machine: which node may apply what.
//!
//! Replicas stay equal only while they compute the same from the same command. A node that does not
//! know a command would have to skip it, and would differ from then on; so it stops instead, and
//! nobody proposes what a member has not said that it knows:
//!
//! ```text
//!   every member says its VERSION ─▶ the leader raises the version of the state ─▶ SetSettings
//!                                                                                      │
//!   a command of a version needs a state that has been raised to it ◀──────────────────┘
//!   a node of a lower version meets SetSettings, or a command, of a higher one ─▶ it stops there
//! ```
//!
//! | version | what it adds |
//! | --- | --- |
//! | 1 | puts, deletes, transactions, compactions; a client is known as soon as it sends a request |
//! | 2 | settings in the state; clients register, and a request of one that is not known is refused |
//! | 3 | several commands in one entry of the log |
//!
//! What applying depends on is either in the state, as [`Settings`](holdfast_proto::command::Settings),
//! or a constant of this crate. To change such a constant is to make a new version.

use bytes::Bytes;
use holdfast_proto::command::{Batch, Command, command::Op};
use prost::Message;

/// The version of the state machine in this program.
pub const VERSION: u32 = 3;
/// From this version of the state on, clients are known because they registered.
pub const REGISTRATION: u32 = 2;
/// From this version of the state on, commands share entries of the log.
pub const BATCHES: u32 = 3;

/// A command, or a state, that this program does not know. It must not be skipped: the group stops
/// on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It is of a later version.
    #[error(
        "{what} needs version {needs} of the state machine and this node has {VERSION}; \
         start this node with a program of version {needs} or later"
    )]
    Later {
        /// What is of that version.
        what: &'static str,
        /// That version.
        needs: u32,
    },
    /// It names no operation that this version has.
    #[error(
        "a command has no operation that version {VERSION} of the state machine knows; start this \
         node with the program that the other nodes run"
    )]
    Operation,
    /// A batch stands where a single command belongs, or holds what may not share an entry.
    #[error(
        "a batch of commands is where none may be, or holds a command that must stand alone; the log of \
         this node is damaged or of another program"
    )]
    Batch,
    /// It does not decode.
    #[error(
        "a command does not decode: {0}; the log of this node is damaged or of another program"
    )]
    Undecodable(String),
}

/// The lowest version that may apply an operation.
pub fn needed(op: &Op) -> u32 {
    match op {
        Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) | Op::Compact(_) => 1,
        Op::Register(_) => REGISTRATION,
        Op::SetSettings(settings) => settings.version.max(2),
        Op::Batch(_) => BATCHES,
    }
}

/// Reads one command, and checks that this program knows it.
pub fn decode(bytes: Bytes) -> Result<Command, Unknown> {
    let command = decode_any(bytes)?;
    match command.op {
        Some(Op::Batch(_)) => Err(Unknown::Batch),
        _ => Ok(command),
    }
}

/// Reads the commands of an entry of the log, in order, and checks that this program knows all of them.
pub fn decode_entry(bytes: Bytes) -> Result<Vec<Command>, Unknown> {
    let command = decode_any(bytes)?;
    match command.op {
        Some(Op::Batch(batch)) => batch.commands.into_iter().map(decode_member).collect(),
        _ => Ok(vec![command]),
    }
}

/// Reads a command of a batch.
fn decode_member(bytes: Bytes) -> Result<Command, Unknown> {
    let command = decode(bytes)?;
    match command.op.as_ref().is_some_and(may_share) {
        true => Ok(command),
        false => Err(Unknown::Batch),
    }
}

/// One entry for commands that arrived together, as [`decode_entry`] reads it.
pub fn encode_entry(commands: Vec<Bytes>) -> Bytes {
    let command = Command {
        min_version: BATCHES,
        op: Some(Op::Batch(Batch { commands })),
        ..Default::default()
    };
    command.encode_to_vec().into()
}

/// Whether a command may share an entry with others. What registers a client makes an id of the index of its
/// entry, and what changes the version decides how those after it are read.
pub fn may_share(op: &Op) -> bool {
    match op {
        Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) | Op::Compact(_) => true,
        Op::Register(_) | Op::SetSettings(_) | Op::Batch(_) => false,
    }
}

fn decode_any(bytes: Bytes) -> Result<Command, Unknown> {
    let command = Command::decode(bytes).map_err(|e| Unknown::Undecodable(e.to_string()))?;
    check(&command)?;
    Ok(command)
}

/// Whether this program may apply the command.
pub(crate) fn check(command: &Command) -> Result<(), Unknown> {
    let op = command.op.as_ref();
    // What is missing may be what a later version has, so the version is looked at first.
    let needs = command.min_version.max(op.map_or(0, needed));
    if needs > VERSION {
        let what = "a command";
        return Err(Unknown::Later { what, needs });
    }
    op.map(|_| ()).ok_or(Unknown::Operation)
}

#[cfg(test)]
mod tests {
    use holdfast_proto::{command::Settings, etcdserverpb::PutRequest};

    use super::*;

    fn encoded(min_version: u32, op: Option<Op>) -> Bytes {
        let command = Command {
            min_version,
            op,
            ..Default::default()
        };
        command.encode_to_vec().into()
    }

    #[test]
    fn what_this_version_does_not_know_is_told_apart_from_what_it_does() {
        let put = || Some(Op::Put(PutRequest::default()));
        assert!(decode(encoded(0, put())).is_ok(), "none stands for 1");
        assert!(decode(encoded(VERSION, put())).is_ok());
        let (what, needs) = ("a command", VERSION + 1);
        let later = Err(Unknown::Later { what, needs });
        assert_eq!(decode(encoded(needs, put())), later);
        assert_eq!(decode(encoded(needs, None)), later);
        let raised = Settings {
            version: needs,
            ..Default::default()
        };
        assert_eq!(decode(encoded(0, Some(Op::SetSettings(raised)))), later);
        assert_eq!(decode(encoded(0, None)), Err(Unknown::Operation));
        // Field 100 is an operation that does not exist yet.
        let future = Bytes::from_static(&[0xa2, 0x06, 0x00]);
        assert_eq!(decode(future), Err(Unknown::Operation));
        let torn = Bytes::from_static(&[0x52, 0x7f, 0x00]);
        assert!(matches!(decode(torn), Err(Unknown::Undecodable(_))));
    }

    #[test]
    fn a_batch_gives_its_commands_in_order_and_holds_no_batch_and_nothing_unknown() {
        let put = |key: &'static [u8]| {
            let put = PutRequest {
                key: Bytes::from_static(key),
                ..Default::default()
            };
            encoded(0, Some(Op::Put(put)))
        };
        let one = |bytes| decode(bytes).unwrap();
        let alone = decode_entry(put(b"a")).unwrap();
        assert_eq!(alone, [one(put(b"a"))]);
        let batch = encode_entry(vec![put(b"a"), put(b"b")]);
        let commands = decode_entry(batch.clone()).unwrap();
        assert_eq!(commands, [one(put(b"a")), one(put(b"b"))]);
        assert_eq!(decode(batch.clone()), Err(Unknown::Batch));
        let nested = encode_entry(vec![put(b"a"), batch]);
        assert_eq!(decode_entry(nested), Err(Unknown::Batch));
        let register = encoded(0, Some(Op::Register(Default::default())));
        let registers = encode_entry(vec![put(b"a"), register]);
        assert_eq!(decode_entry(registers), Err(Unknown::Batch));
        let unknown = encode_entry(vec![put(b"a"), encoded(0, None)]);
        assert_eq!(decode_entry(unknown), Err(Unknown::Operation));
    }
}
