//! The engine as a server uses it: default settings, values, errors, annotations, budgets.

mod memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use icecore_query::engine::{Answer, Engine, EngineOptions, QueryError, QueryOptions, selectors};
use icecore_query::functions::FUNCTIONS;
use icecore_query::histogram::FloatHistogram;
use icecore_query::parser::ast::ValueType;
use icecore_query::parser::{self, ParserOptions};
use icecore_query::source::{Charge, SelectedSeries, Selection, Source, SourceError};
use icecore_query::value::{MatrixSeries, Point, Value};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint};
use icecore_storage::metrics::sample::{Samples, stale_nan};
use memory::Memory;

fn labels(text: &str) -> Labels {
    let pairs = text
        .split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').expect("name=value"));
    Labels::from_pairs(pairs).expect("names that differ")
}

impl Memory {
    /// Adds a series with a sample every 10 s from 0.
    fn with(mut self, name: &str, values: &[f64]) -> Memory {
        let mut samples = Samples::default();
        values.iter().enumerate().for_each(|(i, v)| samples.push(i as i64 * 10_000, *v));
        self.series.push((labels(name), samples));
        self
    }

    fn with_histogram(mut self, name: &str) -> Memory {
        let mut samples = Samples::default();
        for at in 0..3 {
            samples.push_histogram(at * 10_000, histogram(at as f64));
        }
        self.series.push((labels(name), samples));
        self
    }
}

fn histogram(count: f64) -> Histogram {
    Histogram {
        schema: 0,
        zero_threshold: 0.0,
        sum: count,
        reset_hint: ResetHint::Unknown,
        positive_spans: vec![],
        negative_spans: vec![],
        counts: Counts::Float { count, zero_count: 0.0, positive: vec![], negative: vec![] },
        custom_values: vec![],
    }
}

fn run(memory: &Memory, query: &str, times: (i64, i64, i64)) -> Result<Answer, QueryError> {
    run_with(&Engine::default(), &QueryOptions::default(), memory, query, times)
}

fn run_with(
    engine: &Engine,
    options: &QueryOptions,
    memory: &Memory,
    query: &str,
    (start_ms, end_ms, step_ms): (i64, i64, i64),
) -> Result<Answer, QueryError> {
    let expr = parser::parse(query, ParserOptions::ALL).expect("a query that parses");
    match step_ms {
        0 => engine.instant(memory, query, &expr, start_ms, options),
        _ => engine.range(memory, query, &expr, start_ms, end_ms, step_ms, options),
    }
}

/// The rows of a range query as text.
fn matrix(answer: Answer) -> Vec<String> {
    let Value::Matrix(matrix) = answer.value else { panic!("not a matrix: {:?}", answer.value) };
    let row = |series: MatrixSeries| {
        let points: Vec<String> =
            series.floats.iter().map(|(t, v)| format!("{v}@{}", t / 1000)).collect();
        format!("{} {}", series.labels, points.join(" "))
    };
    matrix.into_iter().map(row).collect()
}

fn check(memory: &Memory, query: &str, times: (i64, i64, i64), expected: &[&str]) {
    let answer = run(memory, query, times).unwrap_or_else(|error| panic!("{query}: {error}"));
    assert_eq!(matrix(answer), expected, "{query}");
}

fn error(memory: &Memory, query: &str, times: (i64, i64, i64)) -> String {
    match run(memory, query, times) {
        Ok(answer) => panic!("{query} is {:?}", answer.value),
        Err(error) => error.to_string(),
    }
}

