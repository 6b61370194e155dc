//! The real disk: files below a root directory.
//!
//! On Linux an opened file is mapped, and the ranges handed out are slices of the mapping: nothing
//! is copied, and a range keeps its mapping (hence the file's bytes) alive after the file is
//! removed. A fault in a mapping, because the file was cut short or a sector cannot be read, would
//! kill the process; `sigbus` puts a page of zeros there instead, which the caller's checksum
//! then tells. A file that cannot be guarded, and every file elsewhere than on Linux, is read into
//! memory range by range.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Disk, ReadFile, WriteFile, indexes, names_of};

/// Files below a root directory, which must exist before anything else is asked for
/// (`create_dir_all` of the empty path makes it).
#[derive(Debug)]
pub struct OsDisk {
    root: PathBuf,
    follows_links: bool,
}

impl OsDisk {
    pub fn new(root: PathBuf) -> OsDisk {
        OsDisk { root, follows_links: true }
    }

    /// A folder that came from somebody else: symbolic links in it, and whatever is neither file
    /// nor folder, are not opened.
    pub fn foreign(root: PathBuf) -> OsDisk {
        OsDisk { root, follows_links: false }
    }

    fn check_kind(&self, path: &Path) -> io::Result<()> {
        let mut full = self.root.clone();
        for name in names_of(path)? {
            full.push(name);
            let kind = fs::symlink_metadata(&full)?.file_type();
            if !kind.is_dir() && !kind.is_file() {
                let text = if kind.is_symlink() { "a symbolic link" } else { "not a file" };
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        Ok(())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut full = self.root.clone();
        full.extend(names_of(path)?);
        Ok(full)
    }
}

/// Pages of mapped files that could not be read and were replaced by zeros, since the process
/// started. A reader that decodes without copying may compare it before and after.
pub fn unreadable_pages() -> u64 {
    #[cfg(target_os = "linux")]
    return super::sigbus::zeroed_pages();
    #[cfg(not(target_os = "linux"))]
    return 0;
}

impl Disk for OsDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(self.resolve(path)?)
    }

    /// Names that are not UTF-8 are left out: none of ours is such.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.resolve(dir)?)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(self.resolve(path)?)?;
        Ok(Box::new(OsWriteFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        if !self.follows_links {
            self.check_kind(path)?;
        }
        let file = File::open(self.resolve(path)?)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "not a file"));
        }
        let length = metadata.len();
        Ok(Arc::new(OsReadFile { length, content: Content::of(file, length) }))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that may rename")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(self.resolve(from)?, self.resolve(to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.resolve(path)?)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(self.resolve(dir)?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(self.resolve(dir)?)?.sync_all()
    }

    /// An exclusive `flock`, which ends with the process; the file holds its number for people.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn std::fmt::Debug + Send + Sync>> {
        // Truncated only once the lock is ours: until then the number in it is another's.
        let path = self.resolve(path)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::from(io::ErrorKind::WouldBlock),
            TryLockError::Error(error) => error,
        })?;
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Box::new(file))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        system::free_bytes(&self.root)
    }
}

#[derive(Debug)]
struct OsWriteFile {
    file: File,
}

impl WriteFile for OsWriteFile {
    /// `write_all` goes on after a short or an interrupted write.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        system::preallocate(&self.file, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[derive(Debug)]
struct OsReadFile {
    length: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// The whole file, mapped.
    Mapped(Bytes),
    /// Read when asked for.
    Unmapped(File),
}

impl Content {
    #[cfg(target_os = "linux")]
    fn of(file: File, length: u64) -> Content {
        if length == 0 {
            return Content::Mapped(Bytes::new());
        }
        match super::sigbus::GuardedMapping::new(&file) {
            // The file may have been cut since its length was asked for.
            Ok(Some(mapping)) if mapping.as_ref().len() as u64 == length => {
                Content::Mapped(Bytes::from_owner(mapping))
            }
            // Out of guard slots, of address space or of mappings: reading still works.
            Ok(_) | Err(_) => Content::Unmapped(file),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn of(file: File, _length: u64) -> Content {
        Content::Unmapped(file)
    }
}

impl ReadFile for OsReadFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let indexes = indexes(&range, self.length)?;
        match &self.content {
            Content::Mapped(bytes) => Ok(bytes.slice(indexes)),
            Content::Unmapped(file) => read_exact_at(file, range.start, indexes.len()),
        }
    }
}

fn read_exact_at(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(Bytes::from(bytes))
}

/// What the standard library has no words for.
#[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "fallocate and statvfs"))]
mod system {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    #[cfg(target_os = "linux")]
    pub(super) fn preallocate(file: &File, length: u64) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let length = libc::off_t::try_from(length)
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if length == 0 {
            return Ok(());
        }
        loop {
            // SAFETY: the descriptor is open for as long as `file` is borrowed; the call touches
            // no memory of ours.
            let status =
                unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, length) };
            if status == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(()),
                _ => return Err(error),
            }
        }
    }

    #[cfg(target_os = "linux")]
    pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
        use std::ffi::CString;
        use std::mem::MaybeUninit;
        use std::os::unix::ffi::OsStrExt;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut stats = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` ends with a zero byte and `stats` has room for the answer.
        if unsafe { libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so it has filled `stats`.
        let stats = unsafe { stats.assume_init() };
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }

    /// Elsewhere nothing is reserved.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn preallocate(_file: &File, _length: u64) -> io::Result<()> {
        Ok(())
    }

    /// Elsewhere the disk is taken to have room until a write fails.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
        std::fs::metadata(path).map(|_| u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::contract;

    fn disk() -> (tempfile::TempDir, OsDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(dir.path().join("data"));
        disk.create_dir_all(Path::new("")).unwrap();
        (dir, disk)
    }

    #[test]
    fn keeps_the_contract() {
        contract::check(&disk().1);
    }

    #[test]
    fn a_foreign_folder_leads_nowhere_else() {
        let (dir, disk) = disk();
        disk.create(Path::new("file")).unwrap().append(b"x").unwrap();
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        fs::write(dir.path().join("elsewhere/secret"), b"x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), disk.root.join("folder")).unwrap();
        std::os::unix::fs::symlink(disk.root.join("file"), disk.root.join("link")).unwrap();
        let foreign = OsDisk::foreign(disk.root.clone());
        assert!(foreign.open(Path::new("file")).is_ok());
        for path in ["link", "folder/secret"].map(Path::new) {
            assert!(disk.open(path).is_ok());
            assert_eq!(foreign.open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_lock_file_holds_the_process_number() {
        let (_dir, disk) = disk();
        let _lock = disk.lock(Path::new("lock")).unwrap();
        let text = fs::read_to_string(disk.root.join("lock")).unwrap();
        assert_eq!(text.trim().parse::<u32>().unwrap(), std::process::id());
    }

    #[test]
    fn reserved_room_is_not_read() {
        let (_dir, disk) = disk();
        let mut file = disk.create(Path::new("wal")).unwrap();
        file.preallocate(1 << 20).unwrap();
        file.append(b"abc").unwrap();
        assert_eq!(disk.open(Path::new("wal")).unwrap().length(), 3);
    }

    #[test]
    fn an_unmapped_file_reads_the_same() {
        let (_dir, disk) = disk();
        disk.create(Path::new("f")).unwrap().append(b"0123456789").unwrap();
        let file = File::open(disk.root.join("f")).unwrap();
        let file = OsReadFile { length: 10, content: Content::Unmapped(file) };
        assert_eq!(&file.range(3..6).unwrap()[..], b"345");
        assert_eq!(file.range(3..11).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
