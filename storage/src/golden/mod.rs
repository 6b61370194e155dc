//! Golden files: what was once written is read for ever.
//!
//! A **set** is a folder `storage/tests/golden/<number>` with a small file of each format and, beside
//! it, a text of all that its reader found in it; and the files of a whole database. Sets are never
//! changed: every later version must read the same from them.
//!
//! Of the newest set the files are also what the writers write today, byte for byte. That may change
//! where a format gets something new, where an encoder finds a smaller form among those that readers
//! know, and with another version of zstd; never by chance. Then a new set is written next to the
//! others, reviewed and checked in, with [`NEWEST`] set to it:
//!
//! ```text
//! ICECORE_GOLDEN_SET=2 cargo test -p icecore-storage --lib golden
//! ```

mod content;
mod database;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::disk::Disk;
use crate::disk::sim::SimDisk;

/// The set that the present version writes.
const NEWEST: u32 = 2;

/// Names the set that is to be written.
const VARIABLE: &str = "ICECORE_GOLDEN_SET";

/// What a set has a file of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    RawBlock,
    MergedBlock,
    HistogramBlock,
    RollupBlock,
    Checkpoint,
    Segment,
    Manifest,
    BackupList,
}

impl File {
    const ALL: [File; 8] = [
        File::RawBlock,
        File::MergedBlock,
        File::HistogramBlock,
        File::RollupBlock,
        File::Checkpoint,
        File::Segment,
        File::Manifest,
        File::BackupList,
    ];

    /// In the set's folder.
    fn name(self) -> &'static str {
        match self {
            File::RawBlock => "block-raw",
            File::MergedBlock => "block-merged",
            File::HistogramBlock => "block-histograms",
            File::RollupBlock => "block-rollup",
            File::Checkpoint => "checkpoint",
            File::Segment => "segment",
            File::Manifest => "manifest",
            File::BackupList => "backup-list",
        }
    }

    /// Where its reader looks for it.
    fn path(self) -> PathBuf {
        use crate::metrics::block::{self, meta::BlockId};
        match self {
            File::RawBlock | File::MergedBlock | File::HistogramBlock | File::RollupBlock => {
                block::path(BlockId(1))
            }
            File::Checkpoint => crate::metrics::checkpoint::path(1),
            File::Segment => crate::wal::segment::path(1),
            File::Manifest => crate::manifest::path(1),
            File::BackupList => crate::backup::list::LIST_FILE.into(),
        }
    }
}

/// Writes a file with its folders.
fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    disk.create_dir_all(path.parent().unwrap()).unwrap();
    disk.create(path).unwrap().append(bytes).unwrap();
}

fn content_of(disk: &SimDisk, path: &Path) -> Vec<u8> {
    disk.content(path)
}

/// The folder of a set; the first call writes a new one if that is asked for.
fn folder(set: u32) -> PathBuf {
    static ASKED_FOR: Once = Once::new();
    ASKED_FOR.call_once(|| {
        if let Ok(number) = std::env::var(VARIABLE) {
            let number: u32 = number.parse().expect("the number of a set");
            assert_eq!(number, NEWEST, "NEWEST is to be set to the set that is written");
            write_set(number);
        }
    });
    path_of(set)
}

fn path_of(set: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(set.to_string())
}

/// The folder of the files of a whole database, and the text of what it holds.
const DATABASE: &str = "database";
const DATABASE_TEXT: &str = "database.txt";

fn text_name(file: File) -> String {
    format!("{}.txt", file.name())
}

/// All files below a folder, by their paths in it.
fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            found.push((path.strip_prefix(folder).unwrap().to_owned(), bytes));
        }
    }
    found.sort();
    found
}

/// Writes a whole set; never over one that is there.
fn write_set(set: u32) {
    let folder = path_of(set);
    assert!(!folder.exists(), "set {set} is there already, and sets are never changed");
    fs::create_dir_all(&folder).unwrap();
    for file in File::ALL {
        let bytes = content::bytes_of(file);
        fs::write(folder.join(file.name()), &bytes).unwrap();
        fs::write(folder.join(text_name(file)), text::text_of(file, &bytes)).unwrap();
    }
    let files = database::files();
    for (path, bytes) in &files {
        let path = folder.join(DATABASE).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let text = text::text_of_database(&files, database::END_MS);
    fs::write(folder.join(DATABASE_TEXT), text).unwrap();
}

fn same_text(set: u32, name: &str, found: &str, expected: &str) {
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert_eq!(differs, None, "{name} of set {set} reads differently");
    assert_eq!(found.lines().count(), expected.lines().count(), "{name} of set {set}: lines");
}

#[test]
fn what_any_version_wrote_is_read_as_it_was_then() {
    for set in 1..=NEWEST {
        for file in File::ALL {
            let bytes = fs::read(folder(set).join(file.name())).unwrap();
            let expected = fs::read_to_string(folder(set).join(text_name(file))).unwrap();
            same_text(set, file.name(), &text::text_of(file, &bytes), &expected);
        }
    }
}

#[test]
fn a_database_of_any_version_opens_with_all_it_had() {
    for set in 1..=NEWEST {
        let files = files_below(&folder(set).join(DATABASE));
        let expected = fs::read_to_string(folder(set).join(DATABASE_TEXT)).unwrap();
        same_text(set, DATABASE, &text::text_of_database(&files, database::END_MS), &expected);
    }
}

#[test]
fn the_newest_set_is_what_is_written_today() {
    for file in File::ALL {
        let golden = fs::read(folder(NEWEST).join(file.name())).unwrap();
        let written = content::bytes_of(file);
        let differs = golden.iter().zip(&written).position(|(old, new)| old != new);
        assert!(
            golden == written,
            "{} is written differently ({} bytes, then {}; first at {differs:?}): if that is \
             meant, see the head of storage/src/golden/mod.rs",
            file.name(),
            written.len(),
            golden.len(),
        );
    }
}

#[test]
fn what_is_written_reads_as_its_text_says_and_sets_are_small() {
    for file in File::ALL {
        let bytes = content::bytes_of(file);
        let expected = fs::read_to_string(folder(NEWEST).join(text_name(file))).unwrap();
        same_text(NEWEST, file.name(), &text::text_of(file, &bytes), &expected);
    }
    let bytes: usize = files_below(&folder(NEWEST)).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes < 200_000, "{bytes}");
}

#[test]
fn a_set_has_columns_of_every_form() {
    let mut forms = std::collections::BTreeSet::new();
    for file in [File::RawBlock, File::MergedBlock, File::RollupBlock] {
        let disk = SimDisk::new(1);
        put(&disk, &file.path(), &content::bytes_of(file));
        let disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(disk);
        let facts = crate::inspect::block(&disk, &file.path()).unwrap();
        forms.extend(facts.chunks.float_forms.into_keys());
        assert!(facts.chunks.with_missing_slots > 0 || file == File::RollupBlock);
    }
    let all = [
        "bits",
        "constant",
        "decimal",
        "decimal, exceptions",
        "decimal, factor",
        "decimal, factor, exceptions",
        "ramp",
        "sum",
        "xor",
    ];
    assert_eq!(forms.into_iter().collect::<Vec<_>>(), all);
}
