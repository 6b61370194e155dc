//! How queries read series of the head: little is copied while writers wait, and timestamps only
//! once a target.
//!
//! A query selects many series that are scraped together. A [`HeadCopy`] takes the encoded values
//! of all of them into one piece of memory, and each list of timestamps once; a [`ReadView`] knows
//! where those of a series are. Timestamps are decoded when the first of their series is read, and
//! only rows of the range are handed out. Series with histograms or late samples, which are few,
//! are copied whole.

use std::ops::Range;
use std::sync::OnceLock;

use hashbrown::HashTable;

use crate::encoding::{decimal, timestamps};
use crate::metrics::head::columns::TimestampColumns;
use crate::metrics::head::packed::{Entries, Entry, Times};
use crate::metrics::head::series::{MemSeries, PlainTail};
use crate::metrics::head::view::SeriesView;
use crate::metrics::sample::Samples;
use crate::time::{TimeRange, WINDOW_MS};

/// What one selection takes out of the head.
#[derive(Debug)]
pub(crate) struct HeadCopy {
    range: TimeRange,
    /// Series after series: for each of its mini-chunks count u8, length u16, encoded values; then
    /// the tail's values.
    values: Vec<u8>,
    times: Vec<TimesCopy>,
    /// The same of the timestamps, list after list.
    columns: Vec<u8>,
    /// What `times` take, decoded.
    decoded_bytes: usize,
    /// Places in `times` by token.
    by_token: HashTable<u32>,
    /// What the timestamps of the series at hand are put together from; its hash is the token.
    parts: Vec<u8>,
    /// The parts of the series before, which is likely to be of the same target, and their place in
    /// `times`.
    last: (Vec<u8>, u32),
}

/// Timestamps that series share, decoded by the first to be read.
#[derive(Debug)]
struct TimesCopy {
    token: u64,
    /// In [`HeadCopy::columns`].
    start: usize,
    length: u32,
    /// Timestamps of the tail, at the end.
    tail: u8,
    /// All of them.
    rows: u32,
    decoded: OnceLock<Option<Decoded>>,
}

#[derive(Debug)]
struct Decoded {
    times: Vec<i64>,
    /// Those in the range.
    rows: Range<usize>,
}

/// Where what a reader needs of a series is.
#[derive(Clone, Debug)]
pub(crate) enum ReadView {
    /// Floats in order of time.
    Floats(FloatsView),
    /// Anything else.
    Whole(Box<SeriesView>),
}

#[derive(Clone, Debug)]
pub(crate) struct FloatsView {
    /// In [`HeadCopy::times`].
    times: u32,
    /// In [`HeadCopy::values`].
    start: usize,
    length: u32,
    /// Values of the tail, at the end.
    tail: u8,
}

impl HeadCopy {
    pub(crate) fn new(range: TimeRange) -> HeadCopy {
        HeadCopy {
            range,
            values: Vec::new(),
            times: Vec::new(),
            columns: Vec::new(),
            decoded_bytes: 0,
            by_token: HashTable::new(),
            parts: Vec::new(),
            last: (Vec::new(), 0),
        }
    }

    /// Copies a series; `None` if it has nothing to do with the range.
    pub(crate) fn add(
        &mut self,
        series: &MemSeries,
        columns: &TimestampColumns,
    ) -> Option<ReadView> {
        if !series.may_overlap(self.range) {
            return None;
        }
        if let Some(tail) = series.plain_tail()
            && let Some(view) = self.add_floats(series, &tail, columns)
        {
            return (view.length > 0).then_some(ReadView::Floats(view));
        }
        let view = series.view(self.range, columns);
        (!view.is_empty()).then(|| ReadView::Whole(Box::new(view)))
    }

    /// `None` for a series that has histograms.
    fn add_floats(
        &mut self,
        series: &MemSeries,
        tail: &PlainTail<'_>,
        columns: &TimestampColumns,
    ) -> Option<FloatsView> {
        let HeadCopy { range, values, parts, .. } = self;
        let start = values.len();
        parts.clear();
        let mut entries = Entries::new(series.packed());
        // The entries of the range, which follow each other.
        let mut of_range = None;
        loop {
            let before = entries;
            let Some((window, entry)) = entries.next() else { break };
            let Entry::Floats { count, times, values: encoded } = entry else {
                values.truncate(start);
                return None;
            };
            if !is_in_range(window, times, *range, columns) {
                continue;
            }
            of_range.get_or_insert(before);
            // Tags and lengths keep one list of columns from reading like another.
            match times {
                Times::Shared(id) => {
                    let [a, b, c, d] = id.to_le_bytes();
                    parts.extend_from_slice(&[1, a, b, c, d]);
                }
                Times::Own(bytes) => {
                    parts.push(2);
                    parts.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                    parts.extend_from_slice(bytes);
                }
            }
            push_piece(values, count, encoded);
        }
        let in_range = tail.newest >= range.start_ms && tail.start <= range.end_ms;
        let rows = if in_range { tail.offsets.len() } else { 0 };
        if rows > 0 {
            parts.push(3);
            parts.extend_from_slice(&tail.start.to_le_bytes());
            push_all(parts, tail.offsets, |offset| offset.to_le_bytes());
            push_all(values, tail.values, |value| value.to_bits().to_le_bytes());
        }
        let length = u32::try_from(values.len() - start).expect("a series' bytes are few");
        let entries = of_range.unwrap_or(entries);
        let times = if length > 0 { self.times_of(entries, tail, rows, columns) } else { 0 };
        let tail = u8::try_from(rows).expect("a tail is short");
        Some(FloatsView { times, start, length, tail })
    }

