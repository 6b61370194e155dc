//! What upkeep is due: a pure function of plain facts.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::compaction::rollup;
use crate::compaction::windows::{self, Due, Moment};
use crate::deletes::settle::{self, Touched};
use crate::memory::Pressure;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::relief::{HeadMemory, Relief};
use crate::retention;
use crate::retention::classes::Classes;
use crate::retention::plan::Expired;
use crate::time::{TimeRange, WINDOW_MS};

/// A window is sealed when samples this much newer than its end have come: what is scraped every
/// few minutes, or retried by a sender, still finds it open.
const SEAL_GRACE_MS: i64 = 15 * 60 * 1000;

/// …and when nothing was written into it for this long by the wall clock: a sender that catches up
/// after an outage fills window after window, while others write the newest…
const SEAL_QUIET_MS: i64 = 60 * 1000;

/// …unless so many windows are in memory that the oldest must go.
const WINDOWS_MAX: usize = 6;

/// At most this much of the log's time has to be replayed.
const CHECKPOINT_EVERY_MS: i64 = 15 * 60 * 1000;

/// …and at most this many of its bytes.
const CHECKPOINT_WAL_BYTES: u64 = 512 << 20;

/// Late samples of sealed windows wait in memory for this long, so that one rewrite serves many…
const LATE_WAIT_MS: i64 = 30 * 60 * 1000;

/// …but no more of them than this: 16 bytes each.
const LATE_SAMPLES_MAX: u64 = 2_000_000;

/// The facts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Situation {
    pub(crate) now_ms: i64,
    /// Newest sample of head and blocks.
    pub(crate) newest_ms: Option<i64>,
    /// Windows of which samples are in the head, by their start, ascending; and when the last of
    /// them was written.
    pub(crate) head_windows: Vec<(i64, i64)>,
    /// Windows that end here or before were sealed once.
    pub(crate) sealed_before_ms: i64,
    pub(crate) late_samples: u64,
    /// When all late samples that waited were last sealed.
    pub(crate) last_late_seal_ms: i64,
    /// The newest of their windows that was sealed since, if there are more to seal.
    pub(crate) late_round: Option<i64>,
    pub(crate) last_checkpoint_ms: i64,
    /// Bytes of the log that only a replay could bring back.
    pub(crate) wal_bytes: u64,
    pub(crate) blocks: Vec<BlockMeta>,
    /// Blocks that hold deleted samples.
    pub(crate) touched: Vec<Touched>,
    /// What the classes of the blocks mean.
    pub(crate) classes: Classes,
    /// Blocks of which somebody has said that they may go.
    pub(crate) confirmed: Vec<BlockId>,
    /// Bytes that blocks and log may take, if that is bounded.
    pub(crate) disk_budget: Option<u64>,
    pub(crate) log_bytes: u64,
    /// Blocks under a legal hold.
    pub(crate) on_hold: Vec<BlockId>,
    /// A merge or a rollup was begun and is not finished.
    pub(crate) is_rewriting: bool,
    /// Days whose raw samples changed after they were rolled up.
    pub(crate) dirty: BTreeSet<rollup::Day>,
    /// The wall clock cannot be trusted: nothing is dropped.
    pub(crate) clock_in_doubt: bool,
    pub(crate) memory: HeadMemory,
    /// Series that blocks may have together to be merged.
    pub(crate) merged_series_max: u64,
}

/// One bounded step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Drop(Vec<BlockId>),
    /// Nothing of these is left by deletes.
    DropDeleted(Vec<BlockId>),
    /// Drop before its time what is over the disk budget.
    Evict(Vec<BlockId>),
    /// Put the head's samples of a window into a block.
    Seal(TimeRange),
    Checkpoint,
    /// Put samples into blocks before their window has ended, for want of memory.
    Relieve(Relief),
    /// Look at the series of these blocks, whose classes are by other policies than the present.
    Classify(Vec<BlockId>),
    /// Begin to make one block of several.
    Merge(Due),
    /// Begin to roll up a day.
    RollUp(rollup::Due),
    /// Go on with what was begun.
    GoOn,
    Idle,
}

