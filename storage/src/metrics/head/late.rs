//! Late samples: those that are not the newest of their series, sorted until a seal takes them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use crate::metrics::histogram::Histogram;
use crate::metrics::sample::{Samples, replaces};
use crate::time::TimeRange;

/// Late samples by time: they come in any order, and a request may bring a million of them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Late {
    rows: BTreeMap<i64, (f64, Option<Box<Histogram>>)>,
}

impl Late {
    /// Whether the timestamp is new; of two values for one the greater stays.
    pub(super) fn insert(
        &mut self,
        timestamp: i64,
        value: f64,
        histogram: Option<&Histogram>,
    ) -> bool {
        let row = || (value, histogram.map(|histogram| Box::new(histogram.clone())));
        match self.rows.entry(timestamp) {
            Slot::Vacant(slot) => {
                slot.insert(row());
                true
            }
            Slot::Occupied(mut slot) => {
                let (old, old_histogram) = slot.get();
                if replaces((value, histogram), (*old, old_histogram.as_deref())) {
                    slot.insert(row());
                }
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
        let mut inside = self.rows.split_off(&window.start_ms);
        if let Some(next) = window.end_ms.checked_add(1) {
            self.rows.append(&mut inside.split_off(&next));
        }
        Late { rows: inside }
    }

    pub(super) fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        for (timestamp, (value, histogram)) in &self.rows {
            match histogram {
                Some(histogram) => samples.push_histogram(*timestamp, (**histogram).clone()),
                None => samples.push(*timestamp, *value),
            }
        }
        samples
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn timestamps(&self) -> impl Iterator<Item = i64> + '_ {
        self.rows.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
