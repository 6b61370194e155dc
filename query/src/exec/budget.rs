//! The budget of a query: how many samples it may hold, until when it may run.
//!
//! Samples are charged as they are produced and given back once consumed; the count is Prometheus's
//! `--query.max-samples`, and so are the error texts. Workers share one budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::engine::QueryError;

/// Cells of rows, 8 bytes each, that a query may have for each of its samples.
const CELLS_PER_SAMPLE: u64 = 4;
/// What a query may have in any case: 8 MB.
const CELLS_MIN: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Budget {
    max_samples: u64,
    deadline: Instant,
    cancelled: Arc<AtomicBool>,
    held: AtomicU64,
    cells: AtomicU64,
    peak: AtomicU64,
}

impl Budget {
    pub(crate) fn new(max_samples: usize, deadline: Instant, cancelled: Arc<AtomicBool>) -> Budget {
        Budget {
            max_samples: max_samples as u64,
            deadline,
            cancelled,
            held: AtomicU64::new(0),
            cells: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }
    }

    /// Whether the query may go on.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(QueryError::Canceled("query was canceled in expression evaluation".into()));
        }
        if Instant::now() >= self.deadline {
            return Err(QueryError::Timeout("query timed out in expression evaluation".into()));
        }
        Ok(())
    }

    /// Takes `samples` more.
    pub(crate) fn hold(&self, samples: u64) -> Result<(), QueryError> {
        let held = self.held.fetch_add(samples, Ordering::Relaxed).saturating_add(samples);
        self.peak.fetch_max(held, Ordering::Relaxed);
        if held > self.max_samples {
            return Err(too_many_samples());
        }
        Ok(())
    }

    /// Refuses `samples` that are needed for a moment beside those that are held.
    pub(crate) fn touch(&self, samples: u64) -> Result<(), QueryError> {
        let held = self.held.load(Ordering::Relaxed).saturating_add(samples);
        self.peak.fetch_max(held, Ordering::Relaxed);
        if held > self.max_samples { Err(too_many_samples()) } else { Ok(()) }
    }

    pub(crate) fn release(&self, samples: u64) {
        self.held.fetch_sub(samples, Ordering::Relaxed);
    }

    /// Takes the memory of `cells` steps of rows, whether they hold a sample or not: a sparse row
    /// costs as much as a full one.
    pub(crate) fn hold_cells(&self, cells: u64) -> Result<(), QueryError> {
        let held = self.cells.fetch_add(cells, Ordering::Relaxed).saturating_add(cells);
        let limit = self.max_samples.saturating_mul(CELLS_PER_SAMPLE).max(CELLS_MIN);
        if held > limit { Err(too_many_samples()) } else { Ok(()) }
    }

    pub(crate) fn release_cells(&self, cells: u64) {
        self.cells.fetch_sub(cells, Ordering::Relaxed);
    }

    /// The most samples that were held at once.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

fn too_many_samples() -> QueryError {
    let text = "query processing would load too many samples into memory in query execution";
    QueryError::Execution(text.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_released_may_be_held_again() {
        let budget = Budget::new(10, Instant::now() + Duration::from_secs(60), Arc::default());
        budget.hold(10).unwrap();
        assert!(budget.touch(1).is_err());
        budget.release(4);
        budget.hold(4).unwrap();
        assert_eq!(budget.hold(1).unwrap_err(), too_many_samples());
        assert_eq!(budget.peak(), 11);
    }

    #[test]
    fn time_and_cancellation_end_a_query() {
        let cancelled = Arc::new(AtomicBool::new(false));
        let late = Budget::new(1, Instant::now(), Arc::clone(&cancelled));
        assert!(matches!(late.check(), Err(QueryError::Timeout(_))));
        cancelled.store(true, Ordering::Relaxed);
        assert!(matches!(late.check(), Err(QueryError::Canceled(_))));
    }
}
