//! Import: samples that another database has kept enter as sealed blocks, a window at a time.
//!
//! No log is needed: a window's block is written, read back and synced before one manifest names
//! it, and the same manifest notes in its **journal** that this window of this **source** is done.
//! So an import that was cut off anywhere is repeated from its start, and what the journal has is
//! skipped: nothing comes twice and nothing is lost. Two imports of one window, or an import and
//! live writes, make blocks that overlap; reading and merging resolve them by the order of values.

use std::sync::atomic::Ordering;

use crate::compaction::run::mark_dirty;
use crate::compaction::seal::families;
use crate::db::{Db, Inner};
use crate::deletes::live::LiveBlock;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::writer::{BlockWriter, Pages, data_order, sort_series};
use crate::metrics::block::{self, Block};
use crate::metrics::chunk;
use crate::metrics::head::age::AcceptedAge;
use crate::metrics::sample::Samples;
use crate::time::TimeRange;
use crate::upkeep::Upkeep;

/// A window to be imported.
#[derive(Clone, Debug)]
pub struct Import<'a> {
    /// Names where the samples come from, and in which state it is: for the journal.
    pub source: &'a str,
    /// Whole windows of the two-hour grid, a day at best. All samples and exemplars lie in it.
    pub window: TimeRange,
    /// In any order, each once.
    pub series: Vec<Labels>,
    /// Each with the place of its series in `series`.
    pub exemplars: Vec<(u32, Exemplar)>,
    /// Of any families; those of the series are kept.
    pub metadata: Vec<Metadata>,
    /// Reads the block back and compares it before it is published.
    pub verify: bool,
}

/// What became of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Series that had samples.
    pub series: u64,
    /// Floats.
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
    /// Samples and histograms before the retention and after the clock.
    pub too_old: u64,
    pub too_new: u64,
    /// Exemplars of which no sample of their series is in the window, or which are too old or new.
    pub exemplars_refused: u64,
    /// Length of the block; 0 if nothing was left to write.
    pub bytes: u64,
}

/// A window of a source that is in the database, noted in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) source: String,
    /// What of it need not be imported again: all of it, or the part in which nothing was refused
    /// for its time.
    pub(crate) window: TimeRange,
}

impl Db {
    /// The times of which samples are taken at present: from the retention to a little after the
    /// clock.
    pub fn accepted_times(&self, now_ms: i64) -> TimeRange {
        self.inner.accepted_times(now_ms)
    }

    /// Whether [`Db::import`] has nothing to do for this window of this source.
    pub fn has_imported(&self, source: &str, window: TimeRange, now_ms: i64) -> bool {
        let wanted = window.intersection(self.inner.accepted_times(now_ms));
        let covers = |done: &Done| {
            done.source == source
                && done.window.start_ms <= wanted.start_ms
                && wanted.end_ms <= done.window.end_ms
        };
        !wanted.is_empty() && self.inner.upkeep.lock().manifest.imports.iter().any(covers)
    }

    /// Stores a window as one block. `read` fills the cleared samples of a series, by its place in
    /// [`Import::series`]; it is called once for each, in an order of its own. On failure nothing
    /// of the window is stored.
    ///
    /// # Panics
    ///
    /// If a series comes twice, or a sample lies outside of the window or not after the one before.
    pub fn import(
        &self,
        import: Import<'_>,
        now_ms: i64,
        read: &mut dyn FnMut(usize, &mut Samples) -> Result<()>,
    ) -> Result<Imported> {
        self.inner.import(import, now_ms, read)
    }
}

impl Inner {
    /// Of the class that keeps raw samples longest: retention sees to the others.
    fn accepted_times(&self, now_ms: i64) -> TimeRange {
        AcceptedAge { now_ms }.range(self.head.read().classifier().longest_raw_ms())
    }

