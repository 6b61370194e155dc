//! Measuring Icecore: workloads, a load generator, and other servers to compare with.
//!
//! [`bodies`] makes remote-write requests from a seed, so that a number can be had again.
//! `icecore-load` ([`load`]) sends them to a running server and reports what they cost it;
//! `icecore-compare` does so with Icecore, Prometheus and VictoriaMetrics in turn and asks each the
//! queries of [`queries`]. Costs are CPU seconds of the server's process, which a busy machine
//! disturbs less than wall time. [`exporters`] reads real metrics for the codec's benchmark.

pub mod bodies;
pub mod callgrind;
pub mod command_line;
pub mod database;
pub mod exporters;
pub mod fleet;
pub mod http;
pub mod load;
pub mod process;
pub mod queries;
