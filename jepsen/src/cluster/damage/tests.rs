//! On files laid out by hand as the two stores do it.

use rand::{SeedableRng, rngs::StdRng};

use super::*;

/// A batch without checksums.
fn batch(number: u64, synced_through: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = BATCH_MAGIC.to_vec();
    bytes.extend([0xee; 4]);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(synced_through.to_le_bytes());
    bytes.extend([0xee; 4]);
    bytes.extend(body);
    bytes
}

/// A segment of 64 KiB: batches, the zeros behind them, and what an earlier use left.
fn segment(batches: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"HOLDFLOG".to_vec();
    bytes.resize(SEGMENT_HEADER_BYTES, 1);
    for batch in batches {
        bytes.extend(batch);
    }
    bytes.extend([0; BATCH_HEADER_BYTES]);
    bytes.extend(batch(77, 76, b"of an earlier use"));
    bytes.resize(64 * 1024, 0);
    bytes
}

fn holdfast() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::create_dir(&log).unwrap();
    let name = |number: u64, extension: &str| log.join(format!("{number:020}.{extension}"));
    fs::write(name(1, "log"), segment(&[batch(1, 0, &[7; 100])])).unwrap();
    let batches = [
        batch(2, 1, &[7; 100]),
        batch(3, 1, &[8; 200]),
        batch(4, 3, &[9; 300]),
    ];
    fs::write(name(2, "log"), segment(&batches)).unwrap();
    fs::write(name(3, "log"), segment(&[])).unwrap();
    fs::write(name(4, "free"), segment(&batches)).unwrap();
    (dir, name(2, "log"))
}

/// Start of the last batch, and its end.
const LAST: (usize, usize) = (64 + 136 + 236, 64 + 136 + 236 + 336);

#[test]
fn a_flipped_bit_hits_what_was_synced() {
    for seed in 0..50 {
        let (dir, newest) = holdfast();
        let before = fs::read(&newest).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let damage = flip_bit_in_log_tail(dir.path(), &mut rng).unwrap();
        let after = fs::read(&newest).unwrap();
        let differ: Vec<_> = (0..before.len())
            .filter(|&at| before[at] != after[at])
            .collect();
        assert_eq!(differ, [damage.offset as usize], "seed {seed}");
        assert_eq!((damage.hit, &damage.file), (Hit::Synced, &newest));
        assert!((64..LAST.0).contains(&differ[0]), "seed {seed}: {damage}");
        let (from, to) = (before[differ[0]], after[differ[0]]);
        assert_eq!(damage.change, Change::Flipped { from, to });
        assert_eq!((from ^ to).count_ones(), 1);
    }
}

#[test]
fn a_torn_record_is_the_last_one() {
    for seed in 0..50 {
        let (dir, newest) = holdfast();
        let before = fs::read(&newest).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let damage = tear_last_record(dir.path(), &mut rng).unwrap();
        let after = fs::read(&newest).unwrap();
        let offset = damage.offset as usize;
        assert!((LAST.0..LAST.1).contains(&offset), "seed {seed}: {damage}");
        assert_eq!(damage.hit, Hit::LastRecord);
        assert_eq!(after[..offset], before[..offset]);
        assert!(after[offset..LAST.1].iter().all(|&byte| byte == 0));
        assert_eq!(after[LAST.1..], before[LAST.1..]);
    }
}

#[test]
fn a_truncated_log_ends_within_what_was_written() {
    for seed in 0..50 {
        let (dir, newest) = holdfast();
        let mut rng = StdRng::seed_from_u64(seed);
        let damage = truncate_log_tail(dir.path(), &mut rng).unwrap();
        assert_eq!(fs::metadata(&newest).unwrap().len(), damage.offset);
        assert!(
            (64..LAST.1 as u64).contains(&damage.offset),
            "seed {seed}: {damage}"
        );
        assert_eq!(damage.change, Change::Truncated { from: 64 * 1024 });
        assert_eq!(damage.hit, Hit::Synced);
    }
}

#[test]
fn the_log_of_etcd_ends_with_its_last_byte() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("member/wal");
    fs::create_dir_all(&wal).unwrap();
    let newest = wal.join("0000000000000001-0000000000000040.wal");
    let mut bytes = vec![5; 1000];
    bytes.resize(1 << 16, 0);
    fs::write(&newest, &bytes).unwrap();
    fs::write(wal.join("0000000000000000-0000000000000000.wal"), &bytes).unwrap();
    fs::write(wal.join("1.tmp"), &bytes).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..20 {
        let damage = flip_bit_in_log_tail(dir.path(), &mut rng).unwrap();
        assert_eq!((&damage.file, damage.hit), (&newest, Hit::Unknown));
        assert!(damage.offset < 1000, "{damage}");
    }
    let damage = truncate_log_tail(dir.path(), &mut rng).unwrap();
    assert_eq!(fs::metadata(&newest).unwrap().len(), damage.offset);
    assert!(damage.offset < 1000, "{damage}");
}

#[test]
fn without_a_log_nothing_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let refused = [
        truncate_log_tail(dir.path(), &mut rng),
        flip_bit_in_log_tail(dir.path(), &mut rng),
        tear_last_record(dir.path(), &mut rng),
        wipe(&dir.path().join("missing")),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(FaultError::Skipped(_))),
            "{refused:?}"
        );
    }
}

#[test]
fn a_wiped_directory_is_kept_under_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("node-1");
    for number in 1..=2 {
        fs::create_dir(&data).unwrap();
        fs::write(data.join("file"), [number]).unwrap();
        let damage = wipe(&data).unwrap();
        let to = dir.path().join(format!("node-1.wiped-{number}"));
        assert_eq!(fs::read(to.join("file")).unwrap(), [number]);
        assert_eq!(damage.change, Change::Moved { to });
        assert!(!data.exists());
    }
}
