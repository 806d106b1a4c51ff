//! The directory of the state: which database in it counts, and how it is exchanged.
//!
//! ```text
//!   <dir>/CURRENT         "db-3 lsm-tree\n", replaced atomically: the only thing that makes a database valid
//!   <dir>/db-3/           the engine's files
//!   <dir>/db-4/           being built (the same state for another engine) ...
//!   <dir>/db-4.building   ... as this marker says; both are removed at the next opening
//!   <dir>/DAMAGED         a read met damage, and what it was: the next opening moves the database aside
//!   <dir>/broken-1/       what could not be used, moved here whole; never deleted by a node
//!   <dir>/group-7/        the older layout, see [`import`]
//! ```
//!
//! The marker is what tells an unfinished database, which is worthless, from one whose CURRENT was
//! lost, which somebody may want to look at.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{StateError, import};
use crate::storage::engine::{Engine, OpenEngine};

const CURRENT: &str = "CURRENT";
const CURRENT_NEW: &str = "CURRENT.new";
const DAMAGED: &str = "DAMAGED";
const BUILDING: &str = "building";

/// What was found in place of a usable database, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedAside {
    /// Directory that holds it now.
    pub path: PathBuf,
    /// Why it could not be used.
    pub reason: String,
}

/// The databases of one directory.
pub(super) struct Directory {
    dir: PathBuf,
    next: u64,
}

/// A database that nobody finds before [`Directory::commit`].
pub(super) struct Unfinished {
    pub(super) engine: Box<dyn Engine>,
    number: u64,
    engine_name: &'static str,
}

/// What [`Directory::open`] gives.
pub(super) struct Found {
    pub(super) directory: Directory,
    pub(super) engine: Box<dyn Engine>,
    pub(super) moved_aside: Option<MovedAside>,
}

enum Present {
    Nothing,
    Current { number: u64, engine: String },
    Unusable(String),
}

impl Found {
    fn whole(directory: Directory, engine: Box<dyn Engine>) -> Self {
        Found {
            directory,
            engine,
            moved_aside: None,
        }
    }
}

