//! Chunks: which samples are encoded together, and what is known of them without decoding.
//!
//! The cut is a function of the samples alone ([`cut`]): two-hour UTC windows, halved by time
//! while a piece holds more than [`CHUNK_SAMPLES_MAX`] samples, and split where floats and
//! histograms alternate. So however samples arrived, sealed chunks are the same.

use std::ops::Range;

use crate::metrics::sample::{Samples, is_stale_nan, replaces};
use crate::time::{DAY_MS, TimeRange, WINDOW_MS};

/// A chunk holds at most this many samples.
pub const CHUNK_SAMPLES_MAX: usize = 1024;

/// Largest integer below which every integer is a double: sums of integers up to here are exact.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// The windows of which each has chunks of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkGrid {
    length_ms: i64,
    /// Where one of them starts.
    origin_ms: i64,
}

/// Chunks of rollups are longer than those of raw samples: by four times a day until there are so
/// many buckets in one.
const CHUNK_BUCKETS: i64 = 256;

impl ChunkGrid {
    pub(crate) const RAW: ChunkGrid = ChunkGrid { length_ms: WINDOW_MS, origin_ms: 0 };

    /// Of a tier; 0 is raw. A bucket has its end and not its start, and so have their chunks.
    pub(crate) fn of_tier(resolution_ms: i64) -> ChunkGrid {
        if resolution_ms == 0 {
            return ChunkGrid::RAW;
        }
        let mut length_ms = DAY_MS;
        while length_ms / resolution_ms < CHUNK_BUCKETS && length_ms < 64 * DAY_MS {
            length_ms *= 4;
        }
        ChunkGrid { length_ms, origin_ms: 1 }
    }

    /// The windows that overlap `range`.
    pub(crate) fn whole(self, range: TimeRange) -> TimeRange {
        let last = self.start_ms(range.end_ms);
        let end_ms = last.saturating_add(self.length_ms - 1);
        TimeRange::new(self.start_ms(range.start_ms), end_ms)
    }

    fn start_ms(self, timestamp: i64) -> i64 {
        let windows = timestamp.saturating_sub(self.origin_ms).div_euclid(self.length_ms);
        windows.saturating_mul(self.length_ms).saturating_add(self.origin_ms)
    }
}

/// The rows of `samples` chunk by chunk, in order.
pub(crate) fn cut(samples: &Samples, grid: ChunkGrid) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < samples.len() {
        let window = grid.start_ms(samples.timestamps[start]);
        let next = window.saturating_add(grid.length_ms);
        let length = samples.timestamps[start..].partition_point(|&t| t < next);
        halve(samples, start..start + length, window, grid.length_ms, &mut chunks);
        start += length;
    }
    chunks
}

fn halve(
    samples: &Samples,
    rows: Range<usize>,
    start_ms: i64,
    length_ms: i64,
    chunks: &mut Vec<Range<usize>>,
) {
    if rows.len() <= CHUNK_SAMPLES_MAX {
        split_kinds(samples, rows, chunks);
        return;
    }
    let half_ms = length_ms / 2;
    let middle_ms = start_ms.saturating_add(half_ms);
    let length = samples.timestamps[rows.clone()].partition_point(|&t| t < middle_ms);
    let middle = rows.start + length;
    halve(samples, rows.start..middle, start_ms, half_ms, chunks);
    halve(samples, middle..rows.end, middle_ms, length_ms - half_ms, chunks);
}

/// Cuts rows where floats change to histograms or back.
fn split_kinds(samples: &Samples, rows: Range<usize>, chunks: &mut Vec<Range<usize>>) {
    if samples.histograms.is_empty() {
        chunks.extend((!rows.is_empty()).then_some(rows));
        return;
    }
    let mut start = rows.start;
    for row in rows.clone().skip(1) {
        if samples.histogram(row).is_some() != samples.histogram(row - 1).is_some() {
            chunks.push(start..row);
            start = row;
        }
    }
    chunks.extend((start < rows.end).then_some(start..rows.end));
}

/// What a chunk of floats holds, exact. Used where a window covers whole chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ChunkStatistics {
    /// Samples, stale markers included.
    pub count: u32,
    pub first: f64,
    pub last: f64,
    /// Least and greatest of the values that are not NaN; NaN if there is none.
    pub min: f64,
    pub max: f64,
    /// In order of time; exact only with [`ChunkStatistics::ALL_INTEGERS`].
    pub sum: f64,
    /// How often a value is below the one before.
    pub resets: u32,
    /// Sum of the values before each reset, so that increase = last - first + reset_sum.
    pub reset_sum: f64,
    pub flags: u8,
}

impl ChunkStatistics {
    /// All values are the same bits.
    pub const CONSTANT: u8 = 1;
    /// At least one stale marker: the other fields leave it out.
    pub const HAS_STALE: u8 = 2;
    /// At least one NaN that is no stale marker.
    pub const HAS_NAN: u8 = 4;
    /// All values are integers, and so is every partial sum, below 2^53.
    pub const ALL_INTEGERS: u8 = 8;

