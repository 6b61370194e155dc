//! Errors as the Prometheus API words them: a type, a text, and the status that goes with it.

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use icecore_query::engine::QueryError;
use icecore_storage::Error as StorageError;

use crate::http::json;

/// Prometheus sends it with "not ready", so that its own probes can tell start from stop.
const STOPPING: HeaderName = HeaderName::from_static("x-prometheus-stopping");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    BadData,
    Execution,
    Timeout,
    Canceled,
    Internal,
    NotFound,
    Forbidden,
    /// Too much is asked at a time.
    Unavailable,
    /// The database is being opened or closed: a plain 503, no envelope.
    NotReady {
        stopping: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    kind: ErrorKind,
    message: String,
}

impl ApiError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into() }
    }

    pub(crate) fn bad_data(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::BadData, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorKind::Internal, message)
    }

    /// One parameter is wrong.
    pub(crate) fn parameter(name: &str, message: impl std::fmt::Display) -> ApiError {
        ApiError::bad_data(format!("invalid parameter {name:?}: {message}"))
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::BadData => StatusCode::BAD_REQUEST,
            ErrorKind::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::NotReady { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // nginx's "client closed request"; nobody is left to read it but a proxy's log.
            ErrorKind::Canceled => StatusCode::from_u16(499).expect("499 is a status"),
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        }
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            ErrorKind::BadData => "bad_data",
            ErrorKind::Execution => "execution",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Canceled => "canceled",
            ErrorKind::Internal => "internal",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Forbidden => "forbidden",
            ErrorKind::Unavailable | ErrorKind::NotReady { .. } => "unavailable",
        }
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> ApiError {
        let kind = match &error {
            QueryError::BadData(_) => ErrorKind::BadData,
            QueryError::Execution(_) => ErrorKind::Execution,
            QueryError::Timeout(_) => ErrorKind::Timeout,
            QueryError::Canceled(_) => ErrorKind::Canceled,
            QueryError::Internal(_) => ErrorKind::Internal,
        };
        ApiError::new(kind, error.to_string())
    }
}

/// A failure to read or to delete. Writes have their own answers.
impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> ApiError {
        match error {
            StorageError::Closed => {
                ApiError::new(ErrorKind::NotReady { stopping: true }, error.to_string())
            }
            StorageError::Invalid { what } => ApiError::bad_data(what),
            StorageError::Unavailable { reason, .. } => {
                ApiError::new(ErrorKind::Unavailable, reason)
            }
            _ => ApiError::new(ErrorKind::Internal, error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let ErrorKind::NotReady { stopping } = self.kind {
            let stopping = if stopping { "true" } else { "false" };
            let headers = [(STOPPING, stopping), (RETRY_AFTER, "5")];
            return (self.status(), headers, "Service Unavailable").into_response();
        }
        let mut body = Vec::with_capacity(self.message.len() + 64);
        body.extend_from_slice(br#"{"status":"error","errorType":"#);
        json::push_string(&mut body, self.type_name());
        body.extend_from_slice(br#","error":"#);
        json::push_string(&mut body, &self.message);
        body.push(b'}');
        (self.status(), [(CONTENT_TYPE, json::CONTENT_TYPE)], body).into_response()
    }
}
