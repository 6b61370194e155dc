//! The `icecore` server: storage, ingest and query behind the HTTP API of Prometheus.
//!
//! This is the only crate with a clock, a network and async code. `main` reads the command line
//! and starts a [`server::Server`]; tests start one themselves, on a port of their own. A request
//! takes this way:
//!
//! ```text
//! connection → routes → http::{params, body} → api::<family> → spawn_blocking → storage, query
//!                                                  ↓
//!                                   http::{reply, json} → the client, a chunk at a time
//! ```
//!
//! The rule that holds: everything that a client can make large or slow has a bound, and the
//! bounds that are no flags stand in [`config`].

mod api;
mod app;
pub mod backup;
pub mod cli;
mod clock;
pub mod config;
pub mod config_file;
mod connection;
mod counters;
mod data_directory;
pub mod delete;
pub mod features;
mod http;
mod http_client;
pub mod import;
pub mod inspect;
mod maintenance;
mod metrics;
pub mod plan;
mod process;
mod progress;
mod reload;
pub mod report;
pub mod restore;
mod routes;
mod scrub;
pub mod server;
mod size;
mod snapshot_name;
mod table;
pub mod telemetry;
pub mod verify;

pub use api::result::{QueryTimes, ResultRows};
pub use config::Config;
use icecore_storage::duration;
pub use reload::Reloader;
pub use server::Server;
