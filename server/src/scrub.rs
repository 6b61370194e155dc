//! The scrub thread: it reads every block about once a week, slowly, and sets aside what is damaged.
//!
//! Blocks are read through the page cache, so damage of the disk shows once the cache has let go of
//! the block. What was checked when is kept in memory: after a start every block is due.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use icecore_storage::Db;
use icecore_storage::Error as StorageError;
use icecore_storage::metrics::block::meta::BlockId;

use crate::app::App;
use crate::clock;

/// How long a block is trusted.
const EVERY_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// How often blocks are looked through for one that is due.
const IDLE_WAIT: Duration = Duration::from_secs(5);

/// Bytes are read in this many portions a second, so that nothing else waits long for the disk.
const PORTIONS_PER_SECOND: u32 = 10;

/// What is known of the scrub, for people and for `/metrics`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScrubStatus {
    pub bytes: u64,
    /// Checks that came to their end, whatever they found.
    pub blocks: u64,
    pub damaged_blocks: u64,
    /// Checks that broke off: reading failed.
    pub errors: u64,
    /// The block being read, and how much of it was.
    pub current: Option<(BlockId, u64)>,
    pub last_damage: Option<String>,
    /// Live blocks, and of these the ones that are due.
    pub blocks_live: u64,
    pub blocks_due: u64,
    /// When the block was checked that was checked longest ago; `None` while one never was.
    pub oldest_check_ms: Option<i64>,
}

/// The status, shared between the thread and those who ask.
#[derive(Debug, Default)]
pub(crate) struct SharedStatus(Mutex<ScrubStatus>);

impl SharedStatus {
    pub(crate) fn get(&self) -> ScrubStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut ScrubStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Scrub {
    /// Dropped to stop it.
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Scrub {
    /// Starts the thread, unless the rate is 0.
    pub(crate) fn start(app: Arc<App>, db: Arc<Db>) -> std::io::Result<Option<Scrub>> {
        if app.config.scrub_bytes_per_second == 0 {
            return Ok(None);
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("scrub".into()).spawn(move || {
            let mut checks = Checks::default();
            while !wait(&stopped, IDLE_WAIT) {
                // A bug in the check of one block must not end the checks of all others.
                let outcome =
                    catch_unwind(AssertUnwindSafe(|| run_due(&app, &db, &mut checks, &stopped)));
                if outcome.is_err() {
                    tracing::error!("a scrub broke off; this is a bug");
                    app.scrub.change(|status| status.errors += 1);
                }
            }
        })?;
        Ok(Some(Scrub { stop, thread }))
    }

    /// Ends the thread after its present portion. Blocks.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the scrub thread broke off");
        }
    }
}

/// Whether the thread is to end.
fn wait(stopped: &mpsc::Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
}

/// When blocks were checked last.
#[derive(Debug, Default)]
struct Checks(HashMap<BlockId, i64>);

impl Checks {
    /// Forgets blocks that are gone; how many are due, and which of them is the first.
    fn due(&mut self, live: &[BlockId], now_ms: i64) -> (u64, Option<BlockId>) {
        self.0.retain(|id, _| live.contains(id));
        // A clock that was set back makes nothing due, and one set forward everything.
        let is_due = |id: &&BlockId| {
            self.0.get(id).is_none_or(|checked| now_ms.saturating_sub(*checked) >= EVERY_MS)
        };
        let due: Vec<&BlockId> = live.iter().filter(is_due).collect();
        let first = due.iter().min_by_key(|id| (self.0.get(**id).copied(), ***id));
        (due.len() as u64, first.map(|id| **id))
    }

    fn oldest(&self, live: &[BlockId]) -> Option<i64> {
        let known: Option<Vec<i64>> = live.iter().map(|id| self.0.get(id).copied()).collect();
        known?.into_iter().min()
    }
}

/// Checks blocks until none is due.
fn run_due(app: &App, db: &Db, checks: &mut Checks, stopped: &mpsc::Receiver<()>) {
    loop {
        let live: Vec<BlockId> = db.blocks().iter().map(|block| block.id).collect();
        let (due, next) = checks.due(&live, clock::now_ms());
        app.scrub.change(|status| {
            status.blocks_live = live.len() as u64;
            status.blocks_due = due;
            status.oldest_check_ms = checks.oldest(&live);
            status.current = next.map(|id| (id, 0));
        });
        let Some(id) = next else { return };
        match check(app, db, id, stopped) {
            Ok(true) => return,
            Ok(false) => app.scrub.change(|status| status.blocks += 1),
            Err(damage @ StorageError::Corrupt { .. }) => set_aside(app, db, id, damage),
            Err(error) => {
                tracing::error!(block = %id, %error, "the scrub could not read a block");
                app.scrub.change(|status| status.errors += 1);
            }
        }
        // What could not be read is not tried again and again: the next turn is in a week.
        checks.0.insert(id, clock::now_ms());
    }
}

/// Reads one block at the rate that is allowed; whether it was interrupted.
fn check(
    app: &App,
    db: &Db,
    id: BlockId,
    stopped: &mpsc::Receiver<()>,
) -> Result<bool, StorageError> {
    let Some(mut scrub) = db.scrub(id)? else { return Ok(false) };
    let portion = (app.config.scrub_bytes_per_second / u64::from(PORTIONS_PER_SECOND)).max(1);
    let mut left = portion;
    while let Some(read) = scrub.step(left)? {
        app.scrub.change(|status| {
            status.bytes += read;
            status.current = status.current.map(|(id, done)| (id, done + read));
        });
        left -= read;
        if left == 0 {
            left = portion;
            if wait(stopped, Duration::from_secs(1) / PORTIONS_PER_SECOND) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn set_aside(app: &App, db: &Db, id: BlockId, damage: StorageError) {
    let text = damage.to_string();
    tracing::error!(block = %id, damage = text, "the scrub found damage");
    app.scrub.change(|status| {
        status.blocks += 1;
        status.damaged_blocks += 1;
        status.last_damage = Some(text);
    });
    if let Err(error) = db.quarantine(id, damage) {
        tracing::error!(block = %id, %error, "a damaged block could not be set aside");
        app.scrub.change(|status| status.errors += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_checked_comes_first_and_then_what_was_checked_longest_ago() {
        let mut checks = Checks::default();
        let live = [1, 2, 3].map(BlockId);
        assert_eq!(checks.due(&live, 0), (3, Some(BlockId(1))));
        assert_eq!(checks.oldest(&live), None);
        checks.0.extend([(BlockId(1), 5), (BlockId(2), 3), (BlockId(9), 0)]);
        assert_eq!(checks.due(&live, EVERY_MS), (1, Some(BlockId(3))));
        checks.0.insert(BlockId(3), EVERY_MS);
        assert_eq!(checks.due(&live, EVERY_MS), (0, None));
        assert_eq!(checks.due(&live, EVERY_MS + 10), (2, Some(BlockId(2))));
        assert_eq!(checks.oldest(&live), Some(3), "block 9 is gone");
    }
}
