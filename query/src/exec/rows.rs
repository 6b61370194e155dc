//! Rows: an instant vector at every step of a grid, one row a series.
//!
//! - A **row** is a slice of `steps` floats and a bitmap of the steps that have one. NaN is a legal
//!   value, so absence is never a NaN.
//! - **Histogram points** are kept beside the row, sparse: a step holds a float, a histogram or
//!   nothing.
//! - A **meta** is a row's labels, and whether its metric name goes when the query ends.
//!
//! The rule: no two rows have equal labels and a point at the same step. Whoever edits labels calls
//! [`Rows::unify`].

use std::sync::Arc;

use icecore_storage::labels::Labels;

use crate::engine::QueryError;
use crate::exec::key_hash::{KeyHash, KeyMap};
use crate::exec::{Budget, label_edit};
use crate::histogram::FloatHistogram;

/// A row's series.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SeriesMeta {
    pub(crate) labels: Labels,
    /// With delayed name removal: the name goes when the query ends.
    pub(crate) drop_name: bool,
}

/// Histograms of one row by step, ascending.
pub(crate) type HistogramPoints = Vec<(u32, Arc<FloatHistogram>)>;

/// What histograms cost, in samples.
pub(crate) fn histogram_cost(points: &HistogramPoints) -> u64 {
    points.iter().map(|(_, histogram)| histogram.size_in_samples()).sum()
}

/// Memory of histograms and of the list of them, about.
fn histogram_bytes(points: &HistogramPoints) -> u64 {
    16 * (points.len() as u64 + histogram_cost(points))
}

/// Words of a bitmap over `steps`.
pub(crate) fn words(steps: usize) -> usize {
    steps.div_ceil(64)
}

pub(crate) fn bit(bitmap: &[u64], step: usize) -> bool {
    bitmap[step / 64] >> (step % 64) & 1 == 1
}

pub(crate) fn set_bit(bitmap: &mut [u64], step: usize) {
    bitmap[step / 64] |= 1 << (step % 64);
}

pub(crate) fn clear_bit(bitmap: &mut [u64], step: usize) {
    bitmap[step / 64] &= !(1 << (step % 64));
}

