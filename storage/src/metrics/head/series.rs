//! A series in memory: a raw tail, mini-chunks behind it, and late samples beside them.
//!
//! Samples newer than all before go to the *tail* as they are. A full tail becomes a *mini-chunk*
//! in the *packed* bytes; so does one that would cross a two-hour window. Four mini-chunks of a
//! window are joined into one, which is smaller than they were and quicker to read. Everything else
//! is *late*: it waits, sorted, until the window it belongs to is sealed. Reading merges the three.
//!
//! [`packed`] knows those bytes, [`late`](super::late) the late samples; a [`SeriesView`] is a copy.

mod remove;

use std::collections::BTreeSet;

use crate::encoding::{decimal, histograms, timestamps};
use crate::metrics::chunk;
use crate::metrics::head::columns::{ColumnOf, TimestampColumns};
use crate::metrics::head::late::Late;
use crate::metrics::head::packed::{self, Entries, Entry, NO_WINDOW, Times};
use crate::metrics::head::view::SeriesView;
use crate::metrics::histogram::Histogram;
use crate::metrics::sample::{Samples, replaces};
use crate::time::{TimeRange, WINDOW_MS, window_start_ms};

/// Samples in a tail. A mini-chunk of 32 takes 0.41 bytes a value, of 120 0.33; a longer tail
/// would cost more memory (12 bytes a sample) than that saves.
pub(crate) const TAIL_SAMPLES: usize = 32;

/// Mini-chunks that are joined: their samples fill a mini-block of the codec.
const JOINED: u8 = 4;

/// No column yet, or the last one was the series' own.
const NO_COLUMN: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct MemSeries {
    /// The newest sample that is not late; `i64::MIN` before the first.
    newest: i64,
    /// Time of the tail's first sample.
    tail_start: i64,
    packed: Vec<u8>,
    /// Window of the last packed entry.
    packed_window: i64,
    /// Where the mini-chunks begin that are to be joined, and how many there are: the last ones of
    /// `packed`, all of its last window.
    joinable_from: u32,
    joinable: u8,
    tail_values: [f64; TAIL_SAMPLES],
    /// Milliseconds after `tail_start`.
    tail_offsets: [u32; TAIL_SAMPLES],
    tail_length: u8,
    last_column: u32,
    rare: Option<Box<Rare>>,
}

/// What few series have.
#[derive(Debug, Default, PartialEq)]
struct Rare {
    /// Tail of a series whose newest samples are histograms.
    histograms: Vec<(i64, Histogram)>,
    /// What these take.
    histogram_bytes: usize,
    late: Late,
    /// Late samples that a seal in progress has taken charge of.
    sealing: Samples,
}

impl Rare {
    fn bytes_held(&self) -> usize {
        let sealing = self.sealing.len() * 16 + self.sealing.histograms.len() * 256;
        size_of::<Rare>() + self.histogram_bytes + self.late.bytes_held() + sealing
    }
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    InOrder,
    Late,
    /// It was there already.
    Duplicate,
}

/// A value as it is pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Float(f64),
    Histogram(&'a Histogram),
}

impl Default for MemSeries {
    fn default() -> MemSeries {
        MemSeries {
            newest: i64::MIN,
            tail_start: 0,
            packed: Vec::new(),
            packed_window: NO_WINDOW,
            joinable_from: 0,
            joinable: 0,
            tail_values: [0.0; TAIL_SAMPLES],
            tail_offsets: [0; TAIL_SAMPLES],
            tail_length: 0,
            last_column: NO_COLUMN,
            rare: None,
        }
    }
}

impl MemSeries {
    /// Adds a sample. Samples before `sealed_before` are late even if they are the newest.
    #[inline]
    pub(crate) fn push(
        &mut self,
        timestamp: i64,
        value: Value<'_>,
        sealed_before: i64,
        columns: &mut TimestampColumns,
    ) -> Pushed {
        if timestamp <= self.newest || timestamp < sealed_before {
            return self.push_late(timestamp, value);
        }
        match value {
            Value::Float(value) => self.push_float(timestamp, value, columns),
            Value::Histogram(histogram) => self.push_histogram(timestamp, histogram, columns),
        }
        self.newest = timestamp;
        Pushed::InOrder
    }

