//! Sums, differences and multiples of histograms.

use crate::metrics::histogram::ResetHint;

use super::buckets::{Buckets, Place};
use super::{FloatHistogram, Schema, custom_bounds};

/// Exponential and custom buckets cannot be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncompatibleSchemas;

/// What had to be given up so that two histograms could be combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Combined {
    /// One is known to follow a reset and the other not to; the result's hint is unknown.
    pub resets_collide: bool,
    /// Custom bounds differed, and the result has those that both had.
    pub bounds_reconciled: bool,
}

impl FloatHistogram {
    /// Multiplies all counts and the sum. Negative counts are no counter's.
    pub fn scale(&mut self, factor: f64) {
        self.for_each_number(|number| *number *= factor);
        if factor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
    }

    /// Divides all counts and the sum; a division by zero leaves no buckets.
    pub fn divide(&mut self, divisor: f64) {
        if divisor == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
        self.for_each_number(|number| *number /= divisor);
        if divisor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
    }

    fn for_each_number(&mut self, mut f: impl FnMut(&mut f64)) {
        [&mut self.zero_count, &mut self.count, &mut self.sum].into_iter().for_each(&mut f);
        self.positive.counts_mut().iter_mut().for_each(&mut f);
        self.negative.counts_mut().iter_mut().for_each(&mut f);
    }

    pub fn add(&mut self, other: &FloatHistogram) -> Result<Combined, IncompatibleSchemas> {
        self.combine(other, 1.0)
    }

    /// Adjusts the reset hint like an addition does; of PromQL's `-` the result is a gauge whatever
    /// it says.
    pub fn sub(&mut self, other: &FloatHistogram) -> Result<Combined, IncompatibleSchemas> {
        self.combine(other, -1.0)
    }

    fn combine(
        &mut self,
        other: &FloatHistogram,
        sign: f64,
    ) -> Result<Combined, IncompatibleSchemas> {
        if self.uses_custom_bounds() != other.uses_custom_bounds() {
            return Err(IncompatibleSchemas);
        }
        let resets_collide = self.adjust_reset_hint(other.reset_hint);
        let mut bounds_reconciled = false;
        if let (Schema::Custom(mine), Schema::Custom(theirs)) = (&self.schema, &other.schema) {
            if mine == theirs {
                add_buckets(&mut self.positive, &other.positive, 0, sign);
            } else {
                let shared = custom_bounds::shared(mine, theirs);
                let mut totals = custom_bounds::Totals::new(&shared);
                totals.add(&self.positive, mine, 1.0);
                totals.add(&other.positive, theirs, sign);
                self.positive = totals.buckets();
                self.schema = Schema::Custom(shared);
                bounds_reconciled = true;
            }
        } else {
            self.zero_count += sign * self.reconcile_zero_bucket(other).count;
            let reduced = self.reconcile_resolution(other);
            let other = reduced.as_ref().unwrap_or(other);
            for (mine, theirs) in
                [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)]
            {
                let skipped = self.schema.first_beyond(theirs, self.zero_threshold);
                add_buckets(mine, theirs, skipped, sign);
            }
        }
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        Ok(Combined { resets_collide, bounds_reconciled })
    }

    /// Brings both to the lower resolution of the two: this one in place, the other as a copy if it
    /// has to change.
    fn reconcile_resolution(&mut self, other: &FloatHistogram) -> Option<FloatHistogram> {
        let (&Schema::Exponential(mine), &Schema::Exponential(theirs)) =
            (&self.schema, &other.schema)
        else {
            return None;
        };
        if theirs < mine {
            self.reduce_resolution(theirs);
        }
        (theirs > mine).then(|| other.to_schema(mine))
    }

    /// The hint after something with another hint was added; true if the two contradict each other.
    ///
    /// Sums are of gauges as a rule. With counters among them the hint is kept as meaningful as it
    /// can be: a gauge makes it a gauge, an unknown one unknown.
    pub(super) fn adjust_reset_hint(&mut self, other: ResetHint) -> bool {
        use ResetHint::{Gauge, Unknown};
        let mine = self.reset_hint;
        if mine == other {
            return false;
        }
        self.reset_hint = if mine == Gauge || other == Gauge { Gauge } else { Unknown };
        ![mine, other].iter().any(|hint| [Gauge, Unknown].contains(hint))
    }
}

