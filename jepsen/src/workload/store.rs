//! How an operation becomes requests of the etcd v3 API, and an answer becomes a reply.
//!
//! ```text
//!   Op ──▶ spell keys and values ──▶ holdfast-client ──▶ cluster
//!   Completion ◀── parse the answer, or judge the error: no effect → fail, unknown → info
//! ```
//!
//! A read never has an effect, so a read that fails is a *fail*. A write is a *fail* only where the
//! client vouches for it. A reply that cannot be parsed is an *info* whose error says what came.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use holdfast_client::{
    Client, Compare, Effect, Error, ErrorKind, Get, Put,
    proto::{
        etcdserverpb::{ResponseHeader, TxnResponse, response_op},
        mvccpb::KeyValue,
    },
};

use tokio::sync::Mutex;

use super::repeat::Repeater;
use crate::history::{Data, Key, Kind, Op, Reply, Step, Value, Version};

/// Versions of one key that are read back at most.
const CHAIN_MAX: usize = 20_000;

const ANOTHER_VALUE: &str = "it holds another value";
const NO_ACCOUNT: &str = "an account does not exist";
const TOO_LITTLE: &str = "it holds too little";
const CONFLICT: &str = "conflict";
/// What an operation that a correct store has refused says went wrong: nothing did.
pub const REFUSALS: [&str; 4] = [ANOTHER_VALUE, NO_ACCOUNT, TOO_LITTLE, CONFLICT];

/// How an operation ended.
#[derive(Clone, Debug)]
pub struct Completion {
    /// *ok*, *fail* or *info*.
    pub kind: Kind,
    /// What was answered.
    pub reply: Option<Reply>,
    /// What went wrong.
    pub error: Option<String>,
    /// Nothing could be reached: worth a pause before the next try.
    pub unavailable: bool,
}

impl Completion {
    fn ok(reply: Reply) -> Self {
        Self {
            kind: Kind::Ok,
            reply: Some(reply),
            error: None,
            unavailable: false,
        }
    }

    fn refused(why: &str, reading: Option<Reply>) -> Self {
        Self {
            kind: Kind::Fail,
            reply: reading,
            error: Some(why.to_owned()),
            unavailable: false,
        }
    }

    /// A write that failed: its effect is what the client says.
    fn write_failed(error: &Error) -> Self {
        let kind = match error.effect() {
            Effect::None => Kind::Fail,
            Effect::Unknown => Kind::Info,
        };
        Self::failed(kind, error)
    }

    /// A read that failed, or one that came before anything was written.
    fn read_failed(error: &Error) -> Self {
        Self::failed(Kind::Fail, error)
    }

    fn failed(kind: Kind, error: &Error) -> Self {
        Self {
            kind,
            reply: None,
            error: Some(error.to_string()),
            unavailable: error.is_unavailable(),
        }
    }

    /// An answer that the store should not give. It counts as unknown, and the text is kept.
    fn unreadable(answer: Unreadable) -> Self {
        Self {
            kind: Kind::Info,
            reply: None,
            error: Some(format!("unreadable answer: {answer}")),
            unavailable: false,
        }
    }
}

/// What an answer of the store lacks.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unreadable {
    /// No header, so no revision.
    #[error("it has no header")]
    NoHeader,
    /// A transaction answered other operations than were asked.
    #[error("the transaction answers other operations than were asked")]
    OtherOperations,
    /// A key that this run did not write.
    #[error("key {0:?}")]
    Key(String),
    /// A value that this run did not write.
    #[error("value {0:?}")]
    Value(String),
}

/// The keys of a run in a store, as one client sees them.
#[derive(Clone)]
pub struct Store {
    /// Asks.
    pub client: Client,
    /// Before every key: runs must not see each other's keys.
    pub prefix: String,
    /// Bytes of a value, at least.
    pub value_bytes: usize,
    /// Makes the increments instead of `client`, and repeats them.
    pub repeater: Option<Arc<Mutex<Repeater>>>,
}

