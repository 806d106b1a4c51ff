//! Keyspaces as operators see them: created, listed, described, altered, dropped. Only Holdfast knows this.

use holdfast_proto::v1::{
    AlterKeyspaceRequest, CreateKeyspaceRequest, CreateKeyspaceResponse, DescribeKeyspaceRequest,
    DropKeyspaceRequest, Keyspace, KeyspaceSettings, ListKeyspacesRequest, PlacementHistoryRequest,
    PlacementRecord,
};

use crate::{client::Client, error::Result};

impl Client {
    /// Creates a keyspace. The answer says whether it serves already; if not, it soon does.
    ///
    /// A name is 1 to 63 of `a-z0-9-` and neither begins nor ends with `-`. What the present nodes cannot meet is
    /// refused with the reason.
    pub async fn create_keyspace(
        &self,
        name: &str,
        settings: KeyspaceSettings,
    ) -> Result<CreateKeyspaceResponse> {
        let request = CreateKeyspaceRequest {
            name: name.to_owned(),
            settings: Some(settings),
        };
        self.run(request).await
    }

    /// All keyspaces, by name.
    pub async fn keyspaces(&self) -> Result<Vec<Keyspace>> {
        Ok(self.run(ListKeyspacesRequest {}).await?.keyspaces)
    }

    /// One keyspace.
    pub async fn describe_keyspace(&self, name: &str) -> Result<Keyspace> {
        let name = name.to_owned();
        let described = self.run(DescribeKeyspaceRequest { name }).await?;
        Ok(described.keyspace.unwrap_or_default())
    }

    /// Changes those settings of a keyspace that `fields` names, such as `home` or `failover`.
    pub async fn alter_keyspace(
        &self,
        name: &str,
        settings: KeyspaceSettings,
        fields: &[&str],
    ) -> Result<Keyspace> {
        let request = AlterKeyspaceRequest {
            name: name.to_owned(),
            settings: Some(settings),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        Ok(self.run(request).await?.keyspace.unwrap_or_default())
    }

    /// Drops a keyspace with all its data, for good. `confirm` is its name again; one that was ever written to is
    /// refused unless it is forced.
    pub async fn drop_keyspace(&self, name: &str, confirm: &str, force: bool) -> Result<()> {
        let request = DropKeyspaceRequest {
            name: name.to_owned(),
            confirm: confirm.to_owned(),
            force,
        };
        self.run(request).await.map(drop)
    }

    /// What was decided about the placement of a keyspace, or of all, and what became of it: the last decisions,
    /// oldest first.
    pub async fn placement_history(&self, keyspace: Option<&str>) -> Result<Vec<PlacementRecord>> {
        let keyspace = keyspace.unwrap_or_default().to_owned();
        Ok(self
            .run(PlacementHistoryRequest { keyspace })
            .await?
            .records)
    }
}
