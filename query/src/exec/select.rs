//! Instant selectors: the newest sample at each step, if it is not older than the lookback.
//!
//! Which sample a step gets depends on timestamps alone. Those **picks** are kept while the source says that the next series has the same timestamps; what is
//! left for a series is to gather values and to leave out stale markers.

use std::sync::Arc;

use icecore_storage::metrics::sample::{STALE_NAN_BITS, Samples};

use crate::exec::rows::{RowBuffer, bit, clear_bit};
use crate::exec::series::Series;
use crate::exec::window::positions;
use crate::plan::View;

/// The sample of each step.
#[derive(Debug, Default)]
pub(crate) struct Picks {
    token: u64,
    /// Index of the sample; 0 where there is none.
    index: Vec<u32>,
    /// Steps that have a sample.
    mask: Vec<u64>,
    /// Of each chunk of 64 steps, how far apart their samples are; 0 if that varies.
    strides: Vec<usize>,
}

/// Steps that are taken together: a word of a bitmap.
const CHUNK: usize = 64;

impl Picks {
    /// Picks for `timestamps`, unless those at hand are for the same.
    fn update(&mut self, view: View, samples: &Samples) {
        if samples.timestamps_token != 0 && samples.timestamps_token == self.token {
            return;
        }
        self.token = samples.timestamps_token;
        let timestamps = &samples.timestamps;
        self.index.resize(view.times.steps, 0);
        self.mask.clear();
        self.strides.clear();
        positions(timestamps, view.times, &mut self.index);
        let mut time_ms = view.times.first_ms;
        for indices in self.index.chunks_mut(CHUNK) {
            let mut mask = 0;
            for (bit, index) in indices.iter_mut().enumerate() {
                // Left-open: a sample exactly as old as the lookback is too old.
                let too_old_ms = time_ms.saturating_sub(view.window_ms);
                let newest = index.wrapping_sub(1);
                let timestamp = timestamps.get(newest as usize);
                let is_there = timestamp.is_some_and(|timestamp| *timestamp > too_old_ms);
                *index = if is_there { newest } else { 0 };
                mask |= u64::from(is_there) << bit;
                time_ms = time_ms.saturating_add(view.times.step_ms);
            }
            self.mask.push(mask);
            self.strides.push(stride(indices));
        }
    }
}

/// How far apart the numbers are; 0 if that varies.
fn stride(indices: &[u32]) -> usize {
    let Some((first, after)) = indices.split_first() else { return 0 };
    let stride = after.first().map_or(1, |next| next.wrapping_sub(*first));
    let pairs = indices.iter().zip(after);
    let is_even = pairs.fold(true, |even, (a, b)| even & (b.wrapping_sub(*a) == stride));
    // Where a step has no sample, its number is less than that of the step before.
    if is_even && stride <= i32::MAX as u32 { stride as usize } else { 0 }
}

/// What of a sample becomes the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emit {
    Value,
    /// `timestamp()` over a selector: the sample's own time in seconds.
    Timestamp,
    /// The same of floats, while histograms stay what they are.
    InfoTimestamp,
    /// `start_timestamp()` over a selector: when the sample's counter started, in seconds.
    StartTimestamp,
}

/// Fills `row` from the samples of one series; returns what it cost to look at them, in samples.
pub(crate) fn select(
    view: View,
    emit: Emit,
    series: &mut Series,
    picks: &mut Picks,
    row: &mut RowBuffer,
) -> u64 {
    row.reset(view.times.steps);
    let samples = &series.samples;
    if samples.is_empty() {
        return 0;
    }
    picks.update(view, samples);
    gather(picks, &samples.values, row);
    match emit {
        Emit::Value => {}
        Emit::Timestamp | Emit::InfoTimestamp => {
            for (value, &index) in row.values.iter_mut().zip(&picks.index) {
                *value = samples.timestamps[index as usize] as f64 / 1000.0;
            }
        }
        Emit::StartTimestamp => {
            let starts = &samples.start_timestamps;
            for (value, &index) in row.values.iter_mut().zip(&picks.index) {
                let start_ms = starts.get(index as usize).copied().unwrap_or(0);
                *value = start_ms as f64 / 1000.0;
            }
        }
    }
    if matches!(emit, Emit::Value | Emit::InfoTimestamp) {
        take_histograms(picks, series, row);
    }
    row.cost()
}

/// Values at the picks; stale markers are absent.
fn gather(picks: &Picks, values: &[f64], row: &mut RowBuffer) {
    let chunks = row.values.chunks_mut(CHUNK).zip(&mut row.valid).zip(&picks.mask);
    let indices = picks.index.chunks(CHUNK).zip(&picks.strides);
    for (((out, valid), mask), (indices, stride)) in chunks.zip(indices) {
        let from = &values[indices[0] as usize..];
        match stride {
            0 => out.iter_mut().zip(indices).for_each(|(out, at)| *out = values[*at as usize]),
            1 => out.copy_from_slice(&from[..out.len()]),
            2 => every(|at| 2 * at, from, out),
            // A minute, of what is scraped every 15 seconds.
            4 => every(|at| 4 * at, from, out),
            stride => every(|at| stride * at, from, out),
        }
        *valid = *mask;
        // All at once, which is quicker than bit by bit; most have none. For any NaN first, which
        // is quicker than for one of them.
        if out.iter().fold(false, |any, value| any | value.is_nan()) {
            let is_stale = |value: &f64| value.to_bits() == STALE_NAN_BITS;
            let bits = out.iter().enumerate();
            let stale =
                bits.fold(0, |stale, (bit, value)| stale | u64::from(is_stale(value)) << bit);
            *valid = mask & !stale;
        }
    }
}

