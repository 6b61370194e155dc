//! What can be read off a pattern without running it: the only values that it matches, the
//! literals between its `.*`, or at least how each match begins.

use memchr::memmem::Finder;
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

/// Values of a pattern that does not write them out, such as `[a-d][0-9]`: looking up more of them
/// is slower than to look at what there is.
const VALUES_MAX: usize = 256;

/// Bytes of all of them, since each may repeat a long literal.
const VALUES_BYTES_MAX: usize = 1 << 20;

/// The pattern without the anchors at its ends, which change nothing for whole values.
pub(super) fn unanchored(hir: Hir) -> Hir {
    let is = |hir: &Hir, look| matches!(hir.kind(), HirKind::Look(found) if *found == look);
    match hir.kind() {
        HirKind::Look(Look::Start | Look::End) => return Hir::empty(),
        HirKind::Concat(parts)
            if parts.first().is_some_and(|part| is(part, Look::Start))
                || parts.last().is_some_and(|part| is(part, Look::End)) => {}
        _ => return hir,
    }
    let HirKind::Concat(mut parts) = hir.into_kind() else { unreachable!("it was one") };
    let leading = parts.iter().take_while(|part| is(part, Look::Start)).count();
    parts.drain(..leading);
    while parts.last().is_some_and(|part| is(part, Look::End)) {
        parts.pop();
    }
    Hir::concat(parts)
}

/// The only values that match, in order, if they are few or written out.
pub(super) fn values(hir: &Hir, pattern: &str) -> Option<Box<[Box<str>]>> {
    let written = 1 + pattern.bytes().filter(|&byte| byte == b'|').count();
    let mut values = all_values(hir, VALUES_MAX.max(written))?;
    values.sort_unstable();
    values.dedup();
    values.into_iter().map(|value| Some(String::from_utf8(value).ok()?.into_boxed_str())).collect()
}

fn all_values(hir: &Hir, max: usize) -> Option<Vec<Vec<u8>>> {
    match hir.kind() {
        HirKind::Empty => Some(vec![Vec::new()]),
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Class(class) => class_values(class, max),
        HirKind::Capture(capture) => all_values(&capture.sub, max),
        HirKind::Concat(parts) => {
            let mut values = vec![Vec::new()];
            for part in parts {
                values = product(values, &all_values(part, max)?, max)?;
            }
            Some(values)
        }
        HirKind::Alternation(branches) => {
            let mut values = Vec::new();
            for branch in branches {
                values.append(&mut all_values(branch, max)?);
                if values.len() > max {
                    return None;
                }
            }
            Some(values)
        }
        HirKind::Repetition(Repetition { min, max: Some(most), sub, .. }) => {
            let once = all_values(sub, max)?;
            let mut power = vec![Vec::new()];
            let mut values = Vec::new();
            for times in 0..=*most {
                if times > 0 {
                    power = product(power, &once, max)?;
                }
                if times >= *min {
                    values.extend_from_slice(&power);
                }
                if values.len() > max || bytes_of(&values) > VALUES_BYTES_MAX {
                    return None;
                }
            }
            Some(values)
        }
        HirKind::Repetition(_) | HirKind::Look(_) => None,
    }
}

/// Each of `left` with each of `right` behind it.
fn product(mut left: Vec<Vec<u8>>, right: &[Vec<u8>], max: usize) -> Option<Vec<Vec<u8>>> {
    let bytes = bytes_of(&left) * right.len() + bytes_of(right) * left.len();
    if left.len() * right.len() > max || bytes > VALUES_BYTES_MAX {
        return None;
    }
    if let [end] = right {
        left.iter_mut().for_each(|start| start.extend_from_slice(end));
        return Some(left);
    }
    let all = left.iter().flat_map(|start| right.iter().map(move |end| [&start[..], end].concat()));
    Some(all.collect())
}

fn bytes_of(values: &[Vec<u8>]) -> usize {
    values.iter().map(Vec::len).sum()
}

fn class_values(class: &Class, max: usize) -> Option<Vec<Vec<u8>>> {
    let class = match class {
        Class::Unicode(class) => class,
        // The empty class has this form.
        Class::Bytes(class) => return class.ranges().is_empty().then(Vec::new),
    };
    let count: usize = class.ranges().iter().map(|range| range.len()).sum();
    let all = || class.ranges().iter().flat_map(|range| range.start()..=range.end());
    (count <= max).then(|| all().map(|c| c.to_string().into_bytes()).collect())
}

/// A literal with which every match begins, possibly "".
pub(super) fn prefix(hir: &Hir) -> Box<str> {
    let (bytes, _) = prefix_bytes(hir);
    // Branches may have had half a character in common.
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    text.into()
}

/// Such a literal, and whether it is the whole of every match.
fn prefix_bytes(hir: &Hir) -> (Vec<u8>, bool) {
    match hir.kind() {
        HirKind::Empty => (Vec::new(), true),
        HirKind::Literal(literal) => (literal.0.to_vec(), true),
        HirKind::Capture(capture) => prefix_bytes(&capture.sub),
        HirKind::Look(_) => (Vec::new(), true),
        HirKind::Class(_) => (Vec::new(), false),
        HirKind::Repetition(repetition) if repetition.min == 0 => (Vec::new(), false),
        HirKind::Repetition(repetition) => (prefix_bytes(&repetition.sub).0, false),
        HirKind::Concat(parts) => {
            let mut prefix = Vec::new();
            for part in parts {
                let (mut bytes, whole) = prefix_bytes(part);
                prefix.append(&mut bytes);
                if !whole {
                    return (prefix, false);
                }
            }
            (prefix, true)
        }
        HirKind::Alternation(branches) => {
            let mut branches = branches.iter().map(prefix_bytes);
            let Some((mut common, mut whole)) = branches.next() else { return (Vec::new(), false) };
            for (bytes, complete) in branches {
                let same = common.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
                whole &= complete && same == common.len() && same == bytes.len();
                common.truncate(same);
            }
            (common, whole)
        }
    }
}

