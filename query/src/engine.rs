//! The engine: a parsed query and a source in, a value out.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::parser::ast::Expr;
use crate::source::Source;
use crate::value::Value;

/// Settings that hold for every query of a server.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub lookback_ms: i64,
    /// Step of a subquery that names none.
    pub default_subquery_step_ms: i64,
    pub max_samples: usize,
    pub timeout: Duration,
    pub delayed_name_removal: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            lookback_ms: 5 * 60 * 1000,
            default_subquery_step_ms: 60 * 1000,
            max_samples: 50_000_000,
            timeout: Duration::from_secs(120),
            delayed_name_removal: false,
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
}

/// What a query cost, in samples as Prometheus counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Samples that selectors looked at, counted once for each step that used them.
    pub total_queryable_samples: u64,
    /// The most samples that were held at once.
    pub peak_samples: u64,
    /// Series that were selected.
    pub series_fetched: u64,
}

/// Evaluates queries; shared by all of a server's threads.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    pub options: EngineOptions,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Engine {
        Engine { options }
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
        let _ = (source, text, expr, time_ms, options);
        Err(QueryError::Execution("the engine is not built yet".into()))
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
        let _ = (source, text, expr, start_ms, end_ms, step_ms, options);
        Err(QueryError::Execution("the engine is not built yet".into()))
    }
}
