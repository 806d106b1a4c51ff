//! When a peer could not be reached last. Each group tries by itself; those that follow a vain attempt
//! within a moment take it for theirs, so a peer that is gone costs a node with hundreds of groups little.

use std::time::Instant;

use parking_lot::Mutex;

use crate::{
    limits,
    raft::{NodeId, TransportError},
};

/// The last attempt to reach a peer, if it was in vain.
#[derive(Default)]
pub(super) struct Unreached(Mutex<Option<Instant>>);

impl Unreached {
    /// Refuses an attempt that would follow a vain one within a moment.
    pub(super) fn check(&self, to: NodeId) -> Result<(), TransportError> {
        let tried = *self.0.lock();
        match tried.is_some_and(|at| at.elapsed() < limits::PEER_ATTEMPT_SHARED_FOR) {
            true => Err(TransportError::Unreachable {
                to,
                why: "another group could not reach it a moment ago".into(),
            }),
            false => Ok(()),
        }
    }

    /// What became of an attempt.
    pub(super) fn note<T>(&self, attempt: &Result<T, TransportError>) {
        *self.0.lock() = match attempt {
            Err(TransportError::Unreachable { .. }) => Some(Instant::now()),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vain_attempt_counts_for_all_groups_and_for_a_moment() {
        let unreached = Unreached::default();
        assert!(unreached.check(2).is_ok());
        let vain: Result<(), _> = Err(TransportError::Unreachable {
            to: 2,
            why: String::new(),
        });
        unreached.note(&vain);
        let refused = unreached.check(2);
        assert!(
            matches!(refused, Err(TransportError::Unreachable { to: 2, .. })),
            "{refused:?}"
        );
        unreached.note(&Ok(()));
        assert!(unreached.check(2).is_ok(), "it was reached");
        unreached.note(&vain);
        std::thread::sleep(limits::PEER_ATTEMPT_SHARED_FOR);
        assert!(unreached.check(2).is_ok(), "it is time to try again");
    }
}
