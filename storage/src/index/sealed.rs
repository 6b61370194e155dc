//! The index of a sealed file: a section of bytes that is a function of its series alone.
//!
//! ```text
//! header     0  magic "icelabel"        (all numbers are little-endian)
//!            8  u32 version, 1
//!           12  u32 series
//!           16  u32 label pairs
//!           20  u32 dictionary blocks
//!           24  u32 bytes of names
//!           28  u32 bytes of dictionary blocks
//!           32  u32 bytes of postings
//!           36  u32 bytes of groups
//!           40  u32 crc32 of bytes 0 to 40
//! names      and behind them their u32 crc32      (see `dictionary`)
//! directory  of the dictionary blocks, u32 each; u32 crc32
//! blocks     each with its crc32
//! postings   each list with its crc32             (see `packed`)
//! directory  of the groups: the place of each one's end, u32 each; u32 crc32
//! groups     of 256 series, each with its crc32   (see `group`)
//! ```
//!
//! A series' id is its rank among the series of the file, whose order the writer of the file
//! chooses. In a group, the code of a label is one more than the rank of its value among those of
//! its name. Opening reads the header, the names and the directories; every other piece has its own
//! checksum, which is checked each time it is read, so nothing is kept in memory but the names,
//! and a page that goes bad later is noticed too.

mod count;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashTable;
use roaring::RoaringBitmap;

use super::Damage;
use super::dictionary::{
    CRC_BYTES, Dictionary, DictionaryWriter, Name, StoredPostings, checked, piece, push_with_crc,
};
use super::group::{self, Codes, Column, GROUP_ROWS};
use super::packed::{self, PackedPostings};
use super::pairs::{NameId, PairId, Pairs};
use super::postings::Union;
use super::select::{self, Terms, Verdicts};
use crate::labels::{self, Labels};
use crate::matcher::Matcher;

pub(crate) use count::CountedValues;

const MAGIC: &[u8; 8] = b"icelabel";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 44;

/// Makes the index section of a file from its series, given in the order of their ids.
///
/// Takes memory for the distinct pairs, their postings and about 3 bytes a series.
#[derive(Debug)]
pub struct SealedIndexBuilder {
    series: u32,
    pairs: Pairs<PackedPostings>,
    /// The series that have a name, by name id.
    names: Vec<PackedPostings>,
    last_row: Vec<PairId>,
    /// The pairs of the group's series so far, and for each series where its end.
    group_pairs: Vec<PairId>,
    row_ends: Vec<usize>,
    /// Finished groups, with name ids for names and pair ids plus 1 for codes: their final
    /// numbers are known only at the end.
    groups: Vec<Vec<u8>>,
}

impl Default for SealedIndexBuilder {
    fn default() -> SealedIndexBuilder {
        SealedIndexBuilder::new()
    }
}

