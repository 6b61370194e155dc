//! Reloading the configuration file while the server runs, on SIGHUP and on `POST /-/reload`.
//!
//! A file that is refused changes nothing: what was in force stays, and the answer, the log and
//! `icecore_config_last_reload_successful` say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use icecore_storage::retention::policy::Policies;
use parking_lot::Mutex;

use crate::app::{App, blocking};
use crate::clock;
use crate::config_file;
use crate::http::error::ApiError;

/// What is in force, and how the last reload went.
#[derive(Debug)]
pub(crate) struct Reload {
    /// Held during a reload: they come one after the other.
    turn: Mutex<()>,
    policies: Mutex<Policies>,
    is_successful: AtomicBool,
    succeeded_ms: AtomicI64,
}

impl Reload {
    /// The start was the first.
    pub(crate) fn new(policies: Policies, now_ms: i64) -> Reload {
        Reload {
            turn: Mutex::new(()),
            policies: Mutex::new(policies),
            is_successful: AtomicBool::new(true),
            succeeded_ms: AtomicI64::new(now_ms),
        }
    }

    pub(crate) fn is_successful(&self) -> bool {
        self.is_successful.load(Ordering::Relaxed)
    }

    /// When a configuration was last taken.
    pub(crate) fn succeeded_ms(&self) -> i64 {
        self.succeeded_ms.load(Ordering::Relaxed)
    }

    /// The policies in force.
    pub(crate) fn policies(&self) -> Policies {
        self.policies.lock().clone()
    }
}

/// Reads the file and puts it in force. Blocks.
pub(crate) fn reload(app: &App) -> Result<(), ApiError> {
    let _turn = app.reload.turn.lock();
    let db = app.db()?;
    let loaded = config_file::load(app.config.config_file.as_deref(), app.config.retention_flag_ms);
    let put = loaded.and_then(|loaded| {
        db.set_policies(&loaded.policies)?;
        db.set_series_limits(&loaded.series_limits);
        loaded.warn();
        *app.reload.policies.lock() = loaded.policies;
        Ok(())
    });
    app.reload.is_successful.store(put.is_ok(), Ordering::Relaxed);
    match put {
        Ok(()) => {
            app.reload.succeeded_ms.store(clock::now_ms(), Ordering::Relaxed);
            tracing::info!("configuration loaded");
            Ok(())
        }
        Err(error) => {
            tracing::error!("the configuration stays as it was: {error:#}");
            Err(ApiError::internal(format!("failed to reload config: {error:#}")))
        }
    }
}

/// `POST /-/reload`: as Prometheus, nothing on success and plain text on failure.
pub(crate) async fn endpoint(app: &Arc<App>) -> Result<Response, ApiError> {
    app.db()?;
    let reloading = Arc::clone(app);
    match blocking(move || reload(&reloading)).await? {
        Ok(()) => Ok(StatusCode::OK.into_response()),
        Err(error) => {
            let text = format!("{}\n", error.message());
            Ok((StatusCode::INTERNAL_SERVER_ERROR, text).into_response())
        }
    }
}

/// Reloads a running server from outside of it.
#[derive(Clone, Debug)]
pub struct Reloader {
    pub(crate) app: Arc<App>,
}

impl Reloader {
    /// What came of it is in the log and in the metrics.
    pub async fn reload(&self) {
        let app = Arc::clone(&self.app);
        if let Ok(Err(error)) = blocking(move || reload(&app)).await {
            tracing::debug!(error = error.message(), "not reloaded");
        }
    }
}
