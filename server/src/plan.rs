//! `icecore retention plan`: what a configuration would drop of what is stored, asked of a running
//! server or of a data directory that no server has open. Changes nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::retention::report::{lock_directory, report_of_directory};

use crate::clock;
use crate::config_file;
use crate::http_client::exchange_json;
use crate::report::document::Document;

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The configuration to plan with; without it, the defaults, or what the server has in force.
    #[arg(long = "config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// A data directory that no server has open.
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
}

impl PlanArgs {
    /// The answer, as a table.
    pub fn run(&self) -> anyhow::Result<String> {
        let report = match (&self.storage_path, &self.url) {
            (Some(path), _) => self.plan_directory(path)?,
            (None, Some(url)) => self.ask(url)?,
            (None, None) => bail!("want --storage.path or --url"),
        };
        Ok(table(&report))
    }

    fn plan_directory(&self, path: &Path) -> anyhow::Result<Document> {
        let loaded = config_file::load(self.config_file.as_deref(), None)?;
        if !path.is_dir() {
            bail!("{} is not a data directory", path.display());
        }
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(path.to_owned()));
        let _lock = lock_directory(disk.as_ref()).with_context(|| {
            format!("--storage.path={}: a server has it open; use --url", path.display())
        })?;
        let report = report_of_directory(&disk, Some(&loaded.policies), clock::now_ms())
            .with_context(|| format!("--storage.path={}", path.display()))?;
        Ok(Document::from(&report))
    }

    fn ask(&self, url: &str) -> anyhow::Result<Document> {
        let body = match &self.config_file {
            Some(file) => {
                config_file::read(file)?;
                std::fs::read_to_string(file)?
            }
            None => String::new(),
        };
        exchange_json(url, "POST", "/api/v1/status/retention/plan", body)
    }
}

/// A line for each class and tier.
fn table(report: &Document) -> String {
    let mut lines = vec![
        ["tier", "class", "blocks", "bytes", "oldest", "next drop", "drops now"].map(str::to_owned),
    ];
    for row in &report.rows {
        let about = if row.estimated_bytes > 0 { "~" } else { "" };
        lines.push([
            format!("{} {}", row.tier, row.lifetime),
            row.class.clone(),
            row.blocks.to_string(),
            format!("{about}{}", row.bytes),
            row.oldest.clone(),
            row.next_drop.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{about}{} in {} blocks", row.expired_bytes, row.expired_blocks),
        ]);
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    writeln!(text, "\nof {} bytes, {} would go now", report.bytes, report.expired_bytes)
        .expect("a String takes any text");
    if report.evicted_bytes > 0 {
        writeln!(text, "and {} before their time, to keep to disk_budget", report.evicted_bytes)
            .expect("a String takes any text");
    }
    if report.held {
        text += "That is so much at once that it waits: POST /api/v1/admin/retention/confirm\n";
    }
    text
}
