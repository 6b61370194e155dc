//! Cardinality: which metrics, labels and pairs have the most series, in the head or on a day.
//!
//! A day is a day of UTC. Its series are those with samples in it: in the head, and in the blocks
//! that overlap it, of each class those of the finest tier that is left. A **source** is one of
//! these with the series that count there. They are counted by the postings of the index, which
//! needs no look at series. Only where there are several sources are labels read and hashed, so
//! that each series counts once: where it is found first. (64 bits of the hash: of ten million
//! series one is missed in one of 300,000 answers.)
//!
//! A block of several days has a section that tells which of its series have samples on which day. Of
//! one that was written by a version without it all series count, and the answer says that it is not
//! exact. (The bucket of a rollup belongs to the day in which it begins.)

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use hashbrown::HashTable;
use roaring::RoaringBitmap;

use crate::deletes::live::LiveBlock;
use crate::error::Result;
use crate::index::NameCounts;
use crate::index::sealed::CountedValues;
use crate::labels::{self, METRIC_NAME};
use crate::matcher::Matcher;
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::companion;
use crate::metrics::head::Head;
use crate::snapshot::{Charged, SERIES_PER_CHARGE, Snapshot, Version};
use crate::time::{DAY_MS, TimeRange};

/// A place in the table of series that were found already.
const SEEN_BYTES: usize = 18;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Entries of each list.
    pub limit: usize,
    /// The start of a day in ms; `None` for the head as it is.
    pub day_ms: Option<i64>,
    /// Only series that fulfil all matchers of any of these; none: all.
    pub selectors: Vec<Vec<Matcher>>,
    /// Lists the values of this label, too.
    pub focus_label: Option<String>,
}

/// How many there are of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub count: u64,
    /// On the day before; `None` for the head.
    pub day_before: Option<u64>,
}

/// The greatest of each kind, greatest first, at equal counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cardinality {
    pub series: u64,
    pub label_pairs: u64,
    pub series_by_metric: Vec<Entry>,
    pub series_by_label: Vec<Entry>,
    /// Series by value of the label in focus.
    pub series_by_focus_value: Vec<Entry>,
    /// `name=value`.
    pub series_by_pair: Vec<Entry>,
    pub values_by_label: Vec<Entry>,
    /// Bytes of all values of a label, once for each series.
    pub bytes_by_label: Vec<Entry>,
    /// Whether all series that counted have samples of the day, or of the day before.
    pub is_exact: bool,
}

