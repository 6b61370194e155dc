//! The queries by which servers are compared, over the series of [`crate::bodies`].

use std::time::Instant;

use anyhow::{Result, bail};

use crate::http::{Client, encode};
use crate::process;

/// A query, instant if it covers no time.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub what: &'static str,
    pub expression: &'static str,
    pub range_seconds: u32,
    pub step_seconds: u32,
}

const fn query(
    what: &'static str,
    expression: &'static str,
    range_seconds: u32,
    step_seconds: u32,
) -> Query {
    Query { what, expression, range_seconds, step_seconds }
}

const HOUR: u32 = 3_600;

/// The first seven are those for which the design sets goals.
pub const QUERIES: [Query; 13] = [
    query(
        "instant selector, 40 series",
        r#"device_temperature_celsius{instance="gateway-3:9100"}"#,
        0,
        0,
    ),
    query(
        "sum by (rate), 1,440 series, 1 h, 15 s",
        "sum by (job) (rate(http_requests_total[5m]))",
        HOUR,
        15,
    ),
    query("the same, 3.8 h, 60 s", "sum by (job) (rate(http_requests_total[5m]))", 13_680, 60),
    query(
        "histogram_quantile, 5,760 buckets, 1 h, 60 s",
        "histogram_quantile(0.99, sum by (le, job) (rate(http_request_duration_seconds_bucket[5m])))",
        HOUR,
        60,
    ),
    query(
        "quantile_over_time, 1,440 series, 1 h, 60 s",
        "quantile_over_time(0.95, queue_depth[10m])",
        HOUR,
        60,
    ),
    query(
        "sum by (__name__), all series, 1 h, 60 s",
        r#"sum by (__name__) ({__name__=~".+"})"#,
        HOUR,
        60,
    ),
    query(
        "join of 480 pairs, 1 h, 60 s",
        "node_memory_MemAvailable_bytes / on (job, instance) node_memory_MemTotal_bytes",
        HOUR,
        60,
    ),
    query("selector, 1,440 series, 1 h, 15 s", "queue_depth", HOUR, 15),
    query(
        "rate, 9,600 series, 1 h, 60 s",
        r#"rate({__name__=~"http_request_duration_seconds_bucket|node_cpu_seconds_total"}[5m])"#,
        HOUR,
        60,
    ),
    query(
        "topk(5, rate), 1,440 series, 1 h, 60 s",
        "topk(5, rate(http_requests_total[5m]))",
        HOUR,
        60,
    ),
    query(
        "subquery over sum by (rate), 1 h, 60 s",
        "max_over_time((sum by (job) (rate(http_requests_total[5m])))[30m:1m])",
        HOUR,
        60,
    ),
    query("increase over 3 h, instant", "sum by (job) (increase(http_requests_total[3h]))", 0, 0),
    query(
        "max over 10 m, 1,440 series, 1 h, 15 s",
        "max by (job) (max_over_time(queue_depth[10m]))",
        HOUR,
        15,
    ),
];

/// What an answer says, in numbers that two servers should agree on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Digest {
    pub series: usize,
    pub points: usize,
    pub sum: f64,
}

/// What a query costs a server.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub cpu_ms: f64,
    pub wall_ms: f64,
    pub digest: Digest,
}

impl Query {
    /// Path and query of the HTTP API, for data that ends at `end_ms`.
    pub fn target(&self, end_ms: i64) -> String {
        let expression = encode(self.expression);
        let end = end_ms as f64 / 1e3;
        if self.range_seconds == 0 {
            return format!("/api/v1/query?query={expression}&time={end:.3}");
        }
        let start = end - f64::from(self.range_seconds);
        let step = self.step_seconds;
        format!("/api/v1/query_range?query={expression}&start={start:.3}&end={end:.3}&step={step}")
    }

    /// Asks until the server has used a CPU second for it, each time for another instant, so that
    /// no cache of results helps; at least 3 and at most 5,000 times.
    pub fn measure(&self, client: &mut Client, pid: u32, end_ms: i64) -> Result<Cost> {
        const CPU_SECONDS: f64 = 1.0;
        const WARM: i64 = 3;
        let digest = digest(&self.ask(client, end_ms)?)?;
        for i in 1..WARM {
            self.ask(client, end_ms - i * 1_001)?;
        }
        let (start, cpu_before) = (Instant::now(), process::cpu_seconds(pid)?);
        let (mut asked, mut cpu_seconds) = (0, 0.0);
        while asked < 3 || asked < 5_000 && cpu_seconds < CPU_SECONDS {
            self.ask(client, end_ms - (WARM + asked) * 7)?;
            asked += 1;
            if asked % 8 == 0 || asked < 8 {
                cpu_seconds = process::cpu_seconds(pid)? - cpu_before;
            }
        }
        let cpu_seconds = process::cpu_seconds(pid)? - cpu_before;
        let each_ms = |seconds: f64| seconds * 1e3 / asked as f64;
        Ok(Cost {
            cpu_ms: each_ms(cpu_seconds),
            wall_ms: each_ms(start.elapsed().as_secs_f64()),
            digest,
        })
    }

    fn ask(&self, client: &mut Client, end_ms: i64) -> Result<Vec<u8>> {
        let response = client.get(&self.target(end_ms))?;
        if response.status != 200 {
            bail!("{}: {} {}", self.what, response.status, String::from_utf8_lossy(&response.body));
        }
        Ok(response.body)
    }
}

fn digest(body: &[u8]) -> Result<Digest> {
    let answer: serde_json::Value = serde_json::from_slice(body)?;
    let Some(series) = answer["data"]["result"].as_array() else {
        bail!("an answer has no result")
    };
    let mut digest = Digest { series: series.len(), points: 0, sum: 0.0 };
    for series in series {
        let instant = series["value"].as_array().map(|_| &series["value"]);
        for point in series["values"].as_array().into_iter().flatten().chain(instant) {
            let value: f64 = point[1].as_str().unwrap_or("NaN").parse()?;
            digest.points += 1;
            digest.sum += if value.is_finite() { value } else { 0.0 };
        }
    }
    Ok(digest)
}
