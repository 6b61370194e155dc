//! A small database of all kinds of files at once: sealed, merged and rolled up, with deletes whose
//! blocks are not rewritten, an import, a checkpoint, and a log that only a replay reads.

use std::path::PathBuf;
use std::sync::Arc;

use crate::Db;
use crate::db::{Options, Progress};
use crate::disk::sim::SimDisk;
use crate::golden::content_of;
use crate::import::Import;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::metrics::batch::{
    Batch, Exemplar, ExemplarRow, HistogramRow, Metadata, MetricKind, StartTimestampRow,
};
use crate::metrics::histogram::{Counts, Histogram, ResetHint, Span};
use crate::retention::policy::{Policies, Policy, Tier};
use crate::snapshot::Selector;
use crate::time::{DAY_MS, MINUTE_MS, TimeRange, WINDOW_MS};

const START_MS: i64 = 20_600 * DAY_MS;
const STEP_MS: i64 = 10 * MINUTE_MS;
/// When it was left.
pub(super) const END_MS: i64 = START_MS + 2 * DAY_MS + 5 * WINDOW_MS;

/// Raw samples, and what rollups make of them where they are read.
pub(super) const RESOLUTIONS_MS: [i64; 2] = [0, 60 * MINUTE_MS];

pub(super) fn everything(aligned_ms: i64) -> Selector {
    Selector { matchers: Vec::new(), range: TimeRange::ALL, aligned_ms }
}

pub(super) fn open(disk: &SimDisk, now_ms: i64) -> Db {
    let tier = |resolution_ms: i64, days: i64| Tier {
        resolution_ms: resolution_ms.unsigned_abs(),
        lifetime_ms: days * DAY_MS,
    };
    let short = vec![tier(0, 40), tier(30 * MINUTE_MS, 90)];
    let long = vec![tier(0, 60), tier(60 * MINUTE_MS, 900)];
    let policies = Policies::new(vec![
        Policy { matchers: vec![Matcher::equal("job", "short")], tiers: short },
        Policy { matchers: Vec::new(), tiers: long },
    ]);
    let options = Options { policies, seed: 7, ..Options::default() };
    Db::open(Arc::new(disk.clone()), options, now_ms).unwrap()
}

fn labels(name: &str, job: &str) -> Labels {
    Labels::from_pairs([("__name__", name), ("job", job)]).unwrap()
}

fn histogram(number: u64) -> Histogram {
    Histogram {
        schema: 2,
        zero_threshold: 0.001,
        sum: number as f64,
        reset_hint: ResetHint::Unknown,
        positive_spans: vec![Span { offset: 1, length: 2 }],
        negative_spans: Vec::new(),
        counts: Counts::Integer {
            count: 2 * number,
            zero_count: 0,
            positive: vec![number, number],
            negative: Vec::new(),
        },
        custom_values: Vec::new(),
    }
}

/// A request of the present, with all kinds of rows.
fn request(number: i64) -> Batch {
    let now_ms = START_MS + number * STEP_MS;
    let mut batch = Batch::with_canonical_keys();
    let floats = [("up", "short"), ("up", "long"), ("requests", "long")];
    for (place, (name, job)) in floats.into_iter().enumerate() {
        batch.push_series(&labels(name, job));
        batch.timestamps.push(now_ms);
        batch.values.push((number * (place as i64 + 1) % 37) as f64 / 4.0);
    }
    batch.push_series(&labels("latency", "long"));
    let row = |histogram| HistogramRow { series: 3, timestamp: now_ms, histogram };
    batch.histograms.push(row(histogram(number.unsigned_abs())));
    let start_timestamp = START_MS + number / 50;
    batch.start_timestamps.push(StartTimestampRow {
        series: 2,
        timestamp: now_ms,
        start_timestamp,
    });
    if number % 40 == 3 {
        let labels = Labels::from_pairs([("trace_id", number.to_string())]).unwrap();
        let exemplar = Exemplar { labels, timestamp: now_ms, value: 0.5 };
        batch.exemplars.push(ExemplarRow { series: 2, exemplar });
        let (kind, help) = (MetricKind::Counter, format!("As of {number}."));
        let (family, unit) = ("requests".to_owned(), String::new());
        batch.metadata.push(Metadata { family, kind, help, unit });
    }
    batch
}

fn maintain(db: &Db, now_ms: i64) {
    while db.maintain(now_ms).unwrap() != Progress::Idle {}
}

/// Its files, as a kill left them.
pub(super) fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let disk = SimDisk::new(1);
    let db = open(&disk, START_MS);
    let window = TimeRange::new(START_MS - DAY_MS, START_MS - 1);
    let import = Import {
        source: "golden",
        window,
        series: vec![labels("old", "long")],
        exemplars: Vec::new(),
        metadata: Vec::new(),
        verify: true,
    };
    let read = &mut |_: usize, into: &mut crate::metrics::sample::Samples| {
        (0..100).for_each(|i| into.push(window.start_ms + i * MINUTE_MS, i as f64));
        Ok(())
    };
    db.import(import, START_MS, read).unwrap();
    let last = (END_MS - START_MS) / STEP_MS;
    for number in 0..last {
        let now_ms = START_MS + number * STEP_MS;
        db.append(&request(number), now_ms).unwrap();
        if number % 6 == 0 && number < last - 9 {
            maintain(&db, now_ms);
        }
    }
    // A late sample of a day that is rolled up, sealed and not rolled up again.
    let late = labels("up", "long");
    db.append(&Batch::of_samples([(&late, START_MS + 77, 9.0)]), END_MS).unwrap();
    let range = TimeRange::new(START_MS + DAY_MS, START_MS + DAY_MS + 3 * WINDOW_MS);
    db.delete(&[vec![Matcher::equal("__name__", "requests")]], range, END_MS).unwrap();
    db.append(&request(last), END_MS).unwrap();
    drop(db);
    let files = disk.files().into_iter().filter(|(path, _)| path.to_str() != Some("lock"));
    files.map(|(path, _)| (path.clone(), content_of(&disk, &path))).collect()
}
