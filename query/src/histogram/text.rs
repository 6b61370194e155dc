//! Histograms as text: `{count:4, sum:7.5, [-0.001,0.001]:1, (0.5,1]:3}`, which is what
//! `count_values` groups by.

use std::fmt;

use super::{Bucket, FloatHistogram};
use crate::go_format::float_general;

/// Displays a histogram.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a>(pub &'a FloatHistogram);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text(of) = self;
        write!(f, "{{count:{}, sum:{}", float_general(of.count), float_general(of.sum))?;
        let mut negative: Vec<Bucket> = of.negative().collect();
        negative.reverse();
        let zero = (!of.uses_custom_bounds()).then(|| of.zero_bucket());
        let buckets = negative.into_iter().chain(zero).chain(of.positive());
        for bucket in buckets.filter(|bucket| bucket.count != 0.0) {
            write_bucket(&bucket, f)?;
        }
        f.write_str("}")
    }
}

fn write_bucket(bucket: &Bucket, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let open = if bucket.lower_included { '[' } else { '(' };
    let close = if bucket.upper_included { ']' } else { ')' };
    let [lower, upper, count] = [bucket.lower, bucket.upper, bucket.count].map(float_general);
    write!(f, ", {open}{lower},{upper}{close}:{count}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};
    use super::*;

    #[test]
    fn populated_buckets_are_listed_ascending() {
        let histogram = exponential(0, (0.001, 2.5), (0, &[1.0, 0.0, 2.0]), (0, &[1.0, 4.0]));
        let text = "{count:10.5, sum:15.75, [-2,-1):4, [-1,-0.5):1, [-0.001,0.001]:2.5, (0.5,1]:1, (2,4]:2}";
        assert_eq!(Text(&histogram).to_string(), text);
        let text = Text(&custom(&[5.0], &[1.0, 2e7])).to_string();
        assert_eq!(text, "{count:2.0000001e+07, sum:4.0000002e+07, [-Inf,5]:1, (5,+Inf]:2e+07}");
    }
}
