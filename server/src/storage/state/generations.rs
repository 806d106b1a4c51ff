//! Generations: which directory holds the group's database, and how it is exchanged.
//!
//! ```text
//!   <dir>/CURRENT          "gen-3\n", replaced atomically: the only thing that makes a generation valid
//!   <dir>/gen-3/           the engine's files
//!   <dir>/gen-4/           being built (a snapshot going in) ...
//!   <dir>/gen-4.building   ... as this marker says; both are removed at the next opening
//!   <dir>/broken-1/        what could not be used, moved here whole; never deleted by a node
//! ```
//!
//! The marker is what tells an unfinished generation, which is worthless, from one whose CURRENT was
//! lost, which somebody may want to look at.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::StateError;
use crate::storage::engine::{Engine, OpenEngine};

const CURRENT: &str = "CURRENT";
const CURRENT_NEW: &str = "CURRENT.new";
const BUILDING: &str = "building";
/// End of the name of a directory that is being removed.
const REMOVED: &str = "removed";

/// One open database and its directory.
pub(super) struct Generation {
    // Dropped in this order: the engine closes its files before they are removed.
    engine: Box<dyn Engine>,
    remains: Remains,
    number: u64,
}

impl Generation {
    pub(super) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Has the directory removed as soon as nobody reads from it any more.
    pub(super) fn retire(&self) {
        self.remains.remove.store(true, Ordering::Relaxed);
    }
}

/// The directory of a generation, removed on drop if it was retired.
struct Remains {
    dir: PathBuf,
    remove: AtomicBool,
}

impl Drop for Remains {
    fn drop(&mut self) {
        if !*self.remove.get_mut() {
            return;
        }
        // The last holder may be a request, and removing a large file can take a while, so a thread
        // does it. The name is given up at once: a generation that is begun meanwhile may get it.
        let dir = std::mem::take(&mut self.dir);
        static REMOVALS: AtomicU64 = AtomicU64::new(0);
        let number = REMOVALS.fetch_add(1, Ordering::Relaxed);
        let removed = dir.with_extension(format!("{number}.{REMOVED}"));
        let dir = match fs::rename(&dir, &removed) {
            Ok(()) => removed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, "old generation not removed; the next opening tries again");
                return;
            }
        };
        let removal = std::thread::Builder::new().name("state-remove".into()).spawn(move || {
            if let Err(error) = remove_dir(&dir) {
                tracing::warn!(path = %dir.display(), %error, "old generation not removed; the next opening tries again");
            }
        });
        if let Err(error) = removal {
            tracing::warn!(%error, "old generation not removed; the next opening tries again");
        }
    }
}

/// What was found in place of a usable database, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedAside {
    /// Directory that holds it now.
    pub path: PathBuf,
    /// Why it could not be used.
    pub reason: String,
}

/// The generations of one directory.
pub(super) struct Generations {
    dir: PathBuf,
    next: u64,
}

enum Found {
    Nothing,
    Current(u64),
    Unusable(String),
}

impl Generations {
    /// Opens the current generation; an unusable one is moved aside and an empty one begun.
    pub(super) fn open(
        dir: &Path,
        opener: &dyn OpenEngine,
    ) -> Result<(Self, Generation, Option<MovedAside>), StateError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let existing = Self::clean(dir)?;
        let found = Self::find_current(dir, &existing)?;
        let newest = match found {
            Found::Current(number) => number,
            _ => existing.last().copied().unwrap_or(0),
        };
        let mut generations = Generations {
            dir: dir.to_path_buf(),
            next: newest + 1,
        };

