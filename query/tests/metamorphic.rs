//! Ways of asking that must not matter: a query asked in two ways has one answer, to the last bit.
//!
//! Queries and series come from [`generate`]. What must not matter: where the samples are (in
//! memory, in the head, in blocks), when it all happened, whether a step is asked alone or in a
//! range, where a range is split, how many threads work, whether the query was printed anew, and
//! what was asked before.

mod generate;
mod stores;

use generate::choices::Choices;
use generate::data::{self, Extent};
use generate::query::{self, Grammar};
use icecore_query::cache::ResultCache;
use icecore_query::engine::{Answer, Engine, EngineOptions, QueryError, QueryOptions};
use icecore_query::histogram::Text;
use icecore_query::parser::ast::{DurationExpr, Expr, Modifiers, NodeKind};
use icecore_query::parser::{self, ParserOptions};
use icecore_query::value::{MatrixSeries, Point, Value};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint, Span};
use icecore_storage::metrics::sample::stale_nan;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use stores::database::{BlockStore, HeadStore};
use stores::fixture::Fixture;
use stores::{Sample, Series, Store, When};

/// Samples are from here on: a multiple of every step of a subquery.
const START_MS: i64 = 1_000_000 * 60_000;

const EXTENT: Extent =
    Extent { start_ms: START_MS, scrapes: 160, targets: 4, natives: true, young_counters: true };

const RANGE: When =
    When::Range { start_ms: START_MS + 600_000, end_ms: START_MS + 2_400_000, step_ms: 45_000 };

const GRAMMAR: Grammar = Grammar {
    at: Some((START_MS / 1000, START_MS / 1000 + 2400)),
    extended_selectors: true,
    natives: true,
    gated: true,
    ..Grammar::COMMON
};

fn series(extent: Extent, seed: u64) -> Vec<Series> {
    data::series(extent, &mut Choices::from_seed(seed)).into_iter().map(stored).collect()
}

fn stored(series: data::Series) -> Series {
    let labels = Labels::from_pairs(series.labels).expect("names that differ");
    let mut starts = match labels.metric_name() {
        "requests_total" | "sizes" => starts(&series.samples),
        _ => Vec::new(),
    }
    .into_iter();
    let sample = |(timestamp, value)| {
        let value = match value {
            data::Value::Float(value) => stores::Value::Float(value),
            data::Value::Stale => stores::Value::Float(stale_nan()),
            data::Value::Native { sum, counts } => {
                stores::Value::Histogram(histogram(sum, &counts))
            }
        };
        Sample { timestamp, start_timestamp: starts.next().unwrap_or(0), value }
    };
    (labels, series.samples.into_iter().map(sample).collect())
}

/// When the counter of each sample started, as its values tell it. Some are not known, and one in
/// twenty samples is a counter that was reset unseen.
fn starts(samples: &[(i64, data::Value)]) -> Vec<i64> {
    let (mut start, mut last) = (START_MS - 5000, 0.0);
    let mut start_of = |(index, (timestamp, value)): (usize, &(i64, data::Value))| {
        let total = match value {
            data::Value::Stale => return 0,
            data::Value::Float(value) => *value,
            data::Value::Native { counts, .. } => counts.iter().sum::<u64>() as f64,
        };
        if total < last || index % 20 == 11 {
            start = timestamp - 3000;
        }
        last = total;
        if index % 7 == 3 { 0 } else { start }
    };
    samples.iter().enumerate().map(&mut start_of).collect()
}

/// A server's engine by default, and one with all features.
fn engines() -> [Engine; 2] {
    let all = EngineOptions {
        delayed_name_removal: true,
        use_start_timestamps: true,
        ..EngineOptions::default()
    };
    [Engine::default(), Engine::new(all)]
}

fn histogram(sum: f64, counts: &[u64]) -> Histogram {
    Histogram {
        schema: 0,
        zero_threshold: 0.0,
        sum,
        reset_hint: ResetHint::Unknown,
        positive_spans: vec![Span { offset: 0, length: counts.len() as u32 }],
        negative_spans: vec![],
        counts: Counts::Integer {
            count: counts.iter().sum(),
            zero_count: 0,
            positive: counts.to_vec(),
            negative: vec![],
        },
        custom_values: vec![],
    }
}

