//! Fuzz targets: functions of bytes that must return, whatever the bytes are.
//!
//! Each says what holds besides not panicking: what was decoded encodes to something that decodes
//! alike, what was printed parses to the same. `tests/replay.rs` runs all of them on stable over
//! the committed seeds and small changes of them; with a nightly toolchain and cargo-fuzz,
//! `cargo fuzz run --features libfuzzer TARGET fuzz/corpus/TARGET fuzz/seeds/TARGET` looks for more.
//!
//! Targets of codecs take their row count from the first two bytes.

mod evaluation;
#[path = "../../query/tests/generate/mod.rs"]
mod generate;
#[path = "../../query/tests/memory/mod.rs"]
mod memory;

use std::path::Component;
use std::sync::Arc;

pub use evaluation::{evaluation, generated_query};

use bytes::Bytes;
use icecore_ingest::{Encoding, remote_write as remote_write_1};
use icecore_query::parser::{ParserOptions, parse_bytes, prettify};
use icecore_storage::Db;
use icecore_storage::backup::list::BackupList;
use icecore_storage::data_file::{DataFile, LiveFile, live_files};
use icecore_storage::db::Options;
use icecore_storage::disk::Disk;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::encoding::{decimal as decimal_codec, histograms as histogram_codec};
use icecore_storage::encoding::{timestamps as timestamp_codec, xor};
use icecore_storage::index::sealed::SealedIndex;
use icecore_storage::inspect;
use icecore_storage::labels::Labels;
use icecore_storage::limits::Limits;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::metrics::batch::Batch;
use icecore_storage::metrics::sample::Samples;
use icecore_storage::regex::{CapturingRegex, Extent, Regex};
use icecore_storage::snapshot::Selector;
use icecore_storage::time::TimeRange;
use icecore_storage::verify::{Depth, verify};
use icecore_storage::wal::record::BatchRecord;

/// A target and its name, which is that of its folder in `seeds/`.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 14] = [
    ("remote_write", remote_write),
    ("decimal", decimal),
    ("timestamps", timestamps),
    ("xor_chunk", xor_chunk),
    ("histograms", histograms),
    ("wal_record", wal_record),
    ("backup_list", backup_list),
    ("sealed_index", sealed_index),
    ("damaged_directory", damaged_directory),
    ("promql", promql),
    ("evaluation", evaluation),
    ("generated_query", generated_query),
    ("regex", regex),
    ("regex_dialects", regex_dialects),
];

/// A request body in each encoding: columns of a batch agree, and rows have a series.
pub fn remote_write(bytes: &[u8]) {
    let mut batch = remote_write_1::batch();
    for encoding in [Encoding::Identity, Encoding::Snappy, Encoding::Zstd] {
        let decoded = remote_write_1::decode(bytes, encoding, &Limits::default(), &mut batch);
        assert!(decoded.is_ok() || batch.series.is_empty(), "a body is taken or left");
        check_batch(&batch);
    }
}

fn check_batch(batch: &Batch) {
    assert_eq!(batch.timestamps.len(), batch.values.len());
    let mut start = 0;
    for series in &batch.series {
        assert!((start..=batch.timestamps.len()).contains(&(series.samples_start as usize)));
        start = series.samples_start as usize;
        if let Ok(labels) = (batch.key_form)(batch.key(series), &Limits::default()) {
            assert_eq!(Labels::from_canonical_bytes(labels.as_bytes()), Ok(labels));
        }
    }
    let known = |series: u32| (series as usize) < batch.series.len();
    assert!(batch.histograms.iter().all(|row| known(row.series)));
    assert!(batch.exemplars.iter().all(|row| known(row.series)));
}

