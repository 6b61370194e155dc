//! Postings as bytes: a tag, then whichever of two forms is shorter.
//!
//! ```text
//! 0  runs      for each run of successive ids: varint 2 × gap + (1 if longer than one id),
//!              then, if so, varint length − 2. The gap counts the ids left out since the run
//!              before (at least one, so less 1), for the first run since 0.
//! 1  bitmap    in the Roaring format specification's portable form, run containers included
//! ```
//!
//! Where ids are given in the order of the targets, most postings are a few runs.

use roaring::RoaringBitmap;

use super::postings::Union;
use crate::encoding::varint;

const RUNS: u8 = 0;
const BITMAP: u8 = 1;

/// Runs shorter than this many bytes are never longer than a bitmap, whose own frame is no less.
const SMALLEST_BITMAP_BYTES: usize = 16;

/// A run of fewer ids is quicker inserted one by one.
const LONG_RUN: u32 = 8;

/// Collects ascending ids, packed as they come.
#[derive(Debug, Default)]
pub(crate) struct PackedPostings {
    /// Tag and all runs but the last.
    bytes: Vec<u8>,
    /// Where the run before the last ended.
    previous_end: u32,
    start: u32,
    /// After the last id; equal to `start` before the first.
    end: u32,
}

impl PackedPostings {
    /// Adds an id greater than all before it.
    pub(crate) fn push(&mut self, id: u32) {
        if self.start == self.end {
            self.start = id;
        } else if id != self.end {
            assert!(id > self.end, "ids are added in ascending order");
            self.close_run();
            self.start = id;
        }
        self.end = id.checked_add(1).expect("ids are less than u32::MAX");
    }

    fn close_run(&mut self) {
        let first = self.bytes.is_empty();
        if first {
            self.bytes.push(RUNS);
        }
        write_run(&mut self.bytes, first, self.previous_end, self.start, self.end);
        self.previous_end = self.end;
    }

    /// The shorter form. There must be an id.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        assert!(self.start < self.end, "postings are not empty");
        self.close_run();
        if self.bytes.len() <= SMALLEST_BITMAP_BYTES {
            return self.bytes;
        }
        let mut bitmap = RoaringBitmap::new();
        let packed = each_run(&self.bytes[1..], u32::MAX, |start, end| {
            bitmap.insert_range(start..end);
        });
        packed.expect("these runs were written here");
        bitmap.optimize();
        if 1 + bitmap.serialized_size() >= self.bytes.len() {
            return self.bytes;
        }
        let mut bytes = vec![BITMAP];
        bitmap.serialize_into(&mut bytes).expect("writing to memory does not fail");
        bytes
    }
}

fn write_run(bytes: &mut Vec<u8>, first: bool, previous_end: u32, start: u32, end: u32) {
    let gap = start - previous_end - u32::from(!first);
    let length = end - start;
    varint::write(bytes, u64::from(gap) << 1 | u64::from(length > 1));
    if length > 1 {
        varint::write(bytes, u64::from(length - 2));
    }
}

/// Calls for each run of ids below `limit`; `None` if the bytes are not such runs.
fn each_run(mut bytes: &[u8], limit: u32, mut visit: impl FnMut(u32, u32)) -> Option<()> {
    let mut previous_end: Option<u32> = None;
    while !bytes.is_empty() {
        let word = varint::read(&mut bytes)?;
        let gap = u32::try_from(word >> 1).ok()?;
        let start = match previous_end {
            None => gap,
            Some(end) => end.checked_add(1)?.checked_add(gap)?,
        };
        let length = match word & 1 {
            0 => 1,
            _ => u32::try_from(varint::read(&mut bytes)?).ok()?.checked_add(2)?,
        };
        let end = start.checked_add(length).filter(|end| *end <= limit)?;
        visit(start, end);
        previous_end = Some(end);
    }
    Some(())
}

/// The ids, all below `limit`; `None` if the bytes are no such postings.
pub(crate) fn decode(bytes: &[u8], limit: u32) -> Option<RoaringBitmap> {
    let (tag, body) = bytes.split_first()?;
    match *tag {
        RUNS => {
            let mut bitmap = RoaringBitmap::new();
            let mut ascending = true;
            each_run(body, limit, |start, end| {
                if end - start < LONG_RUN {
                    ascending &= (start..end).all(|id| bitmap.try_push(id).is_ok());
                } else {
                    bitmap.insert_range(start..end);
                }
            })?;
            ascending.then_some(bitmap)
        }
        BITMAP => decode_bitmap(body, limit),
        _ => None,
    }
}

