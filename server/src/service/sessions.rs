//! The Sessions service: makes clients known, so that their writes may be sent again.

use std::sync::Arc;

use holdfast_mvcc::{REGISTRATION, SLOTS_PER_CLIENT};
use holdfast_proto::{
    command::{Command, Register, answer::Result as Outcome, command::Op},
    v1::{RegisterRequest, RegisterResponse, sessions_server::Sessions},
};
use tonic::{Request, Response, Status};

use super::{
    context::{self, ServiceContext},
    status,
};

/// Serves registrations.
pub(super) struct SessionsService {
    context: Arc<ServiceContext>,
}

impl SessionsService {
    pub(super) fn new(context: Arc<ServiceContext>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Sessions for SessionsService {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let group = self.context.group(&request).await?;
        if let Err(why) = group.raised_to(REGISTRATION, deadline).await {
            // Without a leader nothing is raised; that passes.
            return Err(match group.leadership().borrow().leader {
                None => status::no_leader(),
                Some(_) => status::not_raised(&why),
            });
        }
        let command = Command {
            op: Some(Op::Register(Register {
                nonce: rand::random(),
            })),
            ..Default::default()
        };
        let proposed = group
            .propose(command, deadline)
            .await
            .map_err(|e| status::group(&e))?;
        match proposed.answer.result {
            Some(Outcome::Register(registered)) => {
                let client_id = std::str::from_utf8(&registered.client_id);
                Ok(Response::new(RegisterResponse {
                    client_id: client_id
                        .map_err(|_| Status::internal("holdfast: the client id is not text"))?
                        .to_owned(),
                    requests_in_flight_max: SLOTS_PER_CLIENT,
                }))
            }
            Some(Outcome::Error(error)) => Err(status::answered(&error)),
            _ => Err(Status::internal("holdfast: the registration has no answer")),
        }
    }
}
