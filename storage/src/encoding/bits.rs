//! Bits in bytes: packed columns of equal width, and streams of odd ones.
//!
//! *Packing* stores unsigned integers of one width, 0 to 64 bits, back to back, the first in the
//! lowest bits of the first byte: the column codecs' inner loop. It works on groups of eight, which
//! fill whole bytes at any width, so that unpacking is a straight line of loads, shifts and masks
//! with every offset known at compile time, and never reads past its group.
//!
//! A *bit stream* ([`BitWriter`], [`BitReader`]) is filled from the highest bit of each byte down,
//! as Gorilla and Prometheus's chunks are. The last byte is padded with zeros.

/// Bytes that `count` numbers of `width` bits take.
pub fn packed_length(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Appends the lowest `width` bits of every value; higher bits are dropped.
pub fn pack(values: &[u64], width: u32, out: &mut Vec<u8>) {
    assert!(width <= 64, "a number has at most 64 bits");
    if width == 0 {
        return;
    }
    out.reserve(packed_length(values.len(), width) + 8);
    let mask = u64::MAX >> (64 - width);
    let mut word = 0u64;
    let mut filled = 0u32;
    for &value in values {
        let value = value & mask;
        word |= value << filled;
        filled += width;
        if filled >= 64 {
            out.extend_from_slice(&word.to_le_bytes());
            filled -= 64;
            // What is left of `value`: its highest `filled` bits, none if it ended on the edge.
            word = if filled == 0 { 0 } else { value >> (width - filled) };
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// Fills `values` from the front of `bytes` and advances past them; `None` if they are too short.
/// Numbers of 64 bits come as their bits.
pub fn unpack(bytes: &mut &[u8], width: u32, values: &mut [i64]) -> Option<()> {
    if width == 0 {
        values.fill(0);
        return Some(());
    }
    let (packed, rest) = bytes.split_at_checked(packed_length(values.len(), width))?;
    let groups = UNPACK.get(width as usize - 1)?;
    let whole = values.len() / 8 * 8;
    let (packed, tail) = packed.split_at(whole / 8 * width as usize);
    groups(packed, &mut values[..whole]);
    if !tail.is_empty() {
        let mut padded = [0u8; 64];
        padded[..tail.len()].copy_from_slice(tail);
        let mut last = [0i64; 8];
        groups(&padded[..width as usize], &mut last);
        let left = values.len() - whole;
        values[whole..].copy_from_slice(&last[..left]);
    }
    *bytes = rest;
    Some(())
}

type UnpackGroups = fn(&[u8], &mut [i64]);

macro_rules! unpack_table {
    ($($width:literal)*) => { [$(unpack_groups::<$width>),*] };
}

/// By width less one.
static UNPACK: [UnpackGroups; 64] = unpack_table!(
    1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
    33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64
);

fn unpack_groups<const WIDTH: usize>(bytes: &[u8], values: &mut [i64]) {
    #[cfg(target_arch = "x86_64")]
    {
        /// With vectors of four numbers that are each shifted by another distance: half the
        /// instructions for numbers of few bits.
        #[target_feature(enable = "avx2")]
        fn with_avx2<const WIDTH: usize>(bytes: &[u8], values: &mut [i64]) {
            unpack_each::<WIDTH>(bytes, values);
        }

        if WIDTH < 8 && std::arch::is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "what the processor has is known when it runs")]
            // SAFETY: AVX2 is all that the function asks of the processor, which has it.
            return unsafe { with_avx2::<WIDTH>(bytes, values) };
        }
    }
    unpack_each::<WIDTH>(bytes, values);
}

#[inline(always)]
fn unpack_each<const WIDTH: usize>(bytes: &[u8], values: &mut [i64]) {
    let (groups, _) = bytes.as_chunks::<WIDTH>();
    let (eights, _) = values.as_chunks_mut::<8>();
    for (group, eight) in groups.iter().zip(eights) {
        unpack_group(group, eight);
    }
}

/// Eight values out of `WIDTH` bytes. All indices are constants once unrolled.
#[inline(always)]
fn unpack_group<const WIDTH: usize>(group: &[u8; WIDTH], eight: &mut [i64; 8]) {
    let mask = u64::MAX >> (64 - WIDTH);
    if WIDTH < 8 {
        let mut word = [0u8; 8];
        word[..WIDTH].copy_from_slice(group);
        let word = u64::from_le_bytes(word);
        for (k, value) in eight.iter_mut().enumerate() {
            *value = ((word >> (k * WIDTH)) & mask) as i64;
        }
        return;
    }
    let load = |at: usize| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&group[at..at + 8]);
        u64::from_le_bytes(word)
    };
    for (k, value) in eight.iter_mut().enumerate() {
        let first_bit = k * WIDTH;
        // The load is moved back where it would leave the group.
        let at = (first_bit / 8).min(WIDTH - 8);
        let shift = first_bit - at * 8;
        let bits = if shift + WIDTH <= 64 {
            load(at) >> shift
        } else {
            // Nine bytes: only widths above 57.
            load(at) >> shift | u64::from(group[at + 8]) << (64 - shift)
        };
        *value = (bits & mask) as i64;
    }
}

/// Appends bits to `out`, highest first.
#[derive(Debug)]
pub struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Bits not yet in `out`, from the highest down; below 64 of them.
    word: u64,
    filled: u32,
}

