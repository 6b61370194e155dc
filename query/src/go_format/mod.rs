//! Numbers, strings and durations as Go writes and reads them.
//!
//! Clients compare Prometheus's answers as text, so floats, quoted strings and durations must come
//! out as Go's `strconv` and `fmt` and Prometheus's `model.Duration` print them. Each function names
//! the Go format it follows.

mod float;

use std::fmt::Write;

pub use float::{
    float, float_fixed, float_general, float_general_digits, float_with_point, push_api_float,
};

/// Why a number is none, as Go's `strconv.ParseFloat` puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    #[error("invalid syntax")]
    Syntax,
    #[error("value out of range")]
    Range,
}

/// A number as PromQL reads it: Go's `ParseInt(text, 0, 64)` (so `0x1F`, and `017` is octal), else
/// Go's `ParseFloat`. Underscores may separate digits.
pub fn parse_number(text: &str) -> Result<f64, NumberError> {
    if let Some(value) = parse_integer(text) {
        return Ok(value as f64);
    }
    if !underscores_separate_digits(text) {
        return Err(NumberError::Syntax);
    }
    let plain = text.replace('_', "");
    let value: f64 = plain.parse().map_err(|_| NumberError::Syntax)?;
    let infinite_by_name = plain.bytes().any(|byte| matches!(byte, b'n' | b'N'));
    if value.is_infinite() && !infinite_by_name {
        return Err(NumberError::Range);
    }
    Ok(value)
}

fn parse_integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes() {
        [b'+', ..] => ("", &text[1..]),
        [b'-', ..] => ("-", &text[1..]),
        _ => ("", text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) || !underscores_separate_digits(text) {
        return None;
    }
    let plain = digits.replace('_', "");
    i64::from_str_radix(&format!("{sign}{plain}"), radix).ok()
}

/// Go's rule: an underscore stands between two digits, or between a base prefix and a digit.
fn underscores_separate_digits(text: &str) -> bool {
    let text = text.trim_start_matches(['+', '-']).as_bytes();
    let (prefixed, digits) = match text {
        [b'0', b'x' | b'X' | b'b' | b'B' | b'o' | b'O', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let hexadecimal = matches!(text, [b'0', b'x' | b'X', ..]);
    let mut after_digit = prefixed;
    let mut after_underscore = false;
    for byte in digits {
        let digit = byte.is_ascii_digit() || (hexadecimal && byte.is_ascii_hexdigit());
        let underscore = *byte == b'_';
        if (underscore && !after_digit) || (after_underscore && !digit) {
            return false;
        }
        (after_digit, after_underscore) = (digit, underscore);
    }
    !after_underscore
}

/// The first character of UTF-8; `None` where the bytes are not valid, or there are none.
pub fn first_char(bytes: &[u8]) -> Option<char> {
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
    };
    valid.chars().next()
}

/// Go's `strconv.Quote`, `%q`: double quotes, and escapes for what does not print. Bytes that are
/// not UTF-8 come as `\xff`.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        match first_char(rest) {
            Some(c) => {
                push_escaped(&mut out, c, '"');
                rest = &rest[c.len_utf8()..];
            }
            None => {
                let _ = write!(out, "\\x{byte:02x}");
                rest = &rest[1..];
            }
        }
    }
    out.push('"');
    out
}

/// Go's `%q` of a rune: single quotes.
pub fn quote_char(c: char) -> String {
    let mut out = String::from('\'');
    push_escaped(&mut out, c, '\'');
    out.push('\'');
    out
}

