//! Deletes: what they hide and what they do not, whatever happens meanwhile and afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::time::{TimeRange, WINDOW_MS};
use icecore_storage::{Db, Error};

use crate::concurrent::SlowDisk;
use crate::oracle::*;

const MINUTE: i64 = 60_000;

/// What is deleted of the fixed workload.
#[derive(Clone, Debug)]
struct Deleted {
    matcher: Matcher,
    range: TimeRange,
}

impl Deleted {
    /// After every fifth round something else.
    fn of(number: usize) -> Option<Deleted> {
        if number % 5 != 4 {
            return None;
        }
        let now = time_of(number);
        let back = |minutes: i64| now - minutes * MINUTE;
        let regex =
            |name: &str, pattern: &str| Matcher::new(name, MatchOp::Regex, pattern).unwrap();
        let (matcher, range) = match number / 5 % 6 {
            0 => (Matcher::equal("instance", "host-1"), TimeRange::new(back(33), back(7))),
            1 => (Matcher::equal("__name__", "metric_1"), TimeRange::new(back(200), now)),
            2 => (regex("__name__", "metric_[02]|pod_.*"), TimeRange::new(back(150), back(140))),
            3 => (Matcher::equal("instance", "host-2"), TimeRange::ALL),
            4 => (Matcher::equal("job", "nobody"), TimeRange::ALL),
            _ => (Matcher::equal("job", "test"), TimeRange::new(i64::MIN, back(100))),
        };
        Some(Deleted { matcher, range })
    }

    fn apply(&self, oracle: &mut Oracle) {
        let selected = |name: &str| {
            let wanted = format!("{}=\"", self.matcher.name());
            let value = match self.matcher.name() {
                "__name__" => name.split('{').next().unwrap_or("").to_owned(),
                _ => {
                    let rest = name.split_once(&wanted).map_or("", |(_, rest)| rest);
                    rest.split('"').next().unwrap_or("").to_owned()
                }
            };
            self.matcher.matches(&value)
        };
        oracle.delete(selected, self.range);
    }

    fn run(&self, db: &Db, now: i64) -> Result<(), Error> {
        db.delete(&[vec![self.matcher.clone()]], self.range, now).map(drop)
    }
}

struct Run {
    acknowledged: Oracle,
    /// With the request that was not answered.
    with_pending: Oracle,
    now_ms: i64,
}

fn run(disk: &SimDisk) -> Run {
    let mut acknowledged = Oracle::default();
    let mut now_ms = time_of(0);
    let ended = |acknowledged: Oracle, with_pending: Oracle, now_ms| Run {
        acknowledged,
        with_pending,
        now_ms,
    };
    let Ok(db) = open(disk, time_of(0)) else {
        return ended(acknowledged.clone(), acknowledged, now_ms);
    };
    for number in 0..ROUNDS {
        now_ms = time_of(number);
        let mut with = acknowledged.clone();
        with.push_all(&round(number));
        if db.append(&batch(&round(number)), now_ms).is_err() {
            return ended(acknowledged, with, now_ms);
        }
        acknowledged = with;
        if let Some(deleted) = Deleted::of(number) {
            let mut with = acknowledged.clone();
            deleted.apply(&mut with);
            if deleted.run(&db, now_ms).is_err() {
                return ended(acknowledged, with, now_ms);
            }
            acknowledged = with;
            if number % 15 == 14 {
                db.free_deleted();
            }
        }
        if number % 3 == 2 {
            // A merge may have been begun and not be finished when the next delete comes.
            let steps = if number % 2 == 0 { 1 } else { 100 };
            for _ in 0..steps {
                match db.maintain(now_ms) {
                    Ok(icecore_storage::db::Progress::Idle) => break,
                    Ok(_) => {}
                    Err(_) => return ended(acknowledged.clone(), acknowledged, now_ms),
                }
            }
        }
    }
    let _ = db.close(now_ms);
    ended(acknowledged.clone(), acknowledged, now_ms)
}

fn check(db: &Db, run: &Run, what: &str) {
    let kept = oldest_kept(run.now_ms);
    let found = Oracle::of(db, kept);
    let (without, with) = (run.acknowledged.from(kept), run.with_pending.from(kept));
    if found == without || found == with {
        return;
    }
    let lost: Vec<_> = with.rows.keys().filter(|key| !found.rows.contains_key(*key)).collect();
    let extra: Vec<_> = found.rows.keys().filter(|key| !without.rows.contains_key(*key)).collect();
    let lost_exemplars: Vec<_> = with.exemplars.difference(&found.exemplars).collect();
    let extra_exemplars: Vec<_> = found.exemplars.difference(&without.exemplars).collect();
    panic!("{what}: lost {lost:?} {lost_exemplars:?}, extra {extra:?} {extra_exemplars:?}");
}

