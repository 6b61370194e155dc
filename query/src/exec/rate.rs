//! `rate`, `increase`, `delta`, `irate`, `idelta`.
//!
//! Counter resets are found once for a series. The correction of a window is the sum of the values
//! before the resets inside it, added to `last - first` in order of time: the very additions that
//! Prometheus makes, without a walk over all samples. What depends on timestamps alone (bounds and
//! extrapolation) is a [`RateSteps`], shared by series with equal timestamps.

use crate::exec::rows::RowBuffer;
use crate::exec::wide::wide;
use crate::exec::window::{Bounds, Floats};
use crate::functions::FunctionId;
use crate::plan::View;

/// Steps that are computed together: a word of a bitmap.
const CHUNK: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateKind {
    Rate,
    Increase,
    Delta,
}

impl RateKind {
    pub(crate) fn of(function: FunctionId) -> Option<RateKind> {
        match function {
            FunctionId::Rate => Some(RateKind::Rate),
            FunctionId::Increase => Some(RateKind::Increase),
            FunctionId::Delta => Some(RateKind::Delta),
            _ => None,
        }
    }
}

/// What of the results does not depend on values: columns, a row a step; times in seconds.
///
/// Rows of steps with less than two samples mean nothing.
#[derive(Debug, Default)]
pub(crate) struct RateSteps {
    /// From the first sample to the last.
    sampled_interval: Vec<f64>,
    /// How far beyond them the samples are taken to go on.
    to_start: Vec<f64>,
    to_end: Vec<f64>,
    /// By what an increase is multiplied.
    factor: Vec<f64>,
    /// Steps with at least two samples.
    mask: Vec<u64>,
    /// Of each chunk of steps, how far apart the first samples of its windows are, and the last;
    /// 0 if that varies.
    strides: Vec<usize>,
    /// 1 for what is not per second.
    divisor: f64,
}

impl RateSteps {
    pub(crate) fn update(
        &mut self,
        timestamps: &[i64],
        bounds: &Bounds,
        view: View,
        kind: RateKind,
    ) {
        self.divisor = if kind == RateKind::Rate { seconds(view.window_ms) } else { 1.0 };
        bounds.with_at_least(2, &mut self.mask);
        let steps = view.times.steps;
        for column in
            [&mut self.sampled_interval, &mut self.to_start, &mut self.to_end, &mut self.factor]
        {
            column.resize(steps, 0.0);
        }
        self.find_strides(bounds);
        self.extrapolate(timestamps, bounds, view);
    }

    fn find_strides(&mut self, bounds: &Bounds) {
        let windows = bounds.low.chunks(CHUNK).zip(bounds.high.chunks(CHUNK));
        self.strides.clear();
        self.strides.extend(windows.zip(&self.mask).map(|((lows, highs), mask)| {
            let stride = lows.get(1).map_or(1, |next| next.wrapping_sub(lows[0]));
            let is_even = |bounds: &[u32]| {
                let pairs = bounds.iter().zip(&bounds[1..]);
                pairs.fold(true, |even, (a, b)| even & (b.wrapping_sub(*a) == stride))
            };
            let is_full = mask.count_ones() as usize == lows.len();
            if is_full && is_even(lows) && is_even(highs) { stride as usize } else { 0 }
        }));
    }

    /// From the distances between samples and the edges of windows to what is extrapolated.
    fn extrapolate(&mut self, timestamps: &[i64], bounds: &Bounds, view: View) {
        let (mut firsts, mut lasts, mut gaps) = ([0; CHUNK], [0; CHUNK], [0.0; CHUNK]);
        let windows = bounds.low.chunks(CHUNK).zip(bounds.high.chunks(CHUNK));
        for (chunk, (lows, highs)) in windows.enumerate() {
            let (start, stride) = (chunk * CHUNK, self.strides[chunk]);
            let steps = lows.len();
            for (gaps, (low, high)) in gaps.iter_mut().zip(lows.iter().zip(highs)) {
                // No window has 2^31 samples.
                *gaps = f64::from(high.wrapping_sub(*low).wrapping_sub(1) as i32);
            }
            if !bounds.left_out.is_empty() {
                for (at, gaps) in gaps[..steps].iter_mut().enumerate() {
                    *gaps = bounds.samples(start + at).wrapping_sub(1) as f64;
                }
            }
            let ends = ends(timestamps, (lows, highs), stride, (&mut firsts, &mut lasts));
            let end_ms = view.times.at(start);
            let chunk = start..start + steps;
            let chunk = Extrapolated {
                intervals: &mut self.sampled_interval[chunk.clone()],
                to_starts: &mut self.to_start[chunk.clone()],
                to_ends: &mut self.to_end[chunk.clone()],
                factors: &mut self.factor[chunk],
            };
            extrapolate(chunk, ends, &gaps, (view, end_ms), self.divisor);
        }
    }

