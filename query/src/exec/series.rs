//! The samples of one series as functions read them.
//!
//! Histograms become float histograms when they are asked for, each once. Then their **reset hint**
//! is decided, since what senders say of resets is stored as it came: a gauge stays a gauge, a
//! counter that goes on from the histogram before is known to be not reset, and of everything else
//! nothing is known, so that functions compare counts. These are the hints that Prometheus's chunks
//! give: a sender's "reset" is not believed without lower counts, and its "not reset" not without
//! the histogram before it.

use std::sync::Arc;

use icecore_storage::metrics::histogram::ResetHint;
use icecore_storage::metrics::sample::{Samples, is_stale_nan};
use icecore_storage::outline::LeftOut;

use crate::histogram::FloatHistogram;

#[derive(Debug, Default)]
pub(crate) struct Series {
    /// Rows with a histogram hold the stale NaN or 0, as when they were read.
    pub(crate) samples: Samples,
    /// Samples for which others stand, in order of time.
    pub(crate) left_out: Vec<LeftOut>,
    /// Only count and sum of the histograms are looked at. Resets are found while reading then.
    pub(crate) statistics_only: bool,
    /// The rows with a histogram, ascending.
    histogram_rows: Vec<u32>,
    /// One for each of `histogram_rows`.
    converted: Vec<Option<Converted>>,
}

#[derive(Debug)]
struct Converted {
    histogram: Arc<FloatHistogram>,
    /// Whether the hint is decided.
    hinted: bool,
}

impl Series {
    #[cfg(test)]
    pub(crate) fn stored(samples: Samples) -> Series {
        let mut series = Series { samples, ..Series::default() };
        series.set_stored(false);
        series
    }

    pub(crate) fn clear(&mut self) {
        self.samples.clear();
        self.left_out.clear();
        self.statistics_only = false;
        self.histogram_rows.clear();
        self.converted.clear();
    }

    /// To be called when `samples` have been read from storage.
    pub(crate) fn set_stored(&mut self, statistics_only: bool) {
        self.statistics_only = statistics_only;
        self.histogram_rows.clear();
        self.histogram_rows.extend(self.samples.histograms.iter().map(|(row, _)| *row));
        self.converted.clear();
        self.converted.resize_with(self.histogram_rows.len(), || None);
    }

    /// Appends a histogram that was computed.
    pub(crate) fn push_computed(&mut self, timestamp: i64, histogram: Arc<FloatHistogram>) {
        self.histogram_rows.push(self.samples.len() as u32);
        self.samples.push(timestamp, 0.0);
        self.converted.push(Some(Converted { histogram, hinted: true }));
    }

    pub(crate) fn has_histograms(&self) -> bool {
        !self.histogram_rows.is_empty()
    }

    pub(crate) fn histogram_rows(&self) -> &[u32] {
        &self.histogram_rows
    }

    pub(crate) fn is_histogram(&self, row: u32) -> bool {
        self.histogram_rows.binary_search(&row).is_ok()
    }

    pub(crate) fn is_stale(&self, row: u32) -> bool {
        is_stale_nan(self.samples.values[row as usize])
    }

    /// The histogram of `histogram_rows()[at]`, which is not a stale marker.
    pub(crate) fn histogram(&mut self, at: usize) -> Arc<FloatHistogram> {
        if !self.convert(at).hinted {
            let hint = self.hint(at);
            let converted = self.convert(at);
            Arc::make_mut(&mut converted.histogram).reset_hint = hint;
            converted.hinted = true;
        }
        let histogram = Arc::clone(&self.convert(at).histogram);
        if self.statistics_only { Arc::new(histogram.statistics()) } else { histogram }
    }

    /// What a row that is no stale marker costs, in samples.
    pub(crate) fn cost(&mut self, row: u32) -> u64 {
        self.histogram_of_row(row).map_or(1, |histogram| histogram.size_in_samples())
    }

    /// The histogram of a row that has one.
    pub(crate) fn histogram_of_row(&mut self, row: u32) -> Option<Arc<FloatHistogram>> {
        let at = self.histogram_rows.binary_search(&row).ok()?;
        Some(self.histogram(at))
    }

    fn convert(&mut self, at: usize) -> &mut Converted {
        let (earlier, rest) = self.converted.split_at_mut(at);
        rest[0].get_or_insert_with(|| {
            let before = earlier.last().and_then(Option::as_ref);
            let before = before.map(|converted| &*converted.histogram);
            let histogram = FloatHistogram::from_stored(&self.samples.histograms[at].1, before);
            Converted { histogram: Arc::new(histogram), hinted: false }
        })
    }

