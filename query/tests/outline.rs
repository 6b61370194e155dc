//! Statistics in place of samples: an answer made of chunks' statistics is that made of all samples,
//! to the last bit, and so is what is said of its cost. And they are used where they may be.

mod stores;

use std::sync::atomic::{AtomicU64, Ordering};

use icecore_query::engine::{Answer, Engine, EngineOptions, QueryOptions};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::source::{Charge, SelectedSeries, Selection, Source, SourceError};
use icecore_query::value::{MatrixSeries, Point, Value, VectorSample};
use icecore_storage::Snapshot;
use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint};
use icecore_storage::metrics::sample::{Samples, stale_nan};
use icecore_storage::outline::Outliner;
use proptest::prelude::*;

use stores::database::{BlockStore, Database, HOUR_MS, HeadStore, number};
use stores::{Sample, Series, Store, When};

/// The start of a window.
const START_MS: i64 = 1_000 * 2 * HOUR_MS;
const HOURS: i64 = 16;
const END_MS: i64 = START_MS + HOURS * HOUR_MS;

const FUNCTIONS: [&str; 23] = [
    "absent_over_time",
    "avg_over_time",
    "changes",
    "count_over_time",
    "delta",
    "first_over_time",
    "idelta",
    "increase",
    "irate",
    "last_over_time",
    "max_over_time",
    "min_over_time",
    "present_over_time",
    "rate",
    "resets",
    "stddev_over_time",
    "sum_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
    "deriv",
    "default_rollup",
];

/// Samples in blocks, most of them alone in their window: the newest are in the head, and some
/// series have late ones, in a second block of the window or in the head.
#[derive(Debug, Default)]
struct SealedStore {
    database: Database,
}

impl SealedStore {
    fn append(&mut self, series: &[Series]) {
        self.database.append(series, |_, _| true);
    }

    fn seal(&mut self) {
        self.database.maintain(usize::MAX);
    }
}

impl Store for SealedStore {
    type Source<'a> = Snapshot;

    fn load(&mut self, series: &[Series]) {
        let times = series.iter().flat_map(|(_, samples)| samples).map(|one| one.timestamp);
        let newest_ms = times.max().unwrap_or(0) - 2 * HOUR_MS;
        let late = |labels: &Labels, one: &Sample| {
            let of_series = labels.identity() % 4;
            let is_late = one.timestamp < newest_ms && number(labels, one).is_multiple_of(40);
            if is_late { of_series } else { 0 }
        };
        let is_new = |one: &Sample| one.timestamp >= newest_ms;
        let database = &mut self.database;
        database.append(series, |labels, one| late(labels, one) < 2 && !is_new(one));
        database.maintain(usize::MAX);
        database.append(series, |labels, one| late(labels, one) == 2);
        let windows = database.db().blocks().len();
        database.maintain(windows);
        database.append(series, |labels, one| late(labels, one) == 3 || is_new(one));
    }

    fn source(&self) -> Snapshot {
        self.database.db().snapshot()
    }
}

/// A snapshot, of which samples are counted that have others in their place.
struct Counting<'a> {
    snapshot: &'a Snapshot,
    uses_statistics: bool,
    left_out: AtomicU64,
}

impl<'a> Counting<'a> {
    fn new(snapshot: &'a Snapshot, uses_statistics: bool) -> Counting<'a> {
        Counting { snapshot, uses_statistics, left_out: AtomicU64::new(0) }
    }
}

impl Source for Counting<'_> {
    type Series = <Snapshot as Source>::Series;

    fn select(
        &self,
        selections: &[Selection],
        charge: &mut Charge<'_>,
    ) -> Result<Vec<SelectedSeries<Self::Series>>, SourceError> {
        let mut selected = Source::select(self.snapshot, selections, charge)?;
        selected.iter_mut().for_each(|series| series.sort_by(|a, b| a.0.cmp(&b.0)));
        Ok(selected)
    }

    fn read(&self, series: &Self::Series, into: &mut Samples) -> Result<(), SourceError> {
        Source::read(self.snapshot, series, into)
    }

    fn outline(
        &self,
        series: &Self::Series,
        outliner: Outliner<'_>,
        into: &mut Samples,
    ) -> Result<(), SourceError> {
        if !self.uses_statistics {
            outliner.left_out.clear();
            return self.read(series, into);
        }
        let Outliner { windows, stand_in, bucket, columns, left_out } = outliner;
        let outliner = Outliner { windows, stand_in, bucket, columns, left_out };
        Source::outline(self.snapshot, series, outliner, into)?;
        let samples = left_out.iter().map(|one| one.samples.unsigned_abs()).sum();
        self.left_out.fetch_add(samples, Ordering::Relaxed);
        Ok(())
    }
}

fn engine() -> Engine {
    Engine::new(EngineOptions { per_step_stats: true, ..EngineOptions::default() })
}

