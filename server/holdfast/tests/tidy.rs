//! What holds for the text of the repository and no compiler checks: how long files are, where bounds
//! stand, which crate is known where, what documentation points to. A rule has a reason, stated with it;
//! what it does not hold for yet is on a list that may only shrink.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, not the functions that they share"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Longest file of a library or a program, in lines: what one reads in one go.
const LINES_MAX: usize = 500;
/// Longest file of tests, which are read one by one.
const TEST_LINES_MAX: usize = 600;
/// Files that are longer, and how long they may be. One that became shorter gets its new length or
/// leaves the list.
const LONGER: &[(&str, usize)] = &[
    ("server/src/config/tests.rs", 708),
    ("server/src/group/failover/simulation.rs", 752),
    // One place for all bounds is worth more than a short file.
    ("server/src/limits.rs", 650),
    ("server/src/storage/state/tests.rs", 762),
];

/// Constants of the library that are named like bounds and stand where they are used: they are a part of
/// a format or a protocol, or of a test.
const BOUNDS_ELSEWHERE: &[(&str, &str)] = &[
    ("server/src/service/authority.rs", "FRAME_BYTES_MAX"),
    ("server/src/service/peer/client.rs", "BATCH_MAX"),
    ("server/src/service/peer/link.rs", "BATCH_MAX"),
    (
        "server/src/storage/log/format/layout.rs",
        "RECORD_BYTES_MAX",
    ),
    (
        "server/src/storage/log/format/layout.rs",
        "SEGMENT_VERSION_MIN",
    ),
    (
        "server/src/storage/lsm_engine/long_keys.rs",
        "KEY_BYTES_MAX",
    ),
    ("server/src/storage/memory_engine.rs", "SCAN_RECORDS_MAX"),
];

/// Words that have no place in a text that others read: notes to oneself, and paths of one machine.
const FORBIDDEN: &[&str] = &[
    "TO\u{44}O",
    "FIX\u{4d}E",
    "XX\u{58}",
    "HAC\u{4b}",
    "/hom\u{65}/",
    "/roo\u{74}/",
    "/wor\u{6b}/",
];
/// Names that were replaced by those that everybody uses.
const REPLACED: &[(&str, &str)] = &[
    ("const LOOK_EVERY", "POLL_INTERVAL"),
    ("nemesis::ground", "nemesis::active_faults"),
];
/// Names of files that say nothing of what is in them.
const EMPTY_NAMES: &[&str] = &[
    "common", "helper", "helpers", "manager", "misc", "types", "util", "utils",
];

/// A file of the repository.
struct Text {
    /// Where, from the root, with `/`.
    path: String,
    text: String,
}

impl Text {
    /// Holds nothing but tests.
    fn is_test(&self) -> bool {
        let stem = self.path.trim_end_matches(".rs");
        stem.ends_with("/tests") || stem.ends_with("_tests") || stem.contains("/tests/")
    }

