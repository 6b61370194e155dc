//! Columns of native histograms.
//!
//! The histograms of one series differ in their counts and rarely in anything else. So a column
//! states its *layouts* first (kind, schema, zero threshold, spans, custom bounds), each once, then
//! which rows have which, and for each layout the *members* of its rows: the sum, the count, the
//! zero bucket and every bucket are a column each, floats by [`crate::encoding::decimal`] and
//! integers by [`crate::encoding::pfor`]. A stale marker is a layout without buckets.
//!
//! An integer histogram's count is stored as what it is off from the sum of its buckets, which is
//! nothing. Every histogram that [`Histogram::validate`] accepts, and every stale marker, comes
//! back bit for bit, NaNs and reset hints included. Layout: docs/format.md, "Histograms in columns".

use crate::encoding::pfor::{self, Planner};
use crate::encoding::{bits, decimal, mantissa, varint};
use crate::metrics::histogram::{BUCKETS_MAX, Counts, Histogram, ResetHint, Span};

/// Decimal digits that bounds are tried with.
const BOUND_EXPONENT: u8 = 3;
/// Hints are of one kind up to 3; above, each row has its own.
const HINTS_DIFFER: u8 = 4;
const HINT_BITS: u32 = 2;

/// Appends the column; of no histograms nothing.
pub fn encode(histograms: &[&Histogram], out: &mut Vec<u8>) {
    Encoder::default().encode(histograms, out);
}

/// Scratch memory of encoding.
#[derive(Debug, Default)]
pub struct Encoder {
    floats: decimal::Encoder,
    planner: Planner,
    bytes: Vec<u8>,
}

impl Encoder {
    pub fn encode(&mut self, histograms: &[&Histogram], out: &mut Vec<u8>) {
        if histograms.is_empty() {
            return;
        }
        let mut layouts: Vec<(&Histogram, Vec<&Histogram>)> = Vec::new();
        let mut rows = Vec::with_capacity(histograms.len());
        for &histogram in histograms {
            let known = layouts.iter().position(|(layout, _)| same_layout(layout, histogram));
            let layout = known.unwrap_or(layouts.len());
            if known.is_none() {
                layouts.push((histogram, Vec::new()));
            }
            layouts[layout].1.push(histogram);
            rows.push(layout as i64);
        }
        varint::write(out, layouts.len() as u64);
        for (layout, _) in &layouts {
            write_layout(layout, out);
        }
        if layouts.len() > 1 {
            pfor::encode(&rows, &mut self.planner, out);
        }
        write_hints(histograms, out);
        for (layout, members) in &layouts {
            self.write_members(layout, members, out);
        }
    }

    fn write_members(&mut self, layout: &Histogram, members: &[&Histogram], out: &mut Vec<u8>) {
        let sums: Vec<f64> = members.iter().map(|histogram| histogram.sum).collect();
        self.write_floats(&sums, out);
        let (is_float, positive, negative) = shape(layout);
        if is_float {
            for column in 0..2 + positive + negative {
                let values: Vec<f64> =
                    members.iter().map(|histogram| float_member(histogram, column)).collect();
                self.write_floats(&values, out);
            }
        } else {
            for column in 0..2 + positive + negative {
                let numbers: Vec<i64> =
                    members.iter().map(|histogram| integer_member(histogram, column)).collect();
                pfor::encode(&numbers, &mut self.planner, out);
            }
        }
    }

    /// A float column does not end by itself: its length stands before it.
    fn write_floats(&mut self, values: &[f64], out: &mut Vec<u8>) {
        self.bytes.clear();
        self.floats.encode(values, &mut self.bytes);
        varint::write(out, self.bytes.len() as u64);
        out.extend_from_slice(&self.bytes);
    }
}

