//! Native histograms to compute with: float counts, whatever the stored form was.
//!
//! - A [`FloatHistogram`] is a value; its [`Schema`] says where buckets begin and end.
//! - [`Buckets`] are the counts of one sign and the indices that they belong to; a [`Bucket`] is one
//!   of them with its bounds.
//! - A [`KahanSum`] and a [`KahanMean`] add up many histograms without losing small counts.
//!
//! The rule: buckets lie outside of the zero bucket. Histograms of different resolution, zero
//! threshold or custom bounds are brought to what both can express before they are combined;
//! exponential and custom buckets cannot be ([`IncompatibleSchemas`]).
//!
//! Follows Prometheus's `model/histogram/float_histogram.go` and `generic.go`.

mod arithmetic;
mod bounds;
mod bucket;
mod buckets;
mod custom_bounds;
mod kahan_mean;
mod kahan_sum;
mod reset;
mod zero_bucket;

use std::sync::Arc;

use crate::metrics::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint};

pub use arithmetic::{Combined, IncompatibleSchemas};
pub use bucket::Bucket;
pub use buckets::Buckets;
pub use kahan_mean::KahanMean;
pub use kahan_sum::KahanSum;

/// Where buckets begin and end.
#[derive(Clone, Debug, PartialEq)]
pub enum Schema {
    /// Bounds are the powers of `2^(2^-schema)`; from -4 to 8, more is finer.
    Exponential(i32),
    /// Upper bounds, ascending; one more bucket reaches to infinity. Shared by a series' histograms.
    Custom(Arc<[f64]>),
}

impl Schema {
    pub fn is_custom(&self) -> bool {
        matches!(self, Schema::Custom(_))
    }
}

/// A histogram with absolute float counts. Results of arithmetic may have negative ones.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatHistogram {
    pub schema: Schema,
    /// The zero bucket is `[-zero_threshold, zero_threshold]`; 0 with custom bounds.
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    pub sum: f64,
    pub reset_hint: ResetHint,
    pub positive: Buckets,
    pub negative: Buckets,
}

impl FloatHistogram {
    /// Without observations.
    pub fn empty(schema: Schema) -> FloatHistogram {
        FloatHistogram {
            schema,
            zero_threshold: 0.0,
            zero_count: 0.0,
            count: 0.0,
            sum: 0.0,
            reset_hint: ResetHint::Unknown,
            positive: Buckets::default(),
            negative: Buckets::default(),
        }
    }

    /// The stored histogram, sharing custom bounds with `previous` where they are equal.
    pub fn from_stored(stored: &Histogram, previous: Option<&FloatHistogram>) -> FloatHistogram {
        let (count, zero_count, positive, negative) = match &stored.counts {
            Counts::Integer { count, zero_count, positive, negative } => {
                let floats = |counts: &[u64]| counts.iter().map(|count| *count as f64).collect();
                (*count as f64, *zero_count as f64, floats(positive), floats(negative))
            }
            Counts::Float { count, zero_count, positive, negative } => {
                (*count, *zero_count, positive.clone(), negative.clone())
            }
        };
        let schema = match (stored.schema, previous.map(|previous| &previous.schema)) {
            (CUSTOM_BUCKETS_SCHEMA, Some(Schema::Custom(bounds)))
                if **bounds == *stored.custom_values =>
            {
                Schema::Custom(Arc::clone(bounds))
            }
            (CUSTOM_BUCKETS_SCHEMA, _) => Schema::Custom(Arc::from(&stored.custom_values[..])),
            (schema, _) => Schema::Exponential(schema),
        };
        FloatHistogram {
            schema,
            zero_threshold: stored.zero_threshold,
            zero_count,
            count,
            sum: stored.sum,
            reset_hint: stored.reset_hint,
            positive: Buckets::new(stored.positive_spans.clone(), positive),
            negative: Buckets::new(stored.negative_spans.clone(), negative),
        }
    }

