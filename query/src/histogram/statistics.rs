//! Quantiles, fractions and the variance of a histogram, estimated from its buckets.
//!
//! Observations are taken to fill custom buckets and the zero bucket evenly, and exponential buckets
//! so that they would fill the buckets of every finer resolution evenly. Observations of NaN are in
//! no bucket, only in the count; the sum is NaN then.
//!
//! Follows Prometheus's `promql/quantile.go` and `promql/functions.go`.

use super::{Bucket, FloatHistogram};
use icecore_storage::metrics::kahan::kahan_add;

/// What observations of NaN did to a quantile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NanEffect {
    /// It lies among them.
    IsNan,
    /// It is higher for them, since they count as the greatest.
    Skewed,
}

fn includes_zero(bucket: &Bucket) -> bool {
    bucket.lower <= 0.0 && bucket.upper >= 0.0
}

/// The bounds on a scale on which exponential buckets of a schema have one width.
fn logarithms(bucket: &Bucket) -> (f64, f64) {
    (bucket.lower.abs().log2(), bucket.upper.abs().log2())
}

/// The `q`-quantile; NaN without observations.
pub(crate) fn quantile(histogram: &FloatHistogram, q: f64) -> (f64, Option<NanEffect>) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if histogram.count == 0.0 || q.is_nan() {
        return (f64::NAN, None);
    }
    // From the nearer end; from the lower one if NaNs may be counted at the upper.
    if histogram.sum.is_nan() || q < 0.5 {
        quantile_among(histogram, histogram.all(), q * histogram.count, true)
    } else {
        quantile_among(histogram, histogram.all_reversed(), (1.0 - q) * histogram.count, false)
    }
}

fn quantile_among(
    histogram: &FloatHistogram,
    mut buckets: impl Iterator<Item = Bucket>,
    mut rank: f64,
    ascending: bool,
) -> (f64, Option<NanEffect>) {
    let mut counted = 0.0;
    let mut bucket = FloatHistogram::empty(histogram.schema.clone()).zero_bucket();
    for next in buckets.by_ref() {
        bucket = next;
        counted += bucket.count;
        if bucket.count != 0.0 && counted >= rank {
            break;
        }
    }
    if histogram.uses_custom_bounds() {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, None);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, None);
        }
    } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
        halve_zero_bucket(histogram, &mut bucket);
    }
    // Rounding may have made more of the buckets than was counted.
    counted = counted.min(histogram.count);
    if counted < rank {
        return match histogram.sum.is_nan() {
            true => (f64::NAN, Some(NanEffect::IsNan)),
            false => (bucket.upper, None),
        };
    }
    rank = if ascending { rank - (counted - bucket.count) } else { counted - rank };
    let mut effect = None;
    if histogram.sum.is_nan() {
        counted = buckets.fold(counted, |counted, bucket| counted + bucket.count);
        // The sum of infinities of both signs is NaN too, but all of them are in buckets.
        effect = (counted < histogram.count).then_some(NanEffect::Skewed);
    }
    let fraction = rank / bucket.count;
    if histogram.uses_custom_bounds() || includes_zero(&bucket) {
        return (bucket.lower + (bucket.upper - bucket.lower) * fraction, effect);
    }
    let (lower, upper) = logarithms(&bucket);
    let value = match bucket.lower > 0.0 {
        true => (lower + (upper - lower) * fraction).exp2(),
        false => -(upper + (lower - upper) * (1.0 - fraction)).exp2(),
    };
    (value, effect)
}

/// If all other buckets have one sign, so have the observations in the zero bucket.
fn halve_zero_bucket(histogram: &FloatHistogram, bucket: &mut Bucket) {
    match (histogram.negative.is_empty(), histogram.positive.is_empty()) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
}

