//! A source in memory: series and their samples, as they were loaded.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use icecore_query::source::{Charge, SelectedSeries, Selection, Source, SourceError};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::sample::Samples;

use super::memory::Memory;
use super::{Sample, Series, Store, Value};

#[derive(Debug, Default)]
pub(crate) struct Fixture {
    index: HashMap<Labels, usize>,
    loaded: Vec<Vec<Sample>>,
    /// As many series, in the same order.
    memory: Memory,
}

impl Store for Fixture {
    type Source<'a> = &'a Fixture;

    /// A later value for the same time replaces an earlier one.
    fn load(&mut self, series: &[Series]) {
        for (labels, samples) in series {
            let next = self.loaded.len();
            let at = *self.index.entry(labels.clone()).or_insert(next);
            if at == next {
                self.loaded.push(Vec::new());
                self.memory.series.push((labels.clone(), Samples::default()));
            }
            let known = &mut self.loaded[at];
            for sample in samples {
                match known.binary_search_by_key(&sample.timestamp, |known| known.timestamp) {
                    Ok(at) => known[at] = sample.clone(),
                    Err(at) => known.insert(at, sample.clone()),
                }
            }
            self.memory.series[at].1 = columns(known);
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
        charge: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<usize>>, SourceError> {
        self.memory.select(selections, charge)
    }

    fn read(&self, series: &usize, into: &mut Samples) -> Result<(), SourceError> {
        self.memory.read(series, into)
    }
}

fn columns(samples: &[Sample]) -> Samples {
    let mut columns = Samples::default();
    for sample in samples {
        match &sample.value {
            Value::Float(value) => columns.push(sample.timestamp, *value),
            Value::Histogram(histogram) => {
                columns.push_histogram(sample.timestamp, histogram.clone());
            }
        }
    }
    if samples.iter().any(|sample| sample.start_timestamp != 0) {
        columns.start_timestamps = samples.iter().map(|sample| sample.start_timestamp).collect();
    }
    let mut hasher = DefaultHasher::new();
    columns.timestamps.hash(&mut hasher);
    columns.timestamps_token = hasher.finish() | 1;
    columns
}
