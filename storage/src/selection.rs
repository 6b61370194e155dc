//! Selections: the series of head and blocks that fulfil a query's matchers, joined.
//!
//! Series are joined by the identity of their labels. The head knows it of each of its series; of
//! those of blocks the label bytes are hashed, and labels are built for series that are new.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::error::{Error, Result};
use crate::labels::{self, Labels, SeriesIdentity};
use crate::metrics::head::read::{HeadCopy, ReadView};
use crate::metrics::sample::Samples;
use crate::snapshot::Version;
use crate::tiers::Claims;
use crate::time::TimeRange;

/// A series that [`Snapshot::select`](crate::Snapshot::select) found.
#[derive(Clone, Debug)]
pub struct SelectedSeries {
    pub(crate) labels: Labels,
    pub(crate) selection: Arc<Selection>,
    /// In the selection's `places`.
    places: Range<u32>,
    pub(crate) head: Option<ReadView>,
    /// The companion, with the same labels.
    pub(crate) start_timestamps: Option<Box<SelectedSeries>>,
}

/// What all series of a selection read from.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) range: TimeRange,
    pub(crate) version: Arc<Version>,
    /// Where rollups answer.
    pub(crate) claims: Option<Arc<Claims>>,
    /// (index into the version's blocks, id there), series after series and by time.
    places: Vec<(u32, u32)>,
    pub(crate) head: HeadCopy,
}

impl SelectedSeries {
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// (index into the version's blocks, id there), by time.
    pub(crate) fn places(&self) -> &[(u32, u32)] {
        &self.selection.places[self.places.start as usize..self.places.end as usize]
    }

    /// Adds what the head held of the series.
    pub(crate) fn read_head(&self, view: &ReadView, into: &mut Samples) -> Result<()> {
        self.selection.head.read(view, into).ok_or_else(|| Error::Corrupt {
            path: "head".into(),
            offset: 0,
            what: format!("{} does not decode", self.labels),
        })
    }
}

/// What a selection finds in the head.
pub(crate) struct FromHead {
    pub(crate) series: Vec<HeadSeries>,
    pub(crate) copy: HeadCopy,
}

pub(crate) struct HeadSeries {
    pub(crate) labels: Labels,
    pub(crate) identity: SeriesIdentity,
    pub(crate) view: ReadView,
}

impl FromHead {
    pub(crate) fn new(range: TimeRange) -> FromHead {
        FromHead { series: Vec::new(), copy: HeadCopy::new(range) }
    }
}

/// The series of the head and of some blocks, while blocks are added.
pub(crate) struct Joined {
    labels: Vec<Labels>,
    views: Vec<Option<ReadView>>,
    /// (series, block, id there), block after block.
    places: Vec<(u32, u32, u32)>,
    /// Series by identity; `None` where there is nothing to join.
    known: Option<HashTable<(SeriesIdentity, u32)>>,
}

impl Joined {
    pub(crate) fn new(from_head: Vec<HeadSeries>, blocks: usize) -> Joined {
        let joins = blocks > 1 || blocks == 1 && !from_head.is_empty();
        let known = joins.then(|| {
            let mut known = HashTable::with_capacity(from_head.len());
            for (series, index) in from_head.iter().zip(0..) {
                known.insert_unique(series.identity as u64, (series.identity, index), low);
            }
            known
        });
        let series = from_head.into_iter().map(|series| (series.labels, Some(series.view)));
        let (labels, views) = series.unzip();
        Joined { labels, views, places: Vec::new(), known }
    }

    /// Adds a series of a block, by its canonical label bytes; gives the bytes that it takes if it
    /// is new.
    pub(crate) fn add(&mut self, block: u32, id: u32, bytes: &[u8]) -> usize {
        let next = u32::try_from(self.labels.len()).expect("series have ids of 32 bits");
        let index = match &mut self.known {
            None => next,
            Some(known) => {
                let identity = labels::identity(bytes);
                let is_same = |(other, _): &(SeriesIdentity, u32)| *other == identity;
                let slot = known.entry(identity as u64, is_same, low);
                slot.or_insert((identity, next)).get().1
            }
        };
        self.places.push((index, block, id));
        if index < next {
            return 0;
        }
        self.labels.push(Labels::from_pairs_of_an_index(bytes));
        bytes.len()
    }

    pub(crate) fn finish(
        mut self,
        range: TimeRange,
        version: &Arc<Version>,
        claims: Option<Arc<Claims>>,
        head: HeadCopy,
    ) -> Vec<SelectedSeries> {
        self.views.resize(self.labels.len(), None);
        let (places, ends) = by_series(&self.places, self.labels.len());
        let selection =
            Arc::new(Selection { range, version: version.clone(), claims, places, head });
        let mut start = 0;
        let series = self.labels.into_iter().zip(self.views).zip(ends);
        let one = |((labels, head), end)| SelectedSeries {
            labels,
            selection: selection.clone(),
            places: std::mem::replace(&mut start, end)..end,
            head,
            start_timestamps: None,
        };
        series.map(one).collect()
    }
}

fn low((identity, _): &(SeriesIdentity, u32)) -> u64 {
    *identity as u64
}

/// Places (series, block, id), which are block after block, put series after series: block and id
/// of each, and where those of each series end.
fn by_series(places: &[(u32, u32, u32)], series: usize) -> (Vec<(u32, u32)>, Vec<u32>) {
    let mut ends = vec![0u32; series];
    places.iter().for_each(|(index, _, _)| ends[*index as usize] += 1);
    let mut next = 0;
    for end in &mut ends {
        // First where the next of the series goes, at last behind its last.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_put_series_after_series_in_the_order_of_the_blocks() {
        let places = [(1, 0, 7), (0, 0, 8), (3, 0, 9), (1, 2, 5), (0, 3, 4), (1, 3, 6)];
        let (sorted, ends) = by_series(&places, 4);
        assert_eq!(sorted, [(0, 8), (3, 4), (0, 7), (2, 5), (3, 6), (0, 9)]);
        assert_eq!(ends, [2, 5, 5, 6]);
    }
}
