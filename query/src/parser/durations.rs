//! Durations in brackets and after `offset`: a number, or arithmetic over numbers, `step()` and
//! `range()`.
//!
//! After `offset` only the first term belongs to the offset unless it begins with a parenthesis or
//! two signs: `foo offset 5s-8` subtracts from `foo`. That is yacc's choice among Prometheus's
//! rules. The depth of an expression is bounded by [`MAX_DURATION_DEPTH`], so that whoever
//! evaluates, copies or drops one may recurse.

use crate::parser::ast::{BinaryOp, ComputedDuration, DurationExpr, Span, UnaryOp};
use crate::parser::grammar::{NumberLiteral, Parser, precedence, unary_op};
use crate::parser::stream::Stop;
use crate::parser::token::{Kind, Special, Token};

/// How deep a duration expression may be; `1s+1s+1s` counts as two.
const MAX_DURATION_DEPTH: usize = 100;

/// The longest duration that Prometheus can hold: 2^63 ns, in s.
const MAX_SECONDS: f64 = (1_u64 << 63) as f64 / 1e9;

/// A duration while it is read: a literal may still get a sign, and must be checked in places.
#[derive(Debug)]
struct Duration {
    form: Form,
    depth: usize,
}

#[derive(Debug)]
enum Form {
    Literal(NumberLiteral),
    Computed(ComputedDuration),
}

impl Parser<'_> {
    /// A duration in brackets. A literal has to be positive.
    pub(super) fn positive_duration(&mut self) -> Result<DurationExpr, Stop> {
        let duration = self.duration_expression(0, 0)?;
        if let Form::Literal(literal) = &duration.form
            && literal.value <= 0.0
        {
            self.stream.error(literal.span, "duration must be greater than 0");
        }
        Ok(duration.resolve())
    }

    /// A duration after `offset`; `None` if it is zero.
    pub(super) fn offset_duration(&mut self) -> Result<Option<DurationExpr>, Stop> {
        let duration = self.offset_term()?;
        if let Form::Literal(literal) = &duration.form
            && nanoseconds(literal.value) == 0.0
        {
            return Ok(None);
        }
        Ok(Some(duration.resolve()))
    }

    fn offset_term(&mut self) -> Result<Duration, Stop> {
        let op = loop {
            match self.stream.peek() {
                Kind::Number | Kind::Duration | Kind::Special(_) => return self.duration_term(0),
                Kind::LeftParen => {
                    let left = self.duration_term(0)?;
                    return self.duration_operators(left, 0, 0);
                }
                Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => break self.stream.shift(),
                _ => self.stream.refuse()?,
            }
        };
        match self.stream.peek() {
            Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => {
                let operand = self.duration_expression(precedence(BinaryOp::Pow), 1)?;
                let left = self.signed_duration(op, operand);
                self.duration_operators(left, 0, 0)
            }
            _ => {
                let operand = self.duration_term(1)?;
                Ok(self.signed_duration(op, operand))
            }
        }
    }

    /// An expression of operators that bind at least as tightly as `least`.
    fn duration_expression(&mut self, least: u8, nesting: usize) -> Result<Duration, Stop> {
        let left = self.duration_term(nesting)?;
        self.duration_operators(left, least, nesting)
    }

    /// What goes on after `left`.
    fn duration_operators(
        &mut self,
        mut left: Duration,
        least: u8,
        nesting: usize,
    ) -> Result<Duration, Stop> {
        use BinaryOp::{Add, Div, Mod, Mul, Pow, Sub};
        while let Kind::Operator(op @ (Add | Sub | Mul | Div | Mod | Pow)) = self.stream.peek() {
            if precedence(op) < least {
                break;
            }
            let token = self.stream.shift();
            let right_least = precedence(op) + u8::from(op != Pow);
            let right = self.duration_expression(right_least, nesting + 1)?;
            left = self.binary_duration(op, token, left, right)?;
        }
        Ok(left)
    }

    fn duration_term(&mut self, nesting: usize) -> Result<Duration, Stop> {
        self.bound_duration(nesting)?;
        loop {
            match self.stream.peek() {
                Kind::Number | Kind::Duration => {
                    let literal = self.number_literal();
                    return Ok(self.literal_in_range(literal, literal.span));
                }
                Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => {
                    let op = self.stream.shift();
                    let least = precedence(BinaryOp::Pow);
                    let operand = self.duration_expression(least, nesting + 1)?;
                    return Ok(self.signed_duration(op, operand));
                }
                Kind::Special(Special::Step) => return self.nullary(ComputedDuration::Step),
                Kind::Special(Special::Range) => return self.nullary(ComputedDuration::Range),
                Kind::Special(which @ (Special::MinOf | Special::MaxOf)) => {
                    return self.extremum(which, nesting);
                }
                Kind::LeftParen => {
                    self.stream.shift();
                    let inner = self.duration_expression(0, nesting + 1)?;
                    self.stream.expect(Kind::RightParen)?;
                    return Ok(inner.parenthesized());
                }
                _ => self.stream.refuse()?,
            }
        }
    }

    /// `step()` or `range()`.
    fn nullary(&mut self, duration: ComputedDuration) -> Result<Duration, Stop> {
        self.stream.shift();
        self.stream.expect(Kind::LeftParen)?;
        self.stream.expect(Kind::RightParen)?;
        Ok(Duration { form: Form::Computed(duration), depth: 1 })
    }

    /// `min_of(a, b)` or `max_of(a, b)`.
    fn extremum(&mut self, which: Special, nesting: usize) -> Result<Duration, Stop> {
        self.stream.shift();
        self.stream.expect(Kind::LeftParen)?;
        let left = self.duration_expression(0, nesting + 1)?;
        self.stream.expect(Kind::Comma)?;
        let right = self.duration_expression(0, nesting + 1)?;
        self.stream.expect(Kind::RightParen)?;
        let depth = left.depth.max(right.depth) + 1;
        let (left, right) = (left.part(), right.part());
        let duration = match which {
            Special::MinOf => ComputedDuration::Min(left, right),
            _ => ComputedDuration::Max(left, right),
        };
        Ok(Duration { form: Form::Computed(duration), depth })
    }

    fn signed_duration(&mut self, op: Token, operand: Duration) -> Duration {
        let sign = unary_op(op.kind);
        match operand.form {
            Form::Literal(mut literal) => {
                if sign == UnaryOp::Minus {
                    literal.value = -literal.value;
                }
                literal.span.start = op.span.start;
                self.literal_in_range(literal, op.span)
            }
            Form::Computed(_) if sign == UnaryOp::Plus => operand,
            Form::Computed(_) => {
                let depth = operand.depth + 1;
                let form = Form::Computed(ComputedDuration::Negate(operand.part()));
                Duration { form, depth }
            }
        }
    }

    fn binary_duration(
        &mut self,
        op: BinaryOp,
        token: Token,
        left: Duration,
        right: Duration,
    ) -> Result<Duration, Stop> {
        let zero = matches!(&right.form, Form::Literal(literal) if literal.value == 0.0);
        if zero && matches!(op, BinaryOp::Div | BinaryOp::Mod) {
            let what = if op == BinaryOp::Div { "division" } else { "modulo" };
            self.stream.error(token.span, format!("{what} by zero"));
            return Ok(Duration::nothing());
        }
        let depth = left.depth.max(right.depth) + 1;
        self.bound_duration(depth)?;
        let (left, right) = (left.part(), right.part());
        Ok(Duration { form: Form::Computed(ComputedDuration::Binary { op, left, right }), depth })
    }

    /// A literal, or nothing and an error at `blamed`.
    fn literal_in_range(&mut self, literal: NumberLiteral, blamed: Span) -> Duration {
        if literal.value > MAX_SECONDS || literal.value < -MAX_SECONDS {
            self.stream.error(blamed, "duration out of range");
            return Duration::nothing();
        }
        Duration { form: Form::Literal(literal), depth: 1 }
    }

    fn bound_duration(&mut self, depth: usize) -> Result<(), Stop> {
        if depth < MAX_DURATION_DEPTH {
            return Ok(());
        }
        let message = format!("duration nests deeper than {MAX_DURATION_DEPTH} levels");
        let start = self.stream.last_closing();
        self.stream.error(Span { start, end: start }, message);
        Err(Stop::Abort)
    }
}

