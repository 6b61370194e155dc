//! XOR compression of floats: Prometheus's float chunk, bit for bit, and its value column alone.
//!
//! A value is XORed with the one before it; equal values cost a bit, others the *window* of bits
//! between the leading and the trailing zeros of the result, which is reused while the next
//! result fits in it (the Gorilla paper, section 4.1.2; Pelkonen et al., VLDB 2015). A *chunk*
//! interleaves that with timestamps as differences of differences.
//!
//! Prometheus and all that speaks its remote read and StoreAPI protocols read [`float_chunk`]'s
//! bytes; its layout is Prometheus's `tsdb/docs/format/chunks.md`, "XOR chunk data". The value
//! column alone is the last resort of [`crate::encoding::decimal`] and what that codec is measured
//! against.

use crate::encoding::bits::{BitReader, BitWriter};
use crate::encoding::varint;

/// A chunk's count of samples has 16 bits.
pub const CHUNK_SAMPLES_MAX: usize = u16::MAX as usize;

/// What is in a chunk, by Prometheus's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkEncoding {
    Xor = 1,
    Histogram = 2,
    FloatHistogram = 3,
}

/// What XOR coding remembers from one value to the next; the same on both sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XorState {
    value: u64,
    leading: u32,
    trailing: u32,
    has_window: bool,
}

impl XorState {
    /// Before the second value; `first` is written by the caller.
    pub(crate) fn new(first: f64) -> XorState {
        XorState { value: first.to_bits(), leading: 0, trailing: 0, has_window: false }
    }

    pub(crate) fn value(&self) -> f64 {
        f64::from_bits(self.value)
    }

    #[inline]
    pub(crate) fn write(&mut self, writer: &mut BitWriter<'_>, value: f64) {
        let difference = value.to_bits() ^ self.value;
        self.value = value.to_bits();
        if difference == 0 {
            writer.write(0, 1);
            return;
        }
        // Five bits say how many zeros lead.
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        if self.has_window && leading >= self.leading && trailing >= self.trailing {
            writer.write(0b10, 2);
            writer.write(difference >> self.trailing, 64 - self.leading - self.trailing);
            return;
        }
        (self.leading, self.trailing, self.has_window) = (leading, trailing, true);
        let significant = 64 - leading - trailing;
        // Six bits say how many are significant, 1 to 64, where 64 is written as 0.
        writer.write(u64::from(0b11 << 11 | leading << 6 | significant & 63), 13);
        writer.write(difference >> trailing, significant);
    }

    #[inline]
    pub(crate) fn read(&mut self, reader: &mut BitReader<'_>) -> Option<f64> {
        if reader.read_bit()? {
            if reader.read_bit()? {
                let window = reader.read(11)? as u32;
                self.leading = window >> 6;
                let significant = if window & 63 == 0 { 64 } else { window & 63 };
                self.trailing = (64 - self.leading).checked_sub(significant)?;
                self.has_window = true;
            } else if !self.has_window {
                return None;
            }
            let significant = 64 - self.leading - self.trailing;
            self.value ^= reader.read(significant)? << self.trailing;
        }
        Some(f64::from_bits(self.value))
    }
}

/// Appends the value column: 8 bytes of the first value, then XOR codes, padded to a byte.
pub fn encode_values(values: &[f64], out: &mut Vec<u8>) {
    let Some((&first, others)) = values.split_first() else { return };
    let mut writer = BitWriter::new(out);
    writer.write(first.to_bits(), 64);
    let mut state = XorState::new(first);
    for &value in others {
        state.write(&mut writer, value);
    }
    writer.finish();
}

