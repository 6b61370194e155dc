//! A snapshot: the database for reading.
//!
//! [`Snapshot::select`] sees one moment of head and blocks for all the selectors it is given and
//! takes with it what it needs, so what it selected never changes, whatever is written, sealed or
//! dropped meanwhile. A series may have samples in the head and in any number of blocks; they are
//! one series by the identity of their labels, and reading merges them.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;
use roaring::RoaringBitmap;

use crate::db::Inner;
use crate::error::{Error, Result};
use crate::labels::{self, Labels, SeriesIdentity};
use crate::matcher::Matcher;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::Block;
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::chunk;
use crate::metrics::head::Head;
use crate::metrics::head::read::{HeadCopy, ReadView};
use crate::metrics::sample::Samples;
use crate::time::TimeRange;

/// The live blocks at one moment, by the start of their windows.
#[derive(Debug, Default)]
pub(crate) struct Version {
    pub(crate) blocks: Vec<Arc<Block>>,
}

/// A series that [`Snapshot::select`] found.
#[derive(Clone, Debug)]
pub struct SelectedSeries {
    labels: Labels,
    selection: Arc<Selection>,
    /// In the selection's `places`.
    places: Range<u32>,
    head: Option<ReadView>,
}

/// What all series of a selection read from.
#[derive(Debug)]
struct Selection {
    range: TimeRange,
    version: Arc<Version>,
    /// (index into the version's blocks, id there), series after series and by time.
    places: Vec<(u32, u32)>,
    head: HeadCopy,
}

impl SelectedSeries {
    pub fn labels(&self) -> &Labels {
        &self.labels
    }
}

/// Matchers that must all hold, and the time that is asked for.
#[derive(Clone, Debug)]
pub struct Selector {
    pub matchers: Vec<Matcher>,
    pub range: TimeRange,
}

/// Cheap to make and to clone. What it has selected never changes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) db: Arc<Inner>,
}

impl Snapshot {
    /// A number that grows with every write that becomes readable and with every removal. What is
    /// selected after it was asked for holds all of these up to it, and perhaps later ones.
    pub fn generation(&self) -> u64 {
        self.db.head.read().generations.current()
    }

    /// The parts of `range` of which something was written or removed after `generation`,
    /// ascending and apart, and whole minutes or windows.
    pub fn changes_since(&self, generation: u64, range: TimeRange) -> Vec<TimeRange> {
        self.db.head.read().generations.changes_since(generation, range)
    }

    /// For each selector its series, each once; all of them from one moment.
    pub fn select(&self, selectors: &[Selector]) -> Result<Vec<Vec<SelectedSeries>>> {
        // The blocks are looked up under the head's lock: a block is published before the head
        // forgets what it holds, so every sample is in at least one of the two.
        let head = self.db.head.read();
        let version = self.db.version();
        let mut from_head = Vec::with_capacity(selectors.len());
        for selector in selectors {
            let mut copy = HeadCopy::new(selector.range);
            let mut found = Vec::new();
            for id in head.index.select(&selector.matchers) {
                if let Some(view) = copy.add(head.series(id), &head.columns) {
                    let (labels, identity) = (head.index.labels(id), head.identity(id));
                    found.push(FromHead { labels, identity, view });
                }
            }
            from_head.push((found, copy));
        }
        drop(head);
        let selections = selectors.iter().zip(from_head);
        selections
            .map(|(selector, (found, copy))| self.join(selector, found, copy, &version))
            .collect()
    }

    /// Adds the blocks' series to those of the head.
    fn join(
        &self,
        selector: &Selector,
        from_head: Vec<FromHead>,
        head: HeadCopy,
        version: &Arc<Version>,
    ) -> Result<Vec<SelectedSeries>> {
        let range = selector.range;
        let overlapping = version.blocks.iter().zip(0..);
        let overlapping: Vec<(&Arc<Block>, u32)> =
            overlapping.filter(|(block, _)| block.meta().range.overlaps(range)).collect();
        // Series are joined by identity only where there is something to join.
        let joins = overlapping.len() + usize::from(!from_head.is_empty()) > 1;
        let mut known: HashTable<(SeriesIdentity, u32)> = HashTable::new();
        let of_low = |(identity, _): &(SeriesIdentity, u32)| *identity as u64;
        if joins {
            known.reserve(from_head.len(), of_low);
            for (one, index) in from_head.iter().zip(0..) {
                known.insert_unique(one.identity as u64, (one.identity, index), of_low);
            }
        }
        let (mut labels, mut views): (Vec<Labels>, Vec<Option<ReadView>>) =
            from_head.into_iter().map(|one| (one.labels, Some(one.view))).unzip();
        // (series, block, id there), block after block.
        let mut places: Vec<(u32, u32, u32)> = Vec::new();
        for (block, number) in overlapping {
            let ids = block.select(&selector.matchers)?;
            places.reserve(ids.len() as usize);
            block.visit_label_bytes(&ids, |id, bytes| {
                let new = u32::try_from(labels.len()).expect("ids of series are of 32 bits");
                let index = if joins {
                    let identity = labels::identity(bytes);
                    let slot =
                        known.entry(identity as u64, |(other, _)| *other == identity, of_low);
                    slot.or_insert((identity, new)).get().1
                } else {
                    new
                };
                if index == new {
                    labels.push(Labels::from_pairs_of_an_index(bytes));
                }
                places.push((index, number, id));
            })?;
        }
        views.resize(labels.len(), None);
        let (places, ends) = by_series(&places, labels.len());
        let version = version.clone();
        let selection = Arc::new(Selection { range, version, places, head });
        let mut start = 0;
        let series = labels.into_iter().zip(views).zip(ends).map(|((labels, head), end)| {
            let places = std::mem::replace(&mut start, end)..end;
            SelectedSeries { labels, selection: selection.clone(), places, head }
        });
        Ok(series.collect())
    }

