//! Retention: how long data is kept, by policies.
//!
//! [`policy`] is what people ask for, [`classes`] what blocks know of it, and [`plan`] decides what
//! is dropped. [`report`] says what is there and what goes when, [`capacity`] what that takes.

pub mod apply;
pub mod capacity;
pub(crate) mod classes;
pub(crate) mod classify;
pub mod hold;
pub mod plan;
pub mod policy;
pub mod report;
pub(crate) mod share;
