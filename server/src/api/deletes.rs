//! `/api/v1/admin/tsdb/delete_series` and `clean_tombstones`, as Prometheus has them, and
//! `/api/v1/status/deletes`: what became of deletes.
//!
//! `dry_run=true` and `receipt=true` are ours: they answer with what the delete hides, and the first
//! deletes nothing.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use icecore_query::go_format::quote;
use icecore_storage::deletes::{Hides, Receipt};
use icecore_storage::matcher::Matcher;
use icecore_storage::time::TimeRange;
use serde::Serialize;

use crate::api::admin::check_allowed;
use crate::api::selectors;
use crate::app::{App, blocking, enter};
use crate::clock;
use crate::http::error::ApiError;
use crate::http::params::Params;
use crate::http::reply;
use crate::http::time::{MAX_TIME_MS, MIN_TIME_MS, format_rfc3339};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Hidden {
    series: u64,
    samples: u64,
    /// Whether they were counted one by one.
    is_exact: bool,
    blocks: u64,
    block_bytes: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    /// 0 if there was nothing to delete.
    id: u64,
    time: String,
    #[serde(rename = "match")]
    matches: Vec<String>,
    /// Null for all time.
    start: Option<String>,
    end: Option<String>,
    #[serde(flatten)]
    hidden: Hidden,
    /// Blocks still to be rewritten or dropped, of `blocks`.
    blocks_left: u64,
    freed_time: Option<String>,
    freed_bytes: u64,
}

impl From<Hides> for Hidden {
    fn from(hides: Hides) -> Hidden {
        let Hides { series, samples, is_exact, blocks, bytes } = hides;
        Hidden { series, samples, is_exact, blocks, block_bytes: bytes }
    }
}

impl From<&Receipt> for Status {
    fn from(receipt: &Receipt) -> Status {
        let TimeRange { start_ms, end_ms } = receipt.range;
        Status {
            id: receipt.id,
            time: format_rfc3339(receipt.at_ms),
            matches: receipt.selectors.iter().map(|matchers| selector_text(matchers)).collect(),
            start: (start_ms > MIN_TIME_MS).then(|| format_rfc3339(start_ms)),
            end: (end_ms < MAX_TIME_MS).then(|| format_rfc3339(end_ms)),
            hidden: receipt.hidden.into(),
            blocks_left: receipt.blocks_left,
            freed_time: receipt.freed_ms.map(format_rfc3339),
            freed_bytes: receipt.freed_bytes,
        }
    }
}

/// As it would be written in a query.
fn selector_text(matchers: &[Matcher]) -> String {
    let is_plain = |name: &str| {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let text = |one: &Matcher| {
        let name = match one.name() {
            name if is_plain(name) => name.to_owned(),
            name => quote(name.as_bytes()),
        };
        format!("{name}{}{}", one.op(), quote(one.value().as_bytes()))
    };
    let matchers: Vec<String> = matchers.iter().map(text).collect();
    format!("{{{}}}", matchers.join(", "))
}

/// What is asked to be deleted.
fn asked(app: &App, params: &Params) -> Result<(Vec<Vec<Matcher>>, TimeRange), ApiError> {
    let range = params.range()?;
    if range.is_empty() {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let selectors = selectors::parse_all(params.all("match[]"), app.config.parser)?;
    match (params.flag("all")?, selectors.is_empty()) {
        (false, false) => Ok((selectors, range)),
        (true, true) => Ok((vec![Vec::new()], range)),
        (false, true) => Err(ApiError::bad_data("no match[] parameter provided")),
        (true, false) => Err(ApiError::parameter("all", "means all series: leave match[] out")),
    }
}

pub(crate) async fn delete_series(
    app: &Arc<App>,
    headers: &HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    check_allowed(app, headers)?;
    let (selectors, range) = asked(app, &params)?;
    let (dry_run, with_receipt) = (params.flag("dry_run")?, params.flag("receipt")?);
    let db = Arc::clone(app.db()?);
    let permit = enter(&app.gates.lookups).await;
    let done = blocking(move || {
        let _permit = permit;
        if dry_run {
            let hidden = db.preview_delete(&selectors, range)?;
            return Ok(reply::value(&Hidden::from(hidden)));
        }
        let receipt = db.delete(&selectors, range, clock::now_ms())?;
        Ok(match with_receipt {
            true => reply::value(&Status::from(&receipt)),
            false => StatusCode::NO_CONTENT.into_response(),
        })
    });
    done.await?
}

/// Has blocks with deleted samples rewritten as soon as upkeep comes to it.
pub(crate) async fn clean_tombstones(
    app: &Arc<App>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    check_allowed(app, headers)?;
    let db = Arc::clone(app.db()?);
    blocking(move || db.free_deleted()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize)]
struct List {
    deletes: Vec<Status>,
}

/// The last deletes, the newest first.
pub(crate) async fn list(app: &Arc<App>) -> Result<Response, ApiError> {
    let db = Arc::clone(app.db()?);
    let receipts = blocking(move || db.deletes()).await?;
    Ok(reply::value(&List { deletes: receipts.iter().rev().map(Status::from).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore_storage::labels::METRIC_NAME;
    use icecore_storage::matcher::MatchOp;

    #[test]
    fn selectors_are_shown_as_queries_have_them() {
        let odd = Matcher::new("http.status", MatchOp::NotRegex, "5..|\"").unwrap();
        let matchers = [Matcher::equal(METRIC_NAME, "up"), odd];
        assert_eq!(selector_text(&matchers), r#"{__name__="up", "http.status"!~"5..|\""}"#);
        assert_eq!(selector_text(&[]), "{}");
    }
}
