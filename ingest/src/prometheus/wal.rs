//! Segments of Prometheus's log: pages of fragments, which make up records.
//!
//! ```text
//! page       32 KiB of fragments, none of which reaches into the next page
//! fragment   kind 1, length 2, crc32c 4, data
//! kind       0 zeros to the end of the page · 1 a whole record · 2 its first part · 3 one between
//!            · 4 its last; 8 packed by snappy, 16 by zstd
//! ```
//!
//! A process that is killed leaves a last segment that ends in the middle of a record:
//! [`Broken::Torn`], which loses what was never synced. Everything else that does not fit is
//! damage, behind which nothing of the segment is believed.

use icecore_storage::limits::Limits;

use super::Damage;
use super::crc32c::crc32c;
use super::cursor::Cursor;
use crate::compression::{self, Encoding};

const PAGE_BYTES: u64 = 32 << 10;
/// kind 1, length 2, crc 4.
const FRAGMENT_HEADER_BYTES: u64 = 7;

const KIND: u8 = 0x07;
const SNAPPY: u8 = 0x08;
const ZSTD: u8 = 0x10;

/// A record of Prometheus holds what one commit wrote; more than this no one has seen.
const RECORD_BYTES_MAX: usize = 1 << 30;

/// Why a segment ends before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The file ends in the middle of a record.
    Torn(Damage),
    Damaged(Damage),
}

impl From<Damage> for Broken {
    fn from(damage: Damage) -> Broken {
        Broken::Damaged(damage)
    }
}

/// The records of a segment, in order.
#[derive(Debug)]
pub struct Records<'a> {
    rest: Cursor<'a>,
    /// Fragments of the record that is being put together, and where it began.
    packed: Vec<u8>,
    started: Option<u64>,
    payload: Vec<u8>,
}

impl<'a> Records<'a> {
    pub fn new(segment: &'a [u8]) -> Records<'a> {
        let rest = Cursor::new(segment, 0);
        Records { rest, packed: Vec::new(), started: None, payload: Vec::new() }
    }

    /// The next record, unpacked, and where it begins; `None` at the end. After an error there is
    /// no next.
    #[expect(clippy::should_implement_trait, reason = "what it lends ends with the next call")]
    pub fn next(&mut self) -> Option<Result<(u64, &[u8]), Broken>> {
        match self.next_packed() {
            Ok(None) => None,
            Ok(Some((offset, packing))) => Some(self.unpack(offset, packing)),
            Err(broken) => {
                self.rest = Cursor::new(&[], self.rest.offset());
                self.started = None;
                Some(Err(broken))
            }
        }
    }

    /// Puts the next record together in `packed`.
    fn next_packed(&mut self) -> Result<Option<(u64, u8)>, Broken> {
        loop {
            let offset = self.rest.offset();
            let room = PAGE_BYTES - offset % PAGE_BYTES;
            if self.rest.is_empty() {
                return match self.started {
                    None => Ok(None),
                    Some(_) => Err(Broken::Torn(self.rest.damage("a record does not end"))),
                };
            }
            let kind = self.rest.rest()[0];
            if kind & KIND == 0 || room < FRAGMENT_HEADER_BYTES {
                self.skip_padding(room)?;
                continue;
            }
            let data = self.fragment(room)?;
            let is_first = kind & KIND == 1 || kind & KIND == 2;
            let is_last = kind & KIND == 1 || kind & KIND == 4;
            if kind & KIND > 4 || kind & !(KIND | SNAPPY | ZSTD) != 0 {
                return Err(
                    Damage::new(offset, format!("fragments of kind {kind} are not known")).into()
                );
            }
            if is_first == self.started.is_some() {
                let what = "the parts of a record are not in order";
                return Err(Damage::new(offset, what).into());
            }
            if is_first {
                self.packed.clear();
                self.started = Some(offset);
            }
            self.packed.extend_from_slice(data);
            if is_last {
                let started = self.started.take().unwrap_or(offset);
                return Ok(Some((started, kind & (SNAPPY | ZSTD))));
            }
        }
    }

    /// Goes to the next page: what is left of this one are zeros.
    fn skip_padding(&mut self, room: u64) -> Result<(), Broken> {
        let length = self.rest.rest().len().min(usize::try_from(room).expect("a page"));
        let at = self.rest.offset();
        let padding = self.rest.take(length, "padding")?;
        match padding.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(used) => {
                Err(Damage::new(at + used as u64, "the padding of a page is not zeros").into())
            }
        }
    }

