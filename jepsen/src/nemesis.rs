//! Faults: what is broken, when, and how it is healed.
