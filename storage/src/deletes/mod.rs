//! Deletes: samples that a selector and a range of time name are gone at once, their room later.
//!
//! A **delete** is a record in the log between writes: it hides what lower sequences wrote and
//! nothing of what higher ones write, so deleting and writing again corrects a value. Once the
//! record is durable the delete has happened; whatever the disk does next, replay repeats it.
//! In the head the samples are removed there and then. Blocks do not change: a **tombstone** in the
//! manifest names those that still hold deleted samples, a [`LiveBlock`] leaves these out for its
//! readers, and compaction rewrites the block without them. A tombstone that no block needs is
//! forgotten. The **receipt** of a delete stays, and says what was hidden and when its room was
//! freed.
//!
//! [`live`] is how blocks are read, [`run`] carries a delete out, [`settle`] follows what becomes of
//! blocks. Layout: docs/format.md, "Delete record" and "Manifest".

pub(crate) mod live;
mod run;
pub(crate) mod settle;

use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::matcher::{MatchOp, Matcher};
use crate::metrics::block::meta::BlockId;
use crate::metrics::companion;
use crate::time::TimeRange;

pub use run::Preview;

/// Receipts that are kept.
const RECEIPTS_MAX: usize = 1000;

/// Tombstones that may wait for compaction: each is written with every manifest, and looked up in
/// its blocks at a start.
const TOMBSTONES_MAX: usize = 20_000;

/// What the names and values of a delete's matchers may take: they are in the manifest.
const SELECTORS_BYTES_MAX: usize = 64 << 10;

/// Series that fulfil all matchers of any of the lists.
pub(crate) type Selectors = Vec<Vec<Matcher>>;

/// A delete as the log has it: what is asked for, and what it was found to hide.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delete {
    pub(crate) at_ms: i64,
    pub(crate) range: TimeRange,
    pub(crate) selectors: Selectors,
    pub(crate) hidden: Hides,
}

/// What a delete hides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hides {
    pub series: u64,
    /// Raw samples, as they are stored: of a sample that was written twice, both may count.
    pub samples: u64,
    /// Whether series and samples were counted one by one; else they are estimated.
    pub is_exact: bool,
    /// Blocks that hold some of them, and the bytes of their files.
    pub blocks: u64,
    pub bytes: u64,
}

/// Blocks hold samples of a delete that readers are not to see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tombstone {
    /// The delete's place in the log.
    pub(crate) sequence: u64,
    pub(crate) at_ms: i64,
    pub(crate) range: TimeRange,
    pub(crate) selectors: Selectors,
    /// Blocks with greater numbers were begun after the delete.
    pub(crate) greatest_block: BlockId,
    /// Live blocks that hold some of it.
    pub(crate) blocks: Vec<BlockId>,
}

/// What became of a delete.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The delete's place in the log; 0 if there was nothing to delete, and nothing is written.
    pub id: u64,
    pub at_ms: i64,
    pub range: TimeRange,
    /// Series that fulfil all matchers of any of the lists.
    pub selectors: Vec<Vec<Matcher>>,
    pub hidden: Hides,
    /// Blocks that are still to be rewritten or dropped.
    pub blocks_left: u64,
    /// When none was left.
    pub freed_ms: Option<i64>,
    /// By how much files became smaller where this delete had a part; of several deletes that share
    /// a rewrite, each has its share.
    pub freed_bytes: u64,
}

impl Receipt {
    pub(crate) fn of(delete: &Delete, id: u64) -> Receipt {
        let Delete { at_ms, range, hidden, .. } = *delete;
        let selectors = delete.selectors.clone();
        let blocks_left = hidden.blocks;
        let freed_ms = (blocks_left == 0).then_some(at_ms);
        Receipt { id, at_ms, range, selectors, hidden, blocks_left, freed_ms, freed_bytes: 0 }
    }
}

/// What the manifest knows of deletes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Deletes {
    /// The last delete that was carried out; the log may have later ones.
    pub(crate) last: u64,
    /// By sequence.
    pub(crate) tombstones: Vec<Tombstone>,
    /// Of the last deletes, the newest at the end.
    pub(crate) receipts: Vec<Receipt>,
}

impl Deletes {
    pub(crate) fn push(&mut self, sequence: u64, delete: &Delete, numbers: Numbers) -> Receipt {
        self.last = sequence;
        let mut receipt = Receipt::of(delete, sequence);
        receipt.blocks_left = numbers.touched.len() as u64;
        // With a merge in the making there may be more blocks to come.
        let waits = !numbers.touched.is_empty() || numbers.in_the_making;
        receipt.freed_ms = (!waits).then_some(delete.at_ms);
        if waits {
            self.tombstones.push(Tombstone {
                sequence,
                at_ms: delete.at_ms,
                range: delete.range,
                selectors: delete.selectors.clone(),
                greatest_block: numbers.greatest,
                blocks: numbers.touched,
            });
        }
        if self.receipts.len() >= RECEIPTS_MAX {
            self.receipts.remove(0);
        }
        self.receipts.push(receipt.clone());
        receipt
    }

