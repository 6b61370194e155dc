//! Debian's Prometheus and vmagent feed Icecore; Prometheus and Icecore then answer alike.
//!
//! A node exporter is scraped every second for [`SCRAPE_MS`], by Prometheus, which also scrapes
//! itself and keeps what it scrapes, and by vmagent under a job of its own. Both write to Icecore,
//! which is killed once in between. In the end the exporter is stopped, so that the last seconds
//! hold stale markers.
//!
//! Prometheus 3 made ranges left-open, Debian's 2.42 includes both ends. No tolerance covers that:
//! times are chosen so that no sample lies on an edge of a range. All ranges in `queries.txt` are
//! whole seconds and [`STEP_MS`] is a multiple of 100 ms, so edges share one remainder modulo
//! 100 ms, that of the *phase*; edges inside subqueries lie on whole seconds.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::answers;
use crate::client::{self, Answer};
use crate::icecore::{Icecore, now_ms, post_form, seconds};
use crate::process::{Process, are_installed, free_address, wait_for};

const QUERIES: &str = include_str!("queries.txt");

/// So many of them must find something, in both.
const ANSWERED_QUERIES_MIN: usize = 60;

const PROMETHEUS: &str = "prometheus";
const EXPORTER: &str = "prometheus-node-exporter";
const VMAGENT: &str = "vmagent";

/// Jobs of Prometheus, and vmagent's.
const JOBS: [&str; 2] = ["node", "prometheus"];
const VMAGENT_JOB: &str = "vm";

const START_TIMEOUT: Duration = Duration::from_secs(60);
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the exporter is scraped; a kill of Icecore falls into it.
const SCRAPE_MS: i64 = 46_000;
const KILL_AFTER_MS: i64 = 20_000;
/// How long Prometheus goes on after the exporter was stopped.
const STALE_MS: i64 = 6_000;

/// Range queries start so long after the first scrape that no range reaches before it: 2.42 and 3
/// differ in how they extrapolate to the start of a young counter.
const WARM_UP_MS: i64 = 22_000;
const STEP_MS: i64 = 3_700;

/// Prometheus chooses by a target's address when in a second to scrape it. Where that is close to
/// the whole second, another address is tried.
const ATTEMPTS: usize = 8;
const WHOLE_SECOND_DISTANCE_MS: i64 = 25;

#[test]
fn prometheus_and_vmagent_write_and_queries_are_answered_as_prometheus_does() {
    if !are_installed(&[PROMETHEUS, EXPORTER, VMAGENT]) {
        return;
    }
    let (fleet, times) = (0..ATTEMPTS)
        .find_map(|_| {
            let mut fleet = Fleet::start();
            let times = fleet.scrape()?;
            Some((fleet, times))
        })
        .expect("scrapes keep falling on the edges of ranges");
    fleet.check_samples(times);
    fleet.check_series();
    fleet.check_queries(times);
    fleet.check_vmagent(times);
    fleet.check_counters();
    fleet.icecore.terminate();
}

/// When to ask, all off the grid of samples.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// A range query's first and last step.
    start_ms: i64,
    end_ms: i64,
    /// Before the exporter was stopped, and after.
    before_ms: i64,
    after_ms: i64,
}

struct Fleet {
    icecore: Icecore,
    /// Gone once it is stopped.
    exporter: Option<Process>,
    _prometheus: Process,
    _vmagent: Process,
    prometheus_address: SocketAddr,
    vmagent_address: SocketAddr,
    folder: TempDir,
}

