//! Binary operators on values of which one is a native histogram, at least.
//!
//! Histograms can be added, subtracted, compared for equality, and scaled or trimmed by floats. On
//! every other combination of types an operator is not defined: there is no result, and an info says
//! so.

use std::collections::BTreeMap;
use std::sync::Arc;

use icecore_storage::metrics::histogram::ResetHint;

use crate::annotations::HistogramOperation;
use crate::exec::Session;
use crate::histogram::{Combined, FloatHistogram, IncompatibleSchemas, Side, trim};
use crate::parser::ast::{BinaryOp, Span};
use crate::value::Point;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

impl Operand<'_> {
    fn type_name(self) -> &'static str {
        match self {
            Operand::Float(_) => "float",
            Operand::Histogram(_) => "histogram",
        }
    }
}

/// What there is to say of one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Note {
    IncompatibleTypes(&'static str, &'static str),
    IncompatibleSchemas,
    ResetsCollide(HistogramOperation),
    BoundsReconciled(HistogramOperation),
}

impl Note {
    /// Of trim operators between floats.
    pub(crate) const FLOATS: Note = Note::IncompatibleTypes("float", "float");

    /// Whether the operation has no result for it.
    pub(crate) fn refuses(self) -> bool {
        !matches!(self, Note::BoundsReconciled(_))
    }
}

/// What came of one operation: a value, unless it is refused or a comparison does not hold.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) point: Option<Point>,
    pub(crate) note: Option<Note>,
}

impl Outcome {
    fn histogram(histogram: FloatHistogram) -> Outcome {
        let point = Some(Point::Histogram(Arc::new(histogram.compacted())));
        Outcome { point, note: None }
    }

    fn refused(note: Note) -> Outcome {
        Outcome { point: None, note: Some(note) }
    }
}

pub(crate) fn apply(
    op: BinaryOp,
    return_bool: bool,
    left: Operand<'_>,
    right: Operand<'_>,
) -> Outcome {
    use Operand::{Float, Histogram};
    let changed = |histogram: &Arc<FloatHistogram>, change: &dyn Fn(&mut FloatHistogram)| {
        let mut changed = FloatHistogram::clone(histogram);
        change(&mut changed);
        Outcome::histogram(changed)
    };
    match (op, left, right) {
        (BinaryOp::Mul, Histogram(histogram), Float(factor))
        | (BinaryOp::Mul, Float(factor), Histogram(histogram)) => {
            changed(histogram, &|histogram| histogram.scale(factor))
        }
        (BinaryOp::Div, Histogram(histogram), Float(divisor)) => {
            changed(histogram, &|histogram| histogram.divide(divisor))
        }
        (BinaryOp::TrimUpper, Histogram(histogram), Float(at)) => {
            trimmed(histogram, Side::UpTo, at)
        }
        (BinaryOp::TrimLower, Histogram(histogram), Float(at)) => {
            trimmed(histogram, Side::From, at)
        }
        (BinaryOp::Add | BinaryOp::Sub, Histogram(left), Histogram(right)) => {
            combined(op == BinaryOp::Add, left, right)
        }
        (BinaryOp::Equal | BinaryOp::NotEqual, Histogram(left), Histogram(right)) => {
            let holds = left.same_data(right) == (op == BinaryOp::Equal);
            let point = match return_bool {
                true => Some(Point::Float(f64::from(holds))),
                false => holds.then(|| Point::Histogram(Arc::clone(left))),
            };
            Outcome { point, note: None }
        }
        _ => Outcome::refused(Note::IncompatibleTypes(left.type_name(), right.type_name())),
    }
}

fn trimmed(histogram: &FloatHistogram, side: Side, at: f64) -> Outcome {
    let point = Some(Point::Histogram(Arc::new(trim(histogram, side, at))));
    Outcome { point, note: None }
}

