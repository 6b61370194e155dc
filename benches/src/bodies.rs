//! A seeded workload: what a Prometheus that scrapes a few hundred targets would send.
//!
//! A *target* is scraped as a whole: all its series share a timestamp, which lies on a 15 s grid
//! of the target's own, with the jitter of a real scraper. Values are a mix of what exporters
//! report: counters of integers, of seconds in hundredths and of float sums; gauges in bytes, in
//! few decimals and in many; histogram buckets; and many that never change. Requests hold one
//! sample for each `TimeSeries`, as Prometheus sends them.
//!
//! Of 20,000 series, 480 service targets bring 41 each, among them 12 histogram buckets (5,760 in
//! all), three counters `http_requests_total` and three gauges `queue_depth` (1,440), and memory
//! total and available (480 pairs by job and instance); 8 gateways bring 40 temperatures each.

/// What to make, and when it happened.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub series: usize,
    pub scrapes: usize,
    pub samples_per_request: usize,
    /// Targets are dealt to connections, so that each series stays on one, in order.
    pub connections: usize,
    /// No sample is later.
    pub end_ms: i64,
}

pub const INTERVAL_MS: i64 = 15_000;

/// Measured on real scrapers: timestamps stray from their grid by a few milliseconds.
const JITTER_MS: f64 = 3.0;

const GATEWAY_SERIES: usize = 40;
const SERIES_PER_GATEWAY: usize = 2_500;

impl Plan {
    pub fn samples(&self) -> usize {
        self.series * self.scrapes
    }

    /// The first scrape's time.
    pub fn start_ms(&self) -> i64 {
        self.end_ms - self.scrapes as i64 * INTERVAL_MS
    }

    /// The requests of one connection.
    pub fn stream(&self, connection: usize) -> Stream {
        let targets = targets(self);
        let own = targets.into_iter().skip(connection).step_by(self.connections).collect();
        Stream {
            plan: *self,
            targets: own,
            scrape: 0,
            target: 0,
            series: 0,
            scraped: Scraped::default(),
        }
    }
}

/// Makes the requests of one connection, one after the other.
#[derive(Debug)]
pub struct Stream {
    plan: Plan,
    targets: Vec<Target>,
    /// Where the next sample comes from.
    scrape: usize,
    target: usize,
    series: usize,
    scraped: Scraped,
}

/// A target's answer, not all of it sent yet.
#[derive(Debug, Default)]
struct Scraped {
    timestamp: i64,
    values: Vec<f64>,
}

impl Stream {
    /// Writes the next `WriteRequest`, not compressed, and returns how many samples it has; 0 at
    /// the end.
    pub fn next_request(&mut self, out: &mut Vec<u8>) -> usize {
        out.clear();
        let mut samples = 0;
        while samples < self.plan.samples_per_request && self.scrape < self.plan.scrapes {
            if self.targets.is_empty() {
                break;
            }
            let start = self.plan.start_ms() + self.scrape as i64 * INTERVAL_MS;
            let target = &mut self.targets[self.target];
            if self.series == 0 {
                target.scrape(start, &mut self.scraped);
            }
            let value = self.scraped.values[self.series];
            write_series(out, &target.labels[self.series], self.scraped.timestamp, value);
            samples += 1;
            self.series += 1;
            if self.series == target.labels.len() {
                self.series = 0;
                self.target += 1;
            }
            if self.target == self.targets.len() {
                self.target = 0;
                self.scrape += 1;
            }
        }
        samples
    }
}

/// One snappy block, as remote write 1.0 wants it.
pub fn compress(request: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(request).expect("a request is below 4 GiB")
}

/// `WriteRequest.timeseries` with one sample.
fn write_series(out: &mut Vec<u8>, labels: &[u8], timestamp: i64, value: f64) {
    let mut sample = [0; 24];
    let mut length = 0;
    let mut push = |bytes: &[u8]| {
        sample[length..length + bytes.len()].copy_from_slice(bytes);
        length += bytes.len();
    };
    // As Prometheus's encoder does, fields that are zero are left out.
    if value.to_bits() != 0 {
        push(&[0x09]);
        push(&value.to_bits().to_le_bytes());
    }
    push(&[0x10]);
    let mut rest = timestamp as u64;
    while rest >= 0x80 {
        push(&[rest as u8 | 0x80]);
        rest >>= 7;
    }
    push(&[rest as u8]);
    out.push(0x0a);
    write_varint(out, labels.len() + 2 + length);
    out.extend_from_slice(labels);
    out.push(0x12);
    out.push(length as u8);
    out.extend_from_slice(&sample[..length]);
}

