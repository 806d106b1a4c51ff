//! The search against one that tries everything, and against histories known to be good.

use std::time::Duration;

use crate::checker::{
    Verdict, linearizability,
    simulator::{Simulation, Workload},
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn accepts_every_simulated_history() {
    for seed in 0..200 {
        let simulation = Simulation {
            workload: Workload::Register,
            seed,
            operations: 300,
            clients: 5,
            keys: 3,
            unknown: 0.1,
            failed: 0.05,
        };
        let finding = linearizability::check(&simulation.run(), LIMIT);
        assert_eq!(
            finding.verdict,
            Verdict::Valid,
            "{simulation:?}: {finding:#?}"
        );
    }
}
