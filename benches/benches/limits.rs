//! What bounds and shares the work of queries, measured:
//!
//! - a dashboard that is refreshed, with the result cache and without;
//! - the time from a cancellation to the end of a heavy query;
//! - a small query alone and beside heavy ones.
//!
//! `cargo bench -p icecore-benches --bench limits`

#![expect(clippy::print_stdout, reason = "a benchmark reports to whoever runs it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use icecore_benches::process::cpu_seconds;
use icecore_query::cache::ResultCache;
use icecore_query::engine::{Engine, EngineOptions, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_storage::Db;
use icecore_storage::db::Options;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::Batch;

const START_MS: i64 = 1_700_000_000_000;
const SCRAPE_MS: i64 = 15_000;

/// Six hours of 2,000 series.
const SCRAPES: i64 = 1440;
const TARGETS: usize = 100;
const SERIES_A_TARGET: usize = 20;

/// Panels of a dashboard, six hours at a minute each.
const PANELS: [&str; 6] = [
    "sum by (code) (rate(requests_total[5m]))",
    "topk(5, sum by (instance) (rate(requests_total[5m])))",
    "avg by (job) (requests_total)",
    "max_over_time(sum(rate(requests_total[1m]))[10m:1m])",
    "sum(rate(requests_total{code=\"7\"}[5m])) / sum(rate(requests_total[5m]))",
    "rate(requests_total{instance=\"host-7\"}[5m])",
];

/// Minutes of work, of many kinds.
const HEAVY: [&str; 8] = [
    "quantile_over_time(0.9, requests_total[6h])",
    "sum(stddev_over_time(requests_total[6h]))",
    "mad_over_time(requests_total[6h])",
    "topk(5, avg_over_time(requests_total[6h]))",
    "max_over_time(stddev_over_time(vector(time())[6h:1s])[5d:10s])",
    "count_values(\"v\", requests_total * 1.1)",
    "label_replace(sum without () (requests_total), \"a\", \"$1\", \"instance\", \"(.*)\") * on (instance, code, a) group_left requests_total",
    "sum(avg_over_time(requests_total[6h])) + sum(avg_over_time(requests_total[5h]))",
];

fn main() -> Result<()> {
    let db = Db::open(Arc::new(SimDisk::new(1)), Options::default(), START_MS)?;
    let all = series()?;
    for scrape in 0..SCRAPES {
        write(&db, &all, scrape)?;
    }
    refreshes(&db, &all)?;
    cancellations(&db)?;
    fairness(&db)
}

fn series() -> Result<Vec<Labels>> {
    let mut all = Vec::new();
    for target in 0..TARGETS {
        for code in 0..SERIES_A_TARGET {
            let (instance, code) = (format!("host-{target}"), code.to_string());
            let pairs = [("__name__", "requests_total"), ("instance", &instance), ("code", &code)];
            all.push(Labels::from_pairs(pairs.into_iter().chain([("job", "api")]))?);
        }
    }
    Ok(all)
}

fn write(db: &Db, all: &[Labels], scrape: i64) -> Result<()> {
    let at = START_MS + scrape * SCRAPE_MS;
    let value = |number: usize| (scrape * (number as i64 % 13 + 1)) as f64 * 0.7;
    let rows = all.iter().enumerate().map(|(number, labels)| {
        let target = (number / SERIES_A_TARGET) as i64;
        (labels, at + target * 97 % SCRAPE_MS, value(number))
    });
    db.append(&Batch::of_samples(rows), at + SCRAPE_MS)?;
    Ok(())
}

/// Range queries as Grafana asks them: a minute's step, ends on whole minutes.
fn ask(engine: &Engine, cache: &ResultCache, db: &Db, query: &str, end_ms: i64) -> Result<()> {
    let expr = parser::parse(query, ParserOptions::default())?;
    let end_ms = end_ms / 60_000 * 60_000;
    let start_ms = end_ms - 6 * 3_600_000;
    let (options, source) = (QueryOptions::default(), db.snapshot());
    cache.range(engine, &source, query, &expr, start_ms, end_ms, 60_000, &options)?;
    Ok(())
}

fn refreshes(db: &Db, all: &[Labels]) -> Result<()> {
    const REFRESHES: i64 = 20;
    println!("a dashboard of {} panels over {} series, 6 h at 1 m", PANELS.len(), all.len());
    for (name, every) in [("every 15 s", 1), ("every minute", 4)] {
        let engine = Engine::default();
        let caches = [ResultCache::new(0), ResultCache::new(256 << 20)];
        let mut cpu = [Duration::ZERO; 2];
        let first = SCRAPES + REFRESHES * if every == 1 { 0 } else { 1 };
        for refresh in 0..REFRESHES {
            for scrape in 0..every {
                write(db, all, first + refresh * every + scrape)?;
            }
            let end_ms = START_MS + (first + (refresh + 1) * every) * SCRAPE_MS;
            for (cache, cpu) in caches.iter().zip(&mut cpu) {
                let before = process_cpu()?;
                for panel in PANELS {
                    ask(&engine, cache, db, panel, end_ms)?;
                }
                // The first fills the cache.
                if refresh > 0 {
                    *cpu += process_cpu()? - before;
                }
            }
        }
        let [without, with] = cpu.map(|cpu| cpu.as_secs_f64() * 1e3 / (REFRESHES - 1) as f64);
        println!(
            "  {name:<14} {without:>8.1} ms CPU without the cache, {with:>6.1} ms with it: {:.1} x less",
            without / with
        );
    }
    Ok(())
}

/// User and system time of the process, to 10 ms.
fn process_cpu() -> Result<Duration> {
    Ok(Duration::from_secs_f64(cpu_seconds(std::process::id())?))
}

fn cancellations(db: &Db) -> Result<()> {
    println!("from a cancellation to the end of a query, the longest of 20: CPU time, wall time");
    let engine = Engine::new(EngineOptions { max_bytes: 8 << 30, ..EngineOptions::default() });
    for query in HEAVY {
        let mut longest = [Duration::ZERO; 2];
        let mut ended = 0;
        for after_ms in (5..).step_by(37).take(20) {
            let cancelled = Arc::new(AtomicBool::new(false));
            let options =
                QueryOptions { cancelled: Arc::clone(&cancelled), ..QueryOptions::default() };
            let took = std::thread::scope(|scope| -> Result<Option<[Duration; 2]>> {
                let running = scope.spawn(|| heavy(&engine, db, query, &options));
                std::thread::sleep(Duration::from_millis(after_ms));
                cancelled.store(true, Ordering::Relaxed);
                let (asked, before) = (Instant::now(), process_cpu()?);
                while !running.is_finished() {
                    std::thread::sleep(Duration::from_micros(200));
                }
                let took = [process_cpu()?.saturating_sub(before), asked.elapsed()];
                let was_cancelled = running.join().ok().context("the query panicked")?;
                Ok(was_cancelled.then_some(took))
            })?;
            match took {
                Some(took) => longest = std::array::from_fn(|i| longest[i].max(took[i])),
                None => ended += 1,
            }
        }
        let [cpu, wall] = longest.map(|longest| longest.as_secs_f64() * 1e3);
        println!("  {cpu:>6.1} ms {wall:>6.1} ms  ({ended} had ended before)  {query}");
    }
    Ok(())
}

/// Whether the query was cancelled.
fn heavy(engine: &Engine, db: &Db, query: &str, options: &QueryOptions) -> bool {
    let expr = parser::parse(query, ParserOptions::ALL).expect("a query that parses");
    let (end_ms, step_ms) = (START_MS + SCRAPES * SCRAPE_MS, 4_000);
    let (start_ms, source) = (end_ms - 6 * 3_600_000, db.snapshot());
    engine.range(&source, query, &expr, start_ms, end_ms, step_ms, options).is_err()
}

fn fairness(db: &Db) -> Result<()> {
    println!("a query of 20 series and one of 2,000, 50 times, beside heavy ones");
    let engine = Engine::default();
    let none = ResultCache::new(0);
    let end_ms = START_MS + SCRAPES * SCRAPE_MS;
    for beside in [0, 1, 2, 4] {
        let cancelled = Arc::new(AtomicBool::new(false));
        let options = QueryOptions { cancelled: Arc::clone(&cancelled), ..QueryOptions::default() };
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..beside {
                scope.spawn(|| heavy(&engine, db, HEAVY[0], &options));
            }
            std::thread::sleep(Duration::from_millis(100));
            let mut shown = Vec::new();
            for panel in [PANELS[5], PANELS[0]] {
                let mut took: Vec<f64> = Vec::new();
                for _ in 0..50 {
                    let asked = Instant::now();
                    ask(&engine, &none, db, panel, end_ms)?;
                    took.push(asked.elapsed().as_secs_f64() * 1e3);
                }
                took.sort_by(f64::total_cmp);
                shown.push(format!("median {:>6.1} ms, worst {:>6.1} ms", took[25], took[49]));
            }
            cancelled.store(true, Ordering::Relaxed);
            println!("  {beside} heavy: {}", shown.join("; "));
            Ok(())
        })?;
    }
    Ok(())
}
