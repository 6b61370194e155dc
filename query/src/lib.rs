//! PromQL over a [`source::Source`].

pub mod engine;
pub mod functions;
pub mod go_format;
pub mod parser;
pub mod source;
pub mod value;
