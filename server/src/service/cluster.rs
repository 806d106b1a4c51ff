//! etcd's Cluster service: who the members are.

use std::sync::Arc;

use holdfast_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, cluster_server::Cluster,
};
use tonic::{Request, Response, Status};

use super::{
    context::{self, ServiceContext},
    status,
};

/// Serves etcd's Cluster API.
pub(super) struct ClusterService {
    context: Arc<ServiceContext>,
}

impl ClusterService {
    pub(super) fn new(context: Arc<ServiceContext>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let linearizable = request.get_ref().linearizable;
        let term = match self.context.group(&request).await {
            Ok(group) => {
                if linearizable {
                    group
                        .linearizable(context::deadline(request.metadata()))
                        .await
                        .map_err(|e| status::group(&e))?;
                }
                group.leadership().borrow().term
            }
            // The list itself is known even while the node waits for its cluster, but not that it
            // is the newest one, nor that there is a leader.
            Err(_) if !linearizable && !context::wants_leader(request.metadata()) => 0,
            Err(refused) => return Err(refused),
        };
        let members = self.context.config.cluster.members.iter();
        Ok(Response::new(MemberListResponse {
            // Members have no revision: as in etcd, the header tells none.
            header: Some(self.context.header(0, term)),
            members: members
                .map(|member| Member {
                    id: member.id,
                    name: format!("node-{}", member.id),
                    peer_ur_ls: vec![member.peer_url.clone()],
                    client_ur_ls: vec![member.client_url.clone()],
                    is_learner: false,
                })
                .collect(),
        }))
    }

    async fn member_add(
        &self,
        _: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        Err(status::unsupported("adding a member"))
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(status::unsupported("removing a member"))
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(status::unsupported("updating a member"))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(status::unsupported("promoting a member"))
    }
}
