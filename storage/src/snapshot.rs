//! A snapshot: the database at one moment, for reading.

use crate::error::Result;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::sample::Samples;
use crate::time::TimeRange;

/// A series that [`Snapshot::select`] found.
#[derive(Clone, Debug)]
pub struct SelectedSeries {
    labels: Labels,
}

impl SelectedSeries {
    pub fn labels(&self) -> &Labels {
        &self.labels
    }
}

/// Matchers that must all hold, and the time that is asked for.
#[derive(Clone, Debug)]
pub struct Selector {
    pub matchers: Vec<Matcher>,
    pub range: TimeRange,
}

/// Cheap to make and to clone. What it has selected never changes.
#[derive(Clone, Debug)]
pub struct Snapshot {}

impl Snapshot {
    /// For each selector its series, each once; all of them from one moment.
    pub fn select(&self, selectors: &[Selector]) -> Result<Vec<Vec<SelectedSeries>>> {
        Ok(selectors.iter().map(|_| Vec::new()).collect())
    }

    /// Clears `into` and fills it with a series' samples of its selector's range.
    pub fn read(&self, series: &SelectedSeries, into: &mut Samples) -> Result<()> {
        let _ = series;
        into.clear();
        Ok(())
    }

    /// Label sets of the series that fulfil any of the lists of matchers, sorted. No list: all.
    pub fn series(&self, any: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<Labels>> {
        let _ = (any, range);
        Ok(Vec::new())
    }

    /// Label names of those series, sorted.
    pub fn label_names(&self, any: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<String>> {
        let _ = (any, range);
        Ok(Vec::new())
    }

    /// Values of one label over those series, sorted.
    pub fn label_values(
        &self,
        name: &str,
        any: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<String>> {
        let _ = (name, any, range);
        Ok(Vec::new())
    }

    /// Exemplars of those series, by series, in order of time.
    pub fn exemplars(
        &self,
        any: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let _ = (any, range);
        Ok(Vec::new())
    }

    /// Metadata by metric family, sorted; of all families or of one.
    pub fn metadata(&self, family: Option<&str>) -> Vec<Metadata> {
        let _ = family;
        Vec::new()
    }

    /// Series in the head by metric name, by label name (count of values) and by label pair, the
    /// `limit` greatest of each, as `/api/v1/status/tsdb` lists them.
    pub fn cardinality(&self, limit: usize) -> Cardinality {
        let _ = limit;
        Cardinality::default()
    }
}

/// The greatest contributors to the head's cardinality, greatest first.
#[derive(Clone, Debug, Default)]
pub struct Cardinality {
    pub series_by_metric: Vec<(String, u64)>,
    pub values_by_label: Vec<(String, u64)>,
    pub bytes_by_label: Vec<(String, u64)>,
    pub series_by_pair: Vec<(String, u64)>,
}
