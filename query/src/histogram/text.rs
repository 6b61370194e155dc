//! Histograms as text: `{count:4, sum:7.5, [-0.001,0.001]:1, (0.5,1]:3}`, which is what
//! `count_values` groups by.

use std::fmt;

use super::{Bucket, FloatHistogram};
use crate::go_format::float_general;

impl fmt::Display for FloatHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", float_general(self.count), float_general(self.sum))?;
        let mut negative: Vec<Bucket> = self.negative().collect();
        negative.reverse();
        let zero = (!self.uses_custom_bounds()).then(|| self.zero_bucket());
        let buckets = negative.into_iter().chain(zero).chain(self.positive());
        for bucket in buckets.filter(|bucket| bucket.count != 0.0) {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_included { '[' } else { '(' };
        let close = if self.upper_included { ']' } else { ')' };
        let [lower, upper, count] = [self.lower, self.upper, self.count].map(float_general);
        write!(f, "{open}{lower},{upper}{close}:{count}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};

    #[test]
    fn populated_buckets_are_listed_ascending() {
        let histogram = exponential(0, (0.001, 2.5), (0, &[1.0, 0.0, 2.0]), (0, &[1.0, 4.0]));
        let text = "{count:10.5, sum:15.75, [-2,-1):4, [-1,-0.5):1, [-0.001,0.001]:2.5, (0.5,1]:1, (2,4]:2}";
        assert_eq!(histogram.to_string(), text);
        let text = custom(&[5.0], &[1.0, 2e7]).to_string();
        assert_eq!(text, "{count:2.0000001e+07, sum:4.0000002e+07, [-Inf,5]:1, (5,+Inf]:2e+07}");
    }
}
