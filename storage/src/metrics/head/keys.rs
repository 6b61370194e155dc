//! Keys: from the hash of a series' labels as a sender writes them to the series.
//!
//! A key hash is 128 bits and seeded, so equal hashes are taken for equal keys; 64 bits would not
//! do (storage notes, §9). A series has as many keys as there are ways in which it is written.

use hashbrown::HashTable;

#[derive(Debug, Default)]
pub(crate) struct Keys {
    table: HashTable<Entry>,
}

/// 20 bytes: the hash in words of 32 bits, so that nothing is lost to alignment.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: [u32; 4],
    id: u32,
}

impl Keys {
    #[inline]
    pub(crate) fn get(&self, hash: u128) -> Option<u32> {
        let words = words(hash);
        self.table.find(hash as u64, |entry| entry.hash == words).map(|entry| entry.id)
    }

    pub(crate) fn insert(&mut self, hash: u128, id: u32) {
        let entry = Entry { hash: words(hash), id };
        self.table.insert_unique(hash as u64, entry, Entry::low);
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.table.retain(|entry| keep(entry.id));
    }

    /// Gives back what a table that was larger once has too much.
    pub(crate) fn shrink(&mut self) {
        if self.table.len() < self.table.capacity() / 4 {
            self.table.shrink_to_fit(Entry::low);
        }
    }

    pub(crate) fn bytes_held(&self) -> usize {
        self.table.capacity() * (size_of::<Entry>() + 1) * 8 / 7
    }
}

impl Entry {
    fn low(&self) -> u64 {
        u64::from(self.hash[1]) << 32 | u64::from(self.hash[0])
    }
}

fn words(hash: u128) -> [u32; 4] {
    [hash as u32, (hash >> 32) as u32, (hash >> 64) as u32, (hash >> 96) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_anywhere_are_different() {
        let mut keys = Keys::default();
        for bit in 0..128 {
            keys.insert(1 << bit, bit);
        }
        assert!((0..128).all(|bit| keys.get(1 << bit) == Some(bit)));
        keys.retain(|id| id % 2 == 0);
        assert_eq!((keys.get(1 << 6), keys.get(1 << 7)), (Some(6), None));
    }
}