    fn import(
        &self,
        import: Import<'_>,
        now_ms: i64,
        read: &mut dyn FnMut(usize, &mut Samples) -> Result<()>,
    ) -> Result<Imported> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let mut upkeep = self.upkeep.lock();
        let meta = self.new_meta(&mut upkeep, import.window, 0);
        let accepted = self.accepted_times(now_ms);
        let mut window = Window {
            range: import.window,
            accepted,
            imported: Imported::default(),
            digest: Digest::default(),
        };
        let mut writer = BlockWriter::create(self.disk.clone(), meta, Pages::Compressed)?;
        let series = sorted(import.series);
        let is_stored = window.append_all(&series, read, &mut writer)?;
        let (labels, places) = stored(series, &is_stored);
        let exemplars = window.place_exemplars(import.exemplars, &places);
        let block = match labels.is_empty() {
            true => None,
            false => {
                let metadata = families(import.metadata.iter(), &labels);
                let meta = writer.finish(&labels, &exemplars, &metadata)?;
                window.imported.bytes = meta.bytes;
                // The lock is held since it was begun: no delete came.
                self.open_all(&[meta], &mut [])?.pop()
            }
        };
        if let Some(block) = block.as_ref().filter(|_| import.verify)
            && let Err(e) = window.digest.compare(block, &labels)
        {
            let _ = self.disk.remove(&block::path(block.meta().id));
            return Err(e);
        }
        let done = Done { source: import.source.to_owned(), window: window.done() };
        self.publish_import(&mut upkeep, block, done, accepted.start_ms)?;
        Ok(window.imported)
    }

    fn publish_import(
        &self,
        upkeep: &mut Upkeep,
        block: Option<LiveBlock>,
        done: Done,
        oldest_ms: i64,
    ) -> Result<()> {
        if done.window.is_empty() {
            // A longer retention would make something of it, so it is not done.
            return Ok(());
        }
        let mut manifest = upkeep.manifest.clone();
        manifest.imports.retain(|done| done.window.end_ms >= oldest_ms);
        manifest.imports.push(done);
        let Some(block) = block else { return Ok(self.store(upkeep, manifest)?) };
        let meta = block.meta().clone();
        manifest.blocks.push(meta.clone());
        mark_dirty(upkeep.rewrite.as_mut(), &mut manifest, meta.class, meta.range);
        self.store_with_files(upkeep, manifest, &[block::path(meta.id)])?;
        tracing::debug!(block = %meta.id, series = meta.series, samples = meta.samples,
            bytes = meta.bytes, "imported");
        // As a write: no reader has the samples and misses the generation.
        let mut head = self.head.write();
        head.generations.advance();
        head.generations.note_range(meta.range);
        self.publish(upkeep, vec![block], &[]);
        self.newest_ms.fetch_max(meta.range.end_ms, Ordering::Relaxed);
        Ok(())
    }
}

/// The series in the order of ids, each with its place in the import.
fn sorted(series: Vec<Labels>) -> Vec<(Labels, u32)> {
    let mut series: Vec<(Labels, u32)> = series.into_iter().zip(0..).collect();
    sort_series(&mut series);
    let is_twice = series.windows(2).any(|pair| pair[0].0 == pair[1].0);
    assert!(!is_twice, "a series is imported once in a window");
    series
}

/// Labels of the stored series in the order of ids, and (place in the import, id), ascending.
fn stored(series: Vec<(Labels, u32)>, is_stored: &[bool]) -> (Vec<Labels>, Vec<(u32, u32)>) {
    let stored = series.into_iter().zip(is_stored).filter(|(_, is_stored)| **is_stored);
    let (labels, places): (Vec<Labels>, Vec<u32>) = stored.map(|(series, _)| series).unzip();
    let mut places: Vec<(u32, u32)> = places.into_iter().zip(0..).collect();
    places.sort_unstable();
    (labels, places)
}

/// A window on its way into a block.
struct Window {
    range: TimeRange,
    accepted: TimeRange,
    imported: Imported,
    digest: Digest,
}

impl Window {
    /// Writes all series; which of them had samples, in the order of ids.
    fn append_all(
        &mut self,
        series: &[(Labels, u32)],
        read: &mut dyn FnMut(usize, &mut Samples) -> Result<()>,
        writer: &mut BlockWriter,
    ) -> Result<Vec<bool>> {
        let mut is_stored = vec![false; series.len()];
        let mut samples = Samples::default();
        for id in data_order(series.iter().map(|(labels, _)| labels)) {
            let (labels, place) = &series[id as usize];
            samples.clear();
            read(*place as usize, &mut samples)?;
            self.check(&samples);
            self.refuse(&mut samples);
            if samples.is_empty() {
                continue;
            }
            let histograms = samples.histograms.len() as u64;
            self.imported.series += 1;
            self.imported.histograms += histograms;
            self.imported.samples += samples.len() as u64 - histograms;
            self.digest.add(labels, &samples);
            writer.append(&samples)?;
            is_stored[id as usize] = true;
        }
        Ok(is_stored)
    }

