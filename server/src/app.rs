//! The application: what every handler shares.
//!
//! [`App`] holds the database once it is open, the engine, the counters, and the gates that bound
//! how much runs at once. Storage and the engine block; [`blocking`] is the one edge at which
//! async code hands over to them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use icecore_query::cache::ResultCache;
use icecore_query::engine::Engine;
use icecore_storage::memory::MemoryShares;
use icecore_storage::metrics::batch::Batch;
use icecore_storage::{Db, Snapshot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock;
use crate::config::{
    Config, LOOKUPS_MAX, QUERIES_WAITING_MAX, READ_TIMEOUT, WRITE_BODIES_BYTES_MAX, WRITES_MAX,
};
use crate::counters::Counters;
use crate::http::error::{ApiError, ErrorKind};
use crate::reload::Reload;
use crate::scrub::SharedStatus;

#[derive(Debug)]
pub(crate) struct App {
    pub config: Config,
    /// Where the server really listens.
    pub address: SocketAddr,
    pub started_ms: i64,
    pub engine: Engine,
    pub result_cache: ResultCache,
    pub counters: Counters,
    pub gates: Gates,
    pub reload: Reload,
    /// Decoded batches between two uses.
    pub batches: BatchPool,
    pub scrub: SharedStatus,
    db: OnceLock<Arc<Db>>,
    stopping: AtomicBool,
}

/// What may run at once. All are fair: first come, first served.
#[derive(Debug)]
pub(crate) struct Gates {
    pub queries: Arc<Semaphore>,
    /// In front of that gate: queries that run or wait. It lets nobody wait.
    pub query_queue: Arc<Semaphore>,
    pub lookups: Arc<Semaphore>,
    pub writes: Arc<Semaphore>,
    pub write_bodies: Room,
    /// Of bodies that are decoded, with the columns that are made of them.
    pub decoded_bodies: Room,
}

/// Memory that is taken before it is used, by whoever can wait for it.
#[derive(Debug)]
pub(crate) struct Room {
    /// One permit for each KiB.
    permits: Arc<Semaphore>,
    kib: u32,
}

impl Room {
    fn new(bytes: u64) -> Room {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(1);
        Room { permits: Arc::new(Semaphore::new(kib as usize)), kib }
    }

    /// Waits for so many bytes, for [`READ_TIMEOUT`] at most; of more than there are in all, for all.
    pub(crate) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.kib);
        let permits = Arc::clone(&self.permits).acquire_many_owned(kib);
        let waited = tokio::time::timeout(READ_TIMEOUT, permits).await;
        waited.ok().map(|permits| permits.expect("gates are never closed"))
    }

    pub(crate) fn bytes_taken(&self) -> u64 {
        let free = self.permits.available_permits() as u64;
        u64::from(self.kib).saturating_sub(free) * 1024
    }
}

impl App {
    pub(crate) fn new(config: Config, address: SocketAddr) -> App {
        let bodies = MemoryShares::of(config.memory_limit).bodies;
        App {
            address,
            started_ms: clock::now_ms(),
            reload: Reload::new(config.storage.policies.clone(), clock::now_ms()),
            engine: Engine::new(config.engine.clone()),
            result_cache: ResultCache::new(config.result_cache_bytes),
            counters: Counters::default(),
            gates: Gates {
                queries: Arc::new(Semaphore::new(config.query_concurrency)),
                query_queue: Arc::new(Semaphore::new(
                    config.query_concurrency + QUERIES_WAITING_MAX,
                )),
                lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
                writes: Arc::new(Semaphore::new(WRITES_MAX)),
                write_bodies: Room::new((bodies / 4).min(WRITE_BODIES_BYTES_MAX as u64)),
                decoded_bodies: Room::new(bodies / 4 * 3),
            },
            batches: BatchPool::new(bodies / 16),
            scrub: SharedStatus::default(),
            db: OnceLock::new(),
            stopping: AtomicBool::new(false),
            config,
        }
    }

    /// From now on requests are served.
    pub(crate) fn set_db(&self, db: Arc<Db>) {
        assert!(self.db.set(db).is_ok(), "a server opens its database once");
    }

    /// From now on the server is not ready any more; what runs may end.
    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The database, once it is open and until the server stops.
    pub(crate) fn db(&self) -> Result<&Arc<Db>, ApiError> {
        let stopping = self.stopping.load(Ordering::Relaxed);
        match self.db.get() {
            Some(db) if !stopping => Ok(db),
            _ => Err(ApiError::new(ErrorKind::NotReady { stopping }, "the server is not ready")),
        }
    }

    /// The database in whatever state, for counters.
    pub(crate) fn db_if_open(&self) -> Option<&Arc<Db>> {
        self.db.get()
    }

    /// Looks something up in a snapshot, off the async threads.
    pub(crate) async fn look_up<T: Send + 'static>(
        self: &Arc<App>,
        work: impl FnOnce(&Snapshot) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let db = Arc::clone(self.db()?);
        let permit = enter(&self.gates.lookups).await;
        blocking(move || {
            let _permit = permit;
            work(&db.snapshot())
        })
        .await?
    }
}

/// Waits for a place at a gate.
pub(crate) async fn enter(gate: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(gate).acquire_owned().await.expect("gates are never closed")
}

/// Runs blocking work on a thread of its own. Work that panics is an internal error of this
/// request and of no other.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a request's work broke off");
        ApiError::new(ErrorKind::Internal, "internal error: see the server's log")
    })
}

/// Batches that keep their columns' memory from one write to the next.
#[derive(Debug)]
pub(crate) struct BatchPool {
    idle: std::sync::Mutex<Vec<Batch>>,
    /// A larger batch is dropped: one large request must not hold memory for ever.
    batch_bytes_max: usize,
}

impl BatchPool {
    /// As many as are kept; a write takes a few milliseconds, so this serves many senders.
    const IDLE_MAX: usize = 8;
    const BATCH_BYTES_MAX: usize = 8 << 20;

    fn new(batch_bytes_max: u64) -> BatchPool {
        let most = usize::try_from(batch_bytes_max).unwrap_or(usize::MAX);
        let idle = std::sync::Mutex::default();
        BatchPool { idle, batch_bytes_max: most.min(BatchPool::BATCH_BYTES_MAX) }
    }

    pub(crate) fn take(&self) -> Option<Batch> {
        self.lock().pop()
    }

    /// Keeps a batch as it is: the decoder that gets it next overwrites it.
    pub(crate) fn put(&self, batch: Batch) {
        let mut idle = self.lock();
        if idle.len() < BatchPool::IDLE_MAX && batch.bytes_held() <= self.batch_bytes_max {
            idle.push(batch);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Batch>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
