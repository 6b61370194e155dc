//! The dictionary of a sealed index: all label pairs in order, with where their postings are.
//!
//! ```text
//! names      for each name in order: varint length, text; varint values; its series' postings
//! blocks     of 16 successive values of one name, the last of a name with fewer:
//!              varint   place in the postings section of the block's first list there
//!              value    varint bytes shared with the value before in the block
//!                       varint further bytes, these bytes
//!                       its postings
//!              u32      crc32 of the block up to here
//! directory  for each block the place of its end, u32
//! postings   varint length; up to 16 bytes then follow at once, longer lists lie in the postings
//!            section, one behind the other, each with a crc32. (Behind a name: varint place.)
//! ```
//!
//! A pair's number is its rank in this order; numbers of a name start where those of the name
//! before end. Front coding lost nothing to an `fst`: it is as small as a part of the index, turns
//! a number back into text without a search, scans values several times faster, and cannot be led
//! astray by foreign bytes.

use std::ops::Range;

use bytes::Bytes;

use super::Damage;
use crate::encoding::varint;

/// Values in a block: a search decodes half of them, on average.
const BLOCK_VALUES: u32 = 16;

/// Postings of up to this many bytes are kept beside their value.
const INLINE_BYTES: usize = 16;

pub(super) const CRC_BYTES: usize = 4;

/// Where the postings of a pair or a name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredPostings {
    Inline {
        bytes: [u8; INLINE_BYTES],
        length: u8,
    },
    /// In the postings section, with a checksum behind them.
    Section {
        start: u64,
        length: u64,
    },
}

/// Writes names and values in order; what is written is given by its fields.
#[derive(Debug, Default)]
pub(super) struct DictionaryWriter {
    pub(super) names: Vec<u8>,
    pub(super) blocks: Vec<u8>,
    pub(super) directory: Vec<u8>,
    pub(super) postings: Vec<u8>,
    block: Vec<u8>,
    block_values: u32,
    previous: Vec<u8>,
}

impl DictionaryWriter {
    /// Begins the next name, of which that many values follow; `series` are the packed postings
    /// of those that have the label.
    pub(super) fn begin_name(&mut self, text: &str, values: u32, series: &[u8]) {
        self.end_block();
        varint::write(&mut self.names, text.len() as u64);
        self.names.extend_from_slice(text.as_bytes());
        varint::write(&mut self.names, u64::from(values));
        varint::write(&mut self.names, series.len() as u64);
        if series.len() <= INLINE_BYTES {
            self.names.extend_from_slice(series);
        } else {
            varint::write(&mut self.names, self.postings.len() as u64);
            push_with_crc(series, &mut self.postings);
        }
    }

    /// Adds the next value of the name begun last.
    pub(super) fn add_value(&mut self, text: &str, postings: &[u8]) {
        if self.block_values == BLOCK_VALUES {
            self.end_block();
        }
        if self.block_values == 0 {
            varint::write(&mut self.block, self.postings.len() as u64);
            self.previous.clear();
        }
        let text = text.as_bytes();
        let shared = self.previous.iter().zip(text).take_while(|(a, b)| a == b).count();
        varint::write(&mut self.block, shared as u64);
        varint::write(&mut self.block, (text.len() - shared) as u64);
        self.block.extend_from_slice(&text[shared..]);
        varint::write(&mut self.block, postings.len() as u64);
        if postings.len() <= INLINE_BYTES {
            self.block.extend_from_slice(postings);
        } else {
            push_with_crc(postings, &mut self.postings);
        }
        self.previous.truncate(shared);
        self.previous.extend_from_slice(&text[shared..]);
        self.block_values += 1;
    }

    /// Ends the block begun; to be called after the last value.
    pub(super) fn end_block(&mut self) {
        if self.block_values == 0 {
            return;
        }
        push_with_crc(&self.block, &mut self.blocks);
        let end = u32::try_from(self.blocks.len()).expect("a dictionary is smaller than 4 GiB");
        self.directory.extend_from_slice(&end.to_le_bytes());
        self.block.clear();
        self.block_values = 0;
    }
}

