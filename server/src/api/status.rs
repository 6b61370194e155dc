//! `/api/v1/status/…`, and the lists of rules and alerts, which are empty: Icecore evaluates none.

use axum::response::Response;
use serde::Serialize;

use crate::app::App;
use crate::clock;
use crate::duration;
use crate::http::reply;
use crate::http::time::format_rfc3339;

/// The version of Prometheus whose HTTP API and PromQL this server follows. Clients take
/// `version` for just that and switch features by it: Grafana sends `match[]` to label endpoints
/// from 2.24 on. Our own version is in `revision`, and in the metric `icecore_build_info`.
const PROMETHEUS_API_VERSION: &str = "3.14.0";

const OWN_VERSION: &str = concat!("icecore-", env!("CARGO_PKG_VERSION"));

/// There is no `features` and no `application` here: with either, Grafana takes the server for
/// Mimir and offers to edit rules.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildInfo {
    version: &'static str,
    revision: &'static str,
    branch: &'static str,
    build_user: &'static str,
    build_date: &'static str,
    go_version: &'static str,
}

pub(crate) fn build_info() -> Response {
    reply::value(&BuildInfo {
        version: PROMETHEUS_API_VERSION,
        revision: OWN_VERSION,
        branch: "icecore",
        build_user: "",
        build_date: "",
        go_version: "",
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeInfo {
    start_time: String,
    #[serde(rename = "CWD")]
    working_folder: String,
    server_time: String,
    reload_config_success: bool,
    last_config_time: String,
    corruption_count: u64,
    storage_retention: String,
}

/// The fields that mean something here; Go's scheduler and collector have none.
pub(crate) fn runtime_info(app: &App) -> Response {
    let started = format_rfc3339(app.started_ms);
    let stats = app.db_if_open().map(|db| db.stats()).unwrap_or_default();
    let working_folder = std::env::current_dir().unwrap_or_default();
    reply::value(&RuntimeInfo {
        start_time: started,
        working_folder: working_folder.display().to_string(),
        server_time: format_rfc3339(clock::now_ms()),
        reload_config_success: app.reload.is_successful(),
        last_config_time: format_rfc3339(app.reload.succeeded_ms()),
        corruption_count: stats.quarantined_files + stats.lost_records,
        storage_retention: duration::format_ms(app.reload.policies().catch_all().raw_lifetime_ms()),
    })
}

pub(crate) fn flags(app: &App) -> Response {
    let flags: std::collections::BTreeMap<&str, &str> =
        app.config.flags.iter().map(|(name, value)| (*name, value.as_str())).collect();
    reply::value(&flags)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Scrub {
    bytes_per_second: u64,
    live_blocks: u64,
    due_blocks: u64,
    checked_blocks: u64,
    checked_bytes: u64,
    damaged_blocks: u64,
    errors: u64,
    /// The block being read, and how far.
    current_block: Option<String>,
    current_bytes: u64,
    /// When the block was checked that was checked longest ago; null while one never was.
    oldest_check: Option<String>,
    last_damage: Option<String>,
}

/// How far the checking of sealed blocks is; all of it since the start.
pub(crate) fn scrub(app: &App) -> Response {
    let status = app.scrub.get();
    reply::value(&Scrub {
        bytes_per_second: app.config.scrub_bytes_per_second,
        live_blocks: status.blocks_live,
        due_blocks: status.blocks_due,
        checked_blocks: status.blocks,
        checked_bytes: status.bytes,
        damaged_blocks: status.damaged_blocks,
        errors: status.errors,
        current_block: status.current.map(|(id, _)| id.to_string()),
        current_bytes: status.current.map_or(0, |(_, bytes)| bytes),
        oldest_check: status.oldest_check_ms.map(format_rfc3339),
        last_damage: status.last_damage,
    })
}

#[derive(Serialize)]
struct Rules {
    groups: [(); 0],
}

/// Grafana asks at the start of a session, to expand the names of recording rules.
pub(crate) fn rules() -> Response {
    reply::value(&Rules { groups: [] })
}

#[derive(Serialize)]
struct Alerts {
    alerts: [(); 0],
}

pub(crate) fn alerts() -> Response {
    reply::value(&Alerts { alerts: [] })
}
