//! The engine: a parsed query and a source in, a value out.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use icecore_storage::labels::Labels;
use icecore_storage::matcher::Matcher;

use crate::annotations::Annotations;
use crate::exec::{
    Budget, Counted, Executor, NodeValue, Rows, SampleCount, Scalar, Session, series_of,
};
use crate::memory::{QueryMemory, Reservation};
use crate::parser::ast::{Expr, NodeKind, ValueType};
use crate::plan::Plan;
use crate::source::Source;
use crate::value::{MatrixSeries, Point, Value, VectorSample};

/// Settings that hold for every query of a server.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub lookback_ms: i64,
    /// Step of a subquery that names none.
    pub default_subquery_step_ms: i64,
    pub max_samples: usize,
    /// Memory that one query may hold, and all together, in bytes.
    pub max_query_bytes: u64,
    pub max_bytes: u64,
    pub timeout: Duration,
    pub delayed_name_removal: bool,
    /// Counters are reset, and rise from zero, where their start timestamps say so.
    pub use_start_timestamps: bool,
    /// Queries may ask for the samples of each step.
    pub per_step_stats: bool,
    /// Whether a metric is a counter is said by its label `__type__`, not by its name.
    pub type_and_unit_labels: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            lookback_ms: 5 * 60 * 1000,
            default_subquery_step_ms: 60 * 1000,
            max_samples: 50_000_000,
            max_query_bytes: 1 << 30,
            max_bytes: 2 << 30,
            timeout: Duration::from_secs(120),
            delayed_name_removal: false,
            use_start_timestamps: false,
            per_step_stats: false,
            type_and_unit_labels: false,
        }
    }
}

/// What is asked for one query; `None` means the engine's own setting.
#[derive(Clone, Debug, Default)]
pub struct QueryOptions {
    pub lookback_ms: Option<i64>,
    pub deadline: Option<Instant>,
    /// Set by the caller when the client has gone.
    pub cancelled: Arc<AtomicBool>,
    /// Asks for [`QueryStats::samples_per_step`].
    pub per_step_stats: bool,
}

/// Why a query has no value. The variants are the API's error types.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QueryError {
    /// 400 `bad_data`.
    #[error("{0}")]
    BadData(String),
    /// 422 `execution`.
    #[error("{0}")]
    Execution(String),
    /// 503 `timeout`.
    #[error("{0}")]
    Timeout(String),
    /// 499 `canceled`.
    #[error("{0}")]
    Canceled(String),
    /// 500 `internal`: storage could not be read.
    #[error("{0}")]
    Internal(String),
}

/// A value and what has to be said about it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub value: Value,
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
    pub stats: QueryStats,
    /// Held as long as the answer is.
    pub memory: AnswerMemory,
}

/// What an answer takes of the memory of queries; given back with its last clone.
#[derive(Clone, Debug)]
pub struct AnswerMemory {
    _reservation: Arc<Reservation>,
}

impl AnswerMemory {
    pub(crate) fn new(reservation: Reservation) -> AnswerMemory {
        AnswerMemory { _reservation: Arc::new(reservation) }
    }
}

/// What a query cost, in samples as Prometheus counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples that selectors looked at, counted once for each step that used them.
    pub total_queryable_samples: u64,
    /// The same for each step by its time, if it was asked for and the engine's options allow it.
    pub samples_per_step: Vec<(i64, u64)>,
    /// The most samples that were held at once.
    pub peak_samples: u64,
    /// Series that were selected.
    pub series_fetched: u64,
}

/// What work beside queries may take; given back when dropped.
#[derive(Debug)]
pub struct Allowance {
    budget: Budget,
}

impl Allowance {
    /// Takes so many bytes more, if the work may go on at all.
    pub fn take(&self, bytes: u64) -> Result<(), QueryError> {
        self.budget.check()?;
        self.budget.hold_bytes(bytes)
    }
}

/// Evaluates queries; shared by all of a server's threads.
#[derive(Clone, Debug)]
pub struct Engine {
    pub options: EngineOptions,
    memory: Arc<QueryMemory>,
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::new(EngineOptions::default())
    }
}

impl Engine {
    pub fn new(options: EngineOptions) -> Engine {
        let memory = Arc::new(QueryMemory::new(options.max_bytes));
        Engine { options, memory }
    }

    /// Takes the memory of an answer.
    pub(crate) fn reserve(&self, value: &Value) -> Result<Reservation, QueryError> {
        Reservation::new(&self.memory, value.bytes())
    }

