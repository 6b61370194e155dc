//! `anchored` and `smoothed` selectors: values at the edges of a window, from samples beyond it.
//!
//! - **Anchored**: the value at the left edge is that of the newest sample up to it, and at the
//!   right edge that of the newest sample inside. Nothing is extrapolated.
//! - **Smoothed**: the value at an edge lies on the line between the samples around it. A counter
//!   that was reset between them is taken to have started from zero.
//!
//! Follows `extendedRate`, `pickFirstSampleIndices`, `extendFloats` and `smoothSeries` of
//! Prometheus's promql/functions.go and promql/engine.go.

use std::sync::Arc;

use icecore_storage::metrics::sample::Samples;

use crate::engine::QueryError;
use crate::exec::Session;
use crate::exec::budget::Pace;
use crate::exec::histogram_rate::{self, Edges, Notes, is_gauge};
use crate::exec::rate::{RateKind, seconds};
use crate::exec::rows::RowBuffer;
use crate::exec::samples::{LiveSamples, Sample};
use crate::exec::series::Series;
use crate::exec::window::{WindowCall, account};
use crate::histogram::FloatHistogram;
use crate::parser::ast::{RangeExtension, Span};
use crate::plan::View;
use crate::plan::extension::Extension;

/// The samples of a window and around it.
#[derive(Clone, Copy)]
struct Window<'a> {
    times: &'a [i64],
    rows: &'a [u32],
}

