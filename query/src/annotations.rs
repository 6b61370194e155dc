//! Annotations: what a query has to say beside its value, in Prometheus's words.
//!
//! A **warning** tells that a result may be wrong, an **info** that a query may be. Annotations are
//! equal if their texts are, without the position; that of the node which is evaluated first is
//! kept. They are listed by node, then by text, so that neither the order of series nor that of
//! steps shows. They are rendered as `PromQL warning: text (line:column)`, both counted from 1 in bytes.

use std::collections::HashMap;

use crate::functions::time::rfc3339;
use crate::go_format::{duration_ms, float_general, float_general_digits, quote};
use crate::parser::ast::Span;
use crate::parser::place;

/// Most annotations of a kind that the API returns.
pub const ANNOTATIONS_MAX: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Warning,
    Info,
}

/// What was done to histograms when something had to be said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HistogramOperation {
    Addition,
    Subtraction,
    Aggregation,
}

impl HistogramOperation {
    fn text(self) -> &'static str {
        match self {
            HistogramOperation::Addition => "addition",
            HistogramOperation::Subtraction => "subtraction",
            HistogramOperation::Aggregation => "aggregation",
        }
    }
}

/// How far a classic histogram had to be corrected, over all of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ForcedMonotonicity {
    pub(crate) bucket_min: f64,
    pub(crate) bucket_max: f64,
    pub(crate) difference_max: f64,
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) samples: u64,
}

impl ForcedMonotonicity {
    fn merge(&mut self, other: &ForcedMonotonicity) {
        self.bucket_min = self.bucket_min.min(other.bucket_min);
        self.bucket_max = self.bucket_max.max(other.bucket_max);
        self.difference_max = self.difference_max.max(other.difference_max);
        self.start_ms = self.start_ms.min(other.start_ms);
        self.end_ms = self.end_ms.max(other.end_ms);
        self.samples += other.samples;
    }

    fn text(&self) -> String {
        format!(
            ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
            float_general(self.bucket_min),
            float_general(self.bucket_max),
            float_general_digits(self.difference_max, 2),
            self.samples,
            rfc3339(self.start_ms / 1000),
            rfc3339(self.end_ms / 1000),
        )
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// The node whose evaluation it is about.
    node: u32,
    kind: Kind,
    text: String,
    span: Span,
    forced: Option<ForcedMonotonicity>,
}

/// The annotations of a query or of a part of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Annotations {
    /// The node that is being evaluated.
    node: u32,
    entries: Vec<Entry>,
    known: HashMap<(Kind, String), usize>,
}

impl Annotations {
    /// For a worker on the same node.
    pub(crate) fn fork(&self) -> Annotations {
        Annotations { node: self.node, ..Annotations::default() }
    }

    /// What comes from now on is about this node; nodes come in the order of their evaluation.
    pub(crate) fn set_node(&mut self, node: u32) {
        self.node = node;
    }

    pub(crate) fn warn(&mut self, text: String, span: Span) {
        self.add(Entry { node: self.node, kind: Kind::Warning, text, span, forced: None });
    }

    pub(crate) fn inform(&mut self, text: String, span: Span) {
        self.add(Entry { node: self.node, kind: Kind::Info, text, span, forced: None });
    }

    fn add(&mut self, entry: Entry) {
        match self.known.get(&(entry.kind, entry.text.clone())) {
            None => {
                self.known.insert((entry.kind, entry.text.clone()), self.entries.len());
                self.entries.push(entry);
            }
            Some(&at) => {
                let known = &mut self.entries[at];
                if (entry.node, entry.span.start) < (known.node, known.span.start) {
                    (known.node, known.span) = (entry.node, entry.span);
                }
                if let (Some(known), Some(new)) = (&mut known.forced, &entry.forced) {
                    known.merge(new);
                }
            }
        }
    }

    pub(crate) fn merge(&mut self, other: Annotations) {
        other.entries.into_iter().for_each(|entry| self.add(entry));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether merging `other` would change nothing, and so any part of `other`.
    pub(crate) fn contains(&self, other: &Annotations) -> bool {
        other.entries.iter().all(|entry| {
            // What was corrected is summed up over steps.
            entry.forced.is_none() && self.entries.contains(entry)
        })
    }

    /// Memory of the texts, about.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| size_of::<Entry>() + 2 * entry.text.len()).sum()
    }

    /// The rendered warnings and infos.
    pub(crate) fn render(&self, query: &str) -> (Vec<String>, Vec<String>) {
        let of = |kind: Kind| {
            let mut entries: Vec<&Entry> =
                self.entries.iter().filter(|entry| entry.kind == kind).collect();
            entries.sort_by_key(|entry| (entry.node, entry.span.start, &entry.text));
            entries.into_iter().map(|entry| entry.render(query)).collect()
        };
        (of(Kind::Warning), of(Kind::Info))
    }
}

