//! Durations as Prometheus writes them: `1h30m`, `15d`, `500ms`.
//!
//! Units are `y w d h m s ms`, each at most once and from the greatest to the least; a year has 365
//! days. The same form serves flags, request parameters and status pages.

/// Units in the order in which they may appear, in ms.
const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * 60 * 60 * 1000),
    ("w", 7 * 24 * 60 * 60 * 1000),
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// Milliseconds of a Prometheus duration, or Prometheus's own words on why it is none.
pub fn parse_ms(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Err("empty duration string".into());
    }
    if text == "0" {
        return Ok(0);
    }
    let bad = || format!("not a valid duration string: {text:?}");
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let unit = &tail[..tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len())];
        let (_, unit_ms) = units.find(|(name, _)| *name == unit).ok_or_else(bad)?;
        if number.is_empty() {
            return Err(bad());
        }
        let part = number.parse::<i64>().ok().and_then(|n| n.checked_mul(*unit_ms));
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|ms| *ms <= i64::MAX / 1_000_000) // Go counts nanoseconds.
            .ok_or("duration out of range")?;
        rest = &tail[unit.len()..];
    }
    Ok(total)
}

/// The shortest form of a duration that [`parse_ms`] reads back; years and weeks only if exact.
pub fn format_ms(ms: i64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    let mut rest = ms;
    for (name, unit_ms) in UNITS {
        let exact_only = matches!(name, "y" | "w");
        if rest < unit_ms || (exact_only && rest % unit_ms != 0) {
            continue;
        }
        text += &format!("{}{name}", rest / unit_ms);
        rest %= unit_ms;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_back() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("30d", 2_592_000_000),
            ("3y", 94_608_000_000),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
            assert_eq!(format_ms(ms), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "m", "-5m", "5m5m", "5m1h", "1.5h", "5 m", "999999999999y", "5x", "é"]
        {
            assert!(parse_ms(text).is_err(), "{text:?}");
        }
    }
}
