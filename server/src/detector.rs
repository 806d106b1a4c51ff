//! The failure detector: which nodes are gone, which are silent, which say themselves that they are
//! sick.
//!
//! ```text
//!   Vitals ◀── log writer, applying, event loop        what this node's own parts do
//!     │
//!     ▼
//!   detector ◀── one connection per pair and direction ──▶ detectors of the peers
//!     │            beats: "I live, this I heard of you, this I see of the others"
//!     ▼
//!   Views ──▶ whoever acts on them: campaigns, hand-overs
//! ```
//!
//! There is one detector per pair of nodes and none per group. [`Views`] is what is known at a moment;
//! it is published whenever something in it changes that matters.

mod machine;
mod message;
mod patience;
mod peer;
mod report;
mod shell;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod time;
mod views;
mod vitals;

#[cfg(test)]
pub use self::views::{Stall, Suspicion};
pub use self::{
    report::{Report, Reporter, State},
    shell::{Detector, DetectorError, Doorway, FIRST_BYTE, Watched},
    views::{Evidence, Views},
    vitals::{Part, Vitals},
};
