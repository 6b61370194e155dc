//! Writing a block: series in, one durable file out.
//!
//! Ids are given in the order (job, instance, labels), so that the series of a target are
//! neighbours in the index; data lies in the order (metric name, id), so that a query of one metric
//! reads neighbouring pages. Data and index sections are a function of the samples alone. The file
//! is written as `tmp-…`, synced and renamed: under its final name it is complete.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::collections::HashMap;

use crate::disk::{Disk, WriteFile};
use crate::encoding::varint::{self, write_bytes};
use crate::encoding::{decimal, frame, histograms, timestamps};
use crate::error::{Result, io_error};
use crate::index::sealed::SealedIndexBuilder;
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::days::DaysWriter;
use crate::metrics::block::layout::{self, PAGE_BYTES, SectionKind, TocEntry};
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::block::{BLOCKS_DIR, file_name};
use crate::metrics::chunk::{self, ChunkGrid, ChunkStatistics};
use crate::metrics::histogram::Histogram;
use crate::metrics::rollup::{Component, Rollup};
use crate::metrics::sample::Samples;
use crate::time::{DAY_MS, TimeRange};
use crate::wal::record::{write_exemplar, write_metadata};

/// Chunk flags: bit 0 histograms, bit 1 timestamps are a column less the listed slots, bits 4 to 7
/// the [`Component`].
pub(crate) const CHUNK_HISTOGRAMS: u8 = 1;
pub(crate) const CHUNK_MISSING_SLOTS: u8 = 2;
pub(crate) const CHUNK_COMPONENT_SHIFT: u32 = 4;

/// By which zstd compresses pages; higher levels gain a few per cent at several times the cost.
const PAGE_ZSTD_LEVEL: i32 = 3;

/// Columns that later ones may be described by; bounds memory, and is a function of the samples.
const PARENT_COLUMNS_MAX: usize = 4096;
/// Parents tried for one column.
const PARENTS_TRIED_MAX: usize = 4;

/// Sorts label sets, with what belongs to them, into the order of ids: by job, by instance, then by
/// all labels.
pub(crate) fn sort_series<T>(series: &mut [(Labels, T)]) {
    series.sort_by_cached_key(|(labels, _)| {
        let key = |name| labels.get(name).unwrap_or("").to_owned();
        (key("job"), key("instance"), labels.clone())
    });
}

/// The ids `0..labels.len()` in the order of data: by metric name, then by id.
pub(crate) fn data_order<'a>(labels: impl Iterator<Item = &'a Labels>) -> Vec<u32> {
    let names: Vec<String> = labels.map(|labels| labels.metric_name().to_owned()).collect();
    let mut order: Vec<u32> = (0..names.len() as u32).collect();
    order.sort_by(|a, b| names[*a as usize].cmp(&names[*b as usize]));
    order
}

/// A block being written. Call [`BlockWriter::append`] for every series in data order.
#[derive(Debug)]
pub(crate) struct BlockWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Box<dyn WriteFile>,
    written: u64,
    buffer: Vec<u8>,
    toc: Vec<TocEntry>,
    section_start: u64,
    section_crc: crc32fast::Hasher,
    page: Page,
    directory: Vec<PageEntry>,
    positions: u32,
    grid: ChunkGrid,
    compressor: Option<Compressor>,
    columns: Columns,
    statistics: Vec<u8>,
    /// Of a block that is longer than a day.
    days: Option<DaysWriter>,
    meta: BlockMeta,
    is_published: bool,
}

/// How pages are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Read in place: for blocks that will soon be merged.
    Plain,
    /// A sixth smaller, and 20 µs to read.
    Compressed,
}

struct Compressor(zstd::bulk::Compressor<'static>);

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

/// What a failure leaves unfinished must not pile up on a disk that may be full.
impl Drop for BlockWriter {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = self.disk.remove(&self.path);
            let _ = self.disk.remove(&Path::new(BLOCKS_DIR).join(file_name(self.meta.id)));
        }
    }
}

/// Series of the page being filled.
#[derive(Debug, Default)]
struct Page {
    offsets: Vec<u32>,
    body: Vec<u8>,
    statistics: Vec<ChunkStatistics>,
}

