//! The check after the demonstration: is every acknowledged write there, once, on every node?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use holdfast_proto::etcdserverpb::kv_client::KvClient;
use holdfast_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast_proto::etcdserverpb::{HashKvRequest, RangeRequest};
use holdfast_proto::mvccpb::KeyValue;
use tonic::transport::Channel;

use super::ledger::Ledger;
use crate::dev::layout::NodePlan;

/// Keys in one answer.
const PAGE_KEYS: i64 = 1_000;
/// Longest time that a node may take to apply what was acknowledged before the check began.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for one request of the check.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Examples kept of each kind of fault.
const EXAMPLES_MAX: usize = 5;

/// What is wrong with the contents of one node, as read in one way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged and not there.
    pub lost: usize,
    /// There more than once: the version is not 1, or two writes made the same revision.
    pub duplicated: usize,
    /// There with another revision or value than acknowledged, or never written.
    pub wrong: usize,
    /// The first few faults, in words.
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
        self.lost == 0 && self.duplicated == 0 && self.wrong == 0
    }
}

/// The contents of one node.
#[derive(Debug, Clone)]
pub struct NodeAudit {
    /// What linearizable reads showed.
    pub linearizable: Findings,
    /// What serializable reads showed.
    pub serializable: Findings,
    /// Hash of the whole keyspace at the audit's revision.
    pub hash: u32,
}

/// The contents of all nodes.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Acknowledged writes that were looked for.
    pub checked: usize,
    /// Revision that was hashed.
    pub revision: i64,
    /// In the order of the nodes.
    pub nodes: Vec<NodeAudit>,
}

impl Audit {
    /// All nodes have the same hash.
    pub fn hashes_agree(&self) -> bool {
        self.nodes
            .windows(2)
            .all(|pair| pair[0].hash == pair[1].hash)
    }

    /// Nothing is wrong anywhere.
    pub fn clean(&self) -> bool {
        self.hashes_agree()
            && self
                .nodes
                .iter()
                .all(|node| node.linearizable.clean() && node.serializable.clean())
    }

    /// The most that any node lacks.
    pub fn lost(&self) -> usize {
        self.worst(|findings| findings.lost)
    }

    /// The most that any node has more than once.
    pub fn duplicated(&self) -> usize {
        self.worst(|findings| findings.duplicated)
    }

    /// The most that any node has wrong.
    pub fn wrong(&self) -> usize {
        self.worst(|findings| findings.wrong)
    }

    fn worst(&self, count: impl Fn(&Findings) -> usize) -> usize {
        let of_node = |node: &NodeAudit| count(&node.linearizable).max(count(&node.serializable));
        self.nodes.iter().map(of_node).max().unwrap_or(0)
    }
}

/// What must be found.
struct Expected {
    /// Revision and value of each acknowledged key.
    acked: BTreeMap<String, (i64, String)>,
    /// Value of each key of unknown fate: it may be there, once.
    possible: BTreeMap<String, String>,
    /// Revisions that more than one acknowledged write claims.
    shared_revisions: BTreeSet<i64>,
}

impl Expected {
    fn from(ledger: &Ledger) -> Expected {
        let mut seen = BTreeSet::new();
        let mut shared_revisions = BTreeSet::new();
        let mut acked = BTreeMap::new();
        for ack in ledger.acks() {
            if !seen.insert(ack.revision) {
                shared_revisions.insert(ack.revision);
            }
            acked.insert(
                ledger.key(ack.write),
                (ack.revision, ledger.value(ack.write)),
            );
        }
        let possible = ledger
            .unresolved()
            .into_iter()
            .map(|write| (ledger.key(write), ledger.value(write)))
            .collect();
        Expected {
            acked,
            possible,
            shared_revisions,
        }
    }

    fn compare(&self, found: &BTreeMap<String, KeyValue>) -> Findings {
        let mut findings = Findings::default();
        for revision in &self.shared_revisions {
            findings.duplicated += 1;
            findings.note(|| format!("revision {revision} was acknowledged to two writes"));
        }
        for key in self.acked.keys().filter(|key| !found.contains_key(*key)) {
            findings.lost += 1;
            findings.note(|| format!("{key} was acknowledged and is not there"));
        }
        for (key, kv) in found {
            let (revision, value) = match (self.acked.get(key), self.possible.get(key)) {
                (Some((revision, value)), _) => (*revision, value),
                (None, Some(value)) => (kv.mod_revision, value),
                (None, None) => {
                    findings.wrong += 1;
                    findings.note(|| format!("{key} is there and was never written"));
                    continue;
                }
            };
            if kv.version != 1 {
                findings.duplicated += 1;
                findings.note(|| format!("{key} was written {} times", kv.version));
            } else if kv.mod_revision != revision || kv.value != value.as_bytes() {
                findings.wrong += 1;
                findings.note(|| {
                    format!(
                        "{key} has revision {} and value {:?}; acknowledged was revision {revision} and value {value:?}",
                        kv.mod_revision,
                        String::from_utf8_lossy(&kv.value)
                    )
                });
            }
        }
        findings
    }
}

