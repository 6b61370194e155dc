//! Scrubbing: checking blocks that are being served, a piece at a time, so that damage is found
//! before somebody needs the samples.
//!
//! What is checked when, and how fast, is the caller's business.

use crate::data_file;
use crate::db::{Db, Inner};
use crate::deletes::live::LiveBlock;
use crate::error::{Error, Result};
use crate::metrics::block;
use crate::metrics::block::check::SectionCheck;
use crate::metrics::block::meta::BlockId;

/// The check of one block, under way. The block's file stays while it lasts.
#[derive(Debug)]
pub struct BlockScrub {
    check: SectionCheck,
    _block: LiveBlock,
}

impl BlockScrub {
    /// Reads and checks at most `max_bytes` more, which is not 0; how many it were, or `None` once
    /// the block is done. [`Error::Corrupt`] is damage.
    pub fn step(&mut self, max_bytes: u64) -> Result<Option<u64>> {
        self.check.step(max_bytes)
    }
}

impl Db {
    /// Begins to check a block; `None` if it is no longer live.
    pub fn scrub(&self, id: BlockId) -> Result<Option<BlockScrub>> {
        let Some(block) = self.inner.live_block(id) else { return Ok(None) };
        let path = block::path(id);
        let file = data_file::open(self.inner.disk.as_ref(), &path)?;
        Ok(Some(BlockScrub { check: SectionCheck::open(file, &path)?, _block: block }))
    }

    /// Takes a block out of service that [`BlockScrub`] found `damage` in, so that the rest is
    /// served: its file moves to quarantine. Gives the error back if the block proves intact.
    pub fn quarantine(&self, id: BlockId, damage: Error) -> Result<()> {
        let mut upkeep = self.inner.upkeep.lock();
        // A merge may have come first.
        let Some(block) = self.inner.live_block(id) else { return Ok(()) };
        self.inner.quarantine_blocks(&mut upkeep, &[block], damage)
    }
}

impl Inner {
    fn live_block(&self, id: BlockId) -> Option<LiveBlock> {
        self.version().blocks.iter().find(|block| block.meta().id == id).cloned()
    }
}
