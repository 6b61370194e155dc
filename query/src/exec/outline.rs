//! What a function needs of the samples of a window.
//!
//! Some functions need little of a chunk that is in a window as a whole: its greatest value, its
//! first and its last. Storage knows that from the chunk's statistics, so a long window is read as
//! samples at its edges and a **stand-in** for each chunk between them: few values on which the
//! loops of [`window`](crate::exec::window) make the same result, to the last bit. The one thing
//! they cannot make of a stand-in is the number of samples; each step knows how many are left out.
//!
//! A bucket of a rollup has a stand-in too. There is nothing else to read then, so it has one for
//! every function that is right on rollups, whatever its samples were.
//!
//! A chunk with stale markers or NaN has no stand-in, nor has one in a series with histograms; their
//! buckets are those of `bucket_histograms.rs`. A sum
//! has some only where every value of the series is a whole number and all of them together stay
//! below 2^53: then every order of summation gives the same.

use icecore_storage::metrics::chunk::ChunkStatistics;
use icecore_storage::metrics::rollup::{Component, Components};
use icecore_storage::metrics::sample::{Samples, is_stale_nan};
use icecore_storage::outline::{LeftOut, Outliner, StandIn, Windows};
use icecore_storage::tiers::{Bucket, Floats};
use icecore_storage::time::WINDOW_MS;

use crate::exec::bucket_histograms;
use crate::exec::rows::{RowBuffer, for_each_bit};
use crate::exec::series::Series;
use crate::exec::window::{Bounds, WindowCall};
use crate::functions::FunctionId;
use crate::plan::{Times, View};
use crate::source::{Source, SourceError};

/// Below this every whole number is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What a function needs of a chunk, besides the number of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Last,
    /// First and last.
    Ends,
    Least,
    Greatest,
    Sum,
    /// First, last, and the value before each reset.
    Falls,
    /// First, last, and how many resets are between them.
    Resets,
    /// First, last, and how many changes are between them. Chunks do not tell it.
    Changes,
}

impl Need {
    fn of(function: FunctionId) -> Option<Need> {
        use FunctionId::*;
        Some(match function {
            LastOverTime | DefaultRollup | TsOfLastOverTime | CountOverTime | PresentOverTime
            | AbsentOverTime => Need::Last,
            FirstOverTime | TsOfFirstOverTime | Delta => Need::Ends,
            MinOverTime => Need::Least,
            MaxOverTime => Need::Greatest,
            SumOverTime | AvgOverTime => Need::Sum,
            Rate | Increase => Need::Falls,
            Resets => Need::Resets,
            Changes => Need::Changes,
            _ => return None,
        })
    }

    fn stand_in(self, of: &ChunkStatistics) -> Option<StandIn> {
        if of.flags & (ChunkStatistics::HAS_STALE | ChunkStatistics::HAS_NAN) != 0 {
            return None;
        }
        match self {
            Need::Last => Some(StandIn::new(&[of.last])),
            Need::Ends => Some(StandIn::new(&[of.first, of.last])),
            Need::Least => Some(StandIn::new(&[of.min])),
            Need::Greatest => Some(StandIn::new(&[of.max])),
            Need::Sum => {
                let is_exact = of.flags & ChunkStatistics::ALL_INTEGERS != 0;
                is_exact.then(|| StandIn::new(&[of.sum]))
            }
            Need::Changes => None,
            Need::Falls | Need::Resets => match of.resets {
                0 => Some(StandIn::new(&[of.first, of.last])),
                // The only value before a reset is the sum of them. The one after it is less, and
                // nobody asks how much; but a zero's sign is lost in a sum.
                1 if of.reset_sum != 0.0 => {
                    Some(StandIn::new(&[of.first, of.reset_sum, f64::NEG_INFINITY, of.last]))
                }
                _ => None,
            },
        }
    }

    /// The columns of a rollup that [`Self::put`] reads.
    fn columns(self) -> Components {
        use Component::{Changes, Count, Falls, First, Last, Max, Min, Resets, Sum};
        Components::of(match self {
            Need::Last => &[Count, Last],
            Need::Ends => &[Count, First, Last],
            Need::Least => &[Count, Min],
            Need::Greatest => &[Count, Max],
            Need::Sum => &[Count, Sum],
            Need::Falls => &[Count, First, Last, Resets, Falls],
            Need::Resets => &[Count, First, Last, Resets],
            Need::Changes => &[Count, First, Last, Changes],
        })
    }

    /// Appends what stands for a bucket.
    fn put(self, bucket: &Bucket<'_>, into: &mut Samples) {
        match (&bucket.floats, &bucket.histograms) {
            (Some(floats), None) => self.put_floats(floats, into),
            (None, Some(histograms)) => bucket_histograms::put(self, histograms, into),
            (Some(floats), Some(histograms)) => {
                bucket_histograms::put_mixed(self, floats, histograms, into);
            }
            (None, None) => {}
        }
    }

