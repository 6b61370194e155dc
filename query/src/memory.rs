//! The memory of queries: one account for all that an engine runs at a time.
//!
//! What a query takes is counted where it takes it (`exec/budget.rs`) and given back at once when it
//! ends, however it ends. What its answer takes is given back with the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::QueryError;

/// How much all queries may have together, and have.
#[derive(Debug)]
pub struct QueryMemory {
    max: u64,
    held: AtomicU64,
}

impl QueryMemory {
    pub(crate) fn new(max: u64) -> QueryMemory {
        QueryMemory { max, held: AtomicU64::new(0) }
    }

    pub fn bytes_max(&self) -> u64 {
        self.max
    }

    pub fn bytes_held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether there is so much left; it is taken in any case and has to be given back.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.max
    }

    pub(crate) fn refusal(&self) -> QueryError {
        QueryError::Execution(format!(
            "the queries that run now would use more than {} bytes of memory together (--query.max-memory)",
            self.max
        ))
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Memory of an answer; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<QueryMemory>,
    bytes: u64,
}

impl Reservation {
    pub(crate) fn new(memory: &Arc<QueryMemory>, bytes: u64) -> Result<Reservation, QueryError> {
        let has_room = memory.take(bytes);
        let reservation = Reservation { memory: Arc::clone(memory), bytes };
        if has_room { Ok(reservation) } else { Err(memory.refusal()) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}
