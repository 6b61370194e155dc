//! The table of functions: names, argument types and what each returns.
//!
//! The parser checks calls against it; the engine dispatches on [`FunctionId`].

use crate::parser::ast::ValueType;

/// One row of the table.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub id: FunctionId,
    pub args: &'static [ValueType],
    /// 0: exactly `args`; n > 0: the last n of `args` may be left out; -1: the last argument may
    /// come any number of times, also not at all; -n: no, Prometheus's `Variadic` with that meaning.
    pub variadic: i32,
    pub returns: ValueType,
    /// Refused unless `promql-experimental-functions` is on.
    pub experimental: bool,
}

/// Every function of PromQL, so that a `match` on it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionId {
    Abs,
}
