//! What nodes say to each other, over gRPC.
//!
//! ```text
//!   GrpcTransport ── per peer ──▶ channel 1: votes, Link<heartbeats>, Link<forwards>
//!                                 channel 2: append streams
//!                                 channel 3: snapshots
//!   PeerServer    ◀── checks who speaks, then hands the message to the group
//! ```
//!
//! Every call carries who sends it and whom it is for; a message of another cluster, for another
//! node, or from a node that has lost its memory is refused before it is looked at. While a node is
//! not sure of its own memory its [`Gate`] is closed: it neither votes nor acknowledges.

mod batches;
pub mod client;
#[cfg(test)]
mod fuzz;
mod hello;
pub mod leading;
mod link;
mod placing;
pub mod reachability;
pub mod server;
#[cfg(test)]
mod tests;
mod unreached;

use futures_util::Stream;
use tonic::Streaming;

/// Why an address cannot be one of a peer.
pub use tonic::transport::Error as AddressError;

pub use self::{
    client::GrpcTransport,
    hello::{Gate, Introduction},
    server::{PeerServer, Standing},
};

/// The messages of a stream up to its end or its first error: what follows could not be in order.
fn until_error<T: Send + 'static>(stream: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    futures_util::stream::unfold(stream, |mut stream| async move {
        match stream.message().await {
            Ok(Some(message)) => Some((message, stream)),
            Ok(None) => None,
            Err(status) => {
                tracing::debug!(%status, "a stream of a peer broke off");
                None
            }
        }
    })
}
