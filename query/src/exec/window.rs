//! Functions over windows: the samples of a series in `(time - range, time]`, step by step.
//!
//! - **Columns** are a series' float samples without stale markers.
//! - **Bounds** are the index ranges of the windows in the columns. They depend on timestamps alone
//!   and are kept while the next series has the same.
//!
//! A function computes the row of one series from columns and bounds; the loops are in `rate.rs`
//! and `over_time.rs`. A series with native histograms takes the way through `histogram_window.rs`.

use icecore_storage::metrics::sample::is_stale_nan;
use icecore_storage::outline::LeftOut;

use crate::engine::QueryError;
use crate::exec::rate::{self, RateKind, RateSteps};
use crate::exec::rows::RowBuffer;
use crate::exec::samples::LiveSamples;
use crate::exec::series::Series;
use crate::exec::{Scalar, Session, extended, histogram_window, outline, over_time, start_time};
use crate::functions::FunctionId;
use crate::parser::ast::Span;
use crate::plan::extension::Extension;
use crate::plan::{Grid, Times, View};

/// A call of a function over a range vector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowCall<'a> {
    pub(crate) id: FunctionId,
    pub(crate) view: View,
    /// Of `anchored` and `smoothed` selectors.
    pub(crate) extension: Option<Extension>,
    /// The evaluation times, which differ from those of `view` by offset and `@`.
    pub(crate) grid: Grid,
    /// The scalar arguments.
    pub(crate) parameters: &'a [Scalar],
    /// Where the first argument stands; annotations point there.
    pub(crate) span: Span,
}

impl WindowCall<'_> {
    /// Functions that act like an offset keep the metric's name. Of `absent_over_time` nobody sees
    /// these series, which may differ by their names alone.
    pub(crate) fn keeps_name(&self) -> bool {
        use FunctionId::{AbsentOverTime, DefaultRollup, FirstOverTime, LastOverTime};
        matches!(self.id, FirstOverTime | LastOverTime | DefaultRollup | AbsentOverTime)
    }
}

/// The columns of a series.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floats<'a> {
    pub(crate) timestamps: &'a [i64],
    pub(crate) values: &'a [f64],
    /// As of [`Samples`](icecore_storage::metrics::sample::Samples).
    pub(crate) timestamps_token: u64,
    /// Whether it is known that no value is less than the one before.
    pub(crate) never_fall: bool,
}

/// Index ranges of windows, one a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) low: Vec<u32>,
    pub(crate) high: Vec<u32>,
    /// Steps whose window is not empty.
    pub(crate) mask: Vec<u64>,
    /// Samples of each window for which others stand; empty where there are none.
    pub(crate) left_out: Vec<i64>,
    /// Samples in all windows together, and in the largest.
    pub(crate) total: u64,
    pub(crate) largest: u64,
}

impl Bounds {
    pub(crate) fn update(&mut self, timestamps: &[i64], times: Times, window_ms: i64) {
        self.left_out.clear();
        self.low.resize(times.steps, 0);
        self.high.resize(times.steps, 0);
        positions(timestamps, times, &mut self.high);
        // A window mostly begins where one some steps before has ended.
        let shared_after = match times.step_ms {
            step_ms if step_ms > 0 && window_ms % step_ms == 0 => window_ms / step_ms,
            _ => i64::MAX,
        };
        let shared_after = usize::try_from(shared_after).unwrap_or(usize::MAX).min(times.steps);
        let (low, shared) = self.low.split_at_mut(shared_after);
        shared.copy_from_slice(&self.high[..shared.len()]);
        positions(
            timestamps,
            Times { first_ms: times.first_ms.wrapping_sub(window_ms), ..times },
            low,
        );
        // Where this wraps, millions of years away, there are no samples.
        low.iter_mut().zip(&self.high).for_each(|(low, high)| *low = (*low).min(*high));
        self.summarize();
    }

    /// Makes mask, total and largest, in loops that are vectors.
    fn summarize(&mut self) {
        (self.total, self.largest) = (0, 0);
        for (lows, highs) in self.low.chunks(64).zip(self.high.chunks(64)) {
            let lengths = || lows.iter().zip(highs).map(|(low, high)| high.wrapping_sub(*low));
            self.total += lengths().map(u64::from).fold(0, u64::wrapping_add);
            self.largest = self.largest.max(u64::from(lengths().fold(0, u32::max)));
        }
        let mut mask = std::mem::take(&mut self.mask);
        self.with_at_least(1, &mut mask);
        self.mask = mask;
    }

    /// The steps whose window has at least so many samples, into `mask`.
    pub(crate) fn with_at_least(&self, samples: u32, mask: &mut Vec<u64>) {
        mask.clear();
        for (lows, highs) in self.low.chunks(64).zip(self.high.chunks(64)) {
            let enough =
                || lows.iter().zip(highs).map(|(low, high)| high.wrapping_sub(*low) >= samples);
            let bits = || enough().enumerate().map(|(bit, is_set)| u64::from(is_set) << bit);
            let full = u64::MAX >> (64 - lows.len());
            // Most words are full, and that is found by vectors.
            let is_full = enough().fold(true, |all, is_set| all & is_set);
            mask.push(if is_full { full } else { bits().fold(0, |mask, bit| mask | bit) });
        }
    }