fn write_layout(layout: &Histogram, out: &mut Vec<u8>) {
    let (is_float, positive, negative) = shape(layout);
    assert!(
        positive <= BUCKETS_MAX && negative <= BUCKETS_MAX,
        "histograms are validated on arrival"
    );
    out.push(u8::from(is_float));
    varint::write_signed(out, i64::from(layout.schema));
    out.extend_from_slice(&layout.zero_threshold.to_bits().to_le_bytes());
    for (spans, buckets) in [(&layout.positive_spans, positive), (&layout.negative_spans, negative)]
    {
        varint::write(out, buckets as u64);
        varint::write(out, spans.len() as u64);
        for span in spans {
            varint::write_signed(out, i64::from(span.offset));
            varint::write(out, u64::from(span.length));
        }
    }
    varint::write(out, layout.custom_values.len() as u64);
    layout.custom_values.iter().for_each(|&bound| write_bound(bound, out));
}

/// Bounds are decimals most often: thousandths plus 1, or 0 and 8 bytes.
fn write_bound(bound: f64, out: &mut Vec<u8>) {
    match mantissa::mantissa(bound, BOUND_EXPONENT).and_then(|m| u64::try_from(m).ok()) {
        Some(thousandths) => varint::write(out, thousandths + 1),
        None => {
            out.push(0);
            out.extend_from_slice(&bound.to_bits().to_le_bytes());
        }
    }
}

fn read_bound(bytes: &mut &[u8]) -> Option<f64> {
    match varint::read(bytes)? {
        0 => read_raw(bytes),
        number => Some((number - 1) as f64 / mantissa::power(BOUND_EXPONENT)),
    }
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    let same_bits = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
    shape(a) == shape(b)
        && a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.custom_values.len() == b.custom_values.len()
        && a.custom_values.iter().zip(&b.custom_values).all(same_bits)
}

/// Whether counts are floats, and how many buckets there are, positive and negative.
fn shape(histogram: &Histogram) -> (bool, usize, usize) {
    match &histogram.counts {
        Counts::Integer { positive, negative, .. } => (false, positive.len(), negative.len()),
        Counts::Float { positive, negative, .. } => (true, positive.len(), negative.len()),
    }
}

/// Columns: 0 the count less all buckets, 1 the zero bucket, then the buckets.
fn integer_member(histogram: &Histogram, column: usize) -> i64 {
    let Counts::Integer { count, zero_count, positive, negative } = &histogram.counts else {
        unreachable!("a layout is of one kind");
    };
    let number = match column {
        0 => count.wrapping_sub(all_buckets(*zero_count, positive, negative)),
        1 => *zero_count,
        _ => *positive.iter().chain(negative).nth(column - 2).expect("a layout is of one shape"),
    };
    number as i64
}

fn all_buckets(zero_count: u64, positive: &[u64], negative: &[u64]) -> u64 {
    positive.iter().chain(negative).fold(zero_count, |sum, bucket| sum.wrapping_add(*bucket))
}

/// Columns: 0 the count, 1 the zero bucket, then the buckets.
fn float_member(histogram: &Histogram, column: usize) -> f64 {
    let Counts::Float { count, zero_count, positive, negative } = &histogram.counts else {
        unreachable!("a layout is of one kind");
    };
    match column {
        0 => *count,
        1 => *zero_count,
        _ => *positive.iter().chain(negative).nth(column - 2).expect("a layout is of one shape"),
    }
}

fn write_hints(histograms: &[&Histogram], out: &mut Vec<u8>) {
    let first = histograms[0].reset_hint;
    if histograms.iter().all(|histogram| histogram.reset_hint == first) {
        out.push(first as u8);
        return;
    }
    out.push(HINTS_DIFFER);
    let hints: Vec<u64> = histograms.iter().map(|histogram| histogram.reset_hint as u64).collect();
    bits::pack(&hints, HINT_BITS, out);
}

