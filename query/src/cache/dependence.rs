//! What the value at an instant depends on, and whether it depends on nothing else.
//!
//! An instant `t` looks at samples of `t - a` to `t - b` for each selector: its lookback or range,
//! the ranges of subqueries around it, and all their offsets; or, below an `@`, at one fixed range.
//! A result can be put together from parts if each step is a function of those samples alone.
//! [`Dependence::of`] refuses every query of which that is not certain.

use icecore_storage::labels::METRIC_NAME;
use icecore_storage::matcher::MatchOp;
use icecore_storage::time::TimeRange;

use crate::functions::FunctionId;
use crate::parser::ast::{
    AggregateOp, At, ComputedDuration, DurationExpr, Modifiers, NodeId, NodeKind, ValueType,
};
use crate::plan::Plan;

/// The samples that one selector looks at for an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// From `oldest_ms` to `newest_ms`, both relative to the instant and included.
    Moving { oldest_ms: i64, newest_ms: i64 },
    /// The same for every instant.
    Fixed(TimeRange),
}

impl Reach {
    /// `times` less the offset and the window before.
    fn shifted(self, offset_ms: i64, window_ms: i64) -> Reach {
        let oldest = |ms: i64| ms.saturating_sub(offset_ms).saturating_sub(window_ms);
        match self {
            Reach::Moving { oldest_ms, newest_ms } => Reach::Moving {
                oldest_ms: oldest(oldest_ms),
                newest_ms: newest_ms.saturating_sub(offset_ms),
            },
            Reach::Fixed(range) => Reach::Fixed(TimeRange::new(
                oldest(range.start_ms),
                range.end_ms.saturating_sub(offset_ms),
            )),
        }
    }

    /// The samples that the instants of `instants` look at.
    fn over(self, instants: TimeRange) -> TimeRange {
        match self {
            Reach::Moving { oldest_ms, newest_ms } => TimeRange::new(
                instants.start_ms.saturating_add(oldest_ms),
                instants.end_ms.saturating_add(newest_ms),
            ),
            Reach::Fixed(range) => range,
        }
    }

    /// The instants that look at a sample of `samples`.
    fn instants_of(self, samples: TimeRange) -> TimeRange {
        match self {
            Reach::Moving { oldest_ms, newest_ms } => TimeRange::new(
                samples.start_ms.saturating_sub(newest_ms),
                samples.end_ms.saturating_sub(oldest_ms),
            ),
            Reach::Fixed(range) if range.overlaps(samples) => TimeRange::ALL,
            Reach::Fixed(_) => TimeRange::new(i64::MAX, i64::MIN),
        }
    }
}

/// What the instants of a query depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependence {
    reaches: Vec<Reach>,
}

impl Dependence {
    /// `None` for a query whose steps may depend on more than samples, or that reads none.
    pub(crate) fn of(plan: &Plan<'_>) -> Option<Dependence> {
        let nodes = plan.expr.nodes.len() as u32;
        if plan.selections.is_empty() || !(0..nodes).all(|id| is_of_its_step(plan, NodeId(id))) {
            return None;
        }
        let here = Reach::Moving { oldest_ms: 0, newest_ms: 0 };
        let mut reach_of = vec![here; nodes as usize];
        let mut reaches = Vec::new();
        // Parents come after their children.
        for id in (0..nodes).rev().map(NodeId) {
            let mut below = reach_of[id.0 as usize];
            let node = plan.node(id);
            if let Some(view) = node.view {
                let times = view.times;
                below = if times.step_ms == 0 {
                    let at = TimeRange::new(times.first_ms, times.first_ms);
                    Reach::Fixed(at).shifted(0, view.window_ms)
                } else {
                    let offset_ms = node.grid.start_ms.saturating_sub(times.first_ms);
                    below.shifted(offset_ms, view.window_ms)
                };
            }
            match plan.kind(id) {
                // Its selector has the same view.
                NodeKind::MatrixSelector { .. } => below = reach_of[id.0 as usize],
                NodeKind::VectorSelector(_) => reaches.push(below),
                _ => {}
            }
            for child in plan.kind(id).children() {
                reach_of[child.0 as usize] = below;
            }
        }
        reaches.sort_unstable_by_key(|reach| match reach {
            Reach::Moving { oldest_ms, newest_ms } => (0, *oldest_ms, *newest_ms),
            Reach::Fixed(range) => (1, range.start_ms, range.end_ms),
        });
        reaches.dedup();
        Some(Dependence { reaches })
    }

