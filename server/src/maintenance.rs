//! The maintenance thread: it gives storage its time, and stores the server's own metrics.
//!
//! Storage does its upkeep in bounded steps when it is asked to (checkpoint, seal, merge, retain);
//! this thread asks, again at once while there is work, and else every second.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use icecore_storage::Db;
use icecore_storage::db::{Progress, SyncMode};
use icecore_storage::labels::{Labels, METRIC_NAME};
use icecore_storage::metrics::batch::Batch;

use crate::app::App;
use crate::clock::{self, ClockWatch};
use crate::config::SELF_METRICS_INTERVAL_MS;
use crate::metrics;

/// The longest wait between two looks at what is due.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// After a step that failed. The next may meet the same full disk.
const ERROR_WAIT: Duration = Duration::from_secs(10);

/// The job under which the server's own metrics are stored.
const JOB: &str = "icecore";

/// The running thread.
#[derive(Debug)]
pub(crate) struct Maintenance {
    /// Dropped to stop it.
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Maintenance {
    pub(crate) fn start(app: Arc<App>, db: Arc<Db>) -> std::io::Result<Maintenance> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("maintenance".into())
            .spawn(move || run(&app, &db, &stopped))?;
        Ok(Maintenance { stop, thread })
    }

    /// Ends the thread after its present step. Blocks.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the maintenance thread broke off");
        }
    }
}

fn run(app: &App, db: &Db, stopped: &mpsc::Receiver<()>) {
    let idle_wait = match app.config.storage.sync {
        SyncMode::Interval(every) => every.min(IDLE_WAIT),
        SyncMode::Always => IDLE_WAIT,
    };
    let mut self_metrics_due_ms = i64::MIN;
    let clock_watch = ClockWatch::start(clock::now_ms());
    let mut clock_in_doubt = false;
    loop {
        let now_ms = clock::now_ms();
        if clock_watch.is_in_doubt(now_ms) != clock_in_doubt {
            clock_in_doubt = !clock_in_doubt;
            tracing::warn!(clock_in_doubt, now_ms, "the wall clock has jumped");
            db.doubt_clock(clock_in_doubt);
        }
        // A clock that was set back must not silence them until it has caught up.
        if now_ms >= self_metrics_due_ms || self_metrics_due_ms - now_ms > SELF_METRICS_INTERVAL_MS
        {
            store_self_metrics(app, db, now_ms, self_metrics_due_ms == i64::MIN);
            self_metrics_due_ms = now_ms + SELF_METRICS_INTERVAL_MS;
        }
        // A bug in one step must not end upkeep for good and so fill the disk with log.
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| db.maintain(now_ms)));
        let wait = match outcome {
            Ok(Ok(Progress::Worked)) => Duration::ZERO,
            // Half of a core at most, and the disk's queue has room for others.
            Ok(Ok(Progress::Background)) => started.elapsed(),
            Ok(Ok(Progress::Idle)) => idle_wait,
            Ok(Err(error)) => {
                app.counters.maintenance_errors.add(1);
                tracing::error!(%error, "maintenance failed");
                ERROR_WAIT
            }
            Err(_) => {
                app.counters.maintenance_errors.add(1);
                tracing::error!("maintenance broke off; this is a bug");
                ERROR_WAIT
            }
        };
        if stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Appends what a scrape of `/metrics` would bring, with what they mean the first time.
fn store_self_metrics(app: &App, db: &Db, now_ms: i64, first: bool) {
    let batch = self_metrics(app, now_ms, first);
    match db.append(&batch, now_ms) {
        Ok(appended) if appended.refused.is_empty() => {}
        Ok(appended) => tracing::warn!(refused = ?appended.refused, "own metrics were refused"),
        Err(error) => tracing::warn!(%error, "own metrics were not stored"),
    }
}

fn self_metrics(app: &App, now_ms: i64, with_metadata: bool) -> Batch {
    let instance = app.address.to_string();
    let target = [("job", JOB), ("instance", instance.as_str())];
    let up = Labels::from_pairs([(METRIC_NAME, "up")].into_iter().chain(target))
        .expect("these names are unique and not empty");
    let families = metrics::gather(app);
    let rows: Vec<(Labels, f64)> = families
        .iter()
        .flat_map(|family| family.rows.iter().map(|row| (family.series(row, &target), row.value)))
        .chain(std::iter::once((up, 1.0)))
        .collect();
    let mut batch = Batch::of_samples(rows.iter().map(|(labels, value)| (labels, now_ms, *value)));
    if with_metadata {
        batch.metadata.extend(families.iter().map(metrics::Family::metadata));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn own_metrics_name_their_job_and_say_up() {
        let app = App::new(Config::new("unused"), ([127, 0, 0, 1], 9494).into());
        let batch = self_metrics(&app, 5_000, true);
        assert_eq!(batch.timestamps.len(), batch.values.len());
        assert!(batch.timestamps.iter().all(|timestamp| *timestamp == 5_000));
        let last = Labels::from_canonical_bytes(batch.key(batch.series.last().unwrap())).unwrap();
        assert_eq!(last.to_string(), r#"up{instance="127.0.0.1:9494", job="icecore"}"#);
        assert_eq!(batch.values.last(), Some(&1.0));
        assert!(!batch.metadata.is_empty());
    }
}
