//! The script language: `load`, `clear`, `eval` and what is expected.
//!
//! Lines are trimmed, `#` starts a comment line, a blank line ends a block. The first line of a
//! block is a command; the lines after it belong to it.

use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint, Span};
use icecore_storage::metrics::sample::stale_nan;

use crate::fixture::Loaded;

#[derive(Debug)]
pub(crate) enum Command {
    /// `convert` for `load_with_nhcb`: classic histograms become native ones as well.
    Load {
        step_ms: i64,
        series: Vec<Series>,
        convert: bool,
    },
    Clear,
    Eval(Eval),
}

/// A series and its values at 0, 1, 2 … steps.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) values: Vec<Option<Loaded>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Instant { time_ms: i64 },
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

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
    Regex(String),
}

#[derive(Debug)]
pub(crate) struct Eval {
    pub(crate) line: usize,
    pub(crate) when: When,
    pub(crate) expr: String,
    pub(crate) ordered: bool,
    pub(crate) expectations: Vec<(Topic, Text)>,
    pub(crate) string: Option<String>,
    /// Of `expect range vector`: start and step.
    pub(crate) range_vector: Option<(i64, i64)>,
    pub(crate) scalar: Option<f64>,
    pub(crate) series: Vec<Series>,
}

/// The commands of a script; what cannot be read is an error with its line.
pub(crate) fn parse(text: &str) -> Result<Vec<Command>, String> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .map(|line| if line.starts_with('#') { "" } else { line })
        .collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let start = at;
        at += 1;
        let word = line.split_whitespace().next().unwrap_or("").to_lowercase();
        let failed = |what: &str| format!("line {}: {what}: {line}", start + 1);
        // Comments inside a block do not end it, blank lines do; both look alike by now.
        let raw: Vec<&str> = text.lines().map(str::trim).collect();
        let mut body = Vec::new();
        if word == "load" || word == "load_with_nhcb" || word.starts_with("eval") {
            while at < lines.len() && !raw[at].is_empty() {
                if !lines[at].is_empty() {
                    body.push(lines[at]);
                }
                at += 1;
            }
        }
        match word.as_str() {
            "" => {}
            "clear" => commands.push(Command::Clear),
            "load" | "load_with_nhcb" => {
                let step = line.split_whitespace().nth(1).ok_or_else(|| failed("no step"))?;
                let step_ms = duration_ms(step).ok_or_else(|| failed("bad step"))?;
                let series =
                    body.iter().filter(|line| !line.contains("}@st ") && !line.contains("@st "));
                let series = series.map(|line| parse_series(line).ok_or_else(|| failed(line)));
                let series = series.collect::<Result<_, _>>()?;
                let convert = word == "load_with_nhcb";
                commands.push(Command::Load { step_ms, series, convert });
            }
            word if word.starts_with("eval") => {
                commands.push(Command::Eval(parse_eval(start + 1, line, &body)?));
            }
            _ => return Err(failed("unknown command")),
        }
    }
    Ok(commands)
}

fn parse_eval(number: usize, line: &str, body: &[&str]) -> Result<Eval, String> {
    let failed = |what: &str| format!("line {number}: {what}: {line}");
    let (word, rest) = line.split_once(char::is_whitespace).ok_or_else(|| failed("no expr"))?;
    let (kind, rest) =
        rest.trim().split_once(char::is_whitespace).ok_or_else(|| failed("no kind"))?;
    let mut rest = rest.trim();
    let mut take = |keyword: &str| -> Option<i64> {
        let after = rest.strip_prefix(keyword)?.trim_start();
        let (value, after) = after.split_once(char::is_whitespace)?;
        rest = after.trim_start();
        time_ms(value)
    };
    let when = if kind == "instant" {
        When::Instant { time_ms: take("at").ok_or_else(|| failed("no time"))? }
    } else {
        let (start_ms, end_ms, step_ms) = (|| Some((take("from")?, take("to")?, take("step")?)))()
            .ok_or_else(|| failed("no times"))?;
        When::Range { start_ms, end_ms, step_ms }
    };
    let mut eval = Eval {
        line: number,
        when,
        expr: rest.to_owned(),
        ordered: word == "eval_ordered",
        expectations: Vec::new(),
        string: None,
        range_vector: None,
        scalar: None,
        series: Vec::new(),
    };
    match word {
        "eval_fail" => eval.expectations.push((Topic::Fail, Text::Any)),
        "eval_warn" => eval.expectations.push((Topic::Warn, Text::Any)),
        "eval_info" => eval.expectations.push((Topic::Info, Text::Any)),
        _ => {}
    }
    for line in body {
        if let Some(rest) = line.strip_prefix("expect ") {
            parse_expectation(rest.trim(), &mut eval).ok_or_else(|| failed(line))?;
        } else if let Some(text) = line.strip_prefix("expected_fail_message ") {
            eval.expectations.push((Topic::Fail, Text::Exactly(text.trim().into())));
        } else if let Some(text) = line.strip_prefix("expected_fail_regexp ") {
            eval.expectations.push((Topic::Fail, Text::Regex(text.trim().into())));
        } else if let Some((value, "")) = number_prefix(line) {
            eval.scalar = Some(value);
        } else {
            eval.series.push(parse_series(line).ok_or_else(|| failed(line))?);
        }
    }
    Ok(eval)
}

