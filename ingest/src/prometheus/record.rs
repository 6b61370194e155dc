//! What the records of Prometheus's log say.
//!
//! A record is a kind and rows of it. Series are named by references that their own records gave;
//! references and times of samples are differences from those that stand before the first row.

use icecore_storage::labels::{LabelError, Labels, push_pair};
use icecore_storage::metrics::batch::{Exemplar, Metadata, MetricKind};
use icecore_storage::metrics::histogram::{
    CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint, Span,
};
use icecore_storage::time::TimeRange;

use super::Damage;
use super::cursor::Cursor;
use super::index::labels_of;

/// Labels, or why no series can have them.
type SeriesLabels = Result<Labels, LabelError>;

/// A record; every row begins with the reference of its series.
#[derive(Clone, Debug)]
pub enum Record {
    Series(Vec<(u64, SeriesLabels)>),
    Samples(Vec<(u64, i64, f64)>),
    Histograms(Vec<(u64, i64, Histogram)>),
    Exemplars(Vec<(u64, Result<Exemplar, LabelError>)>),
    Tombstones(Vec<(u64, TimeRange)>),
    /// The family is that of the series.
    Metadata(Vec<(u64, Metadata)>),
    /// Out-of-order samples up to here are in chunks: nothing that they do not say themselves.
    Markers,
}

/// Numbers of the kinds; never reused by Prometheus.
mod kind {
    pub(super) const SERIES: u8 = 1;
    pub(super) const SAMPLES: u8 = 2;
    pub(super) const TOMBSTONES: u8 = 3;
    pub(super) const EXEMPLARS: u8 = 4;
    pub(super) const MARKERS: u8 = 5;
    pub(super) const METADATA: u8 = 6;
    pub(super) const HISTOGRAMS: u8 = 7;
    pub(super) const FLOAT_HISTOGRAMS: u8 = 8;
    pub(super) const CUSTOM_HISTOGRAMS: u8 = 9;
    pub(super) const CUSTOM_FLOAT_HISTOGRAMS: u8 = 10;
    /// Records with start timestamps, of which no description is published.
    pub(super) const WITH_START_TIMESTAMPS: std::ops::RangeInclusive<u8> = 11..=15;
}

impl Record {
    /// Reads all of a record that begins at `offset` of its segment; offsets in errors are that
    /// of the record, since its own bytes may be packed.
    pub fn parse(payload: &[u8], offset: u64) -> Result<Record, Damage> {
        let mut rest = Cursor::new(payload, 0);
        let parsed = match rest.byte("the kind of a record") {
            Ok(number) => parse_rows(number, &mut rest),
            Err(damage) => Err(damage),
        };
        parsed.map_err(|inside| {
            let what = format!("byte {} of the record here: {}", inside.offset, inside.what);
            Damage::new(offset, what)
        })
    }
}

fn parse_rows(number: u8, rest: &mut Cursor<'_>) -> Result<Record, Damage> {
    Ok(match number {
        kind::SERIES => Record::Series(rows(rest, |rest| Ok((series(rest)?, labels(rest)?)))?),
        kind::SAMPLES => {
            Record::Samples(based_rows(rest, |r, id, at| Ok((id, at, r.float("a value")?)))?)
        }
        kind::TOMBSTONES => Record::Tombstones(rows(rest, |rest| {
            let series = series(rest)?;
            let start_ms = rest.signed("a first time")?;
            Ok((series, TimeRange::new(start_ms, rest.signed("a last time")?)))
        })?),
        kind::EXEMPLARS => Record::Exemplars(based_rows(rest, |rest, id, timestamp| {
            let value = rest.float("the value of an exemplar")?;
            Ok((id, labels(rest)?.map(|labels| Exemplar { labels, timestamp, value })))
        })?),
        kind::MARKERS => Record::Markers,
        kind::METADATA => Record::Metadata(rows(rest, metadata)?),
        kind::HISTOGRAMS | kind::CUSTOM_HISTOGRAMS => {
            Record::Histograms(based_rows(rest, |r, id, at| Ok((id, at, integers(r)?)))?)
        }
        kind::FLOAT_HISTOGRAMS | kind::CUSTOM_FLOAT_HISTOGRAMS => {
            Record::Histograms(based_rows(rest, |r, id, at| Ok((id, at, floats(r)?)))?)
        }
        number if kind::WITH_START_TIMESTAMPS.contains(&number) => {
            let what = format!(
                "records of kind {number} (samples with start timestamps, an experiment of \
                 Prometheus 3) are not known"
            );
            return Err(rest.damage(what));
        }
        number => return Err(rest.damage(format!("records of kind {number} are not known"))),
    })
}

