use std::collections::BTreeMap;

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
    fn an_engine_is_an_ordered_map(batches in batches(), bounds in (key(), key()), reopen in any::<bool>()) {
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
            engine.apply_batch(batch.collect()).unwrap();
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
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    // Runs that are not merged yet are as large as what is live, and there may be some.
    while engine.disk_bytes().unwrap() > 6 * live {
        assert!(
            std::time::Instant::now() < deadline,
            "{} bytes on disk for {live} that are live",
            engine.disk_bytes().unwrap()
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for n in 0u32..2_000 {
        let found = engine.get(&n.to_be_bytes()).unwrap().unwrap();
        assert_eq!(found, value(n + rounds - 1), "record {n}");
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
