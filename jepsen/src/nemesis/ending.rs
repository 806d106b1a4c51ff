//! How a node ended over a fault that left it no other way.
//!
//! A node that cannot go on must end, so that a supervisor acts, and must say with its exit code why.
//! One that goes on without serving is found by nobody.

use std::process::ExitStatus;

use crate::{cluster::FaultError, cluster::target::Target, history::NodeId};

/// Exit codes with which Holdfast ends over its disk: no space, and a disk that failed.
const OVER_THE_DISK: [i32; 2] = [3, 4];

/// How a node was found that may have ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// Its process has ended, with this if it is known.
    Ended(Option<ExitStatus>),
    /// Its process runs and a keyspace of it has stopped.
    NeitherServesNorEnds,
}

impl Ending {
    /// Refuses an ending that is not what a program promises. Only Holdfast promises something.
    pub(super) fn judge(self, node: NodeId, target: &str) -> Result<(), FaultError> {
        if target != Target::Holdfast.to_string() {
            return Ok(());
        }
        match self {
            Ending::Ended(None) => Ok(()),
            Ending::Ended(Some(status)) => match status.code() {
                Some(code) if OVER_THE_DISK.contains(&code) => Ok(()),
                _ => Err(FaultError::Failed(format!(
                    "node {node} ended over its disk with {status}, and not with exit code 3 or 4"
                ))),
            },
            Ending::NeitherServesNorEnds => Err(FaultError::Failed(format!(
                "node {node} neither served a keyspace nor ended, until it was killed"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn holdfast_ends_over_its_disk_with_a_code_of_its_own() {
        let judged = |ending: Ending, target| ending.judge(1, target).is_ok();
        let code = |code: i32| Ending::Ended(Some(ExitStatus::from_raw(code << 8)));
        assert!(judged(code(3), "holdfast") && judged(code(4), "holdfast"));
        assert!(judged(Ending::Ended(None), "holdfast"), "nobody knows");
        for wrong in [
            code(0),
            code(1),
            Ending::Ended(Some(ExitStatus::from_raw(libc::SIGABRT))),
            Ending::NeitherServesNorEnds,
        ] {
            assert!(!judged(wrong, "holdfast"), "{wrong:?}");
            assert!(judged(wrong, "etcd"), "{wrong:?}: it promises nothing");
        }
    }
}
