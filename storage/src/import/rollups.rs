//! Older history: what no raw sample may be any more is rolled up on its way in.
//!
//! A **day** is imported at a time, `(start, start + 1 day]`, into a block for each tier, as upkeep
//! makes them of raw samples. What blocks of the tier have of that day already is taken over; a bucket
//! that comes again is the one that came last.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use crate::compaction::rollup;
use crate::compaction::union::Union;
use crate::db::{Db, Inner};
use crate::deletes::live::LiveBlock;
use crate::error::{Error, Result};
use crate::import::{Done, Import, Imported};
use crate::labels::Labels;
use crate::metrics::block;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::writer::{BlockWriter, Pages, data_order, sort_series};
use crate::metrics::rollup::{Kind, Rollup};
use crate::metrics::sample::Samples;
use crate::time::TimeRange;
use crate::upkeep::Upkeep;

/// The days whose buckets samples of a range are in, each as the times of its samples.
pub fn days_of(range: TimeRange) -> impl Iterator<Item = TimeRange> {
    rollup::days_of(range).map(rollup::window_of)
}

impl Db {
    /// The times of which rollups are kept that are of `resolution_ms` or coarser; `None` if no policy
    /// has a tier of that resolution.
    pub fn kept_rollups(&self, resolution_ms: i64, now_ms: i64) -> Option<TimeRange> {
        let tiers = self.inner.rollup_lifetimes(resolution_ms);
        let longest_ms = tiers.values().copied().max()?;
        let oldest_ms = now_ms.saturating_sub(longest_ms);
        tiers.contains_key(&resolution_ms).then(|| TimeRange::new(oldest_ms, now_ms))
    }

    /// Whether [`Db::import_rollups`] has nothing to do for this day of this source.
    pub fn has_imported_rollups(&self, source: &str, day: TimeRange) -> bool {
        let is_done = |done: &Done| done.source == source && done.window == day;
        self.inner.upkeep.lock().manifest.imports.iter().any(is_done)
    }

    /// Rolls up a day, whose times are [`Import::window`], to every tier of the policies that is of
    /// `resolution_ms` or coarser and lives so long. `read` is as of [`Db::import`]. Exemplars are
    /// not kept. On failure nothing of the day is stored.
    pub fn import_rollups(
        &self,
        import: Import<'_>,
        resolution_ms: i64,
        now_ms: i64,
        read: &mut dyn FnMut(usize, &mut Samples) -> Result<()>,
    ) -> Result<Imported> {
        self.inner.import_rollups(import, resolution_ms, now_ms, read)
    }
}

/// A block of a tier in the making.
struct Output {
    resolution_ms: i64,
    writer: BlockWriter,
    /// What there is already, and the ids of its series there.
    known: Union,
    known_ids: BTreeMap<Labels, u32>,
    kept: Vec<Labels>,
}

impl Inner {
    /// Of each resolution how long its rollups live at most.
    fn rollup_lifetimes(&self, resolution_ms: i64) -> BTreeMap<i64, i64> {
        let classifier = self.head.read().classifier().clone();
        let mut lifetimes = BTreeMap::new();
        for tier in classifier.policies().metrics().iter().flat_map(|policy| &policy.tiers) {
            let of_tier = i64::try_from(tier.resolution_ms).unwrap_or(i64::MAX);
            if of_tier > 0 && of_tier >= resolution_ms {
                let longest = lifetimes.entry(of_tier).or_insert(tier.lifetime_ms);
                *longest = tier.lifetime_ms.max(*longest);
            }
        }
        lifetimes
    }

    /// Before this nothing is kept.
    pub(super) fn oldest_kept(&self, now_ms: i64) -> i64 {
        let raw_ms = self.accepted_times(now_ms).start_ms;
        let rollups = self.rollup_lifetimes(0).into_values();
        rollups.map(|lifetime_ms| now_ms.saturating_sub(lifetime_ms)).fold(raw_ms, i64::min)
    }

