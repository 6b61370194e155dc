//! A batch: the rows of one write request, decoded but not yet decided upon.
//!
//! A protocol's decoder fills it and [`crate::Db::append`] takes it. Labels stay what they were on
//! the wire: a *key*, one slice of the body, and its hash. A key that the head has seen before
//! leads to its series without being parsed; for a new one, the batch's [`KeyForm`] turns it into
//! [`Labels`]. Rows of one batch become visible, and survive a crash, all or none.

use crate::labels::{LabelError, Labels};
use crate::limits::Limits;
use crate::metrics::histogram::Histogram;

/// How keys of this batch become labels: one function a protocol.
pub type KeyForm = fn(&[u8], &Limits) -> Result<Labels, LabelError>;

/// A key in words for a refusal, as far as it can be read; short whatever the key.
pub type KeyText = fn(&[u8]) -> String;

/// Rows `samples_start..` of the batch's columns, up to those of the next series.
#[derive(Clone, Copy, Debug)]
pub struct BatchSeries {
    /// Where the key lies in [`Batch::body`].
    pub key_start: u32,
    pub key_length: u32,
    /// First of this series' rows in the sample columns.
    pub samples_start: u32,
    /// Hash of the key, seeded per process and per protocol: good for a cache, not an identity.
    pub key_hash: u128,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HistogramRow {
    /// Index into [`Batch::series`].
    pub series: u32,
    pub timestamp: i64,
    pub histogram: Histogram,
}

/// When the counter of a sample started, for a sample or histogram of the same batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartTimestampRow {
    /// Index into [`Batch::series`].
    pub series: u32,
    pub timestamp: i64,
    /// In ms, not 0: that is what an unknown one reads as.
    pub start_timestamp: i64,
}

/// A measured value with labels that say where it came from, for example a trace id.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    pub labels: Labels,
    pub timestamp: i64,
    pub value: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExemplarRow {
    /// Index into [`Batch::series`].
    pub series: u32,
    pub exemplar: Exemplar,
}

/// What a metric family is, in the words of the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub family: String,
    pub kind: MetricKind,
    pub help: String,
    pub unit: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MetricKind {
    Unknown = 0,
    Counter = 1,
    Gauge = 2,
    Histogram = 3,
    GaugeHistogram = 4,
    Summary = 5,
    Info = 6,
    StateSet = 7,
}

impl MetricKind {
    pub const ALL: [MetricKind; 8] = [
        MetricKind::Unknown,
        MetricKind::Counter,
        MetricKind::Gauge,
        MetricKind::Histogram,
        MetricKind::GaugeHistogram,
        MetricKind::Summary,
        MetricKind::Info,
        MetricKind::StateSet,
    ];

    pub fn from_byte(byte: u8) -> MetricKind {
        MetricKind::ALL.get(usize::from(byte)).copied().unwrap_or(MetricKind::Unknown)
    }

    /// The word of the Prometheus API and of OpenMetrics.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Unknown => "unknown",
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
            MetricKind::GaugeHistogram => "gaugehistogram",
            MetricKind::Summary => "summary",
            MetricKind::Info => "info",
            MetricKind::StateSet => "stateset",
        }
    }
}

/// The rows of one request. Keep and [`clear`](Batch::clear) it to reuse its memory.
#[derive(Clone, Debug)]
pub struct Batch {
    pub key_form: KeyForm,
    pub key_text: KeyText,
    /// The bytes that keys point into.
    pub body: Vec<u8>,
    pub series: Vec<BatchSeries>,
    pub timestamps: Vec<i64>,
    pub values: Vec<f64>,
    pub histograms: Vec<HistogramRow>,
    pub start_timestamps: Vec<StartTimestampRow>,
    pub exemplars: Vec<ExemplarRow>,
    pub metadata: Vec<Metadata>,
    /// Where the source's own log stood after these rows, for example a Kafka offset; stored.
    pub source_offset: Option<u64>,
    /// What the decoder already refused.
    pub refused: Refusals,
}

