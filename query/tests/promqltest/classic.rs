//! Classic histograms as native ones with custom bounds: what `load_with_nhcb` loads beside the
//! series themselves.
//!
//! Follows Prometheus's `util/convertnhcb`.

use std::collections::BTreeMap;

use icecore_storage::labels::{Labels, METRIC_NAME};
use icecore_storage::metrics::histogram::{
    CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint, Span,
};

use crate::stores::{Sample, Series, Value};

/// One classic histogram at one time.
#[derive(Debug, Default)]
struct Classic {
    /// Upper bounds with cumulative counts.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// The native histograms of all classic ones among some series.
pub(crate) fn converted(series: &[Series]) -> Result<Vec<Series>, String> {
    let mut histograms: BTreeMap<Labels, BTreeMap<i64, Classic>> = BTreeMap::new();
    for (labels, samples) in series {
        let name = labels.metric_name();
        let suffix =
            ["_bucket", "_count", "_sum"].into_iter().find(|suffix| name.ends_with(suffix));
        let bound = labels.get("le").and_then(|bound| bound.parse::<f64>().ok());
        let bound = bound.filter(|bound| !bound.is_nan());
        let (Some(suffix), true) = (suffix, !name.ends_with("_bucket") || bound.is_some()) else {
            continue;
        };
        let mut base = labels.to_builder();
        base.set(METRIC_NAME, &name[..name.len() - suffix.len()]);
        base.set("le", "");
        let base = base.build().map_err(|error| error.to_string())?;
        let by_time = histograms.entry(base).or_default();
        for sample in samples {
            let Value::Float(value) = sample.value else { continue };
            let classic = by_time.entry(sample.timestamp).or_default();
            match (suffix, bound) {
                ("_bucket", Some(bound)) => classic.buckets.push((bound, value)),
                ("_count", _) => classic.count = Some(value),
                _ => classic.sum = value,
            }
        }
    }
    let convert = |(labels, by_time): (Labels, BTreeMap<i64, Classic>)| {
        let samples = by_time.into_iter().map(|(timestamp, classic)| {
            let histogram = classic.native().map_err(|error| format!("{labels}: {error}"))?;
            Ok(Sample { timestamp, start_timestamp: 0, value: Value::Histogram(histogram) })
        });
        let samples = samples.collect::<Result<Vec<Sample>, String>>()?;
        Ok((labels, samples))
    };
    histograms.into_iter().map(convert).collect()
}

impl Classic {
    fn native(mut self) -> Result<Histogram, &'static str> {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.buckets.dedup_by_key(|(bound, _)| *bound);
        let greatest = self.buckets.last().map(|(_, count)| *count);
        let count = self.count.or(greatest).unwrap_or(0.0);
        if self.buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        if !self.buckets.is_sorted_by(|a, b| a.1 <= b.1) {
            return Err("counts are not cumulative");
        }
        if self.buckets.last().map(|(_, count)| *count) != Some(count) {
            return Err("the count is not that of the last bucket");
        }
        let mut before = 0.0;
        let counts =
            self.buckets.iter().map(|(_, count)| count - std::mem::replace(&mut before, *count));
        let positive: Vec<f64> = counts.collect();
        let bounds = self.buckets[..self.buckets.len() - 1].iter().map(|(bound, _)| *bound);
        Ok(Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            sum: self.sum,
            reset_hint: ResetHint::Unknown,
            positive_spans: vec![Span { offset: 0, length: positive.len() as u32 }],
            negative_spans: Vec::new(),
            custom_values: bounds.collect(),
            counts: Counts::Float { count, zero_count: 0.0, positive, negative: Vec::new() },
        })
    }
}

#[test]
fn series_of_one_histogram_become_one_series() {
    let load = crate::load::Load::parse(
        60_000,
        true,
        &[
            "h_bucket{a=\"b\", le=\"1\"} 1 2",
            "h_bucket{a=\"b\", le=\"+Inf\"} 3 5",
            "h_bucket{a=\"b\", le=\"0.5\"} 0 2",
            "h_count{a=\"b\"} 3 5",
            "h_sum{a=\"b\"} 7 9",
            "h_bucket{a=\"b\", le=\"1s\"} 2 2",
            "h_bucket{a=\"b\", le=\"NaN\"} 2 2",
        ],
    );
    let series = load.unwrap().series;
    let (labels, samples) = &series[7];
    assert_eq!(labels.to_string(), "h{a=\"b\"}");
    let Value::Histogram(histogram) = &samples[1].value else { panic!("a histogram") };
    let positive = vec![2.0, 0.0, 3.0];
    let counts = Counts::Float { count: 5.0, zero_count: 0.0, positive, negative: vec![] };
    assert_eq!((&histogram.counts, &histogram.custom_values[..]), (&counts, &[0.5, 1.0][..]));
    assert_eq!((histogram.sum, histogram.validate()), (9.0, Ok(())));
}
