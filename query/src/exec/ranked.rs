//! Aggregations that look at all values of a step together: topk, bottomk, quantile, count_values.

use std::cmp::Ordering;

use icecore_storage::labels::Labels;

use crate::engine::QueryError;
use crate::exec::aggregate::{Grouping, Ordinals};
use crate::exec::budget::{Budget, Growing};
use crate::exec::quantile::quantile_of;
use crate::exec::rows::{RowBuffer, Rows, SeriesMeta, bit, last_step, set_bit, words};
use crate::exec::{Scalar, Session, label_edit};
use crate::functions::number::{self, to_i64};
use crate::go_format::{float, float_general};
use crate::histogram::Text;
use crate::parser::ast::{Aggregate, AggregateOp, Span};

/// The group of each row.
pub(super) fn ordinals(rows: &Rows, grouping: &Grouping) -> (Vec<usize>, Ordinals) {
    let mut ordinals = Ordinals::default();
    let mut key = Vec::new();
    let of_rows = rows
        .meta
        .iter()
        .enumerate()
        .map(|(row, meta)| {
            grouping.write_key(meta, &mut key);
            let ordinal = ordinals.get(&key);
            let last_step = last_step(rows.valid(row), &rows.histograms[row]);
            ordinals.add_name(ordinal, meta.drop_name, last_step);
            ordinal
        })
        .collect();
    (of_rows, ordinals)
}

/// Rows by group.
pub(super) fn members(of_rows: &[usize], groups: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); groups];
    of_rows.iter().enumerate().for_each(|(row, &group)| members[group].push(row));
    members
}

/// `quantile`: one row a group.
pub(crate) fn quantile(
    aggregate: &Aggregate,
    rows: &Rows,
    parameter: &Scalar,
    (operand_span, parameter_span): (Span, Span),
    session: &mut Session<'_>,
) -> Result<Rows, QueryError> {
    let all = || (0..rows.steps).map(|step| parameter.at(step));
    // As in Go, one NaN hides the extremes.
    let max = all().fold(f64::NEG_INFINITY, number::max);
    let min = all().fold(f64::INFINITY, number::min);
    if all().any(f64::is_nan) {
        session.annotations.invalid_quantile(f64::NAN, parameter_span);
    }
    if max > 1.0 {
        session.annotations.invalid_quantile(max, parameter_span);
    }
    if min < 0.0 {
        session.annotations.invalid_quantile(min, parameter_span);
    }
    if rows.has_histograms() {
        session.annotations.ignored_in_aggregation("quantile", operand_span);
    }
    let (of_rows, groups) = ordinals(rows, &Grouping::new(aggregate, false));
    let mut result = Rows::new(rows.steps);
    let mut row = RowBuffer::default();
    let mut values = Vec::new();
    let mut pace = session.budget.pace();
    let mut memory = session.budget.growing();
    for (group, members) in members(&of_rows, groups.len()).into_iter().enumerate() {
        row.reset(rows.steps);
        for step in 0..rows.steps {
            pace.step(members.len())?;
            let present = members.iter().filter(|member| bit(rows.valid(**member), step));
            values.clear();
            values.extend(present.map(|member| rows.values(*member)[step]));
            if !values.is_empty() {
                row.set(step, quantile_of(parameter.at(step), &mut values));
            }
        }
        if !row.is_empty() {
            memory.by(row.bytes())?;
            result.push(groups.meta(group), &mut row);
        }
    }
    Ok(result)
}

/// What Prometheus takes for the bounds of numbers that fit into an integer, both excluded.
const COUNT_MIN: f64 = -9_223_372_036_854_775_808.0;
const COUNT_MAX: f64 = 9_223_372_036_854_774_784.0;

/// How many series `topk`, `bottomk` and `limitk` keep at a step; `None` if at no step any.
pub(super) fn counts(
    parameter: &Scalar,
    steps: usize,
    series: usize,
) -> Result<Option<Vec<usize>>, QueryError> {
    let all = || (0..steps).map(|step| parameter.at(step));
    if all().all(|k| k < 1.0) {
        return Ok(None);
    }
    let error = |text: String| Err(QueryError::Execution(text));
    if all().any(f64::is_nan) {
        return error("Parameter value is NaN".into());
    }
    let min = all().fold(f64::INFINITY, number::min);
    if min <= COUNT_MIN {
        return error(format!("Scalar value {} underflows int64", float_general(min)));
    }
    let max = all().fold(f64::NEG_INFINITY, number::max);
    if max >= COUNT_MAX {
        return error(format!("Scalar value {} overflows int64", float_general(max)));
    }
    let limited = |k: f64| usize::try_from(to_i64(k).max(0)).unwrap_or(usize::MAX).min(series);
    Ok(Some(all().map(limited).collect()))
}

/// The order of `topk` or `bottomk`: the best first, NaN last.
fn ranking(top: bool, a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) if top => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

