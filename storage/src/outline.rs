//! Outlines: a series read for windows that are longer than its chunks.
//!
//! Where no window begins or ends inside a chunk, every window has all of the chunk's samples or
//! none. A reader who knows what is computed on the windows may then do with a few values in their
//! place, made from the chunk's statistics: a **stand-in**. Its rows lie within the chunk's time,
//! and [`LeftOut`] says how many samples there are fewer. Only a chunk of floats that is alone may
//! have one: no other block and nothing of the head reaches into its time.

use crate::metrics::chunk::ChunkStatistics;
use crate::metrics::rollup::Components;
use crate::metrics::sample::Samples;
use crate::tiers::Bucket;
use crate::time::TimeRange;

/// The windows of a query: each `(end - length, end]`, the ends `first_end_ms + k * step_ms`.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    pub first_end_ms: i64,
    pub step_ms: i64,
    pub steps: usize,
    pub length_ms: i64,
}

impl Windows {
    /// Whether one of them has some of the samples from the range's start to its end, not all.
    pub fn cut(&self, range: TimeRange) -> bool {
        let first_start_ms = i128::from(self.first_end_ms) - i128::from(self.length_ms);
        self.divide(i128::from(self.first_end_ms), range) || self.divide(first_start_ms, range)
    }

    /// Whether one of the times from `first_ms` on, a step apart, divides the range: it belongs to
    /// what is before it.
    fn divide(&self, first_ms: i128, range: TimeRange) -> bool {
        let (start_ms, end_ms) = (i128::from(range.start_ms), i128::from(range.end_ms));
        let step_ms = i128::from(self.step_ms.max(1));
        let steps = if self.step_ms > 0 { self.steps } else { self.steps.min(1) };
        let behind_ms = (start_ms - first_ms).max(0);
        let next = (behind_ms + step_ms - 1) / step_ms;
        let next_ms = first_ms + next * step_ms;
        next < steps as i128 && start_ms <= next_ms && next_ms < end_ms
    }
}

/// Up to four values in place of a chunk's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StandIn {
    values: [f64; StandIn::VALUES_MAX],
    length: u8,
}

impl StandIn {
    const VALUES_MAX: usize = 4;

    /// # Panics
    ///
    /// If there are none, or more than four.
    pub fn new(of: &[f64]) -> StandIn {
        assert!((1..=Self::VALUES_MAX).contains(&of.len()), "a stand-in has one to four values");
        let mut values = [0.0; Self::VALUES_MAX];
        values[..of.len()].copy_from_slice(of);
        StandIn { values, length: of.len() as u8 }
    }

    fn values(&self) -> &[f64] {
        &self.values[..usize::from(self.length)]
    }
}

/// Samples that a stand-in has fewer than its chunk, whose newest sample is of `at_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub at_ms: i64,
    /// Floats; fewer than none where a bucket takes more values than it had samples.
    pub samples: i64,
    /// Native histograms, likewise.
    pub histograms: i64,
}

/// What a reader wants of chunks.
pub struct Outliner<'a> {
    pub windows: Windows,
    /// What may stand for a chunk of these statistics; `None` to have its samples.
    pub stand_in: &'a mut dyn FnMut(&ChunkStatistics) -> Option<StandIn>,
    /// Puts what may stand for a bucket behind the samples: rows within its time, ascending.
    pub bucket: &'a mut dyn FnMut(&Bucket<'_>, &mut Samples),
    /// The columns that `bucket` reads.
    pub columns: Components,
    /// In order of time.
    pub left_out: &'a mut Vec<LeftOut>,
}

impl std::fmt::Debug for Outliner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outliner").field("windows", &self.windows).finish_non_exhaustive()
    }
}

impl Outliner<'_> {
    /// Whether a chunk of that many samples from the range's start to its end may have a stand-in.
    pub(crate) fn wants(&self, range: TimeRange, samples: usize) -> bool {
        // So few that none of them is left out, or so close that a stand-in's have no room.
        let few = StandIn::VALUES_MAX;
        samples > few
            && range.end_ms.abs_diff(range.start_ms) >= few as u64
            && !self.windows.cut(range)
    }

    /// Puts a stand-in for a chunk into `samples` and gives the rows it takes: the last at the end
    /// of the chunk's time, the first of several at its start. `None` where there is none.
    pub(crate) fn put(
        &mut self,
        statistics: &ChunkStatistics,
        range: TimeRange,
        samples: &mut Samples,
    ) -> Option<u8> {
        let stand_in = (self.stand_in)(statistics)?;
        let values = stand_in.values();
        for (after, value) in (0..values.len() as i64).rev().zip(values) {
            let is_first_of_several = after > 0 && after == values.len() as i64 - 1;
            let at_ms = if is_first_of_several { range.start_ms } else { range.end_ms - after };
            samples.push(at_ms, *value);
        }
        let left_out = i64::from(statistics.count) - i64::from(stand_in.length);
        self.left_out.push(LeftOut { at_ms: range.end_ms, samples: left_out, histograms: 0 });
        Some(stand_in.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cut_a_range_where_they_begin_or_end_between_its_samples() {
        let check = |(first_end_ms, step_ms, steps, length_ms), (start, end), expected| {
            let windows = Windows { first_end_ms, step_ms, steps, length_ms };
            assert_eq!(windows.cut(TimeRange::new(start, end)), expected, "{windows:?} {start}");
        };
        // (0, 100], and with a step (0, 100], (30, 130], (60, 160].
        for (range, alone, stepped) in [
            ((1, 100), false, true),
            ((0, 100), true, true),
            ((1, 30), false, false),
            ((30, 31), false, true),
            ((31, 60), false, false),
            ((61, 100), false, false),
            ((100, 101), true, true),
            ((101, 130), false, false),
            ((131, 160), false, false),
            ((160, 161), false, true),
            ((161, 500), false, false),
            ((-90, 0), false, false),
        ] {
            check((100, 0, 1, 100), range, alone);
            check((100, 0, 7, 100), range, alone);
            check((100, 30, 3, 100), range, stepped);
        }
        check((i64::MAX, i64::MAX, 9, i64::MAX), (i64::MIN, 5), true);
    }

    #[test]
    fn stand_ins_lie_within_the_time_of_their_chunk() {
        let mut left_out = Vec::new();
        let windows = Windows { first_end_ms: 0, step_ms: 0, steps: 1, length_ms: 1 };
        let mut length = 0;
        let mut stand_in = |_: &ChunkStatistics| {
            length += 1;
            Some(StandIn::new(&[1.0, 2.0, 3.0, 4.0][..length]))
        };
        let mut outliner = Outliner {
            windows,
            stand_in: &mut stand_in,
            bucket: &mut |_, _| (),
            columns: Components::default(),
            left_out: &mut left_out,
        };
        let range = TimeRange::new(10, 14);
        assert!(!outliner.wants(range, 4) && outliner.wants(range, 5));
        let statistics = ChunkStatistics { count: 5, ..ChunkStatistics::default() };
        for expected in [&[14][..], &[10, 14], &[10, 13, 14], &[10, 12, 13, 14]] {
            let mut samples = Samples::default();
            outliner.put(&statistics, range, &mut samples);
            assert_eq!(samples.timestamps, expected);
        }
        assert_eq!(left_out.last(), Some(&LeftOut { at_ms: 14, samples: 1, histograms: 0 }));
    }
}
