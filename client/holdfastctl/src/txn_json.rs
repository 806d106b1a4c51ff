//! The JSON form of a transaction; an example is in [`crate::txn_text::HELP`].

use holdfast_client::{Bytes, Compare, CompareResult, Delete, Get, Op, Put, Txn};
use serde::Deserialize;

use crate::{encoding::Encoding, exit::Failure};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonTxn {
    #[serde(default)]
    compare: Vec<JsonCompare>,
    #[serde(default)]
    success: Vec<JsonOp>,
    #[serde(default)]
    failure: Vec<JsonOp>,
}

/// A key or a value. A bare string is in the encoding of the command line.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonBytes {
    Bare(String),
    Coded(Coded),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Coded {
    Hex(String),
    Base64(String),
}

/// Exactly one of the left sides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCompare {
    version: Option<JsonBytes>,
    create: Option<JsonBytes>,
    r#mod: Option<JsonBytes>,
    lease: Option<JsonBytes>,
    value: Option<JsonBytes>,
    is: Relation,
    to: Right,
    range_end: Option<JsonBytes>,
    #[serde(default)]
    prefix: bool,
}

#[derive(Clone, Copy, Deserialize)]
enum Relation {
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = "<")]
    Less,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Right {
    Number(i64),
    Bytes(JsonBytes),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonOp {
    Put(JsonPut),
    Get(JsonRange),
    Delete(JsonRange),
    Txn(JsonTxn),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonPut {
    key: JsonBytes,
    value: Option<JsonBytes>,
    #[serde(default)]
    lease: i64,
    #[serde(default)]
    prev_kv: bool,
    #[serde(default)]
    ignore_value: bool,
    #[serde(default)]
    ignore_lease: bool,
}

/// What `get` and `delete` share, and what only one of them takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRange {
    key: JsonBytes,
    range_end: Option<JsonBytes>,
    #[serde(default)]
    prefix: bool,
    #[serde(default)]
    from_key: bool,
    limit: Option<i64>,
    revision: Option<i64>,
    keys_only: Option<bool>,
    count_only: Option<bool>,
    prev_kv: Option<bool>,
}

pub fn parse(text: &str, encoding: Encoding) -> Result<Txn, Failure> {
    // An array would be taken for the fields in order.
    if !text.trim_start().starts_with('{') {
        return Err(Failure::usage(
            "the transaction is not valid: a JSON object is expected",
        ));
    }
    let txn: JsonTxn = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("the transaction is not valid: {error}")))?;
    build(txn, encoding)
}

fn build(txn: JsonTxn, encoding: Encoding) -> Result<Txn, Failure> {
    let compares = txn.compare.into_iter().map(|c| compare(c, encoding));
    let ops = |ops: Vec<JsonOp>| {
        ops.into_iter()
            .map(|op| operation(op, encoding))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Txn::new()
        .when(compares.collect::<Result<Vec<_>, _>>()?)
        .and_then(ops(txn.success)?)
        .or_else(ops(txn.failure)?))
}

impl JsonBytes {
    fn decode(self, encoding: Encoding) -> Result<Bytes, Failure> {
        match self {
            JsonBytes::Bare(text) => encoding.decode(text.as_bytes()),
            JsonBytes::Coded(Coded::Hex(text)) => Encoding::Hex.decode(text.as_bytes()),
            JsonBytes::Coded(Coded::Base64(text)) => Encoding::Base64.decode(text.as_bytes()),
        }
    }
}

