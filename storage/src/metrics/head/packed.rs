//! Packed bytes: the mini-chunks of a series one after the other.
//!
//! A list of entries, each with a tag. An entry of samples holds those of one window only; an entry
//! of its own names the window where it changes. A checkpoint stores the bytes as they are; they
//! are pictured in docs/format.md, "Checkpoint".

use crate::encoding::varint::{self, read_bytes, write_bytes};
use crate::time::WINDOW_MS;

const TAG_WINDOW: u8 = 0;
const TAG_FLOATS_SHARED: u8 = 1;
const TAG_FLOATS_OWN: u8 = 2;
const TAG_HISTOGRAMS: u8 = 3;

/// Stands for the window before the first entry.
pub(super) const NO_WINDOW: i64 = i64::MIN;

/// One packed entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry<'a> {
    Floats { count: u8, times: Times<'a>, values: &'a [u8] },
    Histograms { count: u8, times: &'a [u8], values: &'a [u8] },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Times<'a> {
    Shared(u32),
    Own(&'a [u8]),
}

impl Times<'_> {
    pub(super) fn shared(self) -> Option<u32> {
        match self {
            Times::Shared(id) => Some(id),
            Times::Own(_) => None,
        }
    }
}

impl Entry<'_> {
    /// What it takes in packed bytes, or a little less.
    pub(super) fn bytes_max(&self) -> usize {
        match self {
            Entry::Floats { times: Times::Shared(_), values, .. } => values.len() + 8,
            Entry::Floats { times: Times::Own(times), values, .. }
            | Entry::Histograms { times, values, .. } => times.len() + values.len() + 8,
        }
    }
}

/// Walks packed bytes. Stops early, with `rest` not empty, at bytes that are no entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
    window: i64,
}

