//! Carrying a delete out, and finding out what it would do.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::compaction::rollup::Day;
use crate::compaction::run::mark_dirty;
use crate::db::Inner;
use crate::deletes::live::{LiveBlock, select_any};
use crate::deletes::settle::Touched;
use crate::deletes::{
    Delete, Hides, Numbers, Receipt, SELECTORS_BYTES_MAX, Selectors, for_companions_too,
    selectors_bytes,
};
use crate::error::{Error, Result};
use crate::labels::{self, SeriesIdentity};
use crate::matcher::Matcher;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::companion;
use crate::metrics::head::Head;
use crate::snapshot::Version;
use crate::time::TimeRange;
use crate::upkeep::Upkeep;
use crate::wal::{Durability, record};

/// Series of blocks whose samples are counted one by one, over all blocks; of more, how many
/// samples there are is worked out from what the blocks say of themselves.
const COUNTED_MAX: u64 = 100_000;

/// What a delete would do, and nothing of it done.
pub type Preview = Hides;

/// What a delete finds in blocks.
#[derive(Debug, Default)]
struct Found {
    hides: Hides,
    /// Series that are not companions.
    identities: HashSet<SeriesIdentity>,
    counted: u64,
    /// By the place in the version; never empty sets.
    ids: Vec<(usize, RoaringBitmap)>,
}

impl Found {
    fn in_blocks(version: &Version, selectors: &Selectors, range: TimeRange) -> Result<Found> {
        let mut found =
            Found { hides: Hides { is_exact: true, ..Hides::default() }, ..Found::default() };
        for (place, live) in version.blocks.iter().enumerate() {
            if live.meta().window.union(live.meta().range).overlaps(range) {
                found.add(place, live, selectors, range)?;
            }
        }
        Ok(found)
    }

    fn add(
        &mut self,
        place: usize,
        live: &LiveBlock,
        selectors: &Selectors,
        range: TimeRange,
    ) -> Result<()> {
        let mut ids = live.visible(select_any(live, selectors)?, range)?;
        if ids.is_empty() {
            return Ok(());
        }
        let companions = live.with_label(companion::LABEL)?.unwrap_or_default();
        self.counted += ids.len();
        if self.counted <= COUNTED_MAX {
            let mut with_exemplar = RoaringBitmap::new();
            for (id, exemplar) in live.exemplars()? {
                if range.contains(exemplar.timestamp) {
                    with_exemplar.insert(id);
                }
            }
            for id in ids.clone() {
                let samples = live.count(id, range)?;
                if samples == 0 && !with_exemplar.contains(id) {
                    ids.remove(id);
                } else if live.meta().tier_ms == 0 && !companions.contains(id) {
                    self.hides.samples += samples;
                }
            }
        } else {
            self.hides.is_exact = false;
            self.hides.samples += estimated(live.meta(), ids.len(), range);
        }
        if ids.is_empty() {
            return Ok(());
        }
        let identities = &mut self.identities;
        live.visit_label_bytes(&(&ids - companions), |_, bytes| {
            identities.insert(labels::identity(bytes));
        })?;
        self.hides.blocks += 1;
        self.hides.bytes += live.meta().bytes;
        self.ids.push((place, ids));
        Ok(())
    }

    fn add_head(&mut self, head: &Head, selectors: &Selectors, range: TimeRange) {
        let companions = head.index.with_label(companion::LABEL);
        for (id, samples) in head.count_selected(selectors, range) {
            if !companions.is_some_and(|companions| companions.contains(id)) {
                self.hides.samples += samples;
                self.identities.insert(head.identity(id));
            }
        }
        self.hides.series = self.identities.len() as u64;
    }
}

/// About how many raw samples of so many of a block's series are in the range.
fn estimated(meta: &BlockMeta, series: u64, range: TimeRange) -> u64 {
    if meta.tier_ms > 0 {
        return 0;
    }
    let length = |range: TimeRange| range.end_ms.saturating_sub(range.start_ms).saturating_add(1);
    let part =
        length(range.intersection(meta.range)).max(0) as f64 / length(meta.range).max(1) as f64;
    (meta.samples as f64 * (series as f64 / meta.series.max(1) as f64) * part) as u64
}

