//! Regular expressions in Go's dialect (RE2), which is what Prometheus's users write.
//!
//! Rust's crate has another dialect: there `\d` and `\b` know Unicode, `[a&&b]` and `\<` mean
//! something, `\Q…\E`, octal escapes and `{foo}` do not. So a pattern is read by a parser of our
//! own, with Go's messages, into the intermediate form of `regex-syntax`, and only the automaton is
//! that crate's. Its time is linear in the text that it looks at.
//!
//! A [`Regex`] matches whole values and `.` matches newlines, as in a matcher. Most patterns of
//! dashboards need no automaton: `a|b|c` is a **set** of values, `a.*b|5..` is
//! literals with **gaps**.
//! What a pattern can match at all is its [`Extent`], by which an index finds values without
//! trying each. Groups of a match are asked of a [`CapturingRegex`].

mod class;
mod escape;
mod parser;
mod ranges;
mod shape;
mod unicode;

use regex_automata::meta;
use regex_automata::util::captures::Captures;
use regex_syntax::hir::{Hir, Look};

use shape::{Gap, Gaps};

/// Bounds what one automaton takes before it runs, in bytes.
const AUTOMATON_BYTES_MAX: usize = 10 << 20;

/// A pattern that is none, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {code}: `{text}`")]
pub struct PatternError {
    code: String,
    /// What of the pattern is meant.
    text: String,
}

/// A [`PatternError`] while the pattern is at hand.
#[derive(Debug)]
struct Fault<'p> {
    code: &'static str,
    text: &'p str,
}

impl<'p> Fault<'p> {
    fn new(code: &'static str, text: &'p str) -> Fault<'p> {
        Fault { code, text }
    }
}

impl PatternError {
    /// Whether the pattern is one, but larger than a bound of ours.
    pub fn is_too_large(&self) -> bool {
        self.code.starts_with("expression too large")
    }
}

impl From<Fault<'_>> for PatternError {
    fn from(fault: Fault<'_>) -> PatternError {
        PatternError { code: fault.code.into(), text: fault.text.into() }
    }
}

/// What becomes of the groups of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Groups {
    /// They are asked for.
    Kept,
    /// They only hold together.
    Dropped,
}

/// A pattern that matches whole values.
#[derive(Clone, Debug)]
pub struct Regex {
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// One of these, which are in order.
    Set(Box<[Box<str>]>),
    /// One of these; every match begins with the prefix.
    Gaps {
        prefix: Box<str>,
        alternatives: Box<[Gaps]>,
    },
    Automaton {
        prefix: Box<str>,
        automaton: meta::Regex,
    },
}

/// Which values a [`Regex`] can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent<'a> {
    /// All.
    Everything,
    /// All but the empty one.
    NonEmpty,
    /// Exactly these, in order.
    Values(&'a [Box<str>]),
    /// Only such as start with this, and not all of them.
    Prefix(&'a str),
}

impl Regex {
    pub fn new(pattern: &str) -> Result<Regex, PatternError> {
        let parsed = parser::parse(pattern, Groups::Dropped, true)?;
        let hir = shape::unanchored(parsed.hir);
        if let Some(values) = shape::values(&hir, pattern) {
            return Ok(Regex { form: Form::Set(values) });
        }
        let prefix = shape::prefix(&hir);
        if let Some(alternatives) = Gaps::all(&hir) {
            return Ok(Regex { form: Form::Gaps { prefix, alternatives } });
        }
        let automaton = compile(pattern, hir)?;
        Ok(Regex { form: Form::Automaton { prefix, automaton } })
    }

    pub fn is_match(&self, value: &str) -> bool {
        match &self.form {
            Form::Set(values) => values.binary_search_by(|known| (**known).cmp(value)).is_ok(),
            Form::Gaps { alternatives, .. } => alternatives.iter().any(|gaps| gaps.matches(value)),
            Form::Automaton { prefix, automaton } => {
                shape::starts_with(value, prefix) && automaton.is_match(value)
            }
        }
    }

    pub fn extent(&self) -> Extent<'_> {
        match &self.form {
            Form::Set(values) => Extent::Values(values),
            Form::Gaps { prefix, alternatives } => match alternatives.iter().find_map(Gaps::only) {
                Some(Gap::ANY) => Extent::Everything,
                Some(Gap::NOT_EMPTY) if alternatives.len() == 1 => Extent::NonEmpty,
                _ => Extent::Prefix(prefix),
            },
            Form::Automaton { prefix, .. } => Extent::Prefix(prefix),
        }
    }

    /// Bytes on the heap, without what matching keeps for later.
    pub fn memory_usage(&self) -> usize {
        match &self.form {
            Form::Set(values) => {
                values.iter().map(|value| size_of::<Box<str>>() + value.len()).sum()
            }
            Form::Gaps { alternatives, .. } => size_of_val(&**alternatives),
            Form::Automaton { automaton, .. } => automaton.memory_usage(),
        }
    }
}

/// A pattern that matches whole values and says what its groups matched.
#[derive(Clone, Debug)]
pub struct CapturingRegex {
    automaton: meta::Regex,
    /// In order; the first is that of the whole match. Several groups may share a name.
    group_names: Vec<Option<Box<str>>>,
}

impl CapturingRegex {
    pub fn new(pattern: &str) -> Result<CapturingRegex, PatternError> {
        // Go puts the pattern between the anchors before it reads it. So `a)(b` is a pattern here.
        let wrapped = format!("^(?s:{pattern})$");
        let parsed = parser::parse(&wrapped, Groups::Kept, false)?;
        let automaton = compile(&wrapped, parsed.hir)?;
        Ok(CapturingRegex { automaton, group_names: parsed.group_names })
    }

    /// Room for the groups of a match.
    pub fn create_captures(&self) -> Captures {
        self.automaton.create_captures()
    }

    /// Fills in the groups; whether there is a match.
    pub fn captures(&self, value: &str, captures: &mut Captures) -> bool {
        self.automaton.captures(value, captures);
        captures.is_match()
    }

    /// Numbers of the groups of that name, in order.
    pub fn groups_named(&self, name: &str) -> impl Iterator<Item = usize> {
        let named = move |group: &Option<Box<str>>| group.as_deref() == Some(name);
        self.group_names.iter().enumerate().filter(move |(_, group)| named(group)).map(|(at, _)| at)
    }
}

fn compile(pattern: &str, hir: Hir) -> Result<meta::Regex, PatternError> {
    let anchored = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
    // No prefilter helps a search that can start at one place only.
    let config =
        meta::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX)).auto_prefilter(false);
    let automaton = meta::Builder::new().configure(config).build_from_hir(&anchored);
    automaton.map_err(|error| {
        let code = match error.size_limit() {
            Some(bytes) => format!("expression too large (at most {} MiB compiled)", bytes >> 20),
            None => error.to_string(),
        };
        PatternError { code, text: pattern.into() }
    })
}

#[cfg(test)]
mod tests;
