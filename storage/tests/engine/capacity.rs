//! Reports of capacity: every byte is somewhere, and what is said of the future comes to pass.

use std::path::PathBuf;
use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::Disk;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::inspect;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::Matcher;
use icecore_storage::retention::capacity::{Capacity, Why};
use icecore_storage::retention::hold::Hold;
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::retention::report::{Report, report_of_directory};
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange};

use crate::oracle::*;

const START_MS: i64 = 1000 * DAY_MS;

fn tiers(days: &[(i64, i64)]) -> Vec<Tier> {
    let tier = |(minutes, days): &(i64, i64)| Tier {
        resolution_ms: (minutes * MINUTE_MS).unsigned_abs(),
        lifetime_ms: days * DAY_MS,
    };
    days.iter().map(tier).collect()
}

fn policies(of_host_0: &[(i64, i64)], others: &[(i64, i64)]) -> Policies {
    let matchers = vec![Matcher::equal("instance", "host-0")];
    Policies::new(vec![
        Policy { matchers, tiers: tiers(of_host_0) },
        Policy { matchers: Vec::new(), tiers: tiers(others) },
    ])
}

fn open_with(disk: &SimDisk, policies: &Policies, now_ms: i64) -> Db {
    let options = Options { policies: policies.clone(), ..options() };
    Db::open(Arc::new(disk.clone()), options, now_ms).unwrap()
}

/// Six hours of nine series, one of histograms, and a series that lives so long alone.
fn fill(db: &Db, start_ms: i64) {
    for at in (start_ms..start_ms + DAY_MS / 4).step_by(10 * MINUTE_MS as usize) {
        let value = |i: usize| (at / 1000 % 977) as f64 * i as f64;
        let mut rows: Vec<Row> = (0..8).map(|i| Row::float(labels(i), at, value(i))).collect();
        rows.push(Row::histogram(labels(8), at, histogram(at / 60_000)));
        let pod = Labels::from_pairs([("__name__", format!("pod_{start_ms}"))]).unwrap();
        rows.push(Row::float(pod, at, 1.0));
        rows[2].start_timestamp = Some(start_ms);
        db.append(&batch(&rows), at).unwrap();
    }
}

/// All that must add up, and the report.
fn check(db: &Db, disk: &SimDisk, now_ms: i64, what: &str) -> Report {
    let report = db.retention_report(now_ms);
    let Capacity { files, days, top, .. } = &report.capacity;
    let manifest = inspect::manifest(disk).unwrap();
    let lengths = disk.files();
    let length = |path: PathBuf| lengths.iter().find(|(known, _)| *known == path).unwrap().1;
    let blocks: u64 = manifest.blocks.iter().map(|one| length(inspect::block_path(one.id))).sum();
    let named = |folder: &str| -> u64 {
        lengths.iter().filter(|(path, _)| path.starts_with(folder)).map(|(_, bytes)| bytes).sum()
    };
    assert_eq!(files.blocks, blocks, "{what}");
    assert_eq!(files.checkpoint, named("checkpoints"), "{what}");
    assert_eq!(files.log, named("wal"), "{what}");
    assert_eq!(files.total(), blocks + named("checkpoints") + named("wal"), "{what}");
    let all: u64 = lengths.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(files.total() + files.other, all, "{what}: what else is there is told, too");
    let sum = |of: fn(&inspect::ManifestFacts) -> u64| of(&manifest);
    assert_eq!(days.iter().map(|row| row.bytes).sum::<u64>(), blocks, "{what}");
    assert_eq!(report.rows.iter().map(|row| row.bytes).sum::<u64>(), blocks, "{what}");
    let samples = sum(|manifest| manifest.blocks.iter().map(|block| block.samples).sum());
    assert_eq!(days.iter().map(|row| row.rows).sum::<u64>(), samples, "{what}");
    let metrics: u64 = top.metrics.iter().map(|metric| metric.bytes).sum();
    assert_eq!(metrics + top.other_metrics_bytes + top.shared_bytes, blocks, "{what}");
    assert_eq!(top.unknown_bytes, 0);
    let all_drops: u64 = report.capacity.drops.iter().map(|drop| drop.bytes).sum();
    assert!(all_drops + report.on_hold_bytes >= blocks, "{what}: all of it goes some day");
    report
}

