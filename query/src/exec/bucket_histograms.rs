//! What stands for a bucket of a rollup that has native histograms.
//!
//! As for floats: few rows on which the loops of [`histogram_window`](crate::exec::histogram_window)
//! make what they make of the samples. Before a reset stands what there was, behind it an empty
//! histogram, which is no reset to anything that follows it. Where floats and histograms mix, `rate`
//! and its kin have no result, and the rest treats them apart; only `resets` and `changes` count over
//! both, and the bucket knows how often.

use icecore_storage::metrics::histogram::{Counts, Histogram};
use icecore_storage::metrics::sample::Samples;
use icecore_storage::tiers::{Floats, Histograms};

use crate::exec::outline::{Need, changes_between, resets_between};

/// Appends what stands for histograms alone.
pub(super) fn put(need: Need, bucket: &Histograms<'_>, into: &mut Samples) {
    match need {
        // These look at floats; that there is a histogram is all they say of it.
        Need::Least | Need::Greatest => bucket.first().into_iter().for_each(|one| push(one, into)),
        Need::Last => bucket.last().into_iter().for_each(|one| push(one, into)),
        Need::Sum => bucket.sums().for_each(|sum| push(sum, into)),
        Need::Ends | Need::Falls | Need::Resets | Need::Changes => {
            let (Some(first), Some(last)) = (bucket.first(), bucket.last()) else { return };
            let ends = (End::Histogram(first.1), End::Histogram(last.1));
            match need {
                Need::Ends => push_both(&[], &[first, last], into),
                Need::Resets if bucket.resets == 1.0 => put_reset(first.1, last.1, bucket, into),
                Need::Resets | Need::Changes => put_counted(need, ends, bucket, into),
                _ => put_falls(bucket, first, last, into),
            }
        }
    }
}

/// Appends what stands for floats and histograms of one bucket.
pub(super) fn put_mixed(
    need: Need,
    floats: &Floats<'_>,
    bucket: &Histograms<'_>,
    into: &mut Samples,
) {
    let end_ms = bucket.end_ms;
    let one = bucket.first().map(|(_, histogram)| (end_ms - 1, histogram));
    match need {
        Need::Least => push_both(&[(end_ms, floats.min)], one.as_slice(), into),
        Need::Greatest => push_both(&[(end_ms, floats.max)], one.as_slice(), into),
        Need::Last => push_both(&[floats.last], bucket.last().as_slice(), into),
        Need::Sum => {
            // The sums of histograms take the last two milliseconds.
            into.push(end_ms - 2, floats.sum);
            bucket.sums().for_each(|sum| push(sum, into));
        }
        Need::Ends | Need::Falls | Need::Resets | Need::Changes => {
            let (Some(first), Some(last)) = (bucket.first(), bucket.last()) else { return };
            if matches!(need, Need::Ends | Need::Falls) {
                return push_both(&[floats.first, floats.last], &[first, last], into);
            }
            let end = |is_float, float: (i64, f64), histogram: (i64, _)| match is_float {
                true => End::Float(float.1),
                false => End::Histogram(histogram.1),
            };
            let ends = (
                end(floats.first.0 < first.0, floats.first, first),
                end(floats.last.0 > last.0, floats.last, last),
            );
            put_counted(need, ends, bucket, into);
        }
    }
}

/// The first or the last sample of a bucket.
#[derive(Clone, Copy)]
enum End<'a> {
    Float(f64),
    Histogram(&'a Histogram),
}

impl End<'_> {
    fn push(self, timestamp: i64, into: &mut Samples) {
        match self {
            End::Float(value) => into.push(timestamp, value),
            End::Histogram(histogram) => push((timestamp, histogram), into),
        }
    }
}