pub(super) fn push_with_crc(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(bytes);
    out.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
}

/// The bytes before a checksum that is right for them.
pub(super) fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    (crc32fast::hash(body) == u32::from_le_bytes(*crc)).then_some(body)
}

/// The `index`-th piece of `bytes`, of which a directory gives the ends.
pub(super) fn piece(directory: &[u8], index: usize, bytes: usize) -> Option<Range<usize>> {
    let end_of = |index: usize| {
        let (ends, _) = directory.as_chunks::<4>();
        ends.get(index).map(|end| u32::from_le_bytes(*end) as usize)
    };
    let start = match index {
        0 => 0,
        _ => end_of(index - 1)?,
    };
    let end = end_of(index)?;
    (start <= end && end <= bytes).then_some(start..end)
}

/// A label name.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) text: Box<str>,
    /// The number of its first pair.
    pub(super) first_pair: u32,
    /// How many values it has, at least one.
    pub(super) values: u32,
    /// The series that have the label.
    pub(super) series: StoredPostings,
    first_block: u32,
}

/// Reads what [`DictionaryWriter`] wrote.
#[derive(Debug)]
pub(super) struct Dictionary {
    names: Vec<Name>,
    directory: Bytes,
    blocks: Bytes,
    /// Where the blocks are, to say where damage is.
    blocks_offset: u64,
}

impl Dictionary {
    /// Reads all names. The checksums of `names` and `directory` have been checked; those of the
    /// blocks are whenever one is read.
    pub(super) fn open(
        names: &[u8],
        pairs: u32,
        directory: Bytes,
        blocks: Bytes,
        blocks_offset: u64,
    ) -> Option<Dictionary> {
        let mut rest = names;
        let mut read: Vec<Name> = Vec::new();
        let (mut first_pair, mut first_block) = (0u32, 0u32);
        while !rest.is_empty() {
            let name = read_name(&mut rest, first_pair, first_block)?;
            let ordered = read.last().is_none_or(|previous| previous.text < name.text);
            if !ordered || name.text.is_empty() || name.values == 0 {
                return None;
            }
            first_pair = first_pair.checked_add(name.values)?;
            first_block += name.values.div_ceil(BLOCK_VALUES);
            read.push(name);
        }
        let fits = first_pair == pairs && first_block as usize == directory.len() / 4;
        fits.then_some(Dictionary { names: read, directory, blocks, blocks_offset })
    }

    pub(super) fn names(&self) -> &[Name] {
        &self.names
    }

    pub(super) fn name(&self, text: &str) -> Option<&Name> {
        let index = self.names.binary_search_by(|name| (*name.text).cmp(text)).ok()?;
        Some(&self.names[index])
    }

    /// Where a value's postings are.
    pub(super) fn find(&self, name: &Name, value: &str) -> Result<Option<StoredPostings>, Damage> {
        let mut block = self.block(name, self.block_of(name, value)?)?;
        while let Some(postings) = block.next()? {
            if block.text == value.as_bytes() {
                return Ok(Some(postings));
            }
        }
        Ok(None)
    }

    /// Appends the text of a name's value, given by its place among them.
    pub(super) fn value(&self, name: &Name, index: u32, into: &mut Vec<u8>) -> Result<(), Damage> {
        let mut block = self.block(name, index / BLOCK_VALUES)?;
        for _ in 0..=index % BLOCK_VALUES {
            if block.next()?.is_none() {
                return Err(block.damage("a value is missing"));
            }
        }
        into.extend_from_slice(block.text()?.as_bytes());
        Ok(())
    }

    /// The values of a name, in order.
    pub(super) fn values<'a>(&'a self, name: &'a Name) -> Values<'a> {
        Values { dictionary: self, name, next_block: 0, block: None }
    }

