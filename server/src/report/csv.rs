//! The days of a report as CSV: RFC 4180, with a header.

use crate::report::document::{DayJson, Document};

const HEADER: [&str; 18] = [
    "data_type",
    "class",
    "policies",
    "tier",
    "day",
    "series",
    "series_exact",
    "rows",
    "raw_bytes",
    "stored_bytes",
    "ratio",
    "estimated",
    "oldest",
    "newest",
    "drop_at",
    "why",
    "eviction_rank",
    "reported_at",
];

/// A line for each data type, class, tier and day.
pub(crate) fn days(document: &Document) -> String {
    let mut text = String::new();
    push_line(&mut text, HEADER.map(str::to_owned));
    document.days.iter().for_each(|day| push_line(&mut text, cells(day, &document.time)));
    text
}

fn cells(day: &DayJson, time: &str) -> [String; 18] {
    let or_empty = |number: Option<String>| number.unwrap_or_default();
    [
        day.data_type.clone(),
        day.class.clone(),
        day.policies.join(" or "),
        day.tier.clone(),
        day.day.clone(),
        day.series.to_string(),
        day.series_exact.to_string(),
        day.rows.to_string(),
        day.raw_bytes.to_string(),
        day.stored_bytes.to_string(),
        or_empty(day.ratio.map(|ratio| ratio.to_string())),
        day.estimated.to_string(),
        day.oldest.clone(),
        day.newest.clone(),
        or_empty(day.drop_at.clone()),
        day.why.clone(),
        or_empty(day.eviction_rank.map(|rank| rank.to_string())),
        time.to_owned(),
    ]
}

fn push_line<const N: usize>(text: &mut String, cells: [String; N]) {
    text.push_str(&cells.map(|cell| quoted(&cell)).join(","));
    text.push_str("\r\n");
}

fn quoted(cell: &str) -> String {
    match cell.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_commas_and_quotes_is_one_cell() {
        for (cell, expected) in [
            ("raw", "raw"),
            ("raw 30d, 5m 180d", "\"raw 30d, 5m 180d\""),
            ("{env=\"prod\"}", "\"{env=\"\"prod\"\"}\""),
            ("a\nb", "\"a\nb\""),
        ] {
            assert_eq!(quoted(cell), expected);
        }
    }
}
