//! The database: one data directory, opened once.
//!
//! A write goes one way, in [`Db::append`]: decide → log → disk → apply → acknowledge. Nothing is
//! visible before it is durable. Everything that takes long happens in [`Db::maintain`], one
//! bounded step a call, one call at a time. Neither reads a clock: `now_ms` is an argument.
//!
//! Locks, in the order in which they may be taken: upkeep, writes, head, then version or sequences
//! alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::backup;
use crate::deletes::live::LiveBlock;
use crate::deletes::{Preview, Receipt};
use crate::disk::Disk;
use crate::error::{Error, Result, io_error};
use crate::labels::Labels;
use crate::limits::Limits;
use crate::matcher::Matcher;
use crate::metrics::batch::{Batch, Refusals};
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::block::page_cache::PageCache;
use crate::metrics::head::Head;
use crate::metrics::head::age::{AcceptedAge, FUTURE_MS};
use crate::recovery::{self, RecoveryReport};
use crate::retention::classes::Classifier;
use crate::retention::hold::Holds;
use crate::retention::policy::Policies;
use crate::series_limits::SeriesLimit;
use crate::snapshot::{Snapshot, Version};
use crate::time::TimeRange;
use crate::upkeep::Upkeep;
use crate::wal::{Durability, Wal, record};

/// Held by the process that has the data directory.
const LOCK_FILE: &str = "lock";

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
    /// How long what is kept.
    pub policies: Policies,
    pub limits: Limits,
    /// How many series there may be.
    pub series_limits: Vec<SeriesLimit>,
    /// Written into every block, never into a series.
    pub external_labels: Labels,
    /// Decompressed pages of merged blocks that are kept, in bytes.
    pub page_cache_bytes: usize,
    /// Something random: it tells this log's segments from those of others.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sync: SyncMode::Always,
            policies: Policies::default(),
            limits: Limits::default(),
            series_limits: Vec::new(),
            external_labels: Labels::empty(),
            page_cache_bytes: 64 << 20,
            seed: 0,
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
    /// Of merged blocks: pages found decompressed, and pages that were not.
    pub page_cache_hits: u64,
    pub page_cache_misses: u64,
    pub page_cache_bytes: u64,
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
    /// Bytes that retention would drop and that wait for somebody to confirm.
    pub retention_held_bytes: u64,
    /// Bytes of blocks under a legal hold.
    pub on_hold_bytes: u64,
    /// What went before its time to keep to the disk budget, since the start.
    pub evicted_blocks: u64,
    pub evicted_bytes: u64,
    /// Bytes that blocks and log may take.
    pub disk_budget: Option<u64>,
    /// Why writes are refused at present.
    pub read_only: Option<String>,
}

/// What one call of [`Db::maintain`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something; there may be more to do at once.
    Worked,
    /// A slice of work that may take its time: whoever asks leaves as much time to others.
    Background,
    /// Nothing needs doing before some time passes.
    Idle,
}

/// An open database. All methods take `&self` and may be called from many threads.
#[derive(Debug)]
pub struct Db {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) head: RwLock<Head>,
    pub(crate) wal: Wal,
    pub(crate) pages: Arc<PageCache>,
    pub(crate) version: RwLock<Arc<Version>>,
    pub(crate) sequences: Mutex<Sequences>,
    pub(crate) upkeep: Mutex<Upkeep>,
    /// Writes in flight share it; a delete waits for them and lets no others begin.
    pub(crate) writes: RwLock<()>,
    pub(crate) closed: AtomicBool,
    pub(crate) clock_in_doubt: AtomicBool,
    /// Newest sample of head and blocks; `i64::MIN` for none.
    pub(crate) newest_ms: AtomicI64,
    pub(crate) counters: Counters,
    pub(crate) recovery: RecoveryReport,
    _lock: Box<dyn std::fmt::Debug + Send + Sync>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) refused: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) retention_held_bytes: AtomicU64,
    pub(crate) on_hold_bytes: AtomicU64,
    pub(crate) evicted_blocks: AtomicU64,
    pub(crate) evicted_bytes: AtomicU64,
    /// 0 for none.
    pub(crate) disk_budget: AtomicU64,
}

/// Which writes have reached the head.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    /// Every write up to this one is applied or has failed.
    pub(crate) contiguous: u64,
    beyond: BTreeSet<u64>,
}

impl Sequences {
    pub(crate) fn settle(&mut self, sequence: u64) {
        self.beyond.insert(sequence);
        while self.beyond.remove(&(self.contiguous + 1)) {
            self.contiguous += 1;
        }
    }
}

