//! Buckets with their bounds, in the orders in which functions need them.

use super::bounds::exponential_bound;
use super::{FloatHistogram, Schema};

/// One bucket: how many observations lie between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub lower_included: bool,
    pub upper_included: bool,
    pub count: f64,
}

impl Schema {
    /// The upper bound of the positive bucket of that index.
    pub(super) fn bound(&self, index: i32) -> f64 {
        match self {
            Schema::Exponential(schema) => exponential_bound(*schema, index),
            Schema::Custom(bounds) => match usize::try_from(index) {
                Err(_) => f64::NEG_INFINITY,
                Ok(index) => bounds.get(index).copied().unwrap_or(f64::INFINITY),
            },
        }
    }
}

impl FloatHistogram {
    fn positive_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let (lower, upper) = (self.schema.bound(index.wrapping_sub(1)), self.schema.bound(index));
        let (lower_included, upper_included) = match self.schema {
            Schema::Custom(_) => (index == 0, true),
            Schema::Exponential(_) => (lower < 0.0, upper > 0.0),
        };
        Bucket { lower, upper, lower_included, upper_included, count }
    }

    fn negative_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        let (lower, upper) = (-self.schema.bound(index), -self.schema.bound(index.wrapping_sub(1)));
        Bucket { lower, upper, lower_included: lower < 0.0, upper_included: upper > 0.0, count }
    }

    /// Positive buckets, ascending; custom buckets are positive ones whatever their bounds.
    pub fn positive(&self) -> impl Iterator<Item = Bucket> {
        self.positive.iter().map(|bucket| self.positive_bucket(bucket))
    }

    /// Negative buckets, from zero downwards.
    pub fn negative(&self) -> impl Iterator<Item = Bucket> {
        self.negative.iter().map(|bucket| self.negative_bucket(bucket))
    }

    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_included: true,
            upper_included: true,
            count: self.zero_count,
        }
    }

    fn populated_zero_bucket(&self) -> Option<Bucket> {
        (self.zero_count > 0.0).then(|| self.zero_bucket())
    }

    /// A bucket that reaches into the zero bucket ends where that begins.
    fn outside_zero_bucket(&self, mut bucket: Bucket) -> Bucket {
        if bucket.upper < 0.0 && bucket.upper > -self.zero_threshold {
            bucket.upper = -self.zero_threshold;
        } else if bucket.lower > 0.0 && bucket.lower < self.zero_threshold {
            bucket.lower = self.zero_threshold;
        }
        bucket
    }

    /// All buckets, ascending; the zero bucket if it has observations.
    pub fn all(&self) -> impl Iterator<Item = Bucket> {
        let negative = self.negative.iter_reversed().map(|bucket| self.negative_bucket(bucket));
        let buckets = negative.chain(self.populated_zero_bucket()).chain(self.positive());
        buckets.map(|bucket| self.outside_zero_bucket(bucket))
    }

    /// [`Self::all`], descending.
    pub fn all_reversed(&self) -> impl Iterator<Item = Bucket> {
        let positive = self.positive.iter_reversed().map(|bucket| self.positive_bucket(bucket));
        let buckets = positive.chain(self.populated_zero_bucket()).chain(self.negative());
        buckets.map(|bucket| self.outside_zero_bucket(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};

    #[test]
    fn all_buckets_ascend_around_the_zero_bucket() {
        let histogram = exponential(0, (0.75, 2.0), (0, &[1.0, 4.0]), (0, &[8.0, 16.0]));
        let bounds: Vec<_> =
            histogram.all().map(|bucket| (bucket.lower, bucket.upper, bucket.count)).collect();
        let expected = [
            (-2.0, -1.0, 16.0),
            (-1.0, -0.75, 8.0),
            (-0.75, 0.75, 2.0),
            (0.75, 1.0, 1.0),
            (1.0, 2.0, 4.0),
        ];
        assert_eq!(bounds, expected);
        let mut reversed: Vec<_> = histogram.all_reversed().collect();
        reversed.reverse();
        assert_eq!(reversed, histogram.all().collect::<Vec<_>>());
    }

    #[test]
    fn exponential_buckets_include_the_bound_that_is_farther_from_zero() {
        let histogram = exponential(0, (0.0, 0.0), (0, &[1.0]), (0, &[1.0]));
        let ends: Vec<_> =
            histogram.all().map(|bucket| (bucket.lower_included, bucket.upper_included)).collect();
        assert_eq!(ends, [(true, false), (false, true)]);
    }

    #[test]
    fn custom_buckets_reach_to_both_infinities() {
        let buckets: Vec<_> = custom(&[-1.0, 2.0], &[1.0, 2.0, 3.0]).all().collect();
        assert_eq!((buckets[0].lower, buckets[0].upper), (f64::NEG_INFINITY, -1.0));
        assert!(buckets[0].lower_included && !buckets[1].lower_included);
        assert_eq!((buckets[2].lower, buckets[2].upper), (2.0, f64::INFINITY));
        assert!(buckets.iter().all(|bucket| bucket.upper_included));
    }
}
