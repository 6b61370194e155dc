//! What the engine costs beyond decoding: nanoseconds for each series at each step.
//!
//! `cargo bench -p icecore-benches --bench promql [text]` prints one line a query (that contains the
//! text): the best of several runs, in milliseconds, and per series-step. The source is in memory and hands out copies, so
//! that what is measured is the engine; the first line is the copying alone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use icecore_query::engine::{Engine, EngineOptions, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::source::{Charge, SelectedSeries, Selection, Source, SourceError};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::sample::Samples;

const SCRAPE_MS: i64 = 15_000;
const SCRAPES: usize = 960;
/// Enough for the best of them to be undisturbed.
const RUNS: usize = 25;

struct Memory {
    series: Vec<(Labels, Samples)>,
    /// Selections by their matchers: finding series is the index's business, not the engine's.
    selected: Mutex<HashMap<String, SelectedSeries<usize>>>,
}

impl Source for Memory {
    type Series = usize;

    fn select(
        &self,
        selections: &[Selection],
        _: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<usize>>, SourceError> {
        let mut known = self.selected.lock().expect("no selection panics");
        let mut of = |selection: &Selection| {
            let key = format!("{:?}", selection.matchers);
            let matches = |labels: &Labels| {
                selection.matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or("")))
            };
            let all = self.series.iter().enumerate();
            let found = || all.filter(|(_, (labels, _))| matches(labels));
            known
                .entry(key)
                .or_insert_with(|| {
                    found().map(|(index, series)| (series.0.clone(), index)).collect()
                })
                .clone()
        };
        Ok(selections.iter().map(&mut of).collect())
    }

    fn read(&self, series: &usize, into: &mut Samples) -> Result<(), SourceError> {
        let samples = &self.series[*series].1;
        into.clear();
        into.timestamps.extend_from_slice(&samples.timestamps);
        into.values.extend_from_slice(&samples.values);
        into.timestamps_token = samples.timestamps_token;
        Ok(())
    }
}

/// 1,440 counters of 20 instances, 5,760 buckets, 480 gauges twice, and 20,000 series of 80 names.
/// Scrapes of an instance share their jitter.
fn memory() -> Memory {
    let mut random = 1u64;
    let mut next = move |bound: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % bound
    };
    let instances = 20;
    let jitters: Vec<i64> = (0..instances).map(|_| next(SCRAPE_MS as u64) as i64).collect();
    let mut series = Vec::new();
    // Storage gives series out by job and instance, so those of an instance are neighbours.
    let mut add =
        |name: String, index: usize, of: usize, extra: &[(&str, String)], count: usize| {
            let instance = index * instances / of;
            let mut pairs = vec![
                ("__name__", name),
                ("instance", format!("host-{instance}:9100")),
                ("job", "node".to_owned()),
                ("cpu", index.to_string()),
            ];
            pairs.extend(extra.iter().cloned());
            let mut samples = Samples::default();
            let mut value = next(1000) as f64;
            for scrape in 0..count {
                samples.push(jitters[instance] + scrape as i64 * SCRAPE_MS, value);
                value += next(100) as f64;
            }
            samples.timestamps_token = 1 + instance as u64;
            series.push((Labels::from_pairs(pairs).expect("distinct names"), samples));
        };
    for index in 0..1440 {
        add("requests_total".into(), index, 1440, &[], SCRAPES);
    }
    for index in 0..480 {
        add("used".into(), index, 480, &[], SCRAPES);
        add("size".into(), index, 480, &[], SCRAPES);
    }
    for index in 0..576 {
        for le in ["0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "12.8", "25.6", "+Inf"] {
            add("latency_bucket".into(), index, 576, &[("le", le.to_owned())], 300);
        }
    }
    for index in 0..20_000 {
        let name = format!("metric_{}", index % 80);
        add(name, index, 20_000, &[("many", index.to_string())], 250);
    }
    Memory { series, selected: Mutex::default() }
}

fn main() {
    let memory = memory();
    let engine = Engine::new(EngineOptions::default());
    let start = 15 * 60_000;
    let hour = 3_600_000;
    let queries = [
        ("requests_total", 1440, hour, 15_000),
        ("sum by (instance) (requests_total)", 1440, hour, 15_000),
        ("rate(requests_total[5m])", 1440, hour, 15_000),
        ("sum by (instance) (rate(requests_total[5m]))", 1440, hour, 15_000),
        ("sum by (instance) (rate(requests_total[5m]))", 1440, 13_680_000, 60_000),
        ("sum(rate(requests_total[1m]))", 1440, hour, 15_000),
        ("max by (instance) (requests_total)", 1440, hour, 15_000),
        ("avg by (instance) (requests_total)", 1440, hour, 15_000),
        ("sum(max_over_time(requests_total[10m]))", 1440, hour, 15_000),
        ("sum(avg_over_time(requests_total[10m]))", 1440, hour, 15_000),
        ("sum(quantile_over_time(0.95, requests_total[10m]))", 1440, hour, 15_000),
        ("quantile by (instance) (0.9, requests_total)", 1440, hour, 15_000),
        ("topk(5, requests_total)", 1440, hour, 15_000),
        ("used / on (instance, cpu) size", 480, hour, 60_000),
        (
            "histogram_quantile(0.9, sum by (le, instance) (rate(latency_bucket[5m])))",
            5760,
            hour,
            60_000,
        ),
        ("histogram_quantile(0.9, rate(latency_bucket[5m]))", 5760, hour, 60_000),
        ("sum by (__name__) ({many!=\"\"})", 20_000, hour, 60_000),
        ("count by (__name__) ({many!=\"\"})", 20_000, hour, 0),
    ];
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    copying(&memory);
    for (query, series, span, step) in queries {
        if wanted.as_ref().is_some_and(|wanted| !query.contains(wanted.as_str())) {
            continue;
        }
        let expr = parser::parse(query, ParserOptions::default()).expect("a query that parses");
        let options = QueryOptions::default();
        let steps = if step == 0 { 1 } else { span / step + 1 };
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let began = Instant::now();
            let answer = match step {
                0 => engine.instant(&memory, query, &expr, start + span, &options),
                _ => engine.range(&memory, query, &expr, start, start + span, step, &options),
            };
            best = best.min(began.elapsed().as_secs_f64());
            answer.expect("a query that runs");
        }
        let per_cell = best * 1e9 / (series as f64 * steps as f64);
        report(query, best, &format!("{per_cell:7.1} ns a series-step ({steps} steps)"));
    }
}

/// What [`Memory::read`] costs for the counters.
fn copying(memory: &Memory) {
    let mut samples = Samples::default();
    let began = Instant::now();
    for series in 0..1440 {
        memory.read(&series, &mut samples).expect("memory can be read");
    }
    report("copying 1,440 series", began.elapsed().as_secs_f64(), "");
}

#[expect(clippy::print_stdout, reason = "the output of a benchmark")]
fn report(what: &str, seconds: f64, more: &str) {
    println!("{:9.3} ms {more}  {what}", seconds * 1e3);
}