impl SealedIndexBuilder {
    pub fn new() -> SealedIndexBuilder {
        SealedIndexBuilder {
            series: 0,
            pairs: Pairs::new(),
            names: Vec::new(),
            last_row: Vec::new(),
            group_pairs: Vec::new(),
            row_ends: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Adds the next series, by its labels in canonical order, and gives its id.
    pub fn add<'a>(&mut self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> u32 {
        let id = self.series;
        self.series += 1;
        let row_start = self.group_pairs.len();
        for (name, value) in labels {
            let hint = self.last_row.get(self.group_pairs.len() - row_start).copied();
            let (number, _) = self.pairs.intern(name, value, hint);
            let pair = self.pairs.get_mut(number);
            pair.payload.push(id);
            let name = pair.name as usize;
            if name == self.names.len() {
                self.names.push(PackedPostings::default());
            }
            self.names[name].push(id);
            self.group_pairs.push(number);
        }
        self.last_row.clear();
        self.last_row.extend_from_slice(&self.group_pairs[row_start..]);
        self.row_ends.push(self.group_pairs.len());
        if self.row_ends.len() == GROUP_ROWS {
            self.end_group();
        }
        id
    }

    fn end_group(&mut self) {
        let rows = self.row_ends.len();
        let mut columns: Vec<Codes> = Vec::new();
        // Where each name's column is; names are few.
        let mut column_of: Vec<Option<usize>> = vec![None; self.names.len()];
        let mut start = 0;
        for (row, end) in self.row_ends.drain(..).enumerate() {
            for number in &self.group_pairs[start..end] {
                let name = self.pairs.get(*number).name;
                let index = *column_of[name as usize].get_or_insert_with(|| {
                    columns.push(Codes { name, codes: vec![0; rows] });
                    columns.len() - 1
                });
                columns[index].codes[row] = number + 1;
            }
            start = end;
        }
        self.group_pairs.clear();
        columns.sort_unstable_by_key(|column| column.name);
        let mut bytes = Vec::new();
        group::encode(columns.iter(), &mut bytes);
        self.groups.push(bytes);
    }

    /// The bytes of the section.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.row_ends.is_empty() {
            self.end_group();
        }
        let pairs = self.pairs.len();
        let mut dictionary = DictionaryWriter::default();
        let ranks = self.write_dictionary(&mut dictionary);
        let (group_directory, groups) = self.write_groups(&ranks);

        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        for number in
            [VERSION as usize, self.series as usize, pairs, dictionary.directory.len() / 4]
        {
            out.extend_from_slice(&length_u32(number).to_le_bytes());
        }
        for section in [&dictionary.names, &dictionary.blocks, &dictionary.postings, &groups] {
            out.extend_from_slice(&length_u32(section.len()).to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        push_with_crc(&dictionary.names, &mut out);
        push_with_crc(&dictionary.directory, &mut out);
        out.extend_from_slice(&dictionary.blocks);
        out.extend_from_slice(&dictionary.postings);
        push_with_crc(&group_directory, &mut out);
        out.extend_from_slice(&groups);
        out
    }

    /// Writes names, values and postings in order, and gives the final numbers.
    fn write_dictionary(&mut self, dictionary: &mut DictionaryWriter) -> Ranks {
        let mut names: Vec<(&str, NameId)> =
            self.pairs.names().map(|(id, text)| (text, id)).collect();
        names.sort_unstable();
        let mut values: Vec<Vec<PairId>> = vec![Vec::new(); self.names.len()];
        for number in self.pairs.ids() {
            values[self.pairs.get(number).name as usize].push(number);
        }
        let order: Vec<NameId> = names.into_iter().map(|(_, id)| id).collect();
        let mut ranks = Ranks { names: vec![0; order.len()], codes: vec![0; self.pairs.len()] };
        for (rank, name) in (0..).zip(order) {
            ranks.names[name as usize] = rank;
            let mut values = std::mem::take(&mut values[name as usize]);
            values.sort_unstable_by(|a, b| self.pairs.get(*a).value.cmp(&self.pairs.get(*b).value));
            let series = std::mem::take(&mut self.names[name as usize]).finish();
            dictionary.begin_name(self.pairs.name(name), length_u32(values.len()), &series);
            for (code, number) in (1..).zip(values) {
                ranks.codes[number as usize] = code;
                let pair = self.pairs.get_mut(number);
                dictionary.add_value(&pair.value, &std::mem::take(&mut pair.payload).finish());
            }
        }
        dictionary.end_block();
        ranks
    }

    /// Writes the groups again, with final numbers.
    fn write_groups(&mut self, ranks: &Ranks) -> (Vec<u8>, Vec<u8>) {
        let (mut directory, mut out) = (Vec::new(), Vec::new());
        let mut encoded = Vec::new();
        for (index, bytes) in std::mem::take(&mut self.groups).into_iter().enumerate() {
            let rows = rows_of_group(self.series, index);
            let mut columns = Vec::new();
            group::decode(&bytes, rows, &mut columns).expect("groups hold what was encoded here");
            let mut columns: Vec<Codes> = columns.iter().map(|c| ranks.column(c, rows)).collect();
            columns.sort_unstable_by_key(|column| column.name);
            encoded.clear();
            group::encode(columns.iter(), &mut encoded);
            push_with_crc(&encoded, &mut out);
            directory.extend_from_slice(&length_u32(out.len()).to_le_bytes());
        }
        (directory, out)
    }
}

/// Final numbers: of names by name id, and codes of values by pair id.
struct Ranks {
    names: Vec<u32>,
    codes: Vec<u32>,
}

impl Ranks {
    fn column(&self, column: &Column<'_>, rows: usize) -> Codes {
        let code = |row| match column.code(row).expect("groups hold what was encoded here") {
            0 => 0,
            number => self.codes[number as usize - 1],
        };
        Codes { name: self.names[column.name as usize], codes: (0..rows).map(code).collect() }
    }
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("each part of a label index is smaller than 4 GiB")
}

fn rows_of_group(series: u32, index: usize) -> usize {
    (series as usize - index * GROUP_ROWS).min(GROUP_ROWS)
}

/// A label index that never changes, read in place.
///
/// Every answer is right or an error, whatever has become of the bytes.
#[derive(Debug)]
pub struct SealedIndex {
    series: u32,
    dictionary: Dictionary,
    postings: Section,
    group_directory: Bytes,
    groups: Section,
}

/// A part of the index.
#[derive(Clone, Debug)]
struct Section {
    bytes: Bytes,
    offset: u64,
}

impl SealedIndex {
    /// Opens the index that `bytes` are exactly.
    pub fn open(bytes: Bytes) -> Result<SealedIndex, Damage> {
        let header = Header::read(&bytes)?;
        let mut sections = Sections { bytes: &bytes, at: HEADER_BYTES };
        let names = sections.take_checked(header.names_bytes, "names")?;
        let directory = sections.take_checked(header.blocks as usize * 4, "block directory")?;
        let blocks = sections.take(header.blocks_bytes)?;
        let postings = sections.take(header.postings_bytes)?;
        let groups = (header.series as usize).div_ceil(GROUP_ROWS);
        let group_directory = sections.take_checked(groups * 4, "group directory")?;
        let groups = sections.take(header.groups_bytes)?;
        if sections.at != bytes.len() {
            return Err(Damage { offset: sections.at as u64, what: "bytes behind the end" });
        }
        let dictionary = Dictionary::open(
            &names.bytes,
            header.pairs,
            directory.bytes,
            blocks.bytes,
            blocks.offset,
        )
        .ok_or(Damage { offset: names.offset, what: "label names make no sense" })?;
        let group_directory = group_directory.bytes;
        Ok(SealedIndex { series: header.series, dictionary, postings, group_directory, groups })
    }

