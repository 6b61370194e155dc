//! Interned label pairs: each name and each pair has one small number and its text once.
//!
//! Numbers are given again after a pair is removed, so they mean something only as long as the
//! caller keeps the pair. Each pair carries something of the caller's, as its postings.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) type NameId = u32;
pub(super) type PairId = u32;

/// Pairs, each with a `T`.
#[derive(Debug)]
pub(super) struct Pairs<T> {
    names: Vec<Name>,
    names_by_text: HashTable<NameId>,
    free_names: Vec<NameId>,
    pairs: Vec<Pair<T>>,
    pairs_by_text: HashTable<PairId>,
    free_pairs: Vec<PairId>,
    /// Different in every process, so that nobody can send labels that collide.
    seed: u64,
}

#[derive(Debug)]
struct Name {
    text: Arc<str>,
    pairs: u32,
}

#[derive(Debug)]
pub(super) struct Pair<T> {
    pub(super) name: NameId,
    pub(super) value: Arc<str>,
    pub(super) payload: T,
}

impl<T: Default> Pairs<T> {
    pub(super) fn new() -> Pairs<T> {
        Pairs {
            names: Vec::new(),
            names_by_text: HashTable::new(),
            free_names: Vec::new(),
            pairs: Vec::new(),
            pairs_by_text: HashTable::new(),
            free_pairs: Vec::new(),
            seed: RandomState::new().hash_one(0u8),
        }
    }

    /// The pair's number, and whether it is new. `hint` may be any pair, best one that is likely
    /// the same: that of the series before.
    pub(super) fn intern(
        &mut self,
        name: &str,
        value: &str,
        hint: Option<PairId>,
    ) -> (PairId, bool) {
        let same = |id: &PairId| {
            let pair = &self.pairs[*id as usize];
            *pair.value == *value && *self.names[pair.name as usize].text == *name
        };
        if let Some(id) = hint.filter(same) {
            return (id, false);
        }
        let name = self.intern_name(name);
        self.intern_value(name, value)
    }

    /// As [`Self::intern`], of a name by its number.
    pub(super) fn intern_value(&mut self, name: NameId, value: &str) -> (PairId, bool) {
        if let Some(id) = self.find_value(name, value) {
            return (id, false);
        }
        let pair = Pair { name, value: Arc::from(value), payload: T::default() };
        self.names[name as usize].pairs += 1;
        let id = match self.free_pairs.pop() {
            Some(id) => {
                self.pairs[id as usize] = pair;
                id
            }
            None => {
                self.pairs.push(pair);
                next_number(self.pairs.len())
            }
        };
        let (pairs, seed) = (&self.pairs, self.seed);
        let rehash = |id: &PairId| {
            let pair = &pairs[*id as usize];
            hash_pair(seed, pair.name, &pair.value)
        };
        self.pairs_by_text.insert_unique(hash_pair(seed, name, value), id, rehash);
        (id, true)
    }

    fn intern_name(&mut self, text: &str) -> NameId {
        if let Some(id) = self.find_name(text) {
            return id;
        }
        let name = Name { text: Arc::from(text), pairs: 0 };
        let id = match self.free_names.pop() {
            Some(id) => {
                self.names[id as usize] = name;
                id
            }
            None => {
                self.names.push(name);
                next_number(self.names.len())
            }
        };
        let (names, seed) = (&self.names, self.seed);
        let rehash = |id: &NameId| hash_name(seed, &names[*id as usize].text);
        self.names_by_text.insert_unique(hash_name(seed, text), id, rehash);
        id
    }

    /// Forgets a pair, and its name if that was its last pair: then the name's number is given.
    pub(super) fn remove(&mut self, id: PairId) -> Option<NameId> {
        let pair = &mut self.pairs[id as usize];
        let name = pair.name;
        let hash = hash_pair(self.seed, name, &pair.value);
        if let Ok(entry) = self.pairs_by_text.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        pair.value = Arc::from("");
        pair.payload = T::default();
        self.free_pairs.push(id);
        let entry = &mut self.names[name as usize];
        entry.pairs -= 1;
        if entry.pairs > 0 {
            return None;
        }
        let hash = hash_name(self.seed, &entry.text);
        if let Ok(entry) = self.names_by_text.find_entry(hash, |other| *other == name) {
            entry.remove();
        }
        self.free_names.push(name);
        Some(name)
    }
}

impl<T> Pairs<T> {
    pub(super) fn find_name(&self, text: &str) -> Option<NameId> {
        let same = |id: &NameId| *self.names[*id as usize].text == *text;
        self.names_by_text.find(hash_name(self.seed, text), same).copied()
    }

    pub(super) fn find_value(&self, name: NameId, value: &str) -> Option<PairId> {
        let same = |id: &PairId| {
            let pair = &self.pairs[*id as usize];
            pair.name == name && *pair.value == *value
        };
        self.pairs_by_text.find(hash_pair(self.seed, name, value), same).copied()
    }

    pub(super) fn name(&self, id: NameId) -> &str {
        &self.names[id as usize].text
    }

    /// Names in use, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = (NameId, &str)> {
        self.names_by_text.iter().map(|id| (*id, self.name(*id)))
    }

    pub(super) fn get(&self, id: PairId) -> &Pair<T> {
        &self.pairs[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: PairId) -> &mut Pair<T> {
        &mut self.pairs[id as usize]
    }

    /// Pairs in use.
    pub(super) fn len(&self) -> usize {
        self.pairs_by_text.len()
    }

    /// The numbers of the pairs in use, in no order.
    pub(super) fn ids(&self) -> impl Iterator<Item = PairId> {
        self.pairs_by_text.iter().copied()
    }

    /// Bytes of the tables and the texts, about, without what `T` has on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        const ARC_BYTES: usize = 24; // two counters and the allocator's share
        let texts: usize = self.pairs.iter().map(|pair| pair.value.len() + ARC_BYTES).sum();
        texts
            + self.pairs.capacity() * size_of::<Pair<T>>()
            + self.pairs_by_text.allocation_size()
            + self.names.len() * 64
    }
}

/// The number of what was just pushed as the `length`-th.
fn next_number(length: usize) -> u32 {
    u32::try_from(length - 1).expect("memory ends before the numbers do")
}

fn hash_name(seed: u64, text: &str) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), seed)
}

fn hash_pair(seed: u64, name: NameId, value: &str) -> u64 {
    let spread = u64::from(name).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    xxh3_64_with_seed(value.as_bytes(), seed ^ spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_one_number_until_it_is_removed() {
        let mut pairs: Pairs<u32> = Pairs::new();
        let (a, new) = pairs.intern("job", "node", None);
        assert!(new);
        assert_eq!(pairs.intern("job", "node", Some(a)), (a, false));
        let (b, _) = pairs.intern("instance", "node", Some(a));
        assert_ne!(a, b);
        assert_eq!(pairs.intern("job", "node", Some(b)), (a, false));
        assert_eq!(pairs.len(), 2);

        let job = pairs.get(a).name;
        assert_eq!(pairs.remove(a), Some(job));
        assert_eq!(pairs.find_name("job"), None);
        let (c, new) = pairs.intern("zone", "x", Some(a));
        assert!(new && c == a, "numbers are used again");
        assert_eq!(pairs.name(pairs.get(c).name), "zone");
        let (d, _) = pairs.intern("zone", "y", None);
        assert_eq!(pairs.remove(d), None, "the name has another pair");
    }
}