/// Reads all of `bytes` as a column of `count` histograms; `None` if they are not one.
///
/// What is allocated is bounded by `count` times the bytes, each of which makes a bucket at most.
pub fn decode(mut bytes: &[u8], count: usize) -> Option<Vec<Histogram>> {
    let bytes = &mut bytes;
    if count == 0 {
        return bytes.is_empty().then(Vec::new);
    }
    let mut layouts = Vec::new();
    // Every bucket is a column of a byte at least.
    let mut buckets_left = bytes.len();
    for _ in 0..varint::read(bytes)? {
        layouts.push(read_layout(bytes, &mut buckets_left)?);
    }
    let mut rows = Vec::new();
    if layouts.len() > 1 {
        pfor::decode(bytes, count, &mut rows)?;
    } else {
        rows.resize(count, 0);
    }
    let hints = read_hints(bytes, count)?;
    let mut counts_of_layouts = vec![0usize; layouts.len()];
    for &layout in &rows {
        *counts_of_layouts.get_mut(usize::try_from(layout).ok()?)? += 1;
    }
    let mut members = Vec::new();
    for (layout, &count) in layouts.into_iter().zip(&counts_of_layouts) {
        members.push(read_members(bytes, layout, count)?.into_iter());
    }
    if !bytes.is_empty() {
        return None;
    }
    let mut histograms = Vec::with_capacity(count);
    for (&layout, hint) in rows.iter().zip(hints) {
        let mut histogram = members[layout as usize].next()?;
        histogram.reset_hint = hint;
        histograms.push(histogram);
    }
    Some(histograms)
}

fn read_hints(bytes: &mut &[u8], count: usize) -> Option<Vec<ResetHint>> {
    let (&kind, rest) = bytes.split_first()?;
    *bytes = rest;
    if kind != HINTS_DIFFER {
        return Some(vec![ResetHint::from_byte(kind)?; count]);
    }
    if bits::packed_length(count, HINT_BITS) > bytes.len() {
        return None;
    }
    let mut hints = vec![0i64; count];
    bits::unpack(bytes, HINT_BITS, &mut hints)?;
    hints.into_iter().map(|hint| ResetHint::from_byte(hint as u8)).collect()
}

/// A layout as a histogram with counts of zero, which are taken from the buckets that are left.
fn read_layout(bytes: &mut &[u8], buckets_left: &mut usize) -> Option<Histogram> {
    let (&is_float, rest) = bytes.split_first()?;
    *bytes = rest;
    let schema = i32::try_from(varint::read_signed(bytes)?).ok()?;
    let zero_threshold = read_raw(bytes)?;
    let (positive_spans, positive) = read_spans(bytes)?;
    let (negative_spans, negative) = read_spans(bytes)?;
    *buckets_left = buckets_left.checked_sub(positive + negative)?;
    let mut custom_values = Vec::new();
    for _ in 0..varint::read(bytes)? {
        custom_values.push(read_bound(bytes)?);
    }
    let counts = match is_float {
        0 => Counts::Integer {
            count: 0,
            zero_count: 0,
            positive: vec![0; positive],
            negative: vec![0; negative],
        },
        1 => Counts::Float {
            count: 0.0,
            zero_count: 0.0,
            positive: vec![0.0; positive],
            negative: vec![0.0; negative],
        },
        _ => return None,
    };
    Some(Histogram {
        schema,
        zero_threshold,
        sum: 0.0,
        reset_hint: ResetHint::Unknown,
        positive_spans,
        negative_spans,
        counts,
        custom_values,
    })
}

fn read_spans(bytes: &mut &[u8]) -> Option<(Vec<Span>, usize)> {
    let buckets = usize::try_from(varint::read(bytes)?).ok()?;
    if buckets > BUCKETS_MAX {
        return None;
    }
    let mut spans = Vec::new();
    for _ in 0..varint::read(bytes)? {
        let offset = i32::try_from(varint::read_signed(bytes)?).ok()?;
        spans.push(Span { offset, length: u32::try_from(varint::read(bytes)?).ok()? });
    }
    Some((spans, buckets))
}

