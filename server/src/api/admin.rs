//! `/api/v1/admin/tsdb/…`: what only an operator may ask for, once `--web.enable-admin-api` allows it.

use std::sync::Arc;

use axum::response::Response;
use hyper::header::{HeaderMap, ORIGIN};
use serde::Serialize;

use crate::app::{App, blocking};
use crate::clock;
use crate::http::error::{ApiError, ErrorKind};
use crate::http::params::Params;
use crate::http::reply;
use crate::snapshot_name;

#[derive(Serialize)]
struct SnapshotName {
    name: String,
}

/// What `--web.enable-admin-api` allows, and to no web page.
pub(super) fn check_allowed(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    if !app.config.enable_admin_api {
        return Err(ApiError::new(ErrorKind::Unavailable, "admin APIs disabled"));
    }
    refuse_web_pages(headers)
}

/// A page that changes anything on a server its reader's browser happens to reach does so behind
/// the reader's back.
pub(crate) fn refuse_web_pages(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.contains_key(ORIGIN) {
        true => Err(ApiError::new(ErrorKind::Forbidden, "not for requests of web pages")),
        false => Ok(()),
    }
}

/// Makes a snapshot folder. `skip_head`, which Prometheus knows, would leave out what was
/// acknowledged last, and is refused.
pub(crate) async fn snapshot(
    app: &Arc<App>,
    headers: &HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    check_allowed(app, headers)?;
    match params.get("skip_head") {
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => {}
        "1" | "t" | "T" | "true" | "TRUE" | "True" => {
            return Err(ApiError::parameter("skip_head", "a snapshot here is always whole"));
        }
        _ => {
            let text = "unable to parse boolean skip_head argument";
            return Err(ApiError::parameter("skip_head", text));
        }
    }
    let db = Arc::clone(app.db()?);
    let now_ms = clock::now_ms();
    let name = snapshot_name::at(now_ms);
    let made = blocking(move || db.link_snapshot(&name, now_ms).map(|_| name)).await?;
    let name = made
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("create snapshot: {error}")))?;
    tracing::info!(name, "snapshot made");
    Ok(reply::value(&SnapshotName { name }))
}

/// Removes a snapshot folder.
pub(crate) async fn remove_snapshot(
    app: &Arc<App>,
    headers: &HeaderMap,
    name: String,
) -> Result<Response, ApiError> {
    check_allowed(app, headers)?;
    let db = Arc::clone(app.db()?);
    let removing = name.clone();
    match blocking(move || db.remove_snapshot(&removing)).await? {
        Ok(true) => {
            tracing::info!(name, "snapshot removed");
            Ok(reply::value(&SnapshotName { name }))
        }
        Ok(false) => {
            let text = format!("there is no snapshot {name:?}");
            Err(ApiError::new(ErrorKind::NotFound, text))
        }
        Err(error @ icecore_storage::Error::Refused { .. }) => {
            Err(ApiError::parameter("name", error))
        }
        Err(error) => Err(error.into()),
    }
}
