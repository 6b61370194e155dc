//! The head of Prometheus: chunks on disk, and for the rest its log, read as Prometheus would at a
//! start.
//!
//! The log holds every sample since the last block; a series' full chunks are on disk as well, and
//! samples of the log up to the end of its last chunk are left out, as are those that do not
//! ascend: Prometheus never showed them. What came out of order has chunks and a log (`wbl`) of its
//! own. Only what is in no chunk is held in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use icecore_ingest::prometheus::chunks::{HeadChunks, head_chunk};
use icecore_ingest::prometheus::record::Record;
use icecore_ingest::prometheus::wal::{Broken, Records};
use icecore_storage::Error;
use icecore_storage::labels::{LabelError, Labels};
use icecore_storage::limits::Limits;
use icecore_storage::metrics::batch::{Exemplar, Metadata, MetricKind};
use icecore_storage::metrics::histogram::Histogram;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::time::TimeRange;
use xxhash_rust::xxh3::Xxh3;

use crate::import::prometheus::blocks::delete;
use crate::import::prometheus::{Files, outside};
use crate::import::summary::Summary;
use crate::import::{join, retain};

const CHUNKS_DIR: &str = "chunks_head";
const LOG_DIR: &str = "wal";
const OUT_OF_ORDER_LOG_DIR: &str = "wbl";
const CHECKPOINT_PREFIX: &str = "checkpoint.";

/// A chunk on disk.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index into [`Head::chunk_files`].
    file: usize,
    offset: u64,
    range: TimeRange,
    is_out_of_order: bool,
}

/// A series of the head.
#[derive(Debug)]
struct HeadSeries {
    labels: Labels,
    chunks: Vec<Place>,
    /// Samples of the log behind the last chunk.
    samples: Samples,
    /// Out of order, in the order in which they came until all are there.
    late: Vec<(i64, LateValue)>,
    late_samples: Samples,
    deleted: Vec<TimeRange>,
    /// The newest sample that is not out of order.
    newest_ms: i64,
}

#[derive(Debug)]
enum LateValue {
    Float(f64),
    Histogram(Histogram),
}

#[derive(Debug, Default)]
pub(super) struct Head {
    /// From the first to the last sample; `None` without any.
    pub(super) range: Option<TimeRange>,
    /// Another number for other files.
    pub(super) state: u64,
    series: Vec<HeadSeries>,
    chunk_files: Vec<(PathBuf, Bytes)>,
    exemplars: Vec<(usize, Exemplar)>,
    /// By series, as the last record of it says.
    metadata: HashMap<usize, Metadata>,
}

impl Head {
    /// Reads everything. `starts_ms` is where the blocks end that were made of it.
    pub(super) fn read(
        files: &Files,
        starts_ms: i64,
        damaged: &mut Vec<Error>,
        summary: &mut Summary,
    ) -> Result<Head, Error> {
        let mut replay = Replay { starts_ms, ..Replay::default() };
        replay.read_chunks(files, summary)?;
        let (checkpoint, segments) = log_files(files, Path::new(LOG_DIR))?;
        replay.read_log(files, &checkpoint, false, damaged, summary)?;
        replay.read_log(files, &segments, false, damaged, summary)?;
        let (_, segments) = log_files(files, Path::new(OUT_OF_ORDER_LOG_DIR))?;
        replay.read_log(files, &segments, true, damaged, summary)?;
        Ok(replay.finish(summary))
    }

    pub(super) fn labels(&self, id: usize) -> &Labels {
        &self.series[id].labels
    }

    /// Series that may have samples in the window.
    pub(super) fn series_in(&self, window: TimeRange) -> impl Iterator<Item = usize> {
        let may_have = move |series: &HeadSeries| {
            series.chunks.iter().any(|place| place.range.overlaps(window))
                || range_of(&series.samples).is_some_and(|range| range.overlaps(window))
                || range_of(&series.late_samples).is_some_and(|range| range.overlaps(window))
        };
        self.series.iter().enumerate().filter(move |(_, s)| may_have(s)).map(|(id, _)| id)
    }

