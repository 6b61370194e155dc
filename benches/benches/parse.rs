//! What queries and patterns cost before a sample is read.
//!
//! `cargo bench -p icecore-benches --bench parse [text]` prints one line a query or pattern (that
//! contains the text): the best of several runs, in microseconds. Of a pattern also what one value
//! costs, in nanoseconds.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::Instant;

use icecore_query::parser::{ParserOptions, parse, prettify};
use icecore_storage::regex::Regex;

const RUNS: usize = 25;

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let is_wanted = |text: &str| wanted.as_ref().is_none_or(|wanted| text.contains(&**wanted));
    for text in queries().iter().filter(|text| is_wanted(text)) {
        let parse = || parse(text, ParserOptions::ALL).expect("a query that parses");
        let expr = parse();
        let [parsed, printed, formatted] = [
            microseconds(&mut || drop(black_box(parse()))),
            microseconds(&mut || drop(black_box(expr.to_string()))),
            microseconds(&mut || drop(black_box(prettify(&expr)))),
        ];
        println!(
            "{parsed:9.1} µs parsed {printed:9.1} printed {formatted:9.1} formatted  {text:.80}"
        );
    }
    for pattern in patterns().iter().filter(|pattern| is_wanted(pattern)) {
        let compiled = microseconds(&mut || drop(black_box(Regex::new(pattern))));
        let Ok(regex) = Regex::new(pattern) else {
            println!("{compiled:9.1} µs refused  {pattern:.80}");
            continue;
        };
        let values = values();
        let matched = microseconds(&mut || {
            black_box(values.iter().filter(|value| regex.is_match(value)).count());
        });
        let each = matched * 1e3 / values.len() as f64;
        println!("{compiled:9.1} µs compiled {each:6.1} ns a value  {pattern:.80}");
    }
}

fn queries() -> Vec<String> {
    vec![
        "up".into(),
        r#"sum by (job) (rate(http_requests_total{code=~"5..",job!=""}[5m]))"#.into(),
        r#"histogram_quantile(0.99, sum by (le, route) (rate(http_request_duration_seconds_bucket{cluster="$cluster",namespace=~"a|b|c"}[5m]))) > 0.5"#.into(),
        format!("a{}", " + a".repeat(9_999)),
        format!("{}a{}", "(".repeat(1_900), ")".repeat(1_900)),
        format!("a{{{}}}", r#"b="c","#.repeat(10_000)),
    ]
}

fn patterns() -> Vec<String> {
    let hosts: Vec<String> = (0..1_000).map(|number| format!("host-{number}")).collect();
    let owned = [
        "api|web|db",
        "api-(prod|test)-[0-9]",
        ".*-prod-.*",
        ".+",
        "api-.*",
        "(?i)API-.*",
        r"api-\w+-\d+",
        "(a*)*b",
        r"\pL{100}",
        r"\pL{1000}",
        r"(?i)[\x{41}-\x{1e943}]",
    ]
    .map(str::to_owned);
    let mut patterns = owned.to_vec();
    patterns.push(hosts.join("|"));
    patterns.push(format!("({}).*", hosts.join("|")));
    patterns.push(format!("{}a{}", "(?:".repeat(900), ")+".repeat(900)));
    patterns.push(r"[\pL\pN]".repeat(3_000));
    patterns.push("(?i)[A-ÿ]".to_owned() + &"[À-ʯ]".repeat(3_000));
    patterns
}

fn values() -> Vec<String> {
    (0..1_000).map(|number| format!("api-prod-{number}-eu-west-{}", number % 7)).collect()
}

/// The best of several runs.
fn microseconds(run: &mut dyn FnMut()) -> f64 {
    let one = |_| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64() * 1e6
    };
    (0..RUNS).map(one).fold(f64::INFINITY, f64::min)
}
