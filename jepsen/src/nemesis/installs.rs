//! The snapshots that a node installs, as its log tells: the file is read on from where it ended when
//! somebody began to follow it.
//!
//! Times are those of whoever looks. An install is never taken for longer than it was: it begins when its
//! line is seen, and ends at the last look that did not see its end.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use tokio::time::Instant;

/// A process that starts says who it is; what the one before it had begun has come to nothing.
const STARTED: &str = " INFO this node ";
const BEGUN: &str = " INFO installing a snapshot ";
const DONE: &str = " INFO snapshot installed ";

/// What is followed. Groups are kept as the log names them, `group=2`.
#[derive(Clone, Debug)]
pub(super) struct Installs {
    file: PathBuf,
    read: u64,
    looked: Instant,
    under_way: BTreeMap<String, Instant>,
    done: Vec<Duration>,
}

impl Installs {
    /// Follows a log from its present end.
    pub(super) fn follow(file: PathBuf) -> Self {
        Self {
            read: fs::metadata(&file).map_or(0, |known| known.len()),
            file,
            looked: Instant::now(),
            under_way: BTreeMap::new(),
            done: Vec::new(),
        }
    }

    /// Reads the lines that have come since the last look.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.look_at(Instant::now())
    }

    pub(super) fn look_at(&mut self, now: Instant) -> io::Result<()> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // The last line may not be all there.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            self.take(line, now);
        }
        self.read += whole as u64;
        self.looked = now;
        Ok(())
    }

    fn take(&mut self, line: &str, now: Instant) {
        let group = |rest: &str| rest.split(' ').next().unwrap_or_default().to_owned();
        if line.contains(STARTED) {
            self.under_way.clear();
        } else if let Some((_, rest)) = line.split_once(BEGUN) {
            self.under_way.insert(group(rest), now);
        } else if let Some((_, rest)) = line.split_once(DONE)
            && let Some(begun) = self.under_way.remove(&group(rest))
        {
            self.done.push(self.looked.saturating_duration_since(begun));
        }
    }

    /// Since when the one goes on that has been under way for longest.
    pub(super) fn under_way(&self) -> Option<Instant> {
        self.under_way.values().min().copied()
    }

    /// What the longest took that was finished.
    pub(super) fn longest(&self) -> Option<Duration> {
        self.done.iter().max().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_install_lasts_from_its_first_line_to_its_last() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        log.write_all(b"t  INFO installing a snapshot group=1 index=1\n")
            .unwrap();
        let mut installs = Installs::follow(log.path().to_owned());
        let mut now = Instant::now();
        let mut say = |installs: &mut Installs, words: &str| {
            now += SECOND;
            log.write_all(words.as_bytes()).unwrap();
            installs.look_at(now).unwrap();
            now
        };
        // What was there before does not count; nor does half a line.
        say(
            &mut installs,
            "t  INFO snapshot installed group=1 index=1\n",
        );
        assert_eq!((installs.under_way(), installs.longest()), (None, None));
        say(&mut installs, "t  INFO installing a snap");
        assert_eq!(installs.under_way(), None);
        let begun = say(&mut installs, "shot group=2 index=70\n");
        assert_eq!(installs.under_way(), Some(begun));
        // Another group's is another.
        say(
            &mut installs,
            "t  INFO installing a snapshot group=3 index=7\n",
        );
        say(
            &mut installs,
            "t  INFO snapshot installed group=3 index=7\n",
        );
        assert_eq!(installs.longest(), Some(Duration::ZERO));
        say(&mut installs, "t  INFO something else\n");
        say(
            &mut installs,
            "t  INFO snapshot installed group=2 index=70\n",
        );
        assert_eq!(installs.under_way(), None);
        assert_eq!(installs.longest(), Some(3 * SECOND));
        // A process that has ended installs nothing any more.
        say(
            &mut installs,
            "t  INFO installing a snapshot group=2 index=90\n",
        );
        say(&mut installs, "t  INFO this node node=3 zone=\"c\"\n");
        assert_eq!(installs.under_way(), None);
    }
}