impl Entry {
    fn render(&self, query: &str) -> String {
        let kind = match self.kind {
            Kind::Warning => "warning",
            Kind::Info => "info",
        };
        let forced = self.forced.map(|forced| forced.text()).unwrap_or_default();
        format!(
            "PromQL {kind}: {}{forced} ({})",
            self.text,
            place(query.as_bytes(), self.span.start)
        )
    }
}

/// The first [`ANNOTATIONS_MAX`] of a list, and how many of its `kind` ("warning" or "info") were
/// left out.
pub fn limited(mut list: Vec<String>, kind: &str) -> Vec<String> {
    if list.len() > ANNOTATIONS_MAX {
        let omitted = list.len() - ANNOTATIONS_MAX;
        list.truncate(ANNOTATIONS_MAX);
        list.push(format!("{omitted} more {kind} annotations omitted"));
    }
    list
}

/// The texts, one function a text, as in Prometheus's `util/annotations`.
impl Annotations {
    pub(crate) fn invalid_quantile(&mut self, quantile: f64, span: Span) {
        let got = float_general(quantile);
        self.warn(format!("quantile value should be between 0 and 1, got {got}"), span);
    }

    pub(crate) fn invalid_ratio(&mut self, ratio: f64, capped: f64, span: Span) {
        let (got, to) = (float_general(ratio), float_general(capped));
        let text = format!("ratio value should be between -1 and 1, got {got}, capping to {to}");
        self.warn(text, span);
    }

    pub(crate) fn bad_bucket_label(&mut self, metric: &str, label: &str, span: Span) {
        let text = format!(
            "bucket label \"le\" is missing or has a malformed value of {}{}",
            quote(label.as_bytes()),
            for_metric(metric)
        );
        self.warn(text, span);
    }

    pub(crate) fn mixed_floats_and_histograms(&mut self, metric: &str, span: Span) {
        let name = quote(metric.as_bytes());
        self.warn(
            format!("encountered a mix of histograms and floats for metric name {name}"),
            span,
        );
    }

    pub(crate) fn mixed_floats_and_histograms_in_aggregation(&mut self, span: Span) {
        self.warn("encountered a mix of histograms and floats for aggregation".into(), span);
    }

    pub(crate) fn mixed_classic_and_native(&mut self, metric: &str, span: Span) {
        let metric = for_metric(metric);
        let text = "vector contains a mix of classic and native histograms";
        self.warn(format!("{text}{metric}"), span);
    }

    pub(crate) fn not_a_counter(&mut self, metric: &str, span: Span) {
        let name = quote(metric.as_bytes());
        self.warn(format!("this native histogram metric is not a counter: {name}"), span);
    }

    pub(crate) fn not_a_gauge(&mut self, metric: &str, span: Span) {
        let name = quote(metric.as_bytes());
        self.warn(format!("this native histogram metric is not a gauge: {name}"), span);
    }

    pub(crate) fn mixed_schemas(&mut self, metric: &str, span: Span) {
        let name = quote(metric.as_bytes());
        let text =
            "vector contains a mix of histograms with exponential and custom buckets schemas";
        self.warn(format!("{text} for metric name {name}"), span);
    }

    pub(crate) fn incompatible_layout(&mut self, op: &str, span: Span) {
        let text = "incompatible bucket layout encountered for binary operator";
        self.warn(format!("{text} {op}"), span);
    }

    pub(crate) fn resets_collide(&mut self, operation: HistogramOperation, span: Span) {
        let text = "conflicting counter resets during histogram";
        self.warn(format!("{text} {}", operation.text()), span);
    }

    pub(crate) fn bounds_reconciled(&mut self, operation: HistogramOperation, span: Span) {
        let text = "mismatched custom buckets were reconciled during";
        self.inform(format!("{text} {}", operation.text()), span);
    }

    /// A quantile lies among observations of NaN.
    pub(crate) fn quantile_is_nan(&mut self, metric: &str, span: Span) {
        let text = "input to histogram_quantile has NaN observations, result is NaN";
        self.inform(format!("{text}{}", for_metric(metric)), span);
    }

    pub(crate) fn quantile_is_skewed(&mut self, metric: &str, span: Span) {
        let text = "input to histogram_quantile has NaN observations, result is skewed higher";
        self.inform(format!("{text}{}", for_metric(metric)), span);
    }

