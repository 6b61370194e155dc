//! Statistics of a block's chunks while queries want them.
//!
//! They are stored a page at a time, and to read those of a page costs as much as to decode some of
//! its chunks. So the first queries for a page are told to decode: whoever reads few series never
//! pays for the others of their pages, and nobody pays more than twice of what decoding costs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::RwLock;

use crate::encoding::decimal;
use crate::encoding::varint::{self, read_bytes, read_count};
use crate::error::Result;
use crate::metrics::chunk::ChunkStatistics;

/// Chunks of a page that are decoded before its statistics are read.
const DECODED_BEFORE: u8 = 8;

/// Pages whose statistics a block keeps: some 6 KiB each.
const PAGES_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct StatisticsCache {
    /// For each page how often somebody asked since its statistics were here last.
    asked: Vec<AtomicU8>,
    pages: RwLock<HashMap<usize, Arc<PageStatistics>>>,
}

#[derive(Debug)]
struct PageStatistics {
    chunks: Vec<ChunkStatistics>,
    /// For each series of the page the place of its first chunk.
    starts: Vec<u32>,
}

impl StatisticsCache {
    pub(super) fn new(pages: usize) -> StatisticsCache {
        let asked = (0..pages).map(|_| AtomicU8::new(0)).collect();
        StatisticsCache { asked, pages: RwLock::default() }
    }

    /// Statistics of a chunk of the `slot`-th series of a page; `None` to have it decoded. `read`
    /// gives those of all chunks of the page, and how many chunks each of its series has.
    pub(super) fn get(
        &self,
        page: usize,
        slot: u32,
        chunk: usize,
        read: impl FnOnce() -> Result<(Vec<ChunkStatistics>, Vec<u32>)>,
    ) -> Result<Option<ChunkStatistics>> {
        if let Some(known) = self.pages.read().get(&page) {
            return Ok(known.chunk(slot, chunk));
        }
        if self.asked[page].fetch_add(1, Ordering::Relaxed) < DECODED_BEFORE {
            return Ok(None);
        }
        let (chunks, counts) = read()?;
        let starts = counts.iter().scan(0, |next, count| {
            let start = *next;
            *next += count;
            Some(start)
        });
        let read = Arc::new(PageStatistics { chunks, starts: starts.collect() });
        self.asked[page].store(0, Ordering::Relaxed);
        let mut pages = self.pages.write();
        if pages.len() >= PAGES_MAX {
            pages.clear();
        }
        pages.insert(page, read.clone());
        Ok(read.chunk(slot, chunk))
    }
}

impl PageStatistics {
    fn chunk(&self, slot: u32, chunk: usize) -> Option<ChunkStatistics> {
        let start = *self.starts.get(slot as usize)? as usize;
        self.chunks.get(start + chunk).copied()
    }
}

/// Statistics of a page's chunks, from their bytes.
pub(super) fn parse(payload: &[u8]) -> Option<Vec<ChunkStatistics>> {
    let mut rest = payload;
    let raw_length = usize::try_from(varint::read(&mut rest)?).ok()?;
    if raw_length > 64 << 20 {
        return None;
    }
    let raw = zstd::bulk::decompress(rest, raw_length).ok()?;
    let mut rest = &raw[..];
    let count = read_count(&mut rest, 3)?;
    let mut chunks = vec![ChunkStatistics::default(); count];
    let (flags, tail) = rest.split_at_checked(count)?;
    rest = tail;
    chunks.iter_mut().zip(flags).for_each(|(chunk, flags)| chunk.flags = *flags);
    for chunk in &mut chunks {
        chunk.count = u32::try_from(varint::read(&mut rest)?).ok()?;
    }
    for chunk in &mut chunks {
        chunk.resets = u32::try_from(varint::read(&mut rest)?).ok()?;
    }
    let varying = chunks.iter().filter(|c| c.flags & ChunkStatistics::CONSTANT == 0).count();
    let mut column = |count: usize| {
        let mut values = Vec::new();
        decimal::decode(read_bytes(&mut rest)?, count, &mut values)?;
        Some(values.into_iter())
    };
    let mut first = column(count)?;
    let mut others =
        [column(varying)?, column(varying)?, column(varying)?, column(varying)?, column(varying)?];
    for chunk in &mut chunks {
        chunk.first = first.next()?;
        if chunk.flags & ChunkStatistics::CONSTANT != 0 {
            (chunk.last, chunk.min, chunk.max) = (chunk.first, chunk.first, chunk.first);
            chunk.sum = chunk.first * f64::from(chunk.count);
        } else {
            let [last, min, max, sum, reset_sum] = &mut others;
            chunk.last = last.next()?;
            chunk.min = min.next()?;
            chunk.max = max.next()?;
            chunk.sum = sum.next()?;
            chunk.reset_sum = reset_sum.next()?;
        }
    }
    Some(chunks)
}
