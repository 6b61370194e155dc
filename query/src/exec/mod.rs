//! Execution: a plan, a source, and a value at the end.
//!
//! Nodes are evaluated in the order of the arena, which is that of a recursive evaluation without
//! its stack: children first, left before right. A node takes its children's values out of their
//! slots, so that nothing lives longer than it is needed.
//!
//! Values are [`rows::Rows`] for vectors, [`Scalar`] for scalars and bytes for strings. Range
//! vectors are never values: the function around one reads it series by series (`leaf.rs`).

mod aggregate;
mod blocks;
mod bucket_histograms;
mod buckets;
mod budget;
mod call;
mod coarse;
mod distribution;
mod extended;
mod failure;
mod fill;
mod histogram_groups;
mod histogram_operator;
mod histogram_rate;
mod histogram_window;
mod info;
mod instant;
mod join;
mod key_hash;
mod label_edit;
mod leaf;
mod limit;
mod operator;
pub(crate) mod outline;
mod over_time;
mod quantile;
mod ranked;
mod rate;
mod relabel;
mod rows;
mod sample_count;
mod samples;
mod select;
mod series;
mod sort;
mod start_time;
mod wide;
mod window;
mod workers;

pub(crate) use budget::Budget;
pub(crate) use rows::{Rows, count_bits, for_each_bit, set_bit};
pub(crate) use sample_count::{Counted, SampleCount};

use std::sync::Arc;

use crate::annotations::Annotations;
use crate::engine::QueryError;
use crate::go_format::quote;
use crate::parser::ast::{
    Aggregate, AggregateOp, Binary, NodeId, NodeKind, Span, UnaryOp, ValueType,
};
use crate::plan::{Plan, is_accumulated};
use crate::source::{SelectedSeries, Selection, Source};
use crate::value::MatrixSeries;

use aggregate::{Grouping, Groups};
use leaf::{Leaf, Sink, Stored};
use rows::RowBuffer;
use select::Emit;
use series::Series;
use window::WindowCall;

/// A scalar at every step of a grid.
#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Constant(f64),
    Steps(Vec<f64>),
}

impl Scalar {
    #[inline(always)]
    pub(crate) fn at(&self, step: usize) -> f64 {
        match self {
            Scalar::Constant(value) => *value,
            Scalar::Steps(values) => values[step],
        }
    }
}

#[derive(Debug)]
pub(crate) enum NodeValue {
    Rows(Rows),
    Scalar(Scalar),
    Text(Vec<u8>),
}

/// What every part of an execution needs: where to charge, and where to speak.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) annotations: Annotations,
    pub(crate) budget: &'a Budget,
    pub(crate) sample_count: &'a SampleCount,
    /// How the node at hand counts.
    pub(crate) counted: Counted,
    pub(crate) delayed: bool,
    pub(crate) use_start_timestamps: bool,
    pub(crate) type_and_unit_labels: bool,
    /// Of the block of steps at hand (`blocks.rs`), the first one; 0 for all of a row.
    pub(crate) first_step: usize,
    /// Whether a step's value may depend on more than its own samples: names were taken from series
    /// that had more than a name to lose, so that others of the selection may be equal to them; or
    /// there were native histograms, of which the one before the range tells about a reset.
    pub(crate) is_of_its_range: bool,
}

impl<'a> Session<'a> {
    /// Counts the samples of a row, or of a block of its steps.
    pub(crate) fn count_samples(&self, total: u64, steps: usize, at_step: impl Fn(usize) -> u64) {
        let of_block = |step: usize| step.checked_sub(self.first_step).filter(|at| *at < steps);
        let at_step = |step: usize| of_block(step).map_or(0, &at_step);
        self.sample_count.add(self.counted, total, at_step);
    }

    /// The same with annotations of its own, for a worker.
    pub(crate) fn fork(&self) -> Session<'a> {
        let annotations = self.annotations.fork();
        Session { annotations, is_of_its_range: false, ..*self }
    }
}

