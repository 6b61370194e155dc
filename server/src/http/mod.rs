//! HTTP as the Prometheus API speaks it: parameters in, envelopes out, errors with their statuses.
//!
//! Nothing here knows an endpoint; `api` does. Nothing here waits without a limit.

pub mod body;
pub mod error;
pub mod histogram_json;
pub mod json;
pub mod params;
pub mod reply;
pub mod time;
