//! Rollups: days of raw samples become blocks of each tier, and are made again when samples change.

use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::Options;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::metrics::batch::Batch;
use icecore_storage::metrics::block::meta::BlockMeta;
use icecore_storage::retention::hold::Hold;
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange, WINDOW_MS};

use crate::oracle::maintain;

const HOUR_MS: i64 = 60 * MINUTE_MS;
const FIRST_MS: i64 = 1000 * DAY_MS;

fn open(disk: &SimDisk, now_ms: i64) -> Db {
    open_with(disk, policies([30; 3]), now_ms)
}

/// Days that raw samples, buckets of five minutes and those of an hour live.
fn policies(days: [i64; 3]) -> Policies {
    let tier = |(resolution_ms, days): (i64, i64)| Tier {
        resolution_ms: resolution_ms.unsigned_abs(),
        lifetime_ms: days * DAY_MS,
    };
    let tiers = [0, 5 * MINUTE_MS, HOUR_MS].into_iter().zip(days).map(tier).collect();
    Policies::new(vec![Policy { matchers: Vec::new(), tiers }])
}

fn open_with(disk: &SimDisk, policies: Policies, now_ms: i64) -> Db {
    let options = Options { policies, seed: 7, ..Options::default() };
    Db::open(Arc::new(disk.clone()), options, now_ms).unwrap()
}

fn series(number: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("n", number.to_string())]).unwrap()
}

fn append(db: &Db, series: &Labels, timestamp: i64, value: f64, now_ms: i64) {
    let batch = Batch::of_samples([(series, timestamp, value)]);
    let appended = db.append(&batch, now_ms).unwrap();
    assert!(appended.refused.is_empty(), "{:?}", appended.refused);
}

/// Samples of three series every ten minutes for some days from the first, with upkeep.
fn days(db: &Db, days: i64) -> i64 {
    let steps = days * DAY_MS / (10 * MINUTE_MS);
    for step in 0..=steps {
        let now_ms = FIRST_MS + step * 10 * MINUTE_MS;
        for number in 0..3 {
            append(db, &series(number), now_ms, step as f64 / 7.0, now_ms);
        }
        if step % 12 == 0 {
            maintain(db, now_ms).unwrap();
        }
    }
    FIRST_MS + days * DAY_MS
}

fn tiers(db: &Db) -> Vec<BlockMeta> {
    db.blocks().into_iter().filter(|block| block.tier_ms > 0).collect()
}

#[test]
fn each_day_is_rolled_up_to_every_tier_and_survives_a_restart() {
    let disk = SimDisk::new(1);
    let db = open(&disk, FIRST_MS);
    let now_ms = days(&db, 3) + 3 * WINDOW_MS;
    maintain(&db, now_ms).unwrap();
    let made = tiers(&db);
    // The midnight with which the first day begins is the end of the one before.
    let windows: Vec<(u64, i64, u64)> = made
        .iter()
        .map(|meta| (meta.tier_ms, (meta.window.start_ms - 1 - FIRST_MS) / DAY_MS, meta.samples))
        .collect();
    let five = 5 * MINUTE_MS as u64;
    let hour = HOUR_MS as u64;
    let mut expected = vec![(five, -1, 3), (hour, -1, 3)];
    for day in 0..2 {
        expected.extend([(five, day, 3 * 144), (hour, day, 3 * 24)]);
    }
    assert_eq!(windows[..expected.len()], expected);
    db.verify().unwrap();
    drop(db);
    let again = open(&disk.kill(), now_ms);
    assert_eq!(tiers(&again), made);
}

#[test]
fn a_late_sample_has_its_day_made_again() {
    let disk = SimDisk::new(2);
    let db = open(&disk, FIRST_MS);
    let mut now_ms = days(&db, 2) + 3 * WINDOW_MS;
    maintain(&db, now_ms).unwrap();
    let before: Vec<u64> = tiers(&db).iter().map(|meta| meta.samples).collect();
    let late = FIRST_MS + 7 * HOUR_MS + 12 * MINUTE_MS + 1;
    append(&db, &series(9), late, 1.0, now_ms);
    for _ in 0..4 {
        now_ms += HOUR_MS;
        maintain(&db, now_ms).unwrap();
    }
    let after: Vec<u64> = tiers(&db).iter().map(|meta| meta.samples).collect();
    let more: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    assert_eq!(more, 2, "one more bucket in each tier");
    db.verify().unwrap();
}

/// The coarsest rollups that answer for the first day in steps of an hour, far from other days.
fn resolution_ms(db: &Db) -> i64 {
    let snapshot = db.snapshot();
    let range = TimeRange::new(FIRST_MS + 5 * HOUR_MS + 1, FIRST_MS + 12 * HOUR_MS);
    let matchers = vec![Matcher::new("n", MatchOp::Equal, "1").unwrap()];
    let selector = Selector { matchers, range, aligned_ms: HOUR_MS };
    let selected = snapshot.select(&[selector]).unwrap();
    snapshot.resolution(&selected[0][0])
}

