//! `match[]`: which series a request for labels is about.

use icecore_query::parser::ast::{Expr, NodeKind};
use icecore_query::parser::{self, PATTERN_BYTES_MAX, ParseErrors, ParserOptions};
use icecore_storage::matcher::Matcher;
use icecore_storage::regex::Regex;

use crate::http::error::ApiError;

/// Matchers of each selector; a series is meant if it fulfils all matchers of any.
pub(crate) fn parse_all<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    options: ParserOptions,
) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let mut all = Vec::new();
    let mut pattern_bytes = 0;
    for text in texts {
        let expr = parser::parse(text, options).map_err(|errors| selector_error(&errors))?;
        let matchers = single_selector(&expr)?;
        let patterns = matchers.iter().filter_map(Matcher::regex);
        pattern_bytes += patterns.map(Regex::memory_usage).sum::<usize>();
        if pattern_bytes > PATTERN_BYTES_MAX {
            let limit = PATTERN_BYTES_MAX >> 20;
            let text = format!("patterns of match[] take more than {limit} MiB compiled");
            return Err(ApiError::bad_data(text));
        }
        all.push(matchers);
    }
    Ok(all)
}

/// A selector that fits series without any label would mean all there are. As a query it is a
/// parse error; as a selector Prometheus has other words for it.
fn selector_error(errors: &ParseErrors) -> ApiError {
    let all_empty = "vector selector must contain at least one non-empty matcher";
    match errors.errors.first() {
        Some(error) if error.message == all_empty => {
            ApiError::bad_data("match[] must contain at least one non-empty matcher")
        }
        _ => ApiError::bad_data(errors.to_string()),
    }
}

fn single_selector(expr: &Expr) -> Result<Vec<Matcher>, ApiError> {
    plain_selector(expr)
        .ok_or_else(|| ApiError::bad_data("match[] must be a vector selector and no more"))
}

/// The matchers of an expression that is a vector selector and no more.
pub(crate) fn plain_selector(expr: &Expr) -> Option<Vec<Matcher>> {
    match &expr.node(expr.root).kind {
        NodeKind::VectorSelector(selector) => {
            let modifiers = &selector.modifiers;
            let bare = modifiers.offset.is_none() && modifiers.at.is_none();
            bare.then(|| selector.matchers.clone())
        }
        _ => None,
    }
}

/// Matchers of every selector within a query.
pub(crate) fn within(expr: &Expr) -> Vec<Vec<Matcher>> {
    let selectors = expr.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::VectorSelector(selector) => Some(selector.matchers.clone()),
        _ => None,
    });
    selectors.collect()
}
