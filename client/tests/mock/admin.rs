//! What the cluster says of itself to operators.

use super::*;

#[tonic::async_trait]
impl Admin for Service {
    async fn nodes(
        &self,
        _: Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        let mut nodes = self.world.nodes.lock().clone();
        for node in &mut nodes {
            node.answering = node.id == self.id;
        }
        Ok(Response::new(v1::NodesResponse {
            cluster_id: self.world.cluster_id,
            nodes,
        }))
    }

    async fn groups(
        &self,
        _: Request<v1::GroupsRequest>,
    ) -> Result<Response<v1::GroupsResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn peers(
        &self,
        _: Request<v1::PeersRequest>,
    ) -> Result<Response<v1::PeersResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    type WatchGroupsStream = ReceiverStream<Result<v1::GroupsResponse, Status>>;

    async fn watch_groups(
        &self,
        _: Request<v1::WatchGroupsRequest>,
    ) -> Result<Response<Self::WatchGroupsStream>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let leader = request.into_inner().to_node;
        Ok(Response::new(v1::TransferLeaderResponse { leader }))
    }

    async fn debug_create_groups(
        &self,
        _: Request<v1::DebugCreateGroupsRequest>,
    ) -> Result<Response<v1::DebugCreateGroupsResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn debug_stop_groups(
        &self,
        _: Request<v1::DebugStopGroupsRequest>,
    ) -> Result<Response<v1::DebugStopGroupsResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn debug_start_groups(
        &self,
        _: Request<v1::DebugStartGroupsRequest>,
    ) -> Result<Response<v1::DebugStartGroupsResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }

    async fn debug_drop_groups(
        &self,
        _: Request<v1::DebugDropGroupsRequest>,
    ) -> Result<Response<v1::DebugDropGroupsResponse>, Status> {
        Err(Status::unimplemented("mock"))
    }
}
