//! Blocks: sealed, immutable files of samples with their own index.
//!
//! [`Block::open`] checks header, table of contents and directories; pages and columns are checked
//! when they are first read. [`writer`] makes blocks, [`layout`] knows their positions.

pub(crate) mod check;
mod days;
pub(crate) mod inspect;
pub(crate) mod layout;
pub mod meta;
pub(crate) mod page_cache;
mod statistics;
pub(crate) mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use roaring::RoaringBitmap;

use crate::disk::{Disk, ReadFile};
use crate::encoding::varint::{self, read_bytes, read_count};
use crate::encoding::{decimal, frame, histograms, timestamps};
use crate::error::{Error, Result, io_error};
use crate::index::Damage;
use crate::index::sealed::SealedIndex;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::layout::{SectionKind, TocEntry};
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::page_cache::PageCache;
use crate::metrics::block::statistics::StatisticsCache;
use crate::metrics::block::writer::{CHUNK_COMPONENT_SHIFT, CHUNK_HISTOGRAMS, CHUNK_MISSING_SLOTS};
use crate::metrics::chunk::{CHUNK_SAMPLES_MAX, ChunkGrid, ChunkStatistics};
use crate::metrics::rollup::{Component, Components, Rollup};
use crate::metrics::sample::Samples;
use crate::outline::Outliner;
use crate::time::TimeRange;
use crate::wal::record::{read_exemplar, read_metadata};

/// Folder of the blocks, below the data directory.
pub const BLOCKS_DIR: &str = "blocks";

/// A page longer than this is damaged: one series of 64 days at a millisecond's step is shorter.
const PAGE_BYTES_MAX: u64 = 1 << 30;

/// Decoded timestamp columns that a block keeps: 4 KiB each at 480 samples.
const COLUMNS_CACHED_MAX: usize = 512;

/// `block-0000000000000001`, in hexadecimal.
pub(crate) fn file_name(id: BlockId) -> String {
    format!("block-{id}")
}

pub(crate) fn id_of(name: &str) -> Option<BlockId> {
    let digits = name.strip_prefix("block-").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok().map(BlockId)
}

pub(crate) fn path(id: BlockId) -> PathBuf {
    Path::new(BLOCKS_DIR).join(file_name(id))
}

/// An open block.
#[derive(Debug)]
pub(crate) struct Block {
    meta: BlockMeta,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    pub(crate) index: SealedIndex,
    index_offset: u64,
    pages: Section,
    directory: Vec<PageEntry>,
    /// One bit a page whose checksum held.
    checked: Vec<AtomicU64>,
    /// Of compressed pages.
    cache: Option<Arc<PageCache>>,
    position_of: Vec<u32>,
    columns: Section,
    column_ends: Vec<(u64, u32)>,
    columns_cached: RwLock<ColumnCache>,
    statistics: Section,
    statistics_cached: StatisticsCache,
    exemplars: Section,
    metadata: Section,
    days: Option<Section>,
    /// Set once no manifest names the block: the file goes with the last reader.
    retired: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct PageEntry {
    first_position: u32,
    offset: u64,
    length: u32,
    statistics_offset: u64,
}

#[derive(Debug)]
struct Section {
    offset: u64,
    bytes: Bytes,
}

/// Decoded timestamp columns by number.
#[derive(Debug, Default)]
struct ColumnCache {
    times: Vec<Option<Arc<[i64]>>>,
    held: usize,
}

impl ColumnCache {
    fn insert(&mut self, column: usize, times: Arc<[i64]>, columns: usize) {
        if self.held >= COLUMNS_CACHED_MAX {
            *self = ColumnCache::default();
        }
        self.times.resize(columns, None);
        self.held += usize::from(self.times[column].replace(times).is_none());
    }
}

/// Samples of one chunk, where its bytes are.
struct ChunkHead<'a> {
    flags: u8,
    count: usize,
    column: u32,
    missing: &'a [u8],
    value_bytes: usize,
}

impl ChunkHead<'_> {
    fn component(&self) -> Option<Component> {
        Component::from_number(self.flags >> CHUNK_COMPONENT_SHIFT)
    }
}

/// The payload of a page.
enum Page<'a> {
    InPlace(&'a [u8]),
    Decompressed(Arc<[u8]>),
}

