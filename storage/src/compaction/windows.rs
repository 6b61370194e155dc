//! Which blocks are merged into which window: a pure function of what blocks say of themselves.
//!
//! Blocks of one data type, class and tier grow with age: of two hours, a day, 4 days, 16, 64; up to
//! a tenth of what their data lives, so that dropping whole blocks is dropping in time. Late samples
//! make small blocks over large ones; they are merged into them once they weigh enough, once too
//! many lie over one another, or once no more of them come.

use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::time::{DAY_MS, TimeRange, WINDOW_MS};

/// Lengths of windows, ascending; each divides the next.
const LENGTHS_MS: [i64; 5] = [WINDOW_MS, DAY_MS, 4 * DAY_MS, 16 * DAY_MS, 64 * DAY_MS];

/// So much of what data lives may one block hold.
const LIFETIME_SHARE: i64 = 10;

/// Small blocks are merged into the large one that they overlap from this share of its bytes…
const LATE_SHARE: u64 = 4;

/// …or when more than this many blocks overlap at an instant: then reading suffers, and merging
/// goes before everything that can wait.
pub(crate) const OVERLAP_URGENT: usize = 8;

/// Where so many overlap, merging is behind what comes late, and late samples wait for it.
pub(crate) const OVERLAP_MAX: usize = 16;

/// …or when nothing late has come for this long.
const LATE_QUIET_MS: i64 = 6 * 60 * 60 * 1000;

/// What is known besides the blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Windows that end here or before have been sealed.
    pub(crate) sealed_before_ms: i64,
    /// How long ago late samples were last sealed.
    pub(crate) late_quiet_ms: i64,
    /// Blocks with more series than these together are not merged: there is no memory for it.
    pub(crate) series_max: u64,
}

/// A merge that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) inputs: Vec<BlockId>,
    pub(crate) window: TimeRange,
    pub(crate) is_urgent: bool,
}

/// The merge that is due first: where most blocks overlap, then the shortest and oldest window.
/// `lifetime_ms` is that of a block's data, by its class and tier.
pub(crate) fn due(
    blocks: &[BlockMeta],
    moment: Moment,
    lifetime_ms: impl Fn(&BlockMeta) -> i64,
) -> Option<Due> {
    let mut sorted: Vec<&BlockMeta> = blocks.iter().collect();
    sorted.sort_by_key(|block| (kind(block), block.window.start_ms, block.id));
    let mut first: Option<Due> = None;
    for group in sorted.chunk_by(|a, b| kind(a) == kind(b)) {
        let longest_ms = longest(lifetime_ms(group[0]));
        for length_ms in LENGTHS_MS.into_iter().take_while(|length| *length <= longest_ms) {
            let found = due_of_length(group, length_ms, moment);
            let wins =
                |due: &Due| first.as_ref().is_none_or(|first| due.is_urgent && !first.is_urgent);
            if let Some(due) = found.filter(wins) {
                first = Some(due);
            }
        }
    }
    first
}

type Kind = (u8, u32, u64);

fn kind(block: &BlockMeta) -> Kind {
    (block.data_type as u8, block.class, block.tier_ms)
}

/// The longest window of data that lives so long.
pub(crate) fn longest(lifetime_ms: i64) -> i64 {
    let share = lifetime_ms / LIFETIME_SHARE;
    let fits = |length: &&i64| **length <= share || **length == DAY_MS && lifetime_ms >= 3 * DAY_MS;
    LENGTHS_MS.iter().rfind(fits).copied().unwrap_or(WINDOW_MS)
}

/// The window of a length that a block lies in, if it lies in one. Blocks of a tier have the end of
/// their time and not its start, as their buckets have.
fn window_of(block: &BlockMeta, length_ms: i64) -> Option<TimeRange> {
    let origin_ms = i64::from(block.tier_ms > 0);
    let number = block.window.start_ms.checked_sub(origin_ms)?.div_euclid(length_ms);
    let start_ms = number.checked_mul(length_ms)?.checked_add(origin_ms)?;
    let window = TimeRange::new(start_ms, start_ms.checked_add(length_ms - 1)?);
    (block.window.end_ms <= window.end_ms).then_some(window)
}

fn length_ms(block: &BlockMeta) -> i64 {
    block.window.end_ms.saturating_sub(block.window.start_ms).saturating_add(1)
}

/// `group`: of one kind, by start.
fn due_of_length(group: &[&BlockMeta], length_ms: i64, moment: Moment) -> Option<Due> {
    let mut inside: Vec<(TimeRange, &BlockMeta)> = group
        .iter()
        .filter_map(|block| window_of(block, length_ms).map(|window| (window, *block)))
        .collect();
    inside.sort_by_key(|(window, block)| (window.start_ms, block.id));
    let windows = inside.chunk_by(|a, b| a.0 == b.0);
    let due = windows.filter_map(|blocks| {
        let window = blocks[0].0;
        let blocks: Vec<&BlockMeta> = blocks.iter().map(|(_, block)| *block).collect();
        let is_urgent = overlap(&blocks) > OVERLAP_URGENT;
        let is_due = is_urgent || is_due(&blocks, window, length_ms, moment);
        let is_due = is_due && distinct_series(&blocks) <= moment.series_max;
        let inputs = blocks.iter().map(|block| block.id).collect();
        is_due.then_some(Due { inputs, window, is_urgent })
    });
    due.min_by_key(|due| (!due.is_urgent, due.window.start_ms))
}

