//! Filling buckets: samples in, one at a time, and columns out.

use std::sync::Arc;

use super::{Component, FALLS_MAX, Kind, Rollup, bucket_end_ms};
use crate::metrics::float_histogram::{FloatHistogram, KahanSum};
use crate::metrics::histogram::Histogram;
use crate::metrics::kahan::kahan_add;
use crate::metrics::sample::{Samples, is_stale_nan, stale_nan};

impl Rollup {
    /// The buckets of a resolution of which there are samples or stale markers.
    pub fn of(samples: &Samples, resolution_ms: i64) -> Rollup {
        let mut rollup = Rollup::new(resolution_ms);
        let mut open: Option<Open> = None;
        let mut histograms = samples.histograms.iter().peekable();
        let mut newest: Option<Arc<FloatHistogram>> = None;
        let rows = samples.timestamps.iter().zip(&samples.values).enumerate();
        for (row, (&timestamp, &value)) in rows {
            let end_ms = bucket_end_ms(timestamp, resolution_ms);
            if let Some(done) = open.take_if(|open| open.end_ms != end_ms) {
                rollup.push(done);
            }
            let open = open.get_or_insert_with(|| Open::new(end_ms));
            let histogram = histograms.next_if(|(at, _)| *at as usize == row);
            match histogram {
                _ if is_stale_nan(value) => open.ended_ms = Some(timestamp),
                None => open.add(timestamp, value),
                Some((_, histogram)) => {
                    // Custom bounds are shared from one to the next.
                    let float = FloatHistogram::from_stored(histogram, newest.as_deref());
                    let float = Arc::new(float);
                    open.add_histogram(timestamp, histogram, &float);
                    newest = Some(float);
                }
            }
        }
        if let Some(done) = open {
            rollup.push(done);
        }
        rollup
    }

    fn push(&mut self, bucket: Open) {
        use Component::{Changes, Count, Ended, Falls, First, Last, Max, Min, Resets, Sum};
        if let Some(timestamp) = bucket.ended_ms {
            self.column_of_mut(Kind::Floats, Ended).push(timestamp, stale_nan());
        }
        let end_ms = bucket.end_ms;
        if let Some((first, last)) = bucket.first.zip(bucket.last) {
            let mut put = |component, timestamp, value| {
                self.column_of_mut(Kind::Floats, component).push(timestamp, value);
            };
            put(First, first.0, first.1);
            put(Last, last.0, last.1);
            put(Count, end_ms, f64::from(bucket.count));
            put(Sum, end_ms, bucket.sum + bucket.compensation);
            put(Min, end_ms, bucket.min);
            put(Max, end_ms, bucket.max);
            put(Resets, end_ms, f64::from(bucket.resets));
            put(Changes, end_ms, f64::from(bucket.changes));
            let falls = &bucket.falls;
            if falls.len() <= FALLS_MAX {
                falls.iter().for_each(|(timestamp, value)| put(Falls, *timestamp, *value));
            } else if let Some((timestamp, _)) = falls.last() {
                put(Falls, *timestamp, falls.iter().map(|(_, value)| value).sum());
            }
        }
        if let Some(of) = bucket.histograms {
            for (component, value) in
                [(Count, of.count), (Resets, of.resets), (Changes, of.changes)]
            {
                self.column_of_mut(Kind::Histograms, component).push(end_ms, f64::from(value));
            }
            let mut put = |component, timestamp, histogram| {
                let column = self.column_of_mut(Kind::Histograms, component);
                column.push_histogram(timestamp, histogram);
            };
            put(First, of.first.0, of.first.1);
            put(Last, of.last.0, of.last.1);
            let sums = of.sums.finish();
            let before_end = (0..sums.len() as i64).rev();
            before_end.zip(sums).for_each(|(before, sum)| put(Sum, end_ms - before, sum));
            let falls = limited(of.falls);
            falls.into_iter().for_each(|(timestamp, histogram)| put(Falls, timestamp, histogram));
        }
    }
}