/// Reads every key of the run on every node, in both ways, and hashes every node at one revision.
pub async fn audit(
    nodes: &[NodePlan],
    channels: &[Channel],
    ledger: &Ledger,
) -> anyhow::Result<Audit> {
    let expected = Expected::from(ledger);
    // All later reads and hashes are at or after this revision, which no node may lack.
    let revision = current_revision(&channels[0])
        .await
        .context("the revision of the cluster cannot be read")?;
    let mut audits = Vec::new();
    for (node, channel) in nodes.iter().zip(channels) {
        let name = node.name();
        let applied = wait_applied(channel, revision);
        tokio::time::timeout(APPLY_TIMEOUT, applied)
            .await
            .with_context(|| {
                format!(
                    "{name} has not applied revision {revision} in {} s",
                    APPLY_TIMEOUT.as_secs()
                )
            })?;
        let linearizable = read_all(channel, &ledger.prefix(), false)
            .await
            .with_context(|| format!("{name} did not answer a linearizable read"))?;
        let serializable = read_all(channel, &ledger.prefix(), true)
            .await
            .with_context(|| format!("{name} did not answer a serializable read"))?;
        let mut request = tonic::Request::new(HashKvRequest { revision });
        request.set_timeout(REQUEST_TIMEOUT);
        let hash = MaintenanceClient::new(channel.clone())
            .hash_kv(request)
            .await
            .with_context(|| format!("{name} did not hash its contents"))?
            .into_inner();
        audits.push(NodeAudit {
            linearizable: expected.compare(&linearizable),
            serializable: expected.compare(&serializable),
            hash: hash.hash,
        });
    }
    Ok(Audit {
        checked: expected.acked.len(),
        revision,
        nodes: audits,
    })
}

/// The revision of the keyspace, read linearizably.
async fn current_revision(channel: &Channel) -> Result<i64, tonic::Status> {
    let request = RangeRequest {
        key: b"demo/".to_vec().into(),
        ..RangeRequest::default()
    };
    Ok(range(channel, request).await?.0)
}

/// Waits until the node's own state has reached a revision.
async fn wait_applied(channel: &Channel, revision: i64) {
    let request = RangeRequest {
        key: b"demo/".to_vec().into(),
        serializable: true,
        ..RangeRequest::default()
    };
    while range(channel, request.clone())
        .await
        .map_or(0, |(at, _, _)| at)
        < revision
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// All keys with a prefix, page by page, all pages at the revision of the first.
async fn read_all(
    channel: &Channel,
    prefix: &str,
    serializable: bool,
) -> Result<BTreeMap<String, KeyValue>, tonic::Status> {
    let mut found = BTreeMap::new();
    let mut key = prefix.as_bytes().to_vec();
    let mut revision = 0;
    // The prefix ends with '/', whose successor is '0'.
    let end = format!("{}0", prefix.trim_end_matches('/'));
    loop {
        let request = RangeRequest {
            key: key.clone().into(),
            range_end: end.clone().into(),
            limit: PAGE_KEYS,
            revision,
            serializable,
            ..RangeRequest::default()
        };
        let (at, kvs, more) = range(channel, request).await?;
        if revision == 0 {
            revision = at;
        }
        if let Some(last) = kvs.last() {
            key = last.key.to_vec();
            key.push(0);
        }
        let empty = kvs.is_empty();
        found.extend(
            kvs.into_iter()
                .map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv)),
        );
        if !more || empty {
            return Ok(found);
        }
    }
}

