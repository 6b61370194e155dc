//! What becomes of a block under given policies: itself, or a part for each class.
//!
//! A block of several classes will be split ([`super::classify`]), and what its parts will take is
//! told from chunk lengths: each class has its chunks, as much smaller as some of them become when they are
//! compressed, and every timestamp column that one of its chunks refers to. What two classes share is in
//! both files.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::metrics::block::Block;
use crate::metrics::block::layout::{
    HEADER_BYTES, PAGE_BYTES, SectionKind, TOC_ENTRY_BYTES, TRAILER_BYTES,
};
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::block::totals::{DayTotals, RAW_SAMPLE_BYTES, day_of, part, shares};
use crate::metrics::block::writer::{PAGE_ZSTD_LEVEL, write_statistics};
use crate::metrics::chunk::ChunkStatistics;
use crate::retention::classes::Classifier;
use crate::time::{DAY_MS, TimeRange};

/// Stored pages that one plan reads; blocks beyond are taken to be made up as the last before them.
const SCANNED_BYTES_MAX: u64 = 4 << 30;

/// What an index and directories take however few series there are.
const INDEX_FIXED_BYTES: u64 = 80;

/// Pages of a block that are compressed anew to tell how small those of each class become.
const SAMPLED_PAGES: usize = 64;

/// A block, or what a class has of one.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// With the numbers of the part, and the id of the block.
    pub(crate) meta: BlockMeta,
    pub(crate) days: BTreeMap<i64, DayTotals>,
    /// It is one of several parts, so its numbers are estimates.
    pub(crate) is_share: bool,
    /// The block does not say what it holds by day, so that is estimated.
    pub(crate) is_even: bool,
}

impl Part {
    pub(crate) fn whole(block: &Block, meta: BlockMeta) -> Part {
        let known = block.totals().ok().flatten();
        let is_even = known.is_none();
        let days = known.map_or_else(|| even_days(&meta), |totals| totals.days);
        Part { meta, days, is_share: false, is_even }
    }

    /// The block's bytes by day, to the last byte.
    pub(crate) fn bytes_by_day(&self) -> Vec<u64> {
        let weights: Vec<u64> = self.days.values().map(|day| day.page_bytes).collect();
        shares(self.meta.bytes, &weights).collect()
    }
}

/// As if a block had its rows evenly over its time.
fn even_days(meta: &BlockMeta) -> BTreeMap<i64, DayTotals> {
    let is_rollup = meta.tier_ms > 0;
    let range = meta.window.intersection(meta.range);
    let (first, last) = (day_of(range.start_ms, is_rollup), day_of(range.end_ms, is_rollup));
    let start = |day: i64| day.saturating_mul(DAY_MS).saturating_add(i64::from(is_rollup));
    let of_day = |day: i64| TimeRange::new(start(day), start(day + 1) - 1).intersection(range);
    let ranges: Vec<(i64, TimeRange)> = (first..=last).map(|day| (day, of_day(day))).collect();
    let weights: Vec<u64> = ranges
        .iter()
        .map(|(_, range)| (range.end_ms - range.start_ms).unsigned_abs() + 1)
        .collect();
    let rows = shares(meta.samples, &weights);
    let with_rows = ranges.iter().zip(&weights).zip(rows);
    let days = with_rows.map(|(((day, range), weight), rows)| {
        let raw_bytes = rows * RAW_SAMPLE_BYTES;
        let series = meta.series;
        (*day, DayTotals { series, rows, raw_bytes, page_bytes: *weight, range: *range })
    });
    days.collect()
}

/// Of blocks that are to be split and of which parts go at once: those parts take what the others leave
/// of the file, so that what is kept and what goes add up to it.
pub(crate) fn shared_out(
    parts: &mut [BlockMeta],
    blocks: &[BlockMeta],
    goes: impl Fn(&BlockMeta) -> bool,
) {
    // Parts of a block are neighbours.
    for of_block in parts.chunk_by_mut(|a, b| a.id == b.id) {
        let file = blocks.iter().find(|block| block.id == of_block[0].id);
        let Some(file) = file.filter(|_| of_block.len() > 1) else { continue };
        let stays = of_block.iter().filter(|part| !goes(part)).map(|part| part.bytes).sum();
        let going: Vec<u64> =
            of_block.iter().filter(|part| goes(part)).map(|part| part.bytes).collect();
        let mut bytes = shares(file.bytes.saturating_sub(stays), &going);
        for part in of_block.iter_mut().filter(|part| goes(part)) {
            part.bytes = bytes.next().unwrap_or(0);
        }
    }
}

