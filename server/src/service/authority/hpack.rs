//! As much of HPACK (RFC 7541) as it takes to find a literal `:authority` in a header block.
//!
//! No table of fields is kept: the name of the authority stands in the static table, from which
//! encoders take it, and a value that is only referred to was let through or replaced before.

use std::ops::Range;

/// Index of `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;

/// Huffman codes (RFC 7541, appendix B) up to 15 bits: length, and the characters that have it. The
/// code is canonical: codes count up along this list, doubling with each bit. Longer codes are of
/// no character that an authority of any client has.
const HUFFMAN: [(u32, &[u8]); 10] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
];

/// A value that stands in the block itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Literal {
    /// Where its string lies in the block, length and all.
    pub at: Range<usize>,
    /// Decoded.
    pub value: Vec<u8>,
}

/// The authority, if it stands in the block and can be read.
pub(super) fn authority(block: &[u8]) -> Option<Literal> {
    let mut rest = block;
    while let Some(&first) = rest.first() {
        // RFC 7541, 6: what a field begins with.
        let name = match first {
            // A field of a table.
            0x80.. => {
                integer(&mut rest, 7)?;
                continue;
            }
            // To be added to the table.
            0x40.. => integer(&mut rest, 6)?,
            // A new size of the table.
            0x20.. => {
                integer(&mut rest, 5)?;
                continue;
            }
            // Not to be added.
            _ => integer(&mut rest, 4)?,
        };
        let is_authority = match name {
            0 => read_string(&mut rest).and_then(decode)? == b":authority",
            AUTHORITY => true,
            _ => false,
        };
        let start = block.len() - rest.len();
        let value = read_string(&mut rest)?;
        if is_authority {
            return Some(Literal {
                at: start..block.len() - rest.len(),
                value: decode(value)?,
            });
        }
    }
    None
}

/// Appends a string that is not Huffman-coded.
pub(super) fn write_string(value: &[u8], to: &mut Vec<u8>) {
    if value.len() < 0x7f {
        to.push(value.len() as u8);
    } else {
        to.push(0x7f);
        let mut left = value.len() - 0x7f;
        while left >= 0x80 {
            to.push(0x80 | (left & 0x7f) as u8);
            left >>= 7;
        }
        to.push(left as u8);
    }
    to.extend_from_slice(value);
}

/// RFC 7541, 5.1; at most two bytes follow the prefix, more than a frame needs.
fn integer(from: &mut &[u8], prefix: u32) -> Option<usize> {
    let max = (1 << prefix) - 1;
    let mut value = usize::from(*from.split_off_first()?) & max;
    if value < max {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = *from.split_off_first()?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string as it stands in a block: coded or not, and its bytes.
fn read_string<'a>(from: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let coded = from.first()? & 0x80 != 0;
    let length = integer(from, 7)?;
    Some((coded, from.split_off(..length)?))
}

fn decode((coded, bytes): (bool, &[u8])) -> Option<Vec<u8>> {
    if !coded {
        return Some(bytes.to_vec());
    }
    let mut decoded = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut code, mut bits) = (0_u32, 0);
    for bit in bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        code = code << 1 | u32::from(bit);
        bits += 1;
        if let Some(character) = character(code, bits) {
            decoded.push(character);
            (code, bits) = (0, 0);
        } else if bits >= 15 {
            return None;
        }
    }
    // Ones fill the last byte (RFC 7541, 5.2).
    (bits < 8 && code + 1 == 1 << bits).then_some(decoded)
}

/// The character that a code of so many bits stands for.
fn character(code: u32, bits: u32) -> Option<u8> {
    let (mut first, mut length) = (0, 0);
    for (next_length, characters) in HUFFMAN {
        first <<= next_length - length;
        length = next_length;
        if length == bits {
            let at = code.checked_sub(first)?;
            return characters.get(at as usize).copied();
        }
        first += characters.len() as u32;
    }
    None
}
