//! A head whose share of memory fills: new series wait, others go on, what is idle goes into blocks,
//! and replay keeps to the share.

use std::sync::Arc;

use icecore_storage::db::Options;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::memory::MemoryLimits;
use icecore_storage::metrics::batch::Refusals;
use icecore_storage::retention::policy::Policies;
use icecore_storage::{Db, Error};

use crate::oracle::*;

const MINUTE: i64 = 60_000;
const STEADY: usize = 12;
const FLOOD: usize = 120;

/// Some hundred series fit.
const LIMITS: MemoryLimits = MemoryLimits { head_bytes: 400_000, upkeep_bytes: 1 << 20 };

fn options_with(memory: MemoryLimits) -> Options {
    let policies = Policies::raw_only(30 * 24 * 60 * MINUTE);
    Options { memory, policies, ..options() }
}

fn open_with(disk: &SimDisk, memory: MemoryLimits, now_ms: i64) -> Result<Db, Error> {
    Db::open(Arc::new(disk.clone()), options_with(memory), now_ms)
}

fn time(minute: i64) -> i64 {
    time_of(0) + minute * MINUTE
}

/// Floats and histograms of series that are written every minute, some of them late.
fn steady(minute: i64) -> Vec<Row> {
    let now = time(minute);
    let row = |series: usize, at: i64| match series % 6 {
        5 => Row::histogram(labels(series), at, histogram(at)),
        _ => Row::float(labels(series), at, (at / 1000 % 977) as f64 + series as f64),
    };
    let mut rows: Vec<Row> =
        (0..STEADY).flat_map(|series| (0..4).map(move |i| row(series, now + i * 15_000))).collect();
    if minute % 4 == 3 {
        rows.push(row(minute as usize % STEADY, now - 90 * MINUTE));
    }
    rows
}

/// Series that never come again.
fn flood(minute: i64) -> Vec<Row> {
    let series = |number: usize| {
        let id = format!("{minute}-{number}");
        Labels::from_pairs([("__name__", "flood"), ("id", &id), ("job", "test")]).unwrap()
    };
    (0..FLOOD).map(|number| Row::float(series(number), time(minute), number as f64)).collect()
}

/// Names some of what differs.
fn same(db: &Db, expected: &Oracle, what: &str) {
    let found = Oracle::of(db, i64::MIN);
    if found != *expected {
        let missing = |of: &Oracle, other: &Oracle| -> Vec<String> {
            let rows = of.rows.iter().filter(|(key, value)| other.rows.get(*key) != Some(*value));
            rows.take(5).map(|row| format!("{row:?}")).collect()
        };
        let (lost, extra) = (missing(expected, &found), missing(&found, expected));
        panic!("{what}: lost {lost:#?}, extra {extra:#?}");
    }
}

/// What was acknowledged, what was sent last without being acknowledged, and when that was.
struct Run {
    acknowledged: Oracle,
    pending: Vec<Row>,
    minute: i64,
    deferred: u64,
    db: Option<Db>,
}

impl Run {
    /// `None` if the disk has failed.
    fn write(&mut self, rows: &[Row]) -> Option<u64> {
        let outcome = self.db.as_ref()?.append(&batch(rows), time(self.minute));
        let Ok(appended) = outcome else {
            self.pending = rows.to_vec();
            return None;
        };
        // Room is given in the order of a request's series.
        let stored = rows.len() - appended.deferred.rows as usize;
        self.acknowledged.push_all(&rows[..stored]);
        self.deferred += appended.deferred.rows;
        Some(appended.deferred.rows)
    }
}

