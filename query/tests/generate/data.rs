//! Series as a few scraped targets would leave them: counters that are reset, gauges with NaN and
//! infinities, buckets, an information metric; with gaps and stale markers.
//!
//! Scrapes are `SCRAPE_MS` apart, a few milliseconds early or late, so that no window's edge falls
//! on a sample.

use super::choices::Choices;

pub(crate) const SCRAPE_MS: i64 = 15_000;

/// Upper bounds of the buckets.
pub(crate) const BOUNDS: [&str; 5] = ["0.1", "0.5", "1", "5", "+Inf"];

pub(crate) const NATIVE_BUCKETS: usize = 3;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Float(f64),
    Stale,
    /// A native histogram of schema 0: counts of the buckets from index 0 on.
    Native {
        sum: f64,
        counts: [u64; NATIVE_BUCKETS],
    },
}

/// One series: labels with the metric's name, and samples ascending in time.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) samples: Vec<(i64, Value)>,
}

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) start_ms: i64,
    pub(crate) scrapes: u32,
    pub(crate) targets: u32,
    /// Native histograms too.
    pub(crate) natives: bool,
    /// Counters may begin at zero, and be reset while nobody looks. Versions of Prometheus differ in
    /// how far they extrapolate these.
    pub(crate) young_counters: bool,
}

/// The series of all targets, each of them once.
pub(crate) fn series(extent: Extent, choices: &mut Choices) -> Vec<Series> {
    let mut all = Vec::new();
    for target in 0..extent.targets {
        let scrapes = scrapes(extent, choices);
        let young = extent.young_counters;
        let labels = |name: &str, extra: &[(&'static str, &str)]| {
            let own = [("__name__", name.to_owned()), ("job", job(target).to_owned())];
            let instance = ("instance", format!("host-{target}"));
            let extra = extra.iter().map(|(name, value)| (*name, (*value).to_owned()));
            own.into_iter().chain([instance]).chain(extra).collect::<Vec<_>>()
        };
        let mut push = |name, extra: &[(&'static str, &str)], samples| {
            all.push(Series { labels: labels(name, extra), samples });
        };
        for code in ["200", "500"] {
            push("requests_total", &[("code", code)], counter(&scrapes, young, choices));
        }
        push("temperature", &[], gauge(&scrapes, choices));
        let up = |(time, is_up): &(i64, bool)| (*time, Value::Float(f64::from(u8::from(*is_up))));
        push("up", &[], scrapes.iter().map(up).collect());
        let version = choices.pick(&["1.0", "1.1"]);
        push("build_info", &[("version", version)], samples(&scrapes, |_| Value::Float(1.0)));
        let counts = observed::<{ BOUNDS.len() }>(&scrapes, young, choices);
        for (bucket, bound) in BOUNDS.iter().enumerate() {
            let mut counts = counts.iter();
            let cumulative = |counts: &[u64]| counts[..=bucket].iter().sum::<u64>() as f64;
            let value = |_| Value::Float(counts.next().map_or(0.0, |counts| cumulative(counts)));
            push("latency_seconds_bucket", &[("le", bound)], samples(&scrapes, value));
        }
        if extent.natives {
            let counts = observed::<NATIVE_BUCKETS>(&scrapes, young, choices);
            let native = |counts: &[u64; NATIVE_BUCKETS]| {
                let sum = counts.iter().zip(1..).map(|(count, weight)| count * weight).sum::<u64>();
                Value::Native { sum: sum as f64 * 0.75, counts: *counts }
            };
            let mut natives = counts.iter().map(native);
            let value = |_| natives.next().unwrap_or(Value::Stale);
            push("sizes", &[], samples(&scrapes, value));
        }
    }
    all
}

fn job(target: u32) -> &'static str {
    ["api", "db", "web"][target as usize % 3]
}

/// The times at which a target was asked, and whether it answered. Some scrapes are missing.
fn scrapes(extent: Extent, choices: &mut Choices) -> Vec<(i64, bool)> {
    let mut scrapes = Vec::new();
    let mut is_up = true;
    for number in 0..extent.scrapes {
        let time = extent.start_ms + i64::from(number) * SCRAPE_MS;
        let late = 1 + i64::from(choices.below(40));
        is_up = if is_up { !choices.once_in(30) } else { choices.once_in(3) };
        if !choices.once_in(25) {
            scrapes.push((time + late, is_up));
        }
    }
    scrapes
}

/// A value for each answer, and the stale marker for the first that is missing. `value` is told the
/// number of the scrape.
fn samples(scrapes: &[(i64, bool)], mut value: impl FnMut(usize) -> Value) -> Vec<(i64, Value)> {
    let mut was_up = false;
    let mut samples = Vec::new();
    for (number, &(time, is_up)) in scrapes.iter().enumerate() {
        if is_up {
            samples.push((time, value(number)));
        } else if was_up {
            samples.push((time, Value::Stale));
        }
        was_up = is_up;
    }
    samples
}

/// What an old counter starts at.
const OLD: u32 = 10_000;

/// Whether every target may be reset now, old ones too: it is seen to grow for a while from here.
fn may_be_reset(scrapes: &[(i64, bool)], number: usize, young: bool) -> bool {
    const WHILE: usize = 12;
    let near = number.saturating_sub(1)..=number + WHILE;
    let steady =
        |pair: &[(i64, bool)]| pair[0].1 && pair[1].1 && pair[1].0 - pair[0].0 < SCRAPE_MS * 3 / 2;
    young || scrapes.get(near).is_some_and(|near| near.windows(2).all(steady))
}

fn counter(scrapes: &[(i64, bool)], young: bool, choices: &mut Choices) -> Vec<(i64, Value)> {
    let mut count = if young { 0.0 } else { f64::from(OLD) };
    samples(scrapes, |number| {
        if choices.once_in(40) && may_be_reset(scrapes, number, young) {
            count = 0.0;
        }
        count += f64::from(choices.below(200)) / 8.0;
        Value::Float(count)
    })
}

/// The largest is one of a sign and has a square, so that sums of such differ by rounding only;
/// none is subnormal, of which Go's logarithm is wrong.
const EXTREMES: [f64; 6] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-300, 1e150];

fn gauge(scrapes: &[(i64, bool)], choices: &mut Choices) -> Vec<(i64, Value)> {
    samples(scrapes, |_| {
        Value::Float(match choices.below(50) {
            49 => choices.pick(&EXTREMES),
            _ => f64::from(choices.below(2000)) / 37.0 - 5.0,
        })
    })
}

/// Observations in each bucket so far, for each answer.
fn observed<const N: usize>(
    scrapes: &[(i64, bool)],
    young: bool,
    choices: &mut Choices,
) -> Vec<[u64; N]> {
    let mut counts = if young { [0; N] } else { [u64::from(OLD); N] };
    let answers = scrapes.iter().enumerate().filter(|(_, (_, is_up))| *is_up);
    answers
        .map(|(number, _)| {
            if choices.once_in(60) && may_be_reset(scrapes, number, young) {
                counts = [0; N];
            }
            counts.iter_mut().for_each(|count| *count += u64::from(choices.below(9)));
            counts
        })
        .collect()
}
