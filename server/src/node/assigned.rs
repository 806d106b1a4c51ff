//! Which groups this node is to run beside those that every node runs.
//!
//! A group is written down here before it starts and struck when nothing of it is left, so after a
//! crash the node knows of every group that it may hold something of:
//!
//! ```text
//!   create:  groups.json ─▶ start                      a crash between: started at the next start
//!   drop:    stop ─▶ record in the log ─▶ state, received snapshots, promises ─▶ groups.json
//!                    from here on it is dropped; what a crash leaves is removed at the next start
//! ```
//!
//! Who decides which groups there are is not known here: whatever does writes it down in this file.

#[cfg(test)]
mod fuzz;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    identity::{IdentityError, read_json, write_json},
    keyspace::Assignment,
    raft::GroupId,
};

const FILE: &str = "groups.json";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    groups: Vec<Assignment>,
}

/// The groups in the file; what this holds is on disk.
#[derive(Debug)]
pub(super) struct Assigned {
    dir: PathBuf,
    groups: BTreeMap<GroupId, Assignment>,
}

impl Assigned {
    /// Reads the file of a data directory; no file is no group.
    pub(super) fn read(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let stored = read_json::<Stored>(&path)?;
        let groups = match stored {
            Some(stored) if stored.format > FORMAT => {
                return Err(IdentityError::Format {
                    path,
                    found: stored.format,
                });
            }
            Some(stored) => stored.groups,
            None => Vec::new(),
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            groups: groups.into_iter().map(|group| (group.id, group)).collect(),
        })
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Assignment> {
        self.groups.values()
    }

    pub(super) fn get(&self, id: GroupId) -> Option<&Assignment> {
        self.groups.get(&id)
    }

    pub(super) fn has_keyspace(&self, name: &str) -> bool {
        self.groups().any(|group| group.keyspace == name)
    }

    /// Adds groups: on disk when this returns. Blocks.
    pub(super) fn add(&mut self, groups: &[Assignment]) -> Result<(), IdentityError> {
        self.change(|known| known.extend(groups.iter().map(|group| (group.id, group.clone()))))
    }

    /// Strikes groups of which nothing is left. Blocks.
    pub(super) fn remove(&mut self, groups: &[GroupId]) -> Result<(), IdentityError> {
        self.change(|known| known.retain(|id, _| !groups.contains(id)))
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<GroupId, Assignment>),
    ) -> Result<(), IdentityError> {
        let mut groups = self.groups.clone();
        change(&mut groups);
        if groups == self.groups {
            return Ok(());
        }
        let stored = Stored {
            format: FORMAT,
            groups: groups.values().cloned().collect(),
        };
        write_json(&self.dir, FILE, &stored)?;
        self.groups = groups;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(id: GroupId) -> Assignment {
        Assignment {
            id,
            keyspace: format!("k{id}"),
            voters: vec![1, 2, 3],
        }
    }

    #[test]
    fn what_was_added_and_not_removed_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut assigned = Assigned::read(dir.path()).unwrap();
        assert_eq!(assigned.groups().count(), 0);
        assigned.add(&[group(7), group(3), group(5)]).unwrap();
        assigned.remove(&[5, 6]).unwrap();
        let again = Assigned::read(dir.path()).unwrap();
        assert!(again.groups().eq(&[group(3), group(7)]));
        assert_eq!(again.get(3), Some(&group(3)));
        assert!(again.has_keyspace("k7") && !again.has_keyspace("k5"));
    }

    #[test]
    fn a_file_of_a_later_program_and_one_that_is_damaged_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, r#"{"format":2,"groups":[]}"#).unwrap();
        assert!(matches!(
            Assigned::read(dir.path()),
            Err(IdentityError::Format { found: 2, .. })
        ));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(
            Assigned::read(dir.path()),
            Err(IdentityError::Damaged { .. })
        ));
    }
}