    /// By what the increase from a first value is multiplied.
    pub(crate) fn factor_of(&self, step: usize, kind: RateKind, first: f64, increase: f64) -> f64 {
        match kind {
            RateKind::Delta => self.factor[step],
            _ => self.counter_factor(step, first, increase),
        }
    }

    /// A counter is not extrapolated beyond the time at which it would have been zero.
    #[inline(always)]
    fn counter_factor(&self, step: usize, first: f64, result: f64) -> f64 {
        if is_far_from_zero(first, result) {
            return self.factor[step];
        }
        let (interval, to_start) = (self.sampled_interval[step], self.to_start[step]);
        let rises = result > 0.0 && first >= 0.0;
        // The division is only made where it may matter; the margin covers the rounding of this test.
        if rises && first * interval <= to_start * result * 1.000_001 {
            let to_zero = interval * (first / result);
            if to_zero < to_start {
                return factor(interval, to_zero, self.to_end[step], self.divisor);
            }
        }
        self.factor[step]
    }
}

/// Columns of a [`RateSteps`] for a chunk of steps.
struct Extrapolated<'a> {
    intervals: &'a mut [f64],
    to_starts: &'a mut [f64],
    to_ends: &'a mut [f64],
    factors: &'a mut [f64],
}

wide! {
    /// Without branches, since divisions take long and are made by vectors. `gaps`: between the
    /// samples of each window. With the view, the end of the first window.
    fn extrapolate(
        columns: Extrapolated<'_>,
        samples: (&[i64], &[i64]),
        gaps: &[f64; CHUNK],
        windows: (View, i64),
        divisor: f64,
    ) {
        // All of one length, as the compiler now knows.
        let Extrapolated { intervals, to_starts, to_ends, factors } = columns;
        let count = intervals.len().min(CHUNK);
        let (to_starts, to_ends) = (&mut to_starts[..count], &mut to_ends[..count]);
        let factors = &mut factors[..count];
        let (firsts, lasts) = (&samples.0[..count], &samples.1[..count]);
        let (view, mut end_ms) = windows;
        for at in 0..count {
            let start_ms = end_ms.wrapping_sub(view.window_ms);
            let interval = milliseconds(firsts[at], lasts[at]) / 1000.0;
            let average_gap = interval / gaps[at];
            // A sample is missing between the window's edge and the sample next to it if they are
            // further apart than this; then the series is taken to end half a gap away.
            let threshold = average_gap * 1.1;
            let half_gap = average_gap / 2.0;
            let limited = |to_edge: f64| if to_edge >= threshold { half_gap } else { to_edge };
            let to_start = limited(milliseconds(start_ms, firsts[at]) / 1000.0);
            let to_end = limited(milliseconds(lasts[at], end_ms) / 1000.0);
            factors[at] = factor(interval, to_start, to_end, divisor);
            (intervals[at], to_starts[at], to_ends[at]) = (interval, to_start, to_end);
            end_ms = end_ms.wrapping_add(view.times.step_ms);
        }
    }
}

/// The way to zero is `first / result` of the interval, and the way to the window's start is never
/// above 1.1 of it: for most counters this is the end of the matter.
#[inline(always)]
fn is_far_from_zero(first: f64, result: f64) -> bool {
    first > result * 1.2
}

#[inline(always)]
fn factor(interval: f64, to_start: f64, to_end: f64, divisor: f64) -> f64 {
    (interval + to_start + to_end) / interval / divisor
}

