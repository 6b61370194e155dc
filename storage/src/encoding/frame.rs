//! A frame around a section: how long it is, and a checksum over it.
//!
//! `frame = length u32 | crc32 u32 | payload`, little-endian; the checksum (CRC-32 as in zlib) is
//! of the payload. Nothing of a payload is believed before its checksum is right, and one wrong
//! byte anywhere in a frame is noticed: in the payload or the checksum by the checksum, in the
//! length by the bytes that it then covers. Layout: docs/format.md, "Frames".

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 8;

/// Why bytes are not a frame. `offset` counts from the start of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame at {offset} needs {needed} bytes and {left} are left")]
    Truncated { offset: usize, needed: usize, left: usize },
    #[error("frame at {offset} has checksum {found:08x} and says {expected:08x}")]
    Checksum { offset: usize, expected: u32, found: u32 },
}

/// Appends a frame around `payload`, which must be below 4 GiB.
pub fn write(payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a section is below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The payload of the frame at `offset`, which moves behind it.
pub fn read<'a>(bytes: &'a [u8], offset: &mut usize) -> Result<&'a [u8], FrameError> {
    let start = *offset;
    let rest = bytes.get(start..).unwrap_or_default();
    let truncated = |needed| FrameError::Truncated { offset: start, needed, left: rest.len() };
    let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
        return Err(truncated(HEADER_BYTES));
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let expected = u32::from_le_bytes([c0, c1, c2, c3]);
    let payload = rest.get(..length).ok_or_else(|| truncated(HEADER_BYTES + length))?;
    let found = crc32fast::hash(payload);
    if found != expected {
        return Err(FrameError::Checksum { offset: start, expected, found });
    }
    *offset = start + HEADER_BYTES + length;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::decimal;

    #[test]
    fn frames_follow_each_other() {
        let mut bytes = Vec::new();
        write(b"one", &mut bytes);
        write(b"", &mut bytes);
        let mut offset = 0;
        assert_eq!(read(&bytes, &mut offset), Ok(&b"one"[..]));
        assert_eq!(read(&bytes, &mut offset), Ok(&b""[..]));
        assert_eq!(offset, bytes.len());
        let end = FrameError::Truncated { offset, needed: HEADER_BYTES, left: 0 };
        assert_eq!(read(&bytes, &mut offset), Err(end));
    }

    #[test]
    fn one_flipped_bit_of_a_column_is_noticed() {
        let values: Vec<f64> = (0..480).map(|row| f64::from(row * row % 977) / 10.0).collect();
        let mut column = Vec::new();
        decimal::encode(&values, &mut column);
        let mut bytes = Vec::new();
        write(&column, &mut bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes, &mut 0).is_err(), "byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
        assert_eq!(read(&bytes, &mut 0), Ok(&column[..]));
    }
}