fn write_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `TimeSeries.labels`, sorted by name.
fn encode_labels(mut pairs: Vec<(&str, String)>) -> Vec<u8> {
    pairs.sort_unstable();
    let mut out = Vec::new();
    for (name, value) in pairs {
        out.push(0x0a);
        write_varint(&mut out, 4 + name.len() + value.len());
        for (tag, text) in [(0x0a, name), (0x12, &value)] {
            assert!(text.len() < 0x80 && name.len() + value.len() + 4 < 0x4000, "short labels");
            out.push(tag);
            write_varint(&mut out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// Something that is scraped as a whole.
#[derive(Debug)]
struct Target {
    offset_ms: i64,
    labels: Vec<Vec<u8>>,
    signals: Vec<Signal>,
    latency: Latency,
    random: Random,
}

impl Target {
    fn scrape(&mut self, start_ms: i64, scraped: &mut Scraped) {
        let jitter = (self.random.normal() * JITTER_MS).clamp(-100.0, 100.0) as i64;
        scraped.timestamp = start_ms + self.offset_ms + jitter;
        self.latency.observe(&mut self.random);
        scraped.values.clear();
        for signal in &mut self.signals {
            scraped.values.push(signal.next(&mut self.random, &self.latency));
        }
    }

    fn push(
        &mut self,
        common: &[(&'static str, String)],
        own: &[(&'static str, String)],
        signal: Signal,
    ) {
        self.labels.push(encode_labels([common, own].concat()));
        self.signals.push(signal);
    }
}

fn targets(plan: &Plan) -> Vec<Target> {
    let gateways = plan.series / SERIES_PER_GATEWAY;
    let mut targets: Vec<Target> = (0..gateways).map(|i| gateway(plan.seed, i)).collect();
    let mut left = plan.series - gateways * GATEWAY_SERIES;
    for i in 0.. {
        if left == 0 {
            break;
        }
        let mut target = service(plan.seed, i);
        target.labels.truncate(left);
        target.signals.truncate(left);
        left -= target.labels.len();
        targets.push(target);
    }
    targets
}

fn gateway(seed: u64, index: usize) -> Target {
    let mut target = Target::new(seed, 1_000_000 + index);
    let common = [
        ("cluster", format!("plant-{seed}")),
        ("env", "prod".to_owned()),
        ("instance", format!("gateway-{index}:9100")),
        ("job", "gateway".to_owned()),
        ("site", format!("hall-{}", index % 3)),
    ];
    for device in 0..GATEWAY_SERIES {
        let own = [
            ("__name__", "device_temperature_celsius".to_owned()),
            ("device", format!("sensor-{device:02}")),
            ("unit", format!("rack-{}", device / 8)),
        ];
        let value = 200 + target.random.below(400) as i64;
        target.push(&common, &own, Signal::Walk { value, step: 2, scale: 10.0, unit: 1.0 });
    }
    target
}

const LE: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn service(seed: u64, index: usize) -> Target {
    let mut target = Target::new(seed, index);
    let job = index % 10;
    let (hash, suffix) = (target.random.next() as u32, target.random.below(100_000));
    let common = [
        ("cluster", format!("eu-central-{seed}")),
        ("env", "prod".to_owned()),
        ("instance", format!("10.{}.{}.{}:8080", index >> 16 & 255, index >> 8 & 255, index & 255)),
        ("job", format!("service-{job}")),
        ("namespace", format!("team-{}", job / 2)),
        ("node", format!("node-{:03}", index / 4 % 1000)),
        ("pod", format!("service-{job}-{hash:08x}-{suffix:05}")),
    ];
    let own = |name: &str, more: &[(&'static str, &str)]| {
        let mut own = vec![("__name__", name.to_owned())];
        own.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        own
    };
    for (bucket, bound) in LE.iter().map(f64::to_string).chain(["+Inf".to_owned()]).enumerate() {
        let labels = own("http_request_duration_seconds_bucket", &[("le", &bound)]);
        target.push(&common, &labels, Signal::Bucket(bucket));
    }
    target.push(&common, &own("http_request_duration_seconds_sum", &[]), Signal::LatencySum);
    target.push(
        &common,
        &own("http_request_duration_seconds_count", &[]),
        Signal::Bucket(LE.len()),
    );
    for (code, rate) in [("200", 14.0), ("404", 0.3), ("500", 0.002)] {
        let labels = own("http_requests_total", &[("code", code), ("handler", "/api/v1/items")]);
        let value = target.random.below(1_000_000) as f64;
        target.push(&common, &labels, Signal::Counter { value, rate });
    }
    for (queue, step) in [("mail", 1), ("index", 3), ("export", 0)] {
        let value = target.random.below(60) as i64;
        let labels = own("queue_depth", &[("queue", queue)]);
        target.push(&common, &labels, Signal::Walk { value, step, scale: 1.0, unit: 1.0 });
    }
    let memory = (1 + target.random.below(8)) as i64 * (1 << 20);
    let total = own("node_memory_MemTotal_bytes", &[]);
    target.push(&common, &total, Signal::Constant(memory as f64 * 4096.0));
    let available = Signal::Walk { value: memory / 3, step: 900, scale: 1.0, unit: 4096.0 };
    target.push(&common, &own("node_memory_MemAvailable_bytes", &[]), available);
    let modes = [
        ("idle", 0.8),
        ("user", 0.12),
        ("system", 0.05),
        ("iowait", 0.01),
        ("softirq", 0.003),
        ("irq", 0.0),
        ("nice", 0.0),
        ("steal", 0.0),
    ];
    for (mode, share) in modes {
        let ticks = (share * 1e9 * (0.5 + target.random.unit())) as u64;
        let labels = own("node_cpu_seconds_total", &[("mode", mode)]);
        target.push(&common, &labels, Signal::Ticks { ticks, share });
    }
    target.push(&common, &own("up", &[]), Signal::Constant(1.0));
    target.push(&common, &own("scrape_duration_seconds", &[]), Signal::Noise { mean: 0.004 });
    target.push(&common, &own("scrape_samples_scraped", &[]), Signal::Constant(37.0));
    target.push(&common, &own("scrape_series_added", &[]), Signal::Constant(0.0));
    let started = 1_750_000_000.0 + (target.random.unit() * 1e8).floor() / 100.0;
    target.push(&common, &own("process_start_time_seconds", &[]), Signal::Constant(started));
    let resident = Signal::Walk { value: 40_000, step: 6, scale: 1.0, unit: 4096.0 };
    target.push(&common, &own("process_resident_memory_bytes", &[]), resident);
    let cpu = Signal::Ticks { ticks: target.random.below(10_000_000), share: 0.07 };
    target.push(&common, &own("process_cpu_seconds_total", &[]), cpu);
    let goroutines = Signal::Walk { value: 120, step: 4, scale: 1.0, unit: 1.0 };
    target.push(&common, &own("go_goroutines", &[]), goroutines);
    let build = own("build_info", &[("revision", "3f2a9c1"), ("version", "4.11.2")]);
    target.push(&common, &build, Signal::Constant(1.0));
    let load = Signal::Walk { value: 120, step: 9, scale: 100.0, unit: 1.0 };
    target.push(&common, &own("node_load1", &[]), load);
    let free = Signal::Walk { value: 9_000_000, step: 40, scale: 1.0, unit: 4096.0 };
    target.push(&common, &own("node_filesystem_avail_bytes", &[("mountpoint", "/var")]), free);
    target
}

impl Target {
    fn new(seed: u64, index: usize) -> Target {
        let mut random = Random::new(seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let latency =
            Latency { rate: 14.0, mean: 0.02 + 0.2 * random.unit(), ..Latency::default() };
        let offset_ms = random.below(INTERVAL_MS as u64 - 1_000) as i64 + 500;
        Target { offset_ms, labels: Vec::new(), signals: Vec::new(), latency, random }
    }
}

/// How a series goes on.
#[derive(Debug)]
enum Signal {
    Constant(f64),
    /// Counts events.
    Counter {
        value: f64,
        rate: f64,
    },
    /// Counts seconds in hundredths.
    Ticks {
        ticks: u64,
        share: f64,
    },
    /// A gauge `value * unit / scale` that takes steps up to `step` either way, often none.
    Walk {
        value: i64,
        step: i64,
        scale: f64,
        unit: f64,
    },
    /// A measured time, in nanoseconds' resolution.
    Noise {
        mean: f64,
    },
    /// Cumulative count of the target's latency histogram.
    Bucket(usize),
    LatencySum,
}

impl Signal {
    fn next(&mut self, random: &mut Random, latency: &Latency) -> f64 {
        match self {
            Signal::Constant(value) => *value,
            Signal::Counter { value, rate } => {
                *value += random.poisson(*rate) as f64;
                *value
            }
            Signal::Ticks { ticks, share } => {
                let mean = *share * INTERVAL_MS as f64 / 10.0;
                *ticks += (mean + mean.sqrt() * random.normal()).max(0.0) as u64;
                *ticks as f64 / 100.0
            }
            Signal::Walk { value, step, scale, unit } => {
                if *step > 0 && random.below(3) > 0 {
                    let change = random.below(2 * *step as u64 + 1) as i64 - *step;
                    *value = (*value + change).max(0);
                }
                *value as f64 * *unit / *scale
            }
            Signal::Noise { mean } => {
                let factor = (0.3 * random.normal()).exp();
                (*mean * factor * 1e9).floor() / 1e9
            }
            Signal::Bucket(bucket) => latency.counts[..=*bucket].iter().sum::<u64>() as f64,
            Signal::LatencySum => latency.sum,
        }
    }
}

/// Requests' durations, exponentially distributed.
#[derive(Debug, Default)]
struct Latency {
    rate: f64,
    mean: f64,
    counts: [u64; LE.len() + 1],
    sum: f64,
}

impl Latency {
    fn observe(&mut self, random: &mut Random) {
        for _ in 0..random.poisson(self.rate) {
            let seconds = -self.mean * (1.0 - random.unit()).ln();
            self.counts[LE.iter().filter(|bound| seconds > **bound).count()] += 1;
            self.sum += seconds;
        }
    }
}

/// splitmix64: all the randomness that a workload needs, the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        let mut random = Random(seed);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Irwin and Hall: twelve uniforms are normal enough.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// Knuth's method; `mean` is small.
    fn poisson(&mut self, mean: f64) -> u64 {
        let limit = (-mean).exp();
        let mut product = self.unit();
        let mut events = 0;
        while product > limit {
            product *= self.unit();
            events += 1;
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore_ingest::{Encoding, remote_write};
    use icecore_storage::limits::Limits;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn all_samples_arrive_in_order_and_the_series_are_those_promised() {
        let plan = Plan {
            seed: 1,
            series: 20_000,
            scrapes: 3,
            samples_per_request: 5_000,
            connections: 2,
            end_ms: 1_800_000_000_000,
        };
        let mut newest: HashMap<Vec<u8>, i64> = HashMap::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut samples = 0;
        let mut batch = remote_write::batch();
        for connection in 0..plan.connections {
            let mut stream = plan.stream(connection);
            let mut request = Vec::new();
            while stream.next_request(&mut request) > 0 {
                let body = compress(&request);
                remote_write::decode(&body, Encoding::Snappy, &Limits::default(), &mut batch)
                    .unwrap();
                assert!(batch.refused.is_empty());
                samples += batch.timestamps.len();
                for (series, timestamp) in batch.series.iter().zip(&batch.timestamps) {
                    let labels = (batch.key_form)(batch.key(series), &Limits::default()).unwrap();
                    assert!(*timestamp <= plan.end_ms);
                    let last = newest.insert(labels.as_bytes().to_vec(), *timestamp);
                    assert!(last.is_none_or(|last| last < *timestamp));
                    if last.is_none() {
                        *names.entry(labels.metric_name().to_owned()).or_default() += 1;
                    }
                }
            }
        }
        assert_eq!((samples, newest.len()), (plan.samples(), plan.series));
        assert_eq!(names["http_requests_total"], 1_440);
        assert_eq!(names["queue_depth"], 1_440);
        assert_eq!(names["http_request_duration_seconds_bucket"], 5_760);
        assert_eq!(names["node_memory_MemAvailable_bytes"], 480);
        assert_eq!(names["device_temperature_celsius"], 320);
    }

    #[test]
    fn another_seed_has_other_series() {
        let series = |seed| {
            let plan = Plan {
                seed,
                series: 3_000,
                scrapes: 1,
                samples_per_request: 1,
                connections: 1,
                end_ms: 0,
            };
            targets(&plan).into_iter().flat_map(|target| target.labels).collect::<HashSet<_>>()
        };
        assert_eq!(series(1).len(), 3_000);
        assert_eq!(series(1).intersection(&series(2)).count(), 0);
    }
}