impl std::ops::Deref for Page<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Page::InPlace(bytes) => bytes,
            Page::Decompressed(bytes) => bytes,
        }
    }
}

/// Where a chunk is: its series is the `slot`-th of a page.
#[derive(Clone, Copy, Debug)]
struct ChunkPlace {
    page: usize,
    slot: u32,
    chunk: usize,
}

impl Block {
    /// Opens the block of a file name that a manifest or a folder listing gave.
    /// Decompressed pages, if the block has compressed ones, are kept in `cache`.
    pub(crate) fn open(disk: Arc<dyn Disk>, id: BlockId, cache: &Arc<PageCache>) -> Result<Block> {
        Block::open_at(disk, &path(id), Some(id), cache)
    }

    /// Opens a block file of any name; if an id is given, it must be the block's.
    pub(crate) fn open_at(
        disk: Arc<dyn Disk>,
        path: &Path,
        id: Option<BlockId>,
        cache: &Arc<PageCache>,
    ) -> Result<Block> {
        let path = path.to_owned();
        let file = disk.open(&path).map_err(|e| io_error("open", &path, e))?;
        let length = file.length();
        let corrupt = |offset: u64, what: &str| Error::Corrupt {
            path: path.clone(),
            offset,
            what: what.to_owned(),
        };
        let range = |start: u64, end: u64| {
            if start > end || end > length {
                return Err(corrupt(start, "a section reaches past the end of the file"));
            }
            file.range(start..end).map_err(|e| io_error("read", &path, e))
        };
        let header_end = layout::HEADER_BYTES as u64;
        let trailer_start = length.saturating_sub(layout::TRAILER_BYTES as u64);
        let features = layout::check_header(&range(0, header_end.min(length))?);
        let features = features.map_err(|(what, newer)| match newer {
            true => Error::Unsupported { path: path.clone(), what: what.to_owned() },
            false => corrupt(0, what),
        })?;
        let has = |feature: u32| features & feature != 0;
        let (toc_range, crc) = layout::toc_range(&range(trailer_start, length)?, length)
            .ok_or_else(|| corrupt(trailer_start, "the trailer is not that of a block"))?;
        let toc = layout::parse_toc(&range(toc_range.start, toc_range.end)?, crc)
            .ok_or_else(|| corrupt(toc_range.start, "the table of contents is damaged"))?;
        let section = |kind: SectionKind| {
            let entry =
                find(&toc, kind).ok_or_else(|| corrupt(toc_range.start, "a section is missing"))?;
            let end = entry.offset.checked_add(entry.length);
            let end = end.ok_or_else(|| corrupt(entry.offset, "a section is too long"))?;
            Ok::<_, Error>(Section { offset: entry.offset, bytes: range(entry.offset, end)? })
        };
        let meta_section = section(SectionKind::Meta)?;
        let meta = meta_section
            .framed()
            .and_then(BlockMeta::parse)
            .filter(|meta| id.is_none_or(|id| meta.id == id) && meta.bytes == length)
            .filter(|meta| has(layout::FEATURE_ROLLUP) == (meta.tier_ms > 0))
            .ok_or_else(|| corrupt(meta_section.offset, "the meta section is damaged"))?;
        let directory_section = section(SectionKind::PageDirectory)?;
        let (directory, position_of) = directory_section
            .framed()
            .and_then(|bytes| parse_page_directory(bytes, meta.series))
            .ok_or_else(|| corrupt(directory_section.offset, "the page directory is damaged"))?;
        let column_directory = section(SectionKind::ColumnDirectory)?;
        let column_ends = column_directory
            .framed()
            .and_then(parse_column_directory)
            .ok_or_else(|| corrupt(column_directory.offset, "the column directory is damaged"))?;
        let index_section = section(SectionKind::Index)?;
        let index = SealedIndex::open(index_section.bytes.clone())
            .map_err(|damage| damage.in_file(&path, index_section.offset))?;
        if u64::from(index.series_count()) != meta.series {
            return Err(corrupt(index_section.offset, "the index has other series"));
        }
        let checked = (0..directory.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let statistics_cached = StatisticsCache::new(directory.len());
        Ok(Block {
            pages: section(SectionKind::Pages)?,
            columns: section(SectionKind::Columns)?,
            statistics: section(SectionKind::Statistics)?,
            exemplars: section(SectionKind::Exemplars)?,
            metadata: section(SectionKind::Metadata)?,
            days: find(&toc, SectionKind::Days).map(|_| section(SectionKind::Days)).transpose()?,
            meta,
            path,
            disk,
            index,
            index_offset: index_section.offset,
            directory,
            checked,
            cache: has(layout::FEATURE_ZSTD_PAGES).then(|| cache.clone()),
            position_of,
            column_ends,
            columns_cached: RwLock::default(),
            statistics_cached,
            retired: AtomicBool::new(false),
        })
    }

    pub(crate) fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Ids of the series that fulfil all matchers.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> Result<RoaringBitmap> {
        self.index.select(matchers).map_err(|damage| self.index_damage(damage))
    }

    /// The series that have a label, whatever its value; `None` if none has.
    pub(crate) fn with_label(&self, name: &str) -> Result<Option<RoaringBitmap>> {
        self.index.with_label(name).map_err(|damage| self.index_damage(damage))
    }

    /// The series that have samples of the day that begins at `day_ms`; `None` where that is not
    /// told: by blocks of a day or less, and by older ones.
    pub(crate) fn series_of_day(&self, day_ms: i64) -> Result<Option<RoaringBitmap>> {
        let Some(section) = &self.days else { return Ok(None) };
        let series = self.index.series_count();
        let found = section.framed().and_then(|days| days::series_of_day(days, day_ms, series));
        found.map(Some).ok_or_else(|| self.corrupt(section.offset, "days"))
    }

    /// The labels of these series, ids ascending.
    pub(crate) fn visit_labels(
        &self,
        ids: &RoaringBitmap,
        visit: impl FnMut(u32, Labels),
    ) -> Result<()> {
        self.index.labels_of(ids, visit).map_err(|damage| self.index_damage(damage))
    }

    /// Their canonical label bytes.
    pub(crate) fn visit_label_bytes(
        &self,
        ids: &RoaringBitmap,
        visit: impl FnMut(u32, &[u8]),
    ) -> Result<()> {
        self.index.label_bytes_of(ids, visit).map_err(|damage| self.index_damage(damage))
    }

    pub(crate) fn label_names(&self, ids: &RoaringBitmap) -> Result<Vec<String>> {
        self.index.label_names(Some(ids)).map_err(|damage| self.index_damage(damage))
    }

    pub(crate) fn label_values(&self, name: &str, ids: &RoaringBitmap) -> Result<Vec<String>> {
        self.index.label_values(name, Some(ids)).map_err(|damage| self.index_damage(damage))
    }

    pub(crate) fn index_damage(&self, damage: Damage) -> Error {
        damage.in_file(&self.path, self.index_offset)
    }

    /// Appends the samples of a series that fall into `range`, and perhaps others of its chunks; with
    /// an outliner, stand-ins for some chunks.
    pub(crate) fn read(
        &self,
        id: u32,
        range: TimeRange,
        mut outliner: Option<&mut Outliner<'_>>,
        into: &mut Samples,
    ) -> Result<()> {
        self.visit_chunks(id, |head, at, values| match head.component() {
            Some(Component::Raw) => {
                self.read_chunk(head, at, values, range, outliner.as_deref_mut(), into)
            }
            _ => Err(self.corrupt(self.pages.offset, "chunk of a rollup")),
        })
    }

    /// Fills `into` with those columns of a rolled-up series that are `wanted`, and perhaps more;
    /// whole chunks that overlap `range`. The block is one of a tier.
    pub(crate) fn read_rollup(
        &self,
        id: u32,
        range: TimeRange,
        wanted: Components,
        into: &mut Rollup,
    ) -> Result<()> {
        let resolution_ms = i64::try_from(self.meta.tier_ms).unwrap_or(i64::MAX);
        *into = Rollup::new(resolution_ms);
        let stored = wanted.with_implying();
        // Whole chunks on the grid of chunks, so that all columns have the same buckets.
        let range = ChunkGrid::of_tier(resolution_ms).whole(range);
        self.visit_chunks(id, |head, at, values| match head.component() {
            Some(component) if component != Component::Raw => match stored.contains(component) {
                true => {
                    let column = into.column_mut(component);
                    self.read_chunk(head, at, values, range, None, column)
                }
                false => Ok(()),
            },
            _ => Err(self.corrupt(self.pages.offset, "chunk of a rollup")),
        })?;
        into.restore(stored);
        match into.is_whole(wanted) {
            true => Ok(()),
            false => Err(self.corrupt(self.pages.offset, "columns of a rollup")),
        }
    }

    /// Appends the timestamps of a series; values are not decoded.
    pub(crate) fn read_times(&self, id: u32, into: &mut Vec<i64>) -> Result<()> {
        self.visit_chunks(id, |head, _, _| {
            let column = self.column(head.column)?;
            match head.flags & CHUNK_MISSING_SLOTS {
                0 => into.extend_from_slice(&column),
                _ => timestamps::read_missing(head.missing, &column, into)
                    .ok_or_else(|| self.corrupt(self.pages.offset, "chunk"))?,
            }
            Ok(())
        })
    }

    /// Calls `visit` with each chunk of a series and its values.
    fn visit_chunks(
        &self,
        id: u32,
        mut visit: impl FnMut(&ChunkHead<'_>, ChunkPlace, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let position = self.position_of[id as usize];
        let page = self.directory.partition_point(|page| page.first_position <= position) - 1;
        let payload = self.page(page)?;
        let corrupt = || self.corrupt(self.pages.offset + self.directory[page].offset, "page");
        let slot = position - self.directory[page].first_position;
        let mut body = series_body(&payload, slot).ok_or_else(corrupt)?;
        let chunks = read_count(&mut body, 4).ok_or_else(corrupt)?;
        // All heads stand before all values.
        let mut values = body;
        for _ in 0..chunks {
            chunk_head(&mut values).ok_or_else(corrupt)?;
        }
        for chunk in 0..chunks {
            let head = chunk_head(&mut body).ok_or_else(corrupt)?;
            let (of_chunk, rest) = values.split_at_checked(head.value_bytes).ok_or_else(corrupt)?;
            values = rest;
            visit(&head, ChunkPlace { page, slot, chunk }, of_chunk)?;
        }
        Ok(())
    }

    fn read_chunk(
        &self,
        head: &ChunkHead<'_>,
        at: ChunkPlace,
        values: &[u8],
        range: TimeRange,
        outliner: Option<&mut Outliner<'_>>,
        into: &mut Samples,
    ) -> Result<()> {
        let corrupt = || self.corrupt(self.pages.offset, "chunk");
        let column = self.column(head.column)?;
        let own: Vec<i64>;
        let times = match head.flags & CHUNK_MISSING_SLOTS {
            0 => &column[..],
            _ => {
                let mut times = Vec::new();
                timestamps::read_missing(head.missing, &column, &mut times).ok_or_else(corrupt)?;
                own = times;
                &own[..]
            }
        };
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return Err(corrupt());
        };
        if times.len() != head.count {
            return Err(corrupt());
        }
        let of_chunk = TimeRange::new(*first, *last);
        if !of_chunk.overlaps(range) {
            return Ok(());
        }
        let is_histogram = head.flags & CHUNK_HISTOGRAMS != 0;
        // Floats of the same column come without what is outside of the range, histograms with it.
        let is_whole = range.contains(*first) && range.contains(*last);
        let is_plain = head.flags & CHUNK_MISSING_SLOTS == 0 && (!is_histogram || is_whole);
        let token = joined_token(into, is_plain.then(|| self.column_token(head.column)));
        if let Some(outliner) = outliner
            && !is_histogram
            && is_whole
            && outliner.wants(of_chunk, head.count)
            && let Some(statistics) = self.statistics_of(at)?
            && statistics.count as usize == head.count
            && let Some(rows) = outliner.put(&statistics, of_chunk, into)
        {
            // The rows' times are a function of the column and of how many they are.
            let is_known = token != 0;
            into.timestamps_token = u64::from(is_known) * (token ^ u64::from(rows)).max(1);
            return Ok(());
        }
        if is_histogram {
            // Whole: whether a histogram goes on from the one before it is told by that one.
            let decoded = histograms::decode(values, head.count).ok_or_else(corrupt)?;
            for (time, histogram) in times.iter().zip(decoded) {
                into.push_histogram(*time, histogram);
            }
        } else {
            let start = times.partition_point(|time| *time < range.start_ms);
            let end = times.partition_point(|time| *time <= range.end_ms);
            decimal::decode_rows(values, head.count, start..end, &mut into.values)
                .ok_or_else(corrupt)?;
            into.timestamps.extend_from_slice(&times[start..end]);
        }
        into.timestamps_token = token;
        Ok(())
    }

    /// Statistics of a chunk, unless decoding it is cheaper by now.
    fn statistics_of(&self, at: ChunkPlace) -> Result<Option<ChunkStatistics>> {
        let read = || {
            let chunks = self.statistics(at.page)?;
            let payload = self.page(at.page)?;
            Ok((chunks, chunk_counts(&payload)))
        };
        self.statistics_cached.get(at.page, at.slot, at.chunk, read)
    }

    fn column_token(&self, column: u32) -> u64 {
        let mut name = [0; 12];
        name[..8].copy_from_slice(&self.meta.id.0.to_le_bytes());
        name[8..].copy_from_slice(&column.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&name).max(1)
    }

    fn page(&self, page: usize) -> Result<Page<'_>> {
        let Some(cache) = &self.cache else { return Ok(Page::InPlace(self.stored_page(page)?)) };
        let number = u32::try_from(page).expect("a directory is bounded by its series");
        let load = || {
            let corrupt = || self.corrupt(self.pages.offset + self.directory[page].offset, "page");
            let mut packed = self.stored_page(page)?;
            let length = varint::read(&mut packed).filter(|length| *length <= PAGE_BYTES_MAX);
            let length = length.ok_or_else(corrupt)? as usize;
            let page = zstd::bulk::decompress(packed, length).map_err(|_| corrupt())?;
            (page.len() == length).then(|| page.into()).ok_or_else(corrupt)
        };
        cache.get(self.meta.id, number, load).map(Page::Decompressed)
    }

