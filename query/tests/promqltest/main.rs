//! Runs scripts in the language of Prometheus's promqltest against the engine.
//!
//! The scripts are data outside of this repository, named by `PROMQLTEST_DIR` or found beside the
//! checkout; without them there is nothing to run. Settings are those of Prometheus's harness:
//! delayed name removal, all gated parts of the grammar, 10,000 samples. Every instant query is run
//! once more as the middle of a range query.

mod fixture;
mod script;

use std::collections::BTreeMap;
use std::path::PathBuf;

use icecore_query::engine::{Answer, Engine, EngineOptions, QueryError, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::value::{MatrixSeries, Point, Value};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint, Span};

use fixture::{Fixture, Loaded};
use script::{Command, Eval, Series, Text, Topic, When};

/// Scripts of features that are not there yet: they are run and counted, and may fail.
const SCRIPTS_AHEAD: &[&str] = &["extended_vectors", "native_histograms", "start_timestamps"];

/// Scripts whose float queries must pass.
const SCRIPTS: &[&str] = &[
    "collision",
    "duration_expression",
    "functions",
    "info",
    "limit",
    "literals",
    "operators",
    "range_queries",
    "selectors",
    "trig_functions",
    "type_and_unit",
];

fn directory() -> Option<PathBuf> {
    let named = std::env::var_os("PROMQLTEST_DIR").map(PathBuf::from);
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/promql/promqltest");
    named.or_else(|| Some(PathBuf::from(beside))).filter(|directory| directory.is_dir())
}

/// What became of an evaluation.
enum Outcome {
    Passed,
    /// Needs something that the engine says it lacks.
    Skipped(String),
    Failed(String),
}

#[derive(Default)]
struct Report {
    passed: usize,
    skipped: BTreeMap<String, usize>,
    failed: Vec<String>,
}

#[test]
fn scripts_pass() {
    let Some(directory) = directory() else {
        println!("SKIPPED: no scripts; PROMQLTEST_DIR says where they are");
        assert!(std::env::var_os("CI").is_none(), "in CI a skip is a failure");
        return;
    };
    let mut failures = Vec::new();
    for name in SCRIPTS.iter().chain(SCRIPTS_AHEAD) {
        let path = directory.join(format!("{name}.test"));
        let text = std::fs::read_to_string(&path).expect("a script that can be read");
        let report = run_script(&text, true);
        let skipped: usize = report.skipped.values().sum();
        println!(
            "{name}: {} passed, {skipped} skipped, {} failed",
            report.passed,
            report.failed.len()
        );
        report.skipped.iter().for_each(|(reason, count)| println!("    {count:4} {reason}"));
        if SCRIPTS_AHEAD.contains(name) {
            if std::env::var_os("PROMQLTEST_VERBOSE").is_some() {
                report.failed.iter().for_each(|failure| println!("    {failure:.400}"));
            }
            continue;
        }
        failures.extend(report.failed.iter().map(|failure| format!("{name}.test:{failure}")));
    }
    assert!(failures.is_empty(), "{} evaluations failed:\n{}", failures.len(), failures.join("\n"));
}

/// Our own scripts, in `tests/scripts`; those in `immediate` with names removed at once, as a
/// server does it by default.
#[test]
fn own_scripts_pass() {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts"));
    let mut failures = Vec::new();
    for (directory, delayed) in [(own.clone(), true), (own.join("immediate"), false)] {
        let entries = std::fs::read_dir(&directory).expect("a directory of scripts");
        let mut scripts: Vec<PathBuf> =
            entries.map(|entry| entry.expect("an entry").path()).collect();
        scripts.retain(|path| path.extension().is_some_and(|extension| extension == "test"));
        scripts.sort();
        assert!(!scripts.is_empty(), "no scripts in {}", directory.display());
        for path in scripts {
            let text = std::fs::read_to_string(&path).expect("a script that can be read");
            let report = run_script(&text, delayed);
            let skipped = report.skipped.iter().map(|(reason, count)| format!("{count} {reason}"));
            let bad = report.failed.into_iter().chain(skipped);
            failures.extend(bad.map(|failure| format!("{}:{failure}", path.display())));
        }
    }
    assert!(failures.is_empty(), "{} evaluations failed:\n{}", failures.len(), failures.join("\n"));
}

