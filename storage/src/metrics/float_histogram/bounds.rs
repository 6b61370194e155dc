//! Bounds of exponential buckets.

/// `2^(1/2)`, `2^(1/4)`, … `2^(1/256)`, all but the first rounded to nearest.
const ROOTS_OF_2: [f64; 8] = [
    std::f64::consts::SQRT_2.next_down(),
    1.189207115002721,
    1.0905077326652577,
    1.0442737824274138,
    1.0218971486541166,
    1.0108892860517005,
    1.0054299011128027,
    1.0027112750502025,
];

/// `2^(index / 2^schema)`, but the largest finite float for the last bucket before infinity.
///
/// Clients know a bucket by the text of its bounds, so these are Prometheus's to the last bit. Its
/// table is up to four ulp off the true values; it is what comes of multiplying the roots that an
/// index is made of, from the greatest to the least, with a root of 2 that is cut, not rounded.
pub(super) fn exponential_bound(schema: i32, index: i32) -> f64 {
    // Bounds of greater indices are 0 or infinite anyway.
    let index = i64::from(index).clamp(-(1 << 20), 1 << 20);
    let (fraction, exponent) = match u32::try_from(schema) {
        Err(_) => (0, index << schema.unsigned_abs().min(8)),
        Ok(schema) => (index & ((1 << schema) - 1), index >> schema),
    };
    if fraction == 0 && exponent == 1024 {
        return f64::MAX;
    }
    let bits = (0..schema.max(0)).rev();
    let mantissa = bits.zip(ROOTS_OF_2).fold(1.0, |product, (bit, root)| {
        if fraction >> bit & 1 == 1 { product * root } else { product }
    });
    // In two steps, as 2^1024 and 2^-1074 are beyond one.
    let exponent = exponent.clamp(-2200, 2200) as i32;
    let half = exponent / 2;
    mantissa * 2f64.powi(half) * 2f64.powi(exponent - half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bucket_before_infinity_has_a_finite_bound() {
        for schema in -4..=8 {
            let last = if schema >= 0 { 1024 << schema } else { 1024 >> -schema };
            assert_eq!(exponential_bound(schema, last), f64::MAX);
            assert_eq!(exponential_bound(schema, last + 1), f64::INFINITY);
            assert_eq!(exponential_bound(schema, i32::MAX), f64::INFINITY);
            assert_eq!(exponential_bound(schema, i32::MIN), 0.0);
            assert_eq!(exponential_bound(schema, 0), 1.0);
        }
        assert_eq!(exponential_bound(0, -1074), f64::from_bits(1));
    }

    #[test]
    fn bounds_are_prometheus_s_to_the_last_bit() {
        for (schema, index, bound) in [
            (1, 1, std::f64::consts::SQRT_2.next_down()),
            (2, 3, 1.6817928305074288),
            (3, -1, 0.9170040432046711),
            (4, -15, 0.5221368912137069),
            (5, -1, 0.9785720620876999),
            (8, -1, 0.9972960560854698),
            (8, -237, 0.526395386502313),
            (8, -38, 0.9022270839033115),
            (8, 218, 1.804454167806623),
        ] {
            assert_eq!(exponential_bound(schema, index), bound, "{schema} {index}");
        }
        let ascending: Vec<f64> = (-600..600).map(|index| exponential_bound(8, index)).collect();
        assert!(ascending.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
