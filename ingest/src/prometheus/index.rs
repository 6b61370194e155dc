//! The index of a block: its series, and where their chunks are.
//!
//! ```text
//! 0xbaaad700 version | symbols | series | label indexes | postings | tables | contents 6 × 8, crc32c
//! symbols   length 4, count 4, (length varint, text)*, crc32c
//! series    (padding, length varint, labels, chunks, crc32c)*
//! ```
//!
//! Series are read from front to back; the postings, which are there to find some of them, are not
//! looked at. Version 1 names a symbol by its offset in the file and a series by its own; version 2
//! by the symbol's number, and by the sixteenth part of the offset, to which series are aligned.

use bytes::Bytes;
use icecore_storage::labels::{LabelError, Labels, push_pair};
use icecore_storage::time::TimeRange;

use super::Damage;
use super::crc32c::crc32c;
use super::cursor::Cursor;

const MAGIC: u32 = 0xbaaa_d700;
/// magic 4, version 1.
const HEADER_BYTES: usize = 5;
/// Offsets of symbols, series, label indexes, their table, postings, their table; crc32c.
const CONTENTS_BYTES: usize = 6 * 8 + 4;
/// Series begin at multiples of this in version 2.
const SERIES_ALIGNMENT: u64 = 16;

/// An index whose contents and symbols have been checked.
#[derive(Clone, Debug)]
pub struct Index {
    file: Bytes,
    version: u8,
    /// Offset and length of each text.
    symbols: Vec<(u32, u32)>,
    series_start: u64,
    series_end: u64,
}

/// Where a chunk is, and what the index says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    pub range: TimeRange,
    /// Place of the segment file among its block's, from 0.
    pub segment: u32,
    pub offset: u32,
}

/// A series of an index.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    index: &'a Index,
    /// By which tombstones name it.
    pub reference: u64,
    /// Where in the file its entry begins: [`Index::series_at`].
    pub offset: u64,
    body: &'a [u8],
    body_offset: u64,
}

impl Index {
    pub fn open(file: Bytes) -> Result<Index, Damage> {
        let mut header = Cursor::new(&file, 0);
        if header.be32("the magic number")? != MAGIC {
            return Err(Damage::new(0, "this is not an index"));
        }
        let version = header.byte("the version")?;
        if !(1..=2).contains(&version) {
            return Err(Damage::new(4, format!("version {version} of the index is not known")));
        }
        let contents_start =
            file.len().checked_sub(CONTENTS_BYTES).filter(|at| *at >= HEADER_BYTES);
        let contents_start =
            contents_start.ok_or_else(|| header.damage("the file is too short for an index"))?;
        let mut contents = Cursor::new(&file[contents_start..], contents_start as u64);
        if crc32c(&contents.rest()[..CONTENTS_BYTES - 4])
            != u32::from_be_bytes(*file.last_chunk().expect("it has contents"))
        {
            return Err(contents.damage("the checksum of the table of contents does not hold"));
        }
        let mut sections = [0; 6];
        for section in &mut sections {
            *section = contents.be64("an offset")?;
        }
        let [symbols_at, series_start, others @ ..] = sections;
        // Sections that are not there have offset 0.
        let later = others.into_iter().filter(|offset| *offset > series_start);
        let series_end = later.min().unwrap_or(contents_start as u64);
        if series_end > contents_start as u64 || symbols_at > contents_start as u64 {
            let what = "the table of contents names offsets outside of the file";
            return Err(Damage::new(contents_start as u64, what));
        }
        let symbols = match symbols_at {
            0 => Vec::new(),
            at => read_symbols(&file[..contents_start], at)?,
        };
        // No series at all: an offset of 0.
        let series_start = if series_start == 0 { series_end } else { series_start };
        Ok(Index { file, version, symbols, series_start, series_end })
    }

