//! A tree as text on one line, as Prometheus's `String()` has it.
//!
//! What is printed parses to the same tree again. Matchers are sorted, durations and numbers take
//! their shortest form, and modifiers come in one order. [`Printed`] also knows which part of the
//! text is which node's.

use std::borrow::Cow;
use std::fmt;

use icecore_storage::matcher::{MatchOp, Matcher};

use crate::go_format;
use crate::parser::ast::{
    Aggregate, At, Binary, Cardinality, ComputedDuration, DurationExpr, Expr, Matching, Modifiers,
    NodeId, NodeKind, RangeExtension, Subquery, UnaryOp, VectorSelector,
};
use crate::parser::selectors::METRIC_NAME;
use crate::parser::steps;

/// A printed tree, or a part of one.
#[derive(Debug)]
pub(super) struct Printed {
    pub(super) text: String,
    /// Bytes of `text` by node; empty for nodes that are not part of it.
    ranges: Vec<(usize, usize)>,
}

impl Printed {
    pub(super) fn of(&self, id: NodeId) -> &str {
        let (start, end) = self.ranges[id.0 as usize];
        &self.text[start..end]
    }
}

/// What is left to print, the next at the end.
enum Task {
    Text(Cow<'static, str>),
    Open(NodeId),
    Close(NodeId),
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, self.root).text)
    }
}

impl Expr {
    /// The text of one node.
    pub fn text(&self, id: NodeId) -> String {
        print(self, id).text
    }
}

pub(super) fn print(expr: &Expr, root: NodeId) -> Printed {
    let mut printed = Printed { text: String::new(), ranges: vec![(0, 0); expr.nodes.len()] };
    let mut tasks = vec![Task::Open(root)];
    while let Some(task) = tasks.pop() {
        steps::take(1);
        match task {
            Task::Text(text) => printed.text.push_str(&text),
            Task::Close(id) => printed.ranges[id.0 as usize].1 = printed.text.len(),
            Task::Open(id) => {
                printed.ranges[id.0 as usize].0 = printed.text.len();
                tasks.push(Task::Close(id));
                let first = tasks.len();
                pieces(expr, id, &mut tasks);
                tasks[first..].reverse();
            }
        }
    }
    steps::take(printed.text.len());
    printed
}

/// Appends what a node prints, from left to right.
fn pieces(expr: &Expr, id: NodeId, tasks: &mut Vec<Task>) {
    let text = |text: String| Task::Text(Cow::Owned(text));
    let fixed = |text: &'static str| Task::Text(Cow::Borrowed(text));
    match &expr.node(id).kind {
        NodeKind::Number { value, as_duration } => tasks.push(text(number(*value, *as_duration))),
        NodeKind::String { value } => tasks.push(text(go_format::quote(value))),
        NodeKind::VectorSelector(vector) => {
            tasks.push(text(selector(vector) + &suffix(&vector.modifiers, Suffix::Instant)));
        }
        NodeKind::MatrixSelector { selector: child, range } => {
            let NodeKind::VectorSelector(vector) = &expr.node(*child).kind else {
                unreachable!("a range is that of a selector");
            };
            let range = duration(range);
            let modifiers = suffix(&vector.modifiers, Suffix::Range);
            tasks.push(text(format!("{}[{range}]{modifiers}", selector(vector))));
        }
        NodeKind::Subquery(subquery) => {
            tasks.extend([Task::Open(subquery.expr), text(subquery_suffix(subquery))]);
        }
        NodeKind::Unary { op, operand } => {
            tasks.extend([fixed(unary(*op)), Task::Open(*operand)]);
        }
        NodeKind::Binary(binary) => {
            let operator = format!(" {} ", operator(binary));
            tasks.extend([Task::Open(binary.left), text(operator), Task::Open(binary.right)]);
        }
        NodeKind::Aggregate(aggregate) => {
            tasks.push(text(format!("{}(", aggregation(aggregate))));
            if let Some(param) = aggregate.param {
                tasks.extend([Task::Open(param), fixed(", ")]);
            }
            tasks.extend([Task::Open(aggregate.expr), fixed(")")]);
        }
        NodeKind::Call { function, args } => {
            tasks.extend([fixed(function.name), fixed("(")]);
            for (index, argument) in args.iter().enumerate() {
                if index > 0 {
                    tasks.push(fixed(", "));
                }
                tasks.push(Task::Open(*argument));
            }
            tasks.push(fixed(")"));
        }
        NodeKind::Paren { inner } => {
            tasks.extend([fixed("("), Task::Open(*inner), fixed(")")]);
        }
    }
}

