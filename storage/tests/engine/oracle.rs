//! A trivially correct database to compare with, and a fixed workload to compare on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::Disk;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::{
    Batch, Exemplar, ExemplarRow, HistogramRow, Metadata, MetricKind, StartTimestampRow,
};
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint, Span};
use icecore_storage::metrics::sample::{Samples, float_order};
use icecore_storage::retention::policy::Policies;
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{TimeRange, WINDOW_MS};

pub(crate) const STEP_MS: i64 = 5 * 60 * 1000;
pub(crate) const RETENTION_MS: i64 = 2 * WINDOW_MS;

/// A sample, bit for bit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stored {
    Float(u64),
    Histogram(Vec<u8>),
}

impl Stored {
    pub(crate) fn of(value: f64, histogram: Option<&Histogram>) -> Stored {
        match histogram {
            Some(histogram) => Stored::Histogram(histogram.canonical_bytes()),
            None => Stored::Float(value.to_bits()),
        }
    }

    fn replaces(&self, old: &Stored) -> bool {
        use Stored::{Float, Histogram};
        match (self, old) {
            (Histogram(new), Histogram(old)) => new > old,
            (Histogram(_), Float(_)) => true,
            (Float(_), Histogram(_)) => false,
            (Float(new), Float(old)) => {
                float_order(f64::from_bits(*new), f64::from_bits(*old)).is_gt()
            }
        }
    }
}

/// Everything that was acknowledged: samples by series and time, start timestamps likewise,
/// exemplars (series, time, labels, bits of the value), metadata by family.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Oracle {
    pub(crate) rows: BTreeMap<(String, i64), Stored>,
    pub(crate) start_timestamps: BTreeMap<(String, i64), i64>,
    pub(crate) exemplars: BTreeSet<(String, i64, String, u64)>,
    pub(crate) metadata: BTreeMap<String, (u8, String)>,
}

impl Oracle {
    pub(crate) fn push(&mut self, row: &Row) {
        let name = row.labels.to_string();
        let new = Stored::of(row.value, row.histogram.as_ref());
        let old = self.rows.entry((name.clone(), row.timestamp)).or_insert(new.clone());
        if new.replaces(old) {
            *old = new;
        }
        if let Some(start) = row.start_timestamp {
            let key = (name.clone(), row.timestamp);
            let known = self.start_timestamps.entry(key).or_insert(start);
            *known = start.max(*known);
        }
        self.exemplars.extend(row.exemplar.as_ref().map(|one| exemplar_key(&name, one)));
        self.push_metadata(row);
    }

    pub(crate) fn push_metadata(&mut self, row: &Row) {
        if let Some(one) = &row.metadata {
            self.metadata.insert(one.family.clone(), (one.kind as u8, one.help.clone()));
        }
    }

    pub(crate) fn push_all(&mut self, rows: &[Row]) {
        rows.iter().for_each(|row| self.push(row));
    }

    /// What a delete of these series and this range leaves.
    pub(crate) fn delete(&mut self, is_selected: impl Fn(&str) -> bool, range: TimeRange) {
        let stays = |name: &str, time: i64| !(is_selected(name) && range.contains(time));
        self.rows.retain(|(name, time), _| stays(name, *time));
        self.start_timestamps.retain(|(name, time), _| stays(name, *time));
        self.exemplars.retain(|(name, time, ..)| stays(name, *time));
    }

    /// All that a database holds from `start_ms` on.
    pub(crate) fn of(db: &Db, start_ms: i64) -> Oracle {
        let snapshot = db.snapshot();
        let range = TimeRange::new(start_ms, i64::MAX);
        let selected =
            snapshot.select(&[Selector { matchers: Vec::new(), range, aligned_ms: 0 }]).unwrap();
        let mut oracle = Oracle::default();
        let mut samples = Samples::default();
        for series in &selected[0] {
            snapshot.read(series, &mut samples).unwrap();
            assert!(samples.timestamps.is_sorted_by(|a, b| a < b), "samples ascend");
            let name = series.labels().to_string();
            for (row, timestamp) in samples.timestamps.iter().enumerate() {
                if *timestamp >= start_ms {
                    let stored = Stored::of(samples.values[row], samples.histogram(row));
                    let old = oracle.rows.insert((name.clone(), *timestamp), stored);
                    assert_eq!(old, None, "each sample once");
                    let start = samples.start_timestamps.get(row).filter(|start| **start != 0);
                    let key = (name.clone(), *timestamp);
                    oracle.start_timestamps.extend(start.map(|start| (key, *start)));
                }
            }
        }
        for (labels, exemplars) in snapshot.exemplars(&[], range).unwrap() {
            let name = labels.to_string();
            for one in &exemplars {
                assert!(oracle.exemplars.insert(exemplar_key(&name, one)), "each exemplar once");
            }
        }
        for one in snapshot.metadata(None) {
            oracle.metadata.entry(one.family).or_insert((one.kind as u8, one.help));
        }
        oracle
    }

