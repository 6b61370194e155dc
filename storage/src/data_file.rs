//! The files that a database is made of, wherever they lie: in a data directory, in a snapshot
//! folder, in a backup.
//!
//! Their names are the only ones that a backup may hold. Layout: docs/format.md, "Data directory".

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, ReadFile};
use crate::error::{Error, Result, io_error};
use crate::manifest::{self, Found, Manifest};
use crate::metrics::block;
use crate::metrics::block::meta::BlockId;
use crate::metrics::checkpoint;
use crate::wal::{WAL_DIR, segment};

/// One of a database's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataFile {
    /// By generation.
    Manifest(u64),
    /// A segment of the log, by number.
    Segment(u64),
    Checkpoint(u64),
    Block(BlockId),
}

impl DataFile {
    /// The file of a path below the root, written exactly as [`DataFile::path`] writes it.
    pub fn parse(path: &str) -> Option<DataFile> {
        let file = match path.split_once('/') {
            None => manifest::generation_of(path).map(DataFile::Manifest),
            Some(("wal", name)) => segment::number_of(name).map(DataFile::Segment),
            Some(("checkpoints", name)) => checkpoint::number_of(name).map(DataFile::Checkpoint),
            Some(("blocks", name)) => block::id_of(name).map(DataFile::Block),
            Some(_) => None,
        };
        // Numbers have one way to be written.
        file.filter(|file| file.path().to_str() == Some(path))
    }

    pub fn path(self) -> PathBuf {
        match self {
            DataFile::Manifest(generation) => manifest::path(generation),
            DataFile::Segment(number) => segment::path(number),
            DataFile::Checkpoint(number) => checkpoint::path(number),
            DataFile::Block(id) => block::path(id),
        }
    }

    /// What kind of file it is, in a word.
    pub fn kind(self) -> &'static str {
        match self {
            DataFile::Manifest(_) => "manifest",
            DataFile::Segment(_) => "log",
            DataFile::Checkpoint(_) => "checkpoint",
            DataFile::Block(_) => "block",
        }
    }
}

/// A file that is live, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFile {
    pub file: DataFile,
    pub bytes: u64,
}

/// What the newest manifest of `disk` names, the manifest and the log: all that another process
/// needs to open the same database. The manifest comes first.
pub fn live_files(disk: &dyn Disk) -> Result<Vec<LiveFile>> {
    let manifest = newest_manifest(disk)?;
    let checkpoint = manifest.checkpoint.map(|one| DataFile::Checkpoint(one.number));
    let blocks = manifest.blocks.iter().map(|block| DataFile::Block(block.id));
    [DataFile::Manifest(manifest.generation)]
        .into_iter()
        .chain(checkpoint)
        .chain(segments(disk)?.into_iter().map(DataFile::Segment))
        .chain(blocks)
        .map(|file| Ok(LiveFile { file, bytes: open(disk, &file.path())?.length() }))
        .collect()
}

/// The newest manifest, which must be intact.
pub(crate) fn newest_manifest(disk: &dyn Disk) -> Result<Manifest> {
    match manifest::load(disk)? {
        Found::Intact(manifest) => Ok(*manifest),
        Found::Damaged(path, _) => {
            Err(Error::Corrupt { path, offset: 0, what: "the manifest is damaged".into() })
        }
        Found::None => Err(Error::Refused {
            path: PathBuf::new(),
            what: "there is no manifest, so this is no database".into(),
        }),
    }
}

/// Numbers of the log's segments, ascending.
pub(crate) fn segments(disk: &dyn Disk) -> Result<Vec<u64>> {
    let dir = Path::new(WAL_DIR);
    let names = match disk.list(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(|e| io_error("list", dir, e))?,
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn ReadFile>> {
    disk.open(path).map_err(|e| io_error("open", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nothing_else_is_one() {
        let id = 0x1234_5678_9abc_def0;
        for file in [
            DataFile::Manifest(id),
            DataFile::Segment(id),
            DataFile::Checkpoint(id),
            DataFile::Block(BlockId(id)),
        ] {
            assert_eq!(DataFile::parse(file.path().to_str().unwrap()), Some(file));
        }
        for wrong in [
            "",
            "lock",
            "../manifest-0000000000000001",
            "/manifest-0000000000000001",
            "manifest-1",
            "manifest-000000000000000A",
            "manifest-+00000000000000a",
            "blocks/../wal/segment-0000000000000001",
            "blocks//block-0000000000000001",
            "blocks/block-0000000000000001/",
            "blocks/./block-0000000000000001",
            "blocks/segment-0000000000000001",
            "blocks\\block-0000000000000001",
            "quarantine/block-0000000000000001",
        ] {
            assert_eq!(DataFile::parse(wrong), None, "{wrong}");
        }
    }
}
