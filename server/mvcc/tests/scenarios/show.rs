//! Answers as one line each, nested ones indented.

use std::fmt::Write;

use holdfast_proto::{
    command::{Answer, answer::Result as Outcome, error},
    etcdserverpb::{
        DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
        response_op::Response,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};

fn revision(header: &Option<ResponseHeader>) -> i64 {
    header
        .as_ref()
        .expect("every response has a header")
        .revision
}

/// `key=value c(create) m(mod) v(version)`, and the lease if there is one.
pub fn kv(kv: &KeyValue) -> String {
    let mut out = format!("{}=", kv.key.escape_ascii());
    match kv.value.len() {
        0..=40 => write!(out, "{}", kv.value.escape_ascii()).unwrap(),
        long => write!(out, "({long} bytes)").unwrap(),
    }
    write!(
        out,
        " c{} m{} v{}",
        kv.create_revision, kv.mod_revision, kv.version
    )
    .unwrap();
    if kv.lease != 0 {
        write!(out, " l{}", kv.lease).unwrap();
    }
    out
}

pub fn answer(answer: &Answer) -> String {
    match answer.result.as_ref().expect("an answer") {
        Outcome::Error(error) => {
            let kind = error::Kind::try_from(error.kind).expect("a known kind");
            format!("{}: {}\n", kind.as_str_name(), error.message)
        }
        Outcome::Put(response) => put(response),
        Outcome::DeleteRange(response) => delete_range(response),
        Outcome::Txn(response) => txn(response),
        Outcome::Register(registered) => {
            format!("client {}\n", registered.client_id.escape_ascii())
        }
        Outcome::SetSettings(settings) => format!(
            "settings version={} clients={} bytes={}\n",
            settings.version, settings.retry_clients_max, settings.retry_bytes_max
        ),
        Outcome::Compact(response) => format!("compact rev={}\n", revision(&response.header)),
    }
}

fn put(response: &PutResponse) -> String {
    let mut out = format!("put rev={}", revision(&response.header));
    if let Some(previous) = &response.prev_kv {
        write!(out, " prev {}", kv(previous)).unwrap();
    }
    out + "\n"
}

fn delete_range(response: &DeleteRangeResponse) -> String {
    let mut out = format!(
        "del rev={} deleted={}",
        revision(&response.header),
        response.deleted
    );
    for previous in &response.prev_kvs {
        write!(out, " prev {}", kv(previous)).unwrap();
    }
    out + "\n"
}

pub fn range(response: &RangeResponse) -> String {
    let mut out = format!(
        "get rev={} count={}",
        revision(&response.header),
        response.count
    );
    if response.more {
        out += " more";
    }
    out += "\n";
    for found in &response.kvs {
        writeln!(out, "  {}", kv(found)).unwrap();
    }
    out
}

pub fn txn(response: &TxnResponse) -> String {
    let mut out = format!(
        "txn rev={} {}\n",
        revision(&response.header),
        if response.succeeded {
            "succeeded"
        } else {
            "failed"
        }
    );
    for op in &response.responses {
        let text = match op.response.as_ref().expect("a response") {
            Response::ResponseRange(response) => range(response),
            Response::ResponsePut(response) => put(response),
            Response::ResponseDeleteRange(response) => delete_range(response),
            Response::ResponseTxn(response) => txn(response),
        };
        for line in text.lines() {
            writeln!(out, "  {line}").unwrap();
        }
    }
    out
}

pub fn event(event: &Event) -> String {
    let kind = EventType::try_from(event.r#type)
        .expect("a known type")
        .as_str_name();
    let changed = kv(event.kv.as_ref().expect("an event has its key"));
    assert_eq!(event.prev_kv, None, "who wants it reads it");
    format!("event {kind} {changed}\n")
}