/// `blocks`: all of one window.
fn is_due(blocks: &[&BlockMeta], window: TimeRange, length_ms: i64, moment: Moment) -> bool {
    let is_whole = |block: &&&BlockMeta| self::length_ms(block) >= length_ms;
    let largest = blocks.iter().filter(is_whole).map(|block| block.bytes).max();
    let all: u64 = blocks.iter().map(|block| block.bytes).sum();
    match largest {
        Some(largest) => {
            let late = all - largest;
            let is_quiet = moment.late_quiet_ms >= LATE_QUIET_MS;
            blocks.len() > 1 && (late >= largest / LATE_SHARE || is_quiet)
        }
        // A day's single block is rewritten too, once, which makes it smaller.
        None => {
            let is_settled = window.end_ms < moment.sealed_before_ms;
            is_settled && (blocks.len() > 1 || length_ms == DAY_MS)
        }
    }
}

/// How many series a block of all these would have, about. Series with samples all the time are in
/// every block; those with a few come from a churn of which each block has its own.
pub(crate) fn distinct_series(blocks: &[&BlockMeta]) -> u64 {
    const FEW_SAMPLES: u64 = 16;
    let own = |block: &&BlockMeta| {
        let few = block.series.saturating_mul(FEW_SAMPLES);
        let samples = block.samples.max(1);
        (u128::from(block.series) * u128::from(few.min(samples)) / u128::from(samples)) as u64
    };
    let largest = blocks.iter().map(|block| block.series).max().unwrap_or(0);
    let sum: u64 = blocks.iter().map(own).sum();
    let all = blocks.iter().map(|block| block.series).sum();
    largest.saturating_add(sum).min(all)
}

/// The times over which too many blocks of raw samples of a class lie, and merging will change that:
/// ascending by class, whole windows.
pub(crate) fn crowded(blocks: &[BlockMeta], series_max: u64) -> Vec<TimeRange> {
    let mut raw: Vec<&BlockMeta> = blocks.iter().filter(|block| block.tier_ms == 0).collect();
    raw.sort_by_key(|block| kind(block));
    let mut crowded = Vec::new();
    for group in raw.chunk_by(|a, b| kind(a) == kind(b)).filter(|of| of.len() >= OVERLAP_MAX) {
        let mut edges: Vec<i64> = group
            .iter()
            .flat_map(|block| [block.window.start_ms, block.window.end_ms.saturating_add(1)])
            .collect();
        edges.sort_unstable();
        edges.dedup();
        for (start_ms, next_ms) in edges.iter().zip(edges.iter().skip(1)) {
            let span = TimeRange::new(*start_ms, next_ms - 1);
            let over = group.iter().copied().filter(|block| block.window.overlaps(span));
            let over: Vec<&BlockMeta> = over.collect();
            if over.len() >= OVERLAP_MAX && distinct_series(&over) <= series_max {
                crowded.push(span);
            }
        }
    }
    crowded
}

