//! `/api/v1/parse_query`: a query's syntax tree as Prometheus's own page draws it.
//!
//! Objects have the members of Prometheus's `translate_ast.go`, in the order of their names as Go
//! writes maps. The tree is written from a stack, since a sum of ten thousand terms is as deep.

use std::borrow::Cow;
use std::sync::Arc;

use axum::response::Response;
use icecore_query::go_format::{float, push_api_float};
use icecore_query::parser::ast::{
    Aggregate, At, Binary, Cardinality, ComputedDuration, DurationExpr, Expr, Matching, Modifiers,
    NodeId, NodeKind, RangeExtension, Subquery, UnaryOp, ValueType, VectorSelector,
};
use icecore_query::parser::parse;

use crate::app::{App, blocking};
use crate::http::error::ApiError;
use crate::http::json::{push_list, push_string};
use crate::http::params::Params;
use crate::http::reply::{self, Notes};

pub(crate) async fn tree(app: &Arc<App>, params: Params) -> Result<Response, ApiError> {
    let options = app.config.parser;
    let text = params.query(&app.config)?.to_owned();
    let written = blocking(move || match parse(&text, options) {
        Ok(expr) => Ok(written(&expr)),
        Err(errors) => Err(ApiError::parameter("query", errors)),
    });
    let mut text = written.await??;
    Ok(reply::stream(Notes::default(), move |out| {
        out.append(&mut text);
        false
    }))
}

/// What is left to write, the next at the end.
enum Task {
    Node(NodeId),
    Text(Cow<'static, [u8]>),
}

fn written(expr: &Expr) -> Vec<u8> {
    let mut out = Vec::new();
    let mut tasks = vec![Task::Node(expr.root)];
    while let Some(task) = tasks.pop() {
        match task {
            Task::Text(text) => out.extend_from_slice(&text),
            Task::Node(id) => {
                let first = tasks.len();
                let mut object = Object { tasks: &mut tasks, text: Vec::new() };
                members(expr, &expr.node(id).kind, &mut object);
                object.flush();
                tasks[first..].reverse();
            }
        }
    }
    out
}

/// The members of one object, as tasks from the first to the last.
struct Object<'t> {
    tasks: &'t mut Vec<Task>,
    /// What was written since the last child.
    text: Vec<u8>,
}

impl Object<'_> {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.tasks.push(Task::Text(Cow::Owned(std::mem::take(&mut self.text))));
        }
    }

    fn raw(&mut self, text: &str) -> &mut Self {
        self.text.extend_from_slice(text.as_bytes());
        self
    }

    fn string(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key);
        push_string(&mut self.text, value);
        self
    }

    fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key).raw(if value { "true" } else { "false" })
    }

    fn integer(&mut self, key: &str, value: Option<i64>) -> &mut Self {
        self.raw(key).raw(&value.map_or("null".into(), |value| value.to_string()))
    }

    fn strings(&mut self, key: &str, values: &[String]) -> &mut Self {
        self.raw(key);
        push_list(&mut self.text, values, |out, value| push_string(out, value));
        self
    }

    fn child(&mut self, key: &str, id: NodeId) -> &mut Self {
        self.raw(key).flush();
        self.tasks.push(Task::Node(id));
        self
    }
}

