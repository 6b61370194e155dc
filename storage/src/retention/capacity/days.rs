//! What is stored by day, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use xxhash_rust::xxh3::xxh3_128;

use crate::deletes::live::LiveBlock;
use crate::metrics::block::meta::{BlockId, BlockMeta, DataType};
use crate::retention::capacity::Scene;
use crate::retention::plan::candidates;
use crate::retention::policy::Tier;
use crate::retention::share::Part;
use crate::time::{DAY_MS, TimeRange};

/// Series that are compared to tell how many are in several blocks of a day; of more it is only told
/// how many there are at least.
const COMPARED_MAX: u64 = 200_000;

/// Why something goes when it goes, or stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The lifetime of its class and tier ends.
    Lifetime,
    /// It goes before its time, to keep to the disk budget.
    DiskBudget,
    /// Its class is by older policies: until it is known, the longest lifetime of any holds.
    ClassPending,
    /// Its lifetime has ended, and it is still to be rolled up.
    AwaitsRollup,
    /// Its lifetime has ended, and so much has at once that somebody has to confirm it.
    AwaitsConfirmation,
    /// Legal holds of these ids keep it.
    OnHold(Vec<String>),
}

/// When a part goes, and why; `None` if that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) drop_ms: Option<i64>,
    pub(super) why: Why,
}

pub(super) fn fate(scene: &Scene<'_>, part: &Part) -> Fate {
    let (meta, now_ms) = (&part.meta, scene.facts.now_ms);
    let lifetime_ms = scene.classes.kept_ms(meta);
    let by_lifetime = (lifetime_ms < i64::MAX)
        .then(|| meta.range.end_ms.saturating_add(lifetime_ms).saturating_add(1));
    let is_over = by_lifetime.is_some_and(|drop_ms| drop_ms <= scene.now_ms());
    let of = |drop_ms, why| Fate { drop_ms, why };
    if let Some(held) = scene.held_by.get(&meta.id) {
        let drop_ms = held.until_ms.zip(by_lifetime).map(|(until, drop)| until.max(drop));
        return of(drop_ms, Why::OnHold(held.ids.clone()));
    }
    let is_due = is_over || scene.expired.evicted.contains(&meta.id);
    match (is_due, is_over) {
        (true, _) if scene.expired.is_held => of(None, Why::AwaitsConfirmation),
        (true, true) if !is_rolled_up(scene, meta) => of(Some(now_ms), Why::AwaitsRollup),
        (true, true) => of(Some(now_ms), Why::Lifetime),
        (true, false) => of(Some(now_ms), Why::DiskBudget),
        (false, _) if scene.classes.is_outdated(meta) => of(by_lifetime, Why::ClassPending),
        (false, _) => of(by_lifetime, Why::Lifetime),
    }
}

/// What is stored of a class and tier of a day, in blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct DayRow {
    pub data_type: DataType,
    /// The class by its lifetimes; none while it is not known.
    pub class: Vec<Tier>,
    /// The selectors of the policies that give it, "" for one without.
    pub policies: Vec<String>,
    pub tier: Tier,
    /// Start of the day, UTC.
    pub day_ms: i64,
    /// Different ones; at least so many if that is not exact.
    pub series: u64,
    pub series_is_exact: bool,
    /// Samples, or buckets of a rollup; with those that a delete has hidden and nothing has freed.
    pub rows: u64,
    /// What the samples took as they were sent: 16 bytes a float, and for a histogram 8 for its
    /// timestamp and each of its numbers. Of a rollup, those that it was made of.
    pub raw_bytes: u64,
    /// Of files.
    pub bytes: u64,
    /// Blocks that do not say what they hold by day, or that are to be split, were divided evenly.
    pub is_estimated: bool,
    /// Oldest and newest row.
    pub range: TimeRange,
    /// When the last of it goes; `None` if that cannot be told.
    pub drop_ms: Option<i64>,
    pub why: Why,
    /// How soon it would be evicted to keep to the disk budget, from 1 on; `None` for never.
    pub eviction_rank: Option<u32>,
}

/// What goes on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Start of the day, UTC.
    pub day_ms: i64,
    pub data_type: DataType,
    pub class: Vec<Tier>,
    pub tier: Tier,
    pub why: Why,
    pub blocks: u64,
    pub bytes: u64,
}

type Key = (u8, Vec<Tier>, u64, i64);

fn class_of(scene: &Scene<'_>, meta: &BlockMeta) -> Vec<Tier> {
    match scene.classes.is_outdated(meta) {
        true => Vec::new(),
        false => scene.classes.tiers(meta.class).to_vec(),
    }
}

fn tier_of(scene: &Scene<'_>, meta: &BlockMeta) -> Tier {
    Tier { resolution_ms: meta.tier_ms, lifetime_ms: scene.classes.lifetime_ms(meta) }
}

