//! VictoriaMetrics' export as a source: a line of JSON for a series, or for a part of it.
//!
//! `{"metric":{"__name__":"up","job":"node"},"values":[1,null],"timestamps":[1549891472010,…]}`
//!
//! Lines may be in any order and may repeat series, so they are all read before anything is
//! imported: labels stay in memory, samples go to a temporary file in the data directory, by day.
//! A line that cannot be read is an error that names it, and nothing is imported.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use icecore_storage::Error;
use icecore_storage::labels::Labels;
use icecore_storage::limits::Limits;
use icecore_storage::metrics::sample::{Samples, float_order, stale_nan};
use icecore_storage::time::TimeRange;
use serde::Deserialize;
use xxhash_rust::xxh3::Xxh3;

use crate::import::summary::Summary;
use crate::import::{Content, DAY_MS, Source, span_of, windows_of};

/// A line of VictoriaMetrics holds a series of a few months at most.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// In the data directory; a start of the database removes what is called so.
const SPILL_NAME: &str = "tmp-import-samples";

/// The NaN that Prometheus writes for "not a number".
const NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0001);

/// Bytes of a spilled sample: timestamp 8, bits of the value 8.
const SAMPLE_BYTES: usize = 16;

#[derive(Debug, Deserialize)]
struct Line {
    metric: BTreeMap<String, String>,
    values: Vec<Value>,
    timestamps: Vec<i64>,
}

/// A number, or what stands for one that JSON does not have.
#[derive(Clone, Copy, Debug)]
struct Value(f64);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl serde::de::Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(r#"a number, null, "NaN", "Infinity", "-Infinity" or "stale""#)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value(value as f64))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value(value as f64))
    }

    /// VictoriaMetrics stores no NaN but stale markers, and exports these as null.
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value(stale_nan()))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value(match text {
            "NaN" => NAN,
            "Infinity" | "+Infinity" | "Inf" | "+Inf" => f64::INFINITY,
            "-Infinity" | "-Inf" => f64::NEG_INFINITY,
            "stale" | "StaleNaN" => stale_nan(),
            _ => return Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }))
    }
}

/// Neighbouring samples of a series in the temporary file, all of one day.
#[derive(Clone, Copy, Debug)]
struct Run {
    series: u32,
    count: u32,
    offset: u64,
}

#[derive(Debug)]
pub(super) struct JsonlSource {
    name: String,
    series: Vec<Labels>,
    spilled: File,
    path: PathBuf,
    /// By the start of their day, each day's by series.
    days: BTreeMap<i64, Vec<Run>>,
    window: TimeRange,
    /// Of the days that the window is of, by series.
    runs: Vec<Run>,
    /// Where the runs of each series of the window lie among these.
    places: Vec<std::ops::Range<usize>>,
}

impl JsonlSource {
    /// Reads all lines.
    pub(super) fn open(
        file: &Path,
        storage_path: &Path,
        summary: &mut Summary,
    ) -> anyhow::Result<JsonlSource> {
        let shown = file.display();
        let input: Box<dyn Read> = match file.to_str() {
            Some("-") => Box::new(std::io::stdin().lock()),
            _ => Box::new(File::open(file).with_context(|| format!("cannot open {shown}"))?),
        };
        let path = storage_path.join(SPILL_NAME);
        let spilled = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let spilled = spilled.with_context(|| format!("cannot create {}", path.display()))?;
        // It goes with the process, whatever ends it.
        let _ = std::fs::remove_file(&path);
        let mut reader = LineReader {
            limits: Limits::default(),
            spill: BufWriter::with_capacity(1 << 20, spilled.try_clone()?),
            spilled_bytes: 0,
            by_labels: HashMap::new(),
            series: Vec::new(),
            days: BTreeMap::new(),
        };
        let hash = reader
            .read_all(BufReader::with_capacity(1 << 20, input), summary)
            .with_context(|| format!("cannot import {shown}"))?;
        reader.spill.flush().with_context(|| format!("cannot write {}", path.display()))?;
        let LineReader { series, days, .. } = reader;
        Ok(JsonlSource {
            name: format!("jsonl {hash:032x}"),
            series,
            spilled,
            path,
            days,
            window: TimeRange::default(),
            runs: Vec::new(),
            places: Vec::new(),
        })
    }

    /// The runs of the days of a window: two of them if it ends with a midnight.
    fn runs_of(&self, window: TimeRange) -> Vec<Run> {
        let day = |time: i64| time.div_euclid(DAY_MS).saturating_mul(DAY_MS);
        let days = self.days.range(day(window.start_ms)..=day(window.end_ms));
        let mut runs: Vec<Run> = days.flat_map(|(_, runs)| runs).copied().collect();
        runs.sort_by_key(|run| (run.series, run.offset));
        runs
    }

