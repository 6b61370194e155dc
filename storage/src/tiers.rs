//! Which blocks answer for which time: raw samples or one of the tiers.
//!
//! For each stretch of time the finest data that still exists; a coarser tier wherever its answer is
//! the same, which is where every window consists of whole buckets, and no sample came after they
//! were made. What is decided here is a [`Claims`]: for each block the times that it answers for.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::compaction::rollup::{Day, days_of, window_of};
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::chunk;
use crate::metrics::histogram::Histogram;
use crate::metrics::rollup::{Component, Components, Kind, Rollup, bucket_end_ms};
use crate::metrics::sample::Samples;
use crate::outline::{LeftOut, Outliner};
use crate::retention::classes::BlockClasses;
use crate::time::{TimeRange, WINDOW_MS};

/// For each block of a version the times that it answers for, ascending.
#[derive(Debug)]
pub(crate) struct Claims {
    by_block: Vec<Vec<TimeRange>>,
    /// Those of them in which windows need not consist of its buckets: it answers for want of raw
    /// samples.
    forced: Vec<Vec<TimeRange>>,
}

impl Claims {
    pub(crate) fn of(&self, block: u32) -> &[TimeRange] {
        &self.by_block[block as usize]
    }

    pub(crate) fn forced(&self, block: u32) -> &[TimeRange] {
        &self.forced[block as usize]
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) range: TimeRange,
    /// As of [`Selector`](crate::snapshot::Selector).
    pub(crate) aligned_ms: i64,
    /// Rollups of coarser resolution are not read.
    pub(crate) resolution_max_ms: i64,
}

/// A time for which a rollup answers though windows may not consist of its buckets, since raw
/// samples are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced {
    pub range: TimeRange,
    pub resolution_ms: i64,
}

impl Forced {
    /// Grows by the next one, if that is of the same resolution and follows at once.
    pub(crate) fn take_in(&mut self, next: Forced) -> bool {
        let follows = next.resolution_ms == self.resolution_ms
            && next.range.start_ms <= self.range.end_ms.saturating_add(1);
        if follows {
            self.range = self.range.union(next.range);
        }
        follows
    }
}

/// What is known besides the blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    pub(crate) dirty: &'a BTreeSet<Day>,
    /// By class, the newest time of which raw samples are gone.
    pub(crate) raw_gone: &'a BTreeMap<u32, i64>,
    /// Raw blocks that stay when their time is over.
    pub(crate) on_hold: &'a HashSet<BlockId>,
    /// Windows of which samples are in the head, by their starts.
    pub(crate) head_windows: &'a [i64],
    /// While they are not settled, rollups are read for want of raw samples alone.
    pub(crate) classes: &'a BlockClasses,
}

impl Known<'_> {
    fn class_of(&self, meta: &BlockMeta) -> u32 {
        self.classes.by_block.get(&meta.id).copied().unwrap_or(meta.class)
    }
}

/// Windows that are widened to two buckets, and moved back to the end of one, begin so many buckets
/// before those that were asked for.
const REACH_BUCKETS: i64 = 3;

/// `None` if raw samples answer for all of the range.
pub(crate) fn claims(blocks: &[&BlockMeta], known: Known<'_>, asked: Asked) -> Option<Claims> {
    let is_fine = |meta: &&BlockMeta| tier_ms(meta) <= asked.resolution_max_ms;
    let tiers = || blocks.iter().filter(|meta| meta.tier_ms > 0).filter(|meta| is_fine(meta));
    if !tiers().any(|meta| meta.window.overlaps(asked.range)) {
        return None;
    }
    let coarsest_ms = tiers().map(|meta| tier_ms(meta)).max().unwrap_or(0);
    let reach_ms = coarsest_ms.saturating_mul(REACH_BUCKETS);
    let start_ms = asked.range.start_ms.saturating_sub(reach_ms);
    let range = TimeRange::new(start_ms, asked.range.end_ms.saturating_add(reach_ms));
    let none = || vec![Vec::new(); blocks.len()];
    let mut claims = Claims { by_block: none(), forced: none() };
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let of_range = blocks.iter().enumerate().filter(|(_, meta)| meta.window.overlaps(range));
    for (index, meta) in of_range.filter(|(_, meta)| is_fine(meta)) {
        classes.entry(known.class_of(meta)).or_default().push(index);
    }
    let mut any = false;
    for (class, of_class) in classes {
        let free =
            claim_of_class(blocks, &of_class, class, known, Asked { range, ..asked }, &mut claims);
        any |= free != [range];
        for index in of_class.into_iter().filter(|index| blocks[*index].tier_ms == 0) {
            claims.by_block[index].clone_from(&free);
        }
    }
    any.then_some(claims)
}