    /// What all queries of this engine and its clones hold.
    pub fn memory(&self) -> &QueryMemory {
        &self.memory
    }

    /// The value at one time. `text` is what `expr` was parsed from.
    pub fn instant<S: Source>(
        &self,
        source: &S,
        text: &str,
        expr: &Expr,
        time_ms: i64,
        options: &QueryOptions,
    ) -> Result<Answer, QueryError> {
        let grid = (time_ms, time_ms, 0);
        self.evaluate(source, text, expr, grid, options)
    }

    /// The values at `start_ms`, `start_ms + step_ms`, … up to `end_ms`, as a matrix.
    #[expect(clippy::too_many_arguments, reason = "a grid is three numbers")]
    pub fn range<S: Source>(
        &self,
        source: &S,
        text: &str,
        expr: &Expr,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        options: &QueryOptions,
    ) -> Result<Answer, QueryError> {
        if step_ms <= 0 {
            let text = "zero or negative query resolution step widths are not accepted";
            return Err(QueryError::BadData(text.into()));
        }
        self.evaluate(source, text, expr, (start_ms, end_ms, step_ms), options)
    }

    /// Evaluates at one time (`step_ms` 0) or on a grid.
    fn evaluate<S: Source>(
        &self,
        source: &S,
        text: &str,
        expr: &Expr,
        times: (i64, i64, i64),
        options: &QueryOptions,
    ) -> Result<Answer, QueryError> {
        let plan = self.plan(expr, times, options)?;
        Ok(self.run(source, &plan, options)?.answer(text))
    }

    pub(crate) fn plan<'e>(
        &self,
        expr: &'e Expr,
        times: (i64, i64, i64),
        options: &QueryOptions,
    ) -> Result<Plan<'e>, QueryError> {
        Plan::new(expr, times, self.lookback_ms(options), &self.options)
    }

    pub(crate) fn lookback_ms(&self, options: &QueryOptions) -> i64 {
        options.lookback_ms.unwrap_or(self.options.lookback_ms)
    }

    /// Whether a query is told the samples of each of its steps.
    pub(crate) fn counts_steps(&self, options: &QueryOptions) -> bool {
        self.options.per_step_stats && options.per_step_stats
    }

    pub(crate) fn run<S: Source>(
        &self,
        source: &S,
        plan: &Plan<'_>,
        options: &QueryOptions,
    ) -> Result<Evaluated, QueryError> {
        self.run_within(&self.budget(options), source, plan, options)
    }

    fn budget(&self, options: &QueryOptions) -> Budget {
        let deadline = options.deadline.unwrap_or_else(|| Instant::now() + self.options.timeout);
        let cancelled = Arc::clone(&options.cancelled);
        Budget::new(self.options.max_samples, deadline, cancelled)
            .within(self.options.max_query_bytes, Arc::clone(&self.memory))
    }

    /// The memory and the time of a query, for a look at the index that may be as large.
    pub fn allowance(&self, options: &QueryOptions) -> Allowance {
        Allowance { budget: self.budget(options) }
    }

    fn run_within<S: Source>(
        &self,
        budget: &Budget,
        source: &S,
        plan: &Plan<'_>,
        options: &QueryOptions,
    ) -> Result<Evaluated, QueryError> {
        let steps = if self.counts_steps(options) { plan.grid.steps } else { 0 };
        let sample_count = SampleCount::new(steps);
        let session = Session {
            annotations: Annotations::default(),
            budget,
            sample_count: &sample_count,
            counted: Counted::EachStep,
            delayed: self.options.delayed_name_removal,
            use_start_timestamps: self.options.use_start_timestamps,
            type_and_unit_labels: self.options.type_and_unit_labels,
            first_step: 0,
            is_of_its_range: false,
        };
        let mut executor = Executor::new(plan, source, session)?;
        let value = value_of(plan, &mut executor)?;
        let of_steps = sample_count.of_steps().into_iter().enumerate();
        let stats = QueryStats {
            total_queryable_samples: sample_count.total(),
            samples_per_step: of_steps
                .map(|(step, samples)| (plan.grid.time_ms(step), samples))
                .collect(),
            peak_samples: budget.peak(),
            series_fetched: executor.series_fetched(),
        };
        let reservation = budget.reserve(value.bytes())?;
        let Session { annotations, is_of_its_range, .. } = executor.session;
        Ok(Evaluated { value, annotations, is_of_its_range, stats, reservation })
    }
}

