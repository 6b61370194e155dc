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
use crate::metrics::block::Block;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::retention::classes::Classifier;
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
        for meta in manifest.blocks.iter_mut().filter(|meta| ids.contains(&meta.id)) {
            (meta.class, meta.policy_generation) = (class, generation);
        }
        self.store(upkeep, manifest)?;
        // Readers learn of the classes.
        self.publish(upkeep, Vec::new(), &[]);
        Ok(())
    }
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
        self.replace(upkeep, &split.parts, &[source.id], |manifest, _| {
            // Days that have to be rolled up again are so for each of the classes.
            let is_dirty = |day: &i64| manifest.dirty.iter().any(|(_, dirty)| dirty == day);
            let dirty: Vec<i64> = rollup::days_of(source.range).filter(is_dirty).collect();
            for part in split.parts.iter().filter(|part| part.tier_ms == 0) {
                manifest.dirty.extend(dirty.iter().map(|day| (part.class, *day)));
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
