//! Rollups: what is left of a series at a coarser resolution.
//!
//! A **bucket** of resolution r holds what is known of the samples in `(k·r, (k+1)·r]`. Buckets are
//! kept column by column, each column an ordinary run of samples ([`Component`]): so the codecs,
//! pages and merges of raw samples are those of rollups too, a query decodes only the columns that
//! it needs, and series of one target share their timestamps.
//!
//! Two neighbouring buckets can be joined without a look at the raw samples, since each knows its
//! first and its last one: a window that consists of whole buckets has the same answer as the raw
//! samples have.
//!
//! Floats and native histograms of a bucket are kept apart, in columns of the same components: no
//! function mixes them, but for those that count changes, and a bucket with histograms knows how
//! many it has of all samples.

mod fill;

use std::collections::BTreeSet;

use crate::metrics::chunk;
use crate::metrics::sample::Samples;
use crate::time::TimeRange;

/// What a column of a rolled-up series is. Numbers are those of chunks in a block; never reused.
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
    /// At the bucket's end. Of histograms, those with exponential buckets and those with custom
    /// bounds are added up apart; if there are both, the former stand a millisecond before.
    Sum = 4,
    /// Of the floats that are not NaN; NaN if there is none.
    Min = 5,
    Max = 6,
    /// How often a float is less than the one before it in the bucket. Of the histograms' columns:
    /// how often any sample is a reset of the one before it, as PromQL's `resets` counts.
    Resets = 7,
    /// How often a float differs from the one before it in the bucket. Of the histograms' columns:
    /// how often any two neighbours differ.
    Changes = 8,
    /// The values before each reset, at the time of the sample that fell. Of a bucket with more than
    /// [`FALLS_MAX`] of them their sum, at the time of the last.
    Falls = 9,
    /// Stale markers that end a bucket. Of floats and histograms there is one such column.
    Ended = 10,
}

/// Of which samples of a bucket a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Floats,
    Histograms,
}

