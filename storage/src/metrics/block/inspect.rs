//! What a block consists of, for people who wonder where the bytes went.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::encoding::decimal;
use crate::encoding::varint::read_count;
use crate::error::{Result, io_error};
use crate::metrics::block::check::sections;
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::block::page_cache::PageCache;
use crate::metrics::block::writer::{CHUNK_HISTOGRAMS, CHUNK_MISSING_SLOTS};
use crate::metrics::block::{Block, chunk_head, layout, series_body};
use crate::metrics::rollup::Component;

/// A section of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionFacts {
    pub name: &'static str,
    pub offset: u64,
    pub bytes: u64,
    pub crc: u32,
    /// Whether the checksum is that of the bytes.
    pub is_intact: bool,
}

/// The series of one metric name in a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricFacts {
    pub name: String,
    pub series: u64,
    pub samples: u64,
    /// Of their chunks' heads and values; timestamps are shared between metrics.
    pub bytes: u64,
}

/// Chunks by how they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkFacts {
    pub floats: u64,
    pub histograms: u64,
    /// Of all, those whose timestamps are a column less some slots.
    pub with_missing_slots: u64,
    pub float_value_bytes: u64,
    pub histogram_value_bytes: u64,
    /// Columns of floats by the name of their form, with their bytes.
    pub float_forms: BTreeMap<&'static str, (u64, u64)>,
}

/// All that is told of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockFacts {
    pub meta: BlockMeta,
    pub sections: Vec<SectionFacts>,
    pub pages: u64,
    pub columns: u64,
    pub chunks: ChunkFacts,
    /// By bytes, the largest first.
    pub metrics: Vec<MetricFacts>,
}

/// Reads the block file at `path`, whatever it is called.
pub fn block(disk: &Arc<dyn Disk>, path: &Path) -> Result<BlockFacts> {
    let file = disk.open(path).map_err(|e| io_error("open", path, e))?;
    let mut facts = Vec::new();
    for section in sections(file.as_ref(), path)? {
        let bytes = file.range(section.offset..section.offset + section.length);
        let bytes = bytes.map_err(|e| io_error("read", path, e))?;
        facts.push(SectionFacts {
            name: layout::section_name(section.kind),
            offset: section.offset,
            bytes: section.length,
            crc: section.crc,
            is_intact: crc32fast::hash(&bytes) == section.crc,
        });
    }
    let cache = Arc::new(PageCache::new(0));
    Block::open_at(disk.clone(), path, None, &cache)?.facts(facts)
}

impl Block {
    fn facts(&self, sections: Vec<SectionFacts>) -> Result<BlockFacts> {
        let mut name_of = vec![String::new(); self.position_of.len()];
        self.visit_labels(&self.index.all(), |id, labels| {
            let position = self.position_of[id as usize] as usize;
            labels.metric_name().clone_into(&mut name_of[position]);
        })?;
        let mut chunks = ChunkFacts::default();
        let mut metrics: HashMap<&str, MetricFacts> = HashMap::new();
        for (page, entry) in self.directory.iter().enumerate() {
            let payload = self.page(page)?;
            let damaged = || self.corrupt(self.pages.offset + entry.offset, "page");
            let next = self.directory.get(page + 1).map(|next| next.first_position as usize);
            let end = next.unwrap_or(name_of.len());
            for (slot, name) in (0..).zip(&name_of[entry.first_position as usize..end]) {
                let body = series_body(&payload, slot).ok_or_else(damaged)?;
                let (samples, bytes) = chunks.add_series(body).ok_or_else(damaged)?;
                let metric = metrics.entry(name).or_default();
                metric.series += 1;
                metric.samples += samples;
                metric.bytes += bytes;
            }
        }
        let with_name =
            |(name, facts): (&str, MetricFacts)| MetricFacts { name: name.to_owned(), ..facts };
        let mut metrics: Vec<MetricFacts> = metrics.into_iter().map(with_name).collect();
        metrics.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        Ok(BlockFacts {
            meta: self.meta.clone(),
            sections,
            pages: self.directory.len() as u64,
            columns: self.column_ends.len() as u64,
            chunks,
            metrics,
        })
    }
}

impl ChunkFacts {
    /// Counts the chunks of a series; its samples and bytes.
    fn add_series(&mut self, body: &[u8]) -> Option<(u64, u64)> {
        let mut rest = body;
        let chunks = read_count(&mut rest, 4)?;
        // All heads stand before all values.
        let heads = (0..chunks).map(|_| chunk_head(&mut rest)).collect::<Option<Vec<_>>>()?;
        let mut samples = 0;
        for head in heads {
            let (values, behind) = rest.split_at_checked(head.value_bytes)?;
            rest = behind;
            let bytes = head.value_bytes as u64;
            if head.flags & CHUNK_HISTOGRAMS == 0 {
                self.floats += 1;
                self.float_value_bytes += bytes;
                let form = self.float_forms.entry(decimal::form_name(values)).or_default();
                *form = (form.0 + 1, form.1 + bytes);
            } else {
                self.histograms += 1;
                self.histogram_value_bytes += bytes;
            }
            self.with_missing_slots += u64::from(head.flags & CHUNK_MISSING_SLOTS != 0);
            // Of a rollup its buckets: each component has rows of its own.
            if matches!(head.component()?, Component::Raw | Component::Count) {
                samples += head.count as u64;
            }
        }
        Some((samples, (body.len() - rest.len()) as u64))
    }
}
