//! Columns of strictly ascending timestamps, as distances to a regular grid.
//!
//! A scrape comes every *step*, a few milliseconds early or late, and now and then not at all:
//! `t = t0 + slot * step + residual`. Lateness does not add up, so residuals are smaller than
//! differences of differences, and most columns have none: such a column is three numbers. A *gap*
//! is a row whose slot is not the one after the last row's. Columns without a step (pushed data)
//! are stored as integers in their least order; whichever is least is taken, and all arithmetic
//! wraps, so that any ascending `i64`s round-trip.
//!
//! A series that missed some scrapes has a *subset* of a column: [`write_missing`] stores what is
//! missing, as runs or as a bitmap. Layout: docs/format.md, "Timestamps".

use crate::encoding::pfor::{self, Planner};
use crate::encoding::varint;

/// First byte of a column: first timestamp, step.
const KIND_REGULAR: u8 = 0;
/// The same with gaps.
const KIND_GAPS: u8 = 1;
/// The same with gaps, possibly none, and residuals.
const KIND_RESIDUALS: u8 = 2;
/// Integers as [`pfor::encode`] writes them.
const KIND_INTEGERS: u8 = 3;

/// A hash by which equal columns are found: 128 bits, so that equal hashes are taken for equal
/// columns.
pub fn content(timestamps: &[i64]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for timestamp in timestamps {
        hasher.update(&timestamp.to_le_bytes());
    }
    hasher.digest128()
}

/// Appends a column of timestamps in ms, strictly ascending; of none nothing.
pub fn encode(timestamps: &[i64], out: &mut Vec<u8>) {
    let Some(&first) = timestamps.first() else { return };
    debug_assert!(timestamps.is_sorted_by(|a, b| a < b), "timestamps ascend strictly");
    let step = grid_step(timestamps);
    let (gaps, residuals) = onto_grid(timestamps, step);
    let start = out.len();
    let regular = residuals.iter().all(|residual| *residual == 0);
    out.push(match (regular, gaps.is_empty()) {
        (true, true) => KIND_REGULAR,
        (true, false) => KIND_GAPS,
        (false, _) => KIND_RESIDUALS,
    });
    varint::write_signed(out, first);
    varint::write(out, step);
    if !(regular && gaps.is_empty()) {
        write_gaps(&gaps, out);
    }
    let mut planner = Planner::default();
    if !regular {
        pfor::encode(&residuals, &mut planner, out);
    }
    if regular && gaps.is_empty() {
        return;
    }
    let mut integers = vec![KIND_INTEGERS];
    pfor::encode(timestamps, &mut planner, &mut integers);
    if integers.len() < out.len() - start {
        out.truncate(start);
        out.extend_from_slice(&integers);
    }
}

