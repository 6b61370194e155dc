//! Columns of floats, losslessly and small: "decimal PFOR".
//!
//! Most of what machines report is decimal: counts, bytes, milliseconds, ratios of few digits. As
//! integers over a power of ten ([`crate::encoding::mantissa`]) such columns have small differences,
//! which [`crate::encoding::pfor`] packs. The *form*, the high half of the first byte, says how a
//! column is stored; the low half is the exponent or refines the form:
//!
//! - *constant* and *ramp*: one or two numbers for the whole column
//! - *decimal*: mantissas as integers, divided by their common factor if they have one; values that
//!   fit no exponent (stale markers, other NaNs, infinities, -0, odd doubles) are *exceptions*,
//!   listed with their bits
//! - *sum*: mantissas and corrections in units of the last place, for accumulated floats
//! - *bits*: the floats' bit patterns as integers, or XORed (Gorilla): the last resorts
//!
//! The least form is taken. Every bit pattern round-trips. Layout: docs/format.md, "Floats".

use std::ops::Range;

use crate::encoding::mantissa::{self, power};
use crate::encoding::pfor::{self, Order, Plan, Planner};
use crate::encoding::{varint, xor};
use crate::metrics::sample::STALE_NAN_BITS;

/// Constant whose value fits the exponent: its mantissa, nothing if that is 0.
const FORM_CONSTANT: u8 = 0;
/// Mantissas with one difference: the first mantissa and the difference.
const FORM_RAMP: u8 = 1;
/// Three forms, by order; with a common factor three more, with exceptions six more.
const FORM_DECIMAL: u8 = 2;
const WITH_FACTOR: u8 = 3;
const WITH_EXCEPTIONS: u8 = 6;
const FORM_SUM: u8 = 14;
const FORM_BITS: u8 = 15;

/// Low halves of [`FORM_BITS`]; the orders of bit patterns as integers are 0 to 2.
const BITS_CONSTANT: u8 = 3;
const BITS_XOR: u8 = 4;

/// A decimal column that takes fewer bytes a value is kept without a look at the other forms.
const GOOD_ENOUGH_BYTES: usize = 3;

/// Appends `values` to `out`. For many columns use an [`Encoder`].
pub fn encode(values: &[f64], out: &mut Vec<u8>) {
    Encoder::default().encode(values, out);
}

/// A column of integers and the scratch to plan it.
#[derive(Debug, Default)]
struct Column {
    numbers: Vec<i64>,
    planner: Planner,
}

impl Column {
    fn plan(&mut self) -> Plan {
        self.planner.plan(&self.numbers)
    }

    fn write(&self, plan: Plan, out: &mut Vec<u8>) {
        self.planner.write(plan, &self.numbers, out);
    }
}

/// Scratch memory of encoding; with one of them reused, columns cost no allocation.
#[derive(Debug, Default)]
pub struct Encoder {
    mantissas: Column,
    /// Rows whose value the mantissas do not give.
    exceptions: Vec<u32>,
    sum_mantissas: Column,
    sum_corrections: Column,
    bits: Column,
    xor: Vec<u8>,
}

impl Encoder {
    /// Appends `values` to `out`; of no values nothing.
    pub fn encode(&mut self, values: &[f64], out: &mut Vec<u8>) {
        let Some(&first) = values.first() else { return };
        if values.iter().all(|value| value.to_bits() == first.to_bits()) {
            return self.write_constant(first, out);
        }
        let decimal = self.plan_decimal(values);
        let bytes = decimal.map_or(usize::MAX, |decimal| decimal.bytes);
        if bytes > GOOD_ENOUGH_BYTES * values.len() && self.write_other(values, bytes, out) {
            return;
        }
        self.write_decimal(values, &decimal.expect("without it another form was least"), out);
    }

