//! From the wire to [`Batch`]: a decoder for each protocol by which samples arrive.
//!
//! A decoder takes the bytes of one request body and fills a batch; it reads no clock and does no
//! I/O, so a test is a byte string and a fuzz target is a function. What is wrong with a *row* or
//! a *series* is a refusal: counted in the batch, while the rest of the request goes on. What is
//! wrong with the *body* is a [`DecodeError`], and nothing of it is kept.
//!
//! Bytes from outside never panic, and never make a decoder allocate what they merely declare:
//! [`compression`] bounds a body before and while it decompresses it, and each protocol bounds the
//! rows that it makes of one. What senders may rely on is written in `docs/protocols.md`.
//!
//! [`Batch`]: icecore_storage::metrics::batch::Batch

pub mod compression;
mod error;
pub mod prometheus;
pub mod protobuf;
pub mod remote_write;

pub use compression::Encoding;
pub use error::DecodeError;
