//! Legal holds: samples that stay, whatever policies and the disk budget say.
//!
//! A hold names series and a range of time. A block with a series of it, and with samples of that
//! time, stays as a whole: more is kept than was asked for, never less.

use std::collections::HashMap;

use crate::deletes::live::LiveBlock;
use crate::matcher::Matcher;
use crate::metrics::block::Block;
use crate::metrics::block::meta::BlockId;
use crate::time::TimeRange;

/// Holds at a time: a bit each says which of them a block is under.
pub const HOLDS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub id: String,
    pub reason: String,
    pub owner: String,
    pub matchers: Vec<Matcher>,
    /// Of the samples.
    pub range: TimeRange,
    /// When it ends by itself.
    pub until_ms: Option<i64>,
}

impl Hold {
    pub fn is_in_force(&self, now_ms: i64) -> bool {
        self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }
}

/// The holds in force, and which blocks they were found to concern.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    holds: Vec<Hold>,
    /// A bit for each hold. Blocks never change.
    known: HashMap<BlockId, u64>,
}

impl Holds {
    pub(crate) fn new(holds: &[Hold]) -> Holds {
        assert!(holds.len() <= HOLDS_MAX, "a bit for each hold");
        Holds { holds: holds.to_vec(), known: HashMap::new() }
    }

    /// Those of these blocks that must stay. Asks the index of blocks that are new.
    pub(crate) fn held(&mut self, blocks: &[LiveBlock], now_ms: i64) -> Vec<BlockId> {
        if self.holds.is_empty() {
            return Vec::new();
        }
        let in_force = mask(self.holds.iter().map(|hold| hold.is_in_force(now_ms)));
        let Holds { holds, known } = self;
        let mut seen = HashMap::with_capacity(blocks.len());
        for block in blocks {
            let id = block.meta().id;
            let of_block = known.get(&id).copied();
            seen.insert(
                id,
                of_block.unwrap_or_else(|| mask(holds.iter().map(|h| concerns(h, block)))),
            );
        }
        *known = seen;
        blocks.iter().map(|block| block.meta().id).filter(|id| known[id] & in_force != 0).collect()
    }

    /// The holds in force that concern a block that [`Holds::held`] was asked of.
    pub(crate) fn of(&self, id: BlockId, now_ms: i64) -> Vec<&Hold> {
        let bits = self.known.get(&id).copied().unwrap_or(0);
        let is_its =
            |(bit, hold): &(usize, &Hold)| bits >> bit & 1 == 1 && hold.is_in_force(now_ms);
        self.holds.iter().enumerate().filter(is_its).map(|(_, hold)| hold).collect()
    }
}

fn mask(bits: impl Iterator<Item = bool>) -> u64 {
    bits.enumerate().fold(0, |mask, (bit, is_set)| mask | u64::from(is_set) << bit)
}

/// A block whose index cannot be read may have anything.
fn concerns(hold: &Hold, block: &Block) -> bool {
    hold.range.overlaps(block.meta().range)
        && block.select(&hold.matchers).map_or(true, |series| !series.is_empty())
}
