//! A file as text: all that its reader finds in it, in words that no later version changes.

use std::fmt::Write;
use std::sync::Arc;

use crate::backup::list::BackupList;
use crate::deletes::{Delete, Hides, Receipt, Tombstone};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::golden::{File, put};
use crate::labels::Labels;
use crate::manifest::{self, Found};
use crate::matcher::Matcher;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::Block;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::page_cache::PageCache;
use crate::metrics::checkpoint;
use crate::metrics::head::Head;
use crate::metrics::rollup::{Component, Components, Rollup};
use crate::metrics::sample::Samples;
use crate::time::TimeRange;
use crate::wal::record::{self, BatchRecord};
use crate::wal::segment::{Next, SegmentReader};

/// So many rows of a series are told; of the others, a digest.
const ROWS_TOLD: usize = 6;

macro_rules! line {
    ($out:expr, $($told:tt)*) => { writeln!($out, $($told)*).expect("a String takes it") };
}

pub(super) fn text_of(file: File, bytes: &[u8]) -> String {
    let disk = SimDisk::new(1);
    put(&disk, &file.path(), bytes);
    let mut out = String::new();
    match file {
        File::RawBlock | File::MergedBlock | File::HistogramBlock | File::RollupBlock => {
            block(&disk, &mut out);
        }
        File::Checkpoint => checkpoint(&disk, &mut out),
        File::Segment => segment(bytes, &mut out),
        File::Manifest => manifest(&disk, &mut out),
        File::BackupList => {
            let list = BackupList::parse(bytes).unwrap();
            line!(out, "snapshot {}", list.snapshot);
            for one in list.entries {
                line!(out, "{} {} {:032x}", one.file.path().display(), one.bytes, one.digest);
            }
        }
    }
    out
}

fn range(range: TimeRange) -> String {
    format!("{}..={}", range.start_ms, range.end_ms)
}

fn row(samples: &Samples, row: usize) -> String {
    let value = samples.values[row];
    let value = match samples.histogram(row) {
        Some(histogram) => histogram.canonical_bytes().iter().fold("histogram ".into(), hex),
        None if value.is_nan() => format!("NaN {:016x}", value.to_bits()),
        None => format!("{value:?}"),
    };
    format!("{} {value}", samples.timestamps[row])
}

fn hex(mut out: String, byte: &u8) -> String {
    write!(out, "{byte:02x}").expect("a String takes it");
    out
}

fn samples(samples: &Samples, what: &str, out: &mut String) {
    let rows: Vec<String> = (0..samples.len()).map(|number| row(samples, number)).collect();
    let digest = xxhash_rust::xxh3::xxh3_128(rows.join("\n").as_bytes());
    line!(out, "  {what}{} rows, digest {digest:032x}", rows.len());
    rows.iter().take(ROWS_TOLD).for_each(|row| line!(out, "    {row}"));
}

fn meta(meta: &BlockMeta, out: &mut String) {
    let sources: Vec<u64> = meta.sources.iter().map(|id| id.0).collect();
    line!(out, "block {} of class {} tier {}", meta.id, meta.class, meta.tier_ms);
    line!(out, "  policies {} level {} sources {sources:?}", meta.policy_generation, meta.level);
    line!(out, "  window {} range {}", range(meta.window), range(meta.range));
    line!(out, "  {} series {} chunks {} samples", meta.series, meta.chunks, meta.samples);
    line!(out, "  sequence {} external {}", meta.sequence, meta.external_labels);
    line!(out, "  {:?} of {} bytes", meta.data_type, meta.bytes);
}

fn described(exemplars: &[(String, Exemplar)], metadata: &[Metadata], out: &mut String) {
    for (series, one) in exemplars {
        line!(out, "exemplar {series} {} {} {:?}", one.labels, one.timestamp, one.value);
    }
    for one in metadata {
        line!(out, "metadata {} {} {:?} {}", one.family, one.kind.name(), one.help, one.unit);
    }
}

