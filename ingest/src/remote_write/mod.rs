//! Prometheus remote write 1.0, and VictoriaMetrics' variant of it, which is the same under zstd.
//!
//! A `prometheus.WriteRequest` is walked in place. The labels of a series are, in the field order
//! of every known sender, one contiguous run of the body: this *key region* is hashed whole and
//! left as it is ([`key`]); only a series that the head has not seen is parsed. Rows go to the
//! batch's columns ([`walk`]); native histograms become absolute counts ([`histogram`]).
//!
//! The rule that holds: what a request costs in memory is bounded by [`ROW_BYTES_MAX`] besides its
//! body, whatever the body says. Rows beyond a bound are refused and counted; those before it are
//! kept. Refusing costs the same for one row and for millions.
//!
//! Specification: <https://prometheus.io/docs/specs/prw/remote_write_spec/>; exemplars, metadata
//! and native histograms as in `prompb/types.proto` of Prometheus.

mod histogram;
mod key;
mod walk;

use icecore_storage::limits::Limits;
use icecore_storage::metrics::batch::Batch;

use crate::compression::{Encoding, decompress};
use crate::error::DecodeError;

/// Bytes of rows that one request may make, whatever its samples' limit: as many samples as
/// [`Limits`] allows by default. A few kilobytes of zstd that unpack to a body of 32 MiB, and to
/// these rows, cost less than 64 MiB.
pub const ROW_BYTES_MAX: usize = 24 << 20;

/// An empty batch for [`decode`], to be kept and passed again.
pub fn batch() -> Batch {
    Batch::new(key::labels, key::describe)
}

/// Fills `batch` with the rows of one request. What `batch` held before is lost; its memory is
/// used again, and passing it without clearing it first spares clearing the body buffer.
///
/// After an error the batch is empty, and the request is to be answered with 400.
pub fn decode(
    body: &[u8],
    encoding: Encoding,
    limits: &Limits,
    batch: &mut Batch,
) -> Result<(), DecodeError> {
    let mut decoded = std::mem::take(&mut batch.body);
    batch.clear();
    batch.key_form = key::labels;
    batch.key_text = key::describe;
    let outcome = decompress(body, encoding, limits, &mut decoded)
        .and_then(|()| walk::request(&mut decoded, limits, batch));
    if outcome.is_err() {
        batch.clear();
    }
    batch.body = decoded;
    outcome
}
