//! What the harness has broken and not yet mended, on disk before it is done: so that somebody else
//! can mend it when the harness cannot any more.
//!
//! ```text
//!   {"harness":{"pid":4711,"started":81234,"boot":"0f3c…"}}
//!   {"broken":{"id":1,"what":"node 2 is killed","remedy":{"command":{…}}}}
//!   {"mended":{"id":1}}
//! ```
//!
//! - A fault that outlives the harness is noted, and the note synced, before the fault is made. One that
//!   cannot be noted is not made.
//! - What is noted and not mended may be broken, or not yet: a remedy must do no harm to what is whole.
//! - Remedies need nothing but the journal: the file that described the cluster may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{cluster::process::Identity, history::NodeId};

/// Its name in the directory of a run.
pub const JOURNAL: &str = "broken.jsonl";

/// How something is mended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// A command for `sh -c` mends it, as the file of an existing cluster says.
    Command {
        /// The node that it mends.
        node: NodeId,
        /// Its field in the file, such as `start`.
        name: String,
        /// The command, with its placeholders filled in.
        script: String,
        /// Seconds that it may take.
        within_seconds: f64,
        /// Where the node answers when it is mended: `host:port`.
        direct: String,
    },
    /// A process of this machine must not go on without its harness.
    End {
        /// The node that it is.
        node: NodeId,
        /// Identity of the process.
        process: Identity,
    },
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// The first: whose journal it is.
    Harness(Identity),
    Broken {
        id: u64,
        what: String,
        remedy: Remedy,
    },
    AuthorityStream {
        id: u64,
    },
}

/// Something that is noted as broken and not as mended.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// Its number in the journal.
    pub id: u64,
    /// In words, such as `node 2 is killed`.
    pub what: String,
    /// What mends it.
    pub remedy: Remedy,
}

/// Directories of the journals that this process writes at the moment: what is told of them when it
/// has to end without mending.
static IN_USE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The journal of a run that goes on.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    next: u64,
}

impl Journal {
    /// The journal in this directory, which exists; appended to if there is one.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(JOURNAL);
        let known = match fs::read_to_string(&path) {
            Ok(text) => lines(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let ids = known.iter().filter_map(|line| match line {
            Line::Broken { id, .. } => Some(*id),
            _ => None,
        });
        let journal = Self {
            dir: dir.to_owned(),
            state: Mutex::new(State {
                next: ids.max().unwrap_or(0) + 1,
                file: File::options().create(true).append(true).open(&path)?,
            }),
        };
        journal.append(&Line::Harness(Identity::own()?), true)?;
        // The name of the file must outlive a crash as well.
        File::open(dir)?.sync_all()?;
        IN_USE.lock().insert(journal.dir.clone());
        Ok(journal)
    }

    /// Notes what is about to be broken. Returns its number once that is on disk.
    ///
    /// # Errors
    ///
    /// It is not on disk, and so must not be done.
    pub fn breaking(&self, what: impl Into<String>, remedy: Remedy) -> io::Result<u64> {
        let id = {
            let mut state = self.state.lock();
            state.next += 1;
            state.next - 1
        };
        // A process ends with the machine; what a command has done to another machine does not.
        let sync = matches!(remedy, Remedy::Command { .. });
        let what = what.into();
        self.append(&Line::Broken { id, what, remedy }, sync)?;
        Ok(id)
    }

    /// Notes that something is mended. If that cannot be noted, it is mended once more by who reads the
    /// journal, which does no harm.
    pub fn mended(&self, id: u64) {
        let _ = self.append(&Line::AuthorityStream { id }, false);
    }

    /// The directory that it is in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn append(&self, line: &Line, sync: bool) -> io::Result<()> {
        let mut text = serde_json::to_string(line).map_err(io::Error::from)?;
        text.push('\n');
        let mut state = self.state.lock();
        state.file.write_all(text.as_bytes())?;
        match sync {
            true => state.file.sync_data(),
            false => Ok(()),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        IN_USE.lock().remove(&self.dir);
    }
}

/// Directories of the journals that this process writes at the moment.
pub fn in_use() -> Vec<PathBuf> {
    IN_USE.lock().iter().cloned().collect()
}

/// A journal as it was left.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// The process that wrote it last.
    pub harness: Option<Identity>,
    /// What it had broken and not mended, in the order in which that was done.
    pub open: Vec<Open>,
}

/// Reads the journal in a directory; `None` if there is none.
///
/// # Errors
///
/// It is there and cannot be read.
pub fn read(dir: &Path) -> io::Result<Option<Left>> {
    let text = match fs::read_to_string(dir.join(JOURNAL)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut harness = None;
    let mut open = BTreeMap::new();
    for line in lines(&text) {
        match line {
            Line::Harness(identity) => harness = Some(identity),
            Line::Broken { id, what, remedy } => {
                open.insert(id, Open { id, what, remedy });
            }
            Line::AuthorityStream { id } => {
                open.remove(&id);
            }
        }
    }
    let open = open.into_values().collect();
    Ok(Some(Left { harness, open }))
}

/// The lines that are whole. One that a crash has cut was not synced, so what it says was not done.
fn lines(text: &str) -> Vec<Line> {
    let whole = text.lines().map(serde_json::from_str);
    whole.filter_map(Result::ok).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(node: NodeId) -> Remedy {
        Remedy::Command {
            node,
            name: "start".into(),
            script: "true".into(),
            within_seconds: 1.0,
            direct: "127.0.0.1:1".into(),
        }
    }

    #[test]
    fn what_is_not_mended_is_left_even_if_the_last_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let journal = Journal::open(dir.path()).unwrap();
        let first = journal.breaking("node 1 is killed", remedy(1)).unwrap();
        let second = journal.breaking("node 2 is killed", remedy(2)).unwrap();
        journal.mended(first);
        assert!(in_use().contains(&dir.path().to_owned()));
        drop(journal);
        assert!(!in_use().contains(&dir.path().to_owned()));
        let path = dir.path().join(JOURNAL);
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(br#"{"mended":{"id"#).unwrap();

        let left = read(dir.path()).unwrap().unwrap();
        assert_eq!(left.harness, Some(Identity::own().unwrap()));
        let ids: Vec<u64> = left.open.iter().map(|open| open.id).collect();
        assert_eq!(ids, [second]);
        assert_eq!(left.open[0].remedy, remedy(2));
    }

    #[test]
    fn a_journal_that_is_continued_gives_new_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let first = Journal::open(dir.path())
            .unwrap()
            .breaking("a", remedy(1))
            .unwrap();
        let second = Journal::open(dir.path())
            .unwrap()
            .breaking("b", remedy(1))
            .unwrap();
        assert_ne!(first, second);
        assert_eq!(read(dir.path()).unwrap().unwrap().open.len(), 2);
    }
}
