//! The thread that watches the room on the disk.
//!
//! It asks the file systems of the log and of the state how much is free, tells [`Room`], and tells the
//! operator when that turns. It is a thread of its own, because a file system on the network may let
//! it wait.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
};

use super::Inner;
use crate::{
    config::quantity::format_bytes,
    limits,
    storage::{
        room::{Space, Turn},
        state::Database,
    },
};

/// Watches for as long as the node lives.
pub(super) fn watch(inner: &Arc<Inner>) {
    let data = inner.context.data.path();
    let dirs = [data.join("log"), data.join("state")];
    let weak = Arc::downgrade(inner);
    let spawned = thread::Builder::new()
        .name("disk-room".into())
        .spawn(move || run(&weak, &dirs));
    if let Err(error) = spawned {
        tracing::error!(%error, "the room on the disk is not watched; see that it does not become full");
    }
}

fn run(inner: &Weak<Inner>, dirs: &[PathBuf; 2]) {
    while let Some(inner) = inner.upgrade() {
        look(&inner, dirs);
        drop(inner);
        thread::sleep(limits::ROOM_LOOK_EVERY);
    }
}

fn look(inner: &Inner, dirs: &[PathBuf; 2]) {
    // A directory that is not there yet, or whose file system does not say, is left out.
    let spaces: Vec<Space> = dirs.iter().filter_map(|dir| Space::of(dir).ok()).collect();
    let database = inner.database.lock().clone();
    let table_bytes = database.as_ref().map_or(0, Database::table_bytes);
    let turn = inner.room.look(&spaces, table_bytes);
    if inner.room.is_tight(table_bytes) {
        database.iter().for_each(Database::flush_soon);
    }
    let free = spaces.iter().map(|s| s.free).min().unwrap_or(0);
    let reserve = spaces.iter().map(|s| inner.room.reserve(s.total)).max();
    match turn {
        Some(Turn::Short) => {
            if let Some(log) = &*inner.log.lock() {
                log.keep_free_segments(0);
            }
            tracing::warn!(
                dir = %inner.context.data.path().display(),
                free = format_bytes(free),
                reserve = format_bytes(reserve.unwrap_or(0)),
                "the disk is nearly full: unless enough other nodes have room, writes that grow the data are \
                 refused (etcdserver: mvcc: database space exceeded). Make room on the disk, or delete keys and \
                 compact; the node goes on by itself"
            );
        }
        Some(Turn::Ample) => {
            if let Some(log) = &*inner.log.lock() {
                log.keep_free_segments(limits::LOG_FREE_SEGMENTS_MAX);
            }
            tracing::info!(free = format_bytes(free), "there is room on the disk again");
        }
        None => {}
    }
}