    pub(crate) fn window(&self, step: usize) -> std::ops::Range<usize> {
        self.low[step] as usize..self.high[step] as usize
    }

    /// How many samples a window has, whatever stands for them.
    pub(crate) fn samples(&self, step: usize) -> u64 {
        let left_out = self.left_out.get(step).copied().unwrap_or(0);
        (self.window(step).len() as i64).saturating_add(left_out).max(0).unsigned_abs()
    }

    /// Counts samples for which others stand.
    pub(crate) fn add_left_out(
        &mut self,
        left_out: &[LeftOut],
        of: impl Fn(&LeftOut) -> i64,
        view: View,
    ) {
        let View { times, window_ms } = view;
        outline::count_left_out(left_out, of, times, window_ms, &mut self.left_out);
        if !left_out.is_empty() {
            let samples = || (0..times.steps).map(|step| self.samples(step));
            (self.total, self.largest) = (samples().sum(), samples().max().unwrap_or(0));
        }
    }
}

/// How many timestamps each time of a grid has behind it or at it.
pub(crate) fn positions(timestamps: &[i64], times: Times, out: &mut [u32]) {
    let (Some((_, after)), Some((_, before))) = (timestamps.split_first(), timestamps.split_last())
    else {
        return out.fill(0);
    };
    let (mut at, mut advance) = (0usize, 0usize);
    let mut time_ms = times.first_ms;
    for out in out {
        // Samples come about as regularly as steps.
        let guess = at.wrapping_add(advance).wrapping_sub(1);
        let is_right = match (before.get(guess), after.get(guess)) {
            (Some(before), Some(after)) => *before <= time_ms && time_ms < *after,
            _ => false,
        };
        if !is_right {
            let passed = timestamps[at..].iter().take_while(|timestamp| **timestamp <= time_ms);
            advance = passed.count();
        }
        at = at.wrapping_add(advance);
        *out = at as u32;
        time_ms = time_ms.wrapping_add(times.step_ms);
    }
}

/// Memory that is reused from series to series.
#[derive(Debug, Default)]
pub(crate) struct WindowScratch {
    timestamps: Vec<i64>,
    values: Vec<f64>,
    bounds: Bounds,
    bounds_token: u64,
    rate_steps: RateSteps,
    rate_token: u64,
    pub(crate) over_time: over_time::Scratch,
    pub(crate) live: LiveSamples,
    pub(crate) resets: Vec<u32>,
}

impl WindowScratch {
    /// Takes bounds that were worked out elsewhere.
    pub(crate) fn use_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.bounds_token = 0;
        self.rate_token = 0;
    }
}

/// Computes the row of one series.
pub(crate) fn evaluate(
    call: &WindowCall<'_>,
    metric: &str,
    series: &mut Series,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    row.reset(call.view.times.steps);
    if let Some(extension) = call.extension {
        let live = &mut scratch.live;
        return extended::evaluate(call, extension, metric, series, live, row, session);
    }
    let Series { samples, left_out, .. } = &*series;
    let has_starts = session.use_start_timestamps && !samples.start_timestamps.is_empty();
    if has_starts && start_time::concerns(call.id) {
        return start_time::evaluate(call, metric, series, &mut scratch.live, row, session);
    }
    // One look at a counter tells that there is neither a reset nor a stale marker.
    let never_fall = matches!(call.id, FunctionId::Rate | FunctionId::Increase)
        && rate::never_fall(&samples.values);
    if !series.has_histograms() && (never_fall || !has_stale(&samples.values)) {
        let columns = Floats {
            timestamps: &samples.timestamps,
            values: &samples.values,
            timestamps_token: samples.timestamps_token,
            never_fall,
        };
        return floats(call, columns, left_out, scratch, row, session);
    }
    let mut timestamps = std::mem::take(&mut scratch.timestamps);
    let mut values = std::mem::take(&mut scratch.values);
    live_floats(series, &mut timestamps, &mut values);
    let columns =
        Floats { timestamps: &timestamps, values: &values, timestamps_token: 0, never_fall: false };
    let result = match series.has_histograms() {
        false => floats(call, columns, &series.left_out, scratch, row, session),
        true => histogram_window::evaluate(call, metric, series, columns, scratch, row, session),
    };
    scratch.timestamps = timestamps;
    scratch.values = values;
    result
}

fn has_stale(values: &[f64]) -> bool {
    // Many at a time, which is quicker than to stop at the first; and for any NaN first, which is
    // quicker than for one of them.
    let has_nan = |values: &[f64]| values.iter().fold(false, |found, value| found | value.is_nan());
    values.chunks(256).any(|values| has_nan(values) && values.iter().copied().any(is_stale_nan))
}

