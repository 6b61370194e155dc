//! A report as text for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::report::document::{DayJson, Document, LimitJson};
use crate::size::human;
use crate::table::Table;

/// Days, drops, metrics and labels that are shown; the other forms have all.
const DAYS_SHOWN: usize = 7;
const DROPS_SHOWN: usize = 10;
const TOP_SHOWN: usize = 10;

pub(crate) fn table(document: &Document) -> String {
    let mut text = String::new();
    push_summary(&mut text, document);
    section(&mut text, "By class and tier", &tiers(document), None);
    let days = days(document);
    section(&mut text, "By day, the newest", &days.0, rest(days.1, "days", "csv"));
    push_growth(&mut text, document);
    let drops = drops(document);
    section(&mut text, "What goes next", &drops.0, rest(drops.1, "drops", "json"));
    section(&mut text, "Metrics by stored bytes", &metrics(document), None);
    section(&mut text, "Labels by stored bytes of their series", &labels(document), None);
    for note in &document.notes {
        line(&mut text, &format!("note: {note}"));
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes any text");
}

fn section(text: &mut String, title: &str, table: &Table, rest: Option<String>) {
    write!(text, "\n{title}\n\n{table}").expect("a String takes any text");
    if let Some(rest) = rest {
        line(text, &rest);
    }
}

fn rest(count: usize, what: &str, format: &str) -> Option<String> {
    (count > 0).then(|| format!("and {count} {what} more; --format={format} has them"))
}

fn push_summary(text: &mut String, document: &Document) {
    let files = &document.files;
    let (total, blocks) = (human(document.total_bytes), human(files.block_bytes));
    let (checkpoint, log) = (human(files.checkpoint_bytes), human(files.log_bytes));
    line(text, &format!("As of {}", document.time));
    line(text, &format!("total {total}: blocks {blocks}, checkpoint {checkpoint}, log {log}"));
    if files.other_bytes > 0 {
        line(
            text,
            &format!(
                "besides {}: manifests, files in the making or set aside",
                human(files.other_bytes)
            ),
        );
    }
    if let Some(free) = document.disk_free_bytes {
        line(text, &format!("free on the disk {}", human(free)));
    }
    match document.disk_budget_bytes {
        Some(budget) => {
            let order = &document.eviction_order;
            line(text, &format!("disk_budget {}; evicted first: {order}", human(budget)));
        }
        None => line(text, "no disk_budget: nothing is evicted"),
    }
}

/// Days of a class and tier added up.
#[derive(Default)]
struct Sum {
    rows: u64,
    raw_bytes: u64,
    days: u64,
}

type Kind<'a> = (&'a str, &'a str, &'a str);

fn kind(day: &DayJson) -> Kind<'_> {
    (&day.data_type, &day.class, &day.tier)
}

fn tiers(document: &Document) -> Table {
    let mut sums: BTreeMap<Kind<'_>, Sum> = BTreeMap::new();
    for day in &document.days {
        let sum = sums.entry(kind(day)).or_default();
        sum.rows += day.rows;
        sum.raw_bytes += day.raw_bytes;
        sum.days += 1;
    }
    let header = [
        "type",
        "class",
        "tier",
        "days",
        "rows",
        "raw",
        "stored",
        "ratio",
        "oldest",
        "newest",
        "next drop",
    ];
    let mut table = Table::new(&header, &[3, 4, 5, 6, 7]);
    for row in &document.rows {
        let key = (row.data_type.as_str(), row.class.as_str(), row.tier.as_str());
        let Some(sum) = sums.get(&key) else { continue };
        let about = if row.estimated_bytes > 0 { "~" } else { "" };
        table.row([
            row.data_type.clone(),
            row.class.clone(),
            row.tier.clone(),
            sum.days.to_string(),
            sum.rows.to_string(),
            human(sum.raw_bytes),
            format!("{about}{}", human(row.bytes)),
            format!("{:.1}", sum.raw_bytes as f64 / row.bytes.max(1) as f64),
            minute(&row.oldest),
            minute(&row.newest),
            row.next_drop.as_deref().map_or_else(|| "-".to_owned(), minute),
        ]);
    }
    table
}

/// `2026-11-22 07:15` of a time.
pub(super) fn minute(time: &str) -> String {
    time.get(..16).unwrap_or(time).replace('T', " ")
}

