//! The database: one data directory, opened once.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::limits::Limits;
use crate::metrics::batch::{Batch, Refusals};
use crate::snapshot::Snapshot;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// After fdatasync of the log.
    Always,
    /// After the write to the log; the log is synced this often.
    Interval(Duration),
}

#[derive(Clone, Debug)]
pub struct Options {
    pub sync: SyncMode,
    /// How long raw samples are kept.
    pub retention_ms: i64,
    pub limits: Limits,
    /// Written into every block, never into a series.
    pub external_labels: Labels,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sync: SyncMode::Always,
            retention_ms: 30 * 24 * 60 * 60 * 1000,
            limits: Limits::default(),
            external_labels: Labels::empty(),
        }
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
    pub new_series: u64,
    /// Rows that will never be accepted; the others are stored.
    pub refused: Refusals,
    /// The batch's place in the log.
    pub sequence: u64,
}

/// Counters and gauges of a database, for `/metrics`, `/status/tsdb` and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub samples_appended: u64,
    pub samples_refused: u64,
    pub series_created: u64,
    pub head_series: u64,
    pub head_label_pairs: u64,
    pub head_chunks: u64,
    /// Approximate, in bytes.
    pub head_bytes: u64,
    /// Newest and oldest sample in the head, `None` when it is empty.
    pub head_range_ms: Option<(i64, i64)>,
    pub blocks: u64,
    pub block_bytes: u64,
    pub block_samples: u64,
    pub wal_bytes: u64,
    pub wal_segments: u64,
    pub wal_records: u64,
    pub wal_syncs: u64,
    pub wal_restated_bytes: u64,
    pub wal_written_bytes: u64,
    pub checkpoints: u64,
    pub quarantined_files: u64,
    /// Records that replay found damaged or missing.
    pub lost_records: u64,
    /// Why writes are refused at present.
    pub read_only: Option<String>,
}

/// What one call of [`Db::maintain`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something; there may be more to do at once.
    Worked,
    /// Nothing needs doing before some time passes.
    Idle,
}

/// An open database. All methods take `&self` and may be called from many threads.
#[derive(Debug)]
pub struct Db {
    options: Options,
}

impl Db {
    /// Opens the data directory that is `disk`'s root, recovering what a crash left.
    pub fn open(disk: Arc<dyn Disk>, options: Options, now_ms: i64) -> Result<Db> {
        let _ = (disk, now_ms);
        Ok(Db { options })
    }

    /// Stores the acceptable rows of `batch`, all or none, as durably as [`Options::sync`] says.
    pub fn append(&self, batch: &Batch, now_ms: i64) -> Result<Appended> {
        let _ = (batch, now_ms, &self.options);
        Err(Error::Closed)
    }

    /// The database as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {}
    }

    /// Carries out one bounded step of upkeep, if one is due: checkpoint, seal, merge, retain.
    pub fn maintain(&self, now_ms: i64) -> Result<Progress> {
        let _ = now_ms;
        Ok(Progress::Idle)
    }

    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Checkpoints, so that the next start replays nothing, and refuses everything from then on.
    pub fn close(&self, now_ms: i64) -> Result<()> {
        let _ = now_ms;
        Ok(())
    }
}
