//! Cardinality of the head and of past days, against counting by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::cardinality::{Cardinality, Entry, Question};
use icecore_storage::db::Options;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::metrics::block::meta::BlockMeta;
use icecore_storage::retention::policy::Policies;
use icecore_storage::time::{DAY_MS, TimeRange};

use crate::oracle::{self, Row, STEP_MS, batch, maintain};

const HOUR: i64 = 3_600_000;

/// Series with the times of their samples.
type Stored = BTreeMap<Labels, BTreeSet<i64>>;

/// Days are merged with others where samples live for long.
fn open_for(days: i64, disk: &SimDisk, now_ms: i64) -> Db {
    let options = Options { policies: Policies::raw_only(days * DAY_MS), ..oracle::options() };
    Db::open(Arc::new(disk.clone()), options, now_ms).unwrap()
}

/// Those of a pod, of which there is a new one every five hours.
fn series_at(time: i64) -> Vec<Labels> {
    let pods = [(time / (5 * HOUR)).to_string(), "lasting".to_owned()];
    let of_pod = |pod: &String| -> Vec<Labels> {
        let metric = |i: usize| {
            let name = format!("metric_{}", i % 4);
            let zone = if i < 2 { "" } else { "eu" };
            let code = (i * 100).to_string();
            let pairs =
                [("__name__", name.as_str()), ("pod", pod), ("zone", zone), ("code", &code)];
            Labels::from_pairs(pairs).unwrap()
        };
        (0..7).map(metric).collect()
    };
    pods.iter().flat_map(of_pod).collect()
}

/// The greatest by count, then by name.
fn greatest(counts: BTreeMap<String, u64>, before: Option<&BTreeMap<String, u64>>) -> Vec<Entry> {
    let entry = |(name, count): (String, u64)| {
        let day_before = before.map(|before| before.get(&name).copied().unwrap_or(0));
        Entry { name, count, day_before }
    };
    let mut entries: Vec<Entry> = counts.into_iter().map(entry).collect();
    entries.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    entries
}

/// By metric, label, value in focus, pair, values, bytes.
type Counts = [BTreeMap<String, u64>; 6];

fn count<'a>(series: impl Iterator<Item = &'a Labels>, focus: &str) -> Counts {
    let mut counts = Counts::default();
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for labels in series {
        for (name, value) in labels.iter() {
            let mut add = |list: usize, name: String, by: usize| {
                *counts[list].entry(name).or_default() += by as u64;
            };
            if name == "__name__" {
                add(0, value.to_owned(), 1);
            }
            add(1, name.to_owned(), 1);
            if name == focus {
                add(2, value.to_owned(), 1);
            }
            add(3, format!("{name}={value}"), 1);
            add(5, name.to_owned(), value.len());
            values.entry(name).or_default().insert(value);
        }
    }
    counts[4] = values.into_iter().map(|(name, of)| (name.to_owned(), of.len() as u64)).collect();
    counts
}

fn expected(stored: &Stored, question: &Question) -> Cardinality {
    let matches = |labels: &Labels| {
        let fulfils = |m: &Matcher| m.matches(labels.get(m.name()).unwrap_or(""));
        let selectors = &question.selectors;
        selectors.is_empty() || selectors.iter().any(|all| all.iter().all(fulfils))
    };
    let of = |day_ms: i64| {
        let day = day_ms..day_ms + DAY_MS;
        let has = move |times: &BTreeSet<i64>| times.range(day.clone()).next().is_some();
        let all = stored.iter().filter(move |(labels, times)| matches(labels) && has(times));
        all.map(|(labels, _)| labels)
    };
    let focus = question.focus_label.as_deref().unwrap_or("");
    let day_ms = question.day_ms.unwrap();
    let before = count(of(day_ms - DAY_MS), focus);
    let counts = count(of(day_ms), focus);
    let label_pairs = counts[3].len() as u64;
    let mut lists = counts.into_iter().zip(&before).map(|(counts, before)| {
        let mut list = greatest(counts, Some(before));
        list.truncate(question.limit);
        list
    });
    let mut next = || lists.next().unwrap();
    Cardinality {
        series: of(day_ms).count() as u64,
        label_pairs,
        series_by_metric: next(),
        series_by_label: next(),
        series_by_focus_value: next(),
        series_by_pair: next(),
        values_by_label: next(),
        bytes_by_label: next(),
        is_exact: true,
    }
}

fn questions() -> impl Iterator<Item = Question> {
    let selectors = [
        vec![],
        vec![vec![Matcher::equal("pod", "lasting")]],
        vec![
            vec![Matcher::equal("__name__", "metric_1")],
            vec![Matcher::new("zone", MatchOp::NotEqual, "").unwrap()],
        ],
        vec![vec![Matcher::equal("pod", "nobody")]],
    ];
    let limits = [(3, Some("pod")), (100, Some("zone")), (1, None)];
    limits.into_iter().flat_map(move |(limit, focus)| {
        selectors.clone().map(|selectors| Question {
            limit,
            day_ms: None,
            selectors,
            focus_label: focus.map(str::to_owned),
        })
    })
}