/// The fraction of observations between two values, and whether there are NaNs, which are between
/// none.
pub(crate) fn fraction(histogram: &FloatHistogram, lower: f64, upper: f64) -> (f64, bool) {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, false);
    }
    if lower >= upper {
        return (0.0, false);
    }
    let mut rank = 0.0;
    let (mut lower_rank, mut upper_rank) = (None, None);
    for mut bucket in histogram.all() {
        let linear = histogram.uses_custom_bounds() || includes_zero(&bucket);
        if includes_zero(&bucket) {
            halve_zero_bucket(histogram, &mut bucket);
        }
        for (bound, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if found.is_some() {
                continue;
            }
            if bucket.lower >= bound {
                *found = Some(rank);
            } else if bucket.upper > bound {
                *found = Some(rank_of(&bucket, bound, rank, linear));
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank += bucket.count;
    }
    let mut counted = histogram.count;
    if histogram.sum.is_nan() {
        counted = histogram.all().map(|bucket| bucket.count).sum();
    }
    let rank = |found: Option<f64>| found.map_or(counted, |rank| rank.min(counted));
    let has_nans = histogram.sum.is_nan() && counted < histogram.count;
    ((rank(upper_rank) - rank(lower_rank)) / histogram.count, has_nans)
}

/// The mean of the squared distances from the mean, each bucket's observations in its middle.
pub(crate) fn variance(histogram: &FloatHistogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let (mut sum, mut compensation) = (0.0, 0.0);
    for bucket in histogram.all().filter(|bucket| bucket.count != 0.0) {
        let middle = if histogram.uses_custom_bounds() {
            (bucket.upper + bucket.lower) / 2.0
        } else if includes_zero(&bucket) {
            0.0
        } else {
            (bucket.upper * bucket.lower).sqrt().copysign(bucket.upper)
        };
        let distance = middle - mean;
        let squares = bucket.count * distance * distance;
        (sum, compensation) = kahan_add(squares, sum, compensation);
    }
    (sum + compensation) / histogram.count
}

/// How many observations there are up to `bound`, which lies in this bucket, with `rank` of them
/// before it.
fn rank_of(bucket: &Bucket, bound: f64, rank: f64, linear: bool) -> f64 {
    if linear {
        // A bucket from -∞ on has them all at its end.
        if bucket.lower == f64::NEG_INFINITY {
            return bucket.count;
        }
        return rank + bucket.count * (bound - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (lower, upper) = logarithms(bucket);
    let bound_log = bound.abs().log2();
    let fraction = match bound > 0.0 {
        true => (bound_log - lower) / (upper - lower),
        false => 1.0 - (bound_log - upper) / (lower - upper),
    };
    rank + bucket.count * fraction
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};
    use super::*;

    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-9, "{actual} instead of {expected}");
    }

    #[test]
    fn exponential_buckets_are_filled_as_finer_ones_would_be() {
        let histogram = exponential(0, (0.001, 0.0), (1, &[10.0, 10.0]), (0, &[]));
        near(quantile(&histogram, 0.25).0, std::f64::consts::SQRT_2);
        near(quantile(&histogram, 0.75).0, 2.0 * std::f64::consts::SQRT_2);
        near(fraction(&histogram, 1.0, std::f64::consts::SQRT_2).0, 0.25);
        let negative = exponential(0, (0.001, 0.0), (0, &[]), (1, &[10.0]));
        near(quantile(&negative, 0.5).0, -std::f64::consts::SQRT_2);
    }

    #[test]
    fn the_zero_bucket_has_the_sign_of_the_others() {
        let positive = exponential(0, (0.5, 10.0), (1, &[10.0]), (0, &[]));
        near(quantile(&positive, 0.25).0, 0.25);
        let negative = exponential(0, (0.5, 10.0), (0, &[]), (1, &[10.0]));
        near(quantile(&negative, 0.75).0, -0.25);
        let both = exponential(0, (0.5, 8.0), (1, &[1.0]), (1, &[1.0]));
        near(quantile(&both, 0.5).0, 0.0);
    }

    #[test]
    fn custom_buckets_end_at_their_finite_bounds() {
        let histogram = custom(&[5.0, 10.0], &[2.0, 6.0, 2.0]);
        near(quantile(&histogram, 0.1).0, 2.5);
        near(quantile(&histogram, 0.5).0, 7.5);
        near(quantile(&histogram, 1.0).0, 10.0);
        near(quantile(&custom(&[-5.0, 5.0], &[4.0, 4.0]), 0.1).0, -5.0);
        near(fraction(&histogram, 0.0, 7.5).0, 0.5);
        // There is no line to take a part of.
        near(fraction(&histogram, 20.0, f64::INFINITY).0, 0.2);
    }

    #[test]
    fn nans_are_the_greatest_observations() {
        let mut histogram = exponential(0, (0.001, 0.0), (1, &[10.0]), (0, &[]));
        histogram.count = 20.0;
        histogram.sum = f64::NAN;
        assert_eq!(quantile(&histogram, 0.6).1, Some(NanEffect::IsNan));
        let (median, effect) = quantile(&histogram, 0.25);
        near(median, std::f64::consts::SQRT_2);
        assert_eq!(effect, Some(NanEffect::Skewed));
        assert_eq!(fraction(&histogram, 0.0, f64::INFINITY), (0.5, true));
    }

    #[test]
    fn edges_are_those_of_the_classic_quantile() {
        let histogram = custom(&[1.0], &[0.0, 0.0]);
        assert!(quantile(&histogram, 0.5).0.is_nan());
        let one = custom(&[1.0], &[1.0, 0.0]);
        assert_eq!(quantile(&one, -1.0).0, f64::NEG_INFINITY);
        assert_eq!(quantile(&one, 2.0).0, f64::INFINITY);
        assert_eq!(fraction(&one, 1.0, 1.0), (0.0, false));
    }

    #[test]
    fn the_variance_takes_buckets_at_their_middle() {
        let mut histogram = custom(&[1.0, 3.0], &[0.0, 4.0, 0.0]);
        histogram.sum = 4.0;
        near(variance(&histogram), 1.0);
        let mut exponential = exponential(0, (0.1, 1.0), (2, &[1.0]), (2, &[1.0]));
        exponential.sum = 0.0;
        near(variance(&exponential), 16.0 / 3.0);
    }
}