impl Snapshot {
    /// Answers a question. `charge` is told of the memory that this takes, in bytes, every so many
    /// series and values; once it returns false, this ends with [`Error::Stopped`].
    pub fn cardinality(
        &self,
        question: &Question,
        charge: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Cardinality> {
        let mut charged = Charged::new(charge);
        let day = question.day_ms.map(day_of);
        let sources = self.sources(day, &question.selectors, &mut charged)?;
        let mut tops = Tops::new(question);
        let mut found = sources.count_all(&mut tops, &mut charged)?;
        found.is_exact = sources.is_exact;
        let before = match question.day_ms {
            None => None,
            Some(day_ms) => {
                let before = Some(day_of(day_ms.saturating_sub(DAY_MS)));
                Some(self.sources(before, &question.selectors, &mut charged)?)
            }
        };
        found.is_exact &= before.as_ref().is_none_or(|before| before.is_exact);
        let mut growth = Growth { before, labels: BTreeMap::new() };
        let Tops { metrics, labels, focus, pairs, values, bytes, .. } = tops;
        for (list, top, kind) in [
            (&mut found.series_by_metric, metrics, Kind::Metric),
            (&mut found.series_by_label, labels, Kind::Label),
            (&mut found.series_by_focus_value, focus, Kind::Focus),
            (&mut found.series_by_pair, pairs, Kind::Pair),
            (&mut found.values_by_label, values, Kind::Values),
            (&mut found.bytes_by_label, bytes, Kind::Bytes),
        ] {
            for one in top.into_sorted() {
                let day_before = growth.of(kind, &one, &mut charged)?;
                list.push(Entry { name: kind.text(&one), count: one.count, day_before });
            }
        }
        charged.settle()?;
        Ok(found)
    }

    fn sources(
        &self,
        day: Option<TimeRange>,
        selectors: &[Vec<Matcher>],
        charged: &mut Charged<'_>,
    ) -> Result<Sources> {
        let mut sources = Sources { all: Vec::new(), is_exact: true };
        let mut seen = Seen::default();
        let version = {
            let head = self.db.head.read();
            // A block is published before the head forgets what it holds.
            let version = self.db.version();
            let ids = ids_of_head(&head, day, selectors);
            let has_others = day.is_some_and(|day| !blocks_of(&version, day).is_empty());
            if has_others {
                for id in ids.iter().flatten() {
                    seen.insert(head.identity(id) as u64);
                    charged.add(SEEN_BYTES);
                    charged.step()?;
                }
            }
            let is_empty = ids.as_ref().is_some_and(RoaringBitmap::is_empty);
            if !is_empty {
                let counts = head.index.counts(ids.as_ref());
                let series = ids.as_ref().map_or(head.index.all().len(), RoaringBitmap::len);
                sources.push_counts(series, counts, charged)?;
            }
            version
        };
        let Some(day) = day else { return Ok(sources) };
        let blocks = blocks_of(&version, day);
        let is_alone = sources.all.is_empty() && blocks.len() == 1;
        for block in blocks {
            let mut ids = ids_of_block(block, day, selectors)?;
            let range = block.meta().range;
            if range.start_ms < day.start_ms || day.end_ms < range.end_ms {
                match block.series_of_day(day.start_ms)? {
                    Some(of_day) => {
                        ids = Some(ids.map_or_else(|| of_day.clone(), |ids| ids & &of_day))
                    }
                    None => sources.is_exact = false,
                }
            }
            if !is_alone {
                let of = ids.unwrap_or_else(|| block.index.all());
                ids = Some(seen.first_of(block, of, charged)?);
            }
            sources.push_block(block, ids, charged)?;
        }
        Ok(sources)
    }
}

fn day_of(start_ms: i64) -> TimeRange {
    TimeRange::new(start_ms, start_ms.saturating_add(DAY_MS - 1))
}

/// Of the head's series those that count, `None` if all do.
fn ids_of_head(
    head: &Head,
    day: Option<TimeRange>,
    selectors: &[Vec<Matcher>],
) -> Option<RoaringBitmap> {
    let companions = head.index.with_label(companion::LABEL);
    let windows = |day: TimeRange| head.windows().filter(move |(start, _)| day.contains(*start));
    let has_all = day.is_none_or(|day| windows(day).count() == head.windows().count());
    if selectors.is_empty() && companions.is_none() && day.is_none() {
        return None;
    }
    let mut ids = RoaringBitmap::new();
    if day.is_some_and(|day| windows(day).next().is_none()) {
        return Some(ids);
    }
    match selectors {
        [] => ids |= head.index.all(),
        _ => selectors.iter().for_each(|matchers| ids |= head.index.select(matchers)),
    }
    if let Some(companions) = companions {
        ids -= companions;
    }
    let Some(day) = day else { return Some(ids) };
    let is_of_day = |id: &u32| {
        let series = head.series(*id);
        match has_all {
            true => !series.is_empty(),
            false => series.windows().into_iter().any(|start| day.contains(start)),
        }
    };
    let of_day = ids.iter().filter(is_of_day);
    Some(RoaringBitmap::from_sorted_iter(of_day).expect("bitmaps iterate in order"))
}

/// The blocks of a day: of each class those of its finest tier.
fn blocks_of(version: &Version, day: TimeRange) -> Vec<&LiveBlock> {
    let class = |meta: &BlockMeta| {
        let known = version.classes.by_block.get(&meta.id);
        known.copied().unwrap_or(meta.class)
    };
    let mut finest: BTreeMap<u32, u64> = BTreeMap::new();
    let of_day = version.blocks.iter().filter(|block| block.meta().range.overlaps(day));
    let of_day: Vec<&LiveBlock> = of_day.collect();
    for meta in of_day.iter().map(|block| block.meta()) {
        let tier_ms = finest.entry(class(meta)).or_insert(meta.tier_ms);
        *tier_ms = meta.tier_ms.min(*tier_ms);
    }
    let is_finest = |block: &&LiveBlock| {
        finest.get(&class(block.meta())).is_some_and(|tier_ms| *tier_ms == block.meta().tier_ms)
    };
    of_day.into_iter().filter(is_finest).collect()
}

/// Of a block's series those that count, `None` if all do.
fn ids_of_block(
    block: &LiveBlock,
    day: TimeRange,
    selectors: &[Vec<Matcher>],
) -> Result<Option<RoaringBitmap>> {
    let companions = block.with_label(companion::LABEL)?;
    if selectors.is_empty() && companions.is_none() && !block.has_deletes() {
        return Ok(None);
    }
    let mut ids = match selectors {
        [] => block.index.all(),
        _ => RoaringBitmap::new(),
    };
    for matchers in selectors {
        ids |= block.select(matchers)?;
    }
    if let Some(companions) = companions {
        ids -= companions;
    }
    block.visible(ids, day).map(Some)
}

/// Series by 64 bits of their identity.
#[derive(Default)]
struct Seen {
    table: HashTable<u64>,
}

impl Seen {
    /// Whether it is new.
    fn insert(&mut self, identity: u64) -> bool {
        let is_same = |known: &u64| *known == identity;
        let is_new = self.table.find(identity, is_same).is_none();
        if is_new {
            self.table.insert_unique(identity, identity, |known| *known);
        }
        is_new
    }

