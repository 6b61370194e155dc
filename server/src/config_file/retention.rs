//! The section `retention`: who lives how long. Its rules are those of docs/operations.md.

use std::fmt;

use icecore_storage::duration;
use icecore_storage::matcher::Matcher;
use icecore_storage::retention::hold::{HOLDS_MAX, Hold};
use icecore_storage::retention::policy::{Policies, Policy, Tier, resolution};
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange, WINDOW_MS};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::Mistake;
use super::selector::selector;
use crate::http::time::parse_time_ms;
use crate::size::{Size, parse_bytes};

/// Policies of one data type: every new series is compared with them one after the other.
const POLICIES_MAX: usize = 64;

/// Tiers of a policy.
const TIERS_MAX: usize = 8;

/// Longer is a slip of the pen.
const LIFETIME_MS_MAX: i64 = 100 * 365 * DAY_MS;

/// Less than this is not a disk.
const DISK_BUDGET_BYTES_MIN: u64 = 100 << 20;

/// The section, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    pub policies: Policies,
    /// What is written there and has no effect yet.
    pub without_effect: Vec<&'static str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    metrics: Option<Spanned<Vec<Spanned<PolicyText>>>>,
    sessions: Option<Spanned<Vec<Spanned<PolicyText>>>>,
    spans: Option<Spanned<Vec<Spanned<PolicyText>>>>,
    snapshots: Option<Spanned<Vec<Spanned<KeepText>>>>,
    disk_budget: Option<Spanned<String>>,
    holds: Option<Vec<Spanned<HoldText>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    r#match: Option<Spanned<String>>,
    tiers: Spanned<TiersText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepText {
    r#match: Option<Spanned<String>>,
    keep: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldText {
    id: Spanned<String>,
    reason: Spanned<String>,
    owner: Spanned<String>,
    r#match: Spanned<String>,
    from: Spanned<String>,
    to: Spanned<String>,
    until: Option<Spanned<String>>,
}

/// Resolutions and lifetimes as they stand in the file, with their places.
#[derive(Debug)]
struct TiersText(Vec<(Spanned<String>, Spanned<String>)>);

impl<'de> Deserialize<'de> for TiersText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TiersText, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = TiersText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tiers, for example { raw: 30d, 5m: 180d }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TiersText, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(TiersText(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

pub(super) fn check(section: &Spanned<Section>) -> Result<Retention, Mistake> {
    let section = &section.value;
    let metrics = section.metrics.as_ref().map(policies).transpose()?;
    let mut without_effect = Vec::new();
    for (name, list) in [("sessions", &section.sessions), ("spans", &section.spans)] {
        if let Some(list) = list {
            policies(list)?;
            without_effect.push(name);
        }
    }
    if let Some(list) = &section.snapshots {
        snapshots(list)?;
        without_effect.push("snapshots");
    }
    let disk_budget = section.disk_budget.as_ref().map(disk_budget).transpose()?;
    let holds = holds(section.holds.as_deref().unwrap_or(&[]))?;
    let policies =
        Policies::new(metrics.unwrap_or_default()).with_disk_budget(disk_budget).with_holds(holds);
    Ok(Retention { policies, without_effect })
}

fn policies(list: &Spanned<Vec<Spanned<PolicyText>>>) -> Result<Vec<Policy>, Mistake> {
    check_count(list.value.len(), list.referenced)?;
    let mut before = Vec::new();
    let mut policies = Vec::new();
    for policy in &list.value {
        let matchers = selector(policy.value.r#match.as_ref())?;
        check_reachable(&matchers, policy.referenced, &mut before)?;
        policies.push(Policy { matchers, tiers: tiers(&policy.value.tiers)? });
    }
    Ok(policies)
}

fn snapshots(list: &Spanned<Vec<Spanned<KeepText>>>) -> Result<(), Mistake> {
    check_count(list.value.len(), list.referenced)?;
    let mut before = Vec::new();
    for one in &list.value {
        check_reachable(&selector(one.value.r#match.as_ref())?, one.referenced, &mut before)?;
        lifetime(&one.value.keep)?;
    }
    Ok(())
}

fn check_count(count: usize, at: Location) -> Result<(), Mistake> {
    match count {
        0 => Err(Mistake::at(at, "no policy in this list; leave it out for the defaults")),
        1..=POLICIES_MAX => Ok(()),
        _ => Err(Mistake::at(at, format!("{count} policies; at most {POLICIES_MAX} are possible"))),
    }
}

/// Refuses a policy whose series all follow an earlier one: one that asks for nothing else.
fn check_reachable(
    matchers: &[Matcher],
    at: Location,
    before: &mut Vec<(Vec<Matcher>, u64)>,
) -> Result<(), Mistake> {
    let takes_all = |earlier: &[Matcher]| earlier.iter().all(|one| matchers.contains(one));
    if let Some((earlier, line)) = before.iter().find(|(earlier, _)| takes_all(earlier)) {
        let which = match earlier.as_slice() {
            [] => "which selects everything",
            _ => "which selects all that this one does",
        };
        let reason =
            format!("this policy is never used: the one in line {line} comes first, {which}");
        return Err(Mistake::at(at, reason));
    }
    before.push((matchers.to_vec(), at.line()));
    Ok(())
}

fn tiers(text: &Spanned<TiersText>) -> Result<Vec<Tier>, Mistake> {
    let pairs = &text.value.0;
    if pairs.len() > TIERS_MAX {
        let reason = format!("{} tiers; at most {TIERS_MAX} are possible", pairs.len());
        return Err(Mistake::at(text.referenced, reason));
    }
    let mut tiers: Vec<(Tier, Location)> = Vec::new();
    for (name, lives) in pairs {
        let tier = Tier { resolution_ms: resolution_of(name)?, lifetime_ms: lifetime(lives)? };
        if tiers.iter().any(|(known, _)| known.resolution_ms == tier.resolution_ms) {
            let reason = format!("tier {} stands here twice", resolution(tier.resolution_ms));
            return Err(Mistake::at(name.referenced, reason));
        }
        tiers.push((tier, lives.referenced));
    }
    tiers.sort_by_key(|(tier, _)| tier.resolution_ms);
    match tiers.first() {
        Some((raw, _)) if raw.resolution_ms == 0 => {}
        _ => {
            let reason =
                "no tier `raw`: samples live somehow, and every other tier is made of them";
            return Err(Mistake::at(text.referenced, reason));
        }
    }
    for pair in tiers.windows(2) {
        let ((finer, _), (coarser, at)) = (pair[0], pair[1]);
        if coarser.lifetime_ms < finer.lifetime_ms {
            let reason = format!("tier {coarser} ends before the finer tier {finer} does");
            return Err(Mistake::at(at, reason));
        }
    }
    Ok(tiers.into_iter().map(|(tier, _)| tier).collect())
}

/// `raw`, or the length of a bucket.
fn resolution_of(name: &Spanned<String>) -> Result<u64, Mistake> {
    let wrong =
        |reason: String| Mistake::at(name.referenced, format!("tier {:?}: {reason}", name.value));
    if name.value == "raw" {
        return Ok(0);
    }
    let ms = duration::parse_ms(&name.value)
        .map_err(|e| wrong(format!("want raw or a duration ({e})")))?;
    if ms < MINUTE_MS {
        return Err(wrong("the finest resolution is 1m".into()));
    }
    if DAY_MS % ms != 0 {
        return Err(wrong("a day must be a multiple of it".into()));
    }
    Ok(ms.unsigned_abs())
}

fn lifetime(text: &Spanned<String>) -> Result<i64, Mistake> {
    let wrong = |reason: String| Mistake::at(text.referenced, reason);
    let ms = duration::parse_ms(&text.value).map_err(wrong)?;
    if ms < WINDOW_MS {
        return Err(wrong(format!("{} is too short: data is dropped in blocks of 2h", text.value)));
    }
    if ms > LIFETIME_MS_MAX {
        return Err(wrong(format!("{} is more than 100y", text.value)));
    }
    Ok(ms)
}

fn disk_budget(text: &Spanned<String>) -> Result<u64, Mistake> {
    parse_budget(&text.value)
        .map_err(|reason| Mistake::at(text.referenced, format!("disk_budget: {reason}")))
}

/// Bytes that a disk budget of this text allows.
pub(crate) fn parse_budget(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        Size::Bytes(bytes) if bytes >= DISK_BUDGET_BYTES_MIN => Ok(bytes),
        _ => Err(format!("{text} is less than 100MiB")),
    }
}

fn holds(list: &[Spanned<HoldText>]) -> Result<Vec<Hold>, Mistake> {
    let mut holds: Vec<Hold> = Vec::new();
    for one in list {
        let hold = hold(&one.value)?;
        if holds.iter().any(|known| known.id == hold.id) {
            let reason = format!("there is another hold with the id {:?}", hold.id);
            return Err(Mistake::at(one.value.id.referenced, reason));
        }
        holds.push(hold);
    }
    match list.get(HOLDS_MAX) {
        Some(one) => {
            Err(Mistake::at(one.referenced, format!("at most {HOLDS_MAX} holds are possible")))
        }
        None => Ok(holds),
    }
}

fn hold(text: &HoldText) -> Result<Hold, Mistake> {
    for (name, field) in [("id", &text.id), ("reason", &text.reason), ("owner", &text.owner)] {
        if field.value.trim().is_empty() {
            return Err(Mistake::at(field.referenced, format!("a hold needs a {name}")));
        }
    }
    let time = |field: &Spanned<String>| {
        parse_time_ms(&field.value).map_err(|reason| Mistake::at(field.referenced, reason))
    };
    let (from_ms, to_ms) = (time(&text.from)?, time(&text.to)?);
    if from_ms > to_ms {
        return Err(Mistake::at(text.to.referenced, "the hold ends before it begins"));
    }
    Ok(Hold {
        id: text.id.value.clone(),
        reason: text.reason.value.clone(),
        owner: text.owner.value.clone(),
        matchers: selector(Some(&text.r#match))?,
        range: TimeRange::new(from_ms, to_ms),
        until_ms: text.until.as_ref().map(time).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn tier(resolution_ms: i64, days: i64) -> Tier {
        Tier { resolution_ms: resolution_ms.unsigned_abs(), lifetime_ms: days * DAY_MS }
    }

    #[test]
    fn the_whole_section_is_read() {
        let text = r#"
retention:
  metrics:
    - match: '{env="prod"}'
      tiers: { 1h: 3y, raw: 30d, 5m: 180d }
    - tiers: { raw: 15d, 5m: 90d, 1h: 1y }
  sessions:  [ { tiers: { raw: 30d, 1h: 1y } } ]
  spans:     [ { match: '{status="error"}', tiers: { raw: 15d } }, { tiers: { raw: 7d } } ]
  snapshots: [ { match: '{snapshot="config"}', keep: 1y }, { keep: 30d } ]
  disk_budget: 2TB
"#;
        let retention = parse(text).unwrap().retention.unwrap();
        let hour = 60 * MINUTE_MS;
        let policies = retention.policies.metrics();
        assert_eq!(policies[0].matchers, [Matcher::equal("env", "prod")]);
        let prod = [tier(0, 30), tier(5 * MINUTE_MS, 180), tier(hour, 3 * 365)];
        assert_eq!(policies[0].tiers, prod);
        assert_eq!(policies[1].tiers, [tier(0, 15), tier(5 * MINUTE_MS, 90), tier(hour, 365)]);
        assert_eq!(policies.len(), 2);
        assert_eq!(retention.policies.disk_budget(), Some(2_000_000_000_000));
        assert_eq!(retention.without_effect, ["sessions", "spans", "snapshots"]);
    }

    #[test]
    fn what_no_policy_selects_lives_by_default() {
        let text = "retention:\n  metrics:\n    - match: up\n      tiers: { raw: 2h }\n";
        let policies = parse(text).unwrap().retention.unwrap().policies;
        assert_eq!(policies.metrics().len(), 2);
        assert_eq!(policies.catch_all(), Policies::default().catch_all());
    }

    /// A list of metrics with these lines in it, the first of which is line 3 of the file.
    fn mistake_in(lines: &str) -> Mistake {
        let text = format!("retention:\n  metrics:\n{lines}");
        parse(&text).expect_err(lines)
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (lines, line, says) in [
            ("    - tiers: { raw: 30 }", 3, "not a valid duration string: \"30\""),
            ("    - tiers:\n        raw: 30d\n        5m: 1week", 5, "not a valid duration"),
            ("    - tiers:\n        raw: -3d", 4, "not a valid duration"),
            ("    - tiers:\n        raw: 0", 4, "too short"),
            ("    - tiers: { raw: 1h }", 3, "blocks of 2h"),
            ("    - tiers: { raw: 200y }", 3, "more than 100y"),
            ("    - tiers:\n        5m: 30d", 4, "no tier `raw`"),
            ("    - tiers: {}", 3, "no tier `raw`"),
            ("    - match: up", 3, "missing field `tiers`"),
            ("    - tiers: { raw: 30d, 7m: 90d }", 3, "tier \"7m\": a day must be a multiple"),
            ("    - tiers: { raw: 30d, 30s: 90d }", 3, "finest resolution is 1m"),
            ("    - tiers: { raw: 30d, 2d: 90d }", 3, "a day must be a multiple"),
            ("    - tiers: { raw: 30d, fine: 90d }", 3, "want raw or a duration"),
            (
                "    - tiers:\n        raw: 30d\n        5m: 10d",
                5,
                "tier 5m 10d ends before the finer tier raw 30d",
            ),
            (
                "    - tiers:\n        raw: 30d\n        1h: 90d\n        5m: 100d",
                5,
                "tier 1h 90d ends before the finer tier 5m 100d",
            ),
            (
                "    - tiers:\n        raw: 30d\n        60m: 90d\n        1h: 90d",
                6,
                "tier 1h stands here twice",
            ),
            (
                "    - tiers: { raw: 1d, 1m: 1d, 2m: 1d, 3m: 1d, 4m: 1d, 5m: 1d, 6m: 1d, 8m: 1d, 9m: 1d }",
                3,
                "9 tiers; at most 8",
            ),
            ("    - tiers: { raw: 30d }\n      mach: up", 4, "unknown field `mach`"),
            ("    - match: 'up{'\n      tiers: { raw: 30d }", 3, "match: "),
            ("    - tiers: { raw: 30d }\n      match: '{a=~\"(\"}'", 4, "match: "),
            ("    - match: rate(up[5m])\n      tiers: { raw: 30d }", 3, "not a selector alone"),
            ("    - match: '{a=~\".*\"}'\n      tiers: { raw: 30d }", 3, "leave `match` out"),
            (
                "    - match: '{a=\"\",a=\"x\"}'\n      tiers: { raw: 30d }",
                3,
                "no series has a=\"\" and a=\"x\"",
            ),
            ("    - match: '{a=\"x\",a=~\"y|z\"}'\n      tiers: { raw: 30d }", 3, "no series has"),
            (
                "    - match: '{a=\"x\",__name__=\"\"}'\n      tiers: { raw: 30d }",
                3,
                "no series has",
            ),
            (
                "    - tiers: { raw: 30d }\n    - match: up\n      tiers: { raw: 40d }",
                4,
                "the one in line 3 comes first, which selects everything",
            ),
            (
                "    - match: up\n      tiers: { raw: 30d }\n    - match: up{job=\"a\"}\n      tiers: { raw: 40d }",
                5,
                "the one in line 3 comes first, which selects all that",
            ),
            ("    []", 3, "no policy in this list"),
        ] {
            let mistake = mistake_in(lines);
            assert!(mistake.reason.contains(says), "{lines}\n{mistake}");
            assert_eq!(mistake.line, line, "{lines}\n{mistake}");
        }
        let many: String =
            (0..65).map(|i| format!("    - match: m{i}\n      tiers: {{ raw: 30d }}\n")).collect();
        assert!(mistake_in(&many).reason.contains("65 policies; at most 64"));
    }

    #[test]
    fn other_sections_are_checked_too() {
        for (lines, says) in [
            ("  sessions: [ { tiers: { 1h: 1y } } ]", "no tier `raw`"),
            (
                "  spans: [ { tiers: { raw: 7d } }, { match: a, tiers: { raw: 15d } } ]",
                "never used",
            ),
            ("  snapshots: [ { keep: 30 } ]", "not a valid duration"),
            ("  disk_budget: 2 TB", "want a number of bytes"),
            ("  disk_budget: 5MB", "less than 100MiB"),
            ("  holds: [ { id: a } ]", "missing field"),
            ("  holds: [ { id: a, reason: b, owner: '', match: up, from: 1, to: 2 } ]", "owner"),
            (
                "  holds: [ { id: a, reason: b, owner: c, match: up, from: 2, to: 1 } ]",
                "ends before",
            ),
            (
                "  holds: [ { id: a, reason: b, owner: c, match: up, from: x, to: 2 } ]",
                "cannot parse",
            ),
        ] {
            let mistake = parse(&format!("retention:\n{lines}\n")).expect_err(lines);
            assert!(mistake.reason.contains(says) && mistake.line == 2, "{lines}\n{mistake}");
        }
    }
}
