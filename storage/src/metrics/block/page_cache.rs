//! Decompressed pages of blocks, so that the series of a page are decompressed once a query.
//!
//! Second chance: a page that was used since the hand last passed it is passed once more. Bounded
//! by bytes, shared by all blocks of a database.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::metrics::block::meta::BlockId;

/// Threads that read different pages mostly take different locks.
const SHARDS: usize = 16;

/// What an entry takes besides its bytes.
const ENTRY_BYTES: usize = 96;

type Key = (BlockId, u32);

#[derive(Debug)]
pub(crate) struct PageCache {
    shards: [Mutex<Shard>; SHARDS],
    shard_bytes: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    hand: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    page: Arc<[u8]>,
    used: bool,
}

impl PageCache {
    pub(crate) fn new(bytes: usize) -> PageCache {
        PageCache {
            shards: Default::default(),
            shard_bytes: bytes / SHARDS,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn shard(&self, (block, page): Key) -> &Mutex<Shard> {
        // Neighbouring pages are read by neighbouring threads.
        &self.shards[(block.0 as usize).wrapping_mul(7).wrapping_add(page as usize) % SHARDS]
    }

    /// The page, made by `load` if it is not here.
    pub(crate) fn get<E>(
        &self,
        block: BlockId,
        page: u32,
        load: impl FnOnce() -> Result<Arc<[u8]>, E>,
    ) -> Result<Arc<[u8]>, E> {
        let key = (block, page);
        if let Some(entry) = self.shard(key).lock().entries.get_mut(&key) {
            entry.used = true;
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(entry.page.clone());
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        // Two threads may load the same page; neither waits for the other.
        let page = load()?;
        self.shard(key).lock().insert(key, page.clone(), self.shard_bytes);
        Ok(page)
    }

    /// Pages that were here and pages that had to be decompressed, so far.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    pub(crate) fn bytes_held(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

impl Shard {
    fn insert(&mut self, key: Key, page: Arc<[u8]>, limit: usize) {
        let bytes = page.len() + ENTRY_BYTES;
        if bytes > limit || self.entries.contains_key(&key) {
            return;
        }
        while self.bytes + bytes > limit
            && let Some(oldest) = self.hand.pop_front()
        {
            let Some(entry) = self.entries.get_mut(&oldest) else { continue };
            if std::mem::take(&mut entry.used) {
                self.hand.push_back(oldest);
            } else {
                self.bytes -= entry.page.len() + ENTRY_BYTES;
                self.entries.remove(&oldest);
            }
        }
        self.bytes += bytes;
        self.hand.push_back(key);
        self.entries.insert(key, Entry { page, used: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8) -> Arc<[u8]> {
        vec![fill; 1000].into()
    }

    #[test]
    fn what_is_used_stays_and_the_bytes_are_bounded() {
        let cache = PageCache::new(SHARDS * 4 * (1000 + ENTRY_BYTES));
        let get = |number: u32| {
            let shared = number * SHARDS as u32;
            cache.get::<()>(BlockId(0), shared, || Ok(page(number as u8))).unwrap()
        };
        for number in 1..100 {
            assert_eq!(get(0)[0], 0);
            assert_eq!(get(number)[0], number as u8);
            assert!(cache.bytes_held() <= 4 * (1000 + ENTRY_BYTES));
        }
        assert_eq!(cache.hits_and_misses(), (98, 100));
    }

    #[test]
    fn a_page_that_does_not_load_is_tried_again() {
        let cache = PageCache::new(1 << 20);
        assert_eq!(cache.get(BlockId(1), 1, || Err("damaged")), Err("damaged"));
        assert!(cache.get::<()>(BlockId(1), 1, || Ok(page(1))).is_ok());
    }
}
