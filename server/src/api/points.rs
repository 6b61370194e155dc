//! The float points of a matrix: `"values":[[1435781430.781,"0.5"],…]` of one row after the other.
//!
//! They are nearly all of a large answer, and rows of a range query have the same times. So what
//! comes before a value is formatted once for all rows and copied from then on. So is a value that
//! is the same as the one before it.

use std::ops::Range;

use icecore_query::go_format::push_api_float;
use icecore_query::value::MatrixSeries;

use crate::http::json;

/// Openings that are kept, at most: about as many bytes as a chunk of an answer has. Points behind
/// them have their times formatted each.
const OPENINGS_MAX: usize = 2048;

/// Of `[-9223372036854775.808,"`, the longest.
const OPENING_BYTES_MAX: usize = 24;

/// What a point has at most: its opening, a value such as `-2.2250738585072014e-308`, and `"],`.
const POINT_BYTES_MAX: usize = OPENING_BYTES_MAX + 25 + 3;

/// What comes before a point's value: `[1435781430.781,"`.
#[derive(Clone, Copy, Debug)]
struct Opening {
    timestamp: i64,
    bytes: [u8; OPENING_BYTES_MAX],
    length: u8,
}

impl Opening {
    fn new(timestamp: i64) -> Opening {
        let mut text = Vec::with_capacity(OPENING_BYTES_MAX);
        push_opening(&mut text, timestamp);
        let mut bytes = [0; OPENING_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(&text);
        Opening { timestamp, bytes, length: text.len() as u8 }
    }
}

/// Writes float points, of one row after the other.
#[derive(Debug)]
pub(crate) struct FloatPoints {
    /// Of the longest row, by their times; empty if there is only one row.
    openings: Vec<Opening>,
    /// The first opening that is not before the row's next point.
    next: usize,
}

impl FloatPoints {
    pub(crate) fn new(rows: &[MatrixSeries]) -> FloatPoints {
        let longest = rows.iter().max_by_key(|row| row.floats.len());
        let openings = match longest {
            Some(row) if rows.len() > 1 => {
                row.floats.iter().take(OPENINGS_MAX).map(|point| Opening::new(point.0)).collect()
            }
            _ => Vec::new(),
        };
        FloatPoints { openings, next: 0 }
    }

    /// Appends a part of a row's points: times ascend. All parts of a row come before the next row.
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, row: &[(i64, f64)], part: Range<usize>) {
        out.reserve(16 + part.len() * POINT_BYTES_MAX);
        if part.start == 0 {
            self.next = 0;
            out.extend_from_slice(br#","values":["#);
        }
        let mut before: Option<(u64, Range<usize>)> = None;
        for &(timestamp, value) in &row[part.clone()] {
            self.push_opening(out, timestamp);
            let start = out.len();
            match &before {
                Some((bits, text)) if *bits == value.to_bits() => {
                    out.extend_from_within(text.clone());
                }
                _ => {
                    push_api_float(out, value);
                    before = Some((value.to_bits(), start..out.len()));
                }
            }
            out.extend_from_slice(br#""],"#);
        }
        if part.end == row.len()
            && let Some(comma) = out.last_mut()
        {
            *comma = b']';
        }
    }

    fn push_opening(&mut self, out: &mut Vec<u8>, timestamp: i64) {
        while self.openings.get(self.next).is_some_and(|opening| opening.timestamp < timestamp) {
            self.next += 1;
        }
        match self.openings.get(self.next) {
            Some(opening) if opening.timestamp == timestamp => {
                // A copy of a length that is known beforehand is two instructions.
                let end = out.len() + usize::from(opening.length);
                out.extend_from_slice(&opening.bytes);
                out.truncate(end);
            }
            _ => push_opening(out, timestamp),
        }
    }
}

fn push_opening(out: &mut Vec<u8>, timestamp: i64) {
    out.push(b'[');
    json::push_timestamp(out, timestamp);
    out.extend_from_slice(b",\"");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares rows that are written together, in parts, with each point written by itself.
    fn check(rows: &[&[(i64, f64)]]) {
        let matrix: Vec<MatrixSeries> = rows
            .iter()
            .map(|row| MatrixSeries { floats: row.to_vec(), ..MatrixSeries::default() })
            .collect();
        let mut points = FloatPoints::new(&matrix);
        for row in rows {
            let (mut out, mut expected) = (Vec::new(), Vec::new());
            for start in (0..row.len()).step_by(100) {
                points.push(&mut out, row, start..row.len().min(start + 100));
            }
            expected.extend_from_slice(br#","values":"#);
            json::push_list(&mut expected, *row, |out, (timestamp, value)| {
                out.push(b'[');
                json::push_timestamp(out, *timestamp);
                out.push(b',');
                json::push_float(out, *value);
                out.push(b']');
            });
            assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(expected).unwrap());
        }
    }

    #[test]
    fn rows_share_times_or_have_their_own() {
        let grid = |count: i64| -> Vec<(i64, f64)> {
            (0..count).map(|i| (1_435_781_430_781 + i * 15_000, (i / 3) as f64 * 0.1)).collect()
        };
        let full = grid(300);
        let gaps: Vec<_> = full.iter().copied().filter(|(time, _)| time % 7 != 0).collect();
        let others: Vec<_> = full.iter().map(|(time, value)| (time + 250, *value)).collect();
        let early = [(-61_050, -0.0), (0, 0.0), (1, f64::NAN), (2, f64::NAN), (3, f64::INFINITY)];
        check(&[&full, &gaps, &others, &early, &full]);
        check(&[&full]);
        let long = grid(OPENINGS_MAX as i64 + 500);
        check(&[&long[500..], &long, &long[..3]]);
    }

    #[test]
    fn the_longest_point_has_room() {
        for point in [(i64::MIN, -f64::MIN_POSITIVE), (i64::MIN, -1.234_567_890_123_456_7e-6)] {
            let mut out = Vec::new();
            FloatPoints::new(&[]).push(&mut out, &[point], 0..1);
            let point = out.len() - br#","values":["#.len();
            assert!(point <= POINT_BYTES_MAX, "{point}");
            check(&[&[(i64::MIN, 1.0)], &[(i64::MIN, 2.0)]]);
        }
    }
}
