//! News of the cluster in words.

use super::screen::short;
use super::view::News;

/// A piece of news as a line; `name` knows what people call a node.
pub fn sentence(news: &News, name: impl Fn(u64) -> String) -> String {
    match news {
        News::NodeUp { node, took } => {
            format!("{} is up after {}", name(*node), short(*took))
        }
        News::NodeLost { node, why, led } if led.is_empty() => {
            format!("{} {why}", name(*node))
        }
        News::NodeLost { node, why, led } => {
            format!("{} {why}; it led {}", name(*node), led.join(", "))
        }
        News::NodeBack {
            node,
            away,
            started: Some(started),
        } => format!(
            "{} is back after {}, {} after its start",
            name(*node),
            short(*away),
            short(*started)
        ),
        News::NodeBack {
            node,
            away,
            started: None,
        } => {
            format!("{} answers again after {}", name(*node), short(*away))
        }
        News::Leader {
            keyspace,
            node,
            term,
            took: Some(took),
        } => format!(
            "{keyspace}: {} leads (term {term}), elected after {} without a leader",
            name(*node),
            short(*took)
        ),
        News::Leader {
            keyspace,
            node,
            term,
            took: None,
        } => {
            format!(
                "{keyspace}: {} leads (term {term}), without a gap",
                name(*node)
            )
        }
        News::NoLeader { keyspace, node } => {
            format!("{keyspace}: {} leads no longer", name(*node))
        }
        News::StaysOut { node, because } => {
            format!("{} stays out: {because}", name(*node))
        }
        News::GroupStopped {
            node,
            keyspace,
            because,
        } => {
            format!("{keyspace}: stopped on {}: {because}", name(*node))
        }
        News::Ready { took } => format!(
            "all zones are up and all groups have leaders after {}",
            short(*took)
        ),
    }
}
