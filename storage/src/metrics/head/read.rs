//! How queries read series of the head: little is copied while writers wait, and timestamps only
//! once a target.
//!
//! A query selects many series that are scraped together. A [`HeadCopy`] takes the packed entries
//! of all of them into one piece of memory, and each list of timestamps once; a [`ReadView`] knows
//! where those of a series are. Timestamps are decoded when the first of their series is read, and
//! only rows of the range are handed out. Series with histograms or late samples, which are few,
//! are copied whole.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;

use crate::encoding::decimal;
use crate::metrics::head::columns::{ColumnTimes, TimestampColumns};
use crate::metrics::head::packed::{Entries, Entry, Times};
use crate::metrics::head::series::{MemSeries, PlainTail, TAIL_SAMPLES};
use crate::metrics::head::view::SeriesView;
use crate::metrics::sample::Samples;
use crate::time::{TimeRange, WINDOW_MS};

/// Packed entries of an hour or two, in bytes.
const PACKED_BYTES: usize = 192;

/// What one selection takes out of the head.
#[derive(Debug)]
pub(crate) struct HeadCopy {
    range: TimeRange,
    /// Series after series: its packed entries of the range, and the values of its tail.
    packed: Vec<u8>,
    tails: Vec<f64>,
    times: Vec<TimesCopy>,
    /// List after list: the columns of its mini-chunks, and the timestamps of its tail.
    columns: Vec<Arc<ColumnTimes>>,
    tail_times: Vec<i64>,
    /// What `times` take, decoded.
    decoded_bytes: usize,
    /// Places in `times` by token.
    by_token: HashTable<u32>,
    /// What the timestamps of the series at hand are put together from, but for the tail.
    parts: Vec<u8>,
    last: LastTimes,
}

/// What the timestamps of the series before were put together from, which is likely to be of the
/// same target.
#[derive(Debug, Default)]
struct LastTimes {
    parts: Vec<u8>,
    tail_start: i64,
    tail_offsets: Vec<u32>,
    /// In `times`, if there was a series before.
    place: Option<u32>,
}

/// Timestamps that series share, decoded by the first to be read.
#[derive(Debug)]
struct TimesCopy {
    token: u64,
    /// In [`HeadCopy::columns`].
    columns: Range<usize>,
    /// In [`HeadCopy::tail_times`].
    tail: Range<usize>,
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
    /// In [`HeadCopy::packed`].
    start: usize,
    length: u32,
    /// In [`HeadCopy::tails`].
    tail_start: u32,
    tail: u8,
}

impl HeadCopy {
    pub(crate) fn new(range: TimeRange) -> HeadCopy {
        HeadCopy {
            range,
            packed: Vec::new(),
            tails: Vec::new(),
            times: Vec::new(),
            columns: Vec::new(),
            tail_times: Vec::new(),
            decoded_bytes: 0,
            by_token: HashTable::new(),
            parts: Vec::new(),
            last: LastTimes::default(),
        }
    }