impl Batch {
    pub fn new(key_form: KeyForm, key_text: KeyText) -> Batch {
        Batch {
            key_form,
            key_text,
            body: Vec::new(),
            series: Vec::new(),
            timestamps: Vec::new(),
            values: Vec::new(),
            histograms: Vec::new(),
            start_timestamps: Vec::new(),
            exemplars: Vec::new(),
            metadata: Vec::new(),
            source_offset: None,
            refused: Refusals::default(),
        }
    }

    /// Bytes of its columns and its body, used or not; without what histograms and exemplars have.
    pub fn bytes_held(&self) -> usize {
        self.body.capacity()
            + self.series.capacity() * size_of::<BatchSeries>()
            + self.timestamps.capacity() * size_of::<i64>()
            + self.values.capacity() * size_of::<f64>()
            + self.histograms.capacity() * size_of::<HistogramRow>()
    }

    pub fn clear(&mut self) {
        self.body.clear();
        self.series.clear();
        self.timestamps.clear();
        self.values.clear();
        self.histograms.clear();
        self.start_timestamps.clear();
        self.exemplars.clear();
        self.metadata.clear();
        self.source_offset = None;
        self.refused = Refusals::default();
    }

    /// An empty batch whose keys are canonical label bytes, for [`Batch::push_series`].
    pub fn with_canonical_keys() -> Batch {
        Batch::new(canonical_key, canonical_key_text)
    }

    /// A batch of float samples, for tests, benches and the server's own metrics.
    pub fn of_samples<'a>(rows: impl IntoIterator<Item = (&'a Labels, i64, f64)>) -> Batch {
        let mut batch = Batch::with_canonical_keys();
        let mut last: Option<&Labels> = None;
        for (labels, timestamp, value) in rows {
            if last != Some(labels) {
                batch.push_series(labels);
                last = Some(labels);
            }
            batch.timestamps.push(timestamp);
            batch.values.push(value);
        }
        batch
    }

    /// Starts a series whose key is its canonical label bytes; its samples follow.
    pub fn push_series(&mut self, labels: &Labels) {
        let position = |length| u32::try_from(length).expect("a batch is below 4 GiB");
        self.series.push(BatchSeries {
            key_start: position(self.body.len()),
            key_length: position(labels.as_bytes().len()),
            samples_start: position(self.timestamps.len()),
            key_hash: xxhash_rust::xxh3::xxh3_128_with_seed(labels.as_bytes(), CANONICAL_KEY_SEED),
        });
        self.body.extend_from_slice(labels.as_bytes());
    }

    pub fn key(&self, series: &BatchSeries) -> &[u8] {
        &self.body[series.key_start as usize..][..series.key_length as usize]
    }
}

/// Keeps hashes of canonical keys apart from those of wire formats.
const CANONICAL_KEY_SEED: u64 = 0x6963_6563_6f72_6531;

/// The [`KeyForm`] of keys that are canonical label bytes.
pub fn canonical_key(key: &[u8], limits: &Limits) -> Result<Labels, LabelError> {
    let labels = Labels::from_canonical_bytes(key)?;
    limits.check_labels(&labels)?;
    Ok(labels)
}

/// The [`KeyText`] of keys that are canonical label bytes.
fn canonical_key_text(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(&key[..key.len().min(120)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One refused series or row: which, why, and how many rows it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Labels as far as they could be read.
    pub series: String,
    pub reason: String,
    pub rows: u64,
}

/// What was refused: the first few in words, all of them in number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// At most [`Refusals::LISTED_MAX`].
    pub listed: Vec<Refusal>,
    /// All refused rows, listed or not.
    pub rows: u64,
}

impl Refusals {
    pub const LISTED_MAX: usize = 10;

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Counts `rows` and, while there is room, calls `describe` for (series, reason).
    pub fn add(&mut self, rows: u64, describe: impl FnOnce() -> (String, String)) {
        self.rows += rows;
        if self.listed.len() < Refusals::LISTED_MAX {
            let (series, reason) = describe();
            self.listed.push(Refusal { series, reason, rows });
        }
    }

    pub fn extend(&mut self, other: Refusals) {
        let room = Refusals::LISTED_MAX - self.listed.len().min(Refusals::LISTED_MAX);
        self.listed.extend(other.listed.into_iter().take(room));
        self.rows += other.rows;
    }
}
