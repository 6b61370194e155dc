//! `icecore import`: the history of another database becomes blocks of this one.
//!
//! A [`Source`] says which windows of time it has and hands out their series one by one; [`run`]
//! gives each window to storage, which writes one block of it and notes in its journal that the
//! window is done. So an import may be killed at any point: when it is run again, it skips what is
//! done. What a source cannot give is an error that names file and offset; what storage may not
//! take is counted as refused, with the reason.

mod jsonl;
mod policies;
mod progress;
mod prometheus;
mod summary;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::{Args, Subcommand};
use icecore_storage::db::Options;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::import::{Import, rollups};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::{Exemplar, Metadata};
use icecore_storage::metrics::sample::Samples;
use icecore_storage::time::{TimeRange, WINDOW_MS};
use icecore_storage::{Db, Error};

use crate::import::progress::Progress;
use crate::import::summary::Summary;
use crate::{cli, clock, duration};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// A data directory of Prometheus, which must not be running: blocks, head and log.
    Prometheus(PrometheusArgs),
    /// Lines of JSON as VictoriaMetrics exports them (`/api/v1/export`).
    Jsonl(JsonlArgs),
}

#[derive(Debug, Args)]
struct PrometheusArgs {
    /// The directory that Prometheus has as `--storage.tsdb.path`.
    dir: PathBuf,

    /// Goes on without the blocks that are damaged, and with what a damaged log still gives.
    #[arg(long = "skip-damaged")]
    skip_damaged: bool,

    #[command(flatten)]
    into: IntoArgs,
}

#[derive(Debug, Args)]
struct JsonlArgs {
    /// The file; `-` reads standard input.
    file: PathBuf,

    #[command(flatten)]
    into: IntoArgs,
}

/// Where to, and how.
#[derive(Debug, Args)]
struct IntoArgs {
    /// The data directory, which no server may be using; created where missing.
    #[arg(long = "storage.path", value_name = "PATH", default_value = "./icecore-data")]
    storage_path: PathBuf,

    /// The configuration that the server has: how long samples are kept, older ones are not imported.
    /// Without it, and without `--storage.retention`, that is what the database was last told.
    #[arg(long = "config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// In place of a configuration: how long samples are kept, all alike and without rollups.
    #[arg(long = "storage.retention", value_name = "DURATION", value_parser = cli::parse_retention)]
    retention_ms: Option<i64>,

    /// What is older than raw samples are kept is rolled up to this tier of the configuration, `5m` or
    /// `1h`, and to the coarser ones, as far back as they live. Without it, it is not imported.
    #[arg(long = "tier", value_name = "RESOLUTION", value_parser = cli::parse_resolution)]
    tier_ms: Option<i64>,

    /// Reads back every block that was written and compares it with what was read.
    #[arg(long = "verify", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    verify: bool,
}

/// What a window has besides its samples.
#[derive(Debug, Default)]
struct Content {
    /// Each once.
    series: Vec<Labels>,
    /// Each with the place of its series.
    exemplars: Vec<(u32, Exemplar)>,
    metadata: Vec<Metadata>,
}

/// Where an import gets its samples.
trait Source {
    /// The windows with a part of what is `accepted`, ascending and apart, each whole windows of the
    /// two-hour grid. What lies in none of them is refused. Days of rollups are these a millisecond
    /// later, and the one before the first.
    fn windows(
        &mut self,
        accepted: TimeRange,
        summary: &mut Summary,
    ) -> Result<Vec<TimeRange>, Error>;

    /// Differs wherever the content of a window may differ: what the journal knows it by.
    fn name_of(&self, window: TimeRange) -> String;

    /// Turns to a window. What can be told to be refusable is not in the content.
    fn begin(&mut self, window: TimeRange, summary: &mut Summary) -> Result<Content, Error>;

    /// The samples of a series of the present window, all inside of it.
    fn read(
        &mut self,
        place: usize,
        into: &mut Samples,
        summary: &mut Summary,
    ) -> Result<(), Error>;

    /// An error has come up in the present window. Whether it may be begun again without what was
    /// at fault.
    fn forgive(&mut self, error: &Error, summary: &mut Summary) -> bool;
}

/// Imports what was asked for and says on stdout what became of it.
pub fn run(args: ImportArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut summary = Summary::default();
    let outcome = match &args.from {
        From::Prometheus(from) => import_prometheus(from, &mut summary),
        From::Jsonl(from) => import_jsonl(from, &mut summary),
    };
    summary.elapsed = started.elapsed();
    let text = summary.to_string();
    let mut out = std::io::stdout().lock();
    // That nobody reads it is no reason to fail.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    outcome?;
    match summary.damaged.len() {
        0 => Ok(()),
        count => anyhow::bail!("{count} damaged parts were left out"),
    }
}

