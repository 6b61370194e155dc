//! Metrics: float and histogram samples from the moment they arrive to their last block.

pub mod batch;
pub mod block;
pub mod checkpoint;
pub mod chunk;
pub(crate) mod companion;
pub(crate) mod head;
pub mod histogram;
pub mod rollup;
pub mod sample;