    pub(crate) fn from(&self, start_ms: i64) -> Oracle {
        let rows = self.rows.iter().filter(|((_, timestamp), _)| *timestamp >= start_ms);
        let exemplars = self.exemplars.iter().filter(|(_, timestamp, ..)| *timestamp >= start_ms);
        let starts = self.start_timestamps.iter();
        let starts = starts.filter(|((_, timestamp), _)| *timestamp >= start_ms);
        Oracle {
            rows: rows.map(|(key, value)| (key.clone(), value.clone())).collect(),
            start_timestamps: starts.map(|(key, start)| (key.clone(), *start)).collect(),
            exemplars: exemplars.cloned().collect(),
            metadata: self.metadata.clone(),
        }
    }
}

fn exemplar_key(series: &str, one: &Exemplar) -> (String, i64, String, u64) {
    (series.to_owned(), one.timestamp, one.labels.to_string(), one.value.to_bits())
}

/// A sample, and what may come with it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) labels: Labels,
    pub(crate) timestamp: i64,
    pub(crate) value: f64,
    /// Instead of the value.
    pub(crate) histogram: Option<Histogram>,
    pub(crate) start_timestamp: Option<i64>,
    pub(crate) exemplar: Option<Exemplar>,
    pub(crate) metadata: Option<Metadata>,
}

impl Row {
    pub(crate) fn float(labels: Labels, timestamp: i64, value: f64) -> Row {
        Row {
            labels,
            timestamp,
            value,
            histogram: None,
            start_timestamp: None,
            exemplar: None,
            metadata: None,
        }
    }

    pub(crate) fn histogram(labels: Labels, timestamp: i64, histogram: Histogram) -> Row {
        Row { histogram: Some(histogram), ..Row::float(labels, timestamp, 0.0) }
    }
}

/// An exponential histogram of a few buckets; integers and floats in turn.
pub(crate) fn histogram(seed: i64) -> Histogram {
    let few = seed.unsigned_abs() % 1009;
    let counts = match seed % 2 {
        0 => Counts::Integer {
            count: 3 * few + 7,
            zero_count: 7,
            positive: vec![few, few],
            negative: vec![few],
        },
        _ => Counts::Float {
            count: few as f64 * 0.75,
            zero_count: -0.0,
            positive: vec![few as f64 * 0.25, f64::MIN_POSITIVE],
            negative: vec![0.1],
        },
    };
    Histogram {
        schema: 3,
        zero_threshold: 1e-128,
        sum: seed as f64 * 0.1,
        reset_hint: ResetHint::Unknown,
        positive_spans: vec![Span { offset: -2, length: 1 }, Span { offset: 3, length: 1 }],
        negative_spans: vec![Span { offset: few as i32, length: 1 }],
        counts,
        custom_values: Vec::new(),
    }
}

pub(crate) fn labels(series: usize) -> Labels {
    let instance = format!("host-{}", series % 3);
    let name = format!("metric_{}", series / 3);
    Labels::from_pairs([("__name__", name.as_str()), ("instance", &instance), ("job", "test")])
        .unwrap()
}

