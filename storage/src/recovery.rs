//! Recovery: from what a stop of any kind left on disk to a head and a list of blocks.
//!
//! Nothing is deleted because it looks damaged or unknown: damaged files move to `quarantine/`,
//! sealed files that no manifest names to `trash/`; only `tmp-` files and files that a manifest
//! retired are removed. Recovery can be interrupted and repeated at any point.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::backup;
use crate::compaction::rollup;
use crate::db::Options;
use crate::deletes::live::LiveBlock;
use crate::deletes::{Delete, Numbers};
use crate::disk::Disk;
use crate::error::{Error, Result, io_error};
use crate::labels::Labels;
use crate::manifest::{self, CheckpointId, Found, Manifest};
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::page_cache::PageCache;
use crate::metrics::block::{self, BLOCKS_DIR, Block};
use crate::metrics::checkpoint::{self, CHECKPOINTS_DIR};
use crate::metrics::head::Head;
use crate::relief::Spill;
use crate::retention::classes::Classifier;
use crate::time::{TimeRange, WINDOW_MS, windows_of};
use crate::wal::replay::{self, Entry};
use crate::wal::{SealedSegment, WAL_DIR};

pub const QUARANTINE_DIR: &str = "quarantine";
pub const TRASH_DIR: &str = "trash";

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    pub replayed_records: u64,
    pub replayed_samples: u64,
    /// Bytes behind the last intact record, never acknowledged.
    pub torn_tail_bytes: u64,
    /// Records, or parts of a checkpoint, that must have been there and could not be read.
    pub lost_records: u64,
    /// Files that moved to `quarantine/`.
    pub quarantined: Vec<String>,
    /// Files that moved to `trash/`.
    pub trashed: Vec<String>,
    pub manifest_rebuilt: bool,
}

/// A database's state as recovery found it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) blocks: Vec<LiveBlock>,
    pub(crate) head: Head,
    pub(crate) last_sequence: u64,
    pub(crate) next_segment: u64,
    pub(crate) segments: Vec<SealedSegment>,
    /// Blocks were made which no stored manifest names yet.
    pub(crate) has_spilled: bool,
    /// They go to quarantine once the head is in a new checkpoint.
    pub(crate) damaged_files: Vec<PathBuf>,
    pub(crate) report: RecoveryReport,
}

pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    cache: &Arc<PageCache>,
    options: &Options,
) -> Result<Recovered> {
    for dir in [WAL_DIR, BLOCKS_DIR, CHECKPOINTS_DIR] {
        let dir = Path::new(dir);
        disk.create_dir_all(dir).map_err(|e| io_error("create folder", dir, e))?;
    }
    disk.sync_dir(Path::new("")).map_err(|e| io_error("sync folder", Path::new(""), e))?;
    let mut report = RecoveryReport::default();
    let mut damaged_files = Vec::new();
    remove_temporary(disk.as_ref())?;
    backup::remove_unfinished(disk)?;
    let mut manifest = match manifest::load(disk.as_ref())? {
        Found::Intact(manifest) => *manifest,
        Found::None => rebuild(disk, 0, cache, &mut report)?,
        Found::Damaged(path, generation) => {
            tracing::error!(path = %path.display(), "the manifest is damaged: rebuilding it");
            let manifest = rebuild(disk, generation, cache, &mut report)?;
            // It stays until the new one is stored: without it, the manifest before it would be
            // the newest one to whoever starts next.
            damaged_files.push(path);
            report.manifest_rebuilt = true;
            manifest
        }
    };
    let mut blocks = open_blocks(disk, &mut manifest, cache, &mut report)?;
    let mut head = Head::new();
    let classes = &mut manifest.classes;
    classes.adopt(&options.policies, &manifest.blocks);
    head.set_classifier(Arc::new(Classifier::new(options.policies.clone(), classes)));
    sweep(disk.as_ref(), &mut manifest, &mut report)?;
    // A manifest that names no lost block any more would have the next start believe that all rows
    // of its window are in blocks.
    let can_store = report.quarantined.is_empty();
    let mut spill = Spill::new(disk, cache, options, can_store);
    let sealed = sealed_windows(&manifest, &blocks, &report);
    let restored = restore_checkpoint(
        disk.as_ref(),
        &mut manifest,
        &mut head,
        (&mut spill, &sealed),
        &mut damaged_files,
        &mut report,
    );
    restored?;
    let sealed = sealed_windows(&manifest, &blocks, &report);
    sealed.forget_in(&mut head);
    let covered = manifest.checkpoint.map_or(0, |checkpoint| checkpoint.covered);
    let mut replay =
        Replay { head: &mut head, manifest: &mut manifest, spill, deletes: Vec::new() };
    let replayed = replay.run(disk.as_ref(), covered, &sealed, &mut report)?;
    let Replay { spill, deletes, .. } = replay;
    report.torn_tail_bytes = replayed.torn_tail_bytes;
    report.lost_records += replayed.lost;
    report.replayed_records = replayed.records;
    add_deletes(&mut manifest, deletes, &spill.metas, &report);
    let has_spilled = !spill.metas.is_empty();
    blocks.extend(spill.name_in(&mut manifest));
    sort_blocks(&mut blocks);
    let blocks = without_deleted(disk.as_ref(), &mut manifest, blocks, &mut report)?;
    let by_blocks = blocks.iter().map(|block| block.meta().sequence).max().unwrap_or(0);
    Ok(Recovered {
        manifest,
        blocks,
        head,
        last_sequence: replayed.last_sequence.max(by_blocks),
        next_segment: replayed.last_segment + 1,
        segments: replayed.segments,
        has_spilled,
        damaged_files: damaged_files.into_iter().chain(replayed.damaged).collect(),
        report,
    })
}

