//! Native histograms as they arrive and as they are stored, bit for bit.
//!
//! The model is Prometheus's: exponential buckets of a `schema` (-4 to 8), or custom bounds
//! (schema -53); buckets are listed in [`Span`]s of consecutive indices. Counts are integers, kept
//! as absolute numbers, or floats; the two are different values even where they look equal.
//! To compute with, they become [`FloatHistogram`](super::float_histogram::FloatHistogram)s.

use crate::encoding::varint;

/// Schema of histograms whose bucket bounds are listed in `custom_values`.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// `length` consecutive buckets after a gap of `offset`; the first span's offset is the index of
/// its first bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub offset: i32,
    pub length: u32,
}

/// What the sender knows about a reset of the counter between this histogram and the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ResetHint {
    #[default]
    Unknown = 0,
    Reset = 1,
    NotReset = 2,
    Gauge = 3,
}

impl ResetHint {
    pub fn from_byte(byte: u8) -> Option<ResetHint> {
        [ResetHint::Unknown, ResetHint::Reset, ResetHint::NotReset, ResetHint::Gauge]
            .into_iter()
            .find(|hint| *hint as u8 == byte)
    }
}

/// Counts of the zero bucket and of the buckets that the spans list, in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Counts {
    Integer { count: u64, zero_count: u64, positive: Vec<u64>, negative: Vec<u64> },
    Float { count: f64, zero_count: f64, positive: Vec<f64>, negative: Vec<f64> },
}

/// One native histogram. A stale marker is a histogram whose `sum` is the stale NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub schema: i32,
    pub zero_threshold: f64,
    pub sum: f64,
    pub reset_hint: ResetHint,
    pub positive_spans: Vec<Span>,
    pub negative_spans: Vec<Span>,
    pub counts: Counts,
    /// Upper bounds of the buckets, ascending; only with [`CUSTOM_BUCKETS_SCHEMA`].
    pub custom_values: Vec<f64>,
}

/// Bounds the buckets of one histogram, so that a hostile span cannot ask for 2^32 of them.
pub const BUCKETS_MAX: usize = 16_384;

