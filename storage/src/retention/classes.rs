//! Classes: sets of lifetimes by number, so that a block can say how long its data lives.
//!
//! A **class** is a set of tiers; policies with equal tiers share one. Numbers stand in blocks, so
//! they are never given to other lifetimes. Each change of the policies is a new **generation**;
//! what a block of an older one holds is not known until its series are looked at again, and until
//! then the longest lifetime holds for it. Layout: docs/format.md, "Manifest".

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::compaction::rollup;
use crate::encoding::varint::{self, read_bytes, read_count, write_bytes};
use crate::labels::Labels;
use crate::metrics::block::meta::{BlockId, BlockMeta};
use crate::retention::policy::{Policies, Tier};
use crate::retention::report::KeptPolicy;
use crate::time::TimeRange;

/// The class of each live block.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockClasses {
    pub(crate) by_block: Arc<HashMap<BlockId, u32>>,
    /// All are by the present policies.
    pub(crate) is_settled: bool,
}

/// The class of blocks that were written before there were policies; it has no lifetimes.
pub(crate) const UNCLASSIFIED: u32 = 0;

/// A policy as the manifest remembers it: its matchers as text, and the class it gives.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    matchers: String,
    class: u32,
}

/// The table of classes, and which of them the present policies give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    /// Of the policies; 0 before the first.
    pub(crate) generation: u64,
    /// The highest number that was ever given.
    highest: u32,
    table: BTreeMap<u32, Vec<Tier>>,
    rules: Vec<Rule>,
}

impl Classes {
    /// Takes policies as the present ones, for a database with these blocks; whether they differ
    /// from what was there.
    pub(crate) fn adopt(&mut self, policies: &Policies, blocks: &[BlockMeta]) -> bool {
        // A manifest that was lost has taken the table along; the blocks know what is taken.
        let in_blocks = blocks.iter().map(|block| block.class).max().unwrap_or(0);
        let highest_generation = blocks.iter().map(|block| block.policy_generation).max();
        let (highest, generation) =
            (self.highest.max(in_blocks), self.generation.max(highest_generation.unwrap_or(0)));
        let mut adopted = Classes { highest, generation, ..Classes::default() };
        // Numbers that no block has any more are forgotten, not given anew.
        let is_used = |class: u32| {
            blocks.iter().any(|block| block.class == class)
                || self.rules.iter().any(|rule| rule.class == class)
        };
        adopted.table = self.table.clone();
        adopted.table.retain(|class, _| is_used(*class));
        for policy in policies.metrics() {
            let class = adopted.number_of(&policy.tiers);
            let matchers: Vec<String> = policy.matchers.iter().map(ToString::to_string).collect();
            adopted.rules.push(Rule { matchers: matchers.join(","), class });
        }
        if adopted.rules == self.rules && adopted.generation == self.generation {
            return false;
        }
        adopted.generation += 1;
        *self = adopted;
        true
    }

    fn number_of(&mut self, tiers: &[Tier]) -> u32 {
        if let Some((number, _)) = self.table.iter().find(|(_, known)| *known == tiers) {
            return *number;
        }
        self.highest += 1;
        self.table.insert(self.highest, tiers.to_vec());
        self.highest
    }

    /// The present policies, in their order.
    pub(crate) fn policies(&self) -> Vec<KeptPolicy> {
        let kept = |rule: &Rule| KeptPolicy {
            matchers: rule.matchers.clone(),
            tiers: self.tiers(rule.class).to_vec(),
        };
        self.rules.iter().map(kept).collect()
    }

