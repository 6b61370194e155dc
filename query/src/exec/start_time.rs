//! Counters that say when they started: resets and first increments that values do not show.
//!
//! A sample's start timestamp tells since when its counter counts. If that is after the sample
//! before, the counter was reset between them, whatever the values; and the first sample of a window
//! rose from zero if its counter started inside.
//!
//! Follows `extrapolatedRate`, `isStartTimestampReset` and `checkStartTimeOverlap` of Prometheus's
//! promql/functions.go.

use icecore_storage::metrics::sample::{Samples, is_stale_nan};

use crate::engine::QueryError;
use crate::exec::rate::{RateKind, seconds};
use crate::exec::rows::RowBuffer;
use crate::exec::window::{Bounds, WindowCall, account};
use crate::exec::{Session, histograms_unsupported};
use crate::functions::FunctionId;

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

/// Samples of one series without stale markers, and where its windows are among them.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    times: Vec<i64>,
    /// Rows of the samples.
    rows: Vec<u32>,
    bounds: Bounds,
}

/// Computes the row of one series that has start timestamps.
pub(crate) fn evaluate(
    call: &WindowCall<'_>,
    metric: &str,
    samples: &Samples,
    scratch: &mut Scratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    if !samples.histograms.is_empty() {
        return Err(histograms_unsupported(session, call.name, call.call_span));
    }
    let Scratch { times, rows, bounds } = scratch;
    let alive = samples.values.iter().enumerate().filter(|(_, value)| !is_stale_nan(**value));
    rows.clear();
    rows.extend(alive.map(|(index, _)| index as u32));
    times.clear();
    times.extend(rows.iter().map(|index| samples.timestamps[*index as usize]));
    bounds.update(times, call.view.times, call.view.window_ms);
    account(session.budget, bounds)?;
    for step in 0..call.view.times.steps {
        let window = Window { samples, rows: &rows[bounds.window(step)] };
        if window.rows.is_empty() {
            continue;
        }
        let end_ms = call.view.times.at(step);
        let edges = (end_ms.saturating_sub(call.view.window_ms), end_ms);
        let value = match call.id {
            FunctionId::Resets => Some(window.resets()),
            FunctionId::Irate => window.irate(),
            id => {
                if window.overlaps() {
                    session.annotations.start_time_overlap(metric, call.span);
                }
                let kind = match id {
                    FunctionId::Rate => RateKind::Rate,
                    _ => RateKind::Increase,
                };
                window.increase(kind, edges)
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
    fn increase(&self, kind: RateKind, (start_ms, end_ms): (i64, i64)) -> Option<f64> {
        let last = self.rows.len() - 1;
        let ((oldest, first_value), (newest, last_value)) = (self.sample(0), self.sample(last));
        let mut rise = last_value - first_value;
        for ((old, before), (new, after)) in self.pairs() {
            if after < before || new.is_reset_since(old) {
                rise += before;
            }
        }
        let milliseconds = |from: i64, to: i64| to.saturating_sub(from) as f64 / 1000.0;
        let mut interval = milliseconds(oldest.time_ms, newest.time_ms);
        let average_gap = if last == 0 { 0.0 } else { interval / last as f64 };
        let limited = |to_edge: f64| {
            if to_edge >= average_gap * 1.1 { average_gap / 2.0 } else { to_edge }
        };
        let starts_inside =
            oldest.start_ms != 0 && oldest.start_ms > start_ms && oldest.start_ms < oldest.time_ms;
        let mut to_start = 0.0;
        if starts_inside {
            interval = milliseconds(oldest.start_ms, newest.time_ms);
            rise += first_value;
        } else if last == 0 {
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
        Some(rise * factor)
    }
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
