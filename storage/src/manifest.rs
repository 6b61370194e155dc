//! The manifest: which sealed files are live.
//!
//! Every change writes the whole list as a new file `manifest-<generation>`, synced and renamed, so
//! the newest one that is intact is the truth and a change is all or nothing. The generation before
//! stays beside it. A lost manifest is rebuilt from what blocks and checkpoints say of themselves.
//! Layout: docs/format.md, "Manifest".

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::compaction::rollup::{Day, window_of};
use crate::deletes::Deletes;
use crate::disk::Disk;
use crate::encoding::frame;
use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::error::{Error, Result, io_error};
use crate::import::Done;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::retention::classes::Classes;
use crate::time::TimeRange;

const MAGIC: &[u8; 8] = b"ICEMANI\x01";

/// Times in which the node was down are kept back to this many.
const GAPS_MAX: usize = 1000;

/// A checkpoint that is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointId {
    pub(crate) number: u64,
    /// Every record of the log up to this sequence is in the checkpoint or in a block.
    pub(crate) covered: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) generation: u64,
    /// Number of the next block or checkpoint.
    pub(crate) next_number: u64,
    pub(crate) checkpoint: Option<CheckpointId>,
    pub(crate) blocks: Vec<BlockMeta>,
    /// Blocks and checkpoints that were live before; their files may still be there.
    pub(crate) retired: Vec<u64>,
    /// Between the newest stored sample and a start: no sample of these times is missing by fault.
    pub(crate) gaps: Vec<TimeRange>,
    /// Days whose raw samples changed after they were rolled up.
    pub(crate) dirty: BTreeSet<Day>,
    /// By class, the newest time of which retention has dropped raw samples that are rolled up.
    pub(crate) raw_gone: BTreeMap<u32, i64>,
    /// Windows of other databases that are in the blocks: what need not be imported again.
    pub(crate) imports: Vec<Done>,
    /// What deletes still hide in blocks, and the receipts of the last ones.
    pub(crate) deletes: Deletes,
    /// What the classes of the blocks mean.
    pub(crate) classes: Classes,
}

/// Tags of the fields that came to the format later; never reused.
mod tag {
    pub(super) const CLASSES: u64 = 1;
    pub(super) const TOMBSTONES: u64 = 2;
    pub(super) const DIRTY: u64 = 3;
    pub(super) const IMPORTS: u64 = 4;
    pub(super) const RECEIPTS: u64 = 6;
    pub(super) const RAW_GONE: u64 = 7;
}

/// A manifest could not be stored.
#[derive(Debug)]
pub(crate) struct NotStored {
    pub(crate) error: Error,
    /// It may be found at the next start all the same: what it names must stay.
    pub(crate) in_doubt: bool,
}

impl From<NotStored> for Error {
    fn from(not_stored: NotStored) -> Error {
        not_stored.error
    }
}

impl Manifest {
    pub(crate) fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    pub(crate) fn push_gap(&mut self, gap: TimeRange) {
        if self.gaps.len() == GAPS_MAX {
            self.gaps.remove(0);
        }
        self.gaps.push(gap);
    }

    /// Makes this the truth, durably, as the generation after the present one.
    pub(crate) fn store(&mut self, disk: &dyn Disk) -> std::result::Result<(), NotStored> {
        self.generation += 1;
        let temporary = PathBuf::from(format!("tmp-manifest-{:016x}", self.generation));
        let path = path(self.generation);
        let stored = self.store_at(disk, &temporary, &path);
        if stored.is_err() {
            // The next try takes the next generation, so this one can never appear later.
            let _ = disk.remove(&temporary);
        }
        stored?;
        if let Some(old) = self.generation.checked_sub(2) {
            let _ = disk.remove(&self::path(old));
        }
        Ok(())
    }

    fn store_at(
        &self,
        disk: &dyn Disk,
        temporary: &Path,
        path: &Path,
    ) -> std::result::Result<(), NotStored> {
        self.write_at(disk, temporary).map_err(|error| NotStored { error, in_doubt: false })?;
        let root = Path::new("");
        let renamed = disk.rename(temporary, path).map_err(|e| io_error("rename", temporary, e));
        renamed
            .and_then(|()| disk.sync_dir(root).map_err(|e| io_error("sync folder", root, e)))
            .map_err(|error| NotStored { error, in_doubt: true })
    }