impl<'a> Window<'a> {
    fn of_step(live: &'a LiveSamples, step: usize) -> Window<'a> {
        let range = live.window(step);
        Window { times: &live.times[range.clone()], rows: &live.rows[range] }
    }

    fn float(&self, samples: &Samples, index: usize) -> (i64, f64) {
        (self.times[index], samples.values[self.rows[index] as usize])
    }

    /// Whether there are floats, and whether there are histograms.
    fn kinds(&self, samples: &Samples) -> (bool, bool) {
        let is_histogram = |row: &u32| samples.histogram(*row as usize).is_some();
        let histograms = match samples.histograms.is_empty() {
            true => 0,
            false => self.rows.iter().filter(|row| is_histogram(row)).count(),
        };
        (histograms < self.rows.len(), histograms > 0)
    }

    /// The samples of a window that has histograms only.
    fn histograms(&self, series: &mut Series) -> Vec<(i64, Arc<FloatHistogram>)> {
        let samples = self.times.iter().zip(self.rows);
        samples.filter_map(|(time, row)| Some((*time, series.histogram_of_row(*row)?))).collect()
    }
}

/// Computes the row of one series for a function over an extended range selector.
pub(crate) fn evaluate(
    call: &WindowCall<'_>,
    extension: Extension,
    metric: &str,
    series: &mut Series,
    live: &mut LiveSamples,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    live.fill(&series.samples, extension.reach);
    account(session, &live.bounds, |at| series.cost(live.rows[at]))?;
    let mut pace = session.budget.pace();
    let Some(kind) = RateKind::of(call.id) else {
        return differences(call, series, live, row, pace);
    };
    let smoothed = extension.kind == RangeExtension::Smoothed;
    let per_second = kind == RateKind::Rate;
    let divisor = if per_second { seconds(call.view.window_ms) } else { 1.0 };
    let notes = &mut Notes { metric, span: call.span, session };
    for step in 0..call.view.times.steps {
        let window = Window::of_step(live, step);
        pace.step(window.rows.len())?;
        let end_ms = call.view.times.at(step);
        let edges = (end_ms.saturating_sub(call.view.window_ms), end_ms);
        match window.kinds(&series.samples) {
            (false, false) => {}
            (true, true) => notes.mixed_with_floats(),
            (false, true) => {
                let Some((first, last)) = ends(window.times, edges, smoothed) else { continue };
                let edges = Edges { start_ms: edges.0, end_ms, first, last, smoothed };
                let points = window.histograms(series);
                let is_counter = kind != RateKind::Delta;
                let rise = histogram_rate::extended_rise(&points, edges, is_counter, notes);
                if let Some(mut rise) = rise {
                    rise.divide(divisor);
                    row.histograms.push((step as u32, Arc::new(rise)));
                }
            }
            (true, false) => {
                let float = |index| window.float(&series.samples, index);
                if let Some(rise) = rise(window.times, float, edges, smoothed, kind) {
                    row.set(step, rise / divisor);
                }
            }
        }
    }
    Ok(())
}

/// First and last of the samples that the values at the edges come from.
fn ends(times: &[i64], (start_ms, end_ms): (i64, i64), smoothed: bool) -> Option<(usize, usize)> {
    let mut last = times.len().checked_sub(1)?;
    let first = times[..last].partition_point(|time| *time <= start_ms).saturating_sub(1);
    if smoothed {
        last = times[..last].partition_point(|time| *time < end_ms);
    }
    let is_outside = times[last] <= start_ms || smoothed && times[first] > end_ms;
    (!is_outside).then_some((first, last))
}

/// By how much a series rose between the edges.
fn rise(
    times: &[i64],
    float: impl Fn(usize) -> (i64, f64),
    edges: (i64, i64),
    smoothed: bool,
    kind: RateKind,
) -> Option<f64> {
    let is_counter = kind != RateKind::Delta;
    let (first, last) = ends(times, edges, smoothed)?;
    let (left, right) = edge_values(&float, (first, last), edges, smoothed, is_counter);
    let mut rise = right - left;
    if is_counter {
        // Resets at the edges are in the values there.
        let inner =
            first + usize::from(times[first] <= edges.0)..last + usize::from(times[last] < edges.1);
        let mut previous = left;
        for value in inner.map(|index| float(index).1).chain([right]) {
            if value < previous {
                rise += previous;
            }
            previous = value;
        }
    }
    Some(rise)
}

fn edge_values(
    float: &impl Fn(usize) -> (i64, f64),
    (first, last): (usize, usize),
    (start_ms, end_ms): (i64, i64),
    smoothed: bool,
    is_counter: bool,
) -> (f64, f64) {
    let (first_ms, first_value) = float(first);
    let left = match smoothed && first_ms < start_ms {
        true => interpolate(float(first), float(first + 1), start_ms, is_counter),
        false => first_value,
    };
    let (last_ms, last_value) = float(last);
    let right = match smoothed && last > 0 && last_ms > end_ms {
        true => interpolate(float(last - 1), float(last), end_ms, is_counter),
        false => last_value,
    };
    (left, right)
}

/// The value at `time_ms` on the line between two samples.
fn interpolate(before: (i64, f64), after: (i64, f64), time_ms: i64, is_counter: bool) -> f64 {
    let from = if is_counter && after.1 < before.1 { 0.0 } else { before.1 };
    let elapsed = time_ms.saturating_sub(before.0) as f64;
    from + (after.1 - from) * elapsed / after.0.saturating_sub(before.0) as f64
}

/// `changes` or `resets` from the newest sample up to the left edge on.
fn differences(
    call: &WindowCall<'_>,
    series: &mut Series,
    live: &LiveSamples,
    row: &mut RowBuffer,
    mut pace: Pace<'_>,
) -> Result<(), QueryError> {
    for step in 0..call.view.times.steps {
        let window = Window::of_step(live, step);
        pace.step(window.rows.len())?;
        let start_ms = call.view.times.at(step).saturating_sub(call.view.window_ms);
        if window.times.last().is_none_or(|newest| *newest <= start_ms) {
            continue;
        }
        let anchor = window.times.partition_point(|time| *time <= start_ms).saturating_sub(1);
        let mut count = 0.0;
        for pair in window.rows[anchor..].windows(2) {
            let histograms = [pair[0], pair[1]].map(|row| series.histogram_of_row(row));
            let sample = |at: usize| match &histograms[at] {
                Some(histogram) => Sample::Histogram(histogram),
                None => Sample::Float(series.samples.values[pair[at] as usize]),
            };
            count += f64::from(sample(0).differs(call.id, sample(1)));
        }
        row.set(step, count);
    }
    Ok(())
}

/// Computes the row of one series for a smoothed instant selector: on the line between the samples
/// around each step, or the last value where none follows.
#[expect(clippy::too_many_arguments, reason = "a series, where it goes and what is said about it")]
pub(crate) fn smooth(
    view: View,
    reach: View,
    span: Span,
    metric: &str,
    series: &mut Series,
    live: &mut LiveSamples,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    row.reset(view.times.steps);
    live.fill(&series.samples, reach);
    account(session, &live.bounds, |at| series.cost(live.rows[at]))?;
    let mut pace = session.budget.pace();
    let notes = &mut Notes { metric, span, session };
    for step in 0..view.times.steps {
        let window = Window::of_step(live, step);
        pace.step(window.rows.len())?;
        let time_ms = view.times.at(step);
        match window.kinds(&series.samples) {
            (false, false) => {}
            (true, true) => notes.mixed_with_floats(),
            (false, true) => {
                let point = smooth_histogram(&window.histograms(series), time_ms, notes);
                row.histograms.extend(point.map(|point| (step as u32, point)));
            }
            (true, false) => {
                let float = |index| window.float(&series.samples, index);
                let next = window.times.partition_point(|time| *time < time_ms);
                let is_exact = window.times.get(next) == Some(&time_ms);
                if is_exact {
                    row.set(step, float(next).1);
                } else if next == window.times.len() {
                    row.set(step, float(next - 1).1);
                } else if next > 0 {
                    // Whether it is a counter is not known here.
                    let value = interpolate(float(next - 1), float(next), time_ms, false);
                    row.set(step, value);
                }
            }
        }
    }
    Ok(())
}

/// The histogram at a time, as [`smooth`] finds it.
fn smooth_histogram(
    points: &[(i64, Arc<FloatHistogram>)],
    time_ms: i64,
    notes: &mut Notes<'_, '_>,
) -> Option<Arc<FloatHistogram>> {
    let next = points.partition_point(|(time, _)| *time < time_ms);
    let Some(after) = points.get(next) else {
        return points.last().map(|(_, last)| Arc::clone(last));
    };
    if after.0 == time_ms {
        return Some(Arc::clone(&after.1));
    }
    let before = &points[next.checked_sub(1)?];
    if before.1.uses_custom_bounds() != after.1.uses_custom_bounds() {
        notes.mixed_schemas();
        return None;
    }
    let is_counter = !(is_gauge(&before.1) && is_gauge(&after.1));
    let (before, after) = ((before.0, &*before.1), (after.0, &*after.1));
    histogram_rate::interpolate(before, after, time_ms, is_counter, notes).map(Arc::new)
}

/// The samples of an extended range vector that is itself asked for: those inside of the window, and
/// one at each edge.
pub(crate) fn range_vector(
    extension: Extension,
    edges: (i64, i64),
    samples: &Samples,
) -> Result<Vec<(i64, f64)>, QueryError> {
    let mut live = LiveSamples::default();
    live.fill(samples, extension.reach);
    let window = Window::of_step(&live, 0);
    if window.kinds(samples).1 {
        let word = match extension.kind {
            RangeExtension::Anchored => "anchored",
            RangeExtension::Smoothed => "smoothed",
        };
        let text = format!("{word} modifier is not supported with histograms");
        return Err(QueryError::Execution(text));
    }
    let float = |index| window.float(samples, index);
    let smoothed = extension.kind == RangeExtension::Smoothed;
    let Some((first, last)) = ends(window.times, edges, smoothed) else { return Ok(Vec::new()) };
    let (left, right) = edge_values(&float, (first, last), edges, smoothed, false);
    let is_inside = |(time, _): &(i64, f64)| *time > edges.0 && *time < edges.1;
    let inside = (first..=last).map(float).filter(is_inside);
    Ok([(edges.0, left)].into_iter().chain(inside).chain([(edges.1, right)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rise_of(
        samples: &[(i64, f64)],
        edges: (i64, i64),
        smoothed: bool,
        kind: RateKind,
    ) -> Option<f64> {
        let times: Vec<i64> = samples.iter().map(|(time, _)| *time).collect();
        rise(&times, |index| samples[index], edges, smoothed, kind)
    }

    #[test]
    fn anchored_counts_from_the_sample_before_the_window() {
        let samples = [(0, 1.0), (10, 3.0), (20, 8.0), (30, 9.0)];
        assert_eq!(rise_of(&samples[..3], (10, 20), false, RateKind::Increase), Some(5.0));
        assert_eq!(rise_of(&samples[..3], (15, 25), false, RateKind::Increase), Some(5.0));
        assert_eq!(rise_of(&samples[..1], (0, 20), false, RateKind::Increase), None);
        assert_eq!(rise_of(&samples[..1], (-5, 20), false, RateKind::Increase), Some(0.0));
    }

    #[test]
    fn smoothed_takes_the_line_at_both_edges() {
        let samples = [(0, 0.0), (10, 10.0), (20, 4.0), (30, 6.0)];
        assert_eq!(rise_of(&samples, (5, 25), true, RateKind::Delta), Some(0.0));
        assert_eq!(rise_of(&samples, (5, 25), true, RateKind::Increase), Some(10.0));
        // Both edges within a reset: the counter started from zero.
        assert_eq!(rise_of(&[(0, 10.0), (16, 8.0)], (4, 12), true, RateKind::Increase), Some(4.0));
        assert_eq!(rise_of(&samples[..2], (10, 20), true, RateKind::Increase), None);
        assert_eq!(rise_of(&samples[2..], (0, 10), true, RateKind::Increase), None);
    }
}
