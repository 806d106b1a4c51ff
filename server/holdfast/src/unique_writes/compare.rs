//! The contents of a node against what the writers were told.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_client::{Client, Result, prefix_end, proto::mvccpb::KeyValue};

use super::{Acknowledged, History};

/// Keys in one answer.
const PAGE_KEYS: i64 = 1_000;
/// Examples kept of what is wrong.
const EXAMPLES_MAX: usize = 5;

/// All keys with a prefix, as they were at one revision.
#[derive(Debug, Clone)]
pub struct Contents {
    /// What the keys begin with; empty for the whole keyspace.
    pub prefix: String,
    /// The revision at which they were read.
    pub revision: i64,
    /// The keys with what stands in them.
    pub pairs: BTreeMap<String, KeyValue>,
}

/// What is wrong with the contents of one node, as read in one way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged and not there.
    pub lost: usize,
    /// Taken effect more than once: the version is not 1, two writes made the same revision, or there are
    /// more revisions than writes.
    pub twice: usize,
    /// There with another revision or value than acknowledged, refused, or never written.
    pub wrong: usize,
    /// The first few of them, in words.
    pub examples: Vec<String>,
}

impl Findings {
    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }

    /// Nothing is wrong.
    pub fn clean(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.wrong == 0
    }
}

impl Contents {
    /// Reads page by page, all pages at the revision of the first.
    pub async fn read(client: &Client, prefix: &str, serializable: bool) -> Result<Self> {
        let end = prefix_end(prefix.as_bytes());
        let mut contents = Self {
            prefix: prefix.to_owned(),
            revision: 0,
            pairs: BTreeMap::new(),
        };
        let mut from = first_key(prefix);
        loop {
            let page = client.range(from.clone(), end.clone()).limit(PAGE_KEYS);
            let page = page.revision(contents.revision);
            let page = if serializable {
                page.serializable().await?
            } else {
                page.await?
            };
            if contents.revision == 0 {
                contents.revision = page.header.map_or(0, |header| header.revision);
            }
            let Some(last) = page.kvs.last() else {
                return Ok(contents);
            };
            from = [&last.key[..], b"\0"].concat();
            let text = |kv: &KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
            let pairs = page.kvs.into_iter().map(|kv| (text(&kv), kv));
            contents.pairs.extend(pairs);
            if !page.more {
                return Ok(contents);
            }
        }
    }

    /// What is wrong with them. The history holds everything that was ever written below the prefix.
    pub fn compare(&self, history: &History) -> Findings {
        let mut findings = Findings::default();
        let mut acknowledged: BTreeMap<&str, &Acknowledged> = BTreeMap::new();
        let mut revisions = BTreeSet::new();
        for write in &history.acknowledged {
            let revision = write.revision;
            if !revisions.insert(revision) {
                findings.twice += 1;
                findings.note(|| format!("revision {revision} was acknowledged to two writes"));
            }
            if acknowledged.insert(&write.key, write).is_some() {
                findings.twice += 1;
                findings.note(|| format!("{} was acknowledged to two writes", write.key));
            }
        }
        for key in acknowledged.keys() {
            if !self.pairs.contains_key(*key) {
                findings.lost += 1;
                findings.note(|| format!("{key} was acknowledged and is not there"));
            }
        }
        let unknown = history.unknown.iter();
        let unknown = unknown.map(|write| (&*write.key, &*write.value));
        let unknown: BTreeMap<&str, &str> = unknown.collect();
        for (key, kv) in &self.pairs {
            let (revision, value) = match (acknowledged.get(&**key), unknown.get(&**key)) {
                (Some(write), _) => (write.revision, &*write.value),
                (None, Some(value)) => (kv.mod_revision, *value),
                (None, None) => {
                    let refused = history.refused.iter().find(|write| write.key == *key);
                    findings.wrong += 1;
                    findings.note(|| match refused {
                        Some(refused) => format!("{key} is there although {refused:?}"),
                        None => format!("{key} is there and was never written"),
                    });
                    continue;
                }
            };
            let stamps = (kv.create_revision, kv.mod_revision);
            if kv.version != 1 {
                findings.twice += 1;
                findings.note(|| format!("{key} was written {} times", kv.version));
            } else if stamps != (revision, revision) || kv.value != value.as_bytes() {
                findings.wrong += 1;
                findings.note(|| {
                    format!(
                        "{key} has revisions {stamps:?} and value {:?}; acknowledged was revision {revision} and value {value:?}",
                        String::from_utf8_lossy(&kv.value)
                    )
                });
            }
        }
        // Each write makes one revision, after the first. One that took effect twice leaves a gap.
        let keys = self.pairs.len();
        if self.prefix.is_empty() && self.revision - 1 != keys as i64 {
            findings.twice += 1;
            findings.note(|| {
                format!(
                    "{keys} keys were written once and the revision is {}",
                    self.revision
                )
            });
        }
        findings
    }
}