    fn put_floats(self, bucket: &Floats<'_>, into: &mut Samples) {
        let ((_, first), (last_ms, last)) = (bucket.first, bucket.last);
        match self {
            Need::Last => into.push(last_ms, last),
            Need::Least => into.push(bucket.end_ms, bucket.min),
            Need::Greatest => into.push(bucket.end_ms, bucket.max),
            Need::Sum => into.push(bucket.end_ms, bucket.sum),
            Need::Ends => put_between(bucket, into, |_| ()),
            Need::Falls => put_between(bucket, into, |into| {
                let (times, before) = bucket.falls;
                // A sum of many: the sample that fell last may not be less than that.
                let early = i64::from(bucket.resets > times.len() as f64);
                for (time, before) in times.iter().zip(before) {
                    put_fall(time - early, *before, into);
                }
            }),
            Need::Resets => {
                let falls = resets_between(bucket.resets as usize);
                // Over a NaN a value may be less than one before it and has not fallen.
                let apart = (bucket.resets == 0.0 && last < first).then_some(f64::NAN);
                put_at_end(bucket, into, falls.chain(apart));
            }
            Need::Changes => {
                // One change leads to the last value, if there is any.
                let between = (bucket.changes as usize).saturating_sub(1);
                put_at_end(bucket, into, changes_between(first, last, between));
            }
        }
    }
}

/// Floats with so many resets among them, and none from a float before them or to one behind them.
pub(super) fn resets_between(resets: usize) -> impl Iterator<Item = f64> {
    (0..resets).flat_map(|_| [f64::INFINITY, f64::NEG_INFINITY])
}

/// So many floats, each unlike its neighbour, with `first` before and `last` behind them.
pub(super) fn changes_between(first: f64, last: f64, floats: usize) -> impl Iterator<Item = f64> {
    let is_other = move |value: &f64| *value != first && *value != last;
    let mut others = [0.0, 1.0, 2.0, 3.0].into_iter().filter(is_other);
    let two = [others.next(), others.next()].map(Option::unwrap_or_default);
    two.into_iter().cycle().take(floats)
}

/// The first and the last value of a bucket and what is between them, for what does not ask for
/// times: a millisecond apart, up to the bucket's end.
fn put_at_end(bucket: &Floats<'_>, into: &mut Samples, between: impl Iterator<Item = f64>) {
    let start = into.len();
    if bucket.count > 1.0 {
        into.values.push(bucket.first.1);
        into.values.extend(between);
    }
    into.values.push(bucket.last.1);
    let rows = (into.values.len() - start) as i64;
    into.timestamps.extend((0..rows).map(|row| bucket.end_ms - rows + 1 + row));
}

/// The first and the last sample of a bucket, once if they are one, and what is between them.
fn put_between(bucket: &Floats<'_>, into: &mut Samples, between: impl FnOnce(&mut Samples)) {
    let ((first_ms, first), (last_ms, last)) = (bucket.first, bucket.last);
    into.push(first_ms, first);
    between(into);
    match into.timestamps.last().copied() {
        Some(time) if time == last_ms => *into.values.last_mut().expect("one a time") = last,
        _ => put_apart(last_ms, last, into),
    }
}

/// A sample that is no fall, though it may be less than the one before it: then there was a NaN.
fn put_apart(time: i64, value: f64, into: &mut Samples) {
    if into.values.last().is_some_and(|before| value < *before) {
        into.push(time - 1, f64::NAN);
    }
    into.push(time, value);
}

/// A sample that is less than the one before it, whose value is `before`.
fn put_fall(time: i64, before: f64, into: &mut Samples) {
    let (Some(newest), Some(value)) = (into.timestamps.last(), into.values.last_mut()) else {
        return;
    };
    if *newest >= time - 1 {
        // That is the one before.
        *value = before;
    } else if value.to_bits() != before.to_bits() {
        put_apart(time - 1, before, into);
    }
    // How much less it is nobody asks, and whatever comes is no less than this.
    into.push(time, f64::NEG_INFINITY);
}

/// How the series of a call are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outline {
    need: Need,
    windows: Windows,
    /// A window may have room for a chunk.
    for_chunks: bool,
}

impl Outline {
    /// Whether a function has the same result on buckets as on their samples, if its windows consist
    /// of whole ones.
    pub(crate) fn is_right_on_rollups(function: FunctionId) -> bool {
        Need::of(function).is_some()
    }

    /// `None` for what needs all samples.
    pub(crate) fn of(call: &WindowCall<'_>) -> Option<Outline> {
        let View { times, window_ms } = call.view;
        if call.extension.is_some() {
            return None;
        }
        let windows = Windows {
            first_end_ms: times.first_ms,
            step_ms: times.step_ms,
            steps: times.steps,
            length_ms: window_ms,
        };
        let need = Need::of(call.id)?;
        let for_chunks = window_ms >= WINDOW_MS && need != Need::Changes;
        Some(Outline { need, windows, for_chunks })
    }

