//! Histories of a cluster and the news they make.

use holdfast_proto::v1::Group as GroupReport;

use std::time::Duration;

use super::*;

struct Story {
    start: Instant,
    view: View,
}

impl Story {
    fn new() -> Story {
        let start = Instant::now();
        Story {
            start,
            view: View::new(start, [1, 2, 3]),
        }
    }

    fn at(&mut self, ms: u64, observation: Observation) -> Vec<News> {
        self.view
            .observe(self.start + Duration::from_millis(ms), observation)
    }

    /// All started at 0, node 1 leads both groups in term 1 from 200 ms on, ready at 210 ms.
    fn running() -> Story {
        let mut story = Story::new();
        for node in 1..=3 {
            assert_eq!(story.at(0, Observation::Started(node)), []);
        }
        for node in 1..=3 {
            story.at(200, report(node, 1, 1));
        }
        assert!(story.view.was_ready());
        story
    }
}

/// Both groups as a node sees them.
fn report(node: u64, leader: u64, term: u64) -> Observation {
    Observation::Report(node, response(leader, term))
}

fn response(leader: u64, term: u64) -> GroupsResponse {
    let group = |id, keyspace: &str| GroupReport {
        id,
        keyspace: keyspace.to_owned(),
        leader,
        term,
        ..GroupReport::default()
    };
    GroupsResponse {
        groups: vec![group(1, "system"), group(2, "default")],
        ..GroupsResponse::default()
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn leader(keyspace: &str, node: u64, term: u64, took: Option<u64>) -> News {
    News::Leader {
        keyspace: keyspace.to_owned(),
        node,
        term,
        took: took.map(ms),
    }
}

#[test]
fn a_cluster_comes_up_and_is_ready_once() {
    let mut story = Story::new();
    for node in 1..=3 {
        assert_eq!(story.at(node, Observation::Started(node)), []);
    }
    assert_eq!(story.at(100, report(1, 0, 0)), [], "no leader yet");
    assert_eq!(
        story.at(310, report(2, 1, 1)),
        [News::NodeUp {
            node: 2,
            took: ms(308)
        }],
        "hearsay makes no leader"
    );
    assert_eq!(
        story.at(320, report(1, 1, 1)),
        [
            News::NodeUp {
                node: 1,
                took: ms(319)
            },
            leader("system", 1, 1, Some(320)),
            leader("default", 1, 1, Some(320)),
        ]
    );
    assert_eq!(
        story.at(330, report(3, 1, 1)),
        [
            News::NodeUp {
                node: 3,
                took: ms(327)
            },
            News::Ready { took: ms(330) }
        ]
    );
    assert_eq!(story.at(340, report(3, 1, 1)), []);
    assert_eq!(story.view.leader("default"), Some(1));
    assert_eq!(story.view.leaders(), [Some(1), Some(1)]);
}

#[test]
fn a_cluster_without_the_default_keyspace_is_not_ready() {
    let mut story = Story::new();
    for node in 1..=3 {
        story.at(0, Observation::Started(node));
    }
    for node in 1..=3 {
        let mut response = response(1, 1);
        response.groups.truncate(1);
        story.at(10, Observation::Report(node, response));
    }
    assert!(!story.view.was_ready());
    for node in 1..=3 {
        story.at(20, report(node, 1, 1));
    }
    assert!(story.view.was_ready());
}

#[test]
fn the_loss_of_a_leader_counts_until_another_says_that_it_leads() {
    let mut story = Story::running();
    assert_eq!(
        story.at(
            1_000,
            Observation::Exited(1, "killed by SIGKILL".to_owned())
        ),
        [News::NodeLost {
            node: 1,
            why: "killed by SIGKILL".to_owned(),
            led: vec!["system".to_owned(), "default".to_owned()]
        }]
    );
    assert_eq!(story.view.leader("default"), None);
    assert_eq!(
        story.at(1_100, report(2, 1, 1)),
        [],
        "a dead leader leads nothing"
    );
    assert_eq!(
        story.at(1_150, report(1, 1, 1)),
        [],
        "the last words of the dead"
    );
    assert_eq!(story.at(1_300, report(3, 2, 2)), []);
    assert_eq!(
        story.at(1_310, report(2, 2, 2)),
        [
            leader("system", 2, 2, Some(310)),
            leader("default", 2, 2, Some(310))
        ]
    );
    assert_eq!(story.at(4_000, Observation::Started(1)), []);
    assert!(!story.view.serves(1));
    assert_eq!(
        story.at(4_200, report(1, 2, 2)),
        [News::NodeBack {
            node: 1,
            away: ms(3_200),
            started: Some(ms(200))
        }]
    );
    assert!(story.view.serves(1));
}

#[test]
fn a_follower_that_dies_costs_no_leader() {
    let mut story = Story::running();
    let news = story.at(1_000, Observation::Exited(3, "exit code 1".to_owned()));
    assert_eq!(
        news,
        [News::NodeLost {
            node: 3,
            why: "exit code 1".to_owned(),
            led: vec![]
        }]
    );
    assert_eq!(story.view.leaders(), [Some(1), Some(1)]);
}

#[test]
fn leadership_that_is_handed_over_has_no_duration() {
    let mut story = Story::running();
    assert_eq!(
        story.at(500, report(2, 2, 2)),
        [leader("system", 2, 2, None), leader("default", 2, 2, None)],
        "the higher term counts, whatever the old leader believes"
    );
    assert_eq!(story.at(510, report(1, 2, 2)), []);
}

#[test]
fn a_leader_that_steps_down_is_told_and_the_gap_is_measured() {
    let mut story = Story::running();
    let gone = |keyspace: &str| News::NoLeader {
        keyspace: keyspace.to_owned(),
        node: 1,
    };
    assert_eq!(
        story.at(500, report(1, 0, 2)),
        [gone("system"), gone("default")]
    );
    assert_eq!(
        story.at(740, report(3, 3, 3)),
        [
            leader("system", 3, 3, Some(240)),
            leader("default", 3, 3, Some(240))
        ]
    );
}

#[test]
fn a_stopped_process_is_lost_and_back_without_a_new_start() {
    let mut story = Story::running();
    let news = story.at(1_000, Observation::Silent(1));
    assert!(
        matches!(&news[..], [News::NodeLost { node: 1, led, .. }] if led.len() == 2),
        "{news:?}"
    );
    assert_eq!(story.at(1_100, Observation::Silent(1)), [], "told once");
    story.at(1_400, report(2, 2, 2));
    assert_eq!(
        story.at(6_000, report(1, 2, 2)),
        [News::NodeBack {
            node: 1,
            away: ms(5_000),
            started: None
        }]
    );
    story.at(7_000, Observation::Silent(1));
    story.at(
        7_500,
        Observation::Exited(1, "killed by SIGKILL".to_owned()),
    );
    story.at(8_000, Observation::Started(1));
    assert_eq!(
        story.at(8_100, report(1, 2, 2)),
        [News::NodeBack {
            node: 1,
            away: ms(1_100),
            started: Some(ms(100))
        }],
        "away since it fell silent"
    );
}

#[test]
fn a_node_that_stays_out_says_why_and_does_not_count() {
    let mut story = Story::new();
    for node in 1..=3 {
        story.at(0, Observation::Started(node));
    }
    story.at(100, report(1, 1, 1));
    story.at(100, report(2, 1, 1));
    let out = GroupsResponse {
        stays_out_because: "its memory is lost".to_owned(),
        ..response(1, 1)
    };
    assert_eq!(
        story.at(110, Observation::Report(3, out.clone())),
        [News::StaysOut {
            node: 3,
            because: "its memory is lost".to_owned()
        }]
    );
    assert_eq!(story.at(120, Observation::Report(3, out)), [], "told once");
    assert!(!story.view.serves(3) && !story.view.was_ready());
}

#[test]
fn a_group_that_stops_is_told_with_its_reason() {
    let mut story = Story::running();
    let mut stopped = response(1, 1);
    stopped.groups[1].stopped_because = "bad record".to_owned();
    assert_eq!(
        story.at(500, Observation::Report(2, stopped)),
        [News::GroupStopped {
            node: 2,
            keyspace: "default".to_owned(),
            because: "bad record".to_owned()
        }]
    );
}