async fn range(
    channel: &Channel,
    range: RangeRequest,
) -> Result<(i64, Vec<KeyValue>, bool), tonic::Status> {
    let mut request = tonic::Request::new(range);
    request.set_timeout(REQUEST_TIMEOUT);
    let response = KvClient::new(channel.clone())
        .range(request)
        .await?
        .into_inner();
    Ok((
        response.header.map_or(0, |header| header.revision),
        response.kvs,
        response.more,
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::ledger::WriteId;
    use super::*;

    const ACKED: WriteId = WriteId { zone: 0, seq: 1 };
    const OTHER: WriteId = WriteId { zone: 1, seq: 1 };
    const UNKNOWN: WriteId = WriteId { zone: 0, seq: 2 };

    /// Two writes acknowledged at revisions 2 and 3, one of unknown fate.
    fn ledger() -> Ledger {
        let ledger = Ledger::new(9);
        for write in [ACKED, OTHER, UNKNOWN] {
            ledger.sending(write);
        }
        ledger.acknowledged(ACKED, 2, Instant::now());
        ledger.acknowledged(OTHER, 3, Instant::now());
        ledger
    }

    fn kv(ledger: &Ledger, write: WriteId, revision: i64) -> (String, KeyValue) {
        let key = ledger.key(write);
        let kv = KeyValue {
            key: key.clone().into(),
            value: ledger.value(write).into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            ..KeyValue::default()
        };
        (key, kv)
    }

    fn findings(
        change: impl FnOnce(&Ledger, &mut BTreeMap<String, KeyValue>),
    ) -> (usize, usize, usize) {
        let ledger = ledger();
        let mut found = BTreeMap::from([kv(&ledger, ACKED, 2), kv(&ledger, OTHER, 3)]);
        change(&ledger, &mut found);
        let findings = Expected::from(&ledger).compare(&found);
        assert_eq!(
            findings.examples.len(),
            findings.lost + findings.duplicated + findings.wrong
        );
        (findings.lost, findings.duplicated, findings.wrong)
    }

    #[test]
    fn what_was_acknowledged_is_clean() {
        assert_eq!(findings(|_, _| {}), (0, 0, 0));
    }

    #[test]
    fn a_write_of_unknown_fate_may_be_there_once() {
        assert_eq!(
            findings(|ledger, found| found.extend([kv(ledger, UNKNOWN, 9)])),
            (0, 0, 0)
        );
        let twice = |ledger: &Ledger, found: &mut BTreeMap<String, KeyValue>| {
            let (key, mut kv) = kv(ledger, UNKNOWN, 9);
            kv.version = 2;
            found.insert(key, kv);
        };
        assert_eq!(findings(twice), (0, 1, 0));
    }

    #[test]
    fn every_kind_of_fault_is_found() {
        let change = |change: fn(&mut KeyValue)| {
            findings(|ledger, found| change(found.get_mut(&ledger.key(ACKED)).unwrap()))
        };
        assert_eq!(
            findings(|ledger, found| drop(found.remove(&ledger.key(ACKED)))),
            (1, 0, 0)
        );
        assert_eq!(change(|kv| kv.version = 2), (0, 1, 0));
        assert_eq!(change(|kv| kv.mod_revision = 7), (0, 0, 1));
        assert_eq!(change(|kv| kv.value = "other".into()), (0, 0, 1));
        let never = |ledger: &Ledger, found: &mut BTreeMap<String, KeyValue>| {
            found.extend([kv(ledger, WriteId { zone: 2, seq: 77 }, 9)]);
        };
        assert_eq!(findings(never), (0, 0, 1));
    }

    #[test]
    fn two_writes_with_one_revision_are_found() {
        let ledger = Ledger::new(9);
        for write in [ACKED, OTHER] {
            ledger.sending(write);
            ledger.acknowledged(write, 2, Instant::now());
        }
        let found = BTreeMap::from([kv(&ledger, ACKED, 2), kv(&ledger, OTHER, 2)]);
        assert_eq!(Expected::from(&ledger).compare(&found).duplicated, 1);
    }

    #[test]
    fn an_audit_is_clean_only_if_all_nodes_are_and_agree() {
        let node = |hash| NodeAudit {
            linearizable: Findings::default(),
            serializable: Findings::default(),
            hash,
        };
        let mut audit = Audit {
            checked: 2,
            revision: 3,
            nodes: vec![node(1), node(1), node(1)],
        };
        assert!(audit.clean());
        audit.nodes[2].hash = 2;
        assert!(!audit.clean() && !audit.hashes_agree());
        audit.nodes[2].hash = 1;
        audit.nodes[1].serializable.lost = 4;
        assert!(!audit.clean());
        assert_eq!((audit.lost(), audit.duplicated(), audit.wrong()), (4, 0, 0));
    }
}
