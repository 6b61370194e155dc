//! `rate`, `increase`, `delta`, `irate`, `idelta`.
//!
//! Counter resets are found once for a series. The correction of a window is the sum of the values
//! before the resets inside it, added to `last - first` in order of time: the very additions that
//! Prometheus makes, without a walk over all samples. What depends on timestamps alone (bounds and
//! extrapolation) is a [`RateSteps`], shared by series with equal timestamps.

use crate::exec::rows::{RowBuffer, words};
use crate::exec::window::Bounds;
use crate::functions::FunctionId;
use crate::plan::View;

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

/// The part of a step's result that does not depend on values; times in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct RateStep {
    first: u32,
    last: u32,
    sampled_interval: f64,
    to_start: f64,
    to_end: f64,
    factor: f64,
}

#[derive(Debug, Default)]
pub(crate) struct RateSteps {
    steps: Vec<RateStep>,
    /// Steps with at least two samples.
    mask: Vec<u64>,
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
        let steps = view.times.steps;
        self.steps.resize(steps, RateStep::default());
        self.mask.resize(words(steps), 0);
        let windows = bounds.low.chunks(64).zip(bounds.high.chunks(64));
        let divisor = self.divisor;
        let mut end_ms = view.times.first_ms;
        for ((lows, highs), (mask, steps)) in
            windows.zip(self.mask.iter_mut().zip(self.steps.chunks_mut(64)))
        {
            *mask = 0;
            for (bit, (step, (low, high))) in
                steps.iter_mut().zip(lows.iter().zip(highs)).enumerate()
            {
                let start_ms = end_ms.wrapping_sub(view.window_ms);
                *step = RateStep::default();
                if let Some([first, .., last]) = timestamps.get(*low as usize..*high as usize) {
                    *mask |= 1 << bit;
                    let times = [start_ms, *first, *last, end_ms];
                    *step = RateStep::of(*low..*high, times, kind, divisor);
                }
                end_ms = end_ms.wrapping_add(view.times.step_ms);
            }
        }
    }
}

impl RateSteps {
    /// Sets the steps right in whose windows samples are left out: gaps are smaller there.
    pub(crate) fn count_left_out(
        &mut self,
        timestamps: &[i64],
        bounds: &Bounds,
        view: View,
        kind: RateKind,
    ) {
        for (index, left_out) in bounds.left_out.iter().enumerate().filter(|(_, n)| **n > 0) {
            let window = bounds.window(index);
            if let Some([first, .., last]) = timestamps.get(window.clone()) {
                let end_ms = view.times.at(index);
                let times = [end_ms.wrapping_sub(view.window_ms), *first, *last, end_ms];
                let (low, high) = (window.start as u32, window.end as u32);
                let counted = RateStep::of(low..high + left_out, times, kind, self.divisor);
                self.steps[index] = RateStep { last: high - 1, ..counted };
            }
        }
    }

    /// By what the increase from a first value is multiplied.
    pub(crate) fn factor_of(&self, step: usize, kind: RateKind, first: f64, increase: f64) -> f64 {
        let step = &self.steps[step];
        match kind {
            RateKind::Delta => step.factor,
            _ => counter_factor(kind, self, step, first, increase),
        }
    }
}

impl RateStep {
    /// `times` are those of the window's start, its first and last sample, and its end, in ms.
    #[inline(always)]
    fn of(rows: std::ops::Range<u32>, times: [i64; 4], kind: RateKind, divisor: f64) -> RateStep {
        let [start, first, last, end] = times;
        let seconds = |from: i64, to: i64| to.wrapping_sub(from) as f64 / 1000.0;
        let sampled_interval = seconds(first, last);
        let average_gap = sampled_interval / f64::from(rows.end - rows.start - 1);
        // A sample is missing between the window's edge and the sample next to it if they are
        // further apart than this; then the series is taken to end half a gap away.
        let threshold = average_gap * 1.1;
        let limited = |to_edge: f64| if to_edge >= threshold { average_gap / 2.0 } else { to_edge };
        let to_start = limited(seconds(start, first));
        let to_end = limited(seconds(last, end));
        let factor = factor(sampled_interval, to_start, to_end, kind, divisor);
        RateStep {
            first: rows.start,
            last: rows.end - 1,
            sampled_interval,
            to_start,
            to_end,
            factor,
        }
    }
}

#[inline(always)]
fn factor(interval: f64, to_start: f64, to_end: f64, kind: RateKind, divisor: f64) -> f64 {
    let factor = (interval + to_start + to_end) / interval;
    if kind == RateKind::Rate { factor / divisor } else { factor }
}

/// As Go's `Duration.Seconds`.
pub(crate) fn seconds(milliseconds: i64) -> f64 {
    (milliseconds / 1000) as f64 + ((milliseconds % 1000) * 1_000_000) as f64 / 1e9
}

/// `rate`, `increase` or `delta` at every step.
pub(crate) fn extrapolated(
    kind: RateKind,
    values: &[f64],
    steps: &RateSteps,
    resets: &mut Vec<u32>,
    row: &mut RowBuffer,
) {
    row.valid.copy_from_slice(&steps.mask);
    if kind == RateKind::Delta {
        for (out, step) in row.values.iter_mut().zip(&steps.steps) {
            if step.last > step.first {
                *out = (values[step.last as usize] - values[step.first as usize]) * step.factor;
            }
        }
        return;
    }
    find_resets(values, resets);
    if resets.is_empty() {
        // Most counters, most of the time. What is computed of steps without a window is not valid.
        for (out, step) in row.values.iter_mut().zip(&steps.steps) {
            let (first, last) = (values.get(step.first as usize), values.get(step.last as usize));
            if let (Some(first), Some(last)) = (first, last) {
                let result = last - first;
                *out = result * counter_factor(kind, steps, step, *first, result);
            }
        }
        return;
    }
    let mut oldest = 0;
    for (out, step) in row.values.iter_mut().zip(&steps.steps) {
        if step.last <= step.first {
            continue;
        }
        let first = values[step.first as usize];
        let mut result = values[step.last as usize] - first;
        while oldest < resets.len() && resets[oldest] <= step.first {
            oldest += 1;
        }
        for &reset in resets[oldest..].iter().take_while(|reset| **reset <= step.last) {
            result += values[reset as usize - 1];
        }
        *out = result * counter_factor(kind, steps, step, first, result);
    }
}

/// A counter is not extrapolated beyond the time at which it would have been zero.
#[inline(always)]
fn counter_factor(
    kind: RateKind,
    steps: &RateSteps,
    step: &RateStep,
    first: f64,
    result: f64,
) -> f64 {
    // The way to zero is `first / result` of the interval, and the way to the window's start is never
    // above 1.1 of it: for most counters this is the end of the matter.
    if first > result * 1.2 {
        return step.factor;
    }
    let rises = result > 0.0 && first >= 0.0;
    // The division is only made where it may matter; the margin covers the rounding of this test.
    if rises && first * step.sampled_interval <= step.to_start * result * 1.000_001 {
        let to_zero = step.sampled_interval * (first / result);
        if to_zero < step.to_start {
            return factor(step.sampled_interval, to_zero, step.to_end, kind, steps.divisor);
        }
    }
    step.factor
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
        for _ in 0..200 {
            let (mut time, mut value) = (0, random(50) as f64 * 0.1);
            let mut samples = Samples::default();
            for _ in 0..random(60) {
                time += 1 + random(40_000) as i64;
                value = if random(8) == 0 {
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
