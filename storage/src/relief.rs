//! Relief: what upkeep does when the head's share of memory fills.
//!
//! Windows that have ended are sealed at once (`compaction/plan.rs`). Of those that are still
//! written, series that are **idle** go into a block with all they have, and the head forgets them;
//! that is what a flood of series leaves behind that never come again. If nobody is idle, the
//! mini-chunks of all series go. Such a block has no sequence: it says nothing of the log, so a
//! replay may bring back what it holds. That harms nothing, and is bounded: only after a checkpoint,
//! which cuts the log, are series forgotten, and only then is there room for others.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;
use roaring::RoaringBitmap;

use crate::compaction::run::mark_dirty;
use crate::compaction::seal::{self, Part};
use crate::compaction::windows;
use crate::db::{Inner, Options};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::memory::Pressure;
use crate::metrics::block::Block;
use crate::metrics::block::meta::{BlockId, BlockMeta, DataType};
use crate::metrics::block::page_cache::PageCache;
use crate::metrics::head::Head;
use crate::time::{TimeRange, WINDOW_MS};
use crate::upkeep::Upkeep;

/// A series that nobody has written to for so long is idle: Prometheus's lookback, after which it is
/// not shown any more.
const IDLE_MS: i64 = 5 * 60 * 1000;

/// …and for so long, if there are new series that have to wait: twice the usual interval.
const IDLE_WHEN_REFUSING_MS: i64 = 2 * 60 * 1000;

/// Relief that frees less than this part of the share is not worth a block.
const WORTHWHILE_SHARE: u64 = 16;

/// Mini-chunks of series that are written go once they take this part of the share.
const CHUNKS_SHARE: u64 = 4;

/// What an idle series frees, and a late sample, about.
const IDLE_SERIES_BYTES: u64 = 768;
const LATE_SAMPLE_BYTES: u64 = 64;

/// After relief that has found nothing to be sealed.
const RETRY_MS: i64 = 60 * 1000;

/// Marks are kept this far apart.
const MARK_EVERY_MS: i64 = 10 * 1000;

/// Which write was the last at what time.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Ascending.
    marks: VecDeque<(i64, u64)>,
}

impl Activity {
    /// Of a database that was opened now: nothing is known to be idle.
    pub(crate) fn since(now_ms: i64, sequence: u64) -> Activity {
        Activity { marks: VecDeque::from([(now_ms, sequence)]) }
    }

    /// Every write up to `sequence` is applied.
    pub(crate) fn note(&mut self, now_ms: i64, sequence: u64) {
        let last_ms = self.marks.back().map_or(i64::MIN, |(time, _)| *time);
        if now_ms < last_ms {
            // The clock was set back.
            self.marks.clear();
        } else if now_ms.saturating_sub(last_ms) < MARK_EVERY_MS {
            return;
        }
        self.marks.push_back((now_ms, sequence));
        let is_needed = |(time, _): &(i64, u64)| now_ms.saturating_sub(*time) < IDLE_MS;
        while self.marks.get(1).is_some_and(|second| !is_needed(second)) {
            self.marks.pop_front();
        }
    }

    /// A series whose last write is this one or an earlier one was not written to for `idle_ms`.
    fn idle_up_to(&self, now_ms: i64, idle_ms: i64) -> Option<u64> {
        let mut marks = self.marks.iter().rev();
        let mark = marks.find(|(time, _)| now_ms.saturating_sub(*time) >= idle_ms);
        mark.map(|(_, sequence)| *sequence)
    }
}

/// What is known of the head's memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadMemory {
    pub(crate) pressure: Pressure,
    pub(crate) share_bytes: u64,
    /// Of mini-chunks and late samples.
    pub(crate) sealable_bytes: u64,
    /// Series that are idle, and the write by which that is known; not looked for in vain.
    pub(crate) idle_series: u64,
    pub(crate) idle_up_to: u64,
    /// Series were put into blocks, and no checkpoint was made since.
    pub(crate) is_relieved: bool,
}

/// What goes into blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relief {
    /// Series that nobody has written to since this write.
    Idle { up_to: u64 },
    /// Mini-chunks and late samples of those that have most.
    Chunks,
}

impl HeadMemory {
    pub(crate) fn relief(&self) -> Option<Relief> {
        if self.pressure < Pressure::High {
            return None;
        }
        let worthwhile = self.share_bytes / WORTHWHILE_SHARE;
        if self.idle_series > 0 && self.idle_series * IDLE_SERIES_BYTES >= worthwhile {
            return Some(Relief::Idle { up_to: self.idle_up_to });
        }
        let has_chunks = self.sealable_bytes >= self.share_bytes / CHUNKS_SHARE;
        has_chunks.then_some(Relief::Chunks)
    }

    /// Whether so many late samples are worth being sealed.
    pub(crate) fn has_much_late(&self, samples: u64) -> bool {
        samples * LATE_SAMPLE_BYTES >= self.share_bytes / WORTHWHILE_SHARE
    }
}

