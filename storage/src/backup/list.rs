//! The list of a backup: what belongs to it, how long it is, and its digest.
//!
//! Text, so that other tools can check a backup too; strict, since it may come from anywhere.
//!
//! ```text
//! icecore-backup 1
//! snapshot 20261122T101010Z-5b1f0c1e7d3a9c42
//! 99aa06d3014798d86001c324468d497f 1432 manifest-0000000000000007
//! …
//! end 2 1c291ca3
//! ```

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::data_file::DataFile;
use crate::disk::Disk;
use crate::error::{Error, Result, io_error};

/// The list's file, in the root of a backup.
pub const LIST_FILE: &str = "backup.list";

const TITLE: &str = "icecore-backup ";
const VERSION: u32 = 1;

/// A list of a million files is 80 MB.
const LIST_BYTES_MAX: u64 = 256 << 20;

/// One file of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub file: DataFile,
    pub bytes: u64,
    /// XXH3-128, seed 0.
    pub digest: u128,
}

/// What a backup consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupList {
    /// What was copied: the name of a snapshot folder.
    pub snapshot: String,
    pub entries: Vec<Entry>,
}

impl BackupList {
    /// The text of the list.
    pub fn encode(&self) -> String {
        let mut text = format!("{TITLE}{VERSION}\nsnapshot {}\n", self.snapshot);
        for Entry { file, bytes, digest } in &self.entries {
            let path = file.path();
            writeln!(text, "{digest:032x} {bytes} {}", path.display()).expect("a String takes it");
        }
        let crc = crc32fast::hash(text.as_bytes());
        writeln!(text, "end {} {crc:08x}", self.entries.len()).expect("a String takes it");
        text
    }

    /// `None` if there is no list, so no backup.
    pub fn load(disk: &dyn Disk) -> Result<Option<BackupList>> {
        let path = Path::new(LIST_FILE);
        let file = match disk.open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| io_error("open", path, e))?,
        };
        if file.length() > LIST_BYTES_MAX {
            return Err(corrupt(0, "it is too long for a list"));
        }
        let bytes = file.range(0..file.length()).map_err(|e| io_error("read", path, e))?;
        BackupList::parse(&bytes).map(Some)
    }

    /// Reads all of `bytes`. Whatever they are, the paths are those of a database's files, none
    /// twice, and one of them is a manifest.
    pub fn parse(bytes: &[u8]) -> Result<BackupList> {
        let text =
            std::str::from_utf8(bytes).map_err(|e| corrupt(e.valid_up_to(), "it is not text"))?;
        let version = text.lines().next().and_then(|line| line.strip_prefix(TITLE));
        let version: u32 = version
            .and_then(|version| version.parse().ok())
            .ok_or_else(|| corrupt(0, "it does not begin like the list of a backup"))?;
        if version != VERSION {
            let what = format!("the backup is of version {version}; this program knows {VERSION}");
            return Err(Error::Unsupported { path: PathBuf::from(LIST_FILE), what });
        }
        let end_at = text
            .strip_suffix('\n')
            .and_then(|text| text.rfind('\n'))
            .ok_or_else(|| corrupt(text.len(), "its last line is missing"))?
            + 1;
        let (body, end) = text.split_at(end_at);
        let list = BackupList::parse_body(body)?;
        let crc = crc32fast::hash(body.as_bytes());
        if end != format!("end {} {crc:08x}\n", list.entries.len()) {
            return Err(corrupt(end_at, "its last line does not fit the rest"));
        }
        Ok(list)
    }

    fn parse_body(body: &str) -> Result<BackupList> {
        let mut lines = body.split_inclusive('\n').scan(0, |offset, line| {
            *offset += line.len();
            Some((*offset - line.len(), line.trim_end_matches('\n')))
        });
        lines.next();
        let (offset, line) = lines.next().unwrap_or((body.len(), ""));
        let snapshot = line
            .strip_prefix("snapshot ")
            .ok_or_else(|| corrupt(offset, "the snapshot's name is missing"))?;
        let mut list = BackupList { snapshot: snapshot.to_owned(), entries: Vec::new() };
        let mut seen = HashSet::new();
        let mut manifests = 0;
        for (offset, line) in lines {
            let entry = parse_entry(line).ok_or_else(|| {
                let what = format!("{line:?} is not a digest, a length and a file of a database");
                corrupt(offset, &what)
            })?;
            if !seen.insert(entry.file) {
                return Err(corrupt(offset, "a file is listed twice"));
            }
            manifests += usize::from(matches!(entry.file, DataFile::Manifest(_)));
            list.entries.push(entry);
        }
        match manifests {
            1 => Ok(list),
            _ => Err(corrupt(0, "it does not list one manifest")),
        }
    }

    pub(crate) fn entry(&self, file: DataFile) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.file == file).copied()
    }
}

