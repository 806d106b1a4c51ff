//! How long the two checkers of single keys take over a long history.
//!
//! ```text
//! cargo run --release -p holdfast-jepsen --example checker_speed -- [OPERATIONS [CLIENTS [KEYS [SEED]]]]
//! ```
//!
//! Prints the operations and the seconds of each checker, and fails if one of them does not call
//! the history, which has no mistake in it, valid.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use holdfast_jepsen::checker::{
    Finding, Verdict, linearizability, revision,
    simulator::{Simulation, Workload},
};

fn timed(check: impl FnOnce() -> Finding) -> anyhow::Result<f64> {
    let started = Instant::now();
    let finding = check();
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{:<16} {seconds:>8.3} s  {:?}: {}",
        finding.checker, finding.verdict, finding.summary
    );
    ensure!(
        finding.verdict == Verdict::Valid,
        "a good history was not accepted: {finding:#?}"
    );
    Ok(seconds)
}

fn main() -> anyhow::Result<()> {
    let mut numbers = [100_000, 10, 200, 1];
    for (number, argument) in numbers.iter_mut().zip(std::env::args().skip(1)) {
        *number = argument
            .parse()
            .with_context(|| format!("{argument:?} is no number"))?;
    }
    let [operations, clients, keys, seed] = numbers;
    ensure!(clients > 0 && keys > 0, "needs a client and a key");
    let simulation = Simulation {
        operations: operations as usize,
        clients: clients as usize,
        keys,
        unknown: 0.005,
        failed: 0.005,
        ..Simulation::new(Workload::Register, seed)
    };
    let history = simulation.run();
    println!("operations       {operations:>8}  ({simulation:?})");
    let mut seconds = timed(|| revision::check(&history))?;
    seconds += timed(|| linearizability::check(&history, Duration::from_secs(60)))?;
    println!("{:<16} {seconds:>8.3} s", "both");
    Ok(())
}
