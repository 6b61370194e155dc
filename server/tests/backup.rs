//! Backup, restore, verify and inspect as a user runs them: the binary, beside a server that takes
//! writes.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

#[expect(dead_code, reason = "the tests of the API use all of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use icecore_server::Config;
use support::{Running, WriteRequest};
use tempfile::TempDir;

const REMOTE_WRITE: [(&str, &str); 2] =
    [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];

const SERIES: usize = 40;

/// More windows than may be open at once, so that the first are sealed without a wait.
const HOURS: i64 = 24;

#[expect(clippy::disallowed_methods, reason = "samples must be young enough to be accepted")]
fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn start(folder: &Path) -> Running {
    let mut config = Config::new(folder);
    config.enable_admin_api = true;
    config.scrub_bytes_per_second = 1 << 40;
    config.flags = vec![("storage.path", folder.display().to_string())];
    Running::start_with(config).unwrap()
}

fn icecore(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_icecore")).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(all).unwrap()
}

fn succeed(args: &[&str]) -> String {
    let output = icecore(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

fn fail(args: &[&str]) -> String {
    let output = icecore(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output));
    text(&output)
}

/// One request: a sample of each series, all of one value.
fn write(server: &Running, second: i64, value: i64) {
    let mut request = WriteRequest::default();
    for series in 0..SERIES {
        let series = series.to_string();
        let labels = [("__name__", "requests"), ("series", series.as_str())];
        request = request.series(&labels, &[(second * 1000, value as f64)]);
    }
    let answer = server.send("POST", "/api/v1/write", &REMOTE_WRITE, &request.snappy());
    assert_eq!((answer.status, answer.text()), (204, ""));
}

fn gauge(metrics: &support::Answer, name: &str) -> f64 {
    let mut values = metrics.text().lines().filter_map(|line| line.strip_prefix(name));
    values.find_map(|value| value.trim().parse().ok()).unwrap()
}

/// Waits until blocks are neither sealed nor merged any more.
fn settle(server: &Running) {
    let mut before = (0.0, 0);
    while before.1 < 4 {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let bytes = gauge(&server.get("/metrics"), "icecore_block_bytes");
        before = if bytes == before.0 { (bytes, before.1 + 1) } else { (bytes, 0) };
    }
}

/// Hours of samples, old enough to be sealed, and some young ones.
fn fill(server: &Running) -> i64 {
    let now = now_seconds();
    for at in (now - HOURS * 3600..now - 600).step_by(300) {
        write(server, at, at);
    }
    // Half of it, at least; merges make few blocks of them.
    let are_sealed = |answer: &support::Answer| gauge(answer, "icecore_block_samples") > 4000.0;
    assert!(are_sealed(&server.get_until("/metrics", are_sealed)), "there are blocks");
    now
}

fn ask(server: &Running, query: &str, from: i64, to: i64) -> serde_json::Value {
    let path =
        format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=300&nocache=1");
    server.get(&path).data()
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn url(server: &Running) -> String {
    format!("--url=http://{}", server.address)
}

struct Folders {
    _root: TempDir,
    data: PathBuf,
    backup: PathBuf,
    restored: PathBuf,
}

fn folders() -> Folders {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    Folders { data: at("data"), backup: at("backup"), restored: at("restored"), _root: root }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn restore(folders: &Folders) -> [String; 3] {
    let path = format!("--storage.path={}", arg(&folders.restored));
    ["restore".into(), arg(&folders.backup).into(), path]
}

#[test]
fn a_backup_of_a_running_server_restores_to_the_same_answers() {
    let folders = folders();
    let server = Arc::new(start(&folders.data));
    let now = fill(&server);
    let acknowledged = Arc::new(AtomicI64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (server, acknowledged, stop) = (server.clone(), acknowledged.clone(), stop.clone());
        move || {
            let mut at = now - 590;
            while !stop.load(Ordering::Relaxed) {
                write(&server, at, at);
                acknowledged.store(at, Ordering::SeqCst);
                at += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    });
    while acknowledged.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let before = acknowledged.load(Ordering::SeqCst);
    let said = succeed(&["backup", &url(&server), arg(&folders.backup)]);
    assert!(said.contains("files"), "{said}");
    let said = succeed(&["backup", &url(&server), arg(&folders.backup)]);
    assert!(said.contains("old ones removed"), "{said}");
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(files(&folders.data.join("snapshots")), Vec::<PathBuf>::new());

    let said = succeed(&["verify", arg(&folders.backup)]);
    assert!(said.contains("is whole"), "{said}");
    succeed(&restore(&folders).each_ref().map(String::as_str));
    let restored = start(&folders.restored);
    for query in ["sum(requests)", "count(requests)", "sum%20by%20(series)%20(requests)"] {
        let (from, to) = (now - HOURS * 3600, before);
        assert_eq!(ask(&server, query, from, to), ask(&restored, query, from, to), "{query}");
    }
    // Of what came meanwhile, whole requests only.
    let query = "count_over_time(requests%5B1h%5D)";
    let counts = restored.get(&format!("/api/v1/query?query={query}&time={}", now + 2400)).data();
    let counts = counts["result"].as_array().unwrap();
    assert_eq!(counts.len(), SERIES);
    assert!(counts.iter().all(|one| one["value"][1] == counts[0]["value"][1]), "{counts:?}");
    let metrics = restored.get("/metrics");
    for healthy in ["icecore_quarantined_files 0", "icecore_wal_lost_records 0"] {
        assert!(metrics.text().contains(healthy));
    }
}

#[test]
fn a_stopped_data_directory_is_backed_up_verified_and_inspected() {
    let folders = folders();
    let server = start(&folders.data);
    let now = fill(&server);
    let path = format!("--storage.path={}", arg(&folders.data));
    for command in [&["verify", &path][..], &["backup", &path, arg(&folders.backup)]] {
        assert!(fail(command).contains("in use by a running server"));
    }
    // Beside a running server.
    for what in [&["manifest"][..], &["wal"]] {
        let inspect = [&["inspect"], what, &[&path, "--format=json"]].concat();
        serde_json::from_str::<serde_json::Value>(&succeed(&inspect)).unwrap();
        succeed(&[&["inspect"], what, &[&path]].concat());
    }
    let expected = ask(&server, "sum(requests)", now - HOURS * 3600, now);
    server.stop().unwrap();

    let said = succeed(&["verify", &path]);
    assert!(said.contains("is whole") && said.contains("samples"), "{said}");
    let manifest = succeed(&["inspect", "manifest", &path, "--format=json"]);
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let block = &manifest["blocks"][0];
    let id = block["id"].as_str().unwrap();
    let facts = succeed(&["inspect", "block", id, &path, "--format=json"]);
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    assert_eq!(facts["meta"], *block);
    assert_eq!(facts["sections"].as_array().unwrap().len(), 10);
    let sum = |rows: &serde_json::Value, field: &str| -> u64 {
        rows.as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).sum()
    };
    assert_eq!(sum(&facts["top_metrics"], "samples"), block["samples"].as_u64().unwrap());
    assert!(sum(&facts["sections"], "bytes") < block["bytes"].as_u64().unwrap());
    let file = folders.data.join("blocks").join(format!("block-{id}"));
    let shown = succeed(&["inspect", "block", arg(&file)]);
    assert!(shown.contains("page directory") && shown.contains("requests"), "{shown}");

    succeed(&["backup", &path, arg(&folders.backup)]);
    succeed(&restore(&folders).each_ref().map(String::as_str));
    let restored = start(&folders.restored);
    assert_eq!(ask(&restored, "sum(requests)", now - HOURS * 3600, now), expected);
}

#[test]
fn what_is_damaged_or_hostile_is_refused_and_nothing_is_changed() {
    let folders = folders();
    let server = start(&folders.data);
    fill(&server);
    succeed(&["backup", &url(&server), arg(&folders.backup)]);
    let restore = restore(&folders);
    let restore = restore.each_ref().map(String::as_str);
    let refused = |says: &str| {
        let said = fail(&restore);
        assert!(said.contains(says), "{says:?} is not in {said}");
        assert!(!folders.restored.exists(), "nothing was made");
    };
    for path in files(&folders.backup) {
        if path.ends_with("backup.lock") {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        let at = damaged.len() / 2;
        damaged[at] ^= 8;
        fs::write(&path, &damaged).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        refused(name);
        let said = fail(&["verify", arg(&folders.backup)]);
        assert!(said.contains(name), "{said}");
        fs::remove_file(&path).unwrap();
        refused(name);
        // The right bytes, but elsewhere.
        let elsewhere = folders.backup.join("elsewhere");
        fs::write(&elsewhere, &whole).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        refused("symbolic link");
        fs::remove_file(&path).unwrap();
        fs::remove_file(&elsewhere).unwrap();
        fs::write(&path, &whole).unwrap();
    }
    let list = folders.backup.join("backup.list");
    let whole = fs::read_to_string(&list).unwrap();
    let hostile = whole.replacen("blocks/", "../../", 1);
    fs::write(&list, hostile).unwrap();
    refused("backup.list");
    fs::write(&list, whole.replacen("icecore-backup 1", "icecore-backup 2", 1)).unwrap();
    refused("version 2");
    fs::write(&list, whole).unwrap();

    fs::create_dir(&folders.restored).unwrap();
    let precious = folders.restored.join("precious");
    fs::write(&precious, "x").unwrap();
    assert!(fail(&restore).contains("not empty"));
    assert_eq!(files(&folders.restored), std::slice::from_ref(&precious));
    fs::remove_file(precious).unwrap();
    succeed(&restore);

    // A folder that is no backup is not written to.
    let said = fail(&["backup", &url(&server), arg(&folders.restored)]);
    assert!(said.contains("neither empty nor a backup"), "{said}");
    let nowhere = folders.data.join("nowhere");
    assert!(fail(&["verify", arg(&nowhere)]).contains("nowhere"));
    assert!(!nowhere.exists());
}

#[test]
fn snapshots_are_made_only_where_they_are_allowed() {
    let folders = folders();
    let closed = Running::start(&folders.restored);
    let answer = closed.send("POST", "/api/v1/admin/tsdb/snapshot", &[], b"");
    let disabled = r#"{"status":"error","errorType":"unavailable","error":"admin APIs disabled"}"#;
    assert_eq!((answer.status, answer.text()), (503, disabled));
    let said = fail(&["backup", &url(&closed), arg(&folders.backup)]);
    assert!(said.contains("storage.path"), "it names no flags: {said}");
    assert!(!folders.backup.exists());

    let server = start(&folders.data);
    let path = "/api/v1/admin/tsdb/snapshot";
    assert_eq!(server.get(path).status, 405);
    assert_eq!(server.send("POST", path, &[("Origin", "http://evil.example")], b"").status, 403);
    let answer = server.post_form(path, "skip_head=maybe");
    let text = "invalid parameter \"skip_head\": unable to parse boolean skip_head argument";
    assert_eq!((answer.status, answer.json()["error"].as_str().unwrap()), (400, text));
    for method in ["POST", "PUT"] {
        let data = server.send(method, path, &[], b"").data();
        let name = data["name"].as_str().unwrap();
        assert_eq!((name.len(), &name[8..9], &name[15..17]), (33, "T", "Z-"));
        assert!(folders.data.join("snapshots").join(name).is_dir());
        let one = format!("{path}/{name}");
        assert_eq!(server.send("DELETE", &one, &[], b"").status, 200);
        assert_eq!(server.send("DELETE", &one, &[], b"").status, 404);
    }
    for name in ["..", "%2e%2e%2fblocks", "tmp%2fx", "%00"] {
        let answer = server.send("DELETE", &format!("{path}/{name}"), &[], b"");
        assert!([400, 404].contains(&answer.status), "{name}: {}", answer.text());
    }
    assert!(folders.data.join("blocks").is_dir());
}

#[test]
fn the_scrub_finds_damage_and_says_so() {
    let folders = folders();
    let server = start(&folders.data);
    fill(&server);
    server.stop().unwrap();
    // A start seals what nobody has written into lately. A merge that came first would find it too.
    let server = start(&folders.data);
    settle(&server);
    server.stop().unwrap();
    let block = files(&folders.data.join("blocks")).remove(0);
    let mut bytes = fs::read(&block).unwrap();
    bytes[100] ^= 1;
    fs::write(&block, bytes).unwrap();
    let path = format!("--storage.path={}", arg(&folders.data));
    let said = fail(&["verify", &path]);
    assert!(said.contains(arg(&block)) && said.contains("byte 32"), "{said}");

    let server = start(&folders.data);
    let found = |answer: &support::Answer| answer.data()["damagedBlocks"] == 1;
    let status = server.get_until("/api/v1/status/scrub", found);
    assert!(found(&status), "{}", status.text());
    let name = block.file_name().unwrap().to_str().unwrap();
    assert!(status.data()["lastDamage"].as_str().unwrap().contains(name));
    server.get_until("/metrics", |answer| {
        answer.text().contains("icecore_scrub_damaged_blocks_total 1")
            && answer.text().contains("icecore_quarantined_files 1")
    });
    assert!(folders.data.join("quarantine").join(name).is_file());
    assert!(!server.get("/api/v1/query?query=count(requests)").data()["result"].is_null());
}
