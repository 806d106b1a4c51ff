//! What the controller of placement asks other nodes.

use std::time::Duration;

use holdfast_proto::peer;

use super::{GrpcTransport, client::within};
use crate::{
    keyspace::placement::PlacementPeers,
    limits,
    raft::{NodeId, TransportError, transport::BoxFuture},
};

impl PlacementPeers for GrpcTransport {
    fn placed(&self, node: NodeId) -> BoxFuture<Result<peer::PlacedResponse, TransportError>> {
        let client = self.member(node).map(|p| p.client.clone());
        Box::pin(async move {
            let mut client = client?;
            let answer = client.placed(peer::PlacedRequest {});
            within(node, limits::PLACED_WITHIN, answer).await
        })
    }

    fn hand_over(
        &self,
        node: NodeId,
        request: peer::HandOverRequest,
    ) -> BoxFuture<Result<peer::HandOverResponse, TransportError>> {
        let client = self.member(node).map(|p| p.client.clone());
        let patience = Duration::from_millis(limits::HANDOVER_MS_MAX) + limits::PEER_PROBE_MAX;
        Box::pin(async move { within(node, patience, { client? }.hand_over(request)).await })
    }
}
