//! Aggregations that add series one by one: sum, avg, count, min, max, group, stddev, stdvar.
//!
//! - A **group** is a set of grouping labels; its **ordinal** is found once for a series, by the
//!   canonical bytes of those labels.
//! - **Cells** are the state of every group at every step, column by column, so that adding a row
//!   is a loop over slices. Histograms are kept apart, by `histogram_groups.rs`.
//!
//! Additions of floats do not commute. Rows are added one after the other in an order that their
//! labels decide ([`order_of_addition`]; of series, `leaf.rs`), so that a result depends neither on
//! scheduling nor on series that have no value at its step.

use std::collections::HashMap;

use icecore_storage::labels::METRIC_NAME;

use crate::annotations::Annotations;
use crate::exec::histogram_groups::HistogramGroups;
use crate::exec::rows::{
    HistogramPoints, Rows, SeriesMeta, bit, for_each_bit, last_step, set_bit, words,
};
use crate::exec::{Budget, label_edit};
use crate::parser::ast::{Aggregate, AggregateOp, Span};
use icecore_storage::metrics::kahan::kahan_add;

/// Whether the result's last bits depend on the order in which series are added.
pub(crate) fn depends_on_order(op: AggregateOp) -> bool {
    use AggregateOp::{Avg, Stddev, Stdvar, Sum};
    matches!(op, Sum | Avg | Stddev | Stdvar)
}

/// Which labels make a group.
#[derive(Clone, Debug)]
pub(crate) struct Grouping {
    names: Vec<String>,
    without: bool,
    /// The metric's name is gone before the aggregation sees it.
    name_dropped: bool,
}

impl Grouping {
    pub(crate) fn new(aggregate: &Aggregate, name_dropped: bool) -> Grouping {
        let mut names = aggregate.grouping.clone();
        names.sort_unstable();
        names.dedup();
        Grouping { names, without: aggregate.without, name_dropped }
    }

    /// The same with one more label in `by`.
    pub(crate) fn with(mut self, name: &str) -> Grouping {
        if !self.without {
            self.names.push(name.to_owned());
        }
        self
    }

    /// The group's labels as canonical bytes.
    pub(crate) fn write_key(&self, meta: &SeriesMeta, key: &mut Vec<u8>) {
        key.clear();
        if !self.without && self.names.is_empty() {
            return;
        }
        label_edit::write_filtered(&meta.labels, key, |name| {
            if name == METRIC_NAME.as_bytes() && self.without
                || self.name_dropped && label_edit::is_metadata(name)
            {
                return false;
            }
            self.names.iter().any(|listed| listed.as_bytes() == name) != self.without
        });
    }
}

/// Gives groups their ordinals.
#[derive(Debug, Default)]
pub(crate) struct Ordinals {
    known: HashMap<Box<[u8]>, u32>,
    keys: Vec<Box<[u8]>>,
    /// The ordinal that was asked for last.
    last: usize,
    marks: Vec<NameMarks>,
}

/// Whether the name of a group goes when the query ends. As in Prometheus, its last step decides:
/// the name goes if that of any series goes that is there.
#[derive(Clone, Copy, Debug, Default)]
struct NameMarks {
    last_kept: Option<usize>,
    last_dropped: Option<usize>,
}

impl Ordinals {
    pub(crate) fn get(&mut self, key: &[u8]) -> usize {
        // Neighbours are often of one group.
        if self.keys.get(self.last).is_some_and(|last| **last == *key) {
            return self.last;
        }
        self.last = self.find(key);
        self.last
    }

    fn find(&mut self, key: &[u8]) -> usize {
        if let Some(&ordinal) = self.known.get(key) {
            return ordinal as usize;
        }
        let ordinal = self.keys.len();
        self.known.insert(Box::from(key), ordinal as u32);
        self.keys.push(Box::from(key));
        self.marks.push(NameMarks::default());
        ordinal
    }

    /// Notes that a series belongs to a group, with the last step at which it is there.
    pub(crate) fn add_name(&mut self, ordinal: usize, dropped: bool, last_step: Option<usize>) {
        let marks = &mut self.marks[ordinal];
        let last = if dropped { &mut marks.last_dropped } else { &mut marks.last_kept };
        *last = (*last).max(last_step);
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn meta(&self, ordinal: usize) -> SeriesMeta {
        let NameMarks { last_kept, last_dropped } = self.marks[ordinal];
        let drop_name = last_dropped.is_some() && last_dropped >= last_kept;
        SeriesMeta { labels: label_edit::from_bytes(&self.keys[ordinal]), drop_name }
    }
}

/// Rows in the order in which an aggregation adds them.
pub(crate) fn order_of_addition(rows: &Rows) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_cached_key(|row| rows.meta[*row].labels.identity());
    order
}

