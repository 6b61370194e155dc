//! `icecore-load`: sends a workload to a running server by remote write and reports its cost.
//!
//! ```text
//! icecore-load --url http://127.0.0.1:9494/api/v1/write --pid PID [--series 20000]
//!     [--scrapes 960] [--samples-per-request 5000] [--connections 2] [--seed 1]
//!     [--settle-seconds 60] [--data-dir DIR]
//! ```
//! Samples end five seconds ago.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use icecore_benches::bodies::Plan;
use icecore_benches::command_line::Arguments;
use icecore_benches::load::{Prepared, run};
use icecore_benches::process::disk_bytes;

fn main() -> Result<()> {
    let mut arguments = Arguments::read(std::env::args().skip(1))?;
    let url: String = arguments.required("url")?;
    let pid: u32 = arguments.required("pid")?;
    let plan = Plan {
        seed: arguments.or("seed", 1)?,
        series: arguments.or("series", 20_000)?,
        scrapes: arguments.or("scrapes", 960)?,
        samples_per_request: arguments.or("samples-per-request", 5_000)?,
        connections: arguments.or("connections", 2)?,
        end_ms: now_ms()? - 5_000,
    };
    let settle = Duration::from_secs(arguments.or("settle-seconds", 60)?);
    let data_directory: Option<PathBuf> = arguments.optional("data-dir")?;
    arguments.finish()?;

    let prepared = Prepared::write(&plan, &std::env::temp_dir())?;
    let report = run(&prepared, &url, pid, settle)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("samples sent              {}", report.samples);
    println!("wall                      {:.2} s", report.wall_seconds);
    println!("server CPU, settled       {:.2} s", report.cpu_seconds);
    println!("samples a CPU second      {:.0}", report.samples_per_cpu_second());
    println!("request p50               {:.2} ms", report.request_p50_ms);
    println!("request p99               {:.2} ms", report.request_p99_ms);
    println!("sent again after 503      {}", report.retried);
    println!("peak RSS                  {:.1} MiB", mib(report.peak_bytes));
    println!("peak RSS, anonymous       {:.1} MiB", mib(report.peak_anonymous_bytes));
    if let Some(directory) = data_directory {
        let bytes = disk_bytes(&directory);
        println!("on disk                   {:.1} MiB", mib(bytes));
        println!("on disk a sample          {:.3} B", bytes as f64 / report.samples as f64);
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a server accepts samples of about now")]
fn now_ms() -> Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}