fn run_script(text: &str, delayed_name_removal: bool) -> Report {
    let engine = Engine::new(EngineOptions {
        delayed_name_removal,
        max_samples: 10_000,
        ..EngineOptions::default()
    });
    let mut report = Report::default();
    let mut fixture = Fixture::default();
    for command in script::parse(text).expect("a script in the language") {
        match command {
            Command::Clear => fixture.clear(),
            Command::Load { step_ms, series, convert } => {
                fixture.is_converted |= convert;
                for Series { labels, values } in series {
                    let samples = values.into_iter().enumerate();
                    let samples =
                        samples.filter_map(|(at, value)| Some((at as i64 * step_ms, value?)));
                    fixture.load(labels, samples);
                }
            }
            Command::Eval(eval) => match run_eval(&engine, &fixture, &eval) {
                Outcome::Passed => report.passed += 1,
                Outcome::Skipped(reason) => *report.skipped.entry(reason).or_default() += 1,
                Outcome::Failed(reason) => {
                    report.failed.push(format!("{}: {}: {reason}", eval.line, eval.expr));
                }
            },
        }
    }
    report
}

fn evaluate(
    engine: &Engine,
    fixture: &Fixture,
    expr: &str,
    when: When,
) -> Result<Answer, QueryError> {
    let options = ParserOptions {
        experimental_functions: true,
        extended_range_selectors: true,
        binop_fill_modifiers: true,
    };
    let parsed =
        parser::parse(expr, options).map_err(|error| QueryError::BadData(error.to_string()))?;
    let asked = QueryOptions::default();
    match when {
        When::Instant { time_ms } => engine.instant(fixture, expr, &parsed, time_ms, &asked),
        When::Range { start_ms, end_ms, step_ms } => {
            engine.range(fixture, expr, &parsed, start_ms, end_ms, step_ms, &asked)
        }
    }
}

/// What the fixture cannot load as Prometheus's storage would, if the result depends on it.
fn unloaded(eval: &Eval, fixture: &Fixture) -> Option<&'static str> {
    let wanted = || eval.series.iter().flat_map(|series| &series.values).flatten();
    let histogram = wanted().any(|value| matches!(value, Loaded::Histogram(_)));
    let hint = wanted()
        .any(|value| matches!(value, Loaded::Histogram(h) if h.reset_hint == ResetHint::NotReset));
    match () {
        () if histogram && fixture.is_converted => Some("histograms converted from classic ones"),
        () if hint => Some("reset hints that storage sets"),
        () => None,
    }
}

fn run_eval(engine: &Engine, fixture: &Fixture, eval: &Eval) -> Outcome {
    if let Some(reason) = unloaded(eval, fixture) {
        return Outcome::Skipped(reason.into());
    }
    let answer = match evaluate(engine, fixture, &eval.expr, eval.when) {
        Ok(answer) => answer,
        Err(error) => return failed(eval, &error.to_string()),
    };
    if eval.expectations.iter().any(|(topic, _)| *topic == Topic::Fail) {
        return Outcome::Failed(format!("should fail, but is {:?}", answer.value));
    }
    let checks = [
        check_annotations(eval, Topic::Warn, Topic::NoWarn, &answer.warnings),
        check_annotations(eval, Topic::Info, Topic::NoInfo, &answer.infos),
        check_value(eval, &answer.value),
        check_as_range(engine, fixture, eval, &answer.value),
    ];
    match checks.into_iter().find_map(Result::err) {
        Some(reason) => Outcome::Failed(reason),
        None => Outcome::Passed,
    }
}

/// An error: expected, owned up to as missing, or wrong.
fn failed(eval: &Eval, error: &str) -> Outcome {
    if let Some((reason, _)) = error.split_once(" yet") {
        let reason = reason.split(" in ").next().unwrap_or(reason);
        return Outcome::Skipped(format!("{reason} yet"));
    }
    let mut expected = eval.expectations.iter().filter(|(topic, _)| *topic == Topic::Fail);
    match expected.clone().count() {
        0 => Outcome::Failed(format!("failed: {error}")),
        _ if expected.all(|(_, text)| matches(text, error)) => Outcome::Passed,
        _ => Outcome::Failed(format!("failed otherwise than expected: {error}")),
    }
}

