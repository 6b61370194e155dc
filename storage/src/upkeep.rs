//! Upkeep: one bounded step at a time, decided by [`plan`] and carried out here.
//!
//! Every step ends in one new manifest, and only then is anything forgotten. One thread at a time:
//! whoever holds [`Upkeep`] is the only one who changes the manifest.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::plan::{Situation, Step, plan};
use crate::compaction::run::{Rewrite, mark_dirty};
use crate::compaction::seal;
use crate::db::{Inner, Progress, SyncMode};
use crate::deletes::Tombstone;
use crate::deletes::live::LiveBlock;
use crate::error::{Error, Result};
use crate::manifest::{CheckpointId, Manifest, NotStored};
use crate::metrics::block::meta::{BlockId, BlockMeta, DataType};
use crate::metrics::block::{self, Block};
use crate::metrics::checkpoint::{self, CheckpointWriter};
use crate::recovery::{self, RecoveryReport};
use crate::retention::hold::Holds;
use crate::snapshot::Version;
use crate::time::TimeRange;

/// Series that are copied for a checkpoint under one lock.
const CHECKPOINT_SERIES: usize = 1024;

/// Series that forget a sealed window under one lock.
const FORGET_SERIES: usize = 1024;

/// What only one thread at a time may change.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pub(crate) manifest: Manifest,
    pub(crate) last_checkpoint_ms: i64,
    pub(crate) last_late_seal_ms: i64,
    /// The window of late samples that was sealed last, if there are more to seal.
    pub(crate) late_round: Option<i64>,
    /// Of the log, under [`SyncMode::Interval`].
    pub(crate) last_sync_ms: i64,
    /// Bytes the log had taken in at the last checkpoint.
    pub(crate) checkpoint_wal_bytes: u64,
    pub(crate) rewrite: Option<Rewrite>,
    /// Rewriting what deletes up to this one touch does not wait.
    pub(crate) free_up_to: u64,
    /// When the last step was asked for.
    pub(crate) now_ms: i64,
    /// Blocks that may be dropped however many they are.
    pub(crate) confirmed: Vec<BlockId>,
    /// Retention waits for confirmation, and has said so.
    pub(crate) is_held: bool,
    pub(crate) disk_budget: Option<u64>,
    pub(crate) holds: Holds,
    /// Blocks under a legal hold, as of the last step.
    pub(crate) on_hold: Vec<BlockId>,
    /// The budget is nearly used up, and that has been said.
    pub(crate) is_short: bool,
    /// Files that go to quarantine once their content is in a checkpoint.
    pub(crate) damaged_files: Vec<PathBuf>,
}

impl Upkeep {
    /// The least number of a block that was begun and is not live yet.
    pub(crate) fn in_the_making(&self) -> Option<BlockId> {
        self.rewrite.as_ref().and_then(Rewrite::least_id)
    }
}

