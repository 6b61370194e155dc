//! Removing a range of a series' samples, and counting them.

use super::{MemSeries, NO_COLUMN, Rare, Scratch};
use crate::encoding::{histograms, timestamps};
use crate::metrics::head::columns::TimestampColumns;
use crate::metrics::head::packed::{self, Entries, Entry, NO_WINDOW, Times};
use crate::metrics::sample::Samples;
use crate::time::{TimeRange, WINDOW_MS};

/// How much of a mini-chunk is in a range.
enum Share {
    None,
    All,
    /// Its timestamps, some of which are.
    Some(Vec<i64>),
}

fn share(window: i64, entry: &Entry<'_>, range: TimeRange, columns: &TimestampColumns) -> Share {
    let of_window = TimeRange::new(window, window.saturating_add(WINDOW_MS - 1));
    if !of_window.overlaps(range) {
        return Share::None;
    }
    if of_window.intersection(range) == of_window {
        return Share::All;
    }
    let (count, bytes) = match entry {
        Entry::Floats { count, times, .. } => (*count, columns.bytes_of(*times)),
        Entry::Histograms { count, times, .. } => (*count, *times),
    };
    let mut times = Vec::new();
    timestamps::decode(bytes, usize::from(count), &mut times).expect("was encoded here");
    let inside = times.iter().filter(|time| range.contains(**time)).count();
    match inside {
        0 => Share::None,
        _ if inside == times.len() => Share::All,
        _ => Share::Some(times),
    }
}

impl MemSeries {
    /// How many samples are in the range; of one that was replaced, both values.
    pub(crate) fn count(&self, range: TimeRange, columns: &TimestampColumns) -> u64 {
        let mut samples = 0;
        let mut entries = Entries::new(&self.packed);
        while let Some((window, entry)) = entries.next() {
            let (Entry::Floats { count, .. } | Entry::Histograms { count, .. }) = entry;
            samples += match share(window, &entry, range, columns) {
                Share::None => 0,
                Share::All => usize::from(count),
                Share::Some(times) => times.iter().filter(|time| range.contains(**time)).count(),
            };
        }
        samples += self.tail().filter(|(time, _)| range.contains(*time)).count();
        if let Some(rare) = &self.rare {
            let histograms = rare.histograms.iter().map(|(time, _)| *time);
            let sealing = rare.sealing.timestamps.iter().copied();
            let rest = histograms.chain(rare.late.timestamps()).chain(sealing);
            samples += rest.filter(|time| range.contains(*time)).count();
        }
        samples as u64
    }

    /// Removes the samples of a range. Others are as they were, bit for bit.
    pub(crate) fn remove(&mut self, range: TimeRange, columns: &mut TimestampColumns) {
        self.remove_packed(range, columns);
        self.remove_tail(range);
        if let Some(rare) = &mut self.rare {
            rare.histograms.retain(|(time, _)| !range.contains(*time));
            rare.histogram_bytes = rare.histograms.iter().map(|(_, one)| one.bytes_held()).sum();
            rare.late.take(range);
            rare.sealing.retain(|time| !range.contains(time));
            if **rare == Rare::default() {
                self.rare = None;
            }
        }
    }

    fn remove_packed(&mut self, range: TimeRange, columns: &mut TimestampColumns) {
        let mut kept = Vec::new();
        let mut last_window = NO_WINDOW;
        let mut is_changed = false;
        let mut entries = Entries::new(&self.packed);
        while let Some((window, entry)) = entries.next() {
            let share = share(window, &entry, range, columns);
            if let Share::None = share {
                packed::push(&mut kept, &mut last_window, window, &entry);
                continue;
            }
            is_changed = true;
            if let Share::Some(times) = share {
                push_rest(&mut kept, &mut last_window, window, &entry, &times, range);
            }
            if let Entry::Floats { times: Times::Shared(id), .. } = entry {
                if self.last_column == id {
                    self.last_column = NO_COLUMN;
                }
                columns.release(id);
            }
        }
        if is_changed {
            self.packed = kept;
            self.packed.shrink_to_fit();
            self.packed_window = last_window;
            self.joinable = 0;
        }
    }

    fn remove_tail(&mut self, range: TimeRange) {
        if !self.tail().any(|(time, _)| range.contains(time)) {
            return;
        }
        let kept: Vec<(i64, f64)> =
            self.tail().filter(|(time, _)| !range.contains(*time)).collect();
        self.tail_length = u8::try_from(kept.len()).expect("a tail is short");
        self.tail_start = kept.first().map_or(0, |(time, _)| *time);
        for (row, (time, value)) in kept.into_iter().enumerate() {
            let offset = u32::try_from(time - self.tail_start);
            self.tail_offsets[row] = offset.expect("a tail stays in its window");
            self.tail_values[row] = value;
        }
    }
}