    /// How many series there are; their ids are the numbers below it.
    pub fn series_count(&self) -> u32 {
        self.series
    }

    /// Distinct label pairs.
    pub fn pair_count(&self) -> u64 {
        self.dictionary.names().iter().map(|name| u64::from(name.values)).sum()
    }

    /// The ids of all series.
    pub fn all(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.series);
        all
    }

    /// The series that fulfil all of `matchers`; all series, if there are none.
    pub fn select(&self, matchers: &[Matcher]) -> Result<RoaringBitmap, Damage> {
        select::select(self, matchers)
    }

    /// The series that have a label, whatever its value; `None` if none has.
    pub fn with_label(&self, name: &str) -> Result<Option<RoaringBitmap>, Damage> {
        self.dictionary.name(name).map(|name| self.bitmap(name.series)).transpose()
    }

    /// The series that have a label of this value.
    pub fn postings(&self, name: &str, value: &str) -> Result<RoaringBitmap, Damage> {
        let Some(name) = self.dictionary.name(name) else { return Ok(RoaringBitmap::new()) };
        match self.dictionary.find(name, value)? {
            Some(stored) => self.bitmap(stored),
            None => Ok(RoaringBitmap::new()),
        }
    }

    /// The labels of a series.
    pub fn labels(&self, id: u32) -> Result<Labels, Damage> {
        let mut labels = Labels::empty();
        self.labels_of(&RoaringBitmap::from_iter([id]), |_, found| labels = found)?;
        Ok(labels)
    }

    /// Visits the labels of some series, in order of their ids.
    pub fn labels_of(
        &self,
        ids: &RoaringBitmap,
        mut visit: impl FnMut(u32, Labels),
    ) -> Result<(), Damage> {
        self.label_bytes_of(ids, |id, bytes| visit(id, Labels::from_pairs_of_an_index(bytes)))
    }

    /// Visits the canonical label bytes of some series, in order of their ids.
    pub fn label_bytes_of(
        &self,
        ids: &RoaringBitmap,
        mut visit: impl FnMut(u32, &[u8]),
    ) -> Result<(), Damage> {
        let mut texts = PairTexts::default();
        let mut bytes = Vec::new();
        self.each_row(ids, None, |id, row, columns| {
            bytes.clear();
            for column in columns {
                if let Some(code) = column.code(row)? {
                    let place = match &column.text {
                        Some(place) => place.clone(),
                        None => texts.place(&self.dictionary, column.name, code)?,
                    };
                    bytes.extend_from_slice(&texts.bytes[place.clone()]);
                    column.text = Some(place);
                }
            }
            visit(id, &bytes);
            Ok(())
        })
    }

