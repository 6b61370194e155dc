//! What retention has and does, by class and tier; and what it would do under other policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::compaction::rollup;
use crate::data_file::{newest_manifest, open, segments};
use crate::db::Db;
use crate::deletes::live::LiveBlock;
use crate::disk::Disk;
use crate::error::Result;
use crate::manifest::{self, Found};
use crate::metrics::block::Block;
use crate::metrics::block::meta::{BlockId, BlockMeta, DataType};
use crate::metrics::block::page_cache::PageCache;
use crate::retention::capacity::{Capacity, Files, HeldBy, Scene, capacity};
use crate::retention::classes::{Classes, Classifier};
use crate::retention::hold::Holds;
use crate::retention::plan::{Expired, Facts, believed_now, bytes_of, expired};
use crate::retention::policy::{Policies, Tier};
use crate::retention::share::{Divider, Part, shared_out};
use crate::time::TimeRange;
use crate::wal::segment;

/// Blocks of one class and tier.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub data_type: DataType,
    /// The class by its lifetimes; none while it is not known.
    pub class: Vec<Tier>,
    pub tier: Tier,
    pub blocks: u64,
    pub bytes: u64,
    /// Of which are estimates of what the parts of blocks of several classes will take.
    pub estimated_bytes: u64,
    /// Oldest and newest sample.
    pub range: TimeRange,
    /// When the first of the blocks goes that do not go now.
    pub next_drop_ms: Option<i64>,
    /// What has outlived its retention.
    pub expired_blocks: u64,
    pub expired_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// By class and tier, raw samples first.
    pub rows: Vec<Row>,
    /// Bytes of blocks whose class is by older policies: they are to be looked at or split.
    pub pending_bytes: u64,
    /// What has outlived its retention is so much that it waits for somebody to confirm.
    pub is_held: bool,
    /// What goes before its time to keep to the disk budget.
    pub evicted_bytes: u64,
    /// Bytes of blocks under a legal hold; they are not among what has expired.
    pub on_hold_bytes: u64,
    /// Bytes of blocks once what goes now is gone, and what has to be split is split.
    pub kept_bytes: u64,
    pub capacity: Capacity,
}

impl Report {
    pub fn expired_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.expired_bytes).sum()
    }
}

/// What a report is made of, at one moment.
struct Moment {
    classes: Classes,
    blocks: Vec<LiveBlock>,
    /// As the manifest has them, in the order of the blocks.
    metas: Vec<BlockMeta>,
    dirty: BTreeSet<rollup::Day>,
    held_by: HashMap<BlockId, HeldBy>,
    newest_ms: Option<i64>,
    now_ms: i64,
    clock_in_doubt: bool,
    confirmed: Vec<BlockId>,
    budget: Option<u64>,
    files: Files,
    free_bytes: Option<u64>,
}

impl Db {
    /// What retention has and does at present.
    pub fn retention_report(&self, now_ms: i64) -> Report {
        let moment = self.moment(now_ms);
        let whole = |(block, meta): (&LiveBlock, &BlockMeta)| Part::whole(block, meta.clone());
        let parts: Vec<Part> = moment.blocks.iter().zip(&moment.metas).map(whole).collect();
        report(&moment, &moment.classes, &parts)
    }

    /// What retention would do under these policies. Reads labels of all blocks, and the pages of
    /// those that would be split, if the policies have several classes.
    pub fn retention_plan(&self, policies: &Policies, now_ms: i64) -> Result<Report> {
        plan(self.moment(now_ms), policies)
    }

    fn moment(&self, now_ms: i64) -> Moment {
        let mut upkeep = self.inner.upkeep.lock();
        let version = self.inner.version();
        upkeep.on_hold = upkeep.holds.held(&version.blocks, now_ms);
        let situation = self.inner.situation(&upkeep, now_ms);
        let meta = |block: &LiveBlock| {
            situation.blocks.iter().find(|meta| meta.id == block.meta().id).cloned()
        };
        let known = version.blocks.iter().filter_map(|block| Some((block.clone(), meta(block)?)));
        let (blocks, metas): (Vec<LiveBlock>, Vec<BlockMeta>) = known.unzip();
        let disk = self.inner.disk.as_ref();
        let checkpoint = upkeep.manifest.checkpoint;
        Moment {
            held_by: held_by(&upkeep.holds, &metas, now_ms),
            files: Files::find(disk, &metas, checkpoint, situation.log_bytes),
            free_bytes: disk.free_bytes().ok(),
            blocks,
            metas,
            classes: situation.classes,
            dirty: situation.dirty,
            newest_ms: situation.newest_ms,
            now_ms,
            clock_in_doubt: situation.clock_in_doubt,
            confirmed: situation.confirmed,
            budget: situation.disk_budget,
        }
    }
}