fn import_prometheus(from: &PrometheusArgs, summary: &mut Summary) -> anyhow::Result<()> {
    let dir = from.dir.display();
    let metadata = std::fs::metadata(&from.dir).with_context(|| format!("cannot open {dir}"))?;
    anyhow::ensure!(metadata.is_dir(), "{dir} is no directory");
    let db = open(&from.into)?;
    let mut source = prometheus::PrometheusSource::open(&from.dir, from.skip_damaged, summary)?;
    import(&db, &mut source, &from.into, summary)
}

fn import_jsonl(from: &JsonlArgs, summary: &mut Summary) -> anyhow::Result<()> {
    let db = open(&from.into)?;
    let mut source = jsonl::JsonlSource::open(&from.file, &from.into.storage_path, summary)?;
    import(&db, &mut source, &from.into, summary)
}

fn open(into: &IntoArgs) -> anyhow::Result<Db> {
    let path = into.storage_path.display();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(into.storage_path.clone()));
    disk.create_dir_all(Path::new("")).with_context(|| format!("cannot create {path}"))?;
    let policies = policies::of(into.config_file.as_deref(), into.retention_ms, disk.as_ref())?;
    let options = Options { policies, seed: cli::random_seed(), ..Options::default() };
    Db::open(disk, options, clock::now_ms()).map_err(|error| match error {
        Error::Locked { .. } => anyhow::anyhow!(
            "--storage.path={path} is in use by another process: stop the server, import, and \
             start it again"
        ),
        error => anyhow::anyhow!("cannot open the database in --storage.path={path}: {error}"),
    })
}

fn import(
    db: &Db,
    source: &mut dyn Source,
    into: &IntoArgs,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let parts = parts(db, source, into, summary)?;
    let mut progress = Progress::start(parts.len());
    for part in parts {
        progress.window(part.window, summary.skipped);
        if part.is_done(db, source) {
            summary.skipped += 1;
            continue;
        }
        import_window(db, source, part, into.verify, summary, &mut progress)
            .with_context(|| format!("the import stopped at {}", progress::name_of(part.window)))?;
    }
    progress.finish();
    db.close(clock::now_ms()).context("cannot close the database")
}

/// A window that is imported at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    window: TimeRange,
    /// The finest tier that it is rolled up to; `None` for raw samples.
    tier_ms: Option<i64>,
}

impl Part {
    fn name(self, source: &dyn Source) -> String {
        let name = source.name_of(self.window);
        self.tier_ms.map_or(name.clone(), |tier_ms| format!("{name} from {tier_ms}"))
    }

    fn is_done(self, db: &Db, source: &dyn Source) -> bool {
        match self.tier_ms {
            None => db.has_imported(&self.name(source), self.window, clock::now_ms()),
            Some(_) => db.has_imported_rollups(&self.name(source), self.window),
        }
    }
}

/// What there is to import: the days that raw samples are not kept of any more first, if rollups of
/// them are wanted.
fn parts(
    db: &Db,
    source: &mut dyn Source,
    into: &IntoArgs,
    summary: &mut Summary,
) -> anyhow::Result<Vec<Part>> {
    let now_ms = clock::now_ms();
    let raw = db.accepted_times(now_ms);
    let lifetime = |oldest_ms: i64| duration::format_ms(now_ms.saturating_sub(oldest_ms));
    summary.kept = format!("raw samples are kept, {}", lifetime(raw.start_ms));
    let Some(tier_ms) = into.tier_ms else {
        let windows = source.windows(raw, summary)?;
        return Ok(windows.into_iter().map(|window| Part { window, tier_ms: None }).collect());
    };
    let kept = db.kept_rollups(tier_ms, now_ms);
    let kept = kept.with_context(|| {
        format!("--tier={}: no policy has such a tier", duration::format_ms(tier_ms))
    })?;
    // The day in which raw samples begin to be kept has no rollup: it is made of them.
    let raw_day_ms = raw.start_ms.div_euclid(DAY_MS).saturating_mul(DAY_MS);
    let all = TimeRange::new(kept.start_ms.min(raw.start_ms), raw.end_ms);
    summary.kept = format!("rollups are kept, {}", lifetime(all.start_ms));
    let (old, new): (Vec<TimeRange>, Vec<TimeRange>) =
        source.windows(all, summary)?.into_iter().partition(|window| window.end_ms < raw_day_ms);
    let days: BTreeSet<(i64, i64)> = old
        .into_iter()
        .flat_map(rollups::days_of)
        .map(|day| (day.start_ms, day.end_ms))
        .filter(|(_, end_ms)| *end_ms >= all.start_ms)
        .collect();
    let days = days.into_iter().map(|(start_ms, end_ms)| Part {
        window: TimeRange::new(start_ms, end_ms),
        tier_ms: Some(tier_ms),
    });
    let new = new.into_iter().map(|window| Part { window, tier_ms: None });
    Ok(days.chain(new).collect())
}

