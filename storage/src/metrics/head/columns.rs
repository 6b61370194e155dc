//! Timestamp columns of the head: series that are scraped together share theirs.
//!
//! A mini-chunk's timestamps are looked up by content. Series of one target fill their tails in
//! step, so the second series finds the column of the first. A column that nobody shares costs
//! more in this table than in its series, so a series that was alone with its last column writes
//! the next into its own bytes ([`ColumnOf::Own`]). Columns are joined as mini-chunks are; the
//! content of a joined one is that of its parts, so no series but the first looks at timestamps.
//! Sharing never affects sealed bytes.

use std::collections::HashMap;

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

#[derive(Debug, Default)]
pub(crate) struct TimestampColumns {
    columns: Vec<Column>,
    free: Vec<u32>,
    by_content: HashMap<u128, u32>,
    /// Of all columns' encoded timestamps.
    encoded_bytes: usize,
}

#[derive(Debug)]
struct Column {
    content: u128,
    bytes: Box<[u8]>,
    count: u8,
    holders: u32,
    range: TimeRange,
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
        self.encoded_bytes += bytes.len();
        let column = Column { content, bytes, count, holders: 1, range };
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
                let shared = |id: &u32| (self.columns[*id as usize].count, Times::Shared(*id));
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
        &self.columns[id as usize].bytes
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
            self.encoded_bytes -= column.bytes.len();
            column.bytes = Box::default();
            self.free.push(id);
        }
    }

    pub(crate) fn bytes_held(&self) -> usize {
        self.encoded_bytes
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
    fn a_series_that_was_alone_keeps_its_timestamps() {
        let mut columns = TimestampColumns::default();
        let first = shared(columns.intern(&[1, 2, 3], None));
        assert!(matches!(columns.intern(&[4, 5, 7], Some(first)), ColumnOf::Own(_)));
    }
}