fn compare(json: JsonCompare, encoding: Encoding) -> Result<Compare, Failure> {
    let relation = match json.is {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    let compare = match (json.value, json.to) {
        (Some(key), Right::Bytes(to)) => {
            no_other([&json.version, &json.create, &json.r#mod, &json.lease])?;
            Compare::value(key.decode(encoding)?).is(relation, to.decode(encoding)?)
        }
        (Some(_), Right::Number(_)) => {
            return Err(Failure::usage("a value is compared to a string"));
        }
        (None, Right::Bytes(_)) => {
            return Err(Failure::usage("only a value is compared to a string"));
        }
        (None, Right::Number(to)) => {
            let left = match (json.version, json.create, json.r#mod, json.lease) {
                (Some(key), None, None, None) => Compare::version(key.decode(encoding)?),
                (None, Some(key), None, None) => Compare::create_revision(key.decode(encoding)?),
                (None, None, Some(key), None) => Compare::mod_revision(key.decode(encoding)?),
                (None, None, None, Some(key)) => Compare::lease(key.decode(encoding)?),
                _ => return Err(Failure::usage(ONE_LEFT_SIDE)),
            };
            left.is(relation, to)
        }
    };
    Ok(match (json.range_end, json.prefix) {
        (None, false) => compare,
        (None, true) => compare.prefix(),
        (Some(end), false) => compare.range_end(end.decode(encoding)?),
        (Some(_), true) => return Err(Failure::usage("range_end and prefix exclude each other")),
    })
}

const ONE_LEFT_SIDE: &str = "a comparison has one of version, create, mod, value, lease";

fn no_other(sides: [&Option<JsonBytes>; 4]) -> Result<(), Failure> {
    match sides.iter().all(|side| side.is_none()) {
        true => Ok(()),
        false => Err(Failure::usage(ONE_LEFT_SIDE)),
    }
}

fn operation(op: JsonOp, encoding: Encoding) -> Result<Op, Failure> {
    Ok(match op {
        JsonOp::Put(put) => {
            let value = match put.value {
                Some(value) => value.decode(encoding)?,
                None if put.ignore_value => Bytes::new(),
                None => return Err(Failure::usage("put needs a value or ignore_value")),
            };
            let mut request = Put::new(put.key.decode(encoding)?, value).lease(put.lease);
            if put.prev_kv {
                request = request.prev_kv();
            }
            if put.ignore_value {
                request = request.ignore_value();
            }
            if put.ignore_lease {
                request = request.ignore_lease();
            }
            request.into()
        }
        JsonOp::Get(range) => {
            if range.prev_kv.is_some() {
                return Err(Failure::usage("get does not take prev_kv"));
            }
            let mut get = Get::new(range.key.decode(encoding)?)
                .limit(range.limit.unwrap_or(0))
                .revision(range.revision.unwrap_or(0));
            if let Some(end) = range.range_end {
                get = get.range_end(end.decode(encoding)?);
            }
            if range.prefix {
                get = get.prefix();
            }
            if range.from_key {
                get = get.from_key();
            }
            if range.keys_only == Some(true) {
                get = get.keys_only();
            }
            if range.count_only == Some(true) {
                get = get.count_only();
            }
            get.into()
        }
        JsonOp::Delete(range) => {
            let only_get = range.limit.is_some()
                || range.revision.is_some()
                || range.keys_only.is_some()
                || range.count_only.is_some();
            if only_get {
                return Err(Failure::usage(
                    "delete takes key, range_end, prefix, from_key, prev_kv",
                ));
            }
            let mut delete = Delete::new(range.key.decode(encoding)?);
            if let Some(end) = range.range_end {
                delete = delete.range_end(end.decode(encoding)?);
            }
            if range.prefix {
                delete = delete.prefix();
            }
            if range.from_key {
                delete = delete.from_key();
            }
            if range.prev_kv == Some(true) {
                delete = delete.prev_kv();
            }
            delete.into()
        }
        JsonOp::Txn(txn) => build(txn, encoding)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_operations_and_nesting() {
        let text = r#"{
            "compare": [
                {"version": "a", "is": "=", "to": 0},
                {"value": {"base64": "/w=="}, "is": "!=", "to": {"hex": "00"}},
                {"mod": "a", "is": ">", "to": 3}, {"create": "a", "is": "<", "to": 4},
                {"lease": "a", "is": "=", "to": 0, "prefix": true}
            ],
            "success": [
                {"put": {"key": "k", "value": "v", "lease": 7, "prev_kv": true}},
                {"get": {"key": "p", "prefix": true, "limit": 2, "keys_only": true}},
                {"txn": {"failure": [{"delete": {"key": "x", "range_end": "z"}}]}}
            ]
        }"#;
        let ops: [Op; 3] = [
            Put::new("k", "v").lease(7).prev_kv().into(),
            Get::new("p").prefix().limit(2).keys_only().into(),
            Txn::new().or_else([Delete::new("x").range_end("z")]).into(),
        ];
        let expected = Txn::new()
            .when([
                Compare::version("a").equal(0),
                Compare::value(&b"\xff"[..]).not_equal(&b"\0"[..]),
                Compare::mod_revision("a").greater(3),
                Compare::create_revision("a").less(4),
                Compare::lease("a").equal(0).prefix(),
            ])
            .and_then(ops);
        let parsed = parse(text, Encoding::Text).expect("valid");
        assert_eq!(parsed.into_request(), expected.into_request());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, reason) in [
            ("", "object"),
            ("[]", "object"),
            ("{", "EOF"),
            (
                r#"{"compare": [{"mod": "k", "version": "k", "is": "=", "to": 1}]}"#,
                "one of",
            ),
            (
                r#"{"compare": [{"mod": "k", "value": "k", "is": "=", "to": "v"}]}"#,
                "one of",
            ),
            (r#"{"compare": [{"is": "=", "to": 1}]}"#, "one of"),
            (
                r#"{"compare": [{"mod": "k", "is": "=", "to": 1, "x": 1}]}"#,
                "unknown field",
            ),
            (r#"{"then": []}"#, "unknown field"),
            (r#"{"success": [{"put": {"key": "k"}}]}"#, "needs a value"),
            (
                r#"{"success": [{"put": {"key": "k", "value": "v", "x": 1}}]}"#,
                "unknown field",
            ),
            (
                r#"{"success": [{"watch": {"key": "k"}}]}"#,
                "unknown variant",
            ),
            (
                r#"{"success": [{"get": {"key": "k", "prev_kv": true}}]}"#,
                "prev_kv",
            ),
            (
                r#"{"success": [{"delete": {"key": "k", "limit": 1}}]}"#,
                "delete takes",
            ),
            (
                r#"{"compare": [{"mod": "k", "is": "=", "to": "x"}]}"#,
                "only a value",
            ),
            (
                r#"{"compare": [{"value": "k", "is": "=", "to": 1}]}"#,
                "to a string",
            ),
            (
                r#"{"compare": [{"mod": "k", "is": "~", "to": 1}]}"#,
                "variant",
            ),
            (
                r#"{"success": [{"get": {"key": {"hex": "0"}}}]}"#,
                "hexadecimal",
            ),
        ] {
            let error = parse(text, Encoding::Text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
