//! The budget of a query: how many samples and bytes it may hold, until when it may run.
//!
//! Samples are charged as they are produced and given back once consumed; the count is Prometheus's
//! `--query.max-samples`, and so are the error texts. Bytes are charged where memory grows with the
//! data, and are given back with the budget at the latest. Workers share one budget.
//!
//! Every loop over series, rows, steps or samples looks at the budget, most of them with a [`Pace`]:
//! once in a few thousand cells, so that a query ends well within 100 ms of the moment at which it
//! has to. A loop in a function that has no error to return just ends: the executor looks again
//! before it believes a node's value.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::engine::QueryError;
use crate::memory::{QueryMemory, Reservation};

/// Cells between two looks at the budget: some 10 µs of work.
const CELLS_PER_LOOK: usize = 4096;

/// Work on a native histogram, in cells, about.
pub(crate) const CELLS_PER_HISTOGRAM: usize = 32;

#[derive(Debug)]
pub(crate) struct Budget {
    max_samples: u64,
    max_bytes: u64,
    deadline: Instant,
    cancelled: Arc<AtomicBool>,
    held: AtomicU64,
    peak: AtomicU64,
    bytes: AtomicU64,
    memory: Arc<QueryMemory>,
    #[cfg(test)]
    pub(crate) looks: AtomicU64,
}

impl Budget {
    /// A budget without a bound on bytes.
    pub(crate) fn new(max_samples: usize, deadline: Instant, cancelled: Arc<AtomicBool>) -> Budget {
        Budget {
            max_samples: max_samples as u64,
            max_bytes: u64::MAX,
            deadline,
            cancelled,
            held: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            memory: Arc::new(QueryMemory::new(u64::MAX)),
            #[cfg(test)]
            looks: AtomicU64::new(0),
        }
    }

    /// The same with at most so many bytes, from a common account.
    pub(crate) fn within(self, max_bytes: u64, memory: Arc<QueryMemory>) -> Budget {
        // Nothing is held yet, so nothing has to move from one account to the other.
        let mut budget = self;
        budget.max_bytes = max_bytes;
        budget.memory = memory;
        budget
    }

    /// Whether the query may go on.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        #[cfg(test)]
        self.looks.fetch_add(1, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(QueryError::Canceled("query was canceled in expression evaluation".into()));
        }
        if Instant::now() >= self.deadline {
            return Err(QueryError::Timeout("query timed out in expression evaluation".into()));
        }
        Ok(())
    }

    pub(crate) fn pace(&self) -> Pace<'_> {
        Pace { budget: self, left: CELLS_PER_LOOK }
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

    /// Takes so much memory.
    pub(crate) fn hold_bytes(&self, bytes: u64) -> Result<(), QueryError> {
        let has_room = self.memory.take(bytes);
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if held > self.max_bytes {
            return Err(self.too_much_memory());
        }
        if has_room { Ok(()) } else { Err(self.memory.refusal()) }
    }

    pub(crate) fn release_bytes(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.give_back(bytes);
    }

    /// Refuses what would need so much memory in one piece, before any of it is taken.
    pub(crate) fn expect_bytes(&self, bytes: u64) -> Result<(), QueryError> {
        let held = self.bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if held > self.max_bytes { Err(self.too_much_memory()) } else { Ok(()) }
    }

    fn too_much_memory(&self) -> QueryError {
        let max = self.max_bytes;
        QueryError::Execution(format!(
            "query processing would use more than {max} bytes of memory (--query.max-memory-per-query)"
        ))
    }

    /// Memory that grows while something is made, and is given back when the guard goes.
    pub(crate) fn growing(&self) -> Growing<'_> {
        Growing { budget: self, bytes: 0 }
    }

    /// Takes the memory of an answer, which outlives the query.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Reservation, QueryError> {
        self.expect_bytes(bytes)?;
        Reservation::new(&self.memory, bytes)
    }

    /// The most samples that were held at once.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Whatever a query held goes with it.
impl Drop for Budget {
    fn drop(&mut self) {
        self.memory.give_back(*self.bytes.get_mut());
    }
}

/// Looks at the budget once in a while.
#[derive(Debug)]
pub(crate) struct Pace<'a> {
    budget: &'a Budget,
    left: usize,
}

impl Pace<'_> {
    /// Work on so many cells follows.
    #[inline(always)]
    pub(crate) fn step(&mut self, cells: usize) -> Result<(), QueryError> {
        // What is empty takes a moment, too.
        match self.left.checked_sub(cells + 1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => self.look(),
        }
    }

    /// The same for a loop that only has to end.
    #[inline(always)]
    pub(crate) fn goes_on(&mut self, cells: usize) -> bool {
        self.step(cells).is_ok()
    }

    #[cold]
    fn look(&mut self) -> Result<(), QueryError> {
        self.left = CELLS_PER_LOOK;
        self.budget.check()
    }
}

/// See [`Budget::growing`].
#[derive(Debug)]
pub(crate) struct Growing<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Growing<'_> {
    /// It has grown to so many bytes.
    pub(crate) fn to(&mut self, bytes: u64) -> Result<(), QueryError> {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        if more > 0 { self.budget.hold_bytes(more) } else { Ok(()) }
    }

    pub(crate) fn by(&mut self, bytes: u64) -> Result<(), QueryError> {
        self.to(self.bytes.saturating_add(bytes))
    }

    /// What `other` has is this one's now.
    pub(crate) fn take_over(&mut self, mut other: Growing<'_>) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        self.budget.release_bytes(self.bytes);
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

    fn budget(max_samples: usize) -> Budget {
        Budget::new(max_samples, Instant::now() + Duration::from_secs(60), Arc::default())
    }

    #[test]
    fn what_is_released_may_be_held_again() {
        let budget = budget(10);
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
        let mut pace = late.pace();
        assert_eq!((0..CELLS_PER_LOOK).position(|_| pace.step(1).is_err()), Some(2048));
        assert!(late.pace().step(CELLS_PER_LOOK).is_err());
        cancelled.store(true, Ordering::Relaxed);
        assert!(matches!(late.check(), Err(QueryError::Canceled(_))));
    }

    #[test]
    fn memory_is_bounded_for_one_query_and_for_all() {
        let memory = Arc::new(QueryMemory::new(100));
        let query = || budget(1).within(60, Arc::clone(&memory));
        let (first, second) = (query(), query());
        first.hold_bytes(60).unwrap();
        let error = first.hold_bytes(1).unwrap_err().to_string();
        assert!(error.contains("60 bytes") && error.contains("--query.max-memory-per-query"));
        second.hold_bytes(30).unwrap();
        let error = second.hold_bytes(10).unwrap_err().to_string();
        assert!(error.contains("100 bytes") && error.ends_with("(--query.max-memory)"));
        drop(first);
        assert_eq!(memory.bytes_held(), 40);
        second.hold_bytes(20).unwrap();
        drop(second);
        assert_eq!(memory.bytes_held(), 0);
    }

    #[test]
    fn memory_goes_with_its_guard() {
        let memory = Arc::new(QueryMemory::new(100));
        let budget = budget(1).within(100, Arc::clone(&memory));
        let mut growing = budget.growing();
        growing.to(50).unwrap();
        growing.to(40).unwrap();
        growing.by(20).unwrap();
        assert!(growing.by(100).is_err());
        drop(growing);
        assert_eq!(memory.bytes_held(), 0);
        let answer = budget.reserve(30).unwrap();
        drop(budget);
        assert_eq!(memory.bytes_held(), 30);
        drop(answer);
        assert_eq!(memory.bytes_held(), 0);
    }
}
