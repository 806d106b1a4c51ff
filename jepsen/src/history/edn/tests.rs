//! The lines that Jepsen's checkers are given, operation by operation.

use super::*;
use crate::history::Version;

fn history(whats: Vec<What>) -> History {
    History {
        events: whats
            .into_iter()
            .enumerate()
            .map(|(index, what)| Event {
                index: index as u64,
                time: 10 * index as u64,
                what,
            })
            .collect(),
    }
}

fn event(kind: Kind, op: &Op, data: Option<Data>) -> ClientEvent {
    ClientEvent {
        process: 3,
        node: 1,
        kind,
        op: op.clone(),
        reply: data.map(|data| Reply { revision: 9, data }),
        error: None,
        last: false,
    }
}

/// The lines of an operation that ends so, without index, time and process.
fn lines(op: &Op, kind: Kind, data: Option<Data>) -> [String; 2] {
    let text = write_string(&history(vec![
        What::Client(event(Kind::Invoke, op, None)),
        What::Client(event(kind, op, data)),
    ]));
    let mut lines = text.lines().enumerate().map(|(index, line)| {
        let start = format!("{{:index {index} :time {} :process 3 :type :", 10 * index);
        line.strip_prefix(&start)
            .unwrap_or_else(|| panic!("{line}"))
            .strip_suffix('}')
            .unwrap()
            .to_owned()
    });
    [lines.next().unwrap(), lines.next().unwrap()]
}