    /// Label names in bytewise order; of all series or of some.
    pub fn label_names(&self, of: Option<&RoaringBitmap>) -> Result<Vec<String>, Damage> {
        let of = self.unless_all(of);
        let mut names = Vec::new();
        for name in self.dictionary.names() {
            let has = match of {
                None => true,
                Some(of) => !self.bitmap(name.series)?.is_disjoint(of),
            };
            if has {
                names.push(name.text.to_string());
            }
        }
        Ok(names)
    }

    /// Values of a label in bytewise order; of all series or of some.
    pub fn label_values(
        &self,
        name: &str,
        of: Option<&RoaringBitmap>,
    ) -> Result<Vec<String>, Damage> {
        let Some(name) = self.dictionary.name(name) else { return Ok(Vec::new()) };
        let of = self.unless_all(of);
        if let Some(of) = of.filter(|of| self.are_rows_shorter(of, name)) {
            return self.values_in_rows(name, of);
        }
        let mut values = Vec::new();
        self.dictionary.scan(name, "", |value, stored| {
            let used = match of {
                None => true,
                Some(of) => self.count(stored, Some(of))? > 0,
            };
            if used {
                values.push(value.to_owned());
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// Whether the rows of these series are read sooner than all values of a name. Rows are read by
    /// groups, each as a whole, and those of a metric lie in as many groups as it has targets. Values
    /// have postings, which are the longer the fewer values there are.
    fn are_rows_shorter(&self, ids: &RoaringBitmap, name: &Name) -> bool {
        /// Reading a group costs as much as so many values with short postings.
        const VALUES_PER_GROUP: u32 = 30;
        /// And so much is in the postings of any name: runs of a few groups each, as targets have.
        const GROUPS_PER_VALUE: u32 = 4;
        const ROWS: u32 = GROUP_ROWS as u32;
        let postings = self.series / ROWS / GROUPS_PER_VALUE;
        let groups_max = name.values.saturating_add(postings) / VALUES_PER_GROUP;
        let mut groups = 0;
        let mut rest = ids.iter();
        while let Some(id) = rest.next() {
            groups += 1;
            if groups > groups_max {
                return false;
            }
            rest.advance_to((id / ROWS + 1).saturating_mul(ROWS));
        }
        true
    }

    /// Some series, or `None` if these are all: nothing needs to be looked for among them then.
    fn unless_all<'a>(&self, of: Option<&'a RoaringBitmap>) -> Option<&'a RoaringBitmap> {
        of.filter(|of| of.len() < u64::from(self.series))
    }

    /// Values of a label among few series.
    fn values_in_rows(&self, name: &Name, of: &RoaringBitmap) -> Result<Vec<String>, Damage> {
        let mut codes = Vec::new();
        self.each_code(of, name, |_, code| {
            // Neighbours often have the same value.
            if codes.last() != Some(&code) {
                codes.push(code);
            }
            Ok(())
        })?;
        codes.sort_unstable();
        codes.dedup();
        let text = |code: u32| {
            let mut bytes = Vec::new();
            self.dictionary.value(name, code - 1, &mut bytes)?;
            Ok(String::from_utf8(bytes).expect("the dictionary gives UTF-8"))
        };
        codes.into_iter().map(text).collect()
    }

    fn bitmap(&self, stored: StoredPostings) -> Result<RoaringBitmap, Damage> {
        let damage = self.postings.damage(stored);
        let bytes = self.postings.bytes_of(&stored)?;
        packed::decode(bytes, self.series).ok_or(damage)
    }

    /// Visits those of some series that have a label, with the code of its value.
    fn each_code(
        &self,
        ids: &RoaringBitmap,
        name: &Name,
        mut visit: impl FnMut(u32, u32) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        self.each_row(ids, Some(name), |id, row, columns| {
            let code = columns.first_mut().map_or(Ok(None), |column| column.code(row))?;
            code.map_or(Ok(()), |code| visit(id, code))
        })
    }

    /// Visits rows, ascending, with the columns of their groups, or with the one column of a name.
    fn each_row(
        &self,
        ids: &RoaringBitmap,
        only: Option<&Name>,
        mut visit: impl FnMut(u32, usize, &mut [CheckedColumn<'_>]) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        let mut decoded = Vec::new();
        let mut columns = Vec::new();
        let mut ids = ids.iter().take_while(|id| *id < self.series).peekable();
        while let Some(first) = ids.peek() {
            let index = *first as usize / GROUP_ROWS;
            let (bytes, offset) = self.group(index)?;
            group::decode(bytes, rows_of_group(self.series, index), &mut decoded)
                .ok_or(Damage { offset, what: "a group makes no sense" })?;
            columns.clear();
            for column in &decoded {
                let name = self.dictionary.names().get(column.name as usize);
                let name = name.ok_or(Damage { offset, what: "a group has an unknown name" })?;
                if only.is_none_or(|only| only.first_pair == name.first_pair) {
                    columns.push(CheckedColumn::new(*column, name, offset));
                }
            }
            while let Some(id) = ids.next_if(|id| *id as usize / GROUP_ROWS == index) {
                visit(id, id as usize % GROUP_ROWS, &mut columns)?;
            }
        }
        Ok(())
    }

    fn group(&self, index: usize) -> Result<(&[u8], u64), Damage> {
        let place = piece(&self.group_directory, index, self.groups.bytes.len());
        let start = place.as_ref().map_or(0, |place| place.start as u64);
        let offset = self.groups.offset + start;
        let place = place.ok_or(Damage { offset, what: "a group reaches outside" })?;
        let bytes = checked(&self.groups.bytes[place]);
        Ok((bytes.ok_or(Damage { offset, what: "a group has a wrong checksum" })?, offset))
    }
}

/// A column whose name is known, read row after row. Successive rows mostly have one code, which
/// is kept.
struct CheckedColumn<'a> {
    column: Column<'a>,
    name: &'a Name,
    offset: u64,
    code: u32,
    /// The first row that may have another code.
    until: usize,
    /// Where the pair's bytes are, if somebody has looked.
    text: Option<Range<usize>>,
}

impl<'a> CheckedColumn<'a> {
    fn new(column: Column<'a>, name: &'a Name, offset: u64) -> CheckedColumn<'a> {
        CheckedColumn { column, name, offset, code: 0, until: 0, text: None }
    }

    /// The code of a row, from 1 to the name's count of values; `None` where it has no value.
    /// Rows ascend from call to call.
    fn code(&mut self, row: usize) -> Result<Option<u32>, Damage> {
        if row >= self.until {
            let run = self.column.run(row).filter(|(code, _)| *code <= self.name.values);
            let damage = Damage { offset: self.offset, what: "a group has an impossible code" };
            (self.code, self.until) = run.ok_or(damage)?;
            self.text = None;
        }
        Ok((self.code > 0).then_some(self.code))
    }
}

/// Pairs as canonical label bytes, each looked up once.
#[derive(Debug, Default)]
struct PairTexts {
    /// A pair's number and where its bytes are.
    places: HashTable<(u32, Range<usize>)>,
    bytes: Vec<u8>,
    value: Vec<u8>,
}

impl PairTexts {
    /// Where in `bytes` the pair is.
    fn place(
        &mut self,
        dictionary: &Dictionary,
        name: &Name,
        code: u32,
    ) -> Result<Range<usize>, Damage> {
        let number = name.first_pair + (code - 1);
        let hash = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let known = self.places.find(hash(number), |(other, _)| *other == number);
        match known {
            Some((_, place)) => Ok(place.clone()),
            None => {
                self.value.clear();
                dictionary.value(name, code - 1, &mut self.value)?;
                let value = std::str::from_utf8(&self.value).expect("the dictionary gives UTF-8");
                let start = self.bytes.len();
                labels::push_pair(&mut self.bytes, &*name.text, value);
                let place = start..self.bytes.len();
                let rehash = |(number, _): &(u32, Range<usize>)| hash(*number);
                self.places.insert_unique(hash(number), (number, place.clone()), rehash);
                Ok(place)
            }
        }
    }
}

impl Section {
    fn bytes_of<'a>(&'a self, stored: &'a StoredPostings) -> Result<&'a [u8], Damage> {
        match stored {
            StoredPostings::Inline { bytes, length } => Ok(&bytes[..usize::from(*length)]),
            StoredPostings::Section { start, length } => {
                let end = length.checked_add(CRC_BYTES as u64).and_then(|n| n.checked_add(*start));
                let place = end.and_then(|end| {
                    Some(usize::try_from(*start).ok()?..usize::try_from(end).ok()?)
                });
                let bytes = place.and_then(|place| self.bytes.get(place));
                bytes.and_then(checked).ok_or(self.damage(*stored))
            }
        }
    }

    fn damage(&self, stored: StoredPostings) -> Damage {
        let start = match stored {
            StoredPostings::Inline { .. } => 0,
            StoredPostings::Section { start, .. } => start.min(self.bytes.len() as u64),
        };
        Damage { offset: self.offset + start, what: "postings make no sense" }
    }
}

/// What the header says, once its checksum is right.
struct Header {
    series: u32,
    pairs: u32,
    blocks: u32,
    names_bytes: usize,
    blocks_bytes: usize,
    postings_bytes: usize,
    groups_bytes: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, Damage> {
        let damage = |what| Damage { offset: 0, what };
        let header = bytes.get(..HEADER_BYTES).ok_or(damage("no room for a header"))?;
        let body = checked(header).ok_or(damage("the header has a wrong checksum"))?;
        let (magic, numbers) = body.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damage("this is no label index"));
        }
        let mut number = numbers.as_chunks::<4>().0.iter().map(|n| u32::from_le_bytes(*n));
        let mut next = || number.next().expect("the header has eight numbers");
        if next() != VERSION {
            return Err(damage("written by a newer version"));
        }
        Ok(Header {
            series: next(),
            pairs: next(),
            blocks: next(),
            names_bytes: next() as usize,
            blocks_bytes: next() as usize,
            postings_bytes: next() as usize,
            groups_bytes: next() as usize,
        })
    }
}

