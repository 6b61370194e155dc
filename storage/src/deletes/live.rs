//! Blocks as readers see them: without what was deleted since they were written.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use roaring::RoaringBitmap;

use crate::deletes::Tombstone;
use crate::error::Result;
use crate::matcher::Matcher;
use crate::metrics::batch::Exemplar;
use crate::metrics::block::Block;
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::chunk;
use crate::metrics::rollup::{Component, Components, Rollup};
use crate::metrics::sample::Samples;
use crate::outline::Outliner;
use crate::time::TimeRange;

/// Series of which it is found out, for one block and one delete, whether it has left them samples;
/// more stay listed until the block is rewritten, unless a delete covers all of the block's time.
const EXAMINED_MAX: u64 = 20_000;

/// A block in a version. What reads samples or exemplars is here and leaves out the deleted ones;
/// the rest is the block's.
#[derive(Clone, Debug)]
pub(crate) struct LiveBlock {
    block: Arc<Block>,
    /// `None` if nothing is deleted, as of most.
    hidden: Option<Arc<Hidden>>,
}

#[derive(Debug, Default)]
struct Hidden {
    /// Of all parts.
    ids: RoaringBitmap,
    parts: Vec<Part>,
    /// Series that have nothing left, once somebody asks: some were known before, others are to be
    /// looked at.
    emptied: OnceLock<RoaringBitmap>,
    known_emptied: RoaringBitmap,
    unexamined: RoaringBitmap,
}

/// Series that miss a range of time, which lies within the block's.
#[derive(Clone, Debug)]
struct Part {
    range: TimeRange,
    ids: RoaringBitmap,
}

impl From<Arc<Block>> for LiveBlock {
    fn from(block: Arc<Block>) -> LiveBlock {
        LiveBlock { block, hidden: None }
    }
}

impl Deref for LiveBlock {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.block
    }
}

/// The ids of a block's series that fulfil all matchers of any of the lists.
pub(crate) fn select_any(block: &Block, selectors: &[Vec<Matcher>]) -> Result<RoaringBitmap> {
    let mut ids = RoaringBitmap::new();
    for matchers in selectors {
        ids |= block.select(matchers)?;
    }
    Ok(ids)
}

/// All times that a sample or an exemplar of a block may have.
fn extent(meta: &BlockMeta) -> TimeRange {
    match meta.range.is_empty() {
        true => meta.window,
        false => meta.window.union(meta.range),
    }
}

impl LiveBlock {
    /// A block without what those of the tombstones hide that name it.
    pub(crate) fn of(block: Arc<Block>, tombstones: &[Tombstone]) -> Result<LiveBlock> {
        let id = block.meta().id;
        let mut live = LiveBlock::from(block);
        for tombstone in tombstones.iter().filter(|one| one.blocks.contains(&id)) {
            live.hide(select_any(&live, &tombstone.selectors)?, tombstone.range);
        }
        Ok(live)
    }

    /// A block that is new: deletes that came since it was begun apply to it, of which its inputs knew
    /// nothing, and name it from now on.
    pub(crate) fn made_meanwhile(
        block: Arc<Block>,
        tombstones: &mut [Tombstone],
    ) -> Result<LiveBlock> {
        let id = block.meta().id;
        for one in tombstones.iter_mut().filter(|one| id <= one.greatest_block) {
            if !select_any(&block, &one.selectors)?.is_empty() {
                one.blocks.push(id);
            }
        }
        LiveBlock::of(block, tombstones)
    }

    /// Leaves out these series' samples of `range` from now on.
    pub(crate) fn hide(&mut self, ids: RoaringBitmap, range: TimeRange) {
        let range = range.intersection(extent(self.meta()));
        if ids.is_empty() || range.is_empty() {
            return;
        }
        let mut hidden = Hidden::default();
        if let Some(known) = &self.hidden {
            hidden.ids = known.ids.clone();
            hidden.parts = known.parts.clone();
            (hidden.known_emptied, hidden.unexamined) = match known.emptied.get() {
                Some(emptied) => (emptied.clone(), RoaringBitmap::new()),
                None => (known.known_emptied.clone(), known.unexamined.clone()),
            };
        }
        hidden.ids |= &ids;
        hidden.unexamined |= &ids;
        match hidden.parts.iter_mut().find(|part| part.range == range) {
            Some(part) => part.ids |= ids,
            None => hidden.parts.push(Part { range, ids }),
        }
        self.hidden = Some(Arc::new(hidden));
    }