    /// The same without buckets and bounds: only count and sum, and which kind of schema it had.
    pub fn statistics(&self) -> FloatHistogram {
        let schema = match self.schema {
            Schema::Exponential(_) => Schema::Exponential(0),
            Schema::Custom(_) => Schema::Custom(Arc::default()),
        };
        FloatHistogram {
            count: self.count,
            sum: self.sum,
            reset_hint: self.reset_hint,
            ..FloatHistogram::empty(schema)
        }
    }

    pub fn uses_custom_bounds(&self) -> bool {
        self.schema.is_custom()
    }

    /// The same with an exponential schema that is not finer than its own.
    pub fn to_schema(&self, schema: i32) -> FloatHistogram {
        let mut copy = self.clone();
        copy.reduce_resolution(schema);
        copy
    }

    /// Merges buckets until the schema is `target`.
    pub fn reduce_resolution(&mut self, target: i32) {
        let Schema::Exponential(schema) = &mut self.schema else {
            unreachable!("custom bounds have no resolution");
        };
        assert!(target <= *schema, "resolution cannot be gained");
        if target < *schema {
            let by = (*schema - target) as u32;
            self.positive = self.positive.reduced(by);
            self.negative = self.negative.reduced(by);
            *schema = target;
        }
    }

    /// Leaves out empty buckets and joins spans without a gap.
    pub fn compact(&mut self) {
        self.positive.compact();
        self.negative.compact();
    }

    /// [`Self::compact`], by value.
    pub fn compacted(mut self) -> FloatHistogram {
        self.compact();
        self
    }

    /// Whether the data are the same bit for bit, which makes NaN equal to itself; reset hints do
    /// not count. What PromQL's `==` asks.
    pub fn same_data(&self, other: &FloatHistogram) -> bool {
        let bits = |a: f64, b: f64| a.to_bits() == b.to_bits();
        self.schema == other.schema
            && self.zero_threshold == other.zero_threshold
            && bits(self.zero_count, other.zero_count)
            && bits(self.count, other.count)
            && bits(self.sum, other.sum)
            && self.negative.same_data(&other.negative)
            && self.positive.same_data(&other.positive)
    }

    /// Counts and sum, all of them numbers of which many may be added.
    fn numbers(&self) -> impl Iterator<Item = f64> {
        let scalars = [self.zero_count, self.count, self.sum];
        let buckets = self.positive.counts().iter().chain(self.negative.counts());
        scalars.into_iter().chain(buckets.copied())
    }

    pub fn has_overflow(&self) -> bool {
        self.numbers().any(f64::is_infinite)
    }

