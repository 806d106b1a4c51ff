//! What would stop a keyspace, against its survival goal.
//!
//! A goal that was met when it was asked for may not be any more: nodes die, zones go. That is told
//! as long as it lasts, with the loss that would stop the keyspace.

use std::collections::BTreeSet;

use crate::{
    KeyspaceId, Load, NodeId, Observation, Observed, Survive,
    choice::Question,
    index::{Index, State},
    quorum::majority,
    step::{nodes, row},
};

/// Something that an operator should know of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// Which keyspace.
    pub keyspace: KeyspaceId,
    /// What is at risk, in words: "survival goal zone: voters 1 and 2 of 3 remain; the loss of zone-b would
    /// stop it".
    pub what: String,
}

/// All keyspaces that do not survive what their wish says, in their order.
pub fn risks(observed: &Observed) -> Vec<Risk> {
    let index = Index::new(&observed.cluster);
    let keyspaces = observed.keyspaces.iter();
    let risks = keyspaces.flat_map(|(keyspace, observation)| {
        let risks = risks_of(&index, *keyspace, observation).into_iter();
        risks.map(|what| Risk {
            keyspace: *keyspace,
            what,
        })
    });
    risks.collect()
}

/// What is at risk for one keyspace, in words.
pub(crate) fn risks_of(
    index: &Index<'_>,
    keyspace: KeyspaceId,
    observation: &Observation,
) -> Vec<String> {
    let survive = observation.wish.survive;
    let voters = &observation.voters;
    let answering = voters.iter().copied();
    let answering: BTreeSet<NodeId> = answering
        .filter(|node| index.state(*node).votes())
        .collect();
    let needed = majority(voters.len());
    let mut risks = Vec::new();
    if answering.len() < needed {
        let silent: Vec<NodeId> = voters.difference(&answering).copied().collect();
        risks.push(format!(
            "no quorum: {} of {} voters answer and {needed} are needed; down: {}",
            answering.len(),
            voters.len(),
            nodes(&silent)
        ));
    } else {
        let fatal = fatal_losses(index, survive, &answering, needed);
        if !fatal.is_empty() {
            let remaining = if answering.len() == voters.len() {
                format!("all {} voters are there", voters.len())
            } else {
                format!("voters {} of {} remain", nodes(&answering), voters.len())
            };
            let losses = row(&fatal, "or");
            risks.push(format!(
                "survival goal {survive}: {remaining}; the loss of {losses} would stop it"
            ));
        }
    }
    let question = Question {
        keyspace,
        wish: &observation.wish,
        home: observation.wish.home_zone(None),
        voters,
        learners: &observation.learners,
        leader: observation.leader,
    };
    if let Err(unmet) = question.strict(index, &|_| Load::default()) {
        risks.push(format!(
            "the present nodes cannot do what is wished: {unmet}"
        ));
    }
    let sick = voters.iter().copied();
    let sick: Vec<NodeId> = sick
        .filter(|node| index.state(*node) == State::Sick)
        .collect();
    if !sick.is_empty() {
        risks.push(format!("sick voters: {}", nodes(&sick)));
    }
    risks
}

/// The zones or nodes whose loss would leave fewer voters than are needed.
fn fatal_losses(
    index: &Index<'_>,
    survive: Survive,
    answering: &BTreeSet<NodeId>,
    needed: usize,
) -> Vec<String> {
    match survive {
        Survive::Node if answering.len() > needed => Vec::new(),
        Survive::Node => {
            let nodes = answering.iter().map(|node| format!("node {node}"));
            nodes.collect()
        }
        Survive::Zone => {
            let zones: BTreeSet<&str> = answering.iter().map(|node| index.zone_of(*node)).collect();
            let is_fatal = |zone: &&str| {
                let others = answering
                    .iter()
                    .filter(|node| index.zone_of(**node) != *zone);
                others.count() < needed
            };
            zones
                .into_iter()
                .filter(is_fatal)
                .map(str::to_owned)
                .collect()
        }
    }
}

#[cfg(test)]
mod tests;
