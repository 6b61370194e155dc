//! Functions over windows: the samples of a series in `(time - range, time]`, step by step.
//!
//! - **Columns** are a series' float samples without stale markers; histograms are kept apart.
//! - **Bounds** are the index ranges of the windows in the columns, found with two pointers. They
//!   depend on timestamps alone and are kept while the next series has the same.
//!
//! A function computes the row of one series from columns and bounds; the loops are in `rate.rs`
//! and `over_time.rs`. A series with native histograms takes the slower way through `mixed`.

use std::sync::Arc;

use icecore_storage::metrics::sample::{STALE_NAN_BITS, Samples, is_stale_nan};

use crate::engine::QueryError;
use crate::exec::budget::Budget;
use crate::exec::rate::{self, RateKind, RateSteps};
use crate::exec::rows::{RowBuffer, clear_bit};
use crate::exec::{Scalar, Session, histograms_unsupported};
use crate::exec::{extended, over_time, start_time};
use crate::functions::FunctionId;
use crate::parser::ast::Span;
use crate::plan::extension::Extension;
use crate::plan::{Grid, Times, View};

/// A call of a function over a range vector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowCall<'a> {
    pub(crate) id: FunctionId,
    pub(crate) name: &'static str,
    pub(crate) view: View,
    /// Of `anchored` and `smoothed` selectors.
    pub(crate) extension: Option<Extension>,
    /// The evaluation times, which differ from those of `view` by offset and `@`.
    pub(crate) grid: Grid,
    /// The scalar arguments.
    pub(crate) parameters: &'a [Scalar],
    /// Where the first argument stands; annotations point there.
    pub(crate) span: Span,
    /// Where the call stands; errors point there.
    pub(crate) call_span: Span,
}

impl WindowCall<'_> {
    /// Functions that act like an offset keep the metric's name.
    pub(crate) fn keeps_name(&self) -> bool {
        use FunctionId::{DefaultRollup, FirstOverTime, LastOverTime};
        matches!(self.id, FirstOverTime | LastOverTime | DefaultRollup)
    }
}

/// Index ranges of windows, one a step.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) low: Vec<u32>,
    pub(crate) high: Vec<u32>,
    /// Steps whose window is not empty.
    pub(crate) mask: Vec<u64>,
    /// Samples in all windows together, and in the largest.
    pub(crate) total: u64,
    pub(crate) largest: u64,
}

impl Bounds {
    pub(crate) fn update(&mut self, timestamps: &[i64], times: Times, window_ms: i64) {
        self.low.resize(times.steps, 0);
        self.high.resize(times.steps, 0);
        let (mut low, mut high) = (0, 0);
        // Where this wraps, billions of years away, there are no samples.
        let mut end_ms = times.first_ms;
        for (out_low, out_high) in self.low.iter_mut().zip(&mut self.high) {
            let start_ms = end_ms.wrapping_sub(window_ms);
            while high < timestamps.len() && timestamps[high] <= end_ms {
                high += 1;
            }
            while low < high && timestamps[low] <= start_ms {
                low += 1;
            }
            (*out_low, *out_high) = (low as u32, high as u32);
            end_ms = end_ms.wrapping_add(times.step_ms);
        }
        self.summarize();
    }

    /// Makes mask, total and largest, in loops that are vectors.
    fn summarize(&mut self) {
        (self.total, self.largest) = (0, 0);
        self.mask.clear();
        for (lows, highs) in self.low.chunks(64).zip(self.high.chunks(64)) {
            let lengths = || lows.iter().zip(highs).map(|(low, high)| high.wrapping_sub(*low));
            self.total += lengths().map(u64::from).fold(0, u64::wrapping_add);
            self.largest = self.largest.max(u64::from(lengths().fold(0, u32::max)));
            let is_full = lengths().fold(true, |full, length| full & (length > 0));
            let bits = || lengths().enumerate().map(|(bit, n)| u64::from(n > 0) << bit);
            let full = u64::MAX >> (64 - lows.len());
            self.mask.push(if is_full { full } else { bits().fold(0, |mask, bit| mask | bit) });
        }
    }

