//! Where raw samples are gone: what fits the rollups that are left is answered as before, and what
//! does not is answered from whole buckets and says so.

use std::sync::{Arc, LazyLock};

use icecore_query::engine::QueryOptions;
use icecore_storage::Db;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::Batch;
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::time::{DAY_MS, MINUTE_MS};

use crate::ask::{Point, Points, Times, ask, ask_as, ask_with_notes, difference, is_near};
use crate::data::HOUR_MS;

const START_MS: i64 = 700 * DAY_MS;
const DAYS: i64 = 12;
const END_MS: i64 = START_MS + DAYS * DAY_MS;
const EVERY_MS: i64 = 2 * MINUTE_MS;
const FIVE_MS: i64 = 5 * MINUTE_MS;

/// In the first days there is 1h alone, in the next ones 5m too, in the last ones all.
const RAW_DAYS: i64 = 3;
const FIVE_DAYS: i64 = 8;

/// Of both databases, raw samples and rollups.
struct Both {
    raw: Db,
    tiered: Db,
}

static BOTH: LazyLock<Both> = LazyLock::new(|| Both {
    raw: load(&[(0, 100)]),
    tiered: load(&[(0, RAW_DAYS), (FIVE_MS, FIVE_DAYS), (HOUR_MS, 100)]),
});

/// By its distance from the start in minutes.
fn value(series: usize, minute: i64) -> f64 {
    match series {
        // Grows evenly, by one a minute.
        0 => minute as f64,
        // Is reset now and then.
        1 => (minute * minute % 977 + minute % 600 * 11) as f64,
        _ => (minute * 7919 % 1013) as f64 / 8.0 - 50.0,
    }
}

fn load(tiers: &[(i64, i64)]) -> Db {
    let tier = |(resolution_ms, days): &(i64, i64)| Tier {
        resolution_ms: resolution_ms.unsigned_abs(),
        lifetime_ms: days * DAY_MS,
    };
    let tiers = tiers.iter().map(tier).collect();
    let policies = Policies::new(vec![Policy { matchers: Vec::new(), tiers }]);
    let options = Options { policies, ..Options::default() };
    let db = Db::open(Arc::new(SimDisk::new(9)), options, START_MS).unwrap();
    let labels = ["even_total", "m_total", "gauge"]
        .map(|name| Labels::from_pairs([("__name__", name)]).unwrap());
    let steps_of_window = 2 * HOUR_MS / EVERY_MS;
    for window in 0..=(END_MS - START_MS) / (2 * HOUR_MS) {
        let rows = (0..steps_of_window).flat_map(|step| {
            let timestamp = START_MS + (window * steps_of_window + step + 1) * EVERY_MS;
            let minute = (timestamp - START_MS) / MINUTE_MS;
            let labels = labels.iter().enumerate();
            labels.map(move |(series, labels)| (labels, timestamp, value(series, minute)))
        });
        let rows = rows.filter(|(_, timestamp, _)| *timestamp <= END_MS);
        let now_ms = START_MS + (window + 1) * 2 * HOUR_MS;
        let appended = db.append(&Batch::of_samples(rows), now_ms).unwrap();
        assert!(appended.refused.is_empty(), "{:?}", appended.refused);
        while db.maintain(now_ms).unwrap() != Progress::Idle {}
    }
    while db.maintain(END_MS + 3 * HOUR_MS).unwrap() != Progress::Idle {}
    db
}

/// The oldest time that blocks of a tier have.
fn oldest_ms(db: &Db, tier_ms: i64) -> i64 {
    let blocks = db.blocks().into_iter().filter(|meta| meta.tier_ms == tier_ms as u64);
    blocks.map(|meta| meta.window.start_ms).min().unwrap()
}

fn both(query: &str, times: Times) -> (Points, Points, Vec<String>) {
    let (points, notes) = ask_with_notes(&BOTH.tiered, query, times);
    (ask(&BOTH.raw, query, times), points, notes)
}

fn value_at(points: &Points, time: i64) -> Option<f64> {
    points.iter().find(|(_, at, _)| *at == time).map(|(_, _, point)| match point {
        Point::Float(value) => *value,
        Point::Histogram(_) => panic!("there are floats alone"),
    })
}

fn hour(number: i64) -> i64 {
    START_MS + number * HOUR_MS
}

#[test]
fn a_range_over_all_tiers_is_one_answer() {
    let tiered = &BOTH.tiered;
    // Windows of tiers have their end and not their start.
    let ages = [0, FIVE_MS, HOUR_MS].map(|tier| (END_MS + 1 - oldest_ms(tiered, tier)) / DAY_MS);
    assert_eq!(ages, [RAW_DAYS, FIVE_DAYS, DAYS], "each tier has its own time");
    let times = (hour(4), END_MS, HOUR_MS);
    let functions = ["rate", "increase", "delta", "changes", "resets", "avg_over_time"]
        .into_iter()
        .chain(["sum_over_time", "min_over_time", "max_over_time", "count_over_time"])
        .chain(["first_over_time", "last_over_time", "present_over_time"]);
    for function in functions {
        for metric in ["even_total", "m_total", "gauge"] {
            let (raw, points, notes) = both(&format!("{function}({metric}[2h])"), times);
            assert_eq!(points.len(), (DAYS * 24 - 3) as usize, "{function} {metric}");
            assert_eq!(difference(&raw, &points, |_| false), None, "{function} {metric}");
            let is_name_alone = notes.iter().all(|note| note.contains("might not be a counter"));
            assert!(is_name_alone, "{function}: {notes:?}");
        }
    }
}

