//! `/api/v1/write`: Prometheus remote write 1.0, and VictoriaMetrics's variant of it under zstd.
//!
//! The statuses are chosen by what senders do with them. Prometheus drops a request on 4xx and
//! repeats it on 5xx; vmagent drops it on 400, 409 and 415 alone and repeats everything else
//! without end. So whatever will never be accepted is 400 (or 415, for what is not spoken here),
//! whatever may be accepted later is 503, and 413, 422 and 429 are never sent.
//!
//! To zstd, vmagent takes 400 for "speaks no zstd", changes to snappy for ever and sends the same
//! block again. A zstd body that can be decoded is therefore answered 204 even if rows of it are
//! refused; the refusals are counted in a metric and logged.

use std::fmt::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, ORIGIN, RETRY_AFTER};
use icecore_ingest::{Encoding, compression, remote_write};
use icecore_storage::Error as StorageError;
use icecore_storage::db::Appended;
use icecore_storage::metrics::batch::Refusals;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::{App, Room, blocking, enter};
use crate::clock;
use crate::counters::WriteResult;
use crate::http::body::{self, BodyError};
use crate::http::params::Params;

/// Seconds after which a sender shall try again if storage names no time.
const RETRY_AFTER_SECONDS: u32 = 5;

/// …and if there is no memory for new series: idle ones leave it after some minutes.
const DEFERRED_SECONDS: u32 = 30;

/// What is answered: a status, a text, and what to count.
#[derive(Debug)]
struct Outcome {
    result: WriteResult,
    status: StatusCode,
    text: String,
    retry_after_seconds: Option<u32>,
}

impl Outcome {
    fn stored() -> Outcome {
        Outcome::new(WriteResult::Stored, StatusCode::NO_CONTENT, String::new())
    }

    fn new(result: WriteResult, status: StatusCode, text: impl Into<String>) -> Outcome {
        Outcome { result, status, text: text.into(), retry_after_seconds: None }
    }