    /// The class that each policy gives, in their order.
    pub(crate) fn of_policies(&self) -> impl Iterator<Item = u32> + '_ {
        self.rules.iter().map(|rule| rule.class)
    }

    /// The matchers of the policies that give a class, as text; "" for a policy without.
    pub(crate) fn policies_of(&self, class: u32) -> impl Iterator<Item = &str> {
        let rules = self.rules.iter().filter(move |rule| rule.class == class);
        rules.map(|rule| rule.matchers.as_str())
    }

    /// The tiers of a class that the table knows, from raw to the coarsest.
    pub(crate) fn tiers(&self, class: u32) -> &[Tier] {
        self.table.get(&class).map_or(&[], Vec::as_slice)
    }

    /// Resolutions of the rollups of a class, in ms.
    pub(crate) fn rollups_ms(&self, class: u32) -> Vec<i64> {
        let tiers = self.tiers(class).iter().filter(|tier| tier.resolution_ms > 0);
        tiers.map(|tier| i64::try_from(tier.resolution_ms).unwrap_or(i64::MAX)).collect()
    }

    /// Resolutions of the rollups of a class that still live of a day, in ms, when the time up to
    /// which lifetimes are counted is `now_ms`.
    pub(crate) fn living_rollups_ms(
        &self,
        class: u32,
        day: TimeRange,
        now_ms: Option<i64>,
    ) -> Vec<i64> {
        let lives = |tier: &i64| {
            let lifetime_ms = lifetime_ms(self.tiers(class), tier.unsigned_abs());
            now_ms.is_none_or(|now_ms| day.end_ms >= now_ms.saturating_sub(lifetime_ms))
        };
        self.rollups_ms(class).into_iter().filter(lives).collect()
    }

    /// Whether all that a raw block has is in the rollups of its class, as it is now.
    pub(crate) fn is_rolled_up(
        &self,
        block: &BlockMeta,
        blocks: &[BlockMeta],
        dirty: &BTreeSet<rollup::Day>,
        now_ms: Option<i64>,
    ) -> bool {
        let has = |day: i64, tier: i64| {
            rollup::is_rolled_up(blocks, block.class, tier, rollup::window_of(day))
        };
        let is_done = |day: i64| {
            let tiers = self.living_rollups_ms(block.class, rollup::window_of(day), now_ms);
            tiers.is_empty()
                || !dirty.contains(&(block.class, day)) && tiers.iter().all(|tier| has(day, *tier))
        };
        let is_last = block.tier_ms > 0 || self.rollups_ms(block.class).is_empty();
        is_last || rollup::days_of(block.range).all(is_done)
    }

    /// The class of each block, and whether all have theirs by the present policies.
    pub(crate) fn of_blocks(&self, blocks: &[BlockMeta]) -> BlockClasses {
        let is_settled = !blocks.iter().any(|block| self.is_outdated(block));
        let by_block = blocks.iter().map(|block| (block.id, block.class)).collect();
        BlockClasses { by_block: Arc::new(by_block), is_settled }
    }

    /// Whether a block has its class by other policies than the present ones.
    pub(crate) fn is_outdated(&self, block: &BlockMeta) -> bool {
        block.policy_generation < self.generation || !self.table.contains_key(&block.class)
    }

    /// How long a block's data lives; while its class is not known, as long as that of any.
    pub(crate) fn lifetime_ms(&self, block: &BlockMeta) -> i64 {
        match self.is_outdated(block) {
            false => lifetime_ms(self.tiers(block.class), block.tier_ms),
            true => self.longest_ms(block.tier_ms),
        }
    }

    /// How long after its newest sample a block goes. What is rolled up goes by days: raw samples once
    /// their whole day is too old for late ones, since it can be rolled up again as long as anything
    /// may come, and rollups once no bucket of their day could be made again.
    pub(crate) fn kept_ms(&self, block: &BlockMeta) -> i64 {
        self.lifetime_ms(block).saturating_add(self.until_day_ends_ms(block).unwrap_or(0))
    }

    /// From the newest sample of a block to the end of its day, if it goes by days.
    fn until_day_ends_ms(&self, block: &BlockMeta) -> Option<i64> {
        if block.tier_ms == 0 && !self.is_to_be_rolled_up(block) {
            return None;
        }
        let day = rollup::days_of(block.range).last()?;
        Some(rollup::window_of(day).end_ms.saturating_sub(block.range.end_ms))
    }

    /// Whether these are raw samples of which there are rollups.
    pub(crate) fn is_to_be_rolled_up(&self, block: &BlockMeta) -> bool {
        block.tier_ms == 0 && !self.rollups_ms(block.class).is_empty()
    }

    fn longest_ms(&self, tier_ms: u64) -> i64 {
        let lifetimes = self.of_policies().map(|class| lifetime_ms(self.tiers(class), tier_ms));
        lifetimes.max().unwrap_or(i64::MAX)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::write(&mut out, self.generation);
        varint::write(&mut out, u64::from(self.highest));
        varint::write(&mut out, self.table.len() as u64);
        for (class, tiers) in &self.table {
            varint::write(&mut out, u64::from(*class));
            varint::write(&mut out, tiers.len() as u64);
            for tier in tiers {
                varint::write(&mut out, tier.resolution_ms);
                varint::write_signed(&mut out, tier.lifetime_ms);
            }
        }
        varint::write(&mut out, self.rules.len() as u64);
        for rule in &self.rules {
            varint::write(&mut out, u64::from(rule.class));
            write_bytes(&mut out, rule.matchers.as_bytes());
        }
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Classes> {
        let rest = &mut bytes;
        let generation = varint::read(rest)?;
        let highest = u32::try_from(varint::read(rest)?).ok()?;
        let mut classes = Classes { generation, highest, ..Classes::default() };
        for _ in 0..read_count(rest, 2)? {
            let class = u32::try_from(varint::read(rest)?).ok()?;
            let tiers = (0..read_count(rest, 2)?).map(|_| {
                let resolution_ms = varint::read(rest)?;
                Some(Tier { resolution_ms, lifetime_ms: varint::read_signed(rest)? })
            });
            classes.table.insert(class, tiers.collect::<Option<_>>()?);
        }
        for _ in 0..read_count(rest, 2)? {
            let class = u32::try_from(varint::read(rest)?).ok()?;
            let matchers = String::from_utf8(read_bytes(rest)?.to_vec()).ok()?;
            classes.rules.push(Rule { matchers, class });
        }
        bytes.is_empty().then_some(classes)
    }
}

