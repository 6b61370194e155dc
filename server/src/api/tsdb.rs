//! `/api/v1/status/tsdb`: which metrics, labels and pairs have the most series, and how they grow.
//!
//! Prometheus's endpoint with the parameters of VictoriaMetrics beside its own: what either of them
//! knows is named as there. Without `date` it is about the head, as in Prometheus; with it, about a
//! day of UTC, with the day before it beside each count.

use std::sync::Arc;

use axum::response::Response;
use icecore_query::engine::QueryOptions;
use icecore_storage::Error as StorageError;
use icecore_storage::cardinality::{Cardinality, Entry, Question};
use serde::Serialize;

use crate::api::query::CancelOnDrop;
use crate::api::selectors;
use crate::app::App;
use crate::http::error::ApiError;
use crate::http::params::Params;
use crate::http::reply;
use crate::http::time::parse_time_ms;

/// Entries of each list if nobody says how many, in both products.
const LIMIT: usize = 10;
/// Prometheus's bound.
const LIMIT_MAX: usize = 10_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tsdb {
    head_stats: HeadStats,
    total_series: u64,
    total_label_value_pairs: u64,
    series_count_by_metric_name: Vec<Count>,
    series_count_by_label_name: Vec<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series_count_by_focus_label_value: Option<Vec<Count>>,
    label_value_count_by_label_name: Vec<Count>,
    memory_in_bytes_by_label_name: Vec<Count>,
    series_count_by_label_value_pair: Vec<Count>,
    is_exact: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeadStats {
    num_series: u64,
    num_label_pairs: u64,
    chunk_count: u64,
    min_time: i64,
    max_time: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Count {
    name: String,
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    day_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<i64>,
}

impl From<Entry> for Count {
    fn from(entry: Entry) -> Count {
        let Entry { name, count, day_before } = entry;
        let difference = day_before.map(|before| count.cast_signed() - before.cast_signed());
        Count { name, value: count, day_before, difference }
    }
}

pub(crate) async fn tsdb(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let question = Question {
        limit: limit(&params)?,
        day_ms: day(params.get("date"))?,
        selectors: selectors::parse_all(params.all("match[]"), app.config.parser)?,
        focus_label: Some(params.get("focusLabel").to_owned()).filter(|label| !label.is_empty()),
    };
    let has_focus = question.focus_label.is_some();
    let cancelled = CancelOnDrop::default();
    let options = QueryOptions { cancelled: Arc::clone(&cancelled.0), ..QueryOptions::default() };
    let worker = Arc::clone(app);
    let found = app.look_up(move |snapshot| {
        let allowance = worker.engine.allowance(&options);
        let mut refused = None;
        let mut charge = |bytes| match allowance.take(bytes) {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        };
        let found = match (snapshot.cardinality(&question, &mut charge), refused) {
            (Err(StorageError::Stopped), Some(refused)) => return Err(refused.into()),
            (found, _) => found?,
        };
        Ok((found, worker.db()?.stats()))
    });
    let (found, stats) = found.await?;
    let Cardinality { series, label_pairs, is_exact, .. } = found;
    let counts = |entries: Vec<Entry>| entries.into_iter().map(Count::from).collect();
    // An empty head reaches from the end of time to its beginning, as Prometheus's does.
    let (min_time, max_time) = stats.head_range_ms.unwrap_or((i64::MAX, i64::MIN));
    Ok(reply::value(&Tsdb {
        head_stats: HeadStats {
            num_series: stats.head_series,
            num_label_pairs: stats.head_label_pairs,
            chunk_count: stats.head_chunks,
            min_time,
            max_time,
        },
        total_series: series,
        total_label_value_pairs: label_pairs,
        series_count_by_metric_name: counts(found.series_by_metric),
        series_count_by_label_name: counts(found.series_by_label),
        series_count_by_focus_label_value: has_focus.then(|| counts(found.series_by_focus_value)),
        label_value_count_by_label_name: counts(found.values_by_label),
        memory_in_bytes_by_label_name: counts(found.bytes_by_label),
        series_count_by_label_value_pair: counts(found.series_by_pair),
        is_exact,
    }))
}

/// Prometheus's `limit` or VictoriaMetrics's `topN`.
fn limit(params: &Params) -> Result<usize, ApiError> {
    let given = ["limit", "topN"].into_iter().find(|name| !params.get(name).is_empty());
    let Some(name) = given else { return Ok(LIMIT) };
    match params.get(name).parse::<usize>() {
        Ok(0) | Err(_) => Err(ApiError::bad_data(format!("{name} must be a positive number"))),
        Ok(limit) if limit > LIMIT_MAX => {
            Err(ApiError::bad_data(format!("{name} must not exceed {LIMIT_MAX}")))
        }
        Ok(limit) => Ok(limit),
    }
}

/// The start of a day that is written as 2026-11-22.
fn day(text: &str) -> Result<Option<i64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_date = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let day_ms = is_date.then(|| parse_time_ms(&format!("{text}T00:00:00Z")).ok()).flatten();
    let wrong = || ApiError::parameter("date", format!("want a day as 2026-11-22, not {text:?}"));
    day_ms.map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_days_of_the_calendar() {
        assert_eq!(day(""), Ok(None));
        assert_eq!(day("1970-01-02"), Ok(Some(86_400_000)));
        for wrong in ["2026-13-01", "2026-02-30", "0", "2026-1-01", "2026-11-22T00:00:00Z", "x"] {
            assert!(day(wrong).is_err_and(|e| e.message().contains(wrong)), "{wrong}");
        }
    }
}