impl Fleet {
    fn start() -> Fleet {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let argument = |name: &str, value: &dyn std::fmt::Display| format!("{name}={value}");
        let icecore = Icecore::start(&path("icecore"));
        let write_url = format!("http://{}/api/v1/write", icecore.address);
        let [exporter, prometheus, vmagent] = [(); 3].map(|()| free_address());

        fs::write(path("prometheus.yml"), prometheus_config(exporter, prometheus, &write_url))
            .unwrap();
        fs::write(path("vmagent.yml"), scrape_config(VMAGENT_JOB, exporter)).unwrap();
        let exporter = Process::start(
            EXPORTER,
            &[argument("--web.listen-address", &exporter)],
            &path("exporter.log"),
        );
        let prometheus_process = Process::start(
            PROMETHEUS,
            &[
                argument("--config.file", &path("prometheus.yml").display()),
                argument("--storage.tsdb.path", &path("prometheus").display()),
                argument("--web.listen-address", &prometheus),
            ],
            &path("prometheus.log"),
        );
        let vmagent_process = Process::start(
            VMAGENT,
            &[
                argument("-promscrape.config", &path("vmagent.yml").display()),
                argument("-remoteWrite.url", &write_url),
                argument("-remoteWrite.tmpDataPath", &path("vmagent").display()),
                argument("-remoteWrite.queues", &1),
                argument("-httpListenAddr", &vmagent),
            ],
            &path("vmagent.log"),
        );
        Fleet {
            icecore,
            exporter: Some(exporter),
            _prometheus: prometheus_process,
            _vmagent: vmagent_process,
            prometheus_address: prometheus,
            vmagent_address: vmagent,
            folder,
        }
    }

    /// Lets the programs run, then waits until Icecore has all they scraped. `None` if samples lie
    /// where they must not.
    fn scrape(&mut self) -> Option<Times> {
        let all_jobs = [JOBS[0], JOBS[1], VMAGENT_JOB];
        wait_for("the first samples of each job", START_TIMEOUT, || {
            all_jobs.iter().all(|job| self.newest_ms(job).is_some()).then_some(())
        });
        let first_ms = now_ms();
        sleep_until(first_ms + 2_000);
        if self.scrapes("node", now_ms()).into_iter().any(is_near_whole_second) {
            return None;
        }
        sleep_until(first_ms + KILL_AFTER_MS);
        self.kill_icecore();
        sleep_until(first_ms + SCRAPE_MS);
        let stopped_ms = now_ms();
        self.exporter.take();
        sleep_until(stopped_ms + STALE_MS);
        let end_ms = now_ms() - 1000;
        wait_for("Icecore to have what was scraped", CATCH_UP_TIMEOUT, || {
            // Prometheus writes in the order in which it scrapes.
            let caught_up = |job| self.newest_ms(job).is_some_and(|newest| newest > end_ms);
            all_jobs.iter().all(|job| caught_up(job)).then_some(())
        });
        // All subqueries are of the exporter's metrics.
        if self.scrapes("node", end_ms).iter().any(|time_ms| time_ms % 1000 == 0) {
            return None;
        }
        let phase = free_phase(&self.scrapes("node|prometheus", end_ms))?;
        let on_phase = |time_ms: i64| time_ms / 100 * 100 + phase;
        let start_ms = on_phase(first_ms + WARM_UP_MS);
        let steps = (end_ms - start_ms) / STEP_MS;
        Some(Times {
            start_ms,
            end_ms: start_ms + steps * STEP_MS,
            before_ms: on_phase(stopped_ms - 2_500),
            after_ms: on_phase(end_ms - 1000),
        })
    }

    /// Prometheus and vmagent have to send again what was not acknowledged.
    fn kill_icecore(&mut self) {
        let data = self.folder.path().join("icecore");
        let address = self.icecore.address.to_string();
        let elsewhere = Icecore::start(&self.folder.path().join("unused"));
        std::mem::replace(&mut self.icecore, elsewhere).kill();
        self.icecore = Icecore::start_on(&data, &address);
    }

    /// Timestamp of the newest scrape of a job in Icecore.
    fn newest_ms(&self, job: &str) -> Option<i64> {
        let query = format!("max(timestamp(up{{job=\"{job}\"}}))");
        let result = self.icecore.query(&query, now_ms());
        let newest: f64 = result[0]["value"][1].as_str()?.parse().unwrap();
        Some((newest * 1000.0).round() as i64)
    }

    /// When Prometheus scraped some jobs, up to a time.
    fn scrapes(&self, jobs: &str, end_ms: i64) -> BTreeSet<i64> {
        let query = format!("up{{job=~\"{jobs}\"}}[5m]");
        let at = seconds(end_ms);
        let data = self.ask_prometheus("query", &[("query", &query), ("time", &at)]).data();
        let series = data["result"].as_array().unwrap();
        let points = series.iter().flat_map(|series| series["values"].as_array().unwrap());
        points.map(|point| (point[0].as_f64().unwrap() * 1000.0).round() as i64).collect()
    }