    fn read_run(&self, run: Run, into: &mut Vec<(i64, f64)>) -> Result<(), Error> {
        let mut bytes = vec![0; run.count as usize * SAMPLE_BYTES];
        self.spilled.read_exact_at(&mut bytes, run.offset).map_err(|source| Error::Io {
            operation: "read",
            path: self.path.clone(),
            source,
        })?;
        for sample in bytes.as_chunks::<SAMPLE_BYTES>().0 {
            let (time, value) = sample.split_first_chunk::<8>().expect("16 bytes");
            let value = u64::from_le_bytes(value.try_into().expect("8 bytes"));
            into.push((i64::from_le_bytes(*time), f64::from_bits(value)));
        }
        Ok(())
    }
}

impl Source for JsonlSource {
    fn windows(
        &mut self,
        accepted: TimeRange,
        summary: &mut Summary,
    ) -> Result<Vec<TimeRange>, Error> {
        let day = |start_ms: &i64| TimeRange::new(*start_ms, start_ms.saturating_add(DAY_MS - 1));
        let windows = windows_of(&self.days.keys().map(day).collect::<Vec<_>>(), accepted);
        let span = span_of(&windows);
        let (mut before, mut after) = (0, 0);
        for (start_ms, runs) in &self.days {
            let mut rows = Vec::new();
            if day(start_ms).intersection(span) == day(start_ms) {
                continue;
            }
            for run in runs {
                self.read_run(*run, &mut rows)?;
            }
            before += rows.iter().filter(|(time, _)| *time < span.start_ms).count() as u64;
            let later = |time: i64| time > span.end_ms && time >= span.start_ms;
            after += rows.iter().filter(|(time, _)| later(*time)).count() as u64;
        }
        summary.refuse_times(before, after);
        Ok(windows)
    }

    fn name_of(&self, _window: TimeRange) -> String {
        self.name.clone()
    }

    fn begin(&mut self, window: TimeRange, _summary: &mut Summary) -> Result<Content, Error> {
        self.window = window;
        self.runs = self.runs_of(window);
        let mut series = Vec::new();
        let mut places = Vec::new();
        let mut start = 0;
        for runs in self.runs.chunk_by(|a, b| a.series == b.series) {
            series.push(self.series[runs[0].series as usize].clone());
            places.push(start..start + runs.len());
            start += runs.len();
        }
        self.places = places;
        Ok(Content { series, ..Content::default() })
    }

    fn read(
        &mut self,
        place: usize,
        into: &mut Samples,
        _summary: &mut Summary,
    ) -> Result<(), Error> {
        let mut rows = Vec::new();
        for run in &self.runs[self.places[place].clone()] {
            self.read_run(*run, &mut rows)?;
        }
        rows.retain(|(timestamp, _)| self.window.contains(*timestamp));
        // Of two values for a timestamp the greater stays, as everywhere.
        rows.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| float_order(b.1, a.1)));
        rows.dedup_by_key(|(timestamp, _)| *timestamp);
        rows.into_iter().for_each(|(timestamp, value)| into.push(timestamp, value));
        Ok(())
    }

    fn forgive(&mut self, _error: &Error, _summary: &mut Summary) -> bool {
        false
    }
}

struct LineReader {
    limits: Limits,
    spill: BufWriter<File>,
    spilled_bytes: u64,
    by_labels: HashMap<Labels, u32>,
    series: Vec<Labels>,
    days: BTreeMap<i64, Vec<Run>>,
}

impl LineReader {
    /// Reads to the end; a hash of everything.
    fn read_all(&mut self, mut input: impl BufRead, summary: &mut Summary) -> anyhow::Result<u128> {
        let mut hasher = Xxh3::new();
        let mut line = Vec::new();
        let (mut number, mut offset) = (0u64, 0u64);
        loop {
            line.clear();
            number += 1;
            let length = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            if length == 0 {
                return Ok(hasher.digest128());
            }
            hasher.update(&line);
            self.read_line(&line, summary)
                .with_context(|| format!("line {number}, which begins at byte {offset}"))?;
            offset += length as u64;
        }
    }

