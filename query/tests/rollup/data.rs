//! Series as random numbers make them: floats and native histograms of all kinds.

use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::{Batch, HistogramRow};
use icecore_storage::metrics::histogram::{
    CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint, Span,
};
use icecore_storage::metrics::sample::stale_nan;
use icecore_storage::time::{DAY_MS, MINUTE_MS};
use proptest::prelude::*;

pub(crate) const START_MS: i64 = 500 * DAY_MS;
pub(crate) const END_MS: i64 = START_MS + 2 * DAY_MS;
pub(crate) const HOUR_MS: i64 = 60 * MINUTE_MS;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Float(f64),
    Histogram(Box<Histogram>),
}

#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) samples: Vec<(i64, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Whole,
    Odd,
    /// Counters whose resolution falls and rises, which is a reset.
    Schemas,
    /// Counters whose zero bucket grows and shrinks, which is a reset.
    Zeros,
    /// Custom bounds, that change now and then.
    Custom,
    GaugeHistogram,
    /// Floats, and both kinds of histograms.
    Mixed,
}

impl Kind {
    const ALL: [Kind; 9] = [
        Kind::Counter,
        Kind::Gauge,
        Kind::Whole,
        Kind::Odd,
        Kind::Schemas,
        Kind::Zeros,
        Kind::Custom,
        Kind::GaugeHistogram,
        Kind::Mixed,
    ];
}

/// A native histogram in the making.
#[derive(Clone, Debug)]
struct Native {
    schema: i32,
    zero_threshold: f64,
    bounds: usize,
    counts: [u64; 6],
}

impl Native {
    fn observe(&mut self, kind: Kind, random: i64) {
        let falls = random % 29 == 0 || kind == Kind::GaugeHistogram && random % 2 == 0;
        if falls {
            self.counts = [0, 0, 1, 0, 0, 0];
        }
        if random % 17 == 0 {
            match kind {
                Kind::Schemas => self.schema = (random % 4) as i32,
                Kind::Zeros => self.zero_threshold = [0.001, 0.25, 0.5, 2.0][random as usize % 4],
                _ => self.bounds = 3 + random as usize % 3,
            }
        }
        for (place, count) in (0..).zip(&mut self.counts) {
            *count += ((random >> place) % 5) as u64;
        }
    }

    fn histogram(&self, kind: Kind, is_custom: bool, has_floats: bool) -> Histogram {
        let buckets = if is_custom { &self.counts[..=self.bounds] } else { &self.counts[1..] };
        let zero_count = if is_custom { 0 } else { self.counts[0] };
        let count = zero_count + buckets.iter().sum::<u64>();
        let (positive, negative) = match is_custom {
            true => (buckets.to_vec(), Vec::new()),
            false => (buckets[1..].to_vec(), buckets[..1].to_vec()),
        };
        // Buckets lie outside of the zero bucket, which ends where one of them begins.
        let offset = if is_custom { 0 } else { 12 };
        let span = |length: usize| match length {
            0 => Vec::new(),
            _ => vec![Span { offset, length: length as u32 }],
        };
        let floats = |counts: &[u64]| counts.iter().map(|count| *count as f64).collect();
        Histogram {
            schema: if is_custom { CUSTOM_BUCKETS_SCHEMA } else { self.schema },
            zero_threshold: if is_custom { 0.0 } else { self.zero_threshold },
            sum: count as f64 * 1.37,
            reset_hint: match kind {
                Kind::GaugeHistogram => ResetHint::Gauge,
                _ => ResetHint::Unknown,
            },
            positive_spans: span(positive.len()),
            negative_spans: span(negative.len()),
            counts: match has_floats {
                true => Counts::Float {
                    count: count as f64,
                    zero_count: zero_count as f64,
                    positive: floats(&positive),
                    negative: floats(&negative),
                },
                false => Counts::Integer { count, zero_count, positive, negative },
            },
            custom_values: match is_custom {
                true => [0.1, 0.5, 1.0, 2.5, 5.0][..self.bounds].to_vec(),
                false => Vec::new(),
            },
        }
    }
}

fn series(number: usize, kind: Kind, every_ms: i64, random: &[u32]) -> Series {
    let labels = [
        ("__name__", "m".to_owned()),
        ("kind", format!("{kind:?}")),
        ("number", number.to_string()),
    ];
    let mut samples = Vec::new();
    let (mut timestamp, mut total) = (START_MS - 10 * MINUTE_MS, 0.0);
    let mut native = Native { schema: 1, zero_threshold: 0.001, bounds: 4, counts: [0; 6] };
    for random in random.iter().cycle().map(|random| i64::from(*random)) {
        // Some on the clock, so that they end a bucket; a gap of hours now and then.
        timestamp += 1 + every_ms * (random % 7) / 3;
        timestamp += i64::from(random % 41 == 0) * 3 * HOUR_MS;
        if random % 5 == 0 {
            timestamp = (timestamp / (5 * MINUTE_MS) + 1) * 5 * MINUTE_MS;
        }
        if timestamp > END_MS {
            break;
        }
        total = if random % 29 == 0 { (random % 3) as f64 } else { total + random as f64 / 7.0 };
        native.observe(kind, random);
        let is_custom = kind == Kind::Custom || kind == Kind::Mixed && random % 900 < 100;
        let histogram = || {
            let mut histogram = native.histogram(kind, is_custom, number.is_multiple_of(2));
            if random % 37 == 0 {
                histogram.sum = stale_nan();
            }
            Value::Histogram(Box::new(histogram))
        };
        let value = match kind {
            Kind::Schemas | Kind::Zeros | Kind::Custom | Kind::GaugeHistogram => histogram(),
            Kind::Mixed if timestamp / HOUR_MS % 5 > 1 && random % 3 > 0 => histogram(),
            _ if random % 37 == 0 => Value::Float(stale_nan()),
            Kind::Counter | Kind::Mixed => Value::Float(total),
            Kind::Whole => Value::Float(total.floor()),
            Kind::Gauge => Value::Float((random % 1000 - 500) as f64 / 10.0),
            Kind::Odd => {
                Value::Float([f64::NAN, -0.0, 0.0, f64::INFINITY, 1.5][random as usize % 5])
            }
        };
        samples.push((timestamp, value));
    }
    Series { labels: Labels::from_pairs(labels).unwrap(), samples }
}

pub(crate) fn many() -> impl Strategy<Value = Vec<Series>> {
    let kind = prop::sample::select(Kind::ALL.to_vec());
    let random = prop::collection::vec(1..10_000u32, 40..200);
    let one = (kind, 20_000..400_000i64, random);
    prop::collection::vec(one, 1..6).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(number, (kind, every, random))| series(number, kind, every, &random))
            .collect()
    })
}

/// Those of the samples that are wanted.
pub(crate) fn batch(series: &[Series], wanted: impl Fn(i64) -> bool) -> Batch {
    let mut batch = Batch::with_canonical_keys();
    for one in series {
        let number = batch.series.len() as u32;
        batch.push_series(&one.labels);
        for (timestamp, value) in one.samples.iter().filter(|(timestamp, _)| wanted(*timestamp)) {
            let timestamp = *timestamp;
            match value {
                Value::Float(value) => {
                    batch.timestamps.push(timestamp);
                    batch.values.push(*value);
                }
                Value::Histogram(histogram) => {
                    let histogram = (**histogram).clone();
                    batch.histograms.push(HistogramRow { series: number, timestamp, histogram });
                }
            }
        }
    }
    batch
}
