//! One open file of [`FaultFiles`](super::FaultFiles): which of its sectors a crash may take back.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Core, Fate, Node, SECTOR_BYTES, counts_down, injected, power_failed};
use crate::storage::log::files::File;

pub(super) struct FaultFile {
    pub(super) core: Arc<Mutex<Core>>,
    pub(super) node: Arc<Mutex<Node>>,
    /// Of the power cycle in which the file was opened.
    pub(super) generation: u64,
}

impl Node {
    /// Remembers the durable content of the sectors that a write is about to change.
    fn remember(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        for sector in offset / SECTOR_BYTES..=(offset + len - 1) / SECTOR_BYTES {
            if self.unsynced.contains_key(&sector) {
                continue;
            }
            // Written again after a failed sync: a later sync covers it.
            let old = match self.doubtful.remove(&sector) {
                Some(old) => old,
                None => {
                    let mut old = vec![0; SECTOR_BYTES as usize];
                    let mut filled = 0;
                    loop {
                        let at = sector * SECTOR_BYTES + filled as u64;
                        match self.file.read_at(&mut old[filled..], at)? {
                            0 => break old,
                            read => filled += read,
                        }
                    }
                }
            };
            self.unsynced.insert(sector, old);
        }
        Ok(())
    }
}

impl File for FaultFile {
    fn len(&self) -> io::Result<u64> {
        self.core.lock().check_power(self.generation)?;
        self.node.lock().file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.core.lock().check_power(self.generation)?;
        let file = self.node.lock().file.clone();
        file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut core = self.core.lock();
        core.check_power(self.generation)?;
        core.counts.writes += 1;
        let fate = match core.change() {
            Fate::Whole if counts_down(&mut core.writes_left) => Fate::Fails,
            fate => fate,
        };
        let short = core.short_writes && bytes.len() > 1 && core.below(2) == 0;
        let len = match fate {
            Fate::Whole if short => 1 + core.below(bytes.len() as u64 - 1),
            Fate::Whole => bytes.len() as u64,
            Fate::PowerFails | Fate::Fails => core.below(bytes.len() as u64 + 1),
        };
        let mut node = self.node.lock();
        node.remember(offset, len)?;
        node.file.write_all_at(&bytes[..len as usize], offset)?;
        match fate {
            Fate::Whole => Ok(len as usize),
            Fate::Fails => Err(injected("write")),
            Fate::PowerFails => Err(power_failed()),
        }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut core = self.core.lock();
        core.check_power(self.generation)?;
        match core.change() {
            Fate::PowerFails | Fate::Fails => Err(power_failed()),
            Fate::Whole => self.node.lock().file.allocate(len),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut core = self.core.lock();
        core.check_power(self.generation)?;
        core.counts.syncs += 1;
        let fate = match core.change() {
            Fate::Whole if counts_down(&mut core.syncs_left) => Fate::Fails,
            fate => fate,
        };
        let mut node = self.node.lock();
        match fate {
            Fate::Whole => {
                node.file.sync()?;
                node.unsynced.clear();
                Ok(())
            }
            Fate::Fails => {
                let unsynced = std::mem::take(&mut node.unsynced);
                node.doubtful.extend(unsynced);
                Err(injected("sync"))
            }
            Fate::PowerFails => {
                // The medium may have everything before the caller learns of it.
                if core.below(2) == 0 {
                    node.unsynced.clear();
                }
                Err(power_failed())
            }
        }
    }
}
