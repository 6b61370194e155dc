//! Long rows, a block of steps at a time.
//!
//! A row may take long: thousands of steps, each of them with a window of a month. The loops over a
//! row do not look at the budget; instead no call of them is asked for more work than some
//! milliseconds. The steps of a row are independent of each other, so blocks of them are, too.

use crate::engine::QueryError;
use crate::exec::rows::RowBuffer;
use crate::exec::series::Series;
use crate::exec::window::{self, WindowCall, WindowScratch};
use crate::exec::{Scalar, Session};
use crate::functions::FunctionId;
use crate::plan::{Grid, View};

/// Samples that the windows of a block look at together.
const SAMPLES_PER_BLOCK: usize = 1 << 19;

/// Steps of a block, whatever they look at.
const STEPS_PER_BLOCK: usize = 1 << 20;

/// How many steps of a call are computed at a time.
fn steps_per_block(call: &WindowCall<'_>, series: &Series) -> usize {
    let samples = &series.samples;
    let (Some(first), Some(last)) = (samples.timestamps.first(), samples.timestamps.last()) else {
        return usize::MAX;
    };
    let span_ms = last.abs_diff(*first).max(1);
    let of_window = samples.len() as u128 * u128::from(call.view.window_ms.unsigned_abs());
    let of_window = usize::try_from(of_window / u128::from(span_ms)).unwrap_or(usize::MAX);
    let cost = of_window.min(samples.len()).saturating_mul(cost_of_sample(call.id)).max(1);
    // What is found once for a row is found once for each block.
    let work = SAMPLES_PER_BLOCK.max(samples.len());
    (work / cost).clamp(1, STEPS_PER_BLOCK)
}

/// What a sample in a window costs, compared to adding it up.
fn cost_of_sample(id: FunctionId) -> usize {
    use FunctionId::*;
    match id {
        // These look at the ends of a window, or keep up from step to step.
        Rate | Increase | Delta | Irate | Idelta | Changes | Resets | CountOverTime
        | PresentOverTime | AbsentOverTime | LastOverTime | FirstOverTime | DefaultRollup
        | MinOverTime | MaxOverTime | TsOfFirstOverTime | TsOfLastOverTime => 0,
        MadOverTime => 16,
        QuantileOverTime => 4,
        _ => 1,
    }
}

/// [`window::evaluate`], in blocks.
pub(crate) fn evaluate(
    call: &WindowCall<'_>,
    metric: &str,
    series: &mut Series,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    let steps = call.view.times.steps;
    let at_once = steps_per_block(call, series);
    if steps <= at_once {
        return window::evaluate(call, metric, series, scratch, row, session);
    }
    // Windows of other steps are other windows.
    series.samples.timestamps_token = 0;
    row.reset(steps);
    let mut part = RowBuffer::default();
    for start in (0..steps).step_by(at_once) {
        session.budget.check()?;
        let count = at_once.min(steps - start);
        let parameters = parameters(call, start, count);
        let block = self::part(call, start, count, &parameters);
        session.first_step = start;
        window::evaluate(&block, metric, series, scratch, &mut part, session)?;
        row.put(start, &mut part);
    }
    session.first_step = 0;
    Ok(())
}

/// The call at some of its steps, with their [`parameters`].
pub(crate) fn part<'a>(
    call: &WindowCall<'_>,
    start: usize,
    count: usize,
    parameters: &'a [Scalar],
) -> WindowCall<'a> {
    WindowCall {
        view: View { times: call.view.times.part(start, count), ..call.view },
        extension: call.extension.map(|extension| extension.part(start, count)),
        grid: Grid { start_ms: call.grid.time_ms(start), steps: count, ..call.grid },
        parameters,
        ..*call
    }
}

pub(crate) fn parameters(call: &WindowCall<'_>, start: usize, count: usize) -> Vec<Scalar> {
    call.parameters.iter().map(|scalar| part_of(scalar, start, count)).collect()
}

fn part_of(scalar: &Scalar, start: usize, count: usize) -> Scalar {
    match scalar {
        Scalar::Constant(value) => Scalar::Constant(*value),
        Scalar::Steps(values) => Scalar::Steps(values[start..start + count].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use icecore_storage::metrics::sample::Samples;

    use super::*;
    use crate::exec::with_test_session;
    use crate::functions::lookup;
    use crate::parser::ast::{RangeExtension, Span};
    use crate::plan::Times;
    use crate::plan::extension::Extension;

    fn call<'a>(name: &'static str, steps: usize, parameters: &'a [Scalar]) -> WindowCall<'a> {
        let times = Times { first_ms: 600_000, step_ms: 5_000, steps };
        WindowCall {
            id: lookup(name).unwrap().id,
            view: View { times, window_ms: 500_000 },
            extension: None,
            grid: Grid { start_ms: 700_000, step_ms: 5_000, steps },
            parameters,
            span: Span::default(),
        }
    }

    #[test]
    fn blocks_of_extended_windows_look_where_one_piece_looks() {
        let lookback_ms = 250_000;
        let steps = SAMPLES_PER_BLOCK + 3;
        for kind in [RangeExtension::Anchored, RangeExtension::Smoothed] {
            let mut call = call("increase", steps, &[]);
            let times = Times { first_ms: 0, step_ms: 9, steps };
            call.view = View { times, window_ms: 5_000 };
            call.extension = Extension::of_range(Some(kind), call.view, lookback_ms);
            let mut series = Samples::default();
            (0..5_000i64).for_each(|at| series.push(at * 1000, (at * at % 1009) as f64));
            let mut series = Series::stored(series);
            let (mut whole, mut row) = (RowBuffer::default(), RowBuffer::default());
            with_test_session(|session| {
                let scratch = &mut WindowScratch::default();
                window::evaluate(&call, "", &mut series, scratch, &mut whole, session).unwrap();
                evaluate(&call, "", &mut series, scratch, &mut row, session).unwrap();
            });
            assert!(steps_per_block(&call, &series) < steps);
            assert!(row.valid == whole.valid && row.values == whole.values, "{kind:?}");
        }
    }

    /// Windows of about 10,000 samples.
    fn series() -> Series {
        let mut samples = Samples::default();
        for at in 0..100_000i64 {
            samples.push(at * 50, (at * at % 1009) as f64 * 0.1);
        }
        samples.timestamps_token = 5;
        Series::stored(samples)
    }

    #[test]
    fn blocks_give_the_row_that_one_piece_gives() {
        let steps = 300;
        let parameters = [Scalar::Steps((0..steps).map(|step| step as f64 / 300.0).collect())];
        for name in ["avg_over_time", "quantile_over_time", "predict_linear", "rate"] {
            let call = call(name, steps, &parameters);
            let mut series = series();
            let (mut whole, mut row) = (RowBuffer::default(), RowBuffer::default());
            with_test_session(|session| {
                let scratch = &mut WindowScratch::default();
                window::evaluate(&call, "", &mut series, scratch, &mut whole, session).unwrap();
                evaluate(&call, "", &mut series, scratch, &mut row, session).unwrap();
                let blocks = steps.div_ceil(steps_per_block(&call, &series)) as u64;
                let looks = session.budget.looks.load(std::sync::atomic::Ordering::Relaxed);
                assert_eq!(looks, if name == "rate" { 0 } else { blocks }, "{name}");
                assert!(name == "rate" || blocks > 1, "{name}");
            });
            let bits = |row: &RowBuffer| row.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!((bits(&row), &row.valid), (bits(&whole), &whole.valid), "{name}");
        }
    }
}