/// The blocks of a window's classes were sealed together. Where one is lost, the log may still have
/// its rows: they are taken from it all, and those that blocks have too do no harm.
fn sealed_windows(
    manifest: &Manifest,
    blocks: &[Arc<Block>],
    report: &RecoveryReport,
) -> SealedWindows {
    let covered = manifest.checkpoint.map_or(0, |checkpoint| checkpoint.covered);
    let trusted = if report.quarantined.is_empty() { blocks } else { &[] };
    SealedWindows::of(trusted, covered)
}

/// The blocks that hold rows which the log or the checkpoint may hold as well.
struct SealedWindows {
    by_start: HashMap<i64, u64>,
    windows: Vec<TimeRange>,
}

impl SealedWindows {
    fn of(blocks: &[Arc<Block>], covered: u64) -> SealedWindows {
        let mut sealed = SealedWindows { by_start: HashMap::new(), windows: Vec::new() };
        for meta in blocks.iter().map(|block| block.meta()).filter(|m| m.sequence >= covered) {
            // Of a block that says nothing of the log, as a rollup, nothing is known here.
            if meta.sequence == 0 {
                continue;
            }
            for start in windows_of(meta.window) {
                let sequence = sealed.by_start.entry(start).or_insert(0);
                *sequence = meta.sequence.max(*sequence);
                sealed.windows.push(TimeRange::new(start, start.saturating_add(WINDOW_MS - 1)));
            }
        }
        sealed.windows.sort_by_key(|window| window.start_ms);
        sealed.windows.dedup();
        sealed
    }

    /// Whether a row of a record is in a block.
    fn has(&self, sequence: u64, timestamp: i64) -> bool {
        let window = crate::time::window_start_ms(timestamp);
        self.by_start.get(&window).is_some_and(|sealed| sequence <= *sealed)
    }

    /// A checkpoint that is older than a seal still has the sealed samples.
    fn forget_in(&self, head: &mut Head) {
        for window in &self.windows {
            let ids: Vec<u32> = head.ids().collect();
            for id in ids {
                head.change(id, |series, columns| series.forget_window(*window, columns));
            }
            head.end_seal(*window, 0, &[]);
            head.set_sealed_before(window.end_ms.saturating_add(1));
        }
        head.recount_late();
    }
}

/// What the log is replayed into.
struct Replay<'a, 'd> {
    head: &'a mut Head,
    manifest: &'a mut Manifest,
    spill: Spill<'d>,
    deletes: Vec<ReplayedDelete>,
}

/// A delete that the log has, and the manifest may know.
struct ReplayedDelete {
    sequence: u64,
    delete: Delete,
    /// How many blocks were spilled before it.
    spilled: usize,
}

/// The head's series by the references of the segment that is replayed.
#[derive(Default)]
struct References(Vec<u32>);

impl References {
    fn define(&mut self, head: &mut Head, definitions: &[(u32, Labels)]) {
        for (reference, labels) in definitions {
            let (id, _) = head.find_or_create(labels);
            let at = *reference as usize;
            if at >= self.0.len() {
                self.0.resize(at + 1, u32::MAX);
            }
            self.0[at] = id;
        }
    }

