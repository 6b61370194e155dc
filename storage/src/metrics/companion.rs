//! Companions: where the start timestamps of a series are.
//!
//! Few senders say when the counter of a sample started, so it is no column of every series. A
//! series that has start timestamps has a **companion**: another series, with the same labels and
//! [`LABEL`], whose values are the start times in ms at the timestamps of the samples. Log, head,
//! blocks, merges and retention know nothing of it; a companion is written in the record of its
//! samples, and nobody outside of storage sees it: [`LABEL`] is refused from outside, selections
//! leave companions out, and reading a series joins its companion to it.
//!
//! Times are exact as doubles up to 2^53 ms. Of two for one sample, the later one stays.

use std::collections::HashMap;

use crate::labels::Labels;
use crate::metrics::sample::Samples;

/// The label that tells a companion from its series.
pub(crate) const LABEL: &str = "__start_timestamp__";

/// Labels of a series' companion.
pub(crate) fn labels_of_companion(series: &Labels) -> Labels {
    let mut builder = series.to_builder();
    builder.set(LABEL, "ms");
    builder.build().expect("the names differ: the label is refused from outside")
}

/// Labels of a companion's series.
pub(crate) fn labels_of_series(companion: &Labels) -> Labels {
    let mut builder = companion.to_builder();
    builder.remove(LABEL);
    builder.build().expect("a part of labels is labels")
}

/// Puts a companion's values beside the samples of its series.
pub(crate) fn join(samples: &mut Samples, companion: &Samples) {
    let starts = &mut samples.start_timestamps;
    starts.clear();
    let mut next = 0;
    for timestamp in &samples.timestamps {
        while companion.timestamps.get(next).is_some_and(|known| known < timestamp) {
            next += 1;
        }
        let is_known = companion.timestamps.get(next) == Some(timestamp);
        starts.push(if is_known { companion.values[next] as i64 } else { 0 });
    }
    if starts.iter().all(|start| *start == 0) {
        starts.clear();
    }
}

/// Companions of the head's series by the ids of these; an id that is not listed may have one.
#[derive(Debug, Default)]
pub(crate) struct CompanionIds {
    by_series: HashMap<u32, u32>,
}

impl CompanionIds {
    pub(crate) fn get(&self, series: u32) -> Option<u32> {
        self.by_series.get(&series).copied()
    }

    pub(crate) fn insert(&mut self, series: u32, companion: u32) {
        self.by_series.insert(series, companion);
    }

    /// Forgets ids that are given to other series from now on.
    pub(crate) fn retain(&mut self, is_in_use: impl Fn(u32) -> bool) {
        self.by_series.retain(|series, companion| is_in_use(*series) && is_in_use(*companion));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(i64, f64)]) -> Samples {
        let mut samples = Samples::default();
        rows.iter().for_each(|(timestamp, value)| samples.push(*timestamp, *value));
        samples
    }

    #[test]
    fn labels_go_and_come_back() {
        let labels = Labels::from_pairs([("__name__", "m"), ("job", "j")]).unwrap();
        let companion = labels_of_companion(&labels);
        assert_ne!(companion, labels);
        assert_eq!(labels_of_series(&companion), labels);
    }

    #[test]
    fn starts_stand_beside_their_samples() {
        let mut series = samples(&[(10, 1.0), (20, 2.0), (30, 3.0)]);
        join(&mut series, &samples(&[(5, 1.0), (20, 7.0), (25, 9.0)]));
        assert_eq!(series.start_timestamps, [0, 7, 0]);
        join(&mut series, &samples(&[(25, 9.0)]));
        assert!(series.start_timestamps.is_empty());
    }
}
