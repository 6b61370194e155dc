//! Sums of many histograms by Kahan's summation in Neumaier's variant, bucket by bucket.
//!
//! The rule: what was lost is kept in the layout of the sum's buckets.

use super::buckets::{Buckets, Place};
use super::custom_bounds::{self, Totals};
use super::{Combined, FloatHistogram, IncompatibleSchemas, Schema};
use crate::metrics::kahan::kahan_add;

#[derive(Clone, Debug)]
pub struct KahanSum {
    sum: FloatHistogram,
    lost: Lost,
}

/// What the counts of a histogram lost by rounding, in the layout of its buckets.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    pub(super) zero_count: f64,
    pub(super) count: f64,
    pub(super) sum: f64,
    pub(super) positive: Vec<f64>,
    pub(super) negative: Vec<f64>,
}

/// Counts with what they lost, in one layout.
type Column<'a> = (&'a mut Buckets, &'a mut Vec<f64>);

impl KahanSum {
    pub fn new(first: &FloatHistogram) -> KahanSum {
        let zeros = |buckets: &Buckets| vec![0.0; buckets.counts().len()];
        let (positive, negative) = (zeros(&first.positive), zeros(&first.negative));
        let lost = Lost { positive, negative, ..Lost::default() };
        KahanSum { sum: first.clone(), lost }
    }

    pub fn add(&mut self, other: &FloatHistogram) -> Result<Combined, IncompatibleSchemas> {
        let KahanSum { sum, lost } = self;
        if sum.uses_custom_bounds() != other.uses_custom_bounds() {
            return Err(IncompatibleSchemas);
        }
        let resets_collide = sum.adjust_reset_hint(other.reset_hint);
        let bounds_reconciled = match (&sum.schema, &other.schema) {
            (Schema::Custom(mine), Schema::Custom(theirs)) if mine != theirs => {
                let shared = custom_bounds::shared(mine, theirs);
                let mut totals = Totals::new(&shared);
                totals.add_lost(&sum.positive, &lost.positive, mine, 1.0);
                totals.add(&other.positive, theirs, 1.0);
                (sum.positive, lost.positive) = totals.compensated();
                sum.schema = Schema::Custom(shared);
                true
            }
            (Schema::Custom(_), _) => {
                let column = (&mut sum.positive, &mut lost.positive);
                add_buckets(column, &other.positive, &[], 0);
                false
            }
            (Schema::Exponential(_), _) => {
                self.add_exponential(other);
                false
            }
        };
        let KahanSum { sum, lost } = self;
        (sum.count, lost.count) = kahan_add(other.count, sum.count, lost.count);
        (sum.sum, lost.sum) = kahan_add(other.sum, sum.sum, lost.sum);
        Ok(Combined { resets_collide, bounds_reconciled })
    }

    fn add_exponential(&mut self, other: &FloatHistogram) {
        let KahanSum { sum, lost } = self;
        let zero = sum.reconcile_zero_bucket_with(other, &mut Some(lost));
        for zeros in [zero.count, zero.lost] {
            (sum.zero_count, lost.zero_count) = kahan_add(zeros, sum.zero_count, lost.zero_count);
        }
        let (&Schema::Exponential(mine), &Schema::Exponential(theirs)) =
            (&sum.schema, &other.schema)
        else {
            unreachable!("the caller compares schemas");
        };
        let columns = [
            ((&mut sum.positive, &mut lost.positive), &other.positive),
            ((&mut sum.negative, &mut lost.negative), &other.negative),
        ];
        let schema = Schema::Exponential(mine.min(theirs));
        for ((counts, lost), added) in columns {
            if theirs < mine {
                (*counts, *lost) = reduced(counts, lost, (mine - theirs) as u32);
            }
            let coarse = (theirs > mine).then(|| {
                let nothing = vec![0.0; added.counts().len()];
                reduced(added, &nothing, (theirs - mine) as u32)
            });
            let (added, lost_before) = match &coarse {
                Some((added, lost)) => (added, &lost[..]),
                None => (added, &[][..]),
            };
            let skipped = schema.first_beyond(added, sum.zero_threshold);
            add_buckets((counts, lost), added, lost_before, skipped);
        }
        sum.schema = schema;
    }

    pub(super) fn scale(&mut self, factor: f64) {
        self.sum.scale(factor);
        self.lost.for_each_number(|number| *number *= factor);
    }

    pub(super) fn divide(&mut self, divisor: f64) {
        self.sum.divide(divisor);
        self.lost.for_each_number(|number| *number /= divisor);
    }

    /// The sum so far, without what it lost.
    pub(super) fn sum(&self) -> &FloatHistogram {
        &self.sum
    }

