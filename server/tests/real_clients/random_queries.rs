//! Debian's Prometheus and Icecore have the same samples; asked the same they answer the same.
//!
//! Series and queries are generated from a seed: counters with resets, gauges with NaN, infinities
//! and extremes, buckets, with gaps and stale markers. What Prometheus 2.42 and 3 answer differently
//! by design is not asked ([`differs_by_design`]), or does not show: no sample lies on the edge of
//! a window, since samples are up to 40 ms late, and [`PHASE_MS`] keeps the edges of subqueries off
//! their grids.
//!
//! `ICECORE_RANDOM_QUERIES` and `ICECORE_RANDOM_SEED` ask for more and for others. A difference is
//! shown with the number of its query; alone it is asked with `ICECORE_RANDOM_ONLY`.

use std::time::{Duration, Instant};

use icecore_query::parser::ast::{AggregateOp, BinaryOp, Expr, NodeId, NodeKind};
use icecore_query::parser::{ParserOptions, parse};

use crate::answers;
use crate::client::Answer;
use crate::generate::choices::Choices;
use crate::generate::data::{self, Extent, SCRAPE_MS, Value};
use crate::generate::query::{self, Grammar};
use crate::icecore::seconds;
use crate::pair::{self, Pair};
use crate::write_request::WriteRequest;

const QUERIES: u64 = 2_000;
const SEED: u64 = 1;

/// So much time for that many queries, on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(300);

/// One in so many queries finds nothing at most: what is empty on both sides shows little.
const EMPTY_SHARE_MAX: u64 = 3;

/// One in so many may differ by a last digit that decides a comparison.
const ROUNDED_SHARE_MAX: u64 = 100;

/// Samples are from here on: long ago, and a multiple of every step of a subquery.
const START_MS: i64 = 1_000_000 * 60_000;

/// 40 minutes: Prometheus takes no samples older than an hour before its newest.
const EXTENT: Extent =
    Extent { start_ms: START_MS, scrapes: 160, targets: 5, natives: false, young_counters: false };

/// Of a second, of all times that are asked for.
const PHASE_MS: i64 = 500;

/// The stale marker, which is a NaN of these bits.
const STALE: u64 = 0x7ff0_0000_0000_0002;

#[test]
fn generated_queries_are_answered_as_prometheus_does() {
    if !pair::is_installed() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("ICECORE_RANDOM_SEED").unwrap_or(SEED);
    let count = number("ICECORE_RANDOM_QUERIES").unwrap_or(QUERIES);
    let only = number("ICECORE_RANDOM_ONLY");
    let servers = Answerers::start(seed);
    let started = Instant::now();
    let (mut asked, mut empty, mut rounded) = (0, 0, 0);
    let mut differences = Vec::new();
    for number in 0.. {
        let mut choices = Choices::from_seed(seed.wrapping_mul(1 << 32).wrapping_add(number));
        let query = query::vector(Grammar::COMMON, &mut choices);
        let expr = parse(&query, ParserOptions::default()).unwrap();
        if differs_by_design(&expr) || only.is_some_and(|only| only != number) {
            continue;
        }
        let when = When::new(&mut choices);
        match servers.ask(&query, &when) {
            Ok(found) => empty += u64::from(!found),
            Err(_) if servers.is_rounding(&expr, expr.root, &when) => rounded += 1,
            Err(difference) => differences.push(format!("{number}: {query}\n{difference}")),
        }
        asked += 1;
        if asked == count || differences.len() == 20 || only.is_some() {
            break;
        }
        let elapsed = started.elapsed();
        let bound = TIME_MAX * u32::try_from(count.div_ceil(QUERIES)).unwrap();
        assert!(elapsed < bound, "{asked} queries took {elapsed:?}");
    }
    let elapsed = started.elapsed();
    println!("{asked} queries in {elapsed:?}: {empty} found nothing, {rounded} differ by rounding");
    let differing = differences.len();
    assert!(differing == 0, "{differing} answers differ:\n{}", differences.join("\n"));
    assert!(empty * EMPTY_SHARE_MAX <= asked, "{empty} of {asked} queries found nothing");
    assert!(rounded * ROUNDED_SHARE_MAX <= asked, "{rounded} of {asked} queries");
    servers.0.end();
}

/// Both servers, with the series of a seed.
struct Answerers(Pair);

