//! What stands between a binary operator and its right operand: `bool`, how series match, what
//! fills gaps; and the lists of labels that matching and grouping share.

use crate::go_format;
use crate::parser::ast::{BinaryOp, Cardinality, Matching, Span, UnaryOp};
use crate::parser::grammar::{Parser, unary_op};
use crate::parser::stream::Stop;
use crate::parser::token::{Keyword, Kind};

#[derive(Debug, Default)]
pub(super) struct BinaryModifiers {
    pub(super) return_bool: bool,
    /// Present between any operands; the check of types drops it where it has no place.
    pub(super) matching: Matching,
}

impl Parser<'_> {
    pub(super) fn binary_modifiers(&mut self) -> Result<BinaryModifiers, Stop> {
        let mut modifiers = BinaryModifiers::default();
        if self.stream.peek() == Kind::Keyword(Keyword::Bool) {
            self.stream.shift();
            modifiers.return_bool = true;
        }
        let matching = &mut modifiers.matching;
        if let Kind::Keyword(keyword @ (Keyword::On | Keyword::Ignoring)) = self.stream.peek() {
            self.stream.shift();
            matching.on = keyword == Keyword::On;
            matching.labels = self.grouping_labels()?;
            if let Kind::Keyword(side @ (Keyword::GroupLeft | Keyword::GroupRight)) =
                self.stream.peek()
            {
                self.stream.shift();
                matching.cardinality = match side {
                    Keyword::GroupLeft => Cardinality::ManyToOne,
                    _ => Cardinality::OneToMany,
                };
                matching.include = self.optional_grouping_labels()?;
            }
        }
        self.fill_modifiers(matching)?;
        Ok(modifiers)
    }

    fn fill_modifiers(&mut self, matching: &mut Matching) -> Result<(), Stop> {
        match self.stream.peek() {
            Kind::Keyword(Keyword::Fill) => {
                let value = Some(self.fill_value()?);
                (matching.fill_left, matching.fill_right) = (value, value);
            }
            Kind::Keyword(Keyword::FillLeft) => {
                matching.fill_left = Some(self.fill_value()?);
                if self.stream.peek() == Kind::Keyword(Keyword::FillRight) {
                    matching.fill_right = Some(self.fill_value()?);
                }
            }
            Kind::Keyword(Keyword::FillRight) => {
                matching.fill_right = Some(self.fill_value()?);
                if self.stream.peek() == Kind::Keyword(Keyword::FillLeft) {
                    matching.fill_left = Some(self.fill_value()?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn fill_value(&mut self) -> Result<f64, Stop> {
        self.stream.shift();
        self.stream.expect(Kind::LeftParen)?;
        let mut sign = UnaryOp::Plus;
        loop {
            match self.stream.peek() {
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
        self.stream.expect(Kind::RightParen)?;
        Ok(if sign == UnaryOp::Minus { -value } else { value })
    }

    /// `(a, b)` after `group_left` or `group_right`, where it may be left out.
    fn optional_grouping_labels(&mut self) -> Result<Vec<String>, Stop> {
        let fill = [Keyword::Fill, Keyword::FillLeft, Keyword::FillRight].map(Kind::Keyword);
        let kind = self.stream.peek();
        if kind == Kind::LeftParen {
            return self.grouping_labels();
        }
        if kind.begins_expression() || fill.contains(&kind) {
            return Ok(Vec::new());
        }
        self.grouping_labels()
    }

    /// `(a, b)` after `by`, `without`, `on` and the like.
    pub(super) fn grouping_labels(&mut self) -> Result<Vec<String>, Stop> {
        while self.stream.peek() != Kind::LeftParen {
            if self.stream.refused()? {
                self.stream.unexpected("grouping opts", "\"(\"");
                return Ok(Vec::new());
            }
        }
        self.stream.shift();
        let mut labels = Vec::new();
        let mut separated = true;
        loop {
            let kind = self.stream.peek();
            if kind == Kind::RightParen {
                self.stream.shift();
                return Ok(labels);
            }
            if separated {
                if let Some(label) = self.grouping_label(kind)? {
                    labels.push(label);
                    separated = false;
                }
            } else if kind == Kind::Comma {
                self.stream.shift();
                separated = true;
            } else if self.stream.refused()? {
                self.stream.unexpected("grouping opts", "\",\" or \")\"");
            }
        }
    }

    /// One label; `None` where a token was dropped instead.
    fn grouping_label(&mut self, kind: Kind) -> Result<Option<String>, Stop> {
        if kind.is_label_name() {
            let span = self.stream.shift().span;
            return Ok(Some(String::from_utf8_lossy(self.stream.bytes(span)).into_owned()));
        }
        if kind == Kind::String {
            let span = self.stream.shift().span;
            return Ok(Some(self.quoted_label(span)));
        }
        if self.stream.refused()? {
            self.stream.unexpected("grouping opts", "label");
            return Ok(Some(String::new()));
        }
        Ok(None)
    }

    fn quoted_label(&mut self, span: Span) -> String {
        let bytes = go_format::unquote(self.stream.bytes(span)).unwrap_or_default();
        match String::from_utf8(bytes) {
            Ok(label) if !label.is_empty() => label,
            other => {
                let bytes = other.map_or_else(|e| e.into_bytes(), String::into_bytes);
                let quoted = go_format::quote(&bytes);
                self.stream.error(span, format!("invalid label name for grouping: {quoted}"));
                String::new()
            }
        }
    }
}
