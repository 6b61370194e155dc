//! Binary operators between two vectors: matching, `group_left`, `group_right`, set operators.
//!
//! - A **signature** is the labels by which series match; its ordinal is found once for a series.
//! - A **pair** is a series of the "many" side and one of the "one" side with equal ordinals; the
//!   operator runs over both rows where both have a point.
//!
//! Which series meet differs from step to step, since series come and go. Conflicts are therefore
//! found on bitmaps: the first step at which two series of one signature are both present is where
//! Prometheus would have failed.

use std::collections::HashMap;

use icecore_storage::labels::METRIC_NAME;

use crate::engine::QueryError;
use crate::exec::failure::FirstFailure;
use crate::exec::histogram_operator::{Note, Notes, Operand};
use crate::exec::key_hash::KeyMap;
use crate::exec::label_edit;
use crate::exec::operator::{apply, changes_metric, holds, is_trim, type_errors};
use crate::exec::rows::{
    HistogramPoints, RowBuffer, Rows, SAME_LABELSET, SeriesMeta, first_bit, for_each_bit, set_bit,
    words,
};
use crate::exec::{Budget, Session, fill, histogram_operator};
use crate::go_format::quote;
use crate::parser::ast::{Binary, BinaryOp, Cardinality, Matching, Span};
use crate::value::Point;
use icecore_storage::labels::Labels;

/// Signature ordinals of the rows of both sides.
pub(super) struct Signatures {
    pub(super) left: Vec<usize>,
    pub(super) right: Vec<usize>,
    pub(super) count: usize,
}

fn signatures(matching: &Matching, left: &Rows, right: &Rows, budget: &Budget) -> Signatures {
    let mut pace = budget.pace();
    let names = listed_names(matching);
    let mut known: KeyMap<Vec<u8>, usize> = KeyMap::default();
    let mut key = Vec::new();
    let mut ordinals = |rows: &Rows| -> Vec<usize> {
        let of_row = |meta: &SeriesMeta| {
            key.clear();
            write_signature(&meta.labels, matching.on, &names, &mut key);
            if let Some(&ordinal) = known.get(&key) {
                return ordinal;
            }
            let ordinal = known.len();
            known.insert(key.clone(), ordinal);
            ordinal
        };
        rows.meta.iter().take_while(|_| pace.goes_on(32)).map(of_row).collect()
    };
    let (left, right) = (ordinals(left), ordinals(right));
    Signatures { left, right, count: known.len() }
}

