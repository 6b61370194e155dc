//! Quantiles, of sorted values and of windows that slide over a series.
//!
//! - A **key** is a float as an integer of the same order, NaN first.
//! - A **run** is a stretch of samples that holds many windows. It is sorted once; a window is then
//!   the set of its samples' **ranks** in the run, a bitmap, in which moving on changes a few bits and
//!   the n-th least sample is the n-th bit.
//!
//! Windows too large for that are kept sorted: what comes takes the place of what goes. And if the
//! quantile is close to the least or the greatest value, as it mostly is, a few **extremes** of the
//! window are enough, and those are found by comparing alone.

use std::ops::Range;

/// Samples of a run, at most.
const RUN_SAMPLES: usize = 1024;
/// Samples of a window in a run, at most: a run is to serve many windows.
const WINDOW_SAMPLES: usize = RUN_SAMPLES / 4;
const RUN_WORDS: usize = RUN_SAMPLES / 64;
/// Extremes that are looked for, at most: each costs two comparisons a sample.
const EXTREMES: usize = 6;

/// Orders floats as integers: NaN first, then as numbers.
pub(crate) fn sort_key(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MIN;
    }
    let bits = value.to_bits() as i64;
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

fn from_sort_key(key: i64) -> f64 {
    match key {
        i64::MIN => f64::NAN,
        key if key < 0 => f64::from_bits((key ^ i64::MAX) as u64),
        key => f64::from_bits(key as u64),
    }
}

/// The quantile of sorted keys, interpolated between the two nearest ranks.
pub(crate) fn quantile_of_keys(quantile: f64, sorted: &[i64]) -> f64 {
    quantile_by(quantile, sorted.len(), |lower, upper| {
        (from_sort_key(sorted[lower]), from_sort_key(sorted[upper]))
    })
}

/// The quantile of a slice in any order; sorts it.
pub(crate) fn quantile_of(quantile: f64, values: &mut [f64]) -> f64 {
    values.sort_unstable_by_key(|value| sort_key(*value));
    quantile_by(quantile, values.len(), |lower, upper| (values[lower], values[upper]))
}

/// The quantile of `count` values, of which `pair` gives those of two ranks: equal, or neighbours.
fn quantile_by(quantile: f64, count: usize, pair: impl FnOnce(usize, usize) -> (f64, f64)) -> f64 {
    match Ranks::of(quantile, count) {
        Ok(ranks) => ranks.between(pair(ranks.lower, ranks.upper)),
        Err(value) => value,
    }
}

/// Between which ranks a quantile lies: equal ones, or neighbours.
#[derive(Clone, Copy, Debug)]
struct Ranks {
    lower: usize,
    upper: usize,
    /// Of the upper one.
    weight: f64,
}

impl Ranks {
    /// Of `count` values; the error is a quantile that does not depend on them.
    fn of(quantile: f64, count: usize) -> Result<Ranks, f64> {
        if count == 0 || quantile.is_nan() {
            return Err(f64::NAN);
        }
        if quantile < 0.0 {
            return Err(f64::NEG_INFINITY);
        }
        if quantile > 1.0 {
            return Err(f64::INFINITY);
        }
        let rank = quantile * (count - 1) as f64;
        // Not negative: the conversion rounds down.
        let lower = rank as usize;
        let upper = (lower + 1).min(count - 1);
        Ok(Ranks { lower, upper, weight: rank - lower as f64 })
    }

    fn between(self, (below, above): (f64, f64)) -> f64 {
        below * (1.0 - self.weight) + above * self.weight
    }
}

/// Quantiles of the windows of one series, which neither begin nor end before the last one.
#[derive(Debug, Default)]
pub(crate) struct SlidingQuantile {
    /// Of the last quantile, by its bits, and length of a window: most are as long as the one before.
    ranks: Option<(u64, usize, Ranks)>,
    /// Whether extremes may be looked for: no NaN, nor a zero that is negative.
    plain: bool,
    extremes: Extremes,
    /// Of all values, once there are windows that need them.
    keys: Vec<i64>,
    in_runs: bool,
    run: Run,
    /// The sorted keys of the window, if there are no runs.
    sorted: Vec<i64>,
    window: Range<usize>,
}

