//! Which keys were ever written, in a few bits for each. A key of which it is certain that it was not has no
//! version, and nobody need seek one.
//!
//! A blocked Bloom filter: the bits of a key lie in one block of a cache line's size, so that a look costs
//! one access to memory (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007). With
//! ten bits for each key it takes about one in fifty for written that was not, with five one in six.

const WORDS: usize = 8;
const BLOCK_BITS: u32 = 64 * WORDS as u32;
/// Bits of a key.
const PROBES: u32 = 6;

/// - It never says of a key that was inserted that it was not.
pub(super) struct KeyFilter {
    /// Zeros take no memory before the first bit is set.
    blocks: Vec<[u64; WORDS]>,
}

impl KeyFilter {
    pub(super) fn of_bytes(bytes: usize) -> Self {
        KeyFilter {
            blocks: vec![[0; WORDS]; (bytes / size_of::<[u64; WORDS]>()).max(1)],
        }
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let block = self.block(hash);
        for (word, bit) in bits(hash) {
            self.blocks[block][word] |= bit;
        }
    }

    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        bits(hash).all(|(word, bit)| block[word] & bit != 0)
    }

    fn block(&self, hash: u64) -> usize {
        // The lower half of the hash as a fraction of the number of blocks.
        (((hash & u64::from(u32::MAX)) * self.blocks.len() as u64) >> 32) as usize
    }
}

/// Where the bits of a key are in its block: word, and bit in it.
fn bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    // Not what chooses the block: an odd factor carries every bit of the hash into the upper ones.
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..PROBES).map(move |probe| {
        let bit = (mixed >> (64 - 9 * (probe + 1))) as u32 % BLOCK_BITS;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn what_was_inserted_is_held_and_most_of_the_rest_is_not() {
        const KEYS: usize = 100_000;
        // Hashes of the standard library are seeded anew each time: what is asserted of the rest has room.
        let hasher = RandomState::new();
        let mut filter = KeyFilter::of_bytes(KEYS * 10 / 8);
        (0..KEYS).for_each(|key| filter.insert(hasher.hash_one(key)));
        assert!((0..KEYS).all(|key| filter.may_hold(hasher.hash_one(key))));
        let others = KEYS..2 * KEYS;
        let held = others.filter(|key| filter.may_hold(hasher.hash_one(key)));
        let held = held.count();
        assert!(held < KEYS / 25, "{held} of {KEYS}");
    }

    #[test]
    fn an_empty_one_holds_nothing() {
        let filter = KeyFilter::of_bytes(64);
        assert!((0..1000).all(|hash| !filter.may_hold(hash)));
    }
}
