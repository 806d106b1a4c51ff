//! Groups that are dropped: dead at once, gone for good, and refused for ever.

use super::*;

fn drop_group(log: &Log, id: u64) -> io::Result<()> {
    block_on(log.drop_group(id))
}

/// Writes and purges until the segments that were in use have gone.
fn turn_over(log: &Log, id: u64) {
    let group = log.group(id).unwrap();
    let next = group.state().last.map_or(0, |last| last.index + 1);
    for index in next..next + 40 {
        append(&group, vec![entry(1, index, 900)]).unwrap();
        purge(&group, pos(1, index)).unwrap();
    }
}

fn ids(log: &Log) -> (Vec<u64>, Vec<(u64, u64)>) {
    (log.groups(), log.dropped().ranges().collect())
}

#[test]
fn the_segments_of_a_dropped_group_are_free_at_once() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    let (kept, gone) = (log.group(1).unwrap(), log.group(2).unwrap());
    append(&kept, vec![entry(1, 0, 10)]).unwrap();
    for index in 0..60 {
        append(&gone, vec![entry(1, index, 500)]).unwrap();
    }
    assert!(log.stats().segments > 8);
    drop_group(&log, 2).unwrap();
    wait_until("few segments", || log.stats().segments <= 3);
    assert_eq!(ids(&log), (vec![1], vec![(2, 2)]));
    assert_eq!(read_all(&kept), vec![entry(1, 0, 10)]);
}

#[test]
fn a_dropped_group_takes_nothing_and_its_id_never_comes_back() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    let gone = log.group(7).unwrap();
    append(&gone, vec![entry(1, 0, 10)]).unwrap();
    gone.save_committed(Bytes::from_static(b"mark")).unwrap();
    drop_group(&log, 7).unwrap();
    // One that nobody has named yet, too.
    drop_group(&log, 9).unwrap();

    let why = "group 7 was dropped on this node; its id is never used again";
    let refused = [
        append(&gone, vec![entry(1, 1, 10)]),
        vote(&gone, "v"),
        truncate(&gone, None),
        purge(&gone, pos(1, 0)),
        gone.save_committed(Bytes::from_static(b"later")),
        drop_group(&log, 7),
        log.group(7).map(drop).map_err(io::Error::from),
    ];
    for refused in refused {
        let error = refused.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::NotFound, why)
        );
    }
    assert_eq!(gone.state(), GroupState::default());
    assert_eq!(read_all(&gone), vec![]);
    assert_eq!(log.stats().cached_bytes, 0);

    // Over restarts, also when the record of it has left with its segment, more than once.
    drop((log, gone));
    for _ in 0..3 {
        let (log, _) = open(&files);
        assert!(log.group(7).is_err() && log.group(9).is_err());
        assert_eq!(log.dropped().ranges().collect::<Vec<_>>(), [(7, 7), (9, 9)]);
        assert_eq!(log.dropped().last(), Some(9));
        turn_over(&log, 8);
        log.close();
    }
    let (log, _) = open(&files);
    drop_group(&log, 8).unwrap();
    drop(log);
    let (log, _) = open(&files);
    assert_eq!(ids(&log), (vec![], vec![(7, 9)]));
}

/// The older segments of a log stay while the one with the record goes.
#[test]
fn a_drop_counts_for_older_segments_when_its_own_is_gone() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    let (old, gone, busy) = (
        log.group(1).unwrap(),
        log.group(2).unwrap(),
        log.group(3).unwrap(),
    );
    // One segment that stays, with entries of both.
    append(&old, vec![entry(1, 0, 100)]).unwrap();
    append(&gone, vec![entry(1, 0, 100)]).unwrap();
    vote(&gone, "v").unwrap();
    let segment_of_both = log.stats().segments;
    for index in 0..10 {
        append(&busy, vec![entry(1, index, 900)]).unwrap();
    }
    drop_group(&log, 2).unwrap();
    for index in 10..40 {
        append(&busy, vec![entry(1, index, 900)]).unwrap();
        purge(&busy, pos(1, index)).unwrap();
    }
    wait_until("the one with the record goes", || {
        log.stats().segments <= segment_of_both + 2
    });
    drop((log, old, gone, busy));
    let (log, _) = open(&files);
    assert_eq!(ids(&log), (vec![1, 3], vec![(2, 2)]));
    assert_eq!(read_all(&log.group(1).unwrap()), vec![entry(1, 0, 100)]);
}

#[test]
fn a_torn_record_leaves_the_group_whole() {
    for crash in [Crash::Tear, Crash::LoseUnsynced] {
        let (mut whole, mut dropped) = (0, 0);
        for seed in 1..=60 {
            let files = FaultFiles::memory(seed);
            let (log, _) = open(&files);
            let group = log.group(5).unwrap();
            append(&group, (0..4).map(|i| entry(2, i, 300)).collect()).unwrap();
            vote(&group, "kept").unwrap();
            let before = (group.state(), read_all(&group));
            // Off in the write of the record, in the sync behind it, or after both.
            files.power_off_after(seed % 3);
            let answered = drop_group(&log, 5);
            drop((log, group));
            files.crash(crash).unwrap();
            files.no_more_failures();
            let (log, _) = open(&files);
            match log.group(5) {
                Ok(group) => {
                    assert!(answered.is_err(), "seed {seed}: it was acknowledged");
                    assert_eq!((group.state(), read_all(&group)), before, "seed {seed}");
                    // It can still be dropped.
                    drop_group(&log, 5).unwrap();
                    whole += 1;
                }
                Err(_) => dropped += 1,
            }
            assert!(log.group(5).is_err());
        }
        assert!(whole > 0 && dropped > 0, "{whole} and {dropped}");
    }
}
