//! Messages and gRPC services of Holdfast.
//!
//! The `.proto` files under `proto/` are the source; this crate holds the code generated from
//! them. Three families live here:
//!
//! - [`etcdserverpb`] and [`mvccpb`]: wire-compatible with the etcd v3 API, so that every etcd
//!   client is a Holdfast client;
//! - [`v1`]: the administrative API that etcd has no words for (zones, groups, events);
//! - [`peer`] and [`command`]: what nodes say to each other, and what stands in the Raft log.
//!
//! Without the feature `grpc` only the messages are compiled, without tonic.

#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated code follows the .proto files, not the lints of hand-written code"
)]

#[cfg(feature = "grpc")]
pub mod codec;
pub mod framing;
#[cfg(feature = "grpc")]
pub mod gathering;
pub mod metadata;

/// Keys, values and events of the etcd v3 API.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// Requests, responses and services of the etcd v3 API.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

// Nested as the packages are nested, because generated code refers to its neighbours by path.
mod holdfast {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));
    }
    pub mod command {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/holdfast.command.v1.rs"));
        }
    }
    pub mod peer {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/holdfast.peer.v1.rs"));
        }
    }
    pub mod registry {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/holdfast.registry.v1.rs"));
        }
    }
    pub mod snapshot {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/holdfast.snapshot.v1.rs"));
        }
    }
}

pub use holdfast::command::v1 as command;
pub use holdfast::peer::v1 as peer;
pub use holdfast::registry::v1 as registry;
pub use holdfast::snapshot::v1 as snapshot;
pub use holdfast::v1;

/// The encoded `FileDescriptorSet` of all the services, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
