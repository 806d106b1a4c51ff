use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn open(dir: &Path) -> Result<LsmEngine, EngineError> {
    LsmEngine::open(dir, &Lsm::new(8 << 20, 32))
}

fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> (Bytes, Option<Bytes>) {
    (Bytes::from(key.into()), Some(Bytes::from(value.into())))
}

fn delete(key: impl Into<Vec<u8>>) -> (Bytes, Option<Bytes>) {
    (Bytes::from(key.into()), None)
}

/// Keys around the length at which they go into buckets, several in one bucket.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let long = long_keys::KEY_BYTES_MAX;
    prop_oneof![
        proptest::collection::vec(0u8..3, 1..3),
        (0u8..2, long - 1..long + 2, 0u8..3).prop_map(|(first, len, last)| {
            let mut key = vec![7; len];
            key[0] = first;
            key[len - 1] = last;
            key
        }),
    ]
}

fn batches() -> impl Strategy<Value = Vec<BTreeMap<Vec<u8>, Option<Vec<u8>>>>> {
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..20));
    proptest::collection::vec(proptest::collection::btree_map(key(), value, 0..8), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Gets and scans say what a plain map says, before and after the tree is opened again.
    #[test]
    fn an_engine_is_an_ordered_map(
        batches in batches(),
        bounds in (key(), key()),
        (reopen, loads) in any::<(bool, bool)>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = open(dir.path()).unwrap();
        let mut model = BTreeMap::new();
        for batch in batches {
            for (key, value) in &batch {
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            let batch = batch.into_iter().map(|(k, v)| (k.into(), v.map(Bytes::from)));
            if loads {
                let mut load = engine.begin_load().unwrap().unwrap();
                batch.for_each(|(key, value)| load.write(key, value).unwrap());
                load.finish().unwrap();
            } else {
                engine.apply_batch(batch.collect()).unwrap();
            }
            if reopen {
                drop(engine);
                engine = open(dir.path()).unwrap();
            }
            for key in model.keys().chain([&bounds.0, &bounds.1]) {
                let found = engine.get(key).unwrap();
                prop_assert_eq!(found.as_deref(), model.get(key).map(Vec::as_slice));
            }
            let (start, end) = &bounds;
            let found: Vec<_> = engine.scan(start, end).map(Result::unwrap).collect();
            let expected: Vec<_> = model
                .iter()
                .filter(|(key, _)| *start <= **key && **key < *end)
                .map(|(k, v)| (Bytes::from(k.clone()), Bytes::from(v.clone())))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}

/// Overwritten and deleted records go, and so do the files that held them.
#[test]
fn what_was_overwritten_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let value = |n: u32| {
        let mut state = u64::from(n) + 1;
        let bytes = std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        });
        bytes.take(1_000).collect::<Vec<u8>>()
    };
    let rounds = 20;
    for round in 0..rounds {
        let batch = (0u32..2_000).map(|n| put(n.to_be_bytes(), value(n + round)));
        engine.apply_batch(batch.collect()).unwrap();
    }
    let live = 2_000 * 1_004;
    let deadline = Instant::now() + Duration::from_secs(30);
    // Runs that are not merged yet are as large as what is live, and there may be some.
    while engine.disk_bytes().unwrap() > 6 * live {
        assert!(
            Instant::now() < deadline,
            "{} bytes on disk for {live} that are live",
            engine.disk_bytes().unwrap()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    for n in 0u32..2_000 {
        let found = engine.get(&n.to_be_bytes()).unwrap().unwrap();
        assert_eq!(found, value(n + rounds - 1), "record {n}");
    }
}

/// Nothing more is written, so nothing but the deletions themselves asks for it.
#[test]
fn what_was_deleted_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let all = 0u32..4_000;
    let batch = all.clone().map(|n| put(n.to_be_bytes(), vec![7; 1_000]));
    engine.apply_batch(batch.collect()).unwrap();
    engine.compactor.wait_for_rest();
    let before = engine.disk_bytes().unwrap();
    let is_kept = |n: &u32| n.is_multiple_of(5);
    let gone = all.clone().filter(|n| !is_kept(n));
    let batch = gone.map(|n| delete(n.to_be_bytes()));
    engine.apply_batch(batch.collect()).unwrap();
    engine.compactor.wait_for_rest();
    assert_eq!(engine.tree.tombstone_count(), 0);
    let after = engine.disk_bytes().unwrap();
    assert!(after < before / 2, "{before} bytes before, {after} after");
    for n in all {
        let found = engine.get(&n.to_be_bytes()).unwrap();
        assert_eq!(found.is_some(), is_kept(&n), "record {n}");
    }
}

/// A scan goes on over what was there when it began, while batches and compactions pass.
#[test]
fn a_scan_keeps_what_it_began_with() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let batch = |value: &'static str| (0u32..500).map(move |n| put(n.to_be_bytes(), value));
    engine.apply_batch(batch("old").collect()).unwrap();
    let mut scan = engine.scan(&[], &[0xff; 8]);
    assert_eq!(scan.next().unwrap().unwrap().1, "old");
    for _ in 0..20 {
        engine.apply_batch(batch("new").collect()).unwrap();
    }
    assert!(scan.all(|record| record.unwrap().1 == "old"));
    assert!(
        engine
            .scan(&[], &[0xff; 8])
            .all(|record| record.unwrap().1 == "new")
    );
}

