//! Histories as lines of JSON: what a run writes while it goes on, and what `check` reads.