    fn write_at(&self, disk: &dyn Disk, temporary: &Path) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        frame::write(&self.encode(), &mut bytes);
        let mut file = disk.create(temporary).map_err(|e| io_error("create", temporary, e))?;
        file.append(&bytes).map_err(|e| io_error("write", temporary, e))?;
        file.sync().map_err(|e| io_error("sync", temporary, e))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::write(&mut out, self.generation);
        varint::write(&mut out, self.next_number);
        varint::write(&mut out, u64::from(self.checkpoint.is_some()));
        if let Some(checkpoint) = self.checkpoint {
            varint::write(&mut out, checkpoint.number);
            varint::write(&mut out, checkpoint.covered);
        }
        varint::write(&mut out, self.blocks.len() as u64);
        for block in &self.blocks {
            let mut bytes = Vec::new();
            block.write(&mut bytes);
            write_bytes(&mut out, &bytes);
        }
        varint::write(&mut out, self.retired.len() as u64);
        self.retired.iter().for_each(|number| varint::write(&mut out, *number));
        varint::write(&mut out, self.gaps.len() as u64);
        for gap in &self.gaps {
            varint::write_signed(&mut out, gap.start_ms);
            varint::write_signed(&mut out, gap.end_ms);
        }
        let classes = match self.classes == Classes::default() {
            true => Vec::new(),
            false => self.classes.encode(),
        };
        let fields = [
            (tag::CLASSES, classes),
            (tag::TOMBSTONES, self.deletes.write_tombstones()),
            (tag::DIRTY, encode_days(self.dirty.iter().copied())),
            (tag::IMPORTS, encode_imports(&self.imports)),
            (tag::RECEIPTS, self.deletes.write_receipts()),
            (
                tag::RAW_GONE,
                encode_days(self.raw_gone.iter().map(|(class, up_to)| (*class, *up_to))),
            ),
        ];
        for (tag, field) in fields.iter().filter(|(_, field)| !field.is_empty()) {
            varint::write(&mut out, *tag);
            write_bytes(&mut out, field);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Decoded> {
        let mut offset = MAGIC.len();
        if bytes.get(..offset)? != MAGIC {
            return None;
        }
        let mut rest = frame::read(bytes, &mut offset).ok()?;
        let generation = varint::read(&mut rest)?;
        let next_number = varint::read(&mut rest)?;
        let checkpoint = match varint::read(&mut rest)? {
            0 => None,
            _ => Some(CheckpointId {
                number: varint::read(&mut rest)?,
                covered: varint::read(&mut rest)?,
            }),
        };
        let count = read_count(&mut rest, 2)?;
        let blocks = (0..count).map(|_| BlockMeta::parse(read_bytes(&mut rest)?));
        let blocks = blocks.collect::<Option<_>>()?;
        let count = read_count(&mut rest, 1)?;
        let retired = (0..count).map(|_| varint::read(&mut rest)).collect::<Option<_>>()?;
        let count = read_count(&mut rest, 2)?;
        let gaps = (0..count).map(|_| {
            let start = varint::read_signed(&mut rest)?;
            Some(TimeRange::new(start, varint::read_signed(&mut rest)?))
        });
        let gaps = gaps.collect::<Option<_>>()?;
        let fixed = Manifest {
            generation,
            next_number,
            checkpoint,
            blocks,
            retired,
            gaps,
            ..Manifest::default()
        };
        let mut manifest = fixed;
        while !rest.is_empty() {
            let tag = varint::read(&mut rest)?;
            let field = read_bytes(&mut rest)?;
            if !manifest.take_field(tag, field)? {
                return Some(Decoded::Newer(tag));
            }
        }
        Some(Decoded::Known(Box::new(manifest)))
    }

    /// Whether the tag of a field is known; `None` if the field does not decode.
    fn take_field(&mut self, tag: u64, field: &[u8]) -> Option<bool> {
        match tag {
            tag::DIRTY => self.dirty = decode_days(field)?.into_iter().collect(),
            tag::RAW_GONE => self.raw_gone = decode_days(field)?.into_iter().collect(),
            tag::CLASSES => self.classes = Classes::decode(field)?,
            tag::IMPORTS => self.imports = decode_imports(field)?,
            tag::TOMBSTONES => self.deletes.read_tombstones(field)?,
            tag::RECEIPTS => self.deletes.read_receipts(field)?,
            _ => return Some(false),
        }
        Some(true)
    }

    pub(crate) fn names(&self, id: BlockId) -> bool {
        self.blocks.iter().any(|meta| meta.id == id)
    }

    /// Notes that raw samples of blocks go of which rollups stay.
    pub(crate) fn note_raw_gone(&mut self, ids: &[BlockId]) {
        let gone = self.blocks.iter().filter(|meta| meta.tier_ms == 0 && ids.contains(&meta.id));
        for meta in gone.filter(|meta| !self.classes.rollups_ms(meta.class).is_empty()) {
            let up_to = self.raw_gone.entry(meta.class).or_insert(i64::MIN);
            *up_to = meta.range.end_ms.max(*up_to);
        }
    }

    /// Days of which a class has nothing any more.
    pub(crate) fn forget_clean_days(&mut self) {
        let blocks = &self.blocks;
        let has_block = |(class, day): &Day| {
            let window = window_of(*day);
            blocks
                .iter()
                .any(|meta| meta.class == *class && meta.range.union(meta.window).overlaps(window))
        };
        self.dirty.retain(has_block);
    }

    /// Stops naming a block.
    pub(crate) fn retire(&mut self, id: BlockId) {
        self.blocks.retain(|block| block.id != id);
        self.retired.push(id.0);
    }
}

/// Classes, each with a time.
fn encode_days(days: impl Iterator<Item = (u32, i64)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (class, at_ms) in days {
        varint::write(&mut out, u64::from(class));
        varint::write_signed(&mut out, at_ms);
    }
    out
}

fn decode_days(mut field: &[u8]) -> Option<Vec<(u32, i64)>> {
    let mut days = Vec::new();
    while !field.is_empty() {
        let class = u32::try_from(varint::read(&mut field)?).ok()?;
        days.push((class, varint::read_signed(&mut field)?));
    }
    Some(days)
}

fn encode_imports(imports: &[Done]) -> Vec<u8> {
    let mut out = Vec::new();
    for done in imports {
        write_bytes(&mut out, done.source.as_bytes());
        varint::write_signed(&mut out, done.window.start_ms);
        varint::write_signed(&mut out, done.window.end_ms);
    }
    out
}

fn decode_imports(mut field: &[u8]) -> Option<Vec<Done>> {
    let mut imports = Vec::new();
    while !field.is_empty() {
        let source = std::str::from_utf8(read_bytes(&mut field)?).ok()?.to_owned();
        let start_ms = varint::read_signed(&mut field)?;
        let window = TimeRange::new(start_ms, varint::read_signed(&mut field)?);
        imports.push(Done { source, window });
    }
    Some(imports)
}

/// The content of an intact manifest.
#[derive(Debug)]
enum Decoded {
    Known(Box<Manifest>),
    /// It has a field that this version does not know.
    Newer(u64),
}

/// What the data directory has in the way of manifests.
#[derive(Debug)]
pub(crate) enum Found {
    /// A directory that never had one.
    None,
    Intact(Box<Manifest>),
    /// There is one, and the newest is not intact. Its path, and the highest generation seen.
    Damaged(PathBuf, u64),
}

pub(crate) fn load(disk: &dyn Disk) -> Result<Found> {
    let root = Path::new("");
    let names = disk.list(root).map_err(|e| io_error("list", root, e))?;
    let newest = names.iter().filter_map(|name| generation_of(name)).max();
    let Some(generation) = newest else { return Ok(Found::None) };
    let path = path(generation);
    let file = disk.open(&path).map_err(|e| io_error("open", &path, e))?;
    let bytes = file.range(0..file.length()).map_err(|e| io_error("read", &path, e))?;
    match Manifest::decode(&bytes) {
        Some(Decoded::Known(manifest)) if manifest.generation == generation => {
            Ok(Found::Intact(manifest))
        }
        Some(Decoded::Newer(tag)) => {
            let what = format!("the manifest has field {tag}, which a newer version wrote");
            Err(Error::Unsupported { path, what })
        }
        _ => Ok(Found::Damaged(path, generation)),
    }
}

pub(crate) fn path(generation: u64) -> PathBuf {
    PathBuf::from(format!("manifest-{generation:016x}"))
}

pub(crate) fn generation_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("manifest-").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::retention::policy::Policies;

