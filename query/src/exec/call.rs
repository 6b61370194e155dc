//! Calls of functions: from arguments in slots to a value.

use icecore_storage::labels::{Labels, METRIC_NAME};
use icecore_storage::matcher::MatchOp;

use crate::engine::QueryError;
use crate::exec::distribution::{self, Question};
use crate::exec::leaf::Sink;
use crate::exec::rows::{SeriesMeta, full_bitmap, set_bit, words};
use crate::exec::select::Emit;
use crate::exec::{Executor, NodeValue, Rows, Scalar, instant, relabel, row_of, sort};
use crate::functions::time::{Civil, date_field};
use crate::functions::{Function, FunctionId, number};
use crate::parser::ast::{NodeId, NodeKind, Span, ValueType};
use crate::plan::Grid;
use crate::source::Source;

impl<S: Source> Executor<'_, S> {
    pub(super) fn call(
        &mut self,
        id: NodeId,
        function: &'static Function,
        args: &[NodeId],
    ) -> Result<NodeValue, QueryError> {
        use FunctionId::*;
        let grid = self.plan.node(id).grid;
        match function.id {
            Time | Pi | Step | Range | Start | End | MinOf | MaxOf | Scalar => {
                self.scalar_function(function.id, args, grid).map(NodeValue::Scalar)
            }
            LabelReplace | LabelJoin => self.relabelled(function.id, args).map(NodeValue::Rows),
            Info => self.info(id, args).map(NodeValue::Rows),
            _ if args
                .iter()
                .any(|arg| self.plan.node(*arg).value_type == ValueType::RangeVector) =>
            {
                let rows = self.window(id, Sink::Rows)?;
                match function.id {
                    AbsentOverTime => Ok(NodeValue::Rows(self.absent(args[0], &rows))),
                    _ => Ok(NodeValue::Rows(rows)),
                }
            }
            _ => self.vector_function(id, function, args, grid).map(NodeValue::Rows),
        }
    }

    fn scalar_function(
        &mut self,
        id: FunctionId,
        args: &[NodeId],
        grid: Grid,
    ) -> Result<Scalar, QueryError> {
        let seconds = |milliseconds: i64| Scalar::Constant(milliseconds as f64 / 1000.0);
        Ok(match id {
            FunctionId::Pi => Scalar::Constant(std::f64::consts::PI),
            FunctionId::Step => seconds(self.plan.step_ms),
            FunctionId::Range => seconds(self.plan.end_ms.saturating_sub(self.plan.start_ms)),
            FunctionId::Start => seconds(self.plan.start_ms),
            FunctionId::End => seconds(self.plan.end_ms),
            FunctionId::Time => {
                Scalar::Steps((0..grid.steps).map(|i| grid.time_ms(i) as f64 / 1000.0).collect())
            }
            FunctionId::MinOf | FunctionId::MaxOf => {
                let (a, b) = (self.take_scalar(args[0]), self.take_scalar(args[1]));
                let f = if id == FunctionId::MinOf { number::min } else { number::max };
                Scalar::Steps((0..grid.steps).map(|step| f(a.at(step), b.at(step))).collect())
            }
            _ => only_float(&self.take_rows(args[0])),
        })
    }

    fn relabelled(&mut self, id: FunctionId, args: &[NodeId]) -> Result<Rows, QueryError> {
        let texts: Vec<Vec<u8>> = args[1..].iter().map(|arg| self.take_text(*arg)).collect();
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let rows = self.take_rows(args[0]);
        match (id, &texts[..]) {
            (FunctionId::LabelReplace, &[destination, replacement, source, pattern]) => {
                let texts = [destination, replacement, source, pattern];
                relabel::replace(rows, texts, self.session.budget)
            }
            _ => relabel::join(rows, &texts, self.session.budget),
        }
    }

    /// Functions from instant vectors to instant vectors.
    fn vector_function(
        &mut self,
        id: NodeId,
        function: &'static Function,
        args: &[NodeId],
        grid: Grid,
    ) -> Result<Rows, QueryError> {
        use FunctionId::*;
        match function.id {
            Vector => Ok(vector_of(&self.take_scalar(args[0]), grid.steps)),
            Timestamp => self.timestamp(args[0], grid),
            StartTimestamp => self.start_timestamp(args[0], grid),
            Absent => {
                let rows = self.take_rows(args[0]);
                Ok(self.absent(args[0], &rows))
            }
            Sort | SortDesc | SortByLabel | SortByLabelDesc => {
                self.sort(id, function.id, args, grid)
            }
            HistogramQuantile | HistogramQuantiles | HistogramFraction => {
                self.of_buckets(function.id, args, grid)
            }
            HistogramAvg | HistogramCount | HistogramSum | HistogramStddev | HistogramStdvar => {
                let rows = self.take_rows(args[0]);
                self.renamed(instant::of_histograms(rows, function.id))
            }
            Round => {
                let nearest = args.get(1).map(|arg| self.take_scalar(*arg));
                let mut rows = self.take_rows(args[0]);
                let nearest = nearest.unwrap_or(super::Scalar::Constant(1.0));
                instant::round(&mut rows, &nearest, self.session.budget);
                self.renamed(rows)
            }
            Clamp | ClampMin | ClampMax => {
                let first = self.take_scalar(args[1]);
                let (min, max) = match function.id {
                    Clamp => (first, self.take_scalar(args[2])),
                    ClampMin => (first, super::Scalar::Constant(f64::INFINITY)),
                    _ => (super::Scalar::Constant(f64::NEG_INFINITY), first),
                };
                let mut rows = self.take_rows(args[0]);
                instant::clamp(&mut rows, &min, &max, self.session.budget);
                self.renamed(rows)
            }
            date if date_field(date).is_some() => match args.first() {
                Some(arg) => {
                    let mut rows = self.take_rows(*arg);
                    instant::date(&mut rows, date, self.session.budget);
                    self.renamed(rows)
                }
                None => Ok(date_of_steps(date, grid)),
            },
            other => {
                let f = instant::map_of(other).expect("what is left maps values");
                let mut rows = self.take_rows(args[0]);
                instant::map(&mut rows, f, self.session.budget);
                self.renamed(rows)
            }
        }
    }

    /// Quantiles and fractions of histograms.
    fn of_buckets(
        &mut self,
        function: FunctionId,
        args: &[NodeId],
        grid: Grid,
    ) -> Result<Rows, QueryError> {
        let spans: Vec<Span> = args.iter().map(|arg| self.argument_span(*arg)).collect();
        let mut take_scalar = |at: usize| (self.take_scalar(args[at]), spans[at]);
        let (vector, question, label) = match function {
            FunctionId::HistogramFraction => {
                (2, Question::Fraction(take_scalar(0).0, take_scalar(1).0), None)
            }
            FunctionId::HistogramQuantile => {
                (1, Question::Quantiles(vec![take_scalar(0)], None), None)
            }
            _ => {
                let quantiles = (2..args.len()).map(take_scalar).collect();
                (0, Question::Quantiles(quantiles, None), Some(self.take_text(args[1])))
            }
        };
        let label = label.map(|label| String::from_utf8_lossy(&label).into_owned());
        let question = match question {
            Question::Quantiles(quantiles, _) => Question::Quantiles(quantiles, label.as_deref()),
            fraction => fraction,
        };
        let rows = self.take_rows(args[vector]);
        let rows =
            distribution::evaluate(&question, &rows, grid, spans[vector], &mut self.session)?;
        self.renamed(rows)
    }

    /// Where an argument stands, without the parentheses around it.
    fn argument_span(&self, arg: NodeId) -> Span {
        self.span(self.plan.strip(arg))
    }

    /// `timestamp()`: of a selector the samples' own times, of anything else that of the step.
    fn timestamp(&mut self, arg: NodeId, grid: Grid) -> Result<Rows, QueryError> {
        if let Some(rows) = self.times_of_samples(arg, Emit::Timestamp)? {
            return Ok(rows);
        }
        let mut rows = self.take_rows(arg);
        for row in 0..rows.len() {
            let (values, valid, histograms) = rows.row_mut(row);
            histograms.drain(..).for_each(|(step, _)| set_bit(valid, step as usize));
            for (step, value) in values.iter_mut().enumerate() {
                *value = grid.time_ms(step) as f64 / 1000.0;
            }
        }
        self.renamed(rows)
    }

    /// `start_timestamp()`: of a selector the start times of the samples' counters; of anything else
    /// nothing, since samples that were computed with have none.
    fn start_timestamp(&mut self, arg: NodeId, grid: Grid) -> Result<Rows, QueryError> {
        let rows = match self.session.use_start_timestamps {
            true => self.times_of_samples(arg, Emit::StartTimestamp)?,
            false => None,
        };
        Ok(rows.unwrap_or_else(|| Rows::new(grid.steps)))
    }

    /// A time of each sample that a selector picks; `None` for what is no selector.
    fn times_of_samples(&mut self, arg: NodeId, emit: Emit) -> Result<Option<Rows>, QueryError> {
        let inner = self.plan.strip(arg);
        let NodeKind::VectorSelector(_) = self.plan.kind(inner) else { return Ok(None) };
        let mut rows = self.selected(inner, emit, Sink::Rows)?;
        if !self.session.delayed {
            rows = rows.unify(self.session.budget)?;
        }
        Ok(Some(match self.plan.node(arg).repeat {
            Some(steps) => self.repeated_rows(rows, steps)?,
            None => rows,
        }))
    }

    fn sort(
        &mut self,
        id: NodeId,
        function: FunctionId,
        args: &[NodeId],
        grid: Grid,
    ) -> Result<Rows, QueryError> {
        let texts: Vec<Vec<u8>> = args[1..].iter().map(|arg| self.take_text(*arg)).collect();
        let names: Vec<String> =
            texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        let mut rows = self.take_rows(args[0]);
        if matches!(function, FunctionId::Sort | FunctionId::SortDesc) {
            instant::floats_only(&mut rows);
        }
        if grid.steps > 1 {
            self.session.annotations.sort_in_range_query(self.span(id));
            return Ok(rows);
        }
        let budget = self.session.budget;
        Ok(match function {
            FunctionId::Sort => sort::by_value(&rows, false, budget),
            FunctionId::SortDesc => sort::by_value(&rows, true, budget),
            FunctionId::SortByLabel => sort::by_label(&rows, &names, false, budget),
            _ => sort::by_label(&rows, &names, true, budget),
        })
    }

    /// One series at the steps at which `rows` have nothing.
    fn absent(&self, arg: NodeId, rows: &Rows) -> Rows {
        let stride = words(rows.steps);
        let mut missing = full_bitmap(rows.steps);
        for present in rows.presences().chunks(stride.max(1)) {
            missing.iter_mut().zip(present).for_each(|(missing, present)| *missing &= !present);
        }
        let mut result = Rows::new(rows.steps);
        let mut row = row_of(vec![1.0; rows.steps], missing);
        if !row.is_empty() {
            let labels = self.absent_labels(self.plan.strip(arg));
            result.push(SeriesMeta { labels, drop_name: false }, &mut row);
        }
        result
    }

    /// The labels that a selector fixes by `=`. A second matcher of a name takes the label away; one
    /// of another kind does so too, but not for an `=` after it.
    fn absent_labels(&self, arg: NodeId) -> Labels {
        let selector = match self.plan.kind(arg) {
            NodeKind::MatrixSelector { selector, .. } => *selector,
            _ => arg,
        };
        let NodeKind::VectorSelector(selector) = self.plan.kind(selector) else {
            return Labels::empty();
        };
        let mut seen: Vec<&str> = Vec::new();
        let mut fixed: Vec<(&str, &str)> = Vec::new();
        for matcher in selector.matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
            let name = matcher.name();
            if matcher.op() == MatchOp::Equal && !seen.contains(&name) {
                seen.push(name);
                fixed.push((name, matcher.value()));
            } else {
                fixed.retain(|(known, _)| *known != name);
            }
        }
        Labels::from_pairs(fixed).unwrap_or_default()
    }
}

/// `scalar()`: the value of the only float at a step, else NaN.
fn only_float(rows: &Rows) -> Scalar {
    let mut count = vec![0u8; rows.steps];
    let mut only = vec![f64::NAN; rows.steps];
    for row in 0..rows.len() {
        let values = rows.values(row);
        super::rows::for_each_bit(rows.valid(row), |step| {
            count[step] = count[step].saturating_add(1);
            only[step] = if count[step] == 1 { values[step] } else { f64::NAN };
        });
    }
    Scalar::Steps(only)
}

fn vector_of(scalar: &Scalar, steps: usize) -> Rows {
    single((0..steps).map(|step| scalar.at(step)).collect())
}

/// One series without labels and without gaps.
fn single(values: Vec<f64>) -> Rows {
    let mut rows = Rows::new(values.len());
    let valid = full_bitmap(values.len());
    if !values.is_empty() {
        rows.push(SeriesMeta::default(), &mut row_of(values, valid));
    }
    rows
}

fn date_of_steps(id: FunctionId, grid: Grid) -> Rows {
    let field = date_field(id).expect("the caller passes date functions");
    single((0..grid.steps).map(|i| field(Civil::at(grid.time_ms(i) / 1000)) as f64).collect())
}
