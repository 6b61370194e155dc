//! Reading numbers and texts from front to back, each checked against what is left.

use icecore_storage::encoding::varint;

use super::Damage;

/// A place in some bytes of a file.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    /// Where in the file `rest` begins.
    offset: u64,
}

impl<'a> Cursor<'a> {
    /// Over `bytes`, which begin at `offset` of their file.
    pub(super) fn new(bytes: &'a [u8], offset: u64) -> Cursor<'a> {
        Cursor { rest: bytes, offset }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn damage(&self, what: impl Into<String>) -> Damage {
        Damage::new(self.offset, what)
    }

    pub(super) fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], Damage> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            let left = self.rest.len();
            return Err(self.damage(format!("{what} takes {length} bytes, {left} are left")));
        };
        self.rest = rest;
        self.offset += length as u64;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Damage> {
        Ok(self.take(N, what)?.try_into().expect("as many as asked for"))
    }

    pub(super) fn byte(&mut self, what: &str) -> Result<u8, Damage> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn be16(&mut self, what: &str) -> Result<u16, Damage> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    pub(super) fn be32(&mut self, what: &str) -> Result<u32, Damage> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn be64(&mut self, what: &str) -> Result<u64, Damage> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    pub(super) fn float(&mut self, what: &str) -> Result<f64, Damage> {
        Ok(f64::from_bits(self.be64(what)?))
    }

    pub(super) fn varint(&mut self, what: &str) -> Result<u64, Damage> {
        let mut rest = self.rest;
        let number = varint::read(&mut rest);
        let number = number.ok_or_else(|| self.damage(format!("{what} is not a varint")))?;
        self.offset += (self.rest.len() - rest.len()) as u64;
        self.rest = rest;
        Ok(number)
    }

    pub(super) fn signed(&mut self, what: &str) -> Result<i64, Damage> {
        self.varint(what).map(varint::unzigzag)
    }

    /// How many things follow, each of which takes at least so many bytes.
    pub(super) fn count(&mut self, bytes_each: usize, what: &str) -> Result<usize, Damage> {
        let at = self.offset;
        let count = self.varint(what)?;
        let most = self.rest.len() / bytes_each;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(Damage::new(at, format!("{what} is {count}, there is room for {most}"))),
        }
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self, what: &str) -> Result<&'a [u8], Damage> {
        let length = self.count(1, what)?;
        self.take(length, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_compared_with_what_there_is() {
        let mut cursor = Cursor::new(&[0x05, b'a', b'b'], 100);
        let error = cursor.bytes("name").unwrap_err();
        assert_eq!(error, Damage::new(100, "name is 5, there is room for 2"));
        let mut cursor = Cursor::new(&[0x02, b'a', b'b', 0xff], 100);
        assert_eq!(cursor.bytes("name").unwrap(), b"ab");
        assert_eq!(cursor.varint("count").unwrap_err(), Damage::new(103, "count is not a varint"));
        let what = "time takes 8 bytes, 1 are left";
        assert_eq!(cursor.be64("time").unwrap_err(), Damage::new(103, what));
    }
}
