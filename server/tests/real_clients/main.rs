//! The `icecore` binary among programs that nobody here wrote, on a machine that treats it badly.
//!
//! - `comparison`: Debian's Prometheus and vmagent scrape Debian's node exporter and write here;
//!   Prometheus and Icecore then answer the same queries alike.
//! - `random_queries`, `random_patterns`: Debian's Prometheus and Icecore have the same samples and
//!   answer thousands of generated queries alike, and take patterns alike.
//! - `crash`: killed in the middle of writing, again and again.
//! - `bad_input`: bodies and queries that mean harm.
//! - `flood`: more new series than there is memory for.
//! - `jsonl_import`: an export of VictoriaMetrics.
//! - `prometheus_import`: a switch from Debian's Prometheus: its directory is imported, and both answer
//!   alike.
//! - `capacity_report`: Python reads the report in all its forms.
//! - `tsdb_status`: Debian's Prometheus and Icecore name the same metrics, labels and pairs as the greatest.
//! - `data_directory`: a full disk, and a second process on the same directory.
//!
//! Every program is a child of the test and ends with it. Where one is missing the test says
//! `SKIPPED:` and passes, except under `CI`, where it fails.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics has failed; it says what it measured"
)]

#[path = "../support/client.rs"]
mod client;
#[path = "../support/write_request.rs"]
#[expect(dead_code, reason = "the tests of the API use all of it")]
mod write_request;

#[path = "../../../query/tests/generate/mod.rs"]
mod generate;

mod answers;
mod bad_input;
mod capacity_report;
mod comparison;
mod crash;
mod data_directory;
mod flood;
mod icecore;
mod jsonl_import;
mod pair;
mod process;
mod prometheus_import;
mod random_patterns;
mod random_queries;
mod tsdb_status;
