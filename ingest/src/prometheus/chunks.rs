//! Chunks: encoded samples of one series, in segment files of a block or of the head.
//!
//! ```text
//! chunks/000001        0x85bd40dd 1 000 | length varint, encoding, data, crc32c |*
//! chunks_head/000001   0x0130bc91 1 000 | series 8, first time 8, last time 8, encoding, length
//!                                         varint, data, crc32c |* zeros
//! ```
//!
//! A block's chunks are found by the index; the head's one after the other, up to the zeros of a
//! file that was reserved for more. The samples are decoded by storage, bit for bit.

use bytes::Bytes;
use icecore_storage::encoding::xor::{ChunkEncoding, read_float_chunk};
use icecore_storage::encoding::xor_histogram::read_histogram_chunk;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::time::TimeRange;

use super::Damage;
use super::crc32c::crc32c;
use super::cursor::Cursor;

const BLOCK_MAGIC: u32 = 0x85bd_40dd;
const HEAD_MAGIC: u32 = 0x0130_bc91;
const VERSION: u8 = 1;
/// magic 4, version 1, zeros 3.
const HEADER_BYTES: usize = 8;
/// series 8, first time 8, last time 8, encoding 1.
const HEAD_CHUNK_HEADER_BYTES: usize = 25;

/// Marks the encoding of a chunk of the head whose samples came out of order.
const OUT_OF_ORDER: u8 = 0x80;

/// A chunk whose checksum has held.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Where in the file it begins.
    pub offset: u64,
    pub encoding: ChunkEncoding,
    pub data: &'a [u8],
}

impl Chunk<'_> {
    /// Samples it says to hold.
    pub fn count(&self) -> u64 {
        let count = self.data.first_chunk::<2>();
        count.map_or(0, |count| u64::from(u16::from_be_bytes(*count)))
    }

    /// Clears `samples` and decodes into it.
    pub fn decode(&self, samples: &mut Samples) -> Result<(), Damage> {
        samples.clear();
        let damage = |what: &str| Damage::new(self.offset, what);
        if self.encoding == ChunkEncoding::Xor {
            read_float_chunk(self.data, &mut samples.timestamps, &mut samples.values)
                .ok_or_else(|| damage("the chunk of floats does not decode"))?;
        } else {
            let mut histograms = Vec::new();
            read_histogram_chunk(self.encoding, self.data, &mut histograms)
                .ok_or_else(|| damage("the chunk of histograms does not decode"))?;
            for (timestamp, histogram) in histograms {
                samples.push_histogram(timestamp, histogram);
            }
        }
        match samples.timestamps.is_sorted_by(|a, b| a < b) {
            true => Ok(()),
            false => Err(damage("the times of the chunk do not ascend")),
        }
    }
}

fn encoding_of(byte: u8, offset: u64) -> Result<ChunkEncoding, Damage> {
    match byte {
        1 => Ok(ChunkEncoding::Xor),
        2 => Ok(ChunkEncoding::Histogram),
        3 => Ok(ChunkEncoding::FloatHistogram),
        other => Err(Damage::new(offset, format!("chunks of encoding {other} are not known"))),
    }
}

fn check_header(file: &[u8], magic: u32, what: &str) -> Result<(), Damage> {
    let mut header = Cursor::new(file, 0);
    if header.be32("the magic number")? != magic {
        return Err(Damage::new(0, format!("this is not a file of {what}")));
    }
    match header.byte("the version")? {
        VERSION => header.take(3, "the header").map(|_| ()),
        other => Err(Damage::new(4, format!("version {other} of {what} is not known"))),
    }
}

/// A segment file of a block.
#[derive(Clone, Debug)]
pub struct Segment {
    file: Bytes,
}

impl Segment {
    pub fn open(file: Bytes) -> Result<Segment, Damage> {
        check_header(&file, BLOCK_MAGIC, "chunks")?;
        Ok(Segment { file })
    }

    /// The chunk at an offset that an index gave.
    pub fn chunk(&self, offset: u32) -> Result<Chunk<'_>, Damage> {
        let bytes = usize::try_from(offset).ok().and_then(|at| self.file.get(at..));
        let bytes = bytes.filter(|_| offset as usize >= HEADER_BYTES).ok_or_else(|| {
            let what =
                format!("the index has a chunk here, the file has {} bytes", self.file.len());
            Damage::new(u64::from(offset), what)
        })?;
        let mut cursor = Cursor::new(bytes, u64::from(offset));
        let length = cursor.count(1, "the length of a chunk")?;
        let summed = cursor.clone();
        let encoding = cursor.byte("the encoding of a chunk")?;
        let data = cursor.take(length, "a chunk")?;
        let crc = cursor.be32("the checksum of a chunk")?;
        if crc32c(&summed.rest()[..=length]) != crc {
            return Err(Damage::new(u64::from(offset), "the checksum of a chunk does not hold"));
        }
        let encoding = encoding_of(encoding, u64::from(offset))?;
        Ok(Chunk { offset: u64::from(offset), encoding, data })
    }
}

/// A chunk of the head.
#[derive(Clone, Copy, Debug)]
pub struct HeadChunk<'a> {
    /// The series' reference in the log.
    pub series: u64,
    pub range: TimeRange,
    pub is_out_of_order: bool,
    pub chunk: Chunk<'a>,
}

/// The chunks of a head's segment file, in the order in which they were written.
#[derive(Clone, Debug)]
pub struct HeadChunks<'a> {
    rest: Cursor<'a>,
    has_ended: bool,
}

