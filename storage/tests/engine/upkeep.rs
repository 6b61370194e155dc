//! Upkeep that fails half-way, and requests that are hard on the head.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::{Batch, Exemplar};
use icecore_storage::metrics::sample::Samples;
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{TimeRange, WINDOW_MS};

use crate::oracle::*;

const MINUTE: i64 = 60_000;

fn named(name: &str) -> Labels {
    Labels::from_pairs([("__name__", name)]).unwrap()
}

/// Late samples come before, between and after two tries to seal their window.
#[test]
fn a_seal_that_fails_leaves_late_samples_as_they_were() {
    let start = time_of(0);
    let now = start + WINDOW_MS + 20 * MINUTE;
    let late = |minutes: i64| Row::float(named("a"), start + minutes * MINUTE, minutes as f64);
    let run = |fail: Option<u64>| {
        let disk = SimDisk::new(6);
        let db = open(&disk, start).unwrap();
        let mut oracle = Oracle::default();
        let write = |rows: &[Row], oracle: &mut Oracle| {
            db.append(&batch(rows), now).unwrap();
            oracle.push_all(rows);
        };
        write(&[late(60), late(40), late(20)], &mut oracle);
        write(&[Row::float(named("a"), now, 1.0)], &mut oracle);
        let before = disk.operations();
        if let Some(number) = fail {
            disk.fail_operation(before + number, ErrorKind::Other);
        }
        let outcome = maintain(&db, now);
        let operations = disk.operations() - before;
        assert_eq!(Oracle::of(&db, i64::MIN), oracle, "{fail:?}, {outcome:?}");
        write(&[late(30), late(10), late(50), late(20)], &mut oracle);
        assert_eq!(Oracle::of(&db, i64::MIN), oracle, "{fail:?}, late samples came");
        for minutes in [0, 31, 62] {
            maintain(&db, now + minutes * MINUTE).unwrap();
            assert_eq!(Oracle::of(&db, i64::MIN), oracle, "{fail:?}, after {minutes} minutes");
        }
        operations
    };
    let operations = run(None);
    assert!(operations > 10, "upkeep has something to do");
    for number in 0..operations {
        run(Some(number));
    }
}

/// A series of floats and one of histograms with the same timestamps share them in a block.
#[test]
fn equal_tokens_promise_equal_timestamps_in_any_range() {
    let start = time_of(0);
    let db = open(&SimDisk::new(6), start).unwrap();
    let rows: Vec<Row> = (0..10)
        .map(|minute| start + minute * MINUTE)
        .flat_map(|at| {
            [Row::float(named("a"), at, 1.0), Row::histogram(named("b"), at, histogram(at))]
        })
        .collect();
    db.append(&batch(&rows), start).unwrap();
    maintain(&db, start + WINDOW_MS + 20 * MINUTE).unwrap();
    assert_eq!(db.stats().blocks, 1);
    let snapshot = db.snapshot();
    for end in 1..10 {
        let range = TimeRange::new(start + MINUTE, start + end * MINUTE);
        let selected =
            snapshot.select(&[Selector { matchers: Vec::new(), range, aligned_ms: 0 }]).unwrap();
        let read = selected[0].iter().map(|series| {
            let mut samples = Samples::default();
            snapshot.read(series, &mut samples).unwrap();
            (samples.timestamps_token, samples.timestamps)
        });
        let [one, other] = read.collect::<Vec<_>>().try_into().unwrap();
        assert!(one.0 != 0 && (one.0 != other.0 || one.1 == other.1), "{one:?} {other:?}");
    }
}

#[test]
fn steps_that_find_the_disk_full_leave_no_files() {
    let start = time_of(0);
    let now = start + WINDOW_MS + 20 * MINUTE;
    let mut full = 0;
    for room in (0..20_000).step_by(500) {
        let disk = SimDisk::new(6);
        let db = open(&disk, start).unwrap();
        let rows: Vec<Row> = (0..300)
            .map(|i| Row::float(labels(i % 20), start + i as i64 * 10_000, (i as f64).sqrt()))
            .collect();
        db.append(&batch(&rows), now).unwrap();
        db.append(&batch(&[Row::float(labels(0), now, 1.0)]), now).unwrap();
        // Nobody writes into the window any more.
        let now = now + MINUTE;
        let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
        disk.set_capacity(Some(used + (8 << 20) + room));
        let before = names(&disk, "");
        let mut failures = 0;
        for _ in 0..5 {
            failures += u64::from(db.maintain(now).is_err());
        }
        if failures == 5 {
            full += 1;
            assert_eq!(names(&disk, ""), before, "room for {room} bytes");
        }
        disk.set_capacity(None);
        maintain(&db, now).unwrap();
        assert_eq!(db.stats().blocks, 1);
    }
    assert!(full > 0, "the disk was full at least once");
}