/// Reads all of `bytes` as what [`encode_values`] wrote, and appends `count` values.
pub fn decode_values(bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Option<()> {
    if count == 0 {
        return bytes.is_empty().then_some(());
    }
    // 64 bits for the first and a bit at least for each other.
    if count > bytes.len().saturating_mul(8) {
        return None;
    }
    let mut reader = BitReader::new(bytes);
    let mut state = XorState::new(f64::from_bits(reader.read(64)?));
    out.reserve(count);
    out.push(state.value());
    for _ in 1..count {
        out.push(state.read(&mut reader)?);
    }
    reader.is_at_padding().then_some(())
}

/// Prometheus's XOR chunk of these samples.
///
/// Timestamps are milliseconds, ascending; at most [`CHUNK_SAMPLES_MAX`] samples.
pub fn float_chunk(timestamps: &[i64], values: &[f64]) -> Vec<u8> {
    assert_eq!(timestamps.len(), values.len(), "a sample has a timestamp and a value");
    assert!(values.len() <= CHUNK_SAMPLES_MAX, "a chunk counts its samples in 16 bits");
    let mut out = Vec::with_capacity(values.len() * 2 + 32);
    out.extend_from_slice(&(values.len() as u16).to_be_bytes());
    let (Some(&first_time), Some(&first)) = (timestamps.first(), values.first()) else {
        return out;
    };
    varint::write_signed(&mut out, first_time);
    let mut lead = Vec::new();
    let mut state = XorState::new(first);
    if let Some(&second_time) = timestamps.get(1) {
        varint::write(&mut lead, second_time.wrapping_sub(first_time) as u64);
    }
    let mut writer = BitWriter::new(&mut out);
    writer.write(first.to_bits(), 64);
    lead.iter().for_each(|&byte| writer.write(u64::from(byte), 8));
    for (row, &value) in values.iter().enumerate().skip(1) {
        if row > 1 {
            let delta = timestamps[row].wrapping_sub(timestamps[row - 1]);
            let before = timestamps[row - 1].wrapping_sub(timestamps[row - 2]);
            write_time(&mut writer, delta.wrapping_sub(before));
        }
        state.write(&mut writer, value);
    }
    writer.finish();
    out
}

/// Reads Prometheus's XOR chunk and appends its samples; `None` if it is not one.
pub fn read_float_chunk(
    bytes: &[u8],
    timestamps: &mut Vec<i64>,
    values: &mut Vec<f64>,
) -> Option<()> {
    let (count, mut rest) = bytes.split_first_chunk::<2>()?;
    let count = usize::from(u16::from_be_bytes(*count));
    if count == 0 {
        return rest.is_empty().then_some(());
    }
    let mut time = varint::read_signed(&mut rest)?;
    let mut reader = BitReader::new(rest);
    let mut state = XorState::new(f64::from_bits(reader.read(64)?));
    timestamps.push(time);
    values.push(state.value());
    let mut delta = 0i64;
    for row in 1..count {
        if row == 1 {
            delta = read_varint(&mut reader)? as i64;
        } else {
            delta = delta.wrapping_add(read_time(&mut reader)?);
        }
        time = time.wrapping_add(delta);
        timestamps.push(time);
        values.push(state.read(&mut reader)?);
    }
    reader.is_at_padding_or_empty_byte().then_some(())
}

/// A difference of differences: a prefix of 1 to 4 bits, then 0, 14, 17, 20 or 64 bits.
fn write_time(writer: &mut BitWriter<'_>, number: i64) {
    for (prefix, prefix_bits, bits) in [(0b10, 2, 14), (0b110, 3, 17), (0b1110, 4, 20)] {
        if number == 0 {
            writer.write(0, 1);
            return;
        }
        // The range leans to the positive: -(2^(bits-1) - 1) to 2^(bits-1).
        let half = 1i64 << (bits - 1);
        if number > -half && number <= half {
            writer.write(prefix, prefix_bits);
            writer.write(number as u64, bits);
            return;
        }
    }
    writer.write(0b1111, 4);
    writer.write(number as u64, 64);
}

fn read_time(reader: &mut BitReader<'_>) -> Option<i64> {
    let mut ones = 0;
    while ones < 4 && reader.read_bit()? {
        ones += 1;
    }
    let bits = match ones {
        0 => return Some(0),
        1 => 14,
        2 => 17,
        3 => 20,
        _ => return Some(reader.read(64)? as i64),
    };
    let number = reader.read(bits)? as i64;
    // The half itself stands for the positive number.
    Some(if number > 1 << (bits - 1) { number - (1 << bits) } else { number })
}

/// A varint that does not start on a byte.
fn read_varint(reader: &mut BitReader<'_>) -> Option<u64> {
    let mut bytes = Vec::with_capacity(10);
    loop {
        let byte = reader.read(8)? as u8;
        bytes.push(byte);
        if byte < 0x80 || bytes.len() == 10 {
            return varint::read(&mut &bytes[..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(hex: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    /// Written by promtool 2.42 from samples with NaN, -0, +Inf, a denormal and uneven intervals.
    const PROMTOOL_CHUNK: &str = "000e80a0abfef9623ff000000000000098753097ffe0007683bffec0760038400383efe37e43c8800759\
         f780033f3cfe43c8800759dd0000810000000000003de000188dffee80003bc00030fdfece6666666666\
         6f80000000000476943fffffffffffdc4b6317dfdcc5f88974bfd8b0ff007049a22dc398ac";

    #[test]
    fn a_chunk_of_promtool_comes_back_to_the_bit() {
        let chunk = bytes_of(PROMTOOL_CHUNK);
        let (mut times, mut values) = (Vec::new(), Vec::new());
        read_float_chunk(&chunk, &mut times, &mut values).unwrap();
        assert_eq!(values[..6], [1.0, 1.0, 2.0, 2.5, -0.0, 1e300]);
        assert_eq!((times[0], times[13]), (1_700_000_000_000, 1_700_000_919_264));
        assert_eq!(float_chunk(&times, &values), chunk);
    }

    /// Encoded by Prometheus's rules by hand: two samples, then a window that is reused.
    #[test]
    fn a_chunk_has_prometheus_bytes() {
        // t = 1000, 2000, 3000 and 4001; v = 1, 1, 2, 3.
        let bytes = float_chunk(&[1000, 2000, 3000, 4001], &[1.0, 1.0, 2.0, 3.0]);
        let mut expected = vec![0, 4, 0xd0, 0x0f];
        expected.extend_from_slice(&1.0f64.to_bits().to_be_bytes());
        expected.extend_from_slice(&[0xe8, 0x07]);
        let mut writer = BitWriter::new(&mut expected);
        writer.write(0, 1); // the same value
        writer.write(0, 1); // the same interval
        // 1 ^ 2 = 0x7ff0...: 1 leading zero, 52 trailing, 11 significant.
        writer.write(0b11, 2);
        writer.write(1, 5);
        writer.write(11, 6);
        writer.write(0x7ff, 11);
        writer.write(0b10, 2); // the interval grew by 1 ms
        writer.write(1, 14);
        // 2 ^ 3 = 0x0008...: outside of the window, 12 leading zeros, 51 trailing.
        writer.write(0b11, 2);
        writer.write(12, 5);
        writer.write(1, 6);
        writer.write(1, 1);
        writer.finish();
        assert_eq!(bytes, expected);
    }

    fn check(timestamps: &[i64], values: &[f64]) {
        let bytes = float_chunk(timestamps, values);
        let (mut times, mut back) = (Vec::new(), Vec::new());
        read_float_chunk(&bytes, &mut times, &mut back).expect("own bytes are well-formed");
        assert_eq!(times, timestamps);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(values));
        let mut column = Vec::new();
        encode_values(values, &mut column);
        back.clear();
        decode_values(&column, values.len(), &mut back).expect("own bytes are well-formed");
        assert_eq!(bits(&back), bits(values));
    }

    #[test]
    fn edges_of_the_time_buckets_round_trip() {
        let edges = [0, 1, -1, 8191, 8192, 8193, -8191, -8192, 65_536, 65_537, -65_535, -65_536];
        let more = [524_288, 524_289, -524_287, -524_288, 1 << 40];
        let (mut time, mut delta) = (0i64, 1i64 << 42);
        let mut times = vec![time, time + delta];
        time += delta;
        for change in edges.into_iter().chain(more) {
            delta += change;
            time += delta;
            times.push(time);
        }
        check(&times, &vec![1.0; times.len()]);
    }

    proptest! {
        #[test]
        fn any_samples_round_trip(samples: Vec<(i64, u64)>) {
            let times: Vec<i64> = samples.iter().map(|sample| sample.0).collect();
            let values: Vec<f64> =
                samples.iter().map(|sample| f64::from_bits(sample.1)).collect();
            check(&times, &values);
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>, count in 0usize..2000) {
            read_float_chunk(&bytes, &mut Vec::new(), &mut Vec::new());
            decode_values(&bytes, count, &mut Vec::new());
        }
    }
}