/// The first and the last sample, and so many resets or changes on the way from one to the other as
/// the bucket has: a millisecond apart, up to the bucket's end.
fn put_counted(
    need: Need,
    (first, last): (End<'_>, End<'_>),
    bucket: &Histograms<'_>,
    into: &mut Samples,
) {
    let count = if need == Need::Resets { bucket.resets } else { bucket.changes } as usize;
    // From a histogram to a float and back counts as both.
    let kinds = [first, last].map(|end| usize::from(matches!(end, End::Histogram(_))));
    let of_kinds = kinds[0] + kinds[1];
    let value = |end| if let End::Float(value) = end { value } else { f64::NAN };
    let between: Vec<f64> = match count.checked_sub(of_kinds) {
        // No reset or change, or just one, from one histogram to the other.
        None => Vec::new(),
        Some(_) if need == Need::Changes => {
            changes_between(value(first), value(last), count.saturating_sub(1)).collect()
        }
        Some(0) if of_kinds == 2 => vec![0.0],
        Some(more) => resets_between(more).collect(),
    };
    let is_one = bucket.count == 1.0 && of_kinds == 2 && count == 0;
    let rows = between.len() as i64 + if is_one { 1 } else { 2 };
    let start_ms = bucket.end_ms - rows + 1;
    if !is_one {
        first.push(start_ms, into);
    }
    for (value, timestamp) in between.into_iter().zip(start_ms + 1..) {
        into.push(timestamp, value);
    }
    last.push(bucket.end_ms, into);
}

/// One reset, which may not show at the ends: the first grows and becomes empty.
fn put_reset(first: &Histogram, last: &Histogram, bucket: &Histograms<'_>, into: &mut Samples) {
    let mut grown = first.clone();
    match &mut grown.counts {
        Counts::Integer { count, .. } => *count = count.saturating_add(1),
        Counts::Float { count, .. } => *count += 1.0,
    }
    for (before_end, one) in [(3, first), (2, &grown), (1, &empty_like(last)), (0, last)] {
        push((bucket.end_ms - before_end, one), into);
    }
}

fn put_falls(
    bucket: &Histograms<'_>,
    first: (i64, &Histogram),
    last: (i64, &Histogram),
    into: &mut Samples,
) {
    push(first, into);
    let falls: Vec<(i64, &Histogram)> = bucket.falls().collect();
    for (at, (time, before)) in falls.iter().enumerate() {
        let next = falls.get(at + 1).map_or(last.1, |(_, next)| next);
        let newest_ms = into.timestamps.last().copied().unwrap_or(i64::MIN);
        let is_there = into.histograms.last().is_some_and(|(_, newest)| newest == *before);
        if newest_ms >= time - 1 {
            // That is the one before.
            replace_last(before, into);
        } else if !is_there {
            push((time - 1, before), into);
        }
        push((*time, &empty_like(next)), into);
    }
    match into.timestamps.last() {
        Some(newest_ms) if *newest_ms == last.0 => replace_last(last.1, into),
        _ => push(last, into),
    }
}

/// Without observations, and in the layout of what follows.
fn empty_like(next: &Histogram) -> Histogram {
    let counts =
        Counts::Float { count: 0.0, zero_count: 0.0, positive: Vec::new(), negative: Vec::new() };
    Histogram {
        sum: 0.0,
        positive_spans: Vec::new(),
        negative_spans: Vec::new(),
        counts,
        custom_values: next.custom_values.clone(),
        ..*next
    }
}

fn replace_last(histogram: &Histogram, into: &mut Samples) {
    if let Some((_, last)) = into.histograms.last_mut() {
        last.clone_from(histogram);
    }
}

fn push((timestamp, histogram): (i64, &Histogram), into: &mut Samples) {
    into.push_histogram(timestamp, histogram.clone());
}

/// Floats and histograms in order of time, each sample once.
fn push_both(floats: &[(i64, f64)], histograms: &[(i64, &Histogram)], into: &mut Samples) {
    let mut all: Vec<(i64, End<'_>)> =
        floats.iter().map(|(time, value)| (*time, End::Float(*value))).collect();
    all.extend(histograms.iter().map(|(time, one)| (*time, End::Histogram(one))));
    all.sort_by_key(|(time, _)| *time);
    all.dedup_by_key(|(time, _)| *time);
    all.into_iter().for_each(|(time, end)| end.push(time, into));
}
