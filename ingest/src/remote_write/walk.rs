//! The walk: one pass over a decompressed `WriteRequest`, rows to columns, keys to hashes.
//!
//! Each `TimeSeries` is one small message; its label fields are passed over by their lengths, its
//! samples have one common layout that is read without looking at tags twice. Whatever is rare
//! (labels that do not lie together, refusals) is in functions of its own, out of the hot loop.

use std::mem::size_of;
use std::ops::Range;

use icecore_storage::limits::Limits;
use icecore_storage::metrics::batch::{
    Batch, BatchSeries, Exemplar, ExemplarRow, HistogramRow, Metadata, MetricKind,
};

use super::key::{self, KeyHash, LABELS};
use super::{ROW_BYTES_MAX, histogram};
use crate::error::DecodeError;
use crate::protobuf::{FIXED64, LENGTH_DELIMITED, Malformed, Reader, VARINT, tag};

const REQUEST_TIMESERIES: u32 = tag(1, LENGTH_DELIMITED);
const REQUEST_METADATA: u32 = tag(3, LENGTH_DELIMITED);
/// Field 2 was Cortex's and is reserved: passed over like any unknown one.
const REQUEST_FIELDS: [u32; 2] = [1, 3];

const SAMPLES: u32 = tag(2, LENGTH_DELIMITED);
const EXEMPLARS: u32 = tag(3, LENGTH_DELIMITED);
const HISTOGRAMS: u32 = tag(4, LENGTH_DELIMITED);
const SERIES_FIELDS: [u32; 4] = [1, 2, 3, 4];

const SAMPLE_VALUE: u32 = tag(1, FIXED64);
const SAMPLE_TIMESTAMP: u32 = tag(2, VARINT);

const EXEMPLAR_VALUE: u32 = tag(2, FIXED64);
const EXEMPLAR_TIMESTAMP: u32 = tag(3, VARINT);

const TOO_MANY_SERIES: &str = "the request has more series than are allowed";
const TOO_MANY_SAMPLES: &str = "the request has more samples than are allowed";
const TOO_MANY_BYTES: &str = "the request has more rows than are allowed memory";

/// What a small allocation costs beside its bytes: two counters, and what malloc adds.
const ALLOCATION_BYTES: usize = 4 * size_of::<usize>();

/// Different reasons that one series' refusals are told apart by.
const REASONS_PER_SERIES: usize = 4;

/// Fills `batch`, whose rows are empty, from a `WriteRequest`. Keys are positions in `body`, which
/// is changed only where the labels of a series do not lie together.
pub(super) fn request(
    body: &mut [u8],
    limits: &Limits,
    batch: &mut Batch,
) -> Result<(), DecodeError> {
    let mut walk = Walk {
        limits,
        batch,
        hash: KeyHash::of_this_process(),
        samples_left: limits.samples_per_request,
        bytes_left: ROW_BYTES_MAX,
        refused: Vec::new(),
    };
    walk.request(body).map_err(|malformed| DecodeError::Malformed {
        message: "prometheus.WriteRequest",
        malformed,
    })
}

struct Walk<'a> {
    limits: &'a Limits,
    batch: &'a mut Batch,
    hash: KeyHash,
    samples_left: usize,
    bytes_left: usize,
    /// What was refused of the series at hand, by reason; empty between series.
    refused: Vec<(u64, String)>,
}