/// Bytes as a column of floats, and floats made of bytes.
pub fn decimal(bytes: &[u8]) {
    let Some((count, bytes)) = take_count(bytes) else { return };
    let mut values = Vec::new();
    if decimal_codec::decode(bytes, count, &mut values).is_some() {
        assert_eq!(values.len(), count);
        floats_round_trip(&values);
    }
    let words = bytes.as_chunks::<8>().0;
    floats_round_trip(&words.iter().map(|word| f64::from_le_bytes(*word)).collect::<Vec<_>>());
    // Decimals, which take other paths than random bits.
    let power = 10f64.powi(count as i32 % 12);
    let decimals = bytes.as_chunks::<2>().0.iter();
    let decimals = decimals.map(|half| f64::from(i16::from_le_bytes(*half)) / power);
    floats_round_trip(&decimals.collect::<Vec<_>>());
}

fn floats_round_trip(values: &[f64]) {
    let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
    decimal_codec::encode(values, &mut bytes);
    decimal_codec::decode(&bytes, values.len(), &mut decoded).expect("what was encoded decodes");
    assert!(values.iter().map(|v| v.to_bits()).eq(decoded.iter().map(|v| v.to_bits())));
}

/// Bytes as a column of timestamps and as the rows missing of one, and timestamps made of bytes.
pub fn timestamps(bytes: &[u8]) {
    let Some((count, bytes)) = take_count(bytes) else { return };
    let mut column = Vec::new();
    if timestamp_codec::decode(bytes, count, &mut column).is_some() {
        assert_eq!(column.len(), count);
        timestamps_round_trip(&column);
        let mut own = Vec::new();
        if timestamp_codec::read_missing(bytes, &column, &mut own).is_some() {
            assert!(own.iter().all(|timestamp| column.contains(timestamp)));
        }
    }
    let mut column: Vec<i64> =
        bytes.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word)).collect();
    column.sort_unstable();
    column.dedup();
    timestamps_round_trip(&column);
    let mut now = count as i64;
    let steps = bytes.iter().map(|step| {
        now += 15_000 + i64::from(step.cast_signed());
        now
    });
    timestamps_round_trip(&steps.collect::<Vec<_>>());
}

fn timestamps_round_trip(column: &[i64]) {
    let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
    timestamp_codec::encode(column, &mut bytes);
    timestamp_codec::decode(&bytes, column.len(), &mut decoded).expect("what was encoded decodes");
    assert_eq!(decoded, column);
    let every_third: Vec<i64> = column.iter().copied().step_by(3).collect();
    let (mut missing, mut own) = (Vec::new(), Vec::new());
    assert!(timestamp_codec::write_missing(column, &every_third, &mut missing));
    timestamp_codec::read_missing(&missing, column, &mut own).expect("what was written reads");
    assert_eq!(own, every_third);
}

/// Bytes as Prometheus's XOR chunk: what is read is written to something that reads alike.
pub fn xor_chunk(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let (mut timestamps, mut values) = (Vec::new(), Vec::new());
        xor::read_float_chunk(bytes, &mut timestamps, &mut values)?;
        Some((timestamps, values.into_iter().map(f64::to_bits).collect::<Vec<_>>()))
    };
    let Some((timestamps, bits)) = read(bytes) else { return };
    let values: Vec<f64> = bits.iter().copied().map(f64::from_bits).collect();
    let again = read(&xor::float_chunk(&timestamps, &values));
    assert_eq!(again, Some((timestamps, bits)));
}

/// Bytes as a column of native histograms.
pub fn histograms(bytes: &[u8]) {
    let Some((count, bytes)) = take_count(bytes) else { return };
    let Some(read) = histogram_codec::decode(bytes, count) else { return };
    if read.iter().any(|histogram| histogram.validate().is_err()) {
        return; // Such were refused before they were stored.
    }
    let mut again = Vec::new();
    histogram_codec::encode(&read.iter().collect::<Vec<_>>(), &mut again);
    let again = histogram_codec::decode(&again, count).expect("what was encoded decodes");
    let canonical = |all: &[icecore_storage::metrics::histogram::Histogram]| {
        all.iter().map(|histogram| histogram.canonical_bytes()).collect::<Vec<_>>()
    };
    assert_eq!(canonical(&again), canonical(&read));
}

