//! A data directory that a command works on while no server does.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;

/// The file that a server holds while it has the directory.
const LOCK_FILE: &str = "lock";

/// Makes sure that no server has the data directory, and that none gets it meanwhile.
pub(crate) fn lock(path: &Path) -> anyhow::Result<Box<dyn Debug + Send + Sync>> {
    let disk = OsDisk::new(path.to_owned());
    let shown = path.display();
    let names = disk.list(Path::new("")).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?;
    // A folder that is none must not get a lock file.
    if !names.iter().any(|name| name.starts_with("manifest-")) {
        bail!("{shown} is no data directory: there is no manifest");
    }
    disk.lock(Path::new(LOCK_FILE)).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => anyhow::anyhow!("{shown} is in use by a running server"),
        _ => anyhow::anyhow!("{shown}: cannot take its lock: {e}"),
    })
}

/// The folder as somebody else's: nothing in it is followed elsewhere.
pub(crate) fn foreign(path: &Path) -> Arc<dyn Disk> {
    Arc::new(OsDisk::foreign(path.to_owned()))
}