impl Situation {
    /// What has outlived its retention.
    pub(crate) fn expired(&self) -> Expired {
        let believed_ms = retention::plan::believed_now(self.retention_facts());
        let lifetime_ms = |block: &BlockMeta| self.classes.kept_ms(block);
        let is_in_head = |day: i64| {
            let window = rollup::window_of(day);
            self.head_windows
                .iter()
                .any(|(start, _)| TimeRange::new(*start, start + WINDOW_MS - 1).overlaps(window))
        };
        let is_done = |block: &BlockMeta| {
            self.classes.is_rolled_up(block, &self.blocks, &self.dirty, believed_ms)
                && (!self.classes.is_to_be_rolled_up(block)
                    || !rollup::days_of(block.range).any(is_in_head))
        };
        // In the order of age: readers take it that of a time before the newest that went all went.
        let is_overdue = |block: &&BlockMeta| {
            let end_ms = block.range.end_ms.saturating_add(lifetime_ms(block));
            block.tier_ms == 0 && believed_ms.is_some_and(|now_ms| end_ms < now_ms)
        };
        let is_stuck = |block: &&BlockMeta| !self.on_hold.contains(&block.id) && !is_done(block);
        let mut stuck_ms: BTreeMap<u32, i64> = BTreeMap::new();
        for block in self.blocks.iter().filter(is_overdue).filter(is_stuck) {
            let oldest_ms = stuck_ms.entry(block.class).or_insert(i64::MAX);
            *oldest_ms = block.range.start_ms.min(*oldest_ms);
        }
        let may_go = |block: &BlockMeta| {
            let is_before = |stuck_ms: &i64| block.tier_ms > 0 || block.range.end_ms < *stuck_ms;
            !self.on_hold.contains(&block.id)
                && is_done(block)
                && stuck_ms.get(&block.class).is_none_or(is_before)
        };
        retention::plan::expired(self.retention_facts(), lifetime_ms, may_go)
    }

    pub(crate) fn retention_facts(&self) -> retention::plan::Facts<'_> {
        retention::plan::Facts {
            blocks: &self.blocks,
            newest_ms: self.newest_ms,
            now_ms: self.now_ms,
            clock_in_doubt: self.clock_in_doubt,
            confirmed: &self.confirmed,
            budget: self.disk_budget,
            log_bytes: self.log_bytes,
        }
    }

    /// The blocks without the raw samples of days that have more series than there is memory for.
    fn rollable(&self) -> Cow<'_, [BlockMeta]> {
        let all: u64 = self.blocks.iter().map(|block| block.series).sum();
        if all <= self.merged_series_max {
            return Cow::Borrowed(&self.blocks);
        }
        let mut of_days: BTreeMap<rollup::Day, Vec<&BlockMeta>> = BTreeMap::new();
        let raw = self.blocks.iter().filter(|block| block.tier_ms == 0);
        for block in raw {
            let days = rollup::days_of(block.range).map(|day| (block.class, day));
            days.for_each(|day| of_days.entry(day).or_default().push(block));
        }
        let is_too_much =
            |day: &rollup::Day| windows::distinct_series(&of_days[day]) > self.merged_series_max;
        let fits = |block: &&BlockMeta| {
            let mut days = rollup::days_of(block.range).map(|day| (block.class, day));
            block.tier_ms > 0 || !days.any(|day| is_too_much(&day))
        };
        Cow::Owned(self.blocks.iter().filter(fits).cloned().collect())
    }

    fn outdated(&self) -> impl Iterator<Item = &BlockMeta> {
        self.blocks.iter().filter(|block| self.classes.is_outdated(block))
    }
}