impl Db {
    /// Opens the data directory that is `disk`'s root, recovering what a crash left.
    ///
    /// What was replayed from the log is in a synced checkpoint before this returns, unless the
    /// disk is full: then reads work and writes wait for space.
    pub fn open(disk: Arc<dyn Disk>, options: Options, now_ms: i64) -> Result<Db> {
        let lock = lock(disk.as_ref())?;
        let pages = Arc::new(PageCache::new(options.page_cache_bytes));
        let recovered = recovery::recover(&disk, &pages)?;
        let next_sequence = recovered.last_sequence + 1;
        let newest = newest_of(&recovered.head, &recovered.blocks);
        let (mut manifest, mut head) = (recovered.manifest, recovered.head);
        let disk_budget = options.policies.disk_budget;
        let mut holds = Holds::new(&options.policies.holds);
        manifest.classes.adopt(&options.policies, &manifest.blocks);
        head.set_classifier(Arc::new(Classifier::new(options.policies.clone(), &manifest.classes)));
        let ids: Vec<u32> = head.ids().collect();
        head.classify(&ids);
        head.set_series_limits(&options.series_limits);
        let (dirty, raw_gone) = (manifest.dirty.clone(), manifest.raw_gone.clone());
        let on_hold = holds.held(&recovered.blocks, now_ms).into_iter().collect();
        let classes = manifest.classes.of_blocks(&manifest.blocks);
        if let Some(newest) = newest.filter(|newest| *newest < now_ms) {
            manifest.push_gap(TimeRange::new(newest + 1, now_ms));
        }
        let wal = Wal::new(
            disk.clone(),
            options.seed,
            next_sequence,
            recovered.next_segment,
            recovered.segments,
        );
        let counters = Counters::default();
        counters.quarantined.store(recovered.report.quarantined.len() as u64, Ordering::Relaxed);
        let db = Db {
            inner: Arc::new(Inner {
                disk,
                options,
                head: RwLock::new(head),
                wal,
                pages,
                version: RwLock::new(Arc::new(Version {
                    blocks: recovered.blocks,
                    dirty,
                    raw_gone,
                    on_hold,
                    classes,
                })),
                sequences: Mutex::new(Sequences {
                    contiguous: next_sequence - 1,
                    beyond: BTreeSet::new(),
                }),
                upkeep: Mutex::new(Upkeep {
                    manifest,
                    last_checkpoint_ms: now_ms,
                    last_late_seal_ms: now_ms,
                    late_round: None,
                    last_sync_ms: now_ms,
                    checkpoint_wal_bytes: 0,
                    rewrite: None,
                    free_up_to: 0,
                    now_ms,
                    confirmed: Vec::new(),
                    is_held: false,
                    disk_budget,
                    holds,
                    on_hold: Vec::new(),
                    is_short: false,
                    damaged_files: recovered.damaged_files,
                }),
                writes: RwLock::new(()),
                closed: AtomicBool::new(false),
                clock_in_doubt: AtomicBool::new(false),
                newest_ms: AtomicI64::new(newest.unwrap_or(i64::MIN)),
                counters,
                recovery: recovered.report,
                _lock: lock,
            }),
        };
        db.settle_start(now_ms)?;
        Ok(db)
    }

    /// Puts what was replayed into a checkpoint: a log whose sync failed before may have shown
    /// pages to replay that the disk never got, and damage is left behind with the old segments.
    fn settle_start(&self, now_ms: i64) -> Result<()> {
        let mut upkeep = self.inner.upkeep.lock();
        let report = &self.inner.recovery;
        let has_log = self.inner.wal.stats().segments > 0;
        let outcome = if has_log || !upkeep.damaged_files.is_empty() {
            self.inner.checkpoint(&mut upkeep, now_ms)
        } else {
            upkeep.manifest.store(self.inner.disk.as_ref()).map_err(Error::from)
        };
        match outcome {
            Err(e) if is_full(&e) => {
                tracing::error!(error = %e, "the disk is full: the log is kept as it is");
                Ok(())
            }
            other => other,
        }?;
        if report.replayed_records > 0 || report.lost_records > 0 {
            tracing::info!(
                records = report.replayed_records,
                samples = report.replayed_samples,
                lost = report.lost_records,
                "log replayed"
            );
        }
        Ok(())
    }

    /// Stores the acceptable rows of `batch`, all or none, as durably as [`Options::sync`] says.
    pub fn append(&self, batch: &Batch, now_ms: i64) -> Result<Appended> {
        self.inner.append(batch, now_ms)
    }

    /// Deletes the samples of `range` of all series that fulfil all matchers of any of `selectors`,
    /// exemplars and start timestamps with them. Durable, and gone for readers, when this returns;
    /// what is written afterwards is not touched. Blocks are rewritten later, by [`Self::maintain`].
    ///
    /// Deleting nothing writes nothing and gives a receipt without a number.
    pub fn delete(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        now_ms: i64,
    ) -> Result<Receipt> {
        self.inner.delete(selectors, range, now_ms)
    }