    fn import_rollups(
        &self,
        import: Import<'_>,
        resolution_ms: i64,
        now_ms: i64,
        read: &mut dyn FnMut(usize, &mut Samples) -> Result<()>,
    ) -> Result<Imported> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let day = import.window;
        assert!(days_of(day).eq([day]), "rollups are imported by days");
        let mut upkeep = self.upkeep.lock();
        let mut outputs = Vec::new();
        for (tier_ms, lifetime_ms) in self.rollup_lifetimes(resolution_ms) {
            if day.end_ms >= now_ms.saturating_sub(lifetime_ms) {
                outputs.push(self.output(&mut upkeep, day, tier_ms)?);
            }
        }
        let exemplars_refused = import.exemplars.len() as u64;
        let mut imported = Imported { exemplars_refused, ..Imported::default() };
        let mut series: Vec<(Labels, Option<usize>)> =
            import.series.into_iter().zip((0..).map(Some)).collect();
        let of_import: HashSet<Labels> = series.iter().map(|(labels, _)| labels.clone()).collect();
        assert_eq!(of_import.len(), series.len(), "a series is imported once in a day");
        let known = outputs.iter().flat_map(|output| output.known_ids.keys());
        let known: HashSet<&Labels> = known.filter(|labels| !of_import.contains(labels)).collect();
        series.extend(known.into_iter().map(|labels| (labels.clone(), None)));
        sort_series(&mut series);
        let mut samples = Samples::default();
        for id in data_order(series.iter().map(|(labels, _)| labels)) {
            let (labels, place) = &series[id as usize];
            samples.clear();
            if let Some(place) = place {
                read(*place, &mut samples)?;
                count(&samples, day, outputs.is_empty(), &mut imported);
            }
            for output in &mut outputs {
                output.append(labels, &samples, day)?;
            }
        }
        let written = outputs.into_iter().map(Output::finish).collect::<Result<Vec<_>>>()?;
        let metas: Vec<BlockMeta> = written.into_iter().flatten().collect();
        imported.bytes = metas.iter().map(|meta| meta.bytes).sum();
        let done = Done { source: import.source.to_owned(), window: day };
        self.publish_rollups(&mut upkeep, &metas, done, import.verify, self.oldest_kept(now_ms))?;
        Ok(imported)
    }

    fn output(&self, upkeep: &mut Upkeep, day: TimeRange, resolution_ms: i64) -> Result<Output> {
        let version = self.version();
        let of_day = |block: &&LiveBlock| {
            let meta = block.meta();
            meta.tier_ms == resolution_ms.unsigned_abs() && meta.window.overlaps(day)
        };
        let blocks: Vec<LiveBlock> = version.blocks.iter().filter(of_day).cloned().collect();
        let known = Union::of(blocks, |_| true)?;
        let known_ids = known.ids().collect();
        let tier_ms = resolution_ms.unsigned_abs();
        let meta = BlockMeta { tier_ms, ..self.new_meta(upkeep, day, 0) };
        let writer = BlockWriter::create(self.disk.clone(), meta, Pages::Compressed)?;
        Ok(Output { resolution_ms, writer, known, known_ids, kept: Vec::new() })
    }

    fn publish_rollups(
        &self,
        upkeep: &mut Upkeep,
        metas: &[BlockMeta],
        done: Done,
        verify: bool,
        oldest_ms: i64,
    ) -> Result<()> {
        let day = done.window;
        let mut manifest = upkeep.manifest.clone();
        manifest.imports.retain(|done| done.window.end_ms >= oldest_ms);
        manifest.imports.push(done);
        let blocks = self.open_all(metas, &mut [])?;
        if verify && let Some(error) = blocks.iter().find_map(|block| block.verify().err()) {
            crate::compaction::seal::discard(&self.disk, metas);
            return Err(error);
        }
        // Blocks of more days than this one stay, and the newer one answers for it.
        let is_replaced = |old: &&BlockMeta| {
            old.window == day && metas.iter().any(|new| new.tier_ms == old.tier_ms)
        };
        let replaced: Vec<BlockId> =
            manifest.blocks.iter().filter(is_replaced).map(|old| old.id).collect();
        replaced.iter().for_each(|id| manifest.retire(*id));
        manifest.blocks.extend_from_slice(metas);
        let paths: Vec<_> = metas.iter().map(|meta| block::path(meta.id)).collect();
        self.store_with_files(upkeep, manifest, &paths)?;
        // As a write: no reader has the buckets and misses the generation.
        let mut head = self.head.write();
        head.generations.advance();
        head.generations.note_range(day);
        self.publish(upkeep, blocks, &replaced);
        Ok(())
    }
}

/// Counts what was read of a series.
fn count(samples: &Samples, day: TimeRange, is_too_old: bool, imported: &mut Imported) {
    let inside = samples.timestamps.iter().all(|timestamp| day.contains(*timestamp));
    assert!(inside, "imported samples lie in their day");
    if is_too_old {
        imported.too_old += samples.len() as u64;
        return;
    }
    let histograms = samples.histograms.len() as u64;
    imported.series += u64::from(!samples.is_empty());
    imported.histograms += histograms;
    imported.samples += samples.len() as u64 - histograms;
}

impl Output {
    fn append(&mut self, labels: &Labels, samples: &Samples, day: TimeRange) -> Result<()> {
        let mut rollup = Rollup::of(samples, self.resolution_ms);
        if let Some(id) = self.known_ids.get(labels) {
            let mut known = self.known.read_rollup(*id, self.resolution_ms.unsigned_abs())?;
            known.keep(day);
            let ends = [Kind::Floats, Kind::Histograms].map(|kind| rollup.ends(kind).to_vec());
            for end_ms in ends.into_iter().flatten() {
                known.remove(TimeRange::new(end_ms, end_ms));
            }
            rollup.merge(known);
        }
        if !rollup.is_empty() {
            self.writer.append_rollup(&rollup)?;
            self.kept.push(labels.clone());
        }
        Ok(())
    }

    /// `None` if there is no bucket.
    fn finish(self) -> Result<Option<BlockMeta>> {
        if self.kept.is_empty() {
            return Ok(None);
        }
        let mut labels: Vec<(Labels, ())> = self.kept.into_iter().map(|one| (one, ())).collect();
        sort_series(&mut labels);
        let labels: Vec<Labels> = labels.into_iter().map(|(labels, ())| labels).collect();
        self.writer.finish(&labels, &[], &[]).map(Some)
    }
}
