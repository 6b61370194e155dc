//! Power cuts and kills at every operation of the disk.

use icecore_storage::disk::sim::SimDisk;

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
        check(&Oracle::of(&db, i64::MIN), &run, &what);
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill_at_any_operation() {
    for at in (0..operations()).step_by(7) {
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
