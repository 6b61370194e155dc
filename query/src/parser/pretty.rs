//! A tree as text over several lines, as Prometheus's `/api/v1/format_query` has it: what is
//! longer than [`MAX_LINE_BYTES`] on one line is split into its parts, each a level deeper.

use std::borrow::Cow;

use crate::parser::ast::{Expr, NodeId, NodeKind};
use crate::parser::print::{self, Printed};
use crate::parser::steps;

/// The longest text of a node that stays on one line.
const MAX_LINE_BYTES: usize = 100;

/// Levels beyond this are not indented further, or long chains of operators would make text that
/// grows with the square of their length.
const MAX_INDENTED_LEVELS: usize = 500;

/// What is left to write, the next at the end.
enum Task {
    Text(Cow<'static, str>),
    Indent(usize),
    Node(NodeId, usize),
    /// The next indentation is left out: what it belongs to goes on in the line of its sign.
    SkipIndent,
}

/// The query, formatted.
pub fn prettify(expr: &Expr) -> String {
    let printed = print::print(expr, expr.root);
    let mut out = String::new();
    let mut skip_indent = false;
    let mut tasks = vec![Task::Node(expr.root, 0)];
    while let Some(task) = tasks.pop() {
        steps::take(1);
        match task {
            Task::SkipIndent => skip_indent = true,
            Task::Indent(level) => {
                if !std::mem::take(&mut skip_indent) {
                    out.push_str(&"  ".repeat(level.min(MAX_INDENTED_LEVELS)));
                }
            }
            Task::Text(text) => {
                skip_indent = false;
                out.push_str(&text);
            }
            Task::Node(id, level) => {
                let first = tasks.len();
                split(expr, &printed, id, level, &mut tasks);
                tasks[first..].reverse();
            }
        }
    }
    steps::take(out.len());
    out
}

/// Appends what a node writes, from left to right.
fn split(expr: &Expr, printed: &Printed, id: NodeId, level: usize, tasks: &mut Vec<Task>) {
    let text = |text: String| Task::Text(Cow::Owned(text));
    let fixed = |text: &'static str| Task::Text(Cow::Borrowed(text));
    let whole = printed.of(id);
    let fits = whole.len() <= MAX_LINE_BYTES;
    match &expr.node(id).kind {
        NodeKind::Unary { op, operand } => tasks.extend([
            Task::Indent(level),
            fixed(print::unary(*op)),
            Task::SkipIndent,
            Task::Node(*operand, level),
        ]),
        // Prometheus forgets the indentation here.
        NodeKind::Subquery(_) if fits => tasks.push(text(whole.to_owned())),
        NodeKind::Subquery(subquery) => {
            let suffix = print::subquery_suffix(subquery);
            tasks.extend([Task::Node(subquery.expr, level), text(suffix)]);
        }
        NodeKind::Binary(binary) if !fits => tasks.extend([
            Task::Node(binary.left, level + 1),
            fixed("\n"),
            Task::Indent(level),
            text(print::operator(binary)),
            fixed("\n"),
            Task::Node(binary.right, level + 1),
        ]),
        NodeKind::Aggregate(aggregate) if !fits => {
            let opening = format!("{}(\n", print::aggregation(aggregate));
            tasks.extend([Task::Indent(level), text(opening)]);
            if let Some(param) = aggregate.param {
                tasks.extend([Task::Node(param, level + 1), fixed(",\n")]);
            }
            let operand = Task::Node(aggregate.expr, level + 1);
            tasks.extend([operand, fixed("\n"), Task::Indent(level), fixed(")")]);
        }
        NodeKind::Call { function, args } if !fits => {
            tasks.extend([Task::Indent(level), fixed(function.name), fixed("(\n")]);
            for (index, argument) in args.iter().enumerate() {
                if index > 0 {
                    tasks.push(fixed(",\n"));
                }
                tasks.push(Task::Node(*argument, level + 1));
            }
            tasks.extend([fixed("\n"), Task::Indent(level), fixed(")")]);
        }
        NodeKind::Paren { inner } if !fits => tasks.extend([
            Task::Indent(level),
            fixed("(\n"),
            Task::Node(*inner, level + 1),
            fixed("\n"),
            Task::Indent(level),
            fixed(")"),
        ]),
        NodeKind::Number { .. }
        | NodeKind::String { .. }
        | NodeKind::VectorSelector(_)
        | NodeKind::MatrixSelector { .. }
        | NodeKind::Binary(_)
        | NodeKind::Aggregate(_)
        | NodeKind::Call { .. }
        | NodeKind::Paren { .. } => {
            tasks.extend([Task::Indent(level), text(whole.to_owned())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::{ParserOptions, parse};

    #[test]
    fn long_queries_split_into_their_parts() {
        let metric = "http_requests_duration_seconds_bucket";
        let text = format!(
            "-histogram_quantile(0.9, sum({metric}{{job=\"a\"}}) by (le, job)) > bool on(job) \
             (topk(3, rate({metric}{{job=\"a\"}}[5m])) / {metric}{{job=\"a\"}}[1h:])"
        );
        let text = text.replace("/ http", "/ sum_over_time(http").replace("[1h:])", "[1h:]))");
        let expr = parse(&text, ParserOptions::default()).unwrap();
        let wanted = [
            "  -histogram_quantile(0.9, sum by (le, job) (METRIC{job=\"a\"}))",
            "> bool on (job)",
            "  (",
            "      topk(3, rate(METRIC{job=\"a\"}[5m]))",
            "    /",
            "      sum_over_time(METRIC{job=\"a\"}[1h:])",
            "  )",
        ];
        assert_eq!(prettify(&expr), wanted.join("\n").replace("METRIC", metric));
    }

    #[test]
    fn deep_chains_do_not_grow_with_the_square() {
        let text = format!("a{}", "+a".repeat(5_000));
        let expr = parse(&text, ParserOptions::default()).unwrap();
        assert!(prettify(&expr).len() < 2 * 5_000 * 2 * (MAX_INDENTED_LEVELS + 10));
    }
}
