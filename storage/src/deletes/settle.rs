//! What becomes of deletes as blocks come and go: pure functions of plain facts.

use std::collections::HashSet;

use crate::deletes::Deletes;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::time::TimeRange;

/// Deletes wait so long until the blocks that they touch are rewritten for them alone, so that one
/// rewrite serves many. A merge that is due anyway does it too.
const REWRITE_WAIT_MS: i64 = 60 * 60 * 1000;

/// A live block that holds deleted samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) block: BlockId,
    pub(crate) window: TimeRange,
    /// When the first of its deletes was.
    pub(crate) since_ms: i64,
    /// Somebody asked for the room.
    pub(crate) is_asked_for: bool,
    /// Nothing of it is left.
    pub(crate) is_all_deleted: bool,
}

/// Blocks that can go as they are.
pub(crate) fn to_drop(touched: &[Touched]) -> Vec<BlockId> {
    touched.iter().filter(|one| one.is_all_deleted).map(|one| one.block).collect()
}

/// The block that is to be rewritten first, if one is.
pub(crate) fn to_rewrite(touched: &[Touched], now_ms: i64) -> Option<&Touched> {
    let waited = |one: &&Touched| now_ms.saturating_sub(one.since_ms) >= REWRITE_WAIT_MS;
    let due = touched.iter().filter(|one| one.is_asked_for || waited(one));
    due.min_by_key(|one| (!one.is_asked_for, one.since_ms, one.block))
}

impl Deletes {
    /// Takes note of the blocks that are gone and those that are new, and forgets the tombstones
    /// that nobody needs. `in_the_making`: the number of a block that is being merged.
    pub(crate) fn settle(
        &mut self,
        before: &[BlockMeta],
        after: &[BlockMeta],
        in_the_making: Option<BlockId>,
        now_ms: i64,
    ) {
        if self.tombstones.is_empty() {
            return;
        }
        let live: HashSet<BlockId> = after.iter().map(|meta| meta.id).collect();
        let known: HashSet<BlockId> = before.iter().map(|meta| meta.id).collect();
        let gone: u64 = before.iter().filter(|m| !live.contains(&m.id)).map(|m| m.bytes).sum();
        let new: u64 = after.iter().filter(|m| !known.contains(&m.id)).map(|m| m.bytes).sum();
        let loses = |blocks: &[BlockId]| blocks.iter().any(|id| !live.contains(id));
        let sharers = self.tombstones.iter().filter(|one| loses(&one.blocks)).count() as u64;
        let share = gone.saturating_sub(new) / sharers.max(1);
        let receipts = &mut self.receipts;
        self.tombstones.retain_mut(|one| {
            let gains = if loses(&one.blocks) { share } else { 0 };
            one.blocks.retain(|id| live.contains(id));
            let waits = in_the_making.is_some_and(|id| id <= one.greatest_block);
            let is_needed = waits || !one.blocks.is_empty();
            if let Ok(at) = receipts.binary_search_by_key(&one.sequence, |receipt| receipt.id) {
                let receipt = &mut receipts[at];
                receipt.blocks_left = one.blocks.len() as u64;
                receipt.freed_bytes += gains;
                receipt.freed_ms = (!is_needed).then_some(now_ms);
            }
            is_needed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deletes::{Numbers, tests::delete};

    fn block(id: u64, bytes: u64) -> BlockMeta {
        BlockMeta { id: BlockId(id), bytes, ..BlockMeta::default() }
    }

    fn touched(block: u64, since_ms: i64) -> Touched {
        Touched {
            block: BlockId(block),
            window: TimeRange::new(0, 9),
            since_ms,
            is_asked_for: false,
            is_all_deleted: false,
        }
    }

    #[test]
    fn a_tombstone_goes_with_the_last_block_that_it_touches() {
        let mut deletes = Deletes::default();
        for (sequence, touched) in [(3, vec![BlockId(1), BlockId(2)]), (4, vec![BlockId(2)])] {
            let numbers = Numbers { greatest: BlockId(5), touched, in_the_making: true };
            deletes.push(sequence, &delete(), numbers);
        }
        let (before, after) = ([block(1, 50), block(2, 70)], [block(1, 50), block(6, 10)]);
        deletes.settle(&before, &after, Some(BlockId(5)), 100);
        let left = |deletes: &Deletes| {
            deletes.receipts.iter().map(|r| (r.blocks_left, r.freed_ms, r.freed_bytes)).collect()
        };
        let both: Vec<_> = left(&deletes);
        assert_eq!(both, [(1, None, 30), (0, None, 30)], "a merge was begun before");
        assert_eq!(deletes.tombstones.len(), 2);
        deletes.settle(&after, &after, Some(BlockId(6)), 200);
        let both: Vec<_> = left(&deletes);
        assert_eq!(both, [(1, None, 30), (0, Some(200), 30)]);
        deletes.settle(&after, &after[1..], None, 300);
        let both: Vec<_> = left(&deletes);
        assert_eq!(both, [(0, Some(300), 80), (0, Some(200), 30)]);
        assert!(deletes.tombstones.is_empty());
    }

    #[test]
    fn blocks_are_rewritten_once_deletes_have_waited_or_somebody_asks() {
        let mut all = [touched(1, 50), touched(2, 20), touched(3, 10)];
        let first = |all: &[Touched], now| to_rewrite(all, now).map(|one| one.block.0);
        assert_eq!(first(&all, REWRITE_WAIT_MS + 9), None);
        assert_eq!(first(&all, REWRITE_WAIT_MS + 10), Some(3));
        all[0].is_asked_for = true;
        assert_eq!(first(&all, 60), Some(1));
        assert_eq!(to_drop(&all), []);
        all[1].is_all_deleted = true;
        assert_eq!(to_drop(&all), [BlockId(2)]);
    }
}