    /// All series in the order of the file, which is that of their labels.
    pub fn series(&self) -> impl Iterator<Item = Result<Series<'_>, Damage>> {
        let mut next = Some(self.series_start);
        std::iter::from_fn(move || {
            let found = self.next_series(next?);
            next = match &found {
                Some(Ok((_, end))) => Some(*end),
                _ => None,
            };
            found.map(|found| found.map(|(series, _)| series))
        })
    }

    /// The series at an offset that [`Self::series`] has told.
    pub fn series_at(&self, offset: u64) -> Result<Series<'_>, Damage> {
        let found =
            self.next_series(offset).ok_or_else(|| Damage::new(offset, "no series here"))?;
        Ok(found?.0)
    }

    /// The first series at or behind `offset`, and where it ends.
    fn next_series(&self, offset: u64) -> Option<Result<(Series<'_>, u64), Damage>> {
        let bytes_to = |from: u64| {
            let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
            self.file.get(place(from)..place(self.series_end)).unwrap_or_default()
        };
        let start = match self.version {
            1 => offset,
            _ => offset.next_multiple_of(SERIES_ALIGNMENT),
        };
        let bytes = bytes_to(start);
        // Between sections there may be zeros; an entry is never empty.
        if bytes.iter().take(SERIES_ALIGNMENT as usize).all(|byte| *byte == 0) {
            let used = bytes.iter().position(|byte| *byte != 0);
            return used.map(|at| Err(Damage::new(start + at as u64, "bytes that are no series")));
        }
        Some(self.read_series(Cursor::new(bytes, start)))
    }

    fn read_series<'a>(&'a self, mut cursor: Cursor<'a>) -> Result<(Series<'a>, u64), Damage> {
        let offset = cursor.offset();
        let length = cursor.count(1, "the length of a series")?;
        let body_offset = cursor.offset();
        let body = cursor.take(length, "a series")?;
        if crc32c(body) != cursor.be32("the checksum of a series")? {
            return Err(Damage::new(offset, "the checksum of a series does not hold"));
        }
        let reference = if self.version == 1 { offset } else { offset / SERIES_ALIGNMENT };
        let series = Series { index: self, reference, offset, body, body_offset };
        Ok((series, cursor.offset()))
    }

    fn symbol(&self, reference: u64) -> Option<&[u8]> {
        let (start, length) = match self.version {
            1 => {
                // Offsets are those of the length before the text.
                let at = self.symbols.partition_point(|(start, _)| u64::from(*start) <= reference);
                let (start, length) = *self.symbols.get(at)?;
                let told = u64::from(start) - varint_length(length);
                (told == reference).then_some((start, length))?
            }
            _ => *self.symbols.get(usize::try_from(reference).ok()?)?,
        };
        self.file.get(start as usize..)?.get(..length as usize)
    }
}

fn varint_length(number: u32) -> u64 {
    icecore_storage::encoding::varint::length(u64::from(number)) as u64
}

/// Offset and length of every text of the table at `at`.
fn read_symbols(file: &[u8], at: u64) -> Result<Vec<(u32, u32)>, Damage> {
    let start = usize::try_from(at).expect("it lies in the file");
    let mut table = Cursor::new(&file[start..], at);
    let length = table.be32("the length of the symbols")?;
    let body_offset = table.offset();
    let body = table.take(length as usize, "the table of symbols")?;
    if crc32c(body) != table.be32("the checksum of the symbols")? {
        return Err(Damage::new(at, "the checksum of the symbols does not hold"));
    }
    let mut body = Cursor::new(body, body_offset);
    let count = body.be32("the count of symbols")?;
    let mut symbols = Vec::new();
    for _ in 0..count {
        let text = body.bytes("a symbol")?;
        let end = u32::try_from(body.offset());
        let end = end.map_err(|_| body.damage("symbols reach past 4 GiB"))?;
        let length = u32::try_from(text.len()).expect("it is in the table");
        symbols.push((end - length, length));
    }
    Ok(symbols)
}

