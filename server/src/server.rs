//! A server's life: bind, open the database, serve, drain, close.
//!
//! The port is bound and answers before the database is open, so that a probe or a sender that
//! comes during a replay gets a 503 in place of a refused connection. It stops in the reverse
//! order: no new connections, requests in flight to their end, then a checkpoint.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::{Db, Error as StorageError};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::clock;
use crate::config::{CONNECTIONS_MAX, Config, DRAIN_TIMEOUT};
use crate::connection::{self, GuardedStream};
use crate::maintenance::Maintenance;
use crate::reload::Reloader;
use crate::routes;
use crate::scrub::Scrub;

/// After `accept` failed; most often there are no file descriptors left.
const ACCEPT_ERROR_WAIT: Duration = Duration::from_millis(100);

/// A bound port, not yet served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
}

impl Server {
    pub async fn bind(config: Config) -> anyhow::Result<Server> {
        let listener = TcpListener::bind(&config.listen_address).await.with_context(|| {
            format!("cannot listen on --web.listen-address={}", config.listen_address)
        })?;
        let address = listener.local_addr().context("the listener has no address")?;
        Ok(Server { listener, app: Arc::new(App::new(config, address)) })
    }

    pub fn address(&self) -> SocketAddr {
        self.app.address
    }

    /// For reloading the configuration while it is served.
    pub fn reloader(&self) -> Reloader {
        Reloader { app: Arc::clone(&self.app) }
    }

    /// Serves until `shutdown` ends; calls `ready` once the database is open. An error means that
    /// the database could not be opened or closed.
    pub async fn serve(
        self,
        ready: impl FnOnce(SocketAddr),
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let Server { listener, app } = self;
        let graceful = GracefulShutdown::new();
        let mut shutdown = std::pin::pin!(shutdown);
        let (db, maintenance, scrub) = {
            let mut accepting = std::pin::pin!(accept(&listener, &app, &graceful));
            let db = tokio::select! {
                opened = open(&app) => opened?,
                // What a start writes survives being cut off; nothing needs closing.
                () = &mut shutdown => return Ok(()),
                () = &mut accepting => unreachable!("the accept loop has no end"),
            };
            let maintenance = Maintenance::start(Arc::clone(&app), Arc::clone(&db))
                .context("cannot start the maintenance thread")?;
            let scrub = Scrub::start(Arc::clone(&app), Arc::clone(&db))
                .context("cannot start the scrub thread")?;
            app.set_db(Arc::clone(&db));
            ready(app.address);
            tokio::select! {
                () = &mut shutdown => {}
                () = &mut accepting => unreachable!("the accept loop has no end"),
            }
            (db, maintenance, scrub)
        };
        tracing::info!("stopping");
        app.set_stopping();
        drop(listener);
        if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are cut off");
        }
        close(maintenance, scrub, db).await
    }
}

async fn open(app: &Arc<App>) -> anyhow::Result<Arc<Db>> {
    let opening = Arc::clone(app);
    let path = app.config.storage_path.display().to_string();
    let started = Instant::now();
    let opened = tokio::task::spawn_blocking(move || -> Result<Db, StorageError> {
        let config = &opening.config;
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(config.storage_path.clone()));
        let root = Path::new("");
        disk.create_dir_all(root).map_err(|source| StorageError::Io {
            operation: "create",
            path: config.storage_path.clone(),
            source,
        })?;
        Db::open(disk, config.storage.clone(), clock::now_ms())
    });
    // Storage's errors name their cause themselves.
    let db = opened.await.context("opening the database broke off")?.map_err(|error| {
        let why = match error {
            StorageError::Locked { .. } => "it is in use by another process".into(),
            error => error.to_string(),
        };
        anyhow::anyhow!("cannot open the database in --storage.path={path}: {why}")
    })?;
    let stats = db.stats();
    tracing::info!(
        path,
        elapsed = ?started.elapsed(),
        series = stats.head_series,
        blocks = stats.blocks,
        wal_bytes = stats.wal_bytes,
        quarantined_files = stats.quarantined_files,
        lost_records = stats.lost_records,
        "database is open"
    );
    Ok(Arc::new(db))
}

async fn close(maintenance: Maintenance, scrub: Option<Scrub>, db: Arc<Db>) -> anyhow::Result<()> {
    let started = Instant::now();
    let closed = tokio::task::spawn_blocking(move || {
        if let Some(scrub) = scrub {
            scrub.stop();
        }
        maintenance.stop();
        db.close(clock::now_ms())
    });
    let closed = closed.await.context("closing the database broke off")?;
    closed.map_err(|error| anyhow::anyhow!("cannot close the database: {error}"))?;
    tracing::info!(elapsed = ?started.elapsed(), "database is closed");
    Ok(())
}

/// Accepts connections for ever, so many at a time; those beyond wait in the system's queue, as
/// behind Prometheus's `--web.max-connections`.
async fn accept(listener: &TcpListener, app: &Arc<App>, graceful: &GracefulShutdown) {
    let builder = Arc::new(connection::builder());
    let service = routes::router(Arc::clone(app));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_ERROR_WAIT).await;
                continue;
            }
        };
        app.counters.connections_accepted.add(1);
        // Answers are written whole; waiting for more to send only delays their last packet.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot switch off Nagle's algorithm");
        }
        let stream = TokioIo::new(GuardedStream::new(stream));
        let service = TowerToHyperService::new(service.clone());
        let connection = builder.serve_connection(stream, service).into_owned();
        let connection = graceful.watch(connection);
        let app = Arc::clone(app);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                app.counters.connections_failed.add(1);
                tracing::debug!(error, "connection failed");
            }
            drop(place);
        });
    }
}
