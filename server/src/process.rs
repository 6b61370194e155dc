//! What the operating system says about this process, for the usual `process_…` metrics.
//!
//! Read from `/proc`; where there is none, or where a line is missing, the value is absent.

use std::fs;

/// Clock ticks a second in `/proc/self/stat`: 100 on every Linux that runs here (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessStats {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    /// Without mapped files: what the process itself has allocated.
    pub resident_anonymous_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub open_files_max: Option<u64>,
    pub threads: Option<u64>,
}

impl ProcessStats {
    pub(crate) fn read() -> ProcessStats {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name| first_number(&status, name).map(|kib| kib * 1024);
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        ProcessStats {
            cpu_seconds: fs::read_to_string("/proc/self/stat").ok().and_then(|s| cpu_seconds(&s)),
            resident_bytes: kib("VmRSS:"),
            resident_anonymous_bytes: kib("RssAnon:"),
            virtual_bytes: kib("VmSize:"),
            open_files: fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as u64),
            open_files_max: first_number(&limits, "Max open files"),
            threads: first_number(&status, "Threads:"),
        }
    }
}

/// Memory that the process may use: that of the machine, or less where a control group says so.
pub(crate) fn machine_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = first_number(&machine, "MemTotal:").map(|kib| kib * 1024);
    // In a container its own group is the root of what it sees.
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    let group = group.trim().parse().ok();
    [machine, group].into_iter().flatten().min()
}

/// The number that follows `name` at the start of a line.
fn first_number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time, fields 14 and 15. The command's name, field 2, may hold spaces and
/// parentheses; what follows its last parenthesis is field 3.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_no_field() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_described() {
        let stats = ProcessStats::read();
        assert!(stats.cpu_seconds.is_some() && stats.open_files.unwrap() > 2);
        assert!(stats.resident_bytes.unwrap() > 1 << 20);
        assert!(machine_bytes() > stats.resident_bytes);
    }
}
