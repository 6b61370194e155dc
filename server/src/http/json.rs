//! JSON straight into bytes, in the forms that Prometheus's API has: values are strings as Go
//! prints floats, times are seconds with exactly three decimals or none.
//!
//! Whole seconds must have no fraction: vmalert reads `1435781451.000` as 0.

use icecore_query::go_format::push_api_float;
use icecore_storage::labels::Labels;

pub(crate) const CONTENT_TYPE: &str = "application/json";

/// A string with its quotes.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    push_utf8(out, text.as_bytes());
}

/// The same of bytes that are known to be UTF-8.
fn push_utf8(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    // Without a way out of the loop it looks at many bytes at a time; few strings have escapes.
    let escapes = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    match bytes.iter().fold(false, |any, &byte| any | escapes(byte)) {
        true => push_escaped(out, bytes),
        false => out.extend_from_slice(bytes),
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
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
}

/// A whole number.
pub(crate) fn push_integer(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
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

/// A sample's value: a number in a string.
pub(crate) fn push_float(out: &mut Vec<u8>, value: f64) {
    out.push(b'"');
    push_api_float(out, value);
    out.push(b'"');
}

/// `{"name":"value",…}`
pub(crate) fn push_labels(out: &mut Vec<u8>, labels: &Labels) {
    out.push(b'{');
    for (i, (name, value)) in labels.byte_pairs().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_utf8(out, name);
        out.push(b':');
        push_utf8(out, value);
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
}