/// The labels of `on` or `ignoring`, ascending.
fn listed_names(matching: &Matching) -> Vec<&str> {
    let mut names: Vec<&str> = matching.labels.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn write_signature(labels: &Labels, on: bool, names: &[&str], key: &mut Vec<u8>) {
    if on {
        return label_edit::write_listed(labels, key, names, true);
    }
    label_edit::write_filtered(labels, key, |name| {
        name != METRIC_NAME.as_bytes() && !names.iter().any(|listed| listed.as_bytes() == name)
    });
}

/// Rows by their ordinals.
struct RowsOf {
    rows: Vec<usize>,
    /// Where those of each ordinal end.
    ends: Vec<usize>,
}

impl RowsOf {
    fn new(ordinals: &[usize], count: usize) -> RowsOf {
        let mut ends = vec![0; count];
        ordinals.iter().for_each(|ordinal| ends[*ordinal] += 1);
        let mut next = 0;
        for end in &mut ends {
            // First where the next of them goes, at last behind their last.
            next += std::mem::replace(end, next);
        }
        let mut rows = vec![0; ordinals.len()];
        for (row, ordinal) in ordinals.iter().enumerate() {
            rows[ends[*ordinal]] = row;
            ends[*ordinal] += 1;
        }
        RowsOf { rows, ends }
    }

    fn of(&self, ordinal: usize) -> &[usize] {
        let start = ordinal.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.rows[start..self.ends[ordinal]]
    }

    /// Ordinal by ordinal.
    fn iter(&self) -> impl Iterator<Item = &[usize]> {
        (0..self.ends.len()).map(|ordinal| self.of(ordinal))
    }
}

/// The labels by which a series matches.
pub(super) fn match_labels(labels: &Labels, matching: &Matching) -> Labels {
    let mut key = Vec::new();
    write_signature(labels, matching.on, &listed_names(matching), &mut key);
    label_edit::from_bytes(&key)
}

/// `and`, `or`, `unless`.
pub(crate) fn set_operator(
    binary: &Binary,
    matching: &Matching,
    left: Rows,
    right: Rows,
    budget: &Budget,
) -> Result<Rows, QueryError> {
    let found = signatures(matching, &left, &right, budget);
    budget.check()?;
    let stride = words(left.steps);
    let other =
        if binary.op == BinaryOp::Or { (&left, &found.left) } else { (&right, &found.right) };
    let present = present_by_ordinal(other.0, other.1, found.count);
    let mask = |ordinal: usize| &present[ordinal * stride..][..stride];
    match binary.op {
        BinaryOp::Or => {
            let mut result = left;
            result.append(right.keep_steps(|row, word| !mask(found.right[row])[word]));
            result.unify(budget)
        }
        BinaryOp::Unless => Ok(left.keep_steps(|row, word| !mask(found.left[row])[word])),
        _ => Ok(left.keep_steps(|row, word| mask(found.left[row])[word])),
    }
}

/// For each ordinal the steps at which any of its rows has a point.
pub(super) fn present_by_ordinal(rows: &Rows, ordinals: &[usize], count: usize) -> Vec<u64> {
    let stride = words(rows.steps);
    let mut present = vec![0u64; count * stride];
    let presences = rows.presences();
    for (row, &ordinal) in ordinals.iter().enumerate() {
        let into = &mut present[ordinal * stride..][..stride];
        into.iter_mut().zip(&presences[row * stride..]).for_each(|(into, from)| *into |= from);
    }
    present
}

/// Failures of one step, in the order in which Prometheus meets them.
const RANK_ONE_SIDE: u8 = 0;
const RANK_MATCHES: u8 = 1;
const RANK_SAME_LABELS: u8 = 2;

/// Arithmetic and comparisons.
pub(crate) fn operator(
    binary: &Binary,
    matching: &Matching,
    left: Rows,
    right: Rows,
    span: Span,
    session: &mut Session<'_>,
) -> Result<Rows, QueryError> {
    let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
    let steps = left.steps;
    let swapped = matching.cardinality == Cardinality::OneToMany;
    // From here on, `many` is the side that may repeat a signature and `one` is the other.
    let (mut many, mut one) = if swapped { (right, left) } else { (left, right) };
    let mut found = signatures(matching, &many, &one, session.budget);
    session.budget.check()?;
    if fills {
        fill::fill(binary, matching, &mut many, &mut one, &mut found);
    }
    let stride = words(steps);
    let (many_present, one_present) = (many.presences(), one.presences());
    let one_rows = RowsOf::new(&found.right, found.count);
    let many_rows = RowsOf::new(&found.left, found.count);

    let mut failure = FirstFailure::default();
    // Without anything to match, Prometheus looks at neither side.
    let any_many = match fills {
        true => vec![u64::MAX; stride],
        false => any_present(&many_present, stride),
    };
    for rows in one_rows.iter().filter(|rows| rows.len() > 1) {
        if let Some(step) = first_overlap(rows, &one_present, stride, &any_many) {
            let side = if swapped { "left" } else { "right" };
            failure.record(step, RANK_ONE_SIDE, || {
                duplicate_one_side(step, rows, &one, &one_present, matching, side)
            });
        }
    }

    let mut pace = session.budget.pace();
    let mut memory = session.budget.growing();
    let mut output = Output::new(binary, matching, &many, &one, swapped, steps);
    let mut both = vec![0; stride];
    for (ordinal, rows) in many_rows.iter().enumerate() {
        for &one_row in one_rows.of(ordinal) {
            let group = (rows.len() > 1).then_some(ordinal);
            for &many_row in rows {
                let of_many = many_present[many_row * stride..].iter();
                let of_one = one_present[one_row * stride..].iter();
                let words = both.iter_mut().zip(of_many.zip(of_one));
                words.for_each(|(both, (many, one))| *both = many & one);
                pace.step(steps)?;
                if both.iter().any(|word| *word != 0) {
                    memory.to(output.rows.bytes_of(output.rows.len() + 1))?;
                    output.pair(group, many_row, one_row, &both, session.delayed);
                }
            }
        }
    }
    if let Some(step) = output.first_duplicate(stride) {
        let wanted = match matching.cardinality {
            Cardinality::OneToOne => {
                "many-to-one matching must be explicit (group_left/group_right)"
            }
            _ => "grouping labels must ensure unique matches",
        };
        failure.record(step, RANK_MATCHES, || format!("multiple matches for labels: {wanted}"));
    }
    output.notes.say(binary.op, span, session);
    let merged = output.rows.merge_equal(session.budget);
    if let Err(step) = merged {
        failure.record(step, RANK_SAME_LABELS, || SAME_LABELSET.into());
    }
    failure.finish()?;
    Ok(merged.unwrap_or_default())
}

fn any_present(presences: &[u64], stride: usize) -> Vec<u64> {
    let mut any = vec![0; stride];
    for row in presences.chunks(stride.max(1)) {
        any.iter_mut().zip(row).for_each(|(any, word)| *any |= word);
    }
    any
}

/// The first step of `mask` at which two of `rows` are present.
fn first_overlap(rows: &[usize], presences: &[u64], stride: usize, mask: &[u64]) -> Option<usize> {
    if rows.len() < 2 {
        return None;
    }
    let mut once = vec![0u64; stride];
    let mut twice = vec![0u64; stride];
    for &row in rows {
        let present = &presences[row * stride..][..stride];
        for ((once, twice), word) in once.iter_mut().zip(&mut twice).zip(present) {
            *twice |= *once & word;
            *once |= word;
        }
    }
    first_bit(twice.iter().zip(mask).map(|(twice, mask)| twice & mask))
}

fn duplicate_one_side(
    step: usize,
    rows: &[usize],
    one: &Rows,
    presences: &[u64],
    matching: &Matching,
    side: &str,
) -> String {
    let stride = words(one.steps);
    let present = |row: &&usize| presences[**row * stride + step / 64] >> (step % 64) & 1 == 1;
    let mut two: Vec<String> =
        rows.iter().filter(present).take(2).map(|row| written(&one.meta[*row].labels)).collect();
    two.sort_unstable();
    let group = match_labels(&one.meta[rows[0]].labels, matching);
    format!(
        "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}];many-to-many matching not allowed: matching labels must be unique on one side",
        written(&group),
        two.join(", ")
    )
}

/// Labels as Go's `Labels.String` writes them: the name among the others.
pub(super) fn written(labels: &Labels) -> String {
    let pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}={}", quote(value.as_bytes()))).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// The result of an operator, pair by pair.
struct Output<'a> {
    binary: &'a Binary,
    matching: &'a Matching,
    many: &'a Rows,
    one: &'a Rows,
    swapped: bool,
    rows: Rows,
    buffer: RowBuffer,
    notes: Notes,
    /// Of signatures that several series of the many side have: with the labels of the result if
    /// those tell the matches apart, where there was a match.
    matches: HashMap<(usize, Labels), Vec<Vec<u64>>>,
}

