//! The text form of a transaction, as etcdctl has it: three blocks, each ended by a blank line.
//!
//! ```text
//! mod("k") > "0"            comparisons; all must hold
//! value("k") = "v"
//!                           ◀─ blank line
//! put k "new value"         done if they hold
//! get other --prefix
//!                           ◀─ blank line
//! del k                     done if one does not
//! ```
//!
//! A line of the second and third block is a command of `holdfastctl` with its options. Words in
//! double quotes know the escapes of Go and C (`\n`, `\x00`, `\u00e9`, `\"`); words in single
//! quotes are taken as they are.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use clap::Parser as ClapParser;
use holdfast_client::{Compare, CompareResult, Op, Txn};

use crate::{
    args::{DelArgs, GetArgs, PutArgs},
    encoding::Encoding,
    exit::Failure,
};

/// Shown under `holdfastctl txn --help`.
pub const HELP: &str = r#"The text form has three blocks, each ended by a blank line: comparisons, operations for
the case that all of them hold, operations for the case that one does not:

  mod("k") > "0"
  value("k") = "v"

  put k "new value"
  get other --prefix

  del k

Left sides: version ver, create c, mod m, value val, lease. Relations: = != < >.
Operations: put, get and del with their options.

The JSON form (--json):

  {"compare": [{"mod": "k", "is": ">", "to": 0}, {"value": "k", "is": "=", "to": "v"}],
   "success": [{"put": {"key": "k", "value": "new value"}}, {"get": {"key": "o", "prefix": true}}],
   "failure": [{"delete": {"key": "k"}}]}

A txn may stand among the operations: {"txn": {"compare": ..., "success": ..., "failure": ...}}.
Keys and values are strings, or {"hex": "ff"} or {"base64": "/w=="}."#;

#[derive(Debug, ClapParser)]
#[command(
    name = "",
    no_binary_name = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
enum Line {
    Put(PutArgs),
    Get(GetArgs),
    Del(DelArgs),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Block {
    Compares,
    Success,
    Failure,
    Complete,
}

/// Takes the lines one by one.
pub struct Parser {
    encoding: Encoding,
    block: Block,
    lines: usize,
    txn: Txn,
}

impl Parser {
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            block: Block::Compares,
            lines: 0,
            txn: Txn::new(),
        }
    }

    /// What is expected next.
    pub fn prompt(&self) -> &'static str {
        match self.block {
            Block::Compares => "compares:",
            Block::Success => "success requests (get, put, del):",
            Block::Failure => "failure requests (get, put, del):",
            Block::Complete => "",
        }
    }

    /// The blank line after the third block has been seen.
    pub fn is_complete(&self) -> bool {
        self.block == Block::Complete
    }

    /// Blocks that have not been seen are empty.
    pub fn finish(self) -> Txn {
        self.txn
    }

    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.lines += 1;
        let line = line.trim();
        if line.is_empty() {
            self.block = match self.block {
                Block::Compares => Block::Success,
                Block::Success => Block::Failure,
                Block::Failure | Block::Complete => Block::Complete,
            };
            return Ok(());
        }
        let result = match self.block {
            Block::Compares => compare(line, self.encoding).map(|compare| {
                self.txn = std::mem::take(&mut self.txn).when([compare]);
            }),
            Block::Success => operation(line, self.encoding).map(|op| {
                self.txn = std::mem::take(&mut self.txn).and_then([op]);
            }),
            Block::Failure => operation(line, self.encoding).map(|op| {
                self.txn = std::mem::take(&mut self.txn).or_else([op]);
            }),
            Block::Complete => Err("text after the end of the transaction".to_owned()),
        };
        result.map_err(|reason| Failure::usage(format!("line {}: {reason}: {line}", self.lines)))
    }
}

fn compare(line: &str, encoding: Encoding) -> Result<Compare, String> {
    const FORM: &str = "a comparison looks like  mod(\"key\") > \"0\"";
    let (target, rest) = line.split_once('(').ok_or(FORM)?;
    let (key, rest) = word(rest.trim_start(), |c| c == b')')?.ok_or(FORM)?;
    let rest = rest
        .trim_start()
        .strip_prefix(')')
        .ok_or(FORM)?
        .trim_start();
    let (relation, rest) = [
        ("!=", CompareResult::NotEqual),
        ("=", CompareResult::Equal),
        (">", CompareResult::Greater),
        ("<", CompareResult::Less),
    ]
    .into_iter()
    .find_map(|(sign, relation)| Some((relation, rest.strip_prefix(sign)?)))
    .ok_or("the relation must be one of = != < >")?;
    let (right, rest) = word(rest.trim_start(), |_| false)?.ok_or(FORM)?;
    if !rest.trim().is_empty() {
        return Err(FORM.into());
    }
    let key = encoding.decode(&key).map_err(|error| error.to_string())?;
    let integer = || {
        let text = std::str::from_utf8(&right).map_err(|_| "the right side must be a number")?;
        crate::args::number(text)
            .ok()
            .and_then(|n| i64::try_from(n).ok())
            .ok_or("the right side must be a number")
    };
    Ok(match target.trim() {
        "ver" | "version" => Compare::version(key).is(relation, integer()?),
        "c" | "create" => Compare::create_revision(key).is(relation, integer()?),
        "m" | "mod" => Compare::mod_revision(key).is(relation, integer()?),
        "lease" => Compare::lease(key).is(relation, integer()?),
        "val" | "value" => {
            let value = encoding.decode(&right).map_err(|error| error.to_string())?;
            Compare::value(key).is(relation, value)
        }
        other => {
            return Err(format!(
                "unknown left side {other:?}; use version, create, mod, value, lease"
            ));
        }
    })
}