/// `topk` or `bottomk`: rows of the operand, cut down to the steps at which they are among the k.
/// With one step the rows come in order of rank, group by group.
pub(crate) fn top(
    aggregate: &Aggregate,
    rows: &Rows,
    parameter: &Scalar,
    span: Span,
    session: &mut Session<'_>,
) -> Result<Rows, QueryError> {
    let Some(counts) = counts(parameter, rows.steps, rows.len())? else {
        return Ok(Rows::new(rows.steps));
    };
    // Where none is kept, none is looked at.
    let mut histograms = rows.histograms.iter().flatten();
    if histograms.any(|(step, _)| counts[*step as usize] > 0) {
        session.annotations.ignored_in_aggregation(aggregate.op.text(), span);
    }
    let (of_rows, groups) = ordinals(rows, &Grouping::new(aggregate, false));
    let is_top = aggregate.op == AggregateOp::Topk;
    let stride = words(rows.steps);
    let mut chosen = vec![0u64; rows.len() * stride];
    let mut order = Vec::new();
    let mut ranked: Vec<(f64, usize)> = Vec::new();
    let mut pace = session.budget.pace();
    for members in members(&of_rows, groups.len()) {
        for (step, &count) in counts.iter().enumerate() {
            pace.step(members.len())?;
            ranked.clear();
            let present = members.iter().filter(|member| bit(rows.valid(**member), step));
            ranked.extend(present.map(|member| (rows.values(*member)[step], *member)));
            // Equal values are told apart by their labels: the order of rows is not of this step
            // alone.
            let compare = |a: &(f64, usize), b: &(f64, usize)| {
                let labels = |row: usize| &rows.meta[row].labels;
                ranking(is_top, a.0, b.0).then_with(|| labels(a.1).cmp(labels(b.1)))
            };
            if count > 0 && count < ranked.len() {
                ranked.select_nth_unstable_by(count, compare);
            }
            ranked.truncate(count);
            for &(_, row) in &ranked {
                set_bit(&mut chosen[row * stride..][..stride], step);
            }
            if rows.steps == 1 {
                ranked.sort_unstable_by(compare);
                order.extend(ranked.iter().map(|(_, row)| *row));
            }
        }
    }
    if rows.steps > 1 {
        let kept = |row: &usize| chosen[row * stride..][..stride].iter().any(|word| *word != 0);
        order = (0..rows.len()).filter(kept).collect();
    }
    let mut result = rows.reordered(&order);
    for (at, &row) in order.iter().enumerate() {
        let (_, valid, histograms) = result.row_mut(at);
        valid.copy_from_slice(&chosen[row * stride..][..stride]);
        histograms.clear();
    }
    Ok(result)
}

/// `count_values`: one row for each group and value; histograms by what they are written as.
pub(crate) fn count_values(
    aggregate: &Aggregate,
    rows: &Rows,
    label: &str,
    budget: &Budget,
) -> Result<Rows, QueryError> {
    let mut counts = ValueCounts {
        grouping: Grouping::new(aggregate, false).with(label),
        label,
        groups: Ordinals::default(),
        rows: Rows::new(rows.steps),
        empty: RowBuffer::default(),
        key: Vec::new(),
        memory: budget.growing(),
    };
    counts.empty.reset(rows.steps);
    let mut pace = budget.pace();
    for (row, meta) in rows.meta.iter().enumerate() {
        // A series mostly repeats its value, and then its group.
        let mut last: Option<(u64, usize)> = None;
        for step in 0..rows.steps {
            pace.step(1)?;
            if !bit(rows.valid(row), step) {
                continue;
            }
            let value = rows.values(row)[step];
            let group = match last {
                Some((bits, group)) if bits == value.to_bits() => group,
                _ => counts.group(&meta.labels, &float(value))?,
            };
            last = Some((value.to_bits(), group));
            counts.count(group, step);
        }
        for (step, histogram) in &rows.histograms[row] {
            pace.step(1)?;
            let group = counts.group(&meta.labels, &Text(histogram).to_string())?;
            counts.count(group, *step as usize);
        }
    }
    Ok(counts.rows)
}

/// The counts so far: a row for each group and value.
struct ValueCounts<'a> {
    grouping: Grouping,
    label: &'a str,
    groups: Ordinals,
    rows: Rows,
    empty: RowBuffer,
    key: Vec<u8>,
    memory: Growing<'a>,
}

impl ValueCounts<'_> {
    /// The row of a value of a series.
    fn group(&mut self, labels: &Labels, value: &str) -> Result<usize, QueryError> {
        let labels = label_edit::with(labels, self.label, value);
        self.grouping.write_key(&SeriesMeta { labels, drop_name: false }, &mut self.key);
        let group = self.groups.get(&self.key);
        if group == self.rows.len() {
            self.memory.to(self.rows.bytes_of(group + 1))?;
            self.rows.push(self.groups.meta(group), &mut self.empty);
        }
        Ok(group)
    }

    fn count(&mut self, group: usize, step: usize) {
        let (counts, valid, _) = self.rows.row_mut(group);
        counts[step] += 1.0;
        set_bit(valid, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_ranks_last_both_ways() {
        let mut values = [1.0, f64::NAN, 3.0];
        values.sort_by(|a, b| ranking(true, *a, *b));
        assert!(values[0] == 3.0 && values[2].is_nan());
        values.sort_by(|a, b| ranking(false, *a, *b));
        assert!(values[0] == 1.0 && values[2].is_nan());
    }

    #[test]
    fn the_parameter_of_topk_must_be_a_number() {
        let nan = counts(&Scalar::Constant(f64::NAN), 1, 3).unwrap_err();
        assert_eq!(nan.to_string(), "Parameter value is NaN");
        assert_eq!(counts(&Scalar::Constant(0.5), 1, 3).unwrap(), None);
        assert_eq!(counts(&Scalar::Constant(2.9), 1, 3).unwrap(), Some(vec![2]));
        assert!(counts(&Scalar::Constant(1e300), 1, 3).is_err());
    }
}
