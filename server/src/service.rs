//! gRPC: what clients and peers see of a node. Nothing below knows the wire.
//!
//! ```text
//!   client port ─▶ Kv, Cluster, Maintenance, Admin, health, reflection ─▶ keyspace ─▶ group
//!   peer port   ─▶ peer::PeerServer ─────────────────────────────────────▶ group
//! ```

mod admin;
mod authority;
mod cluster;
mod connections;
mod context;
mod deadline;
mod direct;
mod health;
mod http2;
mod keyspaces;
mod kv;
mod leaders;
mod listener;
mod maintenance;
pub mod peer;
mod protocol;
mod reads;
mod server;
mod sessions;
mod status;

pub use self::{
    context::ServiceContext,
    server::{ServeError, Serving, serve_clients, serve_peers},
};
