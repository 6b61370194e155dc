//! The parser against Prometheus's own cases, and against anything at all.
//!
//! The cases are data outside the repository: queries with the errors that Prometheus 3.14 reports
//! for them, byte for byte, and the scripts of its engine tests, whose queries all have to parse.

use std::path::PathBuf;

use icecore_query::parser::ast::{Expr, NodeId, NodeKind};
use icecore_query::parser::{ParserOptions, parse, parse_bytes, prettify};
use proptest::prelude::*;
use serde_json::Value;

/// Where the data is, if it is there; without it CI fails and others are told.
fn data(path: &str) -> Option<PathBuf> {
    let path =
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/promql")).join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there", path.display());
    assert!(std::env::var_os("CI").is_none(), "in CI a skip is a failure");
    None
}

/// Lone surrogates U+DC80–U+DCFF stand for raw bytes, which no JSON reader passes on; so they are
/// moved to private characters before, and put back in [`query_bytes`].
fn cases() -> Option<Vec<Value>> {
    let text = std::fs::read_to_string(data("parser_cases.json")?).expect("the cases are text");
    Some(serde_json::from_str(&text.replace("\\udc", "\\ue0")).expect("the cases are JSON"))
}

fn query_bytes(case: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    for c in case["query"].as_str().expect("a query").chars() {
        match u32::from(c) {
            code @ 0xE080..=0xE0FF => bytes.push((code - 0xE000) as u8),
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// What is printed parses, and prints the same again; so does the formatted text.
fn check_printing(text: &[u8]) -> Result<(), String> {
    let shown = String::from_utf8_lossy(text);
    let expr = parse_bytes(text, ParserOptions::ALL).map_err(|e| format!("{shown}: {e}"))?;
    check_order(&expr);
    let printed = expr.to_string();
    for again in [printed.clone(), prettify(&expr)] {
        let expr = parse(&again, ParserOptions::ALL)
            .map_err(|e| format!("{shown} printed as {again}: {e}"))?;
        if expr.to_string() != printed {
            return Err(format!("{shown} printed as {printed}, then as {expr}"));
        }
    }
    Ok(())
}

/// Children stand before their parents, and every node but the root has exactly one parent.
fn check_order(expr: &Expr) {
    let mut parents = vec![0; expr.nodes.len()];
    for (at, node) in expr.nodes.iter().enumerate() {
        let children: Vec<NodeId> = match &node.kind {
            NodeKind::Number { .. } | NodeKind::String { .. } | NodeKind::VectorSelector(_) => {
                vec![]
            }
            NodeKind::MatrixSelector { selector: child, .. }
            | NodeKind::Unary { operand: child, .. }
            | NodeKind::Paren { inner: child } => vec![*child],
            NodeKind::Subquery(subquery) => vec![subquery.expr],
            NodeKind::Binary(binary) => vec![binary.left, binary.right],
            NodeKind::Aggregate(aggregate) => {
                aggregate.param.into_iter().chain([aggregate.expr]).collect()
            }
            NodeKind::Call { args, .. } => args.clone(),
        };
        for child in children {
            assert!((child.0 as usize) < at);
            parents[child.0 as usize] += 1;
        }
    }
    assert_eq!(expr.root.0 as usize, expr.nodes.len() - 1);
    assert!(parents[..expr.nodes.len() - 1].iter().all(|&count| count == 1));
}

#[test]
fn every_case_parses_or_fails_as_in_prometheus() {
    let (mut good, mut bad, mut wrong) = (0, 0, Vec::new());
    let Some(cases) = cases() else { return };
    for case in cases {
        let text = query_bytes(&case);
        let shown = String::from_utf8_lossy(&text).into_owned();
        if case["fail"] == false {
            good += 1;
            wrong.extend(check_printing(&text).err());
            continue;
        }
        bad += 1;
        let wanted: Vec<(u64, u64, String)> = case["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| {
                // Left out where they are zero.
                let offset = |name: &str| error[name].as_u64().unwrap_or(0);
                (offset("start"), offset("end"), error["msg"].as_str().unwrap().to_owned())
            })
            .collect();
        match parse_bytes(&text, ParserOptions::ALL) {
            Ok(expr) => wrong.push(format!("{shown} parsed as {expr}")),
            Err(e) => {
                let got: Vec<_> = e
                    .errors
                    .iter()
                    .map(|e| (u64::from(e.span.start), u64::from(e.span.end), e.message.clone()))
                    .collect();
                if got != wanted {
                    wrong.push(format!("{shown}\n  wanted {wanted:?}\n  got    {got:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} cases are wrong", wrong.join("\n"), wrong.len());
    assert_eq!((good, bad), (208, 145));
}

/// The queries of a script, with whether they must parse.
fn script_queries(text: &str) -> Vec<(String, bool)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut queries = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((command, rest)) = line.split_once(' ') else { continue };
        if !command.starts_with("eval") {
            continue;
        }
        // `instant at T` or `range from A to B step S`
        let mut rest = rest.trim_start();
        for _ in 0..if rest.starts_with("instant") { 3 } else { 7 } {
            rest = rest.split_once(char::is_whitespace).map_or("", |(_, tail)| tail.trim_start());
        }
        let mut block = lines[at + 1..].iter().take_while(|line| !line.is_empty());
        let fails = command == "eval_fail" || block.any(|line| line.starts_with("expect fail"));
        queries.push((rest.to_owned(), !fails));
    }
    queries
}

#[test]
fn every_query_of_the_scripts_parses() {
    let Some(scripts) = data("promqltest") else { return };
    let (mut parsed, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(scripts).expect("a folder of scripts") {
        let path = entry.unwrap().path();
        for (query, must_parse) in script_queries(&std::fs::read_to_string(&path).unwrap()) {
            match check_printing(query.as_bytes()) {
                Ok(()) => parsed += 1,
                Err(e) if must_parse => wrong.push(format!("{}: {e}", path.display())),
                Err(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} queries are wrong", wrong.join("\n"), wrong.len());
    assert!(parsed > 1_600, "only {parsed} queries");
}

/// Runs `test` with a call stack of 512 KiB.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    thread.spawn(test).expect("a thread").join().expect("the test passes");
}

#[test]
fn depth_is_bounded_and_costs_no_call_stack() {
    on_a_small_stack(|| {
        let nested = |depth: usize, open: &str, close: &str| {
            format!("{}foo{}", open.repeat(depth), close.repeat(depth))
        };
        for (open, close) in [("(", ")"), ("abs(", ")"), ("sum(", ")"), ("-(", ")"), ("- ", "")] {
            let expr = parse(&nested(990, open, close), ParserOptions::default()).unwrap();
            let again = parse(&expr.to_string(), ParserOptions::default()).unwrap();
            assert_eq!(again.to_string(), expr.to_string());
            assert!(prettify(&expr).len() >= 990);
            let e = parse(&nested(8_000, open, close), ParserOptions::default()).unwrap_err();
            assert_eq!(e.errors[0].message, "query nests deeper than 2000 levels");
        }
        for text in [
            format!("foo[{}1s{}]", "(".repeat(8_000), ")".repeat(8_000)),
            format!("foo[{}1s]", "-".repeat(8_000)),
            format!("foo[1s{}]", "+1s".repeat(8_000)),
            format!("foo[1s{}]", "^1s".repeat(8_000)),
            format!("foo offset {}1s", "min_of(1s,".repeat(8_000)),
            format!("1{}", "^1".repeat(8_000)),
        ] {
            assert!(parse(&text, ParserOptions::default()).is_err());
        }
        let text = format!("foo[{}1s{}]", "-(".repeat(30), ")".repeat(30));
        let expr = parse(&text, ParserOptions::default()).unwrap();
        assert_eq!(expr.to_string(), text);
    });
}

#[test]
fn the_patterns_of_a_query_have_a_bound_together() {
    let selectors = |count: usize| vec![r"{a=~`\pL{150}`}"; count].join(" or ");
    assert!(parse(&selectors(3), ParserOptions::default()).is_ok());
    let errors = parse(&selectors(200), ParserOptions::default()).unwrap_err();
    assert_eq!(errors.errors[0].message, "patterns take more than 64 MiB compiled");
    // One that is too large is the last that is looked at.
    let errors = parse(&r"{a=~`\pL{1000}`}, ".repeat(5_000), ParserOptions::default()).unwrap_err();
    assert_eq!(errors.errors.len(), 1);
    assert!(errors.errors[0].message.contains("at most 10 MiB compiled"));
}

#[test]
fn gates_hold_by_default() {
    let experimental = "is experimental and must be enabled with \
                        --enable-feature=promql-experimental-functions";
    for (text, message) in [
        ("limitk(1, foo)", format!("1:1: parse error: limitk() {experimental}")),
        (
            "sort_by_label(foo, \"a\")",
            "1:1: parse error: function \"sort_by_label\" is not enabled".into(),
        ),
        (
            "a\n + foo[5m] anchored",
            "2:4: parse error: anchored modifier is experimental and not enabled".into(),
        ),
        (
            "foo smoothed",
            "1:1: parse error: smoothed modifier is experimental and not enabled".into(),
        ),
        (
            "a + fill(1) b",
            "1:1: parse error: binop fill modifiers are experimental and not enabled".into(),
        ),
        ("start()", "1:1: parse error: function \"start\" is not enabled".into()),
        ("", "unknown position: parse error: no expression found in input".into()),
    ] {
        let e = parse(text, ParserOptions::default()).unwrap_err();
        assert_eq!(e.to_string(), message);
    }
    for text in ["foo[5m+step()]", "foo </ 5", "foo >/ 1", "default_rollup(foo[5m])", "fill + on"] {
        assert_eq!(parse(text, ParserOptions::default()).is_ok(), !text.ends_with("on"), "{text}");
    }
}

/// Pieces of the language, so that random texts get past the first token.
fn fragments() -> impl Strategy<Value = String> {
    let pieces: Vec<&'static str> =
        "foo sum by without ( ) ( ) { } [ ] , = =~ != !~ \"a\" 'b' `c` \
        1 5m 0x1f 1e3 . : + - * / % ^ == < > </ >/ and or unless atan2 bool on ignoring group_left \
        group_right fill fill_left offset @ start end step range min_of max_of anchored smoothed \
        rate label_replace info topk count_values inf nan a:b # \\ é \u{fffd}"
            .split_whitespace()
            .collect();
    let piece = prop::sample::select(pieces).prop_map(str::to_owned);
    prop::collection::vec(prop_oneof![9 => piece, 1 => "\\PC{0,3}"], 0..30)
        .prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_parse_or_fail_with_a_place(text in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Err(e) = parse_bytes(&text, ParserOptions::ALL) {
            prop_assert!(!e.errors.is_empty());
            for error in &e.errors {
                prop_assert!(error.span.start as usize <= text.len());
            }
        }
    }

    #[test]
    fn any_fragments_parse_or_fail_with_a_place(text in fragments()) {
        match parse(&text, ParserOptions::ALL) {
            // Infinity is printed with its sign, as in Prometheus, and that binds less than `^`.
            Ok(expr) if expr.to_string().contains("Inf ^") => {}
            Ok(_) => prop_assert_eq!(check_printing(text.as_bytes()), Ok(())),
            Err(e) => {
                prop_assert!(!e.errors.is_empty());
                prop_assert!(e.to_string().contains(": parse error: "));
                for error in &e.errors {
                    prop_assert!(error.span.start as usize <= text.len());
                    prop_assert!(error.span.end as usize <= text.len());
                }
            }
        }
    }
}
