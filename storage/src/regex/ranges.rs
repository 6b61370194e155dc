//! Sets of code points as ranges, the way character classes are put together.
//!
//! Go's classes may name surrogates, so the ends are numbers; surrogates go when a set becomes a
//! class of the automaton, whose texts have none.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir};

/// The last code point.
pub(super) const LAST: u32 = 0x10_ffff;

/// Ranges kept before they are merged: classes like `[\pL\pL\pL…]` repeat themselves.
const UNMERGED_MAX: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// Both ends included; in any order until [`Ranges::merge`].
    ranges: Vec<(u32, u32)>,
    /// The length after the last merge.
    merged: usize,
}

impl Ranges {
    pub(super) fn of(ranges: &[(u32, u32)]) -> Ranges {
        Ranges { ranges: ranges.to_vec(), merged: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn push(&mut self, low: u32, high: u32) {
        self.ranges.push((low, high));
        if self.ranges.len() > UNMERGED_MAX + 2 * self.merged {
            self.merge();
        }
    }

    pub(super) fn add(&mut self, other: &Ranges) {
        for &(low, high) in &other.ranges {
            self.push(low, high);
        }
    }

    /// Sorts, and joins what overlaps or touches.
    fn merge(&mut self) {
        self.ranges.sort_unstable();
        let mut kept: usize = 0;
        for at in 0..self.ranges.len() {
            let (low, high) = self.ranges[at];
            match kept.checked_sub(1).map(|last| &mut self.ranges[last]) {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => {
                    self.ranges[kept] = (low, high);
                    kept += 1;
                }
            }
        }
        self.ranges.truncate(kept);
        self.merged = kept;
    }

    /// All other code points.
    pub(super) fn negated(mut self) -> Ranges {
        self.merge();
        let mut others = Ranges::default();
        let mut next = 0;
        for &(low, high) in &self.ranges {
            if next < low {
                others.ranges.push((next, low - 1));
            }
            next = high + 1;
        }
        if next <= LAST {
            others.ranges.push((next, LAST));
        }
        others
    }

    /// With all that differ from these in case only.
    pub(super) fn folded(mut self) -> Ranges {
        self.merge();
        let folds = folds();
        for at in 0..self.ranges.len() {
            let (low, high) = self.ranges[at];
            let start = folds.partition_point(|fold| fold.0 < low);
            let within = folds[start..].iter().take_while(|fold| fold.0 <= high);
            self.ranges.extend(within.map(|&(_, other)| (other, other)));
        }
        self.merge();
        self
    }

    pub(super) fn into_hir(mut self) -> Hir {
        self.merge();
        let ranges = self.ranges.iter().filter_map(|&(low, high)| {
            let low = char::from_u32(low).unwrap_or('\u{e000}');
            let high = char::from_u32(high).unwrap_or('\u{d7ff}');
            (low <= high).then(|| ClassUnicodeRange::new(low, high))
        });
        Hir::class(Class::Unicode(ClassUnicode::new(ranges)))
    }
}

impl From<&ClassUnicode> for Ranges {
    fn from(class: &ClassUnicode) -> Ranges {
        let ranges = class.ranges().iter();
        let ranges = ranges.map(|range| (u32::from(range.start()), u32::from(range.end())));
        Ranges { ranges: ranges.collect(), merged: 0 }
    }
}

/// Each code point with each other one from which it differs in case only (Unicode's simple
/// folding), in order.
fn folds() -> &'static [(u32, u32)] {
    static FOLDS: OnceLock<Vec<(u32, u32)>> = OnceLock::new();
    FOLDS.get_or_init(|| {
        let has_case = |c: char| c.to_lowercase().ne([c]) || c.to_uppercase().ne([c]);
        let mut folds = Vec::new();
        for c in ('\0'..=char::MAX).filter(|&c| has_case(c)) {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            class.case_fold_simple();
            let all = class.ranges().iter().flat_map(|range| range.start()..=range.end());
            folds.extend(all.filter(|&other| other != c).map(|other| (c.into(), other.into())));
        }
        folds
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let mut all = Ranges::of(ranges);
        all.merge();
        all.ranges
    }

    #[test]
    fn what_overlaps_or_touches_is_joined() {
        assert_eq!(merged(&[(5, 9), (1, 2), (3, 3), (6, 7)]), [(1, 3), (5, 9)]);
        assert_eq!(merged(&[]), []);
    }

    #[test]
    fn the_negation_of_a_negation_is_the_set() {
        for set in [&[(0, 4), (9, LAST)][..], &[(7, 7)], &[], &[(0, LAST)]] {
            assert_eq!(Ranges::of(set).negated().negated().ranges, set);
        }
    }

    #[test]
    fn folding_adds_all_of_an_orbit() {
        let k = Ranges::of(&[(u32::from('k'), u32::from('k'))]).folded();
        assert_eq!(k.ranges, [(0x4b, 0x4b), (0x6b, 0x6b), (0x212a, 0x212a)]);
        assert_eq!(Ranges::of(&[(0x30, 0x39)]).folded().ranges, [(0x30, 0x39)]);
    }

    #[test]
    fn folding_is_that_of_the_unicode_tables() {
        let every = Ranges::of(&[(0x100, 0x24f)]).folded();
        let mut class = ClassUnicode::new([ClassUnicodeRange::new('\u{100}', '\u{24f}')]);
        class.case_fold_simple();
        assert_eq!(every.ranges, Ranges::from(&class).ranges);
    }
}
