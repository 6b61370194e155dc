//! Records: what a frame of the log says.
//!
//! A [`BatchRecord`] holds the accepted rows of one request in columns: the labels of the series
//! that this segment has not stated yet, then samples, histograms, exemplars and metadata. Series
//! are named by a reference that means something within its segment only. Layout: docs/format.md,
//! "Write-ahead log".

use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata, MetricKind};
use crate::metrics::histogram::Histogram;

/// Frame types. Numbers are never reused.
pub(crate) const BATCH: u8 = 1;
pub(crate) const DELETE: u8 = 2;

/// Bounds what a record may claim to decompress to.
const RAW_BYTES_MAX: usize = 1 << 30;

/// One request's accepted rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchRecord {
    /// 0 or the source's offset plus 1.
    pub(crate) source_offset: Option<u64>,
    pub(crate) definitions: Vec<(u32, Labels)>,
    /// Columns of float samples: the series' reference, time, value.
    pub(crate) references: Vec<u32>,
    pub(crate) timestamps: Vec<i64>,
    pub(crate) values: Vec<f64>,
    pub(crate) histograms: Vec<(u32, i64, Histogram)>,
    pub(crate) exemplars: Vec<(u32, Exemplar)>,
    pub(crate) metadata: Vec<Metadata>,
}

/// A payload and how many of its bytes, before compression, state labels.
#[derive(Debug)]
pub struct Encoded {
    pub payload: Vec<u8>,
    /// Share of the payload that states labels, estimated from the uncompressed sizes.
    pub(crate) definition_bytes: u64,
}

