//! What queries cost from series to result, without HTTP: the same samples once in the head and
//! once in blocks.
//!
//! `cargo bench -p icecore-benches --bench promql [-- --only TEXT] [--rounds 5] [--count yes]
//! [--keep DIRECTORY]`
//!
//! Prints a line a query and place: CPU milliseconds of a round, all threads together, and
//! nanoseconds for each series at each step. With `--count`, instructions too:
//! the program runs itself under callgrind, on one thread, over the databases that it has written.
//! With `--keep` these and callgrind's files, one a query, stay for a closer look.
//! The series are those of [`icecore_benches::bodies`]: 20,000 of four hours, and 1,000 of a day.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::ffi::OsStr;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use icecore_benches::bodies::Plan;
use icecore_benches::callgrind;
use icecore_benches::command_line::Arguments;
use icecore_benches::database::{feed, open, settle};
use icecore_query::engine::{Answer, Engine, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_storage::Snapshot;

/// Some time in 2026, fifty minutes into a two-hour window.
const END_MS: i64 = 1_790_000_000_000 / 7_200_000 * 7_200_000 + 3_000_000;
const HOUR: i64 = 3_600_000;
/// What a query is measured for at least.
const CPU_SECONDS_MIN: f64 = 0.25;

/// Environment variables by which the program tells itself what to count.
const COUNT_IN: &str = "ICECORE_PROMQL_COUNT_IN";
const COUNT_ONLY: &str = "ICECORE_PROMQL_COUNT_ONLY";

/// Samples, and where they are.
#[derive(Clone, Copy, Debug)]
struct Place {
    name: &'static str,
    plan: Plan,
    sealed: bool,
}

const FOUR_HOURS: Plan = Plan {
    seed: 1,
    series: 20_000,
    scrapes: 960,
    samples_per_request: 5_000,
    connections: 1,
    end_ms: END_MS,
};
const DAY: Plan = Plan { series: 1_000, scrapes: 5_760, ..FOUR_HOURS };

const PLACES: [Place; 3] = [
    Place { name: "head", plan: FOUR_HOURS, sealed: false },
    Place { name: "blocks", plan: FOUR_HOURS, sealed: true },
    Place { name: "day", plan: DAY, sealed: true },
];

/// A query that covers `range_ms` up to the last sample; instant if that is 0.
struct Query {
    text: &'static str,
    range_ms: i64,
    step_ms: i64,
}

const fn range(text: &'static str, range_ms: i64, step_seconds: i64) -> Query {
    Query { text, range_ms, step_ms: step_seconds * 1_000 }
}

const fn instant(text: &'static str) -> Query {
    Query { text, range_ms: 0, step_ms: 0 }
}

/// The first seven are the design's.
const QUERIES: [Query; 25] = [
    instant(r#"device_temperature_celsius{instance="gateway-3:9100"}"#),
    range("sum by (job) (rate(http_requests_total[5m]))", HOUR, 15),
    range("sum by (job) (rate(http_requests_total[5m]))", 13_680_000, 60),
    range(
        "histogram_quantile(0.99, sum by (le, job) (rate(http_request_duration_seconds_bucket[5m])))",
        HOUR,
        60,
    ),
    range("quantile_over_time(0.95, queue_depth[10m])", HOUR, 60),
    range(r#"sum by (__name__) ({__name__=~".+"})"#, HOUR, 60),
    range(
        "node_memory_MemAvailable_bytes / on (job, instance) node_memory_MemTotal_bytes",
        HOUR,
        60,
    ),
    range("queue_depth", HOUR, 15),
    range("rate(http_requests_total[5m])", HOUR, 15),
    range("sum(rate(http_requests_total[1m]))", HOUR, 15),
    range("avg by (job) (queue_depth)", HOUR, 15),
    range("max by (job) (max_over_time(queue_depth[10m]))", HOUR, 15),
    range("sum by (job) (avg_over_time(process_resident_memory_bytes[1h]))", HOUR, 60),
    range("topk(5, rate(http_requests_total[5m]))", HOUR, 60),
    range("quantile by (job) (0.9, queue_depth)", HOUR, 60),
    range("max_over_time(sum by (job) (rate(http_requests_total[5m]))[30m:1m])", HOUR, 60),
    range("avg_over_time(rate(http_requests_total[5m])[30m:1m])", HOUR, 60),
    range(
        r#"rate({__name__=~"http_request_duration_seconds_bucket|node_cpu_seconds_total"}[5m])"#,
        HOUR,
        60,
    ),
    range("sum by (job) (irate(node_cpu_seconds_total{mode!=\"idle\"}[5m]))", HOUR, 60),
    instant("sum by (job) (increase(http_requests_total[1h]))"),
    instant("count by (__name__) ({__name__=~\".+\"})"),
    range("sum by (job) (rate(http_requests_total[5m]))", 24 * HOUR, 15),
    range("sum by (job) (increase(http_requests_total[1h]))", 24 * HOUR, 900),
    instant("sum by (job) (increase(http_requests_total[1d]))"),
    instant("max by (job) (max_over_time(queue_depth[1d]))"),
];

fn main() -> Result<()> {
    if let Ok(directory) = std::env::var(COUNT_IN) {
        return run_to_count(Path::new(&directory));
    }
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let only: String = arguments.or("only", String::new())?;
    let rounds = arguments.or("rounds", 5usize)?;
    let count = arguments.optional::<String>("count")?.is_some();
    let kept: Option<PathBuf> = arguments.optional("keep")?;
    arguments.finish()?;
    let own = format!("icecore-promql-bench-{}", std::process::id());
    let root = kept.clone().unwrap_or_else(|| std::env::temp_dir().join(own));
    let outcome = measure(&root, &only, rounds, count);
    if kept.is_none() {
        std::fs::remove_dir_all(&root)?;
    }
    outcome
}

fn measure(root: &Path, only: &str, rounds: usize, count: bool) -> Result<()> {
    for place in PLACES {
        let wanted = |query: &Query| place.has(query) && query.text.contains(only);
        if !QUERIES.iter().any(wanted) {
            continue;
        }
        let directory = root.join(place.name);
        std::fs::create_dir_all(&directory)?;
        let db = open(&directory, place.plan.start_ms())?;
        feed(&db, place.plan)?;
        if place.sealed {
            settle(&db, END_MS)?;
        }
        let snapshot = db.snapshot();
        let mut lines = Vec::new();
        for query in QUERIES.iter().filter(|query| wanted(query)) {
            lines.push(Line::measure(query, &snapshot, rounds)?);
        }
        drop(snapshot);
        db.close(END_MS)?;
        drop(db);
        let instructions = if count { counted(&directory, only)? } else { Vec::new() };
        for (index, line) in lines.iter().enumerate() {
            line.print(place.name, instructions.get(index).copied());
        }
    }
    Ok(())
}

impl Place {
    /// A query is asked where its samples are.
    fn has(&self, query: &Query) -> bool {
        (query.range_ms >= 24 * HOUR || query.text.contains("[1d]"))
            == (self.plan.scrapes == DAY.scrapes)
    }
}

/// What a query took.
struct Line {
    query: &'static Query,
    /// Of all threads, a round.
    cpu_seconds: f64,
    /// Selected series times steps.
    cells: f64,
}

impl Line {
    fn measure(query: &'static Query, snapshot: &Snapshot, rounds_min: usize) -> Result<Line> {
        let series = ask(query, snapshot)?.stats.series_fetched;
        let before = cpu_of_threads()?;
        let (mut rounds, mut cpu_seconds) = (0, 0.0);
        // The account is kept in ticks of milliseconds: many rounds for a quick query.
        while rounds < rounds_min || cpu_seconds < CPU_SECONDS_MIN {
            ask(query, snapshot)?;
            rounds += 1;
            cpu_seconds = cpu_of_threads()? - before;
        }
        let cpu_seconds = cpu_seconds / rounds as f64;
        let steps = if query.step_ms == 0 { 1 } else { query.range_ms / query.step_ms + 1 };
        Ok(Line { query, cpu_seconds, cells: series as f64 * steps as f64 })
    }

    fn print(&self, place: &str, instructions: Option<f64>) {
        let Query { text, range_ms, step_ms } = self.query;
        let instructions = match instructions {
            Some(count) => format!("{:9.2} M {:8.1} instr.", count / 1e6, count / self.cells),
            None => String::new(),
        };
        println!(
            "{place:<7}{:9.3} ms {:8.1} ns{instructions}  {text} {:.1} h / {} s",
            self.cpu_seconds * 1e3,
            self.cpu_seconds * 1e9 / self.cells,
            *range_ms as f64 / HOUR as f64,
            step_ms / 1_000,
        );
    }
}

/// CPU time of all threads, from the scheduler's own account.
fn cpu_of_threads() -> Result<f64> {
    let mut nanoseconds = 0u64;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_ascii_whitespace().next().context("schedstat is empty")?;
        nanoseconds += first.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

fn ask(query: &Query, snapshot: &Snapshot) -> Result<Answer> {
    let expr = parser::parse(query.text, ParserOptions::default())
        .map_err(|error| anyhow::anyhow!("{}: {error:?}", query.text))?;
    let (engine, options) = (Engine::default(), QueryOptions::default());
    let answer = match query.step_ms {
        0 => engine.instant(snapshot, query.text, &expr, END_MS, &options),
        step_ms => {
            let start_ms = END_MS - query.range_ms;
            engine.range(snapshot, query.text, &expr, start_ms, END_MS, step_ms, &options)
        }
    };
    let answer = answer.with_context(|| query.text)?;
    ensure!(answer.stats.series_fetched > 0, "{} finds nothing", query.text);
    Ok(answer)
}

/// Callgrind counts inside this function only, and writes a file whenever it is left.
#[inline(never)]
fn query_to_count(query: &Query, snapshot: &Snapshot) -> Result<()> {
    black_box(ask(query, snapshot)?);
    Ok(())
}

/// The half of the program that callgrind watches.
fn run_to_count(directory: &Path) -> Result<()> {
    let only = std::env::var(COUNT_ONLY)?;
    let place = PLACES.into_iter().find(|place| directory.ends_with(place.name));
    let place = place.context("a directory is named after its place")?;
    let db = open(directory, END_MS)?;
    let snapshot = db.snapshot();
    for query in QUERIES.iter().filter(|query| place.has(query) && query.text.contains(&only)) {
        // Pages are checked once, and memory is had once.
        ask(query, &snapshot)?;
        query_to_count(query, &snapshot)?;
    }
    Ok(())
}

/// Instructions of each query, in their order.
fn counted(directory: &Path, only: &str) -> Result<Vec<f64>> {
    let out = directory.with_extension("callgrind");
    let variables = [
        (COUNT_IN, directory.as_os_str()),
        (COUNT_ONLY, OsStr::new(only)),
        // What other threads do would not be counted.
        ("RAYON_NUM_THREADS", OsStr::new("1")),
    ];
    callgrind::count_calls("promql::query_to_count", &out, &variables)
}
