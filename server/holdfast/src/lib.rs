//! What the program and its tests share: writers whose writes can be audited, and the audit.
//!
//! Everything else of the program is in `main.rs` and private to it.

pub mod unique_writes;
