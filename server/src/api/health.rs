//! `/-/healthy`, `/-/ready` and `/metrics`.

use axum::response::{IntoResponse, Response};
use hyper::header::CONTENT_TYPE;

use crate::app::App;
use crate::http::error::ApiError;
use crate::metrics;

/// The process runs and answers.
pub(crate) fn healthy() -> Response {
    "Icecore is Healthy.\n".into_response()
}

/// Requests are served.
pub(crate) fn ready(app: &App) -> Result<Response, ApiError> {
    app.db()?;
    Ok("Icecore is Ready.\n".into_response())
}

pub(crate) fn metrics(app: &App) -> Response {
    let text = metrics::expose(&metrics::gather(app));
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
