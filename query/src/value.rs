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