fn operation(line: &str, encoding: Encoding) -> Result<Op, String> {
    let words = words(line)?.into_iter().map(OsString::from_vec);
    let parsed = Line::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    })?;
    match parsed {
        Line::Put(put) => put
            .request(encoding, || Err(Failure::usage("put needs a value here")))
            .map(Op::from),
        Line::Get(get) => get.request(encoding).map(Op::from),
        Line::Del(del) => del.request(encoding).map(Op::from),
    }
    .map_err(|error| error.to_string())
}

/// Splits a line as a shell would: blanks separate, quotes hold together.
fn words(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some((found, after)) = word(rest, |_| false)? {
        words.push(found);
        rest = after.trim_start();
    }
    Ok(words)
}

/// The first word of the text and what follows it; none at the end. `ends` names bytes that end a
/// bare word besides blanks.
fn word(text: &str, ends: impl Fn(u8) -> bool) -> Result<Option<(Vec<u8>, &str)>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        match rest.bytes().next() {
            Some(b'"') => {
                let (part, after) = double_quoted(&rest[1..])?;
                found.extend(part);
                rest = after;
            }
            Some(b'\'') => {
                let (part, after) = rest[1..]
                    .split_once('\'')
                    .ok_or("a single quote is not closed")?;
                found.extend(part.bytes());
                rest = after;
            }
            Some(byte) if !byte.is_ascii_whitespace() && !ends(byte) => {
                found.push(byte);
                let next = (1..=rest.len())
                    .find(|&i| rest.is_char_boundary(i))
                    .unwrap_or(rest.len());
                found.extend(&rest.as_bytes()[1..next]);
                rest = &rest[next..];
            }
            _ if rest.len() == text.len() => return Ok(None),
            _ => return Ok(Some((found, rest))),
        }
    }
}

/// What stands before the closing quote, escapes resolved, and what follows it.
fn double_quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let mut chars = rest.chars();
        match chars.next().ok_or("a double quote is not closed")? {
            '"' => return Ok((found, chars.as_str())),
            '\\' => rest = escape(chars.as_str(), &mut found)?,
            c => {
                found.extend(c.encode_utf8(&mut [0; 4]).bytes());
                rest = chars.as_str();
            }
        }
    }
}

/// Resolves the escape that begins after the backslash; returns what follows it.
fn escape<'a>(text: &'a str, found: &mut Vec<u8>) -> Result<&'a str, String> {
    let mut chars = text.chars();
    let kind = chars.next().ok_or("a double quote is not closed")?;
    let simple = match kind {
        'a' => Some(7),
        'b' => Some(8),
        't' => Some(b'\t'),
        'n' => Some(b'\n'),
        'v' => Some(11),
        'f' => Some(12),
        'r' => Some(b'\r'),
        '\\' | '"' | '\'' => Some(kind as u8),
        _ => None,
    };
    if let Some(byte) = simple {
        found.push(byte);
        return Ok(chars.as_str());
    }
    let (digits, radix, from) = match kind {
        'x' => (2, 16, chars.as_str()),
        'u' => (4, 16, chars.as_str()),
        'U' => (8, 16, chars.as_str()),
        '0'..='7' => (3, 8, text),
        _ => return Err(format!("unknown escape \\{kind}")),
    };
    let number = from
        .get(..digits)
        .and_then(|digits| u32::from_str_radix(digits, radix).ok())
        .ok_or_else(|| format!("\\{kind} needs {digits} digits"))?;
    match kind {
        'u' | 'U' => {
            let c = char::from_u32(number).ok_or("no such Unicode character")?;
            found.extend(c.encode_utf8(&mut [0; 4]).bytes());
        }
        _ => found.push(u8::try_from(number).map_err(|_| "an octal escape ends at \\377")?),
    }
    Ok(&from[digits..])
}

#[cfg(test)]
mod tests;
