//! Which blocks have outlived their retention: a pure function of what blocks say of themselves.

use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::time::DAY_MS;

/// A wall clock may run ahead of the data by this much before retention stops believing it: a
/// clock that jumps ten years must not drop everything.
const CLOCK_AHEAD_MS: i64 = DAY_MS;

/// A block goes within seconds of its time. What is overdue by more than this became so by a jump:
/// of the clock, or of a policy…
const OVERDUE_MS: i64 = DAY_MS;

/// …and if that is more than this percentage of all bytes, somebody has to say that it is meant.
pub const UNCONFIRMED_PERCENT_MAX: u64 = 30;

/// From this percentage of the disk budget on, it is said that room runs out…
pub const BUDGET_WARN_PERCENT: u64 = 80;

/// …and from this on, blocks are evicted.
pub const BUDGET_EVICT_PERCENT: u64 = 90;

/// What is younger is never evicted.
const EVICT_AGE_MS: i64 = DAY_MS;

/// The facts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) blocks: &'a [BlockMeta],
    /// Newest sample of head and blocks.
    pub(crate) newest_ms: Option<i64>,
    pub(crate) now_ms: i64,
    /// The wall clock cannot be trusted: nothing is dropped.
    pub(crate) clock_in_doubt: bool,
    /// Blocks of which somebody has said that they may go.
    pub(crate) confirmed: &'a [BlockId],
    /// Bytes that all may take, if that is bounded.
    pub(crate) budget: Option<u64>,
    /// Bytes beside the blocks.
    pub(crate) log_bytes: u64,
}

/// What retention does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    /// Outlived, oldest first.
    pub(crate) blocks: Vec<BlockId>,
    /// Within their lifetimes, to keep to the disk budget; oldest first.
    pub(crate) evicted: Vec<BlockId>,
    /// All of them stay until somebody confirms.
    pub(crate) is_held: bool,
}

/// Blocks whose newest sample is older than its lifetime.
///
/// Now is the wall clock, but at most a day after the newest stored sample. `may_go`: nothing that
/// is still needed, as raw samples are until their rollup is durable, is dropped.
pub(crate) fn expired(
    facts: Facts<'_>,
    lifetime_ms: impl Fn(&BlockMeta) -> i64,
    may_go: impl Fn(&BlockMeta) -> bool,
) -> Expired {
    let Some(now_ms) = believed_now(facts) else { return Expired::default() };
    let overdue_ms = |block: &BlockMeta| {
        now_ms.saturating_sub(lifetime_ms(block)).saturating_sub(block.range.end_ms)
    };
    let is_dead = |block: &&BlockMeta| overdue_ms(block) > 0 && may_go(block);
    let mut dead: Vec<&BlockMeta> = facts.blocks.iter().filter(is_dead).collect();
    dead.sort_by_key(|block| (block.range.end_ms, block.id));
    let evicted = evicted(facts, now_ms, &dead, may_go);
    let is_confirmed = |block: &&&BlockMeta| facts.confirmed.contains(&block.id);
    let overdue = dead.iter().filter(|block| overdue_ms(block) > OVERDUE_MS);
    let unusual = overdue.chain(&evicted).filter(|block| !is_confirmed(block));
    let is_held =
        exceeds(bytes_of(unusual.copied()), bytes_of(facts.blocks), UNCONFIRMED_PERCENT_MAX);
    let ids = |blocks: Vec<&BlockMeta>| blocks.into_iter().map(|block| block.id).collect();
    Expired { blocks: ids(dead), evicted: ids(evicted), is_held }
}

/// What the disk budget takes first, in words: the order of [`candidates`].
pub const EVICTION_ORDER: &str = "raw samples of metrics, oldest first, down to what is a day old; \
    never rollups, and never what a legal hold keeps";

/// Blocks that may go before their time, first those that go first: of raw samples alone, as rollups
/// are small and are what is left of the time before; the oldest first, and never of the last day.
pub(crate) fn candidates<'a>(
    blocks: impl Iterator<Item = &'a BlockMeta>,
    now_ms: i64,
    may_go: impl Fn(&BlockMeta) -> bool,
) -> Vec<&'a BlockMeta> {
    let is_old = |block: &BlockMeta| block.range.end_ms < now_ms.saturating_sub(EVICT_AGE_MS);
    let mut candidates: Vec<&BlockMeta> =
        blocks.filter(|block| block.tier_ms == 0 && is_old(block) && may_go(block)).collect();
    candidates.sort_by_key(|block| (block.range.end_ms, block.id));
    candidates
}

fn evicted<'a>(
    facts: Facts<'a>,
    now_ms: i64,
    dead: &[&BlockMeta],
    may_go: impl Fn(&BlockMeta) -> bool,
) -> Vec<&'a BlockMeta> {
    let Some(budget) = facts.budget else { return Vec::new() };
    let is_dead = |block: &BlockMeta| dead.iter().any(|dead| dead.id == block.id);
    let left: Vec<&BlockMeta> = facts.blocks.iter().filter(|block| !is_dead(block)).collect();
    let mut used = facts.log_bytes.saturating_add(bytes_of(left.iter().copied()));
    let mut candidates = candidates(left.into_iter(), now_ms, may_go).into_iter();
    let mut evicted = Vec::new();
    while exceeds(used, budget, BUDGET_EVICT_PERCENT)
        && let Some(block) = candidates.next()
    {
        used -= block.bytes;
        evicted.push(block);
    }
    evicted
}

/// Whether bytes are more than a percentage of all.
pub(crate) fn exceeds(bytes: u64, all: u64, percent: u64) -> bool {
    u128::from(bytes) * 100 > u128::from(all) * u128::from(percent)
}

