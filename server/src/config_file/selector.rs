//! Selectors in a configuration.

use icecore_query::parser::{self, ParserOptions};
use icecore_storage::matcher::{MatchOp, Matcher};
use serde_saphyr::Spanned;

use super::Mistake;
use crate::api::selectors;

/// The matchers of a selector; none where there is no selector.
pub(super) fn selector(text: Option<&Spanned<String>>) -> Result<Vec<Matcher>, Mistake> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let wrong = |reason: String| Mistake::at(text.referenced, format!("match: {reason}"));
    let all_empty = "vector selector must contain at least one non-empty matcher";
    let expr =
        parser::parse(&text.value, ParserOptions::default()).map_err(|errors| {
            match errors.errors.first() {
                Some(error) if error.message == all_empty => {
                    wrong("this selects everything; leave `match` out to say so".into())
                }
                _ => wrong(errors.to_string()),
            }
        })?;
    let matchers = selectors::plain_selector(&expr)
        .ok_or_else(|| wrong(format!("{:?} is not a selector alone", text.value)))?;
    if let Some((one, other)) = contradiction(&matchers) {
        return Err(wrong(format!("no series has {one} and {other}")));
    }
    Ok(matchers)
}

/// Two matchers that no value of a label fulfils both.
fn contradiction(matchers: &[Matcher]) -> Option<(String, String)> {
    let named = Matcher::new("__name__", MatchOp::NotEqual, "").expect("not a pattern");
    let equal = matchers.iter().filter(|matcher| matcher.op() == MatchOp::Equal);
    equal
        .flat_map(|one| matchers.iter().chain([&named]).map(move |other| (one, other)))
        .find(|(one, other)| one.name() == other.name() && !other.matches(one.value()))
        .map(|(one, other)| (one.to_string(), other.to_string()))
}