fn parse_expectation(text: &str, eval: &mut Eval) -> Option<()> {
    if let Some(quoted) = text.strip_prefix("string ") {
        let (value, _) = take_quoted(quoted.trim())?;
        eval.string = Some(value);
        return Some(());
    }
    if let Some(rest) = text.strip_prefix("range vector ") {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let ["from", start, "to", _, "step", step] = words[..] else { return None };
        eval.range_vector = Some((time_ms(start)?, time_ms(step)?));
        return Some(());
    }
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let wanted = if let Some(message) = rest.strip_prefix("msg:") {
        Text::Exactly(message.trim().into())
    } else if let Some(regex) = rest.strip_prefix("regex:") {
        Text::Regex(regex.trim().into())
    } else {
        Text::Any
    };
    let topic = match word {
        "ordered" => {
            eval.ordered = true;
            return Some(());
        }
        "fail" => Topic::Fail,
        "warn" => Topic::Warn,
        "no_warn" => Topic::NoWarn,
        "info" => Topic::Info,
        "no_info" => Topic::NoInfo,
        _ => return None,
    };
    eval.expectations.push((topic, wanted));
    Some(())
}

/// A time: a duration or plain seconds.
fn time_ms(text: &str) -> Option<i64> {
    let (sign, plain) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    Some(sign * duration_ms(plain).or_else(|| Some((plain.parse::<f64>().ok()? * 1000.0) as i64))?)
}

fn duration_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: i64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [
            ("ms", 1),
            ("s", 1000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
            ("w", 604_800_000),
        ];
        let (unit, ms) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += count * ms;
    }
    (!text.is_empty()).then_some(total)
}

/// `name{label="value", …} values…`
pub(crate) fn parse_series(line: &str) -> Option<Series> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace()).unwrap_or(line.len());
    let (name, mut rest) = line.split_at(end);
    let mut pairs = Vec::new();
    if !name.is_empty() {
        pairs.push(("__name__".to_owned(), name.to_owned()));
    }
    if rest.starts_with('{') && !rest.starts_with("{{") {
        rest = rest[1..].trim_start();
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = if rest.starts_with(['"', '\'', '`']) {
                take_quoted(rest)?
            } else {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || "_:.".contains(c)))?;
                (rest[..end].to_owned(), &rest[end..])
            };
            rest = after.trim_start();
            if let Some(after) = rest.strip_prefix('=') {
                let (value, after) = take_quoted(after.trim_start())?;
                pairs.push((label, value));
                rest = after.trim_start();
            } else {
                pairs.push(("__name__".to_owned(), label));
            }
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
    }
    let values = parse_values(rest.trim())?;
    Some(Series { labels: Labels::from_pairs(pairs).ok()?, values })
}

fn take_quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| ['"', '\'', '`'].contains(c))?;
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((out, &text[at + 1..])),
            '\\' if quote != '`' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                c => out.push(c),
            },
            c => out.push(c),
        }
    }
    None
}