    #[inline]
    fn push_float(&mut self, timestamp: i64, value: f64, columns: &mut TimestampColumns) {
        let length = usize::from(self.tail_length);
        let fits = length > 0
            && length < TAIL_SAMPLES
            && timestamp.wrapping_sub(self.tail_start) < WINDOW_MS
            && window_start_ms(timestamp) == window_start_ms(self.tail_start);
        if !fits {
            self.pack(columns);
            self.tail_start = timestamp;
        }
        let length = usize::from(self.tail_length);
        let offset = timestamp - self.tail_start;
        self.tail_offsets[length] = u32::try_from(offset).expect("a tail stays in its window");
        self.tail_values[length] = value;
        self.tail_length += 1;
    }

    #[cold]
    fn push_histogram(
        &mut self,
        timestamp: i64,
        histogram: &Histogram,
        columns: &mut TimestampColumns,
    ) {
        let tail = self.rare.as_ref().map_or(&[][..], |rare| &rare.histograms);
        let fits = tail.first().is_some_and(|(first, _)| {
            tail.len() < TAIL_SAMPLES && window_start_ms(*first) == window_start_ms(timestamp)
        });
        if !fits {
            self.pack(columns);
        }
        let rare = self.rare.get_or_insert_default();
        rare.histogram_bytes += histogram.bytes_held();
        rare.histograms.push((timestamp, histogram.clone()));
    }

    #[cold]
    fn push_late(&mut self, timestamp: i64, value: Value<'_>) -> Pushed {
        if let Value::Float(value) = value {
            let tail = self.tail().find(|(t, _)| *t == timestamp);
            if tail.is_some_and(|(_, old)| !replaces((value, None), (old, None))) {
                return Pushed::Duplicate;
            }
        }
        let late = &mut self.rare.get_or_insert_default().late;
        let is_new = match value {
            Value::Float(value) => late.insert(timestamp, value, None),
            Value::Histogram(histogram) => late.insert(timestamp, 0.0, Some(histogram)),
        };
        if is_new { Pushed::Late } else { Pushed::Duplicate }
    }