    fn unsupported(text: String) -> Outcome {
        Outcome::new(WriteResult::Unsupported, StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
    }

    /// Not now: of the whole request nothing is stored, or nothing of some series.
    fn unavailable(text: impl Into<String>, seconds: u32) -> Outcome {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let retry_after_seconds = Some(seconds);
        Outcome { retry_after_seconds, ..Outcome::new(WriteResult::Unavailable, status, text) }
    }
}

impl IntoResponse for Outcome {
    fn into_response(self) -> Response {
        let mut text = self.text;
        if !text.is_empty() {
            text.push('\n');
        }
        match self.retry_after_seconds {
            None => (self.status, text).into_response(),
            Some(seconds) => {
                (self.status, [(RETRY_AFTER, seconds.to_string())], text).into_response()
            }
        }
    }
}

/// Senders that predate zstd ask first which version is spoken: 1, that is zstd.
pub(crate) fn asks_for_version(params: &Params) -> bool {
    !params.get("get_vm_proto_version").is_empty()
}

pub(crate) fn version() -> Response {
    "1".into_response()
}

pub(crate) async fn write(app: &Arc<App>, headers: &HeaderMap, body: Body) -> Response {
    let outcome = receive(app, headers, body).await.unwrap_or_else(|refused| refused);
    app.counters.write.count(outcome.result);
    if outcome.result != WriteResult::Stored {
        tracing::debug!(
            status = outcome.status.as_u16(),
            text = outcome.text,
            "write not stored whole"
        );
    }
    outcome.into_response()
}

async fn receive(app: &Arc<App>, headers: &HeaderMap, body: Body) -> Result<Outcome, Outcome> {
    // Every error of a server that opens or closes its database is a "later".
    let db = app.db().map_err(|_| {
        Outcome::unavailable("the database is starting or stopping", RETRY_AFTER_SECONDS)
    })?;
    let db = Arc::clone(db);
    let encoding = check_headers(headers)?;
    let limits = app.config.storage.limits;
    let declared = body::declared_length(headers);
    // Chunked bodies do not say how long they are.
    let room = declared.unwrap_or(limits.body_bytes).min(limits.body_bytes);
    let _room = room_in(&app.gates.write_bodies, room).await?;
    let bytes =
        body::read(body, declared, limits.body_bytes).await.map_err(|error| match error {
            BodyError::TooLarge { .. } => {
                Outcome::new(WriteResult::TooLarge, StatusCode::BAD_REQUEST, error.to_string())
            }
            BodyError::TooSlow | BodyError::Broken => {
                Outcome::unavailable(error.to_string(), RETRY_AFTER_SECONDS)
            }
        })?;
    app.counters.write.body_bytes.add(bytes.len() as u64);
    // What is made of a body takes about as much as the body itself.
    let decoded = 2 * compression::decoded_bytes(&bytes, encoding, &limits);
    let room = room_in(&app.gates.decoded_bodies, decoded).await?;
    let permit = enter(&app.gates.writes).await;
    let worker = Arc::clone(app);
    let work = blocking(move || {
        let _permits = (permit, room);
        let mut batch = worker.batches.take().unwrap_or_else(remote_write::batch);
        let decoded = remote_write::decode(&bytes, encoding, &limits, &mut batch);
        drop(bytes);
        let outcome = match decoded {
            Err(error) => {
                let text = error.to_string();
                Outcome::new(WriteResult::Undecodable, StatusCode::BAD_REQUEST, text)
            }
            Ok(()) => match db.append(&batch, clock::now_ms()) {
                Ok(appended) => appended_outcome(&worker, encoding, appended),
                Err(error) => failed_outcome(error),
            },
        };
        worker.batches.put(batch);
        outcome
    });
    // A bug of ours in decoding must not make a sender repeat its request for ever, but most bugs
    // are not of the body: let it try again.
    work.await.map_err(|error| Outcome::unavailable(error.message(), RETRY_AFTER_SECONDS))
}

/// The encoding, or why the body cannot be read here.
fn check_headers(headers: &HeaderMap) -> Result<Encoding, Outcome> {
    let text = |name| headers.get(name).map_or(Ok(""), |value| value.to_str().map_err(|_| ()));
    // No collector is a web page; a page that writes does so behind its reader's back.
    if headers.contains_key(ORIGIN) {
        let text = "writes from web pages are refused";
        return Err(Outcome::new(WriteResult::Unsupported, StatusCode::FORBIDDEN, text));
    }
    if !text(CONTENT_TYPE).is_ok_and(is_remote_write_1) {
        return Err(Outcome::unsupported(format!(
            "unsupported Content-Type {:?}: this endpoint takes remote write 1.0, application/x-protobuf;proto=prometheus.WriteRequest",
            headers.get(CONTENT_TYPE).unwrap_or(&hyper::header::HeaderValue::from_static("")),
        )));
    }
    // Without a header it is snappy: early senders had none.
    match text(CONTENT_ENCODING) {
        Ok("") => Ok(Encoding::Snappy),
        Ok(encoding) => Encoding::from_header(encoding).ok_or_else(|| {
            let text = format!("unsupported Content-Encoding {encoding:?}: send snappy or zstd");
            Outcome::unsupported(text)
        }),
        Err(()) => Err(Outcome::unsupported("unsupported Content-Encoding".into())),
    }
}

fn is_remote_write_1(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or("");
    let known = media_type.is_empty() || media_type.eq_ignore_ascii_case("application/x-protobuf");
    known
        && parts.all(|part| match part.split_once('=') {
            Some((name, message)) if name.trim().eq_ignore_ascii_case("proto") => {
                message.trim().trim_matches('"') == "prometheus.WriteRequest"
            }
            _ => true,
        })
}

/// Room for a body among those that are held at once.
async fn room_in(gate: &Room, bytes: usize) -> Result<OwnedSemaphorePermit, Outcome> {
    gate.take(bytes).await.ok_or_else(|| {
        let text = "the bodies of other writes take all memory there is for them (--memory.limit)";
        Outcome::unavailable(text, RETRY_AFTER_SECONDS)
    })
}

fn appended_outcome(app: &App, encoding: Encoding, appended: Appended) -> Outcome {
    let counters = &app.counters.write;
    counters.samples.add(appended.samples);
    counters.histograms.add(appended.histograms);
    counters.exemplars.add(appended.exemplars);
    let deferred = &appended.deferred;
    if !deferred.is_empty() {
        let text = refusal_text("rows have to wait", &appended, deferred);
        return Outcome::unavailable(text, DEFERRED_SECONDS);
    }
    let refused = &appended.refused;
    if refused.is_empty() {
        return Outcome::stored();
    }
    let text = refusal_text("rows refused", &appended, refused);
    if encoding == Encoding::Zstd {
        counters.refused_silently.add(refused.rows);
        return Outcome::new(WriteResult::Partial, StatusCode::NO_CONTENT, String::new());
    }
    counters.refused_told.add(refused.rows);
    Outcome::new(WriteResult::Partial, StatusCode::BAD_REQUEST, text)
}

/// All refusals in number, the first few in words.
fn refusal_text(what: &str, appended: &Appended, refused: &Refusals) -> String {
    let Refusals { listed, rows } = refused;
    let stored = appended.samples + appended.histograms;
    let mut text = format!("{rows} {what}, {stored} samples stored");
    for refusal in listed {
        write!(text, "\n{}: {} ({} rows)", refusal.series, refusal.reason, refusal.rows)
            .expect("a String takes any text");
    }
    let told: u64 = listed.iter().map(|refusal| refusal.rows).sum();
    if told < *rows {
        write!(text, "\n… and {} rows more", rows - told).expect("a String takes any text");
    }
    text
}

fn failed_outcome(error: StorageError) -> Outcome {
    match &error {
        StorageError::Unavailable { reason, retry_after_seconds } => {
            Outcome::unavailable(reason.clone(), *retry_after_seconds)
        }
        StorageError::Closed => Outcome::unavailable(error.to_string(), RETRY_AFTER_SECONDS),
        _ => {
            tracing::error!(%error, "a write failed");
            Outcome::unavailable(error.to_string(), RETRY_AFTER_SECONDS)
        }
    }
}

#[cfg(test)]
mod tests {
    use icecore_storage::metrics::batch::Refusal;

