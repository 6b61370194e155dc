//! A flood of new series under a limit of memory, beside series that are written all the time.
//!
//! The defaults take seconds. At full size, in a control group (version 1) of 1 GiB:
//!
//! ```text
//! mkdir /sys/fs/cgroup/memory/flood; echo 1G > /sys/fs/cgroup/memory/flood/memory.limit_in_bytes
//! FLOOD_SERIES=5000000 FLOOD_LIMIT=600MB FLOOD_GROUP=/sys/fs/cgroup/memory/flood \
//!     cargo test --release -p icecore-server --test real_clients flood -- --nocapture
//! ```

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::icecore::{Icecore, now_ms, write};
use crate::process::wait_for;
use crate::write_request::WriteRequest;

const STEADY: usize = 1000;
const SERIES_A_REQUEST: usize = 2000;
const SENDERS: usize = 2;

struct Size {
    series: usize,
    limit: String,
    /// More than this the process must never have had.
    bytes_max: u64,
    group: Option<String>,
}

impl Size {
    fn read() -> Size {
        let text = |name: &str| std::env::var(name).ok();
        let series = text("FLOOD_SERIES").map_or(120_000, |series| series.parse().unwrap());
        let limit = text("FLOOD_LIMIT").unwrap_or_else(|| "100MB".into());
        let megabytes: u64 = limit.strip_suffix("MB").unwrap().parse().unwrap();
        // What is meant to be 60 % of all.
        Size {
            series,
            limit,
            bytes_max: megabytes * 1_000_000 / 6 * 10,
            group: text("FLOOD_GROUP"),
        }
    }

    fn start(&self, data: &Path) -> Icecore {
        let limit = format!("--memory.limit={}", self.limit);
        let server = Icecore::start_with(data, "127.0.0.1:0", &[&limit]);
        if let Some(group) = &self.group {
            fs::write(Path::new(group).join("cgroup.procs"), server.id().to_string()).unwrap();
        }
        server
    }
}

fn steady(tick: u64, at_ms: i64) -> Vec<u8> {
    let mut request = WriteRequest::default();
    for series in 0..STEADY {
        let instance = format!("host-{series}");
        let labels = [("__name__", "steady"), ("instance", &instance), ("job", "test")];
        request = request.series(&labels, &[(at_ms, tick as f64)]);
    }
    request.snappy()
}

fn new_series(first: usize) -> Vec<u8> {
    let mut request = WriteRequest::default();
    let at_ms = now_ms();
    for series in first..first + SERIES_A_REQUEST {
        let (id, pod) = (format!("{series:08x}-request"), format!("pod-{}", series / 20));
        let labels = [
            ("__name__", "flood_requests_total"),
            ("cluster", "eu-west-1"),
            ("id", &id),
            ("job", "flood"),
            ("namespace", "default"),
            ("pod", &pod),
        ];
        request = request.series(&labels, &[(at_ms, series as f64)]);
    }
    request.snappy()
}

/// Of all steady series together, up to a time.
fn counted(server: &Icecore, at_ms: i64) -> u64 {
    let result = server.query("sum(count_over_time(steady[2h]))", at_ms);
    result.pointer("/0/value/1").and_then(Value::as_str).map_or(0, |count| count.parse().unwrap())
}

fn metric(server: &Icecore, name: &str) -> f64 {
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    let line =
        text.lines().find(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with(' ')));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Two minutes, and what it takes to put the idle ones into blocks.
fn wait_for_room(server: &Icecore, first: usize) {
    let started = Instant::now();
    wait_for("room for new series", Duration::from_secs(400), || {
        std::thread::sleep(Duration::from_secs(2));
        let answer = write(server.address, "snappy", &new_series(first)).unwrap();
        (answer.status == 204).then_some(())
    });
    println!(
        "new series were taken again after {:?}; peak {} MB, {} series in the head, {} blocks",
        started.elapsed(),
        server.memory_bytes("VmHWM") / 1_000_000,
        metric(server, "icecore_head_series"),
        metric(server, "icecore_blocks"),
    );
}

#[test]
fn a_flood_of_new_series_is_survived_and_harms_no_others() {
    let size = Size::read();
    let folder = tempfile::tempdir().unwrap();
    let server = size.start(folder.path());
    let (ticks, stored, waited) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let tick = || {
        let number = ticks.load(Ordering::Relaxed);
        let answer = write(server.address, "snappy", &steady(number, now_ms())).unwrap();
        assert_eq!(answer.status, 204, "series that are known go on: {}", answer.text());
        ticks.store(number + 1, Ordering::Relaxed);
    };
    tick();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let flood = || {
            loop {
                let first = next.fetch_add(SERIES_A_REQUEST as u64, Ordering::Relaxed) as usize;
                if first >= size.series {
                    return;
                }
                let answer = write(server.address, "snappy", &new_series(first)).unwrap();
                match answer.status {
                    204 => stored.fetch_add(1, Ordering::Relaxed),
                    503 => {
                        assert!(answer.text().contains("--memory.limit"), "{}", answer.text());
                        assert!(answer.header("retry-after").is_some());
                        waited.fetch_add(1, Ordering::Relaxed)
                    }
                    other => panic!("{other}: {}", answer.text()),
                };
            }
        };
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(flood)).collect();
        let steady = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                tick();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let ended: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        steady.join().unwrap();
        assert!(ended.into_iter().all(|sender| sender.is_ok()));
    });
    let at_ms = now_ms();
    let peak = server.memory_bytes("VmHWM");
    let requests = [&stored, &waited].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{} series in {:?}: {} requests stored, {} had to wait, {} ticks beside them; \
         peak {} MB, head {} MB by its own count in {} series",
        size.series,
        started.elapsed(),
        requests[0],
        requests[1],
        ticks.load(Ordering::Relaxed),
        peak / 1_000_000,
        metric(&server, "icecore_head_bytes") as u64 / 1_000_000,
        metric(&server, "icecore_head_series"),
    );
    assert!(requests[0] > 0 && requests[1] > 0, "{requests:?}");
    assert!(peak < size.bytes_max, "{peak}");
    let expected = ticks.load(Ordering::Relaxed) * STEADY as u64;
    assert_eq!(counted(&server, at_ms), expected);
    if size.group.is_some() {
        wait_for_room(&server, size.series);
        assert!(server.memory_bytes("VmHWM") < size.bytes_max);
        assert_eq!(counted(&server, at_ms), expected);
    }
    server.kill();

    let started = Instant::now();
    let server = size.start(folder.path());
    let peak = server.memory_bytes("VmHWM");
    println!("started again in {:?}, peak {} MB", started.elapsed(), peak / 1_000_000);
    assert!(peak < size.bytes_max, "{peak}");
    assert_eq!(counted(&server, at_ms), expected);
    let answer = write(server.address, "snappy", &steady(0, now_ms())).unwrap();
    assert_eq!(answer.status, 204, "{}", answer.text());
}