    /// A delete that was carried out hides something of these blocks too.
    pub(crate) fn extend(&mut self, sequence: u64, delete: &Delete, blocks: Vec<BlockId>) {
        if blocks.is_empty() {
            return;
        }
        match self.tombstones.binary_search_by_key(&sequence, |one| one.sequence) {
            Ok(at) => self.tombstones[at].blocks.extend(blocks),
            Err(at) => {
                let greatest_block = blocks.iter().copied().max().expect("there are some");
                let Delete { at_ms, range, ref selectors, .. } = *delete;
                let selectors = selectors.clone();
                let one = Tombstone { sequence, at_ms, range, selectors, greatest_block, blocks };
                self.tombstones.insert(at, one);
            }
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.tombstones.len() >= TOMBSTONES_MAX
    }

    /// The manifest's field of tombstones; empty if there never was a delete.
    pub(crate) fn write_tombstones(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.last == 0 {
            return out;
        }
        varint::write(&mut out, self.last);
        varint::write(&mut out, self.tombstones.len() as u64);
        for one in &self.tombstones {
            varint::write(&mut out, one.sequence);
            varint::write_signed(&mut out, one.at_ms);
            write_range(&mut out, one.range);
            write_selectors(&mut out, &one.selectors);
            varint::write(&mut out, one.greatest_block.0);
            varint::write(&mut out, one.blocks.len() as u64);
            one.blocks.iter().for_each(|id| varint::write(&mut out, id.0));
        }
        out
    }

    pub(crate) fn read_tombstones(&mut self, mut field: &[u8]) -> Option<()> {
        let rest = &mut field;
        self.last = varint::read(rest)?;
        for _ in 0..read_count(rest, 7)? {
            let sequence = varint::read(rest)?;
            let at_ms = varint::read_signed(rest)?;
            let range = read_range(rest)?;
            let selectors = read_selectors(rest)?;
            let greatest_block = BlockId(varint::read(rest)?);
            let count = read_count(rest, 1)?;
            let blocks = (0..count).map(|_| Some(BlockId(varint::read(rest)?)));
            let blocks = blocks.collect::<Option<_>>()?;
            let one = Tombstone { sequence, at_ms, range, selectors, greatest_block, blocks };
            self.tombstones.push(one);
        }
        rest.is_empty().then_some(())
    }

    /// The manifest's field of receipts.
    pub(crate) fn write_receipts(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for one in &self.receipts {
            varint::write(&mut out, one.id);
            let Receipt { at_ms, range, hidden, .. } = *one;
            Delete { at_ms, range, hidden, selectors: one.selectors.clone() }.write(&mut out);
            varint::write(&mut out, one.blocks_left);
            varint::write(&mut out, u64::from(one.freed_ms.is_some()));
            varint::write_signed(&mut out, one.freed_ms.unwrap_or(0));
            varint::write(&mut out, one.freed_bytes);
        }
        out
    }

    pub(crate) fn read_receipts(&mut self, mut field: &[u8]) -> Option<()> {
        let rest = &mut field;
        while !rest.is_empty() {
            let id = varint::read(rest)?;
            let delete = Delete::read(rest)?;
            let mut receipt = Receipt::of(&delete, id);
            receipt.blocks_left = varint::read(rest)?;
            let is_freed = varint::read(rest)? != 0;
            receipt.freed_ms = Some(varint::read_signed(rest)?).filter(|_| is_freed);
            receipt.freed_bytes = varint::read(rest)?;
            self.receipts.push(receipt);
        }
        Some(())
    }
}

/// The blocks that a delete finds.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// The greatest number that was given by then.
    pub(crate) greatest: BlockId,
    pub(crate) touched: Vec<BlockId>,
    /// A merge was begun before.
    pub(crate) in_the_making: bool,
}

impl Delete {
    /// The payload of its record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Delete> {
        let mut rest = payload;
        let delete = Delete::read(&mut rest)?;
        rest.is_empty().then_some(delete)
    }

    fn write(&self, out: &mut Vec<u8>) {
        varint::write_signed(out, self.at_ms);
        write_range(out, self.range);
        let Hides { series, samples, is_exact, blocks, bytes } = self.hidden;
        for number in [series, samples, u64::from(is_exact), blocks, bytes] {
            varint::write(out, number);
        }
        write_selectors(out, &self.selectors);
    }

    fn read(rest: &mut &[u8]) -> Option<Delete> {
        let at_ms = varint::read_signed(rest)?;
        let range = read_range(rest)?;
        let hidden = Hides {
            series: varint::read(rest)?,
            samples: varint::read(rest)?,
            is_exact: varint::read(rest)? != 0,
            blocks: varint::read(rest)?,
            bytes: varint::read(rest)?,
        };
        let selectors = read_selectors(rest)?;
        Some(Delete { at_ms, range, selectors, hidden })
    }
}

