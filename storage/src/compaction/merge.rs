//! Merging: the blocks of one window become one, as if their samples had come together.

use std::sync::Arc;

use crate::compaction::seal::families;
use crate::disk::Disk;
use crate::error::Result;
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::Block;
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::block::writer::{BlockWriter, data_order, sort_series};
use crate::metrics::chunk;
use crate::metrics::sample::Samples;
use crate::time::TimeRange;

/// Where a merged series comes from: (input, id there).
type Origins = Vec<(u32, u32)>;

/// Exemplars by the ids of the merged block, and metadata.
type Described = (Vec<(u32, Exemplar)>, Vec<Metadata>);

/// Writes a block with the content of `inputs`; of two values for a timestamp the greater wins, as
/// everywhere. `meta` names the new block; sources, level and sequence follow from the inputs.
pub(crate) fn merge(
    disk: &Arc<dyn Disk>,
    inputs: &[Arc<Block>],
    meta: BlockMeta,
) -> Result<BlockMeta> {
    let meta = BlockMeta {
        sources: inputs.iter().map(|block| block.meta().id).collect(),
        level: inputs.iter().map(|block| block.meta().level).max().unwrap_or(0) + 1,
        sequence: inputs.iter().map(|block| block.meta().sequence).max().unwrap_or(0),
        ..meta
    };
    let (labels, origins) = union(inputs)?;
    let order = data_order(labels.iter());
    let mut writer = BlockWriter::create(disk.clone(), meta)?;
    append_all(inputs, &order, &origins, &mut writer)?;
    let (exemplars, metadata) = describe(inputs, &labels, &origins)?;
    writer.finish(&labels, &exemplars, &metadata)
}

/// All series in the order of ids, each with its origins.
fn union(inputs: &[Arc<Block>]) -> Result<(Vec<Labels>, Vec<Origins>)> {
    let mut series: Vec<(Labels, (u32, u32))> = Vec::new();
    for (input, block) in inputs.iter().enumerate() {
        block.visit_labels(&block.index.all(), |id, labels| {
            series.push((labels, (input as u32, id)));
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

fn append_all(
    inputs: &[Arc<Block>],
    order: &[u32],
    origins: &[Origins],
    writer: &mut BlockWriter,
) -> Result<()> {
    let (mut samples, mut other) = (Samples::default(), Samples::default());
    for &id in order {
        samples.clear();
        for (input, id) in &origins[id as usize] {
            other.clear();
            inputs[*input as usize].read(*id, TimeRange::ALL, None, &mut other)?;
            chunk::merge(&mut samples, &other);
        }
        writer.append(&samples)?;
    }
    Ok(())
}

fn describe(inputs: &[Arc<Block>], labels: &[Labels], origins: &[Origins]) -> Result<Described> {
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