/// What is at the first place, and at those that follow it at even distances.
#[inline(always)]
fn every(place: impl Fn(usize) -> usize, from: &[f64], out: &mut [f64]) {
    /// A loop of so many rounds is unrolled.
    const TOGETHER: usize = 8;
    let mut at = 0;
    let (blocks, rest) = out.as_chunks_mut::<TOGETHER>();
    for block in blocks {
        // One look at the length for all.
        let from = &from[place(at)..][..place(TOGETHER - 1) + 1];
        (0..TOGETHER).for_each(|at| block[at] = from[place(at)]);
        at += TOGETHER;
    }
    for out in rest {
        *out = from[place(at)];
        at += 1;
    }
}

/// Moves steps whose sample is a histogram from the floats to the histograms.
fn take_histograms(picks: &Picks, series: &mut Series, row: &mut RowBuffer) {
    if !series.has_histograms() {
        return;
    }
    let mut shared: Option<(u32, Arc<_>)> = None;
    for step in 0..picks.index.len() {
        let index = picks.index[step];
        if !bit(&row.valid, step) {
            continue;
        }
        let Ok(at) = series.histogram_rows().binary_search(&index) else { continue };
        clear_bit(&mut row.valid, step);
        let point = match &shared {
            Some((known, point)) if *known == index => Arc::clone(point),
            _ => series.histogram(at),
        };
        shared = Some((index, Arc::clone(&point)));
        row.histograms.push((step as u32, point));
    }
}

#[cfg(test)]
mod tests {
    use icecore_storage::metrics::sample::stale_nan;

    use super::*;
    use crate::plan::Times;

    fn selected(samples: &Samples, times: Times, lookback_ms: i64) -> Vec<Option<f64>> {
        let mut series = Series::stored(samples.clone());
        let mut row = RowBuffer::default();
        let view = View { times, window_ms: lookback_ms };
        select(view, Emit::Value, &mut series, &mut Picks::default(), &mut row);
        (0..times.steps)
            .map(|step| super::super::rows::bit(&row.valid, step).then_some(row.values[step]))
            .collect()
    }

    #[test]
    fn even_picks_give_what_picks_one_by_one_give() {
        // Gaps of one, two and three seconds, and of none.
        for every_s in [1, 2, 3, 4, 7, 100] {
            let mut samples = Samples::default();
            (0..1_000)
                .for_each(|at| samples.push(at * 1_000 + i64::from(at > 700) * 200, at as f64));
            let times = Times { first_ms: 1_100, step_ms: every_s * 1_000, steps: 130 };
            let expected: Vec<Option<f64>> = (0..times.steps)
                .map(|step| {
                    let newest =
                        samples.timestamps.iter().rposition(|time| *time <= times.at(step));
                    let newest =
                        newest.filter(|at| samples.timestamps[*at] > times.at(step) - 5_000);
                    newest.map(|at| samples.values[at])
                })
                .collect();
            assert_eq!(selected(&samples, times, 5_000), expected, "{every_s}");
        }
    }

    #[test]
    fn a_step_without_a_sample_may_follow_one_with_the_last() {
        let mut samples = Samples::default();
        (0..10).for_each(|at| samples.push(at * 1_000, at as f64));
        let times = Times { first_ms: 9_000, step_ms: 60_000, steps: 2 };
        assert_eq!(selected(&samples, times, 5_000), [Some(9.0), None]);
    }

    #[test]
    fn the_lookback_is_open_on_the_left() {
        let mut samples = Samples::default();
        samples.push(1000, 1.0);
        let times = Times { first_ms: 999, step_ms: 1, steps: 3 };
        assert_eq!(selected(&samples, times, 5), [None, Some(1.0), Some(1.0)]);
        let late = Times { first_ms: 1004, step_ms: 1, steps: 2 };
        assert_eq!(selected(&samples, late, 5), [Some(1.0), None]);
    }

    #[test]
    fn a_stale_marker_ends_a_series_and_other_nans_do_not() {
        let mut samples = Samples::default();
        samples.push(0, f64::NAN);
        samples.push(10, stale_nan());
        samples.push(20, 3.0);
        let times = Times { first_ms: 5, step_ms: 10, steps: 3 };
        let row = selected(&samples, times, 300_000);
        assert!(row[0].unwrap().is_nan());
        assert_eq!(row[1..], [None, Some(3.0)]);
    }
}