fn block(disk: &SimDisk, out: &mut String) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let block = Block::open(disk, BlockId(1), &Arc::new(PageCache::new(1 << 20))).unwrap();
    block.verify().unwrap();
    meta(block.meta(), out);
    let mut labels: Vec<Labels> = Vec::new();
    block.visit_labels(&block.index.all(), |_, of| labels.push(of)).unwrap();
    for (id, of) in (0..).zip(&labels) {
        line!(out, "{of}");
        if block.meta().tier_ms == 0 {
            let mut read = Samples::default();
            block.read(id, TimeRange::ALL, None, &mut read).unwrap();
            samples(&read, "", out);
            continue;
        }
        let mut rollup = Rollup::default();
        block.read_rollup(id, TimeRange::ALL, Components::ALL, &mut rollup).unwrap();
        for component in Component::OF_ROLLUPS {
            samples(rollup.column(component), &format!("{component:?}: "), out);
        }
    }
    let exemplars = block.exemplars().unwrap();
    let named = exemplars.into_iter().map(|(id, one)| (labels[id as usize].to_string(), one));
    described(&named.collect::<Vec<_>>(), &block.metadata().unwrap(), out);
}

fn checkpoint(disk: &SimDisk, out: &mut String) {
    let mut head = Head::new();
    let restored = checkpoint::restore(disk, 1, &mut head).unwrap();
    assert_eq!(restored.damaged_at, [0; 0]);
    line!(out, "covers {}, sealed before {}", restored.covered, head.sealed_before());
    let mut ids: Vec<u32> = head.ids().collect();
    ids.sort_by_key(|id| head.index.labels(*id));
    for id in ids {
        let series = head.series(id);
        line!(out, "{} newest {}", head.index.labels(id), series.newest());
        let mut read = Samples::default();
        series.view(TimeRange::ALL, &head.columns).read(&mut read).unwrap();
        samples(&read, "", out);
    }
    let exemplars: Vec<_> = head
        .exemplars()
        .map(|(id, one)| (head.index.labels(id).to_string(), one.clone()))
        .collect();
    let metadata: Vec<_> = head.metadata().values().flatten().cloned().collect();
    described(&exemplars, &metadata, out);
}

fn segment(bytes: &[u8], out: &mut String) {
    let mut reader = SegmentReader::open(1, bytes.to_vec().into()).unwrap();
    assert!(reader.header_is_intact);
    line!(out, "previous {}", reader.previous_sequence);
    loop {
        let frame = match reader.next() {
            Next::Frame(frame) => frame,
            Next::End => return,
            damage @ Next::Damaged { .. } => panic!("{damage:?}"),
        };
        line!(out, "record {} after {} synced {}", frame.sequence, frame.previous, frame.synced);
        match frame.frame_type {
            record::BATCH => batch(&BatchRecord::decode(&frame.payload).unwrap(), out),
            record::DELETE => delete(&Delete::decode(&frame.payload).unwrap(), out),
            other => panic!("frame of type {other}"),
        }
    }
}

fn batch(record: &BatchRecord, out: &mut String) {
    line!(out, "  source offset {:?}", record.source_offset);
    for (reference, labels) in &record.definitions {
        line!(out, "  {reference} is {labels}");
    }
    for (row, reference) in record.references.iter().enumerate() {
        line!(out, "  {reference} {} {:?}", record.timestamps[row], record.values[row]);
    }
    for (reference, timestamp, histogram) in &record.histograms {
        let mut one = Samples::default();
        one.push_histogram(*timestamp, histogram.clone());
        line!(out, "  {reference} {}", row(&one, 0));
    }
    let named = record.exemplars.iter().map(|(of, one)| (of.to_string(), one.clone()));
    described(&named.collect::<Vec<_>>(), &record.metadata, out);
}

fn selectors(lists: &[Vec<Matcher>]) -> String {
    let list = |matchers: &Vec<Matcher>| {
        let all: Vec<String> = matchers.iter().map(ToString::to_string).collect();
        format!("{{{}}}", all.join(","))
    };
    lists.iter().map(list).collect::<Vec<_>>().join(" ")
}

fn hides(hidden: &Hides) -> String {
    let Hides { series, samples, is_exact, blocks, bytes } = hidden;
    format!("{series} series {samples} samples exact {is_exact} {blocks} blocks {bytes} bytes")
}

