//! The Keyspaces service: what operators ask of the registry.

use std::{sync::Arc, time::Instant};

use holdfast_proto::v1::{
    AlterKeyspaceRequest, AlterKeyspaceResponse, CreateKeyspaceRequest, CreateKeyspaceResponse,
    DescribeKeyspaceRequest, DescribeKeyspaceResponse, DropKeyspaceRequest, DropKeyspaceResponse,
    Keyspace, KeyspaceSettings, ListKeyspacesRequest, ListKeyspacesResponse,
    PlacementHistoryRequest, PlacementHistoryResponse, keyspaces_server::Keyspaces,
};
use tonic::{Request, Response, Status};

use super::{
    context::{self, ServiceContext},
    status,
};
use crate::keyspace::{self, ChangeError, Contents, name, wish};

/// Serves the registry of keyspaces.
pub(super) struct KeyspacesService {
    context: Arc<ServiceContext>,
}

impl KeyspacesService {
    pub(super) fn new(context: Arc<ServiceContext>) -> Self {
        Self { context }
    }

    /// The nodes as this one sees them.
    fn cluster(&self) -> holdfast_placement::Cluster {
        let reports = self.context.reporter.report();
        wish::cluster(
            &self.context.config,
            &reports,
            self.context.started.elapsed(),
        )
    }

    /// Waits until a keyspace serves, at most until the deadline; whether it does. What runs on other nodes only
    /// is not waited for.
    async fn serves(&self, keyspace: &Keyspace, deadline: Instant) -> bool {
        if !keyspace.voters.contains(&self.context.config.node.id) {
            return false;
        }
        match self.context.started_group(&keyspace.name, deadline).await {
            Some(group) => group.linearizable(deadline).await.is_ok(),
            None => false,
        }
    }
}

/// A change that was not made.
fn refused(error: ChangeError) -> Status {
    let why = format!("holdfast: {error}");
    match error {
        ChangeError::Exists(_) => Status::already_exists(why),
        ChangeError::Unknown(name) => status::unknown_keyspace(&name),
        ChangeError::Refused(_) => Status::failed_precondition(why),
        ChangeError::NotRunning => Status::unavailable(why),
        // One that was lost on the way may yet take effect, and the status says so.
        ChangeError::System(error) => status::group(&error),
        ChangeError::Read(_) | ChangeError::Answer(_) => Status::internal(why),
    }
}

fn invalid(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("holdfast: {why}"))
}