/// Rows up to the end.
fn rows<'a, T>(
    rest: &mut Cursor<'a>,
    mut row: impl FnMut(&mut Cursor<'a>) -> Result<T, Damage>,
) -> Result<Vec<T>, Damage> {
    let mut rows = Vec::new();
    while !rest.is_empty() {
        rows.push(row(rest)?);
    }
    Ok(rows)
}

/// Rows up to the end, whose references and times are differences from those before the first.
fn based_rows<'a, T>(
    rest: &mut Cursor<'a>,
    mut row: impl FnMut(&mut Cursor<'a>, u64, i64) -> Result<T, Damage>,
) -> Result<Vec<T>, Damage> {
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let first_series = series(rest)?;
    let first_time = rest.be64("the first time")? as i64;
    rows(rest, |rest| {
        let series = first_series.wrapping_add_signed(rest.signed("a series")?);
        let timestamp = first_time.wrapping_add(rest.signed("a time")?);
        row(rest, series, timestamp)
    })
}

fn series(rest: &mut Cursor<'_>) -> Result<u64, Damage> {
    rest.be64("the reference of a series")
}

fn labels(rest: &mut Cursor<'_>) -> Result<SeriesLabels, Damage> {
    let count = rest.count(2, "the count of labels")?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push((rest.bytes("the name of a label")?, rest.bytes("the value of a label")?));
    }
    let mut bytes = Vec::new();
    pairs.iter().for_each(|(name, value)| push_pair(&mut bytes, name, value));
    Ok(Labels::from_canonical_bytes(&bytes).or_else(|_| labels_of(&pairs)))
}

