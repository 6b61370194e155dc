//! Totals: what a block holds by day, and which metrics and labels take its bytes.
//!
//! Worked out while the block is written, so that a report about years of data reads a few kilobytes
//! a block and no samples. **Stored bytes** of a series are its part of the pages that it lies in, as
//! they are in the file; columns, index and the rest of the file belong to all. Lists are bounded:
//! what is beyond them is a sum. Layout: docs/format.md, "Totals".

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::labels::Labels;
use crate::metrics::companion;
use crate::metrics::histogram::{Counts, Histogram};
use crate::metrics::rollup::Component;
use crate::metrics::sample::Samples;
use crate::time::{DAY_MS, TimeRange};

/// Metrics and label pairs that are listed, those of most bytes.
const METRICS_MAX: usize = 512;
const PAIRS_MAX: usize = 256;

/// Label pairs, or metrics, that are counted at a time.
const COUNTED_MAX: usize = 16_384;

/// What a sample takes in the sender's hands: a timestamp and a float of 8 bytes each.
pub(crate) const RAW_SAMPLE_BYTES: u64 = 16;

/// Days longer ago or ahead than this are damage.
const DAY_MAX: i64 = i64::MAX / DAY_MS;

/// What a block holds of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DayTotals {
    /// Series with at least one row.
    pub(crate) series: u64,
    /// Samples, or buckets of a rollup.
    pub(crate) rows: u64,
    /// What the samples take as they were sent; of a rollup, those that it was made of.
    pub(crate) raw_bytes: u64,
    /// Part of the stored pages.
    pub(crate) page_bytes: u64,
    /// Oldest and newest sample.
    pub(crate) range: TimeRange,
}

/// What something takes of a block's pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) series: u64,
    pub(crate) page_bytes: u64,
}

/// What is known of a block without reading its samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// By number of the day since 1970.
    pub(crate) days: BTreeMap<i64, DayTotals>,
    /// By metric name, those of most bytes; and all others.
    pub(crate) metrics: Vec<(String, Share)>,
    pub(crate) other_metrics: Share,
    /// Label pairs of most bytes, without metric names.
    pub(crate) pairs: Vec<((String, String), u64)>,
    /// A pair has at most so many bytes more than are listed, or in all if it is not listed.
    pub(crate) pair_error: u64,
}

/// The day of a row. A bucket has its end and not its start.
pub(crate) fn day_of(timestamp: i64, is_rollup: bool) -> i64 {
    timestamp.saturating_sub(i64::from(is_rollup)).div_euclid(DAY_MS)
}

/// What a histogram takes in the sender's hands: its timestamp and its numbers, 8 bytes each.
fn raw_histogram_bytes(histogram: &Histogram) -> u64 {
    let buckets = match &histogram.counts {
        Counts::Integer { positive, negative, .. } => positive.len() + negative.len(),
        Counts::Float { positive, negative, .. } => positive.len() + negative.len(),
    };
    // Timestamp, count, zero count and threshold, sum.
    8 * (5 + buckets + histogram.custom_values.len()) as u64
}

/// Totals of a block that is being written.
#[derive(Debug, Default)]
pub(crate) struct TotalsBuilder {
    is_rollup: bool,
    days: BTreeMap<i64, DayTotals>,
    /// Days that the series at work was counted in.
    series_days: Vec<i64>,
    /// Bytes of chunks in the page that is being filled, by day; of its series; both before the page
    /// is compressed.
    page_days: BTreeMap<i64, u64>,
    page_series: Vec<u64>,
    /// Stored bytes of each series, by position.
    series: Vec<u32>,
}

impl TotalsBuilder {
    pub(crate) fn new(is_rollup: bool) -> TotalsBuilder {
        TotalsBuilder { is_rollup, ..TotalsBuilder::default() }
    }

