//! The index of the head: it changes with every series that comes and goes.
//!
//! It also is where the labels of the head's series are: a series is a row of pair numbers, from
//! which its canonical bytes are built again when asked for. Values are kept in order for each
//! name, so that a prefix is a range; a new series touches that order only for pairs that are new.
//!
//! Series of one target come one after the other and have most pairs in common. So while series are
//! added, a pair of the last one is not inserted into its postings again and again: its **run** goes
//! on, and is inserted as a range once it ends. [`HeadIndex::settle`] ends all runs; whoever reads
//! the index needs that, and finds it done by all but [`HeadIndex::add_unsettled`].

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashSet;
use roaring::RoaringBitmap;

use super::pairs::{NameId, PairId, Pairs};
use super::postings::{Postings, Union, bitmap_bytes};
use super::rows::Rows;
use super::select::{self, Terms, Verdicts};
use super::{NameCounts, ROWS_A_PAIR};
use crate::encoding::varint;
use crate::labels::{self, Labels};
use crate::matcher::Matcher;

/// A label index that series are added to and removed from.
///
/// Ids are the caller's: small numbers, best given in order and used again after a removal.
#[derive(Debug)]
pub struct HeadIndex {
    pairs: Pairs<Postings>,
    /// By name id.
    names: Vec<NameEntry>,
    rows: Rows,
    all: RoaringBitmap,
    /// The series added last, which the next is likely to resemble.
    last: LastAdded,
}

#[derive(Debug, Default)]
struct LastAdded {
    id: u32,
    /// The first of the series that were added in the order of their ids, this the last.
    since: Option<u32>,
    labels: Vec<LastLabel>,
    bytes: Vec<u8>,
    /// Memory of the labels before these.
    spare: Vec<LastLabel>,
}

/// A label of the series added last.
#[derive(Clone, Copy, Debug)]
struct LastLabel {
    pair: PairId,
    name: NameId,
    /// Where its bytes end.
    end: usize,
    /// The first series of the pair's run, and of the name's; `None` if postings have all of it.
    pair_since: Option<u32>,
    name_since: Option<u32>,
}

/// The next of the last series' labels that has not been passed.
struct Before {
    index: usize,
    start: usize,
}

impl Before {
    #[inline]
    fn label<'a>(&self, last: &'a LastAdded) -> Option<(LastLabel, &'a [u8])> {
        let label = last.labels.get(self.index)?;
        Some((*label, &last.bytes[self.start..label.end]))
    }

    fn pass(&mut self, label: LastLabel) {
        self.index += 1;
        self.start = label.end;
    }
}

/// The labels of a series, from which those of the next are made; the index must not change
/// between them.
#[derive(Debug, Default)]
pub(crate) struct LastLabels {
    /// The pairs, and where each of them ends in `bytes`.
    pairs: Vec<(PairId, usize)>,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct NameEntry {
    values: BTreeMap<Arc<str>, PairId>,
    /// The series that have the label.
    series: RoaringBitmap,
}

impl Default for HeadIndex {
    fn default() -> HeadIndex {
        HeadIndex::new()
    }
}

impl HeadIndex {
    pub fn new() -> HeadIndex {
        HeadIndex {
            pairs: Pairs::new(),
            names: Vec::new(),
            rows: Rows::default(),
            all: RoaringBitmap::new(),
            last: LastAdded::default(),
        }
    }

    /// Adds a series.
    ///
    /// # Panics
    ///
    /// If there is a series of that id.
    pub fn add(&mut self, id: u32, labels: &Labels) {
        self.add_unsettled(id, labels);
        self.settle();
    }

