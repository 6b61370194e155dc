//! The `*_over_time` functions, `changes`, `resets`, `deriv` and `predict_linear`.
//!
//! Sums are Kahan's in Neumaier's variant over the window in order of time, as Prometheus makes
//! them. Minimum, maximum and quantiles (`quantile.rs`) of overlapping windows are kept up from step
//! to step.

use std::collections::VecDeque;

use crate::engine::QueryError;
use crate::exec::Session;
use crate::exec::quantile::{SlidingQuantile, quantile_of_keys, sort_key};
use crate::exec::rows::{RowBuffer, for_each_bit};
use crate::exec::window::{Bounds, WindowCall};
use crate::functions::FunctionId;
use crate::go_format::float_fixed;
use icecore_storage::metrics::kahan::kahan_add;

/// Memory that is reused from series to series.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    prefix: Vec<u32>,
    sums: Vec<f64>,
    queue: VecDeque<u32>,
    quantiles: SlidingQuantile,
    keys: Vec<i64>,
    deviations: Vec<i64>,
}

/// Computes the row of a function that looks at floats only.
pub(crate) fn compute(
    call: &WindowCall<'_>,
    timestamps: &[i64],
    values: &[f64],
    bounds: &Bounds,
    scratch: &mut Scratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) {
    use FunctionId::*;
    let time = |index: usize| timestamps[index] as f64 / 1000.0;
    match call.id {
        SumOverTime if whole_sums(values, bounds, &mut scratch.sums) => {
            let sums = &scratch.sums;
            each(bounds, row, |window| sums[window.end] - sums[window.start]);
        }
        AvgOverTime if whole_sums(values, bounds, &mut scratch.sums) => {
            let sums = &scratch.sums;
            each(bounds, row, |window| {
                (sums[window.end] - sums[window.start]) / window.len() as f64
            });
        }
        SumOverTime => each(bounds, row, |window| sum(&values[window])),
        AvgOverTime => each(bounds, row, |window| average(&values[window])),
        CountOverTime => each(bounds, row, |window| window.len() as f64),
        PresentOverTime | AbsentOverTime => each(bounds, row, |_| 1.0),
        LastOverTime | DefaultRollup => each(bounds, row, |window| values[window.end - 1]),
        FirstOverTime => each(bounds, row, |window| values[window.start]),
        StdvarOverTime => each(bounds, row, |window| variance(&values[window])),
        StddevOverTime => each(bounds, row, |window| variance(&values[window]).sqrt()),
        MinOverTime => extreme(values, bounds, &mut scratch.queue, row, |new, old| new < old),
        MaxOverTime => extreme(values, bounds, &mut scratch.queue, row, |new, old| new > old),
        TsOfFirstOverTime => each(bounds, row, |window| time(window.start)),
        TsOfLastOverTime => each(bounds, row, |window| time(window.end - 1)),
        TsOfMinOverTime => {
            each(bounds, row, |window| time(last_extreme(values, window, |new, old| new <= old)));
        }
        TsOfMaxOverTime => {
            each(bounds, row, |window| time(last_extreme(values, window, |new, old| new >= old)));
        }
        Changes | Resets => count_differences(call.id, values, bounds, &mut scratch.prefix, row),
        QuantileOverTime => quantiles(call, values, bounds, &mut scratch.quantiles, row, session),
        MadOverTime => each(bounds, row, |window| median_deviation(&values[window], scratch)),
        DoubleExponentialSmoothing => {
            for step in 0..row.values.len() {
                let window = bounds.window(step);
                if window.len() >= 2 {
                    let (smoothing, trend) =
                        (call.parameters[0].at(step), call.parameters[1].at(step));
                    let smooth = double_exponential_smoothing(&values[window], smoothing, trend);
                    row.set(step, smooth);
                }
            }
        }
        Deriv => {
            for step in 0..row.values.len() {
                let window = bounds.window(step);
                if window.len() >= 2 {
                    let times = &timestamps[window.clone()];
                    let (slope, _) = linear_regression(times, &values[window], times[0]);
                    row.set(step, slope);
                }
            }
        }
        PredictLinear => {
            for step in 0..row.values.len() {
                let window = bounds.window(step);
                if window.len() >= 2 {
                    let times = &timestamps[window.clone()];
                    let now_ms = call.grid.time_ms(step);
                    let (slope, intercept) = linear_regression(times, &values[window], now_ms);
                    row.set(step, slope * parameter(call, step) + intercept);
                }
            }
        }
        other => unreachable!("{other:?} is not a function over windows"),
    }
}

