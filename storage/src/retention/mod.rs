//! Retention: how long data is kept.

pub mod plan;
