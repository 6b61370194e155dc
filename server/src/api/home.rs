//! `/`: a page for whoever opens the address in a browser. It says what this is, what it holds
//! right now, and where to go next. One file, no scripts, nothing loaded from elsewhere.

use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, REFERRER_POLICY,
};
use hyper::{HeaderMap, StatusCode};

use crate::app::App;
use crate::clock;
use crate::duration;
use crate::http::time::format_rfc3339;
use crate::routes::{Methods, ROUTES};
use crate::size::human;
use icecore_storage::retention::policy::Policies;

/// No script can run, not even one that a label's name smuggles in.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("home.css");

pub(crate) fn page(app: &App, headers: &HeaderMap) -> Response {
    let host = host(headers).unwrap_or_else(|| app.address.to_string());
    let mut body = String::from(
        "<h1>Icecore</h1><p class=\"lead\">A time-series database that speaks Prometheus: it takes remote write and answers PromQL.</p>",
    );
    push_state(&mut body, app);
    push_query_form(&mut body);
    body +=
        "<h2>Send it metrics</h2><p>In <code>prometheus.yml</code>, then reload Prometheus:</p>";
    push_code(&mut body, &format!("remote_write:\n  - url: http://{host}/api/v1/write"));
    body += "<p>vmagent, Grafana Alloy and the OpenTelemetry Collector's <code>prometheusremotewrite</code> exporter take the same address.</p>";
    body += "<h2>Look at them</h2><p>In Grafana, add a data source of type <i>Prometheus</i> with this URL:</p>";
    push_code(&mut body, &format!("http://{host}"));
    body += "<p>Or ask from a shell. The server stores its own metrics every 15 s, so there is something to find from the start:</p>";
    push_code(
        &mut body,
        &format!(
            "curl 'http://{host}/api/v1/query?query=up'\ncurl 'http://{host}/api/v1/query' -d 'query=rate(icecore_write_rows_total[5m])'\ncurl 'http://{host}/api/v1/label/__name__/values?limit=20'"
        ),
    );
    body += "<h2>Endpoints</h2>";
    push_routes(&mut body);
    html(StatusCode::OK, "Icecore", &body)
}

/// For paths that nothing answers, in the form the client reads.
pub(crate) fn not_found(headers: &HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !accept.contains("text/html") {
        let text = "404 page not found: / lists what is served here\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let mut body = String::from(
        "<h1>Nothing here</h1><p class=\"lead\">This server has no such page. <a href=\"/\">Back to the start</a>, or to one of these:</p>",
    );
    push_routes(&mut body);
    html(StatusCode::NOT_FOUND, "Not found - Icecore", &body)
}

fn push_state(body: &mut String, app: &App) {
    let Some(db) = app.db_if_open() else {
        *body += "<p>The database is being opened.</p>";
        return;
    };
    let stats = db.stats();
    let up_ms = clock::now_ms().saturating_sub(app.started_ms).max(0);
    let range = stats.head_range_ms.map_or_else(
        || "none yet".to_owned(),
        |(oldest, newest)| format!("{} to {}", format_rfc3339(oldest), format_rfc3339(newest)),
    );
    let rows = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("up", duration::format_ms(up_ms / 1000 * 1000)),
        ("active series", grouped(stats.head_series)),
        ("samples since start", grouped(stats.samples_appended)),
        ("samples in blocks", grouped(stats.block_samples)),
        ("recent samples", range),
        ("on disk", human(stats.block_bytes + stats.wal_bytes)),
        ("in memory", human(stats.head_bytes)),
        ("kept for", kept(&app.reload.policies())),
    ];
    *body += "<dl>";
    for (name, value) in rows {
        write!(body, "<div><dt>{name}</dt><dd>{}</dd></div>", escaped(&value))
            .expect("a String takes any text");
    }
    *body += "</dl>";
    if let Some(reason) = &stats.read_only {
        write!(body, "<p class=\"alarm\">Writes are refused at present: {}</p>", escaped(reason))
            .expect("a String takes any text");
    }
    if stats.quarantined_files + stats.lost_records > 0 {
        *body +=
            "<p class=\"alarm\">Damaged files were found and set aside; the log says which.</p>";
    }
}

/// Lifetimes of what no policy selects, and how many others there are.
fn kept(policies: &Policies) -> String {
    let tiers: Vec<String> = policies.catch_all().tiers.iter().map(ToString::to_string).collect();
    let text = tiers.join(", ");
    match policies.metrics().len() - 1 {
        0 => text,
        others => format!("{text} ({others} other policies)"),
    }
}

fn push_query_form(body: &mut String) {
    *body += "<form action=\"/api/v1/query\"><input name=\"query\" value=\"up\" aria-label=\"PromQL query\" spellcheck=\"false\" autocomplete=\"off\"><button>Query now</button></form>";
}

fn push_code(body: &mut String, text: &str) {
    write!(body, "<pre><code>{}</code></pre>", escaped(text)).expect("a String takes any text");
}

fn push_routes(body: &mut String) {
    *body += "<ul>";
    for route in &ROUTES {
        let methods = match route.methods {
            Methods::Get => "GET",
            Methods::GetOrPost => "GET POST",
            Methods::Write | Methods::Post => "POST",
            Methods::Put => "POST PUT",
            Methods::Delete => "DELETE",
        };
        let path = escaped(route.template);
        let link = route.methods == Methods::Get && !route.template.contains('{');
        let shown = if link { format!("<a href=\"{path}\">{path}</a>") } else { path };
        write!(body, "<li><code>{shown}</code> <small>{methods}</small></li>")
            .expect("a String takes any text");
    }
    *body += "</ul>";
}

fn html(status: StatusCode, title: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    );
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page).into_response()
}

/// The address under which the client knows this server, if it is a plausible one.
fn host(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    (!host.is_empty() && host.len() <= 255 && host.chars().all(plain)).then(|| host.to_owned())
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c => safe.push(c),
        }
    }
    safe
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn a_hostile_host_is_not_repeated() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "metrics.example:9494".parse().unwrap());
        assert_eq!(host(&headers).as_deref(), Some("metrics.example:9494"));
        headers.insert(HOST, "a\"><script>".parse().unwrap());
        assert_eq!(host(&headers), None);
        assert_eq!(escaped("<a href='\"'>&"), "&lt;a href=&#39;&quot;&#39;&gt;&amp;");
    }
}