pub(crate) fn plan(facts: &Situation) -> Step {
    let expired = facts.expired();
    if !expired.is_held {
        if !expired.blocks.is_empty() {
            return Step::Drop(expired.blocks);
        }
        if !expired.evicted.is_empty() {
            return Step::Evict(expired.evicted);
        }
    }
    let deleted = settle::to_drop(&facts.touched);
    if !deleted.is_empty() {
        return Step::DropDeleted(deleted);
    }
    if let Some(window) = window_to_seal(facts) {
        return Step::Seal(window);
    }
    if let Some(relief) = facts.memory.relief() {
        return Step::Relieve(relief);
    }
    if facts.memory.is_relieved {
        return Step::Checkpoint;
    }
    let is_old = facts.now_ms.saturating_sub(facts.last_checkpoint_ms) >= CHECKPOINT_EVERY_MS;
    if facts.wal_bytes >= CHECKPOINT_WAL_BYTES || (facts.wal_bytes > 0 && is_old) {
        return Step::Checkpoint;
    }
    if facts.is_rewriting {
        return Step::GoOn;
    }
    let outdated: Vec<BlockId> = facts.outdated().map(|block| block.id).collect();
    if !outdated.is_empty() {
        return Step::Classify(outdated);
    }
    let sealed_before_ms = facts.sealed_before_ms;
    let late_quiet_ms = facts.now_ms.saturating_sub(facts.last_late_seal_ms);
    let series_max = facts.merged_series_max;
    let moment = Moment { sealed_before_ms, late_quiet_ms, series_max };
    let merge = windows::due(&facts.blocks, moment, |block| facts.classes.lifetime_ms(block));
    // Of a window that nobody wrote into there is nothing to seal.
    let sealed_before_ms = match facts.head_windows.is_empty() {
        true => sealed_before_ms.max(facts.now_ms.saturating_sub(SEAL_GRACE_MS)),
        false => sealed_before_ms,
    };
    // A merge leaves out what is deleted; a block with no other to be merged with is rewritten.
    let rewrite = || settle::to_rewrite(&facts.touched, facts.now_ms).map(alone);
    let merge = merge.or_else(rewrite);
    let moment = rollup::Moment {
        sealed_before_ms,
        late_quiet_ms,
        dirty: &facts.dirty,
        now_ms: facts.now_ms,
    };
    let raw_lifetime_ms =
        |class: u32| facts.classes.tiers(class).first().map_or(i64::MAX, |raw| raw.lifetime_ms);
    let believed_ms = retention::plan::believed_now(facts.retention_facts());
    let tiers_of =
        |class: u32, day: TimeRange| facts.classes.living_rollups_ms(class, day, believed_ms);
    let rollup = rollup::due(&facts.rollable(), moment, tiers_of, raw_lifetime_ms);
    match (merge, rollup) {
        (Some(merge), _) if merge.is_urgent => Step::Merge(merge),
        (_, Some(rollup)) => Step::RollUp(rollup),
        (Some(merge), None) => Step::Merge(merge),
        (None, None) => Step::Idle,
    }
}

fn alone(block: &Touched) -> Due {
    let &Touched { block, window, is_asked_for, .. } = block;
    Due { inputs: vec![block], window, is_urgent: is_asked_for }
}

