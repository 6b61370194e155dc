//! Upkeep: one bounded step at a time, decided by [`plan`] and carried out here.
//!
//! Every step ends in one new manifest, and only then is anything forgotten. One thread at a time:
//! whoever holds [`Upkeep`] is the only one who changes the manifest.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::merge::Merge;
use crate::compaction::plan::{Situation, Step, plan};
use crate::compaction::rollup::{self, RollUp};
use crate::compaction::seal;
use crate::compaction::windows::Due;
use crate::db::{Inner, Progress, SyncMode};
use crate::deletes::live::LiveBlock;
use crate::error::{Error, Result};
use crate::manifest::{CheckpointId, Manifest, NotStored};
use crate::metrics::block::meta::{BlockId, BlockMeta, DataType};
use crate::metrics::block::{self, Block};
use crate::metrics::checkpoint::{self, CheckpointWriter};
use crate::recovery::{self, RecoveryReport};
use crate::retention::classify::Split;
use crate::retention::hold::Holds;
use crate::snapshot::Version;
use crate::time::TimeRange;

/// Series that are copied for a checkpoint under one lock.
const CHECKPOINT_SERIES: usize = 1024;

/// Series that forget a sealed window under one lock.
const FORGET_SERIES: usize = 1024;
/// Rows that a merge writes before other upkeep has its turn: some 50 ms.
const SLICE_ROWS: usize = 1_000_000;

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
    pub(crate) merging: Option<Merging>,
    pub(crate) rolling_up: Option<RollingUp>,
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
        let merged = self.merging.as_ref().map(|merging| merging.merge.id());
        let rolled_up =
            self.rolling_up.as_ref().and_then(|rolling_up| rolling_up.rollup.least_id());
        merged.into_iter().chain(rolled_up).min()
    }
}

/// The merge in progress.
#[derive(Debug)]
pub(crate) struct Merging {
    pub(crate) merge: Merge,
    /// Reading suffers without it.
    pub(crate) is_urgent: bool,
    /// It is a part of this.
    pub(crate) split: Option<Split>,
}

/// The day that is being rolled up.
#[derive(Debug)]
pub(crate) struct RollingUp {
    rollup: RollUp,
    /// Late samples of the day were sealed meanwhile.
    is_outdated: bool,
}