impl SlidingQuantile {
    /// Begins a series whose windows have at most `largest` samples.
    pub(crate) fn begin(&mut self, values: &[f64], largest: usize) {
        self.plain = is_plain(values);
        self.extremes.kept = 0;
        self.in_runs = largest <= WINDOW_SAMPLES;
        self.keys.clear();
        self.run.samples = 0..0;
        self.sorted.clear();
        self.window = 0..0;
    }

    /// The quantile of a window, which is not empty, of the values.
    pub(crate) fn quantile(&mut self, quantile: f64, values: &[f64], window: Range<usize>) -> f64 {
        let ranks = match self.ranks {
            Some((of, count, ranks)) if (of, count) == (quantile.to_bits(), window.len()) => ranks,
            _ => match Ranks::of(quantile, window.len()) {
                Ok(ranks) => ranks,
                Err(value) => return value,
            },
        };
        self.ranks = Some((quantile.to_bits(), window.len(), ranks));
        ranks.between(self.pair(values, window, ranks))
    }

    fn pair(&mut self, values: &[f64], window: Range<usize>, ranks: Ranks) -> (f64, f64) {
        let Ranks { lower, upper, .. } = ranks;
        let (from_above, from_below) = (window.len() - lower, upper + 1);
        if !self.plain || from_above.min(from_below) > EXTREMES {
            return self.ordered_pair(values, window, lower, upper);
        }
        if from_above <= from_below {
            let (below, above) = self.extremes.pair(from_above, 1.0, values, window);
            (below, if upper > lower { above } else { below })
        } else {
            // From below the greater of the two is the farther one.
            let (above, below) = self.extremes.pair(from_below, -1.0, values, window);
            (below, above)
        }
    }

    /// The values of two ranks that are equal or neighbours.
    fn ordered_pair(
        &mut self,
        values: &[f64],
        window: Range<usize>,
        lower: usize,
        upper: usize,
    ) -> (f64, f64) {
        if self.keys.is_empty() {
            self.keys.extend(values.iter().map(|value| sort_key(*value)));
        }
        if !self.in_runs {
            let old = std::mem::replace(&mut self.window, window.clone());
            slide(&mut self.sorted, &self.keys, old, window);
            return (from_sort_key(self.sorted[lower]), from_sort_key(self.sorted[upper]));
        }
        if window.end > self.run.samples.end {
            self.run.begin(&self.keys, window.start);
            self.window = window.start..window.start;
        }
        let old = std::mem::replace(&mut self.window, window.clone());
        self.run.slide(old, window);
        self.run.pair(lower, upper > lower)
    }
}

fn is_plain(values: &[f64]) -> bool {
    let (mut zeros, mut has_nan) = (0, false);
    for value in values {
        zeros |= if *value == 0.0 { value.to_bits() } else { 0 };
        has_nan |= value.is_nan();
    }
    zeros == 0 && !has_nan
}

/// The greatest values of windows that slide, or the least.
///
/// A window has an **older** part, of which the extremes are known from each place to its end, and a
/// **newer** one, of which they grow with the window. When it has left the older part, all that it
/// holds becomes the next one; so a sample is compared twice, whatever the number of its windows.
#[derive(Debug, Default)]
struct Extremes {
    /// How many are kept of each part; 0 before the first window.
    kept: usize,
    /// 1 for the greatest, -1 for the least: values are multiplied by it.
    sign: f64,
    /// `kept` for each place of the older part, the last place first.
    older: Vec<f64>,
    newer: [f64; EXTREMES],
    /// Where the parts meet, and where the newer one ends.
    middle: usize,
    end: usize,
}

