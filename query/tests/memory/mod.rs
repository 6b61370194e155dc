//! Series in memory: the simplest of sources.

use icecore_query::source::{Charge, SelectedSeries, Selection, Source, SourceError};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::sample::Samples;

/// Each series once. A token of samples, if there is one, must say which have equal timestamps.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) series: Vec<(Labels, Samples)>,
}

impl Source for Memory {
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
        into.clone_from(&self.series[*series].1);
        Ok(())
    }
}
