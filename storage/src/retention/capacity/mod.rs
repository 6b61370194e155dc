//! Capacity: what is stored by day, when it goes and why, what comes a day, and when room runs out.
//!
//! All of it is told from what blocks say of themselves ([`totals`](crate::metrics::block::totals)),
//! so a report reads no samples. A **part** is a block, or what a class has of one; parts share out
//! every byte of their files, so the days of a report add up to its blocks.

mod days;
pub(crate) mod forecast;
mod growth;
mod top;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::compaction::rollup;
use crate::data_file::DataFile;
use crate::deletes::live::LiveBlock;
use crate::disk::Disk;
use crate::manifest::CheckpointId;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::retention::classes::Classes;
use crate::retention::plan::{Expired, Facts, believed_now};
use crate::retention::share::Part;

pub use days::{DayRow, Drop, Why};
pub use forecast::{Full, Size};
pub use growth::{DAYS_MIN, Forecast, Growth, Limit};
pub use top::{Metric, Pair, Top};

/// What the files of a database take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub blocks: u64,
    pub checkpoint: u64,
    pub log: u64,
    /// Manifests, and what no manifest names: files in the making, those that a reader still has,
    /// what is in quarantine or in the trash. Not in [`Files::total`].
    pub other: u64,
}

impl Files {
    /// What the manifest names, and the log.
    pub fn total(&self) -> u64 {
        self.blocks + self.checkpoint + self.log
    }

    pub(crate) fn find(
        disk: &dyn Disk,
        blocks: &[BlockMeta],
        checkpoint: Option<CheckpointId>,
        log: u64,
    ) -> Files {
        let checkpoint = checkpoint.map(|one| DataFile::Checkpoint(one.number).path());
        let named: BTreeSet<_> = blocks
            .iter()
            .map(|block| DataFile::Block(block.id).path())
            .chain(checkpoint.clone())
            .collect();
        let length = |path: &Path| disk.open(path).map_or(0, |file| file.length());
        let mut other = 0;
        for folder in ["", "blocks", "checkpoints", "quarantine", "trash"].map(Path::new) {
            // What is not there takes nothing.
            for name in disk.list(folder).unwrap_or_default() {
                let path = folder.join(name);
                let is_other = !named.contains(&path) && path != Path::new("lock");
                other += if is_other { length(&path) } else { 0 };
            }
        }
        Files {
            blocks: blocks.iter().map(|block| block.bytes).sum(),
            checkpoint: checkpoint.map_or(0, |path| length(&path)),
            log,
            other,
        }
    }
}

/// What a report says of sizes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capacity {
    pub now_ms: i64,
    /// Newest sample of head and blocks.
    pub newest_ms: Option<i64>,
    pub files: Files,
    /// What can still be written, as far as the disk knows.
    pub free_bytes: Option<u64>,
    pub disk_budget: Option<u64>,
    /// By data type, class, tier and day.
    pub days: Vec<DayRow>,
    /// By date, data type, class and tier.
    pub drops: Vec<Drop>,
    /// Complete days that growth may be told of; too few of them tell nothing.
    pub complete_days: u64,
    pub growth: Option<Growth>,
    pub forecast: Option<Forecast>,
    pub top: Top,
}

/// Holds that keep a block: their ids, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeldBy {
    pub(crate) ids: Vec<String>,
    /// `None`: as long as a hold stands.
    pub(crate) until_ms: Option<i64>,
}

/// All that a report is made of.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    /// `blocks` are those of the parts, in their order.
    pub(crate) facts: Facts<'a>,
    pub(crate) parts: &'a [Part],
    pub(crate) blocks: &'a [LiveBlock],
    pub(crate) classes: &'a Classes,
    pub(crate) dirty: &'a BTreeSet<rollup::Day>,
    pub(crate) held_by: &'a HashMap<BlockId, HeldBy>,
    pub(crate) expired: &'a Expired,
    pub(crate) files: Files,
    pub(crate) free_bytes: Option<u64>,
}

impl Scene<'_> {
    /// The time that lifetimes are counted to; also where nothing may be dropped.
    fn now_ms(&self) -> i64 {
        believed_now(Facts { clock_in_doubt: false, ..self.facts }).unwrap_or(self.facts.now_ms)
    }
}

pub(crate) fn capacity(scene: &Scene<'_>) -> Capacity {
    let fates: Vec<days::Fate> = scene.parts.iter().map(|part| days::fate(scene, part)).collect();
    let days = days::rows(scene, &fates);
    let drops = days::drops(scene, &fates);
    let (complete_days, growth, forecast) = growth::growth(scene, &days, &drops);
    Capacity {
        now_ms: scene.facts.now_ms,
        newest_ms: scene.facts.newest_ms,
        files: scene.files,
        free_bytes: scene.free_bytes,
        disk_budget: scene.facts.budget,
        days,
        drops,
        complete_days,
        growth,
        forecast,
        top: top::top(scene.blocks),
    }
}
