//! Rolling up: a day of raw blocks becomes a block for each tier of their class.
//!
//! All tiers are made in one pass over the samples, each from the raw ones. What is due is decided
//! by [`due`], purely; a [`RollUp`] is carried out in slices, as a merge is. Start timestamps and
//! exemplars stay with the raw samples.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compaction::union::Union;
use crate::deletes::live::LiveBlock;
use crate::disk::Disk;
use crate::error::Result;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::writer::{BlockWriter, Pages};
use crate::metrics::companion;
use crate::metrics::rollup::Rollup;
use crate::time::{DAY_MS, TimeRange, WINDOW_MS};

/// A day of a class by its start; its buckets end in `(start, start + 1 day]`.
pub(crate) type Day = (u32, i64);

/// Late samples of a day that is rolled up wait for others for so long.
const LATE_QUIET_MS: i64 = 30 * 60 * 1000;

/// The time of a day's buckets.
pub(crate) fn window_of(day_start_ms: i64) -> TimeRange {
    TimeRange::new(day_start_ms.saturating_add(1), day_start_ms.saturating_add(DAY_MS))
}

/// The days whose buckets samples of `range` fall into, by their starts.
pub(crate) fn days_of(range: TimeRange) -> impl Iterator<Item = i64> {
    let day = |timestamp: i64| timestamp.saturating_sub(1).div_euclid(DAY_MS);
    let days = (day(range.start_ms)..=day(range.end_ms)).filter(move |_| !range.is_empty());
    days.map(|number| number.saturating_mul(DAY_MS))
}

/// A day that has to be rolled up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) day: Day,
    /// Resolutions of the tiers, in ms.
    pub(crate) tiers: Vec<i64>,
    pub(crate) inputs: Vec<BlockId>,
}

/// What is known besides the blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    /// Windows that end here or before have been sealed.
    pub(crate) sealed_before_ms: i64,
    /// How long ago late samples were last sealed.
    pub(crate) late_quiet_ms: i64,
    /// Days whose raw samples changed after they were rolled up.
    pub(crate) dirty: &'a BTreeSet<Day>,
    pub(crate) now_ms: i64,
}

/// The oldest day of raw samples that lacks a tier, or else one whose samples changed: once nothing
/// late comes, or once it is too old for late samples and its raw ones are to go.
pub(crate) fn due(
    blocks: &[BlockMeta],
    moment: Moment<'_>,
    tiers_of: impl Fn(u32) -> Vec<i64>,
    raw_lifetime_ms: impl Fn(u32) -> i64,
) -> Option<Due> {
    let is_quiet = moment.late_quiet_ms >= LATE_QUIET_MS;
    let raw = || blocks.iter().filter(|block| block.tier_ms == 0);
    let days: BTreeSet<(i64, u32)> =
        raw().flat_map(|block| days_of(block.range).map(|day| (day, block.class))).collect();
    let mut changed = None;
    for (start_ms, class) in days {
        let window = window_of(start_ms);
        // The last sample of the day may be the first of the window after it.
        let is_sealed = window.end_ms.saturating_add(WINDOW_MS) <= moment.sealed_before_ms;
        if !is_sealed {
            continue;
        }
        let tiers = tiers_of(class);
        let has = |tier: i64| is_rolled_up(blocks, class, tier, window);
        let missing: Vec<i64> = tiers.iter().copied().filter(|tier| !has(*tier)).collect();
        let is_dirty = moment.dirty.contains(&(class, start_ms));
        let inputs = || {
            let of_day = raw().filter(|block| block.class == class && block.range.overlaps(window));
            of_day.map(|block| block.id).collect::<Vec<BlockId>>()
        };
        if !missing.is_empty() {
            let tiers = if is_dirty { tiers } else { missing };
            return Some(Due { day: (class, start_ms), tiers, inputs: inputs() });
        }
        let is_old = window.end_ms < moment.now_ms.saturating_sub(raw_lifetime_ms(class));
        if is_dirty && (is_quiet || is_old) && !tiers.is_empty() && changed.is_none() {
            changed = Some(Due { day: (class, start_ms), tiers, inputs: inputs() });
        }
    }
    changed
}

/// Whether blocks of a tier cover a day.
pub(crate) fn is_rolled_up(
    blocks: &[BlockMeta],
    class: u32,
    tier_ms: i64,
    window: TimeRange,
) -> bool {
    let of_tier = |block: &&BlockMeta| block.tier_ms == tier_ms as u64 && block.class == class;
    let covers = |block: &BlockMeta| {
        block.window.start_ms <= window.start_ms && window.end_ms <= block.window.end_ms
    };
    blocks.iter().filter(of_tier).any(covers)
}