    /// The bytes of a page as they are in the file.
    fn stored_page(&self, page: usize) -> Result<&[u8]> {
        let entry = self.directory[page];
        let start = usize::try_from(entry.offset).expect("a mapped file");
        let corrupt = || self.corrupt(self.pages.offset + entry.offset, "page");
        let end = start.checked_add(entry.length as usize).ok_or_else(corrupt)?;
        let bytes = self.pages.bytes.get(start..end).ok_or_else(corrupt)?;
        let bit = 1u64 << (page % 64);
        if self.checked[page / 64].load(Ordering::Relaxed) & bit == 0 {
            frame::read(bytes, &mut 0).map_err(|_| corrupt())?;
            self.checked[page / 64].fetch_or(bit, Ordering::Relaxed);
        }
        Ok(&bytes[frame::HEADER_BYTES..])
    }

    fn column(&self, column: u32) -> Result<Arc<[i64]>> {
        let index = column as usize;
        if let Some(Some(times)) = self.columns_cached.read().times.get(index) {
            return Ok(times.clone());
        }
        let corrupt = || self.corrupt(self.columns.offset, "timestamp column");
        let (end, count) = *self.column_ends.get(index).ok_or_else(corrupt)?;
        let start = if index == 0 { 0 } else { self.column_ends[index - 1].0 };
        let range = usize::try_from(start).expect("mapped")..usize::try_from(end).expect("mapped");
        let bytes = self.columns.bytes.get(range).ok_or_else(corrupt)?;
        let payload = frame::read(bytes, &mut 0).map_err(|_| corrupt())?;
        let mut times = Vec::new();
        timestamps::decode(payload, count as usize, &mut times).ok_or_else(corrupt)?;
        let times: Arc<[i64]> = times.into();
        self.columns_cached.write().insert(index, times.clone(), self.column_ends.len());
        Ok(times)
    }

