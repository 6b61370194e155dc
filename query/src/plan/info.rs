//! `info()`: what it asks of the source, and for which times.
//!
//! Its second argument is no selector of its own but says which labels to add, and by matchers of
//! the name which info metrics have them. The info series are a selection like any other; which of
//! them are looked at depends on the series they are added to and is decided when these are there.

use icecore_storage::labels::METRIC_NAME;
use icecore_storage::matcher::{MatchOp, Matcher};

use crate::engine::QueryError;
use crate::parser::ast::{At, NodeId, NodeKind};
use crate::plan::{Grid, Plan, Times};

/// The info metric that is meant where none is named.
const TARGET_INFO: &str = "target_info";

/// The second argument of `info()`, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct InfoSelector {
    /// Matchers of the name: what they all match is an info metric.
    pub(crate) names: Vec<Matcher>,
    /// Matchers of the labels to add; without any all labels are added.
    pub(crate) data: Vec<Matcher>,
}

impl InfoSelector {
    /// Of the call's arguments.
    pub(crate) fn new(plan: &Plan<'_>, args: &[NodeId]) -> InfoSelector {
        let matchers = match args.get(1).map(|labels| plan.kind(plan.strip(*labels))) {
            Some(NodeKind::VectorSelector(selector)) => selector.matchers.clone(),
            _ => Vec::new(),
        };
        let (mut names, data): (Vec<Matcher>, Vec<Matcher>) =
            matchers.into_iter().partition(|matcher| matcher.name() == METRIC_NAME);
        let selects = |matcher: &Matcher| matches!(matcher.op(), MatchOp::Equal | MatchOp::Regex);
        if names.is_empty() {
            names.push(Matcher::equal(METRIC_NAME, TARGET_INFO));
        } else if !names.iter().any(selects) {
            // Exclusions alone would leave every metric there is.
            let any = Matcher::new(METRIC_NAME, MatchOp::Regex, ".+_info");
            names.extend(any.ok());
        }
        InfoSelector { names, data }
    }

    /// Whether a series of that name is itself an info series.
    pub(crate) fn is_info(&self, name: &str) -> bool {
        self.names.iter().all(|matcher| matcher.matches(name))
    }

    /// What the info series match.
    pub(super) fn matchers(&self) -> Vec<Matcher> {
        self.names.iter().chain(&self.data).cloned().collect()
    }
}

/// The times at which the info series are looked at: those of the first selector in the first
/// argument, seen through the subqueries around it.
pub(super) fn times(plan: &Plan<'_>, base: NodeId, grid: Grid) -> Result<Times, QueryError> {
    let mut pending: Vec<(NodeId, Option<At>, i64)> = vec![(base, None, 0)];
    while let Some((id, outer_at, outer_offset_ms)) = pending.pop() {
        let modifiers = match plan.kind(id) {
            NodeKind::VectorSelector(selector) => Some(&selector.modifiers),
            NodeKind::Subquery(subquery) => Some(&subquery.modifiers),
            _ => None,
        };
        let (mut at, mut offset_ms) = (outer_at, outer_offset_ms);
        if let Some(modifiers) = modifiers {
            let own_ms = plan.offset_ms(modifiers)?;
            // `@` says a time whatever is around it.
            (at, offset_ms) = match modifiers.at {
                Some(at) => (Some(at), own_ms),
                None => (outer_at, outer_offset_ms.saturating_add(own_ms)),
            };
        }
        if let NodeKind::VectorSelector(_) = plan.kind(id) {
            return Ok(Times::new(grid, at.map(|at| plan.at_ms(at)), offset_ms));
        }
        let mut below = plan.kind(id).children();
        if let NodeKind::Aggregate(_) = plan.kind(id) {
            // Prometheus looks into an aggregation's operand before its parameter.
            below.reverse();
        }
        pending.extend(below.into_iter().rev().map(|child| (child, at, offset_ms)));
    }
    Ok(Times::new(grid, None, 0))
}
