//! `icecore verify`: reads every byte of a data directory or of a backup and says what is damaged.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use icecore_storage::backup::list::LIST_FILE;
use icecore_storage::backup::{LOCK_FILE, Place, Restore};
use icecore_storage::data_file::live_files;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::verify::{Depth, Verified, verify};

use crate::data_directory;
use crate::progress::Progress;
use crate::size::human;
use crate::table::Table;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A backup, or a data directory that no server has open.
    #[arg(
        value_name = "SRC",
        conflicts_with = "storage_path",
        required_unless_present = "storage_path"
    )]
    source: Option<PathBuf>,

    /// A data directory that no server has open.
    #[arg(long = "storage.path", value_name = "PATH")]
    storage_path: Option<PathBuf>,
}

/// Success if nothing is damaged.
pub fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let path = args.source.as_ref().or(args.storage_path.as_ref());
    let path = path.expect("clap wants one of them");
    let verified = match path.join(LOCK_FILE).exists() || path.join(LIST_FILE).exists() {
        true => verify_backup(path)?,
        false => verify_data_directory(path)?,
    };
    let is_whole = verified.is_whole();
    report(path, verified)?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verify_backup(path: &Path) -> anyhow::Result<Verified> {
    let restore = Restore::prepare(Place::new(data_directory::foreign(path), path))?;
    let mut progress = Progress::new("verifying", 2 * restore.bytes());
    let verified = restore.check(Depth::Decoded, &mut |bytes| progress.advance(bytes))?;
    progress.finish();
    Ok(verified)
}

fn verify_data_directory(path: &Path) -> anyhow::Result<Verified> {
    let _lock = data_directory::lock(path)?;
    let place = Place::new(Arc::new(OsDisk::new(path.to_owned())), path);
    // An estimate; what is damaged or missing is found by verifying.
    let files = live_files(place.disk.as_ref()).unwrap_or_default();
    let mut progress = Progress::new("verifying", files.iter().map(|file| file.bytes).sum());
    let disk: &Arc<dyn Disk> = &place.disk;
    let verified = verify(disk, Depth::Decoded, &mut |bytes| progress.advance(bytes));
    let verified = verified.map_err(|e| place.named(e))?;
    progress.finish();
    Ok(verified.in_place(&place))
}

fn report(path: &Path, verified: Verified) -> anyhow::Result<()> {
    let mut table = Table::new(&["what", "files", "size", "holds", "damaged"], &[1, 2, 3, 4]);
    for (kind, unit) in
        [("manifest", "blocks"), ("checkpoint", "series"), ("log", "records"), ("block", "samples")]
    {
        let files = || verified.files.iter().filter(|file| file.file.kind() == kind);
        let holds = match kind {
            "log" => verified.log_records,
            _ => files().map(|file| file.holds).sum(),
        };
        table.row([
            kind.to_owned(),
            files().count().to_string(),
            human(files().map(|file| file.bytes).sum()),
            format!("{holds} {unit}"),
            files().filter(|file| !file.damage.is_empty()).count().to_string(),
        ]);
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{table}")?;
    if verified.torn_tail_bytes > 0 {
        let bytes = verified.torn_tail_bytes;
        writeln!(out, "note: {bytes} bytes at the end of the log were never acknowledged")?;
    }
    let damage: Vec<String> = verified.into_damage().map(|e| e.to_string()).collect();
    for line in &damage {
        writeln!(out, "damage: {line}")?;
    }
    match damage.len() {
        0 => writeln!(out, "{} is whole", path.display())?,
        count => writeln!(out, "{}: damage in {count} places", path.display())?,
    }
    Ok(())
}
