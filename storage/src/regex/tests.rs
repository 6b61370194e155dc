//! What differs from other dialects, and what could be wrong in reading a pattern's values off it.

use super::*;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}

/// Each pattern with values that it matches and values that it does not.
const VERDICTS: &[(&str, &[&str], &[&str])] = &[
    // Whole values, newlines included.
    ("a|b", &["a", "b"], &["ab", ""]),
    ("a.b", &["a\nb", "aéb"], &["ab"]),
    ("(?-s)a.b", &["axb"], &["a\nb"]),
    ("(?-s:.)*", &["abc", ""], &["a\nb"]),
    ("", &[""], &["a"]),
    ("()", &[""], &["a"]),
    ("a||b", &["a", "", "b"], &["ab"]),
    // ASCII only, whatever the value.
    (r"\d+", &["0189"], &["٣", ""]),
    (r"\w", &["_", "Z"], &["é"]),
    (r"\s", &["\t", "\n", "\x0c", "\r", " "], &["\x0b", "\u{a0}"]),
    (r"\D", &["٣"], &["3"]),
    (r"a\b.+", &["a.", "aé"], &["ab"]),
    (r"a\Bb", &["ab"], &[]),
    (r"é\Bé", &["éé"], &[]),
    // Quoting and escapes.
    (r"\Qa.b\E.", &["a.bc"], &["axbc"]),
    (r"\Qa.b", &["a.b"], &["axb"]),
    (r"\Qab\E+", &["abb"], &["abab"]),
    (r"a\Q\E*", &["aaa", ""], &["b"]),
    (r"\141\0601", &["a01"], &[]),
    (r"\08", &["\x008"], &[]),
    (r"\x41\x{1F600}", &["A😀"], &[]),
    (r"\x{D800}|a", &["a"], &["\u{fffd}"]),
    (r"\_\-\ \#\~\&\/\<\>", &["_- #~&/<>"], &[]),
    (r"\a\f\n\r\t\v", &["\x07\x0c\n\r\t\x0b"], &[]),
    (r"\Aab\z", &["ab"], &["ab\n"]),
    // Braces that are characters.
    ("{foo}", &["{foo}"], &[]),
    ("a{,5}", &["a{,5}"], &["aaa"]),
    ("a{1", &["a{1"], &["a"]),
    ("a{01}", &["a{01}"], &["a"]),
    ("a{2}", &["aa"], &["a", "aaa"]),
    ("a{2,}", &["aa", "aaaaa"], &["a"]),
    ("a{0}", &[""], &["a"]),
    ("(a{2}){3}", &["aaaaaa"], &["aaaaa"]),
    ("ab*", &["a", "abb"], &["abab", ""]),
    ("^*a$+", &["a"], &["aa"]),
    ("a(?i)*", &["aa", ""], &["A"]),
    // Classes.
    ("[[a]", &["[", "a"], &["b"]),
    ("[]a]", &["]", "a"], &["["]),
    ("[^]a]", &["b", "\n"], &["]", "a"]),
    ("[a-]", &["a", "-"], &["b"]),
    ("[-a]", &["a", "-"], &["b"]),
    (r"[\d-z]", &["5", "-", "z"], &["a"]),
    ("[a-c-e]", &["b", "-", "e"], &["d"]),
    ("[a&&b]", &["a", "&", "b"], &[]),
    ("[+--b]", &["+", ",", "-", "b"], &["."]),
    ("[a~~b]", &["~"], &[]),
    ("[[:alpha:]_]", &["x", "_"], &["1", "é"]),
    ("[[:^alpha:]]", &["1", "é"], &["x"]),
    ("[[:word:]]", &["_"], &["-"]),
    ("[:alpha:]", &[":", "a", "l"], &["b"]),
    (r"[^\d\s]", &["a"], &["1", " "]),
    (r"[\x{D7FF}-\x{E000}]", &["\u{d7ff}", "\u{e000}"], &["a"]),
    (r"\p{Greek}", &["α"], &["a"]),
    (r"\pN", &["5", "٣", "Ⅷ"], &["a"]),
    (r"\p{^Greek}|\PL", &["a", "1"], &["α"]),
    (r"[\p{Lu}\d]", &["É", "7"], &["é"]),
    (r"\p{Any}", &["\u{378}"], &[]),
    // Not assigned.
    (r"\pC", &["\u{7}"], &["\u{378}"]),
    // Case.
    ("(?i)straSSe", &["STRASSE", "straſſe"], &["straße"]),
    ("(?i)k", &["k", "K", "\u{212a}"], &[]),
    ("(?i:a)b", &["ab", "Ab"], &["aB"]),
    ("a(?i)b|c", &["aB", "C"], &["Ab"]),
    ("(a(?i)b)c", &["aBc"], &["abC"]),
    ("(?i)[^k]", &["x"], &["k", "K", "\u{212a}"]),
    (r"(?i)\W", &["-"], &["s", "\u{17f}"]),
    (r"(?i)\p{Lu}", &["a", "A"], &["1"]),
    (r"(?i)[[:upper:]]", &["a", "A"], &["1"]),
    (r"(?i)\x61", &["A"], &[]),
    // Lines.
    ("(?m)a$\n^b", &["a\nb"], &["ab"]),
    ("a$\n^b", &[], &["a\nb"]),
    ("^a$", &["a"], &["a\n"]),
    ("^a|b$", &["a", "b"], &["ab"]),
    ("(?U)a+?", &["aaa"], &[""]),
    ("(?i-i)a", &["a"], &["A"]),
    ("(?P<n>a)(?<m>b)(?P<n>c)", &["abc"], &[]),
    // Gaps.
    (".*", &["", "a\n"], &[]),
    (".+", &["a", "é", "\n"], &[""]),
    ("..+", &["ab", "éé"], &["é"]),
    (".{2,}", &["ab", "éé"], &["é"]),
    ("foo.*", &["foo", "foobar"], &["fo", "xfoo"]),
    (".*foo", &["foo", "xfoo"], &["foox"]),
    ("ab.*ba", &["abba", "ab-ba"], &["aba"]),
    ("a.+a.*", &["aba", "aaa", "abab"], &["aa", "aab"]),
    (".*b.+b.*", &["bxb", "bbb", "abbbx"], &["bb", "b"]),
    (".*.+a.*.*", &["xa", "éa-"], &["a"]),
    ("a.*b.*b", &["abb", "axbxb"], &["ab"]),
    ("5..", &["500", "5éé"], &["50", "5000", "400"]),
    ("4..|5..", &["404", "500"], &["50", "300"]),
    (".", &["a", "é"], &["", "ab"]),
    (".?b", &["b", "éb"], &["ééb"]),
    ("a.{2,3}a", &["abba", "aaaaa"], &["aba", "abbbba"]),
    ("a.b.*", &["axb", "axbc"], &["ab", "axxb"]),
    (".*a.b", &["axb", "xaab"], &["aab.", "ab"]),
    ("a.*|.+b|c", &["a", "xb", "c"], &["b", "cc", ""]),
    (".*|a", &["", "x"], &[]),
    (".+|", &["", "x"], &[]),
];

