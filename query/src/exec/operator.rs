//! Binary operators on values, and on a vector and a scalar.

use crate::exec::histogram_operator::{self, Note, Notes, Operand};
use crate::exec::rows::{Rows, for_each_bit};
use crate::exec::{Scalar, Session};
use crate::parser::ast::{Binary, BinaryOp, Span};
use crate::value::Point;

/// The value of an arithmetic operator; comparisons give 1 or 0.
pub(crate) fn apply(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        BinaryOp::Atan2 => left.atan2(right),
        _ => f64::from(holds(op, left, right)),
    }
}

/// Whether a comparison holds. NaN is different from everything.
#[inline(always)]
pub(crate) fn holds(op: BinaryOp, left: f64, right: f64) -> bool {
    match op {
        BinaryOp::Equal => left == right,
        BinaryOp::NotEqual => left != right,
        BinaryOp::Less => left < right,
        BinaryOp::LessOrEqual => left <= right,
        BinaryOp::Greater => left > right,
        BinaryOp::GreaterOrEqual => left >= right,
        _ => false,
    }
}

/// Arithmetic makes another metric of it.
pub(crate) fn changes_metric(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(op, Add | Sub | Mul | Div | Mod | Pow | Atan2)
}

/// So does `bool`.
pub(crate) fn drops_name(binary: &Binary) -> bool {
    binary.return_bool || changes_metric(binary.op)
}

/// The steps of a word at which the operator is not defined on the types of its operands. `left`
/// and `right` say where these are floats; elsewhere they are histograms.
pub(crate) fn type_errors(op: BinaryOp, left: u64, right: u64) -> u64 {
    use BinaryOp::*;
    let all_if = |yes: bool| if yes { u64::MAX } else { 0 };
    let floats = all_if(is_trim(op));
    let float_histogram = all_if(op != Mul);
    let histogram_float = all_if(!matches!(op, Mul | Div) && !is_trim(op));
    let histograms = all_if(!matches!(op, Add | Sub | Equal | NotEqual));
    (left & right & floats)
        | (left & !right & float_histogram)
        | (!left & right & histogram_float)
        | (!left & !right & histograms)
}

pub(crate) fn is_trim(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

/// Scalar and scalar, step by step.
pub(crate) fn scalars(op: BinaryOp, left: &Scalar, right: &Scalar, steps: usize) -> Scalar {
    match (left, right) {
        (Scalar::Constant(left), Scalar::Constant(right)) => {
            Scalar::Constant(apply(op, *left, *right))
        }
        _ => Scalar::Steps((0..steps).map(|i| apply(op, left.at(i), right.at(i))).collect()),
    }
}

/// Vector and scalar; `swapped` if the scalar stands on the left. The names are the caller's to
/// drop.
pub(crate) fn vector_and_scalar(
    binary: &Binary,
    mut rows: Rows,
    scalar: &Scalar,
    swapped: bool,
    span: Span,
    session: &mut Session<'_>,
) -> Rows {
    let op = binary.op;
    let mut notes = Notes::default();
    let mut pace = session.budget.pace();
    for row in 0..rows.len() {
        if !pace.goes_on(rows.steps) {
            break;
        }
        let (values, valid, histograms) = rows.row_mut(row);
        let sides = |value: f64, step: usize| {
            let scalar = scalar.at(step);
            if swapped { (scalar, value) } else { (value, scalar) }
        };
        if is_trim(op) {
            for_each_bit(valid, |step| notes.take(step, row, Note::FLOATS));
            valid.fill(0);
        } else if op.is_comparison() && !binary.return_bool {
            keep_where(values, valid, |value, step| {
                let (left, right) = sides(value, step);
                holds(op, left, right)
            });
        } else {
            for (step, value) in values.iter_mut().enumerate() {
                let (left, right) = sides(*value, step);
                *value = apply(op, left, right);
            }
        }
        for (step, histogram) in std::mem::take(histograms) {
            let operands =
                [Operand::Histogram(&histogram), Operand::Float(scalar.at(step as usize))];
            let [left, right] = if swapped { [operands[1], operands[0]] } else { operands };
            let outcome = histogram_operator::apply(op, binary.return_bool, left, right);
            if let Some(note) = outcome.note {
                notes.take(step as usize, row, note);
            }
            if let Some(Point::Histogram(result)) = outcome.point {
                histograms.push((step, result));
            }
        }
    }
    notes.say(op, span, session);
    rows.remove_empty();
    rows
}

/// Clears the steps whose value does not pass.
fn keep_where(values: &[f64], valid: &mut [u64], passes: impl Fn(f64, usize) -> bool) {
    for (index, word) in valid.iter_mut().enumerate() {
        let mut kept = 0;
        for_each_bit(&[*word], |at| {
            let step = index * 64 + at;
            kept |= u64::from(passes(values[step], step)) << at;
        });
        *word = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_follow_go() {
        assert_eq!(apply(BinaryOp::Mod, -7.0, 3.0), -1.0);
        assert_eq!(apply(BinaryOp::Pow, 1.0, f64::NAN), 1.0);
        assert_eq!(apply(BinaryOp::NotEqual, f64::NAN, f64::NAN), 1.0);
        assert_eq!(apply(BinaryOp::Equal, f64::NAN, f64::NAN), 0.0);
    }

    #[test]
    fn a_comparison_clears_steps() {
        let mut valid = [0b111];
        keep_where(&[1.0, 5.0, f64::NAN], &mut valid, |value, _| value > 2.0);
        assert_eq!(valid, [0b010]);
    }
}
