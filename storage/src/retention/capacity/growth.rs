//! What comes a day, and what that leads to.
//!
//! Growth is told of the last complete days: not of today, nor of the first day of all, which began
//! when somebody switched the server on. Days of a tier that were dropped or are not rolled up yet
//! count as the mean of those that are there.

use std::collections::{BTreeMap, BTreeSet};

use crate::compaction::windows;
use crate::retention::capacity::forecast::{FUTURES, Full, Present, Size, Stream, outlook};
use crate::retention::capacity::{DayRow, Drop, Scene};
use crate::retention::plan::BUDGET_EVICT_PERCENT;
use crate::retention::policy::Tier;
use crate::time::DAY_MS;

/// Days that growth is told of, at most…
const DAYS_MAX: i64 = 28;

/// …and at least: of fewer nothing is said.
pub const DAYS_MIN: u64 = 3;

const WEEK: usize = 7;

/// What the days of the past took.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    /// The first and the last of the days, by their starts.
    pub first_day_ms: i64,
    pub last_day_ms: i64,
    pub days: u64,
    /// Stored bytes a day, of all classes and tiers.
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    /// Rows and bytes as they were sent a day, of raw samples, in the mean.
    pub rows: u64,
    pub raw_bytes: u64,
    /// The last week against the one before: 0.1 is a tenth more. `None` before there are two.
    pub change_a_week: Option<f64>,
}

/// Room, and when it runs out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// So many bytes may be used,
    pub bytes: u64,
    /// and so many are.
    pub used: u64,
    pub full: Full,
}

/// What growth leads to, if days to come are as the days of [`Growth`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    pub horizon_days: u64,
    pub futures: u64,
    /// Bytes of all files.
    pub sizes: Vec<Size>,
    /// What all files take once as much goes a day as comes.
    pub settles_at: u64,
    /// Until the disk budget evicts.
    pub budget: Option<Limit>,
    /// Until nothing can be written.
    pub disk: Option<Limit>,
}

type Kind = (u8, Vec<Tier>, u64);

pub(super) fn growth(
    scene: &Scene<'_>,
    days: &[DayRow],
    drops: &[Drop],
) -> (u64, Option<Growth>, Option<Forecast>) {
    let Some(complete) = complete_days(scene, days) else { return (0, None, None) };
    let count = (complete.end - complete.start).unsigned_abs();
    if count < DAYS_MIN {
        return (count, None, None);
    }
    let streams = streams(scene, days, &complete);
    let daily = sum_by_day(&streams, count as usize);
    let raw = days.iter().filter(|row| row.tier.resolution_ms == 0);
    let raw: Vec<&DayRow> = raw.filter(|row| complete.contains(&(row.day_ms / DAY_MS))).collect();
    // Of raw samples that live shorter than the days, those days that have some.
    let with_raw = raw.iter().map(|row| row.day_ms).collect::<BTreeSet<_>>().len().max(1) as u64;
    let mut sorted = daily.clone();
    sorted.sort_unstable();
    let quantile = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)];
    let growth = Growth {
        first_day_ms: complete.start * DAY_MS,
        last_day_ms: (complete.end - 1) * DAY_MS,
        days: count,
        mean: daily.iter().sum::<u64>() / count,
        p50: quantile(50),
        p90: quantile(90),
        rows: raw.iter().map(|row| row.rows).sum::<u64>() / with_raw,
        raw_bytes: raw.iter().map(|row| row.raw_bytes).sum::<u64>() / with_raw,
        change_a_week: change_a_week(&daily),
    };
    (count, Some(growth), Some(forecast(scene, &streams, drops)))
}

/// Numbers of the days that growth is told of.
fn complete_days(scene: &Scene<'_>, days: &[DayRow]) -> Option<std::ops::Range<i64>> {
    // What was measured at midnight begins a day, and ends a bucket of the day before.
    let first = |row: &DayRow| row.day_ms / DAY_MS + i64::from(row.tier.resolution_ms > 0);
    let first = days.iter().map(first).min()?;
    let newest_ms = scene.facts.newest_ms?.min(scene.facts.now_ms);
    let today = newest_ms.div_euclid(DAY_MS);
    let start = (first + 1).max(today - DAYS_MAX);
    Some(start..today.max(start))
}

