//! A trivially correct database to compare with, and a fixed workload to compare on.

use std::collections::BTreeMap;
use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::Batch;
use icecore_storage::metrics::sample::{Samples, replaces};
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{TimeRange, WINDOW_MS};

pub(crate) const STEP_MS: i64 = 5 * 60 * 1000;
pub(crate) const RETENTION_MS: i64 = 2 * WINDOW_MS;

/// Every sample that was acknowledged, by series and time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Oracle {
    pub(crate) rows: BTreeMap<(String, i64), u64>,
}

impl Oracle {
    pub(crate) fn push(&mut self, labels: &Labels, timestamp: i64, value: f64) {
        let old = self.rows.entry((labels.to_string(), timestamp)).or_insert(value.to_bits());
        if replaces((value, None), (f64::from_bits(*old), None)) {
            *old = value.to_bits();
        }
    }

    pub(crate) fn push_all(&mut self, rows: &[Row]) {
        rows.iter().for_each(|row| self.push(&row.labels, row.timestamp, row.value));
    }

    /// All that a database holds from `start_ms` on.
    pub(crate) fn of(db: &Db, start_ms: i64) -> Oracle {
        let snapshot = db.snapshot();
        let range = TimeRange::new(start_ms, i64::MAX);
        let selected = snapshot.select(&[Selector { matchers: Vec::new(), range }]).unwrap();
        let mut oracle = Oracle::default();
        let mut samples = Samples::default();
        for series in &selected[0] {
            snapshot.read(series, &mut samples).unwrap();
            assert!(samples.timestamps.is_sorted_by(|a, b| a < b), "samples ascend");
            let name = series.labels().to_string();
            for (timestamp, value) in samples.timestamps.iter().zip(&samples.values) {
                if *timestamp >= start_ms {
                    let old = oracle.rows.insert((name.clone(), *timestamp), value.to_bits());
                    assert_eq!(old, None, "each sample once");
                }
            }
        }
        oracle
    }

    pub(crate) fn from(&self, start_ms: i64) -> Oracle {
        let rows = self.rows.iter().filter(|((_, timestamp), _)| *timestamp >= start_ms);
        Oracle { rows: rows.map(|(key, value)| (key.clone(), *value)).collect() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) labels: Labels,
    pub(crate) timestamp: i64,
    pub(crate) value: f64,
}

pub(crate) fn labels(series: usize) -> Labels {
    let instance = format!("host-{}", series % 3);
    let name = format!("metric_{}", series / 3);
    Labels::from_pairs([("__name__", name.as_str()), ("instance", &instance), ("job", "test")])
        .unwrap()
}

pub(crate) fn batch(rows: &[Row]) -> Batch {
    Batch::of_samples(rows.iter().map(|row| (&row.labels, row.timestamp, row.value)))
}

pub(crate) fn open(disk: &SimDisk, now_ms: i64) -> Result<Db, icecore_storage::Error> {
    let options = Options { retention_ms: RETENTION_MS, seed: 7, ..Options::default() };
    Db::open(Arc::new(disk.clone()), options, now_ms)
}

/// Upkeep until there is none, or until it fails.
pub(crate) fn maintain(db: &Db, now_ms: i64) -> Result<(), icecore_storage::Error> {
    for _ in 0..100 {
        if db.maintain(now_ms)? == Progress::Idle {
            return Ok(());
        }
    }
    panic!("upkeep does not come to an end");
}

/// The time of a round of [`round`].
pub(crate) fn time_of(round: usize) -> i64 {
    1000 * WINDOW_MS + round as i64 * STEP_MS
}

/// What is written in one round: a sample of every series, now and then late ones, a conflict, and
/// a series that comes and goes.
pub(crate) fn round(round: usize) -> Vec<Row> {
    let now = time_of(round);
    let value = |series: usize, timestamp: i64| (timestamp / 1000 % 9973) as f64 + series as f64;
    let mut rows: Vec<Row> = (0..5)
        .map(|series| Row { labels: labels(series), timestamp: now, value: value(series, now) })
        .collect();
    if round % 4 == 3 {
        let timestamp = now - 3 * STEP_MS - 1000;
        rows.push(Row { labels: labels(1), timestamp, value: value(1, timestamp) });
    }
    if round % 9 == 8 {
        // Older than any window that is still open.
        let timestamp = now - WINDOW_MS - 60_000;
        rows.push(Row { labels: labels(2), timestamp, value: value(2, timestamp) });
        rows.push(Row { labels: labels(0), timestamp: now, value: 1e9 });
    }
    if round % 7 == 0 {
        let short = Labels::from_pairs([("__name__", format!("pod_{round}"))]).unwrap();
        rows.push(Row { labels: short, timestamp: now, value: 1.0 });
    }
    rows
}

/// Rounds of the fixed workload: two seals, merges of late blocks, drops by retention.
pub(crate) const ROUNDS: usize = 84;

pub(crate) fn oldest_kept(now_ms: i64) -> i64 {
    now_ms - RETENTION_MS
}
