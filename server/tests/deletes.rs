//! Deletes over HTTP and by the command: what is answered, and what queries find afterwards.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[expect(dead_code, reason = "other tests use all of it")]
mod support;

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use icecore_server::Config;
use serde_json::{Value, json};
use support::{Running, WriteRequest};
use tempfile::TempDir;

const DELETE: &str = "/api/v1/admin/tsdb/delete_series";

fn start(enable_admin_api: bool) -> (Running, TempDir) {
    let folder = TempDir::new().unwrap();
    let config = Config { enable_admin_api, ..Config::new(folder.path()) };
    (Running::start_with(config).unwrap(), folder)
}

/// Whole minutes, some time ago.
#[expect(clippy::disallowed_methods, reason = "samples must be young enough to be accepted")]
fn recent_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now.as_secs() as i64 - 600) / 60 * 60
}

/// 11 samples of `m{job="a"}` and `m{job="b"}`, a minute apart, up to `end`.
fn write(server: &Running, end: i64, value: f64) {
    let mut request = WriteRequest::default();
    for job in ["a", "b"] {
        let samples: Vec<(i64, f64)> =
            (0..11).map(|n| ((end - n * 60) * 1000, value)).rev().collect();
        request = request.series(&[("__name__", "m"), ("job", job)], &samples);
    }
    let headers = [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];
    let answer = server.send("POST", "/api/v1/write", &headers, &request.snappy());
    assert_eq!((answer.status, answer.text()), (204, ""));
}

/// Values of `sum(m)` at each minute, through the result cache.
fn sums(server: &Running, end: i64) -> Vec<Value> {
    let path = format!(
        "/api/v1/query_range?query=sum(m)&start={}&end={end}&step=60&lookback_delta=1s",
        end - 600
    );
    let data = server.get(&path).data();
    let values = data["result"][0]["values"].as_array().cloned().unwrap_or_default();
    values.into_iter().map(|pair| pair[1].clone()).collect()
}

