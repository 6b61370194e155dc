//! The capacity report as programs of others read it: Python's readers of CSV, JSON and HTML, and of
//! XML for the charts.

use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::icecore::{Icecore, now_ms};
use crate::process::are_installed;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Reads the three forms and compares them; says what it found.
const READ: &str = r#"
import csv, html.parser, json, re, sys
import xml.etree.ElementTree as xml
folder = sys.argv[1]
report = json.load(open(folder + "/report.json"))
with open(folder + "/report.csv", newline="") as file:
    rows = list(csv.DictReader(file, strict=True))
assert len(rows) == len(report["days"]) > 5
for row, day in zip(rows, report["days"]):
    assert None not in row and None not in row.values(), row
    for name in ("series", "rows", "raw_bytes", "stored_bytes"):
        assert int(row[name]) == day[name], (row, day)
    for name in ("data_type", "class", "tier", "day", "why", "drop_at"):
        assert row[name] == day[name], (row, day)
    assert row["policies"] == " or ".join(day["policies"])
assert sum(int(row["stored_bytes"]) for row in rows) == report["files"]["block_bytes"]
class Page(html.parser.HTMLParser):
    optional = {"td", "th", "tr"}
    void = {"meta"}
    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], 0, ""
    def handle_starttag(self, tag, attributes):
        self.elements += 1
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attributes)
        assert tag not in ("script", "link", "img", "iframe")
        if tag not in self.optional | self.void:
            self.open.append(tag)
    def handle_startendtag(self, tag, attributes):
        self.elements += 1
    def handle_endtag(self, tag):
        if tag not in self.optional:
            assert self.open.pop() == tag, (tag, self.open)
    def handle_data(self, data):
        self.text += data
page = open(folder + "/report.html").read()
parser = Page()
parser.feed(page)
parser.close()
assert parser.open == [] and parser.elements > 100, parser.open
assert 'b<script>&"x' in parser.text, "names are text and no markup"
charts = re.findall(r"<svg.*?</svg>", page, re.S)
bars = sum(len(xml.fromstring(chart).findall(".//rect")) for chart in charts)
assert len(charts) > 3 and bars > 6, (len(charts), bars)
print(len(rows), "days,", len(charts), "charts,", bars, "bars")
"#;

#[test]
fn the_forms_of_a_report_are_read_by_programs_of_others() {
    if !are_installed(&["python3"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let mut child = Command::new(env!("CARGO_BIN_EXE_icecore"))
        .args(["import", "jsonl", "-", "--storage.retention=60d", "--storage.path"])
        .arg(&data)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = now_ms() / DAY_MS * DAY_MS;
    let mut lines = child.stdin.take().unwrap();
    for day in 1..=8 {
        let times: Vec<i64> = (0..600).map(|i| end - day * DAY_MS + i * 120_000).collect();
        // A name that means harm to a page or a table.
        for name in [r#"b<script>&\"x"#, "a,b"] {
            let labels = format!(r#"{{"__name__":"{name}","env":"prod"}}"#);
            let line =
                format!(r#"{{"metric":{labels},"values":{times:?},"timestamps":{times:?}}}"#);
            writeln!(lines, "{line}").unwrap();
        }
    }
    drop(lines);
    assert!(child.wait().unwrap().success());
    let configuration = folder.path().join("icecore.yml");
    let policies =
        "retention:\n  metrics:\n    - match: '{env=\"prod\"}'\n      tiers: { raw: 30d }\n";
    std::fs::write(&configuration, policies).unwrap();
    let flag = format!("--config.file={}", configuration.display());
    let icecore = Icecore::start_with(&data, "127.0.0.1:0", &[&flag]);
    // It changes from moment to moment; of the directory at rest all forms say the same.
    let live = icecore.get("/api/v1/status/retention?format=html");
    assert!(live.text().starts_with("<!DOCTYPE html>"));
    icecore.terminate();
    for format in ["json", "csv", "html"] {
        let status = Command::new(env!("CARGO_BIN_EXE_icecore"))
            .arg("report")
            .arg(format!("--storage.path={}", data.display()))
            .arg(format!("--format={format}"))
            .arg(format!("--output={}/report.{format}", folder.path().display()))
            .status();
        assert!(status.unwrap().success());
    }
    let read = Command::new("python3").args(["-c", READ]).arg(folder.path()).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    println!("{}", String::from_utf8_lossy(&read.stdout).trim());
}
