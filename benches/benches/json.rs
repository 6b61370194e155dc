//! What it costs to write a result as the JSON of the HTTP API: a matrix of rows with one kind of
//! values each, and a vector.
//!
//! `cargo bench -p icecore-benches --bench json [-- --only TEXT] [--count yes]`
//!
//! Prints a line a kind: bytes and nanoseconds a point, the best of several runs; with `--count`,
//! instructions a point too. Labels and the brackets of a row are part of it.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::ffi::OsStr;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use icecore_benches::callgrind;
use icecore_benches::command_line::Arguments;
use icecore_query::value::{MatrixSeries, Point, Value, VectorSample};
use icecore_server::ResultRows;
use icecore_storage::labels::Labels;

/// As much as the server writes before it hands it on, and room for a little more.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_CAPACITY: usize = 80 << 10;
const START_MS: i64 = 1_790_000_000_781;
const SERIES: usize = 500;
const STEPS: usize = 61;
const RUNS: usize = 25;

/// Tells the program that callgrind watches, and what it shall write.
const COUNT_ONLY: &str = "ICECORE_JSON_COUNT_ONLY";

/// The value of a series at a step.
type ValueAt = fn(series: usize, step: usize) -> f64;

const KINDS: [(&str, ValueAt); 8] = [
    ("a constant", |series, _| (series % 2) as f64),
    ("small integers", |series, step| ((series * 7 + step * 13) % 100) as f64),
    ("counters", |series, step| (series * 1_000_003 + step * 4_711) as f64),
    ("bytes of memory", |series, step| (17_179_869_184 + (series * 64 + step) * 4_096) as f64),
    ("one or two decimals", |series, step| ((series * 17 + step * 31) % 10_000) as f64 / 100.0),
    ("rates, 16 or 17 digits", |series, step| (series * 10 + step * 7 + 1) as f64 / 299.87),
    ("ratios below 1e-5", |series, step| (series + step + 1) as f64 / 299_870_001.0),
    ("none", |_, _| f64::NAN),
];

fn main() -> Result<()> {
    if let Ok(only) = std::env::var(COUNT_ONLY) {
        return run_to_count(&only);
    }
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let only: String = arguments.or("only", String::new())?;
    let count = arguments.optional::<String>("count")?.is_some();
    arguments.finish()?;
    let instructions = if count { counted(&only)? } else { Vec::new() };
    for (index, (name, value, points)) in results(&only).enumerate() {
        let points = points as f64;
        let mut bytes = 0;
        let nanoseconds = (0..RUNS).map(|_| {
            let value = value.clone();
            let began = Instant::now();
            bytes = write_to_count(value);
            began.elapsed().as_secs_f64() * 1e9
        });
        let nanoseconds = nanoseconds.fold(f64::INFINITY, f64::min);
        let instructions = match instructions.get(index) {
            Some(count) => format!("{:8.1} instr.", count / points),
            None => String::new(),
        };
        println!(
            "{:8.1} B {:8.1} ns{instructions} a point  {name}",
            bytes as f64 / points,
            nanoseconds / points
        );
    }
    Ok(())
}

/// Names, results and how many points they have.
fn results(only: &str) -> impl Iterator<Item = (&'static str, Value, usize)> {
    let matrices = KINDS.iter().map(|(name, value)| (*name, matrix(*value), SERIES * STEPS));
    let vector = std::iter::once(("an instant vector", vector(), SERIES));
    matrices.chain(vector).filter(move |(name, ..)| name.contains(only))
}

fn matrix(value: ValueAt) -> Value {
    let row = |series| {
        let time = |step| START_MS + step as i64 * 60_000;
        let floats = (0..STEPS).map(|step| (time(step), value(series, step))).collect();
        MatrixSeries { labels: labels(series), floats, histograms: Vec::new() }
    };
    Value::Matrix((0..SERIES).map(row).collect())
}

fn vector() -> Value {
    let sample = |series| {
        let point = Point::Float(series as f64);
        VectorSample { labels: labels(series), timestamp: START_MS, point }
    };
    Value::Vector((0..SERIES).map(sample).collect())
}

fn labels(series: usize) -> Labels {
    let (instance, cpu) = (format!("gateway-{}:9100", series / 8), (series % 8).to_string());
    let pairs = [
        ("__name__", "node_cpu_seconds_total"),
        ("job", "node"),
        ("instance", &instance),
        ("cpu", &cpu),
        ("mode", "system"),
    ];
    Labels::from_pairs(pairs).expect("labels that are legal")
}

/// Callgrind counts inside this function only, and writes a file whenever it is left. Returns the
/// bytes of all chunks.
#[inline(never)]
fn write_to_count(value: Value) -> usize {
    let mut rows = ResultRows::new(value, None);
    let mut bytes = 0;
    let mut more = true;
    while more {
        let mut chunk = Vec::with_capacity(CHUNK_CAPACITY);
        while more && chunk.len() < CHUNK_BYTES {
            more = rows.push(&mut chunk);
        }
        bytes += black_box(chunk).len();
    }
    bytes
}

/// The half of the program that callgrind watches.
fn run_to_count(only: &str) -> Result<()> {
    for (_, value, _) in results(only) {
        black_box(write_to_count(value));
    }
    Ok(())
}

/// Instructions of each result, in their order.
fn counted(only: &str) -> Result<Vec<f64>> {
    let own = format!("icecore-json-bench-{}", std::process::id());
    let directory = std::env::temp_dir().join(own);
    std::fs::create_dir_all(&directory)?;
    let out = directory.join("json.callgrind");
    let counts =
        callgrind::count_calls("json::write_to_count", &out, &[(COUNT_ONLY, OsStr::new(only))]);
    std::fs::remove_dir_all(&directory)?;
    let counts = counts?;
    ensure!(counts.len() == results(only).count(), "callgrind counted {} calls", counts.len());
    Ok(counts)
}
