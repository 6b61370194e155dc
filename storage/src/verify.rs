//! Verifying: reading every byte of a database that nobody has open, and saying what is damaged.
//!
//! Nothing is changed and nothing is repaired. A write that was cut off at the end of the log was
//! promised to nobody: it is a note, not damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::Place;
use crate::data_file::{self, DataFile};
use crate::disk::Disk;
use crate::error::{Error, Result, io_error};
use crate::manifest::{self, Found, Manifest};
use crate::metrics::block::check::{SectionCheck, sections};
use crate::metrics::block::meta::BlockId;
use crate::metrics::block::page_cache::PageCache;
use crate::metrics::block::{self, BLOCKS_DIR, Block, layout};
use crate::metrics::checkpoint;
use crate::metrics::head::Head;
use crate::wal::replay;

/// Series are read by id and pages are in another order; this many bytes of them are kept.
const PAGE_CACHE_BYTES: usize = 64 << 20;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Manifest, checkpoint and log; of blocks, whether they are there and open.
    Together,
    /// And all checksums of blocks.
    Checksums,
    /// And every sample is decoded.
    Decoded,
}

/// One file that was looked at.
#[derive(Debug)]
pub struct Checked {
    pub file: DataFile,
    pub bytes: u64,
    /// Of a manifest its blocks, of a checkpoint its series, of a block its samples.
    pub holds: u64,
    /// Each names the file and an offset.
    pub damage: Vec<Error>,
}

/// What verifying came to.
#[derive(Debug, Default)]
pub struct Verified {
    pub files: Vec<Checked>,
    /// Damage that is no single file's.
    pub damage: Vec<Error>,
    /// Records of the log behind the checkpoint.
    pub log_records: u64,
    /// Bytes at the end of the log that were never acknowledged.
    pub torn_tail_bytes: u64,
}

impl Verified {
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.files.iter().all(|file| file.damage.is_empty())
    }

    pub fn into_damage(self) -> impl Iterator<Item = Error> {
        self.damage.into_iter().chain(self.files.into_iter().flat_map(|file| file.damage))
    }

    /// The same with whole paths.
    pub fn in_place(mut self, place: &Place) -> Verified {
        let name = |damage: &mut Vec<Error>| {
            *damage = std::mem::take(damage).into_iter().map(|e| place.named(e)).collect();
        };
        name(&mut self.damage);
        self.files.iter_mut().for_each(|file| name(&mut file.damage));
        self
    }

    pub(crate) fn with(mut self, damage: Vec<Error>) -> Verified {
        self.damage.splice(0..0, damage);
        self
    }
}

/// Reads all files of the database on `disk`; `progress` is told of every byte of the
/// [live files](crate::data_file::live_files). Fails where there is no database, or one of a newer
/// version, and where reading fails; damage is a result.
pub fn verify(
    disk: &Arc<dyn Disk>,
    depth: Depth,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified> {
    let mut verifier = Verifier {
        disk,
        depth,
        pages: Arc::new(PageCache::new(PAGE_CACHE_BYTES)),
        progress,
        verified: Verified::default(),
    };
    let manifest = verifier.manifest()?;
    let covered = match manifest.checkpoint {
        Some(checkpoint) => verifier.checkpoint(checkpoint.number)?,
        None => 0,
    };
    for block in &manifest.blocks {
        verifier.block(block.id)?;
    }
    verifier.log(covered)?;
    Ok(verifier.verified)
}

struct Verifier<'a> {
    disk: &'a Arc<dyn Disk>,
    depth: Depth,
    pages: Arc<PageCache>,
    progress: &'a mut dyn FnMut(u64),
    verified: Verified,
}

