//! PromQL over a [`source::Source`].

pub mod annotations;
pub mod cache;
pub mod engine;
pub(crate) mod exec;
pub mod functions;
pub mod go_format;
pub mod histogram;
pub mod memory;
pub mod parser;
pub(crate) mod plan;
pub mod source;
pub mod value;