fn parameter(call: &WindowCall<'_>, step: usize) -> f64 {
    call.parameters[0].at(step)
}

/// Refuses parameters out of range at the first step whose window is not empty: `seen` are those.
pub(crate) fn check_parameters(call: &WindowCall<'_>, seen: &[u64]) -> Result<(), QueryError> {
    if call.id != FunctionId::DoubleExponentialSmoothing {
        return Ok(());
    }
    let factors = [(&call.parameters[0], "smoothing", "sf"), (&call.parameters[1], "trend", "tf")];
    let mut wrong = None;
    for_each_bit(seen, |step| {
        for (factor, name, short) in factors {
            let value = factor.at(step);
            if wrong.is_none() && (value <= 0.0 || value >= 1.0) {
                wrong = Some((name, short, value));
            }
        }
    });
    let Some((name, short, value)) = wrong else { return Ok(()) };
    let got = float_fixed(value, 6);
    let text = format!("invalid {name} factor. Expected: 0 < {short} < 1, got: {got}");
    Err(QueryError::Execution(text))
}

/// Smoothing with a trend; `values` are at least two.
fn double_exponential_smoothing(values: &[f64], smoothing: f64, trend: f64) -> f64 {
    let (mut previous, mut current) = (0.0, values[0]);
    let mut slope = values[1] - values[0];
    for (index, value) in values.iter().enumerate().skip(1) {
        if index > 1 {
            slope = trend * (current - previous) + (1.0 - trend) * slope;
        }
        let scaled = smoothing * value;
        let expected = (1.0 - smoothing) * (current + slope);
        (previous, current) = (current, scaled + expected);
    }
    current
}

/// Fills the steps whose window is not empty.
#[inline(always)]
fn each(bounds: &Bounds, row: &mut RowBuffer, mut f: impl FnMut(std::ops::Range<usize>) -> f64) {
    row.valid.copy_from_slice(&bounds.mask);
    let windows = bounds.low.iter().zip(&bounds.high);
    for (out, (&low, &high)) in row.values.iter_mut().zip(windows) {
        if high > low {
            *out = f(low as usize..high as usize);
        }
    }
}

/// Sums of all samples before each sample, if windows overlap and the sums are exact: of whole
/// numbers whose sum stays below 2^53 every order of summation gives the same.
fn whole_sums(values: &[f64], bounds: &Bounds, sums: &mut Vec<f64>) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if bounds.total < 4 * values.len() as u64 {
        return false;
    }
    sums.clear();
    sums.push(0.0);
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for value in values {
        magnitude += value.abs();
        sum += value;
        sums.push(sum);
        // NaN is no whole number, and infinities are not below the limit.
        if magnitude >= EXACT || value.trunc() != *value {
            return false;
        }
    }
    true
}

fn sum(values: &[f64]) -> f64 {
    let (mut sum, mut compensation) = (0.0, 0.0);
    for value in values {
        (sum, compensation) = kahan_add(*value, sum, compensation);
    }
    if sum.is_infinite() { sum } else { sum + compensation }
}

