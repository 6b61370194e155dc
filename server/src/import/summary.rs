//! What became of an import: counts, what was refused and why, what was damaged.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use icecore_storage::import::Imported;

/// Counts of one run; what earlier runs have imported is only counted as skipped windows.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) elapsed: Duration,
    /// What samples are too old for that are refused.
    pub(super) kept: String,
    pub(super) windows: u64,
    /// Windows that the journal has.
    pub(super) skipped: u64,
    series: HashSet<u128>,
    pub(super) samples: u64,
    histograms: u64,
    exemplars: u64,
    /// Samples that tombstones cover.
    pub(super) deleted: u64,
    /// Rows by the reason, and the first series in words.
    refused: BTreeMap<String, (u64, String)>,
    bytes: u64,
    /// What is not as one might expect, and lost nothing.
    pub(super) notes: Vec<String>,
    /// What could not be imported: file, offset, what.
    pub(super) damaged: Vec<String>,
}

impl Summary {
    /// Counts rows that are not taken; `example` says of which series.
    pub(super) fn refuse(&mut self, rows: u64, why: &str, example: impl FnOnce() -> String) {
        if rows == 0 {
            return;
        }
        match self.refused.get_mut(why) {
            Some((total, _)) => *total += rows,
            None => {
                self.refused.insert(why.to_owned(), (rows, example()));
            }
        }
    }

    /// An empty one for a window, to be absorbed once that is done.
    pub(super) fn of_a_window(&self) -> Summary {
        Summary { kept: self.kept.clone(), ..Summary::default() }
    }

    /// Adds what was counted of one window.
    pub(super) fn absorb(&mut self, part: Summary) {
        self.windows += part.windows;
        self.series.extend(part.series);
        self.samples += part.samples;
        self.histograms += part.histograms;
        self.exemplars += part.exemplars;
        self.deleted += part.deleted;
        self.bytes += part.bytes;
        self.notes.extend(part.notes);
        self.damaged.extend(part.damaged);
        for (why, (rows, example)) in part.refused {
            self.refuse(rows, &why, || example);
        }
    }

    /// A window is in the database; `series` are the identities of those that had samples.
    pub(super) fn add(&mut self, imported: &Imported, series: Vec<u128>) {
        self.windows += 1;
        if imported.series > 0 {
            self.series.extend(series);
        }
        self.samples += imported.samples;
        self.histograms += imported.histograms;
        self.exemplars += imported.exemplars;
        self.bytes += imported.bytes;
        self.refuse_times(imported.too_old, imported.too_new);
        let why = "exemplars of series without samples around them, or out of the retention";
        self.refuse(imported.exemplars_refused, why, String::new);
    }

    /// Counts samples before the retention and after the clock.
    pub(super) fn refuse_times(&mut self, too_old: u64, too_new: u64) {
        let why = format!("older than {}", self.kept);
        self.refuse(too_old, &why, String::new);
        self.refuse(too_new, "more than 10 minutes in the future", String::new);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Imported {} windows in {:.1?}.", self.windows, self.elapsed)?;
        let mut line =
            |name: &str, count: u64, what: &str| writeln!(f, "  {name:<11}{count}{what}");
        line("series", self.series.len() as u64, "")?;
        line("samples", self.samples, "")?;
        line("histograms", self.histograms, "")?;
        line("exemplars", self.exemplars, "")?;
        line("deleted", self.deleted, " (samples under tombstones)")?;
        line("skipped", self.skipped, " (windows that were imported before)")?;
        line("bytes", self.bytes, " (of blocks)")?;
        line("refused", self.refused.values().map(|(rows, _)| rows).sum(), "")?;
        for (why, (rows, example)) in &self.refused {
            let of = if example.is_empty() { String::new() } else { format!(", as {example}") };
            writeln!(f, "    {rows}: {why}{of}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))?;
        self.damaged.iter().try_for_each(|damage| writeln!(f, "  damaged: {damage}"))
    }
}
