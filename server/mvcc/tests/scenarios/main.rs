//! Runs the scenarios under `tests/scripts`: one a file, the name is the claim.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p holdfast-mvcc --test scenarios` writes the outputs anew;
//! they are then read before they are kept. What the words of a script do is in `runner.rs`.

// A failed unwrap is a failed test, in the helpers of a test as well.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

mod requests;
mod runner;
mod show;

use std::{fs, panic};

#[test]
fn every_scenario_holds() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    let mut scripts: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scripts.sort();
    let failed: Vec<_> = scripts
        .iter()
        .filter(|script| {
            let run = || goldenscript::run(&mut runner::Runner::default(), script).unwrap();
            panic::catch_unwind(run).is_err()
        })
        .collect();
    assert!(!scripts.is_empty(), "no scenarios in {directory}");
    assert!(failed.is_empty(), "scenarios that do not hold: {failed:#?}");
}