/// The mean: directly while the sum does not overflow, incrementally from there on.
fn average(values: &[f64]) -> f64 {
    let (mut sum, mut mean, mut compensation) = (values[0], 0.0, 0.0);
    let mut incremental = false;
    for (index, value) in values.iter().enumerate().skip(1) {
        let count = (index + 1) as f64;
        if !incremental {
            let (new_sum, new_compensation) = kahan_add(*value, sum, compensation);
            if !new_sum.is_infinite() {
                (sum, compensation) = (new_sum, new_compensation);
                continue;
            }
            incremental = true;
            mean = sum / (count - 1.0);
            compensation /= count - 1.0;
        }
        let kept = (count - 1.0) / count;
        (mean, compensation) = kahan_add(value / count, kept * mean, kept * compensation);
    }
    let count = values.len() as f64;
    if incremental { mean + compensation } else { sum / count + compensation / count }
}

/// Welford's variance with compensated sums.
fn variance(values: &[f64]) -> f64 {
    let (mut count, mut mean, mut mean_c, mut squares, mut squares_c) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - (mean + mean_c);
        (mean, mean_c) = kahan_add(delta / count, mean, mean_c);
        let rest = value - (mean + mean_c);
        (squares, squares_c) = kahan_add(delta * rest, squares, squares_c);
    }
    (squares + squares_c) / count
}

/// Index of the last sample that no other beats.
fn last_extreme(
    values: &[f64],
    window: std::ops::Range<usize>,
    replaces: impl Fn(f64, f64) -> bool,
) -> usize {
    let mut best = window.start;
    for index in window {
        if replaces(values[index], values[best]) || values[best].is_nan() {
            best = index;
        }
    }
    best
}

/// Minimum or maximum: NaN only where there is nothing else. A queue holds the samples that may
/// still become the extreme of a later window, best first.
fn extreme(
    values: &[f64],
    bounds: &Bounds,
    queue: &mut VecDeque<u32>,
    row: &mut RowBuffer,
    beats: impl Fn(f64, f64) -> bool,
) {
    queue.clear();
    let mut next = 0;
    each(bounds, row, |window| {
        while queue.front().is_some_and(|&front| (front as usize) < window.start) {
            queue.pop_front();
        }
        for index in next.max(window.start)..window.end {
            let value = values[index];
            if value.is_nan() {
                continue;
            }
            while queue.back().is_some_and(|&back| beats(value, values[back as usize])) {
                queue.pop_back();
            }
            queue.push_back(index as u32);
        }
        next = next.max(window.end);
        queue.front().map_or(f64::NAN, |&front| values[front as usize])
    });
}

/// Whether `changes` or `resets` counts the step from `old` to `new`.
pub(crate) fn differs(id: FunctionId, old: f64, new: f64) -> bool {
    match id {
        FunctionId::Resets => new < old,
        _ => new != old && !(new.is_nan() && old.is_nan()),
    }
}

fn count_differences(
    id: FunctionId,
    values: &[f64],
    bounds: &Bounds,
    prefix: &mut Vec<u32>,
    row: &mut RowBuffer,
) {
    prefix.clear();
    prefix.push(0);
    let mut count = 0;
    for pair in values.windows(2) {
        count += u32::from(differs(id, pair[0], pair[1]));
        prefix.push(count);
    }
    each(bounds, row, |window| f64::from(prefix[window.end - 1] - prefix[window.start]));
}

fn quantiles(
    call: &WindowCall<'_>,
    values: &[f64],
    bounds: &Bounds,
    sliding: &mut SlidingQuantile,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) {
    sliding.begin(values, bounds.largest as usize);
    let steps = &bounds.mask;
    row.valid.copy_from_slice(steps);
    for_each_bit(steps, |step| {
        let quantile = parameter(call, step);
        if !(0.0..=1.0).contains(&quantile) {
            session.annotations.invalid_quantile(quantile, call.span);
        }
        row.values[step] = sliding.quantile(quantile, values, bounds.window(step));
    });
}

