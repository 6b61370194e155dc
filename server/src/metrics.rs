//! The server's own metrics: families of rows, gathered on demand.
//!
//! They are shown as text at `/metrics` (Prometheus text format 0.0.4) and stored every 15 s with
//! `job="icecore"`, so that the first query of a new database has something to find. Label values
//! come from tables in this program and from its configuration, never from a request.

use std::fmt::Write;

use icecore_query::cache::CacheStats;
use icecore_query::go_format::push_api_float;
use icecore_storage::db::Stats;
use icecore_storage::labels::{Labels, LabelsBuilder, METRIC_NAME};
use icecore_storage::memory::MemoryShares;
use icecore_storage::metrics::batch::{Metadata, MetricKind};
use icecore_storage::series_limits::{LimitKind, LimitStatus};

use crate::app::App;
use crate::clock;
use crate::config::QUERIES_WAITING_MAX;
use crate::counters::{CODES, DURATION_BOUNDS, Durations, METHODS, OTHER_ROUTE, WriteResult};
use crate::process::ProcessStats;
use crate::reload::Reload;
use crate::routes::ROUTES;
use crate::scrub::ScrubStatus;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics of one name and kind.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: MetricKind,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// After the family's name: `_bucket` and the like.
    pub suffix: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

impl Family {
    /// The series of a row, with the labels that a scrape would add.
    pub(crate) fn series(&self, row: &Row, target: &[(&str, &str)]) -> Labels {
        let mut labels = LabelsBuilder::default();
        labels.set(METRIC_NAME, &format!("{}{}", self.name, row.suffix));
        row.labels.iter().for_each(|(name, value)| labels.set(name, value));
        target.iter().for_each(|(name, value)| labels.set(name, value));
        labels.build().expect("set() keeps label names unique and they are not empty")
    }

    pub(crate) fn metadata(&self) -> Metadata {
        Metadata {
            family: self.name.into(),
            kind: self.kind,
            help: self.help.into(),
            unit: String::new(),
        }
    }
}

/// All families, each with at least one row.
pub(crate) fn gather(app: &App) -> Vec<Family> {
    let mut families = Gathered::default();
    families.gauge("icecore_build_info", "The version that runs; always 1.", 1.0);
    families.label("version", env!("CARGO_PKG_VERSION"));
    process(&mut families, app, &ProcessStats::read());
    if let Some(db) = app.db_if_open() {
        let stats = db.stats();
        storage(&mut families, &stats);
        memory(&mut families, app, &stats);
        series_limits(&mut families, &db.series_limits(clock::now_ms()));
        scrub(&mut families, &app.scrub.get());
    }
    configuration(&mut families, &app.reload);
    http(&mut families, app);
    writes(&mut families, app);
    queries(&mut families, app);
    result_cache(&mut families, app);
    families.0.retain(|family| !family.rows.is_empty());
    families.0
}

/// The text exposition of families.
pub(crate) fn expose(families: &[Family]) -> String {
    let mut text = String::with_capacity(families.len() * 256);
    for family in families {
        let (name, kind) = (family.name, family.kind.name());
        writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", family.help)
            .expect("a String takes any text");
        for row in &family.rows {
            text.push_str(name);
            text.push_str(row.suffix);
            for (i, (name, value)) in row.labels.iter().enumerate() {
                text.push(if i == 0 { '{' } else { ',' });
                let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
                write!(text, "{name}=\"{escaped}\"").expect("a String takes any text");
            }
            text.push_str(if row.labels.is_empty() { " " } else { "} " });
            let mut value = Vec::new();
            push_api_float(&mut value, row.value);
            text.push_str(std::str::from_utf8(&value).expect("numbers are ASCII"));
            text.push('\n');
        }
    }
    text
}

#[derive(Default)]
struct Gathered(Vec<Family>);