/// `minutes` of steady series and, until `calm`, of a flood beside them.
fn run(disk: &SimDisk, minutes: i64, calm: i64) -> Run {
    let mut run = Run {
        acknowledged: Oracle::default(),
        pending: Vec::new(),
        minute: 0,
        deferred: 0,
        db: open_with(disk, LIMITS, time(0)).ok(),
    };
    for minute in 0..minutes {
        run.minute = minute;
        let Some(deferred) = run.write(&steady(minute)) else { return run };
        assert_eq!(deferred, 0, "series that there are go on, minute {minute}");
        if minute < calm && run.write(&flood(minute)).is_none() {
            return run;
        }
        let db = run.db.as_ref().unwrap();
        if maintain(db, time(minute)).is_err() {
            return run;
        }
        let stats = db.stats();
        assert!(stats.head_bytes < LIMITS.head_bytes, "minute {minute}: {}", stats.head_bytes);
    }
    run
}

#[test]
fn a_flood_of_new_series_waits_and_harms_no_others() {
    let disk = SimDisk::new(6);
    let mut run = run(&disk, 20, 15);
    let db = run.db.take().unwrap();
    let stats = db.stats();
    assert!(run.deferred > 100, "there was no room: {}", run.deferred);
    assert!(stats.deferred_rows == run.deferred && stats.relieved_series > 500, "{stats:?}");
    same(&db, &run.acknowledged, "");

    // The flood is over and has left the head, so there is room again.
    run.db = Some(db);
    assert_eq!(run.write(&flood(19)[..40]), Some(0));
    drop(run.db.take());
    for memory in [LIMITS, MemoryLimits { head_bytes: 60_000, upkeep_bytes: 0 }] {
        let again = open_with(&disk.kill(), memory, time(21)).unwrap();
        same(&again, &run.acknowledged, "");
        assert!(again.stats().head_bytes < memory.head_bytes);
        maintain(&again, time(300)).unwrap();
        same(&again, &run.acknowledged, "");
    }
}

/// A refused request says so and can be sent again as it is.
#[test]
fn what_waits_is_named_and_is_stored_when_it_is_sent_again() {
    let disk = SimDisk::new(6);
    let db = open_with(&disk, LIMITS, time(0)).unwrap();
    let mut oracle = Oracle::default();
    let (mut minute, mut waiting) = (0, Refusals::default());
    while waiting.rows == 0 {
        minute += 1;
        let appended = db.append(&batch(&flood(minute)), time(0)).unwrap();
        assert_eq!(appended.samples + appended.deferred.rows, FLOOD as u64);
        oracle.push_all(&flood(minute)[..appended.samples as usize]);
        waiting = appended.deferred;
    }
    assert!(waiting.listed[0].reason.contains("--memory.limit"), "{waiting:?}");
    assert!(waiting.listed[0].series.starts_with("flood{"), "{waiting:?}");
    let rows = flood(minute);
    let request = batch(&rows);
    let mut sent = 1;
    for minute in 0..20 {
        maintain(&db, time(minute)).unwrap();
        sent += 1;
        if db.append(&request, time(minute)).unwrap().deferred.rows == 0 {
            break;
        }
    }
    assert!((3..6).contains(&sent), "{sent}");
    oracle.push_all(&rows);
    same(&db, &oracle, "");
}

/// Where even the samples of known series have no room, a write waits as a whole.
#[test]
fn a_full_head_takes_nothing_and_recovers() {
    let disk = SimDisk::new(6);
    let memory = MemoryLimits { head_bytes: 100_000, upkeep_bytes: 0 };
    let db = open_with(&disk, memory, time(0)).unwrap();
    let mut oracle = Oracle::default();
    let rows = |minute: i64| -> Vec<Row> {
        (0..2000).map(|i| Row::float(labels(0), time(minute) + i * 7, (i as f64).sqrt())).collect()
    };
    let mut minute = 0;
    let refused = loop {
        match db.append(&batch(&rows(minute)), time(minute)) {
            Ok(_) => oracle.push_all(&rows(minute)),
            Err(error) => break error,
        }
        minute += 1;
    };
    let Error::Unavailable { reason, retry_after_seconds } = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("--memory.limit") && retry_after_seconds > 0, "{reason}");
    maintain(&db, time(minute)).unwrap();
    db.append(&batch(&rows(minute)), time(minute)).unwrap();
    oracle.push_all(&rows(minute));
    same(&db, &oracle, "");
    drop(db);
    let again = open_with(&disk.kill(), memory, time(minute)).unwrap();
    same(&again, &oracle, "");
}

