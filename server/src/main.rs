//! The `icecore` binary: reads the command line, runs a command or the server, says what to open.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use icecore_server::cli::{Check, Cli, Command, LogFormat, LogLevel, RetentionCommand, ServeArgs};
use icecore_server::{
    Config, Server, backup, config_file, delete, import, inspect, report, restore, telemetry,
    verify,
};
use tokio::signal::unix::{SignalKind, signal};

/// Blocking work that never ends must not keep the process from ending.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Deep expressions are evaluated on these threads; memory is taken only where it is used.
const THREAD_STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    let outcome = match Cli::parse().into_command() {
        Command::Serve(args) => return serve_until_stopped(*args),
        Command::Backup(args) => backup::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Restore(args) => restore::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::run(&args),
        Command::Inspect(args) => inspect::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Import(args) => {
            telemetry::start(LogLevel::Warn, LogFormat::Text);
            import::run(args).map(|()| ExitCode::SUCCESS)
        }
        Command::Delete(args) => delete::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Report(args) => report::command::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Check(Check::Config { file }) => config_file::read(&file).map(|_| {
            say(&format!("{}: fine\n", file.display()));
            ExitCode::SUCCESS
        }),
        Command::Retention(RetentionCommand::Plan(args)) => args.run().map(|text| {
            say(&text);
            ExitCode::SUCCESS
        }),
    };
    outcome.unwrap_or_else(|error| {
        // That nobody reads it is no reason to break off.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The answer of a command. That nobody reads it is no reason to break off.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn serve_until_stopped(args: ServeArgs) -> ExitCode {
    telemetry::start(args.log_level, args.log_format);
    for (option, text) in args.features().warnings() {
        tracing::warn!(option, "{text}");
    }
    match args.into_config().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("icecore")
        .thread_stack_size(THREAD_STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = runtime.block_on(serve(config));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let server = Server::bind(config).await?;
    let reloader = server.reloader();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloader.reload().await;
        }
    });
    if !server.address().ip().is_loopback() {
        tracing::warn!(
            address = %server.address(),
            "anyone who reaches this address can read and write: put a proxy with passwords before it"
        );
    }
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    server.serve(welcome, shutdown).await
}

/// What to do next, on stdout. That nobody reads it is no reason to stop.
fn welcome(address: SocketAddr) {
    let shown = match address.ip() {
        ip if ip.is_unspecified() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    };
    let text = format!(
        "\
Icecore is ready.

  open     http://{shown}/
  query    curl 'http://{shown}/api/v1/query?query=up'
  Grafana  a Prometheus data source with the URL http://{shown}
  metrics  from a Prometheus, in prometheus.yml:

           remote_write:
             - url: http://{shown}/api/v1/write

"
    );
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
