//! Hash tables by byte strings: labels, and keys made of them.
//!
//! xxh3 under a seed that each table draws for itself: clients choose labels, and must not be able to
//! choose their places. Of keys of some dozen bytes it takes a quarter of what the standard
//! library's hash takes.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) type KeyMap<K, V> = HashMap<K, V, KeyHash>;

#[derive(Clone, Debug)]
pub(crate) struct KeyHash {
    seed: u64,
}

impl Default for KeyHash {
    fn default() -> KeyHash {
        KeyHash { seed: RandomState::new().hash_one(0) }
    }
}

impl BuildHasher for KeyHash {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { hash: self.seed }
    }
}

/// The hash of what was written so far is the seed of what follows.
#[derive(Debug)]
pub(crate) struct KeyHasher {
    hash: u64,
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.hash = xxh3_64_with_seed(bytes, self.hash);
    }

    /// The length before a slice.
    fn write_usize(&mut self, number: usize) {
        self.hash = self.hash.wrapping_add(number as u64);
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_tables_differ() {
        let hash = KeyHash::default();
        let of = |key: &[u8]| hash.hash_one(key);
        assert_eq!(of(b"job"), hash.hash_one(Vec::from(b"job")));
        assert_ne!(of(b"job"), of(b"jobs"));
        assert_ne!(hash.hash_one((&b"a"[..], &b"bc"[..])), hash.hash_one((&b"ab"[..], &b"c"[..])));
        assert_ne!(of(b"job"), KeyHash::default().hash_one(&b"job"[..]));
        let mut map: KeyMap<Vec<u8>, usize> = KeyMap::default();
        (0..1000usize).for_each(|number| _ = map.insert(number.to_le_bytes().to_vec(), number));
        assert!((0..1000).all(|number: usize| map.get(&number.to_le_bytes()[..]) == Some(&number)));
    }
}
