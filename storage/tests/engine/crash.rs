//! Power cuts and kills at every operation of the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use icecore_storage::Db;
use icecore_storage::db::{Options, SyncMode};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::time::WINDOW_MS;

use crate::oracle::*;

/// Runs the workload on a disk until it fails; what was acknowledged, what was sent last without
/// being acknowledged, and the time it was.
struct Run {
    acknowledged: Oracle,
    pending: Vec<Row>,
    now_ms: i64,
}

fn run(disk: &SimDisk) -> Run {
    let mut run = Run { acknowledged: Oracle::default(), pending: Vec::new(), now_ms: time_of(0) };
    let Ok(db) = open(disk, time_of(0)) else { return run };
    for number in 0..ROUNDS {
        run.now_ms = time_of(number);
        let rows = round(number);
        if db.append(&batch(&rows), run.now_ms).is_err() {
            run.pending = rows;
            return run;
        }
        run.acknowledged.push_all(&rows);
        if number % 3 == 2 && maintain(&db, run.now_ms).is_err() {
            return run;
        }
    }
    let _ = db.close(run.now_ms);
    run
}

/// Every acknowledged sample is there, nothing else is, and the last request is whole or absent.
fn check(found: &Oracle, run: &Run, what: &str) {
    let kept = oldest_kept(run.now_ms);
    let without = run.acknowledged.from(kept);
    let mut with = run.acknowledged.clone();
    with.push_all(&run.pending);
    let found = found.from(kept);
    if found != without && found != with.from(kept) {
        let lost: Vec<_> =
            without.rows.iter().filter(|(key, _)| !found.rows.contains_key(key)).collect();
        let extra: Vec<_> =
            found.rows.iter().filter(|(key, _)| !with.rows.contains_key(key)).collect();
        panic!("{what}: lost {lost:?}, extra {extra:?}, pending {:?}", run.pending);
    }
}

fn operations() -> u64 {
    let disk = SimDisk::new(3);
    run(&disk);
    disk.operations()
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_at_any_operation() {
    let operations = operations();
    assert!(operations > 500, "the workload is long enough to mean something: {operations}");
    for at in 0..operations {
        let disk = SimDisk::new(3);
        disk.crash_at(at);
        let run = run(&disk);
        let after = disk.power_cut(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let what = format!("power cut at operation {at} ({:?})", disk.log().get(at as usize));
        let db = open(&after, run.now_ms).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(db.recovery().lost_records, 0, "{what}");
        assert_eq!(db.recovery().quarantined, Vec::<String>::new(), "{what}");
        // The blocks' footers would hide that a manifest was torn; it must not have been.
        assert!(!db.recovery().manifest_rebuilt, "{what}");
        check(&Oracle::of(&db, i64::MIN), &run, &what);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill_at_any_operation() {
    for at in 0..operations() {
        let disk = SimDisk::new(3);
        disk.crash_at(at);
        let run = run(&disk);
        let what = format!("kill at operation {at}");
        let db = open(&disk.kill(), run.now_ms).unwrap_or_else(|e| panic!("{what}: {e}"));
        check(&Oracle::of(&db, i64::MIN), &run, &what);
    }
}

#[test]
fn recovery_can_be_interrupted_at_any_operation_and_repeated() {
    let operations = operations();
    for at in (0..operations).step_by(61) {
        let disk = SimDisk::new(3);
        disk.crash_at(at);
        let run = run(&disk);
        let cut = disk.power_cut(at);
        let whole = cut.kill();
        drop(open(&whole, run.now_ms).unwrap());
        for second in 0..whole.operations() {
            let interrupted = cut.kill();
            interrupted.crash_at(second);
            drop(open(&interrupted, run.now_ms));
            let what = format!("crash at {at}, recovery interrupted at {second}");
            let db = open(&interrupted.power_cut(second), run.now_ms)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&Oracle::of(&db, i64::MIN), &run, &what);
        }
    }
}

const REQUESTS: u64 = 180;
/// So many that a request takes several sectors.
const SERIES: usize = 60;

/// Writes requests under [`SyncMode::Interval`] until the disk fails; how many were acknowledged
/// when upkeep last came to its end, which syncs the log first.
fn run_by_interval(disk: &SimDisk) -> (u64, i64) {
    let sync = SyncMode::Interval(Duration::from_secs(1));
    let (mut synced, mut now) = (0, time_of(0));
    let opened = Db::open(Arc::new(disk.clone()), Options { sync, ..options() }, now);
    let Ok(db) = opened else { return (synced, now) };
    for number in 1..REQUESTS as i64 {
        now = time_of(0) + number * 60_000;
        // A row in this window and one in a window that is sealed, of each series. Half of the
        // series are new now and then: later requests rest on what an earlier one has defined.
        let rows: Vec<Row> = (0..SERIES)
            .flat_map(|series| {
                let born = if series < SERIES / 2 { 0 } else { number as usize / 2 };
                let series = series + SERIES * born;
                let row = |timestamp| Row::float(labels(series), timestamp, number as f64);
                [row(now), row(now - WINDOW_MS - 77)]
            })
            .collect();
        if db.append(&batch(&rows), now).is_err() {
            break;
        }
        if number % 5 == 0 {
            match maintain(&db, now) {
                Ok(()) => synced = number as u64,
                Err(_) => break,
            }
        }
    }
    (synced, now)
}

#[test]
fn a_power_cut_between_syncs_takes_whole_requests_and_only_those_since() {
    let disk = SimDisk::new(3);
    run_by_interval(&disk);
    for at in (0..disk.operations()).step_by(5) {
        let disk = SimDisk::new(3);
        disk.crash_at(at);
        let (synced, now) = run_by_interval(&disk);
        let what = format!("power cut at operation {at} ({:?})", disk.log().get(at as usize));
        for seed in 0..4 {
            let db = open(&disk.power_cut(4 * at + seed), now).unwrap();
            check_requests(&db, synced, now, &what);
        }
    }
}

fn check_requests(db: &Db, synced: u64, now: i64, what: &str) {
    assert_eq!(db.recovery().lost_records, 0, "{what}");
    let mut rows_of: BTreeMap<u64, usize> = BTreeMap::new();
    for stored in Oracle::of(db, i64::MIN).rows.values() {
        let Stored::Float(bits) = stored else { panic!("{what}: {stored:?}") };
        *rows_of.entry(f64::from_bits(*bits) as u64).or_default() += 1;
    }
    // Until retention takes the first rows.
    let oldest_row = |number: u64| time_of(0) + number as i64 * 60_000 - WINDOW_MS - 77;
    let whole = |number: u64| oldest_row(number) >= oldest_kept(now);
    for number in (1..REQUESTS).filter(|number| whole(*number)) {
        let rows = rows_of.get(&number).copied().unwrap_or(0);
        let is_whole = rows == 2 * SERIES || (rows == 0 && number > synced);
        assert!(is_whole, "{what}: {rows} of {number}");
    }
}
