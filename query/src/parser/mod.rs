//! Query text to [`ast::Expr`] and back.
//!
//! [`parse`] accepts the grammar of Prometheus 3.14 and reports what Prometheus reports: the same
//! messages at the same bytes. The [`lexer`] cuts the text, the [`grammar`] builds the tree, and
//! only where both are content does [`check`] look at types. [`print`] writes a tree on one line,
//! [`pretty`] over several. Nothing here recurses with the depth of a query; time is linear in its
//! length.

pub mod ast;
mod check;
mod durations;
mod grammar;
mod lexer;
mod matching;
mod pretty;
mod print;
mod selectors;
mod steps;
mod stream;
mod token;

use std::fmt;

use ast::{Expr, Span};
use icecore_storage::matcher::Matcher;

pub use pretty::prettify;
pub use selectors::PATTERN_BYTES_MAX;

/// Which gated parts of the grammar are on. The default is that of a Prometheus 3.14 server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParserOptions {
    pub experimental_functions: bool,
    pub extended_range_selectors: bool,
    pub binop_fill_modifiers: bool,
}

impl ParserOptions {
    /// Everything on, as Prometheus's own tests have it.
    pub const ALL: ParserOptions = ParserOptions {
        experimental_functions: true,
        extended_range_selectors: true,
        binop_fill_modifiers: true,
    };
}

/// One thing wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub span: Span,
    pub message: String,
}

/// All that is wrong with a query, in Prometheus's order; never empty. Displays as Prometheus's
/// `line:column: parse error: message` of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseErrors {
    /// The query; where its bytes are not UTF-8, U+FFFD stands for them.
    pub text: String,
    pub errors: Vec<ParseError>,
    /// Line and column of the first error, of the bytes as they came.
    place: String,
}

impl ParseErrors {
    fn new(text: &[u8], errors: Vec<ParseError>) -> ParseErrors {
        let place = errors.first().map_or(String::new(), |first| place(text, first.span.start));
        ParseErrors { text: String::from_utf8_lossy(text).into_owned(), errors, place }
    }
}

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.errors.first().map_or("", |first| &first.message);
        write!(f, "{}: parse error: {message}", self.place)
    }
}

impl std::error::Error for ParseErrors {}

/// A byte offset as Prometheus shows it: `line:column`, both from 1, the column in bytes.
pub fn place(text: &[u8], start: u32) -> String {
    if text.is_empty() {
        return "unknown position".into();
    }
    let Some(before) = text.get(..start as usize) else {
        return "invalid position".into();
    };
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    format!("{line}:{}", before.len() - line_start + 1)
}

/// Parses and type-checks a query.
pub fn parse(text: &str, options: ParserOptions) -> Result<Expr, ParseErrors> {
    parse_bytes(text.as_bytes(), options)
}

/// [`parse`] for text that may not be UTF-8; such text is an error wherever it matters, that is
/// outside comments.
pub fn parse_bytes(text: &[u8], options: ParserOptions) -> Result<Expr, ParseErrors> {
    let (mut expr, mut errors) = grammar::parse(text, options);
    if errors.is_empty() {
        errors = check::check(text, &mut expr);
    }
    match errors.is_empty() {
        true => Ok(expr),
        false => Err(ParseErrors::new(text, errors)),
    }
}

/// The matchers of one instant selector, as `match[]` of the API has them. They may select
/// everything.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseErrors> {
    let (matchers, errors) = grammar::parse_selector(text.as_bytes());
    match errors.is_empty() {
        true => Ok(matchers),
        false => Err(ParseErrors::new(text.as_bytes(), errors)),
    }
}
