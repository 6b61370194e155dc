//! The table of functions: names, argument types and what each returns.
//!
//! One row a function, sorted by name, as Prometheus 3.14 has them, and `default_rollup`, which
//! vmalert asks for when it restores the state of its alerts. The parser checks calls against the
//! table; the engine dispatches on [`FunctionId`]. Whoever adds a function adds one row and one
//! variant; the test at the end holds the two together.

pub mod number;
pub(crate) mod time;

use crate::parser::ast::ValueType;

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: &'static str,
    pub id: FunctionId,
    pub args: &'static [ValueType],
    /// 0: exactly `args`. Otherwise the last of `args` may be left out; n > 0: it may come up to n
    /// times; negative: any number of times. Prometheus's `Variadic`.
    pub variadic: i32,
    pub returns: ValueType,
    /// Refused unless `promql-experimental-functions` is on.
    pub experimental: bool,
}

impl Function {
    /// The type of argument `index`: those past the table's repeat its last. `None` where the
    /// function takes no argument at all.
    pub fn arg_type(&self, index: usize) -> Option<ValueType> {
        self.args.get(index).or(self.args.last()).copied()
    }

    /// The fewest arguments of a call.
    pub fn min_args(&self) -> usize {
        self.args.len() - usize::from(self.variadic != 0)
    }

    /// The most arguments of a call; `None` where there is no bound.
    pub fn max_args(&self) -> Option<usize> {
        match usize::try_from(self.variadic) {
            Ok(0) => Some(self.args.len()),
            Ok(times) => Some(self.min_args() + times),
            Err(_) => None,
        }
    }
}

/// Every function of PromQL, so that a `match` on it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionId {
    Abs,
    Absent,
    AbsentOverTime,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    AvgOverTime,
    Ceil,
    Changes,
    Clamp,
    ClampMax,
    ClampMin,
    Cos,
    Cosh,
    CountOverTime,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    DaysInMonth,
    DefaultRollup,
    Deg,
    Delta,
    Deriv,
    DoubleExponentialSmoothing,
    End,
    Exp,
    FirstOverTime,
    Floor,
    HistogramAvg,
    HistogramCount,
    HistogramFraction,
    HistogramQuantile,
    HistogramQuantiles,
    HistogramStddev,
    HistogramStdvar,
    HistogramSum,
    Hour,
    Idelta,
    Increase,
    Info,
    Irate,
    LabelJoin,
    LabelReplace,
    LastOverTime,
    Ln,
    Log10,
    Log2,
    MadOverTime,
    MaxOf,
    MaxOverTime,
    MinOf,
    MinOverTime,
    Minute,
    Month,
    Pi,
    PredictLinear,
    PresentOverTime,
    QuantileOverTime,
    Rad,
    Range,
    Rate,
    Resets,
    Round,
    Scalar,
    Sgn,
    Sin,
    Sinh,
    Sort,
    SortByLabel,
    SortByLabelDesc,
    SortDesc,
    Sqrt,
    Start,
    StartTimestamp,
    StddevOverTime,
    StdvarOverTime,
    Step,
    SumOverTime,
    Tan,
    Tanh,
    Time,
    Timestamp,
    TsOfFirstOverTime,
    TsOfLastOverTime,
    TsOfMaxOverTime,
    TsOfMinOverTime,
    Vector,
    Year,
}

/// The function of that name. Names are case-sensitive.
pub fn lookup(name: &str) -> Option<&'static Function> {
    let row = FUNCTIONS.binary_search_by(|function| function.name.cmp(name)).ok()?;
    Some(&FUNCTIONS[row])
}

/// What a function is called.
pub(crate) fn name(id: FunctionId) -> &'static str {
    FUNCTIONS.iter().find(|function| function.id == id).map_or("", |function| function.name)
}

const SCALAR: ValueType = ValueType::Scalar;
const STRING: ValueType = ValueType::String;
const VECTOR: ValueType = ValueType::InstantVector;
const RANGE: ValueType = ValueType::RangeVector;

const fn stable(
    name: &'static str,
    id: FunctionId,
    args: &'static [ValueType],
    variadic: i32,
    returns: ValueType,
) -> Function {
    Function { name, id, args, variadic, returns, experimental: false }
}

const fn experimental(
    name: &'static str,
    id: FunctionId,
    args: &'static [ValueType],
    variadic: i32,
    returns: ValueType,
) -> Function {
    Function { name, id, args, variadic, returns, experimental: true }
}

use FunctionId::*;