/// Reads all of `bytes` as a column of `count` timestamps and appends them to `out`.
///
/// `None` if the bytes are not such a column or it does not ascend; `out` is then as before.
pub fn decode(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Option<()> {
    let start = out.len();
    let decoded = decode_column(bytes, count, out).filter(|()| ascend(&out[start..]));
    if decoded.is_none() {
        out.truncate(start);
    }
    decoded
}

/// Without a way out at the first that does not, which would cost a branch each.
fn ascend(timestamps: &[i64]) -> bool {
    let Some((first, after)) = timestamps.split_first() else { return true };
    let pairs = || timestamps.iter().zip(after);
    // Where all have one sign, no difference overflows, and one that is positive keeps its sign
    // less 1. Vectors have no comparison of such numbers.
    let negative = pairs().fold(0, |any, (before, after)| {
        any | after.wrapping_sub(*before).wrapping_sub(1) | (*after ^ *first)
    });
    negative >= 0 || pairs().fold(true, |ascend, (before, after)| ascend & (before < after))
}

fn decode_column(mut bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Option<()> {
    if count == 0 {
        return bytes.is_empty().then_some(());
    }
    let (&kind, rest) = bytes.split_first()?;
    bytes = rest;
    if kind == KIND_INTEGERS {
        pfor::decode(&mut bytes, count, out)?;
        return bytes.is_empty().then_some(());
    }
    if kind > KIND_INTEGERS {
        return None;
    }
    let first = varint::read_signed(&mut bytes)?;
    let step = varint::read(&mut bytes)? as i64;
    let start = out.len();
    let mut gaps = Gaps::read(if kind == KIND_REGULAR { None } else { Some(&mut bytes) })?;
    if kind == KIND_RESIDUALS {
        // Residuals first, so that the bytes have proved the count before the grid is laid out.
        pfor::decode(&mut bytes, count, out)?;
        let mut row = start;
        gaps.segments(count, first, step, |time, length| {
            add_grid(&mut out[row..row + length], time, step);
            row += length;
        })?;
    } else {
        out.reserve(count);
        gaps.segments(count, first, step, |time, length| {
            let rows = 0..length as i64;
            out.extend(rows.map(|row| time.wrapping_add(step.wrapping_mul(row))));
        })?;
    }
    bytes.is_empty().then_some(())
}

/// Adds `time`, `time + step`, … to the residuals; two at a time, as vectors do.
fn add_grid(residuals: &mut [i64], time: i64, step: i64) {
    let mut times = [time, time.wrapping_add(step)];
    let (pairs, rest) = residuals.as_chunks_mut::<2>();
    for pair in pairs {
        for (residual, time) in pair.iter_mut().zip(&mut times) {
            *residual = residual.wrapping_add(*time);
            *time = time.wrapping_add(step.wrapping_mul(2));
        }
    }
    rest.iter_mut().for_each(|residual| *residual = residual.wrapping_add(times[0]));
}

/// The interval that most differences round to a multiple of; at least 1.
fn grid_step(timestamps: &[i64]) -> u64 {
    let differences = || timestamps.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) as u64);
    let mut sorted: Vec<u64> = differences().collect();
    if sorted.is_empty() {
        return 1;
    }
    let middle = sorted.len() / 2;
    let (_, &mut median, _) = sorted.select_nth_unstable(middle);
    let median = median.max(1);
    // The median is off by the jitter of one row, which would add up; the whole span over all
    // slots is off by less than a slot's share of it.
    let slots = differences()
        .fold(0u64, |slots, difference| slots.saturating_add(rounded_quotient(difference, median)));
    let span = timestamps[timestamps.len() - 1].wrapping_sub(timestamps[0]) as u64;
    let mean = rounded_quotient(span, slots.max(1));
    // Not where the differences are no multiples at all.
    if mean.abs_diff(median) <= median / 8 { mean.max(1) } else { median }
}

fn rounded_quotient(number: u64, divisor: u64) -> u64 {
    let quotient = number / divisor;
    quotient + u64::from(number % divisor > divisor / 2)
}

/// A row whose slot is `skipped + 1` after the last row's.
struct Gap {
    row: usize,
    skipped: i64,
}

fn onto_grid(timestamps: &[i64], step: u64) -> (Vec<Gap>, Vec<i64>) {
    let mut gaps = Vec::new();
    let mut residuals = Vec::with_capacity(timestamps.len());
    let mut grid = timestamps[0];
    residuals.push(0);
    for (row, pair) in timestamps.windows(2).enumerate() {
        // From the grid, not from the last row, whose residual is not ours.
        let distance = pair[1].wrapping_sub(grid) as u64;
        let slots = if pair[1] > grid { rounded_quotient(distance, step) as i64 } else { 0 };
        let slots = slots.max(0);
        if slots != 1 {
            gaps.push(Gap { row: row + 1, skipped: slots.wrapping_sub(1) });
        }
        grid = grid.wrapping_add((step as i64).wrapping_mul(slots));
        residuals.push(pair[1].wrapping_sub(grid));
    }
    (gaps, residuals)
}

/// Count, then for each the rows since the last gap and the slots skipped.
fn write_gaps(gaps: &[Gap], out: &mut Vec<u8>) {
    varint::write(out, gaps.len() as u64);
    let mut next_row = 1;
    for gap in gaps {
        varint::write(out, (gap.row - next_row) as u64);
        varint::write_signed(out, gap.skipped);
        next_row = gap.row + 1;
    }
}

