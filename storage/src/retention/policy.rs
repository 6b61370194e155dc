//! Policies: which series live how long, and at which resolutions.
//!
//! A **tier** is a resolution with a lifetime. A **policy** gives tiers to the series that its
//! matchers select; a series follows the first policy that does. The last policy selects all, so
//! that every series has one. What policies must look like to make sense is checked where they are
//! read, not here.

use std::fmt;

use crate::duration;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::metrics::companion;
use crate::retention::hold::Hold;
use crate::time::{DAY_MS, MINUTE_MS};

/// A resolution with a lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tier {
    /// Length of a bucket; 0 for raw samples.
    pub resolution_ms: u64,
    /// Data that is older is dropped.
    pub lifetime_ms: i64,
}

/// As in a configuration: `5m 180d`.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&resolution(self.resolution_ms))?;
        write!(f, " {}", duration::format_ms(self.lifetime_ms))
    }
}

/// The name of a resolution: `raw`, `5m`.
pub fn resolution(resolution_ms: u64) -> String {
    match resolution_ms {
        0 => "raw".to_owned(),
        ms => duration::format_ms(i64::try_from(ms).unwrap_or(i64::MAX)),
    }
}

/// Tiers for the series that fulfil all matchers; without matchers, for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub matchers: Vec<Matcher>,
    /// From raw to the coarsest.
    pub tiers: Vec<Tier>,
}

impl Policy {
    pub fn selects(&self, labels: &Labels) -> bool {
        // A companion goes with its series, which does not have its label.
        let value = |name| labels.get(name).filter(|_| name != companion::LABEL).unwrap_or("");
        self.matchers.iter().all(|matcher| matcher.matches(value(matcher.name())))
    }

    /// How long samples live.
    pub fn raw_lifetime_ms(&self) -> i64 {
        self.tiers.first().map_or(i64::MAX, |raw| raw.lifetime_ms)
    }
}

/// All policies, in order. There is always one that selects all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    metrics: Vec<Policy>,
    /// Bytes that the data may take; as they run out, raw samples go before their time, oldest
    /// first.
    pub(crate) disk_budget: Option<u64>,
    pub(crate) holds: Vec<Hold>,
}

impl Policies {
    /// The series that no policy selects live as [`default_tiers`] says.
    pub fn new(mut metrics: Vec<Policy>) -> Policies {
        if !metrics.last().is_some_and(|last| last.matchers.is_empty()) {
            metrics.push(Policy { matchers: Vec::new(), tiers: default_tiers() });
        }
        Policies { metrics, disk_budget: None, holds: Vec::new() }
    }

    /// Samples as they came for so long, and nothing after that.
    pub fn raw_only(lifetime_ms: i64) -> Policies {
        let raw = Tier { resolution_ms: 0, lifetime_ms };
        Policies::new(vec![Policy { matchers: Vec::new(), tiers: vec![raw] }])
    }

    #[must_use]
    pub fn with_disk_budget(self, bytes: Option<u64>) -> Policies {
        Policies { disk_budget: bytes, ..self }
    }

    /// At most [`HOLDS_MAX`](crate::retention::hold::HOLDS_MAX).
    #[must_use]
    pub fn with_holds(self, holds: Vec<Hold>) -> Policies {
        Policies { holds, ..self }
    }

    /// Bytes that blocks and log may take.
    pub fn disk_budget(&self) -> Option<u64> {
        self.disk_budget
    }

    pub fn metrics(&self) -> &[Policy] {
        &self.metrics
    }

    /// The policy for everything that no other selects.
    pub fn catch_all(&self) -> &Policy {
        self.metrics.last().expect("there is always one")
    }

    /// The number of the policy that a series follows.
    pub fn policy_of(&self, labels: &Labels) -> usize {
        let first = self.metrics.iter().position(|policy| policy.selects(labels));
        first.expect("the last policy selects all")
    }
}

impl Default for Policies {
    fn default() -> Policies {
        Policies::new(Vec::new())
    }
}

/// How long metrics live that no policy selects.
pub fn default_tiers() -> Vec<Tier> {
    [(0, 30), (5 * MINUTE_MS, 180), (60 * MINUTE_MS, 3 * 365)]
        .map(|(resolution_ms, days)| Tier {
            resolution_ms: resolution_ms.unsigned_abs(),
            lifetime_ms: days * DAY_MS,
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, value: &str, days: i64) -> Policy {
        let raw = Tier { resolution_ms: 0, lifetime_ms: days * DAY_MS };
        Policy { matchers: vec![Matcher::equal(name, value)], tiers: vec![raw] }
    }

    #[test]
    fn a_series_follows_the_first_policy_that_selects_it() {
        let policies = Policies::new(vec![policy("env", "prod", 90), policy("job", "node", 7)]);
        for (labels, expected) in [
            (&[("env", "prod"), ("job", "node")][..], 0),
            (&[("env", "test"), ("job", "node")], 1),
            (&[("job", "mysql")], 2),
        ] {
            let labels = Labels::from_pairs(labels.iter().copied()).unwrap();
            assert_eq!(policies.policy_of(&labels), expected, "{labels}");
        }
        assert_eq!(policies.catch_all().tiers, default_tiers());
        assert_eq!(default_tiers()[1].to_string(), "5m 180d");
    }

    #[test]
    fn companions_go_with_their_series() {
        let of_companions =
            Policies::new(vec![policy(companion::LABEL, "ms", 1), policy(companion::LABEL, "", 2)]);
        let series = Labels::from_pairs([("__name__", "m")]).unwrap();
        let companion = companion::labels_of_companion(&series);
        let policy_of = |labels| of_companions.policy_of(labels);
        assert_eq!([policy_of(&companion), policy_of(&series)], [1, 1]);
    }
}