pub(super) fn rows(scene: &Scene<'_>, fates: &[Fate]) -> Vec<DayRow> {
    let ranks = ranks(scene);
    let mut rows: BTreeMap<Key, DayRow> = BTreeMap::new();
    let mut blocks_of: BTreeMap<Key, BTreeSet<BlockId>> = BTreeMap::new();
    for (part, fate) in scene.parts.iter().zip(fates) {
        let class = class_of(scene, &part.meta);
        for ((day, totals), bytes) in part.days.iter().zip(part.bytes_by_day()) {
            let key = (part.meta.data_type as u8, class.clone(), part.meta.tier_ms, *day);
            blocks_of.entry(key.clone()).or_default().insert(part.meta.id);
            let row = rows.entry(key).or_insert_with(|| new_row(scene, part, *day, fate));
            row.rows += totals.rows;
            row.raw_bytes += totals.raw_bytes;
            row.bytes += bytes;
            row.series = row.series.max(totals.series);
            row.is_estimated |= part.is_share || part.is_even;
            row.series_is_exact &= !row.is_estimated;
            row.range = match row.range.is_empty() {
                true => totals.range,
                false => row.range.union(totals.range),
            };
            // The part that goes last tells when and why.
            let goes = |drop_ms: Option<i64>| drop_ms.unwrap_or(i64::MAX);
            if goes(fate.drop_ms) > goes(row.drop_ms) {
                (row.drop_ms, row.why) = (fate.drop_ms, fate.why.clone());
            }
            let rank = ranks.get(&part.meta.id).copied();
            row.eviction_rank = row.eviction_rank.into_iter().chain(rank).min();
        }
    }
    count_series(scene, &mut rows, &blocks_of);
    rows.into_values().collect()
}

fn new_row(scene: &Scene<'_>, part: &Part, day: i64, fate: &Fate) -> DayRow {
    let class = class_of(scene, &part.meta);
    let policies = match class.is_empty() {
        true => Vec::new(),
        false => scene.classes.policies_of(part.meta.class).map(str::to_owned).collect(),
    };
    DayRow {
        data_type: part.meta.data_type,
        class,
        policies,
        tier: tier_of(scene, &part.meta),
        day_ms: day.saturating_mul(DAY_MS),
        series: 0,
        series_is_exact: true,
        rows: 0,
        raw_bytes: 0,
        bytes: 0,
        is_estimated: false,
        range: TimeRange::default(),
        drop_ms: fate.drop_ms,
        why: fate.why.clone(),
        eviction_rank: None,
    }
}

/// Whether nothing is lost with a raw block but its resolution.
fn is_rolled_up(scene: &Scene<'_>, meta: &BlockMeta) -> bool {
    scene.classes.is_rolled_up(meta, scene.facts.blocks, scene.dirty, Some(scene.now_ms()))
}

/// In which order blocks would be evicted, if there is a disk budget.
fn ranks(scene: &Scene<'_>) -> HashMap<BlockId, u32> {
    if scene.facts.budget.is_none() {
        return HashMap::new();
    }
    let is_evictable = |meta: &&BlockMeta| {
        !scene.held_by.contains_key(&meta.id) && !scene.expired.blocks.contains(&meta.id)
    };
    let blocks = scene.facts.blocks.iter().filter(is_evictable);
    let may_go = |meta: &BlockMeta| is_rolled_up(scene, meta);
    let mut ranks = HashMap::new();
    for meta in candidates(blocks, scene.now_ms(), may_go) {
        let next = ranks.len() as u32 + 1;
        ranks.entry(meta.id).or_insert(next);
    }
    ranks
}

/// How many different series a day has whose samples are in several blocks: by comparing them where
/// all of the blocks are of that day alone and the series are not too many, else the most of a block.
fn count_series(
    scene: &Scene<'_>,
    rows: &mut BTreeMap<Key, DayRow>,
    blocks_of: &BTreeMap<Key, BTreeSet<BlockId>>,
) {
    let by_id: HashMap<BlockId, &LiveBlock> =
        scene.blocks.iter().map(|block| (block.meta().id, block)).collect();
    let mut left = COMPARED_MAX;
    for (key, row) in rows {
        let ids = &blocks_of[key];
        if ids.len() < 2 || !row.series_is_exact {
            continue;
        }
        row.series_is_exact = false;
        let blocks: Vec<&LiveBlock> = ids.iter().filter_map(|id| by_id.get(id).copied()).collect();
        let is_of_day = |block: &&LiveBlock| {
            block.meta().window.end_ms.saturating_sub(block.meta().window.start_ms) < DAY_MS
        };
        let all: u64 = blocks.iter().map(|block| block.meta().series).sum();
        if blocks.len() < ids.len() || !blocks.iter().all(is_of_day) || all > left {
            continue;
        }
        left -= all;
        let mut seen: HashSet<u128> = HashSet::new();
        let is_read = blocks.iter().all(|block| {
            let see = |_: u32, labels: &[u8]| {
                seen.insert(xxh3_128(labels));
            };
            block.visit_label_bytes(&block.index.all(), see).is_ok()
        });
        if is_read {
            (row.series, row.series_is_exact) = (seen.len() as u64, true);
        }
    }
}

pub(super) fn drops(scene: &Scene<'_>, fates: &[Fate]) -> Vec<Drop> {
    let mut drops: BTreeMap<(i64, u8, Vec<Tier>, u64, Why), Drop> = BTreeMap::new();
    for (part, fate) in scene.parts.iter().zip(fates) {
        let Some(drop_ms) = fate.drop_ms else { continue };
        let class = class_of(scene, &part.meta);
        // What should be gone goes today.
        let day_ms = drop_ms.max(scene.facts.now_ms).div_euclid(DAY_MS).saturating_mul(DAY_MS);
        let data_type = part.meta.data_type;
        let key = (day_ms, data_type as u8, class.clone(), part.meta.tier_ms, fate.why.clone());
        let tier = tier_of(scene, &part.meta);
        let why = fate.why.clone();
        let new = Drop { day_ms, data_type, class, tier, why, blocks: 0, bytes: 0 };
        let drop = drops.entry(key).or_insert(new);
        drop.blocks += 1;
        drop.bytes += part.meta.bytes;
    }
    drops.into_values().collect()
}