fn parse_entry(line: &str) -> Option<Entry> {
    let mut fields = line.split(' ');
    let (digest, bytes, path) = (fields.next()?, fields.next()?, fields.next()?);
    let plain = |text: &str, of: fn(&u8) -> bool| text.as_bytes().iter().all(of);
    let fits = fields.next().is_none()
        && digest.len() == 32
        && plain(digest, u8::is_ascii_hexdigit)
        && plain(bytes, u8::is_ascii_digit);
    let entry = Entry {
        file: DataFile::parse(path)?,
        bytes: bytes.parse().ok()?,
        digest: u128::from_str_radix(digest, 16).ok()?,
    };
    fits.then_some(entry)
}

fn corrupt(offset: usize, what: &str) -> Error {
    let path = PathBuf::from(LIST_FILE);
    Error::Corrupt { path, offset: offset as u64, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::block::meta::BlockId;

    fn list() -> BackupList {
        BackupList {
            snapshot: "20261122T101010Z-5b1f0c1e7d3a9c42".into(),
            entries: vec![
                Entry { file: DataFile::Manifest(7), bytes: 1432, digest: u128::MAX / 7 },
                Entry { file: DataFile::Block(BlockId(1)), bytes: u64::MAX, digest: 1 },
            ],
        }
    }

    /// A list of these lines with the right last line.
    fn sealed(lines: &str, entries: usize) -> Vec<u8> {
        format!("{lines}end {entries} {:08x}\n", crc32fast::hash(lines.as_bytes())).into_bytes()
    }

    /// The text is documented, and other programs read it.
    #[test]
    fn the_format_stays() {
        let text = "icecore-backup 1\n\
                    snapshot 20261122T101010Z-5b1f0c1e7d3a9c42\n\
                    24924924924924924924924924924924 1432 manifest-0000000000000007\n\
                    00000000000000000000000000000001 18446744073709551615 blocks/block-0000000000000001\n\
                    end 2 27d358eb\n";
        assert_eq!(list().encode(), text);
    }

    #[test]
    fn lists_round_trip() {
        assert_eq!(BackupList::parse(list().encode().as_bytes()).unwrap(), list());
    }

    #[test]
    fn every_flipped_or_missing_byte_is_noticed() {
        let mut bytes = list().encode().into_bytes();
        for at in 0..bytes.len() {
            assert!(BackupList::parse(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(BackupList::parse(&bytes).is_err(), "byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn a_list_whose_checksum_is_right_can_still_be_refused() {
        let digest = "00000000000000000000000000000000";
        let manifest = format!("{digest} 5 manifest-0000000000000001\n");
        let start = "icecore-backup 1\nsnapshot s\n";
        assert!(BackupList::parse(&sealed(&format!("{start}{manifest}"), 1)).is_ok());
        for (line, count) in [
            (format!("{digest} 5 ../../etc/passwd\n"), 2),
            (format!("{digest} 5 /etc/passwd\n"), 2),
            (format!("{digest} 5 blocks/../lock\n"), 2),
            (format!("{digest} 5 lock\n"), 2),
            (format!("{digest} -5 blocks/block-0000000000000001\n"), 2),
            (format!("{digest} 99999999999999999999 blocks/block-0000000000000001\n"), 2),
            (format!("{} 5 blocks/block-0000000000000001\n", &digest[1..]), 2),
            (format!("{digest} 5 blocks/block-0000000000000001 x\n"), 2),
            (manifest.clone(), 2),
            (format!("{digest} 5 manifest-0000000000000002\n"), 2),
            ("\n".into(), 2),
            (String::new(), 2),
        ] {
            let parsed = BackupList::parse(&sealed(&format!("{start}{manifest}{line}"), count));
            assert!(matches!(parsed, Err(Error::Corrupt { .. })), "{line:?}: {parsed:?}");
        }
        assert!(BackupList::parse(&sealed(start, 0)).is_err(), "without a manifest");
        let newer = sealed(&format!("icecore-backup 2\nsnapshot s\n{manifest}"), 1);
        assert!(matches!(BackupList::parse(&newer), Err(Error::Unsupported { .. })));
    }
}