    fn tail(&self) -> impl Iterator<Item = (i64, f64)> + '_ {
        let length = usize::from(self.tail_length);
        let offsets = self.tail_offsets[..length].iter();
        let rows = offsets.zip(&self.tail_values[..length]);
        rows.map(|(offset, value)| (self.tail_start + i64::from(*offset), *value))
    }

    /// Turns the tail into a mini-chunk.
    pub(crate) fn pack(&mut self, columns: &mut TimestampColumns) {
        if self.tail_length > 0 {
            self.pack_floats(columns);
        }
        let has_histograms = self.rare.as_ref().is_some_and(|rare| !rare.histograms.is_empty());
        if has_histograms {
            self.pack_histograms();
        }
    }

    fn pack_floats(&mut self, columns: &mut TimestampColumns) {
        let length = usize::from(self.tail_length);
        let mut times = [0i64; TAIL_SAMPLES];
        for (time, (timestamp, _)) in times.iter_mut().zip(self.tail()) {
            *time = timestamp;
        }
        let last = (self.last_column != NO_COLUMN).then_some(self.last_column);
        let column = columns.intern(&times[..length], last);
        if let ColumnOf::Shared(id) = column {
            self.last_column = id;
        }
        let times = match &column {
            ColumnOf::Shared(id) => Times::Shared(*id),
            ColumnOf::Own(bytes) => Times::Own(bytes),
        };
        let window = window_start_ms(self.tail_start);
        SCRATCH.with_borrow_mut(|scratch| {
            // Only now: the others of the target have to find the newest column of the four too.
            if self.joinable == JOINED {
                self.join(scratch, columns);
            }
            let values = scratch.encode(&self.tail_values[..length]);
            let entry = Entry::Floats { count: self.tail_length, times, values };
            let last_window = self.packed_window;
            let place = self.push_entry(window, &entry);
            if self.joinable == 0 || window != last_window {
                self.joinable_from = u32::try_from(place).expect("a series' bytes are few");
                self.joinable = 0;
            }
            self.joinable += 1;
        });
        self.tail_length = 0;
    }

    /// Makes one mini-chunk of those that are joinable.
    fn join(&mut self, scratch: &mut Scratch, columns: &mut TimestampColumns) {
        let start = self.joinable_from as usize;
        let joinable = || {
            let mut entries = Entries::within(self.packed_window, &self.packed[start..]);
            std::iter::from_fn(move || match entries.next()? {
                (_, Entry::Floats { count, times, values }) => Some((count, times, values)),
                _ => unreachable!("histograms end what is joinable"),
            })
        };
        let Scratch { encoder, bytes, values } = scratch;
        values.clear();
        let mut total = 0;
        let mut shared = Vec::with_capacity(usize::from(JOINED));
        for (count, times, encoded) in joinable() {
            total += count;
            decimal::decode(encoded, usize::from(count), values).expect("was encoded here");
            shared.extend(times.shared());
        }
        if shared.contains(&self.last_column) {
            self.last_column = NO_COLUMN;
        }
        let own: Vec<u8>;
        let times = if shared.len() == usize::from(JOINED) {
            Times::Shared(columns.join(&shared))
        } else {
            own = columns.joined(joinable().map(|(count, times, _)| (count, times)));
            shared.into_iter().for_each(|id| columns.release(id));
            Times::Own(&own)
        };
        bytes.clear();
        encoder.encode(values, bytes);
        self.packed.truncate(start);
        self.joinable = 0;
        self.push_entry(self.packed_window, &Entry::Floats { count: total, times, values: bytes });
    }

    fn pack_histograms(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        let tail = std::mem::take(&mut rare.histograms);
        rare.histogram_bytes = 0;
        let Some((first, _)) = tail.first() else { return };
        let count = u8::try_from(tail.len()).expect("a tail is short");
        let (mut times, mut values) = (Vec::new(), Vec::new());
        let column: Vec<i64> = tail.iter().map(|(timestamp, _)| *timestamp).collect();
        timestamps::encode(&column, &mut times);
        let column: Vec<&Histogram> = tail.iter().map(|(_, histogram)| histogram).collect();
        histograms::encode(&column, &mut values);
        let entry = Entry::Histograms { count, times: &times, values: &values };
        self.push_entry(window_start_ms(*first), &entry);
        self.joinable = 0;
    }

    /// The place of the entry.
    fn push_entry(&mut self, window: i64, entry: &Entry<'_>) -> usize {
        // Growing by what is needed keeps a million series from holding doubled buffers.
        self.packed.reserve_exact(entry.bytes_max());
        packed::push(&mut self.packed, &mut self.packed_window, window, entry)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packed.is_empty() && self.tail_length == 0 && self.rare.is_none()
    }

    pub(crate) fn has_late(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.late.is_empty())
    }

    /// Whether a sample of the range may be here; `false` is certain.
    pub(crate) fn may_overlap(&self, range: TimeRange) -> bool {
        match &self.rare {
            Some(_) => !self.is_empty(),
            None => {
                let has_samples = self.tail_length > 0 || !self.packed.is_empty();
                has_samples && self.newest >= range.start_ms
            }
        }
    }

    /// Whether a seal of the window finds samples; after `begin_seal`.
    pub(crate) fn has_window(&self, window: TimeRange) -> bool {
        let mut entries = Entries::new(&self.packed);
        while let Some((start, _)) = entries.next() {
            if window.contains(start) {
                return true;
            }
        }
        self.rare.as_ref().is_some_and(|rare| !rare.sealing.is_empty())
    }

    /// Bytes on the heap, about. Cheap enough to be asked before and after each change.
    #[inline]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.packed.capacity() + self.rare.as_ref().map_or(0, |rare| rare.bytes_held())
    }

    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The tail, if the series has nothing but floats in order of time.
    pub(super) fn plain_tail(&self) -> Option<PlainTail<'_>> {
        let length = usize::from(self.tail_length);
        self.rare.is_none().then_some(PlainTail {
            start: self.tail_start,
            newest: self.newest,
            offsets: &self.tail_offsets[..length],
            values: &self.tail_values[..length],
        })
    }

    /// A copy of what a reader needs for `range`, with the columns it refers to.
    pub(crate) fn view(&self, range: TimeRange, columns: &TimestampColumns) -> SeriesView {
        let mut view = SeriesView::default();
        let mut last_window = NO_WINDOW;
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        let mut entries = Entries::new(&self.packed);
        while let Some((window, entry)) = entries.next() {
            let end = window.saturating_add(WINDOW_MS - 1);
            if !TimeRange::new(window, end).overlaps(range) {
                continue;
            }
            if let Entry::Floats { times: Times::Shared(id), .. } = entry {
                hasher.update(&[1]);
                hasher.update(&id.to_le_bytes());
                view.columns.push((id, columns.bytes(id).into()));
            } else if let Entry::Floats { times: Times::Own(bytes), .. } = entry {
                // Tags and lengths keep one list of columns from reading like another.
                hasher.update(&[2]);
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
            packed::push(&mut view.packed, &mut last_window, window, &entry);
        }
        if self.tail_length > 0 && self.newest >= range.start_ms {
            hasher.update(&[u8::MAX]);
            for (timestamp, value) in self.tail() {
                view.tail.push(timestamp, value);
                hasher.update(&timestamp.to_le_bytes());
            }
        }
        view.token = hasher.digest().max(1);
        if let Some(rare) = &self.rare {
            rare.histograms.iter().for_each(|(t, h)| view.tail.push_histogram(*t, h.clone()));
            view.late = rare.late.samples();
            chunk::merge(&mut view.late, &rare.sealing);
            view.token = 0;
        }
        view
    }

    /// Hands late samples of a window to the seal and returns how many; they stay readable.
    pub(crate) fn begin_seal(&mut self, window: TimeRange, columns: &mut TimestampColumns) -> u64 {
        self.pack_of(window, columns);
        self.take_late(window)
    }

    /// [`Self::begin_seal`] while the window is still written; the tail of a series that is not idle
    /// stays. Returns also how many of the packed bytes the seal may take.
    pub(crate) fn begin_early_seal(
        &mut self,
        window: TimeRange,
        is_idle: bool,
        columns: &mut TimestampColumns,
    ) -> (u64, u32) {
        if is_idle {
            self.pack_of(window, columns);
        }
        // What comes meanwhile is not joined with what is taken.
        self.joinable = 0;
        let taken = u32::try_from(self.packed.len()).expect("a series' bytes are few");
        (self.take_late(window), taken)
    }

    fn pack_of(&mut self, window: TimeRange, columns: &mut TimestampColumns) {
        if self.tail_length > 0 && window.contains(self.tail_start) {
            self.pack(columns);
        }
        let Some(rare) = &mut self.rare else { return };
        if rare.histograms.first().is_some_and(|(first, _)| window.contains(*first)) {
            self.pack_histograms();
        }
    }

    fn take_late(&mut self, window: TimeRange) -> u64 {
        let Some(rare) = &mut self.rare else { return 0 };
        let inside = rare.late.take(window);
        chunk::merge(&mut rare.sealing, &inside.samples());
        inside.len() as u64
    }

    /// Drops what a block now holds: of the first `taken` packed bytes the entries of the window,
    /// and the late samples that the seal took.
    pub(crate) fn end_seal(
        &mut self,
        window: TimeRange,
        taken: u32,
        columns: &mut TimestampColumns,
    ) {
        let mut kept = Vec::new();
        let mut last_window = NO_WINDOW;
        let mut entries = Entries::new(&self.packed);
        while let Some((entry_window, entry)) = entries.next() {
            let end = self.packed.len() - entries.left();
            if window.contains(entry_window) && end <= taken as usize {
                if let Entry::Floats { times: Times::Shared(id), .. } = entry {
                    if self.last_column == id {
                        self.last_column = NO_COLUMN;
                    }
                    columns.release(id);
                }
            } else {
                packed::push(&mut kept, &mut last_window, entry_window, &entry);
            }
        }
        self.packed = kept;
        self.packed.shrink_to_fit();
        self.packed_window = last_window;
        self.joinable = 0;
        if let Some(rare) = &mut self.rare {
            rare.sealing = Samples::default();
            if **rare == Rare::default() {
                self.rare = None;
            }
        }
    }

    /// Drops all samples of a window: a block has them.
    pub(crate) fn forget_window(&mut self, window: TimeRange, columns: &mut TimestampColumns) {
        self.begin_seal(window, columns);
        self.end_seal(window, u32::MAX, columns);
    }

    /// Gives late samples back after a seal that failed.
    pub(crate) fn abort_seal(&mut self) {
        if let Some(rare) = &mut self.rare {
            let sealing = std::mem::take(&mut rare.sealing);
            rare.late.insert_all(&sealing);
        }
    }

    /// A series from a checkpoint: the inverse of [`SeriesView::write`].
    pub(crate) fn restore(
        view: &SeriesView,
        newest: i64,
        columns: &mut TimestampColumns,
    ) -> Option<MemSeries> {
        let mut series = MemSeries::default();
        let mut shared = view.columns.iter();
        let mut entries = Entries::new(&view.packed);
        while let Some((window, mut entry)) = entries.next() {
            if let Entry::Floats { count, times: Times::Shared(id), values } = entry {
                let (_, bytes) = shared.next().filter(|(known, _)| *known == id)?;
                let mut times = Vec::new();
                timestamps::decode(bytes, usize::from(count), &mut times)?;
                let id = columns.restore(bytes, &times);
                entry = Entry::Floats { count, times: Times::Shared(id), values };
                series.last_column = id;
            }
            packed::push(&mut series.packed, &mut series.packed_window, window, &entry);
        }
        if !entries.is_complete() {
            return None;
        }
        series.packed.shrink_to_fit();
        for row in 0..view.tail.len() {
            let timestamp = view.tail.timestamps[row];
            match view.tail.histogram(row) {
                Some(histogram) => series.push_histogram(timestamp, histogram, columns),
                None => series.push_float(timestamp, view.tail.values[row], columns),
            }
        }
        series.newest = newest;
        if !view.late.is_empty() {
            series.rare.get_or_insert_default().late.insert_all(&view.late);
        }
        Some(series)
    }

    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Mini-chunks, and the tail if it is not empty.
    pub(crate) fn chunk_count(&self) -> u64 {
        let mut entries = Entries::new(&self.packed);
        let packed = std::iter::from_fn(|| entries.next()).count();
        packed as u64 + u64::from(self.tail_length > 0)
    }

    pub(crate) fn late_count(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.late.len() as u64)
    }

    /// Starts of the windows of its samples.
    pub(crate) fn windows(&self) -> BTreeSet<i64> {
        let mut windows = BTreeSet::new();
        let mut entries = Entries::new(&self.packed);
        while let Some((window, _)) = entries.next() {
            windows.insert(window);
        }
        if self.tail_length > 0 {
            windows.insert(window_start_ms(self.tail_start));
        }
        if let Some(rare) = &self.rare {
            windows.extend(rare.histograms.iter().map(|(t, _)| window_start_ms(*t)));
            windows.extend(rare.late.timestamps().map(window_start_ms));
        }
        windows
    }
}

