//! The endpoints, a file each for a family of them.
//!
//! A handler turns parameters into a question, asks storage or the engine off the async threads,
//! and turns what comes back into an answer. What all share (forms, envelopes, errors) is in
//! `http`; which path leads here is in `routes`.

pub mod exemplars;
pub mod health;
pub mod home;
pub mod labels;
pub mod metadata;
pub mod query;
pub mod result;
pub mod selectors;
pub mod status;
pub mod write;
