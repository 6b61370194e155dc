//! The labels of up to 256 successive series, by columns.
//!
//! A column is a label name; in it each series has a **code**, a number that stands for its value,
//! or 0 where it has no such label. Successive series share most of their labels, so a column is
//! one code, a few runs of codes, or packed bits, and any series of it can be read alone:
//!
//! ```text
//! varint    columns
//! column    varint   name, less the name of the column before and 1
//!           u8       width of a packed number in bits, 0 to 32; plus 128 if in runs
//!           varint   least code
//!           [runs]   u8 runs − 1, then for each run its last row, u8
//!           bits     for each run or row: code − least code, lowest bits first; whole bytes
//! ```
//!
//! The frame around a group, its length and checksum, belongs to whoever stores it.

use crate::encoding::varint;

/// Series in every group but the last.
pub(super) const GROUP_ROWS: usize = 256;

const IN_RUNS: u8 = 0x80;

/// One column before it is packed: a code for each row.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub(super) name: u32,
    pub(super) codes: Vec<u32>,
}

/// Appends the columns, which must be in ascending order of their names, have as many codes each
/// as there are rows, and at least one that is not 0.
pub(super) fn encode<'a>(columns: impl ExactSizeIterator<Item = &'a Codes>, out: &mut Vec<u8>) {
    varint::write(out, columns.len() as u64);
    let mut next_name = 0;
    for column in columns {
        varint::write(out, u64::from(column.name - next_name));
        next_name = column.name + 1;
        encode_column(&column.codes, out);
    }
}

fn encode_column(codes: &[u32], out: &mut Vec<u8>) {
    let least = codes.iter().copied().min().unwrap_or(0);
    let greatest = codes.iter().copied().max().unwrap_or(0);
    let width = u32::BITS - (greatest - least).leading_zeros();
    let runs = codes.chunk_by(|a, b| a == b);
    let run_count = runs.clone().count();
    let as_runs = 1 + run_count + packed_bytes(run_count, width);
    if as_runs >= packed_bytes(codes.len(), width) {
        out.push(width as u8);
        varint::write(out, u64::from(least));
        pack(codes.iter().map(|code| code - least), width, out);
        return;
    }
    out.push(width as u8 | IN_RUNS);
    varint::write(out, u64::from(least));
    out.push((run_count - 1) as u8);
    let mut row = 0;
    for run in runs.clone() {
        row += run.len();
        out.push((row - 1) as u8);
    }
    pack(runs.map(|run| run[0] - least), width, out);
}

fn packed_bytes(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

fn pack(numbers: impl Iterator<Item = u32>, width: u32, out: &mut Vec<u8>) {
    let (mut word, mut bits) = (0u64, 0);
    for number in numbers {
        word |= u64::from(number) << bits;
        bits += width;
        while bits >= 8 {
            out.push(word as u8);
            word >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(word as u8);
    }
}

/// A column that is read in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column<'a> {
    pub(super) name: u32,
    width: u32,
    least: u32,
    /// Last rows of the runs; empty if there is a number for each row.
    runs: &'a [u8],
    packed: &'a [u8],
}

/// Finds the columns of a group of `rows` rows into `columns`, which is cleared; `None` if the
/// bytes are no such group.
pub(super) fn decode<'a>(
    mut bytes: &'a [u8],
    rows: usize,
    columns: &mut Vec<Column<'a>>,
) -> Option<()> {
    columns.clear();
    let count = varint::read(&mut bytes)?;
    let mut next_name = 0u32;
    for _ in 0..count {
        let name = next_name.checked_add(u32::try_from(varint::read(&mut bytes)?).ok()?)?;
        next_name = name.checked_add(1)?;
        columns.push(decode_column(&mut bytes, name, rows)?);
    }
    bytes.is_empty().then_some(())
}

fn decode_column<'a>(bytes: &mut &'a [u8], name: u32, rows: usize) -> Option<Column<'a>> {
    let form = take(bytes, 1)?[0];
    let width = u32::from(form & !IN_RUNS);
    let least = u32::try_from(varint::read(bytes)?).ok()?;
    let (runs, count) = match form & IN_RUNS {
        0 => (&[][..], rows),
        _ => {
            let count = usize::from(take(bytes, 1)?[0]) + 1;
            (take(bytes, count)?, count)
        }
    };
    if width > u32::BITS {
        return None;
    }
    let packed = take(bytes, packed_bytes(count, width))?;
    Some(Column { name, width, least, runs, packed })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

