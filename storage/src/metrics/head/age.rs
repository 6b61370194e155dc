//! The age of what is written: a sample may be as old as raw samples of its class live, and a
//! little ahead of the clock.

use crate::duration;
use crate::metrics::batch::Batch;
use crate::metrics::head::rows_of;
use crate::time::TimeRange;

/// A sample may be this far ahead of the clock, as in Prometheus.
pub(crate) const FUTURE_MS: i64 = 10 * 60 * 1000;

/// The moment at which a write is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptedAge {
    pub(crate) now_ms: i64,
}

impl AcceptedAge {
    /// The times that are accepted of series whose samples live so long.
    pub(crate) fn range(self, lifetime_ms: i64) -> TimeRange {
        let oldest_ms = self.now_ms.saturating_sub(lifetime_ms);
        TimeRange::new(oldest_ms, self.now_ms.saturating_add(FUTURE_MS))
    }

    /// Why a time is not accepted.
    pub(crate) fn reason(self, lifetime_ms: i64, timestamp: i64) -> String {
        let range = self.range(lifetime_ms);
        if timestamp > range.end_ms {
            let ahead = (timestamp.saturating_sub(self.now_ms)) / 1000;
            return format!("timestamp {timestamp} is too far in the future ({ahead} s ahead)");
        }
        let (lifetime, oldest) = (duration::format_ms(lifetime_ms), range.start_ms);
        format!(
            "timestamp {timestamp} is older than the retention of {lifetime} for this series \
             (samples from {oldest} on are kept)"
        )
    }
}

/// What a batch has of one series: counted for all of them at once, where one is new.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SeriesRows {
    /// Samples and histograms.
    pub(super) rows: u64,
    /// Time of one that is refused.
    pub(super) refused: Option<i64>,
    pub(super) has_accepted: bool,
}

impl SeriesRows {
    /// For all series of a batch, as if of each these times were accepted.
    fn of(batch: &Batch, accepted: TimeRange) -> Vec<SeriesRows> {
        let mut all = vec![SeriesRows::default(); batch.series.len()];
        for (i, rows) in all.iter_mut().enumerate() {
            rows_of(batch, i).for_each(|row| rows.add(batch.timestamps[row], accepted));
        }
        let histograms = batch.histograms.iter();
        histograms.for_each(|row| all[row.series as usize].add(row.timestamp, accepted));
        for row in &batch.exemplars {
            let fits = accepted.contains(row.exemplar.timestamp);
            all[row.series as usize].has_accepted |= fits;
        }
        all
    }

    fn add(&mut self, timestamp: i64, accepted: TimeRange) {
        self.rows += 1;
        match accepted.contains(timestamp) {
            true => self.has_accepted = true,
            false => self.refused = Some(timestamp),
        }
    }
}

/// [`SeriesRows`] of a batch by lifetimes, of which there are few.
#[derive(Debug, Default)]
pub(super) struct RowsByLifetime {
    known: Vec<(i64, Vec<SeriesRows>)>,
}

impl RowsByLifetime {
    pub(super) fn of(
        &mut self,
        batch: &Batch,
        series: usize,
        age: AcceptedAge,
        lifetime_ms: i64,
    ) -> SeriesRows {
        if let Some((_, rows)) = self.known.iter().find(|(known, _)| *known == lifetime_ms) {
            return rows[series];
        }
        let rows = SeriesRows::of(batch, age.range(lifetime_ms));
        let one = rows[series];
        self.known.push((lifetime_ms, rows));
        one
    }
}