#[test]
fn deletes_are_whole_or_absent_after_a_power_cut_at_any_operation() {
    let disk = SimDisk::new(3);
    let whole = run(&disk);
    let db = open(&disk.kill(), whole.now_ms).unwrap();
    check(&db, &whole, "without a crash");
    assert!(db.deletes().iter().any(|receipt| receipt.hidden.blocks > 0), "blocks are touched");
    drop(db);
    for at in 0..disk.operations() {
        let disk = SimDisk::new(3);
        disk.crash_at(at);
        let run = run(&disk);
        let what = format!("power cut at operation {at} ({:?})", disk.log().get(at as usize));
        let cut = disk.power_cut(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut db = open(&cut, run.now_ms).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(db.recovery().lost_records, 0, "{what}");
        assert_eq!(db.recovery().quarantined, Vec::<String>::new(), "{what}");
        check(&db, &run, &what);
        if at % 4 == 0 {
            // Rewriting and starting again bring nothing back.
            db.free_deleted();
            maintain(&db, run.now_ms).unwrap();
            check(&db, &run, &format!("{what}, rewritten"));
            drop(db);
            db = open(&cut.kill(), run.now_ms).unwrap();
            check(&db, &run, &format!("{what}, started again"));
        }
    }
}

#[test]
fn a_delete_is_done_or_refused_whichever_operation_fails() {
    let disk = SimDisk::new(3);
    run(&disk);
    let start = time_of(0);
    let prepared = || {
        let disk = SimDisk::new(4);
        let db = open(&disk, start).unwrap();
        let mut oracle = Oracle::default();
        for number in 0..40 {
            db.append(&batch(&round(number)), time_of(number)).unwrap();
            oracle.push_all(&round(number));
            maintain(&db, time_of(number)).unwrap();
        }
        assert!(db.stats().blocks > 0);
        (disk, db, oracle)
    };
    let now = time_of(40);
    let deleted = Deleted { matcher: Matcher::equal("instance", "host-1"), range: TimeRange::ALL };
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        for at in 0..20 {
            let (disk, db, oracle) = prepared();
            disk.fail_operation(disk.operations() + at, kind);
            let mut after = oracle.clone();
            deleted.apply(&mut after);
            let expected = if deleted.run(&db, now).is_ok() { after.clone() } else { oracle };
            let what = format!("{kind:?} of operation {at}");
            assert_eq!(Oracle::of(&db, i64::MIN), expected, "{what}");
            let poisoned = db.stats().read_only.is_some();
            let _ = maintain(&db, now);
            assert_eq!(Oracle::of(&db, i64::MIN), expected, "{what}, after upkeep");
            drop(db);
            let db = open(&disk.kill(), now).unwrap();
            let found = Oracle::of(&db, i64::MIN);
            // Of a record whose sync failed nobody knows whether the disk has it.
            assert!(found == expected || poisoned && found == after, "{what}, started again");
        }
    }
}

fn sample(name: &str, timestamp: i64, value: f64) -> Row {
    Row::float(Labels::from_pairs([("__name__", name)]).unwrap(), timestamp, value)
}

fn named(name: &str) -> Vec<Vec<Matcher>> {
    vec![vec![Matcher::equal("__name__", name)]]
}

/// A block of two hours with a sample a minute of `a` and `b`, and some in the head.
fn with_block(disk: &SimDisk) -> (Db, Oracle, i64) {
    let start = time_of(0);
    let now = start + WINDOW_MS + 20 * MINUTE;
    let db = open(disk, start).unwrap();
    let times = (0..140).map(|minute| start + minute * MINUTE);
    let rows: Vec<Row> = times.flat_map(|t| [sample("a", t, 1.0), sample("b", t, 2.0)]).collect();
    let mut oracle = Oracle::default();
    db.append(&batch(&rows), now).unwrap();
    oracle.push_all(&rows);
    maintain(&db, now + MINUTE).unwrap();
    assert_eq!(db.stats().blocks, 1);
    (db, oracle, now + MINUTE)
}

