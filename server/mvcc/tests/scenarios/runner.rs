//! The words of a script.
//!
//! | word | does |
//! | --- | --- |
//! | `put` `del` `compact` | applies a command; `client= seq=` and tag `retried` give it a retry id |
//! | `get` | reads a range |
//! | `begin`, `if`, `then`, `else`, `commit` | builds and applies a transaction; `then_txn` / `else_txn` … `end` nests one |
//! | `read` | ends the building like `commit`, but reads it without applying |
//! | `check` | ends the building like `commit`, or takes a `put`, `get`, `del`: validates only |
//! | `noop` | applies a command without an operation |
//! | `register [nonce=N]` | makes a client known, and shows its id |
//! | `settings [version=N] [clients=N] [bytes=N]` | gives the state settings of its own |
//! | `scrub [max=N]` | one step; without `max` all of them |
//! | `reload` | loads the machine again and demands an equal one |
//! | `snapshot` | goes on from a copy made of a snapshot |
//! | `limits [clients=N] [bytes=N]` | loads the machine with other bounds of the retry table |
//! | `hash`, `revisions`, `records` | shows the state |
//!
//! `needs=N` gives a command the lowest version that may apply it. Tags `events` and `writes` show what a command gives besides its answer.

use std::{collections::BTreeSet, error::Error, fmt::Write as _};

use goldenscript::{ArgumentConsumer, Command, Context};
use holdfast_mvcc::{
    Limits, ScrubCursor, StateMachine, hash, memory::MemoryState, range, read_txn, scrub,
    snapshot_versions, unversioned, validate,
};
use holdfast_proto::{
    command::{self, command::Op},
    etcdserverpb::{RequestOp, TxnRequest, request_op::Request},
};

use crate::{requests, show};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub struct Runner {
    state: MemoryState,
    machine: StateMachine,
    limits: Limits,
    index: u64,
    cursor: Option<ScrubCursor>,
    /// Transactions under construction, outermost first, each with the branch it stands in.
    building: Vec<(TxnRequest, bool)>,
}

impl Default for Runner {
    fn default() -> Self {
        let (state, limits) = (MemoryState::new(), Limits::default());
        let machine = StateMachine::load(&state, limits).unwrap();
        Runner {
            state,
            machine,
            limits,
            index: 0,
            cursor: None,
            building: Vec::new(),
        }
    }
}

impl Runner {
    fn apply(
        &mut self,
        op: Option<Op>,
        args: &mut ArgumentConsumer<'_>,
        tags: &BTreeSet<String>,
    ) -> Result<String> {
        let client = args.take_key("client").unwrap_or_default();
        let command = command::Command {
            client_id: client.as_bytes().to_vec().into(),
            request_seq: requests::number(args, "seq")?.try_into()?,
            retried: tags.contains("retried"),
            min_version: requests::number(args, "needs")?.try_into()?,
            op,
        };
        self.index += 1;
        let applied = match self.machine.apply(&self.state, self.index, command) {
            Ok(applied) => applied,
            Err(error) => return Ok(format!("the machine stops: {error}\n")),
        };
        let mut out = show::answer(&applied.answer);
        if tags.contains("events") {
            applied
                .events()
                .iter()
                .for_each(|event| out += &show::event(event));
        }
        if tags.contains("writes") {
            for write in &applied.writes {
                let verb = if write.value.is_some() {
                    "write"
                } else {
                    "delete"
                };
                writeln!(out, "{verb} {}", write.key.escape_ascii())?;
            }
            if applied.writes.is_empty() {
                out += "no writes\n";
            }
        }
        self.state.write(applied.writes);
        let loaded = StateMachine::load(&self.state, self.limits)?;
        assert_eq!(loaded, self.machine, "the machine follows from the records");
        Ok(out)
    }

    fn add(
        &mut self,
        success: bool,
        args: &mut ArgumentConsumer<'_>,
        context: &Context,
    ) -> Result<String> {
        let request = requests::operation(args, context)?;
        self.attach(success, request)
    }

    fn attach(&mut self, success: bool, request: Option<Request>) -> Result<String> {
        let (txn, _) = self.building.last_mut().ok_or("no transaction was begun")?;
        let ops = if success {
            &mut txn.success
        } else {
            &mut txn.failure
        };
        ops.push(RequestOp { request });
        Ok(String::new())
    }

    fn built(&mut self) -> Result<TxnRequest> {
        let (txn, _) = self.building.pop().ok_or("no transaction was begun")?;
        assert!(self.building.is_empty(), "a nested transaction has no end");
        Ok(txn)
    }

    fn check(&mut self, args: &mut ArgumentConsumer<'_>, context: &Context) -> Result<String> {
        let valid = match args.next_pos() {
            Some("put") => validate::put(&requests::put(args, context)?),
            Some("get") => validate::range(&requests::get(args, context)?),
            Some("del") => validate::delete_range(&requests::del(args, context)?),
            Some("size") => {
                let bytes = requests::number(args, "bytes")?.try_into()?;
                validate::size(bytes, requests::number(args, "max")?.try_into()?)
            }
            Some("id") => {
                let id = args.next_pos().unwrap_or_default();
                validate::retry_id(id.as_bytes(), requests::number(args, "seq")?.try_into()?)
            }
            None => {
                let max = args.take_key("max").unwrap_or("128").parse()?;
                validate::txn(&self.built()?, max)
            }
            Some(other) => return Err(format!("nothing to check: {other}").into()),
        };
        Ok(match valid {
            Ok(()) => "valid\n".to_owned(),
            Err(invalid) => format!("{invalid:?}: {invalid}\n"),
        })
    }

