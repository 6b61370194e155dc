//! `icecore-compare`: Icecore, Prometheus and VictoriaMetrics under the same load, one after the
//! other, and one table of what it cost each.
//!
//! ```text
//! icecore-compare [--icecore PATH] [--prometheus PATH] [--victoria-metrics PATH]
//!     [--only NAME] [--series 20000] [--scrapes 960] [--samples-per-request 5000]
//!     [--connections 2] [--new-series 200000] [--settle-seconds 60]
//! ```
//! Each server starts empty, on loopback, in a directory of its own below the temporary directory,
//! with default settings except that result caches are off. Bytes on disk are those after a
//! graceful stop: Icecore and VictoriaMetrics then have sealed files only, Prometheus keeps its log.
//! Without `--icecore` the `icecore` next to this program is taken; a server that is not there is
//! left out. The last row is of a second start, in which `--new-series` series come once each; 0
//! leaves it out.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use icecore_benches::bodies::Plan;
use icecore_benches::command_line::Arguments;
use icecore_benches::http::Client;
use icecore_benches::load::{Prepared, Report, run};
use icecore_benches::process::disk_bytes;
use icecore_benches::queries::{Cost, QUERIES, Query};

/// Where to find a server, how to start it, and its paths.
struct Server {
    name: &'static str,
    program: PathBuf,
    port: u16,
    arguments: fn(data: &str, address: &str) -> Vec<String>,
    ready: &'static str,
}

/// What all servers get: the same requests.
struct Work {
    end_ms: i64,
    load: Prepared,
    new_series: Option<Prepared>,
    settle: Duration,
}

struct Outcome {
    name: &'static str,
    load: Report,
    /// After the load and a graceful stop.
    disk: u64,
    queries: Vec<Result<Cost>>,
    new_series: Option<Report>,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::read(std::env::args().skip(1))?;
    let servers = servers(&mut arguments)?;
    let plan = Plan {
        seed: 1,
        series: arguments.or("series", 20_000)?,
        scrapes: arguments.or("scrapes", 960)?,
        samples_per_request: arguments.or("samples-per-request", 5_000)?,
        connections: arguments.or("connections", 2)?,
        end_ms: now_ms()? - 5_000,
    };
    let new_series =
        Plan { seed: 2, series: arguments.or("new-series", 200_000)?, scrapes: 1, ..plan };
    let settle = Duration::from_secs(arguments.or("settle-seconds", 60)?);
    arguments.finish()?;

    let directory = std::env::temp_dir();
    let work = Work {
        end_ms: plan.end_ms,
        load: Prepared::write(&plan, &directory)?,
        new_series: match new_series.series {
            0 => None,
            _ => Some(Prepared::write(&new_series, &directory)?),
        },
        settle,
    };
    let mut outcomes = Vec::new();
    for server in &servers {
        println!("{}: {}", server.name, server.program.display());
        match measure(server, &work) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => println!("{} is left out: {error:#}", server.name),
        }
    }
    print_table(&outcomes);
    Ok(())
}

fn servers(arguments: &mut Arguments) -> Result<Vec<Server>> {
    let beside = std::env::current_exe()?.with_file_name("icecore");
    let servers = [
        Server {
            name: "icecore",
            program: arguments.or("icecore", beside)?,
            port: 19_494,
            arguments: |data, address| {
                vec![
                    "serve".to_owned(),
                    format!("--storage.path={data}"),
                    format!("--web.listen-address={address}"),
                ]
            },
            ready: "/-/ready",
        },
        Server {
            name: "prometheus",
            program: arguments.or("prometheus", PathBuf::from("/usr/bin/prometheus"))?,
            port: 19_090,
            arguments: |data, address| {
                vec![
                    format!("--config.file={data}.yml"),
                    format!("--storage.tsdb.path={data}"),
                    format!("--web.listen-address={address}"),
                    "--web.enable-remote-write-receiver".to_owned(),
                    "--log.level=error".to_owned(),
                ]
            },
            ready: "/-/ready",
        },
        Server {
            name: "victoria-metrics",
            program: arguments
                .or("victoria-metrics", PathBuf::from("/usr/bin/victoria-metrics"))?,
            port: 18_428,
            arguments: |data, address| {
                vec![
                    format!("-storageDataPath={data}"),
                    format!("-httpListenAddr={address}"),
                    "-search.disableCache".to_owned(),
                    "-search.latencyOffset=0s".to_owned(),
                    "-loggerLevel=ERROR".to_owned(),
                ]
            },
            ready: "/health",
        },
    ];
    let only: Option<String> = arguments.optional("only")?;
    let wanted = |server: &Server| only.as_ref().is_none_or(|only| server.name == only);
    Ok(servers.into_iter().filter(|server| wanted(server) && server.program.exists()).collect())
}

