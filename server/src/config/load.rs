//! Puts the sources of the configuration together.
//!
//! File, environment and flags become one TOML table, and that becomes a [`Config`]: so there is one
//! way in which a value is read, and an unknown field is refused wherever it came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Origin, Problem};
use super::sections::Config;
use super::settings::{SETTINGS, Setting};

/// What was given beside the defaults.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Variables of the environment, by name. Only `HOLDFAST_*` is looked at.
    pub environment: BTreeMap<String, String>,
    /// Flags, by name without the dashes; those given several times are joined by commas.
    pub flags: BTreeMap<String, String>,
}

/// Merges all sources, fills in what follows and checks every rule.
pub fn load(given: &Given) -> Result<Config, ConfigError> {
    let mut table = toml::Table::new();
    let mut origins: BTreeMap<String, Origin> = BTreeMap::new();
    if let Some(path) = &given.file {
        table = read_file(path)?;
        for setting in SETTINGS {
            let section = table.get(setting.section).and_then(toml::Value::as_table);
            if section.is_some_and(|section| section.contains_key(setting.name)) {
                origins.insert(setting.field(), Origin::File(path.clone()));
            }
        }
    }
    let mut problems = Vec::new();
    for setting in SETTINGS {
        // Environment first, so that the flag has the last word.
        let variable = setting.variable();
        let flag = format!("--{}", setting.flag);
        for (text, origin) in [
            (
                given.environment.get(&variable),
                Origin::Environment(variable),
            ),
            (given.flags.get(setting.flag), Origin::Flag(flag)),
        ] {
            let Some(text) = text else { continue };
            match setting.kind.parse(text) {
                Ok(value) => insert(&mut table, setting, value),
                Err(remedy) => problems.push(Problem {
                    field: setting.field(),
                    value: text.clone(),
                    remedy,
                    origin: Some(origin.clone()),
                }),
            }
            origins.insert(setting.field(), origin);
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let config: Config = table.try_into().map_err(|error: toml::de::Error| {
        ConfigError::Invalid(vec![Problem {
            field: "configuration".to_owned(),
            value: String::new(),
            remedy: error.message().to_owned(),
            origin: None,
        }])
    })?;
    config.resolve().map_err(|error| match error {
        ConfigError::Invalid(mut problems) => {
            for problem in &mut problems {
                problem.origin = Some(origin_of(&origins, &problem.field));
            }
            ConfigError::Invalid(problems)
        }
        other => other,
    })
}

/// Where a field came from; parts of a list come from where the list came from.
fn origin_of(origins: &BTreeMap<String, Origin>, field: &str) -> Origin {
    let field = field.split('[').next().unwrap_or(field);
    origins.get(field).cloned().unwrap_or(Origin::Default)
}

/// Reads the file. It is read as a configuration first, because only then do errors have a line.
fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let refused = |error: toml::de::Error| ConfigError::File {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    };
    Config::from_toml(&text).map_err(refused)?;
    toml::from_str(&text).map_err(refused)
}

fn insert(table: &mut toml::Table, setting: &Setting, value: toml::Value) {
    let section = table
        .entry(setting.section)
        .or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(section) = section {
        section.insert(setting.name.to_owned(), value);
    }
}

/// Names that look like variables of ours but are none: probably misspelt.
pub fn unknown_variables(environment: &BTreeMap<String, String>) -> Vec<String> {
    let sections = ["NODE", "CLUSTER", "RAFT", "LIMITS", "STORAGE", "LOG"];
    let looks_like_ours = |name: &str| {
        name.strip_prefix("HOLDFAST_")
            .and_then(|rest| rest.split_once('_'))
            .is_some_and(|(section, _)| sections.contains(&section))
    };
    let known = |name: &str| SETTINGS.iter().any(|setting| setting.variable() == name);
    environment
        .keys()
        .filter(|name| looks_like_ours(name) && !known(name))
        .cloned()
        .collect()
}