    /// Those of `instants` whose value may have changed: `changes` lists the changes in a range of
    /// samples.
    pub(crate) fn changed_instants(
        &self,
        instants: TimeRange,
        changes: impl Fn(TimeRange) -> Vec<TimeRange>,
    ) -> Vec<TimeRange> {
        let mut changed = Vec::new();
        for reach in &self.reaches {
            let found = changes(reach.over(instants));
            let of_reach = found.into_iter().map(|samples| reach.instants_of(samples));
            changed.extend(of_reach.map(|range| range.intersection(instants)));
        }
        changed.retain(|range| !range.is_empty());
        changed
    }
}

/// Whether a node's value at a step is a function of its operands' values at that step, or of the
/// samples in the window of that step.
fn is_of_its_step(plan: &Plan<'_>, id: NodeId) -> bool {
    match plan.kind(id) {
        NodeKind::Number { .. }
        | NodeKind::String { .. }
        | NodeKind::Unary { .. }
        | NodeKind::Paren { .. } => true,
        NodeKind::VectorSelector(selector) => {
            // An extended selector looks beyond its view.
            is_absolute(&selector.modifiers) && plan.node(id).extension.is_none()
        }
        NodeKind::MatrixSelector { range, .. } => !names_range(range),
        NodeKind::Subquery(subquery) => {
            is_absolute(&subquery.modifiers)
                && !names_range(&subquery.range)
                && !subquery.step.as_ref().is_some_and(names_range)
        }
        NodeKind::Binary(binary) => binary.matching.as_ref().is_none_or(|matching| {
            // The other side's presence over all of the query may matter.
            matching.fill_left.is_none() && matching.fill_right.is_none()
        }),
        NodeKind::Aggregate(aggregate) => {
            use AggregateOp::{LimitRatio, Limitk};
            // A parameter that varies is judged over all steps.
            let is_fixed = aggregate.param.is_none_or(|param| is_literal(plan, param));
            is_fixed && !matches!(aggregate.op, Limitk | LimitRatio)
        }
        NodeKind::Call { function, args } => {
            use FunctionId::{
                AbsentOverTime, DefaultRollup, FirstOverTime, HistogramFraction, HistogramQuantile,
                LastOverTime, MaxOf, MinOf, Sort, SortDesc, Step, Timestamp,
            };
            let is_known = match function.id {
                Step | MaxOf | MinOf => true,
                Sort | SortDesc => false,
                _ => !function.experimental,
            };
            let of_type = |value_type: ValueType| {
                args.iter().copied().filter(move |arg| plan.node(*arg).value_type == value_type)
            };
            let mut ranges = of_type(ValueType::RangeVector).map(|arg| plan.strip(arg));
            let range = ranges.next();
            let needs_literals =
                range.is_some() || matches!(function.id, HistogramQuantile | HistogramFraction);
            let parameters =
                !needs_literals || of_type(ValueType::Scalar).all(|arg| is_literal(plan, arg));
            // Series that become equal without their names are an error over all of the query,
            // also where they never meet.
            let named = match (function.id, range) {
                (FirstOverTime | LastOverTime | DefaultRollup, _) => true,
                (Timestamp, _) => match plan.kind(plan.strip(args[0])) {
                    NodeKind::VectorSelector(_) => has_one_name(plan, plan.strip(args[0])),
                    _ => true,
                },
                (AbsentOverTime, Some(range)) | (_, Some(range)) => has_one_name(plan, range),
                (_, None) => true,
            };
            is_known && parameters && named && !resets_matter(plan, id)
        }
    }
}