/// The state of all groups of one aggregation.
#[derive(Debug)]
pub(crate) struct Groups {
    op: AggregateOp,
    steps: usize,
    /// Where the operand stands; annotations point there.
    span: Span,
    histograms: HistogramGroups,
    pub(crate) ordinals: Ordinals,
    /// Cells that have seen a sample.
    seen: Vec<u64>,
    /// Sum, extreme, or sum of squared distances from the mean.
    value: Vec<f64>,
    /// Kahan's compensation, or the mean of stddev and stdvar.
    second: Vec<f64>,
    count: Vec<f64>,
    /// Cells of `avg` that hold a mean instead of a sum; empty while there is none.
    incremental: Vec<u64>,
}

impl Groups {
    pub(crate) fn new(op: AggregateOp, steps: usize, span: Span) -> Groups {
        Groups {
            op,
            steps,
            span,
            histograms: HistogramGroups::default(),
            ordinals: Ordinals::default(),
            seen: Vec::new(),
            value: Vec::new(),
            second: Vec::new(),
            count: Vec::new(),
            incremental: Vec::new(),
        }
    }

    /// The ordinal of a key, with cells.
    pub(crate) fn group(&mut self, key: &[u8]) -> usize {
        use AggregateOp::*;
        let ordinal = self.ordinals.get(key);
        let cells = self.ordinals.len() * self.steps;
        let grow = |column: &mut Vec<f64>, needed: bool| {
            if needed {
                column.resize(cells, 0.0);
            }
        };
        self.seen.resize(self.ordinals.len() * words(self.steps), 0);
        grow(&mut self.value, !matches!(self.op, Count | Group));
        grow(&mut self.second, matches!(self.op, Sum | Avg | Stddev | Stdvar));
        grow(&mut self.count, matches!(self.op, Avg | Count | Stddev | Stdvar));
        ordinal
    }

    /// Memory of the cells, about.
    pub(crate) fn bytes(&self) -> u64 {
        let columns = self.value.len() + self.second.len() + self.count.len();
        let words = columns + self.seen.len() + self.incremental.len();
        (words * 8 + self.ordinals.len() * 160 + self.histograms.bytes()) as u64
    }

    /// Adds a row to the group of its labels; `key` is memory for them.
    pub(crate) fn add_series(
        &mut self,
        grouping: &Grouping,
        meta: &SeriesMeta,
        key: &mut Vec<u8>,
        (values, valid, histograms): (&[f64], &[u64], &HistogramPoints),
        annotations: &mut Annotations,
    ) {
        grouping.write_key(meta, key);
        let group = self.group(key);
        self.ordinals.add_name(group, meta.drop_name, last_step(valid, histograms));
        if !histograms.is_empty() {
            let metric = if grouping.name_dropped { "" } else { meta.labels.metric_name() };
            self.add_histograms(group, values, histograms, metric, annotations);
        }
        self.add(group, values, valid);
    }

    fn add_histograms(
        &mut self,
        ordinal: usize,
        values: &[f64],
        histograms: &HistogramPoints,
        metric: &str,
        annotations: &mut Annotations,
    ) {
        match self.op {
            AggregateOp::Count | AggregateOp::Group => {
                let mut valid = vec![0; words(self.steps)];
                histograms.iter().for_each(|(step, _)| set_bit(&mut valid, *step as usize));
                self.add(ordinal, values, &valid);
            }
            AggregateOp::Sum | AggregateOp::Avg => {
                let words = words(self.steps);
                let floats = &self.seen[ordinal * words..][..words];
                let (start, to) = (ordinal * self.steps, (annotations, self.span));
                self.histograms.add(self.op, start, histograms, floats, metric, to);
            }
            _ => annotations.ignored_in_aggregation(self.op.text(), self.span),
        }
    }

    /// Adds the floats of a row.
    fn add(&mut self, ordinal: usize, values: &[f64], valid: &[u64]) {
        match self.op {
            AggregateOp::Sum => self.add_sum(ordinal, values, valid),
            AggregateOp::Avg => self.add_mean(ordinal, values, valid),
            AggregateOp::Count => self.add_count(ordinal, valid),
            AggregateOp::Min => self.add_extreme(ordinal, values, valid, |old, new| old > new),
            AggregateOp::Max => self.add_extreme(ordinal, values, valid, |old, new| old < new),
            AggregateOp::Stddev | AggregateOp::Stdvar => self.add_deviation(ordinal, values, valid),
            _ => {}
        }
        let seen = &mut self.seen[ordinal * valid.len()..][..valid.len()];
        seen.iter_mut().zip(valid).for_each(|(seen, valid)| *seen |= valid);
    }

