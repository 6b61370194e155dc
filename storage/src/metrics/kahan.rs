//! The compensated sum that Prometheus uses.

/// One step of Kahan's summation in Neumaier's variant: the new sum and compensation.
#[inline(always)]
pub fn kahan_add(increment: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + increment;
    // What the addition lost, exactly: Knuth's TwoSum, which need not ask which of the two is
    // greater. Without branches, loops over this are vectors.
    let added = total - sum;
    let lost = (sum - (total - added)) + (increment - added);
    (total, if total.is_infinite() { 0.0 } else { compensation + lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_what_neumaier_finds() {
        let neumaier = |increment: f64, sum: f64| {
            let total = sum + increment;
            match sum.abs() >= increment.abs() {
                true => (sum - total) + increment,
                false => (increment - total) + sum,
            }
        };
        let mut state = 9u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            f64::from_bits(state ^ state >> 31)
        };
        for _ in 0..100_000 {
            let (a, b) = (random(), random());
            for (increment, sum) in [(a, b), (a, a * 0.75), (a, -a), (a, a * 1e-10), (0.0, a)] {
                if (sum + increment).is_finite() {
                    let (_, lost) = kahan_add(increment, sum, 0.0);
                    assert_eq!(lost, neumaier(increment, sum), "{sum:e} + {increment:e}");
                }
            }
        }
        assert_eq!(kahan_add(f64::MAX, f64::MAX, 1.0), (f64::INFINITY, 0.0));
    }
}
