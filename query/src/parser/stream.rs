//! The tokens of a query with one token of lookahead, and how the parser recovers from errors.
//!
//! The rules are yacc's. A token that fits nowhere is an error, which the nearest construct with
//! an error rule reports; that construct then counts as done. Until [`RECOVERING`] further tokens
//! have been accepted the parser is not sure to be back on its feet: right after an error tokens
//! that do not fit are dropped without a word. Whoever waits for a token loops over
//! [`Stream::refuse`], or over [`Stream::refused`] if it has an error rule.

use crate::parser::ParseError;
use crate::parser::ast::Span;
use crate::parser::lexer::Lexer;
use crate::parser::steps;
use crate::parser::token::{Kind, Token};

/// Errors beyond this many of one query are not kept.
pub(super) const MAX_ERRORS: usize = 20_000;

/// Tokens to be accepted after an error before the next is reported with certainty.
const RECOVERING: u8 = 3;

/// Why a construct was left unfinished.
#[derive(Debug)]
pub(super) enum Stop {
    /// A token does not fit; the nearest error rule reports it.
    Unexpected,
    /// The parse is over.
    Abort,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
    lookahead: Option<Token>,
    /// The token that was read last.
    last: Token,
    /// Nothing is unexpected after an error of the lexer.
    lexer_failed: bool,
    /// Tokens still to be accepted before an error is new; [`RECOVERING`] right after one.
    recovering: u8,
    last_closing: u32,
    pub(super) errors: Vec<ParseError>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(text: &'a [u8]) -> Stream<'a> {
        Stream {
            text,
            lexer: Lexer::new(text),
            lookahead: None,
            last: Token { kind: Kind::Exhausted, span: Span::default() },
            lexer_failed: false,
            recovering: 0,
            last_closing: 0,
            errors: Vec::new(),
        }
    }

    pub(super) fn bytes(&self, span: Span) -> &'a [u8] {
        &self.text[span.start as usize..span.end as usize]
    }

    /// End of the last token read that may close something: a closing bracket of any kind, a
    /// number or a duration.
    pub(super) fn last_closing(&self) -> u32 {
        self.last_closing
    }

    /// The token that comes next, without taking it.
    pub(super) fn peek(&mut self) -> Kind {
        if let Some(token) = self.lookahead {
            return token.kind;
        }
        let token = match self.lexer.next_token() {
            Ok(token) => token,
            Err((span, message)) => {
                self.error(span, message);
                self.lexer_failed = true;
                Token { kind: Kind::Exhausted, span }
            }
        };
        self.lookahead = Some(token);
        if token.kind != Kind::Exhausted {
            self.last = token;
        }
        if matches!(
            token.kind,
            Kind::RightBrace
                | Kind::RightParen
                | Kind::RightBracket
                | Kind::Duration
                | Kind::Number
        ) {
            self.last_closing = token.span.end;
        }
        token.kind
    }

    /// Takes the token that comes next.
    pub(super) fn shift(&mut self) -> Token {
        self.peek();
        self.recovering = self.recovering.saturating_sub(1);
        self.lookahead.take().unwrap_or(self.last)
    }

    /// Takes a token of that kind.
    pub(super) fn expect(&mut self, kind: Kind) -> Result<Token, Stop> {
        while self.peek() != kind {
            self.refuse()?;
        }
        Ok(self.shift())
    }

    /// The next token does not fit. Right after an error it is dropped, and the caller looks at
    /// the next one; otherwise this is an error.
    pub(super) fn refuse(&mut self) -> Result<(), Stop> {
        if self.recovering < RECOVERING {
            self.recovering = RECOVERING;
            return Err(Stop::Unexpected);
        }
        if self.peek() == Kind::Exhausted {
            return Err(Stop::Abort);
        }
        self.lookahead = None;
        Ok(())
    }

    /// Reports the last token.
    pub(super) fn unexpected(&mut self, context: &str, expected: &str) {
        if self.lexer_failed {
            return;
        }
        let Token { kind, span } = self.last;
        let mut message = format!("unexpected {}", kind.describe(self.bytes(span)));
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.error(span, message);
    }

    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            let message = message.into();
            steps::take(message.len());
            self.errors.push(ParseError { span, message });
        }
    }

    /// Drops what is left of the text.
    pub(super) fn drain(&mut self) {
        while !matches!(self.peek(), Kind::Eof | Kind::Exhausted) {
            self.lookahead = None;
        }
    }

    /// [`Lexer::previous_right_paren`], or else where the last token ends that may close something.
    pub(super) fn previous_right_paren(&self) -> u32 {
        self.lexer.previous_right_paren(self.last_closing)
    }

    /// Where the token is that was read last.
    pub(super) fn last_span(&self) -> Span {
        self.last.span
    }

    /// [`Stream::refuse`] for constructs with an error rule of their own: whether to report.
    pub(super) fn refused(&mut self) -> Result<bool, Stop> {
        match self.refuse() {
            Ok(()) => Ok(false),
            Err(Stop::Unexpected) => Ok(true),
            Err(stop @ Stop::Abort) => Err(stop),
        }
    }
}
