//! What is recorded is read back; what is damaged is told apart.

use std::{fs, sync::Arc};

use super::*;
use crate::history::{ClientEvent, Data, Op, Reply, Step, Value, Version};

fn client(process: u64, kind: Kind, op: Op, reply: Option<Reply>) -> What {
    What::Client(ClientEvent {
        process,
        node: 1,
        kind,
        op,
        reply,
        error: (kind == Kind::Info).then(|| "timed out after 1 s: \"deadline\"\n".to_owned()),
        last: false,
    })
}

fn samples() -> Vec<What> {
    let version = Version {
        value: Value::List(vec![1, -2]),
        create: 3,
        modified: 9,
        version: 4,
    };
    let txn = Op::Txn {
        steps: vec![Step::Append { key: 1, value: 7 }, Step::Read { key: 1 }],
    };
    let read = Op::Read {
        key: 4,
        serializable: true,
    };
    let reply = |data| Some(Reply { revision: 12, data });
    let mut samples = vec![
        client(1, Kind::Invoke, txn.clone(), None),
        client(
            1,
            Kind::Ok,
            txn,
            reply(Data::Steps(vec![None, Some(vec![7])])),
        ),
        client(2, Kind::Invoke, read.clone(), None),
        client(2, Kind::Info, read.clone(), None),
    ];
    for data in [
        Data::None,
        Data::Version(None),
        Data::Version(Some(version.clone())),
        Data::Versions(vec![(4, version.clone())]),
        Data::Chain(vec![version]),
        Data::Count(1),
    ] {
        samples.push(client(3, Kind::Invoke, read.clone(), None));
        samples.push(client(3, Kind::Ok, read.clone(), reply(data)));
    }
    for phase in [Phase::Begin, Phase::Broken] {
        samples.push(What::Fault(FaultEvent {
            nemesis: "kill-leader".to_owned(),
            fault: 1,
            phase,
            nodes: vec![2],
            detail: "node 2".to_owned(),
        }));
    }
    samples
}

#[test]
fn what_is_recorded_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    for (index, what) in samples().into_iter().enumerate() {
        assert_eq!(recorder.record(what), index as u64);
    }
    assert_eq!(
        recorder.counts(),
        Counts {
            invoked: 8,
            ok: 7,
            fail: 0,
            info: 1
        }
    );
    assert_eq!(recorder.present_faults()[0].phase, Phase::Broken);
    let history = recorder.finish().unwrap();
    assert_eq!(history.events.len(), samples().len());
    history.operations().unwrap();
    assert_eq!(read(&path).unwrap(), history);
    // The lines are what serde makes of the events.
    for (line, event) in fs::read_to_string(&path)
        .unwrap()
        .lines()
        .zip(&history.events)
    {
        assert_eq!(line, serde_json::to_string(event).unwrap());
    }
    // A straggler is dropped, from the memory and from the file.
    recorder.record(samples().remove(0));
    assert_eq!(recorder.finish().unwrap().events.len(), 0);
    drop(recorder);
    assert_eq!(read(&path).unwrap(), history);
}

#[test]
fn many_threads_record_in_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let recorder = Arc::new(Recorder::create(&path).unwrap());
    std::thread::scope(|scope| {
        for process in 0..8 {
            let recorder = &recorder;
            scope.spawn(move || {
                for value in 0..500 {
                    let op = Op::Write {
                        key: process,
                        value,
                    };
                    recorder.record(client(process, Kind::Invoke, op.clone(), None));
                    recorder.record(client(process, Kind::Ok, op, Some(Reply::default())));
                }
            });
        }
    });
    let history = recorder.finish().unwrap();
    assert_eq!(history.operations().unwrap().len(), 4000);
    assert_eq!(read(&path).unwrap(), history);
}

#[test]
fn events_reach_the_file_while_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    for what in samples() {
        recorder.record(what);
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_to_string(&path).unwrap().lines().count() < samples().len() {
        assert!(Instant::now() < deadline, "the flusher wrote nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(recorder);
    assert_eq!(read(&path).unwrap().events.len(), samples().len());
}

#[test]
fn a_file_that_exists_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    fs::write(&path, "precious").unwrap();
    assert!(Recorder::create(&path).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

/// Two lines of a good history.
fn two_lines() -> String {
    samples()
        .into_iter()
        .take(2)
        .enumerate()
        .map(|(index, what)| {
            let event = Event {
                index: index as u64,
                time: 5,
                what,
            };
            serde_json::to_string(&event).unwrap() + "\n"
        })
        .collect()
}

#[test]
fn a_history_cut_off_anywhere_in_its_last_line_is_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let text = two_lines();
    let first = text.find('\n').unwrap() + 1;
    // Without its newline the last line is still whole.
    for cut in first + 1..text.len() - 1 {
        fs::write(&path, &text[..cut]).unwrap();
        match read(&path) {
            Err(ReadError::Truncated {
                line: 2,
                complete: 1,
                ..
            }) => {}
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "history.jsonl: the history is truncated at line 2; 1 complete events precede it"
        ),
        "{error}"
    );
    let (history, cut) = read_prefix(&path).unwrap();
    assert_eq!((history.events.len(), cut), (1, Some(2)));
    fs::write(&path, &text[..text.len() - 1]).unwrap();
    assert_eq!(read(&path).unwrap().events.len(), 2);
    fs::write(&path, &text[..10]).unwrap();
    assert!(matches!(
        read_prefix(&path),
        Err(ReadError::Truncated { complete: 0, .. })
    ));
}

#[test]
fn damage_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    assert!(matches!(read(&path), Err(ReadError::Io { .. })));

    fs::write(&path, "").unwrap();
    assert!(matches!(read(&path), Err(ReadError::Empty { .. })));

    let text = two_lines();
    fs::write(&path, text.clone() + "{\"index\":2}\n").unwrap();
    let error = read(&path).unwrap_err();
    assert!(
        matches!(error, ReadError::Json { line: 3, .. }),
        "{error:?}"
    );

    fs::write(&path, format!("{text}\n")).unwrap();
    assert!(matches!(read(&path), Err(ReadError::Json { line: 3, .. })));

    let second = text.lines().nth(1).unwrap();
    fs::write(&path, format!("{second}\n")).unwrap();
    assert!(matches!(
        read(&path),
        Err(ReadError::Index {
            line: 1,
            expected: 0,
            found: 1,
            ..
        })
    ));
    fs::write(&path, format!("{text}{second}\n")).unwrap();
    assert!(matches!(
        read(&path),
        Err(ReadError::Index {
            line: 3,
            expected: 2,
            found: 1,
            ..
        })
    ));
}
