//! Selectors: names, label matchers, and what follows an operand: ranges, subqueries, `offset`,
//! `@`, `anchored` and `smoothed`.
//!
//! A modifier changes the operand before it. Of a range selector it changes the instant selector
//! inside; the span grows on the outside.

use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::regex::Regex;

use crate::go_format;
use crate::parser::ast::{
    At, BinaryOp, DurationExpr, Modifiers, NodeId, NodeKind, RangeExtension, Span, Subquery,
    UnaryOp, VectorSelector,
};
use crate::parser::grammar::{Parser, unary_op};
use crate::parser::stream::Stop;
use crate::parser::token::{Keyword, Kind, Special};

/// The label that holds the name of a metric.
pub(super) const METRIC_NAME: &str = "__name__";

/// What the patterns of one query may take compiled, or a short text could fill the memory.
pub const PATTERN_BYTES_MAX: usize = 64 << 20;

const RANGE_WITHOUT_SELECTOR: &str = "ranges only allowed for vector selectors";

impl Parser<'_> {
    /// An instant selector whose name, if it has one before its braces, has been taken.
    pub(super) fn selector(&mut self, name: Option<Span>) -> Result<NodeId, Stop> {
        let mut span = name.unwrap_or_default();
        let mut matchers = Vec::new();
        if self.stream.peek() == Kind::LeftBrace {
            let braces;
            (matchers, braces) = self.label_matchers()?;
            let start = name.map_or(braces.start, |name| name.start);
            span = Span { start, end: braces.end };
        }
        let name = name.map_or(String::new(), |name| self.text_of(name));
        if !name.is_empty() {
            matchers.push(Matcher::equal(METRIC_NAME, &*name));
        }
        let modifiers = Modifiers::default();
        let selector = VectorSelector { name, matchers, modifiers };
        Ok(self.push(NodeKind::VectorSelector(selector), span))
    }

    fn label_matchers(&mut self) -> Result<(Vec<Matcher>, Span), Stop> {
        let start = self.stream.shift().span.start;
        let mut matchers = Vec::new();
        let mut separated = true;
        loop {
            let kind = self.stream.peek();
            if kind == Kind::RightBrace {
                let end = self.stream.shift().span.end;
                return Ok((matchers, Span { start, end }));
            }
            if separated {
                match kind {
                    Kind::Identifier => matchers.extend(self.label_matcher()?),
                    Kind::String => matchers.extend(self.quoted_matcher()?),
                    _ => {
                        if !self.stream.refused()? {
                            continue;
                        }
                        self.stream.unexpected("label matching", "identifier or \"}\"");
                    }
                }
                separated = false;
            } else if kind == Kind::Comma {
                self.stream.shift();
                separated = true;
            } else if self.stream.refused()? {
                self.stream.unexpected("label matching", "\",\" or \"}\"");
            }
        }
    }

    fn label_matcher(&mut self) -> Result<Option<Matcher>, Stop> {
        let name = self.stream.shift().span;
        while match_op(self.stream.peek()).is_none() {
            if self.stream.refused()? {
                self.stream.unexpected("label matching", "label matching operator");
                return Ok(None);
            }
        }
        let text = self.text_of(name);
        self.matcher_value(name, text)
    }

    /// A matcher with a quoted label, or a quoted metric name.
    fn quoted_matcher(&mut self) -> Result<Option<Matcher>, Stop> {
        let span = self.stream.shift().span;
        let name = self.unquoted(span);
        match match_op(self.stream.peek()) {
            Some(_) => self.matcher_value(span, name),
            None => Ok(Some(Matcher::equal(METRIC_NAME, name))),
        }
    }

    /// The operator and the value of a matcher for the label `name`, written at `label`.
    fn matcher_value(&mut self, label: Span, name: String) -> Result<Option<Matcher>, Stop> {
        let op = match_op(self.stream.shift().kind);
        while self.stream.peek() != Kind::String {
            if self.stream.refused()? {
                self.stream.unexpected("label matching", "string");
                return Ok(None);
            }
        }
        let value = self.stream.shift().span;
        let text = self.unquoted(value);
        let span = Span { start: label.start, end: value.end };
        match Matcher::new(name, op.unwrap_or(MatchOp::Equal), text) {
            Ok(matcher) => {
                self.pattern_bytes += matcher.regex().map_or(0, Regex::memory_usage);
                if self.pattern_bytes > PATTERN_BYTES_MAX {
                    let limit = PATTERN_BYTES_MAX >> 20;
                    let message = format!("patterns take more than {limit} MiB compiled");
                    self.stream.error(span, message);
                    return Err(Stop::Abort);
                }
                Ok(Some(matcher))
            }
            Err(error) => {
                self.stream.error(span, error.to_string());
                // To find a pattern too large costs as much as a large one.
                if error.is_too_large() { Err(Stop::Abort) } else { Ok(None) }
            }
        }
    }

    fn text_of(&self, span: Span) -> String {
        String::from_utf8_lossy(self.stream.bytes(span)).into_owned()
    }

    /// The value of a string literal. Stored labels are UTF-8, so other bytes match nothing.
    fn unquoted(&self, span: Span) -> String {
        let bytes = go_format::unquote(self.stream.bytes(span)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `[range]`, `[range:]` or `[range:step]` after `operand`.
    pub(super) fn brackets(&mut self, operand: NodeId) -> Result<NodeId, Stop> {
        let open = self.stream.shift().span;
        let range = match self.positive_duration() {
            Ok(range) => range,
            Err(Stop::Unexpected) => {
                let expected = "number, duration, step(), or range()";
                self.stream.unexpected("subquery or range selector", expected);
                return Ok(operand);
            }
            Err(stop @ Stop::Abort) => return Err(stop),
        };
        loop {
            match self.stream.peek() {
                Kind::RightBracket => {
                    let close = self.stream.shift().span;
                    let brackets = Span { start: open.start, end: close.end };
                    return Ok(self.range_selector(operand, range, brackets));
                }
                Kind::Colon => break,
                _ => {
                    if self.stream.refused()? {
                        self.stream.unexpected("subquery or range", "\":\" or \"]\"");
                        return Ok(operand);
                    }
                }
            }
        }
        self.stream.shift();
        self.subquery(operand, range)
    }

    fn range_selector(&mut self, operand: NodeId, range: DurationExpr, brackets: Span) -> NodeId {
        let fault = match &self.node_mut(operand).kind {
            NodeKind::VectorSelector(selector) if selector.modifiers.offset.is_some() => {
                Some("no offset modifiers allowed before range")
            }
            NodeKind::VectorSelector(selector) if selector.modifiers.at.is_some() => {
                Some("no @ modifiers allowed before range")
            }
            NodeKind::VectorSelector(_) => None,
            _ => Some(RANGE_WITHOUT_SELECTOR),
        };
        if let Some(message) = fault {
            self.stream.error(brackets, message);
        }
        let span = Span { start: self.span(operand).start, end: self.stream.last_closing() };
        self.push(NodeKind::MatrixSelector { selector: operand, range }, span)
    }

    /// What follows the colon of a subquery.
    fn subquery(&mut self, operand: NodeId, range: DurationExpr) -> Result<NodeId, Stop> {
        let mut step = None;
        if self.stream.peek() != Kind::RightBracket {
            match self.positive_duration() {
                Ok(duration) => step = Some(duration),
                Err(Stop::Unexpected) => {
                    let expected = "number, duration, step(), range(), or \"]\"";
                    self.stream.unexpected("subquery selector", expected);
                    return Ok(operand);
                }
                Err(stop @ Stop::Abort) => return Err(stop),
            }
        }
        while self.stream.peek() != Kind::RightBracket {
            if self.stream.refused()? {
                self.stream.unexpected("subquery selector", "\"]\"");
                return Ok(operand);
            }
        }
        let end = self.stream.shift().span.end;
        let span = Span { start: self.span(operand).start, end };
        let modifiers = Modifiers::default();
        let subquery = Subquery { expr: operand, range, step, modifiers };
        Ok(self.push(NodeKind::Subquery(subquery), span))
    }

    pub(super) fn offset_modifier(&mut self, operand: NodeId) -> Result<NodeId, Stop> {
        self.stream.shift();
        let offset = match self.offset_duration() {
            Ok(offset) => offset,
            Err(Stop::Unexpected) => {
                self.stream.unexpected("offset", "number, duration, step(), or range()");
                return Ok(operand);
            }
            Err(stop @ Stop::Abort) => return Err(stop),
        };
        let span = self.span(operand);
        match self.modifiers_mut(operand) {
            Ok(modifiers) => {
                if modifiers.offset.is_some() {
                    self.stream.error(span, "offset may not be set multiple times");
                } else {
                    modifiers.offset = offset;
                }
                self.grow(operand);
            }
            Err(fault) => self.stream.error(span, fault.message("offset modifier")),
        }
        Ok(operand)
    }

    pub(super) fn at_modifier(&mut self, operand: NodeId) -> Result<NodeId, Stop> {
        self.stream.shift();
        let at = match self.timestamp(operand) {
            Ok(at) => at,
            Err(Stop::Unexpected) => {
                self.stream.unexpected("@", "timestamp");
                return Ok(operand);
            }
            Err(stop @ Stop::Abort) => return Err(stop),
        };
        let span = self.span(operand);
        match self.modifiers_mut(operand) {
            Ok(modifiers) if modifiers.at.is_some() => {
                self.stream.error(span, "@ <timestamp> may not be set multiple times");
            }
            Ok(modifiers) => {
                modifiers.at = Some(at);
                self.grow(operand);
            }
            Err(fault) => self.stream.error(span, fault.message("@ modifier")),
        }
        Ok(operand)
    }

    /// What follows `@`.
    fn timestamp(&mut self, operand: NodeId) -> Result<At, Stop> {
        let mut sign = UnaryOp::Plus;
        loop {
            match self.stream.peek() {
                Kind::Special(which @ (Special::Start | Special::End)) => {
                    self.stream.shift();
                    self.stream.expect(Kind::LeftParen)?;
                    self.stream.expect(Kind::RightParen)?;
                    return Ok(if which == Special::Start { At::Start } else { At::End });
                }
                Kind::Number | Kind::Duration => break,
                kind @ Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => {
                    sign = unary_op(kind);
                    self.stream.shift();
                    while !matches!(self.stream.peek(), Kind::Number | Kind::Duration) {
                        self.stream.refuse()?;
                    }
                }
                _ => self.stream.refuse()?,
            }
        }
        let value = self.number_literal().value;
        let seconds = if sign == UnaryOp::Minus { -value } else { value };
        let bound = i64::MAX as f64;
        if !(seconds > -bound && seconds < bound) {
            let shown = go_format::float_fixed(seconds, 6);
            let span = self.span(operand);
            self.stream.error(span, format!("timestamp out of bounds for @ modifier: {shown}"));
        }
        Ok(At::TimestampMs(go_int64((seconds * 1000.0).round())))
    }

    /// `anchored` or `smoothed`, which comes next.
    pub(super) fn extension_modifier(&mut self, operand: NodeId) {
        let keyword = self.stream.shift().kind;
        let (extension, word) = match keyword {
            Kind::Keyword(Keyword::Anchored) => (RangeExtension::Anchored, "anchored"),
            _ => (RangeExtension::Smoothed, "smoothed"),
        };
        let span = self.span(operand);
        if !self.options.extended_range_selectors {
            return self
                .stream
                .error(span, format!("{word} modifier is experimental and not enabled"));
        }
        match self.node_mut(operand).kind {
            NodeKind::Subquery(_) => {
                let message = format!("{word} modifier is not supported for subqueries");
                return self.stream.error(span, message);
            }
            NodeKind::VectorSelector(_) | NodeKind::MatrixSelector { .. } => {}
            _ => return self.stream.error(span, format!("{word} modifier not implemented")),
        }
        // A range over something else was an error before.
        let Ok(modifiers) = self.modifiers_mut(operand) else { return };
        let before = modifiers.extension.replace(extension);
        if before.is_some_and(|before| before != extension) {
            self.stream.error(span, "anchored and smoothed modifiers cannot be used together");
        }
    }

    fn modifiers_mut(&mut self, operand: NodeId) -> Result<&mut Modifiers, Unmodifiable> {
        let mut holder = operand;
        let mut fault = Unmodifiable::NoSelector;
        if let NodeKind::MatrixSelector { selector, .. } = &self.node_mut(operand).kind {
            holder = *selector;
            fault = Unmodifiable::RangeOverOther;
        }
        let ranged = holder != operand;
        match &mut self.node_mut(holder).kind {
            NodeKind::VectorSelector(selector) => Ok(&mut selector.modifiers),
            NodeKind::Subquery(subquery) if !ranged => Ok(&mut subquery.modifiers),
            _ => Err(fault),
        }
    }

    /// Lets the span of a modified operand reach to the last token that may close it.
    fn grow(&mut self, operand: NodeId) {
        let end = self.stream.last_closing();
        self.node_mut(operand).span.end = end;
    }
}

/// Why an operand takes no modifier.
#[derive(Clone, Copy)]
enum Unmodifiable {
    NoSelector,
    /// It is a range, but not of a selector.
    RangeOverOther,
}

impl Unmodifiable {
    fn message(self, modifier: &str) -> String {
        match self {
            Unmodifiable::RangeOverOther => RANGE_WITHOUT_SELECTOR.into(),
            Unmodifiable::NoSelector => format!(
                "{modifier} must be preceded by an instant vector selector or range vector \
                 selector or a subquery"
            ),
        }
    }
}

fn match_op(kind: Kind) -> Option<MatchOp> {
    Some(match kind {
        Kind::Assign => MatchOp::Equal,
        Kind::Operator(BinaryOp::NotEqual) => MatchOp::NotEqual,
        Kind::RegexMatch => MatchOp::Regex,
        Kind::RegexNoMatch => MatchOp::NotRegex,
        _ => return None,
    })
}

/// Go's conversion on amd64: what does not fit becomes the least integer.
fn go_int64(value: f64) -> i64 {
    let fits = value >= i64::MIN as f64 && value < i64::MAX as f64;
    if fits { value as i64 } else { i64::MIN }
}
