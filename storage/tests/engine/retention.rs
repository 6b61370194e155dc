//! Classes of lifetimes: blocks by class, dropped by class, and found again when policies change.

use std::collections::BTreeMap;
use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::Options;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::matcher::Matcher;
use icecore_storage::metrics::block::meta::BlockMeta;
use icecore_storage::retention::hold::Hold;
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::time::{DAY_MS, TimeRange, WINDOW_MS};

use crate::oracle::*;

/// Hosts with lifetimes of raw samples; and that of all others.
fn policies(hosts: &[(usize, i64)], others_ms: i64) -> Policies {
    let tiers = |lifetime_ms| vec![Tier { resolution_ms: 0, lifetime_ms }];
    let of_host = |(host, lifetime_ms): &(usize, i64)| Policy {
        matchers: vec![Matcher::equal("instance", format!("host-{host}"))],
        tiers: tiers(*lifetime_ms),
    };
    let mut all: Vec<Policy> = hosts.iter().map(of_host).collect();
    all.push(Policy { matchers: Vec::new(), tiers: tiers(others_ms) });
    Policies::new(all)
}

fn open_with(
    disk: &SimDisk,
    policies: &Policies,
    now_ms: i64,
) -> Result<Db, icecore_storage::Error> {
    let options = Options { policies: policies.clone(), ..options() };
    Db::open(Arc::new(disk.clone()), options, now_ms)
}

/// Live blocks by class.
fn classes(db: &Db) -> BTreeMap<u32, usize> {
    let mut classes = BTreeMap::new();
    db.blocks().iter().for_each(|block| *classes.entry(block.class).or_default() += 1);
    classes
}

/// A window of samples of all hosts, and one sample that is past it.
fn fill(db: &Db, start: i64) -> (Oracle, i64) {
    let mut oracle = Oracle::default();
    let now = start + WINDOW_MS + 20 * 60_000;
    for at in (start..start + WINDOW_MS).step_by(STEP_MS as usize) {
        let rows: Vec<Row> =
            (0..9).map(|i| Row::float(labels(i), at, (at + i as i64) as f64)).collect();
        db.append(&batch(&rows), at).unwrap();
        oracle.push_all(&rows);
    }
    let last = [Row::float(labels(0), now, 1.0)];
    db.append(&batch(&last), now).unwrap();
    oracle.push_all(&last);
    (oracle, now + 60_000)
}

