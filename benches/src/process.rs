//! What a process costs, from Linux's `/proc`, and what a directory takes on disk.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// `USER_HZ`, which Linux fixes at 100 towards user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system CPU seconds that a process has used, to 10 ms.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command's name is in parentheses and may hold anything; times are fields 14 and 15.
    let after = stat.rfind(')').map(|at| &stat[at + 1..]).context("/proc/PID/stat")?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let ticks =
        |field: usize| -> Result<f64> { Ok(fields.get(field - 3).context("field")?.parse()?) };
    Ok((ticks(14)? + ticks(15)?) / TICKS_PER_SECOND)
}

/// What this thread has used of the processor; `None` where that cannot be told.
pub fn thread_cpu() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// The most that was ever resident, mapped files included.
    pub peak: u64,
    pub resident: u64,
    /// Resident and not of a file.
    pub anonymous: u64,
}

pub fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Ok(Memory { peak: bytes("VmHWM:"), resident: bytes("VmRSS:"), anonymous: bytes("RssAnon:") })
}

/// Bytes that the files below a directory occupy, holes not counted.
pub fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        // A file that was just removed takes nothing.
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

/// Waits until a process uses less than 1 % of a CPU for 5 s, but no longer than `longest`.
pub fn wait_until_idle(pid: u32, longest: Duration) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(5);
    let start = Instant::now();
    while start.elapsed() + QUIET < longest {
        let before = cpu_seconds(pid)?;
        std::thread::sleep(QUIET);
        if cpu_seconds(pid)? - before < 0.01 * QUIET.as_secs_f64() {
            break;
        }
    }
    Ok(())
}
