//! A source in memory: series and their samples, as the scripts load them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use icecore_query::source::{SelectedSeries, Selection, Source, SourceError};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::Histogram;
use icecore_storage::metrics::sample::Samples;

/// One loaded value.
#[derive(Clone, Debug)]
pub(crate) enum Loaded {
    Float(f64),
    Histogram(Histogram),
}

#[derive(Debug, Default)]
pub(crate) struct Fixture {
    index: HashMap<Labels, usize>,
    /// Classic histograms should have been loaded as native ones too, and were not.
    pub(crate) is_converted: bool,
    series: Vec<(Labels, Vec<(i64, Loaded)>)>,
}

impl Fixture {
    pub(crate) fn clear(&mut self) {
        *self = Fixture::default();
    }

    /// Adds samples; a later value for the same time replaces an earlier one.
    pub(crate) fn load(
        &mut self,
        labels: Labels,
        samples: impl IntoIterator<Item = (i64, Loaded)>,
    ) {
        let next = self.series.len();
        let at = *self.index.entry(labels.clone()).or_insert(next);
        if at == next {
            self.series.push((labels, Vec::new()));
        }
        let known = &mut self.series[at].1;
        for (timestamp, value) in samples {
            match known.binary_search_by_key(&timestamp, |(at, _)| *at) {
                Ok(at) => known[at].1 = value,
                Err(at) => known.insert(at, (timestamp, value)),
            }
        }
    }
}

impl Source for Fixture {
    type Series = usize;

    fn select(&self, selections: &[Selection]) -> Result<Vec<SelectedSeries<usize>>, SourceError> {
        let of = |selection: &Selection| {
            let matches = |labels: &Labels| {
                selection.matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or("")))
            };
            let found = self.series.iter().enumerate().filter(|(_, (labels, _))| matches(labels));
            found.map(|(index, (labels, _))| (labels.clone(), index)).collect()
        };
        Ok(selections.iter().map(of).collect())
    }

    fn read(&self, series: &usize, into: &mut Samples) -> Result<(), SourceError> {
        into.clear();
        for (timestamp, value) in &self.series[*series].1 {
            match value {
                Loaded::Float(value) => into.push(*timestamp, *value),
                Loaded::Histogram(histogram) => into.push_histogram(*timestamp, histogram.clone()),
            }
        }
        let mut hasher = DefaultHasher::new();
        into.timestamps.hash(&mut hasher);
        into.timestamps_token = hasher.finish() | 1;
        Ok(())
    }
}
