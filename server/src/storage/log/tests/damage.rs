//! Damage: flipped bits, missing and short files, failed writes and syncs.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::files::{Files, MemoryFiles};
use super::*;

/// The bytes of every file.
type Image = Vec<(String, Vec<u8>)>;

fn image(files: &dyn Files) -> Image {
    loop {
        if let Some(image) = try_image(files) {
            return image;
        }
    }
}

/// `None` if a file was renamed meanwhile: the log prepares its next segment on a thread of its own.
fn try_image(files: &dyn Files) -> Option<Image> {
    let mut image = Vec::new();
    for name in files.list(Path::new(DIR)).unwrap() {
        let file = match files.open(&Path::new(DIR).join(&name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => panic!("{name}: {e}"),
        };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        image.push((name, bytes));
    }
    Some(image)
}

fn restore(image: &Image) -> Arc<MemoryFiles> {
    let files = MemoryFiles::default();
    for (name, bytes) in image {
        files
            .create(&Path::new(DIR).join(name))
            .unwrap()
            .write_all_at(bytes, 0)
            .unwrap();
    }
    Arc::new(files)
}

fn reopen(image: &Image) -> Result<(Log, Recovery), OpenError> {
    Log::open(Path::new(DIR), options(), restore(image))
}

fn contents(log: &Log) -> Vec<(GroupState, Vec<Entry>)> {
    log.groups()
        .into_iter()
        .map(|id| {
            (
                log.group(id).unwrap().state(),
                read_all(&log.group(id).unwrap()),
            )
        })
        .collect()
}

/// Three groups over several segments, and one that was dropped on the way; group 2 ends with an entry
/// of its own batch.
fn fill(log: &Log) {
    append(&log.group(1).unwrap(), vec![entry(1, 0, 400)]).unwrap();
    append(&log.group(4).unwrap(), vec![entry(1, 0, 400)]).unwrap();
    block_on(log.drop_group(4)).unwrap();
    for index in 1..=12 {
        append(&log.group(1).unwrap(), vec![entry(1, index, 400)]).unwrap();
        append(&log.group(3).unwrap(), vec![entry(2, index, 300)]).unwrap();
    }
    vote(&log.group(3).unwrap(), "a vote").unwrap();
    purge(&log.group(1).unwrap(), pos(1, 2)).unwrap();
    truncate(&log.group(1).unwrap(), Some(10)).unwrap();
    append(&log.group(2).unwrap(), vec![entry(5, 0, 40)]).unwrap();
    append(&log.group(2).unwrap(), vec![entry(5, 1, 40)]).unwrap();
}

#[test]
fn a_flipped_bit_in_a_closed_log_is_an_error_or_changes_nothing() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    fill(&log);
    let expected = contents(&log);
    log.close();
    let whole = image(&files);
    assert!(
        whole
            .iter()
            .filter(|(name, _)| name.ends_with(".log"))
            .count()
            > 3,
        "several segments"
    );
    let mut detected = 0;
    for (at, (name, bytes)) in whole.iter().enumerate() {
        for offset in
            (0..bytes.len()).filter(|offset| offset % 11 == 0 || (60..150).contains(offset))
        {
            let mut damaged = whole.clone();
            damaged[at].1[offset] ^= 1 << (offset % 8);
            match reopen(&damaged) {
                Err(OpenError::Corrupt(corruption)) => {
                    assert!(
                        corruption.file.ends_with(name),
                        "{corruption} names another file than {name}"
                    );
                    assert!(
                        corruption.offset as usize <= offset,
                        "{corruption} begins before byte {offset}"
                    );
                    detected += 1;
                }
                Err(other) => panic!("{name} byte {offset}: {other}"),
                Ok((log, _)) => assert_eq!(contents(&log), expected, "{name} byte {offset}"),
            }
        }
    }
    assert!(detected > 500, "{detected} flips were detected");
}

#[test]
fn damage_to_the_last_unattested_batch_is_cut_and_reported() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    fill(&log);
    let full = contents(&log);
    let mut without_last = full.clone();
    without_last[1].1.pop();
    without_last[1].0.last = Some(pos(5, 0));
    let whole = image(&files);
    let last = whole
        .iter()
        .rposition(|(_, bytes)| bytes[64..].iter().any(|&byte| byte != 0))
        .unwrap();
    let mut cut = 0;
    for offset in (64..whole[last].1.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[last].1[offset] ^= 0x10;
        let files = restore(&damaged);
        match Log::open(Path::new(DIR), options(), files.clone()) {
            Err(OpenError::Corrupt(corruption)) => assert!(corruption.offset as usize <= offset),
            Err(other) => panic!("byte {offset}: {other}"),
            Ok((log, recovery)) => {
                let found = contents(&log);
                if found == without_last {
                    let torn = recovery.torn.expect("a cut is reported");
                    assert!(torn.file.ends_with(&whole[last].0) && torn.offset as usize <= offset);
                    // Nothing of it is left to become valid behind a later batch.
                    let after = image(&*files);
                    let (_, bytes) = after
                        .iter()
                        .find(|(name, _)| *name == whole[last].0)
                        .unwrap();
                    assert!(bytes[torn.offset as usize..].iter().all(|&byte| byte == 0));
                    cut += 1;
                } else {
                    assert_eq!(found, full, "byte {offset}");
                }
            }
        }
    }
    assert!(cut > 20, "{cut} cuts");
}

