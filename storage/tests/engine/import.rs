//! Import: windows of another database, cut off anywhere and begun again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use icecore_storage::db::Options;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::import::{Import, Imported};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::Exemplar;
use icecore_storage::metrics::block::meta::BlockMeta;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange, WINDOW_MS};
use icecore_storage::{Db, Error};

use crate::oracle::*;

const WINDOWS: usize = 4;

fn window(number: usize) -> TimeRange {
    let start_ms = time_of(0) + number as i64 * WINDOW_MS - 2 * WINDOW_MS;
    TimeRange::new(start_ms, start_ms + WINDOW_MS - 1)
}

fn open(disk: &SimDisk) -> Db {
    let options = Options { policies: Policies::raw_only(10 * WINDOW_MS), ..options() };
    Db::open(Arc::new(disk.clone()), options, now()).unwrap()
}

fn now() -> i64 {
    window(WINDOWS - 1).end_ms
}

/// What the other database has of a window, each series with a sample every ten minutes.
fn rows(number: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for series in 0..9 {
        for step in 0..12 {
            let timestamp = window(number).start_ms + step * 600_000 + series as i64;
            rows.push(match series {
                7 => Row::histogram(labels(7), timestamp, histogram(step)),
                _ => Row::float(labels(series), timestamp, (step as f64 + 0.1) * series as f64),
            });
        }
    }
    let trace = Labels::from_pairs([("trace_id", number.to_string())]).unwrap();
    let timestamp = rows[0].timestamp;
    rows[0].exemplar = Some(Exemplar { labels: trace, timestamp, value: 0.5 });
    rows
}

fn import_rows(db: &Db, source: &str, window: TimeRange, rows: &[Row]) -> Result<Imported, Error> {
    import_rows_at(db, source, window, rows, now())
}

fn import_rows_at(
    db: &Db,
    source: &str,
    window: TimeRange,
    rows: &[Row],
    now_ms: i64,
) -> Result<Imported, Error> {
    let mut series: BTreeMap<Labels, Samples> = BTreeMap::new();
    let mut exemplars: Vec<(Labels, Exemplar)> = Vec::new();
    for row in rows {
        let samples = series.entry(row.labels.clone()).or_default();
        match &row.histogram {
            Some(histogram) => samples.push_histogram(row.timestamp, histogram.clone()),
            None => samples.push(row.timestamp, row.value),
        }
        exemplars.extend(row.exemplar.clone().map(|one| (row.labels.clone(), one)));
    }
    // In an order that is not that of ids.
    let (labels, samples): (Vec<Labels>, Vec<Samples>) = series.into_iter().rev().unzip();
    let place = |of: &Labels| labels.iter().position(|one| one == of).unwrap() as u32;
    let exemplars = exemplars.iter().map(|(of, one)| (place(of), one.clone())).collect();
    let import = Import {
        source,
        window,
        series: labels.clone(),
        exemplars,
        metadata: Vec::new(),
        verify: true,
    };
    db.import(import, now_ms, &mut |place, into| {
        into.clone_from(&samples[place]);
        Ok(())
    })
}

/// Imports what the journal does not have; how many windows that were.
fn import_all(db: &Db) -> Result<usize, Error> {
    let mut imported = 0;
    for number in 0..WINDOWS {
        if !db.has_imported("other", window(number), now()) {
            import_rows(db, "other", window(number), &rows(number))?;
            imported += 1;
        }
    }
    Ok(imported)
}

fn everything() -> Oracle {
    let mut oracle = Oracle::default();
    (0..WINDOWS).for_each(|number| oracle.push_all(&rows(number)));
    oracle
}

fn check(disk: &SimDisk, what: &str) {
    let db = open(disk);
    import_all(&db).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(import_all(&db).unwrap(), 0, "{what}: it is all there");
    assert_eq!(Oracle::of(&db, i64::MIN), everything(), "{what}");
    // Nothing twice: not even where reading would hide it.
    assert_eq!(db.stats().block_samples, everything().rows.len() as u64, "{what}");
    db.verify().unwrap();
    db.close(now()).unwrap();
    drop(db);
    let db = open(&disk.power_cut(3));
    assert_eq!(import_all(&db).unwrap(), 0, "{what}: it is known after a start");
    assert_eq!(Oracle::of(&db, i64::MIN), everything(), "{what}");
    assert!(names(disk, "blocks/tmp-").is_empty(), "{what}");
}

#[test]
fn an_import_that_is_cut_off_anywhere_goes_on_where_it_was() {
    let operations = {
        let disk = SimDisk::new(11);
        let db = open(&disk);
        let before = disk.operations();
        assert_eq!(import_all(&db).unwrap(), WINDOWS);
        disk.operations() - before
    };
    assert!(operations > 20, "there is something to cut off");
    for number in 0..operations {
        let disk = SimDisk::new(11);
        let db = open(&disk);
        disk.crash_at(disk.operations() + number);
        let _ = import_all(&db);
        drop(db);
        for (how, left) in [("kill", disk.kill()), ("power cut", disk.power_cut(number))] {
            let db = open(&left);
            import_all(&db).unwrap();
            assert_eq!(Oracle::of(&db, i64::MIN), everything(), "{how} at {number}");
            let stored = db.stats().block_samples;
            assert_eq!(stored, everything().rows.len() as u64, "{how} at {number}");
        }
    }
}

