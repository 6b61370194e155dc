//! How far an import has come: by windows, since nobody knows how many samples there will be.

use std::time::Duration;

use icecore_storage::time::TimeRange;

use crate::http::time::format_rfc3339;
use crate::progress::{StatusLine, bar};

#[derive(Debug)]
pub(super) struct Progress {
    status: StatusLine,
    windows: Windows,
}

#[derive(Debug)]
struct Windows {
    count: usize,
    /// The window at work, from 1.
    at: usize,
    range: TimeRange,
    /// Samples read in this run, those of windows that are not done included.
    samples: u64,
    /// Windows of earlier runs.
    skipped: u64,
}

impl Progress {
    pub(super) fn start(windows: usize) -> Progress {
        let range = TimeRange::default();
        let windows = Windows { count: windows, at: 0, range, samples: 0, skipped: 0 };
        Progress { status: StatusLine::new(), windows }
    }

    pub(super) fn window(&mut self, range: TimeRange, skipped: u64) {
        self.windows.at += 1;
        self.windows.skipped = skipped;
        self.windows.range = range;
        self.status.show_if_due(|elapsed| self.windows.text(elapsed));
    }

    pub(super) fn read(&mut self, samples: usize) {
        self.windows.samples += samples as u64;
        // A look at the clock for each of many tiny series is still far below what they cost.
        self.status.show_if_due(|elapsed| self.windows.text(elapsed));
    }

    pub(super) fn finish(self) {
        let text = self.windows.text(self.status.elapsed());
        self.status.finish(&text);
    }
}

impl Windows {
    fn text(&self, elapsed: Duration) -> String {
        let bar = bar(self.at as f64 / self.count.max(1) as f64);
        let per_second = self.samples as f64 / elapsed.as_secs_f64().max(0.001);
        let mut text = format!(
            "importing {bar} window {} of {} ({}), {} samples read, {per_second:.0}/s",
            self.at,
            self.count,
            name_of(self.range),
            self.samples,
        );
        if self.skipped > 0 {
            text.push_str(&format!(", {} windows done before", self.skipped));
        }
        text
    }
}

/// A window in words: the day, or the hour at which it starts.
pub(super) fn name_of(range: TimeRange) -> String {
    let start = format_rfc3339(range.start_ms);
    let length = if range.end_ms - range.start_ms < super::DAY_MS - 1 { 16 } else { 10 };
    start.get(..length).unwrap_or(&start).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let range = TimeRange::new(0, super::super::DAY_MS - 1);
        let windows = Windows { count: 4, at: 2, range, samples: 3000, skipped: 1 };
        let bar = format!("{}{}", "█".repeat(15), "░".repeat(15));
        let line = "window 2 of 4 (1970-01-01), 3000 samples read, 1500/s, 1 windows done before";
        assert_eq!(windows.text(Duration::from_secs(2)), format!("importing {bar} {line}"));
    }
}