    /// Adds a series' samples of the window; how many of them tombstones cover.
    pub(super) fn read_series(
        &self,
        files: &Files,
        id: usize,
        window: TimeRange,
        into: &mut Samples,
    ) -> Result<u64, Error> {
        let series = &self.series[id];
        let (mut own, mut part) = (Samples::default(), Samples::default());
        for place in series.chunks.iter().filter(|place| place.range.overlaps(window)) {
            let (path, file) = &self.chunk_files[place.file];
            let chunk = head_chunk(file, place.offset).map_err(|e| files.damage(path, e))?;
            chunk.chunk.decode(&mut part).map_err(|e| files.damage(path, e))?;
            join(&mut own, &part);
        }
        join(&mut own, &series.samples);
        join(&mut own, &series.late_samples);
        retain(&mut own, |timestamp| window.contains(timestamp));
        let gone = delete(&mut own, &series.deleted);
        join(into, &own);
        Ok(gone)
    }

    /// Samples before and after a range, those under tombstones included.
    pub(super) fn count_outside(&self, files: &Files, range: TimeRange) -> Result<[u64; 2], Error> {
        let mut total = [0, 0];
        if self.range.is_none_or(|own| own.intersection(range) == own) {
            return Ok(total);
        }
        let mut samples = Samples::default();
        for id in 0..self.series.len() {
            samples.clear();
            self.read_series(files, id, TimeRange::ALL, &mut samples)?;
            let [before, after] = outside(&samples.timestamps, range);
            total = [total[0] + before, total[1] + after];
        }
        Ok(total)
    }

    /// Exemplars of the window by the places of their series among `series`, which are in order;
    /// and how many are of none of them.
    pub(super) fn exemplars_in(
        &self,
        window: TimeRange,
        series: &[Labels],
    ) -> (Vec<(u32, Exemplar)>, u64) {
        let inside = self.exemplars.iter().filter(|(_, one)| window.contains(one.timestamp));
        let mut strays = 0;
        let place = |(id, exemplar): &(usize, Exemplar)| {
            let place = series.binary_search(&self.series[*id].labels);
            strays += u64::from(place.is_err());
            Some((u32::try_from(place.ok()?).ok()?, exemplar.clone()))
        };
        (inside.filter_map(place).collect(), strays)
    }

    pub(super) fn metadata(&self) -> Vec<Metadata> {
        let mut all: Vec<Metadata> = Vec::new();
        for (id, metadata) in &self.metadata {
            let family = family_of(self.series[*id].labels.metric_name(), metadata.kind);
            all.push(Metadata { family: family.to_owned(), ..metadata.clone() });
        }
        all.sort_by(|a, b| (&a.family, &a.help, &a.unit).cmp(&(&b.family, &b.help, &b.unit)));
        all.dedup();
        all
    }
}