impl Store {
    /// Carries an operation out.
    pub async fn execute(&self, op: &Op) -> Completion {
        let done = match op {
            Op::Read { key, serializable } => self.read(self.register(*key), *serializable).await,
            Op::ReadCounter { key } => self.read(self.counter(*key), false).await,
            Op::Write { key, value } => self.put(self.register(*key), *value).await,
            Op::Add { set, element } => {
                let key = self.element(*set, *element);
                self.put(key, *element).await
            }
            Op::Delete { key } => self.delete(self.register(*key)).await,
            Op::Cas { key, old, new } => self.cas(self.register(*key), *old, *new).await,
            Op::ReadSet { set } => self.range(self.set(*set)).await,
            Op::ReadAccounts => self.range(self.accounts()).await,
            Op::OpenAccounts { accounts, balance } => self.open(*accounts, *balance).await,
            Op::Txn { steps } => self.append(steps).await,
            Op::Transfer { from, to, amount } => self.transfer(*from, *to, *amount).await,
            Op::Increment { key, id } => self.increment(self.counter(*key), *id).await,
            Op::ReadChain { key } => self.chain(self.counter(*key)).await,
        };
        done.unwrap_or_else(Completion::unreadable)
    }

    fn register(&self, key: Key) -> String {
        format!("{}/r/{key:08}", self.prefix)
    }

    fn counter(&self, key: Key) -> String {
        format!("{}/c/{key:08}", self.prefix)
    }

    fn list(&self, key: Key) -> String {
        format!("{}/l/{key:08}", self.prefix)
    }

    fn set(&self, set: u64) -> String {
        format!("{}/s/{set:08}/", self.prefix)
    }

    fn element(&self, set: u64, element: i64) -> String {
        format!("{}{element:012}", self.set(set))
    }

    fn accounts(&self) -> String {
        format!("{}/b/", self.prefix)
    }

    fn account(&self, account: Key) -> String {
        format!("{}{account:08}", self.accounts())
    }

    /// A number, padded to the size of a value.
    fn number(&self, number: i64) -> Bytes {
        let mut text = number.to_string();
        if text.len() < self.value_bytes {
            text.push(' ');
            text.extend(std::iter::repeat_n('.', self.value_bytes - text.len()));
        }
        text.into()
    }

    async fn read(&self, key: String, serializable: bool) -> Result<Completion, Unreadable> {
        let get = self.client.get(key);
        let get = if serializable {
            get.serializable()
        } else {
            get
        };
        match get.await {
            Ok(answer) => Ok(Completion::ok(Reply {
                revision: revision(answer.header)?,
                data: Data::Version(answer.kvs.first().map(number_version).transpose()?),
            })),
            Err(e) => Ok(Completion::read_failed(&e)),
        }
    }

    async fn put(&self, key: String, value: i64) -> Result<Completion, Unreadable> {
        match self.client.put(key, self.number(value)).await {
            Ok(answer) => Ok(Completion::ok(Reply {
                revision: revision(answer.header)?,
                data: Data::None,
            })),
            Err(e) => Ok(Completion::write_failed(&e)),
        }
    }

    async fn increment(&self, key: String, id: i64) -> Result<Completion, Unreadable> {
        if let Some(repeater) = &self.repeater {
            let request = Put::new(key, self.number(id)).prev_kv().into_request();
            let mut repeater = repeater.lock().await;
            return match repeater.put(request).await {
                Ok(answer) => Ok(Completion::ok(Reply {
                    revision: revision(answer.header)?,
                    data: Data::Version(answer.prev_kv.as_ref().map(number_version).transpose()?),
                })),
                Err(status) => Ok(Completion {
                    kind: Kind::Info,
                    reply: None,
                    error: Some(status.to_string()),
                    unavailable: false,
                }),
            };
        }
        match self.client.put(key, self.number(id)).prev_kv().await {
            Ok(answer) => Ok(Completion::ok(Reply {
                revision: revision(answer.header)?,
                data: Data::Version(answer.prev_kv.as_ref().map(number_version).transpose()?),
            })),
            Err(e) => Ok(Completion::write_failed(&e)),
        }
    }

    async fn delete(&self, key: String) -> Result<Completion, Unreadable> {
        match self.client.delete(key).await {
            Ok(answer) => Ok(Completion::ok(Reply {
                revision: revision(answer.header)?,
                data: Data::Count(answer.deleted),
            })),
            Err(e) => Ok(Completion::write_failed(&e)),
        }
    }