#[derive(Debug)]
struct PageEntry {
    first_position: u32,
    offset: u64,
    length: u32,
    statistics_offset: u64,
}

impl BlockWriter {
    pub(crate) fn create(
        disk: Arc<dyn Disk>,
        meta: BlockMeta,
        pages: Pages,
    ) -> Result<BlockWriter> {
        let path = Path::new(BLOCKS_DIR).join(format!("tmp-{}", file_name(meta.id)));
        let file = match disk.create(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                disk.remove(&path).map_err(|e| io_error("remove", &path, e))?;
                disk.create(&path)
            }
            other => other,
        };
        let file = file.map_err(|e| io_error("create", &path, e))?;
        let grid = ChunkGrid::of_tier(i64::try_from(meta.tier_ms).expect("tiers divide a day"));
        let mut features = 0;
        if meta.tier_ms > 0 {
            features |= layout::FEATURE_ROLLUP;
        }
        let compressor = match pages {
            Pages::Plain => None,
            Pages::Compressed => {
                features |= layout::FEATURE_ZSTD_PAGES;
                let compressor = zstd::bulk::Compressor::new(PAGE_ZSTD_LEVEL);
                Some(Compressor(compressor.map_err(|e| io_error("compress", &path, e))?))
            }
        };
        let header = layout::header(meta.data_type as u8, features);
        let is_long = meta.window.end_ms.saturating_sub(meta.window.start_ms) >= DAY_MS;
        Ok(BlockWriter {
            disk,
            path,
            file,
            written: 0,
            buffer: header.to_vec(),
            toc: Vec::new(),
            section_start: header.len() as u64,
            section_crc: crc32fast::Hasher::new(),
            page: Page::default(),
            directory: Vec::new(),
            positions: 0,
            grid,
            compressor,
            columns: Columns::default(),
            statistics: Vec::new(),
            days: is_long.then(|| DaysWriter::new(meta.tier_ms > 0)),
            meta: BlockMeta { range: TimeRange::default(), ..meta },
            is_published: false,
        })
    }

    /// The next series' samples, none of them outside the block's window.
    pub(crate) fn append(&mut self, samples: &Samples) -> Result<()> {
        self.append_columns(&[(Component::Raw, samples)], &samples.timestamps)
    }

    /// The next series' buckets, in a block of their tier.
    pub(crate) fn append_rollup(&mut self, rollup: &Rollup) -> Result<()> {
        let columns: Vec<(Component, &Samples)> = rollup.stored().collect();
        self.append_columns(&columns, rollup.ends())
    }

    /// `times` are those of the rows, in whatever columns they are.
    fn append_columns(&mut self, columns: &[(Component, &Samples)], times: &[i64]) -> Result<()> {
        let offset = u32::try_from(self.page.body.len()).expect("pages are small");
        self.page.offsets.push(offset);
        let cut = |(component, samples)| (component, samples, chunk::cut(samples, self.grid));
        let columns: Vec<_> = columns.iter().copied().map(cut).collect();
        let chunks: usize = columns.iter().map(|(_, _, chunks)| chunks.len()).sum();
        assert!(chunks > 0, "a block lists no series without samples");
        varint::write(&mut self.page.body, chunks as u64);
        let mut values = Vec::new();
        if let Some(days) = &mut self.days {
            days.add(self.positions, times);
        }
        for (component, samples, chunks) in columns {
            for rows in chunks {
                self.append_chunk(component, samples, rows, &mut values);
            }
            let (Some(first), Some(last)) = (samples.timestamps.first(), samples.timestamps.last())
            else {
                continue;
            };
            let range = TimeRange::new(*first, *last);
            let empty = self.meta.range.is_empty();
            self.meta.range = if empty { range } else { self.meta.range.union(range) };
        }
        self.page.body.extend_from_slice(&values);
        self.positions += 1;
        self.meta.series += 1;
        self.meta.chunks += chunks as u64;
        self.meta.samples += times.len() as u64;
        if self.page.body.len() >= PAGE_BYTES {
            self.finish_page()?;
        }
        Ok(())
    }

    fn append_chunk(
        &mut self,
        component: Component,
        samples: &Samples,
        rows: std::ops::Range<usize>,
        values: &mut Vec<u8>,
    ) {
        let times = &samples.timestamps[rows.clone()];
        let reference = self.columns.refer(times);
        let is_histogram = samples.histogram(rows.start).is_some();
        let start = values.len();
        if is_histogram {
            let histograms: Vec<&Histogram> =
                rows.clone().filter_map(|row| samples.histogram(row)).collect();
            histograms::encode(&histograms, values);
        } else {
            decimal::encode(&samples.values[rows.clone()], values);
        }
        if component == Component::Raw {
            self.page.statistics.push(match is_histogram {
                true => ChunkStatistics {
                    count: u32::try_from(rows.len()).expect("a chunk is small"),
                    ..ChunkStatistics::default()
                },
                false => ChunkStatistics::of(&samples.values[rows.clone()]),
            });
        }
        let missing = reference.missing.is_some();
        let flags = (u8::from(is_histogram) * CHUNK_HISTOGRAMS)
            | (u8::from(missing) * CHUNK_MISSING_SLOTS)
            | (component as u8) << CHUNK_COMPONENT_SHIFT;
        let body = &mut self.page.body;
        body.push(flags);
        varint::write(body, rows.len() as u64);
        varint::write(body, u64::from(reference.column));
        if let Some(missing) = &reference.missing {
            write_bytes(body, missing);
        }
        varint::write(body, (values.len() - start) as u64);
    }

    fn finish_page(&mut self) -> Result<()> {
        let page = std::mem::take(&mut self.page);
        if page.offsets.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(page.offsets.len()).expect("pages are small");
        let mut payload = Vec::with_capacity(page.body.len() + page.offsets.len() * 4 + 8);
        payload.extend_from_slice(&count.to_le_bytes());
        page.offsets.iter().for_each(|offset| payload.extend_from_slice(&offset.to_le_bytes()));
        payload.extend_from_slice(&page.body);
        if let Some(Compressor(compressor)) = &mut self.compressor {
            let mut packed = Vec::new();
            varint::write(&mut packed, payload.len() as u64);
            packed.extend(compressor.compress(&payload).expect("compressing into memory"));
            payload = packed;
        }
        self.directory.push(PageEntry {
            first_position: self.positions - count,
            offset: self.position_in_section(),
            length: u32::try_from(payload.len() + frame::HEADER_BYTES).expect("pages are small"),
            statistics_offset: self.statistics.len() as u64,
        });
        let mut framed = Vec::with_capacity(payload.len() + frame::HEADER_BYTES);
        frame::write(&payload, &mut framed);
        self.put(&framed)?;
        write_statistics(&page.statistics, &mut self.statistics);
        Ok(())
    }

    /// Completes the file: everything but the samples, then sync, rename, sync of the folder.
    /// `labels` are those of the ids in order.
    pub(crate) fn finish(
        mut self,
        labels: &[Labels],
        exemplars: &[(u32, Exemplar)],
        metadata: &[Metadata],
    ) -> Result<BlockMeta> {
        assert_eq!(labels.len(), self.positions as usize, "every series was appended");
        self.finish_page()?;
        self.end_section(SectionKind::Pages);
        if self.positions == 0 {
            // An empty rollup lives as long as others of its day.
            self.meta.range = self.meta.window;
        }
        let directory = self.page_directory(labels);
        self.section(SectionKind::PageDirectory, &directory)?;
        let columns = std::mem::take(&mut self.columns);
        self.section(SectionKind::Columns, &columns.bytes)?;
        self.section(SectionKind::ColumnDirectory, &columns.directory())?;
        let statistics = std::mem::take(&mut self.statistics);
        self.section(SectionKind::Statistics, &statistics)?;
        let mut index = SealedIndexBuilder::new();
        labels.iter().for_each(|labels| {
            index.add(labels.iter());
        });
        self.section(SectionKind::Index, &index.finish())?;
        let mut rows = Vec::new();
        varint::write(&mut rows, exemplars.len() as u64);
        for (id, exemplar) in exemplars {
            varint::write(&mut rows, u64::from(*id));
            write_exemplar(&mut rows, exemplar);
        }
        self.section(SectionKind::Exemplars, &framed(&rows))?;
        let mut rows = Vec::new();
        varint::write(&mut rows, metadata.len() as u64);
        metadata.iter().for_each(|metadata| write_metadata(&mut rows, metadata));
        self.section(SectionKind::Metadata, &framed(&rows))?;
        if let Some(days) = self.days.take() {
            let days = days.finish(&data_order(labels.iter()));
            self.section(SectionKind::Days, &framed(&days))?;
        }
        self.finish_meta()?;
        self.publish()
    }

    /// The last section, which tells the length of the whole file and so its own.
    fn finish_meta(&mut self) -> Result<()> {
        let fixed = (self.toc.len() + 1) * layout::TOC_ENTRY_BYTES + layout::TRAILER_BYTES;
        loop {
            let mut bytes = Vec::new();
            self.meta.write(&mut bytes);
            let section = framed(&bytes);
            let total = self.length() + section.len() as u64 + fixed as u64;
            if self.meta.bytes == total {
                self.section(SectionKind::Meta, &section)?;
                break;
            }
            self.meta.bytes = total;
        }
        let footer = layout::footer(&self.toc, self.length());
        self.put(&footer)?;
        assert_eq!(self.length(), self.meta.bytes, "the meta section tells the file's length");
        Ok(())
    }

    fn publish(mut self) -> Result<BlockMeta> {
        self.flush()?;
        let path = Path::new(BLOCKS_DIR).join(file_name(self.meta.id));
        self.file.sync().map_err(|e| io_error("sync", &self.path, e))?;
        self.disk.rename(&self.path, &path).map_err(|e| io_error("rename", &self.path, e))?;
        let dir = Path::new(BLOCKS_DIR);
        self.disk.sync_dir(dir).map_err(|e| io_error("sync folder", dir, e))?;
        self.is_published = true;
        Ok(std::mem::take(&mut self.meta))
    }

    /// Pages by first position, and the position of every id.
    fn page_directory(&self, labels: &[Labels]) -> Vec<u8> {
        let mut payload = Vec::new();
        varint::write(&mut payload, self.directory.len() as u64);
        for page in &self.directory {
            varint::write(&mut payload, u64::from(page.first_position));
            varint::write(&mut payload, page.offset);
            varint::write(&mut payload, u64::from(page.length));
            varint::write(&mut payload, page.statistics_offset);
        }
        let order = data_order(labels.iter());
        let mut position_of = vec![0u32; order.len()];
        for (position, id) in order.iter().enumerate() {
            position_of[*id as usize] = u32::try_from(position).expect("ids are u32");
        }
        varint::write(&mut payload, position_of.len() as u64);
        // Neighbouring ids are mostly neighbouring metrics: zstd takes the four bytes to about two.
        let raw: Vec<u8> = position_of.iter().flat_map(|position| position.to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&raw, 3).expect("compressing into memory");
        write_bytes(&mut payload, &packed);
        framed(&payload)
    }

    fn length(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn position_in_section(&self) -> u64 {
        self.length() - self.section_start
    }

    fn section(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<()> {
        self.put(bytes)?;
        self.end_section(kind);
        Ok(())
    }

    fn end_section(&mut self, kind: SectionKind) {
        let crc = std::mem::take(&mut self.section_crc).finalize();
        let length = self.position_in_section();
        let offset = self.section_start;
        self.toc.push(TocEntry { kind: kind as u16, crc, offset, length });
        self.section_start = self.length();
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.section_crc.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 1 << 20 {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.append(&self.buffer).map_err(|e| io_error("write", &self.path, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + frame::HEADER_BYTES);
    frame::write(payload, &mut out);
    out
}

/// The statistics of one page's chunks, field by field: 7 bytes a chunk against 48 as rows.
fn write_statistics(chunks: &[ChunkStatistics], out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    varint::write(&mut payload, chunks.len() as u64);
    chunks.iter().for_each(|chunk| payload.push(chunk.flags));
    chunks.iter().for_each(|chunk| varint::write(&mut payload, u64::from(chunk.count)));
    chunks.iter().for_each(|chunk| varint::write(&mut payload, u64::from(chunk.resets)));
    // Of a constant chunk `first` says it all.
    let varying = || chunks.iter().filter(|c| c.flags & ChunkStatistics::CONSTANT == 0);
    let firsts: Vec<f64> = chunks.iter().map(|chunk| chunk.first).collect();
    let fields: [fn(&ChunkStatistics) -> f64; 5] =
        [|c| c.last, |c| c.min, |c| c.max, |c| c.sum, |c| c.reset_sum];
    let columns = std::iter::once(firsts)
        .chain(fields.into_iter().map(|field| varying().map(field).collect()));
    for column in columns {
        let mut bytes = Vec::new();
        decimal::encode(&column, &mut bytes);
        write_bytes(&mut payload, &bytes);
    }
    let packed = zstd::bulk::compress(&payload, 3).expect("compressing into memory");
    let mut section = Vec::new();
    varint::write(&mut section, payload.len() as u64);
    section.extend_from_slice(&packed);
    frame::write(&section, out);
}

/// The timestamp columns of a block, each stored once.
///
/// A column that lacks some slots of an earlier one is described by what it lacks. Which one is a
/// function of the columns before it, so of the samples alone.
#[derive(Debug, Default)]
struct Columns {
    bytes: Vec<u8>,
    ends: Vec<(u64, u32)>,
    by_content: HashMap<u128, Reference>,
    parents: Vec<(u32, Vec<i64>)>,
    by_first: HashMap<i64, Vec<u32>>,
    by_last: HashMap<i64, Vec<u32>>,
}

#[derive(Clone, Debug)]
struct Reference {
    column: u32,
    missing: Option<Arc<[u8]>>,
}

impl Columns {
    fn refer(&mut self, times: &[i64]) -> Reference {
        let content = timestamps::content(times);
        if let Some(reference) = self.by_content.get(&content) {
            return reference.clone();
        }
        let mut own = Vec::new();
        timestamps::encode(times, &mut own);
        let reference =
            self.describe_by_parent(times, own.len()).unwrap_or_else(|| self.add(times, &own));
        self.by_content.insert(content, reference.clone());
        reference
    }

    fn add(&mut self, times: &[i64], encoded: &[u8]) -> Reference {
        let column = u32::try_from(self.ends.len()).expect("columns fit 32 bits");
        frame::write(encoded, &mut self.bytes);
        let count = u32::try_from(times.len()).expect("a chunk is small");
        self.ends.push((self.bytes.len() as u64, count));
        if self.parents.len() < PARENT_COLUMNS_MAX && times.len() > 2 {
            let parent = u32::try_from(self.parents.len()).expect("bounded");
            self.parents.push((column, times.to_vec()));
            self.by_first.entry(times[0]).or_default().push(parent);
            self.by_last.entry(times[times.len() - 1]).or_default().push(parent);
        }
        Reference { column, missing: None }
    }

    /// The first earlier column that has all of `times` and costs less than a column of its own.
    fn describe_by_parent(&self, times: &[i64], own_bytes: usize) -> Option<Reference> {
        let (first, last) = (times.first()?, times.last()?);
        let candidates = |map: &HashMap<i64, Vec<u32>>, key| {
            let found = map.get(key).map_or(&[][..], |list| list);
            found.iter().take(PARENTS_TRIED_MAX).copied().collect::<Vec<u32>>()
        };
        let tried = candidates(&self.by_first, first);
        let tried = tried.into_iter().chain(candidates(&self.by_last, last));
        for parent in tried {
            let (column, parent_times) = &self.parents[parent as usize];
            let mut missing = Vec::new();
            let is_subset = parent_times.len() > times.len()
                && timestamps::write_missing(parent_times, times, &mut missing);
            if is_subset && missing.len() < own_bytes {
                return Some(Reference { column: *column, missing: Some(missing.into()) });
            }
        }
        None
    }

    /// Ends of the columns' frames and their lengths in timestamps.
    fn directory(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        varint::write(&mut payload, self.ends.len() as u64);
        let mut previous = 0;
        for (end, count) in &self.ends {
            varint::write(&mut payload, end - previous);
            varint::write(&mut payload, u64::from(*count));
            previous = *end;
        }
        framed(&payload)
    }
}