/// At most so many falls as a bucket keeps: else one for each kind of schema, at its last one's time.
fn limited(falls: Vec<(i64, Histogram)>) -> Vec<(i64, Histogram)> {
    if falls.len() <= FALLS_MAX {
        return falls;
    }
    let mut sums = Sums::default();
    let mut times = [0; 2];
    for (timestamp, histogram) in falls {
        let float = FloatHistogram::from_stored(&histogram, None);
        times[usize::from(float.uses_custom_bounds())] = timestamp;
        sums.add(&float);
    }
    let mut kept: Vec<(i64, Histogram)> = times
        .into_iter()
        .zip([sums.exponential, sums.custom])
        .filter_map(|(timestamp, sum)| Some((timestamp, sum?.finish().to_stored())))
        .collect();
    kept.sort_by_key(|(timestamp, _)| *timestamp);
    kept
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
    histograms: Option<OpenHistograms>,
    previous: Previous,
}

/// The live sample before.
enum Previous {
    None,
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// The histograms of a bucket.
struct OpenHistograms {
    count: u32,
    first: (i64, Histogram),
    last: (i64, Histogram),
    newest: Arc<FloatHistogram>,
    sums: Sums,
    falls: Vec<(i64, Histogram)>,
    /// Of all samples of the bucket.
    resets: u32,
    changes: u32,
}

/// Sums of what can be added up.
#[derive(Default)]
struct Sums {
    exponential: Option<KahanSum>,
    custom: Option<KahanSum>,
}

impl Sums {
    fn add(&mut self, histogram: &FloatHistogram) {
        let sum = match histogram.uses_custom_bounds() {
            true => &mut self.custom,
            false => &mut self.exponential,
        };
        match sum {
            Some(sum) => {
                sum.add(histogram).expect("one kind of schema");
            }
            None => *sum = Some(KahanSum::new(histogram)),
        }
    }

    fn finish(self) -> Vec<Histogram> {
        let sums = [self.exponential, self.custom].into_iter().flatten();
        sums.map(|sum| sum.finish().to_stored()).collect()
    }
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
            histograms: None,
            previous: Previous::None,
        }
    }

    fn add(&mut self, timestamp: i64, value: f64) {
        self.ended_ms = None;
        self.count += 1;
        (self.sum, self.compensation) = kahan_add(value, self.sum, self.compensation);
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
            self.changes += u32::from(differs(last, value));
        }
        if let Some(histograms) = &mut self.histograms {
            let (is_reset, is_change) = match self.previous {
                Previous::Float(before) => (value < before, differs(before, value)),
                Previous::None | Previous::Histogram(_) => (true, true),
            };
            histograms.resets += u32::from(is_reset);
            histograms.changes += u32::from(is_change);
        }
        self.previous = Previous::Float(value);
        self.first.get_or_insert((timestamp, value));
        self.last = Some((timestamp, value));
    }

    fn add_histogram(&mut self, timestamp: i64, stored: &Histogram, float: &Arc<FloatHistogram>) {
        self.ended_ms = None;
        let previous = std::mem::replace(&mut self.previous, Previous::Histogram(float.clone()));
        let Some(of) = &mut self.histograms else {
            // Another kind counts as a reset and as a change.
            let other_kind = u32::from(matches!(previous, Previous::Float(_)));
            let mut sums = Sums::default();
            sums.add(float);
            self.histograms = Some(OpenHistograms {
                count: 1,
                first: (timestamp, stored.clone()),
                last: (timestamp, stored.clone()),
                newest: float.clone(),
                sums,
                falls: Vec::new(),
                resets: self.resets + other_kind,
                changes: self.changes + other_kind,
            });
            return;
        };
        let (is_reset, is_change) = match &previous {
            Previous::Histogram(before) => {
                (float.counts_decreased(before), !float.same_data(before))
            }
            Previous::None | Previous::Float(_) => (true, true),
        };
        of.resets += u32::from(is_reset);
        of.changes += u32::from(is_change);
        if float.counts_decreased(&of.newest) {
            of.falls.push((timestamp, of.last.1.clone()));
        }
        of.count += 1;
        of.sums.add(float);
        of.last = (timestamp, stored.clone());
        of.newest = float.clone();
    }
}

fn differs(before: f64, value: f64) -> bool {
    value != before && !(value.is_nan() && before.is_nan())
}