fn import_window(
    db: &Db,
    source: &mut dyn Source,
    part: Part,
    verify: bool,
    summary: &mut Summary,
    progress: &mut Progress,
) -> Result<(), Error> {
    loop {
        // What a try counts is forgotten if it fails.
        let mut counted = summary.of_a_window();
        match try_window(db, source, part, verify, &mut counted, progress) {
            Ok(()) => {
                summary.absorb(counted);
                return Ok(());
            }
            Err(error) if source.forgive(&error, summary) => {}
            Err(error) => return Err(error),
        }
    }
}

fn try_window(
    db: &Db,
    source: &mut dyn Source,
    part: Part,
    verify: bool,
    summary: &mut Summary,
    progress: &mut Progress,
) -> Result<(), Error> {
    let content = source.begin(part.window, summary)?;
    let name = part.name(source);
    let identities: Vec<u128> = content.series.iter().map(Labels::identity).collect();
    let import = Import {
        source: &name,
        window: part.window,
        series: content.series,
        exemplars: content.exemplars,
        metadata: content.metadata,
        verify,
    };
    let mut present = Vec::new();
    let mut read = |place: usize, samples: &mut Samples| {
        source.read(place, samples, summary)?;
        progress.read(samples.len());
        present.extend((!samples.is_empty()).then_some(identities[place]));
        Ok(())
    };
    let imported = match part.tier_ms {
        None => db.import(import, clock::now_ms(), &mut read)?,
        Some(tier_ms) => db.import_rollups(import, tier_ms, clock::now_ms(), &mut read)?,
    };
    summary.add(&imported, present);
    Ok(())
}

/// The windows that have a part of these ranges, of what is `accepted` of them, ascending: days, and
/// towards the end, where live data will follow, the two hours in which it is sealed. Which of them
/// is a function of the ranges, so that a second import has the same windows.
fn windows_of(ranges: &[TimeRange], accepted: TimeRange) -> Vec<TimeRange> {
    let ranges = ranges.iter().map(|range| range.intersection(accepted));
    let ranges: Vec<TimeRange> = ranges.filter(|range| !range.is_empty()).collect();
    let Some(newest_ms) = ranges.iter().map(|range| range.end_ms).max() else { return Vec::new() };
    let days_end_ms = newest_ms.div_euclid(DAY_MS).saturating_sub(1).saturating_mul(DAY_MS);
    let mut starts = BTreeSet::new();
    for range in ranges {
        let mut start_ms = window_of(range.start_ms, days_end_ms).start_ms;
        while start_ms <= range.end_ms {
            starts.insert(start_ms);
            start_ms = window_of(start_ms, days_end_ms).end_ms.saturating_add(1);
        }
    }
    starts.into_iter().map(|start_ms| window_of(start_ms, days_end_ms)).collect()
}

/// From the start of the first window to the end of the last.
fn span_of(windows: &[TimeRange]) -> TimeRange {
    match (windows.first(), windows.last()) {
        (Some(first), Some(last)) => first.union(*last),
        _ => TimeRange::default(),
    }
}

fn window_of(timestamp: i64, days_end_ms: i64) -> TimeRange {
    let length_ms = if timestamp < days_end_ms { DAY_MS } else { WINDOW_MS };
    let start_ms = timestamp.div_euclid(length_ms).saturating_mul(length_ms);
    TimeRange::new(start_ms, start_ms.saturating_add(length_ms - 1))
}

/// Joins two parts of a series. Where they overlap, whether a counter was reset since the sample
/// before is not known any more: that may be another sample now.
fn join(samples: &mut Samples, part: &Samples) {
    let (Some(last), Some(first)) = (samples.timestamps.last(), part.timestamps.first()) else {
        samples.merge(part);
        return;
    };
    let overlap = TimeRange::new(*first, (*last).max(part.timestamps[part.len() - 1]));
    let is_apart = last < first;
    samples.merge(part);
    if !is_apart {
        forget_resets(samples, overlap);
    }
}

/// Keeps the samples of times that `keep` accepts. How many went.
fn retain(samples: &mut Samples, keep: impl Fn(i64) -> bool) -> u64 {
    if samples.timestamps.iter().all(|timestamp| keep(*timestamp)) {
        return 0;
    }
    let all = std::mem::take(samples);
    let mut histograms = all.histograms.into_iter().peekable();
    for (row, (timestamp, value)) in all.timestamps.iter().zip(&all.values).enumerate() {
        let histogram = histograms.next_if(|(of, _)| *of as usize == row);
        match histogram {
            _ if !keep(*timestamp) => {}
            Some((_, histogram)) => samples.push_histogram(*timestamp, histogram),
            None => samples.push(*timestamp, *value),
        }
    }
    (all.timestamps.len() - samples.len()) as u64
}

