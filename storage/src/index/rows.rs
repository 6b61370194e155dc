//! Rows: for each series the numbers of its pairs, packed.
//!
//! A row is a varint count and that many varint numbers, in canonical order of the labels. Rows
//! lie one behind the other in chunks; a removed one leaves a hole, and when holes are half of
//! everything, all rows are packed anew. About 2 to 3 bytes a label and 8 a series.

use super::pairs::PairId;
use crate::encoding::varint;

/// Bytes of a chunk; the last row may reach over. Chunks, not one vector, so that growing never
/// moves everything and never doubles the memory.
const CHUNK_BYTES: usize = 1 << 20;

/// Room in a chunk for the row that reaches over; only a giant needs more.
const SLACK_BYTES: usize = 1 << 10;

/// Holes of fewer bytes are not worth a repacking.
const WORTHWHILE_BYTES: usize = 4 * CHUNK_BYTES;

#[derive(Debug, Default)]
pub(super) struct Rows {
    /// By series id.
    places: Vec<Place>,
    chunks: Vec<Vec<u8>>,
    live_bytes: usize,
    dead_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: u32,
    offset: u32,
}

const NOWHERE: Place = Place { chunk: u32::MAX, offset: 0 };

impl Rows {
    /// Sets the row of a series, which has none yet.
    pub(super) fn insert(&mut self, id: u32, pairs: impl ExactSizeIterator<Item = PairId>) {
        let index = id as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, NOWHERE);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() >= CHUNK_BYTES) {
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES + SLACK_BYTES));
        }
        let chunk = self.chunks.last_mut().expect("one was pushed if there was none");
        let offset = chunk.len();
        varint::write(chunk, pairs.len() as u64);
        for pair in pairs {
            varint::write(chunk, u64::from(pair));
        }
        self.live_bytes += chunk.len() - offset;
        self.places[index] = Place { chunk: self.chunks.len() as u32 - 1, offset: offset as u32 };
    }

    /// The pairs of a series; none if it has no row.
    pub(super) fn get(&self, id: u32) -> Row<'_> {
        match self.places.get(id as usize) {
            Some(place) if place.chunk != u32::MAX => self.at(*place),
            _ => Row { rest: &[], left: 0 },
        }
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.places.get(id as usize).is_some_and(|place| place.chunk != u32::MAX)
    }

    fn at(&self, place: Place) -> Row<'_> {
        let mut rest = &self.chunks[place.chunk as usize][place.offset as usize..];
        let left = varint::read(&mut rest).expect("rows hold what `insert` wrote");
        Row { rest, left }
    }

    pub(super) fn remove(&mut self, id: u32) {
        let mut row = self.get(id);
        let length =
            varint_bytes(row.left) + row.by_ref().map(|p| varint_bytes(p.into())).sum::<usize>();
        if !self.contains(id) {
            return;
        }
        self.places[id as usize] = NOWHERE;
        self.live_bytes -= length;
        self.dead_bytes += length;
        if self.dead_bytes > self.live_bytes.max(WORTHWHILE_BYTES) {
            self.repack();
        }
    }

    fn repack(&mut self) {
        let old = Rows { places: std::mem::take(&mut self.places), ..std::mem::take(self) };
        let mut pairs = Vec::new();
        for id in 0..old.places.len() as u32 {
            if old.contains(id) {
                pairs.clear();
                pairs.extend(old.get(id));
                self.insert(id, pairs.iter().copied());
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(Vec::capacity).sum();
        chunks + self.places.capacity() * size_of::<Place>()
    }
}

fn varint_bytes(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()).div_ceil(7).max(1) as usize
}

/// The pairs of one series, in canonical order.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    rest: &'a [u8],
    left: u64,
}

impl Iterator for Row<'_> {
    type Item = PairId;

    fn next(&mut self) -> Option<PairId> {
        self.left = self.left.checked_sub(1)?;
        let pair = varint::read(&mut self.rest).expect("rows hold what `insert` wrote");
        Some(pair as PairId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_a_repacking() {
        let mut rows = Rows::default();
        let row = |id: u32| [id, id.wrapping_mul(0x9e37_79b9), 1 << 31, 7, 0];
        for id in 0..1_000_000 {
            rows.insert(id, row(id).into_iter());
        }
        let full = rows.heap_bytes();
        for id in (0..1_000_000).filter(|id| id % 4 != 0) {
            rows.remove(id);
        }
        assert!(rows.heap_bytes() < full / 2 + 9_000_000);
        for id in 0..1_000_000 {
            assert_eq!(rows.contains(id), id % 4 == 0);
            let want: &[u32] = if id % 4 == 0 { &row(id) } else { &[] };
            assert!(rows.get(id).eq(want.iter().copied()));
        }
        rows.remove(1);
        rows.insert(1, [].into_iter());
        assert!(rows.contains(1) && rows.get(1).next().is_none());
    }
}