/// At each operation of a flood the power fails or the process dies; the next start has as much
/// memory, or much less, and may be cut off as well.
#[test]
fn relief_and_spilling_can_be_cut_off_at_any_operation() {
    let whole = SimDisk::new(6);
    assert!(run(&whole, 8, 8).db.unwrap().stats().relieved_series > 0);
    let small = MemoryLimits { head_bytes: 60_000, upkeep_bytes: 0 };
    let operations = whole.operations();
    assert!(operations > 100, "{operations}");
    let check = |db: &Db, run: &Run, what: &str| {
        let found = Oracle::of(db, i64::MIN);
        let mut with = run.acknowledged.clone();
        with.push_all(&run.pending);
        // Of a flood's last request some rows may have waited.
        let is_known = |key| with.rows.contains_key(key);
        let lost = run.acknowledged.rows.keys().find(|key| !found.rows.contains_key(*key));
        assert!(lost.is_none() && found.rows.keys().all(is_known), "{what}: lost {lost:?}");
    };
    for at in 0..operations {
        let disk = SimDisk::new(6);
        disk.crash_at(at);
        let run = run(&disk, 8, 8);
        let cut = if at % 2 == 0 { disk.power_cut(at) } else { disk.kill() };
        for memory in [LIMITS, small] {
            let what = format!("crash at {at}, {memory:?}");
            let db = open_with(&cut.kill(), memory, time(run.minute)).unwrap();
            check(&db, &run, &what);
            assert!(db.recovery().quarantined.is_empty(), "{what}");
        }
        if at % 53 == 0 {
            let second = cut.kill();
            drop(open_with(&second, small, time(run.minute)));
            for number in 0..second.operations() {
                let interrupted = cut.kill();
                interrupted.crash_at(number);
                drop(open_with(&interrupted, small, time(run.minute)));
                let again = interrupted.power_cut(number);
                let db = open_with(&again, small, time(run.minute)).unwrap();
                check(&db, &run, &format!("crash at {at}, again at {number}"));
            }
        }
    }
}

/// Deletes of a log that is replayed into too little memory hide what was written before them alone.
#[test]
fn deletes_are_replayed_between_spills() {
    use icecore_storage::matcher::Matcher;
    use icecore_storage::time::TimeRange;

    let disk = SimDisk::new(6);
    let db = open_with(&disk, MemoryLimits::NONE, time(0)).unwrap();
    let mut oracle = Oracle::default();
    for minute in 0..12 {
        db.append(&batch(&flood(minute)), time(minute)).unwrap();
        oracle.push_all(&flood(minute));
        if minute % 4 == 3 {
            let range = TimeRange::new(time(minute - 2), time(minute - 1));
            let all = vec![vec![Matcher::equal("__name__", "flood")]];
            db.delete(&all, range, time(minute)).unwrap();
            oracle.delete(|_| true, range);
            let again = &flood(minute - 1)[..40];
            db.append(&batch(again), time(minute)).unwrap();
            oracle.push_all(again);
        }
    }
    drop(db);
    let memory = MemoryLimits { head_bytes: 60_000, upkeep_bytes: 0 };
    for at in 0..200 {
        let first = disk.kill();
        first.crash_at(at);
        drop(open_with(&first, memory, time(12)));
        let db = open_with(&first.kill(), memory, time(12)).unwrap();
        same(&db, &oracle, &format!("interrupted at {at}"));
        assert!(db.stats().blocks > 3, "it was spilled");
        if at % 20 == 0 {
            maintain(&db, time(600)).unwrap();
            same(&db, &oracle, &format!("interrupted at {at}, merged"));
        }
    }
}
