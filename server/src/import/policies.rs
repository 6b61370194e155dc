//! How long what is imported is kept: what the server that takes over will be told, or was.

use std::path::Path;

use anyhow::Context;
use icecore_query::parser::{self, ParserOptions};
use icecore_storage::disk::Disk;
use icecore_storage::matcher::Matcher;
use icecore_storage::retention::policy::{Policies, Policy};
use icecore_storage::retention::report::{KeptPolicy, policies_of_directory};

use crate::api::selectors;
use crate::config_file;

/// By the flags; without any, as the database was last told, or the defaults if it is new.
pub(super) fn of(
    file: Option<&Path>,
    retention_ms: Option<i64>,
    disk: &dyn Disk,
) -> anyhow::Result<Policies> {
    if file.is_some() || retention_ms.is_some() {
        return Ok(config_file::load(file, retention_ms)?.policies);
    }
    let kept = policies_of_directory(disk).context("cannot read how long samples are kept")?;
    if kept.is_empty() {
        return Ok(Policies::default());
    }
    let policies = kept.into_iter().map(|KeptPolicy { matchers, tiers }| {
        Ok(Policy { matchers: self::matchers(&matchers)?, tiers })
    });
    Ok(Policies::new(policies.collect::<anyhow::Result<_>>()?))
}

/// What matchers are that were written as text.
fn matchers(text: &str) -> anyhow::Result<Vec<Matcher>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parsed = parser::parse(&format!("{{{text}}}"), ParserOptions::default());
    let selector = parsed.ok().as_ref().and_then(selectors::plain_selector);
    selector.with_context(|| {
        format!("the policy for {{{text}}} cannot be read again: give --config.file")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use icecore_storage::Db;
    use icecore_storage::db::Options;
    use icecore_storage::disk::sim::SimDisk;
    use icecore_storage::matcher::MatchOp;
    use icecore_storage::retention::policy::Tier;
    use icecore_storage::time::DAY_MS;

    use super::*;

    #[test]
    fn a_database_keeps_what_it_was_told_last() {
        let disk = SimDisk::new(1);
        assert_eq!(of(None, None, &disk).unwrap(), Policies::default());
        let matcher = |name: &str, op, value: &str| Matcher::new(name, op, value).unwrap();
        let tier = |resolution_ms, days| Tier { resolution_ms, lifetime_ms: days * DAY_MS };
        let policies = Policies::new(vec![
            Policy {
                matchers: vec![
                    matcher("env", MatchOp::Equal, "pr\"od, {x}\\"),
                    matcher("__name__", MatchOp::NotRegex, "a.*|b"),
                    matcher("zone", MatchOp::NotEqual, "é\n"),
                ],
                tiers: vec![tier(0, 40), tier(3_600_000, 400)],
            },
            Policy { matchers: Vec::new(), tiers: vec![tier(0, 7)] },
        ]);
        let options = Options { policies: policies.clone(), ..Options::default() };
        let db = Db::open(Arc::new(disk.clone()), options, 50 * DAY_MS).unwrap();
        db.close(50 * DAY_MS).unwrap();
        drop(db);
        assert_eq!(of(None, None, &disk).unwrap(), policies);
        assert_eq!(of(None, Some(DAY_MS), &disk).unwrap(), Policies::raw_only(DAY_MS));
    }
}
