//! Merging: the blocks of one window become one, as if their samples had come together.
//!
//! A [`Merge`] is carried out in slices, so that sealing and checkpoints never wait for a large one.

use std::sync::Arc;

use crate::compaction::seal::families;
use crate::compaction::union::{Kept, Union};
use crate::deletes::live::LiveBlock;
use crate::disk::Disk;
use crate::error::Result;
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::writer::{BlockWriter, Pages};
use crate::time::{TimeRange, WINDOW_MS, windows_of};

/// Exemplars by the ids of the merged block, and metadata.
type Described = (Vec<(u32, Exemplar)>, Vec<Metadata>);

/// A block in the making.
#[derive(Debug)]
pub(crate) struct Merge {
    id: BlockId,
    union: Union,
    /// Ids of the series that have rows.
    kept: Vec<u32>,
    writer: BlockWriter,
    is_rollup: bool,
}

impl Merge {
    /// Begins a block with the content of `inputs`, which are of one kind; of two values for a
    /// timestamp the greater wins, as everywhere. `meta` names the new block; sources, level and
    /// sequence follow from the inputs.
    pub(crate) fn begin(
        disk: &Arc<dyn Disk>,
        inputs: Vec<LiveBlock>,
        meta: BlockMeta,
    ) -> Result<Merge> {
        Merge::begin_part(disk, inputs, meta, |_| true, true)
    }

    /// [`Merge::begin`] with the series that `keep` accepts. Several parts replace the inputs
    /// together, so only the last to be written says that it does: without a manifest, inputs are
    /// live until all parts are there.
    pub(crate) fn begin_part(
        disk: &Arc<dyn Disk>,
        inputs: Vec<LiveBlock>,
        meta: BlockMeta,
        keep: impl Fn(&Labels) -> bool,
        is_last: bool,
    ) -> Result<Merge> {
        let mut meta = BlockMeta {
            sources: inputs.iter().map(|block| block.meta().id).collect(),
            level: inputs.iter().map(|block| block.meta().level).max().unwrap_or(0) + 1,
            sequence: sequence(&inputs, meta.window),
            ..meta
        };
        if !is_last {
            meta.sources.clear();
            meta.sequence = 0;
        }
        let is_recent = meta.window.end_ms.saturating_sub(meta.window.start_ms) < WINDOW_MS;
        let pages = if is_recent { Pages::Plain } else { Pages::Compressed };
        let (id, is_rollup) = (meta.id, meta.tier_ms > 0);
        let union = Union::of(inputs, keep)?;
        let writer = BlockWriter::create(disk.clone(), meta, pages)?;
        Ok(Merge { id, union, kept: Vec::new(), writer, is_rollup })
    }

    /// Number of the block in the making.
    pub(crate) fn id(&self) -> BlockId {
        self.id
    }

    pub(crate) fn inputs(&self) -> &[LiveBlock] {
        self.union.inputs()
    }

    /// Writes further series until it has written `rows` rows or all; whether it has all.
    pub(crate) fn advance(&mut self, rows: usize) -> Result<bool> {
        let Merge { union, kept, writer, is_rollup, .. } = self;
        union.advance(rows, |union, id| {
            let rows = if *is_rollup {
                let rollup = union.read_rollup(id)?;
                if rollup.is_empty() {
                    return Ok(0);
                }
                writer.append_rollup(&rollup)?;
                rollup.ends().len()
            } else {
                let samples = union.read(id, TimeRange::ALL)?;
                if samples.is_empty() {
                    return Ok(0);
                }
                writer.append(samples)?;
                samples.len()
            };
            kept.push(id);
            Ok(rows)
        })
    }

    /// Completes the file. All series have been written. `None` if nothing is left of them.
    pub(crate) fn finish(self) -> Result<Option<BlockMeta>> {
        // An empty rollup says that its days were done.
        if self.kept.is_empty() && !self.is_rollup {
            return Ok(None);
        }
        let (inputs, kept) = self.union.keep(self.kept);
        let (exemplars, metadata) = describe(&inputs, &kept)?;
        self.writer.finish(&kept.labels, &exemplars, &metadata).map(Some)
    }
}

/// Up to which write all rows of the window are in the inputs: of each two hours the newest that an
/// input knows of, and of those the oldest. 0 if some of them are in none.
fn sequence(inputs: &[LiveBlock], window: TimeRange) -> u64 {
    let known = |start: i64| {
        let of_window = TimeRange::new(start, start);
        let inputs = inputs.iter().map(|block| block.meta());
        let covering = inputs.filter(|meta| meta.window.overlaps(of_window));
        covering.map(|meta| meta.sequence).max().unwrap_or(0)
    };
    windows_of(window).map(known).min().unwrap_or(0)
}

fn describe(inputs: &[LiveBlock], kept: &Kept) -> Result<Described> {
    let mut exemplars = Vec::new();
    let mut metadata: Vec<Metadata> = Vec::new();
    for (input, block) in inputs.iter().enumerate() {
        let of_block = block.exemplars()?.into_iter();
        exemplars.extend(of_block.filter_map(|(id, one)| Some((kept.id_of(input, id)?, one))));
        for one in block.metadata()? {
            if !metadata.contains(&one) {
                metadata.push(one);
            }
        }
    }
    exemplars.sort_by(|(a_id, a), (b_id, b)| {
        let by_place = (a_id, a.timestamp, &a.labels).cmp(&(b_id, b.timestamp, &b.labels));
        by_place.then(a.value.total_cmp(&b.value))
    });
    exemplars.dedup();
    metadata.sort_by(|a, b| a.family.cmp(&b.family));
    Ok((exemplars, families(metadata.iter(), &kept.labels)))
}
