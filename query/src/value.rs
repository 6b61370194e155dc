//! What a query returns, in the shapes of the Prometheus API.

use std::sync::Arc;

use icecore_storage::labels::Labels;

use crate::histogram::FloatHistogram;

/// A value at a time: float or native histogram.
#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    pub labels: Labels,
    pub timestamp: i64,
    pub point: Point,
}

/// One row of a range query's answer: times strictly ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatrixSeries {
    pub labels: Labels,
    pub floats: Vec<(i64, f64)>,
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar {
        timestamp: i64,
        value: f64,
    },
    String {
        timestamp: i64,
        value: Vec<u8>,
    },
    /// In evaluation order; sorted only where the query says so.
    Vector(Vec<VectorSample>),
    /// Sorted by labels.
    Matrix(Vec<MatrixSeries>),
}

impl Value {
    /// Memory that it takes, about; labels and histograms are shared.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = match self {
            Value::Scalar { .. } => 0,
            Value::String { value, .. } => value.len(),
            Value::Vector(samples) => size_of_val(&samples[..]),
            Value::Matrix(series) => {
                let points = |one: &MatrixSeries| {
                    size_of_val(&one.floats[..]) + size_of_val(&one.histograms[..])
                };
                size_of_val(&series[..]) + series.iter().map(points).sum::<usize>()
            }
        };
        bytes as u64
    }
}
