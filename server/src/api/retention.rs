//! `/api/v1/status/retention`: what is stored by class and tier and when it goes; its `/plan` says
//! the same of a configuration that is sent; and the confirmation of a drop that is held back.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use icecore_storage::retention::policy::{Tier, resolution};
use icecore_storage::retention::report::{Report, Row};
use serde::{Deserialize, Serialize};

use crate::api::admin::refuse_web_pages;
use crate::app::{App, blocking, enter};
use crate::clock;
use crate::config::FORM_BYTES_MAX;
use crate::config_file;
use crate::duration;
use crate::http::body;
use crate::http::error::ApiError;
use crate::http::reply;
use crate::http::time::format_rfc3339;

/// A [`Report`] as JSON; times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReportJson {
    pub rows: Vec<RowJson>,
    pub bytes: u64,
    /// What has outlived its retention, or would have.
    pub expired_bytes: u64,
    /// What goes before its time to keep to the disk budget, or would.
    pub evicted_bytes: u64,
    /// Bytes of blocks that a legal hold keeps; they are not among what expired.
    pub on_hold_bytes: u64,
    /// Bytes of blocks that wait to be split or looked at after a change of policies.
    pub pending_bytes: u64,
    /// What expired is so much at once that it waits for a confirmation.
    pub held: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RowJson {
    /// The class by its tiers; "pending" while it is not known.
    pub class: String,
    pub tier: String,
    pub lifetime: String,
    pub blocks: u64,
    pub bytes: u64,
    /// Of which are a share of blocks of several classes, by the number of series.
    pub estimated_bytes: u64,
    pub oldest: String,
    pub newest: String,
    pub next_drop: Option<String>,
    pub expired_blocks: u64,
    pub expired_bytes: u64,
}

impl From<&Report> for ReportJson {
    fn from(report: &Report) -> ReportJson {
        ReportJson {
            rows: report.rows.iter().map(RowJson::from).collect(),
            bytes: report.rows.iter().map(|row| row.bytes).sum(),
            expired_bytes: report.expired_bytes(),
            on_hold_bytes: report.on_hold_bytes,
            evicted_bytes: report.evicted_bytes,
            pending_bytes: report.pending_bytes,
            held: report.is_held,
        }
    }
}

impl From<&Row> for RowJson {
    fn from(row: &Row) -> RowJson {
        RowJson {
            class: class_name(&row.class),
            tier: resolution(row.tier.resolution_ms),
            lifetime: duration::format_ms(row.tier.lifetime_ms),
            blocks: row.blocks,
            bytes: row.bytes,
            estimated_bytes: row.estimated_bytes,
            oldest: format_rfc3339(row.range.start_ms),
            newest: format_rfc3339(row.range.end_ms),
            next_drop: row.next_drop_ms.map(format_rfc3339),
            expired_blocks: row.expired_blocks,
            expired_bytes: row.expired_bytes,
        }
    }
}

fn class_name(tiers: &[Tier]) -> String {
    match tiers {
        [] => "pending".to_owned(),
        tiers => tiers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

pub(crate) async fn report(app: &Arc<App>) -> Result<Response, ApiError> {
    let db = Arc::clone(app.db()?);
    let permit = enter(&app.gates.lookups).await;
    let report = blocking(move || {
        let _permit = permit;
        db.retention_report(clock::now_ms())
    });
    Ok(reply::value(&ReportJson::from(&report.await?)))
}

/// The body is a configuration file; an empty one asks about the policies in force.
pub(crate) async fn plan(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    refuse_web_pages(request.headers())?;
    let db = Arc::clone(app.db()?);
    let (parts, body) = request.into_parts();
    let declared = body::declared_length(&parts.headers);
    let body = body::read(body, declared, FORM_BYTES_MAX).await;
    let body = body.map_err(|error| ApiError::bad_data(error.to_string()))?;
    let text = std::str::from_utf8(&body).map_err(|_| ApiError::bad_data("body is not UTF-8"))?;
    let file = config_file::parse(text)
        .map_err(|mistake| ApiError::bad_data(format!("configuration, line {mistake}")))?;
    let policies = match file.retention {
        Some(retention) => retention.policies,
        None => app.reload.policies(),
    };
    let permit = enter(&app.gates.lookups).await;
    let report = blocking(move || {
        let _permit = permit;
        db.retention_plan(&policies, clock::now_ms())
    });
    Ok(reply::value(&ReportJson::from(&report.await??)))
}

#[derive(Serialize)]
struct ConfirmedJson {
    blocks: usize,
    bytes: u64,
}

pub(crate) async fn confirm(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    refuse_web_pages(request.headers())?;
    let db = Arc::clone(app.db()?);
    let confirmed = blocking(move || db.confirm_retention(clock::now_ms())).await?;
    Ok(reply::value(&ConfirmedJson { blocks: confirmed.blocks.len(), bytes: confirmed.bytes }))
}
