//! Functions over windows: the samples of a series in `(time - range, time]`, step by step.
//!
//! - **Columns** are a series' float samples without stale markers.
//! - **Bounds** are the index ranges of the windows in the columns, found with two pointers. They
//!   depend on timestamps alone and are kept while the next series has the same.
//!
//! A function computes the row of one series from columns and bounds; the loops are in `rate.rs`
//! and `over_time.rs`. A series with native histograms takes the way through `histogram_window.rs`.

use icecore_storage::metrics::sample::{STALE_NAN_BITS, is_stale_nan};
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

/// Index ranges of windows, one a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) low: Vec<u32>,
    pub(crate) high: Vec<u32>,
    /// Steps whose window is not empty.
    pub(crate) mask: Vec<u64>,
    /// Samples of each window for which others stand; empty where there are none.
    pub(crate) left_out: Vec<u32>,
    /// Samples in all windows together, and in the largest.
    pub(crate) total: u64,
    pub(crate) largest: u64,
}

impl Bounds {
    pub(crate) fn update(&mut self, timestamps: &[i64], times: Times, window_ms: i64) {
        self.left_out.clear();
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

    /// How many samples a window has, whatever stands for them.
    pub(crate) fn samples(&self, step: usize) -> u64 {
        let left_out = self.left_out.get(step).copied().unwrap_or(0);
        self.window(step).len() as u64 + u64::from(left_out)
    }

    /// Counts samples for which others stand.
    fn add_left_out(&mut self, left_out: &[LeftOut], times: Times, window_ms: i64) {
        outline::count_left_out(left_out, times, window_ms, &mut self.left_out);
        if !left_out.is_empty() {
            let samples = || (0..times.steps).map(|step| self.samples(step));
            (self.total, self.largest) = (samples().sum(), samples().max().unwrap_or(0));
        }
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
    if !series.has_histograms() && !has_stale(&samples.values) {
        let token = samples.timestamps_token;
        let columns = (&samples.timestamps[..], &samples.values[..]);
        return floats(call, columns, left_out, token, scratch, row, session);
    }
    let mut timestamps = std::mem::take(&mut scratch.timestamps);
    let mut values = std::mem::take(&mut scratch.values);
    live_floats(series, &mut timestamps, &mut values);
    let result = match series.has_histograms() {
        false => {
            let columns = (&timestamps[..], &values[..]);
            floats(call, columns, &series.left_out, 0, scratch, row, session)
        }
        true => {
            let columns = (&timestamps[..], &values[..]);
            histogram_window::evaluate(call, metric, series, columns, scratch, row, session)
        }
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
    (timestamps, values): (&[i64], &[f64]),
    left_out: &[LeftOut],
    token: u64,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    if token == 0 || scratch.bounds_token != token {
        let View { times, window_ms } = call.view;
        scratch.bounds.update(timestamps, times, window_ms);
        scratch.bounds.add_left_out(left_out, times, window_ms);
        scratch.bounds_token = token;
    }
    let bounds = &scratch.bounds;
    session.count_samples(bounds.total, bounds.low.len(), |step| bounds.samples(step));
    session.budget.touch(scratch.bounds.largest)?;
    over_time::check_parameters(call, &scratch.bounds.mask)?;
    if left_out.is_empty() {
        compute(call, timestamps, values, token, scratch, row, session);
        return Ok(());
    }
    let of_stand_ins = WindowCall { id: outline::computed(call.id), ..*call };
    compute(&of_stand_ins, timestamps, values, token, scratch, row, session);
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
    timestamps: &[i64],
    values: &[f64],
    token: u64,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) {
    if let Some(kind) = RateKind::of(call.id) {
        if token == 0 || scratch.rate_token != token {
            scratch.rate_steps.update(timestamps, &scratch.bounds, call.view, kind);
            scratch.rate_steps.count_left_out(timestamps, &scratch.bounds, call.view, kind);
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