/// The distance of two times, exactly: no window is as long as 2^51 ms. Vectors have no instruction
/// for this conversion, so the number is put into the last bits of a float of which 1 is the last.
#[inline(always)]
fn milliseconds(from: i64, to: i64) -> f64 {
    /// 1.5 times 2^52.
    const UNIT: f64 = 6_755_399_441_055_744.0;
    let distance = to.wrapping_sub(from) as u64;
    f64::from_bits(UNIT.to_bits().wrapping_add(distance)) - UNIT
}

/// As Go's `Duration.Seconds`.
pub(crate) fn seconds(milliseconds: i64) -> f64 {
    (milliseconds / 1000) as f64 + ((milliseconds % 1000) * 1_000_000) as f64 / 1e9
}

/// `rate`, `increase` or `delta` at every step.
pub(crate) fn extrapolated(
    kind: RateKind,
    floats: Floats<'_>,
    bounds: &Bounds,
    steps: &RateSteps,
    resets: &mut Vec<u32>,
    row: &mut RowBuffer,
) {
    let values = floats.values;
    row.valid.copy_from_slice(&steps.mask);
    resets.clear();
    if kind != RateKind::Delta && !floats.never_fall {
        find_resets(values, resets);
    }
    let mut resets = &resets[..];
    let windows = bounds.low.chunks(CHUNK).zip(bounds.high.chunks(CHUNK));
    let factors = steps.factor.chunks(CHUNK);
    let (mut firsts, mut lasts) = ([0.0; CHUNK], [0.0; CHUNK]);
    let chunks = windows.zip(&steps.strides).zip(factors).zip(row.values.chunks_mut(CHUNK));
    for (chunk, ((((lows, highs), stride), factors), out)) in chunks.enumerate() {
        let (Some(low), Some(high)) = (lows.first(), highs.last()) else { continue };
        resets = &resets[resets.partition_point(|reset| reset <= low)..];
        let has_reset = resets.first().is_some_and(|reset| reset < high);
        let gathered = (&mut firsts, &mut lasts);
        let is_plain = !has_reset
            && plain_differences(kind, values, (lows, highs), *stride, gathered, factors, out);
        if !is_plain {
            let windows = lows.iter().zip(highs).zip(out);
            for (step, ((low, high), out)) in (chunk * CHUNK..).zip(windows) {
                if high.wrapping_sub(*low) >= 2 {
                    *out = counter_result(steps, step, values, (*low, *high), resets);
                }
            }
        }
    }
}

/// What a column has at the first and at the last samples of windows. Without a stride, what it has
/// for a window of less than two samples means nothing.
fn ends<'a, T: Copy>(
    column: &'a [T],
    (lows, highs): (&[u32], &[u32]),
    stride: usize,
    (firsts, lasts): (&'a mut [T; CHUNK], &'a mut [T; CHUNK]),
) -> (&'a [T], &'a [T]) {
    let steps = lows.len();
    if stride == 0 {
        let windows = lows.iter().zip(highs);
        for ((first, last), (low, high)) in firsts.iter_mut().zip(lasts.iter_mut()).zip(windows) {
            if let Some([from, .., to]) = column.get(*low as usize..*high as usize) {
                (*first, *last) = (*from, *to);
            }
        }
        return (&firsts[..steps], &lasts[..steps]);
    }
    let (from_first, from_last) = (&column[lows[0] as usize..], &column[highs[0] as usize - 1..]);
    if stride == 1 {
        return (&from_first[..steps], &from_last[..steps]);
    }
    for (from, out) in [(from_first, &mut firsts[..steps]), (from_last, &mut lasts[..steps])] {
        match stride {
            // Half a minute and a whole one, of what is scraped every 15 seconds.
            2 => every::<2, T>(from, out),
            4 => every::<4, T>(from, out),
            _ => from.iter().step_by(stride).zip(out).for_each(|(from, out)| *out = *from),
        }
    }
    (&firsts[..steps], &lasts[..steps])
}

