//! Rollups: what is left of a series at a coarser resolution.
//!
//! A **bucket** of resolution r holds what is known of the samples in `(k·r, (k+1)·r]`. Buckets are
//! kept column by column, each column an ordinary run of samples ([`Component`]): so the codecs,
//! pages and merges of raw samples are those of rollups too, a query decodes only the columns that
//! it needs, and series of one target share their timestamps.
//!
//! Two neighbouring buckets can be joined without a look at the raw samples, since each knows its
//! first and its last one: a window that consists of whole buckets has the same answer as the raw
//! samples have. The design that this follows is that of design §6.

use std::collections::BTreeSet;

use crate::metrics::chunk;
use crate::metrics::sample::{Samples, is_stale_nan, stale_nan};
use crate::time::TimeRange;

/// A column of a rolled-up series. Numbers are those of chunks in a block; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Component {
    /// Raw samples: the one column of a series that is not rolled up.
    Raw = 0,
    /// The first sample of each bucket, as it was.
    First = 1,
    /// The last one.
    Last = 2,
    /// How many samples, at the bucket's end.
    Count = 3,
    Sum = 4,
    /// Of the values that are not NaN; NaN if there is none.
    Min = 5,
    Max = 6,
    /// How often a value is less than the one before it in the bucket.
    Resets = 7,
    /// How often a value differs from the one before it in the bucket.
    Changes = 8,
    /// The values before each reset, at the time of the sample that fell. Of a bucket with more than
    /// [`FALLS_MAX`] of them their sum, at the time of the last.
    Falls = 9,
    /// Stale markers that end a bucket, as they were.
    Ended = 10,
}

impl Component {
    pub const COUNT: usize = 11;

    /// Those that rollups have, in the order in which they are stored.
    pub const OF_ROLLUPS: [Component; 10] = {
        use Component::*;
        [First, Last, Count, Sum, Min, Max, Resets, Changes, Falls, Ended]
    };

    pub(crate) fn from_number(number: u8) -> Option<Component> {
        match number {
            0 => Some(Component::Raw),
            _ => Component::OF_ROLLUPS.get(usize::from(number) - 1).copied(),
        }
    }

    /// What its rows are where nothing is stored.
    fn implied(self) -> Implied {
        match self {
            Component::Last | Component::Min => Implied::SameAs(Component::First),
            Component::Max => Implied::SameAs(Component::Last),
            Component::Sum => Implied::FirstTimesCount,
            Component::Resets | Component::Changes => Implied::Zero,
            Component::Falls | Component::Ended => Implied::Nothing,
            Component::Raw | Component::First | Component::Count => Implied::Stored,
        }
    }
}

/// Columns that say nothing of their own are not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Implied {
    Stored,
    SameAs(Component),
    FirstTimesCount,
    Zero,
    Nothing,
}

/// A bucket keeps each of so many resets, so that the increase over any buckets is the sum of the
/// very terms, in the very order, that the raw samples give. What falls more often is no counter.
pub const FALLS_MAX: usize = 8;

/// The end of the bucket that a sample belongs to.
pub fn bucket_end_ms(timestamp: i64, resolution_ms: i64) -> i64 {
    let buckets = timestamp.saturating_sub(1).div_euclid(resolution_ms).saturating_add(1);
    buckets.saturating_mul(resolution_ms)
}

/// The buckets of one series, ascending, column by column.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Rollup {
    pub resolution_ms: i64,
    /// By [`Component`]; all but `Falls` and `Ended` have a row for each bucket with a live sample.
    columns: [Samples; Component::COUNT],
}

/// A choice of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Components(u16);

impl Components {
    pub const ALL: Components = Components(u16::MAX);

    pub fn of(components: &[Component]) -> Components {
        Components(components.iter().fold(0, |bits, component| bits | 1 << *component as u8))
    }

    pub fn contains(self, component: Component) -> bool {
        self.0 >> component as u8 & 1 == 1
    }

    /// With those that the chosen ones may be implied by.
    pub(crate) fn with_implying(self) -> Components {
        // The counts say which buckets there are.
        let mut bits = self.0 | 1 << Component::Count as u8 | 1 << Component::First as u8;
        if self.contains(Component::Max) {
            bits |= 1 << Component::Last as u8;
        }
        Components(bits)
    }
}

impl Rollup {
    pub fn new(resolution_ms: i64) -> Rollup {
        Rollup { resolution_ms, columns: Default::default() }
    }

