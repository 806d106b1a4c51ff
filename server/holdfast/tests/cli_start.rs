//! The command line of `holdfast` as an operator meets it: help, errors and exit codes.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use std::process::{Command, Output};

use holdfast_server::config::Config;
use holdfast_server::config::settings::SETTINGS;

/// Runs the program with nothing of our own in its environment.
fn holdfast(args: &[&str]) -> Output {
    holdfast_with(args, &[])
}

fn holdfast_with(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOLDFAST_") {
            command.env_remove(name);
        }
    }
    command
        .args(args)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The command is refused with exit code 2, says so on standard error only, and says this.
fn refused(output: &Output, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stdout(output), "");
    for part in parts {
        assert!(stderr.contains(part), "`{part}` is not in:\n{stderr}");
    }
}

const WHO: [&str; 6] = ["--id", "1", "--zone", "zone-a", "--data-dir", "data"];

fn start_check(more: &[&str]) -> Output {
    holdfast(&[&["start", "--check"], &WHO[..], more].concat())
}

/// With planted bugs it says more; see the test beside this one.
#[cfg(not(feature = "planted-bugs"))]
#[test]
fn the_version_is_that_of_the_package() {
    let output = holdfast(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        format!("holdfast {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn help_documents_every_value_with_default_variable_and_field() {
    let output = holdfast(&["start", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    // Lines may be wrapped anywhere, so white space does not count.
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    let help = squeeze(&stdout(&output));
    for setting in SETTINGS {
        for part in [
            format!("--{} <{}>", setting.flag, setting.kind.placeholder()),
            setting.help.to_owned(),
            format!("[env: {}]", setting.variable()),
            format!("[file: {}]", setting.field()),
        ] {
            assert!(
                help.contains(&squeeze(&part)),
                "`{part}` is not in the help"
            );
        }
    }
    for default in [
        "[default: 1.5 MiB]",
        "[default: 128]",
        "[default: 1s]",
        "[default: 127.0.0.1:2379]",
    ] {
        assert!(
            help.contains(&squeeze(default)),
            "`{default}` is not in the help"
        );
    }
    assert_eq!(
        help.matches("[required]").count(),
        3,
        "id, zone and data directory"
    );
}

#[test]
fn a_node_without_a_name_is_refused_with_what_to_give() {
    refused(
        &holdfast(&["start"]),
        &[
            "node.id is not given",
            "--id 1",
            "node.zone is not given",
            "node.data_dir is not given",
        ],
    );
}

#[test]
fn bad_values_are_refused_with_field_value_source_and_remedy() {
    refused(
        &start_check(&[
            "--election-timeout-min-ms",
            "800",
            "--request-bytes-max",
            "17MB",
        ]),
        &["limits.request_bytes_max = 17MB (from --request-bytes-max): must be a size such as"],
    );
    refused(
        &start_check(&["--worst-voter-rtt-ms", "400", "--txn-ops-max", "0"]),
        &[
            "raft.election_timeout_min_ms = 3s (the default): must be at least ten times \
             raft.worst_voter_rtt_ms (400ms): give 4s or more",
            "limits.txn_ops_max = 0 (from --txn-ops-max): must be from 1 to 16384",
        ],
    );
    refused(
        &start_check(&[
            "--initial-cluster",
            "2=zone-b=http://127.0.0.1:12380=http://127.0.0.1:12379",
        ]),
        &["cluster.members = 2 (from --initial-cluster): does not contain this node (1)"],
    );
    refused(
        &start_check(&["--fsync", "false"]),
        &["unexpected argument '--fsync'"],
    );
    refused(
        &start_check(&["--id", "2"]),
        &["cannot be used multiple times"],
    );
    refused(&holdfast(&["begin"]), &["unrecognized subcommand 'begin'"]);
}

#[test]
fn environment_and_file_are_read_and_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holdfast.toml");
    let path = file.to_str().unwrap();
    let args = [&["start", "--check"], &WHO[..]].concat();
    std::fs::write(&file, "[limits]\ntxn_ops_max = 7\n").unwrap();
    let output = holdfast_with(
        &args,
        &[
            ("HOLDFAST_CONFIG", path),
            ("HOLDFAST_STORAGE_CACHE_BYTES", "8MiB"),
        ],
    );
    let config = Config::from_toml(&stdout(&output)).unwrap();
    assert_eq!(
        (config.limits.txn_ops_max, config.storage.cache_bytes),
        (7, 8 << 20)
    );

    refused(
        &holdfast_with(&args, &[("HOLDFAST_STORAGE_CACHE_BYTES", "little")]),
        &[
            "storage.cache_bytes = little (from the environment variable HOLDFAST_STORAGE_CACHE_BYTES)",
        ],
    );
    std::fs::write(&file, "[limits]\ntxn_ops = 7\n").unwrap();
    refused(
        &start_check(&["--config", path]),
        &[path, "line 2", "unknown field `txn_ops`", "txn_ops_max"],
    );
    std::fs::write(&file, "[node]\nid = \"one\"\n").unwrap();
    refused(
        &start_check(&["--config", path]),
        &[path, "line 2", "expected u64"],
    );
    refused(
        &start_check(&["--config", "/nonexistent"]),
        &["/nonexistent cannot be read"],
    );
}

#[test]
fn a_checked_configuration_is_complete_and_is_read_back_the_same() {
    let output = start_check(&["--heartbeat-interval-ms", "40ms"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let config = Config::from_toml(&text).unwrap();
    assert_eq!(config.raft.heartbeat_interval_ms, 40);
    assert_eq!(config.node.advertise_client_url, "http://127.0.0.1:2379");
    assert_eq!(config.cluster.members.len(), 1);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holdfast.toml");
    std::fs::write(&file, &text).unwrap();
    let again = holdfast(&["start", "--check", "--config", file.to_str().unwrap()]);
    assert_eq!(stdout(&again), text);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "a check creates nothing"
    );
}

#[test]
fn doubtful_configurations_are_warned_of() {
    let members = "1=zone-a=http://127.0.0.1:2380=http://127.0.0.1:2379,\
                   2=zone-b=http://127.0.0.1:2390=http://127.0.0.1:2389";
    let output = start_check(&["--initial-cluster", members]);
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("warning: cluster.members has 2 nodes"),
        "{stderr}"
    );
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = holdfast(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let text = stdout(&output);
        assert!(
            text.contains("base-port") && text.contains("initial-cluster"),
            "{shell}"
        );
    }
}
