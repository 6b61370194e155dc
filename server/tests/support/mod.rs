//! A server in this process, and what its tests send to it.

pub(crate) mod client;
#[expect(dead_code, reason = "the tests of the binary use all of it")]
pub(crate) mod write_request;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use icecore_server::{Config, Server};
use tokio::sync::oneshot;

pub(crate) use client::Answer;
pub(crate) use write_request::WriteRequest;

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
        client::send(self.address, method, path, headers, body).expect("the server answers")
    }

    pub(crate) fn connect(&self) -> TcpStream {
        client::connect(self.address).expect("the server listens")
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
