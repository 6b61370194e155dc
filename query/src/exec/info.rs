//! `info()`: adds the labels of info series to the series of a vector.
//!
//! - An **info series** says something about a target: its labels matter, its value does not.
//! - It belongs to the series that have the same **identifying labels**. Of several info series of
//!   one metric and target the one with the newest sample counts.
//! - A **slot** is an info metric and the identifying labels of a target; which series fills it
//!   changes from step to step.
//!
//! Follows Prometheus's promql/info.go.

use std::collections::{BTreeMap, HashMap, HashSet};

use icecore_storage::labels::{Labels, METRIC_NAME};

use crate::engine::QueryError;
use crate::exec::failure::FirstFailure;
use crate::exec::join::written;
use crate::exec::leaf::Sink;
use crate::exec::rows::{Rows, SAME_LABELSET, SeriesMeta, bit, for_each_bit, set_bit, words};
use crate::exec::select::Emit;
use crate::exec::{Budget, Executor, label_edit};
use crate::parser::ast::NodeId;
use crate::plan::info::InfoSelector;
use crate::source::Source;

/// The labels that identify a target, in order.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// In the order in which one step of Prometheus meets them.
const RANK_DUPLICATE_INFO: u8 = 0;
const RANK_CONFLICT: u8 = 1;
const RANK_SAME_LABELS: u8 = 2;

impl<S: Source> Executor<'_, S> {
    pub(super) fn info(&mut self, id: NodeId, args: &[NodeId]) -> Result<Rows, QueryError> {
        let base = self.take_rows(args[0]);
        let selector = InfoSelector::new(self.plan, args);
        let targets = Targets::of(&base, &selector);
        let index = self.selection(id);
        self.series[index].retain(|(labels, _)| targets.include(labels));
        let info = self.selected(id, Emit::InfoTimestamp, Sink::Rows)?;
        self.session.budget.check()?;
        self.session.budget.hold(info.cost())?;
        let enriched = enrich(&base, &info, &selector, self.session.budget);
        self.session.budget.release(info.cost());
        enriched
    }
}

/// The values of the identifying labels that series to be enriched have.
struct Targets<'a> {
    values: [HashSet<&'a str>; 2],
}