impl Duration {
    /// What an error leaves: a zero that stands nowhere.
    fn nothing() -> Duration {
        let span = Span::default();
        let literal = NumberLiteral { value: 0.0, as_duration: false, span };
        Duration { form: Form::Literal(literal), depth: 1 }
    }

    fn parenthesized(self) -> Duration {
        if let Form::Computed(ComputedDuration::Paren(_)) = self.form {
            return self;
        }
        let depth = self.depth + 1;
        Duration { form: Form::Computed(ComputedDuration::Paren(self.part())), depth }
    }

    /// As a part of a larger expression, where numbers print as they were written.
    fn part(self) -> DurationExpr {
        match self.form {
            Form::Literal(literal) if literal.as_duration => {
                DurationExpr::Literal(milliseconds(literal.value))
            }
            Form::Literal(literal) => {
                DurationExpr::Computed(Box::new(ComputedDuration::Seconds(literal.value)))
            }
            Form::Computed(duration) => DurationExpr::Computed(Box::new(duration)),
        }
    }

    /// As a whole.
    fn resolve(self) -> DurationExpr {
        match self.form {
            Form::Literal(literal) => DurationExpr::Literal(milliseconds(literal.value)),
            Form::Computed(duration) => DurationExpr::Computed(Box::new(duration)),
        }
    }
}

fn nanoseconds(seconds: f64) -> f64 {
    (seconds * 1e9).round()
}

/// Whole milliseconds of the nanoseconds nearest to that many seconds.
fn milliseconds(seconds: f64) -> i64 {
    nanoseconds(seconds) as i64 / 1_000_000
}