    /// Statistics of the chunks of a page, in the order of its series.
    pub(crate) fn statistics(&self, page: usize) -> Result<Vec<ChunkStatistics>> {
        let offset = self.directory[page].statistics_offset;
        let corrupt = || self.corrupt(self.statistics.offset + offset, "chunk statistics");
        let mut start = usize::try_from(offset).expect("mapped");
        let payload = frame::read(&self.statistics.bytes, &mut start).map_err(|_| corrupt())?;
        statistics::parse(payload).ok_or_else(corrupt)
    }

    /// Exemplars with the ids of their series.
    pub(crate) fn exemplars(&self) -> Result<Vec<(u32, Exemplar)>> {
        let parse = |mut rest: &[u8]| {
            let count = read_count(&mut rest, 3)?;
            (0..count)
                .map(|_| {
                    let id = u32::try_from(varint::read(&mut rest)?).ok()?;
                    let known = u64::from(id) < self.meta.series;
                    known.then_some((id, read_exemplar(&mut rest)?))
                })
                .collect::<Option<Vec<_>>>()
        };
        let parsed = self.exemplars.framed().and_then(parse);
        parsed.ok_or_else(|| self.corrupt(self.exemplars.offset, "exemplars"))
    }

    pub(crate) fn metadata(&self) -> Result<Vec<Metadata>> {
        let parse = |mut rest: &[u8]| {
            let count = read_count(&mut rest, 4)?;
            (0..count).map(|_| read_metadata(&mut rest)).collect::<Option<Vec<_>>>()
        };
        let parsed = self.metadata.framed().and_then(parse);
        parsed.ok_or_else(|| self.corrupt(self.metadata.offset, "metadata"))
    }