fn ask<S: Source>(source: &S, query: &str, when: When) -> Answer {
    let asked = QueryOptions { per_step_stats: true, ..QueryOptions::default() };
    let parsed = parser::parse(query, ParserOptions::ALL).expect(query);
    let answer = match when {
        When::Instant { time_ms } => engine().instant(source, query, &parsed, time_ms, &asked),
        When::Range { start_ms, end_ms, step_ms } => {
            engine().range(source, query, &parsed, start_ms, end_ms, step_ms, &asked)
        }
    };
    answer.expect(query)
}

/// The value of an answer, floats by their bits.
fn bits(answer: &Answer) -> Vec<String> {
    let float = |value: f64| match value.is_nan() {
        true => "NaN".to_owned(),
        false => format!("{value} {:x}", value.to_bits()),
    };
    let mut lines: Vec<String> = match &answer.value {
        Value::Vector(samples) => {
            let line = |one: &VectorSample| match &one.point {
                Point::Float(value) => format!("{:?} {}", one.labels, float(*value)),
                Point::Histogram(_) => format!("{one:?}"),
            };
            samples.iter().map(line).collect()
        }
        Value::Matrix(series) => {
            let line = |one: &MatrixSeries| {
                let floats =
                    one.floats.iter().map(|(at, value)| format!("{at}: {}", float(*value)));
                let floats: Vec<String> = floats.collect();
                format!("{:?} {floats:?} {:?}", one.labels, one.histograms)
            };
            series.iter().map(line).collect()
        }
        other => vec![format!("{other:?}")],
    };
    lines.sort();
    lines
}

/// All there is in an answer.
fn whole(answer: &Answer) -> String {
    let Answer { warnings, infos, stats, .. } = answer;
    format!("{:#?} {warnings:?} {infos:?} {stats:?}", bits(answer))
}

/// What the values of a series are like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    FloatCounter,
    Gauge,
    Zeros,
    Huge,
    Constant,
    Wild,
}

/// A series of the kind, of which a sample comes every `every_ms`; `random` are numbers below 1000.
fn series(number: usize, kind: Kind, every_ms: i64, has_odd: bool, random: &[u32]) -> Series {
    let labels = [("__name__", "m_total".to_owned()), ("n", format!("{number}"))];
    let labels = Labels::from_pairs(labels).expect("names that differ");
    let mut counter = 0.0;
    let sample = |(index, timestamp): (usize, i64)| {
        let chance = random[index * 7 % random.len()];
        let mut next = random[(index + number) % random.len()];
        let step = f64::from(next % 50);
        let value = match kind {
            Kind::Counter | Kind::FloatCounter => {
                let is_reset = chance < 15;
                let step = if matches!(kind, Kind::Counter) { step } else { step * 0.1 };
                counter = if is_reset { step } else { counter + step };
                counter
            }
            Kind::Gauge => step - 20.0,
            Kind::Zeros if chance > 980 => 1.0,
            Kind::Zeros => [0.0, -0.0][(next % 2) as usize],
            Kind::Huge => (step - 25.0) * 5e13,
            Kind::Constant => -0.0,
            Kind::Wild => {
                next %= 7;
                [0.1, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, 1e308, -3.5][next as usize]
            }
        };
        let value = match (has_odd, chance) {
            (true, 990..995) => stores::Value::Float(stale_nan()),
            (true, 995..998) => stores::Value::Float(f64::NAN),
            (true, 998) => stores::Value::Histogram(histogram(u64::from(next))),
            _ => stores::Value::Float(value),
        };
        Sample { timestamp, start_timestamp: 0, value }
    };
    let times = (START_MS + number as i64 / 7..END_MS).step_by(every_ms as usize);
    (labels, times.enumerate().map(sample).collect())
}

fn histogram(count: u64) -> Histogram {
    Histogram {
        schema: 0,
        zero_threshold: 0.0,
        sum: 0.0,
        reset_hint: ResetHint::Unknown,
        positive_spans: vec![],
        negative_spans: vec![],
        counts: Counts::Integer { count, zero_count: count, positive: vec![], negative: vec![] },
        custom_values: vec![],
    }
}

