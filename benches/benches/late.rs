//! A flood of late data: half of all samples are late, at random over the last days.
//!
//! `cargo bench -p icecore-benches --bench late -- --series 1000000 --minutes 180`
//!
//! Fills days of history, settles them, and times queries. Then, minute by minute of a clock of its
//! own, every series gets a sample of now and as many late ones are spread over series and days at
//! random; upkeep has half of each minute, and a query is timed in between. Prints how much slower
//! queries are than before, what is written to disk for each byte that the log takes in, and how
//! many blocks there are. Nothing runs beside a query, so the ratio is about what it has to do.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use icecore_benches::command_line::Arguments;
use icecore_benches::process;
use icecore_query::engine::{Engine, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_storage::db::{Options, Progress, SyncMode};
use icecore_storage::disk::os::OsDisk;
use icecore_storage::labels::Labels;
use icecore_storage::memory::MemoryShares;
use icecore_storage::metrics::batch::Batch;
use icecore_storage::time::DAY_MS;
use icecore_storage::{Db, Error};

/// Some time in 2026, on a day's boundary.
const START_MS: i64 = 1_790_000_000_000 / DAY_MS * DAY_MS;
const MINUTE_MS: i64 = 60_000;
const SAMPLES_A_REQUEST: usize = 5_000;
const QUERIES_IDLE: usize = 200;

/// Panels: some series over a day, many over an hour, one over all days, and of now.
const QUERIES: [(&str, i64, i64); 4] = [
    ("sum by (instance) (rate(requests_total{instance=~\"host-1.\"}[5m]))", DAY_MS, 300_000),
    ("sum(rate(requests_total{code=\"3\"}[5m]))", DAY_MS / 24, 60_000),
    ("max_over_time(requests_total{instance=\"host-7\",code=\"1\"}[1h])", 7 * DAY_MS, 3_600_000),
    ("count(requests_total{instance=~\"host-[0-9]\"})", 0, 1),
];

struct Bench {
    db: Db,
    all: Vec<Labels>,
    days: i64,
    random: u64,
    refused: u64,
    rows: u64,
}

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let series = arguments.or("series", 20_000usize)?;
    let minutes = arguments.or("minutes", 180i64)?;
    let days = arguments.or("days", 7i64)?;
    let history_minutes = arguments.or("history-minutes", 10i64)?;
    let limit = arguments.or("memory-limit", 8u64 << 30)?;
    let directory = arguments.or("dir", std::env::temp_dir().display().to_string())?;
    arguments.finish()?;
    let root = Path::new(&directory).join(format!("icecore-late-bench-{}", std::process::id()));
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let outcome = Bench::open(&root, series, days, limit)
        .and_then(|mut bench| bench.run(minutes, history_minutes));
    std::fs::remove_dir_all(&root)?;
    outcome
}

impl Bench {
    fn open(root: &Path, series: usize, days: i64, limit: u64) -> Result<Bench> {
        let options = Options {
            seed: 1,
            sync: SyncMode::Interval(Duration::from_secs(60)),
            memory: MemoryShares::of(limit).into(),
            ..Options::default()
        };
        let first_ms = START_MS - days * DAY_MS;
        let db = Db::open(Arc::new(OsDisk::new(root.to_owned())), options, first_ms)?;
        let labels = |number: usize| {
            let (instance, code) = (format!("host-{}", number / 20), (number % 20).to_string());
            let pairs = [("__name__", "requests_total"), ("code", &code), ("instance", &instance)];
            Labels::from_pairs(pairs.into_iter().chain([("job", "api"), ("region", "eu-1")]))
        };
        let all = (0..series).map(labels).collect::<Result<_, _>>()?;
        Ok(Bench { db, all, days, random: 1, refused: 0, rows: 0 })
    }

    fn run(&mut self, minutes: i64, history_minutes: i64) -> Result<()> {
        let mut now_ms = START_MS - self.days * DAY_MS;
        while now_ms < START_MS {
            self.live(now_ms)?;
            self.upkeep(now_ms, Duration::MAX)?;
            now_ms += history_minutes * MINUTE_MS;
        }
        self.upkeep(START_MS, Duration::MAX)?;
        let stats = self.db.stats();
        println!(
            "{} series, {} days, {:.1} M samples: {} blocks, {:.2} B a sample",
            self.all.len(),
            self.days,
            stats.samples_appended as f64 / 1e6,
            stats.blocks,
            stats.block_bytes as f64 / stats.block_samples.max(1) as f64
        );
        let mut idle = Vec::new();
        for number in 0..QUERIES_IDLE {
            idle.push(self.ask(number, START_MS)?);
        }
        let before = (written_bytes()?, stats);
        self.rows = 0;
        let (mut beside, mut blocks, mut head) = (Vec::new(), 0, 0);
        for minute in 0..minutes {
            let now_ms = START_MS + minute * MINUTE_MS;
            self.live(now_ms)?;
            self.late(now_ms)?;
            // What came last is in the head, and merges are half done.
            beside.push(self.ask(minute as usize, now_ms)?);
            self.upkeep(now_ms, Duration::from_secs(30))?;
            beside.push(self.ask(minute as usize, now_ms)?);
            let stats = self.db.stats();
            blocks = blocks.max(stats.blocks);
            head = head.max(stats.head_bytes);
        }
        self.report(&mut idle, &mut beside, blocks, head, before)
    }