impl Series<'_> {
    /// The labels; the inner error says why no series can have them.
    pub fn labels(&self) -> Result<Result<Labels, LabelError>, Damage> {
        let mut cursor = self.cursor();
        let count = cursor.count(2, "the count of labels")?;
        let mut bytes = Vec::with_capacity(count * 16);
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let mut symbol = || {
                let at = cursor.offset();
                let reference = cursor.varint("a symbol")?;
                let symbol = self.index.symbol(reference);
                symbol.ok_or_else(|| Damage::new(at, format!("there is no symbol {reference}")))
            };
            pairs.push((symbol()?, symbol()?));
        }
        pairs.iter().for_each(|(name, value)| push_pair(&mut bytes, name, value));
        Ok(Labels::from_canonical_bytes(&bytes).or_else(|_| labels_of(&pairs)))
    }

    /// Its chunks, in order of time.
    pub fn chunks(&self) -> Result<Vec<ChunkPlace>, Damage> {
        let mut cursor = self.cursor();
        for _ in 0..2 * cursor.count(2, "the count of labels")? {
            cursor.varint("a symbol")?;
        }
        let count = cursor.count(3, "the count of chunks")?;
        let mut places = Vec::with_capacity(count);
        let (mut end_ms, mut reference) = (0i64, 0u64);
        for number in 0..count {
            let at = cursor.offset();
            let start = match number {
                0 => cursor.signed("the first time of a chunk")?,
                _ => cursor.varint("the first time of a chunk")? as i64,
            };
            let start_ms = end_ms.wrapping_add(start);
            end_ms = start_ms.wrapping_add(cursor.varint("the last time of a chunk")? as i64);
            let place = match number {
                0 => cursor.varint("the place of a chunk")?,
                _ => cursor.signed("the place of a chunk")? as u64,
            };
            reference = reference.wrapping_add(place);
            let range = TimeRange::new(start_ms, end_ms);
            if range.is_empty() {
                return Err(Damage::new(at, "a chunk ends before it begins"));
            }
            places.push(ChunkPlace {
                range,
                segment: (reference >> 32) as u32,
                offset: reference as u32,
            });
        }
        Ok(places)
    }

    fn cursor(&self) -> Cursor<'_> {
        Cursor::new(self.body, self.body_offset)
    }
}

/// Labels that are not in canonical form: out of order, with empty values, or none at all.
pub(super) fn labels_of(pairs: &[(&[u8], &[u8])]) -> Result<Labels, LabelError> {
    let text = |what: &'static str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            let lossy = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
            Err(LabelError::NotUtf8 { what, lossy })
        }
    };
    let pairs = pairs.iter().map(|(name, value)| Ok((text("name", name)?, text("value", value)?)));
    Labels::from_pairs(pairs.collect::<Result<Vec<_>, LabelError>>()?)
}

#[cfg(test)]
mod tests {
    use icecore_storage::encoding::varint;

    use super::*;

    const TEXTS: [&str; 5] = ["__name__", "job", "node", "up", ""];

