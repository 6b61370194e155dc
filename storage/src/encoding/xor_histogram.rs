//! Prometheus's chunks of native histograms, bit for bit.
//!
//! A chunk states one *layout* (zero threshold, schema, spans, custom bounds) and then its samples:
//! integer histograms as differences of differences in *varbits*, float histograms XORed, each
//! number against the same number of the sample before. The bytes are those of Prometheus's
//! `tsdb/docs/format/chunks.md`, "Histogram chunk data" and "Float histogram chunk data".
//!
//! A reader takes every histogram of a counter chunk but the first as "no reset", so a chunk must
//! end where a counter was reset; it also must end where the layout changes, where counters turn
//! into gauges, and after a stale marker. Prometheus at times rewrites a chunk to make room for a
//! new bucket; [`histogram_chunks`] starts another one instead, which reads the same.
//!
//! What is lost, as in Prometheus: the reset hints of all but the first histogram of a chunk, and
//! everything of a stale marker but its being one.

use crate::encoding::bits::{BitReader, BitWriter};
use crate::encoding::xor::{ChunkEncoding, XorState};
use crate::encoding::xor_cut::{ResetHeader, SAMPLES_MAX, continuation, first_header, is_float};
use crate::encoding::xor_layout::{
    read_layout, read_varbit, read_varbit_signed, stale, write_layout, write_varbit,
    write_varbit_signed,
};
use crate::metrics::histogram::{BUCKETS_MAX, Counts, Histogram, Span};
use crate::metrics::sample::is_stale_nan;

/// Two bytes for the count of samples, one for flags.
const HEADER_BYTES: usize = 3;

/// A chunk ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramChunk {
    pub encoding: ChunkEncoding,
    /// Timestamps of the first and the last sample, ms.
    pub first_time: i64,
    pub last_time: i64,
    pub bytes: Vec<u8>,
}

/// Chunks of one series' histograms, which are valid and in ascending order of time.
pub fn histogram_chunks(samples: &[(i64, &Histogram)]) -> Vec<HistogramChunk> {
    let Some((_, first)) = samples.first() else { return Vec::new() };
    let mut header = first_header(first);
    let mut start = 0;
    let mut chunks = Vec::new();
    for end in 1..=samples.len() {
        let next = samples.get(end).and_then(|(_, next)| {
            continuation(samples[end - 1].1, next, header == ResetHeader::Gauge, end - start)
        });
        if end == samples.len() || next.is_some() {
            chunks.push(write_chunk(&samples[start..end], header));
            start = end;
            header = next.unwrap_or(ResetHeader::Unknown);
        }
    }
    chunks
}

fn write_chunk(samples: &[(i64, &Histogram)], header: ResetHeader) -> HistogramChunk {
    assert!(samples.len() <= SAMPLES_MAX, "chunks are cut before they are full");
    let (first_time, first) = samples[0];
    let encoding =
        if is_float(first) { ChunkEncoding::FloatHistogram } else { ChunkEncoding::Histogram };
    let mut bytes = (samples.len() as u16).to_be_bytes().to_vec();
    bytes.push(header as u8);
    let mut writer = BitWriter::new(&mut bytes);
    if is_stale_nan(first.sum) {
        write_layout(&mut writer, &stale(false, 0.0));
    } else {
        write_layout(&mut writer, first);
    }
    match &first.counts {
        Counts::Integer { .. } => write_integers(&mut writer, samples),
        Counts::Float { .. } => write_floats(&mut writer, samples),
    }
    writer.finish();
    HistogramChunk { encoding, first_time, last_time: samples[samples.len() - 1].0, bytes }
}

/// A number as the last value and the last difference of it, from which the next is told.
#[derive(Clone, Copy, Debug, Default)]
struct DeltaState {
    value: i64,
    delta: i64,
}

impl DeltaState {
    /// Before the second number; the difference starts at none.
    fn new(value: i64) -> DeltaState {
        DeltaState { value, delta: 0 }
    }