impl Extremes {
    /// The `nth` greatest value of a window, counted from 1, and the one above it, or itself again.
    /// With a sign of -1, the least and the one below.
    fn pair(&mut self, nth: usize, sign: f64, values: &[f64], window: Range<usize>) -> (f64, f64) {
        if nth > self.kept || sign != self.sign {
            (self.kept, self.sign, self.middle) = (nth, sign, 0);
        }
        match self.kept {
            1 => self.slide::<1>(nth, values, window),
            2 => self.slide::<2>(nth, values, window),
            3 => self.slide::<3>(nth, values, window),
            4 => self.slide::<4>(nth, values, window),
            5 => self.slide::<5>(nth, values, window),
            EXTREMES => self.slide::<EXTREMES>(nth, values, window),
            _ => unreachable!("more extremes are not looked for"),
        }
    }

    fn slide<const N: usize>(
        &mut self,
        nth: usize,
        values: &[f64],
        window: Range<usize>,
    ) -> (f64, f64) {
        let sign = self.sign;
        if window.start >= self.middle {
            let mut tops = [f64::NEG_INFINITY; N];
            self.older.resize(N * window.len(), 0.0);
            let places = self.older.as_chunks_mut::<N>().0.iter_mut();
            for (place, value) in places.zip(values[window.clone()].iter().rev()) {
                insert(&mut tops, value * sign);
                *place = tops;
            }
            self.newer = [f64::NEG_INFINITY; EXTREMES];
            (self.middle, self.end) = (window.end, window.end);
        }
        let newer = self.newer.first_chunk_mut::<N>().expect("no more are kept");
        for value in &values[self.end..window.end] {
            insert(newer, value * sign);
        }
        self.end = window.end;
        let mut tops = *newer;
        let older = &self.older.as_chunks::<N>().0[self.middle - 1 - window.start];
        older.iter().for_each(|value| insert(&mut tops, *value));
        (tops[nth - 1] * sign, tops[nth.saturating_sub(2)] * sign)
    }
}

/// Puts a value among the greatest so far, which are in order, and lets the last of all go.
#[inline(always)]
fn insert<const N: usize>(tops: &mut [f64; N], value: f64) {
    let mut falling = value;
    for top in tops {
        // Selections of one instruction each: `f64::max` would look for NaN as well.
        let (greater, less) = (
            if *top > falling { *top } else { falling },
            if *top < falling { *top } else { falling },
        );
        (*top, falling) = (greater, less);
    }
}

/// A sorted stretch of a series, and which of it is in the window.
#[derive(Debug, Default)]
struct Run {
    samples: Range<usize>,
    /// Keys with the rows they came from, in order.
    sorted: Vec<(i64, u32)>,
    /// The rank of each sample.
    ranks: Vec<u32>,
    /// The ranks in the window, and how many of them each word has.
    present: [u64; RUN_WORDS],
    counts: [u32; RUN_WORDS],
}

impl Run {
    /// Takes the samples from `start` on; none is in the window yet.
    fn begin(&mut self, keys: &[i64], start: usize) {
        self.samples = start..keys.len().min(start + RUN_SAMPLES);
        self.sorted.clear();
        self.sorted.extend(keys[self.samples.clone()].iter().copied().zip(0..));
        self.sorted.sort_unstable();
        self.ranks.resize(self.sorted.len(), 0);
        for (rank, (_, row)) in (0..).zip(&self.sorted) {
            self.ranks[*row as usize] = rank;
        }
        self.present = [0; RUN_WORDS];
        self.counts = [0; RUN_WORDS];
    }

    fn slide(&mut self, old: Range<usize>, new: Range<usize>) {
        let start = self.samples.start;
        let leaving = &self.ranks[old.start - start..new.start.min(old.end) - start];
        let entering = &self.ranks[new.start.max(old.end) - start..new.end - start];
        for (ranks, change) in [(leaving, u32::MAX), (entering, 1)] {
            for rank in ranks {
                let word = *rank as usize / 64 % RUN_WORDS;
                self.present[word] ^= 1 << (rank % 64);
                self.counts[word] = self.counts[word].wrapping_add(change);
            }
        }
    }

