//! What an evaluation is expected to give: a value, and a word on errors and annotations.

use icecore_query::engine::Answer;
use icecore_query::parser::ast::NodeKind;
use icecore_query::parser::{self, ParserOptions};
use icecore_storage::regex::Regex;

use crate::script::take_times;
use crate::series::Series;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Fail,
    Warn,
    NoWarn,
    Info,
    NoInfo,
}

#[derive(Clone, Debug)]
pub(crate) enum Text {
    Any,
    Exactly(String),
    Matching(Regex),
}

/// Whether positions in annotations are compared: a query that was printed anew has others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    Compared,
    Ignored,
}

impl Text {
    fn matches(&self, actual: &str, positions: Positions) -> bool {
        match self {
            Text::Any => true,
            Text::Exactly(wanted) if positions == Positions::Ignored => {
                without_position(wanted) == without_position(actual)
            }
            Text::Exactly(wanted) => wanted == actual,
            Text::Matching(regex) => regex.is_match(actual),
        }
    }
}

/// An annotation without the `(line:column)` at its end.
fn without_position(text: &str) -> &str {
    let is_position = |end: &str| {
        let end = end.strip_suffix(')').and_then(|end| end.split_once(':'));
        end.is_some_and(|(line, column)| [line, column].iter().all(|n| n.parse::<u32>().is_ok()))
    };
    match text.rsplit_once(" (") {
        Some((before, end)) if is_position(end) => before,
        _ => text,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) ordered: bool,
    about: Vec<(Topic, Text)>,
    pub(crate) string: Option<Vec<u8>>,
    /// Of `expect range vector`: start, end and step.
    pub(crate) range_vector: Option<[i64; 3]>,
    pub(crate) scalar: Option<f64>,
    /// Each series once, in the order written.
    pub(crate) series: Vec<Series>,
}

/// The lines after an `eval`; `word` is the command, which may say the like itself.
pub(crate) fn parse_expected(
    word: &str,
    lines: &[&str],
    parse_series: impl Fn(&str) -> Result<Series, String>,
) -> Result<Expected, String> {
    let mut expected = Expected::default();
    match word {
        "eval" => {}
        "eval_ordered" => expected.ordered = true,
        "eval_fail" => expected.about.push((Topic::Fail, Text::Any)),
        "eval_warn" => expected.about.push((Topic::Warn, Text::Any)),
        "eval_info" => expected.about.push((Topic::Info, Text::Any)),
        _ => return Err(format!("unknown command: {word}")),
    }
    for line in lines {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match first {
            "expect" => expected.parse(rest)?,
            "expected_fail_message" => {
                expected.about.push((Topic::Fail, Text::Exactly(rest.into())));
            }
            "expected_fail_regexp" => expected.about.push((Topic::Fail, matching(rest)?)),
            _ => match number(line) {
                Some(value) => expected.scalar = Some(value),
                None => expected.set(parse_series(line)?),
            },
        }
    }
    expected.check()?;
    Ok(expected)
}

impl Expected {
    /// What follows `expect`.
    fn parse(&mut self, text: &str) -> Result<(), String> {
        if let Some(times) = text.strip_prefix("range vector ") {
            let (times, _) = take_times(times.trim_start(), ["from", "to", "step"])?;
            self.range_vector = Some(times);
            return Ok(());
        }
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let topic = match word {
            "string" => {
                self.string = Some(unquoted(rest)?);
                return Ok(());
            }
            "ordered" => {
                self.ordered = true;
                return Ok(());
            }
            "fail" => Topic::Fail,
            "warn" => Topic::Warn,
            "no_warn" => Topic::NoWarn,
            "info" => Topic::Info,
            "no_info" => Topic::NoInfo,
            _ => return Err(format!("unknown expectation: {text}")),
        };
        let wanted = if let Some(message) = rest.strip_prefix("msg:") {
            Text::Exactly(message.trim().into())
        } else if let Some(pattern) = rest.strip_prefix("regex:") {
            matching(pattern.trim())?
        } else if rest.is_empty() {
            Text::Any
        } else {
            return Err(format!("neither msg nor regex: {text}"));
        };
        self.about.push((topic, wanted));
        Ok(())
    }

    fn set(&mut self, series: Series) {
        self.series.retain(|known| known.labels != series.labels);
        self.series.push(series);
    }

    fn check(&self) -> Result<(), String> {
        let has = |topic| self.about(topic).next().is_some();
        for (some, none) in [(Topic::Warn, Topic::NoWarn), (Topic::Info, Topic::NoInfo)] {
            if has(some) && has(none) {
                return Err(format!("{some:?} and {none:?} at once"));
            }
        }
        Ok(())
    }

    fn about(&self, topic: Topic) -> impl Iterator<Item = &Text> {
        self.about.iter().filter(move |(about, _)| *about == topic).map(|(_, text)| text)
    }

    pub(crate) fn fails(&self) -> bool {
        self.about(Topic::Fail).next().is_some()
    }