impl Schema {
    /// How many of the first buckets end within the zero bucket.
    pub(super) fn first_beyond(&self, buckets: &Buckets, zero_threshold: f64) -> usize {
        if self.is_custom() || zero_threshold == 0.0 {
            return 0;
        }
        buckets.indices().take_while(|index| self.bound(*index) <= zero_threshold).count()
    }
}

/// Adds `sign` times the counts of `theirs` but for the first `skipped` of them.
fn add_buckets(mine: &mut Buckets, theirs: &Buckets, skipped: usize, sign: f64) {
    if skipped == 0 && mine.spans() == theirs.spans() {
        let pairs = mine.counts_mut().iter_mut().zip(theirs.counts());
        return pairs.for_each(|(mine, theirs)| *mine += sign * theirs);
    }
    let mut counts = Vec::with_capacity(mine.counts().len() + theirs.counts().len());
    let spans = mine.laid_over(theirs, skipped, |place| {
        counts.push(match place {
            Place::Both(a, b) => mine.counts()[a] + sign * theirs.counts()[b],
            Place::First(a) => mine.counts()[a],
            Place::Second(b) => sign * theirs.counts()[b],
        });
    });
    mine.set(spans, counts);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};
    use super::*;

    #[test]
    fn buckets_that_only_one_has_are_kept() {
        let mut sum = exponential(0, (0.01, 1.0), (0, &[1.0, 2.0]), (0, &[]));
        sum.add(&exponential(0, (0.01, 2.0), (1, &[4.0, 8.0]), (-1, &[16.0]))).unwrap();
        assert_eq!(sum.positive, Buckets::run(0, &[1.0, 6.0, 8.0]));
        assert_eq!(sum.negative, Buckets::run(-1, &[16.0]));
        assert_eq!((sum.zero_count, sum.count, sum.sum), (3.0, 34.0, 51.0));
    }

    #[test]
    fn the_lower_resolution_wins_on_either_side() {
        let fine = exponential(1, (0.0, 0.0), (0, &[1.0, 2.0, 4.0, 8.0]), (0, &[]));
        let coarse = exponential(0, (0.0, 0.0), (0, &[10.0, 20.0, 30.0]), (0, &[]));
        for (mut left, right) in [(fine.clone(), &coarse), (coarse.clone(), &fine)] {
            left.add(right).unwrap();
            assert_eq!(left.schema, Schema::Exponential(0));
            // Indices 0, 1, 2, 3 become 0, 1, 1, 2.
            assert_eq!(left.positive, Buckets::run(0, &[11.0, 26.0, 38.0]));
        }
    }

    #[test]
    fn exponential_and_custom_buckets_do_not_mix() {
        let mut left = exponential(0, (0.0, 0.0), (0, &[1.0]), (0, &[]));
        let before = left.clone();
        assert_eq!(left.add(&custom(&[1.0], &[1.0])), Err(IncompatibleSchemas));
        assert_eq!(left, before);
    }

    #[test]
    fn hints_collide_only_where_they_contradict_each_other() {
        use ResetHint::*;
        let hints = [
            (Reset, NotReset, Unknown, true),
            (Reset, Reset, Reset, false),
            (Unknown, NotReset, Unknown, false),
            (Gauge, Reset, Gauge, false),
            (Unknown, Gauge, Gauge, false),
        ];
        for (a, b, expected, collide) in hints {
            for (mine, theirs) in [(a, b), (b, a)] {
                let mut left = custom(&[], &[1.0]);
                left.reset_hint = mine;
                let mut right = left.clone();
                right.reset_hint = theirs;
                assert_eq!(left.add(&right).unwrap().resets_collide, collide);
                assert_eq!(left.reset_hint, expected, "{mine:?} {theirs:?}");
            }
        }
    }

    #[test]
    fn multiples_scale_everything_and_negative_ones_are_gauges() {
        let mut histogram = exponential(0, (0.01, 1.0), (0, &[2.0]), (0, &[3.0]));
        histogram.scale(2.0);
        assert_eq!(histogram.reset_hint, ResetHint::Unknown);
        histogram.divide(-4.0);
        assert_eq!(histogram, {
            let mut expected = exponential(0, (0.01, -0.5), (0, &[-1.0]), (0, &[-1.5]));
            expected.reset_hint = ResetHint::Gauge;
            expected
        });
        histogram.divide(0.0);
        assert!(histogram.positive.is_empty() && histogram.negative.is_empty());
        assert_eq!(histogram.count, f64::NEG_INFINITY);
    }
}