/// [`Db::retention_plan`] of a database that no process has open; without policies
/// [`Db::retention_report`], by those that were in force last, of which the disk budget and holds are
/// not known. Nothing is changed.
pub fn report_of_directory(
    disk: &Arc<dyn Disk>,
    policies: Option<&Policies>,
    now_ms: i64,
) -> Result<Report> {
    let manifest = newest_manifest(disk.as_ref())?;
    let pages = Arc::new(PageCache::new(0));
    let block = |meta: &BlockMeta| {
        let block = Arc::new(Block::open(disk.clone(), meta.id, &pages)?);
        LiveBlock::of(block, &manifest.deletes.tombstones)
    };
    let blocks = manifest.blocks.iter().map(block).collect::<Result<Vec<_>>>()?;
    let log = segments(disk.as_ref())?
        .into_iter()
        .map(|number| Ok(open(disk.as_ref(), &segment::path(number))?.length()));
    let log = log.sum::<Result<u64>>()?;
    let files = Files::find(disk.as_ref(), &manifest.blocks, manifest.checkpoint, log);
    let moment = Moment {
        blocks,
        newest_ms: manifest.blocks.iter().map(|block| block.range.end_ms).max(),
        metas: manifest.blocks,
        classes: manifest.classes,
        dirty: manifest.dirty,
        held_by: HashMap::new(),
        now_ms,
        clock_in_doubt: false,
        confirmed: Vec::new(),
        budget: None,
        files,
        free_bytes: disk.free_bytes().ok(),
    };
    match policies {
        Some(policies) => plan(moment, policies),
        None => {
            let whole = |(block, meta): (&LiveBlock, &BlockMeta)| Part::whole(block, meta.clone());
            let parts: Vec<Part> = moment.blocks.iter().zip(&moment.metas).map(whole).collect();
            Ok(report(&moment, &moment.classes, &parts))
        }
    }
}

fn held_by(holds: &Holds, metas: &[BlockMeta], now_ms: i64) -> HashMap<BlockId, HeldBy> {
    let of_block = |meta: &BlockMeta| {
        let holds = holds.of(meta.id, now_ms);
        let until = holds.iter().map(|hold| hold.until_ms).collect::<Option<Vec<i64>>>();
        let ids: Vec<String> = holds.iter().map(|hold| hold.id.clone()).collect();
        let until_ms = until.and_then(|until| until.into_iter().max());
        (!ids.is_empty()).then_some((meta.id, HeldBy { ids, until_ms }))
    };
    metas.iter().filter_map(of_block).collect()
}

/// A policy as a database remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPolicy {
    /// As text, with commas between them.
    pub matchers: String,
    pub tiers: Vec<Tier>,
}

/// The policies that the database of a directory had last, in order; none of a new one.
pub fn policies_of_directory(disk: &dyn Disk) -> Result<Vec<KeptPolicy>> {
    match manifest::load(disk)? {
        Found::Intact(manifest) => Ok(manifest.classes.policies()),
        Found::None | Found::Damaged(..) => Ok(Vec::new()),
    }
}

/// Takes the lock of a data directory, for as long as the answer lives.
pub fn lock_directory(disk: &dyn Disk) -> Result<impl std::fmt::Debug + use<>> {
    crate::db::lock(disk)
}

fn plan(moment: Moment, policies: &Policies) -> Result<Report> {
    let mut classes = moment.classes.clone();
    let mut holds = Holds::new(&policies.holds);
    holds.held(&moment.blocks, moment.now_ms);
    classes.adopt(policies, &moment.metas);
    let classifier = Classifier::new(policies.clone(), &classes);
    let mut divider = Divider::new(&classifier);
    let mut parts = Vec::new();
    for (block, meta) in moment.blocks.iter().zip(&moment.metas) {
        parts.extend(divider.divide(block, meta)?);
    }
    let held_by = held_by(&holds, &moment.metas, moment.now_ms);
    let budget = policies.disk_budget;
    let moment = Moment { held_by, budget, confirmed: Vec::new(), ..moment };
    Ok(report(&moment, &classes, &parts))
}

