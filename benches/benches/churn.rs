//! The label index under churn: a day of pods that come and go, in a database.
//!
//! `cargo bench -p icecore-benches --bench churn [-- --series 20000] [--day-series 200000]
//! [--interval-minutes 30] [--dir DIRECTORY]`; full size is `--series 1000000 --day-series 10000000`.
//!
//! So many series are there at a time, and so many over the day, spread evenly; each has a sample
//! every so many minutes. Upkeep runs as in a server. Printed are what a new series and a sample
//! cost, memory a series in the head, bytes a series of the sealed indexes, and how long selecting
//! series and listing values takes, of the head and of blocks.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use icecore_benches::command_line::Arguments;
use icecore_benches::database;
use icecore_benches::fleet::{SERIES_A_POD, SERVICES, pod_series};
use icecore_benches::process::{self, thread_cpu};
use icecore_storage::Db;
use icecore_storage::cardinality::Question;
use icecore_storage::db::Progress;
use icecore_storage::labels::Labels;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::metrics::batch::Batch;
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{DAY_MS, TimeRange};

/// Some day in 2026.
const DAY: i64 = 1_790_000_000_000 / DAY_MS * DAY_MS;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// Pods of a request: some 5,000 series.
const PODS_A_REQUEST: usize = 48;

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut arguments = Arguments::read(arguments)?;
    let series = arguments.or("series", 20_000usize)?;
    let day_series = arguments.or("day-series", 200_000usize)?;
    let interval_minutes = arguments.or("interval-minutes", 30i64)?;
    let directory = arguments.or("dir", std::env::temp_dir().display().to_string())?;
    arguments.finish()?;
    let root = Path::new(&directory).join(format!("icecore-churn-{}", std::process::id()));
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let outcome = measure(&root, series, day_series, interval_minutes * MINUTE);
    std::fs::remove_dir_all(&root)?;
    outcome
}

fn measure(root: &Path, series: usize, day_series: usize, interval_ms: i64) -> Result<()> {
    let db = database::open(root, DAY)?;
    let mut fleet = Fleet::new(series, day_series);
    println!(
        "{} series at a time, {} over a day; a sample each every {} minutes",
        fleet.pods.len() * SERIES_A_POD,
        fleet.day_pods * SERIES_A_POD,
        interval_ms / MINUTE
    );
    let base = anonymous()?;
    let mut cost = Cost::default();
    cost.add(&mut cost_of(|| write(&db, &fleet, DAY))?, db.stats().series_created);
    println!("  registered          {:>10.0} new series per CPU second", cost.rate());
    let first = db.stats();
    println!(
        "  memory after that   {:>10.0} B a series, of which the labels given to it are no part",
        (anonymous()? - base) as f64 / first.head_series as f64
    );
    let (mut upkeep, mut peak) = (Duration::ZERO, 0);
    let mut most = 0;
    for now in (DAY + interval_ms..DAY + DAY_MS).step_by(interval_ms as usize) {
        fleet.advance((now - DAY) as f64 / DAY_MS as f64);
        let created = db.stats().series_created;
        let mut took = cost_of(|| write(&db, &fleet, now))?;
        cost.add(&mut took, db.stats().series_created - created);
        upkeep += cost_of(|| while_due(&db, now))?;
        peak = peak.max(anonymous()?);
        most = most.max(db.stats().head_series);
    }
    let stats = db.stats();
    println!(
        "  a day               {:>10} series, {} samples",
        stats.series_created, stats.samples_appended
    );
    println!(
        "  written             {:>10.0} samples per CPU second, new series among them",
        stats.samples_appended as f64 / cost.cpu.as_secs_f64()
    );
    println!("  upkeep              {:>10.1} CPU seconds", upkeep.as_secs_f64());
    println!(
        "  most in the head    {most:>10} series; {} MB anonymous memory above that of the labels",
        (peak - base) >> 20
    );
    let now = DAY + DAY_MS - interval_ms;
    let head = TimeRange::new(now - interval_ms + 1, now);
    sizes(&db)?;
    ask(&db, "the head", head, fleet.newest());
    ask(&db, "blocks of two hours", TimeRange::new(DAY, DAY + 18 * HOUR), fleet.newest());
    let settled = cost_of(|| database::settle(&db, DAY + DAY_MS))?;
    println!("\n  settled in          {:>10.1} CPU seconds", settled.as_secs_f64());
    sizes(&db)?;
    ask(&db, "the day", TimeRange::new(DAY, DAY + DAY_MS - 1), fleet.newest());
    Ok(())
}

/// Pods that are there, the oldest first.
struct Fleet {
    pods: std::collections::VecDeque<(usize, Vec<Labels>)>,
    next: usize,
    /// Over the whole day.
    day_pods: usize,
    at_a_time: usize,
}

impl Fleet {
    fn new(series: usize, day_series: usize) -> Fleet {
        let at_a_time = series.div_ceil(SERIES_A_POD);
        let day_pods = day_series.div_ceil(SERIES_A_POD).max(at_a_time);
        let mut fleet = Fleet { pods: Default::default(), next: 0, day_pods, at_a_time };
        fleet.advance(0.0);
        fleet
    }

    /// Pods come and go as this share of the day has passed.
    fn advance(&mut self, share: f64) {
        let until = self.at_a_time + ((self.day_pods - self.at_a_time) as f64 * share) as usize;
        while self.next < until {
            self.pods.push_back((self.next, pod_series(self.next % SERVICES, self.next)));
            self.next += 1;
            if self.pods.len() > self.at_a_time {
                self.pods.pop_front();
            }
        }
    }