    /// Whether this error is the one that was expected.
    pub(crate) fn check_error(&self, error: &str) -> Result<(), String> {
        match self.about(Topic::Fail).find(|text| !text.matches(error, Positions::Compared)) {
            _ if !self.fails() => Err(format!("failed: {error}")),
            None => Ok(()),
            Some(wanted) => Err(format!("wanted the error {wanted:?}, is {error}")),
        }
    }

    pub(crate) fn check_annotations(
        &self,
        answer: &Answer,
        positions: Positions,
    ) -> Result<(), String> {
        self.check_kind(Topic::Warn, Topic::NoWarn, &answer.warnings, positions)?;
        self.check_kind(Topic::Info, Topic::NoInfo, &answer.infos, positions)
    }

    /// Where some are named, each of them must be there and no other.
    fn check_kind(
        &self,
        some: Topic,
        none: Topic,
        actual: &[String],
        positions: Positions,
    ) -> Result<(), String> {
        if self.about(none).next().is_some() && !actual.is_empty() {
            return Err(format!("should have no {some:?}, but has {actual:?}"));
        }
        if self.about(some).next().is_none() {
            return Ok(());
        }
        let matches = |text: &Text, one: &String| text.matches(one, positions);
        let unmet = self.about(some).any(|text| !actual.iter().any(|one| matches(text, one)));
        let excess = actual.iter().any(|one| !self.about(some).any(|text| matches(text, one)));
        match unmet || excess {
            false => Ok(()),
            true => {
                let wanted: Vec<&Text> = self.about(some).collect();
                Err(format!("wanted {some:?} {wanted:?}, but has {actual:?}"))
            }
        }
    }
}

/// A pattern of Go's, that may match anywhere.
fn matching(pattern: &str) -> Result<Text, String> {
    let regex = Regex::new(&format!(".*(?:{pattern}).*"));
    regex.map(Text::Matching).map_err(|error| format!("{pattern}: {error}"))
}

/// A string literal without its quotes.
fn unquoted(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("not a string in quotes: {text}");
    let expr = parser::parse(text, ParserOptions::ALL).map_err(|_| bad())?;
    match &expr.node(expr.root).kind {
        NodeKind::String { value } => Ok(value.clone()),
        _ => Err(bad()),
    }
}

/// A number alone on its line; `0x`, `0o` and `0b` are understood.
fn number(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, text),
    };
    let bases = [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)];
    for (prefix, base) in bases {
        if let Some(digits) = digits.strip_prefix(prefix) {
            return Some(sign * i64::from_str_radix(digits, base).ok()? as f64);
        }
    }
    text.parse().ok()
}

#[test]
fn lines_after_an_eval_say_what_is_wanted() {
    let parse =
        |word: &str, lines: &[&str]| parse_expected(word, lines, crate::series::parse_series);
    let expected = parse("eval_fail", &["expected_fail_message too many"]).unwrap();
    assert!(expected.check_error("too many").is_ok() && expected.check_error("other").is_err());
    let expected = parse("eval", &["expect fail regex: ^too"]).unwrap();
    assert!(expected.check_error("too many").is_ok() && expected.check_error("much").is_err());
    let braces = parse("eval", &["expect fail regex: group {.*} on"]).unwrap();
    assert!(braces.check_error("a group {b} on c").is_ok());
    assert!(parse("eval", &["1"]).unwrap().check_error("x").is_err());
    assert_eq!(parse("eval", &["-0x1F"]).unwrap().scalar, Some(-31.0));
    assert_eq!(parse("eval", &["expect string \"a\\n\""]).unwrap().string.unwrap(), b"a\n");
    let range = parse("eval", &["expect range vector from 10s to 1m step 10s", "m 1 2"]).unwrap();
    assert_eq!(range.range_vector, Some([10_000, 60_000, 10_000]));
    assert!(parse("eval", &["expect warn", "expect no_warn"]).is_err());
    assert!(parse("eval", &["expect nothing"]).is_err());
}

#[test]
fn annotations_must_be_those_that_are_named() {
    let check = |lines: &[&str], actual: &[&str]| {
        let expected = parse_expected("eval", lines, crate::series::parse_series).unwrap();
        let actual: Vec<String> = actual.iter().map(|text| (*text).into()).collect();
        expected.check_kind(Topic::Warn, Topic::NoWarn, &actual, Positions::Compared).is_ok()
    };
    assert!(check(&[], &["a"]));
    assert!(!check(&["expect no_warn"], &["a"]));
    assert!(!check(&["expect warn"], &[]) && check(&["expect warn"], &["a", "b"]));
    assert!(!check(&["expect warn msg: a"], &["a", "b"]));
    assert!(check(&["expect warn msg: a", "expect warn regex: ^b"], &["a", "b"]));
    assert!(!check(&["expect warn msg: a", "expect warn msg: b"], &["a"]));
}

#[test]
fn positions_may_be_ignored() {
    let text = Text::Exactly("PromQL info: a (b) (1:22)".into());
    assert!(text.matches("PromQL info: a (b) (1:31)", Positions::Ignored));
    assert!(!text.matches("PromQL info: a (b) (1:31)", Positions::Compared));
    assert!(!text.matches("PromQL info: a (c) (1:22)", Positions::Ignored));
}
