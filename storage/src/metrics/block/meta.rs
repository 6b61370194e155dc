//! What a block says about itself: enough to plan with, and to rebuild a lost manifest.

use crate::encoding::varint::{self, read_bytes, write_bytes};
use crate::labels::Labels;
use crate::time::TimeRange;

/// A block's number, unique in its data directory and ascending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u64);

impl std::fmt::Display for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What kind of data a file holds. Numbers are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    #[default]
    Metrics = 1,
    Sessions = 2,
    Events = 3,
    Spans = 4,
    Snapshots = 5,
}

impl DataType {
    pub fn from_byte(byte: u8) -> Option<DataType> {
        use DataType::*;
        [Metrics, Sessions, Events, Spans, Snapshots].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// As in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            DataType::Metrics => "metrics",
            DataType::Sessions => "sessions",
            DataType::Events => "events",
            DataType::Spans => "spans",
            DataType::Snapshots => "snapshots",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockMeta {
    pub id: BlockId,
    pub data_type: DataType,
    /// Retention class; 0 until policies exist.
    pub class: u32,
    /// Resolution in ms of a rollup; 0 for raw samples.
    pub tier_ms: u64,
    /// The generation of the policies that gave the class.
    pub policy_generation: u64,
    /// The part of the clock that the block covers: a window, or several.
    pub window: TimeRange,
    /// Its oldest and newest sample.
    pub range: TimeRange,
    pub series: u64,
    pub chunks: u64,
    pub samples: u64,
    /// 0: sealed from the head; n: merged from blocks of at most n - 1.
    pub level: u32,
    /// Blocks whose content this one replaces.
    pub sources: Vec<BlockId>,
    /// Rows of every write up to this sequence that fall into the window are here (in this block
    /// or, for level 0, in an earlier one).
    pub sequence: u64,
    pub external_labels: Labels,
    /// Length of the file.
    pub bytes: u64,
}

impl Default for TimeRange {
    fn default() -> TimeRange {
        TimeRange::new(0, -1)
    }
}

/// Tags of the fields; never reused. Unknown ones are skipped.
mod tag {
    pub(super) const NUMBERS: u64 = 1;
    pub(super) const SOURCES: u64 = 2;
    pub(super) const EXTERNAL_LABELS: u64 = 3;
}

impl BlockMeta {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut numbers = Vec::new();
        let unsigned = [
            self.id.0,
            self.data_type as u64,
            u64::from(self.class),
            self.tier_ms,
            self.policy_generation,
            self.series,
            self.chunks,
            self.samples,
            u64::from(self.level),
            self.sequence,
            self.bytes,
        ];
        unsigned.iter().for_each(|number| varint::write(&mut numbers, *number));
        for range in [self.window, self.range] {
            varint::write_signed(&mut numbers, range.start_ms);
            varint::write_signed(&mut numbers, range.end_ms);
        }
        let mut sources = Vec::new();
        self.sources.iter().for_each(|id| varint::write(&mut sources, id.0));
        for (tag, bytes) in [
            (tag::NUMBERS, &numbers[..]),
            (tag::SOURCES, &sources),
            (tag::EXTERNAL_LABELS, self.external_labels.as_bytes()),
        ] {
            varint::write(out, tag);
            write_bytes(out, bytes);
        }
    }

    /// Reads all of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Option<BlockMeta> {
        let mut meta = BlockMeta::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let tag = varint::read(&mut rest)?;
            let mut field = read_bytes(&mut rest)?;
            match tag {
                tag::NUMBERS => meta.parse_numbers(&mut field)?,
                tag::SOURCES => {
                    while !field.is_empty() {
                        meta.sources.push(BlockId(varint::read(&mut field)?));
                    }
                }
                tag::EXTERNAL_LABELS => {
                    meta.external_labels = Labels::from_canonical_bytes(field).ok()?;
                }
                _ => {}
            }
        }
        Some(meta)
    }

    fn parse_numbers(&mut self, field: &mut &[u8]) -> Option<()> {
        self.id = BlockId(varint::read(field)?);
        self.data_type = DataType::from_byte(u8::try_from(varint::read(field)?).ok()?)?;
        self.class = u32::try_from(varint::read(field)?).ok()?;
        self.tier_ms = varint::read(field)?;
        self.policy_generation = varint::read(field)?;
        self.series = varint::read(field)?;
        self.chunks = varint::read(field)?;
        self.samples = varint::read(field)?;
        self.level = u32::try_from(varint::read(field)?).ok()?;
        self.sequence = varint::read(field)?;
        self.bytes = varint::read(field)?;
        let mut range = || {
            let start = varint::read_signed(field)?;
            Some(TimeRange::new(start, varint::read_signed(field)?))
        };
        self.window = range()?;
        self.range = range()?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_round_trips() {
        let meta = BlockMeta {
            id: BlockId(7),
            window: TimeRange::new(-7_200_000, -1),
            range: TimeRange::new(-5, -3),
            sources: vec![BlockId(1), BlockId(3)],
            sequence: u64::MAX,
            external_labels: Labels::from_pairs([("replica", "a")]).unwrap(),
            ..BlockMeta::default()
        };
        let mut bytes = Vec::new();
        meta.write(&mut bytes);
        assert_eq!(BlockMeta::parse(&bytes).unwrap(), meta);
    }
}