#[test]
fn windows_of_less_than_two_buckets_are_widened_and_results_scaled_back() {
    // Not on the hour: the window ends with the newest bucket that has ended.
    let old = hour(30) + 17 * MINUTE_MS;
    for (function, metric) in [
        ("increase", "m_total"),
        ("delta", "gauge"),
        ("sum_over_time", "gauge"),
        ("count_over_time", "gauge"),
    ] {
        let (_, points, notes) = both(&format!("{function}({metric}[5m])"), (old, old, 1));
        let wide = ask(&BOTH.raw, &format!("{function}({metric}[2h])"), (hour(30), hour(30), 1));
        let expected = value_at(&wide, hour(30)).unwrap() * 5.0 / 120.0;
        let value = value_at(&points, old).unwrap();
        assert!(is_near(value, expected), "{function}: {value} and {expected}");
        let note =
            "raw samples are gone for a part of the range: a window of 2h was used in place of 5m";
        assert!(notes.iter().any(|one| one.contains(note)), "{notes:?}");
    }
    // What does not grow with the window is as it is.
    for (function, metric) in [("rate", "m_total"), ("max_over_time", "gauge")] {
        let (_, points, _) = both(&format!("{function}({metric}[5m])"), (old, old, 1));
        let wide = ask(&BOTH.raw, &format!("{function}({metric}[2h])"), (hour(30), hour(30), 1));
        let (value, expected) = (value_at(&points, old).unwrap(), value_at(&wide, hour(30)));
        assert!(is_near(value, expected.unwrap()), "{function}");
    }
    // A window of many buckets that are not whole ones is rounded up.
    let (_, points, notes) = both("increase(even_total[330m])", (old, old, 1));
    assert!(is_near(value_at(&points, old).unwrap(), 330.0), "{points:?}");
    assert!(notes[0].contains("a window of 6h was used in place of 5h30m"), "{notes:?}");
}

#[test]
fn each_step_has_the_finest_tier_that_is_left() {
    let times = (hour(6), END_MS, 37 * MINUTE_MS);
    let (raw, points, notes) = both("increase(even_total[10m])", times);
    assert_eq!(points.len(), raw.len());
    for (a, b) in raw.iter().zip(&points) {
        assert_eq!((&a.0, a.1), (&b.0, b.1));
        let (Point::Float(value), Point::Float(expected)) = (&b.2, &a.2) else { panic!("floats") };
        // It grows by one a minute wherever one looks.
        assert!((value - 10.0).abs() < 1e-9, "{} minutes: {value}", (b.1 - START_MS) / MINUTE_MS);
        let is_raw = b.1 - 10 * MINUTE_MS > END_MS - RAW_DAYS * DAY_MS;
        assert!(!is_raw || value.to_bits() == expected.to_bits());
    }
    // Ten minutes are two buckets of 5m: only where there is 1h alone are windows wider.
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("a window of 2h was used in place of 10m"), "{notes:?}");
    // The recent steps are those of raw samples, bit for bit.
    let (raw, points, _) = both("increase(m_total[10m])", times);
    let recent = |points: &Points| -> Points {
        let is_recent = |time: i64| time - 10 * MINUTE_MS > END_MS - RAW_DAYS * DAY_MS;
        points.iter().filter(|(_, time, _)| is_recent(*time)).cloned().collect()
    };
    assert!(recent(&raw).len() > 100);
    assert_eq!(difference(&recent(&raw), &recent(&points), |_| true), None);
}

#[test]
fn a_selector_looks_back_over_two_buckets_where_raw_samples_are_gone() {
    let times = (hour(6), END_MS, 7 * MINUTE_MS);
    let (raw, points, notes) = both("even_total", times);
    assert_eq!(points.len(), raw.len(), "no gaps");
    assert_eq!(notes, Vec::<String>::new());
    for ((_, time, a), (_, _, b)) in raw.iter().zip(&points) {
        let (Point::Float(a), Point::Float(b)) = (a, b) else { panic!("floats") };
        let behind = a - b;
        let most = match (END_MS - time) / DAY_MS {
            0..=2 => 0.0,
            3..=6 => 5.0,
            _ => 60.0,
        };
        assert!((0.0..=most).contains(&behind), "{behind} minutes behind, {most} at most");
    }
}

#[test]
fn functions_that_need_all_samples_say_what_they_had() {
    let (_, points, notes) =
        both("quantile_over_time(0.5, even_total[6h])", (hour(30), hour(30), 1));
    // The last samples of the six hours: at the full hours.
    assert_eq!(value_at(&points, hour(30)), Some((27.0 + 28.0) * 30.0));
    let note = "there quantile_over_time was computed from the last sample of every 1h";
    assert!(notes.iter().any(|one| one.contains(note)), "{notes:?}");
}

#[test]
fn how_coarse_rollups_may_be_can_be_bounded() {
    let times = (hour(6), END_MS, HOUR_MS);
    let steps_from = |days: i64| (days * 24) as usize;
    for (resolution_max_ms, steps) in [
        // A raw block begins with the sample of midnight.
        (Some(0), steps_from(RAW_DAYS) + 1),
        (Some(FIVE_MS), steps_from(FIVE_DAYS)),
        (Some(HOUR_MS - 1), steps_from(FIVE_DAYS)),
        (Some(HOUR_MS), steps_from(DAYS) - 5),
        (None, steps_from(DAYS) - 5),
    ] {
        let options = QueryOptions { resolution_max_ms, ..QueryOptions::default() };
        let points = ask_as(&BOTH.tiered, "count_over_time(gauge[1h])", times, &options).0;
        assert_eq!(points.len(), steps, "{resolution_max_ms:?}");
    }
}