/// The gaps of a column, still in bytes, which are known to be well-formed.
struct Gaps<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl<'a> Gaps<'a> {
    /// Advances over the list; no list is an empty one.
    fn read(bytes: Option<&mut &'a [u8]>) -> Option<Gaps<'a>> {
        let Some(bytes) = bytes else { return Some(Gaps { count: 0, bytes: &[] }) };
        let count = varint::read(bytes)?;
        let list = *bytes;
        // A loop that the bytes end, whatever the count says.
        for _ in 0..count {
            varint::read(bytes)?;
            varint::read_signed(bytes)?;
        }
        Some(Gaps { count, bytes: list })
    }

    /// Hands out the grid in runs without gaps: time of the first row, and rows.
    fn segments(
        &mut self,
        count: usize,
        first: i64,
        step: i64,
        mut each: impl FnMut(i64, usize),
    ) -> Option<()> {
        let (mut start_row, mut start_time) = (0usize, first);
        let mut next_row = 1usize;
        for _ in 0..self.count {
            let rows = usize::try_from(varint::read(&mut self.bytes)?).ok()?;
            let skipped = varint::read_signed(&mut self.bytes)?;
            let row = next_row.checked_add(rows).filter(|row| *row < count)?;
            each(start_time, row - start_row);
            let slots = ((row - start_row) as i64).wrapping_add(skipped);
            start_time = start_time.wrapping_add(step.wrapping_mul(slots));
            (start_row, next_row) = (row, row + 1);
        }
        each(start_time, count - start_row);
        Some(())
    }
}

/// First byte of what [`write_missing`] writes.
const MISSING_RUNS: u8 = 0;
const MISSING_BITMAP: u8 = 1;

/// Appends which timestamps of `parent` are not in `own`; `false`, and nothing, if `own` has some
/// that `parent` has not. Both ascend strictly.
pub fn write_missing(parent: &[i64], own: &[i64], out: &mut Vec<u8>) -> bool {
    let Some(runs) = missing_runs(parent, own) else { return false };
    let start = out.len();
    out.push(MISSING_RUNS);
    let mut next_row = 0;
    for &(row, length) in &runs {
        // The lowest bit says whether the run is longer than one; most are not.
        varint::write(out, ((row - next_row) as u64) << 1 | u64::from(length > 1));
        if length > 1 {
            varint::write(out, length as u64 - 2);
        }
        next_row = row + length;
    }
    if out.len() - start > 1 + parent.len().div_ceil(8) {
        out.truncate(start);
        out.push(MISSING_BITMAP);
        let bitmap = out.len();
        out.resize(bitmap + parent.len().div_ceil(8), 0);
        for row in runs.iter().flat_map(|&(row, length)| row..row + length) {
            out[bitmap + row / 8] |= 1 << (row % 8);
        }
    }
    true
}

/// Runs of missing rows as (first row, rows); `None` if `own` is no subset.
fn missing_runs(parent: &[i64], own: &[i64]) -> Option<Vec<(usize, usize)>> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut own = own.iter().peekable();
    for (row, timestamp) in parent.iter().enumerate() {
        if own.next_if_eq(&timestamp).is_some() {
            continue;
        }
        match runs.last_mut() {
            Some((first, length)) if *first + *length == row => *length += 1,
            _ => runs.push((row, 1)),
        }
    }
    own.next().is_none().then_some(runs)
}

/// Reads all of `bytes` as what [`write_missing`] wrote over the same `parent`, and appends the
/// subset to `out`. `None` if they are not that; `out` is then as before.
pub fn read_missing(bytes: &[u8], parent: &[i64], out: &mut Vec<i64>) -> Option<()> {
    let start = out.len();
    let read = read_missing_rows(bytes, parent, out);
    if read.is_none() {
        out.truncate(start);
    }
    read
}