/// Whether a node's answer depends on what its selectors know of resets before the window: the first
/// histogram that is read is said to follow none.
fn resets_matter(plan: &Plan<'_>, id: NodeId) -> bool {
    use FunctionId::{
        Delta, HistogramAvg, HistogramCount, HistogramSum, Idelta, Increase, Irate, Rate,
    };
    fn are_combined(plan: &Plan<'_>, id: NodeId) -> bool {
        match plan.kind(id) {
            NodeKind::VectorSelector(_) => true,
            NodeKind::Call { function, .. }
                if matches!(function.id, Delta | Idelta | Increase | Irate | Rate) =>
            {
                false
            }
            kind => kind.children().into_iter().any(|child| are_combined(plan, child)),
        }
    }
    match plan.kind(id) {
        NodeKind::Call { function, args }
            if matches!(function.id, HistogramAvg | HistogramCount | HistogramSum) =>
        {
            let operand = plan.strip(args[0]);
            let is_selector = matches!(plan.kind(operand), NodeKind::VectorSelector(_));
            !is_selector && are_combined(plan, operand)
        }
        _ => false,
    }
}

fn is_literal(plan: &Plan<'_>, id: NodeId) -> bool {
    match plan.kind(id) {
        NodeKind::Number { .. } | NodeKind::String { .. } => true,
        NodeKind::Paren { inner } => is_literal(plan, *inner),
        NodeKind::Unary { operand, .. } => is_literal(plan, *operand),
        _ => false,
    }
}

/// Whether selector or subquery look where the query's start and end do not matter.
fn is_absolute(modifiers: &Modifiers) -> bool {
    !matches!(modifiers.at, Some(At::Start | At::End))
        && modifiers.extension.is_none()
        && !modifiers.offset.as_ref().is_some_and(names_range)
}

/// Recurses: the parser bounds the depth.
fn names_range(duration: &DurationExpr) -> bool {
    let DurationExpr::Computed(computed) = duration else { return false };
    match &**computed {
        ComputedDuration::Range => true,
        ComputedDuration::Seconds(_) | ComputedDuration::Step => false,
        ComputedDuration::Negate(inner) | ComputedDuration::Paren(inner) => names_range(inner),
        ComputedDuration::Min(left, right)
        | ComputedDuration::Max(left, right)
        | ComputedDuration::Binary { left, right, .. } => names_range(left) || names_range(right),
    }
}

