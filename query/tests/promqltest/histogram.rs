//! Histograms as scripts write them: `{{schema:0 sum:5 count:4 buckets:[1 2 1] offset:-1}}`.

use icecore_query::histogram::{FloatHistogram, Schema};
use icecore_storage::metrics::histogram::{
    CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint, Span,
};

use crate::series::number_prefix;

/// A histogram in the making; buckets with the index of the first.
#[derive(Debug, Default)]
pub(crate) struct Written {
    schema: i32,
    sum: f64,
    count: f64,
    zero_count: f64,
    zero_threshold: f64,
    positive: (Vec<f64>, i32),
    negative: (Vec<f64>, i32),
    custom_values: Vec<f64>,
    hint: ResetHint,
    pub(crate) hint_written: bool,
}

/// The histogram that a text starts with.
pub(crate) fn take_histogram(text: &str) -> Option<(Written, &str)> {
    let inner = text.strip_prefix("{{")?;
    let end = inner.find("}}")?;
    let (mut body, rest) = (inner[..end].trim(), &inner[end + 2..]);
    let mut written = Written::default();
    while !body.is_empty() {
        let (key, after) = body.split_once(':')?;
        let (value, after) = match after.strip_prefix('[') {
            Some(list) => list.split_once(']')?,
            None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
        };
        let numbers: Option<Vec<f64>> =
            value.split_whitespace().map(|n| Some(number_prefix(n)?.0)).collect();
        let number = || number_prefix(value).map(|(number, _)| number);
        match key.trim() {
            "schema" => written.schema = number()? as i32,
            "sum" => written.sum = number()?,
            "count" => written.count = number()?,
            "z_bucket" => written.zero_count = number()?,
            "z_bucket_w" => written.zero_threshold = number()?,
            "buckets" => written.positive.0 = numbers?,
            "offset" => written.positive.1 = number()? as i32,
            "n_buckets" => written.negative.0 = numbers?,
            "n_offset" => written.negative.1 = number()? as i32,
            "custom_values" => written.custom_values = numbers?,
            "counter_reset_hint" => {
                written.hint_written = true;
                written.hint = match value {
                    "gauge" => ResetHint::Gauge,
                    "reset" => ResetHint::Reset,
                    "not_reset" => ResetHint::NotReset,
                    "unknown" => ResetHint::Unknown,
                    _ => return None,
                }
            }
            _ => return None,
        }
        body = after.trim_start();
    }
    Some((written, rest))
}

impl Written {
    pub(crate) fn build(self) -> Histogram {
        let spans = |counts: &[f64], offset| match counts.len() {
            0 => Vec::new(),
            length => vec![Span { offset, length: length as u32 }],
        };
        let [(positive, offset), (negative, negative_offset)] = [self.positive, self.negative];
        Histogram {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            reset_hint: self.hint,
            positive_spans: spans(&positive, offset),
            negative_spans: spans(&negative, negative_offset),
            counts: Counts::Float {
                count: self.count,
                zero_count: self.zero_count,
                positive,
                negative,
            },
            custom_values: self.custom_values,
        }
    }
}

/// The form in which sums of histograms are stored.
pub(crate) fn stored(histogram: &FloatHistogram) -> Histogram {
    let (schema, custom_values) = match &histogram.schema {
        Schema::Exponential(schema) => (*schema, Vec::new()),
        Schema::Custom(bounds) => (CUSTOM_BUCKETS_SCHEMA, bounds.to_vec()),
    };
    Histogram {
        schema,
        zero_threshold: histogram.zero_threshold,
        sum: histogram.sum,
        reset_hint: histogram.reset_hint,
        positive_spans: histogram.positive.spans().to_vec(),
        negative_spans: histogram.negative.spans().to_vec(),
        counts: Counts::Float {
            count: histogram.count,
            zero_count: histogram.zero_count,
            positive: histogram.positive.counts().to_vec(),
            negative: histogram.negative.counts().to_vec(),
        },
        custom_values,
    }
}