fn report(moment: &Moment, classes: &Classes, parts: &[Part]) -> Report {
    let may_go = |block: &BlockMeta| !moment.held_by.contains_key(&block.id);
    let lifetime_ms = |block: &BlockMeta| classes.kept_ms(block);
    let mut metas: Vec<BlockMeta> = parts.iter().map(|part| part.meta.clone()).collect();
    let now_ms = believed_now(moment.facts(&[]));
    let drop_ms = |block: &BlockMeta| block.range.end_ms.saturating_add(lifetime_ms(block));
    let is_expired =
        |block: &BlockMeta| may_go(block) && now_ms.is_some_and(|now_ms| drop_ms(block) < now_ms);
    shared_out(&mut metas, &moment.metas, is_expired);
    let dead = expired(moment.facts(&metas), lifetime_ms, may_go);
    let mut on_hold_bytes = 0;
    let mut rows: BTreeMap<(u8, Vec<Tier>, u64), Row> = BTreeMap::new();
    for (block, part) in metas.iter().zip(parts) {
        let row = row_of(&mut rows, classes, block);
        row.blocks += 1;
        row.bytes += block.bytes;
        row.range = row.range.union(block.range);
        row.estimated_bytes += if part.is_share { block.bytes } else { 0 };
        let drop_ms = drop_ms(block);
        if !may_go(block) {
            on_hold_bytes += block.bytes;
        } else if is_expired(block) {
            row.expired_blocks += 1;
            row.expired_bytes += block.bytes;
        } else {
            row.next_drop_ms = Some(row.next_drop_ms.map_or(drop_ms, |first| first.min(drop_ms)));
        }
    }
    // Of a block of several classes all parts are meant, as they have one id.
    let is_evicted = |block: &&BlockMeta| dead.evicted.contains(&block.id);
    let goes = |block: &&BlockMeta| is_evicted(block) || is_expired(block);
    let pending = metas.iter().filter(|block| classes.is_outdated(block));
    Report {
        pending_bytes: pending.map(|block| block.bytes).sum(),
        is_held: dead.is_held,
        on_hold_bytes,
        evicted_bytes: bytes_of(metas.iter().filter(is_evicted)),
        kept_bytes: bytes_of(metas.iter().filter(|block| !goes(block))),
        capacity: capacity_of(moment, classes, &metas, parts, &dead),
        rows: rows.into_values().collect(),
    }
}

impl Moment {
    fn facts<'a>(&'a self, blocks: &'a [BlockMeta]) -> Facts<'a> {
        Facts {
            blocks,
            newest_ms: self.newest_ms,
            now_ms: self.now_ms,
            clock_in_doubt: self.clock_in_doubt,
            confirmed: &self.confirmed,
            budget: self.budget,
            log_bytes: self.files.log,
        }
    }
}

fn capacity_of(
    moment: &Moment,
    classes: &Classes,
    metas: &[BlockMeta],
    parts: &[Part],
    expired: &Expired,
) -> Capacity {
    let with_meta = |(part, meta): (&Part, &BlockMeta)| Part { meta: meta.clone(), ..part.clone() };
    let parts: Vec<Part> = parts.iter().zip(metas).map(with_meta).collect();
    capacity(&Scene {
        facts: moment.facts(metas),
        parts: &parts,
        blocks: &moment.blocks,
        classes,
        dirty: &moment.dirty,
        held_by: &moment.held_by,
        expired,
        files: moment.files,
        free_bytes: moment.free_bytes,
    })
}

fn row_of<'a>(
    rows: &'a mut BTreeMap<(u8, Vec<Tier>, u64), Row>,
    classes: &Classes,
    block: &BlockMeta,
) -> &'a mut Row {
    let class = match classes.is_outdated(block) {
        true => Vec::new(),
        false => classes.tiers(block.class).to_vec(),
    };
    let tier = Tier { resolution_ms: block.tier_ms, lifetime_ms: classes.lifetime_ms(block) };
    let data_type = block.data_type;
    rows.entry((data_type as u8, class.clone(), block.tier_ms)).or_insert_with(|| Row {
        data_type,
        class,
        tier,
        blocks: 0,
        bytes: 0,
        estimated_bytes: 0,
        range: block.range,
        next_drop_ms: None,
        expired_blocks: 0,
        expired_bytes: 0,
    })
}