#[test]
fn a_delete_has_its_day_made_again() {
    let disk = SimDisk::new(3);
    let db = open(&disk, FIRST_MS);
    let mut now_ms = days(&db, 2) + 3 * WINDOW_MS;
    maintain(&db, now_ms).unwrap();
    let buckets = |db: &Db| tiers(db).iter().map(|meta| meta.samples).sum::<u64>();
    let before = buckets(&db);
    assert_eq!(resolution_ms(&db), HOUR_MS);
    // An hour that is a bucket, and one sample of another.
    let hour = TimeRange::new(FIRST_MS + 7 * HOUR_MS + 1, FIRST_MS + 8 * HOUR_MS);
    let one = TimeRange::new(FIRST_MS + 10 * HOUR_MS + 1, FIRST_MS + 10 * HOUR_MS + 10 * MINUTE_MS);
    for range in [hour, one] {
        let matchers = vec![Matcher::new("n", MatchOp::Equal, "1").unwrap()];
        db.delete(&[matchers], range, now_ms).unwrap();
    }
    assert_eq!(resolution_ms(&db), 0, "until it is made again the day is read raw");
    let again = open(&disk.kill(), now_ms);
    assert_eq!(resolution_ms(&again), 0, "after a restart too");
    for _ in 0..4 {
        now_ms += HOUR_MS;
        maintain(&again, now_ms).unwrap();
    }
    assert_eq!(resolution_ms(&again), HOUR_MS);
    // Six buckets of 5 m and one of 1 h; one of 5 m, and that of 1 h has five samples left.
    assert_eq!(before - buckets(&again), 6 + 1 + 1);
    again.verify().unwrap();
}

/// Buckets of each tier.
fn buckets(db: &Db) -> Vec<(u64, u64)> {
    let of_tier = |tier_ms: u64| {
        let of_tier = tiers(db).into_iter().filter(|meta| meta.tier_ms == tier_ms);
        (tier_ms, of_tier.map(|meta| meta.samples).sum())
    };
    [5 * MINUTE_MS, HOUR_MS].map(|tier_ms| of_tier(tier_ms.unsigned_abs())).to_vec()
}

#[test]
fn a_delete_between_the_samples_of_a_bucket_takes_none_of_them_from_it() {
    let disk = SimDisk::new(3);
    let db = open(&disk, FIRST_MS);
    let mut now_ms = days(&db, 2) + 3 * WINDOW_MS;
    maintain(&db, now_ms).unwrap();
    let before = buckets(&db);
    let quiet = FIRST_MS + 7 * HOUR_MS + MINUTE_MS;
    let all = [Vec::new()];
    db.delete(&all, TimeRange::new(quiet, quiet + MINUTE_MS), now_ms).unwrap();
    for _ in 0..4 {
        now_ms += HOUR_MS;
        maintain(&db, now_ms).unwrap();
    }
    assert_eq!(buckets(&db), before);
    db.verify().unwrap();
}

#[test]
fn a_late_sample_of_a_day_whose_raw_samples_are_gone_takes_no_bucket_of_it() {
    let disk = SimDisk::new(4);
    let db = open_with(&disk, policies([1, 30, 30]), FIRST_MS);
    let mut now_ms = days(&db, 4) + 3 * WINDOW_MS;
    maintain(&db, now_ms).unwrap();
    let oldest =
        db.blocks().into_iter().filter(|block| block.tier_ms == 0).map(|b| b.range.start_ms);
    assert!(oldest.min().unwrap() > FIRST_MS + DAY_MS, "raw samples of the first day are gone");
    let before = buckets(&db);
    db.set_policies(&policies([20, 30, 30])).unwrap();
    append(&db, &series(9), FIRST_MS + 7 * HOUR_MS + 1, 1.0, now_ms);
    for _ in 0..12 {
        now_ms += HOUR_MS;
        maintain(&db, now_ms).unwrap();
    }
    let more: Vec<(u64, u64)> = before.iter().map(|(tier_ms, all)| (*tier_ms, all + 1)).collect();
    assert_eq!(buckets(&db), more);
}

#[test]
fn what_is_on_hold_longer_than_a_tier_lives_is_not_rolled_up_over_and_over() {
    let disk = SimDisk::new(5);
    let hold = Hold {
        id: "1".into(),
        reason: "a test".into(),
        owner: "nobody".into(),
        matchers: Vec::new(),
        range: TimeRange::ALL,
        until_ms: None,
    };
    let held = policies([1, 2, 30]).with_holds(vec![hold]);
    let db = open_with(&disk, held, FIRST_MS);
    // Fails if upkeep does not come to its end.
    days(&db, 6);
}