impl Gathered {
    fn family(&mut self, name: &'static str, help: &'static str, kind: MetricKind) {
        self.0.push(Family { name, help, kind, rows: Vec::new() });
    }

    /// A row of the last family.
    fn row(&mut self, suffix: &'static str, labels: Vec<(&'static str, String)>, value: f64) {
        let family = self.0.last_mut().expect("a family comes before its rows");
        family.rows.push(Row { suffix, labels, value });
    }

    /// A label of the last row.
    fn label(&mut self, name: &'static str, value: &str) {
        let family = self.0.last_mut().expect("a family comes before its rows");
        let row = family.rows.last_mut().expect("a row comes before its labels");
        row.labels.push((name, value.to_owned()));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.family(name, help, MetricKind::Gauge);
        self.row("", vec![], value);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.family(name, help, MetricKind::Counter);
        self.row("", vec![], value as f64);
    }

    /// Rows of a histogram, in the last family.
    fn durations(&mut self, labels: &[(&'static str, String)], durations: &Durations) {
        let counts = durations.cumulative();
        let all = counts[DURATION_BOUNDS.len()] as f64;
        for (i, count) in counts.into_iter().enumerate() {
            let bound = DURATION_BOUNDS.get(i).map_or("+Inf".into(), |bound| bound.to_string());
            let mut labels = labels.to_vec();
            labels.push(("le", bound));
            self.row("_bucket", labels, count as f64);
        }
        self.row("_sum", labels.to_vec(), durations.sum_seconds());
        self.row("_count", labels.to_vec(), all);
    }
}

fn process(out: &mut Gathered, app: &App, stats: &ProcessStats) {
    let started = app.started_ms as f64 / 1000.0;
    out.gauge("process_start_time_seconds", "When the process started, in Unix seconds.", started);
    if let Some(seconds) = stats.cpu_seconds {
        out.family(
            "process_cpu_seconds_total",
            "User and system time the process has used.",
            MetricKind::Counter,
        );
        out.row("", vec![], seconds);
    }
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Memory that is resident, mapped files included.",
            stats.resident_bytes,
        ),
        (
            "process_resident_anonymous_bytes",
            "Memory that is resident, without mapped files.",
            stats.resident_anonymous_bytes,
        ),
        ("process_virtual_memory_bytes", "Size of the address space.", stats.virtual_bytes),
        ("process_open_fds", "Open file descriptors.", stats.open_files),
        ("process_max_fds", "How many may be open.", stats.open_files_max),
        ("process_threads", "Threads of the process.", stats.threads),
    ] {
        if let Some(value) = value {
            out.gauge(name, help, value as f64);
        }
    }
}