    /// The lines before the tests at the end of the file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines
            .take_while(|(_, line)| !line.starts_with("mod tests {"))
            .map(|(at, line)| (at + 1, line))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The texts of the repository that have one of these endings.
fn texts(endings: &[&str]) -> Vec<Text> {
    let root = root();
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_hidden = name.starts_with('.') && name != ".ci";
            if path.is_dir() {
                // Recorded inputs and outputs are not ours to word; a directory with a `CACHEDIR.TAG` is
                // one that cargo builds in.
                let is_recorded = ["testdata", "expected", "scripts", "corpus"].contains(&&*name);
                if !is_hidden
                    && !is_recorded
                    && !path.join("CACHEDIR.TAG").exists()
                    && name != "target"
                {
                    directories.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(&root).unwrap();
                found.push(Text {
                    path: relative.to_string_lossy().replace('\\', "/"),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(found.len() > 5, "only {} texts", found.len());
    found
}

fn rust() -> Vec<Text> {
    texts(&[".rs"])
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn files_are_short_enough_to_be_read_in_one_go() {
    let mut wrong = Vec::new();
    let mut listed: BTreeSet<&str> = LONGER.iter().map(|(path, _)| *path).collect();
    for file in rust() {
        let lines = file.text.lines().count();
        let usual = if file.is_test() {
            TEST_LINES_MAX
        } else {
            LINES_MAX
        };
        let allowed = LONGER.iter().find(|(path, _)| *path == file.path);
        match allowed {
            Some((path, allowed)) => {
                listed.remove(path);
                if lines > *allowed {
                    wrong.push(format!("{path}: {lines} lines, and {allowed} before"));
                } else if lines <= usual {
                    wrong.push(format!("{path}: {lines} lines; strike it from the list"));
                }
            }
            None if lines > usual => {
                wrong.push(format!("{}: {lines} lines, at most {usual}", file.path));
            }
            None => {}
        }
    }
    wrong.extend(
        listed
            .iter()
            .map(|path| format!("{path}: is not there; strike it from the list")),
    );
    none("files that are too long", &wrong);
}

#[test]
fn a_module_begins_with_why_it_exists() {
    let silent = rust()
        .into_iter()
        .filter(|file| !file.path.ends_with("/tests.rs") && !file.text.starts_with("//!"));
    let silent: Vec<String> = silent.map(|file| file.path).collect();
    none("files that do not begin with `//!`", &silent);
}

/// A crate for tests may have `mod.rs`: cargo takes every file beside the tests for one.
#[test]
fn a_module_lies_beside_the_directory_of_its_children() {
    let files = rust().into_iter().map(|file| file.path);
    let found = files.filter(|path| path.ends_with("/mod.rs") && !path.contains("/tests/"));
    let found: Vec<String> = found.collect();
    none("modules in `mod.rs`", &found);
}

#[test]
fn a_file_is_named_for_what_it_holds() {
    let files = rust().into_iter().map(|file| file.path);
    let found = files.filter(|path| {
        let name = path.rsplit('/').next().unwrap().trim_end_matches(".rs");
        EMPTY_NAMES.contains(&name)
    });
    let found: Vec<String> = found.collect();
    none("names that say nothing", &found);
}

/// The bounds are read together and checked against each other.
#[test]
fn every_bound_of_the_library_stands_in_one_file() {
    let endings = ["_MAX", "_MIN", "_DEFAULT", "_CEILING"];
    let mut found = BTreeSet::new();
    for file in rust() {
        if !file.path.starts_with("server/src/")
            || file.path.ends_with("/limits.rs")
            || file.is_test()
        {
            continue;
        }
        for (_, line) in file.code() {
            let Some((before, rest)) = line.split_once("const ") else {
                continue;
            };
            let is_item = before.trim().is_empty() || before.trim_start().starts_with("pub");
            let name = rest.split(':').next().unwrap();
            if is_item && endings.iter().any(|ending| name.ends_with(ending)) {
                found.insert((file.path.clone(), name.to_owned()));
            }
        }
    }
    let listed = BOUNDS_ELSEWHERE.iter();
    let listed: BTreeSet<_> = listed
        .map(|(path, name)| ((*path).to_owned(), (*name).to_owned()))
        .collect();
    let wrong: Vec<String> = found
        .symmetric_difference(&listed)
        .map(|(path, name)| format!("{path}: {name}"))
        .collect();
    none(
        "bounds to be moved to limits.rs, or to be struck from the list",
        &wrong,
    );
}

/// They are public, so the compiler does not say it.
#[test]
fn every_bound_is_used() {
    let files = rust();
    let limits = files
        .iter()
        .find(|file| file.path == "server/src/limits.rs")
        .unwrap();
    let names = limits.text.lines().filter_map(|line| {
        let rest = line.strip_prefix("pub const ")?;
        Some(rest.split(':').next().unwrap())
    });
    let is_word = |text: &str, name: &str| {
        text.match_indices(name).any(|(at, _)| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            !text[..at].ends_with(is_part) && !text[at + name.len()..].starts_with(is_part)
        })
    };
    let unused: Vec<String> = names
        .filter(|name| {
            !files
                .iter()
                .any(|file| file.path != limits.path && is_word(&file.text, name))
        })
        .map(str::to_owned)
        .collect();
    none("bounds that nothing keeps to", &unused);
}

/// What a crate is known for stays behind one wall, so that it can be replaced.
#[test]
fn a_crate_is_known_in_one_place() {
    let walls: [(&str, &[&str]); 4] = [
        ("tonic", &["server/src/service/", "server/src/service.rs"]),
        ("openraft", &["server/src/raft/", "server/src/raft.rs"]),
        ("sled", &["server/src/storage/sled_engine"]),
        ("lsm_tree", &["server/src/storage/lsm_engine"]),
    ];
    let mut found = Vec::new();
    for file in rust() {
        if !file.path.starts_with("server/src/") || file.is_test() {
            continue;
        }
        for (name, places) in walls {
            if places.iter().any(|place| file.path.starts_with(place)) {
                continue;
            }
            let path = format!("{name}::");
            for (at, line) in file.code() {
                let uses = line.match_indices(&path).any(|(at, _)| {
                    !line[..at]
                        .ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':')
                });
                if uses && !line.trim_start().starts_with("//") {
                    found.push(format!("{}:{at}: {name}", file.path));
                }
            }
        }
    }
    none("crates outside of their walls", &found);
}

/// The state machine and placement get no clock, no randomness and no I/O even by mistake.
#[test]
fn a_pure_crate_depends_on_nothing_that_acts() {
    for name in ["mvcc", "placement"] {
        let path = root().join("server").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(path).unwrap();
        let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
        let dependencies = rest.split("\n[").next().unwrap();
        for acts in [
            "tokio", "tonic", "openraft", "sled", "lsm-tree", "rand", "libc", "tracing",
        ] {
            let found = dependencies.lines().find(|line| line.starts_with(acts));
            assert_eq!(found, None, "{name}");
        }
    }
}

/// Why a crate is there stands beside it.
#[test]
fn every_dependency_has_its_reason() {
    let mut silent = Vec::new();
    for file in texts(&["Cargo.toml"]) {
        let mut is_list = false;
        for line in file.text.lines() {
            if line.starts_with('[') {
                is_list = [
                    "[dependencies]",
                    "[dev-dependencies]",
                    "[build-dependencies]",
                ]
                .contains(&line);
            } else if is_list
                && line.contains('=')
                && !line.contains('#')
                && !line.starts_with("holdfast-")
            {
                silent.push(format!("{}: {line}", file.path));
            }
        }
    }
    none("dependencies without a reason", &silent);
}

#[test]
fn no_text_has_words_that_concern_its_author_alone() {
    let mut found = Vec::new();
    for file in texts(&[".rs", ".md", ".toml", ".proto", "run", "etcdctl-compare"]) {
        for (at, line) in file.text.lines().enumerate() {
            for word in FORBIDDEN {
                if line.contains(word) {
                    found.push(format!("{}:{}: {word}", file.path, at + 1));
                }
            }
            for (old, new) in REPLACED {
                if line.contains(old) && !file.path.ends_with("tests/tidy.rs") {
                    found.push(format!("{}:{}: {old} is {new}", file.path, at + 1));
                }
            }
        }
    }
    none("words that do not belong here", &found);
}

/// A path in a document is one that a reader can open.
#[test]
fn documents_name_files_that_exist() {
    let root = root();
    let tops = [
        "server/", "client/", "jepsen/", "proto/", "docs/", "deploy/", ".ci/",
    ];
    let mut missing = Vec::new();
    for file in texts(&[".md"]) {
        let directory = Path::new(&file.path).parent().unwrap().to_owned();
        let quoted = file.text.split('`').skip(1).step_by(2);
        let quoted = quoted.filter(|text| tops.iter().any(|top| text.starts_with(top)));
        let quoted = quoted.filter(|text| !text.contains(char::is_whitespace));
        let quoted = quoted.map(|text| (text, root.join(text)));
        let links = file.text.split("](").skip(1);
        let links = links.filter_map(|rest| rest.split([')', '#']).next());
        let links = links.filter(|link| !link.is_empty() && !link.contains("://"));
        let links = links.map(|link| (link, root.join(&directory).join(link)));
        for (text, path) in quoted.chain(links) {
            if !path.exists() {
                missing.push(format!("{}: {text}", file.path));
            }
        }
    }
    none("files that are not there", &missing);
}
