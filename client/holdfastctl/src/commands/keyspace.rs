//! keyspace create, list, describe, alter, drop.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use holdfast_client::{
    Client,
    proto::v1::{Keyspace, KeyspaceSettings, SurvivalGoal},
};
use serde_json::{Value, json};

use crate::{
    args::duration,
    exit::{Code, Failure},
    output::{self, Format, Screen},
};

/// Word for a home that follows the writes.
const AUTO: &str = "auto";

#[derive(Debug, Subcommand)]
pub enum KeyspaceCommand {
    /// Create keyspaces: names of 1 to 63 of a-z, 0-9 and -, neither beginning nor ending with -
    Create {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// List all keyspaces
    List,
    /// Show one keyspace
    Describe {
        /// Its name
        name: String,
    },
    /// Change settings of a keyspace; what is not given stays as it is
    Alter {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Drop a keyspace with all its data, for good
    Drop {
        /// Its name
        name: String,
        /// Its name again
        #[arg(long, value_name = "NAME")]
        confirm: String,
        /// Drop it although it was written to
        #[arg(long)]
        force: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Survive {
    /// The loss of any one node
    Node,
    /// The loss of any one zone
    Zone,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Settings {
    /// Zone that should lead it; `auto` is the one that the writes come from [default: auto]
    #[arg(long, value_name = "ZONE|auto")]
    pub home: Option<String>,
    /// Zones that should lead it while home is lost, best first [default: any]
    #[arg(long, value_delimiter = ',', value_name = "ZONE,...")]
    pub failover: Option<Vec<String>>,
    /// What it must survive [default: zone where there are three zones, else node]
    #[arg(long, value_enum)]
    pub survive: Option<Survive>,
    /// Nodes that vote in it [default: as many as it takes to survive]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Whom to ask about it, such as a mail address
    #[arg(long, value_name = "TEXT")]
    pub owner: Option<String>,
    /// Time after which it should take writes again after a failure
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub rto: Option<Duration>,
}

impl Settings {
    /// The settings, and the names of those that were given.
    fn given(self) -> (KeyspaceSettings, Vec<&'static str>) {
        let mut settings = KeyspaceSettings::default();
        let mut fields = Vec::new();
        if let Some(home) = self.home {
            settings.home = if home == AUTO { String::new() } else { home };
            fields.push("home");
        }
        if let Some(failover) = self.failover {
            settings.failover = failover
                .into_iter()
                .filter(|zone| !zone.is_empty())
                .collect();
            fields.push("failover");
        }
        if let Some(survive) = self.survive {
            settings.survive = match survive {
                Survive::Node => SurvivalGoal::Node,
                Survive::Zone => SurvivalGoal::Zone,
            }
            .into();
            fields.push("survive");
        }
        if let Some(replicas) = self.replicas {
            settings.replicas = replicas;
            fields.push("replicas");
        }
        if let Some(owner) = self.owner {
            settings.owner = owner;
            fields.push("owner");
        }
        if let Some(rto) = self.rto {
            settings.rto_ms = u64::try_from(rto.as_millis()).unwrap_or(u64::MAX);
            fields.push("rto_ms");
        }
        (settings, fields)
    }
}

fn home(settings: &KeyspaceSettings) -> &str {
    match settings.home.as_str() {
        "" => AUTO,
        zone => zone,
    }
}

fn survive(settings: &KeyspaceSettings) -> &'static str {
    match settings.survive() {
        SurvivalGoal::Unspecified => "as it can",
        SurvivalGoal::Node => "node",
        SurvivalGoal::Zone => "zone",
    }
}

fn numbers(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    numbers.join(",")
}

fn json(keyspace: &Keyspace) -> Value {
    let settings = keyspace.settings.clone().unwrap_or_default();
    json!({
        "name": keyspace.name,
        "group_id": keyspace.group_id,
        "home": home(&settings),
        "failover": settings.failover,
        "survive": survive(&settings),
        "replicas": settings.replicas,
        "owner": settings.owner,
        "rto_ms": settings.rto_ms,
        "voters": keyspace.voters,
        "create_revision": keyspace.create_revision,
        "mod_revision": keyspace.mod_revision,
    })
}

const HEAD: [&str; 7] = [
    "keyspace", "group", "home", "failover", "survives", "voters", "owner",
];

fn row(keyspace: &Keyspace) -> [String; 7] {
    let settings = keyspace.settings.clone().unwrap_or_default();
    [
        keyspace.name.clone(),
        keyspace.group_id.to_string(),
        home(&settings).to_owned(),
        settings.failover.join(","),
        survive(&settings).to_owned(),
        numbers(&keyspace.voters),
        settings.owner,
    ]
}

fn show(keyspaces: &[Keyspace], screen: &mut Screen) -> Result<(), Failure> {
    match screen.format {
        Format::Json => screen.json(&keyspaces.iter().map(json).collect())?,
        Format::Table => {
            let mut table = output::table(HEAD);
            for keyspace in keyspaces {
                table.add_row(row(keyspace));
            }
            screen.table(&table)?;
        }
        Format::Plain => {
            screen.line(HEAD.join("\t"))?;
            for keyspace in keyspaces {
                screen.line(row(keyspace).join("\t"))?;
            }
        }
    }
    Ok(())
}

pub async fn run(
    client: &Client,
    command: KeyspaceCommand,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    match command {
        KeyspaceCommand::Create { names, settings } => {
            let (settings, _) = settings.given();
            let mut created = Vec::new();
            for name in &names {
                let answer = client.create_keyspace(name, settings.clone()).await?;
                if !answer.serves {
                    eprintln!("holdfastctl: keyspace {name} is on record and does not serve yet");
                }
                created.extend(answer.keyspace);
            }
            show(&created, screen)?;
        }
        KeyspaceCommand::List => show(&client.keyspaces().await?, screen)?,
        KeyspaceCommand::Describe { name } => {
            show(&[client.describe_keyspace(&name).await?], screen)?;
        }
        KeyspaceCommand::Alter { name, settings } => {
            let (settings, fields) = settings.given();
            if fields.is_empty() {
                return Err(Failure::usage(
                    "nothing to alter: give a setting, such as --home; see `holdfastctl keyspace alter --help`",
                ));
            }
            let altered = client.alter_keyspace(&name, settings, &fields).await?;
            show(&[altered], screen)?;
        }
        KeyspaceCommand::Drop {
            name,
            confirm,
            force,
        } => {
            client.drop_keyspace(&name, &confirm, force).await?;
            match screen.format {
                Format::Json => screen.json(&json!({ "dropped": name }))?,
                Format::Plain | Format::Table => screen.line(format!("dropped {name}"))?,
            }
        }
    }
    Ok(Code::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_altered() {
        let given = Settings {
            home: Some("auto".into()),
            failover: Some(vec![String::new()]),
            rto: Some(Duration::from_secs(2)),
            ..Settings::default()
        };
        let (settings, fields) = given.given();
        assert_eq!(fields, ["home", "failover", "rto_ms"]);
        assert_eq!((settings.home.as_str(), settings.rto_ms), ("", 2_000));
        assert!(
            settings.failover.is_empty(),
            "an empty list takes the order away"
        );
    }

    #[test]
    fn a_row_says_auto_for_a_home_that_was_not_named() {
        let keyspace = Keyspace {
            name: "orders".into(),
            group_id: 3,
            settings: Some(KeyspaceSettings {
                failover: vec!["b".into(), "c".into()],
                survive: SurvivalGoal::Zone.into(),
                ..Default::default()
            }),
            voters: vec![1, 2, 3],
            ..Default::default()
        };
        assert_eq!(row(&keyspace).join("|"), "orders|3|auto|b,c|zone|1,2,3|");
        assert_eq!(json(&keyspace)["home"], "auto");
    }
}
