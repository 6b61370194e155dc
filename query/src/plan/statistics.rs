//! Which selectors need nothing of histograms but count and sum.
//!
//! That is what stands below `histogram_count`, `histogram_sum` or `histogram_avg`, unless buckets
//! are needed on the way there. It is more than less work, since resets are then found while series
//! are read, and not later, which shows in annotations. Prometheus's `detectHistogramStatsDecoding`.

use crate::functions::FunctionId;
use crate::parser::ast::{BinaryOp, NodeKind};
use crate::plan::Plan;

#[derive(Clone, Copy, Default)]
struct Above {
    statistics: bool,
    buckets: bool,
}

/// For each node whether that is all it needs.
pub(crate) fn only(plan: &Plan<'_>) -> Vec<bool> {
    use FunctionId::*;
    let mut above = vec![Above::default(); plan.expr.nodes.len()];
    for id in plan.ids().rev() {
        let mut here = above[id.0 as usize];
        match plan.kind(id) {
            NodeKind::Call { function, .. } => match function.id {
                HistogramCount | HistogramSum | HistogramAvg => here.statistics = true,
                HistogramQuantile | HistogramQuantiles | HistogramFraction | HistogramStddev
                | HistogramStdvar => here.buckets = true,
                _ => {}
            },
            // Between the steps of a subquery, resets are only to be seen in buckets.
            NodeKind::Subquery(_) => here.buckets = true,
            NodeKind::Binary(binary) => {
                here.buckets |= matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
            }
            _ => {}
        }
        for child in plan.kind(id).children() {
            above[child.0 as usize] = here;
        }
    }
    above.into_iter().map(|above| above.statistics && !above.buckets).collect()
}

#[cfg(test)]
mod tests {
    use crate::engine::EngineOptions;
    use crate::parser::{self, ParserOptions};
    use crate::plan::Plan;

    fn check(query: &str, expected: &[bool]) {
        let expr = parser::parse(query, ParserOptions::default()).unwrap();
        let plan = Plan::new(&expr, (0, 0, 0), 300_000, &EngineOptions::default()).unwrap();
        let selectors = plan.nodes.iter().filter(|node| node.selection.is_some());
        let found: Vec<bool> = selectors.map(|node| node.statistics_only).collect();
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn buckets_are_left_out_below_functions_that_need_none() {
        check("histogram_count(sum(rate(x[5m])))", &[true]);
        check("histogram_avg(x) + x", &[true, false]);
        check("histogram_count(rate(x[5m:1m]))", &[false]);
        check("histogram_sum(x </ 5)", &[false]);
        check("histogram_count(x unless histogram_quantile(0.5, y) < 3)", &[true, false]);
    }
}
