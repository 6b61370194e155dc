//! Late samples: those that are not the newest of their series, sorted until a seal takes them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use crate::metrics::histogram::Histogram;
use crate::metrics::sample::{Samples, replaces};
use crate::time::TimeRange;

/// Rows in a list before they become a tree. A list takes 24 bytes a row; the least node of a tree
/// has room for 11 rows, and most series with late samples have one or two.
const FEW_ROWS: usize = 256;

/// A row of a tree, which is two thirds full.
const TREE_ROW_BYTES: usize = 40;

type Value = (f64, Option<Box<Histogram>>);

/// Late samples by time: they come in any order, and a request may bring a million of them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Late {
    rows: Rows,
    /// What the histograms have on the heap.
    histogram_bytes: usize,
}

#[derive(Debug, PartialEq)]
enum Rows {
    /// Ascending.
    Few(Vec<(i64, Value)>),
    Many(BTreeMap<i64, Value>),
}

/// What became of a row.
enum Placed {
    New,
    InsteadOf(Value),
    Not,
}

impl Default for Rows {
    fn default() -> Rows {
        Rows::Few(Vec::new())
    }
}

impl Rows {
    /// Puts a row in, if there is none of its time or it wins over that.
    fn put(
        &mut self,
        timestamp: i64,
        wins: impl FnOnce(&Value) -> bool,
        row: impl FnOnce() -> Value,
    ) -> Placed {
        match self {
            Rows::Few(rows) => match rows.binary_search_by_key(&timestamp, |(time, _)| *time) {
                Ok(at) if wins(&rows[at].1) => {
                    Placed::InsteadOf(std::mem::replace(&mut rows[at].1, row()))
                }
                Ok(_) => Placed::Not,
                Err(_) if rows.len() == FEW_ROWS => {
                    let mut tree: BTreeMap<i64, Value> = std::mem::take(rows).into_iter().collect();
                    tree.insert(timestamp, row());
                    *self = Rows::Many(tree);
                    Placed::New
                }
                Err(at) => {
                    if rows.len() == rows.capacity() {
                        rows.reserve_exact((rows.len() / 2).max(1));
                    }
                    rows.insert(at, (timestamp, row()));
                    Placed::New
                }
            },
            Rows::Many(rows) => match rows.entry(timestamp) {
                Slot::Vacant(slot) => {
                    slot.insert(row());
                    Placed::New
                }
                Slot::Occupied(mut slot) if wins(slot.get()) => {
                    Placed::InsteadOf(slot.insert(row()))
                }
                Slot::Occupied(_) => Placed::Not,
            },
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&i64, &Value)> {
        let (few, many) = match self {
            Rows::Few(rows) => (Some(rows.iter().map(|(time, value)| (time, value))), None),
            Rows::Many(rows) => (None, Some(rows.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    fn take(&mut self, window: TimeRange) -> Rows {
        match self {
            Rows::Few(rows) => {
                let start = rows.partition_point(|(time, _)| *time < window.start_ms);
                let end = rows.partition_point(|(time, _)| *time <= window.end_ms);
                let inside = rows.drain(start..end.max(start)).collect();
                if rows.is_empty() {
                    *rows = Vec::new();
                }
                Rows::Few(inside)
            }
            Rows::Many(rows) => {
                let mut inside = rows.split_off(&window.start_ms);
                if let Some(next) = window.end_ms.checked_add(1) {
                    rows.append(&mut inside.split_off(&next));
                }
                if rows.len() <= FEW_ROWS / 2 {
                    *self = Rows::Few(std::mem::take(rows).into_iter().collect());
                }
                Rows::Many(inside)
            }
        }
    }
}

impl Late {
    /// Whether the timestamp is new; of two values for one the greater stays.
    pub(super) fn insert(
        &mut self,
        timestamp: i64,
        value: f64,
        histogram: Option<&Histogram>,
    ) -> bool {
        let wins = |(old, old_histogram): &Value| {
            replaces((value, histogram), (*old, old_histogram.as_deref()))
        };
        let row = || (value, histogram.map(|histogram| Box::new(histogram.clone())));
        let bytes = |one: Option<&Histogram>| one.map_or(0, Histogram::bytes_held);
        match self.rows.put(timestamp, wins, row) {
            Placed::Not => false,
            Placed::New => {
                self.histogram_bytes += bytes(histogram);
                true
            }
            Placed::InsteadOf((_, old)) => {
                self.histogram_bytes += bytes(histogram);
                self.histogram_bytes -= bytes(old.as_deref());
                false
            }
        }
    }

    pub(super) fn insert_all(&mut self, samples: &Samples) {
        for (row, timestamp) in samples.timestamps.iter().enumerate() {
            self.insert(*timestamp, samples.values[row], samples.histogram(row));
        }
    }

    /// Takes the samples of a window out.
    pub(super) fn take(&mut self, window: TimeRange) -> Late {
        let inside = self.rows.take(window);
        let histograms = inside.iter().filter_map(|(_, (_, histogram))| histogram.as_deref());
        let histogram_bytes = histograms.map(Histogram::bytes_held).sum();
        self.histogram_bytes -= histogram_bytes;
        Late { rows: inside, histogram_bytes }
    }

    pub(super) fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        for (timestamp, (value, histogram)) in self.rows.iter() {
            match histogram {
                Some(histogram) => samples.push_histogram(*timestamp, (**histogram).clone()),
                None => samples.push(*timestamp, *value),
            }
        }
        samples
    }

    pub(super) fn len(&self) -> usize {
        match &self.rows {
            Rows::Few(rows) => rows.len(),
            Rows::Many(rows) => rows.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn timestamps(&self) -> impl Iterator<Item = i64> + '_ {
        self.rows.iter().map(|(timestamp, _)| *timestamp)
    }

    /// Bytes on the heap, about.
    pub(super) fn bytes_held(&self) -> usize {
        let rows = match &self.rows {
            Rows::Few(rows) => rows.capacity() * size_of::<(i64, Value)>(),
            Rows::Many(rows) => rows.len() * TREE_ROW_BYTES,
        };
        rows + self.histogram_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::histogram::{Counts, ResetHint};

    fn histogram(at: i64) -> Histogram {
        Histogram {
            schema: 0,
            zero_threshold: 0.0,
            sum: at as f64,
            reset_hint: ResetHint::Unknown,
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            counts: Counts::Float {
                count: 1.0,
                zero_count: 1.0,
                positive: Vec::new(),
                negative: Vec::new(),
            },
            custom_values: Vec::new(),
        }
    }

    #[test]
    fn a_window_is_taken_out_and_the_greater_value_of_a_timestamp_stays() {
        let mut late = Late::default();
        for (timestamp, value) in [(9, 1.0), (3, 1.0), (5, 2.0), (5, 1.0), (7, 1.0)] {
            late.insert(timestamp, value, None);
        }
        let inside = late.take(TimeRange::new(4, 7)).samples();
        assert_eq!((inside.timestamps, inside.values), (vec![5, 7], vec![2.0, 1.0]));
        assert_eq!(late.timestamps().collect::<Vec<i64>>(), [3, 9]);
    }

    #[test]
    fn few_and_many_are_alike() {
        for rows in [3, FEW_ROWS as i64, FEW_ROWS as i64 * 4] {
            let mut late = Late::default();
            for i in 0..rows {
                let at = i * 7919 % rows;
                let histogram = (at % 3 == 0).then(|| histogram(at));
                assert!(late.insert(at, at as f64, histogram.as_ref()));
                assert!(!late.insert(at, at as f64, histogram.as_ref()));
            }
            assert!(late.timestamps().eq(0..rows));
            let inside = late.take(TimeRange::new(1, rows - 2));
            assert!(inside.timestamps().eq(1..rows - 1));
            assert!(late.timestamps().eq([0, rows - 1]));
            late.take(TimeRange::ALL);
            assert_eq!((late.bytes_held(), late), (0, Late::default()));
        }
    }
}
