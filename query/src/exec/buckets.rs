//! Classic histograms: all series that differ in `le` alone.
//!
//! Which series belong together, and in which order their bounds stand, is found once; a step then
//! only collects counts.
//!
//! Ported from Prometheus's `promql/quantile.go` (Apache-2.0).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use crate::annotations::ForcedMonotonicity;
use crate::exec::rows::{Rows, SeriesMeta, bit};
use crate::exec::{Session, label_edit};
use crate::functions::number;
use crate::parser::ast::Span;

const BUCKET_LABEL: &str = "le";
/// Relative differences between counts that are taken for rounding.
const SMALL_DIFFERENCE: f64 = 1e-12;

/// A cumulative bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    upper_bound: f64,
    count: f64,
}

/// One classic histogram: its buckets by upper bound, each with its row.
#[derive(Debug)]
pub(super) struct Classic {
    pub(super) meta: SeriesMeta,
    pub(crate) buckets: Vec<(f64, usize)>,
    /// Steps at which it is not evaluated.
    pub(super) left_out: HashSet<u32>,
}

impl Classic {
    pub(super) fn is_present(&self, rows: &Rows, step: usize) -> bool {
        self.buckets.iter().any(|(_, row)| bit(rows.valid(*row), step))
    }
}

/// Finds the classic histograms among the rows, with their ordinals by their labels but `le`.
pub(super) fn classics(
    rows: &Rows,
    span: Span,
    session: &mut Session<'_>,
) -> (Vec<Classic>, HashMap<Vec<u8>, usize>) {
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut histograms: Vec<Classic> = Vec::new();
    let mut key = Vec::new();
    for (row, meta) in rows.meta.iter().enumerate() {
        if rows.valid(row).iter().all(|word| *word == 0) {
            continue;
        }
        let label = meta.labels.get(BUCKET_LABEL).unwrap_or("");
        let Some(upper_bound) = number::parse(label) else {
            session.annotations.bad_bucket_label(meta.labels.metric_name(), label, span);
            continue;
        };
        key.clear();
        label_edit::write_filtered(&meta.labels, &mut key, |name| name != BUCKET_LABEL.as_bytes());
        let at = *known.entry(key.clone()).or_insert(histograms.len());
        if at == histograms.len() {
            let labels = label_edit::from_bytes(&key);
            let meta = SeriesMeta { labels, drop_name: meta.drop_name };
            histograms.push(Classic { meta, buckets: Vec::new(), left_out: HashSet::new() });
        }
        histograms[at].buckets.push((upper_bound, row));
    }
    for histogram in &mut histograms {
        let labels = |row: usize| &rows.meta[row].labels;
        histogram.buckets.sort_by(|a, b| {
            let by_bound = a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal);
            by_bound.then_with(|| labels(a.1).cmp(labels(b.1)))
        });
    }
    (histograms, known)
}

/// The buckets of a step; those of equal bounds are added up.
pub(super) fn collect(classic: &Classic, rows: &Rows, step: usize, buckets: &mut Vec<Bucket>) {
    buckets.clear();
    for &(upper_bound, row) in &classic.buckets {
        if !bit(rows.valid(row), step) {
            continue;
        }
        let count = rows.values(row)[step];
        match buckets.last_mut() {
            Some(last) if last.upper_bound == upper_bound => last.count += count,
            _ => buckets.push(Bucket { upper_bound, count }),
        }
    }
}

/// The quantile of cumulative buckets in order of their bounds, interpolated linearly; what had to
/// be corrected first, if anything.
pub(super) fn bucket_quantile(
    quantile: f64,
    buckets: &mut [Bucket],
) -> (f64, Option<ForcedMonotonicity>) {
    if quantile.is_nan() {
        return (f64::NAN, None);
    }
    if quantile < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if quantile > 1.0 {
        return (f64::INFINITY, None);
    }
    let last = buckets.len() - 1;
    if buckets[last].upper_bound != f64::INFINITY {
        return (f64::NAN, None);
    }
    let forced = make_monotonic(buckets);
    if buckets.len() < 2 {
        return (f64::NAN, forced);
    }
    let observations = buckets[last].count;
    if observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = quantile * observations;
    let below = |bucket: &Bucket| bucket.count.partial_cmp(&rank).is_none_or(Ordering::is_lt);
    let at = buckets[..last].partition_point(below);
    if at == last {
        return (buckets[last - 1].upper_bound, forced);
    }
    if at == 0 && buckets[0].upper_bound <= 0.0 {
        return (buckets[0].upper_bound, forced);
    }
    let (mut start, mut count) = (0.0, buckets[at].count);
    if at > 0 {
        start = buckets[at - 1].upper_bound;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (start + (buckets[at].upper_bound - start) * (rank / count), forced)
}

/// Removes decreases of the cumulative counts; tiny differences go without notice.
fn make_monotonic(buckets: &mut [Bucket]) -> Option<ForcedMonotonicity> {
    let mut forced: Option<ForcedMonotonicity> = None;
    let mut previous = buckets[0].count;
    for bucket in &mut buckets[1..] {
        let current = bucket.count;
        if current == previous {
            continue;
        }
        if almost_equal(previous, current, SMALL_DIFFERENCE) {
            bucket.count = previous;
            continue;
        }
        if current < previous {
            bucket.count = previous;
            let (bound, difference) = (bucket.upper_bound, previous - current);
            let known = forced.get_or_insert(ForcedMonotonicity {
                bucket_min: bound,
                bucket_max: bound,
                difference_max: difference,
                start_ms: 0,
                end_ms: 0,
                samples: 1,
            });
            known.bucket_min = known.bucket_min.min(bound);
            known.bucket_max = known.bucket_max.max(bound);
            known.difference_max = known.difference_max.max(difference);
            continue;
        }
        previous = current;
    }
    forced
}

/// Equality up to a relative difference; near zero the smallest normal number is the measure.
fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    let sum = a.abs() + b.abs();
    let difference = (a - b).abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < epsilon * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < epsilon
}

