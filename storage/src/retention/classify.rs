//! Blocks of older policies find their classes again: by their own index.
//!
//! If all series of a block are of one class now, the manifest says so and the block stays as it
//! is. If not, it is split: a block for each class is written, a slice at a time, and all of them
//! replace it in one edit of the manifest.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compaction::merge::Merge;
use crate::compaction::rollup;
use crate::compaction::run::Rewrite;
use crate::compaction::seal;
use crate::db::Inner;
use crate::deletes::live::LiveBlock;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::manifest::Manifest;
use crate::metrics::block::Block;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::retention::classes::Classifier;
use crate::time::TimeRange;
use crate::upkeep::Upkeep;

impl Inner {
    /// The next of these blocks; all at once if there is but one class.
    pub(crate) fn classify_blocks(&self, upkeep: &mut Upkeep, ids: &[BlockId]) -> Result<()> {
        let classifier = self.head.read().classifier().clone();
        if let Some(class) = classifier.only_class() {
            return self.assign(upkeep, ids, class, classifier.generation);
        }
        let version = self.version();
        let is_first = |block: &&LiveBlock| Some(&block.meta().id) == ids.first();
        let Some(block) = version.blocks.iter().find(is_first) else { return Ok(()) };
        let classes = match classes_of(block, &classifier) {
            Err(e @ Error::Corrupt { .. }) => {
                return self.quarantine_blocks(upkeep, std::slice::from_ref(block), e);
            }
            classes => classes?,
        };
        match classes.len() {
            0 | 1 => {
                let class = classes.first().copied().unwrap_or(classifier.catch_all_class());
                self.assign(upkeep, &[block.meta().id], class, classifier.generation)
            }
            _ => {
                let classes = classes.into_iter().collect();
                let split = Split { block: block.clone(), classifier, classes, parts: Vec::new() };
                self.begin_part(upkeep, split)
            }
        }
    }

    fn assign(
        &self,
        upkeep: &mut Upkeep,
        ids: &[BlockId],
        class: u32,
        generation: u64,
    ) -> Result<()> {
        tracing::info!(blocks = ids.len(), class, "blocks have a class by the present policies");
        let mut manifest = upkeep.manifest.clone();
        let mut moved = Vec::new();
        for meta in manifest.blocks.iter_mut().filter(|meta| ids.contains(&meta.id)) {
            if meta.class != class {
                moved.push(meta.range);
            }
            (meta.class, meta.policy_generation) = (class, generation);
        }
        moved.iter().for_each(|range| mark_moved(&mut manifest, class, *range));
        self.store(upkeep, manifest)?;
        // Readers learn of the classes.
        self.publish(upkeep, Vec::new(), &[]);
        Ok(())
    }
}

/// Notes that blocks of a time have come into a class: its rollups may lack them, or the other way
/// round. Days without raw samples are not made again, and stay as they are.
fn mark_moved(manifest: &mut Manifest, class: u32, range: TimeRange) {
    let has_raw = |day: &i64| {
        let window = rollup::window_of(*day);
        manifest.blocks.iter().any(|meta| meta.tier_ms == 0 && meta.range.overlaps(window))
    };
    let days: Vec<i64> = rollup::days_of(range).filter(has_raw).collect();
    manifest.dirty.extend(days.into_iter().map(|day| (class, day)));
}

/// A block that becomes several, one for each class.
#[derive(Debug)]
pub(crate) struct Split {
    block: LiveBlock,
    classifier: Arc<Classifier>,
    /// Those that have no part yet.
    classes: Vec<u32>,
    /// Written.
    parts: Vec<BlockMeta>,
}

impl Inner {
    /// Begins the part of the next class.
    fn begin_part(&self, upkeep: &mut Upkeep, mut split: Split) -> Result<()> {
        let Some(class) = split.classes.pop() else { return Ok(()) };
        // As it is now: what was deleted since the part before is not to come back with this one.
        let version = self.version();
        let is_source = |block: &&LiveBlock| block.meta().id == split.block.meta().id;
        if let Some(block) = version.blocks.iter().find(is_source) {
            split.block = block.clone();
        }
        let source = split.block.meta();
        let meta = BlockMeta {
            class,
            tier_ms: source.tier_ms,
            data_type: source.data_type,
            policy_generation: split.classifier.generation,
            ..self.new_meta(upkeep, source.window, 0)
        };
        let inputs = vec![split.block.clone()];
        let keep = |labels: &Labels| split.classifier.class_of(labels) == class;
        match Merge::begin_part(&self.disk, inputs, meta, keep, split.classes.is_empty()) {
            Ok(merge) => {
                upkeep.rewrite = Some(Rewrite::Part { merge, split });
                Ok(())
            }
            Err(e) => self.give_up_split(upkeep, split, e),
        }
    }

    /// Takes note of a part that is written; the last publishes all.
    pub(crate) fn end_part(
        &self,
        upkeep: &mut Upkeep,
        mut split: Split,
        part: Option<BlockMeta>,
    ) -> Result<()> {
        // Of a class of which deletes have left nothing there is none.
        split.parts.extend(part);
        if !split.classes.is_empty() {
            return self.begin_part(upkeep, split);
        }
        let source = split.block.meta();
        let known = upkeep.manifest.blocks.iter().find(|meta| meta.id == source.id);
        let class = known.map(|meta| meta.class);
        self.replace(upkeep, &split.parts, &[source.id], |manifest, _| {
            for part in split.parts.iter().filter(|part| Some(part.class) != class) {
                mark_moved(manifest, part.class, source.range);
            }
        })?;
        tracing::info!(block = %source.id, parts = split.parts.len(), "split by class");
        Ok(())
    }

    /// Removes what was written. A block that is damaged goes to quarantine.
    pub(crate) fn give_up_split(
        &self,
        upkeep: &mut Upkeep,
        split: Split,
        error: Error,
    ) -> Result<()> {
        seal::discard(&self.disk, &split.parts);
        self.quarantine_or(upkeep, &[split.block], error)
    }

    /// Forgets a split whose block has gone.
    pub(crate) fn forget_split(&self, split: &Split) {
        seal::discard(&self.disk, &split.parts);
    }
}

/// The classes that the series of a block have now.
fn classes_of(block: &Block, classifier: &Classifier) -> Result<BTreeSet<u32>> {
    let mut classes = BTreeSet::new();
    block.visit_labels(&block.index.all(), |_, labels| {
        classes.insert(classifier.class_of(&labels));
    })?;
    Ok(classes)
}
