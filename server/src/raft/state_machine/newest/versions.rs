//! What the groups of a node remember: many versions in little memory.
//!
//! A version takes a few tens of bytes beside its key, so what a map of allocations costs for each entry
//! would be most of it. The records lie one behind the other in chunks, and an index of four bytes an entry
//! says where:
//!
//! ```text
//!   index   hash(owner, prefix) ─▶ place                   record = form (1), owner (varint),
//!                          ┌────────┘                               length of the prefix (varint), prefix,
//!   chunks  [ record record▼record ··· ] [ ··· ] [ ··· ]            what it counts
//! ```
//!
//! A key that is written again has its record overwritten where it is. When the memory is used up a chunk
//! is chosen at random and all that is in it forgotten. By their age the wrong ones would go where many
//! keys are written round and round: always those that are due next.
//!
//! Each shard is such a structure under a lock of its own, with its part of the memory; all groups share them, so
//! a group that is idle holds nothing that others need. Which names ever had a record, forgotten ones too,
//! stands in a filter beside it.

use std::{
    hash::{BuildHasher, RandomState},
    mem,
    sync::atomic::{AtomicU64, Ordering},
};

use hashbrown::HashTable;
use holdfast_mvcc::{Counters, Newest, Revision};
use parking_lot::Mutex;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use tokio::sync::Semaphore;

use super::filter::KeyFilter;
use crate::limits;

/// Parts, so that groups seldom wait for each other, and a table that grows is a small one.
const SHARDS: usize = 16;
/// Bytes whose records are forgotten together: some hundred of them.
const CHUNK_BYTES: usize = 16 * 1024;
/// Longest record, without the prefix.
const RECORD_OVERHEAD_BYTES: usize = 1 + 10 + 10 + LONG_BYTES;

const _: () = {
    assert!(limits::NEWEST_KEY_BYTES_MAX + RECORD_OVERHEAD_BYTES <= CHUNK_BYTES);
    assert!(limits::NEWEST_VERSIONS_BYTES_MAX / SHARDS >= 8 * CHUNK_BYTES);
    // A place is a number of 32 bits.
    assert!(limits::NEWEST_VERSIONS_BYTES_MAX < 1 << 32);
};

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Newest(Newest),
    /// It was neither remembered nor noted as written.
    NeverWritten,
    Nothing,
}

/// The newest versions of keys that were written last, of all groups of a node.
pub struct NewestVersions {
    /// Seeded: whoever chooses keys does not choose their hashes.
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    owners: AtomicU64,
    /// Held by the group that learns which keys its state has: one at a time.
    pub(super) learning: Semaphore,
}

impl Default for NewestVersions {
    fn default() -> Self {
        Self::of_bytes(limits::NEWEST_VERSIONS_BYTES_MAX)
    }
}

impl NewestVersions {
    pub(super) fn of_bytes(bytes_max: usize) -> Self {
        let hasher = RandomState::new();
        let shard = |number| Mutex::new(Shard::new(bytes_max / SHARDS, hasher.hash_one(number)));
        NewestVersions {
            shards: std::array::from_fn(shard),
            hasher,
            owners: AtomicU64::new(0),
            learning: Semaphore::new(1),
        }
    }

    /// A number under which nothing is remembered.
    pub(super) fn new_owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn remember(&self, owner: u64, prefix: &[u8], newest: Newest) {
        let name = Name { owner, prefix };
        let hash = name.hash(&self.hasher);
        let mut shard = self.shard(hash).lock();
        match prefix.len() <= limits::NEWEST_KEY_BYTES_MAX {
            true => shard.remember(hash, name, newest, &self.hasher),
            false => shard.written.insert(hash),
        }
    }

    /// Notes that a key was written, and not what.
    pub(super) fn note(&self, owner: u64, prefix: &[u8]) {
        let hash = Name { owner, prefix }.hash(&self.hasher);
        self.shard(hash).lock().written.insert(hash);
    }

    pub(super) fn get(&self, owner: u64, prefix: &[u8]) -> Known {
        let name = Name { owner, prefix };
        let hash = name.hash(&self.hasher);
        let shard = self.shard(hash).lock();
        match shard.get(hash, name) {
            Some(newest) => Known::Newest(newest),
            None if shard.written.may_hold(hash) => Known::Nothing,
            None => Known::NeverWritten,
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // Bits that the table neither chooses places by nor compares.
        &self.shards[(hash >> 40) as usize % SHARDS]
    }
}

/// Whose key a record is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Name<'a> {
    owner: u64,
    prefix: &'a [u8],
}

impl Name<'_> {
    fn hash(&self, hasher: &RandomState) -> u64 {
        hasher.hash_one(self)
    }
}

/// What a record says of its version. A short one does for nearly all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Short,
    Long,
}

