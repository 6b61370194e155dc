//! The configuration file: what the program does with a good one, a bad one, and one that changes.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[expect(dead_code, reason = "the tests of the API use all of it")]
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use icecore_server::{Config, config_file};
use support::{Running, WriteRequest};

const TWO_CLASSES: &str = r#"
retention:
  metrics:
    - match: '{env="prod"}'
      tiers: { raw: 90d }
    - tiers: { raw: 15d }
"#;

const BAD: &str = "retention:\n  metrics:\n    - tiers: { raw: 30d, 5m: 10d }\n";

fn icecore(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_icecore")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write_file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_bad_file_is_refused_with_its_line_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let bad = write_file(folder.path(), "bad.yml", BAD);
    let good = write_file(folder.path(), "good.yml", TWO_CLASSES);
    let data = folder.path().join("data").display().to_string();
    let says = format!("{bad}:3: tier 5m 10d ends before the finer tier raw 30d");
    let checked = icecore(&["check", "config", &bad]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked.stderr).contains(&says), "{}", text(&checked.stderr));
    assert!(icecore(&["check", "config", &good]).status.success());
    let file = format!("--config.file={bad}");
    let path = format!("--storage.path={data}");
    let started = icecore(&["serve", &file, &path]);
    assert_eq!(started.status.code(), Some(1));
    assert!(text(&started.stderr).contains(&says), "{}", text(&started.stderr));
    let both = icecore(&[&format!("--config.file={good}"), &path, "--storage.retention=3d"]);
    assert!(text(&both.stderr).contains("leave one out"), "{}", text(&both.stderr));
    let missing = icecore(&["--config.file=/nowhere.yml", &path]);
    assert!(text(&missing.stderr).contains("/nowhere.yml: No such file"));
    assert!(!Path::new(&data).exists(), "nothing was opened");
}

/// A server with this configuration.
fn start(folder: &Path, file: &str) -> Running {
    let mut config = Config::new(folder.join("data"));
    config.config_file = Some(file.into());
    let loaded = config_file::load(Some(file.as_ref()), None).unwrap();
    config.storage.policies = loaded.policies;
    config.storage.series_limits = loaded.series_limits;
    Running::start_with(config).unwrap()
}

fn metric(running: &Running, name: &str) -> String {
    let answer = running.get("/metrics");
    let line = answer.text().lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn a_reload_takes_a_good_file_and_keeps_what_it_had_for_a_bad_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_file(folder.path(), "icecore.yml", TWO_CLASSES);
    let running = start(folder.path(), &file);
    let retention = |running: &Running| {
        let info = running.get("/api/v1/status/runtimeinfo").json();
        info["data"]["storageRetention"].as_str().unwrap().to_owned()
    };
    assert_eq!(retention(&running), "15d");
    write_file(folder.path(), "icecore.yml", &TWO_CLASSES.replace("15d", "16d"));
    let reloaded = running.send("POST", "/-/reload", &[], b"");
    assert_eq!((reloaded.status, reloaded.text()), (200, ""));
    assert_eq!(retention(&running), "16d");
    assert_eq!(metric(&running, "icecore_config_last_reload_successful"), "1");
    write_file(folder.path(), "icecore.yml", BAD);
    let refused = running.send("POST", "/-/reload", &[], b"");
    assert_eq!(refused.status, 500);
    assert!(refused.text().contains("icecore.yml:3: tier 5m 10d"), "{}", refused.text());
    assert_eq!(retention(&running), "16d");
    assert_eq!(metric(&running, "icecore_config_last_reload_successful"), "0");
    let from_page = running.send("POST", "/-/reload", &[("Origin", "http://x")], b"");
    assert_eq!(from_page.status, 403);
    assert_eq!(running.get("/-/reload").status, 405);
}

