//! A data directory of Prometheus as a source: its blocks, and what its head holds.
//!
//! A window takes all blocks that overlap it, and the head: where they hold the same sample, it is
//! one; where they differ, the order of values decides, as it would had both been written. What
//! Prometheus would not show is not imported either: samples under tombstones, blocks that another
//! has replaced, and samples of the log that blocks have.

mod blocks;
mod head;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore_ingest::prometheus::Damage;
use icecore_storage::Error;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::labels::{LabelError, Labels};
use icecore_storage::limits::Limits;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::time::TimeRange;
use xxhash_rust::xxh3::Xxh3;

use crate::import::prometheus::blocks::{BlockDir, OpenBlock};
use crate::import::prometheus::head::Head;
use crate::import::summary::Summary;
use crate::import::{Content, Source, retain, span_of, windows_of};

/// How many of these times lie before a range, and how many after it.
fn outside(timestamps: &[i64], range: TimeRange) -> [u64; 2] {
    let before = timestamps.iter().filter(|time| **time < range.start_ms).count();
    let after = timestamps.iter().filter(|time| **time > range.end_ms && **time >= range.start_ms);
    [before as u64, after.count() as u64]
}

/// The files below the directory, and what becomes of their errors.
#[derive(Clone, Debug)]
struct Files {
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

impl Files {
    /// Names in a folder, in order; none if it does not exist.
    fn list(&self, dir: &Path) -> Result<Vec<String>, Error> {
        match self.disk.list(dir) {
            Ok(names) => Ok(names),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(self.io_error("list", dir, source)),
        }
    }

    /// A whole file, mapped.
    fn read(&self, path: &Path) -> Result<bytes::Bytes, Error> {
        let file = self.disk.open(path).map_err(|e| self.io_error("open", path, e))?;
        file.range(0..file.length()).map_err(|e| self.io_error("read", path, e))
    }

    fn io_error(&self, operation: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::Io { operation, path: self.root.join(path), source }
    }

    fn damage(&self, path: &Path, damage: Damage) -> Error {
        Error::Corrupt { path: self.root.join(path), offset: damage.offset, what: damage.what }
    }
}

/// Where a series of the present window comes from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// A block, and the offset of its entry there.
    Block(usize, u64),
    Head(usize),
}

#[derive(Debug)]
pub(super) struct PrometheusSource {
    files: Files,
    skip_damaged: bool,
    limits: Limits,
    blocks: Vec<BlockDir>,
    /// Those that overlap the present window.
    open: Vec<Option<OpenBlock>>,
    head: Head,
    window: TimeRange,
    /// Of each series of the window.
    origins: Vec<Vec<Origin>>,
}

impl PrometheusSource {
    /// Reads the head, and checks every byte of every block.
    pub(super) fn open(
        dir: &Path,
        skip_damaged: bool,
        summary: &mut Summary,
    ) -> anyhow::Result<PrometheusSource> {
        let files = Files { disk: Arc::new(OsDisk::new(dir.to_owned())), root: dir.to_owned() };
        PrometheusSource::read(files, skip_damaged, summary)
    }

    fn read(
        files: Files,
        skip_damaged: bool,
        summary: &mut Summary,
    ) -> anyhow::Result<PrometheusSource> {
        let mut damaged = Vec::new();
        let mut blocks = blocks::list(&files, &mut damaged, summary)?;
        blocks.retain_mut(|block| match block.check(&files) {
            Ok(()) => true,
            Err(error) => {
                damaged.push(error);
                false
            }
        });
        let head = Head::read(&files, blocks::head_starts(&blocks), &mut damaged, summary)?;
        summary.damaged.extend(damaged.iter().map(Error::to_string));
        if !damaged.is_empty() && !skip_damaged {
            let count = damaged.len();
            anyhow::bail!(
                "{count} parts are damaged, and nothing was imported: --skip-damaged goes on without them"
            );
        }
        let open = blocks.iter().map(|_| None).collect();
        Ok(PrometheusSource {
            files,
            skip_damaged,
            limits: Limits::default(),
            blocks,
            open,
            head,
            window: TimeRange::default(),
            origins: Vec::new(),
        })
    }

    /// Opens the blocks that overlap the window and closes the others.
    fn open_blocks(&mut self, window: TimeRange) -> Result<(), Error> {
        for (block, open) in self.blocks.iter().zip(&mut self.open) {
            if !block.range.overlaps(window) {
                *open = None;
            } else if open.is_none() {
                *open = Some(block.open(&self.files)?);
            }
        }
        Ok(())
    }