    /// Counts the rows of the next series; `samples` is its column with a row for each, or one of two:
    /// buckets of floats and of histograms have their own.
    pub(crate) fn add_rows(&mut self, samples: &Samples) {
        let is_rollup = self.is_rollup;
        let mut start = 0;
        while start < samples.len() {
            let day = day_of(samples.timestamps[start], is_rollup);
            let rest = &samples.timestamps[start..];
            let end = start + rest.partition_point(|&t| day_of(t, is_rollup) == day);
            let histograms = samples.histograms.iter();
            let of_day = |row: u32| (start..end).contains(&(row as usize));
            let histograms: Vec<&Histogram> =
                histograms.filter(|(row, _)| of_day(*row)).map(|(_, one)| one).collect();
            let floats = (end - start - histograms.len()) as u64;
            let raw_samples = match is_rollup {
                // The column of counts.
                true => samples.values[start..end].iter().map(|count| *count as u64).sum(),
                false => floats,
            };
            let of_histograms: u64 = histograms.into_iter().map(raw_histogram_bytes).sum();
            let totals = self.days.entry(day).or_default();
            if !self.series_days.contains(&day) {
                self.series_days.push(day);
                totals.series += 1;
            }
            totals.rows += (end - start) as u64;
            totals.raw_bytes += raw_samples * RAW_SAMPLE_BYTES + of_histograms;
            start = end;
        }
    }

    /// Counts a chunk of the series, of so many bytes; before [`TotalsBuilder::end_series`].
    pub(crate) fn add_chunk(&mut self, component: Component, times: &[i64], bytes: u64) {
        let is_rollup = component != Component::Raw;
        let (rows, mut start, mut given) = (times.len() as u64, 0, 0);
        while start < times.len() {
            let day = day_of(times[start], is_rollup);
            let end = start + times[start..].partition_point(|&t| day_of(t, is_rollup) == day);
            let up_to = part(bytes, end as u64, rows);
            *self.page_days.entry(day).or_default() += up_to - given;
            let range = TimeRange::new(times[start], times[end - 1]);
            let known = &mut self.days.entry(day).or_default().range;
            *known = if known.is_empty() { range } else { known.union(range) };
            (start, given) = (end, up_to);
        }
    }

    /// The series takes so many bytes of its page, chunks and all.
    pub(crate) fn end_series(&mut self, bytes: u64) {
        self.series_days.clear();
        self.page_series.push(bytes);
    }

    /// The page takes so many bytes in the file: its days and series share them.
    pub(crate) fn end_page(&mut self, stored_bytes: u64) {
        let days = std::mem::take(&mut self.page_days);
        let weights: Vec<u64> = days.values().copied().collect();
        for (day, bytes) in days.keys().zip(shares(stored_bytes, &weights)) {
            self.days.entry(*day).or_default().page_bytes += bytes;
        }
        let series = std::mem::take(&mut self.page_series);
        self.series.extend(
            shares(stored_bytes, &series).map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
        );
    }

    /// `order`: ids in the order in which they were written; `labels` by id.
    pub(crate) fn finish(self, labels: &[Labels], order: &[u32]) -> Totals {
        let mut totals = Totals { days: self.days, ..Totals::default() };
        let mut metrics: Vec<(&str, Share)> = Vec::new();
        let mut pairs: Heaviest<(&str, &str)> = Heaviest::default();
        for (id, bytes) in order.iter().zip(self.series) {
            let (labels, bytes) = (&labels[*id as usize], u64::from(bytes));
            let name = labels.metric_name();
            // Series of a metric are neighbours.
            if metrics.last().is_none_or(|(last, _)| *last != name) {
                metrics.push((name, Share::default()));
            }
            if let Some((_, share)) = metrics.last_mut() {
                share.series += 1;
                share.page_bytes += bytes;
            }
            let others = labels.iter().filter(|(name, _)| !is_special(name));
            others.for_each(|pair| pairs.add(pair, bytes));
        }
        metrics.sort_by(|a, b| b.1.page_bytes.cmp(&a.1.page_bytes).then_with(|| a.0.cmp(b.0)));
        for (_, share) in metrics.get(METRICS_MAX..).unwrap_or_default() {
            totals.other_metrics.series += share.series;
            totals.other_metrics.page_bytes += share.page_bytes;
        }
        metrics.truncate(METRICS_MAX);
        totals.metrics =
            metrics.into_iter().map(|(name, share)| (name.to_owned(), share)).collect();
        let (pairs, error) = pairs.finish(PAIRS_MAX);
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        totals.pairs = pairs.into_iter().map(|(pair, bytes)| (owned(pair), bytes)).collect();
        totals.pair_error = error;
        totals
    }
}