    fn report(
        &self,
        idle: &mut [(usize, f64)],
        beside: &mut [(usize, f64)],
        blocks: u64,
        head: u64,
        before: (u64, icecore_storage::db::Stats),
    ) -> Result<()> {
        for (number, (query, ..)) in QUERIES.iter().enumerate() {
            let of = |taken: &[(usize, f64)]| {
                let of_query = taken.iter().filter(|(of, _)| *of == number);
                let mut of_query: Vec<f64> = of_query.map(|(_, ms)| *ms).collect();
                of_query.sort_by(f64::total_cmp);
                let at = |share: f64| {
                    of_query[((of_query.len() as f64 * share) as usize).min(of_query.len() - 1)]
                };
                (at(0.5), at(0.99))
            };
            let ((idle_p50, idle_p99), (p50, p99)) = (of(idle), of(beside));
            println!(
                "  p50 {p50:>7.1} ms, p99 {p99:>7.1} ms; idle {idle_p50:>6.1}, {idle_p99:>6.1}: {:>5.2} x  {query}",
                p99 / idle_p99
            );
        }
        let (written_before, stats_before) = before;
        let stats = self.db.stats();
        let written = written_bytes()? - written_before;
        let logged = stats.wal_written_bytes - stats_before.wal_written_bytes;
        let memory = process::memory(std::process::id())?;
        println!(
            "  query p99           {:>8.2} x idle, all queries together",
            p99(beside) / p99(idle)
        );
        println!(
            "  write amplification {:>8.2}: {:.0} MB written, log included, {:.0} MB logged; {:.1} and {:.1} B a sample",
            written as f64 / logged as f64,
            written as f64 / 1e6,
            logged as f64 / 1e6,
            written as f64 / self.rows as f64,
            logged as f64 / self.rows as f64,
        );
        println!(
            "  blocks              {blocks:>8} at most, {} at the start; {} writes had to wait",
            stats_before.blocks, self.refused
        );
        println!(
            "  head                {:>8.0} MB at most by its own count; peak RSS {:.0} MB",
            head as f64 / 1e6,
            memory.peak as f64 / 1e6
        );
        Ok(())
    }

    /// A sample of every series.
    fn live(&mut self, now_ms: i64) -> Result<()> {
        for first in (0..self.all.len()).step_by(SAMPLES_A_REQUEST) {
            let last = self.all.len().min(first + SAMPLES_A_REQUEST);
            let value = |number: usize| (now_ms / 1000 % 86_400 * (number as i64 % 13)) as f64;
            let rows = (first..last).map(|number| (&self.all[number], now_ms, value(number)));
            let batch = Batch::of_samples(rows);
            self.send(&batch, now_ms)?;
        }
        Ok(())
    }

    /// As many late ones as there are series.
    fn late(&mut self, now_ms: i64) -> Result<()> {
        for _ in 0..self.all.len().div_ceil(SAMPLES_A_REQUEST) {
            let mut rows = Vec::with_capacity(SAMPLES_A_REQUEST);
            for _ in 0..SAMPLES_A_REQUEST.min(self.all.len()) {
                let number = self.next() as usize % self.all.len();
                let age_ms = self.next() as i64 % (self.days * DAY_MS);
                rows.push((number, now_ms - age_ms, (age_ms / 1000) as f64));
            }
            let rows =
                rows.iter().map(|(number, at_ms, value)| (&self.all[*number], *at_ms, *value));
            let batch = Batch::of_samples(rows);
            self.send(&batch, now_ms)?;
        }
        Ok(())
    }

    fn send(&mut self, batch: &Batch, now_ms: i64) -> Result<()> {
        loop {
            match self.db.append(batch, now_ms) {
                Ok(appended) if appended.deferred.is_empty() => {
                    self.rows += appended.samples;
                    return Ok(());
                }
                Ok(_) | Err(Error::Unavailable { .. }) => {
                    self.refused += 1;
                    self.upkeep(now_ms, Duration::from_secs(1))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Positive, and different each time.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 33
    }

    fn upkeep(&self, now_ms: i64, longest: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < longest && self.db.maintain(now_ms)? != Progress::Idle {}
        Ok(())
    }

    /// The query's number and what it took, in ms.
    fn ask(&self, number: usize, now_ms: i64) -> Result<(usize, f64)> {
        let number = number % QUERIES.len();
        let (query, length_ms, step_ms) = QUERIES[number];
        let engine = Engine::default();
        let expr = parser::parse(query, ParserOptions::default())?;
        let (options, source) = (QueryOptions::default(), self.db.snapshot());
        let started = Instant::now();
        engine.range(&source, query, &expr, now_ms - length_ms, now_ms, step_ms, &options)?;
        Ok((number, started.elapsed().as_secs_f64() * 1e3))
    }
}

fn p99(taken: &mut [(usize, f64)]) -> f64 {
    taken.sort_by(|a, b| a.1.total_cmp(&b.1));
    taken[(taken.len() as f64 * 0.99) as usize].1
}

/// Bytes that this process has handed to the system to write.
fn written_bytes() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io").context("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).context("no wchar")?;
    Ok(line.trim().parse()?)
}
