//! The configuration file: YAML, checked whole before any of it counts.
//!
//! A mistake is refused with its line and what would have been right, at the start and at a reload
//! alike; unknown keys are mistakes. What a section means is in the file of its name.

mod cardinality;
mod retention;
mod selector;

use std::path::Path;

use icecore_storage::retention::policy::Policies;
use icecore_storage::series_limits::SeriesLimit;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

pub use retention::Retention;
pub(crate) use retention::parse_budget;

/// Bytes of a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a configuration file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigFile {
    /// `None` without a section of this name.
    pub retention: Option<Retention>,
    /// None without a section `cardinality`.
    pub series_limits: Vec<SeriesLimit>,
}

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1; 0 if it has no place.
    pub line: u64,
    pub reason: String,
}

impl Mistake {
    fn at(location: Location, reason: impl Into<String>) -> Mistake {
        Mistake { line: location.line(), reason: reason.into() }
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.line, self.reason)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    #[serde(default)]
    retention: Option<Spanned<retention::Section>>,
    #[serde(default)]
    cardinality: Option<cardinality::Section>,
}

/// Reads and checks a file; an error begins with the file's name and the line.
pub fn read(path: &Path) -> anyhow::Result<ConfigFile> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?.len();
    if length > FILE_BYTES_MAX {
        anyhow::bail!("{shown}: a configuration has at most {FILE_BYTES_MAX} bytes");
    }
    let text = std::fs::read_to_string(path).map_err(|e| anyhow::anyhow!("{shown}: {e}"))?;
    parse(&text).map_err(|mistake| anyhow::anyhow!("{shown}:{mistake}"))
}

pub fn parse(text: &str) -> Result<ConfigFile, Mistake> {
    let sections: Option<Sections> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        Mistake { line, reason: plain(&error.without_snippet().to_string()) }
    })?;
    let sections = sections.unwrap_or_default();
    let retention = sections.retention.map(|section| retention::check(&section)).transpose()?;
    let series_limits = sections.cardinality.as_ref().map(cardinality::check).transpose()?;
    Ok(ConfigFile { retention, series_limits: series_limits.unwrap_or_default() })
}

/// What the file and the flag beside it come to.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub policies: Policies,
    pub series_limits: Vec<SeriesLimit>,
    /// What the file says that has no effect yet.
    pub without_effect: Vec<&'static str>,
}

impl Loaded {
    /// Logs what somebody may believe to be in force and is not.
    pub fn warn(&self) {
        for name in &self.without_effect {
            tracing::warn!("retention.{name} is checked and has no effect in this version");
        }
    }
}

/// The configuration of `--config.file` and `--storage.retention`, or the defaults.
pub fn load(file: Option<&Path>, retention_flag_ms: Option<i64>) -> anyhow::Result<Loaded> {
    let read = file.map(read).transpose()?.unwrap_or_default();
    let series_limits = read.series_limits;
    match (read.retention, retention_flag_ms, file) {
        (Some(_), Some(_), Some(file)) => anyhow::bail!(
            "--storage.retention and the section `retention` of {} say the same thing: leave one out",
            file.display()
        ),
        (Some(retention), ..) => {
            let Retention { policies, without_effect, .. } = retention;
            Ok(Loaded { policies, series_limits, without_effect })
        }
        (None, flag, _) => {
            let policies = flag.map_or_else(Policies::default, Policies::raw_only);
            Ok(Loaded { policies, series_limits, without_effect: Vec::new() })
        }
    }
}

/// The parser's words without the place, which stands before them already.
fn plain(text: &str) -> String {
    let first = text.lines().next().unwrap_or(text);
    let end = first.rfind(" at line ").unwrap_or(first.len());
    first[..end].trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_say_nothing() {
        for text in ["", "# nothing\n", "---\n", "{}"] {
            assert_eq!(parse(text), Ok(ConfigFile::default()), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for (text, line, says) in [
            ("retenion: {}\n", 1, "retenion"),
            ("retention:\n  metric: []\n", 2, "unknown field `metric`"),
            ("retention: {}\nretention: {}\n", 2, "duplicate"),
            ("\n\nretention: [\n", 3, ""),
            ("cardinality: [ { active_series: 5 } ]\n", 1, "mapping"),
            ("a: b: c\n", 1, ""),
            ("- retention\n", 1, ""),
        ] {
            let mistake = parse(text).expect_err(text);
            assert_eq!(mistake.line, line, "{text:?}: {mistake}");
            assert!(mistake.reason.contains(says), "{text:?}: {mistake}");
            assert!(!mistake.reason.is_empty() && !mistake.reason.contains("line"), "{mistake}");
        }
    }
}