fn parse_values(text: &str) -> Option<Vec<Option<Loaded>>> {
    let mut values = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let after = if let Some(after) = rest.strip_prefix('_') {
            let (count, after) = repetitions(after, 1, 0)?;
            values.extend(std::iter::repeat_n(None, count));
            after
        } else if let Some(after) = rest.strip_prefix("stale") {
            let (count, after) = repetitions(after, 1, 0)?;
            values.extend(std::iter::repeat_n(Some(Loaded::Float(stale_nan())), count));
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

fn take_numbers<'a>(text: &'a str, values: &mut Vec<Option<Loaded>>) -> Option<&'a str> {
    let (start, rest) = number_prefix(text)?;
    let (delta, rest) = match rest.starts_with(['+', '-']) {
        true => number_prefix(rest)?,
        false => (0.0, rest),
    };
    let (count, rest) = repetitions(rest, 1, 1)?;
    let mut value = start;
    for _ in 0..count {
        values.push(Some(Loaded::Float(value)));
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

fn take_histograms<'a>(text: &'a str, values: &mut Vec<Option<Loaded>>) -> Option<&'a str> {
    let (start, rest) = take_histogram(text)?;
    let (delta, sign, rest) = if rest.starts_with("+{{") || rest.starts_with("-{{") {
        let sign = if rest.starts_with('-') { -1.0 } else { 1.0 };
        let (delta, rest) = take_histogram(&rest[1..])?;
        (Some(delta), sign, rest)
    } else {
        (None, 1.0, rest)
    };
    let (count, rest) = repetitions(rest, 1, 1)?;
    let mut current = start;
    for _ in 0..count {
        values.push(Some(Loaded::Histogram(current.build())));
        if let Some(delta) = &delta {
            current.add(delta, sign);
        }
    }
    Some(rest)
}

/// A histogram as scripts write it.
#[derive(Clone, Debug, Default)]
struct Written {
    schema: i32,
    sum: f64,
    count: f64,
    zero_count: f64,
    zero_width: Option<f64>,
    positive: Vec<f64>,
    positive_offset: i32,
    negative: Vec<f64>,
    negative_offset: i32,
    custom_values: Vec<f64>,
    hint: ResetHint,
}

fn take_histogram(text: &str) -> Option<(Written, &str)> {
    let inner = text.strip_prefix("{{")?;
    let end = inner.find("}}")?;
    let (mut body, rest) = (inner[..end].trim(), &inner[end + 2..]);
    let mut written = Written::default();
    while !body.is_empty() {
        let (key, after) = body.split_once(':')?;
        let (value, after) = match after.strip_prefix('[') {
            Some(list) => list.split_once(']')?,
            None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
        };
        let numbers: Option<Vec<f64>> =
            value.split_whitespace().map(|n| Some(number_prefix(n)?.0)).collect();
        let number = || number_prefix(value).map(|(number, _)| number);
        match key.trim() {
            "schema" => written.schema = number()? as i32,
            "sum" => written.sum = number()?,
            "count" => written.count = number()?,
            "z_bucket" => written.zero_count = number()?,
            "z_bucket_w" => written.zero_width = Some(number()?),
            "buckets" => written.positive = numbers?,
            "offset" => written.positive_offset = number()? as i32,
            "n_buckets" => written.negative = numbers?,
            "n_offset" => written.negative_offset = number()? as i32,
            "custom_values" => written.custom_values = numbers?,
            "counter_reset_hint" => {
                written.hint = match value {
                    "gauge" => ResetHint::Gauge,
                    "reset" => ResetHint::Reset,
                    "not_reset" => ResetHint::NotReset,
                    _ => ResetHint::Unknown,
                }
            }
            _ => return None,
        }
        body = after.trim_start();
    }
    Some((written, rest))
}

impl Written {
    fn add(&mut self, other: &Written, sign: f64) {
        self.sum += sign * other.sum;
        self.count += sign * other.count;
        self.zero_count += sign * other.zero_count;
        for (mine, theirs) in
            [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)]
        {
            mine.resize(mine.len().max(theirs.len()), 0.0);
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += sign * theirs);
        }
    }

    fn build(&self) -> Histogram {
        let spans = |buckets: &[f64], offset: i32| match buckets.len() {
            0 => Vec::new(),
            length => vec![Span { offset, length: length as u32 }],
        };
        Histogram {
            schema: self.schema,
            zero_threshold: self.zero_width.unwrap_or(0.0),
            sum: self.sum,
            reset_hint: self.hint,
            positive_spans: spans(&self.positive, self.positive_offset),
            negative_spans: spans(&self.negative, self.negative_offset),
            counts: Counts::Float {
                count: self.count,
                zero_count: self.zero_count,
                positive: self.positive.clone(),
                negative: self.negative.clone(),
            },
            custom_values: self.custom_values.clone(),
        }
    }
}

#[test]
fn sequences_are_expanded() {
    let floats = |text: &str| -> Vec<Option<f64>> {
        let of = |value: Option<Loaded>| match value {
            Some(Loaded::Float(value)) => Some(value),
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
