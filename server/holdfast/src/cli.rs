//! The command line of `holdfast`.
//!
//! The flags of `holdfast start` are made from [`SETTINGS`], so their help, the environment
//! variables and the TOML file cannot drift apart. What a command line means is decided here, and
//! nothing is done: [`parse`] returns an [`Invocation`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _};

use holdfast_server::config::settings::{Kind, SETTINGS, Setting};
use holdfast_server::config::{Config, Given};

use crate::dev::DevArgs;

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a node.
    Start {
        /// What was given; [`holdfast_server::config::load`] makes the configuration of it.
        given: Given,
        /// Only check the configuration and print it.
        check: bool,
    },
    /// Run three zones on this machine.
    Dev(DevArgs),
    /// Write the completions of a shell to standard output.
    Completions(clap_complete::Shell),
}

/// The whole command line.
pub fn command() -> Command {
    Command::new("holdfast")
        .version(version())
        .about("Holdfast: an active-active replicated key-value store that speaks the etcd v3 API")
        .after_help(
            "Exit codes: 0 done or stopped as asked, 1 failed, 2 the command line or the configuration is refused. \
             Of a node also: 3 its disk is full, 4 its disk failed or holds damage, 5 its stop was forced.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(start_command())
        .subcommand(DevArgs::augment_args(Command::new("dev")))
        .subcommand(
            Command::new("completions").about("Print the completions for a shell").arg(
                Arg::new("shell")
                    .value_name("SHELL")
                    .required(true)
                    .value_parser(clap::value_parser!(clap_complete::Shell)),
            ),
        )
}

/// Reads a command line. The error knows its exit code, and help and version are errors too:
/// [`clap::Error::exit`] does what is right for each.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: BTreeMap<String, String>,
) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(args)?;
    match matches.subcommand() {
        Some(("start", start)) => Ok(Invocation::Start {
            given: given(start, environment),
            check: start.get_flag("check"),
        }),
        Some(("dev", dev)) => {
            let args = DevArgs::from_arg_matches(dev)?;
            args.check().map_err(|message| {
                let mut command = command();
                command.error(clap::error::ErrorKind::ValueValidation, message)
            })?;
            Ok(Invocation::Dev(args))
        }
        Some(("completions", completions)) => {
            let shell = completions
                .get_one::<clap_complete::Shell>("shell")
                .copied();
            Ok(Invocation::Completions(
                shell.expect("the shell is a required argument"),
            ))
        }
        other => unreachable!(
            "the commands are start, dev and completions, not {:?}",
            other.map(|(name, _)| name)
        ),
    }
}

fn start_command() -> Command {
    let defaults: toml::Table = toml::from_str(&Config::default().to_toml())
        .expect("the default configuration has a form in TOML");
    let mut command = Command::new("start")
        .about("Run a node")
        .long_about(
            "Run a node.\n\n\
             A value is taken from its flag, else from its environment variable, else from the file given by \
             --config, else its default. Sizes are bytes or such as 64KiB, 1.5MiB, 1GiB; times are milliseconds \
             or such as 50ms, 1.5s, 2m. The file is TOML; an unknown field in it is refused.\n\n\
             SIGTERM and SIGINT stop the node gracefully: it hands its leaderships over first. A second signal, \
             or 10 seconds, end it at once (exit code 5). A node ends by itself when its disk is full and it cannot \
             go on (3), and when its disk fails or holds damage (4).",
        )
        .after_long_help(concat!(
            "A configuration file with every section, as in deploy/holdfast.toml:\n\n",
            include_str!("../../../deploy/holdfast.toml")
        ))
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Configuration file (TOML)\n[env: HOLDFAST_CONFIG]"),
        )
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Only check the configuration and print it, complete, as TOML"),
        );
    for setting in SETTINGS {
        let action = if setting.kind == Kind::Members {
            ArgAction::Append
        } else {
            ArgAction::Set
        };
        command = command.arg(
            Arg::new(setting.flag)
                .long(setting.flag)
                .value_name(setting.kind.placeholder())
                .allow_hyphen_values(true)
                .action(action)
                .help_heading(heading(setting.section))
                .help(help(setting, &defaults)),
        );
    }
    command
}

fn heading(section: &'static str) -> &'static str {
    match section {
        "node" => "This node [node]",
        "cluster" => "The cluster at its creation [cluster]",
        "raft" => "Replication [raft]",
        "limits" => "Limits [limits]",
        "storage" => "Storage [storage]",
        "log" => "Log output [log]",
        other => other,
    }
}

fn help(setting: &Setting, defaults: &toml::Table) -> String {
    let default = match (setting.default, &defaults[setting.section][setting.name]) {
        (Some(""), _) => "required".to_owned(),
        (Some(words), _) => format!("default: {words}"),
        (None, toml::Value::String(text)) => format!("default: {text}"),
        (None, value) => format!("default: {value}"),
    };
    format!(
        "{}\n[{default}] [env: {}] [file: {}]",
        setting.help,
        setting.variable(),
        setting.field()
    )
}

fn given(matches: &ArgMatches, environment: BTreeMap<String, String>) -> Given {
    let file = matches
        .get_one::<PathBuf>("config")
        .cloned()
        .or_else(|| environment.get("HOLDFAST_CONFIG").map(PathBuf::from));
    let flags = SETTINGS
        .iter()
        .filter_map(|setting| {
            let values: Vec<&str> = matches
                .get_many::<String>(setting.flag)?
                .map(String::as_str)
                .collect();
            Some((setting.flag.to_owned(), values.join(",")))
        })
        .collect();
    Given {
        file,
        environment,
        flags,
    }
}

/// What `--version` says after the name. A program with planted bugs confesses it.
fn version() -> &'static str {
    #[cfg(feature = "planted-bugs")]
    {
        static VERSION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        VERSION.get_or_init(|| {
            let package = env!("CARGO_PKG_VERSION");
            format!(
                "{package} ({})",
                holdfast_server::planted::describe(&environment())
            )
        })
    }
    #[cfg(not(feature = "planted-bugs"))]
    env!("CARGO_PKG_VERSION")
}

/// The variables of the environment that concern the configuration. Names and values that are not
/// UTF-8 cannot be ours and are left out.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("HOLDFAST_"))
        .collect()
}