    /// As [`Self::add`], for many: nothing but labels may be asked for before [`Self::settle`].
    pub(crate) fn add_unsettled(&mut self, id: u32, labels: &Labels) {
        assert!(!self.contains(id), "series {id} is in the index already");
        if self.last.id.checked_add(1) != Some(id) {
            self.settle();
        }
        let mut labels_now = std::mem::take(&mut self.last.spare);
        labels_now.clear();
        let mut before = Before { index: 0, start: 0 };
        let bytes = labels.as_bytes();
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = bytes.len() - rest.len();
            let (name, value) = labels::take_pair(&mut rest);
            let end = bytes.len() - rest.len();
            labels_now.push(self.add_label(
                id,
                &bytes[start..end],
                end,
                (name, value),
                &mut before,
            ));
        }
        while let Some((known, _)) = before.label(&self.last) {
            self.end_runs(known);
            before.pass(known);
        }
        self.rows.insert(id, labels_now.iter().map(|label| label.pair));
        let last = &mut self.last;
        last.id = id;
        last.since = last.since.or(Some(id));
        last.spare = std::mem::replace(&mut last.labels, labels_now);
        last.bytes.clear();
        last.bytes.extend_from_slice(bytes);
    }

    /// One label of a new series, beside those of the series before; what of these has no equal ends.
    #[inline]
    fn add_label(
        &mut self,
        id: u32,
        bytes: &[u8],
        end: usize,
        (name, value): (&[u8], &[u8]),
        before: &mut Before,
    ) -> LastLabel {
        let mut same_name = None;
        while let Some((known, known_bytes)) = before.label(&self.last) {
            if known_bytes == bytes {
                before.pass(known);
                let since = |since: Option<u32>| since.or(Some(id));
                let (pair_since, name_since) = (since(known.pair_since), since(known.name_since));
                return LastLabel { end, pair_since, name_since, ..known };
            }
            match labels::take_pair(&mut &*known_bytes).0.cmp(name) {
                Ordering::Less => self.end_runs(known),
                Ordering::Equal => {
                    self.end_pair_run(known);
                    same_name = Some(known);
                    before.pass(known);
                    break;
                }
                Ordering::Greater => break,
            }
            before.pass(known);
        }
        let text = |bytes| std::str::from_utf8(bytes).expect("Labels holds UTF-8");
        let value = text(value);
        let (pair, new) = match same_name {
            Some(known) => self.pairs.intern_value(known.name, value),
            None => self.pairs.intern(text(name), value, None),
        };
        let name = self.pairs.get(pair).name;
        let index = name as usize;
        if index >= self.names.len() {
            self.names.resize_with(index + 1, NameEntry::default);
        }
        if new {
            self.names[index].values.insert(Arc::clone(&self.pairs.get(pair).value), pair);
        }
        let name_since = same_name.and_then(|known| known.name_since).or(Some(id));
        LastLabel { pair, name, end, pair_since: Some(id), name_since }
    }

    fn end_runs(&mut self, label: LastLabel) {
        self.end_pair_run(label);
        if let Some(since) = label.name_since {
            self.names[label.name as usize].series.insert_range(since..=self.last.id);
        }
    }

    fn end_pair_run(&mut self, label: LastLabel) {
        if let Some(since) = label.pair_since {
            self.pairs.get_mut(label.pair).payload.insert_range(since, self.last.id);
        }
    }

    /// Makes what was added readable.
    pub(crate) fn settle(&mut self) {
        let Some(since) = self.last.since.take() else { return };
        self.all.insert_range(since..=self.last.id);
        for index in 0..self.last.labels.len() {
            let label = self.last.labels[index];
            self.end_runs(label);
            self.last.labels[index] = LastLabel { pair_since: None, name_since: None, ..label };
        }
    }

    /// Removes a series, and what only it needed. Does nothing if there is none of that id.
    pub fn remove(&mut self, id: u32) {
        self.settle();
        if !self.all.remove(id) {
            return;
        }
        // Numbers in it may soon stand for other pairs, or for none.
        self.last.labels.clear();
        self.last.bytes.clear();
        let row: Vec<PairId> = self.rows.get(id).collect();
        self.rows.remove(id);
        for number in row {
            let pair = self.pairs.get_mut(number);
            pair.payload.remove(id);
            let entry = &mut self.names[pair.name as usize];
            entry.series.remove(id);
            if pair.payload.is_empty() {
                entry.values.remove(&pair.value);
                if let Some(name) = self.pairs.remove(number) {
                    self.names[name as usize] = NameEntry::default();
                }
            }
        }
    }