/// What a class has of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    series: u64,
    samples: u64,
    chunks: u64,
    /// Of the file that it would be.
    bytes: u64,
}

/// Divides blocks, one after the other.
#[derive(Debug)]
pub(crate) struct Divider<'a> {
    classifier: &'a Classifier,
    left_to_scan: u64,
    /// Bytes and rows a series of the class has, by tier, as of the last block that was read.
    a_series: BTreeMap<(u64, u32), (f64, f64)>,
}

impl<'a> Divider<'a> {
    pub(crate) fn new(classifier: &'a Classifier) -> Divider<'a> {
        Divider { classifier, left_to_scan: SCANNED_BYTES_MAX, a_series: BTreeMap::new() }
    }

    pub(crate) fn divide(&mut self, block: &Block, meta: &BlockMeta) -> Result<Vec<Part>> {
        let generation = self.classifier.generation;
        let of_class =
            |class: u32| BlockMeta { class, policy_generation: generation, ..meta.clone() };
        if let Some(class) = self.classifier.only_class() {
            return Ok(vec![Part::whole(block, of_class(class))]);
        }
        let mut class_of = vec![0; meta.series as usize];
        let mut series: BTreeMap<u32, u64> = BTreeMap::new();
        block.visit_labels(&block.index.all(), |id, labels| {
            let class = self.classifier.class_of(&labels);
            class_of[id as usize] = class;
            *series.entry(class).or_default() += 1;
        })?;
        if let [class] = series.keys().copied().collect::<Vec<_>>()[..] {
            return Ok(vec![Part::whole(block, of_class(class))]);
        }
        let by_class = match block.page_bytes() <= self.left_to_scan {
            true => {
                self.left_to_scan -= block.page_bytes();
                self.scan(block, meta, &class_of)?
            }
            false => self.guess(meta, &series),
        };
        let whole = Part::whole(block, meta.clone());
        let part_of = |(class, share): (u32, Share)| {
            let meta = BlockMeta {
                series: share.series,
                samples: share.samples,
                bytes: share.bytes,
                ..of_class(class)
            };
            Part {
                meta,
                days: scaled(&whole.days, &share, &whole.meta),
                is_share: true,
                ..whole.clone()
            }
        };
        Ok(by_class.into_iter().map(part_of).collect())
    }

    fn scan(
        &mut self,
        block: &Block,
        meta: &BlockMeta,
        class_of: &[u32],
    ) -> Result<BTreeMap<u32, Share>> {
        let shares = scan(block, class_of)?;
        for (class, share) in &shares {
            let of_series = |number: u64| number as f64 / share.series.max(1) as f64;
            let facts = (of_series(share.bytes), of_series(share.samples));
            self.a_series.insert((meta.tier_ms, *class), facts);
        }
        Ok(shares)
    }

    /// Shares by what a series of each class took elsewhere, or the same for all.
    fn guess(&self, meta: &BlockMeta, series: &BTreeMap<u32, u64>) -> BTreeMap<u32, Share> {
        let a_series = |class: u32| self.a_series.get(&(meta.tier_ms, class)).copied();
        let weights = |of: fn((f64, f64)) -> f64| -> Vec<u64> {
            let weight = |(class, count): (&u32, &u64)| {
                let one = a_series(*class).map_or(1024.0, |facts| 1024.0 * of(facts));
                (one * *count as f64) as u64
            };
            series.iter().map(weight).collect()
        };
        let (bytes, samples) = (weights(|facts| facts.0), weights(|facts| facts.1));
        let numbers = shares(meta.bytes, &bytes).zip(shares(meta.samples, &samples));
        let of_class = series.iter().zip(numbers).map(|((class, series), (bytes, samples))| {
            (*class, Share { series: *series, samples, chunks: 0, bytes })
        });
        of_class.collect()
    }
}

/// A class's rows by day, if all of them lie as those of the block do.
fn scaled(
    days: &BTreeMap<i64, DayTotals>,
    share: &Share,
    whole: &BlockMeta,
) -> BTreeMap<i64, DayTotals> {
    let scale = |(day, totals): (&i64, &DayTotals)| {
        let of_rows = |number: u64| part(number, share.samples, whole.samples);
        let scaled = DayTotals {
            series: part(totals.series, share.series, whole.series),
            rows: of_rows(totals.rows),
            raw_bytes: of_rows(totals.raw_bytes),
            ..totals.clone()
        };
        (*day, scaled)
    };
    days.iter().map(scale).collect()
}

/// What each class has of a block, from the heads of its chunks. Values are not decoded.
fn scan(block: &Block, class_of: &[u32]) -> Result<BTreeMap<u32, Share>> {
    let mut found: BTreeMap<u32, (Share, Pages, Vec<bool>)> = BTreeMap::new();
    let every = (block.page_count() / SAMPLED_PAGES).max(1);
    block.scan(|page, series| {
        let statistics = match page.is_multiple_of(every) {
            true => block.statistics(page).ok(),
            false => None,
        };
        let mut statistics = statistics.map(Vec::into_iter);
        for series in series {
            let (share, pages, used) = found
                .entry(class_of[series.id as usize])
                .or_insert_with(|| (Share::default(), Pages::default(), Vec::new()));
            share.series += 1;
            share.chunks += series.chunks;
            share.samples += series.rows;
            pages.plain += series.body.len() as u64;
            if let Some(statistics) = &mut statistics {
                pages.sample(series.body, statistics.by_ref().take(series.chunks as usize));
            }
            used.resize(block.column_count(), false);
            series.columns.iter().for_each(|column| used[*column as usize] = true);
        }
    })?;
    let of_class = |(class, (mut share, mut pages, used)): (u32, (Share, Pages, Vec<bool>))| {
        let used = used.into_iter().enumerate().filter(|(_, is_used)| *is_used);
        let columns: Vec<usize> = used.map(|(column, _)| column).collect();
        share.bytes = pages.bytes(&share, block.has_compressed_pages());
        share.bytes += of_file(block, &share, &columns);
        (class, share)
    };
    Ok(found.into_iter().map(of_class).collect())
}

/// The pages that a class would have, and the statistics of their chunks.
#[derive(Debug, Default)]
struct Pages {
    plain: u64,
    /// What is to be compressed of sampled pages, about a page at a time.
    bodies: Vec<u8>,
    statistics: Vec<ChunkStatistics>,
    /// What was: bodies before and after, chunks and their statistics.
    sampled: u64,
    packed: u64,
    sampled_chunks: u64,
    statistics_bytes: u64,
}

impl Pages {
    fn sample(&mut self, body: &[u8], statistics: impl Iterator<Item = ChunkStatistics>) {
        self.bodies.extend_from_slice(body);
        self.statistics.extend(statistics);
        if self.bodies.len() >= PAGE_BYTES {
            self.pack();
        }
    }