/// Bits of the first byte of a record.
const IS_LONG: u8 = 1;
const IS_DELETION: u8 = 2;

/// Main revision (6), create revision (6), version (4): the operation is the first and there is no lease.
const SHORT_BYTES: usize = 16;
/// Main revision, operation, create revision, version, lease.
const LONG_BYTES: usize = 5 * 8;

impl Form {
    fn of(newest: &Newest) -> Self {
        let Newest { revision, counters } = newest;
        let short = |number: i64| (0..1 << 48).contains(&number);
        let counts = counters.is_none_or(|counters| {
            short(counters.create_revision)
                && (0..=i64::from(u32::MAX)).contains(&counters.version)
                && counters.lease == 0
        });
        match short(revision.main) && revision.sub == 0 && counts {
            true => Form::Short,
            false => Form::Long,
        }
    }

    fn read(first: u8) -> Self {
        match first & IS_LONG {
            0 => Form::Short,
            _ => Form::Long,
        }
    }

    /// First byte of a record of this form.
    fn first(self, newest: &Newest) -> u8 {
        let long = if self == Form::Long { IS_LONG } else { 0 };
        let deletion = if newest.counters.is_none() {
            IS_DELETION
        } else {
            0
        };
        long | deletion
    }

    fn bytes(self) -> usize {
        match self {
            Form::Short => SHORT_BYTES,
            Form::Long => LONG_BYTES,
        }
    }

    /// Writes what it counts; what needs the long form must have it.
    fn encode(self, newest: &Newest, out: &mut [u8]) {
        let Revision { main, sub } = newest.revision;
        let counters = newest.counters.unwrap_or(Counters {
            create_revision: 0,
            version: 0,
            lease: 0,
        });
        let numbers = [
            (main, 6),
            (sub as i64, 0),
            (counters.create_revision, 6),
            (counters.version, 4),
            (counters.lease, 0),
        ];
        let mut rest = out;
        for (number, short_bytes) in numbers {
            let bytes = match self {
                Form::Short => short_bytes,
                Form::Long => 8,
            };
            let (here, behind) = mem::take(&mut rest).split_at_mut(bytes);
            here.copy_from_slice(&number.to_le_bytes()[..bytes]);
            rest = behind;
        }
    }

    fn decode(self, first: u8, mut bytes: &[u8]) -> Newest {
        let mut next = |short_bytes| {
            let length = match self {
                Form::Short => short_bytes,
                Form::Long => 8,
            };
            let (here, behind) = bytes.split_at(length);
            bytes = behind;
            let mut number = [0; 8];
            number[..length].copy_from_slice(here);
            i64::from_le_bytes(number)
        };
        let (main, sub) = (next(6), next(0) as u64);
        let (create_revision, version, lease) = (next(6), next(4), next(0));
        Newest {
            revision: Revision { main, sub },
            counters: (first & IS_DELETION == 0).then_some(Counters {
                create_revision,
                version,
                lease,
            }),
        }
    }
}

/// A record in a chunk.
struct Record<'a> {
    name: Name<'a>,
    first: u8,
    form: Form,
    /// Where in the chunk it says what it counts.
    counts_at: usize,
    counts: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(chunk: &'a [u8], at: usize) -> Self {
        let mut rest = &chunk[at + 1..];
        let mut number = || decode_varint(&mut rest).expect("chunks hold whole records");
        let (owner, length) = (number(), number() as usize);
        let (prefix, rest) = rest.split_at(length);
        let form = Form::read(chunk[at]);
        Record {
            name: Name { owner, prefix },
            first: chunk[at],
            form,
            counts_at: chunk.len() - rest.len(),
            counts: &rest[..form.bytes()],
        }
    }

    fn newest(&self) -> Newest {
        self.form.decode(self.first, self.counts)
    }

    fn end(&self) -> usize {
        self.counts_at + self.form.bytes()
    }
}

/// - A place in the index is that of a whole record: the number of its chunk and where in it, as one.
/// - The index has one entry for a name. A record without one is dead: another of its name came after it.
/// - All together takes `bytes_max` at most, or a chunk and an index that holds one.
struct Shard {
    bytes_max: usize,
    index: HashTable<u32>,
    /// Each with room for `CHUNK_BYTES`, or given back.
    chunks: Vec<Vec<u8>>,
    /// Chunks that are not given back.
    held: usize,
    /// The chunk that gets new records.
    filling: usize,
    random: u64,
    /// Names that have a record, had one, or were noted.
    written: KeyFilter,
}

fn place(chunk: usize, at: usize) -> u32 {
    (chunk * CHUNK_BYTES + at) as u32
}

fn record(chunks: &[Vec<u8>], place: u32) -> Record<'_> {
    let place = place as usize;
    Record::read(&chunks[place / CHUNK_BYTES], place % CHUNK_BYTES)
}

