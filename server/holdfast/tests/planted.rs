//! The program with planted bugs compiled in: it says so, and refuses a name that it does not know.

#![cfg(feature = "planted-bugs")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use std::process::{Command, Output};

const VARIABLE: &str = "HOLDFAST_PLANTED_BUG";

fn holdfast(args: &[&str], bug: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOLDFAST_") {
            command.env_remove(name);
        }
    }
    let bug = bug.map(|bug| (VARIABLE, bug));
    command.args(args).envs(bug).output().unwrap()
}

#[test]
fn the_version_says_that_planted_bugs_are_compiled_in_and_which_is_active() {
    for (bug, active) in [(None, "none"), (Some("torn-batch"), "torn-batch")] {
        let output = holdfast(&["--version"], bug);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!(
                "holdfast {} (planted bugs: compiled in; active: {active})\n",
                env!("CARGO_PKG_VERSION")
            )
        );
    }
}

#[test]
fn an_unknown_name_is_refused_at_start_with_the_list() {
    let output = holdfast(&["start", "--check"], Some("no-such-bug"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in [
        VARIABLE,
        "`no-such-bug`",
        "ack-before-fsync",
        "vote-not-persisted",
    ] {
        assert!(stderr.contains(part), "`{part}` is not in:\n{stderr}");
    }
}