#[test]
fn an_idle_log_attests_its_last_batch() {
    let files = FaultFiles::memory(1);
    let options = LogOptions {
        lazy_delay: Duration::from_millis(1),
        ..options()
    };
    let (log, _) = Log::open(Path::new(DIR), options, Arc::new(files.mount())).unwrap();
    append(&log.group(1).unwrap(), vec![entry(1, 0, 40)]).unwrap();
    while log.stats().batches < 2 {
        std::thread::yield_now();
    }
    let syncs = log.stats().syncs;
    assert_eq!(syncs, 1, "attesting costs no sync");
    let mut damaged = image(&files);
    damaged[0].1[150] ^= 1;
    let error = reopen(&damaged).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("00000000000000000001.log at byte 64"),
        "{error}"
    );
    assert!(error.contains("batch 1, which was synced"), "{error}");
}

#[test]
fn a_missing_or_short_segment_is_an_error() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    fill(&log);
    log.close();
    let whole = image(&files);
    let used: Vec<usize> = (0..whole.len())
        .filter(|&at| whole[at].1[100..].iter().any(|&b| b != 0))
        .collect();
    for &at in &used[..used.len() - 1] {
        let mut damaged = whole.clone();
        damaged.remove(at);
        let error = reopen(&damaged).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("a segment file is missing"), "{error}");
    }
    for &at in &used {
        let mut damaged = whole.clone();
        damaged[at].1.truncate(1000);
        let error = reopen(&damaged).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains("at byte 1000: expected a file of 4096 bytes"),
            "{error}"
        );
    }
}

#[test]
fn damage_under_a_running_log_is_found_by_the_reader() {
    let files = Arc::new(MemoryFiles::default());
    let (log, _) = Log::open(
        Path::new(DIR),
        LogOptions {
            cache_bytes: 0,
            ..options()
        },
        files.clone(),
    )
    .unwrap();
    let group = log.group(1).unwrap();
    append(&group, vec![entry(1, 0, 40), entry(1, 1, 40)]).unwrap();
    let file = files
        .open(&Path::new(DIR).join("00000000000000000001.log"))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 260).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 260).unwrap();
    let error = group.read(0..2, 1000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(
        error.to_string().contains("expected entry 1 of group 1"),
        "{error}"
    );
    assert_eq!(group.read(0..1, 1000).unwrap(), vec![entry(1, 0, 40)]);
}

#[test]
fn a_failed_sync_is_final() {
    for fail_write in [false, true] {
        let files = FaultFiles::memory(1);
        let (log, _) = open(&files);
        let (group, other) = (log.group(1).unwrap(), log.group(2).unwrap());
        append(&group, vec![entry(1, 0, 10)]).unwrap();
        assert!(log.failure().is_none());
        // The next segment is prepared beside the writer: its writes are not to be counted as the
        // log's, nor to meet the failure that is meant for it.
        wait_until("the next segment is prepared", || {
            let names = files.list(Path::new(DIR)).unwrap();
            names.iter().filter(|name| name.ends_with(".log")).count() == 2
        });
        match fail_write {
            true => files.fail_writes_after(0),
            false => files.fail_syncs_after(0),
        }
        let first = append(&group, vec![entry(1, 1, 10)])
            .unwrap_err()
            .to_string();
        assert!(first.contains("injected"), "{first}");
        assert_eq!(block_on(log.failed()).to_string(), first);
        // The cause is gone, the failure is not: nothing is written any more.
        files.no_more_failures();
        let writes = files.counts().writes;
        let called = Arc::new(AtomicBool::new(false));
        let told = called.clone();
        let done: Done = Box::new(move |result| told.store(result.is_err(), Ordering::SeqCst));
        assert_eq!(
            block_on(other.append(vec![entry(1, 0, 1)], done))
                .unwrap_err()
                .to_string(),
            first
        );
        assert!(called.load(Ordering::SeqCst));
        assert_eq!(vote(&other, "v").unwrap_err().to_string(), first);
        assert_eq!(
            other.save_committed(Bytes::new()).unwrap_err().to_string(),
            first
        );
        assert_eq!(truncate(&group, Some(0)).unwrap_err().to_string(), first);
        assert_eq!(purge(&group, pos(1, 0)).unwrap_err().to_string(), first);
        log.close();
        assert_eq!(files.counts().writes, writes);
    }
}

/// A file that was freed under a name that a crash gave back.
#[test]
fn a_segment_that_was_freed_and_came_back_is_no_torn_tail() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    fill(&log);
    let before = image(&files);
    purge(&log.group(1).unwrap(), pos(1, 10)).unwrap();
    purge(&log.group(3).unwrap(), pos(2, 12)).unwrap();
    for index in 2..14 {
        append(&log.group(2).unwrap(), vec![entry(5, index, 400)]).unwrap();
    }
    let first = "00000000000000000001.log";
    wait_until("the first segment is freed", || {
        let names = files.list(Path::new(DIR)).unwrap();
        !names.iter().any(|name| name == first)
    });
    let expected = contents(&log);
    log.close();
    let mut after = image(&files);
    after.retain(|(name, _)| name.ends_with(".log"));
    let freed = before.into_iter().find(|(name, _)| name == first);
    after.push(freed.unwrap());
    let (log, recovery) = reopen(&after).unwrap();
    assert_eq!(recovery.torn, None);
    assert_eq!(contents(&log), expected);
}
