//! `/api/v1/status/retention`: the capacity report; its `/plan` says the same of a configuration that
//! is sent, its `/whatif` what would be other than it is; and the confirmation of a drop that is held
//! back.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use hyper::header::CONTENT_TYPE;
use icecore_storage::retention::policy::Policies;
use icecore_storage::retention::report::Report;
use serde::{Deserialize, Serialize};

use crate::api::admin::refuse_web_pages;
use crate::app::{App, blocking, enter};
use crate::clock;
use crate::config::FORM_BYTES_MAX;
use crate::config_file;
use crate::http::body;
use crate::http::error::ApiError;
use crate::http::params::Params;
use crate::http::reply;
use crate::report::Format;
use crate::report::document::{Document, DropJson, LimitJson, RowJson};

pub(crate) async fn report(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let format = match params.get("format") {
        "" => Format::Json,
        text => Format::parse(text).ok_or_else(|| {
            let error = format!("{text:?} is not known; want json, csv, html or table");
            ApiError::parameter("format", error)
        })?,
    };
    let db = Arc::clone(app.db()?);
    let permit = enter(&app.gates.lookups).await;
    let document = blocking(move || {
        let _permit = permit;
        Document::from(&db.retention_report(clock::now_ms()))
    });
    let document = document.await?;
    Ok(match format {
        Format::Json => reply::value(&document),
        other => ([(CONTENT_TYPE, other.content_type())], other.write(&document)).into_response(),
    })
}

/// The body is a configuration file; an empty one asks about the policies in force.
pub(crate) async fn plan(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    refuse_web_pages(request.headers())?;
    let asked = Asked::read(request).await?;
    let policies = asked.policies(app)?.unwrap_or_else(|| app.reload.policies());
    let report = planned(app, policies).await?;
    Ok(reply::value(&Document::from(&report)))
}

async fn planned(app: &Arc<App>, policies: Policies) -> Result<Report, ApiError> {
    let db = Arc::clone(app.db()?);
    let permit = enter(&app.gates.lookups).await;
    let report = blocking(move || {
        let _permit = permit;
        db.retention_plan(&policies, clock::now_ms())
    });
    Ok(report.await??)
}

/// What is asked about: a configuration, a disk budget, or both.
struct Asked {
    configuration: String,
    budget: String,
}

impl Asked {
    /// The body of a POST is a configuration, or a form with the parameters `retention` and `budget`,
    /// which may stand in the URL as well.
    async fn read(request: Request) -> Result<Asked, ApiError> {
        let (parts, body) = request.into_parts();
        let declared = body::declared_length(&parts.headers);
        let body = body::read(body, declared, FORM_BYTES_MAX).await;
        let body = body.map_err(|error| ApiError::bad_data(error.to_string()))?;
        let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_form =
            content_type.is_some_and(|text| text.starts_with("application/x-www-form-urlencoded"));
        // curl calls every body a form; one that has neither parameter is a configuration.
        let form = Params::new("", if is_form { &body } else { b"" });
        let is_form = ["retention", "budget"].iter().any(|name| !form.get(name).is_empty());
        let params =
            Params::new(parts.uri.query().unwrap_or(""), if is_form { &body } else { b"" });
        let (retention, budget) = (params.get("retention"), params.get("budget"));
        let text = String::from_utf8(body).map_err(|_| ApiError::bad_data("body is not UTF-8"))?;
        let of_body = if is_form { "" } else { text.as_str() };
        if !retention.is_empty() && !of_body.trim().is_empty() {
            return Err(ApiError::bad_data(
                "there is a configuration in the body and another in the parameter retention",
            ));
        }
        let configuration = if retention.is_empty() { of_body } else { retention };
        Ok(Asked { configuration: configuration.to_owned(), budget: budget.to_owned() })
    }