    fn fragment(&mut self, room: u64) -> Result<&'a [u8], Broken> {
        let offset = self.rest.offset();
        let torn = |damage: Damage| Broken::Torn(damage);
        self.rest.byte("the kind of a fragment")?;
        let length = self.rest.be16("the length of a fragment").map_err(torn)?;
        let crc = self.rest.be32("the checksum of a fragment").map_err(torn)?;
        if u64::from(length) + FRAGMENT_HEADER_BYTES > room {
            return Err(Damage::new(offset, "a fragment reaches past its page").into());
        }
        let data = self.rest.take(usize::from(length), "a fragment").map_err(torn)?;
        if crc32c(data) != crc {
            return Err(Damage::new(offset, "the checksum of a fragment does not hold").into());
        }
        Ok(data)
    }

    fn unpack(&mut self, offset: u64, packing: u8) -> Result<(u64, &[u8]), Broken> {
        let encoding = match packing {
            0 => return Ok((offset, &self.packed)),
            SNAPPY => Encoding::Snappy,
            _ => Encoding::Zstd,
        };
        let limits = Limits {
            body_bytes: RECORD_BYTES_MAX,
            decoded_bytes: RECORD_BYTES_MAX,
            ..Limits::default()
        };
        compression::decompress(&self.packed, encoding, &limits, &mut self.payload)
            .map_err(|e| Damage::new(offset, e.to_string()))?;
        Ok((offset, &self.payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment of these records, each with a packing, as Prometheus lays them out.
    fn segment(records: &[(&[u8], u8)]) -> Vec<u8> {
        let mut file = Vec::new();
        for (record, packing) in records {
            let packed = match *packing {
                SNAPPY => snap::raw::Encoder::new().compress_vec(record).unwrap(),
                ZSTD => zstd::bulk::compress(record, 1).unwrap(),
                _ => record.to_vec(),
            };
            let (mut rest, mut is_first) = (&packed[..], true);
            while is_first || !rest.is_empty() {
                let mut room = PAGE_BYTES as usize - file.len() % PAGE_BYTES as usize;
                if room <= FRAGMENT_HEADER_BYTES as usize {
                    file.resize(file.len() + room, 0);
                    room = PAGE_BYTES as usize;
                }
                let part = rest.len().min(room - FRAGMENT_HEADER_BYTES as usize);
                let is_last = part == rest.len();
                let kind = match (is_first, is_last) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                file.push(kind | packing);
                file.extend_from_slice(&(part as u16).to_be_bytes());
                file.extend_from_slice(&crc32c(&rest[..part]).to_be_bytes());
                file.extend_from_slice(&rest[..part]);
                (rest, is_first) = (&rest[part..], false);
            }
        }
        file
    }

    fn read(file: &[u8]) -> (Vec<Vec<u8>>, Option<Broken>) {
        let mut records = Records::new(file);
        let mut found = Vec::new();
        while let Some(next) = records.next() {
            match next {
                Ok((_, record)) => found.push(record.to_vec()),
                Err(broken) => return (found, Some(broken)),
            }
        }
        (found, None)
    }

    fn noise(length: usize, mut seed: u32) -> Vec<u8> {
        let next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn records_come_out_of_pages_whatever_their_packing() {
        let records = [vec![1; 10], noise(100_000, 1), vec![0; 70_000], noise(32_000, 2), vec![7]];
        for packing in [0, SNAPPY, ZSTD] {
            let packed: Vec<(&[u8], u8)> = records.iter().map(|r| (&r[..], packing)).collect();
            let mut file = segment(&packed);
            assert_eq!(read(&file), (records.to_vec(), None));
            file.resize(file.len().next_multiple_of(PAGE_BYTES as usize), 0);
            assert_eq!(read(&file), (records.to_vec(), None));
        }
    }

    #[test]
    fn a_cut_is_told_from_damage() {
        let records = [noise(20_000, 1), noise(30_000, 2)];
        let file = segment(&[(&records[0], 0), (&records[1], 0)]);
        for length in (0..file.len()).step_by(97) {
            let (found, broken) = read(&file[..length]);
            assert!(records.starts_with(&found));
            let is_whole = length == 0 || length == 20_007;
            assert!(is_whole || matches!(broken, Some(Broken::Torn(_))), "{length}: {broken:?}");
        }
        for offset in (0..file.len()).step_by(97).chain([0, 20_007, 32_768]) {
            let mut damaged = file.clone();
            damaged[offset] ^= 0x40;
            let (found, broken) = read(&damaged);
            assert!(records.starts_with(&found) && broken.is_some(), "byte {offset}");
        }
    }
}