fn check(db: &Db, stored: &Stored, days: std::ops::Range<i64>) {
    for question in questions() {
        for day in days.clone() {
            let question = Question { day_ms: Some(day * DAY_MS), ..question.clone() };
            let found = db.snapshot().cardinality(&question, &mut |_| true).unwrap();
            assert_eq!(found, expected(stored, &question), "{question:?}");
        }
    }
}

#[test]
fn any_day_is_counted_wherever_its_series_are() {
    let first_day = 20_000;
    let start = first_day * DAY_MS + 9 * HOUR;
    let disk = SimDisk::new(21);
    let mut db = open_for(30, &disk, start);
    let mut stored = Stored::new();
    let mut kinds = BTreeSet::new();
    for step in 0..(60 * HOUR / STEP_MS) {
        let now = start + step * STEP_MS;
        let mut rows: Vec<Row> =
            series_at(now).into_iter().map(|labels| Row::float(labels, now, 1.0)).collect();
        if step % 40 == 17 {
            // Late ones make blocks of their own beside those of their day.
            let late = now - 20 * HOUR;
            rows.extend(series_at(late).into_iter().map(|l| Row::float(l, late + 1, 2.0)));
        }
        for row in &rows {
            stored.entry(row.labels.clone()).or_default().insert(row.timestamp);
        }
        db.append(&batch(&rows), now).unwrap();
        if step % 13 == 0 {
            maintain(&db, now).unwrap();
        }
        if step % 60 == 5 {
            let days = first_day - 1..first_day + 4;
            check(&db, &stored, days.clone());
            for day in days {
                let day = TimeRange::new(day * DAY_MS, (day + 1) * DAY_MS - 1);
                let of_day = db.blocks().iter().filter(|one| one.range.overlaps(day)).count();
                kinds.insert(of_day.min(2));
            }
        }
        if step == 500 {
            disk.power_cut(3);
            drop(db);
            db = open_for(30, &disk, now);
            check(&db, &stored, first_day..first_day + 3);
        }
    }
    assert_eq!(kinds, BTreeSet::from([0, 1, 2]), "days in the head, in one block, in several");
    let range = TimeRange::new(start, start + 12 * HOUR);
    db.delete(&[vec![Matcher::equal("pod", "lasting")]], range, start + 60 * HOUR).unwrap();
    for (_, times) in stored.iter_mut().filter(|(l, _)| l.get("pod") == Some("lasting")) {
        times.retain(|time| !range.contains(*time));
    }
    check(&db, &stored, first_day..first_day + 3);
}

#[test]
fn a_block_of_several_days_tells_them_apart() {
    let first_day = 20_000;
    let disk = SimDisk::new(23);
    let db = open_for(100, &disk, first_day * DAY_MS);
    let mut stored = Stored::new();
    for hour in 0..9 * 24 {
        let now = first_day * DAY_MS + hour * HOUR;
        let rows: Vec<Row> =
            series_at(now).into_iter().map(|labels| Row::float(labels, now, 1.0)).collect();
        for row in &rows {
            stored.entry(row.labels.clone()).or_default().insert(now);
        }
        db.append(&batch(&rows), now).unwrap();
        maintain(&db, now).unwrap();
    }
    let days = |one: &BlockMeta| (one.window.end_ms - one.window.start_ms + 1) / DAY_MS;
    assert!(db.blocks().iter().any(|one| days(one) >= 4), "days were merged");
    check(&db, &stored, first_day - 1..first_day + 10);
}

#[test]
fn the_head_is_counted_as_it_is_and_work_can_be_stopped() {
    let now = oracle::time_of(0);
    let db = open_for(30, &SimDisk::new(22), now);
    let series = series_at(now);
    let rows: Vec<Row> = series.iter().map(|l| Row::float(l.clone(), now, 1.0)).collect();
    db.append(&batch(&rows), now).unwrap();
    for question in questions().filter(|question| question.selectors.is_empty()) {
        let found = db.snapshot().cardinality(&question, &mut |_| true).unwrap();
        let focus = question.focus_label.as_deref().unwrap_or("");
        let [metrics, ..] = count(series.iter(), focus);
        let mut metrics = greatest(metrics, None);
        metrics.truncate(question.limit);
        assert_eq!((found.series, found.series_by_metric), (series.len() as u64, metrics));
        let mut charges = 0;
        let stopped = db.snapshot().cardinality(&question, &mut |_| {
            charges += 1;
            false
        });
        assert!(matches!(stopped, Err(icecore_storage::Error::Stopped)), "{stopped:?}");
        assert_eq!(charges, 1);
    }
}
