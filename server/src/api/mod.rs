//! The endpoints, a file each for a family of them.
//!
//! A handler turns parameters into a question, asks storage or the engine off the async threads,
//! and turns what comes back into an answer. What all share (forms, envelopes, errors) is in
//! `http`; which path leads here is in `routes`.

pub(crate) mod admin;
pub(crate) mod deletes;
pub(crate) mod exemplars;
pub(crate) mod health;
pub(crate) mod home;
pub(crate) mod labels;
pub(crate) mod metadata;
pub(crate) mod parse_query;
pub(crate) mod points;
pub(crate) mod query;
pub(crate) mod result;
pub(crate) mod retention;
pub(crate) mod selectors;
pub(crate) mod status;
pub(crate) mod tsdb;
pub(crate) mod write;
