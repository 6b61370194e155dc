//! Copying a database to where it is kept: checked, and only what is not there yet.

use std::collections::HashSet;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::backup::list::{BackupList, Entry, LIST_FILE};
use crate::backup::{Place, digest, pieces, sync_dir, write_new};
use crate::data_file::{self, DataFile, LiveFile, live_files};
use crate::disk::Disk;
use crate::disk::view::View;
use crate::error::{Error, Result, io_error};
use crate::metrics::block::BLOCKS_DIR;
use crate::metrics::block::check::SectionCheck;
use crate::metrics::checkpoint::CHECKPOINTS_DIR;
use crate::verify::{Depth, verify};
use crate::wal::WAL_DIR;

/// Held by whoever writes a backup; and the sign of a folder that is one, or was to become one.
pub const LOCK_FILE: &str = "backup.lock";

const FOLDERS: [&str; 3] = [WAL_DIR, CHECKPOINTS_DIR, BLOCKS_DIR];

const COPY: &str = "tmp-copy";
const NEW_LIST: &str = "tmp-list";

/// As much of a file's end as is compared before a copy is taken for one of the same file: of a
/// block it holds the checksums of all of its sections.
const END_BYTES: u64 = 4096;

/// What a backup came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// All that belongs to it.
    pub files: u64,
    pub bytes: u64,
    /// Of these, what was not there yet.
    pub copied_files: u64,
    pub copied_bytes: u64,
    /// What belonged to the backup before and does not to this one.
    pub removed_files: u64,
}

/// A backup about to be made.
#[derive(Debug)]
pub struct Backup {
    from: Place,
    to: Place,
    files: Vec<LiveFile>,
    /// The backup that is there, and whether it still is one.
    old: Option<BackupList>,
    old_is_dropped: bool,
    _lock: Box<dyn Debug + Send + Sync>,
}

impl Backup {
    /// Looks at both places. `from` is a snapshot folder, or a data directory that nobody has open;
    /// `to` is empty, missing, or has a backup of the same database.
    pub fn prepare(from: Place, to: Place) -> Result<Backup> {
        let mut files = live_files(from.disk.as_ref()).map_err(|e| from.named(e))?;
        // They tell another database, so they come before anything of the old backup goes.
        files.sort_by_key(|file| !matches!(file.file, DataFile::Block(_)));
        let opened = Backup::open_target(&to);
        let (old, lock) = opened.map_err(|e| to.named(e))?;
        refuse_older(&files, old.as_ref()).map_err(|e| to.named(e))?;
        Ok(Backup { from, to, files, old, old_is_dropped: false, _lock: lock })
    }

    fn open_target(to: &Place) -> Result<(Option<BackupList>, Box<dyn Debug + Send + Sync>)> {
        let names = to.names()?;
        if !names.is_empty() && !names.iter().any(|name| name == LOCK_FILE) {
            let what = "it is neither empty nor a backup: choose an empty folder".into();
            return Err(Error::Refused { path: Path::new("").into(), what });
        }
        let create =
            |dir: &Path| to.disk.create_dir_all(dir).map_err(|e| io_error("create folder", dir, e));
        create(Path::new(""))?;
        let path = Path::new(LOCK_FILE);
        let lock = to.disk.lock(path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::Refused {
                path: path.into(),
                what: "another backup is being made there".into(),
            },
            _ => io_error("lock", path, e),
        })?;
        // It is the sign of a backup that was begun, so it comes before anything else.
        sync_dir(to.disk.as_ref(), Path::new(""))?;
        FOLDERS.iter().try_for_each(|dir| create(Path::new(dir)))?;
        Ok((BackupList::load(to.disk.as_ref())?, lock))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Makes the backup. Until the new list is there the backup that was there before stays whole,
    /// but for one case: a file of the log or a checkpoint of the same name with another content.
    /// `progress` is told of every byte of [`Backup::bytes`], of those of a damaged copy twice.
    pub fn run(mut self, snapshot: &str, progress: &mut dyn FnMut(u64)) -> Result<Copied> {
        let mut copied = Copied { files: self.files.len() as u64, ..Copied::default() };
        let mut list = BackupList { snapshot: snapshot.to_owned(), entries: Vec::new() };
        for file in self.files.clone() {
            let entry = match self.kept(file, progress)? {
                Some(entry) => entry,
                None => {
                    copied.copied_files += 1;
                    copied.copied_bytes += file.bytes;
                    self.copy(file, progress)?
                }
            };
            copied.bytes += entry.bytes;
            list.entries.push(entry);
        }
        self.check_together(&list)?;
        let finished = self.publish(&list).and_then(|()| self.remove_others(&list));
        copied.removed_files = finished.map_err(|e| self.to.named(e))?;
        Ok(copied)
    }

