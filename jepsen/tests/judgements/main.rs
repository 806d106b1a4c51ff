//! Histories of simulated stores, perfect and broken, and whether the checkers tell them apart.
//!
//! Every assertion names the seed; a seed makes the same history each time.

mod append;
mod corpus;
mod keyed;
mod planted;
mod recorder;
mod stale;

use std::collections::BTreeMap;

use holdfast_jepsen::{
    checker::{
        Finding, Verdict,
        simulator::{Bug, Simulation, Workload},
    },
    history::{ClientEvent, Event, History, Kind, What},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A small one. Nodes are killed where it is asked what nodes know.
fn simulation(workload: Workload, seed: u64, bug: Bug) -> Simulation {
    Simulation {
        bug,
        restarts: workload == Workload::Stale,
        ..Simulation::new(workload, seed)
    }
}

/// A history of a small perfect store.
fn perfect(workload: Workload, seed: u64) -> History {
    simulation(workload, seed, Bug::None).strike().0
}

/// What a checker says of a perfect store under a few hundred seeds.
fn accepts_perfect_stores(workload: Workload, check: fn(&History) -> Finding) {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let simulation = Simulation {
            clients: rng.random_range(1..12),
            operations: rng.random_range(30..250),
            keys: rng.random_range(2..8),
            unknown: rng.random_range(0.0..0.3),
            ..simulation(workload, seed, Bug::None)
        };
        let (history, _) = simulation.strike();
        let finding = check(&history);
        assert_eq!(
            finding.verdict,
            Verdict::Valid,
            "{simulation:?}: {finding:#?}"
        );
        assert!(finding.checked > 0, "seed {seed}");
    }
}

/// Runs a store with a bug under a hundred seeds. Gives how many histories had each anomaly, and
/// asserts that no other than the `allowed` ones are found and that at least `share` of the
/// histories in which the bug struck are called invalid.
fn convicts(
    workload: Workload,
    bug: Bug,
    check: fn(&History) -> Finding,
    allowed: &[&str],
    share: f64,
) -> BTreeMap<String, u64> {
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    let (mut struck, mut caught) = (0u32, 0u32);
    for seed in 0..100 {
        let (history, strikes) = simulation(workload, seed, bug).strike();
        let finding = check(&history);
        struck += u32::from(strikes > 0);
        caught += u32::from(finding.verdict == Verdict::Invalid);
        if strikes == 0 {
            assert_eq!(finding.verdict, Verdict::Valid, "seed {seed}: {finding:#?}");
        }
        let found: std::collections::BTreeSet<_> = finding
            .anomalies
            .iter()
            .map(|anomaly| &anomaly.name)
            .collect();
        for name in found {
            assert!(
                allowed.contains(&name.as_str()),
                "seed {seed}, {bug:?}: {name} is not one of {allowed:?}: {finding:#?}"
            );
            *names.entry(name.clone()).or_default() += 1;
        }
    }
    println!("{workload:?} with {bug:?}: struck in {struck}, caught in {caught}: {names:?}");
    assert!(
        f64::from(caught) >= share * f64::from(struck),
        "{workload:?} with {bug:?}: struck in {struck} histories, caught in {caught}: {names:?}"
    );
    names
}

fn has(finding: &Finding, name: &str) -> bool {
    finding.verdict == Verdict::Invalid
        && finding.anomalies.iter().any(|anomaly| anomaly.name == name)
}

/// Changes one event that can be changed, chosen by the seed; false if there is none.
fn change_one(
    history: &mut History,
    seed: u64,
    mut change: impl FnMut(&mut ClientEvent) -> bool,
) -> bool {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = history.events.len();
    let start = rng.random_range(0..count);
    (0..count)
        .map(|step| (start + step) % count)
        .any(|at| match &mut history.events[at].what {
            What::Client(event) => change(event),
            What::Fault(_) => false,
        })
}

/// Changes all events of clients.
fn change_all(history: &mut History, mut change: impl FnMut(&mut ClientEvent)) {
    for event in &mut history.events {
        if let What::Client(event) = &mut event.what {
            change(event);
        }
    }
}

/// Turns an acknowledgement into a definite failure.
fn deny(event: &mut ClientEvent) {
    event.kind = Kind::Fail;
    event.reply = None;
}

/// Changes histories of a perfect store under a hundred seeds and asserts that each changed one is
/// called by this name, and that nearly all could be changed.
fn catches_changes(
    workload: Workload,
    check: fn(&History) -> Finding,
    name: &str,
    mut change: impl FnMut(&mut History, u64) -> bool,
) {
    let mut changed = 0;
    for seed in 0..100 {
        let mut history = perfect(workload, seed);
        if !change(&mut history, seed) {
            continue;
        }
        changed += 1;
        let finding = check(&history);
        assert!(has(&finding, name), "seed {seed}: not {name}: {finding:#?}");
        let last = history.events.len() as u64;
        for anomaly in &finding.anomalies {
            assert!(!anomaly.explanation.is_empty(), "seed {seed}");
            assert!(!anomaly.events.is_empty(), "seed {seed}: {anomaly:?}");
            assert!(anomaly.events.is_sorted(), "seed {seed}: {anomaly:?}");
            assert!(
                anomaly.events.iter().all(|event| *event < last),
                "seed {seed}: {anomaly:?}"
            );
        }
    }
    assert!(
        changed >= 60,
        "{name}: only {changed} histories could be changed"
    );
}

/// Puts events in at random places in their order, and numbers all anew.
fn weave(history: History, seed: u64, planted: Vec<ClientEvent>) -> (History, Vec<u64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut places: Vec<usize> = planted
        .iter()
        .map(|_| rng.random_range(0..=history.events.len()))
        .collect();
    places.sort_unstable();
    let mut planted = places.into_iter().zip(planted).peekable();
    let mut events: Vec<Event> = Vec::new();
    let mut indices = Vec::new();
    let mut push = |events: &mut Vec<Event>, what: What, is_planted: bool| {
        let index = events.len() as u64;
        if is_planted {
            indices.push(index);
        }
        events.push(Event {
            index,
            time: 1_000 * index,
            what,
        });
    };
    for (at, event) in history.events.into_iter().enumerate() {
        while let Some((_, event)) = planted.next_if(|(place, _)| *place <= at) {
            push(&mut events, What::Client(event), true);
        }
        push(&mut events, event.what, false);
    }
    for (_, event) in planted {
        push(&mut events, What::Client(event), true);
    }
    (History { events }, indices)
}