    fn read_line(&mut self, line: &[u8], summary: &mut Summary) -> anyhow::Result<()> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let line: Line = serde_json::from_slice(line)?;
        let (values, times) = (line.values.len(), line.timestamps.len());
        anyhow::ensure!(values == times, "it has {values} values and {times} timestamps");
        let labels = Labels::from_pairs(&line.metric).and_then(|labels| {
            self.limits.check_labels(&labels)?;
            Ok(labels)
        });
        let labels = match labels {
            Ok(labels) => labels,
            Err(error) => {
                let why = "labels that no series may have";
                summary.refuse(values as u64, why, || error.to_string());
                return Ok(());
            }
        };
        let mut rows: Vec<(i64, f64)> =
            line.timestamps.into_iter().zip(line.values.iter().map(|value| value.0)).collect();
        rows.sort_by_key(|(timestamp, _)| *timestamp);
        let day = |timestamp: i64| timestamp.div_euclid(DAY_MS);
        for run in rows.chunk_by(|a, b| day(a.0) == day(b.0)) {
            self.spill_run(&labels, run)?;
        }
        Ok(())
    }

    fn spill_run(&mut self, labels: &Labels, run: &[(i64, f64)]) -> anyhow::Result<()> {
        let next = u32::try_from(self.series.len()).context("there are more than 2^32 series")?;
        let series = *self.by_labels.entry(labels.clone()).or_insert_with(|| {
            self.series.push(labels.clone());
            next
        });
        for (timestamp, value) in run {
            self.spill.write_all(&timestamp.to_le_bytes())?;
            self.spill.write_all(&value.to_bits().to_le_bytes())?;
        }
        let count =
            u32::try_from(run.len()).context("a line has more than 2^32 samples of a day")?;
        let day_ms = run[0].0.div_euclid(DAY_MS).checked_mul(DAY_MS);
        let day_ms = day_ms.with_context(|| format!("{} is no time", run[0].0))?;
        let run = Run { series, count, offset: self.spilled_bytes };
        self.days.entry(day_ms).or_default().push(run);
        self.spilled_bytes += u64::from(count) * SAMPLE_BYTES as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> anyhow::Result<(JsonlSource, Summary)> {
        let folder = tempfile::TempDir::new()?;
        let file = folder.path().join("export.jsonl");
        std::fs::write(&file, lines)?;
        let mut summary = Summary::default();
        Ok((JsonlSource::open(&file, folder.path(), &mut summary)?, summary))
    }

    #[test]
    fn lines_in_any_order_are_series_by_window() {
        let (mut source, mut summary) = read(concat!(
            r#"{"metric":{"__name__":"b"},"values":[3,1e300],"timestamps":[86400005,10]}"#,
            "\n\n",
            r#"{"metric":{"__name__":"a","empty":""},"values":[0.1],"timestamps":[10]}"#,
            "\n",
            r#"{"metric":{"__name__":"b"},"values":[null,"NaN","-Infinity",-0.0,7],"#,
            r#""timestamps":[11,12,13,9,10]}"#,
        ))
        .unwrap();
        let windows = source.windows(TimeRange::ALL, &mut summary).unwrap();
        // Of two days all is recent: twelve windows each.
        assert_eq!(windows.len(), 24);
        let content = source.begin(windows[0], &mut summary).unwrap();
        let names: Vec<String> = content.series.iter().map(Labels::to_string).collect();
        assert_eq!(names, ["b", "a"]);
        let mut samples = Samples::default();
        source.read(0, &mut samples, &mut summary).unwrap();
        assert_eq!(samples.timestamps, [9, 10, 11, 12, 13]);
        let bits: Vec<u64> = samples.values.iter().map(|value| value.to_bits()).collect();
        let expected = [-0.0, 1e300, stale_nan(), NAN, f64::NEG_INFINITY];
        assert_eq!(bits, expected.map(f64::to_bits));
        source.begin(windows[12], &mut summary).unwrap();
        samples.clear();
        source.read(0, &mut samples, &mut summary).unwrap();
        assert_eq!(samples.timestamps, [86_400_005]);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let good = r#"{"metric":{"__name__":"b"},"values":[3],"timestamps":[5]}"#;
        for (bad, says) in [
            (r#"{"metric":{"__name__":"b"},"values":[3],"timestamps":[]}"#, "1 values and 0"),
            (r#"{"metric":{"__name__":"b"},"values":["x"],"timestamps":[5]}"#, "Infinity"),
            ("{", "EOF"),
        ] {
            let error = format!("{:#}", read(&format!("{good}\n{bad}\n")).unwrap_err());
            assert!(error.contains("line 2, which begins at byte 58"), "{error}");
            assert!(error.contains(says), "{says:?} is not in {error}");
        }
    }
}
