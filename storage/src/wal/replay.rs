//! Replay: reading the log back after a stop of any kind.
//!
//! Records come in the order of their sequences, each with its segment's references. Which records
//! were acknowledged follows from those behind them: every frame says what was synced before it,
//! and every segment which record was the last that an earlier one holds. So a torn group of
//! writes at the end of the log is told from damage: nobody was promised those records, and of
//! those that are whole in spite of it none is taken in part. Damage anywhere else loses the
//! records it hit and no others, and is reported; the file moves to `quarantine/` once its intact
//! records are safe elsewhere. A record that was written and answered with a failure is left out.

use std::io;
use std::path::{Path, PathBuf};

use crate::deletes::Delete;
use crate::disk::Disk;
use crate::error::{Result, io_error};
use crate::wal::record::{self, BatchRecord};
use crate::wal::segment::{self, Frame, Next, SegmentReader};
use crate::wal::{SealedSegment, WAL_DIR};

const UNDECODABLE: &str = "a record that cannot be decoded";

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
    /// What the damage is: segment, offset in it, text.
    pub(crate) damage: Vec<(PathBuf, u64, &'static str)>,
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
    Batch {
        sequence: u64,
        record: BatchRecord,
        /// It stands behind torn bytes and was never acknowledged: to be taken whole or not.
        is_doubtful: bool,
    },
    /// The delete of a sequence above the covered one.
    Delete { sequence: u64, delete: Delete, is_doubtful: bool },
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
    let mut segments = Vec::new();
    for number in list(disk)? {
        report.last_segment = number;
        segments.push(Segment::open(disk, number)?);
    }
    // What the segments behind say of the last record before them; they all do, but for damage.
    let mut before_next = None;
    for segment in segments.iter_mut().rev() {
        segment.before_next = before_next;
        let reader = segment.reader.as_ref();
        before_next = reader.map(|reader| reader.previous_sequence).or(before_next);
    }
    for segment in segments {
        replay_segment(segment, covered, &mut report, &mut visit)?;
    }
    if report.lost > 0 || !report.damaged.is_empty() {
        tracing::error!(lost = report.lost, damaged = ?report.damaged, "the log is damaged");
    }
    Ok(report)
}

/// A segment to be read.
struct Segment {
    number: u64,
    path: PathBuf,
    length: u64,
    /// `None` if it has no intact header.
    reader: Option<SegmentReader>,
    /// The last record that was written without a failure before the next segment began; `None`
    /// for the last segment.
    before_next: Option<u64>,
}

impl Segment {
    fn open(disk: &dyn Disk, number: u64) -> Result<Segment> {
        let path = segment::path(number);
        let file = disk.open(&path).map_err(|e| io_error("open", &path, e))?;
        let length = file.length();
        let bytes = file.range(0..length).map_err(|e| io_error("read", &path, e))?;
        let reader = SegmentReader::open(number, bytes.clone());
        let reader = reader.or_else(|| SegmentReader::salvage(bytes));
        Ok(Segment { number, path, length, reader, before_next: None })
    }
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
    segment: Segment,
    covered: u64,
    report: &mut Report,
    visit: &mut impl FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let Segment { number, path, length, reader, before_next } = segment;
    let Some(mut reader) = reader else {
        // A crash between creating a segment and its first sync leaves a headless file that never
        // held an acknowledged record; if one is missing, it is damage.
        if before_next.is_some_and(|sequence| sequence > report.last_sequence) {
            report.damage.push((path.clone(), 0, "the segment's header is damaged"));
            report.damaged.push(path);
        } else {
            report.torn_tail_bytes += length;
            report.segments.push(SealedSegment { number, last_sequence: covered, bytes: length });
        }
        return Ok(());
    };
    visit(Entry::Segment)?;
    report.miss(reader.previous_sequence);
    let items: Vec<Next> =
        std::iter::from_fn(|| Some(reader.next()).filter(|next| !matches!(next, Next::End)))
            .collect();
    let synced = items.iter().filter_map(|item| match item {
        Next::Frame(frame) => Some(frame.synced),
        _ => None,
    });
    let mut segment = State {
        acknowledged: synced.chain(before_next).max().unwrap_or(0),
        position: reader.previous_sequence,
        damage: match reader.header_is_intact {
            true => Vec::new(),
            false => vec![(0, "the segment's header is damaged")],
        },
        is_doubtful: false,
    };
    for item in items {
        match item {
            Next::Frame(frame) if before_next.is_some_and(|last| frame.sequence > last) => {
                tracing::warn!(sequence = frame.sequence, "a log record that failed is left out");
            }
            Next::Frame(frame) => replay_frame(frame, covered, &mut segment, report, visit)?,
            Next::Damaged { length, .. } if segment.acknowledged <= segment.position => {
                segment.is_doubtful = true;
                report.torn_tail_bytes += length;
            }
            Next::Damaged { offset, length } => {
                tracing::error!(segment = number, offset, length, "damaged log bytes skipped");
                segment.damage.push((offset, "damaged bytes"));
            }
            Next::End => break,
        }
    }
    let last_sequence = report.last_sequence;
    if !segment.damage.is_empty() {
        let damage = segment.damage.into_iter();
        report.damage.extend(damage.map(|(offset, what)| (path.clone(), offset, what)));
        report.damaged.push(path);
    }
    report.segments.push(SealedSegment { number, last_sequence, bytes: length });
    Ok(())
}

