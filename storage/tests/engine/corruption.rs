//! Damage: one byte of any file, or a file that is gone. Never a wrong answer, never a panic.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use icecore_storage::Db;
use icecore_storage::disk::Disk;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{TimeRange, WINDOW_MS};

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

/// Every value that was ever sent: one that a later one replaced may come back when that one was
/// lost.
type Sent = HashSet<(String, i64, Stored)>;

fn sent_of(rows: &[Row]) -> Sent {
    let key = |row: &Row| {
        let stored = Stored::of(row.value, row.histogram.as_ref());
        (row.labels.to_string(), row.timestamp, stored)
    };
    rows.iter().map(key).collect()
}

fn sent_to_database() -> Sent {
    (0..40).flat_map(|number| sent_of(&round(number))).collect()
}

/// What can be read is a part of what was written, value by value; reads may fail. Whether none
/// did.
fn check_no_wrong_answer(db: &Db, sent: &Sent, what: &str) -> bool {
    let snapshot = db.snapshot();
    let all = Selector { matchers: Vec::new(), range: TimeRange::ALL, aligned_ms: 0 };
    let Ok(selected) = snapshot.select(&[all]) else { return false };
    let mut samples = Samples::default();
    let mut complete = snapshot.exemplars(&[], TimeRange::ALL).is_ok();
    for series in &selected[0] {
        if snapshot.read(series, &mut samples).is_err() {
            complete = false;
            continue;
        }
        let name = series.labels().to_string();
        for (row, timestamp) in samples.timestamps.iter().enumerate() {
            let stored = Stored::of(samples.values[row], samples.histogram(row));
            let key = (name.clone(), *timestamp, stored);
            assert!(sent.contains(&key), "{what}: {key:?} was never sent");
        }
    }
    complete
}