fn loaded<S: Store>(series: &[Series]) -> S {
    let mut store = S::default();
    store.load(series);
    store
}

/// Checks `queries` random queries of a grammar; the same ones in every run.
fn check(queries: u32, grammar: Grammar, test: impl Fn(&str) -> Result<(), TestCaseError>) {
    let config = Config { cases: queries, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let numbers = proptest::collection::vec(any::<u32>(), 0..60);
    let text = numbers.prop_map(move |numbers| query::vector(grammar, &mut Choices::new(numbers)));
    let outcome = TestRunner::new_with_rng(config, rng).run(&text, |text| test(&text));
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// An answer whose equality is that of bits.
fn exact(answer: Result<Answer, QueryError>) -> String {
    match answer {
        Err(error) => format!("error: {error}"),
        Ok(answer) => {
            let Answer { value, warnings, infos, .. } = answer;
            let mut notes = [warnings, infos].concat();
            notes.sort();
            format!("{:?} {notes:?}", points(&value))
        }
    }
}

/// Every point of a value: labels, time, bits of a float or text of a histogram.
fn points(value: &Value) -> Vec<(Labels, i64, String)> {
    let text = |point: &Point| match point {
        // All NaNs are one: which one comes out of an addition is the processor's choice.
        Point::Float(value) if value.is_nan() => "NaN".to_owned(),
        Point::Float(value) => format!("{:016x} ({value})", value.to_bits()),
        Point::Histogram(histogram) => Text(histogram).to_string(),
    };
    let mut found: Vec<(Labels, i64, String)> = match value {
        Value::Vector(vector) => vector
            .iter()
            .map(|sample| (sample.labels.clone(), sample.timestamp, text(&sample.point)))
            .collect(),
        Value::Matrix(matrix) => matrix
            .iter()
            .flat_map(|series| {
                let MatrixSeries { labels, floats, histograms } = series;
                let floats = floats.iter().map(|(time, value)| (*time, Point::Float(*value)));
                let histograms = histograms.iter();
                let histograms =
                    histograms.map(|(time, value)| (*time, Point::Histogram(value.clone())));
                let points = floats.chain(histograms);
                points.map(|(time, point)| (labels.clone(), time, text(&point)))
            })
            .collect(),
        other => vec![(Labels::empty(), 0, format!("{other:?}"))],
    };
    found.sort();
    found
}

fn same(query: &str, ways: [String; 2]) -> Result<(), TestCaseError> {
    let [one, other] = ways;
    prop_assert!(one == other, "{}\n is {}\n and {}", query, one, other);
    Ok(())
}

#[test]
fn most_queries_have_an_answer() {
    let fixture: Fixture = loaded(&series(EXTENT, 1));
    let engine = Engine::default();
    let answered = std::cell::Cell::new(0);
    check(200, GRAMMAR, |query| {
        let answer = fixture.evaluate(&engine, query, RANGE);
        let has_points = answer.is_ok_and(|answer| !points(&answer.value).is_empty());
        answered.set(answered.get() + u32::from(has_points));
        Ok(())
    });
    assert!(answered.get() > 140, "{} of 200", answered.get());
}

#[test]
fn it_does_not_matter_where_the_samples_are() {
    let series = series(EXTENT, 1);
    let fixture: Fixture = loaded(&series);
    let head: HeadStore = loaded(&series);
    let blocks: BlockStore = loaded(&series);
    let engines = engines();
    check(400, GRAMMAR, |query| {
        engines.iter().try_for_each(|engine| {
            let in_memory = exact(fixture.evaluate(engine, query, RANGE));
            same(query, [in_memory.clone(), exact(head.evaluate(engine, query, RANGE))])?;
            same(query, [in_memory, exact(blocks.evaluate(engine, query, RANGE))])
        })
    });
}

#[test]
fn a_step_is_the_same_alone_and_in_a_range() {
    let fixture: Fixture = loaded(&series(EXTENT, 2));
    let [_, engine] = engines();
    check(300, GRAMMAR, |query| {
        let Ok(range) = fixture.evaluate(&engine, query, RANGE) else { return Ok(()) };
        let all = points(&range.value);
        for time_ms in [0, 1, 17, 40].map(|step| START_MS + 600_000 + step * 45_000) {
            let alone = fixture.evaluate(&engine, query, When::Instant { time_ms });
            let alone = alone.map(|answer| points(&answer.value));
            let there: Vec<_> = all.iter().filter(|(_, time, _)| *time == time_ms).collect();
            same(
                query,
                [format!("{:?}", alone.iter().flatten().collect::<Vec<_>>()), format!("{there:?}")],
            )?;
        }
        Ok(())
    });
}

#[test]
fn a_range_is_its_two_parts() {
    let fixture: Fixture = loaded(&series(EXTENT, 3));
    let [_, engine] = engines();
    let part = |query: &str, from: i64, to: i64| {
        let [start_ms, end_ms] = [from, to].map(|step| START_MS + 600_000 + step * 45_000);
        fixture.evaluate(&engine, query, When::Range { start_ms, end_ms, step_ms: 45_000 })
    };
    check(300, GRAMMAR, |query| {
        let whole = part(query, 0, 40);
        let parts = [part(query, 0, 22), part(query, 23, 40)];
        if whole.is_err() {
            prop_assert!(parts.iter().any(Result::is_err), "{}", query);
            return Ok(());
        }
        let of = |answer: &Result<Answer, QueryError>| match answer {
            Ok(answer) => points(&answer.value),
            Err(error) => vec![(Labels::empty(), 0, error.to_string())],
        };
        let mut joined: Vec<_> = parts.iter().flat_map(of).collect();
        joined.sort();
        same(query, [format!("{:?}", of(&whole)), format!("{joined:?}")])
    });
}

#[test]
fn it_does_not_matter_how_many_threads_work() {
    // Enough series of one metric that they are shared out.
    let extent = Extent { targets: 320, scrapes: 40, natives: false, ..EXTENT };
    let fixture: Fixture = loaded(&series(extent, 4));
    let engine = Engine::default();
    let pools = [1, 2, 5].map(|threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
    });
    let when =
        When::Range { start_ms: START_MS + 200_000, end_ms: START_MS + 500_000, step_ms: 60_000 };
    let grammar = Grammar { natives: false, depth: 2, ..GRAMMAR };
    check(60, grammar, |query| {
        let [one, two, five] = [0, 1, 2].map(|pool: usize| {
            pools[pool].install(|| exact(fixture.evaluate(&engine, query, when)))
        });
        same(query, [one.clone(), two])?;
        same(query, [one, five])
    });
}

#[test]
fn a_query_printed_anew_has_the_same_answer() {
    let fixture: Fixture = loaded(&series(EXTENT, 5));
    let engine = Engine::default();
    let value = |query: &str| match fixture.evaluate(&engine, query, RANGE) {
        Ok(answer) => format!("{:?}", points(&answer.value)),
        Err(error) => error.to_string(),
    };
    check(300, GRAMMAR, |query| {
        let parsed = parse(query);
        let printed = parsed.to_string();
        let pretty = parser::prettify(&parsed);
        prop_assert_eq!(parse(&printed).to_string(), printed.clone());
        same(query, [value(query), value(&printed)])?;
        same(query, [value(query), value(&pretty)])
    });
}

#[test]
fn it_does_not_matter_what_was_asked_before() {
    let head: HeadStore = loaded(&series(EXTENT, 8));
    let snapshot = head.source();
    let engine = Engine::default();
    let cache = ResultCache::new(64 << 20);
    let asked = QueryOptions::default();
    check(300, GRAMMAR, |query| {
        let expr = parse(query);
        // One range, one that begins and ends later, one around both, and the first again.
        for (from, to) in [(8, 25), (12, 40), (0, 44), (8, 25)] {
            let [start_ms, end_ms] = [from, to].map(|step| START_MS + 300_000 + step * 45_000);
            let fresh = engine.range(&snapshot, query, &expr, start_ms, end_ms, 45_000, &asked);
            let cached =
                cache.range(&engine, &snapshot, query, &expr, start_ms, end_ms, 45_000, &asked);
            same(query, [exact(fresh), exact(cached)])?;
        }
        Ok(())
    });
    let stats = cache.stats();
    assert!(stats.hits > 100 && stats.partial_hits > 200, "{stats:?}");
}

fn parse(query: &str) -> Expr {
    parser::parse(query, ParserOptions::ALL).unwrap_or_else(|error| panic!("{query}: {error}"))
}

#[test]
fn an_offset_is_asking_earlier() {
    const OFFSET_MS: i64 = 240_000;
    let fixture: Fixture = loaded(&series(EXTENT, 6));
    let [_, engine] = engines();
    let grammar = Grammar { at: None, time: false, ..GRAMMAR };
    check(300, grammar, |query| {
        let When::Range { start_ms, end_ms, step_ms } = RANGE else { unreachable!() };
        let (start_ms, end_ms) = (start_ms - OFFSET_MS, end_ms - OFFSET_MS);
        let earlier = When::Range { start_ms, end_ms, step_ms };
        let moved = |answer: Result<Answer, QueryError>, by_ms: i64| match answer {
            Ok(answer) => {
                let points = points(&answer.value).into_iter();
                let moved: Vec<_> =
                    points.map(|(labels, time, value)| (labels, time + by_ms, value)).collect();
                format!("{moved:?}")
            }
            Err(error) => error.to_string(),
        };
        let with_offset = offset_by(parse(query), OFFSET_MS).to_string();
        let asked_earlier = moved(fixture.evaluate(&engine, query, earlier), OFFSET_MS);
        let asked_later = moved(fixture.evaluate(&engine, &with_offset, RANGE), 0);
        same(query, [asked_earlier, asked_later])
    });
}

/// Adds an offset to every selector and subquery that is not inside of a subquery.
fn offset_by(mut expr: Expr, offset_ms: i64) -> Expr {
    let mut open = vec![expr.root];
    while let Some(id) = open.pop() {
        let kind = &mut expr.nodes[id.0 as usize].kind;
        let add = |modifiers: &mut Modifiers| {
            let known = match modifiers.offset.take() {
                None => 0,
                Some(DurationExpr::Literal(ms)) => ms,
                Some(computed) => panic!("the generator writes plain offsets, not {computed:?}"),
            };
            modifiers.offset = Some(DurationExpr::Literal(known + offset_ms));
        };
        match kind {
            NodeKind::VectorSelector(selector) => add(&mut selector.modifiers),
            NodeKind::Subquery(subquery) => {
                add(&mut subquery.modifiers);
                continue;
            }
            _ => {}
        }
        open.extend(kind.children());
    }
    expr
}

#[test]
fn it_does_not_matter_when_it_all_happened() {
    const SHIFT_MS: i64 = 7 * 24 * 3_600_000;
    let engine = Engine::default();
    let fixture: Fixture = loaded(&series(EXTENT, 7));
    let later: Fixture = loaded(&series(Extent { start_ms: START_MS + SHIFT_MS, ..EXTENT }, 7));
    let grammar = Grammar { at: None, time: false, ..GRAMMAR };
    check(300, grammar, |query| {
        let When::Range { start_ms, end_ms, step_ms } = RANGE else { unreachable!() };
        let (start_ms, end_ms) = (start_ms + SHIFT_MS, end_ms + SHIFT_MS);
        let shifted = When::Range { start_ms, end_ms, step_ms };
        let values = |answer: Result<Answer, QueryError>, by_ms: i64| match answer {
            Ok(answer) => {
                let points = points(&answer.value).into_iter();
                let moved: Vec<_> =
                    points.map(|(labels, time, value)| (labels, time - by_ms, value)).collect();
                format!("{moved:?} {:?} {:?}", answer.warnings, answer.infos)
            }
            Err(error) => error.to_string(),
        };
        let now = values(fixture.evaluate(&engine, query, RANGE), 0);
        same(query, [now, values(later.evaluate(&engine, query, shifted), SHIFT_MS)])
    });
}
