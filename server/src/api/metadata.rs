//! `/api/v1/metadata`: what metrics are, as their senders described them.

use std::sync::Arc;

use axum::response::Response;
use icecore_storage::metrics::batch::Metadata;

use crate::app::App;
use crate::http::error::ApiError;
use crate::http::json::{push_list, push_string};
use crate::http::params::Params;
use crate::http::reply::{self, Notes};

/// Grafana sends `limit=0` for "no limit"; Prometheus would answer nothing. We do what is meant.
pub(crate) async fn list(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let limit = bound(&params, "limit")?;
    let per_family = bound(&params, "limit_per_metric")?;
    let metadata = app.look_up(move |snapshot| {
        let family = Some(params.get("metric")).filter(|family| !family.is_empty());
        Ok(snapshot.metadata(family))
    });
    let families = by_family(metadata.await?);
    let mut families = families.into_iter().take(limit);
    let mut separator = b'{';
    Ok(reply::stream(Notes::default(), move |out| {
        let Some(family) = families.next() else {
            if separator == b'{' {
                out.push(separator);
            }
            out.push(b'}');
            return false;
        };
        out.push(separator);
        separator = b',';
        push_string(out, &family[0].family);
        out.push(b':');
        push_list(out, family.iter().take(per_family), push_metadata);
        true
    }))
}

/// A limit of which every negative number, and here 0 too, means none.
fn bound(params: &Params, name: &str) -> Result<usize, ApiError> {
    let text = params.get(name);
    if text.is_empty() {
        return Ok(usize::MAX);
    }
    let number: i64 =
        text.parse().map_err(|_| ApiError::bad_data(format!("{name} must be a number")))?;
    Ok(usize::try_from(number).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX))
}

/// Runs of one family; storage sorts by it.
fn by_family(metadata: Vec<Metadata>) -> Vec<Vec<Metadata>> {
    let mut families: Vec<Vec<Metadata>> = Vec::new();
    for entry in metadata {
        match families.last_mut() {
            Some(last) if last[0].family == entry.family => last.push(entry),
            _ => families.push(vec![entry]),
        }
    }
    families
}

fn push_metadata(out: &mut Vec<u8>, entry: &Metadata) {
    for (before, text) in [
        (&br#"{"type":"#[..], entry.kind.name()),
        (br#","help":"#, &entry.help),
        (br#","unit":"#, &entry.unit),
    ] {
        out.extend_from_slice(before);
        push_string(out, text);
    }
    out.push(b'}');
}