    /// Reads and checks everything.
    pub(crate) fn verify(&self) -> Result<()> {
        let file = self.disk.open(&self.path).map_err(|e| io_error("open", &self.path, e))?;
        for entry in self.toc(file.as_ref())? {
            let range = entry.offset..entry.offset.saturating_add(entry.length);
            let bytes = file.range(range).map_err(|e| io_error("read", &self.path, e))?;
            if crc32fast::hash(&bytes) != entry.crc {
                return Err(self.corrupt(entry.offset, "a section"));
            }
        }
        self.visit_labels(&self.index.all(), |_, _| ())?;
        let mut samples = Samples::default();
        for id in 0..self.position_of.len() as u32 {
            match self.meta.tier_ms {
                0 => {
                    samples.clear();
                    self.read(id, TimeRange::ALL, None, &mut samples)?;
                }
                _ => {
                    let mut rollup = Rollup::default();
                    self.read_rollup(id, TimeRange::ALL, Components::ALL, &mut rollup)?;
                }
            }
        }
        (0..self.directory.len()).try_for_each(|page| self.statistics(page).map(drop))?;
        self.exemplars()?;
        self.series_of_day(0)?;
        self.metadata().map(drop)
    }

    fn toc(&self, file: &dyn ReadFile) -> Result<Vec<TocEntry>> {
        let length = file.length();
        let read = |range| file.range(range).map_err(|e| io_error("read", &self.path, e));
        let damaged = || self.corrupt(0, "the table of contents");
        let start = length.checked_sub(layout::TRAILER_BYTES as u64).ok_or_else(damaged)?;
        let (range, crc) = layout::toc_range(&read(start..length)?, length).ok_or_else(damaged)?;
        layout::parse_toc(&read(range)?, crc).ok_or_else(damaged)
    }

