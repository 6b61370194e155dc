//! Operations that fail once, and a disk that fills up.

use std::io::ErrorKind;

use icecore_storage::disk::sim::SimDisk;
use icecore_storage::{Db, Error};

use crate::oracle::*;

/// The workload, going on after failures; a write that is answered with an error is sent again
/// once, as a sender would, and the database reopened if it asks for that.
fn run(disk: &SimDisk) -> (Option<Db>, Oracle, Oracle, i64) {
    let mut disk = disk.clone();
    let (mut acknowledged, mut sent) = (Oracle::default(), Oracle::default());
    let mut db = match open(&disk, time_of(0)) {
        Ok(db) => db,
        Err(_) => open(&disk, time_of(0)).expect("a failure that is over does not matter"),
    };
    let mut now = time_of(0);
    for number in 0..ROUNDS {
        now = time_of(number);
        let rows = round(number);
        sent.push_all(&rows);
        let mut outcome = db.append(&batch(&rows), now);
        if outcome.is_err() && db.stats().read_only.is_some() {
            // Reads go on while the log is poisoned.
            Oracle::of(&db, i64::MIN);
            drop(db);
            disk = disk.kill();
            db = open(&disk, now).unwrap();
        }
        if outcome.is_err() {
            outcome = db.append(&batch(&rows), now);
        }
        match outcome {
            Ok(_) => acknowledged.push_all(&rows),
            Err(Error::Unavailable { .. }) => {}
            Err(e) => panic!("a write is answered `not now`, not {e}"),
        }
        if number % 3 == 2 {
            // The server calls again after a failure.
            let _ = maintain(&db, now);
            let _ = maintain(&db, now);
        }
    }
    (Some(db), acknowledged, sent, now)
}

fn check(db: &Db, acknowledged: &Oracle, sent: &Oracle, now: i64, what: &str) {
    let kept = oldest_kept(now);
    let found = Oracle::of(db, kept);
    for (key, value) in &acknowledged.from(kept).rows {
        let there = found.rows.get(key);
        let matches =
            there.is_some_and(|there| there == value || Some(there) == sent.rows.get(key));
        assert!(matches, "{what}: {key:?} is {there:?} instead of {value:?}");
    }
    assert!(found.rows.keys().all(|key| sent.rows.contains_key(key)), "{what}: unsent rows");
    let acknowledged = acknowledged.from(kept);
    let missing: Vec<_> = acknowledged.exemplars.difference(&found.exemplars).collect();
    assert!(missing.is_empty(), "{what}: exemplars {missing:?} are missing");
    let known = |family| found.metadata.contains_key(family);
    assert!(acknowledged.metadata.keys().all(known), "{what}: metadata");
}

fn fail_each(kind: ErrorKind) {
    let disk = SimDisk::new(5);
    run(&disk);
    for at in 0..disk.operations() {
        let disk = SimDisk::new(5);
        disk.fail_operation(at, kind);
        let what = format!("{kind:?} of operation {at} ({:?})", disk.log().get(at as usize));
        let (db, acknowledged, sent, now) = run(&disk);
        let db = db.unwrap();
        check(&db, &acknowledged, &sent, now, &what);
        check_files(&db, &disk, now, &what);
    }
}

/// Whatever failed, nothing unfinished is left on a disk that may be full.
fn check_files(db: &Db, disk: &SimDisk, now: i64, what: &str) {
    maintain(db, now).unwrap();
    assert_eq!(names(disk, "blocks/tmp-"), Vec::<String>::new(), "{what}");
    assert_eq!(names(disk, "checkpoints/tmp-"), Vec::<String>::new(), "{what}");
}

#[test]
fn any_operation_may_fail_once() {
    fail_each(ErrorKind::Other);
}

#[test]
fn any_operation_may_find_the_disk_full_once() {
    fail_each(ErrorKind::StorageFull);
}

#[test]
fn a_failed_sync_stops_writes_until_a_restart_and_reads_go_on() {
    let disk = SimDisk::new(5);
    let db = open(&disk, time_of(0)).unwrap();
    db.append(&batch(&round(0)), time_of(0)).unwrap();
    let before = Oracle::of(&db, i64::MIN);
    let log = disk.log();
    // The next write appends, then syncs.
    assert_eq!(log.last().map(|operation| operation.name), Some("sync"));
    disk.fail_operation(disk.operations() + 1, ErrorKind::Other);
    let failed = db.append(&batch(&round(1)), time_of(1));
    assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
    assert!(matches!(db.append(&batch(&round(2)), time_of(2)), Err(Error::Unavailable { .. })));
    assert!(db.stats().read_only.is_some());
    assert_eq!(Oracle::of(&db, i64::MIN), before);
    assert!(db.close(time_of(3)).is_err(), "closing says that the log is not well");
    drop(db);
    let db = open(&disk.power_cut(9), time_of(3)).unwrap();
    assert_eq!(db.recovery().replayed_records, 0, "but what was acknowledged is in a checkpoint");
    assert_eq!(Oracle::of(&db, i64::MIN), before);
    db.append(&batch(&round(3)), time_of(3)).unwrap();
    assert!(before.rows.keys().all(|key| Oracle::of(&db, i64::MIN).rows.contains_key(key)));
}

#[test]
fn a_full_disk_refuses_writes_for_now_and_recovers_by_itself() {
    let disk = SimDisk::new(5);
    let db = open(&disk, time_of(0)).unwrap();
    let mut oracle = Oracle::default();
    for number in 0..5 {
        db.append(&batch(&round(number)), time_of(number)).unwrap();
        oracle.push_all(&round(number));
    }
    disk.set_capacity(Some(1));
    for number in 5..10 {
        let refused = db.append(&batch(&round(number)), time_of(number));
        match refused {
            // What was reserved before may still be used.
            Ok(_) => oracle.push_all(&round(number)),
            Err(Error::Unavailable { retry_after_seconds, .. }) => {
                assert!(retry_after_seconds > 0);
            }
            Err(e) => panic!("{e}"),
        }
        let _ = db.maintain(time_of(number));
        let found = Oracle::of(&db, i64::MIN);
        assert!(oracle.rows.keys().all(|key| found.rows.contains_key(key)), "reads go on");
    }
    disk.set_capacity(None);
    for number in 10..15 {
        db.append(&batch(&round(number)), time_of(number)).unwrap();
        oracle.push_all(&round(number));
    }
    drop(db);
    let db = open(&disk.power_cut(1), time_of(15)).unwrap();
    let found = Oracle::of(&db, i64::MIN);
    assert!(oracle.rows.keys().all(|key| found.rows.contains_key(key)));
}
