//! What the supervisor knows about the cluster, and what of it is news.
//!
//! A pure function of what was observed and when: no clock, no I/O.
//!
//! ```text
//! child started / exited ─┐
//! WatchGroups report ─────┼─▶ View::observe(now, observation) ─▶ news, in order
//! WatchGroups lost ───────┘
//! ```
//!
//! A group's leader is the running node that says of itself that it leads, in the highest term that
//! any such node names. What others say is not enough: survivors name a dead leader until they have
//! elected another one.

use std::collections::BTreeMap;
use std::time::Instant;

use holdfast_proto::v1::GroupsResponse;

use super::news::News;

/// Something that was seen.
#[derive(Debug, Clone)]
pub enum Observation {
    /// The process of a node was started.
    Started(u64),
    /// The process of a node ended, with the reason as text.
    Exited(u64, String),
    /// A node told the state of its groups.
    Report(u64, GroupsResponse),
    /// A node whose process runs has stopped answering.
    Silent(u64),
}

#[derive(Debug)]
enum NodeState {
    /// No process.
    Down,
    /// A process that has not yet served.
    Starting,
    Serving,
    /// A process that has served and does not answer.
    Silent,
}

#[derive(Debug)]
struct Node {
    state: NodeState,
    started: Instant,
    /// When it was lost, if it ever was since it last served.
    lost: Option<Instant>,
    report: Option<GroupsResponse>,
}

#[derive(Debug)]
struct Group {
    keyspace: String,
    leader: Option<(u64, u64)>,
    /// Since when there is no leader, while there is none.
    leaderless: Instant,
}

/// What is known about the cluster.
///
/// - a node that is down, or silent, leads nothing;
/// - `Ready` is told once;
/// - `NodeUp` and `NodeBack` come only after a report in which the node takes part in every group.
#[derive(Debug)]
pub struct View {
    begun: Instant,
    nodes: BTreeMap<u64, Node>,
    groups: BTreeMap<u64, Group>,
    ready: bool,
}

impl View {
    /// Nothing is known yet of these nodes.
    pub fn new(now: Instant, nodes: impl IntoIterator<Item = u64>) -> View {
        let node = || Node {
            state: NodeState::Down,
            started: now,
            lost: None,
            report: None,
        };
        View {
            begun: now,
            nodes: nodes.into_iter().map(|id| (id, node())).collect(),
            groups: BTreeMap::new(),
            ready: false,
        }
    }

    /// All nodes were up and all groups had leaders, at some time.
    pub fn was_ready(&self) -> bool {
        self.ready
    }

