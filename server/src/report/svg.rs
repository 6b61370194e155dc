//! Charts as SVG inside of a page: bars and lines on a grid, in the colours of the page's style.

use std::fmt::Write as _;

use crate::size::human;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

/// Labels along the bottom, at most.
const DATES_MAX: usize = 7;

/// A bar: its parts from the bottom up, one for each series of the chart.
#[derive(Clone, Debug, Default)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) parts: Vec<u64>,
}

/// A line, and from it up to another an area.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) names: Vec<String>,
    pub(super) low: Vec<u64>,
    pub(super) high: Vec<u64>,
    /// Lines across, with what they are.
    pub(super) limits: Vec<(String, u64)>,
}

fn escape(text: &str) -> String {
    super::html::escape(text)
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a String takes any text");
}

fn open(svg: &mut String, title: &str) {
    push(
        svg,
        format_args!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
            escape(title)
        ),
    );
}

/// Bytes at which lines are drawn: up to five round numbers.
fn ticks(most: u64) -> Vec<u64> {
    let mut step = 1u64;
    while most / step > 4 && step < u64::MAX / 4 {
        step *= 2;
    }
    (0..=most.div_ceil(step).max(1)).map(|count| count * step).collect()
}

struct Scale {
    most: f64,
}

impl Scale {
    fn y(&self, bytes: u64) -> f64 {
        let share = bytes as f64 / self.most;
        HEIGHT - BOTTOM - share.min(1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// The grid with its numbers.
fn grid(svg: &mut String, most: u64) -> Scale {
    let ticks = ticks(most);
    let scale = Scale { most: ticks.last().copied().unwrap_or(1).max(1) as f64 };
    for tick in ticks {
        let (y, end, label) = (scale.y(tick), WIDTH - RIGHT, human(tick));
        push(
            svg,
            format_args!(
                r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{end}" y2="{y:.1}"/><text class="axis" x="{}" y="{:.1}" text-anchor="end">{label}</text>"#,
                LEFT - 8.0,
                y + 4.0
            ),
        );
    }
    scale
}

/// Some of the names along the bottom, each at its place.
fn dates(svg: &mut String, names: &[String], x: impl Fn(usize) -> f64) {
    let every = names.len().div_ceil(DATES_MAX).max(1);
    for (at, name) in names.iter().enumerate().step_by(every) {
        let anchor = if at == 0 { "start" } else { "middle" };
        push(
            svg,
            format_args!(
                r#"<text class="axis" x="{:.1}" y="{}" text-anchor="{anchor}">{}</text>"#,
                x(at).min(WIDTH - 40.0),
                HEIGHT - 8.0,
                escape(name)
            ),
        );
    }
}

/// Bars of parts; the `n`-th part has the class `s<n>`.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let mut svg = String::new();
    open(&mut svg, title);
    let most = bars.iter().map(|bar| bar.parts.iter().sum::<u64>()).max().unwrap_or(0);
    let scale = grid(&mut svg, most);
    let slot = (WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64;
    let x = |at: usize| LEFT + slot * at as f64;
    let width = (slot * 0.8).clamp(1.0, 48.0);
    for (at, bar) in bars.iter().enumerate() {
        let mut below = 0;
        for (part, bytes) in bar.parts.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
            let (bottom, top) = (scale.y(below), scale.y(below + bytes));
            push(
                &mut svg,
                format_args!(
                    r#"<rect class="s{part}" x="{:.1}" y="{top:.1}" width="{width:.1}" height="{:.1}"><title>{}: {}</title></rect>"#,
                    x(at) + (slot - width) / 2.0,
                    (bottom - top).max(0.5),
                    escape(&bar.name),
                    human(*bytes)
                ),
            );
            below += bytes;
        }
    }
    let names: Vec<String> = bars.iter().map(|bar| bar.name.clone()).collect();
    dates(&mut svg, &names, |at| x(at) + if at == 0 { 0.0 } else { slot / 2.0 });
    svg + "</svg>"
}

/// A line with an area up to another one. Limits far above both are left out.
pub(super) fn band(title: &str, band: &Band) -> String {
    let mut svg = String::new();
    open(&mut svg, title);
    let most = band.high.iter().chain(&band.low).copied().max().unwrap_or(0);
    let near = |limit: u64| limit <= most.saturating_mul(3);
    let limits: Vec<&(String, u64)> = band.limits.iter().filter(|(_, at)| near(*at)).collect();
    let most = limits.iter().map(|(_, limit)| *limit).chain([most]).max().unwrap_or(0);
    let scale = grid(&mut svg, most);
    let count = band.low.len();
    let step = (WIDTH - LEFT - RIGHT) / count.saturating_sub(1).max(1) as f64;
    let x = |at: usize| LEFT + step * at as f64;
    let points = |line: &[u64]| -> Vec<String> {
        let point = |(at, bytes): (usize, &u64)| format!("{:.1},{:.1}", x(at), scale.y(*bytes));
        line.iter().enumerate().map(point).collect()
    };
    let (low, high) = (points(&band.low), points(&band.high));
    let back: Vec<String> = low.iter().rev().cloned().collect();
    let area = format!("{} {}", high.join(" "), back.join(" "));
    push(&mut svg, format_args!(r#"<polygon class="area" points="{area}"/>"#));
    push(&mut svg, format_args!(r#"<polyline class="high" points="{}"/>"#, high.join(" ")));
    push(&mut svg, format_args!(r#"<polyline class="low" points="{}"/>"#, low.join(" ")));
    for (name, limit) in limits {
        let (y, end) = (scale.y(*limit), WIDTH - RIGHT);
        push(
            &mut svg,
            format_args!(
                r#"<line class="limit" x1="{LEFT}" y1="{y:.1}" x2="{end}" y2="{y:.1}"/><text class="limit" x="{end}" y="{:.1}" text-anchor="end">{}</text>"#,
                (y - 5.0).max(10.0),
                escape(name)
            ),
        );
    }
    dates(&mut svg, &band.names, x);
    svg + "</svg>"
}

/// A bar across the cell of a table: a part of 100.
pub(super) fn share(percent: f64) -> String {
    let width = percent.clamp(0.0, 100.0);
    format!(
        r#"<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="rest" width="100" height="8"/><rect class="s0" width="{width:.2}" height="8"/></svg>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_grid_are_few_and_round() {
        assert_eq!(ticks(0), [0, 1]);
        assert_eq!(ticks(5 << 30), [0, 2 << 30, 4 << 30, 6 << 30]);
        for most in [1, 9, 1000, 123_456_789, u64::MAX / 8] {
            let ticks = ticks(most);
            assert!(ticks.len() <= 6 && *ticks.last().unwrap() >= most, "{most}: {ticks:?}");
        }
    }

    #[test]
    fn a_chart_of_nothing_is_a_chart() {
        assert!(bars("none", &[]).ends_with("</svg>"));
        let none = Band { names: vec![], low: vec![], high: vec![], limits: vec![] };
        assert!(band("none", &none).ends_with("</svg>"));
    }
}
