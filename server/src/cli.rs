//! The command line: flags named as Prometheus names its own, checked before anything starts.
//!
//! `icecore` alone means `icecore serve`. Every refused value is named with its flag (clap does
//! that) and with what would have been right.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use icecore_query::engine::EngineOptions;
use icecore_query::parser::ParserOptions;
use icecore_storage::db::{self, SyncMode};
use icecore_storage::memory::MemoryShares;

use crate::backup::BackupArgs;
use crate::config::{Config, LISTEN_ADDRESS, MEMORY_LIMIT_LEAST};
use crate::config_file;
use crate::delete::DeleteArgs;
use crate::duration;
use crate::features::Features;
use crate::import::ImportArgs;
use crate::inspect::InspectArgs;
use crate::plan::PlanArgs;
use crate::process::machine_bytes;
use crate::report::command::ReportArgs;
use crate::restore::RestoreArgs;
use crate::size::{Size, UNKNOWN_MACHINE_BYTES, parse_bytes, parse_share};
use crate::verify::VerifyArgs;

/// A time-series database for operations data that speaks Prometheus.
#[derive(Debug, Parser)]
#[command(name = "icecore", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// What the program is asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the database (the default).
    Serve(Box<ServeArgs>),
    /// Copy a database, running or not, to another folder.
    Backup(BackupArgs),
    /// Make a data directory of a backup.
    Restore(RestoreArgs),
    /// Read every byte of a data directory or a backup and say what is damaged.
    Verify(VerifyArgs),
    /// Show what is in manifest, blocks and log.
    Inspect(InspectArgs),
    /// Take in the history of another database.
    Import(ImportArgs),
    /// Delete samples by selector and time.
    Delete(DeleteArgs),
    /// Say what is stored, when it goes, and when room runs out.
    Report(ReportArgs),
    /// Check files without running anything.
    #[command(subcommand)]
    Check(Check),
    /// Ask what retention does.
    #[command(subcommand)]
    Retention(RetentionCommand),
}

#[derive(Debug, Subcommand)]
pub enum Check {
    /// A configuration file.
    Config {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// What a configuration would drop of what is stored now.
    Plan(PlanArgs),
}

impl Cli {
    pub fn into_command(self) -> Command {
        self.command.unwrap_or_else(|| Command::Serve(Box::new(self.serve)))
    }
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen, as host:port. Nobody is asked for a password: keep it on this machine or
    /// behind a proxy that asks.
    #[arg(long = "web.listen-address", value_name = "ADDRESS", default_value = LISTEN_ADDRESS, value_parser = parse_address)]
    listen_address: String,

    /// Let this server be asked for deletes and snapshots, as `icecore delete` and `icecore backup` do.
    #[arg(long = "web.enable-admin-api")]
    enable_admin_api: bool,

    /// The data directory; created where missing.
    #[arg(long = "storage.path", value_name = "PATH", default_value = "./icecore-data")]
    storage_path: PathBuf,

    /// A YAML file with what no flag says: retention. Read again on SIGHUP and on POST /-/reload.
    #[arg(long = "config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// How long samples are kept, for all series alike and without rollups; instead of a section
    /// `retention` in --config.file. With neither: raw 30d, 5m 180d, 1h 3y.
    #[arg(long = "storage.retention", value_name = "DURATION", value_parser = parse_retention)]
    retention_ms: Option<i64>,

    /// When a write is acknowledged: `always` after fdatasync of the log, `interval:<duration>`
    /// before it, with a sync this often.
    #[arg(long = "storage.wal-sync", value_name = "MODE", default_value = "always", value_parser = parse_sync)]
    wal_sync: SyncMode,

    /// Bytes a second at which blocks are read to check them, each about once a week; 0 checks none.
    #[arg(long = "storage.scrub-rate", value_name = "SIZE", default_value = "8MiB", value_parser = parse_bytes)]
    scrub_rate: Size,

    /// How long a query may take, waiting included.
    #[arg(long = "query.timeout", value_name = "DURATION", default_value = "2m", value_parser = parse_positive)]
    query_timeout_ms: i64,

