//! Whether a value is the one that was expected, within Prometheus's tolerance.

use std::collections::BTreeMap;

use icecore_query::histogram::{Buckets, FloatHistogram};
use icecore_query::value::{MatrixSeries, Point, Value as Answered, VectorSample};
use icecore_storage::metrics::histogram::Histogram;
use icecore_storage::metrics::sample::is_stale_nan;

use crate::expect::Expected;
use crate::series::{Series, Value};
use crate::stores::When;

/// Relative error that is allowed.
const EPSILON: f64 = 1e-6;

impl Expected {
    pub(crate) fn check_value(&self, when: When, value: &Answered) -> Result<(), String> {
        match value {
            Answered::String { value, .. } if self.string.as_ref() == Some(value) => Ok(()),
            Answered::String { value, .. } => {
                Err(format!("wanted the string {:?}, is {value:?}", self.string))
            }
            Answered::Scalar { value, .. } => match self.scalar {
                Some(wanted) if almost_equal(wanted, *value) => Ok(()),
                wanted => Err(format!("wanted {wanted:?}, is {value}")),
            },
            _ if self.scalar.is_some() => Err(format!("wanted a scalar, is {value:?}")),
            Answered::Vector(vector) => self.check_vector(vector),
            Answered::Matrix(_) if self.ordered => Err("wanted an order, is a matrix".into()),
            Answered::Matrix(matrix) => {
                let [start_ms, end_ms, step_ms] = match (when, self.range_vector) {
                    (When::Range { start_ms, end_ms, step_ms }, _) => [start_ms, end_ms, step_ms],
                    (When::Instant { .. }, Some(range)) => range,
                    (When::Instant { .. }, None) => return Err(format!("is {matrix:?}")),
                };
                self.check_matrix(start_ms, end_ms, step_ms, matrix)
            }
        }
    }

    fn check_vector(&self, vector: &[VectorSample]) -> Result<(), String> {
        for (position, sample) in vector.iter().enumerate() {
            let found = self.series.iter().position(|series| series.labels == sample.labels);
            let found = found.ok_or_else(|| format!("unexpected {sample:?}"))?;
            if self.ordered && found != position {
                return Err(format!("{} is at {position}, wanted at {found}", sample.labels));
            }
            let wanted = self.series[found].values.first().cloned().flatten();
            if !wanted.as_ref().is_some_and(|wanted| equals(wanted, &sample.point)) {
                return Err(format!("{}: wanted {wanted:?}, is {:?}", sample.labels, sample.point));
            }
        }
        self.check_complete(vector.iter().map(|sample| &sample.labels))
    }

    fn check_matrix(
        &self,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        matrix: &[MatrixSeries],
    ) -> Result<(), String> {
        if !matrix.is_sorted_by(|a, b| a.labels < b.labels) {
            return Err(format!("the matrix is not sorted by labels: {matrix:?}"));
        }
        for series in matrix {
            let wanted = self.series.iter().find(|wanted| wanted.labels == series.labels);
            let wanted = wanted.ok_or_else(|| format!("unexpected {series:?}"))?;
            let last_ms = start_ms + (wanted.values.len() as i64 - 1) * step_ms;
            if last_ms > end_ms {
                return Err(format!("{}: wanted at {last_ms}, after the end", wanted.labels));
            }
            compare_points(wanted, start_ms, step_ms, series)?;
        }
        self.check_complete(matrix.iter().map(|series| &series.labels))
    }

    /// All expected series are there, once each; none is unexpected by now.
    fn check_complete<'a>(
        &self,
        actual: impl Iterator<Item = &'a icecore_storage::labels::Labels>,
    ) -> Result<(), String> {
        let mut actual: Vec<_> = actual.collect();
        actual.sort_unstable();
        if let Some(pair) = actual.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{} is there twice", pair[0]));
        }
        match self.series.iter().find(|wanted| actual.binary_search(&&wanted.labels).is_err()) {
            None => Ok(()),
            Some(missing) => Err(format!("{} is not there", missing.labels)),
        }
    }
}

fn compare_points(
    wanted: &Series,
    start_ms: i64,
    step_ms: i64,
    actual: &MatrixSeries,
) -> Result<(), String> {
    let floats = actual.floats.iter().map(|(time, value)| (*time, Point::Float(*value)));
    let histograms = actual.histograms.iter();
    let histograms = histograms.map(|(time, value)| (*time, Point::Histogram(value.clone())));
    let mut points: BTreeMap<i64, Point> = floats.chain(histograms).collect();
    for (index, value) in wanted.values.iter().enumerate() {
        let time = start_ms + index as i64 * step_ms;
        let point = points.remove(&time);
        let is_right = match (value, &point) {
            (None, None) => true,
            (Some(value), Some(point)) => equals(value, point),
            _ => false,
        };
        if !is_right {
            let labels = &wanted.labels;
            return Err(format!("{labels} at {time}: wanted {value:?}, is {point:?}"));
        }
    }
    match points.first_key_value() {
        None => Ok(()),
        Some((time, point)) => Err(format!("{} at {time}: unwanted {point:?}", wanted.labels)),
    }
}

fn equals(wanted: &Value, actual: &Point) -> bool {
    match (wanted, actual) {
        (Value::Float(wanted), Point::Float(actual)) => almost_equal(*wanted, *actual),
        (Value::Histogram { histogram, hint_written }, Point::Histogram(actual)) => {
            same_histogram(histogram, actual)
                && (!hint_written || histogram.reset_hint == actual.reset_hint)
        }
        _ => false,
    }
}

/// Near zero the smallest normal number is the measure; a stale marker equals only itself.
fn almost_equal(a: f64, b: f64) -> bool {
    if is_stale_nan(a) || is_stale_nan(b) {
        return is_stale_nan(a) && is_stale_nan(b);
    }
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

/// Equal buckets, whatever the spans that list them: empty ones do not count.
fn same_histogram(wanted: &Histogram, actual: &FloatHistogram) -> bool {
    let wanted = FloatHistogram::from_stored(wanted, None).compacted();
    let actual = actual.clone().compacted();
    let same_buckets = |a: &Buckets, b: &Buckets| {
        a.iter().map(|(index, _)| index).eq(b.iter().map(|(index, _)| index))
            && a.counts().iter().zip(b.counts()).all(|(a, b)| almost_equal(*a, *b))
    };
    wanted.schema == actual.schema
        && wanted.zero_threshold == actual.zero_threshold
        && almost_equal(wanted.sum, actual.sum)
        && almost_equal(wanted.count, actual.count)
        && almost_equal(wanted.zero_count, actual.zero_count)
        && same_buckets(&wanted.positive, &actual.positive)
        && same_buckets(&wanted.negative, &actual.negative)
}

#[test]
fn equality_has_a_tolerance_and_knows_nans() {
    let stale = icecore_storage::metrics::sample::stale_nan();
    assert!(almost_equal(1.0, 1.000_000_1) && !almost_equal(1.0, 1.00001));
    assert!(almost_equal(f64::NAN, f64::NAN) && !almost_equal(f64::NAN, stale));
    assert!(almost_equal(stale, stale) && !almost_equal(0.0, 1e-9));
    assert!(almost_equal(f64::INFINITY, f64::INFINITY) && !almost_equal(f64::INFINITY, 1.0));
}
