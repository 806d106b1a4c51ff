//! Keys and values are bytes; a terminal and JSON want text.
//!
//! | given with | on the command line | in plain and table output | in JSON |
//! | --- | --- | --- | --- |
//! | nothing | as it is | as it is; if not UTF-8, with `\xNN` for what is not printable ASCII | a string; if not UTF-8, `{"base64": "…"}` |
//! | `--hex` | hexadecimal digits | the same | a string of them |
//! | `--base64` | base64 (RFC 4648, padded) | the same | a string of it |

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use base64::{Engine, engine::general_purpose::STANDARD};
use holdfast_client::Bytes;
use serde_json::{Value, json};

use crate::exit::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Text,
    Hex,
    Base64,
}

impl Encoding {
    /// What an argument stands for.
    pub fn decode_arg(self, text: &OsStr) -> Result<Bytes, Failure> {
        self.decode(text.as_bytes())
    }

    pub fn decode(self, text: &[u8]) -> Result<Bytes, Failure> {
        match self {
            Encoding::Text => Ok(Bytes::copy_from_slice(text)),
            Encoding::Hex => from_hex(text).map(Bytes::from).ok_or_else(|| {
                let text = String::from_utf8_lossy(text);
                Failure::usage(format!(
                    "{text:?} is not hexadecimal: pairs of digits are expected"
                ))
            }),
            Encoding::Base64 => STANDARD.decode(text).map(Bytes::from).map_err(|error| {
                let text = String::from_utf8_lossy(text);
                Failure::usage(format!("{text:?} is not base64: {error}"))
            }),
        }
    }

    /// For plain and table output.
    pub fn show(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Text => match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => escape(bytes),
            },
            Encoding::Hex => to_hex(bytes),
            Encoding::Base64 => STANDARD.encode(bytes),
        }
    }

    pub fn json(self, bytes: &[u8]) -> Value {
        match (self, std::str::from_utf8(bytes)) {
            (Encoding::Text, Ok(text)) => json!(text),
            (Encoding::Text, Err(_)) => json!({ "base64": STANDARD.encode(bytes) }),
            (Encoding::Hex | Encoding::Base64, _) => json!(self.show(bytes)),
        }
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

/// Printable ASCII as it is, the backslash doubled, the rest as `\xNN`.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for &byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_hex_and_base64() {
        let all: Vec<u8> = (0..=255).collect();
        for encoding in [Encoding::Hex, Encoding::Base64] {
            for length in 0..all.len() {
                let shown = encoding.show(&all[..length]);
                let back = encoding.decode(shown.as_bytes()).expect("its own output");
                assert_eq!(&back[..], &all[..length], "{encoding:?}");
                assert_eq!(encoding.json(&all[..length]), json!(shown));
            }
        }
    }

    #[test]
    fn text_is_taken_and_shown_as_it_is() {
        let text = "Grüße\n\t\\x41";
        assert_eq!(
            &Encoding::Text.decode(text.as_bytes()).expect("any bytes")[..],
            text.as_bytes()
        );
        assert_eq!(Encoding::Text.show(text.as_bytes()), text);
        assert_eq!(Encoding::Text.json(text.as_bytes()), json!(text));
    }

    #[test]
    fn bytes_that_are_not_text_are_told_apart() {
        assert_eq!(Encoding::Text.show(b"a\\\xff\n"), "a\\\\\\xff\\x0a");
        assert_eq!(
            Encoding::Text.json(b"\xff\x00"),
            json!({ "base64": "/wA=" })
        );
    }

    #[test]
    fn wrong_input_is_refused() {
        for wrong in ["0", "0g", "é0", " 00"] {
            assert!(Encoding::Hex.decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        for wrong in ["a", "a===", "/w", "/wA=\n"] {
            assert!(
                Encoding::Base64.decode(wrong.as_bytes()).is_err(),
                "{wrong}"
            );
        }
    }
}
