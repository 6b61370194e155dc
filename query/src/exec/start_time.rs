//! Counters that say when they started: resets and first increments that values do not show.
//!
//! A sample's start timestamp tells since when its counter counts. If that is after the sample
//! before, the counter was reset between them, whatever the values; and the first sample of a window
//! rose from zero if its counter started inside.
//!
//! Follows `extrapolatedRate`, `isStartTimestampReset` and `checkStartTimeOverlap` of Prometheus's
//! promql/functions.go.

use std::sync::Arc;

use icecore_storage::metrics::sample::Samples;

use crate::engine::QueryError;
use crate::exec::Session;
use crate::exec::histogram_rate::{self, Notes};
use crate::exec::rate::{RateKind, seconds};
use crate::exec::rows::RowBuffer;
use crate::exec::samples::{LiveSamples, Sample};
use crate::exec::series::Series;
use crate::exec::window::{WindowCall, account};
use crate::functions::FunctionId;
use crate::histogram::FloatHistogram;
use crate::value::Point;

/// Whether a function looks at start timestamps.
pub(crate) fn concerns(id: FunctionId) -> bool {
    use FunctionId::{Increase, Irate, Rate, Resets};
    matches!(id, Rate | Increase | Irate | Resets)
}

/// A sample's time and when its counter started, 0 for unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Started {
    pub(crate) time_ms: i64,
    pub(crate) start_ms: i64,
}

impl Started {
    /// Whether the counter was reset after `previous`.
    pub(crate) fn is_reset_since(self, previous: Started) -> bool {
        // A start at or after the sample itself says that it is not known.
        if self.start_ms == 0 || self.start_ms >= self.time_ms {
            return false;
        }
        if self.start_ms != previous.time_ms {
            return self.start_ms > previous.time_ms;
        }
        // A start at the sample before is that of a delta, or of a counter whose start is not
        // known; of the latter, the sample before has no start either.
        previous.start_ms != 0 && previous.start_ms < previous.time_ms
    }

    /// Whether it starts inside of what `previous` has counted already, and not with it.
    pub(crate) fn overlaps(self, previous: Started) -> bool {
        self.start_ms != 0 && self.start_ms < previous.time_ms && self.start_ms != previous.start_ms
    }
}

/// Computes the row of one series that has start timestamps.
pub(crate) fn evaluate(
    call: &WindowCall<'_>,
    metric: &str,
    series: &mut Series,
    live: &mut LiveSamples,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    live.fill(&series.samples, call.view);
    account(session, &live.bounds, |at| series.cost(live.rows[at]))?;
    let mut pace = session.budget.pace();
    for step in 0..call.view.times.steps {
        let rows = &live.rows[live.window(step)];
        pace.step(rows.len())?;
        if rows.is_empty() {
            continue;
        }
        let end_ms = call.view.times.at(step);
        let edges = (end_ms.saturating_sub(call.view.window_ms), end_ms);
        if rows.iter().any(|row| series.is_histogram(*row)) {
            let samples = rows.iter().map(|row| sample_of(series, *row)).collect::<Vec<_>>();
            let notes = &mut Notes { metric, span: call.span, session };
            match with_histograms(call.id, &samples, edges, notes) {
                Some(Point::Float(value)) => row.set(step, value),
                Some(Point::Histogram(value)) => row.histograms.push((step as u32, value)),
                None => {}
            }
            continue;
        }
        let window = Window { samples: &series.samples, rows };
        let value = match call.id {
            FunctionId::Resets => Some(window.resets()),
            FunctionId::Irate => window.irate(),
            id => {
                if window.overlaps() {
                    session.annotations.start_time_overlap(metric, call.span);
                }
                RateKind::of(id).and_then(|kind| window.increase(kind, edges))
            }
        };
        if let Some(value) = value {
            row.set(step, value);
        }
    }
    Ok(())
}

/// The samples of one window, of which there is at least one.
struct Window<'a> {
    samples: &'a Samples,
    rows: &'a [u32],
}

