//! Debian's Prometheus and Icecore side by side: what is written goes to both, and both are asked.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{self, Answer};
use crate::icecore::{Icecore, post_form, write};
use crate::process::{Process, are_installed, free_address, wait_for};
use crate::write_request::WriteRequest;

const PROMETHEUS: &str = "prometheus";

pub(crate) fn is_installed() -> bool {
    are_installed(&[PROMETHEUS])
}

pub(crate) struct Pair {
    icecore: Icecore,
    _prometheus: Process,
    prometheus_address: SocketAddr,
    _folder: TempDir,
}

impl Pair {
    /// Both take samples of any age.
    pub(crate) fn start() -> Pair {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("prometheus.yml"), "global: {}\n").unwrap();
        let address = free_address();
        let prometheus = Process::start(
            PROMETHEUS,
            &[
                format!("--config.file={}", path("prometheus.yml").display()),
                format!("--storage.tsdb.path={}", path("prometheus").display()),
                format!("--web.listen-address={address}"),
                "--web.enable-remote-write-receiver".into(),
                "--storage.tsdb.retention.time=100y".into(),
            ],
            &path("prometheus.log"),
        );
        let icecore =
            Icecore::start_with(&path("icecore"), "127.0.0.1:0", &["--storage.retention=100y"]);
        wait_for("prometheus to be ready", Duration::from_secs(60), || {
            let answer = client::send(address, "GET", "/-/ready", &[], b"").ok()?;
            (answer.status == 200).then_some(())
        });
        Pair { icecore, _prometheus: prometheus, prometheus_address: address, _folder: folder }
    }

    pub(crate) fn write(&self, request: &WriteRequest) {
        for server in [self.prometheus_address, self.icecore.address] {
            let answer = write(server, "snappy", &request.snappy()).unwrap();
            assert_eq!(answer.status, 204, "{}", answer.text());
        }
    }

    /// The answers of Prometheus and of Icecore.
    pub(crate) fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> [Answer; 2] {
        let theirs = post_form(self.prometheus_address, path, parameters).unwrap();
        [theirs, self.icecore.post_form(path, parameters)]
    }

    /// The answers to a GET, of Prometheus and of Icecore.
    pub(crate) fn get(&self, path: &str) -> [Answer; 2] {
        let theirs = client::send(self.prometheus_address, "GET", path, &[], b"").unwrap();
        [theirs, self.icecore.get(path)]
    }

    pub(crate) fn end(self) {
        self.icecore.terminate();
    }
}
