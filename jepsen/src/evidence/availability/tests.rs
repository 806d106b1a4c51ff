//! Hand-made histories with gaps of known length.

use super::*;
use crate::history::{ClientEvent, Data, Event, FaultEvent, Op, Reply, What};

const MS: u64 = 1_000_000;

/// Builds a history from events at given milliseconds.
#[derive(Default)]
struct Timeline(Vec<(u64, What)>);

impl Timeline {
    /// An operation of a process of its own, since `from` until `to`.
    fn op(mut self, op: &Op, from: u64, to: Option<u64>, kind: Kind) -> Self {
        let process = self.0.len() as u64;
        let mut push = |at, kind| {
            let event = ClientEvent {
                process,
                node: 1,
                kind,
                op: op.clone(),
                reply: (kind == Kind::Ok).then(Reply::default),
                error: None,
                last: false,
            };
            self.0.push((at, What::Client(event)));
        };
        push(from, Kind::Invoke);
        if let Some(to) = to {
            push(to, kind);
        }
        self
    }

    /// Writes that take 1 ms each and end at these times.
    fn writes(self, ends: impl IntoIterator<Item = u64>) -> Self {
        ends.into_iter().fold(self, |timeline, end| {
            timeline.op(&write(end), end - 1, Some(end), Kind::Ok)
        })
    }

    fn fault(mut self, fault: u64, phases: &[(u64, Phase)]) -> Self {
        for &(at, phase) in phases {
            let event = FaultEvent {
                nemesis: "kill-leader".to_owned(),
                fault,
                phase,
                nodes: vec![fault],
                detail: format!("{phase:?}"),
            };
            self.0.push((at, What::Fault(event)));
        }
        self
    }

    fn history(mut self) -> History {
        self.0.sort_by_key(|event| event.0);
        let events = self.0.into_iter().enumerate();
        History {
            events: events
                .map(|(index, (at, what))| Event {
                    index: index as u64,
                    time: at * MS,
                    what,
                })
                .collect(),
        }
    }

    fn measure(self) -> Availability {
        Availability::of(&self.history(), 3)
    }
}

fn write(value: u64) -> Op {
    Op::Write {
        key: 1,
        value: value as i64,
    }
}

fn whole(begin: u64, broken: u64, heal: u64, healed: u64) -> [(u64, Phase); 4] {
    [
        (begin, Phase::Begin),
        (broken, Phase::Broken),
        (heal, Phase::Heal),
        (healed, Phase::Healed),
    ]
}

#[test]
fn the_longest_gap_counts_from_the_begin() {
    let measured = Timeline::default()
        .writes((10..=1_000).step_by(10))
        .fault(1, &whole(1_005, 1_020, 3_000, 3_100))
        .writes([1_010])
        .writes((2_410..=9_000).step_by(10))
        .measure();
    let fault = &measured.faults[0];
    // From the last success after the begin, at 1,010, to the next one, at 2,410.
    assert_eq!(fault.rto_ns, Some(1_400 * MS));
    assert_eq!(fault.first_write_ns, Some((2_410 - 1_020) * MS));
    assert_eq!(fault.window_end_ns, 8_100 * MS);
    assert!(!fault.rto_open);
    assert_eq!(fault.nodes, [1]);
    assert_eq!(fault.steps, ["Begin", "Broken", "Heal", "Healed"]);
    assert_eq!(measured.rto_max_ns, Some(1_400 * MS));

    // No success after the begin: the gap is counted from the begin, not from the success before.
    let measured = Timeline::default()
        .writes([500])
        .fault(1, &whole(1_000, 1_020, 3_000, 3_100))
        .writes((2_000..=9_000).step_by(10))
        .measure();
    assert_eq!(measured.faults[0].rto_ns, Some(1_000 * MS));
}

#[test]
fn only_writes_that_succeed_end_a_gap() {
    let read = Op::Read {
        key: 1,
        serializable: false,
    };
    let measured = Timeline::default()
        .writes([900])
        .fault(1, &whole(1_000, 1_010, 3_000, 3_100))
        .op(&read, 1_100, Some(1_200), Kind::Ok)
        .op(&write(1), 1_100, Some(1_300), Kind::Fail)
        .op(&write(2), 1_100, Some(1_400), Kind::Info)
        .op(
            &Op::Txn {
                steps: vec![crate::history::Step::Read { key: 1 }],
            },
            1_100,
            Some(1_500),
            Kind::Ok,
        )
        // Begun before it was broken: it ends the gap, but is not the first write after.
        .op(&write(3), 1_005, Some(1_700), Kind::Ok)
        .writes((1_750..=9_000).step_by(10))
        .measure();
    assert_eq!(measured.faults[0].rto_ns, Some(700 * MS));
    assert_eq!(measured.faults[0].first_write_ns, Some(740 * MS));
}