fn storage(out: &mut Gathered, stats: &Stats) {
    let Stats {
        samples_appended,
        samples_refused,
        series_created,
        head_series,
        head_label_pairs,
        head_chunks,
        head_bytes,
        head_range_ms,
        blocks,
        block_bytes,
        block_samples,
        page_cache_hits,
        page_cache_misses,
        page_cache_bytes,
        wal_bytes,
        wal_segments,
        wal_records,
        wal_syncs,
        wal_restated_bytes,
        wal_written_bytes,
        checkpoints,
        quarantined_files,
        head_bytes_max: _,
        deferred_rows,
        memory_refused_writes,
        relieved_series,
        lost_records,
        retention_held_bytes,
        on_hold_bytes,
        holds,
        holds_ended,
        evicted_blocks,
        evicted_bytes,
        disk_budget,
        read_only,
    } = stats;
    for (name, help, value) in [
        ("icecore_storage_samples_appended_total", "Samples stored.", *samples_appended),
        ("icecore_storage_samples_refused_total", "Samples refused by storage.", *samples_refused),
        ("icecore_storage_series_created_total", "Series created in the head.", *series_created),
        (
            "icecore_retention_evicted_blocks_total",
            "Blocks that went before their time to keep to the disk budget.",
            *evicted_blocks,
        ),
        ("icecore_retention_evicted_bytes_total", "Bytes of these blocks.", *evicted_bytes),
        (
            "icecore_retention_holds_ended_total",
            "Legal holds that were released or have ended.",
            *holds_ended,
        ),
        ("icecore_wal_records_total", "Records written to the log.", *wal_records),
        ("icecore_wal_syncs_total", "Times the log was synced to disk.", *wal_syncs),
        ("icecore_wal_written_bytes_total", "Bytes written to the log.", *wal_written_bytes),
        (
            "icecore_wal_restated_bytes_total",
            "Of these, bytes that restate series in a new segment.",
            *wal_restated_bytes,
        ),
        (
            "icecore_memory_deferred_rows_total",
            "Rows of new series that found no memory; their senders were asked to try again.",
            *deferred_rows,
        ),
        (
            "icecore_memory_refused_writes_total",
            "Writes that found no memory at all; their senders were asked to try again.",
            *memory_refused_writes,
        ),
        (
            "icecore_memory_relieved_series_total",
            "Series that went into blocks before their time for want of memory.",
            *relieved_series,
        ),
        ("icecore_checkpoints_total", "Checkpoints of the head.", *checkpoints),
        (
            "icecore_page_cache_hits_total",
            "Pages of merged blocks that were found decompressed.",
            *page_cache_hits,
        ),
        (
            "icecore_page_cache_misses_total",
            "Pages of merged blocks that had to be decompressed.",
            *page_cache_misses,
        ),
    ] {
        out.counter(name, help, value);
    }
    for (name, help, value) in [
        ("icecore_head_series", "Series in the head.", *head_series),
        ("icecore_head_label_pairs", "Distinct label pairs in the head.", *head_label_pairs),
        ("icecore_head_chunks", "Chunks in the head.", *head_chunks),
        ("icecore_head_bytes", "Approximate memory of the head.", *head_bytes),
        ("icecore_blocks", "Sealed blocks.", *blocks),
        ("icecore_block_bytes", "Bytes of sealed blocks on disk.", *block_bytes),
        ("icecore_block_samples", "Samples in sealed blocks.", *block_samples),
        (
            "icecore_page_cache_bytes",
            "Memory of decompressed pages that are kept.",
            *page_cache_bytes,
        ),
        ("icecore_wal_bytes", "Bytes of the log on disk.", *wal_bytes),
        ("icecore_wal_segments", "Segments of the log.", *wal_segments),
        (
            "icecore_quarantined_files",
            "Damaged files that were set aside and wait for an operator.",
            *quarantined_files,
        ),
        (
            "icecore_wal_lost_records",
            "Records that the last start found damaged or missing.",
            *lost_records,
        ),
        (
            "icecore_retention_on_hold_bytes",
            "Bytes of blocks that a legal hold keeps.",
            *on_hold_bytes,
        ),
        ("icecore_retention_holds", "Legal holds in force.", *holds),
        (
            "icecore_disk_budget_bytes",
            "Bytes that blocks and log may take; 0 where that is not bounded.",
            disk_budget.unwrap_or(0),
        ),
        (
            "icecore_retention_held_bytes",
            "Bytes that retention would drop once somebody confirms it; the log says why.",
            *retention_held_bytes,
        ),
        (
            "icecore_read_only",
            "Whether writes are refused at present; the log says why.",
            u64::from(read_only.is_some()),
        ),
    ] {
        out.gauge(name, help, value as f64);
    }
    if let Some((oldest_ms, newest_ms)) = head_range_ms {
        for (name, help, ms) in [
            ("icecore_head_min_time_seconds", "Oldest sample in the head.", oldest_ms),
            ("icecore_head_max_time_seconds", "Newest sample in the head.", newest_ms),
        ] {
            out.gauge(name, help, *ms as f64 / 1000.0);
        }
    }
}

