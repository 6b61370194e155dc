//! The data directory: on a disk that runs full, and wanted by two processes.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::icecore::{Icecore, now_ms};
use crate::process::{skip, wait_for};
use crate::write_request::WriteRequest;

const DISK_BYTES: u64 = 48 << 20;

/// Samples of a request, with values that do not compress.
const SAMPLES: usize = 20_000;

/// Requests that fill what the log had reserved before the disk was full, and then some.
const REQUESTS_MAX: i64 = 2_000;

const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);

/// A small disk of its own, gone when it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount() -> Option<SmallDisk> {
        let folder = TempDir::new().unwrap();
        let size = format!("size={DISK_BYTES}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output()
            .ok()?;
        mount.status.success().then_some(SmallDisk(folder))
    }

    /// Takes all of its space.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        for bytes in [&[0x5a; 1 << 20][..], &[0x5a; 4096][..], &[0x5a; 1][..]] {
            while file.write_all(bytes).is_ok() {}
        }
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_stops_writes_for_as_long_as_it_is_full() {
    let Some(disk) = SmallDisk::mount() else {
        return skip("a tmpfs cannot be mounted");
    };
    let data = disk.0.path().join("data");
    let mut server = Icecore::start(&data);
    let mut writer = Writer { base_ms: now_ms() - 10 * 60_000, acknowledged: Vec::new(), next: 0 };
    assert_eq!(writer.write(&server), 204);

    disk.fill();
    let refused = (0..REQUESTS_MAX).find(|_| writer.write(&server) != 204);
    assert!(refused.is_some(), "{REQUESTS_MAX} requests found room on a full disk");
    // Upkeep meets the full disk as well.
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        writer.write(&server);
        writer.check(&server);
        assert_eq!(server.get("/-/healthy").status, 200);
        std::thread::sleep(Duration::from_millis(200));
    }

    fs::remove_file(disk.filler()).unwrap();
    wait_for("writes to go on", RECOVERY_TIMEOUT, || (writer.write(&server) == 204).then_some(()));
    for _ in 0..3 {
        assert_eq!(writer.write(&server), 204, "it has recovered");
    }
    writer.check(&server);
    server.kill();
    server = Icecore::start(&data);
    writer.check(&server);
    server.terminate();
}

/// Writes requests of random values, and knows which were acknowledged.
struct Writer {
    base_ms: i64,
    /// Numbers of requests; each is a sample of `marker`.
    acknowledged: Vec<i64>,
    next: i64,
}

impl Writer {
    /// The status of the next request: 204 or a well-formed 503.
    fn write(&mut self, server: &Icecore) -> u16 {
        let number = self.next;
        self.next += 1;
        let mut random = number as u64 + 1;
        let samples: Vec<(i64, f64)> = (0..SAMPLES as i64)
            .map(|i| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (self.base_ms + i, f64::from_bits(random >> 2))
            })
            .collect();
        let series = number.to_string();
        let body = WriteRequest::default()
            .series(&[("__name__", "marker")], &[(self.base_ms + number, number as f64)])
            .series(&[("__name__", "filler"), ("series", &*series)], &samples)
            .snappy();
        let answer = server.write("snappy", &body);
        match answer.status {
            204 => self.acknowledged.push(number),
            503 => {
                let retry_after: u32 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=120).contains(&retry_after), "Retry-After: {retry_after}");
                assert!(!answer.text().trim().is_empty(), "it does not say why");
            }
            other => panic!("{other}: {}", answer.text()),
        }
        answer.status
    }

    /// What was acknowledged is there once, and nothing else is.
    fn check(&self, server: &Icecore) {
        let result = server.query("marker[1h]", now_ms());
        let points = result[0]["values"].as_array().unwrap().iter();
        let stored: Vec<i64> =
            points.map(|point| point[1].as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(stored, self.acknowledged);
        let result = server.query("count(count_over_time(filler[1h]) == 20000)", now_ms());
        assert_eq!(result[0]["value"][1], self.acknowledged.len().to_string());
    }
}

#[test]
fn a_second_process_is_refused() {
    let folder = TempDir::new().unwrap();
    let server = Icecore::start(folder.path());
    let (success, log) = Icecore::refused(folder.path());
    assert!(!success, "{log}");
    assert!(log.contains("in use by another process"), "{log}");
    assert!(names(&log, folder.path()), "{log}");
    assert_eq!(server.get("/-/ready").status, 200);
    let request = WriteRequest::default().series(&[("__name__", "a")], &[(now_ms(), 1.0)]);
    assert_eq!(server.write("snappy", &request.snappy()).status, 204);
    // The lock goes with the process, however it ends.
    server.kill();
    Icecore::start(folder.path()).terminate();
}

fn names(log: &str, path: &Path) -> bool {
    log.contains(path.to_str().unwrap())
}
