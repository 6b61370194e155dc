//! Functions over windows that contain native histograms.
//!
//! Floats and histograms of a window do not mix: a function takes both one by one (`changes`,
//! `count_over_time`), or the floats only and says so (`max_over_time`), or has no result where both
//! are there (`rate`, `sum_over_time`).
//!
//! Follows Prometheus's `promql/functions.go`.

use std::ops::Range;
use std::sync::Arc;

use icecore_storage::metrics::histogram::ResetHint;

use crate::annotations::HistogramOperation;
use crate::engine::QueryError;
use crate::exec::budget::{Budget, CELLS_PER_HISTOGRAM};
use crate::exec::histogram_rate::{self, Notes};
use crate::exec::outline;
use crate::exec::rate::{RateKind, RateSteps};
use crate::exec::rows::{RowBuffer, clear_bit};
use crate::exec::samples::Sample;
use crate::exec::series::Series;
use crate::exec::window::{Bounds, Floats, WindowCall, WindowScratch, account, compute};
use crate::exec::{Session, over_time};
use crate::functions::FunctionId;
use crate::histogram::{FloatHistogram, IncompatibleSchemas, KahanMean, KahanSum};

/// The samples of a series, floats and histograms apart, with the windows in both.
struct Columns<'a> {
    times: &'a [i64],
    values: &'a [f64],
    histogram_times: Vec<i64>,
    histograms: Vec<Arc<FloatHistogram>>,
    windows: Bounds,
    histogram_windows: Bounds,
}

impl Columns<'_> {
    /// Whether some rows are buckets of a rollup.
    fn has_stand_ins(&self) -> bool {
        !self.windows.left_out.is_empty() || !self.histogram_windows.left_out.is_empty()
    }

    fn window(&self, step: usize) -> (Range<usize>, Range<usize>) {
        (self.windows.window(step), self.histogram_windows.window(step))
    }

    /// The work on a window, as a budget counts it.
    fn cells(&self, step: usize) -> usize {
        let (floats, histograms) = self.window(step);
        floats.len() + CELLS_PER_HISTOGRAM * histograms.len()
    }

    /// The samples of a window in order of time.
    fn samples(&self, step: usize) -> impl Iterator<Item = (i64, Sample<'_>)> {
        let (floats, histograms) = self.window(step);
        let mut floats = floats.peekable();
        let mut histograms = histograms.peekable();
        std::iter::from_fn(move || {
            let float_is_next = match (floats.peek(), histograms.peek()) {
                (Some(float), Some(histogram)) => {
                    self.times[*float] < self.histogram_times[*histogram]
                }
                (float, _) => float.is_some(),
            };
            if float_is_next {
                let at = floats.next()?;
                return Some((self.times[at], Sample::Float(self.values[at])));
            }
            let at = histograms.next()?;
            Some((self.histogram_times[at], Sample::Histogram(&self.histograms[at])))
        })
    }

    /// The histograms of a window that has no floats beside them; if it has, nothing, and a note.
    fn histograms_alone(
        &self,
        step: usize,
        row: &mut RowBuffer,
        notes: &mut Notes<'_, '_>,
    ) -> &[Arc<FloatHistogram>] {
        let (floats, histograms) = self.window(step);
        if floats.is_empty() || histograms.is_empty() {
            return &self.histograms[histograms];
        }
        clear_bit(&mut row.valid, step);
        notes.mixed_with_floats();
        &[]
    }

    /// The last two samples of a window.
    fn newest_two(&self, step: usize) -> Option<[(i64, Sample<'_>); 2]> {
        let (floats, histograms) = self.window(step);
        let tail = |window: Range<usize>| window.end - window.len().min(2)..window.end;
        let floats = tail(floats).map(|at| (self.times[at], Sample::Float(self.values[at])));
        let histograms = tail(histograms)
            .map(|at| (self.histogram_times[at], Sample::Histogram(&self.histograms[at])));
        let mut all: Vec<_> = floats.chain(histograms).collect();
        all.sort_by_key(|(time, _)| *time);
        all.last_chunk().copied()
    }
}

