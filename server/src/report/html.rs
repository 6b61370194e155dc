//! A report as one page: everything it needs is in it, no script, no font, no picture from elsewhere.
//! Light or dark as the reader's system is, and light on paper.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::report::document::{Document, LimitJson};
use crate::report::svg::{self, Band, Bar};
use crate::report::text::minute;
use crate::size::human;

/// Bars of a chart at most: more days are put together.
const BARS_MAX: usize = 92;

/// Days ahead of which drops are shown.
const DROPS_SHOWN: usize = 60;

/// Rows of the tables of metrics and labels.
const TOP_SHOWN: usize = 20;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6b7b; --line: #d9e0e7; --paper: #fff;
  --panel: #f5f8fb; --s0: #2f7fb8; --s1: #e08e2d; --s2: #4f9d69; --s3: #9a5fb4; --warn: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4eaf0; --soft: #9fb0c0; --line: #34414e;
  --paper: #12181f; --panel: #1b242e; --s0: #5aaee6; --s1: #f0ac57; --s2: #74c28f; --s3: #c08fd6;
  --warn: #ff7b6b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 8px; }
p { margin: 4px 0 10px; max-width: 78ch; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 22px; font-weight: 600; } .tile span { color: var(--soft); font-size: 13px; }
.note { border-left: 4px solid var(--warn); background: var(--panel); padding: 8px 12px; margin: 8px 0; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 13px; margin: 4px 0; }
svg { width: 100%; height: auto; display: block; } .scroll { overflow-x: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); } .grid { stroke: var(--line); }
.s0 { fill: var(--s0); } .s1 { fill: var(--s1); } .s2 { fill: var(--s2); } .s3, .s4, .s5, .s6, .s7 { fill: var(--s3); }
.area { fill: var(--s0); opacity: .22; } .low { fill: none; stroke: var(--s0); stroke-width: 2.5; }
.high { fill: none; stroke: var(--s0); stroke-dasharray: 4 3; } line.limit { stroke: var(--warn); stroke-width: 1.5; stroke-dasharray: 7 4; }
svg text.limit { fill: var(--warn); } .rest { fill: var(--line); } svg.share { width: 140px; height: 8px; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 14px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; } th, td { text-align: left; padding: 4px 10px 4px 0;
  border-bottom: 1px solid var(--line); vertical-align: top; } th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } .n + td, .n + th { padding-left: 14px; } .d { white-space: nowrap; }
