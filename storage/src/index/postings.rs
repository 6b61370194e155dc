//! Postings in memory: the set of series that have a label pair.
//!
//! Most pairs of a churning index belong to few series, so a set is a bitmap only once it is
//! large; until then it is one id or a short sorted list.

use std::borrow::Cow;

use roaring::RoaringBitmap;

/// Ids in a list before it becomes a bitmap: a bitmap takes about 100 bytes more than its ids.
const FEW_LIMIT: usize = 32;

/// Ids in a range that a union inserts as such.
const LONG_RANGE: u32 = 16;

/// Uniting two bitmaps copies both: one of fewer ids is quicker taken apart.
const LARGE_BITMAP: u64 = 4096;

/// Series ids of one pair.
#[derive(Clone, Debug)]
pub(super) enum Postings {
    One(u32),
    /// Ascending; empty only between creation and the first insertion.
    Few(Vec<u32>),
    Bitmap(RoaringBitmap),
}

impl Default for Postings {
    fn default() -> Postings {
        Postings::Few(Vec::new())
    }
}

impl Postings {
    pub(super) fn insert(&mut self, id: u32) {
        match self {
            Postings::One(other) if *other == id => {}
            Postings::One(other) => {
                // The least that an allocator gives has room for these.
                let mut ids = Vec::with_capacity(6);
                ids.extend([id.min(*other), id.max(*other)]);
                *self = Postings::Few(ids);
            }
            Postings::Few(ids) if ids.is_empty() => *self = Postings::One(id),
            Postings::Few(ids) => match ids.binary_search(&id) {
                Ok(_) => {}
                Err(_) if ids.len() == FEW_LIMIT => {
                    let mut bitmap: RoaringBitmap = ids.iter().copied().collect();
                    bitmap.insert(id);
                    *self = Postings::Bitmap(bitmap);
                }
                Err(at) => ids.insert(at, id),
            },
            Postings::Bitmap(bitmap) => {
                bitmap.insert(id);
            }
        }
    }

    /// Inserts all ids from `first` to `last`.
    pub(super) fn insert_range(&mut self, first: u32, last: u32) {
        match self {
            Postings::Bitmap(bitmap) if first < last => _ = bitmap.insert_range(first..=last),
            _ if (last - first) as usize >= FEW_LIMIT => {
                let mut bitmap = self.to_bitmap().into_owned();
                bitmap.insert_range(first..=last);
                *self = Postings::Bitmap(bitmap);
            }
            _ => (first..=last).for_each(|id| self.insert(id)),
        }
    }

    pub(super) fn remove(&mut self, id: u32) {
        match self {
            Postings::One(other) if *other == id => *self = Postings::default(),
            Postings::One(_) => {}
            Postings::Few(ids) => {
                if let Ok(at) = ids.binary_search(&id) {
                    ids.remove(at);
                }
            }
            Postings::Bitmap(bitmap) => {
                // Not at the limit itself, or a set there would change form back and forth.
                if bitmap.remove(id) && bitmap.len() as usize <= FEW_LIMIT / 2 {
                    *self = Postings::Few(bitmap.iter().collect());
                }
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Postings::One(_) => 1,
            Postings::Few(ids) => ids.len() as u64,
            Postings::Bitmap(bitmap) => bitmap.len(),
        }
    }

    /// How many of them are in `ids`.
    pub(super) fn len_among(&self, ids: &RoaringBitmap) -> u64 {
        let count = |others: &[u32]| others.iter().filter(|id| ids.contains(**id)).count() as u64;
        match self {
            Postings::One(id) => count(&[*id]),
            Postings::Few(few) => count(few),
            Postings::Bitmap(bitmap) => bitmap.intersection_len(ids),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn intersects(&self, ids: &RoaringBitmap) -> bool {
        match self {
            Postings::One(id) => ids.contains(*id),
            Postings::Few(few) => few.iter().any(|id| ids.contains(*id)),
            Postings::Bitmap(bitmap) => !bitmap.is_disjoint(ids),
        }
    }

    /// Whether any of them passes, in order of the ids.
    pub(super) fn any(&self, mut passes: impl FnMut(u32) -> bool) -> bool {
        match self {
            Postings::One(id) => passes(*id),
            Postings::Few(few) => few.iter().any(|id| passes(*id)),
            Postings::Bitmap(bitmap) => bitmap.iter().any(passes),
        }
    }

    pub(super) fn to_bitmap(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Postings::One(id) => Cow::Owned(RoaringBitmap::from_iter([*id])),
            Postings::Few(ids) => Cow::Owned(ids.iter().copied().collect()),
            Postings::Bitmap(bitmap) => Cow::Borrowed(bitmap),
        }
    }

    /// Bytes on the heap, about.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Postings::One(_) => 0,
            Postings::Few(ids) => ids.capacity() * 4,
            Postings::Bitmap(bitmap) => bitmap_bytes(bitmap),
        }
    }
}