/// The row of a series that has histograms among its samples, beside `floats`.
pub(crate) fn evaluate(
    call: &WindowCall<'_>,
    metric: &str,
    series: &mut Series,
    floats: Floats<'_>,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    use FunctionId::*;
    let columns = columns(call, series, floats);
    account(session, &columns.windows, |_| 1)?;
    let cost = |at: usize| columns.histograms[at].size_in_samples();
    account(session, &columns.histogram_windows, cost)?;
    scratch.use_bounds(columns.windows.clone());
    let seen = columns.windows.mask.iter().zip(&columns.histogram_windows.mask);
    over_time::check_parameters(call, &seen.map(|(f, h)| f | h).collect::<Vec<u64>>())?;
    let notes = &mut Notes { metric, span: call.span, session };
    match call.id {
        CountOverTime | PresentOverTime | AbsentOverTime => count(call.id, &columns, row),
        TsOfFirstOverTime | TsOfLastOverTime | FirstOverTime | LastOverTime | DefaultRollup => {
            end_of_window(call.id, &columns, row);
        }
        Changes | Resets => differences(call.id, &columns, row, notes.session.budget)?,
        Irate | Idelta => {
            compute(call, floats, scratch, row, notes.session);
            instant(call.id == Irate, &columns, row, notes);
        }
        Rate | Increase | Delta => {
            compute(call, floats, scratch, row, notes.session);
            extrapolated(call, &columns, row, notes)?;
        }
        SumOverTime | AvgOverTime if columns.has_stand_ins() => {
            let of_stand_ins = WindowCall { id: outline::computed(call.id), ..*call };
            compute(&of_stand_ins, floats, scratch, row, notes.session);
            outline::finish(call.id, &columns.windows, row);
            combined(call.id, &columns, row, notes)?;
        }
        SumOverTime | AvgOverTime => {
            compute(call, floats, scratch, row, notes.session);
            combined(call.id, &columns, row, notes)?;
        }
        _ => {
            compute(call, floats, scratch, row, notes.session);
            let masks = columns.windows.mask.iter().zip(&columns.histogram_windows.mask);
            if masks.into_iter().any(|(floats, histograms)| floats & histograms != 0) {
                notes.ignored_histograms();
            }
        }
    }
    Ok(())
}

fn columns<'a>(call: &WindowCall<'_>, series: &mut Series, floats: Floats<'a>) -> Columns<'a> {
    let Floats { timestamps: times, values, .. } = floats;
    let live: Vec<usize> = (0..series.histogram_rows().len())
        .filter(|at| !series.is_stale(series.histogram_rows()[*at]))
        .collect();
    let time = |at: &usize| series.samples.timestamps[series.histogram_rows()[*at] as usize];
    let histogram_times: Vec<i64> = live.iter().map(time).collect();
    let histograms = live.into_iter().map(|at| series.histogram(at)).collect();
    let (mut windows, mut histogram_windows) = (Bounds::default(), Bounds::default());
    windows.update(times, call.view.times, call.view.window_ms);
    histogram_windows.update(&histogram_times, call.view.times, call.view.window_ms);
    windows.add_left_out(&series.left_out, |one| one.samples, call.view);
    histogram_windows.add_left_out(&series.left_out, |one| one.histograms, call.view);
    Columns { times, values, histogram_times, histograms, windows, histogram_windows }
}

fn count(id: FunctionId, columns: &Columns<'_>, row: &mut RowBuffer) {
    for step in 0..row.values.len() {
        let count = columns.windows.samples(step) + columns.histogram_windows.samples(step);
        if count > 0 {
            row.set(step, if id == FunctionId::CountOverTime { count as f64 } else { 1.0 });
        }
    }
}

/// The first or the last sample of a window, or its time.
fn end_of_window(id: FunctionId, columns: &Columns<'_>, row: &mut RowBuffer) {
    use FunctionId::*;
    for step in 0..row.values.len() {
        let mut samples = columns.samples(step);
        let end = match id {
            FirstOverTime | TsOfFirstOverTime => samples.next(),
            _ => samples.last(),
        };
        match end {
            Some((time, _)) if matches!(id, TsOfFirstOverTime | TsOfLastOverTime) => {
                row.set(step, time as f64 / 1000.0);
            }
            Some((_, Sample::Float(value))) => row.set(step, value),
            Some((_, Sample::Histogram(histogram))) => {
                row.histograms.push((step as u32, Arc::clone(histogram)));
            }
            None => {}
        }
    }
}