    /// An index of two series, written by the format's description.
    fn index(version: u8) -> Vec<u8> {
        let mut file = [&MAGIC.to_be_bytes()[..], &[version]].concat();
        let mut body = (TEXTS.len() as u32).to_be_bytes().to_vec();
        let mut names = Vec::new();
        for (number, text) in TEXTS.iter().enumerate() {
            let at = HEADER_BYTES + 4 + body.len();
            names.push(if version == 1 { at as u64 } else { number as u64 });
            varint::write_bytes(&mut body, text.as_bytes());
        }
        let symbols_at = file.len() as u64;
        file.extend_from_slice(&(body.len() as u32).to_be_bytes());
        file.extend_from_slice(&body);
        file.extend_from_slice(&crc32c(&body).to_be_bytes());
        let mut series_at = 0;
        for (pairs, chunks) in [
            (&[(0, 3), (1, 2)][..], &[(-5i64, 5u64, 8u64), (10, 10, 1 << 32 | 8)][..]),
            (&[(0, 3), (1, 4)], &[(1_600_000_000_000, 0, 99)]),
        ] {
            while version == 2 && file.len() % 16 != 0 {
                file.push(0);
            }
            series_at = if series_at == 0 { file.len() as u64 } else { series_at };
            let mut body = vec![pairs.len() as u8];
            for (name, value) in pairs {
                varint::write(&mut body, names[*name]);
                varint::write(&mut body, names[*value]);
            }
            body.push(chunks.len() as u8);
            let (mut end, mut before) = (0, 0);
            for (number, (start, length, reference)) in chunks.iter().enumerate() {
                match number {
                    0 => varint::write_signed(&mut body, *start),
                    _ => varint::write(&mut body, (start - end) as u64),
                }
                varint::write(&mut body, *length);
                match number {
                    0 => varint::write(&mut body, *reference),
                    _ => varint::write_signed(&mut body, *reference as i64 - before),
                }
                (end, before) = (start + *length as i64, *reference as i64);
            }
            varint::write_bytes(&mut file, &body);
            file.extend_from_slice(&crc32c(&body).to_be_bytes());
        }
        let series_end = file.len() as u64;
        file.extend_from_slice(b"label indexes and postings");
        let start = file.len();
        for offset in [symbols_at, series_at, series_end, 0, series_end + 3, 0] {
            file.extend_from_slice(&offset.to_be_bytes());
        }
        let crc = crc32c(&file[start..]);
        file.extend_from_slice(&crc.to_be_bytes());
        file
    }

    type Read = Vec<(u64, String, Vec<ChunkPlace>)>;

    fn read(file: &[u8]) -> Result<Read, Damage> {
        let index = Index::open(Bytes::copy_from_slice(file))?;
        let mut all = Vec::new();
        for series in index.series() {
            let series = series?;
            assert_eq!(index.series_at(series.offset)?.reference, series.reference);
            let labels = series.labels()?.map_or_else(|e| e.to_string(), |l| l.to_string());
            all.push((series.reference, labels, series.chunks()?));
        }
        Ok(all)
    }

    #[test]
    fn both_versions_read_alike() {
        let place = |start, end, segment, offset| ChunkPlace {
            range: TimeRange::new(start, end),
            segment,
            offset,
        };
        for version in [1, 2] {
            let series = read(&index(version)).unwrap();
            let names: Vec<&str> = series.iter().map(|(_, labels, _)| labels.as_str()).collect();
            assert_eq!(names, [r#"up{job="node"}"#, "up"], "version {version}");
            assert_eq!(series[0].2, [place(-5, 0, 0, 8), place(10, 20, 1, 8)]);
            assert_eq!(series[1].2, [place(1_600_000_000_000, 1_600_000_000_000, 0, 99)]);
            assert!(version == 1 || series[0].0 == 3, "{series:?}");
        }
    }

    #[test]
    fn no_byte_that_matters_can_change_unnoticed() {
        for version in [1, 2] {
            let file = index(version);
            let whole = read(&file).unwrap();
            let labels = file.windows(5).position(|bytes| bytes == b"label").unwrap();
            let unread = labels..labels + b"label indexes and postings".len();
            for offset in (0..file.len()).filter(|offset| !unread.contains(offset)) {
                for bit in [0x01, 0x20, 0x80] {
                    let mut damaged = file.clone();
                    damaged[offset] ^= bit;
                    let read = read(&damaged);
                    // Padding is not looked at, and says nothing.
                    let is_padding = file[offset] == 0 && read.as_ref() == Ok(&whole);
                    assert!(read.is_err() || is_padding, "byte {offset} of version {version}");
                }
            }
            assert!((0..file.len()).all(|length| read(&file[..length]).is_err()));
        }
    }
}
