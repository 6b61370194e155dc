//! What a set holds: fixed content, written by the writers of today.

use std::path::Path;
use std::sync::Arc;

use crate::backup::list::{BackupList, Entry};
use crate::compaction::rollup::window_of;
use crate::data_file::DataFile;
use crate::deletes::{Delete, Deletes, Hides, Numbers};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::golden::{File, content_of};
use crate::import::Done;
use crate::labels::Labels;
use crate::manifest::{CheckpointId, Manifest};
use crate::matcher::{MatchOp, Matcher};
use crate::metrics::batch::{Exemplar, Metadata, MetricKind};
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::writer::{BlockWriter, Pages, data_order, sort_series};
use crate::metrics::block::{self, BLOCKS_DIR};
use crate::metrics::checkpoint::{self, CHECKPOINTS_DIR, CheckpointWriter};
use crate::metrics::head::Head;
use crate::metrics::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint, Span};
use crate::metrics::rollup::Rollup;
use crate::metrics::sample::{Samples, stale_nan};
use crate::retention::classes::Classes;
use crate::retention::policy::{Policies, Policy, Tier};
use crate::time::{DAY_MS, MINUTE_MS, TimeRange, WINDOW_MS};
use crate::wal::WAL_DIR;
use crate::wal::record::{self, BatchRecord};
use crate::wal::segment::{self, SegmentWriter};

/// A midnight in 2026.
const START_MS: i64 = 20_600 * DAY_MS;
const STEP_MS: i64 = 15_000;

pub(super) fn bytes_of(file: File) -> Vec<u8> {
    match file {
        File::RawBlock => raw_block(Pages::Plain, WINDOW_MS),
        File::MergedBlock => raw_block(Pages::Compressed, DAY_MS),
        File::HistogramBlock => block(meta(DAY_MS), Pages::Compressed, histograms(), &[]),
        File::RollupBlock => rollup_block(),
        File::Checkpoint => checkpoint(),
        File::Segment => segment(),
        File::Manifest => manifest(),
        File::BackupList => backup_list(),
    }
}

