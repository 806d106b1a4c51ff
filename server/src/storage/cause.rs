//! What kind of trouble an error of the disk is: it decides what an operator has to do, and with
//! which code the process ends.

use std::io;

use super::{
    engine::EngineError,
    log::{Failure, OpenError},
    state::StateError,
};

/// The kind of trouble behind an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No room: the file system, a quota, or a limit of the size of files. What was written is whole.
    NoSpace,
    /// The medium failed, or does not hold what was written to it.
    Disk,
    /// Anything else: permissions, limits of the process, a lock, a peer.
    Other,
}

impl Cause {
    /// What an operator does about a process that has ended for this cause; empty where the error says it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NoSpace => {
                "; make room on the disk of the data directory and start the node again: what it \
                 acknowledged is there"
            }
            Self::Disk => {
                "; check the disk. Start the node again only on a disk that keeps what is written to it"
            }
            Self::Other => "",
        }
    }

    /// The cause of an error of the operating system, or of the error that it wraps.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => return Self::NoSpace,
            Some(
                libc::EIO | libc::EROFS | libc::ENXIO | libc::ENODEV | libc::ESTALE | libc::EBADMSG,
            ) => return Self::Disk,
            Some(_) => return Self::Other,
            None => {}
        }
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => return Self::NoSpace,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => return Self::Disk,
            _ => {}
        }
        let mut source = error
            .get_ref()
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        while let Some(inner) = source {
            if let Some(inner) = inner.downcast_ref::<io::Error>() {
                return Self::of(inner);
            }
            if let Some(inner) = inner.downcast_ref::<StateError>() {
                return Self::from(inner);
            }
            if let Some(inner) = inner.downcast_ref::<Failure>() {
                return inner.cause();
            }
            source = inner.source();
        }
        Self::Other
    }
}

impl From<&EngineError> for Cause {
    fn from(error: &EngineError) -> Self {
        match error {
            EngineError::Io { source, .. } => Self::of(source),
            EngineError::Corrupt { .. } | EngineError::Panicked { .. } => Self::Disk,
            EngineError::Injected(_) => Self::Other,
        }
    }
}

impl From<&StateError> for Cause {
    fn from(error: &StateError) -> Self {
        match error {
            StateError::Engine(error) => error.into(),
            StateError::Poisoned { cause, .. } => *cause,
            StateError::Io { source, .. } => Self::of(source),
            StateError::UnknownEngine { .. }
            | StateError::Closed
            | StateError::Unmarked
            | StateError::Unfinished => Self::Other,
        }
    }
}

impl From<&OpenError> for Cause {
    fn from(error: &OpenError) -> Self {
        match error {
            OpenError::Io { source, .. } => Self::of(source),
            OpenError::Corrupt(_) => Self::Disk,
            OpenError::Options { .. } => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_a_failed_one_and_other_troubles_are_told_apart() {
        let os = |code| Cause::of(&io::Error::from_raw_os_error(code));
        assert_eq!(os(libc::ENOSPC), Cause::NoSpace);
        assert_eq!(os(libc::EDQUOT), Cause::NoSpace);
        assert_eq!(os(libc::EFBIG), Cause::NoSpace);
        assert_eq!(os(libc::EIO), Cause::Disk);
        assert_eq!(os(libc::EROFS), Cause::Disk);
        assert_eq!(os(libc::EMFILE), Cause::Other);
        assert_eq!(os(libc::EACCES), Cause::Other);
        let damaged = io::Error::new(io::ErrorKind::InvalidData, "a bad checksum");
        assert_eq!(Cause::of(&damaged), Cause::Disk);
    }

    #[test]
    fn what_wraps_an_error_does_not_hide_its_cause() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Cause::of(&io::Error::other(full())), Cause::NoSpace);
        let engine = EngineError::io("db", full());
        assert_eq!(Cause::from(&engine), Cause::NoSpace);
        let state = StateError::from(engine);
        assert_eq!(Cause::of(&io::Error::other(state)), Cause::NoSpace);
        let opened = OpenError::Io {
            path: "log".into(),
            operation: "open",
            source: full(),
        };
        assert_eq!(Cause::from(&opened), Cause::NoSpace);
    }
}