impl Answerers {
    fn start(seed: u64) -> Answerers {
        let pair = Pair::start();
        let all = data::series(EXTENT, &mut Choices::from_seed(seed));
        // In the order of time, as collectors send them.
        for scrape in 0..i64::from(EXTENT.scrapes) {
            let from = START_MS + scrape * SCRAPE_MS;
            let mut request = WriteRequest::default();
            for series in &all {
                let within = |(time, _): &&(i64, Value)| (from..from + SCRAPE_MS).contains(time);
                let samples: Vec<(i64, f64)> =
                    series.samples.iter().filter(within).map(float).collect();
                if !samples.is_empty() {
                    let mut labels = series.labels.clone();
                    labels.sort_unstable();
                    request = request.series(&labels, &samples);
                }
            }
            pair.write(&request);
        }
        Answerers(pair)
    }

    /// Whether anything was found, or in what the answers differ.
    fn ask(&self, query: &str, when: &When) -> Result<bool, String> {
        let times = when.parameters();
        let times: Vec<(&str, &str)> = times.iter().map(|(name, time)| (*name, &**time)).collect();
        let path = if times.len() == 1 { "/api/v1/query" } else { "/api/v1/query_range" };
        let parameters = [&[("query", query)], &*times].concat();
        let [theirs, ours] = self.0.ask(path, &parameters);
        let compared = match (theirs.status, ours.status) {
            (200, 200) => answers::compare("", &theirs.data(), &ours.data()),
            // 2.42 counts only those matches whose comparison holds.
            (200, 422) if ours.text().contains("multiple matches for labels") => Ok(()),
            _ => answers::compare_errors(&theirs.json(), &ours.json()),
        };
        compared.map_err(|difference| {
            let [theirs, ours] = [&theirs, &ours].map(Answer::text);
            format!(
                "  at {times:?}: {difference}\n  Prometheus: {theirs:.2000}\n  Icecore: {ours:.2000}"
            )
        })?;
        Ok(theirs.status != 200 || !answers::is_empty(&theirs.data()))
    }

    /// Whether answers that differ do so because a sum has another last digit: what differs is made
    /// of what does not by something that magnifies it. Prometheus adds in any order, so that asked
    /// again it may agree.
    fn is_rounding(&self, expr: &Expr, id: NodeId, when: &When) -> bool {
        let kind = &expr.node(id).kind;
        let differs = |id: NodeId| match &expr.node(id).kind {
            // Range vectors have no range.
            NodeKind::Subquery(subquery) => self.ask(&expr.text(subquery.expr), when).is_err(),
            NodeKind::MatrixSelector { .. } => false,
            _ => self.ask(&expr.text(id), when).is_err(),
        };
        let mut differing = children(kind).into_iter().filter(|id| differs(*id)).peekable();
        match differing.peek() {
            None => all_below(expr, id).any(|id| magnifies(&expr.node(id).kind)),
            Some(_) => differing.all(|id| self.is_rounding(expr, id, when)),
        }
    }
}

/// At which time a query is asked, or at which.
#[derive(Debug)]
enum When {
    At { time_ms: i64 },
    Range { start_ms: i64, end_ms: i64, step_seconds: u32 },
}

impl When {
    fn new(choices: &mut Choices) -> When {
        let seconds = i64::from(EXTENT.scrapes) * SCRAPE_MS / 1000;
        let mut time = || {
            let second = i64::from(choices.below((seconds + 600) as u32));
            START_MS + second * 1000 + PHASE_MS
        };
        let (one, other) = (time(), time());
        match choices.once_in(2) {
            true => When::At { time_ms: one },
            false => When::Range {
                start_ms: one.min(other),
                end_ms: one.max(other),
                step_seconds: choices.pick(&[15, 60, 7, 133, 300]),
            },
        }
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        match self {
            When::At { time_ms } => vec![("time", seconds(*time_ms))],
            When::Range { start_ms, end_ms, step_seconds } => vec![
                ("start", seconds(*start_ms)),
                ("end", seconds(*end_ms)),
                ("step", step_seconds.to_string()),
            ],
        }
    }
}

fn float((time, value): &(i64, Value)) -> (i64, f64) {
    match value {
        Value::Float(value) => (*time, *value),
        Value::Stale => (*time, f64::from_bits(STALE)),
        Value::Native { .. } => unreachable!("none were asked for"),
    }
}