    fn ask_prometheus(&self, path: &str, parameters: &[(&str, &str)]) -> Answer {
        let path = format!("/api/v1/{path}");
        post_form(self.prometheus_address, &path, parameters).expect("prometheus answers")
    }

    /// The answers of Prometheus and of Icecore.
    fn ask_both(&self, path: &str, parameters: &[(&str, &str)]) -> [Answer; 2] {
        let theirs = self.ask_prometheus(path, parameters);
        [theirs, self.icecore.post_form(&format!("/api/v1/{path}"), parameters)]
    }

    /// Every sample of every series, to the last digit.
    fn check_samples(&self, times: Times) {
        for job in JOBS {
            let query = format!("{{job=\"{job}\"}}[5m]");
            let at = seconds(times.after_ms);
            let parameters = [("query", query.as_str()), ("time", &at)];
            let [theirs, ours] = self.ask_both("query", &parameters).map(|answer| answer.data());
            let text = |data: &Value| -> BTreeSet<String> {
                data["result"].as_array().unwrap().iter().map(Value::to_string).collect()
            };
            let (theirs, ours) = (text(&theirs), text(&ours));
            assert!(theirs.len() > 200, "{job} has {} series", theirs.len());
            if let Some(series) = theirs.symmetric_difference(&ours).next() {
                let side = if theirs.contains(series) { "Prometheus" } else { "Icecore" };
                panic!("only {side} has exactly {series}");
            }
        }
    }

    /// Prometheus's own job is left out: it gains series as it is asked.
    fn check_series(&self) {
        let matcher = format!("{{job=\"{}\"}}", JOBS[0]);
        let parameters = [("match[]", matcher.as_str())];
        let [theirs, ours] = self.ask_both("series", &parameters).map(|answer| {
            let data = answer.data();
            let series = data.as_array().unwrap().iter().map(Value::to_string);
            series.collect::<BTreeSet<String>>()
        });
        let differing: Vec<&String> = theirs.symmetric_difference(&ours).collect();
        assert!(differing.is_empty(), "series differ: {differing:?}");
        let [theirs, ours] = self.ask_both("labels", &parameters);
        assert_eq!(theirs.data(), ours.data());
    }

    /// All of `queries.txt`: instant ones before and after the exporter stopped.
    fn check_queries(&self, times: Times) {
        let mut answered = 0;
        let mut differences = Vec::new();
        let [before, after, start, end, step] =
            [times.before_ms, times.after_ms, times.start_ms, times.end_ms, STEP_MS].map(seconds);
        let lines = QUERIES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for (kind, query) in lines.map(|line| line.split_once(' ').unwrap()) {
            let mut found = false;
            let mut check = |path: &str, times: &[(&str, &str)]| {
                let parameters = [&[("query", query)], times].concat();
                let [theirs, ours] = self.ask_both(path, &parameters);
                let compared = if theirs.status == 200 && ours.status == 200 {
                    found |= !answers::is_empty(&theirs.data());
                    answers::compare(query, &theirs.data(), &ours.data())
                } else {
                    answers::compare_errors(&theirs.json(), &ours.json())
                };
                if let Err(difference) = compared {
                    let [theirs, ours] = [&theirs, &ours].map(Answer::text);
                    differences.push(format!(
                        "{query}\n  at {times:?}: {difference}\n  Prometheus: {theirs}\n  Icecore: {ours}"
                    ));
                }
            };
            match kind {
                "instant" => {
                    check("query", &[("time", &before)]);
                    check("query", &[("time", &after)]);
                }
                "range" => {
                    check("query_range", &[("start", &start), ("end", &end), ("step", &step)]);
                }
                other => panic!("queries.txt: {other}"),
            }
            answered += usize::from(found);
            if !found {
                println!("empty in Prometheus: {query}");
            }
        }
        let count = differences.len();
        assert!(count == 0, "{count} answers differ:\n{}", differences.join("\n"));
        println!("{answered} queries were answered alike and not empty");
        assert!(answered >= ANSWERED_QUERIES_MIN, "only {answered} queries found anything");
    }

