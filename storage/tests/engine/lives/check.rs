//! Looking: what a database gives, compared with the model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use icecore_storage::Db;
use icecore_storage::matcher::Matcher;
use icecore_storage::metrics::chunk::ChunkStatistics;
use icecore_storage::metrics::rollup::{Components, bucket_end_ms};
use icecore_storage::metrics::sample::{Samples, is_stale_nan};
use icecore_storage::outline::{Outliner, Windows};
use icecore_storage::snapshot::Selector;
use icecore_storage::tiers::Bucket;
use icecore_storage::time::{TimeRange, WINDOW_MS};

use super::model::{Key, Model, State, Written, labels, selects};
use super::steps::{HOUR_MS, RESOLUTIONS_MS, SERIES};
use crate::oracle::Stored;

/// A bucket as it was read, with its bits.
#[derive(Clone, Copy, Debug)]
struct Read {
    end_ms: i64,
    count: u64,
    first: (i64, f64),
    last: (i64, f64),
    sum: f64,
    min: f64,
    max: f64,
    resets: f64,
    changes: f64,
}

fn numbers() -> HashMap<String, usize> {
    (0..SERIES).map(|series| (labels(series).to_string(), series)).collect()
}

/// All samples of some series and a range.
fn read(db: &Db, matchers: &[Matcher], range: TimeRange) -> Result<BTreeMap<Key, Stored>, String> {
    let numbers = numbers();
    let snapshot = db.snapshot();
    let selector = Selector { matchers: matchers.to_vec(), range, aligned_ms: 0 };
    let selected = snapshot.select(&[selector]).map_err(|e| e.to_string())?;
    let mut found = BTreeMap::new();
    let mut samples = Samples::default();
    for series in &selected[0] {
        let number = *numbers.get(&series.labels().to_string()).ok_or("an unknown series")?;
        if !selects(matchers, number) {
            return Err(format!("{} was not asked for", series.labels()));
        }
        snapshot.read(series, &mut samples).map_err(|e| e.to_string())?;
        if !samples.timestamps.is_sorted_by(|a, b| a < b) {
            return Err(format!("samples of {} do not ascend", series.labels()));
        }
        for (row, timestamp) in samples.timestamps.iter().enumerate() {
            if range.contains(*timestamp) {
                let stored = Stored::of(samples.values[row], samples.histogram(row));
                if found.insert((number, *timestamp), stored).is_some() {
                    return Err(format!("{} was selected twice", series.labels()));
                }
            }
        }
    }
    Ok(found)
}

pub(super) fn samples(
    db: &Db,
    model: &Model,
    matchers: &[Matcher],
    range: TimeRange,
) -> Result<(), String> {
    let found = read(db, matchers, range)?;
    for ((series, timestamp), value) in &found {
        let written = model.rows.get(&(*series, *timestamp)).map_or(&[][..], |all| all);
        if !Model::allows(written, Some(value)) {
            let series = labels(*series);
            return Err(format!("{series} has {value:?} at {timestamp}, of {written:?}"));
        }
    }
    for series in (0..SERIES).filter(|series| selects(matchers, *series)) {
        for (timestamp, written) in model.of_series(series, range) {
            let value = found.get(&(series, timestamp));
            // That at the start of the oldest raw window is in a bucket, late ones once it is made anew.
            let is_edge = timestamp % WINDOW_MS == 0;
            if value.is_none() && !is_edge && !Model::allows(written, None) {
                return Err(format!("{} lacks {written:?} at {timestamp}", labels(series)));
            }
        }
    }
    Ok(())
}

