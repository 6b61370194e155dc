//! Making a data directory of a backup: checked whole first, then copied, then there at once.
//!
//! Everything is copied into the folder `tmp-restore` of the new data directory, checked again as it
//! is copied, and only then given its places. While that folder is there the directory is no data
//! directory and nobody opens it, so a restore that was cut off is not taken for a database.

use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::backup::list::{BackupList, Entry, LIST_FILE};
use crate::backup::{LOCK_FILE, Place, digest, pieces, remove_tree, sync_dir, write_new};
use crate::data_file;
use crate::disk::Disk;
use crate::disk::view::View;
use crate::error::{Error, Result, io_error};
use crate::metrics::block::BLOCKS_DIR;
use crate::metrics::checkpoint::CHECKPOINTS_DIR;
use crate::verify::{Depth, Verified, verify};
use crate::wal::WAL_DIR;

const UNFINISHED: &str = "tmp-restore";

/// What is no data directory although it looks like one: a backup, which would no longer be one once
/// it was opened, and a directory in which a restore was cut off.
pub(crate) fn refuse_other_than_data(disk: &dyn Disk) -> Result<()> {
    let root = Path::new("");
    let names = disk.list(root).map_err(|e| io_error("list", root, e))?;
    for (name, what) in [
        (LIST_FILE, "this is a backup: restore it into a folder of its own"),
        (LOCK_FILE, "this is a backup that was not finished"),
        (UNFINISHED, "a restore into this directory was cut off: empty it and restore again"),
    ] {
        if names.iter().any(|found| found == name) {
            return Err(Error::Refused { path: name.into(), what: what.into() });
        }
    }
    Ok(())
}

/// A restore about to be done.
#[derive(Debug)]
pub struct Restore {
    from: Place,
    list: BackupList,
}

impl Restore {
    /// Reads the list of the backup at `from`.
    pub fn prepare(from: Place) -> Result<Restore> {
        let list = BackupList::load(from.disk.as_ref()).map_err(|e| from.named(e))?;
        let list = list.ok_or_else(|| {
            let what = "there is no such list: this is no backup, or one that was not finished";
            from.named(Error::Refused { path: LIST_FILE.into(), what: what.into() })
        })?;
        Ok(Restore { from, list })
    }

    pub fn list(&self) -> &BackupList {
        &self.list
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.list.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Checks every byte of the backup: lengths and digests against the list, then the files as a
    /// database. Changes nothing. `progress` is told of twice [`Restore::bytes`].
    pub fn check(&self, depth: Depth, progress: &mut dyn FnMut(u64)) -> Result<Verified> {
        let mut damage = Vec::new();
        for entry in &self.list.entries {
            match self.check_entry(entry, progress) {
                Err(e) if e.is_damage() => damage.push(self.from.named(e)),
                other => other.map_err(|e| self.from.named(e))?,
            }
        }
        let paths = self.list.entries.iter().map(|entry| entry.file.path());
        let view: Arc<dyn Disk> = Arc::new(View::of_files(self.from.disk.clone(), paths));
        let verified = match verify(&view, depth, progress) {
            // What keeps it from being a database has been named already.
            Err(_) if !damage.is_empty() => Verified::default(),
            other => other.map_err(|e| self.from.named(e))?,
        };
        Ok(verified.in_place(&self.from).with(damage))
    }

    fn check_entry(&self, entry: &Entry, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let path = entry.file.path();
        let file = data_file::open(self.from.disk.as_ref(), &path)?;
        if file.length() != entry.bytes {
            let what = format!("it has {} bytes and should have {}", file.length(), entry.bytes);
            return Err(Error::Corrupt { path, offset: file.length().min(entry.bytes), what });
        }
        if digest(file.as_ref(), &path, progress)? != entry.digest {
            let what = "its digest is not that of the backup's list".into();
            return Err(Error::Corrupt { path, offset: 0, what });
        }
        Ok(())
    }

    /// Copies the backup to `into`, which is empty or missing, after [`Restore::check`] found
    /// nothing wrong. If it fails, `into` is empty again as far as the disk lets us.
    pub fn run(&self, into: &Place, progress: &mut dyn FnMut(u64)) -> Result<()> {
        Restore::refuse_used(into)?;
        let disk = into.disk.as_ref();
        let copied = self.copy_all(into, progress);
        if copied.is_err() {
            let _ = remove_tree(disk, Path::new(UNFINISHED));
            return copied;
        }
        self.give_places(disk).map_err(|e| into.named(e))
    }

    /// Only an empty or missing directory is restored into.
    pub fn refuse_used(into: &Place) -> Result<()> {
        if into.names().map_err(|e| into.named(e))?.is_empty() {
            return Ok(());
        }
        let what = "it is not empty: a backup is restored into an empty or a new folder".into();
        Err(into.named(Error::Refused { path: Path::new("").into(), what }))
    }

    fn copy_all(&self, into: &Place, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let disk = into.disk.as_ref();
        let folders = ["", WAL_DIR, CHECKPOINTS_DIR, BLOCKS_DIR];
        for dir in folders.map(|dir| Path::new(UNFINISHED).join(dir)) {
            let made = disk.create_dir_all(&dir).map_err(|e| io_error("create folder", &dir, e));
            made.map_err(|e| into.named(e))?;
        }
        sync_dir(disk, Path::new("")).map_err(|e| into.named(e))?;
        self.list.entries.iter().try_for_each(|entry| self.copy(entry, into, progress))?;
        for dir in folders.map(|dir| Path::new(UNFINISHED).join(dir)) {
            sync_dir(disk, &dir).map_err(|e| into.named(e))?;
        }
        Ok(())
    }

    /// Copies a file; what was read must be what was checked.
    fn copy(&self, entry: &Entry, into: &Place, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let path = entry.file.path();
        let source = data_file::open(self.from.disk.as_ref(), &path);
        let source = source.map_err(|e| self.from.named(e))?;
        let target = Path::new(UNFINISHED).join(&path);
        let mut hasher = Xxh3::new();
        let mut length = 0;
        let written = write_new(into.disk.as_ref(), &target, |append| {
            pieces(source.as_ref(), &path, |bytes| {
                hasher.update(bytes);
                length += bytes.len() as u64;
                progress(bytes.len() as u64);
                append(bytes)
            })
        });
        written.map_err(|e| into.named(e))?;
        if (length, hasher.digest128()) != (entry.bytes, entry.digest) {
            let what = "the backup changed while it was restored".into();
            return Err(self.from.named(Error::Corrupt { path, offset: 0, what }));
        }
        Ok(())
    }

    /// The manifest last, and the unfinished folder after it: then it is a data directory.
    fn give_places(&self, disk: &dyn Disk) -> Result<()> {
        let (root, unfinished) = (Path::new(""), Path::new(UNFINISHED));
        let manifest = self.list.entries.iter().map(|entry| entry.file.path());
        let manifest = manifest.filter(|path| path.parent() == Some(root));
        let parts = [BLOCKS_DIR, CHECKPOINTS_DIR, WAL_DIR].into_iter().map(Into::into);
        for part in parts.chain(manifest) {
            let from = unfinished.join(&part);
            disk.rename(&from, &part).map_err(|e| io_error("rename", &from, e))?;
        }
        sync_dir(disk, unfinished)?;
        sync_dir(disk, root)?;
        disk.remove_dir(unfinished).map_err(|e| io_error("remove", unfinished, e))?;
        sync_dir(disk, root)
    }
}