impl HeadChunks<'_> {
    pub fn open(file: &[u8]) -> Result<HeadChunks<'_>, Damage> {
        check_header(file, HEAD_MAGIC, "head chunks")?;
        let rest = Cursor::new(&file[HEADER_BYTES..], HEADER_BYTES as u64);
        Ok(HeadChunks { rest, has_ended: false })
    }
}

/// The chunk at `offset` of a head's segment file, which [`HeadChunks`] has found there.
pub fn head_chunk(file: &[u8], offset: u64) -> Result<HeadChunk<'_>, Damage> {
    let at = usize::try_from(offset).ok().and_then(|at| file.get(at..));
    read_head_chunk(&mut Cursor::new(at.unwrap_or_default(), offset))
}

impl<'a> Iterator for HeadChunks<'a> {
    type Item = Result<HeadChunk<'a>, Damage>;

    /// Nothing is to be believed of the file behind an error.
    fn next(&mut self) -> Option<Result<HeadChunk<'a>, Damage>> {
        let unused = &self.rest.rest()[..self.rest.rest().len().min(HEAD_CHUNK_HEADER_BYTES)];
        if self.has_ended || unused.iter().all(|byte| *byte == 0) {
            return None;
        }
        let chunk = read_head_chunk(&mut self.rest);
        self.has_ended = chunk.is_err();
        Some(chunk)
    }
}

fn read_head_chunk<'a>(cursor: &mut Cursor<'a>) -> Result<HeadChunk<'a>, Damage> {
    let summed = cursor.clone();
    let offset = cursor.offset();
    let series = cursor.be64("the series of a chunk")?;
    let start_ms = cursor.be64("the first time of a chunk")? as i64;
    let range = TimeRange::new(start_ms, cursor.be64("the last time of a chunk")? as i64);
    let encoding = cursor.byte("the encoding of a chunk")?;
    let data = cursor.bytes("a chunk")?;
    let length = usize::try_from(cursor.offset() - offset).expect("it is in memory");
    let crc = cursor.be32("the checksum of a chunk")?;
    if crc32c(&summed.rest()[..length]) != crc {
        return Err(Damage::new(offset, "the checksum of a chunk does not hold"));
    }
    let is_out_of_order = encoding & OUT_OF_ORDER != 0;
    let encoding = encoding_of(encoding & !OUT_OF_ORDER, offset)?;
    Ok(HeadChunk { series, range, is_out_of_order, chunk: Chunk { offset, encoding, data } })
}

#[cfg(test)]
mod tests {
    use icecore_storage::encoding::varint;
    use icecore_storage::encoding::xor::float_chunk;

    use super::*;

    fn header(magic: u32) -> Vec<u8> {
        [&magic.to_be_bytes()[..], &[VERSION, 0, 0, 0]].concat()
    }

    #[test]
    fn chunks_of_a_block_are_found_and_every_flipped_byte_of_them_is_noticed() {
        let data = float_chunk(&[10, 20, 30], &[1.0, 2.5, f64::NAN]);
        let mut file = header(BLOCK_MAGIC);
        varint::write(&mut file, data.len() as u64);
        let start = file.len();
        file.push(1);
        file.extend_from_slice(&data);
        let crc = crc32c(&file[start..]);
        file.extend_from_slice(&crc.to_be_bytes());
        let read = |file: &[u8]| {
            let segment = Segment::open(Bytes::copy_from_slice(file))?;
            let mut samples = Samples::default();
            segment.chunk(8)?.decode(&mut samples)?;
            Ok::<_, Damage>(samples)
        };
        let samples = read(&file).unwrap();
        assert_eq!(samples.timestamps, [10, 20, 30]);
        assert_eq!(samples.values[1], 2.5);
        for offset in (0..5).chain(8..file.len()) {
            let mut damaged = file.clone();
            damaged[offset] ^= 0x04;
            assert!(read(&damaged).is_err(), "byte {offset}");
        }
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "cut at {length}");
        }
        let segment = Segment::open(Bytes::from(file)).unwrap();
        assert!([0, 7, u32::MAX].iter().all(|offset| segment.chunk(*offset).is_err()));
    }

    #[test]
    fn chunks_of_the_head_end_at_the_zeros() {
        let data = float_chunk(&[10, 20], &[1.0, 2.0]);
        let mut file = header(HEAD_MAGIC);
        for (series, encoding) in [(7u64, 1), (9, 1 | OUT_OF_ORDER)] {
            let start = file.len();
            [series, 10, 20].iter().for_each(|n| file.extend_from_slice(&n.to_be_bytes()));
            file.push(encoding);
            varint::write_bytes(&mut file, &data);
            let crc = crc32c(&file[start..]);
            file.extend_from_slice(&crc.to_be_bytes());
        }
        let end = file.len();
        file.extend_from_slice(&[0; 1000]);
        let found: Vec<HeadChunk<'_>> =
            HeadChunks::open(&file).unwrap().collect::<Result<_, _>>().unwrap();
        let facts: Vec<(u64, bool)> = found.iter().map(|c| (c.series, c.is_out_of_order)).collect();
        assert_eq!(facts, [(7, false), (9, true)]);
        assert_eq!(found[1].range, TimeRange::new(10, 20));
        assert_eq!(head_chunk(&file, found[1].chunk.offset).unwrap().series, 9);
        for offset in HEADER_BYTES..end {
            let mut damaged = file.clone();
            damaged[offset] ^= 0x04;
            let read: Result<Vec<_>, _> = HeadChunks::open(&damaged).unwrap().collect();
            assert!(read.is_err(), "byte {offset}");
        }
    }
}
