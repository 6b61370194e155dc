//! Patterns select with Icecore what they select with Debian's Prometheus, whose dialect is Go's.
//!
//! Patterns are put together at random from what dialects differ in. Of those that are none the
//! messages are compared too, but for the text that they show. 2.42 reads a pattern with the anchors
//! that it puts around it, Prometheus 3 without; what that changes is left out.

use std::collections::BTreeSet;

use icecore_query::go_format::quote;
use icecore_storage::regex::Regex;

use crate::client::Answer;
use crate::generate::choices::Choices;
use crate::pair::{self, Pair};
use crate::write_request::WriteRequest;

const PATTERNS: u64 = 3_000;
const SEED: u64 = 1;

/// At least one in so many is a pattern that selects something but not all.
const TELLING_SHARE_MIN: u64 = 8;

const AT_MS: i64 = 1_000_000_000;

const PARTS: &str = r"
    a b K é α 1 - _ \d \D \w \W \s \S \b \B \Q \E \A \z \Z \141 \0 \x61 \x{e9} \x{} \. \- \< \_ \8 \u \pL \PN
    \p{Greek} \p{greek} \p{^Lu} [\p{Lu}_] {foo} a{ {,5} {2} {1,3} {2,} {0} {3,2} [[a] []a] [^a] [ab]
    [a-c] [b-a] [\d-z] [a-\d] [[:alpha:]] [[:^digit:]] [[:word:]-] [[:foo:]] [a&&b] [a--b] [ ] (?i) (?s) (?m) (?U)
    (?-i) (?i: (?x) (?P<n> (?P<n-> ( ( (?: ) ) ) ) | | | * + ? ** *? . .* .* .+ ^ $ \ } && ~~";

const VALUES: &str = "
    a b ab ba aa aab abab aba A K k \u{212a} é É α Α 1 12 a1 1a _ - a-b a_ {foo} a{ a{,5} [ ] a] & && ~
    x.y . s S \u{17f} ß \u{663} foo \u{d} 8 u z Z < a.b * + ? ^ $ ( ) \\";

#[test]
fn patterns_select_what_they_select_with_prometheus() {
    if !pair::is_installed() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("ICECORE_RANDOM_SEED").unwrap_or(SEED);
    let count = number("ICECORE_RANDOM_PATTERNS").unwrap_or(PATTERNS);
    let pair = Pair::start();
    let mut request = WriteRequest::default();
    let values: Vec<&str> = VALUES.split_whitespace().collect();
    for value in &values {
        request = request.series(&[("__name__", "v"), ("v", *value)], &[(AT_MS, 1.0)]);
    }
    pair.write(&request.series(&[("__name__", "v")], &[(AT_MS, 1.0)]));
    let parts: Vec<&str> = PARTS.split_whitespace().collect();
    let (mut telling, mut invalid) = (0, 0);
    let mut differences = Vec::new();
    for number in 0..count {
        let mut choices = Choices::from_seed(seed.wrapping_mul(1 << 32).wrapping_add(number));
        let length = 1 + choices.below(6);
        let pattern: String = (0..length).map(|_| choices.pick(&parts)).collect();
        let operator = choices.pick(&["=~", "!~"]);
        let query = format!("v{{v{operator}{}}}", quote(pattern.as_bytes()));
        if depends_on_anchors(&pattern) {
            continue;
        }
        let [theirs, ours] = pair.ask("/api/v1/query", &[("query", &query), ("time", "1000000")]);
        let (theirs, ours) = (Verdict::of(&theirs), Verdict::of(&ours));
        match &theirs {
            Verdict::Invalid(_) => invalid += 1,
            Verdict::Selects(found) => {
                telling += u64::from((1..values.len()).contains(&found.len()));
            }
        }
        if theirs != ours {
            differences.push(format!("{query}\n  Prometheus: {theirs:?}\n  Icecore: {ours:?}"));
        }
    }
    println!("{count} patterns: {telling} select some, {invalid} are none");
    let differing = differences.len();
    differences.truncate(40);
    assert!(differing == 0, "{differing} answers differ:\n{}", differences.join("\n"));
    assert!(telling * TELLING_SHARE_MIN >= count && invalid > 0, "{telling} select some");
    pair.end();
}

/// Whether the pattern closes a group that it does not open, or its end takes in what follows.
fn depends_on_anchors(pattern: &str) -> bool {
    const CODES: [&str; 3] = ["unexpected )", "trailing backslash", "missing closing ]"];
    let open = pattern.rfind(r"\Q") > pattern.rfind(r"\E") || pattern.ends_with("(?");
    let error = Regex::new(pattern).err().map_or(String::new(), |error| error.to_string());
    open || CODES.iter().any(|code| error.contains(code))
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Selects(BTreeSet<String>),
    /// Place and message, without the text that it shows.
    Invalid(String),
}

impl Verdict {
    fn of(answer: &Answer) -> Verdict {
        if answer.status == 200 {
            let data = answer.data();
            let series = data["result"].as_array().unwrap().iter();
            return Verdict::Selects(
                series.map(|series| series["metric"]["v"].to_string()).collect(),
            );
        }
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        Verdict::Invalid(error.split(": `").next().unwrap_or(&error).to_owned())
    }
}
