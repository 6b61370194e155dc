//! The HTTP API over a real port: what clients send, byte for byte what they get.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use icecore_server::Config;
use serde_json::json;
use support::{Running, WriteRequest};
use tempfile::TempDir;

const REMOTE_WRITE: [(&str, &str); 2] =
    [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];

fn start() -> (Running, TempDir) {
    let folder = TempDir::new().unwrap();
    (Running::start(folder.path()), folder)
}

/// Whole seconds, some time ago, so that nothing here depends on the time of day.
#[expect(clippy::disallowed_methods, reason = "samples must be young enough to be accepted")]
fn recent_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() as i64 - 600
}

/// Three series of `requests`, 11 samples each 15 s apart, that end at the returned second.
fn write_requests(server: &Running) -> i64 {
    let end = recent_seconds();
    let mut request = WriteRequest::default().counter("requests", "Requests \"served\".");
    for (i, job) in ["api", "db", "web"].into_iter().enumerate() {
        let samples: Vec<(i64, f64)> = (0..11)
            .map(|n| ((end - 150 + n * 15) * 1000, (n * 30 * (i as i64 + 1)) as f64))
            .collect();
        let labels = [("__name__", "requests"), ("job", job), ("zone", "eu")];
        request = request.series(&labels, &samples);
    }
    let answer = server.send("POST", "/api/v1/write", &REMOTE_WRITE, &request.snappy());
    assert_eq!((answer.status, answer.text()), (204, ""));
    end
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { (b as char).into() } else { format!("%{b:02X}") })
        .collect()
}

// ---- what needs no data -------------------------------------------------------------------

