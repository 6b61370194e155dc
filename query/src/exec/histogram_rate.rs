//! Increases of native histograms: what `rate` and its kin compute from the samples of one window.
//!
//! Counters and gauges cannot be told apart by their values, so that hints decide what is warned
//! about. Bucket layouts may differ from sample to sample: the increase has what all of them can
//! express.
//!
//! Follows `histogramRate`, `instantValue` and `extendedHistogramRate` of Prometheus's
//! `promql/functions.go`.

use std::borrow::Cow;
use std::sync::Arc;

use icecore_storage::metrics::histogram::ResetHint;

use crate::annotations::HistogramOperation;
use crate::exec::Session;
use crate::exec::start_time::Started;
use crate::histogram::{FloatHistogram, IncompatibleSchemas, Schema};
use crate::parser::ast::Span;

/// Where annotations of a call over the windows of one series go.
pub(crate) struct Notes<'a, 'q> {
    pub(crate) metric: &'a str,
    pub(crate) span: Span,
    pub(crate) session: &'a mut Session<'q>,
}

impl Notes<'_, '_> {
    pub(crate) fn mixed_with_floats(&mut self) {
        self.session.annotations.mixed_floats_and_histograms(self.metric, self.span);
    }

    pub(crate) fn ignored_histograms(&mut self) {
        self.session.annotations.ignored_in_mixed_range(self.metric, self.span);
    }

    pub(crate) fn mixed_schemas(&mut self) {
        self.session.annotations.mixed_schemas(self.metric, self.span);
    }

    pub(crate) fn not_a_counter(&mut self) {
        self.session.annotations.not_a_counter(self.metric, self.span);
    }

    pub(crate) fn not_a_gauge(&mut self) {
        self.session.annotations.not_a_gauge(self.metric, self.span);
    }

    pub(crate) fn resets_collide(&mut self, operation: HistogramOperation) {
        self.session.annotations.resets_collide(operation, self.span);
    }

    pub(crate) fn bounds_reconciled(&mut self, operation: HistogramOperation) {
        self.session.annotations.bounds_reconciled(operation, self.span);
    }

    fn start_time_overlap(&mut self) {
        self.session.annotations.start_time_overlap(self.metric, self.span);
    }

    /// Adds `other` to `total` and says what has to be said; false if they cannot be added. Resets
    /// are accounted for by the callers, so that hints that collide mean nothing.
    pub(crate) fn add(&mut self, total: &mut FloatHistogram, other: &FloatHistogram) -> bool {
        match total.add(other) {
            Ok(combined) => {
                if combined.bounds_reconciled {
                    self.bounds_reconciled(HistogramOperation::Addition);
                }
                true
            }
            Err(IncompatibleSchemas) => {
                self.mixed_schemas();
                false
            }
        }
    }

    /// [`Self::add`], but subtracts.
    pub(crate) fn sub(&mut self, total: &mut FloatHistogram, other: &FloatHistogram) -> bool {
        match total.sub(other) {
            Ok(combined) => {
                if combined.bounds_reconciled {
                    self.bounds_reconciled(HistogramOperation::Subtraction);
                }
                true
            }
            Err(IncompatibleSchemas) => {
                self.mixed_schemas();
                false
            }
        }
    }
}

pub(crate) fn is_gauge(histogram: &FloatHistogram) -> bool {
    histogram.reset_hint == ResetHint::Gauge
}

fn as_gauge(mut histogram: FloatHistogram) -> FloatHistogram {
    histogram.reset_hint = ResetHint::Gauge;
    histogram.compacted()
}

/// `irate`: the increase between the last two samples, by second.
pub(crate) fn per_second(
    (before_ms, previous): (i64, &FloatHistogram),
    (now_ms, last): (i64, &FloatHistogram),
    has_restarted: bool,
    notes: &mut Notes<'_, '_>,
) -> Option<FloatHistogram> {
    if is_gauge(previous) || is_gauge(last) {
        notes.not_a_counter();
    }
    let mut rise = last.clone();
    if !has_restarted && !last.detect_reset(previous) && !notes.sub(&mut rise, previous) {
        return None;
    }
    let mut rise = as_gauge(rise);
    rise.divide(now_ms.saturating_sub(before_ms) as f64 / 1000.0);
    Some(rise)
}

