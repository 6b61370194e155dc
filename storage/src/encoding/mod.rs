//! Codecs: bytes in, bytes out, no I/O.
//!
//! Every codec here makes the same promises. *Exact*: what is decoded equals what was encoded, bit
//! for bit, whatever the bits. *Deterministic*: the bytes are a function of the values alone, never
//! of memory, machine or what was encoded before; equal data gives equal files. *Safe*: decoding
//! bytes that nobody checked returns `None`, it never panics, and allocates no more than the count
//! the caller asks for; that count is the caller's to bound. Encoding cannot fail.
//!
//! Columns do not know their own length; who stores a column stores its count beside it.
//!
//! - [`varint`], [`bits`]: the two ways to write a number small
//! - [`pfor`]: columns of integers
//! - [`decimal`]: columns of floats, by turning them into integers where that is exact
//! - [`timestamps`]: strictly ascending columns near a regular grid, and subsets of such columns
//! - [`histograms`]: columns of native histograms, out of the above
//! - [`xor`], [`xor_histogram`]: Prometheus's own chunks, for those who ask for them
//! - [`frame`]: length and checksum around a section
//!
//! Layouts are in docs/format.md, "Encodings".

pub mod bits;
pub mod decimal;
pub mod frame;
pub mod histograms;
mod mantissa;
pub mod pfor;
pub mod timestamps;
pub mod varint;
pub mod xor;
mod xor_cut;
pub mod xor_histogram;
mod xor_layout;
