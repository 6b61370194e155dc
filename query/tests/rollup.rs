//! Rollups in place of raw samples: windows that consist of whole buckets have the answer of the raw
//! samples, whatever came late.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;

use icecore_query::engine::{Engine, EngineOptions, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::value::Value;
use icecore_storage::Db;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::Batch;
use icecore_storage::metrics::sample::stale_nan;
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange};
use proptest::prelude::*;

const START_MS: i64 = 500 * DAY_MS;
const END_MS: i64 = START_MS + 2 * DAY_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// To the bit; sums and means within a part in 10^12, and so is the increase of what is no counter
/// and falls more often than a bucket keeps.
const FUNCTIONS: [&str; 15] = [
    "avg_over_time",
    "changes",
    "count_over_time",
    "default_rollup",
    "delta",
    "first_over_time",
    "increase",
    "last_over_time",
    "max_over_time",
    "min_over_time",
    "present_over_time",
    "rate",
    "resets",
    "sum_over_time",
    "ts_of_last_over_time",
];

#[derive(Clone, Debug)]
struct Series {
    labels: Labels,
    samples: Vec<(i64, f64)>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Whole,
    Odd,
}

fn series(number: usize, kind: Kind, every_ms: i64, random: &[u32]) -> Series {
    let labels = [
        ("__name__", "m".to_owned()),
        ("kind", format!("{kind:?}")),
        ("number", number.to_string()),
    ];
    let mut samples = Vec::new();
    let (mut timestamp, mut total) = (START_MS - 10 * MINUTE_MS, 0.0);
    for random in random.iter().cycle().map(|random| i64::from(*random)) {
        // Some on the clock, so that they end a bucket; a gap of hours now and then.
        timestamp += 1 + every_ms * (random % 7) / 3;
        timestamp += i64::from(random % 41 == 0) * 3 * HOUR_MS;
        if random % 5 == 0 {
            timestamp = (timestamp / (5 * MINUTE_MS) + 1) * 5 * MINUTE_MS;
        }
        if timestamp > END_MS {
            break;
        }
        total = if random % 29 == 0 { (random % 3) as f64 } else { total + random as f64 / 7.0 };
        let value = match kind {
            _ if random % 37 == 0 => stale_nan(),
            Kind::Counter => total,
            Kind::Whole => total.floor(),
            Kind::Gauge => (random % 1000 - 500) as f64 / 10.0,
            Kind::Odd => [f64::NAN, -0.0, 0.0, f64::INFINITY, 1.5][random as usize % 5],
        };
        samples.push((timestamp, value));
    }
    Series { labels: Labels::from_pairs(labels).unwrap(), samples }
}

fn many() -> impl Strategy<Value = Vec<Series>> {
    let kinds = vec![Kind::Counter, Kind::Gauge, Kind::Whole, Kind::Odd];
    let kind = prop::sample::select(kinds);
    let random = prop::collection::vec(1..10_000u32, 40..200);
    let one = (kind, 20_000..400_000i64, random);
    prop::collection::vec(one, 1..6).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(number, (kind, every, random))| series(number, kind, every, &random))
            .collect()
    })
}

fn append(db: &Db, series: &[Series], now_ms: i64, wanted: impl Fn(i64) -> bool) {
    let samples = series.iter().flat_map(|one| {
        one.samples.iter().map(|(timestamp, value)| (&one.labels, *timestamp, *value))
    });
    let batch = Batch::of_samples(samples.filter(|(_, timestamp, _)| wanted(*timestamp)));
    let appended = db.append(&batch, now_ms).unwrap();
    assert!(appended.refused.is_empty(), "{:?}", appended.refused);
}