/// `idelta`: the difference between the last two samples.
pub(crate) fn last_difference(
    previous: &FloatHistogram,
    last: &FloatHistogram,
    notes: &mut Notes<'_, '_>,
) -> Option<FloatHistogram> {
    if !(is_gauge(previous) && is_gauge(last)) {
        notes.not_a_gauge();
    }
    let mut difference = last.clone();
    notes.sub(&mut difference, previous).then(|| as_gauge(difference))
}

/// `delta`: what was added between the first and the last of at least two states of a gauge.
pub(crate) fn difference(
    points: &[Arc<FloatHistogram>],
    notes: &mut Notes<'_, '_>,
) -> Option<FloatHistogram> {
    let (first, last) = (&points[0], &points[points.len() - 1]);
    let mut difference = FloatHistogram::clone(last);
    if !notes.sub(&mut difference, first) {
        return None;
    }
    if !(is_gauge(first) && is_gauge(last)) {
        notes.not_a_gauge();
    }
    Some(as_gauge(difference))
}

/// `rate` and `increase`: what was added to a counter between the first and the last of at least two
/// states. That is the last less the first, and at each reset what there was before it. `starts` are
/// the start timestamps of the points, if those count.
pub(crate) fn counter_increase(
    points: &[Arc<FloatHistogram>],
    starts: &[Started],
    notes: &mut Notes<'_, '_>,
) -> Option<FloatHistogram> {
    let (first, last) = (&points[0], &points[points.len() - 1]);
    let has_restarted =
        |at: usize| starts.get(at).is_some_and(|start| start.is_reset_since(starts[at - 1]));
    // What was before a reset right at the start is not looked at, whatever its layout.
    let start = match has_restarted(1) || points[1].detect_reset(first) {
        true => Cow::Owned(FloatHistogram::empty(points[1].schema.clone())),
        false => Cow::Borrowed(&**first),
    };
    if last.uses_custom_bounds() != start.uses_custom_bounds() {
        if is_gauge(first) || is_gauge(last) {
            notes.not_a_counter();
        }
        notes.mixed_schemas();
        return None;
    }
    let between = &points[1..points.len() - 1];
    if between.iter().any(|point| point.uses_custom_bounds() != start.uses_custom_bounds()) {
        notes.mixed_schemas();
        return None;
    }
    if points.iter().any(|point| is_gauge(point)) {
        notes.not_a_counter();
    }
    let mut increase = FloatHistogram::clone(last);
    let schemas = between.iter().map(|point| &point.schema).chain([&start.schema, &last.schema]);
    let coarsest = schemas.filter_map(|schema| match schema {
        Schema::Exponential(schema) => Some(*schema),
        Schema::Custom(_) => None,
    });
    if let Some(coarsest) = coarsest.min() {
        increase.reduce_resolution(coarsest);
    }
    notes.sub(&mut increase, &start);
    if starts.windows(2).any(|pair| pair[1].overlaps(pair[0])) {
        notes.start_time_overlap();
    }
    let mut previous: &FloatHistogram = &start;
    for (at, point) in points.iter().enumerate().skip(1) {
        if has_restarted(at) || point.detect_reset(previous) {
            notes.add(&mut increase, previous);
        }
        previous = point;
    }
    Some(as_gauge(increase))
}

/// The histogram at a time on the line between two samples. A counter that was reset between them is
/// taken to have started from zero.
pub(crate) fn interpolate(
    (before_ms, before): (i64, &FloatHistogram),
    (after_ms, after): (i64, &FloatHistogram),
    time_ms: i64,
    is_counter: bool,
    notes: &mut Notes<'_, '_>,
) -> Option<FloatHistogram> {
    if time_ms == before_ms {
        return Some(before.clone());
    }
    let mut value = after.clone();
    if time_ms == after_ms {
        return Some(value);
    }
    let elapsed = time_ms.saturating_sub(before_ms) as f64;
    let fraction = elapsed / after_ms.saturating_sub(before_ms) as f64;
    if is_counter && after.detect_reset(before) {
        value.scale(fraction);
        return Some(value);
    }
    if !notes.sub(&mut value, before) {
        return None;
    }
    value.scale(fraction);
    notes.add(&mut value, before).then_some(value)
}

/// How far an extended window reaches among samples: its edges, and the first and last of the
/// samples that the values there come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edges {
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) smoothed: bool,
}