    pub(crate) fn window(&self, step: usize) -> std::ops::Range<usize> {
        self.low[step] as usize..self.high[step] as usize
    }
}

/// Memory that is reused from series to series.
#[derive(Debug, Default)]
pub(crate) struct WindowScratch {
    timestamps: Vec<i64>,
    values: Vec<f64>,
    histogram_times: Vec<i64>,
    /// Into `Samples::histograms`.
    histogram_rows: Vec<u32>,
    bounds: Bounds,
    bounds_token: u64,
    rate_steps: RateSteps,
    rate_token: u64,
    pub(crate) over_time: over_time::Scratch,
    pub(crate) extended: extended::Scratch,
    start_time: start_time::Scratch,
    pub(crate) resets: Vec<u32>,
}

/// Computes the row of one series.
pub(crate) fn evaluate(
    call: &WindowCall<'_>,
    metric: &str,
    samples: &Samples,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    row.reset(call.view.times.steps);
    if let Some(extension) = call.extension {
        let scratch = &mut scratch.extended;
        return extended::evaluate(call, extension, metric, samples, scratch, row, session);
    }
    let has_starts = session.use_start_timestamps && !samples.start_timestamps.is_empty();
    if has_starts && start_time::concerns(call.id) {
        let scratch = &mut scratch.start_time;
        return start_time::evaluate(call, metric, samples, scratch, row, session);
    }
    if samples.histograms.is_empty() && !has_stale(&samples.values) {
        let token = samples.timestamps_token;
        return floats(call, &samples.timestamps, &samples.values, token, scratch, row, session);
    }
    let mut timestamps = std::mem::take(&mut scratch.timestamps);
    let mut values = std::mem::take(&mut scratch.values);
    separate(samples, &mut timestamps, &mut values, scratch);
    let result = if scratch.histogram_rows.is_empty() {
        floats(call, &timestamps, &values, 0, scratch, row, session)
    } else {
        mixed(call, metric, samples, (&timestamps, &values), scratch, row, session)
    };
    scratch.timestamps = timestamps;
    scratch.values = values;
    result
}

fn has_stale(values: &[f64]) -> bool {
    // Many at a time, which is quicker than to stop at the first.
    let found = |values: &[f64]| {
        values.iter().fold(false, |found, value| found | (value.to_bits() == STALE_NAN_BITS))
    };
    values.chunks(256).any(found)
}

/// Leaves out stale markers and puts histograms apart.
fn separate(
    samples: &Samples,
    timestamps: &mut Vec<i64>,
    values: &mut Vec<f64>,
    scratch: &mut WindowScratch,
) {
    timestamps.clear();
    values.clear();
    scratch.histogram_times.clear();
    scratch.histogram_rows.clear();
    let mut next = 0;
    for (row, (&timestamp, &value)) in samples.timestamps.iter().zip(&samples.values).enumerate() {
        let histogram = samples.histograms.get(next).filter(|(at, _)| *at as usize == row);
        if let Some((_, histogram)) = histogram {
            if !is_stale_nan(histogram.sum) {
                scratch.histogram_times.push(timestamp);
                scratch.histogram_rows.push(next as u32);
            }
            next += 1;
        } else if !is_stale_nan(value) {
            timestamps.push(timestamp);
            values.push(value);
        }
    }
}

/// The row of a series without histograms.
fn floats(
    call: &WindowCall<'_>,
    timestamps: &[i64],
    values: &[f64],
    token: u64,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    if token == 0 || scratch.bounds_token != token {
        scratch.bounds.update(timestamps, call.view.times, call.view.window_ms);
        scratch.bounds_token = token;
    }
    account(session.budget, &scratch.bounds)?;
    over_time::check_parameters(call, &scratch.bounds.mask)?;
    compute(call, timestamps, values, token, scratch, row, session);
    Ok(())
}

pub(crate) fn account(budget: &Budget, bounds: &Bounds) -> Result<(), QueryError> {
    budget.looked_at(bounds.total);
    budget.touch(bounds.largest)
}