    /// Clears `into` and fills it with a series' samples of its selector's range, ascending;
    /// neighbours outside the range may come with them.
    pub fn read(&self, series: &SelectedSeries, into: &mut Samples) -> Result<()> {
        into.clear();
        let mut newest = i64::MIN;
        let mut scratch = Samples::default();
        let selection = &series.selection;
        for (index, id) in
            &selection.places[series.places.start as usize..series.places.end as usize]
        {
            let block = &selection.version.blocks[*index as usize];
            if into.is_empty() || block.meta().range.start_ms > newest {
                block.read(*id, selection.range, into)?;
            } else {
                scratch.clear();
                block.read(*id, selection.range, &mut scratch)?;
                chunk::merge(into, &scratch);
            }
            newest = into.timestamps.last().copied().unwrap_or(i64::MIN);
        }
        let Some(view) = &series.head else { return Ok(()) };
        let damaged = || Error::Corrupt {
            path: "head".into(),
            offset: 0,
            what: format!("{} does not decode", series.labels),
        };
        if into.is_empty() {
            return selection.head.read(view, into).ok_or_else(damaged);
        }
        scratch.clear();
        selection.head.read(view, &mut scratch).ok_or_else(damaged)?;
        let token = match (into.timestamps_token, scratch.timestamps_token) {
            (a, b) if a != 0 && b != 0 => (a.rotate_left(23) ^ b).max(1),
            _ => 0,
        };
        let follows = scratch.timestamps.first().is_none_or(|first| *first > newest);
        chunk::merge(into, &scratch);
        into.timestamps_token = if follows { token } else { 0 };
        Ok(())
    }

