//! The series of several blocks as those of one: what merging and rolling up read from.
//!
//! A [`Union`] knows the labels of all its series and where each comes from, and hands the series out
//! once each, in the order of data. It holds the samples of one.

use crate::deletes::live::LiveBlock;
use crate::error::Result;
use crate::labels::Labels;
use crate::metrics::block::meta::BlockMeta;
use crate::metrics::block::writer::{data_order, sort_series};
use crate::metrics::chunk;
use crate::metrics::rollup::{Components, Rollup};
use crate::metrics::sample::Samples;
use crate::time::TimeRange;

/// Where a series comes from: (input, id there).
type Origins = Vec<(u32, u32)>;

/// Several blocks. Ids are those of a block with all of their series.
#[derive(Debug)]
pub(crate) struct Union {
    inputs: Vec<LiveBlock>,
    labels: Vec<Labels>,
    origins: Vec<Origins>,
    /// Ids in the order of data, and how many of them are done.
    order: Vec<u32>,
    done: usize,
    samples: Samples,
    other: Samples,
}

/// Series that a block was made of.
#[derive(Debug)]
pub(crate) struct Kept {
    /// In the order of the new ids.
    pub(crate) labels: Vec<Labels>,
    /// (input, id there) and the new id, ascending.
    new_ids: Vec<((u32, u32), u32)>,
}

impl Kept {
    /// The new id of a series of an input.
    pub(crate) fn id_of(&self, input: usize, id: u32) -> Option<u32> {
        let origin = (u32::try_from(input).ok()?, id);
        let at = self.new_ids.binary_search_by_key(&origin, |(origin, _)| *origin).ok()?;
        Some(self.new_ids[at].1)
    }
}

impl Union {
    /// Of the series that `keep` accepts.
    pub(crate) fn of(inputs: Vec<LiveBlock>, keep: impl Fn(&Labels) -> bool) -> Result<Union> {
        let mut series: Vec<(Labels, (u32, u32))> = Vec::new();
        for (input, block) in (0..).zip(&inputs) {
            block.visit_labels(&block.index.all(), |id, labels| {
                if keep(&labels) {
                    series.push((labels, (input, id)));
                }
            })?;
        }
        sort_series(&mut series);
        let mut labels: Vec<Labels> = Vec::new();
        let mut origins: Vec<Origins> = Vec::new();
        for (one, origin) in series {
            match (labels.last(), origins.last_mut()) {
                (Some(last), Some(known)) if *last == one => known.push(origin),
                _ => {
                    labels.push(one);
                    origins.push(vec![origin]);
                }
            }
        }
        let order = data_order(labels.iter());
        let (samples, other) = Default::default();
        Ok(Union { inputs, labels, origins, order, done: 0, samples, other })
    }

    pub(crate) fn inputs(&self) -> &[LiveBlock] {
        &self.inputs
    }

    pub(crate) fn metas(&self) -> impl Iterator<Item = &BlockMeta> {
        self.inputs.iter().map(|block| block.meta())
    }

    pub(crate) fn labels(&self, id: u32) -> &Labels {
        &self.labels[id as usize]
    }

    /// Hands out further series until `each` has read `rows` rows of them or all; whether that is all.
    pub(crate) fn advance(
        &mut self,
        rows: usize,
        mut each: impl FnMut(&mut Union, u32) -> Result<usize>,
    ) -> Result<bool> {
        let mut read = 0;
        while read < rows
            && let Some(&id) = self.order.get(self.done)
        {
            // A series without rows is some work too.
            read += each(self, id)?.max(1);
            self.done += 1;
        }
        Ok(self.done == self.order.len())
    }

    /// The samples of a series in `range`; of two values for a timestamp the greater, as everywhere.
    pub(crate) fn read(&mut self, id: u32, range: TimeRange) -> Result<&Samples> {
        let Union { inputs, origins, samples, other, .. } = self;
        samples.clear();
        for (input, id) in &origins[id as usize] {
            other.clear();
            inputs[*input as usize].read(*id, range, None, other)?;
            chunk::merge(samples, other);
        }
        // Whole chunks may have come.
        samples.retain(|timestamp| range.contains(timestamp));
        Ok(samples)
    }

    /// The buckets of a series of a tier. Of two blocks that cover a time the newer one was made
    /// again from the raw samples.
    pub(crate) fn read_rollup(&self, id: u32) -> Result<Rollup> {
        let mut all = Rollup::default();
        for (input, id) in &self.origins[id as usize] {
            let mut one = Rollup::default();
            let input = &self.inputs[*input as usize];
            input.read_rollup(*id, TimeRange::ALL, Components::ALL, &mut one)?;
            for newer in self.metas().filter(|meta| meta.id > input.meta().id) {
                one.remove(newer.window);
            }
            all.merge(one);
        }
        Ok(all)
    }

    /// The labels of these series, sorted by id.
    pub(crate) fn labels_of(&self, mut ids: Vec<u32>) -> Vec<Labels> {
        ids.sort_unstable();
        ids.into_iter().map(|id| self.labels(id).clone()).collect()
    }

    /// Keeps these series alone, in the order of their ids.
    pub(crate) fn keep(self, mut ids: Vec<u32>) -> (Vec<LiveBlock>, Kept) {
        ids.sort_unstable();
        let mut kept = ids.into_iter().peekable();
        let mut is_kept = |id: &u32| kept.next_if_eq(id).is_some();
        let all = (0..).zip(self.labels.into_iter().zip(self.origins));
        let (labels, origins): (Vec<Labels>, Vec<Origins>) =
            all.filter(|(id, _)| is_kept(id)).map(|(_, series)| series).unzip();
        let origins = (0..).zip(origins);
        let mut new_ids: Vec<((u32, u32), u32)> =
            origins.flat_map(|(id, of)| of.into_iter().map(move |origin| (origin, id))).collect();
        new_ids.sort_unstable();
        (self.inputs, Kept { labels, new_ids })
    }
}
