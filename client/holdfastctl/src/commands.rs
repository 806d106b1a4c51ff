//! One module for each family of commands. A command takes the client and its arguments, writes to
//! the screen, and says with which code the program ends.

pub mod cluster;
pub mod debug;
pub mod keyspace;
pub mod kv;
mod peers;
pub mod placement;
pub mod txn;
