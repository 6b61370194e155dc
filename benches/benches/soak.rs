//! Three months of a database in some minutes: does it stay as it is?
//!
//! `cargo bench -p icecore-benches --bench soak [-- --full yes] [--days 9] [--series 2000]
//! [--every 3] [--dir DIRECTORY]`
//!
//! Twenty targets are scraped every 15 s, by a clock that runs as fast as the database takes it. A
//! quarter of the series belong to pods, which live for six hours. Every hour a target is cut off
//! and sends what it has an hour later; every day an hour of a target and all of a day of pods are
//! deleted. Policies are the default ones: raw samples for 30 days, rollups for longer. Prints a
//! line every so many days, and in the end how steep each column is over the time in which as many
//! raw samples go as come. `--full` is 90 days, 1.04 billion samples; it ends with a failure if
//! memory, files or queries grow.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icecore_benches::command_line::Arguments;
use icecore_benches::{database, process};
use icecore_query::engine::{Engine, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_storage::Db;
use icecore_storage::db::Progress;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::Matcher;
use icecore_storage::metrics::batch::Batch;
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange};

/// Some midnight in 2026.
const START_MS: i64 = 20_600 * DAY_MS;
const STEP_MS: i64 = 15_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const POD_LIFE_MS: i64 = 6 * HOUR_MS;
const TARGETS: usize = 20;
/// Raw samples go after so many days, by the default policies.
const RAW_DAYS: i64 = 30;
/// Steeper than this, per cent of the mean a day, is no longer steady.
const SLOPE_MAX: f64 = 0.5;

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let is_full = arguments.optional::<String>("full")?.is_some();
    let days = arguments.or("days", if is_full { 90 } else { 9 })?;
    let every = arguments.or("every", if is_full { 5 } else { 3 })?;
    let series = arguments.or("series", 2_000usize)?;
    let directory = arguments.or("dir", std::env::temp_dir().display().to_string())?;
    arguments.finish()?;
    let root = Path::new(&directory).join(format!("icecore-soak-{}", std::process::id()));
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let outcome = run(&root, days, every, series);
    std::fs::remove_dir_all(&root)?;
    outcome
}

fn run(root: &Path, days: i64, every: i64, series: usize) -> Result<()> {
    let mut soak = Soak::begin(root, series)?;
    println!("{series} series every 15 s for {days} days");
    println!("{}", Line::HEADER);
    let mut lines = Vec::new();
    for day in 0..days {
        soak.day(day)?;
        if (day + 1) % every == 0 {
            let line = soak.line(day + 1)?;
            println!("{line}");
            lines.push(line);
        }
    }
    let samples = soak.db.stats().samples_appended;
    println!("{samples} samples; {:.0} CPU s", process::cpu_seconds(std::process::id())?);
    soak.db.verify()?;
    println!("every byte of every block is what was written");
    steadiness(&lines)
}

/// A database, its load and what they cost.
struct Soak<'a> {
    root: &'a Path,
    db: Db,
    targets: Vec<Target>,
    ingest: Duration,
    upkeep: Duration,
    /// Of these and of the samples, at the last line.
    told: (Duration, Duration, u64),
}

/// Series that are scraped together.
struct Target {
    /// After the quarter of a minute, in ms.
    offset_ms: i64,
    /// Those that stay, and those of the pods of the present.
    batch: Batch,
    pods: i64,
    /// Scrapes of the hour in which it was cut off.
    waiting: Vec<Batch>,
}

