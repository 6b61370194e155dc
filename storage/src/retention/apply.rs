//! New policies for a database that has data: series and blocks find their classes again, and what
//! retention may do is held back, confirmed and reported.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::plan::Situation;
use crate::db::{Db, Inner};
use crate::error::Result;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::retention::classes::Classifier;
use crate::retention::plan::{
    BUDGET_EVICT_PERCENT, BUDGET_WARN_PERCENT, UNCONFIRMED_PERCENT_MAX, bytes_of, exceeds,
};
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
        let mut blocks = expired.blocks;
        blocks.extend(expired.evicted);
        let bytes = bytes_of_ids(&situation, &blocks);
        tracing::warn!(blocks = blocks.len(), bytes, "retention: the drop is confirmed");
        upkeep.confirmed.clone_from(&blocks);
        Confirmed { blocks, bytes }
    }
}

impl Inner {
    fn set_policies(&self, upkeep: &mut Upkeep, policies: &Policies) -> Result<()> {
        let mut manifest = upkeep.manifest.clone();
        let is_new = manifest.classes.adopt(policies, &manifest.blocks);
        if !is_new {
            upkeep.disk_budget = policies.disk_budget;
            upkeep.holds.replace(&policies.holds, upkeep.now_ms);
            return Ok(());
        }
        let classifier = Arc::new(Classifier::new(policies.clone(), &manifest.classes));
        self.store(upkeep, manifest)?;
        upkeep.disk_budget = policies.disk_budget;
        upkeep.holds.replace(&policies.holds, upkeep.now_ms);
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

    /// Drops blocks before their time, and says so of each.
    pub(crate) fn evict_blocks(&self, upkeep: &mut Upkeep, ids: &[BlockId]) -> Result<()> {
        let is_evicted = |block: &&BlockMeta| ids.contains(&block.id);
        let evicted: Vec<BlockMeta> =
            upkeep.manifest.blocks.iter().filter(is_evicted).cloned().collect();
        self.retain_without(upkeep, ids, "blocks are over the disk budget")?;
        for block in &evicted {
            tracing::warn!(block = %block.id, class = block.class, bytes = block.bytes,
                oldest_ms = block.range.start_ms, newest_ms = block.range.end_ms,
                samples = block.samples, disk_budget = upkeep.disk_budget,
                "evicted before its time to keep to the disk budget");
        }
        self.counters.evicted_blocks.fetch_add(evicted.len() as u64, Ordering::Relaxed);
        self.counters.evicted_bytes.fetch_add(bytes_of(&evicted), Ordering::Relaxed);
        Ok(())
    }

    /// Says once that retention waits for confirmation or that the disk budget runs out, and keeps
    /// the numbers for metrics.
    pub(crate) fn note_retention(&self, upkeep: &mut Upkeep, situation: &Situation) {
        let used = situation.log_bytes.saturating_add(bytes_of(&situation.blocks));
        let is_short =
            upkeep.disk_budget.is_some_and(|budget| exceeds(used, budget, BUDGET_WARN_PERCENT));
        if is_short && !upkeep.is_short {
            tracing::warn!(
                used,
                disk_budget = upkeep.disk_budget,
                "more than {BUDGET_WARN_PERCENT} % of the disk budget are used; from \
                 {BUDGET_EVICT_PERCENT} % on raw samples are evicted, oldest first"
            );
        }
        upkeep.is_short = is_short;
        let on_hold = bytes_of_ids(situation, &situation.on_hold);
        self.counters.on_hold_bytes.store(on_hold, Ordering::Relaxed);
        self.counters.holds.store(upkeep.holds.count(), Ordering::Relaxed);
        self.counters.holds_ended.store(upkeep.holds.ended, Ordering::Relaxed);
        self.counters.disk_budget.store(upkeep.disk_budget.unwrap_or(0), Ordering::Relaxed);
        let expired = situation.expired();
        let mut due = expired.blocks.clone();
        due.extend_from_slice(&expired.evicted);
        let bytes = if expired.is_held { bytes_of_ids(situation, &due) } else { 0 };
        self.counters.retention_held_bytes.store(bytes, Ordering::Relaxed);
        if expired.is_held && !upkeep.is_held {
            tracing::error!(
                blocks = due.len(),
                bytes,
                "retention would drop more than {UNCONFIRMED_PERCENT_MAX} % of all bytes at once \
                 and waits for POST /api/v1/admin/retention/confirm"
            );
        }
        upkeep.is_held = expired.is_held;
    }
}

fn bytes_of_ids(situation: &Situation, ids: &[BlockId]) -> u64 {
    bytes_of(situation.blocks.iter().filter(|block| ids.contains(&block.id)))
}