/// The same numbers for ever (SplitMix64).
fn random(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn labels(name: &str, instance: &str) -> Labels {
    let pairs = [("__name__", name), ("instance", instance), ("job", "golden")];
    Labels::from_pairs(pairs).unwrap()
}

/// Every `step` through a window or a day, without the samples whose number `skip` likes.
fn column(
    (length_ms, step_ms): (i64, i64),
    skip: impl Fn(i64) -> bool,
    value: impl Fn(i64) -> f64,
) -> Samples {
    let mut samples = Samples::default();
    for number in (0..length_ms / step_ms).filter(|number| !skip(*number)) {
        samples.push(START_MS + number * step_ms, value(number));
    }
    samples
}

/// Floats of every form that columns have, and timestamps of every kind.
fn floats(length_ms: i64) -> Vec<(Labels, Samples)> {
    let shape = (length_ms, length_ms / 240);
    let noise = |number: i64| random(number as u64);
    let small = |number: i64| (noise(number) % 100) as f64;
    let never = |_: i64| false;
    let mut jittered = column(shape, never, |i| small(i) / 10.0);
    jittered.timestamps.iter_mut().zip(1..).for_each(|(time, i)| *time += noise(i) as i64 % 7);
    let mut irregular = column(shape, never, small);
    irregular.timestamps.iter_mut().zip(1..).for_each(|(time, i)| *time += (i * i * 7919) % 12_000);
    let odd = |number: i64| match number % 31 {
        3 => stale_nan(),
        9 => f64::NAN,
        17 => f64::INFINITY,
        23 => -0.0,
        _ => small(number) * 0.5,
    };
    let sum = |number: i64| (0..number).fold(0.0, |sum, i| sum + small(i) * 0.001);
    let one = |name, samples| (labels(name, "a:9100"), samples);
    vec![
        one("constant", column(shape, never, |_| 23.0)),
        one("ramp", column(shape, never, |i| 1.5 + i as f64 * 0.25)),
        one("gauge", column(shape, never, small)),
        (labels("gauge", "b:9100"), column(shape, |i| i % 13 == 5, |i| small(i) * 4096.0)),
        (labels("gauge", "c:9100"), column(shape, |i| (40..90).contains(&i), |i| small(i + 7))),
        one("exceptions", column(shape, never, odd)),
        one("exceptions_of_pages", column(shape, never, |i| odd(i) * 8192.0)),
        one("accumulated", column(shape, never, sum)),
        one("noise", column((length_ms / 6, shape.1), never, |i| f64::from_bits(noise(i) >> 2))),
        one("choices", column(shape, never, |i| (noise(i / 3) % 5) as f64 / 7.3)),
        one("wave", column((length_ms / 6, shape.1), never, |i| (i as f64 / 9.0).sin())),
        one("jittered", jittered),
        one("irregular", irregular),
        one("single", column((1, 1), never, |_| f64::MIN_POSITIVE)),
    ]
}

fn histogram(number: i64) -> Histogram {
    let few = random(number as u64) % 9;
    let grown = number.unsigned_abs() * 3 + few;
    let positive_spans = vec![Span { offset: -2, length: 2 }, Span { offset: 3, length: 1 }];
    let plain = Histogram {
        schema: 3,
        zero_threshold: 1e-128,
        sum: number as f64 * 0.25,
        reset_hint: ResetHint::NotReset,
        positive_spans,
        negative_spans: vec![Span { offset: 0, length: 1 }],
        counts: Counts::Integer {
            count: 4 * grown + 1,
            zero_count: 1,
            positive: vec![grown, grown, grown],
            negative: vec![grown],
        },
        custom_values: Vec::new(),
    };
    match number % 200 {
        0..100 => plain,
        100..150 => Histogram {
            counts: Counts::Float {
                count: grown as f64 * 0.75,
                zero_count: -0.0,
                positive: vec![grown as f64, 0.5, f64::MIN_POSITIVE],
                negative: vec![0.25],
            },
            reset_hint: ResetHint::Gauge,
            ..plain
        },
        199 => Histogram { sum: stale_nan(), ..plain },
        _ => Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            positive_spans: vec![Span { offset: 0, length: 3 }],
            negative_spans: Vec::new(),
            counts: Counts::Integer {
                count: 2 * grown,
                zero_count: 0,
                positive: vec![grown, grown, 0],
                negative: Vec::new(),
            },
            custom_values: vec![0.1, 2.5],
            ..plain
        },
    }
}

/// A series of histograms, and one that is of floats in the middle.
fn histograms() -> Vec<(Labels, Samples)> {
    let (mut only, mut mixed) = (Samples::default(), Samples::default());
    for number in 0..200 {
        let time = START_MS + number * 60_000;
        only.push_histogram(time, histogram(number));
        match (40..60).contains(&number) {
            true => mixed.push(time, number as f64),
            false => mixed.push_histogram(time, histogram(number + 1)),
        }
    }
    vec![(labels("latency", "a:9100"), only), (labels("latency", "b:9100"), mixed)]
}

fn exemplar(number: i64) -> Exemplar {
    let labels = Labels::from_pairs([("trace_id", format!("{number:04x}"))]).unwrap();
    Exemplar { labels, timestamp: START_MS + number, value: number as f64 / 8.0 }
}

fn metadata(family: &str, kind: MetricKind) -> Metadata {
    let help = format!("What {family} is.");
    Metadata { family: family.into(), kind, help, unit: "seconds".into() }
}

fn meta(length_ms: i64) -> BlockMeta {
    BlockMeta {
        id: BlockId(1),
        class: 2,
        policy_generation: 3,
        window: TimeRange::new(START_MS, START_MS + length_ms - 1),
        level: u32::from(length_ms > WINDOW_MS),
        sources: if length_ms > WINDOW_MS { vec![BlockId(7), BlockId(300)] } else { Vec::new() },
        sequence: 1_000_000,
        external_labels: Labels::from_pairs([("replica", "a")]).unwrap(),
        ..BlockMeta::default()
    }
}