impl<'a> Output<'a> {
    fn new(
        binary: &'a Binary,
        matching: &'a Matching,
        many: &'a Rows,
        one: &'a Rows,
        swapped: bool,
        steps: usize,
    ) -> Output<'a> {
        Output {
            binary,
            matching,
            many,
            one,
            swapped,
            rows: Rows::new(steps),
            buffer: RowBuffer::default(),
            notes: Notes::default(),
            matches: HashMap::new(),
        }
    }

    /// Computes a pair where `both` are present; `group` is their signature if other series of the
    /// many side have it too.
    fn pair(
        &mut self,
        group: Option<usize>,
        many_row: usize,
        one_row: usize,
        both: &[u64],
        delayed: bool,
    ) {
        let meta = self.meta(many_row, one_row, delayed);
        let many_values = self.many.values(many_row);
        let one_values = self.one.values(one_row);
        let (left, right) =
            if self.swapped { (one_values, many_values) } else { (many_values, one_values) };
        let steps = self.rows.steps;
        self.buffer.reset(steps);
        let op = self.binary.op;
        let valid = self.many.valid(many_row).iter().zip(self.one.valid(one_row));
        let floats = valid.map(|(many, one)| many & one);
        if is_trim(op) {
            let floats: Vec<u64> = floats.collect();
            for_each_bit(&floats, |step| self.notes.take(step, many_row, Note::FLOATS));
        } else if op.is_comparison() && !self.binary.return_bool {
            let floats: Vec<u64> = floats.collect();
            for_each_bit(&floats, |step| {
                if holds(op, left[step], right[step]) {
                    self.buffer.set(step, left[step]);
                }
            });
        } else {
            self.buffer.valid.iter_mut().zip(floats).for_each(|(valid, word)| *valid = word);
            arithmetic(op, left, right, &mut self.buffer.values);
        }
        let refused = self.histograms(many_row, one_row, both);
        if let Some(ordinal) = group {
            let one_to_one = self.matching.cardinality == Cardinality::OneToOne;
            let labels = if one_to_one { Labels::empty() } else { meta.labels.clone() };
            let matched = both.iter().enumerate().map(|(word, both)| {
                let sides = (self.many.valid(many_row)[word], self.one.valid(one_row)[word]);
                let (left, right) = if self.swapped { (sides.1, sides.0) } else { sides };
                let refused = refused.get(word).copied().unwrap_or(0);
                both & !type_errors(op, left, right) & !refused
            });
            self.matches.entry((ordinal, labels)).or_default().push(matched.collect());
        }
        if !self.buffer.is_empty() {
            self.rows.push(meta, &mut self.buffer);
        }
    }

    /// The labels of a result. A name that is marked to go stays, as in Prometheus, where an
    /// operator forgets the mark.
    fn meta(&self, many_row: usize, one_row: usize, delayed: bool) -> SeriesMeta {
        let many = &self.many.meta[many_row].labels;
        let drop_now = changes_metric(self.binary.op);
        let one_to_one = self.matching.cardinality == Cardinality::OneToOne;
        let matching = self.matching;
        let mut labels = many.filtered(|name| {
            if drop_now && label_edit::is_metadata(name) {
                return false;
            }
            let listed = matching.labels.iter().any(|label| label.as_bytes() == name);
            !one_to_one || listed == matching.on
        });
        for name in &matching.include {
            let value = self.one.meta[one_row].labels.get(name).unwrap_or("");
            labels = label_edit::with(&labels, name, value);
        }
        if self.binary.return_bool && !delayed {
            labels = label_edit::without_name(&labels);
        }
        SeriesMeta { labels, drop_name: self.binary.return_bool && delayed }
    }

    /// Computes the steps of a pair at which either side is a histogram. Returns those that are
    /// refused; nothing without histograms.
    fn histograms(&mut self, many_row: usize, one_row: usize, both: &[u64]) -> Vec<u64> {
        let points = |rows: &'a Rows, row: usize| &rows.histograms[row];
        let (many, one) = (points(self.many, many_row), points(self.one, one_row));
        if many.is_empty() && one.is_empty() {
            return Vec::new();
        }
        let mut refused = vec![0; both.len()];
        let operand =
            |rows: &Rows, points: &'a HistogramPoints, row: usize, step: usize| match points
                .binary_search_by_key(&(step as u32), |(at, _)| *at)
            {
                Ok(at) => Operand::Histogram(&points[at].1),
                Err(_) => Operand::Float(rows.values(row)[step]),
            };
        for_each_bit(both, |step| {
            let many = operand(self.many, many, many_row, step);
            let one = operand(self.one, one, one_row, step);
            if let (Operand::Float(_), Operand::Float(_)) = (many, one) {
                return;
            }
            let (left, right) = if self.swapped { (one, many) } else { (many, one) };
            let (op, return_bool) = (self.binary.op, self.binary.return_bool);
            let outcome = histogram_operator::apply(op, return_bool, left, right);
            match outcome.point {
                Some(Point::Float(value)) => self.buffer.set(step, value),
                Some(Point::Histogram(result)) => {
                    self.buffer.histograms.push((step as u32, result));
                }
                None => {}
            }
            if let Some(note) = outcome.note {
                self.notes.take(step, many_row, note);
                if note.refuses() {
                    set_bit(&mut refused, step);
                }
            }
        });
        refused
    }

    /// The first step at which two matches of one signature have the same labels.
    fn first_duplicate(&self, stride: usize) -> Option<usize> {
        let full = vec![u64::MAX; stride];
        let several = self.matches.values().filter(|masks| masks.len() > 1);
        several
            .filter_map(|masks| {
                let rows: Vec<usize> = (0..masks.len()).collect();
                first_overlap(&rows, &masks.concat(), stride, &full)
            })
            .min()
    }
}