    /// Samples that one query may hold at once.
    #[arg(long = "query.max-samples", value_name = "COUNT", default_value_t = 50_000_000, value_parser = parse_count)]
    query_samples_max: usize,

    /// Memory for series, queries, caches and bodies together, in bytes or in percent of what this
    /// machine or its control group has. What is left is for the program and for mapped files.
    #[arg(long = "memory.limit", value_name = "SIZE", default_value = "60%", value_parser = parse_share)]
    memory_limit: Size,

    /// Memory that one query may hold, in bytes or in percent of --memory.limit.
    #[arg(long = "query.max-memory-per-query", value_name = "SIZE", default_value = "12%", value_parser = parse_share)]
    query_memory: Size,

    /// Memory that all queries may hold together.
    #[arg(long = "query.max-memory", value_name = "SIZE", default_value = "25%", value_parser = parse_share)]
    queries_memory: Size,

    /// Results of range queries that are kept for when they are asked again, at most 3 % of
    /// --memory.limit; 0 keeps none.
    #[arg(long = "query.cache-size", value_name = "SIZE", default_value = "64MiB", value_parser = parse_bytes)]
    cache_size: Size,

    /// Bytes of a query's text.
    #[arg(long = "query.max-length", value_name = "BYTES", default_value_t = 262_144, value_parser = parse_count)]
    query_bytes_max: usize,

    /// Queries that run at once.
    #[arg(long = "query.max-concurrency", value_name = "COUNT", default_value_t = 20, value_parser = parse_count)]
    query_concurrency: usize,

    /// How far back an instant selector looks for a sample.
    #[arg(long = "query.lookback-delta", value_name = "DURATION", default_value = "5m", value_parser = parse_positive)]
    lookback_ms: i64,

    /// Prometheus features that are off by default, separated by commas.
    #[arg(long = "enable-feature", value_name = "NAME", value_delimiter = ',')]
    features: Vec<String>,

    /// The least grave messages to log.
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// The form of log lines on stderr.
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum LogFormat {
    Text,
    Json,
}

impl ServeArgs {
    /// What was asked for by `--enable-feature`.
    pub fn features(&self) -> Features {
        Features::new(self.features.clone())
    }

    /// Reads the configuration file, too; an error says what is wrong in which line of it.
    pub fn into_config(self) -> anyhow::Result<Config> {
        let loaded = config_file::load(self.config_file.as_deref(), self.retention_ms)?;
        loaded.warn();
        let flags = self.flags();
        let features = self.features();
        let memory_limit =
            self.memory_limit.bytes(machine_bytes().unwrap_or(UNKNOWN_MACHINE_BYTES));
        if memory_limit < MEMORY_LIMIT_LEAST {
            anyhow::bail!(
                "--memory.limit={} is {memory_limit} bytes; want at least {MEMORY_LIMIT_LEAST}",
                self.memory_limit
            );
        }
        let shares = MemoryShares::of(memory_limit);
        let cache_bytes = self.cache_size.bytes(memory_limit).min(shares.results);
        let mut config = Config {
            listen_address: self.listen_address,
            storage_path: self.storage_path,
            storage: db::Options {
                sync: self.wal_sync,
                policies: loaded.policies,
                page_cache_bytes: usize::try_from(shares.pages).unwrap_or(usize::MAX),
                memory: shares.into(),
                series_limits: loaded.series_limits,
                seed: random_seed(),
                ..db::Options::default()
            },
            memory_limit,
            scrub_bytes_per_second: self.scrub_rate.bytes(memory_limit),
            enable_admin_api: self.enable_admin_api,
            engine: EngineOptions {
                lookback_ms: self.lookback_ms,
                max_samples: self.query_samples_max,
                max_query_bytes: self.query_memory.bytes(memory_limit),
                max_bytes: self.queries_memory.bytes(memory_limit),
                timeout: Duration::from_millis(self.query_timeout_ms.unsigned_abs()),
                ..EngineOptions::default()
            },
            config_file: self.config_file,
            retention_flag_ms: self.retention_ms,
            parser: ParserOptions::default(),
            query_concurrency: self.query_concurrency,
            result_cache_bytes: usize::try_from(cache_bytes).unwrap_or(usize::MAX),
            query_bytes_max: self.query_bytes_max,
            flags,
        };
        features.apply(&mut config.engine, &mut config.parser);
        Ok(config)
    }