    async fn cas(&self, key: String, old: i64, new: i64) -> Result<Completion, Unreadable> {
        let txn = self
            .client
            .txn()
            .when([Compare::value(key.clone()).equal(self.number(old))])
            .and_then([Put::new(key.clone(), self.number(new))])
            .or_else([Get::new(key)]);
        let answer = match txn.await {
            Ok(answer) => answer,
            Err(e) => return Ok(Completion::write_failed(&e)),
        };
        let revision = revision(answer.header)?;
        if answer.succeeded {
            let data = Data::None;
            return Ok(Completion::ok(Reply { revision, data }));
        }
        let found = ranges(&answer)?
            .first()
            .and_then(|kvs| kvs.first().copied());
        let data = Data::Version(found.map(number_version).transpose()?);
        let reading = Reply { revision, data };
        Ok(Completion::refused(ANOTHER_VALUE, Some(reading)))
    }

    /// All keys below `prefix`, whose ends are numbers.
    async fn range(&self, prefix: String) -> Result<Completion, Unreadable> {
        let answer = match self.client.get(prefix.clone()).prefix().await {
            Ok(answer) => answer,
            Err(e) => return Ok(Completion::read_failed(&e)),
        };
        let versions = answer.kvs.iter().map(|kv| {
            let end = kv.key.strip_prefix(prefix.as_bytes());
            let number = end.and_then(|end| std::str::from_utf8(end).ok()?.parse().ok());
            let key = number.ok_or_else(|| Unreadable::Key(text(&kv.key)))?;
            Ok((key, number_version(kv)?))
        });
        Ok(Completion::ok(Reply {
            revision: revision(answer.header)?,
            data: Data::Versions(versions.collect::<Result<_, _>>()?),
        }))
    }

    async fn open(&self, accounts: u64, balance: i64) -> Result<Completion, Unreadable> {
        let puts = (0..accounts).map(|n| Put::new(self.account(n), self.number(balance)));
        match self.client.txn().and_then(puts).await {
            Ok(answer) => Ok(Completion::ok(Reply {
                revision: revision(answer.header)?,
                data: Data::None,
            })),
            Err(e) => Ok(Completion::write_failed(&e)),
        }
    }

    /// Reads keys at one revision.
    async fn read_together(&self, keys: &[String]) -> Result<TxnResponse, Error> {
        let gets = keys.iter().map(|key| Get::new(key.clone()));
        self.client.txn().and_then(gets).await
    }

    async fn append(&self, steps: &[Step]) -> Result<Completion, Unreadable> {
        let mut numbers: Vec<Key> = steps.iter().map(Step::key).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let keys: Vec<String> = numbers.iter().map(|n| self.list(*n)).collect();
        let read = match self.read_together(&keys).await {
            Ok(read) => read,
            Err(e) => return Ok(Completion::read_failed(&e)),
        };
        let mut lists = Vec::with_capacity(keys.len());
        let mut revisions = Vec::with_capacity(keys.len());
        for kvs in ranges(&read)? {
            lists.push(kvs.first().map_or(Ok(Vec::new()), |kv| parse_list(kv))?);
            revisions.push(kvs.first().map_or(0, |kv| kv.mod_revision));
        }
        let mut written = vec![false; keys.len()];
        let mut seen = Vec::with_capacity(steps.len());
        for step in steps {
            let at = numbers.binary_search(&step.key());
            let at = at.expect("every step's key is among the keys");
            match step {
                Step::Append { value, .. } => {
                    lists[at].push(*value);
                    written[at] = true;
                    seen.push(None);
                }
                Step::Read { .. } => seen.push(Some(lists[at].clone())),
            }
        }
        let data = Data::Steps(seen);
        if !written.contains(&true) {
            let revision = revision(read.header)?;
            return Ok(Completion::ok(Reply { revision, data }));
        }
        let unchanged = keys.iter().zip(&revisions);
        let unchanged =
            unchanged.map(|(key, revision)| Compare::mod_revision(key.clone()).equal(*revision));
        let puts = (0..keys.len())
            .filter(|at| written[*at])
            .map(|at| Put::new(keys[at].clone(), spell_list(&lists[at])));
        self.commit(unchanged.collect(), puts.collect(), data).await
    }

