//! Carrying out: blocks are rewritten as others, a slice at a time.
//!
//! One [`Rewrite`] at most is in progress, a merge, a part of a split, or a day that is rolled up.
//! What it makes replaces what it was made of in one manifest; if it fails it is given up, what it
//! has written goes, and what is due is seen anew.

use crate::compaction::merge::Merge;
use crate::compaction::rollup::{self, RollUp};
use crate::compaction::windows::Due;
use crate::db::{Inner, Progress};
use crate::deletes::live::LiveBlock;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::retention::classify::Split;
use crate::time::TimeRange;
use crate::upkeep::Upkeep;

/// Rows that are read before other upkeep has its turn: some 50 ms.
const SLICE_ROWS: usize = 1_000_000;

/// Blocks in the making.
#[derive(Debug)]
pub(crate) enum Rewrite {
    Merge {
        merge: Merge,
        /// Reading suffers without it.
        is_urgent: bool,
    },
    /// A block of one class in the place of a block of several.
    Part { merge: Merge, split: Split },
    /// The tiers of a day.
    RollUp {
        rollup: RollUp,
        /// Raw samples of the day have changed meanwhile.
        is_outdated: bool,
    },
}

impl Rewrite {
    fn inputs(&self) -> &[LiveBlock] {
        match self {
            Rewrite::Merge { merge, .. } | Rewrite::Part { merge, .. } => merge.inputs(),
            Rewrite::RollUp { rollup, .. } => rollup.inputs(),
        }
    }

    fn advance(&mut self) -> Result<bool> {
        match self {
            Rewrite::Merge { merge, .. } | Rewrite::Part { merge, .. } => merge.advance(SLICE_ROWS),
            Rewrite::RollUp { rollup, .. } => rollup.advance(SLICE_ROWS),
        }
    }

    /// The least number of the new blocks.
    pub(crate) fn least_id(&self) -> Option<BlockId> {
        match self {
            Rewrite::Merge { merge, .. } | Rewrite::Part { merge, .. } => Some(merge.id()),
            Rewrite::RollUp { rollup, .. } => rollup.least_id(),
        }
    }
}

/// Notes that raw samples of a time have changed which may be rolled up already.
pub(crate) fn mark_dirty(
    rewrite: Option<&mut Rewrite>,
    manifest: &mut Manifest,
    class: u32,
    range: TimeRange,
) {
    let is_rolled_up = |day: i64| {
        let window = rollup::window_of(day);
        let of_class =
            manifest.blocks.iter().filter(|meta| meta.class == class && meta.tier_ms > 0);
        of_class.into_iter().any(|meta| meta.window.overlaps(window))
    };
    let days: Vec<i64> = rollup::days_of(range).filter(|day| is_rolled_up(*day)).collect();
    manifest.dirty.extend(days.into_iter().map(|day| (class, day)));
    if let Some(Rewrite::RollUp { rollup, is_outdated }) = rewrite {
        let (of_class, day) = rollup.day;
        *is_outdated |= of_class == class && rollup::window_of(day).overlaps(range);
    }
}

impl Inner {
    pub(crate) fn begin_merge(&self, upkeep: &mut Upkeep, due: &Due) -> Result<()> {
        let (inputs, metas) = self.inputs(upkeep, &due.inputs);
        let Some(first) = metas.into_iter().next() else { return Ok(()) };
        let meta = BlockMeta {
            data_type: first.data_type,
            class: first.class,
            tier_ms: first.tier_ms,
            policy_generation: first.policy_generation,
            ..self.new_meta(upkeep, due.window, 0)
        };
        let is_urgent = due.is_urgent;
        match Merge::begin(&self.disk, inputs.clone(), meta) {
            Ok(merge) => upkeep.rewrite = Some(Rewrite::Merge { merge, is_urgent }),
            Err(error) => self.quarantine_or(upkeep, &inputs, error)?,
        }
        Ok(())
    }

    pub(crate) fn begin_rolling_up(&self, upkeep: &mut Upkeep, due: &rollup::Due) -> Result<()> {
        let (inputs, metas) = self.inputs(upkeep, &due.inputs);
        let (class, day_start_ms) = due.day;
        let policy_generation = metas.iter().map(|meta| meta.policy_generation).max().unwrap_or(0);
        let metas = due.tiers.iter().map(|tier| BlockMeta {
            class,
            tier_ms: tier.unsigned_abs(),
            policy_generation,
            ..self.new_meta(upkeep, rollup::window_of(day_start_ms), 0)
        });
        let metas = metas.collect();
        match RollUp::begin(&self.disk, due.day, inputs.clone(), metas) {
            Ok(rollup) => upkeep.rewrite = Some(Rewrite::RollUp { rollup, is_outdated: false }),
            Err(error) => self.quarantine_or(upkeep, &inputs, error)?,
        }
        Ok(())
    }