pub(crate) struct Executor<'a, S: Source> {
    plan: &'a Plan<'a>,
    source: &'a S,
    series: Vec<SelectedSeries<S::Series>>,
    slots: Vec<Option<NodeValue>>,
    /// Samples and bytes charged for each slot.
    held: Vec<(u64, u64)>,
    /// Slots that the node at hand has emptied.
    taken: Vec<NodeId>,
    pub(crate) session: Session<'a>,
}

impl<'a, S: Source> Executor<'a, S> {
    /// Asks the source for all series.
    pub(crate) fn new(
        plan: &'a Plan<'a>,
        source: &'a S,
        session: Session<'a>,
    ) -> Result<Executor<'a, S>, QueryError> {
        session.budget.check()?;
        let series = match plan.selections.is_empty() {
            true => Vec::new(),
            false => select(source, &plan.selections, session.budget)?,
        };
        let count = plan.expr.nodes.len();
        let slots = (0..count).map(|_| None).collect();
        let taken = Vec::new();
        Ok(Executor { plan, source, series, slots, held: vec![(0, 0); count], taken, session })
    }

    pub(crate) fn series_fetched(&self) -> u64 {
        self.series.iter().map(|series| series.len() as u64).sum()
    }

    /// The value of the root. Range vectors have none: see [`Self::range_vector`].
    pub(crate) fn run(&mut self) -> Result<NodeValue, QueryError> {
        for index in 0..self.plan.expr.nodes.len() {
            let id = NodeId(index as u32);
            if self.plan.node(id).fused || self.is_range_selector(id) {
                continue;
            }
            self.session.budget.check()?;
            self.session.annotations.set_node(id.0);
            let value = self.evaluate(id)?;
            // A loop may have ended early.
            self.session.budget.check()?;
            let value = match self.plan.node(id).repeat {
                Some(steps) => self.repeated(value, steps)?,
                None => value,
            };
            let (points, bytes) = match &value {
                NodeValue::Rows(rows) => (rows.cost(), rows.bytes()),
                NodeValue::Scalar(Scalar::Steps(values)) => {
                    (values.len() as u64, 8 * values.len() as u64)
                }
                NodeValue::Scalar(Scalar::Constant(_)) | NodeValue::Text(_) => (0, 0),
            };
            // While a node computes, its operands are there beside its value, but where it only
            // hands them on.
            let hands_on = matches!(
                self.plan.kind(id),
                NodeKind::Paren { .. } | NodeKind::Subquery(_) | NodeKind::Unary { .. }
            );
            if hands_on {
                self.release_taken();
            }
            self.session.budget.hold(points)?;
            self.session.budget.hold_bytes(bytes)?;
            self.held[index] = (points, bytes);
            self.release_taken();
            self.slots[index] = Some(value);
        }
        Ok(self.take(self.plan.expr.root))
    }

    fn repeated(&self, value: NodeValue, steps: usize) -> Result<NodeValue, QueryError> {
        Ok(match value {
            NodeValue::Rows(rows) => NodeValue::Rows(self.repeated_rows(rows, steps)?),
            NodeValue::Scalar(Scalar::Steps(values)) => {
                NodeValue::Scalar(Scalar::Constant(values[0]))
            }
            other => other,
        })
    }

    fn repeated_rows(&self, rows: Rows, steps: usize) -> Result<Rows, QueryError> {
        self.session.budget.expect_bytes(rows.bytes().saturating_mul(steps as u64))?;
        Ok(rows.repeat(steps))
    }

    fn is_range_selector(&self, id: NodeId) -> bool {
        matches!(self.plan.kind(id), NodeKind::MatrixSelector { .. })
    }

    fn release_taken(&mut self) {
        for id in self.taken.drain(..) {
            let (points, bytes) = std::mem::take(&mut self.held[id.0 as usize]);
            self.session.budget.release(points);
            self.session.budget.release_bytes(bytes);
        }
    }

    fn take(&mut self, id: NodeId) -> NodeValue {
        self.taken.push(id);
        self.slots[id.0 as usize].take().expect("children are evaluated before their parents")
    }

    fn take_rows(&mut self, id: NodeId) -> Rows {
        match self.take(id) {
            NodeValue::Rows(rows) => rows,
            other => unreachable!("the parser checks types: a vector is wanted, not {other:?}"),
        }
    }

    fn take_scalar(&mut self, id: NodeId) -> Scalar {
        match self.take(id) {
            NodeValue::Scalar(scalar) => scalar,
            other => unreachable!("the parser checks types: a scalar is wanted, not {other:?}"),
        }
    }

    fn take_text(&mut self, id: NodeId) -> Vec<u8> {
        match self.take(id) {
            NodeValue::Text(text) => text,
            other => unreachable!("the parser checks types: a string is wanted, not {other:?}"),
        }
    }

    fn span(&self, id: NodeId) -> Span {
        self.plan.expr.node(id).span
    }

    fn evaluate(&mut self, id: NodeId) -> Result<NodeValue, QueryError> {
        match self.plan.kind(id) {
            NodeKind::Number { value, .. } => Ok(NodeValue::Scalar(Scalar::Constant(*value))),
            NodeKind::String { value } => Ok(NodeValue::Text(value.clone())),
            NodeKind::VectorSelector(_) => self.leaf(id, Sink::Rows).map(NodeValue::Rows),
            NodeKind::MatrixSelector { .. } => {
                unreachable!("range selectors are read, not evaluated")
            }
            NodeKind::Subquery(subquery) => Ok(self.take(subquery.expr)),
            NodeKind::Paren { inner } => Ok(self.take(*inner)),
            NodeKind::Unary { op, operand } => self.unary(*op, *operand),
            NodeKind::Binary(binary) => self.binary(binary, self.span(id)),
            NodeKind::Aggregate(aggregate) => {
                self.aggregate(aggregate, self.span(id)).map(NodeValue::Rows)
            }
            NodeKind::Call { function, args } => self.call(id, function, args),
        }
    }

    /// Reads the series below a selector or a call over a range vector.
    fn leaf(&mut self, id: NodeId, sink: Sink<'_>) -> Result<Rows, QueryError> {
        match self.plan.kind(id) {
            NodeKind::Call { .. } => self.window(id, sink),
            _ => self.selected(id, Emit::Value, sink),
        }
    }

    fn selected(&mut self, id: NodeId, emit: Emit, sink: Sink<'_>) -> Result<Rows, QueryError> {
        self.session.counted = self.plan.node(id).counted;
        let input = Stored {
            source: self.source,
            series: &self.series[self.selection(id)],
            statistics_only: self.plan.node(id).statistics_only,
        };
        let view = self.plan.view(id);
        let leaf = match (self.plan.node(id).extension, emit) {
            (Some(extension), Emit::Value) => {
                Leaf::Smoothed { view, reach: extension.reach, span: self.span(id) }
            }
            _ => Leaf::Select { view, emit },
        };
        leaf::run(&input, leaf, sink, &mut self.session)
    }

    fn selection(&self, id: NodeId) -> usize {
        self.plan.node(id).selection.expect("vector selectors have a selection")
    }

    /// A function over a range vector, series by series.
    fn window(&mut self, id: NodeId, sink: Sink<'_>) -> Result<Rows, QueryError> {
        let NodeKind::Call { function, args } = self.plan.kind(id) else {
            unreachable!("only calls compute on windows")
        };
        let range = args
            .iter()
            .map(|arg| self.plan.strip(*arg))
            .find(|arg| self.plan.node(*arg).value_type == ValueType::RangeVector)
            .expect("the parser checks types");
        let is_scalar = |arg: &&NodeId| self.plan.node(**arg).value_type == ValueType::Scalar;
        let scalars: Vec<NodeId> = args.iter().filter(is_scalar).copied().collect();
        let parameters: Vec<Scalar> =
            scalars.into_iter().map(|arg| self.take_scalar(arg)).collect();
        let call = WindowCall {
            id: function.id,
            view: self.plan.view(range),
            extension: self.plan.node(range).extension,
            grid: self.plan.node(id).grid,
            parameters: &parameters,
            span: self.span(self.plan.strip(args[0])),
        };
        if let Some(extension) = call.extension {
            extension.check(function.id, function.name)?;
        }
        self.session.counted = self.plan.node(id).counted;
        match self.plan.kind(range) {
            NodeKind::MatrixSelector { selector, .. } => {
                let input = Stored {
                    source: self.source,
                    series: &self.series[self.selection(*selector)],
                    statistics_only: self.plan.node(*selector).statistics_only,
                };
                leaf::run(&input, Leaf::Window(call), sink, &mut self.session)
            }
            NodeKind::Subquery(subquery) => {
                let argument = args.iter().find(|arg| self.plan.strip(**arg) == range);
                let rows = self.take_rows(*argument.expect("found among the arguments"));
                let grid = self.inner_grid(subquery.expr);
                leaf::run(&leaf::Inner { rows, grid }, Leaf::Window(call), sink, &mut self.session)
            }
            _ => unreachable!("range vectors are selectors or subqueries"),
        }
    }

    /// The grid of a node's value, repeated or not.
    fn inner_grid(&self, id: NodeId) -> crate::plan::Grid {
        let node = self.plan.node(id);
        crate::plan::Grid { steps: node.repeat.unwrap_or(node.grid.steps), ..node.grid }
    }

    fn unary(&mut self, op: UnaryOp, operand: NodeId) -> Result<NodeValue, QueryError> {
        Ok(match (op, self.take(operand)) {
            (UnaryOp::Plus, value) => value,
            (UnaryOp::Minus, NodeValue::Scalar(Scalar::Constant(value))) => {
                NodeValue::Scalar(Scalar::Constant(-value))
            }
            (UnaryOp::Minus, NodeValue::Scalar(Scalar::Steps(mut values))) => {
                values.iter_mut().for_each(|value| *value = -*value);
                NodeValue::Scalar(Scalar::Steps(values))
            }
            (UnaryOp::Minus, NodeValue::Rows(mut rows)) => {
                instant::for_each_value(&mut rows, self.session.budget, |value, _| -value);
                for (_, histogram) in rows.histograms.iter_mut().flatten() {
                    Arc::make_mut(histogram).scale(-1.0);
                }
                NodeValue::Rows(self.renamed(rows)?)
            }
            (UnaryOp::Minus, NodeValue::Text(_)) => unreachable!("the parser checks types"),
        })
    }

    /// Drops metric names and merges what has become equal.
    fn renamed(&self, mut rows: Rows) -> Result<Rows, QueryError> {
        match rows.drop_names(self.session.delayed) {
            true => rows.unify(self.session.budget),
            false => Ok(rows),
        }
    }

    fn binary(&mut self, binary: &Binary, span: Span) -> Result<NodeValue, QueryError> {
        let (left, right) = (self.take(binary.left), self.take(binary.right));
        let session = &mut self.session;
        let (rows, scalar, swapped) = match (left, right) {
            (NodeValue::Scalar(left), NodeValue::Scalar(right)) => {
                let steps = self.plan.node(binary.left).repeat;
                let steps = steps.unwrap_or(self.plan.node(binary.left).grid.steps);
                return Ok(NodeValue::Scalar(operator::scalars(binary.op, &left, &right, steps)));
            }
            (NodeValue::Rows(left), NodeValue::Rows(right)) => {
                let matching = binary.matching.clone().unwrap_or_default();
                let rows = match binary.op.is_set() {
                    true => join::set_operator(binary, &matching, left, right, session.budget)?,
                    false => join::operator(binary, &matching, left, right, span, session)?,
                };
                return Ok(NodeValue::Rows(rows));
            }
            (NodeValue::Rows(rows), NodeValue::Scalar(scalar)) => (rows, scalar, false),
            (NodeValue::Scalar(scalar), NodeValue::Rows(rows)) => (rows, scalar, true),
            _ => unreachable!("the parser checks types"),
        };
        let rows = operator::vector_and_scalar(binary, rows, &scalar, swapped, span, session);
        Ok(NodeValue::Rows(match operator::drops_name(binary) {
            true => self.renamed(rows)?,
            false => rows,
        }))
    }

    fn aggregate(&mut self, aggregate: &Aggregate, whole: Span) -> Result<Rows, QueryError> {
        let operand = self.plan.strip(aggregate.expr);
        let span = self.span(operand);
        if self.plan.node(operand).fused {
            return self.leaf(operand, Sink::Aggregate(aggregate, span));
        }
        let rows = self.take_rows(aggregate.expr);
        if is_accumulated(aggregate.op) {
            return self.accumulate(aggregate, rows, span);
        }
        let parameter = aggregate.param.expect("the parser checks for a parameter");
        match aggregate.op {
            AggregateOp::CountValues => {
                let written = self.take_text(parameter);
                let label = std::str::from_utf8(&written).ok().filter(|label| !label.is_empty());
                let label = label.ok_or_else(|| {
                    QueryError::Execution(format!("invalid label name {}", quote(&written)))
                })?;
                ranked::count_values(aggregate, &rows, label, self.session.budget)
            }
            AggregateOp::Quantile => {
                let spans = (span, self.span(self.plan.strip(parameter)));
                let quantile = self.take_scalar(parameter);
                ranked::quantile(aggregate, &rows, &quantile, spans, &mut self.session)
            }
            AggregateOp::Topk | AggregateOp::Bottomk => {
                let count = self.take_scalar(parameter);
                ranked::top(aggregate, &rows, &count, whole, &mut self.session)
            }
            AggregateOp::Limitk => {
                let count = self.take_scalar(parameter);
                limit::limitk(aggregate, rows, &count)
            }
            AggregateOp::LimitRatio => {
                let parameter_span = self.span(self.plan.strip(parameter));
                let ratio = self.take_scalar(parameter);
                limit::limit_ratio(rows, &ratio, parameter_span, &mut self.session)
            }
            other => unreachable!("{} takes its series one by one", other.text()),
        }
    }

    /// An aggregation over rows that are there already.
    fn accumulate(
        &mut self,
        aggregate: &Aggregate,
        rows: Rows,
        span: Span,
    ) -> Result<Rows, QueryError> {
        let grouping = Grouping::new(aggregate, false);
        let mut groups = Groups::new(aggregate.op, rows.steps, span);
        let annotations = &mut self.session.annotations;
        let mut key = Vec::new();
        let mut pace = self.session.budget.pace();
        let mut memory = self.session.budget.growing();
        for row in aggregate::order_of_addition(&rows) {
            pace.step(rows.steps)?;
            let points = (rows.values(row), rows.valid(row), &rows.histograms[row]);
            groups.add_series(&grouping, &rows.meta[row], &mut key, points, annotations);
            memory.to(groups.bytes())?;
        }
        Ok(groups.finish(annotations, self.session.budget))
    }

    /// The samples of a range vector, for an instant query that is one; sorted by labels.
    pub(crate) fn range_vector(&mut self) -> Result<Vec<MatrixSeries>, QueryError> {
        let root = self.plan.strip(self.plan.expr.root);
        match self.plan.kind(root) {
            NodeKind::MatrixSelector { selector, .. } => self.read_range(*selector),
            NodeKind::Subquery(subquery) => {
                let grid = self.inner_grid(subquery.expr);
                let budget = self.session.budget;
                match self.run()? {
                    NodeValue::Rows(rows) => {
                        series_of(&rows.remove_marked_names(budget)?, grid, budget)
                    }
                    _ => unreachable!("the parser checks types"),
                }
            }
            _ => unreachable!("range vectors are selectors or subqueries"),
        }
    }

    fn read_range(&mut self, selector: NodeId) -> Result<Vec<MatrixSeries>, QueryError> {
        let (view, extension) = (self.plan.view(selector), self.plan.node(selector).extension);
        let end_ms = view.times.last_ms();
        let start_ms = end_ms.saturating_sub(view.window_ms);
        let mut series = Series::default();
        let mut matrix = Vec::new();
        let all = &self.series[self.selection(selector)];
        let budget = self.session.budget;
        let order = sort::by_labels(all.len(), budget, |at| &all[at].0);
        let mut memory = budget.growing();
        for (labels, selected) in order.into_iter().map(|at| &all[at]) {
            budget.check()?;
            self.source
                .read(selected, &mut series.samples)
                .map_err(|error| QueryError::Internal(error.message))?;
            series.set_stored(false);
            let mut found = MatrixSeries { labels: labels.clone(), ..MatrixSeries::default() };
            if let Some(extension) = extension {
                found.floats =
                    extended::range_vector(extension, (start_ms, end_ms), &series.samples)?;
                series.clear();
            }
            let mut histograms = 0;
            for row in 0..series.samples.len() {
                let histogram = series.histogram_rows().get(histograms) == Some(&(row as u32));
                histograms += usize::from(histogram);
                let timestamp = series.samples.timestamps[row];
                if timestamp <= start_ms || timestamp > end_ms || series.is_stale(row as u32) {
                    continue;
                }
                if histogram {
                    found.histograms.push((timestamp, series.histogram(histograms - 1)));
                } else {
                    found.floats.push((timestamp, series.samples.values[row]));
                }
            }
            let sizes = found.histograms.iter().map(|(_, histogram)| histogram.size_in_samples());
            let cost = found.floats.len() as u64 + sizes.sum::<u64>();
            budget.hold(cost)?;
            memory.by(cost * size_of::<(i64, f64)>() as u64)?;
            self.session.sample_count.add(self.plan.node(selector).counted, cost, |_| cost);
            if cost > 0 {
                matrix.push(found);
            }
        }
        Ok(matrix)
    }
}