impl<'a> Soak<'a> {
    fn begin(root: &'a Path, series: usize) -> Result<Soak<'a>> {
        let db = database::open(root, START_MS)?;
        let target = |number: usize| Target {
            offset_ms: (number * 7_919) as i64 % STEP_MS,
            batch: batch(number, series / TARGETS, 0),
            pods: 0,
            waiting: Vec::new(),
        };
        let targets = (0..TARGETS).map(target).collect();
        let (ingest, upkeep, told) = Default::default();
        Ok(Soak { root, db, targets, ingest, upkeep, told })
    }

    fn day(&mut self, day: i64) -> Result<()> {
        for scrape in 0..DAY_MS / STEP_MS {
            let now_ms = START_MS + day * DAY_MS + scrape * STEP_MS;
            let before = thread_cpu()?;
            for number in 0..TARGETS {
                self.scrape(number, now_ms)?;
            }
            let between = thread_cpu()?;
            self.ingest += between - before;
            if now_ms % MINUTE_MS == 0 {
                while self.db.maintain(now_ms + STEP_MS)? != Progress::Idle {}
                self.upkeep += thread_cpu()? - between;
            }
        }
        self.delete(day)
    }

    /// A target's samples, or those that it has kept.
    fn scrape(&mut self, number: usize, now_ms: i64) -> Result<()> {
        let target = &mut self.targets[number];
        target.fill(number, now_ms);
        let hour = now_ms.div_euclid(HOUR_MS);
        if hour.rem_euclid(TARGETS as i64) == number as i64 {
            target.waiting.push(target.batch.clone());
            return Ok(());
        }
        let appended = self.db.append(&target.batch, now_ms + STEP_MS)?;
        ensure!(appended.refused.rows == 0, "{:?}", appended.refused);
        // An hour after it was back.
        if (hour - 2).rem_euclid(TARGETS as i64) == number as i64 {
            for batch in self.targets[number].waiting.drain(..) {
                self.db.append(&batch, now_ms + STEP_MS)?;
            }
        }
        Ok(())
    }

    fn delete(&mut self, day: i64) -> Result<()> {
        let now_ms = START_MS + (day + 1) * DAY_MS;
        let ago = |days: i64, length_ms: i64| {
            TimeRange::new(now_ms - days * DAY_MS, now_ms - days * DAY_MS + length_ms)
        };
        let target = format!("target-{}", day % TARGETS as i64);
        self.db.delete(&[vec![Matcher::equal("instance", target)]], ago(3, HOUR_MS), now_ms)?;
        let pod = format!("pod_{}", day % 7);
        self.db.delete(&[vec![Matcher::equal("__name__", pod)]], ago(2, DAY_MS), now_ms)?;
        Ok(())
    }

    fn line(&mut self, day: i64) -> Result<Line> {
        let stats = self.db.stats();
        let (ingest, upkeep, samples) = self.told;
        self.told = (self.ingest, self.upkeep, stats.samples_appended);
        let (ingest, upkeep) = (self.ingest - ingest, self.upkeep - upkeep);
        let cpu = (ingest + upkeep).as_secs_f64();
        let blocks = self.db.blocks();
        let raw = blocks.iter().filter(|block| block.tier_ms == 0);
        let (bytes, raw_samples) =
            raw.fold((0, 0), |(bytes, all), block| (bytes + block.bytes, all + block.samples));
        let end_ms = START_MS + day * DAY_MS;
        let memory = process::memory(std::process::id())?;
        Ok(Line {
            day,
            anonymous_mb: memory.anonymous as f64 / 1e6,
            files: files_below(self.root) as f64,
            disk_mb: process::disk_bytes(self.root) as f64 / 1e6,
            bytes_a_sample: bytes as f64 / raw_samples.max(1) as f64,
            instant_us: self.query("sum by (instance) (gauge_3)", end_ms, 0)?,
            range_us: self.query("sum by (instance) (rate(counter_1[5m]))", end_ms, HOUR_MS)?,
            month_us: self.query("sum(rate(counter_1[1h]))", end_ms, 20 * DAY_MS)?,
            upkeep_share: upkeep.as_secs_f64() / cpu,
            millions_a_second: (stats.samples_appended - samples) as f64 / 1e6 / cpu,
        })
    }

    /// CPU time in µs; the account is kept in ticks of milliseconds, so of many rounds.
    fn query(&self, text: &str, end_ms: i64, range_ms: i64) -> Result<f64> {
        let expr = parser::parse(text, ParserOptions::default())
            .map_err(|error| anyhow::anyhow!("{text}: {error:?}"))?;
        let (engine, options) = (Engine::default(), QueryOptions::default());
        let snapshot = self.db.snapshot();
        let step_ms = (range_ms / 240).max(1);
        let before = cpu_of_threads()?;
        let (mut rounds, mut cpu_seconds) = (0, 0.0);
        while cpu_seconds < 0.1 {
            let answer = match range_ms {
                0 => engine.instant(&snapshot, text, &expr, end_ms, &options),
                _ => engine.range(
                    &snapshot,
                    text,
                    &expr,
                    end_ms - range_ms,
                    end_ms,
                    step_ms,
                    &options,
                ),
            };
            ensure!(answer.context("query")?.stats.series_fetched > 0, "{text} finds nothing");
            rounds += 1;
            cpu_seconds = cpu_of_threads()? - before;
        }
        Ok(cpu_seconds * 1e6 / f64::from(rounds))
    }
}

impl Target {
    /// The values of a scrape, and other pods now and then.
    fn fill(&mut self, number: usize, now_ms: i64) {
        let pods = (now_ms - START_MS) / POD_LIFE_MS;
        if pods != self.pods {
            self.batch = batch(number, self.batch.series.len(), pods);
            self.pods = pods;
        }
        let timestamp = now_ms + self.offset_ms;
        self.batch.timestamps.fill(timestamp);
        let scrape = (now_ms - START_MS) / STEP_MS;
        for (series, value) in self.batch.values.iter_mut().enumerate() {
            let noise = random(scrape as u64 ^ ((number * 1_000 + series) as u64) << 40);
            *value = match series % 4 {
                0 => (scrape * (series as i64 + 1) + (noise % 3) as i64) as f64,
                1 => (noise % 1_000) as f64 / 10.0,
                2 => 1_048_576.0 * (4_096 + noise % 64) as f64,
                _ => 1.0,
            };
        }
    }
}

/// The series of a target: counters, gauges, and a quarter of pods.
fn batch(target: usize, series: usize, pods: i64) -> Batch {
    let instance = format!("target-{target}");
    let mut batch = Batch::with_canonical_keys();
    for number in 0..series {
        let name = match number % 4 {
            0 => format!("counter_{}", number / 4),
            3 => format!("pod_{}", number % 7),
            _ => format!("gauge_{}", number / 4 * 2 + number % 4 - 1),
        };
        let mut pairs = vec![("__name__", name), ("instance", instance.clone())];
        pairs.push(("job", "soak".to_owned()));
        if number % 4 == 3 {
            pairs.push(("pod", format!("pod-{number}-{pods}")));
        }
        batch.push_series(&Labels::from_pairs(pairs).expect("they are labels"));
        batch.timestamps.push(0);
        batch.values.push(0.0);
    }
    batch
}

/// SplitMix64.
fn random(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What there is on a day, and what the days before it cost.
struct Line {
    day: i64,
    anonymous_mb: f64,
    files: f64,
    disk_mb: f64,
    bytes_a_sample: f64,
    instant_us: f64,
    range_us: f64,
    month_us: f64,
    upkeep_share: f64,
    millions_a_second: f64,
}

impl Line {
    const HEADER: &'static str = "  day  anon MB  files  disk MB  B/sample  instant µs  1 h µs  \
        20 d µs  upkeep  M samples/CPU s";

    /// What has to stay as it is.
    fn steady(&self) -> [(&'static str, f64); 5] {
        [
            ("anonymous memory", self.anonymous_mb),
            ("files", self.files),
            ("instant query", self.instant_us),
            ("range query of an hour", self.range_us),
            ("range query of 20 days", self.month_us),
        ]
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>5} {:>8.1} {:>6.0} {:>8.1} {:>9.3} {:>11.0} {:>7.0} {:>8.0} {:>6.1}% {:>10.2}",
            self.day,
            self.anonymous_mb,
            self.files,
            self.disk_mb,
            self.bytes_a_sample,
            self.instant_us,
            self.range_us,
            self.month_us,
            100.0 * self.upkeep_share,
            self.millions_a_second,
        )
    }
}

/// Slopes by least squares once raw samples go; too steep a one is a failure.
fn steadiness(lines: &[Line]) -> Result<()> {
    let settled: Vec<&Line> = lines.iter().filter(|line| line.day > RAW_DAYS + 4).collect();
    if settled.len() < 4 {
        println!("too short to say whether it is steady");
        return Ok(());
    }
    let mut steep = Vec::new();
    for column in 0..settled[0].steady().len() {
        let name = settled[0].steady()[column].0;
        let points: Vec<(f64, f64)> =
            settled.iter().map(|line| (line.day as f64, line.steady()[column].1)).collect();
        let percent = slope_percent(&points);
        println!("{name}: {percent:+.2} % of its mean a day from day {}", settled[0].day);
        if percent > SLOPE_MAX {
            steep.push(name);
        }
    }
    ensure!(steep.is_empty(), "not steady: {}", steep.join(", "));
    Ok(())
}

fn slope_percent(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    100.0 * covariance / variance / mean_y
}

fn files_below(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    let count = entries.flatten().map(|entry| match entry.path().is_dir() {
        true => files_below(&entry.path()),
        false => 1,
    });
    count.sum()
}

/// CPU time of this thread, from the scheduler's own account.
fn thread_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// CPU seconds of all threads.
fn cpu_of_threads() -> Result<f64> {
    let mut nanoseconds = 0u64;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_ascii_whitespace().next().context("schedstat is empty")?;
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}