/// By how much a counter or a gauge rose between the edges of an extended window.
pub(crate) fn extended_rise(
    points: &[(i64, Arc<FloatHistogram>)],
    edges: Edges,
    is_counter: bool,
    notes: &mut Notes<'_, '_>,
) -> Option<FloatHistogram> {
    let Edges { start_ms, end_ms, first, last, smoothed } = edges;
    let used = &points[first..=last];
    let mixed = used
        .iter()
        .position(|(_, point)| point.uses_custom_bounds() != used[0].1.uses_custom_bounds());
    let looked_at = &used[..mixed.unwrap_or(used.len())];
    if is_counter && looked_at.iter().any(|(_, point)| is_gauge(point)) {
        notes.not_a_counter();
    }
    if mixed.is_some() {
        notes.mixed_schemas();
        return None;
    }
    let point = |at: usize| (points[at].0, &*points[at].1);
    let is_before = smoothed && points[first].0 < start_ms;
    let left = match is_before {
        true => interpolate(point(first), point(first + 1), start_ms, is_counter, notes)?,
        false => point(first).1.clone(),
    };
    let is_after = smoothed && last > 0 && points[last].0 > end_ms;
    let right = match is_after {
        true => interpolate(point(last - 1), point(last), end_ms, is_counter, notes)?,
        false => point(last).1.clone(),
    };
    let are_gauges = is_gauge(&left) && is_gauge(&right);
    if !is_counter && !are_gauges {
        notes.not_a_gauge();
    }
    let mut rise = right.clone();
    if !notes.sub(&mut rise, &left) {
        return None;
    }
    if is_counter {
        let mut previous = &left;
        let mut inner = first + 1;
        if is_before && point(first + 1).1.detect_reset(point(first).1) {
            // The value at the edge accounts for this reset already.
            previous = point(first + 1).1;
            inner += 1;
        }
        if inner <= last {
            let later = points[inner..last].iter().map(|(_, point)| &**point).chain([&right]);
            for point in later {
                if point.detect_reset(previous) && !notes.add(&mut rise, previous) {
                    return None;
                }
                previous = point;
            }
        }
    }
    Some(as_gauge(rise))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::tests::counted;

    fn with_notes<T>(f: impl FnOnce(&mut Notes<'_, '_>) -> T) -> (T, Vec<String>) {
        let mut result = None;
        crate::exec::with_test_session(|session| {
            let value = f(&mut Notes { metric: "m", span: Span::default(), session });
            let (mut said, infos) = session.annotations.render("x");
            said.extend(infos);
            result = Some((value, said));
        });
        result.expect("the session was used")
    }

    #[test]
    fn what_was_there_before_a_reset_is_added() {
        let points = [5.0, 9.0, 2.0, 4.0].map(counted);
        let (increase, said) = with_notes(|notes| counter_increase(&points, &[], notes));
        assert_eq!(increase.map(|increase| increase.count), Some(8.0));
        assert!(said.is_empty());
        let (difference, said) = with_notes(|notes| difference(&points, notes));
        assert_eq!(difference.map(|difference| difference.count), Some(-1.0));
        assert_eq!(
            said,
            ["PromQL warning: this native histogram metric is not a gauge: \"m\" (1:1)"]
        );
    }

    #[test]
    fn the_layout_before_a_reset_at_the_start_does_not_matter() {
        let custom =
            FloatHistogram { count: 9.0, ..FloatHistogram::empty(Schema::Custom(Arc::default())) };
        let points = [Arc::new(custom), counted(2.0), counted(3.0)];
        let (increase, said) = with_notes(|notes| counter_increase(&points, &[], notes));
        assert_eq!(increase.map(|increase| increase.count), Some(3.0));
        assert!(said.is_empty());
        let points = [points[1].clone(), points[0].clone(), points[2].clone()];
        let (increase, said) = with_notes(|notes| counter_increase(&points, &[], notes));
        assert!(increase.is_none() && said[0].contains("exponential and custom"), "{said:?}");
    }

    #[test]
    fn values_at_edges_lie_on_the_line() {
        let (before, after) = (counted(2.0), counted(6.0));
        let at = |time_ms, is_counter, after: &FloatHistogram| {
            with_notes(|notes| interpolate((0, &before), (40, after), time_ms, is_counter, notes))
                .0
                .map(|value| value.count)
        };
        assert_eq!(at(10, true, &after), Some(3.0));
        assert_eq!(at(20, true, &counted(1.0)), Some(0.5));
        assert_eq!(at(20, false, &counted(1.0)), Some(1.5));
    }
}
