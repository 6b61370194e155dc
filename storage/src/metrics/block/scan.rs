//! Reading the heads of all chunks of a block: what its series take, without decoding a value.

use crate::encoding::varint::read_count;
use crate::error::Result;
use crate::metrics::block::layout::SectionKind;
use crate::metrics::block::{Block, chunk_head, find, series_body};
use crate::metrics::rollup::Component;

/// What a series takes of its page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeriesHeads<'a> {
    pub(crate) id: u32,
    /// Its bytes, before the page is compressed.
    pub(crate) body: &'a [u8],
    pub(crate) chunks: u64,
    /// Samples, or buckets of a rollup.
    pub(crate) rows: u64,
    /// Timestamp columns that its chunks refer to.
    pub(crate) columns: Vec<u32>,
}

impl Block {
    /// Calls `visit` with the number of each page and with its series. Pages are read past the cache.
    pub(crate) fn scan(&self, mut visit: impl FnMut(usize, &[SeriesHeads<'_>])) -> Result<()> {
        let mut id_at = vec![0; self.position_of.len()];
        for (id, position) in (0..).zip(&self.position_of) {
            id_at[*position as usize] = id;
        }
        for (page, entry) in self.directory.iter().enumerate() {
            let payload = self.load_page(page)?;
            let damaged = || self.corrupt(self.pages.offset + entry.offset, "page");
            let next = self.directory.get(page + 1).map(|next| next.first_position as usize);
            let mut series = Vec::new();
            let ids = &id_at[entry.first_position as usize..next.unwrap_or(id_at.len())];
            for (slot, id) in (0..).zip(ids) {
                let body = series_body(&payload, slot).ok_or_else(damaged)?;
                series.push(heads(body, *id, self.column_ends.len()).ok_or_else(damaged)?);
            }
            visit(page, &series);
        }
        Ok(())
    }

    /// Bytes of the page section.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.section_bytes(SectionKind::Pages)
    }

    /// Bytes of a section; 0 if the block has none of the kind.
    pub(crate) fn section_bytes(&self, kind: SectionKind) -> u64 {
        find(&self.toc, kind).map_or(0, |entry| entry.length)
    }

    pub(crate) fn page_count(&self) -> usize {
        self.directory.len()
    }

    pub(crate) fn has_compressed_pages(&self) -> bool {
        self.cache.is_some()
    }

    pub(crate) fn column_count(&self) -> usize {
        self.column_ends.len()
    }

    /// Bytes of a timestamp column in the file.
    pub(crate) fn column_bytes(&self, column: usize) -> u64 {
        let start = column.checked_sub(1).map_or(0, |before| self.column_ends[before].0);
        self.column_ends[column].0 - start
    }
}

fn heads(body: &[u8], id: u32, columns: usize) -> Option<SeriesHeads<'_>> {
    let mut rest = body;
    let chunks = read_count(&mut rest, 4)?;
    let mut series = SeriesHeads { id, chunks: chunks as u64, ..SeriesHeads::default() };
    let mut values = 0;
    for _ in 0..chunks {
        let head = chunk_head(&mut rest)?;
        values += head.value_bytes;
        // Of a rollup its buckets: each component has rows of its own.
        if matches!(head.component()?, Component::Raw | Component::Count) {
            series.rows += head.count as u64;
        }
        if series.columns.last() != Some(&head.column) {
            series.columns.push(head.column);
        }
    }
    series.body = body.get(..(body.len() - rest.len()).checked_add(values)?)?;
    let is_known = series.columns.iter().all(|column| (*column as usize) < columns);
    is_known.then_some(series)
}