    fn cells(&self, ordinal: usize) -> std::ops::Range<usize> {
        ordinal * self.steps..(ordinal + 1) * self.steps
    }

    fn seen(&self, ordinal: usize) -> &[u64] {
        let words = words(self.steps);
        &self.seen[ordinal * words..][..words]
    }

    fn add_sum(&mut self, ordinal: usize, values: &[f64], valid: &[u64]) {
        let cells = self.cells(ordinal);
        let sums = self.value[cells.clone()].chunks_mut(64);
        let seconds = self.second[cells].chunks_mut(64);
        for (((sums, seconds), values), &valid) in
            sums.zip(seconds).zip(values.chunks(64)).zip(valid)
        {
            // All steps of a chunk have a value almost always.
            if valid.count_ones() as usize == values.len() {
                for ((sum, second), value) in sums.iter_mut().zip(seconds).zip(values) {
                    (*sum, *second) = kahan_add(*value, *sum, *second);
                }
            } else {
                for_each_bit(&[valid], |at| {
                    (sums[at], seconds[at]) = kahan_add(values[at], sums[at], seconds[at]);
                });
            }
        }
    }

    fn add_mean(&mut self, ordinal: usize, values: &[f64], valid: &[u64]) {
        let start = ordinal * self.steps;
        for_each_bit(valid, |step| {
            let cell = start + step;
            let value = values[step];
            if self.count[cell] == 0.0 {
                (self.value[cell], self.count[cell]) = (value, 1.0);
                return;
            }
            self.count[cell] += 1.0;
            let count = self.count[cell];
            if !self.is_incremental(cell) {
                let (sum, second) = kahan_add(value, self.value[cell], self.second[cell]);
                if !sum.is_infinite() {
                    (self.value[cell], self.second[cell]) = (sum, second);
                    return;
                }
                self.make_incremental(cell, count - 1.0);
            }
            let kept = (count - 1.0) / count;
            (self.value[cell], self.second[cell]) =
                kahan_add(value / count, kept * self.value[cell], kept * self.second[cell]);
        });
    }

    fn is_incremental(&self, cell: usize) -> bool {
        // The bitmap ends with the last cell that was made incremental, or later.
        self.incremental.get(cell / 64).is_some_and(|word| word >> (cell % 64) & 1 == 1)
    }

    /// Turns the sum of `count` values into their mean.
    fn make_incremental(&mut self, cell: usize, count: f64) {
        let words = self.incremental.len().max(cell / 64 + 1);
        self.incremental.resize(words, 0);
        set_bit(&mut self.incremental, cell);
        self.value[cell] /= count;
        self.second[cell] /= count;
    }

    fn add_count(&mut self, ordinal: usize, valid: &[u64]) {
        let cells = self.cells(ordinal);
        let counts = &mut self.count[cells];
        for_each_bit(valid, |step| counts[step] += 1.0);
    }

    fn add_extreme(
        &mut self,
        ordinal: usize,
        values: &[f64],
        valid: &[u64],
        replaced: impl Fn(f64, f64) -> bool,
    ) {
        let cells = self.cells(ordinal);
        let words = valid.len();
        let seen = &self.seen[ordinal * words..][..words];
        let extremes = &mut self.value[cells];
        for_each_bit(valid, |step| {
            let old = extremes[step];
            if !bit(seen, step) || replaced(old, values[step]) || old.is_nan() {
                extremes[step] = values[step];
            }
        });
    }

    fn add_deviation(&mut self, ordinal: usize, values: &[f64], valid: &[u64]) {
        let start = ordinal * self.steps;
        for_each_bit(valid, |step| {
            let cell = start + step;
            let value = values[step];
            self.count[cell] += 1.0;
            if self.count[cell] == 1.0 {
                self.second[cell] = value;
                self.value[cell] = if value.is_finite() { 0.0 } else { f64::NAN };
                return;
            }
            let delta = value - self.second[cell];
            self.second[cell] += delta / self.count[cell];
            self.value[cell] += delta * (value - self.second[cell]);
        });
    }

    /// The result, one row a group.
    pub(crate) fn finish(mut self, annotations: &mut Annotations, budget: &Budget) -> Rows {
        let mut rows = Rows::new(self.steps);
        let mut histograms = std::mem::take(&mut self.histograms);
        let mut pace = budget.pace();
        for ordinal in 0..self.ordinals.len() {
            if !pace.goes_on(self.steps) {
                break;
            }
            let (cells, to) = ((ordinal * self.steps, self.steps), (&mut *annotations, self.span));
            let mut floats = self.seen(ordinal).to_vec();
            rows.meta.push(self.ordinals.meta(ordinal));
            rows.histograms.push(histograms.finish(cells, &mut floats, to));
            rows.valid.extend_from_slice(&floats);
            rows.values.extend(self.cells(ordinal).map(|cell| self.result(cell)));
        }
        rows.remove_empty();
        rows
    }

