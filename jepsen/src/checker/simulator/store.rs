//! The store of the simulation: every version of every key, one operation at a time.

use std::collections::BTreeMap;

use crate::{
    checker::model::{Space, StoreKey},
    history::{Data, Kind, Op, Reply, Step, Value, Version},
};

/// Every version of every key.
pub(super) struct Store {
    pub(super) revision: i64,
    /// Ascending by revision; `None` where the key was deleted.
    keys: BTreeMap<StoreKey, Vec<(i64, Option<Version>)>>,
}

impl Store {
    /// An empty store is at revision 1.
    pub(super) fn empty() -> Self {
        Self {
            revision: 1,
            keys: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, key: StoreKey, revision: i64) -> Option<Version> {
        let versions = self.keys.get(&key)?;
        let next = versions.partition_point(|(at, _)| *at <= revision);
        versions[..next].last()?.1.clone()
    }

    /// Goes back to an older state, as if nothing had happened since.
    pub(super) fn go_back(&mut self, revision: i64) {
        self.revision = revision;
        for versions in self.keys.values_mut() {
            versions.retain(|(at, _)| *at <= revision);
        }
        self.keys.retain(|_, versions| !versions.is_empty());
    }

    pub(super) fn now(&self, key: StoreKey) -> Option<Version> {
        self.get(key, self.revision)
    }

    /// Writes at the present revision, which the caller has advanced.
    pub(super) fn put(&mut self, key: StoreKey, value: Value) {
        let revision = self.revision;
        let before = self.get(key, revision - 1);
        let version = Version {
            value,
            create: before.as_ref().map_or(revision, |before| before.create),
            modified: revision,
            version: before.map_or(1, |before| before.version + 1),
        };
        self.keys
            .entry(key)
            .or_default()
            .push((revision, Some(version)));
    }

    fn range(&self, space: Space) -> Data {
        let all = StoreKey { space, key: 0 }..=StoreKey {
            space,
            key: u64::MAX,
        };
        let present = self.keys.range(all).filter_map(|(key, versions)| {
            let version = versions.last()?.1.clone()?;
            Some((key.key, version))
        });
        Data::Versions(present.collect())
    }

    /// Executes an operation: whether it succeeded, and the reply.
    pub(super) fn execute(&mut self, op: &Op) -> (Kind, Option<Reply>) {
        let mut kind = Kind::Ok;
        let data = match op {
            Op::Read { key, .. } | Op::ReadCounter { key } => {
                Data::Version(self.now(StoreKey::of(*key)))
            }
            Op::Write { key, value } => {
                self.revision += 1;
                self.put(StoreKey::of(*key), Value::Number(*value));
                Data::None
            }
            Op::Delete { key } => {
                let key = StoreKey::of(*key);
                let present = self.now(key).is_some();
                if present {
                    self.revision += 1;
                    let tombstone = (self.revision, None);
                    self.keys.entry(key).or_default().push(tombstone);
                }
                Data::Count(present.into())
            }
            Op::Cas { key, old, new } => {
                let key = StoreKey::of(*key);
                let held = self.now(key);
                if held.as_ref().map(|held| &held.value) == Some(&Value::Number(*old)) {
                    self.revision += 1;
                    self.put(key, Value::Number(*new));
                    Data::None
                } else {
                    kind = Kind::Fail;
                    Data::Version(held)
                }
            }
            Op::Add { set, element } => {
                self.revision += 1;
                let key = StoreKey::element(*set, *element);
                self.put(key, Value::Number(*element));
                Data::None
            }
            Op::OpenAccounts { accounts, balance } => {
                self.revision += 1;
                for key in 0..*accounts {
                    self.put(StoreKey::of(key), Value::Number(*balance));
                }
                Data::None
            }
            Op::ReadSet { set } => self.range(Space::Set(*set)),
            Op::ReadAccounts => self.range(Space::Keys),
            Op::Txn { steps } => self.transact(steps),
            Op::Transfer { from, to, amount } => {
                let versions = [*from, *to].map(|key| (key, self.now(StoreKey::of(key))));
                let balance = |version: &Option<Version>| match version {
                    Some(Version {
                        value: Value::Number(held),
                        ..
                    }) => *held,
                    _ => 0,
                };
                let held = versions.each_ref().map(|(_, version)| balance(version));
                if held[0] < *amount {
                    return (Kind::Fail, None);
                }
                self.revision += 1;
                self.put(StoreKey::of(*from), Value::Number(held[0] - amount));
                self.put(StoreKey::of(*to), Value::Number(held[1] + amount));
                let before = versions.into_iter();
                Data::Versions(
                    before
                        .filter_map(|(key, found)| Some((key, found?)))
                        .collect(),
                )
            }
            Op::Increment { key, id } => {
                let key = StoreKey::of(*key);
                let before = self.now(key);
                self.revision += 1;
                self.put(key, Value::Number(*id));
                Data::Version(before)
            }
            Op::ReadChain { key } => {
                let key = StoreKey::of(*key);
                let versions = self.keys.get(&key).into_iter().flatten().rev();
                Data::Chain(versions.map_while(|(_, version)| version.clone()).collect())
            }
        };
        let reply = Reply {
            revision: self.revision,
            data,
        };
        (kind, Some(reply))
    }

    fn transact(&mut self, steps: &[Step]) -> Data {
        let mut lists: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        let mut written: Vec<u64> = Vec::new();
        let mut found = Vec::new();
        for step in steps {
            let (Step::Append { key, .. } | Step::Read { key }) = step;
            let list = lists.entry(*key).or_insert_with(|| {
                match self.now(StoreKey::of(*key)).map(|held| held.value) {
                    Some(Value::List(list)) => list,
                    _ => Vec::new(),
                }
            });
            if let Step::Append { value, .. } = step {
                list.push(*value);
                written.push(*key);
                found.push(None);
            } else {
                found.push(Some(list.clone()));
            }
        }
        written.sort_unstable();
        written.dedup();
        self.revision += i64::from(!written.is_empty());
        for key in written {
            let list = lists.remove(&key).unwrap_or_default();
            self.put(StoreKey::of(key), Value::List(list));
        }
        Data::Steps(found)
    }
}