#[test]
fn an_operation_that_fails_leaves_the_window_undone() {
    let mut failures = 0;
    for number in 0.. {
        let disk = SimDisk::new(12);
        let db = open(&disk);
        disk.fail_operation(disk.operations() + number, ErrorKind::Other);
        let outcome = import_all(&db);
        let found = Oracle::of(&db, i64::MIN);
        assert!(found.rows.keys().all(|key| everything().rows.contains_key(key)));
        drop(db);
        check(&disk.kill(), &format!("operation {number} failed"));
        failures += usize::from(outcome.is_err());
        if number > 100 && outcome.is_ok() {
            break;
        }
    }
    assert!(failures > 10, "operations matter");
}

#[test]
fn a_source_that_fails_in_the_middle_stores_nothing_of_the_window() {
    let disk = SimDisk::new(13);
    let db = open(&disk);
    let mut series = 0;
    let import = Import {
        source: "other",
        window: window(3),
        series: (0..5).map(labels).collect(),
        exemplars: Vec::new(),
        metadata: Vec::new(),
        verify: true,
    };
    let outcome = db.import(import, now(), &mut |_, into| {
        series += 1;
        into.push(window(3).start_ms, 1.0);
        match series {
            4 => Err(Error::Stopped),
            _ => Ok(()),
        }
    });
    assert!(matches!(outcome, Err(Error::Stopped)));
    assert!(names(&disk, "blocks").is_empty());
    assert_eq!(Oracle::of(&db, i64::MIN), Oracle::default());
    check(&disk.kill(), "after an import that stopped");
}

#[test]
fn what_is_imported_joins_what_was_written_and_caches_hear_of_it() {
    let disk = SimDisk::new(14);
    let db = open(&disk);
    let mut oracle = Oracle::default();
    // Live samples, one of them at a time that the import has as well.
    let live = [
        Row::float(labels(1), window(2).start_ms + 1, 1e9),
        Row::float(labels(1), window(2).start_ms + 5_000, 2.0),
    ];
    db.append(&batch(&live), now()).unwrap();
    let before = db.snapshot().generation();
    import_all(&db).unwrap();
    oracle.push_all(&live);
    (0..WINDOWS).for_each(|number| oracle.push_all(&rows(number)));
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    let changes = db.snapshot().changes_since(before, window(2));
    assert!(changes.iter().any(|part| part.contains(window(2).start_ms + 600_000)));
    // The blocks of an import say nothing of the log: a restart replays all of it.
    drop(db);
    let db = open(&disk.kill());
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    let later = now() + 20 * 60_000;
    db.append(&batch(&[Row::float(labels(1), later, 1.0)]), later).unwrap();
    maintain(&db, later + 60_000).unwrap();
    let kept = oldest_kept(later + 60_000);
    oracle.from(kept).rows.iter().for_each(|(key, value)| {
        assert_eq!(Oracle::of(&db, i64::MIN).rows.get(key), Some(value));
    });
}

#[test]
fn samples_out_of_the_retention_are_counted_and_come_once_it_is_longer() {
    let disk = SimDisk::new(15);
    // The retention begins in the middle of window 2.
    let later = now() + WINDOW_MS / 2;
    let db = open_on(Arc::new(disk.clone()), later).unwrap();
    let import =
        |number: usize| import_rows_at(&db, "other", window(number), &rows(number), later).unwrap();
    let early = import(1);
    assert_eq!((early.series, early.bytes), (0, 0));
    assert_eq!(early.too_old, rows(1).len() as u64);
    assert!(!db.has_imported("other", window(1), later));
    let old = rows(2).iter().filter(|row| row.timestamp < later - RETENTION_MS).count() as u64;
    let imported = import(2);
    assert_eq!((old > 0, imported.too_old), (true, old));
    assert_eq!(imported.samples + imported.histograms, rows(2).len() as u64 - old);
    assert!(db.has_imported("other", window(2), later));
    assert!(db.has_imported("other", window(2), later + 1), "less is within the retention");
    assert!(!db.has_imported("another", window(2), later));
    drop(db);
    // To whom more is within the retention, more is missing.
    let db = open(&disk);
    assert!(!db.has_imported("other", window(2), later));
    import_all(&db).unwrap();
    assert_eq!(Oracle::of(&db, i64::MIN), everything());
}

#[test]
fn a_start_takes_no_imported_window_for_one_that_was_sealed() {
    let disk = SimDisk::new(16);
    let db = open(&disk);
    import_rows(&db, "other", window(3), &rows(3)).unwrap();
    db.close(now()).unwrap();
    drop(db);
    let db = open(&disk);
    let later = now() + 20 * 60_000;
    let live =
        [Row::float(labels(1), window(3).start_ms + 7, 1.0), Row::float(labels(1), later, 1.0)];
    db.append(&batch(&live), later).unwrap();
    // Its time has come; what is late would wait for company.
    maintain(&db, later + 2 * 60_000).unwrap();
    let sealed = |block: &BlockMeta| block.window == window(3) && block.sequence > 0;
    assert!(db.blocks().iter().any(sealed), "{:?}", db.blocks());
}