#[test]
fn a_window_becomes_a_block_for_each_class_and_each_goes_in_its_time() {
    let start = time_of(0);
    let disk = SimDisk::new(8);
    let policies = policies(&[(0, WINDOW_MS), (1, 9 * WINDOW_MS)], 3 * WINDOW_MS);
    let db = open_with(&disk, &policies, start).unwrap();
    let (_, now) = fill(&db, start);
    maintain(&db, now).unwrap();
    assert_eq!(classes(&db), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    // As the clock goes on, and with it the data.
    for (windows, left) in
        [(2, vec![2, 3]), (3, vec![2, 3]), (4, vec![2]), (9, vec![2]), (10, vec![])]
    {
        let now = start + windows * WINDOW_MS + 21 * 60_000;
        let host = Row::float(labels(0), now, 1.0);
        db.append(&batch(&[host]), now).unwrap();
        maintain(&db, now).unwrap();
        let of_first = db.blocks().into_iter().filter(|block| block.window.start_ms == start);
        let of_first: Vec<u32> = of_first.map(|block| block.class).collect();
        assert_eq!(of_first, left, "after {windows} windows");
    }
}

#[test]
fn a_sample_may_be_as_old_as_its_class_lives() {
    let now = time_of(0);
    let policies = policies(&[(0, WINDOW_MS), (1, 9 * WINDOW_MS)], 3 * WINDOW_MS);
    let db = open_with(&SimDisk::new(8), &policies, now).unwrap();
    let at = |windows: i64| now - windows * WINDOW_MS - 1;
    // Of series that are new, and of those that are known.
    for round in 0..2 {
        let rows: Vec<Row> = [0, 2, 5, 9]
            .into_iter()
            .flat_map(|windows| (0..3).map(move |i| (i, windows)))
            .map(|(series, windows)| Row::float(labels(series), at(windows) - round, 1.0))
            .collect();
        let mut by_series = rows.clone();
        by_series.sort_by_key(|row| row.labels.clone());
        let appended = db.append(&batch(&by_series), now).unwrap();
        // Hosts 0, 1, 2 keep one, nine and three windows.
        assert_eq!((appended.samples, appended.refused.rows), (1 + 3 + 2, 3 + 1 + 2), "{round}");
        let reasons: Vec<&str> =
            appended.refused.listed.iter().map(|one| one.reason.as_str()).collect();
        for lifetime in ["2h", "18h", "6h"] {
            let says = format!("older than the retention of {lifetime} ");
            assert!(reasons.iter().any(|reason| reason.contains(&says)), "{says}: {reasons:?}");
        }
    }
    assert_eq!(Oracle::of(&db, i64::MIN).rows.len(), 2 * 6);
}

fn run(disk: &SimDisk, policies: &Policies) -> (Oracle, Vec<Row>, i64) {
    let mut acknowledged = Oracle::default();
    let mut now_ms = time_of(0);
    let Ok(db) = open_with(disk, policies, now_ms) else {
        return (acknowledged, Vec::new(), now_ms);
    };
    for number in 0..ROUNDS {
        now_ms = time_of(number);
        let rows = round(number);
        if db.append(&batch(&rows), now_ms).is_err() {
            return (acknowledged, rows, now_ms);
        }
        acknowledged.push_all(&rows);
        if number % 3 == 2 && maintain(&db, now_ms).is_err() {
            return (acknowledged, Vec::new(), now_ms);
        }
    }
    let _ = db.close(now_ms);
    (acknowledged, Vec::new(), now_ms)
}

fn is_whole(found: &Oracle, (acknowledged, pending, now_ms): &(Oracle, Vec<Row>, i64)) -> bool {
    let kept = now_ms - 2 * WINDOW_MS;
    let mut with = acknowledged.clone();
    with.push_all(pending);
    let found = found.from(kept).rows;
    found == acknowledged.from(kept).rows || found == with.from(kept).rows
}

/// Also if the manifest is lost after the power cut, when only the blocks say what is sealed.
#[test]
fn nothing_is_lost_by_a_power_cut_while_several_classes_are_sealed() {
    let policies = policies(&[(0, 3 * WINDOW_MS), (1, 2 * WINDOW_MS)], 4 * WINDOW_MS);
    let whole = SimDisk::new(3);
    run(&whole, &policies);
    for at in 0..whole.operations() {
        let disk = SimDisk::new(3);
        disk.crash_at(at);
        let run = run(&disk, &policies);
        let after = disk.power_cut(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let without_manifest = after.kill();
        let what = format!("power cut at operation {at} ({:?})", disk.log().get(at as usize));
        let db = open_with(&after, &policies, run.2).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(is_whole(&Oracle::of(&db, i64::MIN), &run), "{what}");
        let manifests = names(&without_manifest, "manifest-");
        let Some(newest) = manifests.iter().max() else { continue };
        without_manifest.corrupt(newest.as_ref(), 20, 0xff);
        let db = open_with(&without_manifest, &policies, run.2)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(is_whole(&Oracle::of(&db, i64::MIN), &run), "{what}, without its manifest");
    }
}

#[test]
fn new_policies_hold_for_what_is_stored() {
    let start = time_of(0);
    let disk = SimDisk::new(8);
    let all = Policies::raw_only(9 * WINDOW_MS);
    let db = open_with(&disk, &all, start).unwrap();
    let (oracle, now) = fill(&db, start);
    maintain(&db, now).unwrap();
    assert_eq!(classes(&db), BTreeMap::from([(1, 1)]));
    // Series of three classes are in one block: it is split, and nothing changes for readers.
    let three = policies(&[(0, 3 * WINDOW_MS), (1, 5 * WINDOW_MS)], 9 * WINDOW_MS);
    db.set_policies(&three).unwrap();
    maintain(&db, now).unwrap();
    assert_eq!(classes(&db), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
    assert_eq!(names(&disk, "blocks/").len(), 3, "the block that was split has gone");
    // The head's series have changed, too.
    let late = db.append(&batch(&[Row::float(labels(0), now - 4 * WINDOW_MS, 1.0)]), now).unwrap();
    assert_eq!(late.refused.rows, 1);
    // Each block has series of one class: the manifest alone changes.
    let files = names(&disk, "blocks/");
    let renamed = policies(&[(0, 2 * WINDOW_MS), (1, 3 * WINDOW_MS)], 9 * WINDOW_MS);
    db.set_policies(&renamed).unwrap();
    maintain(&db, now).unwrap();
    assert_eq!(classes(&db), BTreeMap::from([(1, 1), (2, 1), (4, 1)]), "3 windows are still 2");
    assert_eq!(names(&disk, "blocks/"), files);
    // A restart with the same policies changes nothing, and one with others does.
    drop(db);
    let db = open_with(&disk.kill(), &renamed, now).unwrap();
    assert_eq!(classes(&db), BTreeMap::from([(1, 1), (2, 1), (4, 1)]));
    drop(db);
    let db = open_with(&disk.kill(), &all, now).unwrap();
    maintain(&db, now).unwrap();
    assert_eq!(classes(&db), BTreeMap::from([(1, 1)]), "they are merged again");
    assert_eq!(Oracle::of(&db, i64::MIN), oracle);
}

#[test]
fn a_split_can_be_cut_off_anywhere() {
    let start = time_of(0);
    let all = Policies::raw_only(9 * WINDOW_MS);
    let three = policies(&[(0, 3 * WINDOW_MS), (1, 5 * WINDOW_MS)], 9 * WINDOW_MS);
    let disk = SimDisk::new(8);
    let db = open_with(&disk, &all, start).unwrap();
    let (oracle, now) = fill(&db, start);
    maintain(&db, now).unwrap();
    drop(db);
    let split = |disk: &SimDisk| {
        let Ok(db) = open_with(disk, &all, now) else { return };
        let _ = db.set_policies(&three).and_then(|()| maintain(&db, now));
    };
    let whole = disk.kill();
    split(&whole);
    assert!(whole.operations() > 30, "{}", whole.operations());
    for at in 0..whole.operations() {
        let cut = disk.kill();
        cut.crash_at(at);
        split(&cut);
        let after = cut.power_cut(at);
        for is_manifest_lost in [false, true] {
            let after = after.kill();
            let what = format!("cut at {at}, manifest lost: {is_manifest_lost}");
            if is_manifest_lost {
                let newest = names(&after, "manifest-").into_iter().max().unwrap();
                after.corrupt(newest.as_ref(), 20, 0xff);
            }
            let db = open_with(&after, &three, now).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(Oracle::of(&db, i64::MIN).rows, oracle.rows, "{what}");
            maintain(&db, now).unwrap();
            assert_eq!(Oracle::of(&db, i64::MIN).rows, oracle.rows, "{what}");
            assert_eq!(classes(&db).len(), 3, "{what}");
        }
    }
}

#[test]
fn a_drop_of_much_that_is_overdue_waits_for_confirmation() {
    let start = time_of(0);
    let db = open_with(&SimDisk::new(8), &Policies::raw_only(9 * DAY_MS), start).unwrap();
    fill(&db, start);
    let now = start + 3 * DAY_MS;
    db.append(&batch(&[Row::float(labels(0), now, 1.0)]), now).unwrap();
    maintain(&db, now).unwrap();
    let blocks = db.blocks();
    assert!(!blocks.is_empty());
    db.set_policies(&Policies::raw_only(DAY_MS)).unwrap();
    maintain(&db, now).unwrap();
    assert_eq!(db.blocks().len(), blocks.len(), "nothing is dropped");
    assert!(db.stats().retention_held_bytes > 0);
    let confirmed = db.confirm_retention(now);
    assert_eq!(confirmed.blocks.len(), blocks.len());
    maintain(&db, now).unwrap();
    assert_eq!((db.blocks().len(), db.stats().retention_held_bytes), (0, 0));
}

#[test]
fn over_the_disk_budget_the_oldest_samples_go() {
    let start = time_of(0);
    let all = Policies::raw_only(20 * DAY_MS);
    let db = open_with(&SimDisk::new(8), &all, start).unwrap();
    let mut now = start;
    for day in 0..8 {
        (_, now) = fill(&db, start + day * DAY_MS);
        maintain(&db, now).unwrap();
    }
    let (stats, blocks) = (db.stats(), db.blocks());
    assert!(blocks.len() >= 8 && stats.evicted_blocks == 0);
    // Room for all but a block and a bit.
    let used = stats.block_bytes + stats.wal_bytes;
    let kept = used - blocks[0].bytes - blocks[1].bytes / 2;
    let bounded = all.with_disk_budget(Some(kept * 10 / 9));
    let planned = db.retention_plan(&bounded, now).unwrap();
    assert_eq!(db.blocks(), blocks, "a plan changes nothing");
    db.set_policies(&bounded).unwrap();
    maintain(&db, now).unwrap();
    assert_eq!(db.blocks(), blocks[2..]);
    let evicted = db.stats().evicted_bytes;
    assert_eq!(evicted, blocks[0].bytes + blocks[1].bytes);
    assert_eq!((db.stats().evicted_blocks, evicted), (2, planned.evicted_bytes));
}

/// Exactly for blocks that go as they are, and within 5 % for those that are split first.
#[test]
fn a_plan_frees_what_it_says() {
    let start = time_of(0);
    let db = open_with(&SimDisk::new(8), &Policies::raw_only(9 * DAY_MS), start).unwrap();
    let now = start + WINDOW_MS;
    for host in 0..3_usize {
        for chunk in 0..40_usize {
            let rows: Vec<Row> = (0..5)
                .flat_map(|i| {
                    let labels = labels(3 * (5 * chunk + i) + host);
                    (0..60).map(move |at| {
                        let at = start + at * 60_000;
                        Row::float(labels.clone(), at, (at as f64).sin() * (i + chunk) as f64)
                    })
                })
                .collect();
            db.append(&batch(&rows), now).unwrap();
        }
    }
    let now = start + 3 * WINDOW_MS;
    db.append(&batch(&[Row::float(labels(0), now, 1.0)]), now).unwrap();
    maintain(&db, now + 60_000).unwrap();
    let before = db.stats().block_bytes;
    let new = policies(&[(1, WINDOW_MS)], 9 * DAY_MS);
    let planned = db.retention_plan(&new, now).unwrap();
    db.set_policies(&new).unwrap();
    maintain(&db, now).unwrap();
    let freed = before - db.stats().block_bytes;
    let error = planned.expired_bytes().abs_diff(freed) as f64 / freed as f64;
    assert!(freed > 0 && error < 0.05, "planned {}, freed {freed}", planned.expired_bytes());
    // Now a class has a block of its own.
    let only = Policies::raw_only(WINDOW_MS);
    let planned = db.retention_plan(&only, now).unwrap();
    let before = db.stats().block_bytes;
    db.set_policies(&only).unwrap();
    db.confirm_retention(now);
    maintain(&db, now).unwrap();
    assert_eq!(before - db.stats().block_bytes, planned.expired_bytes());
    assert_eq!(db.retention_report(now).expired_bytes(), 0);
}

#[test]
fn what_is_under_a_hold_stays_until_the_hold_ends() {
    let start = time_of(0);
    let hold = |host: &str, range: TimeRange| Hold {
        id: "case".into(),
        reason: "asked for".into(),
        owner: "me".into(),
        matchers: vec![Matcher::equal("instance", host)],
        range,
        until_ms: Some(start + 9 * WINDOW_MS),
    };
    let first = TimeRange::new(start, start + 1);
    for (hold, stays) in [
        (hold("host-1", first), true),
        (hold("host-1", TimeRange::new(start - 9, start - 1)), false),
        (hold("host-7", first), false),
    ] {
        let held = Policies::raw_only(2 * WINDOW_MS).with_holds(vec![hold]);
        let db = open_with(&SimDisk::new(8), &held, start).unwrap();
        fill(&db, start);
        let left = |windows: i64| {
            let now = start + windows * WINDOW_MS + 21 * 60_000;
            db.append(&batch(&[Row::float(labels(0), now, 1.0)]), now).unwrap();
            maintain(&db, now).unwrap();
            let of_first = |block: &&BlockMeta| block.window.start_ms == start;
            db.blocks().iter().filter(of_first).count()
        };
        assert_eq!([left(1), left(4)], [1, usize::from(stays)]);
        assert_eq!((db.stats().holds, db.stats().holds_ended), (1, 0));
        assert_eq!(left(9), 0);
        assert_eq!(db.stats().on_hold_bytes, 0);
        assert_eq!((db.stats().holds, db.stats().holds_ended), (0, 1));
    }
}