/// Damage is an error of the read that meets it, or of the opening; never another value.
#[test]
fn damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let value = |n: u32| vec![n as u8; 300];
    let batch = (0u32..500).map(|n| put(n.to_be_bytes(), value(n)));
    engine.apply_batch(batch.collect()).unwrap();
    drop(engine);
    let table = std::fs::read_dir(dir.path().join("tables"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&table).unwrap();
    let mut noticed = 0;
    let steps = 64;
    for step in 0..steps {
        let mut damaged = whole.clone();
        damaged[step * whole.len() / steps] ^= 0x10;
        std::fs::write(&table, &damaged).unwrap();
        let engine = match open(dir.path()) {
            Ok(engine) => engine,
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                noticed += 1;
                continue;
            }
        };
        let mut told = false;
        for n in 0u32..500 {
            match engine.get(&n.to_be_bytes()) {
                Ok(found) => assert_eq!(
                    found.as_deref(),
                    Some(&*value(n)),
                    "byte {step}, record {n}"
                ),
                Err(error) => {
                    assert!(error.is_damage(), "{error}");
                    told = true;
                }
            }
        }
        noticed += u32::from(told);
    }
    assert!(noticed > 32, "{noticed} of {steps}");
}

#[test]
fn a_list_of_tables_that_is_cut_or_changed_is_damage() {
    for damage in ["cut", "changed", "missing"] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path()).unwrap();
        engine
            .apply_batch(vec![put("a", "1"), put("b", "2")])
            .unwrap();
        engine.apply_batch(vec![delete("a")]).unwrap();
        drop(engine);
        let newest = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('v'))
            .max_by_key(|path| {
                path.file_name().unwrap().to_str().unwrap()[1..]
                    .parse::<u64>()
                    .unwrap()
            })
            .unwrap();
        let mut bytes = std::fs::read(&newest).unwrap();
        match damage {
            "cut" => bytes.truncate(bytes.len() / 2),
            "changed" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            _ => {}
        }
        match damage {
            "missing" => std::fs::remove_file(&newest).unwrap(),
            _ => std::fs::write(&newest, bytes).unwrap(),
        }
        let error = open(dir.path())
            .err()
            .unwrap_or_else(|| panic!("{damage}: opened"));
        assert!(error.is_damage(), "{damage}: {error}");
    }
}

/// A tree that is closed while it compacts is opened again at once, whole.
#[test]
fn closing_ends_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0u32..10 {
        let engine = open(dir.path()).unwrap();
        for part in 0u32..6 {
            let batch =
                (0u32..3_000).map(|n| put(n.to_be_bytes(), [round as u8, part as u8].repeat(50)));
            engine.apply_batch(batch.collect()).unwrap();
        }
        drop(engine);
        let engine = open(dir.path()).unwrap();
        let found = engine.scan(&[], &[0xff; 8]).map(Result::unwrap);
        let expected = [round as u8, 5].repeat(50);
        assert_eq!(found.filter(|(_, value)| *value == expected).count(), 3_000);
    }
}

/// A disk that stalls while the list of tables is exchanged stalls nobody who reads.
#[test]
fn readers_wait_for_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    engine
        .apply_batch(vec![put("a", "1"), put("b", "1")])
        .unwrap();
    // No compaction exchanges the list before the batch does.
    engine.compactor.wait_for_rest();
    // What opens a pipe to write to it waits until somebody reads: the next list goes into this one.
    let next = engine.tree.current_version().id() + 1;
    let pipe = dir.path().join(format!("v{next}"));
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: `name` is a string of C that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let engine = &engine;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| engine.apply_batch(vec![put("a", "2")]));
        let seen = read_while_the_tree_is_locked(scope, engine);
        // Before anything is asserted: the pipe holds up the end of the test too. Opened for both, it lets
        // the writer go on.
        let _both = File::options().read(true).write(true).open(&pipe).unwrap();
        // A pipe cannot be synced.
        assert!(writing.join().unwrap().is_err());
        assert_eq!(seen, Ok((Some("1".into()), 2)));
    });
}

