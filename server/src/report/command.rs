//! `icecore report`: the capacity report of a running server, or of a data directory at rest.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use icecore_storage::Error as StorageError;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::retention::report::report_of_directory;

use crate::clock;
use crate::config_file;
use crate::http_client::exchange_json;
use crate::report::Format;
use crate::report::document::Document;

/// A server that runs may replace files while they are looked at.
const TRIES: usize = 5;

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A data directory or a backup; only read, also beside a running server, whose log and memory
    /// it knows less of than the server does.
    #[arg(
        long = "storage.path",
        value_name = "PATH",
        conflicts_with = "url",
        required_unless_present = "url"
    )]
    storage_path: Option<PathBuf>,

    /// A running server, for example http://127.0.0.1:9494.
    #[arg(long = "url", value_name = "URL")]
    url: Option<String>,

    /// The report as it would be with this configuration; without it, with the one in force, of which
    /// a data directory knows the policies, not the disk budget and legal holds.
    #[arg(long = "config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// The form of what is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// A file that is written, in place of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let document = match (&args.storage_path, &args.url) {
        (Some(path), _) => of_directory(path, args.config_file.as_deref())?,
        (None, Some(url)) => of_server(url, args.config_file.as_deref())?,
        (None, None) => bail!("want --storage.path or --url"),
    };
    let text = args.format.write(&document);
    match &args.output {
        Some(file) => {
            std::fs::write(file, text).with_context(|| format!("--output={}", file.display()))
        }
        None => Ok(std::io::stdout().lock().write_all(text.as_bytes())?),
    }
}

fn of_directory(path: &Path, config_file: Option<&Path>) -> anyhow::Result<Document> {
    let policies = match config_file {
        Some(file) => Some(config_file::load(Some(file), None)?.policies),
        None => None,
    };
    let named = || format!("--storage.path={}", path.display());
    if !path.is_dir() {
        bail!("{}: there is no such folder", named());
    }
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(path.to_owned()));
    let mut tries = 0;
    let report = loop {
        tries += 1;
        match report_of_directory(&disk, policies.as_ref(), clock::now_ms()) {
            Err(error) if tries < TRIES && is_gone(&error) => {}
            other => break other.with_context(named)?,
        }
    };
    let mut document = Document::from(&report);
    if config_file.is_none() {
        document.notes.push(
            "disk_budget and legal holds are in the configuration file: name it with --config.file"
                .to_owned(),
        );
    }
    Ok(document)
}

fn is_gone(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn of_server(url: &str, config_file: Option<&Path>) -> anyhow::Result<Document> {
    match config_file {
        None => exchange_json(url, "GET", "/api/v1/status/retention", String::new()),
        Some(file) => {
            config_file::read(file)?;
            let body = std::fs::read_to_string(file)?;
            exchange_json(url, "POST", "/api/v1/status/retention/plan", body)
        }
    }
}
