//! Legal holds: samples that stay, whatever policies and the disk budget say.
//!
//! A hold names series and a range of time. A block with a series of it, and with samples of that
//! time, stays as a whole: more is kept than was asked for, never less. Each hold that comes into force,
//! is released or ends by itself is a line in the log, with its owner and reason.

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

    fn log(&self, what: &str) {
        let Hold { id, owner, reason, range, until_ms, .. } = self;
        let matchers: Vec<String> = self.matchers.iter().map(ToString::to_string).collect();
        let matchers = matchers.join(",");
        let (from_ms, to_ms) = (range.start_ms, range.end_ms);
        tracing::warn!(hold = %id, %owner, %reason, %matchers, from_ms, to_ms, until_ms, "{what}");
    }
}

/// The holds in force, and which blocks they were found to concern.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    holds: Vec<Hold>,
    /// A bit for each hold. Blocks never change.
    known: HashMap<BlockId, u64>,
    /// As of the last look, a bit for each hold.
    in_force: u64,
    /// How many were released or have ended.
    pub(crate) ended: u64,
}

impl Holds {
    pub(crate) fn new(holds: &[Hold]) -> Holds {
        assert!(holds.len() <= HOLDS_MAX, "a bit for each hold");
        Holds { holds: holds.to_vec(), ..Holds::default() }
    }

    /// These holds in the place of the present ones; what changes is logged.
    pub(crate) fn replace(&mut self, holds: &[Hold], now_ms: i64) {
        let in_force = |holds: &[Hold]| -> Vec<Hold> {
            holds.iter().filter(|hold| hold.is_in_force(now_ms)).cloned().collect()
        };
        let (old, new) = (in_force(&self.holds), in_force(holds));
        for hold in old.iter().filter(|hold| !new.contains(hold)) {
            hold.log("legal hold released");
            self.ended += 1;
        }
        new.iter()
            .filter(|hold| !old.contains(hold))
            .for_each(|hold| hold.log("legal hold in force"));
        *self = Holds { ended: self.ended, ..Holds::new(holds) };
    }

    /// How many are in force, as of the last look.
    pub(crate) fn count(&self) -> u64 {
        u64::from(self.in_force.count_ones())
    }

    /// Notes which are in force now, and logs those that have ended by themselves.
    fn look(&mut self, now_ms: i64) -> u64 {
        let in_force = mask(self.holds.iter().map(|hold| hold.is_in_force(now_ms)));
        let has_ended = |bit: &usize| (self.in_force & !in_force) >> bit & 1 == 1;
        for bit in (0..self.holds.len()).filter(has_ended) {
            self.holds[bit].log("legal hold has ended");
        }
        self.ended += u64::from((self.in_force & !in_force).count_ones());
        self.in_force = in_force;
        in_force
    }

    /// Those of these blocks that must stay. Asks the index of blocks that are new.
    pub(crate) fn held(&mut self, blocks: &[LiveBlock], now_ms: i64) -> Vec<BlockId> {
        if self.holds.is_empty() {
            return Vec::new();
        }
        let in_force = self.look(now_ms);
        let Holds { holds, known, .. } = self;
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