fn delete(one: &Delete, out: &mut String) {
    line!(out, "  delete at {} of {} {}", one.at_ms, range(one.range), selectors(&one.selectors));
    line!(out, "    {}", hides(&one.hidden));
}

fn manifest(disk: &SimDisk, out: &mut String) {
    let Found::Intact(found) = manifest::load(disk).unwrap() else { panic!("no manifest") };
    line!(out, "generation {} next {}", found.generation, found.next_number);
    let checkpoint = found.checkpoint.map(|one| (one.number, one.covered));
    line!(out, "checkpoint {checkpoint:?} retired {:?}", found.retired);
    found.blocks.iter().for_each(|one| meta(one, out));
    found.gaps.iter().for_each(|gap| line!(out, "gap {}", range(*gap)));
    found.dirty.iter().for_each(|(class, day)| line!(out, "dirty {class} {day}"));
    for done in &found.imports {
        line!(out, "imported {} of {:?}", range(done.window), done.source);
    }
    line!(out, "last delete {}", found.deletes.last);
    for Tombstone { sequence, at_ms, range: of, selectors: all, greatest_block, blocks } in
        &found.deletes.tombstones
    {
        let blocks: Vec<u64> = blocks.iter().map(|id| id.0).collect();
        line!(out, "tombstone {sequence} at {at_ms} of {} {}", range(*of), selectors(all));
        line!(out, "  blocks {blocks:?} up to {}", greatest_block.0);
    }
    for Receipt {
        id,
        at_ms,
        range: of,
        selectors: all,
        hidden,
        blocks_left,
        freed_ms,
        freed_bytes,
    } in &found.deletes.receipts
    {
        line!(out, "receipt {id} at {at_ms} of {} {}", range(*of), selectors(all));
        line!(out, "  {}", hides(hidden));
        line!(out, "  left {blocks_left} freed {freed_ms:?} {freed_bytes}");
    }
    line!(out, "policies {}", found.classes.generation);
    for class in found.classes.of_policies() {
        let tiers = found.classes.tiers(class).iter().map(ToString::to_string);
        line!(out, "  class {class}: {}", tiers.collect::<Vec<_>>().join(", "));
    }
}

/// A database of which nothing is known but its files.
pub(super) fn text_of_database(files: &[(std::path::PathBuf, Vec<u8>)], now_ms: i64) -> String {
    let disk = SimDisk::new(1);
    files.iter().for_each(|(path, bytes)| put(&disk, path, bytes));
    let db = super::database::open(&disk, now_ms);
    let report = db.recovery();
    assert_eq!((report.lost_records, &report.quarantined[..]), (0, &[][..]));
    assert!(!report.manifest_rebuilt);
    db.verify().unwrap();
    let mut out = String::new();
    let snapshot = db.snapshot();
    for aligned_ms in super::database::RESOLUTIONS_MS {
        let selector = super::database::everything(aligned_ms);
        line!(out, "in steps of {aligned_ms} ms");
        for series in &snapshot.select(&[selector]).unwrap()[0] {
            let mut read = Samples::default();
            snapshot.read(series, &mut read).unwrap();
            line!(out, "{}", series.labels());
            samples(&read, "", &mut out);
            let known = read.start_timestamps.iter().filter(|start| **start != 0).count();
            line!(out, "  {known} start timestamps");
        }
    }
    let exemplars = snapshot.exemplars(&[], TimeRange::ALL).unwrap();
    let named = |(labels, all): (Labels, Vec<Exemplar>)| {
        all.into_iter().map(move |one| (labels.to_string(), one)).collect::<Vec<_>>()
    };
    let exemplars: Vec<_> = exemplars.into_iter().flat_map(named).collect();
    described(&exemplars, &snapshot.metadata(None), &mut out);
    for one in db.deletes() {
        line!(out, "deleted {} {}", range(one.range), selectors(&one.selectors));
    }
    drop(db);
    let found = manifest::load(&disk).unwrap();
    let Found::Intact(found) = found else { panic!("no manifest") };
    let fields = [found.dirty.len(), found.imports.len(), found.deletes.tombstones.len()];
    line!(out, "dirty, imported, tombstones: {fields:?}");
    out
}
