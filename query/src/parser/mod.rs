//! Query text to [`ast::Expr`] and back.

pub mod ast;

use ast::{Expr, Span};

/// Which gated parts of the grammar are on. The default is that of a Prometheus 3.14 server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParserOptions {
    pub experimental_functions: bool,
    pub extended_range_selectors: bool,
    pub binop_fill_modifiers: bool,
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
    pub text: String,
    pub errors: Vec<ParseError>,
}

/// Parses and type-checks a query.
pub fn parse(text: &str, options: ParserOptions) -> Result<Expr, ParseErrors> {
    let _ = options;
    let error = ParseError { span: Span::default(), message: "not built yet".into() };
    Err(ParseErrors { text: text.to_owned(), errors: vec![error] })
}
