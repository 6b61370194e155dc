//! What can go wrong in storage, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// Bytes on disk are not what was written.
    #[error("{} is damaged at byte {offset}: {what}", path.display())]
    Corrupt { path: PathBuf, offset: u64, what: String },
    /// A file was written by a newer version.
    #[error("{}: {what}", path.display())]
    Unsupported { path: PathBuf, what: String },
    /// What was asked for would do harm here, or makes no sense; nothing was changed.
    #[error("{}: {what}", path.display())]
    Refused { path: PathBuf, what: String },
    /// Not now: the same request may succeed later. Nothing of it was stored.
    #[error("{reason}")]
    Unavailable { reason: String, retry_after_seconds: u32 },
    /// The request can never be carried out.
    #[error("{what}")]
    Invalid { what: String },
    /// Another process has the data directory.
    #[error("data directory {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    /// Whoever reads wants no more of it.
    #[error("the read was stopped")]
    Stopped,
    /// The database has been closed.
    #[error("the database is closed")]
    Closed,
}

impl Error {
    /// Whether a file is not what it was, or gone: of use to go on and look at the others.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Corrupt { .. } => true,
            Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// An [`Error::Io`].
pub(crate) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { operation, path: path.to_owned(), source }
}

pub type Result<T> = std::result::Result<T, Error>;