/// The lifetime of a tier. One that the class does not have any more ends with the next finer one:
/// until then its data is there a second time.
fn lifetime_ms(tiers: &[Tier], tier_ms: u64) -> i64 {
    let finest = tiers.iter().rfind(|tier| tier.resolution_ms <= tier_ms);
    finest.map_or(i64::MAX, |tier| tier.lifetime_ms)
}

/// The present policies with their classes: what gives a series its class.
#[derive(Clone, Debug)]
pub(crate) struct Classifier {
    policies: Policies,
    classes: Vec<u32>,
    shortest_raw_ms: i64,
    pub(crate) generation: u64,
}

impl Classifier {
    /// `classes` has adopted `policies`.
    pub(crate) fn new(policies: Policies, classes: &Classes) -> Classifier {
        let raw = policies.metrics().iter().map(|policy| policy.raw_lifetime_ms());
        let shortest_raw_ms = raw.min().unwrap_or(i64::MAX);
        let generation = classes.generation;
        let classes: Vec<u32> = classes.of_policies().collect();
        assert_eq!(classes.len(), policies.metrics().len(), "every policy gives a class");
        Classifier { policies, classes, shortest_raw_ms, generation }
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    pub(crate) fn class_of(&self, labels: &Labels) -> u32 {
        self.classes[self.policies.policy_of(labels)]
    }

    /// The class of all series, if there is but one.
    pub(crate) fn only_class(&self) -> Option<u32> {
        let first = self.classes[0];
        self.classes.iter().all(|class| *class == first).then_some(first)
    }

    /// The class of what no selector names.
    pub(crate) fn catch_all_class(&self) -> u32 {
        *self.classes.last().expect("there is always a policy")
    }

    /// How long raw samples of a class live.
    pub(crate) fn raw_lifetime_ms(&self, class: u32) -> i64 {
        let policy = self.classes.iter().position(|known| *known == class);
        policy.map_or(i64::MAX, |policy| self.policies.metrics()[policy].raw_lifetime_ms())
    }

    /// The shortest lifetime of raw samples of any class.
    pub(crate) fn longest_raw_ms(&self) -> i64 {
        let raw = self.policies.metrics().iter().map(|policy| policy.raw_lifetime_ms());
        raw.max().unwrap_or(i64::MAX)
    }

    pub(crate) fn shortest_raw_ms(&self) -> i64 {
        self.shortest_raw_ms
    }
}

/// One class that lives for ever, until policies are known.
impl Default for Classifier {
    fn default() -> Classifier {
        let policies = Policies::raw_only(i64::MAX);
        let (classes, shortest_raw_ms) = (vec![UNCLASSIFIED], i64::MAX);
        Classifier { policies, classes, shortest_raw_ms, generation: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::Matcher;
    use crate::metrics::block::meta::BlockId;
    use crate::retention::policy::Policy;
    use crate::time::DAY_MS;

    fn tiers(days: &[(u64, i64)]) -> Vec<Tier> {
        let tier = |(resolution_ms, days): &(u64, i64)| Tier {
            resolution_ms: *resolution_ms,
            lifetime_ms: days * DAY_MS,
        };
        days.iter().map(tier).collect()
    }

    fn policies(all: &[(&str, &[(u64, i64)])]) -> Policies {
        let policy = |(env, days): &(&str, &[(u64, i64)])| Policy {
            matchers: match *env {
                "" => vec![],
                env => vec![Matcher::equal("env", env)],
            },
            tiers: tiers(days),
        };
        Policies::new(all.iter().map(policy).collect())
    }

    fn block(class: u32, policy_generation: u64, tier_ms: u64) -> BlockMeta {
        BlockMeta { id: BlockId(1), class, policy_generation, tier_ms, ..BlockMeta::default() }
    }

    #[test]
    fn equal_lifetimes_are_one_class_and_numbers_are_never_used_again() {
        let mut classes = Classes::default();
        let first = policies(&[("a", &[(0, 7)]), ("b", &[(0, 9)]), ("", &[(0, 7)])]);
        assert!(classes.adopt(&first, &[]));
        assert_eq!(classes.of_policies().collect::<Vec<_>>(), [1, 2, 1]);
        assert!(!classes.adopt(&first, &[]), "the same policies are the same generation");
        assert!(classes.adopt(&policies(&[("", &[(0, 5)])]), &[block(1, 1, 0)]));
        assert!(classes.adopt(&policies(&[("", &[(0, 9)])]), &[block(1, 1, 0)]));
        assert_eq!(classes.of_policies().collect::<Vec<_>>(), [4], "2 was forgotten, not freed");
        assert_eq!((classes.generation, classes.tiers(1)), (3, &tiers(&[(0, 7)])[..]));
        assert!(classes.adopt(&first, &[block(1, 1, 0)]));
        assert_eq!(classes.of_policies().collect::<Vec<_>>(), [1, 4, 1]);
    }

    #[test]
    fn without_its_manifest_a_table_takes_no_number_that_blocks_have() {
        let mut classes = Classes::default();
        classes.adopt(&policies(&[("", &[(0, 5)])]), &[block(7, 3, 0)]);
        assert_eq!(classes.of_policies().collect::<Vec<_>>(), [8]);
        assert!(classes.is_outdated(&block(7, 3, 0)));
    }

    #[test]
    fn a_block_lives_as_its_class_and_tier_or_longest_while_that_is_not_known() {
        let mut classes = Classes::default();
        let present = policies(&[("a", &[(0, 30), (300, 90)]), ("", &[(0, 10), (300, 180)])]);
        classes.adopt(&present, &[]);
        let days = |block: &BlockMeta| classes.lifetime_ms(block) / DAY_MS;
        assert_eq!([days(&block(1, 1, 0)), days(&block(1, 1, 300))], [30, 90]);
        assert_eq!([days(&block(2, 1, 0)), days(&block(2, 1, 300))], [10, 180]);
        assert_eq!([days(&block(0, 0, 0)), days(&block(0, 0, 300))], [30, 180]);
        assert_eq!(days(&block(2, 1, 200)), 10, "a tier that is no more ends with the finer one");
    }

    #[test]
    fn the_table_round_trips() {
        let mut classes = Classes::default();
        classes.adopt(&policies(&[("a", &[(0, 30), (300, 90)]), ("", &[(0, 10)])]), &[]);
        let bytes = classes.encode();
        assert_eq!(Classes::decode(&bytes), Some(classes));
        for end in 0..bytes.len() {
            assert_eq!(Classes::decode(&bytes[..end]), None, "{end} bytes");
        }
    }
}
