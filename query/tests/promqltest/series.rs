//! A line of a script that describes a series: its labels, then its values step by step.
//!
//! Values are `_` (none), `stale`, numbers and histograms; `xN` repeats, `a+bxN` and `a-bxN` count
//! up and down. A line `labels@st offsets` gives start timestamps to the samples of the next line.

use icecore_query::histogram::FloatHistogram;
use icecore_query::parser;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::MatchOp;
use icecore_storage::metrics::histogram::Histogram;
use icecore_storage::metrics::sample::stale_nan;

use crate::histogram::{stored, take_histogram};

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Float(f64),
    Histogram {
        histogram: Histogram,
        /// The script says what the counter reset hint is.
        hint_written: bool,
    },
}

/// A series and its values at 0, 1, 2 … steps.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) values: Vec<Option<Value>>,
}

/// A line `labels@st offsets`, without labels for all the lines that follow it.
#[derive(Clone, Debug)]
pub(crate) struct StartTimestamps {
    pub(crate) labels: Option<Labels>,
    /// From each sample's own timestamp to its start timestamp, in ms.
    pub(crate) offsets_ms: Vec<Option<i64>>,
}

impl StartTimestamps {
    /// `None` if this is no such line.
    pub(crate) fn parse(line: &str) -> Option<Result<StartTimestamps, String>> {
        let (head, offsets) = line.split_once([' ', '\t'])?;
        let written = head.strip_suffix("@st")?;
        Some(StartTimestamps::parse_parts(written, offsets))
    }

    fn parse_parts(written: &str, offsets: &str) -> Result<StartTimestamps, String> {
        let labels = match written.is_empty() {
            true => None,
            false => Some(parse_labels(written)?),
        };
        let mut offsets_ms = Vec::new();
        for item in offsets.split_whitespace() {
            let last = offsets_ms.iter().rev().find_map(|offset| *offset).unwrap_or(0);
            take_offsets(item, last, &mut offsets_ms)
                .ok_or_else(|| format!("not a start timestamp: {item}"))?;
        }
        Ok(StartTimestamps { labels, offsets_ms })
    }
}

/// `_`, `_xN`, `*`, `*xN` (as before), `-1m`, `-1mxN` or `-1m+30sxN`.
fn take_offsets(item: &str, last: i64, offsets: &mut Vec<Option<i64>>) -> Option<()> {
    let (start, delta, rest) = if let Some(rest) = item.strip_prefix('_') {
        let (count, rest) = repetitions(rest, 1, 0)?;
        offsets.extend(std::iter::repeat_n(None, count));
        return rest.is_empty().then_some(());
    } else if let Some(rest) = item.strip_prefix('*') {
        (last, 0, rest)
    } else {
        let (start, rest) = take_signed_duration(item)?;
        match rest.chars().next() {
            Some(sign @ ('+' | '-')) => {
                let (delta, rest) = take_signed_duration(&rest[1..])?;
                (start, if sign == '-' { -delta } else { delta }, rest)
            }
            _ => (start, 0, rest),
        }
    };
    let (count, rest) = repetitions(rest, 1, 1)?;
    offsets.extend((0..count as i64).map(|index| Some(start + index * delta)));
    rest.is_empty().then_some(())
}

fn take_signed_duration(text: &str) -> Option<(i64, &str)> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| c == 'x' || !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    Some((sign * duration_ms(&text[..end])?, &text[end..]))
}

/// `1h30m` in ms.
pub(crate) fn duration_ms(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
        ("w", 604_800_000),
        ("y", 31_536_000_000),
    ];
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: i64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, ms) = UNITS.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += count * ms;
    }
    (!text.is_empty()).then_some(total)
}

/// `name{label="value", …} values…`
pub(crate) fn parse_series(line: &str) -> Result<Series, String> {
    let (labels, values) = line.split_at(labels_end(line));
    let labels = parse_labels(labels)?;
    let values = parse_values(values.trim()).ok_or_else(|| format!("bad values: {line}"))?;
    Ok(Series { labels, values })
}

/// Where the labels of a line end: after the closing brace, or at the first space.
fn labels_end(line: &str) -> usize {
    let name_end = line.find(|c: char| c == '{' || c.is_whitespace()).unwrap_or(line.len());
    if !line[name_end..].starts_with('{') || line[name_end..].starts_with("{{") {
        return name_end;
    }
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in line[name_end..].char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(open) if c == '\\' && open != '`' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if "\"'`".contains(c) => quote = Some(c),
            None if c == '}' => return name_end + at + 1,
            None => {}
        }
    }
    line.len()
}

fn parse_labels(text: &str) -> Result<Labels, String> {
    if text.is_empty() {
        return Ok(Labels::empty());
    }
    let matchers = parser::parse_selector(text).map_err(|error| error.to_string())?;
    if matchers.iter().any(|matcher| matcher.op() != MatchOp::Equal) {
        return Err(format!("not labels: {text}"));
    }
    let pairs = matchers.iter().map(|matcher| (matcher.name(), matcher.value()));
    Labels::from_pairs(pairs).map_err(|error| error.to_string())
}

