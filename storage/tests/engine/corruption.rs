//! Damage: one byte of any file, or a file that is gone. Never a wrong answer, never a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use icecore_storage::Db;
use icecore_storage::disk::Disk;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::snapshot::Selector;
use icecore_storage::time::TimeRange;

use crate::oracle::*;

/// A database that was killed with blocks, a checkpoint and a log; and what it held.
fn database() -> (SimDisk, Oracle, i64) {
    let disk = SimDisk::new(2);
    let db = open(&disk, time_of(0)).unwrap();
    let mut oracle = Oracle::default();
    let mut now = 0;
    for number in 0..40 {
        now = time_of(number);
        db.append(&batch(&round(number)), now).unwrap();
        oracle.push_all(&round(number));
        if number < 38 {
            maintain(&db, now).unwrap();
        }
    }
    drop(db);
    (disk.kill(), oracle, now)
}

fn files(disk: &SimDisk, prefix: &str) -> Vec<(PathBuf, u64)> {
    let files = disk.files();
    files.into_iter().filter(|(path, _)| path.to_string_lossy().starts_with(prefix)).collect()
}

/// What can be read is a part of what was written, value by value; reads may fail.
fn check_no_wrong_answer(db: &Db, oracle: &Oracle, what: &str) -> bool {
    let snapshot = db.snapshot();
    let all = Selector { matchers: Vec::new(), range: TimeRange::ALL };
    let Ok(selected) = snapshot.select(&[all]) else { return false };
    let mut samples = Samples::default();
    let mut complete = true;
    for series in &selected[0] {
        if snapshot.read(series, &mut samples).is_err() {
            complete = false;
            continue;
        }
        let name = series.labels().to_string();
        for (timestamp, value) in samples.timestamps.iter().zip(&samples.values) {
            let written = oracle.rows.get(&(name.clone(), *timestamp));
            // A value that a later one replaced may come back when that one was lost.
            let known = written == Some(&value.to_bits()) || written == Some(&1e9f64.to_bits());
            assert!(known, "{what}: {name} at {timestamp} is {value}");
        }
    }
    complete && Oracle::of(db, i64::MIN).rows.len() == oracle.rows.len()
}

#[test]
fn one_damaged_byte_of_any_file_is_noticed_and_the_rest_is_served() {
    let (disk, oracle, now) = database();
    let kinds = ["wal/", "blocks/", "checkpoints/", "manifest"];
    for kind in kinds {
        let (path, length) = files(&disk, kind).pop().unwrap_or_else(|| panic!("no {kind}"));
        for offset in (0..length).step_by(3) {
            let damaged = disk.kill();
            damaged.corrupt(&path, offset, 1 << (offset % 8));
            let what = format!("{} byte {offset}", path.display());
            let opened = catch_unwind(AssertUnwindSafe(|| open(&damaged, now)));
            let opened = opened.unwrap_or_else(|_| panic!("{what}: panic"));
            let Ok(db) = opened else { panic!("{what}: {}", opened.unwrap_err()) };
            let complete = check_no_wrong_answer(&db, &oracle, &what);
            let report = db.recovery();
            let noticed = report.lost_records > 0
                || !report.quarantined.is_empty()
                || report.torn_tail_bytes > 0
                || db.verify().is_err();
            assert!(complete || noticed, "{what}: something is missing and nothing is said");
        }
    }
}

#[test]
fn a_missing_manifest_is_rebuilt_from_the_files() {
    let (disk, oracle, now) = database();
    for (path, _) in files(&disk, "manifest") {
        disk.remove(&path).unwrap();
    }
    let db = open(&disk, now).unwrap();
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
}

#[test]
fn a_missing_log_segment_or_block_costs_what_was_in_it() {
    let (disk, oracle, now) = database();
    for kind in ["wal/", "blocks/", "checkpoints/"] {
        for (path, _) in files(&disk, kind) {
            let damaged = disk.kill();
            damaged.remove(&path).unwrap();
            let what = format!("{} missing", path.display());
            let db = open(&damaged, now).unwrap_or_else(|e| panic!("{what}: {e}"));
            check_no_wrong_answer(&db, &oracle, &what);
        }
    }
}

#[test]
fn files_that_no_manifest_names_go_to_the_trash() {
    let (disk, oracle, now) = database();
    let (path, _) = files(&disk, "blocks/").remove(0);
    let copy = Path::new("blocks/block-00000000000000ff");
    let content = disk.content(&path);
    let mut file = disk.create(copy).unwrap();
    file.append(&content).unwrap();
    file.sync().unwrap();
    drop(file);
    let db = open(&disk, now).unwrap();
    assert_eq!(db.recovery().trashed, ["trash/block-00000000000000ff"]);
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
}