    /// The place of the timestamps that `parts` tells of: those of the entries that are in the
    /// range, and so many of the tail.
    fn times_of(
        &mut self,
        mut entries: Entries<'_>,
        tail: &PlainTail<'_>,
        tail_rows: usize,
        columns: &TimestampColumns,
    ) -> u32 {
        if self.parts == self.last.0 {
            return self.last.1;
        }
        let token = xxhash_rust::xxh3::xxh3_64(&self.parts).max(1);
        let same = |place: &u32| self.times[*place as usize].token == token;
        let place = match self.by_token.find(token, same) {
            Some(place) => *place,
            None => {
                let start = self.columns.len();
                let mut rows = tail_rows;
                while let Some((window, entry)) = entries.next() {
                    if let Entry::Floats { count, times, .. } = entry
                        && is_in_range(window, times, self.range, columns)
                    {
                        rows += usize::from(count);
                        push_piece(&mut self.columns, count, columns.bytes_of(times));
                    }
                }
                push_all(&mut self.columns, &tail.offsets[..tail_rows], |offset| {
                    (tail.start + i64::from(offset)).to_le_bytes()
                });
                let length = self.columns.len() - start;
                self.insert(TimesCopy {
                    token,
                    start,
                    length: u32::try_from(length).expect("a series' bytes are few"),
                    tail: u8::try_from(tail_rows).expect("a tail is short"),
                    rows: u32::try_from(rows).expect("a series in memory is below 2^32"),
                    decoded: OnceLock::new(),
                })
            }
        };
        std::mem::swap(&mut self.parts, &mut self.last.0);
        self.last.1 = place;
        place
    }

    fn insert(&mut self, copy: TimesCopy) -> u32 {
        let place = u32::try_from(self.times.len()).expect("fewer than there are series");
        self.decoded_bytes += size_of::<TimesCopy>() + copy.rows as usize * 8;
        let token = copy.token;
        self.times.push(copy);
        let times = &self.times;
        self.by_token.insert_unique(token, place, |place| times[*place as usize].token);
        place
    }

    /// Bytes that all its series share.
    pub(crate) fn bytes_held(&self) -> usize {
        self.values.len() + self.columns.len() + self.decoded_bytes
    }

    /// Appends the samples of a series to `into`, ascending; `None` if bytes are not what they
    /// should be.
    pub(crate) fn read(&self, view: &ReadView, into: &mut Samples) -> Option<()> {
        match view {
            ReadView::Floats(view) => self.read_floats(view, into),
            ReadView::Whole(view) => {
                view.read(into)?;
                into.timestamps_token = 0;
                Some(())
            }
        }
    }

    /// Whether a series' samples here are known to be none of a range; without a look at those of
    /// a series that is not plain floats.
    pub(crate) fn is_apart(&self, view: &ReadView, range: TimeRange) -> bool {
        let ReadView::Floats(view) = view else { return false };
        let copy = self.times.get(view.times as usize);
        let decoded = copy.and_then(|copy| copy.decoded(&self.columns, self.range));
        decoded.is_some_and(|Decoded { times, rows }| match &times[rows.clone()] {
            [] => true,
            [first, .., last] => !TimeRange::new(*first, *last).overlaps(range),
            [only] => !range.contains(*only),
        })
    }

    fn read_floats(&self, view: &FloatsView, into: &mut Samples) -> Option<()> {
        let copy = self.times.get(view.times as usize)?;
        let Decoded { times, rows } = copy.decoded(&self.columns, self.range)?;
        into.timestamps_token = if into.is_empty() { copy.token } else { 0 };
        into.timestamps.extend_from_slice(&times[rows.clone()]);
        let (pieces, tail) = pieces_and_tail(&self.values, view.start, view.length, view.tail)?;
        into.values.reserve(rows.len());
        let mut row = 0;
        each_piece(pieces, |count, encoded| {
            let wanted = overlap(rows, row..row + count);
            row += count;
            match wanted.is_empty() {
                true => Some(()),
                false => decimal::decode_rows(encoded, count, wanted, &mut into.values),
            }
        })?;
        let wanted = overlap(rows, row..row + tail.len());
        into.values
            .extend(tail[wanted].iter().map(|bits| f64::from_bits(u64::from_le_bytes(*bits))));
        (into.values.len() == into.timestamps.len()).then_some(())
    }
}

impl ReadView {
    /// Bytes of its own, about.
    pub(crate) fn bytes_held(&self) -> usize {
        match self {
            ReadView::Floats(_) => 0,
            ReadView::Whole(view) => view.bytes_held(),
        }
    }
}