/// Windows that were not sealed yet. Late samples of the others have their own rounds.
fn open_windows(head: &Head) -> impl Iterator<Item = TimeRange> + '_ {
    let windows = head
        .windows()
        .map(|(start_ms, _)| TimeRange::new(start_ms, start_ms.saturating_add(WINDOW_MS - 1)));
    windows.filter(|window| window.end_ms >= head.sealed_before())
}

impl Inner {
    pub(crate) fn head_memory(&self, head: &Head, upkeep: &Upkeep, now_ms: i64) -> HeadMemory {
        let limits = self.options.memory;
        let mut memory = HeadMemory {
            pressure: limits.pressure(head.bytes_held() as u64),
            share_bytes: limits.head_bytes,
            sealable_bytes: head.sealable_bytes() as u64,
            is_relieved: upkeep.is_relieved,
            ..HeadMemory::default()
        };
        if memory.pressure == Pressure::None || now_ms < upkeep.relief_not_before_ms {
            memory.sealable_bytes = 0;
            return memory;
        }
        let is_crowded = |window: TimeRange| {
            let raw = upkeep.manifest.blocks.iter().filter(|meta| meta.tier_ms == 0);
            raw.filter(|meta| meta.window.overlaps(window)).count() >= windows::OVERLAP_MAX
        };
        if open_windows(head).any(is_crowded) {
            // Enough is enough: the rest waits for the end of the window.
            memory.sealable_bytes = 0;
            return memory;
        }
        let is_refusing = memory.pressure >= Pressure::Refusing;
        let idle_ms = if is_refusing { IDLE_WHEN_REFUSING_MS } else { IDLE_MS };
        if let Some(up_to) = upkeep.activity.idle_up_to(now_ms, idle_ms) {
            memory.idle_up_to = up_to;
            memory.idle_series = head.idle_since(up_to).count() as u64;
        }
        memory
    }

    /// Puts samples of windows that are still written into blocks.
    pub(crate) fn relieve(&self, upkeep: &mut Upkeep, relief: Relief) -> Result<()> {
        let max = self.options.memory.sealed_series_max();
        let (series, idle_up_to, windows) = {
            let head = self.head.read();
            let windows: Vec<TimeRange> = open_windows(&head).collect();
            match relief {
                Relief::Idle { up_to } => {
                    (head.idle_since(up_to).take(max).collect(), up_to, windows)
                }
                Relief::Chunks => (head.largest(max), 0, windows),
            }
        };
        let before = self.head.read().bytes_held();
        let mut blocks = 0;
        for window in windows {
            let policy_generation = upkeep.manifest.classes.generation;
            let meta_of =
                |class| BlockMeta { class, policy_generation, ..self.new_meta(upkeep, window, 0) };
            let part = Part::Of { series: series.clone(), idle_up_to };
            let sealed = seal::seal(&self.disk, &self.head, window, part, meta_of)?;
            self.publish_and_forget(upkeep, window, &sealed)?;
            self.head.write().end_early_seal(sealed.late_samples, &sealed.exemplars);
            blocks += sealed.metas.len();
            upkeep.is_relieved |= blocks > 0;
        }
        if blocks == 0 {
            upkeep.relief_not_before_ms = upkeep.now_ms.saturating_add(RETRY_MS);
        }
        self.counters.relieved_series.fetch_add(series.len() as u64, Ordering::Relaxed);
        let after = self.head.read().bytes_held();
        tracing::warn!(
            series = series.len(),
            ?relief,
            before,
            after,
            "the head's share of memory fills: samples went into blocks before their time"
        );
        Ok(())
    }

    /// Forgets, after a checkpoint, series of which relief has left nothing.
    pub(crate) fn end_relief(&self, upkeep: &mut Upkeep) {
        if !std::mem::take(&mut upkeep.is_relieved) {
            return;
        }
        let mut head = self.head.write();
        let dropped = self.drop_idle(&mut head);
        tracing::info!(dropped, bytes = head.bytes_held(), "idle series left the head");
    }
}

/// Relief while a head is recovered, which has no bound: whatever was acknowledged comes back. All
/// series are idle then.
#[derive(Debug)]
pub(crate) struct Spill<'a> {
    disk: &'a Arc<dyn Disk>,
    cache: &'a Arc<PageCache>,
    options: &'a Options,
    can_store: bool,
    /// Bytes of the head below which there is nothing to be done: those that spilling has left, and
    /// enough for a block to be worth it.
    worthwhile_from: u64,
    /// What was made, in this order.
    pub(crate) metas: Vec<BlockMeta>,
    blocks: Vec<Arc<Block>>,
}

