//! Where the samples of a test go, and where the engine reads them: a fixture in memory, and
//! databases in the states that databases are in.

pub(crate) mod database;
pub(crate) mod fixture;
#[path = "../memory/mod.rs"]
mod memory;

use icecore_query::engine::{Answer, Engine, QueryError, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::source::Source;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::Histogram;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Float(f64),
    Histogram(Histogram),
}

#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) timestamp: i64,
    /// 0 for unknown.
    pub(crate) start_timestamp: i64,
    pub(crate) value: Value,
}

/// A series and its samples, ascending in time.
pub(crate) type Series = (Labels, Vec<Sample>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Instant { time_ms: i64 },
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

/// Something that takes samples and can be asked.
pub(crate) trait Store: Default {
    type Source<'a>: Source
    where
        Self: 'a;

    /// Adds samples; each series comes once.
    fn load(&mut self, series: &[Series]);

    fn source(&self) -> Self::Source<'_>;

    fn evaluate(&self, engine: &Engine, expr: &str, when: When) -> Result<Answer, QueryError> {
        let parsed = parser::parse(expr, ParserOptions::ALL)
            .map_err(|error| QueryError::BadData(error.to_string()))?;
        let asked = QueryOptions::default();
        let source = self.source();
        match when {
            When::Instant { time_ms } => engine.instant(&source, expr, &parsed, time_ms, &asked),
            When::Range { start_ms, end_ms, step_ms } => {
                engine.range(&source, expr, &parsed, start_ms, end_ms, step_ms, &asked)
            }
        }
    }
}
