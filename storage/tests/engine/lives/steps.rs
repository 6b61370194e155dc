//! What happens in a life: random steps from a seed, as plain data, so that a life that fails can be
//! repeated without some of them.

use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::time::{DAY_MS, MINUTE_MS, WINDOW_MS};

pub(super) const HOUR_MS: i64 = 60 * MINUTE_MS;

/// The resolutions of all tiers that any policy has.
pub(super) const RESOLUTIONS_MS: [i64; 2] = [5 * MINUTE_MS, HOUR_MS];

/// SplitMix64: the same numbers for a seed, for ever.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`.
    pub(super) fn below(&mut self, end: i64) -> i64 {
        (self.next() % end.unsigned_abs()) as i64
    }

    fn chance(&mut self, one_in: i64) -> bool {
        self.below(one_in) == 0
    }
}

/// A row relative to the time at which it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) series: usize,
    pub(super) age_ms: i64,
    pub(super) value: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<Sent>),
    /// The last request again, as after a broken connection.
    Repeat,
    Wait(i64),
    /// Series by [`selector`], from one age to another.
    Delete(u8, i64, i64),
    /// The room of what was deleted is asked for.
    Free,
    /// Upkeep until there is none: checkpoints, seals, merges, rollups, retention.
    Maintain,
    /// So many single steps of it.
    MaintainSome(u8),
    PowerCut(u64),
    Kill,
    Close,
    /// The process dies after so many operations of the disk, the power with it.
    CrashSoon(u64),
    /// Others of [`policies`].
    Policies(u8),
    /// Series and ages that must stay; of nothing, to release them.
    Hold(Option<(u8, i64, i64)>),
    /// The wall clock is wrong by so much from now on, and whether that was noticed.
    Jump(i64, bool),
    Confirm,
    /// A backup, and a restore of it on which life goes on.
    Restore,
    /// Is all there of these series and ages?
    Check(u8, i64, i64),
    /// Are series and label values of these those that are there?
    CheckNames(u8),
    /// Of buckets of this resolution.
    CheckBuckets(u8, usize),
    CheckAll,
}

impl Step {
    /// Whether it does something, instead of looking.
    pub(super) fn is_operation(&self) -> bool {
        use Step::{Check, CheckAll, CheckBuckets, CheckNames};
        !matches!(self, Check(..) | CheckNames(_) | CheckBuckets(..) | CheckAll)
    }
}

/// What a life is like.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) seed: u64,
    pub(super) policies: u8,
    pub(super) steps: Vec<Step>,
}

impl Life {
    pub(super) fn new(seed: u64, operations: usize) -> Life {
        let mut random = Random::new(seed);
        let policies = random.below(i64::from(POLICIES)) as u8;
        // A life of hours, of days or of weeks.
        let pace_ms = [2, 20, 120][random.below(3) as usize] * MINUTE_MS;
        let mut steps = Vec::new();
        for operation in 0..operations {
            steps.push(step(&mut random, pace_ms));
            if operation % 5 == 4 {
                steps.push(check(&mut random, pace_ms));
            }
            if operation % 97 == 96 {
                steps.push(Step::CheckAll);
            }
        }
        steps.push(Step::CheckAll);
        Life { seed, policies, steps }
    }
}

fn age(random: &mut Random, pace_ms: i64) -> i64 {
    match random.below(16) {
        0..8 => 0,
        8..10 => random.below(20) * 30_000,
        10..12 => random.below(30 * pace_ms / 30_000) * 30_000,
        12 => random.below(6 * 24) * HOUR_MS,
        13 => [DAY_MS, 2 * DAY_MS, 3 * DAY_MS, WINDOW_MS][random.below(4) as usize],
        14 => random.below(50) * DAY_MS + random.below(1000),
        _ => -random.below(20) * MINUTE_MS,
    }
}

fn append(random: &mut Random, pace_ms: i64) -> Step {
    // Now and then a scrape of all, otherwise a few.
    let rows = if random.chance(4) { 16 } else { 1 + random.below(9) };
    let is_scrape = rows == 16;
    let sent = (0..rows).map(|row| {
        let series = if is_scrape { row } else { random.below(SERIES as i64) } as usize;
        let age_ms = if is_scrape { 0 } else { age(random, pace_ms) };
        Sent { series, age_ms, value: random.below(24) as u8 }
    });
    Step::Append(sent.collect())
}