fn matches(text: &Text, actual: &str) -> bool {
    match text {
        Text::Any => true,
        Text::Exactly(wanted) => wanted == actual,
        Text::Regex(pattern) => {
            regex_automata::meta::Regex::new(pattern).expect("a pattern").is_match(actual)
        }
    }
}

fn check_annotations(
    eval: &Eval,
    some: Topic,
    none: Topic,
    actual: &[String],
) -> Result<(), String> {
    if eval.expectations.iter().any(|(topic, _)| *topic == none) && !actual.is_empty() {
        return Err(format!("should have no {some:?}, but has {actual:?}"));
    }
    let wanted: Vec<&Text> = eval
        .expectations
        .iter()
        .filter(|(topic, _)| *topic == some)
        .map(|(_, text)| text)
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let unmet = wanted.iter().find(|text| !actual.iter().any(|actual| matches(text, actual)));
    let excess = actual.iter().find(|actual| !wanted.iter().any(|text| matches(text, actual)));
    match (unmet, excess) {
        (None, None) => Ok(()),
        _ => Err(format!("wanted {some:?} {wanted:?}, but has {actual:?}")),
    }
}

fn check_value(eval: &Eval, value: &Value) -> Result<(), String> {
    match (value, eval.when) {
        (Value::String { value, .. }, _) => {
            let wanted = eval.string.as_ref().map(|text| text.as_bytes());
            if wanted == Some(&value[..]) { Ok(()) } else { Err(format!("is {value:?}")) }
        }
        (Value::Scalar { value, .. }, _) => match eval.scalar {
            Some(wanted) if almost_equal(wanted, *value) => Ok(()),
            wanted => Err(format!("wanted {wanted:?}, is {value}")),
        },
        (Value::Vector(_), When::Instant { time_ms }) => {
            let Value::Vector(vector) = value else { unreachable!() };
            let order: Vec<&Labels> = vector.iter().map(|sample| &sample.labels).collect();
            let wanted_order: Vec<&Labels> =
                eval.series.iter().map(|series| &series.labels).collect();
            if eval.ordered && order != wanted_order {
                return Err(format!("wanted the order {wanted_order:?}, is {order:?}"));
            }
            compare(&eval.series, (time_ms, 1), &series_of(value))
        }
        (Value::Matrix(_), When::Instant { .. }) => {
            let (start, step) = eval.range_vector.ok_or("is a range vector")?;
            compare(&eval.series, (start, step), &series_of(value))
        }
        (_, When::Range { start_ms, step_ms, .. }) => {
            let matrix = series_of(value);
            if !matrix.is_sorted_by(|a, b| a.labels < b.labels) {
                return Err("the matrix is not sorted by labels".into());
            }
            compare(&eval.series, (start_ms, step_ms), &matrix)
        }
    }
}

/// The value at the middle of a range query is that of the instant query.
fn check_as_range(
    engine: &Engine,
    fixture: &Fixture,
    eval: &Eval,
    value: &Value,
) -> Result<(), String> {
    let When::Instant { time_ms } = eval.when else { return Ok(()) };
    let of_query = ["start()", "end()", "range()", "step()", "@ start", "@ end"];
    let varies = of_query.iter().any(|text| eval.expr.contains(text));
    if matches!(value, Value::String { .. } | Value::Matrix(_)) || varies {
        return Ok(());
    }
    let when =
        When::Range { start_ms: time_ms - 60_000, end_ms: time_ms + 60_000, step_ms: 60_000 };
    let answer = evaluate(engine, fixture, &eval.expr, when);
    let answer = answer.map_err(|error| format!("as a range query: {error}"))?;
    let mut middle = series_of(&answer.value);
    for series in &mut middle {
        series.floats.retain(|(at, _)| *at == time_ms);
        series.histograms.retain(|(at, _)| *at == time_ms);
    }
    middle.retain(|series| !series.floats.is_empty() || !series.histograms.is_empty());
    let scalar = eval
        .scalar
        .map(|value| Series { labels: Labels::empty(), values: vec![Some(Loaded::Float(value))] });
    let wanted: Vec<Series> = eval.series.iter().cloned().chain(scalar).collect();
    compare(&wanted, (time_ms, 1), &middle).map_err(|error| format!("as a range query: {error}"))
}