fn write_string(history: &History) -> String {
    let mut out = Vec::new();
    write(history, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn version(value: Value, version: i64) -> Version {
    Version {
        value,
        create: 2,
        modified: 7,
        version,
    }
}

fn number(number: i64) -> Version {
    version(Value::Number(number), 1)
}

#[test]
fn registers() {
    let read = Op::Read {
        key: 5,
        serializable: false,
    };
    assert_eq!(
        lines(&read, Kind::Ok, Some(Data::Version(Some(number(17))))),
        [
            "invoke :f :read :value [5 nil]",
            "ok :f :read :value [5 17]"
        ]
    );
    assert_eq!(
        lines(&read, Kind::Ok, Some(Data::Version(None)))[1],
        "ok :f :read :value [5 :absent]"
    );
    assert_eq!(
        lines(&Op::Write { key: 5, value: -1 }, Kind::Ok, Some(Data::None)),
        [
            "invoke :f :write :value [5 -1]",
            "ok :f :write :value [5 -1]"
        ]
    );
    assert_eq!(
        lines(&Op::Delete { key: 5 }, Kind::Ok, Some(Data::Count(1))),
        [
            "invoke :f :write :value [5 :absent]",
            "ok :f :write :value [5 :absent]"
        ]
    );
    let cas = Op::Cas {
        key: 5,
        old: 17,
        new: 18,
    };
    assert_eq!(
        lines(&cas, Kind::Fail, Some(Data::Version(Some(number(16))))),
        [
            "invoke :f :cas :value [5 [17 18]]",
            "fail :f :cas :value [5 [17 18]]"
        ]
    );
    let stale = Op::Read {
        key: 5,
        serializable: true,
    };
    assert_eq!(
        lines(&stale, Kind::Info, None),
        [
            "invoke :f :read :value [5 nil] :serializable true",
            "info :f :read :value [5 nil] :serializable true"
        ]
    );
}

#[test]
fn transactions_on_lists() {
    let txn = Op::Txn {
        steps: vec![
            Step::Append { key: 1, value: 3 },
            Step::Read { key: 1 },
            Step::Read { key: 2 },
        ],
    };
    let seen = Data::Steps(vec![None, Some(vec![1, 3]), Some(vec![])]);
    assert_eq!(
        lines(&txn, Kind::Ok, Some(seen)),
        [
            "invoke :f :txn :value [[:append 1 3] [:r 1 nil] [:r 2 nil]]",
            "ok :f :txn :value [[:append 1 3] [:r 1 [1 3]] [:r 2 []]]"
        ]
    );
}

#[test]
fn sets_are_tuples_only_if_there_are_several() {
    let add = Op::Add { set: 0, element: 8 };
    assert_eq!(
        lines(&add, Kind::Ok, Some(Data::None)),
        ["invoke :f :add :value 8", "ok :f :add :value 8"]
    );
    let read = Op::ReadSet { set: 0 };
    let elements = Data::Versions(vec![(3, number(3)), (8, number(8))]);
    assert_eq!(
        lines(&read, Kind::Ok, Some(elements.clone())),
        ["invoke :f :read :value nil", "ok :f :read :value #{3 8}"]
    );
    let other = Op::Add { set: 1, element: 9 };
    let text = write_string(&history(vec![
        What::Client(event(Kind::Invoke, &other, None)),
        What::Client(event(Kind::Ok, &read, Some(elements))),
    ]));
    assert_eq!(
        text,
        "{:index 0 :time 0 :process 3 :type :invoke :f :add :value [1 9]}\n\
         {:index 1 :time 10 :process 3 :type :ok :f :read :value [0 #{3 8}]}\n"
    );
}

#[test]
fn banks() {
    let transfer = Op::Transfer {
        from: 0,
        to: 1,
        amount: 3,
    };
    let before = Data::Versions(vec![(0, number(13)), (1, number(4))]);
    assert_eq!(
        lines(&transfer, Kind::Ok, Some(before)),
        [
            "invoke :f :transfer :value {:from 0 :to 1 :amount 3}",
            "ok :f :transfer :value {:from 0 :to 1 :amount 3}"
        ]
    );
    let after = Data::Versions(vec![(0, number(10)), (1, number(7))]);
    assert_eq!(
        lines(&Op::ReadAccounts, Kind::Ok, Some(after)),
        [
            "invoke :f :read :value nil",
            "ok :f :read :value {0 10, 1 7}"
        ]
    );
}

#[test]
fn counters_count_versions() {
    let increment = Op::Increment { key: 2, id: 77 };
    let before = Data::Version(Some(version(Value::Number(76), 4)));
    assert_eq!(
        lines(&increment, Kind::Ok, Some(before.clone())),
        ["invoke :f :add :value 1", "ok :f :add :value 1"]
    );
    let read = Op::ReadCounter { key: 2 };
    assert_eq!(
        lines(&read, Kind::Ok, Some(before)),
        ["invoke :f :read :value nil", "ok :f :read :value 4"]
    );
    assert_eq!(
        lines(&read, Kind::Ok, Some(Data::Version(None)))[1],
        "ok :f :read :value 0"
    );
    let text = write_string(&history(vec![
        What::Client(event(Kind::Invoke, &increment, None)),
        What::Client(event(Kind::Invoke, &Op::ReadCounter { key: 3 }, None)),
    ]));
    assert!(text.contains(":value [2 1]}"), "{text}");
    assert!(text.contains(":value [3 nil]}"), "{text}");
}

#[test]
fn faults_and_errors() {
    let fault = FaultEvent {
        nemesis: "kill,leader".to_owned(),
        fault: 4,
        phase: Phase::Broken,
        nodes: vec![2, 3],
        detail: "node 2 \"a\\b\"\n\u{1}".to_owned(),
    };
    let mut failed = event(Kind::Fail, &Op::Write { key: 1, value: 2 }, None);
    failed.error = Some("no leader".to_owned());
    failed.last = true;
    let chain = event(Kind::Invoke, &Op::ReadChain { key: 1 }, None);
    let text = write_string(&history(vec![
        What::Fault(fault),
        What::Client(chain),
        What::Client(failed),
    ]));
    assert_eq!(
        text,
        concat!(
            "{:index 0 :time 0 :process :nemesis :type :info :f :kill-leader ",
            ":value \"broken: node 2 \\\"a\\\\b\\\"\\n\\u0001\" :fault 4 :phase :broken :nodes [2 3]}\n",
            "{:index 2 :time 20 :process 3 :type :fail :f :write :value [1 2] :final? true ",
            ":error \"no leader\"}\n",
        )
    );
}

#[test]
fn an_answer_of_another_operation_is_not_ok() {
    let read = Op::Read {
        key: 5,
        serializable: false,
    };
    assert_eq!(
        lines(&read, Kind::Ok, Some(Data::Count(1)))[1],
        "info :f :read :value [5 nil] :error \"the answer is of another operation\""
    );
}
