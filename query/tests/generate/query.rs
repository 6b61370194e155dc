//! Queries over the series of [`super::data`], as text.
//!
//! The text is that of PromQL's stable core unless [`Grammar`] asks for more. Orders among equals,
//! which no two engines need to share, are not asked for.

use super::choices::Choices;

/// What a query may contain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grammar {
    /// Operands inside of operands, at most.
    pub(crate) depth: u32,
    /// `@`, with times of this range in seconds.
    pub(crate) at: Option<(i64, i64)>,
    pub(crate) offsets: bool,
    pub(crate) subqueries: bool,
    /// Functions whose value depends on the time of evaluation.
    pub(crate) time: bool,
    /// `anchored` and `smoothed`.
    pub(crate) extended_selectors: bool,
    /// Native histograms and functions over them.
    pub(crate) natives: bool,
    /// `info`, `limitk`, `limit_ratio` and the fill modifiers.
    pub(crate) gated: bool,
}

impl Grammar {
    /// What every Prometheus of the last years understands.
    pub(crate) const COMMON: Grammar = Grammar {
        depth: 3,
        at: None,
        offsets: true,
        subqueries: true,
        time: true,
        extended_selectors: false,
        natives: false,
        gated: false,
    };
}

const METRICS: [&str; 5] =
    ["temperature", "requests_total", "up", "build_info", "latency_seconds_bucket"];
const LABELS: [&str; 4] = ["job", "instance", "code", "le"];
const WINDOWS: [&str; 6] = ["1m", "5m", "40s", "2m", "7m30s", "20m"];
const OFFSETS: [&str; 4] = ["1m", "30s", "7m", "-2m"];
const STEPS: [&str; 4] = ["1m", "30s", "15s", "2m"];

/// An instant vector.
pub(crate) fn vector(grammar: Grammar, choices: &mut Choices) -> String {
    Writer { grammar, choices }.vector(grammar.depth)
}

struct Writer<'a> {
    grammar: Grammar,
    choices: &'a mut Choices,
}

