//! Matchers: the conditions on labels by which series are selected.
//!
//! A missing label counts as the empty value, so `{zone=""}` finds the series without a zone.
//! Regexes match the whole value and `.` matches newlines, as in Prometheus.

use std::fmt;

use regex_automata::meta::Regex;
use regex_automata::util::syntax;

/// Bounds what one pattern may cost to compile and to keep, in bytes.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    Equal,
    NotEqual,
    Regex,
    NotRegex,
}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        })
    }
}

/// One condition, ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    regex: Option<Regex>,
}

/// A pattern that does not compile.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    message: String,
}

impl Matcher {
    pub fn new(
        name: impl Into<String>,
        op: MatchOp,
        value: impl Into<String>,
    ) -> Result<Matcher, PatternError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(compile(&value)?),
        };
        Ok(Matcher { name: name.into(), op, value, regex })
    }

    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Matcher {
        Matcher { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The value or the pattern as it was written.
    pub fn value(&self) -> &str {
        &self.value
    }

    pub fn matches(&self, value: &str) -> bool {
        match (&self.op, &self.regex) {
            (MatchOp::Equal, _) => self.value == value,
            (MatchOp::NotEqual, _) => self.value != value,
            (MatchOp::Regex, Some(regex)) => regex.is_match(value),
            (MatchOp::NotRegex, Some(regex)) => !regex.is_match(value),
            (MatchOp::Regex | MatchOp::NotRegex, None) => unreachable!("`new` compiles patterns"),
        }
    }

    /// Whether a series without the label passes.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The values that an alternation of literals (`a|b|c`) or a literal pattern names.
    pub fn literals(&self) -> Option<Vec<&str>> {
        match self.op {
            MatchOp::Equal => Some(vec![&self.value]),
            MatchOp::Regex => pattern_literals(&self.value),
            _ => None,
        }
    }

    /// A literal with which every matching value starts, possibly "".
    pub fn prefix(&self) -> &str {
        match self.op {
            MatchOp::Equal => &self.value,
            MatchOp::Regex => pattern_prefix(&self.value),
            _ => "",
        }
    }
}

fn is_special(c: char) -> bool {
    r"\.+*?()[]{}^$".contains(c)
}

/// The only values that a pattern matches, if it can be read off it.
pub(crate) fn pattern_literals(pattern: &str) -> Option<Vec<&str>> {
    (!pattern.contains(is_special)).then(|| pattern.split('|').collect())
}

/// A literal with which every value starts that the pattern matches, possibly "".
pub(crate) fn pattern_prefix(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "";
    }
    let end = pattern.find(is_special).unwrap_or(pattern.len());
    // A repetition binds to the last literal character, which may then be absent.
    match pattern[end..].chars().next() {
        Some('*' | '?' | '{') => {
            let last = pattern[..end].char_indices().last().map_or(0, |(i, _)| i);
            &pattern[..last]
        }
        _ => &pattern[..end],
    }
}

fn compile(pattern: &str) -> Result<Regex, PatternError> {
    let error = |e: &dyn fmt::Display| PatternError {
        message: format!("error parsing regexp: {e}: `{pattern}`"),
    };
    Regex::builder()
        .syntax(syntax::Config::new().dot_matches_new_line(true))
        .configure(Regex::config().nfa_size_limit(Some(REGEX_SIZE_LIMIT)))
        .build(&format!("^(?:{pattern})$"))
        .map_err(|e| match e.syntax_error() {
            Some(e) => error(e),
            None => error(&e),
        })
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Matcher) -> bool {
        (self.op, &self.name, &self.value) == (other.op, &other.name, &other.value)
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str) -> Matcher {
        Matcher::new("l", MatchOp::Regex, pattern).unwrap()
    }

    #[test]
    fn patterns_match_the_whole_value() {
        assert!(regex("a|b").matches("a"));
        assert!(!regex("a|b").matches("ab"));
        assert!(regex("a.*").matches("a\nb"));
        assert!(Matcher::new("l", MatchOp::NotRegex, ".+").unwrap().matches_empty());
    }

    #[test]
    fn literals_and_prefixes_are_read_off_the_pattern() {
        assert_eq!(regex("a|b|").literals(), Some(vec!["a", "b", ""]));
        assert_eq!(regex("a.b").literals(), None);
        assert_eq!(regex("abc.*").prefix(), "abc");
        assert_eq!(regex("abc?d").prefix(), "ab");
        assert_eq!(regex("abc|d").prefix(), "");
    }

    #[test]
    fn a_pattern_that_costs_too_much_is_refused() {
        assert!(Matcher::new("l", MatchOp::Regex, r"(\w{500}){9}").is_err());
    }
}
