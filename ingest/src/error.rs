//! Why a body could not be read at all.

use crate::protobuf::Malformed;

/// The body as a whole is unusable: sending it again cannot help, so the answer is 400.
///
/// It is never 413 or 422: vmagent retries those for ever, and its queue stops behind the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("body of {bytes} bytes exceeds the limit of {limit}")]
    BodyTooLarge { bytes: usize, limit: usize },
    #[error(
        "body of {compressed} bytes in {encoding} holds {decoded} bytes or more, the limit is {limit}"
    )]
    DecodedTooLarge { encoding: &'static str, compressed: usize, decoded: u64, limit: usize },
    #[error("body is not {encoding}: {what}")]
    NotDecompressible { encoding: &'static str, what: String },
    #[error("body is not a {message}: {} at byte {} once decompressed", malformed.what, malformed.position)]
    Malformed { message: &'static str, malformed: Malformed },
}
