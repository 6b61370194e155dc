//! LEB128 varints, zigzag for signed numbers, and byte strings and counts on top of them.
//!
//! Readers take `&mut &[u8]` and advance it; `None` means that the bytes end too early or that a
//! number has more than 64 bits.

pub fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn write_signed(out: &mut Vec<u8>, value: i64) {
    write(out, zigzag(value));
}

/// Bytes that [`write`] appends.
pub fn length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

#[inline]
pub fn read(bytes: &mut &[u8]) -> Option<u64> {
    match **bytes {
        // Most numbers are small.
        [byte, ref rest @ ..] if byte < 0x80 => {
            *bytes = rest;
            Some(u64::from(byte))
        }
        [low, high, ref rest @ ..] if high < 0x80 => {
            *bytes = rest;
            Some(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => read_long(bytes),
    }
}

fn read_long(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

pub fn read_signed(bytes: &mut &[u8]) -> Option<i64> {
    read(bytes).map(unzigzag)
}

pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Bytes behind their length.
#[inline]
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 1);
    match u8::try_from(bytes.len()) {
        // Most are short.
        Ok(length @ ..0x80) => out.push(length),
        _ => write(out, bytes.len() as u64),
    }
    out.extend_from_slice(bytes);
}

/// What [`write_bytes`] wrote; bounded by what there is.
pub fn read_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read(rest)?).ok()?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

/// A count of things that take at least `bytes_each`; bounds what is allocated for them.
pub fn read_count(rest: &mut &[u8], bytes_each: usize) -> Option<usize> {
    let count = usize::try_from(read(rest)?).ok()?;
    (count <= rest.len() / bytes_each).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(value: u64, signed: i64) {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            prop_assert_eq!(bytes.len(), length(value));
            write_signed(&mut bytes, signed);
            let mut rest = &bytes[..];
            prop_assert_eq!(read(&mut rest), Some(value));
            prop_assert_eq!(read_signed(&mut rest), Some(signed));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>) {
            read(&mut &bytes[..]);
        }
    }

    #[test]
    fn more_than_64_bits_are_refused() {
        assert_eq!(read(&mut &[0xff; 10][..]), None);
        assert_eq!(read(&mut &[0x80][..]), None);
    }
}