/// The most blocks that share an instant.
pub(crate) fn overlap(blocks: &[&BlockMeta]) -> usize {
    let mut edges: Vec<(i64, i32)> = blocks
        .iter()
        .flat_map(|block| [(block.window.start_ms, 1), (block.window.end_ms.saturating_add(1), -1)])
        .collect();
    edges.sort_unstable();
    let depths = edges.iter().scan(0, |depth, (_, change)| {
        *depth += change;
        Some(*depth)
    });
    usize::try_from(depths.max().unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Moment =
        Moment { sealed_before_ms: 100 * DAY_MS, late_quiet_ms: 0, series_max: 1000 };

    fn block(id: u64, start_ms: i64, length_ms: i64, bytes: u64) -> BlockMeta {
        BlockMeta {
            id: BlockId(id),
            window: TimeRange::new(start_ms, start_ms + length_ms - 1),
            bytes,
            ..BlockMeta::default()
        }
    }

    fn due_of(blocks: &[BlockMeta], moment: Moment) -> Option<(Vec<u64>, TimeRange)> {
        let due = due(blocks, moment, |_| 30 * DAY_MS)?;
        Some((due.inputs.iter().map(|id| id.0).collect(), due.window))
    }

    fn day(number: i64) -> TimeRange {
        TimeRange::new(number * DAY_MS, (number + 1) * DAY_MS - 1)
    }

    #[test]
    fn a_day_is_merged_once_all_of_it_is_sealed() {
        let windows: Vec<BlockMeta> =
            (0..12).map(|i| block(i, i as i64 * WINDOW_MS, WINDOW_MS, 100)).collect();
        let sealing = Moment { sealed_before_ms: DAY_MS - WINDOW_MS, ..MOMENT };
        assert_eq!(due_of(&windows, sealing), None);
        let sealed = Moment { sealed_before_ms: DAY_MS, ..MOMENT };
        assert_eq!(due_of(&windows, sealed), Some(((0..12).collect(), day(0))));
        assert_eq!(due_of(&windows[3..4], sealed), Some((vec![3], day(0))), "to be compressed");
    }

    #[test]
    fn blocks_grow_to_a_tenth_of_what_data_lives() {
        let days: Vec<BlockMeta> =
            (0..16).map(|i| block(i, i as i64 * DAY_MS, DAY_MS, 9)).collect();
        assert_eq!(due_of(&days, MOMENT), None);
        let of_years = due(&days, MOMENT, |_| 400 * DAY_MS).unwrap();
        assert_eq!(of_years.window, TimeRange::new(0, 4 * DAY_MS - 1));
        assert_eq!([longest(DAY_MS), longest(3 * DAY_MS)], [WINDOW_MS, DAY_MS]);
        assert_eq!([longest(40 * DAY_MS), longest(4000 * DAY_MS)], [4 * DAY_MS, 64 * DAY_MS]);
    }

    #[test]
    fn late_blocks_wait_until_they_weigh_enough_or_no_more_come() {
        let with_late = |bytes| [block(1, 0, DAY_MS, 1000), block(2, WINDOW_MS, WINDOW_MS, bytes)];
        assert_eq!(due_of(&with_late(249), MOMENT), None);
        assert_eq!(due_of(&with_late(250), MOMENT), Some((vec![1, 2], day(0))));
        let quiet = Moment { late_quiet_ms: LATE_QUIET_MS, ..MOMENT };
        assert_eq!(due_of(&with_late(1), quiet), Some((vec![1, 2], day(0))));
        assert_eq!(due_of(&with_late(1)[..1], quiet), None);
    }

    #[test]
    fn where_too_many_overlap_it_is_urgent() {
        let mut blocks = vec![block(0, 0, DAY_MS, 1 << 40), block(50, DAY_MS, DAY_MS, 1 << 40)];
        blocks.push(block(51, DAY_MS, DAY_MS, 1 << 40));
        blocks.extend((1..9).map(|i| block(i, 0, WINDOW_MS, 1 << i)));
        let due = due(&blocks, MOMENT, |_| 30 * DAY_MS).unwrap();
        assert!(due.is_urgent);
        assert_eq!(due.window, day(0));
    }

    #[test]
    fn series_that_are_in_all_blocks_count_once() {
        let of = |series, samples| BlockMeta { series, samples, ..BlockMeta::default() };
        let (steady, churn) = (of(1000, 480_000), of(1000, 1000));
        assert_eq!(distinct_series(&[&steady]), 1000);
        assert_eq!(distinct_series(&[&steady; 12]), 1396);
        assert_eq!(distinct_series(&[&churn; 12]), 12_000);
        assert_eq!(distinct_series(&[]), 0);
    }

    #[test]
    fn late_samples_wait_where_merging_is_behind() {
        let mut blocks = vec![block(0, 0, DAY_MS, 9), block(1, DAY_MS, DAY_MS, 9)];
        blocks.extend((2..16).map(|id| block(id, 3 * WINDOW_MS, WINDOW_MS, 9)));
        assert_eq!(crowded(&blocks, 1000), []);
        blocks.push(block(16, 3 * WINDOW_MS, 2 * WINDOW_MS, 9));
        let window = TimeRange::new(3 * WINDOW_MS, 4 * WINDOW_MS - 1);
        assert_eq!(crowded(&blocks, 1000), [window]);
        blocks[3].series = 1001;
        assert_eq!(crowded(&blocks, 1000), [], "nothing will be merged there");
        assert_eq!(due_of(&blocks, MOMENT), None);
        blocks[3].series = 0;
        blocks[4].class = 1;
        assert_eq!(crowded(&blocks, 1000), []);
    }

    #[test]
    fn kinds_are_not_mixed_and_tiers_have_their_ends() {
        let tier = |id, start_ms| BlockMeta {
            tier_ms: 300_000,
            window: TimeRange::new(start_ms + 1, start_ms + DAY_MS),
            ..block(id, 0, DAY_MS, 5)
        };
        let blocks = [tier(1, 0), tier(2, DAY_MS), block(3, DAY_MS, DAY_MS, 5)];
        let due = due(&blocks, MOMENT, |_| 180 * DAY_MS).unwrap();
        assert_eq!(due.window, TimeRange::new(1, 4 * DAY_MS));
        assert_eq!(due.inputs, [BlockId(1), BlockId(2)]);
    }
}