impl Verifier<'_> {
    fn push(&mut self, file: DataFile, bytes: u64, holds: u64, damage: Vec<Error>) {
        self.verified.files.push(Checked { file, bytes, holds, damage });
    }

    /// The manifest, or one that names all blocks there are where it is damaged.
    fn manifest(&mut self) -> Result<Manifest> {
        let (path, generation) = match manifest::load(self.disk.as_ref())? {
            Found::Intact(manifest) => {
                let file = DataFile::Manifest(manifest.generation);
                let bytes = data_file::open(self.disk.as_ref(), &file.path())?.length();
                (self.progress)(bytes);
                self.push(file, bytes, manifest.blocks.len() as u64, Vec::new());
                return Ok(*manifest);
            }
            Found::Damaged(path, generation) => (path, generation),
            Found::None => return data_file::newest_manifest(self.disk.as_ref()),
        };
        let bytes = data_file::open(self.disk.as_ref(), &path)?.length();
        (self.progress)(bytes);
        let what = "the manifest is damaged; the next start rebuilds it from the blocks".into();
        let damage = vec![Error::Corrupt { path, offset: 0, what }];
        self.push(DataFile::Manifest(generation), bytes, 0, damage);
        let dir = Path::new(BLOCKS_DIR);
        let names = self.disk.list(dir).map_err(|e| io_error("list", dir, e))?;
        for id in names.iter().filter_map(|name| block::id_of(name)) {
            self.block(id)?;
        }
        Ok(Manifest { generation, ..Manifest::default() })
    }

    /// Reads a checkpoint; what it covers.
    fn checkpoint(&mut self, number: u64) -> Result<u64> {
        let file = DataFile::Checkpoint(number);
        let bytes = match data_file::open(self.disk.as_ref(), &file.path()) {
            Ok(opened) => opened.length(),
            Err(e) if e.is_damage() => {
                self.push(file, 0, 0, vec![e]);
                return Ok(0);
            }
            Err(e) => return Err(e),
        };
        (self.progress)(bytes);
        let mut head = Head::new();
        match checkpoint::restore(self.disk.as_ref(), number, &mut head, checkpoint::forget) {
            Ok(restored) => {
                let damage = restored.damaged_at.iter().map(|offset| Error::Corrupt {
                    path: file.path(),
                    offset: *offset,
                    what: "this frame is damaged or missing".into(),
                });
                let damage = damage.collect();
                self.push(file, bytes, restored.series, damage);
                Ok(restored.covered)
            }
            Err(e) if e.is_damage() => {
                self.push(file, bytes, 0, vec![e]);
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }

    fn block(&mut self, id: BlockId) -> Result<()> {
        let file = DataFile::Block(id);
        let path = file.path();
        let opened = match data_file::open(self.disk.as_ref(), &path) {
            Ok(opened) => opened,
            Err(e) if e.is_damage() => {
                self.push(file, 0, 0, vec![e]);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let bytes = opened.length();
        let mut damage = Vec::new();
        let mut note = |outcome: Result<()>| match outcome {
            Err(e) if e.is_damage() => {
                damage.push(e);
                Ok(())
            }
            other => other,
        };
        let mut seen = 0;
        if self.depth != Depth::Together {
            note(check_unused_bytes(opened.as_ref(), &path))?;
            match SectionCheck::open(opened, &path) {
                Ok(mut check) => loop {
                    match check.step(u64::MAX) {
                        Ok(None) => break,
                        Ok(Some(length)) => {
                            seen += length;
                            (self.progress)(length);
                        }
                        Err(e) => note(Err(e))?,
                    }
                },
                Err(e) => note(Err(e))?,
            }
        }
        (self.progress)(bytes.saturating_sub(seen));
        let mut samples = 0;
        if damage.is_empty() {
            let whole = Block::open(self.disk.clone(), id, &self.pages).and_then(|block| {
                samples = block.meta().samples;
                if self.depth == Depth::Decoded { block.verify() } else { Ok(()) }
            });
            match whole {
                Err(e) if e.is_damage() => damage.push(e),
                other => other?,
            }
        }
        self.push(file, bytes, samples, damage);
        Ok(())
    }

    fn log(&mut self, covered: u64) -> Result<()> {
        let report = replay::replay(self.disk.as_ref(), covered, |_| Ok(()))?;
        for segment in &report.segments {
            (self.progress)(segment.bytes);
            self.push(DataFile::Segment(segment.number), segment.bytes, 0, Vec::new());
        }
        for (path, offset, what) in report.damage {
            let file = path.to_str().and_then(DataFile::parse);
            let error = Error::Corrupt { path, offset, what: what.into() };
            match self.verified.files.iter_mut().find(|checked| Some(checked.file) == file) {
                Some(checked) => checked.damage.push(error),
                None => self.verified.damage.push(error),
            }
        }
        let is_explained = self
            .verified
            .files
            .iter()
            .any(|file| matches!(file.file, DataFile::Segment(_)) && !file.damage.is_empty());
        if report.lost > 0 && !is_explained {
            let what = format!("{} records that must have been there are missing", report.lost);
            let path = PathBuf::from(crate::wal::WAL_DIR);
            self.verified.damage.push(Error::Corrupt { path, offset: 0, what });
        }
        self.verified.log_records = report.records;
        self.verified.torn_tail_bytes = report.torn_tail_bytes;
        Ok(())
    }
}

/// Bytes that no checksum covers: zeros of the header, and what lies between sections, of which
/// there is nothing.
fn check_unused_bytes(file: &dyn crate::disk::ReadFile, path: &Path) -> Result<()> {
    let corrupt = |offset: u64, what: &str| {
        Err(Error::Corrupt { path: path.to_owned(), offset, what: what.to_owned() })
    };
    let mut sections = sections(file, path)?;
    sections.sort_by_key(|section| section.offset);
    let mut end = layout::HEADER_BYTES as u64;
    for section in &sections {
        if section.offset != end {
            return corrupt(end, "bytes that belong to no section");
        }
        end += section.length;
    }
    let zeros = 20..layout::HEADER_BYTES as u64;
    let bytes = file.range(zeros.clone()).map_err(|e| io_error("read", path, e))?;
    match bytes.iter().position(|byte| *byte != 0) {
        Some(at) => corrupt(zeros.start + at as u64, "a byte that must be zero is not"),
        None => Ok(()),
    }
}
