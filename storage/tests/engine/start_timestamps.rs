//! Start timestamps are read beside their samples, and what holds them is nowhere to be seen.

use icecore_storage::Db;
use icecore_storage::cardinality::Question;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::metrics::sample::Samples;
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{DAY_MS, TimeRange, WINDOW_MS};

use crate::oracle::*;

const ALL: TimeRange = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };

/// Timestamps and start timestamps of a series.
fn starts(db: &Db, matchers: Vec<Matcher>) -> Vec<(i64, i64)> {
    let snapshot = db.snapshot();
    let selected = snapshot.select(&[Selector { matchers, range: ALL, aligned_ms: 0 }]).unwrap();
    let mut found = Vec::new();
    for series in &selected[0] {
        let mut samples = Samples::default();
        snapshot.read(series, &mut samples).unwrap();
        let starts = samples.start_timestamps.iter().copied().chain(std::iter::repeat(0));
        found.extend(samples.timestamps.iter().copied().zip(starts));
    }
    found
}

fn name(name: &str) -> Vec<Matcher> {
    vec![Matcher::equal("__name__", name)]
}

/// When the window of the first samples is sealed by the clock.
const AFTER_MS: i64 = 1000 * WINDOW_MS + WINDOW_MS + 20 * 60 * 1000;

/// A counter with start timestamps and a gauge without, in a block and in the head.
fn filled() -> Db {
    let db = open(&SimDisk::new(1), time_of(0)).unwrap();
    let counter = Labels::from_pairs([("__name__", "counter"), ("job", "j")]).unwrap();
    let gauge = Labels::from_pairs([("__name__", "gauge"), ("job", "j")]).unwrap();
    let row = |minute: i64, start_timestamp| {
        let timestamp = time_of(0) + minute * 60_000;
        Row { start_timestamp, ..Row::float(counter.clone(), timestamp, minute as f64) }
    };
    let sealed = [row(0, Some(-5)), row(1, None), Row::float(gauge, time_of(0), 1.0)];
    db.append(&batch(&sealed), time_of(0)).unwrap();
    maintain(&db, AFTER_MS).unwrap();
    assert_eq!(db.stats().blocks, 1);
    db.append(&batch(&[row(2, Some(7))]), AFTER_MS).unwrap();
    db
}

#[test]
fn start_timestamps_stand_beside_their_samples() {
    let db = filled();
    let minute = |number: i64| time_of(0) + number * 60_000;
    let expected = [(minute(0), -5), (minute(1), 0), (minute(2), 7)];
    assert_eq!(starts(&db, name("counter")), expected);
    assert_eq!(starts(&db, name("gauge")), [(minute(0), 0)]);
    assert_eq!(starts(&db, Vec::new()).len(), 4, "every sample once");
    // The late sample is sealed and merged.
    maintain(&db, AFTER_MS + WINDOW_MS / 2).unwrap();
    assert!(db.blocks().iter().any(|block| block.level > 0));
    assert_eq!(starts(&db, name("counter")), expected);
}

#[test]
fn a_start_timestamp_alone_is_nothing() {
    let db = open(&SimDisk::new(1), time_of(0)).unwrap();
    let mut alone =
        batch(&[Row { start_timestamp: Some(5), ..Row::float(labels(0), time_of(0), 1.0) }]);
    alone.start_timestamps[0].timestamp += 1;
    let appended = db.append(&alone, time_of(0)).unwrap();
    assert_eq!((appended.samples, appended.new_series), (1, 1));
    assert_eq!(starts(&db, Vec::new()), [(time_of(0), 0)]);
}

#[test]
fn what_holds_them_is_not_to_be_seen() {
    const LABEL: &str = "__start_timestamp__";
    let db = filled();
    let snapshot = db.snapshot();
    assert_eq!(snapshot.label_names(&[], ALL).unwrap(), ["__name__", "job"]);
    assert_eq!(snapshot.label_names(&[name("counter")], ALL).unwrap(), ["__name__", "job"]);
    assert!(snapshot.label_values(LABEL, &[], ALL).unwrap().is_empty());
    assert_eq!(snapshot.label_values("__name__", &[], ALL).unwrap(), ["counter", "gauge"]);
    let found = snapshot.series(&[], ALL).unwrap();
    assert_eq!(found.len(), 2);
    for matcher in [
        Matcher::new(LABEL, MatchOp::NotEqual, "").unwrap(),
        Matcher::new(LABEL, MatchOp::Regex, ".+").unwrap(),
    ] {
        assert!(snapshot.series(&[vec![matcher.clone()]], ALL).unwrap().is_empty());
        assert!(starts(&db, vec![matcher]).is_empty());
    }
    for (day_ms, metrics) in [(None, 1), (Some(time_of(0).div_euclid(DAY_MS) * DAY_MS), 2)] {
        let question = Question { limit: 10, day_ms, ..Question::default() };
        let found = snapshot.cardinality(&question, &mut |_| true).unwrap();
        assert_eq!((found.series_by_metric.len(), found.series), (metrics, metrics as u64));
        assert!(found.series_by_metric.iter().all(|metric| metric.count == 1));
        let names: Vec<_> = found.values_by_label.iter().map(|one| one.name.as_str()).collect();
        assert!(names.len() == 2 && names.contains(&"__name__") && names.contains(&"job"));
        assert!(found.series_by_pair.iter().all(|pair| !pair.name.starts_with(LABEL)));
    }
}

#[test]
fn nobody_may_write_there() {
    let db = open(&SimDisk::new(1), time_of(0)).unwrap();
    let labels = Labels::from_pairs([("__name__", "m"), ("__start_timestamp__", "ms")]).unwrap();
    let appended = db.append(&batch(&[Row::float(labels, time_of(0), 1.0)]), time_of(0)).unwrap();
    assert_eq!(appended.samples, 0);
    let reason = &appended.refused.listed[0].reason;
    assert_eq!(reason, "label \"__start_timestamp__\" is reserved for start timestamps");
}