fn raw_block(pages: Pages, length_ms: i64) -> Vec<u8> {
    let exemplars = [(0, exemplar(5)), (0, exemplar(9)), (3, exemplar(1))];
    block(meta(length_ms), pages, floats(length_ms), &exemplars)
}

/// On a disk of its own; the file's bytes.
fn written(write: impl FnOnce(Arc<dyn Disk>), path: &Path) -> Vec<u8> {
    let disk = SimDisk::new(1);
    for folder in [BLOCKS_DIR, CHECKPOINTS_DIR, WAL_DIR] {
        disk.create_dir_all(Path::new(folder)).unwrap();
    }
    write(Arc::new(disk.clone()));
    content_of(&disk, path)
}

fn block(
    meta: BlockMeta,
    pages: Pages,
    mut series: Vec<(Labels, Samples)>,
    exemplars: &[(u32, Exemplar)],
) -> Vec<u8> {
    sort_series(&mut series);
    let path = block::path(meta.id);
    let write = |disk| {
        let mut writer = BlockWriter::create(disk, meta, pages).unwrap();
        for place in data_order(series.iter().map(|(labels, _)| labels)) {
            writer.append(&series[place as usize].1).unwrap();
        }
        let labels: Vec<Labels> = series.iter().map(|(labels, _)| labels.clone()).collect();
        let metadata = [metadata("gauge", MetricKind::Gauge), metadata("ramp", MetricKind::Info)];
        writer.finish(&labels, exemplars, &metadata).unwrap();
    };
    written(write, &path)
}

fn rollup_block() -> Vec<u8> {
    let of_raw = BlockMeta { window: window_of(START_MS), tier_ms: 300_000, ..meta(DAY_MS) };
    let mut series: Vec<(Labels, Samples)> = floats(DAY_MS / 2);
    sort_series(&mut series);
    let rolled: Vec<(Labels, Rollup)> = series
        .into_iter()
        .map(|(labels, mut samples)| {
            // Midnight is of the day before.
            samples.timestamps.iter_mut().for_each(|time| *time += 1);
            (labels, Rollup::of(&samples, 300_000))
        })
        .collect();
    let path = block::path(of_raw.id);
    let write = |disk| {
        let mut writer = BlockWriter::create(disk, of_raw, Pages::Compressed).unwrap();
        for place in data_order(rolled.iter().map(|(labels, _)| labels)) {
            writer.append_rollup(&rolled[place as usize].1).unwrap();
        }
        let labels: Vec<Labels> = rolled.iter().map(|(labels, _)| labels.clone()).collect();
        writer.finish(&labels, &[], &[]).unwrap();
    };
    written(write, &path)
}

/// Three series: floats, histograms, and one that has late samples.
fn records() -> Vec<BatchRecord> {
    let series = [labels("a", "x"), labels("b", "x"), labels("c", "y")];
    let mut records = Vec::new();
    for number in 0..150 {
        let time = START_MS + WINDOW_MS + number * STEP_MS;
        let mut record = BatchRecord {
            references: vec![0, 2],
            timestamps: vec![time, if number % 9 == 4 { time - WINDOW_MS } else { time }],
            values: vec![number as f64, (random(number as u64) % 50) as f64 / 4.0],
            ..BatchRecord::default()
        };
        if number == 0 {
            record.definitions = (0..).zip(series.iter().cloned()).collect();
            record.source_offset = Some(77);
            record.metadata = vec![metadata("a", MetricKind::Counter)];
        }
        if number % 3 == 0 {
            record.histograms = vec![(1, time, histogram(number))];
        }
        if number % 50 == 7 {
            record.exemplars = vec![(0, exemplar(number))];
        }
        records.push(record);
    }
    records
}

