//! What stands before the samples in a histogram chunk of Prometheus, and the numbers it is made of.
//!
//! The *layout* is what all histograms of a chunk share. Its numbers, and those of the samples, are
//! *varbits*: a run of ones that says how many bits follow, 0 to 64, and then these. The rule that
//! holds: everything written here is read back to the bit; what Prometheus's short forms of
//! thresholds and bounds would lose (the sign of zero) is written in their long ones.

use crate::encoding::bits::{BitReader, BitWriter};
use crate::metrics::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, ResetHint, Span};

/// All that a chunk keeps of a stale marker.
pub(super) fn stale(is_float: bool, sum: f64) -> Histogram {
    let counts = if is_float {
        Counts::Float { count: 0.0, zero_count: 0.0, positive: Vec::new(), negative: Vec::new() }
    } else {
        Counts::Integer { count: 0, zero_count: 0, positive: Vec::new(), negative: Vec::new() }
    };
    Histogram {
        schema: 0,
        zero_threshold: 0.0,
        sum,
        reset_hint: ResetHint::Unknown,
        positive_spans: Vec::new(),
        negative_spans: Vec::new(),
        counts,
        custom_values: Vec::new(),
    }
}

pub(super) fn write_layout(writer: &mut BitWriter<'_>, layout: &Histogram) {
    write_zero_threshold(writer, layout.zero_threshold);
    write_varbit_signed(writer, i64::from(layout.schema));
    for spans in [&layout.positive_spans, &layout.negative_spans] {
        write_varbit(writer, spans.len() as u64);
        for span in spans {
            write_varbit(writer, u64::from(span.length));
            write_varbit_signed(writer, i64::from(span.offset));
        }
    }
    if layout.schema == CUSTOM_BUCKETS_SCHEMA {
        write_varbit(writer, layout.custom_values.len() as u64);
        layout.custom_values.iter().for_each(|&bound| write_bound(writer, bound));
    }
}

/// The layout, as a histogram without counts.
pub(super) fn read_layout(reader: &mut BitReader<'_>) -> Option<Histogram> {
    let mut layout = stale(false, 0.0);
    layout.zero_threshold = read_zero_threshold(reader)?;
    layout.schema = i32::try_from(read_varbit_signed(reader)?).ok()?;
    for spans in [&mut layout.positive_spans, &mut layout.negative_spans] {
        for _ in 0..read_varbit(reader)? {
            let length = u32::try_from(read_varbit(reader)?).ok()?;
            let offset = i32::try_from(read_varbit_signed(reader)?).ok()?;
            spans.push(Span { offset, length });
        }
    }
    if layout.schema == CUSTOM_BUCKETS_SCHEMA {
        for _ in 0..read_varbit(reader)? {
            layout.custom_values.push(read_bound(reader)?);
        }
    }
    Some(layout)
}

/// Says that 8 bytes of the threshold follow.
const THRESHOLD_FOLLOWS: u64 = 255;
/// A power of two is its exponent plus this, 1 to 254.
const THRESHOLD_BIAS: i64 = 244;

fn write_zero_threshold(writer: &mut BitWriter<'_>, threshold: f64) {
    let bits = threshold.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    let is_power_of_two = bits & ((1 << 52) - 1) == 0 && (-243..=10).contains(&exponent);
    if bits == 0 {
        writer.write(0, 8);
    } else if is_power_of_two {
        writer.write((exponent + THRESHOLD_BIAS) as u64, 8);
    } else {
        writer.write(THRESHOLD_FOLLOWS, 8);
        writer.write(bits, 64);
    }
}

fn read_zero_threshold(reader: &mut BitReader<'_>) -> Option<f64> {
    Some(match reader.read(8)? {
        0 => 0.0,
        THRESHOLD_FOLLOWS => f64::from_bits(reader.read(64)?),
        byte => f64::from_bits(((byte as i64 - THRESHOLD_BIAS + 1023) as u64) << 52),
    })
}

