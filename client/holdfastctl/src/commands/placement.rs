//! placement history.

use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;
use holdfast_client::{Client, proto::v1::PlacementRecord};
use serde_json::json;

use crate::{
    exit::{Code, Failure},
    output::{self, Format, Screen},
};

#[derive(Debug, Subcommand)]
pub enum PlacementCommand {
    /// Show what was decided, why, and what became of it: the last decisions, oldest first
    History {
        /// Only of this keyspace
        name: Option<String>,
    },
}

const HEAD: [&str; 5] = ["time", "keyspace", "action", "reason", "not done because"];

fn row(record: &PlacementRecord) -> [String; 5] {
    let at = UNIX_EPOCH + Duration::from_millis(record.at_ms);
    [
        humantime::format_rfc3339_millis(at).to_string(),
        record.keyspace.clone(),
        record.action.clone(),
        record.reason.clone(),
        record.failed_because.clone(),
    ]
}

pub async fn run(
    client: &Client,
    command: PlacementCommand,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let PlacementCommand::History { name } = command;
    let records = client.placement_history(name.as_deref()).await?;
    match screen.format {
        Format::Json => {
            let records = records.iter().map(|record| {
                json!({
                    "at_ms": record.at_ms,
                    "keyspace": record.keyspace,
                    "action": record.action,
                    "reason": record.reason,
                    "failed_because": record.failed_because,
                })
            });
            screen.json(&records.collect())?;
        }
        Format::Table => {
            let mut table = output::table(HEAD);
            for record in &records {
                table.add_row(row(record));
            }
            screen.table(&table)?;
        }
        Format::Plain => {
            screen.line(HEAD.join("\t"))?;
            for record in &records {
                screen.line(row(record).join("\t"))?;
            }
        }
    }
    Ok(Code::Ok)
}
