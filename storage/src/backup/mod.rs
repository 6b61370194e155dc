//! Backups: a consistent copy of a database that somebody else can keep.
//!
//! Three steps, each of which can be cut off anywhere:
//!
//! - [`Db::link_snapshot`](crate::Db::link_snapshot) makes a *snapshot folder* below the data
//!   directory: hard links on blocks and checkpoint, which never change, a copy of the little log
//!   that is behind the checkpoint, and a manifest of its own. It is a data directory like any other.
//! - [`Backup`] copies a snapshot folder, or a data directory that nobody has open, to another place
//!   and checks every copy. What is there already and intact is not copied again. The [`list`] of
//!   files, lengths and digests is written last: without it there is no backup.
//! - [`Restore`] checks a backup whole before it changes anything, and makes a data directory of it.
//!
//! Layout: docs/format.md, "Snapshots and backups".

mod copy;
pub mod list;
mod restore;
mod snapshots;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use copy::{Backup, Copied, LOCK_FILE};
pub use restore::Restore;
pub(crate) use restore::refuse_other_than_data;
pub use snapshots::SNAPSHOTS_DIR;
pub(crate) use snapshots::remove_unfinished;

use xxhash_rust::xxh3::Xxh3;

use crate::disk::{Disk, ReadFile};
use crate::error::{Error, Result, io_error};

/// Bytes that are read, written and counted at a time.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;

/// Something that a file system puts into an empty folder of its own accord.
const LOST_AND_FOUND: &str = "lost+found";

/// A disk, and what people call its root: errors then name whole paths.
#[derive(Clone, Debug)]
pub struct Place {
    pub disk: Arc<dyn Disk>,
    pub name: PathBuf,
}

impl Place {
    pub fn new(disk: Arc<dyn Disk>, name: impl Into<PathBuf>) -> Place {
        Place { disk, name: name.into() }
    }

    /// An error of this place's disk, its path made whole.
    pub fn named(&self, error: Error) -> Error {
        let whole = |path: PathBuf| match path.as_os_str().is_empty() {
            true => self.name.clone(),
            false => self.name.join(path),
        };
        match error {
            Error::Io { operation, path, source } => {
                Error::Io { operation, path: whole(path), source }
            }
            Error::Corrupt { path, offset, what } => {
                Error::Corrupt { path: whole(path), offset, what }
            }
            Error::Unsupported { path, what } => Error::Unsupported { path: whole(path), what },
            Error::Refused { path, what } => Error::Refused { path: whole(path), what },
            Error::Locked { path } => Error::Locked { path: whole(path) },
            other => other,
        }
    }

    /// Names in the root, but for what is no file of ours or the user's.
    fn names(&self) -> Result<Vec<String>> {
        let root = Path::new("");
        match self.disk.list(root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(io_error("list", root, e)),
            Ok(mut names) => {
                names.retain(|name| name != LOST_AND_FOUND);
                Ok(names)
            }
        }
    }
}

/// The bytes of a file, a piece at a time.
fn pieces(
    file: &dyn ReadFile,
    path: &Path,
    mut visit: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    while start < file.length() {
        let end = file.length().min(start + PIECE_BYTES);
        let bytes = file.range(start..end).map_err(|e| io_error("read", path, e))?;
        visit(&bytes)?;
        start = end;
    }
    Ok(())
}

/// XXH3-128 of a file.
fn digest(file: &dyn ReadFile, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<u128> {
    let mut hasher = Xxh3::new();
    pieces(file, path, |bytes| {
        hasher.update(bytes);
        progress(bytes.len() as u64);
        Ok(())
    })?;
    Ok(hasher.digest128())
}

/// Writes a new file, whose bytes are durable; its name is not yet.
fn write_new(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let mut file = disk.create(path).map_err(|e| io_error("create", path, e))?;
    fill(&mut |bytes| file.append(bytes).map_err(|e| io_error("write", path, e)))?;
    file.sync().map_err(|e| io_error("sync", path, e))
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.sync_dir(dir).map_err(|e| io_error("sync folder", dir, e))
}

/// Removes a folder of files and folders of files; that it is not there is no failure.
fn remove_tree(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
    let names = match disk.list(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for name in names {
        let path = dir.join(name);
        match disk.remove(&path) {
            Ok(()) => {}
            // What a folder is called that was to be removed differs between systems.
            Err(e) => match disk.list(&path) {
                Ok(_) => remove_tree(disk, &path)?,
                Err(_) => return Err(e),
            },
        }
    }
    disk.remove_dir(dir)
}