/// Of counters in `range`, makes unknown whether they were reset.
fn forget_resets(samples: &mut Samples, range: TimeRange) {
    use icecore_storage::metrics::histogram::ResetHint;
    for (row, histogram) in &mut samples.histograms {
        let is_counter = histogram.reset_hint != ResetHint::Gauge;
        if is_counter && range.contains(samples.timestamps[*row as usize]) {
            histogram.reset_hint = ResetHint::Unknown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_days_are_whole_and_the_last_two_are_cut() {
        let day = 20_000 * DAY_MS;
        let ranges = [
            TimeRange::new(day + 5, day + DAY_MS + 5),
            TimeRange::new(day + 3 * DAY_MS, day + 3 * DAY_MS + WINDOW_MS),
        ];
        let windows = windows_of(&ranges, TimeRange::ALL);
        let lengths: Vec<(i64, i64)> =
            windows.iter().map(|w| (w.start_ms - day, w.end_ms + 1 - w.start_ms)).collect();
        let late = 3 * DAY_MS;
        let expected =
            [(0, DAY_MS), (DAY_MS, DAY_MS), (late, WINDOW_MS), (late + WINDOW_MS, WINDOW_MS)];
        assert_eq!(lengths, expected);
        assert!(windows_of(&[], TimeRange::ALL).is_empty());
        // A sample in the far future does not make windows up to it.
        let far = [TimeRange::new(day, i64::MAX), TimeRange::new(i64::MIN, day)];
        let accepted = TimeRange::new(day, day + 5);
        assert_eq!(windows_of(&far, accepted).len(), 1);
    }

    #[test]
    fn older_history_is_rolled_up_on_its_way_in() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("export.jsonl");
        let now_ms = clock::now_ms();
        let midnight = now_ms.div_euclid(DAY_MS) * DAY_MS;
        // By default raw samples live 30 days, 5m 180, 1h 3 years: of each time and older than all.
        let days = [5, 29, 60, 200, 1000, 2000];
        let times: Vec<i64> = days.iter().map(|days| midnight - days * DAY_MS).collect();
        let line = serde_json::json!({
            "metric": {"__name__": "m"}, "values": vec![7; times.len()], "timestamps": times,
        });
        std::fs::write(&file, format!("{line}\n")).unwrap();
        let storage_path = folder.path().join("data");
        let import_with = |tier_ms| {
            let into = IntoArgs {
                storage_path: storage_path.clone(),
                config_file: None,
                retention_ms: None,
                tier_ms,
                verify: true,
            };
            let mut summary = Summary::default();
            let from = JsonlArgs { file: file.clone(), into };
            import_jsonl(&from, &mut summary).map(|()| summary.to_string())
        };
        let error = import_with(Some(420_000)).unwrap_err();
        assert!(error.to_string().contains("--tier=7m: no policy has such a tier"), "{error:#}");
        let raw = import_with(None).unwrap();
        assert!(raw.contains("  samples    2\n") && raw.contains("4: older than raw"), "{raw}");
        let both = import_with(Some(300_000)).unwrap();
        assert!(both.contains("  samples    3\n"), "{both}");
        assert!(both.contains("1: older than rollups are kept, 3y"), "{both}");
        let again = import_with(Some(300_000)).unwrap();
        assert!(again.contains("  samples    0\n"), "{again}");
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(storage_path));
        let db = Db::open(disk, Options::default(), clock::now_ms()).unwrap();
        let of_tier = |tier_ms: u64| -> Vec<i64> {
            let blocks = db.blocks().into_iter().filter(|meta| meta.tier_ms == tier_ms);
            let mut days: Vec<i64> =
                blocks.map(|meta| (midnight - meta.window.end_ms) / DAY_MS).collect();
            days.sort_unstable();
            days
        };
        // A midnight is of the day that it ends.
        assert_eq!(of_tier(300_000), [60]);
        assert_eq!(of_tier(3_600_000), [60, 200, 1000]);
    }

    #[test]
    fn samples_are_retained_by_their_times() {
        let mut samples = Samples::default();
        (0..5).for_each(|i| samples.push(i, i as f64));
        assert_eq!(retain(&mut samples, |t| t != 2), 1);
        assert_eq!(samples.timestamps, [0, 1, 3, 4]);
        assert_eq!(retain(&mut samples, |_| true), 0);
    }
}
