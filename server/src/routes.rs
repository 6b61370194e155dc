//! The one table of what is served, and the way from a request to its handler.
//!
//! Metrics, the list of allowed methods and the 404 page all come from [`ROUTES`]; a path that is
//! not in it does not exist.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, CONTENT_TYPE, HeaderValue, ORIGIN,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use crate::api::{
    admin, deletes, exemplars, health, home, labels, metadata, parse_query, query, retention,
    status, tsdb, write,
};
use crate::app::App;
use crate::config::FORM_BYTES_MAX;
use crate::counters::OTHER_ROUTE;
use crate::http::body::{self, BodyError};
use crate::http::error::{ApiError, ErrorKind};
use crate::http::params::Params;
use crate::reload;

/// One row: a path, the methods it takes, and what answers.
#[derive(Debug)]
pub(crate) struct Route {
    pub template: &'static str,
    pub methods: Methods,
    endpoint: Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Methods {
    /// HEAD comes with it.
    Get,
    GetOrPost,
    Post,
    /// And GET for senders that ask for the protocol's version.
    Write,
    /// And POST.
    Put,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Write,
    Query,
    QueryRange,
    QueryExemplars,
    FormatQuery,
    ParseQuery,
    Series,
    Labels,
    LabelValues,
    Metadata,
    Rules,
    Alerts,
    BuildInfo,
    RuntimeInfo,
    Flags,
    Tsdb,
    Scrub,
    TakeSnapshot,
    RemoveSnapshot,
    Deletes,
    DeleteSeries,
    CleanTombstones,
    Retention,
    RetentionPlan,
    RetentionWhatIf,
    RetentionConfirm,
    Reload,
    Healthy,
    Ready,
    Metrics,
    Home,
}

const fn route(template: &'static str, methods: Methods, endpoint: Endpoint) -> Route {
    Route { template, methods, endpoint }
}

pub(crate) const ROUTES: [Route; 31] = [
    route("/api/v1/write", Methods::Write, Endpoint::Write),
    route("/api/v1/query", Methods::GetOrPost, Endpoint::Query),
    route("/api/v1/query_range", Methods::GetOrPost, Endpoint::QueryRange),
    route("/api/v1/query_exemplars", Methods::GetOrPost, Endpoint::QueryExemplars),
    route("/api/v1/format_query", Methods::GetOrPost, Endpoint::FormatQuery),
    route("/api/v1/parse_query", Methods::GetOrPost, Endpoint::ParseQuery),
    route("/api/v1/series", Methods::GetOrPost, Endpoint::Series),
    route("/api/v1/labels", Methods::GetOrPost, Endpoint::Labels),
    route("/api/v1/label/{name}/values", Methods::Get, Endpoint::LabelValues),
    route("/api/v1/metadata", Methods::Get, Endpoint::Metadata),
    route("/api/v1/rules", Methods::Get, Endpoint::Rules),
    route("/api/v1/alerts", Methods::Get, Endpoint::Alerts),
    route("/api/v1/status/buildinfo", Methods::Get, Endpoint::BuildInfo),
    route("/api/v1/status/runtimeinfo", Methods::Get, Endpoint::RuntimeInfo),
    route("/api/v1/status/flags", Methods::Get, Endpoint::Flags),
    route("/api/v1/status/tsdb", Methods::Get, Endpoint::Tsdb),
    route("/api/v1/status/scrub", Methods::Get, Endpoint::Scrub),
    route("/api/v1/admin/tsdb/snapshot", Methods::Put, Endpoint::TakeSnapshot),
    route("/api/v1/admin/tsdb/snapshot/{name}", Methods::Delete, Endpoint::RemoveSnapshot),
    route("/api/v1/status/deletes", Methods::Get, Endpoint::Deletes),
    route("/api/v1/admin/tsdb/delete_series", Methods::Put, Endpoint::DeleteSeries),
    route("/api/v1/admin/tsdb/clean_tombstones", Methods::Put, Endpoint::CleanTombstones),
    route("/api/v1/status/retention", Methods::Get, Endpoint::Retention),
    route("/api/v1/status/retention/plan", Methods::Post, Endpoint::RetentionPlan),
    route("/api/v1/status/retention/whatif", Methods::GetOrPost, Endpoint::RetentionWhatIf),
    route("/api/v1/admin/retention/confirm", Methods::Post, Endpoint::RetentionConfirm),
    route("/-/reload", Methods::Post, Endpoint::Reload),
    route("/-/healthy", Methods::Get, Endpoint::Healthy),
    route("/-/ready", Methods::Get, Endpoint::Ready),
    route("/metrics", Methods::Get, Endpoint::Metrics),
    route("/", Methods::Get, Endpoint::Home),
];

/// What a browser may send and see, as Prometheus allows it.
const CORS_HEADERS: [(hyper::header::HeaderName, &str); 4] = [
    (ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Origin"),
    (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
    (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
];

pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        let mut filter = match route.methods {
            Methods::Get => MethodFilter::GET,
            Methods::Post => MethodFilter::POST,
            Methods::GetOrPost | Methods::Write => MethodFilter::GET.or(MethodFilter::POST),
            Methods::Put => MethodFilter::PUT.or(MethodFilter::POST),
            Methods::Delete => MethodFilter::DELETE,
        };
        if is_api(route.template) {
            filter = filter.or(MethodFilter::OPTIONS);
        }
        let endpoint = route.endpoint;
        let handler = move |State(app): State<Arc<App>>, request: Request| async move {
            dispatch(&app, endpoint, request).await.unwrap_or_else(IntoResponse::into_response)
        };
        router = router.route(route.template, on(filter, handler));
    }
    router
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .with_state(app)
}

fn is_api(path: &str) -> bool {
    path.starts_with("/api/")
}

async fn dispatch(
    app: &Arc<App>,
    endpoint: Endpoint,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    match endpoint {
        Endpoint::Write => write_or_version(app, request).await,
        Endpoint::Query => query::instant(app, params(request).await?).await,
        Endpoint::QueryRange => query::range(app, params(request).await?).await,
        Endpoint::QueryExemplars => exemplars::list(app, params(request).await?).await,
        Endpoint::FormatQuery => query::format(app, params(request).await?).await,
        Endpoint::ParseQuery => parse_query::tree(app, params(request).await?).await,
        Endpoint::Series => labels::series(app, params(request).await?).await,
        Endpoint::Labels => labels::names(app, params(request).await?).await,
        Endpoint::LabelValues => label_values(app, request).await,
        Endpoint::Metadata => metadata::list(app, params(request).await?).await,
        Endpoint::Rules => Ok(status::rules()),
        Endpoint::Alerts => Ok(status::alerts()),
        Endpoint::BuildInfo => Ok(status::build_info()),
        Endpoint::RuntimeInfo => Ok(status::runtime_info(app)),
        Endpoint::Flags => Ok(status::flags(app)),
        Endpoint::Tsdb => tsdb::tsdb(app, params(request).await?).await,
        Endpoint::Scrub => Ok(status::scrub(app)),
        Endpoint::TakeSnapshot => {
            let headers = request.headers().clone();
            admin::snapshot(app, &headers, params(request).await?).await
        }
        Endpoint::RemoveSnapshot => {
            let (mut parts, _) = request.into_parts();
            let name = path_name(&mut parts).await.unwrap_or_default();
            admin::remove_snapshot(app, &parts.headers, name).await
        }
        Endpoint::Deletes => deletes::list(app).await,
        Endpoint::DeleteSeries => {
            let headers = request.headers().clone();
            deletes::delete_series(app, &headers, params(request).await?).await
        }
        Endpoint::CleanTombstones => deletes::clean_tombstones(app, request.headers()).await,
        Endpoint::Retention => retention::report(app, params(request).await?).await,
        Endpoint::RetentionPlan => retention::plan(app, request).await,
        Endpoint::RetentionWhatIf => retention::what_if(app, request).await,
        Endpoint::RetentionConfirm => retention::confirm(app, request).await,
        Endpoint::Reload => {
            admin::refuse_web_pages(request.headers())?;
            reload::endpoint(app).await
        }
        Endpoint::Healthy => Ok(health::healthy()),
        Endpoint::Ready => health::ready(app),
        Endpoint::Metrics => Ok(health::metrics(app)),
        Endpoint::Home => Ok(home::page(app, request.headers())),
    }
}

/// The URL's parameters, and the form's if the body is one.
async fn params(request: Request) -> Result<Params, ApiError> {
    let (parts, body) = request.into_parts();
    let url_query = parts.uri.query().unwrap_or("");
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = content_type.is_some_and(|content_type| {
        let media_type = content_type.split(';').next().unwrap_or("").trim();
        media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    let may_have_form = parts.method == Method::POST || parts.method == Method::PUT;
    if !may_have_form || !is_form {
        return Ok(Params::new(url_query, b""));
    }
    let declared = body::declared_length(&parts.headers);
    let form = body::read(body, declared, FORM_BYTES_MAX).await.map_err(|error| {
        let kind = match error {
            BodyError::TooLarge { .. } => ErrorKind::BadData,
            BodyError::TooSlow | BodyError::Broken => ErrorKind::Timeout,
        };
        ApiError::new(kind, format!("error parsing form values: {error}"))
    })?;
    Ok(Params::new(url_query, &form))
}

async fn write_or_version(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    if write::asks_for_version(&Params::new(parts.uri.query().unwrap_or(""), b"")) {
        return Ok(write::version());
    }
    if parts.method != Method::POST {
        let allow = [(ALLOW, "POST, OPTIONS")];
        return Ok((StatusCode::METHOD_NOT_ALLOWED, allow).into_response());
    }
    Ok(write::write(app, &parts.headers, body).await)
}

/// The part of the path that a template calls a name; `None` if it is not UTF-8.
async fn path_name(parts: &mut Parts) -> Option<String> {
    Path::<String>::from_request_parts(parts, &()).await.ok().map(|Path(name)| name)
}

async fn label_values(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let Some(name) = path_name(&mut parts).await else {
        return Err(ApiError::bad_data("invalid label name: it is not UTF-8"));
    };
    labels::values(app, &name, params(Request::from_parts(parts, body)).await?).await
}

/// Counts a request and adds the headers that every answer has.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let template = request.extensions().get::<MatchedPath>().cloned();
    let template = template.as_ref().map(MatchedPath::as_str);
    let index = template
        .and_then(|template| ROUTES.iter().position(|route| route.template == template))
        .unwrap_or(OTHER_ROUTE);
    let method = request.method().clone();
    let cross_origin = is_api(request.uri().path()) && request.headers().contains_key(ORIGIN);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if cross_origin {
        for (name, value) in CORS_HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    app.counters.http.observe(index, &method, status, elapsed);
    tracing::debug!(route = template.unwrap_or("other"), %method, status, ?elapsed, "request");
    response
}

async fn not_found(headers: HeaderMap, request: Request) -> Response {
    if is_api(request.uri().path()) {
        let text = "no such endpoint; / lists those there are";
        return ApiError::new(ErrorKind::NotFound, text).into_response();
    }
    home::not_found(&headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_unique() {
        for (i, route) in ROUTES.iter().enumerate() {
            assert!(ROUTES[i + 1..].iter().all(|other| other.template != route.template));
        }
    }
}