    /// What [`Self::delete`] would hide now.
    pub fn preview_delete(&self, selectors: &[Vec<Matcher>], range: TimeRange) -> Result<Preview> {
        self.inner.preview_delete(selectors, range)
    }

    /// Receipts of the last deletes, the oldest first.
    pub fn deletes(&self) -> Vec<Receipt> {
        self.inner.upkeep.lock().manifest.deletes.receipts.clone()
    }

    /// Has [`Self::maintain`] free the room of what is deleted by now without waiting.
    pub fn free_deleted(&self) {
        self.inner.free_deleted();
    }

    /// The database as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { db: self.inner.clone() }
    }

    /// Carries out one bounded step of upkeep, if one is due: drop, seal, checkpoint, merge.
    pub fn maintain(&self, now_ms: i64) -> Result<Progress> {
        self.inner.maintain(now_ms)
    }

    /// Says whether the wall clock can be believed. While it cannot, samples that it makes too
    /// old or too new are answered "not now" instead of refused, and retention drops nothing.
    pub fn doubt_clock(&self, in_doubt: bool) {
        self.inner.clock_in_doubt.store(in_doubt, Ordering::Relaxed);
    }

    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// What was found and done when the database was opened.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.recovery
    }

    /// What the live blocks say of themselves, by the start of their windows.
    pub fn blocks(&self) -> Vec<BlockMeta> {
        // The manifest knows classes that were decided after a block was written.
        let mut blocks = self.inner.upkeep.lock().manifest.blocks.clone();
        blocks.sort_by_key(|block| (block.window.start_ms, block.id));
        blocks
    }

    /// The data and index sections of every live block, for comparing two databases.
    pub fn canonical_sections(&self) -> Result<Vec<(TimeRange, Vec<bytes::Bytes>)>> {
        let version = self.inner.version();
        let sections = version
            .blocks
            .iter()
            .map(|block| Ok((block.meta().window, block.canonical_sections()?)));
        sections.collect()
    }

    /// Reads and checks every byte of every live block.
    pub fn verify(&self) -> Result<()> {
        self.inner.version().blocks.iter().try_for_each(|block| block.verify())
    }

    /// Checkpoints, so that the next start replays nothing, and refuses everything from then on.
    pub fn close(&self, now_ms: i64) -> Result<()> {
        self.inner.closed.store(true, Ordering::Release);
        let mut upkeep = self.inner.upkeep.lock();
        // A log that takes no more writes is no reason not to checkpoint: rather the contrary.
        let sealed = self.inner.wal.seal_current();
        self.inner.checkpoint(&mut upkeep, now_ms)?;
        sealed
    }
}

pub(crate) fn lock(disk: &dyn Disk) -> Result<Box<dyn std::fmt::Debug + Send + Sync>> {
    let (root, path) = (Path::new(""), Path::new(LOCK_FILE));
    disk.create_dir_all(root).map_err(|e| io_error("create folder", root, e))?;
    backup::refuse_other_than_data(disk)?;
    disk.lock(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked { path: path.to_owned() },
        _ => io_error("lock", path, e),
    })
}

fn newest_of(head: &Head, blocks: &[LiveBlock]) -> Option<i64> {
    // Buckets end behind their samples.
    let newest = |is_counted: fn(&BlockMeta) -> bool| {
        let metas = blocks.iter().map(|block| block.meta());
        metas.filter(|meta| is_counted(meta)).map(|meta| meta.range.end_ms).max()
    };
    let of_samples = head.newest.max(newest(|meta| meta.tier_ms == 0));
    of_samples.or_else(|| newest(|_| true))
}