    fn write(&mut self, writer: &mut BitWriter<'_>, value: i64) {
        let delta = value.wrapping_sub(self.value);
        write_varbit_signed(writer, delta.wrapping_sub(self.delta));
        *self = DeltaState { value, delta };
    }

    fn read(&mut self, reader: &mut BitReader<'_>) -> Option<i64> {
        self.delta = self.delta.wrapping_add(read_varbit_signed(reader)?);
        self.value = self.value.wrapping_add(self.delta);
        Some(self.value)
    }
}

/// Buckets as a chunk has them: the first count, then each less the one before it.
fn bucket_differences<'a>(
    positive: &'a [u64],
    negative: &'a [u64],
) -> impl Iterator<Item = i64> + 'a {
    let differences = |buckets: &'a [u64]| {
        let before = std::iter::once(&0).chain(buckets);
        buckets.iter().zip(before).map(|(bucket, before)| bucket.wrapping_sub(*before) as i64)
    };
    differences(positive).chain(differences(negative))
}

fn write_integers(writer: &mut BitWriter<'_>, samples: &[(i64, &Histogram)]) {
    let mut time = DeltaState::default();
    let mut counts = [DeltaState::default(); 2];
    let mut sum = XorState::new(0.0);
    let mut buckets: Vec<DeltaState> = Vec::new();
    for (row, (timestamp, histogram)) in samples.iter().enumerate() {
        let Counts::Integer { count, zero_count, positive, negative } = &histogram.counts else {
            unreachable!("chunks are cut where integers turn into floats");
        };
        let is_stale = is_stale_nan(histogram.sum);
        if row == 0 {
            time = DeltaState::new(*timestamp);
            sum = XorState::new(histogram.sum);
            let shown = if is_stale { [0, 0] } else { [*count, *zero_count] };
            counts = shown.map(|count| DeltaState::new(count as i64));
            write_varbit_signed(writer, *timestamp);
            shown.iter().for_each(|&count| write_varbit(writer, count));
            writer.write(histogram.sum.to_bits(), 64);
            if !is_stale {
                for difference in bucket_differences(positive, negative) {
                    write_varbit_signed(writer, difference);
                    buckets.push(DeltaState::new(difference));
                }
            }
            continue;
        }
        time.write(writer, *timestamp);
        if is_stale {
            // A marker's counts are not looked at, and only markers follow it in a chunk.
            writer.write(0b00, 2);
            sum.write(writer, histogram.sum);
            continue;
        }
        counts[0].write(writer, *count as i64);
        counts[1].write(writer, *zero_count as i64);
        sum.write(writer, histogram.sum);
        for (bucket, difference) in buckets.iter_mut().zip(bucket_differences(positive, negative)) {
            bucket.write(writer, difference);
        }
    }
}

fn write_floats(writer: &mut BitWriter<'_>, samples: &[(i64, &Histogram)]) {
    let mut time = DeltaState::default();
    let mut numbers: Vec<XorState> = Vec::new();
    for (row, (timestamp, histogram)) in samples.iter().enumerate() {
        let Counts::Float { count, zero_count, positive, negative } = &histogram.counts else {
            unreachable!("chunks are cut where floats turn into integers");
        };
        // A marker shows its sum only.
        let shown = if is_stale_nan(histogram.sum) {
            (0.0, 0.0, &[][..], &[][..])
        } else {
            (*count, *zero_count, &positive[..], &negative[..])
        };
        let heads = [shown.0, shown.1, histogram.sum];
        let values = heads.iter().chain(shown.2).chain(shown.3);
        if row == 0 {
            time = DeltaState::new(*timestamp);
            write_varbit_signed(writer, *timestamp);
            for &value in values {
                writer.write(value.to_bits(), 64);
                numbers.push(XorState::new(value));
            }
        } else {
            time.write(writer, *timestamp);
            numbers.iter_mut().zip(values).for_each(|(number, &value)| number.write(writer, value));
        }
    }
}