impl<'a> Targets<'a> {
    fn of(base: &'a Rows, selector: &InfoSelector) -> Targets<'a> {
        let mut values = [HashSet::new(), HashSet::new()];
        let enriched = base.meta.iter().filter(|meta| !selector.is_info(meta.labels.metric_name()));
        for meta in enriched {
            for (name, values) in IDENTIFYING.iter().zip(&mut values) {
                values.extend(meta.labels.get(name));
            }
        }
        Targets { values }
    }

    /// Whether an info series may belong to one of them.
    fn include(&self, labels: &Labels) -> bool {
        let is_one = |(name, values): (&&str, &HashSet<&str>)| {
            values.is_empty() || values.contains(labels.get(name).unwrap_or(""))
        };
        !self.values.iter().all(HashSet::is_empty)
            && IDENTIFYING.iter().zip(&self.values).all(is_one)
    }
}

/// The identifying labels as canonical bytes.
fn target_of(labels: &Labels) -> Vec<u8> {
    let mut bytes = Vec::new();
    label_edit::write_filtered(labels, &mut bytes, |name| {
        IDENTIFYING.iter().any(|one| one.as_bytes() == name)
    });
    bytes
}

/// For one info metric and target, the row of `info` that counts at each step.
struct Slot {
    rows: Vec<Option<u32>>,
}

/// What the info rows `matched` make of a series, and at which steps these are the ones that count.
struct Variant {
    matched: Vec<u32>,
    /// `None` where the series goes.
    labels: Option<Labels>,
    steps: Vec<u64>,
}

fn enrich(
    base: &Rows,
    info: &Rows,
    selector: &InfoSelector,
    budget: &Budget,
) -> Result<Rows, QueryError> {
    if let Some(row) = info.histograms.iter().position(|points| !points.is_empty()) {
        let series = written(&info.meta[row].labels);
        let text = format!("this should be an info metric, with float samples: {series}");
        return Err(QueryError::Execution(text));
    }
    let mut failure = FirstFailure::default();
    let slots = slots(base, info, &mut failure);
    let stride = words(base.steps);
    let keeps_unmatched = selector.data.iter().all(|matcher| matcher.matches(""));
    let mut result = Rows::new(base.steps);
    let (mut present, mut matched) = (Vec::new(), Vec::new());
    let mut pace = budget.pace();
    for (row, meta) in base.meta.iter().enumerate() {
        pace.step(base.steps)?;
        let is_info = selector.is_info(meta.labels.metric_name());
        let of_target = slots.get(&target_of(&meta.labels)).filter(|_| !is_info);
        let unmatched = (is_info || keeps_unmatched).then(|| meta.labels.clone());
        let Some(of_target) = of_target else {
            if let Some(labels) = unmatched {
                result.push_from(base, row, SeriesMeta { labels, ..*meta });
            }
            continue;
        };
        let mut variants: Vec<Variant> = Vec::new();
        let mut last = 0;
        base.presence(row, &mut present);
        for_each_bit(&present, |step| {
            matched.clear();
            matched.extend(of_target.iter().filter_map(|slot| slot.rows[step]));
            if variants.get(last).is_none_or(|variant| variant.matched != matched) {
                let known = variants.iter().position(|variant| variant.matched == matched);
                last = known.unwrap_or_else(|| {
                    let labels = match matched[..] {
                        [] => Ok(unmatched.clone()),
                        _ => with_info(&meta.labels, info, &matched, selector).map(Some),
                    };
                    let labels = labels.unwrap_or_else(|name| {
                        failure
                            .record(step, RANK_CONFLICT, || format!("conflicting label: {name}"));
                        None
                    });
                    let steps = vec![0; stride];
                    variants.push(Variant { matched: matched.clone(), labels, steps });
                    variants.len() - 1
                });
            }
            set_bit(&mut variants[last].steps, step);
        });
        for Variant { labels, steps, .. } in variants {
            let Some(labels) = labels else { continue };
            result.push_from(base, row, SeriesMeta { labels, ..*meta });
            let (_, valid, histograms) = result.row_mut(result.len() - 1);
            valid.iter_mut().zip(&steps).for_each(|(valid, steps)| *valid &= steps);
            histograms.retain(|(step, _)| bit(&steps, *step as usize));
        }
    }
    let merged = result.merge_equal(budget);
    if let Err(step) = merged {
        failure.record(step, RANK_SAME_LABELS, || SAME_LABELSET.into());
    }
    failure.finish()?;
    Ok(merged.unwrap_or_default())
}

/// The slots of each target, in the order of the info metrics' names.
fn slots(base: &Rows, info: &Rows, failure: &mut FirstFailure) -> HashMap<Vec<u8>, Vec<Slot>> {
    let stride = words(base.steps);
    // Without a series to enrich at a step Prometheus does not look at the info series either.
    let mut needed = vec![0u64; stride];
    for row in base.presences().chunks(stride.max(1)) {
        needed.iter_mut().zip(row).for_each(|(needed, word)| *needed |= word);
    }
    let mut named: BTreeMap<(&str, Vec<u8>), Slot> = BTreeMap::new();
    for (row, meta) in info.meta.iter().enumerate() {
        let key = (meta.labels.metric_name(), target_of(&meta.labels));
        let slot = named.entry(key).or_insert_with(|| Slot { rows: vec![None; base.steps] });
        let times = info.values(row);
        for_each_bit(info.valid(row), |step| {
            if !bit(&needed, step) {
                return;
            }
            let Some(known) = slot.rows[step] else {
                slot.rows[step] = Some(row as u32);
                return;
            };
            let known_time = info.values(known as usize)[step];
            if times[step] > known_time {
                slot.rows[step] = Some(row as u32);
            } else if times[step] == known_time {
                let milliseconds = (known_time * 1000.0).round() as i64;
                failure.record(step, RANK_DUPLICATE_INFO, || {
                    format!(
                        "found duplicate series for info metric: existing {} @ {milliseconds}, new {} @ {milliseconds}",
                        written(&info.meta[known as usize].labels),
                        written(&meta.labels),
                    )
                });
            }
        });
    }
    let mut slots: HashMap<Vec<u8>, Vec<Slot>> = HashMap::new();
    for ((_, target), slot) in named {
        slots.entry(target).or_default().push(slot);
    }
    slots
}

/// The labels with those of the info rows `matched`; an error if two of these have different values
/// for the label named.
fn with_info(
    base: &Labels,
    info: &Rows,
    matched: &[u32],
    selector: &InfoSelector,
) -> Result<Labels, String> {
    let mut added: BTreeMap<&str, &str> = BTreeMap::new();
    for &row in matched {
        for (name, value) in info.meta[row as usize].labels.iter() {
            let is_wanted =
                selector.data.is_empty() || selector.data.iter().any(|m| m.name() == name);
            if name == METRIC_NAME || !is_wanted || base.get(name).is_some() {
                continue;
            }
            if *added.entry(name).or_insert(value) != value {
                return Err(name.to_owned());
            }
        }
    }
    let mut builder = base.to_builder();
    added.into_iter().for_each(|(name, value)| builder.set(name, value));
    Ok(builder.build().expect("labels that are not there yet are added once each"))
}
