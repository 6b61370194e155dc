//! `limitk` and `limit_ratio`: some of the series of a vector, whatever their values.
//!
//! `limitk` takes the first `k` of each group at each step. `limit_ratio` takes a series by the
//! **offset** of its labels, a number in [0, 1] that a hash gives: the same series are taken at
//! every step and by every query, and the ratios `r` and `r - 1` take complements of each other.
//! The hash is that of Prometheus, over the label encoding of its default build, so that both take
//! the same series.

use icecore_storage::labels::Labels;
use xxhash_rust::xxh64::xxh64;

use crate::engine::QueryError;
use crate::exec::aggregate::Grouping;
use crate::exec::ranked::{counts, members, ordinals};
use crate::exec::rows::{Rows, for_each_bit, set_bit, words};
use crate::exec::{Scalar, Session};
use crate::functions::number;
use crate::parser::ast::{Aggregate, Span};

/// The first `parameter` rows of each group that have a point at a step.
pub(crate) fn limitk(
    aggregate: &Aggregate,
    rows: Rows,
    parameter: &Scalar,
) -> Result<Rows, QueryError> {
    let Some(counts) = counts(parameter, rows.steps, rows.len())? else {
        return Ok(Rows::new(rows.steps));
    };
    let (of_rows, groups) = ordinals(&rows, &Grouping::new(aggregate, false));
    let presences = rows.presences();
    let stride = words(rows.steps);
    let mut chosen = vec![0u64; presences.len()];
    let mut taken = vec![0usize; rows.steps];
    for members in members(&of_rows, groups.len()) {
        taken.fill(0);
        for row in members {
            let chosen = &mut chosen[row * stride..][..stride];
            for_each_bit(&presences[row * stride..][..stride], |step| {
                if taken[step] < counts[step] {
                    taken[step] += 1;
                    set_bit(chosen, step);
                }
            });
        }
    }
    Ok(rows.keep_steps(|row, word| chosen[row * stride + word]))
}

/// The rows whose offset is among the lowest `parameter` of all, or with a negative one among the
/// highest.
pub(crate) fn limit_ratio(
    rows: Rows,
    parameter: &Scalar,
    parameter_span: Span,
    session: &mut Session<'_>,
) -> Result<Rows, QueryError> {
    let ratios: Vec<f64> = (0..rows.steps).map(|step| parameter.at(step)).collect();
    if ratios.iter().all(|ratio| *ratio == 0.0) {
        return Ok(Rows::new(rows.steps));
    }
    if ratios.iter().any(|ratio| ratio.is_nan()) {
        return Err(QueryError::Execution("Ratio value is NaN".into()));
    }
    let max = ratios.iter().copied().fold(f64::NEG_INFINITY, number::max);
    let min = ratios.iter().copied().fold(f64::INFINITY, number::min);
    if max > 1.0 {
        session.annotations.invalid_ratio(max, 1.0, parameter_span);
    }
    if min < -1.0 {
        session.annotations.invalid_ratio(min, -1.0, parameter_span);
    }
    let stride = words(rows.steps);
    let mut chosen = vec![0u64; rows.len() * stride];
    let mut pace = session.budget.pace();
    for (row, meta) in rows.meta.iter().enumerate() {
        pace.step(rows.steps + 16)?;
        let offset = offset(&meta.labels);
        let chosen = &mut chosen[row * stride..][..stride];
        for (step, ratio) in ratios.iter().enumerate() {
            if takes(ratio.clamp(-1.0, 1.0), offset) {
                set_bit(chosen, step);
            }
        }
    }
    Ok(rows.keep_steps(|row, word| chosen[row * stride + word]))
}

fn takes(ratio: f64, offset: f64) -> bool {
    if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio }
}

/// Where a series stands between 0 and 1.
fn offset(labels: &Labels) -> f64 {
    xxh64(&go_bytes(labels), 0) as f64 / u64::MAX as f64
}

/// Labels as Prometheus keeps them in memory: each string after its length.
fn go_bytes(labels: &Labels) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(labels.as_bytes().len());
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        match u8::try_from(text.len()) {
            Ok(length) if length < u8::MAX => bytes.push(length),
            // Go's strings of labels are below 16 MB, or their lengths are cut as here.
            _ => {
                bytes.push(u8::MAX);
                bytes.extend_from_slice(&(text.len() as u64).to_le_bytes()[..3]);
            }
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_opposite_sign_complement_each_other() {
        for ratio in [0.0, 0.2, 0.5, 1.0] {
            for offset in [0.0, 0.2, 0.49, 0.5, 0.8, 0.999] {
                assert_ne!(takes(ratio, offset), takes(ratio - 1.0, offset), "{ratio} {offset}");
            }
        }
        assert!(takes(1.0, 0.999) && takes(-1.0, 0.0) && !takes(0.0, 0.0));
    }

    #[test]
    fn lengths_from_255_take_four_bytes() {
        let labels = |length: usize| Labels::from_pairs([("a", "x".repeat(length))]).unwrap();
        assert_eq!(&go_bytes(&labels(254))[..4], [1, b'a', 254, b'x']);
        assert_eq!(&go_bytes(&labels(255))[..7], [1, b'a', 255, 255, 0, 0, b'x']);
        assert_eq!(&go_bytes(&labels(258))[..7], [1, b'a', 255, 2, 1, 0, b'x']);
    }

    #[test]
    fn the_offset_is_the_hash_as_a_fraction() {
        // The hash of nothing, from the definition of xxHash.
        let expected = 0xef46_db37_51d8_e999_u64 as f64 / 18_446_744_073_709_551_615.0;
        assert_eq!(offset(&Labels::empty()), expected);
    }
}
