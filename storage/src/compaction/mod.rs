//! Upkeep: sealing the head, checkpoints, merging blocks.
//!
//! [`plan`], [`windows`] and [`rollup::due`] decide, purely; [`seal`] and [`run`] carry out.

pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod rollup;
pub(crate) mod run;
pub(crate) mod seal;
pub(crate) mod union;
pub(crate) mod windows;