fn members(expr: &Expr, kind: &NodeKind, object: &mut Object<'_>) {
    match kind {
        NodeKind::Number { value, .. } => {
            object.raw(r#"{"type":"numberLiteral""#).string(r#","val":"#, &float(*value)).raw("}");
        }
        NodeKind::String { value } => {
            let value = String::from_utf8_lossy(value);
            object.raw(r#"{"type":"stringLiteral""#).string(r#","val":"#, &value).raw("}");
        }
        NodeKind::VectorSelector(selector) => vector_selector(selector, object),
        NodeKind::MatrixSelector { selector, range } => {
            let NodeKind::VectorSelector(selector) = &expr.node(*selector).kind else {
                unreachable!("a range is that of a selector");
            };
            matrix_selector(selector, range, object);
        }
        NodeKind::Subquery(inner) => subquery(inner, object),
        NodeKind::Unary { op, operand } => {
            let op = if *op == UnaryOp::Minus { "-" } else { "+" };
            object.child(r#"{"expr":"#, *operand).string(r#","op":"#, op);
            object.raw(r#","type":"unaryExpr"}"#);
        }
        NodeKind::Binary(inner) => binary(inner, object),
        NodeKind::Aggregate(inner) => aggregate(inner, object),
        NodeKind::Call { function, args } => {
            object.raw(r#"{"args":["#);
            for (index, argument) in args.iter().enumerate() {
                object.child(if index > 0 { "," } else { "" }, *argument);
            }
            object.raw(r#"],"func":{"argTypes":"#);
            push_list(&mut object.text, function.args, |out, value_type| {
                push_string(out, type_name(*value_type));
            });
            object
                .string(r#","name":"#, function.name)
                .string(r#","returnType":"#, type_name(function.returns))
                .integer(r#","variadic":"#, Some(function.variadic.into()))
                .raw(r#"},"type":"call"}"#);
        }
        NodeKind::Paren { inner } => {
            object.child(r#"{"expr":"#, *inner).raw(r#","type":"parenExpr"}"#);
        }
    }
}

fn vector_selector(selector: &VectorSelector, object: &mut Object<'_>) {
    selector_start(selector, object);
    extension(r#","smoothed":"#, selector, RangeExtension::Smoothed, object);
    at(&selector.modifiers, object);
    object.raw(r#","type":"vectorSelector"}"#);
}

fn matrix_selector(selector: &VectorSelector, range: &DurationExpr, object: &mut Object<'_>) {
    selector_start(selector, object);
    duration(r#","range":"#, r#","rangeExpr":"#, Some(range), object);
    extension(r#","smoothed":"#, selector, RangeExtension::Smoothed, object);
    at(&selector.modifiers, object);
    object.raw(r#","type":"matrixSelector"}"#);
}

/// What all selectors begin with.
fn selector_start(selector: &VectorSelector, object: &mut Object<'_>) {
    extension(r#"{"anchored":"#, selector, RangeExtension::Anchored, object);
    object.raw(r#","matchers":"#);
    push_list(&mut object.text, &selector.matchers, |out, matcher| {
        out.extend_from_slice(br#"{"name":"#);
        push_string(out, matcher.name());
        out.extend_from_slice(format!(r#","type":"{}","value":"#, matcher.op()).as_bytes());
        push_string(out, matcher.value());
        out.push(b'}');
    });
    object.string(r#","name":"#, &selector.name);
    let offset = selector.modifiers.offset.as_ref();
    duration(r#","offset":"#, r#","offsetExpr":"#, offset, object);
}

fn subquery(subquery: &Subquery, object: &mut Object<'_>) {
    object.child(r#"{"expr":"#, subquery.expr);
    let offset = subquery.modifiers.offset.as_ref();
    duration(r#","offset":"#, r#","offsetExpr":"#, offset, object);
    duration(r#","range":"#, r#","rangeExpr":"#, Some(&subquery.range), object);
    let (start_or_end, timestamp) = at_parts(&subquery.modifiers);
    object.raw(r#","startOrEnd":"#).raw(start_or_end);
    duration(r#","step":"#, r#","stepExpr":"#, subquery.step.as_ref(), object);
    object.integer(r#","timestamp":"#, timestamp).raw(r#","type":"subquery"}"#);
}

fn binary(binary: &Binary, object: &mut Object<'_>) {
    object.bool(r#"{"bool":"#, binary.return_bool).child(r#","lhs":"#, binary.left);
    object.raw(r#","matching":"#);
    match &binary.matching {
        None => {
            object.raw("null");
        }
        Some(inner) => matching(inner, object),
    }
    object.string(r#","op":"#, binary.op.text()).child(r#","rhs":"#, binary.right);
    object.raw(r#","type":"binaryExpr"}"#);
}

fn matching(matching: &Matching, object: &mut Object<'_>) {
    let cardinality = match matching.cardinality {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    object.string(r#"{"card":"#, cardinality);
    for (key, fill) in
        [(r#","fillValues":{"lhs":"#, matching.fill_left), (r#","rhs":"#, matching.fill_right)]
    {
        object.raw(key);
        // JSON has no number for the others.
        match fill.filter(|value| value.is_finite()) {
            Some(value) => push_api_float(&mut object.text, value),
            None => object.text.extend_from_slice(b"null"),
        }
    }
    object
        .strings(r#"},"include":"#, &matching.include)
        .strings(r#","labels":"#, &matching.labels)
        .bool(r#","on":"#, matching.on)
        .raw("}");
}

fn aggregate(aggregate: &Aggregate, object: &mut Object<'_>) {
    object
        .child(r#"{"expr":"#, aggregate.expr)
        .strings(r#","grouping":"#, &aggregate.grouping)
        .string(r#","op":"#, aggregate.op.text());
    match aggregate.param {
        Some(param) => object.child(r#","param":"#, param),
        None => object.raw(r#","param":null"#),
    };
    object.raw(r#","type":"aggregation""#).bool(r#","without":"#, aggregate.without).raw("}");
}

fn extension(key: &str, selector: &VectorSelector, which: RangeExtension, object: &mut Object<'_>) {
    object.bool(key, selector.modifiers.extension == Some(which));
}

fn at(modifiers: &Modifiers, object: &mut Object<'_>) {
    let (start_or_end, timestamp) = at_parts(modifiers);
    object.raw(r#","startOrEnd":"#).raw(start_or_end).integer(r#","timestamp":"#, timestamp);
}

fn at_parts(modifiers: &Modifiers) -> (&'static str, Option<i64>) {
    match modifiers.at {
        None => ("null", None),
        Some(At::Start) => (r#""start""#, None),
        Some(At::End) => (r#""end""#, None),
        Some(At::TimestampMs(ms)) => ("null", Some(ms)),
    }
}

/// Milliseconds, and the expression if it has to be worked out.
fn duration(
    ms_key: &str,
    expression_key: &str,
    duration: Option<&DurationExpr>,
    object: &mut Object<'_>,
) {
    let (ms, computed) = match duration {
        None => (0, None),
        Some(DurationExpr::Literal(ms)) => (*ms, None),
        Some(computed @ DurationExpr::Computed(_)) => (0, Some(computed)),
    };
    object.integer(ms_key, Some(ms)).raw(expression_key);
    match computed {
        None => object.text.extend_from_slice(b"null"),
        Some(computed) => push_duration(&mut object.text, computed),
    }
}

/// Recurses: the parser bounds the depth.
fn push_duration(out: &mut Vec<u8>, duration: &DurationExpr) {
    let (inner, wrapped) = match duration {
        DurationExpr::Computed(computed) => match &**computed {
            ComputedDuration::Paren(inner) => (inner, true),
            _ => (duration, false),
        },
        DurationExpr::Literal(_) => (duration, false),
    };
    let computed = match inner {
        DurationExpr::Literal(ms) => return push_number(out, *ms as f64 / 1000.0, true),
        DurationExpr::Computed(computed) => &**computed,
    };
    let (op, left, right) = match computed {
        ComputedDuration::Seconds(seconds) => return push_number(out, *seconds, false),
        // Parentheses in parentheses are one pair.
        ComputedDuration::Paren(_) => return push_duration(out, inner),
        ComputedDuration::Step => ("step", None, None),
        ComputedDuration::Range => ("range", None, None),
        ComputedDuration::Negate(operand) => ("-", None, Some(operand)),
        ComputedDuration::Binary { op, left, right } => (op.text(), Some(left), Some(right)),
        ComputedDuration::Min(left, right) => ("min_of", Some(left), Some(right)),
        ComputedDuration::Max(left, right) => ("max_of", Some(left), Some(right)),
    };
    let mut operand = |key: &[u8], operand: Option<&DurationExpr>| {
        out.extend_from_slice(key);
        match operand {
            Some(operand) => push_duration(out, operand),
            None => out.extend_from_slice(b"null"),
        }
    };
    operand(br#"{"lhs":"#, left);
    let rest = format!(r#","op":"{op}""#);
    operand(&[rest.as_bytes(), br#","rhs":"#].concat(), right);
    out.extend_from_slice(format!(r#","type":"durationExpr","wrapped":{wrapped}}}"#).as_bytes());
}

fn push_number(out: &mut Vec<u8>, seconds: f64, duration: bool) {
    let value = float(seconds);
    let text = format!(r#"{{"duration":{duration},"type":"numberLiteral","val":"{value}"}}"#);
    out.extend_from_slice(text.as_bytes());
}

/// The types by the names that Prometheus's parser has for them.
fn type_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::InstantVector => "vector",
        ValueType::RangeVector => "matrix",
    }
}

#[cfg(test)]
mod tests {
    use icecore_query::parser::ParserOptions;
    use serde_json::{Value, json};

    use super::*;

    fn tree(query: &str) -> Value {
        let text = written(&parse(query, ParserOptions::ALL).unwrap());
        serde_json::from_slice(&text).unwrap()
    }

    fn matcher(name: &str, op: &str, value: &str) -> Value {
        json!({"name": name, "type": op, "value": value})
    }

    fn selector(name: &str) -> Value {
        json!({
            "type": "vectorSelector", "name": name, "offset": 0, "offsetExpr": null,
            "matchers": [matcher("__name__", "=", name)], "timestamp": null, "startOrEnd": null,
            "anchored": false, "smoothed": false,
        })
    }

    fn number(value: &str) -> Value {
        json!({"type": "numberLiteral", "val": value})
    }

    #[test]
    fn literals_and_what_holds_them() {
        assert_eq!(tree("0x1F"), number("31"));
        assert_eq!(tree("5m"), number("300"));
        assert_eq!(tree("-Inf"), number("-Inf"));
        assert_eq!(tree(r#""a\"b""#), json!({"type": "stringLiteral", "val": "a\"b"}));
        assert_eq!(
            tree("-(a)"),
            json!({
                "type": "unaryExpr", "op": "-",
                "expr": {"type": "parenExpr", "expr": selector("a")},
            })
        );
    }

    #[test]
    fn selectors_with_their_modifiers() {
        let mut wanted = selector("a");
        wanted["matchers"] = json!([
            matcher("b", "=~", "c.*"),
            matcher("d", "!=", "\"e\""),
            matcher("__name__", "=", "a"),
        ]);
        wanted["offset"] = json!(-90_000);
        wanted["timestamp"] = json!(1_603_774_568_123_i64);
        let query = r#"a{b=~"c.*", d!="\"e\""} @ 1603774568.123 offset -90s"#;
        assert_eq!(tree(query), wanted);

        let mut wanted = selector("a");
        wanted["type"] = json!("matrixSelector");
        wanted["range"] = json!(300_000);
        wanted["rangeExpr"] = Value::Null;
        wanted["startOrEnd"] = json!("end");
        wanted["smoothed"] = json!(true);
        assert_eq!(tree("a[5m] smoothed @ end()"), wanted);

        assert_eq!(
            tree("(a)[1h:5m] @ start() offset 1m"),
            json!({
                "type": "subquery", "expr": {"type": "parenExpr", "expr": selector("a")},
                "range": 3_600_000, "rangeExpr": null, "step": 300_000, "stepExpr": null,
                "offset": 60_000, "offsetExpr": null, "timestamp": null, "startOrEnd": "start",
            })
        );
        assert_eq!(tree("a[1h:]")["step"], 0);
    }

    #[test]
    fn durations_that_are_worked_out() {
        let tree = tree("a[(2*step())+5m] offset -(min_of(range(),1.5))");
        assert_eq!(tree["range"], 0);
        assert_eq!(
            tree["rangeExpr"],
            json!({
                "type": "durationExpr", "op": "+", "wrapped": false,
                "lhs": {
                    "type": "durationExpr", "op": "*", "wrapped": true,
                    "lhs": {"type": "numberLiteral", "val": "2", "duration": false},
                    "rhs": {
                        "type": "durationExpr", "op": "step", "lhs": null, "rhs": null,
                        "wrapped": false,
                    },
                },
                "rhs": {"type": "numberLiteral", "val": "300", "duration": true},
            })
        );
        assert_eq!(tree["offset"], 0);
        assert_eq!(tree["offsetExpr"]["op"], "-");
        assert_eq!(tree["offsetExpr"]["lhs"], Value::Null);
        assert_eq!(tree["offsetExpr"]["rhs"]["op"], "min_of");
        assert_eq!(tree["offsetExpr"]["rhs"]["wrapped"], true);
    }

    #[test]
    fn operators_with_their_matching() {
        assert_eq!(
            tree("a > bool on(b) group_left(c) fill_right(-1e-7) d"),
            json!({
                "type": "binaryExpr", "op": ">", "bool": true, "lhs": selector("a"),
                "rhs": selector("d"),
                "matching": {
                    "card": "many-to-one", "labels": ["b"], "on": true, "include": ["c"],
                    "fillValues": {"lhs": null, "rhs": -1e-7},
                },
            })
        );
        assert_eq!(tree("a and b")["matching"]["card"], "many-to-many");
        assert_eq!(tree("a * b")["matching"]["card"], "one-to-one");
        assert_eq!(tree("a + 1")["matching"], Value::Null);
    }

    #[test]
    fn aggregations_and_calls() {
        assert_eq!(
            tree("topk without(b, c) (3, a)"),
            json!({
                "type": "aggregation", "op": "topk", "expr": selector("a"), "param": number("3"),
                "grouping": ["b", "c"], "without": true,
            })
        );
        assert_eq!(tree("sum(a)")["param"], Value::Null);
        assert_eq!(
            tree("round(a, 5)"),
            json!({
                "type": "call", "args": [selector("a"), number("5")],
                "func": {
                    "name": "round", "argTypes": ["vector", "scalar"], "variadic": 1,
                    "returnType": "vector",
                },
            })
        );
        assert_eq!(tree("time()")["args"], json!([]));
    }

    #[test]
    fn members_are_in_order_and_depth_is_no_matter() {
        let text = written(&parse("-1 + b", ParserOptions::default()).unwrap());
        let text = String::from_utf8(text).unwrap();
        let wanted = r#"{"bool":false,"lhs":{"type":"numberLiteral","val":"-1"},"matching":null,"op":"+","rhs":{"anchored":"#;
        assert!(text.starts_with(wanted), "{text}");
        let sum = format!("a{}", " + a".repeat(100_000));
        let text = written(&parse(&sum, ParserOptions::default()).unwrap());
        assert_eq!(text.last(), Some(&b'}'));
    }
}