fn is_named<'a>(name: &'a str) -> impl Fn(&str) -> bool + 'a {
    move |series| series.trim_end_matches("{}") == name || series.contains(&format!("\"{name}\""))
}

#[test]
fn a_value_is_corrected_by_deleting_and_writing_again() {
    let disk = SimDisk::new(2);
    let (db, mut oracle, now) = with_block(&disk);
    let start = time_of(0);
    let range = TimeRange::new(start + 10 * MINUTE, start + 130 * MINUTE);
    let preview = db.preview_delete(&named("a"), range).unwrap();
    let receipt = db.delete(&named("a"), range, now).unwrap();
    assert_eq!(receipt.hidden, preview);
    assert_eq!((preview.series, preview.samples, preview.is_exact), (1, 121, true));
    assert_eq!((preview.blocks, receipt.blocks_left, receipt.freed_ms), (1, 1, None));
    oracle.delete(is_named("a"), range);
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    // Lower values than before, which would have lost against them; in the block's time and after.
    for minute in [20, 125] {
        let again = [sample("a", start + minute * MINUTE, 0.5)];
        db.append(&batch(&again), now).unwrap();
        oracle.push_all(&again);
    }
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    let again = open(&disk.kill(), now).unwrap();
    assert_eq!(Oracle::of(&again, i64::MIN), oracle, "after a kill");
    let later = now + 61 * MINUTE;
    maintain(&db, later).unwrap();
    assert_eq!(Oracle::of(&db, i64::MIN), oracle, "sealed and merged");
    let receipt = db.deletes().pop().unwrap();
    assert_eq!((receipt.blocks_left, receipt.freed_ms), (0, Some(later)));
    let again = open(&disk.kill(), later).unwrap();
    assert_eq!(Oracle::of(&again, i64::MIN), oracle, "and after a kill");
}

#[test]
fn deleting_nothing_writes_nothing_and_so_does_deleting_twice() {
    let disk = SimDisk::new(2);
    let (db, _, now) = with_block(&disk);
    db.delete(&named("a"), TimeRange::ALL, now).unwrap();
    let (operations, sequence) = (disk.operations(), db.stats().wal_records);
    let start = time_of(0);
    for (selectors, range) in [
        (named("a"), TimeRange::ALL),
        (named("c"), TimeRange::ALL),
        (Vec::new(), TimeRange::ALL),
        (named("b"), TimeRange::new(start + 1, start + MINUTE - 1)),
        (named("b"), TimeRange::new(start + 5, start + 4)),
        (named("b"), TimeRange::new(i64::MAX - 1, i64::MAX)),
    ] {
        let receipt = db.delete(&selectors, range, now).unwrap();
        assert_eq!((receipt.id, receipt.hidden.samples), (0, 0), "{selectors:?} {range:?}");
    }
    assert_eq!((disk.operations(), db.stats().wal_records), (operations, sequence));
    assert_eq!(db.deletes().len(), 1);
}

#[test]
fn room_is_freed_when_asked_for_or_after_a_while_and_the_index_with_it() {
    let disk = SimDisk::new(2);
    let (db, mut oracle, now) = with_block(&disk);
    db.delete(&named("a"), TimeRange::ALL, now).unwrap();
    oracle.delete(is_named("a"), TimeRange::ALL);
    let names = |db: &Db| db.snapshot().label_values("__name__", &[], TimeRange::ALL).unwrap();
    assert_eq!(names(&db), ["b"], "at once");
    let block = db.blocks().remove(0);
    maintain(&db, now + 10 * MINUTE).unwrap();
    assert_eq!(db.blocks()[0].id, block.id, "a rewrite waits for company");
    db.free_deleted();
    maintain(&db, now + 10 * MINUTE).unwrap();
    let rewritten = db.blocks().remove(0);
    assert_eq!((rewritten.series, rewritten.samples), (1, 120));
    assert_eq!(rewritten.sources, [block.id]);
    let receipt = db.deletes().pop().unwrap();
    assert_eq!(receipt.freed_bytes, block.bytes - rewritten.bytes);
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    let range = TimeRange::new(i64::MIN, time_of(0) + 60 * MINUTE);
    db.delete(&named("b"), range, now).unwrap();
    oracle.delete(is_named("b"), range);
    maintain(&db, now + 61 * MINUTE).unwrap();
    assert_eq!(db.blocks()[0].samples, 59, "an hour later it is due by itself");
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    // All that is left goes without being rewritten.
    db.delete(&named("b"), TimeRange::ALL, now).unwrap();
    maintain(&db, now + 61 * MINUTE).unwrap();
    assert_eq!((db.stats().blocks, db.deletes().len()), (0, 3));
    assert_eq!(crate::oracle::names(&disk, "blocks/"), Vec::<String>::new());
    assert!(db.deletes().iter().all(|receipt| receipt.freed_ms.is_some()));
    let db = open(&disk.kill(), now).unwrap();
    assert_eq!(Oracle::of(&db, i64::MIN).rows.len(), 0);
    assert_eq!(db.deletes().len(), 3);
}