    fn id(&self, reference: u32) -> Option<u32> {
        self.0.get(reference as usize).copied().filter(|id| *id != u32::MAX)
    }
}

impl Replay<'_, '_> {
    fn run(
        &mut self,
        disk: &dyn Disk,
        covered: u64,
        sealed: &SealedWindows,
        report: &mut RecoveryReport,
    ) -> Result<replay::Report> {
        let mut references = References::default();
        replay::replay(disk, covered, |entry| {
            match entry {
                Entry::Segment => references = References::default(),
                Entry::Definitions(definitions) => references.define(self.head, &definitions),
                Entry::Batch { sequence, mut record, is_doubtful, rest } => {
                    references.define(self.head, &record.definitions);
                    let knows = |reference: u32| references.id(reference).is_some();
                    if is_doubtful && !record.series().all(knows) {
                        return Ok(());
                    }
                    if !sealed.by_start.is_empty() {
                        record.retain_rows(|timestamp| !sealed.has(sequence, timestamp));
                    }
                    let rows = record.values.len() + record.histograms.len();
                    report.replayed_samples += rows as u64;
                    let unknown =
                        self.head.apply(&record, i64::MIN, |reference| references.id(reference));
                    report.lost_records += u64::from(unknown > 0);
                    if self.spill.is_over(self.head) {
                        let needed = rest.references();
                        let needed = needed.iter().filter_map(|one| references.id(one)).collect();
                        self.spill.relieve(self.manifest, self.head, &needed)?;
                        let is_gone = |id: u32| id != u32::MAX && !self.head.is_in_use(id);
                        references.0.iter_mut().filter(|id| is_gone(**id)).for_each(|id| {
                            *id = u32::MAX;
                        });
                    }
                }
                // One behind torn bytes was never acknowledged, and would delete more than it had
                // seen.
                Entry::Delete { is_doubtful: true, .. } => {}
                Entry::Delete { sequence, delete, .. } => {
                    self.head.remove_selected(&delete.selectors, delete.range);
                    let spilled = self.spill.metas.len();
                    self.deletes.push(ReplayedDelete { sequence, delete, spilled });
                }
            }
            Ok(())
        })
    }
}

/// Adds the deletes that the log has and the manifest does not know. No block was begun after one of
/// these, since that would have stored a manifest; one that is rebuilt knows none, and goes by the
/// sequences of blocks. All of them hide something of what was spilled before them.
fn add_deletes(
    manifest: &mut Manifest,
    found: Vec<ReplayedDelete>,
    spilled: &[BlockMeta],
    report: &RecoveryReport,
) {
    for ReplayedDelete { sequence, delete, spilled: before } in found {
        let reaches = |meta: &&BlockMeta| meta.window.union(meta.range).overlaps(delete.range);
        let spilled = spilled[..before].iter().filter(reaches);
        if sequence <= manifest.deletes.last {
            manifest.deletes.extend(sequence, &delete, spilled.map(|meta| meta.id).collect());
            continue;
        }
        let is_older = |meta: &&BlockMeta| !report.manifest_rebuilt || meta.sequence < sequence;
        let blocks = manifest.blocks.iter().filter(is_older).filter(reaches);
        let touched: Vec<&BlockMeta> = blocks.chain(spilled).collect();
        let raw = touched.iter().filter(|meta| meta.tier_ms == 0);
        let days = raw.flat_map(|meta| {
            let range = meta.range.intersection(delete.range);
            rollup::days_of(range).map(|day| (meta.class, day))
        });
        manifest.dirty.extend(days.collect::<Vec<_>>());
        let touched = touched.iter().map(|meta| meta.id).collect();
        let greatest = BlockId(manifest.next_number.saturating_sub(1));
        let numbers = Numbers { greatest, touched, in_the_making: false };
        manifest.deletes.push(sequence, &delete, numbers);
    }
}

/// The blocks as readers may see them. One of which that cannot be found out is quarantined.
fn without_deleted(
    disk: &dyn Disk,
    manifest: &mut Manifest,
    blocks: Vec<Arc<Block>>,
    report: &mut RecoveryReport,
) -> Result<Vec<LiveBlock>> {
    let mut live = Vec::with_capacity(blocks.len());
    for block in blocks {
        let id = block.meta().id;
        match LiveBlock::of(block, &manifest.deletes.tombstones) {
            Ok(block) => live.push(block),
            Err(e) => {
                tracing::error!(block = %id, error = %e, "block quarantined");
                manifest.blocks.retain(|block| block.id != id);
                quarantine(disk, &block::path(id), report)?;
            }
        }
    }
    // What touches nothing after all is forgotten with the next manifest.
    let touched =
        |id: &BlockId| live.iter().any(|live| live.meta().id == *id && live.has_deletes());
    manifest.deletes.tombstones.iter_mut().for_each(|one| one.blocks.retain(touched));
    Ok(live)
}