    /// [`Source::read`] with stand-ins.
    pub(crate) fn read<S: Source>(
        &self,
        source: &S,
        series: &S::Series,
        into: &mut Series,
    ) -> Result<(), SourceError> {
        let Series { samples, left_out, .. } = into;
        let resolution_ms = source.resolution(series);
        if resolution_ms == 0 && !self.for_chunks {
            return source.read(series, samples);
        }
        let mut magnitude = 0.0;
        let mut stand_in = |of: &ChunkStatistics| {
            let stand_in = self.need.stand_in(of)?;
            magnitude += greatest_sum(of);
            Some(stand_in)
        };
        let outliner = Outliner {
            windows: self.windows,
            stand_in: &mut stand_in,
            bucket: &mut |bucket, samples| self.need.put(bucket, samples),
            columns: self.need.columns(),
            left_out,
        };
        source.outline(series, outliner, samples)?;
        if resolution_ms > 0 {
            return Ok(());
        }
        let is_exact = || {
            let live = samples.values.iter().filter(|value| !is_stale_nan(**value));
            let values =
                live.map(|value| if value.trunc() == *value { value.abs() } else { EXACT });
            magnitude + values.sum::<f64>() < EXACT
        };
        let holds = samples.histograms.is_empty() && (self.need != Need::Sum || is_exact());
        if left_out.is_empty() || holds {
            return Ok(());
        }
        left_out.clear();
        source.read(series, samples)
    }
}

/// Not less than the sum of the magnitudes of a chunk's values.
fn greatest_sum(of: &ChunkStatistics) -> f64 {
    match (of.min >= 0.0, of.max <= 0.0) {
        (true, _) | (_, true) => of.sum.abs(),
        _ => f64::from(of.count) * of.max.max(-of.min),
    }
}

/// For each step how many samples of its window are left out, `of` each; nothing where there are
/// none.
pub(crate) fn count_left_out(
    left_out: &[LeftOut],
    of: impl Fn(&LeftOut) -> i64,
    times: Times,
    window_ms: i64,
    counts: &mut Vec<i64>,
) {
    counts.clear();
    if left_out.is_empty() {
        return;
    }
    // No window has a part of a chunk.
    let (mut low, mut high, mut count) = (0, 0, 0i64);
    let mut end_ms = times.first_ms;
    for _ in 0..times.steps {
        let start_ms = end_ms.wrapping_sub(window_ms);
        while let Some(one) = left_out.get(high).filter(|one| one.at_ms <= end_ms) {
            count += of(one);
            high += 1;
        }
        while let Some(one) = left_out[..high].get(low).filter(|one| one.at_ms <= start_ms) {
            count -= of(one);
            low += 1;
        }
        counts.push(count);
        end_ms = end_ms.wrapping_add(times.step_ms);
    }
}

/// A mean of stand-ins is made of their sum.
pub(crate) fn computed(id: FunctionId) -> FunctionId {
    if id == FunctionId::AvgOverTime { FunctionId::SumOverTime } else { id }
}

/// Makes the results of [`computed`] those of the function, which counts samples.
pub(crate) fn finish(id: FunctionId, bounds: &Bounds, row: &mut RowBuffer) {
    let RowBuffer { values, valid, .. } = row;
    let of_count = |value: f64, count: f64| match id {
        FunctionId::CountOverTime => count,
        FunctionId::AvgOverTime => value / count,
        _ => value,
    };
    for_each_bit(valid, |step| values[step] = of_count(values[step], bounds.samples(step) as f64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_magnitudes_are_not_taken_for_small_where_signs_differ() {
        let of = |min, max, sum| {
            greatest_sum(&ChunkStatistics { count: 10, min, max, sum, ..Default::default() })
        };
        assert_eq!(of(1.0, 5.0, 20.0), 20.0);
        assert_eq!(of(-5.0, 0.0, -20.0), 20.0);
        assert_eq!(of(-7.0, 5.0, 0.0), 70.0);
    }

    #[test]
    fn samples_left_out_are_those_of_the_chunks_of_a_window() {
        let left_out = [(10, 3), (20, 4), (30, 5)];
        let left_out = left_out.map(|(at_ms, samples)| LeftOut { at_ms, samples, histograms: 0 });
        let mut counts = Vec::new();
        let times = Times { first_ms: 9, step_ms: 11, steps: 5 };
        count_left_out(&left_out, |one| one.samples, times, 15, &mut counts);
        assert_eq!(counts, [0, 7, 9, 5, 0]);
        count_left_out(
            &left_out,
            |one| one.samples,
            Times { first_ms: 30, step_ms: 0, steps: 2 },
            20,
            &mut counts,
        );
        assert_eq!(counts, [9, 9]);
        count_left_out(&[], |one| one.samples, times, 15, &mut counts);
        assert!(counts.is_empty());
    }
}