    /// The buckets of a resolution of which `samples` has floats or their stale markers.
    pub fn of(samples: &Samples, resolution_ms: i64) -> Rollup {
        let mut rollup = Rollup::new(resolution_ms);
        let mut open: Option<Open> = None;
        let floats = samples.timestamps.iter().zip(&samples.values).enumerate();
        for (row, (&timestamp, &value)) in floats {
            if samples.histogram(row).is_some() {
                continue;
            }
            let end_ms = bucket_end_ms(timestamp, resolution_ms);
            if let Some(done) = open.take_if(|open| open.end_ms != end_ms) {
                rollup.push(done);
            }
            open.get_or_insert_with(|| Open::new(end_ms)).add(timestamp, value);
        }
        if let Some(done) = open {
            rollup.push(done);
        }
        rollup
    }

    pub fn column(&self, component: Component) -> &Samples {
        &self.columns[component as usize]
    }

    pub(crate) fn column_mut(&mut self, component: Component) -> &mut Samples {
        &mut self.columns[component as usize]
    }

    /// Ends of the buckets with live samples.
    pub fn ends(&self) -> &[i64] {
        &self.column(Component::Count).timestamps
    }

    pub fn is_empty(&self) -> bool {
        self.columns.iter().all(Samples::is_empty)
    }

    pub fn clear(&mut self) {
        self.columns.iter_mut().for_each(Samples::clear);
    }

    fn push(&mut self, bucket: Open) {
        use Component::*;
        if let Some(timestamp) = bucket.ended_ms {
            self.column_mut(Ended).push(timestamp, stale_nan());
        }
        let Some((first, last)) = bucket.first.zip(bucket.last) else { return };
        self.column_mut(First).push(first.0, first.1);
        self.column_mut(Last).push(last.0, last.1);
        let fields = [
            (Count, f64::from(bucket.count)),
            (Sum, bucket.sum + bucket.compensation),
            (Min, bucket.min),
            (Max, bucket.max),
            (Resets, f64::from(bucket.resets)),
            (Changes, f64::from(bucket.changes)),
        ];
        for (component, value) in fields {
            self.column_mut(component).push(bucket.end_ms, value);
        }
        let falls = &bucket.falls;
        if falls.len() <= FALLS_MAX {
            falls
                .iter()
                .for_each(|(timestamp, value)| self.column_mut(Falls).push(*timestamp, *value));
        } else if let Some((timestamp, _)) = falls.last() {
            let sum = falls.iter().map(|(_, value)| value).sum();
            self.column_mut(Falls).push(*timestamp, sum);
        }
    }

    /// The columns that have to be stored, each with samples.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (Component, &Samples)> {
        Component::OF_ROLLUPS
            .into_iter()
            .map(|component| (component, self.column(component)))
            .filter(|(component, column)| !column.is_empty() && !self.is_implied(*component))
    }

    fn is_implied(&self, component: Component) -> bool {
        let mut implied = Samples::default();
        let column = self.column(component);
        self.imply(component, &mut implied)
            && implied.timestamps == column.timestamps
            && bits(&implied.values).eq(bits(&column.values))
    }

    /// Fills `into` with what a column is if it is not stored.
    fn imply(&self, component: Component, into: &mut Samples) -> bool {
        let (first, count) = (self.column(Component::First), self.column(Component::Count));
        match component.implied() {
            Implied::Stored | Implied::Nothing => return false,
            Implied::Zero => into.values.resize(count.len(), 0.0),
            Implied::SameAs(other) => into.values.extend_from_slice(&self.column(other).values),
            Implied::FirstTimesCount => {
                let products = first.values.iter().zip(&count.values).map(|(a, b)| a * b);
                into.values.extend(products);
            }
        }
        let times = if component == Component::Last { first } else { count };
        into.timestamps.extend_from_slice(&times.timestamps);
        true
    }

    /// Fills the columns of `wanted` that were not stored.
    pub(crate) fn restore(&mut self, wanted: Components) {
        for component in Component::OF_ROLLUPS {
            if wanted.contains(component) && self.column(component).is_empty() {
                let mut implied = Samples::default();
                if self.imply(component, &mut implied) {
                    *self.column_mut(component) = implied;
                }
            }
        }
    }

    /// Whether the columns are of the same buckets: what was read from disk may not be.
    pub(crate) fn is_whole(&self, wanted: Components) -> bool {
        let ends = self.ends();
        let in_step = |component: Component| {
            let column = self.column(component);
            let own = column.timestamps.iter().map(|time| bucket_end_ms(*time, self.resolution_ms));
            column.len() == ends.len() && own.eq(ends.iter().copied())
        };
        Component::OF_ROLLUPS.into_iter().all(|component| {
            !wanted.contains(component)
                || matches!(component.implied(), Implied::Nothing)
                || in_step(component)
        })
    }

    /// Adds the buckets of another one of the same series and resolution; of two buckets for one
    /// time, which only an import can bring, each column keeps the greater value.
    pub(crate) fn merge(&mut self, other: Rollup) {
        self.resolution_ms = other.resolution_ms;
        for (own, other) in self.columns.iter_mut().zip(&other.columns) {
            chunk::merge(own, other);
        }
    }

    /// Takes from an older one of the same series and resolution the buckets in `range` that know of
    /// more samples: of some, the raw ones are gone. What was deleted is in neither.
    pub(crate) fn fill_up(&mut self, mut older: Rollup, range: TimeRange) {
        let count = |of: &Rollup, end_ms: i64| {
            let found = of.ends().binary_search(&end_ms).ok();
            found.map_or(0.0, |row| of.column(Component::Count).values[row])
        };
        let is_fuller =
            |end_ms: &i64| range.contains(*end_ms) && count(&older, *end_ms) > count(self, *end_ms);
        let fuller: BTreeSet<i64> = older.ends().iter().copied().filter(is_fuller).collect();
        if fuller.is_empty() {
            return;
        }
        let resolution_ms = self.resolution_ms;
        let is_taken = |time: i64| fuller.contains(&bucket_end_ms(time, resolution_ms));
        self.columns.iter_mut().for_each(|column| column.retain(|time| !is_taken(time)));
        older.columns.iter_mut().for_each(|column| column.retain(is_taken));
        self.merge(older);
    }

    /// Keeps the buckets that end in `range`.
    pub(crate) fn keep(&mut self, range: TimeRange) {
        let resolution_ms = self.resolution_ms;
        let is_inside = |time: i64| range.contains(bucket_end_ms(time, resolution_ms));
        self.columns.iter_mut().for_each(|column| column.retain(is_inside));
    }

    /// Removes the buckets that have any time of `range`.
    pub(crate) fn remove(&mut self, range: TimeRange) {
        let resolution_ms = self.resolution_ms;
        let overlaps = |timestamp: i64| {
            let end_ms = bucket_end_ms(timestamp, resolution_ms);
            TimeRange::new(end_ms.saturating_sub(resolution_ms - 1), end_ms).overlaps(range)
        };
        self.columns.iter_mut().for_each(|column| column.retain(|time| !overlaps(time)));
    }
}

