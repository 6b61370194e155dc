//! Request bodies, read with a bound on their bytes and on their time.
//!
//! A client that stalls within a body is given up after [`READ_TIMEOUT`]; one that keeps trickling,
//! after [`BODY_TIMEOUT`]. Room is never taken on a client's word alone: it grows with what arrives.

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, HeaderMap};
use tokio::time::{Instant, timeout_at};

use crate::config::{BODY_TIMEOUT, READ_TIMEOUT};

/// A refused body is read on, to nowhere, until this many times the limit: a client that is
/// answered in mid-body may see a broken connection in place of the answer, and try again for ever.
const DRAIN_FACTOR: usize = 4;

/// How much is reserved on the word of `Content-Length`.
const RESERVE_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge { limit: usize },
    TooSlow,
    Broken,
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BodyError::TooLarge { limit } => {
                write!(f, "request body is larger than the limit of {limit} bytes")
            }
            BodyError::TooSlow => f.write_str("request body took too long to arrive"),
            BodyError::Broken => f.write_str("request body ended before its end"),
        }
    }
}

/// `Content-Length`, if there is one.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body, if it has at most `limit` bytes.
pub(crate) async fn read(
    mut body: Body,
    declared: Option<usize>,
    limit: usize,
) -> Result<Vec<u8>, BodyError> {
    let end = Instant::now() + BODY_TIMEOUT;
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0).min(limit).min(RESERVE_BYTES_MAX));
    let mut length: usize = 0;
    loop {
        let next = timeout_at(end.min(Instant::now() + READ_TIMEOUT), body.frame());
        let frame = match next.await {
            Err(_) => return Err(BodyError::TooSlow),
            Ok(Some(Err(_))) => return Err(BodyError::Broken),
            Ok(None) if length > limit => return Err(BodyError::TooLarge { limit }),
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(frame))) => frame,
        };
        let Some(data) = frame.data_ref() else { continue };
        length = length.saturating_add(data.len());
        if length <= limit {
            bytes.extend_from_slice(data);
        } else if length > limit.saturating_mul(DRAIN_FACTOR) {
            return Err(BodyError::TooLarge { limit });
        } else {
            bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &'static [u8], limit: usize) -> Result<Vec<u8>, BodyError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(read(Body::from(bytes), Some(bytes.len()), limit))
    }

    #[test]
    fn a_body_may_be_as_large_as_the_limit() {
        assert_eq!(read_all(b"12345", 5), Ok(b"12345".to_vec()));
        assert_eq!(read_all(b"123456", 5), Err(BodyError::TooLarge { limit: 5 }));
        assert_eq!(read_all(b"", 0), Ok(vec![]));
    }
}