/// Single steps until there is nothing to do, each of which is checked.
fn maintain_checked(db: &Db, disk: &SimDisk, now_ms: i64, what: &str) {
    for step in 0..200 {
        let progress = db.maintain(now_ms).unwrap();
        check(db, disk, now_ms, &format!("{what}, step {step}"));
        if progress == Progress::Idle {
            return;
        }
    }
    panic!("upkeep does not come to an end");
}

#[test]
fn every_byte_is_told_after_every_step() {
    let disk = SimDisk::new(4);
    let first = policies(&[(0, 3), (5, 20), (60, 40)], &[(0, 2), (60, 30)]);
    let db = open_with(&disk, &first, START_MS);
    check(&db, &disk, START_MS, "nothing at all");
    for quarter in 0..24 {
        let start = START_MS + quarter * DAY_MS / 4;
        fill(&db, start);
        let now = start + DAY_MS / 4;
        if quarter % 5 == 3 {
            let late = now - DAY_MS;
            db.append(&batch(&[Row::float(labels(0), late, 7.0)]), now).unwrap();
        }
        match quarter {
            9 => {
                let range = TimeRange::new(now - DAY_MS, now - DAY_MS / 2);
                db.delete(&[vec![Matcher::equal("instance", "host-1")]], range, now).unwrap();
                db.free_deleted();
            }
            // All are split and classified again.
            14 => db.set_policies(&policies(&[(0, 4), (5, 20)], &[(0, 3), (60, 30)])).unwrap(),
            18 => {
                let all = Policies::new(vec![Policy { matchers: vec![], tiers: tiers(&[(0, 3)]) }]);
                db.set_policies(&all).unwrap();
            }
            _ => {}
        }
        maintain_checked(&db, &disk, now, &format!("quarter {quarter}"));
    }
    let now = START_MS + 6 * DAY_MS;
    let open = check(&db, &disk, now, "open");
    db.close(now).unwrap();
    drop(db);
    // At rest the same is found, without a lock and without a change.
    let before = disk.files();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let at_rest = report_of_directory(&shared, None, now).unwrap();
    assert_eq!(disk.files(), before);
    assert_eq!(at_rest.rows, open.rows);
    assert_eq!(at_rest.capacity.days, open.capacity.days);
    assert!(report_of_directory(&(Arc::new(SimDisk::new(1)) as _), None, now).is_err());
}

#[test]
fn rows_and_series_of_a_day_are_those_that_queries_find() {
    let disk = SimDisk::new(4);
    let db = open_with(&disk, &policies(&[(0, 30), (60, 90)], &[(0, 40)]), START_MS);
    for quarter in 0..9 {
        fill(&db, START_MS + quarter * DAY_MS / 4);
        maintain(&db, START_MS + (quarter + 1) * DAY_MS / 4).unwrap();
    }
    // Two hours are in two blocks for a while: of what has come late, and the rest.
    let now = START_MS + 9 * DAY_MS / 4 + 60 * MINUTE_MS;
    db.append(&batch(&[Row::float(labels(1), now, 7.0)]), now).unwrap();
    db.append(&batch(&[Row::float(labels(1), now - 9 * 60 * MINUTE_MS + 1, 7.0)]), now).unwrap();
    for _ in 0..3 {
        db.maintain(now + 60 * MINUTE_MS).unwrap();
    }
    let days = db.retention_report(now + 60 * MINUTE_MS).capacity.days;
    let oracle = Oracle::of(&db, i64::MIN);
    for day in [START_MS, START_MS + DAY_MS] {
        let of_day = |(_, time): &&(String, i64)| (day..day + DAY_MS).contains(time);
        let rows = days.iter().filter(|row| row.day_ms == day && row.tier.resolution_ms == 0);
        let sum = |of: fn(&icecore_storage::retention::capacity::DayRow) -> u64| -> u64 {
            rows.clone().map(of).sum()
        };
        // A start timestamp is a sample of a companion.
        let has_starts = |name: &str| name == labels(2).to_string();
        let starts = oracle.rows.keys().filter(of_day).filter(|(name, _)| has_starts(name)).count();
        let found = oracle.rows.keys().filter(of_day).count() + starts;
        assert_eq!(sum(|row| row.rows), found as u64);
        let series: std::collections::BTreeSet<&str> =
            oracle.rows.keys().filter(of_day).map(|(name, _)| name.as_str()).collect();
        assert!(rows.clone().all(|row| row.series_is_exact));
        assert_eq!(sum(|row| row.series), series.len() as u64 + 1);
        let floats = sum(|row| row.raw_bytes);
        // A histogram with three buckets: 8 bytes for its time, its three numbers, sum and buckets.
        let histograms = (found - starts) as u64 / 10;
        assert_eq!(floats, (found as u64 - histograms) * 16 + histograms * 64);
    }
    let rollup =
        days.iter().find(|row| row.tier.resolution_ms > 0 && row.day_ms == START_MS).unwrap();
    let raw = days.iter().find(|row| row.day_ms == rollup.day_ms && row.class == rollup.class);
    let raw = raw.unwrap();
    // It stands for all floats of the day but the one at midnight, which ends the bucket before.
    assert!(rollup.raw_bytes > 0 && rollup.raw_bytes <= raw.raw_bytes);
    assert_eq!(rollup.rows, 24 * rollup.series);
}

