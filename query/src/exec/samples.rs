//! The samples of a series that are alive, floats and histograms alike, and its windows in them.

use std::ops::Range;
use std::sync::Arc;

use icecore_storage::metrics::sample::{Samples, is_stale_nan};

use crate::exec::over_time;
use crate::exec::window::Bounds;
use crate::functions::FunctionId;
use crate::histogram::FloatHistogram;
use crate::plan::View;
use crate::value::Point;

/// A sample of either kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sample<'a> {
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

impl<'a> From<&'a Point> for Sample<'a> {
    fn from(point: &'a Point) -> Sample<'a> {
        match point {
            Point::Float(value) => Sample::Float(*value),
            Point::Histogram(histogram) => Sample::Histogram(histogram),
        }
    }
}

impl Sample<'_> {
    /// Whether `newer` counts for `changes` or `resets`; another kind counts for both.
    pub(crate) fn differs(self, id: FunctionId, newer: Sample<'_>) -> bool {
        match (self, newer) {
            (Sample::Float(old), Sample::Float(new)) => over_time::differs(id, old, new),
            (Sample::Histogram(old), Sample::Histogram(new)) => match id {
                FunctionId::Resets => new.detect_reset(old),
                _ => !new.same_data(old),
            },
            _ => true,
        }
    }
}

/// Samples that are no stale markers.
#[derive(Debug, Default)]
pub(crate) struct LiveSamples {
    pub(crate) times: Vec<i64>,
    /// Where each stands among all samples.
    pub(crate) rows: Vec<u32>,
    pub(crate) bounds: Bounds,
}

impl LiveSamples {
    pub(crate) fn fill(&mut self, samples: &Samples, view: View) {
        self.times.clear();
        self.rows.clear();
        for (row, (&time, &value)) in samples.timestamps.iter().zip(&samples.values).enumerate() {
            if !is_stale_nan(value) {
                self.times.push(time);
                self.rows.push(row as u32);
            }
        }
        self.bounds.update(&self.times, view.times, view.window_ms);
    }

    /// Into `times` and `rows`.
    pub(crate) fn window(&self, step: usize) -> Range<usize> {
        self.bounds.window(step)
    }
}
