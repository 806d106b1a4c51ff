//! Faults: what is broken, when, and how it is healed.
//!
//! ```text
//!   schedule (one task for each nemesis asked for)
//!      │ draws a fault, holds it, heals it
//!      ▼
//!   fault ──▶ active_faults: who holds what down, paused, cut ──▶ cluster
//! ```
//!
//! - What a fault does is looked at from outside: seen, not to be seen, or disproved, and then it was not
//!   made.
//! - A fault is applied, or skipped with the reason; what went wrong in the harness itself is told
//!   apart from both.
//! - Faults of different nemeses overlap. What two of them broke is whole again only when both have
//!   healed it.
//! - Faults of different nemeses together stay within the [`BlastRadius`] of the run.
//! - All is healed at the end of a run, whatever happened.

pub mod active_faults;
mod busy;
mod claims;
mod disk;
mod effect;
mod ending;
pub mod fault;
mod injected;
mod installs;
mod memory;
pub mod names;
mod network;
pub mod observe;
mod process;
pub mod radius;
mod scarcity;
pub mod schedule;
pub mod target;

#[cfg(test)]
pub(crate) use self::process::{LAGS, LEADERLESS};
pub use self::{
    active_faults::ActiveFaults,
    fault::Fault,
    observe::Observer,
    radius::BlastRadius,
    schedule::{Nemesis, Plan},
};
