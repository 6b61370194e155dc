//! Where things are in a block file: the one home of its positions and numbers.
//!
//! Picture: docs/format.md, "Block". A block is read from its end: the trailer names the table of
//! contents, which names the sections; each can be had by one range.

use bytes::Bytes;

pub(crate) const MAGIC: [u8; 8] = *b"ICEBLOCK";
pub(crate) const END_MAGIC: [u8; 8] = *b"ICEBLKND";
pub(crate) const VERSION: u16 = 1;
/// magic 8, version 2, data type 1, zero 1, required features 4, crc 4, zero 12.
pub(crate) const HEADER_BYTES: usize = 32;
/// kind 2, zero 2, crc 4, offset 8, length 8.
pub(crate) const TOC_ENTRY_BYTES: usize = 24;
/// toc offset 8, toc entries 4, toc crc 4, magic 8.
pub(crate) const TRAILER_BYTES: usize = 24;
/// A page is full at this size; the last series may make it longer.
pub(crate) const PAGE_BYTES: usize = 16 << 10;

/// Features a reader must know. Bits 0 and 2 are reserved.
pub(crate) const KNOWN_FEATURES: u32 = FEATURE_ZSTD_PAGES | FEATURE_ROLLUP;
/// Pages are compressed by zstd.
pub(crate) const FEATURE_ZSTD_PAGES: u32 = 1 << 1;
/// Series are rolled up: each chunk is one of a column.
pub(crate) const FEATURE_ROLLUP: u32 = 1 << 3;

/// What a section holds. Numbers are never reused; readers skip kinds that they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum SectionKind {
    Pages = 1,
    PageDirectory = 2,
    Columns = 3,
    ColumnDirectory = 4,
    Statistics = 5,
    Index = 6,
    Exemplars = 7,
    Metadata = 8,
    Meta = 9,
    Days = 10,
}

/// A section's name for people.
pub(crate) fn section_name(kind: u16) -> &'static str {
    let names = [
        "pages",
        "page directory",
        "columns",
        "column directory",
        "statistics",
        "index",
        "exemplars",
        "metadata",
        "meta",
        "days",
    ];
    usize::from(kind).checked_sub(1).and_then(|at| names.get(at)).copied().unwrap_or("unknown")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TocEntry {
    pub(crate) kind: u16,
    pub(crate) crc: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

pub(crate) fn header(data_type: u8, features: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10] = data_type;
    header[12..16].copy_from_slice(&features.to_le_bytes());
    let crc = crc32fast::hash(&header[..16]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The features of the block; or why its header is refused, and whether that is for being too new.
pub(crate) fn check_header(header: &[u8]) -> Result<u32, (&'static str, bool)> {
    let header: &[u8; HEADER_BYTES] =
        header.try_into().map_err(|_| ("the block is shorter than its header", false))?;
    if header[..8] != MAGIC {
        return Err(("this is not a block", false));
    }
    if header[16..20] != crc32fast::hash(&header[..16]).to_le_bytes() {
        return Err(("the header's checksum does not hold", false));
    }
    if u16::from_le_bytes([header[8], header[9]]) > VERSION {
        return Err(("the block was written by a newer version", true));
    }
    let features = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if features & !KNOWN_FEATURES != 0 {
        return Err(("the block uses features of a newer version", true));
    }
    Ok(features)
}

/// The table of contents and the trailer.
pub(crate) fn footer(toc: &[TocEntry], toc_offset: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(toc.len() * TOC_ENTRY_BYTES + TRAILER_BYTES);
    for entry in toc {
        out.extend_from_slice(&entry.kind.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&entry.crc.to_le_bytes());
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&entry.length.to_le_bytes());
    }
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&toc_offset.to_le_bytes());
    out.extend_from_slice(&u32::try_from(toc.len()).expect("a few sections").to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&END_MAGIC);
    out
}

/// Where the table of contents of a file of `length` bytes lies, by its trailer.
pub(crate) fn toc_range(trailer: &[u8], length: u64) -> Option<(std::ops::Range<u64>, u32)> {
    let trailer: &[u8; TRAILER_BYTES] = trailer.try_into().ok()?;
    if trailer[16..] != END_MAGIC {
        return None;
    }
    let offset = u64::from_le_bytes(trailer[..8].try_into().ok()?);
    let count = u32::from_le_bytes(trailer[8..12].try_into().ok()?);
    let crc = u32::from_le_bytes(trailer[12..16].try_into().ok()?);
    let end = offset.checked_add(u64::from(count) * TOC_ENTRY_BYTES as u64)?;
    (end == length.checked_sub(TRAILER_BYTES as u64)?).then_some((offset..end, crc))
}

pub(crate) fn parse_toc(bytes: &Bytes, crc: u32) -> Option<Vec<TocEntry>> {
    if crc32fast::hash(bytes) != crc {
        return None;
    }
    let entries = bytes.as_chunks::<TOC_ENTRY_BYTES>().0.iter().map(|entry| TocEntry {
        kind: u16::from_le_bytes([entry[0], entry[1]]),
        crc: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
        offset: u64::from_le_bytes(entry[8..16].try_into().expect("8 bytes")),
        length: u64::from_le_bytes(entry[16..24].try_into().expect("8 bytes")),
    });
    Some(entries.collect())
}
