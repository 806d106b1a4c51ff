//! What comes back is what was remembered last, and all of it keeps within its memory.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0_i64..1_000,
        1 => prop::sample::select(vec![
            (1 << 48) - 1, 1 << 48, i64::from(u32::MAX), i64::from(u32::MAX) + 1, i64::MAX, -1, i64::MIN,
        ]),
    ]
}

fn newest() -> impl Strategy<Value = Newest> {
    let few = || prop_oneof![4 => Just(0), 1 => number()];
    let counters =
        (number(), number(), few()).prop_map(|(create_revision, version, lease)| Counters {
            create_revision,
            version,
            lease,
        });
    let revision = (number(), few()).prop_map(|(main, sub)| Revision {
        main,
        sub: sub as u64,
    });
    (revision, prop::option::weighted(0.8, counters))
        .prop_map(|(revision, counters)| Newest { revision, counters })
}

/// Keys that differ in their length, of which few fit a chunk.
fn prefix(number: u64) -> Vec<u8> {
    let length = [3, 20, 127, 128, 1000][number as usize % 5];
    let mut prefix = number.to_be_bytes().to_vec();
    prefix.resize(8 + length, 7);
    prefix
}

impl NewestVersions {
    /// Looks at every record, and at the bounds of every shard.
    fn check(&self) {
        for shard in &self.shards {
            let shard = shard.lock();
            let given_back = shard.chunks.iter().filter(|chunk| chunk.capacity() == 0);
            assert_eq!(shard.held, shard.chunks.len() - given_back.count());
            let least = CHUNK_BYTES + shard.index.allocation_size();
            assert!(
                shard.bytes() <= shard.bytes_max.max(least),
                "{} bytes of {}",
                shard.bytes(),
                shard.bytes_max
            );
            for chunk in &shard.chunks {
                assert!(chunk.capacity() == 0 || chunk.capacity() == CHUNK_BYTES);
            }
            for &place in &shard.index {
                let name = record(&shard.chunks, place).name;
                let found = shard.get(name.hash(&self.hasher), name);
                assert!(found.is_some(), "a place of which the name is not found");
            }
        }
    }

    fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().index.len())
            .sum()
    }

    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes()).sum()
    }
}

proptest! {
    #[test]
    fn what_is_remembered_is_what_came_last(
        steps in prop::collection::vec((0_u64..3, 0_u64..300, newest()), 1..600),
        chunks in 1_usize..4,
    ) {
        let versions = NewestVersions::of_bytes(SHARDS * chunks * CHUNK_BYTES);
        let mut model = HashMap::new();
        for (owner, key, newest) in steps {
            let prefix = prefix(key);
            versions.remember(owner, &prefix, newest);
            prop_assert_eq!(versions.get(owner, &prefix), Known::Newest(newest), "it has just come");
            model.insert((owner, prefix), newest);
        }
        versions.check();
        for ((owner, prefix), newest) in &model {
            let found = versions.get(*owner, prefix);
            let right = found == Known::Newest(*newest) || found == Known::Nothing;
            prop_assert!(right, "{:?} for {:?}", found, newest);
        }
        prop_assert!(versions.len() <= model.len());
    }
}

fn counted(number: i64) -> Newest {
    Newest {
        revision: Revision {
            main: number,
            sub: 0,
        },
        counters: Some(Counters {
            create_revision: number,
            version: 1,
            lease: 0,
        }),
    }
}

fn key(number: usize) -> Vec<u8> {
    format!("\x20bench/{number:010}\0\x01").into_bytes()
}

#[test]
fn a_million_keys_of_sixteen_bytes_fit_and_more_stay_within_the_memory() {
    // Half of all. With less, a chunk is so large a part of a shard that chance decides.
    let bytes_max = limits::NEWEST_VERSIONS_BYTES_MAX / 2;
    let keys = 1_000_000 / 2;
    let versions = NewestVersions::of_bytes(bytes_max);
    for number in 0..keys {
        versions.remember(2, &key(number), counted(number as i64));
    }
    versions.check();
    let bytes = versions.bytes();
    println!("{} bytes a key", bytes as f64 / keys as f64);
    assert_eq!(versions.len(), keys, "none was forgotten");
    // Written again, they take no more.
    for number in 0..keys / 5 {
        versions.remember(2, &key(number), counted((keys + number) as i64));
    }
    assert_eq!((versions.len(), versions.bytes()), (keys, bytes));
    for number in keys..keys + keys / 2 {
        versions.remember(2, &key(number), counted(number as i64));
    }
    versions.check();
    assert!(versions.bytes() <= bytes_max, "{} bytes", versions.bytes());
    assert!(
        versions.len() > keys * 9 / 10,
        "{} are left",
        versions.len()
    );
}

#[test]
fn of_keys_that_are_written_round_and_round_and_do_not_all_fit_many_are_remembered() {
    let versions = NewestVersions::of_bytes(SHARDS * 10 * CHUNK_BYTES);
    let mut next = 0;
    // As many as fit.
    while versions.bytes() + SHARDS * CHUNK_BYTES < SHARDS * 10 * CHUNK_BYTES {
        versions.remember(0, &key(next), counted(1));
        next += 1;
    }
    let keys = next * 5 / 4;
    let mut remembered = 0;
    for round in 0..6 {
        for number in 0..keys {
            let known = versions.get(0, &key(number)) == Known::Newest(counted(1));
            remembered += usize::from(known && round > 1);
            versions.remember(0, &key(number), counted(1));
        }
    }
    let share = remembered as f64 / (4 * keys) as f64;
    assert!(share > 0.4, "{share} of {keys}");
}

#[test]
fn a_key_that_is_too_long_is_not_remembered() {
    let versions = NewestVersions::default();
    let prefix = vec![7; limits::NEWEST_KEY_BYTES_MAX + 1];
    versions.remember(0, &prefix, counted(1));
    assert_eq!(versions.get(0, &prefix), Known::Nothing);
    versions.remember(0, &prefix[1..], counted(1));
    assert_eq!(versions.get(0, &prefix[1..]), Known::Newest(counted(1)));
}

#[test]
fn a_key_that_was_neither_written_nor_noted_is_known_as_such() {
    let versions = NewestVersions::default();
    assert_eq!(versions.get(0, &key(1)), Known::NeverWritten);
    versions.note(0, &key(1));
    assert_eq!(versions.get(0, &key(1)), Known::Nothing);
    assert_eq!(versions.get(1, &key(1)), Known::NeverWritten, "of another");
}