#[test]
fn names_are_dropped_at_once_by_default() {
    let memory = Memory::default().with("__name__=a_total,l=1", &[0.0, 10.0, 20.0]);
    let times = (20_000, 20_000, 10_000);
    check(&memory, "rate(a_total[20s])", times, &[r#"{l="1"} 1@20"#]);
    check(&memory, "last_over_time(a_total[20s])", times, &[r#"a_total{l="1"} 20@20"#]);
    check(&memory, "-a_total", times, &[r#"{l="1"} -20@20"#]);
    check(&memory, "a_total > 1", times, &[r#"a_total{l="1"} 20@20"#]);
    check(&memory, "a_total > bool 1", times, &[r#"{l="1"} 1@20"#]);
    check(&memory, "sum by (__name__) (rate(a_total[20s]))", times, &["{} 1@20"]);
    check(&memory, "sum by (__name__) (a_total)", times, &["a_total 20@20"]);
}

#[test]
fn series_that_become_equal_are_an_error_even_inside_an_aggregation() {
    let memory = Memory::default()
        .with("__name__=a_total", &[0.0, 1.0, 2.0])
        .with("__name__=b_total", &[0.0, 1.0, 2.0]);
    let query = r#"sum(rate({__name__=~".+"}[20s]))"#;
    let same = "vector cannot contain metrics with the same labelset";
    assert_eq!(error(&memory, query, (20_000, 0, 0)), same);
    assert_eq!(error(&memory, r#"abs({__name__=~".+"})"#, (20_000, 0, 0)), same);
    let engine =
        Engine::new(EngineOptions { delayed_name_removal: true, ..EngineOptions::default() });
    let answer = run_with(&engine, &QueryOptions::default(), &memory, query, (20_000, 0, 0));
    assert!(answer.is_ok());
}

#[test]
fn what_does_not_depend_on_the_step_is_repeated() {
    let memory = Memory::default().with("__name__=x", &[1.0, 2.0, 3.0]);
    let times = (0, 20_000, 10_000);
    check(&memory, "x @ 10", times, &["x 2@0 2@10 2@20"]);
    check(&memory, "sum(x @ end())", times, &["{} 3@0 3@10 3@20"]);
    check(&memory, "x + x @ 10", times, &["{} 3@0 4@10 5@20"]);
    check(&memory, "timestamp(x @ 10)", times, &["{} 10@0 10@10 10@20"]);
    check(&memory, "sum_over_time(x[30s] @ 20)", times, &["{} 6@0 6@10 6@20"]);
    check(&memory, "vector(time()) + vector(1)", times, &["{} 1@0 11@10 21@20"]);
}

#[test]
fn subqueries_have_a_grid_of_their_own() {
    let memory = Memory::default().with("__name__=x", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    check(&memory, "sum_over_time(x[30s:20s])", (55_000, 55_000, 1000), &["{} 4@55"]);
    check(&memory, "count_over_time(x[30s:10s] offset 10s)", (60_000, 60_000, 1000), &["{} 3@60"]);
    check(&memory, "max_over_time(x[20s:10s] @ 30)", (0, 10_000, 10_000), &["{} 3@0 3@10"]);
    let Value::Matrix(range) = run(&memory, "x[30s:20s]", (55_000, 0, 0)).unwrap().value else {
        panic!("a subquery is a range vector")
    };
    assert_eq!(range[0].floats, [(40_000, 4.0)]);
}

#[test]
fn a_range_vector_leaves_out_stale_markers_and_its_left_end() {
    let memory = Memory::default().with("__name__=x", &[0.0, stale_nan(), 2.0, 3.0]);
    let Value::Matrix(range) = run(&memory, "x[30s]", (30_000, 0, 0)).unwrap().value else {
        panic!("a range selector is a range vector")
    };
    assert_eq!(range[0].floats, [(20_000, 2.0), (30_000, 3.0)]);
}

#[test]
fn conflicts_are_reported_of_the_earliest_step() {
    let gone = f64::from_bits(stale_nan().to_bits());
    let memory = Memory::default()
        .with("__name__=many,l=1", &[1.0, 1.0, 1.0])
        .with("__name__=one,k=a", &[1.0, gone, 1.0])
        .with("__name__=one,k=b", &[gone, 1.0, 1.0])
        .with("__name__=one,k=c", &[gone, 1.0, gone]);
    check(&memory, "many * on() group_left() one", (0, 0, 10_000), &[r#"{l="1"} 1@0"#]);
    let text = error(&memory, "many * on() group_left() one", (0, 20_000, 10_000));
    let wanted = r#"found duplicate series for the match group {} on the right hand-side of the operation: [{__name__="one", k="b"}, {__name__="one", k="c"}];many-to-many matching not allowed: matching labels must be unique on one side"#;
    assert_eq!(text, wanted);
    let text = error(&memory, "one * on() many", (20_000, 0, 0));
    assert_eq!(
        text,
        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
    );
    let text = error(&memory, "one * on() group_left(k) many", (20_000, 0, 0));
    assert_eq!(text, "multiple matches for labels: grouping labels must ensure unique matches");
}

#[test]
fn native_histograms_pass_through() {
    let memory = Memory::default().with_histogram("__name__=h");
    let Value::Vector(vector) = run(&memory, "h offset 10s", (20_000, 0, 0)).unwrap().value else {
        panic!("a selector is a vector")
    };
    let Point::Histogram(found) = &vector[0].point else { panic!("a histogram is stored") };
    assert!(found.same_data(&FloatHistogram::from_stored(&histogram(1.0), None)));
    check(&memory, "count_over_time(h[30s])", (20_000, 20_000, 1000), &["{} 3@20"]);
    let answer = run(&memory, "max(h)", (20_000, 0, 0)).unwrap();
    assert_eq!(answer.infos, ["PromQL info: ignored histogram in max aggregation (1:5)"]);
    assert_eq!(answer.value, Value::Vector(vec![]));
}

#[test]
fn a_histogram_costs_as_many_samples_as_it_takes_memory() {
    let memory = Memory::default().with_histogram("__name__=h");
    let peak = |query| run(&memory, query, (20_000, 0, 0)).unwrap().stats.peak_samples;
    let one = FloatHistogram::from_stored(&histogram(1.0), None).size_in_samples();
    assert!(one > 10, "{one}");
    assert_eq!(peak("h"), one);
    assert_eq!(peak("h[30s]"), 3 * one);
    assert_eq!(peak("count_over_time(h[30s])"), 3 * one);
}

#[test]
fn annotations_are_said_once() {
    let memory = Memory::default()
        .with("__name__=a,l=1", &[0.0, 1.0, 2.0])
        .with("__name__=a,l=2", &[0.0, 1.0, 2.0]);
    let answer = run(&memory, "rate(a[20s])\n + rate(a[20s])", (20_000, 30_000, 10_000)).unwrap();
    let text = "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"a\" (1:6)";
    assert_eq!(answer.infos, [text]);
    let answer = run(&memory, "1 +\nquantile(2, a)", (20_000, 0, 0)).unwrap();
    let text = "PromQL warning: quantile value should be between 0 and 1, got 2 (2:10)";
    assert_eq!(answer.warnings, [text]);
}

#[test]
fn a_query_has_a_budget_and_a_deadline() {
    let memory = Memory::default().with("__name__=x", &[1.0; 60]);
    let engine = Engine::new(EngineOptions { max_samples: 30, ..EngineOptions::default() });
    let options = QueryOptions::default();
    let all = (0, 590_000, 10_000);
    let text = "query processing would load too many samples into memory in query execution";
    for query in ["x", "sum(x)", "sum_over_time(x[10m])"] {
        let error = run_with(&engine, &options, &memory, query, all).unwrap_err();
        assert_eq!(error, QueryError::Execution(text.into()), "{query}");
    }
    assert!(run_with(&engine, &options, &memory, "x", (0, 190_000, 10_000)).is_ok());

    let late = QueryOptions { deadline: Some(Instant::now()), ..QueryOptions::default() };
    let error = run_with(&Engine::default(), &late, &memory, "x", all).unwrap_err();
    let text = "query timed out in expression evaluation";
    assert_eq!(error, QueryError::Timeout(text.into()));
    let cancelled = Arc::new(AtomicBool::new(true));
    let gone = QueryOptions { cancelled, ..QueryOptions::default() };
    let error = run_with(&Engine::default(), &gone, &memory, "x", all).unwrap_err();
    let text = "query was canceled in expression evaluation";
    assert_eq!(error, QueryError::Canceled(text.into()));
}

#[test]
fn samples_are_counted_as_prometheus_counts_them() {
    let memory = Memory::default().with("__name__=x", &[1.0; 10]);
    let stats = run(&memory, "x", (0, 90_000, 10_000)).unwrap().stats;
    assert_eq!((stats.total_queryable_samples, stats.series_fetched), (10, 1));
    assert_eq!(stats.peak_samples, 10);
    assert!(stats.samples_per_step.is_empty());
    let end = (90_000, 0, 0);
    let all = (0, 90_000, 10_000);
    for (query, times, samples) in [
        ("sum_over_time(x[20s])", end, 2),
        ("x[20s]", end, 2),
        // Of a subquery its points count, not what they are made of.
        ("sum_over_time(sum_over_time(x[30s])[20s:10s])", end, 2),
        ("x[20s:10s]", end, 2),
        // What is looked at once is looked at for every step.
        ("x @ 50", all, 10),
        ("sum(rate(x[20s] @ 50)) + x", all, 30),
        ("x @ 50", end, 1),
    ] {
        let stats = run(&memory, query, times).unwrap().stats;
        assert_eq!(stats.total_queryable_samples, samples, "{query}");
    }
}

#[test]
fn the_samples_of_each_step_are_told_where_that_is_allowed() {
    let memory = Memory::default().with("__name__=x", &[1.0; 10]);
    let asked = QueryOptions { per_step_stats: true, ..QueryOptions::default() };
    let query = "sum_over_time(x[20s]) + on() (x @ 50)";
    let times = (0, 20_000, 10_000);
    let silent = run_with(&Engine::default(), &asked, &memory, query, times).unwrap();
    assert!(silent.stats.samples_per_step.is_empty());
    let options = EngineOptions { per_step_stats: true, ..EngineOptions::default() };
    let told = run_with(&Engine::new(options), &asked, &memory, query, times).unwrap();
    assert_eq!(told.stats.samples_per_step, [(0, 2), (10_000, 3), (20_000, 3)]);
    assert_eq!(told.stats.total_queryable_samples, 8);
}

#[test]
fn expressions_of_ten_thousand_terms_are_evaluated() {
    let memory = Memory::default().with("__name__=x", &[1.0]);
    let scalars = vec!["1"; 10_000].join(" + ");
    let answer = run(&memory, &scalars, (0, 0, 0)).unwrap();
    assert_eq!(answer.value, Value::Scalar { timestamp: 0, value: 10_000.0 });
    let vectors = vec!["x"; 2_000].join(" + ");
    let Value::Vector(vector) = run(&memory, &vectors, (0, 0, 0)).unwrap().value else {
        panic!("a sum of vectors is a vector")
    };
    assert_eq!(vector[0].point, Point::Float(2_000.0));
    let negated = format!("{}1", "-".repeat(1_000));
    assert!(run(&memory, &negated, (0, 0, 0)).is_ok());
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut memory = Memory::default();
    for index in 0..1000 {
        let values: Vec<f64> = (0..50).map(|i| f64::from(i * index) * 0.1 + 1e9).collect();
        memory = memory.with(&format!("__name__=x_total,i={index},g={}", index % 7), &values);
    }
    for query in
        ["sum by (g) (rate(x_total[1m]))", "avg(x_total)", "stddev by (g) (x_total)", "x_total"]
    {
        let values = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let answer = pool.install(|| run(&memory, query, (0, 490_000, 10_000)).unwrap());
            matrix(answer)
        });
        assert_eq!(values[0], values[1], "{query}");
        assert_eq!(values[0], values[2], "{query}");
    }
}

#[test]
fn range_queries_take_scalars_and_instant_vectors_only() {
    let memory = Memory::default();
    let wanted = r#"invalid expression type "range vector" for range query, must be Scalar or instant Vector"#;
    assert_eq!(error(&memory, "x[5m]", (0, 10, 10)), wanted);
    assert!(error(&memory, "\"text\"", (0, 10, 10)).contains("\"string\""));
    check(&memory, "1 + 1", (0, 10_000, 10_000), &["{} 2@0 2@10"]);
}

#[test]
fn selectors_are_listed_in_the_order_of_the_text() {
    let expr = parser::parse("a{x=\"1\"} + rate(b[5m])", ParserOptions::ALL).unwrap();
    let listed: Vec<Vec<String>> =
        selectors(&expr).iter().map(|m| m.iter().map(|m| m.to_string()).collect()).collect();
    assert_eq!(listed.len(), 2);
    assert!(listed[0].contains(&"x=\"1\"".to_owned()) && listed[1] == ["__name__=\"b\""]);
}

/// Random series: gaps, stale markers, NaN, resets, infinities; some share their timestamps.
fn random_memory(seed: u64) -> Memory {
    let mut state = seed;
    let mut random = move |bound: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % bound
    };
    let mut memory = Memory::default();
    let shared: Vec<i64> = (0..80).map(|i| i * 15_000 + 777).collect();
    for index in 0..40 {
        let mut samples = Samples::default();
        let mut value = random(20) as f64;
        let regular = index % 3 != 0;
        for &scrape in &shared {
            let gap = !regular && random(5) == 0;
            value = match random(30) {
                0 => 0.0,
                _ => value + random(50) as f64 / if index % 2 == 0 { 1.0 } else { 7.0 },
            };
            let shown = match random(60) {
                0 if index % 4 == 1 => f64::NAN,
                1 if index % 8 == 2 => f64::INFINITY,
                2 if index % 5 == 0 => stale_nan(),
                _ => value,
            };
            if !gap {
                samples.push(scrape + if regular { 0 } else { random(9_000) as i64 }, shown);
            }
        }
        samples.timestamps_token = u64::from(regular);
        let text = format!("__name__=m_total,i={},g={},le={}", index % 20, index % 4, index / 20);
        memory.series.push((labels(&text), samples));
    }
    memory
}

/// What a query gives for each series at a time; NaN is written as such.
fn at_time(value: &Value, time_ms: i64) -> Vec<String> {
    let mut found: Vec<String> = match value {
        Value::Matrix(matrix) => matrix
            .iter()
            .filter_map(|series| {
                let point = series.floats.iter().find(|(at, _)| *at == time_ms)?;
                Some(format!("{} {}", series.labels, point.1))
            })
            .collect(),
        Value::Vector(vector) => vector
            .iter()
            .map(|sample| match &sample.point {
                Point::Float(value) => format!("{} {value}", sample.labels),
                Point::Histogram(_) => panic!("no histograms here"),
            })
            .collect(),
        Value::Scalar { value, .. } => vec![format!("{{}} {value}")],
        Value::String { .. } => panic!("no strings here"),
    };
    found.sort_unstable();
    found
}

#[test]
fn a_range_query_is_an_instant_query_at_every_step() {
    let queries = [
        "m_total",
        "m_total offset 47s",
        "timestamp(m_total)",
        "rate(m_total[1m])",
        "increase(m_total[2m7s] offset -20s)",
        "delta(m_total[40s])",
        "irate(m_total[1m])",
        "idelta(m_total[1m])",
        "deriv(m_total[2m])",
        "predict_linear(m_total[2m], 60)",
        "changes(m_total[2m])",
        "resets(m_total[3m])",
        "sum_over_time(m_total[3m])",
        "avg_over_time(m_total[3m])",
        "min_over_time(m_total[1m30s])",
        "max_over_time(m_total[1m30s])",
        "count_over_time(m_total[50s])",
        "last_over_time(m_total[50s])",
        "first_over_time(m_total[50s])",
        "stddev_over_time(m_total[2m])",
        "quantile_over_time(0.3, m_total[5m])",
        "mad_over_time(m_total[2m])",
        "present_over_time(m_total[20s])",
        "absent_over_time(m_total{i=\"3\"}[20s])",
        "absent(m_total{i=\"3\"} > 50)",
        "sum by (g) (rate(m_total[1m]))",
        "avg by (g) (m_total)",
        "stdvar without (i) (m_total)",
        "max by (g) (max_over_time(m_total[1m]))",
        "count(m_total > 20)",
        "quantile by (g) (0.7, m_total)",
        "topk by (g) (2, m_total)",
        "count_values(\"v\", floor(m_total / 50))",
        "m_total{le=\"0\"} / on (i) m_total{le=\"1\"}",
        "m_total{le=\"0\"} > on (i) group_left (le) m_total{le=\"1\"}",
        "m_total{g=\"1\"} and m_total < 80",
        "m_total{g=\"1\"} > 40 or m_total{g=\"2\"} < 40",
        "m_total unless m_total > 30",
        "max_over_time(rate(m_total[1m])[2m:20s])",
        "sum_over_time(m_total[1m:7s] offset 13s)",
        "histogram_quantile(0.5, m_total)",
        "scalar(m_total{i=\"1\",le=\"0\"}) + time()",
        "minute(m_total * 1000) + clamp(m_total, 10, 20)",
        "rate(m_total[1m] @ 300)",
        "sort_desc(-m_total)",
    ];
    let (start, end, step) = (-60_000, 1_320_000, 23_000);
    for seed in 1..4 {
        let memory = random_memory(seed);
        for query in queries {
            let range = run(&memory, query, (start, end, step));
            let mut failed = false;
            for time in (start..=end).step_by(step as usize) {
                match (&range, run(&memory, query, (time, 0, 0))) {
                    (Ok(range), Ok(instant)) => {
                        let (a, b) = (at_time(&range.value, time), at_time(&instant.value, time));
                        assert_eq!(a, b, "{query} at {time}, seed {seed}");
                    }
                    (Ok(_), Err(error)) => panic!("{query} at {time}: {error}"),
                    (Err(range), Err(instant)) => {
                        assert_eq!(range.to_string(), instant.to_string(), "{query}");
                        failed = true;
                        break;
                    }
                    (Err(_), Ok(_)) => {}
                }
            }
            assert!(failed || range.is_ok(), "{query} fails as a range query only: {range:?}");
        }
    }
}

#[test]
fn every_function_and_aggregation_is_there() {
    let argument = |value_type| match value_type {
        ValueType::Scalar => "0.5",
        ValueType::String => "\"a\"",
        ValueType::InstantVector => "x",
        ValueType::RangeVector => "x[5m]",
    };
    let calls = FUNCTIONS.iter().map(|function| {
        let args = function.args.iter().take(function.min_args());
        let args: Vec<&str> = args.map(|arg| argument(*arg)).collect();
        format!("{}({})", function.name, args.join(", "))
    });
    let plain = ["sum", "avg", "count", "min", "max", "group", "stddev", "stdvar"];
    let with_parameter = ["topk", "bottomk", "quantile", "limitk", "limit_ratio"];
    let aggregations = plain.iter().map(|op| format!("{op}(x)"));
    let aggregations = aggregations.chain(with_parameter.iter().map(|op| format!("{op}(1, x)")));
    for samples in [Memory::default(), Memory::default().with("__name__=x", &[1.0, 2.0, 4.0])] {
        for query in calls.clone().chain(aggregations.clone()) {
            for times in [(20_000, 20_000, 0), (0, 20_000, 10_000)] {
                run(&samples, &query, times).unwrap_or_else(|error| panic!("{query}: {error}"));
            }
        }
    }
}

/// A source without end, or of series without end: it counts what is asked of it and raises a flag
/// on the way.
#[derive(Default)]
struct Endless {
    series: usize,
    /// The flag is raised by the selection of this series, or by this read.
    cancel_at: usize,
    cancelled: Arc<AtomicBool>,
    selected: AtomicUsize,
    reads: AtomicUsize,
    charged: AtomicUsize,
}

impl Source for Endless {
    type Series = usize;

    fn select(
        &self,
        _: &[Selection],
        charge: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<usize>>, SourceError> {
        let mut selected = Vec::new();
        let stopped = || SourceError { message: "stopped".into() };
        while selected.len() < self.series {
            if self.selected.fetch_add(1, Ordering::Relaxed) == self.cancel_at {
                self.cancelled.store(true, Ordering::Relaxed);
            }
            let number = selected.len().to_string();
            let labels =
                Labels::from_pairs([("__name__", "x"), ("n", &number)]).expect("two names");
            selected.push((labels, selected.len()));
            if selected.len().is_multiple_of(100) {
                self.charged.fetch_add(100 * 1024, Ordering::Relaxed);
                if !charge(100 * 1024) {
                    return Err(stopped());
                }
            }
        }
        Ok(vec![selected])
    }

    fn read(&self, series: &usize, into: &mut Samples) -> Result<(), SourceError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == self.cancel_at {
            self.cancelled.store(true, Ordering::Relaxed);
        }
        into.clear();
        (0..60).for_each(|at| into.push(at * 10_000, *series as f64));
        into.timestamps_token = 1;
        Ok(())
    }
}

fn run_endless(source: &Endless, engine: &Engine, query: &str) -> Result<Answer, QueryError> {
    let cancelled = Arc::clone(&source.cancelled);
    let options = QueryOptions { cancelled, ..QueryOptions::default() };
    let expr = parser::parse(query, ParserOptions::ALL).expect("a query that parses");
    engine.range(source, query, &expr, 0, 590_000, 10_000, &options)
}

#[test]
fn a_selection_without_end_ends_at_the_memory_of_a_query() {
    let source = Endless { series: usize::MAX, cancel_at: usize::MAX, ..Endless::default() };
    let max_query_bytes = 10 << 20;
    let engine = Engine::new(EngineOptions { max_query_bytes, ..EngineOptions::default() });
    let error = run_endless(&source, &engine, "sum(x)").unwrap_err();
    let text = "query processing would use more than 10485760 bytes of memory (--query.max-memory-per-query)";
    assert_eq!(error, QueryError::Execution(text.into()));
    let charged = source.charged.load(Ordering::Relaxed) as u64;
    assert!(charged <= max_query_bytes + 100 * 1024, "{charged}");
    assert_eq!(engine.memory().bytes_held(), 0);
}

#[test]
fn a_cancelled_query_selects_and_reads_no_more() {
    let select = Endless { series: usize::MAX, cancel_at: 5000, ..Endless::default() };
    let error = run_endless(&select, &Engine::default(), "sum(x)").unwrap_err();
    assert!(matches!(error, QueryError::Canceled(_)), "{error}");
    assert!(select.selected.load(Ordering::Relaxed) <= 5100);
    for query in ["x", "sum(x)", "sum(rate(x[1m]))", "topk(3, -x)", "rate(x[1m])"] {
        let read = Endless { series: 20_000, cancel_at: 20_500, ..Endless::default() };
        // The selection has not reached the number, the second query's reads do.
        let engine = Engine::default();
        run_endless(&read, &engine, query).unwrap();
        let error = run_endless(&read, &engine, query).unwrap_err();
        assert!(matches!(error, QueryError::Canceled(_)), "{query}: {error}");
        let reads = read.reads.load(Ordering::Relaxed);
        assert!(reads <= 20_500 + 64, "{query}: {reads} reads");
        assert_eq!(engine.memory().bytes_held(), 0, "{query}");
    }
}

#[test]
fn memory_is_held_as_long_as_the_answer_is() {
    let memory = Memory::default().with("__name__=x", &[1.0; 60]);
    let engine = Engine::default();
    let options = QueryOptions::default();
    let answer = run_with(&engine, &options, &memory, "x", (0, 590_000, 10_000)).unwrap();
    let held = engine.memory().bytes_held();
    assert!((60 * 16..4096).contains(&held), "{held}");
    let again = answer.clone();
    drop(answer);
    assert_eq!(engine.memory().bytes_held(), held);
    drop(again);
    assert_eq!(engine.memory().bytes_held(), 0);
}

#[test]
fn what_would_need_too_much_memory_is_refused_before_it_is_made() {
    let memory = Memory::default().with("__name__=x", &[1.0; 60]);
    let max_query_bytes = 64 << 20;
    let engine = Engine::new(EngineOptions { max_query_bytes, ..EngineOptions::default() });
    let options = QueryOptions::default();
    for query in ["sum_over_time(x[1000d:1s])", "max_over_time((x @ 100)[100d:1s])"] {
        let error = run_with(&engine, &options, &memory, query, (500_000, 0, 0)).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("(--query.max-memory-per-query)"), "{query}: {text}");
        assert_eq!(engine.memory().bytes_held(), 0);
    }
    let small = Engine::new(EngineOptions { max_bytes: 1000, ..EngineOptions::default() });
    let error = run_with(&small, &options, &memory, "x", (0, 590_000, 10_000)).unwrap_err();
    assert!(error.to_string().ends_with("(--query.max-memory)"), "{error}");
}
