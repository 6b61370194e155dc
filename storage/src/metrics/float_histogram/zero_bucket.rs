//! The zero bucket: two histograms are combined with a threshold that both can have.
//!
//! A threshold can be raised where no populated bucket is cut in two by it; inside of such a bucket
//! it is raised further, to the bucket's end. Buckets below it are counted as zeros.

use super::FloatHistogram;
use super::buckets::Buckets;
use super::kahan_sum::Lost;
use crate::metrics::kahan::kahan_add;

/// A zero bucket as it would be with another threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ZeroBucket {
    pub(super) threshold: f64,
    pub(super) count: f64,
    /// What `count` lost by rounding.
    pub(super) lost: f64,
    /// How many of the first positive and negative buckets are part of it.
    positive: usize,
    negative: usize,
}

impl FloatHistogram {
    /// The zero bucket with the least possible threshold from `threshold` on, which is not below the
    /// current one.
    pub(super) fn zero_bucket_at(&self, threshold: f64, lost: Option<&Lost>) -> ZeroBucket {
        let lost_zeros = lost.map_or(0.0, |lost| lost.zero_count);
        let mut threshold = threshold;
        if threshold == self.zero_threshold {
            let count = self.zero_count;
            return ZeroBucket { threshold, count, lost: lost_zeros, positive: 0, negative: 0 };
        }
        assert!(threshold > self.zero_threshold, "a zero bucket only grows");
        loop {
            let (positive, end) =
                inside(&self.positive, |index| self.schema.bound(index), threshold);
            threshold = end;
            let (negative, end) =
                inside(&self.negative, |index| self.schema.bound(index), threshold);
            if end == threshold {
                let (count, lost) = [
                    (&self.positive, positive, lost.map(|lost| &lost.positive)),
                    (&self.negative, negative, lost.map(|lost| &lost.negative)),
                ]
                .into_iter()
                .fold(
                    (self.zero_count, lost_zeros),
                    |(count, c), (buckets, inside, lost)| {
                        let lost = lost.map_or(&[][..], |lost| &lost[..inside]);
                        let added = buckets.counts()[..inside].iter().chain(lost);
                        added.fold((count, c), |(count, c), more| kahan_add(*more, count, c))
                    },
                );
                return ZeroBucket { threshold, count, lost, positive, negative };
            }
            // A negative bucket moved it, so that positive ones may be cut now.
            threshold = end;
        }
    }

    /// Replaces the zero bucket by a larger one.
    pub(super) fn take_zero_bucket(&mut self, zero: ZeroBucket, lost: Option<&mut Lost>) {
        self.zero_threshold = zero.threshold;
        self.zero_count = zero.count;
        self.positive.remove_first(zero.positive);
        self.negative.remove_first(zero.negative);
        if let Some(lost) = lost {
            lost.zero_count = zero.lost;
            lost.positive.drain(..zero.positive);
            lost.negative.drain(..zero.negative);
        }
    }

    /// Raises the own threshold until both histograms can have it. Returns the zero bucket that the
    /// other would have then.
    pub(super) fn reconcile_zero_bucket(&mut self, other: &FloatHistogram) -> ZeroBucket {
        self.reconcile_zero_bucket_with(other, &mut None)
    }

    pub(super) fn reconcile_zero_bucket_with(
        &mut self,
        other: &FloatHistogram,
        lost: &mut Option<&mut Lost>,
    ) -> ZeroBucket {
        let mut theirs = other.zero_bucket_at(other.zero_threshold, None);
        while theirs.threshold != self.zero_threshold {
            if self.zero_threshold > theirs.threshold {
                theirs = other.zero_bucket_at(self.zero_threshold, None);
            }
            if theirs.threshold > self.zero_threshold {
                let mine = self.zero_bucket_at(theirs.threshold, lost.as_deref());
                self.take_zero_bucket(mine, lost.as_deref_mut());
            }
        }
        theirs
    }

    #[cfg(test)]
    pub(super) fn widen_zero_bucket(&mut self, threshold: f64) {
        let zero = self.zero_bucket_at(threshold, None);
        self.take_zero_bucket(zero, None);
    }
}

/// How many of the first buckets begin below `threshold`, and where the last of them ends if it is
/// populated and reaches beyond.
fn inside(buckets: &Buckets, bound: impl Fn(i32) -> f64, threshold: f64) -> (usize, f64) {
    let mut inside = 0;
    for (index, count) in buckets.iter() {
        if bound(index.wrapping_sub(1)) >= threshold {
            break;
        }
        inside += 1;
        let upper = bound(index);
        if upper > threshold {
            return (inside, if count == 0.0 { threshold } else { upper });
        }
    }
    (inside, threshold)
}

#[cfg(test)]
mod tests {
    use super::super::tests::exponential;
    use super::*;

    #[test]
    fn a_threshold_on_a_bound_takes_the_buckets_below() {
        let mut histogram = exponential(0, (0.0, 1.0), (-1, &[2.0, 4.0, 8.0]), (0, &[16.0, 32.0]));
        histogram.widen_zero_bucket(1.0);
        assert_eq!((histogram.zero_threshold, histogram.zero_count), (1.0, 23.0));
        assert_eq!(histogram.positive, Buckets::run(1, &[8.0]));
        assert_eq!(histogram.negative, Buckets::run(1, &[32.0]));
    }

    #[test]
    fn a_threshold_inside_of_a_populated_bucket_moves_to_its_end() {
        let mut histogram = exponential(0, (0.0, 1.0), (0, &[2.0, 4.0]), (1, &[8.0]));
        histogram.widen_zero_bucket(0.7);
        assert_eq!((histogram.zero_threshold, histogram.zero_count), (1.0, 3.0));
        // The negative bucket moves it on, which takes the next positive one.
        let mut other = exponential(0, (0.0, 1.0), (0, &[2.0, 4.0]), (1, &[8.0]));
        other.widen_zero_bucket(1.1);
        assert_eq!((other.zero_threshold, other.zero_count), (2.0, 15.0));
        assert!(other.positive.is_empty() && other.negative.is_empty());
    }

    #[test]
    fn an_empty_bucket_does_not_move_a_threshold() {
        let mut histogram = exponential(0, (0.0, 0.0), (0, &[0.0, 4.0]), (0, &[]));
        histogram.widen_zero_bucket(0.7);
        assert_eq!((histogram.zero_threshold, histogram.zero_count), (0.7, 0.0));
        assert_eq!(histogram.positive, Buckets::run(1, &[4.0]));
    }

    #[test]
    fn both_thresholds_rise_until_they_meet() {
        let mut mine = exponential(0, (0.7, 1.0), (1, &[2.0]), (0, &[]));
        let theirs = exponential(0, (0.2, 4.0), (0, &[8.0, 16.0]), (0, &[]));
        // 0.7 cuts their first bucket, so that it becomes 1, which cuts none of ours.
        let zero = mine.reconcile_zero_bucket(&theirs);
        assert_eq!((mine.zero_threshold, mine.zero_count), (1.0, 1.0));
        assert_eq!((zero.threshold, zero.count), (1.0, 12.0));
    }
}