fn combined(add: bool, left: &FloatHistogram, right: &FloatHistogram) -> Outcome {
    let mut result = left.clone();
    let (combined, operation) = match add {
        true => (result.add(right), HistogramOperation::Addition),
        false => (result.sub(right), HistogramOperation::Subtraction),
    };
    let Combined { resets_collide, bounds_reconciled } = match combined {
        Ok(combined) => combined,
        Err(IncompatibleSchemas) => return Outcome::refused(Note::IncompatibleSchemas),
    };
    if resets_collide {
        return Outcome::refused(Note::ResetsCollide(operation));
    }
    if !add {
        result.reset_hint = ResetHint::Gauge;
    }
    let note = bounds_reconciled.then_some(Note::BoundsReconciled(operation));
    Outcome { note, ..Outcome::histogram(result) }
}

/// The notes of one operator. Of those of a step, Prometheus says the last one.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    last: BTreeMap<usize, (usize, Note)>,
}

impl Notes {
    /// Takes the note of the `row`-th element of a step.
    pub(crate) fn take(&mut self, step: usize, row: usize, note: Note) {
        let last = self.last.entry(step).or_insert((row, note));
        if row >= last.0 {
            *last = (row, note);
        }
    }

    pub(crate) fn say(self, op: BinaryOp, span: Span, session: &mut Session<'_>) {
        let annotations = &mut session.annotations;
        for (_, note) in self.last.into_values() {
            match note {
                Note::IncompatibleTypes(left, right) => {
                    annotations.incompatible_types(left, op.text(), right, span);
                }
                Note::IncompatibleSchemas => annotations.incompatible_layout(op.text(), span),
                Note::ResetsCollide(operation) => annotations.resets_collide(operation, span),
                Note::BoundsReconciled(operation) => annotations.bounds_reconciled(operation, span),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::tests::counted;

    #[test]
    fn what_is_not_defined_has_no_result_and_a_note() {
        let histogram = &counted(1.0);
        let (float, histogram) = (Operand::Float(2.0), Operand::Histogram(histogram));
        for (op, left, right, names) in [
            (BinaryOp::Div, float, histogram, ("float", "histogram")),
            (BinaryOp::Add, histogram, float, ("histogram", "float")),
            (BinaryOp::Less, histogram, histogram, ("histogram", "histogram")),
            (BinaryOp::TrimUpper, float, histogram, ("float", "histogram")),
        ] {
            let outcome = apply(op, false, left, right);
            assert_eq!(outcome.point, None);
            assert_eq!(outcome.note, Some(Note::IncompatibleTypes(names.0, names.1)));
        }
    }

    #[test]
    fn comparisons_give_the_left_side_or_a_number() {
        let (one, two) = (counted(1.0), counted(2.0));
        let (left, right) = (Operand::Histogram(&one), Operand::Histogram(&two));
        let point = |op, return_bool, right| apply(op, return_bool, left, right).point;
        assert_eq!(point(BinaryOp::Equal, false, right), None);
        assert_eq!(point(BinaryOp::NotEqual, false, right), Some(Point::Histogram(one.clone())));
        assert_eq!(point(BinaryOp::Equal, true, left), Some(Point::Float(1.0)));
        assert_eq!(point(BinaryOp::Equal, true, right), Some(Point::Float(0.0)));
    }

    #[test]
    fn hints_that_collide_leave_no_result() {
        let with = |hint| {
            let mut histogram = FloatHistogram::clone(&counted(1.0));
            histogram.reset_hint = hint;
            Arc::new(histogram)
        };
        let (reset, not_reset) = (with(ResetHint::Reset), with(ResetHint::NotReset));
        let (left, right) = (Operand::Histogram(&reset), Operand::Histogram(&not_reset));
        let outcome = apply(BinaryOp::Add, false, left, right);
        assert!(outcome.point.is_none());
        assert_eq!(outcome.note, Some(Note::ResetsCollide(HistogramOperation::Addition)));
    }

    #[test]
    fn the_last_note_of_a_step_is_said() {
        let mut notes = Notes::default();
        notes.take(0, 2, Note::IncompatibleSchemas);
        notes.take(0, 1, Note::FLOATS);
        crate::exec::with_test_session(|session| {
            notes.say(BinaryOp::Add, Span::default(), session);
            let (warnings, infos) = session.annotations.render("x");
            assert_eq!((warnings.len(), infos.len()), (1, 0));
        });
    }
}
