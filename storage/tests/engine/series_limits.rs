//! Limits on series: the new are refused and the others never suffer, whatever happens meanwhile.

use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::{Appended, Options};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::matcher::Matcher;
use icecore_storage::series_limits::{LimitKind, SeriesLimit};
use icecore_storage::time::WINDOW_MS;

use crate::oracle::*;

const MINUTE: i64 = 60_000;

fn limit(host: Option<usize>, active_max: Option<u64>, new: Option<u64>) -> SeriesLimit {
    let matcher = |host| Matcher::equal("instance", format!("host-{host}"));
    SeriesLimit {
        matchers: host.map(matcher).into_iter().collect(),
        active_max,
        new_per_hour_max: new,
    }
}

fn open_with(disk: &SimDisk, limits: &[SeriesLimit], now_ms: i64) -> Db {
    let options = Options { series_limits: limits.to_vec(), ..options() };
    Db::open(Arc::new(disk.clone()), options, now_ms).unwrap()
}

fn append(db: &Db, series: std::ops::Range<usize>, now_ms: i64) -> Appended {
    let rows: Vec<Row> = series.map(|i| Row::float(labels(i), now_ms, i as f64)).collect();
    db.append(&batch(&rows), now_ms).unwrap()
}

/// Active series, and rows that the limit on them has refused.
fn active(db: &Db, now_ms: i64) -> Vec<(u64, u64)> {
    let limits = db.series_limits(now_ms).into_iter();
    limits.map(|one| (one.active, one.refused_rows[LimitKind::Active as usize])).collect()
}

#[test]
fn what_is_known_is_stored_beside_what_is_refused() {
    let now = time_of(0);
    let disk = SimDisk::new(11);
    let db = open_with(&disk, &[limit(None, Some(5), None)], now);
    assert_eq!(append(&db, 0..5, now).refused.rows, 0);
    let appended = append(&db, 0..9, now + 1000);
    assert_eq!((appended.samples, appended.new_series, appended.refused.rows), (5, 0, 4));
    let listed = &appended.refused.listed;
    assert_eq!(listed.len(), 4);
    assert_eq!((&listed[0].series, listed[0].rows), (&labels(5).to_string(), 1));
    assert_eq!(listed[0].reason, "the limit of 5 active series in total is reached");
    assert_eq!(active(&db, now), [(5, 4)]);
    // Nothing of what was refused is in the log, and replay refuses nothing of what is there.
    db.set_series_limits(&[]);
    assert_eq!(append(&db, 5..7, now + 2000).new_series, 2);
    disk.power_cut(1);
    drop(db);
    let db = open_with(&disk, &[limit(None, Some(5), None)], now + 3000);
    assert_eq!(Oracle::of(&db, i64::MIN).rows.len(), 5 + 5 + 2);
    assert_eq!(active(&db, now), [(7, 0)]);
    let appended = append(&db, 0..9, now + 4000);
    assert_eq!((appended.samples, appended.refused.rows), (7, 2));
}

#[test]
fn a_series_that_falls_silent_gives_up_its_place() {
    let start = time_of(0) / WINDOW_MS * WINDOW_MS;
    let db = open_with(&SimDisk::new(12), &[limit(None, Some(3), None)], start);
    append(&db, 0..3, start);
    let mut now = start;
    // Two go on, one does not.
    while now < start + WINDOW_MS + 20 * MINUTE {
        now += STEP_MS;
        assert_eq!(append(&db, 0..2, now).refused.rows, 0);
    }
    assert_eq!(append(&db, 3..4, now).refused.rows, 1);
    maintain(&db, now).unwrap();
    assert_eq!(active(&db, now), [(2, 1)]);
    assert_eq!(append(&db, 3..4, now).refused.rows, 0);
    assert_eq!(append(&db, 2..3, now).refused.rows, 1, "it comes back as a new one");
    assert_eq!(active(&db, now), [(3, 2)]);
}

#[test]
fn new_series_are_counted_by_the_hour_and_by_selector() {
    let now = time_of(0);
    let by_host = labels(0).get("instance").unwrap().to_owned();
    let limits = [
        SeriesLimit {
            matchers: vec![Matcher::equal("instance", &by_host)],
            active_max: None,
            new_per_hour_max: Some(1),
        },
        limit(None, None, Some(4)),
    ];
    let disk = SimDisk::new(13);
    let db = open_with(&disk, &limits, now);
    let all: Vec<_> = (0..200).map(labels).collect();
    let of_host = all.iter().filter(|one| one.get("instance") == Some(&by_host)).count() as u64;
    assert!(of_host > 1, "several series of the selector");
    let appended = append(&db, 0..200, now);
    assert_eq!((appended.new_series, appended.refused.rows), (4, 196));
    let status = db.series_limits(now);
    assert_eq!((status[0].new_in_last_hour, status[1].new_in_last_hour), (1, 4));
    let refused: u64 = status.iter().flat_map(|one| one.refused_rows).sum();
    assert_eq!(refused, 196);
    let later = now + 61 * MINUTE;
    assert_eq!(append(&db, 0..200, later).new_series, 4);
    // The hour begins anew with the process; what is active is known.
    db.close(later).unwrap();
    drop(db);
    let db = open_with(&disk, &limits, later);
    let status = db.series_limits(later);
    assert_eq!((status[1].active, status[1].new_in_last_hour), (8, 0));
}