    /// vmagent scraped the same exporter: its series have the same shape.
    fn check_vmagent(&self, times: Times) {
        let at_ms = times.before_ms;
        let number = |query: &str| -> f64 {
            let result = self.icecore.query(query, at_ms);
            let value = result[0]["value"][1].as_str();
            value.unwrap_or_else(|| panic!("{query} is empty")).parse().unwrap()
        };
        assert_eq!(number(r#"count(up{job="vm"})"#), 1.0);
        assert!(number(r#"count_over_time(up{job="vm"}[40s])"#) > 20.0);
        assert!(number(r#"min(count_over_time(node_uname_info{job="vm"}[20s]))"#) > 10.0);
        let names = "count(count by (__name__) ({job=\"node\"}) unless on (__name__) count by (__name__) ({job=\"vm\"})) or vector(0)";
        assert_eq!(number(names), 0.0, "names that vmagent's job lacks");
        let cpus = number(
            r#"sum(rate(node_cpu_seconds_total{job="vm"}[30s])) / sum(rate(node_cpu_seconds_total{job="node"}[30s]))"#,
        );
        assert!((0.8..1.2).contains(&cpus), "vmagent saw {cpus} of the processor time");
    }

    /// Nobody was refused anything, though Icecore was away for a while.
    fn check_counters(&self) {
        let prometheus = metrics(self.prometheus_address);
        let vmagent = metrics(self.vmagent_address);
        let icecore = metrics(self.icecore.address);
        for (text, name) in [
            (&prometheus, "prometheus_remote_storage_samples_failed_total"),
            (&prometheus, "prometheus_remote_storage_samples_dropped_total"),
            (&vmagent, "vmagent_remotewrite_packets_dropped_total"),
            (&vmagent, r#"status_code="4XX""#),
            (&icecore, "icecore_write_rows_refused_total"),
        ] {
            assert_eq!(total(text, name), 0.0, "{name}");
        }
        assert!(
            total(
                &vmagent,
                r#"vmagent_remotewrite_requests_total{url="1:secret-url", status_code="2XX""#
            ) > 0.0
        );
        assert!(total(&icecore, r#"icecore_write_requests_total{result="stored"}"#) > 0.0);
        assert_eq!(
            total(&icecore, "icecore_write_requests_total"),
            total(&icecore, r#"icecore_write_requests_total{result="stored"}"#),
            "{icecore}"
        );
    }
}

fn is_near_whole_second(time_ms: i64) -> bool {
    let distance = WHOLE_SECOND_DISTANCE_MS;
    (time_ms + distance) % 1000 <= 2 * distance
}

/// A remainder modulo 100 ms that no scrape has.
fn free_phase(scrapes: &BTreeSet<i64>) -> Option<i64> {
    let taken: BTreeSet<i64> = scrapes.iter().map(|time_ms| time_ms % 100).collect();
    (1..100).find(|phase| !taken.contains(phase))
}

fn sleep_until(time_ms: i64) {
    let wait_ms = u64::try_from(time_ms - now_ms()).unwrap_or(0);
    std::thread::sleep(Duration::from_millis(wait_ms));
}

fn scrape_config(job: &str, target: SocketAddr) -> String {
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs:\n\
         - {{job_name: {job}, static_configs: [{{targets: ['{target}']}}]}}\n"
    )
}

/// One shard: samples leave in the order in which they were scraped.
fn prometheus_config(exporter: SocketAddr, itself: SocketAddr, write_url: &str) -> String {
    let [node, prometheus] = JOBS;
    format!(
        "{}\
         - {{job_name: {prometheus}, static_configs: [{{targets: ['{itself}']}}]}}\n\
         remote_write:\n\
         - url: {write_url}\n  \
           queue_config: {{min_shards: 1, max_shards: 1, batch_send_deadline: 500ms}}\n  \
           metadata_config: {{send_interval: 5s}}\n",
        scrape_config(node, exporter)
    )
}

/// The metrics that a program exposes.
fn metrics(address: SocketAddr) -> String {
    let answer = client::send(address, "GET", "/metrics", &[], b"").expect("it answers");
    answer.text().to_owned()
}

/// The sum of the rows whose line contains `part`.
fn total(exposition: &str, part: &str) -> f64 {
    let rows = exposition.lines().filter(|line| !line.starts_with('#') && line.contains(part));
    rows.map(|row| row.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}