fn tier_ms(meta: &BlockMeta) -> i64 {
    i64::try_from(meta.tier_ms).unwrap_or(i64::MAX)
}

/// Gives tiers what they answer for; what is left is raw samples'.
fn claim_of_class(
    blocks: &[&BlockMeta],
    of_class: &[usize],
    class: u32,
    known: Known<'_>,
    Asked { range, aligned_ms, .. }: Asked,
    claims: &mut Claims,
) -> Vec<TimeRange> {
    let mut free = vec![range];
    let mut tiers: Vec<usize> =
        of_class.iter().copied().filter(|index| blocks[*index].tier_ms > 0).collect();
    let tier = |index: usize| tier_ms(blocks[index]);
    // The newer of two blocks of a tier was made again from the raw samples.
    tiers.sort_by_key(|index| (tier(*index), std::cmp::Reverse(blocks[*index].id)));
    let head = known
        .head_windows
        .iter()
        .map(|start| TimeRange::new(*start, start.saturating_add(WINDOW_MS - 1)));
    let head: Vec<TimeRange> = head.collect();
    let changed: BTreeSet<i64> = known
        .dirty
        .iter()
        .filter(|(of, _)| *of == class)
        .map(|(_, day)| *day)
        .chain(head.iter().flat_map(|window| days_of(*window)))
        .collect();
    let exact = |index: &&usize| {
        known.classes.is_settled && aligned_ms > 0 && aligned_ms % tier(**index) == 0
    };
    let mut coarsest_first: Vec<usize> = tiers.iter().filter(exact).copied().collect();
    coarsest_first.sort_by_key(|index| std::cmp::Reverse((tier(*index), blocks[*index].id)));
    for index in coarsest_first {
        let days = changed.iter().map(|day| window_of(*day));
        let part = days.fold(vec![blocks[index].window], |left, day| without(&left, day));
        take(&mut free, &part, &mut claims.by_block[index]);
    }
    let raw = has_raw(blocks, class, known);
    let finest_of = |raw: TimeRange| {
        let overlapping = tiers.iter().filter(|index| blocks[**index].window.overlaps(raw));
        overlapping.map(|index| tier(*index)).min()
    };
    for &index in &tiers {
        let resolution_ms = tier(index);
        let window = vec![blocks[index].window];
        let part = raw.iter().fold(window, |left, raw| {
            // A bucket that raw samples have a part of goes to them, less the sample at its end.
            let of = match raw.end_ms {
                i64::MAX => resolution_ms,
                _ => finest_of(*raw).unwrap_or(resolution_ms),
            };
            let start_ms = bucket_end_ms(raw.start_ms, of).saturating_add(1);
            let end_ms = match raw.end_ms {
                i64::MAX => i64::MAX,
                // What is on hold ends before the last bucket of the finest tier, for all tiers.
                end_ms => bucket_end_ms(end_ms.saturating_add(1), of) - of,
            };
            without(&left, TimeRange::new(start_ms, end_ms))
        });
        take(&mut free, &part, &mut claims.forced[index]);
        let Claims { by_block, forced } = claims;
        by_block[index].extend_from_slice(&forced[index]);
    }
    claims.by_block.iter_mut().for_each(|claimed| claimed.sort_by_key(|one| one.start_ms));
    free
}