    /// Label sets of the series that fulfil any of the lists of matchers, sorted. No list: all.
    pub fn series(&self, any: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<Labels>> {
        let of_head =
            |head: &Head, ids: &RoaringBitmap| ids.iter().map(|id| head.index.labels(id)).collect();
        self.collect(any, range, of_head, |block, ids| {
            let mut found = Vec::new();
            block.visit_labels(ids, |_, labels| found.push(labels))?;
            Ok(found)
        })
    }

    /// Label names of those series, sorted.
    pub fn label_names(&self, any: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<String>> {
        let of_head = |head: &Head, ids: &RoaringBitmap| head.index.label_names(Some(ids));
        self.collect(any, range, of_head, Block::label_names)
    }

    /// Values of one label over those series, sorted.
    pub fn label_values(
        &self,
        name: &str,
        any: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<String>> {
        let of_head = |head: &Head, ids: &RoaringBitmap| head.index.label_values(name, Some(ids));
        self.collect(any, range, of_head, |block, ids| block.label_values(name, ids))
    }

    /// What head and blocks say of the series that may have samples of the range; sorted, once.
    fn collect<T: Ord>(
        &self,
        any: &[Vec<Matcher>],
        range: TimeRange,
        of_head: impl Fn(&Head, &RoaringBitmap) -> Vec<T>,
        of_block: impl Fn(&Block, &RoaringBitmap) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut found = BTreeSet::new();
        self.visit_parts(
            any,
            |meta| meta.range.overlaps(range),
            |part| {
                match part {
                    Part::Head(head, ids) => found.extend(of_head(head, &live(head, ids, range))),
                    Part::Block(block, ids) => found.extend(of_block(block, ids)?),
                }
                Ok(())
            },
        )?;
        Ok(found.into_iter().collect())
    }

    /// Exemplars of those series, by series, in order of time.
    pub fn exemplars(
        &self,
        any: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let mut found: std::collections::BTreeMap<Labels, Vec<Exemplar>> = Default::default();
        // An exemplar may lie outside the samples' time, though not outside the window.
        self.visit_parts(
            any,
            |meta| meta.window.overlaps(range),
            |part| {
                match part {
                    Part::Head(head, ids) => {
                        let fits = |id: u32, exemplar: &Exemplar| {
                            ids.contains(id) && range.contains(exemplar.timestamp)
                        };
                        for (id, exemplar) in head.exemplars().filter(|(id, e)| fits(*id, e)) {
                            let labels = head.index.labels(id);
                            found.entry(labels).or_default().push(exemplar.clone());
                        }
                    }
                    Part::Block(block, ids) => {
                        let mut labels = HashMap::new();
                        let exemplars = block.exemplars()?;
                        let wanted =
                            exemplars.iter().map(|(id, _)| *id).filter(|id| ids.contains(*id));
                        block.visit_labels(&wanted.collect(), |id, of| {
                            labels.insert(id, of);
                        })?;
                        for (id, exemplar) in exemplars {
                            if let Some(labels) = labels.get(&id)
                                && range.contains(exemplar.timestamp)
                            {
                                found.entry(labels.clone()).or_default().push(exemplar);
                            }
                        }
                    }
                }
                Ok(())
            },
        )?;
        for exemplars in found.values_mut() {
            let key = |one: &Exemplar| (one.timestamp, one.labels.clone(), one.value.to_bits());
            exemplars.sort_by_cached_key(key);
            exemplars.dedup_by_key(|one| key(one));
        }
        Ok(found.into_iter().collect())
    }

    /// Metadata by metric family, sorted; of all families or of one.
    pub fn metadata(&self, family: Option<&str>) -> Vec<Metadata> {
        let head = self.db.head.read();
        match family {
            Some(family) => head.metadata().get(family).cloned().unwrap_or_default(),
            None => head.metadata().values().flatten().cloned().collect(),
        }
    }

    /// Series in the head by metric name, by label name (count of values) and by label pair, the
    /// `limit` greatest of each, as `/api/v1/status/tsdb` lists them.
    pub fn cardinality(&self, limit: usize) -> Cardinality {
        self.db.head.read().index.cardinality(limit)
    }

    /// Calls `visit` with the head and each block that is wanted, and the ids there.
    fn visit_parts(
        &self,
        any: &[Vec<Matcher>],
        is_wanted: impl Fn(&BlockMeta) -> bool,
        mut visit: impl FnMut(Part<'_>) -> Result<()>,
    ) -> Result<()> {
        let version = {
            let head = self.db.head.read();
            let mut ids = RoaringBitmap::new();
            if any.is_empty() {
                ids |= head.index.all();
            }
            any.iter().for_each(|matchers| ids |= head.index.select(matchers));
            visit(Part::Head(&head, &ids))?;
            self.db.version()
        };
        for block in version.blocks.iter().filter(|block| is_wanted(block.meta())) {
            let mut ids = if any.is_empty() { block.index.all() } else { Default::default() };
            for matchers in any {
                ids |= block.select(matchers)?;
            }
            visit(Part::Block(block, &ids))?;
        }
        Ok(())
    }
}

/// A series as the head has it.
struct FromHead {
    labels: Labels,
    identity: SeriesIdentity,
    view: ReadView,
}

/// Places (series, block, id), which are block after block, put series after series: block and id
/// of each, and where those of each series end.
fn by_series(places: &[(u32, u32, u32)], series: usize) -> (Vec<(u32, u32)>, Vec<u32>) {
    let mut ends = vec![0u32; series];
    places.iter().for_each(|(index, _, _)| ends[*index as usize] += 1);
    let mut next = 0;
    for end in &mut ends {
        // Where the next of the series goes, and in the end that of its last place plus 1.
        next += std::mem::replace(end, next);
    }
    let mut sorted = vec![(0, 0); places.len()];
    for (index, block, id) in places {
        let at = &mut ends[*index as usize];
        sorted[*at as usize] = (*block, *id);
        *at += 1;
    }
    (sorted, ends)
}

/// The greatest contributors to the head's cardinality, greatest first.
#[derive(Clone, Debug, Default)]
pub struct Cardinality {
    pub series_by_metric: Vec<(String, u64)>,
    pub values_by_label: Vec<(String, u64)>,
    pub bytes_by_label: Vec<(String, u64)>,
    pub series_by_pair: Vec<(String, u64)>,
}

/// Those of the head's series that may have samples of the range.
fn live(head: &Head, ids: &RoaringBitmap, range: TimeRange) -> RoaringBitmap {
    ids.iter().filter(|id| head.series(*id).may_overlap(range)).collect()
}

enum Part<'a> {
    Head(&'a Head, &'a RoaringBitmap),
    Block(&'a Block, &'a RoaringBitmap),
}
