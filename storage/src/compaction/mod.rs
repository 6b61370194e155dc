//! Upkeep: sealing the head, checkpoints, merging blocks.
//!
//! [`plan`] and [`windows`] decide, purely; [`seal`] and [`merge`] carry out.

pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod seal;
pub(crate) mod windows;