/// Bounds in thousandths up to this are varbits, of 4 bytes at most.
const BOUND_THOUSANDTHS_MAX: f64 = 33_554_430.0;

fn write_bound(writer: &mut BitWriter<'_>, bound: f64) {
    let thousandths = (bound * 1000.0).round();
    let is_short = bound.is_sign_positive()
        && bound * 1000.0 <= BOUND_THOUSANDTHS_MAX
        && (thousandths / 1000.0).to_bits() == bound.to_bits();
    if is_short {
        // One more, so that it is no 0.
        write_varbit(writer, thousandths as u64 + 1);
    } else {
        writer.write_bit(false);
        writer.write(bound.to_bits(), 64);
    }
}

fn read_bound(reader: &mut BitReader<'_>) -> Option<f64> {
    Some(match read_varbit(reader)? {
        0 => f64::from_bits(reader.read(64)?),
        thousandths => (thousandths - 1) as f64 / 1000.0,
    })
}

/// Widths of varbits: 0 is a single 0 bit; the width at place `k` comes after `k + 1` ones and a
/// zero, and 64 bits after eight ones.
const VARBIT_WIDTHS: [u32; 7] = [3, 6, 9, 12, 18, 25, 56];

pub(super) fn write_varbit(writer: &mut BitWriter<'_>, number: u64) {
    let place = VARBIT_WIDTHS.iter().position(|&width| number >> width == 0);
    write_varbit_at(writer, number, place);
}

pub(super) fn write_varbit_signed(writer: &mut BitWriter<'_>, number: i64) {
    // The range leans to the positive: -(2^(width-1) - 1) to 2^(width-1).
    let fits = |&width: &u32| {
        let half = 1i64 << (width - 1);
        number > -half && number <= half
    };
    write_varbit_at(writer, number as u64, VARBIT_WIDTHS.iter().position(fits));
}

fn write_varbit_at(writer: &mut BitWriter<'_>, number: u64, place: Option<usize>) {
    match place {
        _ if number == 0 => writer.write(0, 1),
        Some(place) => {
            let prefix_bits = place as u32 + 2;
            writer.write((1 << prefix_bits) - 2, prefix_bits);
            writer.write(number, VARBIT_WIDTHS[place]);
        }
        None => {
            writer.write(0xff, 8);
            writer.write(number, 64);
        }
    }
}

/// Ones before the first zero, at most eight.
fn read_varbit_prefix(reader: &mut BitReader<'_>) -> Option<usize> {
    let mut ones = 0;
    while ones < 8 && reader.read_bit()? {
        ones += 1;
    }
    Some(ones)
}

pub(super) fn read_varbit(reader: &mut BitReader<'_>) -> Option<u64> {
    match read_varbit_prefix(reader)? {
        0 => Some(0),
        8 => reader.read(64),
        ones => reader.read(VARBIT_WIDTHS[ones - 1]),
    }
}

pub(super) fn read_varbit_signed(reader: &mut BitReader<'_>) -> Option<i64> {
    match read_varbit_prefix(reader)? {
        0 => Some(0),
        8 => Some(reader.read(64)? as i64),
        ones => {
            let width = VARBIT_WIDTHS[ones - 1];
            let number = reader.read(width)? as i64;
            // The half itself stands for the positive number.
            Some(if number > 1 << (width - 1) { number - (1 << width) } else { number })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varbits_round_trip(number: u64, shift in 0u32..64) {
            let mut bytes = Vec::new();
            let mut writer = BitWriter::new(&mut bytes);
            write_varbit(&mut writer, number >> shift);
            write_varbit_signed(&mut writer, number as i64 >> shift);
            writer.finish();
            let mut reader = BitReader::new(&bytes);
            prop_assert_eq!(read_varbit(&mut reader), Some(number >> shift));
            prop_assert_eq!(read_varbit_signed(&mut reader), Some(number as i64 >> shift));
        }
    }
}
