//! The `icecore` binary as its users run it: a process, a port, a data directory.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{self, Answer};
use crate::process::{Process, wait_for};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A started Icecore. When it goes, its log is searched for panics.
#[derive(Debug)]
pub(crate) struct Icecore {
    pub(crate) address: SocketAddr,
    process: Process,
    /// The log is never in the data directory, which may be full.
    _log_folder: TempDir,
}

impl Icecore {
    /// Starts it on a data directory and a free port, and waits until it is ready.
    pub(crate) fn start(data: &Path) -> Icecore {
        Icecore::start_on(data, "127.0.0.1:0")
    }

    pub(crate) fn start_on(data: &Path, address: &str) -> Icecore {
        Icecore::start_with(data, address, &[])
    }

    pub(crate) fn start_with(data: &Path, address: &str, flags: &[&str]) -> Icecore {
        let (mut process, log_folder) = Icecore::spawn(data, address, flags);
        let address = wait_for("icecore", START_TIMEOUT, || {
            let log = process.log();
            if let Some(status) = process.ended() {
                panic!("icecore ended with {status}:\n{log}");
            }
            let url = log.split_once("open     http://")?.1;
            Some(url.split_once('/')?.0.parse().unwrap())
        });
        Icecore { address, process, _log_folder: log_folder }
    }

    /// Starts it where it should refuse to run; its status and what it said.
    pub(crate) fn refused(data: &Path) -> (bool, String) {
        let (mut process, _log_folder) = Icecore::spawn(data, "127.0.0.1:0", &[]);
        let status = wait_for("icecore to refuse", START_TIMEOUT, || process.ended());
        (status.success(), process.log())
    }

    fn spawn(data: &Path, address: &str, flags: &[&str]) -> (Process, TempDir) {
        let folder = TempDir::new().unwrap();
        let mut arguments = vec![
            format!("--storage.path={}", data.display()),
            format!("--web.listen-address={address}"),
        ];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let log = folder.path().join("icecore.log");
        (Process::start(env!("CARGO_BIN_EXE_icecore"), &arguments, &log), folder)
    }

    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    pub(crate) fn terminate(mut self) {
        let status = self.process.terminate();
        assert!(status.success(), "icecore ended with {status}:\n{}", self.process.log());
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        client::send(self.address, "GET", path, &[], b"").expect("icecore answers")
    }

    pub(crate) fn post_form(&self, path: &str, parameters: &[(&str, &str)]) -> Answer {
        post_form(self.address, path, parameters).expect("icecore answers")
    }

    /// `data.result` of an instant query.
    pub(crate) fn query(&self, query: &str, at_ms: i64) -> Value {
        let at = seconds(at_ms);
        let mut data = self.post_form("/api/v1/query", &[("query", query), ("time", &at)]).data();
        data["result"].take()
    }

    pub(crate) fn write(&self, encoding: &str, body: &[u8]) -> Answer {
        write(self.address, encoding, body).expect("icecore answers")
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A figure of `/proc/…/status` in bytes: `VmRSS`, or `VmHWM` for its peak.
    pub(crate) fn memory_bytes(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// From now on the peak is counted anew.
    pub(crate) fn forget_memory_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
    }
}

impl Drop for Icecore {
    fn drop(&mut self) {
        let log = self.process.log();
        if std::thread::panicking() {
            let end: Vec<&str> = log.lines().rev().take(30).collect();
            for line in end.iter().rev() {
                println!("icecore: {line}");
            }
        } else {
            assert!(!log.contains("panicked"), "icecore panicked:\n{log}");
        }
    }
}

/// A body of remote write, as `encoding` says.
pub(crate) fn write(address: SocketAddr, encoding: &str, body: &[u8]) -> io::Result<Answer> {
    let headers = [
        ("Content-Encoding", encoding),
        ("Content-Type", "application/x-protobuf"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    client::send(address, "POST", "/api/v1/write", &headers, body)
}

pub(crate) fn post_form(
    address: SocketAddr,
    path: &str,
    parameters: &[(&str, &str)],
) -> io::Result<Answer> {
    let mut form = String::new();
    for (name, value) in parameters {
        write!(form, "{}{name}=", if form.is_empty() { "" } else { "&" }).unwrap();
        form.extend(value.bytes().map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        }));
    }
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    client::send(address, "POST", path, &headers, form.as_bytes())
}

/// A time as the API takes it.
pub(crate) fn seconds(time_ms: i64) -> String {
    format!("{}.{:03}", time_ms.div_euclid(1000), time_ms.rem_euclid(1000))
}

#[expect(clippy::disallowed_methods, reason = "the programs under test read the same clock")]
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}
