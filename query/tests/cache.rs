//! The result cache over the real storage: whatever is written, late, twice or of long ago, sealed,
//! merged or dropped, an answer with the cache is the answer without it, bit for bit.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;

use icecore_query::cache::ResultCache;
use icecore_query::engine::{Answer, Engine, EngineOptions, QueryError, QueryOptions};
use icecore_query::histogram::Text;
use icecore_query::parser::{self, ParserOptions};
use icecore_query::source::{Charge, SelectedSeries, Selection, Source, SourceError};
use icecore_query::value::Value;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::{Batch, HistogramRow};
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint};
use icecore_storage::metrics::sample::{Samples, stale_nan};
use icecore_storage::retention::policy::Policies;
use icecore_storage::time::{MINUTE_MS, TimeRange, WINDOW_MS};
use icecore_storage::{Db, Snapshot};
use proptest::prelude::*;

const START_MS: i64 = 1_700_000_000_000;
const RETENTION_MS: i64 = 3 * WINDOW_MS;

/// Series of the tests: counters with and without a telling name, buckets of a histogram, a gauge
/// that is rarely there, native histograms, and one whose type is a label.
fn labels(series: usize) -> Labels {
    let instance = format!("host-{}", series % 3);
    let pairs: Vec<(&str, &str)> = match series {
        0..6 => vec![("__name__", "requests_total"), ("code", ["200", "500"][series / 3])],
        6..9 => vec![("__name__", "work")],
        9..15 => vec![("__name__", "latency_bucket"), ("le", ["1", "+Inf"][(series - 9) / 3])],
        15..18 => vec![("__name__", "gauge")],
        18 => vec![("__name__", "sizes")],
        _ => vec![("__name__", "requests_total"), ("__type__", "counter"), ("code", "200")],
    };
    let target = [("instance", instance.as_str()), ("job", "test")];
    Labels::from_pairs(pairs.into_iter().chain(target)).unwrap()
}

const SERIES: usize = 20;

/// A value of a series, few of them so that conflicts and resets are common.
#[derive(Clone, Debug)]
struct Row {
    series: usize,
    timestamp: i64,
    value: f64,
}

fn push(batch: &mut Batch, timestamp: i64, value: f64) {
    batch.timestamps.push(timestamp);
    batch.values.push(value);
}

fn batch(rows: &[Row]) -> Batch {
    let mut batch = Batch::with_canonical_keys();
    for row in rows {
        batch.push_series(&labels(row.series));
        match row.series {
            18 => batch.histograms.push(HistogramRow {
                series: batch.series.len() as u32 - 1,
                timestamp: row.timestamp,
                histogram: histogram(row.value),
            }),
            _ => push(&mut batch, row.timestamp, row.value),
        }
    }
    batch
}

fn histogram(sum: f64) -> Histogram {
    Histogram {
        schema: 0,
        zero_threshold: 0.0,
        sum,
        reset_hint: ResetHint::Unknown,
        positive_spans: vec![],
        negative_spans: vec![],
        counts: Counts::Float { count: 1.0, zero_count: 1.0, positive: vec![], negative: vec![] },
        custom_values: vec![],
    }
}

/// Queries of all kinds, also such as cannot be cached or fail now and then.
const QUERIES: &[&str] = &[
    "requests_total",
    "sum by (code) (rate(requests_total[5m]))",
    "avg(requests_total)",
    "stddev by (instance) (requests_total) + avg by (instance) (work)",
    "rate(work[2m])",
    "increase(requests_total[7m] offset 3m)",
    "requests_total offset -4m",
    "topk(2, requests_total)",
    "bottomk(1, sum by (instance) (gauge))",
    "quantile by (code) (0.3, requests_total)",
    "count_values(\"value\", gauge)",
    "histogram_quantile(0.9, sum by (le) (rate(latency_bucket[5m])))",
    "histogram_quantile(0.5, latency_bucket)",
    "max_over_time(sum(rate(requests_total[1m]))[10m:30s])",
    "avg_over_time(gauge[1h])",
    "requests_total - on (instance, job) group_left work",
    "requests_total / on (instance) work",
    "gauge or work",
    "gauge and on (instance) requests_total > 2",
    "absent(gauge)",
    "gauge @ 1700000600",
    "gauge - on (instance) group_right work @ 1700000600 offset -2m",
    "requests_total - requests_total offset 1h",
    "time() - timestamp(gauge)",
    "label_replace(work, \"x\", \"$1\", \"instance\", \"host-(.)\")",
    "sum(rate({__name__=~\"requests_total|work\"}[5m]))",
    "rate({job=\"test\",code!=\"\"}[5m])",
    "gauge @ start()",
    "sort(gauge)",
    "count(sizes) + count(gauge)",
    "sum(sizes)",
    "sizes",
    "avg(avg by (instance) (requests_total))",
    "hour() > 0",
    "scalar(gauge{instance=\"host-1\"}) + vector(1)",
];