fn restore_checkpoint(
    disk: &dyn Disk,
    manifest: &mut Manifest,
    head: &mut Head,
    (spill, sealed): (&mut Spill<'_>, &SealedWindows),
    damaged_files: &mut Vec<PathBuf>,
    report: &mut RecoveryReport,
) -> Result<()> {
    let Some(checkpoint) = manifest.checkpoint else { return Ok(()) };
    let path = checkpoint::path(checkpoint.number);
    let relieve = |head: &mut Head| {
        if !spill.is_over(head) {
            return Ok(());
        }
        sealed.forget_in(head);
        head.drop_all_but(&RoaringBitmap::new());
        spill.relieve(manifest, head, &RoaringBitmap::new())
    };
    match checkpoint::restore(disk, checkpoint.number, head, relieve) {
        Ok(restored) => {
            report.lost_records += restored.damaged_at.len() as u64;
            if !restored.damaged_at.is_empty() {
                tracing::error!(path = %path.display(), "the checkpoint is damaged in part");
                damaged_files.push(path);
            }
        }
        Err(Error::Corrupt { .. }) => {
            tracing::error!(path = %path.display(), "the checkpoint cannot be read");
            report.lost_records += 1;
            quarantine(disk, &path, report)?;
            manifest.checkpoint = None;
            // What the log still has is replayed from its first record on.
        }
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), "the checkpoint is missing");
            report.lost_records += 1;
            manifest.checkpoint = None;
        }
        Err(e) => return Err(e),
    }
    Ok(())
}

/// Opens what the manifest names; what cannot be opened is quarantined and the rest served.
fn open_blocks(
    disk: &Arc<dyn Disk>,
    manifest: &mut Manifest,
    cache: &Arc<PageCache>,
    report: &mut RecoveryReport,
) -> Result<Vec<Arc<Block>>> {
    let mut blocks = Vec::with_capacity(manifest.blocks.len());
    let mut lost = Vec::new();
    for meta in &manifest.blocks {
        match Block::open(disk.clone(), meta.id, cache) {
            Ok(block) => blocks.push(Arc::new(block)),
            Err(e @ Error::Unsupported { .. }) => return Err(e),
            Err(e) => {
                tracing::error!(block = %meta.id, error = %e, "block quarantined");
                lost.push(meta.id);
            }
        }
    }
    for id in lost {
        manifest.blocks.retain(|block| block.id != id);
        quarantine(disk.as_ref(), &block::path(id), report)?;
    }
    sort_blocks(&mut blocks);
    Ok(blocks)
}

pub(crate) fn sort_blocks(blocks: &mut [impl Deref<Target = Block>]) {
    blocks.sort_by_key(|block| (block.meta().window.start_ms, block.meta().id));
}

/// A manifest from the files themselves.
fn rebuild(
    disk: &Arc<dyn Disk>,
    generation: u64,
    cache: &Arc<PageCache>,
    report: &mut RecoveryReport,
) -> Result<Manifest> {
    let mut metas: Vec<BlockMeta> = Vec::new();
    let mut highest = 0;
    for name in list(disk.as_ref(), BLOCKS_DIR)? {
        let Some(id) = block::id_of(&name) else { continue };
        highest = highest.max(id.0);
        match Block::open(disk.clone(), id, cache) {
            Ok(block) => metas.push(block.meta().clone()),
            Err(e @ Error::Unsupported { .. }) => return Err(e),
            Err(e) => {
                tracing::error!(block = %id, error = %e, "block quarantined");
                quarantine(disk.as_ref(), &block::path(id), report)?;
            }
        }
    }
    let replaced: HashSet<BlockId> =
        metas.iter().flat_map(|meta| meta.sources.iter().copied()).collect();
    metas.retain(|meta| !replaced.contains(&meta.id));
    // Which rollups were to be made again is not known any more.
    let raw = metas.iter().filter(|meta| meta.tier_ms == 0);
    let dirty =
        raw.flat_map(|meta| rollup::days_of(meta.range).map(|day| (meta.class, day))).collect();
    let mut checkpoint: Option<CheckpointId> = None;
    for name in list(disk.as_ref(), CHECKPOINTS_DIR)? {
        let Some(number) = checkpoint::number_of(&name) else { continue };
        highest = highest.max(number);
        if let Some(covered) = checkpoint::covered(disk.as_ref(), number)
            && checkpoint.is_none_or(|best| best.covered <= covered)
        {
            checkpoint = Some(CheckpointId { number, covered });
        }
    }
    Ok(Manifest {
        generation,
        next_number: highest + 1,
        checkpoint,
        blocks: metas,
        retired: replaced.into_iter().map(|id| id.0).collect(),
        dirty,
        ..Manifest::default()
    })
}