    /// Visits the values of a name that start with `prefix`, in order.
    pub(super) fn scan(
        &self,
        name: &Name,
        prefix: &str,
        mut visit: impl FnMut(&str, StoredPostings) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        for index in self.block_of(name, prefix)?..name.values.div_ceil(BLOCK_VALUES) {
            let mut block = self.block(name, index)?;
            while let Some(postings) = block.next()? {
                if prefix.is_empty() || block.text.starts_with(prefix.as_bytes()) {
                    visit(block.text()?, postings)?;
                } else if block.text.as_slice() > prefix.as_bytes() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The last of a name's blocks that does not start after `value`; the first, if all do.
    fn block_of(&self, name: &Name, value: &str) -> Result<u32, Damage> {
        let (mut low, mut high) = (0, name.values.div_ceil(BLOCK_VALUES));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let mut block = self.block(name, middle)?;
            block.next()?;
            if block.text.as_slice() <= value.as_bytes() {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn block(&self, name: &Name, index: u32) -> Result<Block<'_>, Damage> {
        let place = piece(&self.directory, (name.first_block + index) as usize, self.blocks.len());
        let offset = self.blocks_offset + place.as_ref().map_or(0, |place| place.start as u64);
        let damage = |what| Damage { offset, what };
        let place = place.ok_or(damage("a dictionary block reaches outside"))?;
        let bytes = checked(&self.blocks[place])
            .ok_or(damage("a dictionary block has a wrong checksum"))?;
        let left = (name.values - index * BLOCK_VALUES).min(BLOCK_VALUES);
        let mut block = Block { rest: bytes, left, text: Vec::new(), postings_at: 0, offset };
        block.postings_at = block.number()?;
        Ok(block)
    }
}

/// The values of a name, one after the other.
pub(super) struct Values<'a> {
    dictionary: &'a Dictionary,
    name: &'a Name,
    next_block: u32,
    block: Option<Block<'a>>,
}

impl Values<'_> {
    pub(super) fn next(&mut self) -> Result<Option<(&str, StoredPostings)>, Damage> {
        loop {
            let found = match &mut self.block {
                Some(block) => block.next()?,
                None => None,
            };
            if let Some(postings) = found {
                let block = self.block.as_ref().expect("it gave this value");
                return Ok(Some((block.text()?, postings)));
            }
            if self.next_block == self.name.values.div_ceil(BLOCK_VALUES) {
                return Ok(None);
            }
            self.block = Some(self.dictionary.block(self.name, self.next_block)?);
            self.next_block += 1;
        }
    }
}

fn read_name(rest: &mut &[u8], first_pair: u32, first_block: u32) -> Option<Name> {
    let length = usize::try_from(varint::read(rest)?).ok()?;
    let text = std::str::from_utf8(take(rest, length)?).ok()?.into();
    let values = u32::try_from(varint::read(rest)?).ok()?;
    let length = varint::read(rest)?;
    let series = match inline(rest, length) {
        Some(inline) => inline?,
        None => StoredPostings::Section { start: varint::read(rest)?, length },
    };
    Some(Name { text, first_pair, values, series, first_block })
}

/// Takes postings that are beside their value: `None` if they are too long for that.
fn inline(rest: &mut &[u8], length: u64) -> Option<Option<StoredPostings>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= INLINE_BYTES)?;
    let postings = take(rest, length).map(|taken| {
        let mut bytes = [0; INLINE_BYTES];
        bytes[..length].copy_from_slice(taken);
        StoredPostings::Inline { bytes, length: length as u8 }
    });
    Some(postings)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

/// A block while it is read from front to back.
struct Block<'a> {
    rest: &'a [u8],
    left: u32,
    /// The value read last.
    text: Vec<u8>,
    /// The place of the next list in the postings section.
    postings_at: u64,
    offset: u64,
}