/// Selects within the budget.
fn select<S: Source>(
    source: &S,
    selections: &[Selection],
    budget: &Budget,
) -> Result<Vec<SelectedSeries<S::Series>>, QueryError> {
    let mut refusal = None;
    let mut charge = |bytes: u64| {
        let charged = budget.check().and_then(|()| budget.hold_bytes(bytes));
        refusal = charged.err();
        refusal.is_none()
    };
    let selected = source.select(selections, &mut charge);
    match refusal {
        Some(refusal) => Err(refusal),
        None => selected.map_err(|error| QueryError::Internal(error.message)),
    }
}

/// Rows as series with times, by labels.
pub(crate) fn series_of(
    rows: &Rows,
    grid: crate::plan::Grid,
    budget: &Budget,
) -> Result<Vec<MatrixSeries>, QueryError> {
    budget.expect_bytes(rows.cost().saturating_mul(size_of::<(i64, f64)>() as u64))?;
    let labels = |row: usize| &rows.meta[row].labels;
    let order = sort::by_labels(rows.len(), budget, labels);
    let mut matrix = Vec::with_capacity(rows.len());
    let mut pace = budget.pace();
    for row in order {
        pace.step(rows.steps)?;
        let values = rows.values(row);
        let mut floats = Vec::with_capacity(rows::count_bits(rows.valid(row)) as usize);
        for (word, (values, valid)) in values.chunks(64).zip(rows.valid(row)).enumerate() {
            let first = word * 64;
            // All steps have a value almost always.
            if valid.count_ones() as usize == values.len() {
                let points = values.iter().enumerate();
                floats.extend(points.map(|(at, value)| (grid.time_ms(first + at), *value)));
            } else {
                for_each_bit(&[*valid], |at| floats.push((grid.time_ms(first + at), values[at])));
            }
        }
        let histograms = rows.histograms[row]
            .iter()
            .map(|(step, histogram)| (grid.time_ms(*step as usize), histogram.clone()))
            .collect::<Vec<_>>();
        if !floats.is_empty() || !histograms.is_empty() {
            matrix.push(MatrixSeries { labels: labels(row).clone(), floats, histograms });
        }
    }
    budget.check()?;
    Ok(matrix)
}

/// A row for tests and for single results.
pub(crate) fn row_of(values: Vec<f64>, valid: Vec<u64>) -> RowBuffer {
    RowBuffer { values, valid, histograms: Vec::new() }
}

#[cfg(test)]
pub(crate) fn with_test_session(f: impl FnOnce(&mut Session<'_>)) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let budget = Budget::new(usize::MAX >> 1, deadline, Default::default());
    let annotations = Annotations::default();
    let budget = &budget;
    f(&mut Session {
        annotations,
        budget,
        sample_count: &SampleCount::default(),
        counted: Counted::EachStep,
        delayed: false,
        use_start_timestamps: false,
        type_and_unit_labels: false,
        first_step: 0,
        is_of_its_range: false,
    });
}