/// `changes` and `resets`: a change of kind counts as both.
fn differences(
    id: FunctionId,
    columns: &Columns<'_>,
    row: &mut RowBuffer,
    budget: &Budget,
) -> Result<(), QueryError> {
    let mut pace = budget.pace();
    for step in 0..row.values.len() {
        pace.step(columns.cells(step))?;
        let mut previous: Option<Sample<'_>> = None;
        let mut count = 0.0;
        for (_, sample) in columns.samples(step) {
            count += f64::from(previous.is_some_and(|old| old.differs(id, sample)));
            previous = Some(sample);
        }
        if previous.is_some() {
            row.set(step, count);
        }
    }
    Ok(())
}

/// `irate` (`per_second`) or `idelta`, where `row` has the result of the last two floats.
fn instant(
    per_second: bool,
    columns: &Columns<'_>,
    row: &mut RowBuffer,
    notes: &mut Notes<'_, '_>,
) {
    for step in 0..row.values.len() {
        let Some([(before, previous), (now, last)]) = columns.newest_two(step) else { continue };
        match (previous, last) {
            (Sample::Float(_), Sample::Float(_)) => continue,
            (Sample::Histogram(previous), Sample::Histogram(last)) => {
                let rise = match per_second {
                    true => {
                        histogram_rate::per_second((before, previous), (now, last), false, notes)
                    }
                    false => histogram_rate::last_difference(previous, last, notes),
                };
                row.histograms.extend(rise.map(|rise| (step as u32, Arc::new(rise))));
            }
            _ => notes.mixed_with_floats(),
        }
        clear_bit(&mut row.valid, step);
    }
}

/// `rate`, `increase`, `delta`, where `row` has the results of the floats.
fn extrapolated(
    call: &WindowCall<'_>,
    columns: &Columns<'_>,
    row: &mut RowBuffer,
    notes: &mut Notes<'_, '_>,
) -> Result<(), QueryError> {
    let kind = RateKind::of(call.id).expect("the caller passes rates");
    let mut steps = RateSteps::default();
    steps.update(&columns.histogram_times, &columns.histogram_windows, call.view, kind);
    let mut pace = notes.session.budget.pace();
    for step in 0..row.values.len() {
        pace.step(columns.cells(step))?;
        let points = columns.histograms_alone(step, row, notes);
        if points.len() > 1 {
            let increase = match kind {
                RateKind::Delta => histogram_rate::difference(points, notes),
                _ => histogram_rate::counter_increase(points, &[], notes),
            };
            if let Some(mut result) = increase {
                result.scale(steps.factor_of(step, kind, points[0].count, result.count));
                row.histograms.push((step as u32, Arc::new(result)));
            }
        }
    }
    Ok(())
}

/// `sum_over_time` and `avg_over_time`, where `row` has the results of the floats.
fn combined(
    id: FunctionId,
    columns: &Columns<'_>,
    row: &mut RowBuffer,
    notes: &mut Notes<'_, '_>,
) -> Result<(), QueryError> {
    let mut pace = notes.session.budget.pace();
    for step in 0..row.values.len() {
        pace.step(columns.cells(step))?;
        let points = columns.histograms_alone(step, row, notes);
        if !points.is_empty() {
            let of_rows = if columns.has_stand_ins() { outline::computed(id) } else { id };
            let Ok((mut result, bounds_reconciled)) = sum_or_mean(of_rows, points) else {
                notes.mixed_schemas();
                continue;
            };
            if of_rows != id {
                result.divide(columns.histogram_windows.samples(step) as f64);
            }
            let hints = |hint| points.iter().any(|point| point.reset_hint == hint);
            if hints(ResetHint::Reset) && hints(ResetHint::NotReset) {
                notes.resets_collide(HistogramOperation::Aggregation);
            }
            if bounds_reconciled {
                notes.bounds_reconciled(HistogramOperation::Aggregation);
            }
            row.histograms.push((step as u32, Arc::new(result)));
        }
    }
    Ok(())
}

/// The sum or the mean, and whether custom bounds had to be reconciled.
fn sum_or_mean(
    id: FunctionId,
    points: &[Arc<FloatHistogram>],
) -> Result<(FloatHistogram, bool), IncompatibleSchemas> {
    let mut bounds_reconciled = false;
    if id == FunctionId::SumOverTime {
        let mut sum = KahanSum::new(&points[0]);
        for point in &points[1..] {
            bounds_reconciled |= sum.add(point)?.bounds_reconciled;
        }
        return Ok((sum.finish(), bounds_reconciled));
    }
    let mut mean = KahanMean::new(&points[0]);
    for point in &points[1..] {
        bounds_reconciled |= mean.add(point)?.bounds_reconciled;
    }
    Ok((mean.finish(), bounds_reconciled))
}
