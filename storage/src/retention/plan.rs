//! Which blocks have outlived their retention: a pure function of what blocks say of themselves.

use crate::metrics::block::meta::{BlockId, BlockMeta};

/// A wall clock may run ahead of the data by this much before retention stops believing it: a
/// clock that jumps ten years must not drop everything.
const CLOCK_AHEAD_MS: i64 = 24 * 60 * 60 * 1000;

/// Blocks whose newest sample is older than `retention_ms`, oldest first.
///
/// Now is the wall clock, but at most a day after the newest stored sample.
pub(crate) fn expired(
    blocks: &[BlockMeta],
    newest_ms: Option<i64>,
    now_ms: i64,
    retention_ms: i64,
) -> Vec<BlockId> {
    let Some(newest_ms) = newest_ms else { return Vec::new() };
    let now_ms = now_ms.min(newest_ms.saturating_add(CLOCK_AHEAD_MS));
    let oldest_kept = now_ms.saturating_sub(retention_ms);
    let mut dead: Vec<&BlockMeta> =
        blocks.iter().filter(|block| block.range.end_ms < oldest_kept).collect();
    dead.sort_by_key(|block| (block.range.end_ms, block.id));
    dead.into_iter().map(|block| block.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::TimeRange;

    fn block(id: u64, end_ms: i64) -> BlockMeta {
        BlockMeta { id: BlockId(id), range: TimeRange::new(0, end_ms), ..BlockMeta::default() }
    }

    #[test]
    fn blocks_go_when_their_newest_sample_is_too_old() {
        let blocks = [block(1, 900), block(2, 100), block(3, 50)];
        assert_eq!(expired(&blocks, Some(1000), 1000, 500), vec![BlockId(3), BlockId(2)]);
        assert_eq!(expired(&blocks, Some(1000), 1000, 2000), vec![]);
    }

    #[test]
    fn a_clock_far_ahead_of_the_data_drops_nothing_more_than_a_day_would() {
        let day = CLOCK_AHEAD_MS;
        let blocks = [block(1, 0), block(2, 5 * day)];
        assert_eq!(expired(&blocks, Some(5 * day), 4000 * day, 10 * day), vec![]);
    }
}
