//! Functions over instant vectors that map values: mathematics and dates.
//!
//! They look at floats only and leave out histograms without a word, but for the `histogram_`
//! functions, which do it the other way round. The caller drops names.

use crate::exec::rows::{Rows, clear_bit, set_bit};
use crate::exec::{Budget, Scalar};
use crate::functions::FunctionId;
use crate::functions::number;
use crate::functions::time::{Civil, date_field};
use crate::histogram::{FloatHistogram, variance};

/// The function on one value, for functions of one argument.
pub(crate) fn map_of(id: FunctionId) -> Option<fn(f64) -> f64> {
    use FunctionId::*;
    use std::f64::consts::PI;
    Some(match id {
        Abs => f64::abs,
        Ceil => f64::ceil,
        Floor => f64::floor,
        Exp => f64::exp,
        Sqrt => f64::sqrt,
        Ln => f64::ln,
        Log2 => f64::log2,
        Log10 => f64::log10,
        Sin => f64::sin,
        Cos => f64::cos,
        Tan => f64::tan,
        Asin => f64::asin,
        Acos => f64::acos,
        Atan => f64::atan,
        Sinh => f64::sinh,
        Cosh => f64::cosh,
        Tanh => f64::tanh,
        Asinh => f64::asinh,
        Acosh => f64::acosh,
        Atanh => f64::atanh,
        // The order of the operations decides the last bit.
        Rad => |value| value * PI / 180.0,
        Deg => |value| value * 180.0 / PI,
        Sgn => |value| match value {
            _ if value < 0.0 => -1.0,
            _ if value > 0.0 => 1.0,
            _ => value,
        },
        _ => return None,
    })
}

/// Maps every float in place.
pub(crate) fn map(rows: &mut Rows, f: fn(f64) -> f64, budget: &Budget) {
    floats_only(rows);
    for_each_value(rows, budget, |value, _| f(value));
}

/// `round(v, to_nearest)`: half way rounds up.
pub(crate) fn round(rows: &mut Rows, to_nearest: &Scalar, budget: &Budget) {
    floats_only(rows);
    for_each_value(rows, budget, |value, step| {
        // The inverse suffers less from rounding.
        let inverse = 1.0 / to_nearest.at(step);
        (value * inverse + 0.5).floor() / inverse
    });
}

/// `clamp` and its halves; nothing is left where the bounds cross.
pub(crate) fn clamp(rows: &mut Rows, min: &Scalar, max: &Scalar, budget: &Budget) {
    floats_only(rows);
    for_each_value(rows, budget, |value, step| {
        number::max(min.at(step), number::min(max.at(step), value))
    });
    let crossed: Vec<usize> =
        (0..rows.steps).filter(|step| max.at(*step) < min.at(*step)).collect();
    if !crossed.is_empty() {
        for row in 0..rows.len() {
            let (_, valid, _) = rows.row_mut(row);
            crossed.iter().for_each(|step| clear_bit(valid, *step));
        }
        rows.remove_empty();
    }
}

/// A date field of every float, seconds since the epoch.
pub(crate) fn date(rows: &mut Rows, id: FunctionId, budget: &Budget) {
    floats_only(rows);
    let field = date_field(id).expect("the caller passes date functions");
    for_each_value(rows, budget, |value, _| field(Civil::at(number::to_i64(value))) as f64);
}

/// A number for every histogram: its count, sum, mean or spread.
pub(crate) fn of_histograms(mut rows: Rows, id: FunctionId) -> Rows {
    use FunctionId::*;
    let number = |histogram: &FloatHistogram| match id {
        HistogramCount => histogram.count,
        HistogramSum => histogram.sum,
        HistogramAvg => histogram.sum / histogram.count,
        HistogramStdvar => variance(histogram),
        _ => variance(histogram).sqrt(),
    };
    for row in 0..rows.len() {
        let (values, valid, histograms) = rows.row_mut(row);
        valid.fill(0);
        for (step, histogram) in histograms.drain(..) {
            values[step as usize] = number(&histogram);
            set_bit(valid, step as usize);
        }
    }
    rows.remove_empty();
    rows
}

pub(crate) fn floats_only(rows: &mut Rows) {
    if rows.has_histograms() {
        rows.drop_histograms();
        rows.remove_empty();
    }
}

pub(crate) fn for_each_value(rows: &mut Rows, budget: &Budget, f: impl Fn(f64, usize) -> f64) {
    let steps = rows.steps;
    if steps == 0 {
        return;
    }
    let mut pace = budget.pace();
    for row in rows.values.chunks_mut(steps) {
        if !pace.goes_on(steps) {
            break;
        }
        row.iter_mut().enumerate().for_each(|(step, value)| *value = f(*value, step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::rows::{RowBuffer, SeriesMeta};
    use crate::exec::with_test_session;

    fn one(value: f64) -> Rows {
        let mut rows = Rows::new(1);
        let mut buffer = RowBuffer::default();
        buffer.reset(1);
        buffer.set(0, value);
        rows.push(SeriesMeta::default(), &mut buffer);
        rows
    }

    #[test]
    fn half_way_rounds_up() {
        for (value, expected) in [(2.5, 3.0), (-2.5, -2.0), (-0.5, 0.0)] {
            let mut rows = one(value);
            with_test_session(|session| {
                round(&mut rows, &Scalar::Constant(1.0), session.budget);
            });
            assert_eq!(rows.values[0], expected);
        }
    }

    #[test]
    fn nan_bounds_clamp_to_nan_and_crossed_bounds_to_nothing() {
        let mut rows = one(1.0);
        with_test_session(|session| {
            clamp(&mut rows, &Scalar::Constant(0.0), &Scalar::Constant(f64::NAN), session.budget);
        });
        assert!(rows.values[0].is_nan());
        with_test_session(|session| {
            clamp(&mut rows, &Scalar::Constant(5.0), &Scalar::Constant(-5.0), session.budget);
        });
        assert_eq!(rows.len(), 0);
    }
}