/// Go's `%#U`: `U+0063 'c'`, without the character where it does not print.
pub fn describe_char(c: char) -> String {
    let code = u32::from(c);
    match is_print(c) {
        true => format!("U+{code:04X} '{c}'"),
        false => format!("U+{code:04X}"),
    }
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        _ if c == quote => {
            out.push('\\');
            out.push(c);
        }
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        _ if is_print(c) => out.push(c),
        _ => {
            let code = u32::from(c);
            let _ = match code {
                0..0x20 | 0x7f => write!(out, "\\x{code:02x}"),
                0..0x1_0000 => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space. The
/// standard library knows the same classes where it escapes for debugging; a letter goes first
/// there because marks are escaped only at the start of a string.
fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    let mut buffer = ['a'; 2];
    buffer[1] = c;
    let text: String = buffer.iter().collect();
    text.escape_debug().nth(1) != Some('\\')
}

/// The string that a Go or PromQL literal stands for: in double or single quotes with escapes, or
/// in backticks as it is. `None` if it is none. Escapes may make bytes that are not UTF-8.
pub fn unquote(literal: &[u8]) -> Option<Vec<u8>> {
    let [quote, inner @ .., end] = literal else { return None };
    if quote != end {
        return None;
    }
    match quote {
        b'`' => (!inner.contains(&b'`')).then(|| inner.to_vec()),
        b'"' | b'\'' => unescape(inner, *quote),
        _ => None,
    }
}

fn unescape(inner: &[u8], quote: u8) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'\n' => return None,
            b'\\' => rest = unescape_one(tail, quote, &mut out)?,
            byte if *byte == quote => return None,
            byte => out.push(*byte),
        }
    }
    Some(out)
}

/// Reads one escape after its backslash and returns what follows it.
fn unescape_one<'a>(rest: &'a [u8], quote: u8, out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (kind, tail) = rest.split_first()?;
    let plain = match kind {
        b'a' => 0x7,
        b'b' => 0x8,
        b'f' => 0xc,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0xb,
        b'\\' => b'\\',
        kind if *kind == quote => quote,
        b'x' => {
            let (code, tail) = code(tail, 2, 16)?;
            out.push(u8::try_from(code).ok()?);
            return Some(tail);
        }
        b'0'..=b'7' => {
            let (code, tail) = code(rest, 3, 8)?;
            out.push(u8::try_from(code).ok()?);
            return Some(tail);
        }
        b'u' | b'U' => {
            let digits = if *kind == b'u' { 4 } else { 8 };
            let (code, tail) = code(tail, digits, 16)?;
            let c = char::from_u32(code)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(tail);
        }
        _ => return None,
    };
    out.push(plain);
    Some(tail)
}

fn code(rest: &[u8], digits: usize, radix: u32) -> Option<(u32, &[u8])> {
    let (head, tail) = rest.split_at_checked(digits)?;
    let text = std::str::from_utf8(head).ok()?;
    if text.starts_with('+') {
        return None;
    }
    Some((u32::from_str_radix(text, radix).ok()?, tail))
}

/// Why a duration is none, in the words of Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("empty duration string")]
    Empty,
    #[error("not a valid duration string: {}", quote(.0.as_bytes()))]
    Syntax(String),
    #[error("unknown unit {} in duration {}", quote(.unit.as_bytes()), quote(.text.as_bytes()))]
    Unit { unit: String, text: String },
    #[error("duration out of range")]
    Range,
}

/// Units of a duration, the longest first, in ms.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Prometheus counts durations in ns, in 63 bits; this is its bound in ms.
const MAX_DURATION_MS: u64 = (i64::MAX / 1_000_000) as u64;

/// A duration in ms, as Prometheus's `model.ParseDuration` reads it: `1h30m`, units from long to
/// short and each at most once.
pub fn parse_duration_ms(text: &str) -> Result<i64, DurationError> {
    match text {
        "" => return Err(DurationError::Empty),
        "0" => return Ok(0),
        _ => {}
    }
    let syntax = || DurationError::Syntax(text.to_owned());
    let mut units = UNITS.as_slice();
    let mut total_ms = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let count: u64 = rest[..digits].parse().map_err(|_| syntax())?;
        rest = &rest[digits..];
        let length = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, tail) = rest.split_at(length);
        rest = tail;
        if unit.is_empty() {
            return Err(syntax());
        }
        let Some(&(_, unit_ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::Unit { unit: unit.to_owned(), text: text.to_owned() });
        };
        let place = units.iter().position(|(name, _)| *name == unit).ok_or_else(syntax)?;
        units = &units[place + 1..];
        total_ms = count
            .checked_mul(unit_ms)
            .and_then(|ms| ms.checked_add(total_ms))
            .filter(|ms| *ms <= MAX_DURATION_MS)
            .ok_or(DurationError::Range)?;
    }
    i64::try_from(total_ms).map_err(|_| DurationError::Range)
}

