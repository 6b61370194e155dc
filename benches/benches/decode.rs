//! What it costs to decode remote write: snappy, walk and hash, at one sample for each series.
//!
//! Prints nanoseconds, and instructions as callgrind counts them: the program runs itself under
//! valgrind with two numbers of repeats, and the difference of the two is what the repeats cost.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use icecore_benches::bodies::{Plan, compress};
use icecore_ingest::{Encoding, remote_write};
use icecore_storage::limits::Limits;
use icecore_storage::metrics::batch::Batch;

const PLAN: Plan = Plan {
    seed: 1,
    series: 20_000,
    scrapes: 2,
    samples_per_request: 5_000,
    connections: 1,
    end_ms: 1_800_000_000_000,
};

/// Environment variable by which the program tells itself to repeat and say nothing.
const REPEATS: &str = "ICECORE_DECODE_REPEATS";

fn main() -> Result<()> {
    let work = Work::prepare();
    if let Ok(repeats) = std::env::var(REPEATS) {
        work.all(repeats.parse()?);
        return Ok(());
    }
    let samples = PLAN.samples() as f64;
    println!("{samples} samples in {} requests", work.snappy.len());
    println!(
        "  {:.1} B a sample, {:.1} B in snappy",
        work.raw_bytes / samples,
        work.snappy_bytes() / samples
    );
    println!(
        "  snappy + walk + hash   {:7.1} ns a sample",
        work.best_ns(&work.snappy, Encoding::Snappy)
    );
    println!(
        "  zstd + walk + hash     {:7.1} ns a sample",
        work.best_ns(&work.zstd, Encoding::Zstd)
    );
    println!(
        "  copy + walk + hash     {:7.1} ns a sample",
        work.best_ns(&work.raw, Encoding::Identity)
    );
    println!("  labels of a new series {:7.1} ns", work.labels_ns());
    match instructions_a_sample() {
        Ok(instructions) => {
            println!("  snappy + walk + hash   {instructions:7.1} instructions a sample")
        }
        Err(error) => println!("  instructions were not counted: {error:#}"),
    }
    Ok(())
}

struct Work {
    raw: Vec<Vec<u8>>,
    snappy: Vec<Vec<u8>>,
    zstd: Vec<Vec<u8>>,
    raw_bytes: f64,
}

impl Work {
    fn prepare() -> Work {
        let mut stream = PLAN.stream(0);
        let mut raw = Vec::new();
        let mut request = Vec::new();
        while stream.next_request(&mut request) > 0 {
            raw.push(request.clone());
        }
        Work {
            snappy: raw.iter().map(|request| compress(request)).collect(),
            zstd: raw
                .iter()
                .map(|request| zstd::bulk::compress(request, 1).expect("memory is enough"))
                .collect(),
            raw_bytes: raw.iter().map(Vec::len).sum::<usize>() as f64,
            raw,
        }
    }

    fn snappy_bytes(&self) -> f64 {
        self.snappy.iter().map(Vec::len).sum::<usize>() as f64
    }

    fn all(&self, repeats: usize) {
        let mut batch = remote_write::batch();
        for _ in 0..repeats {
            decode(&self.snappy, Encoding::Snappy, &mut batch);
        }
    }

    /// The best of many rounds over all bodies.
    fn best_ns(&self, bodies: &[Vec<u8>], encoding: Encoding) -> f64 {
        let mut batch = remote_write::batch();
        let rounds = (0..60).map(|_| {
            let start = Instant::now();
            decode(bodies, encoding, &mut batch);
            start.elapsed().as_secs_f64()
        });
        rounds.fold(f64::INFINITY, f64::min) * 1e9 / PLAN.samples() as f64
    }

    fn labels_ns(&self) -> f64 {
        let limits = Limits::default();
        let mut batch = remote_write::batch();
        decode(&self.snappy[..1], Encoding::Snappy, &mut batch);
        let rounds = (0..20).map(|_| {
            let start = Instant::now();
            for series in &batch.series {
                black_box((batch.key_form)(batch.key(series), &limits).expect("labels are good"));
            }
            start.elapsed().as_secs_f64()
        });
        rounds.fold(f64::INFINITY, f64::min) * 1e9 / batch.series.len() as f64
    }
}

fn decode(bodies: &[Vec<u8>], encoding: Encoding, batch: &mut Batch) {
    for body in bodies {
        remote_write::decode(body, encoding, &Limits::default(), batch).expect("bodies are good");
        black_box(&*batch);
    }
}

fn instructions_a_sample() -> Result<f64> {
    let (few, many) = (1, 4);
    let difference = instructions(many)? - instructions(few)?;
    Ok(difference / ((many - few) * PLAN.samples()) as f64)
}

fn instructions(repeats: usize) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .env(REPEATS, repeats.to_string())
        .output()
        .context("running valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split("Collected :").nth(1));
    Ok(collected.context("callgrind says nothing")?.trim().parse()?)
}