/// The times of which all raw samples that ever came are still there.
fn has_raw(blocks: &[&BlockMeta], class: u32, known: Known<'_>) -> Vec<TimeRange> {
    let raw: Vec<&&BlockMeta> =
        blocks.iter().filter(|meta| meta.tier_ms == 0 && known.class_of(meta) == class).collect();
    // They go by age, but what is on hold stays; and late ones may come behind those that went.
    let windows = raw.iter().map(|meta| meta.window.start_ms);
    let Some(oldest_ms) = windows.chain(known.head_windows.iter().copied()).min() else {
        return Vec::new();
    };
    let gone = known.raw_gone.get(&class).map(|up_to| up_to.saturating_add(1));
    let held = raw.iter().filter(|meta| gone.is_some() && known.on_hold.contains(&meta.id));
    let since = TimeRange::new(oldest_ms.max(gone.unwrap_or(i64::MIN)), i64::MAX);
    held.map(|meta| meta.window).chain([since]).collect()
}

/// Moves from `free` to `taken` what is in both `free` and `part`.
fn take(free: &mut Vec<TimeRange>, part: &[TimeRange], taken: &mut Vec<TimeRange>) {
    for one in part {
        let both = free.iter().map(|of| of.intersection(*one));
        taken.extend(both.filter(|both| !both.is_empty()));
        *free = without(free, *one);
    }
}

/// What is left of some times.
fn without(times: &[TimeRange], range: TimeRange) -> Vec<TimeRange> {
    if range.is_empty() {
        return times.to_vec();
    }
    let parts = times.iter().flat_map(|one| {
        let before = TimeRange::new(one.start_ms, one.end_ms.min(range.start_ms.saturating_sub(1)));
        let after = TimeRange::new(one.start_ms.max(range.end_ms.saturating_add(1)), one.end_ms);
        [before, after]
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// One bucket, as a reader sees it: its floats, its histograms, or both.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'a> {
    pub end_ms: i64,
    pub floats: Option<Floats<'a>>,
    pub histograms: Option<Histograms<'a>>,
}

/// The floats of a bucket. Columns that were not wanted are 0.
#[derive(Clone, Copy, Debug)]
pub struct Floats<'a> {
    pub end_ms: i64,
    pub count: f64,
    pub first: (i64, f64),
    pub last: (i64, f64),
    pub sum: f64,
    pub min: f64,
    pub max: f64,
    pub resets: f64,
    pub changes: f64,
    /// The values before each reset, at the times of the samples that fell.
    pub falls: (&'a [i64], &'a [f64]),
}

/// The native histograms of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Histograms<'a> {
    pub end_ms: i64,
    pub count: f64,
    /// Of all samples of the bucket, floats too.
    pub resets: f64,
    pub changes: f64,
    first: Rows<'a>,
    last: Rows<'a>,
    sums: Rows<'a>,
    falls: Rows<'a>,
}

/// Some rows of a column of histograms.
#[derive(Clone, Copy, Debug)]
struct Rows<'a> {
    times: &'a [i64],
    histograms: &'a [(u32, Histogram)],
}

impl<'a> Rows<'a> {
    fn iter(self) -> impl Iterator<Item = (i64, &'a Histogram)> + Clone {
        self.times.iter().zip(self.histograms).map(|(time, (_, histogram))| (*time, histogram))
    }
}

impl<'a> Histograms<'a> {
    /// `None` if the column was not wanted.
    pub fn first(&self) -> Option<(i64, &'a Histogram)> {
        self.first.iter().next()
    }

    pub fn last(&self) -> Option<(i64, &'a Histogram)> {
        self.last.iter().next()
    }

