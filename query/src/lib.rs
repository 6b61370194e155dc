//! PromQL over a [`source::Source`].

pub mod engine;
pub mod functions;
pub mod parser;
pub mod source;
pub mod value;
