//! Client library of Holdfast.
//!
//! Several endpoints, failover, deadlines, and writes that may safely be sent again. It speaks the
//! etcd v3 API, so it works against etcd too, without the last of these.
//!
//! ```no_run
//! # async fn example() -> holdfast_client::Result<()> {
//! use holdfast_client::Client;
//!
//! let client = Client::builder()
//!     .endpoints(["10.0.1.5:2379", "10.0.2.5:2379"])
//!     .prefer_zone("zone-a")
//!     .connect()
//!     .await?;
//! client.put("greeting", "hello").await?;
//! let greeting = client.get("greeting").first().await?;
//! let orders = client.keyspace("orders")?;
//! orders.put("1", "two spoons").await?;
//! # Ok(()) }
//! ```
//!
//! ```text
//!  Client ── Get, Put, Delete, Txn … (kv, txn) ──▶ call: attempts, hedging, backoff, deadline
//!                                                    │         │            │
//!                                        sessions: retry ids   │            error: effect known?
//!                                                              ▼
//!                                        cluster: which endpoints, their health, discovery
//!                                                              ▼
//!                                        endpoint: connections
//! ```
//!
//! The tracing target `holdfast_client` tells what the background tasks find out.

mod builder;
mod call;
mod client;
mod cluster;
mod endpoint;
mod error;
mod hangs;
mod keyspaces;
mod kv;
mod rpc;
mod sessions;
mod txn;
mod verdict;

pub use builder::{ClientBuilder, DEFAULT_ENDPOINT, DEFAULT_TIMEOUT};
pub use bytes::Bytes;
pub use client::{BoxFuture, Client, DEFAULT_KEYSPACE};
pub use endpoint::ServerKind;
pub use error::{Effect, Error, ErrorKind, Result};
pub use holdfast_proto::{
    etcdserverpb::compare::CompareResult,
    metadata::{CLIENT_ID, KEYSPACE, REQUEST_SEQ, RETRY},
};
pub use kv::{Binding, Compact, Delete, Get, Put, SortOrder, SortTarget, Unbound, prefix_end};
pub use txn::{Compare, CompareTo, Op, Txn};

/// The messages on the wire.
pub use holdfast_proto as proto;