fn read_missing_rows(bytes: &[u8], parent: &[i64], out: &mut Vec<i64>) -> Option<()> {
    let (&kind, mut bytes) = bytes.split_first()?;
    match kind {
        MISSING_RUNS => {
            let mut rest = parent;
            while !bytes.is_empty() {
                let number = varint::read(&mut bytes)?;
                let present = usize::try_from(number >> 1).ok()?;
                let more =
                    if number & 1 == 1 { varint::read(&mut bytes)?.checked_add(1)? } else { 0 };
                let (kept, missing) = rest.split_at_checked(present)?;
                out.extend_from_slice(kept);
                rest = missing.get(usize::try_from(more).ok()?.checked_add(1)?..)?;
            }
            out.extend_from_slice(rest);
        }
        MISSING_BITMAP => {
            if bytes.len() != parent.len().div_ceil(8) {
                return None;
            }
            let missing = |row: usize| bytes[row / 8] >> (row % 8) & 1 == 1;
            let present = parent.iter().enumerate().filter(|(row, _)| !missing(*row));
            out.extend(present.map(|(_, timestamp)| *timestamp));
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(timestamps: &[i64]) -> usize {
        let mut bytes = Vec::new();
        encode(timestamps, &mut bytes);
        let mut back = vec![5];
        decode(&bytes, timestamps.len(), &mut back).expect("own bytes are well-formed");
        assert_eq!(&back[1..], timestamps);
        bytes.len()
    }

    const START: i64 = 1_700_000_000_123;

    fn jitter(row: i64) -> i64 {
        (row.wrapping_mul(0x5851_f42d_4c95_7f2d) >> 40).rem_euclid(7) - 3
    }

    #[test]
    fn a_regular_column_costs_a_few_bytes() {
        for length in [0, 1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 480, 1024, 1920] {
            let column: Vec<i64> = (0..length).map(|row| START + row * 15_000).collect();
            assert!(check(&column) <= 10, "{length}: {}", check(&column));
        }
    }

    #[test]
    fn gaps_and_jitter_are_small() {
        let gaps: Vec<i64> =
            (0..480).filter(|row| row % 100 != 50).map(|row| START + row * 15_000).collect();
        assert!(check(&gaps) <= 10 + 1 + 2 * 5, "{}", check(&gaps));
        let jittered: Vec<i64> = (0..480).map(|row| START + row * 15_000 + jitter(row)).collect();
        assert!(check(&jittered) < 480 * 3 / 8 + 30, "{}", check(&jittered));
        let few: Vec<i64> =
            (0..480).map(|row| START + row * 15_000 + i64::from(row % 150 == 7)).collect();
        assert!(check(&few) < 40, "{}", check(&few));
        let both: Vec<i64> = (0..480)
            .filter(|row| row % 90 != 4)
            .map(|row| START + row * 1000 + jitter(row))
            .collect();
        assert!(check(&both) < 480 * 3 / 8 + 40, "{}", check(&both));
    }

    #[test]
    fn extremes_round_trip() {
        for column in [
            vec![i64::MIN, i64::MAX],
            vec![i64::MIN, i64::MIN + 1, 0, i64::MAX - 1, i64::MAX],
            vec![-1, 0, 1],
            vec![0, 1, 3, 6, 10, 15, 1 << 40, 1 << 62],
            vec![i64::MIN, -2, -1, i64::MAX],
        ] {
            check(&column);
        }
    }

    proptest! {
        #[test]
        fn any_ascending_column_round_trips(set in proptest::collection::btree_set(any::<i64>(), 0..300)) {
            check(&set.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn near_regular_columns_round_trip(
            start in -4_000_000_000_000i64..4_000_000_000_000,
            step in 1i64..100_000,
            rows in proptest::collection::vec((1i64..4, -3i64..=3), 0..500),
        ) {
            let mut slot = 0;
            let mut column: Vec<i64> = rows.iter().map(|&(slots, late)| {
                slot += if slots == 2 { 1 } else { slots };
                start + slot * step + late
            }).collect();
            column.sort_unstable();
            column.dedup();
            check(&column);
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>, count in 0usize..2000) {
            let mut out = Vec::new();
            match decode(&bytes, count, &mut out) {
                Some(()) => prop_assert_eq!(out.len(), count),
                None => prop_assert!(out.is_empty()),
            }
            let parent: Vec<i64> = (0..count as i64).collect();
            let mut own = Vec::new();
            if read_missing(&bytes, &parent, &mut own).is_some() {
                prop_assert!(own.len() <= count);
            }
        }

        #[test]
        fn subsets_round_trip(keep in proptest::collection::vec(0u8..10, 0..600), limit in 0u8..11) {
            let parent: Vec<i64> = (0..keep.len() as i64).map(|row| START + row * 1000).collect();
            let own: Vec<i64> = parent
                .iter()
                .zip(&keep)
                .filter(|(_, keep)| **keep < limit)
                .map(|(timestamp, _)| *timestamp)
                .collect();
            let mut bytes = Vec::new();
            prop_assert!(write_missing(&parent, &own, &mut bytes));
            prop_assert!(bytes.len() <= 1 + parent.len().div_ceil(8));
            let mut back = Vec::new();
            prop_assert_eq!(read_missing(&bytes, &parent, &mut back), Some(()));
            prop_assert_eq!(back, own);
        }
    }

    #[test]
    fn a_column_that_is_no_subset_is_refused() {
        let mut bytes = Vec::new();
        assert!(!write_missing(&[1, 2, 3], &[2, 4], &mut bytes));
        assert!(!write_missing(&[2, 3], &[1], &mut bytes));
        assert!(bytes.is_empty());
        assert!(write_missing(&[1, 2, 3], &[1, 2, 3], &mut bytes));
        assert_eq!(bytes.len(), 1);
    }
}
