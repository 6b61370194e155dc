//! Native histograms in answers: `{"count":"…","sum":"…","buckets":[[rule,"lo","hi","n"],…]}`.
//!
//! `rule` says which ends a bucket includes: 0 `(lo,hi]`, 1 `[lo,hi)`, 2 neither, 3 both. Buckets
//! are listed from the least to the greatest, empty ones left out; without any there is no
//! `buckets`. As Prometheus's `jsonutil.MarshalHistogram`.

use icecore_storage::metrics::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, Span};

use crate::http::json;

/// One bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    lower: f64,
    upper: f64,
    lower_included: bool,
    upper_included: bool,
    count: f64,
}

pub(crate) fn push_histogram(out: &mut Vec<u8>, histogram: &Histogram) {
    let (count, zero_count, positive, negative) = match &histogram.counts {
        Counts::Integer { count, zero_count, positive, negative } => {
            let floats = |counts: &[u64]| counts.iter().map(|count| *count as f64).collect();
            (*count as f64, *zero_count as f64, floats(positive), floats(negative))
        }
        Counts::Float { count, zero_count, positive, negative } => {
            (*count, *zero_count, positive.clone(), negative.clone())
        }
    };
    out.extend_from_slice(br#"{"count":"#);
    json::push_float(out, count);
    out.extend_from_slice(br#","sum":"#);
    json::push_float(out, histogram.sum);
    let buckets = buckets(histogram, zero_count, &positive, &negative);
    let shown: Vec<&Bucket> = buckets.iter().filter(|bucket| bucket.count != 0.0).collect();
    if !shown.is_empty() {
        out.extend_from_slice(br#","buckets":"#);
        json::push_list(out, shown, push_bucket);
    }
    out.push(b'}');
}

fn push_bucket(out: &mut Vec<u8>, bucket: &Bucket) {
    let rule = match (bucket.lower_included, bucket.upper_included) {
        (false, true) => b'0',
        (true, false) => b'1',
        (false, false) => b'2',
        (true, true) => b'3',
    };
    out.extend([b'[', rule]);
    for value in [bucket.lower, bucket.upper, bucket.count] {
        out.push(b',');
        json::push_float(out, value);
    }
    out.push(b']');
}

fn buckets(
    histogram: &Histogram,
    zero_count: f64,
    positive: &[f64],
    negative: &[f64],
) -> Vec<Bucket> {
    let zero = histogram.zero_threshold;
    let mut buckets = Vec::with_capacity(positive.len() + negative.len() + 1);
    for (index, &count) in indices(&histogram.negative_spans).zip(negative) {
        let (lower, upper) = (-bound(histogram, index), -bound(histogram, index - 1));
        // A bucket that reaches into the zero bucket ends where that begins.
        let upper = if upper < 0.0 && upper > -zero { -zero } else { upper };
        buckets.push(Bucket { lower, upper, lower_included: true, upper_included: false, count });
    }
    buckets.reverse();
    if zero_count > 0.0 {
        let (lower, upper) = (-zero, zero);
        let count = zero_count;
        buckets.push(Bucket { lower, upper, lower_included: true, upper_included: true, count });
    }
    let custom = histogram.schema == CUSTOM_BUCKETS_SCHEMA;
    for (index, &count) in indices(&histogram.positive_spans).zip(positive) {
        let (lower, upper) = (bound(histogram, index - 1), bound(histogram, index));
        let lower = if lower > 0.0 && lower < zero { zero } else { lower };
        // Only the first custom bucket may begin below zero, with an end of its own.
        let lower_included = if custom { index == 0 } else { lower < 0.0 };
        let upper_included = custom || upper > 0.0;
        buckets.push(Bucket { lower, upper, lower_included, upper_included, count });
    }
    buckets
}

/// Bucket indices that spans list.
fn indices(spans: &[Span]) -> impl Iterator<Item = i32> {
    let mut next: i32 = 0;
    spans.iter().flat_map(move |span| {
        let start = next.saturating_add(span.offset);
        next = start.saturating_add(i32::try_from(span.length).unwrap_or(i32::MAX));
        start..next
    })
}

/// The upper bound of a positive bucket.
fn bound(histogram: &Histogram, index: i32) -> f64 {
    if histogram.schema == CUSTOM_BUCKETS_SCHEMA {
        return match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(index) => histogram.custom_values.get(index).copied().unwrap_or(f64::INFINITY),
        };
    }
    exponential_bound(histogram.schema, index)
}

/// `2^(1/2)`, `2^(1/4)`, … `2^(1/256)`, all but the first rounded to nearest.
const ROOTS_OF_2: [f64; 8] = [
    std::f64::consts::SQRT_2.next_down(),
    1.189207115002721,
    1.0905077326652577,
    1.0442737824274138,
    1.0218971486541166,
    1.0108892860517005,
    1.0054299011128027,
    1.0027112750502025,
];

/// `2^(index / 2^schema)`, but the largest finite float for the last bucket before infinity.
///
/// Clients know a bucket by the text of its bounds, so these are Prometheus's to the last bit. Its
/// table is up to four ulp off the true values; it is what comes of multiplying the roots that an
/// index is made of, from the greatest to the least, with a root of 2 that is cut, not rounded.
fn exponential_bound(schema: i32, index: i32) -> f64 {
    // Bounds of greater indices are 0 or infinite anyway.
    let index = i64::from(index).clamp(-(1 << 20), 1 << 20);
    let (fraction, exponent) = match u32::try_from(schema) {
        Err(_) => (0, index << schema.unsigned_abs().min(8)),
        Ok(schema) => (index & ((1 << schema) - 1), index >> schema),
    };
    if fraction == 0 && exponent == 1024 {
        return f64::MAX;
    }
    let bits = (0..schema.max(0)).rev();
    let mantissa = bits.zip(ROOTS_OF_2).fold(1.0, |product, (bit, root)| {
        if fraction >> bit & 1 == 1 { product * root } else { product }
    });
    // In two steps, as 2^1024 and 2^-1074 are beyond one.
    let exponent = exponent.clamp(-2200, 2200) as i32;
    let half = exponent / 2;
    mantissa * 2f64.powi(half) * 2f64.powi(exponent - half)
}

#[cfg(test)]
mod tests {
    use icecore_storage::metrics::histogram::ResetHint;

    use super::*;

    fn check(histogram: &Histogram, expected: &str) {
        assert_eq!(histogram.validate(), Ok(()));
        let mut out = Vec::new();
        push_histogram(&mut out, histogram);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    fn exponential() -> Histogram {
        Histogram {
            schema: 0,
            zero_threshold: 0.001,
            sum: 18.4,
            reset_hint: ResetHint::Unknown,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 2 }],
            negative_spans: vec![Span { offset: 0, length: 2 }],
            counts: Counts::Integer {
                count: 10,
                zero_count: 2,
                positive: vec![1, 2, 0, 1],
                negative: vec![1, 3],
            },
            custom_values: vec![],
        }
    }

    #[test]
    fn buckets_go_from_the_least_to_the_greatest_without_empty_ones() {
        check(
            &exponential(),
            concat!(
                r#"{"count":"10","sum":"18.4","buckets":[[1,"-2","-1","3"],[1,"-1","-0.5","1"],"#,
                r#"[3,"-0.001","0.001","2"],[0,"0.5","1","1"],[0,"1","2","2"],[0,"8","16","1"]]}"#
            ),
        );
    }

    #[test]
    fn a_histogram_without_observations_has_no_buckets() {
        let mut empty = exponential();
        empty.counts = Counts::Float {
            count: 0.0,
            zero_count: 0.0,
            positive: vec![0.0; 4],
            negative: vec![0.0; 2],
        };
        empty.sum = f64::NAN;
        check(&empty, r#"{"count":"0","sum":"NaN"}"#);
    }

    #[test]
    fn custom_bounds_are_open_below_and_above() {
        let mut custom = exponential();
        custom.schema = CUSTOM_BUCKETS_SCHEMA;
        custom.zero_threshold = 0.0;
        custom.custom_values = vec![0.5, 1.0];
        custom.positive_spans = vec![Span { offset: 0, length: 3 }];
        custom.negative_spans = vec![];
        custom.counts = Counts::Float {
            count: 3.5,
            zero_count: 0.0,
            positive: vec![1.0, 2.0, 0.5],
            negative: vec![],
        };
        check(
            &custom,
            r#"{"count":"3.5","sum":"18.4","buckets":[[3,"-Inf","0.5","1"],[0,"0.5","1","2"],[0,"1","+Inf","0.5"]]}"#,
        );
    }

    #[test]
    fn buckets_end_where_the_zero_bucket_begins() {
        let mut wide = exponential();
        wide.zero_threshold = 0.75;
        check(
            &wide,
            concat!(
                r#"{"count":"10","sum":"18.4","buckets":[[1,"-2","-1","3"],[1,"-1","-0.75","1"],"#,
                r#"[3,"-0.75","0.75","2"],[0,"0.75","1","1"],[0,"1","2","2"],[0,"8","16","1"]]}"#
            ),
        );
    }

    #[test]
    fn the_last_bucket_before_infinity_has_a_finite_bound() {
        for schema in -4..=8 {
            let last = if schema >= 0 { 1024 << schema } else { 1024 >> -schema };
            assert_eq!(exponential_bound(schema, last), f64::MAX);
            assert_eq!(exponential_bound(schema, last + 1), f64::INFINITY);
            assert_eq!(exponential_bound(schema, i32::MAX), f64::INFINITY);
            assert_eq!(exponential_bound(schema, i32::MIN), 0.0);
            assert_eq!(exponential_bound(schema, 0), 1.0);
        }
        assert_eq!(exponential_bound(0, -1074), f64::from_bits(1));
    }

    #[test]
    fn bounds_are_prometheus_s_to_the_last_bit() {
        for (schema, index, bound) in [
            (1, 1, std::f64::consts::SQRT_2.next_down()),
            (2, 3, 1.6817928305074288),
            (3, -1, 0.9170040432046711),
            (4, -15, 0.5221368912137069),
            (5, -1, 0.9785720620876999),
            (8, -1, 0.9972960560854698),
            (8, -237, 0.526395386502313),
            (8, -38, 0.9022270839033115),
            (8, 218, 1.804454167806623),
        ] {
            assert_eq!(exponential_bound(schema, index), bound, "{schema} {index}");
        }
        let ascending: Vec<f64> = (-600..600).map(|index| exponential_bound(8, index)).collect();
        assert!(ascending.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
