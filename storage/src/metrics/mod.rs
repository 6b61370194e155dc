//! Metrics: float and histogram samples from the moment they arrive to their last block.

pub mod batch;
pub mod histogram;
pub mod sample;
pub mod block;
pub mod chunk;
pub(crate) mod head;
