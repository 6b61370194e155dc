//! Native histograms in `sum` and `avg`: a total for each group and step at which any came.
//!
//! A group that has floats as well has no result at that step, nor has one with exponential and
//! custom buckets; both are said. As Prometheus does, a group is not looked at any further once its
//! schemas have turned out to be mixed, and its histograms are not if a float came first.

use std::collections::HashMap;
use std::sync::Arc;

use icecore_storage::metrics::histogram::ResetHint;

use crate::annotations::{Annotations, HistogramOperation};
use crate::exec::rows::{HistogramPoints, bit, clear_bit};
use crate::histogram::{Combined, FloatHistogram, IncompatibleSchemas, KahanMean, KahanSum};
use crate::parser::ast::{AggregateOp, Span};

/// The totals of all groups of one aggregation, by cell: group times steps, plus step.
#[derive(Debug, Default)]
pub(crate) struct HistogramGroups {
    cells: HashMap<usize, Cell>,
}

#[derive(Debug)]
struct Cell {
    /// `None` if there was a float before.
    total: Option<Total>,
    reset_seen: bool,
    not_reset_seen: bool,
    mixed_schemas: Option<Mixed>,
}

/// What a cell takes, about: a sum and its compensation of some twenty buckets.
const CELL_BYTES: usize = size_of::<Cell>() + 2 * 20 * size_of::<f64>();

impl HistogramGroups {
    /// Memory of the cells, about.
    pub(crate) fn bytes(&self) -> usize {
        self.cells.len() * CELL_BYTES
    }
}

/// When exponential and custom buckets met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mixed {
    BeforeFloats,
    AfterFloats,
}

#[derive(Debug)]
enum Total {
    Sum(KahanSum),
    Mean(KahanMean),
}

impl Total {
    fn new(op: AggregateOp, first: &FloatHistogram) -> Total {
        match op {
            AggregateOp::Avg => Total::Mean(KahanMean::new(first)),
            _ => Total::Sum(KahanSum::new(first)),
        }
    }

    fn add(&mut self, histogram: &FloatHistogram) -> Result<Combined, IncompatibleSchemas> {
        match self {
            Total::Sum(sum) => sum.add(histogram),
            Total::Mean(mean) => mean.add(histogram),
        }
    }

    fn finish(self) -> FloatHistogram {
        match self {
            Total::Sum(sum) => sum.finish(),
            Total::Mean(mean) => mean.finish(),
        }
    }
}

impl Cell {
    fn note_hint(&mut self, hint: ResetHint) {
        self.reset_seen |= hint == ResetHint::Reset;
        self.not_reset_seen |= hint == ResetHint::NotReset;
    }

    /// Says what came of an addition; `metric` is that of what was added.
    fn note(
        &mut self,
        combined: Result<Combined, IncompatibleSchemas>,
        metric: &str,
        has_floats: bool,
        (annotations, span): (&mut Annotations, Span),
    ) {
        match combined {
            Ok(combined) if combined.bounds_reconciled => {
                annotations.bounds_reconciled(HistogramOperation::Aggregation, span);
            }
            Ok(_) => {}
            Err(IncompatibleSchemas) => {
                annotations.mixed_schemas(metric, span);
                let when = if has_floats { Mixed::AfterFloats } else { Mixed::BeforeFloats };
                self.mixed_schemas = Some(when);
            }
        }
    }
}

impl HistogramGroups {
    /// Adds histograms to the cells that start at `start`; `floats` are the steps at which the group
    /// has had a float.
    pub(crate) fn add(
        &mut self,
        op: AggregateOp,
        start: usize,
        histograms: &HistogramPoints,
        floats: &[u64],
        metric: &str,
        (annotations, span): (&mut Annotations, Span),
    ) {
        for (step, histogram) in histograms {
            let has_floats = bit(floats, *step as usize);
            let cell = self.cells.entry(start + *step as usize).or_insert_with(|| Cell {
                total: None,
                reset_seen: false,
                not_reset_seen: false,
                mixed_schemas: None,
            });
            if cell.mixed_schemas.is_some() {
                continue;
            }
            match &mut cell.total {
                Some(total) => {
                    let combined = total.add(histogram);
                    cell.note_hint(histogram.reset_hint);
                    cell.note(combined, metric, has_floats, (annotations, span));
                }
                None if !has_floats => {
                    cell.total = Some(Total::new(op, histogram));
                    cell.note_hint(histogram.reset_hint);
                }
                None => {}
            }
        }
    }

    /// The totals of a group, by step; clears the steps of `floats` that have both.
    pub(crate) fn finish(
        &mut self,
        (start, steps): (usize, usize),
        floats: &mut [u64],
        (annotations, span): (&mut Annotations, Span),
    ) -> HistogramPoints {
        let mut points = HistogramPoints::new();
        if self.cells.is_empty() {
            return points;
        }
        for step in 0..steps {
            let Some(cell) = self.cells.remove(&(start + step)) else { continue };
            if bit(floats, step) {
                clear_bit(floats, step);
                if cell.mixed_schemas != Some(Mixed::BeforeFloats) {
                    annotations.mixed_floats_and_histograms_in_aggregation(span);
                }
                continue;
            }
            let Some(total) = cell.total.filter(|_| cell.mixed_schemas.is_none()) else { continue };
            if cell.reset_seen && cell.not_reset_seen {
                annotations.resets_collide(HistogramOperation::Aggregation, span);
            }
            points.push((step as u32, Arc::new(total.finish().compacted())));
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::tests::counted;

    #[test]
    fn a_group_with_floats_has_no_histogram() {
        let mut annotations = Annotations::default();
        let mut groups = HistogramGroups::default();
        let points = vec![(0, counted(1.0)), (1, counted(2.0))];
        let to = (&mut annotations, Span::default());
        groups.add(AggregateOp::Sum, 0, &points, &[0b10], "m", to);
        let mut floats = [0b10];
        let points = groups.finish((0, 2), &mut floats, (&mut annotations, Span::default()));
        assert_eq!((points.len(), points[0].0, floats), (1, 0, [0]));
        let (warnings, _) = annotations.render("x");
        let text =
            "PromQL warning: encountered a mix of histograms and floats for aggregation (1:1)";
        assert_eq!(warnings, [text]);
    }
}