impl Walk<'_> {
    fn request(&mut self, body: &mut [u8]) -> Result<(), Malformed> {
        let mut position = 0;
        while position < body.len() {
            let mut reader = Reader::new(&body[position..], position);
            match reader.tag()? {
                REQUEST_TIMESERIES => {
                    let series = reader.message()?;
                    let message = series.position()..reader.position();
                    position = message.end;
                    self.series(body, message)?;
                    continue;
                }
                REQUEST_METADATA => self.metadata(reader.message()?)?,
                other => reader.skip(other, &REQUEST_FIELDS)?,
            }
            position = reader.position();
        }
        Ok(())
    }

    fn series(&mut self, body: &mut [u8], message: Range<usize>) -> Result<(), Malformed> {
        let samples_start = self.batch.timestamps.len();
        let others_start = (self.batch.histograms.len(), self.batch.exemplars.len());
        let mut key = 0..0;
        let mut scattered = false;
        let mut reader = Reader::new(&body[message.clone()], message.start);
        while !reader.is_empty() {
            let start = reader.position();
            match reader.tag()? {
                LABELS => {
                    reader.bytes()?;
                    reader.pass_short_fields(LABELS);
                    if key.is_empty() {
                        key.start = start;
                    } else {
                        scattered |= key.end != start;
                    }
                    key.end = reader.position();
                }
                SAMPLES => self.sample(reader.message()?)?,
                EXEMPLARS => self.exemplar(reader.message()?)?,
                HISTOGRAMS => self.histogram(reader.message()?)?,
                other => reader.skip(other, &SERIES_FIELDS)?,
            }
        }
        if key.is_empty() {
            return self.refuse_unlabelled(samples_start, others_start);
        }
        if scattered {
            key = gather_labels(body, message)?;
        }
        if !self.refused.is_empty() {
            self.report(&body[key.clone()]);
        }
        let batch = &mut *self.batch;
        let others = (batch.histograms.len(), batch.exemplars.len());
        if batch.timestamps.len() == samples_start && others == others_start {
            return Ok(()); // Labels alone say nothing.
        }
        self.bytes_left = self.bytes_left.saturating_sub(size_of::<BatchSeries>());
        if batch.series.len() + 1 == self.limits.series_per_request {
            self.samples_left = 0; // Nothing that follows has a series to belong to.
        }
        batch.series.push(BatchSeries {
            key_start: position(key.start),
            key_length: position(key.len()),
            samples_start: position(samples_start),
            key_hash: self.hash.hash(&body[key]),
        });
        Ok(())
    }

    #[inline(always)]
    fn sample(&mut self, message: Reader<'_>) -> Result<(), Malformed> {
        let (timestamp, value) = match common_sample(message.rest()) {
            Some(sample) => sample,
            None => any_sample(message)?,
        };
        if self.samples_left == 0 || self.bytes_left < SAMPLE_BYTES {
            self.refuse_row();
            return Ok(());
        }
        self.samples_left -= 1;
        self.bytes_left -= SAMPLE_BYTES;
        self.batch.timestamps.push(timestamp);
        self.batch.values.push(value);
        Ok(())
    }

    fn histogram(&mut self, message: Reader<'_>) -> Result<(), Malformed> {
        let (timestamp, histogram) = match histogram::read(message)? {
            Ok(row) => row,
            Err(invalid) => {
                self.refuse(invalid);
                return Ok(());
            }
        };
        let bytes = size_of::<HistogramRow>() + histogram::heap_bytes(&histogram);
        if self.samples_left == 0 || self.bytes_left < bytes {
            self.refuse_row();
            return Ok(());
        }
        self.samples_left -= 1;
        self.bytes_left -= bytes;
        let series = position(self.batch.series.len());
        self.batch.histograms.push(HistogramRow { series, timestamp, histogram });
        Ok(())
    }

    fn exemplar(&mut self, message: Reader<'_>) -> Result<(), Malformed> {
        let fields = message.rest();
        let (mut timestamp, mut value) = (0, 0.0);
        let mut reader = message;
        while !reader.is_empty() {
            match reader.tag()? {
                LABELS => drop(reader.bytes()?),
                EXEMPLAR_VALUE => value = reader.double()?,
                EXEMPLAR_TIMESTAMP => timestamp = reader.varint()?.cast_signed(),
                other => reader.skip(other, &[1, 2, 3])?,
            }
        }
        let labels = match key::exemplar_labels(fields, self.limits) {
            Ok(labels) => labels,
            Err(error) => {
                self.refuse(&format!("exemplar: {error}"));
                return Ok(());
            }
        };
        let bytes = size_of::<ExemplarRow>() + labels.as_bytes().len() + ALLOCATION_BYTES;
        let series_full = self.batch.series.len() >= self.limits.series_per_request;
        if series_full || self.bytes_left < bytes {
            self.refuse_row();
            return Ok(());
        }
        self.bytes_left -= bytes;
        let series = position(self.batch.series.len());
        let exemplar = Exemplar { labels, timestamp, value };
        self.batch.exemplars.push(ExemplarRow { series, exemplar });
        Ok(())
    }

    fn metadata(&mut self, mut message: Reader<'_>) -> Result<(), Malformed> {
        let (mut kind, mut family, mut help, mut unit) = (0, &[][..], &[][..], &[][..]);
        while !message.is_empty() {
            match message.tag()? {
                METADATA_KIND => kind = message.varint()?,
                METADATA_FAMILY => family = message.bytes()?,
                METADATA_HELP => help = message.bytes()?,
                METADATA_UNIT => unit = message.bytes()?,
                other => message.skip(other, &METADATA_FIELDS)?,
            }
        }
        let text = |bytes: &[u8], limit: usize| {
            (bytes.len() <= limit).then(|| String::from_utf8(bytes.to_vec()).ok()).flatten()
        };
        let bytes = size_of::<Metadata>() + family.len() + help.len() + unit.len();
        let reason = if family.is_empty() {
            "metadata names no metric family"
        } else if bytes > self.bytes_left {
            TOO_MANY_BYTES
        } else if let (Some(family), Some(help), Some(unit)) = (
            text(family, self.limits.name_bytes),
            text(help, self.limits.value_bytes),
            text(unit, self.limits.name_bytes),
        ) {
            let kind = MetricKind::from_byte(u8::try_from(kind).unwrap_or(0));
            self.bytes_left -= bytes;
            self.batch.metadata.push(Metadata { family, kind, help, unit });
            return Ok(());
        } else {
            "metadata is not valid UTF-8 or too long"
        };
        self.batch.refused.add(1, || {
            let start = &family[..family.len().min(256)];
            (String::from_utf8_lossy(start).into_owned(), reason.to_owned())
        });
        Ok(())
    }

    /// Refuses a row for which there is no room.
    #[cold]
    fn refuse_row(&mut self) {
        self.refuse(if self.batch.series.len() >= self.limits.series_per_request {
            TOO_MANY_SERIES
        } else if self.samples_left == 0 {
            TOO_MANY_SAMPLES
        } else {
            TOO_MANY_BYTES
        });
    }

    /// Counts one refused row of the series at hand.
    #[cold]
    fn refuse(&mut self, reason: &str) {
        let full = self.refused.len() == REASONS_PER_SERIES;
        match self.refused.iter().position(|(_, listed)| listed == reason) {
            Some(listed) => self.refused[listed].0 += 1,
            None if full => self.refused[REASONS_PER_SERIES - 1].0 += 1,
            None => self.refused.push((1, reason.to_owned())),
        }
    }

    /// Moves what was refused of one series to the batch.
    #[cold]
    fn report(&mut self, key: &[u8]) {
        for (rows, reason) in self.refused.drain(..) {
            self.batch.refused.add(rows, || (key::describe(key), reason));
        }
    }

    /// Takes back the rows of a series that names none; an empty one counts as a row.
    #[cold]
    fn refuse_unlabelled(
        &mut self,
        samples_start: usize,
        (histograms_start, exemplars_start): (usize, usize),
    ) -> Result<(), Malformed> {
        let batch = &mut *self.batch;
        let rows = (batch.timestamps.len() - samples_start)
            + (batch.histograms.len() - histograms_start)
            + (batch.exemplars.len() - exemplars_start);
        let refused: u64 = self.refused.drain(..).map(|(rows, _)| rows).sum();
        batch.timestamps.truncate(samples_start);
        batch.values.truncate(samples_start);
        batch.histograms.truncate(histograms_start);
        batch.exemplars.truncate(exemplars_start);
        let no_labels = || ("{}".to_owned(), "series has no labels".to_owned());
        batch.refused.add((rows as u64 + refused).max(1), no_labels);
        Ok(())
    }
}