/// Bytes that a bitmap has on the heap, about.
pub(super) fn bitmap_bytes(bitmap: &RoaringBitmap) -> usize {
    const CONTAINER_BYTES: usize = 48;
    let statistics = bitmap.statistics();
    let contents = statistics.n_bytes_array_containers
        + statistics.n_bytes_run_containers
        + statistics.n_bytes_bitset_containers;
    contents as usize + statistics.n_containers as usize * CONTAINER_BYTES
}

/// Gathers the union of many sets. Short ones are collected first and put in at once, since a
/// bitmap is slow to be inserted into out of order.
#[derive(Debug, Default)]
pub(super) struct Union {
    ids: Vec<u32>,
    bitmap: RoaringBitmap,
}

impl Union {
    pub(super) fn add(&mut self, postings: &Postings) {
        match postings {
            Postings::One(id) => self.ids.push(*id),
            Postings::Few(ids) => self.ids.extend_from_slice(ids),
            Postings::Bitmap(bitmap) => self.add_bitmap(bitmap),
        }
    }

    pub(super) fn add_bitmap(&mut self, bitmap: &RoaringBitmap) {
        if bitmap.len() > LARGE_BITMAP {
            self.bitmap |= bitmap;
            return;
        }
        let mut rest = bitmap.iter();
        while let Some(range) = rest.next_range() {
            self.add_range(*range.start(), *range.end());
        }
    }

    pub(super) fn add_range(&mut self, first: u32, last: u32) {
        if last - first < LONG_RANGE {
            self.ids.extend(first..=last);
        } else {
            self.bitmap.insert_range(first..=last);
        }
    }

    pub(super) fn finish(mut self) -> RoaringBitmap {
        self.ids.sort_unstable();
        self.ids.dedup();
        self.bitmap |= RoaringBitmap::from_sorted_iter(self.ids).expect("sorted and without twins");
        self.bitmap
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn postings_are_a_set(steps: Vec<(bool, u8, u8)>) {
            let mut postings = Postings::default();
            let mut model = BTreeSet::new();
            for (insert, id, more) in steps {
                let (id, more) = (u32::from(id), u32::from(more % 50));
                if insert && more % 2 == 0 {
                    postings.insert_range(id, id + more);
                    model.extend(id..=id + more);
                } else if insert {
                    postings.insert(id);
                    model.insert(id);
                } else {
                    postings.remove(id);
                    model.remove(&id);
                }
                prop_assert_eq!(postings.len(), model.len() as u64);
                prop_assert_eq!(postings.is_empty(), model.is_empty());
            }
            prop_assert!(postings.to_bitmap().iter().eq(model.iter().copied()));
            let half: RoaringBitmap = (0..128).collect();
            prop_assert_eq!(postings.intersects(&half), model.iter().any(|id| *id < 128));
            prop_assert_eq!(postings.len_among(&half), model.range(..128).count() as u64);
            let mut union = Union::default();
            union.add(&postings);
            union.add(&Postings::One(7));
            model.insert(7);
            prop_assert!(union.finish().iter().eq(model));
        }
    }
}
