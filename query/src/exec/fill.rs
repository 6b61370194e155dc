//! Fill modifiers: `a + fill(0) b` computes with a number where a series has no match.
//!
//! A missing partner becomes a row of its own before the join: the number at the steps at which
//! the signature is there on the other side only, under the labels by which series match. To the
//! join such a row is one like any other, so that its rules for labels and for conflicts hold.

use crate::exec::join::{Signatures, match_labels, present_by_ordinal};
use crate::exec::operator::type_errors;
use crate::exec::rows::{RowBuffer, Rows, SeriesMeta, for_each_bit, words};
use crate::parser::ast::{Binary, Cardinality, Matching};

/// Adds the rows that are missing on either side, with their ordinals: the left ones of `found` are
/// those of `many`.
pub(super) fn fill(
    binary: &Binary,
    matching: &Matching,
    many: &mut Rows,
    one: &mut Rows,
    found: &mut Signatures,
) {
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let (left, right) = (matching.fill_left, matching.fill_right);
    let (for_many, for_one) = if swapped { (right, left) } else { (left, right) };
    let many_present = present_by_ordinal(many, &found.left, found.count);
    let one_present = present_by_ordinal(one, &found.right, found.count);
    let without = |present: &[u64], other: &[u64]| -> Vec<u64> {
        present.iter().zip(other).map(|(present, other)| present & !other).collect()
    };
    // Both are decided before either is added, or what fills one side would be filled itself.
    let missing_one = for_one.map(|value| (value, without(&many_present, &one_present)));
    let missing_many = for_many.map(|value| {
        let matched = matched_by_ordinal(binary, many, one, found, swapped);
        (value, without(&one_present, &matched))
    });
    let mut added_one = Vec::new();
    if let Some((value, missing)) = missing_one {
        added_one = add_rows(one, value, &missing, (many, &found.left), matching);
    }
    if let Some((value, missing)) = missing_many {
        let added = add_rows(many, value, &missing, (one, &found.right), matching);
        found.left.extend(added);
    }
    found.right.extend(added_one);
}

/// For each ordinal the steps at which a row of the many side found a partner. A pair on whose
/// types the operator is not defined does not count, as in Prometheus.
fn matched_by_ordinal(
    binary: &Binary,
    many: &Rows,
    one: &Rows,
    found: &Signatures,
    swapped: bool,
) -> Vec<u64> {
    let stride = words(many.steps);
    let mut matched = vec![0u64; found.count * stride];
    let mut partners: Vec<Vec<usize>> = vec![Vec::new(); found.count];
    found.right.iter().enumerate().for_each(|(row, &ordinal)| partners[ordinal].push(row));
    let (many_presences, one_presences) = (many.presences(), one.presences());
    for (row, &ordinal) in found.left.iter().enumerate() {
        let into = &mut matched[ordinal * stride..][..stride];
        let many_present = &many_presences[row * stride..][..stride];
        for &partner in &partners[ordinal] {
            let one_present = &one_presences[partner * stride..][..stride];
            for (word, into) in into.iter_mut().enumerate() {
                let both = many_present[word] & one_present[word];
                let sides = (many.valid(row)[word], one.valid(partner)[word]);
                let (left, right) = if swapped { (sides.1, sides.0) } else { sides };
                *into |= both & !type_errors(binary.op, left, right);
            }
        }
    }
    matched
}

/// Adds to `rows` one row with `value` for each ordinal that is missing at some step; the labels
/// come from the `other` side. Returns the ordinals of the new rows.
fn add_rows(
    rows: &mut Rows,
    value: f64,
    missing: &[u64],
    (other, ordinals): (&Rows, &[usize]),
    matching: &Matching,
) -> Vec<usize> {
    let stride = words(rows.steps);
    let mut done = vec![false; missing.len().checked_div(stride).unwrap_or(0)];
    let mut added = Vec::new();
    let mut buffer = RowBuffer::default();
    for (row, &ordinal) in ordinals.iter().enumerate() {
        let steps = &missing[ordinal * stride..][..stride];
        if std::mem::replace(&mut done[ordinal], true) || steps.iter().all(|word| *word == 0) {
            continue;
        }
        buffer.reset(rows.steps);
        for_each_bit(steps, |step| buffer.set(step, value));
        let labels = match_labels(&other.meta[row].labels, matching);
        rows.push(SeriesMeta { labels, drop_name: false }, &mut buffer);
        added.push(ordinal);
    }
    added
}
