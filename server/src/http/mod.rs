//! HTTP as the Prometheus API speaks it: parameters in, envelopes out, errors with their statuses.
//!
//! Nothing here knows an endpoint; `api` does. Nothing here waits without a limit.

pub(crate) mod body;
pub(crate) mod error;
pub(crate) mod histogram_json;
pub(crate) mod json;
pub(crate) mod params;
pub(crate) mod reply;
pub(crate) mod time;