fn many() -> impl Strategy<Value = Vec<Series>> {
    use Kind::*;
    let kind = prop::sample::select(vec![
        Counter,
        FloatCounter,
        Gauge,
        Zeros,
        Huge,
        Constant,
        Wild,
        Counter,
        Gauge,
    ]);
    let every_ms = prop::sample::select(vec![120_000i64, 299_999, 600_000]);
    let random = prop::collection::vec(0..1000u32, 64..400);
    let one = (kind, every_ms, prop::bool::weighted(0.3), random);
    prop::collection::vec(one, 12..20).prop_map(|all| {
        let one = |(number, (kind, every_ms, has_odd, random)): (usize, _)| {
            let random: Vec<u32> = random;
            series(number, kind, every_ms, has_odd, &random)
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

fn when() -> impl Strategy<Value = When> {
    let start_ms = (START_MS + 4 * HOUR_MS..END_MS + HOUR_MS, any::<bool>());
    // Some on the clock, so that windows begin and end where chunks do.
    let start_ms = start_ms.prop_map(|(at, round)| if round { at / HOUR_MS * HOUR_MS } else { at });
    let step_ms = prop::sample::select(vec![HOUR_MS / 4, HOUR_MS, 2 * HOUR_MS, 5 * HOUR_MS]);
    let steps = prop::sample::select(vec![1i64, 1, 2, 5]);
    (start_ms, step_ms, steps).prop_map(|(start_ms, step_ms, steps)| match steps {
        1 => When::Instant { time_ms: start_ms },
        _ => When::Range { start_ms, end_ms: start_ms + (steps - 1) * step_ms, step_ms },
    })
}

/// Asks with statistics and without, and gives the answers.
fn check<S>(series: &[Series], asked: &[(String, When)]) -> Result<Vec<Vec<String>>, TestCaseError>
where
    for<'a> S: Store<Source<'a> = Snapshot>,
{
    let mut store = S::default();
    store.load(series);
    let snapshot = store.source();
    let mut answers = Vec::new();
    for (query, when) in asked {
        let with = ask(&Counting::new(&snapshot, true), query, *when);
        let without = ask(&Counting::new(&snapshot, false), query, *when);
        prop_assert_eq!(whole(&with), whole(&without), "{} {:?}", query, when);
        let again = store.evaluate(&engine(), query, *when).expect(query);
        prop_assert_eq!(bits(&again), bits(&without), "{} {:?}", query, when);
        answers.push(bits(&without));
    }
    Ok(answers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn statistics_and_samples_give_one_answer(
        series in many(),
        windows in prop::collection::vec((when(), 2..12i64, any::<bool>()), 3),
    ) {
        let ask = |(when, hours, is_fixed): &(When, i64, bool)| {
            let at = if *is_fixed { " @ end()" } else { "" };
            FUNCTIONS.map(|function| (format!("{function}(m_total[{hours}h]{at})"), *when))
        };
        let asked: Vec<(String, When)> = windows.iter().flat_map(ask).collect();
        let sealed = check::<SealedStore>(&series, &asked)?;
        prop_assert_eq!(&sealed, &check::<BlockStore>(&series, &asked)?);
        prop_assert_eq!(&sealed, &check::<HeadStore>(&series, &asked)?);
    }
}

/// Twenty counters, a sample a minute.
fn counters() -> Vec<Series> {
    let random: Vec<u32> = (0..101).map(|n| n * 37 % 1000).collect();
    (0..20).map(|number| series(number, Kind::Counter, 60_000, false, &random)).collect()
}

/// Samples of a query that were not looked at, once statistics are at hand.
fn left_out(store: &SealedStore, query: &str, when: When) -> u64 {
    let snapshot = store.source();
    for _ in 0..3 {
        ask(&Counting::new(&snapshot, true), query, when);
    }
    let source = Counting::new(&snapshot, true);
    ask(&source, query, when);
    source.left_out.into_inner()
}

#[test]
fn statistics_stand_for_the_chunks_that_windows_have_as_a_whole() {
    let mut store = SealedStore::default();
    store.append(&counters());
    store.seal();
    let now = When::Instant { time_ms: END_MS };
    // Of 20 series and 120 samples a chunk.
    let of = |chunks: u64, rows: u64| 20 * chunks * (120 - rows);
    assert_eq!(left_out(&store, "max_over_time(m_total[5h])", now), of(2, 1));
    assert_eq!(left_out(&store, "avg_over_time(m_total[5h])", now), of(2, 1));
    assert_eq!(left_out(&store, "delta(m_total[5h])", now), of(2, 2));
    assert_eq!(left_out(&store, "stddev_over_time(m_total[5h])", now), 0);
    assert_eq!(left_out(&store, "max_over_time(m_total[119m])", now), 0);
    // Steps of an hour cut every chunk that they reach, and leave those between.
    let (start_ms, end_ms) = (END_MS - 4 * HOUR_MS, END_MS);
    let steps = When::Range { start_ms, end_ms, step_ms: HOUR_MS };
    assert_eq!(left_out(&store, "max_over_time(m_total[11h])", steps), of(3, 1));
}

#[test]
fn whatever_reaches_into_a_chunk_turns_its_statistics_off() {
    let now = When::Instant { time_ms: END_MS };
    let query = "max_over_time(m_total[7h])";
    let mut series = counters();
    let late = series[0].1.remove(11 * 60);
    let late = [(series[0].0.clone(), vec![late])];
    let mut store = SealedStore::default();
    store.append(&series);
    store.seal();
    let before = 20 * 3 * 119 - 1;
    assert_eq!(left_out(&store, query, now), before);
    store.append(&late);
    assert_eq!(left_out(&store, query, now), before - 119 - 118 - 119, "late, in the head");
    store.seal();
    assert_eq!(left_out(&store, query, now), before + 1, "sealed and merged");
    // Samples of the head are behind the blocks, until the newest window is sealed.
    let next = |one: &Sample| Sample { timestamp: one.timestamp + HOURS * HOUR_MS, ..one.clone() };
    let newer = series.iter().map(|(labels, of)| (labels.clone(), of.iter().map(next).collect()));
    store.append(&newer.collect::<Vec<_>>());
    assert_eq!(left_out(&store, query, now), before + 1, "newer ones in the head");
}