/// The floats that are no stale markers.
fn live_floats(series: &Series, timestamps: &mut Vec<i64>, values: &mut Vec<f64>) {
    timestamps.clear();
    values.clear();
    let mut histogram_rows = series.histogram_rows().iter().peekable();
    let samples = series.samples.timestamps.iter().zip(&series.samples.values);
    for (row, (&timestamp, &value)) in samples.enumerate() {
        let is_histogram = histogram_rows.next_if(|at| **at as usize == row).is_some();
        if !is_histogram && !is_stale_nan(value) {
            timestamps.push(timestamp);
            values.push(value);
        }
    }
}

/// The row of a series without histograms.
fn floats(
    call: &WindowCall<'_>,
    columns: Floats<'_>,
    left_out: &[LeftOut],
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    let (timestamps, token) = (columns.timestamps, columns.timestamps_token);
    if token == 0 || scratch.bounds_token != token {
        let View { times, window_ms } = call.view;
        scratch.bounds.update(timestamps, times, window_ms);
        scratch.bounds.add_left_out(left_out, |one| one.samples, call.view);
        scratch.bounds_token = token;
    }
    let bounds = &scratch.bounds;
    session.count_samples(bounds.total, bounds.low.len(), |step| bounds.samples(step));
    session.budget.touch(scratch.bounds.largest)?;
    over_time::check_parameters(call, &scratch.bounds.mask)?;
    if left_out.is_empty() {
        compute(call, columns, scratch, row, session);
        return Ok(());
    }
    let of_stand_ins = WindowCall { id: outline::computed(call.id), ..*call };
    compute(&of_stand_ins, columns, scratch, row, session);
    outline::finish(call.id, &scratch.bounds, row);
    Ok(())
}

/// Charges for samples that cost `cost` each.
pub(crate) fn account(
    session: &Session<'_>,
    bounds: &Bounds,
    mut cost: impl FnMut(usize) -> u64,
) -> Result<(), QueryError> {
    // A sample is in many windows, and what it costs may take a while to say.
    let samples = bounds.high.last().map_or(0, |high| *high as usize);
    let mut before = vec![0];
    before.extend((0..samples).scan(0, |sum, at| {
        *sum += cost(at);
        Some(*sum)
    }));
    let windows = bounds.low.iter().zip(&bounds.high);
    let costs = windows.map(|(low, high)| before[*high as usize] - before[*low as usize]);
    let costs: Vec<u64> = costs.collect();
    session.count_samples(costs.iter().sum(), costs.len(), |step| costs[step]);
    session.budget.touch(costs.into_iter().max().unwrap_or(0))
}

/// Dispatches to the loop of the function; `scratch.bounds` are those of the columns.
pub(crate) fn compute(
    call: &WindowCall<'_>,
    columns: Floats<'_>,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) {
    let Floats { timestamps, values, timestamps_token: token, .. } = columns;
    if let Some(kind) = RateKind::of(call.id) {
        if token == 0 || scratch.rate_token != token {
            scratch.rate_steps.update(timestamps, &scratch.bounds, call.view, kind);
            scratch.rate_token = token;
        }
        let (bounds, steps) = (&scratch.bounds, &scratch.rate_steps);
        return rate::extrapolated(kind, columns, bounds, steps, &mut scratch.resets, row);
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
    fn bounds_are_those_of_a_plain_search() {
        let mut state = 11u64;
        let mut random = move |bound: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        let mut bounds = Bounds::default();
        for turn in 0..500u64 {
            let (jitter, gap) = (1 + random(30), [1, 10, 60][turn as usize % 3]);
            let mut time = random(1000) as i64;
            let mut timestamps = Vec::new();
            for _ in 0..random(200) {
                let missed = if random(20) == 0 { random(300) } else { 0 };
                time += (1 + gap + random(jitter) + missed) as i64;
                timestamps.push(time);
            }
            let step_ms = 1 + random(80) as i64;
            let times =
                Times { first_ms: random(500) as i64, step_ms, steps: random(150) as usize };
            let window_ms = match turn % 2 {
                0 => step_ms * (1 + random(20) as i64),
                _ => 1 + random(400) as i64,
            };
            bounds.update(&timestamps, times, window_ms);
            for step in 0..times.steps {
                let end_ms = times.at(step);
                let low = timestamps.partition_point(|time| *time <= end_ms - window_ms);
                let high = timestamps.partition_point(|time| *time <= end_ms);
                assert_eq!(bounds.window(step), low..high, "{times:?} {window_ms}");
            }
        }
    }

    #[test]
    fn at_the_end_of_time_windows_are_empty() {
        let mut bounds = Bounds::default();
        for first_ms in [i64::MIN, i64::MIN + 20, i64::MAX - 20, i64::MAX] {
            let times = Times { first_ms, step_ms: 30, steps: 3 };
            for window_ms in [30, 25, 45] {
                bounds.update(&[0, 10], times, window_ms);
                assert!((0..3).all(|step| bounds.window(step).is_empty()));
            }
        }
    }

    #[test]
    fn with_at_every_step_has_the_same_window() {
        let mut bounds = Bounds::default();
        bounds.update(&[0, 10, 20, 30], Times { first_ms: 20, step_ms: 0, steps: 2 }, 20);
        assert_eq!((bounds.window(0), bounds.window(1)), (1..3, 1..3));
    }
}