#[test]
fn a_delete_is_seen_at_once_and_what_is_written_later_stays() {
    let (server, _folder) = start(true);
    let end = recent_seconds();
    write(&server, end, 5.0);
    // Twice, so that the second comes from the cache.
    for _ in 0..2 {
        assert_eq!(sums(&server, end), vec![json!("10"); 11]);
    }
    let range = format!("start={}&end={}", end - 300, end - 120);
    let form = format!("match[]=m%7Bjob%3D%22a%22%7D&{range}");
    let answer = server.post_form(&format!("{DELETE}?dry_run=true"), &form);
    let hidden = json!({"series": 1, "samples": 4, "isExact": true, "blocks": 0, "blockBytes": 0});
    assert_eq!(answer.data(), hidden);
    assert_eq!(sums(&server, end), vec![json!("10"); 11], "nothing was deleted");
    let answer = server.post_form(DELETE, &form);
    assert_eq!((answer.status, answer.text()), (204, ""));
    let mut expected = vec![json!("10"); 11];
    expected[5..9].fill(json!("5"));
    assert_eq!(sums(&server, end), expected);
    write(&server, end, 3.0);
    expected[5..9].fill(json!("8"));
    assert_eq!(sums(&server, end), expected, "lower values, where they are the only ones");
    let deletes = server.get("/api/v1/status/deletes").data();
    let one = &deletes["deletes"][0];
    assert_eq!(one["match"], json!([r#"{job="a", __name__="m"}"#]));
    assert_eq!((&one["samples"], &one["blocksLeft"]), (&json!(4), &json!(0)));
    assert!(one["freedTime"].is_string() && one["start"].is_string());
    // PUT, a form in it, a list of selectors, and no range: everything.
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let body = b"match[]=m%7Bjob%3D%22a%22%7D&match[]=m%7Bjob%3D%22b%22%7D";
    let answer = server.send("PUT", &format!("{DELETE}?receipt=true"), &headers, body);
    let receipt = answer.data();
    assert_eq!((&receipt["series"], &receipt["start"]), (&json!(2), &Value::Null));
    assert_eq!(sums(&server, end), Vec::<Value>::new());
    assert_eq!(server.get("/api/v1/series?match[]=m").data(), json!([]));
    let again = server.post_form(&format!("{DELETE}?receipt=1"), "match[]=m").data();
    assert_eq!((&again["id"], &again["samples"]), (&json!(0), &json!(0)));
    let answer = server.send("PUT", "/api/v1/admin/tsdb/clean_tombstones", &[], b"");
    assert_eq!((answer.status, answer.text()), (204, ""));
}

#[test]
fn what_is_not_allowed_or_makes_no_sense_is_refused_and_deletes_nothing() {
    let (server, _folder) = start(true);
    let end = recent_seconds();
    write(&server, end, 5.0);
    for (parameters, text) in [
        ("", "no match[] parameter provided"),
        ("match[]={}", "match[] must contain at least one non-empty matcher"),
        ("match[]=%7Bx%3D~%22.*%22%7D", "match[] must contain at least one non-empty matcher"),
        ("match[]=rate(m[5m])", "match[] must be a vector selector"),
        ("match[]=m&start=5&end=4", "end timestamp must not be before start time"),
        ("match[]=m&start=yesterday", "invalid time value for 'start'"),
        ("match[]=m&dry_run=perhaps", "neither true nor false"),
        ("match[]=m&all=true", "leave match[] out"),
        ("all=false", "no match[] parameter provided"),
    ] {
        let answer = server.send("POST", &format!("{DELETE}?{parameters}"), &[], b"");
        assert_eq!(answer.status, 400, "{parameters}: {}", answer.text());
        assert!(
            answer.text().contains("bad_data") && answer.text().contains(text),
            "{parameters}: {}",
            answer.text()
        );
    }
    let origin = [("Origin", "http://elsewhere")];
    assert_eq!(server.send("POST", &format!("{DELETE}?match[]=m"), &origin, b"").status, 403);
    assert_eq!(server.get(&format!("{DELETE}?match[]=m")).status, 405);
    assert_eq!(sums(&server, end), vec![json!("10"); 11]);
    let answer = server.send("POST", &format!("{DELETE}?all=true"), &[], b"");
    assert_eq!(answer.status, 204);
    assert_eq!(sums(&server, end), Vec::<Value>::new());
}

#[test]
fn without_the_flag_the_answer_is_that_of_prometheus() {
    let (server, _folder) = start(false);
    for path in [&format!("{DELETE}?match[]=m")[..], "/api/v1/admin/tsdb/clean_tombstones"] {
        let answer = server.send("POST", path, &[], b"");
        assert_eq!(answer.status, 503);
        let text = r#"{"status":"error","errorType":"unavailable","error":"admin APIs disabled"}"#;
        assert_eq!(answer.text(), text);
    }
    assert_eq!(server.get("/api/v1/status/deletes").data(), json!({"deletes": []}));
}

#[test]
fn the_command_says_what_it_deletes() {
    let (server, _folder) = start(true);
    let end = recent_seconds();
    write(&server, end, 5.0);
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.arg("delete").args(args).arg(format!("--url=http://{}", server.address));
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let from = (end - 60).to_string();
    let selector = ["--match", r#"m{job="b"}"#, "--start", &from];
    let (ok, text) = run(&[&selector[..], &["--dry-run"]].concat());
    let what = "delete 2 samples of 1 series, none of them in a block";
    assert_eq!((ok, text.trim_end()), (true, &format!("would {what}")[..]));
    let (ok, text) = run(&[&selector[..], &["--free"]].concat());
    assert!(ok && text.starts_with("deleted 2 samples of 1 series"), "{text}");
    assert_eq!(sums(&server, end)[9..], [json!("5"), json!("5")]);
    assert_eq!(run(&selector), (true, "nothing to delete\n".into()));
    let (ok, text) = run(&["--match", "{}"]);
    assert!(!ok && text.contains("at least one non-empty matcher"), "{text}");
    let (ok, text) = run(&[]);
    assert!(!ok && text.contains("--all"), "{text}");
    let (ok, text) = run(&["--all"]);
    assert!(ok && text.starts_with("deleted "), "{text}");
    assert_eq!(sums(&server, end), Vec::<Value>::new());
}
