//! Windows of whole buckets: functions that are right on rollups have the answer of the raw samples.

use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange};
use proptest::prelude::*;

use crate::ask::{ask, difference};
use crate::data::{END_MS, HOUR_MS, START_MS, Series, batch, many};

/// To the bit; sums and means within a part in 10^12, and so is the increase of what is no counter
/// and falls more often than a bucket keeps, and what is computed from histograms.
const FUNCTIONS: [&str; 17] = [
    "count_over_time",
    "sum_over_time",
    "avg_over_time",
    "changes",
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
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "absent_over_time",
];

/// Over histograms. Where counts and sums alone are read, a gauge is only seen to fall where its count
/// does; a bucket has looked at all of it.
const OVER_HISTOGRAMS: [(&str, &str); 4] = [
    ("histogram_quantile(0.9, rate(m[", "]))"),
    ("histogram_count(increase(m{kind!='GaugeHistogram'}[", "]))"),
    ("histogram_avg(rate(m{kind!='GaugeHistogram'}[", "]))"),
    ("histogram_sum(sum_over_time(m[", "]))"),
];

/// Samples of a time are deleted, of all series or of one number.
#[derive(Clone, Copy, Debug)]
struct Delete {
    range: TimeRange,
    number: Option<usize>,
    /// Before late samples come, which are then there.
    is_early: bool,
}

fn deletes() -> impl Strategy<Value = Vec<Delete>> {
    let one = (0..2 * DAY_MS, 1..6 * HOUR_MS, prop::option::of(0..5usize), any::<bool>());
    let one = one.prop_map(|(start, length, number, is_early)| {
        let start_ms = START_MS + start;
        Delete { range: TimeRange::new(start_ms, start_ms + length), number, is_early }
    });
    prop::collection::vec(one, 0..4)
}

fn delete(db: &Db, deletes: &[Delete], is_early: bool, now_ms: i64) {
    for one in deletes.iter().filter(|one| one.is_early == is_early) {
        let matcher = |name: &str, value: &str| Matcher::new(name, MatchOp::Equal, value).unwrap();
        let mut matchers = vec![matcher("__name__", "m")];
        matchers.extend(one.number.map(|number| matcher("number", &number.to_string())));
        db.delete(&[matchers], one.range, now_ms).unwrap();
    }
}

fn append(db: &Db, series: &[Series], now_ms: i64, wanted: impl Fn(i64) -> bool) {
    let appended = db.append(&batch(series, wanted), now_ms).unwrap();
    assert!(appended.refused.is_empty(), "{:?}", appended.refused);
}

/// Two of seven samples come late: those of a day that is rolled up, which is done again; and those of
/// the last hours after that, so that their day is read raw. Deletes come before late samples and
/// after them.
fn load(series: &[Series], deletes: &[Delete], tiers_ms: &[i64]) -> Db {
    let tier = |resolution_ms: i64| Tier {
        resolution_ms: resolution_ms.unsigned_abs(),
        lifetime_ms: 100 * DAY_MS,
    };
    let tiers = std::iter::once(0).chain(tiers_ms.iter().copied()).map(tier).collect();
    let policies = Policies::new(vec![Policy { matchers: Vec::new(), tiers }]);
    let options = Options { policies, ..Options::default() };
    let mut now_ms = END_MS + 6 * HOUR_MS;
    let db = Db::open(Arc::new(SimDisk::new(3)), options, now_ms).unwrap();
    let settle = |now_ms: &mut i64| {
        for _ in 0..3 {
            *now_ms += HOUR_MS;
            while db.maintain(*now_ms).unwrap() != Progress::Idle {}
        }
    };
    let part = |timestamp: i64| timestamp.rem_euclid(101) % 7;
    let is_last = |timestamp: i64| timestamp > END_MS - 6 * HOUR_MS && part(timestamp) == 6;
    append(&db, series, now_ms, |timestamp| part(timestamp) != 5 && !is_last(timestamp));
    settle(&mut now_ms);
    delete(&db, deletes, true, now_ms);
    append(&db, series, now_ms, |timestamp| part(timestamp) == 5);
    settle(&mut now_ms);
    delete(&db, deletes, false, now_ms);
    settle(&mut now_ms);
    append(&db, series, now_ms, is_last);
    db
}

fn to_the_bit(query: &str, labels: &str) -> bool {
    let is_increase = query.starts_with("rate") || query.starts_with("increase");
    let is_counter = labels.contains("Counter") || labels.contains("Whole");
    let is_sum = query.starts_with("sum") || query.starts_with("avg") || is_increase && !is_counter;
    !is_sum && !query.starts_with("histogram")
}

/// The coarsest rollups that are read for hours of the first day.
fn resolution_ms(db: &Db) -> i64 {
    let range = TimeRange::new(START_MS + 1, START_MS + 12 * HOUR_MS);
    let selector = Selector { matchers: Vec::new(), range, aligned_ms: HOUR_MS };
    let snapshot = db.snapshot();
    let selected = snapshot.select(&[selector]).unwrap();
    selected[0].iter().map(|series| snapshot.resolution(series)).max().unwrap_or(HOUR_MS)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn rollups_and_raw_samples_have_one_answer(
        series in many(),
        deletes in deletes(),
        asked in prop::collection::vec((0..40i64, 0..3usize, 1..25i64, 1..4i64), 4),
    ) {
        let raw = load(&series, &deletes, &[]);
        let rolled_up = load(&series, &deletes, &[5 * MINUTE_MS, HOUR_MS]);
        prop_assert_eq!(resolution_ms(&rolled_up), HOUR_MS);
        for (start, unit, window, step) in asked {
            let unit_ms = [5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS][unit];
            let start_ms = START_MS + start * unit_ms;
            let times = (start_ms, start_ms + 12 * HOUR_MS, step * unit_ms);
            let window = format!("{}ms", window * unit_ms);
            let queries = FUNCTIONS.map(|function| format!("{function}(m[{window}])"));
            let of_histograms =
                OVER_HISTOGRAMS.map(|(before, behind)| format!("{before}{window}{behind}"));
            let instant = ["m".to_owned(), "timestamp(m offset 1h)".to_owned()];
            for query in queries.iter().chain(&of_histograms).chain(&instant) {
                let (of_raw, of_rollups) = (ask(&raw, query, times), ask(&rolled_up, query, times));
                let differ = difference(&of_raw, &of_rollups, |labels| to_the_bit(query, labels));
                prop_assert!(differ.is_none(), "{} {:?}: {}", query, times, differ.unwrap_or_default());
            }
        }
    }
}
