//! Runs a script on a store: every evaluation, and every one that it implies.
//!
//! An instant evaluation implies itself as the middle of a range query of three steps, and both
//! again with its selectors pinned to its time, asked at other times ([`crate::pinned`]).

use icecore_query::engine::{Engine, EngineOptions};
use icecore_query::value::{MatrixSeries, Point, Value, VectorSample};

use crate::expect::Positions;
use crate::pinned::pinned;
use crate::script::{Command, Eval, Script};
use crate::stores::{Store, When};

/// Prometheus's tests allow a query this many samples.
const SAMPLES_MAX: usize = 10_000;

/// What the expressions mention whose value depends on the range of the query.
const OF_THE_QUERY: &[&str] = &["start()", "end()", "range()", "step()"];

const MINUTE_MS: i64 = 60_000;

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) evaluations: usize,
    /// Evaluations together with those that they imply.
    pub(crate) queries: usize,
    pub(crate) failures: Vec<String>,
}

pub(crate) fn run<S: Store>(script: &Script) -> Report {
    let engine = Engine::new(EngineOptions {
        delayed_name_removal: script.delayed_name_removal,
        use_start_timestamps: script.use_start_timestamps,
        type_and_unit_labels: script.type_and_unit_labels,
        max_samples: SAMPLES_MAX,
        ..EngineOptions::default()
    });
    let mut report = Report::default();
    let mut store = S::default();
    for command in &script.commands {
        match command {
            Command::Clear => store = S::default(),
            Command::Load(load) => store.load(&load.series),
            Command::Eval(eval) => {
                report.evaluations += 1;
                let mut run = Run { engine: &engine, store: &store, eval, queries: 0 };
                if let Err(failure) = run.all() {
                    report.failures.push(format!("{}: {}: {failure}", eval.line, eval.expr));
                }
                report.queries += run.queries;
            }
        }
    }
    report
}

struct Run<'a, S> {
    engine: &'a Engine,
    store: &'a S,
    eval: &'a Eval,
    queries: usize,
}

impl<S: Store> Run<'_, S> {
    fn all(&mut self) -> Result<(), String> {
        let eval = self.eval;
        let When::Instant { time_ms } = eval.when else {
            return self.query(&eval.expr, eval.when, Positions::Compared).map(drop);
        };
        // A range vector is asked for at the end of the one that is expected.
        let time_ms = eval.expected.range_vector.map_or(time_ms, |[_, end_ms, _]| end_ms);
        self.instant(&eval.expr, time_ms, Positions::Compared)?;
        let Some((expr, times)) = pinned(&eval.expr, time_ms) else { return Ok(()) };
        for time_ms in times {
            let failed = |failure| format!("as {expr} at {time_ms} ms: {failure}");
            self.instant(&expr, time_ms, Positions::Ignored).map_err(failed)?;
        }
        Ok(())
    }

    /// Runs a query and compares its value, which is given back unless it is an expected error.
    fn query(
        &mut self,
        expr: &str,
        when: When,
        positions: Positions,
    ) -> Result<Option<Value>, String> {
        self.queries += 1;
        let expected = &self.eval.expected;
        let answer = match self.store.evaluate(self.engine, expr, when) {
            Err(error) => return expected.check_error(&error.to_string()).map(|()| None),
            Ok(answer) if expected.fails() => {
                return Err(format!("should fail, but is {:?}", answer.value));
            }
            Ok(answer) => answer,
        };
        expected.check_annotations(&answer, positions)?;
        expected.check_value(when, &answer.value)?;
        Ok(Some(answer.value))
    }

    fn instant(&mut self, expr: &str, time_ms: i64, positions: Positions) -> Result<(), String> {
        let when = When::Instant { time_ms };
        let value = self.query(expr, when, positions)?;
        let is_scalar = matches!(value, Some(Value::Scalar { .. }));
        let has_range = is_scalar || matches!(value, Some(Value::Vector(_)));
        let varies = OF_THE_QUERY.iter().any(|call| expr.contains(call));
        if !has_range || varies {
            return Ok(());
        }
        let failed = |failure: String| format!("as a range query: {failure}");
        let (start_ms, end_ms) = (time_ms - MINUTE_MS, time_ms + MINUTE_MS);
        let range = When::Range { start_ms, end_ms, step_ms: MINUTE_MS };
        self.queries += 1;
        let answer = self.store.evaluate(self.engine, expr, range);
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let Value::Matrix(matrix) = answer.value else {
            return Err(failed(format!("is {:?}", answer.value)));
        };
        if !matrix.is_sorted_by(|a, b| a.labels < b.labels) {
            return Err(failed("the matrix is not sorted by labels".into()));
        }
        // The order of an instant vector is lost in a matrix.
        if self.eval.expected.ordered {
            return Ok(());
        }
        let middle = at(&matrix, time_ms);
        let middle = match (is_scalar, middle.first().map(|sample| &sample.point)) {
            (false, _) => Value::Vector(middle),
            (true, Some(Point::Float(value))) => {
                Value::Scalar { timestamp: time_ms, value: *value }
            }
            (true, _) => return Err(failed("has no value".into())),
        };
        self.eval.expected.check_value(when, &middle).map_err(failed)
    }
}

/// The points of a matrix at one time.
fn at(matrix: &[MatrixSeries], time_ms: i64) -> Vec<VectorSample> {
    let sample = |series: &MatrixSeries| {
        let float = series.floats.iter().find(|(time, _)| *time == time_ms);
        let histogram = series.histograms.iter().find(|(time, _)| *time == time_ms);
        let float = float.map(|(_, value)| Point::Float(*value));
        let point = float.or(histogram.map(|(_, value)| Point::Histogram(value.clone())))?;
        Some(VectorSample { labels: series.labels.clone(), timestamp: time_ms, point })
    };
    matrix.iter().filter_map(sample).collect()
}