/// The selectors as they hold for series and their companions alike: no outsider knows the label
/// by which these differ.
fn for_companions_too(selectors: &[Vec<Matcher>]) -> Selectors {
    let of_companions = |matcher: &&Matcher| matcher.name() == companion::LABEL;
    let may_match = |matchers: &&Vec<Matcher>| {
        matchers.iter().filter(of_companions).all(Matcher::matches_empty)
    };
    let rest = |matchers: &Vec<Matcher>| {
        matchers.iter().filter(|matcher| !of_companions(matcher)).cloned().collect()
    };
    selectors.iter().filter(may_match).map(rest).collect()
}

fn selectors_bytes(selectors: &[Vec<Matcher>]) -> usize {
    selectors.iter().flatten().map(|one| one.name().len() + one.value().len() + 8).sum()
}

const OPS: [MatchOp; 4] = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];

fn write_selectors(out: &mut Vec<u8>, selectors: &[Vec<Matcher>]) {
    varint::write(out, selectors.len() as u64);
    for matchers in selectors {
        varint::write(out, matchers.len() as u64);
        for matcher in matchers {
            let op = OPS.iter().position(|op| *op == matcher.op()).expect("all are listed");
            out.push(op as u8);
            write_bytes(out, matcher.name().as_bytes());
            write_bytes(out, matcher.value().as_bytes());
        }
    }
}

fn read_selectors(rest: &mut &[u8]) -> Option<Selectors> {
    let text = |rest: &mut &[u8]| Some(std::str::from_utf8(read_bytes(rest)?).ok()?.to_owned());
    let mut selectors = Vec::new();
    for _ in 0..read_count(rest, 1)? {
        let mut matchers = Vec::new();
        for _ in 0..read_count(rest, 3)? {
            let (op, tail) = rest.split_first()?;
            *rest = tail;
            let op = *OPS.get(usize::from(*op))?;
            let name = text(rest)?;
            matchers.push(Matcher::new(name, op, text(rest)?).ok()?);
        }
        selectors.push(matchers);
    }
    Some(selectors)
}

fn write_range(out: &mut Vec<u8>, range: TimeRange) {
    varint::write_signed(out, range.start_ms);
    varint::write_signed(out, range.end_ms);
}

fn read_range(rest: &mut &[u8]) -> Option<TimeRange> {
    let start_ms = varint::read_signed(rest)?;
    Some(TimeRange::new(start_ms, varint::read_signed(rest)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn delete() -> Delete {
        let regex = Matcher::new("job", MatchOp::NotRegex, "a.*|").unwrap();
        Delete {
            at_ms: -7,
            range: TimeRange::ALL,
            selectors: vec![vec![Matcher::equal("__name__", "m"), regex], vec![]],
            hidden: Hides { series: 1, samples: 1 << 40, is_exact: true, blocks: 2, bytes: 300 },
        }
    }

    pub(crate) fn deletes() -> Deletes {
        let mut deletes = Deletes::default();
        for (sequence, touched) in [(5, vec![]), (8, vec![BlockId(2), BlockId(300)])] {
            let numbers = Numbers { greatest: BlockId(301), touched, in_the_making: false };
            deletes.push(sequence, &delete(), numbers);
        }
        deletes
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_not() {
        let bytes = delete().encode();
        assert_eq!(Delete::decode(&bytes), Some(delete()));
        assert!((0..bytes.len()).all(|end| Delete::decode(&bytes[..end]).is_none()));
        let none = Deletes::default();
        assert!(none.write_tombstones().is_empty() && none.write_receipts().is_empty());
        let deletes = deletes();
        assert_eq!((deletes.last, deletes.tombstones.len(), deletes.receipts.len()), (8, 1, 2));
        let mut read = Deletes::default();
        read.read_tombstones(&deletes.write_tombstones()).unwrap();
        read.read_receipts(&deletes.write_receipts()).unwrap();
        assert_eq!(read, deletes);
    }

    #[test]
    fn companions_are_found_with_their_series() {
        let equal = |name, value| Matcher::equal(name, value);
        let asked = [
            vec![equal("a", "b"), equal(companion::LABEL, "")],
            vec![equal(companion::LABEL, "ms")],
        ];
        assert_eq!(for_companions_too(&asked), [vec![equal("a", "b")]]);
    }
}
