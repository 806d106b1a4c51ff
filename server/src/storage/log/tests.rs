//! Tests of the log.

mod crash;
mod damage;
mod dropped;
mod space;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::files::{Crash, FaultFiles};
use super::{Done, Entry, GroupLog, GroupState, Log, LogOptions, LogPos, OpenError, Recovery};

const DIR: &str = "/log";

/// Small segments, and no timer that fires by itself.
fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 4 << 10,
        batch_bytes: 16 << 10,
        cache_bytes: 2 << 10,
        lazy_delay: Duration::from_secs(3600),
        ..LogOptions::default()
    }
}

fn open(files: &FaultFiles) -> (Log, Recovery) {
    Log::open(Path::new(DIR), options(), Arc::new(files.mount())).unwrap()
}

fn done() -> (Done, oneshot::Receiver<io::Result<()>>) {
    let (tx, rx) = oneshot::channel();
    (Box::new(move |result| drop(tx.send(result))), rx)
}

fn entry(term: u64, index: u64, len: usize) -> Entry {
    let payload: Vec<u8> = (0..len)
        .map(|at| (term * 31 + index * 7 + at as u64) as u8)
        .collect();
    Entry {
        term,
        index,
        kind: (index % 5) as u8,
        payload: payload.into(),
    }
}

fn pos(term: u64, index: u64) -> LogPos {
    LogPos { term, index }
}

/// Waits for a condition that another thread brings about.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Appends and waits until it is durable.
fn append(log: &GroupLog, entries: Vec<Entry>) -> io::Result<()> {
    let (done, answer) = done();
    block_on(log.append(entries, done))?;
    answer.blocking_recv().unwrap()
}

fn vote(log: &GroupLog, vote: &'static str) -> io::Result<()> {
    let (done, answer) = done();
    block_on(log.save_vote(Bytes::from_static(vote.as_bytes()), done))?;
    answer.blocking_recv().unwrap()
}

fn truncate(log: &GroupLog, keep: Option<u64>) -> io::Result<()> {
    let (done, answer) = done();
    block_on(log.truncate_after(keep, done))?;
    answer.blocking_recv().unwrap()
}

fn purge(log: &GroupLog, pos: LogPos) -> io::Result<()> {
    let (done, answer) = done();
    block_on(log.purge(pos, done))?;
    answer.blocking_recv().unwrap()
}

fn read_all(log: &GroupLog) -> Vec<Entry> {
    log.read(0..u64::MAX, usize::MAX).unwrap()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_settled_group_has_on_disk_what_was_accepted_though_nobody_waited_for_it() {
    let files = FaultFiles::memory(1);
    let mut next = 0;
    for round in 0..30 {
        let (log, _) = open(&files);
        let group = log.group(1).unwrap();
        for index in next..next + round {
            block_on(group.append(vec![entry(1, index, 300)], done().0)).unwrap();
            block_on(group.save_vote(Bytes::from(vec![index as u8]), done().0)).unwrap();
        }
        next += round;
        let accepted = group.state();
        block_on(group.settle()).unwrap();
        files.crash(Crash::LoseUnsynced).unwrap();
        drop((log, group));
        let (log, _) = open(&files);
        assert_eq!(log.group(1).unwrap().state(), accepted, "round {round}");
        log.close();
        assert!(block_on(log.group(1).unwrap().settle()).is_err());
    }
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let files = FaultFiles::memory(1);
    let (log, recovery) = open(&files);
    assert!(recovery.created);
    let (a, b) = (log.group(1).unwrap(), log.group(2).unwrap());
    append(&a, (1..=5).map(|i| entry(1, i, 20)).collect()).unwrap();
    append(&b, vec![entry(3, 0, 0)]).unwrap();
    vote(&b, "node 3 in term 3").unwrap();
    truncate(&a, Some(3)).unwrap();
    append(&a, vec![entry(2, 4, 9)]).unwrap();
    purge(&a, pos(1, 1)).unwrap();
    a.save_committed(Bytes::from_static(b"4")).unwrap();
    let (state_a, state_b) = (a.state(), b.state());
    drop((log, a, b));

    let (log, recovery) = open(&files);
    assert!(!recovery.created);
    assert_eq!(recovery.torn, None);
    let (a, b) = (log.group(1).unwrap(), log.group(2).unwrap());
    assert_eq!((a.state(), b.state()), (state_a, state_b));
    assert_eq!(a.state().committed.as_deref(), Some(&b"4"[..]));
    assert_eq!(
        read_all(&a),
        vec![entry(1, 2, 20), entry(1, 3, 20), entry(2, 4, 9)]
    );
    assert_eq!(a.term_starts(), vec![pos(1, 1), pos(1, 2), pos(2, 4)]);
    assert_eq!(
        (0..6).map(|i| a.term_of(i)).collect::<Vec<_>>(),
        [None, Some(1), Some(1), Some(1), Some(2), None]
    );
    assert_eq!(read_all(&b), vec![entry(3, 0, 0)]);
}
