//! Batches, bounds, and the space that purging gives back.

use std::sync::mpsc;

use super::*;

#[test]
fn groups_share_a_sync() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    append(&log.group(1).unwrap(), vec![entry(1, 0, 10)]).unwrap();
    // The writer is held in a callback while the others queue up behind it.
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let hold: Done = Box::new(move |_| {
        held.send(()).unwrap();
        released.recv().unwrap();
    });
    block_on(
        log.group(1)
            .unwrap()
            .save_vote(Bytes::from_static(b"v"), hold),
    )
    .unwrap();
    is_held.recv().unwrap();
    let before = log.stats();
    let (order, answers) = mpsc::channel();
    for group in 2..=40 {
        for index in 0..2 {
            let order = order.clone();
            let done: Done =
                Box::new(move |result| order.send((group, index, result.is_ok())).unwrap());
            block_on(
                log.group(group)
                    .unwrap()
                    .append(vec![entry(1, index, 50)], done),
            )
            .unwrap();
        }
    }
    assert_eq!(
        read_all(&log.group(40).unwrap()).len(),
        2,
        "readable before it is written"
    );
    release.send(()).unwrap();
    let answers: Vec<_> = answers.iter().take(78).collect();
    let expected: Vec<_> = (2..=40)
        .flat_map(|group| [(group, 0, true), (group, 1, true)])
        .collect();
    assert_eq!(answers, expected, "answered in order");
    let after = log.stats();
    // 78 records of 84 bytes span two segments of 4 KiB, or three.
    assert!(
        after.syncs - before.syncs <= 3,
        "{} syncs",
        after.syncs - before.syncs
    );
}

#[test]
fn purging_frees_segments_and_their_files_are_used_again() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    let (busy, quiet) = (log.group(1).unwrap(), log.group(2).unwrap());
    append(&quiet, vec![entry(1, 0, 30)]).unwrap();
    vote(&quiet, "quiet").unwrap();
    for index in 0..200 {
        append(&busy, vec![entry(1, index, 500)]).unwrap();
        if index % 10 == 9 {
            purge(&busy, pos(1, index - 5)).unwrap();
        }
    }
    // The quiet group pins only the segment that its entry lies in.
    wait_until("few segments", || log.stats().segments <= 4);
    let stats = log.stats();
    assert_eq!(stats.groups[0].range, Some((195, 199)));
    assert_eq!(stats.groups[0].live_bytes, 5 * 534);
    assert_eq!(stats.groups[1].range, Some((0, 0)));
    wait_until("few files", || log.stats().disk_bytes <= 10 * 4096);
    purge(&quiet, pos(1, 0)).unwrap();
    wait_until("fewer segments", || log.stats().segments <= 3);
    log.close();
    let (log, recovery) = open(&files);
    assert!(recovery.segments <= 3, "{recovery:?}");
    assert_eq!(
        read_all(&log.group(1).unwrap()),
        (195..200).map(|i| entry(1, i, 500)).collect::<Vec<_>>()
    );
    assert_eq!(read_all(&log.group(2).unwrap()), vec![]);
    assert_eq!(
        log.group(2).unwrap().state().vote.as_deref(),
        Some(&b"quiet"[..])
    );
    assert_eq!(log.group(2).unwrap().state().last, Some(pos(1, 0)));
}

#[test]
fn a_file_used_again_never_revives_old_records() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    // Two full cycles of equal batches: at every offset of a reused file lies a whole batch of old.
    for index in 0..120 {
        append(&log.group(1).unwrap(), vec![entry(1, index, 900)]).unwrap();
        purge(&log.group(1).unwrap(), pos(1, index)).unwrap();
    }
    for round in 0..6 {
        files.crash(Crash::KillProcess).unwrap();
        let (log, recovery) = open(&files);
        assert_eq!(recovery.torn, None, "round {round}");
        let group = log.group(1).unwrap();
        assert_eq!(group.state().last, Some(pos(1, 119 + round)));
        assert_eq!(read_all(&group), vec![]);
        append(&group, vec![entry(1, 120 + round, 900)]).unwrap();
        purge(&group, pos(1, 120 + round)).unwrap();
    }
}

