//! Journals written by hand: what a shim never gets to in a short test.

use super::super::layout::KIND_RESIZE;
use super::*;

const EPOCH: u64 = 3;

struct Bench {
    dir: tempfile::TempDir,
    shared: Shared,
    end: u64,
}

impl Bench {
    /// A node with one file, whose journal begins at `position`.
    fn new(content: &[u8], position: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("below")).unwrap();
        std::fs::write(data.join("below/file"), content).unwrap();
        let shared = Shared::create(dir.path().join("shared")).unwrap();
        let mut files = HashMap::new();
        list(&data, &mut files).unwrap();
        let (dev, ino, born_ns) = *files.keys().next().unwrap();
        let slot = &shared.slots()[5];
        slot.dev.store(dev, Ordering::Relaxed);
        slot.ino.store(ino, Ordering::Relaxed);
        slot.born_ns.store(born_ns, Ordering::Relaxed);
        slot.start.store(position, Ordering::Relaxed);
        slot.end.store(position, Ordering::Relaxed);
        slot.epoch.store(EPOCH, Ordering::Relaxed);
        Self {
            dir,
            shared,
            end: position,
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let at = ring_at(5) + self.end % RING_BYTES;
            self.shared.file().write_all_at(&[*byte], at).unwrap();
            self.end += 1;
        }
        let end = &self.shared.slots()[5].end;
        end.store(self.end, Ordering::Relaxed);
    }

    fn record(&mut self, kind: u32, old_at: u64, old: &[u8], old_len: u64, bytes: u64) {
        let header = RecordHeader {
            kind,
            old_at,
            old_bytes: old.len() as u64,
            old_len,
            change_at: old_at,
            change_bytes: bytes,
        };
        assert_eq!(RecordHeader::decode(&header.encode()), Some(header));
        self.append(&header.encode());
        self.append(old);
    }

    fn take_back(&self, seed: u64, keep_share: f64) -> io::Result<(TakenBack, Vec<u8>)> {
        let data = self.dir.path().join("data");
        let taken = take_back(&self.shared, EPOCH, &data, seed, keep_share)?;
        Ok((taken, std::fs::read(data.join("below/file"))?))
    }
}

#[test]
fn records_are_undone_from_the_last_over_the_end_of_the_ring() {
    // abcdef → aBCdef → aBXYZfghi → aBX
    let mut bench = Bench::new(b"aBX", 2 * RING_BYTES - 60);
    bench.record(KIND_WRITE, 1, b"bc", 6, 2);
    bench.record(KIND_WRITE, 2, b"Cdef", 6, 7);
    bench.record(KIND_RESIZE, 3, b"YZfghi", 9, 6);
    assert!(bench.end > 2 * RING_BYTES);
    let (taken, content) = bench.take_back(0, 0.0).unwrap();
    assert_eq!(content, b"abcdef");
    assert_eq!((taken.writes, taken.bytes), (3, 15));
}

#[test]
fn what_belongs_to_another_journal_or_a_lost_file_stays() {
    let mut bench = Bench::new(b"new", 0);
    bench.record(KIND_WRITE, 0, b"old", 3, 3);
    bench.shared.slots()[5]
        .epoch
        .store(EPOCH - 1, Ordering::Relaxed);
    let (taken, content) = bench.take_back(0, 0.0).unwrap();
    assert_eq!((taken, &*content), (TakenBack::default(), &b"new"[..]));
    bench.shared.slots()[5]
        .epoch
        .store(EPOCH, Ordering::Relaxed);
    bench.shared.slots()[5].ino.fetch_add(1, Ordering::Relaxed);
    let (taken, content) = bench.take_back(0, 0.0).unwrap();
    assert_eq!((taken, &*content), (TakenBack::default(), &b"new"[..]));
}

#[test]
fn a_journal_that_makes_no_sense_is_an_error() {
    let mut bench = Bench::new(b"new", 0);
    bench.append(&[9; 100]);
    let error = bench.take_back(0, 0.0).unwrap_err();
    assert!(error.to_string().contains("no record at 0"), "{error}");
}

#[test]
fn a_kept_sector_keeps_the_length_that_it_needs() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..60 {
        // 100 bytes grew to 2000, which were then truncated to 1500 and grew to 1700.
        let mut bench = Bench::new(&[4; 1700], 0);
        bench.record(KIND_WRITE, 100, &[], 100, 1900);
        bench.record(KIND_RESIZE, 1500, &[4; 500], 2000, 500);
        bench.record(KIND_WRITE, 1500, &[], 1500, 200);
        let (_, content) = bench.take_back(seed, 0.4).unwrap();
        assert!((100..=2000).contains(&content.len()), "seed {seed}");
        assert_eq!(content[..100], [4; 100]);
        // A sector is there whole, or as it was: without anything.
        for (from, to) in sectors(100, content.len() as u64) {
            let sector = &content[from as usize..to as usize];
            let whole = sector.iter().all(|&b| b == 4) || sector.iter().all(|&b| b == 0);
            // Where the file was cut and grew again, both are in one sector.
            assert!(whole || from == 1024, "seed {seed}: {from} {sector:?}");
        }
        lengths.insert(content.len());
    }
    assert!(lengths.len() >= 4, "only {lengths:?}");
}