fn memory(out: &mut Gathered, app: &App, stats: &Stats) {
    let limit = app.config.memory_limit;
    let shares = MemoryShares::of(limit);
    out.gauge("icecore_memory_limit_bytes", "What --memory.limit comes to.", limit as f64);
    let queries = app.engine.memory();
    let bodies = app.gates.write_bodies.bytes_taken() + app.gates.decoded_bodies.bytes_taken();
    let results = app.config.result_cache_bytes as u64;
    let pages = app.config.storage.page_cache_bytes as u64;
    let parts = [
        ("head", stats.head_bytes, stats.head_bytes_max),
        ("queries", queries.bytes_held(), queries.bytes_max()),
        ("pages", stats.page_cache_bytes, pages),
        ("results", app.result_cache.stats().bytes, results),
        ("bodies", bodies, shares.bodies),
    ];
    let (used, share) = ("icecore_memory_used_bytes", "icecore_memory_share_bytes");
    out.family(used, "Memory that a part has taken, as it counts it itself.", MetricKind::Gauge);
    for (part, used, _) in parts {
        out.row("", vec![("part", part.to_owned())], used as f64);
    }
    out.family(share, "Memory that a part may take.", MetricKind::Gauge);
    for (part, _, share) in parts {
        out.row("", vec![("part", part.to_owned())], share as f64);
    }
}

fn series_limits(out: &mut Gathered, limits: &[LimitStatus]) {
    let each = |out: &mut Gathered, value: &dyn Fn(&LimitStatus, LimitKind) -> Option<u64>| {
        for status in limits {
            for kind in LimitKind::ALL {
                if let Some(value) = value(status, kind) {
                    let of = match kind {
                        LimitKind::Active => "active",
                        LimitKind::NewPerHour => "new_per_hour",
                    };
                    let labels = vec![("limit", status.limit.to_string()), ("kind", of.to_owned())];
                    out.row("", labels, value as f64);
                }
            }
        }
    };
    out.family("icecore_series_limit", "Series that a limit allows.", MetricKind::Gauge);
    each(out, &|status, kind| Some(status.of(kind)?.0));
    out.family(
        "icecore_series_limit_used",
        "Series that count against a limit at present.",
        MetricKind::Gauge,
    );
    each(out, &|status, kind| Some(status.of(kind)?.1));
    out.family(
        "icecore_series_limit_refused_rows_total",
        "Rows that were refused because their series would have been one too many.",
        MetricKind::Counter,
    );
    each(out, &|status, kind| status.of(kind).map(|_| status.refused_rows[kind as usize]));
}

fn scrub(out: &mut Gathered, status: &ScrubStatus) {
    for (name, help, value) in [
        ("icecore_scrub_bytes_total", "Bytes of blocks read to check them.", status.bytes),
        ("icecore_scrub_blocks_total", "Blocks checked.", status.blocks),
        (
            "icecore_scrub_damaged_blocks_total",
            "Blocks in which checking found damage; they were set aside.",
            status.damaged_blocks,
        ),
        ("icecore_scrub_errors_total", "Checks that broke off.", status.errors),
    ] {
        out.counter(name, help, value);
    }
    let due = status.blocks_due as f64;
    out.gauge("icecore_scrub_blocks_due", "Blocks that were not checked for a week.", due);
}

fn configuration(out: &mut Gathered, reload: &Reload) {
    out.gauge(
        "icecore_config_last_reload_successful",
        "Whether the last reload of the configuration was taken.",
        f64::from(u8::from(reload.is_successful())),
    );
    out.gauge(
        "icecore_config_last_reload_success_timestamp_seconds",
        "When a configuration was last taken.",
        reload.succeeded_ms() as f64 / 1000.0,
    );
}

