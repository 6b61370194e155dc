//! The buckets of one sign: counts, and spans that say which indices they belong to.
//!
//! The rule: spans list as many buckets as there are counts. Indices ascend in everything that is
//! valid; what is not is carried along without a panic, so all sums of indices wrap.

use crate::metrics::histogram::Span;

/// Counts by bucket index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    spans: Vec<Span>,
    counts: Vec<f64>,
}

/// A bucket of two layouts laid over each other, by its place in either.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Both(usize, usize),
    First(usize),
    Second(usize),
}

impl Buckets {
    pub fn new(spans: Vec<Span>, counts: Vec<f64>) -> Buckets {
        let listed = spans.iter().map(|span| span.length as usize).sum::<usize>();
        assert_eq!(listed, counts.len(), "spans list as many buckets as there are counts");
        Buckets { spans, counts }
    }

    /// Consecutive buckets from index `offset` on.
    pub fn run(offset: i32, counts: &[f64]) -> Buckets {
        let spans = match counts.len() {
            0 => Vec::new(),
            length => vec![Span { offset, length: length as u32 }],
        };
        Buckets { spans, counts: counts.to_vec() }
    }

    /// Appends a bucket behind all others.
    pub fn push(&mut self, index: i32, count: f64) {
        let end = self.end();
        push_index(&mut self.spans, end, index);
        self.counts.push(count);
    }

    /// The index behind the last.
    fn end(&self) -> i32 {
        self.spans
            .iter()
            .fold(0i32, |end, span| end.wrapping_add(span.offset).wrapping_add(span.length as i32))
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    pub fn counts(&self) -> &[f64] {
        &self.counts
    }

    /// The same buckets with other counts.
    pub fn counts_mut(&mut self) -> &mut [f64] {
        &mut self.counts
    }

    pub(super) fn clear(&mut self) {
        self.spans.clear();
        self.counts.clear();
    }

    /// Indices, ascending.
    pub(super) fn indices(&self) -> impl Iterator<Item = i32> {
        let mut end = 0i32;
        self.spans.iter().flat_map(move |span| {
            let start = end.wrapping_add(span.offset);
            end = start.wrapping_add(span.length as i32);
            (0..span.length).map(move |at| start.wrapping_add(at as i32))
        })
    }

    /// Indices with their counts, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (i32, f64)> {
        self.indices().zip(self.counts.iter().copied())
    }

    /// [`Self::iter`] from the last to the first.
    pub(super) fn iter_reversed(&self) -> impl Iterator<Item = (i32, f64)> {
        let mut end = self.end();
        let indices = self.spans.iter().rev().flat_map(move |span| {
            let start = end.wrapping_sub(span.length as i32);
            end = start.wrapping_sub(span.offset);
            (0..span.length).rev().map(move |at| start.wrapping_add(at as i32))
        });
        indices.zip(self.counts.iter().rev().copied())
    }

    /// Whether indices and the bits of counts are the same; the spans may differ.
    pub(super) fn same_data(&self, other: &Buckets) -> bool {
        self.counts.len() == other.counts.len()
            && self.iter().zip(other.iter()).all(|((index, count), (other_index, other_count))| {
                index == other_index && count.to_bits() == other_count.to_bits()
            })
    }

    pub(super) fn compact(&mut self) {
        let joined = |span: &Span| span.offset != 0 && span.length != 0;
        let compact = self.counts.iter().all(|count| *count != 0.0)
            && self.spans.iter().skip(1).all(joined)
            && self.spans.first().is_none_or(|span| span.length != 0);
        if !compact {
            *self = self.iter().filter(|(_, count)| *count != 0.0).collect();
        }
    }

    /// Buckets `2^by` times as wide.
    pub(super) fn reduced(&self, by: u32) -> Buckets {
        let mut spans = Vec::with_capacity(self.spans.len());
        let mut counts: Vec<f64> = Vec::with_capacity(self.counts.len());
        self.reduce_into(by, &mut spans, |from, into| match counts.get_mut(into) {
            Some(count) => *count += self.counts[from],
            None => counts.push(self.counts[from]),
        });
        Buckets { spans, counts }
    }

    /// Writes the spans of buckets `2^by` times as wide, and tells for each bucket which of the wide
    /// ones it goes into.
    pub(super) fn reduce_into(
        &self,
        by: u32,
        spans: &mut Vec<Span>,
        mut goes: impl FnMut(usize, usize),
    ) {
        let (mut end, mut wide_buckets) = (0, 0);
        for (from, index) in self.indices().enumerate() {
            let wide = (index.wrapping_sub(1) >> by.min(31)).wrapping_add(1);
            if wide_buckets == 0 || end != wide.wrapping_add(1) {
                push_index(spans, end, wide);
                end = wide.wrapping_add(1);
                wide_buckets += 1;
            }
            goes(from, wide_buckets - 1);
        }
    }