    pub(crate) fn of(values: &[f64]) -> ChunkStatistics {
        let mut of = ChunkStatistics {
            count: u32::try_from(values.len()).expect("a chunk is small"),
            first: f64::NAN,
            last: f64::NAN,
            min: f64::NAN,
            max: f64::NAN,
            flags: ChunkStatistics::CONSTANT | ChunkStatistics::ALL_INTEGERS,
            ..ChunkStatistics::default()
        };
        let mut absolute_sum = 0.0f64;
        let mut live = values.iter().copied().filter(|value| !is_stale_nan(*value)).peekable();
        of.first = live.peek().copied().unwrap_or(f64::NAN);
        let mut previous = of.first;
        for value in live {
            if value < previous {
                of.resets += 1;
                of.reset_sum += previous;
            }
            of.sum += value;
            absolute_sum += value.abs();
            // `min` and `max` prefer the operand that is a number.
            of.min = of.min.min(value);
            of.max = of.max.max(value);
            if value.is_nan() {
                of.flags |= ChunkStatistics::HAS_NAN;
            }
            if value.trunc() != value || absolute_sum >= EXACT_INTEGER_MAX {
                of.flags &= !ChunkStatistics::ALL_INTEGERS;
            }
            previous = value;
        }
        of.last = previous;
        if values.iter().any(|value| is_stale_nan(*value)) {
            of.flags |= ChunkStatistics::HAS_STALE;
        }
        if values.windows(2).any(|pair| pair[0].to_bits() != pair[1].to_bits()) {
            of.flags &= !ChunkStatistics::CONSTANT;
        }
        of
    }
}

/// Merges `late` into `samples`, both ascending; of two values for a timestamp the greater in the
/// order of [`replaces`] stays.
pub(crate) fn merge(samples: &mut Samples, late: &Samples) {
    if late.is_empty() {
        return;
    }
    let follows = samples.timestamps.last().is_none_or(|last| *last < late.timestamps[0]);
    if follows {
        append(samples, late, 0..late.len());
        return;
    }
    let base = std::mem::take(samples);
    let (mut i, mut j) = (0, 0);
    while i < base.len() && j < late.len() {
        let (a, b) = (base.timestamps[i], late.timestamps[j]);
        let take_late = if a == b {
            let new = (late.values[j], late.histogram(j));
            let won = replaces(new, (base.values[i], base.histogram(i)));
            i += usize::from(won);
            j += usize::from(!won);
            won
        } else {
            b < a
        };
        if a == b && !take_late {
            append(samples, &base, i..i + 1);
            i += 1;
        } else if take_late {
            append(samples, late, j..j + 1);
            j += 1;
        } else {
            append(samples, &base, i..i + 1);
            i += 1;
        }
    }
    append(samples, &base, i..base.len());
    append(samples, late, j..late.len());
}

/// Appends rows of `from`; the token is void afterwards.
pub(crate) fn append(into: &mut Samples, from: &Samples, rows: Range<usize>) {
    if rows.is_empty() {
        return;
    }
    let offset = into.len();
    into.timestamps.extend_from_slice(&from.timestamps[rows.clone()]);
    into.values.extend_from_slice(&from.values[rows.clone()]);
    if !from.histograms.is_empty() {
        let start = from.histograms.partition_point(|(row, _)| (*row as usize) < rows.start);
        let moved =
            from.histograms[start..].iter().take_while(|(row, _)| (*row as usize) < rows.end);
        into.histograms.extend(moved.map(|(row, histogram)| {
            let row = *row as usize - rows.start + offset;
            (u32::try_from(row).expect("a series in memory is below 2^32"), histogram.clone())
        }));
    }
    into.timestamps_token = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(i64, f64)]) -> Samples {
        let mut samples = Samples::default();
        rows.iter().for_each(|(t, v)| samples.push(*t, *v));
        samples
    }

    #[test]
    fn chunks_are_cut_on_windows_and_halved_by_time() {
        let mut long = Samples::default();
        (0..3000).for_each(|i| long.push(i * 1000, 1.0));
        (0..2).for_each(|i| long.push(WINDOW_MS + i, 1.0));
        let cut = cut(&long, ChunkGrid::RAW);
        // 3,000 s: one half-window of 3,600 s is too much, so it is halved again.
        assert_eq!(cut, vec![0..900, 900..1800, 1800..2700, 2700..3000, 3000..3002]);
    }

    #[test]
    fn chunks_of_a_tier_have_their_ends_and_not_their_starts() {
        let hour = 60 * 60 * 1000;
        let grid = ChunkGrid::of_tier(hour);
        let mut ends = Samples::default();
        (1..=16 * 24 + 1).for_each(|i| ends.push(i * hour, 1.0));
        assert_eq!(cut(&ends, grid), vec![0..384, 384..385]);
        assert_eq!(ChunkGrid::of_tier(5 * 60 * 1000).length_ms, DAY_MS);
        assert_eq!(ChunkGrid::of_tier(DAY_MS).length_ms, 64 * DAY_MS);
    }

    #[test]
    fn merging_keeps_the_greater_value_of_a_timestamp() {
        let mut base = samples(&[(1, 1.0), (3, 3.0), (5, 5.0)]);
        merge(&mut base, &samples(&[(0, 0.0), (3, 4.0), (5, 2.0), (9, 9.0)]));
        assert_eq!(base, samples(&[(0, 0.0), (1, 1.0), (3, 4.0), (5, 5.0), (9, 9.0)]));
    }

    #[test]
    fn statistics_leave_stale_markers_out() {
        let stale = crate::metrics::sample::stale_nan();
        let of = ChunkStatistics::of(&[5.0, 7.0, stale, 2.0]);
        assert_eq!((of.first, of.last, of.min, of.max, of.sum), (5.0, 2.0, 2.0, 7.0, 14.0));
        assert_eq!((of.resets, of.reset_sum, of.count), (1, 7.0, 4));
        assert_eq!(of.flags, ChunkStatistics::HAS_STALE | ChunkStatistics::ALL_INTEGERS);
    }
}
