//! The re-runs that an instant evaluation implies: with `@ T` on every selector, its value is the
//! same at any time.

use icecore_query::parser::ast::{At, Expr, Modifiers, NodeId, NodeKind};
use icecore_query::parser::{self, ParserOptions};

/// Functions whose value depends on the time of evaluation, whatever their arguments.
const UNSAFE_FUNCTIONS: &[&str] = &[
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "end",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "range",
    "start",
    "step",
    "time",
    "timestamp",
    "year",
];

/// The query with every selector and outermost subquery at `time_ms` that has no timestamp of its own,
/// printed, and the times at which it has the same value; none if a function forbids it, or for
/// what does not parse.
pub(crate) fn pinned(expr: &str, time_ms: i64) -> Option<(String, Vec<i64>)> {
    let mut expr = parser::parse(expr, ParserOptions::ALL).ok()?;
    if !pin(&mut expr, time_ms) {
        return None;
    }
    let times = match time_ms {
        0 => vec![-1000, 0, 1000],
        _ => vec![-10 * time_ms, 0, time_ms / 5, time_ms, 10 * time_ms],
    };
    Some((expr.to_string(), times))
}

/// Whether there is no unsafe function; those inside of a pinned subquery do not matter.
fn pin(expr: &mut Expr, time_ms: i64) -> bool {
    let mut is_safe = true;
    let mut open: Vec<NodeId> = vec![expr.root];
    while let Some(id) = open.pop() {
        let kind = &mut expr.nodes[id.0 as usize].kind;
        match kind {
            NodeKind::VectorSelector(selector) => set(&mut selector.modifiers, time_ms),
            NodeKind::Subquery(subquery) => {
                set(&mut subquery.modifiers, time_ms);
                continue;
            }
            NodeKind::Call { function, .. } => {
                is_safe &= !UNSAFE_FUNCTIONS.contains(&function.name);
            }
            _ => {}
        }
        open.extend(kind.children());
    }
    is_safe
}

/// `start()` and `end()` are those of the query at hand, so they go as well.
fn set(modifiers: &mut Modifiers, time_ms: i64) {
    if !matches!(modifiers.at, Some(At::TimestampMs(_))) {
        modifiers.at = Some(At::TimestampMs(time_ms));
    }
}

#[test]
fn every_selector_and_outermost_subquery_gets_a_time() {
    let text = |expr: &str| pinned(expr, 5000).map(|(text, _)| text);
    assert_eq!(
        text("a + rate(b[5m] offset 1m) + c @ 7").unwrap(),
        "a @ 5.000 + rate(b[5m] @ 5.000 offset 1m) + c @ 7.000"
    );
    assert_eq!(
        text("sum_over_time(timestamp(a)[5m:1m])").unwrap(),
        "sum_over_time(timestamp(a)[5m:1m] @ 5.000)"
    );
    assert_eq!(
        text("a @ start() + sum_over_time(b[5m:1m] @ end())").unwrap(),
        "a @ 5.000 + sum_over_time(b[5m:1m] @ 5.000)"
    );
    assert_eq!(text("timestamp(a)"), None);
}