    fn write_constant(&mut self, value: f64, out: &mut Vec<u8>) {
        let Column { numbers, .. } = &mut self.mantissas;
        match mantissa::fit(&[value], 0, numbers, &mut self.exceptions) {
            Some(exponent) => {
                out.push(tag(FORM_CONSTANT, exponent));
                if numbers[0] != 0 {
                    varint::write_signed(out, numbers[0]);
                }
            }
            None => {
                out.push(tag(FORM_BITS, BITS_CONSTANT));
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
        }
    }

    fn plan_decimal(&mut self, values: &[f64]) -> Option<Decimal> {
        let exceptions_max = values.len() / 8 + 1;
        let mantissas = &mut self.mantissas;
        let exponent =
            mantissa::fit(values, exceptions_max, &mut mantissas.numbers, &mut self.exceptions)?;
        if self.exceptions.is_empty()
            && let Some((first, step)) = ramp(&mantissas.numbers)
        {
            return Some(Decimal { exponent, form: DecimalForm::Ramp { first, step }, bytes: 0 });
        }
        let factor = take_out_factor(&mut mantissas.numbers);
        let plan = mantissas.plan();
        let bytes = 1
            + plan.bytes
            + factor.map_or(0, Factor::length)
            + self.exceptions.len() * EXCEPTION_BYTES;
        Some(Decimal { exponent, form: DecimalForm::Integers { factor, plan }, bytes })
    }

    fn write_decimal(&self, values: &[f64], decimal: &Decimal, out: &mut Vec<u8>) {
        match decimal.form {
            DecimalForm::Ramp { first, step } => {
                out.push(tag(FORM_RAMP, decimal.exponent));
                varint::write_signed(out, first);
                varint::write_signed(out, step);
            }
            DecimalForm::Integers { factor, plan } => {
                let mut form = FORM_DECIMAL + plan.order as u8;
                form += if factor.is_some() { WITH_FACTOR } else { 0 };
                form += if self.exceptions.is_empty() { 0 } else { WITH_EXCEPTIONS };
                out.push(tag(form, decimal.exponent));
                if let Some(factor) = factor {
                    varint::write(out, factor.divisor);
                    varint::write(out, factor.remainder);
                }
                self.mantissas.write(plan, out);
                write_exceptions(values, &self.exceptions, out);
            }
        }
    }

    /// Writes the least of the other forms, if it is below `limit` bytes.
    fn write_other(&mut self, values: &[f64], limit: usize, out: &mut Vec<u8>) -> bool {
        self.bits.numbers.clear();
        self.bits.numbers.extend(values.iter().map(|value| value.to_bits() as i64));
        let bits = self.bits.plan();
        let bits_bytes = 1 + bits.bytes;

        self.xor.clear();
        xor::encode_values(values, &mut self.xor);
        let xor_bytes = 1 + self.xor.len();

        let sum = mantissa::split_exponent(values).map(|exponent| self.plan_sum(values, exponent));
        let sum_bytes = sum.as_ref().map_or(usize::MAX, |sum| sum.bytes);

        let least = xor_bytes.min(bits_bytes).min(sum_bytes);
        if least >= limit {
            return false;
        }
        match sum {
            _ if least == bits_bytes => {
                out.push(tag(FORM_BITS, bits.order as u8));
                self.bits.write(bits, out);
            }
            Some(sum) if least == sum_bytes => self.write_sum(&sum, out),
            _ => {
                out.push(tag(FORM_BITS, BITS_XOR));
                out.extend_from_slice(&self.xor);
            }
        }
        true
    }

    fn plan_sum(&mut self, values: &[f64], exponent: u8) -> Sum {
        self.split(values, exponent);
        let mantissas = self.sum_mantissas.plan();
        let corrections = self.sum_corrections.plan();
        Sum { exponent, mantissas, corrections, bytes: 2 + mantissas.bytes + corrections.bytes }
    }

    fn write_sum(&self, sum: &Sum, out: &mut Vec<u8>) {
        out.push(tag(FORM_SUM, sum.exponent));
        out.push((sum.mantissas.order as u8) << 4 | sum.corrections.order as u8);
        self.sum_mantissas.write(sum.mantissas, out);
        self.sum_corrections.write(sum.corrections, out);
    }

    fn split(&mut self, values: &[f64], exponent: u8) {
        let mantissas = &mut self.sum_mantissas.numbers;
        let corrections = &mut self.sum_corrections.numbers;
        mantissas.clear();
        corrections.clear();
        // Of positive zero, which splits into zeros, at any exponent.
        let (mut bits, mut parts) = (0u64, (0i64, 0i64));
        for &value in values {
            if value.to_bits() != bits {
                bits = value.to_bits();
                parts = mantissa::split(value, exponent, parts.0);
            }
            mantissas.push(parts.0);
            corrections.push(parts.1);
        }
    }
}

/// A column of mantissas and exceptions, ready to be written.
#[derive(Clone, Copy, Debug)]
struct Decimal {
    exponent: u8,
    form: DecimalForm,
    /// At most what it takes; 0 for a ramp, which nothing beats.
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum DecimalForm {
    Ramp { first: i64, step: i64 },
    Integers { factor: Option<Factor>, plan: Plan },
}

/// A column of mantissas and corrections, ready to be written.
struct Sum {
    exponent: u8,
    mantissas: Plan,
    corrections: Plan,
    bytes: usize,
}

/// What every mantissa has in common: it is a multiple of `divisor` plus `remainder`.
#[derive(Clone, Copy, Debug)]
struct Factor {
    divisor: u64,
    remainder: u64,
}

impl Factor {
    fn length(self) -> usize {
        varint::length(self.divisor) + varint::length(self.remainder)
    }
}

fn tag(form: u8, low: u8) -> u8 {
    form << 4 | low
}

/// First and difference, if all differences are equal.
fn ramp(mantissas: &[i64]) -> Option<(i64, i64)> {
    let (&first, &second) = (mantissas.first()?, mantissas.get(1)?);
    let step = second - first;
    mantissas.windows(2).all(|pair| pair[1] - pair[0] == step).then_some((first, step))
}

/// Divides the mantissas by the greatest common divisor of their differences, if that is above 1.
fn take_out_factor(mantissas: &mut [i64]) -> Option<Factor> {
    let mut divisor = 0u64;
    for pair in mantissas.windows(2) {
        // Mantissas are below 2^53, so differences cannot overflow.
        let difference = (pair[1] - pair[0]).unsigned_abs();
        if difference != 0 {
            divisor = greatest_common_divisor(divisor, difference);
            if divisor == 1 {
                return None;
            }
        }
    }
    // No differences at all: a constant with exceptions.
    let signed = i64::try_from(divisor).ok().filter(|divisor| *divisor > 1)?;
    let remainder = mantissas.first()?.rem_euclid(signed);
    mantissas.iter_mut().for_each(|mantissa| *mantissa = mantissa.div_euclid(signed));
    Some(Factor { divisor, remainder: remainder as u64 })
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while a != 0 {
        (a, b) = (b % a, a);
    }
    b
}

/// More than an exception takes: gap and bits.
const EXCEPTION_BYTES: usize = 9;

/// What follows the gap of an exception: its bits, or nothing where they are well known.
const EXCEPTION_BITS: u64 = 0;
const EXCEPTION_STALE: u64 = 1;
/// The bits of the exception before.
const EXCEPTION_REPEAT: u64 = 2;

/// To the end of the column: varint of 3 times the rows between it and the last, plus the kind.
fn write_exceptions(values: &[f64], exceptions: &[u32], out: &mut Vec<u8>) {
    let mut next_row = 0;
    let mut last = 0;
    for &row in exceptions {
        let bits = values[row as usize].to_bits();
        let kind = match bits {
            STALE_NAN_BITS => EXCEPTION_STALE,
            _ if bits == last => EXCEPTION_REPEAT,
            _ => EXCEPTION_BITS,
        };
        varint::write(out, u64::from(row - next_row) * 3 + kind);
        if kind == EXCEPTION_BITS {
            out.extend_from_slice(&bits.to_le_bytes());
        }
        next_row = row + 1;
        last = bits;
    }
}

fn read_exceptions(mut bytes: &[u8], values: &mut [f64]) -> Option<()> {
    let mut next_row = 0usize;
    let mut last = 0;
    while !bytes.is_empty() {
        let number = varint::read(&mut bytes)?;
        let row = next_row.checked_add(usize::try_from(number / 3).ok()?)?;
        match number % 3 {
            EXCEPTION_STALE => last = STALE_NAN_BITS,
            EXCEPTION_REPEAT => {}
            _ => last = read_u64(&mut bytes)?,
        }
        *values.get_mut(row)? = f64::from_bits(last);
        next_row = row + 1;
    }
    Some(())
}

fn read_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*head))
}

