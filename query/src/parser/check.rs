//! The check of types, over a tree whose syntax is right.
//!
//! The type of a node follows from its kind and its children, so one pass over the arena finds all
//! of them. A second walk looks for faults in the order in which Prometheus does: mostly children
//! first, but the arguments of a call are counted before they are looked at.

use std::collections::HashMap;

use crate::functions::{Function, FunctionId};
use crate::go_format;
use crate::parser::ParseError;
use crate::parser::ast::{
    AggregateOp, Binary, BinaryOp, Cardinality, Expr, Matching, NodeId, NodeKind, Span, ValueType,
    VectorSelector,
};
use crate::parser::selectors::METRIC_NAME;
use crate::parser::steps;
use crate::parser::stream::MAX_ERRORS;

/// What is left to do, the next at the end.
enum Task {
    Visit(NodeId),
    /// The second argument of `info` selects labels, not series, so it may select everything.
    VisitInfoLabels(NodeId),
    /// After the children.
    Leave(NodeId),
    ExpectOperand {
        operand: NodeId,
        wanted: ValueType,
        context: &'static str,
    },
    ExpectArgument {
        argument: NodeId,
        wanted: ValueType,
        function: &'static Function,
    },
}

struct Checker<'a> {
    text: &'a [u8],
    expr: &'a mut Expr,
    types: Vec<ValueType>,
    tasks: Vec<Task>,
    errors: Vec<ParseError>,
}

/// The faults of a tree. Settles how the two sides of binary operations match.
pub(super) fn check(text: &[u8], expr: &mut Expr) -> Vec<ParseError> {
    let types = types(expr);
    let tasks = vec![Task::Visit(expr.root)];
    let mut checker = Checker { text, expr, types, tasks, errors: Vec::new() };
    while let Some(task) = checker.tasks.pop() {
        steps::take(1);
        checker.run(task);
    }
    checker.errors
}

/// The type of every node.
pub(super) fn types(expr: &Expr) -> Vec<ValueType> {
    let mut types: Vec<ValueType> = Vec::with_capacity(expr.nodes.len());
    for node in &expr.nodes {
        let of = |id: NodeId| types[id.0 as usize];
        types.push(match &node.kind {
            NodeKind::Number { .. } => ValueType::Scalar,
            NodeKind::String { .. } => ValueType::String,
            NodeKind::VectorSelector(_) | NodeKind::Aggregate(_) => ValueType::InstantVector,
            NodeKind::MatrixSelector { .. } | NodeKind::Subquery(_) => ValueType::RangeVector,
            NodeKind::Unary { operand, .. } => of(*operand),
            NodeKind::Paren { inner } => of(*inner),
            NodeKind::Call { function, .. } => function.returns,
            NodeKind::Binary(Binary { left, right, .. }) => match (of(*left), of(*right)) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::InstantVector,
            },
        });
    }
    types
}