    /// Whether samples of the series and the range are deleted: then statistics of its chunks there
    /// say nothing.
    pub(crate) fn is_touched(&self, id: u32, range: TimeRange) -> bool {
        self.parts_of(id).any(|part| part.overlaps(range))
    }

    /// Whether anything at all is deleted.
    pub(crate) fn has_deletes(&self) -> bool {
        self.hidden.is_some()
    }

    /// Whether nothing is left.
    pub(crate) fn is_all_deleted(&self) -> bool {
        let Some(hidden) = &self.hidden else { return false };
        let whole = |part: &Part| part.ids.len() == self.meta().series && self.covers(part.range);
        hidden.parts.iter().any(whole)
    }

    fn covers(&self, part: TimeRange) -> bool {
        let all = extent(self.meta());
        part.start_ms <= all.start_ms && all.end_ms <= part.end_ms
    }

    /// The ranges that are deleted of a series.
    fn parts_of(&self, id: u32) -> impl Iterator<Item = TimeRange> + Clone + '_ {
        let hidden = self.hidden.as_ref().filter(|hidden| hidden.ids.contains(id));
        let parts = hidden.map_or(&[][..], |hidden| &hidden.parts).iter();
        parts.filter(move |part| part.ids.contains(id)).map(|part| part.range)
    }

    /// Those of the series that may have something in the range.
    pub(crate) fn visible(&self, ids: RoaringBitmap, range: TimeRange) -> Result<RoaringBitmap> {
        let Some(hidden) = &self.hidden else { return Ok(ids) };
        let mut ids = ids - self.emptied(hidden)?;
        let asked = range.intersection(self.meta().range);
        for part in &hidden.parts {
            if part.range.start_ms <= asked.start_ms && asked.end_ms <= part.range.end_ms {
                ids -= &part.ids;
            }
        }
        Ok(ids)
    }

    fn emptied<'a>(&self, hidden: &'a Hidden) -> Result<&'a RoaringBitmap> {
        if let Some(emptied) = hidden.emptied.get() {
            return Ok(emptied);
        }
        let mut emptied = hidden.known_emptied.clone();
        if hidden.unexamined.len() <= EXAMINED_MAX {
            for id in &hidden.unexamined {
                if self.count(id, TimeRange::ALL)? == 0 {
                    emptied.insert(id);
                }
            }
        }
        Ok(hidden.emptied.get_or_init(|| emptied))
    }

    /// How many samples, or buckets, a series has left in a range. Values are not decoded.
    pub(crate) fn count(&self, id: u32, range: TimeRange) -> Result<u64> {
        if self.meta().tier_ms > 0 {
            let mut rollup = Rollup::default();
            let wanted = Components::of(&[Component::Count, Component::Ended]);
            self.read_rollup(id, TimeRange::ALL, wanted, &mut rollup)?;
            let rows = |of: &Rollup| of.buckets() + of.column(Component::Ended).len();
            let all = rows(&rollup);
            rollup.remove(range);
            return Ok((all - rows(&rollup)) as u64);
        }
        let mut times = Vec::new();
        self.block.read_times(id, &mut times)?;
        let deleted = self.parts_of(id);
        let is_left = |time: &&i64| {
            range.contains(**time) && !deleted.clone().any(|part| part.contains(**time))
        };
        Ok(times.iter().filter(is_left).count() as u64)
    }

    /// As [`Block::read`], without what is deleted; chunks of a series of which anything is have no
    /// stand-ins.
    pub(crate) fn read(
        &self,
        id: u32,
        range: TimeRange,
        outliner: Option<&mut Outliner<'_>>,
        into: &mut Samples,
    ) -> Result<()> {
        if !self.is_touched(id, TimeRange::ALL) {
            return self.block.read(id, range, outliner, into);
        }
        let mut own = Samples::default();
        self.block.read(id, range, None, &mut own)?;
        let deleted = self.parts_of(id);
        own.retain(|time| !deleted.clone().any(|part| part.contains(time)));
        if into.is_empty() {
            // Of a series of which nothing was left out here, the token still holds.
            *into = own;
        } else {
            chunk::append(into, &own, 0..own.len());
            into.timestamps_token = 0;
        }
        Ok(())
    }

    /// As [`Block::read_rollup`], without the buckets of which any time is deleted.
    pub(crate) fn read_rollup(
        &self,
        id: u32,
        range: TimeRange,
        wanted: Components,
        into: &mut Rollup,
    ) -> Result<()> {
        self.block.read_rollup(id, range, wanted, into)?;
        self.parts_of(id).for_each(|part| into.remove(part));
        Ok(())
    }

    /// Exemplars with the ids of their series, without those that are deleted and those of series
    /// that have no samples left.
    pub(crate) fn exemplars(&self) -> Result<Vec<(u32, Exemplar)>> {
        let mut exemplars = self.block.exemplars()?;
        if let Some(hidden) = &self.hidden
            && !exemplars.is_empty()
        {
            let emptied = self.emptied(hidden)?;
            exemplars.retain(|(id, one)| {
                let deleted = || self.parts_of(*id).any(|part| part.contains(one.timestamp));
                !emptied.contains(*id) && !deleted()
            });
        }
        Ok(exemplars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::merge::Merge;
    use crate::disk::Disk;
    use crate::disk::sim::SimDisk;
    use crate::labels::Labels;
    use crate::metrics::block::meta::BlockId;
    use crate::metrics::block::page_cache::PageCache;
    use crate::metrics::block::writer::{BlockWriter, Pages};
    use crate::metrics::rollup::Kind;
    use crate::time::DAY_MS;

    const RESOLUTION_MS: i64 = 300_000;

    fn meta(id: u64) -> BlockMeta {
        let window = TimeRange::new(1, DAY_MS);
        BlockMeta { id: BlockId(id), tier_ms: 300_000, window, ..BlockMeta::default() }
    }

    fn read(block: &LiveBlock, id: u32) -> Rollup {
        let mut rollup = Rollup::default();
        block.read_rollup(id, TimeRange::ALL, Components::ALL, &mut rollup).unwrap();
        for component in Component::OF_ROLLUPS {
            rollup.column_of_mut(Kind::Floats, component).timestamps_token = 0;
        }
        rollup
    }

    #[test]
    fn of_a_rollup_whole_buckets_go_and_stay_away_when_it_is_rewritten() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        disk.create_dir_all("blocks".as_ref()).unwrap();
        let cache = Arc::new(PageCache::new(1 << 20));
        let mut samples = Samples::default();
        (1..2000i64).for_each(|i| samples.push(i * 40_000, (i % 50) as f64));
        let whole = Rollup::of(&samples, RESOLUTION_MS);
        let name = |name| Labels::from_pairs([("__name__", name)]).unwrap();
        let labels = ["a", "b", "c"].map(name);
        let mut writer = BlockWriter::create(disk.clone(), meta(1), Pages::Plain).unwrap();
        labels.iter().for_each(|_| writer.append_rollup(&whole).unwrap());
        writer.finish(&labels, &[], &[]).unwrap();
        let block = Block::open(disk.clone(), BlockId(1), &cache).unwrap();
        let mut live = LiveBlock::from(Arc::new(block));
        // From the middle of a bucket to the middle of another.
        let range = TimeRange::new(10 * RESOLUTION_MS + 7, 20 * RESOLUTION_MS + 7);
        let ids = |ids: &[u32]| ids.iter().copied().collect::<RoaringBitmap>();
        assert_eq!(live.count(1, range).unwrap(), 11);
        live.hide(ids(&[1]), range);
        live.hide(ids(&[2]), TimeRange::ALL);
        let mut expected = read(&live, 0);
        assert_eq!(expected, whole);
        expected.remove(range);
        assert_eq!(expected.buckets(), whole.buckets() - 11);
        assert_eq!(read(&live, 1), expected);
        assert!(read(&live, 2).is_empty());
        assert_eq!([live.count(1, range).unwrap(), live.count(0, range).unwrap()], [0, 11]);
        assert_eq!(live.visible(ids(&[0, 1, 2]), TimeRange::ALL).unwrap(), ids(&[0, 1]));
        assert!(live.is_touched(1, range) && !live.is_touched(0, range));
        assert!(!live.is_touched(1, TimeRange::new(0, range.start_ms - 1)));
        let mut merge = Merge::begin(&disk, vec![live], meta(2)).unwrap();
        assert!(merge.advance(usize::MAX).unwrap());
        let written = merge.finish().unwrap().unwrap();
        assert_eq!(written.series, 2);
        let rewritten: LiveBlock = Arc::new(Block::open(disk, BlockId(2), &cache).unwrap()).into();
        assert_eq!([read(&rewritten, 0), read(&rewritten, 1)], [whole, expected]);
    }
}
