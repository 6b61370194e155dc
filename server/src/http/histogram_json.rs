//! Native histograms in answers: `{"count":"…","sum":"…","buckets":[[rule,"lo","hi","n"],…]}`.
//!
//! `rule` says which ends a bucket includes: 0 `(lo,hi]`, 1 `[lo,hi)`, 2 neither, 3 both. Buckets
//! are listed from the least to the greatest, empty ones left out; without any there is no
//! `buckets`. As Prometheus's `jsonutil.MarshalHistogram`.

use icecore_query::histogram::{Bucket, FloatHistogram};

use crate::http::json;

pub(crate) fn push_histogram(out: &mut Vec<u8>, histogram: &FloatHistogram) {
    out.extend_from_slice(br#"{"count":"#);
    json::push_float(out, histogram.count);
    out.extend_from_slice(br#","sum":"#);
    json::push_float(out, histogram.sum);
    let mut shown = histogram.all().filter(|bucket| bucket.count != 0.0).peekable();
    if shown.peek().is_some() {
        out.extend_from_slice(br#","buckets":"#);
        json::push_list(out, shown, push_bucket);
    }
    out.push(b'}');
}

fn push_bucket(out: &mut Vec<u8>, bucket: Bucket) {
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

#[cfg(test)]
mod tests {
    use icecore_query::histogram::{Buckets, Schema};

    use super::*;

    fn check(histogram: &FloatHistogram, expected: &str) {
        let mut out = Vec::new();
        push_histogram(&mut out, histogram);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    fn exponential() -> FloatHistogram {
        let mut positive = Buckets::run(0, &[1.0, 2.0, 0.0]);
        positive.push(4, 1.0);
        FloatHistogram {
            zero_threshold: 0.001,
            zero_count: 2.0,
            count: 10.0,
            sum: 18.4,
            positive,
            negative: Buckets::run(0, &[1.0, 3.0]),
            ..FloatHistogram::empty(Schema::Exponential(0))
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
        let mut empty = FloatHistogram::empty(Schema::Exponential(0));
        empty.positive = Buckets::run(0, &[0.0; 4]);
        empty.sum = f64::NAN;
        check(&empty, r#"{"count":"0","sum":"NaN"}"#);
    }

    #[test]
    fn custom_bounds_are_open_below_and_above() {
        let mut custom = FloatHistogram::empty(Schema::Custom([0.5, 1.0].into()));
        custom.positive = Buckets::run(0, &[1.0, 2.0, 0.5]);
        (custom.count, custom.sum) = (3.5, 18.4);
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
}
