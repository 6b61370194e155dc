//! Histograms as scripts write them: `{{schema:0 sum:5 count:4 buckets:[1 2 1] offset:-1}}`.

use std::collections::BTreeMap;

use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint, Span};

use crate::series::number_prefix;

/// A histogram in the making: buckets by index, so that sums need no alignment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    schema: i32,
    sum: f64,
    count: f64,
    zero_count: f64,
    zero_threshold: f64,
    positive: BTreeMap<i32, f64>,
    negative: BTreeMap<i32, f64>,
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
    let (mut positive, mut negative) = ((Vec::new(), 0), (Vec::new(), 0));
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
            "buckets" => positive.0 = numbers?,
            "offset" => positive.1 = number()? as i32,
            "n_buckets" => negative.0 = numbers?,
            "n_offset" => negative.1 = number()? as i32,
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
    let by_index = |(counts, offset): (Vec<f64>, i32)| (offset..).zip(counts).collect();
    written.positive = by_index(positive);
    written.negative = by_index(negative);
    Some((written, rest))
}

impl Written {
    /// Adds another of the same schema, or takes it away.
    pub(crate) fn add(&mut self, other: &Written, sign: f64) {
        self.sum += sign * other.sum;
        self.count += sign * other.count;
        self.zero_count += sign * other.zero_count;
        for (mine, theirs) in
            [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)]
        {
            theirs.iter().for_each(|(at, n)| *mine.entry(*at).or_default() += sign * n);
        }
        self.hint = match (self.hint, other.hint) {
            (mine, theirs) if mine == theirs => mine,
            (ResetHint::Gauge, _) | (_, ResetHint::Gauge) => ResetHint::Gauge,
            _ => ResetHint::Unknown,
        };
    }

    pub(crate) fn build(&self) -> Histogram {
        let (positive_spans, positive) = spans(&self.positive);
        let (negative_spans, negative) = spans(&self.negative);
        Histogram {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            reset_hint: self.hint,
            positive_spans,
            negative_spans,
            counts: Counts::Float {
                count: self.count,
                zero_count: self.zero_count,
                positive,
                negative,
            },
            custom_values: self.custom_values.clone(),
        }
    }
}

fn spans(buckets: &BTreeMap<i32, f64>) -> (Vec<Span>, Vec<f64>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut next = 0;
    for index in buckets.keys() {
        match spans.last_mut() {
            Some(span) if *index == next => span.length += 1,
            _ => spans.push(Span { offset: index - next, length: 1 }),
        }
        next = index + 1;
    }
    (spans, buckets.values().copied().collect())
}
