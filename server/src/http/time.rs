//! Times and durations in requests, and RFC 3339 in answers.
//!
//! A request names a time as Unix seconds with a fraction, as RFC 3339, or as one of the two
//! literals that Go prints for its extremes. Inside it is milliseconds. Clients send absurd ones:
//! Grafana probes exemplars with milliseconds in place of seconds, the year 57,900. So nothing
//! here goes through a calendar unless the text does.

use crate::duration;

/// Go's `time.Unix(math.MinInt64/1000+62135596801, 0)`: Prometheus's "since ever".
pub(crate) const MIN_TIME_MS: i64 = -9_223_309_901_257_974_000;
/// Prometheus's "for ever".
pub(crate) const MAX_TIME_MS: i64 = 9_223_309_901_257_974_999;

const MIN_TIME_TEXT: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME_TEXT: &str = "292277025-08-18T07:12:54.999999999Z";

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Milliseconds since the epoch that a parameter names, kept between the two extremes: what comes
/// later may then add and subtract durations without overflow.
pub(crate) fn parse_time_ms(text: &str) -> Result<i64, String> {
    let parsed = match parse_float(text) {
        Some(seconds) => seconds_to_ms(seconds),
        None if text == MIN_TIME_TEXT => Some(MIN_TIME_MS),
        None if text == MAX_TIME_TEXT => Some(MAX_TIME_MS),
        None => parse_rfc3339_ms(text),
    };
    parsed
        .map(|ms| ms.clamp(MIN_TIME_MS, MAX_TIME_MS))
        .ok_or_else(|| format!("cannot parse {text:?} to a valid timestamp"))
}

/// Milliseconds that a parameter names as float seconds or as a Prometheus duration.
pub(crate) fn parse_duration_ms(text: &str) -> Result<i64, String> {
    match parse_float(text) {
        // Go counts nanoseconds in 64 bits.
        Some(seconds) if seconds.abs() > 9_223_372_036.0 => {
            Err(format!("cannot parse {text:?} to a valid duration. It overflows int64"))
        }
        Some(seconds) => Ok(seconds_to_ms(seconds).unwrap_or(0)),
        None => duration::parse_ms(text)
            .map_err(|_| format!("cannot parse {text:?} to a valid duration")),
    }
}

/// A float as Go's `strconv.ParseFloat` reads it, near enough: no surrounding space, but NaN and
/// infinities by name.
fn parse_float(text: &str) -> Option<f64> {
    text.parse::<f64>().ok()
}

/// Rounds to milliseconds; `None` for NaN and for what no `i64` holds.
fn seconds_to_ms(seconds: f64) -> Option<i64> {
    // Whole seconds and fraction apart, as times far from the epoch have no bits for both.
    let whole = seconds.trunc();
    let fraction_ms = ((seconds - whole) * 1000.0).round();
    if whole.is_nan() || whole.abs() > (i64::MAX / 1000) as f64 {
        return None;
    }
    (whole as i64).checked_mul(1000)?.checked_add(fraction_ms as i64)
}

/// `2015-07-01T20:10:51.781Z`, `…+02:00`; years 0 to 9999.
fn parse_rfc3339_ms(text: &str) -> Option<i64> {
    let number = |text: &str| -> Option<i64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let field = |at: std::ops::Range<usize>, low: i64, high: i64| -> Option<i64> {
        number(text.get(at)?).filter(|n| (low..=high).contains(n))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if text.len() < 20 || separators.iter().any(|(at, byte)| text.as_bytes()[*at] != *byte) {
        return None;
    }
    let (year, month) = (field(0..4, 0, 9999)?, field(5..7, 1, 12)?);
    let day = field(8..10, 1, days_in_month(year, month))?;
    let (hour, minute, second) =
        (field(11..13, 0, 23)?, field(14..16, 0, 59)?, field(17..19, 0, 59)?);
    let mut rest = text.get(19..)?;
    let mut fraction_ms = 0;
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        let digits = fraction.get(..end).filter(|digits| !digits.is_empty())?;
        let first_three: String = digits.chars().chain("000".chars()).take(3).collect();
        fraction_ms = number(&first_three)?;
        rest = &fraction[end..];
    }
    let offset_minutes = match rest.as_bytes() {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let hours = number(rest.get(1..3)?).filter(|h| *h <= 23)?;
            let minutes = number(rest.get(4..6)?).filter(|m| *m <= 59)?;
            let ahead = hours * 60 + minutes;
            if *sign == b'-' { -ahead } else { ahead }
        }
        _ => return None,
    };
    let seconds = (hour * 60 + minute - offset_minutes) * 60 + second;
    Some(days_from_civil(year, month, day) * DAY_MS + seconds * 1000 + fraction_ms)
}

/// RFC 3339 in UTC with milliseconds where there are any; for people, not for clients' arithmetic.
pub(crate) fn format_rfc3339(ms: i64) -> String {
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    let in_day = ms.rem_euclid(DAY_MS);
    let (seconds, fraction) = (in_day / 1000, in_day % 1000);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:03}") };
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, by eras of 400 years that begin in
/// March, so that the leap day comes last (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form() {
        for (text, ms) in [
            ("1435781451.781", 1_435_781_451_781),
            ("1435781451", 1_435_781_451_000),
            ("4", 4_000),
            ("-1.5", -1_500),
            ("1e9", 1_000_000_000_000),
            ("1700000000000", 1_700_000_000_000_000),
            ("2015-07-01T20:10:51.781Z", 1_435_781_451_781),
            ("2015-07-01T22:10:51.781999+02:00", 1_435_781_451_781),
            ("1969-12-31T23:59:59Z", -1_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
            ("9223372036854000", MAX_TIME_MS),
            (MIN_TIME_TEXT, MIN_TIME_MS),
            (MAX_TIME_TEXT, MAX_TIME_MS),
        ] {
            assert_eq!(parse_time_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "NaN",
            "Inf",
            "1e300",
            " 4",
            "2015-07-01",
            "2015-02-29T00:00:00Z",
            "2015-13-01T00:00:00Z",
            "2015-07-01T20:10:51.Z",
            "2015-07-01T20:10:51",
            "2015-07-01T20:10:51+0200",
            "２015-07-01T20:10:51Z",
            "2015-07-01T20:10:5é",
        ] {
            let error = parse_time_ms(text).unwrap_err();
            assert_eq!(error, format!("cannot parse {text:?} to a valid timestamp"));
        }
    }

    #[test]
    fn durations_are_seconds_or_prometheus_durations() {
        assert_eq!(parse_duration_ms("15"), Ok(15_000));
        assert_eq!(parse_duration_ms("0.25"), Ok(250));
        assert_eq!(parse_duration_ms("-1"), Ok(-1_000));
        assert_eq!(parse_duration_ms("1h30m"), Ok(5_400_000));
        assert!(parse_duration_ms("1e30").unwrap_err().ends_with("It overflows int64"));
        assert!(parse_duration_ms("soon").is_err());
        assert_eq!(parse_duration_ms("NaN"), Ok(0), "which is no legal step");
    }

    #[test]
    fn rfc3339_is_written_back() {
        for text in ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59.007Z", "1600-03-01T00:00:00Z"] {
            assert_eq!(format_rfc3339(parse_time_ms(text).unwrap()), text);
        }
    }
}
