//! Icecore's storage engine: labelled samples in, safe on disk, and out again by time and label.
//!
//! # The write path
//!
//! A protocol's decoder fills a [`metrics::batch::Batch`]. [`Db::append`] decides which rows are
//! accepted, writes them to the log ([`wal`]), waits until the disk has them, applies them to the
//! head ([`metrics`]) and returns. From time to time [`Db::maintain`] writes the head into a
//! checkpoint and cuts the log, seals a two-hour window of the head into a block, merges blocks
//! ([`compaction`]) and drops what has outlived its [`retention`]. The [`manifest`] names what is
//! live.
//!
//! # The read path
//!
//! [`Db::snapshot`] gives a [`Snapshot`]. It finds series by their labels ([`index`]) in head and
//! blocks and reads each as one run of samples, decoded ([`encoding`]) and merged.
//!
//! # Rules
//!
//! No clock, no network, no threads, no async here: `now` is an argument, and all file access goes
//! through [`disk::Disk`], of which there is a real one and an unkind one. Bytes are pictured in
//! docs/format.md.

pub mod backup;
pub mod cardinality;
pub(crate) mod compaction;
pub mod data_file;
pub mod db;
pub mod deletes;
pub mod disk;
pub mod duration;
pub mod encoding;
pub mod error;
#[cfg(test)]
mod golden;
pub mod import;
pub mod index;
pub mod inspect;
pub mod labels;
pub mod limits;
pub(crate) mod manifest;
pub mod matcher;
pub mod metrics;
pub mod outline;
pub mod recovery;
pub mod regex;
pub mod retention;
pub mod scrub;
mod selection;
pub mod series_limits;
pub mod snapshot;
pub mod tiers;
pub mod time;
mod upkeep;
pub mod verify;
pub mod wal;

pub use db::Db;
pub use error::Error;
pub use snapshot::Snapshot;