/// Dispatches to the loop of the function; `scratch.bounds` are those of the columns.
fn compute(
    call: &WindowCall<'_>,
    timestamps: &[i64],
    values: &[f64],
    token: u64,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) {
    let kind = match call.id {
        FunctionId::Rate => Some(RateKind::Rate),
        FunctionId::Increase => Some(RateKind::Increase),
        FunctionId::Delta => Some(RateKind::Delta),
        _ => None,
    };
    if let Some(kind) = kind {
        if token == 0 || scratch.rate_token != token {
            scratch.rate_steps.update(timestamps, &scratch.bounds, call.view, kind);
            scratch.rate_token = token;
        }
        return rate::extrapolated(kind, values, &scratch.rate_steps, &mut scratch.resets, row);
    }
    let bounds = &scratch.bounds;
    match call.id {
        FunctionId::Irate => rate::instant(true, timestamps, values, bounds, row),
        FunctionId::Idelta => rate::instant(false, timestamps, values, bounds, row),
        _ => over_time::compute(
            call,
            timestamps,
            values,
            bounds,
            &mut scratch.over_time,
            row,
            session,
        ),
    }
}

/// The row of a series that has histograms among its samples.
fn mixed(
    call: &WindowCall<'_>,
    metric: &str,
    samples: &Samples,
    (timestamps, values): (&[i64], &[f64]),
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    use FunctionId::*;
    let View { times, window_ms } = call.view;
    let mut histograms = Bounds::default();
    histograms.update(&scratch.histogram_times, times, window_ms);
    scratch.bounds.update(timestamps, times, window_ms);
    scratch.bounds_token = 0;
    scratch.rate_token = 0;
    account(session.budget, &scratch.bounds)?;
    account(session.budget, &histograms)?;
    let seen = scratch.bounds.mask.iter().zip(&histograms.mask).map(|(f, h)| f | h);
    over_time::check_parameters(call, &seen.collect::<Vec<u64>>())?;
    let floats = |scratch: &WindowScratch, step| scratch.bounds.window(step).len();
    match call.id {
        CountOverTime | PresentOverTime | AbsentOverTime => {
            for step in 0..times.steps {
                let count = floats(scratch, step) + histograms.window(step).len();
                if count > 0 {
                    let present = call.id != CountOverTime;
                    row.set(step, if present { 1.0 } else { count as f64 });
                }
            }
            Ok(())
        }
        TsOfFirstOverTime | TsOfLastOverTime => {
            let first = call.id == TsOfFirstOverTime;
            for step in 0..times.steps {
                let float_times = &timestamps[scratch.bounds.window(step)];
                let histogram_times = &scratch.histogram_times[histograms.window(step)];
                let both = float_times.iter().chain(histogram_times);
                let time_ms = if first { both.min() } else { both.max() };
                if let Some(time_ms) = time_ms {
                    row.set(step, *time_ms as f64 / 1000.0);
                }
            }
            Ok(())
        }
        FirstOverTime | LastOverTime | DefaultRollup => {
            let first = call.id == FirstOverTime;
            for step in 0..times.steps {
                let end = |window: std::ops::Range<usize>| {
                    let index = if first { window.start } else { window.end.wrapping_sub(1) };
                    (!window.is_empty()).then_some(index)
                };
                let float = end(scratch.bounds.window(step));
                let histogram = end(histograms.window(step));
                let float_wins = match (float, histogram) {
                    (Some(f), Some(h)) => (timestamps[f] < scratch.histogram_times[h]) == first,
                    (float, _) => float.is_some(),
                };
                match (float, histogram) {
                    (Some(index), _) if float_wins => row.set(step, values[index]),
                    (_, Some(index)) => {
                        let at = scratch.histogram_rows[index] as usize;
                        let point = Arc::new(samples.histograms[at].1.clone());
                        row.histograms.push((step as u32, point));
                    }
                    _ => {}
                }
            }
            Ok(())
        }
        Irate | Idelta => {
            compute(call, timestamps, values, 0, scratch, row, session);
            for step in 0..times.steps {
                let Some(newest) = histograms.window(step).last() else { continue };
                let float_times = &timestamps[scratch.bounds.window(step)];
                let after = |h: usize| {
                    let time = scratch.histogram_times[h];
                    float_times.iter().rev().take_while(|t| **t > time).count()
                };
                let all = float_times.len() + histograms.window(step).len();
                match after(newest) {
                    _ if all < 2 => clear_bit(&mut row.valid, step),
                    count if count >= 2 => {}
                    0 if histograms.window(step).len() >= 2 && after(newest - 1) == 0 => {
                        return Err(histograms_unsupported(session, call.name, call.call_span));
                    }
                    _ => {
                        clear_bit(&mut row.valid, step);
                        session.annotations.mixed_floats_and_histograms(metric, call.span);
                    }
                }
            }
            Ok(())
        }
        Changes | Resets => {
            compute(call, timestamps, values, 0, scratch, row, session);
            for step in 0..times.steps {
                let window = histograms.window(step);
                if window.is_empty() {
                    continue;
                }
                let merged = merged_kinds(
                    &timestamps[scratch.bounds.window(step)],
                    &scratch.histogram_times[window],
                );
                if merged.windows(2).any(|pair| pair[0] && pair[1]) {
                    return Err(histograms_unsupported(session, call.name, call.call_span));
                }
                let base = step_changes(call.id, values, scratch.bounds.window(step), &merged);
                row.set(step, base);
            }
            Ok(())
        }
        Rate | Increase | Delta | SumOverTime | AvgOverTime => {
            let needed = if matches!(call.id, SumOverTime | AvgOverTime) { 1 } else { 2 };
            compute(call, timestamps, values, 0, scratch, row, session);
            for step in 0..times.steps {
                let (f, h) = (floats(scratch, step), histograms.window(step).len());
                if f > 0 && h > 0 {
                    clear_bit(&mut row.valid, step);
                    session.annotations.mixed_floats_and_histograms(metric, call.span);
                } else if h >= needed {
                    return Err(histograms_unsupported(session, call.name, call.call_span));
                }
            }
            Ok(())
        }
        _ => {
            compute(call, timestamps, values, 0, scratch, row, session);
            let both = scratch.bounds.mask.iter().zip(&histograms.mask).any(|(f, h)| f & h != 0);
            if both {
                session.annotations.ignored_in_mixed_range(metric, call.span);
            }
            Ok(())
        }
    }
}

