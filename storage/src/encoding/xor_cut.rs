//! Where a series of native histograms is cut into Prometheus's chunks.
//!
//! A pure decision over two neighbours: may the second stand in the chunk of the first, and if not,
//! what does the *header* of its own chunk say about a counter reset between them? The rules are
//! those of Prometheus's appender (`tsdb/chunkenc/histogram.go` and `float_histogram.go`, Apache
//! 2.0), but that no chunk is ever rewritten for the sake of a new bucket.

use crate::metrics::histogram::{Counts, Histogram, ResetHint, Span};
use crate::metrics::sample::is_stale_nan;

/// Samples in a chunk, as many as Prometheus aims at.
pub(super) const SAMPLES_MAX: usize = 120;

/// What the flags say about the first histogram of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ResetHeader {
    Unknown = 0,
    NotReset = 0b0100_0000,
    Reset = 0b1000_0000,
    Gauge = 0b1100_0000,
}

impl ResetHeader {
    pub(super) fn from_flags(flags: u8) -> ResetHeader {
        match flags >> 6 {
            0b00 => ResetHeader::Unknown,
            0b01 => ResetHeader::NotReset,
            0b10 => ResetHeader::Reset,
            _ => ResetHeader::Gauge,
        }
    }

    /// What a reader may say of a histogram. "Not reset" is not said of a chunk's first one, since
    /// the chunk before may be gone.
    pub(super) fn hint(self, is_first: bool) -> ResetHint {
        match self {
            ResetHeader::Gauge => ResetHint::Gauge,
            _ if !is_first => ResetHint::NotReset,
            ResetHeader::Reset => ResetHint::Reset,
            ResetHeader::Unknown | ResetHeader::NotReset => ResetHint::Unknown,
        }
    }
}

pub(super) fn first_header(first: &Histogram) -> ResetHeader {
    match first.reset_hint {
        ResetHint::Gauge => ResetHeader::Gauge,
        ResetHint::Reset => ResetHeader::Reset,
        ResetHint::Unknown | ResetHint::NotReset => ResetHeader::Unknown,
    }
}

/// The header of the new chunk that `next` must start, or `None` if it continues the one of `last`.
pub(super) fn continuation(
    last: &Histogram,
    next: &Histogram,
    is_gauge_chunk: bool,
    chunk_samples: usize,
) -> Option<ResetHeader> {
    if is_float(last) != is_float(next) {
        return Some(first_header(next));
    }
    let is_full = chunk_samples >= SAMPLES_MAX;
    if is_stale_nan(next.sum) {
        return is_full.then(|| first_header(next));
    }
    let is_gauge = next.reset_hint == ResetHint::Gauge;
    if is_gauge != is_gauge_chunk || is_stale_nan(last.sum) {
        return Some(first_header(next));
    }
    if is_gauge {
        return (is_full || !same_layout(last, next)).then_some(ResetHeader::Gauge);
    }
    match detect_reset(last, next) {
        ResetHeader::NotReset if !is_full && same_layout(last, next) => None,
        header => Some(header),
    }
}

pub(super) fn is_float(histogram: &Histogram) -> bool {
    matches!(histogram.counts, Counts::Float { .. })
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    let same_bits = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.custom_values.len() == b.custom_values.len()
        && a.custom_values.iter().zip(&b.custom_values).all(same_bits)
}

/// Whether a counter went down between two counter histograms; unknown where buckets cannot be
/// compared.
fn detect_reset(last: &Histogram, next: &Histogram) -> ResetHeader {
    if next.reset_hint == ResetHint::Reset {
        return ResetHeader::Reset;
    }
    match (&last.counts, &next.counts) {
        (
            Counts::Integer { count: a, zero_count: az, positive: ap, negative: an },
            Counts::Integer { count: b, zero_count: bz, positive: bp, negative: bn },
        ) => detect_reset_of(last, next, [(*a, *b), (*az, *bz)], [(ap, bp), (an, bn)]),
        (
            Counts::Float { count: a, zero_count: az, positive: ap, negative: an },
            Counts::Float { count: b, zero_count: bz, positive: bp, negative: bn },
        ) => detect_reset_of(last, next, [(*a, *b), (*az, *bz)], [(ap, bp), (an, bn)]),
        _ => ResetHeader::Unknown,
    }
}

fn detect_reset_of<T: Copy + Default + PartialOrd>(
    last: &Histogram,
    next: &Histogram,
    [count, zero_count]: [(T, T); 2],
    [positive, negative]: [(&Vec<T>, &Vec<T>); 2],
) -> ResetHeader {
    if count.1 < count.0 {
        return ResetHeader::Reset;
    }
    if last.schema != next.schema || last.zero_threshold != next.zero_threshold {
        return ResetHeader::Unknown;
    }
    let is_reset = last.custom_values != next.custom_values
        || zero_count.1 < zero_count.0
        || buckets_drop((&last.positive_spans, positive.0), (&next.positive_spans, positive.1))
        || buckets_drop((&last.negative_spans, negative.0), (&next.negative_spans, negative.1));
    if is_reset { ResetHeader::Reset } else { ResetHeader::NotReset }
}

/// Whether a bucket holds less than before; one that is no longer listed holds nothing.
fn buckets_drop<T: Copy + Default + PartialOrd>(
    (old_spans, old): (&[Span], &[T]),
    (new_spans, new): (&[Span], &[T]),
) -> bool {
    let mut new = bucket_indices(new_spans).zip(new).peekable();
    bucket_indices(old_spans).zip(old).any(|(index, &old)| {
        while new.next_if(|(new_index, _)| *new_index < index).is_some() {}
        let now = new.next_if(|(new_index, _)| *new_index == index);
        now.map_or(T::default(), |(_, now)| *now) < old
    })
}

fn bucket_indices(spans: &[Span]) -> impl Iterator<Item = i64> + '_ {
    let mut next = 0i64;
    spans.iter().flat_map(move |span| {
        let start = next + i64::from(span.offset);
        next = start + i64::from(span.length);
        start..next
    })
}