code { font-family: ui-monospace, monospace; font-size: 12.5px; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--soft); margin: 8px 0; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --panel: #fff;
  --s0: #2f7fb8; --s1: #e08e2d; --s2: #4f9d69; --s3: #9a5fb4; --warn: #a02818; }
  body { max-width: none; padding: 0; font-size: 11px; } figure, tr, .tile { break-inside: avoid; }
  h2 { break-after: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
";

/// The text as it may stand in a page.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

pub(crate) fn page(document: &Document) -> String {
    let mut page = String::with_capacity(64 << 10);
    let time = minute(&document.time);
    page += "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">";
    push(&mut page, format_args!("<title>Icecore capacity, {time}</title><style>{STYLE}</style>"));
    page += "</head><body>\n<h1>Icecore capacity report</h1>";
    push(
        &mut page,
        format_args!(
            "<p class=\"soft\">As of {time} UTC. Sizes are those of files; days are days of UTC.</p>"
        ),
    );
    for note in &document.notes {
        push(&mut page, format_args!("<div class=\"note\">{}</div>\n", escape(note)));
    }
    tiles(&mut page, document);
    stored(&mut page, document);
    to_come(&mut page, document);
    goes(&mut page, document);
    tiers(&mut page, document);
    top(&mut page, document);
    days(&mut page, document);
    push(
        &mut page,
        format_args!(
            "<p class=\"soft\">Raw bytes: {}.</p></body></html>\n",
            escape(&document.raw_bytes_are)
        ),
    );
    page
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes any text");
}

fn tile(page: &mut String, number: &str, what: &str) {
    let (number, what) = (escape(number), escape(what));
    push(page, format_args!("<div class=\"tile\"><b>{number}</b><span>{what}</span></div>\n"));
}

fn tiles(page: &mut String, document: &Document) {
    let files = &document.files;
    page.push_str("<div class=\"tiles\">");
    let parts = format!(
        "stored: blocks {}, checkpoint {}, log {}",
        human(files.block_bytes),
        human(files.checkpoint_bytes),
        human(files.log_bytes)
    );
    tile(page, &human(document.total_bytes), &parts);
    match &document.growth {
        Some(growth) => {
            let change = growth.change_a_week_percent;
            let change = change.map_or_else(String::new, |by| format!(", {by:+.1} % a week"));
            let what = format!(
                "a day: p50 {}, p90 {} of the last {} days{change}",
                human(growth.p50_bytes),
                human(growth.p90_bytes),
                growth.days
            );
            tile(page, &human(growth.mean_bytes), &what);
        }
        None => tile(page, "unknown", "growth a day: too few complete days"),
    }
    if let Some(forecast) = &document.forecast {
        tile(page, &human(forecast.settles_at_bytes), "settles at, by lifetimes alone");
        for (limit, name) in
            [(&forecast.budget, "disk_budget evicts"), (&forecast.disk, "disk is full")]
        {
            if let Some(limit) = limit {
                limit_tile(page, limit, name, forecast.horizon_days);
            }
        }
    }
    page.push_str("</div>\n");
    let order = match document.disk_budget_bytes {
        Some(budget) => {
            format!(
                "Evicted first, to keep to a disk_budget of {}: {}.",
                human(budget),
                document.eviction_order
            )
        }
        None => "There is no disk_budget: nothing is evicted before its time.".to_owned(),
    };
    push(page, format_args!("<p class=\"soft\">{}</p>\n", escape(&order)));
}

fn limit_tile(page: &mut String, limit: &LimitJson, name: &str, horizon_days: u64) {
    let (used, bytes) = (human(limit.used_bytes), human(limit.limit_bytes));
    match (limit.days_p50, limit.days_p90) {
        (None, None) => {
            let what =
                format!("no day in the next {horizon_days} on which the {name}; {used} of {bytes}");
            tile(page, "never", &what);
        }
        (p50, p90) => {
            let days = |days: Option<u64>| {
                days.map_or_else(|| "never".to_owned(), |d| format!("{d} days"))
            };
            let date = |date: &Option<String>| date.clone().unwrap_or_else(|| "-".to_owned());
            let what = format!(
                "until the {name}, p50 ({}); p90 {} ({}); {used} of {bytes}",
                date(&limit.date_p50),
                days(p90),
                date(&limit.date_p90)
            );
            tile(page, &days(p50), &what);
        }
    }
}

/// Stored bytes by day, stacked by tier.
fn stored(page: &mut String, document: &Document) {
    let tiers = names(document.days.iter().map(|day| day.tier.as_str()));
    let bars = by_day(
        &document.days,
        |day| {
            let part = tiers.iter().position(|tier| *tier == day.tier).unwrap_or(0);
            (day.day.as_str(), part, day.stored_bytes)
        },
        tiers.len(),
    );
    page.push_str("<h2>Stored, by day of the samples</h2>\n<figure>");
    page.push_str(&svg::bars("stored bytes by day", &bars.0));
    page.push_str("<figcaption class=\"key\">");
    for (at, tier) in tiers.iter().enumerate() {
        let colour = at.min(3);
        push(page, format_args!("<i style=\"background:var(--s{colour})\"></i>{}", escape(tier)));
    }
    let each = if bars.1 > 1 { format!(" &nbsp; a bar is {} days", bars.1) } else { String::new() };
    push(page, format_args!("{each}</figcaption></figure>\n"));
}

/// Tiers or such in the order in which they come, each once.
fn names<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in all {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Bars of days, or of several days each; and how many.
fn by_day<'a, T>(
    all: &'a [T],
    of: impl Fn(&'a T) -> (&'a str, usize, u64),
    parts: usize,
) -> (Vec<Bar>, usize) {
    let mut days: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for one in all {
        let (day, part, bytes) = of(one);
        days.entry(day).or_insert_with(|| vec![0; parts.max(1)])[part] += bytes;
    }
    let days: Vec<(&str, Vec<u64>)> = days.into_iter().collect();
    let each = days.len().div_ceil(BARS_MAX).max(1);
    let bar = |days: &[(&str, Vec<u64>)]| {
        let sum = |part: usize| days.iter().map(|(_, parts)| parts[part]).sum();
        let name = days.first().map_or("", |(day, _)| day).to_owned();
        Bar { name, parts: (0..parts.max(1)).map(sum).collect() }
    };
    (days.chunks(each).map(bar).collect(), each)
}

fn to_come(page: &mut String, document: &Document) {
    page.push_str("<h2>Size to come</h2>\n");
    let Some(forecast) = &document.forecast else {
        page.push_str("<p class=\"soft\">Not known: growth is not known yet.</p>\n");
        return;
    };
    let limits = [("disk_budget evicts", &forecast.budget), ("disk full", &forecast.disk)];
    let limits = limits.into_iter().filter_map(|(name, limit)| {
        limit
            .as_ref()
            .map(|limit| (format!("{name} at {}", human(limit.limit_bytes)), limit.limit_bytes))
    });
    // Points that lie as the days do: the first month is told day by day.
    let weekly: Vec<_> = forecast
        .sizes
        .iter()
        .enumerate()
        .filter(|(at, _)| *at > 30 || at % 7 == 0)
        .map(|(_, size)| size)
        .collect();
    let band = Band {
        names: weekly.iter().map(|size| size.date.clone()).collect(),
        low: weekly.iter().map(|size| size.p50_bytes).collect(),
        high: weekly.iter().map(|size| size.p90_bytes).collect(),
        limits: limits.collect(),
    };
    page.push_str("<figure>");
    page.push_str(&svg::band("bytes of all files to come", &band));
    push(
        page,
        format_args!(
            "<figcaption>Line: p50, dashed: p90. {}.</figcaption></figure>\n",
            escape(&forecast.method)
        ),
    );
}

fn goes(page: &mut String, document: &Document) {
    page.push_str("<h2>What goes next</h2>\n");
    if document.drops.is_empty() {
        page.push_str("<p class=\"soft\">Nothing is stored in blocks.</p>\n");
        return;
    }
    let reasons = names(document.drops.iter().map(|drop| drop.tier.as_str()));
    let shown = document
        .drops
        .iter()
        .map(|drop| drop.day.as_str())
        .collect::<std::collections::BTreeSet<_>>();
    let last = shown.iter().nth(DROPS_SHOWN - 1).or(shown.last()).copied().unwrap_or("");
    let drops: Vec<_> = document.drops.iter().filter(|drop| drop.day.as_str() <= last).collect();
    let bars = by_day(
        &drops,
        |drop| {
            let part = reasons.iter().position(|tier| *tier == drop.tier).unwrap_or(0);
            (drop.day.as_str(), part, drop.bytes)
        },
        reasons.len(),
    );
    page.push_str("<figure>");
    page.push_str(&svg::bars("bytes that go, by date", &bars.0));
    page.push_str("<figcaption class=\"key\">dates on which something goes; others are left out");
    for (at, tier) in reasons.iter().enumerate() {
        let colour = at.min(3);
        push(page, format_args!("<i style=\"background:var(--s{colour})\"></i>{}", escape(tier)));
    }
    page.push_str("</figcaption></figure>\n<div class=\"scroll\"><table><tr><th>date<th>type<th>class<th>tier<th class=\"n\">blocks<th class=\"n\">size<th>why</tr>\n");
    for drop in document.drops.iter().take(12) {
        push(
            page,
            format_args!(
                "<tr><td class=\"d\">{}<td>{}<td>{}<td>{}<td class=\"n\">{}<td class=\"n\">{}<td>{}</tr>\n",
                drop.day,
                escape(&drop.data_type),
                escape(&drop.class),
                escape(&drop.tier),
                drop.blocks,
                human(drop.bytes),
                escape(&drop.why)
            ),
        );
    }
    page.push_str("</table></div>\n");
}

fn tiers(page: &mut String, document: &Document) {
    page.push_str(
        "<h2>By class and tier</h2>\n<div class=\"scroll\"><table><tr><th>type<th>class<th>tier<th>lifetime\
         <th class=\"n\">blocks<th class=\"n\">stored<th>oldest<th>newest<th>next drop</tr>\n",
    );
    for row in &document.rows {
        let about = if row.estimated_bytes > 0 { "~" } else { "" };
        let next = row.next_drop.as_deref().map_or_else(|| "-".to_owned(), minute);
        push(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td>{}<td>{}<td class=\"n\">{}<td class=\"n\">{about}{}<td class=\"d\">{}<td class=\"d\">{}<td class=\"d\">{next}</tr>\n",
                escape(&row.data_type),
                escape(&row.class),
                escape(&row.tier),
                escape(&row.lifetime),
                row.blocks,
                human(row.bytes),
                minute(&row.oldest),
                minute(&row.newest)
            ),
        );
    }
    page.push_str("</table></div>\n");
}