#[test]
fn growth_is_not_told_of_too_few_days_and_then_comes_to_pass() {
    let disk = SimDisk::new(4);
    let all = Policies::new(vec![Policy { matchers: vec![], tiers: tiers(&[(0, 10), (60, 20)]) }]);
    let budget = 200 << 20;
    let all = all.with_disk_budget(Some(budget));
    let db = open_with(&disk, &all, START_MS);
    let empty = db.retention_report(START_MS).capacity;
    assert_eq!((empty.complete_days, empty.growth, empty.forecast), (0, None, None));
    let mut said = Vec::new();
    for quarter in 0..4 * 34 {
        let now = START_MS + (quarter + 1) * DAY_MS / 4;
        fill(&db, now - DAY_MS / 4);
        maintain(&db, now).unwrap();
        let capacity = db.retention_report(now).capacity;
        assert_eq!(capacity.growth.is_some(), capacity.complete_days >= 3, "{quarter}");
        if quarter < 12 {
            assert_eq!(capacity.forecast, None, "quarter {quarter}");
        }
        if quarter == 4 * 8 {
            let forecast = capacity.forecast.unwrap();
            assert_eq!(capacity.growth.unwrap().days, 7);
            let limit = forecast.budget.unwrap();
            assert_eq!((limit.bytes, limit.full.p50_days), (budget / 10 * 9, None));
            said = vec![forecast.settles_at, forecast.sizes[20].p50, forecast.sizes[20].p90];
        }
        if quarter == 4 * 28 {
            let size = capacity.files.total() as f64;
            for (said, what) in said.iter().zip(["settled", "p50 in 20 days", "p90"]) {
                let error = (*said as f64 / size - 1.0).abs();
                assert!(error < 0.15, "{what}: {said}, and it is {size}");
            }
        }
    }
    // Behind its data, a clock changes nothing of what is known of days.
    let behind = db.retention_report(START_MS - DAY_MS).capacity;
    assert_eq!((behind.growth, behind.now_ms), (None, START_MS - DAY_MS));
}

#[test]
fn it_says_why_and_when_and_in_which_order() {
    let disk = SimDisk::new(4);
    let plain = Policies::new(vec![Policy { matchers: vec![], tiers: tiers(&[(0, 9)]) }]);
    let hold = Hold {
        id: "case-7".into(),
        reason: "asked for".into(),
        owner: "me".into(),
        matchers: vec![Matcher::equal("instance", "host-1")],
        range: TimeRange::new(START_MS + DAY_MS, START_MS + DAY_MS + 1),
        until_ms: Some(START_MS + 99 * DAY_MS),
    };
    let held = plain.clone().with_holds(vec![hold]).with_disk_budget(Some(1 << 30));
    let db = open_with(&disk, &held, START_MS);
    for quarter in 0..24 {
        fill(&db, START_MS + quarter * DAY_MS / 4);
        maintain(&db, START_MS + (quarter + 1) * DAY_MS / 4).unwrap();
    }
    let now = START_MS + 6 * DAY_MS;
    let days = db.retention_report(now).capacity.days;
    let of = |day: i64| days.iter().find(|row| row.day_ms == START_MS + day * DAY_MS).unwrap();
    let last_ms = DAY_MS - 10 * MINUTE_MS;
    assert_eq!(
        (&of(0).why, of(0).drop_ms),
        (&Why::Lifetime, Some(START_MS + 9 * DAY_MS + last_ms + 1))
    );
    assert_eq!(of(1).why, Why::OnHold(vec!["case-7".into()]));
    assert_eq!(of(1).drop_ms, Some(START_MS + 99 * DAY_MS));
    assert_eq!([of(0), of(1), of(2)].map(|row| row.eviction_rank), [Some(1), None, Some(2)]);
    assert_eq!(of(5).eviction_rank, None, "it is not a day old");
    // Under a much shorter lifetime most of it waits for somebody to confirm.
    let short = Policies::new(vec![Policy { matchers: vec![], tiers: tiers(&[(0, 1)]) }]);
    db.set_policies(&short).unwrap();
    maintain(&db, now).unwrap();
    let report = db.retention_report(now);
    assert!(report.is_held);
    assert!(report.capacity.days.iter().any(|row| row.why == Why::AwaitsConfirmation));
}

