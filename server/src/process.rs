//! What the operating system says about this process, for the usual `process_…` metrics.
//!
//! Read from `/proc`; where there is none, or where a line is missing, the value is absent.

use std::fs;
use std::path::{Path, PathBuf};

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
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let files = group_files(&groups).into_iter();
    // "max", or a number that no machine has, stands for no limit.
    let limits = files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    machine.into_iter().chain(limits).min()
}

/// Where the limits of a process's control groups are, version 2 and 1, from `/proc/self/cgroup`. A
/// group is bounded by those above it too. In a container, whose own group is the root of what it
/// sees, the path may lead nowhere.
fn group_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|group| Path::new(root).join(group).join(name)));
    }
    files
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
    fn a_group_is_bounded_by_those_above_it() {
        let found = group_files("4:cpu,memory:/a/b\n0::/c\n1:cpu:/d\nnonsense\n");
        let expected = [
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/c/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
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
