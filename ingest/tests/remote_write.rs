//! Remote write 1.0 against structs that prost decodes: the same messages, another reader.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use icecore_ingest::remote_write::{batch, decode};
use icecore_ingest::{DecodeError, Encoding};
use icecore_storage::labels::Labels;
use icecore_storage::limits::Limits;
use icecore_storage::metrics::batch::{Batch, BatchSeries, MetricKind};
use icecore_storage::metrics::histogram::Counts;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<MetricMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    exemplars: Vec<Exemplar>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct MetricMetadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    family: String,
    #[prost(string, tag = "4")]
    help: String,
    #[prost(string, tag = "5")]
    unit: String,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    count_float: Option<f64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    zero_count: Option<u64>,
    #[prost(double, optional, tag = "7")]
    zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    reset_hint: i32,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    custom_values: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

fn labels_of(labels: &[Label]) -> Labels {
    Labels::from_pairs(labels.iter().map(|label| (&label.name, &label.value))).unwrap()
}

/// What the batch holds, in the words of the request; series without rows are left out of it.
fn check(request: &WriteRequest, batch: &Batch) {
    let limits = Limits::default();
    let with_rows = |series: &&TimeSeries| {
        !series.samples.is_empty() || !series.exemplars.is_empty() || !series.histograms.is_empty()
    };
    let expected: Vec<&TimeSeries> = request.timeseries.iter().filter(with_rows).collect();
    assert_eq!(batch.refused, Default::default());
    assert_eq!(batch.series.len(), expected.len());
    let ends = batch.series.iter().skip(1).map(|series| series.samples_start as usize);
    let ends = ends.chain([batch.timestamps.len()]);
    let mut histograms = batch.histograms.iter();
    let mut exemplars = batch.exemplars.iter();
    for (i, ((series, end), expected)) in batch.series.iter().zip(ends).zip(expected).enumerate() {
        let labels = (batch.key_form)(batch.key(series), &limits).unwrap();
        assert_eq!(labels, labels_of(&expected.labels));
        let rows = series.samples_start as usize..end;
        let got = batch.timestamps[rows.clone()].iter().zip(&batch.values[rows]);
        let got: Vec<_> = got.map(|(timestamp, value)| (*timestamp, value.to_bits())).collect();
        let samples = expected.samples.iter();
        let samples: Vec<_> = samples.map(|s| (s.timestamp, s.value.to_bits())).collect();
        assert_eq!(got, samples);
        for expected in &expected.exemplars {
            let row = exemplars.next().unwrap();
            assert_eq!(row.series as usize, i);
            assert_eq!(row.exemplar.labels, labels_of(&expected.labels));
            assert_eq!(row.exemplar.timestamp, expected.timestamp);
            assert_eq!(row.exemplar.value.to_bits(), expected.value.to_bits());
        }
        for expected in &expected.histograms {
            let row = histograms.next().unwrap();
            assert_eq!((row.series as usize, row.timestamp), (i, expected.timestamp));
            check_histogram(expected, &row.histogram);
        }
    }
    assert!(histograms.next().is_none() && exemplars.next().is_none());
    assert_eq!(batch.metadata.len(), request.metadata.len());
    for (got, expected) in batch.metadata.iter().zip(&request.metadata) {
        assert_eq!(got.kind, MetricKind::from_byte(expected.kind as u8));
        assert_eq!(
            (&got.family, &got.help, &got.unit),
            (&expected.family, &expected.help, &expected.unit)
        );
    }
}