/// What a plan has come to.
#[derive(Debug)]
pub(crate) struct Evaluated {
    pub(crate) value: Value,
    pub(crate) annotations: Annotations,
    /// See [`Session`].
    pub(crate) is_of_its_range: bool,
    pub(crate) stats: QueryStats,
    pub(crate) reservation: Reservation,
}

impl Evaluated {
    pub(crate) fn answer(self, text: &str) -> Answer {
        let (warnings, infos) = self.annotations.render(text);
        let memory = AnswerMemory::new(self.reservation);
        Answer { value: self.value, warnings, infos, stats: self.stats, memory }
    }
}

/// Runs a plan and gives its value the shape of the API.
fn value_of<S: Source>(
    plan: &Plan<'_>,
    executor: &mut Executor<'_, S>,
) -> Result<Value, QueryError> {
    let value_type = plan.node(plan.expr.root).value_type;
    let instant = plan.step_ms == 0;
    if value_type == ValueType::RangeVector && instant {
        return executor.range_vector().map(Value::Matrix);
    }
    if !instant && matches!(value_type, ValueType::RangeVector | ValueType::String) {
        let name = if value_type == ValueType::String { "string" } else { "range vector" };
        return Err(QueryError::BadData(format!(
            "invalid expression type {name:?} for range query, must be Scalar or instant Vector"
        )));
    }
    let time_ms = plan.start_ms;
    Ok(match executor.run()? {
        NodeValue::Text(value) => Value::String { timestamp: time_ms, value },
        NodeValue::Scalar(scalar) if instant => {
            Value::Scalar { timestamp: time_ms, value: scalar.at(0) }
        }
        NodeValue::Scalar(scalar) => Value::Matrix(matrix_of_scalar(&scalar, plan)),
        NodeValue::Rows(rows) => {
            let budget = executor.session.budget;
            let rows = rows.remove_marked_names(budget)?;
            match instant {
                true => Value::Vector(vector_of(&rows, time_ms)),
                false => matrix_of(&rows, plan, budget)?,
            }
        }
    })
}

fn vector_of(rows: &Rows, time_ms: i64) -> Vec<VectorSample> {
    let mut vector = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        let point = match rows.histograms[row].first() {
            Some((_, histogram)) => Point::Histogram(Arc::clone(histogram)),
            None if rows.valid(row)[0] & 1 == 1 => Point::Float(rows.values(row)[0]),
            None => continue,
        };
        let labels = rows.meta[row].labels.clone();
        vector.push(VectorSample { labels, timestamp: time_ms, point });
    }
    vector
}

fn matrix_of(rows: &Rows, plan: &Plan<'_>, budget: &Budget) -> Result<Value, QueryError> {
    series_of(rows, plan.grid, budget).map(Value::Matrix)
}

fn matrix_of_scalar(scalar: &Scalar, plan: &Plan<'_>) -> Vec<MatrixSeries> {
    let point = |step| (plan.grid.time_ms(step), scalar.at(step));
    let floats: Vec<(i64, f64)> = (0..plan.grid.steps).map(point).collect();
    if floats.is_empty() {
        return Vec::new();
    }
    vec![MatrixSeries { labels: Labels::empty(), floats, histograms: Vec::new() }]
}