impl Inner {
    pub(crate) fn maintain(&self, now_ms: i64) -> Result<Progress> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(Progress::Idle);
        }
        let mut upkeep = self.upkeep.lock();
        upkeep.now_ms = now_ms;
        if let SyncMode::Interval(interval) = self.options.sync
            && now_ms.saturating_sub(upkeep.last_sync_ms) >= interval.as_millis() as i64
        {
            self.wal.sync()?;
            upkeep.last_sync_ms = now_ms;
        }
        upkeep.on_hold = upkeep.holds.held(&self.version().blocks, now_ms);
        let situation = self.situation(&upkeep, now_ms);
        self.note_retention(&mut upkeep, &situation);
        match plan(&situation) {
            Step::Idle => return Ok(Progress::Idle),
            Step::Drop(ids) => {
                self.drop_blocks(&mut upkeep, &ids, "blocks outlived their retention")?
            }
            Step::DropDeleted(ids) => self.drop_blocks(&mut upkeep, &ids, "blocks were deleted")?,
            Step::Checkpoint => self.checkpoint(&mut upkeep, now_ms)?,
            Step::Evict(ids) => self.evict_blocks(&mut upkeep, &ids)?,
            Step::Seal(window) => self.seal(&mut upkeep, window, now_ms)?,
            Step::Classify(ids) => self.classify_blocks(&mut upkeep, &ids)?,
            Step::Merge(due) => self.begin_merge(&mut upkeep, &due)?,
            Step::RollUp(due) => self.begin_rolling_up(&mut upkeep, &due)?,
            Step::GoOn => return self.go_on(&mut upkeep),
        }
        Ok(Progress::Worked)
    }

    pub(crate) fn situation(&self, upkeep: &Upkeep, now_ms: i64) -> Situation {
        let head = self.head.read();
        let newest = self.newest_ms.load(Ordering::Relaxed);
        let wal = self.wal.stats();
        Situation {
            now_ms,
            newest_ms: (newest > i64::MIN).then_some(newest),
            head_windows: head.windows().collect(),
            sealed_before_ms: head.sealed_before(),
            late_samples: head.late_samples,
            last_late_seal_ms: upkeep.last_late_seal_ms,
            late_round: upkeep.late_round,
            last_checkpoint_ms: upkeep.last_checkpoint_ms,
            wal_bytes: wal.written_bytes.saturating_sub(upkeep.checkpoint_wal_bytes),
            blocks: upkeep.manifest.blocks.clone(),
            touched: self.touched(upkeep),
            classes: upkeep.manifest.classes.clone(),
            confirmed: upkeep.confirmed.clone(),
            disk_budget: upkeep.disk_budget,
            on_hold: upkeep.on_hold.clone(),
            log_bytes: wal.bytes,
            is_rewriting: upkeep.rewrite.is_some(),
            dirty: upkeep.manifest.dirty.clone(),
            clock_in_doubt: self.clock_in_doubt.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn new_meta(
        &self,
        upkeep: &mut Upkeep,
        window: TimeRange,
        sequence: u64,
    ) -> BlockMeta {
        BlockMeta {
            id: BlockId(upkeep.manifest.next_number()),
            data_type: DataType::Metrics,
            window,
            sequence,
            external_labels: self.options.external_labels.clone(),
            ..BlockMeta::default()
        }
    }

    fn seal(&self, upkeep: &mut Upkeep, window: TimeRange, now_ms: i64) -> Result<()> {
        // Everything applied by now is in the head, so it will be in the block.
        let sequence = self.sequences.lock().contiguous;
        let was_sealed = window.end_ms < self.head.read().sealed_before();
        let policy_generation = upkeep.manifest.classes.generation;
        let meta_of = |class| BlockMeta {
            class,
            policy_generation,
            ..self.new_meta(upkeep, window, sequence)
        };
        let sealed = seal::seal(&self.disk, &self.head, window, meta_of)?;
        if !sealed.metas.is_empty() {
            self.sync_log_before_blocks();
            let published = self.publish_sealed(upkeep, &sealed.metas);
            if let Err(e) = published {
                seal::abort(&self.head, &sealed.ids);
                return Err(e);
            }
        }
        for batch in sealed.ids.chunks(FORGET_SERIES) {
            let mut head = self.head.write();
            for id in batch {
                let (series, columns) = head.series_and_columns(*id);
                series.end_seal(window, columns);
            }
        }
        let mut head = self.head.write();
        head.end_seal(window, sealed.late_samples, &sealed.exemplars);
        head.note_late_windows();
        if was_sealed {
            upkeep.late_round = Some(window.start_ms);
            // The next round begins when its samples have waited.
            let sealed_before = head.sealed_before();
            let is_left = |start: i64| window.start_ms < start && start < sealed_before;
            if !head.windows().any(|(start, _)| is_left(start)) {
                upkeep.late_round = None;
                upkeep.last_late_seal_ms = now_ms;
            }
        }
        let contiguous = self.sequences.lock().contiguous;
        if head.drop_idle(contiguous) > 0 {
            // Their numbers will be used again. Within a segment a number means one series, so
            // that a record whose definitions are lost never counts for another series.
            self.wal.rotate();
        }
        Ok(())
    }

    /// In one manifest: a window is sealed for all classes or for none.
    fn publish_sealed(&self, upkeep: &mut Upkeep, metas: &[BlockMeta]) -> Result<()> {
        self.replace(upkeep, metas, &[], |manifest, mut rewrite| {
            for meta in metas {
                mark_dirty(rewrite.as_deref_mut(), manifest, meta.class, meta.range);
            }
        })?;
        for meta in metas {
            tracing::info!(block = %meta.id, class = meta.class, series = meta.series,
                samples = meta.samples, bytes = meta.bytes, "sealed");
        }
        Ok(())
    }

    /// Under [`SyncMode::Interval`]: sealed files must not hold one half of a request whose other
    /// half a power cut takes from the log.
    fn sync_log_before_blocks(&self) {
        if let Err(e) = self.wal.sync() {
            tracing::error!(error = %e, "the log could not be synced before sealing");
        }
    }

    /// Opens new blocks, without what was deleted since they were begun; if one cannot be, none of
    /// their files stays.
    pub(crate) fn open_all(
        &self,
        metas: &[BlockMeta],
        tombstones: &mut [Tombstone],
    ) -> Result<Vec<LiveBlock>> {
        let mut open = |meta: &BlockMeta| {
            let block = Block::open(self.disk.clone(), meta.id, &self.pages)?;
            LiveBlock::made_meanwhile(Arc::new(block), tombstones)
        };
        let opened: Result<Vec<LiveBlock>> = metas.iter().map(&mut open).collect();
        if opened.is_err() {
            seal::discard(&self.disk, metas);
        }
        opened
    }

    /// New blocks take the place of others in one manifest, of which `change` changes the rest. If
    /// that fails, everything is as before and no new file stays.
    pub(crate) fn replace(
        &self,
        upkeep: &mut Upkeep,
        new: &[BlockMeta],
        old: &[BlockId],
        change: impl FnOnce(&mut Manifest, Option<&mut Rewrite>),
    ) -> Result<()> {
        let mut manifest = upkeep.manifest.clone();
        let blocks = self.open_all(new, &mut manifest.deletes.tombstones)?;
        old.iter().for_each(|id| manifest.retire(*id));
        manifest.blocks.extend_from_slice(new);
        change(&mut manifest, upkeep.rewrite.as_mut());
        let paths: Vec<PathBuf> = new.iter().map(|meta| block::path(meta.id)).collect();
        self.store_with_files(upkeep, manifest, &paths)?;
        self.publish(upkeep, blocks, old);
        Ok(())
    }

    /// [`Inner::quarantine_blocks`] if that is what the error is about.
    pub(crate) fn quarantine_or(
        &self,
        upkeep: &mut Upkeep,
        blocks: &[impl Deref<Target = Block>],
        error: Error,
    ) -> Result<()> {
        match error {
            Error::Corrupt { .. } => self.quarantine_blocks(upkeep, blocks, error),
            error => Err(error),
        }
    }

    /// Takes out of service the blocks that do not verify, so that the rest can be merged and read;
    /// their files stay in quarantine. Gives the error back if all of them do.
    pub(crate) fn quarantine_blocks(
        &self,
        upkeep: &mut Upkeep,
        blocks: &[impl Deref<Target = Block>],
        error: Error,
    ) -> Result<()> {
        let damaged: Vec<BlockId> = blocks
            .iter()
            .filter(|block| matches!(block.verify(), Err(Error::Corrupt { .. })))
            .map(|block| block.meta().id)
            .collect();
        if damaged.is_empty() {
            return Err(error);
        }
        let mut report = RecoveryReport::default();
        let mut manifest = upkeep.manifest.clone();
        for id in &damaged {
            tracing::error!(block = %id, %error, "block quarantined");
            recovery::quarantine(self.disk.as_ref(), &block::path(*id), &mut report)?;
            manifest.blocks.retain(|block| block.id != *id);
        }
        self.counters.quarantined.fetch_add(report.quarantined.len() as u64, Ordering::Relaxed);
        self.store(upkeep, manifest)?;
        self.withdraw(upkeep, &damaged);
        Ok(())
    }

    pub(crate) fn drop_blocks(
        &self,
        upkeep: &mut Upkeep,
        ids: &[BlockId],
        why: &str,
    ) -> Result<()> {
        tracing::info!(blocks = ids.len(), "{why}");
        let mut manifest = upkeep.manifest.clone();
        ids.iter().for_each(|id| manifest.retire(*id));
        self.store(upkeep, manifest)?;
        self.withdraw(upkeep, ids);
        Ok(())
    }

    /// Takes blocks from readers, and their samples with them.
    pub(crate) fn withdraw(&self, upkeep: &Upkeep, ids: &[BlockId]) {
        let version = self.version();
        let gone = version.blocks.iter().filter(|block| ids.contains(&block.meta().id));
        // Under the head's lock, as a write: no reader misses the samples and not the generation.
        let mut head = self.head.write();
        head.generations.advance();
        gone.for_each(|block| head.generations.note_range(block.meta().range));
        self.publish(upkeep, Vec::new(), ids);
        // Files go with the last reference, which is not to be dropped under the lock.
        drop(head);
        drop(version);
    }

    /// Makes a changed manifest the truth; on failure the present one stays.
    pub(crate) fn store(
        &self,
        upkeep: &mut Upkeep,
        mut manifest: Manifest,
    ) -> std::result::Result<(), NotStored> {
        let (before, in_the_making) = (&upkeep.manifest.blocks, upkeep.in_the_making());
        manifest.deletes.settle(before, &manifest.blocks, in_the_making, upkeep.now_ms);
        let stored = manifest.store(self.disk.as_ref());
        match stored {
            Ok(()) => upkeep.manifest = manifest,
            // A generation that may be on disk is never used for other content.
            Err(_) => upkeep.manifest.generation = manifest.generation,
        }
        stored
    }

    /// [`Inner::store`] of a manifest that is the first to name new files: without the manifest,
    /// the files go, the last first, so that failures do not fill the disk.
    pub(crate) fn store_with_files(
        &self,
        upkeep: &mut Upkeep,
        manifest: Manifest,
        files: &[impl AsRef<Path>],
    ) -> Result<()> {
        let stored = self.store(upkeep, manifest);
        if stored.as_ref().is_err_and(|not_stored| !not_stored.in_doubt) {
            for file in files.iter().rev() {
                let _ = self.disk.remove(file.as_ref());
            }
        }
        Ok(stored?)
    }

    /// Shows readers a new list of blocks; dropped blocks go with their last reader.
    pub(crate) fn publish(&self, upkeep: &Upkeep, added: Vec<LiveBlock>, removed: &[BlockId]) {
        let mut version = self.version.write();
        let is_removed = |block: &LiveBlock| removed.contains(&block.meta().id);
        let (retired, mut blocks): (Vec<_>, Vec<_>) =
            version.blocks.iter().cloned().partition(is_removed);
        blocks.extend(added);
        recovery::sort_blocks(&mut blocks);
        retired.iter().for_each(|block| block.retire());
        let Manifest { dirty, classes, blocks: metas, .. } = &upkeep.manifest;
        let classes = classes.of_blocks(metas);
        *version = Arc::new(Version { blocks, dirty: dirty.clone(), classes });
    }

    pub(crate) fn checkpoint(&self, upkeep: &mut Upkeep, now_ms: i64) -> Result<()> {
        self.wal.rotate();
        let wal_bytes = self.wal.stats().written_bytes;
        let (covered, ids, sealed_before) = {
            let head = self.head.read();
            let covered = self.sequences.lock().contiguous;
            (covered, head.ids().collect::<Vec<u32>>(), head.sealed_before())
        };
        let number = upkeep.manifest.next_number();
        let disk = self.disk.as_ref();
        let writer = CheckpointWriter::create(disk, number, covered, sealed_before)?;
        self.write_checkpoint(writer, &ids)?;
        self.sync_log_before_blocks();
        let mut manifest = upkeep.manifest.clone();
        let old = manifest.checkpoint.replace(CheckpointId { number, covered });
        manifest.retired.extend(old.map(|old| old.number));
        self.store_with_files(upkeep, manifest, &[checkpoint::path(number)])?;
        self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        upkeep.last_checkpoint_ms = now_ms;
        upkeep.checkpoint_wal_bytes = wal_bytes;
        if let Some(old) = old {
            let path = checkpoint::path(old.number);
            // A damaged one goes to quarantine instead.
            if !upkeep.damaged_files.contains(&path)
                && let Err(e) = self.disk.remove(&path)
            {
                tracing::warn!(path = %path.display(), error = %e, "old checkpoint not removed");
            }
        }
        self.quarantine_damaged(upkeep)?;
        self.wal.cut(covered)
    }

    fn write_checkpoint(&self, mut writer: CheckpointWriter<'_>, ids: &[u32]) -> Result<()> {
        for batch in ids.chunks(CHECKPOINT_SERIES) {
            let copied = checkpoint::copy_series(&self.head.read(), batch);
            writer.series(&copied)?;
        }
        let (exemplars, metadata) = {
            let head = self.head.read();
            let exemplars: Vec<_> = head
                .exemplars()
                .filter(|(id, _)| head.is_in_use(*id))
                .map(|(id, exemplar)| (head.index.labels(id), exemplar.clone()))
                .collect();
            (exemplars, head.metadata().values().flatten().cloned().collect::<Vec<_>>())
        };
        writer.finish(&exemplars, &metadata)
    }

    fn quarantine_damaged(&self, upkeep: &mut Upkeep) -> Result<()> {
        let mut report = RecoveryReport::default();
        for path in std::mem::take(&mut upkeep.damaged_files) {
            recovery::quarantine(self.disk.as_ref(), &path, &mut report)?;
        }
        let moved = report.quarantined.len() as u64;
        self.counters.quarantined.fetch_add(moved, Ordering::Relaxed);
        Ok(())
    }
}