    /// One, or two that cannot be added up, a millisecond apart.
    pub fn sums(&self) -> impl Iterator<Item = (i64, &'a Histogram)> {
        self.sums.iter()
    }

    /// What was before each reset, at the times of the samples that fell.
    pub fn falls(&self) -> impl Iterator<Item = (i64, &'a Histogram)> + Clone {
        self.falls.iter()
    }
}

/// Rows of columns that are handed out bucket by bucket, in order of time.
struct Cursors<'a> {
    rollup: &'a Rollup,
    kind: Kind,
    row: usize,
    /// By component, how many rows were handed out.
    taken: [usize; Component::COUNT],
}

impl<'a> Cursors<'a> {
    fn new(rollup: &'a Rollup, kind: Kind) -> Cursors<'a> {
        Cursors { rollup, kind, row: 0, taken: [0; Component::COUNT] }
    }

    fn end_ms(&self) -> Option<i64> {
        self.rollup.ends(self.kind).get(self.row).copied()
    }

    fn value(&self, component: Component) -> f64 {
        let column = self.rollup.column_of(self.kind, component);
        column.values.get(self.row).copied().unwrap_or(0.0)
    }

    fn sample(&self, component: Component) -> (i64, f64) {
        let column = self.rollup.column_of(self.kind, component);
        let time = column.timestamps.get(self.row).copied().unwrap_or(0);
        (time, self.value(component))
    }

    /// The next rows of a column up to a time.
    fn rows(&mut self, component: Component, end_ms: i64) -> (&'a Samples, std::ops::Range<usize>) {
        let column = self.rollup.column_of(self.kind, component);
        let start = self.taken[component as usize];
        let end = start + column.timestamps[start..].partition_point(|time| *time <= end_ms);
        self.taken[component as usize] = end;
        (column, start..end)
    }

    fn histograms(&mut self, component: Component, end_ms: i64) -> Rows<'a> {
        let (column, rows) = self.rows(component, end_ms);
        Rows {
            times: &column.timestamps[rows.clone()],
            histograms: column.histograms.get(rows).unwrap_or_default(),
        }
    }

    /// The floats of the bucket that ends then, if there are any.
    fn take_floats(&mut self, end_ms: i64) -> Option<Floats<'a>> {
        use Component::{Changes, Count, Falls, First, Last, Max, Min, Resets, Sum};
        if self.end_ms() != Some(end_ms) {
            return None;
        }
        let (falls, rows) = self.rows(Falls, end_ms);
        let floats = Floats {
            end_ms,
            count: self.value(Count),
            first: self.sample(First),
            last: self.sample(Last),
            sum: self.value(Sum),
            min: self.value(Min),
            max: self.value(Max),
            resets: self.value(Resets),
            changes: self.value(Changes),
            falls: (&falls.timestamps[rows.clone()], &falls.values[rows]),
        };
        self.row += 1;
        Some(floats)
    }

    fn take_histograms(&mut self, end_ms: i64) -> Option<Histograms<'a>> {
        use Component::{Changes, Count, Falls, First, Last, Resets, Sum};
        if self.end_ms() != Some(end_ms) {
            return None;
        }
        let histograms = Histograms {
            end_ms,
            count: self.value(Count),
            resets: self.value(Resets),
            changes: self.value(Changes),
            first: self.histograms(First, end_ms),
            last: self.histograms(Last, end_ms),
            sums: self.histograms(Sum, end_ms),
            falls: self.histograms(Falls, end_ms),
        };
        self.row += 1;
        Some(histograms)
    }
}

