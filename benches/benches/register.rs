//! What a new series costs: a request of series that nobody has seen, from its bytes to the answer.
//!
//! `cargo bench -p icecore-benches --bench register [-- --series 20000] [--count yes] [--keep DIRECTORY]`
//!
//! Decoding, looking up, checking labels, index, record, log and head, without HTTP and without
//! waiting for a disk. The same requests come again with later timestamps, so that what a sample of
//! a known series costs stands beside it. With `--count`, instructions: the program runs itself
//! under callgrind; with `--keep` callgrind's files stay, the first for new series, the second for
//! known ones.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use icecore_benches::bodies::Plan;
use icecore_benches::callgrind;
use icecore_benches::command_line::Arguments;
use icecore_benches::database::open;
use icecore_benches::process::cpu_seconds;
use icecore_ingest::compression::Encoding;
use icecore_ingest::remote_write;
use icecore_storage::Db;
use icecore_storage::limits::Limits;
use icecore_storage::metrics::batch::Batch;

/// Some time in 2026, fifty minutes into a two-hour window.
const END_MS: i64 = 1_790_000_000_000 / 7_200_000 * 7_200_000 + 3_000_000;

/// Environment variable by which the program tells itself to be counted, with how many series.
const COUNT_SERIES: &str = "ICECORE_REGISTER_COUNT_SERIES";

fn main() -> Result<()> {
    let root = std::env::temp_dir().join(format!("icecore-register-{}", std::process::id()));
    let counted = std::env::var(COUNT_SERIES).ok().map(|series| series.parse());
    if let Some(series) = counted {
        let outcome = rounds(&root, series?, register_to_count);
        std::fs::remove_dir_all(&root)?;
        return outcome.map(|_| ());
    }
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let series = arguments.or("series", 20_000usize)?;
    let counts = arguments.optional::<String>("count")?.is_some();
    let keep = arguments.optional::<String>("keep")?;
    arguments.finish()?;
    let outcome = rounds(&root, series, |db, requests, batch| {
        let (cpu, clock) = (cpu_seconds(std::process::id())?, Instant::now());
        register(db, requests, batch)?;
        Ok((cpu_seconds(std::process::id())? - cpu, clock.elapsed().as_secs_f64()))
    });
    std::fs::remove_dir_all(&root)?;
    for (name, (cpu, wall)) in ["new series", "known series"].into_iter().zip(outcome?) {
        let micros = |seconds: f64| seconds * 1e6 / series as f64;
        println!("{name:12} {:>7.3} µs CPU each, {:.3} µs wall", micros(cpu), micros(wall));
    }
    if counts {
        count(series, keep.as_deref())?;
    }
    Ok(())
}

fn count(series: usize, keep: Option<&str>) -> Result<()> {
    let folder = keep.map_or_else(
        || std::env::temp_dir().join(format!("icecore-register-count-{}", std::process::id())),
        |folder| Path::new(folder).to_owned(),
    );
    std::fs::create_dir_all(&folder)?;
    let number = series.to_string();
    let variables = [(COUNT_SERIES, OsStr::new(&number))];
    let out = folder.join("register.out");
    let counts = callgrind::count_calls("register::register_to_count", &out, &variables)?;
    if keep.is_none() {
        std::fs::remove_dir_all(&folder)?;
    }
    ensure!(counts.len() >= 2, "two rounds are counted, not {}", counts.len());
    for (name, count) in ["new series", "known series"].into_iter().zip(counts) {
        println!("{name:12} {:>7.0} instructions each", count / series as f64);
    }
    Ok(())
}

/// Two rounds of the same series: `round` has a database, requests and a batch to use again.
fn rounds<T>(
    root: &Path,
    series: usize,
    mut round: impl FnMut(&Db, &[Vec<u8>], &mut Batch) -> Result<T>,
) -> Result<Vec<T>> {
    std::fs::create_dir_all(root).with_context(|| root.display().to_string())?;
    let db = open(root, END_MS)?;
    let mut batch = remote_write::batch();
    let plan = Plan {
        seed: 1,
        series,
        scrapes: 2,
        samples_per_request: series.clamp(1, 5_000),
        connections: 1,
        end_ms: END_MS,
    };
    let mut stream = plan.stream(0);
    let mut next_round = || {
        let mut requests = Vec::new();
        let mut samples = 0;
        while samples < series {
            let mut request = Vec::new();
            samples += stream.next_request(&mut request);
            requests.push(request);
        }
        requests
    };
    ensure!(series.is_multiple_of(plan.samples_per_request), "whole requests of 5,000 series");
    (0..2).map(|_| round(&db, &next_round(), &mut batch)).collect()
}

/// [`register`] by a name of its own.
#[inline(never)]
fn register_to_count(db: &Db, requests: &[Vec<u8>], batch: &mut Batch) -> Result<()> {
    register(db, requests, batch)
}

fn register(db: &Db, requests: &[Vec<u8>], batch: &mut Batch) -> Result<()> {
    for request in requests {
        remote_write::decode(request, Encoding::Identity, &Limits::default(), batch)?;
        let appended = db.append(batch, END_MS)?;
        ensure!(appended.refused.is_empty(), "nothing is refused");
    }
    Ok(())
}
