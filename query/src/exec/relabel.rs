//! `label_replace` and `label_join`: functions on series, not on samples.

use icecore_storage::labels::METRIC_NAME;
use icecore_storage::regex::CapturingRegex;
use regex_automata::util::captures::Captures;

use crate::engine::QueryError;
use crate::exec::rows::Rows;
use crate::exec::{Budget, label_edit};

/// What a series costs, in cells.
const COST: usize = 64;

fn error(text: String) -> QueryError {
    QueryError::Execution(text)
}

/// A label name must be UTF-8 and not empty.
fn label_name<'a>(bytes: &'a [u8], which: &str, function: &str) -> Result<&'a str, QueryError> {
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => {
            let name = String::from_utf8_lossy(bytes);
            Err(error(format!("invalid {which} label name in {function}(): {name}")))
        }
    }
}

/// `label_replace(v, destination, replacement, source, pattern)`.
pub(crate) fn replace(
    mut rows: Rows,
    arguments: [&[u8]; 4],
    budget: &Budget,
) -> Result<Rows, QueryError> {
    let [destination, replacement, source, pattern] = arguments;
    let pattern_text = String::from_utf8_lossy(pattern);
    let text = std::str::from_utf8(pattern).ok();
    let regex = text.and_then(|text| CapturingRegex::new(text).ok()).ok_or_else(|| {
        error(format!("invalid regular expression in label_replace(): {pattern_text}"))
    })?;
    let destination = label_name(destination, "destination", "label_replace")?;
    let replacement = String::from_utf8_lossy(replacement);
    let source = String::from_utf8_lossy(source);
    let mut captures = regex.create_captures();
    let mut pace = budget.pace();
    for meta in &mut rows.meta {
        pace.step(COST)?;
        let value = meta.labels.get(&source).unwrap_or("").to_owned();
        if !regex.captures(&value, &mut captures) {
            continue;
        }
        let new = expand(&replacement, &value, &regex, &captures);
        meta.labels = label_edit::with(&meta.labels, destination, &new);
        if destination == METRIC_NAME {
            meta.drop_name = false;
        }
    }
    rows.unify(budget)
}

/// Go's `Regexp.Expand`: `$1`, `$name`, `${name}`, `$$`. A name is as long as it can be; one that
/// is no group stands for nothing.
fn expand(template: &str, value: &str, regex: &CapturingRegex, captures: &Captures) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(rest) {
            let group = match number(name) {
                Some(index) => captures.get_group(index),
                None => regex.groups_named(name).find_map(|index| captures.get_group(index)),
            };
            out.push_str(group.map_or("", |span| &value[span.range()]));
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The number of a group; none has a zero in front.
fn number(name: &str) -> Option<usize> {
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    let zero_in_front = name.len() > 1 && name.starts_with('0');
    (digits && !zero_in_front).then(|| name.parse().ok()).flatten()
}

/// The name that a text after `$` begins with, and what follows.
fn reference(text: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c == '_' || c.is_alphanumeric();
    let (inner, braced) = match text.strip_prefix('{') {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let end = inner.find(|c| !is_name(c)).unwrap_or(inner.len());
    let (name, after) = inner.split_at(end);
    if name.is_empty() {
        return None;
    }
    match braced {
        true => after.strip_prefix('}').map(|after| (name, after)),
        false => Some((name, after)),
    }
}

/// `label_join(v, destination, separator, sources…)`.
pub(crate) fn join(
    mut rows: Rows,
    arguments: &[&[u8]],
    budget: &Budget,
) -> Result<Rows, QueryError> {
    let [destination, separator, sources @ ..] = arguments else {
        return Err(error("label_join() needs a destination and a separator".into()));
    };
    let sources = sources
        .iter()
        .map(|source| label_name(source, "source", "label_join"))
        .collect::<Result<Vec<&str>, QueryError>>()?;
    let destination = label_name(destination, "destination", "label_join")?;
    let separator = String::from_utf8_lossy(separator);
    let mut pace = budget.pace();
    for meta in &mut rows.meta {
        pace.step(COST)?;
        let values: Vec<&str> =
            sources.iter().map(|source| meta.labels.get(source).unwrap_or("")).collect();
        let joined = values.join(&separator);
        meta.labels = label_edit::with(&meta.labels, destination, &joined);
        if destination == METRIC_NAME {
            meta.drop_name = false;
        }
    }
    rows.unify(budget)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(template: &str) -> String {
        let regex = CapturingRegex::new("(a+)(?P<rest>.*)").unwrap();
        let mut captures = regex.create_captures();
        assert!(regex.captures("aab", &mut captures));
        expand(template, "aab", &regex, &captures)
    }

    #[test]
    fn references_are_expanded_as_in_go() {
        assert_eq!(expanded("$1-${rest}$$"), "aa-b$");
        assert_eq!(expanded("$1x"), "");
        assert_eq!(expanded("${1}x"), "aax");
        assert_eq!(expanded("$9|$none|$ |${"), "||$ |${");
        assert_eq!(expanded("$01|$0"), "|aab");
    }
}
