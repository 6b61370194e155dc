//! How queries read series of the head: little is copied, and timestamps only once a target.
//!
//! A query selects many series that are scraped together. Their timestamps are decoded for the
//! first of them and shared by the others ([`SharedTimes`]); of each series only the encoded values
//! of mini-chunks that the range touches are copied ([`ReadView`]). Series with histograms or late
//! samples, which are few, are copied whole.

use std::collections::HashMap;
use std::sync::Arc;

use crate::encoding::{decimal, timestamps};
use crate::metrics::head::columns::TimestampColumns;
use crate::metrics::head::packed::{Entries, Entry, Times};
use crate::metrics::head::series::MemSeries;
use crate::metrics::head::view::SeriesView;
use crate::metrics::sample::Samples;
use crate::time::{TimeRange, WINDOW_MS};

/// Timestamps by what they were put together from, for the time of one selection.
#[derive(Debug, Default)]
pub(crate) struct SharedTimes {
    by_token: HashMap<u64, Arc<[i64]>>,
    times: Vec<i64>,
    /// What the timestamps of a series are put together from; its hash is the token.
    parts: Vec<u8>,
}

/// A copy of what a reader needs of a series for a range.
#[derive(Clone, Debug)]
pub(crate) enum ReadView {
    /// Floats in order of time.
    Floats(FloatsView),
    /// Anything else.
    Whole(Box<SeriesView>),
}

#[derive(Clone, Debug)]
pub(crate) struct FloatsView {
    times: Arc<[i64]>,
    token: u64,
    /// Mini-chunk after mini-chunk: count u8, length u16, encoded values.
    values: Box<[u8]>,
    tail: Box<[f64]>,
}

impl ReadView {
    /// `None` if the series has nothing to do with the range.
    pub(crate) fn of(
        series: &MemSeries,
        range: TimeRange,
        columns: &TimestampColumns,
        shared: &mut SharedTimes,
    ) -> Option<ReadView> {
        if !series.may_overlap(range) {
            return None;
        }
        if let Some(view) = floats_view(series, range, columns, shared) {
            return (!view.times.is_empty()).then_some(ReadView::Floats(view));
        }
        let view = series.view(range, columns);
        (!view.is_empty()).then(|| ReadView::Whole(Box::new(view)))
    }

    /// Bytes of its own, about; timestamps are shared.
    pub(crate) fn bytes_held(&self) -> usize {
        match self {
            ReadView::Floats(view) => view.values.len() + size_of_val(&view.tail[..]),
            ReadView::Whole(view) => view.bytes_held(),
        }
    }

    /// Appends the samples to `into`, ascending; `None` if bytes are not what they should be.
    pub(crate) fn read(&self, into: &mut Samples) -> Option<()> {
        match self {
            ReadView::Floats(view) => view.read(into),
            ReadView::Whole(view) => {
                view.read(into)?;
                into.timestamps_token = 0;
                Some(())
            }
        }
    }
}

impl FloatsView {
    fn read(&self, into: &mut Samples) -> Option<()> {
        into.timestamps_token = if into.is_empty() { self.token } else { 0 };
        into.timestamps.extend_from_slice(&self.times);
        let mut rest = &self.values[..];
        while let Some((header, tail)) = rest.split_first_chunk::<3>() {
            let length = u16::from_le_bytes([header[1], header[2]]);
            let (values, tail) = tail.split_at_checked(usize::from(length))?;
            decimal::decode(values, usize::from(header[0]), &mut into.values)?;
            rest = tail;
        }
        into.values.extend_from_slice(&self.tail);
        (rest.is_empty() && into.values.len() == into.timestamps.len()).then_some(())
    }
}

/// `None` for a series that is not plain floats in order.
fn floats_view(
    series: &MemSeries,
    range: TimeRange,
    columns: &TimestampColumns,
    shared: &mut SharedTimes,
) -> Option<FloatsView> {
    let tail = series.plain_tail()?;
    let tail_in_range = tail.newest >= range.start_ms && tail.start <= range.end_ms;
    let parts = &mut shared.parts;
    parts.clear();
    let mut values = Vec::with_capacity(series.packed().len());
    let mut entries = Entries::new(series.packed());
    while let Some((window, entry)) = entries.next() {
        let Entry::Floats { count, times, values: encoded } = entry else { return None };
        if !is_in_range(window, times, range, columns) {
            continue;
        }
        // Tags and lengths keep one list of columns from reading like another.
        match times {
            Times::Shared(id) => {
                parts.push(1);
                parts.extend_from_slice(&id.to_le_bytes());
            }
            Times::Own(bytes) => {
                parts.push(2);
                parts.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                parts.extend_from_slice(bytes);
            }
        }
        values.push(count);
        values.extend_from_slice(&u16::try_from(encoded.len()).ok()?.to_le_bytes());
        values.extend_from_slice(encoded);
    }
    let (offsets, tail_values) = match tail_in_range {
        true => (tail.offsets, tail.values),
        false => (&[][..], &[][..]),
    };
    if !offsets.is_empty() {
        parts.push(3);
        parts.extend_from_slice(&tail.start.to_le_bytes());
        offsets.iter().for_each(|offset| parts.extend_from_slice(&offset.to_le_bytes()));
    }
    let token = xxhash_rust::xxh3::xxh3_64(parts).max(1);
    let times = match shared.by_token.get(&token) {
        Some(times) => times.clone(),
        None => {
            shared.times.clear();
            decode_times(series, range, columns, &mut shared.times)?;
            let tail = offsets.iter().map(|offset| tail.start + i64::from(*offset));
            shared.times.extend(tail);
            let times: Arc<[i64]> = Arc::from(&shared.times[..]);
            shared.by_token.insert(token, times.clone());
            times
        }
    };
    let (values, tail) = (values.into_boxed_slice(), Box::from(tail_values));
    Some(FloatsView { times, token, values, tail })
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

fn decode_times(
    series: &MemSeries,
    range: TimeRange,
    columns: &TimestampColumns,
    into: &mut Vec<i64>,
) -> Option<()> {
    let mut entries = Entries::new(series.packed());
    while let Some((window, entry)) = entries.next() {
        let Entry::Floats { count, times, .. } = entry else { return None };
        if is_in_range(window, times, range, columns) {
            let bytes = match times {
                Times::Shared(id) => columns.bytes(id),
                Times::Own(bytes) => bytes,
            };
            timestamps::decode(bytes, usize::from(count), into)?;
        }
    }
    Some(())
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
            let mut shared = SharedTimes::default();
            let mut tokens = Vec::new();
            for one in &series {
                let mut whole = Samples::default();
                one.view(range, &columns).read(&mut whole).unwrap();
                let mut found = Samples::default();
                let view = ReadView::of(one, range, &columns, &mut shared).unwrap();
                assert!(matches!(view, ReadView::Floats(_)));
                view.read(&mut found).unwrap();
                tokens.push(found.timestamps_token);
                let rows = |of: &Samples| -> Vec<(i64, f64)> {
                    let rows = of.timestamps.iter().copied().zip(of.values.iter().copied());
                    rows.filter(|(timestamp, _)| range.contains(*timestamp)).collect()
                };
                assert_eq!(rows(&found), rows(&whole), "{range:?}");
                assert!(found.len() <= whole.len());
            }
            assert!(tokens[0] == tokens[1] && tokens[1] != tokens[2]);
            assert_eq!(shared.by_token.len(), 2, "timestamps are decoded once for each target");
        }
    }
}
