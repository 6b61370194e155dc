//! Random sequences of writes, upkeep, jumps in time and crashes, against the oracle.

use std::collections::BTreeSet;

use icecore_storage::Db;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::Matcher;
use icecore_storage::metrics::batch::{Exemplar, Metadata, MetricKind};
use icecore_storage::metrics::sample::stale_nan;
use icecore_storage::time::{TimeRange, WINDOW_MS};
use proptest::prelude::*;

use crate::oracle::*;

const MINUTE: i64 = 60_000;

/// A row relative to the time at which it is sent.
#[derive(Clone, Debug)]
struct Sent {
    series: usize,
    age_ms: i64,
    /// Few values, so that conflicts and duplicates are common.
    value: u8,
    has_exemplar: bool,
    has_metadata: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Sent>),
    /// The last request again, as after a broken connection.
    Repeat,
    Wait(i64),
    /// Series by name, instance or all, from one age to another.
    Delete(u8, i64, i64),
    /// The room of what was deleted is asked for.
    Free,
    Maintain,
    /// Up to so many single steps of upkeep, not all that are due.
    MaintainSome(u8),
    PowerCut(u64),
    Kill,
    Close,
    /// The process dies after so many operations of the disk, the power with it.
    CrashSoon(u64),
}

fn age() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => Just(0),
        3 => (0..20i64).prop_map(|steps| steps * 30_000),
        2 => (0..250i64).prop_map(|minutes| minutes * MINUTE),
        1 => Just(RETENTION_MS + MINUTE),
        1 => Just(-9 * MINUTE),
        1 => Just(-11 * MINUTE),
        // On the edge of a window, of which all start times are multiples.
        1 => Just(WINDOW_MS),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.05));
    (0..7usize, age(), 0..9u8, flags).prop_map(|(series, age_ms, value, flags)| {
        let (has_exemplar, has_metadata) = flags;
        Sent { series, age_ms, value, has_exemplar, has_metadata }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(sent(), 1..12).prop_map(Step::Append),
        1 => Just(Step::Repeat),
        4 => (1..40i64).prop_map(|minutes| Step::Wait(minutes * MINUTE)),
        1 => Just(Step::Wait(WINDOW_MS)),
        4 => Just(Step::Maintain),
        2 => (0..7u8, age(), age()).prop_map(|(what, a, b)| Step::Delete(what, a, b)),
        1 => Just(Step::Free),
        3 => (1..3u8).prop_map(Step::MaintainSome),
        1 => any::<u64>().prop_map(Step::PowerCut),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
        2 => (0..60u64).prop_map(Step::CrashSoon),
    ]
}

fn row(sent: &Sent, now: i64) -> Row {
    let timestamp = now - sent.age_ms;
    let labels = labels(sent.series);
    let value = [0.0, -0.0, 1.5, f64::NAN, stale_nan(), f64::INFINITY][sent.value as usize % 6];
    let mut row = match (sent.series, sent.value) {
        // One series of histograms, one of both kinds.
        (5, _) | (6, 6..) => Row::histogram(labels, timestamp, histogram(sent.value.into())),
        _ => Row::float(labels, timestamp, value),
    };
    if sent.has_exemplar {
        let labels = Labels::from_pairs([("trace_id", sent.value.to_string())]).unwrap();
        row.exemplar = Some(Exemplar { labels, timestamp, value });
    }
    if sent.has_metadata {
        let (family, help) = (format!("metric_{}", sent.series), sent.value.to_string());
        row.metadata = Some(Metadata { family, kind: MetricKind::Gauge, help, unit: "s".into() });
    }
    row
}

struct Machine {
    disk: SimDisk,
    db: Db,
    now: i64,
    oracle: Oracle,
    last: Vec<Row>,
    /// What the database has if a delete that was not answered was done.
    deleted: Option<Oracle>,
}

impl Machine {
    fn new() -> Machine {
        let (disk, now) = (SimDisk::new(1), time_of(0));
        let db = open(&disk, now).unwrap();
        Machine { disk, db, now, oracle: Oracle::default(), last: Vec::new(), deleted: None }
    }

    /// What the database must have once `rows` are acknowledged.
    fn with(&self, rows: &[Row]) -> Oracle {
        let mut oracle = self.oracle.clone();
        for row in rows {
            let accepted =
                (self.now - RETENTION_MS..=self.now + 10 * MINUTE).contains(&row.timestamp);
            match accepted {
                true => oracle.push(row),
                // Metadata has no time.
                false => oracle.push_metadata(row),
            }
        }
        oracle
    }