impl Block<'_> {
    fn damage(&self, what: &'static str) -> Damage {
        Damage { offset: self.offset, what }
    }

    fn text(&self) -> Result<&str, Damage> {
        let text = std::str::from_utf8(&self.text).ok().filter(|text| !text.is_empty());
        text.ok_or(self.damage("a label value is empty or not UTF-8"))
    }

    fn number(&mut self) -> Result<u64, Damage> {
        varint::read(&mut self.rest).ok_or(self.damage("a dictionary block is cut short"))
    }

    /// Reads the next value, `None` after the last.
    fn next(&mut self) -> Result<Option<StoredPostings>, Damage> {
        if self.left == 0 {
            return match self.rest {
                [] => Ok(None),
                _ => Err(self.damage("a dictionary block is too long")),
            };
        }
        self.left -= 1;
        let shared = self.number()?;
        let shared = usize::try_from(shared).ok().filter(|shared| *shared <= self.text.len());
        let shared = shared.ok_or(self.damage("a value shares more than there is"))?;
        let further = self.number()?;
        let further = usize::try_from(further).ok().and_then(|n| take(&mut self.rest, n));
        let further = further.ok_or(self.damage("a dictionary block is cut short"))?;
        self.text.truncate(shared);
        self.text.extend_from_slice(further);
        let length = self.number()?;
        if let Some(inline) = inline(&mut self.rest, length) {
            return inline.map(Some).ok_or(self.damage("a dictionary block is cut short"));
        }
        let start = self.postings_at;
        let end = length.checked_add(CRC_BYTES as u64).and_then(|n| start.checked_add(n));
        self.postings_at = end.ok_or(self.damage("postings are impossibly long"))?;
        Ok(Some(StoredPostings::Section { start, length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postings_of(number: u32) -> Vec<u8> {
        vec![number as u8; 1 + (number as usize * 7) % 40]
    }

    /// Names "a", "b" and "c" with 1, 32 and 1000 values.
    fn dictionary() -> (Dictionary, Vec<u8>) {
        let mut writer = DictionaryWriter::default();
        for (name, values) in [("a", 1), ("b", 32), ("c", 1000)] {
            writer.begin_name(name, values, &postings_of(values));
            for value in 0..values {
                writer.add_value(&format!("{:04}", value * 2), &postings_of(value));
            }
        }
        writer.end_block();
        let (directory, blocks) = (writer.directory.into(), writer.blocks.into());
        (Dictionary::open(&writer.names, 1033, directory, blocks, 0).unwrap(), writer.postings)
    }

    fn bytes_of(stored: StoredPostings, section: &[u8]) -> Vec<u8> {
        match stored {
            StoredPostings::Inline { bytes, length } => bytes[..usize::from(length)].to_vec(),
            StoredPostings::Section { start, length } => {
                checked(&section[start as usize..][..length as usize + CRC_BYTES]).unwrap().to_vec()
            }
        }
    }

    #[test]
    fn values_are_found_by_text_and_by_number() {
        let (dictionary, section) = dictionary();
        for (name, values) in [("a", 1), ("b", 32), ("c", 1000)] {
            let name = dictionary.name(name).unwrap();
            assert_eq!(bytes_of(name.series, &section), postings_of(values));
            for value in 0..values {
                let text = format!("{:04}", value * 2);
                let found = dictionary.find(name, &text).unwrap().unwrap();
                assert_eq!(bytes_of(found, &section), postings_of(value));
                assert_eq!(dictionary.find(name, &format!("{:04}", value * 2 + 1)).unwrap(), None);
                let mut again = Vec::new();
                dictionary.value(name, value, &mut again).unwrap();
                assert_eq!(again, text.as_bytes());
            }
            assert_eq!(dictionary.find(name, "").unwrap(), None);
        }
        assert!(dictionary.name("ab").is_none());
    }

    #[test]
    fn a_prefix_is_a_range_of_values() {
        let (dictionary, section) = dictionary();
        let name = dictionary.name("c").unwrap();
        for prefix in ["", "0", "1", "00", "01", "199", "0640", "0641", "2", "~"] {
            let mut found = Vec::new();
            let visit = |text: &str, postings| {
                let value = text.parse::<u32>().unwrap() / 2;
                assert_eq!(bytes_of(postings, &section), postings_of(value));
                found.push(text.to_owned());
                Ok(())
            };
            dictionary.scan(name, prefix, visit).unwrap();
            let all = (0..1000).map(|value| format!("{:04}", value * 2));
            assert!(found.into_iter().eq(all.filter(|text| text.starts_with(prefix))), "{prefix}");
        }
    }
}
