//! Where the replicas of every keyspace live, and which of them leads.
//!
//! A keyspace states a [`Wish`]: where its writes come from, what it must survive, who takes over. This
//! crate turns wishes and what is observed of the cluster into single steps, and says in words why.
//! It computes and does nothing: there is no clock, no randomness and no I/O in it, time enters as
//! a [`Duration`](std::time::Duration) since any fixed epoch, and the same calls give the same answers.
//!
//! ```text
//!             wish ─▶ choose_voters ─▶ Choice, or why not (Unmet)      when a keyspace is made or altered
//!
//!   Observed ──┬──▶ plan ──▶ [Step] ──▶ whoever changes groups ──┐     again and again
//!      ▲       │      ▲ │                                        │
//!      │       │    Memory (since when, how often, what next)    │
//!      └───────┼─────────────────────────────────────────────────┘
//!              ├──▶ risks      what the loss of a zone or a node would stop
//!              ├──▶ what_if    who leads after a loss, and how fast writes are then
//!              └──▶ explain    why a keyspace is where it is, and what it waits for
//!
//!   the leader is lost: election_order says who stands first; planning only tidies up afterwards
//! ```
//!
//! # What holds
//!
//! - **A goal is met or refused.** [`choose_voters`] never returns voters that do not survive what the
//!   wish says; it returns what is missing.
//! - **No step loses a quorum.** Voters change only while a majority of the old and a majority of the new
//!   ones are healthy and caught up; a replica is a learner until it is caught up.
//! - **Leadership never goes to a node that is not healthy, lags, or whose lag is unknown.**
//! - **No storm.** Leaders move a few at a time, at a stated pace ([`Policy`]), and to nodes that have been
//!   well for a while; a node that flaps waits longer each time.
//! - **Nothing moves back and forth.** What is where it may be stays there; a move for balance evens a
//!   difference of two or more, so it is never undone by the next.
//! - **No hash maps, no chance.** Equals are told apart by a fixed lot of keyspace and node.

mod auto_home;
mod choice;
mod decide;
mod explain;
mod index;
mod memory;
mod observed;
mod order;
mod plan;
mod policy;
mod quorum;
mod risk;
#[cfg(test)]
mod sketch;
mod step;
mod topology;
mod what_if;
mod wish;

pub use choice::{Choice, Load, Placed, choose_voters};
pub use explain::{Explanation, explain};
pub use memory::Memory;
pub use observed::{Objectives, Observation, Observed};
pub use order::election_order;
pub use plan::plan;
pub use policy::Policy;
pub use risk::{Risk, risks};
pub use step::{Action, Step};
pub use topology::{Cluster, Health, KeyspaceId, Node, NodeId, RoundTrips};
pub use what_if::{Broken, Outlook, WhatIf, WriteLatency, predict_write, what_if};
pub use wish::{Home, Survive, Unmet, Wish};