impl Window<'_> {
    fn sample(&self, index: usize) -> (Started, f64) {
        let row = self.rows[index] as usize;
        let started = Started {
            time_ms: self.samples.timestamps[row],
            start_ms: self.samples.start_timestamps[row],
        };
        (started, self.samples.values[row])
    }

    /// Neighbours, the older one first.
    fn pairs(&self) -> impl Iterator<Item = ((Started, f64), (Started, f64))> {
        (1..self.rows.len()).map(|index| (self.sample(index - 1), self.sample(index)))
    }

    fn overlaps(&self) -> bool {
        self.pairs().any(|((old, _), (new, _))| new.overlaps(old))
    }

    fn resets(&self) -> f64 {
        let is_reset = |((old, before), (new, after)): &((Started, f64), (Started, f64))| {
            after < before || new.is_reset_since(*old)
        };
        self.pairs().filter(is_reset).count() as f64
    }

    fn irate(&self) -> Option<f64> {
        let ((old, before), (new, after)) = self.pairs().last()?;
        let is_reset = after < before || new.is_reset_since(old);
        let rise = if is_reset { after } else { after - before };
        Some(rise / (new.time_ms.saturating_sub(old.time_ms) as f64 / 1000.0))
    }

    /// `rate` or `increase`.
    fn increase(&self, kind: RateKind, edges: (i64, i64)) -> Option<f64> {
        let last = self.rows.len() - 1;
        let ((oldest, first_value), (newest, last_value)) = (self.sample(0), self.sample(last));
        let mut rise = last_value - first_value;
        for ((old, before), (new, after)) in self.pairs() {
            if after < before || new.is_reset_since(old) {
                rise += before;
            }
        }
        if oldest.starts_inside(edges) {
            rise += first_value;
        }
        let factor = factor(kind, edges, (oldest, newest, last), (first_value, rise))?;
        Some(rise * factor)
    }
}

impl Started {
    /// Whether it counts from zero since a time inside of the window.
    fn starts_inside(self, (start_ms, _): (i64, i64)) -> bool {
        self.start_ms != 0 && self.start_ms > start_ms && self.start_ms < self.time_ms
    }
}

/// By what a rise is multiplied: what lies between the samples and the edges is extrapolated, but
/// not before the start of a counter that started inside. `gaps` are one less than the samples.
fn factor(
    kind: RateKind,
    (start_ms, end_ms): (i64, i64),
    (oldest, newest, gaps): (Started, Started, usize),
    (first_value, rise): (f64, f64),
) -> Option<f64> {
    let milliseconds = |from: i64, to: i64| to.saturating_sub(from) as f64 / 1000.0;
    let mut interval = milliseconds(oldest.time_ms, newest.time_ms);
    let average_gap = if gaps == 0 { 0.0 } else { interval / gaps as f64 };
    let limited =
        |to_edge: f64| if to_edge >= average_gap * 1.1 { average_gap / 2.0 } else { to_edge };
    let mut to_start = 0.0;
    if oldest.starts_inside((start_ms, end_ms)) {
        interval = milliseconds(oldest.start_ms, newest.time_ms);
    } else if gaps == 0 {
        return None;
    } else {
        to_start = limited(milliseconds(start_ms, oldest.time_ms));
        if rise > 0.0 && first_value >= 0.0 {
            to_start = to_start.min(interval * (first_value / rise));
        }
    }
    let to_end = limited(milliseconds(newest.time_ms, end_ms));
    let mut factor = 1.0;
    if interval != 0.0 {
        factor = (interval + to_start + to_end) / interval;
    }
    if kind == RateKind::Rate {
        factor /= seconds(end_ms.saturating_sub(start_ms));
    }
    Some(factor)
}

fn sample_of(series: &mut Series, row: u32) -> (Started, Point) {
    let samples = &series.samples;
    let started = Started {
        time_ms: samples.timestamps[row as usize],
        start_ms: samples.start_timestamps[row as usize],
    };
    let value = samples.values[row as usize];
    let point = series.histogram_of_row(row).map_or(Point::Float(value), Point::Histogram);
    (started, point)
}

