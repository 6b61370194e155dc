//! Sending a workload to a server and counting what it cost.
//!
//! Requests are made beforehand into one file for each connection ([`Prepared`]), so that making
//! them disturbs nothing; they are read back from the page cache. Connections keep within a few
//! requests of each other, as the shards of one sender do.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bodies::{Plan, compress};
use crate::http::{Client, split_url};
use crate::process;

/// How many requests one connection may be ahead of another.
const LEAD_MAX: usize = 8;

/// The requests of a plan, one file for each connection: length in 4 bytes, body, and so on. The
/// files go when this does.
#[derive(Debug)]
pub struct Prepared {
    files: Vec<PathBuf>,
    pub samples: usize,
}

impl Prepared {
    pub fn write(plan: &Plan, directory: &Path) -> Result<Prepared> {
        let files: Vec<PathBuf> = (0..plan.connections)
            .map(|connection| directory.join(format!("bodies-{}-{connection}", plan.seed)))
            .collect();
        std::thread::scope(|scope| {
            let write = |(connection, path): (usize, &PathBuf)| {
                let path = path.clone();
                scope.spawn(move || write_bodies(plan, connection, &path))
            };
            let writers: Vec<_> = files.iter().enumerate().map(write).collect();
            writers
                .into_iter()
                .try_for_each(|writer| writer.join().expect("a writer does not panic"))
        })?;
        Ok(Prepared { files, samples: plan.samples() })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for file in &self.files {
            // What cannot be removed is in a temporary directory.
            let _ = std::fs::remove_file(file);
        }
    }
}

fn write_bodies(plan: &Plan, connection: usize, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut stream = plan.stream(connection);
    let mut request = Vec::new();
    while stream.next_request(&mut request) > 0 {
        let body = compress(&request);
        out.write_all(&u32::try_from(body.len())?.to_le_bytes())?;
        out.write_all(&body)?;
    }
    Ok(out.flush()?)
}

/// What sending cost.
#[derive(Debug, Default)]
pub struct Report {
    pub samples: usize,
    pub wall_seconds: f64,
    /// Of the server, to the end of settling.
    pub cpu_seconds: f64,
    pub request_p50_ms: f64,
    pub request_p99_ms: f64,
    pub peak_bytes: u64,
    /// The most anonymous memory seen, by looking ten times a second.
    pub peak_anonymous_bytes: u64,
    /// Requests that were answered with 503 and sent again.
    pub retried: u64,
}

impl Report {
    pub fn samples_per_cpu_second(&self) -> f64 {
        self.samples as f64 / self.cpu_seconds
    }
}

/// Sends all requests to `url`, whose server is process `pid`, and waits for it to settle.
pub fn run(prepared: &Prepared, url: &str, pid: u32, settle: Duration) -> Result<Report> {
    let cpu_before = process::cpu_seconds(pid)?;
    let (done, peak_anonymous) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    let (sent, wall_seconds) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let memory = process::memory(pid).unwrap_or_default();
                peak_anonymous.fetch_max(memory.anonymous, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let sent = send_all(prepared, url);
        let wall_seconds = start.elapsed().as_secs_f64();
        let settled = process::wait_until_idle(pid, settle);
        done.store(true, Ordering::Relaxed);
        settled.and(sent).map(|sent| (sent, wall_seconds))
    })?;
    let mut latencies: Vec<f64> =
        sent.iter().flat_map(|sent| &sent.latencies_ms).copied().collect();
    latencies.sort_by(f64::total_cmp);
    let percentile = |share: f64| {
        let at = (latencies.len() as f64 * share) as usize;
        latencies.get(at.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    Ok(Report {
        samples: prepared.samples,
        wall_seconds,
        cpu_seconds: process::cpu_seconds(pid)? - cpu_before,
        request_p50_ms: percentile(0.5),
        request_p99_ms: percentile(0.99),
        peak_bytes: process::memory(pid)?.peak,
        peak_anonymous_bytes: peak_anonymous.into_inner(),
        retried: sent.iter().map(|sent| sent.retried).sum(),
    })
}

#[derive(Default)]
struct Sent {
    latencies_ms: Vec<f64>,
    retried: u64,
}

fn send_all(prepared: &Prepared, url: &str) -> Result<Vec<Sent>> {
    let pace = Pace::new(prepared.files.len());
    std::thread::scope(|scope| {
        let send = |(connection, file): (usize, &PathBuf)| {
            let pace = &pace;
            let file = file.clone();
            scope.spawn(move || {
                let sent = send_file(&file, url, connection, pace);
                pace.finish(connection);
                sent
            })
        };
        let senders: Vec<_> = prepared.files.iter().enumerate().map(send).collect();
        senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
    })
}

fn send_file(path: &Path, url: &str, connection: usize, pace: &Pace) -> Result<Sent> {
    let (address, target) = split_url(url)?;
    let mut client = Client::connect(address)?;
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let headers = [
        ("Content-Encoding", "snappy"),
        ("Content-Type", "application/x-protobuf"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
        ("User-Agent", "icecore-load"),
    ];
    let mut sent = Sent::default();
    let mut body = Vec::new();
    let mut length = [0; 4];
    while file.read_exact(&mut length).is_ok() {
        body.resize(u32::from_le_bytes(length) as usize, 0);
        file.read_exact(&mut body)?;
        pace.wait(connection);
        loop {
            let start = Instant::now();
            let response = client.request("POST", target, &headers, &body)?;
            sent.latencies_ms.push(start.elapsed().as_secs_f64() * 1e3);
            match response.status {
                200 | 204 => break,
                503 => {
                    sent.retried += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => {
                    bail!("{url} answered {other}: {}", String::from_utf8_lossy(&response.body))
                }
            }
        }
        pace.step(connection);
    }
    Ok(sent)
}

/// Keeps connections near each other.
struct Pace {
    sent: Mutex<Vec<usize>>,
    changed: Condvar,
}

impl Pace {
    fn new(connections: usize) -> Pace {
        Pace { sent: Mutex::new(vec![0; connections]), changed: Condvar::new() }
    }

    fn wait(&self, connection: usize) {
        let sent = self.sent.lock().expect("no sender panics");
        let ahead = |sent: &mut Vec<usize>| {
            sent[connection] > sent.iter().copied().min().unwrap_or(0) + LEAD_MAX
        };
        drop(self.changed.wait_while(sent, ahead).expect("no sender panics"));
    }

    fn step(&self, connection: usize) {
        self.sent.lock().expect("no sender panics")[connection] += 1;
        self.changed.notify_all();
    }

    /// Nobody waits for a connection that has nothing more to send.
    fn finish(&self, connection: usize) {
        self.sent.lock().expect("no sender panics")[connection] = usize::MAX - LEAD_MAX;
        self.changed.notify_all();
    }
}
