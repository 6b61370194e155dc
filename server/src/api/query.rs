//! `/api/v1/query`, `/api/v1/query_range` and `/api/v1/format_query`.
//!
//! A query waits at a gate until few enough run, is parsed and evaluated on a blocking thread, and
//! has one deadline for all of that. When its client goes away, its handler is dropped; that drops
//! a guard, and the engine stops at its next look at the flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::response::Response;
use icecore_query::engine::{Answer, QueryError, QueryOptions};
use icecore_query::go_format::quote;
use icecore_query::parser::{self, ParserOptions, prettify};
use icecore_query::value::Value;
use icecore_storage::Snapshot;

use crate::api::result::{QueryTimes, ResultRows};
use crate::app::{App, blocking, enter};
use crate::clock;
use crate::http::error::{ApiError, ErrorKind};
use crate::http::params::Params;
use crate::http::reply::{self, Notes};

/// Prometheus's bound: a week at 60 s, a year at 1 h.
const POINTS_MAX: i128 = 11_000;

/// When to evaluate.
#[derive(Clone, Copy, Debug)]
enum Grid {
    At { time_ms: i64 },
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

/// One query as it was asked.
#[derive(Debug)]
struct Question {
    text: String,
    grid: Grid,
    lookback_ms: Option<i64>,
    timeout: Option<Duration>,
    limit: Option<usize>,
    /// Whether the answer shall say what it cost, if it is not empty.
    stats: String,
    /// Whether the result cache is left alone, as with VictoriaMetrics.
    bypasses_cache: bool,
}

pub(crate) async fn instant(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let time_ms = params.time_ms_or("time", clock::now_ms())?;
    answer(app, Question::new(app, &params, Grid::At { time_ms }, limit)?).await
}

pub(crate) async fn range(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let start_ms = params.time_ms("start")?;
    let end_ms = params.time_ms("end")?;
    if end_ms < start_ms {
        let error = "end timestamp must not be before start time";
        return Err(ApiError::parameter("end", error));
    }
    let step_ms = params.duration_ms("step")?;
    if step_ms <= 0 {
        let error = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::parameter("step", error));
    }
    if (i128::from(end_ms) - i128::from(start_ms)) / i128::from(step_ms) > POINTS_MAX {
        return Err(ApiError::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    let grid = Grid::Range { start_ms, end_ms, step_ms };
    answer(app, Question::new(app, &params, grid, limit)?).await
}

pub(crate) async fn format(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let options = app.config.parser;
    let text = params.query(&app.config)?.to_owned();
    let pretty = blocking(move || parse(&text, options).map(|expr| prettify(&expr)));
    Ok(reply::value(&pretty.await??))
}

impl Question {
    fn new(
        app: &App,
        params: &Params,
        grid: Grid,
        limit: Option<usize>,
    ) -> Result<Question, ApiError> {
        Ok(Question {
            timeout: params.timeout()?,
            lookback_ms: params.lookback_ms()?,
            text: params.query(&app.config)?.to_owned(),
            stats: params.get("stats").to_owned(),
            bypasses_cache: matches!(params.get("nocache"), "1" | "true"),
            grid,
            limit,
        })
    }
}

/// Tells whoever works, when it is dropped, that nobody waits any more.
#[derive(Default)]
pub(crate) struct CancelOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn answer(app: &Arc<App>, question: Question) -> Result<Response, ApiError> {
    let durations = match question.grid {
        Grid::At { .. } => &app.counters.query.instant_durations,
        Grid::Range { .. } => &app.counters.query.range_durations,
    };
    let asked = Instant::now();
    let outcome = evaluate(app, question, asked).await;
    durations.observe(asked.elapsed());
    if outcome.is_err() {
        app.counters.query.failed.add(1);
    }
    outcome
}

async fn evaluate(
    app: &Arc<App>,
    question: Question,
    asked: Instant,
) -> Result<Response, ApiError> {
    let own = app.config.engine.timeout;
    let deadline = asked + question.timeout.map_or(own, |timeout| timeout.min(own));
    let db = Arc::clone(app.db()?);
    let Ok(place) = Arc::clone(&app.gates.query_queue).try_acquire_owned() else {
        let error = "too many queries are waiting for others to end";
        return Err(ApiError::new(ErrorKind::Unavailable, error));
    };
    let permit = tokio::time::timeout_at(deadline.into(), enter(&app.gates.queries));
    let Ok(permit) = permit.await else {
        return Err(ApiError::new(ErrorKind::Timeout, "query timed out in query queue"));
    };
    let queued = asked.elapsed();
    let cancelled = CancelOnDrop::default();
    let options = QueryOptions {
        lookback_ms: question.lookback_ms,
        deadline: Some(deadline),
        cancelled: Arc::clone(&cancelled.0),
        per_step_stats: question.stats == "all",
    };
    let worker = Arc::clone(app);
    let work = blocking(move || {
        let _permits = (permit, place);
        let answer = run(&worker, &db.snapshot(), &question, &options).inspect_err(|error| {
            worker.counters.query.count_failure(error.kind());
        })?;
        worker.counters.query.samples.add(answer.stats.total_queryable_samples);
        worker.counters.query.series.add(answer.stats.series_fetched);
        let times =
            (!question.stats.is_empty()).then(|| QueryTimes { queued, total: asked.elapsed() });
        // Encoding begins here: small answers never meet the async threads.
        Ok(respond(answer, &question, times))
    });
    work.await?
}

fn run(
    app: &App,
    snapshot: &Snapshot,
    question: &Question,
    options: &QueryOptions,
) -> Result<Answer, ApiError> {
    let text = &question.text;
    let expr = parse(text, app.config.parser)?;
    let answer = match question.grid {
        Grid::At { time_ms } => app.engine.instant(snapshot, text, &expr, time_ms, options),
        // What a query costs is not said of a part of it.
        Grid::Range { start_ms, end_ms, step_ms }
            if question.bypasses_cache || !question.stats.is_empty() =>
        {
            app.engine.range(snapshot, text, &expr, start_ms, end_ms, step_ms, options)
        }
        Grid::Range { start_ms, end_ms, step_ms } => {
            let (cache, engine) = (&app.result_cache, &app.engine);
            cache.range(engine, snapshot, text, &expr, start_ms, end_ms, step_ms, options)
        }
    };
    // What the engine finds wrong with the query itself is wrong with that parameter.
    answer.map_err(|error| match error {
        QueryError::BadData(text) => ApiError::parameter("query", text),
        error => ApiError::from(error),
    })
}

fn parse(text: &str, options: ParserOptions) -> Result<parser::ast::Expr, ApiError> {
    parser::parse(text, options).map_err(|errors| ApiError::parameter("query", errors))
}

fn respond(mut answer: Answer, question: &Question, times: Option<QueryTimes>) -> Response {
    let mut notes = Notes {
        warnings: std::mem::take(&mut answer.warnings),
        infos: std::mem::take(&mut answer.infos),
        series_fetched: None,
    };
    if matches!(question.grid, Grid::At { .. }) {
        notes.series_fetched = Some(answer.stats.series_fetched);
    }
    if !matches!(&*question.stats, "" | "true" | "all") {
        let value = quote(question.stats.as_bytes());
        notes.warnings.push(format!(
            "value {value} for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\""
        ));
    }
    if truncate(&mut answer.value, question.limit) {
        notes.add_truncated();
    }
    let mut rows = ResultRows::new(answer.value, times.map(|times| (times, answer.stats)));
    let memory = answer.memory;
    reply::stream(notes, move |out| {
        // Held until the last piece is written or nobody wants it.
        let _ = &memory;
        rows.push(out)
    })
}

/// Cuts off the series above `limit`; whether there were any.
fn truncate(value: &mut Value, limit: Option<usize>) -> bool {
    let Some(limit) = limit else { return false };
    match value {
        Value::Vector(samples) if samples.len() > limit => samples.truncate(limit),
        Value::Matrix(series) if series.len() > limit => series.truncate(limit),
        _ => return false,
    }
    true
}