/// All functions, sorted by name.
#[rustfmt::skip]
pub static FUNCTIONS: &[Function] = &[
    stable("abs", Abs, &[VECTOR], 0, VECTOR),
    stable("absent", Absent, &[VECTOR], 0, VECTOR),
    stable("absent_over_time", AbsentOverTime, &[RANGE], 0, VECTOR),
    stable("acos", Acos, &[VECTOR], 0, VECTOR),
    stable("acosh", Acosh, &[VECTOR], 0, VECTOR),
    stable("asin", Asin, &[VECTOR], 0, VECTOR),
    stable("asinh", Asinh, &[VECTOR], 0, VECTOR),
    stable("atan", Atan, &[VECTOR], 0, VECTOR),
    stable("atanh", Atanh, &[VECTOR], 0, VECTOR),
    stable("avg_over_time", AvgOverTime, &[RANGE], 0, VECTOR),
    stable("ceil", Ceil, &[VECTOR], 0, VECTOR),
    stable("changes", Changes, &[RANGE], 0, VECTOR),
    stable("clamp", Clamp, &[VECTOR, SCALAR, SCALAR], 0, VECTOR),
    stable("clamp_max", ClampMax, &[VECTOR, SCALAR], 0, VECTOR),
    stable("clamp_min", ClampMin, &[VECTOR, SCALAR], 0, VECTOR),
    stable("cos", Cos, &[VECTOR], 0, VECTOR),
    stable("cosh", Cosh, &[VECTOR], 0, VECTOR),
    stable("count_over_time", CountOverTime, &[RANGE], 0, VECTOR),
    stable("day_of_month", DayOfMonth, &[VECTOR], 1, VECTOR),
    stable("day_of_week", DayOfWeek, &[VECTOR], 1, VECTOR),
    stable("day_of_year", DayOfYear, &[VECTOR], 1, VECTOR),
    stable("days_in_month", DaysInMonth, &[VECTOR], 1, VECTOR),
    stable("default_rollup", DefaultRollup, &[RANGE], 0, VECTOR),
    stable("deg", Deg, &[VECTOR], 0, VECTOR),
    stable("delta", Delta, &[RANGE], 0, VECTOR),
    stable("deriv", Deriv, &[RANGE], 0, VECTOR),
    experimental("double_exponential_smoothing", DoubleExponentialSmoothing, &[RANGE, SCALAR, SCALAR], 0, VECTOR),
    experimental("end", End, &[], 0, SCALAR),
    stable("exp", Exp, &[VECTOR], 0, VECTOR),
    stable("first_over_time", FirstOverTime, &[RANGE], 0, VECTOR),
    stable("floor", Floor, &[VECTOR], 0, VECTOR),
    stable("histogram_avg", HistogramAvg, &[VECTOR], 0, VECTOR),
    stable("histogram_count", HistogramCount, &[VECTOR], 0, VECTOR),
    stable("histogram_fraction", HistogramFraction, &[SCALAR, SCALAR, VECTOR], 0, VECTOR),
    stable("histogram_quantile", HistogramQuantile, &[SCALAR, VECTOR], 0, VECTOR),
    experimental("histogram_quantiles", HistogramQuantiles, &[VECTOR, STRING, SCALAR, SCALAR], 9, VECTOR),
    stable("histogram_stddev", HistogramStddev, &[VECTOR], 0, VECTOR),
    stable("histogram_stdvar", HistogramStdvar, &[VECTOR], 0, VECTOR),
    stable("histogram_sum", HistogramSum, &[VECTOR], 0, VECTOR),
    stable("hour", Hour, &[VECTOR], 1, VECTOR),
    stable("idelta", Idelta, &[RANGE], 0, VECTOR),
    stable("increase", Increase, &[RANGE], 0, VECTOR),
    experimental("info", Info, &[VECTOR, VECTOR], 1, VECTOR),
    stable("irate", Irate, &[RANGE], 0, VECTOR),
    stable("label_join", LabelJoin, &[VECTOR, STRING, STRING, STRING], -1, VECTOR),
    stable("label_replace", LabelReplace, &[VECTOR, STRING, STRING, STRING, STRING], 0, VECTOR),
    stable("last_over_time", LastOverTime, &[RANGE], 0, VECTOR),
    stable("ln", Ln, &[VECTOR], 0, VECTOR),
    stable("log10", Log10, &[VECTOR], 0, VECTOR),
    stable("log2", Log2, &[VECTOR], 0, VECTOR),
    experimental("mad_over_time", MadOverTime, &[RANGE], 0, VECTOR),
    experimental("max_of", MaxOf, &[SCALAR, SCALAR], 0, SCALAR),
    stable("max_over_time", MaxOverTime, &[RANGE], 0, VECTOR),
    experimental("min_of", MinOf, &[SCALAR, SCALAR], 0, SCALAR),
    stable("min_over_time", MinOverTime, &[RANGE], 0, VECTOR),
    stable("minute", Minute, &[VECTOR], 1, VECTOR),
    stable("month", Month, &[VECTOR], 1, VECTOR),
    stable("pi", Pi, &[], 0, SCALAR),
    stable("predict_linear", PredictLinear, &[RANGE, SCALAR], 0, VECTOR),
    stable("present_over_time", PresentOverTime, &[RANGE], 0, VECTOR),
    stable("quantile_over_time", QuantileOverTime, &[SCALAR, RANGE], 0, VECTOR),
    stable("rad", Rad, &[VECTOR], 0, VECTOR),
    experimental("range", Range, &[], 0, SCALAR),
    stable("rate", Rate, &[RANGE], 0, VECTOR),
    stable("resets", Resets, &[RANGE], 0, VECTOR),
    stable("round", Round, &[VECTOR, SCALAR], 1, VECTOR),
    stable("scalar", Scalar, &[VECTOR], 0, SCALAR),
    stable("sgn", Sgn, &[VECTOR], 0, VECTOR),
    stable("sin", Sin, &[VECTOR], 0, VECTOR),
    stable("sinh", Sinh, &[VECTOR], 0, VECTOR),
    stable("sort", Sort, &[VECTOR], 0, VECTOR),
    experimental("sort_by_label", SortByLabel, &[VECTOR, STRING], -1, VECTOR),
    experimental("sort_by_label_desc", SortByLabelDesc, &[VECTOR, STRING], -1, VECTOR),
    stable("sort_desc", SortDesc, &[VECTOR], 0, VECTOR),
    stable("sqrt", Sqrt, &[VECTOR], 0, VECTOR),
    experimental("start", Start, &[], 0, SCALAR),
    experimental("start_timestamp", StartTimestamp, &[VECTOR], 0, VECTOR),
    stable("stddev_over_time", StddevOverTime, &[RANGE], 0, VECTOR),
    stable("stdvar_over_time", StdvarOverTime, &[RANGE], 0, VECTOR),
    experimental("step", Step, &[], 0, SCALAR),
    stable("sum_over_time", SumOverTime, &[RANGE], 0, VECTOR),
    stable("tan", Tan, &[VECTOR], 0, VECTOR),
    stable("tanh", Tanh, &[VECTOR], 0, VECTOR),
    stable("time", Time, &[], 0, SCALAR),
    stable("timestamp", Timestamp, &[VECTOR], 0, VECTOR),
    experimental("ts_of_first_over_time", TsOfFirstOverTime, &[RANGE], 0, VECTOR),
    experimental("ts_of_last_over_time", TsOfLastOverTime, &[RANGE], 0, VECTOR),
    experimental("ts_of_max_over_time", TsOfMaxOverTime, &[RANGE], 0, VECTOR),
    experimental("ts_of_min_over_time", TsOfMinOverTime, &[RANGE], 0, VECTOR),
    stable("vector", Vector, &[SCALAR], 0, VECTOR),
    stable("year", Year, &[VECTOR], 1, VECTOR),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_in_the_order_of_the_ids() {
        assert!(FUNCTIONS.is_sorted_by(|a, b| a.name < b.name));
        for (row, function) in FUNCTIONS.iter().enumerate() {
            assert_eq!(function.id as usize, row, "{}", function.name);
            assert_eq!(lookup(function.name), Some(function));
        }
    }

    #[test]
    fn prometheus_has_ninety_functions_of_which_seventeen_are_experimental() {
        assert_eq!(FUNCTIONS.len(), 90 + 1);
        assert_eq!(FUNCTIONS.iter().filter(|f| f.experimental).count(), 17);
    }

    #[test]
    fn counts_of_arguments_follow_variadic() {
        let counts = |name| lookup(name).map(|f| (f.min_args(), f.max_args()));
        assert_eq!(counts("rate"), Some((1, Some(1))));
        assert_eq!(counts("round"), Some((1, Some(2))));
        assert_eq!(counts("label_join"), Some((3, None)));
        assert_eq!(counts("histogram_quantiles"), Some((3, Some(12))));
        assert_eq!(counts("Rate"), None);
    }
}
