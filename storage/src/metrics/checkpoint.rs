//! Checkpoints: the head as one file, so that little of the log has to be read at the next start.
//!
//! A checkpoint holds every series of the head with its mini-chunks, tail and late samples, the
//! exemplars and the metadata. It is written while writes go on, a batch of series at a time: it
//! holds at least what was applied when it began, and what it holds beyond that is in the log as
//! well. Frames are checked one by one; damage costs the series of its frame and is reported.
//! Layout: docs/format.md, "Checkpoint".

use std::path::{Path, PathBuf};

use crate::disk::{Disk, WriteFile};
use crate::encoding::frame;
use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::error::{Error, Result, io_error};
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::head::Head;
use crate::metrics::head::series::MemSeries;
use crate::metrics::head::view::SeriesView;
use crate::time::TimeRange;
use crate::wal::record::{read_exemplar, read_metadata, write_exemplar, write_metadata};

/// Folder of the checkpoints, below the data directory.
pub const CHECKPOINTS_DIR: &str = "checkpoints";

const MAGIC: &[u8; 8] = b"ICECKPT\x01";
/// Bounds what a frame may claim to decompress to.
const RAW_BYTES_MAX: usize = 1 << 30;

const FRAME_START: u8 = 1;
const FRAME_SERIES: u8 = 2;
const FRAME_EXEMPLARS: u8 = 3;
const FRAME_METADATA: u8 = 4;
const FRAME_END: u8 = 5;

/// `checkpoint-0000000000000001`, in hexadecimal.
pub(crate) fn path(number: u64) -> PathBuf {
    Path::new(CHECKPOINTS_DIR).join(format!("checkpoint-{number:016x}"))
}

pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("checkpoint-").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A checkpoint being written.
#[derive(Debug)]
pub(crate) struct CheckpointWriter<'a> {
    disk: &'a dyn Disk,
    number: u64,
    temporary: PathBuf,
    file: Box<dyn WriteFile>,
    series: u64,
    is_complete: bool,
}

/// What a failure leaves unfinished must not pile up on a disk that may be full.
impl Drop for CheckpointWriter<'_> {
    fn drop(&mut self) {
        if !self.is_complete {
            let _ = self.disk.remove(&self.temporary);
            let _ = self.disk.remove(&path(self.number));
        }
    }
}

/// A series of the head as it was at one moment.
pub(crate) struct HeadSeries {
    pub(crate) labels: Labels,
    pub(crate) newest: i64,
    pub(crate) view: SeriesView,
}

