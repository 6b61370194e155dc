//! Counters that handlers raise and `/metrics` reads.
//!
//! Everything is an atomic in an array whose size the route table and the enums here fix, so no
//! request can add a label value: a path that no route matches counts as [`OTHER_ROUTE`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Method;

use crate::http::error::ErrorKind;
use crate::routes::ROUTES;

/// Index of requests that no route matches.
pub(crate) const OTHER_ROUTE: usize = ROUTES.len();

pub(crate) const METHODS: [&str; 5] = ["GET", "POST", "HEAD", "OPTIONS", "other"];
pub(crate) const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the duration buckets in seconds; the last bucket has none.
pub(crate) const DURATION_BOUNDS: [f64; 9] =
    [0.0005, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A classic histogram of durations.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// Not cumulative; the last is that of durations above every bound.
    buckets: [Counter; DURATION_BOUNDS.len() + 1],
    sum_us: Counter,
}

impl Durations {
    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.buckets[DURATION_BOUNDS.partition_point(|bound| *bound < seconds)].add(1);
        self.sum_us.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts of durations up to each bound, then of all.
    pub(crate) fn cumulative(&self) -> [u64; DURATION_BOUNDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|i| {
            sum += self.buckets[i].get();
            sum
        })
    }

    pub(crate) fn sum_seconds(&self) -> f64 {
        self.sum_us.get() as f64 / 1e6
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub http: HttpCounters,
    pub write: WriteCounters,
    pub query: QueryCounters,
    pub connections_accepted: Counter,
    /// Connections that broke off or broke a rule, time limits included.
    pub connections_failed: Counter,
    pub maintenance_errors: Counter,
}

/// One cell for each route, the unmatched ones' last.
#[derive(Debug)]
pub(crate) struct HttpCounters {
    pub routes: Vec<RouteCounters>,
}

#[derive(Debug, Default)]
pub(crate) struct RouteCounters {
    /// By method and code class.
    pub requests: [[Counter; CODES.len()]; METHODS.len()],
    pub durations: Durations,
}

impl Default for HttpCounters {
    fn default() -> HttpCounters {
        HttpCounters { routes: (0..=OTHER_ROUTE).map(|_| RouteCounters::default()).collect() }
    }
}

impl HttpCounters {
    pub(crate) fn observe(&self, route: usize, method: &Method, status: u16, duration: Duration) {
        let known = METHODS.iter().position(|name| *name == method.as_str());
        let method = known.unwrap_or(METHODS.len() - 1);
        let class = usize::from(status / 100).clamp(1, CODES.len()) - 1;
        self.routes[route].requests[method][class].add(1);
        self.routes[route].durations.observe(duration);
    }
}

/// What became of a write request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteResult {
    /// All of it is stored.
    Stored,
    /// Some rows were refused, the others are stored.
    Partial,
    TooLarge,
    /// An encoding or a message that is not spoken here.
    Unsupported,
    Undecodable,
    /// Nothing was stored; the sender is asked to try again.
    Unavailable,
}

impl WriteResult {
    pub(crate) const ALL: [(WriteResult, &str); 6] = [
        (WriteResult::Stored, "stored"),
        (WriteResult::Partial, "partial"),
        (WriteResult::TooLarge, "too_large"),
        (WriteResult::Unsupported, "unsupported"),
        (WriteResult::Undecodable, "undecodable"),
        (WriteResult::Unavailable, "unavailable"),
    ];
}

#[derive(Debug, Default)]
pub(crate) struct WriteCounters {
    /// By [`WriteResult`].
    requests: [Counter; WriteResult::ALL.len()],
    pub samples: Counter,
    pub histograms: Counter,
    pub exemplars: Counter,
    /// Rows refused for good, by what the sender was told.
    pub refused_told: Counter,
    pub refused_silently: Counter,
    pub body_bytes: Counter,
}

impl WriteCounters {
    pub(crate) fn count(&self, result: WriteResult) {
        self.requests[result as usize].add(1);
    }

    pub(crate) fn requests(&self, result: WriteResult) -> u64 {
        self.requests[result as usize].get()
    }
}

#[derive(Debug, Default)]
pub(crate) struct QueryCounters {
    pub instant_durations: Durations,
    pub range_durations: Durations,
    pub failed: Counter,
    /// Of these, queries that were given up because nobody waited, or at their deadline.
    pub canceled: Counter,
    pub timed_out: Counter,
    /// Samples that queries looked at, as Prometheus counts them.
    pub samples: Counter,
    pub series: Counter,
}

impl QueryCounters {
    /// Counts why a query that has run has failed.
    pub(crate) fn count_failure(&self, kind: ErrorKind) {
        match kind {
            ErrorKind::Canceled => self.canceled.add(1),
            ErrorKind::Timeout => self.timed_out.add(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_a_bound_is_within_it() {
        let durations = Durations::default();
        for ms in [0, 1, 100_000] {
            durations.observe(Duration::from_millis(ms));
        }
        assert_eq!(durations.cumulative(), [1, 2, 2, 2, 2, 2, 2, 2, 2, 3]);
        assert_eq!(durations.sum_seconds(), 100.001);
    }

    #[test]
    fn no_method_or_status_is_beyond_the_arrays() {
        let http = HttpCounters::default();
        let method = Method::from_bytes(b"BREW").unwrap();
        for status in [0, 99, 200, 999] {
            http.observe(OTHER_ROUTE, &method, status, Duration::ZERO);
        }
        assert_eq!(
            http.routes[OTHER_ROUTE].requests[4].each_ref().map(Counter::get),
            [2, 1, 0, 0, 1]
        );
    }

    #[test]
    fn write_results_are_listed_in_their_order() {
        for (i, (result, _)) in WriteResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, i);
        }
    }
}