/// A merge reads its inputs as they were when it was begun.
#[test]
fn what_a_merge_was_making_meanwhile_is_deleted_too() {
    let disk = SimDisk::new(2);
    let (db, mut oracle, now) = with_block(&disk);
    let start = time_of(0);
    let delete = |name: &str, end: i64, oracle: &mut Oracle| {
        let range = TimeRange::new(i64::MIN, start + end * MINUTE);
        db.delete(&named(name), range, now).unwrap();
        oracle.delete(is_named(name), range);
    };
    delete("a", 30, &mut oracle);
    db.free_deleted();
    db.maintain(now).unwrap();
    let before = db.blocks().remove(0);
    delete("a", 60, &mut oracle);
    delete("b", 40, &mut oracle);
    db.maintain(now).unwrap();
    let merged = db.blocks().remove(0);
    assert_eq!(merged.sources, [before.id], "it was begun before and is done now");
    assert_eq!(merged.samples, 120 - 31 + 120);
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    let again = open(&disk.kill(), now).unwrap();
    assert_eq!(Oracle::of(&again, i64::MIN), oracle, "after a kill");
    maintain(&db, now + 61 * MINUTE).unwrap();
    assert_eq!(Oracle::of(&db, i64::MIN), oracle, "rewritten");
    assert_eq!(db.blocks()[0].samples, 120 - 61 + 120 - 41);
    assert!(db.deletes().iter().all(|receipt| receipt.freed_ms.is_some()));
}

/// Two deletes that leave nothing together, though neither does alone.
#[test]
fn a_rewrite_of_which_nothing_is_left_leaves_no_block() {
    let disk = SimDisk::new(2);
    let (db, _, now) = with_block(&disk);
    let middle = time_of(0) + 60 * MINUTE;
    db.delete(&[vec![]], TimeRange::new(i64::MIN, middle), now).unwrap();
    db.delete(&[vec![]], TimeRange::new(middle + 1, i64::MAX), now).unwrap();
    assert_eq!(db.snapshot().series(&[], TimeRange::ALL).unwrap(), []);
    db.free_deleted();
    maintain(&db, now).unwrap();
    assert_eq!(crate::oracle::names(&disk, "blocks/"), Vec::<String>::new());
    let db = open(&disk.kill(), now).unwrap();
    assert_eq!(Oracle::of(&db, i64::MIN), Oracle::default());
}

/// What was selected before a delete is read as it was.
#[test]
fn a_selection_does_not_change() {
    let disk = SimDisk::new(2);
    let (db, _, now) = with_block(&disk);
    let snapshot = db.snapshot();
    let selector = icecore_storage::snapshot::Selector {
        matchers: vec![Matcher::equal("__name__", "a")],
        range: TimeRange::ALL,
        aligned_ms: 0,
    };
    let generation = snapshot.generation();
    let selected = snapshot.select(std::slice::from_ref(&selector)).unwrap();
    db.delete(&named("a"), TimeRange::ALL, now).unwrap();
    db.free_deleted();
    maintain(&db, now).unwrap();
    let mut samples = icecore_storage::metrics::sample::Samples::default();
    snapshot.read(&selected[0][0], &mut samples).unwrap();
    assert_eq!(samples.len(), 140);
    assert_eq!(snapshot.select(&[selector]).unwrap()[0].len(), 0);
    // And whoever keeps results learns which times have changed.
    let start = time_of(0);
    let day = TimeRange::new(start - 12 * WINDOW_MS, start + 12 * WINDOW_MS);
    let changed = TimeRange::new(start, start + 2 * WINDOW_MS - 1);
    assert_eq!(snapshot.changes_since(generation, day), [changed]);
}