fn is_special(name: &str) -> bool {
    name == "__name__" || name == companion::LABEL
}

/// `part` of `whole` of something, rounded down.
pub(crate) fn part(of: u64, part: u64, whole: u64) -> u64 {
    (u128::from(of) * u128::from(part) / u128::from(whole.max(1))) as u64
}

/// Divides something by weights, to the last unit; alike where there is no weight.
pub(crate) fn shares(of: u64, weights: &[u64]) -> impl Iterator<Item = u64> + '_ {
    let total: u64 = weights.iter().sum();
    let (mut up_to, mut given) = (0, 0);
    weights.iter().map(move |weight| {
        up_to += if total == 0 { 1 } else { *weight };
        let all = if total == 0 { weights.len() as u64 } else { total };
        let before = std::mem::replace(&mut given, part(of, up_to, all));
        given - before
    })
}

/// What takes most bytes, in bounded memory: when too many are counted, all lose what the one in the
/// middle has, and those with nothing left are forgotten. What any may have lost that way is known.
/// (Misra and Gries, "Finding repeated elements", 1982, in batches.)
#[derive(Debug)]
pub(crate) struct Heaviest<K> {
    bytes: HashMap<K, u64>,
    lost: u64,
}

impl<K> Default for Heaviest<K> {
    fn default() -> Heaviest<K> {
        Heaviest { bytes: HashMap::new(), lost: 0 }
    }
}

impl<K: Eq + Hash + Ord> Heaviest<K> {
    pub(crate) fn add(&mut self, key: K, bytes: u64) {
        *self.bytes.entry(key).or_default() += bytes;
        if self.bytes.len() > COUNTED_MAX {
            let mut counts: Vec<u64> = self.bytes.values().copied().collect();
            let middle = counts.len() / 2;
            let (_, &mut lost, _) = counts.select_nth_unstable(middle);
            self.lost += lost;
            self.bytes.retain(|_, bytes| {
                *bytes = bytes.saturating_sub(lost);
                *bytes > 0
            });
        }
    }

    /// The heaviest, and by how much they are too light at most; so much another may have.
    pub(crate) fn finish(self, most: usize) -> (Vec<(K, u64)>, u64) {
        let mut all: Vec<(K, u64)> = self.bytes.into_iter().collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let next = all.get(most).map_or(0, |(_, bytes)| *bytes);
        all.truncate(most);
        (all, self.lost + next)
    }
}

impl Totals {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        varint::write(out, self.days.len() as u64);
        for (day, totals) in &self.days {
            varint::write_signed(out, *day);
            for number in [totals.series, totals.rows, totals.raw_bytes, totals.page_bytes] {
                varint::write(out, number);
            }
            varint::write_signed(out, totals.range.start_ms);
            varint::write_signed(out, totals.range.end_ms);
        }
        varint::write(out, self.metrics.len() as u64);
        for (name, share) in &self.metrics {
            write_bytes(out, name.as_bytes());
            share.write(out);
        }
        self.other_metrics.write(out);
        varint::write(out, self.pairs.len() as u64);
        for ((name, value), bytes) in &self.pairs {
            write_bytes(out, name.as_bytes());
            write_bytes(out, value.as_bytes());
            varint::write(out, *bytes);
        }
        varint::write(out, self.pair_error);
    }

    /// Reads all of `bytes`.
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Totals> {
        let rest = &mut bytes;
        let mut totals = Totals::default();
        for _ in 0..read_count(rest, 7)? {
            let day = varint::read_signed(rest).filter(|day| day.abs() <= DAY_MAX)?;
            let mut number = || varint::read(rest);
            let (series, rows, raw_bytes, page_bytes) =
                (number()?, number()?, number()?, number()?);
            let start_ms = varint::read_signed(rest)?;
            let range = TimeRange::new(start_ms, varint::read_signed(rest)?);
            let of_day = DayTotals { series, rows, raw_bytes, page_bytes, range };
            totals.days.insert(day, of_day);
        }
        let text = |rest: &mut &[u8]| String::from_utf8(read_bytes(rest)?.to_vec()).ok();
        for _ in 0..read_count(rest, 3)? {
            let name = text(rest)?;
            totals.metrics.push((name, Share::read(rest)?));
        }
        totals.other_metrics = Share::read(rest)?;
        for _ in 0..read_count(rest, 3)? {
            let pair = (text(rest)?, text(rest)?);
            totals.pairs.push((pair, varint::read(rest)?));
        }
        totals.pair_error = varint::read(rest)?;
        bytes.is_empty().then_some(totals)
    }
}