/// What is known of a segment while it is replayed.
struct State {
    /// Every record up to here was synced and may have been acknowledged.
    acknowledged: u64,
    /// Sequence of the frame read last.
    position: u64,
    damage: Vec<(u64, &'static str)>,
    /// Bytes were skipped behind which nothing was acknowledged.
    is_doubtful: bool,
}

fn replay_frame(
    frame: Frame,
    covered: u64,
    segment: &mut State,
    report: &mut Report,
    visit: &mut impl FnMut(Entry) -> Result<()>,
) -> Result<()> {
    segment.position = frame.sequence;
    report.miss(frame.previous.min(segment.acknowledged));
    let is_covered = frame.sequence <= covered;
    let is_doubtful = segment.is_doubtful;
    let sequence = frame.sequence;
    let entry = match frame.frame_type {
        record::BATCH if is_covered => {
            BatchRecord::decode_definitions(&frame.payload).map(Entry::Definitions)
        }
        record::BATCH => BatchRecord::decode(&frame.payload).map(|record| Entry::Batch {
            sequence,
            record,
            is_doubtful,
        }),
        record::DELETE if is_covered => return Ok(()),
        record::DELETE => Delete::decode(&frame.payload).map(|delete| Entry::Delete {
            sequence,
            delete,
            is_doubtful,
        }),
        _ => {
            report.miss(sequence);
            segment.damage.push((frame.offset, "a record of a kind that is not known"));
            return Ok(());
        }
    };
    let Some(entry) = entry else {
        segment.damage.push((frame.offset, UNDECODABLE));
        if !is_covered {
            report.miss(sequence);
        }
        return Ok(());
    };
    if !is_covered {
        report.records += 1;
        report.last_sequence = report.last_sequence.max(sequence);
    }
    visit(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::wal::segment::{FRAME_HEADER_BYTES, HEADER_BYTES, SegmentWriter};

    /// A segment of three records, the second of them damaged; `synced` is what the third says of
    /// the records before it.
    fn replay_damaged(synced: u64) -> (Report, Vec<(u64, bool)>) {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new(WAL_DIR)).unwrap();
        let payload = BatchRecord::default().encode().payload;
        let mut writer = SegmentWriter::create(&disk, 1, 77, 0).unwrap();
        writer.append(1, 0, record::BATCH, &payload).unwrap();
        writer.append(2, 1, record::BATCH, &payload).unwrap();
        writer.append(3, synced, record::BATCH, &payload).unwrap();
        writer.flush().unwrap();
        let second = HEADER_BYTES + FRAME_HEADER_BYTES + payload.len();
        disk.corrupt(&segment::path(1), second as u64 + 9, 1);
        let mut found = Vec::new();
        let report = replay(&disk, 0, |entry| {
            if let Entry::Batch { sequence, is_doubtful, .. } = entry {
                found.push((sequence, is_doubtful));
            }
            Ok(())
        });
        (report.unwrap(), found)
    }

    #[test]
    fn a_torn_group_is_no_damage() {
        let (report, found) = replay_damaged(1);
        assert_eq!(found, [(1, false), (3, true)]);
        assert_eq!((report.lost, report.damaged.len(), report.last_sequence), (0, 0, 3));
        assert!(report.torn_tail_bytes > 0);
    }

    #[test]
    fn a_record_that_was_synced_and_cannot_be_read_is_lost() {
        let (report, found) = replay_damaged(2);
        assert_eq!(found, [(1, false), (3, false)]);
        assert_eq!((report.lost, report.damaged.len()), (1, 1));
    }
}
