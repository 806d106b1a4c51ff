use super::*;

fn open(dir: &Path) -> Result<SledEngine, EngineError> {
    SledEngine::open(
        dir,
        &Sled {
            cache_bytes: 8 << 20,
        },
    )
}

fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> (Bytes, Option<Bytes>) {
    (Bytes::from(key.into()), Some(Bytes::from(value.into())))
}

fn delete(key: impl Into<Vec<u8>>) -> (Bytes, Option<Bytes>) {
    (Bytes::from(key.into()), None)
}

fn contents(engine: &SledEngine) -> Vec<(Bytes, Bytes)> {
    engine.scan(&[], &[0xff; 8]).map(Result::unwrap).collect()
}

/// What a crash leaves that comes after `inserted` records of a batch: the redo file, the number of
/// the begun batch, and some of its records.
fn cut_short(engine: &SledEngine, batch: &Batch, inserted: usize) {
    let mut writer = engine.writer.lock();
    let number = writer.done + 1;
    writer.redo.write(number, batch).unwrap();
    engine.batches.insert(BEGUN, &number.to_be_bytes()).unwrap();
    engine.insert(batch[..inserted].to_vec()).unwrap();
    engine.db.flush().unwrap();
}

#[test]
fn scans_are_ordered_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    engine
        .apply_batch(vec![put("a", "1"), put("b", "2"), put("c", "3")])
        .unwrap();
    engine
        .apply_batch(vec![delete("b"), put("d", "4")])
        .unwrap();
    let keys = |start: &str, end: &str| -> Vec<Bytes> {
        engine
            .scan(start.as_bytes(), end.as_bytes())
            .map(|record| record.unwrap().0)
            .collect()
    };
    assert_eq!(keys("a", "d"), ["a", "c"]);
    assert_eq!(keys("a", "z"), ["a", "c", "d"]);
    assert_eq!(keys("b", "b"), [""; 0]);
    assert_eq!(keys("c", "a"), [""; 0]);
    assert_eq!(engine.get(b"b").unwrap(), None);
    assert_eq!(engine.get(b"d").unwrap().unwrap(), "4");
    assert!(engine.disk_bytes().unwrap() > 0);
}

#[test]
fn a_batch_cut_short_anywhere_is_completed_on_opening() {
    let batch = vec![
        put("a", "new"),
        delete("b"),
        put("c", "new"),
        put("d", vec![7; 1_500_000]),
    ];
    for inserted in 0..=batch.len() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path()).unwrap();
        engine
            .apply_batch(vec![put("a", "old"), put("b", "old"), put("e", "old")])
            .unwrap();
        engine.sync().unwrap();
        cut_short(&engine, &batch, inserted);
        drop(engine);

        let engine = open(dir.path()).unwrap();
        let expected: Batch = vec![
            put("a", "new"),
            put("c", "new"),
            put("d", vec![7; 1_500_000]),
            put("e", "old"),
        ];
        let found: Batch = contents(&engine)
            .into_iter()
            .map(|(k, v)| (k, Some(v)))
            .collect();
        assert_eq!(found, expected, "cut after {inserted}");
        // And the numbering goes on.
        engine.apply_batch(vec![put("f", "next")]).unwrap();
        drop(engine);
        let engine = open(dir.path()).unwrap();
        assert_eq!(engine.get(b"f").unwrap().unwrap(), "next");
        assert_eq!(engine.writer.lock().done, 3);
    }
}

#[test]
fn a_batch_not_begun_counts_only_if_it_was_written_down_whole() {
    for (cut, expected) in [(0, "new"), (1, "old")] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path()).unwrap();
        engine.apply_batch(vec![put("a", "old")]).unwrap();
        engine.sync().unwrap();
        engine
            .writer
            .lock()
            .redo
            .write(2, &vec![put("a", "new")])
            .unwrap();
        drop(engine);
        let path = dir.path().join("redo");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        let engine = open(dir.path()).unwrap();
        assert_eq!(engine.get(b"a").unwrap().unwrap(), expected);
        engine.apply_batch(vec![put("a", "newest")]).unwrap();
        drop(engine);
        assert_eq!(
            open(dir.path()).unwrap().get(b"a").unwrap().unwrap(),
            "newest"
        );
    }
}

#[test]
fn a_database_that_fell_back_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    for n in 0..5 {
        engine.apply_batch(vec![put("a", [n])]).unwrap();
        engine.sync().unwrap();
    }
    engine.batches.insert(BEGUN, &2u64.to_be_bytes()).unwrap();
    engine.batches.insert(DONE, &2u64.to_be_bytes()).unwrap();
    drop(engine);
    let error = open(dir.path()).err().unwrap();
    assert!(error.is_damage());
    assert!(
        error
            .to_string()
            .ends_with("ends at batch 2, but 4 was durable"),
        "{error}"
    );
}

#[test]
fn a_missing_or_damaged_redo_file_of_a_begun_batch_is_damage() {
    for damage in ["missing", "cut", "changed"] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path()).unwrap();
        cut_short(&engine, &vec![put("a", "1"), put("b", "2")], 1);
        drop(engine);
        let path = dir.path().join("redo");
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "missing" => std::fs::remove_file(&path).unwrap(),
            "cut" => std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap(),
            _ => {
                *bytes.last_mut().unwrap() ^= 1;
                std::fs::write(&path, &bytes).unwrap();
            }
        }
        let error = open(dir.path()).err().unwrap();
        assert!(error.is_damage(), "{damage}: {error}");
        assert!(error.to_string().contains("redo"), "{error}");
    }
}

#[test]
fn large_values_survive_in_files_that_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let value = |n: u8| vec![n; 1_572_864];
    for n in 0..12 {
        engine
            .apply_batch(vec![put([n], value(n)), put([n, 1], value(n))])
            .unwrap();
        engine.sync().unwrap();
    }
    let blobs: HashSet<OsString> = std::fs::read_dir(dir.path().join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(!blobs.is_empty(), "values of this size leave the log");
    assert!(blobs.is_subset(&engine.writer.lock().synced_blobs));
    drop(engine);
    let engine = open(dir.path()).unwrap();
    for n in 0..12 {
        assert_eq!(engine.get(&[n]).unwrap().unwrap(), value(n));
        assert_eq!(engine.get(&[n, 1]).unwrap().unwrap(), value(n));
    }
}

#[test]
fn a_panic_is_an_error() {
    let error = guarded::<()>(Path::new("db"), || panic!("page {} is gone", 7)).unwrap_err();
    assert!(error.is_damage());
    assert_eq!(
        error.to_string(),
        "db: the storage engine panicked: page 7 is gone"
    );
}

#[test]
fn a_locked_database_is_not_a_damaged_one() {
    let error = failed(Path::new("db"))(sled::Error::Io(io::Error::other(
        "could not acquire lock on \"db\": busy",
    )));
    assert!(!error.is_damage(), "{error}");
    let error = failed(Path::new("db"))(sled::Error::Io(io::ErrorKind::NotFound.into()));
    assert!(error.is_damage(), "{error}");
}

#[test]
fn a_clock_before_1970_is_refused_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = SystemTime::UNIX_EPOCH;
    let refused = check_clock(dir.path(), epoch - Duration::from_secs(7)).unwrap_err();
    assert!(!refused.is_damage(), "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("7 s before 1970") && text.contains("set the clock"),
        "{text}"
    );
    check_clock(dir.path(), epoch).unwrap();
}