    fn check(&self, samples: &Samples) {
        let ascend = samples.timestamps.is_sorted_by(|a, b| a < b);
        assert!(ascend, "imported samples ascend");
        let ends = [samples.timestamps.first(), samples.timestamps.last()];
        let inside = ends.into_iter().flatten().all(|timestamp| self.range.contains(*timestamp));
        assert!(inside, "imported samples lie in their window");
    }

    /// Leaves out what no write could have brought.
    fn refuse(&mut self, samples: &mut Samples) {
        let start = samples.timestamps.partition_point(|t| *t < self.accepted.start_ms);
        let end = samples.timestamps.partition_point(|t| *t <= self.accepted.end_ms);
        if (start, end) == (0, samples.len()) {
            return;
        }
        self.imported.too_old += start as u64;
        self.imported.too_new += (samples.len() - end) as u64;
        let mut kept = Samples::default();
        chunk::append(&mut kept, samples, start..end);
        *samples = kept;
    }

    fn done(&self) -> TimeRange {
        let part = self.range.intersection(self.accepted);
        let start_ms = if self.imported.too_old > 0 { part.start_ms } else { self.range.start_ms };
        let end_ms = if self.imported.too_new > 0 { part.end_ms } else { self.range.end_ms };
        TimeRange::new(start_ms, end_ms)
    }

    /// The exemplars by the ids of their series, in order.
    fn place_exemplars(
        &mut self,
        exemplars: Vec<(u32, Exemplar)>,
        places: &[(u32, u32)],
    ) -> Vec<(u32, Exemplar)> {
        let (range, accepted) = (self.range, self.accepted);
        let total = exemplars.len() as u64;
        let place = |(place, exemplar): (u32, Exemplar)| {
            assert!(range.contains(exemplar.timestamp), "exemplars lie in their window");
            let at = places.binary_search_by_key(&place, |(place, _)| *place).ok()?;
            accepted.contains(exemplar.timestamp).then_some((places[at].1, exemplar))
        };
        let mut placed: Vec<(u32, Exemplar)> = exemplars.into_iter().filter_map(place).collect();
        self.imported.exemplars_refused = total - placed.len() as u64;
        placed.sort_by(|(a_id, a), (b_id, b)| {
            let by_place = (a_id, a.timestamp, &a.labels).cmp(&(b_id, b.timestamp, &b.labels));
            by_place.then(a.value.total_cmp(&b.value))
        });
        placed.dedup_by(|(a_id, a), (b_id, b)| {
            let of = |one: &Exemplar| (one.timestamp, one.value.to_bits());
            a_id == b_id && of(a) == of(b) && a.labels == b.labels
        });
        self.imported.exemplars = placed.len() as u64;
        placed
    }
}

/// What a set of series holds, bit for bit, whatever the order in which they are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Digest {
    series: u64,
    samples: u64,
    hash: u128,
}

impl Digest {
    fn add(&mut self, labels: &Labels, samples: &Samples) {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(labels.as_bytes());
        for (row, timestamp) in samples.timestamps.iter().enumerate() {
            hasher.update(&timestamp.to_le_bytes());
            hasher.update(&samples.values[row].to_bits().to_le_bytes());
        }
        for (row, histogram) in &samples.histograms {
            hasher.update(&row.to_le_bytes());
            hasher.update(&histogram.canonical_bytes());
        }
        self.series += 1;
        self.samples += samples.len() as u64;
        self.hash = self.hash.wrapping_add(hasher.digest128());
    }

    /// Reads all of a block and compares.
    fn compare(&self, block: &Block, labels: &[Labels]) -> Result<()> {
        let mut found = Digest::default();
        let mut of_block: Vec<Labels> = Vec::with_capacity(labels.len());
        block.visit_labels(&block.index.all(), |_, labels| of_block.push(labels))?;
        let mut samples = Samples::default();
        for (labels, id) in of_block.iter().zip(0..) {
            samples.clear();
            block.read(id, TimeRange::ALL, None, &mut samples)?;
            found.add(labels, &samples);
        }
        if found == *self {
            return Ok(());
        }
        Err(Error::Corrupt {
            path: block::path(block.meta().id),
            offset: 0,
            what: format!("the imported block reads as {found:?} and not as {self:?}"),
        })
    }
}