#[test]
fn one_damaged_byte_of_any_file_is_noticed_and_the_rest_is_served() {
    let (disk, oracle, now) = database();
    let sent = sent_to_database();
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
            let complete = check_no_wrong_answer(&db, &sent, &what)
                && Oracle::of(&db, i64::MIN).rows.len() == oracle.rows.len();
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
fn a_damaged_segment_header_costs_nothing_while_its_salt_can_be_told() {
    let (disk, oracle, now) = database();
    let (path, _) = files(&disk, "wal/").pop().unwrap();
    // All of the header but the half of the salt that no frame repeats, and bytes of no meaning.
    for offset in (0..20).chain(24..36) {
        let damaged = disk.kill();
        damaged.corrupt(&path, offset, 0x04);
        let db = open(&damaged, now).unwrap();
        assert_eq!(Oracle::of(&db, i64::MIN), oracle, "byte {offset}");
        assert!(db.stats().quarantined_files > 0, "byte {offset}");
    }
}

#[test]
fn a_damaged_block_stops_no_merge_and_goes_to_quarantine() {
    let disk = SimDisk::new(2);
    let db = open(&disk, time_of(0)).unwrap();
    let window = |number: usize| time_of(0) + number as i64 * WINDOW_MS;
    let write = |db: &Db, timestamp: i64, series: usize, now: i64| {
        let row = Row::float(labels(series), timestamp, 1.0);
        db.append(&batch(&[row]), now).unwrap();
    };
    // A block, damaged once it is there; then a late one for the same window.
    write(&db, window(0), 0, window(0));
    let now = window(1) + WINDOW_MS / 2;
    write(&db, now, 0, now);
    maintain(&db, now + 60_000).unwrap();
    let (path, _) = files(&disk, "blocks/").pop().unwrap();
    drop(db);
    let disk = disk.kill();
    disk.corrupt(&path, 45, 1);
    let db = open(&disk, now).unwrap();
    write(&db, window(0) + 1, 1, now);
    // Late samples wait half an hour for company.
    maintain(&db, now + 31 * 60_000).unwrap();
    assert_eq!(db.stats().quarantined_files, 1);
    assert_eq!(files(&disk, "quarantine/").len(), 1);
    let kept = Oracle::of(&db, i64::MIN);
    assert_eq!(kept.rows.len(), 2, "what is in no damaged block is served: {kept:?}");
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
    let (disk, _, now) = database();
    let sent = sent_to_database();
    for kind in ["wal/", "blocks/", "checkpoints/"] {
        for (path, _) in files(&disk, kind) {
            let damaged = disk.kill();
            damaged.remove(&path).unwrap();
            let what = format!("{} missing", path.display());
            let db = open(&damaged, now).unwrap_or_else(|e| panic!("{what}: {e}"));
            check_no_wrong_answer(&db, &sent, &what);
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

#[test]
fn a_damaged_manifest_is_rebuilt_even_if_recovery_is_interrupted() {
    let (disk, oracle, now) = database();
    let (path, length) = files(&disk, "manifest").pop().unwrap();
    disk.corrupt(&path, length / 2, 0x40);
    let whole = disk.kill();
    let db = open(&whole, now).unwrap();
    assert!(db.recovery().manifest_rebuilt);
    let quarantined = format!("quarantine/{}", path.display());
    assert_eq!(names(&whole, "quarantine/"), [quarantined], "nothing damaged is deleted");
    drop(db);
    for at in 0..whole.operations() {
        let interrupted = disk.kill();
        interrupted.crash_at(at);
        drop(open(&interrupted, now));
        let what = format!("recovery interrupted at {at}");
        let db = open(&interrupted.power_cut(at), now).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(Oracle::of(&db, i64::MIN).rows, oracle.rows, "{what}");
    }
}

#[test]
fn a_checkpoint_that_is_damaged_in_part_goes_to_quarantine() {
    let (disk, _, now) = database();
    let (path, length) = files(&disk, "checkpoints/").pop().unwrap();
    disk.corrupt(&path, length / 2, 0x40);
    let db = open(&disk, now).unwrap();
    assert!(db.recovery().lost_records > 0);
    let name = path.file_name().unwrap().to_string_lossy();
    assert_eq!(names(&disk, "quarantine/"), [format!("quarantine/{name}")]);
}

/// The number of a series that has gone is used again: a record whose definition is lost must not
/// count for the series that had the number before.
#[test]
fn a_record_whose_definitions_are_lost_counts_for_no_other_series() {
    let minute = 60_000;
    let end = time_of(0) + WINDOW_MS;
    let named = |name: &str| Labels::from_pairs([("__name__", name)]).unwrap();
    let writes = [
        (end + 10 * minute, Row::float(named("gone"), end - 10 * minute, 1.0)),
        (end + 16 * minute, Row::float(named("steady"), end + 16 * minute, 2.0)),
        // Upkeep seals the first window here; `gone` goes.
        (end + 17 * minute, Row::float(named("fresh"), end + 17 * minute, 3.0)),
        (end + 18 * minute, Row::float(named("fresh"), end + 18 * minute, 4.0)),
    ];
    let disk = SimDisk::new(4);
    let db = open(&disk, end + 10 * minute).unwrap();
    for (i, (now, row)) in writes.iter().enumerate() {
        db.append(&batch(std::slice::from_ref(row)), *now).unwrap();
        if i == 1 {
            maintain(&db, *now).unwrap();
            assert_eq!((db.stats().blocks, db.stats().head_series), (1, 1));
        }
    }
    drop(db);
    let sent = sent_of(&writes.map(|(_, row)| row));
    for (path, length) in files(&disk, "wal/") {
        for offset in 0..length {
            let damaged = disk.kill();
            damaged.corrupt(&path, offset, 1);
            let db = open(&damaged, end + 19 * minute).unwrap();
            check_no_wrong_answer(&db, &sent, &format!("{} byte {offset}", path.display()));
        }
    }
}