impl BatchRecord {
    pub(crate) fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
            && self.histograms.is_empty()
            && self.exemplars.is_empty()
            && self.metadata.is_empty()
    }

    /// References of all rows.
    pub(crate) fn series(&self) -> impl Iterator<Item = u32> + '_ {
        let floats = self.references.iter().copied();
        let histograms = self.histograms.iter().map(|(reference, ..)| *reference);
        floats.chain(histograms).chain(self.exemplars.iter().map(|(reference, _)| *reference))
    }

    /// Leaves out the samples and histograms whose time does not pass.
    pub(crate) fn retain_rows(&mut self, keep: impl Fn(i64) -> bool) {
        if self.timestamps.iter().all(|timestamp| keep(*timestamp)) {
            self.histograms.retain(|(_, timestamp, _)| keep(*timestamp));
            return;
        }
        let kept: Vec<bool> = self.timestamps.iter().map(|timestamp| keep(*timestamp)).collect();
        let mut column = kept.iter();
        self.references.retain(|_| *column.next().expect("columns are equally long"));
        let mut column = kept.iter();
        self.timestamps.retain(|_| *column.next().expect("columns are equally long"));
        let mut column = kept.iter();
        self.values.retain(|_| *column.next().expect("columns are equally long"));
        self.histograms.retain(|(_, timestamp, _)| keep(*timestamp));
    }

    pub fn encode(&self) -> Encoded {
        let mut raw = Vec::with_capacity(32 + self.values.len() * 12);
        self.write_definitions(&mut raw);
        let definitions = compress(&raw);
        let mut rows = Vec::with_capacity(64 + self.values.len() * 12);
        self.write_samples(&mut rows);
        self.write_histograms(&mut rows);
        self.write_exemplars(&mut rows);
        self.write_metadata(&mut rows);
        let compressed = compress(&rows);
        let mut payload = Vec::with_capacity(32 + definitions.len() + compressed.len());
        varint::write(&mut payload, self.source_offset.map_or(0, |offset| offset.wrapping_add(1)));
        for (raw, compressed) in [(&raw, &definitions), (&rows, &compressed)] {
            varint::write(&mut payload, raw.len() as u64);
            varint::write(&mut payload, compressed.len() as u64);
            payload.extend_from_slice(compressed);
        }
        let definition_bytes =
            if self.definitions.is_empty() { 0 } else { definitions.len() as u64 };
        Encoded { payload, definition_bytes }
    }

    pub fn decode(payload: &[u8]) -> Option<BatchRecord> {
        let mut rest = payload;
        let source_offset = varint::read(&mut rest)?.checked_sub(1);
        let definitions = decompress(&mut rest)?;
        let rows = decompress(&mut rest)?;
        if !rest.is_empty() {
            return None;
        }
        let mut record = BatchRecord { source_offset, ..BatchRecord::default() };
        record.read_definitions(&mut &definitions[..])?;
        let mut rows = &rows[..];
        record.read_samples(&mut rows)?;
        record.read_histograms(&mut rows)?;
        record.read_exemplars(&mut rows)?;
        record.read_metadata(&mut rows)?;
        rows.is_empty().then_some(record)
    }

    /// Only the labels that the record states: what replay needs of a record it skips.
    pub(crate) fn decode_definitions(payload: &[u8]) -> Option<Vec<(u32, Labels)>> {
        let mut rest = payload;
        varint::read(&mut rest)?;
        let definitions = decompress(&mut rest)?;
        let mut record = BatchRecord::default();
        record.read_definitions(&mut &definitions[..])?;
        Some(record.definitions)
    }

    fn write_definitions(&self, out: &mut Vec<u8>) {
        varint::write(out, self.definitions.len() as u64);
        for (reference, labels) in &self.definitions {
            varint::write(out, u64::from(*reference));
            write_bytes(out, labels.as_bytes());
        }
    }

    fn read_definitions(&mut self, rest: &mut &[u8]) -> Option<()> {
        for _ in 0..read_count(rest, 2)? {
            let reference = u32::try_from(varint::read(rest)?).ok()?;
            let labels = Labels::from_canonical_bytes(read_bytes(rest)?).ok()?;
            self.definitions.push((reference, labels));
        }
        rest.is_empty().then_some(())
    }

    fn write_samples(&self, out: &mut Vec<u8>) {
        varint::write(out, self.values.len() as u64);
        let mut previous = 0;
        for &reference in &self.references {
            varint::write_signed(out, i64::from(reference) - previous);
            previous = i64::from(reference);
        }
        let mut previous = 0i64;
        for &timestamp in &self.timestamps {
            varint::write_signed(out, timestamp.wrapping_sub(previous));
            previous = timestamp;
        }
        for value in &self.values {
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }

    fn read_samples(&mut self, rest: &mut &[u8]) -> Option<()> {
        let count = read_count(rest, 10)?;
        self.references.reserve(count);
        let mut previous = 0i64;
        for _ in 0..count {
            previous = previous.checked_add(varint::read_signed(rest)?)?;
            self.references.push(u32::try_from(previous).ok()?);
        }
        self.timestamps.reserve(count);
        let mut previous = 0i64;
        for _ in 0..count {
            previous = previous.wrapping_add(varint::read_signed(rest)?);
            self.timestamps.push(previous);
        }
        let (values, tail) = rest.split_at_checked(count.checked_mul(8)?)?;
        *rest = tail;
        self.values.extend(
            values
                .as_chunks::<8>()
                .0
                .iter()
                .map(|bytes| f64::from_bits(u64::from_le_bytes(*bytes))),
        );
        Some(())
    }

    fn write_histograms(&self, out: &mut Vec<u8>) {
        varint::write(out, self.histograms.len() as u64);
        for (reference, timestamp, histogram) in &self.histograms {
            varint::write(out, u64::from(*reference));
            varint::write_signed(out, *timestamp);
            histogram.write(out);
        }
    }

    fn read_histograms(&mut self, rest: &mut &[u8]) -> Option<()> {
        for _ in 0..read_count(rest, 3)? {
            let reference = u32::try_from(varint::read(rest)?).ok()?;
            let timestamp = varint::read_signed(rest)?;
            self.histograms.push((reference, timestamp, Histogram::read(rest)?));
        }
        Some(())
    }

    fn write_exemplars(&self, out: &mut Vec<u8>) {
        varint::write(out, self.exemplars.len() as u64);
        for (reference, exemplar) in &self.exemplars {
            varint::write(out, u64::from(*reference));
            write_exemplar(out, exemplar);
        }
    }

    fn read_exemplars(&mut self, rest: &mut &[u8]) -> Option<()> {
        for _ in 0..read_count(rest, 3)? {
            let reference = u32::try_from(varint::read(rest)?).ok()?;
            self.exemplars.push((reference, read_exemplar(rest)?));
        }
        Some(())
    }

    fn write_metadata(&self, out: &mut Vec<u8>) {
        varint::write(out, self.metadata.len() as u64);
        self.metadata.iter().for_each(|metadata| write_metadata(out, metadata));
    }

    fn read_metadata(&mut self, rest: &mut &[u8]) -> Option<()> {
        for _ in 0..read_count(rest, 4)? {
            self.metadata.push(read_metadata(rest)?);
        }
        Some(())
    }
}

