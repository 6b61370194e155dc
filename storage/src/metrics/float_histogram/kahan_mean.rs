//! Means of many histograms: a compensated sum, divided at the end.
//!
//! Where the sum would overflow, what there is becomes a mean that each further histogram moves.

use super::{Combined, FloatHistogram, IncompatibleSchemas, KahanSum};

#[derive(Clone, Debug)]
pub struct KahanMean {
    sum: KahanSum,
    count: f64,
    /// `sum` is a mean already.
    incremental: bool,
}

/// Some thousands of buckets below this cannot overflow together.
const FAR_FROM_OVERFLOW: f64 = 1e300;

impl KahanMean {
    pub fn new(first: &FloatHistogram) -> KahanMean {
        KahanMean { sum: KahanSum::new(first), count: 1.0, incremental: false }
    }

    pub fn add(&mut self, other: &FloatHistogram) -> Result<Combined, IncompatibleSchemas> {
        self.count += 1.0;
        if !self.incremental {
            if is_small(self.sum.sum()) && is_small(other) {
                return self.sum.add(other);
            }
            let mut sum = self.sum.clone();
            let combined = sum.add(other)?;
            if !sum.sum().has_overflow() {
                self.sum = sum;
                return Ok(combined);
            }
            self.incremental = true;
            self.sum.divide(self.count - 1.0);
        }
        self.sum.scale((self.count - 1.0) / self.count);
        let mut share = other.clone();
        share.divide(self.count);
        self.sum.add(&share)
    }

    pub fn finish(mut self) -> FloatHistogram {
        if !self.incremental {
            self.sum.divide(self.count);
        }
        self.sum.finish()
    }
}

fn is_small(histogram: &FloatHistogram) -> bool {
    histogram.numbers().all(|number| number.abs() < FAR_FROM_OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::super::tests::exponential;
    use super::*;

    fn mean(counts: &[f64]) -> FloatHistogram {
        let one = |count: f64| exponential(0, (0.01, count), (0, &[count]), (0, &[count]));
        let mut mean = KahanMean::new(&one(counts[0]));
        for count in &counts[1..] {
            mean.add(&one(*count)).unwrap();
        }
        mean.finish()
    }

    #[test]
    fn means_are_sums_divided() {
        let mean = mean(&[1.0, 2.0, 6.0]);
        assert_eq!((mean.count, mean.zero_count), (9.0, 3.0));
        assert_eq!(mean.positive.counts(), [3.0]);
    }

    #[test]
    fn a_mean_does_not_overflow_where_the_sum_would() {
        let mean = mean(&[5e307, 5e307, 5e307, 5e307, 5e307]);
        let zero_count = mean.zero_count;
        assert!((zero_count / 5e307 - 1.0).abs() < 1e-12, "{zero_count}");
        assert!(mean.positive.counts()[0].is_finite());
    }
}