    use super::*;

    fn headers(content_type: &'static str, encoding: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(CONTENT_TYPE, content_type), (CONTENT_ENCODING, encoding)] {
            if !value.is_empty() {
                headers.insert(name, value.parse().unwrap());
            }
        }
        headers
    }

    #[test]
    fn remote_write_1_is_spoken_and_nothing_else() {
        for (content_type, encoding, expected) in [
            ("", "", Some(Encoding::Snappy)),
            ("application/x-protobuf", "snappy", Some(Encoding::Snappy)),
            ("application/x-protobuf", "zstd", Some(Encoding::Zstd)),
            (
                "application/x-protobuf;proto=prometheus.WriteRequest",
                "snappy",
                Some(Encoding::Snappy),
            ),
            ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "snappy", None),
            ("application/json", "snappy", None),
            ("application/x-protobuf", "gzip", None),
        ] {
            let outcome = check_headers(&headers(content_type, encoding));
            if let Err(outcome) = &outcome {
                assert_eq!(outcome.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
            assert_eq!(outcome.ok(), expected, "{content_type} {encoding}");
        }
    }

    #[test]
    fn refusals_name_series_reason_and_count() {
        let refused = Refusals {
            listed: vec![Refusal {
                series: r#"up{job="a"}"#.into(),
                reason: "too old".into(),
                rows: 2,
            }],
            rows: 5,
        };
        let appended = Appended { samples: 7, refused, ..Appended::default() };
        assert_eq!(
            refusal_text("rows refused", &appended, &appended.refused),
            "5 rows refused, 7 samples stored\nup{job=\"a\"}: too old (2 rows)\n… and 3 rows more"
        );
    }
}