    async fn transfer(&self, from: Key, to: Key, amount: i64) -> Result<Completion, Unreadable> {
        let keys = [self.account(from), self.account(to)];
        let read = match self.read_together(&keys).await {
            Ok(read) => read,
            Err(e) => return Ok(Completion::read_failed(&e)),
        };
        let mut before = Vec::with_capacity(2);
        for (kvs, number) in ranges(&read)?.into_iter().zip([from, to]) {
            let Some(kv) = kvs.first() else {
                return Ok(Completion::refused(NO_ACCOUNT, None));
            };
            before.push((number, number_version(kv)?));
        }
        let [(_, payer), (_, payee)] = &before[..] else {
            return Err(Unreadable::OtherOperations);
        };
        let (Value::Number(has), Value::Number(other)) = (&payer.value, &payee.value) else {
            return Err(Unreadable::OtherOperations);
        };
        if *has < amount {
            return Ok(Completion::refused(TOO_LITTLE, None));
        }
        let unchanged = keys.iter().zip([payer.modified, payee.modified]);
        let unchanged =
            unchanged.map(|(key, revision)| Compare::mod_revision(key.clone()).equal(revision));
        let puts = vec![
            Put::new(keys[0].clone(), self.number(has - amount)),
            Put::new(keys[1].clone(), self.number(other + amount)),
        ];
        let unchanged = unchanged.collect();
        before.sort_by_key(|(number, _)| *number);
        self.commit(unchanged, puts, Data::Versions(before)).await
    }

    /// Writes if nothing has changed since it was read.
    async fn commit(
        &self,
        unchanged: Vec<Compare>,
        puts: Vec<Put>,
        data: Data,
    ) -> Result<Completion, Unreadable> {
        match self.client.txn().when(unchanged).and_then(puts).await {
            Ok(answer) if answer.succeeded => {
                let revision = revision(answer.header)?;
                Ok(Completion::ok(Reply { revision, data }))
            }
            Ok(_) => Ok(Completion::refused(CONFLICT, None)),
            Err(e) => Ok(Completion::write_failed(&e)),
        }
    }

    async fn chain(&self, key: String) -> Result<Completion, Unreadable> {
        let mut chain: Vec<Version> = Vec::new();
        let mut now = 0;
        let mut at = 0;
        while chain.len() < CHAIN_MAX {
            let answer = match self.client.get(key.clone()).revision(at).await {
                Ok(answer) => answer,
                Err(e) if matches!(e.kind(), ErrorKind::Compacted) && !chain.is_empty() => break,
                Err(e) => return Ok(Completion::read_failed(&e)),
            };
            if chain.is_empty() {
                now = revision(answer.header)?;
            }
            let Some(kv) = answer.kvs.first() else { break };
            let version = number_version(kv)?;
            at = version.modified - 1;
            chain.push(version);
            if at == 0 {
                break;
            }
        }
        Ok(Completion::ok(Reply {
            revision: now,
            data: Data::Chain(chain),
        }))
    }
}

fn revision(header: Option<ResponseHeader>) -> Result<i64, Unreadable> {
    header.map(|h| h.revision).ok_or(Unreadable::NoHeader)
}

/// The keys that each read of a transaction found.
fn ranges(answer: &TxnResponse) -> Result<Vec<Vec<&KeyValue>>, Unreadable> {
    let each = answer.responses.iter().map(|op| match &op.response {
        Some(response_op::Response::ResponseRange(range)) => Ok(range.kvs.iter().collect()),
        _ => Err(Unreadable::OtherOperations),
    });
    each.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn version(kv: &KeyValue, value: Value) -> Version {
    Version {
        value,
        create: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
    }
}

fn number_version(kv: &KeyValue) -> Result<Version, Unreadable> {
    let number = std::str::from_utf8(&kv.value).ok();
    let number = number.and_then(|text| text.split(' ').next()?.parse().ok());
    let number = number.ok_or_else(|| Unreadable::Value(text(&kv.value)))?;
    Ok(version(kv, Value::Number(number)))
}

fn parse_list(kv: &KeyValue) -> Result<Vec<i64>, Unreadable> {
    let elements = std::str::from_utf8(&kv.value).ok();
    let elements = elements.map(|text| text.split(' ').map(str::parse).collect());
    match elements {
        Some(Ok(list)) => Ok(list),
        _ => Err(Unreadable::Value(text(&kv.value))),
    }
}

fn spell_list(list: &[i64]) -> String {
    let mut text = String::new();
    for (i, element) in list.iter().enumerate() {
        let gap = if i == 0 { "" } else { " " };
        write!(text, "{gap}{element}").expect("a string takes everything");
    }
    text
}