    pub(crate) fn fraction_without_nans(&mut self, metric: &str, span: Span) {
        let text = "input to histogram_fraction has NaN observations, which are excluded from all fractions";
        self.inform(format!("{text}{}", for_metric(metric)), span);
    }

    pub(crate) fn sort_in_range_query(&mut self, span: Span) {
        let text =
            "sort is ineffective for range queries since results are always ordered by labels";
        self.warn(text.into(), span);
    }

    /// Of our own: raw samples are gone, and a window has less than two buckets of what is left.
    pub(crate) fn window_widened(&mut self, asked_ms: i64, used_ms: i64, span: Span) {
        let (asked, used) = (duration_ms(asked_ms), duration_ms(used_ms));
        self.inform(
            format!("raw samples are gone for a part of the range: a window of {used} was used in place of {asked}"),
            span,
        );
    }

    /// Of our own: a function that needs all samples had few.
    pub(crate) fn last_samples_only(&mut self, function: &str, resolution_ms: i64, span: Span) {
        let resolution = duration_ms(resolution_ms);
        self.warn(
            format!(
                "raw samples are gone for a part of the range: there {function} was computed from the last sample of every {resolution}"
            ),
            span,
        );
    }

    pub(crate) fn possible_non_counter(&mut self, metric: &str, span: Span) {
        let text = format!(
            "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {}",
            quote(metric.as_bytes())
        );
        self.inform(text, span);
    }

    pub(crate) fn start_time_overlap(&mut self, metric: &str, span: Span) {
        let text = format!(
            "sample has start time that overlaps with previous sample timestamp for metric {}",
            quote(metric.as_bytes())
        );
        self.warn(text, span);
    }

    pub(crate) fn possible_non_counter_type(&mut self, metric: &str, label: &str, span: Span) {
        let text = format!(
            "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {}: {}",
            quote(label.as_bytes()),
            quote(metric.as_bytes())
        );
        self.inform(text, span);
    }

    pub(crate) fn forced_monotonicity(
        &mut self,
        metric: &str,
        forced: ForcedMonotonicity,
        span: Span,
    ) {
        let text = format!(
            "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){}",
            for_metric(metric)
        );
        let forced = Some(forced);
        self.add(Entry { node: self.node, kind: Kind::Info, text, span, forced });
    }

    pub(crate) fn incompatible_types(&mut self, left: &str, op: &str, right: &str, span: Span) {
        let text = format!(
            "incompatible sample types encountered for binary operator {}: {left} {op} {right}",
            quote(op.as_bytes())
        );
        self.inform(text, span);
    }

    pub(crate) fn ignored_in_aggregation(&mut self, aggregation: &str, span: Span) {
        self.inform(format!("ignored histogram in {aggregation} aggregation"), span);
    }

    pub(crate) fn ignored_in_mixed_range(&mut self, metric: &str, span: Span) {
        let text = format!(
            "ignored histograms in a range containing both floats and histograms for metric name {}",
            quote(metric.as_bytes())
        );
        self.inform(text, span);
    }
}

fn for_metric(metric: &str) -> String {
    if metric.is_empty() {
        String::new()
    } else {
        format!(" for metric name {}", quote(metric.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_texts_the_first_nodes_keeps_its_position() {
        let mut annotations = Annotations::default();
        annotations.set_node(1);
        let mut later = annotations.fork();
        later.set_node(2);
        later.sort_in_range_query(Span { start: 0, end: 5 });
        annotations.sort_in_range_query(Span { start: 4, end: 5 });
        later.merge(annotations);
        let annotations = later;
        let (warnings, infos) = annotations.render("sum\n(sort(x))");
        assert!(warnings[0].ends_with("ordered by labels (2:1)"), "{warnings:?}");
        assert_eq!((warnings.len(), infos.len()), (1, 0));
    }

    #[test]
    fn corrections_are_summed_up() {
        let mut annotations = Annotations::default();
        let forced = |bucket, at| ForcedMonotonicity {
            bucket_min: bucket,
            bucket_max: bucket,
            difference_max: bucket / 3.0,
            start_ms: at,
            end_ms: at,
            samples: 1,
        };
        annotations.forced_monotonicity("", forced(1.0, 0), Span::default());
        annotations.forced_monotonicity("", forced(2.0, 60_000), Span::default());
        let (_, infos) = annotations.render("x");
        assert!(infos[0].ends_with(
            "#histogram_quantile), from buckets 1 to 2, with a max diff of 0.67, over 2 samples \
             from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (1:1)"
        ));
    }

    #[test]
    fn lists_are_limited_with_a_count() {
        let list: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        let limited = limited(list, "info");
        assert_eq!(limited.len(), 11);
        assert_eq!(limited[10], "2 more info annotations omitted");
    }
}