    /// The bytes that are a function of the samples alone: data sections, then the index.
    pub(crate) fn canonical_sections(&self) -> Result<Vec<Bytes>> {
        let file = self.disk.open(&self.path).map_err(|e| io_error("open", &self.path, e))?;
        let toc = self.toc(file.as_ref())?;
        let read = |range| file.range(range).map_err(|e| io_error("read", &self.path, e));
        let damaged = || self.corrupt(0, "the table of contents");
        use SectionKind::*;
        [Pages, PageDirectory, Columns, ColumnDirectory, Statistics, Index]
            .into_iter()
            .map(|kind| {
                let entry = find(&toc, kind).ok_or_else(damaged)?;
                read(entry.offset..entry.offset + entry.length)
            })
            .collect()
    }

    /// From now on no manifest names the block.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn corrupt(&self, offset: u64, what: &str) -> Error {
        Error::Corrupt { path: self.path.clone(), offset, what: format!("damaged: {what}") }
    }
}

/// A retired block's file goes with its last reader.
impl Drop for Block {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Acquire)
            && let Err(e) = self.disk.remove(&self.path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), error = %e, "retired block not removed");
        }
    }
}

impl Section {
    /// The payload, if the section is one intact frame.
    fn framed(&self) -> Option<&[u8]> {
        let mut end = 0;
        let payload = frame::read(&self.bytes, &mut end).ok()?;
        (end == self.bytes.len()).then_some(payload)
    }
}