fn remove_temporary(disk: &dyn Disk) -> Result<()> {
    for dir in ["", BLOCKS_DIR, CHECKPOINTS_DIR] {
        for name in list(disk, dir)?.iter().filter(|name| name.starts_with("tmp-")) {
            let path = Path::new(dir).join(name);
            disk.remove(&path).map_err(|e| io_error("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Removes what a manifest retired; what no manifest ever named goes to the trash.
fn sweep(disk: &dyn Disk, manifest: &mut Manifest, report: &mut RecoveryReport) -> Result<()> {
    let live: HashSet<u64> = manifest.blocks.iter().map(|block| block.id.0).collect();
    let retired: HashSet<u64> = manifest.retired.iter().copied().collect();
    for name in list(disk, BLOCKS_DIR)? {
        let number = block::id_of(&name).map(|id| id.0);
        if !number.is_some_and(|number| live.contains(&number)) {
            let is_retired = number.is_some_and(|number| retired.contains(&number));
            discard(disk, &Path::new(BLOCKS_DIR).join(name), is_retired, report)?;
        }
    }
    let live = manifest.checkpoint.map(|checkpoint| checkpoint.number);
    for name in list(disk, CHECKPOINTS_DIR)? {
        let number = checkpoint::number_of(&name);
        if number.is_none() || number != live {
            let is_retired = number.is_some_and(|number| retired.contains(&number));
            discard(disk, &Path::new(CHECKPOINTS_DIR).join(name), is_retired, report)?;
        }
    }
    // The manifest forgets what it retired only once the files are gone for good.
    for dir in [BLOCKS_DIR, CHECKPOINTS_DIR] {
        let dir = Path::new(dir);
        disk.sync_dir(dir).map_err(|e| io_error("sync folder", dir, e))?;
    }
    // A number the disk has seen is never given out again.
    let highest = live.into_iter().chain(retired).max().unwrap_or(0);
    manifest.next_number = manifest.next_number.max(highest + 1);
    manifest.retired.clear();
    Ok(())
}

fn discard(
    disk: &dyn Disk,
    path: &Path,
    is_retired: bool,
    report: &mut RecoveryReport,
) -> Result<()> {
    if is_retired {
        return disk.remove(path).map_err(|e| io_error("remove", path, e));
    }
    tracing::warn!(path = %path.display(), "a file that no manifest names goes to the trash");
    let name = move_to(disk, path, TRASH_DIR)?;
    report.trashed.extend(name);
    Ok(())
}

pub(crate) fn quarantine(disk: &dyn Disk, path: &Path, report: &mut RecoveryReport) -> Result<()> {
    let name = move_to(disk, path, QUARANTINE_DIR)?;
    report.quarantined.extend(name);
    Ok(())
}

/// Moves a file, if it is there, under a name that is free; returns the new path.
fn move_to(disk: &dyn Disk, path: &Path, dir: &str) -> Result<Option<String>> {
    let target_dir = Path::new(dir);
    disk.create_dir_all(target_dir).map_err(|e| io_error("create folder", target_dir, e))?;
    let taken: HashSet<String> = list(disk, dir)?.into_iter().collect();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let mut target = name.clone();
    let mut copy = 1;
    while taken.contains(&target) {
        copy += 1;
        target = format!("{name}.{copy}");
    }
    let target = target_dir.join(target);
    match disk.rename(path, &target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| io_error("rename", path, e))?,
    }
    let root = Path::new("");
    for dir in [target_dir, path.parent().unwrap_or(root), root] {
        disk.sync_dir(dir).map_err(|e| io_error("sync folder", dir, e))?;
    }
    Ok(Some(target.display().to_string()))
}

fn list(disk: &dyn Disk, dir: &str) -> Result<Vec<String>> {
    let dir = Path::new(dir);
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| io_error("list", dir, e)),
    }
}
