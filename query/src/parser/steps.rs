//! What parsing and printing do, counted for the test that it is linear in the length of the text.
//!
//! A step is a byte that is looked at or written, or a task of a walk over the tree. Whoever loops
//! over either says so. Outside of tests nothing is counted.

/// So many steps were taken.
#[cfg(not(test))]
#[inline]
pub(super) fn take(_count: usize) {}

#[cfg(test)]
pub(super) use counted::take;

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    use crate::parser::{ParserOptions, parse, prettify};

    thread_local! {
        static TAKEN: Cell<usize> = const { Cell::new(0) };
    }

    pub(in crate::parser) fn take(count: usize) {
        TAKEN.set(TAKEN.get() + count);
    }

    /// Steps of reading a text and, if it is a query, of writing it on one line and on several.
    fn steps(text: &str, parses: bool) -> usize {
        TAKEN.set(0);
        let result = parse(text, ParserOptions::ALL);
        assert_eq!(result.is_ok(), parses, "{text:.40}");
        if let Ok(expr) = result {
            assert!(expr.to_string().len() < 3 * text.len() + 100);
            prettify(&expr);
        }
        TAKEN.get()
    }

    /// `text` makes one of a length about proportional to its argument.
    fn check(parses: bool, text: impl Fn(usize) -> String) {
        const COUNT: usize = 5_000;
        let (once, twice) = (steps(&text(COUNT), parses), steps(&text(2 * COUNT), parses));
        let text = text(COUNT);
        assert!(once >= if parses { text.len() } else { 1 }, "{text:.40}: {once} steps");
        assert!(twice <= once / 2 * 5, "{text:.40}: {once} steps, twice as long {twice}");
    }

    #[test]
    fn steps_are_linear_in_the_text() {
        let times = |text: &'static str| move |count| text.repeat(count);
        check(true, |count| format!("a{}", "+a".repeat(count)));
        check(false, |count| format!("a{}", " offset 1s".repeat(count)));
        check(false, |count| format!("a{}", "[1m:]".repeat(count)));
        check(false, |count| format!("({}1)", "-{}-1".repeat(count)));
        check(false, times("("));
        check(false, times("{"));
        check(false, times("sum("));
        check(false, times("sum(a b) "));
        check(false, |count| format!("({}a)", "sum(a b) + ".repeat(count)));
        check(false, times("fill "));
        check(false, times("fill         "));
        check(true, |count| format!("a{{{}}}", "b=\"c\",".repeat(count)));
        check(false, |count| format!("a{{{}}}", "b c,".repeat(count)));
        check(false, |count| {
            let labels = "x,".repeat(count);
            format!("a + on({labels}) group_left({labels}) b")
        });
        check(false, |count| format!("f({})", ",".repeat(count)));
        check(true, |count| format!("\"{}\"", "\\n".repeat(count)));
        check(true, |count| "#\n".repeat(count) + "a");
        check(true, |count| format!("a{}\n", " ".repeat(count)));
        check(false, times("sum(a)      "));
        // Spaces between parentheses are looked at again where something ends.
        check(false, |count| format!("sum(a){}) b", " ".repeat(count)));
    }
}