    fn scrub(&mut self, max: Option<usize>) -> Result<String> {
        let compact = self.machine.revisions().compact;
        let mut out = String::new();
        loop {
            let cursor = self.cursor.take().unwrap_or_default();
            let (writes, next) = scrub(&self.state, cursor, compact, max.unwrap_or(3))?;
            for write in &writes {
                assert!(write.value.is_none(), "scrubbing only deletes");
                writeln!(out, "delete {}", write.key.escape_ascii())?;
            }
            self.state.write(writes);
            self.cursor = next;
            if max.is_some() || self.cursor.is_none() {
                let state = if self.cursor.is_some() {
                    "more to scrub"
                } else {
                    "scrubbed"
                };
                writeln!(out, "{state}")?;
                return Ok(out);
            }
        }
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String> {
        let mut args = command.consume_args();
        let args = &mut args;
        let tags = &context.tags;
        let output = match command.name.as_str() {
            "put" => {
                let request = requests::put(args, context)?;
                self.apply(Some(Op::Put(request)), args, tags)?
            }
            "del" => {
                let request = requests::del(args, context)?;
                self.apply(Some(Op::DeleteRange(request)), args, tags)?
            }
            "compact" => {
                let request = requests::compact(args)?;
                self.apply(Some(Op::Compact(request)), args, tags)?
            }
            "noop" => self.apply(None, args, tags)?,
            "register" => {
                let nonce = requests::number(args, "nonce")?.try_into()?;
                self.apply(Some(Op::Register(command::Register { nonce })), args, tags)?
            }
            "settings" => {
                let settings = command::Settings {
                    version: requests::number(args, "version")?.try_into()?,
                    retry_clients_max: requests::number(args, "clients")?.try_into()?,
                    retry_bytes_max: requests::number(args, "bytes")?.try_into()?,
                };
                self.apply(Some(Op::SetSettings(settings)), args, tags)?
            }
            "get" => {
                let request = requests::get(args, context)?;
                match range(&self.state, self.machine.revisions(), &request) {
                    Ok(response) => show::range(&response),
                    Err(error) => format!("{error}\n"),
                }
            }
            "begin" => {
                self.building.push((TxnRequest::default(), true));
                String::new()
            }
            "if" => {
                let (txn, _) = self.building.last_mut().ok_or("no transaction was begun")?;
                txn.compare.push(requests::compare(args)?);
                String::new()
            }
            "then" => self.add(true, args, context)?,
            "else" => self.add(false, args, context)?,
            "then_txn" | "else_txn" => {
                let success = command.name == "then_txn";
                self.building.push((TxnRequest::default(), success));
                String::new()
            }
            "end" => {
                let (txn, success) = self.building.pop().ok_or("no transaction was begun")?;
                self.attach(success, Some(Request::RequestTxn(txn)))?
            }
            "commit" => {
                let txn = self.built()?;
                self.apply(Some(Op::Txn(txn)), args, tags)?
            }
            "read" => {
                let txn = self.built()?;
                match read_txn(&self.state, self.machine.revisions(), &txn) {
                    Ok(response) => show::txn(&response),
                    Err(error) => format!("{error}\n"),
                }
            }
            "check" => self.check(args, context)?,
            "scrub" => self.scrub(args.take_key("max").map(str::parse).transpose()?)?,
            "reload" => {
                let loaded = StateMachine::load(&self.state, self.limits)?;
                assert_eq!(loaded, self.machine, "the machine follows from the records");
                self.machine = loaded;
                String::new()
            }
            "snapshot" => {
                let revisions = self.machine.revisions();
                let mut records = unversioned(&self.state)?;
                for record in snapshot_versions(&self.state, revisions) {
                    records.push(record?);
                }
                self.cursor = None;
                self.state = records.into_iter().collect();
                let loaded = StateMachine::load(&self.state, self.limits)?;
                assert_eq!(loaded, self.machine, "a snapshot holds the whole machine");
                String::new()
            }
            "limits" => {
                if let clients @ 1.. = requests::number(args, "clients")? {
                    self.limits.clients_max = clients.try_into()?;
                }
                if let bytes @ 1.. = requests::number(args, "bytes")? {
                    self.limits.retry_bytes_max = bytes.try_into()?;
                }
                self.machine = StateMachine::load(&self.state, self.limits)?;
                String::new()
            }
            "hash" => {
                let at = requests::number(args, "rev")?;
                match hash(&self.state, self.machine.revisions(), at) {
                    Ok((hash, at)) => format!("hash {hash:08x} at {at}\n"),
                    Err(error) => format!("{error}\n"),
                }
            }
            "revisions" => {
                let revisions = self.machine.revisions();
                format!(
                    "current={} compact={}\n",
                    revisions.current, revisions.compact
                )
            }
            "records" => {
                let mut out = String::new();
                for (key, value) in self.state.records() {
                    writeln!(out, "{} → {}", hex(key), hex(value))?;
                }
                out
            }
            other => return Err(format!("no word {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