/// The family to which a series' name belongs.
fn family_of(name: &str, kind: MetricKind) -> &str {
    let suffixes: &[&str] = match kind {
        MetricKind::Histogram | MetricKind::GaugeHistogram => &["_bucket", "_sum", "_count"],
        MetricKind::Summary => &["_sum", "_count"],
        _ => &[],
    };
    suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

fn range_of(samples: &Samples) -> Option<TimeRange> {
    Some(TimeRange::new(*samples.timestamps.first()?, *samples.timestamps.last()?))
}

/// The segments of the last checkpoint, and those of the log, in order.
fn log_files(files: &Files, dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let names = files.list(dir)?;
    let is_number = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let number = |name: &str| name.parse::<u64>().ok();
    let checkpoints = names.iter().filter_map(|name| {
        let digits = name.strip_prefix(CHECKPOINT_PREFIX).filter(|digits| is_number(digits))?;
        Some((number(digits)?, dir.join(name)))
    });
    let checkpoint = checkpoints.max();
    let mut segments: Vec<(u64, PathBuf)> = names
        .iter()
        .filter(|name| is_number(name))
        .filter_map(|name| Some((number(name)?, dir.join(name))))
        .collect();
    segments.sort();
    let Some((covered, checkpoint)) = checkpoint else {
        return Ok((Vec::new(), segments.into_iter().map(|(_, path)| path).collect()));
    };
    let of_checkpoint = files.list(&checkpoint)?.into_iter().filter(|name| is_number(name));
    let of_checkpoint = of_checkpoint.map(|name| checkpoint.join(name)).collect();
    // What the checkpoint has been made of may still be there.
    let rest = segments.into_iter().filter(|(number, _)| *number > covered);
    Ok((of_checkpoint, rest.map(|(_, path)| path).collect()))
}

/// The head while it is put together.
#[derive(Default)]
struct Replay {
    starts_ms: i64,
    head: Head,
    hasher: Xxh3,
    limits: Limits,
    /// Chunks by the references of their series.
    chunks: HashMap<u64, Vec<Place>>,
    by_labels: HashMap<Labels, usize>,
    by_reference: HashMap<u64, usize>,
    /// Series that may not be, by their references; and why.
    refused: HashMap<u64, LabelError>,
    /// Rows of series that no record has defined.
    unknown: u64,
}

impl Replay {
    fn note_file(&mut self, path: &Path, length: usize) {
        self.hasher.update(path.to_string_lossy().as_bytes());
        self.hasher.update(&(length as u64).to_le_bytes());
    }

    /// Finds the chunks on disk. Those of a damaged file and of later ones are not needed: as long
    /// as Prometheus keeps a chunk here, it keeps its samples in the log.
    fn read_chunks(&mut self, files: &Files, summary: &mut Summary) -> Result<(), Error> {
        let dir = Path::new(CHUNKS_DIR);
        let names = files.list(dir)?;
        for name in names.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
            let path = dir.join(name);
            let file = files.read(&path)?;
            self.note_file(&path, file.len());
            // A file that was only created is empty.
            let read = if file.is_empty() { Ok(()) } else { self.read_chunk_file(&file) };
            self.head.chunk_files.push((path.clone(), file));
            if let Err(damage) = read {
                let error = files.damage(&path, damage);
                let text = format!("{error}; the log is read in place of the chunks from there on");
                summary.notes.push(text);
                break;
            }
        }
        Ok(())
    }

    fn read_chunk_file(&mut self, file: &[u8]) -> Result<(), icecore_ingest::prometheus::Damage> {
        let number = self.head.chunk_files.len();
        for found in HeadChunks::open(file)? {
            let found = found?;
            if !found.is_out_of_order && found.range.end_ms < self.starts_ms {
                continue;
            }
            let place = Place {
                file: number,
                offset: found.chunk.offset,
                range: found.range,
                is_out_of_order: found.is_out_of_order,
            };
            self.chunks.entry(found.series).or_default().push(place);
        }
        Ok(())
    }

    fn read_log(
        &mut self,
        files: &Files,
        segments: &[PathBuf],
        is_out_of_order: bool,
        damaged: &mut Vec<Error>,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        for (number, path) in segments.iter().enumerate() {
            let file = files.read(path)?;
            self.note_file(path, file.len());
            match self.read_segment(&file, is_out_of_order) {
                Ok(()) => {}
                Err(Broken::Torn(damage)) if number + 1 == segments.len() => {
                    let at = (files.root.join(path), damage.offset);
                    summary.notes.push(format!(
                        "{} ends in the middle of a record at byte {}: Prometheus was killed",
                        at.0.display(),
                        at.1
                    ));
                }
                Err(Broken::Torn(damage) | Broken::Damaged(damage)) => {
                    damaged.push(files.damage(path, damage));
                }
            }
        }
        Ok(())
    }

    /// Takes in the records up to the first that is broken.
    fn read_segment(&mut self, file: &[u8], is_out_of_order: bool) -> Result<(), Broken> {
        let mut records = Records::new(file);
        while let Some(next) = records.next() {
            let (offset, payload) = next?;
            self.apply(Record::parse(payload, offset)?, is_out_of_order);
        }
        Ok(())
    }

    fn apply(&mut self, record: Record, is_out_of_order: bool) {
        match record {
            Record::Series(rows) => {
                rows.into_iter().for_each(|(reference, labels)| self.define(reference, labels));
            }
            Record::Samples(rows) if is_out_of_order => rows.into_iter().for_each(|(id, at, v)| {
                self.with(id, |series| series.late.push((at, LateValue::Float(v))));
            }),
            Record::Histograms(rows) if is_out_of_order => {
                rows.into_iter().for_each(|(id, at, histogram)| {
                    self.with(id, |series| series.late.push((at, LateValue::Histogram(histogram))));
                });
            }
            Record::Samples(rows) => rows.into_iter().for_each(|(id, at, value)| {
                let starts_ms = self.starts_ms;
                self.with(id, |series| {
                    if series.takes(at, starts_ms) {
                        series.samples.push(at, value);
                    }
                });
            }),
            Record::Histograms(rows) => rows.into_iter().for_each(|(id, at, histogram)| {
                let starts_ms = self.starts_ms;
                self.with(id, |series| {
                    if series.takes(at, starts_ms) {
                        series.samples.push_histogram(at, histogram);
                    }
                });
            }),
            Record::Exemplars(rows) => {
                for (reference, exemplar) in rows {
                    if let (Some(id), Ok(exemplar)) = (self.by_reference.get(&reference), exemplar)
                    {
                        self.head.exemplars.push((*id, exemplar));
                    }
                }
            }
            Record::Tombstones(rows) => rows.into_iter().for_each(|(reference, range)| {
                self.with(reference, |series| series.deleted.push(range));
            }),
            Record::Metadata(rows) => {
                for (reference, metadata) in rows {
                    if let Some(id) = self.by_reference.get(&reference) {
                        self.head.metadata.insert(*id, metadata);
                    }
                }
            }
            Record::Markers => {}
        }
    }

    fn define(&mut self, reference: u64, labels: Result<Labels, LabelError>) {
        let checked = labels.and_then(|labels| self.limits.check_labels(&labels).map(|()| labels));
        let labels = match checked {
            Ok(labels) => labels,
            Err(error) => {
                self.refused.insert(reference, error);
                return;
            }
        };
        let id = *self.by_labels.entry(labels).or_insert_with_key(|labels| {
            self.head.series.push(HeadSeries {
                labels: labels.clone(),
                chunks: Vec::new(),
                samples: Samples::default(),
                late: Vec::new(),
                late_samples: Samples::default(),
                deleted: Vec::new(),
                newest_ms: i64::MIN,
            });
            self.head.series.len() - 1
        });
        self.by_reference.insert(reference, id);
        let series = &mut self.head.series[id];
        for place in self.chunks.remove(&reference).unwrap_or_default() {
            if !place.is_out_of_order {
                series.newest_ms = series.newest_ms.max(place.range.end_ms);
            }
            series.chunks.push(place);
        }
    }

    fn with(&mut self, reference: u64, change: impl FnOnce(&mut HeadSeries)) {
        match self.by_reference.get(&reference) {
            Some(id) => change(&mut self.head.series[*id]),
            None => self.unknown += u64::from(!self.refused.contains_key(&reference)),
        }
    }

    fn finish(self, summary: &mut Summary) -> Head {
        let why = "rows of the log of series that it does not define";
        summary.refuse(self.unknown, why, String::new);
        if let Some(error) = self.refused.values().next() {
            let why = "series of the head with labels that no series may have";
            summary.refuse(self.refused.len() as u64, why, || error.to_string());
        }
        let mut head = self.head;
        for series in &mut head.series {
            series.sort_late();
            let ranges = series.chunks.iter().map(|place| place.range);
            let ranges = ranges.chain(range_of(&series.samples));
            let ranges = ranges.chain(range_of(&series.late_samples));
            head.range = ranges
                .fold(head.range, |all, range| Some(all.map_or(range, |all| all.union(range))));
        }
        head.state = self.hasher.digest();
        head
    }
}

