//! `icecore restore`: makes a data directory of a backup.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use icecore_storage::backup::{Place, Restore};
use icecore_storage::disk::os::OsDisk;
use icecore_storage::verify::Depth;

use crate::data_directory;
use crate::progress::Progress;

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The folder of the backup.
    #[arg(value_name = "SRC")]
    source: PathBuf,

    /// The new data directory: an empty folder, or none yet.
    #[arg(long = "storage.path", value_name = "PATH")]
    storage_path: PathBuf,
}

pub fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let (source, path) = (&args.source, &args.storage_path);
    let into = Place::new(Arc::new(OsDisk::new(path.clone())), path);
    Restore::refuse_used(&into)?;
    let restore = Restore::prepare(Place::new(data_directory::foreign(source), source))?;
    let mut progress = Progress::new("checking", 2 * restore.bytes());
    let verified = restore.check(Depth::Checksums, &mut |bytes| progress.advance(bytes))?;
    progress.finish();
    let damage: Vec<String> = verified.into_damage().map(|e| e.to_string()).collect();
    if !damage.is_empty() {
        bail!("the backup is damaged, nothing was restored:\n{}", damage.join("\n"));
    }
    let mut progress = Progress::new("restoring", restore.bytes());
    let restored = restore.run(&into, &mut |bytes| progress.advance(bytes));
    restored.with_context(|| format!("cannot restore into {}", path.display()))?;
    progress.finish();
    writeln!(
        std::io::stdout(),
        "{}: {} files of {}; start it with icecore --storage.path={}",
        path.display(),
        restore.list().entries.len(),
        restore.list().snapshot,
        path.display(),
    )?;
    Ok(())
}
