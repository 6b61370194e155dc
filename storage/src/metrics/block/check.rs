//! Checking a block against its checksums, a piece at a time.
//!
//! Every section has a checksum in the table of contents, and that one has its own, so nothing
//! needs decoding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::ReadFile;
use crate::error::{Error, Result, io_error};
use crate::metrics::block::layout::{self, TocEntry};

/// Where the check of one block stands.
#[derive(Debug)]
pub(crate) struct SectionCheck {
    path: PathBuf,
    file: Arc<dyn ReadFile>,
    sections: Vec<TocEntry>,
    /// The section being read, how much of it was, and the checksum so far.
    current: usize,
    read: u64,
    crc: crc32fast::Hasher,
}

impl SectionCheck {
    /// Checks header, trailer and table of contents of a block.
    pub(crate) fn open(file: Arc<dyn ReadFile>, path: &Path) -> Result<SectionCheck> {
        let sections = sections(file.as_ref(), path)?;
        Ok(SectionCheck {
            path: path.to_owned(),
            file,
            sections,
            current: 0,
            read: 0,
            crc: crc32fast::Hasher::new(),
        })
    }

    /// Reads at most `max_bytes` more, which is not 0; how many it were, or `None` at the end. A
    /// section that is damaged is an error once; the next call goes on behind it.
    pub(crate) fn step(&mut self, max_bytes: u64) -> Result<Option<u64>> {
        let Some(section) = self.sections.get(self.current).copied() else { return Ok(None) };
        let start = section.offset + self.read;
        let length = (section.length - self.read).min(max_bytes).min(PIECE_BYTES);
        let bytes = self.file.range(start..start + length);
        let bytes = bytes.map_err(|e| io_error("read", &self.path, e))?;
        self.crc.update(&bytes);
        self.read += length;
        if self.read == section.length {
            (self.current, self.read) = (self.current + 1, 0);
            if std::mem::take(&mut self.crc).finalize() != section.crc {
                let name = layout::section_name(section.kind);
                let what = format!("the checksum of section {name} does not hold");
                return Err(Error::Corrupt {
                    path: self.path.clone(),
                    offset: section.offset,
                    what,
                });
            }
        }
        Ok(Some(length))
    }
}

const PIECE_BYTES: u64 = 1 << 20;

/// The sections of a block, all of them inside the file.
pub(crate) fn sections(file: &dyn ReadFile, path: &Path) -> Result<Vec<TocEntry>> {
    let corrupt = |offset: u64, what: &str| Error::Corrupt {
        path: path.to_owned(),
        offset,
        what: what.to_owned(),
    };
    let length = file.length();
    let read = |range| file.range(range).map_err(|e| io_error("read", path, e));
    let header = read(0..length.min(layout::HEADER_BYTES as u64))?;
    layout::check_header(&header).map_err(|(what, newer)| match newer {
        true => Error::Unsupported { path: path.to_owned(), what: what.to_owned() },
        false => corrupt(0, what),
    })?;
    let trailer_start = length.saturating_sub(layout::TRAILER_BYTES as u64);
    let (range, crc) = layout::toc_range(&read(trailer_start..length)?, length)
        .ok_or_else(|| corrupt(trailer_start, "the trailer is not that of a block"))?;
    let toc_start = range.start;
    let toc = layout::parse_toc(&read(range)?, crc)
        .ok_or_else(|| corrupt(toc_start, "the table of contents is damaged"))?;
    for section in &toc {
        let end = section.offset.checked_add(section.length);
        if end.is_none_or(|end| end > toc_start) {
            return Err(corrupt(toc_start, "a section reaches past the end of the file"));
        }
    }
    Ok(toc)
}
