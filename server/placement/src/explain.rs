//! Why a keyspace is where it is, what should be different, and what that waits for.
//!
//! It tells what the next [`plan`](crate::plan()) decides by asking the same code, so that an operator never has to guess
//! what the planner thinks.

use std::fmt;

use crate::{
    Action, KeyspaceId, Memory, NodeId, Observed, Placed,
    decide::{Decision, Subject, View},
    index::{Index, State},
    memory::Record,
    risk::risks_of,
};

/// Why a keyspace is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which keyspace.
    pub keyspace: KeyspaceId,
    /// Its name.
    pub name: String,
    /// Its home zone, if it has one yet.
    pub home: Option<String>,
    /// What the last window of writes showed, for an automatic home.
    pub saw: Option<String>,
    /// The present voters, each with the reason why it votes or why it leaves.
    pub voters: Vec<Placed>,
    /// Nodes that are to become voters, each with the reason.
    pub joining: Vec<Placed>,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Who should lead.
    pub wanted_leader: Option<NodeId>,
    /// Why that one should.
    pub leader_reason: String,
    /// The step that could be taken now, with its reason, as soon as there is room for it.
    pub next: Option<String>,
    /// What the next step waits for.
    pub waits: Vec<String>,
    /// What would stop the keyspace, against its survival goal.
    pub risks: Vec<String>,
}

/// Explains a keyspace; `None` if it is not among those observed.
pub fn explain(observed: &Observed, memory: &Memory, keyspace: KeyspaceId) -> Option<Explanation> {
    let observation = observed.keyspaces.get(&keyspace)?;
    let index = Index::new(&observed.cluster);
    let known = memory.keyspaces.get(&keyspace);
    let record = Record::peek(known, keyspace, observation, &index, &memory.nodes);
    let subject = Subject {
        view: View {
            index: &index,
            nodes: &memory.nodes,
        },
        keyspace,
        observation,
        record: &record,
    };
    let decision = subject.decide();
    let wish = &observation.wish;
    let (wanted_leader, leader_reason) = wanted_leader(&subject, &decision);
    let next = decision.voters.as_ref().or(decision.leader.as_ref());
    let next = next.map(|next| format!("{}: {}", next.action, subject.reason(&next.reason)));
    let (voters, joining) = placed(&subject);
    Some(Explanation {
        keyspace,
        name: wish.name.clone(),
        home: record.home(wish).map(str::to_owned),
        saw: record.auto.as_ref().map(|auto| auto.saw.clone()),
        voters,
        joining,
        leader: observation.leader,
        wanted_leader,
        leader_reason,
        next,
        waits: decision
            .waits
            .iter()
            .map(|wait| subject.wait(wait))
            .collect(),
        risks: risks_of(&index, keyspace, observation),
    })
}

/// The voters, and those that are to become some.
fn placed(subject: &Subject<'_>) -> (Vec<Placed>, Vec<Placed>) {
    let Subject {
        view,
        observation,
        record,
        ..
    } = subject;
    let target = &record.target;
    let place = |node: NodeId| {
        let reason = if target.contains(&node) {
            subject.why_wanted(node)
        } else if view.index.state(node) == State::Dead {
            "leaves: dead for good".to_owned()
        } else {
            "leaves: not among the wanted voters".to_owned()
        };
        Placed {
            node,
            zone: view.index.zone_of(node).to_owned(),
            reason,
        }
    };
    let voters = observation.voters.iter().copied().map(place).collect();
    let joining = target.difference(&observation.voters);
    (voters, joining.copied().map(place).collect())
}

/// Who should lead, and why.
fn wanted_leader(subject: &Subject<'_>, decision: &Decision) -> (Option<NodeId>, String) {
    let record = subject.record;
    if let Some(leader) = record.settled {
        let place = subject.place(leader);
        return (Some(leader), format!("it leads where it belongs: {place}"));
    }
    let proposed = decision.leader.as_ref().map(|proposal| &proposal.action);
    let wanted = match proposed {
        Some(Action::TransferLeader { to, .. }) => Some(*to),
        _ => subject.first_choice(),
    };
    let Some(wanted) = wanted else {
        return (None, "no voter that could lead is left".to_owned());
    };
    let place = subject.place(wanted);
    let reason = match subject.observation.leader {
        Some(leader) if leader != wanted => {
            format!("{place} comes before {}", subject.place(leader))
        }
        Some(_) => format!("{place} is the best there is"),
        None => format!("{place} comes first"),
    };
    (Some(wanted), reason)
}

impl Explanation {
    /// The explanation, one fact a line, without line ends.
    pub fn lines(&self) -> Vec<String> {
        let id =
            |node: Option<NodeId>| node.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
        let mut lines = vec![format!("keyspace {} ({})", self.name, self.keyspace)];
        let home = self.home.as_deref().unwrap_or("not known yet");
        match &self.saw {
            Some(saw) => lines.push(format!("home: {home}, found by its writes: {saw}")),
            None => lines.push(format!("home: {home}")),
        }
        let leader = id(self.leader);
        if self.leader == self.wanted_leader {
            lines.push(format!("leader: {leader}: {}", self.leader_reason));
        } else {
            let wanted = id(self.wanted_leader);
            let reason = &self.leader_reason;
            lines.push(format!("leader: {leader}, wanted is {wanted}: {reason}"));
        }
        let placed =
            |what: &str, placed: &Placed| format!("{what} {}: {}", placed.node, placed.reason);
        lines.extend(self.voters.iter().map(|voter| placed("voter", voter)));
        lines.extend(
            self.joining
                .iter()
                .map(|voter| placed("to become a voter", voter)),
        );
        lines.extend(self.next.iter().map(|next| format!("next: {next}")));
        lines.extend(self.waits.iter().map(|wait| format!("waits for: {wait}")));
        lines.extend(self.risks.iter().map(|risk| format!("at risk: {risk}")));
        lines
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

#[cfg(test)]
mod tests;
