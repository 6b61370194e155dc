//! Successful answers: the envelope, written a piece at a time.
//!
//! An answer may be hundreds of megabytes. What is shown to the client is therefore encoded as the
//! client takes it, [`CHUNK_BYTES`] at a time: [`Rows`] appends one more piece of `data` each time
//! it is called. An answer that fits one chunk is sent whole, with its length.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use hyper::header::CONTENT_TYPE;
use serde::Serialize;

use crate::http::json;

/// As much as is encoded before it is handed on; the last piece goes beyond it.
const CHUNK_BYTES: usize = 64 << 10;

/// Room for the piece that goes beyond a chunk, so that chunks are not moved as they grow.
const PIECE_BYTES: usize = 16 << 10;

/// Prometheus sends no more warnings than this, and no more infos, but says how many are left out.
const NOTES_MAX: usize = 10;

/// Appends the next piece of the JSON of `data`; false once there is none.
pub(crate) type Rows = Box<dyn FnMut(&mut Vec<u8>) -> bool + Send>;

/// What is said besides the data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
    /// vmalert reads it beside `data` and tells rules that can never fire.
    pub series_fetched: Option<u64>,
}

impl Notes {
    /// Prometheus's warning for a `limit` that cut something off.
    pub(crate) fn truncated(truncated: bool) -> Notes {
        let mut notes = Notes::default();
        if truncated {
            notes.add_truncated();
        }
        notes
    }

    pub(crate) fn add_truncated(&mut self) {
        self.warnings.push("results truncated due to limit".into());
    }
}

/// An answer whose data is small and has a type.
pub(crate) fn value<T: Serialize>(data: &T) -> Response {
    let mut text = serde_json::to_vec(data).expect("types of answers have string keys");
    let mut rows: Rows = Box::new(move |out| {
        out.append(&mut text);
        false
    });
    stream(Notes::default(), move |out| rows(out))
}

/// An answer whose data is an array; `next` appends one element or returns false.
pub(crate) fn array(
    notes: Notes,
    mut next: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static,
) -> Response {
    let mut separator = b'[';
    stream(notes, move |out| {
        let before = out.len();
        out.push(separator);
        separator = b',';
        if next(out) {
            return true;
        }
        if out[before] == b',' {
            out.truncate(before);
        }
        out.push(b']');
        false
    })
}

/// An answer whose data `rows` writes whole.
pub(crate) fn stream(
    notes: Notes,
    rows: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static,
) -> Response {
    let mut chunks = Chunks { rows: Some(Box::new(rows)), notes };
    let mut first = Vec::with_capacity(1024);
    first.extend_from_slice(br#"{"status":"success","data":"#);
    chunks.fill(&mut first);
    let body = match chunks.rows {
        None => Body::from(first),
        Some(_) => Body::new(Streamed { first: Some(first), chunks }),
    };
    ([(CONTENT_TYPE, json::CONTENT_TYPE)], body).into_response()
}

struct Chunks {
    /// `None` once everything is written.
    rows: Option<Rows>,
    notes: Notes,
}

impl Chunks {
    fn fill(&mut self, out: &mut Vec<u8>) {
        while let Some(rows) = &mut self.rows
            && out.len() < CHUNK_BYTES
        {
            if !rows(out) {
                self.rows = None;
                push_notes(out, &self.notes);
            }
        }
    }
}

fn push_notes(out: &mut Vec<u8>, notes: &Notes) {
    for (kind, texts) in [("warning", &notes.warnings), ("info", &notes.infos)] {
        if texts.is_empty() {
            continue;
        }
        out.extend_from_slice(format!(r#","{kind}s":"#).as_bytes());
        let more = texts.len().saturating_sub(NOTES_MAX);
        let more = (more > 0).then(|| format!("{more} more {kind} annotations omitted"));
        json::push_list(out, texts.iter().take(NOTES_MAX).chain(&more), |out, text| {
            json::push_string(out, text);
        });
    }
    if let Some(series) = notes.series_fetched {
        // A number in a string: that is what vmalert's decoder wants.
        out.extend_from_slice(format!(r#","stats":{{"seriesFetched":"{series}"}}"#).as_bytes());
    }
    out.push(b'}');
}

struct Streamed {
    first: Option<Vec<u8>>,
    chunks: Chunks,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let chunk = this.first.take().unwrap_or_else(|| {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES + PIECE_BYTES);
            this.chunks.fill(&mut chunk);
            chunk
        });
        let frame = (!chunk.is_empty()).then(|| Ok(Frame::data(Bytes::from(chunk))));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.chunks.rows.is_none()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn text(response: Response) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn numbers(count: u64) -> Response {
        let mut numbers = 0..count;
        array(Notes::default(), move |out| match numbers.next() {
            Some(n) => {
                out.extend_from_slice(n.to_string().as_bytes());
                true
            }
            None => false,
        })
    }

    #[test]
    fn arrays_are_closed_whatever_their_length() {
        for count in [0, 1, 2, 100_000] {
            let text = text(numbers(count));
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["data"].as_array().unwrap().len() as u64, count);
            assert_eq!(json["status"], "success");
        }
        assert_eq!(text(numbers(0)), r#"{"status":"success","data":[]}"#);
    }

    #[test]
    fn notes_follow_the_data_and_are_few() {
        let notes = Notes {
            warnings: (0..20).map(|n| n.to_string()).collect(),
            infos: vec![],
            series_fetched: Some(3),
        };
        let text = text(array(notes, |_| false));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["warnings"].as_array().unwrap().len(), 11);
        assert_eq!(json["warnings"][10], "10 more warning annotations omitted");
        assert_eq!(json["stats"]["seriesFetched"], "3");
        assert!(json.get("infos").is_none());
    }
}