    /// Live blocks, and what the manifest says of them: it knows classes that were decided after a
    /// block was written.
    fn inputs(&self, upkeep: &Upkeep, ids: &[BlockId]) -> (Vec<LiveBlock>, Vec<BlockMeta>) {
        let version = self.version();
        let live = version.blocks.iter().filter(|block| ids.contains(&block.meta().id));
        let metas = upkeep.manifest.blocks.iter().filter(|meta| ids.contains(&meta.id));
        (live.cloned().collect(), metas.cloned().collect())
    }

    /// A slice of what was begun.
    pub(crate) fn go_on(&self, upkeep: &mut Upkeep) -> Result<Progress> {
        let Some(mut rewrite) = upkeep.rewrite.take() else { return Ok(Progress::Idle) };
        if !rewrite.inputs().iter().all(|block| upkeep.manifest.names(block.meta().id)) {
            // Retention or quarantine took one: what is due is seen anew.
            if let Rewrite::Part { split, .. } = &rewrite {
                self.forget_split(split);
            }
            return Ok(Progress::Worked);
        }
        match rewrite.advance() {
            Ok(false) => {
                let is_urgent = matches!(rewrite, Rewrite::Merge { is_urgent: true, .. });
                upkeep.rewrite = Some(rewrite);
                Ok(if is_urgent { Progress::Worked } else { Progress::Background })
            }
            advanced => {
                self.end(upkeep, rewrite, advanced.map(|_| ()))?;
                Ok(Progress::Worked)
            }
        }
    }

    /// Publishes what is written, or gives it up.
    fn end(&self, upkeep: &mut Upkeep, rewrite: Rewrite, advanced: Result<()>) -> Result<()> {
        let inputs = rewrite.inputs().to_vec();
        match rewrite {
            Rewrite::Part { merge, split } => match advanced.and_then(|()| merge.finish()) {
                Ok(part) => self.end_part(upkeep, split, part),
                Err(error) => self.give_up_split(upkeep, split, error),
            },
            Rewrite::Merge { merge, .. } => match advanced.and_then(|()| merge.finish()) {
                Ok(meta) => self.publish_merged(upkeep, &inputs, meta),
                Err(error) => self.quarantine_or(upkeep, &inputs, error),
            },
            Rewrite::RollUp { rollup, is_outdated } => {
                let day = rollup.day;
                match advanced.and_then(|()| rollup.finish()) {
                    Ok(metas) => self.publish_rollup(upkeep, day, is_outdated, &metas),
                    Err(error) => self.quarantine_or(upkeep, &inputs, error),
                }
            }
        }
    }

    fn publish_merged(
        &self,
        upkeep: &mut Upkeep,
        inputs: &[LiveBlock],
        merged: Option<BlockMeta>,
    ) -> Result<()> {
        let inputs: Vec<BlockId> = inputs.iter().map(|block| block.meta().id).collect();
        self.replace(upkeep, merged.as_slice(), &inputs, |_, _| ())?;
        if let Some(meta) = merged {
            tracing::info!(block = %meta.id, inputs = inputs.len(), samples = meta.samples,
                bytes = meta.bytes, "merged");
        }
        Ok(())
    }

    fn publish_rollup(
        &self,
        upkeep: &mut Upkeep,
        day: rollup::Day,
        is_outdated: bool,
        metas: &[BlockMeta],
    ) -> Result<()> {
        let is_replaced = |old: &&BlockMeta| {
            let of_same = |new: &BlockMeta| {
                old.tier_ms == new.tier_ms && old.class == new.class && old.window == new.window
            };
            metas.iter().any(of_same)
        };
        let blocks = upkeep.manifest.blocks.iter();
        let replaced: Vec<BlockId> = blocks.filter(is_replaced).map(|old| old.id).collect();
        self.replace(upkeep, metas, &replaced, |manifest, _| {
            if is_outdated {
                manifest.dirty.insert(day);
            } else {
                manifest.dirty.remove(&day);
            }
        })?;
        for meta in metas {
            tracing::info!(block = %meta.id, tier_ms = meta.tier_ms, series = meta.series,
                buckets = meta.samples, bytes = meta.bytes, "rolled up");
        }
        Ok(())
    }
}