/// The first of every `N` items, for as long as there is room.
fn every<const N: usize, T: Copy>(from: &[T], out: &mut [T]) {
    /// A loop of so many rounds is unrolled.
    const TOGETHER: usize = 8;
    let mut from = from;
    let (blocks, rest) = out.as_chunks_mut::<TOGETHER>();
    for block in blocks {
        // One look at the length for all; the last block's items may end with its last.
        let items = &from[..N * (TOGETHER - 1) + 1];
        (0..TOGETHER).for_each(|at| block[at] = items[N * at]);
        from = from.get(N * TOGETHER..).unwrap_or(&[]);
    }
    rest.iter_mut().zip(from.iter().step_by(N)).for_each(|(out, item)| *out = *item);
}

/// Differences of last and first values times a factor. False if that may not be the result of
/// all: a counter is close to zero.
fn plain_differences(
    kind: RateKind,
    values: &[f64],
    windows: (&[u32], &[u32]),
    stride: usize,
    gathered: (&mut [f64; CHUNK], &mut [f64; CHUNK]),
    factors: &[f64],
    out: &mut [f64],
) -> bool {
    let (firsts, lasts) = ends(values, windows, stride, gathered);
    scaled_differences(firsts, lasts, factors, out) || kind == RateKind::Delta
}

wide! {
    /// Whether all the first values are far from zero.
    fn scaled_differences(firsts: &[f64], lasts: &[f64], factors: &[f64], out: &mut [f64]) -> bool {
        // All of one length, as the compiler now knows.
        let count = out.len();
        let (firsts, lasts, factors) = (&firsts[..count], &lasts[..count], &factors[..count]);
        let mut are_far = true;
        for at in 0..count {
            let result = lasts[at] - firsts[at];
            are_far &= is_far_from_zero(firsts[at], result);
            out[at] = result * factors[at];
        }
        are_far
    }
}

/// The result of one window; `resets` are those after its first sample, and perhaps some before.
fn counter_result(
    steps: &RateSteps,
    step: usize,
    values: &[f64],
    (low, high): (u32, u32),
    resets: &[u32],
) -> f64 {
    let first = values[low as usize];
    let mut result = values[high as usize - 1] - first;
    let inside = &resets[resets.partition_point(|reset| *reset <= low)..];
    for &reset in inside.iter().take_while(|reset| **reset < high) {
        result += values[reset as usize - 1];
    }
    result * steps.counter_factor(step, first, result)
}

/// Whether there are several values, none less than the one before, nor NaN.
pub(crate) fn never_fall(values: &[f64]) -> bool {
    /// Looked at together, which is quicker than to stop at the first that falls.
    const TOGETHER: usize = 256;
    let (Some((_, before)), Some((_, after))) = (values.split_last(), values.split_first()) else {
        return false;
    };
    let mut chunks = before.chunks(TOGETHER).zip(after.chunks(TOGETHER));
    !before.is_empty() && chunks.all(|(before, after)| none_falls(before, after))
}

wide! {
    fn none_falls(before: &[f64], after: &[f64]) -> bool {
        before.iter().zip(after).fold(true, |rise, (before, after)| rise & (before <= after))
    }
}

/// Indices of samples that are less than the one before.
fn find_resets(values: &[f64], resets: &mut Vec<u32>) {
    /// Looked at together, which is quicker than one by one; most have no reset.
    const TOGETHER: usize = 64;
    resets.clear();
    let (Some(before), Some(after)) = (values.split_last(), values.split_first()) else { return };
    let chunks = before.1.chunks(TOGETHER).zip(after.1.chunks(TOGETHER));
    for (start, (before, after)) in (1..).step_by(TOGETHER).zip(chunks) {
        let pairs = || before.iter().zip(after);
        if pairs().fold(false, |any, (before, after)| any | (after < before)) {
            let falls = pairs().enumerate().filter(|(_, (before, after))| after < before);
            resets.extend(falls.map(|(index, _)| start + index as u32));
        }
    }
}