fn parse_values(text: &str) -> Option<Vec<Option<Value>>> {
    let mut values = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let after = if let Some(after) = rest.strip_prefix('_') {
            let (count, after) = repetitions(after, 1, 0)?;
            values.extend(std::iter::repeat_n(None, count));
            after
        } else if let Some(after) = rest.strip_prefix("stale") {
            let (count, after) = repetitions(after, 1, 1)?;
            values.extend(std::iter::repeat_n(Some(Value::Float(stale_nan())), count));
            after
        } else if rest.starts_with("{{") {
            take_histograms(rest, &mut values)?
        } else {
            take_numbers(rest, &mut values)?
        };
        rest = after.trim_start();
    }
    Some(values)
}

/// `xN` or nothing: how often, with `more` added to N.
fn repetitions(text: &str, without: usize, more: usize) -> Option<(usize, &str)> {
    let Some(after) = text.strip_prefix('x') else { return Some((without, text)) };
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    Some((after[..end].parse::<usize>().ok()? + more, &after[end..]))
}

fn take_numbers<'a>(text: &'a str, values: &mut Vec<Option<Value>>) -> Option<&'a str> {
    let (start, rest) = number_prefix(text)?;
    let (delta, rest) = match rest.starts_with(['+', '-']) {
        true => number_prefix(rest)?,
        false => (0.0, rest),
    };
    let (count, rest) = repetitions(rest, 1, 1)?;
    let mut value = start;
    for _ in 0..count {
        values.push(Some(Value::Float(value)));
        value += delta;
    }
    Some(rest)
}

/// The number that a text starts with.
pub(crate) fn number_prefix(text: &str) -> Option<(f64, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    for (word, value) in [("inf", f64::INFINITY), ("nan", f64::NAN)] {
        if unsigned.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(word)) {
            return Some((sign * value, &unsigned[3..]));
        }
    }
    let bytes = unsigned.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(|b| b.is_ascii_digit() || *b == b'.') {
            at += 1;
        }
        at
    };
    let mut end = digits(0);
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(signed).is_some_and(u8::is_ascii_digit) {
            end = digits(signed);
        }
    }
    Some((sign * unsigned[..end].parse::<f64>().ok()?, &unsigned[end..]))
}

fn take_histograms<'a>(text: &'a str, values: &mut Vec<Option<Value>>) -> Option<&'a str> {
    let (start, rest) = take_histogram(text)?;
    let (delta, subtract, rest) = if rest.starts_with("+{{") || rest.starts_with("-{{") {
        let (delta, after) = take_histogram(&rest[1..])?;
        (Some(delta), rest.starts_with('-'), after)
    } else {
        (None, false, rest)
    };
    let hint_written = delta.as_ref().unwrap_or(&start).hint_written;
    let (count, rest) = repetitions(rest, 1, 1)?;
    let mut histogram = start.build();
    let delta = delta.map(|delta| FloatHistogram::from_stored(&delta.build(), None));
    for _ in 0..count {
        values.push(Some(Value::Histogram { histogram: histogram.clone(), hint_written }));
        if let Some(delta) = &delta {
            let mut sum = FloatHistogram::from_stored(&histogram, None);
            if subtract { sum.sub(delta) } else { sum.add(delta) }.ok()?;
            histogram = stored(&sum);
        }
    }
    Some(rest)
}

#[test]
fn sequences_are_expanded() {
    let floats = |text: &str| -> Vec<Option<f64>> {
        let of = |value: Option<Value>| match value {
            Some(Value::Float(value)) => Some(value),
            _ => None,
        };
        parse_values(text).unwrap().into_iter().map(of).collect()
    };
    assert_eq!(
        floats("0+10x2 _ 1x1 _x2 5"),
        [Some(0.0), Some(10.0), Some(20.0), None, Some(1.0), Some(1.0), None, None, Some(5.0),]
    );
    assert_eq!(floats("1e10 -1-1x1 0x1")[1..], [Some(-1.0), Some(-2.0), Some(0.0), Some(0.0)]);
    assert_eq!(duration_ms("10s53ms"), Some(10_053));
}

#[test]
fn start_timestamps_are_expanded() {
    let line = StartTimestamps::parse("m{a=\"b\"}@st _x2 -1m -30s-10sx2 *x1").unwrap().unwrap();
    assert_eq!(line.labels.unwrap().to_string(), "m{a=\"b\"}");
    let known = [-60, -30, -40, -50, -50, -50].map(|seconds| Some(seconds * 1000));
    assert_eq!(line.offsets_ms, [&[None, None], &known[..]].concat());
    assert!(StartTimestamps::parse("m 1 2 @st").is_none());
}

#[test]
fn labels_may_hold_braces_and_blanks() {
    let series = parse_series(r#"{"my metric", a="} {", b='\''} 5 _"#).unwrap();
    assert_eq!(series.labels.get("a"), Some("} {"));
    assert_eq!(series.labels.get("b"), Some("'"));
    assert_eq!(series.labels.metric_name(), "my metric");
    assert_eq!(series.values.len(), 2);
    assert!(parse_series(r#"m{a=~"b"} 1"#).is_err());
}
