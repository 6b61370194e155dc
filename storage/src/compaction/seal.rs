//! Sealing: the head's samples of one window become blocks, one for each class of series.
//!
//! Series are taken from the head a batch at a time, so writes wait for a batch at most. Samples
//! that come for the window meanwhile stay in the head as late ones. When memory is short a window
//! is sealed in part while it is still written ([`Part`]): those blocks say nothing of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::metrics::batch::{Exemplar, Metadata};
use crate::metrics::block;
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::block::writer::{BlockWriter, Pages, data_order, sort_series};
use crate::metrics::chunk;
use crate::metrics::head::Head;
use crate::metrics::head::view::SeriesView;
use crate::metrics::sample::Samples;
use crate::time::TimeRange;

/// Series that are looked at under one lock.
const BATCH_SERIES: usize = 1024;

/// Which samples of a window are sealed.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// All. What comes for the window from now on is late.
    Whole,
    /// Those of some series: all of the series that nobody has written to since the write
    /// `idle_up_to`, mini-chunks and late samples of the others. The window stays open.
    Of { series: Vec<u32>, idle_up_to: u64 },
}

/// A sealed series: its id in the head, and how many of its packed bytes the head may forget.
pub(crate) type Taken = (u32, u32);

/// What a seal made, and what the head has to forget.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// A block for each class; none if the window held nothing.
    pub(crate) metas: Vec<BlockMeta>,
    pub(crate) series: Vec<Taken>,
    pub(crate) late_samples: u64,
    /// Numbers of the exemplars that are in the block, ascending.
    pub(crate) exemplars: Vec<u64>,
}

/// Writes the blocks; `meta_of` names that of a class. On failure the head is as before and no file
/// stays. Until [`Head::end_seal`] or [`abort`] the head lets nobody else seal.
pub(crate) fn seal(
    disk: &Arc<dyn Disk>,
    head: &RwLock<Head>,
    window: TimeRange,
    part: Part,
    meta_of: impl FnMut(u32) -> BlockMeta,
) -> Result<Sealed> {
    let (ids, idle_up_to) = match part {
        Part::Of { series, idle_up_to } => (series, Some(idle_up_to)),
        Part::Whole => {
            let mut head = head.write();
            head.set_sealed_before(window.end_ms.saturating_add(1));
            (head.ids().collect(), None)
        }
    };
    let mut late_samples = 0;
    let mut series: Vec<Taken> = Vec::new();
    for batch in ids.chunks(BATCH_SERIES) {
        let mut head = head.write();
        for &id in batch {
            if !head_has(&head, id, window) {
                continue;
            }
            let (late, taken) = match idle_up_to {
                None => (head.change(id, |one, columns| one.begin_seal(window, columns)), u32::MAX),
                Some(sequence) => {
                    let is_idle = head.is_idle(id, sequence);
                    head.change(id, |one, columns| one.begin_early_seal(window, is_idle, columns))
                }
            };
            late_samples += late;
            series.push((id, taken));
        }
    }
    let written = write(disk, head, window, meta_of, &series);
    match written {
        Ok((metas, series, exemplars)) => Ok(Sealed { metas, series, late_samples, exemplars }),
        Err(e) => {
            abort(head, &series);
            Err(e)
        }
    }
}

/// Takes back what a seal has begun for these series.
pub(crate) fn abort(head: &RwLock<Head>, series: &[Taken]) {
    for batch in series.chunks(BATCH_SERIES) {
        let mut head = head.write();
        batch.iter().for_each(|(id, _)| head.change(*id, |one, _| one.abort_seal()));
    }
}

fn head_has(head: &Head, id: u32, window: TimeRange) -> bool {
    head.is_in_use(id) && head.series(id).may_overlap(window)
}

fn write(
    disk: &Arc<dyn Disk>,
    head: &RwLock<Head>,
    window: TimeRange,
    mut meta_of: impl FnMut(u32) -> BlockMeta,
    series: &[Taken],
) -> Result<(Vec<BlockMeta>, Vec<Taken>, Vec<u64>)> {
    // A series may overlap the window by its newest and oldest samples and have none inside.
    let mut by_class: BTreeMap<u32, Vec<(Labels, u32)>> = BTreeMap::new();
    let mut sealed: Vec<Taken> = Vec::with_capacity(series.len());
    for batch in series.chunks(BATCH_SERIES) {
        let head = head.read();
        let inside = batch.iter().filter(|(id, _)| head.series(*id).has_window(window));
        for one @ (id, _) in inside {
            sealed.push(*one);
            by_class.entry(head.class(*id)).or_default().push((head.index.labels(*id), *id));
        }
    }
    let (mut metas, mut exemplars) = (Vec::new(), Vec::new());
    let last = by_class.last_key_value().map(|(class, _)| *class);
    for (class, series) in by_class {
        let mut meta = meta_of(class);
        // Only when the last file is there are all: it alone says what needs no replay.
        if Some(class) != last {
            meta.sequence = 0;
        }
        match write_block(disk, head, window, meta, series) {
            Ok((meta, numbers)) => {
                metas.push(meta);
                exemplars.extend(numbers);
            }
            Err(e) => {
                discard(disk, &metas);
                return Err(e);
            }
        }
    }
    exemplars.sort_unstable();
    Ok((metas, sealed, exemplars))
}

