//! Real nodes, really killed: what a cluster of three processes keeps through crashes, stops,
//! absences, damage and abuse. The harness tells how a test of this kind is made.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod abuse;
mod catch_up;
mod connections;
mod crashes;
mod damage;
mod deadlines;
mod detector;
mod diagnostics;
mod failover;
mod founding;
mod full_disk;
mod groups;
mod keyspaces;
mod large_reads;
mod log_lines;
mod lost_memory;
mod old_copies;
mod placement;
mod protocol;
mod refusals;
mod retry_table;
mod stopping;
mod waiting_groups;