/// Label values and series: those of what can be read, and of nothing that was never there.
pub(super) fn names(db: &Db, model: &Model, matchers: &[Matcher]) -> Result<(), String> {
    let found = read(db, matchers, TimeRange::ALL)?;
    let present: BTreeSet<usize> = found.keys().map(|(series, _)| *series).collect();
    let snapshot = db.snapshot();
    let asked = [matchers.to_vec()];
    let listed = snapshot.series(&asked, TimeRange::ALL).map_err(|e| e.to_string())?;
    let listed: BTreeSet<String> = listed.iter().map(ToString::to_string).collect();
    let expected: BTreeSet<String> =
        present.iter().map(|series| labels(*series).to_string()).collect();
    // A series of which there are only buckets of tiers that answer nowhere is listed too.
    let known: BTreeSet<String> = (0..SERIES)
        .filter(|series| model.of_series(*series, TimeRange::ALL).next().is_some())
        .map(|series| labels(series).to_string())
        .collect();
    if !expected.is_subset(&listed) || !listed.is_subset(&known) {
        return Err(format!("{listed:?} are listed, {expected:?} are there, of {known:?}"));
    }
    for name in ["instance", "__name__", "pod"] {
        let values = snapshot.label_values(name, &asked, TimeRange::ALL);
        let values: BTreeSet<String> = values.map_err(|e| e.to_string())?.into_iter().collect();
        let of = |all: &BTreeSet<String>| -> BTreeSet<String> {
            let series = (0..SERIES).map(labels).filter(|one| all.contains(&one.to_string()));
            series.filter_map(|one| one.get(name).map(str::to_owned)).collect()
        };
        if values != of(&listed) {
            return Err(format!("{name} has the values {values:?} of {listed:?}"));
        }
    }
    Ok(())
}

/// What is read where windows consist of whole buckets of `resolution_ms`.
pub(super) fn buckets(
    db: &Db,
    model: &Model,
    matchers: &[Matcher],
    range: TimeRange,
    resolution_ms: i64,
) -> Result<(), String> {
    if model.policies_set > 1 {
        return Ok(());
    }
    let numbers = numbers();
    let start_ms = bucket_end_ms(range.start_ms, HOUR_MS);
    let range = TimeRange::new(start_ms + 1, bucket_end_ms(range.end_ms, HOUR_MS));
    let snapshot = db.snapshot();
    let selector = Selector { matchers: matchers.to_vec(), range, aligned_ms: resolution_ms };
    let selected = snapshot.select(&[selector]).map_err(|e| e.to_string())?;
    let mut of_series: BTreeMap<usize, (Vec<Read>, Samples)> = BTreeMap::new();
    for series in &selected[0] {
        let number = *numbers.get(&series.labels().to_string()).ok_or("an unknown series")?;
        let (mut read, mut left_out) = (Vec::new(), Vec::new());
        let mut bucket = |bucket: &Bucket<'_>, _: &mut Samples| {
            let Some(floats) = bucket.floats else { return };
            read.push(Read {
                end_ms: bucket.end_ms,
                count: floats.count as u64,
                first: floats.first,
                last: floats.last,
                sum: floats.sum,
                min: floats.min,
                max: floats.max,
                resets: floats.resets,
                changes: floats.changes,
            });
        };
        let outliner = Outliner {
            windows: Windows {
                first_end_ms: range.start_ms - 1 + resolution_ms,
                step_ms: resolution_ms,
                steps: ((range.end_ms - range.start_ms + 1) / resolution_ms) as usize,
                length_ms: resolution_ms,
            },
            stand_in: &mut |_: &ChunkStatistics| None,
            bucket: &mut bucket,
            columns: Components::ALL,
            left_out: &mut left_out,
        };
        let mut samples = Samples::default();
        snapshot.outline(series, outliner, &mut samples).map_err(|e| e.to_string())?;
        of_series.insert(number, (read, samples));
    }
    let asked = (0..SERIES).filter(|series| selects(matchers, *series));
    for series in asked {
        let nothing = (Vec::new(), Samples::default());
        let (read, samples) = of_series.get(&series).unwrap_or(&nothing);
        let read: Vec<&Read> = read.iter().filter(|one| range.contains(one.end_ms)).collect();
        for one in &read {
            bucket(model, series, one)?;
        }
        if !has_histograms(series) {
            whole(model, series, range, &read, samples)?;
        }
    }
    Ok(())
}

/// Histograms are not rolled up yet.
fn has_histograms(series: usize) -> bool {
    matches!(series, 5 | 6)
}

/// The floats that must or may be in a bucket; `None` if that is not known.
fn floats(model: &Model, series: usize, range: TimeRange) -> Option<Vec<(i64, f64)>> {
    let mut floats = Vec::new();
    for (timestamp, written) in model.of_series(series, range) {
        let is_known = written.iter().all(|one| one.state != State::Unknown);
        if !is_known {
            return None;
        }
        if let Stored::Float(bits) = Model::greatest(written) {
            floats.push((timestamp, f64::from_bits(*bits)));
        }
    }
    Some(floats)
}

