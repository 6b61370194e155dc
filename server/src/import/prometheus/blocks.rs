//! Blocks of Prometheus: a folder each, named by a ULID.

use std::path::{Path, PathBuf};

use icecore_ingest::prometheus::chunks::Segment;
use icecore_ingest::prometheus::index::{ChunkPlace, Index, Series};
use icecore_ingest::prometheus::tombstones::{self, Tombstones};
use icecore_storage::Error;
use icecore_storage::labels::{LabelError, Labels};
use icecore_storage::metrics::sample::Samples;
use icecore_storage::time::TimeRange;
use serde::Deserialize;

use crate::import::prometheus::{Files, outside};
use crate::import::summary::Summary;
use crate::import::{DAY_MS, forget_resets, join, retain};

/// A ULID has as many characters.
const NAME_BYTES: usize = 26;

/// A block that says to be longer is damaged.
const YEARS_100_MS: i64 = 100 * 366 * DAY_MS;

/// The compactor marks blocks so that hold what came out of order.
const OUT_OF_ORDER_HINT: &str = "from-out-of-order";

/// `meta.json`.
#[derive(Debug, Deserialize)]
struct Meta {
    version: u32,
    #[serde(rename = "minTime")]
    min_time: i64,
    /// All samples are before it.
    #[serde(rename = "maxTime")]
    max_time: i64,
    #[serde(default)]
    stats: Stats,
    #[serde(default)]
    compaction: Compaction,
}

#[derive(Debug, Default, Deserialize)]
struct Stats {
    #[serde(rename = "numSamples", default)]
    samples: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Compaction {
    #[serde(default)]
    parents: Vec<Parent>,
    #[serde(default)]
    hints: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Parent {
    ulid: String,
}

/// A block that is not open.
#[derive(Debug)]
pub(super) struct BlockDir {
    pub(super) name: String,
    /// Both ends included.
    pub(super) range: TimeRange,
    /// As it says itself; those under tombstones are counted.
    samples: u64,
    pub(super) tombstones_hash: u64,
    is_out_of_order: bool,
    /// Blocks that it replaces.
    parents: Vec<String>,
}

/// The blocks of the directory by their names, which is the order in which they were made; those
/// that cannot be read go to `damaged`.
pub(super) fn list(
    files: &Files,
    damaged: &mut Vec<Error>,
    summary: &mut Summary,
) -> Result<Vec<BlockDir>, Error> {
    let mut blocks = Vec::new();
    for name in files.list(Path::new(""))? {
        let (ulid, suffix) = name.split_at_checked(NAME_BYTES).unwrap_or((&name, ""));
        if ulid.len() != NAME_BYTES || !ulid.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            continue;
        }
        if !suffix.is_empty() {
            let text = format!("{name} was being written or removed, and is left alone");
            summary.notes.push(text);
            continue;
        }
        match BlockDir::read(files, name) {
            Ok(block) => blocks.push(block),
            Err(error) => damaged.push(error),
        }
    }
    let parents: Vec<String> = blocks.iter().flat_map(|block| block.parents.clone()).collect();
    blocks.retain(|block| {
        let is_replaced = parents.contains(&block.name);
        if is_replaced {
            let text = format!("block {} was replaced by another, and is left alone", block.name);
            summary.notes.push(text);
        }
        !is_replaced
    });
    Ok(blocks)
}

/// The head's samples before this time are in blocks.
pub(super) fn head_starts(blocks: &[BlockDir]) -> i64 {
    let in_order = blocks.iter().filter(|block| !block.is_out_of_order);
    in_order.map(|block| block.range.end_ms.saturating_add(1)).max().unwrap_or(i64::MIN)
}

impl BlockDir {
    fn read(files: &Files, name: String) -> Result<BlockDir, Error> {
        let path = Path::new(&name).join("meta.json");
        let corrupt =
            |what: String| Error::Corrupt { path: files.root.join(&path), offset: 0, what };
        let text = files.read(&path)?;
        let meta: Meta = serde_json::from_slice(&text).map_err(|e| corrupt(e.to_string()))?;
        if meta.version != 1 {
            return Err(corrupt(format!("blocks of version {} are not known", meta.version)));
        }
        let length_ms = meta.max_time.saturating_sub(meta.min_time);
        if !(1..YEARS_100_MS).contains(&length_ms) {
            let (from, to) = (meta.min_time, meta.max_time);
            return Err(corrupt(format!("the block says to reach from {from} to {to}")));
        }
        let tombstones = read_tombstones(files, &name)?;
        Ok(BlockDir {
            range: TimeRange::new(meta.min_time, meta.max_time - 1),
            samples: meta.stats.samples,
            tombstones_hash: xxhash_rust::xxh3::xxh3_64(&tombstones),
            is_out_of_order: meta.compaction.hints.iter().any(|hint| hint == OUT_OF_ORDER_HINT),
            parents: meta.compaction.parents.into_iter().map(|parent| parent.ulid).collect(),
            name,
        })
    }

    pub(super) fn open(&self, files: &Files) -> Result<OpenBlock, Error> {
        let dir = PathBuf::from(&self.name);
        let index_path = dir.join("index");
        let index = Index::open(files.read(&index_path)?);
        let index = index.map_err(|e| files.damage(&index_path, e))?;
        let mut segments = Vec::new();
        for name in files.list(&dir.join("chunks"))? {
            if name.bytes().all(|byte| byte.is_ascii_digit()) {
                let path = dir.join("chunks").join(name);
                let segment = Segment::open(files.read(&path)?);
                segments.push((segment.map_err(|e| files.damage(&path, e))?, path));
            }
        }
        let tombstones = match read_tombstones(files, &self.name)? {
            file if file.is_empty() => Tombstones::new(),
            file => {
                let path = dir.join("tombstones");
                tombstones::parse(&file).map_err(|e| files.damage(&path, e))?
            }
        };
        Ok(OpenBlock { index, index_path, segments, tombstones })
    }

