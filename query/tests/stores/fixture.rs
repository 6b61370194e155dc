//! A source in memory: series and their samples, as they were loaded.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use icecore_query::source::{Charge, SelectedSeries, Selection, Source, SourceError};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::sample::Samples;

use super::{Series, Store, Value};

#[derive(Debug, Default)]
pub(crate) struct Fixture {
    index: HashMap<Labels, usize>,
    series: Vec<Series>,
}

impl Store for Fixture {
    type Source<'a> = &'a Fixture;

    /// A later value for the same time replaces an earlier one.
    fn load(&mut self, series: &[Series]) {
        for (labels, samples) in series {
            let next = self.series.len();
            let at = *self.index.entry(labels.clone()).or_insert(next);
            if at == next {
                self.series.push((labels.clone(), Vec::new()));
            }
            let known = &mut self.series[at].1;
            for sample in samples {
                match known.binary_search_by_key(&sample.timestamp, |known| known.timestamp) {
                    Ok(at) => known[at] = sample.clone(),
                    Err(at) => known.insert(at, sample.clone()),
                }
            }
        }
    }

    fn source(&self) -> &Fixture {
        self
    }
}

impl Source for &Fixture {
    type Series = usize;

    fn select(
        &self,
        selections: &[Selection],
        _: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<usize>>, SourceError> {
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
        let samples = &self.series[*series].1;
        for sample in samples {
            match &sample.value {
                Value::Float(value) => into.push(sample.timestamp, *value),
                Value::Histogram(histogram) => {
                    into.push_histogram(sample.timestamp, histogram.clone());
                }
            }
        }
        if samples.iter().any(|sample| sample.start_timestamp != 0) {
            into.start_timestamps = samples.iter().map(|sample| sample.start_timestamp).collect();
        }
        let mut hasher = DefaultHasher::new();
        into.timestamps.hash(&mut hasher);
        into.timestamps_token = hasher.finish() | 1;
        Ok(())
    }
}
