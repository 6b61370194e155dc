//! Segments: the files of the log, and the frames in them.
//!
//! Every frame carries the segment's salt in its marker and in its checksum, so bytes of another
//! log, or of a recycled sector, never pass for a record; and after damage a reader finds the next
//! frame by its marker. Layout: docs/format.md, "Write-ahead log".

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::disk::{Disk, WriteFile};
use crate::wal::{SealedSegment, WAL_DIR};

pub(crate) const MAGIC: [u8; 8] = *b"ICEWAL\x00\x01";
/// magic 8, number 8, salt 8, previous sequence 8, crc 4, zero 4.
pub(crate) const HEADER_BYTES: usize = 40;
/// marker 4, payload length 4, crc 4, sequence 8, distance to the record before 4, distance to the
/// last synced record 4, type 1.
pub(crate) const FRAME_HEADER_BYTES: usize = 29;
/// Bounds what a damaged length can make a reader look at.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// Room is reserved ahead of the writes in steps of this size.
const PREALLOCATE_BYTES: u64 = 8 << 20;

/// `wal/segment-0000000000000001`, in hexadecimal.
pub(crate) fn path(number: u64) -> PathBuf {
    Path::new(WAL_DIR).join(format!("segment-{number:016x}"))
}

pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A segment while it is written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    number: u64,
    salt: u64,
    file: Box<dyn WriteFile>,
    length: u64,
    reserved: u64,
    last_sequence: u64,
    buffer: Vec<u8>,
}

impl SegmentWriter {
    /// A new segment whose name is durable. `previous_sequence` is that of the last record that
    /// an earlier segment holds for sure.
    pub(crate) fn create(
        disk: &dyn Disk,
        number: u64,
        salt: u64,
        previous_sequence: u64,
    ) -> io::Result<SegmentWriter> {
        let file = disk.create(&path(number))?;
        SegmentWriter::start(disk, file, number, salt, previous_sequence).inspect_err(|_| {
            // It never held a record, and nobody would know of it.
            let _ = disk.remove(&path(number));
        })
    }

    fn start(
        disk: &dyn Disk,
        mut file: Box<dyn WriteFile>,
        number: u64,
        salt: u64,
        previous_sequence: u64,
    ) -> io::Result<SegmentWriter> {
        file.preallocate(PREALLOCATE_BYTES)?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        for field in [number, salt, previous_sequence] {
            header.extend_from_slice(&field.to_le_bytes());
        }
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        file.append(&header)?;
        disk.sync_dir(Path::new(WAL_DIR))?;
        Ok(SegmentWriter {
            number,
            salt,
            file,
            length: HEADER_BYTES as u64,
            reserved: PREALLOCATE_BYTES,
            last_sequence: previous_sequence,
            buffer: Vec::new(),
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn sealed(&self) -> SealedSegment {
        SealedSegment { number: self.number, last_sequence: self.last_sequence, bytes: self.length }
    }

    /// Buffers one frame; returns its length. `synced` is the last record that is on disk for
    /// sure: a reader that finds damage behind it knows that nobody was told otherwise.
    pub(crate) fn append(
        &mut self,
        sequence: u64,
        synced: u64,
        frame_type: u8,
        payload: &[u8],
    ) -> io::Result<u64> {
        assert!(sequence > self.last_sequence, "records of a segment ascend");
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "log record is too large"));
        }
        let length = u32::try_from(payload.len()).expect("bounded above");
        let distance = |from: u64| u32::try_from(sequence - from).unwrap_or(u32::MAX);
        let distances = [distance(self.last_sequence), distance(synced)];
        self.buffer.extend_from_slice(&marker(self.salt));
        self.buffer.extend_from_slice(&length.to_le_bytes());
        let crc = frame_crc(self.salt, sequence, distances, frame_type, payload);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&sequence.to_le_bytes());
        distances.iter().for_each(|d| self.buffer.extend_from_slice(&d.to_le_bytes()));
        self.buffer.push(frame_type);
        self.buffer.extend_from_slice(payload);
        self.last_sequence = sequence;
        Ok((FRAME_HEADER_BYTES + payload.len()) as u64)
    }

    /// Hands the buffered frames to the disk.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let length = self.length + self.buffer.len() as u64;
        while self.reserved < length {
            self.reserved += PREALLOCATE_BYTES;
            self.file.preallocate(self.reserved)?;
        }
        self.file.append(&self.buffer)?;
        self.length = length;
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

fn marker(salt: u64) -> [u8; 4] {
    let salt = salt.to_le_bytes();
    [salt[0], salt[1], salt[2], salt[3]]
}