/// Removes blocks that no manifest has named: first the last, which speaks for all.
pub(crate) fn discard(disk: &Arc<dyn Disk>, metas: &[BlockMeta]) {
    for meta in metas.iter().rev() {
        let _ = disk.remove(&block::path(meta.id));
    }
}

fn write_block(
    disk: &Arc<dyn Disk>,
    head: &RwLock<Head>,
    window: TimeRange,
    meta: BlockMeta,
    mut series: Vec<(Labels, u32)>,
) -> Result<(BlockMeta, Vec<u64>)> {
    sort_series(&mut series);
    let (labels, places): (Vec<Labels>, Vec<u32>) = series.into_iter().unzip();
    let order = data_order(labels.iter());
    let mut writer = BlockWriter::create(disk.clone(), meta, Pages::Plain)?;
    append_all(head, window, &order, &places, &mut writer)?;
    let (numbers, exemplars, metadata) = describe(head, window, &labels, &places);
    Ok((writer.finish(&labels, &exemplars, &metadata)?, numbers))
}

fn append_all(
    head: &RwLock<Head>,
    window: TimeRange,
    order: &[u32],
    places: &[u32],
    writer: &mut BlockWriter,
) -> Result<()> {
    let mut samples = Samples::default();
    for batch in order.chunks(BATCH_SERIES) {
        let views: Vec<SeriesView> = {
            let head = head.read();
            // What belongs into the block was packed before.
            let view = |id: u32| head.series(id).view(window, &head.columns).without_tail();
            batch.iter().map(|position| view(places[*position as usize])).collect()
        };
        for view in views {
            samples.clear();
            view.read(&mut samples).ok_or_else(|| Error::Corrupt {
                path: "head".into(),
                offset: 0,
                what: "a series in memory does not decode".into(),
            })?;
            let start = samples.timestamps.partition_point(|t| *t < window.start_ms);
            let end = samples.timestamps.partition_point(|t| *t <= window.end_ms);
            let mut inside = Samples::default();
            if (start, end) == (0, samples.len()) {
                std::mem::swap(&mut inside, &mut samples);
            } else {
                chunk::append(&mut inside, &samples, start..end);
            }
            writer.append(&inside)?;
            samples = inside;
        }
    }
    Ok(())
}

/// Exemplars of the window with their numbers in the head, and metadata of the families that the
/// series are of. An exemplar of a series without samples in the window stays in the head.
fn describe(
    head: &RwLock<Head>,
    window: TimeRange,
    labels: &[Labels],
    places: &[u32],
) -> (Vec<u64>, Vec<(u32, Exemplar)>, Vec<Metadata>) {
    let head = head.read();
    let mut sealed_ids: Vec<(u32, u32)> =
        places.iter().enumerate().map(|(sealed, id)| (*id, sealed as u32)).collect();
    sealed_ids.sort_unstable();
    let mut numbers = Vec::new();
    let mut exemplars: Vec<(u32, Exemplar)> = Vec::new();
    for (number, id, exemplar) in head.exemplars_of(window) {
        if let Ok(at) = sealed_ids.binary_search_by_key(&id, |(id, _)| *id) {
            numbers.push(number);
            exemplars.push((sealed_ids[at].1, exemplar.clone()));
        }
    }
    exemplars.sort_by_key(|(id, exemplar)| (*id, exemplar.timestamp));
    (numbers, exemplars, families(head.metadata().values().flatten(), labels))
}

/// The metadata that says something of these series: of their names, or of the names without the
/// suffix that a histogram or summary adds.
pub(crate) fn families<'a>(
    metadata: impl Iterator<Item = &'a Metadata>,
    labels: &[Labels],
) -> Vec<Metadata> {
    let mut names: Vec<&str> = labels.iter().map(Labels::metric_name).collect();
    names.sort_unstable();
    names.dedup();
    let suffixes = ["", "_bucket", "_sum", "_count", "_total", "_created", "_info"];
    metadata
        .filter(|one| {
            suffixes.iter().any(|suffix| {
                let name = format!("{}{suffix}", one.family);
                names.binary_search(&name.as_str()).is_ok()
            })
        })
        .cloned()
        .collect()
}
