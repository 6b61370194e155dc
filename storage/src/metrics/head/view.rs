//! A view: a copy of a series of the head, for a seal, a checkpoint, and queries of series that are not plain
//! floats in order.

use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::encoding::{decimal, histograms, timestamps};
use crate::metrics::chunk;
use crate::metrics::head::packed::{Entries, Entry, Times};
use crate::metrics::histogram::Histogram;
use crate::metrics::sample::Samples;

/// A copy of a series at one moment, complete in itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeriesView {
    pub(super) packed: Vec<u8>,
    /// Encoded columns of the entries that share one, in their order.
    pub(super) columns: Vec<(u32, Box<[u8]>)>,
    pub(super) tail: Samples,
    pub(super) late: Samples,
    pub(super) token: u64,
}

impl SeriesView {
    /// Appends the samples to `into`, ascending; `None` if bytes are not what they should be.
    pub(crate) fn read(&self, into: &mut Samples) -> Option<()> {
        let was_empty = into.is_empty();
        let mut entries = Entries::new(&self.packed);
        let mut shared = self.columns.iter();
        let mut histogram_times = Vec::new();
        while let Some((_, entry)) = entries.next() {
            match entry {
                Entry::Floats { count, times, values } => {
                    let times = match times {
                        Times::Own(bytes) => bytes,
                        Times::Shared(id) => &shared.next().filter(|(known, _)| *known == id)?.1,
                    };
                    timestamps::decode(times, usize::from(count), &mut into.timestamps)?;
                    decimal::decode(values, usize::from(count), &mut into.values)?;
                }
                Entry::Histograms { count, times, values } => {
                    histogram_times.clear();
                    timestamps::decode(times, usize::from(count), &mut histogram_times)?;
                    let values = histograms::decode(values, usize::from(count))?;
                    for (time, histogram) in histogram_times.iter().zip(values) {
                        into.push_histogram(*time, histogram);
                    }
                }
            }
        }
        if !entries.is_complete() {
            return None;
        }
        chunk::append(into, &self.tail, 0..self.tail.len());
        chunk::merge(into, &self.late);
        into.timestamps_token = if was_empty { self.token } else { 0 };
        Some(())
    }

    /// The same without what was not packed yet.
    pub(crate) fn without_tail(mut self) -> SeriesView {
        self.tail.clear();
        self
    }

    /// Approximate, in bytes.
    pub(crate) fn bytes_held(&self) -> usize {
        let columns = self.columns.iter().map(|(_, bytes)| bytes.len() + 24).sum::<usize>();
        let samples = 16 * (self.tail.len() + self.late.len());
        size_of::<SeriesView>() + self.packed.len() + columns + samples
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packed.is_empty() && self.tail.is_empty() && self.late.is_empty()
    }

    pub(crate) fn columns(&self) -> &[(u32, Box<[u8]>)] {
        &self.columns
    }

    /// The view for a checkpoint, without its columns: they are written once for many series.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        write_bytes(out, &self.packed);
        write_samples(out, &self.tail);
        write_samples(out, &self.late);
    }

    pub(crate) fn parse(rest: &mut &[u8], columns: &[(u32, Box<[u8]>)]) -> Option<SeriesView> {
        let packed = read_bytes(rest)?.to_vec();
        let mut used = Vec::new();
        let mut entries = Entries::new(&packed);
        while let Some((_, entry)) = entries.next() {
            if let Entry::Floats { times: Times::Shared(id), .. } = entry {
                let at = columns.binary_search_by_key(&id, |(known, _)| *known).ok()?;
                used.push(columns[at].clone());
            }
        }
        let complete = entries.is_complete();
        let tail = read_samples(rest)?;
        let late = read_samples(rest)?;
        let view = SeriesView { packed, columns: used, tail, late, ..SeriesView::default() };
        complete.then_some(view)
    }
}

/// Few samples, not worth compressing: the frame around them is.
fn write_samples(out: &mut Vec<u8>, samples: &Samples) {
    varint::write(out, samples.len() as u64);
    let mut previous = 0i64;
    for row in 0..samples.len() {
        varint::write_signed(out, samples.timestamps[row].wrapping_sub(previous));
        previous = samples.timestamps[row];
        match samples.histogram(row) {
            Some(histogram) => {
                out.push(1);
                histogram.write(out);
            }
            None => {
                out.push(0);
                out.extend_from_slice(&samples.values[row].to_bits().to_le_bytes());
            }
        }
    }
}

fn read_samples(rest: &mut &[u8]) -> Option<Samples> {
    let mut samples = Samples::default();
    let mut timestamp = 0i64;
    for row in 0..read_count(rest, 10)? {
        let difference = varint::read_signed(rest)?;
        timestamp = timestamp.wrapping_add(difference);
        if row > 0 && samples.timestamps[row - 1] >= timestamp {
            return None;
        }
        let (tag, tail) = rest.split_first()?;
        *rest = tail;
        match tag {
            0 => {
                let (bits, tail) = rest.split_first_chunk::<8>()?;
                *rest = tail;
                samples.push(timestamp, f64::from_bits(u64::from_le_bytes(*bits)));
            }
            1 => samples.push_histogram(timestamp, Histogram::read(rest)?),
            _ => return None,
        }
    }
    Some(samples)
}
