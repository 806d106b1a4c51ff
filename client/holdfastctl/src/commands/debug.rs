//! debug groups: what tests and measurements do by hand. Each node is asked by itself; one that fails ends the
//! command, and the same command again goes on where it ended.

use clap::Subcommand;
use holdfast_client::{Client, proto::v1::NewGroup};
use serde_json::json;

use crate::{
    exit::{Code, Failure},
    output::{Format, Screen},
};

#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// Start, drop or list groups on all nodes; they need a file `debug-groups` in their data directories
    #[command(subcommand)]
    Groups(DebugGroups),
}

#[derive(Debug, Subcommand)]
pub enum DebugGroups {
    /// Start groups with ids that no node has used
    Create {
        /// How many
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// Beginning of the names of their keyspaces; the id follows
        #[arg(long, default_value = "debug-")]
        prefix: String,
    },
    /// Drop groups with all that the nodes have of them
    Drop {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<u64>,
    },
    /// List the groups that each node runs
    List,
}

pub async fn groups(
    client: &Client,
    command: DebugGroups,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let nodes: Vec<String> = {
        let nodes = client.nodes().await?.into_iter();
        nodes.map(|node| node.client_url).collect()
    };
    match command {
        DebugGroups::Create { count, prefix } => {
            let mut first = 0;
            for node in &nodes {
                first = client.groups(node).await?.next_group_id.max(first);
            }
            let groups = (first..first + count).map(|id| NewGroup {
                id,
                keyspace: format!("{prefix}{id}"),
                voters: Vec::new(),
            });
            let groups: Vec<NewGroup> = groups.collect();
            for node in &nodes {
                client.debug_create_groups(node, groups.clone()).await?;
            }
            match screen.format {
                Format::Json => {
                    let ids: Vec<u64> = groups.iter().map(|group| group.id).collect();
                    screen.json(&json!({ "groups": ids }))?;
                }
                Format::Plain | Format::Table => {
                    for group in groups {
                        screen.line(format!("{} {}", group.id, group.keyspace))?;
                    }
                }
            }
        }
        DebugGroups::Drop { ids } => {
            for node in &nodes {
                let told = client.groups(node).await?.groups;
                let here = |id: &u64| told.iter().any(|group| group.id == *id);
                let here: Vec<u64> = ids.iter().copied().filter(here).collect();
                client.debug_drop_groups(node, here).await?;
            }
        }
        DebugGroups::List => {
            for node in &nodes {
                let told = client.groups(node).await?;
                for group in told.groups {
                    screen.line(format!(
                        "node {} group {} {} leader {} term {}",
                        told.node_id, group.id, group.keyspace, group.leader, group.term
                    ))?;
                }
            }
        }
    }
    Ok(Code::Ok)
}
