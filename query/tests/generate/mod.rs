//! Series and queries at random, for tests that compare answers: of one engine asked in two ways,
//! or of two engines.
//!
//! Everything follows from [`Choices`], a list of numbers that says which way was taken at each
//! fork: drawn from a seed, or from proptest, which makes a failing list smaller. 0 is the simplest
//! way. Depends on the standard library alone, so that any crate's tests can include it by path.

pub(crate) mod choices;
pub(crate) mod data;
pub(crate) mod query;