    fn flags(&self) -> Vec<(&'static str, String)> {
        let path = |path: Option<&Path>| path.map_or_else(String::new, |p| p.display().to_string());
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let sync = match self.wal_sync {
            SyncMode::Always => "always".to_owned(),
            SyncMode::Interval(every) => {
                let ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
                format!("interval:{}", duration::format_ms(ms))
            }
        };
        vec![
            ("config.file", path(self.config_file.as_deref())),
            ("enable-feature", self.features.join(",")),
            ("log.format", name(&|| self.log_format.to_possible_value())),
            ("log.level", name(&|| self.log_level.to_possible_value())),
            ("memory.limit", self.memory_limit.to_string()),
            ("query.cache-size", self.cache_size.to_string()),
            ("query.lookback-delta", duration::format_ms(self.lookback_ms)),
            ("query.max-concurrency", self.query_concurrency.to_string()),
            ("query.max-length", self.query_bytes_max.to_string()),
            ("query.max-memory", self.queries_memory.to_string()),
            ("query.max-memory-per-query", self.query_memory.to_string()),
            ("query.max-samples", self.query_samples_max.to_string()),
            ("query.timeout", duration::format_ms(self.query_timeout_ms)),
            ("storage.path", self.storage_path.display().to_string()),
            ("storage.retention", self.retention_ms.map_or_else(String::new, duration::format_ms)),
            ("storage.scrub-rate", self.scrub_rate.to_string()),
            ("storage.wal-sync", sync),
            ("web.enable-admin-api", self.enable_admin_api.to_string()),
            ("web.listen-address", self.listen_address.clone()),
        ]
    }
}

/// `host:port`, where Prometheus's `:port` means every address of the machine.
fn parse_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("want host:port, for example 127.0.0.1:9494")?;
    port.parse::<u16>().map_err(|_| format!("{port:?} is not a port, 0 to 65535"))?;
    Ok(if host.is_empty() { format!("0.0.0.0:{port}") } else { text.to_owned() })
}

fn parse_positive(text: &str) -> Result<i64, String> {
    match duration::parse_ms(text)? {
        0 => Err("must be more than 0".into()),
        ms => Ok(ms),
    }
}

pub(crate) fn parse_retention(text: &str) -> Result<i64, String> {
    let least_ms = icecore_storage::time::WINDOW_MS;
    match duration::parse_ms(text)? {
        ms if ms < least_ms => Err("samples are dropped in blocks of 2h; want at least 2h".into()),
        ms => Ok(ms),
    }
}

/// A duration as tiers have them.
pub(crate) fn parse_resolution(text: &str) -> Result<i64, String> {
    match duration::parse_ms(text)? {
        0 => Err("want the resolution of a tier, for example 5m".into()),
        ms => Ok(ms),
    }
}

fn parse_sync(text: &str) -> Result<SyncMode, String> {
    match text.strip_prefix("interval:") {
        None if text == "always" => Ok(SyncMode::Always),
        None => Err("want `always` or `interval:<duration>`, for example interval:1s".into()),
        Some(every) => {
            let ms = parse_positive(every)?;
            Ok(SyncMode::Interval(Duration::from_millis(ms.unsigned_abs())))
        }
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("want a whole number of at least 1".into()),
    }
}

/// Something that differs from process to process, from what the standard library seeds its maps
/// with.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use icecore_storage::retention::policy::Policies;

    use super::*;
    use crate::config::SCRUB_BYTES_PER_SECOND;

