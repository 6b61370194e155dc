//! A snapshot: the database for reading.
//!
//! [`Snapshot::select`] sees one moment of head and blocks for all the selectors it is given and
//! takes with it what it needs, so what it selected never changes, whatever is written, sealed or
//! dropped meanwhile. A series may have samples in the head and in any number of blocks; they are
//! one series by the identity of their labels, and reading merges them. Start timestamps are joined
//! to them from their companions, which nobody sees.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::compaction::rollup::Day;
use crate::db::Inner;
use crate::deletes::live::LiveBlock;
use crate::error::{Error, Result};
use crate::index::head::LastLabels;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block::Block;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::head::Head;
use crate::metrics::rollup::Rollup;
use crate::metrics::sample::Samples;
use crate::metrics::{chunk, companion};
use crate::outline::Outliner;
use crate::retention::classes::BlockClasses;
pub use crate::selection::SelectedSeries;
use crate::selection::{FromHead, HeadSeries, Joined};
use crate::tiers::{self, Claims, Known};
use crate::time::TimeRange;

/// The live blocks at one moment, by the start of their windows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    pub(crate) blocks: Vec<LiveBlock>,
    /// Days whose raw samples changed after they were rolled up.
    pub(crate) dirty: BTreeSet<Day>,
    /// By class, the newest time of which raw samples are gone.
    pub(crate) raw_gone: BTreeMap<u32, i64>,
    /// Blocks whose raw samples stay when their time is over.
    pub(crate) on_hold: HashSet<BlockId>,
    pub(crate) classes: BlockClasses,
}

/// Series that are selected between two charges: a fraction of a millisecond.
pub(crate) const SERIES_PER_CHARGE: usize = 1024;

/// What a selected series takes besides its labels and samples: itself, its place in the table by
/// which series are joined, and what allocators add.
const SERIES_BYTES: usize = size_of::<SelectedSeries>() + 96;

/// What a selection has taken and not charged yet.
pub(crate) struct Charged<'a> {
    charge: &'a mut dyn FnMut(u64) -> bool,
    bytes: usize,
    steps: usize,
}

impl<'a> Charged<'a> {
    pub(crate) fn new(charge: &'a mut dyn FnMut(u64) -> bool) -> Charged<'a> {
        Charged { charge, bytes: 0, steps: 0 }
    }

    /// One more series, or a value, is looked at.
    pub(crate) fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps >= SERIES_PER_CHARGE { self.settle() } else { Ok(()) }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub(crate) fn settle(&mut self) -> Result<()> {
        self.steps = 0;
        let bytes = std::mem::take(&mut self.bytes) as u64;
        if (self.charge)(bytes) { Ok(()) } else { Err(Error::Stopped) }
    }
}

/// Matchers that must all hold, and the time that is asked for.
#[derive(Clone, Debug)]
pub struct Selector {
    pub matchers: Vec<Matcher>,
    pub range: TimeRange,
    /// All windows that will be computed begin and end at multiples of it, in ms, and buckets hold
    /// what they need; 0 if not: then rollups are only read where raw samples are gone.
    pub aligned_ms: i64,
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
        self.select_charged(selectors, &mut |_| true)
    }