/// The oldest window of the head whose time has come.
fn window_to_seal(facts: &Situation) -> Option<TimeRange> {
    let quiet_ms = |last_write_ms: i64| facts.now_ms.saturating_sub(last_write_ms);
    let late_waited = facts.now_ms.saturating_sub(facts.last_late_seal_ms) >= LATE_WAIT_MS;
    let is_short = facts.memory.pressure >= Pressure::High;
    let late_is_due = late_waited
        || facts.late_samples >= LATE_SAMPLES_MAX
        || is_short && facts.memory.has_much_late(facts.late_samples);
    let is_due = |start: i64, last_write_ms: i64| {
        let end = start.saturating_add(WINDOW_MS);
        let quiet_ms = quiet_ms(last_write_ms);
        // Where memory is short no window waits for what may still come.
        let grace_ms = if is_short { 0 } else { SEAL_GRACE_MS };
        let by_data = facts.newest_ms.is_some_and(|newest| newest >= end + grace_ms);
        let by_clock = facts.now_ms >= end + SEAL_GRACE_MS && quiet_ms >= SEAL_GRACE_MS;
        match (by_data, end <= facts.sealed_before_ms) {
            (_, true) if facts.late_round.is_some() => facts.late_round < Some(start),
            (true, true) => late_is_due,
            (true, false) => {
                let is_crowded = facts.head_windows.len() > WINDOWS_MAX;
                quiet_ms >= SEAL_QUIET_MS || is_crowded || is_short
            }
            (false, was_sealed) => by_clock && (!was_sealed || late_is_due),
        }
    };
    let (start, _) = facts.head_windows.iter().find(|(start, last)| is_due(*start, *last))?;
    Some(TimeRange::new(*start, start.saturating_add(WINDOW_MS - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::policy::Policies;

    const MINUTE: i64 = 60 * 1000;

    fn classes() -> Classes {
        let mut classes = Classes::default();
        classes.adopt(&Policies::raw_only(100 * WINDOW_MS), &[]);
        classes
    }

    fn facts() -> Situation {
        Situation {
            now_ms: WINDOW_MS + 20 * MINUTE,
            newest_ms: Some(WINDOW_MS + 20 * MINUTE),
            head_windows: vec![(0, WINDOW_MS), (WINDOW_MS, WINDOW_MS + 20 * MINUTE)],
            last_checkpoint_ms: WINDOW_MS + 20 * MINUTE,
            classes: classes(),
            merged_series_max: u64::MAX,
            ..Situation::default()
        }
    }

    #[test]
    fn a_window_is_sealed_once_the_data_is_past_it() {
        assert_eq!(plan(&facts()), Step::Seal(TimeRange::new(0, WINDOW_MS - 1)));
        let early = Situation {
            newest_ms: Some(WINDOW_MS + 10 * MINUTE),
            head_windows: vec![(0, WINDOW_MS + 10 * MINUTE)],
            ..facts()
        };
        assert_eq!(plan(&early), Step::Idle);
    }

    #[test]
    fn a_window_that_is_being_filled_is_left_open() {
        let now_ms = facts().now_ms;
        let filling = Situation { head_windows: vec![(0, now_ms - 1000)], ..facts() };
        assert_eq!(plan(&filling), Step::Idle);
        let many = (0..7).map(|i| ((i - 6) * WINDOW_MS, now_ms)).collect();
        let oldest = TimeRange::new(-6 * WINDOW_MS, -5 * WINDOW_MS - 1);
        let crowded = Situation { head_windows: many, ..facts() };
        assert_eq!(plan(&crowded), Step::Seal(oldest));
    }

    #[test]
    fn a_silent_head_is_sealed_by_the_clock() {
        let quiet = Situation {
            now_ms: 3 * WINDOW_MS,
            newest_ms: Some(5),
            head_windows: vec![(0, WINDOW_MS)],
            last_checkpoint_ms: 3 * WINDOW_MS,
            ..facts()
        };
        assert_eq!(plan(&quiet), Step::Seal(TimeRange::new(0, WINDOW_MS - 1)));
    }

    #[test]
    fn all_late_windows_are_sealed_in_one_round_each_once() {
        let late = Situation {
            head_windows: (0..3).map(|i| (i * WINDOW_MS, 0)).collect(),
            sealed_before_ms: 3 * WINDOW_MS,
            newest_ms: Some(5 * WINDOW_MS),
            last_late_seal_ms: WINDOW_MS + 20 * MINUTE,
            late_round: Some(0),
            ..facts()
        };
        let second = TimeRange::new(WINDOW_MS, 2 * WINDOW_MS - 1);
        assert_eq!(plan(&late), Step::Seal(second));
        assert_eq!(plan(&Situation { late_round: Some(2 * WINDOW_MS), ..late }), Step::Idle);
    }

    #[test]
    fn late_samples_wait_for_company() {
        let late = Situation {
            head_windows: vec![(0, WINDOW_MS + 20 * MINUTE)],
            sealed_before_ms: WINDOW_MS,
            last_late_seal_ms: WINDOW_MS + 19 * MINUTE,
            ..facts()
        };
        assert_eq!(plan(&late), Step::Idle);
        let many = Situation { late_samples: LATE_SAMPLES_MAX, ..late.clone() };
        assert_eq!(plan(&many), Step::Seal(TimeRange::new(0, WINDOW_MS - 1)));
        let long = Situation { last_late_seal_ms: WINDOW_MS - 20 * MINUTE, ..late };
        assert_eq!(plan(&long), Step::Seal(TimeRange::new(0, WINDOW_MS - 1)));
    }

    #[test]
    fn a_merge_that_was_begun_goes_on_between_what_cannot_wait() {
        let settled = Situation { head_windows: vec![], is_rewriting: true, ..facts() };
        assert_eq!(plan(&settled), Step::GoOn);
        let sealing = Situation { is_rewriting: true, ..facts() };
        assert!(matches!(plan(&sealing), Step::Seal(_)));
    }

    #[test]
    fn blocks_of_other_policies_are_looked_at_before_they_are_merged() {
        let old = BlockMeta { id: BlockId(4), ..BlockMeta::default() };
        let settled = Situation { head_windows: vec![], blocks: vec![old], ..facts() };
        assert_eq!(plan(&settled), Step::Classify(vec![BlockId(4)]));
        let merging = Situation { is_rewriting: true, ..settled };
        assert_eq!(plan(&merging), Step::GoOn);
    }
}
