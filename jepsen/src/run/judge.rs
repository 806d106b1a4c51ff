//! Which checkers look at a history.

use std::time::Duration;

use crate::{
    checker::{
        Finding, append, bank, convergence, convergence::NodeState, counter, linearizability,
        revision, set, stale,
    },
    history::{History, NodeId, Op, What},
};

/// What a history is made of, and so which checkers have something to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Contents {
    registers: bool,
    sets: bool,
    lists: bool,
    accounts: bool,
    counters: bool,
    serializable: bool,
}

impl Contents {
    fn of(history: &History) -> Self {
        let mut contents = Self::default();
        for event in &history.events {
            let What::Client(client) = &event.what else {
                continue;
            };
            match &client.op {
                Op::Read { serializable, .. } if *serializable => contents.serializable = true,
                Op::Read { .. } | Op::Write { .. } | Op::Delete { .. } | Op::Cas { .. } => {
                    contents.registers = true;
                }
                Op::Add { .. } | Op::ReadSet { .. } => contents.sets = true,
                Op::Txn { .. } => contents.lists = true,
                Op::OpenAccounts { .. } | Op::Transfer { .. } | Op::ReadAccounts => {
                    contents.accounts = true;
                }
                Op::Increment { .. } | Op::ReadCounter { .. } | Op::ReadChain { .. } => {
                    contents.counters = true;
                }
            }
        }
        contents
    }
}

/// What the nodes were asked when all was over.
#[derive(Clone, Copy, Debug)]
pub struct Afterwards<'a> {
    /// What they said; empty if they were not asked.
    pub states: &'a [NodeState],
    /// The nodes that should have answered.
    pub nodes: &'a [NodeId],
}

/// Judges a history with every checker that has something to say about it, and, of a run that is
/// over, the states of the nodes. A search gives up after `limit`.
pub fn judge(
    history: &History,
    afterwards: Option<Afterwards<'_>>,
    limit: Duration,
) -> Vec<Finding> {
    let contents = Contents::of(history);
    let mut findings = vec![revision::check(history)];
    if contents.registers && !contents.serializable {
        findings.push(linearizability::check(history, limit));
    }
    if contents.sets {
        findings.push(set::check(history));
    }
    if contents.lists {
        findings.push(append::check(history));
    }
    if contents.accounts {
        findings.push(bank::check(history));
    }
    if contents.counters {
        findings.push(counter::check(history));
    }
    if contents.serializable {
        findings.push(stale::check(history));
    }
    if let Some(Afterwards { states, nodes }) = afterwards {
        findings.push(convergence::check(history, nodes, states));
    }
    findings
}