impl Column<'_> {
    /// The code of a row of the group; `None` if the column's bytes have none for it.
    #[cfg(test)]
    fn code(&self, row: usize) -> Option<u32> {
        self.run(row, &mut 0).map(|(code, _)| code)
    }

    /// The code of a row, and the row behind those after it that have the same code for certain.
    /// `at` is 0 at first and then what the call for an earlier row left: rows are asked for in
    /// ascending order.
    pub(super) fn run(&self, row: usize, at: &mut usize) -> Option<(u32, usize)> {
        if self.width == 0 {
            return Some((self.least, usize::MAX));
        }
        let (index, end) = match self.runs {
            [] => (row, row + 1),
            runs => {
                *at += runs.get(*at..)?.iter().position(|last| usize::from(*last) >= row)?;
                (*at, usize::from(runs[*at]) + 1)
            }
        };
        Some((self.packed_code(index)?, end))
    }

    fn packed_code(&self, index: usize) -> Option<u32> {
        let bit = index * self.width as usize;
        let bytes = self.packed.get(bit / 8..)?;
        let word = match bytes.first_chunk::<8>() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => {
                let mut padded = [0; 8];
                padded[..bytes.len()].copy_from_slice(bytes);
                if bit + self.width as usize > self.packed.len() * 8 {
                    return None;
                }
                u64::from_le_bytes(padded)
            }
        };
        let mask = (1u64 << self.width) - 1;
        // The sum of what was packed here is a u32; of other bytes, it may be none.
        u32::try_from(u64::from(self.least) + ((word >> (bit % 8)) & mask)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(columns: &[Codes], rows: usize) -> usize {
        let mut bytes = Vec::new();
        encode(columns.iter(), &mut bytes);
        let mut decoded = Vec::new();
        decode(&bytes, rows, &mut decoded).unwrap();
        assert_eq!(decoded.len(), columns.len());
        for (got, want) in decoded.iter().zip(columns) {
            assert_eq!(got.name, want.name);
            let codes: Vec<u32> = (0..rows).map(|row| got.code(row).unwrap()).collect();
            assert_eq!(codes, want.codes);
            for step in [1, 3, 50] {
                let mut at = 0;
                let rows = (0..rows).step_by(step);
                let codes = rows.clone().map(|row| got.run(row, &mut at).unwrap().0);
                assert!(codes.eq(rows.map(|row| want.codes[row])));
            }
        }
        bytes.len()
    }

    #[test]
    fn each_form_is_as_short_as_it_should_be() {
        let column = |codes: Vec<u32>| [Codes { name: 3, codes }];
        assert_eq!(check(&column(vec![7; 256]), 256), 1 + 1 + 2);
        let two_runs = [[70_000; 200].as_slice(), &[70_001; 56]].concat();
        assert_eq!(check(&column(two_runs), 256), 1 + 1 + 1 + 3 + 1 + 2 + 1);
        assert_eq!(check(&column((1000..1256).collect()), 256), 1 + 1 + 1 + 2 + 256);
        assert_eq!(check(&column(vec![0, u32::MAX, 1]), 3), 1 + 1 + 1 + 1 + 12);
    }

    proptest! {
        #[test]
        fn round_trip(
            shapes in prop::collection::vec((0u32..5, 1u32.., 1usize..300), 0..6),
            rows in 1usize..=256,
            seed: u32,
        ) {
            let mut name = 0;
            let columns: Vec<Codes> = shapes
                .iter()
                .map(|(gap, bound, run)| {
                    name += gap + 1;
                    let code = |row: usize| {
                        let step = (row / run) as u32;
                        step.wrapping_mul(2_654_435_761).wrapping_add(seed) % bound
                    };
                    Codes { name, codes: (0..rows).map(code).collect() }
                })
                .collect();
            check(&columns, rows);
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>, rows in 1usize..=256) {
            let mut columns = Vec::new();
            if decode(&bytes, rows, &mut columns).is_some() {
                let sum = |column: &Column<'_>| (0..rows).filter_map(|row| column.code(row)).count();
                columns.iter().map(sum).for_each(|codes| assert!(codes <= rows));
            }
        }
    }
}