#[derive(Clone, Debug)]
enum Step {
    /// All series of a scrape at this moment, by the seed.
    Scrape(u64),
    Append(Vec<(usize, i64, u8)>),
    Wait(i64),
    Maintain,
    /// One of the dashboard's queries, so many steps that end so long ago.
    Ask {
        query: usize,
        step_ms: i64,
        steps: i64,
        ago_steps: i64,
    },
    /// The last query again, moved by so many steps.
    Move(i64),
}

fn age() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => Just(0),
        3 => (0..20i64).prop_map(|steps| steps * 15_000),
        2 => (0..300i64).prop_map(|minutes| minutes * MINUTE_MS),
        1 => 0..5_000i64,
        1 => Just(-5 * MINUTE_MS),
    ]
}

fn ask() -> impl Strategy<Value = Step> {
    let step_ms = prop_oneof![3 => Just(60_000), 2 => Just(15_000), 1 => Just(7_000)];
    let ago = prop_oneof![6 => Just(0i64), 2 => 0..30i64, 1 => -3..1i64, 1 => 100..300i64];
    (0..QUERIES.len(), step_ms, 1..40i64, ago).prop_map(|(query, step_ms, steps, ago_steps)| {
        Step::Ask { query, step_ms, steps, ago_steps }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u64>().prop_map(Step::Scrape),
        3 => prop::collection::vec((0..SERIES, age(), 0..12u8), 1..8).prop_map(Step::Append),
        4 => (1..8i64).prop_map(|steps| Step::Wait(steps * 15_000)),
        1 => (1..100i64).prop_map(|minutes| Step::Wait(minutes * MINUTE_MS)),
        2 => Just(Step::Maintain),
        5 => ask(),
        8 => prop_oneof![4 => Just(0i64), 3 => 1..4i64, 1 => -10..10i64].prop_map(Step::Move),
    ]
}

struct Machine {
    db: Db,
    now: i64,
    engine: Engine,
    cache: ResultCache,
    /// Query, start, end and step of those that were asked, the newest last.
    asked: Vec<(usize, i64, i64, i64)>,
}

fn open() -> Db {
    let options = Options { policies: Policies::raw_only(RETENTION_MS), ..Options::default() };
    Db::open(Arc::new(SimDisk::new(1)), options, START_MS).unwrap()
}

/// An answer with every bit of it, or the error.
fn shown(answer: Result<Answer, QueryError>) -> String {
    let Answer { value, warnings, infos, .. } = match answer {
        Ok(answer) => answer,
        Err(error) => return format!("{error:?}"),
    };
    let Value::Matrix(matrix) = value else { panic!("a range query gives a matrix") };
    let rows: Vec<String> = matrix
        .iter()
        .map(|series| {
            let floats: Vec<(i64, u64)> =
                series.floats.iter().map(|(time, value)| (*time, value.to_bits())).collect();
            // Not their reset hints: what comes before the first histogram may or may not be read.
            let histograms: Vec<(i64, String)> = series
                .histograms
                .iter()
                .map(|(time, one)| (*time, Text(one).to_string()))
                .collect();
            format!("{} {floats:?} {histograms:?}", series.labels)
        })
        .collect();
    format!("{} {warnings:?} {infos:?}", rows.join("\n"))
}

fn ask_both(
    engine: &Engine,
    cache: &ResultCache,
    source: &Snapshot,
    query: &str,
    (start_ms, end_ms, step_ms): (i64, i64, i64),
) {
    let expr = parser::parse(query, ParserOptions::default()).unwrap();
    let options = QueryOptions::default();
    let with = cache.range(engine, source, query, &expr, start_ms, end_ms, step_ms, &options);
    let without = engine.range(source, query, &expr, start_ms, end_ms, step_ms, &options);
    let (with, without) = (shown(with), shown(without));
    assert!(
        with == without,
        "{query} from {start_ms} to {end_ms} by {step_ms}:\nwith the cache {with}\nwithout {without}"
    );
}

impl Machine {
    fn new() -> Machine {
        Machine {
            db: open(),
            now: START_MS,
            engine: Engine::new(EngineOptions::default()),
            cache: ResultCache::new(1 << 20),
            asked: Vec::new(),
        }
    }

    fn ask(&mut self, query: usize, (start_ms, end_ms, step_ms): (i64, i64, i64)) {
        let times = (start_ms, end_ms, step_ms);
        ask_both(&self.engine, &self.cache, &self.db.snapshot(), QUERIES[query], times);
        self.asked.retain(|(other, ..)| *other != query);
        self.asked.push((query, start_ms, end_ms, step_ms));
    }

    fn append(&self, rows: &[Row]) {
        self.db.append(&batch(rows), self.now).unwrap();
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Scrape(seed) => {
                let value = |series: usize| (seed >> (series * 3) & 7) as f64 * 0.1;
                let is_there = |series: &usize| {
                    let rarely = (15..18).contains(series) || *series == 19;
                    seed >> (series * 3) & 7 > if rarely { 5 } else { 0 }
                };
                let series = (0..SERIES - usize::from(seed % 5 > 0)).filter(is_there);
                let passed = ((self.now - START_MS) / 15_000) as f64;
                let row = |series| Row {
                    series,
                    timestamp: self.now - series as i64 % 3 * 700,
                    value: passed + value(series),
                };
                self.append(&series.map(row).collect::<Vec<_>>());
            }
            Step::Append(rows) => {
                let value = |value: u8| match value {
                    0 => stale_nan(),
                    1 => f64::NAN,
                    2 => f64::INFINITY,
                    other => f64::from(other) / 3.0,
                };
                let rows: Vec<Row> = rows
                    .iter()
                    .map(|(series, age, of)| Row {
                        series: *series,
                        timestamp: self.now - age,
                        value: value(*of),
                    })
                    .collect();
                self.append(&rows);
            }
            Step::Wait(ms) => self.now += ms,
            Step::Maintain => while self.db.maintain(self.now).unwrap() != Progress::Idle {},
            Step::Ask { query, step_ms, steps, ago_steps } => {
                let end_ms = (self.now / step_ms - ago_steps) * step_ms;
                self.ask(*query, (end_ms - steps * step_ms, end_ms, *step_ms));
            }
            Step::Move(by) => {
                // Every panel of a dashboard, as on a refresh.
                for (query, start_ms, end_ms, step_ms) in self.asked.clone() {
                    let follow = (self.now - end_ms) / step_ms;
                    let moved_ms = (by + if *by > 0 { follow } else { 0 }) * step_ms;
                    self.ask(query, (start_ms + moved_ms, end_ms + moved_ms, step_ms));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        max_shrink_iters: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_answer_with_the_cache_is_the_answer_without_it(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut machine = Machine::new();
        for seed in 0..30u64 {
            machine.take(&Step::Scrape(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            machine.take(&Step::Wait(15_000));
        }
        steps.iter().for_each(|step| machine.take(step));
    }
}

fn x_total(number: usize) -> Labels {
    let of = |count: usize| (number % count).to_string();
    let (n, m, instance) = (number.to_string(), of(40), of(7));
    let pairs = [("__name__", "x_total"), ("n", &n), ("m", &m), ("instance", &instance)];
    Labels::from_pairs(pairs).unwrap()
}

/// Writes one sample, so many scrapes after the start.
fn write(db: &Db, labels: &Labels, scrape: i64, value: f64) {
    let batch = Batch::of_samples([(labels, START_MS + scrape * 15_000, value)]);
    db.append(&batch, START_MS + 700 * 15_000).unwrap();
}

/// Scrapes of `x_total`, every 15 s from the start.
fn filled(db: &Db, series: std::ops::Range<usize>, scrapes: std::ops::Range<i64>) {
    let all: Vec<Labels> = series.map(x_total).collect();
    for scrape in scrapes {
        let value = |number: usize| (scrape * 31 + number as i64 * 17 % 101) as f64 * 0.1;
        let at = START_MS + scrape * 15_000;
        let rows = all.iter().enumerate().map(|(number, labels)| (labels, at, value(number)));
        db.append(&Batch::of_samples(rows), at).unwrap();
    }
}

/// Sums of many floats differ in their last bits with every order of addition; the order must not
/// depend on where samples are, nor on which other series there are.
#[test]
fn sums_over_many_series_do_not_depend_on_where_samples_are() {
    let db = open();
    filled(&db, 0..300, 0..40);
    // New series come in the middle, in front of others by their labels.
    filled(&db, 250..700, 40..700);
    let (engine, cache) = (Engine::default(), ResultCache::new(64 << 20));
    let queries = [
        "sum(x_total)",
        "avg by (instance) (x_total)",
        "stddev(rate(x_total[2m]))",
        "stddev(sum by (m) (x_total))",
        "avg(avg by (m) (x_total) * 1.1)",
        "topk(3, floor(x_total / 100))",
    ];
    let ask_all = |from: i64| {
        let times = (START_MS + from * 60_000, START_MS + (from + 30) * 60_000, 60_000);
        for query in queries {
            ask_both(&engine, &cache, &db.snapshot(), query, times);
        }
    };
    (0..40).step_by(7).for_each(ask_all);
    let now = START_MS + 700 * 15_000;
    while db.maintain(now + WINDOW_MS).unwrap() != Progress::Idle {}
    assert!(db.stats().blocks > 0);
    let before = cache.stats();
    (0..45).step_by(5).for_each(ask_all);
    let after = cache.stats();
    assert!(after.hits > before.hits, "sealing has made nothing stale: {after:?}");
    (100..140).step_by(7).for_each(ask_all);
}

#[test]
fn a_refresh_computes_only_what_is_new() {
    let db = open();
    filled(&db, 0..5, 0..240);
    let (engine, cache) = (Engine::default(), ResultCache::new(1 << 20));
    let ask = |end: i64| {
        let end_ms = START_MS + end * 15_000;
        let times = (end_ms - 100 * 15_000, end_ms, 15_000);
        ask_both(&engine, &cache, &db.snapshot(), "sum(rate(x_total[1m]))", times);
        cache.stats()
    };
    let saved_by = |end: i64| {
        let before = cache.stats().steps_saved;
        ask(end).steps_saved - before
    };
    assert_eq!(saved_by(200), 0);
    assert_eq!(saved_by(200), 101);
    assert_eq!(saved_by(204), 97);
    // To the left there is nothing, to the right there is what was asked before.
    assert_eq!(saved_by(180), 81);
    assert_eq!(saved_by(204), 101);
    // New samples concern the end alone.
    assert_eq!(saved_by(239), 66);
    filled(&db, 0..5, 240..244);
    assert!(saved_by(243) >= 92, "{:?}", cache.stats());
    // A late one concerns the steps that look at it.
    write(&db, &x_total(1), 200, 1.0);
    let saved = saved_by(243);
    assert!((88..101).contains(&saved), "{saved}");
    assert_eq!(cache.stats().fallbacks, 0);
}

#[test]
fn annotations_are_those_of_the_steps_that_are_asked_for() {
    let db = open();
    filled(&db, 0..2, 0..100);
    // `gauge` is there for a while; its rate says that it may be no counter.
    let gauge = Labels::from_pairs([("__name__", "gauge")]).unwrap();
    (20..30).for_each(|scrape| write(&db, &gauge, scrape, scrape as f64));
    let (engine, cache) = (Engine::default(), ResultCache::new(1 << 20));
    for (from, to) in [(0, 90), (10, 95), (40, 95), (40, 98), (0, 98), (25, 60), (26, 61), (0, 15)]
    {
        let times = (START_MS + from * 15_000, START_MS + to * 15_000, 15_000);
        for query in ["rate(gauge[1m])", "rate( gauge[1m])", "rate(gauge[1m]) or rate(x_total[1m])"]
        {
            ask_both(&engine, &cache, &db.snapshot(), query, times);
        }
    }
    assert!(cache.stats().steps_saved > 0);
}

/// Series that become equal without what a function takes from them are an error over all of the
/// query, also where they never meet.
#[test]
fn series_that_never_meet_are_an_error_all_the_same() {
    let db = open();
    let one = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
    let early = [one(&[("__name__", "a_total")]), one(&[("__name__", "typed_total")])];
    let late = [
        one(&[("__name__", "b_total")]),
        one(&[("__name__", "typed_total"), ("__type__", "counter")]),
    ];
    for (labels, scrapes) in [(early, 0..40), (late, 60..100)] {
        for scrape in scrapes {
            labels.iter().for_each(|labels| write(&db, labels, scrape, scrape as f64));
        }
    }
    let (engine, cache) = (Engine::default(), ResultCache::new(1 << 20));
    for (from, to) in [(0, 50), (0, 95), (55, 95), (10, 99)] {
        let times = (START_MS + from * 15_000, START_MS + to * 15_000, 15_000);
        for query in [
            "sum(rate({__name__=~\"(a|b)_total\"}[1m]))",
            "sum(rate(typed_total[1m]))",
            "max_over_time(typed_total[1m:15s])",
        ] {
            ask_both(&engine, &cache, &db.snapshot(), query, times);
        }
    }
}

/// A snapshot before whose selections something is written.
struct Written<'a> {
    snapshot: Snapshot,
    write: &'a (dyn Fn() + Sync),
}

impl Source for Written<'_> {
    type Series = <Snapshot as Source>::Series;

    fn select(
        &self,
        selections: &[Selection],
        charge: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<Self::Series>>, SourceError> {
        (self.write)();
        Source::select(&self.snapshot, selections, charge)
    }

    fn read(&self, series: &Self::Series, into: &mut Samples) -> Result<(), SourceError> {
        Source::read(&self.snapshot, series, into)
    }

    fn generation(&self) -> Option<u64> {
        Source::generation(&self.snapshot)
    }

    fn changes_since(&self, generation: u64, range: TimeRange) -> Vec<TimeRange> {
        Source::changes_since(&self.snapshot, generation, range)
    }
}

#[test]
fn an_answer_is_of_one_moment() {
    let db = open();
    filled(&db, 0..5, 0..100);
    let (engine, cache) = (Engine::default(), ResultCache::new(1 << 20));
    let query = "sum(x_total)";
    let expr = parser::parse(query, ParserOptions::default()).unwrap();
    let options = QueryOptions::default();
    let ask = |source: &Written<'_>, end: i64| {
        let (start_ms, end_ms) = (START_MS, START_MS + end * 15_000);
        shown(cache.range(&engine, source, query, &expr, start_ms, end_ms, 15_000, &options))
    };
    let quiet = Written { snapshot: db.snapshot(), write: &|| () };
    ask(&quiet, 80);
    let value = std::sync::atomic::AtomicI64::new(0);
    let write_both = || {
        // One of what is cached, one of what is computed.
        let value = value.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as f64;
        write(&db, &x_total(10), 20, value);
        write(&db, &x_total(10), 99, value);
    };
    let written = Written { snapshot: db.snapshot(), write: &write_both };
    let found = ask(&written, 100);
    let (start_ms, end_ms) = (START_MS, START_MS + 100 * 15_000);
    let now = engine.range(&quiet, query, &expr, start_ms, end_ms, 15_000, &options);
    assert_eq!(found, shown(now));
    assert_eq!(cache.stats().fallbacks, 1);
}

/// A write that comes while a query runs must not be lost to those that follow.
#[test]
fn what_is_written_during_a_query_is_in_the_next_answer() {
    let db = open();
    filled(&db, 0..20, 0..100);
    let (engine, cache) = (Engine::default(), ResultCache::new(1 << 20));
    let times = (START_MS, START_MS + 100 * 15_000, 15_000);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..200).for_each(|round| write(&db, &x_total(100), round * 37 % 100, round as f64));
        });
        let expr = parser::parse("sum(x_total)", ParserOptions::default()).unwrap();
        let options = QueryOptions::default();
        while !writer.is_finished() {
            let source = db.snapshot();
            let (start, end, step) = times;
            cache
                .range(&engine, &source, "sum(x_total)", &expr, start, end, step, &options)
                .unwrap();
        }
    });
    ask_both(&engine, &cache, &db.snapshot(), "sum(x_total)", times);
    assert!(db.snapshot().generation() > 1 && Source::generation(&db.snapshot()).is_some());
}