impl Histogram {
    /// Why this is not a histogram, if it is not: spans and counts that disagree, unknown schema.
    pub fn validate(&self) -> Result<(), &'static str> {
        let custom = self.schema == CUSTOM_BUCKETS_SCHEMA;
        if !custom && !(-4..=8).contains(&self.schema) {
            return Err("histogram has an unknown schema");
        }
        let listed = |spans: &[Span]| {
            spans.iter().try_fold(0usize, |sum, span| sum.checked_add(span.length as usize))
        };
        let (positive, negative) = match &self.counts {
            Counts::Integer { positive, negative, .. } => (positive.len(), negative.len()),
            Counts::Float { positive, negative, .. } => (positive.len(), negative.len()),
        };
        if positive > BUCKETS_MAX || negative > BUCKETS_MAX {
            return Err("histogram has too many buckets");
        }
        if listed(&self.positive_spans) != Some(positive)
            || listed(&self.negative_spans) != Some(negative)
        {
            return Err("histogram spans need as many buckets as they list");
        }
        let gap = |spans: &[Span]| spans.iter().skip(1).any(|span| span.offset < 0);
        if gap(&self.positive_spans) || gap(&self.negative_spans) {
            return Err("histogram span has a negative offset");
        }
        if !custom && !self.custom_values.is_empty() {
            return Err("histogram has custom bounds without the custom schema");
        }
        let ascending = self.custom_values.windows(2).all(|pair| pair[0] < pair[1]);
        let finite = self.custom_values.iter().all(|bound| bound.is_finite());
        if custom && (!ascending || !finite || positive > self.custom_values.len() + 1) {
            return Err("histogram custom bounds are not ascending or too few");
        }
        if custom && negative > 0 {
            return Err("histogram with custom bounds has negative buckets");
        }
        Ok(())
    }

    /// The bytes of this histogram in WAL records and in blocks; also the last key by which
    /// conflicts are resolved. The layout is in docs/format.md, "Histograms".
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.write(&mut out);
        out
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        let is_float = matches!(self.counts, Counts::Float { .. });
        out.push(u8::from(is_float) << 2 | self.reset_hint as u8);
        varint::write_signed(out, i64::from(self.schema));
        write_f64(out, self.zero_threshold);
        write_f64(out, self.sum);
        for spans in [&self.positive_spans, &self.negative_spans] {
            varint::write(out, spans.len() as u64);
            for span in spans {
                varint::write_signed(out, i64::from(span.offset));
                varint::write(out, u64::from(span.length));
            }
        }
        varint::write(out, self.custom_values.len() as u64);
        self.custom_values.iter().for_each(|bound| write_f64(out, *bound));
        match &self.counts {
            Counts::Integer { count, zero_count, positive, negative } => {
                varint::write(out, *count);
                varint::write(out, *zero_count);
                for buckets in [positive, negative] {
                    varint::write(out, buckets.len() as u64);
                    buckets.iter().for_each(|bucket| varint::write(out, *bucket));
                }
            }
            Counts::Float { count, zero_count, positive, negative } => {
                write_f64(out, *count);
                write_f64(out, *zero_count);
                for buckets in [positive, negative] {
                    varint::write(out, buckets.len() as u64);
                    buckets.iter().for_each(|bucket| write_f64(out, *bucket));
                }
            }
        }
    }

    /// Reads what [`Self::write`] wrote and advances `bytes`; `None` if they are not that.
    pub fn read(bytes: &mut &[u8]) -> Option<Histogram> {
        let flags = read_byte(bytes)?;
        let reset_hint = ResetHint::from_byte(flags & 3)?;
        let schema = i32::try_from(varint::read_signed(bytes)?).ok()?;
        let zero_threshold = read_f64(bytes)?;
        let sum = read_f64(bytes)?;
        let mut spans = || {
            let length = read_length(bytes)?;
            (0..length)
                .map(|_| {
                    let offset = i32::try_from(varint::read_signed(bytes)?).ok()?;
                    Some(Span { offset, length: u32::try_from(varint::read(bytes)?).ok()? })
                })
                .collect::<Option<Vec<Span>>>()
        };
        let positive_spans = spans()?;
        let negative_spans = spans()?;
        let length = read_length(bytes)?;
        let custom_values = (0..length).map(|_| read_f64(bytes)).collect::<Option<_>>()?;
        let counts = if flags & 4 == 0 {
            let count = varint::read(bytes)?;
            let zero_count = varint::read(bytes)?;
            let mut buckets = || {
                let length = read_length(bytes)?;
                (0..length).map(|_| varint::read(bytes)).collect::<Option<Vec<u64>>>()
            };
            Counts::Integer { count, zero_count, positive: buckets()?, negative: buckets()? }
        } else {
            let count = read_f64(bytes)?;
            let zero_count = read_f64(bytes)?;
            let mut buckets = || {
                let length = read_length(bytes)?;
                (0..length).map(|_| read_f64(bytes)).collect::<Option<Vec<f64>>>()
            };
            Counts::Float { count, zero_count, positive: buckets()?, negative: buckets()? }
        };
        let histogram = Histogram {
            schema,
            zero_threshold,
            sum,
            reset_hint,
            positive_spans,
            negative_spans,
            counts,
            custom_values,
        };
        Some(histogram)
    }
}

fn write_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn read_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn read_f64(bytes: &mut &[u8]) -> Option<f64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(f64::from_bits(u64::from_le_bytes(*head)))
}

/// A list length; every element takes at least one byte, which bounds what is allocated.
fn read_length(bytes: &mut &[u8]) -> Option<usize> {
    let length = usize::try_from(varint::read(bytes)?).ok()?;
    (length <= bytes.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Histogram {
        Histogram {
            schema: 3,
            zero_threshold: 1e-128,
            sum: -0.0,
            reset_hint: ResetHint::NotReset,
            positive_spans: vec![Span { offset: -3, length: 2 }, Span { offset: 4, length: 1 }],
            negative_spans: vec![],
            counts: Counts::Integer {
                count: u64::MAX,
                zero_count: 0,
                positive: vec![1, 2, 3],
                negative: vec![],
            },
            custom_values: vec![],
        }
    }

    #[test]
    fn bytes_round_trip_and_shorter_ones_are_refused() {
        let bytes = sample().canonical_bytes();
        assert_eq!(Histogram::read(&mut &bytes[..]).unwrap(), sample());
        for end in 0..bytes.len() {
            assert_eq!(Histogram::read(&mut &bytes[..end]), None);
        }
    }

    #[test]
    fn spans_must_list_what_there_is() {
        assert_eq!(sample().validate(), Ok(()));
        let mut wrong = sample();
        wrong.positive_spans[0].length = u32::MAX;
        assert!(wrong.validate().is_err());
    }
}