/// Cuts bytes into sections, from front to back.
struct Sections<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Sections<'_> {
    fn take(&mut self, length: usize) -> Result<Section, Damage> {
        let offset = self.at as u64;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(Damage { offset, what: "a section reaches behind the end" })?;
        let bytes = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(Section { bytes, offset })
    }

    /// Takes a section that has a checksum behind it, and checks it.
    fn take_checked(&mut self, length: usize, what: &'static str) -> Result<Section, Damage> {
        let mut section = self.take(length.saturating_add(CRC_BYTES))?;
        if checked(&section.bytes).is_none() {
            return Err(Damage { offset: section.offset, what });
        }
        section.bytes.truncate(length);
        Ok(section)
    }
}

impl Terms for SealedIndex {
    type Error = Damage;

    fn all(&self) -> Cow<'_, RoaringBitmap> {
        Cow::Owned(SealedIndex::all(self))
    }

    fn named(&self, name: &str) -> Result<Cow<'_, RoaringBitmap>, Damage> {
        match self.dictionary.name(name) {
            Some(name) => self.bitmap(name.series).map(Cow::Owned),
            None => Ok(Cow::Owned(RoaringBitmap::new())),
        }
    }

    fn postings(&self, name: &str, value: &str) -> Result<Cow<'_, RoaringBitmap>, Damage> {
        SealedIndex::postings(self, name, value).map(Cow::Owned)
    }

    fn is_filter_shorter(&self, ids: &RoaringBitmap, name: &str) -> bool {
        self.dictionary.name(name).is_some_and(|name| self.are_rows_shorter(ids, name))
    }

    fn scan(
        &self,
        name: &str,
        prefix: &str,
        accept: &mut dyn FnMut(&str) -> bool,
    ) -> Result<RoaringBitmap, Damage> {
        let mut union = Union::default();
        if let Some(name) = self.dictionary.name(name) {
            self.dictionary.scan(name, prefix, |value, stored| {
                if !accept(value) {
                    return Ok(());
                }
                let bytes = self.postings.bytes_of(&stored)?;
                packed::decode_into(bytes, self.series, &mut union)
                    .ok_or(self.postings.damage(stored))
            })?;
        }
        Ok(union.finish())
    }

    fn filter(
        &self,
        ids: &RoaringBitmap,
        name: &str,
        accept: &mut dyn FnMut(&str) -> bool,
    ) -> Result<RoaringBitmap, Damage> {
        let Some(name) = self.dictionary.name(name) else { return Ok(RoaringBitmap::new()) };
        let mut verdicts = Verdicts::default();
        let mut text = Vec::new();
        let mut kept = Vec::new();
        self.each_code(ids, name, |id, code| {
            let judge = || {
                text.clear();
                self.dictionary.value(name, code - 1, &mut text)?;
                Ok(accept(std::str::from_utf8(&text).expect("the dictionary gives UTF-8")))
            };
            if verdicts.get(code, judge)? {
                kept.push(id);
            }
            Ok(())
        })?;
        Ok(RoaringBitmap::from_sorted_iter(kept).expect("bitmaps iterate in order"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::NameCounts;
    use crate::index::contract::{self, Model};
    use proptest::prelude::*;

    fn bytes_of(series: &[Labels]) -> Vec<u8> {
        let mut builder = SealedIndexBuilder::new();
        for (id, labels) in (0..).zip(series) {
            assert_eq!(builder.add(labels.iter()), id);
        }
        builder.finish()
    }

    /// Everything that can be asked, or the first error.
    fn answers(index: &SealedIndex, queries: &[Vec<Matcher>]) -> Result<Answers, Damage> {
        let mut labels = Vec::new();
        index.labels_of(&index.all(), |id, found| {
            assert_eq!(id as usize, labels.len());
            labels.push(found);
        })?;
        let mut found = Vec::new();
        for matchers in queries.iter().chain([&Vec::new()]) {
            let ids = index.select(matchers)?;
            let names = index.label_names(Some(&ids))?;
            let counts = count::all_counts(index, Some(&ids))?;
            assert_eq!(index.counts_of_rows(&ids)?, counts);
            let mut values = Vec::new();
            for name in contract::NAMES {
                values.push(index.label_values(name, Some(&ids))?);
            }
            found.push((ids, names, values, counts));
        }
        let all = contract::NAMES.iter().map(|name| index.label_values(name, None));
        let all = all.collect::<Result<_, _>>()?;
        let counts = count::all_counts(index, None)?;
        found.push((index.all(), index.label_names(None)?, all, counts));
        Ok(Answers { labels, found })
    }

    /// Series, label names, values of each name, counts.
    type Found = (RoaringBitmap, Vec<String>, Vec<Vec<String>>, Vec<NameCounts>);

    #[derive(Debug, PartialEq)]
    struct Answers {
        labels: Vec<Labels>,
        found: Vec<Found>,
    }

    fn right_answers(series: &[Labels], queries: &[Vec<Matcher>]) -> Answers {
        let model = Model::new(series);
        let of = |ids: RoaringBitmap| {
            let values = contract::NAMES.iter().map(|name| model.values(name, &ids)).collect();
            (ids.clone(), model.names(&ids), values, model.counts(&ids))
        };
        let mut found: Vec<_> = queries.iter().map(|q| of(model.select(q))).collect();
        found.extend([of(model.all()), of(model.all())]);
        Answers { labels: series.to_vec(), found }
    }

    proptest! {
        #[test]
        fn answers_as_a_list_of_labels_would(
            series in contract::series(),
            queries in contract::queries(),
        ) {
            let index = SealedIndex::open(bytes_of(&series).into()).unwrap();
            prop_assert_eq!(index.series_count() as usize, series.len());
            prop_assert_eq!(answers(&index, &queries).unwrap(), right_answers(&series, &queries));
            for (id, labels) in (0..).zip(&series) {
                prop_assert_eq!(&index.labels(id).unwrap(), labels);
            }
        }

        #[test]
        fn damage_is_an_error_or_nothing(
            series in contract::series(),
            queries in contract::queries(),
            at: prop::sample::Index,
            xor in 1u8..,
        ) {
            let mut bytes = bytes_of(&series);
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            let found = SealedIndex::open(bytes.into()).and_then(|index| answers(&index, &queries));
            if let Ok(found) = found {
                prop_assert_eq!(found, right_answers(&series, &queries));
            }
        }

        /// Bytes that were damaged before the checksums were made, or by someone who makes them.
        #[test]
        fn forged_bytes_are_safe(
            series in contract::series(),
            queries in contract::queries(),
            forged: Vec<(prop::sample::Index, u8)>,
        ) {
            let mut bytes = bytes_of(&series);
            for (at, byte) in forged {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            forge_checksums(&mut bytes);
            let _ = SealedIndex::open(bytes.into()).and_then(|index| answers(&index, &queries));
        }

        #[test]
        fn any_bytes_are_safe(bytes: Vec<u8>) {
            prop_assert!(SealedIndex::open(bytes.into()).is_err());
        }
    }

    /// Makes the checksums right wherever they can be found.
    fn forge_checksums(bytes: &mut [u8]) {
        fn forge(bytes: &mut [u8], piece: Range<usize>) {
            let end = piece.end.wrapping_sub(CRC_BYTES);
            if piece.start <= end && piece.end <= bytes.len() {
                let body = &bytes[piece.start..end];
                let crc = crc32fast::hash(body);
                bytes[end..piece.end].copy_from_slice(&crc.to_le_bytes());
            }
        }
        fn forge_all(bytes: &mut [u8], directory: Range<usize>, section: Range<usize>) {
            let ends = bytes.get(directory.clone()).map(<[u8]>::to_vec).unwrap_or_default();
            for index in 0..ends.len() / 4 {
                if let Some(place) = piece(&ends, index, section.len()) {
                    forge(bytes, section.start + place.start..section.start + place.end);
                }
            }
            forge(bytes, directory.start..directory.end + CRC_BYTES);
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        forge(bytes, 0..HEADER_BYTES);
        let Ok(header) = Header::read(bytes) else { return };
        let names = HEADER_BYTES..HEADER_BYTES + header.names_bytes + CRC_BYTES;
        forge(bytes, names.clone());
        let directory = names.end..names.end + header.blocks as usize * 4;
        let blocks = directory.end + CRC_BYTES..directory.end + CRC_BYTES + header.blocks_bytes;
        forge_all(bytes, directory, blocks.clone());
        let groups = (header.series as usize).div_ceil(GROUP_ROWS);
        let start = blocks.end + header.postings_bytes;
        let directory = start..start + groups * 4;
        let end = directory.end + CRC_BYTES;
        forge_all(bytes, directory, end..end + header.groups_bytes);
    }

    #[test]
    fn every_flipped_byte_of_a_small_index_is_noticed_or_harmless() {
        let series: Vec<Labels> = (0..700)
            .map(|i| {
                let values =
                    [format!("m{}", i % 5), format!("{}", i / 7), format!("v{}", i * i % 11)];
                Labels::from_pairs(["__name__", "a", "z"].iter().zip(&values)).unwrap()
            })
            .collect();
        let queries = vec![
            vec![Matcher::equal("a", "7")],
            vec![Matcher::new("a", crate::matcher::MatchOp::Regex, ".*1").unwrap()],
        ];
        let right = right_answers(&series, &queries);
        let bytes = bytes_of(&series);
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let found = SealedIndex::open(bytes.into()).and_then(|index| answers(&index, &queries));
            assert!(found.is_err() || found.unwrap() == right, "byte {at}");
        }
        for length in 0..bytes.len() {
            assert!(SealedIndex::open(bytes[..length].to_vec().into()).is_err());
        }
    }

    #[test]
    fn the_bytes_follow_from_the_series() {
        let series: Vec<Labels> = (0..1000)
            .map(|i: i32| {
                Labels::from_pairs([("i", i.to_string()), ("j", (i % 3).to_string())]).unwrap()
            })
            .collect();
        let bytes = bytes_of(&series);
        assert!((0..5).all(|_| bytes_of(&series) == bytes));
    }

    /// Change this together with the version and `docs/format.md`.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let series = [&[("a", "x")][..], &[("a", "xy"), ("b", "z")], &[("a", "x")]];
        let series = series.map(|pairs| Labels::from_pairs(pairs.iter().copied()).unwrap());
        let bytes = bytes_of(&series);
        let (header, rest) = bytes.split_at(40);
        assert_eq!(&header[..8], b"icelabel");
        let numbers = header[8..].chunks(4).map(|n| u32::from_le_bytes(n.try_into().unwrap()));
        assert!(numbers.eq([1, 3, 3, 2, 13, 29, 0, 13]));
        let mut rest = &rest[4..];
        let mut piece = |length: usize| {
            let (piece, behind) = rest.split_at(length + 4);
            rest = behind;
            checked(piece).unwrap()
        };
        assert_eq!(piece(13), [1, b'a', 2, 3, 0, 1, 1, 1, b'b', 1, 2, 0, 2]);
        assert_eq!(piece(8), [18, 0, 0, 0, 29, 0, 0, 0]);
        assert_eq!(piece(14), [0, 0, 1, b'x', 3, 0, 0, 0, 1, 1, b'y', 2, 0, 2]);
        assert_eq!(piece(7), [0, 0, 1, b'z', 2, 0, 2]);
        assert_eq!(piece(4), [13, 0, 0, 0]);
        assert_eq!(piece(9), [2, 0, 1, 1, 0b010, 0, 1, 0, 0b010]);
        assert!(rest.is_empty());
    }

    #[test]
    fn an_index_of_nothing_is_an_index() {
        let index = SealedIndex::open(bytes_of(&[]).into()).unwrap();
        assert_eq!(index.series_count(), 0);
        assert!(index.select(&[]).unwrap().is_empty());
        assert_eq!(index.labels(0).unwrap(), Labels::empty());
    }
}