    /// How many float samples it costs as much memory as, with its timestamp; as Prometheus counts
    /// for `--query.max-samples`.
    pub fn size_in_samples(&self) -> u64 {
        const SAMPLE_BYTES: usize = 16;
        const TIMESTAMP_BYTES: usize = 8;
        const STRUCT_BYTES: usize = 168;
        let bounds = match &self.schema {
            Schema::Exponential(_) => 0,
            Schema::Custom(bounds) => bounds.len(),
        };
        let elements = [&self.positive, &self.negative]
            .into_iter()
            .map(|buckets| buckets.spans().len() + buckets.counts().len())
            .sum::<usize>();
        let bytes = STRUCT_BYTES + TIMESTAMP_BYTES + 8 * (elements + bounds);
        (bytes / SAMPLE_BYTES) as u64
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::metrics::histogram::Span;
    use proptest::prelude::*;

    use super::*;

    /// A histogram whose buckets begin at `offset` and follow each other.
    pub(crate) fn exponential(
        schema: i32,
        (zero_threshold, zero_count): (f64, f64),
        (offset, positive): (i32, &[f64]),
        (negative_offset, negative): (i32, &[f64]),
    ) -> FloatHistogram {
        let counted = zero_count + positive.iter().chain(negative).sum::<f64>();
        FloatHistogram {
            zero_threshold,
            zero_count,
            count: counted,
            sum: counted * 1.5,
            positive: Buckets::run(offset, positive),
            negative: Buckets::run(negative_offset, negative),
            ..FloatHistogram::empty(Schema::Exponential(schema))
        }
    }

    pub(crate) fn custom(bounds: &[f64], counts: &[f64]) -> FloatHistogram {
        let counted = counts.iter().sum::<f64>();
        FloatHistogram {
            count: counted,
            sum: counted * 2.0,
            positive: Buckets::run(0, counts),
            ..FloatHistogram::empty(Schema::Custom(Arc::from(bounds)))
        }
    }

    fn some_buckets() -> impl Strategy<Value = Buckets> {
        let bucket = (-40i32..40, 0u32..1000);
        proptest::collection::btree_map(bucket.0, bucket.1, 0..12).prop_map(|map| {
            let mut buckets = Buckets::default();
            map.into_iter().for_each(|(index, count)| buckets.push(index, f64::from(count)));
            buckets
        })
    }

    /// Exponential histograms with whole counts, which add without rounding.
    ///
    /// Of different schemas, or with any threshold, but not both: the zero bucket is reconciled
    /// before the resolution, and a threshold that cuts no bucket may cut the wider ones.
    pub(crate) fn some_exponentials(
        count: impl Into<proptest::collection::SizeRange>,
    ) -> impl Strategy<Value = Vec<FloatHistogram>> {
        let scalars = prop_oneof![
            (-4i32..9, prop_oneof![Just(0.0), Just(1.0)]),
            (Just(2), prop_oneof![Just(0.0), Just(0.001), Just(0.3), Just(5.0)]),
        ];
        let one = (scalars, 0u32..100, some_buckets(), some_buckets());
        let several = proptest::collection::vec(one, count);
        (several, any::<bool>()).prop_map(|(several, one_schema)| {
            let all = several.into_iter().filter(|((schema, threshold), ..)| {
                if one_schema { *schema == 2 } else { [0.0, 1.0].contains(threshold) }
            });
            let mut all: Vec<_> =
                all.map(|(scalars, zeros, p, n)| built(scalars, zeros, p, n)).collect();
            while all.len() < 2 {
                all.push(FloatHistogram::empty(Schema::Exponential(2)));
            }
            all
        })
    }

    fn built(
        (schema, zero_threshold): (i32, f64),
        zero_count: u32,
        positive: Buckets,
        negative: Buckets,
    ) -> FloatHistogram {
        let mut histogram = FloatHistogram {
            zero_count: f64::from(zero_count),
            positive,
            negative,
            ..FloatHistogram::empty(Schema::Exponential(schema))
        };
        // A threshold inside of a bucket moves to its end.
        histogram.widen_zero_bucket(zero_threshold);
        histogram.count = counted(&histogram);
        histogram.sum = histogram.count * 3.0;
        histogram
    }

    fn counted(histogram: &FloatHistogram) -> f64 {
        histogram.all().map(|bucket| bucket.count).sum()
    }

    #[test]
    fn integers_become_floats_and_bounds_are_shared() {
        let stored = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            sum: 7.0,
            reset_hint: ResetHint::NotReset,
            positive_spans: vec![Span { offset: 1, length: 2 }],
            negative_spans: vec![],
            counts: Counts::Integer {
                count: 5,
                zero_count: 0,
                positive: vec![2, 3],
                negative: vec![],
            },
            custom_values: vec![1.0, 2.0],
        };
        let first = FloatHistogram::from_stored(&stored, None);
        let second = FloatHistogram::from_stored(&stored, Some(&first));
        assert_eq!(first, second);
        assert_eq!((first.count, first.reset_hint), (5.0, ResetHint::NotReset));
        assert_eq!(first.positive.iter().collect::<Vec<_>>(), [(1, 2.0), (2, 3.0)]);
        let (Schema::Custom(a), Schema::Custom(b)) = (&first.schema, &second.schema) else {
            panic!("both are custom")
        };
        assert!(Arc::ptr_eq(a, b));
    }

