//! Bodies and queries that mean harm: refused with a reason, in bounded memory and time, while
//! what is good among them is stored.

use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::client::Answer;
use crate::icecore::{Icecore, now_ms};
use crate::write_request::{WriteRequest, field, varint};

/// What a body may cost beside its own bytes.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// Generous: a machine that also builds is slow, and these answers take milliseconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
const BOMB_TIME_MAX: Duration = Duration::from_secs(20);

/// Bodies may unpack to 32 MiB; bombs stay just below.
const BOMB_BYTES: usize = 31 << 20;

struct Target {
    server: Icecore,
    _folder: TempDir,
    now_ms: i64,
    good: usize,
}

impl Target {
    fn start() -> Target {
        let folder = TempDir::new().unwrap();
        let server = Icecore::start(folder.path());
        Target { server, _folder: folder, now_ms: now_ms(), good: 0 }
    }

    /// Writes `bad` between two good series; the answer, if the good ones were stored.
    fn write_among_good(
        &mut self,
        encoding: &str,
        bad: impl FnOnce(WriteRequest) -> WriteRequest,
    ) -> Answer {
        self.good += 1;
        let number = self.good.to_string();
        let value = self.good as f64;
        let good = |request: WriteRequest, place: &str| {
            let labels = [("__name__", "good"), ("number", &*number), ("place", place)];
            request.series(&labels, &[(self.now_ms, value)])
        };
        let request = good(bad(good(WriteRequest::default(), "before")), "after");
        let body = if encoding == "zstd" { request.zstd() } else { request.snappy() };
        let answer = self.server.write(encoding, &body);
        let stored = self.server.query(&format!("good{{number=\"{number}\"}}"), self.now_ms);
        let stored = stored.as_array().unwrap();
        assert_eq!(stored.len(), 2, "the good part is stored: {}", answer.text());
        assert!(stored.iter().all(|series| series["value"][1] == number));
        answer
    }

    /// Writes a body that is bad as a whole; the text of the 400, got in bounded memory.
    fn refuse(&self, what: &str, encoding: &str, body: &[u8]) -> String {
        let answer = self.write_bounded(what, encoding, body);
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert!(!answer.text().trim().is_empty(), "{what}: it does not say why");
        answer.text().to_owned()
    }