/// An exemplar may fall into another window than the samples of its series.
#[test]
fn exemplars_without_samples_beside_them_survive_a_seal() {
    let start = time_of(0);
    let end = start + WINDOW_MS;
    let now = end + 20 * MINUTE;
    let exemplar = |timestamp: i64| {
        let labels = Labels::from_pairs([("trace_id", "1")]).unwrap();
        Some(Exemplar { labels, timestamp, value: 0.5 })
    };
    let lonely = Row { exemplar: exemplar(end - MINUTE), ..Row::float(named("b"), now, 2.0) };
    let early = Row { exemplar: exemplar(end + MINUTE), ..Row::float(named("c"), start, 3.0) };
    let beside = Row { exemplar: exemplar(start + MINUTE), ..Row::float(named("a"), start, 1.0) };
    let rows = [beside, lonely, early];
    let disk = SimDisk::new(6);
    let db = open(&disk, start).unwrap();
    db.append(&batch(&rows), now).unwrap();
    let mut oracle = Oracle::default();
    oracle.push_all(&rows);
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    // Nobody writes into the window any more.
    maintain(&db, now + MINUTE).unwrap();
    assert_eq!(db.stats().blocks, 1);
    assert_eq!(Oracle::of(&db, i64::MIN), oracle, "after the seal");
    drop(db);
    let db = open(&disk.power_cut(1), now).unwrap();
    assert_eq!(Oracle::of(&db, i64::MIN), oracle, "after a power cut");
}

/// A million samples may come in any order in one request; the head is locked meanwhile.
#[test]
fn samples_from_the_newest_to_the_oldest_take_no_longer_than_others() {
    let now = time_of(0);
    let count = 300_000;
    let labels = named("backfill");
    let rows = (0..count).map(|i| (&labels, now - i, i as f64));
    let db = open(&SimDisk::new(6), now).unwrap();
    let begun = Instant::now();
    let appended = db.append(&Batch::of_samples(rows), now).unwrap();
    assert_eq!(appended.samples, count as u64);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(Oracle::of(&db, i64::MIN).rows.len(), count as usize);
}

/// Many series that are refused, many histograms: the cost is their sum and not their product.
#[test]
fn refused_series_cost_no_more_than_their_rows() {
    let now = time_of(0);
    let mut batch = Batch::with_canonical_keys();
    let rows: Vec<Row> =
        (0..100_000).map(|_| Row::histogram(named("h"), now, histogram(1))).collect();
    batch.histograms = crate::oracle::batch(&rows).histograms;
    batch.push_series(&named("h"));
    for i in 0..100_000 {
        let unnamed = Labels::from_pairs([("job", i.to_string())]).unwrap();
        batch.push_series(&unnamed);
    }
    let db = open(&SimDisk::new(6), now).unwrap();
    let begun = Instant::now();
    let appended = db.append(&batch, now).unwrap();
    assert_eq!((appended.histograms, appended.refused.rows), (100_000, 100_000));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_request_of_which_nothing_is_accepted_creates_no_series() {
    let now = time_of(0);
    let db = open(&SimDisk::new(6), now).unwrap();
    let too_old = now - RETENTION_MS - 1;
    let rows: Vec<Row> = (0..100).map(|i| Row::float(labels(i), too_old, 1.0)).collect();
    let appended = db.append(&batch(&rows), now).unwrap();
    assert_eq!((appended.samples, appended.refused.rows), (0, 100));
    assert!(appended.refused.listed[0].reason.contains("older than the retention"));
    assert_eq!(db.stats().head_series, 0);
    let mixed = [Row::float(labels(0), too_old, 1.0), Row::float(labels(0), now, 1.0)];
    let appended = db.append(&batch(&mixed), now).unwrap();
    assert_eq!((appended.samples, appended.refused.rows, appended.new_series), (1, 1, 1));
}

/// A segment that could not be begun must not make the log forget the one before.
#[test]
fn a_log_that_could_not_begin_a_segment_is_cut_all_the_same() {
    for offset in 1..5 {
        let disk = SimDisk::new(6);
        let db = open(&disk, time_of(0)).unwrap();
        db.append(&batch(&round(0)), time_of(0)).unwrap();
        // A checkpoint: the next record begins a segment, once the last one is synced.
        maintain(&db, time_of(4)).unwrap();
        let failing = disk.operations() + offset;
        disk.fail_operation(failing, ErrorKind::StorageFull);
        let refused = db.append(&batch(&round(4)), time_of(4));
        let what = format!("{:?}", disk.log()[failing as usize]);
        assert!(refused.is_err(), "{what}");
        for number in 5..12 {
            db.append(&batch(&round(number)), time_of(number)).unwrap();
            maintain(&db, time_of(number)).unwrap();
        }
        let segments = names(&disk, "wal/");
        assert_eq!(segments.len() as u64, db.stats().wal_segments, "{what}: {segments:?}");
        drop(db);
        let db = open(&disk.kill(), time_of(12)).unwrap();
        assert_eq!(db.recovery().lost_records, 0, "{what}");
        assert_eq!(names(&disk, "quarantine/"), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_clock_that_was_years_ahead_keeps_no_upkeep_waiting_for_them() {
    let start = time_of(0);
    let db = open(&SimDisk::new(9), start).unwrap();
    db.append(&batch(&[Row::float(named("a"), start, 1.0)]), start).unwrap();
    maintain(&db, start + 3650 * 24 * 60 * MINUTE).unwrap();
    let before = db.stats().checkpoints;
    let now = start + 20 * MINUTE;
    db.append(&batch(&[Row::float(named("a"), now, 2.0)]), now).unwrap();
    maintain(&db, now).unwrap();
    assert_eq!(db.stats().checkpoints, before, "it is checkpointed once it has waited");
    maintain(&db, now + 20 * MINUTE).unwrap();
    assert_eq!(db.stats().checkpoints, before + 1);
}
