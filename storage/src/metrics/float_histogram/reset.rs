//! Counter resets: what the sender said, else what the counts tell.

use std::borrow::Cow;

use crate::metrics::histogram::ResetHint;

use super::buckets::Buckets;
use super::{FloatHistogram, Schema};

impl FloatHistogram {
    /// Whether a counter was reset between `previous` and this one: a count became less, a populated
    /// bucket went, the resolution rose or the zero bucket shrank.
    ///
    /// Gauges are compared like counters; it is for the caller to warn about them.
    pub fn detect_reset(&self, previous: &FloatHistogram) -> bool {
        match self.reset_hint {
            ResetHint::Reset => true,
            ResetHint::NotReset => false,
            ResetHint::Unknown | ResetHint::Gauge => self.counts_decreased(previous),
        }
    }

    /// [`Self::detect_reset`] without regard to what the sender said.
    pub fn counts_decreased(&self, previous: &FloatHistogram) -> bool {
        if self.count < previous.count {
            return true;
        }
        let (schema, before) = match (&self.schema, &previous.schema) {
            (Schema::Custom(bounds), Schema::Custom(before)) => {
                return if bounds == before {
                    decreased(self.positive.iter(), previous.positive.iter())
                } else {
                    decreased_between_shared(&self.positive, bounds, &previous.positive, before)
                };
            }
            (Schema::Exponential(schema), Schema::Exponential(before)) if schema <= before => {
                (*schema, *before)
            }
            _ => return true,
        };
        if self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let zero = previous.zero_bucket_at(self.zero_threshold, None);
        if zero.threshold != self.zero_threshold || self.zero_count < zero.count {
            return true;
        }
        let by = (before - schema) as u32;
        [(&self.positive, &previous.positive), (&self.negative, &previous.negative)]
            .into_iter()
            .any(|(current, previous)| {
                let previous = match by {
                    0 => Cow::Borrowed(previous),
                    by => Cow::Owned(previous.reduced(by)),
                };
                let beyond = |buckets| self.schema.first_beyond(buckets, self.zero_threshold);
                decreased(
                    current.iter().skip(beyond(current)),
                    previous.iter().skip(beyond(&previous)),
                )
            })
    }
}

/// Whether a bucket has less than before, or is missing where it was populated.
fn decreased(
    current: impl Iterator<Item = (i32, f64)>,
    previous: impl Iterator<Item = (i32, f64)>,
) -> bool {
    let mut current = current.peekable();
    for (index, before) in previous {
        while current.next_if(|(at, _)| *at < index).is_some() {}
        let fell = match current.peek() {
            Some((at, count)) if *at == index => *count < before,
            _ => before != 0.0,
        };
        if fell {
            return true;
        }
    }
    false
}

/// [`decreased`] for the sums of buckets between the bounds that both have.
fn decreased_between_shared(
    current: &Buckets,
    bounds: &[f64],
    previous: &Buckets,
    before: &[f64],
) -> bool {
    let shared = super::custom_bounds::shared(bounds, before);
    let totals = |buckets: &Buckets, bounds: &[f64]| {
        let mut totals = super::custom_bounds::Totals::new(&shared);
        totals.add(buckets, bounds, 1.0);
        totals.buckets()
    };
    decreased(totals(current, bounds).iter(), totals(previous, before).iter())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};
    use super::*;

    fn check(current: &FloatHistogram, previous: &FloatHistogram, reset: bool) {
        assert_eq!(current.detect_reset(previous), reset, "{current:?} after {previous:?}");
    }

    #[test]
    fn a_hint_is_believed() {
        let mut current = custom(&[1.0], &[5.0, 5.0]);
        let previous = custom(&[1.0], &[1.0, 1.0]);
        current.reset_hint = ResetHint::Reset;
        check(&current, &previous, true);
        let mut lower = previous.clone();
        lower.reset_hint = ResetHint::NotReset;
        check(&lower, &current, false);
    }

    #[test]
    fn less_in_any_bucket_is_a_reset() {
        let previous = exponential(0, (0.01, 2.0), (0, &[1.0, 0.0, 3.0]), (0, &[1.0]));
        check(&previous, &previous, false);
        check(&exponential(0, (0.01, 2.0), (0, &[1.0, 9.0, 2.0]), (0, &[1.0])), &previous, true);
        check(&exponential(0, (0.01, 1.0), (0, &[1.0, 9.0, 3.0]), (0, &[1.0])), &previous, true);
        check(&exponential(0, (0.01, 9.0), (0, &[1.0, 9.0]), (0, &[1.0])), &previous, true);
        check(&exponential(0, (0.01, 9.0), (0, &[1.0, 9.0, 3.0]), (1, &[1.0])), &previous, true);
        // Without the empty bucket.
        let mut sparse = exponential(0, (0.01, 2.0), (0, &[1.0]), (0, &[1.0]));
        sparse.positive.push(2, 3.0);
        sparse.count += 3.0;
        check(&sparse, &previous, false);
    }

    #[test]
    fn finer_buckets_and_a_smaller_zero_bucket_are_resets() {
        let coarse = exponential(0, (0.5, 2.0), (0, &[1.0]), (0, &[]));
        check(&exponential(1, (0.5, 2.0), (0, &[5.0]), (0, &[])), &coarse, true);
        check(&exponential(0, (0.25, 2.0), (0, &[5.0]), (0, &[])), &coarse, true);
        check(&exponential(-1, (0.5, 2.0), (0, &[1.0]), (0, &[])), &coarse, false);
        // A threshold that cuts a populated bucket of the one before.
        check(&exponential(0, (0.7, 9.0), (0, &[1.0]), (0, &[])), &coarse, true);
        check(&exponential(0, (1.0, 3.0), (1, &[1.0]), (0, &[])), &coarse, false);
    }

    #[test]
    fn custom_bounds_are_compared_where_both_have_them() {
        let previous = custom(&[1.0, 2.0, 4.0], &[1.0, 2.0, 4.0, 8.0]);
        check(&custom(&[2.0, 4.0], &[3.0, 4.0, 8.0]), &previous, false);
        check(&custom(&[2.0, 4.0], &[2.0, 5.0, 8.0]), &previous, true);
        check(&custom(&[2.0, 3.0], &[3.0, 1.0, 11.0]), &previous, false);
        check(&exponential(0, (0.0, 0.0), (0, &[99.0]), (0, &[])), &previous, true);
        check(&previous, &exponential(0, (0.0, 0.0), (0, &[1.0]), (0, &[])), true);
    }
}
