//! Bytes, instructions and time a value: our float codec beside XOR (Gorilla), on real metrics.
//!
//! `cargo bench -p icecore-benches --bench codec`
//!
//! Counted are the bytes of whole chunks of each series, headers included, nothing else: for our
//! codec all that [`decimal::Encoder`] writes, for XOR the value bits alone (8 bytes of the first
//! value, then the codes, padded to a byte), without the timestamps and the count of a Prometheus
//! chunk. What a series has left after its last whole chunk is one shorter chunk; it is counted
//! in the row "with leftovers" only. Every chunk of both codecs is decoded and compared bit by bit.
//!
//! Instructions are counted by callgrind: this program runs itself under valgrind on a sample of
//! the chunks (every fortieth), with two repeat counts, and the difference is what the repeats
//! took. Times are the least of nine runs over all whole chunks; without valgrind there is no more.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use icecore_benches::exporters::{ExporterSeries, exporter_series};
use icecore_storage::encoding::{decimal, timestamps, xor};

/// Runs over all chunks of which the fastest counts.
const RUNS: usize = 9;
/// One chunk out of so many goes to valgrind.
const SAMPLE_STEP: usize = 40;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    if let Some(measure) = option("--measure") {
        let repeat = option("--repeat").context("--measure needs --repeat")?.parse()?;
        let chunk = option("--chunk").context("--measure needs --chunk")?.parse()?;
        return measure_stdin(Work::parse(&measure)?, repeat, chunk);
    }
    let series = exporter_series()?;
    let values: usize = series.iter().map(|series| series.values.len()).sum();
    println!("{} series, {values} values", series.len());
    for (title, stride, length) in [("every value", 1, 480), ("every tenth value", 10, 200)] {
        println!("\n{title}, chunks of {length}");
        let chunks = Chunks::cut(&series, stride, length);
        print_sizes(&chunks)?;
        print_times(&chunks)?;
    }
    print_timestamps()?;
    println!("\nother chunk lengths, every value: bytes a value, ours and XOR");
    for length in [32, 64, 120, 960, 1920] {
        let chunks = Chunks::cut(&series, 1, length);
        let [ours, xor] =
            [Codec::Ours, Codec::Xor].map(|codec| bytes_a_value(codec, &chunks.whole));
        println!("  {length:>5}  {ours:.4}  {xor:.4}");
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Codec {
    Ours,
    Xor,
}

impl Codec {
    fn encode(self, encoder: &mut decimal::Encoder, values: &[f64], out: &mut Vec<u8>) {
        match self {
            Codec::Ours => encoder.encode(values, out),
            Codec::Xor => xor::encode_values(values, out),
        }
    }

    fn decode(self, bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Option<()> {
        match self {
            Codec::Ours => decimal::decode(bytes, count, out),
            Codec::Xor => xor::decode_values(bytes, count, out),
        }
    }
}

struct Chunks {
    length: usize,
    whole: Vec<Vec<f64>>,
    leftovers: Vec<Vec<f64>>,
}

impl Chunks {
    fn cut(series: &[ExporterSeries], stride: usize, length: usize) -> Chunks {
        let (mut whole, mut leftovers) = (Vec::new(), Vec::new());
        for series in series {
            let values: Vec<f64> = series.values.iter().copied().step_by(stride).collect();
            let chunks = values.chunks_exact(length);
            if !chunks.remainder().is_empty() {
                leftovers.push(chunks.remainder().to_vec());
            }
            whole.extend(chunks.map(<[f64]>::to_vec));
        }
        Chunks { length, whole, leftovers }
    }
}

fn encode_all(codec: Codec, chunks: &[Vec<f64>]) -> Vec<Vec<u8>> {
    let mut encoder = decimal::Encoder::default();
    let encode = |values: &Vec<f64>| {
        let mut bytes = Vec::new();
        codec.encode(&mut encoder, values, &mut bytes);
        bytes
    };
    chunks.iter().map(encode).collect()
}

fn count(chunks: &[Vec<f64>]) -> usize {
    chunks.iter().map(Vec::len).sum()
}

fn bytes_a_value(codec: Codec, chunks: &[Vec<f64>]) -> f64 {
    let bytes: usize = encode_all(codec, chunks).iter().map(Vec::len).sum();
    bytes as f64 / count(chunks) as f64
}

fn print_sizes(chunks: &Chunks) -> anyhow::Result<()> {
    let all: Vec<Vec<f64>> = chunks.whole.iter().chain(&chunks.leftovers).cloned().collect();
    for (title, chunks) in [("whole chunks", &chunks.whole), ("with leftovers", &all)] {
        for codec in [Codec::Ours, Codec::Xor] {
            verify(codec, chunks)?;
        }
        let [ours, xor] = [Codec::Ours, Codec::Xor].map(|codec| bytes_a_value(codec, chunks));
        println!(
            "  {title:<15} {:>8} values  ours {ours:.4} B  XOR {xor:.4} B  ({:.2} times)",
            count(chunks),
            xor / ours
        );
    }
    print_forms(&chunks.whole);
    Ok(())
}

fn verify(codec: Codec, chunks: &[Vec<f64>]) -> anyhow::Result<()> {
    let mut back = Vec::new();
    for (values, bytes) in chunks.iter().zip(encode_all(codec, chunks)) {
        back.clear();
        codec.decode(&bytes, values.len(), &mut back).context("own bytes do not decode")?;
        let same = back.len() == values.len()
            && back.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits());
        ensure!(same, "a chunk does not round-trip");
    }
    Ok(())
}

/// Where our bytes go, by the form of the chunk (the high half of its first byte).
fn print_forms(chunks: &[Vec<f64>]) {
    let mut forms: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut total = 0;
    for (values, bytes) in chunks.iter().zip(encode_all(Codec::Ours, chunks)) {
        let name = match (bytes[0] >> 4, bytes[0] & 15) {
            (0, _) | (15, 3) => "constant",
            (1, _) => "ramp",
            (2..=13, 0) => "decimal, integers",
            (2..=13, _) => "decimal, fractions",
            (14, _) => "sum",
            (_, 4) => "XOR",
            _ => "bits",
        };
        let form = forms.entry(name).or_default();
        form.0 += values.len();
        form.1 += bytes.len();
        total += bytes.len();
    }
    for (name, (values, bytes)) in forms {
        println!(
            "    {name:<20} {:>5.1} % of values  {:>5.1} % of bytes  {:.3} B",
            100.0 * values as f64 / count(chunks) as f64,
            100.0 * bytes as f64 / total as f64,
            bytes as f64 / values as f64
        );
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Encode,
    Decode,
}

#[derive(Clone, Copy)]
struct Work {
    codec: Codec,
    direction: Direction,
}

impl Work {
    const ALL: [(&str, Work); 4] = [
        ("encode-ours", Work { codec: Codec::Ours, direction: Direction::Encode }),
        ("encode-xor", Work { codec: Codec::Xor, direction: Direction::Encode }),
        ("decode-ours", Work { codec: Codec::Ours, direction: Direction::Decode }),
        ("decode-xor", Work { codec: Codec::Xor, direction: Direction::Decode }),
    ];

    fn parse(name: &str) -> anyhow::Result<Work> {
        let found = Work::ALL.iter().find(|(known, _)| *known == name);
        Ok(found.with_context(|| format!("unknown measure {name}"))?.1)
    }

    /// Does it once over all chunks, with memory that is reused.
    fn run(self, scratch: &mut Scratch, chunks: &[Vec<f64>], encoded: &[Vec<u8>]) {
        match self.direction {
            Direction::Encode => {
                for values in chunks {
                    scratch.bytes.clear();
                    self.codec.encode(&mut scratch.encoder, black_box(values), &mut scratch.bytes);
                    black_box(&scratch.bytes);
                }
            }
            Direction::Decode => {
                for (values, bytes) in chunks.iter().zip(encoded) {
                    scratch.values.clear();
                    let decoded =
                        self.codec.decode(black_box(bytes), values.len(), &mut scratch.values);
                    assert!(decoded.is_some(), "own bytes decode");
                    black_box(&scratch.values);
                }
            }
        }
    }
}

#[derive(Default)]
struct Scratch {
    encoder: decimal::Encoder,
    bytes: Vec<u8>,
    values: Vec<f64>,
}

fn print_times(chunks: &Chunks) -> anyhow::Result<()> {
    let total = count(&chunks.whole) as f64;
    for (name, work) in Work::ALL {
        let encoded = encode_all(work.codec, &chunks.whole);
        let mut scratch = Scratch::default();
        let nanoseconds = (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                work.run(&mut scratch, &chunks.whole, &encoded);
                start.elapsed().as_nanos()
            })
            .min()
            .expect("some runs");
        let instructions = match instructions(name, chunks) {
            Ok(instructions) => format!("{instructions:6.1} instructions"),
            Err(error) => format!("no instruction counts ({error:#})"),
        };
        println!("  {name:<12} {:6.2} ns  {instructions}  a value", nanoseconds as f64 / total);
    }
    Ok(())
}

/// Columns of a scrape group: 15 s apart, 480 of them.
fn print_timestamps() -> anyhow::Result<()> {
    println!("\ntimestamps, columns of 480, 15 s apart");
    let late = |row: i64| (row.wrapping_mul(0x5851_f42d_4c95_7f2d) >> 33).rem_euclid(7) - 3;
    let column = |jitter: &dyn Fn(i64) -> i64| -> Vec<i64> {
        (0..480).map(|row| 1_700_000_000_123 + row * 15_000 + jitter(row)).collect()
    };
    let columns = [
        ("regular", column(&|_| 0)),
        ("1 % late by 1 ms", column(&|row| i64::from(row % 100 == 50))),
        ("jitter of 3 ms", column(&late)),
    ];
    for (title, column) in columns {
        let mut bytes = Vec::new();
        timestamps::encode(&column, &mut bytes);
        let mut back = Vec::new();
        let run = |back: &mut Vec<i64>| {
            let start = Instant::now();
            for _ in 0..200 {
                back.clear();
                black_box(timestamps::decode(black_box(&bytes), column.len(), back));
            }
            start.elapsed().as_nanos() as f64 / (200 * column.len()) as f64
        };
        let nanoseconds = (0..RUNS).map(|_| run(&mut back)).fold(f64::INFINITY, f64::min);
        ensure!(back == column, "timestamps do not round-trip");
        println!(
            "  {title:<17} {:>4} bytes, {:.3} B and {nanoseconds:.2} ns to decode a timestamp",
            bytes.len(),
            bytes.len() as f64 / column.len() as f64
        );
    }
    Ok(())
}

/// Instructions a value, from two runs under callgrind.
fn instructions(measure: &str, chunks: &Chunks) -> anyhow::Result<f64> {
    let sample: Vec<&Vec<f64>> = chunks.whole.iter().step_by(SAMPLE_STEP).collect();
    let [few, many] = [1, 4].map(|repeat| collected(measure, repeat, chunks.length, &sample));
    Ok((many? - few?) as f64 / (3 * sample.len() * chunks.length) as f64)
}

fn collected(
    measure: &str,
    repeat: usize,
    chunk: usize,
    sample: &[&Vec<f64>],
) -> anyhow::Result<u64> {
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--measure", measure])
        .args(["--repeat", &repeat.to_string(), "--chunk", &chunk.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("valgrind does not start")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let bytes: Vec<u8> =
        sample.iter().flat_map(|values| values.iter()).flat_map(|v| v.to_le_bytes()).collect();
    stdin.write_all(&bytes)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let Some((_, rest)) = text.split_once("Collected : ") else {
        bail!("callgrind said nothing: {text}");
    };
    Ok(rest.split_whitespace().next().context("no count")?.parse()?)
}

/// The other side of [`collected`]: chunks come in as raw values.
fn measure_stdin(work: Work, repeat: usize, length: usize) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    let (values, _) = bytes.as_chunks::<8>();
    let values: Vec<f64> = values.iter().map(|value| f64::from_le_bytes(*value)).collect();
    let chunks: Vec<Vec<f64>> = values.chunks_exact(length).map(<[f64]>::to_vec).collect();
    let encoded = encode_all(work.codec, &chunks);
    let mut scratch = Scratch::default();
    for _ in 0..repeat {
        work.run(&mut scratch, &chunks, &encoded);
    }
    Ok(())
}