/// Reads a chunk and appends its histograms; `None` if it is not one.
///
/// Reset hints are those that Prometheus would hand out. Every histogram takes a bit for each of
/// its buckets, which bounds what is allocated to some 64 times the bytes of the chunk.
pub fn read_histogram_chunk(
    encoding: ChunkEncoding,
    bytes: &[u8],
    out: &mut Vec<(i64, Histogram)>,
) -> Option<()> {
    let (header, bits) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let count = usize::from(u16::from_be_bytes([header[0], header[1]]));
    let header = ResetHeader::from_flags(header[2]);
    if count == 0 {
        return Some(());
    }
    let mut reader = BitReader::new(bits);
    let layout = read_layout(&mut reader)?;
    let mut add = |timestamp: i64, sum: f64, counts: Counts, is_first: bool| {
        let histogram = if is_stale_nan(sum) {
            stale(matches!(counts, Counts::Float { .. }), sum)
        } else {
            let reset_hint = header.hint(is_first);
            Histogram { sum, reset_hint, counts, ..layout.clone() }
        };
        out.push((timestamp, histogram));
    };
    let positive = bucket_count(&layout.positive_spans)?;
    let negative = bucket_count(&layout.negative_spans)?;
    match encoding {
        ChunkEncoding::Histogram => {
            read_integers(&mut reader, count, positive, negative, &mut add)?
        }
        ChunkEncoding::FloatHistogram => {
            read_floats(&mut reader, count, positive, negative, &mut add)?;
        }
        ChunkEncoding::Xor => return None,
    }
    reader.is_at_padding_or_empty_byte().then_some(())
}

fn bucket_count(spans: &[Span]) -> Option<usize> {
    let count = spans
        .iter()
        .try_fold(0usize, |count, span| count.checked_add(usize::try_from(span.length).ok()?))?;
    (count <= BUCKETS_MAX).then_some(count)
}

/// Takes timestamp, sum, counts and whether it is the chunk's first.
type AddHistogram<'a> = &'a mut dyn FnMut(i64, f64, Counts, bool);

fn read_integers(
    reader: &mut BitReader<'_>,
    samples: usize,
    positive: usize,
    negative: usize,
    add: AddHistogram<'_>,
) -> Option<()> {
    let mut time = DeltaState::new(read_varbit_signed(reader)?);
    let mut counts = [0; 2];
    for count in &mut counts {
        *count = read_varbit(reader)? as i64;
    }
    let mut counts = counts.map(DeltaState::new);
    let mut sum = XorState::new(f64::from_bits(reader.read(64)?));
    let mut buckets = Vec::new();
    for _ in 0..positive + negative {
        buckets.push(DeltaState::new(read_varbit_signed(reader)?));
    }
    for row in 0..samples {
        if row > 0 {
            time.read(reader)?;
            counts[0].read(reader)?;
            counts[1].read(reader)?;
            if !is_stale_nan(sum.read(reader)?) {
                for bucket in &mut buckets {
                    bucket.read(reader)?;
                }
            }
        }
        let shown = shown(&buckets, sum.value());
        let (positive, negative) = shown.split_at(positive.min(shown.len()));
        let counts = Counts::Integer {
            count: counts[0].value as u64,
            zero_count: counts[1].value as u64,
            positive: running_sums(positive),
            negative: running_sums(negative),
        };
        add(time.value, sum.value(), counts, row == 0);
    }
    Some(())
}

/// The buckets, none of a stale marker.
fn shown<T>(buckets: &[T], sum: f64) -> &[T] {
    if is_stale_nan(sum) { &[] } else { buckets }
}

fn running_sums(differences: &[DeltaState]) -> Vec<u64> {
    let mut bucket = 0u64;
    let next = |difference: &DeltaState| {
        bucket = bucket.wrapping_add(difference.value as u64);
        bucket
    };
    differences.iter().map(next).collect()
}

