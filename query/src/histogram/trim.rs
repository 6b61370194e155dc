//! The trim operators: `h </ x` keeps the observations up to `x`, `h >/ x` those from `x` on.
//!
//! A bucket that `x` divides keeps the part that interpolation gives it, as for quantiles: linearly
//! in custom buckets and in the zero bucket, exponentially elsewhere. Where anything was cut off,
//! the sum is estimated anew from the middle of what is left of each bucket.

use super::{Bucket, FloatHistogram};

/// Which observations are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `</`
    UpTo,
    /// `>/`
    From,
}

/// What is left of a bucket: how many observations, and their estimated mean.
#[derive(Clone, Copy, Debug)]
struct Kept {
    count: f64,
    mean: f64,
}

/// How observations are spread within a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    Linear,
    Positive,
    Negative,
}

/// What a trim operator keeps.
pub fn trim(histogram: &FloatHistogram, side: Side, at: f64) -> FloatHistogram {
    let mut trimmed = histogram.clone();
    let (mut count, mut sum, mut cut) = (0.0, 0.0, false);
    let mut keep = |before: f64, kept: Kept| {
        count += kept.count;
        sum += kept.count * kept.mean;
        cut |= kept.count != before;
    };
    let linear = histogram.uses_custom_bounds();
    let spread = if linear { Spread::Linear } else { Spread::Positive };
    let sides = [
        (trimmed.positive.counts_mut(), histogram.positive().collect::<Vec<_>>(), spread),
        (trimmed.negative.counts_mut(), histogram.negative().collect(), Spread::Negative),
    ];
    for (counts, buckets, spread) in sides {
        for (left, bucket) in counts.iter_mut().zip(buckets).filter(|(left, _)| **left != 0.0) {
            let kept = trimmed_bucket(&bucket, side, at, spread);
            *left = kept.count;
            keep(bucket.count, kept);
        }
    }
    if histogram.zero_count > 0.0 {
        let kept = trimmed_bucket(&zero_bucket_by_signs(histogram), side, at, Spread::Linear);
        trimmed.zero_count = kept.count;
        keep(histogram.zero_count, kept);
    }
    if cut {
        (trimmed.count, trimmed.sum) = (count, sum);
        trimmed.compact();
    }
    trimmed
}

/// The zero bucket, of which half is left if all other observations have one sign.
fn zero_bucket_by_signs(histogram: &FloatHistogram) -> Bucket {
    let populated = |counts: &[f64]| counts.iter().any(|count| *count != 0.0);
    let mut zero = histogram.zero_bucket();
    match (populated(histogram.negative.counts()), populated(histogram.positive.counts())) {
        (false, true) => zero.lower = 0.0,
        (true, false) => zero.upper = 0.0,
        _ => {}
    }
    zero
}

fn trimmed_bucket(bucket: &Bucket, side: Side, at: f64, spread: Spread) -> Kept {
    let Bucket { lower, upper, count, .. } = *bucket;
    let (all, some) = match side {
        Side::UpTo => (upper <= at, lower < at),
        Side::From => (lower >= at, upper > at),
    };
    if all {
        return Kept { count, mean: middle(lower, upper, spread) };
    }
    if !some {
        return Kept { count: 0.0, mean: 0.0 };
    }
    if lower.is_infinite() || upper.is_infinite() {
        return trimmed_without_end(bucket, side, at);
    }
    let below = match spread {
        Spread::Linear => (at - lower) / (upper - lower),
        _ => {
            let [lower, upper, at] = [lower, upper, at].map(|bound| bound.abs().log2());
            match spread {
                Spread::Positive => (at - lower) / (upper - lower),
                _ => 1.0 - (at - upper) / (lower - upper),
            }
        }
    };
    match side {
        Side::UpTo => Kept { count: count * below, mean: middle(lower, at, spread) },
        Side::From => Kept { count: count - count * below, mean: middle(at, upper, spread) },
    }
}

/// What is left of a bucket without a lower or an upper end, in which `at` lies.
///
/// Where such a bucket has observations is unknown. One from -∞ to a positive bound is taken to
/// begin at 0, as quantiles take it; else all or nothing is kept, as `histogram_fraction` counts.
fn trimmed_without_end(bucket: &Bucket, side: Side, at: f64) -> Kept {
    let Bucket { lower, upper, count, .. } = *bucket;
    let nothing = Kept { count: 0.0, mean: 0.0 };
    if lower == f64::NEG_INFINITY {
        let ends_positive = upper > 0.0 && upper.is_finite();
        return match side {
            Side::UpTo if ends_positive && at > 0.0 => {
                Kept { count: count * at / upper, mean: at / 2.0 }
            }
            Side::UpTo if upper <= 0.0 => Kept { count, mean: at },
            Side::From if ends_positive && at >= 0.0 => {
                Kept { count: count * (1.0 - at / upper), mean: (at + upper) / 2.0 }
            }
            _ => nothing,
        };
    }
    match side {
        Side::UpTo => nothing,
        Side::From => Kept { count, mean: at },
    }
}

/// The mean of observations that fill a bucket. Infinite bounds say nothing, so that the other one
/// has to do.
fn middle(lower: f64, upper: f64, spread: Spread) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) => match spread {
            Spread::Linear => (lower + upper) / 2.0,
            Spread::Positive => (lower * upper).abs().sqrt(),
            Spread::Negative => -(lower * upper).abs().sqrt(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};
    use super::*;

    #[test]
    fn what_is_not_cut_stays_as_it_is() {
        let histogram = exponential(0, (0.01, 1.0), (0, &[2.0, 0.0]), (0, &[4.0]));
        assert_eq!(trim(&histogram, Side::UpTo, f64::INFINITY), histogram);
        assert_eq!(trim(&histogram, Side::From, -2.0), histogram);
    }

    #[test]
    fn a_bucket_is_divided_where_a_finer_one_would_begin() {
        let histogram = exponential(0, (0.0, 0.0), (0, &[2.0, 4.0]), (0, &[8.0]));
        let low = trim(&histogram, Side::UpTo, std::f64::consts::SQRT_2);
        assert!((low.count - 12.0).abs() < 1e-9);
        // √(0.5 · 1) · 2 + √(1 · √2) · 2 - √(0.5 · 1) · 8
        let expected = 0.5f64.sqrt() * -6.0 + 2.0 * 2f64.powf(0.25);
        assert!((low.sum - expected).abs() < 1e-9, "{}", low.sum);
        let high = trim(&histogram, Side::From, -std::f64::consts::FRAC_1_SQRT_2);
        assert!((high.negative.counts()[0] - 4.0).abs() < 1e-9);
    }

    #[test]
    fn custom_buckets_without_an_end_are_kept_or_not() {
        let histogram = custom(&[-5.0, 5.0], &[1.0, 10.0, 100.0]);
        let kept = |side, at| {
            let trimmed = trim(&histogram, side, at);
            (trimmed.count, trimmed.sum)
        };
        assert_eq!(kept(Side::UpTo, -7.0), (1.0, -7.0));
        assert_eq!(kept(Side::UpTo, 0.0), (6.0, -5.0 - 12.5));
        assert_eq!(kept(Side::UpTo, 7.0), (11.0, -5.0));
        assert_eq!(kept(Side::From, 7.0), (100.0, 700.0));
        assert_eq!(kept(Side::From, -7.0), (110.0, 500.0));
        let positive = custom(&[5.0], &[10.0, 100.0]);
        assert_eq!(trim(&positive, Side::UpTo, 2.0).count, 4.0);
        assert_eq!(trim(&positive, Side::From, 2.0).count, 106.0);
    }
}