/// A server's process, which ends with this value, and its directory, which goes with it.
struct Running {
    child: Child,
    address: String,
    data: PathBuf,
}

impl Running {
    fn start(server: &Server) -> Result<Running> {
        let name = format!("icecore-compare-{}-{}", std::process::id(), server.name);
        let data = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&data)?;
        // Prometheus wants a configuration; an empty one scrapes nothing.
        std::fs::write(data.with_extension("yml"), "")?;
        let address = format!("127.0.0.1:{}", server.port);
        let path = data.to_str().context("the temporary directory is not UTF-8")?;
        let log = std::fs::File::create(data.with_extension("log"))?;
        let child = Command::new(&server.program)
            .args((server.arguments)(path, &address))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut running = Running { child, address, data };
        running.wait_until_ready(server.ready)?;
        Ok(running)
    }

    fn wait_until_ready(&mut self, path: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.data.with_extension("log"))?;
                bail!("ended at once with {status}: {log}");
            }
            let answer = Client::connect(&self.address).and_then(|mut client| client.get(path));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("not ready after 30 s")
    }
}

impl Running {
    fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// Ends the server as an operator would and waits for it.
    fn stop(&mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                bail!("does not stop within 60 s");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Everything is temporary, so that nothing here can be lost by a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
        let _ = std::fs::remove_file(self.data.with_extension("yml"));
        let _ = std::fs::remove_file(self.data.with_extension("log"));
    }
}

fn measure(server: &Server, work: &Work) -> Result<Outcome> {
    let mut running = Running::start(server)?;
    let pid = running.child.id();
    let load = run(&work.load, &running.url(), pid, work.settle)?;
    let mut client = Client::connect(&running.address)?;
    let ask = |query: &Query| query.measure(&mut client, pid, work.end_ms);
    let queries = QUERIES.iter().map(ask).collect();
    running.stop()?;
    let disk = disk_bytes(&running.data);
    drop(running);
    let register = |bodies| {
        let running = Running::start(server)?;
        run(bodies, &running.url(), running.child.id(), Duration::ZERO)
    };
    let new_series = work.new_series.as_ref().map(register).transpose()?;
    Ok(Outcome { name: server.name, load, disk, queries, new_series })
}

fn print_table(outcomes: &[Outcome]) {
    let row = |what: &str, cell: &dyn Fn(&Outcome) -> String| {
        let cells: String =
            outcomes.iter().map(|outcome| format!("{:>26}", cell(outcome))).collect();
        println!("{what:<46}{cells}");
    };
    let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    row("", &|outcome| outcome.name.to_owned());
    row("samples a server CPU second", &|outcome| {
        format!("{:.0}", outcome.load.samples_per_cpu_second())
    });
    row("request p50 / p99", &|outcome| {
        format!("{:.1} / {:.1} ms", outcome.load.request_p50_ms, outcome.load.request_p99_ms)
    });
    row("load, wall", &|outcome| format!("{:.1} s", outcome.load.wall_seconds));
    row("peak RSS (anonymous)", &|outcome| {
        format!("{} ({})", mib(outcome.load.peak_bytes), mib(outcome.load.peak_anonymous_bytes))
    });
    row("on disk, stopped", &|outcome| mib(outcome.disk));
    row("bytes a sample", &|outcome| {
        format!("{:.2}", outcome.disk as f64 / outcome.load.samples as f64)
    });
    for (i, query) in QUERIES.iter().enumerate() {
        row(query.what, &|outcome| match &outcome.queries[i] {
            Ok(cost) => format!("{:.2} ms ({:.2} wall)", cost.cpu_ms, cost.wall_ms),
            Err(error) => format!("{error:#}").chars().take(24).collect(),
        });
        // The first server is Icecore, unless it was left out.
        let first = outcomes.first().and_then(|outcome| outcome.queries[i].as_ref().ok());
        row("    CPU, by that of the first", &|outcome| match (&outcome.queries[i], first) {
            (Ok(cost), Some(first)) => format!("{:.1}", cost.cpu_ms / first.cpu_ms),
            _ => String::new(),
        });
        row("    series, points, sum", &|outcome| match &outcome.queries[i] {
            Ok(cost) => {
                format!("{}, {}, {:.6e}", cost.digest.series, cost.digest.points, cost.digest.sum)
            }
            Err(_) => String::new(),
        });
    }
    row("registering new series, samples a CPU second", &|outcome| match &outcome.new_series {
        Some(report) => format!("{:.0}", report.samples_per_cpu_second()),
        None => String::new(),
    });
}

#[expect(clippy::disallowed_methods, reason = "a server accepts samples of about now")]
fn now_ms() -> Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}
