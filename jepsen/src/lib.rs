//! Breaks a cluster on purpose and judges what it did.
//!
//! ```text
//!             workload: seeded operations                    nemesis: seeded faults
//!                    │                                            │
//!   run ──▶ workers (one client each) ──▶ cluster ◀── processes, links, disks, clocks
//!                    │                                            │
//!                    └────────▶ history: who asked what, when, ◀──┘
//!                               what came back, what was broken
//!                                        │
//!                            checker: verdict with the evidence
//!                                        │
//!                            evidence: history.jsonl, history.edn, results.json, report.html
//! ```
//!
//! What holds here:
//!
//! - The harness talks to a cluster as any client does. It shares no code with the server, and its
//!   model of the store is written a second time, so one mistake cannot pass both.
//! - An outcome that is not known is never taken for a failure, nor for a success.
//! - A run whose faults were never applied is not a pass.
//! - What a run starts, it stops: processes, proxies, network namespaces and mounts, on every way out.
//!   What outlives a crash of the harness all the same is in its [`journal`], from which it is mended.

pub mod checker;
pub mod cli;
pub mod cluster;
pub mod evidence;
pub mod history;
pub mod journal;
pub mod nemesis;
pub mod run;
pub mod suite;
mod terminal;
pub mod workload;