    /// The sum with what it lost.
    pub fn finish(self) -> FloatHistogram {
        let KahanSum { mut sum, lost } = self;
        sum.zero_count += lost.zero_count;
        sum.count += lost.count;
        sum.sum += lost.sum;
        for (buckets, lost) in
            [(&mut sum.positive, &lost.positive), (&mut sum.negative, &lost.negative)]
        {
            buckets.counts_mut().iter_mut().zip(lost).for_each(|(count, lost)| *count += lost);
        }
        sum
    }
}

impl Lost {
    fn for_each_number(&mut self, mut f: impl FnMut(&mut f64)) {
        [&mut self.zero_count, &mut self.count, &mut self.sum].into_iter().for_each(&mut f);
        self.positive.iter_mut().for_each(&mut f);
        self.negative.iter_mut().for_each(&mut f);
    }
}

/// Adds counts, and what those had lost, if anything, but for the first `skipped`.
fn add_buckets((sums, lost): Column<'_>, added: &Buckets, lost_before: &[f64], skipped: usize) {
    let more = |at: usize| (added.counts()[at], lost_before.get(at).copied().unwrap_or(0.0));
    if skipped == 0 && sums.spans() == added.spans() {
        for (at, (sum, lost)) in sums.counts_mut().iter_mut().zip(lost).enumerate() {
            (*sum, *lost) = add_one(more(at), *sum, *lost);
        }
        return;
    }
    let mut columns = (Vec::new(), Vec::new());
    let spans = sums.laid_over(added, skipped, |place| {
        let (sum, left) = match place {
            Place::Both(a, b) => add_one(more(b), sums.counts()[a], lost[a]),
            Place::First(a) => (sums.counts()[a], lost[a]),
            Place::Second(b) => more(b),
        };
        columns.0.push(sum);
        columns.1.push(left);
    });
    sums.set(spans, columns.0);
    *lost = columns.1;
}

fn add_one((count, lost_before): (f64, f64), sum: f64, lost: f64) -> (f64, f64) {
    let (sum, lost) = kahan_add(count, sum, lost);
    if lost_before == 0.0 { (sum, lost) } else { kahan_add(lost_before, sum, lost) }
}

/// Buckets `2^by` times as wide, with what their counts lost.
fn reduced(buckets: &Buckets, lost: &[f64], by: u32) -> (Buckets, Vec<f64>) {
    let mut spans = Vec::new();
    let (mut counts, mut left): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    buckets.reduce_into(by, &mut spans, |from, into| {
        let more = (buckets.counts()[from], lost[from]);
        if into == counts.len() {
            counts.push(more.0);
            left.push(more.1);
        } else {
            (counts[into], left[into]) = add_one(more, counts[into], left[into]);
        }
    });
    (Buckets::new(spans, counts), left)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{custom, exponential};
    use super::*;

    /// `1e100 + 1 - 1e100`, in whatever layouts the three have.
    fn check(large: &FloatHistogram, small: &FloatHistogram, expected: &[(i32, f64)]) {
        let mut minus = large.clone();
        minus.scale(-1.0);
        let mut sum = KahanSum::new(large);
        sum.add(small).unwrap();
        sum.add(&minus).unwrap();
        let sum = sum.finish().compacted();
        assert_eq!(sum.positive.iter().collect::<Vec<_>>(), expected);
        assert_eq!((sum.count, sum.sum), (small.count, small.sum));
        assert_eq!(sum.zero_count, small.zero_count);
    }

    #[test]
    fn small_counts_survive_large_ones() {
        let large = exponential(0, (0.01, 1e100), (0, &[1e100, 1e100]), (0, &[]));
        let small = exponential(0, (0.01, 1.0), (0, &[2.0, 4.0]), (0, &[]));
        check(&large, &small, &[(0, 2.0), (1, 4.0)]);
        let finer = exponential(1, (0.01, 1.0), (1, &[2.0, 4.0]), (0, &[]));
        check(&large, &finer, &[(1, 6.0)]);
        let coarser = exponential(-1, (0.01, 1.0), (1, &[4.0]), (0, &[]));
        check(&large, &coarser, &[(1, 4.0)]);
    }

    #[test]
    fn small_counts_survive_in_custom_buckets() {
        let large = custom(&[1.0, 2.0], &[1e100, 1e100, 1e100]);
        check(&large, &custom(&[1.0, 2.0], &[1.0, 2.0, 4.0]), &[(0, 1.0), (1, 2.0), (2, 4.0)]);
        check(&large, &custom(&[2.0], &[1.0, 2.0]), &[(0, 1.0), (1, 2.0)]);
    }
}
