//! The label index: from matchers to series, and from series to labels.
//!
//! A **pair** is a label's name and value; its **postings** are the ids of the series that have
//! it. Ids are dense numbers that mean something within one index only. Every data type uses the
//! same two indexes: [`head::HeadIndex`], which changes, and [`sealed::SealedIndex`], a section of
//! an immutable file. [`select`] runs over both, so that a query finds the same in each.
//!
//! In both, a series' labels exist only as references to pairs, and a pair's text exists once.

#[cfg(test)]
mod contract;
pub mod head;
mod pairs;
mod postings;
mod rows;
mod select;
