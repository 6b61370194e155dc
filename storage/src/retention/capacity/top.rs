//! Which metrics and labels take the bytes of blocks.

use std::collections::HashMap;

use crate::deletes::live::LiveBlock;
use crate::metrics::block::totals::Heaviest;

/// Metrics and label pairs that are listed.
const LISTED_MAX: usize = 50;

/// A metric's part of all pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metric {
    pub name: String,
    /// The most that one block has.
    pub series: u64,
    /// Of its chunks in files, rollups too.
    pub bytes: u64,
}

/// A label pair's series' part of all pages. Pairs overlap: a series counts for each of its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub name: String,
    pub value: String,
    pub bytes: u64,
}

/// What takes most, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    pub metrics: Vec<Metric>,
    /// Of chunks of metrics that are not listed.
    pub other_metrics_bytes: u64,
    pub labels: Vec<Pair>,
    /// A pair has at most so many bytes more than are listed, or in all if it is not.
    pub labels_error_bytes: u64,
    /// Timestamps, indexes and the rest of files, which belong to all of their series.
    pub shared_bytes: u64,
    /// Of blocks that do not say which metrics they hold.
    pub unknown_bytes: u64,
}

pub(super) fn top(blocks: &[LiveBlock]) -> Top {
    let mut top = Top::default();
    let mut metrics: Heaviest<String> = Heaviest::default();
    let mut pairs: Heaviest<(String, String)> = Heaviest::default();
    let (mut page_bytes, mut pair_error) = (0, 0);
    for block in blocks {
        let Ok(Some(totals)) = block.totals() else {
            top.unknown_bytes += block.meta().bytes;
            continue;
        };
        page_bytes += block.page_bytes();
        top.shared_bytes += block.meta().bytes.saturating_sub(block.page_bytes());
        pair_error += totals.pair_error;
        totals.metrics.into_iter().for_each(|(name, share)| metrics.add(name, share.page_bytes));
        totals.pairs.into_iter().for_each(|(pair, bytes)| pairs.add(pair, bytes));
    }
    let (metrics, _) = metrics.finish(LISTED_MAX);
    top.other_metrics_bytes = page_bytes - metrics.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let series = most_series(blocks, metrics.iter().map(|(name, _)| name.as_str()));
    let metric = |(name, bytes): (String, u64)| {
        let series = series.get(&name).copied().unwrap_or(0);
        Metric { name, series, bytes }
    };
    top.metrics = metrics.into_iter().map(metric).collect();
    let (pairs, error) = pairs.finish(LISTED_MAX);
    let pair = |((name, value), bytes): ((String, String), u64)| Pair { name, value, bytes };
    top.labels = pairs.into_iter().map(pair).collect();
    top.labels_error_bytes = pair_error + error;
    top
}

/// The most series that a block has of each of these metrics.
fn most_series<'a>(
    blocks: &[LiveBlock],
    names: impl Iterator<Item = &'a str>,
) -> HashMap<String, u64> {
    let mut most: HashMap<String, u64> = names.map(|name| (name.to_owned(), 0)).collect();
    for totals in blocks.iter().filter_map(|block| block.totals().ok().flatten()) {
        for (name, share) in totals.metrics {
            if let Some(series) = most.get_mut(&name) {
                *series = (*series).max(share.series);
            }
        }
    }
    most
}