    /// As [`Self::select`]. `charge` is told of the memory that this takes, in bytes, every so many
    /// series; once it returns false, this ends with [`Error::Stopped`].
    pub fn select_charged(
        &self,
        selectors: &[Selector],
        charge: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Vec<SelectedSeries>>> {
        // The blocks are looked up under the head's lock: a block is published before the head
        // forgets what it holds, so every sample is in at least one of the two.
        let head = self.db.head.read();
        let version = self.db.version();
        let mut from_head = Vec::with_capacity(selectors.len());
        let companions = head.index.with_label(companion::LABEL);
        let mut last_labels = LastLabels::default();
        for selector in selectors {
            let mut series = FromHead::new(selector.range);
            let mut of_companions = FromHead::new(selector.range);
            let ids = head.index.select(&selector.matchers);
            let mut charged = Charged::new(charge);
            for id in ids {
                charged.step()?;
                let is_companion = companions.is_some_and(|companions| companions.contains(id));
                let into = if is_companion { &mut of_companions } else { &mut series };
                let held = into.copy.bytes_held();
                let Some(view) = into.copy.add(head.series(id), &head.columns) else { continue };
                let bytes = head.index.label_bytes_after(id, &mut last_labels);
                let mut labels = Labels::from_pairs_of_an_index(bytes);
                let mut identity = head.identity(id);
                if is_companion {
                    labels = companion::labels_of_series(&labels);
                    identity = labels.identity();
                }
                let copied = into.copy.bytes_held() - held + view.bytes_held();
                charged.add(SERIES_BYTES + labels.as_bytes().len() + copied);
                into.series.push(HeadSeries { labels, identity, view });
            }
            charged.settle()?;
            from_head.push((series, of_companions));
        }
        let head_windows: Vec<i64> = head.windows().map(|(start, _)| start).collect();
        drop(head);
        let metas: Vec<&BlockMeta> = version.blocks.iter().map(|block| block.meta()).collect();
        let known = Known {
            dirty: &version.dirty,
            raw_gone: &version.raw_gone,
            on_hold: &version.on_hold,
            head_windows: &head_windows,
            classes: &version.classes,
        };
        let selections = selectors.iter().zip(from_head);
        let joined = selections.map(|(selector, (head, companions))| {
            let has_companions = !companions.series.is_empty();
            let claims = tiers::claims(&metas, known, selector.range, selector.aligned_ms);
            let claims = claims.map(Arc::new);
            let of = (selector, &claims);
            let mut series = self.join(of, head, &version, Role::Series, charge)?;
            if has_companions || has_companions_in(&version, selector.range)? {
                let role = Role::Companion;
                attach(&mut series, self.join(of, companions, &version, role, charge)?);
            }
            Ok(series)
        });
        joined.collect()
    }

    /// Adds the blocks' series to those of the head.
    fn join(
        &self,
        (selector, claims): (&Selector, &Option<Arc<Claims>>),
        head: FromHead,
        version: &Arc<Version>,
        role: Role,
        charge: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<SelectedSeries>> {
        let range = selector.range;
        let overlapping = version.blocks.iter().zip(0..);
        let answers = |number: u32, meta: &BlockMeta| match claims {
            Some(claims) => !claims.of(number).is_empty(),
            None => meta.tier_ms == 0,
        };
        let overlapping: Vec<(&LiveBlock, u32)> = overlapping
            .filter(|(block, _)| block.meta().range.overlaps(range))
            .filter(|(block, number)| answers(*number, block.meta()))
            .collect();
        let mut joined = Joined::new(head.series, overlapping.len());
        for (block, number) in overlapping {
            let ids = role.of(block.select(&selector.matchers)?, block)?;
            let ids = block.visible(ids, range)?;
            let mut charged = Charged::new(charge);
            let mut rest = ids.iter();
            loop {
                let part: RoaringBitmap = rest.by_ref().take(SERIES_PER_CHARGE).collect();
                if part.is_empty() {
                    break;
                }
                block.visit_label_bytes(&part, |id, bytes| {
                    let new = match role {
                        Role::Series => joined.add(number, id, bytes),
                        Role::Companion => {
                            let own = Labels::from_pairs_of_an_index(bytes);
                            let labels = companion::labels_of_series(&own);
                            joined.add(number, id, labels.as_bytes())
                        }
                    };
                    charged.add(size_of::<(u32, u32, u32)>() + new);
                })?;
                charged.settle()?;
            }
        }
        Ok(joined.finish(range, version, claims.clone(), head.copy))
    }

    /// Clears `into` and fills it with a series' samples of its selector's range, ascending;
    /// neighbours outside the range may come with them.
    pub fn read(&self, series: &SelectedSeries, into: &mut Samples) -> Result<()> {
        match series.selection.claims {
            Some(_) => self.read_claimed(series, None, into)?,
            None => self.read_one(series, None, into)?,
        }
        if let Some(companion) = &series.start_timestamps {
            let mut starts = Samples::default();
            self.read_one(companion, None, &mut starts)?;
            companion::join(into, &starts);
        }
        Ok(())
    }

    /// As [`Self::read`], but chunks that no window cuts may have stand-ins, unless anything else of
    /// the series reaches into their time. A series with start timestamps has none.
    pub fn outline(
        &self,
        series: &SelectedSeries,
        mut outliner: Outliner<'_>,
        into: &mut Samples,
    ) -> Result<()> {
        outliner.left_out.clear();
        if series.selection.claims.is_some() {
            return self.read_claimed(series, Some(outliner), into);
        }
        match &series.start_timestamps {
            None => self.read_one(series, Some(&mut outliner), into),
            Some(_) => self.read(series, into),
        }
    }

    /// The resolution in ms of the rollups among what is read of the series: 0 if there are none,
    /// and whether they are read for want of raw samples.
    pub fn resolution(&self, series: &SelectedSeries) -> (i64, bool) {
        let Some(claims) = &series.selection.claims else { return (0, false) };
        let tier = |(index, _): &(u32, u32)| {
            series.selection.version.blocks[*index as usize].meta().tier_ms
        };
        let coarsest = series.places().iter().map(tier).max().unwrap_or(0);
        (i64::try_from(coarsest).unwrap_or(i64::MAX), claims.forced_ms > 0)
    }

    /// Raw samples and buckets, each of the times that their block answers for.
    fn read_claimed(
        &self,
        series: &SelectedSeries,
        mut outliner: Option<Outliner<'_>>,
        into: &mut Samples,
    ) -> Result<()> {
        into.clear();
        let selection = &series.selection;
        let Some(claims) = &selection.claims else { return Ok(()) };
        let mut scratch = Samples::default();
        let mut rollup = Rollup::default();
        for (index, id) in series.places() {
            let block = &selection.version.blocks[*index as usize];
            let is_raw = block.meta().tier_ms == 0;
            for claim in claims.of(*index) {
                let range = claim.intersection(selection.range);
                scratch.clear();
                if is_raw {
                    block.read(*id, range, None, &mut scratch)?;
                } else {
                    let wanted = tiers::wanted(outliner.as_ref());
                    block.read_rollup(*id, range, wanted, &mut rollup)?;
                    rollup.keep(*claim);
                    tiers::put(&rollup, outliner.as_mut(), &mut scratch);
                }
                chunk::merge(into, &scratch);
            }
        }
        if let Some(outliner) = outliner {
            outliner.left_out.sort_by_key(|one| one.at_ms);
        }
        if let Some(view) = &series.head {
            scratch.clear();
            series.read_head(view, &mut scratch)?;
            chunk::merge(into, &scratch);
        }
        into.timestamps_token = 0;
        Ok(())
    }

    /// [`Self::read`] without start timestamps.
    fn read_one(
        &self,
        series: &SelectedSeries,
        mut outliner: Option<&mut Outliner<'_>>,
        into: &mut Samples,
    ) -> Result<()> {
        into.clear();
        let mut newest = i64::MIN;
        let mut scratch = Samples::default();
        let selection = &series.selection;
        let mut places = series.places().iter().peekable();
        while let Some((index, id)) = places.next() {
            let meta = |index: u32| selection.version.blocks[index as usize].meta();
            let range = meta(*index).range;
            let follows = into.is_empty() || range.start_ms > newest;
            // Blocks come by the start of their windows, so the next is the first of the others.
            let is_alone = follows
                && places.peek().is_none_or(|(next, _)| meta(*next).window.start_ms > range.end_ms)
                && series.head.as_ref().is_none_or(|view| selection.head.is_apart(view, range));
            let outliner = outliner.as_deref_mut().filter(|_| is_alone);
            let block = &selection.version.blocks[*index as usize];
            if follows {
                block.read(*id, selection.range, outliner, into)?;
            } else {
                scratch.clear();
                block.read(*id, selection.range, None, &mut scratch)?;
                chunk::merge(into, &scratch);
            }
            newest = into.timestamps.last().copied().unwrap_or(i64::MIN);
        }
        let Some(view) = &series.head else { return Ok(()) };
        if into.is_empty() {
            return series.read_head(view, into);
        }
        scratch.clear();
        series.read_head(view, &mut scratch)?;
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
        let of_head = |head: &Head, ids: &RoaringBitmap| {
            let live = ids.iter().filter(|id| head.series(*id).may_overlap(range));
            live.map(|id| head.index.labels(id)).collect()
        };
        self.collect(any, range, of_head, |block, ids| {
            let mut found = Vec::new();
            block.visit_labels(ids, |_, labels| found.push(labels))?;
            Ok(found)
        })
    }

    /// Label names of those series, sorted.
    pub fn label_names(&self, any: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<String>> {
        let of_head = |head: &Head, ids: &RoaringBitmap| {
            head.index.label_names_where(ids, &|id| head.series(id).may_overlap(range))
        };
        self.collect(any, range, of_head, Block::label_names)
    }

    /// Values of one label over those series, sorted.
    pub fn label_values(
        &self,
        name: &str,
        any: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Result<Vec<String>> {
        let of_head = |head: &Head, ids: &RoaringBitmap| {
            head.index.label_values_where(name, ids, &|id| head.series(id).may_overlap(range))
        };
        self.collect(any, range, of_head, |block, ids| block.label_values(name, ids))
    }

    /// What head and blocks say of series; sorted, once. Of those of blocks only the ones that may
    /// have samples of the range are asked about.
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
                    Part::Head(head, ids) => found.extend(of_head(head, ids)),
                    Part::Block(block, ids) => {
                        found.extend(of_block(block, &block.visible(ids.clone(), range)?)?);
                    }
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
            if let Some(companions) = head.index.with_label(companion::LABEL) {
                ids -= companions;
            }
            visit(Part::Head(&head, &ids))?;
            self.db.version()
        };
        for block in version.blocks.iter().filter(|block| is_wanted(block.meta())) {
            let mut ids = if any.is_empty() { block.index.all() } else { Default::default() };
            for matchers in any {
                ids |= block.select(matchers)?;
            }
            visit(Part::Block(block, &Role::Series.of(ids, block)?))?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Series,
    Companion,
}

impl Role {
    /// Those of a block's series that have this role.
    fn of(self, ids: RoaringBitmap, block: &Block) -> Result<RoaringBitmap> {
        Ok(match (self, block.with_label(companion::LABEL)?) {
            (Role::Series, None) => ids,
            (Role::Series, Some(companions)) => ids - companions,
            (Role::Companion, None) => RoaringBitmap::new(),
            (Role::Companion, Some(companions)) => ids & companions,
        })
    }
}

fn has_companions_in(version: &Version, range: TimeRange) -> Result<bool> {
    for block in version.blocks.iter().filter(|block| block.meta().range.overlaps(range)) {
        if block.with_label(companion::LABEL)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives companions to their series; one whose series has no samples in the range has none to help.
fn attach(series: &mut [SelectedSeries], companions: Vec<SelectedSeries>) {
    let mut by_identity: HashMap<u128, SelectedSeries> =
        companions.into_iter().map(|one| (one.labels.identity(), one)).collect();
    for series in series {
        series.start_timestamps = by_identity.remove(&series.labels.identity()).map(Box::new);
    }
}

enum Part<'a> {
    Head(&'a Head, &'a RoaringBitmap),
    Block(&'a LiveBlock, &'a RoaringBitmap),
}