fn http(out: &mut Gathered, app: &App) {
    let route = |index: usize| ROUTES.get(index).map_or("other", |route| route.template).to_owned();
    let counters = &app.counters;
    out.family(
        "icecore_http_requests_total",
        "Requests by route, method and class of status.",
        MetricKind::Counter,
    );
    for (index, counters) in counters.http.routes.iter().enumerate() {
        for (method, codes) in METHODS.iter().zip(&counters.requests) {
            for (code, count) in CODES.iter().zip(codes).filter(|(_, count)| count.get() > 0) {
                let labels = vec![
                    ("handler", route(index)),
                    ("method", (*method).to_owned()),
                    ("code", (*code).to_owned()),
                ];
                out.row("", labels, count.get() as f64);
            }
        }
    }
    out.family(
        "icecore_http_request_duration_seconds",
        "Time to the first byte of the answer, by route.",
        MetricKind::Histogram,
    );
    for (index, counters) in counters.http.routes.iter().enumerate().take(OTHER_ROUTE) {
        if counters.durations.cumulative()[DURATION_BOUNDS.len()] > 0 {
            out.durations(&[("handler", route(index))], &counters.durations);
        }
    }
    out.counter(
        "icecore_http_connections_accepted_total",
        "Connections accepted.",
        counters.connections_accepted.get(),
    );
    out.counter(
        "icecore_http_connections_failed_total",
        "Connections that broke off or exceeded a limit.",
        counters.connections_failed.get(),
    );
    out.counter(
        "icecore_maintenance_errors_total",
        "Steps of upkeep that failed; the log says why.",
        counters.maintenance_errors.get(),
    );
}

fn writes(out: &mut Gathered, app: &App) {
    let counters = &app.counters.write;
    out.family("icecore_write_requests_total", "Write requests by result.", MetricKind::Counter);
    for (result, name) in WriteResult::ALL {
        let labels = vec![("result", name.to_owned())];
        out.row("", labels, counters.requests(result) as f64);
    }
    out.family("icecore_write_rows_total", "Rows stored, by type.", MetricKind::Counter);
    for (name, counter) in [
        ("sample", &counters.samples),
        ("histogram", &counters.histograms),
        ("exemplar", &counters.exemplars),
    ] {
        out.row("", vec![("type", name.to_owned())], counter.get() as f64);
    }
    out.family(
        "icecore_write_rows_refused_total",
        "Rows refused for good, by whether the answer says so.",
        MetricKind::Counter,
    );
    for (answer, counter) in [("400", &counters.refused_told), ("204", &counters.refused_silently)]
    {
        out.row("", vec![("answer", answer.to_owned())], counter.get() as f64);
    }
    out.counter(
        "icecore_write_body_bytes_total",
        "Bytes of write bodies as they arrived.",
        counters.body_bytes.get(),
    );
}

fn queries(out: &mut Gathered, app: &App) {
    let counters = &app.counters.query;
    out.family(
        "icecore_query_duration_seconds",
        "Time that queries took to evaluate, waiting included.",
        MetricKind::Histogram,
    );
    for (kind, durations) in
        [("instant", &counters.instant_durations), ("range", &counters.range_durations)]
    {
        out.durations(&[("type", kind.to_owned())], durations);
    }
    for (name, help, counter) in [
        ("icecore_query_failed_total", "Queries that ended in an error.", &counters.failed),
        (
            "icecore_query_canceled_total",
            "Queries that were given up because their client had gone.",
            &counters.canceled,
        ),
        (
            "icecore_query_timed_out_total",
            "Queries that ran until their deadline.",
            &counters.timed_out,
        ),
        ("icecore_query_samples_total", "Samples that queries looked at.", &counters.samples),
        ("icecore_query_series_total", "Series that queries selected.", &counters.series),
    ] {
        out.counter(name, help, counter.get());
    }
    let running = app.config.query_concurrency - app.gates.queries.available_permits();
    out.gauge("icecore_queries_running", "Queries that run at present.", running as f64);
    out.gauge(
        "icecore_queries_running_max",
        "How many may run at once.",
        app.config.query_concurrency as f64,
    );
    let free = app.gates.query_queue.available_permits();
    let places = app.config.query_concurrency + QUERIES_WAITING_MAX;
    let waiting = places.saturating_sub(free).saturating_sub(running);
    out.gauge("icecore_queries_waiting", "Queries that wait for others to end.", waiting as f64);
    let memory = app.engine.memory();
    let (held, max) = (memory.bytes_held() as f64, memory.bytes_max() as f64);
    out.gauge("icecore_query_memory_bytes", "Memory that queries and answers hold.", held);
    out.gauge("icecore_query_memory_bytes_max", "How much they may hold together.", max);
}