/// The share of observations between two values.
pub(super) fn bucket_fraction(lower: f64, upper: f64, buckets: &mut [Bucket]) -> f64 {
    let last = buckets[buckets.len() - 1];
    if last.upper_bound != f64::INFINITY {
        return f64::NAN;
    }
    let count = last.count;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let below = |value: f64| count_below(value, buckets).min(count);
    (below(upper) - below(lower)) / count
}

/// Observations up to a value. A first bucket with a positive bound starts at zero.
fn count_below(value: f64, buckets: &[Bucket]) -> f64 {
    let mut start = if buckets[0].upper_bound > 0.0 { 0.0 } else { f64::NEG_INFINITY };
    let mut rank = 0.0;
    for (index, bucket) in buckets.iter().enumerate() {
        if index > 0 {
            start = buckets[index - 1].upper_bound;
        }
        if start >= value {
            return rank;
        }
        if bucket.upper_bound > value {
            // A bucket from -∞ on has them all at its end.
            if start == f64::NEG_INFINITY {
                return bucket.count;
            }
            let width = bucket.upper_bound - start;
            return rank + (bucket.count - rank) * (value - start) / width;
        }
        rank = bucket.count;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(list: &[(f64, f64)]) -> Vec<Bucket> {
        list.iter().map(|&(upper_bound, count)| Bucket { upper_bound, count }).collect()
    }

    const INFINITY: f64 = f64::INFINITY;

    #[test]
    fn quantiles_are_interpolated_in_their_bucket() {
        let quantile = |q: f64| {
            bucket_quantile(q, &mut buckets(&[(0.1, 5.0), (0.2, 7.0), (INFINITY, 12.0)])).0
        };
        assert_eq!(quantile(0.0), 0.0);
        assert!((quantile(0.5) - 0.15).abs() < 1e-12);
        assert_eq!(quantile(1.0), 0.2);
        assert_eq!(quantile(-0.1), f64::NEG_INFINITY);
        assert!(quantile(f64::NAN).is_nan());
    }

    #[test]
    fn a_bound_at_or_below_zero_is_returned_as_it_is() {
        let quantile = bucket_quantile(0.1, &mut buckets(&[(-0.2, 5.0), (INFINITY, 10.0)])).0;
        assert_eq!(quantile, -0.2);
    }

    #[test]
    fn without_an_infinite_bucket_there_is_no_quantile() {
        assert!(bucket_quantile(0.5, &mut buckets(&[(1.0, 5.0)])).0.is_nan());
    }

    #[test]
    fn decreases_are_removed_and_reported_unless_tiny() {
        let mut list = buckets(&[(1.0, 5.0), (2.0, 3.0), (4.0, 4.0), (INFINITY, 10.0)]);
        let forced = make_monotonic(&mut list).unwrap();
        assert_eq!((forced.bucket_min, forced.bucket_max), (2.0, 4.0));
        assert_eq!(forced.difference_max, 2.0);
        assert_eq!(list[2].count, 5.0);
        let mut tiny = buckets(&[(1.0, 5.0), (INFINITY, 5.0 - 1e-13)]);
        assert_eq!(make_monotonic(&mut tiny), None);
        assert_eq!(tiny[1].count, 5.0);
    }

    #[test]
    fn fractions_add_up() {
        let mut list = buckets(&[(0.1, 5.0), (0.2, 7.0), (INFINITY, 12.0)]);
        assert_eq!(bucket_fraction(f64::NEG_INFINITY, INFINITY, &mut list), 1.0);
        assert!((bucket_fraction(0.0, 0.2, &mut list) - 7.0 / 12.0).abs() < 1e-12);
        assert_eq!(bucket_fraction(0.2, 0.1, &mut list), 0.0);
        let mut negative = buckets(&[(-5.0, 4.0), (5.0, 8.0), (INFINITY, 10.0)]);
        assert_eq!(bucket_fraction(-10.0, 0.0, &mut negative), 0.2);
    }
}