    /// Those that were not seen before.
    fn first_of(
        &mut self,
        block: &LiveBlock,
        ids: RoaringBitmap,
        charged: &mut Charged<'_>,
    ) -> Result<RoaringBitmap> {
        let mut first = RoaringBitmap::new();
        let mut rest = ids.iter();
        loop {
            let part: RoaringBitmap = rest.by_ref().take(SERIES_PER_CHARGE).collect();
            if part.is_empty() {
                return Ok(first);
            }
            block.visit_label_bytes(&part, |id, bytes| {
                if self.insert(labels::identity(bytes) as u64) {
                    first.insert(id);
                    charged.add(SEEN_BYTES);
                }
            })?;
            charged.settle()?;
        }
    }
}

/// What holds the series that are counted, each once.
struct Sources {
    all: Vec<Source>,
    is_exact: bool,
}

enum Source {
    /// Counted already.
    Counts { series: u64, names: Vec<NameCounts> },
    /// Counted as they are asked for; `None` for all series of it.
    Block { block: LiveBlock, ids: Option<RoaringBitmap> },
}

impl Sources {
    fn push_counts(
        &mut self,
        series: u64,
        mut names: Vec<NameCounts>,
        charged: &mut Charged<'_>,
    ) -> Result<()> {
        names.retain(|name| name.name != companion::LABEL);
        let values = names.iter().map(|name| name.values.capacity()).sum::<usize>();
        self.all.push(Source::Counts { series, names });
        charged.add(values * size_of::<(Arc<str>, u64)>());
        charged.settle()
    }

    fn push_block(
        &mut self,
        block: &LiveBlock,
        ids: Option<RoaringBitmap>,
        charged: &mut Charged<'_>,
    ) -> Result<()> {
        match ids {
            Some(ids) if ids.is_empty() => Ok(()),
            Some(ids) if block.index.are_few(&ids) => {
                let counts = block.index.counts_of_rows(&ids);
                let counts = counts.map_err(|damage| block.index_damage(damage))?;
                self.push_counts(ids.len(), counts, charged)
            }
            ids => {
                self.all.push(Source::Block { block: block.clone(), ids });
                Ok(())
            }
        }
    }

    fn series(&self) -> u64 {
        self.all.iter().map(Source::series).sum()
    }