    /// The series with samples in the window, each with one of its origins.
    fn series_in(
        &self,
        window: TimeRange,
        summary: &mut Summary,
    ) -> Result<Vec<(Labels, Origin)>, Error> {
        let mut found = Vec::new();
        let mut samples = Samples::default();
        for (number, block) in self.open.iter().enumerate() {
            let Some(block) = block else { continue };
            block.visit_series(&self.files, window, &mut |offset, labels| {
                let origin = Origin::Block(number, offset);
                match self.check_labels(labels) {
                    Ok(labels) => found.push((labels, origin)),
                    Err(error) => {
                        samples.clear();
                        self.read_origin(origin, window, &mut samples)?;
                        let example = || error.to_string();
                        summary.refuse(
                            samples.len() as u64,
                            "labels that no series may have",
                            example,
                        );
                    }
                }
                Ok(())
            })?;
        }
        for id in self.head.series_in(window) {
            found.push((self.head.labels(id).clone(), Origin::Head(id)));
        }
        Ok(found)
    }

    fn check_labels(&self, labels: Result<Labels, LabelError>) -> Result<Labels, LabelError> {
        let labels = labels?;
        self.limits.check_labels(&labels)?;
        Ok(labels)
    }

    /// Adds the samples of one origin; how many of them tombstones cover.
    fn read_origin(
        &self,
        origin: Origin,
        window: TimeRange,
        into: &mut Samples,
    ) -> Result<u64, Error> {
        match origin {
            Origin::Head(id) => self.head.read_series(&self.files, id, window, into),
            Origin::Block(number, offset) => {
                let block = self.open[number].as_ref().expect("it overlaps the window");
                block.read_series(&self.files, offset, window, into)
            }
        }
    }
}

impl Source for PrometheusSource {
    fn windows(
        &mut self,
        accepted: TimeRange,
        summary: &mut Summary,
    ) -> Result<Vec<TimeRange>, Error> {
        let mut ranges: Vec<TimeRange> = self.blocks.iter().map(|block| block.range).collect();
        ranges.extend(self.head.range);
        let windows = windows_of(&ranges, accepted);
        let span = span_of(&windows);
        for block in &self.blocks {
            let [before, after] = block.count_outside(&self.files, span)?;
            summary.refuse_times(before, after);
        }
        let [before, after] = self.head.count_outside(&self.files, span)?;
        summary.refuse_times(before, after);
        Ok(windows)
    }

    fn name_of(&self, window: TimeRange) -> String {
        let mut hasher = Xxh3::new();
        for block in self.blocks.iter().filter(|block| block.range.overlaps(window)) {
            hasher.update(block.name.as_bytes());
            hasher.update(&block.tombstones_hash.to_le_bytes());
        }
        if self.head.range.is_some_and(|range| range.overlaps(window)) {
            hasher.update(b"head");
            hasher.update(&self.head.state.to_le_bytes());
        }
        format!("prometheus {:032x}", hasher.digest128())
    }

    fn begin(&mut self, window: TimeRange, summary: &mut Summary) -> Result<Content, Error> {
        self.window = window;
        self.origins.clear();
        self.open_blocks(window)?;
        let mut found = self.series_in(window, summary)?;
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut series: Vec<Labels> = Vec::new();
        for (labels, origin) in found {
            match self.origins.last_mut() {
                Some(origins) if series.last() == Some(&labels) => origins.push(origin),
                _ => {
                    series.push(labels);
                    self.origins.push(vec![origin]);
                }
            }
        }
        let (exemplars, strays) = self.head.exemplars_in(window, &series);
        let why = "exemplars of series without samples around them, or out of the retention";
        summary.refuse(strays, why, String::new);
        Ok(Content { series, exemplars, metadata: self.head.metadata() })
    }

    fn read(
        &mut self,
        place: usize,
        into: &mut Samples,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        for origin in &self.origins[place] {
            summary.deleted += self.read_origin(*origin, self.window, into)?;
        }
        let mut wrong = Vec::new();
        for (row, histogram) in &into.histograms {
            if let Err(why) = histogram.validate() {
                summary.refuse(1, why, String::new);
                wrong.push(into.timestamps[*row as usize]);
            }
        }
        retain(into, |timestamp| !wrong.contains(&timestamp));
        Ok(())
    }

    fn forgive(&mut self, error: &Error, summary: &mut Summary) -> bool {
        let Error::Corrupt { path, .. } = error else { return false };
        let is_at_fault = |block: &BlockDir| path.starts_with(self.files.root.join(&block.name));
        let Some(at) = self.blocks.iter().position(is_at_fault) else { return false };
        summary.damaged.push(error.to_string());
        if self.skip_damaged {
            self.blocks.remove(at);
            self.open.remove(at);
        }
        self.skip_damaged
    }
}