    /// The node takes part in every group that it has, as far as is known.
    pub fn serves(&self, node: u64) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|node| matches!(node.state, NodeState::Serving))
    }

    /// Leader of a keyspace's group.
    pub fn leader(&self, keyspace: &str) -> Option<u64> {
        let group = self
            .groups
            .values()
            .find(|group| group.keyspace == keyspace)?;
        group.leader.map(|(node, _)| node)
    }

    /// Leader of each group.
    pub fn leaders(&self) -> Vec<Option<u64>> {
        self.groups
            .values()
            .map(|group| group.leader.map(|(node, _)| node))
            .collect()
    }

    /// Takes in what was seen at `now` and tells what is new.
    pub fn observe(&mut self, now: Instant, observation: Observation) -> Vec<News> {
        let mut news = Vec::new();
        match observation {
            Observation::Started(id) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.state = NodeState::Starting;
                    node.started = now;
                    node.report = None;
                }
            }
            Observation::Exited(id, why) => self.lose(now, id, why, NodeState::Down, &mut news),
            Observation::Silent(id) => {
                if self.serves(id) {
                    let why = "does not answer, though its process runs".to_owned();
                    self.lose(now, id, why, NodeState::Silent, &mut news);
                }
            }
            Observation::Report(id, report) => self.report(now, id, report, &mut news),
        }
        self.elect(now, &mut news);
        if !self.ready && self.is_ready() {
            self.ready = true;
            news.push(News::Ready {
                took: now - self.begun,
            });
        }
        news
    }

    fn lose(&mut self, now: Instant, id: u64, why: String, state: NodeState, news: &mut Vec<News>) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let was_silent = matches!(node.state, NodeState::Silent);
        node.state = state;
        node.report = None;
        if !was_silent {
            node.lost = Some(now);
        }
        let mut led = Vec::new();
        for group in self.groups.values_mut() {
            if group.leader.is_some_and(|(leader, _)| leader == id) {
                group.leader = None;
                group.leaderless = now;
                led.push(group.keyspace.clone());
            }
        }
        news.push(News::NodeLost { node: id, why, led });
    }

    fn report(&mut self, now: Instant, id: u64, report: GroupsResponse, news: &mut Vec<News>) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if matches!(node.state, NodeState::Down) {
            // The last words of a process that has ended.
            return;
        }
        let before = node.report.replace(report);
        let report = node
            .report
            .as_ref()
            .expect("a report was put there in the line above");
        if !report.stays_out_because.is_empty()
            && before
                .as_ref()
                .is_none_or(|before| before.stays_out_because != report.stays_out_because)
        {
            news.push(News::StaysOut {
                node: id,
                because: report.stays_out_because.clone(),
            });
        }
        for group in &report.groups {
            let known = before
                .iter()
                .flat_map(|before| &before.groups)
                .find(|known| known.id == group.id);
            if !group.stopped_because.is_empty()
                && known.is_none_or(|known| known.stopped_because != group.stopped_because)
            {
                news.push(News::GroupStopped {
                    node: id,
                    keyspace: group.keyspace.clone(),
                    because: group.stopped_because.clone(),
                });
            }
            self.groups.entry(group.id).or_insert_with(|| Group {
                keyspace: group.keyspace.clone(),
                leader: None,
                leaderless: self.begun,
            });
        }
        if takes_part(report) && !matches!(node.state, NodeState::Serving) {
            let was_starting = matches!(node.state, NodeState::Starting);
            node.state = NodeState::Serving;
            news.push(match node.lost.take() {
                None => News::NodeUp {
                    node: id,
                    took: now - node.started,
                },
                Some(lost) => News::NodeBack {
                    node: id,
                    away: now - lost,
                    started: was_starting.then(|| now - node.started),
                },
            });
        }
    }

    /// Works out the leader of each group anew.
    fn elect(&mut self, now: Instant, news: &mut Vec<News>) {
        for (id, group) in &mut self.groups {
            let leader = self
                .nodes
                .iter()
                .filter_map(|(node, known)| {
                    let report = known.report.as_ref()?;
                    let own = report.groups.iter().find(|group| group.id == *id)?;
                    (own.leader == *node).then_some((own.term, *node))
                })
                .max()
                .map(|(term, node)| (node, term));
            match (group.leader, leader) {
                (before, after) if before == after => {}
                (before, Some((node, term))) => {
                    group.leader = leader;
                    let took = before.is_none().then(|| now - group.leaderless);
                    news.push(News::Leader {
                        keyspace: group.keyspace.clone(),
                        node,
                        term,
                        took,
                    });
                }
                (before, None) => {
                    group.leader = None;
                    group.leaderless = now;
                    if let Some((node, _)) = before {
                        news.push(News::NoLeader {
                            keyspace: group.keyspace.clone(),
                            node,
                        });
                    }
                }
            }
        }
    }

    fn is_ready(&self) -> bool {
        let agree = |node: &Node| {
            matches!(node.state, NodeState::Serving)
                && node.report.as_ref().is_some_and(|report| {
                    report.groups.len() == self.groups.len()
                        && report.groups.iter().all(|group| {
                            let leader = self.groups.get(&group.id).and_then(|known| known.leader);
                            leader == Some((group.leader, group.term))
                        })
                })
        };
        self.groups
            .values()
            .any(|group| group.keyspace == "default")
            && self.nodes.values().all(agree)
    }
}

/// The node runs all its groups and knows a leader of each.
fn takes_part(report: &GroupsResponse) -> bool {
    report.stays_out_because.is_empty()
        && !report.groups.is_empty()
        && report
            .groups
            .iter()
            .all(|group| group.stopped_because.is_empty() && group.leader != 0)
}

#[cfg(test)]
mod tests;