/// One operator over two rows; the loop of the common operators has no branch.
fn arithmetic(op: BinaryOp, left: &[f64], right: &[f64], out: &mut [f64]) {
    let each = |out: &mut [f64], f: &dyn Fn(f64, f64) -> f64| {
        for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
            *out = f(*left, *right);
        }
    };
    macro_rules! inline_loop {
        ($op:tt) => {
            for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
                *out = left $op right;
            }
        };
    }
    match op {
        BinaryOp::Add => inline_loop!(+),
        BinaryOp::Sub => inline_loop!(-),
        BinaryOp::Mul => inline_loop!(*),
        BinaryOp::Div => inline_loop!(/),
        op => each(out, &|left, right| apply(op, left, right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_at_their_first_step() {
        // Three rows over two words.
        let presences = [0b0001, 0, 0b0010, 0b100, 0b0100, 0b100];
        assert_eq!(first_overlap(&[0, 1, 2], &presences, 2, &[u64::MAX; 2]), Some(66));
        assert_eq!(first_overlap(&[0, 1, 2], &presences, 2, &[u64::MAX, 0]), None);
        assert_eq!(first_overlap(&[0, 1], &presences, 2, &[u64::MAX; 2]), None);
    }

    #[test]
    fn rows_are_found_by_their_ordinals() {
        let rows = RowsOf::new(&[2, 0, 2, 3, 2], 5);
        let listed: Vec<&[usize]> = rows.iter().collect();
        assert_eq!(listed, [&[1][..], &[], &[0, 2, 4], &[3], &[]]);
    }

    #[test]
    fn labels_are_written_with_the_name_among_them() {
        let labels = Labels::from_pairs([("__name__", "m"), ("a", "b")]).unwrap();
        assert_eq!(written(&labels), r#"{__name__="m", a="b"}"#);
        assert_eq!(written(&Labels::empty()), "{}");
    }
}