/// `irate` (`per_second`) or `idelta`: from the last two samples of the window.
pub(crate) fn instant(
    per_second: bool,
    timestamps: &[i64],
    values: &[f64],
    bounds: &Bounds,
    row: &mut RowBuffer,
) {
    for step in 0..row.values.len() {
        let window = bounds.window(step);
        if window.len() < 2 {
            continue;
        }
        let (previous, last) = (window.end - 2, window.end - 1);
        let reset = per_second && values[last] < values[previous];
        let mut result = if reset { values[last] } else { values[last] - values[previous] };
        if per_second {
            result /= timestamps[last].saturating_sub(timestamps[previous]) as f64 / 1000.0;
        }
        row.set(step, result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prometheus's loop over one window, as its documentation tells it.
    fn naive(kind: RateKind, samples: &[(i64, f64)], start_ms: i64, end_ms: i64) -> Option<f64> {
        let window: Vec<_> =
            samples.iter().filter(|(t, _)| *t > start_ms && *t <= end_ms).collect();
        if window.len() < 2 {
            return None;
        }
        let (first, last) = (window[0], window[window.len() - 1]);
        let mut result = last.1 - first.1;
        if kind != RateKind::Delta {
            for pair in window.windows(2) {
                if pair[1].1 < pair[0].1 {
                    result += pair[0].1;
                }
            }
        }
        let mut to_start = (first.0 - start_ms) as f64 / 1000.0;
        let mut to_end = (end_ms - last.0) as f64 / 1000.0;
        let interval = (last.0 - first.0) as f64 / 1000.0;
        let gap = interval / (window.len() - 1) as f64;
        if to_start >= gap * 1.1 {
            to_start = gap / 2.0;
        }
        if kind != RateKind::Delta && result > 0.0 && first.1 >= 0.0 {
            to_start = to_start.min(interval * (first.1 / result));
        }
        if to_end >= gap * 1.1 {
            to_end = gap / 2.0;
        }
        let mut factor = (interval + to_start + to_end) / interval;
        if kind == RateKind::Rate {
            factor /= (end_ms - start_ms) as f64 / 1000.0;
        }
        Some(result * factor)
    }

    #[test]
    fn results_equal_the_plain_loop_bit_for_bit() {
        use crate::exec::series::Series;
        use crate::exec::window::{WindowCall, WindowScratch, evaluate};
        use crate::plan::{Grid, Times};
        use icecore_storage::metrics::sample::Samples;

        let mut state = 7u64;
        let mut random = move |bound: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        for turn in 0..200 {
            let (mut time, mut value) = (random(5_000) as i64, random(50) as f64 * 0.1);
            let mut samples = Samples::default();
            // Irregular, or as many samples as make windows move on evenly.
            let (count, gap_ms) = match turn % 5 {
                0 => (random(60), None),
                at => (random(800), Some(7_000 / at)),
            };
            let resets_every = [8, 200, 10_000][turn as usize % 3];
            for _ in 0..count {
                time += gap_ms.unwrap_or_else(|| 1 + random(40_000) as i64);
                value = if random(resets_every) == 0 {
                    random(3) as f64
                } else {
                    value + random(900) as f64 / 7.0
                };
                samples.push(time, value);
            }
            let listed: Vec<_> =
                samples.timestamps.iter().copied().zip(samples.values.iter().copied()).collect();
            let view = View {
                times: Times { first_ms: 0, step_ms: 7_000, steps: 150 },
                window_ms: 1 + random(300_000) as i64,
            };
            for (id, kind) in [
                (FunctionId::Rate, RateKind::Rate),
                (FunctionId::Increase, RateKind::Increase),
                (FunctionId::Delta, RateKind::Delta),
            ] {
                let grid = Grid { start_ms: 0, step_ms: 7_000, steps: 150 };
                let call = WindowCall {
                    id,
                    view,
                    extension: None,
                    grid,
                    parameters: &[],
                    span: Default::default(),
                };
                let mut row = RowBuffer::default();
                crate::exec::with_test_session(|session| {
                    let mut scratch = WindowScratch::default();
                    let mut series = Series::stored(samples.clone());
                    evaluate(&call, "x", &mut series, &mut scratch, &mut row, session).unwrap();
                });
                for step in 0..150 {
                    let end_ms = view.times.at(step);
                    let expected = naive(kind, &listed, end_ms - view.window_ms, end_ms);
                    let got = crate::exec::rows::bit(&row.valid, step).then_some(row.values[step]);
                    assert_eq!(got.map(f64::to_bits), expected.map(f64::to_bits));
                }
            }
        }
    }
}