#[test]
fn the_window_ends_with_the_grace_the_next_fault_or_the_load() {
    let steady = || Timeline::default().writes((10..=20_000).step_by(10));
    let end = |timeline: Timeline| timeline.measure().faults[0].window_end_ns / MS;
    assert_eq!(
        end(steady().fault(1, &whole(1_000, 1_001, 2_000, 2_001))),
        7_001
    );
    let two = steady()
        .fault(1, &whole(1_000, 1_001, 2_000, 2_001))
        .fault(2, &whole(4_000, 4_001, 5_000, 5_001));
    assert_eq!(end(two), 4_000);
    // A fault that begins before this one has healed does not end its window.
    let overlapping = steady()
        .fault(1, &whole(1_000, 1_001, 2_000, 2_001))
        .fault(2, &whole(1_500, 1_501, 5_000, 5_001));
    assert_eq!(end(overlapping), 7_001);
    // Nor does one that was skipped.
    let skipped = steady()
        .fault(1, &whole(1_000, 1_001, 2_000, 2_001))
        .fault(2, &[(4_000, Phase::Begin), (4_000, Phase::Skipped)]);
    assert_eq!(end(skipped), 7_001);
    assert_eq!(
        end(steady().fault(1, &whole(18_000, 18_001, 19_000, 19_001))),
        20_000
    );
    assert_eq!(
        end(steady().fault(1, &[(1_000, Phase::Begin), (1_001, Phase::Broken)])),
        20_000
    );
}

#[test]
fn a_gap_that_does_not_end_is_open() {
    let measured = Timeline::default()
        .writes((10..=1_000).step_by(10))
        .fault(1, &whole(1_000, 1_010, 3_000, 3_100))
        .op(&write(1), 1_500, Some(6_000), Kind::Info)
        .measure();
    let fault = &measured.faults[0];
    assert_eq!((fault.rto_ns, fault.rto_open), (Some(5_000 * MS), true));
    assert_eq!(fault.first_write_ns, None);
}

#[test]
fn nothing_is_measured_without_a_fault_or_without_writes() {
    let skipped = Timeline::default()
        .writes((10..=9_000).step_by(10))
        .fault(1, &[(1_000, Phase::Begin), (1_001, Phase::Skipped)])
        .measure();
    assert_eq!(skipped.faults[0].skipped.as_deref(), Some("Skipped"));
    assert!(!skipped.faults[0].applied());
    assert_eq!((skipped.faults[0].rto_ns, skipped.rto_max_ns), (None, None));
    // A fault that has had no effect costs nothing, and ends nobody's window.
    let nothing = [
        (4_000, Phase::Begin),
        (4_001, Phase::Broken),
        (4_002, Phase::Disproved),
        (5_000, Phase::Heal),
        (5_001, Phase::Healed),
    ];
    let disproved = Timeline::default()
        .writes((10..=20_000).step_by(10))
        .fault(1, &whole(1_000, 1_001, 2_000, 2_001))
        .fault(2, &nothing)
        .measure();
    assert_eq!(disproved.faults[0].window_end_ns, 7_001 * MS);
    assert!(!disproved.faults[1].applied());
    assert_eq!(disproved.faults[1].rto_ns, None);
    let read = Op::ReadAccounts;
    let reads = Timeline::default()
        .op(&read, 10, Some(9_000), Kind::Ok)
        .fault(1, &whole(1_000, 1_001, 2_000, 2_001))
        .measure();
    assert_eq!(reads.faults[0].rto_ns, None);
}

#[test]
fn operations_are_counted_and_timed() {
    let mut timeline = Timeline::default();
    for latency in 1..=100 {
        timeline = timeline.op(&write(latency), 1_000, Some(1_000 + latency), Kind::Ok);
    }
    let measured = timeline
        .op(&write(0), 1_000, Some(1_500), Kind::Fail)
        .op(&write(0), 1_000, Some(3_000), Kind::Info)
        .op(&write(0), 1_000, None, Kind::Info)
        .measure();
    assert_eq!(measured.load_ns, 2_000 * MS);
    let write = &measured.operations["write"];
    assert_eq!(
        (write.invoked, write.ok, write.fail, write.info),
        (103, 100, 1, 2)
    );
    assert_eq!(write.p50_ns, Some(50 * MS));
    assert_eq!(write.p99_ns, Some(99 * MS));
    assert_eq!(write.max_ns, Some(100 * MS));
    assert!((write.ok_per_second - 50.0).abs() < 1e-9);
    assert_eq!(measured.operations.len(), 1);
}