    /// Label names with the series that have them.
    fn names(&self) -> Result<BTreeMap<String, u64>> {
        let mut names = BTreeMap::new();
        let mut add = |name: &str, series: u64| match names.get_mut(name) {
            Some(known) => *known += series,
            None => drop(names.insert(name.to_owned(), series)),
        };
        for source in &self.all {
            match source {
                Source::Counts { names, .. } => {
                    names.iter().for_each(|name| add(&name.name, name.series));
                }
                Source::Block { block, ids } => {
                    let names = block.index.named_counts(ids.as_ref());
                    let names = names.map_err(|damage| block.index_damage(damage))?;
                    names.into_iter().for_each(|(name, series)| add(name, series));
                }
            }
        }
        names.retain(|name, series| *series > 0 && name != companion::LABEL);
        Ok(names)
    }

    /// Calls `visit` with each value of a label in order, and how many series have it.
    fn each_value(
        &self,
        name: &str,
        charged: &mut Charged<'_>,
        mut visit: impl FnMut(&str, u64),
    ) -> Result<()> {
        let cursors = self.all.iter().filter_map(|source| source.values(name));
        let mut cursors: Vec<Cursor<'_>> = cursors.collect();
        for cursor in &mut cursors {
            cursor.advance()?;
        }
        let mut text = String::new();
        loop {
            let left = cursors.iter().filter(|cursor| cursor.count.is_some());
            let Some(least) = left.map(|cursor| &cursor.text).min() else { return Ok(()) };
            text.clone_from(least);
            let mut series = 0;
            for cursor in &mut cursors {
                if cursor.count.is_some() && cursor.text == text {
                    series += cursor.count.unwrap_or(0);
                    cursor.advance()?;
                }
            }
            if series > 0 {
                visit(&text, series);
            }
            charged.step()?;
        }
    }

    fn count_all(&self, tops: &mut Tops, charged: &mut Charged<'_>) -> Result<Cardinality> {
        let mut label_pairs = 0;
        for (name, series) in self.names()? {
            let (mut values, mut bytes) = (0, 0);
            self.each_value(&name, charged, |value, series| {
                values += 1;
                bytes += value.len() as u64 * series;
                tops.value(&name, value, series);
            })?;
            label_pairs += values;
            tops.labels.offer(&name, "", series);
            tops.values.offer(&name, "", values);
            tops.bytes.offer(&name, "", bytes);
        }
        Ok(Cardinality { series: self.series(), label_pairs, ..Cardinality::default() })
    }

    fn pair(&self, name: &str, value: &str) -> Result<u64> {
        self.all.iter().map(|source| source.pair(name, value)).sum()
    }
}

impl Source {
    fn series(&self) -> u64 {
        match self {
            Source::Counts { series, .. } => *series,
            Source::Block { block, ids: None } => u64::from(block.index.series_count()),
            Source::Block { ids: Some(ids), .. } => ids.len(),
        }
    }

    fn values(&self, name: &str) -> Option<Cursor<'_>> {
        let values = match self {
            Source::Counts { names, .. } => Values::Counts(find(names, name)?.values.iter()),
            Source::Block { block, ids } => {
                Values::Block(block, block.index.counted_values(name, ids.as_ref())?)
            }
        };
        Some(Cursor { values, text: String::new(), count: None })
    }

    fn pair(&self, name: &str, value: &str) -> Result<u64> {
        match self {
            Source::Counts { names, .. } => {
                let values = find(names, name).map_or(&[][..], |name| &name.values);
                let found = values.binary_search_by(|(known, _)| (**known).cmp(value));
                Ok(found.map_or(0, |at| values[at].1))
            }
            Source::Block { block, ids } => {
                let count = block.index.pair_count_of(name, value, ids.as_ref());
                count.map_err(|damage| block.index_damage(damage))
            }
        }
    }
}

fn find<'a>(names: &'a [NameCounts], name: &str) -> Option<&'a NameCounts> {
    let at = names.binary_search_by(|known| known.name.as_str().cmp(name)).ok()?;
    Some(&names[at])
}

/// The values of a label in one source.
struct Cursor<'a> {
    values: Values<'a>,
    text: String,
    /// `None` before the first and after the last.
    count: Option<u64>,
}