/// Whether all series of a node have the same metric name, or none, whatever is stored.
fn has_one_name(plan: &Plan<'_>, id: NodeId) -> bool {
    match plan.kind(id) {
        NodeKind::VectorSelector(selector) => selector
            .matchers
            .iter()
            .any(|matcher| matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal),
        NodeKind::MatrixSelector { selector, .. } => has_one_name(plan, *selector),
        NodeKind::Subquery(subquery) => has_one_name(plan, subquery.expr),
        NodeKind::Paren { inner } => has_one_name(plan, *inner),
        NodeKind::Aggregate(aggregate) => {
            use AggregateOp::{Bottomk, Topk};
            match aggregate.op {
                Topk | Bottomk => has_one_name(plan, aggregate.expr),
                _ => {
                    aggregate.without || !aggregate.grouping.iter().any(|name| name == METRIC_NAME)
                }
            }
        }
        NodeKind::Call { function, args } => {
            use FunctionId::{
                DefaultRollup, FirstOverTime, LabelJoin, LabelReplace, LastOverTime, Sort, SortDesc,
            };
            match function.id {
                LabelJoin | LabelReplace => false,
                DefaultRollup | FirstOverTime | LastOverTime | Sort | SortDesc => {
                    args.iter().all(|arg| has_one_name(plan, *arg))
                }
                // The others drop names.
                _ => true,
            }
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::parser::{ParserOptions, parse};

    fn dependence(query: &str) -> Option<Dependence> {
        let expr = parse(query, ParserOptions::ALL).unwrap();
        let times = (1_000_000, 2_000_000, 10_000);
        let plan = Plan::new(&expr, times, 300_000, &EngineOptions::default()).unwrap();
        Dependence::of(&plan)
    }

    fn check(query: &str, expected: &[Reach]) {
        assert_eq!(dependence(query).map(|d| d.reaches), Some(expected.to_vec()), "{query}");
    }

    fn moving(oldest_ms: i64, newest_ms: i64) -> Reach {
        Reach::Moving { oldest_ms, newest_ms }
    }

    #[test]
    fn an_instant_reaches_as_far_as_windows_and_offsets_say() {
        check("x", &[moving(-300_000, 0)]);
        check("sum(rate(x[1m]))", &[moving(-60_000, 0)]);
        check("x offset 1h", &[moving(-3_900_000, -3_600_000)]);
        check("x offset -1h", &[moving(3_300_000, 3_600_000)]);
        check("x - x offset 1m", &[moving(-360_000, -60_000), moving(-300_000, 0)]);
        check(
            "max_over_time(rate(x[1m] offset 2m)[5m:30s] offset 10m)",
            &[moving(-(60 + 120 + 300 + 600) * 1000, -(120 + 600) * 1000)],
        );
        check("x offset step()", &[moving(-310_000, -10_000)]);
    }

    #[test]
    fn an_at_modifier_reaches_one_range() {
        check("x @ 5000", &[Reach::Fixed(TimeRange::new(4_700_000, 5_000_000))]);
        check(
            "max_over_time(rate(x[1m])[5m:30s] @ 5000 offset 1m)",
            &[Reach::Fixed(TimeRange::new(4_580_000, 4_940_000))],
        );
        check(
            "sum_over_time((x @ 5000)[5m:])",
            &[Reach::Fixed(TimeRange::new(4_700_000, 5_000_000))],
        );
    }

    #[test]
    fn what_depends_on_more_than_samples_is_refused() {
        for query in [
            "1 + 2",
            "time()",
            "x @ start()",
            "rate(x[5m] @ end())",
            "rate(x[range()])",
            "x offset range()",
            "x + on() vector(range())",
            "x > start()",
            "sort(x)",
            "limitk(2, x)",
            "topk(scalar(y), x)",
            "quantile_over_time(scalar(y), x[5m])",
            "histogram_quantile(scalar(y), x)",
            "rate({job=\"a\"}[5m])",
            "sum(rate({__name__=~\"a|b\"}[5m]))",
            "timestamp({job=\"a\"})",
            "max_over_time((x or y)[5m:])",
            "rate(label_replace(x, \"__name__\", \"$1\", \"n\", \"(.*)\")[5m:])",
            "x + on(n) fill(0) y",
            "rate(x[5m] anchored)",
            "info(x)",
            "histogram_count(x + y)",
            "histogram_sum(sum_over_time(x[5m]))",
        ] {
            assert_eq!(dependence(query), None, "{query}");
        }
        for query in [
            "histogram_count(x)",
            "histogram_avg(sum(rate(x[5m])))",
            "histogram_quantile(0.9, sum_over_time(x[5m]))",
            "topk(5, x)",
            "quantile(-(0.5), x)",
            "quantile_over_time(0.9, x[5m])",
            "last_over_time({job=\"a\"}[5m])",
            "{job=\"a\"}",
            "max_over_time(sum by (n) (rate(x[5m]))[1h:1m])",
            "count_values(\"v\", x)",
            "clamp_max(x, scalar(y))",
            "x and hour() > 5",
            "absent(x)",
            "timestamp(x)",
        ] {
            assert!(dependence(query).is_some(), "{query}");
        }
    }

    #[test]
    fn a_change_concerns_the_instants_that_look_at_it() {
        let of = dependence("x - x offset 1h").unwrap();
        let changes = |range: TimeRange| {
            let change = TimeRange::new(5_000_000, 5_059_999);
            if range.overlaps(change) { vec![change] } else { vec![] }
        };
        let instants = TimeRange::new(0, 10_000_000);
        let expected = [TimeRange::new(8_600_000, 8_959_999), TimeRange::new(5_000_000, 5_359_999)];
        assert_eq!(of.changed_instants(instants, changes), expected);
        assert_eq!(of.changed_instants(TimeRange::new(0, 4_999_999), changes), []);
    }
}