    fn parse(args: &[&str]) -> Result<Config, String> {
        Cli::try_parse_from(std::iter::once(&"icecore").chain(args))
            .map_err(|e| e.to_string())
            .and_then(|cli| match cli.into_command() {
                Command::Serve(args) => args.into_config().map_err(|e| e.to_string()),
                other => Err(format!("{other:?}")),
            })
    }

    #[test]
    fn serve_is_the_default_and_the_defaults_are_the_documented_ones() {
        for args in [&[][..], &["serve"]] {
            let config = parse(args).unwrap();
            assert_eq!(config.listen_address, "127.0.0.1:9494");
            assert_eq!(config.storage_path, PathBuf::from("./icecore-data"));
            assert_eq!(config.storage.policies, Policies::default());
            assert_eq!(config.storage.sync, SyncMode::Always);
            assert_eq!(config.scrub_bytes_per_second, SCRUB_BYTES_PER_SECOND);
            assert!(!config.enable_admin_api);
            assert_eq!(config.engine.timeout, Duration::from_secs(120));
            assert!(!config.enable_admin_api);
            assert_eq!(config.query_concurrency, 20);
            assert_eq!(config.result_cache_bytes, 64 << 20);
            let shares = MemoryShares::of(config.memory_limit);
            assert!(config.memory_limit > MEMORY_LIMIT_LEAST);
            assert_eq!(config.engine.max_bytes, shares.queries);
            assert_eq!(config.storage.memory, shares.into());
            assert!(config.engine.max_query_bytes < config.engine.max_bytes);
        }
    }

    #[test]
    fn flags_reach_the_configuration() {
        let config = parse(&[
            "serve",
            "--web.listen-address=:80",
            "--storage.wal-sync=interval:1s",
            "--storage.retention=90d",
            "--enable-feature=promql-experimental-functions,promql-delayed-name-removal,\
             use-start-timestamps",
        ])
        .unwrap();
        assert_eq!(config.listen_address, "0.0.0.0:80");
        assert_eq!(config.storage.sync, SyncMode::Interval(Duration::from_secs(1)));
        assert!(config.parser.experimental_functions && config.engine.delayed_name_removal);
        assert!(config.engine.use_start_timestamps);
        assert!(config.flags.contains(&("storage.wal-sync", "interval:1s".into())));
        assert!(config.flags.contains(&("storage.retention", "90d".into())));
    }

    #[test]
    fn every_flag_and_default_is_documented() {
        let docs = include_str!("../../docs/operations.md");
        let command = <Cli as clap::CommandFactory>::command();
        let import = command.find_subcommand("import").unwrap();
        let of_import = import.get_subcommands().flat_map(clap::Command::get_arguments);
        let flags: Vec<&clap::Arg> =
            command.get_arguments().chain(of_import).filter(|arg| arg.get_id() != "help").collect();
        assert!(flags.len() > 12);
        for flag in flags {
            let Some(name) = flag.get_long().filter(|name| *name != "version") else { continue };
            let default = flag.get_default_values().first().and_then(|value| value.to_str());
            let default = default.map_or("none".to_owned(), |default| format!("`{default}`"));
            let row = format!("| `--{name}` | {default} |");
            assert!(docs.contains(&row), "no line {row}");
        }
    }

    #[test]
    fn a_refused_value_is_named_with_its_flag() {
        for (flag, value, says) in [
            ("--storage.retention", "30", "not a valid duration"),
            ("--storage.retention", "1h", "at least 2h"),
            ("--storage.wal-sync", "never", "want `always`"),
            ("--query.max-samples", "-1", "at least 1"),
            ("--query.timeout", "0s", "more than 0"),
            ("--query.max-memory", "0", "2GiB or 25%"),
            ("--memory.limit", "1MiB", "want at least"),
            ("--query.cache-size", "10%", "64MiB"),
            ("--web.listen-address", "9494", "host:port"),
            ("--log.level", "loud", "debug, info, warn, error"),
        ] {
            let error = parse(&[&format!("{flag}={value}")]).unwrap_err();
            for part in [flag, value, says] {
                assert!(error.contains(part), "{part:?} is not in {error}");
            }
        }
    }
}