/// What is read of `a`, and how many records there are, while a read of the tree itself would wait.
fn read_while_the_tree_is_locked<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    engine: &'scope LsmEngine,
) -> Result<(Option<Bytes>, usize), &'static str> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let (probed, locked) = mpsc::channel();
        scope.spawn(move || probed.send(engine.tree.current_version().id()));
        if locked.recv_timeout(Duration::from_millis(100)).is_ok() {
            continue;
        }
        let (read, seen) = mpsc::channel();
        scope.spawn(move || {
            let scanned = engine.scan(b"a", b"z").map(Result::unwrap).count();
            read.send((engine.get(b"a").unwrap(), scanned))
        });
        let seen = seen.recv_timeout(Duration::from_secs(10));
        let seen = seen.map_err(|_| "the read waits")?;
        // Else the probe had only been slow.
        if locked.try_recv() == Err(mpsc::TryRecvError::Empty) {
            return Ok(seen);
        }
    }
    Err("the tree was never locked")
}

/// The files of a range that nobody uses any more go, though nothing is written after it.
#[test]
fn a_released_range_gives_its_files_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let large = |first: u8| {
        let batch = (0u32..2_000).map(move |n| {
            put(
                [&[first][..], &n.to_be_bytes()].concat(),
                vec![n as u8; 500],
            )
        });
        batch.collect::<Batch>()
    };
    engine.apply_batch(large(1)).unwrap();
    engine.apply_batch(large(2)).unwrap();
    engine.compactor.wait_for_rest();
    let before = engine.disk_bytes().unwrap();
    engine.release(&[1], &[2]).unwrap();
    assert_eq!(engine.scan(&[1], &[2]).count(), 0);
    assert_eq!(engine.scan(&[2], &[3]).count(), 2_000);
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.disk_bytes().unwrap() > before * 3 / 4 {
        assert!(Instant::now() < deadline, "{before} bytes before");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn record(group: u8, n: u32, bytes: usize) -> (Bytes, Option<Bytes>) {
    // Nothing that compresses.
    let mut state = u64::from(n) << 8 | u64::from(group);
    let value = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    let key = [&[group][..], &n.to_be_bytes()].concat();
    put(key, value.take(bytes).collect::<Vec<u8>>())
}

#[test]
fn a_load_is_there_when_it_is_finished_and_batches_go_in_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let tables = || {
        std::fs::read_dir(dir.path().join("tables"))
            .unwrap()
            .count()
    };
    engine.apply_batch(vec![record(1, 0, 10)]).unwrap();
    let mut load = engine.begin_load().unwrap().unwrap();
    let mut given_up = engine.begin_load().unwrap().unwrap();
    for n in 0..30_000 {
        let (key, value) = record(2, n, 300);
        load.write(key, value).unwrap();
        let (key, value) = record(3, n, 300);
        given_up.write(key, value).unwrap();
        if n % 5_000 == 0 {
            engine.apply_batch(vec![record(1, n, 20)]).unwrap();
        }
    }
    let count = |engine: &LsmEngine, group: u8| {
        let records = engine.scan(&[group], &[group + 1]);
        records.map(Result::unwrap).count()
    };
    assert_eq!([1, 2, 3].map(|group| count(&engine, group)), [6, 0, 0]);
    load.finish().unwrap();
    drop(given_up);
    assert_eq!([1, 2, 3].map(|group| count(&engine, group)), [6, 30_000, 0]);
    engine.compactor.wait_for_rest();
    drop(engine);
    let before = tables();
    let engine = open(dir.path()).unwrap();
    assert!(tables() < before, "what was given up is removed");
    assert_eq!([1, 2, 3].map(|group| count(&engine, group)), [6, 30_000, 0]);
    let (key, value) = record(2, 29_999, 300);
    assert_eq!(engine.get(&key).unwrap(), value);
}

#[test]
fn a_range_is_told_its_part_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let of = |group: u8| engine.range_bytes(&[group], &[group + 1]).unwrap();
    assert_eq!(of(1), 0);
    // Two that hold many records, one that holds few, and one without any; together in each batch.
    for batch in 0..6 {
        let large = |group| (0..4_000).map(move |n| record(group, batch * 4_000 + n, 100));
        let few = (0..10).map(|n| record(3, batch * 10 + n, 100));
        let records = large(1).chain(few).chain(large(5));
        engine.apply_batch(records.collect()).unwrap();
    }
    let of_few = of(3);
    assert!((60 * 100..=60 * 110).contains(&of_few), "{of_few}");
    assert_eq!((of(0), of(4), of(6)), (0, 0, 0));
    // While tables are merged, those of before and those of after are there.
    engine.compactor.wait_for_rest();
    let [first, few, second] = [1, 3, 5].map(of);
    assert!((60 * 100..=60 * 110).contains(&few), "{few}");
    for large in [first, second] {
        assert!((2_000_000..4_000_000).contains(&large), "{large}");
    }
    let all = engine.range_bytes(&[0], &[9]).unwrap();
    let parts = first + few + second;
    assert!(parts.abs_diff(all) < all / 10, "{parts} {all}");
    let files = engine.disk_bytes().unwrap();
    assert!(all <= files && all * 10 > files * 9, "{all} {files}");
}