    /// The `nth` least value of the window, and the one after it or the same again.
    fn pair(&self, nth: usize, with_next: bool) -> (f64, f64) {
        let mut rest = nth as u32;
        let mut index = 0;
        while rest >= self.counts[index] {
            rest -= self.counts[index];
            index += 1;
        }
        let mut word = self.present[index];
        for _ in 0..rest {
            word &= word.wrapping_sub(1);
        }
        let value = |index: usize, word: u64| {
            from_sort_key(self.sorted[index * 64 + word.trailing_zeros() as usize].0)
        };
        let first = value(index, word);
        if !with_next {
            return (first, first);
        }
        word &= word - 1;
        while word == 0 {
            index += 1;
            word = self.present[index];
        }
        (first, value(index, word))
    }
}

/// Turns the sorted keys of one window into those of a later one.
fn slide(sorted: &mut Vec<i64>, keys: &[i64], old: Range<usize>, new: Range<usize>) {
    let leaving = old.start..new.start.min(old.end);
    let entering = new.start.max(old.end)..new.end;
    if leaving.len() + entering.len() > new.len() / 2 {
        sorted.clear();
        sorted.extend_from_slice(&keys[new]);
        sorted.sort_unstable();
        return;
    }
    // Most windows lose as many samples as they gain: one takes the other's place.
    let pairs = leaving.len().min(entering.len());
    let (replaced, removed) = keys[leaving].split_at(pairs);
    let (replacing, added) = keys[entering].split_at(pairs);
    for (old, new) in replaced.iter().zip(replacing) {
        replace(sorted, *old, *new);
    }
    for key in removed {
        let at = sorted.binary_search(key).expect("what leaves was in the window");
        sorted.remove(at);
    }
    for key in added {
        let at = sorted.partition_point(|known| known < key);
        sorted.insert(at, *key);
    }
}

/// Puts `new` in the place of `old`, moving only what lies between.
fn replace(sorted: &mut [i64], old: i64, new: i64) {
    let from = sorted.partition_point(|known| *known < old);
    let to = sorted.partition_point(|known| *known < new);
    if to > from {
        sorted.copy_within(from + 1..to, from);
        sorted[to - 1] = new;
    } else {
        sorted.copy_within(to..from, to + 1);
        sorted[to] = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_floats_with_nan_first_and_give_them_back() {
        let ascending = [f64::NAN, f64::NEG_INFINITY, -1.5, -0.0, 0.0, 1e-300, 2.0, f64::INFINITY];
        for pair in ascending.windows(2) {
            assert!(sort_key(pair[0]) < sort_key(pair[1]), "{pair:?}");
        }
        for value in &ascending[1..] {
            assert_eq!(from_sort_key(sort_key(*value)).to_bits(), value.to_bits());
        }
    }

    #[test]
    fn a_window_slides_as_if_sorted_anew() {
        let odd = [f64::NAN, -0.0, f64::INFINITY, f64::NEG_INFINITY];
        let value = |i: u32, odd: &[f64]| match i.wrapping_mul(2_654_435_761) >> 20 {
            hash if hash % 50 == 0 => odd[hash as usize / 50 % odd.len()],
            hash => f64::from(hash % 97) - 40.0,
        };
        check_slides(&(0..5000).map(|i| value(i, &odd)).collect::<Vec<f64>>());
        check_slides(&(0..5000).map(|i| value(i, &odd[2..])).collect::<Vec<f64>>());
    }

    fn check_slides(values: &[f64]) {
        for (length, step) in [(1, 1), (12, 3), (40, 4), (256, 1), (257, 1), (700, 30), (30, 100)] {
            let mut sliding = SlidingQuantile::default();
            sliding.begin(values, length + 2);
            for (turn, start) in (0..values.len() - length).step_by(step).enumerate() {
                // Windows are not all of one length.
                let window = start.saturating_sub(turn % 2)..start + length;
                let quantile = [0.0, 0.5, 0.95, 1.0, 0.1, 0.02, 0.9][turn % 7];
                let found = sliding.quantile(quantile, values, window.clone());
                let expected = quantile_of(quantile, &mut values[window].to_vec());
                assert_eq!(found.to_bits(), expected.to_bits(), "{length} {step} {start}");
            }
        }
    }
}