/// Two of seven samples come late: those of a day that is rolled up, which is done again; and those of
/// the last hours after that, so that their day is read raw.
fn load(series: &[Series], tiers_ms: &[i64]) -> Db {
    let tier = |resolution_ms: i64| Tier {
        resolution_ms: resolution_ms.unsigned_abs(),
        lifetime_ms: 100 * DAY_MS,
    };
    let tiers = std::iter::once(0).chain(tiers_ms.iter().copied()).map(tier).collect();
    let policies = Policies::new(vec![Policy { matchers: Vec::new(), tiers }]);
    let options = Options { policies, ..Options::default() };
    let mut now_ms = END_MS + 6 * HOUR_MS;
    let db = Db::open(Arc::new(SimDisk::new(3)), options, now_ms).unwrap();
    let part = |timestamp: i64| timestamp.rem_euclid(101) % 7;
    let is_last = |timestamp: i64| timestamp > END_MS - 6 * HOUR_MS && part(timestamp) == 6;
    append(&db, series, now_ms, |timestamp| part(timestamp) != 5 && !is_last(timestamp));
    for _ in 0..2 {
        for _ in 0..3 {
            now_ms += HOUR_MS;
            while db.maintain(now_ms).unwrap() != Progress::Idle {}
        }
        append(&db, series, now_ms, |timestamp| part(timestamp) == 5);
    }
    for _ in 0..3 {
        now_ms += HOUR_MS;
        while db.maintain(now_ms).unwrap() != Progress::Idle {}
    }
    append(&db, series, now_ms, is_last);
    db
}

/// Values by series and time.
fn ask(
    db: &Db,
    query: &str,
    (start_ms, end_ms, step_ms): (i64, i64, i64),
) -> Vec<(String, i64, f64)> {
    let engine = Engine::new(EngineOptions::default());
    let parsed = parser::parse(query, ParserOptions::ALL).unwrap();
    let asked = QueryOptions::default();
    let source = db.snapshot();
    let answer = engine.range(&source, query, &parsed, start_ms, end_ms, step_ms, &asked).unwrap();
    let Value::Matrix(rows) = answer.value else { panic!("a range query gives a matrix") };
    let points = rows.into_iter().flat_map(|row| {
        let labels = row.labels.to_string();
        let floats = row.floats.into_iter();
        floats.map(move |(timestamp, value)| (labels.clone(), timestamp, value))
    });
    points.collect()
}

fn are_equal(query: &str, labels: &str, a: f64, b: f64) -> bool {
    let is_increase = query.starts_with("rate") || query.starts_with("increase");
    let is_counter = labels.contains("Counter") || labels.contains("Whole");
    let is_sum = query.starts_with("sum") || query.starts_with("avg") || is_increase && !is_counter;
    let is_near = (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1e3);
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() || is_sum && is_near
}

/// The coarsest rollups that are read for hours of the first day.
fn resolution_ms(db: &Db) -> i64 {
    let range = TimeRange::new(START_MS + 1, START_MS + 12 * HOUR_MS);
    let selector = Selector { matchers: Vec::new(), range, aligned_ms: HOUR_MS };
    let snapshot = db.snapshot();
    let selected = snapshot.select(&[selector]).unwrap();
    selected[0].iter().map(|series| snapshot.resolution(series).0).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn rollups_and_raw_samples_have_one_answer(
        series in many(),
        asked in prop::collection::vec((0..40i64, 0..3usize, 1..25i64, 1..4i64), 4),
    ) {
        let raw = load(&series, &[]);
        let rolled_up = load(&series, &[5 * MINUTE_MS, HOUR_MS]);
        prop_assert_eq!(resolution_ms(&rolled_up), HOUR_MS);
        for (start, unit, window, step) in asked {
            let unit_ms = [5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS][unit];
            let start_ms = START_MS + start * unit_ms;
            let times = (start_ms, start_ms + 12 * HOUR_MS, step * unit_ms);
            let window = format!("{}ms", window * unit_ms);
            let queries = FUNCTIONS.map(|function| format!("{function}(m[{window}])"));
            let instant = ["m".to_owned(), "timestamp(m offset 1h)".to_owned()];
            for query in queries.iter().chain(&instant) {
                let (of_raw, of_rollups) = (ask(&raw, query, times), ask(&rolled_up, query, times));
                prop_assert_eq!(of_raw.len(), of_rollups.len(), "{} {:?}", query, times);
                for (a, b) in of_raw.iter().zip(&of_rollups) {
                    let is_equal = (&a.0, a.1) == (&b.0, b.1) && are_equal(query, &a.0, a.2, b.2);
                    prop_assert!(is_equal, "{} {:?}: {:?} and {:?}", query, times, a, b);
                }
            }
        }
    }
}
