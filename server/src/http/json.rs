//! JSON straight into bytes, in the forms that Prometheus's API has: values are strings as Go
//! prints floats, times are seconds with exactly three decimals or none.
//!
//! Whole seconds must have no fraction: vmalert reads `1435781451.000` as 0.

use icecore_storage::labels::Labels;

pub(crate) const CONTENT_TYPE: &str = "application/json";

/// A string with its quotes.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => br#"\""#,
            b'\\' => br"\\",
            b'\n' => br"\n",
            b'\r' => br"\r",
            b'\t' => br"\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[copied..at]);
        out.extend_from_slice(escape);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(br"\u00");
            out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        copied = at + 1;
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// A whole number.
pub(crate) fn push_integer(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Milliseconds as seconds.
pub(crate) fn push_timestamp(out: &mut Vec<u8>, ms: i64) {
    if ms < 0 {
        out.push(b'-');
    }
    let ms = ms.unsigned_abs();
    push_integer(out, (ms / 1000) as i64);
    let fraction = ms % 1000;
    if fraction != 0 {
        let digit = |n: u64| b'0' + (n % 10) as u8;
        out.extend([b'.', digit(fraction / 100), digit(fraction / 10), digit(fraction)]);
    }
}

/// A sample's value: the shortest digits that read back equal, in a string.
pub(crate) fn push_float(out: &mut Vec<u8>, value: f64) {
    out.push(b'"');
    push_bare_float(out, value);
    out.push(b'"');
}

/// The same without quotes: Go's `strconv.FormatFloat(value, 'f', -1, 64)`, but with an exponent
/// below 1e-6 and from 1e21.
///
/// Of two shortest forms that are equally near, Go takes the even one, and so does zmij; the
/// standard library rounds up.
pub(crate) fn push_bare_float(out: &mut Vec<u8>, value: f64) {
    // Integers, the most frequent values of all, need no search for the shortest digits.
    let integer = value as i64;
    if integer as f64 == value && integer.unsigned_abs() < 1 << 53 {
        if value == 0.0 && value.is_sign_negative() {
            out.push(b'-');
        }
        push_integer(out, integer);
        return;
    }
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return;
    }
    if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
        return;
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    match text.split_once('e') {
        None => out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes()),
        Some((mantissa, exponent)) => {
            let exponent = exponent.parse().expect("an exponent is a small integer");
            push_scientific(out, mantissa, exponent);
        }
    }
}

/// `mantissa` (`-1.25`) times ten to the `exponent`, as Go lays it out.
fn push_scientific(out: &mut Vec<u8>, mantissa: &str, exponent: i32) {
    let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
    if !(-6..21).contains(&exponent) {
        out.extend_from_slice(mantissa.as_bytes());
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        if exponent.abs() < 10 {
            out.push(b'0');
        }
        push_integer(out, i64::from(exponent.abs()));
        return;
    }
    let digits = mantissa.strip_prefix('-').inspect(|_| out.push(b'-')).unwrap_or(mantissa);
    let digits = digits.bytes().filter(|byte| *byte != b'.');
    let count = digits.clone().count() as i32;
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        out.extend(digits);
    } else {
        // zmij writes an exponent only where all digits stand before the point.
        debug_assert!(count <= exponent + 1, "{mantissa}e{exponent}");
        out.extend(digits);
        out.extend(std::iter::repeat_n(b'0', (exponent + 1 - count).max(0) as usize));
    }
}

/// `{"name":"value",…}`
pub(crate) fn push_labels(out: &mut Vec<u8>, labels: &Labels) {
    out.push(b'{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_string(out, name);
        out.push(b':');
        push_string(out, value);
    }
    out.push(b'}');
}

/// `[…,…]`, each element written by `push`.
pub(crate) fn push_list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut push: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push(out, item);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        push(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_json_wants_it() {
        for text in ["", "plain", "\"quoted\\\"", "line\nline\r\t", "\u{0}\u{1f}\u{7f}", "héé→🧊"]
        {
            let json = written(|out| push_string(out, text));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text, "{json}");
        }
    }

    #[test]
    fn timestamps_have_three_decimals_or_none() {
        for (ms, text) in [
            (0, "0"),
            (1, "0.001"),
            (1_435_781_451_781, "1435781451.781"),
            (1_435_781_451_000, "1435781451"),
            (-1, "-0.001"),
            (-61_050, "-61.050"),
            (i64::MIN, "-9223372036854775.808"),
        ] {
            assert_eq!(written(|out| push_timestamp(out, ms)), text);
        }
    }

    #[test]
    fn floats_are_printed_as_go_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (100_000.0, "100000"),
            (1e6, "1000000"),
            (1_234_567.0, "1234567"),
            (0.0001, "0.0001"),
            (0.00001, "0.00001"),
            (1e-6, "0.000001"),
            (1.5e-7, "1.5e-07"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-2.5e-100, "-2.5e-100"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (69.31929824561402, "69.31929824561402"),
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-17.5, "-17.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e-6, "0.000001"),
            (9.5e-7, "9.5e-07"),
            (1e-5, "0.00001"),
            (1e15, "1000000000000000"),
            (9007199254740993.0, "9007199254740992"),
            (1e16, "10000000000000000"),
            (1.5e20, "150000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e300, "-1.25e+300"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(written(|out| push_bare_float(out, value)), text);
        }
    }

    #[test]
    fn of_two_equally_near_forms_the_even_one_is_taken() {
        let between_62_and_63 = 228_103_215_461_710.0 + 0.625;
        let text = written(|out| push_bare_float(out, between_62_and_63));
        assert_eq!(text, "228103215461710.62");
    }

    #[test]
    fn floats_read_back_and_are_no_longer_than_needed() {
        let mut bits: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..100_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            // Exponents around 0 are where the forms change; all others are there too.
            let exponent = 0x3c0 + (bits >> 40 & 0x7f);
            let near = f64::from_bits(bits & 0x800f_ffff_ffff_ffff | exponent << 52);
            for value in [f64::from_bits(bits), near, (bits >> 44) as f64 / 1000.0] {
                let text = written(|out| push_bare_float(out, value));
                if !value.is_finite() {
                    continue;
                }
                assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
                let plain = value == 0.0 || (1e-6..1e21).contains(&value.abs());
                let length = if plain { format!("{value}") } else { format!("{value:e}") }.len();
                let exponent_form = if plain { 0 } else { 2 };
                assert!(text.len() <= length + exponent_form, "{text} {value}");
                assert_eq!(text.contains('e'), !plain, "{text}");
            }
        }
    }
}
