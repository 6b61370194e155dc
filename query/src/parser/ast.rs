//! The syntax tree: an arena of nodes, children before parents.
//!
//! Expressions of ten thousand terms are legal, so nothing here recurses: nodes refer to each
//! other by [`NodeId`], dropping a tree drops one vector, and a walk from the first node to the
//! last meets every child before its parent. Spans are byte offsets into the query text.

use icecore_storage::matcher::Matcher;

use crate::functions::Function;

/// Bytes `start..end` of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// Index of a node in its [`Expr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A parsed query.
#[derive(Clone, Debug)]
pub struct Expr {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

impl Expr {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: NodeKind,
    /// As Prometheus's `PositionRange()` of the same node.
    pub span: Span,
}

/// PromQL's four types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    Scalar,
    String,
    InstantVector,
    RangeVector,
}

#[derive(Clone, Debug)]
pub enum NodeKind {
    Number {
        value: f64,
        /// Written as a duration (`5m` for 300), and printed as one.
        as_duration: bool,
    },
    /// A byte string: escapes may make it invalid UTF-8.
    String {
        value: Vec<u8>,
    },
    VectorSelector(VectorSelector),
    /// A vector selector (the child) with a range.
    MatrixSelector {
        selector: NodeId,
        range: DurationExpr,
    },
    Subquery(Subquery),
    Unary {
        op: UnaryOp,
        operand: NodeId,
    },
    Binary(Binary),
    Aggregate(Aggregate),
    Call {
        function: &'static Function,
        args: Vec<NodeId>,
    },
    Paren {
        inner: NodeId,
    },
}

impl NodeKind {
    /// The nodes directly below, from left to right as they are evaluated.
    pub fn children(&self) -> Vec<NodeId> {
        match self {
            NodeKind::Number { .. } | NodeKind::String { .. } | NodeKind::VectorSelector(_) => {
                vec![]
            }
            NodeKind::MatrixSelector { selector, .. } => vec![*selector],
            NodeKind::Subquery(subquery) => vec![subquery.expr],
            NodeKind::Unary { operand, .. } => vec![*operand],
            NodeKind::Binary(binary) => vec![binary.left, binary.right],
            NodeKind::Aggregate(aggregate) => {
                aggregate.param.into_iter().chain([aggregate.expr]).collect()
            }
            NodeKind::Call { args, .. } => args.clone(),
            NodeKind::Paren { inner } => vec![*inner],
        }
    }
}

#[derive(Clone, Debug)]
pub struct VectorSelector {
    /// The metric name written before or instead of the braces; also present in `matchers`.
    pub name: String,
    pub matchers: Vec<Matcher>,
    pub modifiers: Modifiers,
}

/// `offset` and `@`, in whichever order they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modifiers {
    pub offset: Option<DurationExpr>,
    pub at: Option<At>,
    /// `anchored` or `smoothed` after a selector.
    pub extension: Option<RangeExtension>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeExtension {
    Anchored,
    Smoothed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    TimestampMs(i64),
    Start,
    End,
}

/// A duration where one may be written: mostly a number of milliseconds known when parsing.
#[derive(Clone, Debug, PartialEq)]
pub enum DurationExpr {
    /// Milliseconds; negative only in an offset.
    Literal(i64),
    /// Arithmetic over `step()`, `range()` and numbers; evaluated before a query runs.
    Computed(Box<ComputedDuration>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum ComputedDuration {
    Seconds(f64),
    Step,
    Range,
    Negate(DurationExpr),
    /// Parentheses: no meaning of their own, but printed.
    Paren(DurationExpr),
    Binary {
        op: BinaryOp,
        left: DurationExpr,
        right: DurationExpr,
    },
    Min(DurationExpr, DurationExpr),
    Max(DurationExpr, DurationExpr),
}

#[derive(Clone, Debug)]
pub struct Subquery {
    pub expr: NodeId,
    pub range: DurationExpr,
    /// The engine's default resolution where absent.
    pub step: Option<DurationExpr>,
    pub modifiers: Modifiers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    Plus,
    Minus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `</`: keep the observations of a histogram below a bound.
    TrimUpper,
    /// `>/`: keep the observations of a histogram above a bound.
    TrimLower,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Equal => "==",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Less => "<",
            BinaryOp::LessOrEqual => "<=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterOrEqual => ">=",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
            BinaryOp::And => "and",
            BinaryOp::Or => "or",
            BinaryOp::Unless => "unless",
        }
    }

    pub fn is_comparison(self) -> bool {
        use BinaryOp::*;
        matches!(self, Equal | NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual)
    }

    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }
}

#[derive(Clone, Debug)]
pub struct Binary {
    pub op: BinaryOp,
    pub left: NodeId,
    pub right: NodeId,
    pub return_bool: bool,
    /// Present exactly between two instant vectors.
    pub matching: Option<Matching>,
}

/// How series of the two sides find each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    pub cardinality: Cardinality,
    /// `on (labels)` if true, `ignoring (labels)` if false.
    pub on: bool,
    pub labels: Vec<String>,
    /// Labels in the parentheses of `group_left` or `group_right`.
    pub include: Vec<String>,
    pub fill_left: Option<f64>,
    pub fill_right: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cardinality {
    #[default]
    OneToOne,
    /// `group_left`
    ManyToOne,
    /// `group_right`
    OneToMany,
    /// Set operators.
    ManyToMany,
}

#[derive(Clone, Debug)]
pub struct Aggregate {
    pub op: AggregateOp,
    pub expr: NodeId,
    pub param: Option<NodeId>,
    pub grouping: Vec<String>,
    pub without: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

impl AggregateOp {
    pub fn text(self) -> &'static str {
        match self {
            AggregateOp::Sum => "sum",
            AggregateOp::Avg => "avg",
            AggregateOp::Count => "count",
            AggregateOp::Min => "min",
            AggregateOp::Max => "max",
            AggregateOp::Group => "group",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::Topk => "topk",
            AggregateOp::Bottomk => "bottomk",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Quantile => "quantile",
            AggregateOp::Limitk => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
        }
    }

    pub fn has_param(self) -> bool {
        use AggregateOp::*;
        matches!(self, Topk | Bottomk | CountValues | Quantile | Limitk | LimitRatio)
    }
}