fn result_cache(out: &mut Gathered, app: &App) {
    let CacheStats {
        hits,
        partial_hits,
        misses,
        uncacheable,
        fallbacks,
        steps_saved,
        evictions,
        entries,
        bytes,
    } = app.result_cache.stats();
    out.family(
        "icecore_query_cache_requests_total",
        "Range queries by how much of their answer was in the result cache.",
        MetricKind::Counter,
    );
    for (result, count) in
        [("hit", hits), ("partial", partial_hits), ("miss", misses), ("uncacheable", uncacheable)]
    {
        out.row("", vec![("result", result.to_owned())], count as f64);
    }
    for (name, help, count) in [
        (
            "icecore_query_cache_fallbacks_total",
            "Queries that were evaluated whole after a part was found.",
            fallbacks,
        ),
        (
            "icecore_query_cache_steps_saved_total",
            "Steps of answers that came from the result cache.",
            steps_saved,
        ),
        ("icecore_query_cache_evictions_total", "Queries dropped for want of room.", evictions),
    ] {
        out.counter(name, help, count);
    }
    let max = app.config.result_cache_bytes as f64;
    out.gauge("icecore_query_cache_entries", "Queries whose results are kept.", entries as f64);
    out.gauge("icecore_query_cache_bytes", "Memory of the result cache.", bytes as f64);
    out.gauge("icecore_query_cache_bytes_max", "How much it may take.", max);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::Method;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_text_is_well_formed() {
        let app = App::new(Config::new("unused"), ([127, 0, 0, 1], 9494).into());
        app.counters.http.observe(0, &Method::GET, 200, Duration::from_millis(3));
        let text = expose(&gather(&app));
        let mut family = "";
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# TYPE ") {
                family = comment.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                assert!(line.starts_with(family), "{line} follows the TYPE of {family}");
                let value = line.rsplit_once(' ').unwrap().1;
                assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line}");
            }
        }
        let template = ROUTES[0].template;
        let expected = format!(
            "icecore_http_requests_total{{handler=\"{template}\",method=\"GET\",code=\"2xx\"}} 1\n"
        );
        assert!(text.contains(&expected), "{text}");
        assert!(text.contains("icecore_http_request_duration_seconds_bucket{handler="));
    }

    #[test]
    fn every_family_is_documented() {
        let docs = include_str!("../../docs/operations.md");
        let app = App::new(Config::new("unused"), ([127, 0, 0, 1], 9494).into());
        app.counters.http.observe(0, &Method::GET, 200, Duration::ZERO);
        let mut families = Gathered(gather(&app));
        storage(&mut families, &Stats { head_range_ms: Some((0, 1)), ..Stats::default() });
        for family in families.0.iter().filter(|family| !family.name.starts_with("process_")) {
            assert!(
                docs.contains(&format!("`{}", family.name)),
                "{} is not documented",
                family.name
            );
        }
    }

    #[test]
    fn rows_become_series() {
        let family = Family {
            name: "up",
            help: "",
            kind: MetricKind::Gauge,
            rows: vec![Row { suffix: "", labels: vec![("b", "2".into())], value: 1.0 }],
        };
        let labels = family.series(&family.rows[0], &[("job", "icecore")]);
        assert_eq!(labels.to_string(), r#"up{b="2", job="icecore"}"#);
    }
}