    /// A series of the pod that came last.
    fn newest(&self) -> &Labels {
        &self.pods.back().expect("there are pods").1[50]
    }
}

fn write(db: &Db, fleet: &Fleet, now: i64) -> Result<()> {
    let pods: Vec<&Vec<Labels>> = fleet.pods.iter().map(|(_, series)| series).collect();
    for part in pods.chunks(PODS_A_REQUEST) {
        let rows = part.iter().flat_map(|series| series.iter());
        db.append(&Batch::of_samples(rows.map(|labels| (labels, now, 1.0))), now)?;
    }
    Ok(())
}

fn while_due(db: &Db, now: i64) -> Result<()> {
    while db.maintain(now)? != Progress::Idle {}
    Ok(())
}

/// What writes took in which series were new.
#[derive(Default)]
struct Cost {
    cpu: Duration,
    new: u64,
}

impl Cost {
    fn add(&mut self, cpu: &mut Duration, new: u64) {
        self.cpu += std::mem::take(cpu);
        self.new += new;
    }

    fn rate(&self) -> f64 {
        self.new as f64 / self.cpu.as_secs_f64()
    }
}

fn cost_of(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let before = thread_cpu().context("processor time of a thread")?;
    work()?;
    Ok(thread_cpu().context("processor time of a thread")? - before)
}

fn anonymous() -> Result<u64> {
    Ok(process::memory(std::process::id())?.anonymous)
}

/// Bytes of the indexes of blocks.
fn sizes(db: &Db) -> Result<()> {
    let (mut series, mut bytes) = (0, 0);
    for (_, sections) in db.canonical_sections()? {
        bytes += sections
            .iter()
            .filter(|one| one.starts_with(b"icelabel"))
            .map(|one| one.len())
            .sum::<usize>();
    }
    for block in db.blocks() {
        series += block.series;
        println!(
            "    block of {:>3} h, tier {:>5} s: {:>9} series, {:>6.1} B each",
            (block.window.end_ms - block.window.start_ms + 1) / HOUR,
            block.tier_ms / 1000,
            block.series,
            block.bytes as f64 / block.series as f64
        );
    }
    println!("  sealed indexes      {:>10.2} B a series", bytes as f64 / series as f64);
    Ok(())
}

fn ask(db: &Db, place: &str, range: TimeRange, newest: &Labels) {
    let regex = |name, pattern| Matcher::new(name, MatchOp::Regex, pattern).expect("compiles");
    let not = |name, op, value| Matcher::new(name, op, value).expect("compiles");
    let metric = || Matcher::equal("__name__", newest.metric_name());
    let pod = || Matcher::equal("pod", newest.get("pod").unwrap_or_default());
    let questions = [
        ("a pod", vec![pod()]),
        ("metric, namespace=", vec![metric(), Matcher::equal("namespace", "team-7")]),
        ("metric, pod=", vec![metric(), pod()]),
        (
            "metric, namespace=~ literals",
            vec![metric(), regex("namespace", "team-1|team-2|team-3")],
        ),
        ("pod=~ a prefix", vec![metric(), regex("pod", "svc-17-00.*")]),
        ("pod=~.*-zzz.*", vec![regex("pod", ".*-zzz.*")]),
        ("metric, pod=~.*-zz.*", vec![metric(), regex("pod", ".*-zz.*")]),
        (
            "metric, cluster!=, pod=~",
            vec![metric(), not("cluster", MatchOp::NotEqual, "eu-1"), regex("pod", ".*-zz.*")],
        ),
        (
            "metric, pod!~[^-]*-.*",
            vec![metric(), not("pod", MatchOp::NotRegex, "svc-[0-9]+-[^0].*")],
        ),
        ("metric, pod!=", vec![metric(), not("pod", MatchOp::NotEqual, "svc-1")]),
    ];
    let snapshot = db.snapshot();
    println!("\n  {place:30} {:>9} {:>12}", "found", "µs");
    for (name, matchers) in questions {
        let selector = [Selector { matchers: matchers.clone(), range, aligned_ms: 0 }];
        let select = || snapshot.select(&selector).expect("undamaged")[0].len();
        line(name, select(), least(|| _ = black_box(select())));
    }
    let of_metric = [vec![metric()]];
    for (name, label, any) in [
        ("values of namespace", "namespace", &[][..]),
        ("values of pod", "pod", &[]),
        ("values of namespace, a metric", "namespace", &of_metric),
        ("values of pod, a metric", "pod", &of_metric),
    ] {
        let values = || snapshot.label_values(label, any, range).expect("undamaged").len();
        line(name, values(), least(|| _ = black_box(values())));
    }
    let day_ms = if place == "the head" { None } else { Some(DAY) };
    let question = Question { limit: 10, day_ms, ..Question::default() };
    let count = || snapshot.cardinality(&question, &mut |_| true).expect("undamaged").series;
    line("status/tsdb", count() as usize, least(|| _ = black_box(count())));
}

fn line(name: &str, found: usize, micros: f64) {
    println!("    {name:28} {found:>9} {micros:>12.1}");
}

/// Microseconds, the least of some runs, fewer if they are long: other work on the machine only adds.
fn least(mut work: impl FnMut()) -> f64 {
    let mut least = Duration::MAX;
    let started = Instant::now();
    for _ in 0..25 {
        let before = Instant::now();
        work();
        least = least.min(before.elapsed());
        if started.elapsed() > Duration::from_secs(4) {
            break;
        }
    }
    least.as_secs_f64() * 1e6
}
