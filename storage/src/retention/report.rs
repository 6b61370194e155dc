//! What retention has and does, by class and tier; and what it would do under other policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::db::Db;
use crate::deletes::live::LiveBlock;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::manifest::{self, Found};
use crate::metrics::block::Block;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::metrics::block::page_cache::PageCache;
use crate::retention::classes::{Classes, Classifier};
use crate::retention::hold::Holds;
use crate::retention::plan::{Facts, believed_now, bytes_of, expired};
use crate::retention::policy::{Policies, Tier};
use crate::time::TimeRange;

/// Blocks of one class and tier.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The class by its lifetimes; none while it is not known.
    pub class: Vec<Tier>,
    pub tier: Tier,
    pub blocks: u64,
    pub bytes: u64,
    /// Of which are shares of blocks that several classes are in, by the number of their series.
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
}

impl Report {
    pub fn expired_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.expired_bytes).sum()
    }
}

impl Db {
    /// What retention has and does at present.
    pub fn retention_report(&self, now_ms: i64) -> Report {
        let situation = self.inner.situation(&self.inner.upkeep.lock(), now_ms);
        let is_outdated = |block: &&BlockMeta| situation.classes.is_outdated(block);
        let pending = situation.blocks.iter().filter(is_outdated).map(|block| block.bytes);
        let facts = situation.retention_facts();
        Report {
            pending_bytes: pending.sum(),
            ..report(facts, &situation.classes, &[], &situation.on_hold)
        }
    }

    /// What retention would do under these policies. Reads labels of all blocks if the policies
    /// have several classes.
    pub fn retention_plan(&self, policies: &Policies, now_ms: i64) -> Result<Report> {
        let situation = self.inner.situation(&self.inner.upkeep.lock(), now_ms);
        let version = self.inner.version();
        let blocks = version.blocks.iter().filter(|block| {
            // What a step of upkeep has added or taken since is left out.
            situation.blocks.iter().any(|meta| meta.id == block.meta().id)
        });
        let budget = policies.disk_budget;
        let facts = Facts { confirmed: &[], budget, ..situation.retention_facts() };
        plan(&situation.classes, blocks, policies, facts)
    }
}

/// [`Db::retention_plan`] of a database that no process has open. Nothing is changed.
pub fn plan_of_directory(disk: &Arc<dyn Disk>, policies: &Policies, now_ms: i64) -> Result<Report> {
    let manifest = match manifest::load(disk.as_ref())? {
        Found::Intact(manifest) => *manifest,
        Found::None => return Ok(Report::default()),
        Found::Damaged(path, _) => {
            let what = "a start rebuilds it; plan after that".to_owned();
            return Err(Error::Corrupt { path, offset: 0, what });
        }
    };
    let pages = Arc::new(PageCache::new(0));
    let open = |meta: &BlockMeta| {
        Ok::<LiveBlock, Error>(Arc::new(Block::open(disk.clone(), meta.id, &pages)?).into())
    };
    let blocks = manifest.blocks.iter().map(open).collect::<Result<Vec<_>>>()?;
    let newest_ms = manifest.blocks.iter().map(|block| block.range.end_ms).max();
    let facts = Facts { newest_ms, now_ms, budget: policies.disk_budget, ..Facts::default() };
    plan(&manifest.classes, blocks.iter(), policies, facts)
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

fn plan<'a>(
    classes: &Classes,
    blocks: impl Iterator<Item = &'a LiveBlock>,
    policies: &Policies,
    facts: Facts<'_>,
) -> Result<Report> {
    let mut classes = classes.clone();
    let blocks: Vec<LiveBlock> = blocks.cloned().collect();
    let on_hold = Holds::new(&policies.holds).held(&blocks, facts.now_ms);
    let metas: Vec<BlockMeta> = blocks.iter().map(|block| block.meta().clone()).collect();
    classes.adopt(policies, &metas);
    let classifier = Classifier::new(policies.clone(), &classes);
    let mut parts = Vec::new();
    let mut is_share = Vec::new();
    for block in &blocks {
        let of_block = parts_of(block, &classifier)?;
        is_share.extend(of_block.iter().map(|_| of_block.len() > 1));
        parts.extend(of_block);
    }
    Ok(report(Facts { blocks: &parts, ..facts }, &classes, &is_share, &on_hold))
}

/// What becomes of a block: itself, or a part for each class, with bytes by the number of series.
fn parts_of(block: &Block, classifier: &Classifier) -> Result<Vec<BlockMeta>> {
    let meta = block.meta();
    let part = |class: u32, series: u64, of: u64| BlockMeta {
        class,
        policy_generation: classifier.generation,
        series,
        bytes: (u128::from(meta.bytes) * u128::from(series) / u128::from(of.max(1))) as u64,
        ..meta.clone()
    };
    if let Some(class) = classifier.only_class() {
        return Ok(vec![part(class, 1, 1)]);
    }
    let mut series: BTreeMap<u32, u64> = BTreeMap::new();
    block.visit_labels(&block.index.all(), |_, labels| {
        *series.entry(classifier.class_of(&labels)).or_default() += 1;
    })?;
    let all = series.values().sum();
    Ok(series.into_iter().map(|(class, count)| part(class, count, all)).collect())
}

/// `is_share`: which of the blocks are parts of a block; none if empty.
fn report(facts: Facts<'_>, classes: &Classes, is_share: &[bool], on_hold: &[BlockId]) -> Report {
    let may_go = |block: &BlockMeta| !on_hold.contains(&block.id);
    let lifetime_ms = |block: &BlockMeta| classes.lifetime_ms(block);
    let dead = expired(facts, lifetime_ms, may_go);
    let now_ms = believed_now(facts);
    let mut on_hold_bytes = 0;
    let mut rows: BTreeMap<(Vec<Tier>, u64), Row> = BTreeMap::new();
    for (i, block) in facts.blocks.iter().enumerate() {
        let class = match classes.is_outdated(block) {
            true => Vec::new(),
            false => classes.tiers(block.class).to_vec(),
        };
        let tier = Tier { resolution_ms: block.tier_ms, lifetime_ms: lifetime_ms(block) };
        let row = rows.entry((class.clone(), block.tier_ms)).or_insert_with(|| Row {
            class,
            tier,
            blocks: 0,
            bytes: 0,
            estimated_bytes: 0,
            range: block.range,
            next_drop_ms: None,
            expired_blocks: 0,
            expired_bytes: 0,
        });
        row.blocks += 1;
        row.bytes += block.bytes;
        row.range = row.range.union(block.range);
        if is_share.get(i) == Some(&true) {
            row.estimated_bytes += block.bytes;
        }
        let drop_ms = block.range.end_ms.saturating_add(tier.lifetime_ms);
        if !may_go(block) {
            on_hold_bytes += block.bytes;
        } else if now_ms.is_some_and(|now_ms| drop_ms < now_ms) {
            row.expired_blocks += 1;
            row.expired_bytes += block.bytes;
        } else {
            row.next_drop_ms = Some(row.next_drop_ms.map_or(drop_ms, |first| first.min(drop_ms)));
        }
    }
    // Of a block of several classes all parts are meant, as they have one id.
    let is_evicted = |block: &&BlockMeta| dead.evicted.contains(&block.id);
    Report {
        rows: rows.into_values().collect(),
        pending_bytes: 0,
        is_held: dead.is_held,
        on_hold_bytes,
        evicted_bytes: bytes_of(facts.blocks.iter().filter(is_evicted)),
    }
}