impl Share {
    fn write(&self, out: &mut Vec<u8>) {
        varint::write(out, self.series);
        varint::write(out, self.page_bytes);
    }

    fn read(rest: &mut &[u8]) -> Option<Share> {
        let series = varint::read(rest)?;
        Some(Share { series, page_bytes: varint::read(rest)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(metric: usize, pod: usize) -> Labels {
        let (metric, pod) = (format!("m{metric:04}"), format!("pod-{pod}"));
        Labels::from_pairs([("__name__", &*metric), ("app", "a"), ("pod", &*pod)]).unwrap()
    }

    #[test]
    fn shares_add_up_to_the_last_byte() {
        for (of, weights) in [(100, &[1, 1, 1][..]), (7, &[0, 0]), (5, &[3, 0, 9]), (0, &[1])] {
            let all: Vec<u64> = shares(of, weights).collect();
            assert_eq!(all.iter().sum::<u64>(), of, "{all:?}");
        }
        assert_eq!(shares(100, &[3, 0, 1]).collect::<Vec<_>>(), [75, 0, 25]);
        assert_eq!(shares(9, &[]).count(), 0);
    }

    #[test]
    fn rows_belong_to_their_days_and_share_the_bytes_of_the_page() {
        let mut builder = TotalsBuilder::new(false);
        let mut samples = Samples::default();
        for hour in 0..48 {
            samples.push(hour * DAY_MS / 24, 1.0);
        }
        builder.add_rows(&samples);
        builder.add_chunk(Component::Raw, &samples.timestamps[..24], 100);
        builder.add_chunk(Component::Raw, &samples.timestamps[24..], 300);
        builder.end_series(400);
        builder.end_page(200);
        let totals = builder.finish(&[labels(1, 1)], &[0]);
        let day = |day: i64| totals.days[&day].clone();
        assert_eq!([day(0).page_bytes, day(1).page_bytes], [50, 150]);
        assert_eq!((day(1).rows, day(1).series, day(1).raw_bytes), (24, 1, 24 * 16));
        assert_eq!(day(1).range, TimeRange::new(DAY_MS, DAY_MS + 23 * DAY_MS / 24));
        assert_eq!(totals.metrics, [("m0001".into(), Share { series: 1, page_bytes: 200 })]);
        // The end of a bucket is in the day that it ends.
        assert_eq!([day_of(DAY_MS, true), day_of(DAY_MS, false)], [0, 1]);
    }

    #[test]
    fn lists_are_bounded_and_say_what_they_leave_out() {
        let mut builder = TotalsBuilder::new(false);
        let series = 40_000;
        let labels: Vec<Labels> = (0..series).map(|i| labels(i / 20, i)).collect();
        for i in 0..series as u64 {
            builder.end_series(if i < 20 { 50 } else { 1 });
        }
        builder.end_page(40_000 + 20 * 49);
        let order: Vec<u32> = (0..series as u32).collect();
        let totals = builder.finish(&labels, &order);
        assert_eq!((totals.metrics.len(), totals.pairs.len()), (METRICS_MAX, PAIRS_MAX));
        assert_eq!(totals.metrics[0].1.page_bytes, 20 * 50);
        let listed: u64 = totals.metrics.iter().map(|(_, share)| share.page_bytes).sum();
        assert_eq!(listed + totals.other_metrics.page_bytes, 40_980);
        // All series have app="a"; its bytes are known up to the error.
        let (pair, bytes) = &totals.pairs[0];
        assert_eq!(pair, &("app".to_owned(), "a".to_owned()));
        assert!((*bytes..=bytes + totals.pair_error).contains(&40_980), "{bytes}");
        assert!(totals.pair_error < 20, "{}", totals.pair_error);
        let mut bytes = Vec::new();
        totals.write(&mut bytes);
        assert_eq!(Totals::parse(&bytes), Some(totals));
        for end in 0..bytes.len().min(2000) {
            assert_eq!(Totals::parse(&bytes[..end]), None, "{end} bytes");
        }
    }
}