fn number(value: f64, as_duration: bool) -> String {
    match as_duration {
        true => go_format::duration_ms((value * 1e9) as i64 / 1_000_000),
        false => go_format::float(value),
    }
}

pub(super) fn unary(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Plus => "+",
        UnaryOp::Minus => "-",
    }
}

/// The aggregation before its parenthesis.
pub(super) fn aggregation(aggregate: &Aggregate) -> String {
    let op = aggregate.op.text();
    let labels = labels(&aggregate.grouping);
    match (aggregate.without, aggregate.grouping.is_empty()) {
        (true, _) => format!("{op} without ({labels}) "),
        (false, false) => format!("{op} by ({labels}) "),
        (false, true) => op.to_owned(),
    }
}

/// The operator with everything up to its right operand.
pub(super) fn operator(binary: &Binary) -> String {
    let mut out = binary.op.text().to_owned();
    if binary.return_bool {
        out.push_str(" bool");
    }
    if let Some(matching) = &binary.matching {
        out.push_str(&matching_suffix(matching));
    }
    out
}

fn matching_suffix(matching: &Matching) -> String {
    let mut out = String::new();
    let group = match matching.cardinality {
        Cardinality::ManyToOne => Some("left"),
        Cardinality::OneToMany => Some("right"),
        Cardinality::OneToOne | Cardinality::ManyToMany => None,
    };
    if !matching.labels.is_empty() || matching.on || group.is_some() {
        let word = if matching.on { "on" } else { "ignoring" };
        out.push_str(&format!(" {word} ({})", labels(&matching.labels)));
    }
    if let Some(side) = group {
        out.push_str(&format!(" group_{side} ({})", labels(&matching.include)));
    }
    let fill = |word: &str, value: f64| format!(" {word} ({})", go_format::float_general(value));
    match (matching.fill_left, matching.fill_right) {
        (Some(left), Some(right)) if left == right => {
            out.push_str(&fill("fill", left));
        }
        (left, right) => {
            out.extend(left.map(|value| fill("fill_left", value)));
            out.extend(right.map(|value| fill("fill_right", value)));
        }
    }
    out
}

fn labels(labels: &[String]) -> String {
    labels.iter().map(|label| label_name(label)).collect::<Vec<_>>().join(", ")
}

/// A label, in quotes if it is not of the old alphabet.
fn label_name(name: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    match name.as_bytes() {
        [first, ..] if !first.is_ascii_digit() && name.bytes().all(plain) => Cow::Borrowed(name),
        _ => Cow::Owned(go_format::quote(name.as_bytes())),
    }
}

/// A selector without its modifiers.
fn selector(vector: &VectorSelector) -> String {
    let own_name = |matcher: &&Matcher| {
        matcher.name() == METRIC_NAME
            && matcher.op() == MatchOp::Equal
            && matcher.value() == vector.name
            && !vector.name.is_empty()
    };
    let mut matchers: Vec<String> = vector
        .matchers
        .iter()
        .filter(|matcher| !own_name(matcher))
        .map(|matcher| {
            let value = go_format::quote(matcher.value().as_bytes());
            format!("{}{}{value}", label_name(matcher.name()), matcher.op())
        })
        .collect();
    if matchers.is_empty() {
        // Only what was written as `{}` has neither; without braces nothing would be left of it.
        return if vector.name.is_empty() { "{}".into() } else { vector.name.clone() };
    }
    matchers.sort();
    format!("{}{{{}}}", vector.name, matchers.join(","))
}

/// Modifiers come in different orders.
#[derive(Clone, Copy, PartialEq)]
enum Suffix {
    /// `@`, `anchored`, `offset`
    Instant,
    /// `anchored`, `@`, `offset`
    Range,
}

fn suffix(modifiers: &Modifiers, order: Suffix) -> String {
    let extension = match modifiers.extension {
        Some(RangeExtension::Anchored) => " anchored",
        Some(RangeExtension::Smoothed) => " smoothed",
        None => "",
    };
    let at = match modifiers.at {
        Some(At::TimestampMs(ms)) => {
            format!(" @ {}", go_format::float_fixed(ms as f64 / 1000.0, 3))
        }
        Some(At::Start) => " @ start()".into(),
        Some(At::End) => " @ end()".into(),
        None => String::new(),
    };
    let offset = match &modifiers.offset {
        Some(offset) => format!(" offset {}", duration(offset)),
        None => String::new(),
    };
    match order {
        Suffix::Instant => format!("{at}{extension}{offset}"),
        Suffix::Range => format!("{extension}{at}{offset}"),
    }
}

