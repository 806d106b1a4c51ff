//! Files of a node that are gone, or older than they were: a log that is not mounted, a copy of the
//! whole directory put back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Change, Damage, Hit, failed};
use crate::cluster::FaultError;

/// Directories in which nodes of the known kinds keep their logs.
const LOGS: [&str; 2] = ["log", "member/wal"];

/// Moves the directory of a node aside, to the same name with `.wiped-N` behind it.
pub fn wipe(data_dir: &Path) -> Result<Damage, FaultError> {
    move_aside(data_dir, beside(data_dir, "wiped"))
}

/// Moves the log of a node aside, out of its directory, and leaves all else where it is.
pub fn lose_log(data_dir: &Path) -> Result<Damage, FaultError> {
    let found = LOGS.iter().map(|log| data_dir.join(log));
    match found.into_iter().find(|log| log.is_dir()) {
        Some(log) => move_aside(&log, beside(data_dir, "lost-log")),
        None => Err(FaultError::Skipped(format!(
            "{} holds no log",
            data_dir.display()
        ))),
    }
}

/// Copies the directory of a node that does not write, to the same name with `.copy-N` behind it.
/// Returns where.
pub fn copy(data_dir: &Path) -> Result<PathBuf, FaultError> {
    let to = beside(data_dir, "copy");
    match copy_all(data_dir, &to) {
        Ok(()) => Ok(to),
        Err(error) => {
            // Half a copy is of no use; what cannot be removed either lies there and harms nobody.
            let _ = fs::remove_dir_all(&to);
            Err(failed("copy", data_dir)(error))
        }
    }
}

/// Puts a copy in the place of the directory of a node, which is moved to the same name with
/// `.replaced-N` behind it.
pub fn put_back(copy: &Path, data_dir: &Path) -> Result<Damage, FaultError> {
    move_aside(data_dir, beside(data_dir, "replaced"))?;
    fs::rename(copy, data_dir).map_err(failed("move", copy))?;
    Ok(Damage {
        file: data_dir.to_owned(),
        offset: 0,
        change: Change::PutBack,
        hit: Hit::All,
    })
}

/// A name beside a directory that nobody has.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let names = (1..).map(|number| {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".{what}-{number}"));
        PathBuf::from(name)
    });
    let mut free = names.filter(|name| !name.exists());
    free.next().expect("numbers do not end")
}

fn move_aside(dir: &Path, to: PathBuf) -> Result<Damage, FaultError> {
    match fs::rename(dir, &to) {
        Ok(()) => Ok(Damage {
            file: dir.to_owned(),
            offset: 0,
            change: Change::Moved { to },
            hit: Hit::All,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FaultError::Skipped(format!(
            "{} does not exist",
            dir.display()
        ))),
        Err(error) => Err(failed("move", dir)(error)),
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node's directory with a log and something else.
    fn node() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("node-1");
        fs::create_dir_all(dir.join("log")).unwrap();
        fs::write(dir.join("log/1.log"), "early").unwrap();
        fs::write(dir.join("identity.json"), "{}").unwrap();
        (parent, dir)
    }

    #[test]
    fn a_lost_log_leaves_the_rest_of_the_directory() {
        let (parent, dir) = node();
        let done = lose_log(&dir).unwrap();
        assert!(!dir.join("log").exists());
        assert!(dir.join("identity.json").exists());
        assert!(parent.path().join("node-1.lost-log-1/1.log").exists());
        assert!(done.to_string().contains("node-1.lost-log-1"), "{done}");
        assert!(matches!(lose_log(&dir), Err(FaultError::Skipped(_))));
    }

    #[test]
    fn a_copy_that_is_put_back_is_what_there_was_when_it_was_made() {
        let (parent, dir) = node();
        let first = copy(&dir).unwrap();
        fs::write(dir.join("log/1.log"), "late").unwrap();
        fs::write(dir.join("log/2.log"), "later").unwrap();
        let second = copy(&dir).unwrap();
        assert_ne!(first, second);
        put_back(&first, &dir).unwrap();
        assert_eq!(fs::read_to_string(dir.join("log/1.log")).unwrap(), "early");
        assert!(!dir.join("log/2.log").exists());
        let replaced = parent.path().join("node-1.replaced-1/log/2.log");
        assert_eq!(fs::read_to_string(replaced).unwrap(), "later");
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_fault_that_is_not_made() {
        let (parent, _) = node();
        let nowhere = parent.path().join("node-2");
        assert!(matches!(wipe(&nowhere), Err(FaultError::Skipped(_))));
        assert!(matches!(copy(&nowhere), Err(FaultError::Failed(_))));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