fn checkpoint() -> Vec<u8> {
    let mut head = Head::new();
    let records = records();
    for (_, labels) in &records[0].definitions {
        head.find_or_create(labels);
    }
    head.set_sealed_before(START_MS + WINDOW_MS);
    records.iter().for_each(|record| {
        head.apply(record, START_MS, Some);
    });
    let write = |disk: Arc<dyn Disk>| {
        let sealed_before = head.sealed_before();
        let mut writer = CheckpointWriter::create(disk.as_ref(), 1, 150, sealed_before).unwrap();
        let ids: Vec<u32> = head.ids().collect();
        writer.series(&checkpoint::copy_series(&head, &ids)).unwrap();
        let exemplars: Vec<_> = head
            .exemplars()
            .map(|(id, exemplar)| (head.index.labels(id), exemplar.clone()))
            .collect();
        let metadata: Vec<_> = head.metadata().values().flatten().cloned().collect();
        writer.finish(&exemplars, &metadata).unwrap();
    };
    written(write, &checkpoint::path(1))
}

fn segment() -> Vec<u8> {
    let write = |disk: Arc<dyn Disk>| {
        let mut writer =
            SegmentWriter::create(disk.as_ref(), 1, 0x0123_4567_89ab_cdef, 40).unwrap();
        let payloads =
            records().into_iter().take(12).map(|one| (record::BATCH, one.encode().payload));
        let payloads = payloads.chain([(record::DELETE, delete().encode())]);
        for (sequence, (kind, payload)) in (43..).zip(payloads) {
            writer.append(sequence, sequence - 2, kind, &payload).unwrap();
        }
        writer.flush().unwrap();
    };
    written(write, &segment::path(1))
}

fn delete() -> Delete {
    let regex = Matcher::new("job", MatchOp::NotRegex, "gold.*|silver").unwrap();
    Delete {
        at_ms: START_MS + DAY_MS,
        range: TimeRange::new(START_MS, i64::MAX),
        selectors: vec![vec![Matcher::equal("__name__", "a"), regex], vec![]],
        hidden: Hides { series: 3, samples: 1 << 40, is_exact: false, blocks: 2, bytes: 300 },
    }
}

/// With every field that there is.
fn manifest() -> Vec<u8> {
    let mut deletes = Deletes::default();
    for (sequence, touched) in [(5, vec![]), (8, vec![BlockId(2), BlockId(300)])] {
        let numbers = Numbers { greatest: BlockId(301), touched, in_the_making: true };
        deletes.push(sequence, &delete(), numbers);
    }
    let tiers =
        [(0, 30), (5 * MINUTE_MS, 180), (60 * MINUTE_MS, 1095)].map(|(resolution, days)| Tier {
            resolution_ms: resolution.unsigned_abs(),
            lifetime_ms: days * DAY_MS,
        });
    let policies = Policies::new(vec![
        Policy { matchers: vec![Matcher::equal("env", "prod")], tiers: tiers.to_vec() },
        Policy { matchers: Vec::new(), tiers: tiers[..2].to_vec() },
    ]);
    let mut classes = Classes::default();
    classes.adopt(&policies, &[]);
    let rolled_up = BlockMeta { tier_ms: 300_000, ..meta(DAY_MS) };
    let imported = TimeRange::new(START_MS - DAY_MS, START_MS - 1);
    let mut manifest = Manifest {
        generation: 0,
        next_number: 302,
        checkpoint: Some(CheckpointId { number: 8, covered: 77 }),
        blocks: vec![BlockMeta { id: BlockId(2), ..meta(WINDOW_MS) }, rolled_up],
        retired: vec![1, 260],
        gaps: vec![TimeRange::new(START_MS, START_MS + 5)],
        dirty: [(1, START_MS), (2, START_MS - DAY_MS)].into(),
        imports: vec![Done { source: "prometheus 0011".into(), window: imported }],
        deletes,
        classes,
    };
    let write = |disk: Arc<dyn Disk>| manifest.store(disk.as_ref()).unwrap();
    written(write, &crate::manifest::path(1))
}

fn backup_list() -> Vec<u8> {
    let files = [DataFile::Manifest(9), DataFile::Block(BlockId(2)), DataFile::Segment(3)];
    let entry = |(file, number)| Entry {
        file,
        bytes: number * 1000,
        digest: u128::MAX / u128::from(number),
    };
    let entries = files.into_iter().zip(1u64..).map(entry).collect();
    let list = BackupList { snapshot: "20260527T000000Z-0123456789abcdef".into(), entries };
    list.encode().into_bytes()
}