pub(crate) fn write_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar) {
    varint::write_signed(out, exemplar.timestamp);
    out.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
    write_bytes(out, exemplar.labels.as_bytes());
}

pub(crate) fn read_exemplar(rest: &mut &[u8]) -> Option<Exemplar> {
    let timestamp = varint::read_signed(rest)?;
    let (bits, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    let labels = Labels::from_canonical_bytes(read_bytes(rest)?).ok()?;
    Some(Exemplar { labels, timestamp, value: f64::from_bits(u64::from_le_bytes(*bits)) })
}

pub(crate) fn write_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    out.push(metadata.kind as u8);
    for text in [&metadata.family, &metadata.help, &metadata.unit] {
        write_bytes(out, text.as_bytes());
    }
}

pub(crate) fn read_metadata(rest: &mut &[u8]) -> Option<Metadata> {
    let (kind, tail) = rest.split_first()?;
    *rest = tail;
    let mut text = || String::from_utf8(read_bytes(rest)?.to_vec()).ok();
    let kind = MetricKind::from_byte(*kind);
    Some(Metadata { kind, family: text()?, help: text()?, unit: text()? })
}

/// zstd level 1: 3.8 bytes a sample at 44 ns, against 10 bytes as they are (storage notes, §9).
fn compress(raw: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(raw, 1).expect("compressing into memory does not fail")
}

fn decompress(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let raw_length = usize::try_from(varint::read(rest)?).ok()?;
    let compressed = read_bytes(rest)?;
    if raw_length > RAW_BYTES_MAX {
        return None;
    }
    let raw = zstd::bulk::decompress(compressed, raw_length).ok()?;
    (raw.len() == raw_length).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> BatchRecord {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "node")]).unwrap();
        BatchRecord {
            source_offset: Some(7),
            definitions: vec![(3, labels.clone()), (1, labels.clone())],
            references: vec![3, 1, 3],
            timestamps: vec![i64::MAX, i64::MIN, 0],
            values: vec![f64::NAN, -0.0, 1.5],
            histograms: vec![],
            exemplars: vec![(1, Exemplar { labels, timestamp: -5, value: 0.25 })],
            metadata: vec![Metadata {
                family: "up".into(),
                kind: MetricKind::Gauge,
                help: "Whether it is.".into(),
                unit: String::new(),
            }],
        }
    }

    #[test]
    fn records_round_trip() {
        let record = record();
        let encoded = record.encode();
        let decoded = BatchRecord::decode(&encoded.payload).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{record:?}"));
        assert_eq!(BatchRecord::decode_definitions(&encoded.payload).unwrap(), record.definitions);
    }

    #[test]
    fn truncated_records_are_refused() {
        let payload = record().encode().payload;
        for end in 0..payload.len() {
            assert!(BatchRecord::decode(&payload[..end]).is_none(), "{end}");
        }
    }
}