    /// The copy of a block that is there already, if it is intact and of this very block. All
    /// other files are small or new each time.
    fn kept(&self, file: LiveFile, progress: &mut dyn FnMut(u64)) -> Result<Option<Entry>> {
        let old = self.old.as_ref().and_then(|old| old.entry(file.file));
        let Some(entry) = old.filter(|entry| entry.bytes == file.bytes) else { return Ok(None) };
        if !matches!(file.file, DataFile::Block(_)) {
            return Ok(None);
        }
        let path = file.file.path();
        let ours = data_file::open(self.from.disk.as_ref(), &path);
        let ours = ours.map_err(|e| self.from.named(e))?;
        let Ok(theirs) = self.to.disk.open(&path) else { return Ok(None) };
        let end = file.bytes.saturating_sub(END_BYTES)..file.bytes;
        let same_end = match (ours.range(end.clone()), theirs.range(end)) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            _ => false,
        };
        let is_intact = same_end
            && theirs.length() == file.bytes
            && digest(theirs.as_ref(), &path, progress).is_ok_and(|d| d == entry.digest);
        Ok(is_intact.then_some(entry))
    }

    /// Copies a file, reads the copy back and checks it.
    fn copy(&mut self, file: LiveFile, progress: &mut dyn FnMut(u64)) -> Result<Entry> {
        let (path, temporary) = (file.file.path(), Path::new(COPY));
        let to = self.to.disk.clone();
        let published = self.write_copy(file.file, progress).and_then(|entry| {
            self.check_copy(entry)?;
            self.make_room(entry).map_err(|e| self.to.named(e))?;
            let renamed = to.rename(temporary, &path);
            renamed.map_err(|e| self.to.named(io_error("rename", temporary, e)))?;
            Ok(entry)
        });
        if published.is_err() {
            // A disk that is full must not stay so for nothing.
            let _ = to.remove(temporary);
        }
        published
    }

    fn write_copy(&self, file: DataFile, progress: &mut dyn FnMut(u64)) -> Result<Entry> {
        let (path, temporary) = (file.path(), Path::new(COPY));
        let source = data_file::open(self.from.disk.as_ref(), &path);
        let source = source.map_err(|e| self.from.named(e))?;
        let to = self.to.disk.as_ref();
        remove_if_there(to, temporary).map_err(|e| self.to.named(e))?;
        let mut hasher = Xxh3::new();
        let mut read = Ok(());
        let written = write_new(to, temporary, |append| {
            let mut appended = Ok(());
            read = pieces(source.as_ref(), &path, |bytes| {
                hasher.update(bytes);
                progress(bytes.len() as u64);
                if appended.is_ok() {
                    appended = append(bytes);
                }
                Ok(())
            });
            appended
        });
        written.map_err(|e| self.to.named(e))?;
        read.map_err(|e| self.from.named(e))?;
        Ok(Entry { file, bytes: source.length(), digest: hasher.digest128() })
    }

    /// Reads the copy back: what was read is what was written, and a block's checksums hold.
    fn check_copy(&self, entry: Entry) -> Result<()> {
        let temporary = Path::new(COPY);
        let copy = data_file::open(self.to.disk.as_ref(), temporary);
        let copy = copy.map_err(|e| self.to.named(e))?;
        let found = digest(copy.as_ref(), temporary, &mut |_| ()).map_err(|e| self.to.named(e))?;
        if copy.length() != entry.bytes || found != entry.digest {
            let what = "the copy reads otherwise than it was written".into();
            let path = temporary.to_owned();
            return Err(self.to.named(Error::Corrupt { path, offset: 0, what }));
        }
        if let DataFile::Block(_) = entry.file {
            // The copy is what the source is: damage is the source's.
            let path = entry.file.path();
            let mut check = SectionCheck::open(copy, &path).map_err(|e| self.from.named(e))?;
            while check.step(u64::MAX).map_err(|e| self.from.named(e))?.is_some() {}
        }
        Ok(())
    }

    /// A file of this name may belong to the backup that is there.
    fn make_room(&mut self, new: Entry) -> Result<()> {
        let Some(old) = self.old.as_ref().and_then(|old| old.entry(new.file)) else {
            return Ok(());
        };
        if (old.bytes, old.digest) == (new.bytes, new.digest) {
            // The copy there was damaged.
            return Ok(());
        }
        if let DataFile::Block(_) = new.file {
            return Err(another_database(&new.file.path()));
        }
        // From here on it is no backup until it is the new one.
        if std::mem::replace(&mut self.old_is_dropped, true) {
            return Ok(());
        }
        remove_if_there(self.to.disk.as_ref(), Path::new(LIST_FILE))?;
        sync_dir(self.to.disk.as_ref(), Path::new(""))
    }

    /// What only shows when the files are together: whether the manifest names what is there, and
    /// whether checkpoint and log are whole. The blocks were checked when they were copied.
    fn check_together(&self, list: &BackupList) -> Result<()> {
        let paths = list.entries.iter().map(|entry| entry.file.path());
        let view: Arc<dyn Disk> = Arc::new(View::of_files(self.to.disk.clone(), paths));
        let verified = verify(&view, Depth::Together, &mut |_| ());
        match verified.map_err(|e| self.from.named(e))?.into_damage().next() {
            // The copies are what the source is: damage is the source's.
            Some(damage) => Err(self.from.named(damage)),
            None => Ok(()),
        }
    }

    fn publish(&self, list: &BackupList) -> Result<()> {
        let disk = self.to.disk.as_ref();
        let (temporary, path) = (Path::new(NEW_LIST), Path::new(LIST_FILE));
        for dir in FOLDERS {
            sync_dir(disk, Path::new(dir))?;
        }
        sync_dir(disk, Path::new(""))?;
        remove_if_there(disk, temporary)?;
        write_new(disk, temporary, |append| append(list.encode().as_bytes()))?;
        disk.rename(temporary, path).map_err(|e| io_error("rename", temporary, e))?;
        sync_dir(disk, Path::new(""))
    }

    /// Removes what is called like a file of a database and is none of this backup's.
    fn remove_others(&self, list: &BackupList) -> Result<u64> {
        let kept: HashSet<DataFile> = list.entries.iter().map(|entry| entry.file).collect();
        let mut removed = 0;
        for dir in ["", WAL_DIR, CHECKPOINTS_DIR, BLOCKS_DIR] {
            let dir = Path::new(dir);
            let names = self.to.disk.list(dir).map_err(|e| io_error("list", dir, e))?;
            for path in names.iter().map(|name| dir.join(name)) {
                let file = path.to_str().and_then(DataFile::parse);
                if file.is_some_and(|file| !kept.contains(&file)) {
                    self.to.disk.remove(&path).map_err(|e| io_error("remove", &path, e))?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// A database's manifests only ever count up.
fn refuse_older(files: &[LiveFile], old: Option<&BackupList>) -> Result<()> {
    let generation = |file: DataFile| match file {
        DataFile::Manifest(generation) => Some(generation),
        _ => None,
    };
    let new = files.iter().find_map(|file| generation(file.file));
    let old = old.and_then(|old| old.entries.iter().find_map(|entry| generation(entry.file)));
    match old > new {
        true => Err(another_database(Path::new(LIST_FILE))),
        false => Ok(()),
    }
}

fn another_database(path: &Path) -> Error {
    let what = "the backup there is of another database, or of another history of this one: choose \
                an empty folder";
    Error::Refused { path: path.to_owned(), what: what.into() }
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, e)),
        _ => Ok(()),
    }
}
