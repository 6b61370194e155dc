//! Selection: which series fulfil all of some matchers.
//!
//! Each matcher becomes a **condition**: keep the series that have one of some values, or drop
//! those that do. A matcher that the empty value fulfils drops, since it also accepts the series
//! without the label; any other keeps. Conditions that are cheap and keep little come first. A
//! pattern is evaluated once for each value of its label; or, once few series are left, only for the
//! values that those series have.

use std::borrow::Cow;

use hashbrown::HashTable;
use roaring::RoaringBitmap;

use crate::matcher::{MatchOp, Matcher};
use crate::regex::Extent;

/// What selection needs of an index.
pub(super) trait Terms {
    type Error;

    fn all(&self) -> Cow<'_, RoaringBitmap>;

    /// The series that have a label, whatever its value.
    fn named(&self, name: &str) -> Result<Cow<'_, RoaringBitmap>, Self::Error>;

    fn postings(&self, name: &str, value: &str) -> Result<Cow<'_, RoaringBitmap>, Self::Error>;

    /// Whether [`Terms::filter`] of these series is less work than [`Terms::scan`] of all values.
    fn is_filter_shorter(&self, ids: &RoaringBitmap, name: &str) -> bool;

    /// The series whose value of the label is accepted; only values that start with `prefix`
    /// are asked for, and each once.
    fn scan(
        &self,
        name: &str,
        prefix: &str,
        accept: &mut dyn FnMut(&str) -> bool,
    ) -> Result<RoaringBitmap, Self::Error>;

    /// Those of `ids` that have the label with a value that is accepted; each value is asked for
    /// once.
    fn filter(
        &self,
        ids: &RoaringBitmap,
        name: &str,
        accept: &mut dyn FnMut(&str) -> bool,
    ) -> Result<RoaringBitmap, Self::Error>;
}

#[derive(Debug)]
struct Condition<'a> {
    name: &'a str,
    keeps: bool,
    values: Values<'a>,
}

/// The values of a label by which a condition keeps or drops.
#[derive(Debug)]
enum Values<'a> {
    /// These, none of them empty.
    Literals(Vec<&'a str>),
    /// Any.
    All,
    /// Those that start with the prefix and that the matcher accepts, or does not accept.
    Judged { matcher: &'a Matcher, accepted: bool, prefix: &'a str },
}

/// The series that fulfil all of `matchers`; all series, if there are none.
pub(super) fn select<T: Terms>(terms: &T, matchers: &[Matcher]) -> Result<RoaringBitmap, T::Error> {
    let mut conditions: Vec<Condition<'_>> = matchers.iter().filter_map(condition).collect();
    conditions.sort_by_key(Condition::rank);
    let mut found: Option<RoaringBitmap> = None;
    for condition in &conditions {
        match &mut found {
            Some(found) if found.is_empty() => break,
            Some(found) => narrow(terms, condition, found)?,
            None if condition.keeps => found = Some(union_of(terms, condition)?.into_owned()),
            None => {
                let mut all = terms.all().into_owned();
                narrow(terms, condition, &mut all)?;
                found = Some(all);
            }
        }
    }
    Ok(found.unwrap_or_else(|| terms.all().into_owned()))
}

/// `None` if every series fulfils the matcher.
fn condition(matcher: &Matcher) -> Option<Condition<'_>> {
    let keeps = !matcher.matches_empty();
    let judged = |accepted, prefix| Values::Judged { matcher, accepted, prefix };
    let values = match matcher.regex() {
        None if matcher.value().is_empty() => Values::All,
        None => Values::Literals(vec![matcher.value()]),
        Some(regex) => {
            let negative = matcher.op() == MatchOp::NotRegex;
            match regex.extent() {
                Extent::Everything if negative => Values::Literals(Vec::new()),
                Extent::Everything => return None,
                Extent::NonEmpty => Values::All,
                // The values that the pattern matches are those by which it keeps or drops.
                Extent::Values(values) if keeps != negative => {
                    Values::Literals(values.iter().map(|value| &**value).collect())
                }
                Extent::Prefix(prefix) if keeps != negative => judged(!negative, prefix),
                Extent::Values([empty]) if empty.is_empty() => Values::All,
                Extent::Values(_) | Extent::Prefix(_) => judged(negative, ""),
            }
        }
    };
    // `!~".*"` is fulfilled by nothing: to keep the series with one of no values says so.
    Some(Condition { name: matcher.name(), keeps, values })
}

impl Condition<'_> {
    /// Cheap and selective conditions first.
    fn rank(&self) -> u32 {
        match (self.keeps, &self.values) {
            (true, Values::Literals(values)) if values.len() <= 1 => 0,
            (true, Values::Literals(_)) => 1,
            (true, Values::Judged { prefix, .. }) if !prefix.is_empty() => 2,
            (true, Values::All) => 3,
            (false, Values::Literals(_) | Values::All) => 4,
            (_, Values::Judged { .. }) => 5,
        }
    }
}

/// The series with a value that the condition means.
fn union_of<'t, T: Terms>(
    terms: &'t T,
    condition: &Condition<'_>,
) -> Result<Cow<'t, RoaringBitmap>, T::Error> {
    let name = condition.name;
    match &condition.values {
        Values::All => terms.named(name),
        Values::Literals(values) => match values[..] {
            [value] => terms.postings(name, value),
            _ => {
                let mut union = RoaringBitmap::new();
                for value in values {
                    union |= &*terms.postings(name, value)?;
                }
                Ok(Cow::Owned(union))
            }
        },
        Values::Judged { matcher, accepted, prefix } => {
            let mut accept = |value: &str| matcher.matches(value) == *accepted;
            terms.scan(name, prefix, &mut accept).map(Cow::Owned)
        }
    }
}

/// Applies a condition to what has been found so far.
fn narrow<T: Terms>(
    terms: &T,
    condition: &Condition<'_>,
    found: &mut RoaringBitmap,
) -> Result<(), T::Error> {
    let name = condition.name;
    let union = match &condition.values {
        Values::Judged { matcher, accepted, .. } if terms.is_filter_shorter(found, name) => {
            let mut accept = |value: &str| matcher.matches(value) == *accepted;
            Cow::Owned(terms.filter(found, name, &mut accept)?)
        }
        _ => union_of(terms, condition)?,
    };
    if condition.keeps {
        *found &= &*union;
    } else {
        *found -= &*union;
    }
    Ok(())
}

/// What was found about values before, by a number that stands for the value.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// Neighbours often have the same value.
    last: Option<(u32, bool)>,
    table: HashTable<(u32, bool)>,
}

impl Verdicts {
    pub(super) fn get<E>(
        &mut self,
        number: u32,
        judge: impl FnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        if let Some((last, verdict)) = self.last
            && last == number
        {
            return Ok(verdict);
        }
        let hash = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let known = self.table.find(hash(number), |(other, _)| *other == number);
        let verdict = match known {
            Some((_, verdict)) => *verdict,
            None => {
                let verdict = judge()?;
                let rehash = |(number, _): &(u32, bool)| hash(*number);
                self.table.insert_unique(hash(number), (number, verdict), rehash);
                verdict
            }
        };
        self.last = Some((number, verdict));
        Ok(verdict)
    }
}