fn bits(values: &[f64]) -> impl Iterator<Item = u64> {
    values.iter().map(|value| value.to_bits())
}

/// A bucket that is being filled.
struct Open {
    end_ms: i64,
    count: u32,
    sum: f64,
    /// What rounding has taken from the sum.
    compensation: f64,
    min: f64,
    max: f64,
    first: Option<(i64, f64)>,
    last: Option<(i64, f64)>,
    resets: u32,
    changes: u32,
    falls: Vec<(i64, f64)>,
    ended_ms: Option<i64>,
}

impl Open {
    fn new(end_ms: i64) -> Open {
        Open {
            end_ms,
            count: 0,
            sum: 0.0,
            compensation: 0.0,
            min: f64::NAN,
            max: f64::NAN,
            first: None,
            last: None,
            resets: 0,
            changes: 0,
            falls: Vec::new(),
            ended_ms: None,
        }
    }

    fn add(&mut self, timestamp: i64, value: f64) {
        if is_stale_nan(value) {
            self.ended_ms = Some(timestamp);
            return;
        }
        self.ended_ms = None;
        self.count += 1;
        self.add_to_sum(value);
        // The comparisons are those of PromQL: of two zeros the earlier one stays.
        if value < self.min || self.min.is_nan() {
            self.min = value;
        }
        if value > self.max || self.max.is_nan() {
            self.max = value;
        }
        if let Some((_, last)) = self.last {
            if value < last {
                self.resets += 1;
                self.falls.push((timestamp, last));
            }
            self.changes += u32::from(value != last && !(value.is_nan() && last.is_nan()));
        }
        self.first.get_or_insert((timestamp, value));
        self.last = Some((timestamp, value));
    }