/// The brackets of a subquery and its modifiers.
pub(super) fn subquery_suffix(subquery: &Subquery) -> String {
    let range = duration(&subquery.range);
    let step = subquery.step.as_ref().map_or(String::new(), duration);
    format!("[{range}:{step}]{}", suffix(&subquery.modifiers, Suffix::Range))
}

/// Recurses: the parser bounds the depth.
fn duration(expr: &DurationExpr) -> String {
    let computed = match expr {
        DurationExpr::Literal(ms) => return go_format::duration_ms(*ms),
        DurationExpr::Computed(computed) => &**computed,
    };
    match computed {
        ComputedDuration::Seconds(seconds) => go_format::float(*seconds),
        ComputedDuration::Step => "step()".into(),
        ComputedDuration::Range => "range()".into(),
        ComputedDuration::Negate(operand) => format!("-{}", duration(operand)),
        ComputedDuration::Paren(inner) => format!("({})", duration(inner)),
        ComputedDuration::Binary { op, left, right } => {
            format!("{} {} {}", duration(left), op.text(), duration(right))
        }
        ComputedDuration::Min(left, right) => {
            format!("min_of({}, {})", duration(left), duration(right))
        }
        ComputedDuration::Max(left, right) => {
            format!("max_of({}, {})", duration(left), duration(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::parser::{ParserOptions, parse};

    fn check(text: &str, printed: &str) {
        let expr = parse(text, ParserOptions::ALL).unwrap();
        assert_eq!(expr.to_string(), printed);
    }

    #[test]
    fn selectors_print_sorted_and_quoted() {
        check("foo{b!=\"c\",a=~'d\"'}", "foo{a=~\"d\\\"\",b!=\"c\"}");
        check("{'my metric', 'la bel'=`\\d`}", "{\"la bel\"=\"\\\\d\",__name__=\"my metric\"}");
        check("foo @ 1603774568 offset -90s", "foo @ 1603774568.000 offset -1m30s");
        check("foo[60] offset 1d @ start()", "foo[1m] @ start() offset 1d");
        check("foo smoothed @ 5 offset 1h", "foo @ 5.000 smoothed offset 1h");
        check("foo[5m] @ end() anchored", "foo[5m] anchored @ end()");
        check("info(foo, {a=\"b\"})", "info(foo, {a=\"b\"})");
    }

    #[test]
    fn durations_print_as_written() {
        check("foo[5m + 2*step()^(1)]", "foo[5m + 2 * step() ^ (1)]");
        check("foo[  -  step  (  )  ]", "foo[-step()]");
        check("foo[((5m))]", "foo[(5m)]");
        check(
            "foo[10m:MAX_OF(5s,range())] offset -(5)",
            "foo[10m:max_of(5s, range())] offset -(5)",
        );
        check("foo offset +(5)", "foo offset (5)");
        check("foo offset 5s-8", "foo offset 5s - 8");
        check("1h30m + -5m", "1h30m + -5m");
    }

    #[test]
    fn operations_print_with_their_modifiers() {
        check("sum(foo) by ()", "sum(foo)");
        check("sum(foo) without ()", "sum without () (foo)");
        check("topk by(a,'b c')(5,foo)", "topk by (a, \"b c\") (5, foo)");
        check("a-on(b)group_left c", "a - on (b) group_left () c");
        check("a - ignoring() c", "a - c");
        check("a and on() c", "a and on () c");
        check("a > bool fill(0) b", "a > bool fill (0) b");
        check("a + fill_right(0x10) fill_left(16) b", "a + fill (16) b");
        check("a + fill(Inf) b", "a + fill (+Inf) b");
        // NaN differs from itself.
        check("a + fill(NaN) b", "a + fill_left (NaN) fill_right (NaN) b");
        check("a*on(x)group_right(y)fill_right(-1e6)fill_left(2)b", {
            "a * on (x) group_right (y) fill_left (2) fill_right (-1e+06) b"
        });
        check("-(-1) + +foo", "-(-1) + +foo");
        check("0x1F * 1e-7", "31 * 0.0000001");
        check("\"\\xff\u{200b}\"", "\"\\xff\\u200b\"");
    }
}
