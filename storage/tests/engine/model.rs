//! The workload without faults: what is written can be read, at once and after each kind of stop.

use icecore_storage::disk::sim::SimDisk;

use crate::oracle::*;

#[test]
fn everything_written_is_read_back_before_and_after_upkeep_and_restarts() {
    let mut disk = SimDisk::new(1);
    let mut db = open(&disk, time_of(0)).unwrap();
    let mut oracle = Oracle::default();
    for number in 0..ROUNDS {
        let now = time_of(number);
        let rows = round(number);
        let appended = db.append(&batch(&rows), now).unwrap();
        assert_eq!(appended.samples + appended.histograms, rows.len() as u64);
        oracle.push_all(&rows);
        let kept = oldest_kept(now);
        assert_eq!(Oracle::of(&db, kept), oracle.from(kept), "round {number}");
        maintain(&db, now).unwrap();
        assert_eq!(Oracle::of(&db, kept), oracle.from(kept), "round {number}, after upkeep");
        if number % 10 == 9 {
            let stopped = match number % 30 {
                9 => {
                    db.close(now).unwrap();
                    disk.power_cut(number as u64)
                }
                19 => disk.kill(),
                _ => disk.power_cut(number as u64),
            };
            drop(db);
            disk = stopped;
            db = open(&disk, now).unwrap();
            assert_eq!(db.recovery().lost_records, 0);
            assert_eq!(db.recovery().quarantined, Vec::<String>::new());
            assert_eq!(Oracle::of(&db, kept), oracle.from(kept), "round {number}, restarted");
        }
    }
    let stats = db.stats();
    assert!(stats.blocks >= 1, "the workload seals");
    assert!(db.blocks().iter().any(|block| block.level > 0), "the workload merges");
    db.verify().unwrap();
}

#[test]
fn a_clean_stop_leaves_nothing_to_replay() {
    let disk = SimDisk::new(1);
    let db = open(&disk, time_of(0)).unwrap();
    let mut oracle = Oracle::default();
    for number in 0..10 {
        db.append(&batch(&round(number)), time_of(number)).unwrap();
        oracle.push_all(&round(number));
    }
    db.close(time_of(10)).unwrap();
    assert!(db.append(&batch(&round(11)), time_of(11)).is_err(), "a closed database takes nothing");
    drop(db);
    let db = open(&disk.kill(), time_of(11)).unwrap();
    assert_eq!(db.recovery().replayed_records, 0);
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
}

#[test]
fn a_second_process_is_refused() {
    let disk = SimDisk::new(1);
    let _db = open(&disk, 0).unwrap();
    assert!(matches!(open(&disk, 0), Err(icecore_storage::Error::Locked { .. })));
}