/// The rows of one request; those of a series need not be neighbours.
pub(crate) fn batch(rows: &[Row]) -> Batch {
    let mut batch = Batch::with_canonical_keys();
    for run in rows.chunk_by(|a, b| a.labels == b.labels) {
        batch.push_series(&run[0].labels);
        let series = batch.series.len() as u32 - 1;
        for row in run {
            match &row.histogram {
                Some(histogram) => batch.histograms.push(HistogramRow {
                    series,
                    timestamp: row.timestamp,
                    histogram: histogram.clone(),
                }),
                None => {
                    batch.timestamps.push(row.timestamp);
                    batch.values.push(row.value);
                }
            }
            let row_of_start = |start_timestamp| StartTimestampRow {
                series,
                timestamp: row.timestamp,
                start_timestamp,
            };
            batch.start_timestamps.extend(row.start_timestamp.map(row_of_start));
            let exemplar = row.exemplar.clone();
            batch.exemplars.extend(exemplar.map(|exemplar| ExemplarRow { series, exemplar }));
            batch.metadata.extend(row.metadata.clone());
        }
    }
    batch
}

pub(crate) fn open(disk: &SimDisk, now_ms: i64) -> Result<Db, icecore_storage::Error> {
    open_on(Arc::new(disk.clone()), now_ms)
}

pub(crate) fn open_on(disk: Arc<dyn Disk>, now_ms: i64) -> Result<Db, icecore_storage::Error> {
    Db::open(disk, options(), now_ms)
}

pub(crate) fn options() -> Options {
    Options { policies: Policies::raw_only(RETENTION_MS), seed: 7, ..Options::default() }
}

/// Files below a folder.
pub(crate) fn names(disk: &SimDisk, folder: &str) -> Vec<String> {
    disk.files()
        .into_iter()
        .map(|(path, _)| path.to_string_lossy().into_owned())
        .filter(|path| path.starts_with(folder))
        .collect()
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
/// a series that comes and goes; histograms, a series that changes between them and floats, start
/// timestamps, exemplars and metadata.
pub(crate) fn round(round: usize) -> Vec<Row> {
    let now = time_of(round);
    let value = |series: usize, timestamp: i64| (timestamp / 1000 % 9973) as f64 + series as f64;
    let float = |series, timestamp| Row::float(labels(series), timestamp, value(series, timestamp));
    let mut rows: Vec<Row> = (0..5).map(|series| float(series, now)).collect();
    rows.push(Row::histogram(labels(5), now, histogram(round as i64)));
    // Floats for some rounds, then histograms for some.
    rows.push(match round / 5 % 2 {
        0 => float(6, now),
        _ => Row::histogram(labels(6), now, histogram(7 * round as i64)),
    });
    // Counters that say when they started: of floats, of histograms, one that only sometimes does.
    rows[3].start_timestamp = Some(time_of(round - round % 10) - 1);
    rows[5].start_timestamp = Some(now - STEP_MS);
    rows[6].start_timestamp = (!round.is_multiple_of(3)).then_some(-now);
    if round.is_multiple_of(2) {
        let trace = Labels::from_pairs([("trace_id", format!("{round:x}"))]).unwrap();
        let (timestamp, value) = (now - 40_000 * (round as i64 % 3), round as f64 / 3.0);
        let exemplar = Exemplar { labels: trace, timestamp, value };
        rows[round % 7].exemplar = Some(exemplar);
    }
    if round % 6 == 1 {
        let kind = MetricKind::Gauge;
        let (family, help) = (format!("metric_{}", round % 4), format!("As of round {round}."));
        rows[0].metadata = Some(Metadata { family, kind, help, unit: String::new() });
    }
    if round % 4 == 3 {
        let timestamp = now - 3 * STEP_MS - 1000;
        rows.push(Row { start_timestamp: Some(timestamp - 5), ..float(1, timestamp) });
        // A late histogram, in the place of a float where there is one.
        let timestamp = now - 2 * STEP_MS;
        rows.push(Row::histogram(labels(6), timestamp, histogram(-3 * round as i64)));
    }
    if round % 9 == 8 {
        // Older than any window that is still open.
        rows.push(float(2, now - WINDOW_MS - 60_000));
        rows.push(Row::float(labels(0), now, 1e9));
    }
    if round.is_multiple_of(7) {
        let short = Labels::from_pairs([("__name__", format!("pod_{round}"))]).unwrap();
        rows.push(Row::float(short, now, 1.0));
    }
    rows
}

/// Rounds of the fixed workload: two seals, merges of late blocks, drops by retention.
pub(crate) const ROUNDS: usize = 84;

pub(crate) fn oldest_kept(now_ms: i64) -> i64 {
    now_ms - RETENTION_MS
}