/// What a series is like in a shape of data.
type Shape = fn(series: usize, at: i64) -> Row;

fn named(series: usize, host: usize, at: i64, value: f64) -> Row {
    let (name, host) = (format!("m_{}", series % 40), format!("host-{host}"));
    let labels = Labels::from_pairs([("__name__", &*name), ("instance", &*host)]).unwrap();
    Row::float(labels, at, value)
}

/// Something irregular.
fn noise(series: usize, at: i64) -> f64 {
    let mixed = (at as u64 ^ (series as u64) << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64 / 1e9
}

/// Exactly for blocks that go as they are, and within 5 % for those that are split first.
#[test]
fn what_a_plan_frees_is_what_goes() {
    let shapes: [(&str, Shape); 6] = [
        ("alike", |i, at| named(i, i / 40 % 2, at, noise(i, at))),
        // What goes is much more a series than what stays, or much less.
        ("noise goes", |i, at| {
            let host = i / 40 % 2;
            named(i, host, at, if host == 0 { noise(i, at) } else { 7.0 })
        }),
        ("small numbers go", |i, at| {
            let host = i / 40 % 2;
            named(i, host, at, if host == 0 { (at / 60_000 % 97) as f64 } else { noise(i, at) })
        }),
        // Classes share timestamps that are costly.
        ("jitter", |i, at| {
            let jitter = (noise(7, at) as i64) % 30_000;
            named(i, i / 40 % 2, at + jitter, (noise(i, at) as i64 % 1000) as f64)
        }),
        ("histograms", |i, at| match i / 40 % 2 {
            0 => {
                let row = named(i, 0, at, 0.0);
                Row::histogram(row.labels, at, histogram(at / 60_000 + i as i64))
            }
            _ => named(i, 1, at, noise(i, at)),
        }),
        ("churn", |i, at| {
            let mut row = named(i, i / 40 % 2, at, noise(i, at));
            let pod = format!("pod-{}", at / (3 * 60 * MINUTE_MS));
            let pairs = row.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            let pairs: Vec<(String, String)> = pairs.chain([("pod".to_owned(), pod)]).collect();
            row.labels = Labels::from_pairs(pairs).unwrap();
            row
        }),
    ];
    for (what, shape) in shapes {
        let disk = SimDisk::new(4);
        let same = &[(0, 30)][..];
        let db = open_with(&disk, &policies(same, same), START_MS);
        let mut now = START_MS;
        for minute in 0..4 * 24 * 60 / 2 {
            now = START_MS + minute * 2 * MINUTE_MS;
            let mut rows: Vec<Row> = (0..80).map(|i| shape(i, now)).collect();
            rows.sort_by(|a, b| a.labels.cmp(&b.labels));
            db.append(&batch(&rows), now).unwrap();
            if minute % 120 == 119 {
                maintain(&db, now).unwrap();
            }
        }
        maintain(&db, now).unwrap();
        // The last day is merged, too.
        now += DAY_MS;
        db.append(&batch(&[shape(0, now)]), now).unwrap();
        maintain(&db, now + 60 * MINUTE_MS).unwrap();
        let before = db.stats().block_bytes;
        let new = policies(&[(0, 1)], same);
        let planned = db.retention_plan(&new, now).unwrap();
        db.set_policies(&new).unwrap();
        maintain(&db, now).unwrap();
        db.confirm_retention(now);
        maintain(&db, now).unwrap();
        let (kept, freed) = (db.stats().block_bytes, before - db.stats().block_bytes);
        let said = before - planned.kept_bytes;
        println!("{what}: of {before} freed {freed}, said {said}");
        assert!(planned.expired_bytes() > 0, "{what}");
        assert!(said.abs_diff(freed) * 20 < kept.min(freed), "{what}: freed {freed}, said {said}");
    }
}
