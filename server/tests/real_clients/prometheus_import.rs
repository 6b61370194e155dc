//! A switch from Debian's Prometheus: what it has written in all its ways is imported, and then
//! both answer alike, to the last digit.
//!
//! Its directory has blocks of old data (of `promtool`), blocks that it compacted itself, tombstones
//! in blocks and in the head, chunks of the head, a log with a checkpoint, samples out of order in
//! chunks and in their log, native histograms of both kinds, exemplars, and values that no
//! arithmetic would keep. It is killed, as such a machine may be.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{self, Answer};
use crate::icecore::{Icecore, now_ms, post_form, seconds, write};
use crate::process::{Process, are_installed, free_address, wait_for};
use crate::write_request::{WriteRequest, field, varint};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const STEP: i64 = 15_000;

/// Values that are easily changed on the way.
const ODD: [f64; 9] = [
    0.1,
    -0.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    5e-324,
    f64::MAX,
    123_456_789.123_456_79,
    -1.0,
];

#[test]
fn prometheus_and_what_was_imported_answer_alike() {
    if !are_installed(&["prometheus", "promtool"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let theirs = folder.path().join("prometheus");
    // Off every grid that matters, and so that no window closes while this runs.
    let end_ms = (now_ms() - 2 * MINUTE) / MINUTE * MINUTE + 7;
    make_old_blocks(folder.path(), &theirs, end_ms);
    write_history(folder.path(), &theirs, end_ms);
    for name in ["wal", "wbl", "chunks_head"] {
        let files = fs::read_dir(theirs.join(name)).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes > 1000, "Prometheus has left {bytes} bytes in {name}");
    }

    // In one go, and killed again and again.
    let whole = folder.path().join("whole");
    let output = import(&theirs, &whole, &[]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    println!("{text}");
    for name in ["samples", "histograms", "exemplars", "deleted", "series"] {
        assert!(count(&text, name) > 0, "{name} in {text}");
    }
    assert_eq!(count(&text, "skipped"), 0, "{text}");
    let again = said(&import(&theirs, &whole, &[]));
    assert_eq!((count(&again, "samples"), count(&again, "bytes")), (0, 0), "{again}");
    assert!(count(&again, "skipped") > 0, "{again}");
    let pieces = folder.path().join("pieces");
    let kills = import_in_pieces(&theirs, &pieces);
    println!("killed {kills} times");

    damage(folder.path(), &theirs, &text);

    let prometheus = Prometheus::start(folder.path(), &theirs);
    for data in [&whole, &pieces] {
        let icecore = Icecore::start_with(data, "127.0.0.1:0", &["--storage.retention=100d"]);
        compare(&prometheus, &icecore, end_ms);
        assert_eq!(stored(&icecore), count(&text, "samples") + count(&text, "histograms"));
        icecore.terminate();
    }
}

/// The samples in blocks, by Icecore's own metrics.
fn stored(icecore: &Icecore) -> u64 {
    let metrics = icecore.get("/metrics");
    let line = metrics.text().lines().find(|line| line.starts_with("icecore_block_samples "));
    line.unwrap().split(' ').nth(1).unwrap().parse::<f64>().unwrap() as u64
}

fn import(from: &Path, into: &Path, flags: &[&str]) -> Output {
    import_command(from, into, flags).output().unwrap()
}

fn import_command(from: &Path, into: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
    command.args(["import", "prometheus"]).arg(from);
    command.arg("--storage.path").arg(into).arg("--storage.retention=100d").args(flags);
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// A count of the summary.
fn count(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.trim_start().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Kills the import later and later until it comes to its end; how often that was.
fn import_in_pieces(from: &Path, into: &Path) -> u64 {
    for kills in 0.. {
        let mut child = import_command(from, into, &[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 + 15 * kills));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return kills;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    unreachable!("it ends at some time")
}

/// Two days, three weeks ago.
fn make_old_blocks(folder: &Path, theirs: &Path, end_ms: i64) {
    let mut text = String::from("# TYPE old_total counter\n# TYPE old_gauge gauge\n");
    let start_ms = end_ms - 21 * DAY;
    for series in 0..12 {
        let name = if series % 2 == 0 { "old_total" } else { "old_gauge" };
        for row in 0..2 * DAY / (5 * MINUTE) {
            let value = match series {
                0..=7 => (row * series) as f64 / 3.0,
                _ => ODD[(row % 9) as usize],
            };
            let value = match value {
                _ if value == f64::INFINITY => "+Inf".to_owned(),
                _ if value == f64::NEG_INFINITY => "-Inf".to_owned(),
                _ => format!("{value:?}"),
            };
            let at = seconds(start_ms + row * 5 * MINUTE);
            writeln!(text, "{name}{{series=\"{series}\"}} {value} {at}").unwrap();
        }
    }
    text.push_str("# EOF\n");
    // Series of one family have to stand together.
    let (comments, mut lines): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('#'));
    lines.sort_by_key(|line| line.starts_with("old_total"));
    let ordered = [
        &[comments[1]][..],
        &lines.iter().filter(|l| l.starts_with("old_gauge")).copied().collect::<Vec<_>>(),
        &[comments[0]],
        &lines.iter().filter(|l| l.starts_with("old_total")).copied().collect::<Vec<_>>(),
        &[comments[2], ""],
    ];
    let file = folder.join("old.om");
    fs::write(&file, ordered.concat().join("\n")).unwrap();
    let made = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&file, theirs])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
}

struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    fn start(folder: &Path, data: &Path) -> Prometheus {
        let config = folder.join("prometheus.yml");
        fs::write(&config, "storage:\n  tsdb:\n    out_of_order_time_window: 50m\n").unwrap();
        let address = free_address();
        let process = Process::start(
            "prometheus",
            &[
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", data.display()),
                format!("--web.listen-address={address}"),
                "--web.enable-remote-write-receiver".into(),
                "--web.enable-admin-api".into(),
                "--storage.tsdb.retention.time=100y".into(),
                "--enable-feature=native-histograms,exemplar-storage".into(),
            ],
            &folder.join("prometheus.log"),
        );
        let prometheus = Prometheus { process, address };
        wait_for("prometheus to be ready", Duration::from_secs(60), || {
            let answer = client::send(address, "GET", "/-/ready", &[], b"").ok()?;
            (answer.status == 200).then_some(())
        });
        prometheus
    }

    fn write(&self, request: &WriteRequest) {
        let answer = write(self.address, "snappy", &request.snappy()).unwrap();
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    fn compactions(&self) -> String {
        let answer = client::send(self.address, "GET", "/metrics", &[], b"").unwrap();
        let is_one = |line: &&str| line.starts_with("prometheus_tsdb_compactions");
        answer.text().lines().filter(is_one).collect()
    }

    fn delete(&self, matcher: &str, start_ms: i64, end_ms: i64) {
        let (start, end) = (seconds(start_ms), seconds(end_ms));
        let parameters = [("match[]", matcher), ("start", &start), ("end", &end)];
        let answer = post_form(self.address, "/api/v1/admin/tsdb/delete_series", &parameters);
        assert_eq!(answer.unwrap().status, 204);
    }
}

/// Seven hours up to now: enough for Prometheus to make blocks. It is started again in between, as
/// only a log of several segments is cut and gets a checkpoint.
fn write_history(folder: &Path, theirs: &Path, end_ms: i64) {
    let start_ms = end_ms - 7 * HOUR;
    let mut at = start_ms;
    for part in 1..=7 {
        let mut prometheus = Prometheus::start(folder, theirs);
        while at <= start_ms + part * HOUR {
            prometheus.write(&scrapes(at, start_ms, end_ms));
            at += ROWS * STEP;
        }
        if part == 7 {
            wait_for("a checkpoint of Prometheus", Duration::from_secs(120), || {
                let names = fs::read_dir(theirs.join("wal")).unwrap();
                let names = names.map(|entry| entry.unwrap().file_name());
                let mut names = names.map(|name| name.to_string_lossy().into_owned());
                let is_whole =
                    |name: &String| name.starts_with("checkpoint.") && !name.ends_with(".tmp");
                names.any(|name| is_whole(&name)).then_some(())
            });
            write_late_and_delete(&prometheus, end_ms);
            prometheus.process.kill();
        } else {
            prometheus.process.terminate();
        }
    }
}

/// What a request holds of a series.
const ROWS: i64 = 20;

fn scrapes(at: i64, start_ms: i64, end_ms: i64) -> WriteRequest {
    let times: Vec<i64> = (0..ROWS).map(|i| at + i * STEP).filter(|t| *t <= end_ms).collect();
    let mut request = WriteRequest::default();
    for series in 0..30usize {
        let label = series.to_string();
        let value = |time: i64| match series {
            0..=19 => ((time / 1000) % 7919 * series as i64) as f64 / 7.0,
            _ => ODD[(time / STEP) as usize % ODD.len()],
        };
        let samples: Vec<(i64, f64)> = times.iter().map(|t| (*t, value(*t))).collect();
        let labels = [("__name__", "live"), ("series", &*label), ("zone", "ja ☃")];
        request = request.series(&labels, &samples);
    }
    let integers: Vec<Vec<u8>> = times.iter().map(|t| histogram(*t, start_ms, false)).collect();
    let floats: Vec<Vec<u8>> = times.iter().map(|t| histogram(*t, start_ms, true)).collect();
    request = request.raw(&histogram_series("native", &integers));
    request = request.raw(&histogram_series("native_float", &floats));
    request.exemplar(&[("__name__", "traced")], &format!("{at:x}"), at)
}

fn write_late_and_delete(prometheus: &Prometheus, end_ms: i64) {
    // A compaction takes them along and leaves none for the log.
    let settled = |prometheus: &Prometheus| {
        let before = prometheus.compactions();
        std::thread::sleep(Duration::from_secs(2));
        (before == prometheus.compactions()).then_some(())
    };
    wait_for("compactions to end", Duration::from_secs(60), || settled(prometheus));
    // More than a chunk of them, between those that are there and never at the time of one.
    for row in 0..70 {
        let samples = [(end_ms - 40 * MINUTE + 3 + 30_011 * (row * 37 % 70), row as f64 / 3.0)];
        let late = WriteRequest::default();
        let late = late.series(&[("__name__", "live"), ("series", "late")], &samples);
        let labels = [("__name__", "live"), ("series", "3"), ("zone", "ja ☃")];
        prometheus.write(&late.series(&labels, &samples));
    }
    prometheus.delete("{series=\"4\"}", end_ms - 21 * DAY, end_ms - 20 * DAY);
    prometheus.delete("live{series=\"5\"}", end_ms - 6 * HOUR, end_ms - 5 * HOUR);
    prometheus.delete("live{series=\"6\"}", end_ms - 30 * MINUTE, end_ms - 20 * MINUTE);
    // Of the last block, of which the log still has samples, and of the head.
    prometheus.delete("live{series=\"7\"}", end_ms - 4 * HOUR, end_ms - HOUR);
    prometheus.delete("native", end_ms - 15 * MINUTE, end_ms - 10 * MINUTE);
}

/// A `prometheus.Histogram` of a counter that is reset now and then.
fn histogram(time: i64, start_ms: i64, is_float: bool) -> Vec<u8> {
    let row = ((time - start_ms) / STEP) as u64;
    let count = row % 400 + 1;
    let zigzag = |number: i64| ((number << 1) ^ (number >> 63)) as u64;
    let double = |out: &mut Vec<u8>, number: u8, value: f64| {
        out.push(number << 3 | 1);
        out.extend_from_slice(&value.to_bits().to_le_bytes());
    };
    let mut out = Vec::new();
    if is_float {
        double(&mut out, 2, count as f64 * 3.5);
    } else {
        out.push(1 << 3);
        varint(&mut out, 3 * count);
    }
    double(&mut out, 3, count as f64 * 0.1);
    out.push(4 << 3);
    varint(&mut out, zigzag(3));
    double(&mut out, 5, 1e-128);
    if is_float {
        double(&mut out, 7, count as f64 * 0.5);
    } else {
        out.push(6 << 3);
        varint(&mut out, 0);
    }
    // Every so often another layout.
    let offset = (row / 150) as i64;
    let mut span = vec![1 << 3];
    varint(&mut span, zigzag(offset - 2));
    span.extend_from_slice(&[2 << 3, 2]);
    field(&mut out, 11, &span);
    if is_float {
        let counts = [count as f64, count as f64 * 2.0].map(|c| c.to_bits().to_le_bytes());
        field(&mut out, 13, &counts.concat());
    } else {
        let mut deltas = Vec::new();
        varint(&mut deltas, zigzag(count as i64));
        varint(&mut deltas, zigzag(count as i64));
        field(&mut out, 12, &deltas);
    }
    out.push(15 << 3);
    varint(&mut out, time as u64);
    out
}

fn histogram_series(name: &str, histograms: &[Vec<u8>]) -> Vec<u8> {
    let mut label = Vec::new();
    field(&mut label, 1, b"__name__");
    field(&mut label, 2, name.as_bytes());
    let mut series = Vec::new();
    field(&mut series, 1, &label);
    histograms.iter().for_each(|histogram| field(&mut series, 4, histogram));
    let mut out = Vec::new();
    field(&mut out, 1, &series);
    out
}

/// Every sample of every series; range queries; exemplars.
fn compare(prometheus: &Prometheus, icecore: &Icecore, end_ms: i64) {
    let ask = |path: &str, parameters: &[(&str, &str)]| -> [Answer; 2] {
        let theirs = post_form(prometheus.address, path, parameters).unwrap();
        [theirs, icecore.post_form(path, parameters)]
    };
    // Prometheus 2 takes the sample on the left edge of a range and 3 does not: no sample is on it.
    let end_ms = end_ms + 500;
    let (mut points, mut histograms) = (0, 0);
    // Whole blocks: Prometheus 2.42 forgets the edges of tombstones when it cuts chunks to a range.
    for (range, at) in [("50h", end_ms - 19 * DAY), ("8h", end_ms)] {
        let query = format!("{{__name__=~\".+\",job!=\"icecore\"}}[{range}]");
        let at = seconds(at);
        let [theirs, ours] = ask("/api/v1/query", &[("query", &query), ("time", &at)]);
        points += same(&theirs, &ours, range, "values");
        histograms += same(&theirs, &ours, range, "histograms");
    }
    assert!(points > 50_000 && histograms > 3000, "{points} points, {histograms} histograms");
    for query in [
        "live",
        // Not `rate`: 2.42 extrapolates counters near zero in another way.
        "delta(live[5m])",
        "native",
        "rate(native[10m])",
        "histogram_sum(rate(native_float[10m]))",
        "count_over_time(live[7h])",
    ] {
        let (start, end) = (seconds(end_ms - 7 * HOUR), seconds(end_ms));
        let parameters = [("query", query), ("start", &*start), ("end", &end), ("step", "97")];
        let [theirs, ours] = ask("/api/v1/query_range", &parameters);
        let total =
            same(&theirs, &ours, query, "values") + same(&theirs, &ours, query, "histograms");
        assert!(total > 100, "{query} has {total} points");
    }
    let (start, end) = (seconds(end_ms - 8 * HOUR), seconds(end_ms));
    let parameters = [("query", "traced"), ("start", &*start), ("end", &end)];
    let [theirs, ours] = ask("/api/v1/query_exemplars", &parameters).map(|a| a.data());
    let of = |data: &Value| -> BTreeSet<String> {
        let exemplars = data[0]["exemplars"].as_array().unwrap();
        exemplars.iter().map(Value::to_string).collect()
    };
    // What is not in Prometheus's log any more is gone from it, and what is older than its blocks.
    assert!(!of(&theirs).is_empty());
    assert!(of(&theirs).is_subset(&of(&ours)), "{theirs} against {ours}");
}

/// Both are the same set of series with the same texts; how many points of a kind.
fn same(theirs: &Answer, ours: &Answer, what: &str, kind: &str) -> usize {
    let (theirs, ours) = (theirs.data(), ours.data());
    // A text for each point, so that what differs is told in a line.
    let texts = |data: &Value| -> BTreeSet<String> {
        let series = data["result"].as_array().unwrap().iter();
        let points = series.flat_map(|series| {
            let points = series[kind].as_array().into_iter().flatten();
            points.map(|point| format!("{} {point}", series["metric"]))
        });
        points.collect()
    };
    let (left, right) = (texts(&theirs), texts(&ours));
    let differing: Vec<&String> = left.symmetric_difference(&right).collect();
    if let Some(point) = differing.first() {
        let side = if left.contains(*point) { "Prometheus" } else { "Icecore" };
        panic!("{what}: {} points differ; only {side} has {point}", differing.len());
    }
    let series = theirs["result"].as_array().unwrap().iter();
    series.map(|series| series[kind].as_array().map_or(0, Vec::len)).sum()
}

/// Files of every kind are damaged, one at a time.
fn damage(folder: &Path, theirs: &Path, whole: &str) {
    let kinds = ["index", "chunks/000001", "tombstones", "meta.json"];
    let mut of_kind: Vec<(String, PathBuf)> = Vec::new();
    let blocks = fs::read_dir(theirs).unwrap().map(|entry| entry.unwrap().path());
    let block = blocks.filter(|path| path.join("meta.json").exists()).min().unwrap();
    for kind in kinds {
        of_kind.push((kind.to_owned(), block.join(kind)));
    }
    for dir in ["wal", "chunks_head"] {
        let files = fs::read_dir(theirs.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.is_file());
        // The longest has most to lose.
        let file = files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        of_kind.push((dir.to_owned(), file));
    }
    for (number, (kind, path)) in of_kind.iter().enumerate() {
        let intact = fs::read(path).unwrap();
        // In the middle of what is used: files of the head are longer than that.
        let used = intact.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // Behind the symbols of an index and its series come postings, which are not read.
        let place = match kind.as_str() {
            "index" => 60,
            // Text has no checksum.
            "meta.json" => 0,
            _ => used / 2,
        };
        for (how, bytes) in
            [("flipped", flipped(&intact, place)), ("cut", intact[..used / 2].to_vec())]
        {
            fs::write(path, bytes).unwrap();
            let into = folder.join(format!("damaged-{number}-{how}"));
            let output = import(theirs, &into, &[]);
            let text = said(&output);
            if kind == "chunks_head" {
                // The log has it all.
                assert!(output.status.success() && text.contains("note: "), "{text}");
                assert_eq!(count(&text, "samples"), count(whole, "samples"), "{text}");
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(!output.status.success(), "{kind} {how}: {text}");
            assert!(text.contains(name) && text.contains("byte"), "{kind} {how}: {text}");
            assert_eq!(count(&text, "samples"), 0, "nothing without --skip-damaged: {text}");
            let output = import(theirs, &into, &["--skip-damaged"]);
            let text = said(&output);
            assert!(!output.status.success() && text.contains(name), "{kind} {how}: {text}");
            let imported = count(&text, "samples");
            assert!(imported > 0 && imported < count(whole, "samples"), "{kind} {how}: {text}");
        }
        fs::write(path, intact).unwrap();
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}
