//! How answers look: plain lines, a table, or JSON.
//!
//! JSON is one document a command, on one line. Field names are those of the etcd v3 API in
//! snake_case; how keys and values appear is said in [`crate::encoding`].

use std::io::{self, BufWriter, Stdout, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use holdfast_client::proto::{etcdserverpb::ResponseHeader, mvccpb::KeyValue};
use serde_json::{Value, json};

use crate::encoding::Encoding;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table with a head
    Table,
    /// One JSON document
    Json,
    /// Bare lines, for people and scripts
    Plain,
}

/// Where answers go.
pub struct Screen {
    pub format: Format,
    pub encoding: Encoding,
    out: BufWriter<Stdout>,
}

impl Screen {
    pub fn new(format: Format, encoding: Encoding) -> Self {
        Self {
            format,
            encoding,
            out: BufWriter::new(io::stdout()),
        }
    }

    pub fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        self.raw(text.as_ref().as_bytes())
    }

    /// Bytes as they are, and a newline.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.write_all(b"\n")
    }

    pub fn json(&mut self, document: &Value) -> io::Result<()> {
        self.line(document.to_string())
    }

    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        self.line(table.to_string())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

pub fn table<H: Into<comfy_table::Row>>(head: H) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(head);
    table
}

pub fn header(header: Option<&ResponseHeader>) -> Value {
    header.map_or(Value::Null, |h| {
        json!({
            "cluster_id": h.cluster_id,
            "member_id": h.member_id,
            "revision": h.revision,
            "raft_term": h.raft_term,
        })
    })
}

pub fn key_value(kv: &KeyValue, encoding: Encoding) -> Value {
    json!({
        "key": encoding.json(&kv.key),
        "value": encoding.json(&kv.value),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": kv.lease,
    })
}

pub fn key_values(kvs: &[KeyValue], encoding: Encoding) -> Value {
    kvs.iter().map(|kv| key_value(kv, encoding)).collect()
}

/// A table of keys.
pub fn key_table(kvs: &[KeyValue], encoding: Encoding) -> Table {
    let mut table = table(["key", "value", "created", "modified", "version", "lease"]);
    for kv in kvs {
        table.add_row([
            encoding.show(&kv.key),
            encoding.show(&kv.value),
            kv.create_revision.to_string(),
            kv.mod_revision.to_string(),
            kv.version.to_string(),
            if kv.lease == 0 {
                String::new()
            } else {
                id(kv.lease as u64)
            },
        ]);
    }
    table
}

/// Small ids as they are, random ones in hexadecimal; both forms are accepted as arguments.
pub fn id(id: u64) -> String {
    if id < 1_000_000 {
        id.to_string()
    } else {
        format!("{id:#x}")
    }
}

/// A size for people.
pub fn size(bytes: i64) -> String {
    let mut scaled = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{scaled:.1} {unit}")
            };
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_json() {
        let kv = KeyValue {
            key: "k".into(),
            value: vec![0xff].into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        assert_eq!(
            key_value(&kv, Encoding::Text).to_string(),
            r#"{"create_revision":2,"key":"k","lease":0,"mod_revision":3,"value":{"base64":"/w=="},"version":2}"#
        );
        assert_eq!(key_value(&kv, Encoding::Hex)["value"], "ff");
    }

    #[test]
    fn sizes_and_ids() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
        assert_eq!(id(3), "3");
        assert_eq!(id(0x9e73_7feb_b6b9_9eee), "0x9e737febb6b99eee");
    }
}
