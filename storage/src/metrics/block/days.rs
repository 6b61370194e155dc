//! Days: which series of a block have samples on which day of UTC.
//!
//! A section of blocks that are longer than a day, so that what a day had can be told without
//! reading samples. Bytes: docs/format.md, "Days". In a rollup a bucket belongs to the day in which
//! its time begins.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::index::packed::{self, PackedPostings};
use crate::time::DAY_MS;

/// The number of the day since 1970 to which a sample of this time belongs, or the bucket that ends
/// there.
fn day_of(time_ms: i64, is_rollup: bool) -> i64 {
    time_ms.saturating_sub(i64::from(is_rollup)).div_euclid(DAY_MS)
}

/// Collects the days of series as they are written.
#[derive(Debug, Default)]
pub(super) struct DaysWriter {
    is_rollup: bool,
    /// Positions in the order of data by day.
    positions: BTreeMap<i64, RoaringBitmap>,
}

impl DaysWriter {
    pub(super) fn new(is_rollup: bool) -> DaysWriter {
        DaysWriter { is_rollup, positions: BTreeMap::new() }
    }

    /// The times of the series at a position, ascending.
    pub(super) fn add(&mut self, position: u32, times: &[i64]) {
        let mut rest = times;
        while let Some(first) = rest.first() {
            let day = day_of(*first, self.is_rollup);
            self.positions.entry(day).or_default().insert(position);
            let of_day = rest.partition_point(|time| day_of(*time, self.is_rollup) <= day);
            rest = &rest[of_day..];
        }
    }

    /// The payload of the section; `order` has the id of each position.
    pub(super) fn finish(&self, order: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        varint::write(&mut out, self.positions.len() as u64);
        for (day, positions) in &self.positions {
            let mut ids: Vec<u32> = positions.iter().map(|at| order[at as usize]).collect();
            ids.sort_unstable();
            let mut postings = PackedPostings::default();
            ids.into_iter().for_each(|id| postings.push(id));
            varint::write_signed(&mut out, *day);
            write_bytes(&mut out, &postings.finish());
        }
        out
    }
}

/// The series, of so many, that have samples of the day that begins at `day_ms`; `None` if the
/// bytes are no such section.
pub(super) fn series_of_day(mut payload: &[u8], day_ms: i64, series: u32) -> Option<RoaringBitmap> {
    let rest = &mut payload;
    let mut found = RoaringBitmap::new();
    for _ in 0..read_count(rest, 2)? {
        let day = varint::read_signed(rest)?;
        let postings = read_bytes(rest)?;
        if day == day_ms.div_euclid(DAY_MS) {
            found = packed::decode(postings, series)?;
        }
    }
    rest.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(payload: &[u8], day: i64, series: u32) -> Vec<u32> {
        series_of_day(payload, day * DAY_MS, series).unwrap().iter().collect()
    }

    #[test]
    fn each_series_is_found_on_its_days() {
        for is_rollup in [false, true] {
            let mut days = DaysWriter::new(is_rollup);
            days.add(0, &[5, DAY_MS - 1, DAY_MS, DAY_MS + 1]);
            days.add(1, &[DAY_MS]);
            days.add(2, &[-1, 3 * DAY_MS + 1]);
            let payload = days.finish(&[2, 0, 1]);
            let of = |day| read(&payload, day, 3);
            let expected: [&[u32]; 5] = match is_rollup {
                false => [&[1], &[2], &[0, 2], &[], &[1]],
                true => [&[1], &[0, 2], &[2], &[], &[1]],
            };
            assert_eq!([-1, 0, 1, 2, 3].map(of), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>, day in -2i64..3) {
            series_of_day(&bytes, day * DAY_MS, 100);
        }
    }
}