/// Blocks of tiers in the making.
#[derive(Debug)]
pub(crate) struct RollUp {
    pub(crate) day: Day,
    union: Union,
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Output {
    id: BlockId,
    resolution_ms: i64,
    writer: BlockWriter,
    /// Ids of the series that have a bucket.
    kept: Vec<u32>,
}

impl RollUp {
    /// `metas` name the new blocks, one for each tier.
    pub(crate) fn begin(
        disk: &Arc<dyn Disk>,
        day: Day,
        inputs: Vec<LiveBlock>,
        metas: Vec<BlockMeta>,
    ) -> Result<RollUp> {
        let union = Union::of(inputs, |labels| labels.get(companion::LABEL).is_none())?;
        let outputs = metas.into_iter().map(|meta| {
            let resolution_ms = i64::try_from(meta.tier_ms).expect("tiers divide a day");
            let id = meta.id;
            let writer = BlockWriter::create(disk.clone(), meta, Pages::Compressed)?;
            Ok(Output { id, resolution_ms, writer, kept: Vec::new() })
        });
        let outputs = outputs.collect::<Result<_>>()?;
        Ok(RollUp { day, union, outputs })
    }

    /// The least number of the new blocks.
    pub(crate) fn least_id(&self) -> Option<BlockId> {
        self.outputs.iter().map(|output| output.id).min()
    }

    pub(crate) fn inputs(&self) -> &[LiveBlock] {
        self.union.inputs()
    }

    /// Rolls up further series until it has read `rows` rows or all; whether it has all.
    pub(crate) fn advance(&mut self, rows: usize) -> Result<bool> {
        let window = window_of(self.day.1);
        let RollUp { union, outputs, .. } = self;
        union.advance(rows, |union, id| {
            let samples = union.read(id, window)?;
            for output in &mut *outputs {
                let rollup = Rollup::of(samples, output.resolution_ms);
                if !rollup.is_empty() {
                    output.writer.append_rollup(&rollup)?;
                    output.kept.push(id);
                }
            }
            Ok(samples.len())
        })
    }

    /// Completes the files. Of a day without samples they are empty, and say that it was done.
    pub(crate) fn finish(self) -> Result<Vec<BlockMeta>> {
        let RollUp { union, outputs, .. } = self;
        let finish =
            |Output { writer, kept, .. }: Output| writer.finish(&union.labels_of(kept), &[], &[]);
        outputs.into_iter().map(finish).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1000;

    fn block(id: u64, tier_ms: i64, range: TimeRange) -> BlockMeta {
        BlockMeta {
            id: BlockId(id),
            tier_ms: tier_ms as u64,
            window: range,
            range,
            ..BlockMeta::default()
        }
    }

    fn due_of(blocks: &[BlockMeta], dirty: &BTreeSet<Day>, quiet_ms: i64) -> Option<Due> {
        due_with(blocks, dirty, quiet_ms, 30 * DAY_MS)
    }

    fn due_with(
        blocks: &[BlockMeta],
        dirty: &BTreeSet<Day>,
        quiet_ms: i64,
        lifetime_ms: i64,
    ) -> Option<Due> {
        let sealed_before_ms = 2 * DAY_MS + WINDOW_MS;
        let now_ms = sealed_before_ms;
        let moment = Moment { sealed_before_ms, late_quiet_ms: quiet_ms, dirty, now_ms };
        due(blocks, moment, |_| vec![5 * 60 * 1000, HOUR_MS], |_| lifetime_ms)
    }

    #[test]
    fn a_sample_at_midnight_is_of_the_day_that_ends() {
        assert_eq!(days_of(TimeRange::new(DAY_MS, DAY_MS)).collect::<Vec<_>>(), [0]);
        assert_eq!(days_of(TimeRange::new(1, DAY_MS + 1)).collect::<Vec<_>>(), [0, DAY_MS]);
        assert_eq!(days_of(TimeRange::default()).count(), 0);
    }

    #[test]
    fn a_day_is_rolled_up_once_the_window_behind_it_is_sealed() {
        let blocks = [
            block(1, 0, TimeRange::new(DAY_MS + 5, 2 * DAY_MS - 5)),
            block(2, 0, TimeRange::new(2 * DAY_MS, 2 * DAY_MS + 7)),
        ];
        let due = due_of(&blocks, &BTreeSet::new(), 0).unwrap();
        assert_eq!((due.day, due.tiers.len()), ((0, DAY_MS), 2));
        assert_eq!(due.inputs, [BlockId(1), BlockId(2)], "midnight is in the second");
    }

    #[test]
    fn what_is_rolled_up_is_done_again_when_it_changed() {
        let day = window_of(DAY_MS);
        let blocks = [
            block(1, 0, TimeRange::new(DAY_MS + 5, 2 * DAY_MS - 5)),
            block(2, 5 * 60 * 1000, day),
            block(3, HOUR_MS, TimeRange::new(1, 4 * DAY_MS)),
        ];
        let dirty = BTreeSet::from([(0, DAY_MS)]);
        assert_eq!(due_of(&blocks, &BTreeSet::new(), i64::MAX), None);
        assert_eq!(due_of(&blocks, &dirty, 0), None, "more may come");
        assert!(due_with(&blocks, &dirty, 0, HOUR_MS).is_some(), "too old for more");
        assert_eq!(due_of(&blocks, &dirty, LATE_QUIET_MS).unwrap().tiers.len(), 2);
        let other_class = BTreeSet::from([(1, DAY_MS)]);
        assert_eq!(due_of(&blocks, &other_class, i64::MAX), None);
        let missing = due_of(&blocks[..2], &BTreeSet::new(), 0).unwrap();
        assert_eq!(missing.tiers, [HOUR_MS]);
    }
}
