//! The configuration file: what the program does with a good one, a bad one, and one that changes.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[expect(dead_code, unused_imports, reason = "the tests of the API use all of it")]
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use icecore_server::{Config, config_file};
use support::Running;

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
    config.storage.policies = config_file::load(Some(file.as_ref()), None).unwrap().policies;
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