    /// Whether the process is still alive.
    fn delete(&mut self, what: u8, start_ms: i64, end_ms: i64) -> bool {
        let range = TimeRange::new(start_ms.min(end_ms), start_ms.max(end_ms));
        let is_selected = |name: &str| match what {
            0..3 => name.contains(&format!("host-{what}")),
            3..6 => name.contains(&format!("metric_{}", what - 3)),
            _ => true,
        };
        let selector = match what {
            0..3 => vec![Matcher::equal("instance", format!("host-{what}"))],
            3..6 => vec![Matcher::equal("__name__", format!("metric_{}", what - 3))],
            _ => Vec::new(),
        };
        let before = self.oracle.rows.len();
        let mut deleted = self.oracle.clone();
        deleted.delete(is_selected, range);
        match self.db.delete(&[selector], range, self.now) {
            Ok(receipt) => {
                // What retention has dropped is not counted, what was replaced may be.
                let gone = (before - deleted.rows.len()) as u64;
                let is_counted = receipt.hidden.samples >= gone;
                let kept = oldest_kept(self.now);
                assert!(is_counted || range.start_ms < kept, "{gone}, {receipt:?}");
                self.oracle = deleted;
                true
            }
            Err(e) => {
                assert!(self.disk.has_crashed(), "{e}");
                self.deleted = Some(deleted);
                false
            }
        }
    }

    /// Whether the process is still alive.
    fn append(&mut self, rows: Vec<Row>) -> bool {
        let with = self.with(&rows);
        match self.db.append(&batch(&rows), self.now) {
            Ok(_) => self.oracle = with,
            Err(e) => {
                assert!(self.disk.has_crashed(), "{e}");
                self.last = rows;
                return false;
            }
        }
        self.last = rows;
        true
    }

    fn reopen(&mut self, disk: SimDisk, pending: bool) {
        let kept = oldest_kept(self.now);
        self.db = open(&disk, self.now).unwrap();
        self.disk = disk;
        assert_eq!(self.db.recovery().lost_records, 0);
        assert_eq!(self.db.recovery().quarantined, Vec::<String>::new());
        assert!(!self.db.recovery().manifest_rebuilt);
        if let Some(deleted) = self.deleted.take()
            && Oracle::of(&self.db, kept) == deleted.from(kept)
        {
            self.oracle = deleted;
        }
        let with = self.with(&self.last);
        if pending && Oracle::of(&self.db, kept) == with.from(kept) {
            self.oracle = with;
        }
        self.check("reopened");
    }

    fn check(&self, what: &str) {
        let kept = oldest_kept(self.now);
        let (found, expected) = (Oracle::of(&self.db, kept), self.oracle.from(kept));
        let differs =
            |(key, value): &(&(String, i64), &Stored)| expected.rows.get(*key) != Some(*value);
        let extra: Vec<_> = found.rows.iter().filter(differs).collect();
        assert!(found == expected, "{what}: extra {extra:?}, {found:?} instead of {expected:?}");
        // Series without samples are not listed, whatever of them is in head and blocks.
        let all = Oracle::of(&self.db, i64::MIN);
        let names: BTreeSet<&str> = all.rows.keys().map(|(name, _)| name.as_str()).collect();
        let series = self.db.snapshot().series(&[], TimeRange::ALL).unwrap();
        let listed: BTreeSet<String> = series.iter().map(Labels::to_string).collect();
        assert!(listed.iter().map(String::as_str).eq(names), "{what}: {listed:?} are listed");
    }

    fn take(&mut self, step: &Step) {
        let mut pending = false;
        match step {
            Step::Append(sent) => {
                let rows = sent.iter().map(|sent| row(sent, self.now)).collect();
                pending = !self.append(rows);
            }
            Step::Repeat => {
                let rows = self.last.clone();
                pending = !self.append(rows);
            }
            Step::Wait(ms) => self.now += ms,
            Step::Delete(what, a, b) => {
                self.delete(*what, self.now - a, self.now - b);
            }
            Step::Free => self.db.free_deleted(),
            Step::Maintain => {
                let done = maintain(&self.db, self.now);
                assert!(done.is_ok() || self.disk.has_crashed(), "{done:?}");
            }
            Step::MaintainSome(steps) => {
                for _ in 0..*steps {
                    let done = self.db.maintain(self.now);
                    assert!(done.is_ok() || self.disk.has_crashed(), "{done:?}");
                }
            }
            Step::PowerCut(seed) => return self.reopen(self.disk.power_cut(*seed), false),
            Step::Kill => return self.reopen(self.disk.kill(), false),
            Step::Close => {
                let closed = self.db.close(self.now);
                assert!(closed.is_ok() || self.disk.has_crashed(), "{closed:?}");
                return self.reopen(self.disk.power_cut(0), false);
            }
            Step::CrashSoon(after) => self.disk.crash_at(self.disk.operations() + after),
        }
        if self.disk.has_crashed() {
            let seed = self.disk.operations();
            return self.reopen(self.disk.power_cut(seed), pending);
        }
        self.check("after a step");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_database_holds_what_it_acknowledged(
        steps in prop::collection::vec(step(), 1..70),
    ) {
        let mut machine = Machine::new();
        steps.iter().for_each(|step| machine.take(step));
    }
}
