//! Tombstones: what was deleted of the series of a block.
//!
//! `magic 0x0130ba30, version 1, (series varint, first time, last time signed varints)*, crc32c of
//! the triples`. Prometheus replaces the file whenever something is deleted.

use std::collections::HashMap;

use icecore_storage::time::TimeRange;

use super::Damage;
use super::crc32c::crc32c;
use super::cursor::Cursor;

const MAGIC: u32 = 0x0130_ba30;
const VERSION: u8 = 1;

/// Deleted times by the references of series, in any order; they may overlap.
pub type Tombstones = HashMap<u64, Vec<TimeRange>>;

/// Reads a whole `tombstones` file.
pub fn parse(file: &[u8]) -> Result<Tombstones, Damage> {
    let mut header = Cursor::new(file, 0);
    if header.be32("the magic number")? != MAGIC {
        return Err(Damage::new(0, "this is not a file of tombstones"));
    }
    let version = header.byte("the version")?;
    if version != VERSION {
        return Err(Damage::new(4, format!("version {version} of tombstones is not known")));
    }
    let body = header.rest();
    let (triples, crc) = body
        .split_last_chunk::<4>()
        .ok_or_else(|| header.damage("the file ends before its checksum"))?;
    if crc32c(triples) != u32::from_be_bytes(*crc) {
        return Err(header.damage("the checksum of the tombstones does not hold"));
    }
    let mut tombstones = Tombstones::new();
    let mut rest = Cursor::new(triples, header.offset());
    while !rest.is_empty() {
        let series = rest.varint("a series")?;
        let start_ms = rest.signed("a first time")?;
        let range = TimeRange::new(start_ms, rest.signed("a last time")?);
        tombstones.entry(series).or_default().push(range);
    }
    Ok(tombstones)
}

#[cfg(test)]
mod tests {
    use icecore_storage::encoding::varint;

    use super::*;

    #[test]
    fn every_flipped_byte_is_noticed() {
        let mut file = [&MAGIC.to_be_bytes()[..], &[VERSION]].concat();
        let start = file.len();
        for (series, first, last) in [(3, -5, 7), (3, 90, 100), (1 << 40, i64::MIN, i64::MAX)] {
            varint::write(&mut file, series);
            varint::write_signed(&mut file, first);
            varint::write_signed(&mut file, last);
        }
        let crc = crc32c(&file[start..]);
        file.extend_from_slice(&crc.to_be_bytes());
        let tombstones = parse(&file).unwrap();
        assert_eq!(tombstones[&3], [TimeRange::new(-5, 7), TimeRange::new(90, 100)]);
        assert_eq!(tombstones[&(1 << 40)], [TimeRange::ALL]);
        for offset in 0..file.len() {
            let mut damaged = file.clone();
            damaged[offset] ^= 0x10;
            assert!(parse(&damaged).is_err(), "byte {offset}");
            assert!(parse(&file[..offset]).is_err(), "cut at {offset}");
        }
    }
}