impl HeadSeries {
    fn sort_late(&mut self) {
        let mut late = std::mem::take(&mut self.late);
        late.sort_by_key(|(timestamp, _)| *timestamp);
        for (timestamp, value) in late {
            let mut one = Samples::default();
            match value {
                LateValue::Float(value) => one.push(timestamp, value),
                LateValue::Histogram(histogram) => one.push_histogram(timestamp, histogram),
            }
            // Ascending, so that this is a push but for equal times.
            join(&mut self.late_samples, &one);
        }
    }

    /// Whether Prometheus would take a sample of its log, which then is the newest.
    fn takes(&mut self, timestamp: i64, starts_ms: i64) -> bool {
        let is_new = timestamp >= starts_ms && timestamp > self.newest_ms;
        if is_new {
            self.newest_ms = timestamp;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use icecore_storage::disk::sim::SimDisk;

    use super::*;

    #[test]
    fn the_log_is_read_as_prometheus_would_at_a_start() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "node")]);
        let nameless = Labels::from_pairs([("job", "node")]);
        let mut replay = Replay { starts_ms: 100, ..Replay::default() };
        let mut apply = |record, is_late| replay.apply(record, is_late);
        // After a restart a series may have another reference.
        apply(Record::Series(vec![(1, labels.clone()), (2, labels), (3, nameless)]), false);
        let in_order = [
            (1, 99, 0.5), // In a block.
            (1, 100, 1.0),
            (2, 110, 2.0),
            (1, 105, 8.0), // Refused by Prometheus, which logs before it looks.
            (2, 110, 8.0),
            (1, 120, 3.0),
            (9, 100, 1.0),
            (3, 100, 1.0),
        ];
        apply(Record::Samples(in_order.to_vec()), false);
        // As they came, and one twice.
        let late = [(2, 105, 5.0), (1, 50, 6.0), (1, 50, 6.0)];
        apply(Record::Samples(late.to_vec()), true);
        apply(Record::Tombstones(vec![(2, TimeRange::new(110, 115))]), false);
        let mut summary = Summary::default();
        let head = replay.finish(&mut summary);
        assert_eq!(head.range, Some(TimeRange::new(50, 120)));
        let files = Files { disk: Arc::new(SimDisk::new(1)), root: PathBuf::new() };
        let mut samples = Samples::default();
        assert_eq!(head.read_series(&files, 0, TimeRange::ALL, &mut samples).unwrap(), 1);
        assert_eq!(samples.timestamps, [50, 100, 105, 120]);
        assert_eq!(samples.values, [6.0, 1.0, 5.0, 3.0]);
        samples.clear();
        head.read_series(&files, 0, TimeRange::new(60, 100), &mut samples).unwrap();
        assert_eq!(samples.timestamps, [100]);
        let text = summary.to_string();
        assert!(text.contains("1: rows of the log of series that it does not define"), "{text}");
        assert!(
            text.contains("1: series of the head with labels that no series may have"),
            "{text}"
        );
    }

    #[test]
    fn metadata_is_of_the_family() {
        assert_eq!(family_of("latency_bucket", MetricKind::Histogram), "latency");
        assert_eq!(family_of("latency_sum", MetricKind::Summary), "latency");
        assert_eq!(family_of("requests_count", MetricKind::Counter), "requests_count");
    }
}