/// Whether a bucket that was read is that of the samples.
fn bucket(model: &Model, series: usize, found: &Read) -> Result<(), String> {
    let mut all = Vec::new();
    for resolution_ms in RESOLUTIONS_MS {
        if found.end_ms % resolution_ms != 0 {
            continue;
        }
        let range = TimeRange::new(found.end_ms - resolution_ms + 1, found.end_ms);
        let Some(floats) = floats(model, series, range) else { return Ok(()) };
        if is_of(found, &floats) {
            return Ok(());
        }
        all.push((resolution_ms, floats));
    }
    Err(format!("{} has the bucket {found:?} of the samples {all:?}", labels(series)))
}

fn is_of(found: &Read, floats: &[(i64, f64)]) -> bool {
    let live: Vec<(i64, f64)> =
        floats.iter().copied().filter(|(_, value)| !is_stale_nan(*value)).collect();
    let (Some(first), Some(last)) = (live.first(), live.last()) else { return false };
    let numbers = || live.iter().map(|(_, value)| *value).filter(|value| !value.is_nan());
    let pairs = || live.windows(2).map(|pair| (pair[0].1, pair[1].1));
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
    let same_sample = |a: &(i64, f64), b: (i64, f64)| a.0 == b.0 && a.1.to_bits() == b.1.to_bits();
    let sum: f64 = live.iter().map(|(_, value)| value).sum();
    let is_sum = same(sum, found.sum) || (sum - found.sum).abs() <= 1e-9 * sum.abs().max(1.0);
    let resets = pairs().filter(|(old, new)| new < old).count() as f64;
    let changed = |(old, new): &(f64, f64)| old != new && !(old.is_nan() && new.is_nan());
    found.count == live.len() as u64
        && same_sample(first, found.first)
        && same_sample(last, found.last)
        && is_sum
        && same(numbers().fold(f64::NAN, f64::min), found.min)
        && same(numbers().fold(f64::NAN, f64::max), found.max)
        && found.resets == resets
        && found.changes == pairs().filter(changed).count() as f64
}

/// Whether raw samples and buckets together are all samples, hour by hour, each once.
fn whole(
    model: &Model,
    series: usize,
    range: TimeRange,
    read: &[&Read],
    samples: &Samples,
) -> Result<(), String> {
    let mut hours: BTreeMap<i64, u64> = BTreeMap::new();
    for one in read {
        *hours.entry(bucket_end_ms(one.end_ms, HOUR_MS)).or_default() += one.count;
    }
    for (row, timestamp) in samples.timestamps.iter().enumerate() {
        let is_live = !is_stale_nan(samples.values[row]);
        if range.contains(*timestamp) && is_live {
            *hours.entry(bucket_end_ms(*timestamp, HOUR_MS)).or_default() += 1;
        }
    }
    let expected: BTreeSet<i64> = model
        .of_series(series, range)
        .map(|(timestamp, _)| bucket_end_ms(timestamp, HOUR_MS))
        .chain(hours.keys().copied())
        .collect();
    for end_ms in expected {
        let hour = TimeRange::new(end_ms - HOUR_MS + 1, end_ms);
        let Some(floats) = floats(model, series, hour) else { continue };
        if floats.iter().any(|(timestamp, _)| timestamp % WINDOW_MS == 0) {
            continue;
        }
        let live = floats.iter().filter(|(_, value)| !is_stale_nan(*value)).count() as u64;
        let found = hours.get(&end_ms).copied().unwrap_or(0);
        if found != live {
            let written: Vec<(i64, &[Written])> = model.of_series(series, hour).collect();
            let times = samples.timestamps.iter().filter(|time| hour.contains(**time));
            let raw: Vec<i64> = times.copied().collect();
            let read: Vec<&&Read> = read.iter().filter(|one| hour.contains(one.end_ms)).collect();
            return Err(format!(
                "{} has {found} of {live} samples in the hour to {end_ms}: {written:?}; raw {raw:?}, \
                 buckets {read:?}",
                labels(series)
            ));
        }
    }
    Ok(())
}
