//! Custom bounds that differ: results have the bounds that both histograms have.

use std::sync::Arc;

use super::buckets::Buckets;
use crate::metrics::kahan::kahan_add;

/// The bounds that are in both lists.
pub(super) fn shared(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    let (mut i, mut j) = (0, 0);
    let mut shared = Vec::new();
    while let (Some(left), Some(right)) = (a.get(i), b.get(j)) {
        if left == right {
            shared.push(*left);
        }
        i += usize::from(left <= right);
        j += usize::from(left >= right);
    }
    Arc::from(shared)
}

/// Sums of buckets between shared bounds.
#[derive(Debug)]
pub(super) struct Totals<'a> {
    bounds: &'a [f64],
    /// Sum and compensation; the last is the bucket that reaches to infinity.
    totals: Vec<(f64, f64)>,
}

impl<'a> Totals<'a> {
    pub(super) fn new(bounds: &'a [f64]) -> Totals<'a> {
        Totals { bounds, totals: vec![(0.0, 0.0); bounds.len() + 1] }
    }

    /// Adds `sign` times the counts of buckets with the given bounds.
    pub(super) fn add(&mut self, buckets: &Buckets, bounds: &[f64], sign: f64) {
        self.add_lost(buckets, &[], bounds, sign);
    }

    /// Adds counts, and what they lost.
    pub(super) fn add_lost(&mut self, buckets: &Buckets, lost: &[f64], bounds: &[f64], sign: f64) {
        for (at, (index, count)) in buckets.iter().enumerate() {
            let bound = usize::try_from(index).ok().and_then(|index| bounds.get(index));
            let target = match bound {
                Some(bound) => self.bounds.partition_point(|shared| shared < bound),
                None => self.bounds.len(),
            };
            let (total, c) = &mut self.totals[target];
            for more in [Some(&count), lost.get(at)].into_iter().flatten() {
                (*total, *c) = kahan_add(sign * more, *total, *c);
            }
        }
    }

    /// The populated buckets.
    pub(super) fn buckets(self) -> Buckets {
        self.compensated().0
    }

    /// The populated buckets, and what each of them lost.
    pub(super) fn compensated(self) -> (Buckets, Vec<f64>) {
        let kept = self.totals.iter().enumerate().filter(|(_, total)| **total != (0.0, 0.0));
        let lost = kept.clone().map(|(_, (_, lost))| *lost).collect();
        (kept.map(|(index, (total, _))| (index as i32, *total)).collect(), lost)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FloatHistogram;
    use super::super::tests::custom;

    fn sum(a: &FloatHistogram, b: &FloatHistogram) -> FloatHistogram {
        let mut sum = a.clone();
        assert!(sum.add(b).unwrap().bounds_reconciled);
        sum
    }

    #[test]
    fn buckets_between_shared_bounds_are_summed() {
        let a = custom(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 4.0, 8.0, 16.0]);
        let b = custom(&[2.0, 2.5, 4.0], &[100.0, 200.0, 400.0, 800.0]);
        let expected = custom(&[2.0, 4.0], &[103.0, 612.0, 816.0]);
        assert_eq!(sum(&a, &b), expected);
        assert_eq!(sum(&b, &a), expected);
    }

    #[test]
    fn without_shared_bounds_there_is_one_bucket() {
        let summed = sum(&custom(&[1.0], &[1.0, 2.0]), &custom(&[5.0], &[4.0, 8.0]));
        assert_eq!(summed, custom(&[], &[15.0]));
    }

    #[test]
    fn a_difference_leaves_out_buckets_that_cancel() {
        let mut left = custom(&[1.0, 2.0], &[1.0, 2.0, 4.0]);
        left.sub(&custom(&[2.0], &[3.0, 1.0])).unwrap();
        assert_eq!(left.positive.iter().collect::<Vec<_>>(), [(1, 3.0)]);
    }
}
