//! Where raw samples are gone and a query does not fit the rollups that are left.
//!
//! The steps of a row fall into [`Run`]s by the coarsest rollup that their windows reach into. Windows
//! of a run consist of whole buckets: they end with the last bucket that has ended by then, have two of
//! them at least, and what grows with their length is scaled back to what was asked. Steps whose
//! windows have raw samples throughout are computed as everywhere. The answer says so.

use std::sync::Arc;

use icecore_storage::tiers::Forced;

use crate::exec::Session;
use crate::exec::outline::Outline;
use crate::exec::rows::{RowBuffer, bit, for_each_bit};
use crate::exec::window::WindowCall;
use crate::functions::{self, FunctionId};
use crate::parser::ast::Span;
use crate::plan::{Times, View};

/// Steps one after the other that are computed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: usize,
    pub(crate) steps: usize,
    /// Of the rollups; 0 where raw samples are there.
    pub(crate) resolution_ms: i64,
}

/// The runs of a row.
pub(crate) fn runs(view: View, forced: &[Forced]) -> Vec<Run> {
    let View { times, window_ms } = view;
    let mut runs: Vec<Run> = Vec::new();
    for step in 0..times.steps {
        let end_ms = times.at(step);
        // Windows are left-open.
        let start_ms = end_ms.saturating_sub(window_ms);
        let reaches = |one: &&Forced| start_ms < one.range.end_ms && one.range.start_ms <= end_ms;
        let resolutions = forced.iter().filter(reaches).map(|one| one.resolution_ms);
        let resolution_ms = resolutions.max().unwrap_or(0);
        match runs.last_mut() {
            Some(run) if run.resolution_ms == resolution_ms => run.steps += 1,
            _ => runs.push(Run { start: step, steps: 1, resolution_ms }),
        }
    }
    runs
}

impl Run {
    /// The run's steps, and a window that has a sample wherever there are buckets one after the other.
    pub(crate) fn look_back(&self, view: View) -> View {
        let window_ms = view.window_ms.max(self.resolution_ms.saturating_mul(2));
        View { times: view.times.part(self.start, self.steps), window_ms }
    }

    /// A call over the run's steps, over windows that the rollups have an answer for. Its steps may be
    /// others: [`Self::put`] picks.
    pub(crate) fn widen<'a>(
        &self,
        call: WindowCall<'a>,
        session: &mut Session<'_>,
    ) -> WindowCall<'a> {
        let resolution_ms = self.resolution_ms;
        if resolution_ms == 0 {
            return call;
        }
        let mut view = call.view;
        view.window_ms = view.window_ms.max(resolution_ms.saturating_mul(2));
        if is_by_buckets(&call) {
            let whole = (view.window_ms.saturating_add(resolution_ms - 1)) / resolution_ms;
            view.window_ms = whole.saturating_mul(resolution_ms);
            view.times = bucket_ends(view.times, resolution_ms);
        } else {
            note_last_samples(functions::name(call.id), resolution_ms, call.span, session);
        }
        if view.window_ms > call.view.window_ms {
            session.annotations.window_widened(call.view.window_ms, view.window_ms, call.span);
        }
        WindowCall { view, ..call }
    }

    /// Puts into `row`, which is `call`'s, what `part` has for `wide`.
    pub(crate) fn put(
        &self,
        call: &WindowCall<'_>,
        wide: &WindowCall<'_>,
        part: &mut RowBuffer,
        row: &mut RowBuffer,
    ) {
        narrow(call, wide, part);
        let of_part = wide.view.times;
        for step in 0..self.steps {
            let end_ms = call.view.times.at(self.start + step);
            let at = match of_part.step_ms {
                step_ms if step_ms == call.view.times.step_ms => step,
                step_ms => ((end_ms - of_part.first_ms) / step_ms) as usize,
            };
            if bit(&part.valid, at) {
                row.set(self.start + step, part.values[at]);
            }
            if let Ok(found) = part.histograms.binary_search_by_key(&(at as u32), |(at, _)| *at) {
                let histogram = Arc::clone(&part.histograms[found].1);
                row.histograms.push(((self.start + step) as u32, histogram));
            }
        }
    }
}

fn is_by_buckets(call: &WindowCall<'_>) -> bool {
    call.extension.is_none() && Outline::is_right_on_rollups(call.id)
}

/// For each time the newest end of a bucket; or all these ends, if they are not as far apart as the
/// times are.
fn bucket_ends(times: Times, resolution_ms: i64) -> Times {
    let end = |time: i64| time.div_euclid(resolution_ms).saturating_mul(resolution_ms);
    let first_ms = end(times.first_ms);
    if times.step_ms % resolution_ms == 0 {
        return Times { first_ms, ..times };
    }
    let steps = (end(times.last_ms()) - first_ms) / resolution_ms + 1;
    Times { first_ms, step_ms: resolution_ms, steps: steps as usize }
}

/// Scales results on wider windows back to those that were asked for.
fn narrow(call: &WindowCall<'_>, wide: &WindowCall<'_>, row: &mut RowBuffer) {
    use FunctionId::{CountOverTime, Delta, Increase, SumOverTime};
    let is_widened = wide.view.window_ms > call.view.window_ms;
    if !is_widened || !matches!(call.id, CountOverTime | Delta | Increase | SumOverTime) {
        return;
    }
    let share = call.view.window_ms as f64 / wide.view.window_ms as f64;
    let RowBuffer { values, valid, histograms } = row;
    for_each_bit(valid, |step| values[step] *= share);
    for (_, histogram) in histograms {
        Arc::make_mut(histogram).scale(share);
    }
}

/// Says that a function which needs all samples had the last ones of buckets.
pub(crate) fn note_last_samples(
    function: &str,
    resolution_ms: i64,
    span: Span,
    session: &mut Session<'_>,
) {
    if resolution_ms > 0 {
        session.annotations.last_samples_only(function, resolution_ms, span);
    }
}

#[cfg(test)]
mod tests {
    use icecore_storage::time::TimeRange;

    use super::*;

    #[test]
    fn steps_run_as_far_as_their_windows_reach_into_the_same_rollups() {
        let forced = [(1, 1000, 100), (1001, 2000, 10)];
        let forced = forced.map(|(start_ms, end_ms, resolution_ms)| Forced {
            range: TimeRange::new(start_ms, end_ms),
            resolution_ms,
        });
        let times = Times { first_ms: 500, step_ms: 500, steps: 6 };
        let run = |start, steps, resolution_ms| Run { start, steps, resolution_ms };
        let of = |window_ms| runs(View { times, window_ms }, &forced);
        assert_eq!(of(50), [run(0, 2, 100), run(2, 2, 10), run(4, 2, 0)]);
        assert_eq!(of(500), [run(0, 2, 100), run(2, 2, 10), run(4, 2, 0)]);
        assert_eq!(of(501), [run(0, 3, 100), run(3, 2, 10), run(5, 1, 0)]);
        assert_eq!(runs(View { times, window_ms: 50 }, &[]), [run(0, 6, 0)]);
    }

    #[test]
    fn windows_end_with_buckets() {
        let ends = |first_ms, step_ms, steps| {
            let times = bucket_ends(Times { first_ms, step_ms, steps }, 100);
            (times.first_ms, times.step_ms, times.steps)
        };
        assert_eq!(ends(250, 200, 3), (200, 200, 3));
        assert_eq!(ends(250, 30, 4), (200, 100, 2));
        assert_eq!(ends(-50, 130, 3), (-100, 100, 4));
        assert_eq!(ends(199, 0, 1), (100, 0, 1));
    }
}
