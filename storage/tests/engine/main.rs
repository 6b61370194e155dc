//! The storage engine as a whole, on the simulated disk: what was acknowledged is there, whatever
//! the order of arrival, and whatever the disk does.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod backup;
mod cardinality;
mod concurrent;
mod corruption;
mod crash;
mod deletes;
mod determinism;
mod faults;
mod import;
mod machine;
mod model;
mod oracle;
mod retention;
mod rollup;
mod series_limits;
mod start_timestamps;
mod upkeep;