pub(crate) fn bytes_of<'a>(blocks: impl IntoIterator<Item = &'a BlockMeta>) -> u64 {
    blocks.into_iter().map(|block| block.bytes).sum()
}

/// The time up to which lifetimes are counted; `None` while nothing may be dropped.
pub(crate) fn believed_now(facts: Facts<'_>) -> Option<i64> {
    let newest_ms = facts.newest_ms.filter(|_| !facts.clock_in_doubt)?;
    Some(facts.now_ms.min(newest_ms.saturating_add(CLOCK_AHEAD_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::TimeRange;

    fn block(id: u64, end_ms: i64, bytes: u64) -> BlockMeta {
        let range = TimeRange::new(0, end_ms);
        BlockMeta { id: BlockId(id), range, bytes, ..BlockMeta::default() }
    }

    fn at(blocks: &[BlockMeta], now_ms: i64) -> Facts<'_> {
        let newest_ms = Some(now_ms);
        let (confirmed, budget) = (&[], None);
        Facts { blocks, newest_ms, now_ms, clock_in_doubt: false, confirmed, budget, log_bytes: 0 }
    }

    fn ids(expired: &Expired) -> Vec<u64> {
        expired.blocks.iter().map(|id| id.0).collect()
    }

    #[test]
    fn blocks_go_when_their_newest_sample_is_too_old() {
        let blocks = [block(1, 900, 1), block(2, 100, 1), block(3, 50, 1)];
        assert_eq!(ids(&expired(at(&blocks, 1000), |_| 500, |_| true)), [3, 2]);
        assert_eq!(ids(&expired(at(&blocks, 1000), |_| 2000, |_| true)), [0; 0]);
        assert_eq!(ids(&expired(at(&blocks, 1000), |_| 500, |block| block.id.0 != 2)), [3]);
        let doubt = Facts { clock_in_doubt: true, ..at(&blocks, 1000) };
        assert_eq!(ids(&expired(doubt, |_| 500, |_| true)), [0; 0]);
    }

    #[test]
    fn each_lives_as_its_class_and_tier() {
        let of = |id, class, tier_ms| BlockMeta { class, tier_ms, ..block(id, 100, 1) };
        let blocks = [of(1, 1, 0), of(2, 2, 0), of(3, 1, 300)];
        let lifetime = |block: &BlockMeta| match (block.class, block.tier_ms) {
            (1, 0) => 10,
            (2, 0) => 500,
            _ => 901,
        };
        assert_eq!(ids(&expired(at(&blocks, 1000), lifetime, |_| true)), [1, 2]);
        assert_eq!(ids(&expired(at(&blocks, 1002), lifetime, |_| true)), [1, 2, 3]);
    }

    #[test]
    fn a_clock_far_ahead_of_the_data_drops_nothing_more_than_a_day_would() {
        let day = CLOCK_AHEAD_MS;
        let blocks = [block(1, 0, 1), block(2, 5 * day, 1)];
        let facts = Facts { now_ms: 4000 * day, ..at(&blocks, 5 * day) };
        assert_eq!(ids(&expired(facts, |_| 10 * day, |_| true)), [0; 0]);
    }

    #[test]
    fn what_is_overdue_and_much_waits_for_somebody_to_confirm() {
        let days: Vec<BlockMeta> = (1..=10).map(|id| block(id, id as i64 * DAY_MS, 10)).collect();
        let keep = |keep: i64| move |_: &BlockMeta| keep * DAY_MS - 1;
        // A day a day is how it should be, even where a day is all there is.
        let usual = expired(at(&days, 10 * DAY_MS), keep(9), |_| true);
        assert_eq!((ids(&usual), usual.is_held), (vec![1], false));
        let only = [block(1, DAY_MS, 10)];
        assert!(!expired(at(&only, 2 * DAY_MS), keep(1), |_| true).is_held);
        // Days 1 to 4 and 5 are due, of which all but the last are overdue.
        let cut = expired(at(&days, 10 * DAY_MS), keep(5), |_| true);
        assert_eq!((cut.blocks.len(), cut.is_held), (5, true));
        let confirmed: Vec<BlockId> = cut.blocks.clone();
        let facts = Facts { confirmed: &confirmed[..1], ..at(&days, 10 * DAY_MS) };
        assert!(!expired(facts, keep(5), |_| true).is_held, "30 % are not more than 30 %");
    }

    #[test]
    fn over_its_budget_the_oldest_raw_samples_go_and_never_the_last_day() {
        let mut blocks: Vec<BlockMeta> =
            (1..=10).map(|id| block(id, id as i64 * DAY_MS, 10)).collect();
        blocks[0].tier_ms = 300;
        let evicted = |budget: u64, log_bytes: u64, blocks: &[BlockMeta]| {
            let facts = Facts { budget: Some(budget), log_bytes, ..at(blocks, 11 * DAY_MS) };
            let expired = expired(facts, |_| 100 * DAY_MS, |block| block.id.0 != 2);
            let ids: Vec<u64> = expired.evicted.iter().map(|id| id.0).collect();
            (ids, expired.is_held)
        };
        assert_eq!(evicted(112, 0, &blocks), (vec![], false), "100 of 112 are less than 90 %");
        assert_eq!(evicted(110, 0, &blocks), (vec![3], false), "1 is a rollup, 2 may not go");
        assert_eq!(evicted(112, 11, &blocks), (vec![3, 4], false), "the log counts");
        assert_eq!(evicted(50, 0, &blocks), (vec![3, 4, 5, 6, 7, 8], true), "too much at once");
        let all: Vec<u64> = (3..=9).collect();
        assert_eq!(evicted(1, 0, &blocks), (all, true), "the last day stays");
    }
}
