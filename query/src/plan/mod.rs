//! The plan: what is known about every node of a query before any sample is read.
//!
//! - A **grid** is the times at which a node is evaluated: the query's own, the inner one of a
//!   subquery, or a single time for what does not depend on the step.
//! - A **wrap**: a node whose value is the same at every step is evaluated on the first step only
//!   and repeated, at the highest node of which that is true. The rules are those of Prometheus's
//!   `PreprocessExpr`, oddities included.
//! - A **fused** node has no value of its own: the node around it reads series and computes on them
//!   in one loop (`sum` over `rate` over a matrix selector is one loop).
//! - A **selection** is what a selector asks of the source; all of a query go in one call.
//!
//! The arena holds children before parents, so types and wraps are one walk up, grids one walk
//! down; nothing recurses.

pub(crate) mod duration;
pub(crate) mod extension;
pub(crate) mod info;
mod invariance;
mod statistics;

use std::collections::HashSet;

use icecore_storage::time::TimeRange;

use crate::engine::{EngineOptions, QueryError};
use crate::exec::Counted;
use crate::exec::outline::Outline;
use crate::functions::{self, FunctionId};
use crate::parser::ast::{
    Aggregate, AggregateOp, At, Expr, Modifiers, NodeId, NodeKind, ValueType,
};
use crate::source::Selection;

use duration::DurationContext;
use extension::Extension;

/// Times `start_ms + i * step_ms` for `i < steps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) start_ms: i64,
    pub(crate) step_ms: i64,
    pub(crate) steps: usize,
}

impl Grid {
    pub(crate) fn instant(time_ms: i64) -> Grid {
        Grid { start_ms: time_ms, step_ms: 1, steps: 1 }
    }

    pub(crate) fn range(start_ms: i64, end_ms: i64, step_ms: i64) -> Grid {
        let steps = match end_ms.checked_sub(start_ms) {
            Some(span) if span >= 0 => span / step_ms + 1,
            _ => 0,
        };
        Grid { start_ms, step_ms, steps: usize::try_from(steps).unwrap_or(0) }
    }

    pub(crate) fn time_ms(&self, step: usize) -> i64 {
        self.start_ms.saturating_add(self.step_ms.saturating_mul(step as i64))
    }

    #[cfg(test)]
    fn end_ms(&self) -> i64 {
        self.time_ms(self.steps.saturating_sub(1))
    }
}

/// Where a selector or subquery looks at each step of its grid: the step's time less the offset, or
/// one time for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) first_ms: i64,
    /// 0 with `@`.
    pub(crate) step_ms: i64,
    pub(crate) steps: usize,
}

impl Times {
    fn new(grid: Grid, at_ms: Option<i64>, offset_ms: i64) -> Times {
        match at_ms {
            Some(at) => {
                Times { first_ms: at.saturating_sub(offset_ms), step_ms: 0, steps: grid.steps }
            }
            None => Times {
                first_ms: grid.start_ms.saturating_sub(offset_ms),
                step_ms: grid.step_ms,
                steps: grid.steps,
            },
        }
    }

    #[inline(always)]
    pub(crate) fn at(&self, step: usize) -> i64 {
        self.first_ms.saturating_add(self.step_ms.saturating_mul(step as i64))
    }

    pub(crate) fn last_ms(&self) -> i64 {
        self.at(self.steps.saturating_sub(1))
    }

    /// Those of `steps` steps from `start` on.
    pub(crate) fn part(&self, start: usize, steps: usize) -> Times {
        Times { first_ms: self.at(start), steps, ..*self }
    }
}

/// What a selector or a subquery looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) times: Times,
    /// The window of a range selector or subquery, the lookback of an instant selector.
    pub(crate) window_ms: i64,
}

