//! Invariant 8: sealed data is a function of the samples alone.

use std::sync::Arc;

use icecore_storage::Db;
use icecore_storage::db::Options;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::encoding::xor;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::sample::{Samples, stale_nan};
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{TimeRange, WINDOW_MS};

use crate::oracle::{Oracle, Row, batch, labels, maintain};

/// splitmix64, below a bound.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

/// Five hours of twenty series: steady ones, some with gaps, own timestamps, resets, extremes,
/// stale markers, and one series with two values for many timestamps.
fn samples() -> Vec<Row> {
    let start = 500 * WINDOW_MS;
    let mut random = random(11);
    let mut rows = Vec::new();
    for series in 0..20usize {
        let own = if series % 5 == 4 { 137 * series as i64 } else { 0 };
        let mut total = 0.0;
        for slot in 0..1200i64 {
            if series % 3 == 1 && random(10) == 0 {
                continue;
            }
            total = if random(300) == 0 { 0.0 } else { total + random(50) as f64 * 0.25 };
            let value = match (series % 4, random(97)) {
                (_, 0) => stale_nan(),
                (0, 1) => f64::NAN,
                (0, 2) => -0.0,
                (0, _) => total,
                (1, _) => 17.0,
                (2, _) => (slot as f64 * 0.1).sin(),
                _ => total * 1e15,
            };
            let timestamp = start + slot * 15_000 + own + (slot % 7) * (series as i64 % 2);
            rows.push(Row::float(labels(series), timestamp, value));
            if series == 7 && slot % 5 == 0 {
                rows.push(Row::float(labels(series), timestamp, 18.0));
            }
        }
    }
    rows.sort_by_key(|row| row.timestamp);
    rows
}

fn open(disk: &SimDisk, now_ms: i64) -> Db {
    Db::open(Arc::new(disk.clone()), Options { seed: 9, ..Options::default() }, now_ms).unwrap()
}

/// Hours later, when everything is sealed and merged.
fn settle(db: &Db, now_ms: i64) {
    for hours in 1..8 {
        maintain(db, now_ms + hours * 3_600_000).unwrap();
    }
    assert_eq!(db.stats().head_range_ms, None, "everything is sealed");
}

fn xor_chunks(db: &Db) -> Vec<(Labels, Vec<u8>)> {
    let snapshot = db.snapshot();
    let all = Selector { matchers: Vec::new(), range: TimeRange::ALL, aligned_ms: 0 };
    let mut chunks: Vec<(Labels, Vec<u8>)> = Vec::new();
    let mut samples = Samples::default();
    for series in &snapshot.select(&[all]).unwrap()[0] {
        snapshot.read(series, &mut samples).unwrap();
        let windows: Vec<i64> = samples.timestamps.iter().map(|t| t / WINDOW_MS).collect();
        let mut start = 0;
        for run in windows.chunk_by(|a, b| a == b) {
            let rows = start..start + run.len();
            let chunk = xor::float_chunk(&samples.timestamps[rows.clone()], &samples.values[rows]);
            chunks.push((series.labels().clone(), chunk));
            start += run.len();
        }
    }
    chunks.sort();
    chunks
}

#[test]
fn order_batching_lateness_and_crashes_leave_no_trace() {
    let rows = samples();
    let end = rows.last().unwrap().timestamp;
    let ordered = SimDisk::new(1);
    let db = open(&ordered, end);
    for some in rows.chunks(200) {
        db.append(&batch(some), end).unwrap();
        maintain(&db, end).unwrap();
    }
    settle(&db, end);
    let expected = db.canonical_sections().unwrap();
    let is_raw = |window: &TimeRange| window.end_ms - window.start_ms < WINDOW_MS;
    let raw = expected.iter().filter(|(window, _)| is_raw(window)).count();
    assert_eq!(raw, 3, "a block for each window that five hours touch");
    for seed in 0..4 {
        let mut random = random(seed);
        let mut shuffled = rows.clone();
        // Mostly in order with late ones; the last seeds wholly at random.
        let reach = [20, 400, 5_000, shuffled.len()][seed as usize];
        for i in 0..shuffled.len() {
            let j = (i + random(reach)).min(shuffled.len() - 1);
            shuffled.swap(i, j);
        }
        let mut disk = SimDisk::new(seed);
        let mut other = open(&disk, end);
        let mut rest = &shuffled[..];
        while !rest.is_empty() {
            let (some, later) = rest.split_at(rest.len().min(1 + random(700)));
            rest = later;
            other.append(&batch(some), end).unwrap();
            if random(4) == 0 {
                maintain(&other, end).unwrap();
            }
            if random(12) == 0 {
                drop(other);
                disk = disk.power_cut(seed);
                other = open(&disk, end);
            }
        }
        settle(&other, end);
        let (a, b) = (Oracle::of(&db, i64::MIN), Oracle::of(&other, i64::MIN));
        let differing = a.rows.iter().find(|(key, value)| b.rows.get(key) != Some(value));
        assert_eq!(differing.map(|(key, v)| (key, v, b.rows.get(key))), None, "seed {seed}");
        assert_eq!(a.rows.len(), b.rows.len());
        let found = other.canonical_sections().unwrap();
        assert_eq!(found.len(), expected.len());
        for ((window, expected), (other_window, found)) in expected.iter().zip(&found) {
            assert_eq!(window, other_window);
            for (section, (expected, found)) in expected.iter().zip(found).enumerate() {
                assert!(expected == found, "seed {seed}, {window:?}: section {section} differs");
            }
        }
        assert!(xor_chunks(&other) == xor_chunks(&db), "seed {seed}: XOR chunks differ");
    }
}
