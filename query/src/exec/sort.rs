//! Orders of an instant vector: by value, by labels.

use std::cmp::Ordering;

use icecore_storage::labels::Labels;

use crate::exec::Budget;
use crate::exec::rows::Rows;

/// Rows that are sorted between two looks at the budget.
const RUN: usize = 2048;

/// The numbers below `count` in order, equal ones as they come. Ends early, and out of order, when
/// the query has to end.
pub(crate) fn order_by(
    count: usize,
    budget: &Budget,
    compare: impl Fn(usize, usize) -> Ordering,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut pace = budget.pace();
    for run in order.chunks_mut(RUN) {
        if !pace.goes_on(RUN) {
            return order;
        }
        run.sort_by(|a, b| compare(*a, *b));
    }
    let mut merged = Vec::with_capacity(count);
    let mut width = RUN;
    while width < count {
        merged.clear();
        for pair in order.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let (Some(a), Some(b)) = (left.first(), right.first()) {
                if !pace.goes_on(1) {
                    return order;
                }
                let side = if compare(*b, *a).is_lt() { &mut right } else { &mut left };
                merged.push(side[0]);
                *side = &side[1..];
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        std::mem::swap(&mut order, &mut merged);
        width *= 2;
    }
    order
}

/// The numbers below `count` in order of their labels.
pub(crate) fn by_labels<'a>(
    count: usize,
    budget: &Budget,
    labels: impl Fn(usize) -> &'a Labels,
) -> Vec<usize> {
    let keys = label_keys(count, budget, &labels);
    order_by(count, budget, |a, b| keys[a].cmp(&keys[b]).then_with(|| labels(a).cmp(labels(b))))
}

/// Numbers in the order of labels, equal where they do not tell: what comes first in the value of
/// the first label that is not the same for all, behind what all its values begin with.
fn label_keys<'a>(count: usize, budget: &Budget, labels: impl Fn(usize) -> &'a Labels) -> Vec<u64> {
    let mut pace = budget.pace();
    let mut keys = vec![0; count];
    if count < 2 {
        return keys;
    }
    let first = labels(0);
    let shared = |at: usize| {
        let pairs = first.byte_pairs().zip(labels(at).byte_pairs());
        pairs.take_while(|(a, b)| a == b).count()
    };
    let others = (1..count).take_while(|_| pace.goes_on(16));
    let shared = others.map(shared).min().unwrap_or(0);
    let pair = |at: usize| labels(at).byte_pairs().nth(shared);
    let Some((name, value)) = pair(0) else { return keys };
    let mut common = value.len();
    for at in (1..count).take_while(|_| pace.goes_on(16)) {
        match pair(at) {
            Some((other, other_value)) if other == name => {
                let same = value.iter().zip(other_value).take_while(|(a, b)| a == b).count();
                common = common.min(same);
            }
            _ => return keys,
        }
    }
    for (at, key) in keys.iter_mut().enumerate().take_while(|_| pace.goes_on(16)) {
        let value = pair(at).map_or(&[][..], |(_, value)| value.get(common..).unwrap_or(&[]));
        let mut bytes = [0; 8];
        let taken = value.len().min(8);
        bytes[..taken].copy_from_slice(&value[..taken]);
        *key = u64::from_be_bytes(bytes);
    }
    keys
}

/// `sort` and `sort_desc`: NaN comes last both ways; equal values keep their order.
pub(crate) fn by_value(rows: &Rows, descending: bool, budget: &Budget) -> Rows {
    let order = order_by(rows.len(), budget, |a, b| {
        let (a, b) = (rows.values(a)[0], rows.values(b)[0]);
        match (a.is_nan(), b.is_nan()) {
            (false, false) if descending => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
            (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (a, b) => a.cmp(&b),
        }
    });
    rows.reordered(&order)
}

/// `sort_by_label` and `sort_by_label_desc`: by the labels named, in natural order, then by all.
pub(crate) fn by_label(rows: &Rows, names: &[String], descending: bool, budget: &Budget) -> Rows {
    let order = order_by(rows.len(), budget, |a, b| {
        let (a, b) = (&rows.meta[a].labels, &rows.meta[b].labels);
        let by_name = names
            .iter()
            .map(|name| natural_order(a.get(name).unwrap_or(""), b.get(name).unwrap_or("")));
        let ascending = by_name.fold(Ordering::Equal, Ordering::then).then_with(|| a.cmp(b));
        if descending { ascending.reverse() } else { ascending }
    });
    rows.reordered(&order)
}

/// Runs of digits compare as numbers, everything else bytewise.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while !left.is_empty() && !right.is_empty() {
        let (x, y) = (take_run(&mut left), take_run(&mut right));
        let order = match (x.parse::<i64>(), y.parse::<i64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            _ => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Cuts off the longest run of digits or of other characters.
fn take_run<'a>(text: &mut &'a str) -> &'a str {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::with_test_session;

    #[test]
    fn long_lists_are_sorted_like_short_ones() {
        let keys: Vec<usize> = (0..10 * RUN + 7).map(|i| i * 7919 % 1000).collect();
        with_test_session(|session| {
            let order = order_by(keys.len(), session.budget, |a, b| keys[a].cmp(&keys[b]));
            let mut expected: Vec<usize> = (0..keys.len()).collect();
            expected.sort_by_key(|at| keys[*at]);
            assert_eq!(order, expected);
        });
    }

    #[test]
    fn labels_are_sorted_as_they_compare() {
        let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
        let mut all = Vec::new();
        let mut check = |more: &[&[(&str, &str)]]| {
            all.extend(more.iter().map(|pairs| labels(pairs)));
            with_test_session(|session| {
                let order = by_labels(all.len(), session.budget, |at| &all[at]);
                let sorted: Vec<&Labels> = order.iter().map(|at| &all[*at]).collect();
                assert!(sorted.is_sorted(), "{sorted:?}");
            });
        };
        let (x, y) = (("a", "x"), ("a", "y"));
        check(&[&[x, ("b", "host-20")], &[x, ("b", "host-3")]]);
        check(&[&[x, ("b", "host-1234567890b")], &[x, ("b", "host-1234567890a")]]);
        check(&[&[x, ("b", "host-3\0")], &[x, ("b", "host-3")], &[x, ("b", "host-3\0a")]]);
        check(&[&[x, ("b", "host-")], &[x, ("b", "host-3"), ("c", "")], &[x, ("b", "h")]]);
        check(&[&[x, ("c", "host-")], &[y, ("b", "z")], &[x], &[]]);
    }

    #[test]
    fn numbers_in_names_compare_as_numbers() {
        assert_eq!(natural_order("4m5", "4m600"), Ordering::Less);
        assert_eq!(natural_order("1.111.3", "1.11.3"), Ordering::Greater);
        assert_eq!(natural_order("10", "9"), Ordering::Greater);
        assert_eq!(natural_order("a", "a1"), Ordering::Less);
        assert_eq!(natural_order("x", "x"), Ordering::Equal);
    }
}
