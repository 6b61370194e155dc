//! Timestamp columns of the head: series that are scraped together share theirs.
//!
//! A mini-chunk's timestamps are looked up by content. Series of one target fill their tails in
//! step, so the second series finds the column of the first. A column that nobody shares costs
//! more in this table than in its series, so a series that was alone with its last column writes
//! the next into its own bytes ([`ColumnOf::Own`]). Columns are joined as mini-chunks are; the
//! content of a joined one is that of its parts, so no series but the first looks at timestamps.
//! Sharing never affects sealed bytes.
//!
//! Queries decode the same columns again and again, so what one of them has decoded stays for the
//! next, up to [`DECODED_BYTES_MAX`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::encoding::timestamps;
use crate::metrics::head::packed::Times;
use crate::time::TimeRange;

/// How a mini-chunk refers to its timestamps.
pub(crate) enum ColumnOf {
    /// A column of the table, held once more by this call.
    Shared(u32),
    /// Encoded timestamps, to be stored with the mini-chunk.
    Own(Vec<u8>),
}

/// Decoded timestamps that the head keeps, in bytes: those of 20,000 series in 500 targets take four
/// MiB for four hours at 15 s. Columns that would be too many are decoded each time.
const DECODED_BYTES_MAX: usize = 8 << 20;

/// What the timestamps of a column take besides their bytes.
const COLUMN_TIMES_BYTES: usize = size_of::<ColumnTimes>() + 16;

#[derive(Debug, Default)]
pub(crate) struct TimestampColumns {
    columns: Vec<Column>,
    free: Vec<u32>,
    by_content: HashMap<u128, u32>,
    /// Of all columns, and those of their encoded timestamps.
    decoded_bytes: Arc<AtomicUsize>,
    encoded_bytes: usize,
}

#[derive(Debug)]
struct Column {
    content: u128,
    /// `None` once nobody holds the column.
    times: Option<Arc<ColumnTimes>>,
    holders: u32,
    range: TimeRange,
}

/// The timestamps of a column, which a reader may keep.
#[derive(Debug)]
pub(crate) struct ColumnTimes {
    bytes: Box<[u8]>,
    count: u8,
    decoded: OnceLock<Box<[i64]>>,
    decoded_bytes: Arc<AtomicUsize>,
}

impl ColumnTimes {
    /// Appends the timestamps; `None`, and nothing, if the bytes are not such.
    pub(crate) fn read(&self, into: &mut Vec<i64>) -> Option<()> {
        if let Some(times) = self.decoded.get() {
            into.extend_from_slice(times);
            return Some(());
        }
        let start = into.len();
        timestamps::decode(&self.bytes, usize::from(self.count), into)?;
        let bytes = self.count() * size_of::<i64>();
        let fits = |held: usize| (held + bytes <= DECODED_BYTES_MAX).then_some(held + bytes);
        let taken = self.decoded_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if taken.is_ok() && self.decoded.set(into[start..].into()).is_err() {
            // Another reader was quicker.
            self.decoded_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Some(())
    }

    pub(crate) fn count(&self) -> usize {
        usize::from(self.count)
    }
}

impl Drop for ColumnTimes {
    fn drop(&mut self) {
        if let Some(times) = self.decoded.get() {
            self.decoded_bytes.fetch_sub(size_of_val(&**times), Ordering::Relaxed);
        }
    }
}

impl TimestampColumns {
    /// `last` is the column that the same series got before, if it was a shared one.
    pub(crate) fn intern(&mut self, times: &[i64], last: Option<u32>) -> ColumnOf {
        let content = timestamps::content(times);
        if let Some(&id) = self.by_content.get(&content) {
            self.columns[id as usize].holders += 1;
            return ColumnOf::Shared(id);
        }
        let mut bytes = Vec::new();
        timestamps::encode(times, &mut bytes);
        let was_alone = last.is_some_and(|last| self.columns[last as usize].holders == 1);
        if was_alone {
            return ColumnOf::Own(bytes);
        }
        ColumnOf::Shared(self.insert(content, bytes.into_boxed_slice(), times))
    }

    /// Adds a column read back from disk, or finds it.
    pub(crate) fn restore(&mut self, bytes: &[u8], times: &[i64]) -> u32 {
        let content = timestamps::content(times);
        match self.by_content.get(&content) {
            Some(&id) => {
                self.columns[id as usize].holders += 1;
                id
            }
            None => self.insert(content, bytes.into(), times),
        }
    }

    fn insert(&mut self, content: u128, bytes: Box<[u8]>, times: &[i64]) -> u32 {
        let first = times.first().copied().unwrap_or(0);
        let last = times.last().copied().unwrap_or(-1);
        let range = TimeRange::new(first, last);
        let count = u8::try_from(times.len()).expect("a mini-chunk has few timestamps");
        self.encoded_bytes += bytes.len() + COLUMN_TIMES_BYTES;
        let times = Some(Arc::new(self.column_times(count, bytes)));
        let column = Column { content, times, holders: 1, range };
        let id = match self.free.pop() {
            Some(id) => {
                self.columns[id as usize] = column;
                id
            }
            None => {
                self.columns.push(column);
                u32::try_from(self.columns.len() - 1).expect("columns fit 32 bits")
            }
        };
        self.by_content.insert(content, id);
        id
    }

    /// Puts columns that follow each other into one: it is held once more, they once less.
    pub(crate) fn join(&mut self, parts: &[u32]) -> u32 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        parts
            .iter()
            .for_each(|id| hasher.update(&self.columns[*id as usize].content.to_le_bytes()));
        let content = hasher.digest128();
        let id = match self.by_content.get(&content) {
            Some(&id) => {
                self.columns[id as usize].holders += 1;
                id
            }
            None => {
                let shared = |id: &u32| (self.held(*id).count, Times::Shared(*id));
                let times = self.times(parts.iter().map(shared));
                let mut bytes = Vec::new();
                timestamps::encode(&times, &mut bytes);
                self.insert(content, bytes.into_boxed_slice(), &times)
            }
        };
        parts.iter().for_each(|part| self.release(*part));
        id
    }

