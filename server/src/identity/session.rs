//! The starts of a node, told apart, so that an old copy of its directory is known for what it is.
//!
//! ```text
//!   directory    1a ── 2b ── 3c ── 4d ── 5e          each start adds a number and a random nonce
//!   a copy              └── 3x                       what a peer last met, 5e, is not in this chain
//! ```
//!
//! A peer keeps the last session that it met. The chain of a directory which went on from there
//! holds that session; a chain that ends before it, or has another nonce at its number, belongs to
//! a copy from before. A copy of the last session itself passes, which is why peers also keep how
//! far the node's memory had come; see [`crate::raft::Reach`].

use serde::{Deserialize, Serialize};

use crate::limits::SESSIONS_TOLD_MAX;

/// One start of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Counts the starts, from 1.
    pub number: u64,
    /// Drawn at the start.
    pub nonce: u64,
}

/// The sessions of a directory.
///
/// - `nonces` are those of the last sessions, the present one at the end; `number` is its number.
/// - There is a nonce for each session until there are [`SESSIONS_TOLD_MAX`]; none before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    number: u64,
    nonces: Vec<u64>,
}

impl Sessions {
    /// The chain that a peer told: the number of its last session, and the last nonces.
    /// `None` if they do not fit together.
    pub fn told(number: u64, nonces: Vec<u64>) -> Option<Self> {
        let count = u64::try_from(nonces.len()).ok()?;
        let fits =
            count <= number && nonces.len() <= SESSIONS_TOLD_MAX && (count > 0 || number == 0);
        fits.then_some(Self { number, nonces })
    }

    /// Number of the present session.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Nonces of the last sessions, the present one at the end.
    pub fn nonces(&self) -> &[u64] {
        &self.nonces
    }

    /// The present session.
    pub fn current(&self) -> Option<Session> {
        let nonce = *self.nonces.last()?;
        Some(Session {
            number: self.number,
            nonce,
        })
    }

    /// The chain with one more session.
    #[must_use]
    pub fn next(&self, nonce: u64) -> Self {
        let mut nonces = self.nonces.clone();
        if nonces.len() == SESSIONS_TOLD_MAX {
            nonces.remove(0);
        }
        nonces.push(nonce);
        Self {
            number: self.number + 1,
            nonces,
        }
    }

    /// Whether a node whose last session this was may have gone on to this chain. One that is too
    /// long ago to be told by name may have.
    pub fn follows(&self, met: Session) -> bool {
        let Some(ago) = self.number.checked_sub(met.number) else {
            return false;
        };
        let known = usize::try_from(ago)
            .ok()
            .and_then(|ago| self.nonces.iter().rev().nth(ago));
        known.is_none_or(|nonce| *nonce == met.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(nonces: &[u64]) -> Sessions {
        let start = Sessions::default();
        nonces.iter().fold(start, |chain, nonce| chain.next(*nonce))
    }

    fn session(number: u64, nonce: u64) -> Session {
        Session { number, nonce }
    }

    #[test]
    fn a_chain_follows_the_sessions_in_it_and_no_others() {
        let now = chain(&[10, 20, 30]);
        assert_eq!(now.current(), Some(session(3, 30)));
        for met in [session(1, 10), session(2, 20), session(3, 30)] {
            assert!(now.follows(met), "{met:?}");
        }
        assert!(!now.follows(session(4, 40)), "it is behind");
        assert!(!now.follows(session(3, 31)), "it forked at the last");
        assert!(!now.follows(session(2, 21)), "it forked before");
        assert!(!Sessions::default().follows(session(1, 10)), "it has none");
    }

    #[test]
    fn a_long_chain_forgets_names_and_keeps_the_count() {
        let nonces: Vec<u64> = (1..=2 * SESSIONS_TOLD_MAX as u64).collect();
        let now = chain(&nonces);
        assert_eq!(now.nonces().len(), SESSIONS_TOLD_MAX);
        assert_eq!(now.number(), nonces.len() as u64);
        let oldest_named = now.number() - SESSIONS_TOLD_MAX as u64 + 1;
        assert!(!now.follows(session(oldest_named, 0)));
        assert!(now.follows(session(oldest_named - 1, 0)), "nobody can tell");
    }

    #[test]
    fn a_chain_that_does_not_fit_together_is_not_taken() {
        assert!(Sessions::told(2, vec![1, 2]).is_some());
        assert!(Sessions::told(0, Vec::new()).is_some());
        assert!(Sessions::told(1, vec![1, 2]).is_none());
        assert!(Sessions::told(5, Vec::new()).is_none());
        assert!(Sessions::told(1 << 20, vec![0; SESSIONS_TOLD_MAX + 1]).is_none());
    }
}