/// The first key that a prefix can have. The empty key cannot be asked for.
pub(super) fn first_key(prefix: &str) -> Vec<u8> {
    match prefix {
        "" => b"\0".to_vec(),
        prefix => prefix.as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(revision: i64, version: i64, value: &str) -> KeyValue {
        KeyValue {
            create_revision: revision,
            mod_revision: revision,
            version,
            value: value.to_string().into(),
            ..Default::default()
        }
    }

    /// Two acknowledged writes, one of unknown effect, one refused.
    fn history() -> History {
        let mut history = History::default();
        history.acknowledge("a", "1", 2);
        history.acknowledge("b", "2", 3);
        history.unknown("u", "3", "lost");
        history.unknown("r", "4", "no");
        history.refused = vec![history.unknown.pop().unwrap()];
        history
    }

    /// What is wrong with these keys beside `b`: lost, twice, wrong.
    fn findings(
        prefix: &str,
        revision: i64,
        pairs: impl IntoIterator<Item = (&'static str, KeyValue)>,
    ) -> (usize, usize, usize) {
        let pairs = [("b", kv(3, 1, "2"))].into_iter().chain(pairs);
        let contents = Contents {
            prefix: prefix.to_owned(),
            revision,
            pairs: pairs.map(|(key, kv)| (key.to_string(), kv)).collect(),
        };
        let findings = contents.compare(&history());
        let sum = findings.lost + findings.twice + findings.wrong;
        assert_eq!(findings.examples.len(), sum);
        assert_eq!(findings.clean(), sum == 0);
        (findings.lost, findings.twice, findings.wrong)
    }

    #[test]
    fn what_is_right_passes() {
        let a = || ("a", kv(2, 1, "1"));
        assert_eq!(findings("", 3, [a()]), (0, 0, 0));
        assert_eq!(findings("", 4, [a(), ("u", kv(4, 1, "3"))]), (0, 0, 0));
        assert_eq!(findings("p", 99, [a()]), (0, 0, 0), "others write too");
    }

    #[test]
    fn every_kind_of_fault_is_found() {
        let a = || ("a", kv(2, 1, "1"));
        let moved = KeyValue {
            create_revision: 2,
            ..kv(7, 1, "1")
        };
        assert_eq!(findings("p", 9, []), (1, 0, 0), "lost");
        assert_eq!(findings("p", 9, [("a", kv(2, 2, "1"))]), (0, 1, 0), "twice");
        assert_eq!(findings("p", 9, [("a", kv(7, 1, "1"))]), (0, 0, 1), "moved");
        assert_eq!(findings("p", 9, [("a", moved)]), (0, 0, 1), "changed");
        assert_eq!(findings("p", 9, [("a", kv(2, 1, "x"))]), (0, 0, 1), "value");
        assert_eq!(findings("", 4, [a()]), (0, 1, 0), "a revision of nothing");
        let unknown = |version, value| [a(), ("u", kv(4, version, value))];
        assert_eq!(findings("p", 9, unknown(2, "3")), (0, 1, 0), "twice");
        assert_eq!(findings("p", 9, unknown(1, "x")), (0, 0, 1), "value");
        for stranger in ["r", "never"] {
            let there = [a(), (stranger, kv(4, 1, "4"))];
            assert_eq!(findings("", 4, there), (0, 0, 1), "{stranger}");
        }
    }

    #[test]
    fn what_was_acknowledged_to_two_writes_is_found() {
        let contents = Contents {
            prefix: String::new(),
            revision: 3,
            pairs: [("a", kv(2, 1, "1")), ("b", kv(3, 1, "2"))]
                .map(|(key, kv)| (key.to_string(), kv))
                .into(),
        };
        let mut history = history();
        history.acknowledge("b", "2", 3);
        assert_eq!(contents.compare(&history).twice, 2, "key and revision");
    }
}
