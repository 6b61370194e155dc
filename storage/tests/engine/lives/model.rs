//! The model: what was acknowledged, and what became of it by deletes and by age.

use std::collections::BTreeMap;

use icecore_storage::labels::Labels;
use icecore_storage::matcher::Matcher;
use icecore_storage::retention::policy::{Policies, Tier};
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange};

use super::steps::{HOUR_MS, SERIES};
use crate::oracle::{self, Stored};

/// What must be found of a value that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The value itself.
    Certain,
    /// Raw samples of its age may be gone; then buckets tell of it.
    RolledUp,
    /// Nothing: it may be there.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) value: Stored,
    pub(super) state: State,
}

/// Series (a number) and time.
pub(super) type Key = (usize, i64);

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) rows: BTreeMap<Key, Vec<Written>>,
    pub(super) policies: Policies,
    /// How often. While blocks are on their way from class to class, what rollups say of a time is
    /// theirs to find out.
    pub(super) policies_set: usize,
    /// Of each series.
    tiers: Vec<Vec<Tier>>,
    pub(super) hold: Option<(Vec<Matcher>, TimeRange)>,
    /// Of all samples that were ever accepted.
    pub(super) newest_ms: i64,
    /// Raw samples of a series that are older may be gone.
    gone_before_ms: Vec<i64>,
}

/// The labels of a series.
pub(super) fn labels(series: usize) -> Labels {
    if series < 12 {
        return oracle::labels(series);
    }
    let (instance, pod) = (format!("host-{}", series % 3), format!("p{series}"));
    Labels::from_pairs([("__name__", "pod"), ("instance", &instance), ("pod", &pod)]).unwrap()
}

pub(super) fn selects(matchers: &[Matcher], series: usize) -> bool {
    let labels = labels(series);
    matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or("")))
}

impl Model {
    pub(super) fn new(policies: Policies) -> Model {
        let mut model = Model {
            rows: BTreeMap::new(),
            policies: policies.clone(),
            policies_set: 0,
            tiers: Vec::new(),
            hold: None,
            newest_ms: i64::MIN,
            gone_before_ms: vec![i64::MIN; SERIES],
        };
        model.set_policies(policies);
        model
    }

    /// What rollups have of times whose raw samples are gone is another's business from now on.
    pub(super) fn set_policies(&mut self, policies: Policies) {
        self.policies_set += 1;
        let tiers = |series| policies.metrics()[policies.policy_of(&labels(series))].tiers.clone();
        self.tiers = (0..SERIES).map(tiers).collect();
        self.policies = policies;
        let gone_before_ms = self.gone_before_ms.iter().max().copied().unwrap();
        self.gone_before_ms.fill(gone_before_ms);
        for written in self.rows.values_mut().flatten() {
            if written.state == State::RolledUp {
                written.state = State::Unknown;
            }
        }
    }

    pub(super) fn raw_lifetime_ms(&self, series: usize) -> i64 {
        self.tiers[series][0].lifetime_ms
    }

    /// The times that are accepted of a series.
    pub(super) fn accepted(&self, series: usize, now_ms: i64) -> TimeRange {
        TimeRange::new(now_ms - self.raw_lifetime_ms(series), now_ms + 10 * MINUTE_MS)
    }

    pub(super) fn shortest_raw_ms(&self) -> i64 {
        (0..SERIES).map(|series| self.raw_lifetime_ms(series)).min().unwrap()
    }

    pub(super) fn push(&mut self, series: usize, timestamp: i64, value: Stored) {
        self.newest_ms = self.newest_ms.max(timestamp);
        // Buckets whose raw samples may be gone, and now are written into.
        self.unroll(series, TimeRange::new(timestamp, timestamp));
        // What comes late into such a time may be counted there or not.
        let is_late = timestamp < self.gone_before_ms[series];
        let state = if is_late { State::Unknown } else { State::Certain };
        self.rows.entry((series, timestamp)).or_default().push(Written { value, state });
    }

    /// Of buckets that have any time of the range nothing is known any more but raw samples.
    fn unroll(&mut self, series: usize, range: TimeRange) {
        let start_ms = range.start_ms.saturating_sub(1).div_euclid(HOUR_MS).saturating_mul(HOUR_MS);
        let end_ms = range.end_ms.saturating_sub(1).div_euclid(HOUR_MS).saturating_add(1);
        let end_ms = end_ms.saturating_mul(HOUR_MS);
        if start_ms >= end_ms {
            return;
        }
        let buckets = (series, start_ms.saturating_add(1))..=(series, end_ms);
        for (_, written) in self.rows.range_mut(buckets) {
            for one in written.iter_mut().filter(|one| one.state == State::RolledUp) {
                one.state = State::Unknown;
            }
        }
    }

    pub(super) fn delete(&mut self, matchers: &[Matcher], range: TimeRange) {
        let is_selected: Vec<bool> = (0..SERIES).map(|series| selects(matchers, series)).collect();
        for series in (0..SERIES).filter(|series| is_selected[*series]) {
            self.unroll(series, range);
        }
        self.rows.retain(|(series, time), _| !is_selected[*series] || !range.contains(*time));
    }

    /// Upkeep was asked for at this time.
    pub(super) fn age(&mut self, now_ms: i64, in_doubt: bool) {
        if in_doubt || self.newest_ms == i64::MIN {
            return;
        }
        let believed_ms = now_ms.min(self.newest_ms.saturating_add(DAY_MS));
        for (gone_before_ms, tiers) in self.gone_before_ms.iter_mut().zip(&self.tiers) {
            if tiers.len() > 1 {
                *gone_before_ms = (believed_ms - tiers[0].lifetime_ms).max(*gone_before_ms);
            }
        }
        let Model { rows, tiers, hold, .. } = self;
        let on_hold: Vec<bool> = (0..SERIES)
            .map(|series| hold.as_ref().is_some_and(|(matchers, _)| selects(matchers, series)))
            .collect();
        for ((series, timestamp), written) in rows.iter_mut() {
            let tiers = &tiers[*series];
            let is_held = on_hold[*series]
                && hold.as_ref().is_some_and(|(_, range)| range.contains(*timestamp));
            let outlives = |tier: &Tier| *timestamp >= believed_ms - tier.lifetime_ms;
            for one in written.iter_mut() {
                one.state = match one.state {
                    State::Certain if outlives(&tiers[0]) || is_held => State::Certain,
                    State::Certain | State::RolledUp if tiers[1..].iter().any(outlives) => {
                        State::RolledUp
                    }
                    _ => State::Unknown,
                };
            }
        }
    }

    /// The value that is found of a key if all that was written is there.
    pub(super) fn greatest(written: &[Written]) -> &Stored {
        written[1..].iter().fold(&written[0].value, |greatest, one| {
            if one.value.replaces(greatest) { &one.value } else { greatest }
        })
    }

    /// Whether a value may be found; `None` is none.
    pub(super) fn allows(written: &[Written], found: Option<&Stored>) -> bool {
        let is_certain = |one: &&Written| one.state == State::Certain;
        match found {
            None => !written.iter().any(|one| is_certain(&one)),
            Some(found) => {
                written.iter().any(|one| one.value == *found)
                    && !written.iter().filter(is_certain).any(|one| one.value.replaces(found))
            }
        }
    }

    pub(super) fn of_series(
        &self,
        series: usize,
        range: TimeRange,
    ) -> impl Iterator<Item = (i64, &[Written])> {
        let keys = (series, range.start_ms)..=(series, range.end_ms.max(range.start_ms));
        self.rows.range(keys).map(|((_, timestamp), written)| (*timestamp, &written[..]))
    }
}