#[test]
fn final_reads_are_no_part_of_the_load() {
    let mut history = Timeline::default().writes([10, 20]).history();
    for (index, kind) in [(4, Kind::Invoke), (5, Kind::Ok)] {
        history.events.push(Event {
            index,
            time: 10_000 * MS,
            what: What::Client(ClientEvent {
                process: 99,
                node: 1,
                kind,
                op: Op::ReadChain { key: 1 },
                reply: Some(Reply {
                    revision: 1,
                    data: Data::Chain(vec![]),
                }),
                error: None,
                last: true,
            }),
        });
    }
    let measured = Availability::of(&history, 3);
    assert_eq!(measured.load_ns, 11 * MS);
    assert_eq!(measured.operations.keys().collect::<Vec<_>>(), ["write"]);
}

/// One fault that takes these nodes.
fn kill(timeline: Timeline, fault: u64, nodes: &[NodeId], phases: &[(u64, Phase)]) -> Timeline {
    let mut timeline = timeline.fault(fault, phases);
    for (_, what) in &mut timeline.0 {
        if let What::Fault(event) = what
            && event.fault == fault
        {
            event.nodes = nodes.to_vec();
        }
    }
    timeline
}

#[test]
fn time_without_a_quorum_stands_apart() {
    // Two of three nodes are down for 4 s. They write again 600 ms after they are back.
    let timeline = Timeline::default().writes((10..=1_000).step_by(10));
    let timeline = kill(timeline, 1, &[1, 3], &whole(1_005, 1_020, 5_000, 5_005));
    let measured = timeline.writes((5_605..=12_000).step_by(10)).measure();
    assert_eq!(measured.rto_max_ns, Some(600 * MS));
    assert_eq!(measured.faults[0].rto_ns, Some(600 * MS));
    assert!(!measured.faults[0].rto_open);
    assert_eq!(measured.without_quorum_ns, 4_000 * MS);
    // The same with one of them down is an outage that can be survived.
    let timeline = Timeline::default().writes((10..=1_000).step_by(10));
    let timeline = kill(timeline, 1, &[3], &whole(1_005, 1_020, 5_000, 5_005));
    let measured = timeline.writes((5_605..=12_000).step_by(10)).measure();
    assert_eq!(measured.rto_max_ns, Some(4_600 * MS));
    assert_eq!(measured.without_quorum_ns, 0);
    // Two faults together take what neither takes alone.
    let timeline = Timeline::default().writes((10..=1_000).step_by(10));
    let timeline = kill(timeline, 1, &[3], &whole(1_005, 1_020, 5_000, 5_005));
    let timeline = kill(timeline, 2, &[1], &whole(1_205, 1_220, 3_000, 3_005));
    let measured = timeline.writes((3_105..=12_000).step_by(10)).measure();
    assert_eq!(measured.without_quorum_ns, 1_800 * MS);
    // 200 ms until the second fault, 100 ms when it is healed.
    assert_eq!(measured.faults[0].rto_ns, Some(200 * MS));
    assert!(measured.faults[0].rto_open);
    assert_eq!(measured.rto_max_ns, Some(200 * MS));
}

#[test]
fn an_outage_belongs_to_one_fault() {
    // The second fault begins while the first one still holds, and stops the writes.
    let timeline = Timeline::default().writes((10..=2_000).step_by(10));
    let timeline = kill(timeline, 1, &[1], &whole(1_000, 1_010, 6_000, 6_010));
    let timeline = kill(timeline, 2, &[1], &whole(2_005, 2_010, 5_000, 5_010));
    let measured = timeline.writes((3_505..=14_000).step_by(10)).measure();
    let rto = |at: usize| measured.faults[at].rto_ns.unwrap();
    assert_eq!(rto(1), 1_500 * MS);
    assert!(rto(0) <= 10 * MS, "{}", rto(0));
    assert_eq!(measured.rto_max_ns, Some(1_500 * MS));
}

#[test]
fn an_outage_outside_of_all_windows_counts_for_the_run() {
    let timeline = Timeline::default().writes((10..=9_000).step_by(10));
    let timeline = kill(timeline, 1, &[1], &whole(1_000, 1_010, 2_000, 2_010));
    // The window ends at 7,010; for no reason there is no write from 9,000 to 9,900.
    let measured = timeline.writes((9_900..=14_000).step_by(10)).measure();
    assert_eq!(measured.faults[0].rto_ns, Some(10 * MS));
    assert_eq!(measured.rto_max_ns, Some(900 * MS));
}