fn is_full(e: &Error) -> bool {
    matches!(e, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}

impl Inner {
    pub(crate) fn version(&self) -> Arc<Version> {
        self.version.read().clone()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::Closed),
            false => Ok(()),
        }
    }

    fn append(&self, batch: &Batch, now_ms: i64) -> Result<Appended> {
        self.check_open()?;
        let age = AcceptedAge { now_ms };
        self.check_clock(batch, age)?;
        let _in_flight = self.writes.read();
        let (mut decided, ticket) = {
            let mut head = self.head.write();
            let mut decided = head.decide(batch, &self.options.limits, age);
            if decided.record.is_empty() {
                return Ok(self.nothing_appended(batch, decided.refused));
            }
            let ticket = self.wal.reserve()?;
            head.restate(&mut decided, ticket.sequence, ticket.segment);
            (decided, ticket)
        };
        let durability = match self.options.sync {
            SyncMode::Always => Durability::Synced,
            SyncMode::Interval(_) => Durability::Written,
        };
        let encoded = decided.record.encode();
        let restated = encoded.definition_bytes;
        let logged = self.wal.commit(ticket, record::BATCH, encoded.payload, restated, durability);
        if let Err(e) = logged {
            self.sequences.lock().settle(ticket.sequence);
            return Err(e);
        }
        {
            let mut head = self.head.write();
            let unknown = head.apply(&decided.record, now_ms, Some);
            assert_eq!(unknown, 0, "a decided row names a series of the head");
            self.sequences.lock().settle(ticket.sequence);
        }
        let newest = decided.record.timestamps.iter().max().copied();
        let newest = newest.max(decided.record.histograms.iter().map(|(_, t, _)| *t).max());
        self.newest_ms.fetch_max(newest.unwrap_or(i64::MIN), Ordering::Relaxed);
        let mut refused = batch.refused.clone();
        refused.extend(std::mem::take(&mut decided.refused));
        self.counters.refused.fetch_add(refused.rows, Ordering::Relaxed);
        Ok(Appended {
            samples: decided.record.values.len() as u64 - decided.start_timestamps,
            histograms: decided.record.histograms.len() as u64,
            exemplars: decided.record.exemplars.len() as u64,
            new_series: decided.new_series,
            refused,
            sequence: ticket.sequence,
        })
    }

    fn nothing_appended(&self, batch: &Batch, by_decision: Refusals) -> Appended {
        let mut refused = batch.refused.clone();
        refused.extend(by_decision);
        self.counters.refused.fetch_add(refused.rows, Ordering::Relaxed);
        Appended { refused, ..Appended::default() }
    }

    /// Refuses for now what a wrong clock would refuse for ever.
    fn check_clock(&self, batch: &Batch, age: AcceptedAge) -> Result<()> {
        let newest = self.newest_ms.load(Ordering::Relaxed);
        let is_behind = newest.saturating_sub(FUTURE_MS) > age.now_ms;
        if !is_behind && !self.clock_in_doubt.load(Ordering::Relaxed) {
            return Ok(());
        }
        let histograms = batch.histograms.iter().map(|row| row.timestamp);
        let mut times = batch.timestamps.iter().copied().chain(histograms);
        // Of classes that keep samples for longer, some wait that would be accepted.
        let accepted = age.range(self.head.read().classifier().shortest_raw_ms());
        match times.find(|timestamp| !accepted.contains(*timestamp)) {
            None => Ok(()),
            Some(timestamp) => Err(Error::Unavailable {
                reason: format!(
                    "the clock of this server cannot be trusted at present: it says {} while \
                     samples of {newest} are stored and one of {timestamp} arrives",
                    age.now_ms
                ),
                retry_after_seconds: 30,
            }),
        }
    }

    fn stats(&self) -> Stats {
        let version = self.version();
        let wal = self.wal.stats();
        let head = self.head.read();
        let metas = || version.blocks.iter().map(|block| block.meta());
        let (page_cache_hits, page_cache_misses) = self.pages.hits_and_misses();
        Stats {
            samples_appended: head.samples_applied,
            samples_refused: self.counters.refused.load(Ordering::Relaxed),
            series_created: head.series_created,
            head_series: head.series_count() as u64,
            head_label_pairs: head.index.pair_count(),
            head_chunks: head.chunk_count(),
            head_bytes: head.bytes_held() as u64,
            head_range_ms: head.oldest.zip(head.newest),
            blocks: version.blocks.len() as u64,
            block_bytes: metas().map(|meta| meta.bytes).sum(),
            block_samples: metas().map(|meta| meta.samples).sum(),
            page_cache_hits,
            page_cache_misses,
            page_cache_bytes: self.pages.bytes_held() as u64,
            wal_bytes: wal.bytes,
            wal_segments: wal.segments,
            wal_records: wal.records,
            wal_syncs: wal.syncs,
            wal_restated_bytes: wal.restated_bytes,
            wal_written_bytes: wal.written_bytes,
            checkpoints: self.counters.checkpoints.load(Ordering::Relaxed),
            quarantined_files: self.counters.quarantined.load(Ordering::Relaxed),
            lost_records: self.recovery.lost_records,
            retention_held_bytes: self.counters.retention_held_bytes.load(Ordering::Relaxed),
            on_hold_bytes: self.counters.on_hold_bytes.load(Ordering::Relaxed),
            evicted_blocks: self.counters.evicted_blocks.load(Ordering::Relaxed),
            evicted_bytes: self.counters.evicted_bytes.load(Ordering::Relaxed),
            disk_budget: Some(self.counters.disk_budget.load(Ordering::Relaxed))
                .filter(|bytes| *bytes > 0),
            read_only: self.wal.poisoned(),
        }
    }
}
