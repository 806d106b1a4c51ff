//! Whether a change leaves a quorum: the guard that every step passes before it is emitted.

use std::collections::BTreeSet;

use crate::{
    NodeId, Observation, Policy,
    index::{Index, State},
};

/// How many of so many voters decide.
pub(crate) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether a node is healthy and close enough behind the leader to take over, or to vote for new entries
/// at once.
pub(crate) fn is_fit(
    index: &Index<'_>,
    observation: &Observation,
    policy: &Policy,
    node: NodeId,
) -> bool {
    index.state(node) == State::Healthy
        && observation
            .lag_of(node)
            .is_some_and(|lag| lag <= policy.lag_entries_max)
}

/// How many voters a change can count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) fit: usize,
    pub(crate) needed: usize,
    /// Whether it is the new voters that are too few.
    pub(crate) is_new: bool,
}

impl Shortage {
    pub(crate) fn text(self) -> String {
        let which = if self.is_new { "new" } else { "present" };
        format!(
            "a quorum of the {which} voters: {} of the {} needed are healthy and caught up",
            self.fit, self.needed
        )
    }
}

/// Refuses a change of the voters unless a majority of the present ones and a majority of the new ones are
/// healthy and caught up.
pub(crate) fn guard(
    index: &Index<'_>,
    observation: &Observation,
    policy: &Policy,
    new: &BTreeSet<NodeId>,
) -> Result<(), Shortage> {
    for (voters, is_new) in [(&observation.voters, false), (new, true)] {
        let is_fit = |node: &&NodeId| is_fit(index, observation, policy, **node);
        let fit = voters.iter().filter(is_fit).count();
        let needed = majority(voters.len());
        if fit < needed {
            return Err(Shortage {
                fit,
                needed,
                is_new,
            });
        }
    }
    Ok(())
}

/// Refuses what needs the present voters to decide, unless a majority of them answers.
pub(crate) fn guard_present(index: &Index<'_>, observation: &Observation) -> Result<(), Shortage> {
    let voters = &observation.voters;
    let answer = |node: &&NodeId| index.state(**node).votes();
    let fit = voters.iter().filter(answer).count();
    let needed = majority(voters.len());
    if fit < needed {
        return Err(Shortage {
            fit,
            needed,
            is_new: false,
        });
    }
    Ok(())
}