enum Values<'a> {
    Counts(std::slice::Iter<'a, (Arc<str>, u64)>),
    Block(&'a LiveBlock, CountedValues<'a>),
}

impl Cursor<'_> {
    fn advance(&mut self) -> Result<()> {
        self.count = match &mut self.values {
            Values::Counts(values) => values.next().map(|(value, count)| {
                value.as_ref().clone_into(&mut self.text);
                *count
            }),
            Values::Block(block, values) => {
                values.next(&mut self.text).map_err(|damage| block.index_damage(damage))?
            }
        };
        Ok(())
    }
}

/// One of a list: a pair, or a name alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    count: u64,
    /// Of two that are equal the first in order comes first.
    pair: Reverse<(String, String)>,
}

/// The greatest, and no more than a limit of them.
#[derive(Debug)]
struct Top {
    limit: usize,
    least_first: BinaryHeap<Reverse<Ranked>>,
}

impl Top {
    fn new(limit: usize) -> Top {
        Top { limit, least_first: BinaryHeap::new() }
    }

    fn offer(&mut self, name: &str, value: &str, count: u64) {
        let is_full = self.least_first.len() >= self.limit;
        // Most are less than all that are there: no text is made of these. What comes is in order,
        // so of equals the one that is there stays.
        if is_full && self.least_first.peek().is_none_or(|Reverse(least)| count <= least.count) {
            return;
        }
        let pair = Reverse((name.to_owned(), value.to_owned()));
        self.least_first.push(Reverse(Ranked { count, pair }));
        if is_full {
            self.least_first.pop();
        }
    }

    fn into_sorted(self) -> Vec<Ranked> {
        self.least_first.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked).collect()
    }
}

/// All lists while they are made.
struct Tops {
    metrics: Top,
    labels: Top,
    focus: Top,
    pairs: Top,
    values: Top,
    bytes: Top,
    focus_label: Option<String>,
}

impl Tops {
    fn new(question: &Question) -> Tops {
        let top = || Top::new(question.limit);
        Tops {
            metrics: top(),
            labels: top(),
            focus: top(),
            pairs: top(),
            values: top(),
            bytes: top(),
            focus_label: question.focus_label.clone(),
        }
    }

    fn value(&mut self, name: &str, value: &str, series: u64) {
        self.pairs.offer(name, value, series);
        if name == METRIC_NAME {
            self.metrics.offer(name, value, series);
        }
        if self.focus_label.as_deref() == Some(name) {
            self.focus.offer(name, value, series);
        }
    }
}

/// What an entry is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Metric,
    Label,
    Focus,
    Pair,
    Values,
    Bytes,
}

impl Kind {
    fn text(self, ranked: &Ranked) -> String {
        let Reverse((name, value)) = &ranked.pair;
        match self {
            Kind::Metric | Kind::Focus => value.clone(),
            Kind::Label | Kind::Values | Kind::Bytes => name.clone(),
            Kind::Pair => format!("{name}={value}"),
        }
    }
}

/// What there was of the same on the day before.
struct Growth {
    before: Option<Sources>,
    /// Series, values and bytes of labels.
    labels: BTreeMap<String, [u64; 3]>,
}

impl Growth {
    fn of(
        &mut self,
        kind: Kind,
        ranked: &Ranked,
        charged: &mut Charged<'_>,
    ) -> Result<Option<u64>> {
        let Some(before) = &self.before else { return Ok(None) };
        let Reverse((name, value)) = &ranked.pair;
        let of_label = match kind {
            Kind::Metric | Kind::Focus | Kind::Pair => return before.pair(name, value).map(Some),
            Kind::Label => 0,
            Kind::Values => 1,
            Kind::Bytes => 2,
        };
        if !self.labels.contains_key(name) {
            let mut counts = [0; 3];
            before.each_value(name, charged, |value, series| {
                counts[0] += series;
                counts[1] += 1;
                counts[2] += value.len() as u64 * series;
            })?;
            self.labels.insert(name.clone(), counts);
        }
        Ok(self.labels.get(name).map(|counts| counts[of_label]))
    }
}
