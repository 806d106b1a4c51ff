//! Good histories are accepted, damaged ones are not, and by the right name.

use crate::checker::{
    Finding, Verdict, revision,
    simulator::{Simulation, Workload},
};

fn simulation(workload: Workload, seed: u64) -> Simulation {
    Simulation {
        workload,
        seed,
        operations: 200,
        clients: 5,
        keys: 4,
        unknown: 0.1,
        failed: 0.05,
    }
}

#[track_caller]
fn valid(finding: &Finding, what: &dyn std::fmt::Debug) {
    assert_eq!(finding.verdict, Verdict::Valid, "{what:?}: {finding:#?}");
}

#[test]
fn accepts_every_simulated_history() {
    for workload in Workload::ALL {
        for seed in 0..200 {
            let simulation = simulation(workload, seed);
            valid(&revision::check(&simulation.run()), &simulation);
        }
    }
}
