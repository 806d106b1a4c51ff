//! Money moves and never comes or goes: every reading of the accounts has the same total.
//!
//! The accounts are made before the run. Which they are is known from all that any answer shows of
//! them; the total from the first complete reading. Then:
//!
//! | name | what was seen |
//! | --- | --- |
//! | `wrong-total` | a reading whose sum is not the total; a transfer between two accounts that together held more than all |
//! | `negative-balance` | an account below zero, or a transfer of more than its account held |
//! | `missing-account` | a reading, or a transfer, without an account that exists |
//!
//! A transfer of unknown outcome may have been made or not: the total is the same either way.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Finding};
use crate::history::{Data, History, Key, Op, Operation, Outcome, Value, Version};

const NAME: &str = "bank";

/// Balances of some accounts at one revision.
struct Balances<'a> {
    operation: Operation<'a>,
    of: BTreeMap<Key, i128>,
}

impl Balances<'_> {
    fn sum(&self) -> i128 {
        self.of.values().sum()
    }

    fn show(&self) -> String {
        const SHOWN: usize = 16;
        let mut parts: Vec<String> = self
            .of
            .iter()
            .take(SHOWN)
            .map(|(key, balance)| format!("{key}: {balance}"))
            .collect();
        if self.of.len() > SHOWN {
            parts.push(format!("{} more", self.of.len() - SHOWN));
        }
        parts.join(", ")
    }

    fn event(&self) -> u64 {
        self.operation.completed
    }
}

/// Judges all readings and transfers of a history.
///
/// *Unknown* if no reading of the accounts succeeded.
pub fn check(history: &History) -> Finding {
    let operations = match history.operations() {
        Ok(operations) => operations,
        Err(malformed) => return Finding::unknown(NAME, 0, format!("not a history: {malformed}")),
    };
    let mut readings = Vec::new();
    let mut transfers = Vec::new();
    let (mut checked, mut attempted) = (0, 0);
    for operation in &operations {
        let into = match operation.op {
            Op::ReadAccounts => &mut readings,
            Op::Transfer { .. } => {
                attempted += 1;
                &mut transfers
            }
            _ => continue,
        };
        checked += 1;
        if let Outcome::Ok(reply) = operation.outcome {
            match &reply.data {
                Data::Versions(versions) => match balances(versions) {
                    Some(of) => into.push(Balances {
                        operation: *operation,
                        of,
                    }),
                    None => {
                        let why = format!("event {}: a balance is no number", operation.completed);
                        return Finding::unknown(NAME, checked, why);
                    }
                },
                _ => {
                    let why = format!(
                        "event {}: the answer shows no accounts",
                        operation.completed
                    );
                    return Finding::unknown(NAME, checked, why);
                }
            }
        }
    }
    if readings.is_empty() {
        return Finding::unknown(
            NAME,
            checked,
            "nothing to judge: no reading of accounts succeeded",
        );
    }

    let accounts: BTreeSet<Key> = readings
        .iter()
        .chain(&transfers)
        .flat_map(|balances| balances.of.keys().copied())
        .collect();
    let reference = readings
        .iter()
        .find(|reading| reading.of.len() == accounts.len());
    let mut anomalies = Vec::new();
    for reading in &readings {
        complete(reading, accounts.iter().copied(), "reading", &mut anomalies);
        if let Some((account, balance)) = reading.of.iter().find(|(_, balance)| **balance < 0) {
            anomalies.push(Anomaly {
                name: "negative-balance".to_owned(),
                explanation: format!(
                    "The reading completed in event {} shows account {account} at {balance}; no \
                     transfer may take more than is there. It shows {}.",
                    reading.event(),
                    reading.show(),
                ),
                events: vec![reading.event()],
                edges: Vec::new(),
            });
        }
        if let Some(reference) = reference
            && reading.of.len() == accounts.len()
            && reading.sum() != reference.sum()
        {
            // Readings are in the order in which they began.
            let mut events = vec![reference.event(), reading.event()];
            events.sort_unstable();
            anomalies.push(Anomaly {
                name: "wrong-total".to_owned(),
                explanation: format!(
                    "The reading completed in event {} sums up to {} ({}), that of event {} to {} \
                     ({}). Transfers do not change the total.",
                    reading.event(),
                    reading.sum(),
                    reading.show(),
                    reference.event(),
                    reference.sum(),
                    reference.show(),
                ),
                events,
                edges: Vec::new(),
            });
        }
    }
    for transfer in &transfers {
        let reference = reference.filter(|reading| reading.of.values().all(|held| *held >= 0));
        judge_transfer(transfer, accounts.len(), reference, &mut anomalies);
    }
    let total = reference.map_or_else(
        || "no reading shows them all".to_owned(),
        |reference| format!("a total of {}", reference.sum()),
    );
    let summary = format!(
        "{} readings of {} accounts with {total}; {attempted} transfers attempted, {} acknowledged",
        readings.len(),
        accounts.len(),
        transfers.len(),
    );
    Finding::new(NAME, checked, summary, anomalies)
}