/// Takes those fields of `given` that are named.
fn take(
    settings: &mut KeyspaceSettings,
    given: &KeyspaceSettings,
    fields: &[String],
) -> Result<(), String> {
    for field in fields {
        match field.as_str() {
            "home" => settings.home.clone_from(&given.home),
            "failover" => settings.failover.clone_from(&given.failover),
            "survive" => settings.survive = given.survive,
            "replicas" => settings.replicas = given.replicas,
            "owner" => settings.owner.clone_from(&given.owner),
            "rto_ms" => settings.rto_ms = given.rto_ms,
            other => {
                let other = wish::beginning(other);
                return Err(format!(
                    "fields: {other} is none of home, failover, survive, replicas, owner, rto_ms"
                ));
            }
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Keyspaces for KeyspacesService {
    async fn create(
        &self,
        request: Request<CreateKeyspaceRequest>,
    ) -> Result<Response<CreateKeyspaceResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let request = request.into_inner();
        let settings = request.settings.unwrap_or_default();
        name::check(&request.name).map_err(invalid)?;
        wish::check(&settings).map_err(invalid)?;
        let cluster = self.cluster();
        let registry = &self.context.registry;
        let place = |contents: &Contents| wish::place(&request.name, &settings, &cluster, contents);
        let created = registry.create(&request.name, place, deadline).await;
        let keyspace = created.map_err(refused)?;
        tracing::info!(
            keyspace = keyspace.name,
            group = keyspace.group_id,
            voters = ?keyspace.voters,
            "keyspace created"
        );
        let serves = self.serves(&keyspace, deadline).await;
        Ok(Response::new(CreateKeyspaceResponse {
            keyspace: Some(keyspace),
            serves,
        }))
    }

    async fn list(
        &self,
        request: Request<ListKeyspacesRequest>,
    ) -> Result<Response<ListKeyspacesResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let contents = self.context.registry.read(deadline).await;
        let contents = contents.map_err(refused)?;
        Ok(Response::new(ListKeyspacesResponse {
            keyspaces: contents.keyspaces.values().cloned().collect(),
        }))
    }

    async fn describe(
        &self,
        request: Request<DescribeKeyspaceRequest>,
    ) -> Result<Response<DescribeKeyspaceResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let name = request.into_inner().name;
        name::check(&name).map_err(invalid)?;
        let described = self.context.registry.describe(&name, deadline).await;
        Ok(Response::new(DescribeKeyspaceResponse {
            keyspace: Some(described.map_err(refused)?),
        }))
    }

    async fn alter(
        &self,
        request: Request<AlterKeyspaceRequest>,
    ) -> Result<Response<AlterKeyspaceResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let request = request.into_inner();
        let given = request.settings.unwrap_or_default();
        // What is refused for itself is refused before anything is read.
        name::check(&request.name).map_err(invalid)?;
        take(&mut KeyspaceSettings::default(), &given, &request.fields).map_err(invalid)?;
        wish::check(&given).map_err(invalid)?;
        let cluster = self.cluster();
        let alter = |contents: &Contents, keyspace: &mut Keyspace| {
            let settings = keyspace.settings.get_or_insert_default();
            take(settings, &given, &request.fields).map_err(ChangeError::Refused)?;
            wish::check_altered(keyspace, &cluster, contents)
        };
        let altered = self
            .context
            .registry
            .alter(&request.name, alter, deadline)
            .await;
        let keyspace = altered.map_err(refused)?;
        tracing::info!(keyspace = keyspace.name, fields = ?request.fields, "keyspace altered");
        Ok(Response::new(AlterKeyspaceResponse {
            keyspace: Some(keyspace),
        }))
    }

    async fn drop(
        &self,
        request: Request<DropKeyspaceRequest>,
    ) -> Result<Response<DropKeyspaceResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let DropKeyspaceRequest {
            name,
            confirm,
            force,
        } = request.into_inner();
        if name == keyspace::SYSTEM {
            return Err(status::reserved_keyspace(&name));
        }
        name::check(&name).map_err(invalid)?;
        if confirm != name {
            let confirm = wish::beginning(&confirm);
            return Err(invalid(format_args!(
                "confirm = {confirm}: must be the name of the keyspace that is to be dropped with all its \
                 data, {name:?}"
            )));
        }
        if !force {
            self.check_unused(&name, deadline).await?;
        }
        let dropped = self.context.registry.drop_keyspace(&name, deadline).await;
        let keyspace = dropped.map_err(refused)?;
        tracing::info!(
            keyspace = name,
            group = keyspace.group_id,
            "keyspace dropped"
        );
        Ok(Response::new(DropKeyspaceResponse {}))
    }

    async fn history(
        &self,
        request: Request<PlacementHistoryRequest>,
    ) -> Result<Response<PlacementHistoryResponse>, Status> {
        let deadline = context::deadline(request.metadata());
        let keyspace = request.into_inner().keyspace;
        let keyspace = Some(keyspace.as_str()).filter(|name| !name.is_empty());
        let records = self.context.registry.history(keyspace, deadline).await;
        Ok(Response::new(PlacementHistoryResponse {
            records: records.map_err(refused)?,
        }))
    }
}

impl KeyspacesService {
    /// Refuses to drop a keyspace that was ever written to.
    async fn check_unused(&self, name: &str, deadline: Instant) -> Result<(), Status> {
        let described = self.context.registry.describe(name, deadline).await;
        let owner = described
            .map_err(refused)?
            .settings
            .unwrap_or_default()
            .owner;
        let owner = match owner.as_str() {
            "" => String::new(),
            owner => format!(" (owner: {owner})"),
        };
        let Some(group) = self.context.started_group(name, deadline).await else {
            return Err(Status::failed_precondition(format!(
                "holdfast: keyspace {name:?}{owner} does not run on this node, which cannot tell whether it is in \
                 use; ask another node, or force it"
            )));
        };
        group
            .linearizable(deadline)
            .await
            .map_err(|e| status::group(&e))?;
        let revision = group.read().0.revisions.current;
        // Revision 1 is that of a store nobody has written to.
        if revision > 1 {
            return Err(Status::failed_precondition(format!(
                "holdfast: keyspace {name:?}{owner} is in use: it is at revision {revision}; force it to drop it all \
                 the same"
            )));
        }
        Ok(())
    }
}