/// Notes that raw samples of a time have changed which may be rolled up already.
pub(crate) fn mark_dirty(
    rolling_up: Option<&mut RollingUp>,
    manifest: &mut Manifest,
    class: u32,
    range: TimeRange,
) {
    let is_rolled_up = |day: i64| {
        let window = rollup::window_of(day);
        let of_class =
            manifest.blocks.iter().filter(|meta| meta.class == class && meta.tier_ms > 0);
        of_class.into_iter().any(|meta| meta.window.overlaps(window))
    };
    let days: Vec<i64> = rollup::days_of(range).filter(|day| is_rolled_up(*day)).collect();
    manifest.dirty.extend(days.into_iter().map(|day| (class, day)));
    if let Some(rolling_up) = rolling_up {
        let (of_class, day) = rolling_up.rollup.day;
        rolling_up.is_outdated |= of_class == class && rollup::window_of(day).overlaps(range);
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
            Step::GoOn => return self.go_on_merging(&mut upkeep),
            Step::RollUp(due) => self.begin_rolling_up(&mut upkeep, &due)?,
            Step::GoOnRollingUp => return self.go_on_rolling_up(&mut upkeep),
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
            is_merging: upkeep.merging.is_some(),
            is_rolling_up: upkeep.rolling_up.is_some(),
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
        let opened: Result<Vec<Arc<Block>>> =
            metas.iter().map(|meta| self.open_new(meta)).collect();
        if opened.is_err() {
            seal::discard(&self.disk, metas);
        }
        for meta in metas {
            tracing::info!(block = %meta.id, class = meta.class, series = meta.series,
                samples = meta.samples, bytes = meta.bytes, "sealed");
        }
        let blocks = opened?;
        let mut manifest = upkeep.manifest.clone();
        manifest.blocks.extend_from_slice(metas);
        for meta in metas {
            mark_dirty(upkeep.rolling_up.as_mut(), &mut manifest, meta.class, meta.range);
        }
        let paths: Vec<PathBuf> = metas.iter().map(|meta| block::path(meta.id)).collect();
        self.store_with_files(upkeep, manifest, &paths)?;
        self.publish(upkeep, blocks, &[]);
        Ok(())
    }

    /// Under [`SyncMode::Interval`]: sealed files must not hold one half of a request whose other
    /// half a power cut takes from the log.
    fn sync_log_before_blocks(&self) {
        if let Err(e) = self.wal.sync() {
            tracing::error!(error = %e, "the log could not be synced before sealing");
        }
    }

    pub(crate) fn open_new(&self, meta: &BlockMeta) -> Result<Arc<Block>> {
        let opened = Block::open(self.disk.clone(), meta.id, &self.pages);
        if opened.is_err() {
            let _ = self.disk.remove(&block::path(meta.id));
        }
        opened.map(Arc::new)
    }

    fn begin_merge(&self, upkeep: &mut Upkeep, due: &Due) -> Result<()> {
        let version = self.version();
        let is_input = |block: &&LiveBlock| due.inputs.contains(&block.meta().id);
        let inputs: Vec<LiveBlock> = version.blocks.iter().filter(is_input).cloned().collect();
        // The manifest knows classes that were decided after the block was written.
        let is_first = |meta: &&BlockMeta| inputs.first().is_some_and(|b| b.meta().id == meta.id);
        let Some(first) = upkeep.manifest.blocks.iter().find(is_first).cloned() else {
            return Ok(());
        };
        let meta = BlockMeta {
            data_type: first.data_type,
            class: first.class,
            tier_ms: first.tier_ms,
            policy_generation: first.policy_generation,
            ..self.new_meta(upkeep, due.window, 0)
        };
        let begun = Merge::begin(&self.disk, inputs.clone(), meta);
        match begun {
            Ok(merge) => {
                let is_urgent = due.is_urgent;
                upkeep.merging = Some(Merging { merge, is_urgent, split: None });
                Ok(())
            }
            Err(e @ Error::Corrupt { .. }) => self.quarantine_blocks(upkeep, &inputs, e),
            Err(e) => Err(e),
        }
    }

    /// A slice of the merge that was begun. On failure it is given up, and what it wrote goes.
    fn go_on_merging(&self, upkeep: &mut Upkeep) -> Result<Progress> {
        let Some(mut merging) = upkeep.merging.take() else { return Ok(Progress::Idle) };
        let inputs = merging.merge.inputs().to_vec();
        if !inputs.iter().all(|block| upkeep.manifest.names(block.meta().id)) {
            // Retention or quarantine took one: what is due is seen anew.
            merging.split.iter().for_each(|split| self.forget_split(split));
            return Ok(Progress::Worked);
        }
        let merged = match merging.merge.advance(SLICE_ROWS) {
            Ok(false) => {
                let progress =
                    if merging.is_urgent { Progress::Worked } else { Progress::Background };
                upkeep.merging = Some(merging);
                return Ok(progress);
            }
            Ok(true) => merging.merge.finish(),
            Err(e) => Err(e),
        };
        match (merged, merging.split) {
            (Ok(part), Some(split)) => self.end_part(upkeep, split, part)?,
            (Err(e), Some(split)) => self.give_up_split(upkeep, split, e)?,
            (Ok(meta), None) => self.publish_merged(upkeep, &inputs, meta)?,
            (Err(e @ Error::Corrupt { .. }), None) => self.quarantine_blocks(upkeep, &inputs, e)?,
            (Err(e), None) => return Err(e),
        }
        Ok(Progress::Worked)
    }

    fn publish_merged(
        &self,
        upkeep: &mut Upkeep,
        inputs: &[LiveBlock],
        meta: Option<BlockMeta>,
    ) -> Result<()> {
        let mut manifest = upkeep.manifest.clone();
        let inputs: Vec<BlockId> = inputs.iter().map(|block| block.meta().id).collect();
        inputs.iter().for_each(|id| manifest.retire(*id));
        let Some(meta) = meta else {
            self.store(upkeep, manifest)?;
            self.publish(upkeep, Vec::<LiveBlock>::new(), &inputs);
            return Ok(());
        };
        let path = block::path(meta.id);
        let block = self.open_new(&meta)?;
        let block = LiveBlock::made_meanwhile(block, &mut manifest.deletes.tombstones)?;
        tracing::info!(block = %meta.id, inputs = inputs.len(), samples = meta.samples,
            bytes = meta.bytes, "merged");
        manifest.blocks.push(meta);
        self.store_with_files(upkeep, manifest, &[path])?;
        self.publish(upkeep, vec![block], &inputs);
        Ok(())
    }

    fn begin_rolling_up(&self, upkeep: &mut Upkeep, due: &rollup::Due) -> Result<()> {
        let version = self.version();
        let is_input = |block: &&LiveBlock| due.inputs.contains(&block.meta().id);
        let inputs: Vec<LiveBlock> = version.blocks.iter().filter(is_input).cloned().collect();
        let (class, day_start_ms) = due.day;
        let window = rollup::window_of(day_start_ms);
        let of_inputs = upkeep.manifest.blocks.iter().filter(|meta| due.inputs.contains(&meta.id));
        let policy_generation = of_inputs.map(|meta| meta.policy_generation).max().unwrap_or(0);
        let metas = due.tiers.iter().map(|tier| BlockMeta {
            class,
            tier_ms: tier.unsigned_abs(),
            policy_generation,
            ..self.new_meta(upkeep, window, 0)
        });
        let metas = metas.collect();
        match RollUp::begin(&self.disk, due.day, inputs.clone(), metas) {
            Ok(rollup) => {
                upkeep.rolling_up = Some(RollingUp { rollup, is_outdated: false });
                Ok(())
            }
            Err(e @ Error::Corrupt { .. }) => self.quarantine_blocks(upkeep, &inputs, e),
            Err(e) => Err(e),
        }
    }

    /// A slice of the day that was begun. On failure it is given up, and what it wrote goes.
    fn go_on_rolling_up(&self, upkeep: &mut Upkeep) -> Result<Progress> {
        let Some(mut rolling_up) = upkeep.rolling_up.take() else { return Ok(Progress::Idle) };
        let inputs = rolling_up.rollup.inputs().to_vec();
        if !inputs.iter().all(|block| upkeep.manifest.names(block.meta().id)) {
            return Ok(Progress::Worked);
        }
        let is_outdated = rolling_up.is_outdated;
        let day = rolling_up.rollup.day;
        let made = match rolling_up.rollup.advance(SLICE_ROWS) {
            Ok(false) => {
                upkeep.rolling_up = Some(rolling_up);
                return Ok(Progress::Background);
            }
            Ok(true) => rolling_up.rollup.finish(),
            Err(e) => Err(e),
        };
        match made {
            Ok(metas) => self.publish_rollup(upkeep, day, is_outdated, metas)?,
            Err(e @ Error::Corrupt { .. }) => self.quarantine_blocks(upkeep, &inputs, e)?,
            Err(e) => return Err(e),
        }
        Ok(Progress::Worked)
    }

    fn publish_rollup(
        &self,
        upkeep: &mut Upkeep,
        day: rollup::Day,
        is_outdated: bool,
        metas: Vec<BlockMeta>,
    ) -> Result<()> {
        let mut manifest = upkeep.manifest.clone();
        let tombstones = &mut manifest.deletes.tombstones;
        let open = |meta| LiveBlock::made_meanwhile(self.open_new(meta)?, tombstones);
        let blocks = metas.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut replaced = Vec::new();
        for meta in &metas {
            tracing::info!(block = %meta.id, tier_ms = meta.tier_ms, series = meta.series,
                buckets = meta.samples, bytes = meta.bytes, "rolled up");
            let is_replaced = |old: &&BlockMeta| {
                old.tier_ms == meta.tier_ms && old.class == meta.class && old.window == meta.window
            };
            replaced.extend(manifest.blocks.iter().filter(is_replaced).map(|old| old.id));
        }
        replaced.iter().for_each(|id| manifest.retire(*id));
        if is_outdated {
            manifest.dirty.insert(day);
        } else {
            manifest.dirty.remove(&day);
        }
        manifest.blocks.extend(metas.iter().cloned());
        let stored = self.store(upkeep, manifest);
        if stored.as_ref().is_err_and(|not_stored| !not_stored.in_doubt) {
            metas.iter().for_each(|meta| drop(self.disk.remove(&block::path(meta.id))));
        }
        stored?;
        self.publish(upkeep, blocks, &replaced);
        Ok(())
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
        self.publish(upkeep, Vec::<LiveBlock>::new(), ids);
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
    pub(crate) fn publish(
        &self,
        upkeep: &Upkeep,
        added: Vec<impl Into<LiveBlock>>,
        removed: &[BlockId],
    ) {
        let mut version = self.version.write();
        let is_removed = |block: &LiveBlock| removed.contains(&block.meta().id);
        let (retired, mut blocks): (Vec<_>, Vec<_>) =
            version.blocks.iter().cloned().partition(is_removed);
        blocks.extend(added.into_iter().map(Into::into));
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
