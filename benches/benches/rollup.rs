//! Long ranges from rollups and from raw samples, in one run.
//!
//! `cargo bench -p icecore-benches --bench rollup -- --series 10000 --days 90 --interval 60`
//!
//! Makes a database of counters and gauges with imported days, rolls it up, and asks both ways, rollups
//! allowed and not, for steps of an hour over all of it: CPU seconds of this process, and how many
//! times less rollups take. Answers are compared. Cost grows evenly with series, so that the share
//! does not depend on how many there are.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use icecore_benches::command_line::Arguments;
use icecore_benches::process;
use icecore_query::engine::{Answer, Engine, EngineOptions, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::value::Value;
use icecore_storage::Db;
use icecore_storage::db::{Options, Progress, SyncMode};
use icecore_storage::disk::os::OsDisk;
use icecore_storage::import::Import;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::retention::policy::{Policies, Policy, Tier};
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange};

const HOUR_MS: i64 = 60 * MINUTE_MS;

/// A midnight in 2026.
const END_MS: i64 = 20_700 * DAY_MS;

/// Series of one target, which are scraped at one time.
const SERIES_OF_TARGET: usize = 50;

#[derive(Clone, Copy, Debug)]
struct Plan {
    series: usize,
    days: i64,
    interval_ms: i64,
}

impl Plan {
    fn start_ms(self) -> i64 {
        END_MS - self.days * DAY_MS
    }

    fn labels(self) -> Result<Vec<Labels>> {
        let labels = |number: usize| {
            let name = if number.is_multiple_of(2) { "requests_total" } else { "temperature" };
            Labels::from_pairs([
                ("__name__", name.to_owned()),
                ("instance", format!("host-{:04}:9100", number / SERIES_OF_TARGET)),
                ("job", "node".to_owned()),
                ("number", number.to_string()),
            ])
        };
        Ok((0..self.series).map(labels).collect::<Result<_, _>>()?)
    }

    /// A day of a series.
    fn fill(self, number: usize, window: TimeRange, into: &mut Samples) {
        let offset_ms = (number / SERIES_OF_TARGET) as i64 * 977 % self.interval_ms;
        let mut state = (number as u64) << 32 ^ window.start_ms as u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 40
        };
        let first = (window.start_ms - self.start_ms()) / self.interval_ms;
        let mut total = (first as u64 * 12) as f64;
        let mut level = 20.0 + (number % 30) as f64;
        for step in 0..DAY_MS / self.interval_ms {
            let timestamp = window.start_ms + step * self.interval_ms + offset_ms;
            let value = match number.is_multiple_of(2) {
                true => {
                    total += (random() % 25) as f64;
                    total
                }
                false => {
                    level += (random() % 21) as f64 / 10.0 - 1.0;
                    (level * 10.0).round() / 10.0
                }
            };
            into.push(timestamp, value);
        }
    }
}

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let plan = Plan {
        series: arguments.or("series", 100usize)?,
        days: arguments.or("days", 90i64)?,
        interval_ms: arguments.or("interval", 60i64)? * 1000,
    };
    let directory = arguments.or("dir", std::env::temp_dir().display().to_string())?;
    arguments.finish()?;
    let root = Path::new(&directory).join(format!("icecore-rollup-bench-{}", std::process::id()));
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let outcome = measure(&root, plan);
    std::fs::remove_dir_all(&root)?;
    outcome
}

