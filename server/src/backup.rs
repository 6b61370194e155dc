//! `icecore backup`: asks a running server for a snapshot folder, copies it and lets it go; or copies
//! a data directory that no server has open.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use icecore_storage::backup::{Backup, Copied, Place, SNAPSHOTS_DIR};
use icecore_storage::disk::os::OsDisk;

use crate::clock;
use crate::data_directory;
use crate::http_client::Client;
use crate::progress::Progress;
use crate::size::human;
use crate::snapshot_name;

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where the backup goes: an empty folder, a new one, or one with an earlier backup of the
    /// same database, of which nothing is copied again.
    #[arg(value_name = "DEST")]
    dest: PathBuf,

    /// A running server on this machine, started with --web.enable-admin-api.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "storage_path",
        required_unless_present = "storage_path"
    )]
    url: Option<String>,

    /// The data directory of a server that is stopped.
    #[arg(long = "storage.path", value_name = "PATH")]
    storage_path: Option<PathBuf>,
}

pub fn run(args: &BackupArgs) -> anyhow::Result<()> {
    let copied = match (&args.url, &args.storage_path) {
        (Some(url), _) => of_running(&Client::new(url)?, &args.dest)?,
        (None, Some(path)) => of_stopped(path, &args.dest)?,
        (None, None) => unreachable!("clap wants one of them"),
    };
    let Copied { files, bytes, copied_files, copied_bytes, removed_files } = copied;
    writeln!(
        std::io::stdout(),
        "{}: {files} files, {}; {copied_files} of them copied, {}; {removed_files} old ones removed",
        args.dest.display(),
        human(bytes),
        human(copied_bytes),
    )?;
    Ok(())
}

fn of_running(client: &Client, dest: &Path) -> anyhow::Result<Copied> {
    let data = data_path(client)?;
    let answer = client.ask("POST", "/api/v1/admin/tsdb/snapshot")?;
    let name = answer["name"].as_str().context("the server named no snapshot")?.to_owned();
    let folder = data.join(SNAPSHOTS_DIR).join(&name);
    let copied = copy(&folder, dest, &name);
    // Whatever became of the copy: a snapshot keeps the space of blocks that retention drops.
    let removed = client.ask("DELETE", &format!("/api/v1/admin/tsdb/snapshot/{name}"));
    let removed = removed.with_context(|| format!("{} was not removed", folder.display()));
    match (copied, removed) {
        (Ok(copied), Ok(_)) => Ok(copied),
        (Ok(_), Err(error)) => Err(error.context("the backup is whole")),
        (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(left)) => Err(anyhow::anyhow!("{error:#}; besides, {left:#}")),
    }
}

/// The data directory of a server on this machine, by what it says of itself.
fn data_path(client: &Client) -> anyhow::Result<PathBuf> {
    let flags = client.ask("GET", "/api/v1/status/flags")?;
    let path = flags["storage.path"].as_str().context("the server names no storage.path")?;
    let runtime = client.ask("GET", "/api/v1/status/runtimeinfo")?;
    let path = Path::new(runtime["CWD"].as_str().unwrap_or("")).join(path);
    if !path.is_dir() {
        anyhow::bail!(
            "{} is not a folder here: is the server on this machine, and may you read it?",
            path.display()
        );
    }
    Ok(path)
}

fn of_stopped(path: &Path, dest: &Path) -> anyhow::Result<Copied> {
    let _lock = data_directory::lock(path)?;
    copy(path, dest, &snapshot_name::at(clock::now_ms()))
}

fn copy(from: &Path, dest: &Path, name: &str) -> anyhow::Result<Copied> {
    let place = |path: &Path| Place::new(Arc::new(OsDisk::new(path.to_owned())), path);
    let backup = Backup::prepare(place(from), place(dest))?;
    let mut progress = Progress::new("backup", backup.bytes());
    let copied = backup.run(name, &mut |bytes| progress.advance(bytes))?;
    progress.finish();
    Ok(copied)
}
