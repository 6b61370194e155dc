//! Rollups in place of raw samples: windows that consist of whole buckets have the answer of the raw
//! samples, whatever came late or was deleted, and where raw samples are gone answers say so.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod ask;
mod data;
mod exact;
mod gone;