impl<'a> CheckpointWriter<'a> {
    pub(crate) fn create(
        disk: &'a dyn Disk,
        number: u64,
        covered: u64,
        sealed_before: i64,
    ) -> Result<CheckpointWriter<'a>> {
        let temporary = Path::new(CHECKPOINTS_DIR).join(format!("tmp-checkpoint-{number:016x}"));
        let file = disk.create(&temporary).map_err(|e| io_error("create", &temporary, e))?;
        let mut writer =
            CheckpointWriter { disk, number, temporary, file, series: 0, is_complete: false };
        writer.file.append(MAGIC).map_err(|e| io_error("write", &writer.temporary, e))?;
        let mut start = Vec::new();
        varint::write(&mut start, covered);
        varint::write_signed(&mut start, sealed_before);
        writer.frame(FRAME_START, &start)?;
        Ok(writer)
    }

    /// Writes a batch of series, with the timestamp columns they share.
    pub(crate) fn series(&mut self, batch: &[HeadSeries]) -> Result<()> {
        let mut columns: Vec<&(u32, Box<[u8]>)> =
            batch.iter().flat_map(|series| series.view.columns()).collect();
        columns.sort_unstable_by_key(|(id, _)| *id);
        columns.dedup_by_key(|(id, _)| *id);
        let mut out = Vec::new();
        varint::write(&mut out, columns.len() as u64);
        for (id, bytes) in columns {
            varint::write(&mut out, u64::from(*id));
            write_bytes(&mut out, bytes);
        }
        varint::write(&mut out, batch.len() as u64);
        for series in batch {
            write_bytes(&mut out, series.labels.as_bytes());
            varint::write_signed(&mut out, series.newest);
            series.view.write(&mut out);
        }
        self.series += batch.len() as u64;
        self.frame(FRAME_SERIES, &out)
    }

    /// Exemplars with the labels of their series, and metadata; then makes the file durable.
    pub(crate) fn finish(
        mut self,
        exemplars: &[(Labels, Exemplar)],
        metadata: &[Metadata],
    ) -> Result<()> {
        let mut out = Vec::new();
        varint::write(&mut out, exemplars.len() as u64);
        for (labels, exemplar) in exemplars {
            write_bytes(&mut out, labels.as_bytes());
            write_exemplar(&mut out, exemplar);
        }
        self.frame(FRAME_EXEMPLARS, &out)?;
        let mut out = Vec::new();
        varint::write(&mut out, metadata.len() as u64);
        metadata.iter().for_each(|metadata| write_metadata(&mut out, metadata));
        self.frame(FRAME_METADATA, &out)?;
        let mut out = Vec::new();
        varint::write(&mut out, self.series);
        self.frame(FRAME_END, &out)?;
        let (temporary, path) = (&self.temporary, path(self.number));
        self.file.sync().map_err(|e| io_error("sync", temporary, e))?;
        self.disk.rename(temporary, &path).map_err(|e| io_error("rename", temporary, e))?;
        let dir = Path::new(CHECKPOINTS_DIR);
        self.disk.sync_dir(dir).map_err(|e| io_error("sync folder", dir, e))?;
        self.is_complete = true;
        Ok(())
    }

    fn frame(&mut self, kind: u8, raw: &[u8]) -> Result<()> {
        let mut payload = vec![kind];
        varint::write(&mut payload, raw.len() as u64);
        let packed = zstd::bulk::compress(raw, 1).expect("compressing into memory");
        payload.extend_from_slice(&packed);
        let mut framed = Vec::with_capacity(payload.len() + frame::HEADER_BYTES);
        frame::write(&payload, &mut framed);
        self.file.append(&framed).map_err(|e| io_error("write", &self.temporary, e))
    }
}

/// What became of reading a checkpoint into a head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) covered: u64,
    pub(crate) series: u64,
    /// Where the frames are that could not be used.
    pub(crate) damaged_at: Vec<u64>,
}

/// Fills a new head. Fails if the file cannot be read or does not say what it covers. `relieve` may
/// take from the head, some thousand series at a time, what is too much for it.
pub(crate) fn restore(
    disk: &dyn Disk,
    number: u64,
    head: &mut Head,
    mut relieve: impl FnMut(&mut Head) -> Result<()>,
) -> Result<Restored> {
    let path = path(number);
    let file = disk.open(&path).map_err(|e| io_error("open", &path, e))?;
    let bytes = file.range(0..file.length()).map_err(|e| io_error("read", &path, e))?;
    let corrupt = |offset: usize, what: &str| Error::Corrupt {
        path: path.clone(),
        offset: offset as u64,
        what: what.to_owned(),
    };
    if bytes.get(..MAGIC.len()) != Some(MAGIC) {
        return Err(corrupt(0, "this is not a checkpoint"));
    }
    let mut offset = MAGIC.len();
    let mut restored = Restored::default();
    let (_, start) = unpack(&bytes, &mut offset)
        .filter(|(kind, _)| *kind == FRAME_START)
        .ok_or_else(|| corrupt(MAGIC.len(), "the first frame is damaged"))?;
    let mut rest = &start[..];
    let fields = varint::read(&mut rest).zip(varint::read_signed(&mut rest));
    let (covered, sealed_before) =
        fields.ok_or_else(|| corrupt(MAGIC.len(), "the first frame is damaged"))?;
    restored.covered = covered;
    head.set_sealed_before(sealed_before);
    let mut is_complete = false;
    while offset < bytes.len() {
        let at = offset;
        let used = unpack(&bytes, &mut offset).and_then(|(kind, raw)| match kind {
            FRAME_SERIES => restore_series(&raw, head, &mut restored),
            FRAME_EXEMPLARS => restore_exemplars(&raw, head),
            FRAME_METADATA => restore_metadata(&raw, head),
            FRAME_END => {
                is_complete = true;
                Some(())
            }
            _ => None,
        });
        relieve(head)?;
        if used.is_none() {
            restored.damaged_at.push(at as u64);
            // The frame's own length leads to the next one, unless it is what was damaged.
            match end_of_frame(&bytes, at) {
                Some(next) => offset = next,
                None => break,
            }
        }
    }
    if !is_complete {
        restored.damaged_at.push(offset as u64);
    }
    Ok(restored)
}