fn metadata(rest: &mut Cursor<'_>) -> Result<(u64, Metadata), Damage> {
    let series = rest.varint("the reference of a series")?;
    let kind = match rest.byte("the type of a metric")? {
        1 => MetricKind::Counter,
        2 => MetricKind::Gauge,
        3 => MetricKind::Histogram,
        4 => MetricKind::GaugeHistogram,
        5 => MetricKind::Summary,
        6 => MetricKind::Info,
        7 => MetricKind::StateSet,
        _ => MetricKind::Unknown,
    };
    let mut of = Metadata { family: String::new(), kind, help: String::new(), unit: String::new() };
    for _ in 0..rest.count(2, "the count of fields")? {
        let name = rest.bytes("the name of a field")?;
        let value = rest.bytes("the value of a field")?;
        match name {
            b"UNIT" => of.unit = String::from_utf8_lossy(value).into_owned(),
            b"HELP" => of.help = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    Ok((series, of))
}

/// What integer and float histograms have in common, up to their buckets.
fn spans(rest: &mut Cursor<'_>) -> Result<Vec<Span>, Damage> {
    let count = rest.count(2, "the count of spans")?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let at = rest.clone();
        let offset = i32::try_from(rest.signed("the offset of a span")?);
        let length = u32::try_from(rest.varint("the length of a span")?);
        let (Ok(offset), Ok(length)) = (offset, length) else {
            return Err(at.damage("a span has more than 32 bits"));
        };
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

fn hint_and_schema(rest: &mut Cursor<'_>) -> Result<(ResetHint, i32), Damage> {
    let at = rest.clone();
    let hint = ResetHint::from_byte(rest.byte("a reset hint")?);
    let hint = hint.ok_or_else(|| at.damage("the reset hint is not known"))?;
    let schema = i32::try_from(rest.signed("a schema")?);
    Ok((hint, schema.map_err(|_| at.damage("the schema has more than 32 bits"))?))
}

fn custom_values(rest: &mut Cursor<'_>, schema: i32) -> Result<Vec<f64>, Damage> {
    if schema != CUSTOM_BUCKETS_SCHEMA {
        return Ok(Vec::new());
    }
    let count = rest.count(8, "the count of bounds")?;
    (0..count).map(|_| rest.float("a bound")).collect()
}

fn integers(rest: &mut Cursor<'_>) -> Result<Histogram, Damage> {
    histogram(
        rest,
        |rest| {
            let zero_count = rest.varint("the count of the zero bucket")?;
            let count = rest.varint("a count")?;
            Ok((count, zero_count))
        },
        |rest, (count, zero_count)| {
            // Each bucket is its difference from the one before.
            let mut buckets = || {
                let count = rest.count(1, "the count of buckets")?;
                let mut bucket = 0u64;
                let mut next = || {
                    bucket = bucket.wrapping_add_signed(rest.signed("a bucket")?);
                    Ok(bucket)
                };
                (0..count).map(|_| next()).collect::<Result<Vec<u64>, Damage>>()
            };
            Ok(Counts::Integer { count, zero_count, positive: buckets()?, negative: buckets()? })
        },
    )
}

fn floats(rest: &mut Cursor<'_>) -> Result<Histogram, Damage> {
    histogram(
        rest,
        |rest| {
            let zero_count = rest.float("the count of the zero bucket")?;
            let count = rest.float("a count")?;
            Ok((count, zero_count))
        },
        |rest, (count, zero_count)| {
            let mut buckets = || {
                let count = rest.count(8, "the count of buckets")?;
                (0..count).map(|_| rest.float("a bucket")).collect::<Result<Vec<f64>, Damage>>()
            };
            Ok(Counts::Float { count, zero_count, positive: buckets()?, negative: buckets()? })
        },
    )
}

/// A histogram whose counts are read by `totals`, and further on by `counts`, which is given them.
fn histogram<T>(
    rest: &mut Cursor<'_>,
    totals: impl Fn(&mut Cursor<'_>) -> Result<T, Damage>,
    counts: impl Fn(&mut Cursor<'_>, T) -> Result<Counts, Damage>,
) -> Result<Histogram, Damage> {
    let (reset_hint, schema) = hint_and_schema(rest)?;
    let zero_threshold = rest.float("a zero threshold")?;
    let totals = totals(rest)?;
    let sum = rest.float("a sum")?;
    let (positive_spans, negative_spans) = (spans(rest)?, spans(rest)?);
    let counts = counts(rest, totals)?;
    let custom_values = custom_values(rest, schema)?;
    Ok(Histogram {
        schema,
        zero_threshold,
        sum,
        reset_hint,
        positive_spans,
        negative_spans,
        counts,
        custom_values,
    })
}

#[cfg(test)]
mod tests {
    use icecore_storage::encoding::varint;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_differences_from_what_stands_before_them() {
        let mut payload = vec![kind::SAMPLES];
        payload.extend_from_slice(&100u64.to_be_bytes());
        payload.extend_from_slice(&5000i64.to_be_bytes());
        for (series, time, value) in [(0, 0, 1.5f64), (-99, 7, f64::NAN)] {
            varint::write_signed(&mut payload, series);
            varint::write_signed(&mut payload, time);
            payload.extend_from_slice(&value.to_bits().to_be_bytes());
        }
        let Record::Samples(rows) = Record::parse(&payload, 0).unwrap() else { panic!("samples") };
        let bits: Vec<_> = rows.iter().map(|(id, at, v)| (*id, *at, v.to_bits())).collect();
        let expected = [(100, 5000, 1.5f64.to_bits()), (1, 5007, f64::NAN.to_bits())];
        assert_eq!(bits, expected);
        // The second row begins behind 17 bytes of base and a row of 10.
        for end in (2..payload.len()).filter(|end| ![17, 27].contains(end)) {
            let error = Record::parse(&payload[..end], 64).unwrap_err();
            assert_eq!(error.offset, 64, "{error}");
        }
    }

    #[test]
    fn buckets_of_custom_bounds_are_running_sums() {
        let mut payload = vec![kind::CUSTOM_HISTOGRAMS];
        payload.extend_from_slice(&[0; 16]);
        payload.extend_from_slice(&[2, 4, ResetHint::NotReset as u8]);
        varint::write_signed(&mut payload, i64::from(CUSTOM_BUCKETS_SCHEMA));
        payload.extend_from_slice(&0f64.to_bits().to_be_bytes());
        payload.extend_from_slice(&[0, 12]);
        payload.extend_from_slice(&3.5f64.to_bits().to_be_bytes());
        // One span of two buckets, none negative; 5 and 2 more; no negative; two bounds.
        payload.extend_from_slice(&[1, 0, 2, 0, 2, 10, 4, 0, 2]);
        for bound in [0.5f64, 1.0] {
            payload.extend_from_slice(&bound.to_bits().to_be_bytes());
        }
        let Record::Histograms(rows) = Record::parse(&payload, 0).unwrap() else {
            panic!("histograms");
        };
        let (series, timestamp, histogram) = &rows[0];
        assert_eq!((*series, *timestamp, histogram.sum), (1, 2, 3.5));
        assert_eq!(histogram.custom_values, [0.5, 1.0]);
        let counts = Counts::Integer {
            count: 12,
            zero_count: 0,
            positive: vec![5, 7],
            negative: Vec::new(),
        };
        assert_eq!(histogram.counts, counts);
        assert_eq!(histogram.validate(), Ok(()));
    }

    #[test]
    fn kinds_of_newer_versions_are_named() {
        let error = Record::parse(&[11, 0], 7).unwrap_err().to_string();
        assert!(error.contains("byte 7") && error.contains("kind 11"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(kind in 0u8..12, bytes: Vec<u8>) {
            let payload = [&[kind][..], &bytes].concat();
            let _ = Record::parse(&payload, 0);
        }
    }
}
