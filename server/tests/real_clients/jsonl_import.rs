//! Lines of JSON as VictoriaMetrics exports them, read from a file and from standard input; and a
//! data directory that a server is using.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::icecore::{Icecore, now_ms};

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

fn import(file: &Path, into: &Path, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_icecore"))
        .args(["import", "jsonl"])
        .arg(file)
        .arg("--storage.path")
        .arg(into)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn an_export_is_imported_once_and_answers_to_the_last_digit() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let now = now_ms();
    // Late lines first; a series in two lines; values that JSON has no numbers for.
    let at = |days: i64, minutes: i64| now - days * DAY + minutes * MINUTE;
    let lines = format!(
        "{}\n{}\n{}\n",
        format_args!(
            r#"{{"metric":{{"__name__":"imported","job":"a \"b\""}},"values":[0.1,"Infinity",null],"timestamps":[{},{},{}]}}"#,
            at(3, 0),
            at(3, 1),
            at(3, 2)
        ),
        format_args!(
            r#"{{"metric":{{"__name__":"imported","job":"a \"b\""}},"values":[123456789.12345679],"timestamps":[{}]}}"#,
            at(9, 0)
        ),
        format_args!(
            r#"{{"metric":{{"__name__":"imported","job":"old"}},"values":[1,2,3],"timestamps":[{},{},{}]}}"#,
            at(100, 0),
            at(5, 0),
            at(-1, 0)
        ),
    );
    let output = import(Path::new("-"), &data, &lines);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for line in ["samples    5", "series     2", "1: older than", "1: more than 10 minutes"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let file = folder.path().join("export.jsonl");
    fs::write(&file, &lines).unwrap();
    let again = said(&import(&file, &data, ""));
    assert!(again.contains("samples    0") && again.contains("bytes      0"), "{again}");

    let icecore = Icecore::start(&data);
    let in_use = import(&file, &data, "");
    assert!(!in_use.status.success());
    assert!(said(&in_use).contains("in use by another process"), "{}", said(&in_use));
    let values = |query: &str| -> Vec<String> {
        let result = icecore.query(query, now);
        let points = result[0]["values"].as_array().unwrap();
        points.iter().map(|point| point[1].as_str().unwrap().to_owned()).collect()
    };
    // A range query shows no stale markers.
    assert_eq!(values(r#"imported{job="a \"b\""}[10d]"#), ["123456789.12345679", "0.1", "+Inf"]);
    assert_eq!(values(r#"imported{job="old"}[10d]"#), ["2"]);
    icecore.terminate();
    let names: Vec<_> = fs::read_dir(&data).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with("tmp-")), "{names:?}");
}

#[test]
fn a_broken_line_is_named_and_nothing_is_imported() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let good = format!(
        r#"{{"metric":{{"__name__":"imported"}},"values":[1],"timestamps":[{}]}}"#,
        now_ms()
    );
    let output = import(Path::new("-"), &data, &format!("{good}\n{}", &good[..30]));
    let text = said(&output);
    assert!(!output.status.success() && text.contains("line 2"), "{text}");
    let icecore = Icecore::start(&data);
    assert!(icecore.query("imported", now_ms()).as_array().unwrap().is_empty());
    icecore.terminate();
}
