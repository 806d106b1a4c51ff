//! Decoders meet bytes that nobody meant to write: what comes from a socket or a disk may be cut, torn,
//! old, or made by somebody else. A decoder must tell what is wrong with it, and never panic.
//!
//! ```text
//!   what the encoder writes ─┐
//!   corpus/TARGET/*  ────────┴─▶ as it is, then changed in up to six places ─▶ decoder
//! ```
//!
//! It runs with the other tests on stable Rust, with the same inputs every time; more of them with
//! `HOLDFAST_FUZZ_CASES=100000 cargo test -p holdfast-server fuzz`. An input that fails is reduced and
//! printed; it belongs into the corpus, where it is tried first from then on.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use std::{env, fmt, fs, panic::RefUnwindSafe, path::Path};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

/// Inputs that each decoder gets when nobody asks for more.
const CASES: u32 = 2_000;

/// A change of an input: what, where, and with which number.
type Edit = (u8, u32, u64);

struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Numbers at which decoders go wrong.
fn odd_number(choice: u64) -> u64 {
    match choice % 8 {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => u64::from(u32::MAX),
        4 => i64::MAX as u64,
        5 => i32::MAX as u64,
        _ => choice,
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (place, byte) in bytes[at..].iter_mut().zip(with) {
        *place = *byte;
    }
}

fn edit(bytes: &mut Vec<u8>, (kind, at, value): Edit) {
    let at = at as usize % (bytes.len() + 1);
    let [byte, len, ..] = value.to_le_bytes();
    let number = odd_number(value);
    match kind % 8 {
        0 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
        1 if at < bytes.len() => bytes[at] = byte,
        2 => bytes.truncate(at),
        3 => bytes.insert(at, byte),
        4 => overwrite(bytes, at, &number.to_le_bytes()),
        5 => overwrite(bytes, at, &(number as u32).to_be_bytes()),
        6 => drop(bytes.drain(at..(at + usize::from(len)).min(bytes.len()))),
        _ => {
            // What stands at one place stands at another, too.
            let end = (at + usize::from(len)).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            let to = value as usize % (bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
    }
}

/// Runs a decoder on what its encoder wrote, on the corpus, and on much that is near both.
#[track_caller]
pub(crate) fn check(
    target: &str,
    written: impl IntoIterator<Item = Vec<u8>>,
    decode: impl Fn(&[u8]) + RefUnwindSafe,
) {
    let mut inputs: Vec<Vec<u8>> = written.into_iter().collect();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let files = fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
    inputs.extend(files.map(|file| fs::read(file.unwrap().path()).unwrap()));
    for input in &inputs {
        decode(input);
    }
    let cases = env::var("HOLDFAST_FUZZ_CASES").ok();
    let config = Config {
        cases: cases.map_or(CASES, |cases| cases.parse().expect("a number of cases")),
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let near = (0..inputs.len(), vec(any::<Edit>(), 1..6)).prop_map({
        let inputs = inputs.clone();
        move |(from, edits)| {
            let mut bytes = inputs[from].clone();
            for change in edits {
                edit(&mut bytes, change);
            }
            Input(bytes)
        }
    });
    let strategy = prop_oneof![
        9 => near,
        1 => vec(any::<u8>(), 0..200).prop_map(Input),
    ];
    let outcome = TestRunner::new_with_rng(config, rng).run(&strategy, |input| {
        decode(&input.0);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, input)) => {
            panic!("{why}\nthe input belongs into corpus/{target}/:\nb\"{input:?}\"")
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