/// Bytes as a record of the log whose checksum was right.
pub fn wal_record(bytes: &[u8]) {
    let Some(record) = BatchRecord::decode(bytes) else { return };
    let payload = record.encode().payload;
    let again = BatchRecord::decode(&payload).expect("what was encoded decodes");
    assert_eq!(again.encode().payload, payload);
}

/// Bytes as the list of a backup, once as they are and once with the last line that they should have:
/// whatever is accepted names a database's files and nothing else.
pub fn backup_list(bytes: &[u8]) {
    let body: Vec<u8> = match bytes.strip_suffix(b"\n") {
        Some(lines) => {
            let end = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            bytes[..end].to_vec()
        }
        None => bytes.to_vec(),
    };
    let count = body.iter().filter(|byte| **byte == b'\n').count().saturating_sub(2);
    let end = format!("end {count} {:08x}\n", crc32fast::hash(&body));
    for list in [bytes.to_vec(), [&body, end.as_bytes()].concat()] {
        let Ok(parsed) = BackupList::parse(&list) else { continue };
        assert_eq!(BackupList::parse(parsed.encode().as_bytes()).expect("as encoded"), parsed);
        for entry in &parsed.entries {
            let path = entry.file.path();
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
            assert!(path.components().count() <= 2);
        }
    }
}

/// Bytes as the index of a block: every answer is right or an error.
pub fn sealed_index(bytes: &[u8]) {
    let Ok(index) = SealedIndex::open(Bytes::copy_from_slice(bytes)) else { return };
    let _ = index.label_names(None);
    let _ = index.label_values("job", None);
    let matcher = Matcher::new("job", MatchOp::Regex, "a.*|").expect("a good pattern");
    if let Ok(found) = index.select(&[matcher]) {
        for id in found.iter().take(100) {
            let _ = index.labels(id);
        }
    }
}

/// Edits of a small data directory: three bytes name a place in one of its files, one says which
/// bits to turn. It opens or says why not; what it then answers, it answers a second time.
pub fn damaged_directory(bytes: &[u8]) {
    let disk = directory();
    let files = disk.files();
    for [file, high, low, bits] in bytes.as_chunks::<4>().0.iter().take(64) {
        let (path, length) = &files[usize::from(*file) % files.len()];
        if *length > 0 {
            let at = u64::from(u16::from_be_bytes([*high, *low])) % length;
            disk.corrupt(path, at, *bits);
        }
    }
    let disk = Arc::new(disk);
    let shared: Arc<dyn Disk> = disk.clone();
    let _ = verify(&shared, Depth::Decoded, &mut |_| ());
    for LiveFile { file, .. } in live_files(disk.as_ref()).unwrap_or_default() {
        let _ = match file {
            DataFile::Block(_) => inspect::block(&shared, &file.path()).map(drop),
            DataFile::Segment(number) => inspect::segment(disk.as_ref(), number).map(drop),
            _ => inspect::manifest(disk.as_ref()).map(drop),
        };
    }
    let answer = || {
        let db = Db::open(disk.clone(), Options::default(), NOW_MS).ok()?;
        Some(all_samples(&db))
    };
    let first = answer();
    if first.is_some() {
        assert_eq!(answer(), first, "a repaired directory stays as it is");
    }
    if bytes.len() < 4 {
        let all = Some((0..360).map(|i| f64::from(i).to_bits()).collect::<Vec<_>>());
        assert_eq!(first, Some(vec![all; 3]), "an undamaged directory is whole");
    }
}

const NOW_MS: i64 = 1_800_000_000_000;

/// A directory with blocks, a checkpoint and a log.
fn directory() -> SimDisk {
    let disk = Arc::new(SimDisk::new(1));
    let step = 60_000;
    let start = NOW_MS - 6 * 3_600_000;
    {
        let db = Db::open(disk.clone(), Options::default(), start).expect("an empty disk opens");
        let series: Vec<Labels> = ["a", "b", "c"]
            .iter()
            .map(|job| Labels::from_pairs([("__name__", "up"), ("job", job)]).expect("labels"))
            .collect();
        for i in 0..360 {
            let now = start + i * step;
            let rows = series.iter().map(|labels| (labels, now, i as f64));
            db.append(&Batch::of_samples(rows), now).expect("a healthy disk takes samples");
            if i % 60 == 59 {
                let _ = db.maintain(now);
            }
        }
    }
    disk.kill()
}