fn top(page: &mut String, document: &Document) {
    let top = &document.top;
    let all = document.files.block_bytes.max(1) as f64;
    let percent = |bytes: u64| 100.0 * bytes as f64 / all;
    page.push_str("<h2>Metrics by stored bytes</h2>\n<div class=\"scroll\"><table><tr><th>metric<th class=\"n\">series<th class=\"n\">stored<th class=\"n\">share<th></tr>\n");
    let unlisted: u64 = top.metrics.iter().skip(TOP_SHOWN).map(|metric| metric.stored_bytes).sum();
    let listed = top.metrics.iter().take(TOP_SHOWN);
    let listed = listed.map(|one| {
        (format!("<code>{}</code>", escape(&one.name)), one.series.to_string(), one.stored_bytes)
    });
    let others = [
        ("other metrics", top.other_metrics_bytes + unlisted),
        ("timestamps, indexes and what else series share", top.shared_bytes),
        ("not known", top.unknown_bytes),
    ];
    let others = others.into_iter().filter(|(_, bytes)| *bytes > 0);
    let others = others
        .map(|(name, bytes)| (format!("<span class=\"soft\">{name}</span>"), String::new(), bytes));
    for (name, series, bytes) in listed.chain(others) {
        let (size, of_all) = (human(bytes), percent(bytes));
        let bar = svg::share(of_all);
        push(
            page,
            format_args!(
                "<tr><td>{name}<td class=\"n\">{series}<td class=\"n\">{size}<td class=\"n\">{of_all:.1} %<td>{bar}</tr>\n"
            ),
        );
    }
    page.push_str("</table></div>\n<h2>Labels by stored bytes of their series</h2>\n<div class=\"scroll\"><table><tr><th>label<th class=\"n\">stored<th class=\"n\">share<th></tr>\n");
    for one in top.labels.iter().take(TOP_SHOWN) {
        let label = escape(&format!("{}={:?}", one.name, one.value));
        let (size, of_all) = (human(one.stored_bytes), percent(one.stored_bytes));
        let bar = svg::share(of_all);
        push(
            page,
            format_args!(
                "<tr><td><code>{label}</code><td class=\"n\">{size}<td class=\"n\">{of_all:.1} %<td>{bar}</tr>\n"
            ),
        );
    }
    page.push_str("</table></div>\n<p class=\"soft\">A series counts for each of its labels");
    if top.labels_error_bytes > 0 {
        push(page, format_args!("; a label may have up to {} more", human(top.labels_error_bytes)));
    }
    page.push_str(".</p>\n");
}

