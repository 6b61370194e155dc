//! Snapshot folders: `snapshots/<name>/` below the data directory.
//!
//! A snapshot folder is what a kill at one moment would have left, less what nobody needs. It is
//! filled as `tmp-<name>` and renamed, so under its name it is complete.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backup::{pieces, remove_tree, sync_dir, write_new};
use crate::data_file::{self, DataFile};
use crate::db::{Db, Inner};
use crate::disk::Disk;
use crate::disk::view::View;
use crate::error::{Error, Result, io_error};
use crate::manifest::Manifest;
use crate::metrics::block::BLOCKS_DIR;
use crate::metrics::checkpoint::CHECKPOINTS_DIR;
use crate::wal::WAL_DIR;

/// Folder of the snapshot folders, below the data directory.
pub const SNAPSHOTS_DIR: &str = "snapshots";

const NAME_BYTES_MAX: usize = 100;

impl Db {
    /// Makes the snapshot folder `snapshots/<name>` and returns its path below the data directory.
    /// In it is everything that was acknowledged before the call, and of what is written meanwhile
    /// whole requests only. The blocks' space is shared for as long as they live.
    ///
    /// `name` consists of letters, digits and `-`.
    pub fn link_snapshot(&self, name: &str, now_ms: i64) -> Result<PathBuf> {
        let path = snapshot_path(name)?;
        let temporary = Path::new(SNAPSHOTS_DIR).join(format!("tmp-{name}"));
        let made = self.inner.make_snapshot(&temporary, &path, now_ms);
        if made.is_err() {
            // What a failure leaves unfinished must not pile up on a disk that may be full.
            let _ = remove_tree(self.inner.disk.as_ref(), &temporary);
        }
        made.map(|()| path)
    }

    /// Removes a snapshot folder. `false` if there is none of that name.
    pub fn remove_snapshot(&self, name: &str) -> Result<bool> {
        let path = snapshot_path(name)?;
        let disk = self.inner.disk.as_ref();
        // Under another name first: no part of a snapshot is ever taken for a whole one.
        let temporary = Path::new(SNAPSHOTS_DIR).join(format!("tmp-{name}"));
        match disk.rename(&path, &temporary) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(|e| io_error("rename", &path, e))?,
        }
        sync_dir(disk, Path::new(SNAPSHOTS_DIR))?;
        remove_tree(disk, &temporary).map_err(|e| io_error("remove", &temporary, e))?;
        Ok(true)
    }

    /// Names of the snapshot folders there are.
    pub fn linked_snapshots(&self) -> Result<Vec<String>> {
        let mut names = list(self.inner.disk.as_ref())?;
        names.retain(|name| snapshot_path(name).is_ok() && !name.starts_with("tmp-"));
        Ok(names)
    }
}

impl Inner {
    fn make_snapshot(&self, temporary: &Path, path: &Path, now_ms: i64) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let disk = self.disk.as_ref();
        // Held to the end: nothing that the manifest names goes, and no segment is cut.
        let mut upkeep = self.upkeep.lock();
        self.checkpoint(&mut upkeep, now_ms)?;
        let manifest = &upkeep.manifest;
        for dir in [WAL_DIR, BLOCKS_DIR, CHECKPOINTS_DIR] {
            let dir = temporary.join(dir);
            disk.create_dir_all(&dir).map_err(|e| io_error("create folder", &dir, e))?;
        }
        for block in &manifest.blocks {
            self.link_into(temporary, DataFile::Block(block.id))?;
        }
        if let Some(checkpoint) = &manifest.checkpoint {
            self.link_into(temporary, DataFile::Checkpoint(checkpoint.number))?;
        }
        // A checkpoint may hold a part of the requests that came while it was written. The log
        // has them whole, and what a checkpoint has of a request was in the log before.
        let covered = manifest.checkpoint.map_or(0, |checkpoint| checkpoint.covered);
        for number in self.wal.beyond(covered) {
            copy_into(disk, temporary, DataFile::Segment(number))?;
        }
        for dir in [WAL_DIR, BLOCKS_DIR, CHECKPOINTS_DIR] {
            sync_dir(disk, &temporary.join(dir))?;
        }
        let mut own = Manifest { retired: Vec::new(), ..manifest.clone() };
        own.store(&View::of_folder(self.disk.clone(), temporary))?;
        disk.rename(temporary, path).map_err(|e| io_error("rename", temporary, e))?;
        sync_dir(disk, Path::new(SNAPSHOTS_DIR))?;
        sync_dir(disk, Path::new(""))
    }

    /// A second name for a file that never changes; a copy where the disk has no such thing.
    fn link_into(&self, folder: &Path, file: DataFile) -> Result<()> {
        let (from, to) = (file.path(), folder.join(file.path()));
        match self.disk.link(&from, &to) {
            Ok(()) => Ok(()),
            Err(e) if cannot_link(&e) => copy_into(self.disk.as_ref(), folder, file),
            Err(e) => Err(io_error("link", &from, e)),
        }
    }
}

/// File systems without second names say so in different ways.
fn cannot_link(e: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(e.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

fn copy_into(disk: &dyn Disk, folder: &Path, file: DataFile) -> Result<()> {
    let path = file.path();
    let source = data_file::open(disk, &path)?;
    write_new(disk, &folder.join(&path), |append| pieces(source.as_ref(), &path, append))
}

fn snapshot_path(name: &str) -> Result<PathBuf> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
        let what = format!("{name:?} is no name of a snapshot: letters, digits and - are");
        return Err(Error::Refused { path: PathBuf::from(SNAPSHOTS_DIR), what });
    }
    Ok(Path::new(SNAPSHOTS_DIR).join(name))
}

fn list(disk: &dyn Disk) -> Result<Vec<String>> {
    let dir = Path::new(SNAPSHOTS_DIR);
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| io_error("list", dir, e)),
    }
}

/// Removes what a crash left of snapshot folders being made or removed.
pub(crate) fn remove_unfinished(disk: &Arc<dyn Disk>) -> Result<()> {
    for name in list(disk.as_ref())?.iter().filter(|name| name.starts_with("tmp-")) {
        let path = Path::new(SNAPSHOTS_DIR).join(name);
        remove_tree(disk.as_ref(), &path).map_err(|e| io_error("remove", &path, e))?;
    }
    Ok(())
}