impl Directory {
    /// Opens the database that counts, creating it if there is none. One of another engine, or of the
    /// older layout, is copied first; an unusable one is moved aside and an empty one begun.
    pub(super) fn open(dir: &Path, opener: &dyn OpenEngine) -> Result<Found, StateError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let existing = Self::clean(dir)?;
        let found = Self::find_current(dir, &existing)?;
        let newest = match &found {
            Present::Current { number, .. } => *number,
            _ => existing.last().copied().unwrap_or(0),
        };
        let mut directory = Directory {
            dir: dir.to_path_buf(),
            next: newest + 1,
        };
        let reason = match found {
            Present::Nothing => {
                let new = directory.begin(opener)?;
                import::older_layout(dir, &*new.engine)?;
                let engine = directory.commit(new)?;
                import::remove_older_layout(dir)?;
                return Ok(Found::whole(directory, engine));
            }
            Present::Current { number, engine } => {
                // What a killed process renamed may not be durable yet.
                sync_dir(dir)?;
                import::remove_older_layout(dir)?;
                for &old in existing.iter().filter(|&&old| old != number) {
                    remove_dir(&directory.path(old))?;
                }
                match directory.open_current(number, &engine, opener) {
                    Ok(engine) => return Ok(Found::whole(directory, engine)),
                    Err(StateError::Engine(error)) if error.is_damage() => error.to_string(),
                    Err(error) => return Err(error),
                }
            }
            Present::Unusable(reason) => reason,
        };
        let (engine, moved) = directory.start_over(reason, opener)?;
        Ok(Found {
            directory,
            engine,
            moved_aside: Some(moved),
        })
    }

    fn open_current(
        &mut self,
        number: u64,
        engine: &str,
        opener: &dyn OpenEngine,
    ) -> Result<Box<dyn Engine>, StateError> {
        let path = self.path(number);
        if engine == opener.name() {
            return Ok(opener.open(&path)?);
        }
        let old = import::opener(engine).ok_or_else(|| StateError::UnknownEngine {
            path: self.dir.clone(),
            engine: engine.to_owned(),
        })?;
        let new = self.begin(opener)?;
        let source = old.open(&path)?;
        import::copy(&*source, &*new.engine, &[])?;
        drop(source);
        let engine = self.commit(new)?;
        remove_dir(&path)?;
        Ok(engine)
    }

    /// Moves every database aside and begins an empty one.
    pub(super) fn start_over(
        &mut self,
        reason: String,
        opener: &dyn OpenEngine,
    ) -> Result<(Box<dyn Engine>, MovedAside), StateError> {
        // Until CURRENT is replaced it names a database that is no longer there, so a crash on the
        // way leads here again and the loss is still reported.
        let path = self.move_aside()?;
        tracing::error!(path = %path.display(), %reason, "database unusable: moved aside, starting empty");
        let new = self.begin(opener)?;
        let engine = self.commit(new)?;
        Ok((engine, MovedAside { path, reason }))
    }

    /// Begins a database that counts from [`Directory::commit`] on; until then a crash makes it vanish.
    fn begin(&mut self, opener: &dyn OpenEngine) -> Result<Unfinished, StateError> {
        let number = self.next;
        self.next += 1;
        let marker = self.marker(number);
        File::create(&marker)
            .and_then(|file| file.sync_all())
            .map_err(at(&marker))?;
        sync_dir(&self.dir)?;
        let path = self.path(number);
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(Unfinished {
            engine: opener.open(&path)?,
            number,
            engine_name: opener.name(),
        })
    }

    /// Makes `new` the database that counts, durably.
    fn commit(&self, new: Unfinished) -> Result<Box<dyn Engine>, StateError> {
        new.engine.sync()?;
        let unnamed = self.dir.join(CURRENT_NEW);
        let current = self.dir.join(CURRENT);
        let write = || -> io::Result<()> {
            let mut file = File::create(&unnamed)?;
            file.write_all(format!("db-{} {}\n", new.number, new.engine_name).as_bytes())?;
            file.sync_all()
        };
        write().map_err(at(&unnamed))?;
        fs::rename(&unnamed, &current).map_err(at(&current))?;
        sync_dir(&self.dir)?;
        let marker = self.marker(new.number);
        fs::remove_file(&marker).map_err(at(&marker))?;
        Ok(new.engine)
    }

    /// Removes what a crash left unfinished; returns the databases that remain.
    fn clean(dir: &Path) -> Result<BTreeSet<u64>, StateError> {
        let current = match read(&dir.join(CURRENT))? {
            Some(text) => parse_current(&text).map(|(number, _)| number),
            None => None,
        };
        let mut existing = BTreeSet::new();
        let mut building = BTreeSet::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let name = entry.map_err(at(dir))?.file_name();
            let Some(name) = name.to_str() else { continue };
            match name.split_once('.') {
                Some((name, BUILDING)) => building.extend(parse_database(name)),
                Some(_) => {}
                None => existing.extend(parse_database(name)),
            }
        }
        for number in building {
            if current != Some(number) {
                remove_dir(&dir.join(format!("db-{number}")))?;
                existing.remove(&number);
            }
            // Only now: a crash in between must find the marker again.
            let marker = dir.join(format!("db-{number}.{BUILDING}"));
            fs::remove_file(&marker).map_err(at(&marker))?;
        }
        Ok(existing)
    }

    fn find_current(dir: &Path, existing: &BTreeSet<u64>) -> Result<Present, StateError> {
        if let Some(reason) = read(&dir.join(DAMAGED))? {
            return Ok(Present::Unusable(reason.trim_end().to_owned()));
        }
        let Some(text) = read(&dir.join(CURRENT))? else {
            return Ok(match existing.last() {
                None => Present::Nothing,
                Some(n) => Present::Unusable(format!("db-{n} is there, but no CURRENT names it")),
            });
        };
        Ok(match parse_current(&text) {
            Some((number, engine)) if existing.contains(&number) => Present::Current {
                number,
                engine: engine.to_owned(),
            },
            Some((number, _)) => {
                Present::Unusable(format!("CURRENT names db-{number}, which is not there"))
            }
            None => Present::Unusable("CURRENT does not name a database".into()),
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
            let name = entry.map_err(at(&self.dir))?.file_name();
            if name.to_str().and_then(parse_database).is_some() {
                let path = self.dir.join(&name);
                fs::rename(&path, broken.join(&name)).map_err(at(&path))?;
            }
        }
        sync_dir(&broken)?;
        // After the database: a crash in between must find the mark again.
        let mark = self.dir.join(DAMAGED);
        match fs::rename(&mark, broken.join(DAMAGED)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&mark)(e)),
            _ => {}
        }
        sync_dir(&self.dir)?;
        Ok(broken)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("db-{number}"))
    }

    fn marker(&self, number: u64) -> PathBuf {
        self.dir.join(format!("db-{number}.{BUILDING}"))
    }
}

/// Has the next opening move the database in `dir` aside.
pub(super) fn mark_damaged(dir: &Path, reason: &str) -> io::Result<()> {
    let path = dir.join(DAMAGED);
    let mut file = File::create(&path)?;
    file.write_all(reason.as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// A small file as text, `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(path)(e)),
    }
}

/// Number and engine of `db-<n> <engine>\n`.
fn parse_current(text: &str) -> Option<(u64, &str)> {
    let (name, engine) = text.strip_suffix('\n')?.split_once(' ')?;
    Some((parse_database(name)?, engine))
}

/// The number of `db-<n>`.
fn parse_database(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("db-")?;
    if digits.is_empty() || digits.len() > 18 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Removes a directory with its contents; one that is gone already, or goes meanwhile, is fine.
pub(super) fn remove_dir(dir: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(at(dir)),
    }
}

/// Makes the names within `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StateError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(at(dir))
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError + '_ {
    move |source| StateError::Io {
        path: path.to_path_buf(),
        source,
    }
}