    fn result(&self, cell: usize) -> f64 {
        match self.op {
            AggregateOp::Sum => self.value[cell] + self.second[cell],
            AggregateOp::Avg if self.is_incremental(cell) => self.value[cell] + self.second[cell],
            AggregateOp::Avg => {
                let count = self.count[cell];
                self.value[cell] / count + self.second[cell] / count
            }
            AggregateOp::Count => self.count[cell],
            AggregateOp::Group => 1.0,
            AggregateOp::Stdvar => self.value[cell] / self.count[cell],
            AggregateOp::Stddev => (self.value[cell] / self.count[cell]).sqrt(),
            _ => self.value[cell],
        }
    }
}

#[cfg(test)]
mod tests {
    use icecore_storage::labels::Labels;

    use super::*;
    use crate::exec::with_test_session;

    fn finished(groups: Groups) -> Rows {
        let mut rows = Rows::new(0);
        with_test_session(|session| {
            rows = groups.finish(&mut session.annotations, session.budget);
        });
        rows
    }

    /// Aggregates one step of one group.
    fn aggregated(op: AggregateOp, values: &[f64]) -> f64 {
        let mut groups = Groups::new(op, 1, Span::default());
        for value in values {
            let group = groups.group(b"");
            groups.add(group, &[*value], &[1]);
        }
        finished(groups).values[0]
    }

    #[test]
    fn every_operator_has_its_value() {
        let values = [1.0, 4.0, -2.0, 0.5, 8.0];
        let expected = [
            (AggregateOp::Sum, 11.5),
            (AggregateOp::Avg, 2.3),
            (AggregateOp::Count, 5.0),
            (AggregateOp::Min, -2.0),
            (AggregateOp::Max, 8.0),
            (AggregateOp::Group, 1.0),
            (AggregateOp::Stdvar, 11.76),
        ];
        for (op, expected) in expected {
            let got = aggregated(op, &values);
            assert!((got - expected).abs() < 1e-12, "{op:?}: {got}");
        }
    }

    #[test]
    fn sums_are_compensated() {
        assert_eq!(aggregated(AggregateOp::Sum, &[1.0, 1e100, 1.0, -1e100]), 2.0);
    }

    #[test]
    fn means_do_not_overflow() {
        let mean = aggregated(AggregateOp::Avg, &[f64::MAX; 4]);
        assert!((mean / f64::MAX - 1.0).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn rows_are_added_in_an_order_that_the_others_do_not_change() {
        let labels = |n: usize| Labels::from_pairs([("n", n.to_string())]).unwrap();
        let rows_of = |numbers: &[usize]| {
            let mut rows = Rows::new(0);
            rows.meta = numbers
                .iter()
                .map(|n| SeriesMeta { labels: labels(*n), drop_name: false })
                .collect();
            rows
        };
        let all: Vec<usize> = (0..50).collect();
        let some: Vec<usize> = all.iter().rev().copied().filter(|n| n % 3 > 0).collect();
        let in_order = |numbers: &[usize]| -> Vec<usize> {
            order_of_addition(&rows_of(numbers)).into_iter().map(|row| numbers[row]).collect()
        };
        let mut expected = in_order(&all);
        expected.retain(|n| n % 3 > 0);
        assert_eq!(in_order(&some), expected);
    }

    #[test]
    fn a_mean_that_overflows_leaves_later_groups_alone() {
        let mut groups = Groups::new(AggregateOp::Avg, 100, Span::default());
        let mut add = |key: &[u8], value: f64| {
            let group = groups.group(key);
            groups.add(group, &[value; 100], &[u64::MAX, (1 << 36) - 1]);
        };
        add(b"", f64::INFINITY);
        add(b"", f64::INFINITY);
        add(b"\x01a\x01b", 1.0);
        add(b"\x01a\x01b", 2.0);
        let rows = finished(groups);
        assert_eq!((rows.values(0)[99], rows.values(1)[99]), (f64::INFINITY, 1.5));
    }

    #[test]
    fn nan_yields_to_any_number_but_spoils_a_variance() {
        assert_eq!(aggregated(AggregateOp::Max, &[f64::NAN, 1.0, f64::NAN]), 1.0);
        assert_eq!(aggregated(AggregateOp::Min, &[f64::NAN, 1.0]), 1.0);
        assert!(aggregated(AggregateOp::Stddev, &[f64::INFINITY]).is_nan());
        assert!(aggregated(AggregateOp::Stddev, &[1.0, f64::NAN]).is_nan());
    }
}