impl<'a> Spill<'a> {
    pub(crate) fn new(
        disk: &'a Arc<dyn Disk>,
        cache: &'a Arc<PageCache>,
        options: &'a Options,
        can_store: bool,
    ) -> Spill<'a> {
        Spill {
            disk,
            cache,
            options,
            can_store,
            worthwhile_from: 0,
            metas: Vec::new(),
            blocks: Vec::new(),
        }
    }

    pub(crate) fn is_over(&self, head: &Head) -> bool {
        let bytes = head.bytes_held() as u64;
        let is_over = self.options.memory.is_to_be_spilled(bytes);
        is_over && self.can_store && bytes >= self.worthwhile_from
    }

    /// Puts all samples of the head into blocks, and forgets all series but those that are needed.
    /// Until the whole log is read these blocks are retired in advance: a start that is cut off
    /// leaves everything as it was, and the next one reads the same log again.
    pub(crate) fn relieve(
        &mut self,
        manifest: &mut Manifest,
        head: &mut Head,
        needed: &RoaringBitmap,
    ) -> Result<()> {
        let before = head.bytes_held();
        let locked = RwLock::new(std::mem::take(head));
        let spilled = self.seal_all(manifest, &locked);
        *head = locked.into_inner();
        match spilled {
            Ok(()) => {}
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                tracing::error!("the disk is full: the head outgrows its share of memory");
                self.can_store = false;
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        head.drop_all_but(needed);
        let after = head.bytes_held();
        let share = self.options.memory.head_bytes;
        self.worthwhile_from = after as u64 + share / CHUNKS_SHARE;
        tracing::warn!(before, after, "the log is more than the head's share of memory: sealed");
        Ok(())
    }

    fn seal_all(&mut self, manifest: &mut Manifest, head: &RwLock<Head>) -> Result<()> {
        let (ids, windows) = {
            let head = head.read();
            let windows: Vec<i64> = head.windows().map(|(start, _)| start).collect();
            (head.ids().collect::<Vec<u32>>(), windows)
        };
        for start_ms in windows {
            let window = TimeRange::new(start_ms, start_ms.saturating_add(WINDOW_MS - 1));
            for series in ids.chunks(self.options.memory.sealed_series_max()) {
                let part = Part::Of { series: series.to_vec(), idle_up_to: u64::MAX };
                let mut numbers = self.retire_in_advance(manifest)?.into_iter();
                let meta_of = |class| BlockMeta {
                    id: numbers.next().expect("there is one for each class"),
                    data_type: DataType::Metrics,
                    class,
                    policy_generation: manifest.classes.generation,
                    window,
                    external_labels: self.options.external_labels.clone(),
                    ..BlockMeta::default()
                };
                let sealed = seal::seal(self.disk, head, window, part, meta_of)?;
                for meta in sealed.metas {
                    let block = Block::open(self.disk.clone(), meta.id, self.cache)?;
                    self.blocks.push(Arc::new(block));
                    self.metas.push(meta);
                }
                let mut head = head.write();
                for (id, taken) in &sealed.series {
                    head.change(*id, |one, columns| one.end_seal(window, *taken, columns));
                }
                head.end_early_seal(sealed.late_samples, &sealed.exemplars);
            }
        }
        Ok(())
    }

    /// Numbers for the blocks of a window, one for each class.
    fn retire_in_advance(&self, manifest: &mut Manifest) -> Result<Vec<BlockId>> {
        let classes = manifest.classes.of_policies().count();
        let numbers: Vec<u64> = (0..classes).map(|_| manifest.next_number()).collect();
        manifest.retired.extend(&numbers);
        manifest.store(self.disk.as_ref())?;
        Ok(numbers.into_iter().map(BlockId).collect())
    }

    /// Has the manifest name what was made, once the log is read.
    pub(crate) fn name_in(self, manifest: &mut Manifest) -> Vec<Arc<Block>> {
        let is_live = |number: &u64| self.metas.iter().any(|meta| meta.id.0 == *number);
        manifest.retired.retain(|number| !is_live(number));
        for meta in &self.metas {
            mark_dirty(None, manifest, meta.class, meta.range);
        }
        manifest.blocks.extend(self.metas);
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_what_was_not_written_to_for_long() {
        let mut activity = Activity::since(0, 7);
        assert_eq!(activity.idle_up_to(IDLE_MS - 1, IDLE_MS), None);
        for second in 0..1000 {
            activity.note(second * 1000, 10 * second as u64);
        }
        assert!(activity.marks.len() <= 32, "{}", activity.marks.len());
        let found = activity.idle_up_to(1_000_000, IDLE_MS).unwrap();
        assert!((6900..=7000).contains(&found), "{found}");
        activity.note(5, 10_001);
        assert_eq!(activity.idle_up_to(1000, IDLE_MS), None, "the clock was set back");
    }

    #[test]
    fn relief_is_due_where_memory_is_short_and_something_can_go() {
        let short = HeadMemory {
            pressure: Pressure::High,
            share_bytes: 1 << 20,
            idle_series: 1000,
            idle_up_to: 5,
            sealable_bytes: 1 << 19,
            is_relieved: false,
        };
        assert_eq!(short.relief(), Some(Relief::Idle { up_to: 5 }));
        let busy = HeadMemory { idle_series: 10, ..short.clone() };
        assert_eq!(busy.relief(), Some(Relief::Chunks));
        let empty = HeadMemory { sealable_bytes: 1 << 17, ..busy };
        assert_eq!(empty.relief(), None);
        assert_eq!(HeadMemory { pressure: Pressure::None, ..short }.relief(), None);
    }
}