    fn pack(&mut self) {
        let packed = zstd::bulk::compress(&self.bodies, PAGE_ZSTD_LEVEL);
        self.packed += packed.map_or(self.bodies.len(), |packed| packed.len()) as u64;
        self.sampled += self.bodies.len() as u64;
        let mut written = Vec::new();
        write_statistics(&self.statistics, &mut written);
        self.sampled_chunks += self.statistics.len() as u64;
        self.statistics_bytes += written.len() as u64;
        self.bodies.clear();
        self.statistics.clear();
    }

    fn bytes(&mut self, share: &Share, is_compressed: bool) -> u64 {
        // The rest tells of few pages, and so does it alone where there are few.
        if self.sampled < 4 * PAGE_BYTES as u64 && !self.bodies.is_empty() {
            self.pack();
        }
        let bodies = match is_compressed {
            true => part(self.plain, self.packed, self.sampled),
            false => self.plain,
        };
        let statistics = part(self.statistics_bytes, share.chunks, self.sampled_chunks);
        // A page has a frame, a count and its length, and a place for each series.
        let of_series = if is_compressed { 2 } else { 4 };
        bodies + self.plain.div_ceil(PAGE_BYTES as u64) * 24 + share.series * of_series + statistics
    }
}

/// What a class's file has beside pages.
fn of_file(block: &Block, share: &Share, columns: &[usize]) -> u64 {
    let bytes = |kind| block.section_bytes(kind);
    let by_series = bytes(SectionKind::PageDirectory) + bytes(SectionKind::Index);
    let described = bytes(SectionKind::Exemplars);
    let column_directory = bytes(SectionKind::ColumnDirectory);
    columns.iter().map(|column| block.column_bytes(*column)).sum::<u64>()
        + part(column_directory, columns.len() as u64, block.column_count() as u64)
        + part(by_series + described, share.series, block.meta().series)
        // Metrics and labels of a class are mostly those of others, too.
        + bytes(SectionKind::Metadata)
        + bytes(SectionKind::Totals)
        + bytes(SectionKind::Meta)
        + (HEADER_BYTES + 10 * TOC_ENTRY_BYTES + TRAILER_BYTES) as u64
        + INDEX_FIXED_BYTES
}