/// The samples of two columns in order of time: true for a histogram.
fn merged_kinds(floats: &[i64], histograms: &[i64]) -> Vec<bool> {
    let mut all: Vec<(i64, bool)> = floats.iter().map(|time| (*time, false)).collect();
    all.extend(histograms.iter().map(|time| (*time, true)));
    all.sort_unstable();
    all.into_iter().map(|(_, is_histogram)| is_histogram).collect()
}

/// Changes or resets of a window in which no two histograms are neighbours: a change of kind
/// counts as both.
fn step_changes(
    id: FunctionId,
    values: &[f64],
    window: std::ops::Range<usize>,
    kinds: &[bool],
) -> f64 {
    let mut floats = values[window].iter();
    let mut previous: Option<Option<f64>> = None;
    let mut count = 0.0;
    for is_histogram in kinds {
        let current = if *is_histogram { None } else { floats.next().copied() };
        count += match (previous, current) {
            (None, _) => 0.0,
            (Some(Some(old)), Some(new)) => f64::from(over_time::differs(id, old, new)),
            (Some(_), _) => 1.0,
        };
        previous = Some(current);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_open_on_the_left_and_closed_on_the_right() {
        let mut bounds = Bounds::default();
        let times = Times { first_ms: 20, step_ms: 10, steps: 3 };
        bounds.update(&[0, 10, 20, 30], times, 10);
        let windows: Vec<_> = (0..3).map(|step| bounds.window(step)).collect();
        assert_eq!(windows, [2..3, 3..4, 4..4]);
        assert_eq!(bounds.mask, [0b011]);
    }

    #[test]
    fn with_at_every_step_has_the_same_window() {
        let mut bounds = Bounds::default();
        bounds.update(&[0, 10, 20, 30], Times { first_ms: 20, step_ms: 0, steps: 2 }, 20);
        assert_eq!((bounds.window(0), bounds.window(1)), (1..3, 1..3));
    }
}