#[test]
fn reads_come_from_memory_and_disk_and_respect_the_limit() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    let (a, b) = (log.group(1).unwrap(), log.group(2).unwrap());
    for index in 0..60 {
        append(&a, vec![entry(1, index, 100)]).unwrap();
        append(&b, vec![entry(1, index, 10)]).unwrap();
    }
    assert!(log.stats().cached_bytes <= 2 << 10);
    assert_eq!(
        read_all(&a),
        (0..60).map(|i| entry(1, i, 100)).collect::<Vec<_>>()
    );
    assert_eq!(
        a.read(10..20, usize::MAX).unwrap(),
        (10..20).map(|i| entry(1, i, 100)).collect::<Vec<_>>()
    );
    assert_eq!(a.read(10..60, 350).unwrap().len(), 3);
    assert_eq!(a.read(10..60, 0).unwrap(), vec![entry(1, 10, 100)]);
    assert_eq!(a.read(60..70, 1000).unwrap(), vec![]);
    purge(&a, pos(1, 30)).unwrap();
    assert_eq!(
        a.read(0..33, 1000).unwrap(),
        vec![entry(1, 31, 100), entry(1, 32, 100)]
    );
}

#[test]
fn a_record_larger_than_a_segment_makes_a_longer_one() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    let entries = vec![
        entry(1, 0, 10),
        entry(1, 1, 50_000),
        entry(1, 2, 10),
        entry(1, 3, 20_000),
    ];
    append(&log.group(1).unwrap(), entries.clone()).unwrap();
    drop(log);
    let (log, _) = open(&files);
    assert_eq!(read_all(&log.group(1).unwrap()), entries);
    assert!(log.stats().disk_bytes > 70_000);
    purge(&log.group(1).unwrap(), pos(1, 3)).unwrap();
    append(
        &log.group(1).unwrap(),
        (4..20).map(|i| entry(1, i, 500)).collect(),
    )
    .unwrap();
    wait_until("long segments are deleted", || {
        log.stats().disk_bytes < 50_000
    });
}

#[test]
fn what_does_not_follow_is_refused_and_changes_nothing() {
    let files = FaultFiles::memory(1);
    let (log, _) = open(&files);
    let group = log.group(1).unwrap();
    append(&group, vec![entry(3, 1, 1), entry(3, 2, 1)]).unwrap();
    purge(&group, pos(3, 1)).unwrap();
    let before = group.state();
    let refusals = [
        append(&group, vec![entry(3, 4, 1)]),
        append(&group, vec![entry(3, 2, 1)]),
        append(&group, vec![entry(2, 3, 1)]),
        append(&group, vec![entry(3, 3, 1), entry(3, 5, 1)]),
        truncate(&group, Some(0)),
        truncate(&group, None),
    ];
    for (number, refusal) in refusals.into_iter().enumerate() {
        assert_eq!(
            refusal.unwrap_err().kind(),
            io::ErrorKind::InvalidInput,
            "refusal {number}"
        );
    }
    assert_eq!(group.state(), before);
    append(&group, vec![entry(3, 3, 1)]).unwrap();
    // A purge past the end, as after a snapshot, moves the log there.
    purge(&group, pos(9, 100)).unwrap();
    assert_eq!(group.state().last, Some(pos(9, 100)));
    append(&group, vec![entry(9, 101, 1)]).unwrap();
    assert_eq!(group.term_of(100), Some(9));
    // A new group begins where its first entry says.
    append(&log.group(2).unwrap(), vec![entry(1, 7, 1)]).unwrap();
    drop((group, log));
    let (log, _) = open(&files);
    assert_eq!(read_all(&log.group(2).unwrap()), vec![entry(1, 7, 1)]);
    assert_eq!(log.group(1).unwrap().state().last, Some(pos(9, 101)));
}

#[test]
fn a_full_queue_makes_callers_wait() {
    let files = FaultFiles::memory(1);
    let options = LogOptions {
        queue_items: 4,
        ..options()
    };
    let (log, _) = Log::open(Path::new(DIR), options, Arc::new(files)).unwrap();
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let hold: Done = Box::new(move |_| {
        held.send(()).unwrap();
        released.recv().unwrap();
    });
    block_on(log.group(1).unwrap().save_vote(Bytes::new(), hold)).unwrap();
    is_held.recv().unwrap();
    block_on(async {
        let group = log.group(1).unwrap();
        for index in 0..4 {
            group
                .append(vec![entry(1, index, 1)], Box::new(drop))
                .await
                .unwrap();
        }
        let (last, answer) = done();
        let mut waiting = Box::pin(group.append(vec![entry(1, 4, 1)], last));
        let waker = std::task::Waker::noop();
        let poll = waiting
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker));
        assert!(poll.is_pending(), "the fifth waits");
        assert_eq!(group.state().last, Some(pos(1, 3)), "and has no effect yet");
        release.send(()).unwrap();
        waiting.await.unwrap();
        answer.await.unwrap().unwrap();
    });
}

/// A log whose segments are large beside the lists at their heads.
fn open_larger(files: &FaultFiles) -> (Log, Recovery) {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        ..options()
    };
    Log::open(Path::new(DIR), options, Arc::new(files.mount())).unwrap()
}