fn check_histogram(wire: &Histogram, got: &icecore_storage::metrics::histogram::Histogram) {
    let absolute = |deltas: &[i64]| {
        let sum = |count: &mut i64, delta: &i64| {
            *count += delta;
            Some(*count as u64)
        };
        deltas.iter().scan(0, sum).collect::<Vec<u64>>()
    };
    assert_eq!((got.schema, got.sum.to_bits()), (wire.schema, wire.sum.to_bits()));
    assert_eq!((got.zero_threshold, got.reset_hint as i32), (wire.zero_threshold, wire.reset_hint));
    assert_eq!(got.custom_values, wire.custom_values);
    let spans = |spans: &[Span]| spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>();
    let got_spans: Vec<_> = got.positive_spans.iter().map(|s| (s.offset, s.length)).collect();
    assert_eq!(got_spans, spans(&wire.positive_spans));
    match &got.counts {
        Counts::Integer { count, zero_count, positive, negative } => {
            assert_eq!((Some(*count), *zero_count), (wire.count, wire.zero_count.unwrap_or(0)));
            assert_eq!(positive, &absolute(&wire.positive_deltas));
            assert_eq!(negative, &absolute(&wire.negative_deltas));
        }
        Counts::Float { count, positive, negative, .. } => {
            assert_eq!(Some(*count), wire.count_float);
            assert_eq!(positive, &wire.positive_counts);
            assert_eq!(negative, &wire.negative_counts);
        }
    }
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

fn any_labels() -> impl Strategy<Value = Vec<Label>> {
    let names =
        proptest::sample::subsequence(vec!["__name__", "instance", "job", "le", "zone", "é"], 1..6);
    let names = names.prop_map(|mut names| {
        names.retain(|name| *name != "__name__");
        names.push("__name__");
        names
    });
    (names.prop_shuffle(), vec("[a-z\"\\\\é]{1,40}", 6)).prop_map(|(names, values)| {
        let pairs = names.into_iter().zip(values);
        pairs.map(|(name, value)| Label { name: name.into(), value }).collect()
    })
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let value = prop_oneof![any::<u64>().prop_map(f64::from_bits), Just(0.0), Just(1.5)];
    let timestamp = prop_oneof![any::<i64>(), Just(0), 1_700_000_000_000..1_800_000_000_000i64];
    (value, timestamp).prop_map(|(value, timestamp)| Sample { value, timestamp })
}

fn any_exemplar() -> impl Strategy<Value = Exemplar> {
    (vec("[0-9a-f]{1,32}", 0..2), any_sample()).prop_map(|(ids, sample)| Exemplar {
        labels: ids.into_iter().map(|value| Label { name: "trace_id".into(), value }).collect(),
        value: sample.value,
        timestamp: sample.timestamp,
    })
}

fn any_histogram() -> impl Strategy<Value = Histogram> {
    let counts = vec(0..1_000_000_000u32, 0..30);
    (any::<bool>(), any::<bool>(), counts.clone(), counts, -4..=8i32, 0..4i32, any_sample())
        .prop_map(|(float, custom, positive, negative, schema, reset_hint, sample)| {
            let negative = if custom { Vec::new() } else { negative };
            let spans = |counts: &[u32]| {
                let (first, rest) = (counts.len() / 2, counts.len() - counts.len() / 2);
                let offset = if custom { 0 } else { -7 };
                vec![
                    Span { offset, length: first as u32 },
                    Span { offset: i32::from(!custom), length: rest as u32 },
                ]
            };
            let deltas = |counts: &[u32]| {
                let mut last = 0;
                counts
                    .iter()
                    .map(|c| i64::from(*c) - std::mem::replace(&mut last, i64::from(*c)))
                    .collect()
            };
            let floats =
                |counts: &[u32]| counts.iter().map(|count| f64::from(*count) / 7.0).collect();
            let (positive_deltas, positive_counts) =
                if float { (vec![], floats(&positive)) } else { (deltas(&positive), vec![]) };
            let (negative_deltas, negative_counts) =
                if float { (vec![], floats(&negative)) } else { (deltas(&negative), vec![]) };
            Histogram {
                count: (!float).then_some(12),
                count_float: float.then_some(1.25),
                sum: sample.value,
                schema: if custom { -53 } else { schema },
                zero_threshold: 1e-128,
                zero_count: (!float).then_some(3),
                zero_count_float: float.then_some(0.5),
                negative_spans: spans(&negative),
                negative_deltas,
                negative_counts,
                positive_spans: spans(&positive),
                positive_deltas,
                positive_counts,
                reset_hint,
                timestamp: sample.timestamp,
                custom_values: if custom { (0..40).map(f64::from).collect() } else { vec![] },
            }
        })
}

fn any_request() -> impl Strategy<Value = WriteRequest> {
    let series = (
        any_labels(),
        vec(any_sample(), 0..4),
        vec(any_exemplar(), 0..3),
        vec(any_histogram(), 0..2),
    );
    let series = series.prop_map(|(labels, samples, exemplars, histograms)| TimeSeries {
        labels,
        samples,
        exemplars,
        histograms,
    });
    let metadata = (0..8i32, "[a-z]{1,9}", ".{0,20}", "[a-z]{0,5}");
    let metadata =
        metadata.prop_map(|(kind, family, help, unit)| MetricMetadata { kind, family, help, unit });
    (vec(series, 0..8), vec(metadata, 0..3))
        .prop_map(|(timeseries, metadata)| WriteRequest { timeseries, metadata })
}

proptest! {
    #[test]
    fn requests_arrive_whole(requests in vec(any_request(), 1..4), zstd: bool) {
        let mut batch = batch();
        for request in requests {
            let message = request.encode_to_vec();
            let body = if zstd { zstd::bulk::compress(&message, 1).unwrap() } else { snappy(&message) };
            let encoding = if zstd { Encoding::Zstd } else { Encoding::Snappy };
            decode(&body, encoding, &Limits::default(), &mut batch).unwrap();
            check(&request, &batch);
        }
    }

    /// The fields of a series in any order: labels need not lie together.
    #[test]
    fn fields_in_any_order_arrive_too(request in any_request(), seed: u64) {
        let mut seed = seed;
        let message = shuffled(&request, &mut seed);
        let mut batch = batch();
        decode(&message, Encoding::Identity, &Limits::default(), &mut batch).unwrap();
        check(&request, &batch);
    }

    #[test]
    fn what_prost_refuses_is_refused(request in any_request(), flip in any::<(prop::sample::Index, u8)>()) {
        let mut message = request.encode_to_vec();
        if !message.is_empty() {
            let at = flip.0.index(message.len());
            message[at] ^= flip.1;
        }
        let mut batch = batch();
        let decoded = decode(&message, Encoding::Identity, &Limits::default(), &mut batch);
        if WriteRequest::decode(&message[..]).is_ok() {
            prop_assert!(!matches!(decoded, Err(DecodeError::Malformed { .. })) || has_group(&message), "{decoded:?}");
        }
        check_consistent(&batch);
    }

    #[test]
    fn any_bytes_are_safe(bytes: Vec<u8>) {
        let mut batch = batch();
        for encoding in [Encoding::Identity, Encoding::Snappy, Encoding::Zstd] {
            let _ = decode(&bytes, encoding, &Limits::default(), &mut batch);
            check_consistent(&batch);
        }
    }

    #[test]
    fn cut_short_at_any_byte_is_no_panic(request in any_request()) {
        let message = request.encode_to_vec();
        let mut batch = batch();
        for end in 0..message.len() {
            let cut = &message[..end];
            let decoded = decode(cut, Encoding::Identity, &Limits::default(), &mut batch);
            if WriteRequest::decode(cut).is_err() {
                prop_assert!(decoded.is_err(), "{end} of {}", message.len());
                prop_assert!(batch.series.is_empty() && batch.metadata.is_empty());
            }
            check_consistent(&batch);
        }
    }
}

/// prost passes over groups; we do not.
fn has_group(message: &[u8]) -> bool {
    message.iter().any(|byte| matches!(byte & 7, 3 | 4))
}

/// What storage relies on, whatever the body was.
fn check_consistent(batch: &Batch) {
    assert_eq!(batch.timestamps.len(), batch.values.len());
    let mut start = 0;
    for series in &batch.series {
        assert!(
            series.samples_start >= start
                && series.samples_start as usize <= batch.timestamps.len()
        );
        start = series.samples_start;
        let _ = (batch.key_form)(batch.key(series), &Limits::default());
    }
    assert!(batch.series.first().is_none_or(|series| series.samples_start == 0));
    let series = batch.series.len();
    assert!(batch.histograms.iter().all(|row| (row.series as usize) < series));
    assert!(batch.exemplars.iter().all(|row| (row.series as usize) < series));
    assert!(batch.histograms.iter().all(|row| row.histogram.validate().is_ok()));
}

/// Encodes with the fields of each series interleaved; those of one number keep their order.
fn shuffled(request: &WriteRequest, seed: &mut u64) -> Vec<u8> {
    let mut random = |below: usize| {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % below
    };
    let mut whole =
        WriteRequest { timeseries: vec![], metadata: request.metadata.clone() }.encode_to_vec();
    for series in &request.timeseries {
        let mut queues = [
            series
                .labels
                .iter()
                .map(|l| TimeSeries { labels: vec![l.clone()], ..Default::default() })
                .collect::<Vec<_>>(),
            series
                .samples
                .iter()
                .map(|s| TimeSeries { samples: vec![*s], ..Default::default() })
                .collect(),
            series
                .exemplars
                .iter()
                .map(|e| TimeSeries { exemplars: vec![e.clone()], ..Default::default() })
                .collect(),
            series
                .histograms
                .iter()
                .map(|h| TimeSeries { histograms: vec![h.clone()], ..Default::default() })
                .collect(),
        ];
        queues.iter_mut().for_each(|queue| queue.reverse());
        let mut fields = Vec::new();
        while queues.iter().any(|queue| !queue.is_empty()) {
            if let Some(field) = queues[random(4)].pop() {
                fields.extend(field.encode_to_vec());
            }
        }
        whole.push(0x0a);
        prost::encoding::encode_varint(fields.len() as u64, &mut whole);
        whole.extend(fields);
    }
    whole
}

fn one_series(name: &str, samples: usize) -> TimeSeries {
    let labels = vec![Label { name: "__name__".into(), value: name.into() }];
    let samples =
        (0..samples).map(|i| Sample { value: i as f64, timestamp: 1_700_000_000_000 + i as i64 });
    TimeSeries { labels, samples: samples.collect(), ..Default::default() }
}

fn decode_with(request: &WriteRequest, limits: &Limits) -> Batch {
    let mut batch = batch();
    decode(&snappy(&request.encode_to_vec()), Encoding::Snappy, limits, &mut batch).unwrap();
    check_consistent(&batch);
    batch
}

#[test]
fn the_same_key_has_the_same_hash_in_every_request() {
    let request =
        WriteRequest { timeseries: vec![one_series("a", 1), one_series("b", 2)], metadata: vec![] };
    let first = decode_with(&request, &Limits::default());
    let second = decode_with(&request, &Limits::default());
    assert_eq!(first.series[0].key_hash, second.series[0].key_hash);
    assert_ne!(first.series[0].key_hash, first.series[1].key_hash);
}

#[test]
fn rows_after_a_limit_are_refused_and_counted() {
    let timeseries = (0..10).map(|i| one_series(&format!("m{i}"), 3)).collect();
    let request = WriteRequest { timeseries, metadata: vec![] };
    let batch = decode_with(&request, &Limits { series_per_request: 4, ..Limits::default() });
    assert_eq!((batch.series.len(), batch.timestamps.len(), batch.refused.rows), (4, 12, 18));
    assert_eq!(batch.refused.listed[0].series, "m4{}");
    assert_eq!(batch.refused.listed[0].rows, 3);
    let batch = decode_with(&request, &Limits { samples_per_request: 7, ..Limits::default() });
    assert_eq!((batch.series.len(), batch.timestamps.len(), batch.refused.rows), (3, 7, 23));
    assert_eq!(batch.refused.listed[0].rows, 2);
}

#[test]
fn a_bad_histogram_goes_alone() {
    let mut series = one_series("h", 1);
    series.histograms = vec![
        Histogram { schema: 99, timestamp: 1, ..Default::default() },
        Histogram { count: Some(0), timestamp: 2, ..Default::default() },
    ];
    let batch = decode_with(
        &WriteRequest { timeseries: vec![series], metadata: vec![] },
        &Limits::default(),
    );
    assert_eq!((batch.timestamps.len(), batch.histograms.len(), batch.refused.rows), (1, 1, 1));
    assert_eq!(batch.refused.listed[0].series, "h{}");
    assert!(batch.refused.listed[0].reason.contains("schema"), "{:?}", batch.refused);
}

#[test]
fn a_series_without_labels_takes_its_rows_along() {
    let mut nameless = one_series("x", 2);
    nameless.labels.clear();
    let timeseries = vec![one_series("a", 1), nameless, TimeSeries::default(), one_series("b", 1)];
    let batch = decode_with(&WriteRequest { timeseries, metadata: vec![] }, &Limits::default());
    assert_eq!((batch.series.len(), batch.timestamps.len(), batch.refused.rows), (2, 2, 3));
}

/// What a hostile body of 32 MiB decoded may cost besides itself.
const MEMORY_MAX: usize = 64 << 20;

fn memory(batch: &Batch) -> usize {
    let histograms = batch.histograms.iter().map(|row| match &row.histogram.counts {
        Counts::Integer { positive, negative, .. } => {
            8 * (positive.capacity() + negative.capacity())
        }
        Counts::Float { positive, negative, .. } => 8 * (positive.capacity() + negative.capacity()),
    });
    let exemplars = batch.exemplars.iter().map(|row| row.exemplar.labels.as_bytes().len() + 16);
    batch.series.capacity() * size_of::<BatchSeries>()
        + batch.timestamps.capacity() * 16
        + batch.histograms.capacity()
            * size_of_val(&batch.histograms[..1.min(batch.histograms.len())])
        + batch.exemplars.capacity() * size_of_val(&batch.exemplars[..1.min(batch.exemplars.len())])
        + batch.metadata.capacity() * size_of_val(&batch.metadata[..1.min(batch.metadata.len())])
        + histograms.sum::<usize>()
        + exemplars.sum::<usize>()
}

#[test]
fn amplifying_bodies_stay_within_their_memory() {
    let field = |tag: u8, payload: &[u8]| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(payload.len() as u64, &mut out);
        out.extend_from_slice(payload);
        out
    };
    let label = b"\x0a\x0d\x0a\x08__name__\x12\x01a";
    let one = |rows: &[u8]| field(0x0a, &[&label[..], rows].concat());
    let size = (32 << 20) - 64;
    let bodies = [
        ("empty series", b"\x0a\x00".repeat(size / 2)),
        ("smallest series", one(b"\x12\x00").repeat(size / 19)),
        ("smallest samples", one(&b"\x12\x00".repeat(size / 2))),
        ("smallest histograms", one(&b"\x22\x00".repeat(size / 2))),
        ("smallest exemplars", one(&b"\x1a\x00".repeat(size / 2))),
        ("labelled exemplars", one(&b"\x1a\x08\x0a\x06\x0a\x01a\x12\x01b".repeat(size / 10))),
        ("metadata", b"\x1a\x03\x12\x01a".repeat(size / 5)),
        ("one label field many times", field(0x0a, &label.repeat(size / 15))),
        ("unknown fields", b"\x7a\x00".repeat(size / 2)),
    ];
    let mut batch = batch();
    for (what, body) in &bodies {
        decode(&snappy(body), Encoding::Snappy, &Limits::default(), &mut batch).unwrap();
        assert!(memory(&batch) <= MEMORY_MAX, "{what}: {} MiB", memory(&batch) >> 20);
        assert!(batch.refused.listed.len() <= 10);
        check_consistent(&batch);
        batch = icecore_ingest::remote_write::batch();
    }
}