fn days(page: &mut String, document: &Document) {
    push(
        page,
        format_args!(
            "<h2>Days</h2>\n<details><summary>{} lines, by data type, class, tier and day</summary><div class=\"scroll\"><table>\
             <tr><th>day<th>type<th>class<th>tier<th class=\"n\">series<th class=\"n\">rows<th class=\"n\">raw<th class=\"n\">stored\
             <th class=\"n\">ratio<th>goes<th>why<th class=\"n\">evicted</tr>\n",
            document.days.len()
        ),
    );
    for day in &document.days {
        let least = if day.series_exact { "" } else { "≥" };
        let about = if day.estimated { "~" } else { "" };
        let rank = day.eviction_rank.map_or_else(String::new, |rank| format!("{rank}."));
        push(
            page,
            format_args!(
                "<tr><td class=\"d\">{}<td>{}<td>{}<td>{}<td class=\"n\">{least}{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{about}{}<td class=\"n\">{}<td class=\"d\">{}<td>{}<td class=\"n\">{rank}</tr>\n",
                day.day,
                escape(&day.data_type),
                escape(&day.class),
                escape(&day.tier),
                day.series,
                day.rows,
                human(day.raw_bytes),
                human(day.stored_bytes),
                day.ratio.map_or_else(String::new, |ratio| format!("{ratio:.1}")),
                day.drop_at.as_deref().map_or_else(|| "-".to_owned(), minute),
                escape(&day.why)
            ),
        );
    }
    page.push_str("</table></div></details>\n");
}