fn all_samples(db: &Db) -> Vec<Option<Vec<u64>>> {
    let snapshot = db.snapshot();
    let selector = Selector {
        matchers: vec![Matcher::equal("__name__", "up")],
        range: TimeRange::ALL,
        aligned_ms: 0,
    };
    let Ok(found) = snapshot.select(&[selector]) else { return Vec::new() };
    let mut samples = Samples::default();
    let mut read = |series: &icecore_storage::snapshot::SelectedSeries| {
        samples.clear();
        snapshot.read(series, &mut samples).ok()?;
        Some(samples.values.iter().map(|value| value.to_bits()).collect())
    };
    found.iter().flatten().map(&mut read).collect()
}

/// Text as a query: printed and parsed again it prints the same, prettified too.
pub fn promql(bytes: &[u8]) {
    // The server takes no longer query.
    if bytes.len() > 64 << 10 {
        return;
    }
    let Ok(expr) = parse_bytes(bytes, ParserOptions::ALL) else { return };
    let printed = expr.to_string();
    for text in [&printed, &prettify(&expr)] {
        let again = parse_bytes(text.as_bytes(), ParserOptions::ALL);
        assert_eq!(again.map(|again| again.to_string()).as_ref(), Ok(&printed), "of {text}");
    }
}

/// Text as a pattern; a newline parts it from a value. What is said about the values that match is
/// true of this one.
pub fn regex(bytes: &[u8]) {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 << 10)]);
    let (pattern, value) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(regex) = Regex::new(pattern) else { return };
    for value in [value, "", pattern] {
        let matches = regex.is_match(value);
        let possible = match regex.extent() {
            Extent::Everything => matches,
            Extent::NonEmpty => matches != value.is_empty(),
            Extent::Values(values) => matches == values.iter().any(|known| **known == *value),
            Extent::Prefix(prefix) => !matches || value.starts_with(prefix),
        };
        assert!(possible, "{pattern:?} on {value:?}");
        // Where the anchors put around a pattern are closed by it, it has another meaning.
        if let Ok(capturing) = CapturingRegex::new(pattern) {
            let mut captures = capturing.create_captures();
            assert_eq!(capturing.captures(value, &mut captures), matches, "{pattern:?} {value:?}");
        }
    }
}

/// Patterns of what means the same to Go and to Rust's crate, and values: both say the same.
pub fn regex_dialects(bytes: &[u8]) {
    const PARTS: &str = r"a b ab é . .* .+ ( (?: (?i: (?P<n> ) ) ) | | * + {0,1} *? {2} {0,2} {1,} [ab] [^a] [b-x] [é-ü] ^ $ [[:alpha:]] \. \n";
    let parts: Vec<&str> = PARTS.split(' ').collect();
    let (pattern, values) = bytes.split_at(bytes.len() / 2);
    let pattern = pattern.iter().take(64).map(|byte| parts[usize::from(*byte) % parts.len()]);
    let pattern: String = pattern.collect();
    let Ok(regex) = Regex::new(&pattern) else { return };
    // That crate wants names to be unique.
    let theirs = format!("^(?s:{})$", pattern.replace("?P<n>", ""));
    let theirs = regex_automata::meta::Regex::new(&theirs).expect("Go's dialect is the stricter");
    for value in values.chunks(8) {
        const CHARS: [char; 8] = ['a', 'b', 'A', 'é', 'É', 'x', '.', '\n'];
        let value: String = value.iter().map(|byte| CHARS[usize::from(byte % 8)]).collect();
        assert_eq!(regex.is_match(&value), theirs.is_match(&value), "{pattern} {value:?}");
    }
}

fn take_count(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<2>()?;
    Some((usize::from(u16::from_le_bytes(*count)), rest))
}