impl Times {
    /// What all times, and those a window before them, are multiples of.
    fn aligned_ms(&self, window_ms: i64) -> i64 {
        let step_ms = if self.steps > 1 { self.step_ms } else { 0 };
        let common = |a: u64, b: u64| {
            let (mut a, mut b) = (a, b);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let of_times = common(self.first_ms.unsigned_abs(), step_ms.unsigned_abs());
        i64::try_from(common(of_times, window_ms.unsigned_abs())).unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PlanNode {
    pub(crate) value_type: ValueType,
    /// The grid of the value before it is repeated.
    pub(crate) grid: Grid,
    /// The value is repeated to so many steps.
    pub(crate) repeat: Option<usize>,
    /// How the samples count that the node looks at.
    pub(crate) counted: Counted,
    pub(crate) fused: bool,
    /// Of selectors and subqueries, and of `info()`: where it looks at its info series.
    pub(crate) view: Option<View>,
    /// Of selectors that look beyond their view.
    pub(crate) extension: Option<Extension>,
    /// Of vector selectors and of `info()`: which of the selections is theirs.
    pub(crate) selection: Option<usize>,
    /// Of histograms, only count and sum are needed.
    pub(crate) statistics_only: bool,
}

#[derive(Debug)]
pub(crate) struct Plan<'e> {
    pub(crate) expr: &'e Expr,
    pub(crate) nodes: Vec<PlanNode>,
    pub(crate) selections: Vec<Selection>,
    /// The grid of the whole query.
    pub(crate) grid: Grid,
    /// Start and end of the whole query as they were asked for.
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// 0 for an instant query.
    pub(crate) step_ms: i64,
    pub(crate) lookback_ms: i64,
}

/// Most steps of one grid: more than any sane query has, few enough to index with `u32`.
const STEPS_MAX: usize = 1 << 28;

impl<'e> Plan<'e> {
    /// The plan of an instant query (`step_ms` 0) or of a range query.
    pub(crate) fn new(
        expr: &'e Expr,
        (start_ms, end_ms, step_ms): (i64, i64, i64),
        lookback_ms: i64,
        options: &EngineOptions,
    ) -> Result<Plan<'e>, QueryError> {
        let grid = match step_ms {
            0 => Grid::instant(start_ms),
            step => Grid::range(start_ms, end_ms, step),
        };
        if grid.steps > STEPS_MAX {
            return Err(QueryError::BadData("the query has too many steps".into()));
        }
        let blank = PlanNode {
            value_type: ValueType::Scalar,
            grid,
            repeat: None,
            counted: Counted::EachStep,
            fused: false,
            view: None,
            extension: None,
            selection: None,
            statistics_only: false,
        };
        let nodes = vec![blank; expr.nodes.len()];
        let selections = Vec::new();
        let mut plan =
            Plan { expr, nodes, selections, grid, start_ms, end_ms, step_ms, lookback_ms };
        plan.set_types();
        let wraps = invariance::wraps(&plan);
        plan.set_grids(&wraps, options)?;
        plan.set_counted();
        plan.fuse();
        plan.select()?;
        let statistics_only = statistics::only(&plan);
        for (node, only) in plan.nodes.iter_mut().zip(statistics_only) {
            node.statistics_only = only;
        }
        Ok(plan)
    }

    pub(crate) fn kind(&self, id: NodeId) -> &'e NodeKind {
        &self.expr.node(id).kind
    }

