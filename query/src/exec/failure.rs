//! Which failure counts. Prometheus evaluates a node step by step and stops at the first step that
//! fails; here a node is evaluated series by series, so failures are collected and the one that
//! Prometheus would have met first is reported.

use crate::engine::QueryError;

/// The first failure so far.
#[derive(Debug, Default)]
pub(crate) struct FirstFailure {
    first: Option<(usize, u8, String)>,
}

impl FirstFailure {
    /// A failure at `step`; `rank` orders what one step does. Of equal ones the earlier recorded
    /// stays.
    pub(crate) fn record(&mut self, step: usize, rank: u8, text: impl FnOnce() -> String) {
        let earlier = |known: &(usize, u8, String)| (known.0, known.1) <= (step, rank);
        if !self.first.as_ref().is_some_and(earlier) {
            self.first = Some((step, rank, text()));
        }
    }

    pub(crate) fn finish(self) -> Result<(), QueryError> {
        match self.first {
            Some((_, _, text)) => Err(QueryError::Execution(text)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_step_fails_first() {
        let mut first = FirstFailure::default();
        first.record(3, 0, || "late".into());
        first.record(1, 1, || "early".into());
        first.record(1, 1, || "second".into());
        first.record(1, 2, || "ranked behind".into());
        assert_eq!(first.finish(), Err(QueryError::Execution("early".into())));
        assert_eq!(FirstFailure::default().finish(), Ok(()));
    }
}