/// A duration of ms as Prometheus's `model.Duration` prints it: `1h30m`, `0s`. Years and weeks are
/// used only where nothing remains.
pub fn duration_ms(ms: i64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    if ms < 0 {
        out.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (unit, unit_ms) in UNITS {
        let exact_only = matches!(unit, "y" | "w");
        if (exact_only && !rest.is_multiple_of(unit_ms)) || rest < unit_ms {
            continue;
        }
        let _ = write!(out, "{}{unit}", rest / unit_ms);
        rest %= unit_ms;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_go_reads_them() {
        for (text, value) in [
            ("0755", 493.0),
            ("0x1F", 31.0),
            ("0X_1F", 31.0),
            ("1_000", 1000.0),
            ("08", 8.0),
            ("5.", 5.0),
            (".5", 0.5),
            ("1_0.5e1_0", 10.5e10),
            ("99999999999999999999", 1e20),
            ("inF", f64::INFINITY),
        ] {
            assert_eq!(parse_number(text), Ok(value), "{text}");
        }
        assert!(parse_number("nan").unwrap().is_nan());
        for text in ["", "1e", "1__0", "_1", "1_", "0xffffffffffffffff", "1e_5", "0b12", "--1"] {
            assert_eq!(parse_number(text), Err(NumberError::Syntax), "{text}");
        }
        assert_eq!(parse_number("1e400"), Err(NumberError::Range));
    }

    #[test]
    fn strings_quote_as_go_quotes_them_and_back() {
        for (bytes, literal) in [
            (b"a\"b\\c".as_slice(), r#""a\"b\\c""#),
            (b"\x00\x07\x08\x0c\n\r\t\x0b\x7f", r#""\x00\a\b\f\n\r\t\v\x7f""#),
            ("ü☺\u{301}\u{200b}\u{e0001}".as_bytes(), "\"ü☺\u{301}\\u200b\\U000e0001\""),
            (b"\xff\xe2\x98", r#""\xff\xe2\x98""#),
        ] {
            assert_eq!(quote(bytes), literal);
            assert_eq!(unquote(literal.as_bytes()).as_deref(), Some(bytes));
        }
        assert_eq!(quote_char('\''), r"'\''");
        assert_eq!(describe_char('c'), "U+0063 'c'");
        assert_eq!(describe_char('\u{1}'), "U+0001");
        assert_eq!(unquote(b"`a\\d`").as_deref(), Some(b"a\\d".as_slice()));
        let escapes = unquote(br"'\377\xfF\u00ff\U0000263A\''");
        assert_eq!(escapes.as_deref(), Some(b"\xff\xff\xc3\xbf\xe2\x98\xba'".as_slice()));
        for bad in ["", "\"", "\"a", "'a\"", r"'\q'", r"'\x1'", r"'\ud800'", r"'\400'", "'\n'"] {
            assert_eq!(unquote(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn durations_read_and_print_as_prometheus_has_them() {
        for (text, ms, printed) in [
            ("0", 0, "0s"),
            ("1ms", 1, "1ms"),
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("2w", 14 * 86_400_000, "2w"),
            ("15d", 15 * 86_400_000, "15d"),
            ("1y", 365 * 86_400_000, "1y"),
            ("1y1w1d1h1m1s1ms", 32_230_861_001, "373d1h1m1s1ms"),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
            assert_eq!(duration_ms(ms), printed);
        }
        assert_eq!(duration_ms(-60_000), "-1m");
        for (text, message) in [
            ("", "empty duration string"),
            ("5", "not a valid duration string: \"5\""),
            ("s", "not a valid duration string: \"s\""),
            ("5m1h", "not a valid duration string: \"5m1h\""),
            ("1hs", "unknown unit \"hs\" in duration \"1hs\""),
            ("300y", "duration out of range"),
            ("99999999999999999999s", "not a valid duration string: \"99999999999999999999s\""),
        ] {
            assert_eq!(parse_duration_ms(text).unwrap_err().to_string(), message);
        }
    }
}