    pub(crate) fn node(&self, id: NodeId) -> &PlanNode {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut PlanNode {
        &mut self.nodes[id.0 as usize]
    }

    /// The node inside any parentheses.
    pub(crate) fn strip(&self, mut id: NodeId) -> NodeId {
        while let NodeKind::Paren { inner } = self.kind(id) {
            id = *inner;
        }
        id
    }

    /// The selector's or subquery's view; only those have one.
    pub(crate) fn view(&self, id: NodeId) -> View {
        self.node(id).view.expect("selectors and subqueries have a view")
    }

    fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.expr.nodes.len() as u32).map(NodeId)
    }

    fn set_types(&mut self) {
        for id in self.ids() {
            let of = |child: NodeId| self.node(child).value_type;
            self.node_mut(id).value_type = match self.kind(id) {
                NodeKind::Number { .. } => ValueType::Scalar,
                NodeKind::String { .. } => ValueType::String,
                NodeKind::VectorSelector(_) | NodeKind::Aggregate(_) => ValueType::InstantVector,
                NodeKind::MatrixSelector { .. } | NodeKind::Subquery(_) => ValueType::RangeVector,
                NodeKind::Unary { operand, .. } => of(*operand),
                NodeKind::Paren { inner } => of(*inner),
                NodeKind::Call { function, .. } => function.returns,
                NodeKind::Binary(binary) => match (of(binary.left), of(binary.right)) {
                    (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                    _ => ValueType::InstantVector,
                },
            };
        }
    }

    /// Hands grids down from the root and resolves what selectors and subqueries look at.
    fn set_grids(&mut self, wraps: &[bool], options: &EngineOptions) -> Result<(), QueryError> {
        let root = self.expr.root;
        self.assign(root, self.grid, wraps)?;
        for id in self.ids().rev() {
            let grid = self.node(id).grid;
            let mut below = grid;
            match self.kind(id) {
                // A matrix selector around it has set its view already.
                NodeKind::VectorSelector(selector) if self.node(id).view.is_none() => {
                    let times = self.times(grid, &selector.modifiers)?;
                    let view = View { times, window_ms: self.lookback_ms };
                    let extension = Extension::of_instant(selector.modifiers.extension, view);
                    let node = self.node_mut(id);
                    (node.view, node.extension) = (Some(view), extension);
                }
                NodeKind::MatrixSelector { selector, range } => {
                    let window_ms = self.durations().positive(range)?;
                    let NodeKind::VectorSelector(inner) = self.kind(*selector) else {
                        unreachable!("a range is that of a selector");
                    };
                    let view = View { times: self.times(grid, &inner.modifiers)?, window_ms };
                    let extension =
                        Extension::of_range(inner.modifiers.extension, view, self.lookback_ms);
                    for id in [id, *selector] {
                        let node = self.node_mut(id);
                        (node.view, node.extension) = (Some(view), extension);
                    }
                }
                NodeKind::Subquery(subquery) => {
                    let window_ms = self.durations().positive(&subquery.range)?;
                    let step_ms = match &subquery.step {
                        Some(step) => self.durations().positive(step)?,
                        None => options.default_subquery_step_ms,
                    };
                    let times = self.times(grid, &subquery.modifiers)?;
                    self.node_mut(id).view = Some(View { times, window_ms });
                    below = subquery_grid(times, window_ms, step_ms.max(1));
                    if below.steps > STEPS_MAX {
                        return Err(QueryError::Execution("subquery has too many steps".into()));
                    }
                }
                NodeKind::Call { function, args } if function.id == FunctionId::Info => {
                    let times = info::times(self, args[0], grid)?;
                    let window_ms = self.lookback_ms;
                    self.node_mut(id).view = Some(View { times, window_ms });
                }
                _ => {}
            }
            for child in self.kind(id).children() {
                self.assign(child, below, wraps)?;
            }
        }
        Ok(())
    }

    /// Hands down from the root for which steps samples count.
    fn set_counted(&mut self) {
        let root = self.strip(self.expr.root);
        for id in self.ids().rev() {
            let node = self.node(id);
            let counted = match (node.counted, node.repeat) {
                (Counted::EachStep, Some(steps)) => Counted::EveryStep(steps),
                (counted, _) => counted,
            };
            self.node_mut(id).counted = counted;
            let below = match self.kind(id) {
                NodeKind::Subquery(_) if id == root => Counted::Together,
                NodeKind::Subquery(_) => Counted::Never,
                _ => counted,
            };
            for child in self.kind(id).children() {
                self.node_mut(child).counted = below;
            }
        }
    }

    /// Gives a node its grid: the whole of `grid`, or its first step if its value is repeated.
    fn assign(&mut self, id: NodeId, grid: Grid, wraps: &[bool]) -> Result<(), QueryError> {
        let wrapped = wraps[id.0 as usize]
            && grid.steps > 1
            && self.node(id).value_type != ValueType::RangeVector
            && self.node(id).value_type != ValueType::String;
        let node = self.node_mut(id);
        node.repeat = wrapped.then_some(grid.steps);
        node.grid = if wrapped { Grid { steps: 1, ..grid } } else { grid };
        Ok(())
    }

    fn durations(&self) -> DurationContext {
        DurationContext {
            step_ms: self.step_ms,
            range_ms: self.end_ms.saturating_sub(self.start_ms),
        }
    }

    fn times(&self, grid: Grid, modifiers: &Modifiers) -> Result<Times, QueryError> {
        let offset_ms = self.offset_ms(modifiers)?;
        Ok(Times::new(grid, modifiers.at.map(|at| self.at_ms(at)), offset_ms))
    }

    fn offset_ms(&self, modifiers: &Modifiers) -> Result<i64, QueryError> {
        modifiers.offset.as_ref().map_or(Ok(0), |offset| self.durations().any(offset))
    }

    fn at_ms(&self, at: At) -> i64 {
        match at {
            At::TimestampMs(timestamp) => timestamp,
            At::Start => self.start_ms,
            At::End => self.end_ms,
        }
    }

    /// Marks the nodes that the node around them evaluates.
    fn fuse(&mut self) {
        for id in self.ids() {
            match self.kind(id) {
                NodeKind::MatrixSelector { selector, .. } => self.node_mut(*selector).fused = true,
                NodeKind::Call { function, args } if function.id == FunctionId::Info => {
                    args.iter().skip(1).for_each(|labels| self.fuse_chain(*labels));
                }
                NodeKind::Call { function, args } => {
                    for arg in args {
                        let inner = self.strip(*arg);
                        let reads = match self.kind(inner) {
                            NodeKind::MatrixSelector { .. } => true,
                            NodeKind::VectorSelector(_) => matches!(
                                function.id,
                                FunctionId::Timestamp | FunctionId::StartTimestamp
                            ),
                            _ => false,
                        };
                        if reads {
                            self.fuse_chain(*arg);
                        }
                    }
                }
                NodeKind::Aggregate(aggregate) if is_accumulated(aggregate.op) => {
                    let inner = self.strip(aggregate.expr);
                    let reads = match self.kind(inner) {
                        NodeKind::VectorSelector(_) => true,
                        NodeKind::Call { .. } => self.window_argument(inner).is_some_and(|arg| {
                            matches!(self.kind(arg), NodeKind::MatrixSelector { .. })
                        }),
                        _ => false,
                    };
                    if reads && self.node(inner).repeat.is_none() {
                        self.fuse_chain(aggregate.expr);
                    }
                }
                _ => {}
            }
        }
    }

    /// Fuses a node and the parentheses around it.
    fn fuse_chain(&mut self, mut id: NodeId) {
        self.node_mut(id).fused = true;
        while let NodeKind::Paren { inner } = self.kind(id) {
            id = *inner;
            self.node_mut(id).fused = true;
        }
    }

    /// The range vector that a call computes on series by series: a matrix selector or a subquery.
    /// `absent_over_time` does not, since it makes one series of all.
    pub(crate) fn window_argument(&self, call: NodeId) -> Option<NodeId> {
        let NodeKind::Call { function, args } = self.kind(call) else { return None };
        if function.id == FunctionId::AbsentOverTime {
            return None;
        }
        let mut inner = args.iter().map(|arg| self.strip(*arg));
        inner.find(|arg| self.node(*arg).value_type == ValueType::RangeVector)
    }

    /// Lists what the selectors ask of the source.
    fn select(&mut self) -> Result<(), QueryError> {
        let names = self.label_names();
        let around = self.surroundings();
        // What `info()` selects stands in its second argument, which selects nothing itself.
        let mut labels_only = HashSet::new();
        let mut of_ranges = HashSet::new();
        for id in self.ids() {
            if let NodeKind::MatrixSelector { selector, .. } = self.kind(id) {
                of_ranges.insert(*selector);
            }
            if let NodeKind::Call { function, args } = self.kind(id)
                && function.id == FunctionId::Info
            {
                labels_only.extend(args.get(1).map(|labels| self.strip(*labels)));
            }
        }
        for id in self.ids() {
            let (matchers, (function, grouping)) = match self.kind(id) {
                NodeKind::VectorSelector(selector) if !labels_only.contains(&id) => {
                    (selector.matchers.clone(), around[id.0 as usize].clone())
                }
                NodeKind::Call { function, args } if function.id == FunctionId::Info => {
                    let matchers = info::InfoSelector::new(self, args).matchers();
                    (matchers, (Some(function.name), None))
                }
                _ => continue,
            };
            let view = self.node(id).extension.map_or(self.view(id), |extension| extension.reach);
            // Windows and lookbacks are left-open.
            let start_ms = view.times.first_ms.saturating_sub(view.window_ms).saturating_add(1);
            // An instant selector takes the last sample before a time, however far it looks back.
            let aligned_ms = match (of_ranges.contains(&id), function.and_then(functions::lookup)) {
                _ if self.node(id).extension.is_some() => 0,
                (false, _) => view.times.aligned_ms(0),
                (true, Some(function)) if Outline::is_right_on_rollups(function.id) => {
                    view.times.aligned_ms(view.window_ms)
                }
                (true, _) => 0,
            };
            let selection = Selection {
                matchers,
                range: TimeRange::new(start_ms, view.times.last_ms()),
                function,
                window_ms: self.view(id).window_ms,
                step_ms: if self.grid.steps > 1 {
                    self.node(id).grid.step_ms
                } else {
                    self.step_ms
                },
                grouping,
                names: names.clone(),
                aligned_ms,
                resolution_max_ms: i64::MAX,
            };
            let index = self.selections.len();
            self.selections.push(selection);
            self.node_mut(id).selection = Some(index);
        }
        Ok(())
    }

    /// For each node the function directly around it, and the grouping of an aggregation so.
    fn surroundings(&self) -> Vec<Surrounding> {
        let mut around: Vec<Surrounding> = vec![(None, None); self.expr.nodes.len()];
        for id in self.ids().rev() {
            let here = match self.kind(id) {
                NodeKind::Call { function, .. } => (Some(function.name), None),
                NodeKind::Aggregate(Aggregate { op, grouping, without, .. }) => {
                    (Some(op.text()), Some((grouping.clone(), *without)))
                }
                NodeKind::Paren { .. } | NodeKind::MatrixSelector { .. } => {
                    around[id.0 as usize].clone()
                }
                _ => (None, None),
            };
            for child in self.kind(id).children() {
                around[child.0 as usize] = here.clone();
            }
        }
        around
    }

    /// Every label name that the query mentions, also as a string.
    fn label_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for node in &self.expr.nodes {
            match &node.kind {
                NodeKind::VectorSelector(selector) => {
                    names.extend(selector.matchers.iter().map(|matcher| matcher.name().to_owned()));
                }
                NodeKind::Aggregate(aggregate) => names.extend(aggregate.grouping.iter().cloned()),
                NodeKind::Binary(binary) => {
                    if let Some(matching) = &binary.matching {
                        names.extend(matching.labels.iter().chain(&matching.include).cloned());
                    }
                }
                NodeKind::String { value } => {
                    names.extend(std::str::from_utf8(value).ok().map(str::to_owned));
                }
                _ => {}
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

type Surrounding = (Option<&'static str>, Option<(Vec<String>, bool)>);

/// The grid inside a subquery: multiples of the step in the window of the first time, exclusive,
/// up to the last time.
fn subquery_grid(times: Times, window_ms: i64, step_ms: i64) -> Grid {
    let window_start = times.first_ms.saturating_sub(window_ms);
    // The division truncates, as in Prometheus; before the epoch that rounds up.
    let mut start_ms = step_ms.saturating_mul(window_start / step_ms);
    if start_ms <= window_start {
        start_ms = start_ms.saturating_add(step_ms);
    }
    if times.steps == 0 {
        return Grid { start_ms, step_ms, steps: 0 };
    }
    Grid::range(start_ms, times.last_ms(), step_ms)
}

/// Aggregations that add series to accumulators one by one.
pub(crate) fn is_accumulated(op: AggregateOp) -> bool {
    use AggregateOp::*;
    matches!(op, Sum | Avg | Count | Min | Max | Group | Stddev | Stdvar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(first_ms: i64, step_ms: i64, steps: usize) -> Times {
        Times { first_ms, step_ms, steps }
    }

    #[test]
    fn a_subquery_starts_after_its_window_start_on_a_multiple_of_its_step() {
        let grid = subquery_grid(times(100_000, 60_000, 3), 50_000, 10_000);
        assert_eq!(grid, Grid { start_ms: 60_000, step_ms: 10_000, steps: 17 });
        let between = subquery_grid(times(100_001, 0, 1), 50_000, 10_000);
        assert_eq!((between.start_ms, between.end_ms()), (60_000, 100_000));
    }

    #[test]
    fn before_the_epoch_the_start_is_truncated_towards_zero() {
        let grid = subquery_grid(times(-5_000, 0, 1), 10_000, 10_000);
        assert_eq!(grid.start_ms, -10_000);
        let grid = subquery_grid(times(-1_000, 0, 1), 10_000, 10_000);
        assert_eq!((grid.start_ms, grid.steps), (-10_000, 1));
    }

    #[test]
    fn grids_end_at_the_last_step_within() {
        let grid = Grid::range(0, 59, 20);
        assert_eq!((grid.steps, grid.end_ms()), (3, 40));
        assert_eq!(Grid::range(1, 0, 20).steps, 0);
    }
}