    fn write_bounded(&self, what: &str, encoding: &str, body: &[u8]) -> Answer {
        self.server.forget_memory_peak();
        let before = self.server.memory_bytes("VmRSS");
        let started = Instant::now();
        let answer = self.server.write(encoding, body);
        let elapsed = started.elapsed();
        let rise = self.server.memory_bytes("VmHWM").saturating_sub(before);
        println!("{what}: {} bytes, {elapsed:?}, {} MiB", body.len(), rise >> 20);
        assert!(elapsed < BOMB_TIME_MAX, "{what} took {elapsed:?}");
        let bound = MEMORY_BYTES_MAX + body.len() as u64;
        assert!(rise <= bound, "{what} took {rise} bytes of memory, {bound} are allowed");
        answer
    }
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

/// Adds to a request what it should refuse.
type Bad<'a> = Box<dyn Fn(WriteRequest) -> WriteRequest + 'a>;

/// A series with one sample.
fn series<'a>(labels: &[(&'a [u8], &'a [u8])], time_ms: i64) -> Bad<'a> {
    let labels = labels.to_vec();
    Box::new(move |request| request.series(&labels, &[(time_ms, 1.0)]))
}

// ---- bodies ---------------------------------------------------------------------------------

#[test]
fn a_bad_series_is_named_and_the_rest_is_stored() {
    let mut target = Target::start();
    let now_ms = target.now_ms;
    let long = "n".repeat(1 << 20);
    let hour_ms = 60 * 60_000;
    let cases: Vec<(Bad<'_>, &[&str])> = vec![
        (
            series(&[(b"__name__", b"bad"), (b"a", b"1"), (b"a", b"2")], now_ms),
            &["bad{", "duplicate label name \"a\""],
        ),
        (series(&[(b"__name__", b"bad"), (b"a", b"x\xff\xfe")], now_ms), &["bad{", "UTF-8"]),
        (series(&[(b"__name__", b"b\xffd")], now_ms), &["b\u{fffd}d", "UTF-8"]),
        (series(&[(b"__name__", b"bad"), (b"\xc3\x28", b"x")], now_ms), &["bad{", "UTF-8"]),
        (series(&[(b"__name__", long.as_bytes())], now_ms), &["nnnn", "1048576 bytes"]),
        (series(&[(b"__name__", b"bad"), (long.as_bytes(), b"1")], now_ms), &["bad{", "1048576"]),
        (series(&[(b"__name__", b"bad"), (b"a", long.as_bytes())], now_ms), &["bad{", "1048576"]),
        (series(&[(b"__name__", b"bad"), (b"", b"x")], now_ms), &["bad{", "name is empty"]),
        (series(&[(b"job", b"bad")], now_ms), &["job=\"bad\"", "no metric name"]),
        (series(&[], now_ms), &["no labels"]),
        (series(&[(b"__name__", b"record:bad")], now_ms), &["record:bad", "reserved"]),
        (series(&[(b"__name__", b"bad")], now_ms + hour_ms), &["bad", "future"]),
        (series(&[(b"__name__", b"bad")], now_ms - 31 * 24 * hour_ms), &["bad", "old"]),
        (series(&[(b"__name__", b"bad")], i64::MAX), &["bad", "future"]),
        (series(&[(b"__name__", b"bad")], i64::MIN), &["bad", "old"]),
    ];
    for (bad, says) in &cases {
        let answer = target.write_among_good("snappy", bad);
        assert_eq!(answer.status, 400, "{says:?}: {}", answer.text());
        let text = answer.text();
        for part in *says {
            assert!(text.contains(part), "{part:?} is not in {text:.300}");
        }
        assert!(text.contains("1 rows refused, 2 samples stored"), "{text:.300}");
        assert!(text.len() < 2_000, "{} bytes of reason", text.len());
        // vmagent takes a 400 to zstd for "speaks no zstd".
        assert_eq!(target.write_among_good("zstd", bad).status, 204, "{says:?}");
    }
    assert_eq!(target.server.query("count(bad)", now_ms), json!([]));
}

#[test]
fn unsorted_labels_are_the_same_series_as_sorted_ones() {
    let target = Target::start();
    for (i, labels) in [
        [("zone", "eu"), ("__name__", "up"), ("job", "a")],
        [("__name__", "up"), ("job", "a"), ("zone", "eu")],
    ]
    .iter()
    .enumerate()
    {
        let time_ms = target.now_ms - 1000 * i as i64;
        let request = WriteRequest::default().series(labels, &[(time_ms, 1.0)]);
        let answer = target.server.write("snappy", &request.snappy());
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    let result = target.server.query(r#"up{job="a"}[1m]"#, target.now_ms);
    assert_eq!(result[0]["values"].as_array().unwrap().len(), 2, "{result}");
    assert_eq!(result[0]["metric"], json!({"__name__": "up", "job": "a", "zone": "eu"}));
    assert!(result.get(1).is_none(), "{result}");
}

#[test]
fn a_body_that_cannot_be_read_is_refused() {
    let mut target = Target::start();
    let labels = [("__name__", "truncated"), ("job", "a")];
    let samples: Vec<(i64, f64)> = (0..50).map(|i| (target.now_ms - i, 1.0)).collect();
    let whole = WriteRequest::default().series(&labels, &samples);
    for (encoding, body) in [("snappy", whole.snappy()), ("zstd", whole.zstd())] {
        for length in 0..body.len() {
            let answer = target.server.write(encoding, &body[..length]);
            assert_eq!(answer.status, 400, "{length} bytes of {encoding}: {}", answer.text());
        }
    }
    let garbage: Vec<u8> =
        (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    target.refuse("garbage", "snappy", &garbage);
    target.refuse("garbage", "zstd", &garbage);
    target.refuse("packed garbage", "snappy", &snappy(&garbage));
    target.refuse("a group", "snappy", &snappy(&[0x0b; 10_000]));
    assert_eq!(target.server.query("truncated", target.now_ms), json!([]));
    // No series at all is nothing wrong.
    assert_eq!(target.server.write("snappy", &snappy(b"")).status, 204);
    assert_eq!(target.write_among_good("snappy", |request| request).status, 204);
}

#[test]
fn a_length_that_lies_is_not_believed() {
    let target = Target::start();
    for length in [u64::from(u32::MAX), 1 << 40, 31 << 20, 1000] {
        let mut body = Vec::new();
        varint(&mut body, length);
        body.extend_from_slice(&[0xfc; 40]);
        target.refuse("snappy that lies", "snappy", &body);
    }
    // Says less than it holds.
    let mut body = snappy(&[0x0a; 1000]);
    body[0] = 0x85;
    target.refuse("snappy that holds more", "snappy", &body);
    // A series, a label and a sample that are longer than the body.
    for tag in [&[0x0a][..], &[0x0a, 0x20, 0x0a], &[0x0a, 0x20, 0x12]] {
        let mut body = tag.to_vec();
        varint(&mut body, 1 << 31);
        target.refuse("protobuf that lies", "snappy", &snappy(&body));
    }
}

#[test]
fn bombs_are_refused_in_bounded_memory() {
    let in_series = |inner: &[u8]| {
        let mut body = Vec::new();
        let mut series = Vec::new();
        field(&mut series, 1, b"\x0a\x08__name__\x12\x04bomb");
        series.extend(inner.repeat((BOMB_BYTES - 100) / inner.len()));
        field(&mut body, 1, &series);
        body
    };
    let refused = [
        ("empty series", [0x0a, 0].repeat(BOMB_BYTES / 2)),
        ("series of an empty sample", b"\x0a\x02\x12\x00".repeat(BOMB_BYTES / 4)),
        ("zeros", vec![0; BOMB_BYTES]),
        ("more than is allowed", vec![0; 256 << 20]),
        ("empty samples", in_series(&[0x12, 0])),
        ("empty histograms", in_series(&[0x22, 0])),
    ];
    // Nothing of these was to be stored, so that nothing is lost.
    let passed_over = [
        ("series of an empty label", b"\x0a\x02\x0a\x00".repeat(BOMB_BYTES / 4)),
        ("series of a name only", b"\x0a\x07\x0a\x05\x0a\x01a\x12\x00".repeat(BOMB_BYTES / 9)),
        ("empty labels", in_series(&[0x0a, 0])),
        ("empty exemplars", in_series(&[0x1a, 0])),
        ("empty metadata", [0x1a, 0].repeat(BOMB_BYTES / 2)),
        ("unknown fields", [0x38, 1].repeat(BOMB_BYTES / 2)),
    ];
    let bombs = refused.iter().map(|bomb| (bomb, true));
    for ((what, body), is_refused) in bombs.chain(passed_over.iter().map(|bomb| (bomb, false))) {
        for (encoding, body) in [("snappy", snappy(body)), ("zstd", zstd(body))] {
            // A process of its own: memory that another bomb left behind would hide this one's.
            let mut target = Target::start();
            let answer = target.write_bounded(what, encoding, &body);
            let text = answer.text();
            match answer.status {
                400 => assert!(!text.is_empty() && text.len() < 10_000, "{what}: {text:.300}"),
                // To zstd, a body that can be decoded is answered 204, its refusals counted.
                204 => assert!(!is_refused || encoding == "zstd", "{what} in {encoding}"),
                other => panic!("{what} in {encoding}: {other} {text:.300}"),
            }
            assert_eq!(target.write_among_good("snappy", |request| request).status, 204, "{what}");
        }
    }
    let target = Target::start();
    let text = target.refuse("empty series", "snappy", &snappy(&refused[0].1));
    assert!(text.contains("no labels") || text.contains("more series"), "{text:.300}");
    let body = vec![0x5a; 17 << 20];
    assert!(
        target.refuse("a large body", "snappy", &body).contains("16777216"),
        "its limit is named"
    );
}

// ---- queries --------------------------------------------------------------------------------

#[test]
fn queries_that_mean_harm_are_answered_at_once() {
    let mut target = Target::start();
    assert_eq!(target.write_among_good("snappy", |request| request).status, 204);
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        [open.repeat(depth), inner.to_owned(), close.repeat(depth)].concat()
    };
    let terms = |term: &str, between: &str| vec![term; 10_000].join(between);
    // Prometheus answers all of these, after seconds: the same answer, or an error that says why.
    for (query, value) in [
        (nested("(", "1", ")", 8_000), "1"),
        (nested("-", "1", "", 8_000), "1"),
        (nested("abs(", "vector(1)", ")", 8_000), "1"),
        (nested("sum(", "vector(1)", ")", 8_000), "1"),
        (nested("(1+", "1", ")", 8_000), "8001"),
        (terms("1", "+"), "10000"),
        (terms("vector(1)", "+"), "10000"),
        (terms("vector(1)", " or "), "1"),
        (terms("1", "^"), "1"),
    ] {
        for path in ["/api/v1/query", "/api/v1/format_query"] {
            let started = Instant::now();
            let answer = target.server.post_form(path, &[("query", &query), ("time", "60")]);
            let elapsed = started.elapsed();
            let start: String = query.chars().take(20).collect();
            assert!(elapsed < ANSWER_TIME_MAX, "{path} {start}… took {elapsed:?}");
            if answer.status != 200 {
                let json = answer.json();
                assert_eq!(
                    (answer.status, &json["errorType"]),
                    (400, &json!("bad_data")),
                    "{start}"
                );
                assert!(json["error"].as_str().unwrap().contains("parse error: "), "{json}");
            } else if path == "/api/v1/query" {
                let result = &answer.data()["result"];
                let got = if result[1].is_string() { &result[1] } else { &result[0]["value"][1] };
                assert_eq!(got, value, "{start}…");
            }
        }
    }
    for (path, parameters, error) in [
        (
            "query",
            &[("query", "foo(up)")][..],
            r#"invalid parameter "query": 1:1: parse error: unknown function with name "foo""#,
        ),
        (
            "query_range",
            &[("query", "up"), ("start", "0"), ("end", "11001"), ("step", "1")],
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
    ] {
        let started = Instant::now();
        let answer = target.server.post_form(&format!("/api/v1/{path}"), parameters);
        assert!(started.elapsed() < ANSWER_TIME_MAX);
        let expected = json!({"status": "error", "errorType": "bad_data", "error": error});
        assert_eq!((answer.status, answer.json()), (400, expected));
    }
}
