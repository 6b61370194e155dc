//! Icecore's storage engine. (The crate's essay follows with `Db`.)

pub mod db;
pub mod disk;
pub mod encoding;
pub mod error;
pub mod index;
pub mod labels;
pub mod limits;
pub mod matcher;
pub mod metrics;
pub mod snapshot;
pub mod time;
pub mod wal;

pub use db::Db;
pub use error::Error;
pub use snapshot::Snapshot;
