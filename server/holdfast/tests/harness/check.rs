//! What must hold after every test: nothing acknowledged is lost, nothing is there twice, all nodes
//! hold the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_proto::{
    etcdserverpb::{HashKvRequest, RangeRequest},
    mvccpb::KeyValue,
};

use super::{Cluster, History, Node, PATIENCE, until, within};

/// How long one node may take to read or to hash everything.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// All keys of a node.
struct Contents {
    revision: i64,
    pairs: BTreeMap<String, KeyValue>,
}

impl Cluster {
    /// Checks all nodes that run against the history.
    pub async fn verify(&self, history: &History) {
        self.verify_on(&self.up(), history).await;
    }

    /// Checks these nodes against the history: everything that was acknowledged is there, once, with
    /// its revision, read linearizably and on each node from its own state; nothing else is there
    /// but what may be; all have the same hash.
    pub async fn verify_on(&self, ids: &[u64], history: &History) {
        self.leader_among(ids).await;
        for id in ids {
            let linearizable = contents(self.node(*id), false).await;
            check(&linearizable, history, &format!("node {id}, linearizable"));
        }
        self.until_caught_up(ids).await;
        for id in ids {
            let local = contents(self.node(*id), true).await;
            check(&local, history, &format!("node {id}, serializable"));
        }
        self.same_hash(ids).await;
    }

    /// Checks that these nodes hold the same, by their hash at one revision.
    pub async fn same_hash(&self, ids: &[u64]) {
        let mut revisions = BTreeSet::new();
        for id in ids {
            revisions.insert(hash(self.node(*id), 0).await.1);
        }
        let at = *revisions.first().expect("there are nodes");
        let mut hashes = BTreeMap::new();
        for id in ids {
            hashes.insert(*id, hash(self.node(*id), at).await);
        }
        let same = hashes.values().collect::<BTreeSet<_>>().len() == 1;
        assert!(same, "hash and revision differ between nodes: {hashes:?}");
    }
}

/// Hash of a node at a revision, and that revision.
async fn hash(node: &Node, revision: i64) -> (u32, i64) {
    let what = "the hash of a node";
    until(what, PATIENCE, async || {
        let mut maintenance = node.maintenance();
        let request = HashKvRequest { revision };
        match within(READ_WITHIN, maintenance.hash_kv(request)).await {
            Ok(answer) => Ok((answer.hash, answer.hash_revision)),
            Err(status) => Err(format!("node {}: {status}", node.id)),
        }
    })
    .await
}

async fn contents(node: &Node, serializable: bool) -> Contents {
    let request = RangeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        serializable,
        ..Default::default()
    };
    let answer = until("all keys of a node", PATIENCE, async || {
        let mut kv = node.kv();
        let answer = within(READ_WITHIN, kv.range(request.clone())).await;
        answer.map_err(|status| format!("node {}: {status}", node.id))
    })
    .await;
    assert!(!answer.more, "everything was asked for");
    let text = |kv: &KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
    Contents {
        revision: answer.header.expect("every answer has a header").revision,
        pairs: answer.kvs.into_iter().map(|kv| (text(&kv), kv)).collect(),
    }
}

fn check(contents: &Contents, history: &History, seen_by: &str) {
    for write in &history.acknowledged {
        let key = &write.key;
        let Some(kv) = contents.pairs.get(key) else {
            panic!("{seen_by}: an acknowledged write is lost: {write:?}");
        };
        assert_eq!(
            kv.value,
            write.value.as_bytes(),
            "{seen_by}: value of {key}"
        );
        let stamps = (kv.create_revision, kv.mod_revision, kv.version);
        let expected = (write.revision, write.revision, 1);
        assert_eq!(
            stamps, expected,
            "{seen_by}: revisions and version of {key}"
        );
    }
    let mut acknowledged: BTreeSet<&str> = BTreeSet::new();
    for write in &history.acknowledged {
        assert!(acknowledged.insert(&write.key), "two writes of {write:?}");
    }
    let unknown: BTreeMap<&str, &str> = history
        .unknown
        .iter()
        .map(|write| (write.key.as_str(), write.value.as_str()))
        .collect();
    for (key, kv) in &contents.pairs {
        if acknowledged.contains(key.as_str()) {
            continue;
        }
        let Some(value) = unknown.get(key.as_str()) else {
            let refused = history.refused.iter().find(|write| write.key == *key);
            panic!("{seen_by}: {key} is there although {refused:?}: {kv:?}");
        };
        assert_eq!(kv.value, value.as_bytes(), "{seen_by}: value of {key}");
        assert_eq!(kv.version, 1, "{seen_by}: {key} is there twice");
    }
    // Each of the writes makes one revision. One that had taken effect twice would have left a gap.
    let revisions = contents.revision - 1;
    let writes = i64::try_from(contents.pairs.len()).expect("not that many");
    assert_eq!(
        revisions, writes,
        "{seen_by}: revisions, and keys written once"
    );
}

/// The check itself: it must find what it is there for.
mod proof {
    use super::*;

    fn kv(revision: i64, version: i64, value: &str) -> KeyValue {
        KeyValue {
            create_revision: 2,
            mod_revision: revision,
            version,
            value: value.to_string().into(),
            ..Default::default()
        }
    }

    /// One acknowledged write and one of unknown effect, against these keys.
    fn judge(revision: i64, pairs: impl IntoIterator<Item = (&'static str, KeyValue)>) -> bool {
        let mut history = History::default();
        history.acknowledge("a", "1", 2);
        history.unknown("u", "2", "lost");
        let pairs = pairs.into_iter().map(|(key, kv)| (key.to_string(), kv));
        let pairs = pairs.collect();
        let contents = Contents { revision, pairs };
        std::panic::catch_unwind(|| check(&contents, &history, "proof")).is_ok()
    }

    #[test]
    fn what_is_right_passes_and_what_is_wrong_does_not() {
        assert!(judge(2, [("a", kv(2, 1, "1"))]));
        assert!(judge(3, [("a", kv(2, 1, "1")), ("u", kv(3, 1, "2"))]));
        assert!(!judge(1, []), "a lost write");
        assert!(!judge(2, [("a", kv(2, 1, "x"))]), "another value");
        assert!(!judge(3, [("a", kv(3, 1, "1"))]), "another revision");
        assert!(!judge(3, [("a", kv(3, 2, "1"))]), "written twice");
        assert!(!judge(3, [("a", kv(2, 1, "1"))]), "a revision of nothing");
        let twice = [("a", kv(2, 1, "1")), ("u", kv(4, 2, "2"))];
        assert!(!judge(4, twice), "an unknown one twice");
        let stranger = [("a", kv(2, 1, "1")), ("x", kv(3, 1, "2"))];
        assert!(
            !judge(3, stranger),
            "a write that was refused, or never made"
        );
    }
}