impl Checker<'_> {
    fn run(&mut self, task: Task) {
        match task {
            Task::Visit(id) => self.visit(id),
            Task::VisitInfoLabels(id) => self.selector(id, true),
            Task::Leave(id) => self.leave(id),
            Task::ExpectOperand { operand, wanted, context } => {
                let got = self.type_of(operand);
                if got != wanted {
                    self.mismatch(self.span(operand), wanted, context, got);
                }
            }
            Task::ExpectArgument { argument, wanted, function } => {
                let got = self.type_of(argument);
                if got != wanted {
                    let context = format!("call to function \"{}\"", function.name);
                    self.mismatch(self.span(argument), wanted, &context, got);
                }
            }
        }
    }

    fn visit(&mut self, id: NodeId) {
        match &self.expr.node(id).kind {
            NodeKind::Number { .. } | NodeKind::String { .. } => {}
            NodeKind::VectorSelector(_) => self.selector(id, false),
            NodeKind::MatrixSelector { selector: child, .. } | NodeKind::Paren { inner: child } => {
                let child = *child;
                self.tasks.push(Task::Visit(child));
            }
            NodeKind::Unary { operand: child, .. } => {
                let child = *child;
                self.tasks.extend([Task::Leave(id), Task::Visit(child)]);
            }
            NodeKind::Subquery(subquery) => {
                let child = subquery.expr;
                self.tasks.extend([Task::Leave(id), Task::Visit(child)]);
            }
            NodeKind::Binary(binary) => {
                let (left, right) = (binary.left, binary.right);
                self.tasks.extend([Task::Leave(id), Task::Visit(right), Task::Visit(left)]);
            }
            NodeKind::Aggregate(aggregate) => {
                let (op, operand, param) = (aggregate.op, aggregate.expr, aggregate.param);
                if let Some(param) = param {
                    let wanted = match op {
                        AggregateOp::CountValues => ValueType::String,
                        _ => ValueType::Scalar,
                    };
                    let context = "aggregation parameter";
                    self.tasks.push(Task::ExpectOperand { operand: param, wanted, context });
                    self.tasks.push(Task::Visit(param));
                }
                let (wanted, context) = (ValueType::InstantVector, "aggregation expression");
                self.tasks.push(Task::ExpectOperand { operand, wanted, context });
                self.tasks.push(Task::Visit(operand));
            }
            NodeKind::Call { function, args } => {
                let (function, args) = (*function, args.clone());
                self.call(id, function, &args);
            }
        }
    }

    fn leave(&mut self, id: NodeId) {
        match &self.expr.node(id).kind {
            NodeKind::Unary { operand, .. } => {
                let got = self.type_of(*operand);
                if !matches!(got, ValueType::Scalar | ValueType::InstantVector) {
                    let name = got.documented();
                    self.error(
                        self.span(id),
                        format!(
                            "unary expression only allowed on expressions of type scalar or \
                             instant vector, got \"{name}\""
                        ),
                    );
                }
            }
            NodeKind::Subquery(subquery) => {
                let got = self.type_of(subquery.expr);
                if got != ValueType::InstantVector {
                    let name = got.internal();
                    self.error(
                        self.span(id),
                        format!("subquery is only allowed on instant vector, got {name} instead"),
                    );
                }
            }
            NodeKind::Binary(_) => self.binary(id),
            other => unreachable!("{other:?} is not left"),
        }
    }

    fn call(&mut self, id: NodeId, function: &'static Function, args: &[NodeId]) {
        let span = self.span(id);
        let (name, got) = (function.name, args.len());
        let (least, most) = (function.min_args(), function.max_args());
        let bound = match most {
            _ if function.variadic == 0 && got != least => Some(("", least)),
            _ if got < least => Some(("at least ", least)),
            Some(most) if got > most => Some(("at most ", most)),
            _ => None,
        };
        if let Some((bound, count)) = bound {
            self.error(
                span,
                format!("expected {bound}{count} argument(s) in call to \"{name}\", got {got}"),
            );
        }
        let info = function.id == FunctionId::Info;
        if let (true, Some(&labels)) = (info, args.get(1)) {
            self.info_labels(span, labels);
        }
        for (index, &argument) in args.iter().enumerate().rev() {
            let checked = index < function.args.len() || function.variadic != 0;
            let Some(wanted) = function.arg_type(index).filter(|_| checked) else {
                continue;
            };
            self.tasks.push(Task::ExpectArgument { argument, wanted, function });
            let selects = matches!(&self.expr.node(argument).kind,
                NodeKind::VectorSelector(selector) if selector.name.is_empty());
            self.tasks.push(match info && index == 1 && selects {
                true => Task::VisitInfoLabels(argument),
                false => Task::Visit(argument),
            });
        }
    }

    /// The second argument of `info`: braces without a name before them.
    fn info_labels(&mut self, call: Span, labels: NodeId) {
        let got = self.type_of(labels);
        if got != ValueType::InstantVector {
            self.mismatch(call, ValueType::InstantVector, "call to function \"info\"", got);
        }
        let span = self.span(labels);
        match &self.expr.node(labels).kind {
            NodeKind::VectorSelector(selector) if selector.name.is_empty() => {}
            NodeKind::VectorSelector(_) => self.error(
                span,
                "expected label selectors only, got vector selector instead".to_owned(),
            ),
            _ => self.error(span, "expected label selectors only".to_owned()),
        }
    }

    fn selector(&mut self, id: NodeId, may_select_all: bool) {
        let NodeKind::VectorSelector(selector) = &self.expr.node(id).kind else {
            unreachable!("only selectors come here");
        };
        let VectorSelector { name, matchers, .. } = selector;
        let mut faults = Vec::new();
        if name.is_empty() {
            if !may_select_all && matchers.iter().all(|matcher| matcher.matches_empty()) {
                faults.push("vector selector must contain at least one non-empty matcher".into());
            }
        } else {
            // The last matcher is the name's own.
            let written = &matchers[..matchers.len().saturating_sub(1)];
            for matcher in written.iter().filter(|matcher| matcher.name() == METRIC_NAME) {
                let first = go_format::quote(name.as_bytes());
                let second = go_format::quote(matcher.value().as_bytes());
                faults.push(format!("metric name must not be set twice: {first} or {second}"));
            }
        }
        let span = self.span(id);
        for fault in faults {
            self.error(span, fault);
        }
    }

    fn binary(&mut self, id: NodeId) {
        let span = self.span(id);
        let NodeKind::Binary(binary) = &mut self.expr.nodes[id.0 as usize].kind else {
            unreachable!("only binary operations come here");
        };
        let Binary { op, left, right, return_bool, .. } = *binary;
        let mut matching = binary.matching.take().unwrap_or_default();
        let (left_type, right_type) = (self.type_of(left), self.type_of(right));
        let scalars = left_type == ValueType::Scalar && right_type == ValueType::Scalar;

        if return_bool && !op.is_comparison() {
            let message = "bool modifier can only be used on comparison operators";
            self.error(self.operator_span(left, right), message.to_owned());
        }
        if op.is_comparison() && !return_bool && scalars {
            let message = "comparisons between scalars must use BOOL modifier";
            self.error(self.operator_span(left, right), message.to_owned());
        }
        if op.is_set() && matching.cardinality == Cardinality::OneToOne {
            matching.cardinality = Cardinality::ManyToMany;
        }
        self.labels_on_both_sides(&matching, left, right);
        for (operand, of) in [(left, left_type), (right, right_type)] {
            if !matches!(of, ValueType::Scalar | ValueType::InstantVector) {
                let message = "binary expression must contain only scalar and instant vector types";
                self.error(self.span(operand), message.to_owned());
            }
        }
        let vectors = [left_type, right_type] == [ValueType::InstantVector; 2];
        self.matching(span, op, &matching, vectors);
        if op.is_set() && (left_type == ValueType::Scalar || right_type == ValueType::Scalar) {
            let op = op.text();
            let message = format!("set operator \"{op}\" not allowed in binary scalar expression");
            self.error(span, message);
        }
        if let NodeKind::Binary(binary) = &mut self.expr.nodes[id.0 as usize].kind {
            binary.matching = vectors.then_some(matching);
        }
    }

    fn labels_on_both_sides(&mut self, matching: &Matching, left: NodeId, right: NodeId) {
        if !matching.on || matching.include.is_empty() {
            return;
        }
        let mut included: HashMap<&str, usize> = HashMap::new();
        for label in &matching.include {
            *included.entry(label).or_default() += 1;
        }
        for label in &matching.labels {
            let label_text = go_format::quote(label.as_bytes());
            for _ in 0..included.get(label.as_str()).copied().unwrap_or(0) {
                if self.errors.len() >= MAX_ERRORS {
                    return;
                }
                let message =
                    format!("label {label_text} must not occur in ON and GROUP clause at once");
                self.error(self.operator_span(left, right), message);
            }
        }
    }

    /// Whether what was written about matching has a place.
    fn matching(&mut self, span: Span, op: BinaryOp, matching: &Matching, vectors: bool) {
        let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
        if !vectors {
            if !matching.labels.is_empty() {
                let message = "vector matching only allowed between instant vectors";
                self.error(span, message.to_owned());
            }
            if fills {
                let message = "filling in missing series only allowed between instant vectors";
                self.error(span, message.to_owned());
            }
        } else if op.is_set() {
            if matching.cardinality != Cardinality::ManyToMany {
                let op = op.text();
                self.error(span, format!("no grouping allowed for \"{op}\" operation"));
                let message = "set operations must always be many-to-many";
                self.error(span, message.to_owned());
            }
            if fills {
                let message = "filling in missing series not allowed for set operators";
                self.error(span, message.to_owned());
            }
        }
    }

    /// From the operator to the last byte of what stands between two operands, without it, as
    /// Prometheus has it.
    fn operator_span(&self, left: NodeId, right: NodeId) -> Span {
        let space = |at: u32| {
            self.text
                .get(at as usize)
                .is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
        };
        let mut start = self.span(left).end;
        while space(start) {
            start += 1;
        }
        let mut end = self.span(right).start.saturating_sub(1);
        while end > 0 && space(end) {
            end -= 1;
        }
        Span { start, end }
    }

    fn type_of(&self, id: NodeId) -> ValueType {
        self.types[id.0 as usize]
    }

    fn span(&self, id: NodeId) -> Span {
        self.expr.node(id).span
    }

    fn mismatch(&mut self, span: Span, wanted: ValueType, context: &str, got: ValueType) {
        let (wanted, got) = (wanted.documented(), got.documented());
        self.error(span, format!("expected type {wanted} in {context}, got {got}"));
    }

    fn error(&mut self, span: Span, message: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(ParseError { span, message });
        }
    }
}

impl ValueType {
    /// As the documentation and most errors name it.
    pub fn documented(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::String => "string",
            ValueType::InstantVector => "instant vector",
            ValueType::RangeVector => "range vector",
        }
    }

    /// As the API names it.
    pub fn internal(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::String => "string",
            ValueType::InstantVector => "vector",
            ValueType::RangeVector => "matrix",
        }
    }
}

impl Expr {
    /// The type of what the query returns.
    pub fn value_type(&self) -> ValueType {
        types(self)[self.root.0 as usize]
    }
}