impl<'a> Entries<'a> {
    pub(super) fn new(packed: &'a [u8]) -> Entries<'a> {
        Entries { rest: packed, window: NO_WINDOW }
    }

    /// Begins at an entry of this window.
    pub(super) fn within(window: i64, packed: &'a [u8]) -> Entries<'a> {
        Entries { rest: packed, window }
    }

    /// Bytes behind the entry that was read last.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Whether all bytes were entries, once there is no next one.
    pub(super) fn is_complete(&self) -> bool {
        self.rest.is_empty()
    }

    /// Passes the entries of windows that start before `window`. Where an entry is neither passed
    /// nor known, [`Self::next`] will say so.
    pub(super) fn skip_before(&mut self, window: i64) {
        while self.window < window {
            match *self.rest {
                [TAG_FLOATS_SHARED, _, _, _, _, _, length @ 0..0x80, ..] => {
                    let Some(rest) = self.rest.get(7 + usize::from(length)..) else { return };
                    self.rest = rest;
                }
                [TAG_WINDOW, ref tail @ ..] => {
                    let mut rest = tail;
                    let number = varint::read_signed(&mut rest);
                    let Some(next) = number.and_then(|number| number.checked_mul(WINDOW_MS)) else {
                        return;
                    };
                    (self.rest, self.window) = (rest, next);
                }
                _ => {
                    if self.next().is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// The bytes from here to a later place of the same walk.
    pub(super) fn bytes_to(&self, later: &Entries<'_>) -> &'a [u8] {
        &self.rest[..self.rest.len() - later.rest.len()]
    }

    /// The entry and the start of its window.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<(i64, Entry<'a>)> {
        // Most entries are of this kind, their lengths of a byte or two.
        if let Some((&[TAG_FLOATS_SHARED, count, a, b, c, d, low, high], _)) =
            self.rest.split_first_chunk::<8>()
            && (low < 0x80 || high < 0x80)
        {
            let (start, length) = match low < 0x80 {
                true => (7, usize::from(low)),
                false => (8, usize::from(low & 0x7f) | usize::from(high) << 7),
            };
            let (values, rest) = self.rest[start..].split_at_checked(length)?;
            self.rest = rest;
            let times = Times::Shared(u32::from_le_bytes([a, b, c, d]));
            return Some((self.window, Entry::Floats { count, times, values }));
        }
        self.next_of_any_kind()
    }

    fn next_of_any_kind(&mut self) -> Option<(i64, Entry<'a>)> {
        loop {
            let mut rest = self.rest;
            let (tag, tail) = rest.split_first()?;
            rest = tail;
            if *tag == TAG_WINDOW {
                self.window = varint::read_signed(&mut rest)?.checked_mul(WINDOW_MS)?;
                self.rest = rest;
                continue;
            }
            let (count, tail) = rest.split_first()?;
            rest = tail;
            let entry = match *tag {
                TAG_FLOATS_SHARED => {
                    let (id, tail) = rest.split_first_chunk::<4>()?;
                    rest = tail;
                    let times = Times::Shared(u32::from_le_bytes(*id));
                    Entry::Floats { count: *count, times, values: read_bytes(&mut rest)? }
                }
                TAG_FLOATS_OWN => {
                    let times = Times::Own(read_bytes(&mut rest)?);
                    Entry::Floats { count: *count, times, values: read_bytes(&mut rest)? }
                }
                TAG_HISTOGRAMS => {
                    let times = read_bytes(&mut rest)?;
                    Entry::Histograms { count: *count, times, values: read_bytes(&mut rest)? }
                }
                _ => return None,
            };
            self.rest = rest;
            return Some((self.window, entry));
        }
    }
}

/// Appends an entry and gives its place. `last_window` is the window of the entry before it, and
/// then of this one.
pub(super) fn push(
    out: &mut Vec<u8>,
    last_window: &mut i64,
    window: i64,
    entry: &Entry<'_>,
) -> usize {
    if *last_window != window {
        out.push(TAG_WINDOW);
        varint::write_signed(out, window / WINDOW_MS);
        *last_window = window;
    }
    let place = out.len();
    match entry {
        Entry::Floats { count, times: Times::Shared(id), values } => {
            out.extend_from_slice(&[TAG_FLOATS_SHARED, *count]);
            out.extend_from_slice(&id.to_le_bytes());
            write_bytes(out, values);
        }
        Entry::Floats { count, times: Times::Own(times), values } => {
            out.extend_from_slice(&[TAG_FLOATS_OWN, *count]);
            write_bytes(out, times);
            write_bytes(out, values);
        }
        Entry::Histograms { count, times, values } => {
            out.extend_from_slice(&[TAG_HISTOGRAMS, *count]);
            write_bytes(out, times);
            write_bytes(out, values);
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_pushed_and_cut_ones_are_told() {
        let (mut bytes, mut last) = (Vec::new(), NO_WINDOW);
        let shared = Entry::Floats { count: 3, times: Times::Shared(70_000), values: b"abc" };
        let own = Entry::Floats { count: 2, times: Times::Own(b"t"), values: b"" };
        let histograms = Entry::Histograms { count: 1, times: b"u", values: b"vw" };
        for (window, entry) in [(-WINDOW_MS, shared), (0, own), (0, histograms)] {
            push(&mut bytes, &mut last, window, &entry);
        }
        let mut entries = Entries::new(&bytes);
        let found: Vec<String> =
            std::iter::from_fn(|| entries.next()).map(|found| format!("{found:?}")).collect();
        let pushed = [(-WINDOW_MS, shared), (0, own), (0, histograms)];
        assert_eq!(found, pushed.map(|pushed| format!("{pushed:?}")));
        assert!(entries.is_complete());
        for (window, left) in [(i64::MIN, 3), (-WINDOW_MS, 3), (1 - WINDOW_MS, 2), (0, 2), (1, 0)] {
            let mut entries = Entries::new(&bytes);
            entries.skip_before(window);
            assert_eq!(std::iter::from_fn(|| entries.next()).count(), left, "{window}");
        }
        let mut cut = Entries::new(&bytes[..bytes.len() - 1]);
        assert_eq!(std::iter::from_fn(|| cut.next()).count(), 2);
        assert!(!cut.is_complete());
    }
}
