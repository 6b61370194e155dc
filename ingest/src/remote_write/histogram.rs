//! Native histograms: `prometheus.Histogram` to [`Histogram`].
//!
//! On the wire an integer histogram holds the difference of each bucket to the one before; we keep
//! absolute counts. A histogram that is none (spans that list other buckets than there are, a
//! count below zero, an unknown schema) is refused alone: that is [`Invalid`], while bytes that
//! are no message at all are [`Malformed`].

use icecore_storage::metrics::histogram::{BUCKETS_MAX, Counts, Histogram, ResetHint, Span};

use crate::protobuf::{FIXED64, LENGTH_DELIMITED, Malformed, Reader, VARINT, tag};

/// Why a readable message is not a histogram.
pub(super) type Invalid = &'static str;

const TOO_MANY: Invalid = "histogram has too many buckets";

const COUNT_INTEGER: u32 = tag(1, VARINT);
const COUNT_FLOAT: u32 = tag(2, FIXED64);
const SUM: u32 = tag(3, FIXED64);
const SCHEMA: u32 = tag(4, VARINT);
const ZERO_THRESHOLD: u32 = tag(5, FIXED64);
const ZERO_COUNT_INTEGER: u32 = tag(6, VARINT);
const ZERO_COUNT_FLOAT: u32 = tag(7, FIXED64);
const NEGATIVE_SPANS: u32 = tag(8, LENGTH_DELIMITED);
const NEGATIVE_DELTA: u32 = tag(9, VARINT);
const NEGATIVE_DELTAS: u32 = tag(9, LENGTH_DELIMITED);
const NEGATIVE_COUNT: u32 = tag(10, FIXED64);
const NEGATIVE_COUNTS: u32 = tag(10, LENGTH_DELIMITED);
const POSITIVE_SPANS: u32 = tag(11, LENGTH_DELIMITED);
const POSITIVE_DELTA: u32 = tag(12, VARINT);
const POSITIVE_DELTAS: u32 = tag(12, LENGTH_DELIMITED);
const POSITIVE_COUNT: u32 = tag(13, FIXED64);
const POSITIVE_COUNTS: u32 = tag(13, LENGTH_DELIMITED);
const RESET_HINT: u32 = tag(14, VARINT);
const TIMESTAMP: u32 = tag(15, VARINT);
const CUSTOM_VALUE: u32 = tag(16, FIXED64);
const CUSTOM_VALUES: u32 = tag(16, LENGTH_DELIMITED);
const FIELDS: [u32; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// Number of an integer or a float histogram: which, the sender says by the field that it uses.
enum Number {
    Integer(u64),
    Float(f64),
}

/// A message as it is on the wire. Lists stop growing at [`BUCKETS_MAX`] and set `too_many`.
struct Wire {
    count: Number,
    zero_count: Number,
    sum: f64,
    schema: i32,
    zero_threshold: f64,
    negative: Side,
    positive: Side,
    reset_hint: u64,
    timestamp: i64,
    custom_values: Vec<f64>,
    too_many: bool,
}

/// Buckets of the observations below or above zero.
#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

/// A histogram and its timestamp in ms.
pub(super) fn read(message: Reader<'_>) -> Result<Result<(i64, Histogram), Invalid>, Malformed> {
    let wire = Wire::read(message)?;
    let timestamp = wire.timestamp;
    Ok(wire.into_histogram().map(|histogram| (timestamp, histogram)))
}

/// Bytes on the heap that a histogram takes.
pub(super) fn heap_bytes(histogram: &Histogram) -> usize {
    let buckets = match &histogram.counts {
        Counts::Integer { positive, negative, .. } => positive.len() + negative.len(),
        Counts::Float { positive, negative, .. } => positive.len() + negative.len(),
    };
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    8 * (buckets + spans + histogram.custom_values.len())
}

impl Wire {
    fn read(mut message: Reader<'_>) -> Result<Wire, Malformed> {
        let mut wire = Wire {
            count: Number::Integer(0),
            zero_count: Number::Integer(0),
            sum: 0.0,
            schema: 0,
            zero_threshold: 0.0,
            negative: Side::default(),
            positive: Side::default(),
            reset_hint: 0,
            timestamp: 0,
            custom_values: Vec::new(),
            too_many: false,
        };
        while !message.is_empty() {
            let tag = message.tag()?;
            wire.field(tag, &mut message)?;
        }
        Ok(wire)
    }

    fn field(&mut self, tag: u32, message: &mut Reader<'_>) -> Result<(), Malformed> {
        match tag {
            COUNT_INTEGER => self.count = Number::Integer(message.varint()?),
            COUNT_FLOAT => self.count = Number::Float(message.double()?),
            SUM => self.sum = message.double()?,
            SCHEMA => self.schema = signed(message.varint()?),
            ZERO_THRESHOLD => self.zero_threshold = message.double()?,
            ZERO_COUNT_INTEGER => self.zero_count = Number::Integer(message.varint()?),
            ZERO_COUNT_FLOAT => self.zero_count = Number::Float(message.double()?),
            RESET_HINT => self.reset_hint = message.varint()?,
            TIMESTAMP => self.timestamp = message.varint()?.cast_signed(),
            _ => return self.list(tag, message),
        }
        Ok(())
    }

    fn list(&mut self, tag: u32, message: &mut Reader<'_>) -> Result<(), Malformed> {
        let full = &mut self.too_many;
        match tag {
            NEGATIVE_SPANS => push(&mut self.negative.spans, span(message.message()?)?, full),
            POSITIVE_SPANS => push(&mut self.positive.spans, span(message.message()?)?, full),
            NEGATIVE_DELTA => push(&mut self.negative.deltas, delta(message)?, full),
            POSITIVE_DELTA => push(&mut self.positive.deltas, delta(message)?, full),
            NEGATIVE_COUNT => push(&mut self.negative.counts, message.double()?, full),
            POSITIVE_COUNT => push(&mut self.positive.counts, message.double()?, full),
            CUSTOM_VALUE => push(&mut self.custom_values, message.double()?, full),
            NEGATIVE_DELTAS => packed(message, &mut self.negative.deltas, delta, full)?,
            POSITIVE_DELTAS => packed(message, &mut self.positive.deltas, delta, full)?,
            NEGATIVE_COUNTS => packed(message, &mut self.negative.counts, double, full)?,
            POSITIVE_COUNTS => packed(message, &mut self.positive.counts, double, full)?,
            CUSTOM_VALUES => packed(message, &mut self.custom_values, double, full)?,
            other => message.skip(other, &FIELDS)?,
        }
        Ok(())
    }

    fn into_histogram(self) -> Result<Histogram, Invalid> {
        if self.too_many {
            return Err(TOO_MANY);
        }
        let counts = match self.count {
            Number::Integer(count) => Counts::Integer {
                count,
                zero_count: match self.zero_count {
                    Number::Integer(zero_count) => zero_count,
                    Number::Float(_) => return Err("histogram has a count of each kind"),
                },
                positive: self.positive.absolute()?,
                negative: self.negative.absolute()?,
            },
            Number::Float(count) => Counts::Float {
                count,
                zero_count: match self.zero_count {
                    Number::Float(zero_count) => zero_count,
                    // A float histogram without observations near zero leaves the field out.
                    Number::Integer(0) => 0.0,
                    Number::Integer(_) => return Err("histogram has a count of each kind"),
                },
                positive: self.positive.counts,
                negative: self.negative.counts,
            },
        };
        let hint = u8::try_from(self.reset_hint).ok().and_then(ResetHint::from_byte);
        let histogram = Histogram {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            reset_hint: hint.ok_or("histogram has an unknown reset hint")?,
            positive_spans: self.positive.spans,
            negative_spans: self.negative.spans,
            counts,
            custom_values: self.custom_values,
        };
        histogram.validate()?;
        Ok(histogram)
    }
}

impl Side {
    fn absolute(&self) -> Result<Vec<u64>, Invalid> {
        let mut count = 0i64;
        let absolute = |delta: &i64| {
            count = count.checked_add(*delta)?;
            u64::try_from(count).ok()
        };
        let counts: Option<Vec<u64>> = self.deltas.iter().map(absolute).collect();
        counts.ok_or("histogram has a bucket with a count below zero or beyond 2^63")
    }
}

fn signed(varint: u64) -> i32 {
    // As protobuf has it, bits beyond 32 are dropped before the zigzag is undone.
    let bits = varint as u32;
    (bits >> 1).cast_signed() ^ -((bits & 1).cast_signed())
}

fn delta(message: &mut Reader<'_>) -> Result<i64, Malformed> {
    message.varint().map(icecore_storage::encoding::varint::unzigzag)
}

fn double(message: &mut Reader<'_>) -> Result<f64, Malformed> {
    message.double()
}

fn span(mut message: Reader<'_>) -> Result<Span, Malformed> {
    const OFFSET: u32 = tag(1, VARINT);
    const LENGTH: u32 = tag(2, VARINT);
    let mut span = Span { offset: 0, length: 0 };
    while !message.is_empty() {
        match message.tag()? {
            OFFSET => span.offset = signed(message.varint()?),
            LENGTH => span.length = message.varint()? as u32,
            other => message.skip(other, &[1, 2])?,
        }
    }
    Ok(span)
}

fn packed<T>(
    message: &mut Reader<'_>,
    list: &mut Vec<T>,
    element: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
    full: &mut bool,
) -> Result<(), Malformed> {
    let mut elements = message.message()?;
    while !elements.is_empty() {
        push(list, element(&mut elements)?, full);
    }
    Ok(())
}

fn push<T>(list: &mut Vec<T>, element: T, full: &mut bool) {
    if list.len() < BUCKETS_MAX {
        list.push(element);
    } else {
        *full = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore_storage::encoding::varint;

    /// A message from varint fields; lists come packed.
    fn message(fields: &[(u32, &[u64])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, values) in fields {
            varint::write(&mut out, u64::from(*tag));
            let mut payload = Vec::new();
            values.iter().for_each(|value| varint::write(&mut payload, *value));
            if tag & 7 == LENGTH_DELIMITED {
                varint::write(&mut out, payload.len() as u64);
            }
            out.extend_from_slice(&payload);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<(i64, Histogram), Invalid> {
        read(Reader::new(bytes, 0)).unwrap()
    }

    const TWO_BUCKETS: (u32, &[u64]) = (POSITIVE_SPANS, &[0x10, 2]);

    #[test]
    fn deltas_become_counts() {
        let bytes = message(&[TWO_BUCKETS, (POSITIVE_DELTAS, &[6, 3]), (TIMESTAMP, &[42])]);
        let (timestamp, histogram) = decode(&bytes).unwrap();
        assert_eq!(timestamp, 42);
        let Counts::Integer { positive, .. } = &histogram.counts else { panic!("{histogram:?}") };
        assert_eq!(positive, &[3, 1]);
        let one_by_one = message(&[
            TWO_BUCKETS,
            (POSITIVE_DELTA, &[6]),
            (POSITIVE_DELTA, &[3]),
            (TIMESTAMP, &[42]),
        ]);
        assert_eq!(decode(&one_by_one).unwrap(), (42, histogram));
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        let below_zero = message(&[TWO_BUCKETS, (POSITIVE_DELTAS, &[6, 9])]);
        let overflow = message(&[TWO_BUCKETS, (POSITIVE_DELTAS, &[u64::MAX - 1, u64::MAX - 1])]);
        let missing = message(&[TWO_BUCKETS, (POSITIVE_DELTAS, &[6])]);
        let huge_span = message(&[(POSITIVE_SPANS, &[0x10, u64::from(u32::MAX)])]);
        let hint = message(&[(RESET_HINT, &[9])]);
        let schema = message(&[(SCHEMA, &[100])]);
        let many = message(&[(POSITIVE_DELTAS, &[0; BUCKETS_MAX + 1])]);
        for bytes in [below_zero, overflow, missing, huge_span, hint, schema, many] {
            assert!(decode(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn signed_numbers_are_zigzag() {
        assert_eq!([0, 1, 2, 105].map(signed), [0, -1, 1, -53]);
        assert_eq!(
            [u64::from(u32::MAX), u64::from(u32::MAX) - 1].map(signed),
            [i32::MIN, i32::MAX]
        );
    }
}
