//! The disk: the only way in which storage touches files.
//!
//! [`Disk`] has two implementers: `os`, the real one, and `sim`, which loses
//! unsynced writes, tears them, fills up and fails on command. Both keep this contract:
//!
//! - bytes appended to a file survive a power cut once [`WriteFile::sync`] has returned;
//! - a file's *name* (created, renamed, removed) survives once [`Disk::sync_dir`] has returned;
//! - what was not synced may survive in part, in any order, with any sector torn;
//! - after `sync` fails, nothing is known about unsynced bytes, and a second `sync` that succeeds
//!   proves nothing.

#[cfg(test)]
mod contract;
pub mod os;
#[cfg(target_os = "linux")]
mod sigbus;
pub mod sim;
pub mod view;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;

/// File operations, on paths below one root that the implementer knows.
pub trait Disk: Debug + Send + Sync {
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Names of the files and folders in a folder, in bytewise order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// A new, empty file; fails if there is one of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>>;

    /// Takes the place of a file at `to`. Not durable before `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, under which it stays when the first is removed; fails if there is
    /// something of that name. Not durable before `sync_dir`.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open [`ReadFile`]s and ranges of it stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder, which must be empty.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file, creating it where needed, until the returned lock is dropped. Fails with
    /// [`io::ErrorKind::WouldBlock`] if another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Debug + Send + Sync>>;

    /// Bytes that can still be written, as far as the disk knows.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file while it is written, from front to back.
pub trait WriteFile: Debug + Send {
    /// Appends all of `bytes` or fails; after a failure, how much is there is unknown.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Reserves room for `length` bytes in all without changing what can be read. Where the file
    /// system cannot, this does nothing; without space it fails with `StorageFull`.
    fn preallocate(&mut self, length: u64) -> io::Result<()>;

    /// Makes the appended bytes durable (fdatasync).
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is no longer written, or of which only what is there at `open` is read.
pub trait ReadFile: Debug + Send + Sync {
    /// Length when it was opened.
    fn length(&self) -> u64;

    /// The bytes of a range; `UnexpectedEof` if it reaches past the length. Cheap to clone and
    /// slice; valid after the file is removed. Where a sector cannot be read, its bytes may come
    /// back as zeros, which the checksum over them then tells.
    fn range(&self, range: Range<u64>) -> io::Result<Bytes>;
}

/// The names on the way to `path`, which must lead down from the root; an empty path is the root.
fn names_of(path: &Path) -> io::Result<Vec<&str>> {
    let name_of = |component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    };
    let names: Option<Vec<&str>> = path.components().map(name_of).collect();
    names.ok_or_else(|| {
        let text = format!("{} does not lead to a place below the root", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// `range` as indexes into a file of `length` bytes, or `UnexpectedEof`.
fn indexes(range: &Range<u64>, length: u64) -> io::Result<Range<usize>> {
    let inside = range.start <= range.end && range.end <= length;
    let index = |offset: u64| usize::try_from(offset).ok().filter(|_| inside);
    match (index(range.start), index(range.end)) {
        (Some(start), Some(end)) => Ok(start..end),
        _ => {
            let text = format!("bytes {range:?} of a file of {length} bytes");
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
        }
    }
}
