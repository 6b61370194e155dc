//! What the head takes, and how it gets rid of series that nobody writes to.

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use crate::metrics::head::series::MemSeries;
use crate::metrics::head::{Head, PAGE_SERIES, Place};

/// With its labels, about.
const EXEMPLAR_BYTES: usize = 256;

impl Head {
    /// Approximate, in bytes: of what is in use. Quick, and asked by every write.
    pub(crate) fn bytes_held(&self) -> usize {
        self.series_count() * (size_of::<MemSeries>() + size_of::<Place>())
            + self.series_heap_bytes
            + self.exemplars.len() * EXEMPLAR_BYTES
            + self.columns.bytes_held()
            + self.by_key.bytes_held()
            + self.by_identity.capacity() * 6
            + self.index.bytes_held()
    }

    /// What mini-chunks and late samples take: what sealing early can free of series that live.
    pub(crate) fn sealable_bytes(&self) -> usize {
        self.series_heap_bytes
    }

    /// Forgets series that hold nothing and that no write up to now is about to use: those whose
    /// last write has a sequence of at most `applied`. Returns how many went.
    pub(crate) fn drop_idle(&mut self, applied: u64) -> u64 {
        self.drop_empty(|_, place| place.last_sequence <= applied)
    }

    /// [`Self::drop_idle`] of series that are not among these, before there are any writes.
    pub(crate) fn drop_all_but(&mut self, needed: &RoaringBitmap) -> u64 {
        self.drop_empty(|id, _| !needed.contains(id))
    }

    fn drop_empty(&mut self, may_go: impl Fn(u32, &Place) -> bool) -> u64 {
        let held: BTreeSet<u32> = self.exemplars.iter().map(|known| known.id).collect();
        let goes = |id: &u32| {
            may_go(*id, &self.places[*id as usize])
                && self.series(*id).is_empty()
                && !held.contains(id)
        };
        let idle: Vec<u32> = self.ids().filter(goes).collect();
        if idle.is_empty() {
            return 0;
        }
        for &id in &idle {
            let identity = self.places[id as usize].identity;
            if let Ok(entry) = self.by_identity.find_entry(identity as u64, |other| *other == id) {
                entry.remove();
            }
            self.index.remove(id);
            self.active.leave(self.places[id as usize].marks);
            self.change(id, |series, _| *series = MemSeries::default());
            self.places[id as usize].in_use = false;
        }
        // The least are used first, so that whole pages at the end become free.
        self.free.extend(&idle);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        let places = &self.places;
        self.by_key.retain(|id| places[id as usize].in_use);
        self.companions.retain(|id| places[id as usize].in_use);
        self.give_back_pages();
        idle.len() as u64
    }

    /// Frees pages at the end that hold no series.
    fn give_back_pages(&mut self) {
        let used = self.places.iter().rposition(|place| place.in_use).map_or(0, |last| last + 1);
        let pages = used.div_ceil(PAGE_SERIES);
        if pages < self.pages.len() {
            self.pages.truncate(pages);
            self.places.truncate(used);
            self.places.shrink_to_fit();
            self.free.retain(|id| (*id as usize) < used);
            self.free.shrink_to_fit();
        }
        self.by_key.shrink();
        if self.by_identity.len() < self.by_identity.capacity() / 4 {
            let places = &self.places;
            self.by_identity.shrink_to_fit(|id| places[*id as usize].identity as u64);
        }
    }

    /// Series that nobody has written to since this write, and that hold something.
    pub(crate) fn idle_since(&self, sequence: u64) -> impl Iterator<Item = u32> + '_ {
        let is_idle = move |id: &u32| self.is_idle(*id, sequence) && !self.series(*id).is_empty();
        self.ids().filter(is_idle)
    }

    /// Series with more mini-chunks and late samples than others; at most `max`.
    pub(crate) fn largest(&self, max: usize) -> Vec<u32> {
        let average = self.series_heap_bytes / self.series_count().max(1);
        let is_large = |id: &u32| self.series(*id).heap_bytes() * 2 >= average.max(1);
        self.ids().filter(is_large).take(max).collect()
    }

    pub(crate) fn is_idle(&self, id: u32, sequence: u64) -> bool {
        self.places[id as usize].last_sequence <= sequence
    }
}