    pub fn contains(&self, id: u32) -> bool {
        self.rows.contains(id)
    }

    fn assert_settled(&self) {
        debug_assert!(self.last.since.is_none(), "what was added is not readable yet");
    }

    /// The ids of all series.
    pub fn all(&self) -> &RoaringBitmap {
        self.assert_settled();
        &self.all
    }

    /// The series that fulfil all of `matchers`; all series, if there are none.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        self.assert_settled();
        match select::select(self, matchers) {
            Ok(found) => found,
            Err(never) => match never {},
        }
    }

    /// The series that have a label, whatever its value; `None` if none has.
    pub fn with_label(&self, name: &str) -> Option<&RoaringBitmap> {
        self.entry(name).map(|entry| &entry.series).filter(|series| !series.is_empty())
    }

    /// The labels of a series in canonical order; none if there is no such series.
    pub fn pairs(&self, id: u32) -> impl Iterator<Item = (&str, &str)> {
        self.rows.get(id).map(|number| {
            let pair = self.pairs.get(number);
            (self.pairs.name(pair.name), &*pair.value)
        })
    }

    pub fn labels(&self, id: u32) -> Labels {
        let mut bytes = Vec::with_capacity(256);
        self.label_bytes(id, &mut bytes);
        Labels::from_pairs_of_an_index(&bytes)
    }

    /// Appends the canonical label bytes of a series.
    pub fn label_bytes(&self, id: u32, into: &mut Vec<u8>) {
        for (name, value) in self.pairs(id) {
            labels::push_pair(into, name, value);
        }
    }

    /// The canonical label bytes of a series, made from those of the series before where they begin
    /// with the same pairs.
    pub(crate) fn label_bytes_after<'a>(&self, id: u32, before: &'a mut LastLabels) -> &'a [u8] {
        let LastLabels { pairs, bytes } = before;
        let mut same = 0;
        for number in self.rows.get(id) {
            if pairs.get(same).is_some_and(|(known, _)| *known == number) {
                same += 1;
                continue;
            }
            pairs.truncate(same);
            bytes.truncate(pairs.last().map_or(0, |(_, end)| *end));
            let pair = self.pairs.get(number);
            labels::push_pair(bytes, self.pairs.name(pair.name), &*pair.value);
            pairs.push((number, bytes.len()));
            same = pairs.len();
        }
        pairs.truncate(same);
        bytes.truncate(pairs.last().map_or(0, |(_, end)| *end));
        bytes
    }

    /// Whether a series has exactly the labels of which these are the canonical bytes. Cheaper
    /// than building them.
    pub fn has_label_bytes(&self, id: u32, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        let mut starts_with = |text: &str| {
            let length = varint::read(&mut rest);
            let same = length == Some(text.len() as u64) && rest.starts_with(text.as_bytes());
            if same {
                rest = &rest[text.len()..];
            }
            same
        };
        let same = self.pairs(id).all(|(name, value)| starts_with(name) && starts_with(value));
        same && rest.is_empty() && self.contains(id)
    }

    /// A series' value of a label.
    pub fn value(&self, id: u32, name: &str) -> Option<&str> {
        let name = self.pairs.find_name(name)?;
        let mut row = self.rows.get(id).map(|number| self.pairs.get(number));
        row.find(|pair| pair.name == name).map(|pair| &*pair.value)
    }

    /// Label names in bytewise order; of all series or of some.
    pub fn label_names(&self, of: Option<&RoaringBitmap>) -> Vec<String> {
        self.label_names_where(of.unwrap_or(self.all()), &|_| true)
    }

    /// Label names of those of some series that `is_live` accepts, which is asked of as few as will
    /// do.
    pub(crate) fn label_names_where(
        &self,
        of: &RoaringBitmap,
        is_live: &dyn Fn(u32) -> bool,
    ) -> Vec<String> {
        self.assert_settled();
        let has = |id: NameId| {
            let series = &self.names[id as usize].series;
            !series.is_disjoint(of) && series.iter().any(|id| of.contains(id) && is_live(id))
        };
        let names = self.pairs.names().filter(|(id, _)| has(*id));
        let mut names: Vec<String> = names.map(|(_, name)| name.to_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Values of a label in bytewise order; of all series or of some.
    pub fn label_values(&self, name: &str, of: Option<&RoaringBitmap>) -> Vec<String> {
        match (of, self.entry(name)) {
            (_, None) => Vec::new(),
            (None, Some(entry)) => entry.values.keys().map(|value| (**value).to_owned()).collect(),
            (Some(of), Some(_)) => self.label_values_where(name, of, &|_| true),
        }
    }

    /// Values of a label among those of some series that `is_live` accepts, which is asked of as few
    /// as will do.
    pub(crate) fn label_values_where(
        &self,
        name: &str,
        of: &RoaringBitmap,
        is_live: &dyn Fn(u32) -> bool,
    ) -> Vec<String> {
        let Some(entry) = self.entry(name) else { return Vec::new() };
        if of.len() < entry.values.len() as u64 {
            return self.values_in_rows(name, of.iter().filter(|id| is_live(*id)));
        }
        let used = |id: &PairId| {
            let postings = &self.pairs.get(*id).payload;
            postings.intersects(of) && postings.any(|id| of.contains(id) && is_live(id))
        };
        let values = entry.values.iter().filter(|(_, id)| used(id));
        values.map(|(value, _)| (**value).to_owned()).collect()
    }

    /// Values of a label among few series.
    fn values_in_rows(&self, name: &str, of: impl Iterator<Item = u32>) -> Vec<String> {
        let name = self.pairs.find_name(name);
        let mut seen = HashSet::with_hasher(std::hash::RandomState::new());
        for id in of {
            let mut row = self.rows.get(id);
            seen.extend(row.find(|number| Some(self.pairs.get(*number).name) == name));
        }
        let values = seen.iter().map(|number| (*self.pairs.get(*number).value).to_owned());
        let mut values: Vec<String> = values.collect();
        values.sort_unstable();
        values
    }

    /// Distinct label pairs.
    pub fn pair_count(&self) -> u64 {
        self.pairs.len() as u64
    }

    /// How many of some series, or of all, have each name and each value of it.
    pub(crate) fn counts(&self, of: Option<&RoaringBitmap>) -> Vec<NameCounts> {
        self.assert_settled();
        let named =
            |series: &RoaringBitmap| of.map_or(series.len(), |of| series.intersection_len(of));
        let having = |postings: &Postings| of.map_or(postings.len(), |of| postings.len_among(of));
        let mut counts: Vec<NameCounts> = match of {
            Some(of) if of.len() < self.pair_count() / ROWS_A_PAIR => self.counts_of_rows(of),
            _ => {
                let counts = self.pairs.names().map(|(id, name)| {
                    let entry = &self.names[id as usize];
                    let values = entry.values.iter().map(|(value, id)| {
                        (Arc::clone(value), having(&self.pairs.get(*id).payload))
                    });
                    let values = values.filter(|(_, series)| *series > 0).collect();
                    NameCounts { name: name.to_owned(), series: named(&entry.series), values }
                });
                counts.filter(|name| name.series > 0).collect()
            }
        };
        counts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        counts
    }

    /// [`Self::counts`] of few series.
    fn counts_of_rows(&self, of: &RoaringBitmap) -> Vec<NameCounts> {
        let mut pairs: HashMap<PairId, u64> = HashMap::new();
        for id in of {
            self.rows.get(id).for_each(|number| *pairs.entry(number).or_default() += 1);
        }
        let mut names: HashMap<NameId, NameCounts> = HashMap::new();
        for (number, series) in pairs {
            let pair = self.pairs.get(number);
            let counts = names.entry(pair.name).or_insert_with(|| NameCounts {
                name: self.pairs.name(pair.name).to_owned(),
                series: 0,
                values: Vec::new(),
            });
            counts.series += series;
            counts.values.push((Arc::clone(&pair.value), series));
        }
        let mut counts: Vec<NameCounts> = names.into_values().collect();
        counts.iter_mut().for_each(|name| name.values.sort_unstable());
        counts
    }

    /// Bytes on the heap, about. Looks at every pair.
    pub fn heap_bytes(&self) -> usize {
        const TREE_BYTES: usize = 36; // an entry of a BTreeMap of these, two thirds full
        let postings: usize =
            self.pairs.ids().map(|id| self.pairs.get(id).payload.heap_bytes() + TREE_BYTES).sum();
        let names: usize = self.names.iter().map(|entry| bitmap_bytes(&entry.series)).sum();
        postings + names + self.pairs.heap_bytes() + self.rows.heap_bytes()
    }

    fn entry(&self, name: &str) -> Option<&NameEntry> {
        self.assert_settled();
        self.pairs.find_name(name).map(|id| &self.names[id as usize])
    }
}

impl Terms for HeadIndex {
    type Error = Infallible;

    fn all(&self) -> Cow<'_, RoaringBitmap> {
        Cow::Borrowed(&self.all)
    }

    fn named(&self, name: &str) -> Result<Cow<'_, RoaringBitmap>, Infallible> {
        let none = || Cow::Owned(RoaringBitmap::new());
        Ok(self.entry(name).map_or_else(none, |entry| Cow::Borrowed(&entry.series)))
    }

    fn postings(&self, name: &str, value: &str) -> Result<Cow<'_, RoaringBitmap>, Infallible> {
        let name = self.pairs.find_name(name);
        let pair = name.and_then(|name| self.pairs.find_value(name, value));
        let none = || Cow::Owned(RoaringBitmap::new());
        Ok(pair.map_or_else(none, |pair| self.pairs.get(pair).payload.to_bitmap()))
    }

    fn is_filter_shorter(&self, ids: &RoaringBitmap, name: &str) -> bool {
        self.entry(name).is_some_and(|entry| ids.len() < entry.values.len() as u64)
    }

    fn scan(
        &self,
        name: &str,
        prefix: &str,
        accept: &mut dyn FnMut(&str) -> bool,
    ) -> Result<RoaringBitmap, Infallible> {
        let mut union = Union::default();
        if let Some(entry) = self.entry(name) {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            let values = entry.values.range::<str, _>(from);
            let starts = |value: &str| prefix.is_empty() || value.starts_with(prefix);
            for (value, id) in values.take_while(|(value, _)| starts(value)) {
                if accept(value) {
                    union.add(&self.pairs.get(*id).payload);
                }
            }
        }
        Ok(union.finish())
    }

    fn filter(
        &self,
        ids: &RoaringBitmap,
        name: &str,
        accept: &mut dyn FnMut(&str) -> bool,
    ) -> Result<RoaringBitmap, Infallible> {
        let Some(name) = self.pairs.find_name(name) else { return Ok(RoaringBitmap::new()) };
        let mut verdicts = Verdicts::default();
        let mut kept = Vec::new();
        for id in ids {
            let mut row = self.rows.get(id);
            if let Some(number) = row.find(|number| self.pairs.get(*number).name == name) {
                let judge = || Ok::<bool, Infallible>(accept(&self.pairs.get(number).value));
                if verdicts.get(number, judge)? {
                    kept.push(id);
                }
            }
        }
        Ok(RoaringBitmap::from_sorted_iter(kept).expect("bitmaps iterate in order"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::contract::{self, Model, Series};
    use proptest::prelude::*;

    fn index_of(series: &[Labels]) -> HeadIndex {
        let mut index = HeadIndex::new();
        for (id, labels) in (0..).zip(series) {
            index.add(id, labels);
        }
        index
    }

    proptest! {
        #[test]
        fn runs_end_where_they_have_to(
            series in contract::series(),
            first: prop::sample::Index,
            backwards: bool,
            settles: Vec<bool>,
            queries in contract::queries(),
        ) {
            let mut index = HeadIndex::new();
            let mut ids: Vec<usize> = (0..series.len()).collect();
            ids.rotate_left(first.index(series.len().max(1)));
            if backwards {
                ids.reverse();
            }
            for (i, id) in ids.into_iter().enumerate() {
                index.add_unsettled(id as u32, &series[id]);
                if settles.get(i) == Some(&true) {
                    index.settle();
                }
            }
            index.settle();
            check(&index, &Model::new(&series), &queries)?;
        }

        #[test]
        fn answers_as_a_list_of_labels_would(
            series in contract::series(),
            removed: Vec<prop::sample::Index>,
            queries in contract::queries(),
        ) {
            let mut index = index_of(&series);
            let mut model = Model::new(&series);
            for removed in removed {
                let id = removed.index(series.len().max(1)) as u32;
                index.remove(id);
                model.remove(id);
            }
            check(&index, &model, &queries)?;
            // What was freed is used again.
            for (id, labels) in (0..).zip(&series) {
                if !index.contains(id) {
                    index.add(id, labels);
                }
            }
            check(&index, &Model::new(&series), &queries)?;
        }
    }

    fn sorted(mut counts: Vec<NameCounts>) -> Vec<NameCounts> {
        counts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        counts
    }

    fn check(
        index: &HeadIndex,
        model: &Model,
        queries: &[Vec<Matcher>],
    ) -> Result<(), TestCaseError> {
        prop_assert!(index.all().iter().eq(model.ids()));
        let mut last = LastLabels::default();
        for (id, labels) in model.iter() {
            prop_assert_eq!(&index.labels(id), labels);
            prop_assert_eq!(index.label_bytes_after(id, &mut last), labels.as_bytes());
            prop_assert!(index.has_label_bytes(id, labels.as_bytes()));
            prop_assert!(!index.has_label_bytes(id, &[labels.as_bytes(), b"\x01a\x01b"].concat()));
        }
        prop_assert_eq!(index.label_names(None), model.names(&model.all()));
        prop_assert_eq!(index.counts(None), model.counts(&model.all()));
        for matchers in queries {
            let found = index.select(matchers);
            prop_assert_eq!(&found, &model.select(matchers), "{:?}", matchers);
            prop_assert_eq!(index.counts(Some(&found)), model.counts(&found));
            prop_assert_eq!(sorted(index.counts_of_rows(&found)), model.counts(&found));
            prop_assert_eq!(index.label_names(Some(&found)), model.names(&found));
            let odd = found.iter().filter(|id| id % 2 == 1).collect();
            let is_odd = |id: u32| id % 2 == 1;
            prop_assert_eq!(index.label_names_where(&found, &is_odd), model.names(&odd));
            for name in contract::NAMES {
                let values = index.label_values(name, Some(&found));
                prop_assert_eq!(values, model.values(name, &found));
                let values = index.label_values_where(name, &found, &is_odd);
                prop_assert_eq!(values, model.values(name, &odd));
                let values = index.label_values(name, None);
                prop_assert_eq!(values, model.values(name, &model.all()));
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_removed_leaves_nothing() {
        let many: Series = (0..2000)
            .map(|i| {
                Labels::from_pairs([
                    ("job".to_owned(), "x".to_owned()),
                    (format!("l{i}"), "v".into()),
                ])
                .unwrap()
            })
            .collect();
        let mut index = index_of(&many);
        assert_eq!(index.pair_count(), 2001);
        for id in 0..2000 {
            index.remove(id);
        }
        assert_eq!(index.pair_count(), 0);
        assert_eq!(index.label_names(None), [""; 0]);
        assert!(index.select(&[]).is_empty());
        index.remove(5);
    }
}