/// The matchers of every vector selector of a query, in the order in which they are written.
pub fn selectors(expr: &Expr) -> Vec<Vec<Matcher>> {
    let mut found: Vec<_> = expr
        .nodes
        .iter()
        .filter_map(|node| match &node.kind {
            NodeKind::VectorSelector(selector) => Some((node.span.start, &selector.matchers)),
            _ => None,
        })
        .collect();
    found.sort_by_key(|(start, _)| *start);
    found.into_iter().map(|(_, matchers)| matchers.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use icecore_storage::metrics::sample::Samples;

    use super::*;
    use crate::parser::{ParserOptions, parse};
    use crate::source::{Charge, SelectedSeries, Selection, SourceError};

    /// `x`: many series; `y`: one with many samples; `z`: a few histograms of many buckets.
    struct Large;

    const SERIES: usize = 4096;
    const STEPS: usize = 128;

    fn labels(name: &str, number: usize) -> Labels {
        let label = if name == "z" { "le" } else { "n" };
        Labels::from_pairs([("__name__", name), (label, &number.to_string())]).unwrap()
    }

    impl Source for Large {
        type Series = bool;

        fn select(
            &self,
            selections: &[Selection],
            _: &mut Charge<'_>,
        ) -> Result<Vec<SelectedSeries<bool>>, SourceError> {
            let of = |selection: &Selection| {
                let name = selection.matchers[0].value();
                let count = if name == "y" { 1 } else { SERIES };
                (0..count).map(|number| (labels(name, number), name == "y")).collect()
            };
            Ok(selections.iter().map(of).collect())
        }

        fn read(&self, is_long: &bool, into: &mut Samples) -> Result<(), SourceError> {
            into.clear();
            let step_ms = if *is_long { 10 } else { 1000 };
            for at in 0..STEPS as i64 * 1000 / step_ms {
                into.push(at * step_ms, (at * at % 17) as f64 + 0.5);
            }
            into.timestamps_token = if *is_long { 2 } else { 1 };
            Ok(())
        }
    }

    /// How often the evaluation of a range query has looked at its budget.
    fn looks(query: &str, steps: usize) -> u64 {
        let engine = Engine::default();
        let options = QueryOptions::default();
        let expr = parse(query, ParserOptions::ALL).unwrap();
        let end_ms = (STEPS as i64 - 1) * 1000;
        let step_ms = if steps == 1 { 0 } else { end_ms / (steps as i64 - 1) };
        let start_ms = if steps == 1 { end_ms } else { 0 };
        let plan = engine.plan(&expr, (start_ms, end_ms, step_ms), &options).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let budget = Budget::new(usize::MAX >> 1, deadline, Arc::default());
        let done = engine.run_within(&budget, &Large, &plan, &options);
        done.unwrap_or_else(|error| panic!("{query}: {error}"));
        budget.looks.load(Ordering::Relaxed)
    }

    /// Work is counted, not time: a loop over a million cells has to look a hundred times.
    #[test]
    fn every_operator_looks_at_the_budget_as_it_works() {
        let cells = SERIES * STEPS;
        let rows = 32 * SERIES;
        for (query, without, steps, work) in [
            ("-x", "x", STEPS, cells),
            ("abs(x)", "x", STEPS, cells),
            ("round(x)", "x", STEPS, cells),
            ("clamp(x, 0, 1)", "x", STEPS, cells),
            ("hour(x)", "x", STEPS, cells),
            ("x * 2", "x", STEPS, cells),
            ("x > 0", "x", STEPS, cells),
            ("x + x", "x or x", STEPS, cells),
            ("x + on (n) group_left x", "x or x", STEPS, cells),
            ("x and x", "x", STEPS, rows),
            ("label_replace(x, 'm', '$1', 'n', '(.*)')", "x", STEPS, rows),
            ("label_join(x, 'm', '-', 'n', 'n')", "x", STEPS, rows),
            ("topk(5, x)", "vector(1)", STEPS, cells),
            ("quantile(0.5, x)", "vector(1)", STEPS, cells),
            ("count_values('v', x)", "vector(1)", STEPS, cells),
            ("limit_ratio(0.5, x)", "vector(1)", STEPS, cells),
            ("sum by (n) (x * 2)", "x * 2", STEPS, cells),
            ("sum by (n) (x)", "vector(1)", STEPS, rows),
            ("max_over_time((x * 2)[10s:1s])", "vector(1)", STEPS, cells),
            ("histogram_quantile(0.9, z)", "vector(1)", STEPS, cells),
            ("sort(x)", "x", 1, 2 * SERIES),
            ("x", "vector(1)", STEPS, cells),
            ("y[2m]", "vector(1)", 1, 1),
            ("stddev_over_time(y[2m])", "vector(1)", 1500, 1500 * 6000),
            ("mad_over_time(y[2m])", "vector(1)", 150, 150 * 6000),
            ("quantile_over_time(0.9, y[2m])", "vector(1)", 1500, 1500 * 6000),
            ("rate(y[2m] anchored)", "vector(1)", 1500, 1500 * 6000),
            ("resets(y[2m] anchored)", "vector(1)", 1500, 1500 * 6000),
            ("rate(y[2m] smoothed)", "vector(1)", 1500, 1500 * 6000),
        ] {
            let found = looks(query, steps).saturating_sub(looks(without, steps));
            // A block of a long row is as large as half a million samples that are added up.
            let a_look = if steps > STEPS { 1 << 20 } else { 2 * 4096 };
            assert!(found >= (work / a_look) as u64, "{query}: {found} looks for {work} cells");
        }
    }
}
