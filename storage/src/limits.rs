//! Limits on what one request may bring: the bounds that keep a hostile body from costing memory.

use crate::labels::{LabelError, Labels, METRIC_NAME};
use crate::metrics::companion;

/// Metric names with this prefix are answered from records; pushed samples may not have it.
pub const RESERVED_PREFIX: &str = "record:";

/// Bounds on one write request. The defaults suit every known sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body as it arrives.
    pub body_bytes: usize,
    /// Bytes of a body once decompressed.
    pub decoded_bytes: usize,
    /// Series in a request; those after them are refused.
    pub series_per_request: usize,
    /// Samples and histograms in a request; those after them are refused.
    pub samples_per_request: usize,
    pub labels_per_series: usize,
    pub name_bytes: usize,
    pub value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 16 << 20,
            decoded_bytes: 32 << 20,
            series_per_request: 400_000,
            samples_per_request: 1_500_000,
            labels_per_series: 64,
            name_bytes: 1 << 10,
            value_bytes: 4 << 10,
        }
    }
}

impl Limits {
    /// Refuses labels that no series may have.
    pub fn check_labels(&self, labels: &Labels) -> Result<(), LabelError> {
        self.check_pairs(labels.iter())
    }

    /// [`Self::check_labels`] on pairs that are not labels yet; their values are not empty.
    pub fn check_pairs<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), LabelError> {
        let mut count = 0;
        let mut metric_name = None;
        for (name, value) in pairs {
            count += 1;
            self.check_text("name", name, self.name_bytes)?;
            self.check_text("value", value, self.value_bytes)?;
            if name == METRIC_NAME {
                metric_name = Some(value);
            }
            if self.is_reserved_label(name.as_bytes()) {
                return Err(LabelError::ReservedLabel { name: name.to_owned() });
            }
        }
        if count == 0 {
            return Err(LabelError::NoLabels);
        }
        if count > self.labels_per_series {
            return Err(LabelError::TooMany { count, limit: self.labels_per_series });
        }
        match metric_name {
            None => Err(LabelError::NoMetricName),
            Some(name) if self.is_reserved_metric(name.as_bytes()) => {
                Err(LabelError::ReservedName { name: name.to_owned() })
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether no series may have a label of this name.
    pub fn is_reserved_label(&self, name: &[u8]) -> bool {
        name == companion::LABEL.as_bytes()
    }

    /// Whether no series may have this metric name.
    pub fn is_reserved_metric(&self, name: &[u8]) -> bool {
        name.starts_with(RESERVED_PREFIX.as_bytes())
    }

    /// Refuses a label's name or value (`what`) of more than `limit` bytes.
    pub fn check_text(
        &self,
        what: &'static str,
        text: &str,
        limit: usize,
    ) -> Result<(), LabelError> {
        if text.len() <= limit {
            return Ok(());
        }
        let start = text.chars().take(40).collect();
        Err(LabelError::TooLong { what, length: text.len(), limit, start })
    }
}
