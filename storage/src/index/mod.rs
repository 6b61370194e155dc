//! The label index: from matchers to series, and from series to labels.
//!
//! A **pair** is a label's name and value; its **postings** are the ids of the series that have
//! it. Ids are dense numbers that mean something within one index only. Every data type uses the
//! same two indexes: [`head::HeadIndex`], which changes, and [`sealed::SealedIndex`], a section of
//! an immutable file. [`select`] runs over both, so that a query finds the same in each.
//!
//! In both, a series' labels exist only as references to pairs, and a pair's text exists once.

#[cfg(test)]
mod contract;
mod dictionary;
mod group;
pub mod head;
pub(crate) mod packed;
mod pairs;
mod postings;
mod rows;
pub mod sealed;
mod select;

use std::path::Path;
use std::sync::Arc;

use crate::error::Error;

/// How many series have a name, and each value of it, the values in bytewise order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameCounts {
    pub(crate) name: String,
    pub(crate) series: u64,
    pub(crate) values: Vec<(Arc<str>, u64)>,
}

/// Series are counted by their rows if they are fewer than pairs by this factor.
const ROWS_A_PAIR: u64 = 8;

/// Where a sealed index is not what was written, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label index is damaged at byte {offset}: {what}")]
pub struct Damage {
    pub offset: u64,
    pub what: &'static str,
}

impl Damage {
    /// The error for an index that is at `start` in the file at `path`.
    pub fn in_file(self, path: &Path, start: u64) -> Error {
        let what = format!("label index: {}", self.what);
        Error::Corrupt { path: path.to_owned(), offset: start + self.offset, what }
    }
}