/// What each class and tier took on each of the days.
fn streams(scene: &Scene<'_>, days: &[DayRow], complete: &std::ops::Range<i64>) -> Vec<Stream> {
    let mut kinds: BTreeMap<Kind, (Tier, BTreeMap<i64, u64>)> = BTreeMap::new();
    for row in days {
        let kind = (row.data_type as u8, row.class.clone(), row.tier.resolution_ms);
        let (_, bytes) = kinds.entry(kind).or_insert_with(|| (row.tier, BTreeMap::new()));
        *bytes.entry(row.day_ms / DAY_MS).or_default() += row.bytes;
    }
    let now_ms = scene.now_ms();
    let stream = |(tier, bytes): (Tier, BTreeMap<i64, u64>)| {
        // A day of which something may have gone, or that is not rolled up yet, tells nothing.
        let is_whole = |day: i64| (day * DAY_MS).saturating_add(tier.lifetime_ms) > now_ms;
        let known = |day: i64| match bytes.get(&day) {
            _ if !is_whole(day) => None,
            Some(bytes) => Some(*bytes),
            None => (tier.resolution_ms == 0).then_some(0),
        };
        let daily: Vec<Option<u64>> = complete.clone().map(known).collect();
        let there: Vec<u64> = daily.iter().flatten().copied().collect();
        let mean = there.iter().sum::<u64>() / there.len().max(1) as u64;
        // A block goes with its newest sample: its data half a block late in the mean.
        let kept_ms = tier.lifetime_ms.saturating_add(windows::longest(tier.lifetime_ms) / 2);
        Stream {
            daily: daily.into_iter().map(|bytes| bytes.unwrap_or(mean)).collect(),
            kept_days: (kept_ms / DAY_MS).unsigned_abs() + u64::from(kept_ms % DAY_MS > 0),
        }
    };
    kinds.into_values().map(stream).collect()
}

fn sum_by_day(streams: &[Stream], days: usize) -> Vec<u64> {
    (0..days).map(|day| streams.iter().map(|stream| stream.daily[day]).sum()).collect()
}

fn change_a_week(daily: &[u64]) -> Option<f64> {
    let last = daily.len().checked_sub(WEEK)?;
    let before = last.checked_sub(WEEK)?;
    let sum = |days: &[u64]| days.iter().sum::<u64>() as f64;
    let (before, last) = (sum(&daily[before..last]), sum(&daily[last..]));
    (before > 0.0).then(|| last / before - 1.0)
}

fn forecast(scene: &Scene<'_>, streams: &[Stream], drops: &[Drop]) -> Forecast {
    let today = scene.facts.now_ms.div_euclid(DAY_MS);
    let from_now = |drop: &Drop| (drop.day_ms / DAY_MS - today).max(0).unsigned_abs();
    let going: Vec<(u64, u64)> = drops.iter().map(|drop| (from_now(drop), drop.bytes)).collect();
    let files = scene.files;
    let beside = files.checkpoint + files.log;
    let blocks: u64 = scene.facts.blocks.iter().map(|block| block.bytes).sum();
    let bytes = blocks + beside;
    let budget = scene.facts.budget.map(|budget| {
        let evicts_at = u128::from(budget) * u128::from(BUDGET_EVICT_PERCENT) / 100;
        u64::try_from(evicts_at).unwrap_or(u64::MAX)
    });
    // The budget is for blocks and log.
    let of_budget = budget.map_or(u64::MAX, |limit| limit.saturating_add(files.checkpoint));
    let of_disk = scene.free_bytes.map_or(u64::MAX, |free| files.total().saturating_add(free));
    let outlook = outlook(streams, &Present { bytes, drops: &going }, &[of_budget, of_disk]);
    let limit = |bytes, used, full| Limit { bytes, used, full };
    Forecast {
        horizon_days: outlook.horizon_days,
        futures: FUTURES as u64,
        settles_at: outlook.settles_at.saturating_add(beside),
        budget: budget.map(|limit_bytes| limit(limit_bytes, blocks + files.log, outlook.full[0])),
        disk: scene.free_bytes.map(|_| limit(of_disk, bytes, outlook.full[1])),
        sizes: outlook.sizes,
    }
}