impl Kind {
    pub(crate) const ALL: [Kind; 2] = [Kind::Floats, Kind::Histograms];
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
    fn implied(self, of: Kind) -> Implied {
        use Component::{Changes, Count, Ended, Falls, First, Last, Max, Min, Raw, Resets, Sum};
        match (self, of) {
            (Resets | Changes, _) => Implied::Zero,
            (Falls | Ended, _) | (Min | Max, Kind::Histograms) => Implied::Nothing,
            (Last, _) => Implied::SameAs(First),
            (Min, Kind::Floats) => Implied::SameAs(First),
            (Max, Kind::Floats) => Implied::SameAs(Last),
            (Sum, Kind::Floats) => Implied::FirstTimesCount,
            (Raw | First | Count, _) | (Sum, Kind::Histograms) => Implied::Stored,
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
    /// By [`Kind`] and [`Component`]; of those that are implied in some way and `Count` each has a
    /// row for each bucket with a live sample of the kind.
    columns: [[Samples; Component::COUNT]; 2],
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

    /// A column of the floats.
    pub fn column(&self, component: Component) -> &Samples {
        self.column_of(Kind::Floats, component)
    }

    pub fn column_of(&self, kind: Kind, component: Component) -> &Samples {
        &self.columns[kind as usize][component as usize]
    }

    pub(crate) fn column_of_mut(&mut self, kind: Kind, component: Component) -> &mut Samples {
        &mut self.columns[kind as usize][component as usize]
    }

    /// Ends of the buckets with live samples of a kind.
    pub fn ends(&self, kind: Kind) -> &[i64] {
        &self.column_of(kind, Component::Count).timestamps
    }

    /// How many buckets have live samples; those with samples of both kinds count twice.
    pub fn buckets(&self) -> usize {
        Kind::ALL.iter().map(|kind| self.ends(*kind).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.columns.iter().flatten().all(Samples::is_empty)
    }

    fn columns_mut(&mut self) -> impl Iterator<Item = &mut Samples> {
        self.columns.iter_mut().flatten()
    }

    /// The columns that have to be stored, each with samples.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (Kind, Component, &Samples)> {
        Kind::ALL.into_iter().flat_map(move |kind| {
            let columns = Component::OF_ROLLUPS.into_iter();
            columns
                .map(move |component| (kind, component, self.column_of(kind, component)))
                .filter(|(_, _, column)| !column.is_empty())
                .filter(|(kind, component, _)| !self.is_implied(*kind, *component))
        })
    }

    fn is_implied(&self, kind: Kind, component: Component) -> bool {
        let mut implied = Samples::default();
        let column = self.column_of(kind, component);
        self.imply(kind, component, &mut implied)
            && implied.timestamps == column.timestamps
            && bits(&implied.values).eq(bits(&column.values))
            && same_histograms(&implied, column)
    }

    /// Fills `into` with what a column is if it is not stored.
    fn imply(&self, kind: Kind, component: Component, into: &mut Samples) -> bool {
        let (first, count) =
            (self.column_of(kind, Component::First), self.column_of(kind, Component::Count));
        match component.implied(kind) {
            Implied::Stored | Implied::Nothing => return false,
            Implied::Zero => into.values.resize(count.len(), 0.0),
            Implied::SameAs(other) => {
                let other = self.column_of(kind, other);
                into.values.extend_from_slice(&other.values);
                into.histograms.extend_from_slice(&other.histograms);
            }
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
        for kind in Kind::ALL {
            let of_wanted = Component::OF_ROLLUPS.into_iter().filter(|one| wanted.contains(*one));
            for component in of_wanted {
                let mut implied = Samples::default();
                if self.column_of(kind, component).is_empty()
                    && self.imply(kind, component, &mut implied)
                {
                    *self.column_of_mut(kind, component) = implied;
                }
            }
        }
    }

    /// Whether the columns are of the same buckets and hold what they should: what was read from disk
    /// may not be so.
    pub(crate) fn is_whole(&self, wanted: Components) -> bool {
        let columns = Kind::ALL.into_iter().flat_map(|kind| {
            Component::OF_ROLLUPS.into_iter().map(move |component| (kind, component))
        });
        let mut wanted = columns.filter(|(_, component)| wanted.contains(*component));
        wanted.all(|(kind, component)| self.is_in_step(kind, component))
    }

    fn is_in_step(&self, kind: Kind, component: Component) -> bool {
        use Component::{Falls, First, Last, Sum};
        let column = self.column_of(kind, component);
        let are_histograms =
            kind == Kind::Histograms && matches!(component, Falls | First | Last | Sum);
        if column.histograms.len() != if are_histograms { column.len() } else { 0 } {
            return false;
        }
        let ends = self.ends(kind);
        let own = column.timestamps.iter().map(|time| bucket_end_ms(*time, self.resolution_ms));
        match (component, kind) {
            (Sum, Kind::Histograms) => {
                let mut own: Vec<i64> = own.collect();
                own.dedup();
                own == ends
            }
            _ if component.implied(kind) == Implied::Nothing => true,
            _ => column.len() == ends.len() && own.eq(ends.iter().copied()),
        }
    }

    /// Adds the buckets of another one of the same series and resolution; of two buckets for one
    /// time, which only an import can bring, each column keeps the greater value.
    pub(crate) fn merge(&mut self, other: Rollup) {
        self.resolution_ms = other.resolution_ms;
        for (own, other) in self.columns_mut().zip(other.columns.iter().flatten()) {
            chunk::merge(own, other);
        }
    }

    /// Takes from an older one of the same series and resolution the buckets in `range` that know of
    /// more samples: of some, the raw ones are gone. What was deleted is in neither.
    pub(crate) fn fill_up(&mut self, mut older: Rollup, range: TimeRange) {
        let count = |of: &Rollup, end_ms: i64| -> f64 {
            let of_kind = |kind| {
                let found = of.ends(kind).binary_search(&end_ms).ok();
                found.map_or(0.0, |row| of.column_of(kind, Component::Count).values[row])
            };
            Kind::ALL.into_iter().map(of_kind).sum()
        };
        let is_fuller =
            |end_ms: &i64| range.contains(*end_ms) && count(&older, *end_ms) > count(self, *end_ms);
        let ends = Kind::ALL.into_iter().flat_map(|kind| older.ends(kind).iter().copied());
        let fuller: BTreeSet<i64> = ends.filter(is_fuller).collect();
        if fuller.is_empty() {
            return;
        }
        let resolution_ms = self.resolution_ms;
        let is_taken = |time: i64| fuller.contains(&bucket_end_ms(time, resolution_ms));
        self.columns_mut().for_each(|column| column.retain(|time| !is_taken(time)));
        older.columns_mut().for_each(|column| column.retain(is_taken));
        self.merge(older);
    }

    /// Keeps the buckets that end in `range`.
    pub(crate) fn keep(&mut self, range: TimeRange) {
        let resolution_ms = self.resolution_ms;
        let is_inside = |time: i64| range.contains(bucket_end_ms(time, resolution_ms));
        self.columns_mut().for_each(|column| column.retain(is_inside));
    }

    /// Removes the buckets that have any time of `range`.
    pub(crate) fn remove(&mut self, range: TimeRange) {
        let resolution_ms = self.resolution_ms;
        let overlaps = |timestamp: i64| {
            let end_ms = bucket_end_ms(timestamp, resolution_ms);
            TimeRange::new(end_ms.saturating_sub(resolution_ms - 1), end_ms).overlaps(range)
        };
        self.columns_mut().for_each(|column| column.retain(|time| !overlaps(time)));
    }
}

fn same_histograms(a: &Samples, b: &Samples) -> bool {
    let bytes = |of: &Samples| -> Vec<Vec<u8>> {
        of.histograms.iter().map(|(_, histogram)| histogram.canonical_bytes()).collect()
    };
    a.histograms.len() == b.histograms.len() && bytes(a) == bytes(b)
}

fn bits(values: &[f64]) -> impl Iterator<Item = u64> {
    values.iter().map(|value| value.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::float_histogram::FloatHistogram;
    use crate::metrics::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint, Span};
    use crate::metrics::sample::stale_nan;

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
        assert_eq!(rollup.ends(Kind::Floats), [100]);
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
            for (kind, component, column) in rollup.stored() {
                *stored.column_of_mut(kind, component) = column.clone();
            }
            stored.restore(Components::ALL);
            assert!(stored.is_whole(Components::ALL));
            assert_eq!(format!("{stored:?}"), format!("{rollup:?}"));
        }
        let constant = Rollup::of(&samples(cases[0]), 100);
        let stored: Vec<Component> = constant.stored().map(|(_, component, _)| component).collect();
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
        assert_eq!(rollup.ends(Kind::Floats), [100, 200, 300, 400, 500]);
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

    fn counter(count: u64, schema: i32) -> Histogram {
        Histogram {
            schema,
            zero_threshold: 0.0,
            sum: count as f64,
            reset_hint: ResetHint::Unknown,
            positive_spans: vec![Span { offset: 0, length: 1 }],
            negative_spans: vec![],
            counts: Counts::Integer {
                count,
                zero_count: 0,
                positive: vec![count],
                negative: vec![],
            },
            custom_values: vec![],
        }
    }

    fn counts(column: &Samples) -> Vec<(i64, f64)> {
        let count = |(row, histogram): &(u32, Histogram)| {
            let histogram = FloatHistogram::from_stored(histogram, None);
            (column.timestamps[*row as usize], histogram.count)
        };
        column.histograms.iter().map(count).collect()
    }

    #[test]
    fn histograms_have_columns_of_their_own() {
        use Component::{Changes, Count, Ended, Falls, First, Last, Resets, Sum};
        let mut samples = samples(&[(5, 2.0), (7, 3.0)]);
        // A reset by count, one by a finer schema, and no change.
        for (timestamp, count, schema) in
            [(10, 4, 0), (20, 9, 0), (30, 1, 0), (40, 3, 1), (90, 3, 1), (110, 5, 1)]
        {
            samples.push_histogram(timestamp, counter(count, schema));
        }
        samples.push_histogram(150, Histogram { sum: stale_nan(), ..counter(0, 0) });
        let rollup = Rollup::of(&samples, 100);
        let of = |component| counts(rollup.column_of(Kind::Histograms, component));
        assert_eq!(of(First), [(10, 4.0), (110, 5.0)]);
        assert_eq!(of(Last), [(90, 3.0), (110, 5.0)]);
        assert_eq!(of(Sum), [(100, 20.0), (200, 5.0)]);
        assert_eq!(of(Falls), [(30, 9.0), (40, 1.0)]);
        let floats = |component| rollup.column_of(Kind::Histograms, component).values.clone();
        assert_eq!(floats(Count), [5.0, 1.0]);
        // From float to float, to another kind, 4 to 9, and the two resets.
        assert_eq!(floats(Changes), [5.0, 0.0]);
        assert_eq!(floats(Resets), [3.0, 0.0]);
        assert_eq!(rollup.column(Ended).timestamps, [150]);
        assert_eq!((rollup.ends(Kind::Floats), rollup.buckets()), (&[100][..], 3));
        let mut stored = Rollup::new(100);
        for (kind, component, column) in rollup.stored() {
            *stored.column_of_mut(kind, component) = column.clone();
        }
        stored.restore(Components::ALL);
        assert!(stored.is_whole(Components::ALL));
        assert_eq!(format!("{stored:?}"), format!("{rollup:?}"));
        stored.column_of_mut(Kind::Histograms, Last).timestamps[0] += 100;
        assert!(!stored.is_whole(Components::ALL));
    }

    #[test]
    fn exponential_and_custom_buckets_are_added_up_apart() {
        let mut samples = Samples::default();
        for timestamp in 1..=20 {
            let mut histogram = counter(timestamp as u64 % 2 + 1, 0);
            if timestamp > 15 {
                histogram.schema = CUSTOM_BUCKETS_SCHEMA;
                histogram.custom_values = vec![1.0];
            }
            samples.push_histogram(timestamp, histogram);
        }
        let rollup = Rollup::of(&samples, 100);
        let of = |component| counts(rollup.column_of(Kind::Histograms, component));
        assert_eq!(of(Component::Sum), [(99, 23.0), (100, 7.0)]);
        // More than are kept one by one: a sum for each kind of bounds.
        assert_eq!(of(Component::Falls), [(16, 16.0), (20, 4.0)]);
        assert!(rollup.is_whole(Components::ALL));
    }
}