/// What Prometheus has changed since 2.42, apart from the ends of windows:
///
/// - how far `rate` and `increase` extrapolate towards a start near zero, which is not seen on
///   counters that are old;
/// - a subquery inside of another looks back from points of a grid, where ends of windows matter;
/// - `atan2` with a number keeps the name of the metric in 2.42;
/// - sums and averages have other last digits, which `count_values` makes labels of;
/// - the deviation of one infinite value is 0 in 2.42, and sums over time that overflow, as those
///   of `exp` do, are not a number; Go's logarithm and power of subnormal numbers, which `exp` makes,
///   are wrong.
fn differs_by_design(expr: &Expr) -> bool {
    expr.nodes.iter().any(|node| match &node.kind {
        NodeKind::Call { function, args } if ["rate", "increase"].contains(&function.name) => {
            let NodeKind::MatrixSelector { selector, .. } = &expr.node(args[0]).kind else {
                return true;
            };
            !is_selector_of(&["requests_total", "latency_seconds_bucket"], expr, *selector)
        }
        NodeKind::Subquery(subquery) => all_below(expr, subquery.expr)
            .any(|id| matches!(&expr.node(id).kind, NodeKind::Subquery(_))),
        NodeKind::Call { function, .. } if function.name == "exp" => {
            expr.nodes.iter().any(|node| match &node.kind {
                NodeKind::Subquery(_) => true,
                NodeKind::Binary(binary) => binary.op == BinaryOp::Pow,
                NodeKind::Call { function, .. } => function.name.starts_with('l'),
                _ => false,
            })
        }
        NodeKind::Binary(binary) => binary.op == BinaryOp::Atan2 && binary.matching.is_none(),
        NodeKind::Aggregate(aggregate) => match aggregate.op {
            AggregateOp::CountValues => {
                !matches!(expr.node(aggregate.expr).kind, NodeKind::VectorSelector(_))
            }
            AggregateOp::Stddev | AggregateOp::Stdvar => {
                all_below(expr, aggregate.expr).any(|id| !is_finite(expr, id))
            }
            _ => false,
        },
        _ => false,
    })
}

/// Whether a node of finite operands has a finite value. Most of those that do will do.
fn is_finite(expr: &Expr, id: NodeId) -> bool {
    const METRICS: [&str; 4] = ["requests_total", "latency_seconds_bucket", "up", "build_info"];
    const FUNCTIONS: [&str; 14] = [
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "sum_over_time",
        "avg_over_time",
        "max_over_time",
        "min_over_time",
        "count_over_time",
        "last_over_time",
        "abs",
        "timestamp",
        "label_replace",
    ];
    match &expr.node(id).kind {
        NodeKind::VectorSelector(_) => is_selector_of(&METRICS, expr, id),
        NodeKind::Call { function, .. } => FUNCTIONS.contains(&function.name),
        NodeKind::Number { value, .. } => value.is_finite(),
        NodeKind::Binary(binary) => {
            matches!(binary.op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul) || binary.op.is_set()
        }
        NodeKind::Aggregate(aggregate) => aggregate.op != AggregateOp::Quantile,
        _ => true,
    }
}

fn is_selector_of(metrics: &[&str], expr: &Expr, id: NodeId) -> bool {
    match &expr.node(id).kind {
        NodeKind::VectorSelector(selector) => metrics.contains(&&*selector.name),
        _ => false,
    }
}

/// Whether an operand with another last digit may make quite another value. Of zeros even the sign
/// may differ.
fn magnifies(kind: &NodeKind) -> bool {
    const FUNCTIONS: [&str; 14] = [
        "floor",
        "ceil",
        "round",
        "sgn",
        "changes",
        "resets",
        "deriv",
        "predict_linear",
        "delta",
        "idelta",
        "irate",
        "cos",
        "stddev_over_time",
        "stdvar_over_time",
    ];
    match kind {
        NodeKind::Call { function, .. } => FUNCTIONS.contains(&function.name),
        NodeKind::Binary(binary) => {
            let by_digits = [BinaryOp::Mod, BinaryOp::Div, BinaryOp::Add, BinaryOp::Sub];
            binary.op.is_comparison() || by_digits.contains(&binary.op)
        }
        NodeKind::Aggregate(aggregate) => {
            matches!(aggregate.op, AggregateOp::Stddev | AggregateOp::Stdvar)
        }
        _ => false,
    }
}

/// A node and all that it is made of.
fn all_below(expr: &Expr, id: NodeId) -> impl Iterator<Item = NodeId> {
    let mut open = vec![id];
    std::iter::from_fn(move || {
        let id = open.pop()?;
        open.extend(children(&expr.node(id).kind));
        Some(id)
    })
}

fn children(kind: &NodeKind) -> Vec<NodeId> {
    match kind {
        NodeKind::Number { .. } | NodeKind::String { .. } | NodeKind::VectorSelector(_) => vec![],
        NodeKind::MatrixSelector { selector, .. } => vec![*selector],
        NodeKind::Subquery(subquery) => vec![subquery.expr],
        NodeKind::Unary { operand, .. } => vec![*operand],
        NodeKind::Binary(binary) => vec![binary.left, binary.right],
        NodeKind::Aggregate(aggregate) => {
            [Some(aggregate.expr), aggregate.param].into_iter().flatten().collect()
        }
        NodeKind::Call { args, .. } => args.clone(),
        NodeKind::Paren { inner } => vec![*inner],
    }
}
