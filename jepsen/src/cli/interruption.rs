//! Signals that end a program end a run: it heals, writes what there is, and stops its cluster.
//!
//! - The first SIGINT, SIGTERM, SIGHUP or SIGQUIT asks for that. What was ignored when the program began,
//!   as SIGHUP under nohup, stays ignored.
//! - The second one ends the program at once, and says what is left broken and what mends it.

use std::{mem::MaybeUninit, process::exit};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::EXIT_ERROR;
use crate::{
    journal::{self, Remedy},
    terminal,
};

const SIGNALS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Becomes true at the first signal; the second one ends the program.
pub(super) fn interruption() -> anyhow::Result<watch::Receiver<bool>> {
    let (tx, rx) = watch::channel(false);
    for number in SIGNALS {
        if is_ignored(number) {
            continue;
        }
        let caught = signal(SignalKind::from_raw(number));
        let caught = caught.with_context(|| format!("no handler for signal {number}"))?;
        tokio::spawn(obey(caught, tx.clone()));
    }
    Ok(rx)
}

async fn obey(mut caught: Signal, asked: watch::Sender<bool>) {
    while caught.recv().await.is_some() {
        if asked.send_replace(true) {
            for line in left_broken() {
                terminal::note(line);
            }
            exit(i32::from(EXIT_ERROR));
        }
        terminal::note(
            "\nstopping: healing, writing what there is, leaving the cluster; once more to end at once",
        );
    }
}

/// What the journals of this process say is broken and outlives it.
fn left_broken() -> Vec<String> {
    let mut lines = Vec::new();
    for dir in journal::in_use() {
        let left = match journal::read(&dir) {
            Ok(left) => left.map(|left| left.open).unwrap_or_default(),
            Err(error) => {
                lines.push(format!("{}: {error}", dir.display()));
                continue;
            }
        };
        // The processes of this machine end with the harness.
        let outlives = |remedy: &Remedy| matches!(remedy, Remedy::Command { .. });
        let left: Vec<&str> = left
            .iter()
            .filter(|open| outlives(&open.remedy))
            .map(|open| open.what.as_str())
            .collect();
        if left.is_empty() {
            continue;
        }
        lines.push(format!("left broken: {}", left.join("; ")));
        lines.push(format!(
            "to mend it: holdfast-jepsen heal {}",
            dir.display()
        ));
    }
    if lines.is_empty() {
        lines.push("ended at once; nothing is left broken".to_owned());
    }
    lines
}

fn is_ignored(number: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and what is read is written to a place of ours, of which zeros are a value.
    let action = unsafe {
        if libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}
