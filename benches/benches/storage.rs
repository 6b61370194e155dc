//! The storage engine without HTTP: what ingest, upkeep and replay cost, in CPU, memory and bytes.
//!
//! `cargo bench -p icecore-benches --bench storage -- --series 100000 --scrapes 480`
//!
//! Makes the workload of [`icecore_benches::bodies`], decodes and appends each request with fsync
//! and upkeep as the server does, and prints samples per CPU second, resident memory per series,
//! bytes of the log and of settled data, and how much of the log restates labels. Then it writes
//! one more part that no checkpoint covers, abandons the database and times the replay.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use icecore_benches::bodies::{INTERVAL_MS, Plan, compress};
use icecore_benches::command_line::Arguments;
use icecore_benches::database::settle;
use icecore_benches::process;
use icecore_ingest::compression::Encoding;
use icecore_ingest::remote_write;
use icecore_storage::Db;
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::inspect;
use icecore_storage::limits::Limits;

/// Some time in 2026, on a two-hour boundary.
const END_MS: i64 = 1_790_000_000_000 / 7_200_000 * 7_200_000;

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let series = arguments.or("series", 100_000usize)?;
    let scrapes = arguments.or("scrapes", 480usize)?;
    let replay_scrapes = arguments.or("replay-scrapes", (20_000_000 / series).clamp(2, 200))?;
    let directory = arguments.or("dir", std::env::temp_dir().display().to_string())?;
    arguments.finish()?;
    let root = Path::new(&directory).join(format!("icecore-storage-bench-{}", std::process::id()));
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let outcome = measure(&root, series, scrapes, replay_scrapes);
    std::fs::remove_dir_all(&root)?;
    outcome
}

fn open(root: &Path, now_ms: i64) -> Result<Db> {
    let options = Options { seed: 1, ..Options::default() };
    Ok(Db::open(Arc::new(OsDisk::new(root.to_owned())), options, now_ms)?)
}

fn measure(root: &Path, series: usize, scrapes: usize, replay_scrapes: usize) -> Result<()> {
    let plan = Plan {
        seed: 1,
        series,
        scrapes,
        samples_per_request: 5_000,
        connections: 1,
        end_ms: END_MS,
    };
    let db = open(root, plan.start_ms())?;
    let cost = feed(&db, plan, true)?;
    let before_settling = process::memory(std::process::id())?;
    let stats = db.stats();
    println!("{series} series, {scrapes} scrapes of 15 s, {} samples", plan.samples());
    println!("  ingest and upkeep   {:>10.0} samples per CPU second", cost.rate(plan));
    println!(
        "  memory              {:>10.0} MB anonymous at the end, {:.0} MB peak: {:.0} B a series",
        before_settling.anonymous as f64 / 1e6,
        before_settling.peak as f64 / 1e6,
        before_settling.peak as f64 / series as f64,
    );
    println!(
        "  head                {:>10.0} B a series by its own count",
        stats.head_bytes as f64 / stats.head_series.max(1) as f64
    );
    println!(
        "  log                 {:>10.2} B a sample, {:.1} % of it restated labels",
        stats.wal_written_bytes as f64 / plan.samples() as f64,
        100.0 * stats.wal_restated_bytes as f64 / stats.wal_written_bytes.max(1) as f64
    );
    settle(&db, END_MS)?;
    let stats = db.stats();
    println!(
        "  settled             {:>10.3} B a sample in {} blocks of {} samples",
        stats.block_bytes as f64 / stats.block_samples.max(1) as f64,
        stats.blocks,
        stats.block_samples
    );
    sections(root, &db)?;
    replay(root, db, series, replay_scrapes)
}

/// Where the bytes of the blocks are: the codec's, which are the pages less the heads of chunks and
/// what else pages have, and everything else. Pages of merged blocks are compressed as a whole, so that
/// their parts have the share that they had before.
fn sections(root: &Path, db: &Db) -> Result<()> {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(root.to_owned()));
    let mut by_name: BTreeMap<&str, f64> = BTreeMap::new();
    let mut samples = 0;
    for meta in db.blocks().into_iter().filter(|meta| meta.tier_ms == 0) {
        let facts = inspect::block(&disk, &inspect::block_path(meta.id))?;
        samples += meta.samples;
        let chunks: u64 = facts.metrics.iter().map(|metric| metric.bytes).sum();
        let values = facts.chunks.float_value_bytes + facts.chunks.histogram_value_bytes;
        for section in facts.sections {
            let bytes = section.bytes as f64;
            if section.name == "pages" {
                let share = values as f64 / (chunks + 4 * meta.series) as f64;
                *by_name.entry("codec").or_default() += bytes * share;
                *by_name.entry("rest of pages").or_default() += bytes * (1.0 - share);
            } else {
                *by_name.entry(section.name).or_default() += bytes;
            }
        }
    }
    let else_bytes: f64 =
        by_name.iter().filter(|(name, _)| **name != "codec").map(|(_, bytes)| bytes).sum();
    println!(
        "  of raw blocks, B a sample, {:.4} without the codec's:",
        else_bytes / samples as f64
    );
    for (name, bytes) in by_name {
        println!("    {name:<18} {:>8.4}", bytes / samples as f64);
    }
    Ok(())
}

/// What feeding cost this thread.
struct Cost {
    cpu: Duration,
}

impl Cost {
    fn rate(&self, plan: Plan) -> f64 {
        plan.samples() as f64 / self.cpu.as_secs_f64()
    }
}

fn feed(db: &Db, plan: Plan, with_upkeep: bool) -> Result<Cost> {
    let limits = Limits::default();
    let mut batch = remote_write::batch();
    let mut stream = plan.stream(0);
    let mut request = Vec::new();
    let mut cpu = Duration::ZERO;
    let mut now_ms = plan.start_ms();
    let mut since_upkeep = 0;
    loop {
        let samples = stream.next_request(&mut request);
        if samples == 0 {
            return Ok(Cost { cpu });
        }
        let body = compress(&request);
        let started = thread_cpu()?;
        remote_write::decode(&body, Encoding::Snappy, &limits, &mut batch)?;
        now_ms = now_ms.max(batch.timestamps.last().copied().unwrap_or(now_ms));
        db.append(&batch, now_ms)?;
        since_upkeep += samples;
        if with_upkeep && since_upkeep >= plan.series {
            since_upkeep = 0;
            while db.maintain(now_ms)? != Progress::Idle {}
        }
        cpu += thread_cpu()? - started;
    }
}

fn replay(root: &Path, db: Db, series: usize, scrapes: usize) -> Result<()> {
    let end_ms = END_MS + 8 * 3_600_000 + scrapes as i64 * INTERVAL_MS;
    let plan =
        Plan { seed: 2, series, scrapes, samples_per_request: 5_000, connections: 1, end_ms };
    feed(&db, plan, false)?;
    let wal_bytes = db.stats().wal_bytes;
    drop(db);
    let wall = Instant::now();
    let started = thread_cpu()?;
    let db = open(root, end_ms)?;
    let cpu = thread_cpu()? - started;
    let report = db.recovery();
    anyhow::ensure!(report.replayed_samples == plan.samples() as u64, "{report:?}");
    println!(
        "  replay              {:>10.2} M samples per CPU second ({} samples, {:.0} MB, {:.2} s \
         CPU, {:.2} s, with the checkpoint that follows)",
        report.replayed_samples as f64 / 1e6 / cpu.as_secs_f64(),
        report.replayed_samples,
        wal_bytes as f64 / 1e6,
        cpu.as_secs_f64(),
        wall.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// CPU time of this thread, from the scheduler's own account.
fn thread_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