/// The newest days, and how many are left out.
fn days(document: &Document) -> (Table, usize) {
    let mut dates: Vec<&str> = document.days.iter().map(|day| day.day.as_str()).collect();
    dates.sort_unstable();
    dates.dedup();
    let left_out = dates.len().saturating_sub(DAYS_SHOWN);
    let shown = &dates[left_out..];
    let header =
        ["day", "type", "class", "tier", "series", "rows", "raw", "stored", "ratio", "goes", "why"];
    let mut table = Table::new(&header, &[4, 5, 6, 7, 8]);
    for date in shown {
        for day in document.days.iter().filter(|day| day.day == *date) {
            table.row([
                day.day.clone(),
                day.data_type.clone(),
                day.class.clone(),
                day.tier.clone(),
                format!("{}{}", if day.series_exact { "" } else { "≥" }, day.series),
                day.rows.to_string(),
                human(day.raw_bytes),
                format!("{}{}", if day.estimated { "~" } else { "" }, human(day.stored_bytes)),
                day.ratio.map_or_else(String::new, |ratio| format!("{ratio:.1}")),
                day.drop_at.as_deref().map_or_else(|| "-".to_owned(), minute),
                day.why.clone(),
            ]);
        }
    }
    (table, left_out)
}

fn push_growth(text: &mut String, document: &Document) {
    let (Some(growth), Some(forecast)) = (&document.growth, &document.forecast) else { return };
    line(text, "\nGrowth\n");
    let change = growth.change_a_week_percent;
    let change = change.map_or_else(String::new, |percent| format!(", {percent:+.1} % a week"));
    let (p50, p90) = (human(growth.p50_bytes), human(growth.p90_bytes));
    let (days, mean) = (growth.days, human(growth.mean_bytes));
    line(text, &format!("a day      p50 {p50}, p90 {p90}, mean {mean} (last {days} days{change})"));
    let (rows, raw) = (growth.mean_rows, human(growth.mean_raw_bytes));
    line(text, &format!("samples    {rows} a day, {raw} as they were sent"));
    line(text, &format!("settles at {} by lifetimes alone", human(forecast.settles_at_bytes)));
    let horizon = forecast.horizon_days;
    for (name, limit) in [("disk_budget", &forecast.budget), ("disk", &forecast.disk)] {
        if let Some(limit) = limit {
            line(text, &format!("{name:10} {}", until_full(limit, horizon)));
        }
    }
    line(text, &format!("({})", forecast.method));
}

/// When a limit is reached, in words.
pub(super) fn until_full(limit: &LimitJson, horizon_days: u64) -> String {
    let when = |days: Option<u64>, date: &Option<String>| match (days, date) {
        (Some(days), Some(date)) => format!("{days} days ({date})"),
        _ => format!("not within {horizon_days} days"),
    };
    let (p50, p90) = (when(limit.days_p50, &limit.date_p50), when(limit.days_p90, &limit.date_p90));
    let (used, limit) = (human(limit.used_bytes), human(limit.limit_bytes));
    match p50 == p90 {
        true => format!("full: {p50}; {used} of {limit}"),
        false => format!("full: p50 {p50}, p90 {p90}; {used} of {limit}"),
    }
}

fn drops(document: &Document) -> (Table, usize) {
    let header = ["day", "type", "class", "tier", "blocks", "size", "why"];
    let mut table = Table::new(&header, &[4, 5]);
    for drop in document.drops.iter().take(DROPS_SHOWN) {
        table.row([
            drop.day.clone(),
            drop.data_type.clone(),
            drop.class.clone(),
            drop.tier.clone(),
            drop.blocks.to_string(),
            human(drop.bytes),
            drop.why.clone(),
        ]);
    }
    (table, document.drops.len().saturating_sub(DROPS_SHOWN))
}

fn metrics(document: &Document) -> Table {
    let top = &document.top;
    let mut table = Table::new(&["metric", "series", "stored", "share"], &[1, 2, 3]);
    let all = document.files.block_bytes.max(1) as f64;
    let share = |bytes: u64| format!("{:.1} %", 100.0 * bytes as f64 / all);
    for metric in top.metrics.iter().take(TOP_SHOWN) {
        let bytes = metric.stored_bytes;
        table.row([metric.name.clone(), metric.series.to_string(), human(bytes), share(bytes)]);
    }
    let unlisted: u64 = top.metrics.iter().skip(TOP_SHOWN).map(|metric| metric.stored_bytes).sum();
    for (name, bytes) in [
        ("(other metrics)", top.other_metrics_bytes + unlisted),
        ("(timestamps, indexes)", top.shared_bytes),
    ] {
        table.row([name.to_owned(), String::new(), human(bytes), share(bytes)]);
    }
    table
}

fn labels(document: &Document) -> Table {
    let mut table = Table::new(&["label", "stored"], &[1]);
    for label in document.top.labels.iter().take(TOP_SHOWN) {
        table.row([format!("{}={:?}", label.name, label.value), human(label.stored_bytes)]);
    }
    table
}
