//! Floats as integers over a power of ten.
//!
//! A float *fits* an exponent `e` if it is the double nearest to some integer `m` over 10^e; then
//! `m` stands for it, bit for bit. That is found by rounding `v * 10^e` and proved by *division*:
//! `m` below 2^53 and 10^e up to 10^22 are exact doubles, and IEEE 754 division rounds correctly,
//! so every decimal of up to 15 digits fits the exponent it was written with. (Multiplying by 10^-e,
//! as ALP does, misses some, since 10^-e is not exact.) The proof goes through the integer, so -0.0
//! never fits: its `m` is 0.
//!
//! Sums of decimals drift off the grid by a few units in the last place. For those [`split`] gives
//! the nearest `m` and the distance in bit patterns, the *correction*; any float whatsoever is
//! exactly the two together.

/// Exponents that are tried; more digits than a double has do not help.
pub(crate) const EXPONENT_MAX: u8 = 15;

/// Above this, integers are no longer all doubles.
const MANTISSA_LIMIT: u64 = 1 << 53;

const POWERS: [f64; EXPONENT_MAX as usize + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

#[inline]
pub(crate) fn power(exponent: u8) -> f64 {
    POWERS[usize::from(exponent)]
}

/// The integer that stands for `value` at this exponent, if it fits.
#[inline]
pub(crate) fn mantissa(value: f64, exponent: u8) -> Option<i64> {
    let power = power(exponent);
    let mantissa = if exponent == 0 { value as i64 } else { nearest(value * power) };
    let back = mantissa as f64 / power;
    (back.to_bits() == value.to_bits() && mantissa.unsigned_abs() < MANTISSA_LIMIT)
        .then_some(mantissa)
}

/// Rounds to the nearest integer; saturates, and takes NaN to 0.
#[inline]
fn nearest(scaled: f64) -> i64 {
    // From 2^52 on all doubles are integers, and adding a half would round them.
    if scaled.abs() < 4_503_599_627_370_496.0 {
        (scaled + 0.5f64.copysign(scaled)) as i64
    } else {
        scaled as i64
    }
}

/// The integer nearest to `value` at this exponent, and what its bits are off.
///
/// `before` takes the place of integers that are no exact doubles, so that columns stay smooth.
#[inline]
pub(crate) fn split(value: f64, exponent: u8, before: i64) -> (i64, i64) {
    let scaled = nearest(value * power(exponent));
    let mantissa =
        if scaled.unsigned_abs() < MANTISSA_LIMIT && value.is_finite() { scaled } else { before };
    let grid = (mantissa as f64 / power(exponent)).to_bits();
    (mantissa, value.to_bits().wrapping_sub(grid) as i64)
}

/// The inverse of [`split`].
#[inline]
pub(crate) fn join(mantissa: i64, exponent: u8, correction: i64) -> f64 {
    let grid = (mantissa as f64 / power(exponent)).to_bits();
    f64::from_bits(grid.wrapping_add(correction as u64))
}

/// Fills `mantissas` at the smallest exponent that all values fit but `exceptions`, whose rows
/// repeat the mantissa before them; `None` if more than `exceptions_max` do not fit.
pub(crate) fn fit(
    values: &[f64],
    exceptions_max: usize,
    mantissas: &mut Vec<i64>,
    exceptions: &mut Vec<u32>,
) -> Option<u8> {
    mantissas.clear();
    exceptions.clear();
    let mut exponent = 0u8;
    // The value before, if it fitted: no bit pattern could stand for "none".
    let mut last: Option<(u64, i64)> = None;
    for (row, &value) in values.iter().enumerate() {
        if let Some((_, found)) = last.filter(|(bits, _)| *bits == value.to_bits()) {
            mantissas.push(found);
            continue;
        }
        if let Some(found) = mantissa(value, exponent) {
            last = Some((value.to_bits(), found));
            mantissas.push(found);
            continue;
        }
        if let Some((larger, found)) = fit_one(value, exponent + 1)
            && rescale(mantissas, larger - exponent)
        {
            exponent = larger;
            last = Some((value.to_bits(), found));
            mantissas.push(found);
            continue;
        }
        if exceptions.len() == exceptions_max {
            return None;
        }
        exceptions.push(row as u32);
        mantissas.push(mantissas.last().copied().unwrap_or(0));
        // Not `last`: the rows that repeat an exception are exceptions.
    }
    if exceptions.len() == values.len() {
        return None;
    }
    if let Some(smaller) = exponent_of_most(mantissas, exponent)
        && fit_at(values, smaller, exceptions_max, mantissas, exceptions)
    {
        exponent = smaller;
    }
    fill_first(mantissas, exceptions);
    Some(exponent)
}

/// A smaller exponent that all but a few mantissas can do with.
///
/// An odd double fits 15 digits by chance now and then. Were it not an exception, all others would
/// carry its digits as zeros.
fn exponent_of_most(mantissas: &[i64], exponent: u8) -> Option<u8> {
    /// Fewer digits are not worth the exceptions.
    const DIGITS_MIN: u8 = 3;
    if exponent < DIGITS_MIN {
        return None;
    }
    let outliers_max = mantissas.len() / 32;
    let mut outliers = 0;
    let mut smaller = 0;
    let (mut last, mut needed) = (0, 0);
    for &mantissa in mantissas {
        if mantissa != last {
            last = mantissa;
            needed = exponent;
            let mut rest = mantissa;
            while needed > smaller && rest % 10 == 0 {
                rest /= 10;
                needed -= 1;
            }
        }
        if needed + DIGITS_MIN > exponent {
            outliers += 1;
            if outliers > outliers_max {
                return None;
            }
        } else {
            smaller = smaller.max(needed);
        }
    }
    (outliers > 0).then_some(smaller)
}

/// Fills `mantissas` and `exceptions` at this exponent, unless there would be too many of these.
fn fit_at(
    values: &[f64],
    exponent: u8,
    exceptions_max: usize,
    mantissas: &mut Vec<i64>,
    exceptions: &mut Vec<u32>,
) -> bool {
    let fits = |value: &&f64| mantissa(**value, exponent).is_some();
    if values.len() - values.iter().filter(fits).count() > exceptions_max {
        return false;
    }
    mantissas.clear();
    exceptions.clear();
    for (row, &value) in values.iter().enumerate() {
        let found = mantissa(value, exponent).unwrap_or_else(|| {
            exceptions.push(row as u32);
            mantissas.last().copied().unwrap_or(0)
        });
        mantissas.push(found);
    }
    true
}

fn fit_one(value: f64, from: u8) -> Option<(u8, i64)> {
    if !value.is_finite() {
        return None;
    }
    (from..=EXPONENT_MAX)
        .find_map(|exponent| mantissa(value, exponent).map(|found| (exponent, found)))
}

/// Multiplies by 10^`steps`, unless one would leave the range of exact doubles.
fn rescale(mantissas: &mut [i64], steps: u8) -> bool {
    let factor = 10i64.pow(u32::from(steps));
    let largest = mantissas.iter().map(|mantissa| mantissa.unsigned_abs()).max().unwrap_or(0);
    if largest.checked_mul(factor as u64).is_none_or(|scaled| scaled >= MANTISSA_LIMIT) {
        return false;
    }
    mantissas.iter_mut().for_each(|mantissa| *mantissa *= factor);
    true
}

/// Exceptions at the front have nothing before them: they take what comes after.
fn fill_first(mantissas: &mut [i64], exceptions: &[u32]) {
    let front = exceptions.iter().enumerate().take_while(|(at, row)| *at == **row as usize).count();
    if front > 0 {
        let first = mantissas[front];
        mantissas[..front].fill(first);
    }
}

/// The exponent at which neighbours differ least in mantissas and corrections together, judged by
/// some of them; `None` if at all of them their bit patterns differ less.
pub(crate) fn split_exponent(values: &[f64]) -> Option<u8> {
    /// Pairs of neighbours that are looked at.
    const PAIRS: usize = 16;
    /// More digits behind the point than any clock has.
    const DIGITS_MAX: u8 = 12;
    let step = (values.len() / PAIRS).max(1);
    let pairs = || values.windows(2).step_by(step).filter(|pair| pair[0] != pair[1]);
    let bits = |a: i64, b: i64| {
        let difference = b.wrapping_sub(a);
        64 - (difference ^ difference >> 63).leading_zeros()
    };
    let cost = |exponent: u8| -> u32 {
        let cost = |pair: &[f64]| {
            let a = split(pair[0], exponent, 0);
            let b = split(pair[1], exponent, a.0);
            bits(a.0, b.0) + bits(a.1, b.1)
        };
        pairs().map(cost).sum()
    };
    let as_bits: u32 =
        pairs().map(|pair| bits(pair[0].to_bits() as i64, pair[1].to_bits() as i64)).sum();
    let (least, exponent) = (0..=DIGITS_MAX).map(|exponent| (cost(exponent), exponent)).min()?;
    (least < as_bits).then_some(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_first_value_that_fits_nothing_is_an_exception_whatever_its_bits() {
        for odd in [f64::NAN, f64::from_bits(0), -0.0, f64::INFINITY] {
            let (mut mantissas, mut exceptions) = (Vec::new(), Vec::new());
            fit(&[odd, 3.0, 5.0], 3, &mut mantissas, &mut exceptions).unwrap();
            assert_eq!(exceptions.contains(&0), mantissa(odd, 0).is_none(), "{odd}");
        }
    }

    #[test]
    fn decimals_fit_the_exponent_they_are_written_with() {
        for (value, exponent, expected) in [
            (0.1, 1, 1),
            (123.456, 3, 123_456),
            (-0.07, 2, -7),
            (4_503_599_627_370_497.0, 0, 4_503_599_627_370_497),
            (9_007_199_254_740_991.0, 0, 9_007_199_254_740_991),
            (0.123_456_789_012_345, 15, 123_456_789_012_345),
        ] {
            assert_eq!(mantissa(value, exponent), Some(expected), "{value}");
        }
        for value in [-0.0, f64::NAN, f64::INFINITY, 5e-324, 9_007_199_254_740_992.0] {
            assert_eq!(fit_one(value, 0), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_fits_is_exact(bits: u64, exponent in 0..=EXPONENT_MAX) {
            let value = f64::from_bits(bits);
            if let Some(found) = mantissa(value, exponent) {
                prop_assert_eq!((found as f64 / power(exponent)).to_bits(), bits);
            }
            let (found, correction) = split(value, exponent, 0);
            prop_assert_eq!(join(found, exponent, correction).to_bits(), bits);
        }

        #[test]
        fn fifteen_digits_always_fit(
            digits in -999_999_999_999_999i64..=999_999_999_999_999,
            exponent in 0..=EXPONENT_MAX,
        ) {
            let value = digits as f64 / power(exponent);
            prop_assert_eq!(mantissa(value, exponent), Some(digits));
        }
    }
}