fn frame_crc(salt: u64, sequence: u64, distances: [u32; 2], frame_type: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    distances.iter().for_each(|distance| hasher.update(&distance.to_le_bytes()));
    hasher.update(&[frame_type]);
    hasher.update(&(payload.len() as u64).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A frame whose checksum held.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Where it begins in its segment.
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    /// Sequence of the record written before this one.
    pub(crate) previous: u64,
    /// Sequence up to which records were on disk for sure when this one was written.
    pub(crate) synced: u64,
    pub(crate) frame_type: u8,
    pub(crate) payload: Bytes,
}

/// What a reader meets next in a segment.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    Frame(Frame),
    /// Bytes from `offset` up to the next frame, or to the end if there is none, are no frames.
    Damaged {
        offset: u64,
        length: u64,
    },
    End,
}

/// Reads a segment from front to back.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    /// Sequence of the last record that an earlier segment holds.
    pub(crate) previous_sequence: u64,
    salt: u64,
    bytes: Bytes,
    offset: usize,
    pub(crate) header_is_intact: bool,
}

impl SegmentReader {
    /// `None` if the header is not that of a segment with this number.
    pub(crate) fn open(number: u64, bytes: Bytes) -> Option<SegmentReader> {
        let header = bytes.get(..HEADER_BYTES)?;
        let field = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let crc = u32::from_le_bytes(header[32..36].try_into().expect("4 bytes"));
        if header[..8] != MAGIC || crc != crc32fast::hash(&header[..32]) || field(8) != number {
            return None;
        }
        let (salt, previous_sequence) = (field(16), field(24));
        let (offset, header_is_intact) = (HEADER_BYTES, true);
        Some(SegmentReader { previous_sequence, salt, bytes, offset, header_is_intact })
    }

    /// A reader in spite of a damaged header, if the frame behind it proves the salt: that of the
    /// header, or one that begins like the frame's marker.
    pub(crate) fn salvage(bytes: Bytes) -> Option<SegmentReader> {
        let salt: [u8; 8] = bytes.get(16..24)?.try_into().expect("8 bytes");
        let mut by_marker = salt;
        by_marker[..4].copy_from_slice(bytes.get(HEADER_BYTES..HEADER_BYTES + 4)?);
        [salt, by_marker].into_iter().find_map(|salt| {
            let reader = SegmentReader {
                previous_sequence: 0,
                salt: u64::from_le_bytes(salt),
                bytes: bytes.clone(),
                offset: HEADER_BYTES,
                header_is_intact: false,
            };
            let first = reader.frame_at(HEADER_BYTES)?;
            Some(SegmentReader { previous_sequence: first.previous, ..reader })
        })
    }

    pub(crate) fn next(&mut self) -> Next {
        if self.offset >= self.bytes.len() {
            return Next::End;
        }
        if let Some(frame) = self.frame_at(self.offset) {
            self.offset += FRAME_HEADER_BYTES + frame.payload.len();
            return Next::Frame(frame);
        }
        let start = self.offset;
        self.offset = self.resync(start + 1).unwrap_or(self.bytes.len());
        Next::Damaged { offset: start as u64, length: (self.offset - start) as u64 }
    }

    fn frame_at(&self, offset: usize) -> Option<Frame> {
        let header = self.bytes.get(offset..offset + FRAME_HEADER_BYTES)?;
        if header[..4] != marker(self.salt) {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let length = word(4) as usize;
        let sequence = u64::from_le_bytes(header[12..20].try_into().expect("8 bytes"));
        let distances = [word(20), word(24)];
        let frame_type = header[28];
        let start = offset + FRAME_HEADER_BYTES;
        if length > PAYLOAD_BYTES_MAX || length > self.bytes.len() - start {
            return None;
        }
        let payload = self.bytes.slice(start..start + length);
        let intact = word(8) == frame_crc(self.salt, sequence, distances, frame_type, &payload);
        let [previous, synced] = distances.map(|d| sequence.saturating_sub(u64::from(d)));
        let offset = offset as u64;
        intact.then_some(Frame { offset, sequence, previous, synced, frame_type, payload })
    }

    /// The offset of the next intact frame.
    fn resync(&self, from: usize) -> Option<usize> {
        let marker = marker(self.salt);
        let mut at = from;
        while at + FRAME_HEADER_BYTES <= self.bytes.len() {
            let found = self.bytes[at..].windows(4).position(|window| window == marker)?;
            at += found;
            if self.frame_at(at).is_some() {
                return Some(at);
            }
            at += 1;
        }
        None
    }
}