    /// Timestamps of mini-chunks that follow each other, encoded as one column.
    pub(super) fn joined<'a>(&self, parts: impl Iterator<Item = (u8, Times<'a>)>) -> Vec<u8> {
        let mut bytes = Vec::new();
        timestamps::encode(&self.times(parts), &mut bytes);
        bytes
    }

    fn times<'a>(&self, parts: impl Iterator<Item = (u8, Times<'a>)>) -> Vec<i64> {
        let mut times = Vec::new();
        for (count, of) in parts {
            timestamps::decode(self.bytes_of(of), usize::from(count), &mut times)
                .expect("what was encoded here, or decoded once before");
        }
        times
    }

    /// The timestamps of a mini-chunk, to be kept.
    pub(super) fn times_of(&self, count: u8, times: Times<'_>) -> Arc<ColumnTimes> {
        match times {
            Times::Shared(id) => Arc::clone(self.held(id)),
            Times::Own(bytes) => Arc::new(self.column_times(count, bytes.into())),
        }
    }

    fn column_times(&self, count: u8, bytes: Box<[u8]>) -> ColumnTimes {
        let decoded_bytes = Arc::clone(&self.decoded_bytes);
        ColumnTimes { bytes, count, decoded: OnceLock::new(), decoded_bytes }
    }

    fn held(&self, id: u32) -> &Arc<ColumnTimes> {
        self.columns[id as usize].times.as_ref().expect("who has a column's number holds it")
    }

    /// Columns that are held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_content.len()
    }

    /// The encoded timestamps of a mini-chunk.
    pub(super) fn bytes_of<'a>(&'a self, times: Times<'a>) -> &'a [u8] {
        match times {
            Times::Shared(id) => self.bytes(id),
            Times::Own(bytes) => bytes,
        }
    }

    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        &self.held(id).bytes
    }

    /// From its first timestamp to its last.
    pub(crate) fn range(&self, id: u32) -> TimeRange {
        self.columns[id as usize].range
    }

    /// One holder less; without any, the column goes.
    pub(crate) fn release(&mut self, id: u32) {
        let column = &mut self.columns[id as usize];
        column.holders -= 1;
        if column.holders == 0 {
            self.by_content.remove(&column.content);
            let times = column.times.take();
            self.encoded_bytes -= times.map_or(0, |times| times.bytes.len() + COLUMN_TIMES_BYTES);
            self.free.push(id);
        }
    }

    pub(crate) fn bytes_held(&self) -> usize {
        self.encoded_bytes
            + self.decoded_bytes.load(Ordering::Relaxed)
            + self.columns.capacity() * size_of::<Column>()
            + self.by_content.capacity() * 36
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(column: ColumnOf) -> u32 {
        match column {
            ColumnOf::Shared(id) => id,
            ColumnOf::Own(_) => panic!("expected a shared column"),
        }
    }

    #[test]
    fn equal_timestamps_share_a_column_until_the_last_holder_goes() {
        let mut columns = TimestampColumns::default();
        let a = shared(columns.intern(&[1, 2, 3], None));
        let b = shared(columns.intern(&[1, 2, 3], None));
        assert_eq!(a, b);
        columns.release(a);
        assert!(!columns.bytes(b).is_empty());
        columns.release(b);
        assert!(columns.by_content.is_empty());
    }

    #[test]
    fn columns_that_follow_each_other_are_joined_once() {
        let mut columns = TimestampColumns::default();
        let parts = |columns: &mut TimestampColumns| {
            [&[1, 2, 3][..], &[4, 6]].map(|times| shared(columns.intern(times, None)))
        };
        let (a, b) = (parts(&mut columns), parts(&mut columns));
        let joined = columns.join(&a);
        assert_eq!(columns.join(&b), joined);
        let mut times = Vec::new();
        timestamps::decode(columns.bytes(joined), 5, &mut times).unwrap();
        assert_eq!(times, [1, 2, 3, 4, 6]);
        assert_eq!(columns.range(joined), TimeRange::new(1, 6));
        assert_eq!(columns.by_content.len(), 1, "nobody holds the parts");
    }

    #[test]
    fn decoded_columns_stay_within_their_bytes_and_go_with_the_last_reader() {
        let mut columns = TimestampColumns::default();
        let times = |at: i64| -> Vec<i64> { (0..128).map(|i| at * 1_000_000 + i * i).collect() };
        let ids: Vec<u32> = (0..9_000).map(|at| shared(columns.intern(&times(at), None))).collect();
        let held: Vec<_> = ids.iter().map(|id| columns.times_of(128, Times::Shared(*id))).collect();
        for _ in 0..2 {
            for (at, column) in (0..).zip(&held) {
                let mut found = vec![7];
                column.read(&mut found).unwrap();
                assert_eq!(found[1..], times(at));
            }
        }
        let decoded = || columns.decoded_bytes.load(Ordering::Relaxed);
        assert_eq!(decoded(), DECODED_BYTES_MAX);
        drop(held);
        assert_eq!(decoded(), DECODED_BYTES_MAX, "the head holds them");
        let count = Arc::clone(&columns.decoded_bytes);
        drop(columns);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_series_that_was_alone_keeps_its_timestamps() {
        let mut columns = TimestampColumns::default();
        let first = shared(columns.intern(&[1, 2, 3], None));
        assert!(matches!(columns.intern(&[4, 5, 7], Some(first)), ColumnOf::Own(_)));
    }
}