fn measure(root: &Path, plan: Plan) -> Result<()> {
    let db = load(root, plan)?;
    let bytes = |tier_ms: i64| -> (u64, u64) {
        let blocks = db.blocks().into_iter().filter(|meta| meta.tier_ms == tier_ms as u64);
        blocks.fold((0, 0), |(bytes, rows), meta| (bytes + meta.bytes, rows + meta.samples))
    };
    println!(
        "{} series, {} days, a sample every {} s",
        plan.series,
        plan.days,
        plan.interval_ms / 1000
    );
    for (name, tier_ms) in [("raw", 0), ("5m", 5 * MINUTE_MS), ("1h", HOUR_MS)] {
        let (bytes, rows) = bytes(tier_ms);
        println!(
            "  {name:<4} {:>9.1} MB, {rows} rows, {:.3} B each",
            bytes as f64 / 1e6,
            bytes as f64 / rows.max(1) as f64
        );
    }
    println!("  {:<42} {:>10} {:>10} {:>7}", "", "raw, s", "rollups, s", "times");
    for query in [
        "sum(rate(requests_total[1h]))",
        "rate(requests_total[1h])",
        "max(max_over_time(temperature[1h]))",
        "avg(avg_over_time(temperature[1h]))",
        "sum(increase(requests_total[1d]))",
    ] {
        let (raw_s, raw) = ask(&db, plan, query, Some(0))?;
        let (rollups_s, rollups) = ask(&db, plan, query, None)?;
        anyhow::ensure!(are_near(&raw, &rollups), "{query} has two answers");
        println!("  {query:<42} {raw_s:>10.3} {rollups_s:>10.4} {:>7.0}", raw_s / rollups_s);
    }
    Ok(())
}

/// Days as an import brings them, rolled up.
fn load(root: &Path, plan: Plan) -> Result<Db> {
    let tier = |resolution_ms: i64| Tier {
        resolution_ms: resolution_ms.unsigned_abs(),
        lifetime_ms: (plan.days + 10) * DAY_MS,
    };
    let tiers = [0, 5 * MINUTE_MS, HOUR_MS].map(tier).to_vec();
    let policies = Policies::new(vec![Policy { matchers: Vec::new(), tiers }]);
    let sync = SyncMode::Interval(std::time::Duration::from_secs(60));
    let options = Options { seed: 1, sync, policies, ..Options::default() };
    let now_ms = END_MS + 6 * HOUR_MS;
    let db = Db::open(Arc::new(OsDisk::new(root.to_owned())), options, now_ms)?;
    let series = plan.labels()?;
    for day in 0..plan.days {
        let start_ms = plan.start_ms() + day * DAY_MS;
        let window = TimeRange::new(start_ms, start_ms + DAY_MS - 1);
        let import = Import {
            source: "bench",
            window,
            series: series.clone(),
            exemplars: Vec::new(),
            metadata: Vec::new(),
            verify: false,
        };
        db.import(import, now_ms, &mut |place, into| {
            plan.fill(place, window, into);
            Ok(())
        })?;
        while db.maintain(now_ms)? != Progress::Idle {}
    }
    Ok(db)
}

/// CPU seconds, the least of some runs, and the answer.
fn ask(db: &Db, plan: Plan, query: &str, resolution_max_ms: Option<i64>) -> Result<(f64, Answer)> {
    let options = EngineOptions::default();
    let timeout = std::time::Duration::from_secs(3600);
    let engine = Engine::new(EngineOptions { max_samples: usize::MAX, timeout, ..options });
    let parsed = parser::parse(query, ParserOptions::default())?;
    let options = QueryOptions { resolution_max_ms, ..QueryOptions::default() };
    let snapshot = db.snapshot();
    let run = || {
        let (start_ms, end_ms) = (plan.start_ms() + DAY_MS, END_MS);
        engine.range(&snapshot, query, &parsed, start_ms, end_ms, HOUR_MS, &options)
    };
    let answer = run()?;
    let mut least = f64::INFINITY;
    for _ in 0..2 {
        // The clock of CPU time has steps of 10 ms: as many runs as take some of them.
        let (before, mut runs) = (process::cpu_seconds(std::process::id())?, 0);
        let mut seconds = 0.0;
        while seconds < 0.3 {
            run()?;
            runs += 1;
            seconds = process::cpu_seconds(std::process::id())? - before;
        }
        least = least.min(seconds / f64::from(runs));
    }
    Ok((least, answer))
}

fn are_near(a: &Answer, b: &Answer) -> bool {
    let (Value::Matrix(a), Value::Matrix(b)) = (&a.value, &b.value) else { return false };
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.floats.len() == b.floats.len()
                && a.floats.iter().zip(&b.floats).all(|(a, b)| a.0 == b.0 && near(a.1, b.1))
        })
}