/// The median of the distances from the median; NaN if any value is.
fn median_deviation(values: &[f64], scratch: &mut Scratch) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    scratch.keys.clear();
    scratch.keys.extend(values.iter().map(|value| sort_key(*value)));
    scratch.keys.sort_unstable();
    let median = quantile_of_keys(0.5, &scratch.keys);
    scratch.deviations.clear();
    scratch.deviations.extend(values.iter().map(|value| sort_key((value - median).abs())));
    scratch.deviations.sort_unstable();
    quantile_of_keys(0.5, &scratch.deviations)
}

/// Least squares: the slope per second and the value at `intercept_ms`.
fn linear_regression(timestamps: &[i64], values: &[f64], intercept_ms: i64) -> (f64, f64) {
    let (mut sum_x, mut x_c, mut sum_y, mut y_c) = (0.0, 0.0, 0.0, 0.0);
    let (mut sum_xy, mut xy_c, mut sum_x2, mut x2_c) = (0.0, 0.0, 0.0, 0.0);
    let first = values[0];
    let mut constant = true;
    for (index, (&timestamp, &y)) in timestamps.iter().zip(values).enumerate() {
        if index > 0 && y != first {
            constant = false;
        }
        let x = timestamp.saturating_sub(intercept_ms) as f64 / 1e3;
        (sum_x, x_c) = kahan_add(x, sum_x, x_c);
        (sum_y, y_c) = kahan_add(y, sum_y, y_c);
        (sum_xy, xy_c) = kahan_add(x * y, sum_xy, xy_c);
        (sum_x2, x2_c) = kahan_add(x * x, sum_x2, x2_c);
    }
    if constant {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let count = values.len() as f64;
    let (sum_x, sum_y) = (sum_x + x_c, sum_y + y_c);
    let (sum_xy, sum_x2) = (sum_xy + xy_c, sum_x2 + x2_c);
    let covariance = sum_xy - sum_x * sum_y / count;
    let variance = sum_x2 - sum_x * sum_x / count;
    let slope = covariance / variance;
    (slope, sum_y / count - slope * sum_x / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_compensated_unless_they_overflow() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(average(&[1.0, 1e100, 1.0, -1e100]), 0.5);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(average(&[f64::MAX, f64::MAX]), f64::MAX);
        assert!(average(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    #[test]
    fn whole_numbers_are_summed_ahead_only_where_that_is_exact() {
        let bounds = Bounds { total: 1000, ..Bounds::default() };
        let mut sums = Vec::new();
        assert!(whole_sums(&[1.0, -2.0, 4.0], &bounds, &mut sums));
        assert_eq!(sums, [0.0, 1.0, -1.0, 3.0]);
        for refused in [[1.0, 0.5], [1.0, f64::NAN], [1.0, f64::INFINITY], [9e15, 9e15]] {
            assert!(!whole_sums(&refused, &bounds, &mut sums), "{refused:?}");
        }
    }

    #[test]
    fn extremes_ignore_nan_unless_there_is_nothing_else() {
        let values = [f64::NAN, 2.0, 0.0, f64::NAN, f64::NAN];
        let bounds = Bounds {
            low: vec![0, 0, 1, 3],
            high: vec![1, 2, 4, 5],
            mask: vec![0b1111],
            ..Bounds::default()
        };
        let mut row = RowBuffer::default();
        row.reset(4);
        extreme(&values, &bounds, &mut VecDeque::new(), &mut row, |new, old| new > old);
        assert!(row.values[0].is_nan() && row.values[3].is_nan());
        assert_eq!(row.values[1..3], [2.0, 2.0]);
    }

    #[test]
    fn constant_series_have_slope_zero() {
        assert_eq!(linear_regression(&[0, 10], &[3.0, 3.0], 0), (0.0, 3.0));
        assert!(linear_regression(&[0, 10], &[f64::INFINITY; 2], 0).0.is_nan());
    }
}
