//! Merging: the blocks of one window become one, as if their samples had come together.
//!
//! A [`Merge`] is carried out in slices, so that sealing and checkpoints never wait for a large one.
//! It holds the labels of all its series and the samples of one.

use std::sync::Arc;

use crate::compaction::seal::families;
use crate::deletes::live::LiveBlock;
use crate::disk::Disk;
use crate::error::Result;
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::writer::{BlockWriter, Pages, data_order, sort_series};
use crate::metrics::chunk;
use crate::metrics::rollup::{Components, Rollup};
use crate::metrics::sample::Samples;
use crate::time::{TimeRange, WINDOW_MS, windows_of};

/// Where a merged series comes from: (input, id there).
pub(super) type Origins = Vec<(u32, u32)>;

/// Exemplars by the ids of the merged block, and metadata.
type Described = (Vec<(u32, Exemplar)>, Vec<Metadata>);

/// A block in the making.
#[derive(Debug)]
pub(crate) struct Merge {
    id: BlockId,
    inputs: Vec<LiveBlock>,
    labels: Vec<Labels>,
    origins: Vec<Origins>,
    /// Ids in the order of data, and how many of them are written.
    order: Vec<u32>,
    written: usize,
    /// Ids of the series that have rows.
    kept: Vec<u32>,
    writer: BlockWriter,
    is_rollup: bool,
    samples: Samples,
    other: Samples,
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
        let (labels, origins) = union(&inputs, keep)?;
        let order = data_order(labels.iter());
        let writer = BlockWriter::create(disk.clone(), meta, pages)?;
        let (samples, other) = Default::default();
        Ok(Merge {
            id,
            inputs,
            labels,
            origins,
            order,
            written: 0,
            kept: Vec::new(),
            writer,
            is_rollup,
            samples,
            other,
        })
    }

    /// Number of the block in the making.
    pub(crate) fn id(&self) -> BlockId {
        self.id
    }

    pub(crate) fn inputs(&self) -> &[LiveBlock] {
        &self.inputs
    }

    /// Writes further series until it has written `rows` rows or all; whether it has all.
    pub(crate) fn advance(&mut self, rows: usize) -> Result<bool> {
        let mut done = 0;
        while done < rows && self.written < self.order.len() {
            let id = self.order[self.written];
            done += match self.is_rollup {
                true => self.append_rollup(id)?,
                false => self.append_samples(id)?,
            };
            self.written += 1;
        }
        Ok(self.written == self.order.len())
    }

    fn append_samples(&mut self, id: u32) -> Result<usize> {
        let Merge { samples, other, .. } = self;
        samples.clear();
        for (input, id) in &self.origins[id as usize] {
            other.clear();
            self.inputs[*input as usize].read(*id, TimeRange::ALL, None, other)?;
            chunk::merge(samples, other);
        }
        if samples.is_empty() {
            return Ok(1);
        }
        self.writer.append(samples)?;
        self.kept.push(id);
        Ok(samples.len())
    }

    /// Of two blocks of a tier that cover a time the newer one was made again from the raw samples.
    fn append_rollup(&mut self, id: u32) -> Result<usize> {
        let mut merged = Rollup::default();
        for (input, id) in &self.origins[id as usize] {
            let mut one = Rollup::default();
            let input = &self.inputs[*input as usize];
            input.read_rollup(*id, TimeRange::ALL, Components::ALL, &mut one)?;
            let newer = self.inputs.iter().map(|block| block.meta());
            for meta in newer.filter(|meta| meta.id > input.meta().id) {
                one.remove(meta.window);
            }
            merged.merge(one);
        }
        if merged.is_empty() {
            return Ok(1);
        }
        self.writer.append_rollup(&merged)?;
        self.kept.push(id);
        Ok(merged.ends().len())
    }

    /// Completes the file. All series have been written. `None` if nothing is left of them.
    pub(crate) fn finish(mut self) -> Result<Option<BlockMeta>> {
        // An empty rollup says that its days were done.
        if self.kept.is_empty() && !self.is_rollup {
            return Ok(None);
        }
        self.kept.sort_unstable();
        let mut kept = self.kept.iter().map(|id| *id as usize).peekable();
        let mut number = 0..;
        let mut is_kept = || {
            let id = number.next().expect("numbers do not end");
            kept.next_if_eq(&id).is_some()
        };
        let with_origins = self.labels.into_iter().zip(self.origins).filter(|_| is_kept());
        let (labels, origins): (Vec<Labels>, Vec<Origins>) = with_origins.unzip();
        let (exemplars, metadata) = describe(&self.inputs, &labels, &origins)?;
        self.writer.finish(&labels, &exemplars, &metadata).map(Some)
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

/// All series that are to be kept in the order of ids, each with its origins.
pub(super) fn union(
    inputs: &[LiveBlock],
    keep: impl Fn(&Labels) -> bool,
) -> Result<(Vec<Labels>, Vec<Origins>)> {
    let mut series: Vec<(Labels, (u32, u32))> = Vec::new();
    for (input, block) in inputs.iter().enumerate() {
        block.visit_labels(&block.index.all(), |id, labels| {
            if keep(&labels) {
                series.push((labels, (input as u32, id)));
            }
        })?;
    }
    sort_series(&mut series);
    let mut labels: Vec<Labels> = Vec::new();
    let mut origins: Vec<Origins> = Vec::new();
    for (one, origin) in series {
        match (labels.last(), origins.last_mut()) {
            (Some(last), Some(known)) if *last == one => known.push(origin),
            _ => {
                labels.push(one);
                origins.push(vec![origin]);
            }
        }
    }
    Ok((labels, origins))
}

fn describe(inputs: &[LiveBlock], labels: &[Labels], origins: &[Origins]) -> Result<Described> {
    let mut merged_ids: Vec<((u32, u32), u32)> = Vec::new();
    for (id, origins) in origins.iter().enumerate() {
        merged_ids.extend(origins.iter().map(|origin| (*origin, id as u32)));
    }
    merged_ids.sort_unstable();
    let mut exemplars = Vec::new();
    let mut metadata: Vec<Metadata> = Vec::new();
    for (input, block) in inputs.iter().enumerate() {
        for (id, exemplar) in block.exemplars()? {
            let origin = (input as u32, id);
            if let Ok(at) = merged_ids.binary_search_by_key(&origin, |(origin, _)| *origin) {
                exemplars.push((merged_ids[at].1, exemplar));
            }
        }
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
    Ok((exemplars, families(metadata.iter(), labels)))
}