#[test]
fn every_get_route_answers_and_head_with_it() {
    let (server, _folder) = start();
    for path in [
        "/api/v1/query?query=1",
        "/api/v1/query_range?query=1&start=0&end=60&step=15",
        "/api/v1/query_exemplars?query=up",
        "/api/v1/format_query?query=1%2b1",
        "/api/v1/parse_query?query=1%2b1",
        "/api/v1/series?match[]=up",
        "/api/v1/labels",
        "/api/v1/label/job/values",
        "/api/v1/metadata",
        "/api/v1/rules",
        "/api/v1/alerts",
        "/api/v1/status/buildinfo",
        "/api/v1/status/runtimeinfo",
        "/api/v1/status/flags",
        "/api/v1/status/tsdb",
        "/api/v1/status/scrub",
    ] {
        let answer = server.get(path);
        assert!(!answer.data().is_null(), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    for path in ["/", "/metrics", "/-/healthy", "/-/ready"] {
        assert_eq!(server.get(path).status, 200, "{path}");
        let head = server.send("HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
}

#[test]
fn a_scalar_is_answered_byte_for_byte() {
    let (server, _folder) = start();
    // Grafana's health check: 1+1 at four seconds after the epoch.
    let expected = concat!(
        r#"{"status":"success","data":{"resultType":"scalar","result":[4,"2"]},"#,
        r#""stats":{"seriesFetched":"0"}}"#
    );
    for answer in [
        server.get("/api/v1/query?query=1%2B1&time=4"),
        server.post_form("/api/v1/query", "query=1%2B1&time=4"),
        // vmalert posts with everything in the URL and RFC 3339.
        server.send(
            "POST",
            "/api/v1/query?query=1%2B1&time=1970-01-01T00:00:04Z&step=15s",
            &[],
            b"",
        ),
        // The body wins over the URL.
        server.post_form("/api/v1/query?query=7&time=9", "query=1%2B1&time=4"),
    ] {
        assert_eq!(answer.text(), expected);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let string = server.get("/api/v1/query?query=%22a%5Cnb%22&time=1.5").data();
    assert_eq!(string, json!({"resultType": "string", "result": [1.5, "a\nb"]}));
    let range = server.get("/api/v1/query_range?query=2&start=1.25&end=3&step=1").data();
    let values = json!([[1.25, "2"], [2.25, "2"]]);
    assert_eq!(
        range,
        json!({"resultType": "matrix", "result": [{"metric": {}, "values": values}]})
    );
}

#[test]
fn errors_have_prometheus_types_and_texts() {
    let (server, _folder) = start();
    for (path, status, kind, text) in [
        (
            "query?query=1&time=x",
            400,
            "bad_data",
            r#"invalid parameter "time": invalid time value for 'time': cannot parse "x" to a valid timestamp"#,
        ),
        (
            "query?query=1&limit=-1",
            400,
            "bad_data",
            r#"invalid parameter "limit": limit must be non-negative"#,
        ),
        (
            "query?query=1&timeout=soon",
            400,
            "bad_data",
            r#"invalid parameter "timeout": cannot parse "soon" to a valid duration"#,
        ),
        (
            "query?query=1&lookback_delta=x",
            400,
            "bad_data",
            r#"error parsing lookback delta duration: cannot parse "x" to a valid duration"#,
        ),
        (
            "query_range?query=1&end=1&step=1",
            400,
            "bad_data",
            r#"invalid parameter "start": cannot parse "" to a valid timestamp"#,
        ),
        (
            "query_range?query=1&start=2&end=1&step=1",
            400,
            "bad_data",
            r#"invalid parameter "end": end timestamp must not be before start time"#,
        ),
        (
            "query_range?query=1&start=1&end=2&step=0",
            400,
            "bad_data",
            r#"invalid parameter "step": zero or negative query resolution step widths are not accepted. Try a positive integer"#,
        ),
        (
            "query_range?query=1&start=1&end=2&step=-1",
            400,
            "bad_data",
            r#"invalid parameter "step": zero or negative query resolution step widths are not accepted. Try a positive integer"#,
        ),
        (
            "query_range?query=1&start=0&end=11001&step=1",
            400,
            "bad_data",
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
        ("series", 400, "bad_data", "no match[] parameter provided"),
        (
            "series?match[]=%7Bjob=~%22.*%22%7D",
            400,
            "bad_data",
            "match[] must contain at least one non-empty matcher",
        ),
        (
            "labels?match[]=%7B%7D",
            400,
            "bad_data",
            "match[] must contain at least one non-empty matcher",
        ),
        (
            "labels?start=never",
            400,
            "bad_data",
            r#"invalid parameter "start": invalid time value for 'start': cannot parse "never" to a valid timestamp"#,
        ),
        ("label/U__/values", 400, "bad_data", r#"invalid label name: """#),
        ("metadata?limit=many", 400, "bad_data", "limit must be a number"),
        ("status/tsdb?limit=0", 400, "bad_data", "limit must be a positive number"),
        ("status/tsdb?topN=10001", 400, "bad_data", "topN must not exceed 10000"),
        (
            "status/tsdb?date=yesterday",
            400,
            "bad_data",
            "invalid parameter \"date\": want a day as 2026-11-22, not \"yesterday\"",
        ),
        (
            "query_exemplars?query=up&start=2&end=1",
            400,
            "bad_data",
            "end timestamp must not be before start timestamp",
        ),
        ("nothing", 404, "not_found", ""),
    ] {
        let answer = server.get(&format!("/api/v1/{path}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let json = answer.json();
        assert_eq!(
            (&json["status"], &json["errorType"]),
            (&json!("error"), &json!(kind)),
            "{path}"
        );
        if !text.is_empty() {
            assert_eq!(json["error"], text, "{path}");
        }
    }
    // As many points as may be.
    let path = "/api/v1/query_range?query=1&start=0&end=11000&step=1";
    let data = server.get(path).data();
    assert_eq!(data["result"][0]["values"].as_array().unwrap().len(), 11_001);
}

#[test]
fn a_query_that_cannot_be_parsed_names_the_place() {
    let (server, _folder) = start();
    for (method, path) in [
        ("query", ""),
        ("query_range", "&start=0&end=1&step=1"),
        ("format_query", ""),
        ("parse_query", ""),
    ] {
        let answer = server.get(&format!("/api/v1/{method}?query=sum(up{path}"));
        let json = answer.json();
        assert_eq!((answer.status, &json["errorType"]), (400, &json!("bad_data")));
        let error = json["error"].as_str().unwrap();
        assert!(error.starts_with(r#"invalid parameter "query": 1:"#), "{error}");
        assert!(error.contains("parse error: "), "{error}");
    }
    let answer = server.get("/api/v1/query?query=");
    assert_eq!(answer.status, 400, "{}", answer.text());
    let pretty = server.get("/api/v1/format_query?query=sum%20by(job)(rate(x%5B5m%5D))").data();
    assert_eq!(pretty, "sum by (job) (rate(x[5m]))");
}

#[test]
fn the_length_of_a_query_is_bounded_by_its_flag() {
    let (server, _folder) = start();
    let query = format!("1{}", " ".repeat(262_143));
    let times = "start=0&end=1&step=1";
    for endpoint in ["query", "query_range", "format_query", "parse_query", "query_exemplars"] {
        let path = format!("/api/v1/{endpoint}");
        let answer = server.post_form(&path, &format!("{times}&query={query}"));
        assert!(answer.status < 300, "{endpoint}: {}", answer.text());
        let answer = server.post_form(&path, &format!("{times}&query={query} "));
        assert_eq!((answer.status, &answer.json()["errorType"]), (400, &json!("bad_data")));
        let text =
            r#"invalid parameter "query": 262145 bytes are more than --query.max-length=262144"#;
        assert_eq!(answer.json()["error"], text);
    }
}

#[test]
fn patterns_have_gos_dialect_and_its_messages() {
    let (server, _folder) = start();
    for (query, text) in [
        (
            "x{a=~\"b**\"}",
            "1:3: parse error: error parsing regexp: invalid nested repetition operator: `**`",
        ),
        ("sum(x{a!~\"(b\"})", "1:7: parse error: error parsing regexp: missing closing ): `(b`"),
    ] {
        let answer = server.get(&format!("/api/v1/query?query={}", encode(query)));
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["error"], format!("invalid parameter \"query\": {text}"));
    }
    let form = format!("match[]={}&", encode(r"{a=~`\pL{150}`}")).repeat(50);
    let answer = server.post_form("/api/v1/series", &form);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"], "patterns of match[] take more than 64 MiB compiled");
    let pattern = r"\Qa.b\E|[[:digit:]]{foo}|\141";
    let data =
        server.get(&format!("/api/v1/query?query={}", encode(&format!("x{{a=~`{pattern}`}}"))));
    assert_eq!(data.data()["result"], json!([]));
}

#[test]
fn the_syntax_tree_is_prometheus_tree() {
    let (server, _folder) = start();
    let text = concat!(
        r#"{"status":"success","data":{"expr":{"anchored":false,"matchers":[{"name":"a","type":"=~","value":"b"},"#,
        r#"{"name":"__name__","type":"=","value":"x"}],"name":"x","offset":60000,"offsetExpr":null,"#,
        r#""smoothed":false,"startOrEnd":null,"timestamp":null,"type":"vectorSelector"},"#,
        r#""grouping":["c"],"op":"sum","param":null,"type":"aggregation","without":false}}"#
    );
    let query = encode("sum by (c) (x{a=~\"b\"} offset 1m)");
    assert_eq!(server.get(&format!("/api/v1/parse_query?query={query}")).text(), text);
    assert_eq!(server.post_form("/api/v1/parse_query", &format!("query={query}")).text(), text);
}

#[test]
fn what_a_query_cost_is_told_to_who_asks() {
    let (server, _folder) = start();
    for stats in ["true", "all"] {
        let answer = server.get(&format!("/api/v1/query?query=1&stats={stats}"));
        assert_eq!(answer.json()["warnings"], json!(null));
        let stats = &answer.data()["stats"];
        assert_eq!(stats["samples"]["totalQueryableSamples"], 0);
        assert!(stats["timings"]["execTotalTime"].as_f64().unwrap() > 0.0);
    }
    assert!(server.get("/api/v1/query?query=1&stats=").data().get("stats").is_none());
    let answer = server.get("/api/v1/query?query=1&stats=yes");
    assert!(answer.data()["stats"].is_object());
    let warning = "value \"yes\" for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"";
    assert_eq!(answer.json()["warnings"], json!([warning]));
}

#[test]
fn grafana_finds_what_it_looks_for_when_it_starts() {
    let (server, _folder) = start();
    let build = server.get("/api/v1/status/buildinfo").data();
    assert!(build.get("features").is_none() && build.get("application").is_none());
    let version: Vec<u32> =
        build["version"].as_str().unwrap().split('.').map(|n| n.parse().unwrap()).collect();
    assert!(version >= vec![2, 24, 0], "{version:?}");
    assert_eq!(server.get("/api/v1/rules").data(), json!({"groups": []}));
    assert_eq!(server.get("/api/v1/alerts").data(), json!({"alerts": []}));
    // Milliseconds where seconds are meant.
    let path = "/api/v1/query_exemplars?query=test&start=1764000000000&end=1764003600000";
    assert_eq!(server.get(path).text(), r#"{"status":"success","data":[]}"#);
    assert_eq!(server.get("/api/v1/query_exemplars?query=1%2B1").status, 204);
    assert!(server.get("/api/v1/label/no_such_label/values?limit=40000").data().is_array());
    assert!(server.get("/api/v1/metadata?limit=0").data().is_object());
}

#[test]
fn wrong_methods_and_paths_are_told_so() {
    let (server, _folder) = start();
    let answer = server.send("DELETE", "/api/v1/query", &[], b"");
    assert_eq!(answer.status, 405);
    let allow = answer.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    assert_eq!(server.send("POST", "/api/v1/label/job/values", &[], b"").status, 405);
    assert_eq!(server.send("POST", "/api/v1/rules", &[], b"").status, 405);
    let answer = server.get("/api/v1/write");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, OPTIONS")));
    assert_eq!(server.get("/graph").status, 404);
    let page = server.send("GET", "/<script>", &[("Accept", "text/html")], b"");
    assert!(page.status == 400 || page.status == 404);
    assert!(!page.text().contains("<script>"));
}

#[test]
fn browsers_of_other_origins_may_read_but_not_write() {
    let (server, _folder) = start();
    let origin = [("Origin", "http://elsewhere.example")];
    let answer = server.send("OPTIONS", "/api/v1/query", &origin, b"");
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, OPTIONS"));
    let answer = server.send("GET", "/api/v1/query?query=1", &origin, b"");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let body = WriteRequest::default().snappy();
    assert_eq!(server.send("POST", "/api/v1/write", &origin, &body).status, 403);
}

#[test]
fn the_start_page_runs_nothing_and_says_where_to_go() {
    let (server, _folder) = start();
    let page = server.send("GET", "/", &[("Accept", "text/html")], b"");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    let text = page.text();
    for part in ["remote_write", "Grafana", "curl", "active series", &server.address.to_string()] {
        assert!(text.contains(part), "{part}");
    }
    assert!(!text.contains("<script"));
    let lost = server.send("GET", "/lost", &[("Accept", "text/html")], b"");
    assert_eq!(lost.status, 404);
    assert!(lost.text().contains("href=\"/\""));
}

#[test]
fn answers_are_compressed_for_those_who_ask() {
    let (server, _folder) = start();
    let path = "/api/v1/query_range?query=1&start=0&end=11000&step=1";
    let plain = server.get(path);
    let packed = server.send("GET", path, &[("Accept-Encoding", "gzip, deflate")], b"");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.header("vary").unwrap().eq_ignore_ascii_case("accept-encoding"));
    assert_eq!(packed.body[..2], [0x1f, 0x8b]);
    assert!(packed.body.len() * 4 < plain.body.len());
    let packed = server.send("GET", path, &[("Accept-Encoding", "deflate")], b"");
    assert_eq!(packed.header("content-encoding"), Some("deflate"));
}

#[test]
fn metrics_are_counted_by_route_and_never_by_path() {
    let (server, _folder) = start();
    server.get("/api/v1/query?query=1");
    server.get("/secret-path-of-a-user");
    server.send("BREW", "/api/v1/query", &[], b"");
    let answer = server.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    for line in [
        r#"icecore_http_requests_total{handler="/api/v1/query",method="GET",code="2xx"} 1"#,
        r#"icecore_http_requests_total{handler="/api/v1/query",method="other",code="4xx"} 1"#,
        r#"icecore_http_requests_total{handler="other",method="GET",code="4xx"} 1"#,
        "# TYPE icecore_http_request_duration_seconds histogram",
        r#"icecore_query_duration_seconds_count{type="instant"} 1"#,
        "process_resident_memory_bytes ",
        "icecore_head_series ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("secret-path"));
}

#[test]
fn no_time_is_too_far_away() {
    let (server, _folder) = start();
    write_requests(&server);
    let times = [
        "-292273086-05-16T16:47:06Z",
        "292277025-08-18T07:12:54.999999999Z",
        "9223372036854000",
        "-9223372036854000",
        "1e15",
        "0",
    ];
    let queries = [
        "requests",
        "requests offset 100y",
        "requests offset -100y",
        "sum_over_time(requests[100y:1y] offset 100y)",
        "rate(requests[100y])",
        "requests @ 9e15",
        "timestamp(requests) + time()",
        "year()",
    ];
    for (time, query) in times.iter().flat_map(|time| queries.map(|query| (time, query))) {
        let query = encode(query);
        let answer = server.get(&format!("/api/v1/query?query={query}&time={time}"));
        assert!(matches!(answer.status, 200 | 400 | 422), "{query} {time}: {}", answer.text());
        let path = format!("/api/v1/query_range?query={query}&start={time}&end={time}&step=1y");
        let answer = server.get(&path);
        assert!(matches!(answer.status, 200 | 400 | 422), "{query} {time}: {}", answer.text());
        for path in [
            "labels?",
            "label/job/values?",
            "series?match[]=requests&",
            "query_exemplars?query=requests&",
        ] {
            let answer = server.get(&format!("/api/v1/{path}start={time}&end={time}"));
            assert_eq!(answer.status, 200, "{path} {time}: {}", answer.text());
        }
    }
}

// ---- hostile and clumsy clients -----------------------------------------------------------

#[test]
fn slow_clients_are_cut_off() {
    let (server, _folder) = start();
    let started = Instant::now();
    let mut silent = server.connect();
    let mut preface = server.connect();
    preface.write_all(b"PRI * HTTP/2").unwrap();
    let mut head = server.connect();
    head.write_all(b"GET /api/v1/query?query=1 HTTP/1.1\r\nHost: a\r\nX-Slow: ").unwrap();
    let mut body = server.connect();
    body.write_all(b"POST /api/v1/query HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nquery=").unwrap();
    for stream in [&mut silent, &mut preface, &mut head] {
        let mut answer = Vec::new();
        // The end of the stream or a reset; either way the connection is gone.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    }
    let mut answer = [0; 12];
    body.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    let waited = started.elapsed();
    assert!(waited > Duration::from_secs(8) && waited < Duration::from_secs(20), "{waited:?}");
}

#[test]
fn heads_have_a_bound() {
    let (server, _folder) = start();
    let many: Vec<(String, &str)> = (0..100).map(|n| (format!("X-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> =
        many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(server.send("GET", "/-/healthy", &many, b"").status, 431);
    let long = "x".repeat(200_000);
    let mut stream = server.connect();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
}

// ---- writes -------------------------------------------------------------------------------

#[test]
fn what_is_written_is_read_back() {
    let (server, _folder) = start();
    let end = write_requests(&server);
    let at = |query: &str| server.get(&format!("/api/v1/query?query={}&time={end}", encode(query)));

    let data = at(r#"requests{job="db"}"#).data();
    let metric = json!({"__name__": "requests", "job": "db", "zone": "eu"});
    assert_eq!(
        data,
        json!({"resultType": "vector", "result": [{"metric": metric, "value": [end, "600"]}]})
    );
    let answer = at("sum(requests) by (zone)");
    assert_eq!(
        answer.data()["result"],
        json!([{"metric": {"zone": "eu"}, "value": [end, "1800"]}])
    );
    assert_eq!(answer.json()["stats"]["seriesFetched"], "3");
    let range = at(r#"requests{job="api"}[31s]"#).data();
    let values = json!([[end - 30, "240"], [end - 15, "270"], [end, "300"]]);
    assert_eq!(range["resultType"], "matrix");
    assert_eq!(range["result"][0]["values"], values);

    let path = format!(
        "/api/v1/query_range?query={}&start={}&end={end}&step=15s",
        encode(r#"requests{job="api"}"#),
        end - 30
    );
    assert_eq!(server.get(&path).data()["result"][0]["values"], values);

    let limited = at("requests{job!=\"\"}").data()["result"].as_array().unwrap().len();
    assert_eq!(limited, 3);
    let limited = server.get(&format!("/api/v1/query?query=requests&time={end}&limit=2"));
    assert_eq!(limited.data()["result"].as_array().unwrap().len(), 2);
    assert_eq!(limited.json()["warnings"], json!(["results truncated due to limit"]));
    let stats = server.get(&format!("/api/v1/query?query=requests&time={end}&stats=all")).data();
    assert_eq!(stats["stats"]["samples"]["totalQueryableSamples"], 3);
}

#[test]
fn labels_series_and_metadata_are_listed() {
    let (server, _folder) = start();
    let end = write_requests(&server);
    let get = |path: &str| server.get(&format!("/api/v1/{path}"));
    let requests = "match[]=requests";
    assert_eq!(get(&format!("labels?{requests}")).data(), json!(["__name__", "job", "zone"]));
    assert_eq!(get(&format!("label/job/values?{requests}")).data(), json!(["api", "db", "web"]));
    let names = get("label/__name__/values?match[]=%7B__name__=~%22req.*%22%7D");
    assert_eq!(names.data(), json!(["requests"]));
    let limited = get(&format!("label/job/values?{requests}&limit=1"));
    assert_eq!(limited.data(), json!(["api"]));
    assert_eq!(limited.json()["warnings"], json!(["results truncated due to limit"]));
    assert!(get(&format!("label/job/values?{requests}&limit=3")).json().get("warnings").is_none());
    assert!(get(&format!("label/job/values?{requests}&limit=0")).json().get("warnings").is_none());
    let series = get(&format!("series?match[]=nothing&{requests}&start={}&end={end}", end - 60));
    let first = json!({"__name__": "requests", "job": "api", "zone": "eu"});
    assert_eq!(series.data().as_array().unwrap().len(), 3);
    assert_eq!(series.data()[0], first);
    assert_eq!(get(&format!("series?{requests}&start={}", end + 3600)).data(), json!([]));
    let posted = server.post_form("/api/v1/series", "match%5B%5D=requests&limit=2").data();
    assert_eq!(posted.as_array().unwrap().len(), 2);
    let entry = json!([{"type": "counter", "help": "Requests \"served\".", "unit": ""}]);
    assert_eq!(get("metadata?metric=requests").data(), json!({"requests": entry}));
    assert_eq!(get("metadata?metric=absent").data(), json!({}));
    assert_eq!(get("metadata?limit=1").data().as_object().unwrap().len(), 1);
    let tsdb = get("status/tsdb?limit=3").data();
    assert!(tsdb["headStats"]["numSeries"].as_u64().unwrap() >= 3);
    assert!(tsdb["seriesCountByMetricName"].as_array().unwrap().len() <= 3);
}

#[test]
fn the_greatest_metrics_and_labels_are_listed_for_the_head_and_for_a_day() {
    let (server, _folder) = start();
    let at = recent_seconds();
    let mut request = WriteRequest::default();
    for (job, zone) in [("api", "eu"), ("db", "eu"), ("web", "us")] {
        let labels = [("__name__", "requests"), ("job", job), ("zone", zone)];
        request = request.series(&labels, &[(at * 1000, 1.0)]);
    }
    let answer = server.send("POST", "/api/v1/write", &REMOTE_WRITE, &request.snappy());
    assert_eq!(answer.status, 204);
    let get = |parameters: &str| {
        server.get(&format!("/api/v1/status/tsdb?match[]=requests&{parameters}")).data()
    };
    let head = get("topN=2&focusLabel=zone");
    assert_eq!((&head["totalSeries"], &head["totalLabelValuePairs"]), (&json!(3), &json!(6)));
    assert_eq!(head["seriesCountByMetricName"], json!([{"name": "requests", "value": 3}]));
    let labels = json!([{"name": "__name__", "value": 3}, {"name": "job", "value": 3}]);
    assert_eq!(head["seriesCountByLabelName"], labels);
    let zones = json!([{"name": "eu", "value": 2}, {"name": "us", "value": 1}]);
    assert_eq!(head["seriesCountByFocusLabelValue"], zones);
    assert!(get("topN=2").get("seriesCountByFocusLabelValue").is_none());
    let today = get(&format!("date={}", date_of(at)));
    let grown = json!([{"name": "requests", "value": 3, "dayBefore": 0, "difference": 3}]);
    assert_eq!(today["seriesCountByMetricName"], grown);
    assert_eq!(today["isExact"], true);
    let next = get(&format!("date={}&focusLabel=job", date_of(at + 86_400)));
    assert_eq!(next["totalSeries"], 0);
    assert_eq!(next["seriesCountByFocusLabelValue"], json!([]));
    assert!(next["headStats"]["numSeries"].as_u64().unwrap() >= 3);
}

/// The date of a time, by the days of each year and month.
fn date_of(seconds: i64) -> String {
    let (mut day, mut year) = (seconds.div_euclid(86_400), 1970);
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while day >= 365 + i64::from(is_leap(year)) {
        day -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + i64::from(is_leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

#[test]
fn names_beyond_ascii_are_escaped_in_paths() {
    let (server, _folder) = start();
    let at = recent_seconds() * 1000;
    let labels = [("__name__", "requests"), ("http.status", "200"), ("größe", "L")];
    let body = WriteRequest::default().series(&labels, &[(at, 1.0)]).snappy();
    assert_eq!(server.send("POST", "/api/v1/write", &REMOTE_WRITE, &body).status, 204);
    for path in ["U__http_2e_status", "http.status"] {
        assert_eq!(server.get(&format!("/api/v1/label/{path}/values")).data(), json!(["200"]));
    }
    for path in ["U__gr_f6__df_e", "gr%C3%B6%C3%9Fe"] {
        assert_eq!(server.get(&format!("/api/v1/label/{path}/values")).data(), json!(["L"]));
    }
    assert_eq!(server.get("/api/v1/label/%FF/values").status, 400);
}

#[test]
fn exemplars_are_listed_by_series() {
    let (server, _folder) = start();
    let at = recent_seconds();
    let labels = [("__name__", "latency_count"), ("job", "api")];
    let body = WriteRequest::default().exemplar(&labels, "abc", at * 1000 + 250).snappy();
    assert_eq!(server.send("POST", "/api/v1/write", &REMOTE_WRITE, &body).status, 204);
    let query = encode("rate(latency_count[1m]) + other");
    let path = format!("/api/v1/query_exemplars?query={query}&start={}&end={}", at - 5, at + 5);
    let exemplar =
        json!({"labels": {"trace_id": "abc"}, "value": "6.5", "timestamp": at as f64 + 0.25});
    let labels = json!({"__name__": "latency_count", "job": "api"});
    assert_eq!(
        server.get(&path).data(),
        json!([{"seriesLabels": labels, "exemplars": [exemplar]}])
    );
}

#[test]
fn good_rows_are_stored_and_bad_ones_named() {
    let (server, _folder) = start();
    let at = recent_seconds();
    let good = [("__name__", "mixed"), ("job", "good")];
    let bad = [("__name__", "record:sessions"), ("job", "bad")];
    let future = [("__name__", "mixed"), ("job", "future")];
    let request = WriteRequest::default()
        .series(&good, &[(at * 1000, 1.0)])
        .series(&bad, &[(at * 1000, 2.0), (at * 1000 + 1, 3.0)])
        .series(&future, &[((at + 86_400) * 1000, 4.0)]);
    let answer = server.send("POST", "/api/v1/write", &REMOTE_WRITE, &request.snappy());
    assert_eq!(answer.status, 400);
    let text = answer.text();
    assert!(text.starts_with("3 rows refused, 1 samples stored\n"), "{text}");
    assert!(text.contains("record:sessions") && text.contains("future"), "{text}");
    let jobs = server.get("/api/v1/label/job/values?match[]=mixed").data();
    assert_eq!(jobs, json!(["good"]));
    // To zstd a refusal is no error: vmagent would give zstd up.
    let headers = [("Content-Encoding", "zstd"), ("X-VictoriaMetrics-Remote-Write-Version", "1")];
    let answer = server.send("POST", "/api/v1/write", &headers, &request.zstd());
    assert_eq!((answer.status, answer.text()), (204, ""));
    let metrics = server.get("/metrics");
    for line in [
        r#"icecore_write_rows_refused_total{answer="400"} 3"#,
        r#"icecore_write_rows_refused_total{answer="204"} 3"#,
        r#"icecore_write_requests_total{result="partial"} 2"#,
    ] {
        assert!(metrics.text().contains(line), "{line}");
    }
}

#[test]
fn writes_that_can_never_succeed_are_refused_for_good() {
    let (server, _folder) = start();
    let write = |headers: &[(&str, &str)], body: &[u8]| {
        server.send("POST", "/api/v1/write", headers, body).status
    };
    let good =
        WriteRequest::default().series(&[("__name__", "a")], &[(recent_seconds() * 1000, 1.0)]);
    assert_eq!(write(&[], &good.snappy()), 204, "early senders name neither encoding nor type");
    assert_eq!(write(&REMOTE_WRITE, b"no snappy"), 400);
    assert_eq!(write(&[("Content-Encoding", "zstd")], b"no zstd"), 400);
    assert_eq!(write(&[("Content-Encoding", "gzip")], b""), 415);
    assert_eq!(write(&[("Content-Type", "application/json")], b"{}"), 415);
    let version_2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    assert_eq!(write(&[("Content-Type", version_2)], &good.snappy()), 415);
    // 4 GiB, says a snappy header.
    assert_eq!(write(&REMOTE_WRITE, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0x00]), 400);
    let large = vec![0; (16 << 20) + 1];
    let answer = server.send("POST", "/api/v1/write", &REMOTE_WRITE, &large);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("larger than the limit"), "{}", answer.text());
    for method in ["GET", "POST"] {
        let answer = server.send(method, "/api/v1/write?get_vm_proto_version=1", &[], b"");
        assert_eq!((answer.status, answer.text()), (200, "1"));
    }
}

#[test]
fn a_new_server_has_its_own_metrics_to_show() {
    let (server, _folder) = start();
    let path = format!("/api/v1/query?query={}", encode(r#"up{job="icecore"}"#));
    let some = |answer: &support::Answer| !answer.data()["result"].as_array().unwrap().is_empty();
    let data = server.get_until(&path, some).data();
    assert_eq!(data["result"][0]["metric"]["instance"], server.address.to_string());
    assert_eq!(data["result"][0]["value"][1], "1");
    let metadata = server.get("/api/v1/metadata?metric=process_cpu_seconds_total").data();
    assert_eq!(metadata["process_cpu_seconds_total"][0]["type"], "counter");
}

// ---- starting and stopping ----------------------------------------------------------------

#[test]
fn what_was_written_is_there_after_a_restart() {
    let (server, folder) = start();
    let end = write_requests(&server);
    server.stop().unwrap();
    let server = Running::start(folder.path());
    let path = format!("/api/v1/query?query={}&time={end}", encode("sum(requests)"));
    assert_eq!(server.get(&path).data()["result"][0]["value"], json!([end, "1800"]));
}

#[test]
fn a_data_directory_has_one_server() {
    let (server, folder) = start();
    let error = Running::start_with(Config::new(folder.path())).err().expect("it is taken");
    let text = format!("{error:#}");
    assert!(text.contains("--storage.path") && text.contains("in use"), "{text}");
    assert_eq!(server.get("/-/ready").status, 200);
}

// ---- limits of queries ---------------------------------------------------------------------

/// The value of a counter or gauge without labels.
fn metric(server: &Running, name: &str) -> f64 {
    let answer = server.get("/metrics");
    let row = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    row.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Minutes of work on no data at all.
const HEAVY: &str = "max_over_time(stddev_over_time(vector(time())[6h:1s])[5d:10s])";

#[test]
fn a_client_that_goes_away_takes_its_query_with_it() {
    let folder = TempDir::new().unwrap();
    let mut config = Config::new(folder.path());
    config.query_concurrency = 1;
    let server = Running::start_with(config).unwrap();
    let mut stream = server.connect();
    let path = format!("/api/v1/query?query={}", encode(HEAVY));
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    wait_until("the query runs", || metric(&server, "icecore_queries_running") == 1.0);
    wait_until("it holds something", || metric(&server, "icecore_query_memory_bytes") > 1e6);
    // Another waits in the queue and times out there.
    let waiting = server.get("/api/v1/query?query=1&timeout=50ms");
    assert_eq!(waiting.status, 503);
    assert!(waiting.text().contains("query timed out in query queue"), "{}", waiting.text());
    assert_eq!(metric(&server, "icecore_query_canceled_total"), 0.0);
    drop(stream);
    wait_until("the query ends", || metric(&server, "icecore_query_canceled_total") == 1.0);
    assert_eq!(server.get("/api/v1/query?query=1&timeout=5s").status, 200);
    wait_until("nothing is held", || metric(&server, "icecore_query_memory_bytes") == 0.0);
    assert_eq!(metric(&server, "icecore_queries_running"), 0.0);
}

#[test]
fn a_query_ends_at_its_deadline() {
    let (server, _folder) = start();
    let path = format!("/api/v1/query?query={}&timeout=100ms", encode(HEAVY));
    let answer = server.get(&path);
    assert_eq!(answer.status, 503);
    let error = "query timed out in expression evaluation";
    assert_eq!(answer.json()["error"], error);
    assert_eq!(metric(&server, "icecore_query_timed_out_total"), 1.0);
}

#[test]
fn limits_say_which_they_are_and_by_which_flag_they_move() {
    let folder = TempDir::new().unwrap();
    let mut config = Config::new(folder.path());
    config.engine.max_query_bytes = 1 << 20;
    let server = Running::start_with(config).unwrap();
    let answer = server.get(&format!("/api/v1/query?query={}", encode("vector(1)[1d:1s]")));
    assert_eq!((answer.status, &answer.json()["errorType"]), (422, &json!("execution")));
    let error = "query processing would use more than 1048576 bytes of memory (--query.max-memory-per-query)";
    assert_eq!(answer.json()["error"], error);
}

#[test]
fn range_queries_are_answered_from_the_cache_alike() {
    let (server, _folder) = start();
    let end = write_requests(&server);
    let query = |more: &str| {
        let (start, query) = (end - 120, encode("sum by (job) (rate(requests[1m]))"));
        let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=15");
        server.get(&format!("{path}{more}")).text().to_owned()
    };
    let requests = |result: &str| {
        metric(&server, &format!("icecore_query_cache_requests_total{{result=\"{result}\"}}"))
    };
    let first = query("");
    assert_eq!((requests("miss"), requests("hit")), (1.0, 0.0));
    assert_eq!(query(""), first);
    assert_eq!((requests("miss"), requests("hit")), (1.0, 1.0));
    assert_eq!(query("&nocache=1"), first);
    // Nor does what asks for its cost come from there.
    assert!(query("&stats=true").contains("totalQueryableSamples"));
    assert_eq!((requests("miss"), requests("hit")), (1.0, 1.0));
    assert!(metric(&server, "icecore_query_cache_bytes") > 0.0);
    assert_eq!(metric(&server, "icecore_query_cache_steps_saved_total"), 9.0);
}
