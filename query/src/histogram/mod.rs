//! Native histograms in queries: what is estimated from them, cut off them and said of them. The value
//! and its arithmetic are storage's, which rolls histograms up.

mod statistics;
mod text;
mod trim;

pub use icecore_storage::metrics::float_histogram::{
    Bucket, Buckets, Combined, FloatHistogram, IncompatibleSchemas, KahanMean, KahanSum, Schema,
};

pub(crate) use statistics::{NanEffect, fraction, quantile, variance};
pub use text::Text;
pub use trim::{Side, trim};

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// So many observations, all in one bucket.
    pub(crate) fn counted(count: f64) -> Arc<FloatHistogram> {
        let positive = Buckets::run(0, &[count]);
        let empty = FloatHistogram::empty(Schema::Exponential(0));
        Arc::new(FloatHistogram { count, positive, ..empty })
    }

    /// A histogram whose buckets begin at `offset` and follow each other.
    pub(super) fn exponential(
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

    pub(super) fn custom(bounds: &[f64], counts: &[f64]) -> FloatHistogram {
        let counted = counts.iter().sum::<f64>();
        FloatHistogram {
            count: counted,
            sum: counted * 2.0,
            positive: Buckets::run(0, counts),
            ..FloatHistogram::empty(Schema::Custom(Arc::from(bounds)))
        }
    }
}
