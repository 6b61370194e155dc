//! Which parts of a query have the same value at every step.
//!
//! Prometheus wraps a subtree where it is invariant and what is around it is not. The rules are
//! followed node by node: an aggregation is as its operand is, whatever its parameter; functions
//! that look at the evaluation time are never invariant; the inside of a subquery is wrapped
//! whenever it is invariant.

use crate::functions::FunctionId;
use crate::parser::ast::{NodeId, NodeKind};
use crate::plan::Plan;

#[derive(Clone, Copy, Default)]
struct Invariance {
    invariant: bool,
    /// Worth evaluating once: literals are invariant but not worth it.
    wrap: bool,
}

/// For each node whether its value is computed on one step and repeated.
pub(crate) fn wraps(plan: &Plan<'_>) -> Vec<bool> {
    let count = plan.expr.nodes.len();
    let mut known = vec![Invariance::default(); count];
    let mut wraps = vec![false; count];
    for index in 0..count {
        let of = |id: &NodeId| known[id.0 as usize];
        let both = |yes: bool| Invariance { invariant: yes, wrap: yes };
        let here = match plan.kind(NodeId(index as u32)) {
            NodeKind::Number { .. } | NodeKind::String { .. } => {
                Invariance { invariant: true, wrap: false }
            }
            NodeKind::VectorSelector(selector) => both(selector.modifiers.at.is_some()),
            NodeKind::MatrixSelector { selector, .. } => {
                Invariance { invariant: of(selector).invariant, wrap: false }
            }
            NodeKind::Subquery(subquery) => {
                wraps[subquery.expr.0 as usize] = of(&subquery.expr).invariant;
                both(subquery.modifiers.at.is_some())
            }
            NodeKind::Unary { operand, .. } => of(operand),
            NodeKind::Paren { inner } => of(inner),
            NodeKind::Aggregate(aggregate) => of(&aggregate.expr),
            NodeKind::Binary(binary) => {
                let sides = [binary.left, binary.right];
                if sides.iter().all(|side| of(side).invariant) {
                    both(true)
                } else {
                    sides.iter().for_each(|side| wraps[side.0 as usize] = of(side).wrap);
                    both(false)
                }
            }
            NodeKind::Call { function, args } => {
                let safe = !looks_at_time(function.id);
                if safe && args.iter().all(|arg| of(arg).invariant) {
                    both(true)
                } else {
                    args.iter().for_each(|arg| wraps[arg.0 as usize] = of(arg).wrap);
                    both(false)
                }
            }
        };
        known[index] = here;
    }
    wraps[plan.expr.root.0 as usize] = known[plan.expr.root.0 as usize].wrap;
    wraps
}

/// Functions whose value changes with the evaluation time though their arguments do not.
fn looks_at_time(id: FunctionId) -> bool {
    use FunctionId::*;
    matches!(
        id,
        DaysInMonth
            | DayOfMonth
            | DayOfWeek
            | DayOfYear
            | Hour
            | Minute
            | Month
            | Year
            | PredictLinear
            | Time
            | Timestamp
            | StartTimestamp
    )
}
