//! How long the checker of transactions takes: prints the seconds for histories of a perfect store
//! and of one that is broken all over.
//!
//! `cargo run -p holdfast-jepsen --example append_speed [TRANSACTIONS]`, 50,000 by default.

use std::time::Instant;

use holdfast_jepsen::checker::{
    append,
    simulator::{Bug, Simulation, Workload},
};

fn main() {
    let operations = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(50_000);
    for bug in [
        Bug::None,
        Bug::StaleReads,
        Bug::Snapshots,
        Bug::BlindUpdates,
        Bug::HalfTransactions,
    ] {
        let simulation = Simulation {
            clients: 10,
            operations,
            // Lists of about 100 elements.
            keys: (operations as u64 / 80).max(1),
            unknown: 0.01,
            bug,
            ..Simulation::new(Workload::Append, 1)
        };
        let (history, _) = simulation.strike();
        let began = Instant::now();
        let finding = append::check(&history);
        println!(
            "{bug:?}: {:.2} s for {} transactions: {:?}, {} anomalies; {}",
            began.elapsed().as_secs_f64(),
            finding.checked,
            finding.verdict,
            finding.anomalies_found,
            finding.summary,
        );
        for anomaly in finding.anomalies.iter().take(2) {
            println!("  {}: {}", anomaly.name, anomaly.explanation);
        }
    }
}