#[test]
fn new_series_are_refused_beyond_a_limit_and_a_reload_moves_it() {
    let limits = |max: u64| {
        format!(
            "cardinality:\n  limits:\n    - match: '{{job=\"a\"}}'\n      active_series: {max}\n"
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let file = write_file(folder.path(), "icecore.yml", &limits(2));
    let running = start(folder.path(), &file);
    let write = |numbers: std::ops::Range<u32>| {
        let at = now_ms();
        let mut request = WriteRequest::default();
        for number in numbers {
            let number = number.to_string();
            let labels = [("__name__", "m"), ("job", "a"), ("number", number.as_str())];
            request = request.series(&labels, &[(at, 1.0), (at + 1, 2.0)]);
        }
        let body = request.series(&[("__name__", "m"), ("job", "b")], &[(at, 1.0)]).snappy();
        let headers = [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];
        running.send("POST", "/api/v1/write", &headers, &body)
    };
    assert_eq!(write(0..2).status, 204);
    let refused = write(0..4);
    assert_eq!(refused.status, 400);
    let says = "4 rows refused, 5 samples stored\n\
                m{job=\"a\", number=\"2\"}: the limit of 2 active series of {job=\"a\"} is reached (2 rows)\n";
    assert!(refused.text().starts_with(says), "{}", refused.text());
    let of_limit = r#"{limit="{job=\"a\"}",kind="active"}"#;
    let metric = |name: &str| metric(&running, &format!("{name}{of_limit}"));
    assert_eq!(metric("icecore_series_limit"), "2");
    assert_eq!(metric("icecore_series_limit_used"), "2");
    assert_eq!(metric("icecore_series_limit_refused_rows_total"), "4");
    write_file(folder.path(), "icecore.yml", &limits(3));
    assert_eq!(running.send("POST", "/-/reload", &[], b"").status, 200);
    assert_eq!(write(0..3).status, 204);
    assert_eq!(
        (metric("icecore_series_limit"), metric("icecore_series_limit_used")),
        ("3".into(), "3".into())
    );
    write_file(folder.path(), "icecore.yml", &limits(0));
    let bad = running.send("POST", "/-/reload", &[], b"");
    assert!(bad.status == 500 && bad.text().contains("icecore.yml:4: 0 would"), "{}", bad.text());
    assert_eq!(write(0..4).status, 400, "the limit stays as it was");
}

#[expect(clippy::disallowed_methods, reason = "samples must be young enough to be accepted")]
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[test]
fn a_plan_says_what_would_go_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_file(folder.path(), "icecore.yml", TWO_CLASSES);
    let running = start(folder.path(), &file);
    let url = format!("--url=http://{}", running.address);
    let config = format!("--config.file={file}");
    let asked = icecore(&["retention", "plan", &config, &url]);
    assert!(asked.status.success(), "{}", text(&asked.stderr));
    assert!(text(&asked.stdout).contains("of 0 bytes, 0 would go now"));
    let present = running.get("/api/v1/status/retention").json();
    assert_eq!(present["data"]["held"], false);
    let bad = running.send("POST", "/api/v1/status/retention/plan", &[], BAD.as_bytes());
    assert_eq!(bad.status, 400);
    assert!(bad.text().contains("line 3: tier 5m 10d"), "{}", bad.text());
    let confirmed = running.send("POST", "/api/v1/admin/retention/confirm", &[], b"").json();
    assert_eq!(confirmed["data"]["blocks"], 0);
    let path = format!("--storage.path={}", folder.path().join("data").display());
    let locked = icecore(&["retention", "plan", &path]);
    assert!(text(&locked.stderr).contains("use --url"), "{}", text(&locked.stderr));
    running.stop().unwrap();
    let offline = icecore(&["retention", "plan", &path]);
    assert!(offline.status.success(), "{}", text(&offline.stderr));
}

#[test]
fn sighup_reloads() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_file(folder.path(), "icecore.yml", TWO_CLASSES);
    let mut process = Command::new(env!("CARGO_BIN_EXE_icecore"))
        .args(["--web.listen-address=127.0.0.1:0", &format!("--config.file={file}")])
        .arg(format!("--storage.path={}", folder.path().join("data").display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    write_file(folder.path(), "icecore.yml", BAD);
    let id = process.id().to_string();
    let kill = |signal: &str| {
        Command::new("kill").args([signal, &id]).status().unwrap();
    };
    kill("-HUP");
    let stderr = BufReader::new(process.stderr.take().unwrap());
    let mut lines = stderr.lines().map_while(Result::ok);
    let refusal = lines.find(|line| line.contains("the configuration stays as it was"));
    kill("-TERM");
    assert!(refusal.is_some_and(|line| line.contains("icecore.yml:3:")));
    lines.for_each(drop);
    assert!(process.wait().unwrap().success());
}
