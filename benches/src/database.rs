//! A database of its own with the series of [`crate::bodies`], in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use icecore_ingest::{Encoding, remote_write};
use icecore_storage::Db;
use icecore_storage::db::{Options, Progress, SyncMode};
use icecore_storage::disk::os::OsDisk;
use icecore_storage::limits::Limits;

use crate::bodies::Plan;

/// Opens or makes the database of a directory; what it is for does not outlive a crash.
pub fn open(root: &Path, now_ms: i64) -> Result<Db> {
    let sync = SyncMode::Interval(Duration::from_secs(60));
    let options = Options { seed: 1, sync, ..Options::default() };
    Ok(Db::open(Arc::new(OsDisk::new(root.to_owned())), options, now_ms)?)
}

/// Appends all samples of a plan; without upkeep, so that they stay in the head.
pub fn feed(db: &Db, plan: Plan) -> Result<()> {
    let mut batch = remote_write::batch();
    let mut stream = plan.stream(0);
    let mut request = Vec::new();
    while stream.next_request(&mut request) > 0 {
        remote_write::decode(&request, Encoding::Identity, &Limits::default(), &mut batch)?;
        db.append(&batch, plan.end_ms)?;
    }
    Ok(())
}

/// Does all upkeep that is due in the hours after `end_ms`: then no sample before is in the head.
pub fn settle(db: &Db, end_ms: i64) -> Result<()> {
    for hours in 1..=4 {
        while db.maintain(end_ms + hours * 3_600_000)? != Progress::Idle {}
    }
    Ok(())
}
