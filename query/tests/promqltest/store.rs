//! Where the samples of a script go, and where the engine reads them.

use icecore_query::engine::{Answer, Engine, QueryError, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::source::Source;

use crate::load::Load;
use crate::script::When;

/// Two kinds of implementers: the fixture in memory, and databases in different states.
pub(crate) trait Store: Default {
    type Source<'a>: Source
    where
        Self: 'a;

    fn load(&mut self, load: &Load);

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
