//! Numbers as Go writes and converts them.
//!
//! Label values, annotations and error texts carry numbers; to match Prometheus to the byte they
//! follow Go's `strconv` and `fmt`. `min`, `max` and the conversion to integers follow Go too, since
//! Rust's differ on NaN.

/// `strconv.FormatFloat(value, 'f', -1, 64)`: the shortest digits, never an exponent.
pub fn plain(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        _ => format!("{value}"),
    }
}

/// `%g`: the shortest digits, with an exponent below 1e-4 and from 1e6.
pub fn general(value: f64) -> String {
    if !value.is_finite() {
        return plain(value);
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("LowerExp writes an exponent");
    let exponent: i32 = exponent.parse().expect("LowerExp writes a whole exponent");
    if value == 0.0 || (-4..6).contains(&exponent) {
        return plain(value);
    }
    with_exponent(digits, exponent)
}

/// `%.2g`: two significant digits.
pub fn general_2(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return plain(value);
    }
    let scientific = format!("{value:.1e}");
    let (digits, exponent) = scientific.split_once('e').expect("LowerExp writes an exponent");
    let exponent: i32 = exponent.parse().expect("LowerExp writes a whole exponent");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    if (-4..2).contains(&exponent) {
        let rounded: f64 = format!("{digits}e{exponent}").parse().expect("digits of a float");
        return plain(rounded);
    }
    with_exponent(digits, exponent)
}

/// Go writes the sign and at least two digits of an exponent.
fn with_exponent(digits: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// `%q`: in double quotes, with Go's escapes.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Go's `math.Max`: infinity wins over NaN, NaN over numbers.
pub fn max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else if a > b {
        a
    } else {
        b
    }
}

/// Go's `math.Min`.
pub fn min(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { a } else { b }
    } else if a < b {
        a
    } else {
        b
    }
}

/// Go's `int64(value)` on amd64: what does not fit is the smallest integer.
pub fn to_i64(value: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if value >= -LIMIT && value < LIMIT { value as i64 } else { i64::MIN }
}

/// Go's `strconv.ParseFloat` as far as labels use it.
pub fn parse(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    let signed = |value: f64| Some(if negative { -value } else { value });
    if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") {
        return signed(f64::INFINITY);
    }
    if unsigned.eq_ignore_ascii_case("nan") {
        return (text.len() == 3).then_some(f64::NAN);
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse().ok()
}

/// One step of Kahan's summation in Neumaier's variant: the new sum and compensation.
#[inline(always)]
pub fn kahan_add(increment: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + increment;
    if total.is_infinite() {
        return (total, 0.0);
    }
    let lost = if sum.abs() >= increment.abs() {
        (sum - total) + increment
    } else {
        (increment - total) + sum
    };
    (total, compensation + lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        assert_eq!(plain(1e21), "1000000000000000000000");
        assert_eq!(plain(f64::INFINITY), "+Inf");
        assert_eq!(general(0.00001), "1e-05");
        assert_eq!(general(0.5), "0.5");
        assert_eq!(general(-2.0), "-2");
        assert_eq!(general(100_000.0), "100000");
        assert_eq!(general(1e6), "1e+06");
        assert_eq!(general(1_234_567.0), "1.234567e+06");
        assert_eq!(general_2(123.0), "1.2e+02");
        assert_eq!(general_2(0.5), "0.5");
        assert_eq!(general_2(99.6), "1e+02");
        assert_eq!(general_2(4.0), "4");
    }

    #[test]
    fn conversions_differ_from_rusts_on_nan() {
        assert_eq!(to_i64(f64::NAN), i64::MIN);
        assert_eq!(to_i64(1e300), i64::MIN);
        assert_eq!(to_i64(-1.5), -1);
        assert!(max(f64::NAN, 1.0).is_nan());
        assert_eq!(max(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert!(min(f64::NAN, 1.0).is_nan());
    }

    #[test]
    fn bucket_bounds_are_parsed_as_go_parses_them() {
        assert_eq!(parse("+Inf"), Some(f64::INFINITY));
        assert_eq!(parse("0.1"), Some(0.1));
        assert_eq!(parse("1e3"), Some(1000.0));
        assert_eq!(parse(""), None);
        assert_eq!(parse("Hello World"), None);
    }
}
