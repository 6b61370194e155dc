//! Samples: what a series holds, a value at each of its timestamps.
//!
//! A value is an `f64` or a native histogram. [`Samples`] is the columnar form in which reads hand
//! out a series and in which blocks are sealed. The rule that decides between two values of one
//! timestamp is [`replaces`]: a total order on values, so that it never matters which came first.

use std::cmp::Ordering;

use crate::metrics::chunk;
use crate::metrics::histogram::Histogram;

/// The NaN by which a sender says "this series ended here".
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

pub fn is_stale_nan(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// Columns of samples, timestamps strictly ascending, one row a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    pub timestamps: Vec<i64>,
    /// As long as `timestamps`; a row with a histogram holds the stale NaN if the histogram is a
    /// stale marker and 0 otherwise.
    pub values: Vec<f64>,
    /// Rows whose value is a histogram, ascending.
    pub histograms: Vec<(u32, Histogram)>,
    /// When each sample's counter started, in ms, 0 for unknown. Empty if no sample has one.
    pub start_timestamps: Vec<i64>,
    /// Within the reads of one selection, equal tokens other than 0 promise equal `timestamps`.
    pub timestamps_token: u64,
}

impl Samples {
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    pub fn clear(&mut self) {
        self.timestamps.clear();
        self.values.clear();
        self.histograms.clear();
        self.start_timestamps.clear();
        self.timestamps_token = 0;
    }

    pub fn push(&mut self, timestamp: i64, value: f64) {
        self.timestamps.push(timestamp);
        self.values.push(value);
    }

    pub fn push_histogram(&mut self, timestamp: i64, histogram: Histogram) {
        let row = u32::try_from(self.timestamps.len()).expect("a series in memory is below 2^32");
        let value = if is_stale_nan(histogram.sum) { stale_nan() } else { 0.0 };
        self.histograms.push((row, histogram));
        self.push(timestamp, value);
    }

    /// Keeps the rows whose timestamps `keep` likes.
    pub(crate) fn retain(&mut self, keep: impl Fn(i64) -> bool) {
        if self.timestamps.iter().all(|timestamp| keep(*timestamp)) {
            return;
        }
        let all = std::mem::take(self);
        for (row, (&timestamp, &value)) in all.timestamps.iter().zip(&all.values).enumerate() {
            if !keep(timestamp) {
                continue;
            }
            if let Some(start) = all.start_timestamps.get(row) {
                self.start_timestamps.push(*start);
            }
            match all.histogram(row) {
                Some(histogram) => self.push_histogram(timestamp, histogram.clone()),
                None => self.push(timestamp, value),
            }
        }
    }

    /// Joins the samples of another part of the series, ascending as these; of two values for a
    /// timestamp the greater in the order of [`replaces`] stays.
    pub fn merge(&mut self, other: &Samples) {
        chunk::merge(self, other);
    }

    pub fn histogram(&self, row: usize) -> Option<&Histogram> {
        let row = u32::try_from(row).ok()?;
        let found = self.histograms.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        Some(&self.histograms[found].1)
    }
}

/// Whether a second value for a timestamp takes the place of the first.
///
/// The greater value wins: stale marker < NaN by bits < float by IEEE 754 total order < histogram
/// by canonical bytes. Equal values do not replace each other.
pub fn replaces(new: (f64, Option<&Histogram>), old: (f64, Option<&Histogram>)) -> bool {
    let order = match (new.1, old.1) {
        (Some(new), Some(old)) => new.canonical_bytes().cmp(&old.canonical_bytes()),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => float_order(new.0, old.0),
    };
    order == Ordering::Greater
}

/// The order of [`replaces`] on floats.
pub fn float_order(a: f64, b: f64) -> Ordering {
    fn rank(v: f64) -> (u8, u64) {
        match v {
            _ if is_stale_nan(v) => (0, 0),
            _ if v.is_nan() => (1, v.to_bits()),
            _ => (2, 0),
        }
    }
    rank(a).cmp(&rank(b)).then_with(|| if a.is_nan() { Ordering::Equal } else { a.total_cmp(&b) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_value_wins_whatever_the_order_of_arrival() {
        let nan = |payload: u64| f64::from_bits(0x7ff8_0000_0000_0000 | payload);
        let ascending =
            [stale_nan(), nan(0), nan(1), f64::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f64::INFINITY];
        for (i, &a) in ascending.iter().enumerate() {
            for (j, &b) in ascending.iter().enumerate() {
                assert_eq!(replaces((a, None), (b, None)), i > j, "{a} over {b}");
            }
        }
    }
}
