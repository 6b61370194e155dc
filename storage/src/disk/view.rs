//! A part of a disk as a disk of its own: a folder, and of that perhaps only some files.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, ReadFile, WriteFile, names_of};

/// What is below a folder of another disk.
#[derive(Clone, Debug)]
pub struct View {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// If given, other files are not seen.
    only: Option<BTreeSet<PathBuf>>,
}

impl View {
    /// All of a folder.
    pub fn of_folder(disk: Arc<dyn Disk>, folder: &Path) -> View {
        View { disk, folder: folder.to_owned(), only: None }
    }

    /// Of a whole disk, these files.
    pub fn of_files(disk: Arc<dyn Disk>, files: impl IntoIterator<Item = PathBuf>) -> View {
        View { disk, folder: PathBuf::new(), only: Some(files.into_iter().collect()) }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        names_of(path)?;
        Ok(self.folder.join(path))
    }
}

impl Disk for View {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(&self.resolve(path)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = self.disk.list(&self.resolve(dir)?)?;
        if let Some(only) = &self.only {
            names.retain(|name| only.iter().any(|path| path.starts_with(dir.join(name))));
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.disk.create(&self.resolve(path)?)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        if self.only.as_ref().is_some_and(|only| !only.contains(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.disk.open(&self.resolve(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(&self.resolve(from)?, &self.resolve(to)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(&self.resolve(from)?, &self.resolve(to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(&self.resolve(path)?)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(&self.resolve(dir)?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(&self.resolve(dir)?)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.disk.lock(&self.resolve(path)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::contract;
    use crate::disk::sim::SimDisk;

    #[test]
    fn a_folder_keeps_the_contract() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        disk.create_dir_all(Path::new("a/b")).unwrap();
        contract::check(&View::of_folder(disk, Path::new("a/b")));
    }

    #[test]
    fn files_that_are_not_listed_are_not_there() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        disk.create_dir_all(Path::new("a")).unwrap();
        for name in ["a/b", "a/c", "d"] {
            disk.create(Path::new(name)).unwrap();
        }
        let view = View::of_files(disk, [PathBuf::from("a/b")]);
        assert_eq!(view.list(Path::new("")).unwrap(), ["a"]);
        assert_eq!(view.list(Path::new("a")).unwrap(), ["b"]);
        assert!(view.open(Path::new("a/b")).is_ok());
        assert_eq!(view.open(Path::new("a/c")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