/// The balances of an answer; `None` if one is not a number.
fn balances(versions: &[(Key, Version)]) -> Option<BTreeMap<Key, i128>> {
    versions
        .iter()
        .map(|(key, version)| match version.value {
            Value::Number(balance) => Some((*key, i128::from(balance))),
            Value::List(_) => None,
        })
        .collect()
}

fn complete(
    balances: &Balances<'_>,
    accounts: impl Iterator<Item = Key>,
    what: &str,
    anomalies: &mut Vec<Anomaly>,
) {
    let missing: Vec<String> = accounts
        .filter(|account| !balances.of.contains_key(account))
        .map(|account| account.to_string())
        .collect();
    if !missing.is_empty() {
        anomalies.push(Anomaly {
            name: "missing-account".to_owned(),
            explanation: format!(
                "The {what} completed in event {} does not show account {}, which exists for the \
                 whole run. It shows {}.",
                balances.event(),
                missing.join(", "),
                balances.show(),
            ),
            events: vec![balances.event()],
            edges: Vec::new(),
        });
    }
}

/// An acknowledged transfer tells what its two accounts held before it.
fn judge_transfer(
    transfer: &Balances<'_>,
    accounts: usize,
    reference: Option<&Balances<'_>>,
    anomalies: &mut Vec<Anomaly>,
) {
    let Op::Transfer { from, to, amount } = *transfer.operation.op else {
        return;
    };
    complete(transfer, [from, to].into_iter(), "transfer", anomalies);
    let (Some(payer), Some(paid)) = (transfer.of.get(&from), transfer.of.get(&to)) else {
        return;
    };
    let event = transfer.event();
    if *payer < i128::from(amount) || *paid < 0 {
        anomalies.push(Anomaly {
            name: "negative-balance".to_owned(),
            explanation: format!(
                "The transfer acknowledged in event {event} moved {amount} from account {from}, \
                 which held {payer}, to account {to}, which held {paid}."
            ),
            events: vec![event],
            edges: Vec::new(),
        });
        return;
    }
    let Some(reference) = reference else {
        return;
    };
    let (both, total) = (payer + paid, reference.sum());
    let impossible = if accounts == 2 {
        both != total
    } else {
        both > total
    };
    if from != to && impossible {
        anomalies.push(Anomaly {
            name: "wrong-total".to_owned(),
            explanation: format!(
                "The transfer acknowledged in event {event} found {payer} in account {from} and \
                 {paid} in account {to}, {both} together. The reading completed in event {} sums \
                 up to {total} over all {accounts} accounts ({}), none of which is below zero.",
                reference.event(),
                reference.show(),
            ),
            events: {
                let mut events = vec![event, reference.event()];
                events.sort_unstable();
                events
            },
            edges: Vec::new(),
        });
    }
}
