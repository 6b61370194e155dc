//! Protocol buffers as bytes: a reader that walks fields in place.
//!
//! A message is a sequence of fields, each a *tag* (field number and wire type) and a payload. A
//! [`Reader`] hands out tags and payloads without building objects; whoever knows the message
//! decides by tag and calls [`Reader::skip`] for the rest. A message within a message is a reader
//! of its own, so that lengths are checked once, where they are read. Groups, which protobuf gave
//! up long ago, are refused: nothing here recurses.
//!
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>.

/// What is wrong with the bytes, and where in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub position: usize,
    pub what: &'static str,
}

/// Wire types, the low three bits of a tag.
pub const VARINT: u32 = 0;
pub const FIXED64: u32 = 1;
pub const LENGTH_DELIMITED: u32 = 2;
pub const FIXED32: u32 = 5;

/// A tag as it is on the wire, for `match` arms.
pub const fn tag(field: u32, wire_type: u32) -> u32 {
    field << 3 | wire_type
}

/// Reads fields from the front of a message.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Where `rest` ends in the body.
    end: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which begin at `position` of the body.
    pub fn new(bytes: &'a [u8], position: usize) -> Reader<'a> {
        Reader { rest: bytes, end: position + bytes.len() }
    }

    /// Where in the body the next byte is.
    #[inline(always)]
    pub fn position(&self) -> usize {
        self.end - self.rest.len()
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All bytes that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let error = self.malformed("a number is cut short or has more than 64 bits");
        icecore_storage::encoding::varint::read(&mut self.rest).ok_or(error)
    }

    /// The next field's tag; compare it with [`tag`].
    #[inline(always)]
    pub fn tag(&mut self) -> Result<u32, Malformed> {
        let position = self.position();
        match u32::try_from(self.varint()?) {
            Ok(tag) if tag >> 3 != 0 => Ok(tag),
            _ => Err(Malformed { position, what: "a field number is out of range" }),
        }
    }

    #[inline(always)]
    pub fn fixed64(&mut self) -> Result<u64, Malformed> {
        match self.rest.split_first_chunk::<8>() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(u64::from_le_bytes(*bytes))
            }
            None => Err(self.malformed("a fixed-size number is cut short")),
        }
    }

    pub fn double(&mut self) -> Result<f64, Malformed> {
        self.fixed64().map(f64::from_bits)
    }

    /// A length and as many bytes.
    #[inline(always)]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        match self.rest.split_at_checked(length) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.malformed("a length reaches beyond its message")),
        }
    }

    /// Passes over as many fields of this tag as follow, each shorter than 128 bytes: what a loop
    /// of [`Self::tag`] and [`Self::bytes`] does, for the many labels of a series.
    #[inline(always)]
    pub fn pass_short_fields(&mut self, tag: u32) {
        while let [first, length @ 0..0x80, after @ ..] = self.rest
            && u32::from(*first) == tag
            && let Some(rest) = after.get(usize::from(*length)..)
        {
            self.rest = rest;
        }
    }

    /// A message within this one.
    #[inline(always)]
    pub fn message(&mut self) -> Result<Reader<'a>, Malformed> {
        let bytes = self.bytes()?;
        Ok(Reader { rest: bytes, end: self.position() })
    }

    /// Passes over the payload of a field of which the caller knows nothing.
    ///
    /// `known` are the numbers of the fields that the message has: they come here only with a wire
    /// type that is not theirs, and that is an error.
    pub fn skip(&mut self, tag: u32, known: &[u32]) -> Result<(), Malformed> {
        if known.contains(&(tag >> 3)) {
            return Err(self.malformed("a field is not of its type"));
        }
        match tag & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            LENGTH_DELIMITED => self.bytes().map(drop),
            FIXED32 => {
                let error = self.malformed("a fixed-size number is cut short");
                self.rest = self.rest.get(4..).ok_or(error)?;
                Ok(())
            }
            _ => Err(self.malformed("a group or an unknown wire type")),
        }
    }

    #[inline(always)]
    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { position: self.position(), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_walked_and_positions_named() {
        // 1: varint 300, 2: bytes "ab", 3: fixed32, 4: fixed64, then a cut-short length.
        let bytes = b"\x08\xac\x02\x12\x02ab\x1d\x00\x00\x00\x00\x21\x00\x00\x00\x00\x00\x00\xf0\x3f\x12\x03a";
        let mut reader = Reader::new(bytes, 100);
        assert_eq!(reader.tag().unwrap(), tag(1, VARINT));
        assert_eq!(reader.varint().unwrap(), 300);
        assert_eq!(reader.tag().unwrap(), tag(2, LENGTH_DELIMITED));
        assert_eq!(reader.message().unwrap().position(), 105);
        let third = reader.tag().unwrap();
        reader.skip(third, &[1, 2]).unwrap();
        assert_eq!(reader.tag().unwrap(), tag(4, FIXED64));
        assert_eq!(reader.double().unwrap(), 1.0);
        reader.tag().unwrap();
        assert_eq!(reader.bytes().unwrap_err().position, 100 + 23);
    }

    #[test]
    fn groups_field_zero_and_wrong_types_are_refused() {
        for bytes in [&b"\x00"[..], b"\xff\xff\xff\xff\xff\x01", b""] {
            assert!(Reader::new(bytes, 0).tag().is_err(), "{bytes:?}");
        }
        for wire_type in [3, 4, 6, 7] {
            assert!(Reader::new(&[0; 16], 0).skip(tag(9, wire_type), &[4]).is_err());
        }
        assert!(Reader::new(&[0; 16], 0).skip(tag(4, VARINT), &[4]).is_err());
        assert!(Reader::new(&[0; 16], 0).skip(tag(5, VARINT), &[4]).is_ok());
    }
}