fn series_of(value: &Value) -> Vec<MatrixSeries> {
    match value {
        Value::Matrix(matrix) => matrix.clone(),
        Value::Vector(vector) => vector
            .iter()
            .map(|sample| {
                let mut series =
                    MatrixSeries { labels: sample.labels.clone(), ..MatrixSeries::default() };
                match &sample.point {
                    Point::Float(value) => series.floats.push((sample.timestamp, *value)),
                    Point::Histogram(histogram) => {
                        series.histograms.push((sample.timestamp, histogram.clone()));
                    }
                }
                series
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn compare(
    wanted: &[Series],
    (start, step): (i64, i64),
    actual: &[MatrixSeries],
) -> Result<(), String> {
    let mut left: Vec<&MatrixSeries> = actual.iter().collect();
    for series in wanted {
        let at = left.iter().position(|found| found.labels == series.labels);
        let Some(at) = at else {
            let present: Vec<&Labels> = actual.iter().map(|found| &found.labels).collect();
            return Err(format!("{} is missing among {present:?}", series.labels));
        };
        compare_points(series, (start, step), left.swap_remove(at))?;
    }
    match left.first() {
        Some(more) => Err(format!("unexpected {more:?}")),
        None => Ok(()),
    }
}

fn compare_points(
    wanted: &Series,
    (start, step): (i64, i64),
    actual: &MatrixSeries,
) -> Result<(), String> {
    let mut count = 0;
    for (index, value) in wanted.values.iter().enumerate() {
        let time = start + index as i64 * step;
        let float = actual.floats.iter().find(|(at, _)| *at == time).map(|(_, value)| *value);
        let histogram = actual.histograms.iter().find(|(at, _)| *at == time).map(|(_, h)| h);
        let equal = match value {
            None => float.is_none() && histogram.is_none(),
            Some(Loaded::Float(wanted)) => float.is_some_and(|found| almost_equal(*wanted, found)),
            Some(Loaded::Histogram(wanted)) => {
                histogram.is_some_and(|found| same_histogram(wanted, found))
            }
        };
        if !equal {
            return Err(format!(
                "{} at {time}: wanted {value:?}, is {float:?} {histogram:?}",
                wanted.labels
            ));
        }
        count += usize::from(value.is_some());
    }
    let points = actual.floats.len() + actual.histograms.len();
    if points != count {
        return Err(format!("{}: wanted {count} points, are {points}: {actual:?}", wanted.labels));
    }
    Ok(())
}

/// Relative difference below 1e-6; near zero the smallest normal number is the measure.
fn almost_equal(a: f64, b: f64) -> bool {
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < 1e-6 * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < 1e-6
}

fn same_histogram(a: &Histogram, b: &Histogram) -> bool {
    let buckets = |spans: &[Span], counts: &[f64]| -> Vec<(i32, f64)> {
        let mut index = 0;
        let mut indices = Vec::new();
        for span in spans {
            index += span.offset;
            for _ in 0..span.length {
                indices.push(index);
                index += 1;
            }
        }
        indices.into_iter().zip(counts.iter().copied()).filter(|(_, n)| *n != 0.0).collect()
    };
    let floats = |h: &Histogram| match &h.counts {
        Counts::Float { count, zero_count, positive, negative } => (
            *count,
            *zero_count,
            buckets(&h.positive_spans, positive),
            buckets(&h.negative_spans, negative),
        ),
        Counts::Integer { .. } => unreachable!("scripts load float histograms"),
    };
    let hint = a.reset_hint == ResetHint::Unknown || a.reset_hint == b.reset_hint;
    let bounds = a.custom_values == b.custom_values;
    hint && bounds && a.schema == b.schema && almost_equal(a.sum, b.sum) && floats(a) == floats(b)
}
