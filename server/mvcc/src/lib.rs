//! The pure state machine of a keyspace.