/// How a column is stored, in a word.
pub fn form_name(bytes: &[u8]) -> &'static str {
    let Some(tag) = bytes.first() else { return "empty" };
    match (tag >> 4, tag & 15) {
        (FORM_CONSTANT, _) | (FORM_BITS, BITS_CONSTANT) => "constant",
        (FORM_RAMP, _) => "ramp",
        (FORM_SUM, _) => "sum",
        (FORM_BITS, BITS_XOR) => "xor",
        (FORM_BITS, _) => "bits",
        (form, _) if form - FORM_DECIMAL < WITH_FACTOR => "decimal",
        (form, _) if form - FORM_DECIMAL < WITH_EXCEPTIONS => "decimal, factor",
        (form, _) if form - FORM_DECIMAL < WITH_EXCEPTIONS + WITH_FACTOR => "decimal, exceptions",
        _ => "decimal, factor, exceptions",
    }
}

/// Reads all of `bytes` as a column of `count` values and appends them to `out`.
///
/// `None` if the bytes are not such a column; `out` is then as before.
pub fn decode(bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Option<()> {
    let start = out.len();
    let decoded = decode_column(bytes, count, out);
    if decoded.is_none() {
        out.truncate(start);
    }
    decoded
}

/// Appends the values of some rows of a column: what [`decode`] would append, less the rest.
///
/// Bytes behind the last of the rows may go unread; then nothing is said about them.
pub fn decode_rows(
    bytes: &[u8],
    count: usize,
    rows: Range<usize>,
    out: &mut Vec<f64>,
) -> Option<()> {
    assert!(rows.start <= rows.end && rows.end <= count, "rows of the column");
    let start = out.len();
    let decoded = decode_some(bytes, count, rows, out);
    if decoded.is_none() {
        out.truncate(start);
    }
    decoded
}

fn decode_some(bytes: &[u8], count: usize, rows: Range<usize>, out: &mut Vec<f64>) -> Option<()> {
    if rows.len() == count {
        return decode_column(bytes, count, out);
    }
    let (&tag, mut rest) = bytes.split_first()?;
    let (form, exponent) = (tag >> 4, tag & 15);
    match form {
        FORM_CONSTANT | FORM_RAMP => return decode_line(form, exponent, rest, rows, out),
        FORM_SUM | FORM_BITS => {}
        _ => {
            let integers = Integers::of(form - FORM_DECIMAL, &mut rest)?;
            if !integers.has_exceptions {
                return integers.decode(exponent, count, rows, &mut rest, out);
            }
        }
    }
    // These have to be decoded whole.
    let start = out.len();
    decode_column(bytes, count, out)?;
    out.truncate(start + rows.end);
    out.drain(start..start + rows.start);
    Some(())
}

fn decode_column(bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Option<()> {
    if count == 0 {
        return bytes.is_empty().then_some(());
    }
    let (&tag, mut rest) = bytes.split_first()?;
    let (form, exponent) = (tag >> 4, tag & 15);
    match form {
        FORM_CONSTANT | FORM_RAMP => return decode_line(form, exponent, rest, 0..count, out),
        FORM_SUM => decode_sum(exponent, &mut rest, count, out)?,
        FORM_BITS => return decode_bits(exponent, rest, count, out),
        _ => return decode_decimal(form - FORM_DECIMAL, exponent, rest, count, out),
    }
    rest.is_empty().then_some(())
}

/// A constant or a ramp.
fn decode_line(
    form: u8,
    exponent: u8,
    mut bytes: &[u8],
    rows: Range<usize>,
    out: &mut Vec<f64>,
) -> Option<()> {
    if form == FORM_CONSTANT {
        let mantissa = if bytes.is_empty() { 0 } else { varint::read_signed(&mut bytes)? };
        out.resize(out.len() + rows.len(), mantissa as f64 / power(exponent));
    } else {
        let first = varint::read_signed(&mut bytes)?;
        let step = varint::read_signed(&mut bytes)?;
        let mantissas = rows.map(|row| first.wrapping_add(step.wrapping_mul(row as i64)));
        extend(out, mantissas, exponent);
    }
    bytes.is_empty().then_some(())
}

/// Appends what the mantissas stand for.
#[inline]
fn extend(out: &mut Vec<f64>, mantissas: impl Iterator<Item = i64>, exponent: u8) {
    if exponent == 0 {
        out.extend(mantissas.map(|mantissa| mantissa as f64));
    } else {
        let power = power(exponent);
        out.extend(mantissas.map(|mantissa| mantissa as f64 / power));
    }
}

fn decode_decimal(
    form: u8,
    exponent: u8,
    mut bytes: &[u8],
    count: usize,
    out: &mut Vec<f64>,
) -> Option<()> {
    let start = out.len();
    let integers = Integers::of(form, &mut bytes)?;
    integers.decode(exponent, count, 0..count, &mut bytes, out)?;
    if integers.has_exceptions {
        read_exceptions(bytes, &mut out[start..])
    } else {
        bytes.is_empty().then_some(())
    }
}

/// How a decimal column's mantissas are stored.
struct Integers {
    order: Order,
    /// Divisor and remainder.
    factor: Option<(i64, i64)>,
    has_exceptions: bool,
}

impl Integers {
    /// By the form, less [`FORM_DECIMAL`], and what stands before the integers.
    fn of(form: u8, bytes: &mut &[u8]) -> Option<Integers> {
        let factor = match form % WITH_EXCEPTIONS < WITH_FACTOR {
            true => None,
            false => Some((varint::read(bytes)? as i64, varint::read(bytes)? as i64)),
        };
        let order = Order::from_byte(form % 3)?;
        Some(Integers { order, factor, has_exceptions: form >= WITH_EXCEPTIONS })
    }

    fn decode(
        &self,
        exponent: u8,
        count: usize,
        rows: Range<usize>,
        bytes: &mut &[u8],
        out: &mut Vec<f64>,
    ) -> Option<()> {
        let order = self.order;
        let power = (exponent > 0).then(|| power(exponent));
        match (self.factor, power) {
            (None, None) => pfor::read_rows(order, count, rows, bytes, out, |m| m as f64),
            (None, Some(power)) => {
                pfor::read_rows(order, count, rows, bytes, out, |m| m as f64 / power)
            }
            (Some((divisor, remainder)), power) => {
                let mantissa = |q: i64| q.wrapping_mul(divisor).wrapping_add(remainder) as f64;
                match power {
                    None => pfor::read_rows(order, count, rows, bytes, out, mantissa),
                    Some(power) => {
                        pfor::read_rows(order, count, rows, bytes, out, |q| mantissa(q) / power)
                    }
                }
            }
        }
    }
}

fn decode_sum(exponent: u8, bytes: &mut &[u8], count: usize, out: &mut Vec<f64>) -> Option<()> {
    let (&orders, rest) = bytes.split_first()?;
    *bytes = rest;
    // Mantissas and, behind them, corrections, both as bits.
    let start = out.len();
    let bits = |number: i64| f64::from_bits(number as u64);
    pfor::read(Order::from_byte(orders >> 4)?, count, bytes, out, bits)?;
    pfor::read(Order::from_byte(orders & 15)?, count, bytes, out, bits)?;
    let (mantissas, corrections) = out[start..].split_at_mut(count);
    for (value, correction) in mantissas.iter_mut().zip(corrections) {
        let (mantissa, correction) = (value.to_bits() as i64, correction.to_bits() as i64);
        *value = mantissa::join(mantissa, exponent, correction);
    }
    out.truncate(start + count);
    Some(())
}

fn decode_bits(kind: u8, mut bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Option<()> {
    match kind {
        BITS_CONSTANT => {
            let value = f64::from_bits(read_u64(&mut bytes)?);
            out.resize(out.len() + count, value);
        }
        BITS_XOR => return xor::decode_values(bytes, count, out),
        order => pfor::read(Order::from_byte(order)?, count, &mut bytes, out, |bits| {
            f64::from_bits(bits as u64)
        })?,
    }
    bytes.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTHS: [usize; 16] =
        [0, 1, 2, 3, 31, 32, 33, 64, 120, 127, 128, 129, 200, 480, 1024, 1920];

    /// Bytes of the column, after proving that they give it back.
    fn check(values: &[f64]) -> usize {
        let mut bytes = vec![0xab];
        encode(values, &mut bytes);
        let mut back = vec![1.5];
        decode(&bytes[1..], values.len(), &mut back).expect("own bytes are well-formed");
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back[1..]), bits(values));
        let rows = values.len() / 3..values.len() - values.len() / 4;
        let mut some = vec![1.5];
        decode_rows(&bytes[1..], values.len(), rows.clone(), &mut some)
            .expect("own bytes are well-formed");
        assert_eq!(bits(&some[1..]), bits(&values[rows]));
        // A reused encoder writes the same bytes.
        let mut encoder = Encoder::default();
        let mut again = Vec::new();
        encoder.encode(&[1.0, 2.5, f64::NAN, 1e300], &mut again);
        again.clear();
        encoder.encode(values, &mut again);
        assert_eq!(again, bytes[1..]);
        again.len()
    }

    fn check_lengths(value: impl Fn(usize) -> f64) {
        for length in LENGTHS {
            check(&(0..length).map(&value).collect::<Vec<_>>());
        }
    }

    fn random(row: usize) -> u64 {
        let mut bits = (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(77);
        for shift in [30, 27, 31] {
            bits = (bits ^ bits >> shift).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        bits
    }

    const ODD: [f64; 12] = [
        f64::from_bits(STALE_NAN_BITS),
        f64::from_bits(0x7ff8_0000_0000_0001),
        f64::from_bits(0xfff8_0000_0000_0abc),
        f64::INFINITY,
        f64::NEG_INFINITY,
        -0.0,
        5e-324,
        -2.2e-310,
        f64::MAX,
        9_007_199_254_740_993.0,
        -18_014_398_509_481_984.0,
        1.0 / 3.0,
    ];

    #[test]
    fn every_kind_of_column_at_every_length() {
        for odd in ODD {
            check_lengths(|_| odd);
            check_lengths(|row| if row % 40 == 3 { odd } else { row as f64 });
            check_lengths(|row| if row % 3 == 0 { odd } else { 0.25 });
        }
        check_lengths(|row| ODD[random(row) as usize % ODD.len()]);
        check_lengths(|row| f64::from_bits(random(row)));
        check_lengths(|row| (random(row) % 100) as f64);
        check_lengths(|row| (random(row) % 100_000) as f64 / 1000.0);
        check_lengths(|row| 4096.0 * (random(row) % 50) as f64);
        check_lengths(|row| row as f64 * 15.0 + 0.5);
        check_lengths(|row| (row as f64 * 1e15) - 7e16);
        check_lengths(|row| 1.0 / (row as f64 + 1.0));
        check_lengths(|row| (0..row).map(|row| (random(row) % 1000) as f64 * 0.001).sum());
    }

    #[test]
    fn columns_are_small() {
        let column = |value: &dyn Fn(usize) -> f64| (0..480).map(value).collect::<Vec<_>>();
        assert_eq!(check(&column(&|_| 0.0)), 1);
        assert_eq!(check(&column(&|_| 12.5)), 3);
        assert!(check(&column(&|row| 1e6 + 15.0 * row as f64)) <= 6);
        let stale = column(&|row| if row == 200 { ODD[0] } else { 7.0 });
        assert!(check(&stale) <= 12, "{}", check(&stale));
        let pages = column(&|row| 4096.0 * (1000 + random(row) % 16) as f64);
        assert!(check(&pages) < 260, "{}", check(&pages));
        let odd = column(&|row| match row {
            77 => 0.123_456_789_012_345,
            _ => (random(row) % 64) as f64 / 100.0,
        });
        assert!(check(&odd) < 400, "{}", check(&odd));
        let sum = column(&|row| (0..row).map(|row| (random(row) % 256) as f64 * 0.001).sum());
        assert!(check(&sum) < 2 * 480, "{}", check(&sum));
    }

    #[test]
    fn malformed_columns_are_refused() {
        let mut bytes = Vec::new();
        encode(&[1.0, 2.0, 5.0, 3.5], &mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end], 4, &mut Vec::new()), None, "{end}");
        }
        bytes.push(0);
        assert_eq!(decode(&bytes, 4, &mut Vec::new()), None);
        assert_eq!(decode(&[], 1, &mut Vec::new()), None);
        assert_eq!(decode(&[0], 0, &mut Vec::new()), None);
    }

    /// Values as they come: runs of one kind with others strewn in.
    fn any_column() -> impl Strategy<Value = Vec<f64>> {
        let odd = proptest::sample::select(ODD.to_vec());
        let value = prop_oneof![
            8 => (-5000i64..5000).prop_map(|number| number as f64),
            4 => (-500_000i64..500_000).prop_map(|number| number as f64 / 100.0),
            2 => any::<u64>().prop_map(f64::from_bits),
            1 => any::<i64>().prop_map(|number| number as f64),
            1 => odd,
        ];
        let runs = proptest::collection::vec((value, 1usize..9), 0..150);
        runs.prop_map(|runs| {
            runs.iter().flat_map(|&(value, length)| std::iter::repeat_n(value, length)).collect()
        })
    }

    proptest! {
        #[test]
        fn any_floats_round_trip(bits: Vec<u64>) {
            check(&bits.into_iter().map(f64::from_bits).collect::<Vec<_>>());
        }

        #[test]
        fn mixed_columns_round_trip(values in any_column()) {
            check(&values);
        }

        #[test]
        fn decimals_round_trip(
            digits in proptest::collection::vec(-1_000_000_000i64..1_000_000_000, 0..300),
            exponent in 0u8..=15,
        ) {
            check(&digits.iter().map(|&digit| digit as f64 / power(exponent)).collect::<Vec<_>>());
        }

        #[test]
        fn sums_round_trip(
            addends in proptest::collection::vec(0u32..100_000, 0..300),
            exponent in 0u8..=9,
        ) {
            let mut sum = 0.0;
            let sums = addends.iter().map(|&addend| {
                sum += f64::from(addend) / power(exponent);
                sum
            });
            check(&sums.collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>, count in 0usize..3000) {
            let mut out = Vec::new();
            match decode(&bytes, count, &mut out) {
                Some(()) => prop_assert_eq!(out.len(), count),
                None => prop_assert!(out.is_empty()),
            }
        }

        #[test]
        fn any_form_is_safe(tag: u8, bytes in proptest::collection::vec(0u8..90, 0..300)) {
            let bytes: Vec<u8> = std::iter::once(tag).chain(bytes).collect();
            let mut out = Vec::new();
            if decode(&bytes, 300, &mut out).is_some() {
                prop_assert_eq!(out.len(), 300);
            }
        }
    }
}