/// What a sample takes in the columns.
const SAMPLE_BYTES: usize = size_of::<i64>() + size_of::<f64>();

const METADATA_KIND: u32 = tag(1, VARINT);
const METADATA_FAMILY: u32 = tag(2, LENGTH_DELIMITED);
const METADATA_HELP: u32 = tag(4, LENGTH_DELIMITED);
const METADATA_UNIT: u32 = tag(5, LENGTH_DELIMITED);
const METADATA_FIELDS: [u32; 4] = [1, 2, 4, 5];

/// A sample with both fields in their order and a timestamp of at most 8 bytes, which is every
/// sample but those of value or time zero.
#[inline(always)]
fn common_sample(message: &[u8]) -> Option<(i64, f64)> {
    const VALUE_TAG: u8 = SAMPLE_VALUE as u8;
    const TIMESTAMP_TAG: u8 = SAMPLE_TIMESTAMP as u8;
    let [VALUE_TAG, a, b, c, d, e, f, g, h, TIMESTAMP_TAG, varint @ ..] = message else {
        return None;
    };
    let value = f64::from_bits(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
    if varint.is_empty() || varint.len() > 8 {
        return None;
    }
    // The last 8 bytes of the message, without those before the varint.
    let word = u64::from_le_bytes(*message.last_chunk::<8>()?) >> (64 - 8 * varint.len());
    let continued = word & 0x8080_8080_8080_8080;
    let expected = (1u64 << (8 * (varint.len() - 1))) - 1;
    if continued != 0x8080_8080_8080_8080 & expected {
        return None;
    }
    let word = word & 0x7f7f_7f7f_7f7f_7f7f;
    let word = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let word = word & 0x0000_3fff_0000_3fff | (word & 0x3fff_0000_3fff_0000) >> 2;
    let word = word & 0x0000_0000_0fff_ffff | (word & 0x0fff_ffff_0000_0000) >> 4;
    Some((word.cast_signed(), value))
}

#[cold]
fn any_sample(mut message: Reader<'_>) -> Result<(i64, f64), Malformed> {
    let (mut timestamp, mut value) = (0, 0.0);
    while !message.is_empty() {
        match message.tag()? {
            SAMPLE_VALUE => value = message.double()?,
            SAMPLE_TIMESTAMP => timestamp = message.varint()?.cast_signed(),
            other => message.skip(other, &[1, 2])?,
        }
    }
    Ok((timestamp, value))
}

/// Moves the label fields of a `TimeSeries`, whose other fields were read, to its start.
#[cold]
fn gather_labels(body: &mut [u8], message: Range<usize>) -> Result<Range<usize>, Malformed> {
    let mut end = message.start;
    let mut position = message.start;
    while position < message.end {
        let mut reader = Reader::new(&body[position..message.end], position);
        let tag = reader.tag()?;
        reader.skip(tag, &[])?;
        let field = position..reader.position();
        position = field.end;
        if tag == LABELS {
            body.copy_within(field.clone(), end);
            end += field.len();
        }
    }
    Ok(message.start..end)
}

fn position(of: usize) -> u32 {
    u32::try_from(of).expect("decompress keeps bodies below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_layout_reads_as_any_other() {
        let timestamps = [1, 127, 128, 1_700_000_000_000, (1 << 56) - 1, 1 << 56, -1, i64::MIN];
        for timestamp in timestamps {
            let mut message = vec![SAMPLE_VALUE as u8];
            message.extend_from_slice(&(-2.5f64).to_le_bytes());
            message.push(SAMPLE_TIMESTAMP as u8);
            icecore_storage::encoding::varint::write(&mut message, timestamp.cast_unsigned());
            let any = any_sample(Reader::new(&message, 0)).unwrap();
            assert_eq!(any, (timestamp, -2.5));
            let common = common_sample(&message);
            assert_eq!(common, (0..1 << 56).contains(&timestamp).then_some(any));
            message.push(0);
            assert_eq!(common_sample(&message), None, "{timestamp}");
            let cut = &message[..message.len() - 2];
            assert_eq!(common_sample(cut), None, "{timestamp}");
        }
    }
}