impl<'a> BitWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> BitWriter<'a> {
        BitWriter { out, word: 0, filled: 0 }
    }

    pub fn write_bit(&mut self, bit: bool) {
        self.write(u64::from(bit), 1);
    }

    /// Appends the lowest `count` bits of `value`, 0 to 64.
    #[inline]
    pub fn write(&mut self, value: u64, count: u32) {
        if count == 0 {
            return;
        }
        let value = value << (64 - count);
        self.word |= value >> self.filled;
        self.filled += count;
        if self.filled >= 64 {
            self.out.extend_from_slice(&self.word.to_be_bytes());
            self.filled -= 64;
            let written = count - self.filled;
            self.word = if written == 64 { 0 } else { value << written };
        }
    }

    /// Writes what is left and pads the last byte with zeros.
    pub fn finish(self) {
        self.out.extend_from_slice(&self.word.to_be_bytes()[..self.filled.div_ceil(8) as usize]);
    }
}

/// Takes bits from the front of bytes, highest first. `None` is the end of the bytes.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    rest: &'a [u8],
    /// The next bits from the highest down. Below `available` may lie bits of `rest`, never others.
    word: u64,
    available: u32,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { rest: bytes, word: 0, available: 0 }
    }

    /// Makes 56 bits or more available, or all that are left.
    #[inline]
    fn refill(&mut self) {
        if let Some((word, _)) = self.rest.split_first_chunk::<8>() {
            self.word |= u64::from_be_bytes(*word) >> self.available;
            let bytes = (63 - self.available) / 8;
            self.rest = &self.rest[bytes as usize..];
            self.available += bytes * 8;
        } else {
            while self.available <= 56
                && let Some((&byte, rest)) = self.rest.split_first()
            {
                self.word |= u64::from(byte) << (56 - self.available);
                self.rest = rest;
                self.available += 8;
            }
        }
    }

    #[inline]
    pub fn read_bit(&mut self) -> Option<bool> {
        if self.available == 0 {
            self.refill();
            if self.available == 0 {
                return None;
            }
        }
        let bit = self.word >> 63 == 1;
        self.word <<= 1;
        self.available -= 1;
        Some(bit)
    }

    /// The next `count` bits, 0 to 64, as a number.
    #[inline]
    pub fn read(&mut self, count: u32) -> Option<u64> {
        if count > 56 {
            // More than a refill promises.
            let high = self.read(count - 32)?;
            return Some(high << 32 | self.read(32)?);
        }
        if count == 0 {
            return Some(0);
        }
        if self.available < count {
            self.refill();
            if self.available < count {
                return None;
            }
        }
        let bits = self.word >> (64 - count);
        self.word <<= count;
        self.available -= count;
        Some(bits)
    }

    /// Whether what is left is padding, at most a byte more than needed: Prometheus before 3.0 put
    /// an empty byte at the end of streams that end on a byte.
    pub fn is_at_padding_or_empty_byte(&self) -> bool {
        let bits = self.available as usize + self.rest.len() * 8;
        bits < 16 && self.word == 0 && self.rest.iter().all(|byte| *byte == 0)
    }

    /// Whether all that is left is the padding of the last byte: below 8 bits, all zero.
    pub fn is_at_padding(&self) -> bool {
        self.rest.is_empty() && self.available < 8 && self.word == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_width_round_trips_at_every_length() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed ^ seed >> 29
        };
        for width in 0..=64u32 {
            let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
            for length in [0usize, 1, 7, 8, 9, 63, 64, 65, 127, 128] {
                let values: Vec<u64> = (0..length).map(|_| random()).collect();
                let mut bytes = Vec::new();
                pack(&values, width, &mut bytes);
                assert_eq!(bytes.len(), packed_length(length, width));
                let mut rest = &bytes[..];
                let mut back = vec![7; length];
                unpack(&mut rest, width, &mut back).unwrap();
                assert!(rest.is_empty());
                let expected: Vec<i64> = values.iter().map(|value| (value & mask) as i64).collect();
                assert_eq!(back, expected, "width {width} length {length}");
                if !bytes.is_empty() {
                    let mut short = &bytes[..bytes.len() - 1];
                    assert_eq!(unpack(&mut short, width, &mut back), None);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn streams_round_trip(items: Vec<(u64, u8)>) {
            let items: Vec<(u64, u32)> =
                items.iter().map(|&(value, count)| (value, u32::from(count) % 65)).collect();
            let mut bytes = Vec::new();
            let mut writer = BitWriter::new(&mut bytes);
            items.iter().for_each(|&(value, count)| writer.write(value, count));
            writer.finish();
            let bits: u32 = items.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(bytes.len(), bits.div_ceil(8) as usize);
            let mut reader = BitReader::new(&bytes);
            for &(value, count) in &items {
                let mask = if count == 0 { 0 } else { u64::MAX >> (64 - count) };
                prop_assert_eq!(reader.read(count), Some(value & mask));
            }
            prop_assert!(reader.is_at_padding());
            prop_assert_eq!(reader.read(8), None);
        }
    }

    #[test]
    fn streams_start_at_the_highest_bit() {
        let mut bytes = Vec::new();
        let mut writer = BitWriter::new(&mut bytes);
        writer.write_bit(true);
        writer.write(0b01, 2);
        writer.finish();
        assert_eq!(bytes, [0b1010_0000]);
        let mut reader = BitReader::new(&bytes);
        assert_eq!(reader.read_bit(), Some(true));
    }
}
