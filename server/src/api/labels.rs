//! `/api/v1/series`, `/api/v1/labels` and `/api/v1/label/<name>/values`.

use std::sync::Arc;

use axum::response::Response;

use crate::api::selectors;
use crate::app::App;
use crate::http::error::ApiError;
use crate::http::json::{push_labels, push_string};
use crate::http::params::Params;
use crate::http::reply::{self, Notes};

pub(crate) async fn series(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    if params.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let limit = params.limit()?;
    let range = params.range()?;
    let options = app.config.parser;
    let found = app.look_up(move |snapshot| {
        let any = selectors::parse_all(params.all("match[]"), options)?;
        Ok(snapshot.series(&any, range)?)
    });
    Ok(list(found.await?, limit, push_labels))
}

pub(crate) async fn names(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let range = params.range()?;
    let options = app.config.parser;
    let found = app.look_up(move |snapshot| {
        let any = selectors::parse_all(params.all("match[]"), options)?;
        Ok(snapshot.label_names(&any, range)?)
    });
    Ok(list(found.await?, limit, |out, name: &String| push_string(out, name)))
}

pub(crate) async fn values(
    app: &Arc<App>,
    name: &str,
    params: Params,
) -> Result<Response, ApiError> {
    let name = unescape_name(name);
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {name:?}")));
    }
    let limit = params.limit()?;
    let range = params.range()?;
    let options = app.config.parser;
    let found = app.look_up(move |snapshot| {
        let any = selectors::parse_all(params.all("match[]"), options)?;
        Ok(snapshot.label_values(&name, &any, range)?)
    });
    Ok(list(found.await?, limit, |out, value: &String| push_string(out, value)))
}

/// An array of the first `limit` items.
fn list<T: Send + 'static>(
    mut items: Vec<T>,
    limit: Option<usize>,
    push: fn(&mut Vec<u8>, &T),
) -> Response {
    let limit = limit.unwrap_or(usize::MAX);
    let notes = Notes::truncated(items.len() > limit);
    items.truncate(limit);
    let mut items = items.into_iter();
    reply::array(notes, move |out| items.next().map(|item| push(out, &item)).is_some())
}

/// A label name as it stands in a path: names that are not plain come as `U__` and then the name
/// with `_` doubled and other characters as `_<hex>_`. What is not so escaped is itself.
/// (Prometheus's UTF-8 proposal, "text escaping".)
fn unescape_name(name: &str) -> String {
    name.strip_prefix("U__").and_then(unescape_values).unwrap_or_else(|| name.to_owned())
}

fn unescape_values(mut rest: &str) -> Option<String> {
    let mut plain = String::with_capacity(rest.len());
    while let Some(at) = rest.find('_') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find('_')?;
        let code = &rest[..end];
        rest = &rest[end + 1..];
        if code.is_empty() {
            plain.push('_');
        } else if code.len() > 6 || !code.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        } else {
            plain.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        }
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_read() {
        for (escaped, name) in [
            ("job", "job"),
            ("U__", ""),
            ("U__http_2e_status", "http.status"),
            ("U__http_2E_status__code", "http.status_code"),
            ("U___1F9CA_", "🧊"),
            // What is not well escaped is a name like any other.
            ("U__a_", "U__a_"),
            ("U__a_xyz_", "U__a_xyz_"),
            ("U__a_110000_", "U__a_110000_"),
            ("U__a_D800_", "U__a_D800_"),
            ("U__a_0000000_", "U__a_0000000_"),
        ] {
            assert_eq!(unescape_name(escaped), name, "{escaped}");
        }
    }
}