/// A quiet group leaves an entry in each of many segments that busy traffic fills and purges.
fn quiet_among_busy(log: &Log) -> (Vec<Entry>, Vec<Entry>) {
    let (busy, quiet) = (log.group(1).unwrap(), log.group(2).unwrap());
    let mut kept = Vec::new();
    for index in 0..200 {
        // Terms change on the way, so that their starts have to be right after a move.
        let small = entry(1 + index / 60, index, 40);
        kept.push(small.clone());
        append(&quiet, vec![small]).unwrap();
        append(&busy, vec![entry(1, index, 60_000)]).unwrap();
        if index >= 5 {
            purge(&busy, pos(1, index - 5)).unwrap();
        }
    }
    (kept, (195..200).map(|i| entry(1, i, 60_000)).collect())
}

fn block_on_vacating(log: &Log, live_bytes_max: u64) -> usize {
    let uses = log.segment_uses();
    let small = uses.iter().filter(|used| used.live_bytes <= live_bytes_max);
    let segments: Vec<u64> = small.map(|used| used.segment).collect();
    for segment in &segments {
        block_on(log.vacate(*segment)).unwrap();
    }
    segments.len()
}

#[test]
fn segments_that_hold_little_are_vacated_and_nothing_of_it_is_lost() {
    let files = FaultFiles::memory(1);
    let (log, _) = open_larger(&files);
    let (kept, busy) = quiet_among_busy(&log);
    assert!(log.stats().segments >= 200, "{}", log.stats().segments);
    assert_eq!(log.stats().groups[1].live_bytes, 200 * 74);
    let term_starts = log.group(2).unwrap().term_starts();
    let state = log.group(2).unwrap().state();
    assert!(block_on_vacating(&log, 100) >= 190);
    wait_until("the segments are freed", || log.stats().segments <= 15);
    let check = |log: &Log| {
        assert_eq!(read_all(&log.group(2).unwrap()), kept);
        assert_eq!(read_all(&log.group(1).unwrap()), busy);
        assert_eq!(log.group(2).unwrap().term_starts(), term_starts);
        assert_eq!(log.group(2).unwrap().state(), state);
        assert_eq!(log.stats().groups[1].live_bytes, 200 * 74);
        assert!(log.stats().segments <= 15, "{}", log.stats().segments);
    };
    check(&log);
    drop(log);
    let (log, recovery) = open_larger(&files);
    assert!(recovery.segments <= 15, "{recovery:?}");
    check(&log);

    // Moved once more, and what comes after the moved entries is cut, replaced and purged.
    block_on_vacating(&log, u64::MAX);
    check(&log);
    let quiet = log.group(2).unwrap();
    truncate(&quiet, Some(149)).unwrap();
    append(&quiet, vec![entry(9, 150, 10)]).unwrap();
    block_on_vacating(&log, u64::MAX);
    purge(&quiet, pos(2, 99)).unwrap();
    let mut expected = kept[100..150].to_vec();
    expected.push(entry(9, 150, 10));
    assert_eq!(read_all(&quiet), expected);
    drop((quiet, log));
    let (log, _) = open_larger(&files);
    assert_eq!(read_all(&log.group(2).unwrap()), expected);
    assert_eq!(
        log.group(2).unwrap().term_starts(),
        [pos(2, 99), pos(2, 100), pos(3, 120), pos(9, 150)]
    );
}

#[test]
fn an_entry_that_dies_while_it_is_moved_stays_dead() {
    let files = FaultFiles::memory(1);
    let (log, _) = open_larger(&files);
    let (kept, _) = quiet_among_busy(&log);
    let quiet = log.group(2).unwrap();
    // The writer is held in a callback; the move and what kills its entries queue up behind it.
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let hold: Done = Box::new(move |_| {
        held.send(()).unwrap();
        released.recv().unwrap();
    });
    block_on(
        log.group(3)
            .unwrap()
            .save_vote(Bytes::from_static(b"v"), hold),
    )
    .unwrap();
    is_held.recv().unwrap();
    let first = log.segment_uses()[0].segment;
    let last = log.segment_uses().last().unwrap().segment;
    let moving = [first, last].map(|segment| {
        let log = log.clone();
        std::thread::spawn(move || block_on(log.vacate(segment)))
    });
    let purged = quiet.purge(pos(1, 20), Box::new(drop));
    block_on(purged).unwrap();
    block_on(quiet.truncate_after(Some(150), Box::new(drop))).unwrap();
    release.send(()).unwrap();
    for moved in moving {
        moved.join().unwrap().unwrap();
    }
    assert_eq!(read_all(&quiet), kept[21..=150]);
    drop((quiet, log));
    let (log, _) = open_larger(&files);
    assert_eq!(read_all(&log.group(2).unwrap()), kept[21..=150]);
}
