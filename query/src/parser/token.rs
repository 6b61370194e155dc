//! Tokens: what the lexer cuts a query into.
//!
//! A [`Token`] is a [`Kind`] and the bytes it covers; its text stays in the query. Keywords are
//! kinds of their own wherever the lexer meets them; whether one may also stand for a metric or a
//! label ([`Kind::is_metric_name`], [`Kind::is_label_name`]) is for the grammar to say.

use crate::go_format;
use crate::parser::ast::{AggregateOp, BinaryOp, Span};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing more will come: after [`Kind::Eof`], or where the lexer gave up.
    Exhausted,
    Eof,
    Comment,
    Identifier,
    /// An identifier with a colon, which only a metric may have.
    MetricIdentifier,
    Number,
    Duration,
    String,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    /// `=`
    Assign,
    /// `=~`
    RegexMatch,
    /// `!~`
    RegexNoMatch,
    At,
    Operator(BinaryOp),
    Aggregator(AggregateOp),
    Keyword(Keyword),
    /// A word that is a function, and in places more than that.
    Special(Special),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Bool,
    By,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Ignoring,
    Offset,
    Smoothed,
    Anchored,
    On,
    Without,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

/// One token; `start..end` are bytes of the query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// The longest keyword, `count_values` and `limit_ratio` being the next.
const MAX_KEYWORD_BYTES: usize = 12;

impl Kind {
    /// The keyword that a word is, in whatever case.
    pub(super) fn of_word(word: &[u8]) -> Option<Kind> {
        if word.len() > MAX_KEYWORD_BYTES {
            return None;
        }
        let mut lower = [0; MAX_KEYWORD_BYTES];
        let lower = &mut lower[..word.len()];
        lower.copy_from_slice(word);
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"and" => Kind::Operator(BinaryOp::And),
            b"or" => Kind::Operator(BinaryOp::Or),
            b"unless" => Kind::Operator(BinaryOp::Unless),
            b"atan2" => Kind::Operator(BinaryOp::Atan2),
            b"sum" => Kind::Aggregator(AggregateOp::Sum),
            b"avg" => Kind::Aggregator(AggregateOp::Avg),
            b"count" => Kind::Aggregator(AggregateOp::Count),
            b"min" => Kind::Aggregator(AggregateOp::Min),
            b"max" => Kind::Aggregator(AggregateOp::Max),
            b"group" => Kind::Aggregator(AggregateOp::Group),
            b"stddev" => Kind::Aggregator(AggregateOp::Stddev),
            b"stdvar" => Kind::Aggregator(AggregateOp::Stdvar),
            b"topk" => Kind::Aggregator(AggregateOp::Topk),
            b"bottomk" => Kind::Aggregator(AggregateOp::Bottomk),
            b"count_values" => Kind::Aggregator(AggregateOp::CountValues),
            b"quantile" => Kind::Aggregator(AggregateOp::Quantile),
            b"limitk" => Kind::Aggregator(AggregateOp::Limitk),
            b"limit_ratio" => Kind::Aggregator(AggregateOp::LimitRatio),
            b"offset" => Kind::Keyword(Keyword::Offset),
            b"smoothed" => Kind::Keyword(Keyword::Smoothed),
            b"anchored" => Kind::Keyword(Keyword::Anchored),
            b"by" => Kind::Keyword(Keyword::By),
            b"without" => Kind::Keyword(Keyword::Without),
            b"on" => Kind::Keyword(Keyword::On),
            b"ignoring" => Kind::Keyword(Keyword::Ignoring),
            b"group_left" => Kind::Keyword(Keyword::GroupLeft),
            b"group_right" => Kind::Keyword(Keyword::GroupRight),
            b"fill" => Kind::Keyword(Keyword::Fill),
            b"fill_left" => Kind::Keyword(Keyword::FillLeft),
            b"fill_right" => Kind::Keyword(Keyword::FillRight),
            b"bool" => Kind::Keyword(Keyword::Bool),
            b"inf" | b"nan" => Kind::Number,
            _ => {
                return Kind::of_duration_word(lower).or(match &*lower {
                    b"start" => Some(Kind::Special(Special::Start)),
                    b"end" => Some(Kind::Special(Special::End)),
                    _ => None,
                });
            }
        })
    }

    /// The words that a duration expression may have; `word` is in lower case.
    pub(super) fn of_duration_word(word: &[u8]) -> Option<Kind> {
        Some(Kind::Special(match word {
            b"step" => Special::Step,
            b"range" => Special::Range,
            b"max_of" => Special::MaxOf,
            b"min_of" => Special::MinOf,
            _ => return None,
        }))
    }

    /// Whether the token may stand for a metric.
    pub(super) fn is_metric_name(self) -> bool {
        match self {
            Kind::Identifier | Kind::MetricIdentifier | Kind::Aggregator(_) | Kind::Special(_) => {
                true
            }
            Kind::Operator(op) => op.is_set(),
            Kind::Keyword(keyword) => !matches!(
                keyword,
                Keyword::Bool
                    | Keyword::GroupLeft
                    | Keyword::GroupRight
                    | Keyword::Ignoring
                    | Keyword::On
            ),
            _ => false,
        }
    }

    /// Whether the token may stand for a label where labels are listed.
    pub(super) fn is_label_name(self) -> bool {
        match self {
            Kind::Identifier | Kind::MetricIdentifier | Kind::Aggregator(_) | Kind::Special(_) => {
                true
            }
            Kind::Operator(op) => op.is_set() || op == BinaryOp::Atan2,
            Kind::Keyword(keyword) => keyword != Keyword::Without,
            _ => false,
        }
    }

    /// Whether an expression may begin with the token.
    pub(super) fn begins_expression(self) -> bool {
        self.is_metric_name()
            || matches!(
                self,
                Kind::Number
                    | Kind::Duration
                    | Kind::String
                    | Kind::LeftParen
                    | Kind::LeftBrace
                    | Kind::Operator(BinaryOp::Add | BinaryOp::Sub)
            )
    }

    /// Whether errors set a noun before the token: `identifier "foo"`.
    fn noun(self) -> Option<&'static str> {
        Some(match self {
            Kind::Identifier => "identifier",
            Kind::MetricIdentifier => "metric identifier",
            Kind::String => "string",
            Kind::Number => "number",
            Kind::Duration => "duration",
            _ => return None,
        })
    }

    /// The token as errors name it; `text` is what it covers.
    pub(super) fn describe(self, text: &[u8]) -> String {
        /// Literals longer than this are cut.
        const SHOWN_CHARS: usize = 10;
        let shown = String::from_utf8_lossy(text);
        let quoted = match self {
            Kind::Eof | Kind::Exhausted => return "end of input".to_owned(),
            Kind::Keyword(_) => return format!("<{shown}>"),
            Kind::Operator(_) | Kind::At | Kind::RegexMatch | Kind::RegexNoMatch => {
                return format!("<op:{shown}>");
            }
            Kind::Aggregator(_) => return format!("<aggr:{shown}>"),
            Kind::Identifier | Kind::MetricIdentifier => go_format::quote(text),
            _ if text.len() > SHOWN_CHARS => {
                let cut: String = shown.chars().take(SHOWN_CHARS).collect();
                format!("{}...", go_format::quote(cut.as_bytes()))
            }
            _ => go_format::quote(text),
        };
        match self.noun() {
            Some(noun) => format!("{noun} {quoted}"),
            None => quoted,
        }
    }
}
