//! Bringing a state into another database: one of another engine, or of the layout with a database for
//! each group.
//!
//! ```text
//!   <dir>/group-7/CURRENT    "gen-3\n"      the older layout: one sled database for each group
//!   <dir>/group-7/gen-3/
//! ```
//!
//! The copy goes into a database that nobody finds before it is complete; what was copied is removed after
//! that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::directory::{at, remove_dir, sync_dir};
use super::generation::{self, Prefix};
use super::{StateError, catalogue};
use crate::limits;
use crate::storage::engine::{Batch, Engine, OpenEngine};
use crate::storage::lsm_engine::Lsm;
use crate::storage::sled_engine::Sled;

/// What opens a database of the engine of that name; `None` for a name that no engine has.
pub(super) fn opener(engine: &str) -> Option<Arc<dyn OpenEngine>> {
    let openers: [Arc<dyn OpenEngine>; 2] = [Arc::new(Sled::default()), Arc::new(Lsm::default())];
    openers.into_iter().find(|opener| opener.name() == engine)
}

/// Copies every record of `source`, each with `prefix` before its key.
pub(super) fn copy(
    source: &dyn Engine,
    target: &dyn Engine,
    prefix: &[u8],
) -> Result<(), StateError> {
    let began = Instant::now();
    let mut told = began;
    let (mut records, mut bytes) = (0u64, 0u64);
    let mut pending = Batch::new();
    let mut pending_bytes = 0;
    for record in source.scan(&[], generation::END_OF_ALL) {
        let (key, value) = record?;
        pending_bytes += (prefix.len() + key.len() + value.len()) as u64;
        pending.push(([prefix, &key].concat().into(), Some(value)));
        records += 1;
        if pending_bytes >= limits::LOAD_BYTES_MAX {
            bytes += std::mem::take(&mut pending_bytes);
            target.load(std::mem::take(&mut pending))?;
            if told.elapsed() >= limits::IMPORT_TOLD_EVERY {
                told = Instant::now();
                tracing::info!(records, bytes, elapsed = ?began.elapsed(), "copying the state");
            }
        }
    }
    target.load(pending)?;
    bytes += pending_bytes;
    tracing::info!(records, bytes, elapsed = ?began.elapsed(), "state copied into another database");
    Ok(())
}

/// The groups of the older layout in `dir`: number, directory, and the name of the generation in use.
fn groups_of_older_layout(dir: &Path) -> Result<Vec<(u64, PathBuf, String)>, StateError> {
    let mut groups = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let group = name.and_then(|name| name.strip_prefix("group-")?.parse().ok());
        let Some(group) = group else { continue };
        match fs::read_to_string(path.join("CURRENT")) {
            Ok(current) => groups.push((group, path, current.trim_end().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at(&path)(e)),
        }
    }
    Ok(groups)
}

/// Copies what the older layout holds in `dir` into `target`. What cannot be read is moved aside.
pub(super) fn older_layout(dir: &Path, target: &dyn Engine) -> Result<(), StateError> {
    for (group, path, current) in groups_of_older_layout(dir)? {
        tracing::info!(path = %path.display(), "copying a state of the older layout");
        let prefix = Prefix::new(group, generation::FIRST);
        let copied = Sled::default()
            .open(&path.join(current))
            .map_err(StateError::from)
            .and_then(|source| copy(&*source, target, prefix.as_bytes()));
        match copied {
            Ok(()) => target.apply_batch(vec![catalogue::current(group, generation::FIRST)])?,
            Err(StateError::Engine(error)) if error.is_damage() => {
                let aside = dir.join(format!("broken-group-{group}"));
                fs::rename(&path, &aside).map_err(at(&path))?;
                tracing::error!(
                    path = %aside.display(), %error,
                    "database of a group unusable: moved aside, the group starts empty"
                );
                // What was read of it before.
                target.apply_batch(vec![catalogue::garbage(group, generation::FIRST)])?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes what [`older_layout`] has copied, or what a crash has left of that, now that the copy counts.
/// What lies aside in it stays.
pub(super) fn remove_older_layout(dir: &Path) -> Result<(), StateError> {
    for (_, path, _) in groups_of_older_layout(dir)? {
        for entry in fs::read_dir(&path).map_err(at(&path))? {
            let entry = entry.map_err(at(&path))?;
            if entry.file_name().to_string_lossy().starts_with("gen-") {
                remove_dir(&entry.path())?;
            }
        }
        // Last: a crash in between must find the directory again.
        let current = path.join("CURRENT");
        fs::remove_file(&current).map_err(at(&current))?;
        sync_dir(&path)?;
        match fs::remove_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => removed.map_err(at(&path))?,
        }
    }
    Ok(())
}
