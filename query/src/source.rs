//! Where samples come from: the one seam between PromQL and storage.
//!
//! Two implementers: a storage snapshot, and the in-memory fixture of the tests. A query hands
//! over all its selections at once, so that they see one moment of the data; then it reads series
//! one by one, from several threads if it likes.

use icecore_storage::Snapshot;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::Matcher;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::outline::Outliner;
use icecore_storage::snapshot::{self, Selector};
use icecore_storage::tiers::Forced;
use icecore_storage::time::TimeRange;

/// One selector of a query, with what the query is going to do with it. Only `matchers` and
/// `range` bind; the rest are hints that let a source prepare less.
#[derive(Clone, Debug)]
pub struct Selection {
    pub matchers: Vec<Matcher>,
    /// Samples outside are not asked for, but may come.
    pub range: TimeRange,
    /// The function directly around the selector, e.g. `rate`, or the aggregation.
    pub function: Option<&'static str>,
    /// The window in ms of a range selector; the lookback of an instant selector.
    pub window_ms: i64,
    /// 0 for an instant query.
    pub step_ms: i64,
    /// Labels of the aggregation directly around: `Some((names, without))`.
    pub grouping: Option<(Vec<String>, bool)>,
    /// Every label name that the query mentions.
    pub names: Vec<String>,
    /// All windows begin and end at multiples of it, in ms, and what is computed on them is right on
    /// rollups; else 0.
    pub aligned_ms: i64,
    /// Rollups of coarser resolution are not to be read, in ms.
    pub resolution_max_ms: i64,
}

/// A failure to read. The text goes to the client.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    pub message: String,
}

/// The series of one selection with their labels.
pub type SelectedSeries<S> = Vec<(Labels, S)>;

/// Where a selection asks for memory.
pub type Charge<'a> = dyn FnMut(u64) -> bool + 'a;

/// A consistent view of series.
pub trait Source: Send + Sync {
    /// What a selected series is read by.
    type Series: Send + Sync;

    /// For each selection its series, each of them once, in no particular order. `charge` is told
    /// what memory they take, in bytes, before they take it and every so many series; once it
    /// returns false, the selection ends with any error.
    fn select(
        &self,
        selections: &[Selection],
        charge: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<Self::Series>>, SourceError>;

    /// Clears `into` and fills it with the series' samples in ascending time.
    fn read(&self, series: &Self::Series, into: &mut Samples) -> Result<(), SourceError>;

    /// As [`Self::read`], but chunks that no window cuts may have stand-ins.
    fn outline(
        &self,
        series: &Self::Series,
        outliner: Outliner<'_>,
        into: &mut Samples,
    ) -> Result<(), SourceError> {
        outliner.left_out.clear();
        self.read(series, into)
    }

    /// The resolution in ms of the coarsest rollups among what is read of a series: 0 for raw samples
    /// alone.
    fn resolution(&self, _series: &Self::Series) -> i64 {
        0
    }

    /// Where rollups are read of a series for want of raw samples.
    fn forced(&self, _series: &Self::Series) -> Vec<Forced> {
        Vec::new()
    }

    /// A number that grows with every change of the samples. What is selected after it was asked
    /// for holds every change up to it. `None`: the source cannot tell, and nothing is cached.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// The parts of `range` in which samples may have changed after `generation`, ascending; they
    /// may reach beyond the range.
    fn changes_since(&self, _generation: u64, range: TimeRange) -> Vec<TimeRange> {
        vec![range]
    }
}

impl Source for Snapshot {
    type Series = snapshot::SelectedSeries;

    fn select(
        &self,
        selections: &[Selection],
        charge: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<Self::Series>>, SourceError> {
        let selectors: Vec<Selector> = selections
            .iter()
            .map(|selection| Selector {
                matchers: selection.matchers.clone(),
                range: selection.range,
                aligned_ms: selection.aligned_ms,
            })
            .collect();
        // Of one query, all are to be as fine.
        let finest_ms = selections.iter().map(|selection| selection.resolution_max_ms).min();
        let snapshot = self.no_coarser_than(finest_ms.unwrap_or(i64::MAX));
        let selected = snapshot.select_charged(&selectors, charge)?;
        let with_labels = |series: Vec<snapshot::SelectedSeries>| {
            series.into_iter().map(|series| (series.labels().clone(), series)).collect()
        };
        Ok(selected.into_iter().map(with_labels).collect())
    }

    fn read(&self, series: &Self::Series, into: &mut Samples) -> Result<(), SourceError> {
        Ok(Snapshot::read(self, series, into)?)
    }

    fn outline(
        &self,
        series: &Self::Series,
        outliner: Outliner<'_>,
        into: &mut Samples,
    ) -> Result<(), SourceError> {
        Ok(Snapshot::outline(self, series, outliner, into)?)
    }

    fn resolution(&self, series: &Self::Series) -> i64 {
        Snapshot::resolution(self, series)
    }

    fn forced(&self, series: &Self::Series) -> Vec<Forced> {
        Snapshot::forced(self, series)
    }

    fn generation(&self) -> Option<u64> {
        Some(Snapshot::generation(self))
    }

    fn changes_since(&self, generation: u64, range: TimeRange) -> Vec<TimeRange> {
        Snapshot::changes_since(self, generation, range)
    }
}

impl From<icecore_storage::Error> for SourceError {
    fn from(error: icecore_storage::Error) -> SourceError {
        SourceError { message: error.to_string() }
    }
}
