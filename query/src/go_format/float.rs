//! Floats as Go prints them.
//!
//! The shortest digits that read back equal are zmij's: of two that are equally near it takes the
//! even one, as Go does, where the standard library rounds up. What is left is where an exponent is
//! used and how it looks.

use std::ops::Range;

/// Go's `FormatFloat(v, 'f', -1, 64)`: shortest digits, never an exponent.
pub fn float(value: f64) -> String {
    shown(value, Digits::push_plain)
}

/// Go's `%g` and `%v`: shortest digits, an exponent below 1e-4 and from 1e6 on.
pub fn float_general(value: f64) -> String {
    shown(value, |digits, out| digits.push_within(out, -4..6))
}

/// `%g` with a decimal point in it, as OpenMetrics writes floats.
pub fn float_with_point(value: f64) -> String {
    let text = float_general(value);
    if value.is_finite() && !text.contains(['.', 'e']) { text + ".0" } else { text }
}

/// Appends what the API has for a sample's value: Go's `'f', -1`, but with an exponent below 1e-6
/// and from 1e21 on.
pub fn push_api_float(out: &mut Vec<u8>, value: f64) {
    // Integers, the most frequent values of all, need no search for the shortest digits.
    let integer = value as i64;
    if integer as f64 == value && integer.unsigned_abs() < 1 << 53 {
        if value.is_sign_negative() {
            out.push(b'-');
        }
        push_integer(out, integer.unsigned_abs());
        return;
    }
    // Where zmij lays its digits out as the API does, they are only copied.
    let size = value.abs();
    if ZMIJ_PLAIN.contains(&size) {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else if value.is_finite() && !API_PLAIN.contains(&size) {
        push_exponential(out, zmij::Buffer::new().format_finite(value));
    } else {
        push(out, value, |digits, out| digits.push_within(out, -6..21));
    }
}

/// What the API shows without an exponent.
const API_PLAIN: Range<f64> = 1e-6..1e21;

/// What zmij does; it does so a little beyond this too. Integers get a `.0` from it.
const ZMIJ_PLAIN: Range<f64> = 1e-5..1e15;

/// zmij's `1.5e-7` or `1.5e+21` with at least two digits of exponent.
fn push_exponential(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    if let [.., b'-', digit] = out[..] {
        *out.last_mut().expect("it has two bytes") = b'0';
        out.push(digit);
    }
}

/// Go's `%.{decimals}f`.
pub fn float_fixed(value: f64, decimals: usize) -> String {
    match special(value) {
        Some(text) => text.to_owned(),
        None => format!("{value:.decimals$}"),
    }
}

/// Go's `%.{digits}g`: at most that many significant digits, no trailing zeros.
pub fn float_general_digits(value: f64, digits: usize) -> String {
    if let Some(text) = special(value) {
        return text.to_owned();
    }
    let digits = digits.max(1);
    // Correct digits of the exact value, which are rounded to even as in Go.
    let rounded = format!("{:.*e}", digits - 1, value.abs());
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let rounded = Digits::new(mantissa, exponent);
    let mut deciding = digits as i32;
    if deciding > rounded.count && rounded.count > exponent {
        deciding = rounded.count;
    }
    let mut out = Vec::new();
    if value.is_sign_negative() {
        out.push(b'-');
    }
    rounded.push_within(&mut out, -4..deciding);
    text(out)
}

/// `0.d…d` or `d.d…d`: decimal digits without zeros at their end, and where the point is.
struct Digits {
    digits: [u8; 32],
    /// How many there are, at least one.
    count: i32,
    /// The power of ten of the first.
    exponent: i32,
}

impl Digits {
    /// `mantissa` is digits with at most one point, times ten to the `exponent`; no zero comes
    /// before the first other digit, but one and its point may.
    fn new(mantissa: &str, exponent: i32) -> Digits {
        let point = mantissa.find('.').unwrap_or(mantissa.len());
        let mut digits = Digits { digits: [b'0'; 32], count: 0, exponent: 0 };
        let all = mantissa.bytes().filter(|byte| *byte != b'.');
        let zeros = all.clone().take_while(|byte| *byte == b'0').count();
        for (place, digit) in digits.digits.iter_mut().zip(all.skip(zeros)) {
            *place = digit;
            digits.count += 1;
        }
        digits.exponent = exponent + point as i32 - 1 - zeros as i32;
        while digits.count > 1 && digits.digits[digits.count as usize - 1] == b'0' {
            digits.count -= 1;
        }
        if digits.count == 0 {
            return Digits { count: 1, exponent: 0, ..digits };
        }
        digits
    }

    fn digits(&self) -> &[u8] {
        &self.digits[..self.count as usize]
    }

    /// Without an exponent where that is in `plain`.
    fn push_within(&self, out: &mut Vec<u8>, plain: Range<i32>) {
        match plain.contains(&self.exponent) {
            true => self.push_plain(out),
            false => self.push_exponential(out),
        }
    }

    /// `0.00125`, `1.25`, `1250`
    fn push_plain(&self, out: &mut Vec<u8>) {
        let zeros = |count: i32| std::iter::repeat_n(b'0', count.max(0) as usize);
        if self.exponent < 0 {
            out.extend_from_slice(b"0.");
            out.extend(zeros(-self.exponent - 1));
            out.extend_from_slice(self.digits());
            return;
        }
        let whole = (self.exponent + 1).min(self.count) as usize;
        let (whole, fraction) = self.digits().split_at(whole);
        out.extend_from_slice(whole);
        out.extend(zeros(self.exponent + 1 - self.count));
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    }

    /// `1.25e-07`: at least two digits of exponent, and its sign.
    fn push_exponential(&self, out: &mut Vec<u8>) {
        let (first, fraction) = self.digits().split_at(1);
        out.extend_from_slice(first);
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        out.extend_from_slice(if self.exponent < 0 { b"e-" } else { b"e+" });
        if self.exponent.abs() < 10 {
            out.push(b'0');
        }
        push_integer(out, u64::from(self.exponent.unsigned_abs()));
    }
}

fn shown(value: f64, lay_out: impl FnOnce(&Digits, &mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    push(&mut out, value, lay_out);
    text(out)
}

fn text(ascii: Vec<u8>) -> String {
    String::from_utf8(ascii).expect("digits are ASCII")
}

fn push(out: &mut Vec<u8>, value: f64, lay_out: impl FnOnce(&Digits, &mut Vec<u8>)) {
    if let Some(text) = special(value) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent = exponent.parse().expect("an exponent is a small integer");
    lay_out(&Digits::new(mantissa, exponent), out);
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value.is_infinite() {
        Some(if value > 0.0 { "+Inf" } else { "-Inf" })
    } else {
        None
    }
}

fn push_integer(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn api(value: f64) -> String {
        let mut out = Vec::new();
        push_api_float(&mut out, value);
        text(out)
    }

    #[test]
    fn floats_print_as_go_prints_them() {
        for (value, plain, in_api, general) in [
            (0.0, "0", "0", "0"),
            (-0.0, "-0", "-0", "-0"),
            (1.0, "1", "1", "1"),
            (1.5, "1.5", "1.5", "1.5"),
            (-17.5, "-17.5", "-17.5", "-17.5"),
            (100_000.0, "100000", "100000", "100000"),
            (1e6, "1000000", "1000000", "1e+06"),
            (1_234_567.0, "1234567", "1234567", "1.234567e+06"),
            (1_234_567.5, "1234567.5", "1234567.5", "1.2345675e+06"),
            (0.0001, "0.0001", "0.0001", "0.0001"),
            (0.00001, "0.00001", "0.00001", "1e-05"),
            (1e-6, "0.000001", "0.000001", "1e-06"),
            (9.5e-7, "0.00000095", "9.5e-07", "9.5e-07"),
            (1.5e-7, "0.00000015", "1.5e-07", "1.5e-07"),
            (0.1 + 0.2, "0.30000000000000004", "0.30000000000000004", "0.30000000000000004"),
            (1e15, "1000000000000000", "1000000000000000", "1e+15"),
            (9007199254740993.0, "9007199254740992", "9007199254740992", "9.007199254740992e+15"),
            (1.5e20, "150000000000000000000", "150000000000000000000", "1.5e+20"),
            (1e21, "1000000000000000000000", "1e+21", "1e+21"),
            (5e-324, &format!("0.{}5", "0".repeat(323)), "5e-324", "5e-324"),
            (-1.25e100, &format!("-125{}", "0".repeat(98)), "-1.25e+100", "-1.25e+100"),
            (f64::INFINITY, "+Inf", "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN", "NaN"),
        ] {
            assert_eq!(float(value), plain);
            assert_eq!(api(value), in_api);
            assert_eq!(float_general(value), general);
        }
        assert_eq!(float_fixed(1_603_774_568.0, 3), "1603774568.000");
        assert_eq!(float_fixed(f64::NEG_INFINITY, 6), "-Inf");
    }

    #[test]
    fn of_two_equally_near_forms_the_even_one_is_taken() {
        let between_62_and_63 = 228_103_215_461_710.0 + 0.625;
        assert_eq!(float(between_62_and_63), "228103215461710.62");
        assert_eq!(api(between_62_and_63), "228103215461710.62");
        assert_eq!(float_general(between_62_and_63), "2.2810321546171062e+14");
        assert_eq!(float_fixed(0.125, 2), "0.12");
        assert_eq!(float_fixed(0.375, 2), "0.38");
    }

    #[test]
    fn a_precision_bounds_the_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (10.0, "10"),
            (100.0, "1e+02"),
            (0.125, "0.12"),
            (0.000_123_4, "0.00012"),
            (0.000_012_3, "1.2e-05"),
            (0.999, "1"),
            (99.9, "1e+02"),
            (-3.16, "-3.2"),
            (1234.5, "1.2e+03"),
        ] {
            assert_eq!(float_general_digits(value, 2), text, "{value}");
        }
        assert_eq!(float_general_digits(1234.5, 6), "1234.5");
        assert_eq!(float_general_digits(1_234_567.0, 3), "1.23e+06");
    }

    /// Compares with the way that all floats can go.
    fn check_api(value: f64) {
        let laid_out = shown(value, |digits, out| digits.push_within(out, -6..21));
        assert_eq!(api(value), laid_out, "{:#x}", value.to_bits());
    }

    #[test]
    fn quick_ways_write_the_same_digits() {
        for edge in [0.0, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e15, 1e16, 1e21, 2_f64.powi(53)] {
            let (below, above) = (edge.next_down(), edge.next_up());
            let near = [below.next_down(), below, edge, above, above.next_up()];
            near.into_iter().flat_map(|value| [value, -value]).for_each(check_api);
        }
        for special in [f64::NAN, f64::INFINITY, f64::MAX, f64::MIN_POSITIVE] {
            [special, -special].into_iter().for_each(check_api);
        }
        for power in -340..=310 {
            for digit in 1..10 {
                check_api(format!("{digit}e{power}").parse().unwrap());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn quick_ways_write_the_same_digits_at_random(
            bits: u64, subnormal in 0..1_u64 << 52, integer: i64, shift in 0..64,
            near_one in -80..80, decimal: i32, power in -12..12,
        ) {
            check_api(f64::from_bits(bits));
            check_api(f64::from_bits(subnormal >> shift));
            check_api((integer >> shift) as f64);
            // A whole number of halves, decimal, …: ties between two shortest forms.
            check_api((integer >> 10) as f64 * 0.5_f64.powi(shift));
            check_api(f64::from_bits((bits % (1 << 52)) | (1023 << 52)) * 2_f64.powi(near_one));
            // Decimals of few digits.
            check_api(format!("{decimal}e{power}").parse().unwrap());
            check_api(f64::from(decimal % 10_000) / 100.0);
            check_api(f64::from(decimal) / 299.87);
        }
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
                if !value.is_finite() {
                    continue;
                }
                for text in [float(value), api(value), float_general(value)] {
                    assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
                }
                assert_eq!(float(value).len(), format!("{value}").len());
                let plain = value == 0.0 || (1e-6..1e21).contains(&value.abs());
                assert_eq!(api(value).contains('e'), !plain, "{value}");
            }
        }
    }
}