/// Where the frame at `at` ends, if its length is to be believed.
fn end_of_frame(bytes: &[u8], at: usize) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    let end = at.checked_add(frame::HEADER_BYTES)?.checked_add(length as usize)?;
    (end <= bytes.len()).then_some(end)
}

/// For [`restore`], where nobody wants the series.
pub(crate) fn forget(head: &mut Head) -> Result<()> {
    *head = Head::new();
    Ok(())
}

/// What a checkpoint says it covers; `None` if it is not intact from front to back.
pub(crate) fn covered(disk: &dyn Disk, number: u64) -> Option<u64> {
    let mut head = Head::new();
    let restored = restore(disk, number, &mut head, forget).ok()?;
    restored.damaged_at.is_empty().then_some(restored.covered)
}

fn unpack(bytes: &[u8], offset: &mut usize) -> Option<(u8, Vec<u8>)> {
    let payload = frame::read(bytes, offset).ok()?;
    let (kind, mut rest) = payload.split_first()?;
    let raw_length = usize::try_from(varint::read(&mut rest)?).ok()?;
    if raw_length > RAW_BYTES_MAX {
        return None;
    }
    let raw = zstd::bulk::decompress(rest, raw_length).ok()?;
    (raw.len() == raw_length).then_some((*kind, raw))
}

fn restore_series(raw: &[u8], head: &mut Head, restored: &mut Restored) -> Option<()> {
    let mut rest = raw;
    let count = read_count(&mut rest, 2)?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let id = u32::try_from(varint::read(&mut rest)?).ok()?;
        columns.push((id, read_bytes(&mut rest)?.into()));
    }
    for _ in 0..read_count(&mut rest, 4)? {
        let labels = Labels::from_canonical_bytes(read_bytes(&mut rest)?).ok()?;
        let newest = varint::read_signed(&mut rest)?;
        let view = SeriesView::parse(&mut rest, &columns)?;
        let (id, _) = head.find_or_create(&labels);
        let series = MemSeries::restore(&view, newest, &mut head.columns)?;
        head.restore_series(id, series);
        restored.series += 1;
    }
    rest.is_empty().then_some(())
}

fn restore_exemplars(raw: &[u8], head: &mut Head) -> Option<()> {
    let mut rest = raw;
    for _ in 0..read_count(&mut rest, 4)? {
        let labels = Labels::from_canonical_bytes(read_bytes(&mut rest)?).ok()?;
        let exemplar = read_exemplar(&mut rest)?;
        let (id, _) = head.find_or_create(&labels);
        head.push_exemplar(id, exemplar);
    }
    Some(())
}

fn restore_metadata(raw: &[u8], head: &mut Head) -> Option<()> {
    let mut rest = raw;
    let metadata = (0..read_count(&mut rest, 4)?).map(|_| read_metadata(&mut rest));
    let metadata: Vec<Metadata> = metadata.collect::<Option<_>>()?;
    // Listed newest first within a family; pushing puts the last in front.
    metadata.iter().rev().for_each(|metadata| head.push_metadata(metadata));
    Some(())
}

/// Copies a batch of the head's series for a checkpoint.
pub(crate) fn copy_series(head: &Head, ids: &[u32]) -> Vec<HeadSeries> {
    ids.iter()
        .filter(|id| head.is_in_use(**id) && !head.series(**id).is_empty())
        .map(|&id| {
            let series = head.series(id);
            HeadSeries {
                labels: head.index.labels(id),
                newest: series.newest(),
                view: series.view(TimeRange::ALL, &head.columns),
            }
        })
        .collect()
}