impl Writer<'_> {
    fn vector(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.selector();
        }
        let below = depth - 1;
        match self.choices.below(13) {
            0 => self.selector(),
            1..=3 => self.over_time(below),
            4..=6 => self.aggregation(below),
            7 => self.with_scalar(below),
            8 => self.join(below),
            9 => self.set_operation(below),
            10 | 11 => self.function(below),
            _ => self.quantile(),
        }
    }

    /// A selector without window, offset and `@`.
    fn plain_selector(&mut self) -> String {
        let metric = match self.grammar.natives && self.choices.once_in(5) {
            true => "sizes",
            false => self.choices.pick(&METRICS),
        };
        let matcher = match self.choices.below(16) {
            1 => "job=\"api\"",
            2 => "job!=\"api\"",
            3 => "instance=~\"host-[0-2]\"",
            4 => "code!~\"2..\"",
            5 => "le=~\"0.1|.Inf\"",
            6 => "job=~\".+\",instance!=\"host-1\"",
            8 => "instance=~`host-\\d`,job!~\"d.\"",
            9 => "job=~\"(?i)API|(web)\"",
            10 => "instance!~\".*-[[:digit:]]|x*\"",
            11 => "code=~\"(2|5)0{2}|\"",
            12 => "le!~`0\\.\\d|\\+Inf`",
            13 => "instance=~\".+-(0|2|4)\"",
            14 => "nothing=~\"|a\",job=~\"a.*i|.*b\"",
            7 => return format!("{{__name__=~\"{metric}|up\",job=~\"a.*|db\"}}"),
            _ => return metric.to_owned(),
        };
        format!("{metric}{{{matcher}}}")
    }

    fn selector(&mut self) -> String {
        let selector = self.plain_selector();
        let smoothed = self.grammar.extended_selectors && self.choices.once_in(6);
        let extension = if smoothed { " smoothed" } else { "" };
        format!("{selector}{extension}{}", self.modifiers())
    }

    fn modifiers(&mut self) -> String {
        let mut modifiers = String::new();
        if let Some((from, to)) = self.grammar.at
            && self.choices.once_in(8)
        {
            let width = u32::try_from(to - from).expect("a range of a few hours");
            let at = from + i64::from(self.choices.below(width.max(1)));
            modifiers.push_str(&format!(" @ {at}"));
        }
        if self.grammar.offsets && self.choices.once_in(6) {
            modifiers.push_str(&format!(" offset {}", self.choices.pick(&OFFSETS)));
        }
        modifiers
    }

    fn over_time(&mut self, depth: u32) -> String {
        const FUNCTIONS: [&str; 20] = [
            "rate",
            "increase",
            "sum_over_time",
            "avg_over_time",
            "count_over_time",
            "min_over_time",
            "max_over_time",
            "last_over_time",
            "delta",
            "irate",
            "idelta",
            "changes",
            "resets",
            "deriv",
            "stddev_over_time",
            "stdvar_over_time",
            "present_over_time",
            "quantile_over_time",
            "predict_linear",
            "absent_over_time",
        ];
        const EXTENDED: [&str; 5] = ["rate", "increase", "delta", "changes", "resets"];
        let window = self.choices.pick(&WINDOWS);
        if self.grammar.extended_selectors && self.choices.once_in(5) {
            let function = self.choices.pick(&EXTENDED);
            let smoothed = self.choices.once_in(2) && !["changes", "resets"].contains(&function);
            let extension = if smoothed { "smoothed" } else { "anchored" };
            let (selector, modifiers) = (self.plain_selector(), self.modifiers());
            return format!("{function}({selector}[{window}] {extension}{modifiers})");
        }
        let function = self.choices.pick(&FUNCTIONS);
        let range = match self.grammar.subqueries && depth > 0 && self.choices.once_in(4) {
            true => {
                let inner = self.vector(depth - 1);
                let step = self.choices.pick(&STEPS);
                format!("({inner})[{window}:{step}]{}", self.modifiers())
            }
            false => format!("{}[{window}]{}", self.plain_selector(), self.modifiers()),
        };
        match function {
            "quantile_over_time" => {
                format!("quantile_over_time({}, {range})", self.choices.pick(&["0.5", "0.9", "0"]))
            }
            "predict_linear" if self.grammar.time => format!("predict_linear({range}, 600)"),
            "predict_linear" => format!("deriv({range})"),
            function => format!("{function}({range})"),
        }
    }

    fn aggregation(&mut self, depth: u32) -> String {
        const PLAIN: [&str; 8] = ["sum", "avg", "max", "min", "count", "group", "stddev", "stdvar"];
        let operand = self.vector(depth);
        let labels = self.choices.some(&LABELS).join(", ");
        let grouping = match self.choices.below(4) {
            0 => String::new(),
            1 => format!(" without ({labels})"),
            _ => format!(" by ({labels})"),
        };
        if self.grammar.gated && self.choices.once_in(6) {
            return match self.choices.below(3) {
                // Which series come first is up to where they are; how many there are is not.
                0 => format!("count{grouping} (limitk{grouping} (2, {operand}))"),
                1 => format!("limit_ratio(0.6, {operand})"),
                _ => format!("limit_ratio(-0.3, {operand})"),
            };
        }
        match self.choices.below(12) {
            9 => format!("quantile{grouping} (0.75, {operand})"),
            10 => format!("count_values{grouping} (\"value\", {operand})"),
            // Of one series a group there is no order among equals.
            11 => format!("topk{grouping} (100, {operand})"),
            number => format!("{}{grouping} ({operand})", PLAIN[number as usize % PLAIN.len()]),
        }
    }

    fn scalar(&mut self) -> String {
        match self.choices.below(8) {
            6 if self.grammar.time => "time()".into(),
            7 => format!("scalar({})", self.plain_selector()),
            number => ["2", "0", "-1.5", "1e3", "0.1", "NaN"][number as usize % 6].into(),
        }
    }

    fn with_scalar(&mut self, depth: u32) -> String {
        const OPERATORS: [&str; 14] = [
            "+", "-", "*", "/", "%", "^", "> ", "<= ", "== ", "!= ", "> bool ", "< bool ", ">= ",
            "atan2 ",
        ];
        let operator = self.choices.pick(&OPERATORS);
        let (vector, scalar) = (self.vector(depth), self.scalar());
        match self.choices.once_in(4) {
            true => format!("({scalar}) {operator} ({vector})"),
            false => format!("({vector}) {operator} ({scalar})"),
        }
    }

    /// Two vectors that have one series for each target.
    fn join(&mut self, depth: u32) -> String {
        const OPERATORS: [&str; 8] = ["+", "-", "*", "/", ">", "<= bool", "==", "%"];
        let operator = self.choices.pick(&OPERATORS);
        let [left, right] = [0, 1].map(|_| {
            let operand = self.vector(depth);
            let function = self.choices.pick(&["sum", "max", "avg"]);
            format!("{function} by (job, instance) ({operand})")
        });
        const FILLS: [&str; 4] = ["fill (0)", "fill_left (-1)", "fill_right (2)", ""];
        let fill = if self.grammar.gated { self.choices.pick(&FILLS) } else { "" };
        match self.choices.below(4) {
            0 => format!("{left} {operator} {fill} {right}"),
            1 => format!("{left} {operator} on (instance) {fill} {right}"),
            2 => format!("{left} {operator} ignoring (job) {fill} {right}"),
            _ => {
                let many = self.choices.pick(&["requests_total", "latency_seconds_bucket"]);
                format!("{many} {operator} on (job, instance) group_left () {fill} {right}")
            }
        }
    }

    fn set_operation(&mut self, depth: u32) -> String {
        let operator = self.choices.pick(&["and", "or", "unless"]);
        let matching =
            self.choices.pick(&["", " on (instance)", " ignoring (code, le)", " on (job)"]);
        let (left, right) = (self.vector(depth), self.vector(depth));
        format!("({left}) {operator}{matching} ({right})")
    }

    fn function(&mut self, depth: u32) -> String {
        const FUNCTIONS: [&str; 10] =
            ["abs", "ceil", "sgn", "exp", "ln", "sqrt", "atan", "floor", "deg", "hour"];
        const OTHERS: [&str; 12] = [
            "log2",
            "log10",
            "cos",
            "tanh",
            "rad",
            "minute",
            "day_of_week",
            "days_in_month",
            "year",
            "sort",
            "absent",
            "asin",
        ];
        let operand = self.vector(depth);
        if self.grammar.gated && self.choices.once_in(8) {
            let labels = self.choices.pick(&["", ",version=~\"1.0\"", ",version=~\".*\""]);
            return format!("info({operand}, {{__name__=\"build_info\"{labels}}})");
        }
        match self.choices.below(20) {
            10 => format!("clamp({operand}, -1, 30)"),
            11 => format!("round({operand}, 0.5)"),
            12 => {
                format!("label_replace({operand}, \"host\", \"$1\", \"instance\", \"host-(.*)\")")
            }
            13 => format!("label_join({operand}, \"both\", \"/\", \"job\", \"instance\")"),
            14 => format!("-({operand})"),
            15 if self.grammar.time => format!("timestamp({operand})"),
            15 => format!("absent({operand})"),
            16 => format!("clamp_min({operand}, {})", self.scalar()),
            17 => format!("clamp_max({operand}, {})", self.scalar()),
            18 | 19 => format!("{}({operand})", self.choices.pick(&OTHERS)),
            9 if self.grammar.natives => {
                let function = self.choices.pick(&["count", "sum", "avg", "stddev"]);
                format!("histogram_{function}({operand})")
            }
            number => format!("{}({operand})", FUNCTIONS[number as usize]),
        }
    }

    fn quantile(&mut self) -> String {
        let phi = self.choices.pick(&["0.9", "0.5", "1", "-1", "0"]);
        let window = self.choices.pick(&WINDOWS);
        let labels = self.choices.pick(&["le", "le, job", "le, job, instance"]);
        if self.grammar.natives && self.choices.once_in(3) {
            return format!("histogram_quantile({phi}, sum by (job) (rate(sizes[{window}])))");
        }
        let rates = format!("rate(latency_seconds_bucket[{window}]{})", self.modifiers());
        format!("histogram_quantile({phi}, sum by ({labels}) ({rates}))")
    }
}
