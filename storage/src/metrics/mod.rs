//! Metrics: float and histogram samples from the moment they arrive to their last block.

pub mod batch;
pub mod block;
pub mod checkpoint;
pub mod chunk;
pub(crate) mod companion;
pub mod float_histogram;
pub(crate) mod head;
pub mod histogram;
pub mod kahan;
pub mod rollup;
pub mod sample;