/// The result of a window that has histograms, perhaps beside floats.
fn with_histograms(
    id: FunctionId,
    samples: &[(Started, Point)],
    edges: (i64, i64),
    notes: &mut Notes<'_, '_>,
) -> Option<Point> {
    match id {
        FunctionId::Resets => {
            let is_reset = |pair: &&[(Started, Point)]| {
                let [(old, before), (new, after)] = [&pair[0], &pair[1]];
                new.is_reset_since(*old) || Sample::from(before).differs(id, after.into())
            };
            Some(Point::Float(samples.windows(2).filter(is_reset).count() as f64))
        }
        FunctionId::Irate => {
            let [(old, before), (new, after)] = samples.last_chunk()?;
            let has_restarted = new.is_reset_since(*old);
            match (before, after) {
                (Point::Float(before), Point::Float(after)) => {
                    let rise =
                        if has_restarted || after < before { *after } else { after - before };
                    let elapsed = new.time_ms.saturating_sub(old.time_ms) as f64 / 1000.0;
                    Some(Point::Float(rise / elapsed))
                }
                (Point::Histogram(before), Point::Histogram(after)) => {
                    let (before, after) = ((old.time_ms, &**before), (new.time_ms, &**after));
                    let rate = histogram_rate::per_second(before, after, has_restarted, notes);
                    rate.map(|rate| Point::Histogram(Arc::new(rate)))
                }
                _ => {
                    notes.mixed_with_floats();
                    None
                }
            }
        }
        id => {
            let histogram = |(started, point): &(Started, Point)| match point {
                Point::Histogram(histogram) => Some((*started, Arc::clone(histogram))),
                Point::Float(_) => None,
            };
            let Some(points) = samples.iter().map(histogram).collect::<Option<Vec<_>>>() else {
                notes.mixed_with_floats();
                return None;
            };
            let increase = increase_of_histograms(RateKind::of(id)?, points, edges, notes);
            increase.map(|increase| Point::Histogram(Arc::new(increase)))
        }
    }
}

/// `rate` or `increase` of histograms.
fn increase_of_histograms(
    kind: RateKind,
    points: Vec<(Started, Arc<FloatHistogram>)>,
    edges: (i64, i64),
    notes: &mut Notes<'_, '_>,
) -> Option<FloatHistogram> {
    let (starts, points): (Vec<Started>, Vec<_>) = points.into_iter().unzip();
    let (first, gaps) = (&points[0], points.len() - 1);
    let mut increase = FloatHistogram::empty(first.schema.clone());
    if gaps > 0 {
        increase = histogram_rate::counter_increase(&points, &starts, notes)?;
    }
    let ends = (starts[0], starts[gaps], gaps);
    let factor = factor(kind, edges, ends, (first.count, increase.count))?;
    if starts[0].starts_inside(edges) {
        if gaps == 0 {
            increase = FloatHistogram::clone(first);
        } else if !notes.add(&mut increase, first) {
            return None;
        }
    }
    increase.scale(factor);
    Some(increase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(time_ms: i64, start_ms: i64) -> Started {
        Started { time_ms, start_ms }
    }

    #[test]
    fn a_start_after_the_sample_before_is_a_reset() {
        let previous = started(100, 40);
        for (start_ms, is_reset) in
            [(0, false), (40, false), (99, false), (101, true), (159, true), (160, false)]
        {
            assert_eq!(started(160, start_ms).is_reset_since(previous), is_reset, "{start_ms}");
        }
        // At the sample before: a delta, unless that one's start is not known.
        assert!(started(160, 100).is_reset_since(previous));
        for unknown in [0, 100, 101] {
            assert!(!started(160, 100).is_reset_since(started(100, unknown)), "{unknown}");
        }
    }

    #[test]
    fn a_start_inside_of_what_was_counted_overlaps() {
        let previous = started(100, 40);
        assert!(started(160, 50).overlaps(previous));
        assert!(started(160, 30).overlaps(previous));
        assert!(!started(160, 40).overlaps(previous) && !started(160, 100).overlaps(previous));
        assert!(!started(160, 0).overlaps(previous));
    }
}