fn read_raw(bytes: &mut &[u8]) -> Option<f64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(f64::from_bits(u64::from_le_bytes(*head)))
}

fn read_floats(bytes: &mut &[u8], count: usize, out: &mut Vec<f64>) -> Option<()> {
    let length = usize::try_from(varint::read(bytes)?).ok()?;
    let (column, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    decimal::decode(column, count, out)
}

fn read_members(bytes: &mut &[u8], layout: Histogram, count: usize) -> Option<Vec<Histogram>> {
    let mut sums = Vec::new();
    read_floats(bytes, count, &mut sums)?;
    let (is_float, positive, negative) = shape(&layout);
    let mut members = vec![layout; count];
    members.iter_mut().zip(sums).for_each(|(histogram, sum)| histogram.sum = sum);
    let mut integers = Vec::new();
    let mut floats = Vec::new();
    for column in 0..2 + positive + negative {
        if is_float {
            floats.clear();
            read_floats(bytes, count, &mut floats)?;
            members.iter_mut().zip(&floats).for_each(|(histogram, &value)| {
                set_float_member(histogram, column, value);
            });
        } else {
            integers.clear();
            pfor::decode(bytes, count, &mut integers)?;
            members.iter_mut().zip(&integers).for_each(|(histogram, &number)| {
                set_integer_member(histogram, column, number as u64);
            });
        }
    }
    for histogram in &mut members {
        if let Counts::Integer { count, zero_count, positive, negative } = &mut histogram.counts {
            *count = count.wrapping_add(all_buckets(*zero_count, positive, negative));
        }
    }
    Some(members)
}

fn set_integer_member(histogram: &mut Histogram, column: usize, number: u64) {
    if let Counts::Integer { count, zero_count, positive, negative } = &mut histogram.counts {
        *member(count, zero_count, positive, negative, column) = number;
    }
}

fn set_float_member(histogram: &mut Histogram, column: usize, value: f64) {
    if let Counts::Float { count, zero_count, positive, negative } = &mut histogram.counts {
        *member(count, zero_count, positive, negative, column) = value;
    }
}

fn member<'a, T>(
    count: &'a mut T,
    zero_count: &'a mut T,
    positive: &'a mut [T],
    negative: &'a mut [T],
    column: usize,
) -> &'a mut T {
    match column {
        0 => count,
        1 => zero_count,
        _ if column - 2 < positive.len() => &mut positive[column - 2],
        _ => &mut negative[column - 2 - positive.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::histogram::CUSTOM_BUCKETS_SCHEMA;
    use crate::metrics::sample::stale_nan;
    use proptest::prelude::*;

    fn check(histograms: &[Histogram]) -> usize {
        let mut bytes = Vec::new();
        encode(&histograms.iter().collect::<Vec<_>>(), &mut bytes);
        let back = decode(&bytes, histograms.len()).expect("own bytes are well-formed");
        assert_eq!(back.len(), histograms.len());
        for (back, histogram) in back.iter().zip(histograms) {
            assert_eq!(back.canonical_bytes(), histogram.canonical_bytes());
        }
        bytes.len()
    }

    fn latency(row: u64) -> Histogram {
        let bucket = |index: u64| row * (1 + index % 5) + (row * index) % 3;
        let positive: Vec<u64> = (0..20).map(bucket).collect();
        Histogram {
            schema: 3,
            zero_threshold: 2f64.powi(-128),
            sum: row as f64 * 1.5,
            reset_hint: ResetHint::Unknown,
            positive_spans: vec![Span { offset: -3, length: 12 }, Span { offset: 2, length: 8 }],
            negative_spans: vec![],
            counts: Counts::Integer {
                count: positive.iter().sum::<u64>() + 7,
                zero_count: 7,
                positive,
                negative: vec![],
            },
            custom_values: vec![],
        }
    }

    fn marker() -> Histogram {
        Histogram {
            schema: 0,
            zero_threshold: 0.0,
            sum: stale_nan(),
            reset_hint: ResetHint::Unknown,
            positive_spans: vec![],
            negative_spans: vec![],
            counts: Counts::Integer { count: 0, zero_count: 0, positive: vec![], negative: vec![] },
            custom_values: vec![],
        }
    }

    #[test]
    fn a_layout_is_stated_once() {
        let run: Vec<Histogram> = (0..480).map(latency).collect();
        let plain = check(&run);
        assert!(plain < 480 * 8, "{plain}");
        let mut interrupted = run.clone();
        interrupted[100] = marker();
        interrupted[300] = marker();
        let with_markers = check(&interrupted);
        assert!(with_markers < plain + 300, "{with_markers} against {plain}");
    }

    #[test]
    fn all_kinds_round_trip() {
        let mut custom = latency(5);
        custom.schema = CUSTOM_BUCKETS_SCHEMA;
        custom.custom_values = (0..20).map(|bound| f64::from(bound) * 0.25 - 1.1).collect();
        let mut float = latency(6);
        float.reset_hint = ResetHint::Gauge;
        float.counts = Counts::Float {
            count: 0.1,
            zero_count: -0.0,
            positive: (0..20).map(|bucket| f64::from(bucket) / 3.0).collect(),
            negative: vec![],
        };
        check(&[]);
        check(&[custom.clone(), float.clone(), latency(1), marker(), float, custom, latency(2)]);
    }

    fn any_histogram() -> impl Strategy<Value = Histogram> {
        let spans = prop_oneof![
            3 => Just(vec![(0, 2)]),
            1 => proptest::collection::vec((0i32..5, 0u32..4), 0..3),
        ];
        let numbers = proptest::collection::vec(prop_oneof![0u64..50, any::<u64>()], 24);
        (spans.clone(), spans, numbers, any::<bool>(), 0u8..4, any::<u64>()).prop_map(
            |(positive, negative, numbers, is_float, hint, sum)| {
                let spans = |spans: Vec<(i32, u32)>| -> Vec<Span> {
                    spans.iter().map(|&(offset, length)| Span { offset, length }).collect()
                };
                let (positive_spans, negative_spans) = (spans(positive), spans(negative));
                let listed =
                    |spans: &[Span]| spans.iter().map(|span| span.length as usize).sum::<usize>();
                let (p, n) = (listed(&positive_spans), listed(&negative_spans));
                let floats = |numbers: &[u64]| numbers.iter().map(|n| f64::from_bits(*n)).collect();
                let counts = if is_float {
                    Counts::Float {
                        count: f64::from_bits(numbers[0]),
                        zero_count: f64::from_bits(numbers[1]),
                        positive: floats(&numbers[2..2 + p]),
                        negative: floats(&numbers[2 + p..2 + p + n]),
                    }
                } else {
                    Counts::Integer {
                        count: numbers[0],
                        zero_count: numbers[1],
                        positive: numbers[2..2 + p].to_vec(),
                        negative: numbers[2 + p..2 + p + n].to_vec(),
                    }
                };
                Histogram {
                    schema: 1,
                    zero_threshold: 0.0,
                    sum: f64::from_bits(sum),
                    reset_hint: ResetHint::from_byte(hint).unwrap_or_default(),
                    positive_spans,
                    negative_spans,
                    counts,
                    custom_values: vec![],
                }
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
        fn any_bytes_are_safe(bytes: Vec<u8>, count in 0usize..500) {
            if let Some(histograms) = decode(&bytes, count) {
                prop_assert_eq!(histograms.len(), count);
            }
        }

        #[test]
        fn damaged_bytes_are_safe(at: prop::sample::Index, byte: u8) {
            let run: Vec<Histogram> = (0..40).map(latency).chain([marker()]).collect();
            let mut bytes = Vec::new();
            encode(&run.iter().collect::<Vec<_>>(), &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            decode(&bytes, run.len());
        }
    }
}