    #[test]
    fn a_histogram_costs_what_prometheus_charges() {
        assert_eq!(FloatHistogram::empty(Schema::Exponential(0)).size_in_samples(), 11);
        let histogram = exponential(0, (0.0, 0.0), (0, &[1.0, 2.0, 3.0]), (0, &[]));
        // 168 + 8 + 8 for the span + 3 * 8.
        assert_eq!(histogram.size_in_samples(), 208 / 16);
    }

    #[test]
    fn data_are_the_same_whatever_the_spans_and_the_hint() {
        let mut a = exponential(0, (0.0, 0.0), (0, &[1.0, 2.0]), (0, &[]));
        let mut b = a.clone();
        b.positive = Buckets::new(
            vec![
                Span { offset: 0, length: 1 },
                Span { offset: 0, length: 0 },
                Span { offset: 0, length: 1 },
            ],
            vec![1.0, 2.0],
        );
        b.reset_hint = ResetHint::Gauge;
        assert!(a.same_data(&b));
        (a.sum, b.sum) = (f64::NAN, f64::NAN);
        assert!(a.same_data(&b));
        b.count = 3.1;
        assert!(!a.same_data(&b));
    }

    proptest! {
        #[test]
        fn lower_resolution_keeps_counts_and_bounds(list in some_exponentials(1), by in 0i32..12) {
            let histogram = &list[0];
            let Schema::Exponential(schema) = histogram.schema else { unreachable!() };
            let reduced = histogram.to_schema(i32::max(schema - by, -4));
            prop_assert_eq!(counted(&reduced), counted(histogram));
            // Every bucket lies within one of the reduced ones.
            for bucket in histogram.positive() {
                let around = reduced.positive().any(|wide| {
                    wide.lower <= bucket.lower * (1.0 + 1e-12)
                        && bucket.upper <= wide.upper * (1.0 + 1e-12)
                });
                prop_assert!(around, "{bucket:?} in {reduced:?}");
            }
        }

        #[test]
        fn what_is_added_can_be_taken_away(list in some_exponentials(2)) {
            let mut sum = list[0].clone();
            sum.add(&list[1]).unwrap();
            prop_assert_eq!(counted(&sum), counted(&list[0]) + counted(&list[1]));
            sum.sub(&list[1]).unwrap();
            // What is left has the layout of the sum.
            let mut expected = list[0].clone();
            let Schema::Exponential(schema) = sum.schema else { unreachable!() };
            expected.widen_zero_bucket(sum.zero_threshold);
            expected.reduce_resolution(schema);
            let (left, expected) = (sum.compacted(), expected.compacted());
            prop_assert!(left.same_data(&expected), "{left:?} {expected:?}");
        }

        #[test]
        fn addition_commutes(list in some_exponentials(2)) {
            let (mut ab, mut ba) = (list[0].clone(), list[1].clone());
            ab.add(&list[1]).unwrap();
            ba.add(&list[0]).unwrap();
            let (ab, ba) = (ab.compacted(), ba.compacted());
            prop_assert!(ab.same_data(&ba), "{ab:?} {ba:?}");
        }

        #[test]
        fn compensated_sums_of_whole_counts_are_plain_sums(list in some_exponentials(1..6)) {
            let mut plain = list[0].clone();
            let mut compensated = KahanSum::new(&list[0]);
            for histogram in &list[1..] {
                plain.add(histogram).unwrap();
                compensated.add(histogram).unwrap();
            }
            let (plain, compensated) = (plain.compacted(), compensated.finish().compacted());
            prop_assert!(compensated.same_data(&plain), "{compensated:?} {plain:?}");
        }

        #[test]
        fn more_of_everything_is_no_reset(list in some_exponentials(2)) {
            let mut later = list[0].clone();
            later.add(&list[1]).unwrap();
            // A lower resolution or a wider zero bucket alone is no reset.
            prop_assert!(!later.detect_reset(&list[0]), "{later:?} after {:?}", list[0]);
        }
    }
}
