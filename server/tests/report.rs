//! The capacity report: of a server and of a directory at rest, in all its forms; and what would be.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[expect(dead_code, unused_imports, reason = "other tests use all of it")]
mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use icecore_server::{Config, config_file};
use serde_json::Value;
use support::Running;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

const CONFIGURATION: &str = r#"
retention:
  metrics:
    - match: '{env="prod"}'
      tiers: { raw: 90d }
    - tiers: { raw: 60d }
  disk_budget: 1GiB
"#;

fn icecore(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_icecore")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[expect(clippy::disallowed_methods, reason = "samples must be young enough to be kept")]
fn midnight_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as i64 / DAY_MS * DAY_MS
}

/// Imports so many days before today, of four series with a sample every two minutes.
fn import(folder: &Path, days: i64) {
    let end = midnight_ms();
    let mut lines = String::new();
    for (name, env) in [("a", "prod"), ("a", "test"), ("b", "prod"), ("b", "test")] {
        let times: Vec<i64> = (end - days * DAY_MS..end).step_by(120_000).collect();
        // Something irregular, so that samples are what takes room.
        let value = |at: &i64| (at / 1000 * 2_654_435_761 % 1_000_003) as f64 / 7.0;
        let values: Vec<f64> = times.iter().map(value).collect();
        let labels = format!(r#"{{"__name__":"{name}","env":"{env}"}}"#);
        let (values, times) = (format!("{values:?}"), format!("{times:?}"));
        writeln!(lines, r#"{{"metric":{labels},"values":{values},"timestamps":{times}}}"#).unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_icecore"))
        .args(["import", "jsonl", "-", "--storage.retention=60d", "--storage.path"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn report_at_rest(folder: &Path) -> Value {
    let path = format!("--storage.path={}", folder.display());
    let said = icecore(&["report", &path, "--format=json"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

/// Lengths of the files in these folders of a data directory.
fn lengths(folder: &Path, folders: &[&str]) -> u64 {
    let files = folders.iter().flat_map(|name| {
        std::fs::read_dir(folder.join(name)).into_iter().flatten().map(Result::unwrap)
    });
    files.map(|file| file.metadata().unwrap().len()).sum()
}

fn start(folder: &Path) -> Running {
    let mut config = Config::new(folder);
    config.storage.policies =
        config_file::parse(CONFIGURATION).unwrap().retention.unwrap().policies;
    Running::start_with(config).unwrap()
}

fn sum(list: &Value, of: &str) -> u64 {
    list.as_array().unwrap().iter().map(|one| one[of].as_u64().unwrap()).sum()
}

#[test]
fn every_byte_of_a_directory_is_told_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    import(&data, 6);
    let before = lengths(&data, &["", "blocks", "wal", "checkpoints"]);
    let report = report_at_rest(&data);
    assert_eq!(lengths(&data, &["", "blocks", "wal", "checkpoints"]), before);
    assert_eq!(report["total_bytes"], lengths(&data, &["blocks", "wal", "checkpoints"]));
    assert_eq!(sum(&report["days"], "stored_bytes"), lengths(&data, &["blocks"]));
    assert_eq!(sum(&report["days"], "rows"), 4 * 6 * 720);
    assert_eq!(sum(&report["days"], "raw_bytes"), 4 * 6 * 720 * 16);
    let days = report["days"].as_array().unwrap();
    assert!(days.iter().all(|day| day["data_type"] == "metrics" && day["series"] == 4));
    // The first of six days may not have been whole, and is left out; today has nothing.
    assert_eq!(report["growth"]["days"], 4);
    let mut names: Vec<&str> = report["top"]["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|metric| metric["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    let running = start(&data);
    let live = running.get("/api/v1/status/retention").json();
    let live = &live["data"];
    assert_eq!(live["disk_budget_bytes"], 1 << 30);
    assert_eq!(live["held"], false);
    assert!(
        live["eviction_order"]
            .as_str()
            .unwrap()
            .starts_with("raw samples of metrics, oldest first")
    );
    let on_disk = lengths(&data, &["blocks", "wal", "checkpoints"]);
    let total = live["total_bytes"].as_u64().unwrap();
    // The server writes meanwhile.
    assert!(total.abs_diff(on_disk) < 200_000, "{total} of {on_disk}");
    // A command that asks the server says the same as one that reads its directory beside it.
    let url = format!("--url=http://{}", running.address);
    let asked = icecore(&["report", &url]);
    assert!(asked.status.success(), "{}", text(&asked.stderr));
    for says in
        ["By class and tier", "raw 90d", "growth", "evicted first: raw samples", "settles at"]
    {
        let said = text(&asked.stdout);
        assert!(said.to_lowercase().contains(&says.to_lowercase()), "{says} is not in\n{said}");
    }
    report_at_rest(&data);
}

#[test]
fn of_too_little_data_nothing_is_foretold() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    start(&empty).stop().unwrap();
    let report = report_at_rest(&empty);
    assert_eq!((&report["newest"], &report["growth"]), (&Value::Null, &Value::Null));
    assert_eq!(report["notes"][0], "nothing is stored yet");
    let one = folder.path().join("one");
    import(&one, 1);
    let report = report_at_rest(&one);
    assert_eq!((&report["growth"], &report["forecast"]), (&Value::Null, &Value::Null));
    let note = report["notes"][0].as_str().unwrap();
    assert!(note.starts_with("growth is not known: of 0 complete days"), "{note}");
    for data in [&empty, &one] {
        let path = format!("--storage.path={}", data.display());
        for format in ["table", "csv", "html"] {
            let said = icecore(&["report", &path, &format!("--format={format}")]);
            assert!(said.status.success() && !said.stdout.is_empty(), "{format}");
        }
    }
}

#[test]
fn what_cannot_be_reported_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("notes.txt"), "mine").unwrap();
    let other = format!("--storage.path={}", other.display());
    for (args, code, says) in [
        (&["report", other.as_str()][..], 1, "there is no manifest, so this is no database"),
        (&["report", "--storage.path=/nowhere/at/all"], 1, "there is no such folder"),
        (&["report", "--url=http://127.0.0.1:1"], 1, "cannot connect"),
        (&["report", &other, "--format=pdf"], 2, "table, json, csv, html"),
        (&["report"], 2, "--storage.path"),
    ] {
        let said = icecore(args);
        assert_eq!(said.status.code(), Some(code), "{args:?}: {}", text(&said.stderr));
        assert!(text(&said.stderr).contains(says), "{args:?}: {}", text(&said.stderr));
        assert!(said.stdout.is_empty());
    }
    assert_eq!(std::fs::read_dir(folder.path().join("other")).unwrap().count(), 1, "not touched");
    let running = start(&folder.path().join("data"));
    let refused = running.get("/api/v1/status/retention?format=pdf");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("want json, csv, html or table"), "{}", refused.text());
}

#[test]
fn all_forms_are_served_and_a_page_needs_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), 6);
    let running = start(folder.path());
    let get = |format: &str| running.get(&format!("/api/v1/status/retention?format={format}"));
    let csv = get("csv");
    assert!(csv.header("content-type").unwrap().starts_with("text/csv"));
    let lines: Vec<&str> = csv.text().split("\r\n").collect();
    assert!(lines[0].starts_with("data_type,class,policies,tier,day,series,"), "{}", lines[0]);
    assert!(lines.len() > 6 && lines.last() == Some(&""));
    let html = get("html");
    assert!(html.header("content-type").unwrap().starts_with("text/html"));
    let page = html.text();
    assert!(page.contains("<svg") && page.contains("Icecore capacity report"));
    for other in ["<script", "http:", "https:", "url(", "@import", "<link", "<img", " src="] {
        assert!(!page.contains(other), "{other}");
    }
    assert!(get("table").text().contains("By class and tier"));
}

#[test]
fn what_if_says_what_would_be_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), 8);
    let running = start(folder.path());
    // Both classes have blocks of their own first.
    let settled = |answer: &support::Answer| answer.json()["data"]["pendingBytes"] == 0;
    running.get_until("/api/v1/status/retention", settled);
    let what_if = "/api/v1/status/retention/whatif";
    let before = running.get("/api/v1/status/retention").json();
    let shorter = CONFIGURATION.replace("60d", "3d").replace("90d", "3d");
    let asked = running.send("POST", what_if, &[], shorter.as_bytes());
    assert_eq!(asked.status, 200, "{}", asked.text());
    let asked = asked.json();
    let said = &asked["data"];
    let number = |of: &Value| of.as_u64().unwrap();
    // Of eight days three are kept, of which the last two are in many small blocks.
    let (freed, kept) = (number(&said["freed_bytes"]), number(&said["kept_bytes"]));
    assert!(freed * 4 > kept && kept > 0, "{said}");
    assert_eq!(number(&said["freed_whole_bytes"]), freed, "{said}");
    let settles = |of: &Value| number(&of["settles_at_bytes"]);
    assert!(settles(&said["proposed"]) * 5 < settles(&said["present"]), "{said}");
    // The same as a form, as a parameter, and as JSON.
    let form: String = form_urlencoded(&shorter);
    let json = r#"{"retention":{"metrics":[{"match":"{env=\"prod\"}","tiers":{"raw":"3d"}},{"tiers":{"raw":"3d"}}],"disk_budget":"1GiB"}}"#;
    for answer in [
        running.post_form(what_if, &format!("retention={form}")),
        running.get(&format!("{what_if}?retention={form}")),
        running.send("POST", what_if, &[("Content-Type", "application/json")], json.as_bytes()),
        // curl -d says that it is a form.
        running.post_form(what_if, &shorter),
    ] {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["data"]["freed_bytes"], said["freed_bytes"]);
    }
    let budget = running.get(&format!("{what_if}?budget=100MiB")).json();
    let limit = &budget["data"]["proposed"]["budget"]["limit_bytes"];
    assert_eq!(*limit, (100 << 20) / 10 * 9);
    let after = running.get("/api/v1/status/retention").json();
    let oldest = |of: &Value| [0, 1].map(|row| of["data"]["rows"][row]["oldest"].clone());
    assert_eq!(oldest(&before), oldest(&after), "nothing has gone");
    for (path, body, says) in [
        ("", "", "what if what?"),
        ("", "retention:\n  metrics:\n    - tiers: { raw: 30d, 5m: 10d }\n", "line 3: tier 5m 10d"),
        ("", "{}", "no section `retention`"),
        ("?budget=2TB", CONFIGURATION, "another disk_budget"),
        ("?budget=plenty", "", "want a number of bytes"),
        ("?budget=5MB", "", "less than 100MiB"),
        ("?retention=retention%3A%20%7B%7D", CONFIGURATION, "another in the parameter"),
        ("", "retention: [", "line 1"),
    ] {
        let refused = running.send("POST", &format!("{what_if}{path}"), &[], body.as_bytes());
        assert_eq!(refused.status, 400, "{path} {body}");
        assert!(refused.text().contains(says), "{says} is not in {}", refused.text());
    }
    let from_page = running.send("GET", what_if, &[("Origin", "http://x")], b"");
    assert_eq!(from_page.status, 403);
}

/// As a form has it.
fn form_urlencoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        write!(encoded, "%{byte:02X}").unwrap();
        encoded
    })
}