        let reason = match found {
            Found::Nothing => {
                let generation = generations.begin(opener)?;
                generations.commit(&generation)?;
                return Ok((generations, generation, None));
            }
            Found::Current(number) => {
                for &old in existing.iter().filter(|&&old| old != number) {
                    let path = generations.path(old);
                    remove_dir(&path).map_err(at(&path))?;
                }
                match generations.open_generation(number, opener) {
                    Ok(generation) => return Ok((generations, generation, None)),
                    Err(StateError::Engine(error)) if error.is_damage() => error.to_string(),
                    Err(error) => return Err(error),
                }
            }
            Found::Unusable(reason) => reason,
        };
        let (generation, moved) = generations.start_over(reason, opener)?;
        Ok((generations, generation, Some(moved)))
    }

    /// Moves every generation aside and begins an empty one.
    pub(super) fn start_over(
        &mut self,
        reason: String,
        opener: &dyn OpenEngine,
    ) -> Result<(Generation, MovedAside), StateError> {
        // Until CURRENT is replaced it names a generation that is no longer there, so a crash on the
        // way leads here again and the loss is still reported.
        let path = self.move_aside()?;
        tracing::error!(path = %path.display(), %reason, "database unusable: moved aside, starting empty");
        let generation = self.begin(opener)?;
        self.commit(&generation)?;
        Ok((generation, MovedAside { path, reason }))
    }

    /// Begins a generation that becomes valid by [`Generations::commit`]; until then a crash makes
    /// it vanish.
    pub(super) fn begin(&mut self, opener: &dyn OpenEngine) -> Result<Generation, StateError> {
        let number = self.next;
        self.next += 1;
        let marker = self.marker(number);
        File::create(&marker)
            .and_then(|file| file.sync_all())
            .map_err(at(&marker))?;
        sync_dir(&self.dir)?;
        let path = self.path(number);
        fs::create_dir(&path).map_err(at(&path))?;
        self.open_generation(number, opener)
    }

    /// Makes `generation` the current one, durably.
    pub(super) fn commit(&self, generation: &Generation) -> Result<(), StateError> {
        let new = self.dir.join(CURRENT_NEW);
        let current = self.dir.join(CURRENT);
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(format!("gen-{}\n", generation.number).as_bytes())?;
            file.sync_all()
        };
        write().map_err(at(&new))?;
        fs::rename(&new, &current).map_err(at(&current))?;
        sync_dir(&self.dir)?;
        let marker = self.marker(generation.number);
        fs::remove_file(&marker).map_err(at(&marker))
    }

    fn open_generation(
        &self,
        number: u64,
        opener: &dyn OpenEngine,
    ) -> Result<Generation, StateError> {
        let dir = self.path(number);
        let engine = opener.open(&dir)?;
        Ok(Generation {
            engine,
            remains: Remains {
                dir,
                remove: AtomicBool::new(false),
            },
            number,
        })
    }

    /// Removes what a crash left unfinished; returns the generations that remain.
    fn clean(dir: &Path) -> Result<BTreeSet<u64>, StateError> {
        let current = match read_current(dir)? {
            Some(text) => parse_generation(text.trim_end_matches('\n')),
            None => None,
        };
        let mut existing = BTreeSet::new();
        let mut building = BTreeSet::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let name = entry.map_err(at(dir))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(REMOVED) {
                let path = dir.join(name);
                remove_dir(&path).map_err(at(&path))?;
                continue;
            }
            match name.split_once('.') {
                Some((name, BUILDING)) => building.extend(parse_generation(name)),
                Some(_) => {}
                None => existing.extend(parse_generation(name)),
            }
        }
        for number in building {
            if current != Some(number) {
                let path = dir.join(format!("gen-{number}"));
                remove_dir(&path).map_err(at(&path))?;
                existing.remove(&number);
            }
            // Only now: a crash in between must find the marker again.
            let marker = dir.join(format!("gen-{number}.{BUILDING}"));
            fs::remove_file(&marker).map_err(at(&marker))?;
        }
        Ok(existing)
    }

    fn find_current(dir: &Path, existing: &BTreeSet<u64>) -> Result<Found, StateError> {
        let Some(text) = read_current(dir)? else {
            return Ok(match existing.last() {
                None => Found::Nothing,
                Some(n) => Found::Unusable(format!("gen-{n} is there, but no CURRENT names it")),
            });
        };
        Ok(match text.strip_suffix('\n').and_then(parse_generation) {
            Some(number) if existing.contains(&number) => Found::Current(number),
            Some(number) => {
                Found::Unusable(format!("CURRENT names gen-{number}, which is not there"))
            }
            None => Found::Unusable("CURRENT does not name a generation".into()),
        })
    }

    fn move_aside(&self) -> Result<PathBuf, StateError> {
        let mut n = 1;
        let broken = loop {
            let path = self.dir.join(format!("broken-{n}"));
            match fs::create_dir(&path) {
                Ok(()) => break path,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => n += 1,
                Err(e) => return Err(at(&path)(e)),
            }
        };
        let current = self.dir.join(CURRENT);
        match fs::copy(&current, broken.join(CURRENT)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at(&current)(e)),
        }
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let entry = entry.map_err(at(&self.dir))?;
            if entry
                .file_name()
                .to_str()
                .and_then(parse_generation)
                .is_some()
            {
                let path = entry.path();
                fs::rename(&path, broken.join(entry.file_name())).map_err(at(&path))?;
            }
        }
        sync_dir(&broken)?;
        sync_dir(&self.dir)?;
        Ok(broken)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("gen-{number}"))
    }

    fn marker(&self, number: u64) -> PathBuf {
        self.dir.join(format!("gen-{number}.{BUILDING}"))
    }
}

/// `CURRENT` as text, `None` if there is none; bytes that are not UTF-8 name no generation either.
fn read_current(dir: &Path) -> Result<Option<String>, StateError> {
    let path = dir.join(CURRENT);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(&path)(e)),
    }
}

/// The number of `gen-<n>`.
fn parse_generation(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("gen-")?;
    if digits.is_empty() || digits.len() > 18 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Removes a directory with its contents; one that is gone already, or goes meanwhile, is fine.
fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes the names within `dir` durable.
fn sync_dir(dir: &Path) -> Result<(), StateError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(at(dir))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError + '_ {
    move |source| StateError::Io {
        path: path.to_path_buf(),
        source,
    }
}
