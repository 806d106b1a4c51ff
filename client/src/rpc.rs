//! The unary calls this client makes, each tied to its request message, so that one engine
//! ([`crate::call`]) can carry them all.

use std::future::Future;

use holdfast_proto::{
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
        HashKvRequest, HashKvResponse, MemberListRequest, MemberListResponse, MoveLeaderRequest,
        MoveLeaderResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
        StatusRequest, StatusResponse, TxnRequest, TxnResponse, cluster_client::ClusterClient,
        kv_client::KvClient, maintenance_client::MaintenanceClient, request_op::Request as Op,
    },
    v1::{
        AlterKeyspaceRequest, AlterKeyspaceResponse, CreateKeyspaceRequest, CreateKeyspaceResponse,
        DebugCreateGroupsRequest, DebugCreateGroupsResponse, DebugDropGroupsRequest,
        DebugDropGroupsResponse, DescribeKeyspaceRequest, DescribeKeyspaceResponse,
        DropKeyspaceRequest, DropKeyspaceResponse, GroupsRequest, GroupsResponse,
        ListKeyspacesRequest, ListKeyspacesResponse, NodesRequest, NodesResponse, PeersRequest,
        PeersResponse, PlacementHistoryRequest, PlacementHistoryResponse, RegisterRequest,
        RegisterResponse, TransferLeaderRequest, TransferLeaderResponse, admin_client::AdminClient,
        keyspaces_client::KeyspacesClient, sessions_client::SessionsClient,
    },
};
use tonic::{Request, Response, Status, transport::Channel};

/// What repeating a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It changes nothing: repeat it at will.
    Read,
    /// It carries a retry id: repeat it where the cluster knows what that is.
    Write,
    /// It changes something and has no retry id: repeat it only if it was not carried out.
    Once,
}

/// A request message and the unary method that takes it.
pub(crate) trait Rpc: Clone + Send + Sync + 'static {
    type Response: Send + 'static;

    fn class(&self) -> Class;

    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

macro_rules! rpc {
    ($request:ty => $response:ty, $client:ident.$method:ident, $class:expr) => {
        impl Rpc for $request {
            type Response = $response;

            fn class(&self) -> Class {
                let class: fn(&Self) -> Class = $class;
                class(self)
            }

            async fn send(
                channel: Channel,
                request: Request<Self>,
            ) -> Result<Response<Self::Response>, Status> {
                // The size of an answer is the server's to bound.
                $client::new(channel)
                    .max_decoding_message_size(usize::MAX)
                    .$method(request)
                    .await
            }
        }
    };
}

rpc!(RangeRequest => RangeResponse, KvClient.range, |_| Class::Read);
rpc!(PutRequest => PutResponse, KvClient.put, |_| Class::Write);
rpc!(DeleteRangeRequest => DeleteRangeResponse, KvClient.delete_range, |_| Class::Write);
rpc!(TxnRequest => TxnResponse, KvClient.txn, class_of_txn);
rpc!(CompactionRequest => CompactionResponse, KvClient.compact, |_| Class::Write);
rpc!(MemberListRequest => MemberListResponse, ClusterClient.member_list, |_| Class::Read);
rpc!(StatusRequest => StatusResponse, MaintenanceClient.status, |_| Class::Read);
rpc!(HashKvRequest => HashKvResponse, MaintenanceClient.hash_kv, |_| Class::Read);
rpc!(MoveLeaderRequest => MoveLeaderResponse, MaintenanceClient.move_leader, |_| Class::Once);
rpc!(NodesRequest => NodesResponse, AdminClient.nodes, |_| Class::Read);
rpc!(DebugCreateGroupsRequest => DebugCreateGroupsResponse, AdminClient.debug_create_groups, |_| Class::Once);
rpc!(DebugDropGroupsRequest => DebugDropGroupsResponse, AdminClient.debug_drop_groups, |_| Class::Once);
rpc!(CreateKeyspaceRequest => CreateKeyspaceResponse, KeyspacesClient.create, |_| Class::Once);
rpc!(ListKeyspacesRequest => ListKeyspacesResponse, KeyspacesClient.list, |_| Class::Read);
rpc!(DescribeKeyspaceRequest => DescribeKeyspaceResponse, KeyspacesClient.describe, |_| Class::Read);
rpc!(AlterKeyspaceRequest => AlterKeyspaceResponse, KeyspacesClient.alter, |_| Class::Once);
rpc!(DropKeyspaceRequest => DropKeyspaceResponse, KeyspacesClient.drop, |_| Class::Once);
rpc!(PlacementHistoryRequest => PlacementHistoryResponse, KeyspacesClient.history, |_| Class::Read);
rpc!(GroupsRequest => GroupsResponse, AdminClient.groups, |_| Class::Read);
rpc!(PeersRequest => PeersResponse, AdminClient.peers, |_| Class::Read);
// An id that nobody uses gives way by itself.
rpc!(RegisterRequest => RegisterResponse, SessionsClient.register, |_| Class::Read);
rpc!(TransferLeaderRequest => TransferLeaderResponse, AdminClient.transfer_leader, |_| Class::Once);

/// A transaction that only reads may be repeated like any read.
fn class_of_txn(txn: &TxnRequest) -> Class {
    fn reads(ops: &[RequestOp]) -> bool {
        ops.iter().all(|op| match &op.request {
            Some(Op::RequestRange(_)) => true,
            Some(Op::RequestTxn(txn)) => reads(&txn.success) && reads(&txn.failure),
            Some(Op::RequestPut(_) | Op::RequestDeleteRange(_)) | None => false,
        })
    }
    if reads(&txn.success) && reads(&txn.failure) {
        Class::Read
    } else {
        Class::Write
    }
}