    /// Neumaier's compensated sum.
    fn add_to_sum(&mut self, value: f64) {
        let sum = self.sum + value;
        if sum.is_infinite() {
            self.compensation = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.compensation += (self.sum - sum) + value;
        } else {
            self.compensation += (value - sum) + self.sum;
        }
        self.sum = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(i64, f64)]) -> Samples {
        let mut samples = Samples::default();
        rows.iter().for_each(|(timestamp, value)| samples.push(*timestamp, *value));
        samples
    }

    fn rows(rollup: &Rollup, component: Component) -> Vec<(i64, f64)> {
        let column = rollup.column(component);
        column.timestamps.iter().copied().zip(column.values.iter().copied()).collect()
    }

    #[test]
    fn a_sample_at_the_end_of_a_bucket_is_in_it() {
        let of = |timestamp| bucket_end_ms(timestamp, 100);
        assert_eq!(
            [of(0), of(1), of(100), of(101), of(-99), of(-100)],
            [0, 100, 100, 200, 0, -100]
        );
    }

    #[test]
    fn a_bucket_tells_what_its_samples_are() {
        use Component::*;
        let rollup = Rollup::of(
            &samples(&[
                (10, 4.0),
                (20, 6.0),
                (90, 1.0),
                (100, 1.0),
                (101, 7.0),
                (150, stale_nan()),
            ]),
            100,
        );
        assert_eq!(rows(&rollup, First), [(10, 4.0), (101, 7.0)]);
        assert_eq!(rows(&rollup, Last), [(100, 1.0), (101, 7.0)]);
        assert_eq!(rows(&rollup, Count), [(100, 4.0), (200, 1.0)]);
        assert_eq!(rows(&rollup, Sum), [(100, 12.0), (200, 7.0)]);
        assert_eq!(rows(&rollup, Min), [(100, 1.0), (200, 7.0)]);
        assert_eq!(rows(&rollup, Max), [(100, 6.0), (200, 7.0)]);
        assert_eq!(rows(&rollup, Resets), [(100, 1.0), (200, 0.0)]);
        assert_eq!(rows(&rollup, Changes), [(100, 2.0), (200, 0.0)]);
        assert_eq!(rows(&rollup, Falls), [(90, 6.0)]);
        assert_eq!(rollup.column(Ended).timestamps, [150]);
    }

    #[test]
    fn a_marker_that_is_followed_by_a_sample_ends_nothing() {
        let rollup = Rollup::of(&samples(&[(10, stale_nan()), (20, 1.0), (130, stale_nan())]), 100);
        assert_eq!(rollup.column(Component::Ended).timestamps, [130]);
        assert_eq!(rollup.ends(), [100]);
    }

    #[test]
    fn what_says_nothing_is_not_stored_and_comes_back() {
        let cases: [&[(i64, f64)]; 5] = [
            &[(10, 5.0), (20, 5.0), (110, 5.0)],
            &[(10, 1.0), (20, 2.0), (110, 2.5), (199, 4.0)],
            &[(10, -0.0), (20, 0.0), (110, f64::NAN), (120, f64::INFINITY)],
            &[(10, 9.0), (20, 2.0), (30, 1.0)],
            &[(10, stale_nan())],
        ];
        for case in cases {
            let rollup = Rollup::of(&samples(case), 100);
            let mut stored = Rollup::new(100);
            for (component, column) in rollup.stored() {
                *stored.column_mut(component) = column.clone();
            }
            stored.restore(Components::ALL);
            assert!(stored.is_whole(Components::ALL));
            assert_eq!(format!("{stored:?}"), format!("{rollup:?}"));
        }
        let constant = Rollup::of(&samples(cases[0]), 100);
        let stored: Vec<Component> = constant.stored().map(|(component, _)| component).collect();
        assert_eq!(stored, [Component::First, Component::Last, Component::Count]);
    }

    #[test]
    fn buckets_that_know_of_more_samples_stay() {
        let older = Rollup::of(
            &samples(&[
                (10, 5.0),
                (20, 3.0),
                (30, stale_nan()),
                (110, 1.0),
                (210, 2.0),
                (310, 7.0),
            ]),
            100,
        );
        // Of the first bucket one sample is left, of the last none; the third has one more.
        let raw = samples(&[(10, 5.0), (110, 4.0), (210, 2.0), (220, 2.0), (410, 1.0)]);
        let mut rollup = Rollup::of(&raw, 100);
        rollup.fill_up(older.clone(), TimeRange::new(1, 500));
        assert_eq!(rollup.ends(), [100, 200, 300, 400, 500]);
        assert_eq!(rows(&rollup, Component::Count).iter().map(|(_, n)| *n).sum::<f64>(), 7.0);
        assert_eq!(rows(&rollup, Component::Last)[..2], [(20, 3.0), (110, 4.0)]);
        assert_eq!(rows(&rollup, Component::Falls), [(20, 5.0)]);
        assert_eq!(rollup.column(Component::Ended).timestamps, [30]);
        let mut of_another_day = Rollup::of(&raw, 100);
        of_another_day.fill_up(older, TimeRange::new(401, 500));
        assert_eq!(of_another_day, Rollup::of(&raw, 100));
    }

    #[test]
    fn what_falls_too_often_keeps_the_sum_of_its_falls() {
        let zigzag: Vec<(i64, f64)> = (0..40).map(|i| (i + 1, f64::from(i as u8 % 2))).collect();
        let rollup = Rollup::of(&samples(&zigzag), 100);
        assert_eq!(rows(&rollup, Component::Falls), [(39, 19.0)]);
        assert_eq!(rows(&rollup, Component::Resets), [(100, 19.0)]);
    }
}
