//! Orders of an instant vector: by value, by labels.

use std::cmp::Ordering;

use crate::exec::rows::Rows;

/// `sort` and `sort_desc`: NaN comes last both ways; equal values keep their order.
pub(crate) fn by_value(rows: &Rows, descending: bool) -> Rows {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (rows.values(*a)[0], rows.values(*b)[0]);
        match (a.is_nan(), b.is_nan()) {
            (false, false) if descending => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
            (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (a, b) => a.cmp(&b),
        }
    });
    rows.reordered(&order)
}

/// `sort_by_label` and `sort_by_label_desc`: by the labels named, in natural order, then by all.
pub(crate) fn by_label(rows: &Rows, names: &[String], descending: bool) -> Rows {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&rows.meta[*a].labels, &rows.meta[*b].labels);
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

    #[test]
    fn numbers_in_names_compare_as_numbers() {
        assert_eq!(natural_order("4m5", "4m600"), Ordering::Less);
        assert_eq!(natural_order("1.111.3", "1.11.3"), Ordering::Greater);
        assert_eq!(natural_order("10", "9"), Ordering::Greater);
        assert_eq!(natural_order("a", "a1"), Ordering::Less);
        assert_eq!(natural_order("x", "x"), Ordering::Equal);
    }
}
