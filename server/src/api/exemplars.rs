//! `/api/v1/query_exemplars`: exemplars of the series that a query selects.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use icecore_query::parser;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::batch::Exemplar;

use crate::api::selectors;
use crate::app::App;
use crate::http::error::ApiError;
use crate::http::json::{push_float, push_labels, push_list, push_timestamp};
use crate::http::params::Params;
use crate::http::reply::{self, Notes};

/// Grafana asks once with milliseconds for seconds, some year 57,900, and turns exemplars off for
/// good unless the answer is a success. Any time is a time here.
pub(crate) async fn list(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let range = params.range()?;
    if range.is_empty() {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let options = app.config.parser;
    let text = params.query(&app.config)?.to_owned();
    let found = app.look_up(move |snapshot| {
        let expr = parser::parse(&text, options)
            .map_err(|errors| ApiError::bad_data(errors.to_string()))?;
        let any = selectors::within(&expr);
        Ok((!any.is_empty()).then(|| snapshot.exemplars(&any, range)).transpose()?)
    });
    let Some(found) = found.await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let mut found = found.into_iter();
    Ok(reply::array(Notes::default(), move |out| {
        found.next().map(|(labels, exemplars)| push_series(out, &labels, &exemplars)).is_some()
    }))
}

fn push_series(out: &mut Vec<u8>, labels: &Labels, exemplars: &[Exemplar]) {
    out.extend_from_slice(br#"{"seriesLabels":"#);
    push_labels(out, labels);
    out.extend_from_slice(br#","exemplars":"#);
    push_list(out, exemplars, |out, exemplar| {
        out.extend_from_slice(br#"{"labels":"#);
        push_labels(out, &exemplar.labels);
        out.extend_from_slice(br#","value":"#);
        push_float(out, exemplar.value);
        out.extend_from_slice(br#","timestamp":"#);
        push_timestamp(out, exemplar.timestamp);
        out.push(b'}');
    });
    out.push(b'}');
}