pub(crate) fn count_bits(bitmap: &[u64]) -> u64 {
    bitmap.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Calls `f` with every step that is set, ascending.
pub(crate) fn for_each_bit(bitmap: &[u64], mut f: impl FnMut(usize)) {
    for (index, &word) in bitmap.iter().enumerate() {
        let mut rest = word;
        while rest != 0 {
            f(index * 64 + rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
    }
}

/// The first step that is set.
pub(crate) fn first_bit(bitmap: impl Iterator<Item = u64>) -> Option<usize> {
    bitmap
        .enumerate()
        .find(|(_, word)| *word != 0)
        .map(|(index, word)| index * 64 + word.trailing_zeros() as usize)
}

/// The last step at which there is a float or a histogram.
pub(crate) fn last_step(valid: &[u64], histograms: &HistogramPoints) -> Option<usize> {
    let word = valid.iter().rposition(|word| *word != 0);
    let float = word.map(|word| word * 64 + valid[word].ilog2() as usize);
    float.max(histograms.last().map(|(step, _)| *step as usize))
}

/// A bitmap with every step set.
pub(crate) fn full_bitmap(steps: usize) -> Vec<u64> {
    let mut bitmap = vec![u64::MAX; words(steps)];
    trim(&mut bitmap, steps);
    bitmap
}

/// Clears the bits past the last step.
pub(crate) fn trim(bitmap: &mut [u64], steps: usize) {
    if !steps.is_multiple_of(64)
        && let Some(last) = bitmap.last_mut()
    {
        *last &= (1 << (steps % 64)) - 1;
    }
}

/// One row while it is computed; reused from series to series.
#[derive(Debug, Default)]
pub(crate) struct RowBuffer {
    pub(crate) values: Vec<f64>,
    pub(crate) valid: Vec<u64>,
    pub(crate) histograms: HistogramPoints,
}

impl RowBuffer {
    /// An empty row of `steps`.
    pub(crate) fn reset(&mut self, steps: usize) {
        self.values.clear();
        self.values.resize(steps, 0.0);
        self.valid.clear();
        self.valid.resize(words(steps), 0);
        self.histograms.clear();
    }

    pub(crate) fn set(&mut self, step: usize, value: f64) {
        self.values[step] = value;
        set_bit(&mut self.valid, step);
    }

    /// Takes over the points of a part of the row, whose first step is `start`.
    pub(crate) fn put(&mut self, start: usize, part: &mut RowBuffer) {
        self.values[start..start + part.values.len()].copy_from_slice(&part.values);
        for_each_bit(&part.valid, |step| set_bit(&mut self.valid, start + step));
        let histograms = part.histograms.drain(..);
        self.histograms.extend(histograms.map(|(step, one)| (start as u32 + step, one)));
    }

    pub(crate) fn has_floats(&self) -> bool {
        self.valid.iter().any(|word| *word != 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.histograms.is_empty() && !self.has_floats()
    }

    /// What it costs to hold, in samples.
    pub(crate) fn cost(&self) -> u64 {
        count_bits(&self.valid) + histogram_cost(&self.histograms)
    }

    /// Memory of the row with its meta, about.
    pub(crate) fn bytes(&self) -> u64 {
        let words = self.values.len() + self.valid.len();
        (words * 8 + ROW_BYTES) as u64 + histogram_bytes(&self.histograms)
    }

    /// What the point of one step costs.
    pub(crate) fn cost_at(&self, step: usize) -> u64 {
        let at = self.histograms.binary_search_by_key(&(step as u32), |(at, _)| *at);
        match at {
            Ok(at) => self.histograms[at].1.size_in_samples(),
            Err(_) => u64::from(bit(&self.valid, step)),
        }
    }
}

/// What a row takes besides cells and the bytes of its labels.
const ROW_BYTES: usize = size_of::<SeriesMeta>() + size_of::<HistogramPoints>() + 16;

#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) steps: usize,
    pub(crate) meta: Vec<SeriesMeta>,
    /// `steps` for each row.
    pub(crate) values: Vec<f64>,
    /// [`words`] of `steps` for each row.
    pub(crate) valid: Vec<u64>,
    /// As many as there are rows.
    pub(crate) histograms: Vec<HistogramPoints>,
}

impl Rows {
    pub(crate) fn new(steps: usize) -> Rows {
        Rows { steps, ..Rows::default() }
    }

    /// Makes room for so many rows.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.meta.reserve(rows);
        self.values.reserve(rows * self.steps);
        self.valid.reserve(rows * words(self.steps));
        self.histograms.reserve(rows);
    }

    pub(crate) fn len(&self) -> usize {
        self.meta.len()
    }

    pub(crate) fn values(&self, row: usize) -> &[f64] {
        &self.values[row * self.steps..][..self.steps]
    }

    pub(crate) fn valid(&self, row: usize) -> &[u64] {
        let words = words(self.steps);
        &self.valid[row * words..][..words]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> (&mut [f64], &mut [u64], &mut HistogramPoints) {
        let words = words(self.steps);
        (
            &mut self.values[row * self.steps..][..self.steps],
            &mut self.valid[row * words..][..words],
            &mut self.histograms[row],
        )
    }

    pub(crate) fn push(&mut self, meta: SeriesMeta, row: &mut RowBuffer) {
        self.meta.push(meta);
        self.values.extend_from_slice(&row.values);
        self.valid.extend_from_slice(&row.valid);
        self.histograms.push(std::mem::take(&mut row.histograms));
    }

    pub(crate) fn append(&mut self, mut other: Rows) {
        self.meta.append(&mut other.meta);
        self.values.append(&mut other.values);
        self.valid.append(&mut other.valid);
        self.histograms.append(&mut other.histograms);
    }

    /// Copies row `row` of `other`, with another meta.
    pub(crate) fn push_from(&mut self, other: &Rows, row: usize, meta: SeriesMeta) {
        self.meta.push(meta);
        self.values.extend_from_slice(other.values(row));
        self.valid.extend_from_slice(other.valid(row));
        self.histograms.push(other.histograms[row].clone());
    }

    /// Memory of `rows` rows without histograms and labels.
    pub(crate) fn bytes_of(&self, rows: usize) -> u64 {
        (rows * (8 * (self.steps + words(self.steps)) + ROW_BYTES)) as u64
    }

    /// Memory, about; labels are mostly those of series and counted there.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_of(self.len()) + self.histograms.iter().map(histogram_bytes).sum::<u64>()
    }

    /// What they cost to hold, in samples.
    pub(crate) fn cost(&self) -> u64 {
        count_bits(&self.valid) + self.histograms.iter().map(histogram_cost).sum::<u64>()
    }

    /// The steps at which the row has a float or a histogram, into `bitmap`.
    pub(crate) fn presence(&self, row: usize, bitmap: &mut Vec<u64>) {
        bitmap.clear();
        bitmap.extend_from_slice(self.valid(row));
        for (step, _) in &self.histograms[row] {
            set_bit(bitmap, *step as usize);
        }
    }

    /// [`Self::presence`] of all rows, one after the other.
    pub(crate) fn presences(&self) -> Vec<u64> {
        let mut all = self.valid.clone();
        let words = words(self.steps);
        for (row, points) in self.histograms.iter().enumerate() {
            for (step, _) in points {
                set_bit(&mut all[row * words..][..words], *step as usize);
            }
        }
        all
    }

    pub(crate) fn row_is_empty(&self, row: usize) -> bool {
        self.histograms[row].is_empty() && self.valid(row).iter().all(|word| *word == 0)
    }

    /// Removes the rows that have no point.
    pub(crate) fn remove_empty(&mut self) {
        if (0..self.len()).any(|row| self.row_is_empty(row)) {
            let order: Vec<usize> =
                (0..self.len()).filter(|&row| !self.row_is_empty(row)).collect();
            *self = self.reordered(&order);
        }
    }

    /// The rows that `order` lists, in its order.
    pub(crate) fn reordered(&self, order: &[usize]) -> Rows {
        let mut rows = Rows::new(self.steps);
        for &row in order {
            rows.push_from(self, row, self.meta[row].clone());
        }
        rows
    }

    /// Keeps the points of each row whose step is set in `mask(row, word)`.
    pub(crate) fn keep_steps(mut self, mask: impl Fn(usize, usize) -> u64) -> Rows {
        for row in 0..self.len() {
            let (_, valid, histograms) = self.row_mut(row);
            for (index, word) in valid.iter_mut().enumerate() {
                *word &= mask(row, index);
            }
            histograms.retain(|(step, _)| mask(row, *step as usize / 64) >> (step % 64) & 1 == 1);
        }
        self.remove_empty();
        self
    }

    pub(crate) fn drop_histograms(&mut self) {
        self.histograms.iter_mut().for_each(HistogramPoints::clear);
    }

    pub(crate) fn has_histograms(&self) -> bool {
        self.histograms.iter().any(|points| !points.is_empty())
    }

    /// One step, repeated to `steps` of them.
    pub(crate) fn repeat(self, steps: usize) -> Rows {
        assert_eq!(self.steps, 1, "only what is step invariant is repeated");
        let full = full_bitmap(steps);
        let mut rows = Rows::new(steps);
        rows.values.reserve(self.len() * steps);
        for row in 0..self.len() {
            rows.values.extend(std::iter::repeat_n(self.values[row], steps));
            let present = if self.valid[row] & 1 == 1 { u64::MAX } else { 0 };
            rows.valid.extend(full.iter().map(|word| word & present));
        }
        rows.histograms =
            self.histograms.into_iter().map(|points| repeat_points(&points, steps)).collect();
        rows.meta = self.meta;
        rows
    }

    /// Takes the metric names away, or marks them to go. True if rows may have equal labels now.
    pub(crate) fn drop_names(&mut self, delayed: bool) -> bool {
        if delayed {
            self.meta.iter_mut().for_each(|meta| meta.drop_name = true);
            return false;
        }
        let Some(first) = self.meta.first() else { return false };
        let differ = !self
            .meta
            .iter()
            .all(|meta| label_edit::metadata(&meta.labels).eq(label_edit::metadata(&first.labels)));
        if label_edit::metadata(&first.labels).next().is_none() && !differ {
            return false;
        }
        for meta in &mut self.meta {
            meta.labels = label_edit::without_name(&meta.labels);
        }
        differ
    }

    /// Merges rows of equal labels; an error if two of them have a point at one step. Whether the
    /// name goes is for the row to say that is there first.
    pub(crate) fn unify(self, budget: &Budget) -> Result<Rows, QueryError> {
        self.merge_equal(budget).map_err(|_| same_labelset())
    }

    /// The same; the error is the first step at which two rows meet.
    pub(crate) fn merge_equal(self, budget: &Budget) -> Result<Rows, usize> {
        let mut pace = budget.pace();
        let mut first: KeyMap<&[u8], usize> =
            KeyMap::with_capacity_and_hasher(self.len(), KeyHash::default());
        let mut target = Vec::with_capacity(self.len());
        for meta in &self.meta {
            if !pace.goes_on(16) {
                break;
            }
            let next = first.len();
            target.push(*first.entry(meta.labels.as_bytes()).or_insert(next));
        }
        if first.len() == self.len() {
            return Ok(self);
        }
        let mut rows = Rows::new(self.steps);
        let (mut taken, mut present) = (Vec::new(), Vec::new());
        let mut met: Option<usize> = None;
        for (row, &into) in target.iter().enumerate() {
            if !pace.goes_on(self.steps) {
                break;
            }
            if into == rows.len() {
                rows.push_from(&self, row, self.meta[row].clone());
                continue;
            }
            self.presence(row, &mut taken);
            rows.presence(into, &mut present);
            let first_step = |bitmap: &[u64]| first_bit(bitmap.iter().copied());
            if first_step(&taken) < first_step(&present) {
                rows.meta[into].drop_name = self.meta[row].drop_name;
            }
            let meets = first_bit(taken.iter().zip(&present).map(|(a, b)| a & b));
            met = [met, meets].into_iter().flatten().min();
            let (values, valid, histograms) = rows.row_mut(into);
            for_each_bit(self.valid(row), |step| values[step] = self.values(row)[step]);
            valid.iter_mut().zip(self.valid(row)).for_each(|(into, from)| *into |= from);
            histograms.extend_from_slice(&self.histograms[row]);
            histograms.sort_by_key(|(step, _)| *step);
        }
        met.map_or(Ok(rows), Err)
    }

    /// The end of delayed name removal: names that are marked go now.
    pub(crate) fn remove_marked_names(mut self, budget: &Budget) -> Result<Rows, QueryError> {
        if !self.meta.iter().any(|meta| meta.drop_name) {
            return Ok(self);
        }
        for meta in self.meta.iter_mut().filter(|meta| meta.drop_name) {
            meta.labels = label_edit::without_name(&meta.labels);
            meta.drop_name = false;
        }
        self.unify(budget)
    }
}

fn repeat_points(points: &HistogramPoints, steps: usize) -> HistogramPoints {
    let Some((_, histogram)) = points.first() else { return Vec::new() };
    (0..steps as u32).map(|step| (step, Arc::clone(histogram))).collect()
}

pub(crate) const SAME_LABELSET: &str = "vector cannot contain metrics with the same labelset";

pub(crate) fn same_labelset() -> QueryError {
    QueryError::Execution(SAME_LABELSET.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::with_test_session;

    fn with_budget<T>(f: impl FnOnce(&Budget) -> T) -> T {
        let mut result = None;
        with_test_session(|session| result = Some(f(session.budget)));
        result.unwrap()
    }

    fn rows(list: &[(&str, &[Option<f64>])]) -> Rows {
        let mut rows = Rows::new(list[0].1.len());
        let mut buffer = RowBuffer::default();
        for (name, points) in list {
            buffer.reset(points.len());
            for (step, point) in points.iter().enumerate() {
                if let Some(value) = point {
                    buffer.set(step, *value);
                }
            }
            let labels = Labels::from_pairs([("__name__", *name), ("a", "b")]).unwrap();
            rows.push(SeriesMeta { labels, drop_name: false }, &mut buffer);
        }
        rows
    }

    #[test]
    fn rows_of_equal_labels_merge_where_they_do_not_overlap() {
        let mut apart = rows(&[("x", &[Some(1.0), None]), ("y", &[None, Some(f64::NAN)])]);
        assert!(apart.drop_names(false));
        let merged = with_budget(|budget| apart.unify(budget)).unwrap();
        assert_eq!(merged.len(), 1);
        assert_eq!(merged.valid(0), [0b11]);
        assert!(merged.values(0)[1].is_nan());

        let mut over = rows(&[("x", &[Some(1.0), None]), ("y", &[Some(1.0), None])]);
        over.drop_names(false);
        assert_eq!(with_budget(|budget| over.unify(budget)).unwrap_err(), same_labelset());
    }

    #[test]
    fn marked_names_go_at_the_end() {
        let mut marked = rows(&[("x", &[Some(1.0)])]);
        assert!(!marked.drop_names(true));
        assert_eq!(marked.meta[0].labels.metric_name(), "x");
        let done = with_budget(|budget| marked.remove_marked_names(budget)).unwrap();
        assert_eq!(done.meta[0].labels.metric_name(), "");
    }

    #[test]
    fn one_step_is_repeated_over_word_borders() {
        let repeated = rows(&[("x", &[Some(2.0)]), ("y", &[None])]).repeat(70);
        assert_eq!(count_bits(repeated.valid(0)), 70);
        assert_eq!(count_bits(repeated.valid(1)), 0);
        assert_eq!(repeated.values(0)[69], 2.0);
    }
}