/// Ten minutes apart, of two days and the midnight before them.
fn old_samples(place: usize, day: TimeRange) -> Samples {
    let mut samples = Samples::default();
    let step_ms = 10 * MINUTE_MS;
    let first = day.start_ms.div_euclid(step_ms);
    for step in first..=day.end_ms / step_ms {
        let timestamp = step * step_ms;
        if !day.contains(timestamp) {
            continue;
        }
        match place {
            2 => samples.push_histogram(timestamp, histogram(step % 50)),
            _ => samples.push(timestamp, (step % 50 * (place as i64 + 1)) as f64),
        }
    }
    samples
}

fn tiers_of(raw_days: i64) -> Options {
    let tier = |(resolution_ms, days)| Tier { resolution_ms, lifetime_ms: days * DAY_MS };
    let tiers = [(0, raw_days), (5 * MINUTE_MS as u64, 300), (60 * MINUTE_MS as u64, 900)];
    let tiers = tiers.map(tier).to_vec();
    let policies = Policies::new(vec![Policy { matchers: Vec::new(), tiers }]);
    Options { policies, ..options() }
}

/// What a block of a tier is, but for its number and where it comes from.
fn facts(db: &Db) -> Vec<(u64, TimeRange, u64, u64, TimeRange)> {
    let tiers = db.blocks().into_iter().filter(|meta| meta.tier_ms > 0);
    let mut facts: Vec<_> = tiers
        .map(|meta| (meta.tier_ms, meta.window, meta.series, meta.samples, meta.range))
        .collect();
    facts.sort_by_key(|facts| (facts.0, facts.1.start_ms));
    facts
}

#[test]
fn old_days_are_rolled_up_as_upkeep_rolls_them_up() {
    let midnight = now().div_euclid(DAY_MS) * DAY_MS;
    let day = |ago: i64| TimeRange::new(midnight - ago * DAY_MS + 1, midnight - (ago - 1) * DAY_MS);
    let import = |db: &Db, source: &str, day: TimeRange, places: &[usize]| {
        let import = Import {
            source,
            window: day,
            series: places.iter().map(|place| labels(*place)).collect(),
            exemplars: Vec::new(),
            metadata: Vec::new(),
            verify: true,
        };
        let read = &mut |place: usize, into: &mut Samples| {
            into.clone_from(&old_samples(places[place], day));
            Ok(())
        };
        db.import_rollups(import, 5 * MINUTE_MS, now(), read).unwrap()
    };
    // Raw samples of the same days, rolled up.
    let raw = Db::open(Arc::new(SimDisk::new(5)), tiers_of(200), now()).unwrap();
    // The last midnight is the first sample of the day behind.
    for ago in [100, 99, 98] {
        let window = TimeRange::new(midnight - ago * DAY_MS, midnight - (ago - 1) * DAY_MS - 1);
        let series = (0..3).map(labels).collect();
        let (exemplars, metadata) = Default::default();
        let import = Import { source: "raw", window, series, exemplars, metadata, verify: true };
        let of_both = TimeRange::new(day(100).start_ms, day(99).end_ms);
        let read = &mut |place: usize, into: &mut Samples| {
            into.clone_from(&old_samples(place, window.intersection(of_both)));
            Ok(())
        };
        raw.import(import, now(), read).unwrap();
    }
    maintain(&raw, now() + DAY_MS).unwrap();
    let disk = SimDisk::new(6);
    let old = Db::open(Arc::new(disk.clone()), tiers_of(30), now()).unwrap();
    for ago in [100, 99] {
        assert!(!old.has_imported_rollups("a", day(ago)));
        let imported = import(&old, "a", day(ago), &[0, 1]);
        assert_eq!((imported.series, imported.samples), (2, 2 * 144));
        // Another source has another series of these days, and one that is there already.
        let more = import(&old, "b", day(ago), &[2, 1]);
        assert_eq!((more.samples, more.histograms), (144, 144));
        assert!(old.has_imported_rollups("a", day(ago)));
    }
    let expected = facts(&raw);
    let own = |facts: &[(u64, TimeRange, u64, u64, TimeRange)]| {
        let within = facts.iter().filter(|one| one.1 == day(100) || one.1 == day(99));
        within.copied().collect::<Vec<_>>()
    };
    assert_eq!(own(&expected).len(), 4);
    assert_eq!(facts(&old), own(&expected));
    old.verify().unwrap();
    // What no tier keeps any more is refused, and nothing is lost by a kill.
    let refused = import(&old, "a", day(1000), &[0]);
    assert_eq!((refused.samples, refused.too_old), (0, 144));
    drop(old);
    let again = Db::open(Arc::new(disk.kill()), tiers_of(30), now()).unwrap();
    assert_eq!(facts(&again), own(&expected));
    assert!(again.has_imported_rollups("b", day(99)));
    maintain(&again, now() + DAY_MS).unwrap();
    assert_eq!(facts(&again), own(&expected), "they have their class now");
}