    /// Samples before and after a range, those under tombstones included.
    pub(super) fn count_outside(&self, files: &Files, range: TimeRange) -> Result<[u64; 2], Error> {
        if range.start_ms <= self.range.start_ms && self.range.end_ms <= range.end_ms {
            return Ok([0, 0]);
        }
        if !self.range.overlaps(range) {
            let is_after = self.range.start_ms > range.end_ms && !range.is_empty();
            return Ok(if is_after { [0, self.samples] } else { [self.samples, 0] });
        }
        let block = self.open(files)?;
        let damage = |e| files.damage(&block.index_path, e);
        let (mut total, mut samples) = ([0, 0], Samples::default());
        for series in block.index.series() {
            for place in series.map_err(damage)?.chunks().map_err(damage)? {
                if place.range.intersection(range) != place.range {
                    block.with_chunk(files, place, |chunk| chunk.decode(&mut samples))?;
                    let [before, after] = outside(&samples.timestamps, range);
                    total = [total[0] + before, total[1] + after];
                }
            }
        }
        Ok(total)
    }

    /// Reads everything that an import reads and checks its sums, so that a block which is damaged
    /// anywhere is left out from its first window on.
    pub(super) fn check(&mut self, files: &Files) -> Result<(), Error> {
        let block = self.open(files)?;
        let said = TimeRange::new(self.range.start_ms, self.range.end_ms.saturating_add(1));
        for series in block.index.series() {
            let series = series.map_err(|e| files.damage(&block.index_path, e))?;
            let _ = series.labels().map_err(|e| files.damage(&block.index_path, e))?;
            for place in series.chunks().map_err(|e| files.damage(&block.index_path, e))? {
                block.with_chunk(files, place, |_| Ok(()))?;
                // Nothing else tells damage of the times: there is no checksum over them.
                if place.range.intersection(said) != place.range {
                    let (from, to) = (place.range.start_ms, place.range.end_ms);
                    let what =
                        format!("the block has samples from {from} to {to}, it says {said:?}");
                    let path = files.root.join(&self.name).join("meta.json");
                    return Err(Error::Corrupt { path, offset: 0, what });
                }
                self.range = self.range.union(place.range);
            }
        }
        Ok(())
    }
}

/// The file, or nothing where there is none.
fn read_tombstones(files: &Files, block: &str) -> Result<bytes::Bytes, Error> {
    match files.read(&Path::new(block).join("tombstones")) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(bytes::Bytes::new())
        }
        other => other,
    }
}

#[derive(Debug)]
pub(super) struct OpenBlock {
    index: Index,
    index_path: PathBuf,
    segments: Vec<(Segment, PathBuf)>,
    tombstones: Tombstones,
}

impl OpenBlock {
    /// Calls `visit` with every series that has a chunk in the window: the offset of its entry, and
    /// its labels.
    pub(super) fn visit_series(
        &self,
        files: &Files,
        window: TimeRange,
        visit: &mut dyn FnMut(u64, Result<Labels, LabelError>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let damage = |e| files.damage(&self.index_path, e);
        for series in self.index.series() {
            let series = series.map_err(damage)?;
            let chunks = series.chunks().map_err(damage)?;
            if chunks.iter().any(|place| place.range.overlaps(window)) {
                visit(series.offset, series.labels().map_err(damage)?)?;
            }
        }
        Ok(())
    }

    /// Adds a series' samples of the window; how many of them tombstones cover.
    pub(super) fn read_series(
        &self,
        files: &Files,
        offset: u64,
        window: TimeRange,
        into: &mut Samples,
    ) -> Result<u64, Error> {
        let damage = |e| files.damage(&self.index_path, e);
        let series: Series<'_> = self.index.series_at(offset).map_err(damage)?;
        let none = Vec::new();
        let deleted = self.tombstones.get(&series.reference).unwrap_or(&none);
        let (mut part, mut gone) = (Samples::default(), 0);
        for place in series.chunks().map_err(damage)? {
            if !place.range.overlaps(window) {
                continue;
            }
            self.with_chunk(files, place, |chunk| chunk.decode(&mut part))?;
            retain(&mut part, |timestamp| window.contains(timestamp));
            gone += delete(&mut part, deleted);
            join(into, &part);
        }
        Ok(gone)
    }

    fn with_chunk<'a>(
        &'a self,
        files: &Files,
        place: ChunkPlace,
        with: impl FnOnce(
            icecore_ingest::prometheus::chunks::Chunk<'a>,
        ) -> Result<(), icecore_ingest::prometheus::Damage>,
    ) -> Result<(), Error> {
        let Some((segment, path)) = self.segments.get(place.segment as usize) else {
            return Err(Error::Corrupt {
                path: files.root.join(&self.index_path),
                offset: 0,
                what: format!("a chunk lies in segment {}, which is missing", place.segment + 1),
            });
        };
        let chunk = segment.chunk(place.offset).and_then(with);
        chunk.map_err(|e| files.damage(path, e))
    }
}

/// Takes out what was deleted; how many samples that are.
pub(super) fn delete(samples: &mut Samples, deleted: &[TimeRange]) -> u64 {
    let gone = retain(samples, |time| !deleted.iter().any(|range| range.contains(time)));
    if gone > 0 {
        // The sample before, to which they compare, may be gone.
        forget_resets(samples, TimeRange::ALL);
    }
    gone
}