/// Calls `visit` with each bucket.
fn each_bucket(rollup: &Rollup, mut visit: impl FnMut(&Bucket<'_>)) {
    let mut floats = Cursors::new(rollup, Kind::Floats);
    let mut histograms = Cursors::new(rollup, Kind::Histograms);
    while let Some(end_ms) = floats.end_ms().into_iter().chain(histograms.end_ms()).min() {
        let bucket = Bucket {
            end_ms,
            floats: floats.take_floats(end_ms),
            histograms: histograms.take_histograms(end_ms),
        };
        visit(&bucket);
    }
}

/// The columns that [`put`] reads.
pub(crate) fn wanted(outliner: Option<&Outliner<'_>>) -> Components {
    outliner
        .map_or(Components::of(&[Component::Last, Component::Ended]), |outliner| outliner.columns)
}

/// Appends what stands for the buckets: what the reader makes of them, or else their last samples
/// and the markers behind these.
pub(crate) fn put(rollup: &Rollup, outliner: Option<&mut Outliner<'_>>, into: &mut Samples) {
    let Some(outliner) = outliner else {
        chunk::merge(into, rollup.column(Component::Last));
        chunk::merge(into, rollup.column_of(Kind::Histograms, Component::Last));
        return chunk::merge(into, rollup.column(Component::Ended));
    };
    each_bucket(rollup, |bucket| {
        let (rows, histograms) = (into.len(), into.histograms.len());
        (outliner.bucket)(bucket, into);
        let histogram_rows = (into.histograms.len() - histograms) as i64;
        let float_rows = (into.len() - rows) as i64 - histogram_rows;
        let count = |count: Option<f64>| count.unwrap_or(0.0) as i64;
        let left_out = LeftOut {
            at_ms: bucket.end_ms,
            samples: count(bucket.floats.map(|of| of.count)) - float_rows,
            histograms: count(bucket.histograms.map(|of| of.count)) - histogram_rows,
        };
        if (left_out.samples, left_out.histograms) != (0, 0) {
            outliner.left_out.push(left_out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{DAY_MS, MINUTE_MS};

    const HOUR_MS: i64 = 60 * MINUTE_MS;

    fn block(id: u64, tier_ms: i64, window: TimeRange) -> BlockMeta {
        BlockMeta {
            id: BlockId(id),
            tier_ms: tier_ms as u64,
            window,
            range: window,
            ..BlockMeta::default()
        }
    }

    fn of(
        blocks: &[BlockMeta],
        dirty: &[i64],
        range: TimeRange,
        aligned_ms: i64,
    ) -> Option<(Vec<Vec<TimeRange>>, i64)> {
        let dirty = dirty.iter().map(|day| (0, *day)).collect();
        let blocks: Vec<&BlockMeta> = blocks.iter().collect();
        let classes = &BlockClasses { is_settled: true, ..BlockClasses::default() };
        let head_windows = &[3 * DAY_MS];
        let (raw_gone, on_hold) = (&BTreeMap::new(), &HashSet::new());
        let known = Known { dirty: &dirty, raw_gone, on_hold, head_windows, classes };
        let asked = Asked { range, aligned_ms, resolution_max_ms: i64::MAX };
        let claims = claims(&blocks, known, asked)?;
        let clipped = claims.by_block.iter().map(|claimed| {
            let inside = claimed.iter().map(|one| one.intersection(range));
            inside.filter(|one| !one.is_empty()).collect()
        });
        let forced = (0..).zip(&blocks).filter(|(index, _)| !claims.forced(*index).is_empty());
        let forced_ms = forced.map(|(_, meta)| tier_ms(meta)).max().unwrap_or(0);
        Some((clipped.collect(), forced_ms))
    }

    fn day(number: i64) -> TimeRange {
        window_of(number * DAY_MS)
    }

    fn raw(number: i64) -> TimeRange {
        TimeRange::new(number * DAY_MS, (number + 1) * DAY_MS - 1)
    }

    #[test]
    fn the_coarsest_tier_that_is_exact_answers() {
        let blocks = [
            block(1, 0, raw(0)),
            block(2, 0, raw(1)),
            block(3, 5 * MINUTE_MS, day(0)),
            block(4, HOUR_MS, day(0)),
        ];
        let range = TimeRange::new(1, 2 * DAY_MS);
        let rest = vec![day(1)];
        let of_hours = of(&blocks, &[], range, 2 * HOUR_MS).unwrap();
        assert_eq!(of_hours, (vec![rest.clone(), rest.clone(), vec![], vec![day(0)]], 0));
        let of_minutes = of(&blocks, &[], range, 10 * MINUTE_MS).unwrap();
        assert_eq!(of_minutes.0[2..], [vec![day(0)], vec![]]);
        assert_eq!(of(&blocks, &[], range, 0), None, "raw samples are there");
        assert_eq!(of(&blocks, &[0], range, HOUR_MS), None, "what changed is read raw");
        assert_eq!(of(&blocks, &[], day(1), HOUR_MS), None);
    }

    #[test]
    fn where_raw_samples_are_gone_the_finest_tier_answers() {
        let blocks = [
            block(1, 0, TimeRange::new(DAY_MS + WINDOW_MS, 2 * DAY_MS - 1)),
            block(2, 5 * MINUTE_MS, day(0)),
            block(3, HOUR_MS, TimeRange::new(1, 4 * DAY_MS)),
        ];
        let (claims, forced_ms) = of(&blocks, &[0], TimeRange::new(1, 2 * DAY_MS), 0).unwrap();
        assert_eq!(forced_ms, HOUR_MS);
        assert_eq!(claims[1], [day(0)]);
        assert_eq!(claims[2], [TimeRange::new(DAY_MS + 1, DAY_MS + WINDOW_MS)]);
        assert_eq!(claims[0], [TimeRange::new(DAY_MS + WINDOW_MS + 1, 2 * DAY_MS)]);
    }

    #[test]
    fn late_samples_hide_no_rollup_of_those_that_are_gone_and_what_is_on_hold_is_read() {
        let hours = |first: i64, count: i64| {
            let start_ms = first * HOUR_MS;
            TimeRange::new(start_ms, start_ms + count * HOUR_MS - 1)
        };
        let blocks = [
            block(1, 0, hours(6, 2)),
            block(2, 0, hours(2, 2)),
            block(3, 0, hours(26, 22)),
            block(4, HOUR_MS, day(0)),
        ];
        let blocks: Vec<&BlockMeta> = blocks.iter().collect();
        let known = Known {
            dirty: &BTreeSet::new(),
            raw_gone: &BTreeMap::from([(0, DAY_MS)]),
            on_hold: &HashSet::from([BlockId(1)]),
            head_windows: &[4 * HOUR_MS],
            classes: &BlockClasses::default(),
        };
        let asked = Asked { range: day(0), aligned_ms: 0, resolution_max_ms: i64::MAX };
        let claims = claims(&blocks, known, asked).unwrap();
        let at = |from: i64, to: i64| TimeRange::new(from * HOUR_MS + 1, to * HOUR_MS);
        assert_eq!(
            claims.by_block[3],
            [at(0, 6), at(7, 24)].map(|one| match one {
                // The sample at six is in the first bucket and in the block, which ends before eight.
                one if one.start_ms > 7 * HOUR_MS => TimeRange::new(7 * HOUR_MS + 1, DAY_MS),
                one => one,
            })
        );
        assert_eq!(claims.by_block[0][1], at(6, 7));
    }

    #[test]
    fn what_is_in_the_head_of_a_day_has_it_read_raw() {
        let blocks = [block(1, 0, raw(3)), block(2, HOUR_MS, day(3)), block(3, HOUR_MS, day(2))];
        let range = TimeRange::new(2 * DAY_MS + 1, 4 * DAY_MS);
        let (claims, _) = of(&blocks, &[], range, HOUR_MS).unwrap();
        // Midnight is of the second day, and the first window of the head begins with it.
        assert_eq!(
            claims,
            [vec![day(3)], vec![], vec![day(2)]].map(|mut claimed| {
                claimed.retain(|one| *one != day(9));
                claimed
            })
        );
    }
}