/// Literals with gaps between them: `a.*b.+c`, `5..`, or one of several such.
#[derive(Clone, Debug)]
pub(super) struct Gaps {
    prefix: Box<str>,
    /// Each with the least length of the gap before it, which has no greatest.
    middle: Vec<(usize, Finder<'static>)>,
    last: Gap,
    suffix: Box<str>,
}

/// Any text of so many characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    min: usize,
    max: Option<usize>,
}

impl Gap {
    const NONE: Gap = Gap { min: 0, max: Some(0) };
    pub(super) const ANY: Gap = Gap { min: 0, max: None };
    pub(super) const NOT_EMPTY: Gap = Gap { min: 1, max: None };

    fn of(hir: &Hir) -> Option<Gap> {
        match hir.kind() {
            HirKind::Repetition(Repetition { min, max, sub, .. }) if is_any(sub) => {
                Some(Gap { min: *min as usize, max: max.map(|max| max as usize) })
            }
            _ => is_any(hir).then_some(Gap { min: 1, max: Some(1) }),
        }
    }

    fn and(self, next: Gap) -> Gap {
        let max = self.max.zip(next.max).map(|(one, other)| one + other);
        Gap { min: self.min + next.min, max }
    }

    fn fits(self, text: &str) -> bool {
        match self.max {
            None => skipped(text, self.min).is_some(),
            // No character has more than four bytes.
            Some(max) => text.len() <= 4 * max && (self.min..=max).contains(&text.chars().count()),
        }
    }
}

/// Alternatives are tried one after another: more than these are left to an automaton.
const ALTERNATIVES_MAX: usize = 8;

impl Gaps {
    /// `None` if the pattern has another form.
    pub(super) fn all(hir: &Hir) -> Option<Box<[Gaps]>> {
        match hir.kind() {
            HirKind::Alternation(branches) if branches.len() <= ALTERNATIVES_MAX => {
                branches.iter().map(Gaps::new).collect()
            }
            _ => Gaps::new(hir).map(|gaps| vec![gaps].into()),
        }
    }

    fn new(hir: &Hir) -> Option<Gaps> {
        let parts = match hir.kind() {
            HirKind::Concat(parts) => parts,
            _ => std::slice::from_ref(hir),
        };
        let mut prefix = "";
        let mut middle = Vec::new();
        // The gap that was read last, with the literal behind it.
        let mut open: Option<(Gap, &str)> = None;
        for part in parts {
            if let HirKind::Literal(literal) = part.kind() {
                let text = std::str::from_utf8(&literal.0).ok()?;
                match &mut open {
                    None => prefix = text,
                    Some((_, after)) => *after = text,
                }
                continue;
            }
            let gap = Gap::of(part)?;
            open = match open {
                None => Some((gap, "")),
                Some((before, "")) => Some((before.and(gap), "")),
                Some((Gap { min, max: None }, literal)) => {
                    middle.push((min, Finder::new(literal).into_owned()));
                    Some((gap, ""))
                }
                Some(_) => return None,
            };
        }
        let (last, suffix) = open.unwrap_or((Gap::NONE, ""));
        if last.max.is_some() && !middle.is_empty() {
            return None;
        }
        Some(Gaps { prefix: prefix.into(), middle, last, suffix: suffix.into() })
    }

    /// The gap, if there is nothing else.
    pub(super) fn only(&self) -> Option<Gap> {
        let bare = self.prefix.is_empty() && self.middle.is_empty() && self.suffix.is_empty();
        bare.then_some(self.last)
    }

    /// The first place is the best for each literal: it leaves most to those behind it. Where a gap
    /// has a greatest length, both literals around it have but one place.
    pub(super) fn matches(&self, value: &str) -> bool {
        if !starts_with(value, &self.prefix) {
            return false;
        }
        let inner = &value[self.prefix.len()..];
        if !self.suffix.is_empty() && !inner.ends_with(&*self.suffix) {
            return false;
        }
        let mut rest = &inner[..inner.len() - self.suffix.len()];
        for (gap, literal) in &self.middle {
            let Some(behind) = skipped(rest, *gap) else { return false };
            let Some(at) = literal.find(behind.as_bytes()) else { return false };
            rest = &behind[at + literal.needle().len()..];
        }
        self.last.fits(rest)
    }
}

/// Nothing is not compared: vector instructions take 100 ns to load nothing from nowhere, which is
/// where an empty `Box` points.
pub(super) fn starts_with(value: &str, prefix: &str) -> bool {
    prefix.is_empty() || value.starts_with(prefix)
}

/// Without its first `count` characters; `None` if it has fewer.
fn skipped(text: &str, count: usize) -> Option<&str> {
    if count == 0 {
        return Some(text);
    }
    let (at, c) = text.char_indices().nth(count - 1)?;
    Some(&text[at + c.len_utf8()..])
}

fn is_any(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => match class.ranges() {
            [all] => (all.start(), all.end()) == ('\0', char::MAX),
            _ => false,
        },
        _ => false,
    }
}