#[test]
fn patterns_match_as_in_go() {
    for (pattern, matching, others) in VERDICTS {
        let regex = regex(pattern);
        for value in *matching {
            assert!(regex.is_match(value), "{pattern} matches {value:?}");
        }
        for value in *others {
            assert!(!regex.is_match(value), "{pattern} does not match {value:?}");
        }
    }
}

/// Each pattern with what Go says of it.
const ERRORS: &[(&str, &str)] = &[
    ("a(b", "missing closing ): `a(b`"),
    ("a)b", "unexpected ): `a)b`"),
    ("a)(b", "unexpected ): `a)(b`"),
    ("[a", "missing closing ]: `[a`"),
    ("x[[:alpha:", "missing closing ]: `[[:alpha:`"),
    ("[", "missing closing ]: `[`"),
    ("[]", "missing closing ]: `[]`"),
    ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
    ("[b-a]", "invalid character class range: `b-a`"),
    ("[a--b]", "invalid character class range: `a--`"),
    (r"[a-\d]", r"invalid escape sequence: `\d`"),
    (r"[\b]", r"invalid escape sequence: `\b`"),
    ("*a", "missing argument to repetition operator: `*`"),
    ("a|+?", "missing argument to repetition operator: `+?`"),
    ("(*)", "missing argument to repetition operator: `*`"),
    ("(?i){2}", "missing argument to repetition operator: `{2}`"),
    ("a**", "invalid nested repetition operator: `**`"),
    ("a++", "invalid nested repetition operator: `++`"),
    ("a*??", "invalid nested repetition operator: `*??`"),
    ("x{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
    ("a{1001}", "invalid repeat count: `{1001}`"),
    ("a{2,1}", "invalid repeat count: `{2,1}`"),
    ("a{99999999999}", "invalid repeat count: `{99999999999}`"),
    ("(a{40}){40}", "invalid repeat count: `{40}`"),
    ("(?:(a{10}){10}|b){11,}?", "invalid repeat count: `{11,}?`"),
    (r"a\", r"trailing backslash at end of expression: ``"),
    (r"\u0041", r"invalid escape sequence: `\u`"),
    (r"\8", r"invalid escape sequence: `\8`"),
    (r"(a)\1", r"invalid escape sequence: `\1`"),
    (r"\Z", r"invalid escape sequence: `\Z`"),
    (r"\C", r"invalid escape sequence: `\C`"),
    (r"\é", r"invalid escape sequence: `\é`"),
    (r"a\E", r"invalid escape sequence: `\E`"),
    (r"\x4", r"invalid escape sequence: `\x4`"),
    (r"\xg1", r"invalid escape sequence: `\xg1`"),
    (r"\x{}", r"invalid escape sequence: `\x{}`"),
    (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
    (r"\p{greek}", r"invalid character class range: `\p{greek}`"),
    (r"\p{Emoji}", r"invalid character class range: `\p{Emoji}`"),
    (r"\pX", r"invalid character class range: `\pX`"),
    (r"\p", r"invalid character class range: `\p`"),
    (r"[\p{Greek]", r"invalid character class range: `\p{Greek]`"),
    ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
    ("(?u)a", "invalid or unsupported Perl syntax: `(?u`"),
    ("(?R)a", "invalid or unsupported Perl syntax: `(?R`"),
    ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
    ("(?", "invalid or unsupported Perl syntax: `(?`"),
    ("(?i-)", "invalid or unsupported Perl syntax: `(?i-)`"),
    ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
    ("(?P=n)", "invalid or unsupported Perl syntax: `(?P`"),
    ("(?P<n", "invalid named capture: `(?P<n`"),
    ("(?P<n-m>a)", "invalid named capture: `(?P<n-m>`"),
    ("(?<>a)", "invalid named capture: `(?<>`"),
];

#[test]
fn errors_are_gos() {
    for (pattern, expected) in ERRORS {
        let error = Regex::new(pattern).err().unwrap_or_else(|| panic!("{pattern} is invalid"));
        assert_eq!(error.to_string(), format!("error parsing regexp: {expected}"));
    }
}

fn values(pattern: &str) -> Option<Vec<String>> {
    match regex(pattern).extent() {
        Extent::Values(values) => Some(values.iter().map(|value| value.to_string()).collect()),
        _ => None,
    }
}

#[test]
fn the_values_of_small_patterns_are_known() {
    let check = |pattern: &str, expected: &[&str]| {
        assert_eq!(values(pattern).as_deref(), Some(&expected.map_strings()[..]), "{pattern}");
    };
    check("b|a|b|", &["", "a", "b"]);
    check("a(b|c)d", &["abd", "acd"]);
    check("^(?:a|b)$", &["a", "b"]);
    check("api-[12]?", &["api-", "api-1", "api-2"]);
    check("(?i)ab", &["AB", "Ab", "aB", "ab"]);
    check("x{2,3}", &["xx", "xxx"]);
    check(r"a\.b", &["a.b"]);
    check(r"\x{D800}", &[]);
    assert_eq!(values(r"[a-z]{2}"), None, "that is 676");
    assert_eq!(values(r"a\bb"), None);
    assert_eq!(values("^a|b$"), None);
    let many = (0..5000).map(|i| format!("host-{i}")).collect::<Vec<_>>().join("|");
    assert_eq!(values(&many).map(|values| values.len()), Some(5000), "they are written out");
    assert_eq!(values(&format!("(?:{many})-a")).map(|values| values.len()), Some(5000));
}

trait MapStrings {
    fn map_strings(&self) -> Vec<String>;
}

impl MapStrings for &[&str] {
    fn map_strings(&self) -> Vec<String> {
        self.iter().map(|text| text.to_string()).collect()
    }
}

#[test]
fn the_beginning_of_matches_is_known() {
    let check = |pattern: &str, expected: Extent<'_>| {
        assert_eq!(regex(pattern).extent(), expected, "{pattern}");
    };
    check(".*", Extent::Everything);
    check("^.*$", Extent::Everything);
    check("(.*)", Extent::Everything);
    check(".+", Extent::NonEmpty);
    check(".*.+", Extent::NonEmpty);
    check("..+", Extent::Prefix(""));
    check(".*|a", Extent::Everything);
    check(".+|", Extent::Prefix(""));
    check("abc.*", Extent::Prefix("abc"));
    check("abc.*|abd..", Extent::Prefix("ab"));
    check("abc?d*", Extent::Prefix("ab"));
    check("(ab)+", Extent::Prefix("ab"));
    check("ab*|ac+", Extent::Prefix("a"));
    check("abc.*|d", Extent::Prefix(""));
    check("é.*x|è.*x", Extent::Prefix(""));
    check("(?i)abcdefghi", Extent::Prefix(""));
    check("(?-s).*", Extent::Prefix(""));
}

#[test]
fn groups_of_a_replacement_are_found_by_name() {
    let regex = CapturingRegex::new("(?P<n>a)|(?<n>b)(.*)").unwrap();
    let mut captures = regex.create_captures();
    assert!(regex.captures("bcd", &mut captures));
    assert_eq!(regex.groups_named("n").collect::<Vec<_>>(), [1, 2]);
    assert_eq!(captures.get_group(1), None);
    assert_eq!(captures.get_group(3).map(|span| span.range()), Some(1..3));
    assert!(!regex.captures("x", &mut captures));
    assert!(CapturingRegex::new("a)|(b").is_ok(), "the wrapping closes it");
}

#[test]
fn what_costs_too_much_is_refused_and_the_limit_is_named() {
    let refused = |pattern: &str, text: &str| {
        let error = Regex::new(pattern).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains(text)), "{error:?}");
    };
    refused(r"\pL{1000}", "expression too large (at most 10 MiB compiled): `");
    refused(&r"\pL".repeat(1000), "expression too large (at most 262144 ranges in classes): `");
    let nested = |open: &str, depth| format!("{}a.{}", open.repeat(depth), ")+".repeat(depth));
    // The two characters and their concatenation are two levels, each repetition is one more, and
    // so is each group that captures.
    refused(&nested("(?:", 999), "expression nests too deeply: `(?:");
    refused(&nested("(", 500), "expression nests too deeply: `(");
    assert!(regex(&nested("(?:", 998)).is_match("aba."));
    assert!(regex(&nested("(", 499)).is_match("aba."));
    assert!(Regex::new(&format!("{}a{}", "(?:".repeat(50_000), ")".repeat(50_000))).is_ok());
    assert!(Regex::new(&"(".repeat(100_000)).is_err());
}

#[test]
fn time_is_linear_in_the_value() {
    let value = "a".repeat(100_000);
    assert!(!regex("(a*)*(a|aa)*b").is_match(&value));
    assert!(regex("(?:.*a){40}").is_match(&value));
}