fn read_floats(
    reader: &mut BitReader<'_>,
    samples: usize,
    positive: usize,
    negative: usize,
    add: AddHistogram<'_>,
) -> Option<()> {
    let mut time = DeltaState::new(read_varbit_signed(reader)?);
    // Count, count of the zero bucket, sum, buckets.
    let mut numbers = Vec::new();
    for _ in 0..3 + positive + negative {
        numbers.push(XorState::new(f64::from_bits(reader.read(64)?)));
    }
    for row in 0..samples {
        if row > 0 {
            time.read(reader)?;
            let (heads, buckets) = numbers.split_at_mut(3);
            for head in heads.iter_mut() {
                head.read(reader)?;
            }
            if !is_stale_nan(heads[2].value()) {
                for bucket in buckets {
                    bucket.read(reader)?;
                }
            }
        }
        let values = |states: &[XorState]| states.iter().map(XorState::value).collect();
        let shown = shown(&numbers[3..], numbers[2].value());
        let (positive, negative) = shown.split_at(positive.min(shown.len()));
        let counts = Counts::Float {
            count: numbers[0].value(),
            zero_count: numbers[1].value(),
            positive: values(positive),
            negative: values(negative),
        };
        add(time.value, numbers[2].value(), counts, row == 0);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::histogram::{CUSTOM_BUCKETS_SCHEMA, ResetHint};
    use crate::metrics::sample::stale_nan;
    use proptest::prelude::*;

    fn integers(count: u64, positive: &[u64]) -> Histogram {
        let mut histogram = stale(false, count as f64 * 0.5);
        histogram.schema = 3;
        histogram.zero_threshold = 2f64.powi(-128);
        histogram.positive_spans = vec![Span { offset: 0, length: positive.len() as u32 }];
        histogram.counts = Counts::Integer {
            count,
            zero_count: 1,
            positive: positive.to_vec(),
            negative: Vec::new(),
        };
        histogram
    }

    fn floats(count: f64, buckets: &[f64]) -> Histogram {
        let mut histogram = integers(0, &vec![0; buckets.len()]);
        histogram.sum = count * 1.25;
        histogram.counts = Counts::Float {
            count,
            zero_count: 0.5,
            positive: buckets.to_vec(),
            negative: Vec::new(),
        };
        histogram
    }

    fn chunks_of(histograms: &[Histogram]) -> Vec<HistogramChunk> {
        let times = (0..histograms.len() as i64).map(|row| 1_700_000_000_000 + row * 15_000);
        histogram_chunks(&times.zip(histograms).collect::<Vec<_>>())
    }

    fn read_all(chunks: &[HistogramChunk]) -> Vec<(i64, Histogram)> {
        let mut out = Vec::new();
        for chunk in chunks {
            let start = out.len();
            read_histogram_chunk(chunk.encoding, &chunk.bytes, &mut out)
                .expect("own bytes are well-formed");
            assert_eq!(out[start].0, chunk.first_time);
            assert_eq!(out[out.len() - 1].0, chunk.last_time);
        }
        out
    }

    fn headers(chunks: &[HistogramChunk]) -> Vec<u8> {
        chunks.iter().map(|chunk| chunk.bytes[2] >> 6).collect()
    }

    /// All but the hints, and of markers only that they are there.
    fn check(histograms: &[Histogram]) {
        let back = read_all(&chunks_of(histograms));
        assert_eq!(back.len(), histograms.len());
        for ((_, back), histogram) in back.iter().zip(histograms) {
            let mut expected = if is_stale_nan(histogram.sum) {
                stale(is_float(histogram), histogram.sum)
            } else {
                histogram.clone()
            };
            expected.reset_hint = back.reset_hint;
            assert_eq!(back.canonical_bytes(), expected.canonical_bytes());
        }
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    /// Chunks of Prometheus 2.42, sent to it by remote write: integers, floats; six samples each,
    /// the last a stale marker.
    const PROMETHEUS_CHUNKS: [(ChunkEncoding, &str); 2] = [
        (
            ChunkEncoding::Histogram,
            "000600749ca35949fc00034400160d3dc5e8a020b2c343adfd94e17897db8f83a98f20df8de356dd8f49\
             97547dc79ca3b7afb3d91101a303730ae9ff85de75769f804b2e1f22ac5a3696ac3c2a7c545f774f9441\
             5de7e04d94e7dcfcf67e7f2a7db780c54e6fc060b7dfdfdfc04a18bcfb955516183029d0",
        ),
        (
            ChunkEncoding::FloatHistogram,
            "0006007494a35949fc00034400160d3c80a78000000000000000000000000000807bbcf67fd343f28028\
             00000000000080a28000000000008028000000000001f07531a0cd23c457ffa77ae8d6f7fc9b21fa4bd5\
             3b84fd4176d45f29c2b7f4677a38c8d4a24c036ff380394e23fbe826c003e38dba315c100195bccec66e\
             871b3edaee395780308699d78398ab4c2f412362c7857816cf78befbf2c39f6772563c",
        ),
    ];

    #[test]
    fn chunks_of_prometheus_come_back_to_the_bit() {
        for (encoding, hex) in PROMETHEUS_CHUNKS {
            let bytes = bytes_of(hex);
            let mut samples = Vec::new();
            read_histogram_chunk(encoding, &bytes, &mut samples).unwrap();
            assert_eq!(samples.len(), 6);
            assert_eq!(samples.iter().filter(|(_, h)| is_stale_nan(h.sum)).count(), 1);
            assert!(samples.iter().all(|(_, histogram)| histogram.validate().is_ok()));
            let samples: Vec<_> = samples.iter().map(|(time, h)| (*time, h)).collect();
            let again = histogram_chunks(&samples);
            assert_eq!(again.len(), 1);
            assert_eq!((again[0].encoding, &again[0].bytes), (encoding, &bytes));
        }
    }

    /// Written out by hand from the format's description.
    #[test]
    fn an_integer_chunk_has_prometheus_bytes() {
        let samples = [integers(5, &[2, 3]), integers(9, &[3, 5])];
        let chunk = &histogram_chunks(&[(100, &samples[0]), (200, &samples[1])])[0];
        let mut expected = vec![0, 2, 0];
        let mut writer = BitWriter::new(&mut expected);
        writer.write(116, 8); // zero threshold 2^-128
        writer.write(0b10_011, 5); // schema 3
        writer.write(0b10_001, 5); // one positive span
        writer.write(0b10_010, 5); // of length 2
        writer.write(0, 1); // at offset 0
        writer.write(0, 1); // no negative span
        writer.write(0b1110_001100100, 13); // time 100
        writer.write(0b10_101, 5); // count 5
        writer.write(0b10_001, 5); // zero count 1
        writer.write(2.5f64.to_bits(), 64); // sum
        writer.write(0b10_010, 5); // bucket 2
        writer.write(0b10_001, 5); // and 1 more
        writer.write(0b1110_001100100, 13); // time: difference 100, before none
        writer.write(0b10_100, 5); // count: 4 more
        writer.write(0, 1); // zero count: no more
        // 2.5 ^ 4.5 = 0x0016...: 11 leading zeros, 49 trailing.
        writer.write(0b11, 2);
        writer.write(11, 5);
        writer.write(4, 6);
        writer.write(0b1011, 4);
        writer.write(0b10_001, 5); // first bucket: 1 more
        writer.write(0b10_001, 5); // difference to it: 1 more
        writer.finish();
        assert_eq!(chunk.bytes, expected);
        assert_eq!(chunk.encoding, ChunkEncoding::Histogram);
    }

    #[test]
    fn a_reset_starts_a_chunk_and_says_so() {
        let counts = [5, 9, 9, 2, 4].map(|count| integers(count, &[count]));
        let chunks = chunks_of(&counts);
        assert_eq!(headers(&chunks), [0b00, 0b10]);
        let hints: Vec<ResetHint> = read_all(&chunks).iter().map(|(_, h)| h.reset_hint).collect();
        let (unknown, reset, not) = (ResetHint::Unknown, ResetHint::Reset, ResetHint::NotReset);
        assert_eq!(hints, [unknown, not, not, reset, not]);
        check(&counts);
        let mut told = counts.to_vec();
        told[2].reset_hint = ResetHint::Reset;
        assert_eq!(headers(&chunks_of(&told)), [0b00, 0b10, 0b10]);
        // A bucket that drops while the count does not, and one that is gone.
        assert_eq!(headers(&chunks_of(&[integers(5, &[3, 2]), integers(6, &[2, 4])])), [0, 0b10]);
        assert_eq!(headers(&chunks_of(&[integers(5, &[3, 2]), integers(6, &[6])])), [0, 0b10]);
    }

    #[test]
    fn a_new_layout_starts_a_chunk() {
        let wider = [integers(5, &[3]), integers(6, &[3, 1])];
        assert_eq!(headers(&chunks_of(&wider)), [0b00, 0b01]);
        check(&wider);
        let mut schema = [integers(5, &[3]), integers(6, &[3])];
        schema[1].schema = 2;
        assert_eq!(headers(&chunks_of(&schema)), [0b00, 0b00]);
        check(&schema);
        check(&[integers(5, &[3]), floats(6.0, &[3.0]), integers(7, &[4])]);
    }

    #[test]
    fn gauges_go_up_and_down_in_one_chunk() {
        let mut gauges = [5.0, 3.0, 9.5].map(|count| floats(count, &[count, -count]));
        gauges.iter_mut().for_each(|gauge| gauge.reset_hint = ResetHint::Gauge);
        let chunks = chunks_of(&gauges);
        assert_eq!(headers(&chunks), [0b11]);
        let back: Vec<Histogram> = read_all(&chunks).into_iter().map(|(_, h)| h).collect();
        assert_eq!(back, gauges);
    }

    #[test]
    fn only_stale_markers_follow_a_stale_marker_in_a_chunk() {
        let marker = |is_float| stale(is_float, stale_nan());
        let mixed = [integers(5, &[3]), marker(false), marker(false), integers(6, &[3])];
        assert_eq!(headers(&chunks_of(&mixed)), [0b00, 0b00]);
        check(&mixed);
        check(&[marker(true), floats(1.0, &[2.0, 0.1]), marker(true)]);
    }

    #[test]
    fn custom_bounds_and_long_series_round_trip() {
        let mut custom = integers(5, &[3, 1]);
        custom.schema = CUSTOM_BUCKETS_SCHEMA;
        custom.custom_values = vec![-1.0, -0.0, 0.005, 0.1, 2.5, 1.0 / 3.0, 33_554.43, 1e9];
        check(&[custom.clone(), custom]);
        let long: Vec<Histogram> = (0..300).map(|count| integers(count, &[count, 7])).collect();
        assert_eq!(headers(&chunks_of(&long)), [0b00, 0b01, 0b01]);
        check(&long);
    }

    #[test]
    fn zero_thresholds_round_trip() {
        let powers = [-244, -243, -128, 0, 10, 11].map(|power| 2f64.powi(power));
        for threshold in powers.into_iter().chain([0.0, -0.0, 0.1, f64::INFINITY, 5e-324]) {
            let mut histogram = integers(5, &[3]);
            histogram.zero_threshold = threshold;
            check(&[histogram]);
        }
    }

    fn any_histogram() -> impl Strategy<Value = Histogram> {
        let number = prop_oneof![0u64..1000, any::<u64>()];
        let buckets = proptest::collection::vec(number.clone(), 0..4);
        let float = prop_oneof![(0i32..100).prop_map(f64::from), any::<f64>()];
        (buckets, number, float, any::<bool>(), 0u8..4, -4i32..=8).prop_map(
            |(buckets, count, sum, is_float, hint, schema)| {
                let mut histogram = if is_float {
                    floats(sum, &buckets.iter().map(|b| *b as f64).collect::<Vec<_>>())
                } else {
                    integers(count, &buckets)
                };
                histogram.sum = sum;
                histogram.schema = schema / 4;
                histogram.reset_hint = ResetHint::from_byte(hint).unwrap_or_default();
                histogram
            },
        )
    }

    proptest! {
        #[test]
        fn any_histograms_round_trip(
            histograms in proptest::collection::vec(any_histogram(), 0..40),
        ) {
            check(&histograms);
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>) {
            for encoding in [ChunkEncoding::Histogram, ChunkEncoding::FloatHistogram] {
                read_histogram_chunk(encoding, &bytes, &mut Vec::new());
            }
        }

    }
}
