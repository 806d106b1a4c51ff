//! With which code the process of a node ends, and why: scripts and supervisors go by it.

pub use crate::storage::cause::Cause;

/// Exit code of a command that ran and failed: a node could not start, or could not go on for a reason
/// that has no code of its own.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a command line or configuration that was refused; nothing was done.
pub const EXIT_REFUSED: u8 = 2;
/// Exit code of a node that cannot go on because its disk is full. It may be started again when there
/// is room; what it acknowledged is there.
pub const EXIT_NO_SPACE: u8 = 3;
/// Exit code of a node whose disk failed or holds damage: an I/O error, a failed sync, a record that
/// is not what was written.
pub const EXIT_DISK: u8 = 4;
/// Exit code of a node whose stop was forced, by a second signal or because the stated time had passed.
/// A message said what it waited for.
pub const EXIT_FORCED: u8 = 5;

/// Exit code of a node that cannot go on for this cause.
pub fn exit_code(cause: Cause) -> u8 {
    match cause {
        Cause::NoSpace => EXIT_NO_SPACE,
        Cause::Disk => EXIT_DISK,
        Cause::Other => EXIT_FAILED,
    }
}
