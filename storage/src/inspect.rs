//! Inspecting: what manifest, log and blocks say, as plain numbers for people.
//!
//! Reads only, and takes no lock, so it works beside a running server; a file that goes away
//! meanwhile is an error of kind "not found".

use std::path::{Path, PathBuf};

use crate::data_file::{newest_manifest, open, segments};
use crate::disk::Disk;
use crate::encoding::varint;
use crate::error::Result;
use crate::metrics::block;
pub use crate::metrics::block::inspect::{
    BlockFacts, ChunkFacts, MetricFacts, SectionFacts, block,
};
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::time::TimeRange;
use crate::wal::record::{self, BatchRecord};
use crate::wal::segment::{self, Frame, Next, SegmentReader};

/// The newest manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestFacts {
    pub path: PathBuf,
    pub generation: u64,
    pub next_number: u64,
    /// Number of the live checkpoint, and the sequence that it covers.
    pub checkpoint: Option<(u64, u64)>,
    pub blocks: Vec<BlockMeta>,
    pub retired: Vec<u64>,
    pub gaps: Vec<TimeRange>,
}

/// Reads the newest manifest of a data directory.
pub fn manifest(disk: &dyn Disk) -> Result<ManifestFacts> {
    let manifest = newest_manifest(disk)?;
    Ok(ManifestFacts {
        path: crate::manifest::path(manifest.generation),
        generation: manifest.generation,
        next_number: manifest.next_number,
        checkpoint: manifest.checkpoint.map(|one| (one.number, one.covered)),
        blocks: manifest.blocks,
        retired: manifest.retired,
        gaps: manifest.gaps,
    })
}

/// Where a data directory has the block of an id.
pub fn block_path(id: BlockId) -> PathBuf {
    block::path(id)
}

/// What a segment of the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentFacts {
    pub number: u64,
    pub bytes: u64,
    pub header_is_intact: bool,
    /// Sequence of the last record of an earlier segment, as the header says.
    pub previous_sequence: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub records: u64,
    /// Of these, records that cannot be decoded, or are of a kind that is not known.
    pub undecodable: u64,
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
    pub metadata: u64,
    /// Labels that records state, and what they take of the segment.
    pub definitions: u64,
    pub definition_bytes: u64,
    /// What rows take of the segment.
    pub row_bytes: u64,
    /// Offset and length of bytes that are no frames; at the end of the last segment they are a
    /// write that was cut off or is under way.
    pub damaged: Vec<(u64, u64)>,
}

/// Numbers of the log's segments, ascending.
pub fn wal(disk: &dyn Disk) -> Result<Vec<u64>> {
    segments(disk)
}

/// Reads a segment of the log.
pub fn segment(disk: &dyn Disk, number: u64) -> Result<SegmentFacts> {
    let path = segment::path(number);
    let file = open(disk, &path)?;
    let mut facts = SegmentFacts { number, bytes: file.length(), ..SegmentFacts::default() };
    let bytes = read_all(file.as_ref(), &path)?;
    let reader = SegmentReader::open(number, bytes.clone());
    let Some(mut reader) = reader.or_else(|| SegmentReader::salvage(bytes)) else {
        facts.damaged.push((0, facts.bytes));
        return Ok(facts);
    };
    facts.header_is_intact = reader.header_is_intact;
    facts.previous_sequence = reader.previous_sequence;
    loop {
        match reader.next() {
            Next::Frame(frame) => facts.add(&frame),
            Next::Damaged { offset, length } => facts.damaged.push((offset, length)),
            Next::End => return Ok(facts),
        }
    }
}

fn read_all(file: &dyn crate::disk::ReadFile, path: &Path) -> Result<bytes::Bytes> {
    file.range(0..file.length()).map_err(|e| crate::error::io_error("read", path, e))
}

impl SegmentFacts {
    fn add(&mut self, frame: &Frame) {
        if self.records == 0 {
            self.first_sequence = frame.sequence;
        }
        self.last_sequence = frame.sequence;
        self.records += 1;
        let is_batch = frame.frame_type == record::BATCH;
        let decoded = is_batch.then(|| BatchRecord::decode(&frame.payload)).flatten();
        let Some(record) = decoded else {
            self.undecodable += 1;
            return;
        };
        self.samples += record.values.len() as u64;
        self.histograms += record.histograms.len() as u64;
        self.exemplars += record.exemplars.len() as u64;
        self.metadata += record.metadata.len() as u64;
        self.definitions += record.definitions.len() as u64;
        let definitions = definition_bytes(&frame.payload).unwrap_or(0);
        self.definition_bytes += definitions;
        self.row_bytes += frame.payload.len() as u64 - definitions;
    }
}

/// What the definitions take of a record's payload: its first compressed part.
fn definition_bytes(payload: &[u8]) -> Option<u64> {
    let mut rest = payload;
    varint::read(&mut rest)?;
    varint::read(&mut rest)?;
    varint::read_bytes(&mut rest).map(|bytes| bytes.len() as u64)
}
