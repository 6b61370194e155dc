//! Replay: reading the log back after a stop of any kind.
//!
//! Records come in the order of their sequences, each with its segment's references. A torn tail
//! of the last segment is ordinary: those writes were never acknowledged. Damage anywhere else
//! loses the records it hit and no others, and is reported; the file moves to `quarantine/` once
//! its intact records are safe elsewhere.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::Result;
use crate::wal::record::{self, BatchRecord};
use crate::wal::segment::{self, Frame, Next, SegmentReader};
use crate::wal::{SealedSegment, WAL_DIR, io_error};

/// What replay found, apart from the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Highest sequence seen.
    pub(crate) last_sequence: u64,
    /// Highest segment number seen, readable or not.
    pub(crate) last_segment: u64,
    pub(crate) records: u64,
    /// Records that must have been there and were not.
    pub(crate) lost: u64,
    pub(crate) torn_tail_bytes: u64,
    pub(crate) segments: Vec<SealedSegment>,
    /// Segments with damage that is not a torn tail.
    pub(crate) damaged: Vec<PathBuf>,
}

impl Report {
    /// Takes note that a record of this sequence was written: had it been read, `last_sequence`
    /// would have reached it. Counts the whole gap, in which some sequences may be unused.
    fn miss(&mut self, written: u64) {
        if written > self.last_sequence {
            self.lost += written - self.last_sequence;
            self.last_sequence = written;
        }
    }
}

/// Something to do with one record during replay.
pub(crate) enum Entry {
    /// A new segment begins: references mean nothing any more.
    Segment,
    /// The record of a sequence above the covered one.
    Batch { sequence: u64, record: BatchRecord },
    /// Labels stated by a record that is covered already.
    Definitions(Vec<(u32, crate::labels::Labels)>),
}

/// Reads every segment in order and hands each entry to `visit`. Records of sequences up to
/// `covered` are in a checkpoint; of them only the labels are handed on.
pub(crate) fn replay(
    disk: &dyn Disk,
    covered: u64,
    mut visit: impl FnMut(Entry) -> Result<()>,
) -> Result<Report> {
    let mut report = Report { last_sequence: covered, ..Report::default() };
    let numbers = list(disk)?;
    report.last_segment = numbers.last().copied().unwrap_or(0);
    for (i, &number) in numbers.iter().enumerate() {
        let is_last = i + 1 == numbers.len();
        replay_segment(disk, number, is_last, covered, &mut report, &mut visit)?;
    }
    if report.lost > 0 || !report.damaged.is_empty() {
        tracing::error!(lost = report.lost, damaged = ?report.damaged, "the log is damaged");
    }
    Ok(report)
}

fn list(disk: &dyn Disk) -> Result<Vec<u64>> {
    let dir = Path::new(WAL_DIR);
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(io_error("list", dir, e)),
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn replay_segment(
    disk: &dyn Disk,
    number: u64,
    is_last: bool,
    covered: u64,
    report: &mut Report,
    visit: &mut impl FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let path = segment::path(number);
    let file = disk.open(&path).map_err(|e| io_error("open", &path, e))?;
    let length = file.length();
    let bytes = file.range(0..length).map_err(|e| io_error("read", &path, e))?;
    let Some(mut reader) = SegmentReader::open(number, bytes) else {
        // A crash between creating a segment and its first sync leaves a headless file that never
        // held an acknowledged record; elsewhere it is damage.
        if is_last {
            report.torn_tail_bytes += length;
            report.segments.push(SealedSegment { number, last_sequence: covered, bytes: length });
        } else {
            report.damaged.push(path);
        }
        return Ok(());
    };
    visit(Entry::Segment)?;
    report.miss(reader.previous_sequence);
    let mut is_damaged = false;
    loop {
        match reader.next() {
            Next::End => break,
            // Bytes behind the last frame were never acknowledged, or show as a gap later.
            Next::Damaged { length, at_end: true, .. } => report.torn_tail_bytes += length,
            Next::Damaged { offset, length, at_end: false } => {
                tracing::error!(segment = number, offset, length, "damaged log bytes skipped");
                is_damaged = true;
            }
            Next::Frame(frame) => is_damaged |= !replay_frame(frame, covered, report, visit)?,
        }
    }
    let last_sequence = report.last_sequence;
    if is_damaged {
        report.damaged.push(path);
    }
    report.segments.push(SealedSegment { number, last_sequence, bytes: length });
    Ok(())
}

/// Whether the frame could be understood.
fn replay_frame(
    frame: Frame,
    covered: u64,
    report: &mut Report,
    visit: &mut impl FnMut(Entry) -> Result<()>,
) -> Result<bool> {
    report.miss(frame.previous);
    if frame.frame_type != record::BATCH {
        report.miss(frame.sequence);
        return Ok(false);
    }
    if frame.sequence <= covered {
        let Some(definitions) = BatchRecord::decode_definitions(&frame.payload) else {
            return Ok(false);
        };
        visit(Entry::Definitions(definitions))?;
        return Ok(true);
    }
    let Some(record) = BatchRecord::decode(&frame.payload) else {
        report.miss(frame.sequence);
        return Ok(false);
    };
    report.records += 1;
    report.last_sequence = report.last_sequence.max(frame.sequence);
    visit(Entry::Batch { sequence: frame.sequence, record })?;
    Ok(true)
}