    fn classes() -> Classes {
        let mut classes = Classes::default();
        classes.adopt(&Policies::default(), &[]);
        classes
    }

    fn manifest() -> Manifest {
        Manifest {
            next_number: 9,
            checkpoint: Some(CheckpointId { number: 8, covered: 77 }),
            blocks: vec![BlockMeta { id: BlockId(3), ..BlockMeta::default() }],
            retired: vec![1, 2],
            gaps: vec![TimeRange::new(-5, 6)],
            dirty: BTreeSet::from([(0, -5), (3, 7)]),
            raw_gone: BTreeMap::from([(2, -1), (3, 1 << 40)]),
            imports: vec![Done { source: "prometheus 1".into(), window: TimeRange::new(-7, 7) }],
            deletes: crate::deletes::tests::deletes(),
            classes: classes(),
            ..Manifest::default()
        }
    }

    #[test]
    fn the_newest_generation_is_the_truth() {
        let disk = SimDisk::new(1);
        let mut manifest = manifest();
        for _ in 0..3 {
            manifest.store(&disk).unwrap();
        }
        match load(&disk).unwrap() {
            Found::Intact(found) => assert_eq!(*found, manifest),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_field_of_a_newer_version_is_refused_and_nothing_is_touched() {
        let disk = SimDisk::new(1);
        let mut payload = Manifest { generation: 1, ..manifest() }.encode();
        varint::write(&mut payload, 1 << 40);
        write_bytes(&mut payload, b"?");
        let mut bytes = MAGIC.to_vec();
        frame::write(&payload, &mut bytes);
        disk.create(&path(1)).unwrap().append(&bytes).unwrap();
        assert!(matches!(load(&disk), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let disk = SimDisk::new(1);
        let mut manifest = manifest();
        manifest.store(&disk).unwrap();
        let length = disk.open(&path(1)).unwrap().length();
        for offset in 0..length {
            disk.corrupt(&path(1), offset, 0x10);
            assert!(matches!(load(&disk).unwrap(), Found::Damaged(..)), "byte {offset}");
            disk.corrupt(&path(1), offset, 0x10);
        }
    }
}
