//! What both indexes must answer, by way of a list of labels that is searched from end to end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::NameCounts;
use crate::labels::{Labels, METRIC_NAME};
use crate::matcher::{MatchOp, Matcher};

pub(super) type Series = Vec<Labels>;

/// Names that series have, but for the last, which none has.
pub(super) const NAMES: [&str; 6] = [METRIC_NAME, "a", "a.b", "é", "z", "none"];

/// The series by id, and the plainest answers.
#[derive(Debug)]
pub(super) struct Model {
    series: BTreeMap<u32, Labels>,
}

impl Model {
    pub(super) fn new(series: &[Labels]) -> Model {
        Model { series: (0..).zip(series.iter().cloned()).collect() }
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.series.remove(&id);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Labels)> {
        self.series.iter().map(|(id, labels)| (*id, labels))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.series.keys().copied()
    }

    pub(super) fn all(&self) -> RoaringBitmap {
        self.ids().collect()
    }

    pub(super) fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        let matches = |labels: &Labels| {
            matchers.iter().all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or("")))
        };
        self.iter().filter(|(_, labels)| matches(labels)).map(|(id, _)| id).collect()
    }

    pub(super) fn counts(&self, of: &RoaringBitmap) -> Vec<NameCounts> {
        let mut counts: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
        for (name, value) in of.iter().flat_map(|id| self.series[&id].iter()) {
            *counts.entry(name).or_default().entry(value).or_default() += 1;
        }
        let of_name = |(name, values): (&str, BTreeMap<&str, u64>)| NameCounts {
            name: name.to_owned(),
            series: values.values().sum(),
            values: values.into_iter().map(|(value, count)| (value.into(), count)).collect(),
        };
        counts.into_iter().map(of_name).collect()
    }

    pub(super) fn names(&self, of: &RoaringBitmap) -> Vec<String> {
        let series = of.iter().map(|id| &self.series[&id]);
        let names: BTreeSet<&str> = series.flat_map(|s| s.iter().map(|(name, _)| name)).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    pub(super) fn values(&self, name: &str, of: &RoaringBitmap) -> Vec<String> {
        let values: BTreeSet<&str> =
            of.iter().filter_map(|id| self.series[&id].get(name)).collect();
        values.into_iter().map(str::to_owned).collect()
    }
}

fn value() -> impl Strategy<Value = String> {
    let common = prop::sample::select(vec!["", "x", "xy", "x.y", "ab", "abc", "\n", "ü", "a|b"]);
    prop_oneof![3 => common.prop_map(str::to_owned), 1 => "[a-c]{1,3}", 1 => "\\PC{0,300}"]
}

/// Up to many series, some with no labels, many alike.
pub(super) fn series() -> impl Strategy<Value = Series> {
    let names = &NAMES[..5];
    let labels = prop::collection::btree_map(prop::sample::select(names), value(), 0..5)
        .prop_map(|pairs| Labels::from_pairs(pairs).unwrap())
        .boxed();
    prop_oneof![
        prop::collection::vec(labels.clone(), 0..20),
        (prop::collection::vec(labels, 1..8), 1usize..100).prop_map(|(few, times)| {
            few.iter().cycle().take(few.len() * times).cloned().collect()
        }),
    ]
}

/// Conditions of all kinds.
pub(super) fn queries() -> impl Strategy<Value = Vec<Vec<Matcher>>> {
    let patterns = vec![
        "", "x", "x|ab", "x|", ".*", ".+", "x.*", "ab?c", "ab*", ".*y", "[^a]+", "x{2}|a.+",
        "(?i)X", "a\\|b", "^x$", "ü.?", "(x|a).*",
    ];
    let op = prop::sample::select(vec![
        MatchOp::Equal,
        MatchOp::NotEqual,
        MatchOp::Regex,
        MatchOp::NotRegex,
    ]);
    let pattern = prop::sample::select(patterns).prop_map(str::to_owned);
    let matcher = (prop::sample::select(&NAMES[..]), op, pattern, value()).prop_map(
        |(name, op, pattern, value)| {
            let plain = matches!(op, MatchOp::Equal | MatchOp::NotEqual);
            Matcher::new(name, op, if plain { value } else { pattern }).unwrap()
        },
    );
    prop::collection::vec(prop::collection::vec(matcher, 0..4), 1..8)
}