    /// Makes room for so many series of a usual size.
    pub(crate) fn reserve(&mut self, series: usize) {
        self.packed.reserve(series * PACKED_BYTES);
        self.tails.reserve(series * TAIL_SAMPLES / 2);
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
            let is_empty = view.length == 0 && view.tail == 0;
            return (!is_empty).then_some(ReadView::Floats(view));
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
        let HeadCopy { range, parts, .. } = self;
        parts.clear();
        let mut entries = Entries::new(series.packed());
        entries.skip_before(range.start_ms.saturating_sub(WINDOW_MS - 1));
        // The entries of the range, which follow each other.
        let mut of_range = None;
        loop {
            let before = entries;
            let Some((window, entry)) = entries.next() else { break };
            let Entry::Floats { times, .. } = entry else { return None };
            if is_in_range(window, times, *range, columns) {
                of_range.get_or_insert((before, entries)).1 = entries;
                push_part(times, parts);
            } else if of_range.is_some() {
                break;
            }
        }
        let in_range = tail.newest >= range.start_ms && tail.start <= range.end_ms;
        let rows = if in_range { tail.offsets.len() } else { 0 };
        let (start, tail_start) = (self.packed.len(), self.tails.len());
        let (from, to) = of_range.unwrap_or((entries, entries));
        self.packed.extend_from_slice(from.bytes_to(&to));
        self.tails.extend_from_slice(&tail.values[..rows]);
        let length = self.packed.len() - start;
        let is_empty = length == 0 && rows == 0;
        let times = if is_empty { 0 } else { self.times_of(from, tail, rows, columns) };
        Some(FloatsView {
            times,
            start,
            length: u32::try_from(length).expect("a series' bytes are few"),
            tail_start: u32::try_from(tail_start).expect("tails in memory are below 2^32"),
            tail: u8::try_from(rows).expect("a tail is short"),
        })
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
        let offsets = &tail.offsets[..tail_rows];
        let last = &mut self.last;
        let is_same = last.parts == self.parts
            && last.tail_offsets == offsets
            && (tail_rows == 0 || last.tail_start == tail.start);
        if let Some(place) = last.place.filter(|_| is_same) {
            return place;
        }
        std::mem::swap(&mut self.parts, &mut last.parts);
        last.tail_start = tail.start;
        last.tail_offsets.clear();
        last.tail_offsets.extend_from_slice(offsets);
        // The token is the hash of all parts.
        let parts = &mut self.parts;
        parts.clear();
        parts.extend_from_slice(&last.parts);
        if tail_rows > 0 {
            parts.push(3);
            parts.extend_from_slice(&tail.start.to_le_bytes());
            push_all(parts, offsets, |offset| offset.to_le_bytes());
        }
        let token = xxhash_rust::xxh3::xxh3_64(&self.parts).max(1);
        let same = |place: &u32| self.times[*place as usize].token == token;
        let place = match self.by_token.find(token, same) {
            Some(place) => *place,
            None => {
                let (start, tail_start) = (self.columns.len(), self.tail_times.len());
                while let Some((window, entry)) = entries.next() {
                    if let Entry::Floats { count, times, .. } = entry
                        && is_in_range(window, times, self.range, columns)
                    {
                        self.columns.push(columns.times_of(count, times));
                    }
                }
                let times = offsets.iter().map(|offset| tail.start + i64::from(*offset));
                self.tail_times.extend(times);
                let rows = self.columns[start..].iter().map(|column| column.count());
                let rows = rows.sum::<usize>() + tail_rows;
                self.insert(TimesCopy {
                    token,
                    columns: start..self.columns.len(),
                    tail: tail_start..self.tail_times.len(),
                    rows: u32::try_from(rows).expect("a series in memory is below 2^32"),
                    decoded: OnceLock::new(),
                })
            }
        };
        self.last.place = Some(place);
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
        let numbers = self.tails.len() + self.tail_times.len() + self.columns.len();
        self.packed.len() + numbers * 8 + self.decoded_bytes
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
        let decoded = copy.and_then(|copy| self.decoded(copy));
        decoded.is_some_and(|Decoded { times, rows }| match &times[rows.clone()] {
            [] => true,
            [first, .., last] => !TimeRange::new(*first, *last).overlaps(range),
            [only] => !range.contains(*only),
        })
    }

    fn read_floats(&self, view: &FloatsView, into: &mut Samples) -> Option<()> {
        let copy = self.times.get(view.times as usize)?;
        let Decoded { times, rows } = self.decoded(copy)?;
        into.timestamps_token = if into.is_empty() { copy.token } else { 0 };
        into.timestamps.extend_from_slice(&times[rows.clone()]);
        into.values.reserve(rows.len());
        let mut entries = Entries::new(self.packed.get(view.start..)?.get(..view.length as usize)?);
        let mut row = 0;
        while let Some((_, entry)) = entries.next() {
            let Entry::Floats { count, values, .. } = entry else { return None };
            let count = usize::from(count);
            let wanted = overlap(rows, row..row + count);
            row += count;
            if !wanted.is_empty() {
                decimal::decode_rows(values, count, wanted, &mut into.values)?;
            }
        }
        let tail = self.tails.get(view.tail_start as usize..)?.get(..usize::from(view.tail))?;
        into.values.extend_from_slice(&tail[overlap(rows, row..row + tail.len())]);
        if !entries.is_complete() {
            return None;
        }
        (into.values.len() == into.timestamps.len()).then_some(())
    }
}

impl HeadCopy {
    fn decoded<'a>(&self, copy: &'a TimesCopy) -> Option<&'a Decoded> {
        let decode = || {
            let mut times = Vec::with_capacity(copy.rows as usize);
            for column in self.columns.get(copy.columns.clone())? {
                column.read(&mut times)?;
            }
            times.extend_from_slice(self.tail_times.get(copy.tail.clone())?);
            let start = times.partition_point(|time| *time < self.range.start_ms);
            let end = times.partition_point(|time| *time <= self.range.end_ms);
            Some(Decoded { times, rows: start..end })
        };
        copy.decoded.get_or_init(decode).as_ref()
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

/// Appends what tells a mini-chunk's timestamps from others. Tags and lengths keep one list of
/// columns from reading like another.
fn push_part(times: Times<'_>, parts: &mut Vec<u8>) {
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
}

/// Appends numbers of `N` bytes each.
fn push_all<T: Copy, const N: usize>(out: &mut Vec<u8>, all: &[T], bytes: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + all.len() * N, 0);
    let (places, _) = out[start..].as_chunks_mut::<N>();
    places.iter_mut().zip(all).for_each(|(place, one)| *place = bytes(*one));
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