std::thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

/// Memory that packing uses again.
#[derive(Debug, Default)]
struct Scratch {
    encoder: decimal::Encoder,
    /// Encoded values on their way into `packed`.
    bytes: Vec<u8>,
    /// Of mini-chunks that are joined.
    values: Vec<f64>,
}

impl Scratch {
    fn encode(&mut self, values: &[f64]) -> &[u8] {
        self.bytes.clear();
        self.encoder.encode(values, &mut self.bytes);
        &self.bytes
    }
}

/// The raw samples at the end of a series.
pub(super) struct PlainTail<'a> {
    pub(super) start: i64,
    /// Of the series, also if the tail is empty.
    pub(super) newest: i64,
    /// Milliseconds after `start`.
    pub(super) offsets: &'a [u32],
    pub(super) values: &'a [f64],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(series: &MemSeries, columns: &TimestampColumns, range: TimeRange) -> Samples {
        let mut samples = Samples::default();
        series.view(range, columns).read(&mut samples).unwrap();
        samples
    }

    #[test]
    fn what_was_pushed_is_read_whatever_its_order() {
        let mut columns = TimestampColumns::default();
        let mut series = MemSeries::default();
        let rows: Vec<i64> = (0..1000).map(|i| i * 15_000).collect();
        for i in (0..1000).step_by(2).chain((1..1000).step_by(2)) {
            series.push(rows[i], Value::Float(i as f64), i64::MIN, &mut columns);
        }
        let samples = read(&series, &columns, TimeRange::ALL);
        assert_eq!(samples.timestamps, rows);
        assert!(samples.values.iter().enumerate().all(|(i, v)| *v == i as f64));
    }

    #[test]
    fn mini_chunks_are_joined_whether_their_timestamps_are_shared_or_not() {
        let mut columns = TimestampColumns::default();
        let mut series: Vec<MemSeries> = (0..3).map(|_| MemSeries::default()).collect();
        for i in 0..2000i64 {
            for (number, one) in series.iter_mut().enumerate() {
                // The third is alone with its timestamps, and pauses now and then.
                if number < 2 || i % 300 > 20 {
                    let timestamp = i * 15_000 + (number as i64 / 2) * 7;
                    one.push(timestamp, Value::Float((i % 7) as f64), i64::MIN, &mut columns);
                }
            }
        }
        for (number, one) in series.iter().enumerate() {
            let samples = read(one, &columns, TimeRange::ALL);
            let expected = if number < 2 { 2000 } else { 2000 - 21 * 7 };
            assert_eq!(samples.len(), expected);
            let rows = samples.timestamps.iter().zip(&samples.values);
            assert!(rows.into_iter().all(|(t, v)| (t / 15_000 % 7) as f64 == *v));
            // Four windows of four and fewer, and the tail.
            assert!(one.chunk_count() < 36, "{}", one.chunk_count());
        }
        for one in &mut series {
            for window in 0..6 {
                let start = window * WINDOW_MS;
                one.forget_window(TimeRange::new(start, start + WINDOW_MS - 1), &mut columns);
            }
            assert!(one.is_empty());
        }
        assert_eq!(columns.len(), 0, "every column was released as often as held");
    }

    #[test]
    fn sealing_a_window_takes_its_samples_and_no_others() {
        let mut columns = TimestampColumns::default();
        let mut series = MemSeries::default();
        for i in 0..600i64 {
            series.push(i * 15_000, Value::Float(1.0), i64::MIN, &mut columns);
        }
        series.push(7, Value::Float(2.0), i64::MIN, &mut columns);
        series.push(WINDOW_MS + 8, Value::Float(3.0), i64::MIN, &mut columns);
        let window = TimeRange::new(0, WINDOW_MS - 1);
        series.begin_seal(window, &mut columns);
        series.push(9, Value::Float(4.0), WINDOW_MS, &mut columns);
        series.end_seal(window, u32::MAX, &mut columns);
        let samples = read(&series, &columns, TimeRange::ALL);
        assert_eq!(samples.timestamps[..3], [9, WINDOW_MS, WINDOW_MS + 8]);
        assert_eq!(samples.len(), 600 - 480 + 2);
    }
}
