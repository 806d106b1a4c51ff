//! What the parts of a report show. Whole pages are tested in `tests/evidence`.

use super::*;
use crate::{
    checker::Edge,
    history::{ClientEvent, Event, Kind, Op, What},
};

/// Operations of two processes: 1 writes, then 2 writes without an end.
fn history() -> History {
    let event = |index, process, kind, value| Event {
        index,
        time: index * 1_000_000,
        what: What::Client(ClientEvent {
            process,
            node: process,
            kind,
            op: Op::Write { key: 5, value },
            reply: None,
            error: (kind == Kind::Fail).then(|| "<script>alert(1)</script>".to_owned()),
            last: false,
        }),
    };
    History {
        events: vec![
            event(0, 1, Kind::Invoke, 10),
            event(1, 1, Kind::Fail, 10),
            event(2, 2, Kind::Invoke, 11),
        ],
    }
}

fn anomaly(events: &[u64], edges: &[(u64, u64, &str)]) -> Anomaly {
    Anomaly {
        name: "lost-write".to_owned(),
        explanation: String::new(),
        events: events.to_vec(),
        edges: edges
            .iter()
            .map(|&(from, to, label)| Edge {
                from,
                to,
                label: label.to_owned(),
            })
            .collect(),
    }
}

fn draw(anomaly: &Anomaly) -> String {
    let history = history();
    anomaly::draw(anomaly, &history, &spans(&history)).into_string()
}

#[test]
fn operations_are_drawn_once_with_their_edges() {
    // An operation is named by either of its events, or by an edge alone.
    let svg = draw(&anomaly(&[0, 1], &[(0, 2, "ww"), (2, 0, "a <label>")]));
    assert_eq!(svg.matches("write 5 = 10</text>").count(), 1, "{svg}");
    assert_eq!(svg.matches("write 5 = 11</text>").count(), 1);
    assert_eq!(svg.matches("class=\"bar fail\"").count(), 1);
    assert_eq!(svg.matches("class=\"bar info\"").count(), 1);
    assert_eq!(svg.matches("<path class=\"edge ").count(), 2);
    assert!(svg.contains("url(#head-ww)"));
    assert!(svg.contains(">a &lt;label&gt;</text>"));
    assert!(svg.contains("process 1<") && svg.contains("process 2<"));
    assert!(!svg.contains("<script"));
}

#[test]
fn an_anomaly_of_nothing_is_not_drawn() {
    assert_eq!(draw(&anomaly(&[], &[])), "");
    assert_eq!(draw(&anomaly(&[99], &[(99, 98, "ww")])), "");
}

#[test]
fn the_events_are_told_with_their_errors_escaped() {
    let text = events(&anomaly(&[0, 1, 77], &[]), &history(), 0).into_string();
    assert!(text.contains("write 5 = 10: &lt;script&gt;alert(1)&lt;/script&gt;"));
    assert_eq!(text.matches("<tr>").count(), 3);
    assert!(text.contains("Events that are not shown: 1"));
}
