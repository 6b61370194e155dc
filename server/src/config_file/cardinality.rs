//! The section `cardinality`: how many series there may be. Its rules are those of
//! docs/operations.md.

use icecore_storage::series_limits::{LIMITS_MAX, SeriesLimit};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::Mistake;
use super::selector::selector;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// Of all series.
    active_series: Option<Spanned<u64>>,
    new_series_per_hour: Option<Spanned<u64>>,
    limits: Option<Vec<Spanned<LimitText>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitText {
    r#match: Spanned<String>,
    active_series: Option<Spanned<u64>>,
    new_series_per_hour: Option<Spanned<u64>>,
}

/// The limit in total comes first.
pub(super) fn check(section: &Section) -> Result<Vec<SeriesLimit>, Mistake> {
    let total = SeriesLimit {
        matchers: Vec::new(),
        active_max: bound(section.active_series.as_ref())?,
        new_per_hour_max: bound(section.new_series_per_hour.as_ref())?,
    };
    let mut limits = Vec::new();
    if total.active_max.is_some() || total.new_per_hour_max.is_some() {
        limits.push(total);
    }
    for text in section.limits.as_deref().unwrap_or_default() {
        let limit = limit(text)?;
        if limits.iter().any(|known| known.matchers == limit.matchers) {
            let at = text.value.r#match.referenced;
            return Err(Mistake::at(at, format!("there is another limit of {limit}")));
        }
        if limits.len() == LIMITS_MAX {
            let reason = format!("at most {LIMITS_MAX} limits are possible");
            return Err(Mistake::at(text.referenced, reason));
        }
        limits.push(limit);
    }
    Ok(limits)
}

fn limit(text: &Spanned<LimitText>) -> Result<SeriesLimit, Mistake> {
    let LimitText { r#match, active_series, new_series_per_hour } = &text.value;
    let limit = SeriesLimit {
        matchers: selector(Some(r#match))?,
        active_max: bound(active_series.as_ref())?,
        new_per_hour_max: bound(new_series_per_hour.as_ref())?,
    };
    if limit.active_max.is_none() && limit.new_per_hour_max.is_none() {
        let reason = "this limits nothing: want `active_series` or `new_series_per_hour`";
        return Err(Mistake::at(text.referenced, reason));
    }
    Ok(limit)
}

fn bound(number: Option<&Spanned<u64>>) -> Result<Option<u64>, Mistake> {
    match number {
        Some(zero) if zero.value == 0 => {
            let reason = "0 would refuse every new series; leave the key out for no limit";
            Err(Mistake::at(zero.referenced, reason))
        }
        other => Ok(other.map(|number| number.value)),
    }
}

#[cfg(test)]
mod tests {
    use icecore_storage::matcher::Matcher;

    use super::super::parse;
    use super::*;

    #[test]
    fn the_whole_section_is_read() {
        let text = r#"
cardinality:
  active_series: 5000000
  new_series_per_hour: 400000
  limits:
    - match: '{team="a"}'
      active_series: 1000
    - match: up
      new_series_per_hour: 10
"#;
        let limit = |matchers, active_max, new_per_hour_max| SeriesLimit {
            matchers,
            active_max,
            new_per_hour_max,
        };
        let expected = [
            limit(vec![], Some(5_000_000), Some(400_000)),
            limit(vec![Matcher::equal("team", "a")], Some(1000), None),
            limit(vec![Matcher::equal("__name__", "up")], None, Some(10)),
        ];
        assert_eq!(parse(text).unwrap().series_limits, expected);
        assert_eq!(parse("cardinality: {}").unwrap().series_limits, []);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (lines, line, says) in [
            ("  active_series: 0", 2, "leave the key out"),
            ("  active_series: -5", 2, ""),
            ("  active_series: many", 2, ""),
            ("  active: 5", 2, "unknown field `active`"),
            ("  limits:\n    - active_series: 5", 3, "missing field `match`"),
            ("  limits:\n    - match: up", 3, "this limits nothing"),
            ("  limits:\n    - match: '{a=~\".*\"}'\n      active_series: 5", 3, "everything"),
            ("  limits:\n    - match: up{\n      active_series: 5", 3, "match: "),
            ("  limits:\n    - match: up\n      active_series: 0", 4, "leave the key out"),
            (
                "  limits:\n    - match: up\n      active_series: 5\n    - match: '{__name__=\"up\"}'\n      active_series: 6",
                5,
                "another limit of {__name__=\"up\"}",
            ),
        ] {
            let mistake = parse(&format!("cardinality:\n{lines}\n")).expect_err(lines);
            assert!(mistake.reason.contains(says), "{lines}\n{mistake}");
            assert_eq!(mistake.line, line, "{lines}\n{mistake}");
        }
        let many: String =
            (0..65).map(|i| format!("    - match: m{i}\n      active_series: 5\n")).collect();
        let mistake = parse(&format!("cardinality:\n  limits:\n{many}")).unwrap_err();
        assert!(mistake.reason.contains("at most 64") && mistake.line == 131, "{mistake}");
    }
}