    fn hint(&mut self, at: usize) -> ResetHint {
        let stored = self.samples.histograms[at].1.reset_hint;
        if stored == ResetHint::Gauge {
            return ResetHint::Gauge;
        }
        let Some(before) = at.checked_sub(1) else { return ResetHint::Unknown };
        let follows = self.histogram_rows[before] + 1 == self.histogram_rows[at];
        let known = follows && stored != ResetHint::Reset && !self.is_gauge_or_stale(before);
        if known && self.goes_on(before, at) {
            return ResetHint::NotReset;
        }
        if !self.statistics_only {
            return ResetHint::Unknown;
        }
        // Without buckets nobody can tell later.
        let newest = (0..at).rev().find(|before| !self.is_stale(self.histogram_rows[*before]));
        match newest {
            None => ResetHint::Unknown,
            Some(before) if self.decreased(before, at) => ResetHint::Reset,
            Some(_) => ResetHint::NotReset,
        }
    }

    fn is_gauge_or_stale(&self, at: usize) -> bool {
        self.samples.histograms[at].1.reset_hint == ResetHint::Gauge
            || self.is_stale(self.histogram_rows[at])
    }

    fn decreased(&mut self, before: usize, at: usize) -> bool {
        let before = Arc::clone(&self.convert(before).histogram);
        self.convert(at).histogram.counts_decreased(&before)
    }

    /// Whether a histogram is a later state of the counter that the one before it shows.
    fn goes_on(&mut self, before: usize, at: usize) -> bool {
        let before = Arc::clone(&self.convert(before).histogram);
        let now = &self.convert(at).histogram;
        now.schema == before.schema
            && now.zero_threshold == before.zero_threshold
            && !now.counts_decreased(&before)
    }
}

#[cfg(test)]
mod tests {
    use icecore_storage::metrics::histogram::{Counts, Histogram, Span};
    use icecore_storage::metrics::sample::stale_nan;

    use super::*;

    fn counter(count: u64, reset_hint: ResetHint) -> Histogram {
        Histogram {
            schema: 0,
            zero_threshold: 0.0,
            sum: count as f64,
            reset_hint,
            positive_spans: vec![Span { offset: 0, length: 1 }],
            negative_spans: vec![],
            counts: Counts::Integer {
                count,
                zero_count: 0,
                positive: vec![count],
                negative: vec![],
            },
            custom_values: vec![],
        }
    }

    fn hints(series: &mut Series, statistics_only: bool) -> Vec<ResetHint> {
        series.set_stored(statistics_only);
        let live: Vec<usize> = (0..series.histogram_rows().len())
            .filter(|at| !series.is_stale(series.histogram_rows()[*at]))
            .collect();
        live.into_iter().map(|at| series.histogram(at).reset_hint).collect()
    }

    #[test]
    fn a_counter_that_goes_on_is_not_reset() {
        use ResetHint::*;
        let mut series = Series::default();
        let samples = &mut series.samples;
        for (at, (count, hint)) in
            [(1, Unknown), (5, Unknown), (5, NotReset), (2, NotReset), (3, Reset)]
                .into_iter()
                .enumerate()
        {
            samples.push_histogram(at as i64, counter(count, hint));
        }
        assert_eq!(hints(&mut series, false), [Unknown, NotReset, NotReset, Unknown, Unknown]);
        assert_eq!(hints(&mut series, true), [Unknown, NotReset, NotReset, Reset, NotReset]);
    }

    #[test]
    fn what_stands_between_two_histograms_makes_the_hint_unknown() {
        use ResetHint::*;
        let mut series = Series::default();
        let samples = &mut series.samples;
        samples.push_histogram(0, counter(1, Unknown));
        samples.push(1, 7.0);
        samples.push_histogram(2, counter(2, Unknown));
        samples.push_histogram(3, Histogram { sum: stale_nan(), ..counter(0, Unknown) });
        samples.push_histogram(4, counter(3, Unknown));
        samples.push_histogram(5, counter(4, Gauge));
        samples.push_histogram(6, counter(5, Unknown));
        assert_eq!(hints(&mut series, false), [Unknown, Unknown, Unknown, Gauge, Unknown]);
    }

    #[test]
    fn statistics_have_no_buckets() {
        let mut series = Series::default();
        series.samples.push_histogram(0, counter(3, ResetHint::Unknown));
        series.set_stored(true);
        let histogram = series.histogram(0);
        assert_eq!((histogram.count, histogram.sum), (3.0, 3.0));
        assert!(histogram.positive.is_empty());
    }
}
