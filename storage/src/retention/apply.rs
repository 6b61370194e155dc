//! New policies for a database that has data: series and blocks find their classes again, and what
//! retention may do is held back, confirmed and reported.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::plan::Situation;
use crate::db::{Db, Inner};
use crate::error::Result;
use crate::metrics::block::meta::BlockId;
use crate::retention::classes::Classifier;
use crate::retention::plan::UNCONFIRMED_PERCENT_MAX;
use crate::retention::policy::Policies;
use crate::upkeep::Upkeep;

/// Series that find their class again under one lock.
const CLASSIFY_SERIES: usize = 1024;

/// Blocks that have outlived their retention and stay until somebody confirms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    pub blocks: Vec<BlockId>,
    pub bytes: u64,
}

impl Db {
    /// Makes these the policies, for what is stored too: at once where a block's series have one
    /// class, and by a rewrite where they have several.
    pub fn set_policies(&self, policies: &Policies) -> Result<()> {
        let mut upkeep = self.inner.upkeep.lock();
        self.inner.set_policies(&mut upkeep, policies)
    }

    /// Lets retention drop what it holds back at present because it is so much; what that is.
    pub fn confirm_retention(&self, now_ms: i64) -> Confirmed {
        let mut upkeep = self.inner.upkeep.lock();
        let situation = self.inner.situation(&upkeep, now_ms);
        let expired = situation.expired();
        if !expired.is_held {
            return Confirmed::default();
        }
        let bytes = bytes_of(&situation, &expired.blocks);
        tracing::warn!(blocks = expired.blocks.len(), bytes, "retention: the drop is confirmed");
        upkeep.confirmed.clone_from(&expired.blocks);
        Confirmed { blocks: expired.blocks, bytes }
    }
}

impl Inner {
    fn set_policies(&self, upkeep: &mut Upkeep, policies: &Policies) -> Result<()> {
        let mut manifest = upkeep.manifest.clone();
        if !manifest.classes.adopt(policies, &manifest.blocks) {
            return Ok(());
        }
        let classifier = Arc::new(Classifier::new(policies.clone(), &manifest.classes));
        self.store(upkeep, manifest)?;
        tracing::info!(generation = classifier.generation, "new retention policies");
        let ids: Vec<u32> = {
            let mut head = self.head.write();
            head.set_classifier(classifier);
            head.ids().collect()
        };
        // Nothing is sealed meanwhile, so no block has series of two generations.
        for batch in ids.chunks(CLASSIFY_SERIES) {
            self.head.write().classify(batch);
        }
        Ok(())
    }

    /// Says once that retention waits for confirmation, and keeps the number for metrics.
    pub(crate) fn note_held(&self, upkeep: &mut Upkeep, situation: &Situation) {
        let expired = situation.expired();
        let bytes = if expired.is_held { bytes_of(situation, &expired.blocks) } else { 0 };
        self.counters.retention_held_bytes.store(bytes, Ordering::Relaxed);
        if expired.is_held && !upkeep.is_held {
            tracing::error!(
                blocks = expired.blocks.len(),
                bytes,
                "retention would drop more than {UNCONFIRMED_PERCENT_MAX} % of all bytes at once \
                 and waits for POST /api/v1/admin/retention/confirm"
            );
        }
        upkeep.is_held = expired.is_held;
    }
}

fn bytes_of(situation: &Situation, ids: &[BlockId]) -> u64 {
    let blocks = situation.blocks.iter().filter(|block| ids.contains(&block.id));
    blocks.map(|block| block.bytes).sum()
}