impl Shard {
    fn new(bytes_max: usize, seed: u64) -> Self {
        Shard {
            bytes_max,
            index: HashTable::new(),
            chunks: Vec::new(),
            held: 0,
            filling: 0,
            random: seed | 1,
            written: KeyFilter::of_bytes(limits::WRITTEN_KEYS_BYTES / SHARDS),
        }
    }

    fn bytes(&self) -> usize {
        self.held * CHUNK_BYTES + self.index.allocation_size()
    }

    fn get(&self, hash: u64, name: Name) -> Option<Newest> {
        let chunks = &self.chunks;
        let is_it = |&place: &u32| record(chunks, place).name == name;
        let place = *self.index.find(hash, is_it)?;
        let record = record(chunks, place);
        Some(record.newest())
    }

    fn remember(&mut self, hash: u64, name: Name, newest: Newest, hasher: &RandomState) {
        let form = Form::of(&newest);
        let chunks = &self.chunks;
        let is_it = |&place: &u32| record(chunks, place).name == name;
        if let Ok(entry) = self.index.find_entry(hash, is_it) {
            let place = *entry.get();
            let record = record(chunks, place);
            let (old, counts) = (record.form, record.counts_at..record.end());
            if form.bytes() <= old.bytes() {
                let chunk = &mut self.chunks[place as usize / CHUNK_BYTES];
                chunk[place as usize % CHUNK_BYTES] = old.first(&newest);
                old.encode(&newest, &mut chunk[counts]);
                return;
            }
            entry.remove();
        }
        self.written.insert(hash);
        self.append(hash, name, form, newest, hasher);
    }

    fn append(&mut self, hash: u64, name: Name, form: Form, newest: Newest, hasher: &RandomState) {
        let length = name.prefix.len() as u64;
        let varints = encoded_len_varint(name.owner) + encoded_len_varint(length);
        let bytes = 1 + varints + name.prefix.len() + form.bytes();
        let full = |chunk: &Vec<u8>| chunk.len() + bytes > CHUNK_BYTES;
        if self.chunks.get(self.filling).is_none_or(full) {
            self.begin_chunk(hasher);
        }
        let chunk = &mut self.chunks[self.filling];
        let at = chunk.len();
        let counts_at = at + bytes - form.bytes();
        chunk.push(form.first(&newest));
        encode_varint(name.owner, chunk);
        encode_varint(length, chunk);
        chunk.extend_from_slice(name.prefix);
        chunk.resize(at + bytes, 0);
        form.encode(&newest, &mut chunk[counts_at..]);
        let chunks = &self.chunks;
        let rehash = |&place: &u32| record(chunks, place).name.hash(hasher);
        self.index
            .insert_unique(hash, place(self.filling, at), rehash);
        // The index may have grown.
        while self.bytes() > self.bytes_max
            && let Some(chunk) = self.any_chunk_but(Some(self.filling))
        {
            self.empty(chunk, hasher);
            self.chunks[chunk] = Vec::new();
            self.held -= 1;
        }
    }

    /// Has an empty chunk filled from now on.
    fn begin_chunk(&mut self, hasher: &RandomState) {
        let room = self.bytes() + CHUNK_BYTES <= self.bytes_max;
        let victim = self.any_chunk_but(None).filter(|_| !room);
        self.filling = match victim {
            Some(chunk) => {
                self.empty(chunk, hasher);
                chunk
            }
            None => {
                self.held += 1;
                let chunk = Vec::with_capacity(CHUNK_BYTES);
                match self.chunks.iter().position(|chunk| chunk.capacity() == 0) {
                    Some(free) => {
                        self.chunks[free] = chunk;
                        free
                    }
                    None => {
                        self.chunks.push(chunk);
                        self.chunks.len() - 1
                    }
                }
            }
        };
    }

    /// A chunk that holds something.
    fn any_chunk_but(&mut self, but: Option<usize>) -> Option<usize> {
        // Xorshift (Marsaglia 2003): nobody is to guess it, and it need not be good.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let count = self.chunks.len();
        let first = self.random as usize % count.max(1);
        let mut from_first = (first..count).chain(0..first);
        from_first.find(|&chunk| Some(chunk) != but && !self.chunks[chunk].is_empty())
    }

    /// Forgets what is in a chunk.
    fn empty(&mut self, chunk: usize, hasher: &RandomState) {
        let mut records = mem::take(&mut self.chunks[chunk]);
        let mut at = 0;
        while at < records.len() {
            let record = Record::read(&records, at);
            let (hash, here) = (record.name.hash(hasher), place(chunk, at));
            if let Ok(entry) = self.index.find_entry(hash, |&place| place == here) {
                entry.remove();
            }
            at = record.end();
        }
        records.clear();
        self.chunks[chunk] = records;
    }
}

#[cfg(test)]
mod tests;