    /// The spans of the buckets that these or `other` have, leaving out the first `skipped` of
    /// `other`, and where each bucket is.
    pub(super) fn laid_over(
        &self,
        other: &Buckets,
        skipped: usize,
        mut place: impl FnMut(Place),
    ) -> Vec<Span> {
        if skipped == 0 && self.spans == other.spans {
            (0..self.counts.len()).for_each(|at| place(Place::Both(at, at)));
            return self.spans.clone();
        }
        let mut spans = Vec::with_capacity(self.spans.len() + other.spans.len());
        let mut end = 0;
        let mut first = self.indices().enumerate().peekable();
        let mut second = other.indices().enumerate().skip(skipped).peekable();
        loop {
            let index = match (first.peek().copied(), second.peek().copied()) {
                (Some((a, index)), Some((b, other_index))) if index == other_index => {
                    first.next();
                    second.next();
                    place(Place::Both(a, b));
                    index
                }
                (Some((a, index)), other) if other.is_none_or(|(_, other)| index < other) => {
                    first.next();
                    place(Place::First(a));
                    index
                }
                (_, Some((b, index))) => {
                    second.next();
                    place(Place::Second(b));
                    index
                }
                _ => return spans,
            };
            push_index(&mut spans, end, index);
            end = index.wrapping_add(1);
        }
    }

    pub(super) fn set(&mut self, spans: Vec<Span>, counts: Vec<f64>) {
        *self = Buckets::new(spans, counts);
    }

    /// Removes the first `skipped` buckets.
    pub(super) fn remove_first(&mut self, skipped: usize) {
        if skipped > 0 {
            *self = self.iter().skip(skipped).collect();
        }
    }
}

impl FromIterator<(i32, f64)> for Buckets {
    fn from_iter<I: IntoIterator<Item = (i32, f64)>>(buckets: I) -> Buckets {
        let (mut spans, mut counts, mut end) = (Vec::new(), Vec::new(), 0);
        for (index, count) in buckets {
            push_index(&mut spans, end, index);
            counts.push(count);
            end = index.wrapping_add(1);
        }
        Buckets { spans, counts }
    }
}

/// Appends a bucket to spans that end before `end`.
fn push_index(spans: &mut Vec<Span>, end: i32, index: i32) {
    match spans.last_mut() {
        Some(last) if index == end => last.length += 1,
        _ => spans.push(Span { offset: index.wrapping_sub(end), length: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gapped() -> Buckets {
        Buckets::new(
            vec![
                Span { offset: -2, length: 2 },
                Span { offset: 0, length: 0 },
                Span { offset: 3, length: 1 },
            ],
            vec![1.0, 0.0, 4.0],
        )
    }

    #[test]
    fn indices_are_found_both_ways() {
        let forward: Vec<_> = gapped().iter().collect();
        assert_eq!(forward, [(-2, 1.0), (-1, 0.0), (3, 4.0)]);
        let mut backward: Vec<_> = gapped().iter_reversed().collect();
        backward.reverse();
        assert_eq!(forward, backward);
    }

    #[test]
    fn empty_buckets_and_spans_go() {
        let mut buckets = gapped();
        buckets.compact();
        assert_eq!(buckets.iter().collect::<Vec<_>>(), [(-2, 1.0), (3, 4.0)]);
        assert_eq!(
            buckets.spans(),
            [Span { offset: -2, length: 1 }, Span { offset: 4, length: 1 }]
        );
        let mut empty = Buckets::new(vec![Span { offset: 7, length: 0 }], vec![]);
        empty.compact();
        assert!(empty.spans().is_empty());
    }

    #[test]
    fn wider_buckets_take_in_the_narrow_ones_by_their_upper_bounds() {
        let narrow = Buckets::run(-3, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
        // Indices -3 … 2 become -1, -1, 0, 0, 1, 1.
        assert_eq!(narrow.reduced(1), Buckets::run(-1, &[3.0, 12.0, 48.0]));
        assert_eq!(gapped().reduced(2).iter().collect::<Vec<_>>(), [(0, 1.0), (1, 4.0)]);
    }

    #[test]
    fn layouts_are_laid_over_each_other() {
        let mut seen = Vec::new();
        let spans = gapped().laid_over(&Buckets::run(-1, &[1.0, 1.0]), 0, |place| {
            seen.push(match place {
                Place::Both(..) => 'b',
                Place::First(_) => '1',
                Place::Second(_) => '2',
            });
        });
        assert_eq!(seen, ['1', 'b', '2', '1']);
        assert_eq!(spans, [Span { offset: -2, length: 3 }, Span { offset: 2, length: 1 }]);
    }
}
