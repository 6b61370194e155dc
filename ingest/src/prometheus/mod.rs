//! Prometheus's data directory, as bytes: what its blocks, its head chunks and its log say.
//!
//! A *block* is an [`index`] of series that name *chunks* in segment files ([`chunks`]), and
//! [`tombstones`] for what was deleted of them. What is younger is in the *head*: chunks on disk, and
//! a log ([`wal`]) of [`record`]s for the rest. Facts about the formats are from Prometheus's
//! `tsdb/docs/format`.
//!
//! The rule that holds: no length is believed before its checksum or before it was compared with
//! the bytes that there are, and what does not fit is a [`Damage`] that says where. Nothing here
//! opens a file; whoever does adds its name.

pub mod chunks;
mod crc32c;
mod cursor;
pub mod index;
pub mod record;
pub mod tombstones;
pub mod wal;

/// Bytes of Prometheus that are not what it writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {offset}: {what}")]
pub struct Damage {
    /// In the file.
    pub offset: u64,
    pub what: String,
}

impl Damage {
    fn new(offset: u64, what: impl Into<String>) -> Damage {
        Damage { offset, what: what.into() }
    }
}
