//! Writers that write every key once, what they were told, and the check that it is true.
//!
//! The demonstration, its trials and the process tests ask the same question: is everything that was
//! acknowledged there, once, on every node? It is answered here, over `holdfast-client`.
//!
//! ```text
//!   Writers ── put, each key once ──▶ cluster
//!      │  ◀── acknowledged, refused, unknown ──
//!      ▼
//!   History ── longest gap, first write begun after an instant
//!      │
//!      ▼
//!   Contents of a node ── compare ──▶ Findings: lost, twice, wrong
//!   audit: both ways to read, on every node, and the hash of each
//! ```
//!
//! A key is written once, so an acknowledged write must be there with its value, its revision and version
//! 1. One of unknown effect may be there, once. One that was refused, or never made, must not.

mod audit;
mod compare;
mod history;
mod writers;

pub use audit::{Audit, AuditedNode, NodeAudit, audit};
pub use compare::{Contents, Findings};
pub use history::{Acknowledged, Failed, History, longest_pause, rate};
pub use writers::{Ledger, Writers};
