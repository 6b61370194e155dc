//! Real storage: a database on the simulated disk, in the states that a database is in.
//!
//! Which sample takes which way is a function of its series and its time alone, so that a failure
//! can be repeated. Between them, [`HeadStore`] and [`BlockStore`] have the samples of every test in
//! the head (in order and late), in the log, in a checkpoint, in sealed blocks, and in blocks that
//! late samples made, merged and not.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::{Batch, HistogramRow, StartTimestampRow};
use icecore_storage::retention::policy::Policies;
use icecore_storage::{Db, Snapshot};

use super::{Sample, Series, Store, Value};

/// Tests have samples from 1970 on; nothing of them is too old or too new at this time.
const NOW_MS: i64 = 1 << 42;

pub(crate) const HOUR_MS: i64 = 60 * 60 * 1000;

/// A database whose clock is moved on by hand.
#[derive(Debug)]
pub(crate) struct Database {
    disk: SimDisk,
    db: Option<Db>,
    now_ms: i64,
}

impl Default for Database {
    fn default() -> Database {
        let disk = SimDisk::new(1);
        Database { db: Some(open(&disk, NOW_MS)), disk, now_ms: NOW_MS }
    }
}

fn open(disk: &SimDisk, now_ms: i64) -> Db {
    let options = Options { policies: Policies::raw_only(i64::MAX / 2), ..Options::default() };
    Db::open(Arc::new(disk.clone()), options, now_ms).expect("a disk without faults")
}

impl Database {
    pub(crate) fn db(&self) -> &Db {
        self.db.as_ref().expect("it is open between the steps")
    }

    /// Appends those samples that are `wanted`.
    pub(crate) fn append(&self, series: &[Series], wanted: impl Fn(&Labels, &Sample) -> bool) {
        // Labels without a metric name are legal in scripts.
        let mut batch =
            Batch::new(|key, _| Labels::from_canonical_bytes(key), |_| "a series".into());
        for (labels, samples) in series {
            batch.push_series(labels);
            for sample in samples.iter().filter(|sample| wanted(labels, sample)) {
                let Sample { timestamp, start_timestamp, .. } = *sample;
                let series = batch.series.len() as u32 - 1;
                if start_timestamp != 0 {
                    let row = StartTimestampRow { series, timestamp, start_timestamp };
                    batch.start_timestamps.push(row);
                }
                match &sample.value {
                    Value::Float(value) => {
                        batch.timestamps.push(timestamp);
                        batch.values.push(*value);
                    }
                    Value::Histogram(histogram) => batch.histograms.push(HistogramRow {
                        series,
                        timestamp,
                        histogram: histogram.clone(),
                    }),
                }
            }
        }
        let appended = self.db().append(&batch, self.now_ms).expect("a disk without faults");
        assert!(appended.refused.is_empty(), "storage refuses {:?}", appended.refused);
    }

    /// Lets an hour pass, with up to `steps` of upkeep.
    pub(crate) fn maintain(&mut self, steps: usize) {
        self.now_ms += HOUR_MS;
        for _ in 0..steps {
            let progress = self.db().maintain(self.now_ms).expect("a disk without faults");
            if progress == Progress::Idle {
                break;
            }
        }
    }

    /// Ends the process and starts it anew; the log is replayed.
    fn kill(&mut self) {
        self.db = None;
        self.disk = self.disk.kill();
        self.db = Some(open(&self.disk, self.now_ms));
    }
}

/// A number for a sample, equal in every run.
pub(crate) fn number(labels: &Labels, sample: &Sample) -> u64 {
    let mut hasher = DefaultHasher::new();
    (labels.as_bytes(), sample.timestamp).hash(&mut hasher);
    hasher.finish()
}

/// Samples in the head: most in order, every seventh late, the earlier half by way of a replayed
/// log and a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct HeadStore {
    database: Database,
}

impl Store for HeadStore {
    type Source<'a> = Snapshot;

    fn load(&mut self, series: &[Series]) {
        let times = series.iter().flat_map(|(_, samples)| samples).map(|one| one.timestamp);
        let middle = times.max().unwrap_or(0) / 2;
        let is_late = |labels: &Labels, one: &Sample| number(labels, one).is_multiple_of(7);
        self.database
            .append(series, |labels, one| one.timestamp <= middle && !is_late(labels, one));
        self.database.kill();
        self.database.append(series, |labels, one| one.timestamp > middle && !is_late(labels, one));
        self.database.append(series, is_late);
    }

    fn source(&self) -> Snapshot {
        self.database.db().snapshot()
    }
}

/// Samples in blocks: sealed, then late ones for the same windows, of which some are sealed and
/// merged, some sealed, some checkpointed and some in the head.
#[derive(Debug, Default)]
pub(crate) struct BlockStore {
    database: Database,
}

impl Store for BlockStore {
    type Source<'a> = Snapshot;

    fn load(&mut self, series: &[Series]) {
        const ALL: usize = usize::MAX;
        let part = |from: u64, to: u64| {
            move |labels: &Labels, one: &Sample| (from..to).contains(&(number(labels, one) % 8))
        };
        let database = &mut self.database;
        database.append(series, part(0, 4));
        database.maintain(ALL);
        database.append(series, part(4, 5));
        database.maintain(ALL);
        database.append(series, part(5, 6));
        // The windows are sealed first; nothing of them is merged yet.
        let windows = database.db().blocks().len();
        database.maintain(windows);
        database.append(series, part(6, 7));
        database.kill();
        database.append(series, part(7, 8));
    }

    fn source(&self) -> Snapshot {
        self.database.db().snapshot()
    }
}
