//! The store of the simulation: every version of every key, one operation at a time, with its bug.

use std::collections::BTreeMap;

use super::bug::{Bug, Strikes};
use crate::{
    checker::model::{Space, StoreKey},
    history::{Data, Kind, Op, Reply, Step, Value, Version},
};

/// Every version of every key.
pub(super) struct Store {
    pub(super) revision: i64,
    /// Ascending by revision; `None` where the key was deleted.
    keys: BTreeMap<StoreKey, Vec<(i64, Option<Version>)>>,
    pub(super) strikes: Strikes,
}

impl Store {
    /// An empty store is at revision 1.
    pub(super) fn empty(strikes: Strikes) -> Self {
        Self {
            revision: 1,
            keys: BTreeMap::new(),
            strikes,
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

    /// Makes a write that the bug may lose or repeat.
    fn write(&mut self, key: StoreKey, value: i64) {
        if self.strikes.now(Bug::LostWrites, 0.1) {
            return;
        }
        let repeated = self.strikes.now(Bug::RepeatedWrites, 0.1);
        for _ in 0..=usize::from(repeated) {
            self.revision += 1;
            self.put(key, Value::Number(value));
        }
    }

    /// The revision as of which a read is answered.
    fn as_of(&mut self) -> i64 {
        if self.strikes.now(Bug::StaleReads, 0.2) {
            return (self.revision - self.strikes.lag()).max(1);
        }
        self.revision
    }

    fn range(&mut self, space: Space, revision: i64) -> Data {
        let all = StoreKey { space, key: 0 }..=StoreKey {
            space,
            key: u64::MAX,
        };
        let keys = self.keys.range(all).map(|(key, _)| *key);
        let present = keys.filter_map(|key| Some((key.key, self.get(key, revision)?)));
        let mut present: Vec<(u64, Version)> = present.collect();
        if !present.is_empty() && self.strikes.now(Bug::MissingKeys, 0.2) {
            present.remove(0);
        }
        Data::Versions(present)
    }

    /// The list that a key holds at a revision.
    pub(super) fn list(&self, key: u64, revision: i64) -> Vec<i64> {
        match self.get(StoreKey::of(key), revision).map(|held| held.value) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }

    /// Executes an operation that began at revision `began`: whether it succeeded, and the reply.
    pub(super) fn execute(&mut self, op: &Op, began: i64) -> (Kind, Option<Reply>) {
        let mut kind = Kind::Ok;
        let data = match op {
            Op::Read { key, .. } | Op::ReadCounter { key } => {
                let revision = self.as_of();
                Data::Version(self.get(StoreKey::of(*key), revision))
            }
            Op::Write { key, value } => {
                self.write(StoreKey::of(*key), *value);
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
                self.write(StoreKey::element(*set, *element), *element);
                Data::None
            }
            Op::OpenAccounts { accounts, balance } => {
                self.revision += 1;
                for key in 0..*accounts {
                    self.put(StoreKey::of(key), Value::Number(*balance));
                }
                Data::None
            }
            Op::ReadSet { set } => {
                let revision = self.as_of();
                self.range(Space::Set(*set), revision)
            }
            Op::ReadAccounts => {
                let revision = self.as_of();
                self.range(Space::Keys, revision)
            }
            Op::Txn { steps } => match self.transact(steps, began) {
                Some(found) => found,
                None => return (Kind::Fail, None),
            },
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
                let covered = held[0] >= *amount;
                let loose = self.strikes.now(Bug::LooseMoney, 0.2);
                if !covered && !loose {
                    return (Kind::Fail, None);
                }
                self.revision += 1;
                self.put(StoreKey::of(*from), Value::Number(held[0] - amount));
                if !covered || !loose {
                    self.put(StoreKey::of(*to), Value::Number(held[1] + amount));
                }
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
                self.write(key, *id);
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

    /// What the steps of a transaction read. None if it failed.
    fn transact(&mut self, steps: &[Step], began: i64) -> Option<Data> {
        let writes = steps.iter().any(|step| matches!(step, Step::Append { .. }));
        let early =
            self.strikes.now(Bug::BlindUpdates, 0.5) || self.strikes.now(Bug::Snapshots, 0.5);
        let revision = match (early, writes) {
            (true, _) => began,
            (false, true) => self.revision,
            (false, false) => self.as_of(),
        };
        let mut lists: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        let mut written: Vec<u64> = Vec::new();
        let mut found = Vec::new();
        for step in steps {
            let (Step::Append { key, .. } | Step::Read { key }) = step;
            let list = lists
                .entry(*key)
                .or_insert_with(|| self.list(*key, revision));
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
        let has_changed = |key: &u64| {
            let held = self.now(StoreKey::of(*key));
            held.is_some_and(|held| held.modified > revision)
        };
        if self.strikes.bug == Bug::Snapshots && written.iter().any(has_changed) {
            return None;
        }
        if writes && !self.strikes.now(Bug::LostWrites, 0.1) {
            self.revision += 1;
            for key in written {
                let list = lists.remove(&key).unwrap_or_default();
                self.put(StoreKey::of(key), Value::List(list));
            }
        }
        Some(Data::Steps(found))
    }
}