    /// The policies that are asked about; `None` if nothing is said.
    fn policies(&self, app: &App) -> Result<Option<Policies>, ApiError> {
        let file = config_file::parse(&self.configuration)
            .map_err(|mistake| ApiError::bad_data(format!("configuration, line {mistake}")))?;
        if file.retention.is_none() && !self.configuration.trim().is_empty() {
            return Err(ApiError::bad_data("the configuration has no section `retention`"));
        }
        let said = file.retention.map(|retention| retention.policies);
        let budget = match self.budget.as_str() {
            "" => return Ok(said),
            text => config_file::parse_budget(text)
                .map_err(|reason| ApiError::parameter("budget", reason))?,
        };
        let of_file = said.as_ref().and_then(Policies::disk_budget);
        if of_file.is_some_and(|of_file| of_file != budget) {
            let error = "the configuration has another disk_budget; leave one out";
            return Err(ApiError::parameter("budget", error));
        }
        let policies = said.unwrap_or_else(|| app.reload.policies());
        Ok(Some(policies.with_disk_budget(Some(budget))))
    }
}

/// What would be other than it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct WhatIfJson {
    present: Outlook,
    proposed: Outlook,
    /// What would go at once: whole files, and of files that would be rewritten about so much.
    freed_bytes: u64,
    freed_whole_bytes: u64,
    freed_rewritten_bytes: u64,
    kept_bytes: u64,
    /// It would be so much at once that it waits for a confirmation.
    held: bool,
    /// By class and tier, and by date, under the proposed policies.
    rows: Vec<RowJson>,
    drops: Vec<DropJson>,
    notes: Vec<String>,
}

/// What sizes lead to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Outlook {
    kept_bytes: u64,
    disk_budget_bytes: Option<u64>,
    /// These are null where growth is not known.
    growth_mean_bytes: Option<u64>,
    settles_at_bytes: Option<u64>,
    budget: Option<LimitJson>,
    disk: Option<LimitJson>,
}

impl From<&Document> for Outlook {
    fn from(document: &Document) -> Outlook {
        let forecast = document.forecast.as_ref();
        Outlook {
            kept_bytes: document.kept_bytes,
            disk_budget_bytes: document.disk_budget_bytes,
            growth_mean_bytes: document.growth.as_ref().map(|growth| growth.mean_bytes),
            settles_at_bytes: forecast.map(|forecast| forecast.settles_at_bytes),
            budget: forecast.and_then(|forecast| forecast.budget.clone()),
            disk: forecast.and_then(|forecast| forecast.disk.clone()),
        }
    }
}

pub(crate) async fn what_if(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    refuse_web_pages(request.headers())?;
    let asked = Asked::read(request).await?;
    let Some(policies) = asked.policies(app)? else {
        return Err(ApiError::bad_data(
            "what if what? Send a configuration with a section `retention`, or budget=2TB, or both",
        ));
    };
    let db = Arc::clone(app.db()?);
    let permit = enter(&app.gates.lookups).await;
    let present = blocking(move || {
        let _permit = permit;
        db.retention_report(clock::now_ms())
    });
    let present = present.await?;
    let planned = planned(app, policies).await?;
    let (present, proposed) = (Document::from(&present), Document::from(&planned));
    let blocks = proposed.files.block_bytes;
    let freed_bytes = blocks.saturating_sub(proposed.kept_bytes);
    let whole = |row: &RowJson| if row.estimated_bytes > 0 { 0 } else { row.expired_bytes };
    let freed_whole_bytes = proposed.rows.iter().map(whole).sum::<u64>().min(freed_bytes);
    Ok(reply::value(&WhatIfJson {
        present: Outlook::from(&present),
        freed_bytes,
        freed_whole_bytes,
        freed_rewritten_bytes: freed_bytes - freed_whole_bytes,
        kept_bytes: proposed.kept_bytes,
        held: proposed.held,
        proposed: Outlook::from(&proposed),
        rows: proposed.rows,
        drops: proposed.drops,
        notes: proposed.notes,
    }))
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