#[test]
fn many_deletes_of_many_series_wait_in_one_manifest() {
    let disk = SimDisk::new(2);
    let now = time_of(0);
    let db = open(&disk, now).unwrap();
    let name = |i: u16| format!("m{i}");
    for start in [now + 110 * MINUTE, now + WINDOW_MS] {
        let rows: Vec<Row> = (0..1500).map(|i| sample(&name(i), start, 1.0)).collect();
        db.append(&batch(&rows), start).unwrap();
    }
    let now = now + 2 * WINDOW_MS + 20 * MINUTE;
    maintain(&db, now).unwrap();
    assert_eq!((db.stats().blocks, db.stats().head_series), (2, 0));
    for i in 0..1200u16 {
        let range = TimeRange::new(time_of(0) - i64::from(i % 2), i64::MAX);
        db.delete(&named(&name(i)), range, now).unwrap();
    }
    let left = |db: &Db| db.snapshot().series(&[], TimeRange::ALL).unwrap().len();
    assert_eq!((left(&db), db.deletes().len()), (300, 1000));
    let db = open(&disk.kill(), now).unwrap();
    assert_eq!(left(&db), 300);
    db.free_deleted();
    maintain(&db, now).unwrap();
    assert_eq!(db.blocks().iter().map(|block| block.series).collect::<Vec<_>>(), [300, 300]);
}

#[test]
fn selectors_that_are_too_long_are_refused() {
    let db = open(&SimDisk::new(2), time_of(0)).unwrap();
    let refused = db.delete(&named(&"x".repeat(70_000)), TimeRange::ALL, time_of(0));
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    db.close(time_of(0)).unwrap();
    let refused = db.delete(&named("x"), TimeRange::ALL, time_of(0));
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
}

/// Writers and deletes at once: of each row it is known by the sequences whether it is there.
#[test]
fn a_delete_hides_lower_sequences_and_no_higher_ones() {
    let disk = SimDisk::new(2);
    let now = time_of(0) + WINDOW_MS;
    let db = open_on(Arc::new(SlowDisk(disk.clone())), now).unwrap();
    // All write the same minute, one after the other, and that one is deleted.
    let written = AtomicI64::new(0);
    let minute = |rows: i64| now - 100 * MINUTE + rows / 60 * MINUTE;
    let writer = |number: i64| {
        let (db, written) = (&db, &written);
        move || {
            let rows = (0..400).map(|_| {
                let row = written.fetch_add(1, Ordering::Relaxed);
                let (name, time) = (format!("m{number}"), minute(row) + row % 60);
                let sequence =
                    db.append(&batch(&[sample(&name, time, 1.0)]), now).unwrap().sequence;
                ((name, time), sequence)
            });
            rows.collect::<Vec<_>>()
        }
    };
    let (rows, deleted) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4).map(|number| scope.spawn(writer(number))).collect();
        let mut deleted: BTreeMap<i64, u64> = BTreeMap::new();
        while writers.iter().any(|writer| !writer.is_finished()) {
            let start = minute(written.load(Ordering::Relaxed));
            let range = TimeRange::new(start, start + MINUTE - 1);
            let last = deleted.entry(start).or_default();
            *last = db.delete(&[vec![]], range, now).unwrap().id.max(*last);
        }
        let rows = writers.into_iter().flat_map(|writer| writer.join().unwrap());
        (rows.collect::<Vec<_>>(), deleted)
    });
    let is_left = |(key, sequence): &&((String, i64), u64)| {
        let last = deleted.range(..=key.1).next_back();
        last.is_none_or(|(start, last)| start + MINUTE <= key.1 || last < sequence)
    };
    let left: BTreeSet<_> = rows.iter().filter(is_left).map(|(key, _)| key.clone()).collect();
    assert!(!left.is_empty() && left.len() < rows.len(), "{} of {}", left.len(), rows.len());
    for (db, what) in [(&db, "at once"), (&open(&disk.kill(), now).unwrap(), "replayed")] {
        let found: BTreeSet<_> = Oracle::of(db, i64::MIN).rows.into_keys().collect();
        let (lost, extra) = (left.difference(&found), found.difference(&left));
        let (lost, extra) = (lost.collect::<Vec<_>>(), extra.collect::<Vec<_>>());
        assert!(lost.is_empty() && extra.is_empty(), "{what}: lost {lost:?}, extra {extra:?}");
    }
}