fn step(random: &mut Random, pace_ms: i64) -> Step {
    match random.below(200) {
        0..100 => append(random, pace_ms),
        100..103 => Step::Repeat,
        103..140 => Step::Wait((1 + random.below(2 * pace_ms / 30_000)) * 30_000),
        140..143 => Step::Wait(WINDOW_MS),
        143 => Step::Wait(DAY_MS),
        144..150 => {
            let (what, length_ms) = (random.below(i64::from(SELECTORS)) as u8, 60 * pace_ms);
            let (start, end) = (random.below(length_ms), random.below(length_ms));
            match random.below(8) {
                0 => Step::Delete(what, i64::MAX, i64::MIN),
                1 => Step::Delete(what, start, 0),
                _ => Step::Delete(what, start.max(end), start.min(end)),
            }
        }
        150 => Step::Free,
        151..165 => Step::Maintain,
        165..175 => Step::MaintainSome(1 + random.below(6) as u8),
        175..177 => Step::PowerCut(random.next()),
        177..179 => Step::Kill,
        179 => Step::Close,
        180..186 => Step::CrashSoon(random.below(90) as u64),
        186 => Step::Policies(random.below(i64::from(POLICIES)) as u8),
        187 => Step::Hold(random.chance(2).then(|| {
            let what = random.below(i64::from(SELECTORS)) as u8;
            let (a, b) = (random.below(20 * DAY_MS), random.below(20 * DAY_MS));
            (what, a.max(b), a.min(b))
        })),
        188..190 => {
            let by = [HOUR_MS, DAY_MS, 400 * DAY_MS, 3650 * DAY_MS][random.below(4) as usize];
            Step::Jump(if random.chance(2) { by } else { -by }, !random.chance(3))
        }
        190..194 => Step::Jump(0, false),
        194 => Step::Confirm,
        195 if random.chance(2) => Step::Restore,
        _ => append(random, pace_ms),
    }
}

fn check(random: &mut Random, pace_ms: i64) -> Step {
    let what = random.below(i64::from(SELECTORS)) as u8;
    match random.below(12) {
        0 => Step::CheckNames(what),
        2 => Step::CheckBuckets(what, random.below(RESOLUTIONS_MS.len() as i64) as usize),
        1 => Step::Check(what, 60 * DAY_MS, -DAY_MS),
        _ => {
            let (a, b) = (random.below(40 * pace_ms), random.below(40 * pace_ms));
            Step::Check(what, a.max(b), a.min(b))
        }
    }
}

/// Of one life; the last ones are short-lived ones.
pub(super) const SERIES: usize = 30;

const POLICIES: u8 = 6;

/// A few sets of policies, with one class or more, and with rollups or without.
pub(super) fn policies(which: u8) -> Policies {
    let tiers = |lifetimes: &[(i64, i64)]| {
        let tier = |(resolution_ms, lifetime_ms): &(i64, i64)| Tier {
            resolution_ms: resolution_ms.unsigned_abs(),
            lifetime_ms: *lifetime_ms,
        };
        lifetimes.iter().map(tier).collect::<Vec<Tier>>()
    };
    let [five, hour] = RESOLUTIONS_MS;
    let host = |host: u8, lifetimes: &[(i64, i64)]| Policy {
        matchers: vec![Matcher::equal("instance", format!("host-{host}"))],
        tiers: tiers(lifetimes),
    };
    let rest = |lifetimes: &[(i64, i64)]| Policy { matchers: Vec::new(), tiers: tiers(lifetimes) };
    Policies::new(match which {
        0 => vec![rest(&[(0, 2 * WINDOW_MS)])],
        1 => vec![rest(&[(0, 3 * DAY_MS)])],
        2 => vec![rest(&[(0, 2 * DAY_MS), (five, 6 * DAY_MS), (hour, 40 * DAY_MS)])],
        3 => vec![host(0, &[(0, DAY_MS)]), host(1, &[(0, 9 * DAY_MS)]), rest(&[(0, 3 * DAY_MS)])],
        4 => vec![
            host(0, &[(0, 2 * DAY_MS), (hour, 30 * DAY_MS)]),
            rest(&[(0, 5 * DAY_MS), (five, 12 * DAY_MS)]),
        ],
        _ => vec![
            host(2, &[(0, 30 * DAY_MS), (hour, 60 * DAY_MS)]),
            host(1, &[(0, WINDOW_MS)]),
            rest(&[(0, 4 * DAY_MS), (hour, 15 * DAY_MS)]),
        ],
    })
}

const SELECTORS: u8 = 16;

pub(super) fn selector(which: u8) -> Vec<Matcher> {
    let new = |name: &str, op, value: &str| Matcher::new(name, op, value).unwrap();
    match which {
        0..3 => vec![Matcher::equal("instance", format!("host-{which}"))],
        3..7 => vec![Matcher::equal("__name__", format!("metric_{}", which - 3))],
        7 => vec![Matcher::equal("__name__", "pod")],
        8 => vec![new("instance", MatchOp::NotEqual, "host-1")],
        9 => vec![new("__name__", MatchOp::Regex, "metric_[01]|pod")],
        10 => vec![new("pod", MatchOp::Regex, ".+"), Matcher::equal("instance", "host-2")],
        11 => vec![new("pod", MatchOp::NotRegex, "p1.|p2.")],
        12 => vec![Matcher::equal("pod", "")],
        13 => vec![Matcher::equal("instance", "host-0"), Matcher::equal("__name__", "metric_1")],
        14 => vec![Matcher::equal("no", "such")],
        _ => Vec::new(),
    }
}
