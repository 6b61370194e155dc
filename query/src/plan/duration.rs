//! Durations of a query, folded into milliseconds before it runs.
//!
//! A duration may be arithmetic over numbers, `step()` and `range()`: those of the whole query, also
//! inside a subquery. The arithmetic is in seconds as `f64`, as Prometheus does it.

use crate::engine::QueryError;
use crate::functions::number;
use crate::parser::ast::{BinaryOp, ComputedDuration, DurationExpr};

/// What `step()` and `range()` mean, in ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurationContext {
    pub(crate) step_ms: i64,
    pub(crate) range_ms: i64,
}

impl DurationContext {
    /// A range or a step: positive.
    pub(crate) fn positive(self, duration: &DurationExpr) -> Result<i64, QueryError> {
        let milliseconds = self.any(duration)?;
        if milliseconds <= 0 && matches!(duration, DurationExpr::Computed(_)) {
            return Err(error("duration must be greater than 0"));
        }
        Ok(milliseconds)
    }

    /// An offset: may be negative.
    pub(crate) fn any(self, duration: &DurationExpr) -> Result<i64, QueryError> {
        match duration {
            DurationExpr::Literal(milliseconds) => Ok(*milliseconds),
            DurationExpr::Computed(_) => {
                let seconds = self.seconds(duration)?;
                if !(-9.223372036e9..=9.223372036e9).contains(&seconds) {
                    return Err(error("duration is out of range"));
                }
                Ok((seconds * 1000.0) as i64)
            }
        }
    }

    /// Nesting is bounded by the parser's depth.
    fn seconds(self, duration: &DurationExpr) -> Result<f64, QueryError> {
        let computed = match duration {
            DurationExpr::Literal(milliseconds) => return Ok(*milliseconds as f64 / 1000.0),
            DurationExpr::Computed(computed) => computed,
        };
        Ok(match &**computed {
            ComputedDuration::Seconds(seconds) => *seconds,
            ComputedDuration::Step => self.step_ms as f64 / 1000.0,
            ComputedDuration::Range => self.range_ms as f64 / 1000.0,
            ComputedDuration::Negate(inner) => -self.seconds(inner)?,
            ComputedDuration::Paren(inner) => self.seconds(inner)?,
            ComputedDuration::Min(a, b) => number::min(self.seconds(a)?, self.seconds(b)?),
            ComputedDuration::Max(a, b) => number::max(self.seconds(a)?, self.seconds(b)?),
            ComputedDuration::Binary { op, left, right } => {
                apply(*op, self.seconds(left)?, self.seconds(right)?)?
            }
        })
    }
}

fn apply(op: BinaryOp, left: f64, right: f64) -> Result<f64, QueryError> {
    match op {
        BinaryOp::Add => Ok(left + right),
        BinaryOp::Sub => Ok(left - right),
        BinaryOp::Mul => Ok(left * right),
        BinaryOp::Div if right == 0.0 => Err(error("division by zero")),
        BinaryOp::Div => Ok(left / right),
        BinaryOp::Mod if right == 0.0 => Err(error("modulo by zero")),
        BinaryOp::Mod => Ok(left % right),
        BinaryOp::Pow => Ok(left.powf(right)),
        other => Err(error(&format!("unexpected duration expression operator {:?}", other.text()))),
    }
}

fn error(text: &str) -> QueryError {
    QueryError::BadData(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_in_seconds_over_the_whole_query() {
        let context = DurationContext { step_ms: 15_000, range_ms: 3_600_000 };
        let step = DurationExpr::Computed(Box::new(ComputedDuration::Step));
        let five = DurationExpr::Computed(Box::new(ComputedDuration::Seconds(5.0)));
        let product = DurationExpr::Computed(Box::new(ComputedDuration::Binary {
            op: BinaryOp::Mul,
            left: step.clone(),
            right: five.clone(),
        }));
        assert_eq!(context.positive(&product).unwrap(), 75_000);
        let negative = DurationExpr::Computed(Box::new(ComputedDuration::Negate(five)));
        assert_eq!(context.any(&negative).unwrap(), -5_000);
        assert!(context.positive(&negative).is_err());
    }
}