impl Inner {
    pub(crate) fn preview_delete(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Preview> {
        let selectors = checked(selectors)?;
        let (version, mut of_head) = {
            let head = self.head.read();
            let mut of_head = Found::default();
            of_head.add_head(&head, &selectors, range);
            (self.version(), of_head)
        };
        let mut found = Found::in_blocks(&version, &selectors, range)?;
        found.identities.extend(of_head.identities.drain());
        found.hides.series = found.identities.len() as u64;
        found.hides.samples += of_head.hides.samples;
        Ok(found.hides)
    }

    /// Writes with a lower sequence are hidden, all others are not: none is in flight meanwhile.
    pub(crate) fn delete(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
        now_ms: i64,
    ) -> Result<Receipt> {
        let selectors = checked(selectors)?;
        let mut upkeep = self.upkeep.lock();
        self.check_open()?;
        if upkeep.manifest.deletes.is_full() {
            return Err(Error::Unavailable {
                reason: "too many deletes wait for compaction".into(),
                retry_after_seconds: 60,
            });
        }
        let version = self.version();
        let mut found = Found::in_blocks(&version, &selectors, range)?;
        let writes = self.writes.write();
        found.add_head(&self.head.read(), &selectors, range);
        let hidden = found.hides;
        let delete = Delete { at_ms: now_ms, range, selectors, hidden };
        if found.ids.is_empty() && !self.head.read().has_selected(&delete.selectors, range) {
            return Ok(Receipt::of(&delete, 0));
        }
        let ticket = self.wal.reserve()?;
        let payload = delete.encode();
        let logged = self.wal.commit(ticket, record::DELETE, payload, 0, Durability::Synced);
        if let Err(e) = logged {
            self.sequences.lock().settle(ticket.sequence);
            return Err(e);
        }
        for (place, _) in &found.ids {
            let id = version.blocks[*place].meta().id;
            let Upkeep { rewrite, manifest, .. } = &mut *upkeep;
            // The manifest knows classes that were decided after the block was written.
            let meta = manifest.blocks.iter().find(|meta| meta.id == id && meta.tier_ms == 0);
            if let Some((class, of_block)) = meta.map(|meta| (meta.class, meta.range)) {
                mark_dirty(rewrite.as_mut(), manifest, class, of_block.intersection(range));
            }
        }
        // It has happened, and stays so if the manifest cannot be stored: the next one says it.
        let dirty = upkeep.manifest.dirty.clone();
        self.hide(&delete, &version, &found, dirty, ticket.sequence);
        drop(writes);
        let touched = found.ids.iter().map(|(place, _)| version.blocks[*place].meta().id);
        let numbers = Numbers {
            greatest: BlockId(upkeep.manifest.next_number.saturating_sub(1)),
            touched: touched.collect(),
            in_the_making: upkeep.in_the_making().is_some(),
        };
        let receipt = upkeep.manifest.deletes.push(ticket.sequence, &delete, numbers);
        tracing::info!(
            id = receipt.id,
            series = hidden.series,
            samples = hidden.samples,
            blocks = hidden.blocks,
            "deleted"
        );
        let manifest = upkeep.manifest.clone();
        if let Err(e) = self.store(&mut upkeep, manifest) {
            tracing::error!(error = %e.error, "a delete is in the log and not in the manifest yet");
        }
        Ok(receipt)
    }

    /// Takes the samples from readers, all in one moment.
    fn hide(
        &self,
        delete: &Delete,
        version: &Version,
        found: &Found,
        dirty: BTreeSet<Day>,
        sequence: u64,
    ) {
        let mut blocks = version.blocks.clone();
        for (place, ids) in &found.ids {
            blocks[*place].hide(ids.clone(), delete.range);
        }
        let mut head = self.head.write();
        head.remove_selected(&delete.selectors, delete.range);
        for (place, _) in &found.ids {
            let meta = blocks[*place].meta();
            head.generations.note_range(meta.range.intersection(delete.range));
        }
        *self.version.write() =
            Arc::new(Version { blocks, dirty, classes: version.classes.clone() });
        let contiguous = {
            let mut sequences = self.sequences.lock();
            sequences.settle(sequence);
            sequences.contiguous
        };
        if head.drop_idle(contiguous) > 0 {
            // As after a seal: within a segment a number means one series.
            self.wal.rotate();
        }
    }

    /// The live blocks that hold deleted samples.
    pub(crate) fn touched(&self, upkeep: &Upkeep) -> Vec<Touched> {
        let tombstones = &upkeep.manifest.deletes.tombstones;
        if tombstones.is_empty() {
            return Vec::new();
        }
        let version = self.version();
        let touched = version.blocks.iter().filter(|live| live.has_deletes()).map(|live| {
            let meta = live.meta();
            let own = || tombstones.iter().filter(|one| one.blocks.contains(&meta.id));
            Touched {
                block: meta.id,
                window: meta.window,
                since_ms: own().map(|one| one.at_ms).min().unwrap_or(i64::MAX),
                is_asked_for: own().any(|one| one.sequence <= upkeep.free_up_to),
                is_all_deleted: live.is_all_deleted(),
            }
        });
        touched.collect()
    }

    /// Has the room of everything deleted so far freed before it would be by itself.
    pub(crate) fn free_deleted(&self) {
        let mut upkeep = self.upkeep.lock();
        upkeep.free_up_to = upkeep.manifest.deletes.last;
    }
}

fn checked(selectors: &[Vec<Matcher>]) -> Result<Selectors> {
    let bytes = selectors_bytes(selectors);
    if bytes > SELECTORS_BYTES_MAX {
        let what = format!("selectors of {bytes} bytes are more than {SELECTORS_BYTES_MAX}");
        return Err(Error::Invalid { what });
    }
    Ok(for_companions_too(selectors))
}
