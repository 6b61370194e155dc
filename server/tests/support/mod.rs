//! A server in this process, and a client small enough to be beyond doubt: one request a
//! connection, bytes in, bytes out.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use icecore_server::{Config, Server};
use tokio::sync::oneshot;

/// A running server; stopped, with its database closed, when it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Running {
    /// Starts a server on a free port and a folder, and waits until it is ready.
    pub(crate) fn start(folder: &Path) -> Running {
        Running::start_with(Config::new(folder)).expect("the server starts")
    }

    pub(crate) fn start_with(mut config: Config) -> anyhow::Result<Running> {
        config.listen_address = "127.0.0.1:0".into();
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let server = Server::bind(config).await?;
                let shutdown = async move {
                    let _ = stopped.await;
                };
                server.serve(move |address| ready.send(address).unwrap(), shutdown).await
            })
        });
        match is_ready.recv() {
            Ok(address) => Ok(Running { address, stop: Some(stop), thread: Some(thread) }),
            Err(_) => Err(thread.join().unwrap().expect_err("it ended before it was ready")),
        }
    }

    /// Stops it; what `serve` returned.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("the server ends"))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn post_form(&self, path: &str, form: &str) -> Answer {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        self.send("POST", path, &headers, form.as_bytes())
    }

    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !body.is_empty() || method == "POST" {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        head += "Connection: close\r\n\r\n";
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        // The server may have answered and closed already.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::parse(&bytes)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Asks again until `accept` holds, for ten seconds at most.
    pub(crate) fn get_until(&self, path: &str, accept: impl Fn(&Answer) -> bool) -> Answer {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = self.get(path);
            if accept(&answer) || Instant::now() > end {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has a head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunked(&answer.body);
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// `data` of a success.
    pub(crate) fn data(&self) -> serde_json::Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let mut json = self.json();
        assert_eq!(json["status"], "success");
        json["data"].take()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").expect("a chunk has a length");
        let length = std::str::from_utf8(&rest[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..][..length]);
        rest = &rest[end + 2 + length + 2..];
    }
}

/// A `prometheus.WriteRequest`, written by hand.
#[derive(Default)]
pub(crate) struct WriteRequest(Vec<u8>);

impl WriteRequest {
    /// Adds a series with its samples: labels as pairs, samples as (ms, value).
    pub(crate) fn series(
        mut self,
        labels: &[(&str, &str)],
        samples: &[(i64, f64)],
    ) -> WriteRequest {
        let mut series = Vec::new();
        for (name, value) in labels {
            let mut label = Vec::new();
            field(&mut label, 1, name.as_bytes());
            field(&mut label, 2, value.as_bytes());
            field(&mut series, 1, &label);
        }
        for (timestamp, value) in samples {
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&value.to_bits().to_le_bytes());
            sample.push(2 << 3);
            varint(&mut sample, *timestamp as u64);
            field(&mut series, 2, &sample);
        }
        field(&mut self.0, 1, &series);
        self
    }

    /// An exemplar of a series of its own.
    pub(crate) fn exemplar(
        mut self,
        labels: &[(&str, &str)],
        trace: &str,
        at: i64,
    ) -> WriteRequest {
        let mut series = Vec::new();
        for (name, value) in labels {
            let mut label = Vec::new();
            field(&mut label, 1, name.as_bytes());
            field(&mut label, 2, value.as_bytes());
            field(&mut series, 1, &label);
        }
        let mut label = Vec::new();
        field(&mut label, 1, b"trace_id");
        field(&mut label, 2, trace.as_bytes());
        let mut exemplar = Vec::new();
        field(&mut exemplar, 1, &label);
        exemplar.push(2 << 3 | 1);
        exemplar.extend_from_slice(&6.5f64.to_bits().to_le_bytes());
        exemplar.push(3 << 3);
        varint(&mut exemplar, at as u64);
        field(&mut series, 3, &exemplar);
        let mut sample = vec![1 << 3 | 1];
        sample.extend_from_slice(&1f64.to_bits().to_le_bytes());
        sample.push(2 << 3);
        varint(&mut sample, at as u64);
        field(&mut series, 2, &sample);
        field(&mut self.0, 1, &series);
        self
    }

    /// Metadata of a counter.
    pub(crate) fn counter(mut self, family: &str, help: &str) -> WriteRequest {
        let mut metadata = vec![1 << 3, 1];
        field(&mut metadata, 2, family.as_bytes());
        field(&mut metadata, 4, help.as_bytes());
        field(&mut self.0, 3, &metadata);
        self
    }

    pub(crate) fn snappy(&self) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(&self.0).unwrap()
    }

    pub(crate) fn zstd(&self) -> Vec<u8> {
        zstd::bulk::compress(&self.0, 1).unwrap()
    }
}

fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