fn find(toc: &[TocEntry], kind: SectionKind) -> Option<TocEntry> {
    toc.iter().find(|entry| entry.kind == kind as u16).copied()
}

fn parse_page_directory(mut rest: &[u8], series: u64) -> Option<(Vec<PageEntry>, Vec<u32>)> {
    let count = read_count(&mut rest, 4)?;
    let mut pages: Vec<PageEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let page = PageEntry {
            first_position: u32::try_from(varint::read(&mut rest)?).ok()?,
            offset: varint::read(&mut rest)?,
            length: u32::try_from(varint::read(&mut rest)?).ok()?,
            statistics_offset: varint::read(&mut rest)?,
        };
        let follows = pages
            .last()
            .map_or(page.first_position == 0, |last| last.first_position < page.first_position);
        if !follows {
            return None;
        }
        pages.push(page);
    }
    let ids = varint::read(&mut rest)?;
    if ids != series || (ids > 0 && pages.is_empty()) {
        return None;
    }
    let ids = usize::try_from(ids).ok()?;
    let packed = read_bytes(&mut rest)?;
    let raw = zstd::bulk::decompress(packed, ids.checked_mul(4)?).ok()?;
    let positions: Vec<u32> =
        raw.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let in_range = positions.iter().all(|position| u64::from(*position) < series);
    (positions.len() == ids && in_range && rest.is_empty()).then_some((pages, positions))
}

fn parse_column_directory(mut rest: &[u8]) -> Option<Vec<(u64, u32)>> {
    let count = read_count(&mut rest, 2)?;
    let mut end = 0u64;
    let ends = (0..count).map(|_| {
        end = end.checked_add(varint::read(&mut rest)?)?;
        let count = u32::try_from(varint::read(&mut rest)?).ok()?;
        (count as usize <= CHUNK_SAMPLES_MAX).then_some((end, count))
    });
    ends.collect()
}

/// The bytes of a page's series, from its chunk count on.
fn series_body(payload: &[u8], slot: u32) -> Option<&[u8]> {
    let (count, rest) = payload.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count);
    if slot >= count {
        return None;
    }
    let at = slot as usize * 4;
    let offset = u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?);
    rest.get((count as usize).checked_mul(4)?..)?.get(offset as usize..)
}

/// How many chunks each series of a page has; what makes no sense has none.
fn chunk_counts(payload: &[u8]) -> Vec<u32> {
    let bodies = (0..).map_while(|slot| series_body(payload, slot));
    bodies.map(|mut body| read_count(&mut body, 4).unwrap_or(0) as u32).collect()
}

/// The token of samples and of a whole column behind them, or of timestamps that have none.
fn joined_token(samples: &Samples, column: Option<u64>) -> u64 {
    match column {
        Some(column) if samples.is_empty() => column,
        Some(column) if samples.timestamps_token != 0 => {
            samples.timestamps_token.rotate_left(17) ^ column
        }
        _ => 0,
    }
}

fn chunk_head<'a>(body: &mut &'a [u8]) -> Option<ChunkHead<'a>> {
    let (&flags, rest) = body.split_first()?;
    *body = rest;
    let known = CHUNK_HISTOGRAMS | CHUNK_MISSING_SLOTS | 0xf << CHUNK_COMPONENT_SHIFT;
    if flags & !known != 0 {
        return None;
    }
    let count = usize::try_from(varint::read(body)?).ok()?;
    let column = u32::try_from(varint::read(body)?).ok()?;
    let has_missing = flags & CHUNK_MISSING_SLOTS != 0;
    let missing = if has_missing { read_bytes(body)? } else { &[] };
    let value_bytes = usize::try_from(varint::read(body)?).ok()?;
    Some(ChunkHead { flags, count, column, missing, value_bytes })
}