impl TimesCopy {
    fn decoded(&self, columns: &[u8], range: TimeRange) -> Option<&Decoded> {
        let decode = || {
            let (pieces, tail) = pieces_and_tail(columns, self.start, self.length, self.tail)?;
            let mut times = Vec::with_capacity(self.rows as usize);
            each_piece(pieces, |count, encoded| timestamps::decode(encoded, count, &mut times))?;
            times.extend(tail.iter().map(|bytes| i64::from_le_bytes(*bytes)));
            let start = times.partition_point(|time| *time < range.start_ms);
            let end = times.partition_point(|time| *time <= range.end_ms);
            Some(Decoded { times, rows: start..end })
        };
        self.decoded.get_or_init(decode).as_ref()
    }
}

fn push_piece(out: &mut Vec<u8>, count: u8, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("128 values take 9 bytes each at most");
    let [low, high] = length.to_le_bytes();
    out.reserve(bytes.len() + 3);
    out.extend_from_slice(&[count, low, high]);
    out.extend_from_slice(bytes);
}

/// Appends numbers of `N` bytes each.
fn push_all<T: Copy, const N: usize>(out: &mut Vec<u8>, all: &[T], bytes: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + all.len() * N, 0);
    let (places, _) = out[start..].as_chunks_mut::<N>();
    places.iter_mut().zip(all).for_each(|(place, one)| *place = bytes(*one));
}

/// The pieces at `start`, and the `tail` numbers at the end of them.
fn pieces_and_tail(
    bytes: &[u8],
    start: usize,
    length: u32,
    tail: u8,
) -> Option<(&[u8], &[[u8; 8]])> {
    let bytes = bytes.get(start..)?.get(..length as usize)?;
    let tail_start = bytes.len().checked_sub(usize::from(tail) * 8)?;
    let (pieces, tail) = bytes.split_at_checked(tail_start)?;
    Some((pieces, tail.as_chunks().0))
}

fn each_piece(mut bytes: &[u8], mut each: impl FnMut(usize, &[u8]) -> Option<()>) -> Option<()> {
    while let Some((header, rest)) = bytes.split_first_chunk::<3>() {
        let length = u16::from_le_bytes([header[1], header[2]]);
        let (piece, rest) = rest.split_at_checked(usize::from(length))?;
        each(usize::from(header[0]), piece)?;
        bytes = rest;
    }
    bytes.is_empty().then_some(())
}

/// Which of `rows` are wanted, counted from their first.
fn overlap(wanted: &Range<usize>, rows: Range<usize>) -> Range<usize> {
    let start = wanted.start.clamp(rows.start, rows.end);
    let end = wanted.end.clamp(start, rows.end);
    start - rows.start..end - rows.start
}

/// Whether a mini-chunk may have samples of the range. The column, which is far away in memory, is
/// asked only where the window does not tell.
fn is_in_range(
    window: i64,
    times: Times<'_>,
    range: TimeRange,
    columns: &TimestampColumns,
) -> bool {
    let end = window.saturating_add(WINDOW_MS - 1);
    if !TimeRange::new(window, end).overlaps(range) {
        return false;
    }
    match times {
        Times::Shared(id) if !(range.contains(window) && range.contains(end)) => {
            columns.range(id).overlaps(range)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::head::series::Value;

    #[test]
    fn a_view_reads_like_the_whole_series_inside_its_range() {
        let mut columns = TimestampColumns::default();
        let mut series: Vec<MemSeries> = (0..3).map(|_| MemSeries::default()).collect();
        for i in 0..1000i64 {
            for (number, one) in series.iter_mut().enumerate() {
                let timestamp = i * 15_000 + (number as i64 / 2) * 7;
                one.push(timestamp, Value::Float(i as f64), i64::MIN, &mut columns);
            }
        }
        for range in [
            TimeRange::ALL,
            TimeRange::new(5_000_000, 6_000_000),
            TimeRange::new(14_900_000, 15_000_000),
            TimeRange::new(0, 0),
        ] {
            let mut copy = HeadCopy::new(range);
            let views: Vec<ReadView> =
                series.iter().map(|one| copy.add(one, &columns).unwrap()).collect();
            let mut tokens = Vec::new();
            for (one, view) in series.iter().zip(&views) {
                let mut whole = Samples::default();
                one.view(range, &columns).read(&mut whole).unwrap();
                let mut found = Samples::default();
                assert!(matches!(view, ReadView::Floats(_)));
                copy.read(view, &mut found).unwrap();
                tokens.push(found.timestamps_token);
                let rows = |of: &Samples| -> Vec<(i64, f64)> {
                    of.timestamps.iter().copied().zip(of.values.iter().copied()).collect()
                };
                let mut expected = rows(&whole);
                expected.retain(|(timestamp, _)| range.contains(*timestamp));
                assert_eq!(rows(&found), expected, "{range:?}");
            }
            assert!(tokens[0] == tokens[1] && tokens[1] != tokens[2]);
            assert_eq!(copy.times.len(), 2, "timestamps are copied once for each target");
        }
    }
}