/// Appends what is left of a mini-chunk of these timestamps.
fn push_rest(
    out: &mut Vec<u8>,
    last_window: &mut i64,
    window: i64,
    entry: &Entry<'_>,
    times: &[i64],
    range: TimeRange,
) {
    let mut rest = Samples::default();
    match entry {
        Entry::Floats { count, values, .. } => {
            let mut decoded = Vec::new();
            crate::encoding::decimal::decode(values, usize::from(*count), &mut decoded)
                .expect("was encoded here");
            times.iter().zip(decoded).for_each(|(time, value)| rest.push(*time, value));
        }
        Entry::Histograms { count, values, .. } => {
            let decoded = histograms::decode(values, usize::from(*count));
            let decoded = decoded.expect("was encoded here");
            times.iter().zip(decoded).for_each(|(time, one)| rest.push_histogram(*time, one));
        }
    }
    rest.retain(|time| !range.contains(time));
    let count = u8::try_from(rest.len()).expect("fewer than there were");
    let mut own = Vec::new();
    timestamps::encode(&rest.timestamps, &mut own);
    if rest.histograms.is_empty() {
        let mut scratch = Scratch::default();
        let values = scratch.encode(&rest.values);
        let entry = Entry::Floats { count, times: Times::Own(&own), values };
        packed::push(out, last_window, window, &entry);
    } else {
        let column: Vec<_> = rest.histograms.iter().map(|(_, one)| one).collect();
        let mut values = Vec::new();
        histograms::encode(&column, &mut values);
        let entry = Entry::Histograms { count, times: &own, values: &values };
        packed::push(out, last_window, window, &entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::head::series::Value;
    use crate::metrics::histogram::{Counts, Histogram, ResetHint};

    fn histogram() -> Histogram {
        let counts =
            Counts::Integer { count: 3, zero_count: 3, positive: Vec::new(), negative: Vec::new() };
        Histogram {
            schema: 0,
            zero_threshold: 1.0,
            sum: 0.5,
            reset_hint: ResetHint::Unknown,
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            counts,
            custom_values: Vec::new(),
        }
    }

    /// Every range of a series of packed, shared, late and raw samples, floats and histograms.
    #[test]
    fn what_is_removed_is_the_range_and_nothing_else() {
        let histogram = histogram();
        let step = 60_000;
        for (start, length) in (0..40).flat_map(|i| [(i * 13, 1), (i * 9, 7), (i * 5, 150)]) {
            let mut columns = TimestampColumns::default();
            let mut all: Vec<MemSeries> = (0..3).map(|_| MemSeries::default()).collect();
            for row in 0..400i64 {
                for (number, series) in all.iter_mut().enumerate() {
                    let value = match (number, row / 50 % 2) {
                        (2, 1) => Value::Histogram(&histogram),
                        _ => Value::Float(row as f64),
                    };
                    // Some come after those behind them.
                    let time = if row % 37 == 5 { row - 3 } else { row } * step;
                    series.push(time, value, i64::MIN, &mut columns);
                }
            }
            let range = TimeRange::new(start * step, (start + length) * step - 1);
            for series in &mut all {
                let read = |series: &MemSeries, columns: &TimestampColumns| {
                    let mut samples = Samples::default();
                    series.view(TimeRange::ALL, columns).read(&mut samples).unwrap();
                    samples.timestamps_token = 0;
                    samples
                };
                let mut expected = read(series, &columns);
                let count = series.count(range, &columns);
                let all = expected.len() as u64;
                expected.retain(|time| !range.contains(time));
                assert!(count >= all - expected.len() as u64, "some were replaced");
                series.remove(range, &mut columns);
                assert_eq!(series.count(range, &columns), 0);
                assert_eq!(read(series, &columns), expected, "{range:?}");
                // The series goes on, and what was deleted can be written again.
                for time in [range.start_ms, 400 * step, 401 * step] {
                    series.push(time, Value::Float(0.5), i64::MIN, &mut columns);
                }
                let added = usize::from(!expected.timestamps.contains(&range.start_ms));
                assert_eq!(read(series, &columns).len(), expected.len() + 2 + added);
                series.remove(TimeRange::ALL, &mut columns);
                assert!(series.is_empty());
            }
            assert_eq!(columns.len(), 0, "every column was released as often as held");
        }
    }
}
