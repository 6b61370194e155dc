//! Asking a database, and comparing what two of them answer.

use std::sync::Arc;

use icecore_query::engine::{Engine, EngineOptions, QueryOptions};
use icecore_query::histogram::{Bucket, FloatHistogram};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::value::Value;
use icecore_storage::Db;

/// Start, end and step, in ms.
pub(crate) type Times = (i64, i64, i64);

#[derive(Clone, Debug)]
pub(crate) enum Point {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// By series and time.
pub(crate) type Points = Vec<(String, i64, Point)>;

/// Points, and what was said of them: warnings first.
pub(crate) fn ask_as(
    db: &Db,
    query: &str,
    (start_ms, end_ms, step_ms): Times,
    asked: &QueryOptions,
) -> (Points, Vec<String>) {
    let engine = Engine::new(EngineOptions::default());
    let parsed = parser::parse(query, ParserOptions::ALL).unwrap();
    let source = db.snapshot();
    let answer = engine.range(&source, query, &parsed, start_ms, end_ms, step_ms, asked).unwrap();
    let notes = [answer.warnings, answer.infos].concat();
    let Value::Matrix(rows) = answer.value else { panic!("a range query gives a matrix") };
    let mut points = Vec::new();
    for row in rows {
        let labels = row.labels.to_string();
        let floats = row.floats.iter().map(|(time, value)| (*time, Point::Float(*value)));
        let histograms = row.histograms.iter();
        let histograms = histograms.map(|(time, one)| (*time, Point::Histogram(one.clone())));
        let mut all: Vec<(i64, Point)> = floats.chain(histograms).collect();
        all.sort_by_key(|(time, _)| *time);
        points.extend(all.into_iter().map(|(time, point)| (labels.clone(), time, point)));
    }
    (points, notes)
}

pub(crate) fn ask_with_notes(db: &Db, query: &str, times: Times) -> (Points, Vec<String>) {
    ask_as(db, query, times, &QueryOptions::default())
}

pub(crate) fn ask(db: &Db, query: &str, times: Times) -> Points {
    ask_with_notes(db, query, times).0
}

pub(crate) fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1e3)
}

/// Whether two points are equal, to the bit if it is asked for.
pub(crate) fn are_equal(a: &Point, b: &Point, to_the_bit: bool) -> bool {
    match (a, b) {
        (Point::Float(a), Point::Float(b)) => {
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() || !to_the_bit && is_near(*a, *b)
        }
        (Point::Histogram(a), Point::Histogram(b)) => {
            let scalars = |of: &FloatHistogram| [of.count, of.sum, of.zero_count];
            let same_scalars = scalars(a).into_iter().zip(scalars(b)).all(|(a, b)| is_near(a, b));
            let buckets = |of: &FloatHistogram| -> Vec<Bucket> {
                of.all().filter(|bucket| bucket.count.abs() > 1e-9).collect()
            };
            let (of_a, of_b) = (buckets(a), buckets(b));
            let same_bucket = |(a, b): (&Bucket, &Bucket)| {
                (a.lower, a.upper) == (b.lower, b.upper) && is_near(a.count, b.count)
            };
            same_scalars
                && a.schema == b.schema
                && a.zero_threshold == b.zero_threshold
                && of_a.len() == of_b.len()
                && of_a.iter().zip(&of_b).all(same_bucket)
        }
        _ => false,
    }
}

/// Why two answers differ, if they do.
pub(crate) fn difference(
    a: &Points,
    b: &Points,
    to_the_bit: impl Fn(&str) -> bool,
) -> Option<String> {
    let differ = a
        .iter()
        .zip(b)
        .find(|(a, b)| (&a.0, a.1) != (&b.0, b.1) || !are_equal(&a.2, &b.2, to_the_bit(&a.0)));
    match differ {
        Some((a, b)) => Some(format!("{a:?}\n{b:?}")),
        None if a.len() != b.len() => Some(format!("{} and {} points", a.len(), b.len())),
        None => None,
    }
}