/// How many of the ids are among `of`, or how many there are; as [`decode`].
pub(super) fn count(bytes: &[u8], limit: u32, of: Option<&RoaringBitmap>) -> Option<u64> {
    let (tag, body) = bytes.split_first()?;
    match (*tag, of) {
        (RUNS, of) => {
            let mut count = 0;
            each_run(body, limit, |start, end| {
                count += match of {
                    None => u64::from(end - start),
                    Some(of) if end - start == 1 => u64::from(of.contains(start)),
                    Some(of) => of.range_cardinality(start..end),
                };
            })?;
            Some(count)
        }
        (BITMAP, None) => Some(decode_bitmap(body, limit)?.len()),
        (BITMAP, Some(of)) => Some(decode_bitmap(body, limit)?.intersection_len(of)),
        _ => None,
    }
}

/// Adds the ids to a union; as [`decode`].
pub(super) fn decode_into(bytes: &[u8], limit: u32, union: &mut Union) -> Option<()> {
    let (tag, body) = bytes.split_first()?;
    match *tag {
        RUNS => each_run(body, limit, |start, end| union.add_range(start, end - 1)),
        BITMAP => {
            union.add_bitmap(&decode_bitmap(body, limit)?);
            Some(())
        }
        _ => None,
    }
}

fn decode_bitmap(mut body: &[u8], limit: u32) -> Option<RoaringBitmap> {
    let bitmap = RoaringBitmap::deserialize_from(&mut body).ok()?;
    let inside = bitmap.max().is_none_or(|max| max < limit);
    (inside && body.is_empty()).then_some(bitmap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pack(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let mut packed = PackedPostings::default();
        ids.into_iter().for_each(|id| packed.push(id));
        packed.finish()
    }

    fn check(ids: &BTreeSet<u32>) {
        let bytes = pack(ids.iter().copied());
        let limit = ids.last().unwrap() + 1;
        assert!(decode(&bytes, limit).unwrap().iter().eq(ids.iter().copied()));
        assert_eq!(decode(&bytes, limit - 1), None, "an id is not below the limit");
        let mut union = Union::default();
        decode_into(&bytes, limit, &mut union).unwrap();
        assert!(union.finish().iter().eq(ids.iter().copied()));
        let odd: RoaringBitmap = ids.iter().copied().filter(|id| id % 2 == 1).collect();
        assert_eq!(count(&bytes, limit, None), Some(ids.len() as u64));
        assert_eq!(count(&bytes, limit, Some(&odd)), Some(odd.len()));
    }

    #[test]
    fn each_form_where_it_is_shorter() {
        assert_eq!(pack([0]), [RUNS, 0]);
        assert_eq!(pack(0..1_000_000).len(), 5);
        assert_eq!(pack((0..1000).map(|i| i * 700)).len(), 1 + 1 + 999 * 2);
        let every_other = pack((0..60_000).map(|i| i * 2));
        assert_eq!(every_other[0], BITMAP);
        assert!(every_other.len() < 20_000);
        check(&(0..60_000).map(|i| i * 2).collect());
        check(&(0..3).chain(1000..1050).chain([u32::MAX - 1]).collect());
    }

    proptest! {
        #[test]
        fn round_trip(runs in prop::collection::vec((0u32..3000, 1u32..40), 1..200)) {
            let mut ids = BTreeSet::new();
            let mut next = 0;
            for (gap, length) in runs {
                ids.extend(next + gap..next + gap + length);
                next += gap + length;
            }
            check(&ids);
        }

        #[test]
        fn any_bytes_are_safe(tag in 0u8..3, bytes: Vec<u8>) {
            let bytes = [&[tag][..], &bytes].concat();
            decode(&bytes, 1 << 20);
            decode_into(&bytes, 1 << 20, &mut Union::default());
            let counted = count(&bytes, 1 << 20, Some(&RoaringBitmap::new()));
            assert!(counted.is_none_or(|count| count == 0));
        }
    }
}
